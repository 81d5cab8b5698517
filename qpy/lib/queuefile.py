"""Reading queue files: for send, the bouncer, clean, and whoever looks.  Nothing here writes.

See core.mess for what is in one.  A file that is not whole raises mess.Damaged, one of a later version mess.Newer;
OSError means that it could not be read just now, which says nothing about it; unix.NotRegular is one of these.
"""
from qpy import unix
from qpy.core import mess

SMALL = 65536               # files up to so many bytes are read in one go
PIECE = 1 << 20
STATE_LIMIT = 256 << 20     # bytes of a state worth reading; qpy-send keeps them far shorter


class Mess:
    """An open queue file.

    fd: read-only; position it before use, or use pread.  size: of the message, which is the first `size` bytes.
    envelope: a core.mess.Envelope.  message: the message's bytes if the file is small, else None.
    """

    __slots__ = ('ident', 'fd', 'size', 'envelope', 'message')

    def __init__(self, ident, fd, size, envelope, message):
        self.ident, self.fd, self.size, self.envelope, self.message = ident, fd, size, envelope, message

    def close(self):
        """Close the descriptor."""
        if self.fd >= 0:
            unix.close_quietly(self.fd)
            self.fd = -1


def open_mess(directory, ident, verify=True):
    """The Mess called ident in the directory (a descriptor of queue/mess).  OSError, mess.Damaged, mess.Newer.

    verify: read all of it and compare the checksum.  Without, only small files are checked (it costs nothing):
    right for a message that queued itself has announced, never for one that was found by looking.
    """
    if not mess.is_id(ident):
        raise mess.Damaged('no ID')
    fd = unix.open_regular(ident, unix.O_RDONLY, dir_fd=directory)
    try:
        data = unix.pread_all(fd, SMALL, 0)
        if len(data) < SMALL:
            message, envelope = mess.unpack(data, ident)
            return Mess(ident, fd, len(message), envelope, message)
        return _open_long(fd, ident, verify)
    except BaseException:
        unix.close_quietly(fd)
        raise


def check_footer(directory, ident):
    """Look at the footer and the length only: OSError, mess.Damaged, mess.Newer.

    Three short calls, however long the file; it finds what is cut short, not what is changed.
    """
    fd = unix.open_regular(ident, unix.O_RDONLY, dir_fd=directory)
    try:
        size = unix.fstat(fd).st_size
        mess.parse_footer(unix.pread_all(fd, mess.FOOTER_SIZE, max(0, size - mess.FOOTER_SIZE)), ident, size)
    finally:
        unix.close_quietly(fd)


def _open_long(fd, ident, verify):
    size = unix.fstat(fd).st_size
    footer = unix.pread_exactly(fd, mess.FOOTER_SIZE, size - mess.FOOTER_SIZE)
    message_size, envelope_size, crc = mess.parse_footer(footer, ident, size)
    if verify:
        mess.check(pieces(fd, size - 9), crc)
    return Mess(ident, fd, message_size, mess.parse(unix.pread_exactly(fd, envelope_size, message_size)), None)


def pieces(fd, size):
    """The first size bytes of fd, piece by piece."""
    at = 0
    while at < size:
        piece = unix.pread(fd, min(PIECE, size - at), at)
        if not piece:
            raise mess.Damaged('shorter than it was')
        at += len(piece)
        yield piece


def read_state(directory, ident):
    """The bytes of queue/state/ID (directory: a descriptor of queue/state), or None if there is no such file."""
    try:
        return unix.read_file(ident, STATE_LIMIT, dir_fd=directory)
    except FileNotFoundError:
        return None


def idents(names):
    """Those of the names (bytes) that are IDs, sorted."""
    return sorted(filter(mess.is_id, names))
