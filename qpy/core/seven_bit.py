"""A MIME message for a server without 8BITMIME: parts that say 8bit become quoted-printable (RFC 6152, section 3; RFC
2045, 6.7), one piece after the other.

    converter = Converter(); converter.feed(piece) -> bytes ...; converter.finish() -> bytes

What is not MIME, and what says that it is 7bit and is not, goes on as it came: nothing is known of it that could be
converted.  What is signed as it is (multipart/signed, RFC 1847, section 2.1) may not be altered: Sealed is raised where
there are 8 bits in it.  Lines end with LF.
"""
from qpy.core import text

HEADER_LIMIT = 256 * 1024       # bytes of the header of one part; a longer one is no header of anybody's
LINE_LIMIT = 1000               # bytes of a line that may be a boundary
SOFT = 76                       # bytes of a line of quoted-printable, its soft line break among them
NESTED = 50                     # multiparts in each other
HEADER, PLAIN, QUOTED, RAW = range(4)       # of a part: its header, its body as it is, its body encoded; all the rest

_BLANK = b' \t'
_SAFE = frozenset(range(33, 127)) - {ord('=')}
_QUOTED = [b'%c' % c if c in _SAFE or c in _BLANK else b'=%02X' % c for c in range(256)]


class Sealed(ValueError):
    """Something signed has 8 bits."""


class Converter:
    """One message on its way."""

    __slots__ = ('state', 'rest', 'header', 'size', 'boundaries', 'top', 'inside', 'column', 'sealed')

    def __init__(self):
        self.state, self.rest = HEADER, b''
        self.header, self.size = [], 0      # lines of the header that is being read
        self.boundaries = []                # of the multiparts that are open, the innermost last
        self.top = True                     # it is the header of the whole message
        self.inside = False                 # in the middle of a line too long to be held
        self.column = 0                     # of that line, encoded
        self.sealed = False                 # in a multipart/signed

    def feed(self, piece):
        """The next piece, converted as far as its lines are whole.  Sealed."""
        if self.state == RAW:
            rest, self.rest = self.rest, b''
            return rest + piece
        *lines, self.rest = (self.rest + piece).split(b'\n')
        out = [self._line(line, b'\n') for line in lines]
        if len(self.rest) > LINE_LIMIT:
            out.append(self._line(self.rest[:-1], b''))     # of the last byte it matters whether it is the last
            self.rest = self.rest[-1:]
        return b''.join(out)

    def finish(self):
        """What is left: a last line without its end, or a header without a body.  Sealed."""
        last, self.rest = self.rest, b''
        out = self._line(last, b'', True) if last else b''
        return out + (self._given_up() if self.state == HEADER else b'')

    def _line(self, line, end, final=False):
        """A line without its end, or a part of one that is too long: then end is empty.  final: nothing follows."""
        inside, self.inside = self.inside, not end
        whole = not inside and (end or final) and len(line) <= LINE_LIMIT
        if self.state == RAW:
            return line + end
        if whole and line.startswith(b'--') and self._boundary(line):
            header = self._given_up() if self.state == HEADER else b''
            self.state = HEADER if self._opens(line) else PLAIN
            self.sealed = False             # its own boundaries are not looked for
            return header + line + end
        if self.state == HEADER:
            return self._head(line, end, inside)
        if self.state == QUOTED:
            return self._quoted(line, end, inside, final)
        if self.sealed and not line.isascii():
            raise Sealed('8 bits in what is signed')
        return line + end

    # --- multiparts ---

    def _boundary(self, line):
        """Is this the boundary of an open multipart?  Those in it are closed then (RFC 2046, 5.1.2)."""
        words = line.rstrip(b' \t\r')
        for depth in range(len(self.boundaries) - 1, -1, -1):
            if words in (b'--' + self.boundaries[depth], b'--%s--' % self.boundaries[depth]):
                ends = words.endswith(b'--') and words != b'--' + self.boundaries[depth]
                del self.boundaries[depth + (not ends):]
                return True
        return False

    def _opens(self, line):
        """Does a part begin after this boundary, or an epilogue?"""
        return bool(self.boundaries) and line.rstrip(b' \t\r') == b'--' + self.boundaries[-1]

    # --- headers ---

    def _head(self, line, end, inside):
        """A line of a header, or a part of one; the whole header, when it ends."""
        if line.rstrip(b'\r') or not end or inside:
            self.header.append(line + end)
            self.size += len(line) + 1
            return b'' if self.size <= HEADER_LIMIT else self._given_up(RAW)
        return self._decide() + line + end

    def _given_up(self, state=PLAIN):
        """The header as it came."""
        header, self.header, self.size, self.state = b''.join(self.header), [], 0, state
        self.top = False
        return header

    def _decide(self):
        """The end of a header: what becomes of the body, and the header that says so."""
        lines, fields = self.header, fields_of(self.header)
        top = self.top
        self._given_up()
        if top and b'mime-version' not in fields:
            self.state = RAW
            return b''.join(lines)
        kind, boundary = content_type(fields.get(b'content-type', b'text/plain'))
        encoding = text.lower(fields.get(b'content-transfer-encoding', b'')).strip(_BLANK)
        eight, multipart = encoding in (b'8bit', b'binary'), kind.startswith(b'multipart/')
        self.sealed = kind == b'multipart/signed'
        if self.sealed or stays(kind):
            return b''.join(lines)
        if multipart and boundary and len(self.boundaries) < NESTED:
            self.boundaries.append(boundary)
        elif kind == b'message/rfc822':
            self.state = HEADER
        elif eight and not multipart:
            self.state, self.column = QUOTED, 0
        if not eight:
            return b''.join(lines)
        return with_encoding(lines, b'quoted-printable' if self.state == QUOTED else b'7bit')

    # --- quoted-printable ---

    def _quoted(self, line, end, inside, final):
        """A line, or a part of one, in lines of at most SOFT bytes; a blank at its end is encoded."""
        if end and line.endswith(b'\r'):
            line = line[:-1]
        out, column = [], self.column if inside else 0
        last = len(line) - 1
        for place, c in enumerate(line):
            word = b'=%02X' % c if place == last and (end or final) and c in _BLANK else _QUOTED[c]
            if column + len(word) >= SOFT:
                out.append(b'=\n')
                column = 0
            out.append(word)
            column += len(word)
        self.column = column
        return b''.join(out) + end


def stays(kind):
    """Is this a type that has no other encoding than 7bit (RFC 2046, 5.2; RFC 3464, section 2)?  Those of internationalised
    mail have (RFC 6532, 3.7; RFC 6533, sections 4 and 5)."""
    return kind.startswith(b'message/') and kind != b'message/rfc822' and not kind.startswith(b'message/global')


def fields_of(lines):
    """{lower-case name: value} of a header's lines, the first of each name; unfolded."""
    found, name = {}, b''
    for line in lines:
        words = line.rstrip(b'\r\n')
        if line[:1] in (b' ', b'\t'):
            if name:
                found[name] += b' ' + words.strip(_BLANK)
            continue
        key, colon, value = words.partition(b':')
        name = text.lower(key.rstrip(_BLANK)) if colon else b''
        if name in found:
            name = b''
        elif name:
            found[name] = value.strip(_BLANK)
    return found


def content_type(value):
    """(type/subtype in lower case, boundary or b'') of a Content-Type field."""
    kind, _, rest = value.partition(b';')
    boundary = b''
    while rest and not boundary:
        name, _, rest = rest.partition(b'=')
        quoted = rest.lstrip(_BLANK)[:1] == b'"'
        word, _, rest = (rest.lstrip(_BLANK)[1:].partition(b'"') if quoted else rest.partition(b';'))
        if text.lower(name.strip(_BLANK + b';')) == b'boundary':
            boundary = word.rstrip(_BLANK) if quoted else word.strip(_BLANK)
    return text.lower(kind.strip(_BLANK)), boundary


def with_encoding(lines, encoding):
    """A header whose Content-Transfer-Encoding is another."""
    out, dropping = [], False
    for line in lines:
        if line[:1] in (b' ', b'\t'):
            out += [] if dropping else [line]
            continue
        dropping = text.lower(line.partition(b':')[0].rstrip(_BLANK)) == b'content-transfer-encoding'
        out.append(b'Content-Transfer-Encoding: %s\n' % encoding if dropping else line)
    return b''.join(out)
