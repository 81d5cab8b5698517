"""control/auth: who judges logins.

    passwd                      users/passwd, by qpy-auth itself; the default where there is no file
    program /PATH [ARGUMENT]    passwords, by a program with checkpassword's interface
    token /PATH [ARGUMENT]      tokens (OAUTHBEARER, XOAUTH2), by such a program
    dovecot /PATH               whatever the Dovecot behind this socket offers is its own

Several judges of passwords are asked in their order, until one says yes.
"""
from qpy.core import controls

REMEDY = b'write passwd, program /PATH, token /PATH or dovecot /PATH'
PASSWORD, TOKEN = b'password', b'token'         # what core.sasl_server claims
KINDS = {b'program': PASSWORD, b'token': TOKEN}


class Backends:
    """judges: {kind of claim: [words]}; dovecot: the path of its socket, or b''; programs: some are to be run."""

    __slots__ = ('judges', 'dovecot', 'programs')

    def __init__(self, judges, dovecot=b''):
        self.judges, self.dovecot = judges, dovecot
        self.programs = any(words[0][:1] == b'/' for found in judges.values() for words in found)

    @property
    def line(self):
        """The name of the line of core.manifest that qpy-auth takes on itself with these."""
        return b'auth-programs' if self.programs else b'auth-dovecot' if self.dovecot else b'auth'


def backends(lines):
    """The Backends of the entries of the file, None: there is none.  ValueError for what is none."""
    judges, dovecot = {}, b''
    for line in [b'passwd'] if lines is None else lines:
        word, *rest = [part for part in line.replace(b'\t', b' ').split(b' ') if part]
        if word == b'passwd' and not rest:
            judges.setdefault(PASSWORD, []).append((word,))
        elif word in KINDS and rest and rest[0][:1] == b'/':
            judges.setdefault(KINDS[word], []).append(tuple(rest))
        elif word == b'dovecot' and len(rest) == 1 and rest[0][:1] == b'/' and len(rest[0]) <= 107 and not dovecot:
            dovecot = rest[0]
        else:
            raise ValueError(REMEDY.decode())
    return Backends(judges, dovecot)


def check(data, name):
    """ControlError unless each line is one of the four."""
    for number, line in controls.lines(data, name):
        try:
            backends([line])
        except ValueError as problem:
            raise controls.ControlError(name, number, line, str(problem).encode()) from None
