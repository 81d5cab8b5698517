"""One client of an SMTP server in the loop: core.smtp_server's session, moved by what arrives.

What the client sends is obeyed at once, and the replies to all of it leave in one write. A message of up to
SMALL bytes is kept until it is complete and handed over whole; a longer one is streamed, and the client is
not read while more than HIGH bytes of it wait here.
"""
from qpy import unix
from qpy.core import cdb, proxy, smtp_policy, smtp_replies as replies, smtp_server as smtp, smtp_words as words, submission, tls_front
from qpy.lib import program
from qpy.qpyd import checks, etrn_line, queue_line, settings as settings_, tls_line

READ = 65536                # bytes read at once
SMALL = 64 << 10            # bytes of a message that is kept until it is complete
HIGH = 256 << 10            # bytes in flight at which the client is not read any more
AHEAD = 64 << 10            # bytes of pipelined commands that may wait for an answer
LINGER = 5.0                # seconds after the last reply for the client to read it and close
LINGER_MAX = 64 << 20       # bytes read and dropped meanwhile
RATE_GRACE = 120.0          # seconds of a message before its rate is looked at

_EVENTS = {}                # filled below: event kind -> method


class Conversation:
    """One client. server: qpyd.server.Server; sock: its socket, None when it is not one; input, output:
    descriptors."""

    __slots__ = ('server', 'sock', 'input', 'output', 'session', 'ip', 'out', 'pieces', 'size', 'job', 'eof',
                 'closing', 'dropped', 'reading', 'writing', 'progressed', 'ends', 'text_since', 'text_bytes',
                 'polite', 'filter', 'delay', 'name', 'settings', 'front', 'word', 'queue', 'attempt', 'header')

    def __init__(self, server, settings, client, sock, input_, output):
        self.server, self.sock, self.input, self.output = server, sock, input_, output
        self.session, self.settings = smtp.Session(settings.policy, client, server.beside), settings
        self.ip = client.ip or b'unknown'
        self.filter = settings_.filter_of(dict(client.env)) if client.env else (b'', True)
        self.front = None           # the way to qpy-tls, while the client's own descriptor is still ours
        self.header = None          # what has come of the PROXY header; None if none is to come any more
        self.attempt = None         # the number of the login that qpy-auth judges
        self.word = None            # what it has said so far about the handshake; None if none is going on
        self.out, self.pieces, self.size, self.job = b'', [], 0, None
        self.eof = self.reading = self.writing = self.polite = False
        self.closing, self.dropped = 0.0, 0             # closing: until when to linger, 0 while serving
        self.progressed = unix.monotonic()
        self.ends = self.progressed + settings.session
        self.text_since, self.text_bytes = 0.0, 0
        self.settings, self.name = settings, b''        # name: of this session, once somebody was asked about it
        self.delay = 0              # seconds that the client has to be silent before he is greeted
        self.queue = server.queue   # where the message goes

    def begin(self):
        """Greet, at once or after a while; where TLS comes first, when it stands; where a proxy says who it is, then."""
        if self.sock is not None and settings_.on(dict(self.session.client.env), b'PROXY'):
            self.header = b''
            return self.interest()
        return self.open()

    def open(self):
        """It is known who is there."""
        if settings_.on(dict(self.session.client.env), b'SMTPS'):
            return self.tls_first()     # the client speaks first there
        client = self.session.client
        self.delay = self.settings.greet_delay if client.relay is None and client.judged else 0
        if not self.delay:
            return self.greet()
        self.server.loop.after(self.delay, self.delayed)
        return self.interest()

    def delayed(self):
        """The client has waited, or has gone."""
        self.delay = 0
        if self.input >= 0 and not self.closing:
            self.greet()

    def greet(self):
        """Say who we are, if nobody has anything against it."""
        event = self.session.arrived()
        if event is not None:
            _EVENTS[event[0]](self, event[1])
        self.run()

    # Input.

    def readable(self):
        """Read what there is, and obey it."""
        if self.header is not None:
            return self.hear_proxy()
        try:
            data = unix.read(self.input, READ)
        except BlockingIOError:
            return
        except unix.error:
            return self.close()
        if self.closing:
            return self.drop(data)
        if self.word is not None:
            return self.heard_of_tls(data)
        if not data:
            self.eof = True
        elif self.delay:
            return self.hang_up(replies.EARLY)
        else:
            self.session.receive(data, int(unix.time()))
            if self.session.decoder is not None:
                self.progressed = self.server.now()
                self.text_bytes += len(data)
        self.run()

    def drop(self, data):
        """After the last reply: wait until it is written, and for the client's end."""
        self.dropped += len(data)
        self.eof = self.eof or not data
        if self.dropped > LINGER_MAX or self.eof and not self.out:
            self.close()
        elif self.eof:
            self.interest()

    def run(self):
        """Obey what has come, and answer."""
        session = self.session
        event = session.next()
        while event is not None:
            _EVENTS[event[0]](self, event[1])
            event = session.next()
        if session.notes:
            self.log_refusals()
        self.flush()
        if self.input >= 0:
            self.interest()
        if self.server.leaving:
            self.leave()
            self.server.end_when_answered()

    def interest(self):
        """Watch what there is to watch for now."""
        session = self.session
        if self.reading and not (self.out or self.writing or self.eof or self.job or self.front or session.waiting):
            return None                     # the common case: it is read, and nothing stands against that
        if self.eof and not (session.waiting or self.out or self.closing):
            return self.close()
        reading = not self.eof and not (session.waiting and session.buffered() > AHEAD) \
            and self.front is None and not (self.job is not None and self.job.pending > HIGH)
        writing = bool(self.out)
        if reading == self.reading and writing == self.writing:
            return None
        self.reading, self.writing = reading, writing
        loop = self.server.loop
        if self.input == self.output:
            loop.watch(self.input, self.readable if reading else None, self.writable if writing else None)
        else:
            loop.watch(self.input, self.readable if reading else None)
            loop.watch(self.output, None, self.writable if writing else None)
        return None

    # Events of the session.

    def ask(self, stage):
        """Has anybody to say something?"""
        server, settings = self.server, self.settings
        if not self.name:
            server.sessions += 1
            self.name = b'%d.%d' % (server.pid, server.sessions)
        asked = ((server.checks, settings.check_stages), (server.milters, settings.milter_stages))
        self.ask_next(stage, [each for each, stages in asked if stage in stages], b'', [])

    def ask_next(self, stage, whom, hold, fields):
        """The first of those who are to be asked."""
        whom[0].ask(checks.facts(self.session, self.name, stage), self.settings,
                    lambda reply, reason, held, more: self.judged(stage, whom[1:], reply, reason, hold or held,
                                                                  [*fields, *more]))

    def judged(self, stage, left, reply, reason, hold, fields):
        """He has, or not."""
        if self.input < 0 or self.closing:
            return
        if left and not reply:
            return self.ask_next(stage, left, hold, fields)
        event = self.session.judged(reply, reason, hold, fields)
        if event is not None:
            _EVENTS[event[0]](self, event[1])
        self.run()

    def check(self, address):
        """May this recipient have mail?"""
        verdict = self.server.recipients.ask(address, self.checked) if self.settings.check_recipients else b'unknown'
        if verdict is not None:
            self.verdict(verdict)

    def checked(self, verdict):
        """The answer came later."""
        if self.input >= 0 and not self.closing:
            self.verdict(verdict)
            self.run()

    def verdict(self, verdict):
        """Tell the session."""
        event = self.session.recipient(verdict)
        if event is not None:
            _EVENTS[event[0]](self, event[1])

    def whose(self, local):
        """Is this local part his who has logged in?"""
        login = self.session.login
        self.server.recipients.whose(local, lambda owner: self.owned(submission.is_his(login, local, *owner) if owner else None))

    def owned(self, his):
        """It is, or not."""
        if self.input < 0 or self.closing:
            return
        event = self.session.owned(his)
        if event is not None:
            _EVENTS[event[0]](self, event[1])
        self.run()

    # Proxies: who the client is behind one.

    def hear_proxy(self):
        """The PROXY header, and not a byte more: what follows may be TLS."""
        try:
            count, told = proxy.take(self.header, self.sock.recv(READ, unix.MSG_PEEK))
            data = unix.read(self.input, count) if count else b''
        except BlockingIOError:
            return None
        except (unix.error, ValueError) as problem:
            self.server.log(b'refused session' + self.who() + b': ' + program.reason(problem) + b' in a PROXY header')
            return self.close()
        if not data:
            return self.close()
        self.header += data
        if told is None:
            return None
        self.header = None
        try:
            if told.ip:
                self.moved_to(self.server.client_behind(self, told.ip, told.local_ip))
        except smtp_policy.Refused as refusal:
            return self.turn_away(told.ip, refusal.args[0])
        return self.open()

    def turn_away(self, ip, reply):
        """A client behind a proxy is sent away as one that connects is: in the log under its own address, and not each time."""
        self.server.note_refusal(ip, reply)
        self.session.hang_up(reply)
        self.session.notes.pop()            # of just now
        self.last(None)
        self.run()

    def moved_to(self, client):
        """It is another client, and another session for those who were asked about the one before."""
        self.over()
        self.session.recognise(client)
        self.ip = client.ip or b'unknown'
        self.filter = settings_.filter_of(dict(client.env))

    def xclient(self, told):
        """XCLIENT."""
        known = self.session.client
        ip = told.get(b'ADDR') or known.ip
        try:
            client = self.server.client_behind(self, ip, told.get(b'DESTADDR') or known.local_ip)
        except smtp_policy.Refused as refusal:
            return self.turn_away(ip, refusal.args[0])
        client.name = told.get(b'NAME', known.name)
        self.moved_to(client)
        event = self.session.introduced(client, told)
        return event and _EVENTS[event[0]](self, event[1])

    # TLS: qpy-tls gets the client's socket, and gives clear text on one of ours.

    def tls_first(self):
        """The port is one where TLS is not asked for (RFC 8314 3.3)."""
        self.session.waiting = True
        self.front = self.server.tls.connect() if self.server.beside.tls and self.sock is not None else None
        if self.front is None:
            self.server.log(b'refused session' + self.who() + b': ' + replies.TLS_NONE)
            return self.close()
        return self.hand_over()

    def starttls(self, _):
        """STARTTLS."""
        self.front = self.server.tls.connect() if self.server.beside.tls and self.sock is not None else None
        if self.front is None:
            return self.session.tls_refused()
        return self.session.tls_begun()

    def hand_over(self):
        """Everything is said: the client is qpy-tls's now."""
        front, self.front = self.front, None
        asking = settings_.on(dict(self.session.client.env), b'TLSCLIENTS')
        given = tls_line.hand_over(front, self.input, asking)
        loop = self.server.loop
        loop.forget(self.input)
        if self.output != self.input:
            loop.forget(self.output)
        self.sock.close()
        self.sock, self.word, self.reading, self.writing = front, b'', False, False
        self.input = self.output = front.fileno()
        return self.interest() if given else self.close()

    def heard_of_tls(self, data):
        """What qpy-tls says: one line, and behind it clear text."""
        word, end, rest = (self.word + data).partition(b'\n')
        self.word = word
        if not end and data and len(word) < tls_front.MOST:
            return None
        try:
            letter, value = tls_front.parse(word)
        except ValueError:
            letter, value = tls_front.FAILED, b'qpy-tls has ended'
        if letter != tls_front.STANDS:
            self.server.log(b'refused starttls' + self.who() + b': ' + value)
            self.server.tls.look()
            return self.close()
        self.word = None
        return self.secured(value, rest)

    def secured(self, tls, data):
        """From here on as from the beginning."""
        self.session.secured(tls)
        try:
            self.session.recognise(settings_.client_of_certificate(self.settings, self.session.client, tls))
        except (settings_.Denied, cdb.CdbError) as problem:
            return self.hang_up(replies.DENIED if isinstance(problem, settings_.Denied) else replies.TROUBLE)
        self.filter = settings_.filter_of(dict(self.session.client.env))
        self.progressed = self.server.now()
        self.session.receive(data, int(unix.time()))
        return self.greet() if settings_.on(dict(self.session.client.env), b'SMTPS') else self.run()

    # Logins: qpy-auth judges them.

    def auth(self, begun):
        """AUTH."""
        mechanism, response = begun
        tls = self.session.tls
        facts = mechanism, self.session.client.ip, tls.version, tls.binding, response or b'-'
        self.attempt = self.server.auth.begin(facts, self.auth_said)
        if self.attempt is None:
            self.refused_login(True, b'qpy-auth has gone')

    def respond(self, response):
        """The client's next word."""
        self.server.auth.respond(self.attempt, response)

    def cancel(self, _=None):
        """The login is over for us."""
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            self.server.auth.cancel(attempt)

    def auth_said(self, letter, value, reason):
        """What qpy-auth says."""
        if letter != b'c':
            self.attempt = None
        if self.input < 0 or self.closing:
            return
        if letter == b'c':
            self.session.challenged(value)
        elif letter == b'k':
            self.session.authenticated(value)
        else:
            self.refused_login(value != b'no', reason)
        self.progressed = self.server.now()
        self.run()

    def refused_login(self, later, reason):
        """Tell the session."""
        event = self.session.not_authenticated(later, reason)
        if event is not None:
            _EVENTS[event[0]](self, event[1])

    def start(self, _):
        """DATA: is there somewhere to put a message?"""
        through = self.settings.milter_stages and self.session.client.judged
        self.queue = self.server.through_milters if through else self.server.queue
        if not self.filter[0] and not self.queue.ready():
            return self.session.refuse_text(replies.report_reply(queue_line.REFUSED))
        header = self.session.begin(self.server.date(), self.server.ident() if self.session.login else b'',
                                    int(self.server.wall()))
        self.pieces, self.size = [header], len(header)
        self.text_since, self.text_bytes = self.server.now(), self.session.buffered()

    def body(self, data):
        """A part of the text."""
        self.size += len(data)
        if self.job is not None:
            return self.job.write(data)
        self.pieces.append(data)
        if self.size > SMALL:
            self.stream()

    def stream(self):
        """The message is long, or goes to a filter: hand over what there is, and the rest as it comes."""
        name, _ = self.filter
        if name:
            self.job = self.server.filtered(self)
        else:
            self.job = self.queue.stream(self.moved, self.done)
        message, self.pieces = b''.join(self.pieces), []
        self.job.write(message)

    def moved(self):
        """What waited has been taken: go on reading."""
        if self.input >= 0 and not self.closing:
            self.interest()

    def submit(self, data):
        """The text is complete."""
        self.size += len(data)
        if data:
            self.pieces.append(data)
        through = not self.filter[0] and self.queue is self.server.through_milters
        envelope = queue_line.envelope(self.session, self.filter[1], [(b's', self.name)] if through else ())
        if self.job is None and (self.filter[0] or through):
            self.stream()
        if self.job is None:
            message, self.pieces = b''.join(self.pieces), []
            return self.queue.send(message, envelope, self.done)
        self.job.write(b''.join(self.pieces))
        self.pieces = []
        self.job.finish(envelope)

    def done(self, report):
        """The queue has said K, Z or D."""
        session, self.job = self.session, None
        if report[:1] == b'K':
            self.log_accepted(report[1:])
        if self.input < 0 or self.closing:
            return
        if not session.handed_over():           # it failed while the text still comes
            session.spoil(report)
            return self.interest()
        if report[:1] == b'K':
            session.queued(int(self.server.wall()), self.server.pid)
        else:
            session.failed(report)
        self.progressed = self.server.now()
        self.run()

    def forget(self, _=None):
        """The message is not wanted any more."""
        job, self.job, self.pieces, self.size = self.job, None, [], 0
        if job is not None:
            job.abort()

    def last(self, _):
        """Close after what is still to be said. polite: the client asked for it."""
        self.forget()
        self.cancel()
        self.polite = not self.session.buffered() and self.session.replies[-1][:3] == b'221'
        self.closing = self.server.now() + LINGER

    # ETRN: qpy-send judges it.

    def etrn(self, node):
        """Can what waits for this node be tried now?"""
        etrn_line.ask(self.server.loop, self.server.home, node, self.etrn_said)

    def etrn_said(self, count, reason):
        """How many messages are tried, or why none are (0: they were a moment ago)."""
        if self.input < 0 or self.closing:
            return
        session = self.session
        if count:                           # so seldom that nobody fills the log with it
            self.server.log(b'etrn%s: %s, %d messages' % (self.who(), self.server.safe(session.node), count))
        event = session.not_hurried(reason) if count is None else session.hurried(count, reason)
        if event is not None:
            _EVENTS[event[0]](self, event[1])
        self.progressed = self.server.now()
        self.run()

    # Output.

    def flush(self):
        """Write the replies."""
        out = self.session.output()
        if self.out or not out:
            self.out += out
        else:
            self.out = out
        if self.out and not self.writing:
            self.writable()
        elif not self.out and self.closing:
            self.said_all()

    def writable(self):
        """Write what can be written."""
        if self.out:
            try:
                sent = unix.write(self.output, self.out)
            except BlockingIOError:
                return self.interest()
            except unix.error:
                return self.close()
            self.out = self.out[sent:]
            self.progressed = self.server.now()
        if not self.out and self.closing:
            return self.said_all()
        if not self.out and self.front is not None:
            return self.hand_over()
        if self.out or self.writing:
            self.interest()
        return None

    def said_all(self):
        """The last reply is on its way."""
        if self.polite or self.eof or self.sock is None:
            return self.close()
        try:
            self.sock.shutdown(unix.SHUT_WR)
        except unix.error:
            return self.close()
        self.interest()

    def close(self):
        """The end, whatever was going on."""
        if self.input < 0:
            return
        session = self.session
        if session.decoder is not None or self.job is not None and not session.handed_over():
            self.forget()
        self.cancel()
        loop = self.server.loop
        loop.forget(self.input)
        if self.output != self.input:
            loop.forget(self.output)
        self.input = self.output = -1
        for sock in (self.sock, self.front):
            if sock is not None:
                sock.close()
        self.over()
        self.server.left(self)

    def over(self):
        """Those who were asked about this session need not remember it."""
        name, self.name = self.name, b''
        if name:
            self.server.checks.over(name)
            self.server.milters.over(name)

    # Time.

    def look_at_clock(self, now, settings):
        """Called every few seconds: has this lasted too long?"""
        if self.closing:
            if now > self.closing:
                self.close()
        elif now > self.ends:
            self.hang_up(replies.TOO_LONG)
        elif self.out:
            if now - self.progressed > settings.timeout:
                self.close()
        elif self.session.waiting or self.job is not None and self.job.pending > HIGH:
            self.progressed = now       # it is not the client that we wait for
        elif now - self.progressed > settings.timeout:
            self.hang_up(replies.TIMEOUT)
        elif self.session.decoder is not None and now - self.text_since > RATE_GRACE \
                and self.text_bytes < settings.rate * (now - self.text_since):
            self.hang_up(replies.TOO_SLOW)

    def hang_up(self, reply):
        """Say why, and close."""
        if self.word is not None:           # in a handshake nobody would understand it
            return self.close()
        self.session.hang_up(reply)
        self.last(None)
        self.run()

    def leave(self):
        """The chain ends."""
        if self.input >= 0 and not self.closing and not self.session.waiting:
            self.hang_up(replies.ENDING)

    # The log.

    def who(self):
        """The fields every line has: who it was."""
        helo = self.session.helo
        login = b' login ' + self.server.safe(self.session.login) if self.session.login else b''
        return b' ip %s helo %s%s' % (self.server.safe(self.ip), self.server.safe(helo) if helo else b'-', login)

    def log_refusals(self):
        """One line per refused thing."""
        notes, self.session.notes = self.session.notes, []
        for what, reply, sender, recipient in notes:
            line = b'refused ' + what + self.who()
            if sender or recipient or what == b'message':
                line += b' from <%s>' % self.server.safe(sender)
            if recipient:
                line += b' to <%s>' % self.server.safe(recipient)
            self.server.log(line + b': ' + reply)

    def log_accepted(self, ident):
        """One line per message."""
        sender, count = self.server.safe(self.session.sender), len(self.session.recipients)
        self.server.log(b'accepted%s from <%s> to %d bytes %d id %s qp %d' % (
            self.who(), sender, count, self.size, ident or b'-', self.server.pid))


_EVENTS.update({words.ASK: Conversation.ask, words.CHECK: Conversation.check, words.START: Conversation.start,
                words.BODY: Conversation.body, words.SUBMIT: Conversation.submit,
                words.DROP: Conversation.forget, words.CLOSE: Conversation.last, words.TLS: Conversation.starttls,
                words.AUTH: Conversation.auth, words.RESPONSE: Conversation.respond, words.CANCEL: Conversation.cancel,
                words.XCLIENT: Conversation.xclient, words.ETRN: Conversation.etrn, words.WHOSE: Conversation.whose})


class FileConversation(Conversation):
    """One client whose descriptor cannot be waited for: a regular file, /dev/null."""

    __slots__ = ('scheduled',)

    def interest(self):
        """Read on at the next pass of the loop."""
        session = self.session
        if self.eof and not (session.waiting or self.closing):
            return self.close()
        pending = self.job.pending if self.job is not None else 0
        ahead = session.waiting and session.buffered() > AHEAD
        self.reading = not self.eof and not ahead and pending <= HIGH
        if self.reading:
            self.server.loop.after(0, self.turn)

    def turn(self):
        """Read, unless something has happened meanwhile; each turn asks for the next one."""
        if self.input >= 0 and self.reading:
            self.reading = False
            self.readable()
