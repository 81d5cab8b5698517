"""Internationalised domains in ASCII (RFC 5890, 5891; Punycode, RFC 3492).

Labels are taken as they come but for capitals, which are lowered, and for letters in pieces, which are put together (NFC,
RFC 5891, 5.2): IDNA 2008 maps nothing else.  What DNS then says of a name that nobody can have registered is the answer to it.
"""
from unicodedata import normalize

BASE, T_MIN, T_MAX, SKEW, DAMP, FIRST_BIAS, FIRST_CODE = 36, 1, 26, 38, 700, 72, 128
DIGITS = b'abcdefghijklmnopqrstuvwxyz0123456789'
PREFIX = b'xn--'
LABEL = 63              # bytes of a label (RFC 1035)


def domain(name):
    """name (UTF-8) in ASCII, or None if it can have no such form; what is ASCII stays as it is."""
    if name.isascii():
        return name
    try:
        labels = [label(part) for part in name.decode('utf-8').lower().split('.')]
    except (UnicodeDecodeError, ValueError):
        return None
    return b'.'.join(labels)


def address(mailbox):
    """An address whose domain is in ASCII, or None: a local part has no other form than its own (RFC 6531, 3.2)."""
    if mailbox.isascii():
        return mailbox
    local, at, host = mailbox.rpartition(b'@')
    found = domain(host)
    return local + at + found if found is not None and local.isascii() else None


def label(part):
    """One label of a domain; ValueError if it is too long, or holds what no name does."""
    if part.isascii():
        return part.encode('ascii')
    part = normalize('NFC', part)
    if any(c < '-' or c in '/:;<=>?@[\\]^_`{|}~\x7f' for c in part):
        raise ValueError('no letter of a host name')
    made = PREFIX + punycode(part)
    if len(made) > LABEL:
        raise ValueError('a label too long')
    return made


def punycode(part):
    """RFC 3492, 6.3."""
    out = bytearray(ord(c) for c in part if c < '\x80')
    done = basic = len(out)
    if basic:
        out += b'-'
    code, delta, bias = FIRST_CODE, 0, FIRST_BIAS
    codes = [ord(c) for c in part]
    while done < len(codes):
        following = min(c for c in codes if c >= code)
        delta += (following - code) * (done + 1)
        code = following
        for c in codes:
            delta += c < code
            if c == code:
                out += number(delta, bias)
                bias = adapt(delta, done + 1, done == basic)
                delta, done = 0, done + 1
        delta, code = delta + 1, code + 1
    return bytes(out)


def number(value, bias):
    """A variable-length integer (RFC 3492, 3.3)."""
    out, at = bytearray(), BASE
    while True:
        threshold = min(max(at - bias, T_MIN), T_MAX)
        if value < threshold:
            out.append(DIGITS[value])
            return out
        value, rest = divmod(value - threshold, BASE - threshold)
        out.append(DIGITS[threshold + rest])
        at += BASE


def adapt(delta, points, first):
    """RFC 3492, 6.1."""
    delta = delta // DAMP if first else delta // 2
    delta += delta // points
    at = 0
    while delta > (BASE - T_MIN) * T_MAX // 2:
        delta //= BASE - T_MIN
        at += BASE
    return at + (BASE - T_MIN + 1) * delta // (delta + SKEW)
