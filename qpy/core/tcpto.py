"""Addresses that did not answer lately: qmail's tcpto table, as a value in memory.

An address that timed out twice is not tried again for about an hour (the time differs from process to process
so that not all come back at once); everybody behind it is deferred at once instead of holding a delivery for
minutes.
Only timeouts count: a refusal is an answer.
"""

WAIT = 60 * 64          # seconds; plus up to half as much by `spread`
AGAIN = 120             # seconds within which a second timeout says nothing new
MOST = 10               # timeouts counted
RECORDS = 256           # addresses remembered


class Table:
    """{address: (count, time of the last timeout)}, bounded.  spread: 0..31, e.g. the process ID."""

    __slots__ = ('records', 'spread')

    def __init__(self, spread=0):
        self.records, self.spread = {}, spread & 31

    def is_dead(self, address, now):
        """True: treat this address as if connecting had timed out again."""
        count, last = self.records.get(address, (0, 0))
        return count >= 2 and now - last < WAIT + self.spread * 64

    def timed_out(self, address, now):
        """Connecting to address timed out."""
        count, last = self.records.get(address, (0, 0))
        if count and now - last < AGAIN:
            return
        if not count and len(self.records) >= RECORDS:
            self._make_room()
        self.records[address] = min(count + 1, MOST), now

    def answered(self, address):
        """Connecting to address did not time out."""
        self.records.pop(address, None)

    def _make_room(self):
        del self.records[min(self.records, key=lambda a: self.records[a][1] + self.records[a][0] * 1024)]
