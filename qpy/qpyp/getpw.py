"""qpy-getpw, as qpyp: which account a local part belongs to, by passwd alone.

Descriptor 1: user, uid, gid, home, dash, ext, each ended by NUL.
Exit: 0; 100 no argument; 115 a home directory cannot be looked at now; 116 no account alias; 118 passwd
cannot be asked now.
"""
from qpy import unix
from qpy.core import exits
from qpy.core.getpw import Trouble
from qpy.lib import program, users


def main(home, args):
    """qpy-getpw LOCAL"""
    if len(args) != 1:
        raise program.Fatal(exits.PERM, b'usage: qpy-getpw local')
    try:
        user = users.Lookup(home).getpw(args[0])
    except Trouble as trouble:
        raise program.Fatal(trouble.code, trouble.text) from None
    unix.write_all(1, b''.join(field + b'\0' for field in user.fields()))
    return exits.OK
