"""Becoming another program, found along PATH."""
from qpy import unix

KNOWN_PATH = b'/usr/local/bin:/usr/bin:/bin'


SHELL = b'/bin/sh'
ABSENT = (unix.ENOENT, unix.ENOTDIR)


def along_path(words, environ):
    """Be words[0], with default signals, as execvp(3) finds it; returns only if that fails: the OSError, the first that
    is not mere absence.  A script without a first line that names its interpreter is the shell's.
    """
    for number in (unix.SIGPIPE, unix.SIGXFSZ):      # Python ignores them, and exec would keep that
        unix.signal(number, unix.SIG_DFL)
    problem = None
    for path in candidates(words[0], environ):
        found = attempt(path, words, environ)
        if problem is None or problem.errno in ABSENT:
            problem = found
        if found.errno not in (*ABSENT, unix.EACCES):
            break
    return problem


def candidates(name, environ):
    """Where a program may be; an empty part of PATH is the working directory."""
    if b'/' in name or not name:
        return [name]
    return [place + b'/' + name if place else name for place in environ.get(b'PATH', KNOWN_PATH).split(b':')]


def attempt(path, words, environ):
    """exec one file; the OSError if that fails."""
    try:
        unix.execve(path, words, environ)
    except unix.error as problem:
        if problem.errno != unix.ENOEXEC:
            return problem
    try:
        unix.execve(SHELL, [SHELL, path, *words[1:]], environ)
    except unix.error as problem:
        return problem
