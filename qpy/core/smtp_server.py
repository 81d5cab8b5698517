"""One SMTP session, seen from the server: bytes in, replies and events out (RFC 5321, 1870, 2034, 2920,
6152, 3207).

    session = Session(policy, client, beside)
    session.receive(data); event = session.next(); ...; session.output()

`next` obeys what has come until something is needed from outside, and says what (core.smtp_words); None: more input.
While an answer is due, next() gives None; pipelined input waits, so that replies keep the order of the
commands. `notes` collects what was refused, as (what, reply, sender, recipient), for the log. After a lone CR
or LF in the text the session closes: what follows could be a second message smuggled in
(https://www.rfc-editor.org/rfc/rfc5321 2.3.8).
"""
from qpy.core import (address as addresses, asking, esmtp, etrn, idna, mess, proxy, received, smtp_chunks, smtp_data, smtp_login,
                      smtp_policy, smtp_replies as replies, submission, text)
from qpy.core.smtp_words import (ASK, BODY, CHECK, CHUNKS, CLOSE, DROP, ETRN, IDLE, NEED, RECIPIENT, SENDER, START, SUBMIT, TLS,
                                 WHOSE, XCLIENT)
from qpy.core.smtp_policy import Beside

LINE_MAX = 2048             # bytes of a command line with its CR LF; RFC 5321 4.5.3.1.4 asks for 512 and more
HELO_MAX = 255              # bytes kept of a HELO argument
HOPS_MAX = 100              # qmail's
ERRORS_MAX = 20             # commands that make no sense, per session
REFUSED_MAX = 100           # refused recipients, and ETRN, between two accepted messages
IDLE_MAX = 1000             # commands between two accepted messages that are not part of one

_EIGHT_BIT = bytes(range(128, 256))


class Session:
    """See the top of the module."""

    __slots__ = ('policy', 'client', 'beside', 'tls', 'login', 'mechanism', 'failures', 'input', 'at', 'replies', 'notes',
                 'clock', 'waiting', 'closed', 'skipping', 'state', 'helo', 'protocol', 'sender', 'recipients', 'body', 'decoder',
                 'verdict', 'checking', 'errors', 'refused', 'idle', 'limit', 'size', 'hold', 'fields', 'asking', 'banned',
                 'completion', 'wishes', 'personal', 'now', 'chunks', 'left', 'last', 'skip', 'asked', 'verifying', 'node',
                 'transactions', 'held', 'claim', 'claims', 'stored')

    def __init__(self, policy, client, beside=Beside()):
        self.policy, self.client, self.beside = policy, client, beside
        self.tls, self.login = None, b''    # core.tls_front.Tls once that protects us; who has logged in
        self.mechanism, self.failures = b'', 0      # of the login that goes on; logins that failed
        self.input, self.at = b'', 0        # what came, and how much of it is done with
        self.replies, self.notes = [], []
        self.waiting = self.closed = self.skipping = False
        self.helo, self.protocol = b'', b'SMTP'
        self.decoder = self.completion = None       # not None: in the text of a message
        self.verdict = b''                  # the reply that its end will get whatever comes, if it is refused
        self.checking, self.banned = b'', b''   # banned: the reply that MAIL gets since HELO was refused
        self.asking = None                  # (stage, what follows) while it is judged
        self.chunks, self.left, self.last, self.skip = None, 0, False, 0    # of BDAT: decoder, bytes to come, and to drop
        self.verifying = self.node = b''    # what VRFY asks about, and ETRN
        self.clock = self.now = 0           # unix time at which something came last; at which the text began
        self.errors = self.refused = self.idle = 0
        self.transactions = 0               # MAIL commands that made sense
        self.claim, self.claims, self.stored = b'', set(), b''  # what WHOSE asks about, and will; what goes to the queue then
        self.held = b''                     # why all messages are to be held, said before the first
        self.recognise(client)
        self.reset()

    # From the driver.

    def recognise(self, client) -> None:
        """This is the client, as is known now."""
        self.client = client
        wanted = self.policy.databytes if client.databytes is None else client.databytes
        self.limit = min(wanted or mess.MESSAGE_LIMIT, mess.MESSAGE_LIMIT)      # the queue takes no more

    def receive(self, data: bytes, now: int = 0) -> None:
        """Take bytes from the client, which came at this unix time."""
        self.clock = now
        self.input, self.at = (self.input[self.at:] + data if self.at < len(self.input) else data), 0

    def buffered(self) -> int:
        """Bytes that wait to be obeyed."""
        return len(self.input) - self.at

    def output(self) -> bytes:
        """The replies so far, each ended with CR LF; they are forgotten here."""
        if not self.replies:
            return b''
        said, self.replies = self.replies, []
        return b'\r\n'.join(said) + b'\r\n'

    def banner(self) -> None:
        """Greet the client."""
        self.replies.append(b'220 ' + self.policy.greeting + b' ESMTP')

    def arrived(self) -> 'tuple | None':
        """The client is there, and may be greeted; returns an event of its own or None."""
        return self.judge(asking.CONNECT, self.banner)

    def hang_up(self, reply: bytes, reason: bytes = b'') -> None:
        """Say a last sentence (a 421, or replies.DENIED); the driver closes."""
        self.refuse(b'session', reply, b'', reason)
        self.closed = True

    def next(self):
        """The next event, or None: see the top of the module."""
        while not (self.waiting or self.closed):
            event = self.step() if self.decoder is None else self.text()
            if event is NEED:
                return None
            if event is not None:
                return event
        return None

    # What others judge.

    def judge(self, stage, then):
        """Go on with `then`; where somebody is to be asked at this stage, when he has nothing against it."""
        if stage not in self.policy.stages or not self.client.judged:
            return then()
        self.asking, self.waiting = (stage, then), True
        return ASK, stage

    def judged(self, reply: bytes = b'', reason: bytes = b'', hold: bytes = b'', fields: tuple = ()) -> 'tuple | None':
        """The answer to ASK: a reply that refuses, and the reason for the log; or nothing, and perhaps why the message
        is to be held, and lines for its top. Returns an event of its own or None."""
        (stage, then), self.asking, self.waiting = self.asking, None, False
        self.hold = self.hold or hold
        if stage in (asking.CONNECT, asking.HELO):
            self.held = self.hold
        self.fields = list(dict.fromkeys([*self.fields, *fields]))[:asking.FIELDS_MOST]
        if reply[:3] == b'421':
            return self.leave(reply, reason)
        return REFUSALS[stage](self, reply, reason) if reply else then()

    def refuse_connection(self, reply, reason):
        """Instead of the greeting."""
        return self.leave(reply, reason)

    def refuse_helo(self, reply, reason):
        """And every MAIL until there is a better one."""
        self.banned = reply
        return self.refuse(b'helo', reply, b'', reason)

    def refuse_mail(self, reply, reason):
        """The transaction does not begin."""
        self.refuse(b'mail', reply, b'', reason)
        return self.reset()

    def refuse_rcpt(self, reply, reason):
        """This recipient."""
        address, self.checking = self.checking, b''
        return self.refuse_recipient(reply, address, reason)

    def refuse_data(self, reply, reason):
        """The transaction is over before the text."""
        self.refuse(b'data', reply, b'', reason)
        self.skip, self.left = self.left, 0
        return self.reset()

    # Commands.

    def step(self):
        """Obey one command line."""
        if self.skip:
            dropped = min(self.skip, self.buffered())
            self.at, self.skip = self.at + dropped, self.skip - dropped
            if self.skip:
                return NEED
        end = self.input.find(b'\n', self.at)
        if end < 0:
            return self.incomplete() if self.at < len(self.input) else NEED
        line, self.at = self.input[self.at:end + 1], end + 1
        if self.skipping:
            self.skipping = False
            return None
        if self.mechanism:
            return smtp_login.respond(self, line)
        if len(line) > self.longest(line):
            return self.error(b'command', replies.LINE_LONG)
        if line[-2:] != b'\r\n' and not self.client.bare_lf:
            return self.error(b'command', replies.LINE_BARE)
        return self.obey(line[:-1].removesuffix(b'\r').rstrip(b' \t'))

    def incomplete(self):
        """A line that has not ended yet: is it too long already?"""
        if self.skipping or self.buffered() >= self.longest(self.input[self.at:self.at + 5]):
            self.input, self.at = b'', 0
            if not self.skipping:
                self.skipping = True
                return self.error(b'command', replies.LINE_LONG)
        return NEED

    def longest(self, line):
        """Bytes that a line that begins so may have: a login may be long."""
        login = self.mechanism or line[:5].upper() == b'AUTH '
        return smtp_login.LINE_MAX if login and self.beside.mechanisms else LINE_MAX

    def obey(self, line):
        """One command line without its end."""
        verb, _, argument = line.partition(b' ')
        verb = verb.upper()
        command = COMMANDS.get(verb)
        if not text.is_printable(line) and not (command and command[0](verb, line)):
            return self.error(b'command', replies.LINE_BYTES)
        if command is None:
            return self.error(b'command', replies.UNKNOWN if line else replies.LINE_EMPTY)
        if self.chunks is not None and verb in (b'RSET', b'HELO', b'EHLO'):
            self.input, self.at, self.chunks = line + b'\r\n' + self.input[self.at:], 0, None
            return DROP, None               # and then obey it
        _, method, allowed = command
        refusal = allowed[self.state]
        if self.client.force_tls and self.tls is None and verb not in IN_THE_CLEAR:
            refusal = replies.TLS_FIRST
        if refusal:
            return self.error(verb.lower(), refusal)
        return method(self, argument.lstrip(b' '))

    def reply(self, line):
        """One reply; no event."""
        self.replies.append(line)

    def refuse(self, what, reply, recipient=b'', reason=b''):
        """Refuse one thing, and note it for the log, with a reason that the client is not told."""
        self.replies.append(reply)
        self.notes.append((what, reply + b' (%s)' % reason if reason else reply, self.sender, recipient))

    def error(self, what, reply, recipient=b''):
        """Refuse something that makes no sense; a client that keeps doing so is left."""
        self.refuse(what, reply, recipient)
        self.errors += 1
        return self.leave(replies.TOO_MANY_ERRORS) if self.errors >= ERRORS_MAX else None

    def leave(self, reply, reason=b''):
        """Close the connection on the client."""
        self.hang_up(reply, reason)
        return CLOSE, None

    def reset(self):
        """No transaction."""
        self.state, self.sender, self.recipients, self.body = IDLE, b'', [], b''
        self.wishes, self.personal = {}, []     # parameters of MAIL; what stood behind each recipient, for the envelope
        self.chunks = None
        self.size, self.hold = b'', self.held   # what MAIL declared; why the message is to be held in the queue
        self.fields = []                    # lines that others want on top of it

    def count_idle(self, reply):
        """A command that brings no message nearer."""
        self.reply(reply)
        self.idle += 1
        return self.leave(replies.TOO_MANY_COMMANDS) if self.idle > IDLE_MAX else None

    def do_helo(self, argument):
        """RFC 5321 4.1.1.1"""
        self.reset()
        self.helo, self.protocol, self.banned = argument[:HELO_MAX], b'SMTP', b''
        return self.judge(asking.HELO, lambda: self.count_idle(b'250 ' + self.policy.greeting))

    def do_ehlo(self, argument):
        """RFC 5321 4.1.1.1"""
        self.reset()
        self.helo, self.protocol, self.banned = argument[:HELO_MAX], b'ESMTP', b''
        return self.judge(asking.HELO, self.greet)

    def greet(self):
        """What this server can do."""
        event = self.count_idle(b'')
        if event is None:
            offered = (self.policy.greeting, *esmtp.lines(self))
            self.replies[-1] = b'\r\n'.join(b'250-' + line for line in offered[:-1]) + b'\r\n250 ' + offered[-1]
        return event

    def do_starttls(self, argument):
        """RFC 3207 4. Whatever came behind it in the clear would be taken for what came under TLS (CVE-2011-0411)."""
        if argument:
            return self.error(b'starttls', replies.NO_ARGUMENT)
        if self.tls is not None or self.beside.tls is None:
            return self.error(b'starttls', replies.UNKNOWN if self.tls is None else replies.TLS_ALREADY)
        if self.buffered():
            return self.leave(replies.TLS_FOLLOWED)
        self.waiting = True
        return TLS, None

    def do_mail(self, argument):
        """RFC 5321 4.1.1.2"""
        if self.client.force_auth and not self.login:
            return self.error(b'mail', replies.AUTH_FIRST)
        try:
            utf8 = self.client.whole and b'SMTPUTF8' in argument.upper().split(b' ')[1:]
            sender, rest = addresses.parse_path(after(b'FROM:', argument), utf8 and idna.domain)
        except addresses.AddressError as problem:
            return self.error(b'mail', path_reply(problem, replies.MAIL_SYNTAX))
        parameters, refusal = esmtp.parameters(self, rest, esmtp.OF_MAIL)
        if refusal:
            return self.error(b'mail', refusal)
        if self.banned:
            return self.refuse(b'mail', self.banned)
        if int(parameters.get(b'SIZE', b'0')) > self.limit:
            return self.refuse(b'mail', replies.TOO_BIG)
        self.sender, self.size = smtp_policy.local_name(self.policy, self.client, sender), parameters.get(b'SIZE', b'')
        self.body, self.wishes = parameters.get(b'BODY', b'').upper(), parameters
        senders = self.policy.senders if self.login else None
        claim = b'' if senders is None else senders.claim(self.login, self.sender)
        return self.ask_whose(claim) if claim else self.sender_owned(claim is not None)

    def sender_owned(self, his):
        """Whether the sender is his who has logged in is known, or (None) cannot be."""
        if not his:
            return self.refuse_mail(replies.WHOSE_TROUBLE if his is None else replies.NOT_YOURS, b'')
        self.transactions += 1
        return self.judge(asking.MAIL, self.take_sender)

    def take_sender(self):
        """A transaction begins."""
        self.state = SENDER
        return self.reply(b'250 2.1.0 ok')

    def do_rcpt(self, argument):
        """RFC 5321 4.1.1.3"""
        try:
            address, rest = addresses.parse_path(after(b'TO:', argument), b'SMTPUTF8' in self.wishes and idna.domain)
        except addresses.AddressError as problem:
            return self.error(b'rcpt', path_reply(problem, replies.RCPT_SYNTAX))
        if not address or address == addresses.DOUBLE_BOUNCE:
            return self.error(b'rcpt', replies.RCPT_SYNTAX)
        wishes, refusal = esmtp.parameters(self, rest, esmtp.OF_RCPT)
        if refusal:
            return self.error(b'rcpt', refusal, address)
        self.asked = esmtp.of_rcpt(wishes)
        address = smtp_policy.local_name(self.policy, self.client, address) + (self.client.relay or b'')
        refusal = smtp_policy.recipient_refusal(self, address)
        if refusal:
            return self.refuse_recipient(refusal, address)
        self.checking, self.waiting = address, True
        return CHECK, address

    def refuse_recipient(self, reply, address, reason=b''):
        """One recipient is refused; too many in a row end the session."""
        self.refuse(b'rcpt', reply, address, reason)
        self.refused += reply[:1] == b'5'
        return self.leave(replies.TOO_MANY_ERRORS) if self.refused >= REFUSED_MAX else None

    def do_data(self, argument):
        """RFC 5321 4.1.1.4"""
        if argument:
            return self.error(b'data', replies.NO_ARGUMENT)
        return self.judge(asking.DATA, self.start)

    def start(self):
        """Is there somewhere to put a message?"""
        self.waiting = True
        return START, None

    def do_rset(self, argument):
        """RFC 5321 4.1.1.5"""
        self.reset()
        return self.count_idle(b'250 2.0.0 flushed')

    def do_noop(self, argument):
        """RFC 5321 4.1.1.9"""
        return self.count_idle(b'250 2.0.0 ok')

    def do_vrfy(self, argument):
        """RFC 5321 3.5.3, RFC 6531 3.7.4.2: says something to those whose mail goes anywhere, and nothing about anybody to
        others."""
        utf8 = self.client.whole and argument.upper().endswith(b' SMTPUTF8')
        try:
            address, rest = addresses.parse_path(argument, utf8 and idna.domain) if self.trusted() and argument else (b'', b'')
        except addresses.AddressError as problem:
            return self.error(b'vrfy', path_reply(problem, replies.RCPT_SYNTAX))
        if rest and not (utf8 and rest.upper() == b'SMTPUTF8'):
            return self.error(b'vrfy', replies.RCPT_SYNTAX)
        if not address or smtp_policy.stranger_refusal(self.policy, address):
            return self.count_idle(replies.NOT_VERIFIED)
        self.verifying, self.waiting = address, True
        return CHECK, address

    def verified(self, verdict):
        """The answer to VRFY."""
        address, self.verifying = self.verifying, b''
        if verdict == b'no':
            return self.refuse_recipient(replies.NO_MAILBOX, address)
        mailbox = addresses.quote(smtp_policy.with_host(self.policy, address))       # whole: RFC 5321 3.5.2
        return self.count_idle(b'250 2.1.5 <%s>' % mailbox if verdict == b'yes' else replies.NOT_VERIFIED)

    def do_etrn(self, argument):
        """RFC 1985, 5"""
        if not self.policy.etrn:
            return self.error(b'etrn', replies.UNKNOWN)
        if self.client.force_auth and not self.login:
            return self.error(b'etrn', replies.AUTH_FIRST)
        try:
            etrn.permit(argument, self.policy.etrn)
        except ValueError:
            return self.error(b'etrn', replies.ETRN_SYNTAX)
        except etrn.Unknown as refusal:
            return self.error(b'etrn', replies.ETRN_NOT_ALLOWED % (argument, refusal.args[0]))
        self.node, self.waiting = argument, True
        return ETRN, argument

    def hurried(self, count: int, reason: bytes = b'') -> 'tuple | None':
        """The answer to ETRN: so many messages are tried; with a reason they were a moment ago, and are not again.  Whether any
        wait is told to those whose mail goes anywhere.  Returns an event of its own or None."""
        if reason and self.trusted():
            return self.not_hurried(reason)
        node, self.node, self.waiting = self.node, b'', False
        told = replies.ETRN_STARTED % (count, node) if count else replies.ETRN_NOTHING % node
        self.reply(told if self.trusted() else replies.ETRN_ASKED % node)
        self.refused += 1                   # each has cost a question
        return self.leave(replies.TOO_MANY_COMMANDS) if self.refused >= REFUSED_MAX else None

    def not_hurried(self, reason: bytes) -> 'tuple | None':
        """The other answer: not now. Returns an event of its own or None."""
        node, self.node, self.waiting = self.node, b'', False
        return self.error(b'etrn', replies.ETRN_LATER % (node, reason))

    def do_help(self, argument):
        """RFC 5321 4.1.1.8"""
        return self.count_idle(b'214 2.0.0 qpy: see qpy-smtpd(8)')

    def do_quit(self, argument):
        """RFC 5321 4.1.1.10"""
        self.reply(b'221 2.0.0 ' + self.policy.greeting)
        self.closed = True
        return CLOSE, None

    def do_xclient(self, argument):
        """Postfix's XCLIENT_README: somebody who may says who his own client is."""
        if not self.client.may_speak:
            return self.error(b'xclient', replies.XCLIENT_NONE)
        try:
            told = proxy.parse_xclient(argument)
        except ValueError:
            return self.error(b'xclient', replies.XCLIENT_SYNTAX)
        self.waiting = True
        return XCLIENT, told

    def introduced(self, client, told: dict) -> 'tuple | None':
        """The answer to XCLIENT: this is the client now, and the session begins anew. Returns an event of its own or
        None."""
        self.waiting, self.held = False, b''
        self.recognise(client)
        self.reset()
        self.helo = told.get(b'HELO', self.helo)[:HELO_MAX]
        self.protocol = b'ESMTP' if told.get(b'PROTO', b'').upper() == b'ESMTP' else b'SMTP'
        self.login = text.lower(told.get(b'LOGIN', self.login))
        return self.arrived()

    # Answers to TLS.

    def tls_begun(self) -> None:
        """The client may begin his handshake when he has read this; until secured() nothing is heard."""
        self.reply(replies.TLS_READY)

    def tls_refused(self) -> None:
        """Not now: the session goes on in the clear."""
        self.waiting = False
        self.refuse(b'starttls', replies.TLS_NONE)

    def secured(self, tls) -> None:
        """TLS protects us: nothing that was said before counts (RFC 3207 4.2)."""
        self.waiting, self.tls, self.login = False, tls, b''
        self.input, self.at = b'', 0
        self.helo, self.protocol = b'', b'SMTP'
        self.reset()

    def trusted(self):
        """May mail from this client go anywhere?"""
        return self.client.relay is not None or self.login != b''

    challenged, authenticated = smtp_login.challenged, smtp_login.authenticated
    not_authenticated = smtp_login.not_authenticated        # ... to AUTH and RESPONSE

    # Answers to CHECK.

    def recipient(self, verdict: bytes) -> 'tuple | None':
        """The answer to CHECK: yes, unknown (both accepted), no, temp. Returns an event of its own or
        None."""
        self.waiting = False
        if self.verifying:
            return self.verified(verdict)
        if verdict in (b'no', b'temp'):
            return self.refuse_rcpt(replies.NO_MAILBOX if verdict == b'no' else replies.LOOKUP_TROUBLE, b'')
        return self.judge(asking.RCPT, self.take_recipient)

    def take_recipient(self):
        """The recipient is accepted."""
        address, self.checking = self.checking, b''
        self.recipients.append(address)
        self.personal.append(self.asked)
        self.state = RECIPIENT
        return self.reply(b'250 2.1.5 ok')

    # The text.

    def begin(self, date: bytes, ident: bytes = b'', now: int = 0) -> bytes:
        """The answer to START: go ahead. Returns the header that the message begins with in the queue. ident: for a
        Message-ID, if the message of somebody who has logged in has none; now: unix time."""
        kind = smtp_data.LooseDecoder if self.client.bare_lf == b'all' else smtp_data.Decoder
        self.decoder, self.verdict, self.waiting, self.now = kind(self.limit), b'', False, now
        if self.state == CHUNKS:
            self.decoder = self.chunks = smtp_data.Chunks(self.limit)
        else:
            self.reply(b'354 go ahead')
        client = self.client
        tls = b'%s %s' % (self.tls.version, self.tls.cipher) if self.tls else b''
        tls += b', certificate of ' + received.safe(self.tls.name) if self.tls and self.tls.name else b''
        self.claims = set()
        self.completion = submission.Completion(submission.wanted(date, ident, self.sender) if self.login else None,
                                                self.policy.his(self.login, self.claims))
        top = b''.join(line + b'\n' for line in self.fields)
        if self.login and client.hidden:
            return top + received.hidden(client.local, self.spoken(), date, tls)
        return top + received.line(client.name, self.helo, client.info, client.ip, client.local, self.spoken(), date, tls)

    def spoken(self):
        """The protocol, as in Received (RFC 3848)."""
        if self.protocol == b'SMTP':
            return self.protocol
        said = b'UTF8SMTP' if b'SMTPUTF8' in self.wishes else self.protocol
        return said + (b'S' if self.tls else b'') + (b'A' if self.login else b'')

    def refuse_text(self, reply: bytes) -> None:
        """The other answer to START: not now. The transaction is over."""
        self.waiting = False
        self.refuse(b'data', reply)
        self.skip, self.left = self.left, 0
        self.reset()

    def text(self):
        """Decode what came of the text."""
        if self.chunks is not None:
            return smtp_chunks.read(self)
        data, self.input, self.at = self.input[self.at:], b'', 0
        if not data:
            return NEED
        decoder = self.decoder
        stored, rest = decoder.feed(data)
        if decoder.fault:
            return self.smuggled(decoder.fault)
        stored = self.completion.feed(stored) + (b'' if rest is None else self.completion.finish())
        if self.verdict or self.bad_text(decoder):
            return self.spoilt(rest)
        if rest is None:
            return (BODY, stored) if stored else None
        self.input, self.decoder, self.waiting = rest, None, True
        return self.submit(stored)

    def submit(self, stored):
        """All of the text is there: queue it, once each address in From and Sender is known to be his."""
        if not self.claims:
            return SUBMIT, stored
        self.stored = stored
        return self.ask_whose(self.claims.pop())

    def text_owned(self, his, claim):
        """One of these is, or is not, or (None) cannot be looked up; or the message has failed meanwhile."""
        stored, self.stored = self.stored, b''
        if his and not self.verdict:
            self.waiting = True
            return self.submit(stored)
        refusal = self.verdict or (replies.WHOSE_TROUBLE if his is None else replies.FROM_NOT_YOURS)
        self.refuse(b'message', refusal, b'', text.logsafe(claim))
        self.reset()
        return DROP, None

    # Answers to WHOSE.

    def ask_whose(self, local):
        """Is this local part his who has logged in, or another user's?"""
        self.claim, self.waiting = local, True
        return WHOSE, local

    def owned(self, his) -> 'tuple | None':
        """The answer: True, False, or None if it cannot be looked up now.  Returns an event of its own or None."""
        claim, self.claim, self.waiting = self.claim, b'', False
        return self.sender_owned(his) if self.state == IDLE else self.text_owned(his, claim)

    def handed_over(self) -> bool:
        """Is all of the message the queue's, so that its word is waited for?"""
        return self.waiting and not self.claim

    def bad_text(self, decoder):
        """The reply that refuses a text, by what came of it; b'' if none."""
        if decoder.hops >= HOPS_MAX:
            return replies.LOOPING
        if self.completion.foreign:
            return replies.FROM_NOT_YOURS
        return replies.TOO_BIG if decoder.size > self.limit else b''

    def spoil(self, report: bytes) -> None:
        """The message failed while its text still comes: a report of the queue, to be said at its end."""
        self.verdict = replies.report_reply(report)

    def spoilt(self, rest):
        """The message is refused, and its text is read to the end before that is said (once more than enough
        came, the connection is closed instead)."""
        first, decoder = not self.verdict, self.decoder
        self.verdict = self.verdict or self.bad_text(decoder)
        if rest is not None:
            self.input, self.decoder = rest, None
            self.refuse(b'message', self.verdict, b'', text.logsafe(self.completion.foreign))
            self.reset()
        elif decoder.size > self.limit + smtp_chunks.DRAIN_MAX:
            self.decoder = None
            return self.leave(self.verdict)
        return (DROP, None) if first else None

    def smuggled(self, fault):
        """RFC 5321 2.3.8: such a text is refused, and nothing behind it is read."""
        self.decoder = self.chunks = None
        self.input = b''
        lenient = fault == smtp_data.LF and self.client.bare_lf == b'451'
        self.refuse(b'message', replies.BARE_LF_TEMPORARY if lenient else replies.BARE[fault])
        self.closed = True
        return CLOSE, None

    # Answers to SUBMIT.

    def queued(self, now: int, pid: int) -> None:
        """The message is in the queue for good."""
        self.waiting = False
        self.errors = self.refused = self.idle = 0
        self.reply(b'250 2.0.0 ok %d qp %d' % (now, pid))
        self.reset()

    def failed(self, report: bytes) -> None:
        """The message is not in the queue: a report of the queue, `D...` never or `Z...` later."""
        self.waiting = False
        self.refuse(b'message', replies.report_reply(report))
        self.reset()

    def options(self) -> list:
        """[(letter, value)] of the envelope beside sender and recipients."""
        client = self.client
        found = [(b'P', self.spoken()), (b'C', received.safe(client.ip)), (b'c', received.safe(client.name)),
                 (b'H', received.safe(self.helo)), (b'B', self.body), (b'h', self.hold), (b'L', self.login)]
        found = [(letter, value) for letter, value in found if value] + esmtp.of_mail(self.wishes, self.now)
        return found


def after(word, argument):
    """What follows `FROM:` or `TO:`, which `<` may stand without, as for qmail; AddressError if that is not there."""
    if argument[:1] == b'<':
        return argument
    if argument[:len(word)].upper() != word:
        raise addresses.AddressError(addresses.SYNTAX)
    return argument[len(word):].lstrip(b' ')


def path_reply(problem, syntax):
    """The reply to an address that cannot be taken."""
    return replies.NEEDS_UTF8 if problem.kind == addresses.EIGHT_BIT else syntax


def never(verb, line):
    """No strange bytes in this command."""
    return False


def always(verb, line):
    """A HELO may hold anything: it is shown made safe, and never used."""
    return True


def eight_bit(verb, line):
    """8-bit characters, but no control characters: an address that gets an answer of its own."""
    return text.is_printable(line.translate(None, _EIGHT_BIT))


REFUSALS = {asking.CONNECT: Session.refuse_connection, asking.HELO: Session.refuse_helo,
            asking.MAIL: Session.refuse_mail, asking.RCPT: Session.refuse_rcpt, asking.DATA: Session.refuse_data}

# verb: (may the line hold bytes that are not printable ASCII, what to do,
#        the refusal in each state: no transaction, MAIL accepted, recipient accepted, BDAT begun)
COMMANDS = {
    b'HELO': (always, Session.do_helo, (b'', b'', b'', b'')),
    b'EHLO': (always, Session.do_ehlo, (b'', b'', b'', b'')),
    b'MAIL': (eight_bit, Session.do_mail, (b'', replies.NESTED, replies.NESTED, replies.NESTED)),
    b'RCPT': (eight_bit, Session.do_rcpt, (replies.MAIL_FIRST, b'', b'', replies.BDAT_BEGUN)),
    b'DATA': (never, Session.do_data, (replies.MAIL_FIRST, replies.RCPT_FIRST, b'', replies.BDAT_BEGUN)),
    b'BDAT': (never, smtp_chunks.begin, (b'', b'', b'', b'')),
    b'RSET': (never, Session.do_rset, (b'', b'', b'', b'')),
    b'NOOP': (never, Session.do_noop, (b'', b'', b'', b'')),
    b'VRFY': (eight_bit, Session.do_vrfy, (b'', b'', b'', b'')),
    b'ETRN': (never, Session.do_etrn, (b'', replies.NESTED, replies.NESTED, replies.NESTED)),
    b'HELP': (never, Session.do_help, (b'', b'', b'', b'')),
    b'QUIT': (never, Session.do_quit, (b'', b'', b'', b'')),
    b'STARTTLS': (never, Session.do_starttls, (b'', b'', b'', replies.BDAT_BEGUN)),
    b'XCLIENT': (never, Session.do_xclient, (b'', replies.NESTED, replies.NESTED, replies.NESTED)),
    b'AUTH': (never, smtp_login.begin, (b'', replies.AUTH_LATE, replies.AUTH_LATE, replies.AUTH_LATE)),
}
IN_THE_CLEAR = (b'EHLO', b'HELO', b'STARTTLS', b'NOOP', b'RSET', b'HELP', b'QUIT',    # whatever is forced
                b'BDAT')        # ... (RFC 3207 4); this one has no MAIL before it, and reads what follows it
