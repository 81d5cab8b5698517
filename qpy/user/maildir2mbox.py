"""qpy-maildir2mbox, as the user: moves the messages of a Maildir to the end of an mbox.

    environment   MAILDIR the Maildir, MAIL the mbox; MAILTMP must be set and is not used
    exit          0; 100 a variable is missing; 111 trouble, and then each message is in one of the two, or in
                  both

qmail's program writes the whole mbox anew beside it: what another writer appends to the old one meanwhile is
lost. This one appends under the locks that qpy-local uses, message by message, and removes what is on disk.
"""
from qpy import unix
from qpy.core import dotqmail, exits
from qpy.lib import program
from qpy.user import mailbox

FIRST_LINE = 2000           # bytes looked at for Return-Path
UNKNOWN = b'XXX'


def main(home, args):
    """Every message of new and cur, the oldest first."""
    unix.umask(0o077)
    program.name = b'maildir2mbox'
    names = (b'MAIL', b'MAILTMP', b'MAILDIR')
    for name in names:
        if not unix.environ.get(name):
            raise program.Fatal(exits.PERM, name + b' not set')
    mbox, _, maildir = (unix.environ[name] for name in names)
    here = unix.open(b'.', unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC)
    try:
        for when, path in messages(maildir):
            move(here, path, when, mbox)
    except mailbox.Failed as failed:
        raise program.Fatal(exits.TEMP, failed.text) from None
    except unix.error as problem:
        why = program.reason(problem)
        raise program.Fatal(exits.TEMP, b'unable to read %s: %s' % (maildir, why)) from None
    return exits.OK


def messages(maildir):
    """[(time of last change, path)], the oldest first."""
    found = []
    for part in (b'new', b'cur'):
        directory = b'%s/%s' % (maildir, part)
        for name in unix.listdir(directory):
            path = b'%s/%s' % (directory, name)
            if name[:1] != b'.':
                found.append((unix.stat(path).st_mtime_ns, path))
    return [(when // 10 ** 9, path) for when, path in sorted(found)]


def move(here, path, when, mbox):
    """One message: into the mbox, and when it is on disk there, gone from here."""
    fd = unix.open(path, unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC)
    try:
        if not unix.S_ISREG(unix.fstat(fd).st_mode):
            return
        line = unix.pread_all(fd, FIRST_LINE, 0).partition(b'\n')[0]
        mailbox.append(here, mbox, dotqmail.from_line(sender(line), when), fd)
    finally:
        unix.close(fd)
    unix.unlink(path)


def sender(line):
    """Who the From_ line names: the first line, if it is Return-Path, says it."""
    name, colon, value = line.partition(b':')
    if not colon or name.lower() != b'return-path':
        return UNKNOWN
    value = value.strip(b' \t\r')
    return value[1:-1] if value[:1] + value[-1:] == b'<>' else UNKNOWN
