"""One question to qpy-send over DIR/run/control, as any user may ask it."""
from qpy import unix
from qpy.lib import program

PATIENCE = 30           # seconds without a byte from send
LIMIT = 64 << 20        # bytes of an answer


def ask(home, *words):
    """Ask for a verb with its arguments; returns (answer records, None), or (records so far, why it was refused).

    OSError if send cannot be reached, does not speak for PATIENCE seconds, or ends in the middle of its answer.
    """
    sock = unix.socket_unix(blocking=True)
    try:
        sock.settimeout(PATIENCE)
        unix.connect_beneath(sock, home + b'/run', b'control')
        sock.sendall(b' '.join(words) + b'\0', unix.MSG_NOSIGNAL)
        return answer(sock)
    finally:
        sock.close()


def answer(sock):
    """Read records up to b'.' or b'!reason'."""
    records, pending, size = [], b'', 0
    while data := sock.recv(65536):
        size += len(data)
        if size > LIMIT:
            break
        *whole, pending = (pending + data).split(b'\0')
        for record in whole:
            if record == b'.':
                return records, None
            if record[:1] == b'!':
                return records, record[1:]
            records.append(record)
    raise unix.error(unix.EIO, 'answer without an end')


def trouble(problem):
    """Why send could not be asked, for a person."""
    if isinstance(problem, (FileNotFoundError, ConnectionRefusedError)):
        return b'qpy-send is not running'
    return b'unable to ask qpy-send: ' + program.reason(problem)
