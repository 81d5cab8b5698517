"""control/destinationlimits: how many transactions one destination may have at a time, and how many in a time.

    example.org:5               5 at a time
    .example.org:2              ... for every host below example.org
    example.net:20 600/h        ... 20, and 600 an hour, evenly spread: one every six seconds
    example.com:1 10/m          also /s, /m, /d
    :10                         every other destination

A destination is the domain of the recipients, or the relay that control/smtproutes or senderroutes names for it: then
the relay's name counts.  A message to many recipients of it is one transaction.  The key is found as in smtproutes.
"""
from qpy.core import bydomain, smtproutes, text

PERIODS = {b's': 1, b'm': 60, b'h': 3600, b'd': 86400}
MOST = 20000                # at a time
OFTEN = 10 ** 6             # in a period


class Limit:
    """most: transactions at a time; count in so many seconds, or 0."""

    __slots__ = ('most', 'count', 'seconds')

    def __init__(self, most, count=0, seconds=0):
        self.most, self.count, self.seconds = most, count, seconds

    def __eq__(self, other):
        return isinstance(other, Limit) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)


def parse(value):
    """The Limit of an entry's value; ValueError with a reason for people."""
    words = [word for word in value.replace(b'\t', b' ').split(b' ') if word]
    most = text.parse_uint(words[0], MOST) if words else None
    if not most or len(words) > 2:
        raise ValueError('write how many at a time, 1 to %d, and perhaps a rate' % MOST)
    if len(words) == 1:
        return Limit(most)
    digits, _, period = words[1].partition(b'/')
    count = text.parse_uint(digits, OFTEN)
    if not count or period not in PERIODS:
        raise ValueError('a rate is 10/s, 10/m, 10/h or 10/d')
    return Limit(most, count, PERIODS[period])


def find(name, table):
    """The Limit of table ({lower-case key: Limit}) that decides about the destination of this name, or None."""
    found = bydomain.find(host_of(name), table) if table else None
    return found[1] if found else None


def name_of(sender, domain, senders, routes):
    """What the destination of mail from sender to domain is called: the value of the entry in senderroutes or smtproutes
    ({key: value}) that decides, because all mail with that value goes one way; else the domain."""
    for found in (smtproutes.find_sender(sender, senders), smtproutes.find(domain, routes)):
        if found is not None:
            return text.lower(b' '.join(found[1].split())) or text.lower(domain)
    return text.lower(domain)


def host_of(name):
    """The host that such a name speaks of: the domain, or the first relay (the path of its socket)."""
    try:
        hop = smtproutes.parse(name)[0]
    except (ValueError, IndexError):
        return name
    return hop.path or hop.host


class Pace:
    """What a rate has left.  Credit grows evenly, to what is allowed in one second, and to 1 at least: so that in any
    period no more start than count and what one second allows.  now: steady seconds.

    part: how much of the rate is used; half with each trouble of the host, more again with each that goes well."""

    SLOWEST, STEP = 1 / 16, 1 / 16

    __slots__ = ('limit', 'credit', 'since', 'part')

    def __init__(self, limit, now):
        self.limit, self.since, self.part = limit, now, 1.0
        self.credit = self.full

    @property
    def full(self):
        """The most there can be saved."""
        return max(1.0, self.limit.count / self.limit.seconds)

    def left(self, now):
        """How many may start now."""
        grown = self.credit + max(0, now - self.since) * self.part * self.limit.count / self.limit.seconds
        self.credit, self.since = min(self.full, grown), now
        return int(self.credit + 1e-9)

    def take(self):
        """One has started."""
        self.credit -= 1

    def again(self):
        """Whole seconds from the last look until one may start."""
        missing = (1 - self.credit) * self.limit.seconds / self.limit.count / self.part
        return max(1, -int(-missing // 1))

    def slower(self, now):
        """The host is in trouble, or says 421."""
        self.left(now)
        self.part = max(self.SLOWEST, self.part / 2)

    def faster(self, now):
        """One went well."""
        self.left(now)
        self.part = min(1.0, self.part + self.STEP)

    def fresh(self, now):
        """Is it as it was at the beginning?"""
        return self.left(now) >= self.full and self.part == 1
