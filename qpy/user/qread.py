"""qpy-qread, as whoever calls it: what waits in the queue, in the words of qmail-qread.

    qpy-qread [--json] [ID]

Descriptor 1: per message a line with date, ID, size and sender, then a line per recipient; with --json a line
of JSON per message.  root sees all of it, others what they submitted.  While send is not running root sees what
the files say.  Exit: 0; 111 if neither is possible.
"""
from qpy import unix
from qpy.core import dates, exits
from qpy.lib import owner, program, sendctl

RECIPIENT = ('status', 'channel', 'address', 'reason')
USAGE = b'usage: qpy-qread [--json] [ID]'


def main(home, args):
    """See qpy-qread(8)."""
    unix.signal(unix.SIGPIPE, unix.SIG_DFL)
    show = as_text
    if args[:1] == [b'--json']:
        show, args = as_json, args[1:]
    if len(args) > 1 or args and args[0][:1] == b'-':
        raise program.Fatal(exits.PERM, USAGE)
    shown(home, args, show)
    return exits.OK


def shown(home, ident, show):
    """Write the list, and return (messages, bytes) that are in it."""
    owner.become(home)
    count = size = 0
    try:
        for message in sendctl.listed(home, *ident):
            put(show(message))
            count, size = count + 1, size + message.size
    except sendctl.Refused as refused:
        raise program.Fatal(exits.TEMP, refused.args[0]) from None
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, sendctl.trouble(problem)) from None
    return count, size


def put(words):
    """Write a part of the list; a trouble here is none of send's."""
    try:
        unix.write_all(1, words)
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to write the list: ' + program.reason(problem)) from None


def as_text(message):
    """qmail-qread's paragraph, with the local recipients first."""
    failed = any(status == b'failed' for status, _, _, _ in message.recipients)
    lines = [b'%s GMT  #%s  %d  <%s> %s' % (dates.clock_date(message.birth), message.name, message.size,
                                            message.sender, b' bouncing' if failed else b'')]
    for wanted in (b'local', b'remote'):
        lines += [b'%s\t%s\t%s' % (b'' if status == b'pending' else b'  done', channel, address)
                  for status, channel, address, _ in message.recipients if channel == wanted]
    return b'\n'.join(lines) + b'\n'


def as_json(message):
    """One object in a line."""
    import json                             # only who asks for it pays for it
    fields = {'id': message.name.decode(), 'size': message.size, 'arrival_time': message.birth,
              'sender': message.sender.decode(), 'place': message.place.decode(), 'due': message.due,
              'attempts': message.attempts, 'uid': message.uid, 'hold': message.hold.decode(),
              'recipients': [dict(zip(RECIPIENT, map(bytes.decode, recipient)))
                             for recipient in message.recipients]}
    return json.dumps(fields).encode() + b'\n'
