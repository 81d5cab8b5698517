"""qpy-maildirmake: makes a new Maildir.

    maildirmake directory
    exit          0; 100 wrong use; 111 it cannot be made, or is there already
"""
from qpy import unix
from qpy.core import exits
from qpy.lib import program
from qpy.user import mailbox


def main(home, args):
    """Make it, its tmp, new and cur, all 0700."""
    program.name = b'maildirmake'
    unix.umask(0o077)
    if len(args) != 1:
        raise program.Fatal(exits.PERM, b'usage: maildirmake directory')
    try:
        unix.mkdir(args[0], 0o700)
        mailbox.make(args[0])
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to make %s: %s' % (args[0], mailbox.why(problem))) from None
    return exits.OK
