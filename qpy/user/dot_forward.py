"""qpy-dot-forward, as the recipient, from a .qmail line: obeys a .forward file.

    | dot-forward [-nN] file ...
    environment   NEWSENDER DTLINE UFLINE RPLINE USER LOCAL HOST; SENDER and QPYENVELOPE as for forward
    descriptors   0 the message
    exit          99 obeyed: the rest of .qmail is not wanted; 0 there is no such file, it asks for nothing,
                  or also for delivery to the user himself, which .qmail goes on to do; 100 wrong use, a
                  program or the queue refused for good; 111 later, also for what this program does not do:
                  files and :include:
"""
from qpy import unix
from qpy.core import dotforward, dotqmail, exits
from qpy.lib import program
from qpy.user import forward, whole, wrapped

USAGE = b'usage: dot-forward [-nN] file ...'
SHELL = b'/bin/sh'
NEEDED = (b'NEWSENDER', b'DTLINE', b'USER', b'LOCAL', b'HOST', b'UFLINE', b'RPLINE')


def main(home, args):
    """The first file that is there and not empty."""
    program.name = b'dot-forward'
    show, names = options(args)
    sender, line, user, local, host, *_ = wrapped.need(*NEEDED)
    data = first(names)
    found = dotforward.parse(data, user, local, host, whole.Site(home).is_local) if data else None
    if found is None:
        return exits.OK
    found = whole.completed(home, found)
    if show:
        describe(found)
    check(found)
    if not show:
        obey(home, found, sender, line)
    return exits.OK if any(kind is dotforward.SELF for kind, _ in found) else dotqmail.STOP


def options(args):
    """(whether only to describe, the files)."""
    show, args = False, list(args)
    while args and args[0][:1] == b'-' and args[0] != b'-':
        word = args.pop(0)
        if word == b'--':
            break
        if word.strip(b'nN') != b'-':
            raise program.Fatal(exits.PERM, USAGE)
        show = word[-1:] == b'n'
    if not args:
        raise program.Fatal(exits.PERM, USAGE)
    return show, args


def first(names):
    """The bytes of the first file that has any."""
    for name in names:
        try:
            data = unix.read_file(name, limit=dotforward.FILE_LIMIT, pipes=True)
        except FileNotFoundError:
            continue
        except unix.error as problem:
            why = program.reason(problem)
            raise program.Fatal(exits.TEMP, b'unable to read %s: %s' % (name, why)) from None
        if data:
            return data
    return b''


def describe(found):
    """Say what would be done (-n)."""
    for kind, word in found:
        unix.write_all(1, (kind + b' ' + word).rstrip() + b'\n')


def check(found):
    """Fatal before anything is done if not all of it can be."""
    for kind, word in found:
        if kind is dotqmail.FAIL:
            raise program.Fatal(exits.TEMP, word)
        if kind in (dotqmail.MAILDIR, dotqmail.MBOX):
            raise program.Fatal(exits.TEMP, b'no delivery to files: put %s into .qmail' % word)


def obey(home, found, sender, line):
    """Programs in order, then the forwards, all in one message."""
    for kind, word in found:
        if kind is dotqmail.PROGRAM:
            run(word)
    addresses = [word for kind, word in found if kind is dotqmail.FORWARD]
    if addresses:
        unix.lseek(0, 0, unix.SEEK_SET)
        forward.queue(home, sender, addresses, line)


def run(command):
    """One program, with the message from its beginning."""
    unix.lseek(0, 0, unix.SEEK_SET)
    code = wrapped.run([SHELL, b'-c', command])
    if code < 0:
        raise program.Fatal(exits.TEMP, b'child crashed')
    result = dotqmail.program_result(code)
    if result in (exits.PERM, exits.TEMP):
        raise program.Fatal(result, b'the program ended with %d' % code)
