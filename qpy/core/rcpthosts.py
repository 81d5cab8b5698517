"""Is this a domain that mail is accepted for?

    rcpthosts           exact domains, and `.domain` for everything below domain
    morercpthosts.cdb   the same, asked after rcpthosts and only if rcpthosts exists

Without rcpthosts: the domains of locals, and the domains and addresses of virtualdomains. Never every domain.
user%host@domain, where domain is in percenthack, goes on to host: so host must be accepted, too.
"""
from qpy.core import text


class Rcpthosts:
    """The accepted domains. hosts: lower-case entries of rcpthosts, None if there is no such file.

    more: Cdb or None; local: lower-case domains of locals; virtual: the mapping of virtualdomains; hack: lower-case
    domains of percenthack."""

    __slots__ = ('hosts', 'more', 'local', 'virtual', 'hack')

    def __init__(self, hosts, more=None, local=(), virtual=None, hack=()):
        self.hosts, self.more, self.local, self.virtual, self.hack = hosts, more, local, virtual or {}, hack

    def accepts(self, address: bytes) -> bytes:
        """Why mail for this canonical address is accepted, b'' if it is not. CdbError: not known now."""
        why = self.listed(address)
        while why and hacked(address, self.hack):
            address = b'@'.join(address.rpartition(b'@')[0].rpartition(b'%')[::2])
            why = self.listed(address)
        return why

    def listed(self, address):
        """The same for the domain behind the last @ alone."""
        _, at, domain = address.rpartition(b'@')
        if not at:
            return b'no domain'
        domain = text.lower(domain)
        if self.hosts is None:
            return self.own(text.lower(address), domain)
        if any(key in self.hosts for key in suffixes(domain)):
            return b'rcpthosts'
        if self.more is not None and any(self.more.get(key) is not None for key in suffixes(domain)):
            return b'morercpthosts'
        return b''

    def own(self, address, domain):
        """Without rcpthosts: is the domain, or the very address, one of ours?"""
        if domain in self.local:
            return b'locals'
        for key in [address, *suffixes(domain)]:
            if key in self.virtual:         # the first match counts; an empty value there means: not virtual
                return b'virtualdomains' if self.virtual[key] else b''
        return b''


def hacked(address: bytes, hack) -> bool:
    """Does the percent sign in this address stand for another @?"""
    local, _, domain = address.rpartition(b'@')
    return b'%' in local and text.lower(domain) in hack


def suffixes(domain: bytes) -> list:
    """The keys under which a domain may be listed: itself, then each `.suffix`, longest first."""
    keys = [domain]
    at = domain.find(b'.', 1)
    while at >= 0:
        keys.append(domain[at:])
        at = domain.find(b'.', at + 1)
    return keys
