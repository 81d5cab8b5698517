"""Who has failed to log in too often lately: by account, and by address.

A failure counts for a while and fades.  An account under attack stays open to the addresses its owner came from, so that
nobody is locked out by strangers.  Nothing here says whether an account exists.
"""
from qpy.core import address as addresses

FADE = 60.0                 # seconds in which one failure is forgotten
ACCOUNT, ADDRESS = 10.0, 20.0       # failures at a time
MOST = 20000                # accounts, addresses, and pairs that are remembered
KNOWN = 30 * 86400.0        # seconds for which an address counts as its owner's


class Counter:
    """Failures that fade, for up to MOST keys; the one that has not failed for longest is forgotten first."""

    __slots__ = ('limit', 'counts')

    def __init__(self, limit):
        self.limit, self.counts = limit, {}

    def level(self, key, now):
        """How many are left of this key's failures."""
        level, when = self.counts.get(key, (0.0, now))
        return max(0.0, level - (now - when) / FADE)

    def full(self, key, now):
        """Is one more too many?"""
        return self.level(key, now) > self.limit - 1

    def add(self, key, now):
        """One more."""
        level = self.level(key, now) + 1
        self.counts.pop(key, None)
        if len(self.counts) >= MOST:
            del self.counts[next(iter(self.counts))]
        self.counts[key] = level, now

    def clear(self, key):
        """None any more."""
        self.counts.pop(key, None)


class Brakes:
    """All of them; now: seconds of a clock that never jumps."""

    __slots__ = ('accounts', 'addresses', 'known')

    def __init__(self):
        self.accounts, self.addresses, self.known = Counter(ACCOUNT), Counter(ADDRESS), {}

    def refuse(self, user, ip, now):
        """Why this attempt is not even looked at, b'' if it is."""
        place = network(ip)
        if self.addresses.full(place, now):
            return b'too many failed logins from this address'
        if self.accounts.full(user, now) and now - self.known.get((user, place), now - KNOWN) >= KNOWN:
            return b'too many failed logins to this account'
        return b''

    def failed(self, user, ip, now):
        """Count it."""
        self.addresses.add(network(ip), now)
        self.accounts.add(user, now)

    def succeeded(self, user, ip, now):
        """Its owner: whatever came from there was he."""
        place = network(ip)
        self.addresses.clear(place)
        self.known.pop((user, place), None)
        if len(self.known) >= MOST:
            del self.known[next(iter(self.known))]
        self.known[user, place] = now


def network(ip):
    """What counts as one address: an IPv4 address, the /64 of an IPv6 one."""
    packed = addresses.parse_ipv6(ip) if b':' in ip else None
    return packed[:8] if packed else ip
