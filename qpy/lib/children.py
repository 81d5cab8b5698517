"""A process of our own, and the descriptor by which its end is heard of."""
from qpy import unix


def begin(become):
    """(pid, pidfd) of a new process that calls become(), which does not return.  OSError: there is none."""
    pid = unix.fork()
    if pid == 0:
        become()
    try:
        return pid, unix.pidfd_open(pid)
    except OSError:                     # nobody would hear of its end
        unix.kill(pid, unix.SIGKILL)
        unix.waitpid(pid, 0)
        raise
