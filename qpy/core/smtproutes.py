"""control/smtproutes: where mail for a host goes instead of where DNS says.

    example.org:relay.example.net            mail for example.org goes to relay.example.net, port 25, no MX
    looked up
    .example.org:relay.example.net:2525      ... for every host below example.org, to port 2525
    :[2001:db8::1]:587                       ... everything else; an IPv6 address stands in brackets
    example.com:                             ... but example.com as DNS says

First the host itself is looked up, then each of its endings that begins with a dot, longest first, then the
empty key; the first one found decides.
"""
from qpy.core import ip, text

PORT = 25
HOST_BYTES = frozenset(b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.')


def find(host, table):
    """The (key, value) of table ({lower-case key: value}) that decides about host, or None."""
    host = text.lower(host)
    if host in table:
        return host, table[host]
    at = host.find(b'.', 1) if not host.startswith(b'[') else -1
    while at >= 0:
        if host[at:] in table:
            return host[at:], table[host[at:]]
        at = host.find(b'.', at + 1)
    return (b'', table[b'']) if b'' in table else None


def route(host, table):
    """(relay, port) that mail for host goes to, or None: ask DNS.  ValueError if the entry cannot be
    understood."""
    found = find(host, table)
    if found is None or not found[1]:
        return None
    return parse(found[1])


def parse(value):
    """(relay, port) of `relay`, `relay:port`, `[v6]`, `[v6]:port`; ValueError with a reason for people
    otherwise."""
    if value[:1] == b'[':
        relay, bracket, rest = value[1:].partition(b']')
        if not bracket or ip.pack(relay) is None:
            raise ValueError('not an address in brackets')
        colon, port = rest[:1], rest[1:]
    else:
        relay, colon, port = value.partition(b':')
        if not relay or not HOST_BYTES.issuperset(relay) or b'..' in relay:
            raise ValueError('not a host name')
    if not colon:
        return relay, PORT
    number = text.parse_uint(port, 65535) if colon == b':' else None
    if not number:
        raise ValueError('not a port number between 1 and 65535')
    return relay, number


def faults(table):
    """[(key, reason)] of the entries that nobody could use: for the check at start."""
    found = []
    for key, value in sorted(table.items()):
        try:
            if value:
                parse(value)
        except ValueError as problem:
            found.append((key, str(problem).encode()))
    return found
