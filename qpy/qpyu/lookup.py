"""Asking qpy-users whose an address is, with a memory of a few seconds."""
from qpy import unix
from qpy.core import channel
from qpy.lib import packets, program

REMEMBER = 2.0              # seconds: a burst to one user costs one question, a new .qmail user waits no longer
MOST = 2000                 # answers remembered
ANSWER = 3.0                # seconds until another worker is asked; above the OVERSTAYS of qpyp.board
TRIES = 10                  # workers that are asked in turn; together below the deadline of a delivery
LOSSES = 2                  # tries after which one that ended is not asked again: the question may be what ends them
TABLES = b'users/cdb', b'/etc/passwd'       # what says whose an address is: when one changes, nothing is remembered


class Question:
    """One that is asked.  key: in Users.waiting; tries: how often it was sent; timer: until it is sent again."""

    __slots__ = ('key', 'tries', 'timer')

    def __init__(self, key):
        self.key, self.tries, self.timer = key, 0, None


class Users:
    """The channel to qpy-users; opened when there is something to ask, and again after it was lost or gave no answer."""

    __slots__ = ('loop', 'tables', 'home', 'uid', 'channel', 'stamps', 'known', 'waiting', 'questions', 'number')

    def __init__(self, loop, home, uid):
        self.loop, self.home, self.uid = loop, home, uid
        self.tables = [name if name[:1] == b'/' else home + b'/' + name for name in TABLES]
        self.channel, self.number, self.stamps = None, 0, None
        self.known = {}             # {local part: (until, answer)}, since the tables are as stamps says
        self.waiting = {}           # {(local part, stamps): [callbacks]}
        self.questions = {}         # {number: Question}

    def ask(self, local, callback):
        """callback(fields after the number of a `w` record), or callback(None) if nobody can say now."""
        self.follow()
        until, answer = self.known.get(local, (0.0, None))
        if until > unix.monotonic():
            return callback(answer)
        key = local, self.stamps
        if key in self.waiting:
            return self.waiting[key].append(callback)
        if self.channel is None and not self.connect(program.warn):
            return callback(None)
        self.number += 1
        number, self.waiting[key] = b'%d' % self.number, [callback]
        self.questions[number] = Question(key)
        self.send(number)

    def follow(self):
        """Forget what was said before the tables changed."""
        now = tuple(map(stamp, self.tables))
        if now != self.stamps:
            self.stamps = now
            self.known.clear()

    def send(self, number):
        """Ask this, for the first time or again."""
        question = self.questions[number]
        question.tries += 1
        question.timer = self.loop.after(ANSWER, self.late)
        self.channel.send(b'W', number, question.key[0])

    def connect(self, warn):
        """Whether there is a channel now.  warn: told why not."""
        try:
            sock = packets.connect(self.home, b'users', self.uid)
        except unix.error as problem:
            warn(b'unable to ask qpy-users: ' + program.reason(problem))
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
        question = self.questions.pop(number, None)
        if question is None:
            return
        question.timer.cancel()
        local, stamps = question.key
        if answer is not None and answer[0] == b'yes' and stamps == self.stamps:
            if len(self.known) >= MOST:
                self.known.clear()
            self.known[local] = unix.monotonic() + REMEMBER, answer
        for callback in self.waiting.pop(question.key):
            callback(answer)

    def late(self):
        """The worker that we have is held up, by this question or by one before it, of ours or of others."""
        self.channel.close()
        self.again(TRIES)

    def lost(self, reason):
        """It has gone away.  That it has closed is no news: its own lines say why, or all ends."""
        if reason != 'closed':
            program.warn(b'lost qpy-users: ' + reason.encode('ascii', 'replace'))
        self.again(LOSSES)

    def again(self, most):
        """Ask another worker all that is open, the newest first: it did not hold up the others.  most: tries after which
        nobody can say."""
        self.channel = None
        for question in self.questions.values():
            question.timer.cancel()
        there = any(question.tries < most for question in self.questions.values()) and self.connect(lambda words: None)
        for number, question in reversed(list(self.questions.items())):
            if there and question.tries < most:
                self.send(number)
            else:
                self.answered(number, None)


def stamp(path):
    """What changes when a file is replaced or rewritten; None if it is not there."""
    try:
        status = unix.stat(path)
    except unix.error:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
