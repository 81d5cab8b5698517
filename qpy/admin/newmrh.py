"""qpy-newmrh, as root: makes control/morercpthosts.cdb of control/morercpthosts.

Exit: 0; 111 with one line when there is no such file, it is broken, or the cdb cannot be written; then the
old one stays.
"""
from qpy import unix
from qpy.core import cdb as bytes_
from qpy.core import exits, text
from qpy.lib import cdb, controls, owner, program


def main(home, args):
    """qpy-newmrh"""
    if args:
        raise program.Fatal(exits.PERM, b'usage: qpy-newmrh')
    return compile_list(home, b'morercpthosts')


def compile_list(home, name):
    """Make control/NAME.cdb, with the entries of control/NAME in lower case as keys; the exit code."""
    owner.become(home)
    entries = controls.listing(home, name)
    if entries is None:
        raise program.Fatal(exits.TEMP, b'unable to read control/%s: No such file or directory' % name)
    try:
        cdb.replace(home + b'/control/%s.cdb' % name, bytes_.build((text.lower(entry), b'') for entry in entries))
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to write control/%s.cdb: %s'
                            % (name, program.reason(problem))) from None
    return exits.OK
