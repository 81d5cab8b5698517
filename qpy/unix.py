"""The system calls of mail: files, sockets, processes, clocks.

Every program acts through this module and through nothing else, always as `unix.name(...)`, so that a test can
make any single call fail by replacing one attribute.  Here stand the calls themselves under their own names and
the few compositions that every caller would otherwise write again (write everything, read to the end, one packet
with its descriptors).  Nothing here knows what mail is.

Errors are OSError (`unix.error`) with errno set.  Interrupted calls are begun again by Python itself (PEP 475).
The rarer calls, which need ctypes, are in unix_kernel, TLS is in unix_tls.  posix is what os is made of: without
os every program starts 0.8 of 9 milliseconds earlier.
"""
import errno as _errno
import fcntl as _fcntl
import posix as _posix
import select as _select
import sys as _sys
import time as _time

import _signal
import _socket
import _thread

error = OSError

# --- error numbers -------------------------------------------------------------------------------------------
from errno import (EACCES, EADDRINUSE, EAGAIN, EBADF, ECONNABORTED, ECONNREFUSED, ECONNRESET, EDQUOT,  # noqa: F401
                   EEXIST, EFBIG, EHOSTUNREACH, EINPROGRESS, EINTR, EINVAL, EIO, EISDIR, ELOOP, EMFILE,
                   ENAMETOOLONG, ENETUNREACH,
                   ENFILE, ENOBUFS, ENODEV, ENOENT, ENOEXEC, ENOMEM, ENOSPC, ENOSYS, ENOTCONN, ENOTDIR, ENOTEMPTY,
                   ENXIO, EPERM, EPIPE, EROFS, ESPIPE, ESRCH, ESTALE, ETIMEDOUT, ETXTBSY, EWOULDBLOCK, EXDEV)
ENOTSUP = _errno.ENOTSUP
ECHILD = _errno.ECHILD
ENODATA = _errno.ENODATA

# --- flags ---------------------------------------------------------------------------------------------------
from posix import (O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK,  # noqa: F401
                O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY, WNOHANG)
SEEK_SET, SEEK_CUR, SEEK_END = range(3)
from _stat import S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG, S_ISSOCK  # noqa: F401

# --- files ---------------------------------------------------------------------------------------------------
from posix import (chdir, chmod, chown, close, closerange, copy_file_range, dup, dup2, fchdir, fchmod, fchown,  # noqa: F401
                fdatasync, fstat, fstatvfs, fsync, ftruncate, get_inheritable, getcwdb, isatty, lchown, link,
                listdir, lseek, lstat, major, minor, mkdir, mkfifo, open, pipe2, posix_fadvise, pread, preadv, pwrite, pwritev,
                read, readlink, readv, rename, rmdir, scandir, sendfile, set_blocking, set_inheritable, stat,
                statvfs, symlink, umask, unlink, utime, write, writev)

# --- processes -----------------------------------------------------------------------------------------------
from posix import (_exit, execve, fork, geteuid, getegid, getgid, getgroups, getpgid, getpid, getppid,  # noqa: F401
                getresgid, getresuid, getuid, kill, killpg, nice, posix_spawn, sched_yield, setgroups, setpgid,
                setresgid, setresuid, setsid, uname, wait, waitpid, waitstatus_to_exitcode, urandom)
environ = _posix.environ
strerror = _posix.strerror
access = _posix.access
X_OK, R_OK, W_OK, F_OK = _posix.X_OK, _posix.R_OK, _posix.W_OK, _posix.F_OK
getxattr = _posix.getxattr
ST_NOEXEC, ST_RDONLY = _posix.ST_NOEXEC, _posix.ST_RDONLY
eventfd = _posix.eventfd
EFD = _posix.EFD_NONBLOCK | _posix.EFD_CLOEXEC
from posix import SCHED_BATCH, SCHED_OTHER, sched_getaffinity, sched_getscheduler, sched_param, sched_setscheduler  # noqa: F401
pidfd_open = _posix.pidfd_open

# --- signals -------------------------------------------------------------------------------------------------
from _signal import (SIG_BLOCK, SIG_DFL, SIG_IGN, SIG_SETMASK, SIG_UNBLOCK, SIGALRM, SIGCHLD, SIGCONT,  # noqa: F401
                     SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGPROF, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU,
                     SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ, alarm, pthread_sigmask, set_wakeup_fd,
                     signal, valid_signals)
ALL_SIGNALS = range(1, _signal.NSIG)

# --- sockets -------------------------------------------------------------------------------------------------
from _socket import (AF_INET, AF_INET6, AF_UNIX, CMSG_SPACE, IPPROTO_IPV6, IPPROTO_TCP, IPV6_V6ONLY,  # noqa: F401
                     MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, SCM_RIGHTS,
                     SHUT_RD, SHUT_RDWR, SHUT_WR, SO_ACCEPTCONN, SO_BROADCAST, SO_ERROR, SO_KEEPALIVE,
                     SO_PEERCRED, SO_RCVBUF, SO_REUSEADDR, SO_REUSEPORT, SO_SNDBUF, SO_TYPE, SOCK_CLOEXEC,
                     SOCK_DGRAM, SOCK_NONBLOCK, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET, TCP_NODELAY, gethostname,
                     inet_ntop, inet_pton)
TCP_CORK = _socket.TCP_CORK
IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT = _socket.IPPROTO_IP, 24       # linux/in.h
TCP_QUICKACK = _socket.TCP_QUICKACK
socket = _socket.socket

# --- the event queue -----------------------------------------------------------------------------------------
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP  # noqa: F401
EPOLL_EXCLUSIVE = _select.EPOLLEXCLUSIVE


def epoll():
    """A new epoll descriptor object, closed on exec."""
    return _select.epoll(flags=_select.EPOLL_CLOEXEC)


# --- clocks --------------------------------------------------------------------------------------------------

# time(): wall clock, seconds since 1970 as float: for headers, IDs and expiry only.
# monotonic(): seconds of a clock that never jumps: for every kind of waiting.
from time import monotonic, time  # noqa: F401


def localtime(seconds):
    """(broken-down time, seconds east of UTC) of a wall-clock time in the zone of the caller."""
    there = _time.localtime(seconds)
    return there, there.tm_gmtoff


def sleep(seconds):
    """Wait.  Only for back-off after a failure; never in place of an event."""
    _time.sleep(seconds)


# --- threads -------------------------------------------------------------------------------------------------

def start_thread(function, *args):
    """Run function(*args) in a new thread.  A process that uses this must not fork afterwards."""
    return _thread.start_new_thread(function, args)


def lock():
    """A lock, as of the threading module, without loading it."""
    return _thread.allocate_lock()


# --- the command line ----------------------------------------------------------------------------------------

def fsencode(name):
    """A str that Python made of an argument or a path, as the bytes that it was (PEP 383); bytes stay."""
    return name if isinstance(name, bytes) else name.encode(_sys.getfilesystemencoding(), _sys.getfilesystemencodeerrors())


def fsdecode(name):
    """fsencode, the other way."""
    return name.decode(_sys.getfilesystemencoding(), _sys.getfilesystemencodeerrors())


def arguments():
    """The words after the program's name, as the bytes they were given as."""
    return [fsencode(word) for word in _sys.argv[1:]]


def flush_output():
    """Write what was printed and has not left yet; after an error nothing of it is left to be tried again."""
    if _sys.stdout is not None:
        try:
            _sys.stdout.flush()
        except OSError:
            _sys.stdout = None
            raise


def code_directories():
    """Where modules are looked for, as bytes."""
    return [fsencode(path) for path in _sys.path]


def interpreter():
    """The path of the interpreter, as bytes; b'' if it does not know."""
    return fsencode(_sys.executable or '')


def argv0():
    """The last part of the name this program was called by, as bytes."""
    return fsencode(_sys.argv[0] if _sys.argv else '').rpartition(b'/')[2]


# --- whole reads and writes ----------------------------------------------------------------------------------

def write_all(fd, data):
    """Write all of data (bytes-like), however short the single writes are."""
    done = write(fd, data)
    if done == len(data):
        return
    view = memoryview(data)
    while done < len(view):
        done += write(fd, view[done:])


def pwrite_all(fd, data, offset):
    """As write_all, at an offset, leaving the file position alone."""
    view = memoryview(data)
    while view:
        done = pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def read_all(fd, limit):
    """All bytes up to end of file; OSError EFBIG if there are more than limit."""
    pieces, size = [], 0
    while True:
        piece = read(fd, 65536)
        if not piece:
            return b''.join(pieces)
        size += len(piece)
        if size > limit:
            raise OSError(EFBIG, 'more than %d bytes' % limit)
        pieces.append(piece)


def pread_all(fd, size, offset):
    """size bytes at offset, fewer only where the file ends: one pread may always give less."""
    data = pread(fd, size, offset)
    while len(data) < size:
        more = pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def pread_exactly(fd, size, offset):
    """size bytes at offset; OSError EIO if the file ends before."""
    data = pread_all(fd, size, offset)
    if len(data) < size:
        raise OSError(EIO, 'unexpected end of file')
    return data


class NotRegular(OSError):
    """A FIFO, a socket, a directory or a link where a regular file belongs; open and read could wait for ever."""


def open_regular(path, flags, mode=0o777, dir_fd=None):
    """open() that never waits, of a regular file and no link to one; NotRegular for anything else."""
    try:
        fd = open(path, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, mode, dir_fd=dir_fd)
    except OSError as problem:
        if problem.errno not in (ELOOP, ENXIO, EISDIR):     # a link, a socket or a FIFO, a directory
            raise
        raise NotRegular(problem.errno, 'not a regular file') from None
    try:
        if not S_ISREG(fstat(fd).st_mode):
            raise NotRegular(EINVAL, 'not a regular file')
    except OSError:
        close(fd)
        raise
    return fd


def read_file(path, limit=16 << 20, dir_fd=None, pipes=False):
    """The whole content of the file at path.  pipes: of a FIFO too, which is NotRegular else, as it may never end."""
    fd = open(path, O_RDONLY | O_CLOEXEC | (0 if pipes else O_NONBLOCK), dir_fd=dir_fd)
    try:
        if not pipes and S_ISFIFO(fstat(fd).st_mode):
            raise NotRegular(EINVAL, 'this is a FIFO')
        return read_all(fd, limit)
    finally:
        close(fd)


def fsync_all(fds):
    """fsync each in turn: [None or the OSError], in their order; of several, the disk is told of all before."""
    return _each(fds, (_start_writing, fsync) if len(fds) > 1 else (fsync,))


def fsync_in_turn(fds):
    """The same, and the disk is told of nothing before: right where one sync sees to most of the next."""
    return _each(fds, (fsync,))


def _each(fds, steps):
    found = [None] * len(fds)
    for step in steps:
        for n, fd in enumerate(fds):
            try:
                if found[n] is None:
                    step(fd)
            except OSError as problem:
                found[n] = problem
    return found


def _start_writing(fd):
    posix_fadvise(fd, 0, 0, 4)              # POSIX_FADV_DONTNEED: dirty pages begin to be written, and none is dropped


def sync_directory(path, dir_fd=None):
    """Make the entries of a directory durable."""
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, dir_fd=dir_fd)
    try:
        fsync(fd)
    finally:
        close(fd)


def close_quietly(fd):
    """close() where a failure can mean nothing: descriptors that were only read from."""
    try:
        close(fd)
    except OSError:
        pass


# --- files that are not there --------------------------------------------------------------------------------

def memfd(data):
    """A sealed, seekable descriptor holding data, at its start, which nobody can write to or reopen for writing.

    It is a memory file of mode 0444 with all seals set: a write, ftruncate or shared mapping to write fails (EPERM)
    for everybody, whatever way the descriptor was opened.
    """
    fd = _posix.memfd_create('mail', _posix.MFD_CLOEXEC | _posix.MFD_ALLOW_SEALING)
    try:
        if pwrite(fd, data, 0) != len(data):
            pwrite_all(fd, data, 0)
        fchmod(fd, 0o444)
        _fcntl.fcntl(fd, _fcntl.F_ADD_SEALS, _fcntl.F_SEAL_SEAL | _fcntl.F_SEAL_SHRINK | _fcntl.F_SEAL_GROW
                     | _fcntl.F_SEAL_WRITE)
        return fd
    except BaseException:
        close(fd)
        raise


def memory_copy(fd, length):
    """A read-only memory file with the first `length` bytes of fd; OSError EIO if fd has fewer."""
    copy = _posix.memfd_create('mail', _posix.MFD_CLOEXEC)
    try:
        done = 0
        while done < length:
            more = sendfile(copy, fd, done, min(length - done, 1 << 20))
            if not more:
                raise OSError(EIO, 'unexpected end of file')
            done += more
        return reopen(copy)
    finally:
        close(copy)


def reopen(fd):
    """A new read-only open description (its own offset) of what fd refers to.  Needs /proc."""
    return open(b'/proc/self/fd/%d' % fd, O_RDONLY | O_CLOEXEC)


def shared_memory(size):
    """size zero bytes that this process and those it forks all see and write (an mmap object)."""
    import mmap
    return mmap.mmap(-1, size)


# --- locks ---------------------------------------------------------------------------------------------------
LOCK_EX, LOCK_SH, LOCK_NB, LOCK_UN = _fcntl.LOCK_EX, _fcntl.LOCK_SH, _fcntl.LOCK_NB, _fcntl.LOCK_UN


def flock(fd, operation):
    """flock(2): LOCK_EX, LOCK_SH, LOCK_UN, with LOCK_NB or'ed in to fail with EAGAIN instead of waiting."""
    _fcntl.flock(fd, operation)


def lockf(fd, operation):
    """fcntl(2) record lock on the whole file."""
    _fcntl.lockf(fd, operation)


def duplicate_above(fd, lowest):
    """A copy of fd, closed on exec, numbered lowest or more."""
    return _fcntl.fcntl(fd, _fcntl.F_DUPFD_CLOEXEC, lowest)


def access_mode(fd):
    """The O_... flags a descriptor was opened with; OSError EBADF if it is not open."""
    return _fcntl.fcntl(fd, _fcntl.F_GETFL)


def set_pipe_size(fd, size):
    """Ask for a pipe buffer of size bytes; the kernel may refuse (EPERM)."""
    _fcntl.fcntl(fd, 1031, size)                     # F_SETPIPE_SZ


def ioctl(fd, request, argument=0):
    """ioctl(2)."""
    return _fcntl.ioctl(fd, request, argument)


# --- accounts ------------------------------------------------------------------------------------------------

def getpwnam(name):
    """The passwd entry of name (bytes): (name, uid, gid, home) as bytes and numbers; KeyError if there is none."""
    import pwd                                       # loads NSS: only programs that ask pay for it
    entry = pwd.getpwnam(fsdecode(name))
    return fsencode(entry.pw_name), entry.pw_uid, entry.pw_gid, fsencode(entry.pw_dir)


def getpwuid(uid):
    """As getpwnam, by number, with the full name (GECOS, bytes) as a fifth field."""
    import pwd
    entry = pwd.getpwuid(uid)
    return (fsencode(entry.pw_name), entry.pw_uid, entry.pw_gid, fsencode(entry.pw_dir),
            fsencode(entry.pw_gecos))


def getpwall():
    """[(uid, gid)] of all accounts that the sources of accounts list; one that lists none (LDAP, often) is no error."""
    import pwd
    return [(entry.pw_uid, entry.pw_gid) for entry in pwd.getpwall()]


def getgrnam(name):
    """The gid of the group called name (bytes); KeyError if there is none."""
    import grp
    return grp.getgrnam(fsdecode(name)).gr_gid


# --- resource limits -----------------------------------------------------------------------------------------

def physical_memory():
    """Bytes of memory that the machine has."""
    return _posix.sysconf('SC_PAGE_SIZE') * _posix.sysconf('SC_PHYS_PAGES')


def raise_descriptor_limit():
    """Lift the soft limit of open descriptors to the hard one; returns it."""
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def set_limit(name, soft, hard):
    """setrlimit(2); name as in resource.RLIMIT_name, e.g. 'CORE'."""
    import resource
    resource.setrlimit(getattr(resource, 'RLIMIT_' + name), (soft, hard))


def limits(name):
    """getrlimit(2): (soft, hard)."""
    import resource
    return resource.getrlimit(getattr(resource, 'RLIMIT_' + name))


def lower_limit(name, most):
    """Both limits of name to at most `most`; what is lower already stays."""
    import resource
    number = getattr(resource, 'RLIMIT_' + name)
    lower = [most if old == resource.RLIM_INFINITY else min(old, most) for old in resource.getrlimit(number)]
    resource.setrlimit(number, tuple(lower))


# --- sockets -------------------------------------------------------------------------------------------------

def socket_unix(kind=SOCK_STREAM, blocking=False):
    """A new Unix-domain socket, closed on exec."""
    sock = socket(AF_UNIX, kind | SOCK_CLOEXEC, 0)
    sock.setblocking(blocking)
    return sock


def socketpair(kind=SOCK_SEQPACKET, blocking=False):
    """Two connected Unix-domain sockets, closed on exec."""
    pair = _socket.socketpair(AF_UNIX, kind | SOCK_CLOEXEC, 0)
    for sock in pair:
        sock.setblocking(blocking)
    return pair


def listens(fd):
    """Is this descriptor a listening socket, and not a connection?"""
    sock = socket(fileno=fd)
    try:
        return bool(sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN))
    finally:
        sock.detach()


def socket_of(fd, blocking=False):
    """The socket object of an inherited descriptor, which it takes over (and makes closed on exec)."""
    set_inheritable(fd, False)
    sock = socket(fileno=fd)
    sock.setblocking(blocking)
    return sock


def host_of(address):
    """The host name (bytes) of a socket address, from whatever the system asks; None if it has none.

    OSError when that cannot be said now.
    """
    try:
        return _socket.getnameinfo(address, _socket.NI_NAMEREQD)[0].encode('ascii', 'replace')
    except _socket.gaierror as problem:
        if problem.errno == _socket.EAI_NONAME:
            return None
        raise


def accept(sock):
    """(connection, address) of the next client, non-blocking and closed on exec; None if nobody waits.

    OSError for what the caller must pause on (EMFILE, ENFILE, ENOMEM, ENOBUFS); a client that went away while
    it waited is nobody.
    """
    try:
        fd, address = sock._accept()
    except OSError as problem:
        if problem.errno in (EAGAIN, ECONNABORTED, EINTR):
            return None
        raise
    connection = socket(sock.family, sock.type, sock.proto, fd)      # without these three the kernel is asked
    connection.setblocking(False)
    return connection, address


def peercred(sock):
    """(pid, uid, gid) of the other end: for a client, whoever called listen() last."""
    word = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    return tuple(int.from_bytes(word[i:i + 4], _sys.byteorder, signed=i == 0) for i in (0, 4, 8))


_here = None        # the directory that stay_in() made current


def stay_in(directory):
    """Make directory the current one for good: connect_beneath then uses bare names, as confined programs must."""
    global _here
    chdir(directory)
    _here = directory


def connect_beneath(sock, directory, name):
    """Connect sock to the Unix socket `name` in `directory`, however long that path is (the limit is 107 bytes)."""
    if directory == _here:
        return sock.connect(name)
    path = directory + b'/' + name
    if len(path) <= 107:
        return sock.connect(path)
    dir_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC)
    try:
        sock.connect(b'/proc/self/fd/%d/%s' % (dir_fd, name))
    finally:
        close(dir_fd)


PACKET_LIMIT = 200_000      # bytes of one packet: below the kernel's default buffer (212,992)
PACKET_FDS = 100            # descriptors in one packet (the kernel's limit is 253)


def send_packet(sock, data, fds=()):
    """Send one packet with descriptors.  False if it would block, or the kernel has no memory for it now; OSError if the
    peer is gone."""
    ancillary = [(SOL_SOCKET, SCM_RIGHTS, b''.join(fd.to_bytes(4, _sys.byteorder) for fd in fds))] if fds else []
    try:
        sock.sendmsg([data], ancillary, MSG_NOSIGNAL | MSG_DONTWAIT)
    except OSError as problem:
        if problem.errno in (EAGAIN, ENOBUFS, ENOMEM):
            return False
        raise
    return True


def recv_packet(sock, limit=PACKET_LIMIT, maxfds=0):
    """One packet: (data, [descriptors]), descriptors closed on exec; (b'', []) at the end; None if it would block.

    A packet longer than limit, or with more descriptors than maxfds, is an OSError (EINVAL); whatever
    descriptors it brought are closed.
    """
    try:
        data, ancillary, flags, _ = sock.recvmsg(limit, CMSG_SPACE(4 * maxfds) if maxfds else 0, MSG_CMSG_CLOEXEC)
    except OSError as problem:
        if problem.errno == EAGAIN:
            return None
        raise
    fds = []
    for level, kind, words in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds += [int.from_bytes(words[i:i + 4], _sys.byteorder) for i in range(0, len(words) - 3, 4)]
    if flags & (MSG_TRUNC | MSG_CTRUNC):
        for fd in fds:
            close_quietly(fd)
        raise OSError(EINVAL, 'packet too long')
    return data, fds
