"""How a connection to another host must be protected: control/tlsdestinations, the remembered level, RFC 8689.

    example.org:none                    never TLS
    example.org:may                     TLS if it can be had, else in the clear
    example.org:encrypt                 TLS, whoever holds the other end, unless its TLSA records or MTA-STS policy say who
                                        that must be; else the mail waits
    example.org:verify                  ... and the certificate must be signed by an authority that is trusted, for the
                                        name of the server
    example.org:verify .example.net     ... and the server must be a host below example.net
    example.org:verify mx.example.net   ... for the name mx.example.net, whatever the server is called
    example.org:dane                    TLS, and DNS must say by TLSA records, validated, which certificate it is
    .example.org:may                    every host below example.org
    :encrypt                            everything else

The key is the relay's name where control/smtproutes names one, else the domain of the recipients.  Without an entry it
is `may`, for a relay that is logged in to `verify`; but for servers that have TLSA records they count as with `dane`;
and who spoke TLS within the last day is not spoken to without (`Memory`).
"""
from qpy.core import bydomain, mta_sts, smtproutes, text

NONE, MAY, ENCRYPT, VERIFY, DANE = b'none', b'may', b'encrypt', b'verify', b'dane'
LEVELS = (NONE, MAY, ENCRYPT, VERIFY, DANE)
REMEMBERED = b'it spoke TLS lately'
REQUIRED = b'the sender requires it (REQUIRETLS)'
LOGIN = b'there is a password to protect'
IMPLICIT = b'control/smtproutes says smtps'
RECORDS = b'its TLSA records ask for it'
STS = b'its MTA-STS policy asks for it'
ENTRY = b'control/tlsdestinations asks for it'


class Policy:
    """level: of LEVELS.  name: b'' the server's own; .suffix what it must be below; another: for that name.
    why: what asks for more than `may`, in words.  ask: whether TLSA records of the server would count.  records: those
    it has (core.dane), for the level DANE."""

    __slots__ = ('level', 'name', 'why', 'ask', 'records')

    def __init__(self, level, name=b'', why=b'', ask=False, records=()):
        self.level, self.name, self.why, self.ask, self.records = level, name, why, ask or level == DANE, records

    @property
    def must(self):
        """Whether mail waits where there is no TLS."""
        return self.level not in (NONE, MAY)

    def reference(self, server):
        """The name the certificate of this server must be valid for; None if the server must not be used.

        server: its host name or address.  Where nothing is verified, the name it is asked for by SNI."""
        if self.name[:1] == b'.':
            return server if text.lower(server).endswith(self.name) else None
        return self.name or server


OPPORTUNISTIC = Policy(MAY, ask=True)
WITHOUT_RECORDS = Policy(MAY)
CLEAR = Policy(NONE)


def parse(value):
    """The Policy of an entry's value; ValueError with a reason for people."""
    level, _, name = value.strip(b' \t').partition(b' ')
    name = text.lower(name.strip(b' \t'))
    if level not in LEVELS:
        raise ValueError('write none, may, encrypt, dane or verify, and after verify perhaps a host name or .domain')
    if name and (level != VERIFY or not smtproutes.HOST_BYTES.issuperset(name) or b'..' in name or name == b'.'):
        raise ValueError('only after verify, and one host name or .domain')
    return Policy(level, name, ENTRY, ask=level == ENCRYPT)


def faults(table):
    """[(key, reason)] of the entries that nobody could use."""
    return bydomain.faults(table, parse)


def decide(host, table, login, remembered, required, waived):
    """The Policy for a connection to host (a relay's name, else the recipients' domain).

    login: a password will be sent.  remembered: it spoke TLS lately.  required: REQUIRETLS (RFC 8689, 4.2.1).
    waived: the message says `TLS-Required: no` (RFC 8689, section 5): what the administrator wrote stays, and no more."""
    found = smtproutes.find(host, table)
    policy = parse(found[1]) if found else Policy(VERIFY, b'', LOGIN) if login else OPPORTUNISTIC
    if required:
        return policy if policy.level in (VERIFY, DANE) else Policy(VERIFY, b'', REQUIRED, ask=True)
    if found is not None or policy.must:
        return Policy(policy.level, policy.name, policy.why) if waived else policy
    if waived:
        return WITHOUT_RECORDS
    return Policy(ENCRYPT, b'', REMEMBERED, ask=True) if remembered else policy


def with_records(policy, usable, there, name=b''):
    """The policy for a server that has TLSA records (there), some of them usable: RFC 7672, 2.2; or None if it must not
    be used.  Without usable ones TLS is all that can be asked for.  name: where the records stand."""
    if usable:
        return Policy(DANE, name, policy.why or RECORDS, records=usable)
    if policy.level == DANE:
        return None
    if there and not policy.must:
        return Policy(ENCRYPT, b'', RECORDS)
    return policy


def is_waived(head):
    """Whether the header (the first bytes of a message, lines ended by LF) says `TLS-Required: no`."""
    header = head.partition(b'\n\n')[0] if not head.startswith(b'\n') else b''
    lowered = b'\n' + text.lower(header) + b'\n'
    at = lowered.find(b'\ntls-required:')
    return at >= 0 and lowered[at + 14:lowered.find(b'\n', at + 14)].strip(b' \t\r') == b'no'


def with_sts(policy, patterns, server):
    """The policy for a server whose domain has an MTA-STS policy to be enforced; None if it must not be used (RFC 8461,
    4.1, 4.2)."""
    return Policy(VERIFY, b'', STS) if mta_sts.allows(patterns, server) else None


class Memory:
    """The domains that spoke TLS lately, bounded.

    Whoever can strip STARTTLS from a conversation makes mail to a new domain go in the clear; but not to one that is
    known, for a day: until then the mail waits and the log says why.  After that day the domain is believed, because a
    server that gave up TLS must not lose its mail.  It lives in memory: qpy-remote may write no file, and rspawn gives
    a domain to the same process always; what a restart forgets is learned by the next delivery.
    """

    MOST = 10000        # domains
    LASTS = 86400       # seconds, of the clock that never jumps

    __slots__ = ('seen',)

    def __init__(self):
        self.seen = {}      # domain: when; the oldest first

    def saw(self, domain, now):
        """domain took mail by TLS."""
        domain = text.lower(domain)
        self.seen.pop(domain, None)
        if len(self.seen) >= self.MOST:
            del self.seen[next(iter(self.seen))]
        self.seen[domain] = now

    def knows(self, domain, now):
        """Whether domain is not to be spoken to without TLS."""
        when = self.seen.get(text.lower(domain))
        return when is not None and now - when < self.LASTS
