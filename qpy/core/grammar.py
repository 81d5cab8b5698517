"""The grammar of those control files that have one of their own, for the check before anything is started.

A check takes the bytes of a file and returns nothing; it raises ControlError for what must be mended.
"""
from qpy.core import (accounts, authbackends, cdb, controls, dnsconf, limits, outgoingip, services, smtproutes, tcprules,
                      tls_policy)
from qpy.core.controls import ControlError
from qpy.core.qmqp import PORT as QMQP_PORT


def check(data: bytes, name: bytes) -> None:
    """ControlError if the grammar of a file that is named in CHECKS finds something wrong."""
    CHECKS[name](data, name)


FIRST, REST, LONGEST = b'abcdefghijklmnopqrstuvwxyz_', b'0123456789-', 31     # of a name for useradd and systemd-sysusers


def check_accounts(data, name):
    """role:name, of known roles."""
    for number, line in controls.lines(data, name):
        try:
            accounts.names([line])
        except ValueError:
            raise ControlError(name, number, line, b'write role:name, one of the roles '
                               + b' '.join(accounts.ROLES)) from None
        account = line.partition(b':')[2]
        if account[:1] not in FIRST or len(account) > LONGEST or account.strip(FIRST + REST):
            raise ControlError(name, number, account, b'no name of an account for all tools, systemd-sysusers among them; take at '
                               b'most 31 of a-z, 0-9, _ and -, of which the first is a letter or _')


def check_routes(data, name):
    """Places to send to."""
    check_values(data, name, smtproutes.faults, smtproutes.REMEDY)


def check_tls(data, name):
    """Levels of TLS."""
    check_values(data, name, tls_policy.faults, b'')


def check_values(data, name, faults, remedy):
    """A map whose values have a grammar; faults(table) -> [(key, reason)]."""
    lines = controls.parse_map_lines(data, name)
    for key, reason in faults({key: value for key, (value, _) in lines.items()}):
        value, line = lines[key]
        raise ControlError(name, line, value, reason + remedy)


def check_limits(data, name):
    """What a user's program may use up."""
    check_words(data, name, limits.parse)


def check_words(data, name, parse):
    """A map whose words have a meaning; parse({word: value}) raises ValueError(word, why)."""
    lines = controls.parse_map_lines(data, name)
    try:
        parse({word: value for word, (value, _) in lines.items()})
    except ValueError as problem:
        word, why = problem.args
        value, line = lines[word]
        raise ControlError(name, line, word + b':' + value, why) from None


def check_servers(data, name):
    """ADDRESS and ADDRESS:PORT."""
    for number, line in controls.lines(data, name):
        try:
            dnsconf.parse_server(line, QMQP_PORT)
        except ValueError as problem:
            raise ControlError(name, number, line, str(problem).encode()) from None


def check_sources(data, name):
    """Addresses to leave from."""
    for number, line in controls.lines(data, name):
        try:
            outgoingip.parse(line)
        except ValueError as problem:
            raise ControlError(name, number, line, str(problem).encode() + b'; ' + outgoingip.REMEDY) from None


def check_rules(data, name):
    """tcprules' text or cdb."""
    if b'\0' in data:
        return check_cdb(data, name)
    try:
        tcprules.parse(data)
    except tcprules.RulesError as problem:
        raise ControlError(name, problem.number, problem.line, problem.remedy) from None


def check_cdb(data, name):
    """A cdb whose tables can be read."""
    try:
        cdb.over(data).get(b'')
    except cdb.CdbError as problem:
        raise ControlError(name, 0, b'', b'not a whole cdb: %s; make it anew' % str(problem).encode()) from None


def check_services(data, name):
    """The process table."""
    services.table(data)


CHECKS = {b'accounts': check_accounts, b'smtproutes': check_routes, b'resolvers': check_servers,
          b'qmqpservers': check_servers, b'tcp.smtp': check_rules, b'morercpthosts.cdb': check_cdb, b'validrcptto.cdb': check_cdb,
          b'services': check_services, b'senderroutes': check_routes, b'tlsdestinations': check_tls,
          b'outgoingip': check_sources, b'programlimits': check_limits, b'auth': authbackends.check}
