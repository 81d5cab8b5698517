"""Submitting a message: the clients of queued, and the filters that may stand in its place.

send() is for programs that do one thing and wait; Connection is for those that serve many in an event loop.  The
bytes are core.submit's.  Whoever answers on DIR/run/submit must be the owner of the queue or root: nothing is said
to anybody else.
"""
from _collections import deque        # collections itself costs sendmail 1.5 ms

from qpy import unix
from qpy.core import exits, mess, submit
from qpy.lib import packets

PIECE = 65536               # bytes read and framed at once
PATIENCE = 600.0            # seconds queued may take over one step
OVERFLOW_UID = 65534        # what every uid looks like that a user namespace does not map
FILTERS = (b'QPYQUEUE', b'QMAILQUEUE')
CUSTOM_LIMIT = 255          # bytes kept of what a filter says on descriptor 6


def connect(home):
    """A non-blocking stream socket to queued.  OSError: nobody serves; packets.WrongPeer: somebody else does."""
    owner = packets.queue_owner(home)
    if owner == OVERFLOW_UID:
        _check_unmapped(home)
    return packets.connect(home, b'submit', owner, unix.SOCK_STREAM)


def _check_unmapped(home):
    """In a user namespace the queue's owner looks like nobody: then DIR itself must be out of our reach too."""
    for path in (home, home + b'/run', home + b'/queue'):
        if unix.stat(path).st_uid != OVERFLOW_UID:
            raise packets.WrongPeer(unix.EPERM, 'the owner of the queue does not exist here', path)


# --- one message, and wait -----------------------------------------------------------------------------------

def send(home, sender, recipients, message, options=(), recipient_options=None):
    """Queue one message: (0, ID), or (exit code of qmail-queue, its text with Z or D in front).

    message: bytes, a descriptor to be read to its end, or an iterable of bytes; what it raises is passed on, and
    nothing is queued.  $QPYQUEUE or else $QMAILQUEUE, if set, is run in queued's place, or what was put in the place of
    bin/qmail-queue; then (0, its PID) is success.
    ValueError for NUL in an address.
    """
    records = mess.Envelope(sender, recipients, options, recipient_options).build()
    for name in FILTERS:
        if unix.environ.get(name):
            return through_filter(unix.environ[name], home, message, for_filter(records, name))
    other = in_its_place(home)
    if other:
        return through_filter(other, home, message, for_filter(records, b'QMAILQUEUE'))
    return send_records(home, records, message)


def in_its_place(home):
    """What somebody has put in the place of bin/qmail-queue, as qmail's recipes do (a null client's link to qmail-qmqpc,
    a scanner), which means it for all mail that does not ask for another filter; b'' if nobody has."""
    path = home + b'/bin/qmail-queue'
    try:
        return b'' if unix.readlink(path).rpartition(b'/')[2] == b'qpy-queue' else path
    except unix.error as problem:
        return path if problem.errno == unix.EINVAL else b''        # no link, but a file


def obey_what_is_in_its_place(home):
    """For servers, whose clients may each have a filter of their own: for the others QMAILQUEUE is that."""
    other = in_its_place(home)
    if other and not any(unix.environ.get(name) for name in FILTERS):
        unix.environ[b'QMAILQUEUE'] = other


def send_records(home, records, message):
    """As send(), straight to queued, with the envelope's records (each NUL-ended, without the end mark)."""
    try:
        sock = connect(home)
    except unix.error as problem:
        return connect_failure(problem)
    try:
        sock.settimeout(PATIENCE)
        return _converse(sock, message, records)
    finally:
        sock.close()


def connect_failure(problem):
    """(code, text) for the OSError of connect()."""
    code = exits.QQ_CONNECT_TIMEOUT if problem.errno in (unix.EAGAIN, unix.ETIMEDOUT) else exits.QQ_CONNECT_REFUSED
    return code, exits.queue_text(code)


def _converse(sock, message, records):
    try:
        for data in _stream(message, records):
            sock.sendall(data, unix.MSG_NOSIGNAL)
    except _Unreadable:
        return exits.QQ_READ, exits.queue_text(exits.QQ_READ)
    except _Caller as trouble:
        raise trouble.args[0]
    except unix.error as problem:
        if problem.errno not in (unix.EPIPE, unix.ECONNRESET):
            return _network_failure(problem)
        # queued has closed: perhaps it has said why
    return _await_answer(sock)


def _stream(message, records):
    """What goes over the connection: in one piece where it is short."""
    if isinstance(message, bytes) and len(message) <= PIECE:
        yield submit.VERSION + (submit.frame(message) if message else b'') + submit.END + records + b'\0'
        return
    yield submit.VERSION
    for piece in _pieces(message):
        if piece:
            yield submit.frame(piece)
    yield submit.END + records + b'\0'


class _Unreadable(Exception):
    """The descriptor with the message cannot be read."""


class _Caller(Exception):
    """What the caller's iterable raised; kept apart from the socket's own errors."""


def _pieces(message):
    if isinstance(message, int):
        return _pieces_of_fd(message)
    if isinstance(message, (bytes, bytearray, memoryview)):
        return (message[at:at + PIECE] for at in range(0, len(message), PIECE))
    return _pieces_of_caller(message)


def _pieces_of_fd(fd):
    while True:
        try:
            piece = unix.read(fd, PIECE)
        except unix.error as problem:
            raise _Unreadable from problem
        if not piece:
            return
        yield piece


def _pieces_of_caller(message):
    try:
        yield from message
    except Exception as problem:
        raise _Caller(problem) from problem


def _await_answer(sock):
    answers = submit.Answers()
    while True:
        try:
            data = sock.recv(4096)
        except unix.error as problem:
            return _network_failure(problem)
        if not data:
            return submit.BROKEN
        found = answers.feed(data)
        if found:
            return found[0]


def _network_failure(problem):
    if isinstance(problem, TimeoutError):
        return exits.QQ_CONNECT_TIMEOUT, exits.queue_text(exits.QQ_CONNECT_TIMEOUT)
    return submit.BROKEN


# --- a filter in queued's place ------------------------------------------------------------------------------

def for_filter(records, name):
    """The records that the filter of this variable gets: all of them for QPYQUEUE, F and T for QMAILQUEUE."""
    if name == b'QPYQUEUE':
        return records
    return b''.join(r + b'\0' for r in records.split(b'\0') if r[:1] in (b'F', b'T') and r)


def through_filter(program, home, message, records):
    """Run program as qmail-queue: message on its descriptor 0, envelope on 1, its own words on 6.

    (0, its PID), or (code, text) as send().  A relative name counts from home.  What message raises is passed on,
    after the program has seen an envelope without end, which it must not take for success.
    """
    (body_in, body), (envelope_in, envelope), (words, words_out) = (unix.pipe2(unix.O_CLOEXEC) for _ in range(3))
    try:
        child = unix.fork()
    except unix.error:
        for fd in (body_in, body, envelope_in, envelope, words, words_out):
            unix.close(fd)
        return exits.QQ_MEMORY, exits.queue_text(exits.QQ_MEMORY)
    if child == 0:
        _exec_filter(program, home, body_in, envelope_in, words_out)
    for fd in (body_in, envelope_in, words_out):
        unix.close(fd)
    before = unix.signal(unix.SIGPIPE, unix.SIG_IGN)
    failure, unreadable = _feed_both(body, _pieces(message), envelope, (records, b'\0'))
    custom = _hear(words)
    status = unix.waitpid(child, 0)[1]
    unix.signal(unix.SIGPIPE, before)
    if failure is not None:
        raise failure
    return _judge(child, unix.waitstatus_to_exitcode(status), custom, unreadable)


def _exec_filter(program, home, body, envelope, words):
    try:
        high = [unix.duplicate_above(fd, 16) for fd in (body, envelope, words)]
        for fd, wanted in zip(high, (0, 1, 6), strict=True):
            unix.dup2(fd, wanted)
        unix.chdir(home)
        for number in (unix.SIGPIPE, unix.SIGXFSZ):
            unix.signal(number, unix.SIG_DFL)
        unix.pthread_sigmask(unix.SIG_SETMASK, [])
        unix.execve(program, [program], {**unix.environ, b'ERROR_FD': b'6'})
    finally:
        unix._exit(exits.QQ_EXEC)


def _feed_both(body, message, envelope, records):
    """Write and close both pipes: (what the caller's message raised or None, True if it could not be read)."""
    failure, unreadable = None, False
    try:
        _feed(body, message)
    except _Unreadable:
        unreadable = True
    except _Caller as trouble:
        failure = trouble.args[0]
    unix.close(body)
    if failure is None and not unreadable:
        _feed(envelope, records)
    unix.close(envelope)
    return failure, unreadable


def _feed(fd, pieces):
    """Write the pieces; a reader that has seen enough ends it early, and its exit code will tell."""
    try:
        for piece in pieces:
            unix.write_all(fd, piece)
    except BrokenPipeError:
        pass


def _hear(fd):
    """The first CUSTOM_LIMIT bytes, read to the end."""
    kept = b''
    try:
        while True:
            piece = unix.read(fd, 4096)
            if not piece:
                return kept
            kept = (kept + piece)[:CUSTOM_LIMIT]
    finally:
        unix.close(fd)


def _judge(pid, code, custom, unreadable):
    if code < 0:
        return exits.QQ_BUG, exits.QQ_CRASHED
    if code == 0 and not unreadable:
        return 0, b'%d' % pid
    if code == 0:
        code = exits.QQ_READ
    return code, exits.queue_text(code, custom)


# --- many messages, in an event loop -------------------------------------------------------------------------

class Connection:
    """One connection to queued in a loop: never blocks, takes any number of messages one after the other.

    Either message(): a whole one; or write() as often as needed, then finish(), or abandon().  on_answer(code, text)
    is called as submit.Answers tells, in order; after the connection is lost, with 74 for each that waits, and then
    on_lost() once.  backlog: bytes queued has not taken yet; whoever streams stops reading while that is large,
    and goes on at on_drained().
    """

    __slots__ = ('loop', 'sock', 'on_lost', 'on_drained', 'answers', 'waiting', 'out', 'backlog', 'scheduled',
                 'watching')

    def __init__(self, loop, sock, on_lost=None, on_drained=None):
        self.loop, self.sock, self.on_lost, self.on_drained = loop, sock, on_lost, on_drained
        self.answers, self.waiting = submit.Answers(), deque()
        self.out, self.backlog = deque([submit.VERSION]), 1
        self.scheduled = self.watching = False
        loop.watch(sock.fileno(), self._readable)

    def message(self, data, envelope, on_answer):
        """Submit one whole message.  envelope: as core.submit.envelope makes it."""
        self.waiting.append(on_answer)
        self._put(b'%b%b%b' % (submit.frame(data) if data else b'', submit.END, envelope))

    def write(self, data):
        """The next piece of a message that is being streamed."""
        if data:
            self._put(submit.frame(data))

    def finish(self, envelope, on_answer):
        """The streamed message is complete."""
        self.waiting.append(on_answer)
        self._put(submit.END + envelope)

    def abandon(self):
        """Forget the message being streamed; the connection stays good."""
        self._put(submit.ABANDON)

    def _put(self, data):
        if self.sock is None:
            self.loop.call_soon(self._drop_waiting)
            return
        self.out.append(data)
        self.backlog += len(data)
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self._flush)

    def _flush(self):
        self.scheduled = False
        while self.out and self.sock is not None:
            data = b''.join(self.out)
            self.out.clear()
            try:
                sent = self.sock.send(data, unix.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except unix.error:
                return self._readable()         # perhaps it has said why
            self.backlog -= sent
            if sent < len(data):
                self.out.append(data[sent:])
                break
        self._watch_writable(bool(self.out))

    def _watch_writable(self, wanted):
        if self.sock is None or wanted == self.watching:
            return
        self.watching = wanted
        self.loop.watch(self.sock.fileno(), self._readable, self._flush if wanted else None)
        if not wanted and self.on_drained:
            self.on_drained()

    def _readable(self):
        if self.sock is None:
            return
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except unix.error:
            data = b''
        if not data:
            return self._gone()
        for code, text in self.answers.feed(data):
            if not self.waiting or (code, text) == submit.BROKEN:
                return self._gone()
            self.waiting.popleft()(code, text)

    def _gone(self):
        if self.sock is not None:
            self.close()
            self._drop_waiting()
            if self.on_lost:
                self.on_lost()

    def _drop_waiting(self):
        while self.waiting:
            self.waiting.popleft()(*submit.BROKEN)

    def close(self):
        """Close it now.  What waits for an answer gets none."""
        if self.sock is not None:
            self.loop.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None
            self.out.clear()
            self.backlog = 0
