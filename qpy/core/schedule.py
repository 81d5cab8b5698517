"""When to try again, and when to give up.

    retry(age, skip)            0 -> 400, 400 -> 1200, 1600 -> 2000 ...  (skip 20)
    Clock.age(birth)            how old a message is, whatever the wall clock has done in the meantime
    Expiry                      a message is given up only when it is old *and* was tried often enough

    Calendar                    which messages are due in which second

All times are whole seconds. `now` is the steady time of Clock: it begins as the wall clock and never jumps.
"""
from heapq import heappop, heappush

SKIP_LOCAL, SKIP_REMOTE = 10, 20
TROUBLE = 123               # seconds until the next try after a failure of this system, as in qmail
LAST_TROUBLE = 10           # the same while send is ending: there is no more time than control/timeoutstop
LEAST_ATTEMPTS = 3          # before a message may be too old
GRACE = 3600                # seconds that send must have been running before anything is too old
LONGEST = 86400             # seconds: no message sleeps longer, whatever its birth says
JITTER = 16                 # a retry comes up to 1/16 of its waiting time late

BACKOFF_FIRST, BACKOFF_MOST = 60, 3600      # seconds a destination in trouble is left alone
SPREAD_RATE, SPREAD_MOST = 100, 900         # overdue messages a second after a restart; seconds at most


def isqrt(number):
    """The whole part of the square root of a whole number >= 0 (qmail's is cut at 65535; so is this)."""
    if number >= 0xffff * 0xffff:
        return 0xffff
    root = int(number ** 0.5)
    return root - 1 if root * root > number else root


def retry(age, skip):
    """Seconds from now until the next attempt at a message of that age: (isqrt(age) + skip)^2 - age, at most
    a day.

    qmail-send.c, nextretry: birth + (isqrt(now - birth) + skip)^2, with isqrt 0 for a birth in the future.
    """
    age = max(0, age)
    return min(LONGEST, (isqrt(age) + skip) ** 2 - age)


def late(seconds, chance):
    """A waiting time with its jitter: seconds to seconds + 1/16, for chance in 0..1."""
    return seconds + int(seconds * chance) // JITTER


def due(when, now):
    """The steady time until which a message was told to sleep, 0 if it cannot have been told so: nothing sleeps so long, the
    clock stood ahead when it was written."""
    return when if when <= now + late(LONGEST, 1) else 0


def backoff(failures, chance):
    """Seconds to leave a destination alone after so many failures in a row: 60, 120, 240 ... 3600, with
    jitter.
    """
    seconds = BACKOFF_FIRST << min(failures - 1, 6)
    return late(min(seconds, BACKOFF_MOST), chance)


def spread(count, chance):
    """Seconds to wait for the count-th message (from 0) that was found overdue after a restart.

    A hundred a second in the order found; beyond 900 seconds, anywhere in them.
    """
    delay = count // SPREAD_RATE
    return delay if delay < SPREAD_MOST else int(SPREAD_MOST * chance)


def attempts_needed(lifetime, skip):
    """Attempts a message must have had before its age may end it: 3, or as many as its curve has in a short
    life.
    """
    return min(LEAST_ATTEMPTS, isqrt(lifetime) // skip + 1) if lifetime else 0


def dying(age, attempts, running, lifetime, skip):
    """Is the pass that begins now the last one?

    age: seconds; attempts: passes before this one; running: seconds since send began; lifetime:
    control/queuelifetime. queuelifetime 0 gives a message of one second or more exactly one attempt, as in
    qmail.
    """
    return age > lifetime and attempts >= attempts_needed(lifetime, skip) and running >= min(GRACE, lifetime)


class Calendar:
    """Which IDs are due in which second: a word for each, and one number for all of the same second.  entries: how many."""

    __slots__ = ('seconds', 'heap', 'entries')

    def __init__(self):
        self.clear()

    def clear(self):
        """Nothing is due any more."""
        self.seconds, self.heap, self.entries = {}, [], 0

    def add(self, second, id):
        """Note one more; the number that stands for this second, the same for all of them."""
        known = self.seconds.get(second)
        if known is None:
            known = self.seconds[second] = second, []
            heappush(self.heap, second)
        self.entries += 1
        known[1].append(id)
        return known[0]

    def first(self):
        """The earliest second; None if there is none."""
        return self.heap[0] if self.heap else None

    def take(self, now):
        """(second, sorted IDs) of the earliest second, which goes; None if that is still to come."""
        if not self.heap or self.heap[0] > now:
            return None
        second, ids = self.seconds.pop(heappop(self.heap))
        self.entries -= len(ids)
        return second, sorted(ids)


class Clock:
    """Steady time made of the wall clock and the one that never jumps.

    Where the two part by no more than SLEW seconds between two looks, the wall clock is followed (somebody
    keeps it right), but not back: steady time stands still until it is there again, and what was due stays due.
    Where they part by more, it jumped, and steady time goes on as before. The age of a
    message is taken from whichever of the clocks that there have been makes it younger: a message born before a
    jump of 30 days is not 30 days older for it, one born after it is not from the future, and one born between two
    jumps has the age of its own time.
    """

    __slots__ = ('offset', 'start', 'skew', 'mono', 'skews', 'now')

    SLEW = 60       # seconds
    JUMPS = 50      # so many of them are remembered

    def __init__(self, wall, mono):
        self.start = self.mono = mono
        self.offset = wall - mono       # steady = mono + offset
        self.skew = 0.0                 # wall = steady + skew
        self.skews = [0.0]              # all that there have been, the latest last
        self.now = int(wall)            # steady time at the last look

    def look(self, wall, mono):
        """Note both clocks; returns the seconds the wall clock jumped since the last look, 0 if it did not.
        """
        self.mono = mono
        apart = wall - mono - self.offset - self.skew
        jumped = abs(apart) > self.SLEW
        if jumped:
            self.skew += apart
            self.skews = ([skew for skew in self.skews if abs(skew - self.skew) > 0.5] + [self.skew])[-self.JUMPS:]
        else:
            self.offset += apart
        self.now = max(self.now, int(mono + self.offset))
        return int(apart) if jumped else 0

    @property
    def running(self):
        """Whole seconds from the beginning to the last look."""
        return int(self.mono - self.start)

    @property
    def latest(self):
        """What the one of all clocks there have been that stands furthest ahead says at the last look."""
        return int(self.mono + self.offset + max(self.skews))

    def wall(self, steady):
        """The wall clock's name for a steady time: what is written into files and shown to people."""
        return int(steady + self.skew)

    def steady(self, wall):
        """The steady time of what a file calls `wall`."""
        return int(wall - self.skew)

    def age(self, birth):
        """Seconds since a birth that the wall clock of its time named; 0 if that is in the future of all clocks.
        """
        steady = self.now - birth
        if len(self.skews) == 1:
            return max(0, steady)
        return min([age for age in (int(steady + skew) for skew in self.skews) if age >= 0], default=0)
