"""Asking qpy-users whose an address is, with a memory of a few seconds."""
from qpy import unix
from qpy.core import channel
from qpy.lib import packets, program

REMEMBER = 2.0              # seconds: a burst to one user costs one question, a new .qmail user waits no longer
MOST = 2000                 # answers remembered
PATIENCE = 30.0             # seconds for an answer; below the deadline of a delivery


class Users:
    """The channel to qpy-users; opened when there is something to ask, and again after it was lost."""

    __slots__ = ('loop', 'home', 'uid', 'channel', 'known', 'waiting', 'questions', 'number')

    def __init__(self, loop, home, uid):
        self.loop, self.home, self.uid = loop, home, uid
        self.channel, self.number = None, 0
        self.known = {}             # {local part: (until, answer)}
        self.waiting = {}           # {local part: [callbacks]}
        self.questions = {}         # {number: (local part, Timer)}

    def ask(self, local, callback):
        """callback(fields after the number of a `w` record), or callback(None) if nobody can say now."""
        until, answer = self.known.get(local, (0.0, None))
        if until > unix.monotonic():
            return callback(answer)
        if local in self.waiting:
            return self.waiting[local].append(callback)
        if self.channel is None and not self.connect():
            return callback(None)
        self.number += 1
        number = b'%d' % self.number
        timer = self.loop.after(PATIENCE, lambda: self.answered(number, None))
        self.questions[number], self.waiting[local] = (local, timer), [callback]
        self.channel.send(b'W', number, local)

    def connect(self):
        """Whether there is a channel now."""
        try:
            sock = packets.connect(self.home, b'users', self.uid)
        except unix.error as problem:
            program.warn(b'unable to ask qpy-users: ' + program.reason(problem))
            return False
        self.channel = packets.Channel(self.loop, sock, channel.USERS_ANSWER, self.records, self.lost)
        return True

    def records(self, records):
        """Answers have come."""
        for letter, fields, _ in records:
            if letter == b'w':
                self.answered(fields[0], fields[1:])

    def answered(self, number, answer):
        """Tell all who wait for this one."""
        local, timer = self.questions.pop(number, (None, None))
        if timer is None:
            return
        timer.cancel()
        if answer is not None and answer[0] == b'yes':
            if len(self.known) >= MOST:
                self.known.clear()
            self.known[local] = unix.monotonic() + REMEMBER, answer
        for callback in self.waiting.pop(local):
            callback(answer)

    def lost(self, reason):
        """qpy-users has gone away: nobody can say now.  That it has closed is no news: its own lines say why, or all ends."""
        if reason != 'closed':
            program.warn(b'lost qpy-users: ' + reason.encode('ascii', 'replace'))
        self.channel = None
        for number in list(self.questions):
            self.answered(number, None)
