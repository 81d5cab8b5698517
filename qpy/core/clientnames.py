"""What a client calls itself in HELO, and what DNS calls it.  Pure.

    control/helorules:  valid       a full host name, or an address in brackets (RFC 5321, 4.1.1.1)
                        notours     not a name of this host, nor its address
                        resolves    the name has an address or a mail exchanger in DNS
"""
from qpy.core import address, ip, text

RULES = (b'valid', b'notours', b'resolves')
NAMES_MOST = 5          # names of one address that are looked up


def fault_of_helo(helo, rules, own):
    """What is wrong with the argument of HELO, in words for the peer; b'' if nothing is.

    own: lower-case names of this host."""
    if not rules:
        return b''
    name = text.lower(helo)
    if b'valid' in rules and not valid_helo(name):
        return b'your HELO is no full host name and no address in brackets'
    if b'notours' in rules and (name in own or name.strip(b'[]') in own):
        return b'your HELO is a name of this host, not yours'
    return b''


def valid_helo(name):
    """A host name with a dot, or a literal in brackets."""
    if name[:1] == b'[':
        return name[-1:] == b']' and ip.literal(name) is not None
    return b'.' in name and address.valid_domain(name) and ip.literal(name) is None
