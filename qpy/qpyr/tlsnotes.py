"""Telling qpy-tlslog, if it runs, what TLS with a server came to; and what it remembers from before."""
from qpy import unix
from qpy.core import channel, text
from qpy.lib import packets, program

PATIENCE = 3            # seconds for what is remembered, at start
OFTEN = 3600            # seconds between two notes that a place speaks TLS
PLACES = 10_000         # of which that is known
AGAIN = 60              # seconds before one that cannot be told is tried again


class Notes:
    """The client's end of DIR/run/tlslog.  Nothing here is waited for: a note that cannot be passed on is lost."""

    __slots__ = ('loop', 'home', 'channel', 'until', 'found', 'complete', 'told')

    def __init__(self, loop, home):
        self.loop, self.home, self.channel = loop, home, None
        self.until, self.found, self.complete = 0, [], False
        self.told = {}      # place: when it was passed on

    def outcome(self, *fields):
        """A session: domain, kind, policy, server, result, our address, theirs, reason (core.tlsrpt)."""
        self._tell(b'R', *(field.replace(b'\0', b'?') for field in fields))

    def saw(self, place):
        """This place took mail by TLS: passed on once an hour."""
        now = unix.monotonic()
        if now - self.told.get(place, -OFTEN) < OFTEN:
            return
        if len(self.told) >= PLACES:
            self.told.clear()
        self.told[place] = now
        self._tell(b'W', place)

    def load(self):
        """[(place, seconds since then)], after at most PATIENCE seconds; the loop has nothing else to do yet."""
        self.found, self.complete = [], False
        self._tell(b'M', b'1')
        give_up = unix.monotonic() + PATIENCE
        while self.channel is not None and not self.complete and unix.monotonic() < give_up:
            self.loop.step(0.1)
        return self.found

    def _tell(self, letter, *fields):
        if self.channel is None and unix.monotonic() >= self.until:
            self._connect()
        if self.channel is not None:
            self.channel.send(letter, *fields)

    def _connect(self):
        self.until = unix.monotonic() + AGAIN
        if not unix.access(self.home + b'/run/tlslog', unix.R_OK):
            return                                  # the administrator does not want it
        try:
            sock = packets.connect(self.home, b'tlslog', packets.owner_of(self.home, b'qpyr'))
        except (OSError, KeyError) as problem:
            program.warn(b'qpy-tlslog cannot be told: ' + program.reason(problem))
            return
        self.channel = packets.Channel(self.loop, sock, channel.TLSLOG_ANSWER, self._records, self._closed)

    def _records(self, records):
        for _, (_, lines), _ in records:
            self.complete = self.complete or not lines
            for line in lines.split(b'\n') if lines else ():
                place, _, age = line.partition(b' ')
                self.found.append((place, text.parse_uint(age, 1 << 40) or 0))

    def _closed(self, _):
        self.channel, self.until = None, 0
