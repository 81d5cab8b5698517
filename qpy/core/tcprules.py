"""Rules by client address: the text that tcprules compiles, and the cdb it makes of it.

    127.:allow,RELAYCLIENT=""               first match by: user@ip, ip, user@=host, =host,
    192.0.2.1-9:deny                        then shorter and shorter prefixes of the ip ("192.0.2.", "192."),
    10.20.0.0/15:allow,DATABYTES="1000000"  then "=.example.com", "=.com", "=", and last the empty address
    [2001:db8::]/32:deny
    =.example.com:allow                     a range stands for each of its numbers; /bits and [IPv6] are ours
    tls=mx.example.org:allow,RELAYCLIENT="" a client whose certificate is for that name, or has that SHA-256: ours
    :allow                                  the character after VAR= is the quote; # begins a comment line

Of two lines with one address the first counts. No match: allowed, nothing set.
"""
from qpy.core import address, cdb, text

MOST_RANGE = 65536      # addresses that one file's ranges may stand for
ALLOW, DENY = b'allow', b'deny'
NOTHING = (True, ())


class RulesError(ValueError):
    """A rule that cannot be read: line number, the line, remedy."""

    def __init__(self, number, line, remedy):
        ValueError.__init__(self, number, line, remedy)
        self.number, self.line, self.remedy = number, line, remedy


class Rules:
    """Rules from text. names: {address as written: verdict}; nets: {(bytes of address, bits): verdict}.

    A verdict is (allowed, ((name, value), ...))."""

    __slots__ = ('names', 'nets', 'sizes')

    def __init__(self, names=None, nets=None):
        self.names, self.nets = names or {}, nets or {}
        self.sizes = sorted({(len(net), bits) for net, bits in self.nets}, reverse=True)

    def verdict(self, ip: bytes, host: bytes = b'', info: bytes = b'') -> tuple:
        """(allowed, environment) for a client."""
        exact, hosts = keys(ip, host, info)
        for key in exact:
            if key in self.names:
                return self.names[key]
        packed = address.parse_ipv4(ip) or address.parse_ipv6(ip)
        if packed:
            for size, bits in self.sizes:
                found = self.nets.get((masked(packed, bits), bits)) if size == len(packed) else None
                if found:
                    return found
        for key in hosts:
            if key in self.names:
                return self.names[key]
        return NOTHING

    def named(self, key: bytes) -> 'tuple | None':
        """What stands for just this, None if nothing does."""
        return self.names.get(key)


class CdbRules:
    """Rules from the cdb that tcprules made. CdbError if it cannot be read."""

    __slots__ = ('data',)

    def __init__(self, data: cdb.Cdb):
        self.data = data

    def verdict(self, ip: bytes, host: bytes = b'', info: bytes = b'') -> tuple:
        """(allowed, environment) for a client."""
        exact, hosts = keys(ip, host, info)
        for key in [*exact, *prefixes(ip), *hosts]:
            found = self.data.get(key)
            if found is not None:
                return decoded(found)
        return NOTHING

    def named(self, key: bytes) -> 'tuple | None':
        """What stands for just this, None if nothing does."""
        found = self.data.get(key)
        return None if found is None else decoded(found)


def keys(ip, host, info):
    """(what is looked up before the prefixes of the ip, what after), in order."""
    exact = [info + b'@' + ip] if info else []
    exact.append(ip)
    hosts = []
    if host:
        exact += [info + b'@=' + host] if info else []
        exact.append(b'=' + host)
        at = host.find(b'.')
        while at >= 0:
            hosts.append(b'=' + host[at:])
            at = host.find(b'.', at + 1)
        hosts.append(b'=')
    return exact, hosts + [b'']


def prefixes(ip):
    """`1.2.3.`, `1.2.`, `1.` of 1.2.3.4; `2001:db8:`, `2001:` of 2001:db8:4."""
    mark = b':' if b':' in ip else b'.'
    found, at = [], ip.rfind(mark)
    while at >= 0:
        found.append(ip[:at + 1])
        at = ip.rfind(mark, 0, at)
    return found


def decoded(value):
    """A verdict from tcprules' data: `D`, or `+VAR=value NUL`, repeated."""
    allowed, env = True, []
    for item in value.split(b'\0'):
        while item[:1] == b'D':
            allowed, item = False, item[1:]
        if item[:1] == b'+':
            name, _, setting = item[1:].partition(b'=')
            env.append((name, setting))
    return allowed, tuple(env)


def values(rules, names):
    """Every value that the rules give to variables of these names."""
    if isinstance(rules, CdbRules):
        verdicts = [decoded(value) for _, value in rules.data.records()]
    else:
        verdicts = [*rules.names.values(), *rules.nets.values()]
    return {value for _, env in verdicts for name, value in env if name in names}


def masked(packed, bits):
    """The first `bits` bits of an address, the others 0."""
    spare = 8 * len(packed) - bits
    number = int.from_bytes(packed, 'big') >> spare << spare
    return number.to_bytes(len(packed), 'big')


# Reading the text.

def parse(data: bytes) -> Rules:
    """The rules of a text. Raises RulesError."""
    names, nets, budget = {}, {}, [MOST_RANGE]
    for number, line in enumerate(data.split(b'\n'), 1):
        line = line.rstrip(b' \t')
        if not line or line[:1] == b'#':
            continue
        try:
            where, verdict = parse_line(line)
            add(names, nets, where, verdict, budget)
        except ValueError as problem:
            raise RulesError(number, line, str(problem).encode()) from None
    return Rules(names, nets)


def parse_line(line):
    """(address, verdict) of one rule."""
    colon = line.partition(b',')[0].rfind(b':')         # an IPv6 address may stand without brackets
    if colon < 0:
        raise ValueError('write ADDRESS:allow or ADDRESS:deny')
    where, rest = line[:colon], line[colon + 1:]
    check(where)
    word, comma, settings = rest.partition(b',')
    if word not in (ALLOW, DENY):
        raise ValueError('after the colon, write allow or deny')
    return where, (word == ALLOW, tuple(parse_settings(settings)) if comma else ())


def check(where):
    """ValueError for an address that no client's can be equal to."""
    if b' ' in where or b'\t' in where:
        raise ValueError('a blank in the address')
    user, at, place = where.rpartition(b'@')
    if place[:1] == b'[' and b']' not in place:
        raise ValueError('a bracket that is not closed')
    if place[:1] in (b'', b'=', b'[') or not at and place[:4] == b'tls=' or place.count(b':') > 1:
        return
    if place.translate(None, b'0123456789.-/'):
        raise ValueError('write =NAME for the name of a client, and [ADDRESS] for an IPv6 address')
    if place[-1:] != b'.' and b'/' not in place and place.count(b'.') != 3:
        raise ValueError('write four numbers, or fewer and a dot at the end for all below them')


def parse_settings(rest):
    """[(name, value)] of `VAR="value",VAR2=/value/`."""
    found = []
    while True:
        name, equals, rest = rest.partition(b'=')
        end = rest.find(rest[:1], 1) if rest else -1
        if not name or not equals or end < 0:
            raise ValueError('after the comma, write NAME="value"')
        found.append((name, rest[1:end]))
        rest = rest[end + 1:]
        if not rest:
            return found
        if rest[:1] != b',':
            raise ValueError('after a value, write a comma or end the line')
        rest = rest[1:]


def add(names, nets, where, verdict, budget):
    """Enter one rule, unless its address has one already."""
    net = parse_net(where)
    if net:
        nets.setdefault(net, verdict)
        return
    for each in expanded(where, budget):
        net = dotted_net(each)
        if net:
            nets.setdefault(net, verdict)
        else:
            names.setdefault(each, verdict)


def parse_net(where):
    """(address bytes, bits) of `192.0.2.0/24`, `[2001:db8::]/32`, `[::1]`; None if it is none of these
    forms."""
    base, slash, length = where.partition(b'/')
    if where.count(b':') > 1 and where[-1:] == b':' and where[:1] != b'[':
        groups = where[:-1]
        if groups[-1:] in (b'', b':'):
            raise ValueError('write [2001:db8::] for one address, [2001:db8::]/64 for a net')
        base, slash, length = b'[%s::]' % groups, b'/', b'%d' % (16 * (groups.count(b':') + 1))
    elif base.count(b':') > 1 and base[:1] != b'[' and b'@' not in base:
        base = b'[%s]' % base
    if base[:1] == b'[' and base[-1:] == b']':
        packed = address.parse_ipv6(base[1:-1])
    elif slash and b'@' not in base and b'=' not in base:
        packed = address.parse_ipv4(base)
    else:
        return None
    bits = text.parse_uint(length, 8 * len(packed or b'')) if slash else 8 * len(packed or b'')
    if packed is None or bits is None:
        raise ValueError('not an address with a number of bits, as in 192.0.2.0/24 or [2001:db8::]/32')
    return masked(packed, bits), bits


def dotted_net(where):
    """(address bytes, bits) of the prefix `192.0.2.`; None if it is none."""
    parts = where.split(b'.')
    if not 1 < len(parts) < 5 or parts.pop() != b'':
        return None
    packed = address.parse_ipv4(b'.'.join(parts + [b'0'] * (4 - len(parts))))
    return (packed, 8 * len(parts)) if packed else None


def expanded(where, budget):
    """`1.2.3.4-6` as its three addresses; anything else as it is."""
    if where.count(b'.') == 3 and where[-1:] != b'.' and not where.translate(None, b'0123456789.') \
            and address.parse_ipv4(where) is None:
        raise ValueError('not an address: four numbers up to 255')
    if b'-' not in where or where.translate(None, b'0123456789.-'):
        return [where]
    parts = where.split(b'.')
    if [part.count(b'-') for part in parts].count(0) != len(parts) - 1:
        raise ValueError('one range to an address')
    at = next(n for n, part in enumerate(parts) if b'-' in part)
    low, _, high = parts[at].partition(b'-')
    low, high = text.parse_uint(low, 255), text.parse_uint(high, 255)
    if low is None or high is None or low > high:
        raise ValueError('a range goes from a smaller to a larger number, up to 255')
    budget[0] -= high - low + 1
    if budget[0] < 0:
        raise ValueError('too many ranges')
    return [b'.'.join([*parts[:at], b'%d' % n, *parts[at + 1:]]) for n in range(low, high + 1)]
