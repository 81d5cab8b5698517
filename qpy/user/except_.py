"""qpy-except, as the recipient, from a .qmail line: turns a program's answer round.

    | except program [argument ...]
    exit          100 if the program ended with 0; 111 if with 111 or by a signal; else 0
"""
from qpy.core import exits
from qpy.lib import program
from qpy.user import wrapped


def main(home, args):
    """Ask the program."""
    program.name = b'except'
    if not args:
        raise program.Fatal(exits.PERM, b'usage: except program [argument ...]')
    code = wrapped.run(args)
    if code < 0:
        raise program.Fatal(exits.TEMP, b'child crashed')
    if code == exits.TEMP:
        raise program.Fatal(exits.TEMP, b'temporary child error')
    return exits.PERM if code == exits.OK else exits.OK
