"""qpy-qbiff, as the recipient, from a .qmail line: says on his terminals that mail has come.

    | qbiff
    environment   USER SENDER LOCAL
    descriptors   0 the message
    exit          0, whatever happens

Only terminals that are the user's own and have their owner's x bit (`biff y`).  What comes from outside is
made printable: a terminal obeys control characters.
"""
from qpy import unix
from qpy.core import exits, header, text, utmp
from qpy.lib import program
from qpy.user import wrapped

UTMP = b'/run/utmp'
DEVICES = b'/dev/'
FLAGS = unix.O_WRONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NOCTTY
WANTS = 0o100               # the mode bit that biff(1) sets
SHOWN = 74                  # bytes of subject and body
LOOKED_AT = 65536           # bytes of the message


def main(home, args):
    """Tell him; nothing that goes wrong here is worth a bounce."""
    program.name = b'qbiff'
    try:
        user, sender, local = wrapped.need(b'USER', b'SENDER', b'LOCAL')
        words = announcement(sender, local, unix.read(0, LOOKED_AT))
        for line in utmp.terminals(unix.read_file(UTMP), user):
            tell(DEVICES + line, words)
    except (unix.error, program.Fatal):
        pass
    return exits.OK


def announcement(sender, local, message):
    """What is written."""
    splitter = header.Splitter()
    if not splitter.feed(message):
        splitter.end()
    fields = [field for field in splitter.fields if header.name(field) == b'subject']
    subject = b' '.join(header.value(field).strip() for field in fields)
    shown = b' '.join((subject + b' ' + splitter.body[:1000]).split())[:SHOWN]
    return b'\r\n\a*** TO <%s> FROM <%s>\r\n    %s\r\n' % tuple(map(text.printable, (local, sender, shown)))


def tell(path, words):
    """Write to one terminal, if it is his and he wants it; never wait for it."""
    try:
        fd = unix.open(path, FLAGS)
    except unix.error:
        return
    try:
        there = unix.fstat(fd)
        if there.st_uid == unix.geteuid() and there.st_mode & WANTS and unix.isatty(fd):
            unix.write(fd, words)
    except unix.error:
        pass
    finally:
        unix.close_quietly(fd)
