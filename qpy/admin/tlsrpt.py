"""qpy-tlsrpt, for the administrator: what TLS with other hosts came to on a day, as qpy-tlslog has kept it.

    qpy-tlsrpt [--json] [--day YYYY-MM-DD] [DOMAIN]

Descriptor 1: lines for people; or by --json a report of RFC 8460 per domain, a line each.
Exit: 0; 100 wrong usage; 111 nothing is kept of that day, or it cannot be read.
"""
import argparse
import json
import os

from qpy import unix
from qpy.core import dates, exits, tlsrpt
from qpy.lib import controls, owner, program


def main(home, args):
    """See qpy-tlsrpt(8)."""
    options = parser().parse_args([unix.fsdecode(word) for word in args])
    name = os.fsencode(options.day) if options.day else dates.day(int(unix.time()))
    if not tlsrpt.is_day(name):
        raise program.Fatal(exits.PERM, b'not a day: write YYYY-MM-DD')
    owner.become(home)
    try:
        day = tlsrpt.parse(unix.read_file(home + b'/tls/' + name, 1 << 30))
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to read tls/%s: %s (qpy-tlslog keeps 30 days, where it runs)'
                            % (name, program.reason(problem))) from None
    wanted = os.fsencode(options.domain.lower()) if options.domain else None
    day = {each: count for each, count in day.items() if wanted in (None, each[0])}
    lines = reports(home, name, day) if options.json else [line for found in tlsrpt.by_policy(day).items()
                                                          for line in shown(*found)]
    unix.write_all(1, b''.join(line + b'\n' for line in lines))
    return exits.OK


def parser():
    """The command line."""
    made = Parser(prog='qpy-tlsrpt', description='What TLS with other hosts came to on a day.')
    made.add_argument('--json', action='store_true', help='a report of RFC 8460 per domain')
    made.add_argument('--day', metavar='YYYY-MM-DD', help='another day than today (UTC)')
    made.add_argument('domain', nargs='?', help='of recipients; otherwise all')
    return made


class Parser(argparse.ArgumentParser):
    """Wrong usage is 100, as in every program here."""

    def error(self, message):
        self.print_usage()
        raise program.Fatal(exits.PERM, message.encode())

    def exit(self, status=0, message=None):
        unix.flush_output()
        unix._exit(exits.PERM if status else exits.OK)


def reports(home, name, day):
    """A report per domain."""
    host = controls.line(home, b'me')
    return [json.dumps(tlsrpt.report(name, domain, day, host)).encode() for domain in sorted({each[0] for each in day})]


def shown(policy, sessions):
    """Lines on one domain and policy: sessions that went well, and each kind of failure."""
    good = sum(count for each, count in sessions.items() if not each[4])
    yield b'%s  %s  by TLS %d, failed %d' % (policy[0], policy[1], good, sum(sessions.values()) - good)
    for each, count in sessions.items():
        if each[4]:
            yield b'    %d x %s at %s [%s]: %s' % (count, each[4], each[3], each[6], each[7])
