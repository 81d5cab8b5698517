"""qpy-newu, as root: makes users/cdb of users/assign.

Exit: 0; 111 with one line when the file is not in its format or the cdb cannot be written; then users/cdb
stays as it was. What can be written but not delivered to is a warning, and so is what the qpy that runs cannot
deliver to before it is started anew.
"""
from qpy import unix
from qpy.core import assign, cdb as format, exits, mailids
from qpy.lib import cdb, owner, program, users


def main(home, args):
    """qpy-newu"""
    if args:
        raise program.Fatal(exits.PERM, b'usage: qpy-newu')
    owner.become(home)
    records, warnings = parsed(home + b'/users/assign')
    for line, words in warnings:
        program.warn(b'users/assign, line %d: %s' % (line, words))
    try:
        cdb.replace(home + b'/users/cdb', format.build(records))
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to write users/cdb: ' + program.reason(problem)) from None
    for words in unmapped(home, assign.ids(value for _, value in records)):
        program.warn(words)
    return exits.OK


def unmapped(home, ids):
    """What is to be said of [(uid, gid)] that the seed that runs cannot become."""
    maps = users.Lookup(home).maps() or ()
    for name, found, numbers in zip((b'uid', b'gid'), maps, zip(*ids)):
        new = sorted({number for number in numbers if number and not mailids.within(found, number)})
        if new:
            yield b'%s %s: unknown to the qpy that runs; start it anew, until then mail for these waits' % (
                name, b', '.join(b'%d' % number for number in new))


def parsed(path):
    """([(key, value)] of the cdb, warnings)."""
    try:
        return assign.parse(unix.read_file(path, limit=1 << 30))
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to read users/assign: ' + program.reason(problem)) from None
    except assign.AssignError as problem:
        where = b'line %d: ' % problem.line if problem.line else b''
        raise program.Fatal(exits.TEMP, b'bad format in users/assign: ' + where + problem.why) from None
