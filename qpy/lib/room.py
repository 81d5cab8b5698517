"""How much of the machine there is for us: what the hardware has, or what a control group allows."""
from qpy import unix
from qpy.core import text

GROUPS = b'/sys/fs/cgroup'
LIMIT = 1 << 62


def memory():
    """Bytes of memory."""
    return min(unix.physical_memory(), allowed(b'memory.max'))


def processes():
    """Processes at a time."""
    return allowed(b'pids.max')


def allowed(name):
    """The least number that file `name` of our control group (version 2), or of one above it, holds; else LIMIT."""
    least = LIMIT
    try:
        group = unix.read_file(b'/proc/self/cgroup', 65536).rpartition(b'0::')[2].rstrip(b'\n')
    except unix.error:
        return least
    while group:
        try:
            number = text.parse_uint(unix.read_file(b'%s%s/%s' % (GROUPS, group, name), 64).strip(b'\n'), LIMIT)
        except unix.error:
            number = None
        least = least if number is None else min(least, number)
        group = group.rpartition(b'/')[0]
    return least
