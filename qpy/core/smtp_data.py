"""The text of DATA: from the wire to the stored form, in pieces of any size (RFC 5321 4.5.2, 2.3.8).

    stored line ends are LF; on the wire a line ends with CR LF and with nothing else
    CR LF . CR LF ends the text, and nothing else does (at the start of the text: . CR LF)
    one dot is dropped at the start of a line
    a CR or LF that is not part of CR LF is a fault: such text is never stored, since the next server might
    take it for a line end, and what stands behind it for the end of the text

Decoder does this with searches over whole pieces; PlainDecoder says the same byte by byte, for tests and
fuzzers to hold against it. Whatever the pieces, both give the same bytes, size, hops, fault and rest.

feed(data) -> (stored bytes, rest): rest is None while the text goes on, and the bytes behind its end after
that. At a fault both are empty and `fault` says which byte it was; nothing may be fed after the end or a
fault.
"""

CR, LF = b'CR', b'LF'           # the faults
HOP_NAMES = (b'received', b'delivered')     # a header line that begins so counts as a hop, as in qmail
HEAD = max(map(len, HOP_NAMES))
END = b'\r\n.\r\n'


class Decoder:
    """DATA at speed.

    size: stored bytes so far, also those that were not given out because they were over `limit` (0: none).
    hops: Received and Delivered-To lines of the header so far."""

    __slots__ = ('limit', 'size', 'hops', 'fault', 'held', 'head', 'fresh')

    def __init__(self, limit=0):
        self.limit, self.size, self.hops, self.fault = limit, 0, 0, None
        self.held = b'\r\n'     # a prefix of END at the end of what came; a text starts as after a line end
        self.head = b''         # first bytes of the header's current line; None in the body
        self.fresh = True       # the LF of that line end is still to be dropped

    def feed(self, data: bytes) -> tuple:
        """(stored bytes, None or what follows the end of the text)."""
        data = self.held + data
        lines = data.replace(b'\r\n', b'\n')
        if b'\r' in lines or lines.count(b'\n') != len(data) - len(lines):
            return self.doubtful(data)
        end = lines.find(b'\n.\n')
        if end >= 0:
            more = end + 3 < len(lines)
            return self.store(lines[:end + 1]), data[end + 5 + lines.count(b'\n', 0, end):] if more else b''
        keep = 2 if lines.endswith(b'\n.') else int(lines.endswith(b'\n'))     # perhaps END begins here
        self.held = lines[len(lines) - keep:].replace(b'\n', b'\r\n')
        lines = lines[:len(lines) - keep]
        return self.store(lines), None

    def doubtful(self, data):
        """As feed, where a lone CR or LF is somewhere: in the text, behind its end, or a CR at the very end
        of data whose LF may still come."""
        end = data.find(END)
        if end >= 0:
            text, rest = data[:end + 2], data[end + 5:]
        else:
            text, rest = self.hold(data), None
        lines = text.count(b'\n')
        if not lines == text.count(b'\r') == text.count(b'\r\n'):
            self.fault = fault_of(text)
            return b'', None
        return self.store(text.replace(b'\r\n', b'\n')), rest

    def hold(self, data):
        """data without the part at its end that may be the beginning of END, which is kept."""
        tail = data[-4:]
        at = tail.rfind(b'\r\n.') if not tail.endswith(b'\r\n') else len(tail) - 2
        if at < 0 or not END.startswith(tail[at:]):
            at = len(tail) - 1 if tail.endswith(b'\r') else len(tail)
        self.held = tail[at:]
        return data[:len(data) - len(self.held)]

    def store(self, text):
        """The stored form of lines that end with LF: dots, hops, size."""
        if b'\n.' in text:
            text = text.replace(b'\n.', b'\n')
        if self.fresh and text:
            text, self.fresh = text[1:], False
        if self.head is not None:
            self.look(text)
        before, self.size = self.size, self.size + len(text)
        if self.limit and self.size > self.limit:
            return text[:max(self.limit - before, 0)]
        return text

    def look(self, text):
        """Count hops in the header, which ends with the first empty line."""
        text = self.head + text
        if text[:1] == b'\n':
            header, over = b'', True
        else:
            end = text.find(b'\n\n')
            header, over = (text, False) if end < 0 else (text[:end + 1], True)
        self.hops += hops(header, over or header[-1:] == b'\n')
        if over:
            self.head = None
        else:
            self.head = header[header.rfind(b'\n') + 1:][:HEAD]


def hops(header, complete):
    """How many lines of this piece begin as a hop; the last one, unless complete, is left for later."""
    if not complete:
        header = header[:header.rfind(b'\n') + 1]
    header = b'\n' + header.lower()
    return sum(header.count(b'\n' + name) for name in HOP_NAMES)


def fault_of(text):
    """Which byte stands alone first in text that is known to hold a lone CR or LF."""
    at = 0
    while True:
        cr, lf = text.find(b'\r', at), text.find(b'\n', at)
        if lf >= 0 and (cr < 0 or lf < cr):
            return LF
        if lf != cr + 1:
            return CR
        at = lf + 1


class Chunks(Decoder):
    """The same for the chunks of BDAT (RFC 3030), which hold a text with its line ends, no dots, and no end of their
    own: feed gives (stored bytes, None), finish() what is left."""

    __slots__ = ('ended',)

    def __init__(self, limit=0):
        Decoder.__init__(self, limit)
        self.held, self.fresh, self.ended = b'', False, True

    def feed(self, data: bytes) -> tuple:
        """(stored bytes, None)"""
        data = self.held + data
        self.held = b'\r' if data[-1:] == b'\r' else b''
        data = data[:len(data) - len(self.held)]
        lines = data.replace(b'\r\n', b'\n')
        if b'\r' in lines or lines.count(b'\n') != len(data) - len(lines):
            self.fault = fault_of(data)
            return b'', None
        return self.kept(lines), None

    def kept(self, lines):
        """What is stored of it."""
        if lines:
            self.ended = lines[-1:] == b'\n'
        if self.head is not None:
            self.look(lines)
        before, self.size = self.size, self.size + len(lines)
        if self.limit and self.size > self.limit:
            return lines[:max(self.limit - before, 0)]
        return lines

    def finish(self):
        """A last line gets its end."""
        if self.held:
            self.fault = CR
            return b''
        return b'' if self.ended else self.kept(b'\n')


class LooseDecoder:
    """As Decoder, for a local client that may end its lines with LF alone (LSB: sendmail -bs); a lone CR is a
    fault all the same."""

    __slots__ = ('strict', 'cr')

    def __init__(self, limit=0):
        self.strict, self.cr = Decoder(limit), b''

    size = property(lambda self: self.strict.size)
    hops = property(lambda self: self.strict.hops)
    fault = property(lambda self: self.strict.fault)

    def feed(self, data: bytes) -> tuple:
        """As Decoder.feed; the rest comes with all its line ends made CR LF."""
        data = self.cr + data
        self.cr = b'\r' if data[-1:] == b'\r' else b''
        data = data[:len(data) - len(self.cr)]
        stored, rest = self.strict.feed(data.replace(b'\r\n', b'\n').replace(b'\n', b'\r\n'))
        if rest is not None:
            rest, self.cr = rest + self.cr, b''
        return stored, rest


# States of the plain machine: what the bytes since the last line end were.
START, DOT, DOT_CR, LINE, LINE_CR, OVER = range(6)


class PlainDecoder:
    """The same, one byte at a time."""

    __slots__ = ('limit', 'size', 'hops', 'fault', 'state', 'line', 'header')

    def __init__(self, limit=0):
        self.limit, self.size, self.hops, self.fault = limit, 0, 0, None
        self.state, self.line, self.header = START, b'', True

    def feed(self, data: bytes) -> tuple:
        """As Decoder.feed."""
        stored = bytearray()
        for at, byte in enumerate(data):
            for out in self.step(byte):
                self.size += 1
                self.count(out)
                if not self.limit or self.size <= self.limit:
                    stored.append(out)
            if self.fault:
                return b'', None
            if self.state == OVER:
                return bytes(stored), data[at + 1:]
        return bytes(stored), None

    def step(self, byte):
        """The bytes that are stored because of this one."""
        state = self.state
        if state in (DOT_CR, LINE_CR):
            if byte != 10:
                self.fault = CR
                return b''
            self.state = OVER if state == DOT_CR else START
            return b'' if state == DOT_CR else b'\n'
        if byte == 10:
            self.fault = LF
            return b''
        if byte == 13:
            self.state = DOT_CR if state == DOT else LINE_CR
            return b''
        if byte == 46 and state == START:
            self.state = DOT
            return b''
        self.state = LINE
        return bytes((byte,))

    def count(self, byte):
        """One stored byte of the header: is its line a hop?"""
        if not self.header:
            return
        if byte != 10:
            self.line = (self.line + bytes((byte,)))[:HEAD]
            return
        self.header = bool(self.line)
        self.hops += self.line.lower().startswith(HOP_NAMES)
        self.line = b''
