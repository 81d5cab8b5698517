"""qpy-smtpd, as qpyd: hears SMTP.

One shot: the client is on descriptors 0 and 1, as under tcpserver, systemd's Accept=yes, inetd, or sendmail
-bs. Warm: listening sockets come by LISTEN_FDS; a master that reads nothing foreign keeps some workers, each
of which serves many clients. The first argument is their number.

Asks: DIR/run/submit (qpy-queued), DIR/run/users (qpy-users). Reads: control/. Log: descriptor 2.
Exit: one shot 0 after QUIT, else 1; 111 if it cannot work (said as 421). Warm 0 when the chain ends, else
111.
"""
from qpy import unix
from qpy.core import cdb, exits, manifest, text
from qpy.core import smtp_replies as replies
from qpy.lib import confine, controls, inherit, loop, master, program, service, submit
from qpy.qpyd import census, runner, server, settings
from qpy.qpyd.conversation import Conversation, FileConversation

LAST_ANSWERS = 2.5          # seconds that answers may still take when the chain ends; less than qpy-tls stays for them
LAST_REPLIES = 1.0          # seconds that a worker without its runner of filters still has for its clients
STRAY_MAX = 1024        # descriptors below this that a careless parent left open are closed
TLS_WAIT = 2.0          # seconds for qpy-tls to say whether it has a certificate
NO_QUIT = 1             # qmail's exit code for a client that left without QUIT


def main(home, args):
    """qpy-smtpd [WORKERS]"""
    unix.umask(0o077)
    unix.signal(unix.SIGPIPE, unix.SIG_IGN)
    submit.obey_what_is_in_its_place(home)
    found = inherit.listeners()
    client = accepted(found)
    if client is not None:                  # systemd, Accept=yes without StandardInput=socket
        unix.dup2(client, 0)
        unix.dup2(client, 1)
    elif set(found) - {b'life'}:
        return serve(home, found, workers(args))
    return converse(home)


def accepted(found):
    """One accepted client's descriptor, taken out of what was inherited, or None.

    systemd calls it `connection`, systemd-socket-activate does not name it.
    """
    for name in (b'connection', b'unknown', b''):
        if name in found and not unix.listens(found[name][0]):
            return found.pop(name)[0]
    return None


def workers(args):
    """How many workers: the argument, else one per processor, at least two and at most eight."""
    if not args:
        return min(max(2, len(unix.sched_getaffinity(0))), 8)
    count = text.parse_uint(args[0], manifest.WORKERS_MOST)
    if not count or len(args) > 1:
        raise program.Fatal(exits.PERM, b'usage: qpy-smtpd [WORKERS]')
    return count


# Warm.

class Workers(master.Master):
    """A master that tells each worker which row of the census is its own."""

    def __init__(self, home, found, count):
        self.home, self.watched, self.census = home, settings.watched(home), census.Census(count)
        self.numbers, self.number = {}, 0
        master.Master.__init__(self, found, self.work, count)

    def run(self):
        """As every master; the workers' last answers are waited for."""
        master.Master.run(self)
        unix.close(self.write_end)
        for pid in self.born:
            unix.waitpid(pid, 0)

    def start(self):
        """Start a worker with a free number."""
        self.numbers = {pid: number for pid, number in self.numbers.items() if pid in self.born}
        self.number = min(set(range(self.count)) - set(self.numbers.values()), default=0)
        before = set(self.born)
        master.Master.start(self)
        for pid in set(self.born) - before:
            self.numbers[pid] = self.number

    def work(self, found):
        """In the child: serve until the chain ends."""
        own_loop = loop.Loop()
        filters = runner.start(own_loop, self.home, allowed(self.watched))
        filters.lost = lambda: own_loop.after(LAST_REPLIES, own_loop.stop)     # we may fork no other: our master may
        unix.raise_descriptor_limit()
        self.census.take(self.number)
        here = server.Server(self.home, own_loop, self.watched, self.census, filters)
        inherit.life(own_loop, found, lambda: here.farewell(LAST_ANSWERS))
        for name in list(found):
            for sock in inherit.sockets(found, name):
                here.listen(sock)
        confine.confine(self.home, b'smtpd')
        own_loop.run()
        here.write_log()
        return exits.OK if filters.sock is not None else exits.TEMP


def serve(home, found, count):
    """Keep `count` workers until the chain ends."""
    service.calm_server(found)
    confine.confine(home, manifest.master(b'smtpd'))
    Workers(home, found, count).run()
    return exits.OK


def allowed(watched):
    """What a runner asks before it executes anything."""
    environ = dict(unix.environ)

    def names():
        try:
            return settings.filters_named(watched.get().rules, environ)
        except cdb.CdbError:
            return ()
    return names


# One shot.

def converse(home):
    """Serve the client on descriptors 0 and 1."""
    unix.closerange(3, STRAY_MAX)
    try:
        watched = settings.watched(home)
        sock = socket_on(0)
        client = who(watched.value, sock)
    except settings.Denied:
        return refuse(replies.DENIED)
    except (controls.Broken, unix.error, cdb.CdbError) as problem:
        why = problem.text if isinstance(problem, program.Fatal) else program.reason(problem)
        program.complain(b'fatal: ' + why)
        refuse(replies.TROUBLE)
        return exits.TEMP
    own_loop = loop.Loop()
    filters = None
    if any(name in dict(client.env) for name in settings.FILTERS):
        filters = runner.start(own_loop, home, allowed(watched))
    here = server.Server(home, own_loop, watched, None, filters)
    here.ended = lambda conversation: own_loop.stop()
    kind = Conversation if can_be_watched(own_loop, 0) else FileConversation
    conversation = kind(here, watched.value, client, sock, 0, 0 if sock is not None and same_socket() else 1)
    if sock is None:
        here.beside.tls = None          # there is nothing that could be handed over
    else:
        here.tls.wait(TLS_WAIT)
    confine.confine(home, b'smtpd')
    here.serve(conversation)
    if conversation in here.clients:
        own_loop.run()
    here.write_log()
    return exits.OK if conversation.polite else NO_QUIT


def refuse(reply):
    """Say why there is no session."""
    try:
        unix.write_all(1, reply + b'\r\n')
    except unix.error:
        pass
    return NO_QUIT


def socket_on(fd):
    """The socket on a descriptor, made non-blocking; None if it is something else."""
    if not unix.S_ISSOCK(unix.fstat(fd).st_mode):
        return None
    return unix.socket_of(fd)


def same_socket():
    """Are descriptors 0 and 1 one socket?"""
    one, other = unix.fstat(0), unix.fstat(1)
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def who(found, sock):
    """The Client: as a UCSPI server says, else as systemd says, else as the socket says (then our rules
    apply)."""
    environ = unix.environ
    if b'PROTO' in environ:
        return settings.client_of_environment(environ)
    ip, here = settings.peer_ips(sock) if sock is not None else (b'', b'')
    return settings.client_of_peer(found, dict(environ), environ.get(b'REMOTE_ADDR') or ip, here)


def can_be_watched(own_loop, fd):
    """Can one wait for this descriptor? Not for a regular file."""
    try:
        own_loop.epoll.register(fd, 0)
    except PermissionError:
        return False
    own_loop.epoll.unregister(fd)
    return True
