"""qpy-tcp-env, as whoever inetd starts it: finds out who is on descriptor 0, and becomes the program that
serves him.

    tcp-env [-rR] [-t seconds] program [argument ...]
    environment   sets PROTO, TCPLOCALIP, TCPLOCALPORT, TCPLOCALHOST, TCPREMOTEIP, TCPREMOTEPORT,
                  TCPREMOTEHOST, and TCPREMOTEINFO by asking the client's ident server (-R: does not)
    exit          the program's; 100 wrong use; 111 trouble

If PROTO is TCP already, it becomes the program at once.
"""
from qpy import unix
from qpy.core import address as addresses, exits, ident, text
from qpy.lib import execute, program

USAGE = b'usage: tcp-env [-rR] [-t seconds] program [argument ...]'
PATIENCE = 30               # seconds for the ident server
MOST_PATIENCE = 86400
IDENT_PORT = 113
NO_ANSWER = b'softdnserror'
VARIABLES = (b'LOCALIP', b'LOCALPORT', b'LOCALHOST', b'REMOTEIP', b'REMOTEPORT', b'REMOTEHOST', b'REMOTEINFO')


def main(home, args):
    """Ask, then become."""
    program.name = b'tcp-env'
    patience, words = options(args)
    environ = dict(unix.environ)
    if environ.get(b'PROTO') != b'TCP':
        for name in VARIABLES:
            environ.pop(b'TCP' + name, None)
        environ[b'PROTO'] = b'TCP'
        environ.update(facts(patience))
    problem = execute.along_path(words, environ)
    raise program.Fatal(exits.TEMP, b'unable to run %s: %s' % (words[0], program.reason(problem)))


def options(args):
    """(seconds for ident, 0: do not ask; the program's words)."""
    asks, patience, args = True, PATIENCE, list(args)
    while args and args[0][:1] == b'-' and args[0] != b'-':
        word = args.pop(0)
        if word == b'--':
            break
        letters = word[1:]
        while letters:
            letter, letters = letters[:1], letters[1:]
            if letter in (b'r', b'R'):
                asks = letter == b'r'
            elif letter == b't' and (letters or args):
                patience, letters = text.parse_uint(letters or args.pop(0), MOST_PATIENCE), b''
            else:
                raise program.Fatal(exits.PERM, USAGE)
    if not args or patience is None:
        raise program.Fatal(exits.PERM, USAGE)
    return patience if asks else 0, args


def facts(patience):
    """{variable: value} of the connection on descriptor 0; {} if it is none."""
    try:
        sock = unix.socket(fileno=0)
    except unix.error:
        return {}
    try:
        local, remote = sock.getsockname(), sock.getpeername()
        if sock.family not in (unix.AF_INET, unix.AF_INET6):
            return {}
        found = {b'TCPLOCALIP': shown(local), b'TCPLOCALPORT': b'%d' % local[1],
                 b'TCPREMOTEIP': shown(remote), b'TCPREMOTEPORT': b'%d' % remote[1]}
        for name, address in ((b'TCPLOCALHOST', local), (b'TCPREMOTEHOST', remote)):
            host = host_name(address)
            if host:
                found[name] = host
        info = asked(sock.family, local, remote, patience) if patience else b''
        return {**found, b'TCPREMOTEINFO': info} if info else found
    except unix.error:
        return {}
    finally:
        sock.detach()


def shown(address):
    """The IP address of a socket address; IPv4 as IPv4."""
    return addresses.normal_ip(address[0].partition('%')[0].encode())


def host_name(address):
    """Its host name in lower case, NO_ANSWER if that cannot be said now, None if there is none."""
    try:
        found = unix.host_of(address)
    except unix.error:
        return NO_ANSWER
    return found and text.lower(found)


def asked(family, local, remote, patience):
    """What the client's ident server says; b'' if nothing."""
    sock = unix.socket(family, unix.SOCK_STREAM | unix.SOCK_CLOEXEC)
    end = unix.monotonic() + patience
    try:
        sock.settimeout(patience)
        sock.bind((local[0], 0, *local[2:]))
        sock.connect((remote[0], IDENT_PORT, *remote[2:]))
        sock.sendall(ident.question(remote[1], local[1]), unix.MSG_NOSIGNAL)
        answer = b''
        while b'\n' not in answer and len(answer) < ident.LIMIT:
            sock.settimeout(max(0.001, end - unix.monotonic()))
            data = sock.recv(ident.LIMIT)
            if not data:
                break
            answer += data
        return ident.user(answer, remote[1], local[1])
    except unix.error:
        return b''
    finally:
        sock.close()
