"""Who judges what a client claims: a child process for each claim, so that a slow one delays nobody.

    judges.judge(claim, facts, done)        done(GOOD, BAD or LATER)

A password is judged by users/passwd and by programs, in the order of control/auth; a token by programs.  A program has
checkpassword's interface: user NUL secret NUL mechanism NUL on descriptor 3, exit 0 if it is so, 1 if not, anything
else: later.
"""
from collections import deque

from qpy import unix, unix_argon2
from qpy.core import exits, passwords, sasl_server as sasl
from qpy.lib import execute, program, service

GOOD, BAD, LATER = 'good', 'bad', 'later'
MOST = 8                    # children at a time: each takes 32 or 46 MB and a processor for a tenth of a second
WAITING = 200               # claims that wait for their turn
PATIENCE = 30.0             # seconds for one judge
FILE = b'/users/passwd'
FILE_LIMIT = 64 << 20
CLAIM = 3
OURS = (b'passwd',)         # what stands in control/auth for users/passwd
TRUE = b'/bin/true'


class File:
    """users/passwd, read again when it has changed."""

    __slots__ = ('path', 'stamp', 'entries', 'scram', 'random')

    def __init__(self, home):
        self.path, self.stamp, self.entries = home + FILE, None, {}
        self.random = unix.urandom(passwords.SALT)
        self.scram = passwords.Scram(b'', self.random)

    def look(self):
        """Read it if it is another one; what is broken is named, and what it held before stays."""
        try:
            there = unix.stat(self.path)
            stamp = there.st_mtime_ns, there.st_size, there.st_ino
        except unix.error:
            stamp = ()
        if stamp == self.stamp:
            return
        self.stamp = stamp
        try:
            data = unix.read_file(self.path, limit=FILE_LIMIT) if stamp else b''
            self.entries, self.scram = passwords.parse(data), passwords.Scram(data, self.random)
        except unix.error as problem:
            program.warn(b'unable to read users/passwd: ' + program.reason(problem))
        except passwords.BadFile as problem:
            program.warn(b'users/passwd, line %d: %s; what it held before stays' % problem.args)


class Job:
    """One claim on its way.  judges: those who have not been asked."""

    __slots__ = ('claim', 'facts', 'done', 'judges', 'later', 'pid', 'timer')

    def __init__(self, claim, facts, done, judges):
        self.claim, self.facts, self.done, self.judges = claim, facts, done, deque(judges)
        self.later, self.pid, self.timer = False, 0, None


class Judges:
    """All of them.  backends: {kind of claim: [words]}."""

    __slots__ = ('loop', 'file', 'backends', 'running', 'waiting')

    def __init__(self, loop, home, backends):
        self.loop, self.file, self.backends = loop, File(home), backends
        self.running, self.waiting = {}, deque()
        loop.on_signal(unix.SIGCHLD, self.reap)

    def judge(self, claim, facts, done):
        """Ask the judges of such a claim one after the other."""
        if len(self.waiting) >= WAITING:
            return done(LATER)
        self.waiting.append(Job(claim, facts, done, self.backends.get(claim.kind, ())))
        return self.turn()

    def turn(self):
        """Start what can be started."""
        while self.waiting and len(self.running) < MOST:
            self.next(self.waiting.popleft())

    def next(self, job):
        """The next judge of a job, or its end."""
        if not job.judges:
            return job.done(LATER if job.later else BAD)
        words = job.judges.popleft()
        try:
            self.start(job, words)
        except unix.error as problem:
            program.warn(b'unable to judge: ' + program.reason(problem))
            job.done(LATER)
        return None

    def start(self, job, words):
        """A child."""
        self.file.look()
        theirs, ours = unix.pipe2(unix.O_CLOEXEC) if words != OURS else (-1, -1)
        try:
            pid = unix.fork()
        except unix.error:
            for fd in (theirs, ours):
                unix.close_quietly(fd)
            raise
        if not pid:
            unix._exit(program.guarded(lambda: self.ours(job) if words == OURS else become(words, theirs, job.facts)))
        if ours >= 0:
            unix.close(theirs)
            secret = b'%b\0%b\0%b\0' % (job.claim.user, job.claim.secret, job.facts[b'AUTHMECH'])
            unix.set_blocking(ours, False)
            try:
                unix.write(ours, secret)        # a pipe takes that at once
            except unix.error:
                pass
            unix.close(ours)
        job.pid, self.running[pid] = pid, job
        job.timer = self.loop.after(PATIENCE, lambda: late(pid))

    def ours(self, job):
        """In the child: is this the password in users/passwd?"""
        try:
            good = passwords.verify(self.file.entries, job.claim.user, job.claim.secret, unix_argon2.argon2id)
        except passwords.NoLibrary:
            raise program.Fatal(exits.TEMP, passwords.NO_LIBRARY) from None
        return 0 if good else 1

    def reap(self):
        """Who has judged."""
        while self.running:
            pid, status = unix.waitpid(-1, unix.WNOHANG)
            if not pid:
                break
            if pid in self.running:
                job = self.running.pop(pid)
                job.timer.cancel()
                end(pid, unix.killpg)
                self.judged(job, unix.waitstatus_to_exitcode(status))
        self.turn()

    def judged(self, job, code):
        """One judge has spoken."""
        if code == 0:
            return job.done(GOOD)
        if code != 1:
            program.warn(b'a judge of a %s ended with %d' % (job.claim.kind, code))
        job.later = job.later or code != 1
        return self.next(job)

    def password_mechanisms(self):
        """The mechanisms by which what we have here can be judged."""
        self.file.look()
        found, judges = [], self.backends.get(sasl.PASSWORD, ())
        if OURS in judges and len(judges) == 1 and self.file.scram.everybody and self.file.entries:
            found += [b'SCRAM-SHA-256-PLUS', b'SCRAM-SHA-256']
        if judges:
            found += [b'PLAIN', b'LOGIN']
        return found + ([b'OAUTHBEARER', b'XOAUTH2'] if self.backends.get(sasl.TOKEN) else [])


def end(pid, how):
    """End what a judge has started, and with unix.kill himself."""
    try:
        how(pid, unix.SIGKILL)
    except unix.error:
        pass


def late(pid):
    """He has had his time."""
    end(pid, unix.killpg)
    end(pid, unix.kill)


def become(words, theirs, facts):
    """In the child: be the program, with the claim on descriptor 3."""
    unix.setsid()
    service.uncalm()
    high = unix.duplicate_above(theirs, 10)
    unix.dup2(high, CLAIM)
    unix.closerange(CLAIM + 1, 65536)
    words = words if len(words) > 1 else (*words, TRUE)
    environ = {name: unix.environ[name] for name in (b'PATH', b'QPYHOME') if name in unix.environ}
    problem = execute.along_path(words, {**environ, **facts})
    program.complain(b'unable to run %s: %s' % (words[0], program.reason(problem)))
    return 111
