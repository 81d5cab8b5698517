"""The header of a message: where it ends, which lines make a field, what a field is called.

A header is a run of fields; a field is a line `Name: value` (the name: bytes 33..126 but the colon, then blanks)
and the lines after it that begin with a blank (RFC 5322 section 2.2).  The first line that is neither ends the
header, whether it is empty or not.  Lines end in LF or CR LF here and in LF behind it; a CR elsewhere in a header
becomes a blank, so that it can never begin a new field.
"""
from qpy.core import text

LIMIT = 8 << 20        # bytes of one header: 100,000 addresses fit
NAME_LIMIT = 2000      # bytes in which the colon of an overlong line must come

_NAME_BYTES = bytes(c for c in range(33, 127) if c != 58)


class TooLong(ValueError):
    """The header goes on beyond LIMIT."""


def name(field):
    """The lower-case name of a field, or None if the line begins no field."""
    before, colon, _ = field.partition(b':')
    before = before.rstrip(b' \t')
    if not colon or not before or before.translate(None, _NAME_BYTES):
        return None
    return text.lower(before)


def written_name(field):
    """The name of a field as it is written."""
    return field.partition(b':')[0].rstrip(b' \t')


def value(field):
    """What follows the colon, unfolded (RFC 5322 section 2.2.3)."""
    return field.partition(b':')[2].replace(b'\n', b'')


def clean_line(line):
    """A header line without its line end, free of CR."""
    return line.rstrip(b'\r').replace(b'\r', b' ')


class Splitter:
    """Bytes in, fields out.

    feed(data) returns False while the header goes on; end() says that nothing more comes.  Afterwards `fields` are
    the fields (each ending in LF) and `body` is what was read beyond them, beginning with the empty line: one is
    supplied where the text had none.  After end() within the header the body is empty, as qmail leaves it.

    The line that mailbox files put before a message becomes the field MBOX-Line, as in qmail, or nothing if
    keep_mbox_line is False.  TooLong if the header outgrows LIMIT.
    """
    __slots__ = ('fields', 'body', 'keep_mbox_line', '_pending', '_field', '_separator', '_size')

    def __init__(self, keep_mbox_line=True):
        self.fields, self.body, self.keep_mbox_line = [], b'', keep_mbox_line
        self._pending, self._field, self._separator, self._size = bytearray(), [], False, 0

    def feed(self, data):
        self._size += len(data)
        self._pending += data
        if b'\n' in data:
            lines = bytes(self._pending).split(b'\n')
            for number, line in enumerate(lines[:-1]):
                if not self._take(line):
                    return self._finish(b'\n'.join(lines[number:]))
            self._pending = bytearray(lines[-1])
        return self._size > LIMIT and self._overlong()

    def end(self):
        if self._pending and not self._take(bytes(self._pending)):
            self._finish(bytes(self._pending) + b'\n')
        self._close_field()

    def _take(self, line):
        """Take one line (without its end) into the header; False if the header ended before it."""
        line = clean_line(line)
        if line[:1] in (b' ', b'\t') and self._field:
            self._field.append(line)
        elif name(line) is not None:
            self._open_field(line, False)
        elif self._is_separator(line):
            self._open_field(b'MBOX-Line: ' + line, True)
        else:
            return False
        return True

    def _is_separator(self, line):
        """Whether mailbox software wrote this line; quoted (`>From `) it counts only before the first field."""
        if line.startswith(b'>From '):
            return not self.fields and (self._separator or not self._field)
        return line.startswith(b'From ')

    def _open_field(self, line, separator):
        self._close_field()
        self._field, self._separator = [line], separator

    def _close_field(self):
        if self._field and (self.keep_mbox_line or not self._separator):
            self.fields.append(b'\n'.join(self._field) + b'\n')
        self._field = []

    def _finish(self, rest):
        """The header ended before rest."""
        self._close_field()
        first, newline, _ = rest.partition(b'\n')
        self.body = rest if newline and not first.rstrip(b'\r') else b'\n' + rest
        self._pending = bytearray()
        return True

    def _overlong(self):
        """Beyond LIMIT: what waits for its end is the body if it cannot be a field, and else too much."""
        line = bytes(self._pending[:NAME_LIMIT])
        if not line or self._field and line[:1] in (b' ', b'\t') or self._is_separator(line) or name(line):
            raise TooLong
        return self._finish(bytes(self._pending))
