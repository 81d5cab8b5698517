"""A message being gathered: in memory while it is short, then in a file without a name, gone when we are."""
from qpy import unix

IN_MEMORY = 1 << 20         # bytes
PLACES = (b'/var/tmp', b'/tmp')


class Spool:
    """add(data)*, then content(). size: bytes so far. OSError if the disk does not take it. places: directories for
    what is long."""

    __slots__ = ('pieces', 'size', 'fd', 'places')

    def __init__(self, places=PLACES):
        self.pieces, self.size, self.fd, self.places = [], 0, -1, places

    def add(self, data: bytes) -> None:
        """The next piece."""
        self.size += len(data)
        if self.fd >= 0:
            return unix.write_all(self.fd, data)
        self.pieces.append(data)
        if self.size > IN_MEMORY:
            self.fd = nameless(self.places)
            for piece in self.pieces:
                unix.write_all(self.fd, piece)
            self.pieces = []

    def content(self):
        """All of it: bytes, or a descriptor at its beginning."""
        if self.fd < 0:
            return b''.join(self.pieces)
        unix.lseek(self.fd, 0, unix.SEEK_SET)
        return self.fd

    def close(self) -> None:
        """Forget it."""
        if self.fd >= 0:
            unix.close_quietly(self.fd)
        self.pieces, self.size, self.fd = [], 0, -1


def nameless(places=PLACES):
    """The descriptor of a new file that nobody else can open."""
    for place in places:
        try:
            return nameless_in(place)
        except unix.error as problem:
            refused = problem
    raise refused


def nameless_in(place):
    """The same in one directory; where files must be born with a name it lasts for a moment."""
    try:
        return unix.open(place, unix.O_TMPFILE | unix.O_RDWR | unix.O_CLOEXEC, 0o600)
    except unix.error as problem:
        if problem.errno not in (unix.ENOTSUP, unix.EISDIR, unix.EINVAL):
            raise
    path = b'%s/qpy.%s' % (place, unix.urandom(12).hex().encode())
    fd = unix.open(path, unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_RDWR | unix.O_CLOEXEC, 0o600)
    unix.unlink(path)
    return fd
