"""Bytes as mail sees them: ASCII only, total on every input."""

_LOWER = bytes(c + 32 if 65 <= c <= 90 else c for c in range(256))
_LOGSAFE = bytes(ord('/') if c == 10 else ord('_') if c < 33 or c > 126 or c == 37 else c for c in range(256))
_PRINTABLE = bytes(c if 32 <= c < 127 else ord('?') for c in range(256))
_LISTED = bytes(c if 32 <= c < 127 else ord('_') for c in range(256))


def lower(text):
    """text with A-Z lowered and every other byte left alone."""
    return text.translate(_LOWER)


def logsafe(text):
    """text as qmail-send writes it into one field of a log line: newline to `/`, `%`, blanks and non-ASCII to `_`."""
    return text.translate(_LOGSAFE)


def printable(text):
    """text with every byte outside 32..126 shown as `?`."""
    return text.translate(_PRINTABLE)


def listed(text):
    """An address as qmail-qread shows it: every byte outside 32..126 is `_`."""
    return text.translate(_LISTED)


def is_printable(text):
    """Is every byte in 32..126?"""
    return text.translate(_PRINTABLE) == text


def one_line(text):
    """What somebody said, in one line for people: lines are joined by ` / `, other bytes outside 32..126 are `?`."""
    return printable(b' / '.join([line for line in text.split(b'\n') if line]))


def parse_uint(text, limit):
    """The number that text (1 to 19 ASCII digits and nothing else) stands for, or None if not so or above limit."""
    if not 1 <= len(text) <= 19 or text.strip(b'0123456789'):
        return None
    number = int(text)
    return number if number <= limit else None
