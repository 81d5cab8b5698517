"""qpy-tcpok, as root: no destination, or not this one, is left alone any longer.

    qpy-tcpok [HOST]

Asks DIR/run/control.  Exit: 0; 111 if send cannot be asked, or says no.
"""
from qpy.core import exits
from qpy.lib import program
from qpy.user import tcpto

USAGE = b'usage: qpy-tcpok [HOST]'


def main(home, args):
    """See qpy-tcpok(8)."""
    if len(args) > 1 or args and (args[0][:1] == b'-' or b' ' in args[0]):
        raise program.Fatal(exits.PERM, USAGE)
    for _ in tcpto.answers(home, b'tcpok', *args):
        pass
    return exits.OK
