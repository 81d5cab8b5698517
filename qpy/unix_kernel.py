"""The rarer system calls, by ctypes: namespaces, capabilities, prctl, keyrings, syncfs, sync_file_range, aio.

Separate from unix, because ctypes costs 2-3 ms and 13 modules: only programs that confine themselves, and the
queue's, pay for it.  Always used as unix_kernel.name(...), the same seam as unix.  Errors are OSError.
"""
import ctypes as _ctypes
import os as _os
from errno import EINTR as _EINTR, ENOSYS as _ENOSYS
from struct import iter_unpack as _iter_unpack, pack as _pack

from qpy import unix as _unix
import struct as _struct

_libc = _ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = _ctypes.c_long

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000

PR_SET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_NAME = 1, 3, 4, 15
PR_GET_KEEPCAPS, PR_SET_KEEPCAPS = 7, 8
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_GET_SECUREBITS, PR_SET_SECUREBITS = 27, 28
SECBIT_NO_SETUID_FIXUP_LOCKED, SECBIT_KEEP_CAPS_LOCKED = 1 << 3, 1 << 5
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 36, 38, 39
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

CAP_SETGID, CAP_SETUID = 6, 7
CAP_VERSION_3 = 0x20080522
CAP_HIGHEST = 63

SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WRITE, SYNC_FILE_RANGE_WAIT_AFTER = 1, 2, 4


def _checked(result):
    if result == -1:
        number = _ctypes.get_errno()
        raise OSError(number, _os.strerror(number))
    return result


def unshare(flags):
    """Leave the namespaces named by flags for new ones."""
    _checked(_libc.unshare(_ctypes.c_int(flags)))


def setns(fd, kind=0):
    """Enter the namespace that fd (of /proc/PID/ns/*) refers to."""
    _checked(_libc.setns(_ctypes.c_int(fd), _ctypes.c_int(kind)))


def prctl(option, *arguments):
    """prctl(2) with up to four numbers."""
    words = [_ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(_ctypes.c_int(option), *words))


def set_dumpable(flag):
    """0: nobody of the same account may trace this process or read its memory; 1: the default."""
    prctl(PR_SET_DUMPABLE, flag)


def set_subreaper():
    """Orphaned descendants become children of this process instead of init's."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(signal):
    """Send this process `signal` when its parent is gone.  Undone by any later change of identity."""
    prctl(PR_SET_PDEATHSIG, signal)


def no_new_privs():
    """No exec gives privileges any more: set-user-id bits and file capabilities are ignored."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def show_name(name):
    """Let ps -e, top and pgrep see this name, cut to 15 bytes, in the place of this process's own."""
    _checked(_libc.prctl(_ctypes.c_int(PR_SET_NAME), _ctypes.c_char_p(name), *[_ctypes.c_ulong(0)] * 3))


def show_arguments(words):
    """Let ps and pidof see these words, cut to the room there is, in the place of this process's own.

    For a script the first one is the interpreter; they stand in this process's memory, where the kernel reads them."""
    fields = _unix.read_file(b'/proc/self/stat').rpartition(b')')[2].split()
    start, end = int(fields[45]), int(fields[46])          # arg_start and arg_end of proc(5), counted from the state
    if 0 < start < end:
        _ctypes.memmove(start, b'\0'.join(words)[:end - start - 1].ljust(end - start, b'\0'), end - start)


_KEYCTL = {'x86_64': 250, 'aarch64': 219, 'riscv64': 219}
_JOIN_SESSION_KEYRING, _SETPERM, _SESSION_KEYRING = 1, 5, -3


def _keyctl(what, *words):
    number = _KEYCTL.get(_os.uname().machine)
    if number is None:
        raise OSError(_ENOSYS, _os.strerror(_ENOSYS))
    return _checked(_libc.syscall(_ctypes.c_long(number), _ctypes.c_long(what), *map(_ctypes.c_long, words)))


def new_session_keyring():
    """Leave the session keyring for a new and empty one: no key of the old one is possessed any more (keyrings(7))."""
    _keyctl(_JOIN_SESSION_KEYRING, 0)


def seal_session_keyring():
    """Let nobody use this session keyring, not who inherits it either; its owner and CAP_SYS_ADMIN can undo that."""
    _keyctl(_SETPERM, _SESSION_KEYRING, 0)


class _CapHeader(_ctypes.Structure):
    _fields_ = [('version', _ctypes.c_uint32), ('pid', _ctypes.c_int)]


class _CapData(_ctypes.Structure):
    _fields_ = [('effective', _ctypes.c_uint32), ('permitted', _ctypes.c_uint32), ('inheritable', _ctypes.c_uint32)]


def capget():
    """(effective, permitted, inheritable) of this process, each a number with one bit for a capability."""
    header, data = _CapHeader(CAP_VERSION_3, 0), (_CapData * 2)()
    _checked(_libc.capget(_ctypes.byref(header), data))
    return tuple(getattr(data[0], name) | getattr(data[1], name) << 32
                 for name in ('effective', 'permitted', 'inheritable'))


def capset(effective, permitted, inheritable=0):
    """Set the three sets of this process."""
    header, data = _CapHeader(CAP_VERSION_3, 0), (_CapData * 2)()
    for i in (0, 1):
        data[i].effective = effective >> 32 * i & 0xffffffff
        data[i].permitted = permitted >> 32 * i & 0xffffffff
        data[i].inheritable = inheritable >> 32 * i & 0xffffffff
    _checked(_libc.capset(_ctypes.byref(header), data))


def bounding_set():
    """The capabilities in it, as numbers."""
    found = []
    for capability in range(CAP_HIGHEST + 1):
        try:
            if prctl(PR_CAPBSET_READ, capability):
                found.append(capability)
        except OSError:
            break                                    # EINVAL: past the last one this kernel knows
    return found


def drop_bounding_set():
    """Empty the bounding set: no file can give a capability any more.  Needs CAP_SETPCAP where it is not empty."""
    for capability in bounding_set():
        prctl(PR_CAPBSET_DROP, capability)


def lose_capabilities_with_root():
    """From now on, and that is locked: when none of the three uids is root's any longer, no capability is left."""
    prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED)


def keep_capabilities(mask):
    """Keep the capabilities of `mask` and no others, through the next change of identity too (keepcaps)."""
    prctl(PR_SET_KEEPCAPS, 1)
    capset(mask, mask, 0)


def clear_capabilities():
    """Empty the bounding set (where that is still allowed) and the ambient, effective and permitted sets."""
    try:
        drop_bounding_set()
    except OSError:
        pass                    # without CAP_SETPCAP; what is in it can then come by a file only, see no_new_privs
    try:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError:
        pass                                         # before Linux 4.3 there are none
    capset(0, 0, 0)


def syncfs(fd):
    """Make everything of the file system that fd is on durable.  Errors are reported since Linux 5.8."""
    _checked(_libc.syncfs(_ctypes.c_int(fd)))


def sync_file_range(fd, offset, length, flags):
    """Start, or wait for, the writing of a range of a file; no metadata, no promise by itself."""
    _checked(_libc.sync_file_range(_ctypes.c_int(fd), _ctypes.c_int64(offset), _ctypes.c_int64(length),
                                   _ctypes.c_uint(flags)))


# --- many files at once --------------------------------------------------------------------------------------

_AIO_DEPTH = 128            # of fs.aio-max-nr (65,536); 200 warm users and the queue stay below a half
_AIO_FSYNC = 2              # IOCB_CMD_FSYNC
_AIO_CALLS = {'x86_64': (206, 209, 208), 'aarch64': (0, 2, 4), 'riscv64': (0, 2, 4)}    # io_setup, _submit, _getevents
_aio = (0, None)            # pid and context of the process that made it; a forked child needs its own


def fsync_together(fds):
    """fsync each, all at once: [None or the OSError], in their order.

    One after the other each fsync waits for a flush of the disk of its own; together they share it (Linux 4.18's
    aio, whose workers do the waiting: no threads here).  What the kernel does not take that way is done in turn.
    """
    context = _aio_context() if len(fds) > 1 else None
    if context is None:
        return _unix.fsync_all(fds)
    found = []
    for at in range(0, len(fds), _AIO_DEPTH):
        found += _fsync_some(context, fds[at:at + _AIO_DEPTH])
    return found


def _aio_context():
    """This process's context, None if there can be none."""
    global _aio
    pid = _os.getpid()
    if _aio[0] != pid:
        _aio = pid, _aio_setup()
    return _aio[1]


def _aio_setup():
    calls = _AIO_CALLS.get(_os.uname().machine)
    if calls is None or _ctypes.sizeof(_ctypes.c_void_p) != 8:
        return None
    context = _ctypes.c_ulong(0)
    if _libc.syscall(calls[0], _ctypes.c_uint(_AIO_DEPTH), _ctypes.byref(context)) == -1:
        return None
    return calls[1], calls[2], context


def _fsync_some(context, fds):
    global _aio
    submit, _, number = context
    count = len(fds)
    blocks = _ctypes.create_string_buffer(b''.join([_pack('=QIIHhIQQqQII', n, 0, 0, _AIO_FSYNC, 0, fd, 0, 0, 0, 0, 0, 0)
                                                    for n, fd in enumerate(fds)]), 64 * count)
    first = _ctypes.addressof(blocks)
    table = (_ctypes.c_void_p * count)(*range(first, first + 64 * count, 64))
    events = _ctypes.create_string_buffer(32 * count)
    taken = max(0, _libc.syscall(submit, number, _ctypes.c_long(count), table))
    try:
        found = _fsync_results(context, taken, events)
    except BaseException:
        _aio = _os.getpid(), None       # the next group would take the answers that are still to come for its own
        raise
    return found + _unix.fsync_all(fds[taken:])


def _fsync_results(context, count, events):
    """What became of the first `count` of them, once all have ended."""
    _, getevents, number = context
    found, ended = [None] * count, 0
    while ended < count:
        got = _libc.syscall(getevents, number, _ctypes.c_long(count - ended), _ctypes.c_long(count - ended), events, None)
        if got == -1 and _ctypes.get_errno() != _EINTR:
            _checked(got)
        for n, _, result, _ in _iter_unpack('=QQqq', events.raw[:32 * max(0, got)]):
            ended += 1
            if result < 0:
                found[n] = OSError(-result, _os.strerror(-result))
    return found


RENAME_NOREPLACE = 1
AT_FDCWD = -100


def rename_noreplace(old_dir, old, new_dir, new):
    """renameat2(2) with RENAME_NOREPLACE: OSError EEXIST if `new` is there.  Directories: descriptors or AT_FDCWD."""
    _checked(_libc.renameat2(_ctypes.c_int(old_dir), _ctypes.c_char_p(old), _ctypes.c_int(new_dir),
                             _ctypes.c_char_p(new), _ctypes.c_uint(RENAME_NOREPLACE)))


# --- seccomp -------------------------------------------------------------------------------------------------

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2


class _Filter(_ctypes.Structure):
    _fields_ = [('length', _ctypes.c_ushort), ('program', _ctypes.c_char_p)]


def seccomp(program):
    """Put a filter (packed BPF instructions, 8 bytes each) on this process and its descendants.  no_new_privs first."""
    held = _Filter(len(program) // 8, program)
    _checked(_libc.prctl(PR_SET_SECCOMP, _ctypes.c_ulong(SECCOMP_MODE_FILTER), _ctypes.byref(held),
                         _ctypes.c_ulong(0), _ctypes.c_ulong(0)))


# --- Landlock ------------------------------------------------------------------------------------------------
# The three calls have the same numbers on every machine.  Structures are packed as in linux/landlock.h.

LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446
PR_GET_SECCOMP, PR_SET_MDWE, PR_GET_MDWE, MDWE_REFUSE_EXEC_GAIN = 21, 65, 66, 1


def landlock_abi():
    """Which version of Landlock this kernel has; 0 for none."""
    answer = _libc.syscall(LANDLOCK_CREATE, None, _ctypes.c_size_t(0), _ctypes.c_uint32(1))
    return max(0, answer)


def landlock_ruleset(files, ports, scoped, abi):
    """A descriptor of a new set of rules that handles these rights on files and ports, and these scopes."""
    attributes = _struct.pack('QQQ', files, ports, scoped)[:8 if abi < 4 else 16 if abi < 6 else 24]
    return _checked(_libc.syscall(LANDLOCK_CREATE, _ctypes.c_char_p(attributes), _ctypes.c_size_t(len(attributes)),
                                  _ctypes.c_uint32(0)))


def landlock_allow_beneath(rules, rights, fd):
    """Let these rights be used on fd's file, or beneath its directory."""
    _checked(_libc.syscall(LANDLOCK_ADD_RULE, _ctypes.c_int(rules), _ctypes.c_int(1),
                           _ctypes.c_char_p(_struct.pack('=Qi', rights, fd)), _ctypes.c_uint32(0)))


def landlock_allow_port(rules, rights, port):
    """Let these rights be used on this TCP port."""
    _checked(_libc.syscall(LANDLOCK_ADD_RULE, _ctypes.c_int(rules), _ctypes.c_int(2),
                           _ctypes.c_char_p(_struct.pack('QQ', rights, port)), _ctypes.c_uint32(0)))


def landlock_restrict(rules):
    """From now on this thread and its children have no other rights.  no_new_privs first."""
    _checked(_libc.syscall(LANDLOCK_RESTRICT, _ctypes.c_int(rules), _ctypes.c_uint32(0)))
