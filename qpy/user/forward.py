"""qpy-forward, as the recipient, from a .qmail line: sends the message on to other addresses.

    | forward address ...
    environment   NEWSENDER, the sender of what is sent on; DTLINE, the line put before it; SENDER, QPYENVELOPE: what was
                  said of the message goes on with it
    descriptors   0 the message, from where it stands
    exit          0 queued, 100 never, 111 later
"""
from qpy import unix
from qpy.core import carried, exits
from qpy.lib import program, submit
from qpy.user import wrapped


def main(home, args):
    """Queue it."""
    program.name = b'forward'
    if not args:
        raise program.Fatal(exits.PERM, b'usage: forward address ...')
    sender, line = wrapped.need(b'NEWSENDER', b'DTLINE')
    queue(home, sender, args, line)
    return exits.OK


def queue(home, sender, recipients, line):
    """Queue line and the rest of descriptor 0, and say what it is called now; Fatal if that fails."""
    if any(address[:1] in (b'', b'@') for address in recipients):
        raise program.Fatal(exits.TEMP, b'an address is empty, and mail sent there would be gone; is a variable not set?')
    same = unix.environ.get(b'SENDER') == sender
    options, wishes = carried.on(unix.environ.get(carried.VARIABLE, b''), same)
    code, text = submit.send(home, sender, recipients, wrapped.after(line, wrapped.rest_of(0)), options,
                             [wishes] * len(recipients))
    if code:
        raise program.Fatal(exits.PERM if text[:1] == b'D' else exits.TEMP, text[1:])
    program.log(b'%s: qp %s' % (program.name, text))     # it is queued, whether that can be said or not
