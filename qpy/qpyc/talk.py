"""Sockets to other people's programs, policy servers and milters: nothing here waits.  unix.error: the connection is gone."""
from qpy import unix

READ = 65536


def connect(place):
    """A non-blocking socket that connects to (address, port) or to a path."""
    if isinstance(place, bytes):
        sock = unix.socket_unix()
        where = unix.fsdecode(place)
    else:
        family = unix.AF_INET6 if b':' in place[0] else unix.AF_INET
        sock = unix.socket(family, unix.SOCK_STREAM | unix.SOCK_CLOEXEC, 0)
        sock.setblocking(False)
        sock.setsockopt(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)      # words that have no answer follow each other
        where = place[0].decode('ascii'), place[1]
    try:
        sock.connect(where)
    except BlockingIOError:
        pass
    except BaseException:
        sock.close()
        raise
    return sock


def say(sock, out):
    """What is left of out after what the other side takes now."""
    try:
        return out[sock.send(out, unix.MSG_NOSIGNAL):]
    except BlockingIOError:
        return out


def hear(sock):
    """What has come, b'' at the end; None: nothing yet."""
    try:
        return sock.recv(READ)
    except BlockingIOError:
        return None
