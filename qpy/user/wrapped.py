"""The program on the command line of preline, condredirect, bouncesaying and except: found by PATH, run, waited for."""
from qpy import unix
from qpy.core import exits
from qpy.lib import program

DEFAULT_PATH = b'/usr/local/bin:/usr/bin:/bin'
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
    for number in (unix.SIGPIPE, unix.SIGXFSZ):      # Python ignores them, and exec would keep that
        unix.signal(number, unix.SIG_DFL)
    problem = execute(words)
    program.complain(b'fatal: unable to run %s: %s' % (words[0], program.reason(problem)))
    return exits.PERM if problem.errno in PERMANENT else exits.TEMP


def execute(words):
    """exec along PATH; returns the OSError if it fails: the first that is not mere absence."""
    name, found = words[0], None
    places = [b''] if b'/' in name else unix.environ.get(b'PATH', DEFAULT_PATH).split(b':')
    for place in places:
        try:
            unix.execve(place + b'/' + name if place else name, words, unix.environ)
        except FileNotFoundError as problem:
            found = found or problem
        except unix.error as problem:
            if problem.errno not in (unix.ENOTDIR, unix.EACCES):
                return problem
            found = problem
    return found


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
