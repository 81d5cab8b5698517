"""qpy-preline, as the recipient, from a .qmail line: gives a program the message with a mailbox's first lines.

    | preline [-frdFRD] program [argument ...]
    environment   UFLINE (left out with -f), RPLINE (-r), DTLINE (-d); all three must be set
    exit          the program's; 100 if it is not there, 111 if it crashes
"""
from qpy import unix
from qpy.core import exits
from qpy.lib import program
from qpy.user import wrapped

USAGE = b'usage: preline [-frdFRD] program [argument ...]'


def main(home, args):
    """Start the program, give it everything, wait."""
    program.name = b'preline'
    wanted, words = options(args)
    lines = wrapped.need(b'UFLINE', b'RPLINE', b'DTLINE')
    out, into = unix.pipe2(unix.O_CLOEXEC)
    pid = wrapped.start(words, out)
    unix.close(out)
    copy(b''.join(line for line, letter in zip(lines, b'frd') if letter in wanted), into)
    unix.close(into)
    code = wrapped.wait(pid)
    if code < 0:
        raise program.Fatal(exits.TEMP, b'child crashed')
    return code


def options(args):
    """(letters of the lines wanted, the program's words)."""
    wanted, i = set(b'frd'), 0
    while i < len(args) and args[i][:1] == b'-' and args[i] != b'-':
        i += 1
        if args[i - 1] == b'--':
            break
        for letter in args[i - 1][1:]:
            if letter not in b'frdFRD':
                raise program.Fatal(exits.PERM, USAGE)
            (wanted.discard if letter in b'frd' else wanted.add)(letter | 32)
    if i == len(args):
        raise program.Fatal(exits.PERM, USAGE)
    return wanted, args[i:]


def copy(first, into):
    """Write it all; a program that does not want to read to the end need not."""
    unix.signal(unix.SIGPIPE, unix.SIG_IGN)
    try:
        for piece in wrapped.after(first, wrapped.rest_of(0)):
            unix.write_all(into, piece)
    except BrokenPipeError:
        pass
