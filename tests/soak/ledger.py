"""The ledger of a soak: what was given to the hosts, what they promised, what came out where.  Pure.

    made(number, seed)          (whole message as bytes, its seal): what a message is can be seen from any copy of it
    seen(data)                  a Copy, a Report, a Delay, or None for what is none of them
    Ledger                      acknowledged, found, told of; what is missing, torn, a ghost, or there too often
    History                     the lines of one host's log: which message was tried when, and how it ended
    explained(...)              why a copy is there twice, or None

Every message has an envelope sender of its own, so that the logs tell which of their IDs carry it.
"""
import hashlib
import random
import re
import threading

SEAL = re.compile(rb'^X-Soak: (\d+) (\d+) ([0-9a-f]{16})$', re.M)
NAMED = re.compile(rb'^<([^>\n]+)>:$', re.M)
TAG = re.compile(r'[.-]s(\d+)@')
HOSTILE = b'smuggled'       # stands in what no end of data has ever ended
ALPHABET = [b'.', b'..', b'.x', b'', b'From here', b'>From here', b'tab\there', b'8 bit \xe4\xff\x80', b'x' * 70,
            b'y' * 900]


def made(number, seed, size=None):
    """(message with LF line ends, seal): text of a seeded length, mostly short."""
    chance = random.Random('%d/%d' % (seed, number))
    size = size or int(10 ** chance.triangular(1, 5.3, 2.5))
    lines, length = [], 0
    while length < size:
        lines.append(chance.choice(ALPHABET))
        length += len(lines[-1]) + 1
    body = b'\n'.join(lines) + b'\nthe end of %d\n' % number
    seal = b'%d %d %s' % (number, len(body), hashlib.sha256(body).hexdigest()[:16].encode())
    return b'Subject: soak %d\nX-Soak: %b\n\n%b' % (number, seal, body), seal


class Copy:
    """A delivered message: its number, the address it was delivered for, whether it is whole."""

    def __init__(self, number, address, whole):
        self.number, self.address, self.whole = number, address, whole


class Report:
    """A bounce: the number of the message it returns, the addresses it names, its words."""

    def __init__(self, number, addresses, text):
        self.number, self.addresses, self.text = number, addresses, text


class Delay:
    """A warning that the message of this number is not delivered yet."""

    def __init__(self, number):
        self.number = number


def seen(data, address=None):
    """What a message with LF line ends is, that was delivered for address (else its first Delivered-To says it)."""
    head, _, body = data.partition(b'\n\n')
    seal = SEAL.search(head)
    if not seal:
        seal = SEAL.search(body)
        if seal and b'\nAction: delayed\n' in body:
            return Delay(int(seal[1]))
        return seal and Report(int(seal[1]), [name.decode('ascii', 'replace') for name in NAMED.findall(data)], data)
    if address is None:
        mark = re.search(rb'^Delivered-To: (\S+)$', head, re.M)
        address = mark[1].decode('ascii', 'replace') if mark else '?'
    body = body[:int(seal[2])]
    whole = len(body) == int(seal[2]) and hashlib.sha256(body).hexdigest()[:16].encode() == seal[3]
    return Copy(int(seal[1]), address, whole)


def pieces_of_mbox(data):
    """The messages of an mbox without their From_ lines, quoting undone; a last one without its end is left out."""
    pieces = (b'\n' + data).split(b'\nFrom ')[1:]
    return [re.sub(rb'^>(>*From )', rb'\1', piece.partition(b'\n')[2], flags=re.M) for piece in pieces]


# --- what was promised, and what came of it ------------------------------------------------------------------

OFFERED, TAKEN, UNKNOWN, NEVER = 'offered', 'taken', 'unknown', 'never'


class Entry:
    """One message: who sends it from which host ('' for outside), to whom, and what the door said."""

    def __init__(self, number, host, sender, recipients, seal):
        self.number, self.host, self.sender, self.recipients, self.seal = number, host, sender, recipients, seal
        self.status = OFFERED


class Ledger:
    """All of it.  routes: {address: the address it is forwarded to}."""

    def __init__(self, routes):
        self.routes, self.entries = routes, {}
        self.copies, self.reports = {}, {}      # {(number, address): how many}, {(number, address): [text]}
        self.astray = {}                        # as copies: given to the host that a lying DNS named
        self.wrong = []                         # sentences
        self.lock, self.doubts = threading.Lock(), {}   # {what an honest sender was told instead of yes: how often}

    def enter(self, number, host, sender, recipients, seal):
        """A message is about to be offered."""
        with self.lock:
            self.entries[number] = Entry(number, host, sender, recipients, seal)

    def answer(self, number, status):
        """What the door said."""
        self.entries[number].status = status

    def doubt(self, words):
        """A sender knows not whether his message was taken."""
        with self.lock:
            self.doubts[words] = self.doubts.get(words, 0) + 1

    def final(self, address):
        """Where mail for address ends."""
        return self.routes.get(address, address)

    def found(self, what, where, astray=False):
        """A Copy or Report that lay at `where`; astray: not where the address leads."""
        entry = self.entries.get(what.number)
        if isinstance(what, Delay):             # none of them is four hours old
            self.wrong.append('%s: the sender of number %d is told of a delay' % (where, what.number))
        elif isinstance(what, Report):
            with self.lock:
                for address in what.addresses:
                    self.reports.setdefault((what.number, address), []).append(what.text)
        elif not entry or entry.status == NEVER:
            self.wrong.append('%s: number %d was never handed over as a whole, and is delivered' % (where, what.number))
        elif not what.whole:
            self.wrong.append('%s: number %d is torn or changed' % (where, what.number))
        elif what.address not in map(self.final, entry.recipients):
            self.wrong.append('%s: number %d is delivered for %s, whom it was not for'
                              % (where, what.number, what.address))
        else:
            key, place = (what.number, what.address), self.astray if astray else self.copies
            with self.lock:
                place[key] = place.get(key, 0) + 1

    def served(self, number, recipient):
        """Was it delivered to this recipient, or its sender told?"""
        final = self.final(recipient)
        return any(place.get((number, final)) for place in (self.copies, self.astray, self.reports)) \
            or bool(self.reports.get((number, recipient)))

    def all(self):
        """The entries as of now."""
        with self.lock:
            return list(self.entries.values())

    def open(self):
        """[(number, recipient)] that are promised and not served."""
        return [(entry.number, recipient) for entry in self.all() if entry.status == TAKEN
                for recipient in entry.recipients if not self.served(entry.number, recipient)]

    def missing(self, queued):
        """Those of them that are in no queue either; queued: {number: set of addresses}."""
        return [(number, recipient) for number, recipient in self.open()
                if not {recipient, self.final(recipient)} & queued.get(number, set())]

    def twice(self):
        """[(number, address, how often)] of what is there more than once."""
        with self.lock:
            return [(number, address, count) for (number, address), count in self.copies.items() if count > 1]

    def counts(self):
        """{word: how many}."""
        states, twice = [entry.status for entry in self.all()], len(self.twice())
        with self.lock:
            delivered, reported = sum(self.copies.values()), sum(map(len, self.reports.values()))
        return {'offered': len(states), 'acknowledged': states.count(TAKEN), 'in doubt': states.count(UNKNOWN),
                'never whole': states.count(NEVER), 'delivered': delivered, 'reported': reported, 'twice': twice}


# --- the logs ------------------------------------------------------------------------------------------------

#: deferrals after which nothing can have arrived
CERTAIN = re.compile('wasn.t_able_to_establish|No_addresses|unable_to_(find|look)|_MX_|DNS|greeting|sender_was|'
                     'recipient_was|failed_on_DATA|after_I_sent_the_message|left_alone|lookup|look-up|HELO|EHLO|'
                     'host_named|(home|directory|Maildir)_')


class Attempt:
    """One delivery of message `ident` to `address`; run counts the starts of the chain."""

    __slots__ = ('ident', 'address', 'remote', 'run', 'end', 'text')

    def __init__(self, ident, address, remote, run):
        self.ident, self.address, self.remote, self.run, self.end, self.text = ident, address, remote, run, None, ''

    def may_have_arrived(self):
        """Success; or nobody knows."""
        if self.end == 'failure':
            return False
        return self.end != 'deferral' or 'ossible_duplicate' in self.text or not CERTAIN.search(self.text)


class History:
    """One host's log, line by line."""

    def __init__(self):
        self.run, self.numbers, self.attempts, self.under_way = 0, {}, [], {}
        self.lost, self.unforeseen = 0, []
        self.first = {}             # {ID: the run in which it was seen first}
        self.cut = set()            # runs that ended so that their last lines are lost

    def started(self):
        """The chain begins anew: its delivery numbers too."""
        self.run += 1
        self.under_way = {}

    def ended(self, code):
        """The chain has ended; killed, it takes the last lines of its log with it."""
        if code:
            self.cut.add(self.run)

    def hidden(self, ident, attempts):
        """Attempts at this message that may stand in no log: it was in the queue when the log was cut."""
        last = {attempt.run: attempt for attempt in attempts}
        return sum(run in self.cut and (run not in last or last[run].end == 'deferral')
                   for run in range(self.first[ident] - 1, attempts[-1].run + 1))

    def feed(self, line):
        """One line."""
        words = line.split(' ')
        if words[:2] == ['info', 'msg'] and (tag := TAG.search(line.partition(' from <')[2].partition('>')[0])):
            self.numbers[words[2].rstrip(':')] = int(tag[1])
            self.first.setdefault(words[2].rstrip(':'), self.run)
        elif words[:2] == ['starting', 'delivery'] and len(words) == 8:
            self.attempts.append(Attempt(words[4], words[7], words[6] == 'remote', self.run))
            self.under_way[words[2].rstrip(':')] = self.attempts[-1]
        elif words[0] == 'delivery' and len(words) > 2 and words[1].rstrip(':') in self.under_way:
            attempt = self.under_way.pop(words[1].rstrip(':'))
            attempt.end, attempt.text = words[2].rstrip(':'), ' '.join(words[3:])
        elif 'unforeseen' in line or 'Traceback' in line:
            self.unforeseen.append(line)
        elif lost := re.search(r'(\d+) (log )?lines were (lost|too many)', line):
            self.lost += int(lost[1])

    def of(self, number, address):
        """{ID: [Attempt]} of a message to an address."""
        found = {}
        for attempt in self.attempts:
            if attempt.address == address and self.numbers.get(attempt.ident) == number:
                found.setdefault(attempt.ident, []).append(attempt)
        return found


def repeated(attempts):
    """Why one ID was tried again: [reason], or None if it should not have been."""
    reasons = []
    for before, after in zip(attempts, attempts[1:]):
        if before.run != after.run:
            reasons.append('the programs were started anew')
        elif before.end == 'deferral':
            reasons.append(before.text[:60])
        elif before.end != 'success':
            reasons.append('no end is known')
        else:
            return None
    return reasons


def explained(entry, address, count, histories, hosts, routes):
    """The reasons for `count` copies of a message for address, or None.

    histories: {host: History}; hosts: {domain: host}; routes as in Ledger.  At each host on the way there may be as
    many IDs for address as there were handings over that may have succeeded, and each ID may have been tried again
    only after an attempt whose end is unknown or a deferral.
    """
    here = hosts.get(address.partition('@')[2])
    if any(history.lost for history in histories.values()):
        return ['a log has lost lines']
    reasons, arrived = [], 0
    for name, history in histories.items():
        tried = history.of(entry.number, address)
        for ident, attempts in tried.items():
            again, hidden = repeated(attempts), history.hidden(ident, attempts)
            if again is None:
                return None
            reasons += again + ['the log was cut'] * hidden
            if name == here or here is None:
                arrived += hidden + sum(attempt.may_have_arrived() for attempt in attempts)
        if len(tried) > sources(entry, address, name, histories, hosts, routes):
            return None
    return sorted(set(reasons)) or None if count <= arrived else None


def sources(entry, address, host, histories, hosts, routes):
    """How many messages with this number for address may have come into being on a host."""
    at_home = hosts.get(address.partition('@')[2]) == host
    count = int((entry.host or host) == host and (address in entry.recipients) and (bool(entry.host) or at_home))
    for name, history in histories.items():
        for before in [address] if at_home and name != host else []:
            count += hits(history, entry.number, before)
        if name == host:
            for before in (name_ for name_, to in routes.items() if to == address):
                count += hits(history, entry.number, before, remote=False)
    return count


def hits(history, number, address, remote=True):
    """Attempts that may have succeeded, also those that stand in no log."""
    tried = [(ident, [attempt for attempt in attempts if attempt.remote == remote])
             for ident, attempts in history.of(number, address).items()]
    return sum(history.hidden(ident, attempts) + sum(attempt.may_have_arrived() for attempt in attempts)
               for ident, attempts in tried if attempts)
