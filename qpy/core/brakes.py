"""Who has failed to log in too often lately: by account, and by address.

A failure counts for a while and fades.  An account under attack stays open to the addresses its owner came from, so that
nobody is locked out by strangers.  What is being judged may fail, too: no more of that at a time than would be looked at
one after the other.  Nothing here says whether an account exists.
"""
from qpy.core import address as addresses

FADE = 60.0                 # seconds in which one failure is forgotten
ACCOUNT, ADDRESS = 10.0, 20.0       # failures at a time
MOST = 20000                # accounts, addresses, and pairs that are remembered
KNOWN = 30 * 86400.0        # seconds for which an address counts as its owner's
NEVER = float('-inf')


class Counter:
    """Failures that fade, for up to MOST keys; the one that has not failed for longest is forgotten first.
    judged: {key: attempts of which nobody knows yet}."""

    __slots__ = ('limit', 'counts', 'judged')

    def __init__(self, limit):
        self.limit, self.counts, self.judged = limit, {}, {}

    def level(self, key, now):
        """How many are left of this key's failures."""
        level, when = self.counts.get(key, (0.0, now))
        return max(0.0, level - (now - when) / FADE)

    def full(self, key, now, more=0):
        """Is one more, beside so many, too many?"""
        return self.level(key, now) + more > self.limit - 1

    def crowded(self, key, now):
        """Is it too many if all fail that are being judged?"""
        return self.full(key, now, self.judged.get(key, 0))

    def enter(self, key):
        """One is being judged."""
        self.judged[key] = self.judged.get(key, 0) + 1

    def leave(self, key):
        """It has been."""
        self.judged[key] -= 1
        if not self.judged[key]:
            del self.judged[key]

    def forgive(self, key, now):
        """One less, if there is one."""
        if key in self.counts:
            self.counts[key] = max(0.0, self.level(key, now) - 1), now

    def add(self, key, now):
        """One more."""
        level = self.level(key, now) + 1
        self.counts.pop(key, None)
        if len(self.counts) >= MOST:
            del self.counts[next(iter(self.counts))]
        self.counts[key] = level, now


class Brakes:
    """All of them; now: seconds of a clock that never jumps."""

    __slots__ = ('accounts', 'addresses', 'known')

    def __init__(self):
        self.accounts, self.addresses, self.known = Counter(ACCOUNT), Counter(ADDRESS), {}

    def refuse(self, user, ip, now):
        """Why this attempt is not even looked at, b'' if it is.  user: b'' if it names none that can be seen."""
        place = network(ip)
        if self.addresses.full(place, now):
            return b'too many failed logins from this address'
        if self.accounts.full(user, now) and not self.is_owners(user, place, now):
            return b'too many failed logins to this account'
        return b''

    def begin(self, user, ip, now):
        """Whether this attempt, which is not refused, may be judged now; if so end() must follow."""
        place = network(ip)
        if self.addresses.crowded(place, now) or self.accounts.crowded(user, now) and not self.is_owners(user, place, now):
            return False
        self.addresses.enter(place)
        self.accounts.enter(user)
        return True

    def end(self, user, ip):
        """It has been judged."""
        self.addresses.leave(network(ip))
        self.accounts.leave(user)

    def is_owners(self, user, place, now):
        """Has the owner of this account come from there?  Who is nobody has none to be kept from."""
        return not user or now - self.known.get((user, place), NEVER) < KNOWN

    def failed(self, users, ip, now):
        """Count it; users: all that one account was called."""
        self.addresses.add(network(ip), now)
        for user in users:
            self.accounts.add(user, now)

    def succeeded(self, users, ip, now):
        """Its owner: one of the failures from there was he, but not one for each time that he comes: he may be guessing at
        the accounts of others in between."""
        place = network(ip)
        if all(now - self.known.get((user, place), NEVER) >= FADE for user in users):
            self.addresses.forgive(place, now)
        for user in users:
            self.known.pop((user, place), None)
            if len(self.known) >= MOST:
                del self.known[next(iter(self.known))]
            self.known[user, place] = now


def network(ip):
    """What counts as one address: an IPv4 address, the /64 of an IPv6 one."""
    packed = addresses.parse_ipv6(ip) if b':' in ip else None
    return packed[:8] if packed else ip
