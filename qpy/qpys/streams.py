"""What qpy-send reads and writes as plain streams: the log, queued's announcements, the questions to clean.
"""
from collections import deque

from qpy import unix

LOG_LIMIT = 1 << 18         # bytes kept for a log that takes nothing at the moment
LOG_PATIENCE = 0.05         # seconds until it is offered them again
CHUNK = 65536
LONGEST_WORD = 64           # bytes of one announcement


class Log:
    """Lines to descriptor 1: all of one pass of the loop in one write.

    A log that is full or gone never stops mail.  What it does not take is kept up to LOG_LIMIT; beyond that
    lines are lost, and how many is said as soon as it takes lines again.
    """

    __slots__ = ('loop', 'fd', 'rest', 'lost', 'waiting')

    def __init__(self, loop, fd=1):
        self.loop, self.fd, self.rest, self.lost, self.waiting = loop, fd, b'', 0, False

    def write(self, lines):
        """Write these lines (without newlines) and what is left of earlier ones."""
        if self.lost and len(self.rest) < LOG_LIMIT // 2:
            self._tell_lost()
        if len(self.rest) > LOG_LIMIT:
            self.lost += len(lines)
        else:
            lines.append(b'')
            self.rest += b'\n'.join(lines)
        self._push()

    def _push(self):
        self.waiting = False
        try:
            while self.rest:
                self.rest = self.rest[unix.write(self.fd, self.rest):]
                if self.lost and not self.rest:
                    self._tell_lost()
        except BlockingIOError:
            self.waiting = True
            self.loop.after(LOG_PATIENCE, self._again)
        except unix.error:
            self.lost += self.rest.count(b'\n')
            self.rest = b''

    def _tell_lost(self):
        self.rest += b'warning: %d log lines were lost\n' % self.lost
        self.lost = 0

    def _again(self):
        if self.waiting:
            self._push()


class Words:
    """NUL-ended words from a stream: on_words([bytes]) for what came, on_closed(reason) once at the end."""

    __slots__ = ('loop', 'sock', 'rest', 'on_words', 'on_closed')

    def __init__(self, loop, sock, on_words, on_closed):
        self.loop, self.sock, self.rest = loop, sock, b''
        self.on_words, self.on_closed = on_words, on_closed
        loop.watch(sock.fileno(), self._readable)

    def _readable(self):
        try:
            data = unix.read(self.sock.fileno(), CHUNK)
        except BlockingIOError:
            return
        except unix.error as problem:
            return self._gone(problem.strerror)
        if not data:
            return self._gone('closed')
        words = (self.rest + data).split(b'\0')
        self.rest = words.pop()
        if len(self.rest) > LONGEST_WORD:
            return self._gone('a word too long')
        if words:
            self.on_words(words)

    def _gone(self, reason):
        self.close()
        self.on_closed(reason)

    def close(self):
        """Stop listening."""
        self.loop.forget(self.sock.fileno())
        self.sock.close()


class Clean:
    """Questions to qpy-clean: a verb and an ID; the answers, one byte each, come back in the same order."""

    __slots__ = ('loop', 'sock', 'asked', 'out', 'scheduled', 'on_closed')

    def __init__(self, loop, sock, on_closed):
        self.loop, self.sock, self.asked, self.out = loop, sock, deque(), b''
        self.scheduled, self.on_closed = False, on_closed
        loop.watch(sock.fileno(), self._readable)

    def ask(self, verb, name, on_answer):
        """b'r' remove or b's' set aside; then on_answer(True if it was done)."""
        self.asked.append(on_answer)
        self.out += b'%s%s\0' % (verb, name)
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self._write)

    def _write(self):
        self.scheduled = False
        try:
            while self.out:
                self.out = self.out[unix.write(self.sock.fileno(), self.out):]
        except BlockingIOError:
            pass
        except unix.error as problem:
            return self._gone(problem.strerror)
        self.loop.watch(self.sock.fileno(), self._readable, self._write if self.out else None)

    def _readable(self):
        try:
            data = unix.read(self.sock.fileno(), CHUNK)
        except BlockingIOError:
            return
        except unix.error as problem:
            return self._gone(problem.strerror)
        if not data or len(data) > len(self.asked):
            return self._gone('closed' if not data else 'an answer to nothing')
        for answer in data:
            self.asked.popleft()(answer == 43)          # +

    def _gone(self, reason):
        self.loop.forget(self.sock.fileno())
        self.sock.close()
        self.on_closed(reason)
