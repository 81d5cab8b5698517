"""control/smtproutes and control/senderroutes: where mail goes instead of where DNS says.

    example.org:relay.example.net            mail for example.org goes to relay.example.net, port 25, no MX looked up
    .example.org:relay.example.net:2525      ... for every host below example.org, to port 2525
    :[2001:db8::1]:587                       ... everything else; an IPv6 address stands in brackets
    example.com:                             ... but example.com as DNS says
    a.example:one.example two.example:2525   the second where the first cannot be had
    b.example:smtps=relay.example.net        TLS from the first byte, port 465
    c.example:lmtp=127.0.0.1:2424            LMTP; without a port 24
    d.example:lmtp=/run/dovecot/lmtp         ... on a Unix socket
    e.example:smtps=joe@isp.example@smtp.isp.example    logged in as joe@isp.example (control/smtplogins)

First the host itself is looked up, then each of its endings that begins with a dot, longest first, then the empty key;
the first one found decides.  control/senderroutes, looked at before, has keys of its own: the envelope sender's
address, then @ and its domain.
"""
from qpy.core import bydomain, ip, text
from qpy.core.bydomain import find  # noqa: F401 - the order in which keys are looked up

PORT = 25
HOST_BYTES = frozenset(b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.')
SMTP, SMTPS, LMTP = b'smtp', b'smtps', b'lmtp'
PORTS = {SMTP: PORT, SMTPS: 465, LMTP: 24}
HOPS = 10           # of one entry
PATH = 107          # bytes of the name of a Unix socket
AS_DNS_SAYS = b'as DNS says'


class Hop:
    """One place to send to.  kind: SMTP, SMTPS or LMTP.  host, port: or path, of a Unix socket.  login: a user's name
    or b''.  relay: an administrator named it."""

    __slots__ = ('kind', 'host', 'port', 'path', 'login', 'relay')

    def __init__(self, kind, host, port, path=b'', login=b'', relay=True):
        self.kind, self.host, self.port, self.path, self.login, self.relay = kind, host, port, path, login, relay

    def __eq__(self, other):
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    @property
    def place(self):
        """What is remembered of it: a filter may listen beside a server."""
        return b'%s:%d' % (self.host, self.port)

    @property
    def account(self):
        """The key in control/smtplogins."""
        return text.lower(b'%s@%s' % (self.login, self.host))


def find_sender(sender, table):
    """The (key, value) of control/senderroutes that decides about this envelope sender, or None."""
    if not table:
        return None
    sender = text.lower(sender)
    for key in (sender, sender[sender.rfind(b'@'):] if b'@' in sender else b''):
        if key in table:
            return key, table[key]
    return None


def explained(sender, domain, senders, routes):
    """(can it be used, in words: where mail goes on to, and why).  senders, routes: {key: (value, line)} of
    control/senderroutes and smtproutes."""
    file, found = b'senderroutes', find_sender(sender, senders)
    if found is None:
        file, found = b'smtproutes', find(domain, routes)
    if found is None:
        return True, AS_DNS_SAYS
    key, (value, line) = found
    entry = b'control/%s line %d, %s' % (file, line, key or b'the empty key')
    try:
        hops = parse(value)
    except ValueError as problem:
        return False, entry + b' cannot be used: ' + str(problem).encode()
    return True, entry + (b': by ' + b' '.join(value.split()) if hops else b': ' + AS_DNS_SAYS)


def parse(value):
    """[Hop] of an entry's value, [] for `as DNS says`; ValueError with a reason for people."""
    words = value.replace(b'\t', b' ').split(b' ')
    hops = [parse_hop(word) for word in words if word]
    if len(hops) > HOPS:
        raise ValueError('more than %d places to try' % HOPS)
    return hops


def parse_hop(word):
    """The Hop of [kind=][login@]place; ValueError."""
    kind, equals, rest = word.partition(b'=')
    if not equals:
        kind, rest = SMTP, word
    if kind not in PORTS:
        raise ValueError('what stands before = is smtp, smtps or lmtp')
    if rest[:1] == b'/':
        if kind != LMTP or len(rest) > PATH:
            raise ValueError('only lmtp= goes to a Unix socket, whose path has at most %d bytes' % PATH)
        return Hop(kind, b'localhost', 0, rest)
    login, at, place = rest.rpartition(b'@')
    if at and not login or kind == LMTP and login:
        raise ValueError('not a user before the @' if at and not login else 'no login by lmtp')
    host, port = parse_place(place, PORTS[kind])
    return Hop(kind, host, port, b'', login)


def parse_place(place, usual):
    """(host, port) of `host`, `host:port`, `[v6]`, `[v6]:port`; ValueError."""
    if place[:1] == b'[':
        relay, bracket, rest = place[1:].partition(b']')
        if not bracket or ip.pack(relay) is None:
            raise ValueError('not an address in brackets')
        colon, port = rest[:1], rest[1:]
    else:
        relay, colon, port = place.partition(b':')
        if not relay or not HOST_BYTES.issuperset(relay) or b'..' in relay or relay[:1] == b'.' or len(relay) > 253:
            raise ValueError('not a host name')
    if not colon:
        return relay, usual
    number = text.parse_uint(port, 65535) if colon == b':' else None
    if not number:
        raise ValueError('not a port number between 1 and 65535')
    return relay, number


REMEDY = b'; write host, host:port or [IPv6]:port'


def faults(table):
    """[(key, reason)] of the entries that nobody could use: for the check at start."""
    return bydomain.faults(table, parse)


def ports(tables):
    """Every TCP port that entries of these tables name."""
    return {hop.port for table in tables for value in table.values() for hop in parse(value) if not hop.path}
