"""Runs inside a program of a real chain, before its first line: the calls of `unix` and `unix_kernel` are counted, and
the one whose number stands in a shared file fails, or is the last thing that the process does.

The file, mapped by every process of the program and by the test:

    0   number of the call that fails (0: none)         12  calls counted so far
    4   which of its ends(), as an index               16  whose calls count: everybody's, not a fork's, a fork's
    8   1 once it has happened                           17  1 while calls are counted
    20  the calls, one byte each: their index in CALLS

It happens once, whatever forks or starts again later.
"""
import contextlib
import errno
import mmap
import os
import socket

KILL_BEFORE, KILL_AFTER, SHORT = 1001, 1002, 1003
ALL, FIRST, FORKED = 0, 1, 2
SIZE, LOG = 65536, 20
DEAD = 137                  # the exit code of who ends here: a confined program may not send itself a signal
FEW, NOMEM, PEER = (errno.EMFILE, errno.ENFILE), (errno.ENOMEM,), (errno.EPIPE, errno.ECONNRESET)
DISK = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
#: what each call can say, beside being the last one
ERRNOS = {
    'open': (*FEW, *NOMEM, errno.EIO, errno.EACCES, errno.ENOSPC), 'read': (errno.EIO, SHORT), 'pread': (errno.EIO, SHORT),
    'write': (*DISK, errno.EPIPE, SHORT), 'fsync': (errno.EIO, errno.ENOSPC),
    'close': (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    'stat': (errno.EIO, errno.EACCES), 'lstat': (errno.EIO, errno.EACCES), 'fstat': (errno.EIO,),
    'statvfs': (errno.EIO,),
    'listdir': (errno.EIO, *NOMEM), 'scandir': (*FEW, errno.EIO), 'unlink': (errno.EIO, errno.EROFS), 'link': DISK,
    'rename': DISK,
    'mkdir': DISK, 'ftruncate': (errno.EIO,), 'fchmod': (errno.EIO, errno.EPERM), 'fchown': (errno.EIO, errno.EPERM),
    'copy_file_range': (errno.EIO, errno.ENOSPC), 'posix_fadvise': (errno.EIO,), 'flock': (errno.ENOLCK,),
    'lockf': (errno.ENOLCK,),
    'pipe2': FEW, 'memfd': (*FEW, *NOMEM), 'memory_copy': (*FEW, *NOMEM), 'reopen': (*FEW, errno.EACCES),
    'sendfile': (errno.EIO,),
    'duplicate_above': (errno.EMFILE,), 'dup': (errno.EMFILE,), 'dup2': (errno.EMFILE,), 'epoll': (*FEW, *NOMEM),
    'fork': (errno.EAGAIN, *NOMEM), 'execve': (*NOMEM, errno.EACCES, errno.ETXTBSY), 'waitpid': (),
    'kill': (errno.EPERM,), 'pidfd_open': FEW,
    'setsid': (errno.EPERM,), 'chdir': (errno.EACCES, errno.EIO), 'setgroups': (errno.EPERM, *NOMEM),
    'setresgid': (errno.EPERM,),
    'setresuid': (errno.EPERM, errno.EAGAIN), 'socketpair': (*FEW, *NOMEM), 'socket_unix': (*FEW, *NOMEM),
    'socket_of': (),
    'accept': (*FEW, *NOMEM, errno.ECONNABORTED), 'peercred': (errno.EINVAL,),
    'connect_beneath': (errno.ECONNREFUSED, errno.EAGAIN),
    'send_packet': PEER, 'recv_packet': (*NOMEM, *PEER), 'urandom': (errno.ENOSYS,),
    'set_blocking': (),
    'syncfs': (errno.EIO,), 'sync_file_range': (errno.EIO, errno.ENOSPC), 'fsync_together': (errno.EIO,),
    'rename_noreplace': DISK, 'unshare': (errno.EPERM, errno.ENOSPC), 'setns': (errno.EPERM,), 'no_new_privs': (),
    'capset': (errno.EPERM,), 'drop_bounding_set': (errno.EPERM,), 'landlock_ruleset': (errno.EOPNOTSUPP,),
    'landlock_restrict': (errno.E2BIG,),
    'landlock_allow_beneath': (errno.EBADFD,), 'seccomp': (errno.EACCES, *NOMEM)}
CALLS = tuple(ERRNOS)


def ends(name):
    """What may happen to a call of this name."""
    return (KILL_BEFORE, KILL_AFTER, *ERRNOS[name])


class Shared:
    """The file."""

    def __init__(self, path):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.map = mmap.mmap(fd, SIZE)
        os.close(fd)

    def get(self, place):
        """A number."""
        return int.from_bytes(self.map[place:place + 4], 'little')

    def put(self, place, number):
        """The same."""
        self.map[place:place + 4] = number.to_bytes(4, 'little')

    def arm(self, number=0, problem=0, whose=ALL):
        """Count from the beginning; call `number` gets `problem`."""
        self.map[17] = 0
        for place, value in ((0, number), (4, problem), (8, 0), (12, 0)):
            self.put(place, value)
        self.map[16], self.map[17] = whose, 1

    def off(self):
        """Count no more; has it happened?"""
        self.map[17] = 0
        return bool(self.get(8))

    def calls(self):
        """The names of what was counted."""
        return [CALLS[index] for index in self.map[LOG:LOG + min(self.get(12), SIZE - LOG)]]


class Watch:
    """One process' way to the file."""

    def __init__(self, path):
        self.shared, self.born = Shared(path), os.getpid()

    def counts(self):
        """Is this process one whose calls count?"""
        shared = self.shared
        return shared.map[17] and (shared.map[16] == ALL or (os.getpid() == self.born) == (shared.map[16] == FIRST))

    def verdict(self, index):
        """What is to happen to this call, 0 for nothing.  Its number may be another call's than when they were
        listed."""
        shared = self.shared
        number = shared.get(12) + 1
        shared.put(12, number)
        if LOG + number <= SIZE:
            shared.map[LOG + number - 1] = index
        if number != shared.get(0) or shared.get(8):
            return 0
        shared.put(8, 1)
        possible = ends(CALLS[index])
        return possible[shared.get(4) % len(possible)]

    def wrapped(self, index, name, real):
        """The call, watched."""
        def call(*args, **more):
            what = self.verdict(index) if self.counts() else 0
            if not what:
                return real(*args, **more)
            if what == KILL_BEFORE:
                os._exit(DEAD)
            if what == SHORT:
                return shortened(name, real, args, more)
            if what == KILL_AFTER or name == 'close':
                real(*args, **more)
            if what == KILL_AFTER:
                os._exit(DEAD)
            if what in PEER:                    # then it is so
                with contextlib.suppress(OSError):
                    args[0].shutdown(socket.SHUT_RDWR)
            raise OSError(what, os.strerror(what))
        return call


def shortened(name, real, args, more):
    """One byte of what was asked for."""
    if name == 'write':
        return real(args[0], bytes(args[1][:1]), **more)
    return real(args[0], min(1, args[1]), *args[2:], **more)


def install(path):
    """Watch this program."""
    from qpy import unix, unix_kernel
    watch = Watch(path)
    for index, name in enumerate(CALLS):
        module = unix if hasattr(unix, name) else unix_kernel
        setattr(module, name, watch.wrapped(index, name, getattr(module, name)))
