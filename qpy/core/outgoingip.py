"""control/outgoingip: which of this host's addresses mail leaves from.

    192.0.2.1                   what goes out by IPv4 leaves from 192.0.2.1
    2001:db8::1                 ... by IPv6 from 2001:db8::1
    example.org:192.0.2.2       mail to example.org; .example.org for every host below it
    @example.net:192.0.2.3      mail whose envelope sender is in example.net
    joe@example.net:192.0.2.4   ... is joe@example.net
    example.com:0.0.0.0         mail to example.com by IPv4 as the system chooses after all

Looked for in this order: the sender's address, @ and his domain, the recipients' domain, its endings that begin with a
dot, longest first, and the lines without a colon; for IPv4 and IPv6 apart, so a line of one kind leaves the other
kind to the next.
"""
from qpy.core import ip, smtproutes, text

V4, V6 = 4, 16                                  # lengths of packed addresses: the two kinds
ANY = (bytes(V4), bytes(V6))                    # as the system chooses
REMEDY = b'write ADDRESS, domain:ADDRESS or @sender.domain:ADDRESS, with an IPv4 or IPv6 address of this host'


def parse(line: bytes) -> tuple:
    """(lower-case key, kind, address text) of one line; ValueError."""
    key, address = (b'', line) if ip.pack(bare(line)) is not None else partition(line)
    packed = ip.pack(bare(address))
    if packed is None or is_mapped(bare(address), packed):
        raise ValueError('not an address')
    return text.lower(key), len(packed), bare(address)


def partition(line: bytes) -> tuple:
    """(key, address) at the first colon."""
    key, colon, address = line.partition(b':')
    if not colon or b'@' not in key and not smtproutes.HOST_BYTES.issuperset(key):
        raise ValueError('not an address, and no key before a colon')
    return key, address


def is_mapped(address: bytes, packed: bytes) -> bool:
    """Whether this is an IPv4 address written as an IPv6 one: a socket of neither kind can use it beside others."""
    return b':' in address and len(packed) == V4


def bare(address: bytes) -> bytes:
    """The address without the brackets it may stand in."""
    return address[1:-1] if address[:1] == b'[' and address[-1:] == b']' else address


def table(lines: list) -> dict:
    """{kind: {key: address text}} of good lines; the last one of a key counts."""
    found = {V4: {}, V6: {}}
    for key, kind, address in map(parse, lines):
        found[kind][key] = address
    return found


def choose(sources: dict, sender: bytes, host: bytes, destination: bytes) -> bytes:
    """The address of ours to leave from, on the way to `host` at this address; b'' where the system chooses.

    Nothing leaves for this host itself from an address of another network: who listens on 127.0.0.1 knows his clients
    by theirs."""
    addresses = sources.get(V6 if b':' in destination else V4)
    packed = ip.pack(destination) if addresses else None
    if packed is None or is_mapped(destination, packed):
        return b''
    found = (b'@' in sender and smtproutes.find_sender(sender, addresses)) or smtproutes.find(host, addresses)
    source = ip.pack(found[1]) if found else ANY[0]
    if source in ANY or ip.is_this_host(packed) and not ip.is_this_host(source):
        return b''
    return found[1]
