"""Tables whose keys are domains: the order in which control files that say something of a host are searched.

    mx.example.org      mx.example.org, .example.org, .org, the empty key
"""
from qpy.core import text


def find(host, table):
    """The (key, value) of table ({lower-case key: value}) that decides about host, or None."""
    if not table:
        return None
    host = text.lower(host)
    if host in table:
        return host, table[host]
    at = host.find(b'.', 1) if not host.startswith(b'[') else -1
    while at >= 0:
        if host[at:] in table:
            return host[at:], table[host[at:]]
        at = host.find(b'.', at + 1)
    return (b'', table[b'']) if b'' in table else None


def faults(table, parse):
    """[(key, reason)] of the entries whose value parse() refuses by ValueError."""
    found = []
    for key, value in sorted(table.items()):
        try:
            parse(value)
        except ValueError as problem:
            found.append((key, str(problem).encode()))
    return found
