"""Giving up privileges for good, and proving it.

    confine(home, program)                       a program's line of core.manifest, before its first foreign byte
    seal_keys(), own_keys()                      the keys of whoever started this, and of others, are out of reach
    drop(uid, gid)                               a daemon's account: nothing of root is left
    enter_mail_namespace(uids, gids, uid, gid)   the seed's: only mail users exist, and it may become them
    keep_two_capabilities(uid, gid)              the seed's where namespaces are forbidden

Each leaves the process verified by system calls or raises; who calls it must not go on after an exception.
"""
from qpy import unix, unix_kernel
from qpy.core import fence, idmap, manifest, seccomp
from qpy.lib import program

OUT_OF_REACH = (unix.EACCES, unix.EPERM, unix.ELOOP)
SEED_CAPABILITIES = 1 << unix_kernel.CAP_SETUID | 1 << unix_kernel.CAP_SETGID


class NotDropped(OSError):
    """The process still holds what it gave up."""


# --- keys ----------------------------------------------------------------------------------------------------

NO_KEYS = (unix.EPERM, unix.ENOSYS)     # a container's filter, which those we start have too; a kernel without keys


def seal_keys():
    """Leave the session keyring of whoever started us, whose keys all of our descendants would possess, for an empty one;
    as root for one that nobody can use: those whom own_keys() gives none share nothing either."""
    try:
        unix_kernel.new_session_keyring()
        if unix.geteuid() == 0:
            unix_kernel.seal_session_keyring()
    except OSError as problem:
        if problem.errno not in NO_KEYS:
            raise


def own_keys():
    """A session keyring that no other account's process is in.  A user's quota of keys (200) may be used up by his own
    processes: then the sealed one stays."""
    try:
        unix_kernel.new_session_keyring()
    except OSError as problem:
        if problem.errno not in (*NO_KEYS, unix.EDQUOT):
            raise


# --- a daemon's account --------------------------------------------------------------------------------------

def drop(uid, gid, groups=()):
    """Become uid with gid and `groups` for good, with no capability and no way to get one."""
    unix_kernel.set_dumpable(0)
    no_core()
    own_keys()                           # as root, whose quota is large: many may have one account
    root = unix.geteuid() == 0
    if root:
        unix_kernel.drop_bounding_set()
        unix.setgroups(list(groups))
        unix.setresgid(gid, gid, gid)
        unix.setresuid(uid, uid, uid)
    unix_kernel.clear_capabilities()
    unix_kernel.set_dumpable(0)          # with another uid it is what fs.suid_dumpable says
    unix_kernel.no_new_privs()
    verify(uid, gid, groups, bounded=root)


def no_core():
    """No core files: they hold mail."""
    unix.set_limit('CORE', 0, 0)


def verify(uid, gid, groups=(), capabilities=0, saved=None, bounded=True):
    """NotDropped unless the kernel says we are just that.  bounded: that no file can give a capability, which root alone can
    see to."""
    if unix.getresuid() != (uid, uid, uid if saved is None else saved) or unix.getresgid() != (gid, gid, gid):
        raise NotDropped(unix.EPERM, 'uid or gid is still another')
    if set(unix.getgroups()) - {gid} != set(groups) - {gid}:
        raise NotDropped(unix.EPERM, 'supplementary groups are left')
    effective, permitted, inheritable = unix_kernel.capget()
    if (effective | permitted | inheritable) & ~capabilities:
        raise NotDropped(unix.EPERM, 'capabilities are left')
    if bounded and unix_kernel.bounding_set():
        raise NotDropped(unix.EPERM, 'the bounding set is not empty')
    if unix_kernel.prctl(unix_kernel.PR_GET_DUMPABLE) or unix.limits('CORE') != (0, 0):
        raise NotDropped(unix.EPERM, 'it could be traced, or leave a core file')
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
    _no_further_namespaces()
    keep_two_capabilities(uid, gid)


def _no_further_namespaces():
    """Nobody in this user namespace makes another one in it.  Where /proc is read-only they may: with ids of its maps
    only, so that nothing is gained by it."""
    try:
        fd = unix.open(b'/proc/sys/user/max_user_namespaces', unix.O_WRONLY | unix.O_CLOEXEC)
    except OSError:
        return
    try:
        unix.write(fd, b'0')
    finally:
        unix.close(fd)


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


def keep_two_capabilities(uid, gid, saved=None):
    """Become uid, gid, keeping CAP_SETUID and CAP_SETGID and nothing else; no exec gives more.

    saved: the saved uid, 0 outside of the namespace of mail, where the filter lets nobody come back to it: who has it and
    becomes another has no capability from then on, by the kernel's own rule, which is locked.  So no process is ever a
    user with CAP_SETGID, who could write any gid into the map of a user name space of that user's.

    What a worker does after this: setgroups([]), setresgid, setresuid, then clear_capabilities() and verify()."""
    no_core()
    unix_kernel.drop_bounding_set()
    if saved is None:
        unix_kernel.prctl(unix_kernel.PR_SET_KEEPCAPS, 1)
    else:
        unix_kernel.lose_capabilities_with_root()
    unix.setgroups([])
    unix.setresgid(gid, gid, gid)
    unix.setresuid(uid, uid, uid if saved is None else saved)
    unix_kernel.capset(SEED_CAPABILITIES, SEED_CAPABILITIES, 0)
    if saved is None:
        unix_kernel.prctl(unix_kernel.PR_SET_KEEPCAPS, 0)
    unix_kernel.set_dumpable(0)
    unix_kernel.no_new_privs()
    verify(uid, gid, (), SEED_CAPABILITIES, saved)


def become_user(uid, gid):
    """In a child of the seed, whose bounding and ambient sets are empty already: this user for good."""
    unix.setgroups([])
    unix.setresgid(gid, gid, gid)
    unix.setresuid(uid, uid, uid)
    own_keys()
    unix_kernel.capset(0, 0, 0)          # an empty permitted set empties the ambient one too
    unix_kernel.set_dumpable(0)
    verify(uid, gid, bounded=False)      # the seed has shown that, and nothing fills it again


def seed_filter(uids, gids):
    """Where namespaces are forbidden: from now on this process and its descendants become ids of these ranges only,
    have no supplementary groups and make no user namespace.  OSError where seccomp is missing (said in the log)."""
    unix_kernel.seccomp(seccomp.identities(uids, gids, unix.uname().machine))


# --- a program's line of the manifest ------------------------------------------------------------------------

NO_SUCH_CALL = (unix.ENOSYS, unix.ENOTSUP)       # how a kernel says that it does not have something


def confine(home, name, ports=()):
    """Take the line `name` of core.manifest on this process, and its children, for good.  ports: of TCP, for those
    that connect to ports of mail.

    Everything is imported, opened and listening by now; threads come later.  Returns what this kernel lacks, as
    words: that is no error, and qpy-start says it for all.  NotDropped if the kernel claims what is not so.
    """
    row = manifest.row(name)
    be_found()
    unix_kernel.set_dumpable(0)
    unix_kernel.no_new_privs()
    no_core()
    if row.memory:
        unix.lower_limit('AS', row.memory)
    if not row.writes and not logs_to_a_file():
        unix.lower_limit('FSIZE', 0)
    if row.children == b'none':
        unix.lower_limit('NPROC', 0)
    if row.connects == b'run' and unix.access(home + b'/run', unix.X_OK):
        unix.stay_in(home + b'/run')
    lacking = [words for words, step in ((b'Landlock', lambda: landlock(home, row, ports)),
                                         (b'no-exec memory (PR_SET_MDWE)', lambda: no_new_code(row)),
                                         (b'seccomp', lambda: filtered(row))) if not possible(step)]
    prove(row, lacking)
    return lacking + parts_missing(lacking)


def be_found():
    """Called by qmail's name (qpy-install --qmail-names): pidof goes by the first word, which is the interpreter's else."""
    if unix.argv0()[:6] == b'qmail-':
        try:
            unix_kernel.show_arguments([unix.argv0(), *unix.arguments()])
        except OSError:                     # no /proc
            pass


def parts_missing(lacking):
    """What this kernel's Landlock does not know yet, as words."""
    if b'Landlock' in lacking:
        return []
    abi = unix_kernel.landlock_abi()
    return [words for wanted, words in ((manifest.NET_ABI, b'rules for TCP ports (Linux 6.7)'),
                                        (manifest.SCOPE_ABI, b'scopes of signals (Linux 6.12)')) if abi < wanted]


def logs_to_a_file():
    """Whether descriptors 1 or 2 are regular files: a limit of the sizes of files would end the log."""
    return any(unix.S_ISREG(unix.fstat(fd).st_mode) for fd in (1, 2))


def possible(step):
    """step(); False if this kernel does not have it."""
    try:
        step()
    except ValueError:                      # a machine whose calls we have no numbers of
        return False
    except OSError as problem:
        if problem.errno not in NO_SUCH_CALL:
            raise
        return False
    return True


def landlock(home, row, ports):
    """Files, TCP, abstract sockets, signals: as far as this kernel's Landlock reaches."""
    if row.files is None:
        return
    abi = unix_kernel.landlock_abi()
    if not abi or abi < manifest.NEEDED_ABI.get(row.name, 1):
        raise OSError(unix.ENOSYS, 'no Landlock')
    tcp = manifest.TCP if abi >= manifest.NET_ABI else 0
    if row.connects == b'any' and (b'tcp' in row.sockets or b'from' in row.sockets):
        tcp &= ~manifest.CONNECT_TCP
    if b'any' in row.sockets:
        tcp = 0
    scoped = 0 if abi < manifest.SCOPE_ABI else 0 if b'any' in row.sockets else manifest.SCOPE_SOCKETS
    if abi >= manifest.SCOPE_ABI and not row.signals:
        scoped |= manifest.SCOPE_SIGNALS
    rules = unix_kernel.landlock_ruleset(manifest.handled(abi), tcp, scoped, abi)
    try:
        for path, letters in [*manifest.paths(home, row.files), *((path, b'rl') for path in unix.code_directories())]:
            allow(rules, path, manifest.rights(letters, abi), path.startswith(home + b'/'))
            if path == home + b'/control':
                follow_links(rules, path, manifest.rights(b'r', abi))
        for port in ports if tcp & manifest.CONNECT_TCP else ():
            unix_kernel.landlock_allow_port(rules, manifest.CONNECT_TCP, port)
        if b'from' in row.sockets and tcp & manifest.BIND_TCP:
            unix_kernel.landlock_allow_port(rules, manifest.BIND_TCP, 0)
        unix_kernel.landlock_restrict(rules)
    finally:
        unix.close(rules)


def allow(rules, path, rights, ours=False):
    """Let rights be used on path and beneath it; what is not there, or not ours and out of reach, is not allowed.

    OSError for any other reason (no descriptor left, a disk that fails): without that place the program could not work,
    and would not know why."""
    try:
        fd = unix.open(path, unix.O_PATH | unix.O_CLOEXEC)
    except OSError as problem:
        if problem.errno in (unix.ENOENT, unix.ENOTDIR) or not ours and problem.errno in OUT_OF_REACH:
            return
        raise
    try:
        if not unix.S_ISDIR(unix.fstat(fd).st_mode):
            rights &= manifest.OF_FILES
        unix_kernel.landlock_allow_beneath(rules, rights, fd)
    finally:
        unix.close(fd)


def follow_links(rules, directory, rights):
    """Where a control file is a link, the directory that it leads into may be read too."""
    for entry in unix.scandir(directory):
        if entry.is_symlink():
            target = unix.readlink(entry.path)
            target = target if target[:1] == b'/' else directory + b'/' + target
            allow(rules, target.rpartition(b'/')[0] or b'/', rights)


def no_new_code(row):
    """No page of memory that was written to is ever executed."""
    if row.files is not None:
        has(lambda: unix_kernel.prctl(unix_kernel.PR_SET_MDWE, unix_kernel.MDWE_REFUSE_EXEC_GAIN))


def has(call):
    """call(), where EINVAL means that the kernel has no such thing."""
    try:
        call()
    except OSError as problem:
        raise OSError(unix.ENOSYS, 'no such thing') if problem.errno == unix.EINVAL else problem from None


def filtered(row):
    """The filter of core.fence."""
    has(lambda: unix_kernel.prctl(unix_kernel.PR_GET_SECCOMP))
    unix_kernel.seccomp(fence.fence(row, unix.uname().machine))


def prove(row, lacking):
    """NotDropped unless what was taken away is away: by trying, because /proc may be closed by now."""
    tries = []
    if b'seccomp' not in lacking:
        tries += [(b'mount', lambda: unix_kernel.unshare(unix_kernel.CLONE_NEWUSER))]
        if row.children != b'programs':
            tries += [(b'exec', lambda: unix.execve(b'', [b'x'], {}))]
        if row.children == b'none':
            tries += [(b'fork', fork_and_end)]
    if row.files is not None and b'Landlock' not in lacking:
        tries += [(b'list /', lambda: unix.close(unix.open(b'/', unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC)))]
    for what, work in tries:
        if not refused(work):
            raise NotDropped(unix.EPERM, 'still possible: %s' % what.decode())


def refused(work):
    """Whether the kernel says no to it: not that something is missing, but no."""
    try:
        work()
    except OSError as problem:
        return problem.errno in (unix.EPERM, unix.EACCES, unix.EAGAIN)
    return False


def fork_and_end():
    """A child that should not be."""
    pid = unix.fork()
    if pid == 0:
        unix._exit(0)
    unix.waitpid(pid, 0)
