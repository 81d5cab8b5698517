"""qpy-newmrh, as root: makes control/morercpthosts.cdb of control/morercpthosts.

Exit: 0; 111 with one line when there is no such file, it is broken, or the cdb cannot be written; then the
old one stays.
"""
from qpy import unix
from qpy.core import cdb as bytes_
from qpy.core import exits, text
from qpy.lib import cdb, controls, program


def main(home, args):
    """qpy-newmrh"""
    if args:
        raise program.Fatal(exits.PERM, b'usage: qpy-newmrh')
    domains = controls.listing(home, b'morercpthosts')
    if domains is None:
        raise program.Fatal(exits.TEMP, b'unable to read control/morercpthosts: No such file or directory')
    try:
        data = bytes_.build((text.lower(name), b'') for name in domains)
        cdb.replace(home + b'/control/morercpthosts.cdb', data)
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to write control/morercpthosts.cdb: '
                            + program.reason(problem)) from None
    return exits.OK
