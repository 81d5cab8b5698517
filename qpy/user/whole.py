"""Hosts that are named by their first word: what /etc/aliases and .forward mean by ann@lab, as inject completes it.

    ann@lab     ann@lab.DOMAIN, DOMAIN of control/defaultdomain, unless lab is in control/locals
    ann@lab+    ann@lab.DOMAIN, DOMAIN of control/plusdomain
"""
from qpy.core import dotqmail, text
from qpy.lib import controls


def completed(home, found):
    """The instructions [(kind, argument)] with whole addresses.  controls.Broken."""
    return [(kind, address(home, word) if kind is dotqmail.FORWARD else word) for kind, word in found]


def address(home, word):
    """One address."""
    _, at, host = word.rpartition(b'@')
    if not at or not host or b'.' in host or host[-1:] == b']':
        return word
    if host[-1:] == b'+':
        return word[:-1] + b'.' + controls.line(home, b'plusdomain')
    if text.lower(host) in (b'localhost', *(controls.lookup(home, b'locals') or ())):
        return word
    domain = controls.line(home, b'defaultdomain')
    return word + b'.' + domain if domain else word
