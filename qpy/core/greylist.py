"""Greylisting (RFC 6647): who is new is asked to come again, because mail servers do and most others do not.  Pure.

    control/greylist:   delay:300       seconds before a second try is taken
                        retry:172800    seconds within which it must come
                        keep:3024000    seconds that a sender who came again is known
                        allow:5         so many senders of one network that came again: all of it is taken at once

The key is (network of the client, sender, recipient): /24 of IPv4 and /64 of IPv6, because large senders try again
from a neighbour; where SPF says `pass`, the sender's domain stands in the network's place.  `changed` holds the entries
to be written down: (key, first, last, 0 or how many were let in).
"""
from qpy.core import ip, text

WORDS = {b'delay': 300, b'retry': 172800, b'keep': 3024000, b'allow': 5}
MOST = 200_000          # entries
DAY = 86400


class Settings:
    """As control/greylist; all in seconds but allow, which is 0 for never."""

    __slots__ = ('delay', 'retry', 'keep', 'allow')

    def __init__(self, delay=WORDS[b'delay'], retry=WORDS[b'retry'], keep=WORDS[b'keep'], allow=WORDS[b'allow']):
        self.delay, self.retry, self.keep, self.allow = delay, retry, keep, allow


def parse(table):
    """Settings of {word: value}; ValueError(word, why)."""
    for word, value in table.items():
        if word not in WORDS:
            raise ValueError(word, b'not known; one of: ' + b' '.join(WORDS))
        if text.parse_uint(value, 10 ** 9) is None:
            raise ValueError(word, b'not a number')
    return Settings(**{word.decode(): int(value) for word, value in table.items()})


class Greylist:
    """{key: [first seen, last let in or 0, how many times]}; a key without blanks is a whole network."""

    __slots__ = ('entries', 'changed')

    def __init__(self):
        self.entries, self.changed = {}, []

    def wait(self, facts, settings, now):
        """Seconds that this recipient's mail has to wait; 0: it is taken."""
        now, network = int(now), network_of(facts)
        if settings.allow and self.known(network, settings, now) >= settings.allow:
            self.note(network, [*self.entries[network][:1], now, self.entries[network][2]])
            return 0
        key = b'%s %s %s' % (network, text.lower(facts.sender), text.lower(facts.recipient))
        first, last, count = self.entries.get(key, (0, 0, 0))
        if last and now - last <= settings.keep:
            self.note(key, [first, now, count + 1])
            return 0
        if not first or last or now - first > settings.retry or first > now:
            self.note(key, [now, 0, 0])
            return settings.delay
        if now - first < settings.delay:
            return settings.delay - (now - first)
        self.note(key, [first, now, 1])
        self.let_in(network, now)
        return 0

    def known(self, network, settings, now):
        """How many of this network came again."""
        _, last, count = self.entries.get(network, (0, 0, 0))
        return count if now - last <= settings.keep else 0

    def let_in(self, network, now):
        """One more of this network came again."""
        first, _, count = self.entries.get(network, (now, 0, 0))
        self.note(network, [first, now, count + 1])

    def note(self, key, entry):
        """Remember, and have it written down; what was written within the hour is not written again."""
        before = self.entries.get(key)
        self.entries[key] = entry
        if before is None or entry[1] - before[1] > 3600 or bool(before[1]) != bool(entry[1]) or entry[0] != before[0] \
                or b' ' not in key and before[2] != entry[2]:
            self.changed.append((key, *entry))
        if len(self.entries) > MOST:
            self.forget_oldest()

    def load(self, key, first, last, count):
        """An entry that was written down."""
        self.entries[key] = [first, last, count]

    def expire(self, now, settings):
        """Forget what is of no use any more."""
        self.entries = {key: entry for key, entry in self.entries.items()
                        if now - (entry[1] or entry[0]) <= (settings.keep if entry[1] else settings.retry)}

    def forget_oldest(self):
        """Make room: a tenth goes, those never let in first."""
        order = sorted(self.entries, key=lambda key: (bool(self.entries[key][1]), max(self.entries[key][:2])))
        for key in order[:MOST // 10]:
            del self.entries[key]


def network_of(facts):
    """What stands for the client."""
    if facts.spf == b'pass' and b'@' in facts.sender:
        return text.lower(facts.sender[facts.sender.rfind(b'@'):])
    packed = ip.pack(facts.ip)
    if len(packed) == 4:
        return b'%d.%d.%d.0/24' % tuple(packed[:3])
    return packed[:8].hex().encode() + b'/64'
