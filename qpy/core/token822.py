"""Addresses as header fields hold them (RFC 822 section 3.3): text to tokens, tokens to addresses, and back to text.

A token is (kind, value): the words are ATOM, QUOTE, LITERAL and COMMENT with their text, free of quoting; the
specials are constants of this module.  An address is a list of tokens.  Rule of this file: one pass, no recursion,
time linear in the length of the text, whatever the text is.

    >>> tokens = parse(b'Joe <joe@host>, (list) mary')
    >>> address_list(tokens, lambda address: address)[1]          # from right to left, as qmail does
    [[(b'a', b'mary')], [(b'a', b'joe'), (b'@', b''), (b'a', b'host')]]
"""

ATOM, QUOTE, LITERAL, COMMENT = b'a', b'"', b'[', b'('
AT, DOT, COMMA, COLON, SEMICOLON, LEFT, RIGHT = ((c, b'') for c in (b'@', b'.', b',', b':', b';', b'<', b'>'))

_SPECIALS = {token[0][0]: token for token in (AT, DOT, COMMA, COLON, SEMICOLON, LEFT, RIGHT)}
_BLANKS = frozenset(b' \t\r\n')
_OPENERS = {ord('('): (COMMENT, ord(')')), ord('"'): (QUOTE, ord('"')), ord('['): (LITERAL, ord(']'))}
_ATOM_ENDS = frozenset(b' \t\r\n(["<>;:@,.')
_ATOM_BYTES = bytes(c for c in range(33, 127) if c not in b'()[]<>;:@,."\\')
_WORDS = frozenset((ATOM, QUOTE, LITERAL, COMMENT))
_PHRASE = frozenset((COMMENT, ATOM, QUOTE, AT[0], DOT[0]))
_ESCAPED = frozenset(b'"[]()\\')
_BACKSLASH, _OPEN, _DOT = ord('\\'), ord('('), ord('.')


class Unparsable(ValueError):
    """Not an address list: an unclosed quote, a colon without a group, and the like."""


SPACED = (b'.', b' ')           # a dot with a blank behind it, as in the phrase John Q. Public


def parse(text, spaced=False):
    """The tokens of text; Unparsable if a quote, comment or literal is not closed or was never opened.  spaced: a dot that
    a blank follows is SPACED, for address_list."""
    tokens, at, end = [], 0, len(text)
    while at < end:
        byte = text[at]
        if byte in _SPECIALS:
            at += 1
            tokens.append(SPACED if spaced and byte == _DOT and text[at:at + 1].isspace() else _SPECIALS[byte])
        elif byte in _BLANKS:
            at += 1
        elif byte in _OPENERS:
            kind, closer = _OPENERS[byte]
            value, at = _enclosed(text, at + 1, kind is COMMENT, closer)
            tokens.append((kind, value))
        elif byte in b')]':
            raise Unparsable('closed but never opened')
        else:
            value, at = _atom(text, at)
            tokens.append((ATOM if value and not value.translate(None, _ATOM_BYTES) else QUOTE, value))
    return tokens


def _enclosed(text, at, nests, closer):
    """What stands before the closer that belongs to the opener before at, unquoted, and where it ends.

    Brackets of inner comments are dropped, as qmail drops them.
    """
    value, level, end = bytearray(), 1, len(text)
    while at < end:
        byte = text[at]
        if byte == closer:
            level -= 1
            if not level:
                return bytes(value), at + 1
        elif nests and byte == _OPEN:
            level += 1
        else:
            if byte == _BACKSLASH:
                at += 1
            value += text[at:at + 1]
        at += 1
    raise Unparsable('opened but never closed')


def _atom(text, at):
    """The atom that begins at `at`, its backslashes undone, and where it ends."""
    begin, end = at, len(text)
    quoted = False
    while at < end and (at == begin or text[at] not in _ATOM_ENDS):
        if text[at] == _BACKSLASH:
            quoted = True
            at += 1
        at += 1
    return _unescaped(text[begin:at]) if quoted else text[begin:at], min(at, end)


def _unescaped(text):
    """text without the backslashes that quote its bytes."""
    value, at = bytearray(), 0
    while at < len(text):
        if text[at] == _BACKSLASH:
            at += 1
        value += text[at:at + 1]
        at += 1
    return bytes(value)


# --- tokens to text ------------------------------------------------------------------------------------------

def unquote(address):
    """An address as an envelope holds it: no quoting, no comments."""
    return b''.join(b'[%s]' % value if kind == LITERAL else value if kind in _WORDS else kind
                    for kind, value in address if kind != COMMENT)


def written(address):
    """An address as a field holds it, with quotes, for a message to a person."""
    return b''.join(_written(kind, value) for kind, value in address)


def unparse(name, tokens, width=80):
    """The field `name: tokens` in qmail's form, ending in a newline; lines are broken after commas only."""
    lines, line = [], None
    for segment in _segments(name, tokens):
        if line is None:
            line = segment
        elif len(line) + 2 + len(segment) <= width:
            line += segment
        elif segment:
            lines.append(line)
            line = b' ' + segment
    return b'\n'.join(lines + [line]) + b'\n'


def _segments(name, tokens):
    """The pieces of a field that no line break may divide; all but the last end in a comma."""
    piece, last = [name, b':'], COLON
    for kind, value in tokens:
        if _blank_between(last[0], kind) or last == SPACED and kind in _WORDS:
            piece.append(b' ')
        last = kind, value
        piece.append(_written(kind, value))
        if kind == COMMA[0]:
            yield b''.join(piece)
            piece = []
    yield b''.join(piece)


def _blank_between(left, right):
    """Whether qmail writes a blank between two kinds of tokens."""
    return left == b':' or left == b',' or right == b'<' or left in _WORDS and right in _WORDS


def _written(kind, value):
    """One token as text; a line end in it (a quoted one, or from a name in the environment) is left out."""
    if kind not in _WORDS:
        return kind
    value = value.translate(None, b'\r\n')
    if not _ESCAPED.isdisjoint(value):
        value = b''.join(b'\\%c' % byte if byte in _ESCAPED else b'%c' % byte for byte in value)
    if kind == ATOM:
        return value
    return b'%s%s%s' % {QUOTE: (b'"', value, b'"'), LITERAL: (b'[', value, b']'), COMMENT: (b'(', value, b')')}[kind]


# --- tokens to addresses -------------------------------------------------------------------------------------

def address_list(tokens, rewrite):
    """Put every address of a list through rewrite(address) -> address.

    Returns (tokens of the rewritten list, [rewritten addresses from right to left]).  Missing commas between
    addresses are supplied.  Unparsable where the list has no meaning.
    """
    reader = _Reader(tokens, rewrite)
    reader.run()
    reader.out.reverse()
    return reader.out, reader.found


class _Reader:
    """One walk over a list, from right to left: the direction in which address lists are easy."""
    __slots__ = ('tokens', 'rewrite', 'at', 'out', 'found', 'address', 'in_group', 'word_ok')

    def __init__(self, tokens, rewrite):
        self.tokens, self.rewrite, self.at = tokens, rewrite, len(tokens) - 1
        self.out, self.found, self.address = [], [], []
        self.in_group, self.word_ok = False, True

    def run(self):
        while self.at >= 0:
            kind = self.tokens[self.at][0]
            _STEPS.get(kind, _Reader._in_address)(self)
        self._flush()

    def _move(self, target):
        target.append(self.tokens[self.at])
        self.at -= 1

    def _take(self):
        address = self.rewrite([DOT if token == SPACED else token for token in self.address[::-1]])
        self.found.append(address)
        self.out.extend(reversed(address))
        self.address = []

    def _flush(self, comma=False):
        if self.address:
            self._take()
            if comma:
                self.out.append(COMMA)

    def _semicolon(self):
        self._flush(comma=True)
        if self.in_group:
            raise Unparsable('group within a group')
        self.in_group = self.word_ok = True
        self._move(self.out)

    def _colon(self):
        self._flush()
        if not self.in_group:
            raise Unparsable('colon without a group')
        self.in_group, self.word_ok = False, True
        while self.at >= 0 and self.tokens[self.at] != COMMA:
            self._move(self.out)
        if self.at >= 0:
            self._move(self.out)

    def _right(self):
        """<address>, and the phrase before it.  The address counts even when it is empty."""
        self._flush(comma=True)
        self._move(self.out)
        while self.at >= 0 and self.tokens[self.at] != LEFT:
            self._move(self.address)
        if self.at < 0:
            raise Unparsable('closed but never opened')
        self._take()
        self._move(self.out)
        while self.at >= 0 and self.tokens[self.at][0] in _PHRASE:
            self._move(self.out)
        self.word_ok = False

    def _left(self):
        """One that no `>` has closed, or a second one: qmail makes it a part of the address."""
        raise Unparsable('opened but never closed')

    def _word(self):
        if not self.word_ok:
            self._flush(comma=True)
        self.word_ok = False
        self._move(self.address)

    def _comment(self):
        """Lexically a blank."""
        self._move(self.out)

    def _comma(self):
        self._flush()
        self.word_ok = True
        self._move(self.out)

    def _in_address(self):
        self.word_ok = True
        self._move(self.address)


_STEPS = {SEMICOLON[0]: _Reader._semicolon, COLON[0]: _Reader._colon, RIGHT[0]: _Reader._right, LEFT[0]: _Reader._left,
          ATOM: _Reader._word, QUOTE: _Reader._word, LITERAL: _Reader._word,
          COMMENT: _Reader._comment, COMMA[0]: _Reader._comma}
