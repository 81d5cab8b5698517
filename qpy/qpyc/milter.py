"""qpy-milter, as qpyc: has sessions and messages judged by other people's filters, which speak the milter protocol.

DIR/run/milter (SOCK_SEQPACKET, inherited as `milter`): the questions of qpy-smtpd, as qpy-check's (core.channel):
    Q n, facts (core.checks.FIELDS)  ->  a n, ok|no, reply, reason, (nothing)
    E session                            it has ended
DIR/run/filter (stream, inherited as `filter`): messages, as qpy-queued takes them (core.submit), with one record more,
`s` and the session.  What the milters leave of a message goes to qpy-queued; its answer goes back.

Asks: the milters of control/milters.  Writes: DIR/check, files without a name.  A few workers would not do: a session's
stages and its message must meet, so there is one; a master replaces it when it dies.
Exit: 0 when the chain ends, 111 otherwise.
"""
from collections import deque

from qpy import unix
from qpy.core import asking, channel, checks, draft, exits, mess, milter, submit, text
from qpy.lib import controls, packets, program, spool
from qpy.lib import submit as queued
from qpy.qpyc import filters, judging
from qpy.qpyc.settings import by_lines

FILES = (b'milters',)
SESSION = b's'              # the record of a message's session; it goes no further
MOST_SESSIONS = 20_000
READ = 65536                # bytes of a message taken from one client at a time
HIGH = 256 << 10            # bytes that queued has not taken, at which we wait
PATIENCE = 300.0            # seconds that queued may take over one message
DISCARDED = b'0' * mess.ID_SIZE         # the ID of a message that nobody keeps
HEADER_LONG = b'the header is too long for the filters here (#5.3.4)'
NO_SESSION = b'unable to have this checked now; try again later (#4.3.0)'


def load(home):
    """[core.milter.Place] of control/milters."""
    return by_lines(home, b'milters', milter.parse)


class Server:
    """All sessions."""

    __slots__ = ('loop', 'home', 'places', 'sessions', 'kept')

    def __init__(self, loop, home):
        self.loop, self.home, self.sessions, self.kept = loop, home, {}, (home + b'/check',)
        self.places = controls.Watched(home, FILES, load)

    def begin(self):
        """Nothing is remembered of yesterday."""

    end = begin

    def questions(self, sock, _):
        """A worker of qpy-smtpd has connected to ask."""
        Questions(self, sock)

    def messages(self, sock, _):
        """A worker of qpy-smtpd has connected to hand in messages."""
        Messages(self, sock)

    def session(self, facts):
        """The session that is spoken of; None if there are too many."""
        found = self.sessions.get(facts.session)
        if found is None and len(self.sessions) < MOST_SESSIONS:
            found = self.sessions[facts.session] = filters.Session(self.loop, self.places.get(), self.kept)
            if facts.stage != asking.CONNECT:       # it began with a worker before this one
                for each in found.filters:
                    each.broken(b'it has not heard this session from its beginning')
        return found

    def over(self, name):
        """A session has ended."""
        found = self.sessions.pop(name, None)
        if found is not None:
            found.close()


class Questions:
    """One worker of qpy-smtpd, asking."""

    __slots__ = ('server', 'channel', 'mine')

    def __init__(self, server, sock):
        self.server, self.mine = server, set()
        self.channel = packets.Channel(server.loop, sock, channel.CHECK_ASK, self.records, self.closed)

    def records(self, records):
        """Stages, and ends of sessions."""
        for letter, (number, *words), _ in records:
            if letter == b'E':
                self.mine.discard(number)
                self.server.over(number)
            else:
                self.stage(number, checks.Facts(*words))

    def stage(self, number, facts):
        """One stage of one session."""
        session = self.server.session(facts)
        if session is None:
            return self.channel.send(b'a', number, filters.REFUSE, filters.TROUBLE, b'too many sessions at a time', b'')
        self.mine.add(facts.session)
        return session.judge(facts, lambda verdict, reply, reason: self.channel.send(
            b'a', number, verdict, text.printable(reply), text.one_line(reason), b''))

    def closed(self, _):
        """It is gone, and its sessions with it."""
        for name in self.mine:
            self.server.over(name)


class Messages:
    """One connection with messages, one after the other, as queued hears them."""

    __slots__ = ('server', 'sock', 'receiver', 'spool', 'out', 'waiting', 'working')

    def __init__(self, server, sock):
        self.server, self.sock, self.receiver = server, sock, submit.Receiver()
        self.spool, self.out, self.waiting, self.working = spool.Spool(server.kept), b'', deque(), False
        self.watch()

    def watch(self):
        """Read, unless a message is being worked on; write what there is."""
        if self.sock is not None:
            self.server.loop.watch(self.sock.fileno(), None if self.working else self.readable,
                                   self.writable if self.out else None)

    def readable(self):
        """A part of a message."""
        try:
            data = self.sock.recv(READ)
        except BlockingIOError:
            return
        except unix.error:
            data = b''
        if not data:
            return self.close()
        self.waiting.extend(self.receiver.feed(data))
        self.go_on()

    def go_on(self):
        """The next events, until a message is complete."""
        while self.waiting and not self.working and self.sock is not None:
            kind, value = self.waiting.popleft()
            if kind == submit.BODY:
                self.keep(value)
            elif kind == submit.MESSAGE:
                self.working = True
                self.complete(value)
            else:
                self.spool.close()
                if kind == submit.BROKE:
                    self.close()
        self.watch()

    def keep(self, piece):
        """A piece of the text; a disk that does not take it is said at the end."""
        try:
            if self.spool is not None:
                self.spool.add(piece)
        except unix.error as problem:
            program.warn(b'unable to keep a message: ' + program.reason(problem))
            self.spool.close()
            self.spool = None

    def complete(self, records):
        """A whole message: to its session's milters."""
        kept, self.spool = self.spool, spool.Spool(self.server.kept)
        if kept is None:
            return self.answer(submit.refusal(exits.QQ_WRITE))
        try:
            envelope = mess.parse(records) if records is not None else None
        except ValueError:
            envelope = None
        if envelope is None:
            kept.close()
            return self.answer(submit.refusal(exits.QQ_ENVELOPE))
        session = self.server.sessions.get(envelope.option(SESSION, b''))
        envelope.options = [pair for pair in envelope.options if pair[0] != SESSION]
        if session is None:
            kept.close()
            return self.answer(submit.refusal(exits.QQ_SERVER_TEMPORARY, NO_SESSION))
        return self.filter(session, envelope, kept)

    def filter(self, session, envelope, kept):
        """Have the milters read it."""
        try:
            found = header_of(kept)
        except unix.error as problem:
            program.warn(b'unable to read a message back: ' + program.reason(problem))
            kept.close()
            return self.answer(submit.refusal(exits.QQ_READ))
        if found is None:
            kept.close()
            return self.answer(submit.refusal(exits.QQ_REFUSED, HEADER_LONG))
        head, start, blank = found
        body = filters.Body(kept, start, blank)
        return session.message(draft.Draft(envelope, head), body, lambda outcome: self.judged(session, body, outcome))

    def judged(self, session, body, outcome):
        """The milters have spoken."""
        facts = session.facts
        if outcome.reason:
            words = (b'refused' if outcome.verdict == filters.REFUSE else b'discarded' if outcome.verdict == b'discard'
                     else b'held' if outcome.draft.hold else b'passed')
            program.log(b'%s: %s message session %s ip %s from <%s>: %s' % (
                program.name, words, facts.session, text.logsafe(facts.ip), text.logsafe(facts.sender[:1000]),
                text.one_line(outcome.reason[:2000])))
        if outcome.verdict == filters.OK and self.sock is not None:
            return Delivery(self.server, outcome.draft, outcome.body, self.answer).start()
        body.spool.close()
        if outcome.verdict == filters.REFUSE:
            return self.answer(refusal_of(outcome.reply))
        return self.answer(submit.accepted(DISCARDED))

    def answer(self, data):
        """To qpy-smtpd; then the next message."""
        self.working = False
        if self.sock is None:
            return
        self.out += data
        self.writable()
        self.server.loop.call_soon(self.go_on)

    def writable(self):
        """Write what waits."""
        try:
            self.out = self.out[self.sock.send(self.out, unix.MSG_NOSIGNAL):]
        except BlockingIOError:
            pass
        except unix.error:
            return self.close()
        self.watch()

    def close(self):
        """It is gone."""
        if self.sock is not None:
            self.server.loop.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None
        if self.spool is not None:
            self.spool.close()


class Delivery:
    """A message on its way to queued.  done(answer as qpy-smtpd wants it)."""

    __slots__ = ('server', 'draft', 'body', 'done', 'connection', 'timer', 'pieces')

    def __init__(self, server, draft_, body, done):
        self.server, self.draft, self.body, self.done = server, draft_, body, done
        self.connection = self.timer = None
        self.pieces = self.bytes()

    def bytes(self):
        """The stored form, in pieces."""
        yield self.draft.head()
        if self.body.blank or self.draft.changed:
            yield b'\n'
        yield from self.body.pieces()

    def start(self):
        """Connect; queued's answer comes on the same connection."""
        try:
            sock = queued.connect(self.server.home)
        except unix.error as problem:
            return self.end(*queued.connect_failure(problem))
        self.timer = self.server.loop.after(PATIENCE, self.late)
        self.connection = queued.Connection(self.server.loop, sock, self.lost, self.go_on)
        return self.go_on()

    def go_on(self):
        """As much as queued takes."""
        try:
            while self.pieces is not None:
                if self.connection.backlog >= HIGH:
                    return self.server.loop.call_soon(self.flushed)
                piece = next(self.pieces, None)
                if piece is None:
                    return self.finish()
                self.connection.write(piece)
        except unix.error as problem:
            program.warn(b'unable to read a message back: ' + program.reason(problem))
            self.end(exits.QQ_READ, exits.queue_text(exits.QQ_READ))
        return None

    def flushed(self):
        """What waited was written at the end of this pass: if all of it was taken nobody tells us."""
        if self.done is not None and self.connection.backlog < HIGH:
            self.go_on()

    def finish(self):
        """The envelope."""
        self.pieces, envelope = None, self.draft.envelope
        if self.draft.hold and envelope.option(b'h') is None:
            envelope.options.append((b'h', self.draft.hold))
        self.connection.finish(envelope.build() + b'\0', self.end)

    def late(self):
        """queued does not answer."""
        self.end(exits.QQ_CONNECT_TIMEOUT, exits.queue_text(exits.QQ_CONNECT_TIMEOUT))

    def lost(self):
        """The connection ended before the message did."""
        self.end(exits.QQ_CONNECTION_FAILED, exits.queue_text(exits.QQ_CONNECTION_FAILED))

    def end(self, code, words):
        """queued has said 0 and the ID, or a code and its text."""
        done, self.done = self.done, None
        if done is None:
            return
        if self.timer is not None:
            self.timer.cancel()
        if self.connection is not None:
            self.connection.close()
        self.body.spool.close()
        done(submit.refusal(code, words[1:]) if code else submit.accepted(words))


def header_of(kept):
    """(bytes of the header, where the body begins, whether an empty line is between them); None if it is too long."""
    content = kept.content()
    if isinstance(content, bytes):
        data = content
    else:
        data = unix.pread_all(content, draft.HEADER_LIMIT + 1, 0)
    found = draft.split(data[:draft.HEADER_LIMIT + 1])
    if found is None and kept.size <= draft.HEADER_LIMIT:
        found = len(data), False                    # nothing but a header, the last line perhaps without its end
    if found is None:
        return None
    at, blank = found
    return data[:at], at + blank, blank


def refusal_of(reply):
    """queued's way to say what a filter wants the client told: a code and a sentence with (#x.y.z) behind it."""
    code, _, rest = reply.partition(b' ')
    status, _, words = rest.partition(b' ')
    number = exits.QQ_REFUSED if code[:1] == b'5' else exits.QQ_SERVER_TEMPORARY
    return submit.refusal(number, b'%s (#%s)' % (words, status))


# --- the program ---------------------------------------------------------------------------------------------

def main(home, args):
    """qpy-milter"""
    return judging.run(home, b'milter', args, load, Server, {b'milter': Server.questions, b'filter': Server.messages})
