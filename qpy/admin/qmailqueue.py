"""A qmail queue at rest, read: each message with the recipients that are left, its age, and what failed.

The formats are qmail's (INTERNALS): mess/S/N the message; info/S/N the sender, written when it was queued; local/S/N
and remote/S/N records T (to do) and D (done); bounce/N the failures not yet reported; todo/N (or todo/S/N) a whole
envelope that qmail-send had not looked at.
"""
import fcntl
import os

from qpy import unix
from qpy.core import route, text


class Running(Exception):
    """qmail-send has the queue."""


class Message:
    """One message. born: unix time; failed: text of bounce/N, b'' if there is none."""

    def __init__(self, number, path, sender, recipients, born, failed=b''):
        self.number, self.path, self.sender, self.recipients = number, path, sender, recipients
        self.born, self.failed = born, failed


def hold(queue):
    """Keep qmail-send from starting as long as the result is open; Running if it runs."""
    try:
        file = open(os.path.join(queue, 'lock/sendmutex'), 'r+b')
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Running from None
    return file


def messages(queue, controls, complain):
    """Every Message, oldest first; complain(words) for each that cannot be read.

    controls: that qmail's route.Controls, by which it has put prefixes in front of local recipients."""
    found = []
    for number, path in sorted(numbered(os.path.join(queue, 'mess'))):
        try:
            found.append(message(queue, number, path, controls))
        except (OSError, ValueError) as problem:
            complain('message %d: %s' % (number, problem))
    return sorted(found, key=lambda message: message.born)


def numbered(directory):
    """(number, path) of the files of a directory, split or not."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if os.path.isdir(path):
            yield from numbered(path)
        elif name.isdigit():
            yield int(name), path


def beside(queue, kind, number, path):
    """The path of another file of a message: in the same part of the split, or flat."""
    part = os.path.basename(os.path.dirname(path))
    split = os.path.join(queue, kind, part, str(number))
    return split if part.isdigit() and os.path.exists(split) else os.path.join(queue, kind, str(number))


def message(queue, number, path, controls):
    """The Message of one number; ValueError or OSError if what is there is not a message."""
    opened(path).close()
    todo = contents(beside(queue, 'todo', number, path))
    if todo is not None:
        records = parse(todo, b'upFT')
        sender = [value for letter, value in records if letter == b'F']
        recipients = [value for letter, value in records if letter == b'T']
        born = os.stat(path).st_mtime
    else:
        info = contents(beside(queue, 'info', number, path))
        if info is None:
            raise ValueError('neither todo nor info: never finished being queued')
        sender = [value for _, value in parse(info, b'F')]
        born = os.stat(beside(queue, 'info', number, path)).st_mtime
        recipients = []
        for kind in ('local', 'remote'):
            left = [value for letter, value in parse(contents(beside(queue, kind, number, path)) or b'', b'TD')
                    if letter == b'T']
            recipients += [plain(value, controls) for value in left] if kind == 'local' else left
    if len(sender) != 1:
        raise ValueError('no sender')
    return Message(number, path, sender[0], recipients, born, contents(os.path.join(queue, 'bounce', str(number))) or b'')


def opened(path):
    """A file of the queue, to read.  Who owns the queue has no links there: it would be root who follows them."""
    return open(unix.open_regular(path, os.O_RDONLY), 'rb')


def contents(path):
    """A file's bytes; None if there is none."""
    try:
        with opened(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def parse(data, letters):
    """[(letter, value)] of records ended by NUL; ValueError if the last is not, or a letter is none of these."""
    if data and data[-1:] != b'\0':
        raise ValueError('a record without its end')
    records = [(record[:1], record[1:]) for record in data.split(b'\0')[:-1]]
    for letter, value in records:
        if not letter or letter not in letters:
            raise ValueError('an unknown record: %s' % text.printable(letter + value[:100]).decode())
    return records


def plain(recipient, controls):
    """A local recipient as it was before virtualdomains put a prefix in front of it: the address that gets this one."""
    for prefix, _ in controls.virtualdomains.values():
        if prefix and recipient.startswith(prefix + b'-'):
            address = recipient[len(prefix) + 1:]
            if route.rewrite(address, controls).recipient == recipient:
                return address
    return recipient
