"""control/ratelimits: how many there may be from one address in some time.  Pure.

    connections:60/1m       counted by qpy-smtpd, over all its workers
    messages:100/1h         counted by qpy-check at MAIL
    recipients:500/1h       counted by qpy-check at RCPT

A number, a slash, a number with s, m, h or d.  Windows counts the window that runs and a share of the one before it,
so that nobody gets twice the limit around its end.
"""
from qpy.core import text

WORDS = (b'connections', b'messages', b'recipients')
UNITS = {b's': 1, b'm': 60, b'h': 3600, b'd': 86400}
MOST = 100_000          # keys of one window; beyond them the rest share one
REMEDY = b'write NUMBER/TIME, for example 100/1h; units are s, m, h and d'


class Limit:
    """number in seconds; words: as written."""

    __slots__ = ('number', 'seconds', 'words')

    def __init__(self, number, seconds, words):
        self.number, self.seconds, self.words = number, seconds, words


def parse_limit(words):
    """The Limit of `100/1h`; ValueError."""
    number, _, time = words.partition(b'/')
    count, unit = text.parse_uint(number, 10 ** 9), UNITS.get(time[-1:])
    many = text.parse_uint(time[:-1], 10 ** 6)
    if count is None or not many or unit is None:
        raise ValueError(words)
    return Limit(count, many * unit, words)


def parse(table):
    """{what: Limit} of {word: value}; ValueError(word, why)."""
    found = {}
    for word, value in table.items():
        if word not in WORDS:
            raise ValueError(word, b'not known; one of: ' + b' '.join(WORDS))
        try:
            found[word] = parse_limit(value)
        except ValueError:
            raise ValueError(word, REMEDY) from None
    return found


class Windows:
    """Counts per (what, key): {what: [number of the window, {key: count}, {key: count} of the one before]}."""

    __slots__ = ('open',)

    def __init__(self):
        self.open = {}

    def take(self, what, key, limit, now):
        """One more; whether that is within the limit.  Who is beyond it is not counted, or he would never be let in."""
        here, before, share = self.window(what, limit.seconds, now)
        if key not in here and len(here) >= MOST:
            key = b''
        count = here.get(key, 0)
        if count + before.get(key, 0) * (1 - share) + 1 > limit.number:
            return False
        here[key] = count + 1
        return True

    def window(self, what, seconds, now):
        """(counts now, counts of the window before, how much of this one is over)."""
        number, share = int(now // seconds), now % seconds / seconds
        window = self.open.get(what)
        if window is None or window[0] != number:
            before = window[1] if window is not None and window[0] == number - 1 else {}
            window = self.open[what] = [number, {}, before]
        return window[1], window[2], share
