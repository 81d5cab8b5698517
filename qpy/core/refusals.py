"""Lines about clients that are turned away: the first at once, then how many more, so that a flood of connections
does not become a flood of the log.

    refusals.line(ip, reply, now)   the line to log now, or b'' when it is only counted
    refusals.counted(now)           the lines of windows that are over, and have anything to say

Pure: the clock is the caller's.  An address has one window, whatever it is turned away for; beyond MOST addresses
the rest share the window of `others`.
"""

WINDOW = 10.0           # seconds
MOST = 1000             # addresses


class Refusals:
    """Who was turned away in the windows that are open: {ip: [end of the window, how many more, last reply]}."""

    __slots__ = ('open',)

    def __init__(self):
        self.open = {}

    def line(self, ip, reply, now):
        """One client was turned away."""
        if ip not in self.open and len(self.open) >= MOST:
            ip = b'others'
        window = self.open.get(ip)
        if window is None or window[0] <= now:
            more = window[1] if window else 0
            self.open[ip] = [now + WINDOW, 0, reply]
            return written(ip, reply, more)
        window[1:] = window[1] + 1, reply
        return b''

    def counted(self, now):
        """Close the windows that are over."""
        over = [(ip, window) for ip, window in self.open.items() if window[0] <= now]
        for ip, _ in over:
            del self.open[ip]
        return [written(ip, reply, more) for ip, (_, more, reply) in over if more]


def written(ip, reply, more):
    """A log line without its newline; ip and reply hold no strange bytes."""
    return b'refused connection ip %s: %s' % (ip, reply) + (b' (%d more)' % more if more else b'')
