"""qpy-queue, as its caller: queues one message, with qmail-queue's interface.

    descriptors  0 the message, to its end; then 1 the envelope: Fsender NUL, (Trecipient NUL)*, NUL
    exit         0 durable in the queue; 11 31 51 52 53 54 61 62 71-74 81 91 as in qpy-queue(8)

It prints nothing; the exit code is the answer.  It holds no privilege: it collects everything first and then sends
it at speed to qpy-queued, which the kernel tells who is calling.  Between F and T, and behind each T, the other
records of qpy-queue-format(5) are taken too, as filters put in by QPYQUEUE pass them on.
"""
from qpy import unix
from qpy.core import exits, mess, submit as protocol
from qpy.lib import packets, submit

PATIENCE = 86_400           # seconds for everything (qmail-queue's alarm)
IN_MEMORY = 1 << 20         # bytes of message; what is longer waits in an unlinked file
PIECE = 65536
SPOOLS = (b'/var/tmp', b'/tmp')
KNOWN = frozenset(b'T' + b''.join(mess.STAMPED + mess.NETWORK + mess.WISHES + mess.PER_RECIPIENT))


class Stop(Exception):
    """End with this exit code."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


def main(home, args):
    """The story: calm the signals, collect the message, then the envelope, send both, wait for the answer."""
    calm_signals()
    unix.alarm(PATIENCE)
    try:
        check_descriptors()
        message = collect()
        records = read_envelope()
        return deliver(home, message, records)
    except Stop as stop:
        return stop.code
    except MemoryError:
        return exits.QQ_MEMORY
    except Exception:
        return exits.QQ_BUG


def calm_signals():
    """As qmail-queue: unblock all, ignore what terminals and limits send; the alarm ends us with 52."""
    unix.pthread_sigmask(unix.SIG_SETMASK, [])
    for number in (unix.SIGPIPE, unix.SIGVTALRM, unix.SIGPROF, unix.SIGQUIT, unix.SIGINT, unix.SIGHUP, unix.SIGXCPU,
                   unix.SIGXFSZ):
        unix.signal(number, unix.SIG_IGN)
    unix.signal(unix.SIGALRM, lambda *_: unix._exit(exits.QQ_TIMEOUT))


def check_descriptors():
    """Both must be open, or a file of our own would get the number and be read in their place."""
    for fd in (0, 1):
        try:
            unix.access_mode(fd)
        except OSError:
            raise Stop(exits.QQ_READ) from None


def collect():
    """Descriptor 0 to its end: bytes if short, else a descriptor of a file without name, at its beginning."""
    pieces, size = [], 0
    while size <= IN_MEMORY:
        piece = read(0)
        if not piece:
            return b''.join(pieces)
        pieces.append(piece)
        size += len(piece)
    fd = spool()
    try:
        for piece in pieces:
            unix.write_all(fd, piece)
        pieces.clear()
        while piece := read(0):
            unix.write_all(fd, piece)
        unix.lseek(fd, 0, unix.SEEK_SET)
    except OSError:
        raise Stop(exits.QQ_WRITE) from None
    return fd


def read(fd):
    """The next bytes of fd."""
    try:
        return unix.read(fd, PIECE)
    except OSError:
        raise Stop(exits.QQ_READ) from None


def spool():
    """A file nobody else can reach, gone when we are."""
    for directory in SPOOLS:
        for attempt in (_nameless, _unlinked):
            try:
                return attempt(directory)
            except OSError:
                pass
    raise Stop(exits.QQ_WRITE)


def _nameless(directory):
    return unix.open(directory, unix.O_TMPFILE | unix.O_RDWR | unix.O_CLOEXEC, 0o600)


def _unlinked(directory):
    """For file systems without O_TMPFILE."""
    name = b'%b/qpy-queue.%d.%d' % (directory, unix.getpid(), int(unix.monotonic() * 1e6))
    fd = unix.open(name, unix.O_CREAT | unix.O_EXCL | unix.O_RDWR | unix.O_CLOEXEC, 0o600)
    unix.unlink(name)
    return fd


def read_envelope():
    """The records on descriptor 1, without the end mark, behind which nothing is looked at.  Stop 91, 54 or 11."""
    records, rest, size = [], b'', 0
    while True:
        data = read(1)
        pieces = (rest + data).split(b'\0')
        rest = pieces.pop()
        for record in pieces:
            if not record and records:
                return b'\0'.join(records) + b'\0'
            check_record(record, not records)
            records.append(record)
        size += len(data)
        if rest or not data:
            check_record(rest, not records) if rest else None
        if not data:
            raise Stop(exits.QQ_READ)
        if size > protocol.ENVELOPE_LIMIT:
            raise Stop(exits.QQ_REFUSED)


def check_record(record, first):
    """Stop unless the record (or as much of it as there is) may stand here."""
    letter = record[:1]
    if letter != b'F' if first else not letter or letter[0] not in KNOWN:
        raise Stop(exits.QQ_ENVELOPE)
    if len(record) > mess.ADDRESS_LIMIT + 1:
        raise Stop(exits.QQ_ADDRESS_TOO_LONG)


def deliver(home, message, records):
    """Hand it to queued: its exit code, or 0."""
    try:
        unix.stat(home)
    except OSError:
        return exits.QQ_HOME
    try:
        packets.queue_owner(home)
    except OSError:
        return exits.QQ_QUEUE
    return submit.send_records(home, records, message)[0]
