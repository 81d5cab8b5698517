"""ETRN (RFC 1985): whoever has been away asks for the mail that waits here for his domain.  Pure.

    control/etrn    example.org         for this domain
                    .example.org        for each domain below it, and for all of them together: ETRN @example.org

    ETRN example.org        RFC 1985, 5.2: a node
    ETRN @example.org       ... and all below it
    ETRN #name              ... a queue of that name: there are none here

qpy-smtpd answers what the control file alone can tell; qpy-send keeps Waiting.
"""
from qpy.core import address, bydomain, text

AGAIN = 120             # seconds until a domain may be asked for again: who asks costs no more than a retry then
NO_NODE = b'malformed'
NO_QUEUES = b'there are no queues by name'
NOT_LISTED = b'not in my list of domains for ETRN'


class Unknown(Exception):
    """A node that nothing is done for; args: why."""


class Later(Exception):
    """A domain that was asked for a moment ago; args: seconds until it may be again."""


def parse(node):
    """(domain, whether what is below it is meant too); ValueError if it is none, Unknown for a queue."""
    if node[:1] == b'#':
        raise Unknown(NO_QUEUES)
    below = node[:1] == b'@'
    domain = text.lower(node[below:])
    if not address.valid_domain(domain):
        raise ValueError(NO_NODE)
    return domain, below


def permit(node, listed):
    """parse(), and Unknown unless the entries of control/etrn ({lower-case entry: ...}) permit it."""
    domain, below = parse(node)
    if not bydomain.find(b'.' + domain if below else domain, listed):
        raise Unknown(NOT_LISTED)
    return domain, below


class Waiting:
    """Which messages have recipients that wait, by those of their domains that may be asked for: {domain: {IDs}}.

    Where nothing may be asked for nothing is kept, and nothing is paid."""

    __slots__ = ('listed', 'ids', 'again')

    def __init__(self, listed=()):
        self.listed, self.ids = listed, {}
        self.again = {}                     # {domain: steady time before which it is not asked for}

    def lists(self, address):
        """Is the domain of this address one that may be asked for?"""
        return bydomain.find(address.rpartition(b'@')[2], self.listed) is not None

    def enter(self, id, recipients):
        """Note a message; {domain: [indices]} of those of its (index, address) that are of domains of ours."""
        found = {}
        for index, recipient in recipients:
            domain = text.lower(recipient.rpartition(b'@')[2])
            if domain in found:
                found[domain].append(index)
            elif self.lists(domain):
                found[domain] = [index]
                self.ids.setdefault(domain, set()).add(id)
        return found

    def leave(self, id, domains):
        """Nobody there waits for this message any more."""
        for domain in domains:
            self.leave_all(domain, (id,))

    def leave_all(self, domain, ids):
        """Nobody waits there for these messages."""
        known = self.ids.get(domain)
        if known is not None:
            known.difference_update(ids)
            if not known:
                del self.ids[domain]

    def ask(self, domain, below, now):
        """The domains with mail that are meant, each not again for a while; Later if that is so for all of them."""
        end = b'.' + domain
        named = [each for each in self.ids if each == domain or each.endswith(end)] if below else \
            [domain] if domain in self.ids else []
        self.again = {each: until for each, until in self.again.items() if until > now}
        fresh = [each for each in named if each not in self.again]
        if named and not fresh:
            raise Later(min(self.again[each] for each in named) - now)
        self.again.update((each, now + AGAIN) for each in fresh)
        return fresh
