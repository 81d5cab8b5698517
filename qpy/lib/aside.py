"""The state of a message that was set aside, kept beside the others under a name by which it counts for nothing: for send
and fsck."""
from qpy import unix

SUFFIX = b'.aside'          # of queue/state/ID.aside


def lay_state(directory, ident):
    """Rename ID in the directory (a descriptor of queue/state), durably; there may be none.  OSError."""
    try:
        unix.rename(ident, ident + SUFFIX, src_dir_fd=directory, dst_dir_fd=directory)
    except FileNotFoundError:
        return
    unix.fsync(directory)
