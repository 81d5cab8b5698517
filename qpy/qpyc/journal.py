"""A table that outlives its program: DIR/check/NAME, lines of numbers and a key, the last line of a key counts.

    1764036974 0 0 192.0.2.0/24 ann@example.org joe@example.com

Lines are appended as entries change, and all is written anew when the file has grown to twice what is in it.  Nothing
waits for the disk: what a crash takes is asked or counted once more.  Lines that make no sense are passed over.
"""
from qpy import unix
from qpy.core import text
from qpy.lib import program

LIMIT = 256 << 20           # bytes of the file
SPARE = 10_000              # lines beyond twice the entries before it is written anew
NUMBER_MOST = 1 << 40


class Journal:
    """One table.  load(key, *numbers) is called for each line at the start; count: numbers in front of the key."""

    __slots__ = ('path', 'count', 'fd', 'lines', 'said')

    def __init__(self, home, name, count):
        self.path, self.count = home + b'/check/' + name, count
        self.fd, self.lines, self.said = -1, 0, False

    def read(self, load):
        """Load what is there."""
        try:
            lines = unix.read_file(self.path, LIMIT).split(b'\n')
        except FileNotFoundError:
            return
        except unix.error as problem:
            return self.complain(problem)
        lines.pop()                                     # empty, or torn
        for line in lines:
            *numbers, key = line.split(b' ', self.count)
            numbers = [text.parse_uint(word, NUMBER_MOST) for word in numbers]
            if len(numbers) == self.count and None not in numbers:
                load(key, *numbers)

    def rewrite(self, entries):
        """Have a file with just these entries: [(key, *numbers)]."""
        new = self.path + b'.new'
        try:
            fd = unix.open(new, unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC | unix.O_APPEND | unix.O_CLOEXEC, 0o600)
        except unix.error as problem:
            return self.complain(problem)
        before, self.fd, self.lines = self.fd, fd, 0
        if before >= 0:
            unix.close_quietly(before)
        if self.append(entries):
            try:
                unix.fsync(fd)
                unix.rename(new, self.path)
            except unix.error as problem:
                self.complain(problem)

    def append(self, entries):
        """Write these entries behind the others; whether that went well."""
        if self.fd < 0 or not entries:
            return self.fd >= 0
        lines = [b' '.join((*(b'%d' % number for number in numbers), key)) for key, *numbers in entries]
        try:
            unix.write_all(self.fd, b'\n'.join(lines) + b'\n')
        except unix.error as problem:
            self.complain(problem)
            return False
        self.lines += len(lines)
        return True

    def full(self, entries):
        """Is it time to write it anew?"""
        return self.lines > 2 * entries + SPARE

    def complain(self, problem):
        """Say once that nothing is kept."""
        if not self.said:
            self.said = True
            program.warn(b'what is learned will be forgotten at the next start: unable to write %s: %s' % (
                self.path, program.reason(problem)))
