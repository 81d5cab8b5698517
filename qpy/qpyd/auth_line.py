"""The way to qpy-auth (DIR/run/auth) from an SMTP server: one connection for all logins of this process.

    Line(loop, home, beside)        keeps beside.mechanisms true (see core.smtp_policy.Beside)
    line.arrived()                  a client has come: is the way still there?
    line.begin(facts, answered)     a number, or None if nobody can say
    line.respond(number, response), line.cancel(number)

answered(letter, value, reason): c a challenge, k the login, n no or later (core.channel.AUTH_ANSWER).
"""
from qpy import unix
from qpy.core import channel
from qpy.lib import packets

RETRY = 1.0             # seconds before a missing qpy-auth is looked for again


class Line:
    """One per process."""

    __slots__ = ('loop', 'home', 'beside', 'uid', 'channel', 'logins', 'number', 'retry')

    def __init__(self, loop, home, beside):
        self.loop, self.home, self.beside = loop, home, beside
        self.uid = auth_uid(home)
        self.channel, self.logins, self.number, self.retry = None, {}, 0, 0.0
        self.arrived()

    def arrived(self):
        """Connect, if there is no connection, and somebody could be there."""
        if self.channel is not None or self.uid is None or unix.monotonic() < self.retry:
            return
        self.retry = unix.monotonic() + RETRY
        try:
            sock = packets.connect(self.home, b'auth', self.uid)
        except unix.error:
            return
        self.channel = packets.Channel(self.loop, sock, channel.AUTH_ANSWER, self.answers, self.gone)

    def begin(self, facts, answered):
        """A login: facts are the fields of A behind its number."""
        if self.channel is None:
            return None
        self.number += 1
        number = b'%d' % self.number
        self.logins[number] = answered
        self.channel.send(b'A', number, *facts)
        return number

    def respond(self, number, response):
        """The client's next message."""
        if self.channel is not None:
            self.channel.send(b'R', number, response)

    def cancel(self, number):
        """It is not wanted any more."""
        if self.logins.pop(number, None) is not None and self.channel is not None:
            self.channel.send(b'X', number)

    def answers(self, records):
        """What qpy-auth says."""
        for letter, fields, _ in records:
            if letter == b'M':
                self.beside.mechanisms = tuple(fields[0].split(b' ')) if fields[0] else ()
                continue
            answered = self.logins.get(fields[0]) if letter == b'c' else self.logins.pop(fields[0], None)
            if answered is not None:
                answered(letter, fields[1], fields[2] if letter == b'n' else b'')

    def gone(self, reason):
        """It has ended: logins have to come again."""
        self.channel, self.beside.mechanisms = None, ()
        logins, self.logins = self.logins, {}
        for answered in logins.values():
            answered(b'n', b'later', b'qpy-auth has ended')


def auth_uid(home):
    """The uid that serves DIR/run/auth; None if there is no such account."""
    try:
        return packets.owner_of(home, b'qpya')
    except (KeyError, unix.error):
        return None
