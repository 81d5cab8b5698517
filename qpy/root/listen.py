"""qpy-listen, as root and then qpyd: opens one TCP port and becomes the program that serves it.

    arguments     ADDRESS:PORT PROGRAM [ARGUMENT ...]
    descriptors   3 for PROGRAM the listening socket, named smtpd in LISTEN_FDNAMES; 0, 1 and 2 stay
    exit          PROGRAM's; 100 when called wrongly, 111 when the port or the account cannot be had

Started without root it stays who it is.
"""
from qpy import unix
from qpy.core import accounts, controls as tables, exits, services
from qpy.lib import confine, controls, program
from qpy.root import bind

USAGE = b'usage: qpy-listen ADDRESS:PORT PROGRAM [ARGUMENT ...]'
ACCOUNT = b'qpyd'
NAME = b'smtpd'


def main(home, args):
    """Bind, listen, be qpyd, be the program."""
    unix.umask(0o077)
    if len(args) < 2:
        raise program.Fatal(exits.PERM, USAGE)
    try:
        address, port = services.parse_tcp(args[0], b'tcp:' + args[0], 0)
    except tables.ControlError:
        raise program.Fatal(exits.PERM, b'not an address and a port: ' + args[0]) from None
    path = find(args[1], home)
    unix.raise_descriptor_limit()
    listening = listen(address, port)
    if unix.geteuid() == 0:
        become_account(home)
    hand_over(listening)
    environment = {**unix.environ, b'LISTEN_FDS': b'1', b'LISTEN_FDNAMES': NAME, b'LISTEN_PID': b'%d' % unix.getpid()}
    unix.signal(unix.SIGPIPE, unix.SIG_DFL)
    unix.signal(unix.SIGXFSZ, unix.SIG_DFL)
    try:
        unix.execve(path, args[1:], environment)
    except OSError as problem:
        raise program.Fatal(exits.TEMP, b'unable to run %s: %s' % (path, program.reason(problem))) from None


def find(word, home):
    """The path of a program: as given, else in DIR/bin, else along PATH."""
    if b'/' in word:
        return word
    for directory in [home + b'/bin'] + unix.environ.get(b'PATH', b'/usr/bin:/bin').split(b':'):
        if unix.access(directory + b'/' + word, unix.X_OK):
            return directory + b'/' + word
    raise program.Fatal(exits.TEMP, b'unable to find ' + word)


def listen(address, port):
    """A listening socket."""
    try:
        sock = bind.tcp(address, port)
        sock.listen(bind.BACKLOG)
    except OSError as problem:
        raise program.Fatal(exits.TEMP, b'unable to listen on %s port %d: %s%s' % (
            address, port, program.reason(problem), bind.hint(problem, True))) from None
    return sock


def become_account(home):
    """Be qpyd for good."""
    names = accounts.names(controls.listing(home, b'accounts') or [])
    try:
        _, uid, gid, _ = unix.getpwnam(names[ACCOUNT])
    except KeyError:
        raise program.Fatal(exits.TEMP, b'the account %s is missing; run qpy-install' % names[ACCOUNT]) from None
    if not uid:
        raise program.Fatal(exits.TEMP, b'the account %s has uid 0; give it another' % names[ACCOUNT])
    confine.drop(uid, gid)


def hand_over(listening):
    """Give the socket its place: descriptor 3."""
    fd = listening.detach()
    if fd == 3:
        unix.set_inheritable(3, True)
    else:
        unix.dup2(fd, 3)
        unix.close(fd)
