"""Writing mail into a user's files, as that user: Maildir, several messages at once, and mbox.

A Maildir has no checksum: there the bytes are on disk before the name appears in new/, and the delivery counts only
when the name is on disk too.  A failed fsync is final: the file is given up, never asked again.
"""
from qpy import unix
from qpy.core import exits, maildir, mbox

CHUNK = 65536               # bytes of a message handled at a time
PUSH_EVERY = 4 << 20        # bytes of a long message after which the disk is asked to begin
START_WRITING = 4           # POSIX_FADV_DONTNEED: on dirty pages it starts their writing, and drops none of them
NAMES_TRIED = 3

LOCK_PATIENCE = 30.0        # seconds for the lock of an mbox
STALE_LOCK = 300            # seconds after which a dot-lock was left behind by a writer that died
MOST_PID = 1 << 22          # of Linux

CHDIR_MAILDIR = b'Unable to chdir to maildir. (#4.2.1)'
TROUBLE = b'Temporary error on maildir delivery. (#4.3.0)'
NO_REWIND = b'Unable to rewind message. (#4.3.0)'
NO_READ = b'Unable to read message. (#4.3.0)'
LOCKED = b'File has been locked for 30 seconds straight. (#4.3.0)'


class Failed(Exception):
    """This delivery ends here: exit code and the reason, one or more lines without the last newline."""

    def __init__(self, code, text):
        super().__init__(code, text)
        self.code, self.text = code, text


def why(problem):
    """What the system says of an OSError, in bytes."""
    return (problem.strerror or type(problem).__name__).encode('utf-8', 'replace')


def pieces(fd):
    """The message on fd, from its first byte, in portions; the file position is neither used nor moved."""
    offset = 0
    while True:
        try:
            piece = unix.pread(fd, CHUNK, offset)
        except unix.error as problem:
            raise Failed(exits.TEMP, NO_READ if offset or problem.errno == unix.EIO else NO_REWIND) from None
        if not piece:
            return
        yield piece
        offset += len(piece)


# --- Maildir -------------------------------------------------------------------------------------------------

class Box:
    """An open Maildir: fd (a path descriptor), new (its new/, to be synced), used (something was put there)."""

    __slots__ = ('fd', 'new', 'used')

    def __init__(self, home_fd, path, create):
        self.fd, self.new, self.used = -1, -1, False
        try:
            self.open(home_fd, path, create)
        except unix.error as problem:
            self.close()
            gone = isinstance(problem, (FileNotFoundError, NotADirectoryError, PermissionError))
            raise Failed(exits.TEMP, b'%s\n%s: %s' % (CHDIR_MAILDIR if gone else TROUBLE, path, why(problem))) from None

    def open(self, home_fd, path, create):
        """Open what is there; create: make what is missing.  A tmp, which a cut takes away while it is new, is made in any case."""
        try:
            self.look(home_fd, path)
        except FileNotFoundError as missing:
            if not create and missing.filename != b'tmp':
                raise
            self.close()
            make(path, home_fd)
            self.look(home_fd, path)

    def look(self, home_fd, path):
        """Open it, which is whole only with a tmp/."""
        self.fd = unix.open(path, unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, dir_fd=home_fd)
        self.new = unix.open(b'new', unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, dir_fd=self.fd)
        if not unix.S_ISDIR(unix.stat(b'cur', dir_fd=self.fd).st_mode):
            raise NotADirectoryError(unix.ENOTDIR, 'cur is not a directory')
        unix.stat(b'tmp', dir_fd=self.fd)

    def close(self):
        """Let go of it."""
        for fd in (self.fd, self.new):
            if fd >= 0:
                unix.close_quietly(fd)
        self.fd = self.new = -1


def make(path, dir_fd=None):
    """Make what is missing of a Maildir at path: it, and its new and cur, on disk, and tmp, each 0700.  OSError.

    tmp comes last, when all else is on disk: where it is missing, whoever comes after a failure, a kill or a cut begins again.
    """
    path = path.rstrip(b'/') or b'/'
    for part in (b'', b'/new', b'/cur'):
        make_directory(path + part, dir_fd)
    unix.sync_directory(path, dir_fd)
    sync_name(dir_fd, path)
    make_directory(path + b'/tmp', dir_fd)


def make_directory(path, dir_fd):
    """Unless it is there."""
    try:
        unix.mkdir(path, 0o700, dir_fd=dir_fd)
    except FileExistsError:
        pass


sequence = 0


def new_name(host):
    """A file name nobody else uses, in any process, at any time."""
    global sequence
    sequence += 1
    return maildir.unique(unix.time(), unix.getpid(), sequence, unix.urandom(4), host)


class Drop:
    """A message on its way into a Maildir: written to tmp/, not yet in new/."""

    __slots__ = ('box', 'name', 'fd')

    def __init__(self, box, host):
        self.box, self.fd = box, -1
        for left in range(NAMES_TRIED, 0, -1):
            self.name = new_name(host)
            try:
                self.fd = unix.open(b'tmp/' + self.name, unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC,
                                    0o600, dir_fd=box.fd)
                return
            except FileExistsError:
                if left == 1:
                    raise

    def write(self, head, body, fd):
        """The header lines, then the message: body if it is in memory, else from fd."""
        if body is not None:
            unix.write_all(self.fd, head + body)
            return
        unix.write_all(self.fd, head)
        since = 0
        for piece in pieces(fd):
            unix.write_all(self.fd, piece)
            since += len(piece)
            if since >= PUSH_EVERY:
                self.push()
                since = 0

    def push(self):
        """Ask the disk to begin; nothing waits."""
        unix.posix_fadvise(self.fd, 0, 0, START_WRITING)

    def close(self):
        """No more will be written."""
        fd, self.fd = self.fd, -1
        unix.close(fd)

    def appear(self):
        """From tmp/ to new/, never over another file.  On disk only when the directory is synced."""
        old, new, fd = b'tmp/' + self.name, b'new/' + self.name, self.box.fd
        try:
            unix.link(old, new, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        except unix.error as problem:
            if problem.errno not in (unix.EPERM, unix.ENOTSUP, unix.ENOSYS) or exists(new, fd):
                raise
            unix.rename(old, new, src_dir_fd=fd, dst_dir_fd=fd)      # a file system without hard links
        else:
            self.forget()
        self.box.used = True

    def give_up(self):
        """Leave nothing behind."""
        if self.fd >= 0:
            unix.close_quietly(self.fd)
            self.fd = -1
        self.forget()

    def forget(self):
        """Remove the name in tmp/; if that fails a reader does it when it is 36 hours old."""
        try:
            unix.unlink(b'tmp/' + self.name, dir_fd=self.box.fd)
        except unix.error:
            pass


def exists(path, dir_fd):
    """Whether path names anything."""
    try:
        unix.lstat(path, dir_fd=dir_fd)
    except FileNotFoundError:
        return False
    return True


class Batch:
    """Messages for Maildirs that are made durable together.

    put() each (Failed: that delivery is off), then commit(): {key: None or the OSError that took it}.
    fsync_all: as unix.fsync_all.
    """

    def __init__(self, host, fsync_all=None):
        self.host, self.boxes, self.drops, self.failed = host, {}, [], {}
        self.fsync_all = fsync_all or unix.fsync_all

    def put(self, key, home_fd, home, paths, create, head, body, fd):
        """Write one message for every path.  key: what commit() answers for; all or, if one fails, none."""
        mine = []
        try:
            for path in paths:
                box = self.box(home_fd, home, path, create)
                mine.append(Drop(box, self.host))
                mine[-1].write(head, body, fd)
        except unix.error as problem:
            self.abandon(mine)
            raise Failed(exits.TEMP, trouble(problem)) from None
        except Failed:
            self.abandon(mine)
            raise
        self.drops += [(key, drop) for drop in mine]
        self.failed[key] = None

    def box(self, home_fd, home, path, create):
        """The open Maildir at path (relative to home), opened once per batch."""
        box = self.boxes.get((home, path))
        if box is None:
            box = self.boxes[home, path] = Box(home_fd, path, create)
        return box

    def abandon(self, drops):
        """Remove what was written for a delivery that is off."""
        for drop in drops:
            drop.give_up()

    def commit(self):
        """Bytes to disk, all of them; then the names; then the names to disk."""
        try:
            self.sync_bytes()
            self.each(Drop.close)
            self.each(Drop.appear)
            self.sync_names()
            return self.failed
        finally:
            for box in self.boxes.values():
                box.close()

    def sync_bytes(self):
        """Wait until every byte is on disk; a message with a file that cannot be synced has failed."""
        problems = self.fsync_all([drop.fd for _, drop in self.drops])
        self.failed.update((key, problem) for (key, _), problem in zip(self.drops, problems) if problem is not None)

    def each(self, step):
        """Do a step for every message that is still well."""
        for key, drop in self.drops:
            if self.failed[key] is None:
                try:
                    step(drop)
                except unix.error as problem:
                    self.failed[key] = problem
            if self.failed[key] is not None:
                drop.give_up()

    def sync_names(self):
        """One fsync for each new/ that has new names; if it fails, all that went there is in doubt."""
        for box in self.boxes.values():
            if box.used:
                try:
                    unix.fsync(box.new)
                except unix.error as problem:
                    self.failed.update((key, problem) for key, drop in self.drops
                                       if drop.box is box and self.failed[key] is None)


def trouble(problem):
    """The report of a Maildir delivery that an OSError ended."""
    return b'%s\n%s' % (TROUBLE, why(problem))


# --- mbox ----------------------------------------------------------------------------------------------------

def append(home_fd, path, head, message_fd):
    """Add one message to the mbox at path (relative to home); head: From_ line and header lines.

    Returns when it is on disk; Failed (temporary), and then the file is as long as it was, if it was locked.
    """
    fd = open_mbox(home_fd, path)
    try:
        lock = Lock(home_fd, path, fd)
        try:
            write_mbox(fd, home_fd, path, head, message_fd, lock.held)
        finally:
            lock.release()
    finally:
        unix.close_quietly(fd)


def open_mbox(home_fd, path):
    """The open file, which is a regular one; where others may write its directory, the user's own and no link."""
    flags = unix.O_APPEND | unix.O_CREAT | unix.O_NONBLOCK | unix.O_CLOEXEC
    fd = -1
    try:
        shared = is_shared(home_fd, path)
        flags |= unix.O_NOFOLLOW if shared else 0
        try:
            fd = unix.open(path, flags | unix.O_RDWR, 0o600, dir_fd=home_fd)
        except PermissionError:                 # one may be allowed to write and not to read
            fd = unix.open(path, flags | unix.O_WRONLY, 0o600, dir_fd=home_fd)
        reason = not_ours(unix.fstat(fd), shared)
    except unix.error as problem:
        reason = why(problem)
    if not reason:
        return fd
    if fd >= 0:
        unix.close_quietly(fd)
    raise Failed(exits.TEMP, b'Unable to open %s: %s. (#4.2.1)' % (path, reason))


def is_shared(home_fd, path):
    """Whether others than the user and root may put files where path is."""
    there = unix.stat(directory_of(path), dir_fd=home_fd)
    return bool(there.st_mode & 0o002) or bool(there.st_mode & 0o020) and there.st_uid != unix.geteuid()


def directory_of(path):
    """The directory that holds the last name of path."""
    return path.rpartition(b'/')[0] or (b'/' if path[:1] == b'/' else b'.')


def not_ours(there, shared):
    """What is wrong with an open mbox, b'' if nothing."""
    if not unix.S_ISREG(there.st_mode):
        return b'not a regular file'
    if shared and there.st_uid != unix.geteuid():
        return b'belongs to somebody else'
    if shared and there.st_nlink != 1:
        return b'has another name'
    return b''


class Lock:
    """The three locks of an mbox: fcntl, flock, and a dot-lock where the directory allows one.

    All are tried without waiting, and given back when one is not free, so that no order of locking can embrace
    ours.  held: whether the file is ours; False where the file system knows no locks.
    """

    __slots__ = ('home_fd', 'dot', 'fd', 'held', 'has_dot')

    def __init__(self, home_fd, path, fd):
        self.home_fd, self.dot, self.fd = home_fd, path + b'.lock', fd
        self.held, self.has_dot = True, False
        end, pause = unix.monotonic() + LOCK_PATIENCE, 0.005
        while not self.take():
            self.release()
            if unix.monotonic() + pause > end:
                raise Failed(exits.TEMP, LOCKED)
            unix.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    def take(self):
        """Whether all were free."""
        self.held = True
        for lock in (unix.lockf, unix.flock):
            try:
                lock(self.fd, unix.LOCK_EX | unix.LOCK_NB)
            except unix.error as problem:
                if problem.errno in (unix.EAGAIN, unix.EACCES):
                    return False
                self.held = False               # no locks here: go on without, as qmail does
        return self.take_dot()

    def take_dot(self):
        """The dot-lock; where none can be made the other two must do."""
        try:
            self.make_dot()
        except FileExistsError:
            self.drop_stale()
            return False
        except unix.error:
            return True
        self.has_dot = True
        return True

    def make_dot(self):
        """Write it under another name and link it, so that it says whose it is as soon as it is there.  NFS may lose the
        answer to link(2): the number of names tells.  Where there are no links (or no room) it is made in its place.
        """
        other = b'%b/.lk%d.%d' % (directory_of(self.dot), unix.getpid(), int(unix.time() * 1e6))
        try:
            self.write_dot(other)
        except unix.error:
            return self.write_dot(self.dot)
        try:
            unix.link(other, self.dot, src_dir_fd=self.home_fd, dst_dir_fd=self.home_fd, follow_symlinks=False)
        except unix.error:
            if self.names_of(other) != 2:
                self.write_dot(self.dot)
        finally:
            self.remove(other)

    def write_dot(self, name):
        """A new file that names us, as Dovecot does; FileExistsError."""
        fd = unix.open(name, unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC, 0o600, dir_fd=self.home_fd)
        try:
            unix.write(fd, b'%d:%b\n' % (unix.getpid(), unix.fsencode(unix.gethostname())))
        except unix.error:
            pass                                # no room: who dies now leaves one that names nobody
        unix.close_quietly(fd)

    def names_of(self, path):
        """How many a file has."""
        try:
            return unix.lstat(path, dir_fd=self.home_fd).st_nlink
        except unix.error:
            return 0

    def remove(self, path):
        """If it can be done."""
        try:
            unix.unlink(path, dir_fd=self.home_fd)
        except unix.error:
            pass

    def drop_stale(self):
        """Remove a dot-lock whose writer is dead or long gone; the kernel's locks, which we hold, keep two from doing so."""
        try:
            old = unix.time() - unix.lstat(self.dot, dir_fd=self.home_fd).st_mtime > STALE_LOCK
            if old or self.held and self.writer_is_dead():
                unix.unlink(self.dot, dir_fd=self.home_fd)
        except unix.error:
            pass

    def writer_is_dead(self):
        """Does the dot-lock name a process of this host that is no more, or nobody, and is older than this host's start?
        A power cut may leave it without its bytes.
        """
        fd = unix.open_regular(self.dot, unix.O_RDONLY, dir_fd=self.home_fd)
        try:
            said, made = unix.pread_all(fd, 100, 0), unix.fstat(fd).st_mtime
        finally:
            unix.close_quietly(fd)
        if not said.strip(b'\0'):
            return made < started()
        pid, _, host = said.rstrip(b'\n').partition(b':')
        if host != unix.fsencode(unix.gethostname()) or not pid.isdigit() or not 0 < int(pid) <= MOST_PID:
            return False
        try:
            unix.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        return False

    def release(self):
        """Give back what is held."""
        if self.has_dot:
            self.has_dot = False
            self.remove(self.dot)
        for unlock in (unix.flock, unix.lockf):
            try:
                unlock(self.fd, unix.LOCK_UN)
            except unix.error:
                pass


def started():
    """Unix seconds at which this host was started; 0 where that cannot be seen."""
    word = unix.read_file(b'/proc/stat').partition(b'\nbtime ')[2].partition(b'\n')[0]
    return int(word) if word.isdigit() else 0


def write_mbox(fd, home_fd, path, head, message_fd, locked):
    """Append, sync; on an error take it back, which only he may who holds the lock."""
    try:
        size = unix.fstat(fd).st_size
        if not size:
            sync_name(home_fd, path)
        try:
            unix.write_all(fd, mbox.fresh_start(tail(fd, size)) + head)
            quoter = mbox.Quoter()
            for piece in pieces(message_fd):
                unix.write_all(fd, quoter.feed(piece))
            unix.write_all(fd, quoter.end())
            unix.fsync(fd)
        except BaseException:
            if locked:
                unix.ftruncate(fd, size)
            raise
    except unix.error as problem:
        raise Failed(exits.TEMP, b'Unable to write %s: %s. (#4.3.0)' % (path, why(problem))) from None


def sync_name(home_fd, path):
    """Make the name of an mbox or a Maildir that holds nothing yet durable, before anything is in it; fsync of the file
    alone does not promise that.  A directory that one may not read cannot be synced, and most file systems need it not.
    """
    try:
        unix.sync_directory(directory_of(path), home_fd)
    except PermissionError:
        pass


def tail(fd, size):
    """The last two bytes of the mbox, as far as they can be read."""
    try:
        return unix.pread_all(fd, 2, max(0, size - 2))
    except unix.error:
        return b''          # write-only: nothing is known, nothing is added
