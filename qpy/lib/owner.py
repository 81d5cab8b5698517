"""Whose rights count in DIR: those of its owner."""
from qpy import unix


def become(home):
    """Where DIR is not root's, root becomes its owner, for good: he may have put links there, and root would follow them to
    what is not his.  The owner's uid; ours if there is no DIR, which whoever looks there will say."""
    try:
        there = unix.stat(home)
    except FileNotFoundError:
        return unix.geteuid()
    if there.st_uid and unix.geteuid() == 0:
        unix.setgroups([])
        unix.setresgid(there.st_gid, there.st_gid, there.st_gid)
        unix.setresuid(there.st_uid, there.st_uid, there.st_uid)
    return there.st_uid
