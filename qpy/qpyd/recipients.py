"""Asking DIR/run/users, or DIR/run/exists where that is closed to us, whether a recipient exists, or whose a local part
is, without ever waiting for it.

A worker that is held up by what somebody asked before is left, and all that is open is asked of another one.  Nobody
there, or no answer in time: `unknown`, and the recipient is accepted; delivery will tell. That is said once in the log.
A positive answer is remembered for some seconds.
"""
from qpy import unix
from qpy.core import channel
from qpy.lib import packets, program

REMEMBER = 10.0         # seconds a `yes` or `unknown` holds
MOST = 5000             # answers remembered
ANSWER = 3.0            # seconds until another worker is asked; above the OVERSTAYS of qpyp.board
TRIES = 3               # workers that are asked in turn
RETRY = 1.0             # seconds before a missing qpy-users is looked for again
UNHEARD = {b'Q': b'unknown', b'W': None}        # what is taken for an answer where there is none


class Recipients:
    """One per process."""

    __slots__ = ('loop', 'home', 'uid', 'channel', 'known', 'waiting', 'number', 'retry', 'timer', 'said')

    def __init__(self, loop, home):
        self.loop, self.home = loop, home
        self.uid = users_uid(home)
        self.channel, self.known, self.waiting = None, {}, {}
        self.number, self.retry, self.timer, self.said = 0, 0.0, None, False
        self.connect()

    def ask(self, address, answered):
        """The verdict if it is known at once; else None, and answered(verdict) is called later."""
        known = self.known.get(address)
        if known and known[1] > unix.monotonic():
            return known[0]
        if self.channel is None and not self.connect():
            self.complain(b'unable to connect to run/users or run/exists')
            return b'unknown'
        self.number += 1
        self.send(b'%d' % self.number, address, answered, 1)
        return None

    def whose(self, local, answered):
        """answered((user, what stands behind his part of it)) later, of a local part; answered(None): not known now."""
        if self.channel is None and not self.connect():
            return self.loop.call_soon(lambda: answered(None))
        self.number += 1
        return self.send(b'%d' % self.number, local, answered, 1, b'W')

    def send(self, number, subject, answered, tries, letter=b'Q'):
        """Ask this, for the first time or again."""
        self.waiting[number] = letter, subject, answered, tries, unix.monotonic() + ANSWER
        self.channel.send(letter, number, subject)
        if self.timer is None:
            self.timer = self.loop.after(ANSWER, self.late)

    def connect(self):
        """Is there a connection now?"""
        if self.uid is None or unix.monotonic() < self.retry:
            return False
        try:
            sock = self.reach()
        except unix.error:
            self.retry = unix.monotonic() + RETRY
            return False
        self.channel = packets.Channel(self.loop, sock, channel.USERS_ANSWER, self.answers, self.gone)
        return True

    def reach(self):
        """A socket connected to qpy-users: by the door of our account, or by the one that is open to all."""
        try:
            return packets.connect(self.home, b'users', self.uid)
        except PermissionError:
            return packets.connect(self.home, b'exists', self.uid)

    def complain(self, why):
        """Say once, until there are answers again, that recipients are taken unseen."""
        if not self.said:
            self.said = True
            program.warn(b'recipients are not looked up: %s; all of our domains are taken, and delivery will tell' % why)

    def answers(self, records):
        """Verdicts came."""
        self.said = False
        for letter, fields, _ in records:
            found = self.waiting.pop(fields[0], None)
            if found is None:
                continue
            asked, subject, answered, _, _ = found
            verdict = fields[1]
            if letter != asked.lower():
                answered(UNHEARD[asked])
            elif letter == b'w':
                answered((fields[2], fields[6] + fields[7]) if verdict == b'yes' else None)
            else:
                if verdict in (b'yes', b'unknown'):
                    self.remember(subject, verdict)
                answered(verdict if verdict in (b'yes', b'no', b'temp') else b'unknown')

    def remember(self, address, verdict):
        """Keep an answer for a while."""
        if len(self.known) >= MOST:
            self.known.clear()
        self.known[address] = verdict, unix.monotonic() + REMEMBER

    def gone(self, reason):
        """The connection ended: what is open is asked of another worker, from the other end, and at last `unknown`."""
        self.channel = None
        waiting, self.waiting = self.waiting, {}
        there = any(tries < TRIES for _, _, _, tries, _ in waiting.values()) and self.connect()
        unheard = []
        for number, (letter, subject, answered, tries, _) in reversed(waiting.items()):
            if there and tries < TRIES:
                self.send(number, subject, answered, tries + 1, letter)
            else:
                unheard.append((answered, UNHEARD[letter]))
        if unheard:
            self.complain(b'qpy-users gave no answer (%s)' % str(reason).encode('ascii', 'replace'))
        for answered, unknown in unheard:
            answered(unknown)

    def late(self):
        """Questions that are not answered in time end the connection."""
        self.timer = None
        if not self.waiting:
            return
        oldest = min(until for *_, until in self.waiting.values())
        if oldest <= unix.monotonic():
            if self.channel is not None:
                self.channel.close()
            self.gone('no answer')
        else:
            self.timer = self.loop.after(oldest - unix.monotonic(), self.late)


def users_uid(home):
    """The uid that serves DIR/run/users; None if there is no such account."""
    try:
        return packets.owner_of(home, b'qpyp')
    except (KeyError, unix.error):
        return None
