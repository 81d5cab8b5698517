"""Asking DIR/run/control (qpy-send) to try what waits for a domain, without ever waiting for it.

One question, one connection: it is asked seldom.  Nobody there, no answer in time, or one that makes no sense: a reason.
"""
from qpy import unix
from qpy.core import text
from qpy.lib import packets

PATIENCE = 10.0             # seconds to wait for the answer
ANSWER_MAX = 1024           # bytes
REASON_MAX = 200            # of which the client is told
MOST = 10 ** 9              # messages
ABSENT = b'the queue cannot be asked now'


def ask(loop, home, node, answered):
    """answered(how many messages are tried, b'') later; answered(0, why) where that was done a moment ago, answered(None, why)
    where it cannot be asked."""
    try:
        sock = packets.connect(home, b'control', packets.owner_of(home, b'qpys'), unix.SOCK_STREAM)
    except (KeyError, unix.error):
        return loop.call_soon(lambda: answered(None, ABSENT))
    return Question(loop, sock, b'etrn %s\0' % node, answered)


class Question:
    """One connection."""

    __slots__ = ('loop', 'sock', 'answered', 'said', 'timer')

    def __init__(self, loop, sock, question, answered):
        self.loop, self.sock, self.answered, self.said = loop, sock, answered, b''
        self.timer = loop.after(PATIENCE, self.end)
        loop.watch(sock.fileno(), self.readable)
        try:
            unix.write(sock.fileno(), question)     # the kernel's buffer has room for these few bytes
        except unix.error:
            loop.call_soon(self.end)

    def readable(self):
        """Some of the answer."""
        try:
            data = unix.read(self.sock.fileno(), ANSWER_MAX)
        except BlockingIOError:
            return
        except unix.error:
            data = b''
        self.said += data
        last = self.said.split(b'\0')[-2:-1]
        if not data or len(self.said) > ANSWER_MAX or last == [b'.'] or last and last[0][:1] == b'!':
            self.end()

    def end(self):
        """Say what came of it."""
        if self.sock is None:
            return
        self.timer.cancel()
        self.loop.forget(self.sock.fileno())
        self.sock.close()
        self.sock, records = None, self.said.split(b'\0')
        word, _, number = records[0].rpartition(b' ')
        count = text.parse_uint(number, MOST) if records[1:] == [b'.', b''] and word in (b'', b'later') else None
        if count is None:
            refused = records[0][1:] if records[0][:1] == b'!' and records[1:] == [b''] else b''
            self.answered(None, text.printable(refused[:REASON_MAX]) or ABSENT)
        elif word:
            self.answered(0, b'asked for a moment ago; again in %d seconds' % count)
        else:
            self.answered(count, b'')
