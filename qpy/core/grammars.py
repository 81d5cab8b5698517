"""The grammar of every control file: those of core.grammar, and those that qpy-start leaves to who reads them.

qpy-start is root when it looks, and loads no more code than it must; the readers of these files refuse to start with a
broken one, and qpy-install --check has the time to look at all.
"""
from qpy.core import (accountlimits, checks, clientnames, controls, destinations, dnsbl, grammar, greylist, milter, policyd,
                      ratelimits)
from qpy.core.controls import ControlError


def by_words(parse):
    """The check of a map file whose parse({key: value}) raises ValueError(key, why)."""
    def check(data, name):
        grammar.check_words(data, name, parse)
    return check


def by_lines(parse):
    """The check of a list file whose parse(line) raises ValueError with words."""
    def check(data, name):
        for number, line in controls.lines(data, name):
            try:
                parse(line)
            except ValueError as problem:
                raise ControlError(name, number, line, str(problem).encode()) from None
    return check


def check_destinations(data, name):
    """domain:NUMBER RATE."""
    for value, line in controls.parse_map_lines(data, name).values():
        try:
            destinations.parse(value)
        except ValueError as problem:
            raise ControlError(name, line, value, str(problem).encode()) from None


def helo_rule(word):
    """A word of control/helorules."""
    if word not in clientnames.RULES:
        raise ValueError('not known; one of: ' + b' '.join(clientnames.RULES).decode())


CHECKS = {**grammar.CHECKS, b'accountlimits': by_words(accountlimits.parse), b'ratelimits': by_words(ratelimits.parse),
          b'greylist': by_words(greylist.parse), b'dnsbl': by_lines(dnsbl.parse), b'milters': by_lines(milter.parse),
          b'policyservers': by_lines(policyd.parse), b'helorules': by_lines(helo_rule), b'spfrules': by_lines(checks.spf_rule),
          b'destinationlimits': check_destinations}
