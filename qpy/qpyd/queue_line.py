"""The way to qpy-queued (DIR/run/submit) from a process that serves many clients.

    queue.send(message, envelope, done)         a short message, whole: all of them share one connection
    stream = queue.stream(progress, done)       a long one, piece by piece, on a connection of its own
    stream.write(bytes), stream.finish(envelope), stream.abort(); stream.pending: bytes not taken yet

done(report) is called once, from the loop: `K` and the ID, or a report as in core.exits (`Z...`, `D...`).
progress() is called when what waited has been taken. Connections are kept and used again.
"""
from collections import deque

from qpy import unix
from qpy.core import exits, submit
from qpy.lib import submit as queued

MOST_STREAMS = 100          # long messages at a time; further ones wait
MOST_BACKLOG = 16 << 20     # bytes of short messages that may wait for queued before no more are begun
KEPT = 8                    # idle connections kept for the next long message
PATIENCE = 300.0            # seconds that queued may take over one message

REFUSED = exits.queue_text(exits.QQ_CONNECT_REFUSED)
LATE = exits.queue_text(exits.QQ_CONNECT_TIMEOUT)
GONE = exits.queue_text(exits.QQ_CONNECTION_FAILED)


class Line:
    """One connection, and who waits for an answer on it."""

    __slots__ = ('connection', 'jobs', 'stream', 'queue')

    def __init__(self, queue, sock):
        self.queue, self.jobs, self.stream = queue, deque(), None
        self.connection = queued.Connection(queue.loop, sock, self.lost, self.drained)

    def answer(self, code, text):
        """The answer to the message that has waited longest."""
        done, _ = self.jobs.popleft()
        done(text if code else b'K' + text)

    def expect(self, done):
        """The callback for one more answer."""
        self.jobs.append((done, unix.monotonic()))
        self.queue.watch()
        return self.answer

    def lost(self):
        """The connection ended; who waited has been told by it, but not a message still being streamed."""
        self.queue.lines.discard(self)
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.end(GONE)
        self.queue.freed()

    def drained(self):
        """queued has taken everything."""
        if self.stream is not None:
            self.stream.progress()

    def give_up(self):
        """queued does not answer: nobody waits for it any longer."""
        self.connection.close()
        jobs, self.jobs = self.jobs, ()
        for done, _ in jobs:
            done(LATE)
        self.lost()


class Stream:
    """A long message."""

    __slots__ = ('queue', 'line', 'progress', 'done', 'early', 'finished', 'over')

    def __init__(self, queue, progress, done):
        self.queue, self.progress, self.done = queue, progress, done
        self.line, self.early, self.finished, self.over = None, [], None, False

    @property
    def pending(self):
        """Bytes that wait in this process."""
        return self.line.connection.backlog if self.line else sum(map(len, self.early))

    def carried_by(self, line):
        """A connection is there."""
        self.line, line.stream = line, self
        early, self.early = self.early, []
        line.connection.write(b''.join(early))
        if self.finished is not None:
            self.finish(self.finished)
        else:
            self.progress()

    def write(self, data):
        """A piece of the message."""
        if self.line is not None:
            self.line.connection.write(data)
        elif not self.over:
            self.early.append(data)

    def finish(self, envelope):
        """The message is complete."""
        self.finished = envelope
        if self.line is not None:
            line, line.stream = self.line, None
            line.connection.finish(envelope, line.expect(self.end_and_free))

    def end_and_free(self, report):
        """The answer: the connection is free again."""
        line, self.line = self.line, None
        self.queue.freed(line)
        self.end(report)

    def end(self, report):
        """Say the outcome, once."""
        self.line = None
        if not self.over:
            self.over = True
            self.done(report)

    def abort(self):
        """Not wanted any more. After finish: it may be queued all the same."""
        if self.over:
            return
        self.over = True
        if self.line is None:
            self.queue.waiting = deque(stream for stream in self.queue.waiting if stream is not self)
        elif self.finished is None:
            line, self.line = self.line, None
            line.stream = None
            line.connection.abandon()
            self.queue.freed(line)


class Queue:
    """All connections of one process; open_: to somebody who stands before qpy-queued and speaks as it does."""

    __slots__ = ('loop', 'open', 'lines', 'shared', 'idle', 'waiting', 'timer', 'patience')

    def __init__(self, loop, home, open_=None):
        self.loop, self.open = loop, open_ or (lambda: queued.connect(home))
        self.lines, self.idle, self.waiting = set(), [], deque()
        self.shared, self.timer, self.patience = None, None, PATIENCE

    def connect(self):
        """A new Line, or None."""
        try:
            line = Line(self, self.open())
        except unix.error:
            return None
        self.lines.add(line)
        return line

    def line(self):
        """The Line of the short messages, or None."""
        if self.shared not in self.lines:
            self.shared = self.connect()
        return self.shared

    def ready(self):
        """Can another message be begun?"""
        line = self.line()
        return line is not None and line.connection.backlog < MOST_BACKLOG

    def send(self, message, envelope, done):
        """Submit one whole message."""
        line = self.line()
        if line is None:
            self.loop.call_soon(lambda: done(REFUSED))
        else:
            line.connection.message(message, envelope, line.expect(done))

    def stream(self, progress, done):
        """Begin a long message."""
        stream = Stream(self, progress, done)
        line = self.free_line()
        if line is not None:
            stream.carried_by(line)
        elif len(self.lines) > MOST_STREAMS:
            self.waiting.append(stream)
        else:
            self.loop.call_soon(lambda: stream.end(REFUSED))
        return stream

    def free_line(self):
        """A Line for a long message, None if there is none now."""
        while self.idle:
            line = self.idle.pop()
            if line in self.lines:
                return line
        return self.connect() if len(self.lines) <= MOST_STREAMS else None

    def freed(self, line=None):
        """A Line is free, or there is room for one more."""
        if self.waiting:
            line = line if line in self.lines else self.free_line()
            if line is not None:
                self.waiting.popleft().carried_by(line)
            elif not self.lines:
                waiting, self.waiting = self.waiting, deque()
                self.loop.call_soon(lambda: [stream.end(REFUSED) for stream in waiting])
        elif line in self.lines:
            self.rest(line)

    def rest(self, line):
        """Keep a free Line, or close it."""
        if len(self.idle) < KEPT:
            self.idle.append(line)
        else:
            line.connection.close()
            self.lines.discard(line)

    def watch(self):
        """Have an eye on how long answers take."""
        if self.timer is None:
            self.timer = self.loop.after(self.patience / 4, self.look)

    def look(self):
        """Leave connections on which the oldest message has waited too long."""
        self.timer = None
        before = unix.monotonic() - self.patience
        for line in list(self.lines):
            if line.jobs and line.jobs[0][1] < before:
                line.give_up()
        if any(line.jobs for line in self.lines):
            self.watch()


def envelope(session, whole=True, more=()):
    """The records of a session's message, closed; without `whole` only sender and recipients (QMAILQUEUE)."""
    if not whole:
        return submit.envelope(session.sender, session.recipients)
    return submit.envelope(session.sender, session.recipients, [*session.options(), *more], session.personal)
