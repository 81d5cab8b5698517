"""The wrapper around every program's main.

A launcher calls run('qpy.ACCOUNT.NAME'); main(home, args) of that module does the work and returns the exit code.
Whatever goes wrong in a way nobody foresaw ends the program with 111, which every neighbour takes for "try again
later", and with one line on descriptor 2: never with a traceback, never with Python's own 1 or 120.
"""
import gc

from qpy import unix
from qpy.core import exits

DEFAULT_HOME = b'/var/qpy'
name, built_in = b'qpy', None       # DIR, where the installation has fixed it


class Fatal(Exception):
    """End this program with an exit code and one line that says why."""

    def __init__(self, code, text):
        super().__init__(code, text)
        self.code, self.text = code, text


def run(module, home=None):
    """Import module and leave the process with what its main returns.

    home: DIR as str, fixed by the installation; without it $QPYHOME counts, else /var/qpy.
    """
    global name, built_in
    gc.set_threshold(20_000, 20, 50)        # our objects seldom form cycles, and modules never
    name, built_in = b'qpy-' + module.rpartition('.')[2].rstrip('_').replace('_', '-').encode(), home
    unix._exit(flushed(guarded(lambda: call(module, home))))


def call(module, home):
    """What run runs, inside the guard: the imports too."""
    if unix.arguments() == [b'--help']:
        code = helped(name)
        if code is not None:
            return code
    try:
        main = __import__(module, fromlist=['main']).main
    except (ImportError, SyntaxError, OSError) as problem:
        raise Fatal(exits.TEMP, b'unable to load %s (%s); qpy-install --check says what is wrong'
                    % (module.encode(), str(problem).encode('utf-8', 'replace'))) from None
    return main(unix.fsencode(home) if home else unix.environ.get(b'QPYHOME', DEFAULT_HOME), unix.arguments())


def helped(called):
    """Print how the program of this name is called: the exit code, None if it has an answer of its own.  The table of
    answers is loaded here, as main is above: who works never has it."""
    answer = __import__('qpy.core.usage', fromlist=['text']).text(called, unix.fsencode(built_in or ''))
    return said(lambda: unix.write(1, answer), exits.OK) if answer else None


def flushed(code):
    """code, after what was printed has left."""
    return said(unix.flush_output, code)


def said(write, code):
    """code, after write() of what there is to say; 111 if that cannot be.  A reader who has enough is no error."""
    try:
        write()
    except BrokenPipeError:
        pass
    except OSError as problem:
        complain(b'unable to write what there is to say: ' + reason(problem))
        return code or exits.TEMP
    return code


def guarded(work):
    """work()'s exit code, or the one its failure deserves, after one line about it."""
    try:
        return work()
    except Fatal as end:
        complain(b'fatal: ' + end.text)
        return end.code
    except SystemExit:
        complain(b'fatal: ended by an exit nobody asked for (#4.3.0)')
    except KeyboardInterrupt:
        pass
    except BaseException as problem:
        complain(b'fatal: ' + unforeseen(problem))
    return exits.TEMP


def unforeseen(problem):
    """One line on an exception nobody caught: its type, its reason if the system gave one, and where."""
    trace = problem.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = b'?'
    if trace is not None:
        path = unix.fsencode(trace.tb_frame.f_code.co_filename)
        place = b'%s:%d' % (b'/'.join(path.split(b'/')[-3:]), trace.tb_lineno)
    return b'unforeseen %s at %s (#4.3.0)' % (reason(problem), place)


def reason(problem):
    """An exception as a few words, without any content of mail: for an OSError what the system says, and on what."""
    if isinstance(problem, OSError) and problem.strerror:
        words = problem.strerror.encode('utf-8', 'replace')
        if problem.filename is not None and not isinstance(problem.filename, int):
            words += b': ' + unix.fsencode(problem.filename)
        return words
    return type(problem).__name__.encode()


# --- the log -------------------------------------------------------------------------------------------------

lost = 0        # lines that the log would not take, and that it was not told of


def log(lines):
    """Write a line, or several with newlines between them, to descriptor 2.

    A log that is full or gone never stops mail: its lines are lost, and their number stands before the next."""
    global lost
    try:
        unix.write(2, b''.join(line + b'\n' for line in lost_lines() + [lines]))
        lost = 0
    except OSError:
        lost += lines.count(b'\n') + 1


def tell_lost():
    """Say how many lines were lost without waiting for the next; False if that cannot be said either."""
    global lost
    try:
        for line in lost_lines():
            unix.write(2, line + b'\n')
        lost = 0
    except OSError:
        return False
    return True


def lost_lines():
    """[the line that says how many were lost], or []."""
    return [b'%s: warning: %d log lines were lost' % (name, lost)] if lost else []


def complain(text):
    """One line that names this program and is safe to print whatever text holds."""
    log(b'%s: %s' % (name, bytes(c if c >= 32 and c != 127 else 63 for c in text)))


def warn(text):
    """As complain, marked as a warning."""
    complain(b'warning: ' + text)
