"""qpy-newvrt, as root: makes control/validrcptto.cdb of control/validrcptto.

Exit: 0; 111 with one line when there is no such file, it is broken, or the cdb cannot be written; then the
old one stays.
"""
from qpy.admin import newmrh
from qpy.core import exits
from qpy.lib import program


def main(home, args):
    """qpy-newvrt"""
    if args:
        raise program.Fatal(exits.PERM, b'usage: qpy-newvrt')
    return newmrh.compile_list(home, b'validrcptto')
