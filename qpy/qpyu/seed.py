"""The seed of qpy-lspawn, as qpyu: turns into users, one process each, and never sees a byte of mail.

    descriptors   the socket pair `seed`: `U` uid, gid with a socket; answers `G` uid, pid or `X` uid, reason;
                  `K` pid: end this process of a user's and all that came from it
    exit          0 when the chain ends or lspawn is gone

A child takes the user's identity for good, proves it, and is from then on that user's qpy-local (user.local), which
answers on the socket it was born with.  Everything it needs is imported before.
"""
import gc

from qpy import unix, unix_kernel
from qpy.core import accounts, channel, exits, mailids, text
from qpy.lib import cdb, confine, controls, groups, inherit, loop, packets, program
from qpy.user import local

HIGHEST_ID = 4294967294
HIGHEST_FD = 65536
SOCKET = 3                  # where a worker has its socket


class Ids:
    """Whom the seed may become: uids and gids as [(first, count)]; None: nobody but itself (rootless)."""

    __slots__ = ('uids', 'gids', 'members')

    def __init__(self, uids=None, gids=None, members=None):
        self.uids, self.gids, self.members = uids, gids, members

    def refusal(self, uid, gid):
        """Why not, b'' if it may."""
        if uid is None or gid is None:
            return b'uid or gid is not a number'
        if self.uids is None:
            mine = unix.geteuid()
            return b'' if uid == mine else b'without root, mail can be delivered only as uid %d' % mine
        if uid == 0 or gid == 0:
            return b'Not allowed to perform deliveries as root.'
        if self.members is not None and self.members.new(gid):
            return b'gid %d is no primary group of a user, but has members; if mail is to be delivered with it, write %d ' \
                   b'into control/mailgroups and start qpy anew' % (gid, gid)
        return mailids.complaint((self.uids, self.gids), uid, gid)


class Members:
    """Groups made since the start that are had by membership: the maps cannot lose them any more.  Of the system's own
    two files, read anew when they have changed."""

    __slots__ = ('stamps', 'before', 'now')
    FILES = (b'/etc/passwd', b'/etc/group')

    def __init__(self):
        self.stamps, self.now = None, set()
        self.look()
        self.before = self.now

    def new(self, gid):
        """Whether gid is one of them."""
        self.look()
        return gid in self.now and gid not in self.before

    def look(self):
        """Follow the files; while one cannot be read, what was known holds."""
        try:
            stamps = [cdb.stamp(unix.stat(path)) for path in self.FILES]
            if stamps != self.stamps:
                self.now = mailids.of_members(*map(unix.read_file, self.FILES), accounts.LOWEST_MAIL_UID)
                self.stamps = stamps
        except unix.error:
            pass


class Seed:
    """The seed's side of its channel to lspawn."""

    __slots__ = ('loop', 'home', 'ids', 'host', 'limit', 'channel', 'groups', 'born')

    def __init__(self, home, ids, host, limit, kept=None):
        self.loop, self.home, self.ids, self.host, self.limit = loop.Loop(), home, ids, host, limit
        self.channel, self.groups, self.born = None, kept, {}       # groups.Groups or None; {pid: path of its group}

    def listen(self, sock):
        """Serve lspawn on sock, and bury what has been born."""
        self.loop.on_signal(unix.SIGCHLD, self.bury)
        self.channel = packets.Channel(self.loop, sock, channel.SEED_JOB, self.asked, self.gone)

    def asked(self, records):
        """One worker for each U, an end for each K."""
        for letter, fields, fd in records:
            if letter == b'K':
                self.end(text.parse_uint(fields[0], HIGHEST_ID))
                continue
            try:
                self.answer(*fields, fd)
            finally:
                unix.close_quietly(fd)

    def answer(self, uid, gid, fd):
        """Fork, or say why not."""
        ids = text.parse_uint(uid, HIGHEST_ID), text.parse_uint(gid, HIGHEST_ID)
        reason = self.ids.refusal(*ids)
        if reason:
            return self.channel.send(b'X', uid, reason)
        path = self.new_group(ids[0])
        try:
            pid = unix.fork()
        except unix.error as problem:
            if path:
                self.groups.end(path)
            return self.channel.send(b'X', uid, b'Unable to fork: ' + program.reason(problem))
        if pid == 0:
            unix._exit(program.guarded(lambda: self.become(*ids, fd, path)))
        if path:
            self.born[pid] = path
        self.channel.send(b'G', uid, b'%d' % pid)

    def new_group(self, uid):
        """The path of a control group for a user's process; b'' where there is none."""
        if self.groups is None:
            return b''
        try:
            return self.groups.new(uid)
        except unix.error as problem:
            program.warn(b'uid %d: no control group: %s' % (uid, program.reason(problem)))
            return b''

    def become(self, uid, gid, fd, path=b''):
        """In the child: be that user, and serve him."""
        if path:
            groups.enter(path)
        unix.set_wakeup_fd(-1)
        unix.signal(unix.SIGCHLD, unix.SIG_DFL)
        fd = unix.duplicate_above(fd, HIGHEST_FD // 2) if fd == SOCKET else fd
        unix.dup2(fd, SOCKET, False)
        unix.closerange(SOCKET + 1, HIGHEST_FD)
        if self.ids.uids is not None:
            confine.become_user(uid, gid)
        program.name = b'qpy-local'
        unix_kernel.show_name(program.name)
        return local.serve(unix.socket_of(SOCKET), self.home, self.host, self.limit_now(), unix_kernel.fsync_together)

    def limit_now(self):
        """control/timeoutlocal for a new worker; while it cannot be used, what it was at the start."""
        try:
            return controls.number(self.home, local.TIME_LIMIT)
        except (controls.Broken, unix.error):
            return self.limit

    def bury(self):
        """Take the status of every child that has ended; what came from it is ended too."""
        try:
            while True:
                pid, _ = unix.waitpid(-1, unix.WNOHANG)
                if not pid:
                    break
                self.end(pid)
        except ChildProcessError:
            pass

    def end(self, pid):
        """End a user's process and all that came from it, if it has a group."""
        path = self.born.pop(pid, None)
        if path:
            self.groups.end(path)

    def gone(self, reason):
        """lspawn is gone, and with it our purpose."""
        self.loop.stop()


def serve(home, found, ids, host, limit, kept=None):
    """The work: until the chain ends."""
    if b'seed' not in found:
        raise program.Fatal(exits.TEMP, b'unable to serve lspawn: no socket called seed was inherited')
    seed = Seed(home, ids, host, limit, kept)
    seed.listen(only_client(found.pop(b'seed')[0]))
    inherit.life(seed.loop, found)
    ignore_signals()
    gc.freeze()             # what is shared with the children stays shared
    seed.loop.run()
    return exits.OK


def only_client(fd):
    """The socket to lspawn: the end of a pair, or (systemd) the first who connects to a listening one, which only
    lspawn's account and root may."""
    if not unix.listens(fd):
        return unix.socket_of(fd)
    listening = unix.socket_of(fd, blocking=True)
    listening.listen(1)
    while True:
        client, _ = unix.accept(listening) or (None, None)
        if client is not None and unix.peercred(client)[1] in (unix.geteuid(), 0):
            listening.close()
            return client
        if client is not None:
            client.close()


def ignore_signals():
    """A group's ^C, or a supervisor's TERM to all, must not cut deliveries: the chain ends by its life pipe."""
    for number in (unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGALRM):
        unix.signal(number, unix.SIG_IGN)
