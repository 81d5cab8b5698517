"""qpy-tlslog, as qpyr: keeps what TLS with other hosts came to, and who spoke it lately.

DIR/run/tlslog, from qpy-remote:  R (a session, or why there was none: core.tlsrpt), W (a place that took mail by TLS),
M (a number: what is remembered?), answered by records m: the number, lines of a place and the seconds since then; the
last without a line.

DIR/tls/YYYY-MM-DD   the sessions of a day of UTC, KEPT days; qpy-tlsrpt(8) reads them
DIR/tls/memory       the places, a line each with the unix time

Files are written anew every LATER seconds while something changes, and at the end: a crash takes that much.

Exit code 0 when the chain ends, 111 for trouble at start.
"""
from qpy import unix
from qpy.core import channel, dates, exits, text, tls_policy, tlsrpt
from qpy.lib import confine, inherit, packets, program, service
from qpy.lib.loop import Loop

LATER = 5               # seconds
KEPT = 30               # days
LINES = 500             # of memory in one record
FILE_LIMIT = 64 << 20
MEMORY = b'memory'
DIRECTORY = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC


class Store:
    """The files in directory, and what of them is in memory."""

    __slots__ = ('loop', 'fd', 'name', 'day', 'memory', 'timer', 'full')

    def __init__(self, loop, directory):
        self.loop, self.fd = loop, unix.open(directory, DIRECTORY)
        self.timer, self.full = None, False
        self.memory = read_memory(self._read(MEMORY))
        self.name, self.day = b'', {}
        self._turn()

    def _read(self, name):
        try:
            return unix.read_file(name, FILE_LIMIT, self.fd)
        except FileNotFoundError:
            return b''

    def _turn(self):
        """The day that it is; what is too old is removed."""
        today = dates.day(int(unix.time()))
        if today == self.name:
            return
        if self.name:
            self.save()
        self.name, self.day, self.full = today, tlsrpt.parse(self._read(today)), False
        days = sorted(name for name in map(unix.fsencode, unix.listdir(self.fd)) if tlsrpt.is_day(name))
        for name in days[:-KEPT]:
            unix.unlink(name, dir_fd=self.fd)

    def outcome(self, fields):
        """One session, or why there was none."""
        self._turn()
        found = tlsrpt.key(fields)
        if found is None:
            return
        if not tlsrpt.add(self.day, found) and not self.full:
            self.full = True
            program.warn(b'tls/%s has %d lines: what is new today is not counted' % (self.name, tlsrpt.MOST))
        self._later()

    def saw(self, place):
        """This place took mail by TLS."""
        self.memory.pop(place, None)
        if len(self.memory) >= tls_policy.Memory.MOST:
            del self.memory[next(iter(self.memory))]
        self.memory[place] = int(unix.time())
        self._later()

    def remembered(self):
        """[lines] of what is still worth remembering, for records m."""
        now = int(unix.time())
        lines = [b'%s %d' % (place, max(0, now - when)) for place, when in self.memory.items()
                 if now - when < tls_policy.Memory.LASTS]
        return [b'\n'.join(lines[at:at + LINES]) for at in range(0, len(lines), LINES)]

    def _later(self):
        if self.timer is None:
            self.timer = self.loop.after(LATER, self.save)

    def save(self):
        """Write both files; trouble is said and tried again when something changes."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        memory = b''.join(b'%s %d\n' % each for each in self.memory.items())
        for name, data in ((self.name, tlsrpt.build(self.day)), (MEMORY, memory)):
            try:
                self._write(name, data)
            except unix.error as problem:
                program.warn(b'unable to write tls/%s: %s' % (name, program.reason(problem)))

    def _write(self, name, data):
        fd = unix.open(b'new', unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC | unix.O_CLOEXEC | unix.O_NOFOLLOW, 0o640,
                       dir_fd=self.fd)
        try:
            unix.write_all(fd, data)
        finally:
            unix.close(fd)
        unix.rename(b'new', name, src_dir_fd=self.fd, dst_dir_fd=self.fd)


def read_memory(data):
    """{place: unix time} of the file memory, the oldest first."""
    found = {}
    for line in data.split(b'\n'):
        place, _, when = line.partition(b' ')
        number = text.parse_uint(when, 1 << 40)
        if place and number is not None:
            found[place] = number
    return dict(sorted(found.items(), key=lambda each: each[1])[-tls_policy.Memory.MOST:])


class Client:
    """One that tells, and asks: qpy-remote."""

    __slots__ = ('store', 'channel')

    def __init__(self, store, sock):
        self.store = store
        self.channel = packets.Channel(store.loop, sock, channel.TLSLOG_ASK, self._records, lambda reason: None)

    def _records(self, records):
        for letter, fields, _ in records:
            if letter == b'R':
                self.store.outcome(fields)
            elif letter == b'W':
                self.store.saw(text.lower(text.printable(fields[0])).replace(b' ', b'?'))
            else:
                for lines in [*self.store.remembered(), b'']:
                    self.channel.send(b'm', fields[0], lines)


def main(home, args):
    """qpy-tlslog"""
    found = service.begin(b'tlslog', args, mask=0o027)
    loop = Loop()
    inherit.life(loop, found)
    try:
        store = Store(loop, home + b'/tls')
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to use tls: ' + program.reason(problem)) from None
    owner = packets.owner_of(home, b'qpyr')
    for sock in inherit.sockets(found, b'tlslog'):
        packets.serve(loop, sock, lambda sock, peer: Client(store, sock) if peer[1] in (owner, 0) else sock.close())
    confine.confine(home, b'tlslog')
    loop.run()
    store.save()
    return exits.OK
