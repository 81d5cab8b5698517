"""Descriptors handed over by whoever started this program: systemd's protocol, spoken by qpy-start too.

LISTEN_FDS descriptors begin at 3; LISTEN_FDNAMES names them, separated by colons; LISTEN_PID says for whom they
are.  See sd_listen_fds(3).
"""
from qpy import unix
from qpy.core import text

FIRST = 3
MOST = 1000


def listeners():
    """{name: [descriptors]} (names as bytes), each closed on exec; {} if nothing was handed to this process.

    The three variables are unset, so that no child takes them for its own.
    """
    environ = unix.environ
    pid = environ.pop(b'LISTEN_PID', b'')
    count = text.parse_uint(environ.pop(b'LISTEN_FDS', b''), MOST) or 0
    names = environ.pop(b'LISTEN_FDNAMES', b'').split(b':')
    found = {}
    if text.parse_uint(pid, 1 << 31) != unix.getpid():
        return found
    for i in range(count):
        unix.set_inheritable(FIRST + i, False)
        found.setdefault(names[i] if i < len(names) else b'unknown', []).append(FIRST + i)
    return found


def sockets(found, name):
    """The listening sockets called name, each listening again by our own call, so that clients see who we are."""
    listening = []
    for fd in found.pop(name, []):
        sock = unix.socket_of(fd)
        sock.listen(BACKLOG)
        listening.append(sock)
    return listening


BACKLOG = 4096      # the kernel's own limit (somaxconn) cuts it where it is lower


def life(loop, found, ended=None):
    """End with the chain: call `ended` (default: stop the loop) once, when the pipe called `life` is closed."""
    fds = found.pop(b'life', [])

    def closed():
        for fd in fds:
            loop.forget(fd)
        (ended or loop.stop)()
    for fd in fds:
        unix.set_blocking(fd, False)
        loop.watch(fd, closed)
