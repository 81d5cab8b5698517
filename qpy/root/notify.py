"""Telling the supervisor that the chain is up: the protocol of sd_notify(3), one datagram to $NOTIFY_SOCKET."""
from qpy import unix
from qpy.lib import program

READY = b'READY=1'


def supervisor():
    """A socket that is connected to who wants to be told; None if nobody does.  The variable is taken away.

    Connected now: who is confined makes no socket any more."""
    path = unix.environ.pop(b'NOTIFY_SOCKET', b'')
    if path[:1] not in (b'/', b'@'):
        return None
    sock = unix.socket_unix(unix.SOCK_DGRAM)
    try:
        sock.connect(b'\0' + path[1:] if path[:1] == b'@' else path)
    except OSError as problem:
        program.warn(b'unable to reach the supervisor: ' + program.reason(problem))
        sock.close()
        return None
    return sock


def tell(sock, words):
    """Send the words, once; who does not hear them waits until it loses patience."""
    if sock is None:
        return
    try:
        sock.send(words)
    except OSError as problem:
        program.warn(b'unable to tell the supervisor: ' + program.reason(problem))
    sock.close()
