"""The message of a delivery, read from its descriptor in pieces: never whole in memory."""
from qpy import unix
from qpy.core import mess

CHUNK = 65536       # bytes
ENVELOPE_LIMIT = 2 << 20    # bytes; a longer one is not read for each hundred of its recipients


class Short(OSError):
    """The message ended before its length: the file changed under us (R-29)."""


class Source:
    """`length` bytes of a seekable descriptor from `start` on.  Takes fd over."""

    __slots__ = ('fd', 'start', 'length', 'position', 'first')

    def __init__(self, fd, start, length):
        self.fd, self.start, self.length = fd, start, length
        self.position, self.first = 0, None

    def head(self):
        """The first piece (all of a short message), kept."""
        if self.first is None:
            self.first = self._piece(0)
        return self.first

    def read(self):
        """The next piece, b'' at the end; Short or another OSError if it cannot be had."""
        piece = self.head() if self.position == 0 else self._piece(self.position)
        self.position += len(piece)
        return piece

    def _piece(self, position):
        wanted = min(CHUNK, self.length - position)
        return unix.pread_exactly(self.fd, wanted, self.start + position) if wanted else b''

    def rewind(self):
        """Begin again; False if that cannot be."""
        self.position = 0
        return True

    def size(self):
        """About how many bytes the message has on the wire (exactly, if it is short): RFC 1870's estimate."""
        head = self.head()
        if len(head) == self.length:
            return self.length + head.count(b'\n') - (head.count(b'\r\n') if b'\r' in head else 0)
        return self.length + self.length // 40

    def envelope(self):
        """What stands behind the message in its queue file (core.mess.Envelope); OSError or Damaged."""
        return mess.parse(unix.pread_all(self.fd, ENVELOPE_LIMIT, self.start + self.length)[:-mess.FOOTER_SIZE])

    def close(self):
        """Give the descriptor back."""
        unix.close_quietly(self.fd)
        self.first = None


class Stream(Source):
    """All of a descriptor that cannot seek: read once, of unknown length."""

    __slots__ = ()

    def __init__(self, fd):
        super().__init__(fd, 0, 0)

    def _piece(self, position):
        return unix.read(self.fd, CHUNK)

    def rewind(self):
        """Only before anything but the head was read."""
        if self.position <= len(self.first or b''):
            self.position = 0
        return self.position == 0

    def size(self):
        """Unknown."""
        return 0


def of_descriptor(fd):
    """The source for everything from fd's position on, whatever fd is."""
    try:
        start = unix.lseek(fd, 0, unix.SEEK_CUR)
    except OSError:
        return Stream(fd)
    status = unix.fstat(fd)
    return Source(fd, start, max(0, status.st_size - start)) if unix.S_ISREG(status.st_mode) else Stream(fd)


def header_is_ascii(head):
    """True if the header within the first piece is ASCII; a header longer than that counts as not."""
    end = len(head) if len(head) < CHUNK else -1
    if not head.startswith(b'\n'):
        blank = head.find(b'\n\n')
        end = blank if blank >= 0 else end
    return end >= 0 and head[:end].isascii()
