"""One DNS question on its way: to one server after the other, by UDP, and by TCP when the answer is too long.

Bytes only; what they mean is for `judge` to say.  Each try has a socket of its own, connected to its server:
the port is a fresh random one, and the kernel drops what comes from anywhere else.
"""
from qpy import unix

WAITS = (2, 4)          # seconds for each server in the first round, in the second
TCP_WAIT = 6            # seconds for an answer by TCP
SERVERS = 3             # asked at most in a round
NOISE = 50              # packets that are no answer, per try: R-09
UDP_SIZE = 65535

ANSWER, IGNORE, NEXT, PLAIN, TRUNCATED = range(5)


class Query:
    """judge(packet) -> (verdict, value): ANSWER is the end; IGNORE: not an answer to this question; NEXT:
    this server will not answer (value: why); PLAIN: nor while EDNS is used; TRUNCATED: ask again by TCP.

    done(value, server) at the end; done(None, reason) when no server answered.
    wires: the question with EDNS, and without.
    """

    __slots__ = ('loop', 'tries', 'wires', 'judge', 'done', 'sock', 'timer', 'server', 'noise', 'reason',
                 'buffer', 'by_tcp')

    def __init__(self, loop, servers, wires, judge, done):
        self.loop, self.wires, self.judge, self.done = loop, list(wires), judge, done
        self.tries = [(server, wait) for wait in WAITS for server in servers[:SERVERS]][::-1]
        self.sock = self.timer = self.server = None
        self.noise, self.reason, self.buffer = 0, b'no DNS server is known', b''
        self.by_tcp = False

    def start(self):
        """Ask."""
        self._next()

    def _next(self):
        self._drop()
        while self.tries:
            self.server, wait = self.tries.pop()
            if self._open(unix.SOCK_DGRAM, wait):
                self.noise, self.by_tcp = 0, False
                if self._send(self.wires[0]):
                    self.loop.watch(self.sock.fileno(), self._heard)
                    return
                self._drop()
        self.done(None, self.reason)

    def _open(self, kind, wait):
        """A socket connected (or connecting) to the server."""
        address, port = self.server
        family = unix.AF_INET6 if b':' in address else unix.AF_INET
        try:
            self.sock = unix.socket(family, kind | unix.SOCK_CLOEXEC, 0)
            self.sock.setblocking(False)
            self.sock.connect((address.decode('ascii'), port))
        except BlockingIOError:
            pass
        except OSError as problem:
            self._failed(problem)
            self._drop()
            return False
        self.timer = self.loop.after(wait, self._silent)
        return True

    def _send(self, data):
        try:
            self.sock.send(data)
        except OSError as problem:
            self._failed(problem)
            return False
        return True

    def _silent(self):
        self.reason = b'%s did not answer in time' % self.server[0]
        self._next()

    def _failed(self, problem):
        self.reason = b'%s: %s' % (self.server[0], (problem.strerror or 'error').lower().encode())

    def _heard(self):
        try:
            packet = self.sock.recv(UDP_SIZE)
        except BlockingIOError:
            return None
        except OSError as problem:      # nobody listens there: the kernel was told by ICMP
            self._failed(problem)
            return self._next()
        self.noise += 1
        return self._judged(packet)

    def _judged(self, packet):
        verdict, value = self.judge(packet)
        if verdict == ANSWER:
            server = self.server
            self._drop()
            return self.done(value, server)
        if verdict == IGNORE:
            return self._next() if self.noise > NOISE or self.by_tcp else None
        if verdict == TRUNCATED and not self.by_tcp:
            return self._ask_by_tcp()
        self.reason = b'%s: %s' % (self.server[0], value)
        if verdict == PLAIN and len(self.wires) > 1:
            del self.wires[0]
            self.tries.append((self.server, WAITS[0]))
        return self._next()

    # --- TCP ---

    def _ask_by_tcp(self):
        self._drop()
        self.by_tcp, self.buffer = True, b''
        if not self._open(unix.SOCK_STREAM, TCP_WAIT):
            return self._next()
        return self.loop.watch(self.sock.fileno(), None, self._tcp_connected)

    def _tcp_connected(self):
        errno = self.sock.getsockopt(unix.SOL_SOCKET, unix.SO_ERROR)
        wire = self.wires[0]
        if errno:
            self._failed(OSError(errno, unix.strerror(errno)))
            return self._next()
        if not self._send(len(wire).to_bytes(2, 'big') + wire):     # a few hundred bytes into an empty buffer
            return self._next()
        return self.loop.watch(self.sock.fileno(), self._tcp_heard)

    def _tcp_heard(self):
        try:
            data = self.sock.recv(UDP_SIZE)
        except BlockingIOError:
            return None
        except OSError as problem:
            self._failed(problem)
            return self._next()
        self.buffer += data
        wanted = 2 + int.from_bytes(self.buffer[:2], 'big')
        if len(self.buffer) >= 2 and len(self.buffer) >= wanted:
            return self._judged(self.buffer[2:wanted])
        if not data:
            self.reason = b'%s closed the connection' % self.server[0]
            return self._next()
        return None

    def _drop(self):
        if self.timer is not None:
            self.timer.cancel()
        if self.sock is not None:
            self.loop.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None
