"""qpy-tcpto, as whoever calls it: which destinations are left alone for a while, because they did not answer.

Asks DIR/run/control.  Descriptor 1: a line per destination.  Exit: 0; 111 if send cannot be asked, or says
no.
"""
from qpy import unix
from qpy.core import exits
from qpy.lib import owner, program, sendctl

USAGE = b'usage: qpy-tcpto'


def main(home, args):
    """See qpy-tcpto(8)."""
    unix.signal(unix.SIGPIPE, unix.SIG_DFL)
    if args:
        raise program.Fatal(exits.PERM, USAGE)
    for record in answers(home, b'tcpto'):
        unix.write_all(1, line(record))
    return exits.OK


def answers(home, *words):
    """The records of send's answer; Fatal if there is none."""
    owner.become(home)
    try:
        yield from sendctl.ask(home, *words)
    except sendctl.Refused as refused:
        raise program.Fatal(exits.TEMP, b'qpy-send says: ' + refused.args[0]) from None
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, sendctl.trouble(problem)) from None


def line(record):
    """One destination for a person: from HOST TAB failures TAB seconds since TAB seconds left TAB reason."""
    host, failures, since, left, reason = record.split(b'\t', 4)
    words = b'%s timed out %s seconds ago; # recent timeouts: %s; left alone for %s more seconds: %s\n'
    return words % (host, since, failures, left, reason)
