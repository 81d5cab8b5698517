"""How many clients there are, and how many have come, in all and from one address, over all worker processes.

The counts stand in memory that the workers share; each writes its own row and reads all. Addresses are
counted by a keyed hash, so the counts of other workers may take two addresses for one: at BUCKETS buckets
that is rare, and costs a client at most a 421 while another address is at its limit.
"""
from qpy import unix

BUCKETS = 8191
MOST = 65535        # what one count can hold
WINDOWS = 65536     # numbers of windows of time, after which they begin again


class Census:
    """Shared by the master and its workers; `row` is the one this process writes."""

    __slots__ = ('rows', 'row', 'mine', 'came', 'arrivals', 'empty')

    def __init__(self, workers=1):
        width = BUCKETS + 1
        cells = memoryview(unix.shared_memory(4 * width * workers)).cast('H')
        rows = [cells[n * width:(n + 1) * width] for n in range(2 * workers)]
        self.rows, self.came = rows[:workers], rows[workers:]
        self.empty = memoryview(bytes(2 * width)).cast('H')
        self.take(0)

    def take(self, number):
        """Be worker `number`, with no client yet."""
        self.row, self.mine, self.arrivals = self.rows[number], {}, self.came[number]
        for n in range(len(self.row)):
            if self.row[n]:
                self.row[n] = 0

    def total(self):
        """Clients of all workers."""
        return sum(row[BUCKETS] for row in self.rows)

    def of(self, ip):
        """Clients from one address."""
        bucket = hash(ip) % BUCKETS
        return self.mine.get(ip, 0) + sum(row[bucket] for row in self.rows if row is not self.row)

    def add(self, ip):
        """One more client from ip."""
        self.mine[ip] = self.mine.get(ip, 0) + 1
        self.count(ip, 1)

    def remove(self, ip):
        """One less."""
        left = self.mine.get(ip, 0) - 1
        if left > 0:
            self.mine[ip] = left
        else:
            self.mine.pop(ip, None)
        self.count(ip, -1)

    def arrived(self, ip, limit, now):
        """One more client from ip has come: is that within the limit (core.ratelimits) of this window of time?"""
        window = int(now // limit.seconds) % WINDOWS
        bucket = hash(ip) % BUCKETS
        if self.arrivals[BUCKETS] != window:
            self.arrivals[:] = self.empty
            self.arrivals[BUCKETS] = window
        if sum(row[bucket] for row in self.came if row[BUCKETS] == window) >= limit.number:
            return False
        self.arrivals[bucket] = min(self.arrivals[bucket] + 1, MOST)
        return True

    def count(self, ip, change):
        """Change the shared counts."""
        for cell in (hash(ip) % BUCKETS, BUCKETS):
            self.row[cell] = min(max(self.row[cell] + change, 0), MOST)
