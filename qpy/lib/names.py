"""Asking qpy-resolve: the client's end of DIR/run/resolve (or, for qpy-check, DIR/run/names)."""
from qpy import unix
from qpy.core import channel, text
from qpy.lib import packets

PATIENCE = 90       # seconds for one answer; qpy-resolve itself gives up much sooner
TEMP = b'temp'
STATUSES = (b'ok', b'nxdomain', b'nodata', b'nullmx', TEMP)


class Names:
    """Questions on their way.  One connection, made when needed and made again when it is lost."""

    PROGRAM, SOCKET, ANSWER = b'qpy-resolve', b'resolve', channel.RESOLVE_ANSWER

    __slots__ = ('loop', 'home', 'channel', 'waiting', 'last')

    def __init__(self, loop, home):
        self.loop, self.home = loop, home
        self.channel = None
        self.waiting = {}       # number: (callback, timer)
        self.last = 0

    def ask(self, letter, name, callback):
        """callback(status, authenticated, reason, answers), later; the letters are RESOLVE_ASK's of core.channel."""
        problem = self._connect()
        if problem:
            return self.loop.call_soon(lambda: callback(*self.trouble(problem)))
        self.last += 1
        number = b'%d' % self.last
        silence = self.trouble(self.PROGRAM + b' is silent')
        self.waiting[number] = callback, self.loop.after(PATIENCE, lambda: self._answer(number, *silence))
        self.channel.send(letter, number, name)
        return None

    @staticmethod
    def trouble(reason):
        """The answer where there is none."""
        return TEMP, False, reason, b''

    def attach(self, sock):
        """Use this connected socket."""
        self.channel = packets.Channel(self.loop, sock, self.ANSWER, self._records, self._closed)

    def _connect(self):
        """b'' when connected, else why not."""
        if self.channel is not None:
            return b''
        try:
            uid = packets.owner_of(self.home, b'qpyr')
            self.attach(packets.connect(self.home, self.SOCKET, uid))
        except OSError as problem:
            return b'%s cannot be asked (%s)' % (self.PROGRAM, (problem.strerror or 'error').lower().encode())
        except KeyError:
            return self.PROGRAM + b' cannot be asked (there is no account qpyr)'
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
            self._answer(number, *self.trouble(self.PROGRAM + b' went away'))
