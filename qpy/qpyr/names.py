"""Asking qpy-resolve: the client's end of DIR/run/resolve."""
from qpy import unix
from qpy.core import channel, text
from qpy.lib import packets

PATIENCE = 90       # seconds for one answer; qpy-resolve itself gives up much sooner
TEMP = b'temp'
STATUSES = (b'ok', b'nxdomain', b'nodata', b'nullmx', TEMP)


class Names:
    """Questions on their way.  One connection, made when needed and made again when it is lost."""

    __slots__ = ('loop', 'home', 'channel', 'waiting', 'last')

    def __init__(self, loop, home):
        self.loop, self.home = loop, home
        self.channel = None
        self.waiting = {}       # number: (callback, timer)
        self.last = 0

    def ask(self, letter, name, callback):
        """callback(status, authenticated, reason, answers), later; letter M (MX, else addresses), A or T (TLSA)."""
        problem = self._connect()
        if problem:
            return self.loop.call_soon(lambda: callback(TEMP, False, problem, b''))
        self.last += 1
        number = b'%d' % self.last
        silence = TEMP, False, b'qpy-resolve is silent', b''
        self.waiting[number] = callback, self.loop.after(PATIENCE, lambda: self._answer(number, *silence))
        self.channel.send(letter, number, name)
        return None

    def attach(self, sock):
        """Use this connected socket."""
        self.channel = packets.Channel(self.loop, sock, channel.RESOLVE_ANSWER, self._records, self._closed)

    def _connect(self):
        """b'' when connected, else why not."""
        if self.channel is not None:
            return b''
        try:
            uid = packets.owner_of(self.home, b'qpyr')
            self.attach(packets.connect(self.home, b'resolve', uid))
        except OSError as problem:
            return b'qpy-resolve cannot be asked (%s)' % (problem.strerror or 'error').lower().encode()
        except KeyError:
            return b'qpy-resolve cannot be asked (there is no account qpyr)'
        return b''

    def _records(self, records):
        for _, (number, status, authenticated, reason, answers), _ in records:
            status = status if status in STATUSES else TEMP
            self._answer(number, status, authenticated == b'1', text.printable(reason), answers)

    def _answer(self, number, *answer):
        callback, timer = self.waiting.pop(number, (None, None))
        if callback is not None:
            timer.cancel()
            callback(*answer)

    def _closed(self, _):
        self.channel = None
        for number in list(self.waiting):
            self._answer(number, TEMP, False, b'qpy-resolve went away', b'')
