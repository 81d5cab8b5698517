"""Connections to policy servers (core.policyd): kept, used again, one question at a time on each.

A connection that the server has closed meanwhile is made anew, once; a server that does not answer in its time gets no
second question on that connection.
"""
from collections import deque

from qpy import unix
from qpy.core import policyd
from qpy.lib import program
from qpy.qpyc import talk

MOST = 50               # connections to one server; further questions wait
MOST_WAITING = 5000


class Pool:
    """One server.  ask(request, done): done(action, text), or done(None, why)."""

    __slots__ = ('loop', 'server', 'idle', 'busy', 'waiting')

    def __init__(self, loop, server):
        self.loop, self.server = loop, server
        self.idle, self.busy, self.waiting = [], 0, deque()

    def ask(self, request, done):
        """See above; never at once."""
        if self.busy >= MOST:
            if len(self.waiting) >= MOST_WAITING:
                return self.loop.call_soon(lambda: done(None, b'too many questions wait for it'))
            return self.waiting.append((request, done))
        self.busy += 1
        return Question(self, request, done).start()

    def freed(self, sock):
        """A question is over; its connection, if it can be used again."""
        self.busy -= 1
        if sock is not None:
            self.idle.append(sock)
            self.loop.watch(sock.fileno(), lambda: self.drop(sock))
        if self.waiting:
            self.ask(*self.waiting.popleft())

    def drop(self, sock):
        """The server closed a connection that was kept, or spoke without being asked."""
        self.idle.remove(sock)
        self.loop.forget(sock.fileno())
        sock.close()

    def take(self):
        """A connection that was kept, or None."""
        if not self.idle:
            return None
        sock = self.idle.pop()
        self.loop.forget(sock.fileno())
        return sock

    def close(self):
        """Not used any more."""
        while self.idle:
            self.drop(self.idle[-1])


class Question:
    """One question and its answer."""

    __slots__ = ('pool', 'request', 'done', 'sock', 'out', 'heard', 'timer', 'kept')

    def __init__(self, pool, request, done):
        self.pool, self.request, self.done = pool, request, done
        self.sock, self.out, self.heard, self.kept = None, request, b'', False
        self.timer = pool.loop.after(pool.server.timeout, lambda: self.end(None, b'no answer in %d seconds'
                                                                           % pool.server.timeout))

    def start(self):
        """On a connection that was kept, else on a new one."""
        self.sock = self.pool.take()
        self.kept = self.sock is not None
        if self.sock is None:
            try:
                self.sock = talk.connect(self.pool.server.place)
            except unix.error as problem:
                reason = program.reason(problem)
                return self.pool.loop.call_soon(lambda: self.end(None, reason))
        return self.watch()

    def watch(self):
        """Write what is left, and read."""
        self.pool.loop.watch(self.sock.fileno(), self.readable, self.writable if self.out else None)

    def writable(self):
        """Connected, and taking."""
        try:
            self.out = talk.say(self.sock, self.out)
        except unix.error as problem:
            return self.failed(problem)
        return self.watch()

    def readable(self):
        """A part of the answer."""
        try:
            data = talk.hear(self.sock)
        except unix.error as problem:
            return self.failed(problem)
        if not data:
            return None if data is None else self.failed(None)
        self.heard += data
        try:
            answer = policyd.parse_answer(self.heard)
        except ValueError as problem:
            return self.end(None, str(problem).encode())
        return None if answer is None else self.end(answer[0], answer[1], not answer[2])

    def failed(self, problem):
        """The connection is gone: if it was an old one, try a new one."""
        if self.kept and not self.heard:
            self.close()
            self.out = self.request
            self.pool.close()
            return self.start()
        return self.end(None, program.reason(problem) if problem else b'it closed the connection')

    def end(self, action, words, reusable=False):
        """Tell, once."""
        done, self.done = self.done, None
        if done is None:
            return
        self.timer.cancel()
        sock, self.sock = (self.sock, None) if reusable else (None, self.sock)
        if sock is not None:
            self.pool.loop.forget(sock.fileno())
        self.close()
        self.pool.freed(sock)
        done(action, words)

    def close(self):
        """Close the connection."""
        if self.sock is not None:
            self.pool.loop.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None
