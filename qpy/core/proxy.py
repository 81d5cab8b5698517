"""Who the client really is, as somebody before us says: the PROXY protocol, versions 1 and 2, and Postfix's XCLIENT.

    take(held, more) -> (how many bytes of more belong to the header, None or what it says)
    PROXY TCP4 192.0.2.7 192.0.2.1 56324 25 CR LF           a Told of both addresses
    PROXY UNKNOWN ... CR LF, version 2 with LOCAL           a Told without any: the proxy itself
    parse_xclient(argument) -> {ATTRIBUTE: value}

ValueError for what is neither.  https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt,
https://www.postfix.org/XCLIENT_README.html
"""
from qpy.core import address as addresses, text

FIRST_LINE = b'PROXY '
LINE_MAX = 107              # bytes of version 1 with its CR LF
SIGNATURE = b'\r\n\r\n\0\r\nQUIT\n'
FIXED = 16                  # bytes of version 2 before what its length counts
LENGTH_MAX = 4096           # of that: addresses, and what we do not look at
LOCAL, PROXY = 0x20, 0x21   # version and command
FAMILIES = {0x11: 4, 0x21: 16}      # TCP over IPv4, IPv6: bytes of an address
ATTRIBUTES = (b'NAME', b'ADDR', b'PORT', b'PROTO', b'HELO', b'LOGIN', b'DESTADDR', b'DESTPORT', b'REVERSE_NAME')
NOTHING = (b'[UNAVAILABLE]', b'[TEMPUNAVAIL]')
VALUE_MAX = 255


class Told:
    """ip, local_ip: text, b'' if nothing is told."""

    __slots__ = ('ip', 'local_ip')

    def __init__(self, ip=b'', local_ip=b''):
        self.ip, self.local_ip = ip, local_ip


def take(held, more):
    """See above; held: bytes of the header that were taken before."""
    data = held + more
    if SIGNATURE.startswith(data[:12]):
        return take_binary(held, data)
    if not FIRST_LINE.startswith(data[:6]):
        raise ValueError('no PROXY header')
    end = data.find(b'\r\n')
    if end < 0 and len(data) >= LINE_MAX or end > LINE_MAX - 2:
        raise ValueError('a PROXY header without end')
    return (len(more), None) if end < 0 else (end + 2 - len(held), parse_line(data[:end]))


def take_binary(held, data):
    """Version 2."""
    if len(data) < FIXED:
        return len(data) - len(held), None
    length = int.from_bytes(data[14:16], 'big')
    if length > LENGTH_MAX:
        raise ValueError('a PROXY header that is too long')
    end = min(len(data), FIXED + length)
    return end - len(held), parse_binary(data[:end]) if end == FIXED + length else None


def parse_line(line):
    """The Told of version 1."""
    words = line.split(b' ')
    if words[1:2] == [b'UNKNOWN']:
        return Told()
    if len(words) != 6 or words[1] not in (b'TCP4', b'TCP6'):
        raise ValueError('a PROXY header that is malformed')
    parse = addresses.parse_ipv4 if words[1] == b'TCP4' else addresses.parse_ipv6
    ports = [text.parse_uint(word, 65535) for word in words[4:]]
    if None in ports or parse(words[2]) is None or parse(words[3]) is None:
        raise ValueError('a PROXY header with addresses that are none')
    return Told(addresses.normal_ip(text.lower(words[2])), addresses.normal_ip(text.lower(words[3])))


def parse_binary(data):
    """The Told of version 2."""
    if data[12] == LOCAL:
        return Told()
    size = FAMILIES.get(data[13])
    if data[12] != PROXY or data[13] and size is None:
        raise ValueError('a PROXY header of a kind that is not known here')
    if size is None:
        return Told()
    if len(data) < FIXED + 2 * size + 4:
        raise ValueError('a PROXY header that is too short')
    return Told(*(written(data[at:at + size]) for at in (FIXED, FIXED + size)))


def written(packed):
    """An address as text."""
    if len(packed) == 4:
        return b'.'.join(b'%d' % byte for byte in packed)
    groups = [b'%x' % int.from_bytes(packed[at:at + 2], 'big') for at in range(0, 16, 2)]
    if packed[:10] == bytes(10) and packed[10:12] == b'\xff\xff':
        return written(packed[12:])
    longest, begin = max(((run(groups, at), -at) for at in range(8)), default=(0, 0))
    if longest < 2:
        return b':'.join(groups)
    return b':'.join(groups[:-begin]) + b'::' + b':'.join(groups[-begin + longest:])


def run(groups, at):
    """How many zeros follow each other from here."""
    count = 0
    while at + count < len(groups) and groups[at + count] == b'0':
        count += 1
    return count


# --- XCLIENT -----------------------------------------------------------------------------------------------------

def parse_xclient(argument):
    """{ATTRIBUTE: value}, a value b'' where it cannot be told."""
    found = {}
    for word in argument.split(b' '):
        name, mark, value = word.partition(b'=')
        name = name.upper()
        if name not in ATTRIBUTES or not mark or name in found or len(value) > VALUE_MAX:
            raise ValueError('write XCLIENT attribute=value')
        found[name] = b'' if value.upper() in NOTHING else decoded(value)
    for name in (b'ADDR', b'DESTADDR'):
        if found.get(name):
            found[name] = xclient_ip(found[name])
    return found


def decoded(value):
    """xtext: +HH is a byte."""
    first, *rest = value.split(b'+')
    out = bytearray(first)
    for part in rest:
        if part[:2].strip(b'0123456789ABCDEFabcdef') or len(part) < 2:
            raise ValueError('not xtext')
        out += bytes((int(part[:2], 16),)) + part[2:]
    if {0, 10, 13} & set(out):
        raise ValueError('a line end in a value')
    return bytes(out)


def xclient_ip(value):
    """An address as we write it."""
    if value[:5].upper() == b'IPV6:':
        value = value[5:]
    if addresses.parse_ipv4(value) is None and addresses.parse_ipv6(value) is None:
        raise ValueError('not an address')
    return addresses.normal_ip(text.lower(value))
