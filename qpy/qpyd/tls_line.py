"""The way to qpy-tls (DIR/run/tls) from an SMTP server.

    Line(loop, home, beside)    keeps beside.tls true (see core.smtp_policy.Beside)
    line.arrived()          a client has come: is the way still there?
    line.wait(seconds)      until that is known
    line.connect()          a socket for one session, or None
    hand_over(sock, fd, asking)     give it the client's socket; False if that failed

    ask(home, patience), secure(home, fd, patience)     the same for a program with one client, that waits
"""
from qpy import unix
from qpy.core import tls_front
from qpy.lib import packets

RETRY = 1.0             # seconds before a missing qpy-tls is looked for again, and one that is there looks at its files again


class Line:
    """One per process."""

    __slots__ = ('loop', 'home', 'uid', 'sock', 'beside', 'retry', 'data', 'heard')

    def __init__(self, loop, home, beside):
        self.loop, self.home, self.beside = loop, home, beside
        self.uid = tls_uid(home)
        self.sock, self.retry, self.data, self.heard = None, 0.0, b'', False
        self.watch()

    def arrived(self):
        """Have qpy-tls look, in time for the client's EHLO in most cases; it tells what has changed."""
        if self.uid is None or unix.monotonic() < self.retry:
            return
        if self.sock is None:
            return self.watch()
        self.retry = unix.monotonic() + RETRY
        self.look()

    def look(self):
        """Have it look again; also when a session was refused by another process of qpy-tls than the one that tells us."""
        if self.sock is None:
            return
        try:
            unix.write(self.sock.fileno(), tls_front.LOOK)
        except unix.error:
            self.gone()

    def watch(self):
        """Ask to be told."""
        self.sock = self.connect()
        self.retry = unix.monotonic() + RETRY
        if self.sock is not None:
            self.beside.tls = False
            self.loop.watch(self.sock.fileno(), self.told)
            try:
                unix.write(self.sock.fileno(), tls_front.WATCH)
            except unix.error:
                self.gone()             # it has ended meanwhile

    def wait(self, seconds):
        """Until the first answer, for a server that has one client and cannot tell the next one."""
        ends = unix.monotonic() + seconds
        while self.sock is not None and not self.heard and unix.monotonic() < ends:
            self.loop.step(seconds)

    def told(self):
        """How things are."""
        try:
            data = unix.read(self.sock.fileno(), tls_front.MOST)
        except BlockingIOError:
            return
        except unix.error:
            data = b''
        if not data:
            return self.gone()
        *lines, self.data = (self.data + data).split(b'\n')
        for line in lines:
            self.heard = True
            self.beside.tls = line[:1] == tls_front.AVAILABLE

    def gone(self):
        """The qpy-tls that told us has ended: perhaps another one is there."""
        self.loop.forget(self.sock.fileno())
        self.sock.close()
        self.sock, self.beside.tls, self.data = None, None, b''
        if unix.monotonic() >= self.retry:
            self.watch()

    def connect(self):
        """A connection of its own for one session; None if nobody serves it."""
        return connect(self.home, self.uid)


def connect(home, uid):
    """A connection to qpy-tls, which is this uid; None if nobody serves it."""
    if uid is None:
        return None
    try:
        return packets.connect(home, b'tls', uid, unix.SOCK_STREAM)
    except unix.error:
        return None


def ask(home, patience):
    """Is there TLS now?  For a program without a loop: it waits for the answer so many seconds at most."""
    sock = connect(home, tls_uid(home))
    if sock is None:
        return False
    try:
        sock.settimeout(patience)
        sock.sendall(tls_front.WATCH)
        return sock.recv(tls_front.MOST)[:1] == tls_front.AVAILABLE
    except unix.error:
        return False
    finally:
        sock.close()


def secure(home, fd, patience):
    """(socket for clear text, core.tls_front.Tls) after qpy-tls has shaken hands with the client of fd; or (None, reason)."""
    sock = connect(home, tls_uid(home))
    if sock is None:
        return None, b'qpy-tls is not there'
    word, reason = b'', b'qpy-tls has ended'
    try:
        sock.settimeout(patience)
        if hand_over(sock, fd, False):
            while not word.endswith(b'\n') and len(word) < tls_front.MOST and (byte := sock.recv(1)):
                word += byte                    # what follows it is the client's
            letter, value = tls_front.parse(word.rstrip(b'\n'))
            if letter == tls_front.STANDS:
                sock.setblocking(True)
                return sock, value
            reason = value
    except (unix.error, ValueError):
        pass
    sock.close()
    return None, reason


def hand_over(sock, fd, asking):
    """The client's socket, with what is wanted for it."""
    try:
        return unix.send_packet(sock, tls_front.ASK if asking else tls_front.SERVE, (fd,))
    except unix.error:
        return False


def tls_uid(home):
    """The uid that serves DIR/run/tls; None if there is no such account."""
    try:
        return packets.owner_of(home, b'qpyt')
    except (KeyError, unix.error):
        return None
