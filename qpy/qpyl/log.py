"""qpy-log, as qpyl: brings the lines of all programs of the chain together on descriptor 1.

    descriptors   1 the log; from 3 on one pipe per program, named in LISTEN_FDNAMES, and `life`
    exit          0 when every pipe has ended, or LINGER seconds after life; 111 if the log cannot be started

Lines of `send` are written as they are, because other programs parse them.  Every other line is marked with the name
of the pipe it came on, `name: `, unless it begins with `qpy-name: ` already: no program can speak as another.  A pipe
called `submission=qpy-smtpd` is that of a second qpy-smtpd, and what begins with that name becomes `qpy-smtpd[submission]: `.
Bytes below 32 other than the line's end, and 127, become `?`.  Each pipe but send's may fill BURST lines at
once and RATE a second for long; what is above is counted and the count is written, at the latest after TELL seconds.
So is the number of lines that descriptor 1 would not take, once it takes lines again.
"""
from qpy import unix, unix_kernel
from qpy.core import exits
from qpy.lib import confine, inherit, loop, program

BARE = b'send'
BUFFER = 65536              # bytes read at a time
LINGER = 12.0               # seconds that a pipe may stay open when the chain has ended: a user's process may hold one
LINE_LIMIT = 65536          # bytes of one line; longer ones are broken
BURST, RATE = 5000, 1000    # lines; lines a second
TELL = 1.0                  # seconds until it is said how many lines were too many, if no other line comes before
RETRY = 10.0                # seconds until a log that took nothing is tried again, if no other line comes before

_SAFE = bytes(c if c >= 32 and c != 127 or c == 10 else 63 for c in range(256))


class Source:
    """One pipe: what it is called, the beginning of a line that has not ended, and its allowance."""

    __slots__ = ('name', 'own', 'shown', 'fd', 'rest', 'allowance', 'seen', 'dropped')

    def __init__(self, name, fd, now):
        self.name, _, program = name.partition(b'=')
        self.own = (program or b'qpy-' + self.name) + b': '
        self.shown = b'%s[%s]: ' % (program, self.name) if program else self.own
        self.fd, self.rest = fd, b''
        self.allowance, self.seen, self.dropped = BURST, now, 0

    def feed(self, data, now):
        """The lines, as they are to be written, that data completes."""
        lines = (self.rest + data).translate(_SAFE).split(b'\n')
        self.rest = lines.pop()
        if len(self.rest) > LINE_LIMIT:
            lines.append(self.rest)
            self.rest = b''
        return self.marked(self.allowed(lines, now))

    def end(self, now):
        """What is left when the pipe has ended, as lines."""
        lines = [self.rest] if self.rest else []
        self.rest = b''
        return self.marked(lines + self.count_of_dropped())

    def allowed(self, lines, now):
        """Those of the lines that the allowance covers."""
        if self.name == BARE:
            return lines
        self.allowance = min(BURST, self.allowance + (now - self.seen) * RATE)
        self.seen = now
        taken = lines[:int(self.allowance)]
        self.allowance -= len(taken)
        said = self.count_of_dropped() if taken else []
        self.dropped += len(lines) - len(taken)
        return said + taken

    def count_of_dropped(self):
        """[the line that says how many lines were too many], or []."""
        dropped, self.dropped = self.dropped, 0
        return [b'%d lines were too many and are not in this log' % dropped] if dropped else []

    def late(self):
        """The count of what was too many, as lines."""
        return self.marked(self.count_of_dropped())

    def marked(self, lines):
        """The lines as bytes, each with its newline and the name it needs."""
        if self.name == BARE:
            return b''.join(line + b'\n' for line in lines)
        mark, own = self.name + b': ', self.own
        return b''.join((self.shown + line[len(own):] if line.startswith(own) else mark + line) + b'\n' for line in lines)


class Log:
    """All sources in one loop; ends when the last has ended."""

    __slots__ = ('loop', 'open', 'lost', 'waiting')

    def __init__(self, event_loop, found):
        self.loop, self.open, self.lost = event_loop, 0, 0
        self.waiting = set()        # what is to be said later: a Source, or self for what was lost
        for name, fds in found.items():
            for fd in fds:
                self.add(Source(name, fd, unix.monotonic()))

    def follow(self, life):
        """Stay no longer than LINGER when the chain has ended."""
        def ended():
            self.loop.forget(life)
            self.loop.after(LINGER, self.loop.stop)
        self.loop.watch(life, ended)

    def add(self, source):
        """Read from one pipe until it ends."""
        self.open += 1
        unix.set_blocking(source.fd, False)
        self.loop.watch(source.fd, lambda: self.readable(source))

    def readable(self, source):
        """Take what is there, write what it completes."""
        try:
            data = unix.read(source.fd, BUFFER)
        except BlockingIOError:
            return
        if data:
            self.write(source.feed(data, unix.monotonic()))
            return self.later(source, TELL) if source.dropped else None
        self.write(source.end(unix.monotonic()))
        self.loop.forget(source.fd)
        unix.close(source.fd)
        self.open -= 1
        if not self.open:
            self.loop.stop()

    def later(self, what, seconds):
        """Let the source, or ourselves, say what was lost, if nothing else has by then."""
        if what not in self.waiting:
            self.waiting.add(what)
            self.loop.after(seconds, lambda: self.tell(what))

    def tell(self, what):
        """Say it now."""
        self.waiting.discard(what)
        self.write(b'' if what is self else what.late())

    def write(self, data):
        """Write to the log, waiting for it if need be; if it is gone, mail goes on without it."""
        said = b'qpy-log: warning: %d lines could not be written\n' % self.lost if self.lost else b''
        try:
            if said or data:
                unix.write_all(1, said + data)
            self.lost = 0
        except OSError:
            self.lost += data.count(b'\n')
            self.later(self, RETRY)


def main(home, args):
    """Merge until all programs have ended."""
    unix.umask(0o077)
    found = inherit.listeners()
    if not found:
        raise program.Fatal(exits.TEMP, b'no pipes in LISTEN_FDS; this program is started by qpy-start')
    unix_kernel.set_dumpable(0)
    unix.set_blocking(1, True)
    for number in (unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGALRM):
        unix.signal(number, unix.SIG_IGN)            # the last lines are the most wanted
    event_loop = loop.Loop()
    life = found.pop(b'life', [])
    log = Log(event_loop, found)
    for fd in life:
        log.follow(fd)
    if log.open:
        confine.confine(home, b'log')
        event_loop.run()
    return exits.OK
