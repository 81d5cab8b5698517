"""DELIVERBY (RFC 2852): a message that is to be delivered by a certain time.

    envelope    D1795575374;R       the unix time; R: after it the message comes back
                D1795575374;NT      N: its sender is told that it is late; T behind either: he is told of each hop, too
    SMTP        MAIL FROM:<...> BY=3600;R           what is left of the time, in seconds

A server that does not know DELIVERBY gets a message with N, and the sender is told that it has gone there; it gets none
with R, because nobody there would send it back in time.
"""
from qpy.core import text

MOST = 999_999_999          # seconds: nine digits (RFC 2852, section 4)
UNIX_LIMIT = 1 << 40


class By:
    """deadline: unix time; returns: R; trace: T."""

    __slots__ = ('deadline', 'returns', 'trace')

    def __init__(self, deadline, returns, trace=False):
        self.deadline, self.returns, self.trace = deadline, returns, trace

    def __eq__(self, other):
        return isinstance(other, By) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    @property
    def mode(self):
        """As both forms write it."""
        return (b'R' if self.returns else b'N') + b'T' * self.trace


MODES = {b'R': (True, False), b'N': (False, False), b'RT': (True, True), b'NT': (False, True)}


def parse(value):
    """The By of an envelope's record; None where there is none, or none that we understand."""
    when, _, mode = (value or b'').partition(b';')
    deadline = text.parse_uint(when, UNIX_LIMIT)
    return By(deadline, *MODES[mode]) if deadline is not None and mode in MODES else None


def from_wire(value, now):
    """The value of a record D for BY=value, received at this unix time; ValueError if it is none (RFC 2852, section 4):
    what is to come back must have some time."""
    seconds, _, mode = value.upper().partition(b';')
    sign, digits = (-1, seconds[1:]) if seconds[:1] == b'-' else (1, seconds.removeprefix(b'+'))
    number = text.parse_uint(digits, MOST)
    if number is None or mode not in MODES or MODES[mode][0] and sign * number <= 0:
        raise ValueError('write BY=SECONDS;R or BY=SECONDS;N, and more than 0 seconds for R')
    return b'%d;%s' % (max(0, now + sign * number), mode)


def on_wire(by, left):
    """The parameter of MAIL for a message with so many seconds left."""
    return b' BY=%d;%s' % (max(-MOST, min(left, MOST)), by.mode)


def refusal(by, left, offered):
    """Why a server must not have the message, in words; b'' if it may.

    offered: the parameters of its DELIVERBY, which are the least time that it takes; None: it does not know it."""
    if not by.returns:
        return b''
    if left <= 0:
        return b'it is too late'
    if offered is None:
        return b'it would not send the message back in time'
    least = text.parse_uint(offered, MOST) or 0
    return b'it wants at least %d seconds, and %d are left' % (least, left) if left < least else b''
