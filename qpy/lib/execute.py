"""Becoming another program, found along PATH."""
from qpy import unix

KNOWN_PATH = b'/usr/local/bin:/usr/bin:/bin'


def along_path(words, environ):
    """exec words[0] with default signals; returns only if that fails: the OSError, the first that is not mere
    absence."""
    for number in (unix.SIGPIPE, unix.SIGXFSZ):      # Python ignores them, and exec would keep that
        unix.signal(number, unix.SIG_DFL)
    places = [b''] if b'/' in words[0] else [p + b'/' for p in environ.get(b'PATH', KNOWN_PATH).split(b':')]
    problem = None
    for place in places:
        try:
            unix.execve(place + words[0], words, environ)
        except (FileNotFoundError, NotADirectoryError) as absent:
            problem = problem or absent
        except unix.error as refused:
            if problem is None or isinstance(problem, (FileNotFoundError, NotADirectoryError)):
                problem = refused
    return problem
