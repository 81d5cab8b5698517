"""What is kept of the queue's disk when it fills, and who stops where, so that what is in the queue can still be finished.

    4   quarters of the reserve are left by   users of this machine
    3                                         mail from the network, and all mail of a rootless DIR
    2                                         bounces and other reports
    1                                         root, and copies of long messages for local deliveries
    0                                         states

Beside the reserve each message in the queue has a room of its own: an inode and the blocks that its state may need until
all of its recipients are marked.
"""
from qpy import unix

USERS, NETWORK, REPORTS, ROOT = 4, 3, 2, 1

PART = 50                   # one part in so many of the disk is the reserve,
MOST, MOST_INODES = 256 << 20, 100_000      # but no more bytes and inodes than these
UNKNOWN = 1 << 62
BLOCK = 4096                # bytes; a file takes whole ones
MARK = 64                   # bytes of a state for one recipient


def promised(envelope):
    """Bytes kept for the state of a message with this envelope."""
    return BLOCK * max(1, -(-MARK * envelope.count(b'\0T') // BLOCK))


class Room:
    """Bytes and inodes that are free beside what is promised, and those of the reserve."""

    __slots__ = ('bytes', 'inodes', 'kept', 'kept_inodes')

    def __init__(self, free=UNKNOWN, inodes=UNKNOWN, kept=0, kept_inodes=0):
        self.bytes, self.inodes, self.kept, self.kept_inodes = free, inodes, kept, kept_inodes

    def holds(self, size, inodes, quarters):
        """Whether so much more leaves so many quarters of the reserve alone."""
        return self.bytes - size >= self.kept * quarters // 4 and self.inodes - inodes >= self.kept_inodes * quarters // 4

    def spend(self, size, inodes):
        """So much is gone."""
        self.bytes -= size
        self.inodes -= inodes

    def tight(self, messages):
        """Whether it matters how many messages there really are, if so many are promised a state."""
        return not self.holds(BLOCK * messages, messages, USERS)


def look(fd, messages=0, more=0):
    """The Room of the disk that the directory fd is on, with so many messages in the queue, whose states may need `more`
    bytes than a block each.  Where the file system does not tell it is not full."""
    try:
        disk = unix.fstatvfs(fd)
    except OSError:
        return Room()
    room = Room()
    if disk.f_blocks:
        room.bytes, room.kept = disk.f_frsize * disk.f_bavail, min(disk.f_frsize * disk.f_blocks // PART, MOST)
    if disk.f_files:
        room.inodes, room.kept_inodes = disk.f_favail, min(disk.f_files // PART, MOST_INODES)
    room.spend(max(disk.f_frsize, BLOCK) * messages + more, messages)
    return room
