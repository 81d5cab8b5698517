"""Running a user's program, and seeing the last of everything it started.

A program gets the message on descriptor 0 (its own open description, read only, at the first byte), one pipe as 1
and 2, nothing above; its own session, default signals, an empty mask, no core file.  When it has succeeded, what it
has put into the background may go on for BEHIND seconds: mailing-list programs answer first and work then.  When
that is over, or it has failed or overstays, whatever is left of its processes is killed: this process is their
subreaper, so even one that left its session and its parent comes back here.
"""
from qpy import unix, unix_kernel
from qpy.core import dotqmail, exits, limits
from qpy.lib import controls

SHELL = b'/bin/sh'
OUTPUT_KEPT = 4096          # bytes of output that are remembered: more than a report can hold
KILL_PATIENCE = 10.0        # seconds spent on killing a tree that keeps growing
BEHIND = 600.0              # seconds; within the time of the delivery
HIGHEST_FD = 65536


class Overstayed(Exception):
    """The program did not end in time; it and its children are gone."""


class Forsaken(Exception):
    """Nobody waits for the program any more; it and its children are gone."""


def adopt():
    """Become the parent of every orphan below this process."""
    unix_kernel.set_subreaper()


def run(words, message, home_fd, environment, deadline, life=-1):
    """Run a program to its end: (exit code, or minus the signal; the first OUTPUT_KEPT bytes it printed).

    words: path and arguments.  message: descriptor of the message.  deadline: of unix.monotonic(); after it
    Overstayed.  life: a pipe nobody writes to, or -1; Forsaken when it ends.  OSError if it could not be started.
    """
    out, into = unix.pipe2(unix.O_CLOEXEC)
    try:
        pid = unix.fork()
    except unix.error:
        unix.close(out)
        unix.close(into)
        raise
    if pid == 0:
        become(words, message, into, home_fd, environment)
    unix.close(into)
    try:
        return watch(pid, out, deadline, life)
    except BaseException:
        end_tree(pid)
        raise
    finally:
        unix.close(out)


def watch(pid, out, deadline, life):
    """Collect output until the program has ended; then end its children."""
    unix.set_blocking(out, False)
    pidfd, ready = unix.pidfd_open(pid), unix.epoll()
    printed = bytearray()
    try:
        ready.register(pidfd, unix.EPOLLIN)
        ready.register(out, unix.EPOLLIN)
        if life >= 0:
            ready.register(life, unix.EPOLLIN)
        while True:
            events = ready.poll(max(0.0, deadline - unix.monotonic()))
            fds = [fd for fd, _ in events]
            if out in fds and not collect(out, printed):
                ready.unregister(out)
            if pidfd in fds:
                break
            if life in fds:
                raise Forsaken
            if not events and unix.monotonic() >= deadline:
                raise Overstayed
    finally:
        ready.close()
        unix.close(pidfd)
    status = bury(pid, None)
    if status in (exits.OK, dotqmail.STOP):
        wait_behind(out, min(deadline, unix.monotonic() + BEHIND), life)
    status = end_tree(pid, status)
    while collect(out, printed) and not unix.monotonic() >= deadline:
        pass
    return status, bytes(printed)


def collect(out, printed):
    """Take what is there, remember the beginning; False at the end, or when there is no more for now."""
    try:
        piece = unix.read(out, 65536)
    except BlockingIOError:
        return False
    if len(printed) < OUTPUT_KEPT:
        printed += piece[:OUTPUT_KEPT - len(printed)]
    return bool(piece)


def wait_behind(out, deadline, life):
    """Until everything the program has left running has ended, or the deadline; Forsaken when life ends.

    Only our own children are watched: when one ends, what it leaves comes to us."""
    also = {fd for fd in (out, life) if fd >= 0}
    while left := children():
        ready, pidfds = unix.epoll(), [fd for fd in map(watched, left) if fd is not None]
        try:
            for fd in (*pidfds, *also):
                ready.register(fd, unix.EPOLLIN)
            events = [fd for fd, _ in ready.poll(max(0.0, deadline - unix.monotonic()))]
        finally:
            ready.close()
            for fd in pidfds:
                unix.close(fd)
        if life in events:
            raise Forsaken
        if not events or unix.monotonic() >= deadline:
            return
        if out in events and not collect(out, bytearray(OUTPUT_KEPT)):
            also.discard(out)
        bury(0, None)


def watched(pid):
    """A pidfd, None if there is no such process any more."""
    try:
        return unix.pidfd_open(pid)
    except ProcessLookupError:
        return None


def end_tree(pid, status=None):
    """Kill and bury all children, however they multiply; the exit code (or minus the signal) of pid."""
    end = unix.monotonic() + KILL_PATIENCE
    while unix.monotonic() < end:
        status = bury(pid, status)
        left = descendants()
        if not left or not kill_all(left):
            break
        status = bury_one(pid, status)
    return status if status is not None else -unix.SIGKILL


def bury(pid, status):
    """Take the status of every child that has ended."""
    while True:
        try:
            ended, word = unix.waitpid(-1, unix.WNOHANG)
        except ChildProcessError:
            return status
        if ended == 0:
            return status
        if ended == pid:
            status = unix.waitstatus_to_exitcode(word)


def bury_one(pid, status):
    """As bury, waiting for the one that was just killed."""
    try:
        ended, word = unix.waitpid(-1, 0)
    except ChildProcessError:
        return status
    return unix.waitstatus_to_exitcode(word) if ended == pid else status


def kill_all(pids):
    """Whether any of them could be killed: what became another user's is beyond us."""
    killed = False
    for pid in pids:
        try:
            unix.kill(pid, unix.SIGKILL)
            killed = True
        except ProcessLookupError:
            killed = True
        except PermissionError:
            pass
    return killed


def descendants():
    """The pids of the whole tree below this process: killing only its top would leave the rest time to grow."""
    found = children()
    for pid in found:                   # grows while it is walked
        found += children_of(pid)
    return found


def children():
    """The pids of all living or unburied children of this process."""
    me = unix.getpid()
    found = children_of(me)
    return [pid for pid in processes() if parent_of(pid) == me] if found is None else found


def children_of(pid):
    """The children of the first thread of a process; [] if it is gone, None if it is there and cannot be told."""
    try:
        return [int(word) for word in unix.read_file(b'/proc/%d/task/%d/children' % (pid, pid)).split()]
    except FileNotFoundError:
        return None if pid == unix.getpid() else []
    except OSError:
        return []


def processes():
    """All pids, for a kernel without lists of children."""
    return [int(name) for name in unix.listdir(b'/proc') if name.isdigit()]


def parent_of(pid):
    """The parent's pid, 0 if the process is gone."""
    try:
        return int(unix.read_file(b'/proc/%d/stat' % pid).rpartition(b')')[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


# --- in the child --------------------------------------------------------------------------------------------

def become(words, message, output, home_fd, environment):
    """Never returns: this process becomes the program, or ends with 111 and the reason on its output."""
    try:
        unix.setsid()
        unix.dup2(own_copy(message), 0)
        unix.dup2(output, 1)
        unix.dup2(output, 2)
        unix.fchdir(home_fd)
        unix.closerange(3, HIGHEST_FD)
        reset_signals()
        limit()
        unix.execve(words[0], words, environment)
    except unix.error as problem:
        say(b'Unable to run %s: %s. (#4.3.0)\n' % (words[0], (problem.strerror or '?').encode()))
    except BaseException:
        say(b'Unable to run %s. (#4.3.0)\n' % words[0])
    finally:
        unix._exit(exits.TEMP)


def own_copy(message):
    """The message with a file position of its own, at the start; if it may not be opened anew, the shared one."""
    try:
        return unix.reopen(message)
    except unix.error:
        unix.lseek(message, 0, unix.SEEK_SET)
        return message


def reset_signals():
    """All signals to their defaults, none blocked: Python ignores SIGPIPE and SIGXFSZ, and exec keeps that."""
    for number in unix.valid_signals():
        if number not in (unix.SIGKILL, unix.SIGSTOP):
            unix.signal(number, unix.SIG_DFL)
    unix.pthread_sigmask(unix.SIG_SETMASK, ())


configured = {}             # control/programlimits, once it is read


def read_limits(home):
    """Read control/programlimits for all programs to come; Broken if a line cannot be meant."""
    global configured
    found = controls.mapping(home, limits.FILE) or {}
    try:
        limits.parse(found)
    except ValueError as problem:
        word, why = problem.args
        raise controls.Broken(limits.FILE, 0, b'%s:%s' % (word, found[word]), why) from None
    configured = found


def bounds():
    """[(file of the kernel, number)] for the control group of one user's processes."""
    return limits.bounds(configured)


def limit():
    """What one program may use up."""
    unix.lower_limit('CORE', 0)
    for name, most in limits.parse(configured, outside()):
        unix.lower_limit(name, most)


def outside():
    """Whether this is the first user namespace, where every id is itself."""
    try:
        return unix.read_file(b'/proc/self/uid_map').split() == [b'0', b'0', b'4294967295']
    except unix.error:
        return True


def say(text):
    """To the report, if it can still be reached."""
    try:
        unix.write(2, text)
    except unix.error:
        pass
