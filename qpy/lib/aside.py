"""The state of a message that is set aside, kept beside the others under a name by which it counts for nothing: for send
and fsck.

First keep_state(), then the message goes to queue/damaged, then state/ID goes: a stop anywhere leaves the state under the
name that fits the place of its message, or under both.
"""
from qpy import unix
from qpy.core import mess

SUFFIX = b'.aside'          # of queue/state/ID.aside; of further ones of that ID .aside.1, .aside.2 and so on


def keep_state(directory, ident):
    """Give state ID in the directory (a descriptor of queue/state) a second name, durably, that nothing else had.

    That name, or None if there is no state, or no regular file in its place.  OSError: it may have the name or not.
    """
    there = of_name(directory, ident)
    if there is None or not unix.S_ISREG(there.st_mode):
        return None
    name, number = ident + SUFFIX, 0
    while not linked(directory, ident, name):
        taken = of_name(directory, name)
        if taken is not None and taken.st_ino == there.st_ino:      # by one who was stopped then
            break
        number += 1
        name = b'%b%b.%d' % (ident, SUFFIX, number)
    unix.fsync(directory)
    return name


def is_kept(name):
    """Is this one of the names that keep_state() gives?"""
    ident, _, number = name.partition(SUFFIX)
    return mess.is_id(ident) and name != ident and (not number or number[:1] == b'.' and number[1:].isdigit())


def linked(directory, old, new):
    """Link a name to another in the same directory; False if that is taken."""
    try:
        unix.link(old, new, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        return True
    except FileExistsError:
        return False


def of_name(directory, name):
    """What stat says of a name, of a link that itself; None if there is none."""
    try:
        return unix.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
