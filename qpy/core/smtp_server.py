"""One SMTP session, seen from the server: bytes in, replies and events out (RFC 5321, 1870, 2034, 2920,
6152, 3207).

    session = Session(policy, client, beside)
    session.receive(data); event = session.next(); ...; session.output()

`next` obeys what has come until something is needed from outside, and says what; None: more input.

    (ASK, stage)       has anybody to say something now?       answer: judged(reply, reason, hold, fields)
    (CHECK, address)   may this recipient have mail?           answer: recipient(verdict)
    (START, None)      DATA: can a message be taken?           answer: begin(date), or refuse_text
    (BODY, bytes)      stored form of a part of the text       (no answer)
    (SUBMIT, bytes)    the last part: queue it now             answer: queued(time, pid), or failed(text)
    (DROP, None)       the message will not be: forget it      (no answer)
    (TLS, None)        STARTTLS: can that be had?              answer: tls_begun() and then secured(tls), or tls_refused()
    (AUTH, (mechanism, response or None))   a login begins     answer: challenged(base64), authenticated(login),
    (RESPONSE, base64)  a step of it                           ... or not_authenticated(later, reason)
    (CANCEL, None)     it is not wanted any more               (no answer)
    (XCLIENT, {NAME: value})    the client is another one      answer: introduced(client, attributes), or hang_up
    (CLOSE, None)      send what output() gives, then close    (no answer; nothing follows)

While an answer is due, next() gives None; pipelined input waits, so that replies keep the order of the
commands. `notes` collects what was refused, as (what, reply, sender, recipient), for the log. After a lone CR
or LF in the text the session closes: what follows could be a second message smuggled in
(https://www.rfc-editor.org/rfc/rfc5321 2.3.8).
"""
from qpy.core import address as addresses, asking, badhelo, cdb, esmtp, idna, mess, proxy, received, smtp_data, submission, text

ASK, CHECK, START, BODY, SUBMIT, DROP, CLOSE = 'ask', 'check', 'start', 'body', 'submit', 'drop', 'close'
TLS, AUTH, RESPONSE, CANCEL, XCLIENT = 'tls', 'auth', 'response', 'cancel', 'xclient'

LINE_MAX = 2048             # bytes of a command line with its CR LF; RFC 5321 4.5.3.1.4 asks for 512 and more
AUTH_MAX = 12288            # the same in a login (RFC 4954 4)
LOGINS_MAX = 3              # failed logins, per session
HELO_MAX = 255              # bytes kept of a HELO argument
HOPS_MAX = 100              # qmail's
ERRORS_MAX = 20             # commands that make no sense, per session
REFUSED_MAX = 100           # refused recipients between two accepted messages
IDLE_MAX = 1000             # commands between two accepted messages that are not part of one
DRAIN_MAX = 64 << 20        # bytes read beyond databytes before the connection is closed on the client

IDLE, SENDER, RECIPIENT, CHUNKS = range(4)      # no transaction; MAIL accepted; a recipient accepted; BDAT has begun

_PRINTABLE = bytes(range(32, 127))
_NEED = object()                        # nothing to do without more input

MAIL_FIRST = b'503 5.5.1 MAIL first'
RCPT_FIRST = b'503 5.5.1 RCPT first'
NESTED = b'503 5.5.1 RSET first: there is a MAIL already'
UNKNOWN = b'502 5.5.1 unimplemented'
NO_ARGUMENT = b'501 5.5.4 no argument allowed'
LINE_LONG = b'500 5.5.2 line too long'
LINE_BARE = b'500 5.5.2 lines must end with CR LF'
LINE_BYTES = b'500 5.5.2 a control or 8-bit character in a command'
LINE_EMPTY = b'500 5.5.2 empty line'
MAIL_SYNTAX = b'501 5.1.7 syntax: MAIL FROM:<address>'
RCPT_SYNTAX = b'501 5.1.3 syntax: RCPT TO:<address>'
NEEDS_UTF8 = b'553 5.6.7 an address with 8-bit characters needs SMTPUTF8'
UTF8_BYTES = b'500 5.5.2 what is beyond ASCII in a command must be UTF-8'
XCLIENT_NONE = b'550 5.7.0 XCLIENT is not for you'
XCLIENT_SYNTAX = b'501 5.5.4 syntax: XCLIENT attribute=value'
BDAT_SYNTAX = b'501 5.5.4 syntax: BDAT size [LAST]'
BDAT_BEGUN = b'503 5.5.1 BDAT has begun: BDAT or RSET'
BAD_SENDER = b'553 5.7.1 sorry, your envelope sender is in my badmailfrom list'
BAD_RECIPIENT = b'553 5.7.1 sorry, your envelope recipient has been denied'
BAD_HELO = b'553 5.7.1 sorry, your HELO host name has been denied'
NOT_VALID = b'550 5.1.1 sorry, this recipient is not in my validrcptto list'
VALID_TROUBLE = b'451 4.3.0 unable to read my list of valid recipients'
NOT_HERE = b"553 5.7.1 sorry, that domain isn't in my list of allowed rcpthosts"
HOSTS_TROUBLE = b'451 4.3.0 unable to read my list of allowed rcpthosts'
NOT_VERIFIED = b"252 2.5.0 send some mail, i'll try my best"
NO_MAILBOX = b'550 5.1.1 sorry, no mailbox here by that name'
LOOKUP_TROUBLE = b'451 4.3.0 unable to look up that recipient now'
TOO_MANY_RECIPIENTS = b'452 4.5.3 too many recipients; send the message again to the others'
TOO_BIG = b'552 5.3.4 sorry, that message size exceeds my databytes limit'
LOOPING = b'554 5.4.6 too many hops, this message is looping'
BARE = {smtp_data.LF: b'550 5.5.2 bare LF in the message; lines must end with CR LF',
        smtp_data.CR: b'550 5.5.2 bare CR in the message; lines must end with CR LF'}
BARE_LF_TEMPORARY = b'451 4.5.2 See https://cr.yp.to/docs/smtplf.html.'
TOO_MANY_ERRORS = b'421 4.7.0 too many errors'
TOO_MANY_COMMANDS = b'421 4.7.0 too many commands without a message'
TIMEOUT = b'421 4.4.2 timeout'
TOO_SLOW = b'421 4.4.2 your message comes too slowly'
TOO_LONG = b'421 4.4.2 this session has lasted too long'
BUSY = b'421 4.3.2 too many connections; try again later'
BUSY_ADDRESS = b'421 4.7.0 too many connections from your address; try again later'
EARLY = b'554 5.5.1 you spoke before you were greeted (RFC 5321, 4.3.1)'
BUSY_RATE = b'421 4.7.0 too many connections from your address in this time; try again later'
DENIED = b'554 5.7.1 no mail is accepted from your address'
TLS_READY = b'220 2.0.0 ready to start TLS'
TLS_NONE = b'454 4.7.0 TLS is not available now'
TLS_ALREADY = b'503 5.5.1 TLS is active already'
TLS_FOLLOWED = b'503 5.5.1 nothing may follow STARTTLS before the handshake'
TLS_FIRST = b'530 5.7.0 STARTTLS first'
AUTH_ALREADY = b'503 5.5.1 you have logged in already'
AUTH_LATE = b'503 5.5.1 AUTH belongs before MAIL'
AUTH_EHLO = b'503 5.5.1 EHLO first'
AUTH_CLEAR = b'538 5.7.11 STARTTLS first: nobody may log in in the clear'
AUTH_UNKNOWN = b'504 5.5.4 unknown mechanism'
AUTH_SYNTAX = b'501 5.5.2 not base64'
AUTH_CANCELLED = b'501 5.7.0 login cancelled'
AUTH_GOOD = b'235 2.7.0 welcome'
AUTH_WRONG = b'535 5.7.8 authentication failed'
AUTH_LATER = b'454 4.7.0 authentication is not possible now; try again later'
AUTH_FIRST = b'530 5.7.0 authentication required'
NOT_YOURS = b'553 5.7.1 sorry, this sender address is not yours'
TROUBLE = b'421 4.3.0 unable to read controls'
ENDING = b'421 4.3.2 shutting down'


class Refused(Exception):
    """A client that is sent away; args: the reply."""


class Policy:
    """What the control files say: one for all sessions."""

    __slots__ = ('greeting', 'databytes', 'rcpthosts', 'bad_senders', 'bad_recipients', 'localiphost',
                 'max_recipients', 'bad_helos', 'valid', 'stages', 'senders')

    def __init__(self, greeting, databytes=0, hosts=None, bad_senders=(), bad_recipients=(), localiphost=b'',
                 max_recipients=1000, bad_helos=(), valid=None, stages=frozenset()):
        self.greeting, self.databytes, self.rcpthosts = greeting, databytes, hosts
        self.bad_senders, self.bad_recipients = bad_senders, bad_recipients     # lower-case: address or @host
        self.localiphost, self.max_recipients = localiphost, max_recipients
        self.senders = None                                 # core.submission.Senders: who has logged in may send as these
        self.stages = stages                                # of core.asking: those at which somebody is asked
        self.bad_helos, self.valid = bad_helos, valid       # names as in core.badhelo; ValidRecipients, None: all


class Client:
    """Who is on the other end, as far as is known, and what the rules of control/tcp.smtp or the caller give
    him.

    relay: what RELAYCLIENT holds, None if it is not set. databytes: None, or instead of the policy's.
    bare_lf: `commands` takes LF alone as the end of a command, `451` answers LF in a text as qmail does,
    `all` takes it in texts too (sendmail -bs). judged: whether others are asked about him. force_tls: nothing is done for
    him in the clear. force_auth: no mail from him without a login. hidden: Received does not tell of him when he has
    logged in. whole: the queue gets all records of the envelope. may_speak: for others, by XCLIENT."""

    __slots__ = ('ip', 'name', 'info', 'local', 'local_ip', 'relay', 'databytes', 'bare_lf', 'env', 'judged', 'force_tls',
                 'force_auth', 'hidden', 'whole', 'may_speak')

    def __init__(self, ip=b'', name=b'', info=b'', local=b'', local_ip=b'', relay=None, databytes=None,
                 bare_lf=b'', env=(), force_tls=False):
        self.ip, self.name, self.info, self.local, self.local_ip = ip, name, info, local, local_ip
        self.relay, self.databytes, self.bare_lf, self.env = relay, databytes, bare_lf, env
        self.judged, self.force_tls, self.force_auth = True, force_tls, False
        self.hidden, self.whole, self.may_speak = False, True, False


class Beside:
    """What stands beside the sessions of a server, as it is now.

    tls: None, there is no qpy-tls; False, it has no certificate, or has not answered yet; True. mechanisms: of AUTH,
    the best first."""

    __slots__ = ('tls', 'mechanisms')

    def __init__(self, tls=None, mechanisms=()):
        self.tls, self.mechanisms = tls, mechanisms


class Session:
    """See the top of the module."""

    __slots__ = ('policy', 'client', 'beside', 'tls', 'login', 'mechanism', 'failures', 'input', 'at', 'replies', 'notes', 'waiting', 'closed', 'skipping',
                 'state', 'helo', 'protocol', 'sender', 'recipients', 'body', 'decoder', 'verdict',
                 'checking', 'errors', 'refused', 'idle', 'limit', 'size', 'hold', 'fields', 'asking', 'banned', 'completion', 'wishes', 'personal', 'now', 'chunks', 'left', 'last', 'skip', 'asked', 'verifying')

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
        self.verifying = b''                # what VRFY asks about
        self.now = 0                        # unix time at which the text began
        self.errors = self.refused = self.idle = 0
        self.recognise(client)
        self.reset()

    # From the driver.

    def recognise(self, client) -> None:
        """This is the client, as is known now."""
        self.client = client
        wanted = self.policy.databytes if client.databytes is None else client.databytes
        self.limit = min(wanted or mess.MESSAGE_LIMIT, mess.MESSAGE_LIMIT)      # the queue takes no more

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        self.input, self.at = (self.input[self.at:] + data if self.at < len(self.input) else data), 0

    def buffered(self) -> int:
        """Bytes that wait to be obeyed."""
        return len(self.input) - self.at

    def output(self) -> bytes:
        """The replies so far, each ended with CR LF; they are forgotten here."""
        if not self.replies:
            return b''
        replies, self.replies = self.replies, []
        replies.append(b'')
        return b'\r\n'.join(replies)

    def banner(self) -> None:
        """Greet the client."""
        self.replies.append(b'220 ' + self.policy.greeting + b' ESMTP')

    def arrived(self) -> 'tuple | None':
        """The client is there, and may be greeted; returns an event of its own or None."""
        return self.judge(asking.CONNECT, self.banner)

    def hang_up(self, reply: bytes) -> None:
        """Say a last sentence (a 421, or DENIED); the driver closes."""
        self.replies.append(reply)
        self.notes.append((b'session', reply, b'', b''))
        self.closed = True

    def next(self):
        """The next event, or None: see the top of the module."""
        while not (self.waiting or self.closed):
            event = self.step() if self.decoder is None else self.text()
            if event is _NEED:
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
        self.fields = list(dict.fromkeys([*self.fields, *fields]))[:asking.FIELDS_MOST]
        if reply[:3] == b'421':
            return self.leave(reply)
        return REFUSALS[stage](self, reply, reason) if reply else then()

    def refuse_connection(self, reply, reason):
        """Instead of the greeting."""
        self.refuse(b'session', reply, b'', reason)
        self.closed = True
        return CLOSE, None

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
                return _NEED
        end = self.input.find(b'\n', self.at)
        if end < 0:
            return self.incomplete() if self.at < len(self.input) else _NEED
        line, self.at = self.input[self.at:end + 1], end + 1
        if self.skipping:
            self.skipping = False
            return None
        if self.mechanism:
            return self.respond(line)
        if len(line) > self.longest(line):
            return self.error(b'command', LINE_LONG)
        if line[-2:] != b'\r\n' and not self.client.bare_lf:
            return self.error(b'command', LINE_BARE)
        return self.obey(line[:-1].removesuffix(b'\r').rstrip(b' \t'))

    def incomplete(self):
        """A line that has not ended yet: is it too long already?"""
        if self.skipping or self.buffered() >= self.longest(self.input[self.at:self.at + 5]):
            self.input, self.at = b'', 0
            if not self.skipping:
                self.skipping = True
                return self.error(b'command', LINE_LONG)
        return _NEED

    def longest(self, line):
        """Bytes that a line that begins so may have: a login may be long."""
        login = self.mechanism or line[:5].upper() == b'AUTH '
        return AUTH_MAX if login and self.beside.mechanisms else LINE_MAX

    def obey(self, line):
        """One command line without its end."""
        verb, _, argument = line.partition(b' ')
        verb = verb.upper()
        command = COMMANDS.get(verb)
        if line.translate(None, _PRINTABLE) and not (command and command[0](verb, line)):
            return self.error(b'command', LINE_BYTES)
        if command is None:
            return self.error(b'command', UNKNOWN if line else LINE_EMPTY)
        if self.chunks is not None and verb in (b'RSET', b'HELO', b'EHLO', b'STARTTLS'):
            self.input, self.at, self.chunks = line + b'\r\n' + self.input[self.at:], 0, None
            return DROP, None               # and then obey it
        _, method, allowed = command
        refusal = allowed[self.state]
        if self.client.force_tls and self.tls is None and verb not in IN_THE_CLEAR:
            refusal = TLS_FIRST
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
        return self.leave(TOO_MANY_ERRORS) if self.errors >= ERRORS_MAX else None

    def leave(self, reply):
        """Close the connection on the client."""
        self.hang_up(reply)
        return CLOSE, None

    def reset(self):
        """No transaction."""
        self.state, self.sender, self.recipients, self.body = IDLE, b'', [], b''
        self.wishes, self.personal = {}, []     # parameters of MAIL; what stood behind each recipient, for the envelope
        self.chunks = None
        self.size, self.hold = b'', b''     # what MAIL declared; why the message is to be held in the queue
        self.fields = []                    # lines that others want on top of it

    def count_idle(self, reply):
        """A command that brings no message nearer."""
        self.reply(reply)
        self.idle += 1
        return self.leave(TOO_MANY_COMMANDS) if self.idle > IDLE_MAX else None

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

    def mechanisms(self):
        """Those by which this client may log in: none in the clear, and bound to TLS only where that can be."""
        if self.tls is None:
            return []
        return [name for name in self.beside.mechanisms if name[-5:] != b'-PLUS' or self.tls.binding]

    def do_starttls(self, argument):
        """RFC 3207 4. Whatever came behind it in the clear would be taken for what came under TLS (CVE-2011-0411)."""
        if argument:
            return self.error(b'starttls', NO_ARGUMENT)
        if self.tls is not None or self.beside.tls is None:
            return self.error(b'starttls', UNKNOWN if self.tls is None else TLS_ALREADY)
        if self.buffered():
            return self.leave(TLS_FOLLOWED)
        self.waiting = True
        return TLS, None

    def do_auth(self, argument):
        """RFC 4954 4"""
        name, _, response = argument.partition(b' ')
        refusal = self.auth_refusal(name.upper())
        if refusal:
            return self.error(b'auth', refusal)
        self.mechanism, self.waiting = name.upper(), True
        return AUTH, (self.mechanism, response.strip(b' ') or None)

    def auth_refusal(self, mechanism):
        """Why no login can begin, b'' if it can."""
        if not self.beside.mechanisms:
            return UNKNOWN
        if self.login or self.protocol != b'ESMTP':
            return AUTH_ALREADY if self.login else AUTH_EHLO
        if self.tls is None:
            return AUTH_CLEAR
        return b'' if mechanism in self.mechanisms() else AUTH_UNKNOWN

    def respond(self, line):
        """A line that belongs to the login."""
        response = line.rstrip(b'\r\n')
        if response == b'*' or len(line) > AUTH_MAX or line[-2:] != b'\r\n' or response.translate(None, _PRINTABLE):
            self.mechanism = b''
            return self.error(b'auth', AUTH_CANCELLED if response == b'*' else AUTH_SYNTAX) or (CANCEL, None)
        self.waiting = True
        return RESPONSE, response

    def do_mail(self, argument):
        """RFC 5321 4.1.1.2"""
        if self.client.force_auth and not self.login:
            return self.error(b'mail', AUTH_FIRST)
        try:
            utf8 = self.client.whole and b'SMTPUTF8' in argument.upper().split(b' ')[1:]
            sender, rest = addresses.parse_path(after(b'FROM:', argument), utf8 and idna.domain)
        except addresses.AddressError as problem:
            return self.error(b'mail', path_reply(problem, MAIL_SYNTAX))
        parameters, refusal = esmtp.parameters(self, rest, esmtp.OF_MAIL)
        if refusal:
            return self.error(b'mail', refusal)
        if self.banned:
            return self.refuse(b'mail', self.banned)
        if int(parameters.get(b'SIZE', b'0')) > self.limit:
            return self.refuse(b'mail', TOO_BIG)
        sender = self.local_name(sender)
        if self.login and self.policy.senders is not None and not self.policy.senders.allow(self.login, sender):
            self.sender = sender
            self.refuse(b'mail', NOT_YOURS)
            return self.reset()
        self.sender, self.size = sender, parameters.get(b'SIZE', b'')
        self.body, self.wishes = parameters.get(b'BODY', b'').upper(), parameters
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
            return self.error(b'rcpt', path_reply(problem, RCPT_SYNTAX))
        if not address or address == addresses.DOUBLE_BOUNCE:
            return self.error(b'rcpt', RCPT_SYNTAX)
        wishes, refusal = esmtp.parameters(self, rest, esmtp.OF_RCPT)
        if refusal:
            return self.error(b'rcpt', refusal, address)
        self.asked = esmtp.of_rcpt(wishes)
        address = self.local_name(address) + (self.client.relay or b'')
        refusal = self.recipient_refusal(address)
        if refusal:
            return self.refuse_recipient(refusal, address)
        self.checking, self.waiting = address, True
        return CHECK, address

    def recipient_refusal(self, address):
        """The reply that refuses this recipient as far as the control files can tell; b'' if none."""
        policy = self.policy
        if listed(self.sender, policy.bad_senders):
            return BAD_SENDER
        if listed(address, policy.bad_recipients):
            return BAD_RECIPIENT
        if len(self.recipients) >= policy.max_recipients:
            return TOO_MANY_RECIPIENTS
        if self.trusted():
            return RCPT_SYNTAX if len(address) > addresses.QUEUE_MAX else b''
        if badhelo.refuses(self.helo, policy.bad_helos) and b'NOBADHELO' not in dict(self.client.env):
            return BAD_HELO
        return stranger_refusal(policy, address)

    def refuse_recipient(self, reply, address, reason=b''):
        """One recipient is refused; too many in a row end the session."""
        self.refuse(b'rcpt', reply, address, reason)
        self.refused += reply[:1] == b'5'
        return self.leave(TOO_MANY_ERRORS) if self.refused >= REFUSED_MAX else None

    def local_name(self, address):
        """address with a literal of the address the client connected to replaced by localiphost."""
        local, domain = addresses.split(address)
        if domain[:1] != b'[' or not self.policy.localiphost:
            return address
        own = addresses.parse_ipv4(self.client.local_ip) or addresses.parse_ipv6(self.client.local_ip)
        here = own and addresses.parse_literal(domain) == own
        return local + b'@' + self.policy.localiphost if here else address

    def do_data(self, argument):
        """RFC 5321 4.1.1.4"""
        if argument:
            return self.error(b'data', NO_ARGUMENT)
        return self.judge(asking.DATA, self.start)

    def start(self):
        """Is there somewhere to put a message?"""
        self.waiting = True
        return START, None

    def do_bdat(self, argument):
        """RFC 3030, 2: the bytes that follow are read whatever is the matter with the command."""
        word, _, last = argument.partition(b' ')
        size = text.parse_uint(word, 1 << 40)
        if size is None or last.strip(b' ').upper() not in (b'', b'LAST'):
            return self.leave(BDAT_SYNTAX)
        refusal = (MAIL_FIRST, RCPT_FIRST, b'', b'')[self.state]
        if refusal:
            self.skip = size
            return self.leave(refusal) if size > DRAIN_MAX else self.error(b'bdat', refusal)
        self.left, self.last = size, bool(last)
        if self.state == CHUNKS:
            self.decoder = self.chunks
            return None
        return self.judge(asking.DATA, self.first_chunk)

    def first_chunk(self):
        """Is there somewhere to put a message?"""
        self.state = CHUNKS
        return self.start()

    def do_rset(self, argument):
        """RFC 5321 4.1.1.5"""
        self.reset()
        return self.count_idle(b'250 2.0.0 flushed')

    def do_noop(self, argument):
        """RFC 5321 4.1.1.9"""
        return self.count_idle(b'250 2.0.0 ok')

    def do_vrfy(self, argument):
        """RFC 5321 3.5.3: says something to those whose mail goes anywhere, and nothing about anybody to others."""
        try:
            address = addresses.unquote(argument.removeprefix(b'<').removesuffix(b'>')) if self.trusted() and argument else b''
        except addresses.AddressError:
            return self.error(b'vrfy', RCPT_SYNTAX)
        if not address or stranger_refusal(self.policy, address):
            return self.count_idle(NOT_VERIFIED)
        self.verifying, self.waiting = address, True
        return CHECK, address

    def verified(self, verdict):
        """The answer to VRFY."""
        address, self.verifying = self.verifying, b''
        if verdict == b'no':
            return self.refuse_recipient(NO_MAILBOX, address)
        return self.count_idle(b'250 2.1.5 <%s>' % addresses.quote(address) if verdict == b'yes' else NOT_VERIFIED)

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
            return self.error(b'xclient', XCLIENT_NONE)
        try:
            told = proxy.parse_xclient(argument)
        except ValueError:
            return self.error(b'xclient', XCLIENT_SYNTAX)
        self.waiting = True
        return XCLIENT, told

    def introduced(self, client, told: dict) -> 'tuple | None':
        """The answer to XCLIENT: this is the client now, and the session begins anew. Returns an event of its own or
        None."""
        self.waiting = False
        self.recognise(client)
        self.reset()
        self.helo = told.get(b'HELO', self.helo)[:HELO_MAX]
        self.protocol = b'ESMTP' if told.get(b'PROTO', b'').upper() == b'ESMTP' else b'SMTP'
        self.login = text.lower(told.get(b'LOGIN', self.login))
        return self.arrived()

    # Answers to TLS.

    def tls_begun(self) -> None:
        """The client may begin his handshake when he has read this; until secured() nothing is heard."""
        self.reply(TLS_READY)

    def tls_refused(self) -> None:
        """Not now: the session goes on in the clear."""
        self.waiting = False
        self.refuse(b'starttls', TLS_NONE)

    def secured(self, tls) -> None:
        """TLS protects us: nothing that was said before counts (RFC 3207 4.2)."""
        self.waiting, self.tls = False, tls
        self.input, self.at = b'', 0
        self.helo, self.protocol = b'', b'SMTP'
        self.reset()

    # Answers to AUTH and RESPONSE.

    def challenged(self, challenge: bytes) -> None:
        """The next word of the login, in base64."""
        self.waiting = False
        self.reply(b'334 ' + challenge)

    def authenticated(self, login: bytes) -> None:
        """It is he; mail from him goes everywhere."""
        self.waiting, self.mechanism, self.login = False, b'', login
        self.reply(AUTH_GOOD)

    def not_authenticated(self, later: bool, reason: bytes) -> 'tuple | None':
        """It is not, or nobody can say now. Returns an event of its own or None."""
        self.waiting, self.mechanism = False, b''
        self.failures += 1
        self.refuse(b'auth', AUTH_LATER if later else AUTH_WRONG, b'', reason)
        return self.leave(TOO_MANY_ERRORS) if self.failures >= LOGINS_MAX else None

    def trusted(self):
        """May mail from this client go anywhere?"""
        return self.client.relay is not None or self.login != b''

    # Answers to CHECK.

    def recipient(self, verdict: bytes) -> 'tuple | None':
        """The answer to CHECK: yes, unknown (both accepted), no, temp. Returns an event of its own or
        None."""
        self.waiting = False
        if self.verifying:
            return self.verified(verdict)
        if verdict in (b'no', b'temp'):
            return self.refuse_rcpt(NO_MAILBOX if verdict == b'no' else LOOKUP_TROUBLE, b'')
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
        self.completion = submission.Completion(submission.wanted(date, ident, self.sender) if self.login else None)
        top = b''.join(line + b'\n' for line in self.fields)
        if self.login and client.hidden:
            return top + received.hidden(client.local, self.spoken(), date, tls)
        return top + received.line(client.name, self.helo, client.info, client.ip, client.local, self.spoken(), date, tls)

    def spoken(self):
        """The protocol, as in Received (RFC 3848)."""
        if self.protocol == b'SMTP':
            return self.protocol
        return (b'UTF8SMTP' if b'SMTPUTF8' in self.wishes else self.protocol) + (b'S' if self.tls else b'') + (b'A' if self.login else b'')

    def refuse_text(self, reply: bytes) -> None:
        """The other answer to START: not now. The transaction is over."""
        self.waiting = False
        self.refuse(b'data', reply)
        self.skip, self.left = self.left, 0
        self.reset()

    def text(self):
        """Decode what came of the text."""
        if self.chunks is not None:
            return self.chunk()
        data, self.input, self.at = self.input[self.at:], b'', 0
        if not data:
            return _NEED
        decoder = self.decoder
        stored, rest = decoder.feed(data)
        if decoder.fault:
            return self.smuggled(decoder.fault)
        if self.verdict or decoder.hops >= HOPS_MAX or decoder.size > self.limit:
            return self.spoilt(rest)
        stored = self.completion.feed(stored)
        if rest is None:
            return (BODY, stored) if stored else None
        self.input, self.decoder, self.waiting = rest, None, True
        return SUBMIT, stored + self.completion.finish()

    def chunk(self):
        """Decode what came of a chunk."""
        chunks, data = self.chunks, self.input[self.at:self.at + self.left]
        if not data and self.left:
            return _NEED
        self.at, self.left = self.at + len(data), self.left - len(data)
        stored, _ = chunks.feed(data)
        over = self.last and not self.left
        if over:
            stored += chunks.finish()
        if chunks.fault:
            return self.smuggled(chunks.fault)
        if self.verdict or chunks.hops >= HOPS_MAX or chunks.size > self.limit:
            return self.bad_chunk(self.verdict or (LOOPING if chunks.hops >= HOPS_MAX else TOO_BIG))
        stored = self.completion.feed(stored)
        if over:
            self.decoder = self.chunks = None
            self.waiting = True
            return SUBMIT, stored + self.completion.finish()
        if not self.left:
            self.decoder = None
            self.reply(b'250 2.0.0 ok')
        return (BODY, stored) if stored else None

    def bad_chunk(self, verdict):
        """The message is refused before its end: what comes of the chunk is dropped (RFC 3030, 2)."""
        self.decoder, self.skip, self.left = None, self.left, 0
        if self.skip > DRAIN_MAX:
            return self.leave(verdict)
        self.refuse(b'message', verdict)
        self.reset()
        return DROP, None

    def spoil(self, report: bytes) -> None:
        """The message failed while its text still comes: a report of the queue, to be said at its end."""
        self.verdict = report_reply(report)

    def spoilt(self, rest):
        """The message is refused, and its text is read to the end before that is said (once more than enough
        came, the connection is closed instead)."""
        first, decoder = not self.verdict, self.decoder
        self.verdict = self.verdict or (LOOPING if decoder.hops >= HOPS_MAX else TOO_BIG)
        if rest is not None:
            self.input, self.decoder = rest, None
            self.refuse(b'message', self.verdict)
            self.reset()
        elif decoder.size > self.limit + DRAIN_MAX:
            self.decoder = None
            return self.leave(self.verdict)
        return (DROP, None) if first else None

    def smuggled(self, fault):
        """RFC 5321 2.3.8: such a text is refused, and nothing behind it is read."""
        self.decoder = self.chunks = None
        self.input = b''
        lenient = fault == smtp_data.LF and self.client.bare_lf == b'451'
        self.refuse(b'message', BARE_LF_TEMPORARY if lenient else BARE[fault])
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
        self.refuse(b'message', report_reply(report))
        self.reset()

    def options(self) -> list:
        """[(letter, value)] of the envelope beside sender and recipients."""
        client = self.client
        found = [(b'P', self.spoken()), (b'C', received.safe(client.ip)), (b'c', received.safe(client.name)),
                 (b'H', received.safe(self.helo)), (b'B', self.body), (b'h', self.hold), (b'L', self.login)]
        found = [(letter, value) for letter, value in found if value] + esmtp.of_mail(self.wishes, self.now)
        return found


def stranger_refusal(policy, address):
    """The reply that refuses a recipient to a client without RELAYCLIENT; b'' if none."""
    try:
        if not policy.rcpthosts.accepts(address):
            return NOT_HERE
    except cdb.CdbError:
        return HOSTS_TROUBLE
    try:
        return b'' if policy.valid is None or policy.valid.permits(address) else NOT_VALID
    except cdb.CdbError:
        return VALID_TROUBLE


def after(word, argument):
    """What follows `FROM:` or `TO:`; AddressError if that is not there."""
    if argument[:len(word)].upper() != word:
        raise addresses.AddressError(addresses.SYNTAX)
    return argument[len(word):].lstrip(b' ')


def path_reply(problem, syntax):
    """The reply to an address that cannot be taken."""
    return NEEDS_UTF8 if problem.kind == addresses.EIGHT_BIT else syntax


def listed(address, table):
    """Is the address, or its `@host`, in a lower-case table?"""
    if not table:
        return False
    address = text.lower(address)
    return address in table or address[address.rfind(b'@'):] in table and b'@' in address


def report_reply(report):
    """`Zqq timeout (#4.3.0)` as `451 4.3.0 qq timeout`."""
    code, enhanced = (b'554', b'5.3.0') if report[:1] == b'D' else (b'451', b'4.3.0')
    words, mark, last = report[1:].rstrip().rpartition(b' (#')
    status = last[:-1] if mark and last[-1:] == b')' else b''
    if status.translate(None, b'0123456789.') or status[:2] != enhanced[:2] or status.count(b'.') != 2:
        words, status = report[1:].rstrip(), enhanced
    return b'%s %s %s' % (code, status, text.printable(words[:400]))


def never(verb, line):
    """No strange bytes in this command."""
    return False


def always(verb, line):
    """A HELO may hold anything: it is shown made safe, and never used."""
    return True


def eight_bit(verb, line):
    """8-bit characters, but no control characters: an address that gets an answer of its own."""
    return not line.translate(None, _PRINTABLE + bytes(range(128, 256)))


REFUSALS = {asking.CONNECT: Session.refuse_connection, asking.HELO: Session.refuse_helo,
            asking.MAIL: Session.refuse_mail, asking.RCPT: Session.refuse_rcpt, asking.DATA: Session.refuse_data}

# verb: (may the line hold bytes that are not printable ASCII, what to do,
#        the refusal in each state: no transaction, MAIL accepted, recipient accepted, BDAT begun)
COMMANDS = {
    b'HELO': (always, Session.do_helo, (b'', b'', b'', b'')),
    b'EHLO': (always, Session.do_ehlo, (b'', b'', b'', b'')),
    b'MAIL': (eight_bit, Session.do_mail, (b'', NESTED, NESTED, NESTED)),
    b'RCPT': (eight_bit, Session.do_rcpt, (MAIL_FIRST, b'', b'', BDAT_BEGUN)),
    b'DATA': (never, Session.do_data, (MAIL_FIRST, RCPT_FIRST, b'', BDAT_BEGUN)),
    b'BDAT': (never, Session.do_bdat, (b'', b'', b'', b'')),
    b'RSET': (never, Session.do_rset, (b'', b'', b'', b'')),
    b'NOOP': (never, Session.do_noop, (b'', b'', b'', b'')),
    b'VRFY': (never, Session.do_vrfy, (b'', b'', b'', b'')),
    b'HELP': (never, Session.do_help, (b'', b'', b'', b'')),
    b'QUIT': (never, Session.do_quit, (b'', b'', b'', b'')),
    b'STARTTLS': (never, Session.do_starttls, (b'', b'', b'', b'')),
    b'XCLIENT': (never, Session.do_xclient, (b'', NESTED, NESTED, NESTED)),
    b'AUTH': (never, Session.do_auth, (b'', AUTH_LATE, AUTH_LATE, AUTH_LATE)),
}
IN_THE_CLEAR = (b'EHLO', b'HELO', b'STARTTLS', b'NOOP', b'RSET', b'HELP', b'QUIT',    # whatever is forced
                b'BDAT')        # ... (RFC 3207 4); this one has no MAIL before it, and reads what follows it
