"""Asking DIR/run/check (qpy-check) and DIR/run/milter (qpy-milter) what they have against a client, without ever
waiting for them.

Nobody there, no answer in time, or one that makes no sense: what control/checkfailure says, and never a refusal for
good.
"""
from qpy import unix
from qpy.core import asking, channel, text
from qpy.lib import packets, program

SAID = 10.0             # seconds between two lines about mail that is accepted without being checked
RETRY = 1.0             # seconds before a missing program is looked for again
GRACE = 5.0             # seconds beyond control/timeoutcheck, which the program itself obeys
TROUBLE = b'451 4.3.0 unable to check this now; try again later'
ABSENT = b'%s does not run; its line in control/services is missing, or it has ended'
PROGRAMS = {b'check': b'qpy-check', b'milter': b'qpy-milter'}       # by their sockets
DEFER = b'defer'


class Checks:
    """One per process and program."""

    __slots__ = ('loop', 'home', 'socket', 'program', 'channel', 'waiting', 'number', 'retry', 'said')

    def __init__(self, loop, home, socket):
        self.loop, self.home, self.socket, self.program = loop, home, socket, PROGRAMS[socket]
        self.channel, self.waiting = None, {}       # number: (answered, timer, settings)
        self.number, self.retry, self.said = 0, 0.0, 0.0

    def ask(self, facts, settings, answered):
        """answered(reply, reason, hold, fields) later, as core.smtp_server's judged(). facts: fields of core.channel."""
        if self.channel is None and not self.connect():
            return self.loop.call_soon(lambda: self.failed(settings, ABSENT % self.program, answered))
        self.number += 1
        number = b'%d' % self.number
        timer = self.loop.after(settings.check_patience + GRACE, lambda: self.late(number))
        self.waiting[number] = answered, timer, settings
        return self.channel.send(b'Q', number, *facts)

    def over(self, session):
        """A session has ended: what is remembered of it can go."""
        if self.channel is not None:
            self.channel.send(b'E', session)

    def connect(self):
        """Is there a connection now?"""
        if unix.monotonic() < self.retry:
            return False
        try:
            sock = packets.connect(self.home, self.socket, packets.owner_of(self.home, b'qpyc'))
        except (KeyError, unix.error):
            self.retry = unix.monotonic() + RETRY
            return False
        self.channel = packets.Channel(self.loop, sock, channel.CHECK_ANSWER, self.answers, self.gone)
        return True

    def answers(self, records):
        """Verdicts came."""
        for _, (number, verdict, reply, reason, lines), _ in records:
            answered, timer, settings = self.waiting.pop(number, (None, None, None))
            if answered is not None:
                timer.cancel()
                fields = [line for line in lines.split(b'\n') if asking.is_field(line)]
                self.judged(verdict, text.printable(reply), text.printable(reason), fields, settings, answered)

    def late(self, number):
        """No answer in time."""
        answered, _, settings = self.waiting.pop(number)
        self.failed(settings, self.program + b' does not answer', answered)

    def gone(self, reason):
        """The connection ended, and with it every question."""
        self.channel = None
        waiting, self.waiting = self.waiting, {}
        for answered, timer, settings in waiting.values():
            timer.cancel()
            self.failed(settings, self.program + b' went away', answered)

    def judged(self, verdict, reply, reason, fields, settings, answered):
        """What an answer amounts to."""
        if verdict == b'ok':
            return answered(b'', reason, b'', fields)
        if verdict == b'hold':
            return answered(b'', reason, reason or b'held by ' + self.program, fields)
        if verdict == b'no' and is_refusal(reply):
            return answered(reply, reason, b'', ())
        return self.failed(settings, self.program + b' answers what makes no sense', answered)

    def failed(self, settings, reason, answered):
        """There is no answer: control/checkfailure."""
        if settings.check_failure == DEFER:
            return answered(TROUBLE, reason, b'', ())
        if unix.monotonic() - self.said > SAID:
            self.said = unix.monotonic()
            program.warn(b'mail is accepted without being checked: ' + reason)
        return answered(b'', reason, b'', ())


def is_refusal(reply):
    """Can this be said to a client? 4xx or 5xx, a blank, a sentence."""
    return len(reply) > 4 and reply[:1] in (b'4', b'5') and reply[:3].isdigit() and reply[3:4] == b' '


def facts(session, name, stage):
    """The fields of a Q record behind its number (core.checks.FIELDS)."""
    client = session.client
    return (name, stage, client.ip, client.name, session.helo, session.spoken(), session.login,
            b'' if client.relay is None else b'1', session.sender, session.checking, b'%d' % len(session.recipients),
            session.size, asking.spf(session.fields), session.policy.greeting.partition(b' ')[0],
            b'%d' % session.transactions, *((session.tls.version, session.tls.cipher) if session.tls else (b'', b'')))
