"""Giving up privileges for good, and proving it.

    drop(uid, gid)                               a daemon's account: nothing of root is left
    enter_mail_namespace(uids, gids, uid, gid)   the seed's: only mail users exist, and it may become them
    keep_two_capabilities(uid, gid)              the seed's where namespaces are forbidden

Each leaves the process verified by system calls or raises; who calls it must not go on after an exception.
"""
from qpy import unix, unix_kernel
from qpy.core import idmap, seccomp
from qpy.lib import program

SEED_CAPABILITIES = 1 << unix_kernel.CAP_SETUID | 1 << unix_kernel.CAP_SETGID


class NotDropped(OSError):
    """The process still holds what it gave up."""


# --- a daemon's account --------------------------------------------------------------------------------------

def drop(uid, gid, groups=()):
    """Become uid with gid and `groups` for good, with no capability and no way to get one."""
    unix_kernel.set_dumpable(0)
    no_core()
    if unix.geteuid() == 0:
        unix_kernel.drop_bounding_set()
        unix.setgroups(list(groups))
        unix.setresgid(gid, gid, gid)
        unix.setresuid(uid, uid, uid)
    unix_kernel.clear_capabilities()
    unix_kernel.no_new_privs()
    verify(uid, gid, groups)


def no_core():
    """No core files: they hold mail."""
    unix.set_limit('CORE', 0, 0)


def verify(uid, gid, groups=(), capabilities=0):
    """NotDropped unless the kernel says we are just that."""
    if unix.getresuid() != (uid, uid, uid) or unix.getresgid() != (gid, gid, gid):
        raise NotDropped(unix.EPERM, 'uid or gid is still another')
    if set(unix.getgroups()) - {gid} != set(groups) - {gid}:
        raise NotDropped(unix.EPERM, 'supplementary groups are left')
    effective, permitted, inheritable = unix_kernel.capget()
    if (effective | permitted | inheritable) & ~capabilities:
        raise NotDropped(unix.EPERM, 'capabilities are left')
    if unix_kernel.prctl(unix_kernel.PR_GET_NO_NEW_PRIVS) != 1:
        raise NotDropped(unix.EPERM, 'no_new_privs is not set')
    if not capabilities and uid and can_become_root():
        raise NotDropped(unix.EPERM, 'setresuid(0) is still possible')


def can_become_root():
    """Whether the way back is open.  If it is, this process is lost anyway."""
    try:
        unix.setresuid(0, 0, 0)
    except OSError:
        return False
    return True


# --- namespaces ----------------------------------------------------------------------------------------------

def empty_network():
    """A descriptor of a new network namespace without any interface; None where that is forbidden.

    The calling process stays where it is."""
    try:
        here = unix.open(b'/proc/self/ns/net', unix.O_RDONLY | unix.O_CLOEXEC)
    except OSError:
        return None
    try:
        unix_kernel.unshare(unix_kernel.CLONE_NEWNET)
        try:
            return unix.open(b'/proc/self/ns/net', unix.O_RDONLY | unix.O_CLOEXEC)
        finally:
            unix_kernel.setns(here, unix_kernel.CLONE_NEWNET)
    except OSError:
        return None
    finally:
        unix.close(here)


def enter_network(fd):
    """Move into the network namespace of empty_network()."""
    unix_kernel.setns(fd, unix_kernel.CLONE_NEWNET)


def enter_mail_namespace(uids, gids, uid, gid):
    """As root: enter a new user namespace that holds only the ids of `uids` and `gids`, and become uid there with
    CAP_SETUID and CAP_SETGID only.

    uids, gids: [(first, count)] as core.idmap.ranges makes them; uid and gid must be in them.  OSError if
    namespaces are forbidden (then nothing has changed yet: keep_two_capabilities and seed_filter are the other way).

    Order: unshare; a child outside, still host root, writes the maps; identity; bounding set; capability sets.
    """
    maps = idmap.text(uids), idmap.text(gids)
    unix_kernel.set_dumpable(1)                              # /proc/PID/*_map must be ours to write
    ask, answer = unix.socketpair()
    ask.setblocking(True)
    answer.setblocking(True)
    child = unix.fork()
    if child == 0:
        unix._exit(_write_maps(answer, ask, unix.getppid(), maps))
    answer.close()
    try:
        unix_kernel.unshare(unix_kernel.CLONE_NEWUSER)
        unix.send_packet(ask, b'go')
    finally:
        ask.close()
        status = unix.waitstatus_to_exitcode(unix.waitpid(child, 0)[1])
    if status:
        raise NotDropped(unix.EPERM, 'the maps of the user namespace were refused')
    unix_kernel.set_dumpable(0)
    keep_two_capabilities(uid, gid)


def _write_maps(answer, ask, parent, maps):
    """In the child: wait until the parent has its namespace, write its maps; 0 if that went well."""
    ask.close()
    try:
        if unix.recv_packet(answer)[0] != b'go':
            return 0                                 # the parent has no namespace and says so itself
        for name, content in ((b'uid_map', maps[0]), (b'gid_map', maps[1])):
            fd = unix.open(b'/proc/%d/%s' % (parent, name), unix.O_WRONLY | unix.O_CLOEXEC)
            unix.write(fd, content)                  # one write: the kernel takes no second
            unix.close(fd)
    except OSError as problem:
        program.warn(b'unable to write the maps of the user namespace: ' + program.reason(problem))
        return 1
    return 0


def keep_two_capabilities(uid, gid):
    """Become uid, gid, keeping CAP_SETUID and CAP_SETGID and nothing else; no exec gives more.

    What a worker does after this: setgroups([]), setresgid, setresuid, then clear_capabilities() and verify()."""
    no_core()
    unix_kernel.drop_bounding_set()
    unix_kernel.prctl(unix_kernel.PR_SET_KEEPCAPS, 1)
    unix.setgroups([])
    unix.setresgid(gid, gid, gid)
    unix.setresuid(uid, uid, uid)
    unix_kernel.capset(SEED_CAPABILITIES, SEED_CAPABILITIES, 0)
    unix_kernel.prctl(unix_kernel.PR_SET_KEEPCAPS, 0)
    unix_kernel.set_dumpable(0)
    unix_kernel.no_new_privs()
    verify(uid, gid, (), SEED_CAPABILITIES)


def become_user(uid, gid):
    """In a child of the seed, whose bounding and ambient sets are empty already: this user for good."""
    unix.setgroups([])
    unix.setresgid(gid, gid, gid)
    unix.setresuid(uid, uid, uid)
    unix_kernel.capset(0, 0, 0)          # an empty permitted set empties the ambient one too
    unix_kernel.set_dumpable(0)
    verify(uid, gid)


def seed_filter(uids, gids):
    """Where namespaces are forbidden: from now on this process and its descendants become ids of these ranges only,
    have no supplementary groups and make no user namespace.  OSError where seccomp is missing (said in the log)."""
    unix_kernel.seccomp(seccomp.identities(uids, gids, unix.uname().machine))
