"""qmail-queue's interface, from the side of the program that is run: a message on descriptor 0, an envelope on 1.

    sys.exit(handed.run(work))      work() returns an exit code; Stop, and whatever goes wrong, becomes one
    handed.message()                descriptor 0 to its end: a spool.Spool
    handed.envelope()               [record] of descriptor 1, the first is Fsender; the end mark is left out

Nothing is printed: the exit code is the answer.
"""
from qpy import unix
from qpy.core import exits, mess, submit
from qpy.lib import spool

PATIENCE = 86_400           # seconds for everything (qmail-queue's alarm)
PIECE = 65536
KNOWN = frozenset(b'T' + b''.join(mess.STAMPED + mess.NETWORK + mess.WISHES + mess.PER_RECIPIENT))


class Stop(Exception):
    """End with this exit code."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


def run(work):
    """work()'s exit code, with the signals calmed and both descriptors open."""
    calm_signals()
    unix.alarm(PATIENCE)
    try:
        check_descriptors()
        return work()
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


def message():
    """Descriptor 0 to its end.  Stop 54 or 53."""
    gathered = spool.Spool()
    while piece := read(0):
        try:
            gathered.add(piece)
        except OSError:
            raise Stop(exits.QQ_WRITE) from None
    return gathered


def read(fd):
    """The next bytes of fd."""
    try:
        return unix.read(fd, PIECE)
    except OSError:
        raise Stop(exits.QQ_READ) from None


def envelope():
    """The records on descriptor 1, behind whose end mark nothing is looked at.  Stop 91, 54 or 11."""
    records, rest, size = [], b'', 0
    while True:
        data = read(1)
        pieces = (rest + data).split(b'\0')
        rest = pieces.pop()
        for record in pieces:
            if not record and records:
                return records
            check_record(record, not records)
            records.append(record)
        size += len(data)
        if rest:
            check_record(rest, not records)
        if not data:
            raise Stop(exits.QQ_READ)
        if size > submit.ENVELOPE_LIMIT:
            raise Stop(exits.QQ_REFUSED)


def check_record(record, first):
    """Stop unless the record (or as much of it as there is) may stand here."""
    letter = record[:1]
    if letter != b'F' if first else not letter or letter[0] not in KNOWN:
        raise Stop(exits.QQ_ENVELOPE)
    if len(record) > mess.ADDRESS_LIMIT + 1:
        raise Stop(exits.QQ_ADDRESS_TOO_LONG)
