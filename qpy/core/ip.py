"""Internet addresses as bytes: text to packed form and what their ranges mean.  Pure, and strict.

Packed: 4 bytes for IPv4, 16 for IPv6; an IPv4-mapped IPv6 address (::ffff:192.0.2.1) is the IPv4 one.
"""
from qpy.core import address

_MAPPED = bytes(10) + b'\xff\xff'


def pack(text):
    """The packed form of an IPv4 or IPv6 address, or None."""
    packed = address.parse_ipv6(text) if b':' in text else address.parse_ipv4(text)
    return packed[12:] if packed is not None and packed.startswith(_MAPPED) else packed


def literal(host):
    """The address text that host stands for without DNS, or None.

    192.0.2.1   [192.0.2.1]   [IPv6:2001:db8::1]   [2001:db8::1]     (RFC 5321, section 4.1.3, and qmail's
    bare quad)
    """
    inner = host
    if host[:1] == b'[' and host[-1:] == b']':
        inner = host[1:-1]
        if inner[:5].lower() == b'ipv6:':
            return inner[5:] if address.parse_ipv6(inner[5:]) is not None else None
        return inner if pack(inner) is not None else None
    return inner if address.parse_ipv4(inner) is not None else None


def backwards(packed):
    """The labels under which DNS knows an address: the bytes of IPv4, the digits of IPv6, the last one first (RFC 1035,
    3.5; RFC 3596, 2.5)."""
    if len(packed) == 4:
        return b'.'.join(b'%d' % byte for byte in reversed(packed))
    return b'.'.join(b'%c' % digit for digit in reversed(packed.hex().encode()))


def reverse_name(packed):
    """The name whose PTR records are the names of an address."""
    return backwards(packed) + (b'.in-addr.arpa' if len(packed) == 4 else b'.ip6.arpa')


def is_this_host(packed):
    """True for what no route leads away from here: 0/8, 127/8, ::, ::1."""
    if len(packed) == 4:
        return packed[0] in (0, 127)
    return packed in (bytes(16), bytes(15) + b'\1')
