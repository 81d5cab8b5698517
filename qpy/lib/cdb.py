"""cdb files on disk: asked through a descriptor that follows the file, replaced as a whole.

    users = cdb.Database(home + b'/users/cdb')
    users.ask(lambda db: db.get(key), absent=None)

Trouble of any kind is core.cdb.CdbError (temporary). A file replaced by rename is taken up at the next
question; one rewritten in place while it was being asked is an error for that question.
"""
from qpy import unix
from qpy.core import cdb
from qpy.core.cdb import CdbError  # noqa: F401  (what callers catch)


def stamp(status):
    """What changes when a file is replaced or rewritten."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Database:
    """The cdb at a path, opened at the first question, and again when the path names another file."""

    __slots__ = ('path', 'fd', 'stamp', 'db')

    def __init__(self, path):
        self.path, self.fd, self.stamp, self.db = path, -1, None, None

    def ask(self, question, absent=None):
        """question(Cdb), or absent if there is no file. CdbError for all trouble."""
        try:
            if not self.follow():
                return absent
            answer = question(self.db)
            if stamp(unix.fstat(self.fd))[2:4] != self.stamp[2:4]:
                raise CdbError('rewritten in place while it was read')
        except unix.error as problem:
            self.close()
            raise CdbError(problem.strerror or 'unreadable') from problem
        except CdbError:
            self.close()
            raise
        return answer

    def follow(self):
        """Have the file open that the path names now; False if there is none."""
        try:
            now = stamp(unix.stat(self.path))
        except FileNotFoundError:
            self.close()
            return self.none()
        if now != self.stamp:
            self.close()
            self.open()
        return True

    def none(self):
        """False, as there is no file; CdbError where a link leads to none: what it leads to may only not be mounted."""
        try:
            unix.lstat(self.path)
        except FileNotFoundError:
            return False
        raise CdbError('a link that leads nowhere')

    def open(self):
        """Open the file anew and check its frame."""
        self.fd = unix.open(self.path, unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK)
        status = unix.fstat(self.fd)
        self.stamp = stamp(status)
        self.db = cdb.Cdb(lambda offset, count: unix.pread_all(self.fd, count, offset), status.st_size)

    def close(self):
        """Forget the file; the next question opens it again."""
        if self.fd >= 0:
            unix.close_quietly(self.fd)
        self.fd, self.stamp, self.db = -1, None, None


def replace(path, data, mode=0o644):
    """Write data as path.tmp, make it durable, and let it take the place of path. OSError on any trouble.

    Two writers at once take turns on a lock of path.tmp; the last one wins.  Others can open it, and so lock it, only in
    the moment before it is renamed."""
    temporary = path + b'.tmp'
    fd = locked(temporary)
    try:
        unix.fchmod(fd, 0o600)
        unix.ftruncate(fd, 0)
        unix.write_all(fd, data)
        unix.fchmod(fd, mode)
        unix.fsync(fd)
        unix.rename(temporary, path)
    finally:
        unix.close(fd)
    unix.sync_directory(path.rpartition(b'/')[0] or b'.')


def locked(path):
    """A descriptor of the file that path names, locked; made if it is not there."""
    while True:
        fd = unix.open(path, unix.O_RDWR | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NOFOLLOW, 0o600)
        try:
            unix.flock(fd, unix.LOCK_EX)
            if unix.fstat(fd).st_ino == unix.stat(path).st_ino:
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            unix.close(fd)
            raise
        unix.close(fd)
