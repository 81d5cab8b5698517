"""qpy-bouncesaying, as the recipient, from a .qmail line: bounces the message if a program says so, or always.

    | bouncesaying text [program argument ...]
    exit          100 after saying text, if the program ended with 0 or there is none; 111 later; else 0
"""
from qpy import unix
from qpy.core import exits
from qpy.lib import program
from qpy.user import wrapped


def main(home, args):
    """Ask the program, if there is one."""
    program.name = b'bouncesaying'
    if not args:
        raise program.Fatal(exits.PERM, b'usage: bouncesaying error [program [argument ...]]')
    code = wrapped.run(args[1:]) if len(args) > 1 else exits.OK
    if code < 0:
        raise program.Fatal(exits.TEMP, b'child crashed')
    if code == exits.TEMP:
        raise program.Fatal(exits.TEMP, b'temporary child error')
    if code != exits.OK:
        return exits.OK
    unix.write_all(2, args[0] + b'\n')
    return exits.PERM
