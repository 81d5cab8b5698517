"""control/accountlimits: how much one login may send before its mail is held for a person to look at.  Pure.

    joe@example.org:messages=500/1d,recipients=2000/1d
    :messages=100/1h,messages=500/1d,newrecipients=50/1h

An account's own line, else the line of its domain (@example.org), else the one with an empty name.  newrecipients are
those this account has not written to within the last 90 days: who steals a password writes to strangers.

A message that goes beyond is taken and held (qpy-ctl release), not refused: a list that grew is not lost, and a thief
does not learn where the limit is.  Held messages do not count.
"""
from qpy.core import ratelimits, text

WORDS = (b'messages', b'recipients', b'newrecipients')
PARTS = 24              # a window moves in so many steps
KNOWN = 90 * 86400      # seconds that a recipient is known
MOST_KNOWN = 500_000    # recipients of all accounts that are remembered
MOST_SESSIONS = 20_000
REMEDY = b'write messages=100/1h,recipients=500/1d,newrecipients=50/1h, or some of these'


class Limits:
    """{name, @domain or b'': [(word, Limit)]}."""

    __slots__ = ('table',)

    def __init__(self, table):
        self.table = table

    def of(self, login):
        """The limits of an account."""
        login = text.lower(login)
        for key in (login, login[login.rfind(b'@'):] if b'@' in login else b'', b''):
            if key in self.table:
                return self.table[key]
        return ()


def parse(table):
    """Limits of {name: value}; ValueError(name, why)."""
    return Limits({name: parse_limits(name, value) for name, value in table.items()})


def parse_limits(name, value):
    """[(word, Limit)]"""
    found = []
    for part in value.split(b','):
        word, _, limit = part.partition(b'=')
        try:
            found.append((word, ratelimits.parse_limit(limit)))
        except ValueError:
            raise ValueError(name, REMEDY) from None
        if word not in WORDS:
            raise ValueError(name, REMEDY)
    return found


class Accounts:
    """What accounts have sent.  changed: what is to be written down: (key, number, number).

    counts: {(login, word, seconds of the window): {number of the step: count}}; known: {login and recipient: when
    last}; open: {session: {recipients of the message that is coming}}."""

    __slots__ = ('counts', 'known', 'open', 'changed')

    def __init__(self):
        self.counts, self.known, self.open, self.changed = {}, {}, {}, []

    def recipient(self, session, recipient):
        """One more recipient of the message that is coming."""
        if session not in self.open and len(self.open) >= MOST_SESSIONS:
            del self.open[next(iter(self.open))]
        self.open.setdefault(session, set()).add(text.lower(recipient))

    def over(self, session):
        """The session, or its transaction, has ended."""
        self.open.pop(session, None)

    def message(self, session, login, limits, now):
        """The message comes: b'', or which limit it goes beyond."""
        now, recipients = int(now), self.open.pop(session, set())
        rows, login = limits.of(login), text.logsafe(text.lower(login))     # no blank: load() relies on it
        new = [r for r in recipients if now - self.known.get(login + b' ' + r, 0) > KNOWN]
        more = {b'messages': 1, b'recipients': len(recipients), b'newrecipients': len(new)}
        for word, limit in rows:
            sent = self.sent(login, word, limit, now)
            if more[word] and sent + more[word] > limit.number:
                return b'more than %s %s (%d before, %d now)' % (limit.words, word, sent, more[word])
        for word, limit in rows:
            self.add(login, word, limit, more[word], now)
        for recipient in recipients:
            self.know(login + b' ' + recipient, now)
        return b''

    def sent(self, login, word, limit, now):
        """How many in the window that ends now."""
        step = limit.seconds / PARTS
        oldest = now // step - PARTS
        return sum(count for number, count in self.counts.get((login, word, limit.seconds), {}).items()
                   if oldest < number <= now // step)

    def add(self, login, word, limit, more, now):
        """Count."""
        if more:
            number = int(now // (limit.seconds / PARTS))
            steps = self.counts.setdefault((login, word, limit.seconds), {})
            steps[number] = steps.get(number, 0) + more
            for old in [old for old in steps if old < number - PARTS]:
                del steps[old]
            self.changed.append((b'%s=%s=%d' % (login, word, limit.seconds), number, steps[number]))

    def know(self, key, now):
        """This account has written to that recipient; written down once a day."""
        if now - self.known.get(key, 0) > 86400:
            self.changed.append((key, now, 0))
        self.known.pop(key, None)               # so that the first in the table is the one that was not used longest
        self.known[key] = now
        if len(self.known) > MOST_KNOWN:
            del self.known[next(iter(self.known))]

    def load(self, key, number, count):
        """What was written down."""
        if b' ' in key:
            self.known[key] = number
        else:
            login, word, seconds = key.rsplit(b'=', 2)
            self.counts.setdefault((login, word, int(seconds)), {})[number] = count

    def written(self):
        """All of it, as changed has it."""
        for (login, word, seconds), steps in self.counts.items():
            for number, count in steps.items():
                yield b'%s=%s=%d' % (login, word, seconds), number, count
        for key, when in self.known.items():
            yield key, when, 0

    def expire(self, now):
        """Forget what is of no use any more."""
        self.known = {key: when for key, when in self.known.items() if now - when <= KNOWN}
        for key, steps in list(self.counts.items()):
            step = key[2] / PARTS
            self.counts[key] = {n: count for n, count in steps.items() if n > now // step - PARTS}
            if not self.counts[key]:
                del self.counts[key]
