"""Questions to qpy-send over DIR/run/control: the client's side.  See qpys.control for the verbs and the
records.
"""
from qpy import unix
from qpy.lib import packets, program

PATIENCE = 60.0         # seconds without a byte from send


class Refused(Exception):
    """send's no, and why (bytes)."""


class Message:
    """One message of a list: the fields of its `m` record, and `recipients`: [(status, channel, address,
    said)]; hold: why it is held, or b''.
    """

    __slots__ = ('name', 'size', 'birth', 'sender', 'place', 'due', 'attempts', 'uid', 'recipients', 'hold')

    def __init__(self, name, size, birth, sender, place, due, attempts, uid):
        self.name, self.sender, self.place, self.recipients, self.hold = name, sender, place, [], b''
        self.size, self.birth, self.due, self.attempts, self.uid = map(int, (size, birth, due, attempts, uid))


def ask(home, *words):
    """The answer records (bytes), one after the other as they come.

    Refused: send says no.  OSError: it cannot be asked, or is gone before its answer ended; WrongPeer: it is
    not send.
    """
    sock = packets.connect(home, b'control', packets.owner_of(home, b'qpys'), unix.SOCK_STREAM)
    try:
        sock.settimeout(PATIENCE)
        sock.sendall(b' '.join(words) + b'\0', unix.MSG_NOSIGNAL)
        rest = b''
        while True:
            data = sock.recv(65536)
            if not data:
                raise OSError(unix.EPIPE, 'the answer ended early')
            *records, rest = (rest + data).split(b'\0')
            for record in records:
                if record == b'.':
                    return
                if record[:1] == b'!':
                    raise Refused(record[1:])
                yield record
    finally:
        sock.close()


def messages(home, *words):
    """The Messages of a list, one after the other."""
    message = None
    for record in ask(home, b'list', *words):
        kind, *fields = record.split(b'\t')
        if kind == b'm':
            if message is not None:
                yield message
            message = Message(*fields)
        elif kind == b'h' and message is not None:
            message.hold = fields[0]
        elif kind == b't' and message is not None:
            message.recipients.append(tuple(fields))
    if message is not None:
        yield message


def listed(home, *ident):
    """The Messages of a list.  While send is not running they are read from the queue's files, for who may do
    that, after a warning.  Raises as ask.
    """
    try:
        yield from messages(home, *ident)
        return
    except (FileNotFoundError, ConnectionRefusedError) as problem:
        gone = problem
    try:
        names = unix.listdir(home + b'/queue/mess')
    except unix.error:
        raise gone from None
    from qpy.lib import stored
    program.warn(b'qpy-send is not running; this is what the files of the queue say')
    if ident and ident[0] not in names:
        raise Refused(b'no such message')
    yield from stored.messages(home, ident or names)


def trouble(problem):
    """Why send could not be asked, for a person."""
    if isinstance(problem, (FileNotFoundError, ConnectionRefusedError)):
        return b'qpy-send is not running'
    if isinstance(problem, TimeoutError):
        return b'qpy-send runs, and does not answer'
    return b'unable to ask qpy-send: ' + program.reason(problem)
