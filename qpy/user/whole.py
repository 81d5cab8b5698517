"""Whole addresses, once each: what /etc/aliases and .forward mean by ann@lab, as inject completes it, and who is one person.

    ann@lab     ann@lab.DOMAIN, DOMAIN of control/defaultdomain, unless lab is in control/locals
    ann@lab+    ann@lab.DOMAIN, DOMAIN of control/plusdomain
    Ann         ann@HOST, HOST of control/envnoathost: named twice, she gets one copy
"""
from qpy.core import dotqmail, text
from qpy.lib import controls


def completed(home, found):
    """The instructions [(kind, argument)] with whole addresses, without those that say what one before them says.
    controls.Broken."""
    site, kept = Site(home), {}
    for kind, word in found:
        if kind is dotqmail.FORWARD:
            word = site.address(word)
            kept.setdefault((kind, site.person(word)), (kind, word))
        else:
            kept.setdefault((kind, word), (kind, word))
    return list(kept.values())


class Site:
    """The control files that this needs, each read once, when it is."""

    __slots__ = ('home', 'known')

    def __init__(self, home):
        self.home, self.known = home, {}

    def of(self, read, name):
        """What read(home, name) gives."""
        if name not in self.known:
            self.known[name] = read(self.home, name)
        return self.known[name]

    def is_local(self, host):
        """Is it in control/locals, where all hosts have the same users?"""
        return text.lower(host) in (self.of(controls.lookup, b'locals') or ())

    def address(self, word):
        """One address."""
        _, at, host = word.rpartition(b'@')
        if not at or not host or b'.' in host or host[-1:] == b']':
            return word
        if host[-1:] == b'+':
            return word[:-1] + b'.' + self.of(controls.line, b'plusdomain')
        if text.lower(host) == b'localhost' or self.is_local(host):
            return word
        domain = self.of(controls.line, b'defaultdomain')
        return word + b'.' + domain if domain else word

    def person(self, address):
        """The same for all spellings of an address: case counts in front of a foreign host only (RFC 5321 section 2.4)."""
        local, at, host = address.rpartition(b'@')
        local, host = (local, text.lower(host)) if at else (address, text.lower(self.of(controls.line, b'envnoathost')))
        return (text.lower(local), b'') if self.is_local(host) else (local, host)
