"""Which addresses to try for a host, in which order: RFC 5321, section 5.1.

An answer is (preference, host name, address text), one per address.
Own addresses are packed bytes (core.ip).
"""
from qpy.core import address as addresses, ip, text

ADDRESSES = 20      # tried at most for one delivery
LINES = 200         # of one answer, looked at most

SELF, NONE = b'self', b'none'


def parse_answers(lines):
    """[(preference, host, address)] of the lines b'PREF HOST ADDR' or b'PREF HOST ADDR END' in an answer of qpy-resolve,
    and {host: END} of the latter: hosts whose addresses were validated, and what they are aliases of, or themselves.

    ValueError for a line that is none: an answer we do not understand is no answer.
    """
    answers, ends = [], {}
    for line in lines.split(b'\n')[:LINES] if lines else ():
        fields = line.split(b' ')
        preference = text.parse_uint(fields[0], 65535)
        if len(fields) not in (3, 4) or preference is None or ip.pack(fields[2]) is None:
            raise ValueError('bad line in an answer')
        answers.append((preference, fields[1], fields[2]))
        ends.update(zip(fields[1:2], fields[3:]))
    return answers, ends


def is_own(address, own):
    """True if mail sent to this address (text) would come back to this host."""
    packed = ip.pack(address)
    return packed is None or packed in own or ip.is_this_host(packed)


def plan(answers, own, random):
    """[(preference, host, address)] in the order to try them, or SELF, or NONE.

    own: set of packed addresses of this host, None if it does not matter.  Only what is better than the best
    of our own is tried, so that mail cannot go round in circles; SELF if nothing is, NONE if there was no
    address at all.
    random(): float in [0, 1).  Hosts of equal preference are shuffled, and so are the addresses of one host; those of
    IPv6 and IPv4 alternate, so that the loss of one of the two costs one attempt (RFC 8305, section 4).
    """
    if not answers:
        return NONE
    limit = None
    if own is not None:
        limit = min((p for p, _, address in answers if is_own(address, own)), default=None)
    hosts = {}
    for preference, host, address in answers:
        if limit is None or preference < limit:
            hosts.setdefault((preference, host), []).append(address)
    if len(answers) == 1 and hosts:
        return answers                  # nothing to shuffle
    order = sorted(hosts, key=lambda key: (key[0], random()))
    found = [(preference, host, address) for preference, host in order
             for address in alternating(sorted(sorted(set(hosts[preference, host])), key=lambda _: random()))]
    return found[:ADDRESSES] or SELF


def alternating(addresses_):
    """The addresses of one host, IPv6 and IPv4 in turn; the family of the first one begins."""
    first = [address for address in addresses_ if (b':' in address) == (b':' in addresses_[0])]
    others = [address for address in addresses_ if address not in first]
    mixed = [address for pair in zip(first, others) for address in pair]
    return mixed + first[len(others):] + others[len(first):]


# --- our own addresses --------------------------------------------------------------------------------------

def from_fib_trie(data):
    """The packed IPv4 addresses of this host, from the text of /proc/net/fib_trie."""
    own, last = set(), None
    for line in data.split(b'\n'):
        words = line.split()
        if len(words) == 2 and words[0] == b'|--':
            last = addresses.parse_ipv4(words[1])
        elif words[:1] == [b'/32'] and words[1:] == [b'host', b'LOCAL'] and last is not None:
            own.add(last)
    return own


def from_if_inet6(data):
    """The packed IPv6 addresses of this host, from the text of /proc/net/if_inet6."""
    own = set()
    for line in data.split(b'\n'):
        word = line.partition(b' ')[0]
        if len(word) == 32 and not word.strip(b'0123456789abcdef'):
            own.add(bytes.fromhex(word.decode('ascii')))
    return own
