"""What queued does to the disk: groups of messages made durable together, and long ones as they stream in.

A message is safe when its file, whole, and its name in queue/mess are on disk; in either order, because of the
checksum (core.mess).  Two ways to make a group safe:

    portable    write all, then fsync each file and the directory (the kernel does them together)
    syncfs      write all, then one syncfs: where the queue has a file system of its own

A single message is sooner safe by fsync of its file and then of the directory, wherever it is.

A sync that failed is final: nobody knows what is on disk, and asking again returns success over lost data.  The
files of that group are given up: unlinked, and their clients told to come back.
"""
from zlib import crc32

from qpy import unix, unix_kernel
from qpy.core import exits, ids, mess
from qpy.lib import reserve

PUSH = 4 << 20              # bytes of a streaming message after which it is pushed to disk
MODE = 0o640
FULL = exits.QQ_WRITE, b'no room for this message in the queue now (#4.3.1)'
WIDE_MOST = 10_000          # messages with many recipients whose room is remembered
COUNT_AGAIN = 10.0          # seconds until messages are counted anew, of which there may be millions,
COUNT_SELDOM, NEVER = 600.0, 1e18       # when that matters little, and when it does not
CREATE = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC


class Part:
    """A long message while it is received: mess/NAME.part, written as it comes."""

    __slots__ = ('store', 'fd', 'name', 'size', 'crc', 'pushed')

    def __init__(self, store, name):
        self.store, self.name = store, name
        self.size = self.crc = self.pushed = 0
        self.fd = unix.open(name, CREATE, MODE, dir_fd=store.mess)

    def write(self, data):
        """Append data; every PUSH bytes the disk is told to begin."""
        unix.write_all(self.fd, data)
        self.crc = crc32(data, self.crc)
        self.size += len(data)
        if self.size - self.pushed >= PUSH:
            push(self.fd, self.pushed, self.size - self.pushed)
            self.pushed = self.size

    def drop(self):
        """Forget it."""
        unix.close_quietly(self.fd)
        _unlink(self.store.mess, self.name)


class Entry:
    """One message to be committed.

    pieces: its bytes (part is None), or part: the open file that holds them.  envelope: the records to store.
    After commit(): failure is None, or the exit code and sentence (or None) for the client.
    """

    __slots__ = ('ident', 'pieces', 'part', 'envelope', 'promised', 'failure', 'fd', 'named')

    def __init__(self, pieces, part, envelope):
        self.ident, self.pieces, self.part, self.envelope = None, pieces, part, envelope
        self.promised = reserve.promised(envelope)
        self.failure, self.fd, self.named = None, -1, False


class Store:
    """queue/mess as its only writer sees it.

    mess: descriptor of the directory.  ids: the core.ids.Ids of the queue.  own: True for syncfs.
    complain(what, problem) is told of every failure; it must be safe to call from the committer's thread.
    """

    __slots__ = ('mess', 'ids', 'own', 'parts', 'complain', 'together', 'messages', 'counted', 'wide')

    def __init__(self, mess_fd, own, found=None, complain=lambda what, problem: None, messages=0):
        self.messages, self.counted = messages, 0.0     # there are so many at most, and when that was so
        self.wide = {}                  # {ID: bytes} of those, come since the start, whose states may need more than a block
        self.mess, self.own, self.parts, self.complain = mess_fd, own, 0, complain
        self.ids = found or ids.Ids()
        self.together = own             # how the group being written will be synced

    def room(self):
        """The reserve.Room of the disk beside what is promised to the messages in the queue."""
        room = self._look()
        wait = COUNT_AGAIN if room.tight(self.messages) else COUNT_SELDOM if len(self.wide) == WIDE_MOST else NEVER
        if unix.monotonic() - self.counted >= wait:
            self.count()
            room = self._look()
        return room

    def _look(self):
        return reserve.look(self.mess, self.messages, sum(self.wide.values()))

    def count(self):
        """See how many messages have gone."""
        known = set(self.wide)          # before the names: the committer's thread adds to it, each when it has its file
        names = {unix.fsencode(name) for name in unix.listdir(self.mess)}
        self.messages, self.counted = len(names), unix.monotonic()
        for ident in known - names:
            del self.wide[ident]

    def new_part(self):
        """A Part with a name of its own."""
        self.parts += 1
        return Part(self, b'%d.%d.part' % (unix.getpid(), self.parts))

    def name(self, group):
        """Give every Entry of the group its ID, one after the other.  The group before must be settled."""
        first = self.ids.give(len(group), int(unix.time() * 1e6))
        for number, entry in enumerate(group, first):
            entry.ident = mess.make_id(number)

    def commit(self, group):
        """Make the group (named before) durable.  Each Entry's failure says how it went; nothing is raised.

        Only after this returned may a client hear K, or send an ID.
        """
        self.sync(self.write(group))

    def write(self, group):
        """The first half of commit, which seldom waits for the disk: names and bytes.  Returns what is to be synced."""
        self.together = self.own and len(group) > 1
        self.messages += len(group)
        written = [entry for entry in group if self._attempt(entry, _write)]
        for entry in written:
            if entry.promised > reserve.BLOCK and len(self.wide) < WIDE_MOST:
                self.wide[entry.ident] = entry.promised - reserve.BLOCK
        return written

    def sync(self, written):
        """The second half, which does nothing but wait."""
        if not written:
            return
        if self.together:
            names = self._syncfs()
        else:
            *problems, names = self._fsync([entry.fd for entry in written] + [self.mess])
            for entry, problem in zip(written, problems):
                if problem is not None:
                    self._failed(entry, problem)
            written = [entry for entry in written if entry.failure is None and self._attempt(entry, _close)]
        if names is not None:
            self.complain(b'sync queue/mess', names)
            for entry in written:
                self._give_up(entry)

    def _syncfs(self):
        """Names and bytes of all: None or the problem."""
        try:
            unix_kernel.syncfs(self.mess)
        except (OSError, MemoryError) as problem:
            return problem

    def _fsync(self, fds):
        """[None or the problem] of each; the last one is the directory, whose names may come before or after the bytes."""
        try:
            return unix_kernel.fsync_together(fds) if len(fds) > 2 else unix.fsync_in_turn(fds)
        except (OSError, MemoryError) as problem:
            return [problem] * len(fds)

    def _attempt(self, entry, step):
        try:
            step(self, entry)
            return True
        except (OSError, MemoryError) as problem:
            self._failed(entry, problem)
            return False

    def _failed(self, entry, problem):
        self.complain(b'write queue/mess/%b' % entry.ident, problem)
        self._give_up(entry, failure(problem))

    def _give_up(self, entry, why=(exits.QQ_WRITE, None)):
        entry.failure = why
        if entry.fd >= 0:
            unix.close_quietly(entry.fd)
            entry.fd = -1
        if entry.part is not None:
            _unlink(self.mess, entry.part.name)
        if entry.named:                 # never a file that was there before
            _unlink(self.mess, entry.ident)


def failure(problem):
    """The exit code and sentence (or None) for a client whose message met this OSError or MemoryError."""
    full = getattr(problem, 'errno', None) in (unix.ENOSPC, unix.EDQUOT)
    return FULL if full else (exits.QQ_WRITE, None)


def push(fd, offset, size):
    """Tell the disk to begin with these bytes, without waiting.  A file system that cannot is none the worse."""
    try:
        unix_kernel.sync_file_range(fd, offset, size, unix_kernel.SYNC_FILE_RANGE_WRITE)
    except OSError as problem:
        if problem.errno not in (unix.ENOSYS, unix.EINVAL, unix.ENOTSUP, unix.ESPIPE):
            raise


def _write(store, entry):
    """Name the message and write it; under syncfs the descriptor is not needed any more."""
    if entry.part is not None:
        _finish_part(store, entry)
    else:
        data = b''.join(entry.pieces)
        data = b'%b%b%b' % (data, entry.envelope, mess.footer_head(len(data), len(entry.envelope), entry.ident))
        tail = mess.footer_tail(crc32(data))
        entry.fd = unix.open(entry.ident, CREATE, MODE, dir_fd=store.mess)
        entry.named = True
        unix.write_all(entry.fd, data + tail)
    if store.together:
        _close(store, entry)


def _finish_part(store, entry):
    part = entry.part
    entry.fd = part.fd
    head = mess.footer_head(part.size, len(entry.envelope), entry.ident)
    rest = entry.envelope + head
    unix.write_all(part.fd, rest + mess.footer_tail(crc32(rest, part.crc)))
    unix.link(part.name, entry.ident, src_dir_fd=store.mess, dst_dir_fd=store.mess)    # rename might replace
    entry.named = True
    unix.unlink(part.name, dir_fd=store.mess)


def _close(store, entry):
    fd, entry.fd = entry.fd, -1
    unix.close(fd)


def _unlink(directory, name):
    """Remove a file that nobody was promised; what stays behind is removed, or found whole, at the next start."""
    try:
        unix.unlink(name, dir_fd=directory)
    except OSError:
        pass


def recover(mess_fd, names):
    """At start, before the first client: remove what an earlier run was still receiving (*.part)."""
    for name in names:
        if name.endswith(b'.part'):
            _unlink(mess_fd, name)


def numbers(*listings):
    """The IDs among the names of several directories, as numbers, one after the other."""
    return (int(name) for names in listings for name in names if mess.is_id(name))
