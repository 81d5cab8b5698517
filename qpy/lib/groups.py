"""Control groups of the kernel (version 2) for local deliveries: one for each user's process and all that comes from it.

    GROUP                what systemd has delegated to us (Delegate=), or one of our own where no systemd rules
      chain              the daemons, where the kernel wants GROUP itself to be empty
      users              belongs to qpyu: only the seed moves processes between what is below
        seed             the seed
        UID.N            user UID's N-th process, his programs, and theirs

A user cannot leave his group, and writing `1` to its cgroup.kill ends all that is in it at once, whatever it does.
Where the kernel has the controllers it also bounds memory and processes of all of it together.  prepare() needs root;
the Groups it returns need only qpyu.
"""
from qpy import unix
from qpy.core import text
from qpy.lib import program

PLACES = (b'/sys/fs/cgroup', b'/sys/fs/cgroup/unified')     # where it is alone, and where it stands beside version 1
SYSTEMD = b'/run/systemd/system'        # is there while systemd is process 1: groups that it has not given away are its own
DELEGATED = (b'user.delegate', b'trusted.delegate')
CONTROLLERS = (b'+memory', b'+pids')
TO_US = (b'', b'/cgroup.procs', b'/cgroup.subtree_control', b'/cgroup.threads')
TRIES = 20                              # to empty a group whose processes multiply


def prepare(uid, gid, bounds=()):
    """As root: make the groups, be in `users/seed`, and give `users` to uid.  None where none can be had.

    bounds: [(file of the kernel, number)] for each user's group, as far as the kernel has these files."""
    try:
        here = place()
        if here is None:
            return None
        path = here if delegated(here) else own(here)
        if path is None:
            return None
        make(path + b'/users')
        make(path + b'/users/seed')
        if not unix.access(path + b'/users/cgroup.kill', unix.F_OK):
            return None                 # before Linux 5.14
        for name in unix.listdir(path + b'/users'):
            if name[:1].isdigit():
                remove(path + b'/users/' + name)
        put(path + b'/users/seed/cgroup.procs', b'0')
        if path == here:
            empty(path)
        for above in (path, path + b'/users'):
            enable(above)
        for name in TO_US:
            unix.chown(path + b'/users' + name, uid, gid)
        unix.chown(path + b'/users/seed/cgroup.procs', uid, gid)
    except unix.error as problem:
        program.warn(b'unable to make control groups: ' + program.reason(problem))
        return None
    return Groups(path + b'/users', bounds)


class Groups:
    """The groups of users, and who is in them."""

    __slots__ = ('path', 'bounds', 'number', 'dying')

    def __init__(self, path, bounds):
        self.path, self.bounds, self.number, self.dying = path, bounds, 0, set()

    def new(self, uid):
        """The path of a new group with its bounds; OSError if there can be none."""
        self.bury()
        self.number += 1
        path = b'%s/%d.%d' % (self.path, uid, self.number)
        unix.mkdir(path, 0o755)
        for name, number in self.bounds:
            try:
                put(path + b'/' + name, b'%d' % number)
            except FileNotFoundError:
                continue                # this kernel, or who is above us, does not bound that
        return path

    def end(self, path):
        """End all processes of a group; it goes when they are gone."""
        try:
            put(path + b'/cgroup.kill', b'1')
        except FileNotFoundError:
            return                      # it has gone already
        self.dying.add(path)
        self.bury()

    def bury(self):
        """Remove the groups whose last process has gone."""
        for path in list(self.dying):
            try:
                unix.rmdir(path)
            except FileNotFoundError:
                pass
            except unix.error:
                continue                # its processes are still ending: the next time
            self.dying.discard(path)


def enter(path):
    """Be in a group, with all children to come."""
    put(path + b'/cgroup.procs', b'0')


# --- where -----------------------------------------------------------------------------------------------------

def place():
    """The path of the group this process is in; None if there is no version 2."""
    try:
        name = unix.read_file(b'/proc/self/cgroup', 65536).rpartition(b'0::')[2].rstrip(b'\n')
    except FileNotFoundError:
        return None
    for mounted in PLACES:
        path = mounted + name.rstrip(b'/')
        if unix.access(path + b'/cgroup.procs', unix.F_OK) and unix.access(path + b'/cgroup.controllers', unix.F_OK):
            return path
    return None


def delegated(path):
    """Whether systemd has given this group away, to whoever runs in it."""
    for name in DELEGATED:
        try:
            if unix.getxattr(path, name) == b'1':
                return True
        except unix.error:
            continue
    return False


def own(here):
    """A group of our own below this one, where no systemd is in charge; what chains of before have left goes."""
    if unix.access(SYSTEMD, unix.F_OK):
        return None
    for entry in unix.listdir(here):
        pid = text.parse_uint(entry[4:], 1 << 31) if entry[:4] == b'qpy-' else None
        if pid and not unix.access(b'/proc/%d' % pid, unix.F_OK):
            for name in (b'/users/seed', b'/users', b''):
                remove(b'%s/%s%s' % (here, entry, name))
    path = b'%s/qpy-%d' % (here, unix.getpid())
    enable(here)
    make(path)
    return path


def make(path):
    """A group that everybody may look into; fine if it is there."""
    try:
        unix.mkdir(path, 0o755)
    except FileExistsError:
        pass
    unix.chmod(path, 0o755)             # whatever our umask is


def remove(path):
    """A group, if nothing is in it."""
    try:
        unix.rmdir(path)
    except unix.error:
        pass


def empty(path):
    """Move every process of a group into `chain` below it: controllers are for groups below an empty one only."""
    make(path + b'/chain')
    for _ in range(TRIES):
        pids = unix.read_file(path + b'/cgroup.procs').split()
        if not pids:
            return
        for pid in pids:
            try:
                put(path + b'/chain/cgroup.procs', pid)
            except ProcessLookupError:
                continue                # it has ended


def enable(path):
    """Let what is below be bounded, as far as there are controllers."""
    for word in CONTROLLERS:
        try:
            put(path + b'/cgroup.subtree_control', word)
        except unix.error:
            continue


def put(path, content):
    """Write to a file of the kernel's."""
    fd = unix.open(path, unix.O_WRONLY | unix.O_CLOEXEC)
    try:
        unix.write(fd, content)
    finally:
        unix.close(fd)
