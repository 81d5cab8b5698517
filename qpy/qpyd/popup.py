"""qpy-popup, as root and then qpyd: asks a POP3 client for its name and password, and lets a program judge.

    qpy-popup hostname program [argument ...]
    descriptors   0 and 1 the client, as under tcpserver
                  3 for program: name NUL secret NUL <PID.TIME@HOST> NUL
    environment   POP3S: TLS from the first byte; FORCETLS: no login without TLS
    exit          1, always

The program is checkpassword-like: it becomes the user and then its own arguments, which serve him.  It is
started by a process that reads nothing of the client's: that one waits, with the rights we were started with, until
there is something on the pipe. What listens to the client has become qpyd before.  One attempt per connection.
Under TLS the client is qpy-tls's, and clear text comes on another socket, which takes the place of 0 and 1 in both.
"""
from qpy import unix
from qpy.core import accounts, popup, text
from qpy.lib import confine, controls, execute, program
from qpy.qpyd import tls_line

PATIENCE = 1200             # seconds until the client must have logged in
PAUSE = 2.0                 # seconds before a refusal is said
CHECKER = b'qpy-checkpassword'      # keeps no clear passwords, so it cannot judge APOP
ALWAYS = 1
CREDENTIALS = 3
TLS_ANSWER = 2.0            # seconds for qpy-tls to say whether it has a certificate
TLS_PATIENCE = 70.0         # and for the handshake, which it lets take 60
STRAY_MAX = 1024


class Trouble(Exception):
    """A reply that ends the session."""


def main(home, args):
    """The program stands ready, we become qpyd, the client says who he is."""
    unix.umask(0o077)
    unix.signal(unix.SIGPIPE, unix.SIG_IGN)
    unix.signal(unix.SIGALRM, lambda *_: unix._exit(ALWAYS))
    unix.alarm(PATIENCE)
    try:
        serve(home, args)
    except Trouble as trouble:
        say(trouble.args[0])
    except unix.error:
        pass                    # the client has gone
    return ALWAYS


def serve(home, args):
    """One client."""
    if len(args) < 2:
        raise Trouble(popup.USAGE)
    unix.closerange(3, STRAY_MAX)
    child, pipe, sockets = stand_ready(args[1:])
    if unix.geteuid() == 0:
        become_account(home)
    confine.confine(home, b'popup')
    banner = b'<%d.%d@%s>' % (unix.getpid(), unix.time(), args[0])
    at_once, forced = (unix.environ.get(name, b'0') != b'0' for name in (b'POP3S', b'FORCETLS'))
    offered = has_socket() and tls_line.ask(home, TLS_ANSWER)
    if at_once:
        secure(home, sockets, offered)
    session = popup.Session(banner, args[1].rpartition(b'/')[2] != CHECKER, offered, forced, at_once)
    event, value = converse(session)
    while event == popup.TLS:
        secure(home, sockets, True)
        session.secured()
        event, value = converse(session)
    if event == popup.QUIT:
        return
    unix.alarm(0)
    user, secret = value
    try:
        unix.write_all(pipe, b'%b\0%b\0%b\0' % (user, secret, banner))
        unix.close(pipe)
    except unix.error:
        raise Trouble(b'-ERR unable to write pipe') from None
    judge(user, unix.waitstatus_to_exitcode(unix.waitpid(child, 0)[1]), session.stands)


def has_socket():
    """Is the client on a connection that can be handed over?"""
    return unix.S_ISSOCK(unix.fstat(0).st_mode)


def secure(home, sockets, offered):
    """The client goes to qpy-tls; what it gives us takes his place, here and in the process that will be the program."""
    clear, what = tls_line.secure(home, 0, TLS_PATIENCE) if offered else (None, b'there is no TLS')
    if clear is None:
        ip = text.logsafe(unix.environ.get(b'TCPREMOTEIP') or b'unknown')
        program.complain(b'refused tls ip %s: %s' % (ip, what))
        unix._exit(ALWAYS)
    unix.send_packet(sockets, b'T', (clear.fileno(),))
    for fd in (0, 1):
        unix.dup2(clear.fileno(), fd)
    clear.close()


def stand_ready(words):
    """(pid of the process that will be the program, the pipe on which it waits, the socket on which it takes another
    client's socket)."""
    try:
        theirs, ours = unix.pipe2(unix.O_CLOEXEC)
        inside, sockets = unix.socketpair()
    except unix.error:
        raise Trouble(b'-ERR unable to open pipe') from None
    try:
        pid = unix.fork()
    except unix.error:
        raise Trouble(b'-ERR unable to fork') from None
    if not pid:
        sockets.close()
        unix._exit(program.guarded(lambda: wait_and_become(words, theirs, ours, inside)))
    unix.close(theirs)
    inside.close()
    return pid, ours, sockets


def wait_and_become(words, theirs, ours, sockets):
    """In the child: when there is something on the pipe be the program, unread; when it closes, be gone."""
    unix.alarm(0)
    unix.signal(unix.SIGALRM, unix.SIG_DFL)
    unix.close(ours)
    ready = unix.epoll()
    for fd in (theirs, sockets.fileno()):
        ready.register(fd, unix.EPOLLIN)
    events = dict(ready.poll())
    while theirs not in events:
        if not take_socket(sockets):
            ready.unregister(sockets.fileno())
        events = dict(ready.poll())
    ready.close()
    take_socket(sockets)            # both may have come at once
    sockets.close()
    if not events[theirs] & unix.EPOLLIN:
        return ALWAYS
    if theirs == CREDENTIALS:
        unix.set_inheritable(theirs, True)
    else:
        unix.dup2(theirs, CREDENTIALS)
        unix.close(theirs)
    problem = execute.along_path(words, unix.environ)
    program.complain(b'fatal: unable to run %s: %s' % (words[0], program.reason(problem)))
    return ALWAYS


def take_socket(sockets):
    """In the child: 0 and 1 are this socket from now on; False if none came."""
    packet = unix.recv_packet(sockets, 1, 1)
    if not packet or not packet[1]:
        return False
    for fd in (0, 1):
        unix.dup2(packet[1][0], fd)
    unix.close(packet[1][0])
    return True


def become_account(home):
    """Root reads nothing from the network."""
    try:
        name = accounts.names(controls.listing(home, b'accounts') or [])[b'qpyd']
        _, uid, gid, _ = unix.getpwnam(name)
        if not uid:
            raise KeyError(name)
        confine.drop(uid, gid)
    except (KeyError, ValueError, program.Fatal, unix.error) as problem:
        program.complain(b'fatal: unable to become qpyd: ' + program.reason(problem))
        raise Trouble(b'-ERR unable to become qpyd') from None


def converse(session):
    """The first event. Byte by byte: what follows the login belongs to the program."""
    while True:
        event = session.next()
        say(session.output())
        if event is not None:
            return event
        data = unix.read(0, 1)
        if not data:
            return popup.QUIT, None
        session.receive(data)


def say(data):
    """Write to the client; a reply without its end gets it."""
    if data:
        unix.write_all(1, data if data.endswith(b'\r\n') else data + b'\r\n')


def judge(user, code, tls):
    """The program, and what it became, has ended: was the client served?"""
    ip = text.logsafe(unix.environ.get(b'TCPREMOTEIP') or b'unknown')
    words = b' ip %s user %s%s' % (ip, text.logsafe(user[:200]), b' tls' if tls else b'')
    if code == 0:
        return program.complain(b'served' + words)
    program.complain((b'refused' if code > 0 else b'crashed') + words)
    unix.sleep(PAUSE)
    raise Trouble(popup.FAILED if code > 0 else popup.CRASHED)
