"""The program on the command line of preline, condredirect, bouncesaying and except: found by PATH, run, waited for."""
from qpy import unix
from qpy.core import exits
from qpy.lib import execute, program

PERMANENT = (unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.EPERM, unix.ENOEXEC, unix.EISDIR, unix.ENAMETOOLONG,
             unix.ELOOP, unix.EINVAL)      # errors of exec that trying again will not mend


def run(words, stdin=0):
    """Run a program with our descriptors to its end: its exit code, or minus the signal.  100 if there is none."""
    return wait(start(words, stdin))


def start(words, stdin=0):
    """The pid of the program, with stdin as its descriptor 0."""
    pid = unix.fork()
    if pid == 0:
        unix._exit(program.guarded(lambda: become(words, stdin)))
    return pid


def wait(pid):
    """The exit code of a child, or minus the signal."""
    return unix.waitstatus_to_exitcode(unix.waitpid(pid, 0)[1])


def become(words, stdin):
    """In the child.  Returns only if the program cannot be run."""
    if stdin != 0:
        unix.dup2(stdin, 0)
    problem = execute.along_path(words, unix.environ)
    program.complain(b'fatal: unable to run %s: %s' % (words[0], program.reason(problem)))
    return exits.PERM if problem.errno in PERMANENT else exits.TEMP


def need(*names):
    """The values of these variables of a delivery; Fatal (100) if one is not set."""
    for name in names:
        if name not in unix.environ:
            raise program.Fatal(exits.PERM, name + b' not set')
    return [unix.environ[name] for name in names]


def rest_of(fd):
    """What is still to be read on fd, in portions."""
    while True:
        piece = unix.read(fd, 65536)
        if not piece:
            return
        yield piece


def after(first, rest):
    """first, then what rest yields."""
    yield first
    yield from rest
