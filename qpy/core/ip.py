"""Internet addresses as bytes: text to packed form and what their ranges mean.  Pure, and strict.

Packed: 4 bytes for IPv4, 16 for IPv6; an IPv4-mapped IPv6 address (::ffff:192.0.2.1) is the IPv4 one.
"""

_MAPPED = bytes(10) + b'\xff\xff'
HEX = frozenset(b'0123456789abcdefABCDEF')


def pack4(text):
    """The 4 bytes of a dotted quad (four decimal numbers without leading zeros), or None."""
    parts = text.split(b'.')
    if len(parts) != 4:
        return None
    for part in parts:
        if not 1 <= len(part) <= 3 or part.strip(b'0123456789') or part[:1] == b'0' != part or int(part) > 255:
            return None
    return bytes(int(part) for part in parts)


def pack6(text):
    """The 16 bytes of an IPv6 address in any form of RFC 4291, section 2.2 (no zone), or None."""
    head, double, tail = text.partition(b'::')
    left = _groups(head, not double)
    right = _groups(tail, True) if double else b''
    if left is None or right is None:
        return None
    missing = 16 - len(left) - len(right)
    if (missing < 2) if double else missing:
        return None
    return left + bytes(missing) + right


def _groups(text, last):
    """The bytes of colon-separated groups; a dotted quad may stand at the end if these are the last ones."""
    if not text:
        return b''
    packed = b''
    parts = text.split(b':')
    for i, part in enumerate(parts):
        if b'.' in part and last and i == len(parts) - 1:
            quad = pack4(part)
            if quad is None:
                return None
            packed += quad
        elif 1 <= len(part) <= 4 and HEX.issuperset(part):
            packed += int(part, 16).to_bytes(2, 'big')
        else:
            return None
    return packed if len(packed) <= 16 else None


def pack(text):
    """The packed form of an IPv4 or IPv6 address, or None."""
    packed = pack6(text) if b':' in text else pack4(text)
    return packed[12:] if packed is not None and packed.startswith(_MAPPED) else packed


def literal(host):
    """The address text that host stands for without DNS, or None.

    192.0.2.1   [192.0.2.1]   [IPv6:2001:db8::1]   [2001:db8::1]     (RFC 5321, section 4.1.3, and qmail's bare quad)
    """
    inner = host
    if host[:1] == b'[' and host[-1:] == b']':
        inner = host[1:-1]
        if inner[:5].lower() == b'ipv6:':
            return inner[5:] if pack6(inner[5:]) is not None else None
        return inner if pack(inner) is not None else None
    return inner if pack4(inner) is not None else None


def is_this_host(packed):
    """True for what no route leads away from here: 0/8, 127/8, ::, ::1."""
    if len(packed) == 4:
        return packed[0] in (0, 127)
    return packed in (bytes(16), bytes(15) + b'\1')
