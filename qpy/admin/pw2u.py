"""qpy-pw2u: passwd lines on descriptor 0, users/assign lines on descriptor 1.

Options: -o skip users without a home of their own (default), -h stop at a missing home, -H do not look; -u
names with capitals too, -U not (default); -cX X separates user and extension, -C nothing does; -/
extensions live in `.qmail-/`. Reads DIR/users/include, exclude, mailnames, subusers, append. Exit: 0; 100
usage; 111 trouble, with one line.
"""
from qpy import unix
from qpy.core import exits, pw2u
from qpy.lib import owner, program

LONGEST = 1 << 28           # bytes of passwd


def main(home, args):
    """qpy-pw2u [-/oOhHuUC] [-cX]"""
    options = pw2u.parse_options(args)
    if options is None:
        raise program.Fatal(exits.PERM, b'usage: qpy-pw2u [ -/ohHuUC ] [ -cX ] < passwd')
    owner.become(home)
    try:
        read_files(home, options)
        lines = unix.read_all(0, LONGEST).split(b'\n')
        unix.write_all(1, pw2u.convert(lines, options, owner_of, home + b'/alias'))
    except pw2u.Stop as stop:
        raise program.Fatal(exits.TEMP, stop.args[0]) from None
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to read or write: ' + program.reason(problem)) from None
    return exits.OK


def read_files(home, options):
    """Take over what DIR/users says."""
    include, exclude = listed(home, b'include'), listed(home, b'exclude')
    options.include = None if include is None else pw2u.parse_names(include)
    options.exclude = None if exclude is None else pw2u.parse_names(exclude)
    options.mailnames = pw2u.parse_mailnames(listed(home, b'mailnames') or [])
    options.subusers = pw2u.parse_subusers(listed(home, b'subusers') or [])
    options.append = whole(home, b'append') or b''
    if options.append and not options.append.endswith(b'\n'):
        options.append += b'\n'


def listed(home, name):
    """The lines of a file of DIR/users without comments, None if there is no such file."""
    data = whole(home, name)
    if data is None:
        return None
    lines = [line.rstrip(b' \t') for line in data.split(b'\n')]
    return [line for line in lines if line and line[:1] != b'#']


def whole(home, name):
    """A file of DIR/users, None if there is no such file."""
    try:
        return unix.read_file(home + b'/users/' + name)
    except FileNotFoundError:
        return None


def owner_of(path):
    """The uid a home directory belongs to, None if there is none."""
    try:
        return unix.stat(path).st_uid
    except (FileNotFoundError, NotADirectoryError):
        return None
