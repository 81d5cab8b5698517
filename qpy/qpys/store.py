"""The queue as qpy-send sees it: messages to read, states to read and append to, descriptors for deliveries.

send reads queue/mess and never writes there; queue/state is its own.  Names are IDs of 16 digits.

What may be forgotten.  Appending to a state is not waited for: an entry that a crash takes away is found out
again by delivering again.  A state is cut back to its last whole entry before more is appended.
Only an administrator's hold and release are synced: nothing would find those out again.
"""
from qpy import unix
from qpy.core import state
from qpy.lib import queuefile, reserve

MEMORY = 1 << 20                # bytes: longer messages are handed to local deliveries as files
PIECE = 4 << 20                 # bytes of a long message copied at a time
WORDY, WASTE = 1 << 20, 2       # a state of so many bytes is written anew if half of it would do
SHORTER = b'shorter'            # the name of such a new one, until it is there

APPEND = unix.O_RDWR | unix.O_CREAT | unix.O_APPEND
AFRESH = unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC
DIRECTORY = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC


class Store:
    """queue/mess and queue/state of one DIR."""

    def __init__(self, home):
        self.home = home
        self.mess = unix.open(home + b'/queue/mess', DIRECTORY)
        self.state = unix.open(home + b'/queue/state', DIRECTORY)
        self.drop(SHORTER)              # of somebody who was interrupted

    # --- messages ---

    def load(self, name, check):
        """The queuefile.Mess called name.  check: sum up the whole file, however long.

        FileNotFoundError: it is not in the queue; OSError: later; mess.Damaged; mess.Newer.
        """
        return queuefile.open_mess(self.mess, name, check)

    def check_footer(self, name):
        """Is the file of its right length?  Raises as load."""
        queuefile.check_footer(self.mess, name)

    def open(self, name):
        """A descriptor of the queue file itself, for rspawn."""
        return unix.open_regular(name, unix.O_RDONLY, dir_fd=self.mess)

    def memory(self, message):
        """A sealed memory file of a Mess's bytes alone."""
        data = message.message
        return unix.memfd(unix.pread_exactly(message.fd, message.size, 0) if data is None else data)

    def size(self, name):
        """Bytes of a queue file; None if there is none."""
        try:
            return unix.stat(name, dir_fd=self.mess, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    # --- states ---

    def view(self, name, recipients):
        """What the state says, as state.View; None if there is no state.  A tail is cut off.

        With recipients 0 only due, attempts and held mean anything.
        """
        try:
            fd = unix.open_regular(name, unix.O_RDONLY, dir_fd=self.state)
        except FileNotFoundError:
            return None
        try:
            data = unix.read_all(fd, queuefile.STATE_LIMIT)
        finally:
            unix.close(fd)
        view = state.replay(data, name, recipients)
        if view.tail:
            self._cut(name, view.end)
        if recipients and view.end > WORDY:
            self._shorten(name, view)
        return view

    def _shorten(self, name, view):
        """Write a state anew in which older passes have said what later ones say again.  It stays as it is if that cannot
        be done now."""
        data = b''.join([state.entry(name, *entry) for entry in view.entries()])
        if WASTE * len(data) > view.end:
            return
        try:
            fd = unix.open_regular(SHORTER, AFRESH, 0o640, dir_fd=self.state)
            try:
                unix.write_all(fd, data)
                unix.fsync(fd)          # it takes the place of what may be all on the disk
            finally:
                unix.close(fd)
            unix.rename(SHORTER, name, src_dir_fd=self.state, dst_dir_fd=self.state)
        except unix.error:
            return
        view.end = len(data)

    def _cut(self, name, end):
        fd = unix.open_regular(name, unix.O_WRONLY, dir_fd=self.state)
        try:
            unix.ftruncate(fd, end)
        finally:
            unix.close(fd)

    def append(self, name, entries, sync=False):
        """Append entries [(letter, field, ...)] to the state; OSError: none of them counts."""
        data = b''.join([state.entry(name, *entry) for entry in entries])
        fd = unix.open_regular(name, APPEND, 0o640, dir_fd=self.state)
        try:
            if unix.write(fd, data) != len(data):
                self._take_back(fd, name)
                raise OSError(unix.ENOSPC, 'no space left')
            if sync:
                unix.fsync(fd)
        finally:
            unix.close(fd)
        if sync:
            unix.fsync(self.state)

    def _take_back(self, fd, name):
        """After a short write: leave whole entries only."""
        unix.lseek(fd, 0, unix.SEEK_SET)
        unix.ftruncate(fd, state.entries(unix.read_all(fd, queuefile.STATE_LIMIT), name)[1])

    def drop(self, name):
        """Remove a state; it is no error if there is none."""
        try:
            unix.unlink(name, dir_fd=self.state)
        except FileNotFoundError:
            pass


class Copy:
    """A message too long for memory, copied piece by piece into a file without a name, mode 0444.

    It lies beside the states (same file system, so that it can share blocks) and goes with its last
    descriptor.  On a full disk it leaves the room of the states of so many messages alone.
    """

    __slots__ = ('source', 'fd', 'left', 'store', 'messages')

    def __init__(self, store, name, length, messages=0):
        self.store, self.left, self.messages = store, length, messages
        self.source = store.open(name)
        try:
            self.fd = nameless(store)
        except BaseException:
            unix.close(self.source)
            raise

    def step(self):
        """Copy one piece; True when all is there and the descriptor `fd` is read-only.  After an OSError:
        close().
        """
        size = min(PIECE, self.left)
        if not reserve.look(self.store.state, self.messages).holds(size, 0, reserve.ROOT):
            raise OSError(unix.ENOSPC, 'no room but for the states')
        done = unix.copy_file_range(self.source, self.fd, size)
        if not done:
            raise OSError(unix.EIO, 'unexpected end of file')
        self.left -= done
        if self.left:
            return False
        unix.fchmod(self.fd, 0o444)
        writable, self.fd = self.fd, unix.reopen(self.fd)
        unix.close(writable)
        unix.close(self.source)
        return True

    def close(self):
        """Give up."""
        unix.close_quietly(self.source)
        unix.close_quietly(self.fd)


def nameless(store):
    """A new file in queue/state that has no name."""
    try:
        return unix.open(b'.', unix.O_TMPFILE | unix.O_RDWR | unix.O_CLOEXEC, 0o600, dir_fd=store.state)
    except unix.error as problem:
        if problem.errno not in (unix.ENOTSUP, unix.EISDIR, unix.EINVAL):
            raise
    name = b'copy.%d' % unix.getpid()
    fd = unix.open(name, unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC, 0o600, dir_fd=store.state)
    unix.unlink(name, dir_fd=store.state)
    return fd
