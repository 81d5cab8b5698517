"""qpy-newu, as root: makes users/cdb of users/assign.

Exit: 0; 111 with one line when the file is not in its format or the cdb cannot be written; then users/cdb
stays as it was. What can be written but not delivered to is a warning.
"""
from qpy import unix
from qpy.core import assign, exits
from qpy.lib import cdb, program


def main(home, args):
    """qpy-newu"""
    if args:
        raise program.Fatal(exits.PERM, b'usage: qpy-newu')
    data, warnings = built(home + b'/users/assign')
    for line, words in warnings:
        program.warn(b'users/assign, line %d: %s' % (line, words))
    try:
        cdb.replace(home + b'/users/cdb', data)
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to write users/cdb: ' + program.reason(problem)) from None
    return exits.OK


def built(path):
    """(bytes of the cdb, warnings)."""
    try:
        return assign.build(unix.read_file(path, limit=1 << 30))
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to read users/assign: ' + program.reason(problem)) from None
    except assign.AssignError as problem:
        where = b'line %d: ' % problem.line if problem.line else b''
        raise program.Fatal(exits.TEMP, b'bad format in users/assign: ' + where + problem.why) from None
