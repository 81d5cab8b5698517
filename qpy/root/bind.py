"""The sockets of the chain: bound and listening before any program runs, so that early clients wait.

Files are bound by their relative names in DIR/run, because a socket's path may have 107 bytes.
"""
from qpy import unix
from qpy.core import exits, layout
from qpy.lib import program

BACKLOG = 4096


def everything(house, table):
    """{service name: [(name, socket)]}, everything bound and listening.  The current directory is DIR/run."""
    remove_stale()
    pairs, handed = {}, {}
    for service in table:
        handed[service.name] = [(listen.name, listening(house, service, listen, pairs)) for listen in service.listens]
    return handed


def only_one(home):
    """A descriptor that holds the lock of this DIR; refuses if another chain has it."""
    try:
        fd = unix.open_regular(home + b'/queue/lock', unix.O_WRONLY | unix.O_CREAT, 0o600)
        unix.flock(fd, unix.LOCK_EX | unix.LOCK_NB)
    except BlockingIOError:
        raise program.Fatal(exits.TEMP, b'unable to start: another qpy-start runs in ' + home) from None
    except unix.NotRegular as problem:
        raise program.Fatal(exits.TEMP, b'unable to start: queue/lock: %s; rm -r %s/queue/lock: start makes it anew'
                            % (program.reason(problem), home)) from None
    except OSError as problem:
        raise program.Fatal(exits.TEMP, b'unable to start: %s; qpy writes to this file and to all of %s/queue: let it'
                            % (program.reason(problem), home)) from None
    return fd


def remove_stale():
    """Remove sockets of an earlier run, also of lines that are no more.  Nobody listens: we hold the lock."""
    for name in unix.listdir(b'.'):
        if unix.S_ISSOCK(unix.lstat(name).st_mode):
            unix.unlink(name)


def in_the_way(home, name):
    """Why a socket cannot be made in DIR/run, with the remedy, if something that is no socket has its name.  It is none of
    ours, so it is not removed."""
    try:
        mode = unix.lstat(name).st_mode
    except FileNotFoundError:
        return b''
    return b'' if unix.S_ISSOCK(mode) else layout.no_socket(home + b'/run/' + name, unix.S_ISDIR(mode))


def listening(house, service, listen, pairs):
    """The socket of one Listen."""
    if listen.kind == b'pair':
        if listen.name in pairs:
            return pairs.pop(listen.name)
        mine, pairs[listen.name] = unix.socketpair()
        return mine
    try:
        sock = tcp(listen.address, listen.port) if listen.kind == b'tcp' else file(house, listen)
        sock.listen(BACKLOG)
        return sock
    except OSError as problem:
        stranger = b'' if listen.kind == b'tcp' else in_the_way(house.home, listen.name)
        if stranger:
            raise program.Fatal(exits.TEMP, b'unable to listen for %s: %s' % (service.name, stranger)) from None
        where = b'%s port %d' % (listen.address, listen.port) if listen.kind == b'tcp' else b'run/' + listen.name
        raise program.Fatal(exits.TEMP, b'unable to listen on %s for %s: %s%s' % (
            where, service.name, program.reason(problem), hint(problem, listen.kind == b'tcp'))) from None


def hint(problem, is_tcp):
    """The remedy for a socket that could not be bound, if one is known."""
    if problem.errno == unix.EACCES and is_tcp:
        return b'; ports below 1024 need root'
    if problem.errno == unix.EADDRINUSE:
        return b'; another program has it'
    return b''


def tcp(address, port):
    """A TCP socket bound as asked."""
    six = b':' in address
    sock = unix.socket(unix.AF_INET6 if six else unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC)
    sock.setsockopt(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
    if six:
        sock.setsockopt(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
    sock.setblocking(False)
    sock.bind((address.decode('ascii'), port))
    return sock


def file(house, listen):
    """A socket in the current directory with its owner and mode."""
    sock = unix.socket_unix(unix.SOCK_STREAM if listen.kind == b'unix' else unix.SOCK_SEQPACKET)
    sock.bind(listen.name)
    if not house.rootless:
        unix.chown(listen.name, house.of(listen.owner)[0], house.of(listen.group)[1])
    unix.chmod(listen.name, 0o600 if house.rootless else listen.mode)
    return sock
