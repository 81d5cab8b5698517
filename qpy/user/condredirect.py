"""qpy-condredirect, as the recipient, from a .qmail line: sends the message elsewhere if a program says so.

    | condredirect newaddress program [argument ...]
    environment   SENDER, which stays the sender; DTLINE; QPYENVELOPE
    exit          99 the program ended with 0, and the message is queued for newaddress; 111 later; else 0
"""
from qpy import unix
from qpy.core import dotqmail, exits
from qpy.lib import program
from qpy.user import forward, wrapped


def main(home, args):
    """Ask the program, then forward or not."""
    program.name = b'condredirect'
    if len(args) < 2:
        raise program.Fatal(exits.PERM, b'usage: condredirect newaddress program [argument ...]')
    code = wrapped.run(args[1:])
    if code < 0:
        raise program.Fatal(exits.TEMP, b'child crashed')
    if code == exits.TEMP:
        raise program.Fatal(exits.TEMP, b'temporary child error')
    if code != exits.OK:
        return exits.OK
    sender, line = wrapped.need(b'SENDER', b'DTLINE')
    unix.lseek(0, 0, unix.SEEK_SET)
    forward.queue(home, sender, [args[0]], line)
    return dotqmail.STOP
