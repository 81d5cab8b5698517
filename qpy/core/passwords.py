"""users/passwd: who may log in, and a hash of his password by scrypt (RFC 7914), in a line that says how it
was made.

    joe:$scrypt$ln=15,r=8,p=1$SALT$HASH         salt and hash in base64 without padding

An unknown name costs the time of a known one, so that time does not tell who exists.
"""
from _operator import _compare_digest as same
from binascii import Error, a2b_base64, b2a_base64
from hashlib import scrypt

from qpy.core import text

LN, R, P = 15, 8, 1         # what is written: 2 ** 15 * 8 * 128 bytes of memory, about a tenth of a second
LN_MAX, R_MAX, P_MAX = 20, 32, 16
SIZE, SALT = 32, 16         # bytes of hash and salt
NAME_MAX, PASSWORD_MAX = 255, 400       # bytes; all that checkpassword may get are 512
DUMMY = (LN, R, P, bytes(SALT), bytes(SIZE))


class BadFile(ValueError):
    """A line that is no entry; args: its number, remedy."""


def parse(data):
    """{name in lower case: (ln, r, p, salt, hash)} of the file."""
    found = {}
    for number, line in enumerate(data.split(b'\n'), 1):
        if not line or line[:1] == b'#':
            continue
        name, colon, rest = line.partition(b':')
        entry = parse_hash(rest)
        if not name or not colon or entry is None:
            raise BadFile(number, b'not NAME:$scrypt$...; write it with qpy-passwd')
        found.setdefault(text.lower(name), entry)
    return found


def parse_hash(value):
    """(ln, r, p, salt, hash), None if it is none."""
    parts = value.split(b'$')
    if len(parts) != 5 or parts[:2] != [b'', b'scrypt']:
        return None
    pairs = [setting.partition(b'=') for setting in parts[2].split(b',')]
    if [name for name, _, _ in pairs] != [b'ln', b'r', b'p']:
        return None
    numbers = [text.parse_uint(number, most) for (_, _, number), most in zip(pairs, (LN_MAX, R_MAX, P_MAX))]
    try:
        salt, digest = (a2b_base64(part + b'=' * (-len(part) % 4)) for part in parts[3:])
    except Error:
        return None
    return (*numbers, salt, digest) if all(numbers) and salt and len(digest) == SIZE else None


def entry(name, password, salt):
    """The line of a user, without its end. salt: SALT random bytes. ValueError for what cannot be one."""
    if not 0 < len(name) <= NAME_MAX or name[:1] == b'#' or any(c < 33 or c in b':\x7f' for c in name):
        raise ValueError('not a name')
    if not 0 < len(password) <= PASSWORD_MAX or not {0, 10, 13}.isdisjoint(password):
        raise ValueError('not a password: from 1 to %d bytes in one line' % PASSWORD_MAX)
    digest = hashed(password, LN, R, P, salt)
    return b'%b:$scrypt$ln=%d,r=%d,p=%d$%b$%b' % (text.lower(name), LN, R, P, base64(salt), base64(digest))


def hashed(password, ln, r, p, salt):
    """scrypt."""
    return scrypt(password, salt=salt, n=1 << ln, r=r, p=p, maxmem=256 * r * ((1 << ln) + p + 4), dklen=SIZE)


def base64(data):
    """Without padding."""
    return b2a_base64(data, newline=False).rstrip(b'=')


def verify(entries, name, password):
    """Is this the password of that name? Takes its time in any case."""
    found = entries.get(text.lower(name))
    ln, r, p, salt, digest = found or DUMMY
    good = same(hashed(password, ln, r, p, salt), digest)
    return good and found is not None


def replaced(data, name, line):
    """The file with the line (None: without one) of a name."""
    name = text.lower(name)
    lines = data.split(b'\n') if data else []
    if lines and not lines[-1]:
        lines.pop()
    kept, placed = [], line is None
    for old in lines:
        if old[:1] == b'#' or text.lower(old.partition(b':')[0]) != name:
            kept.append(old)
        elif not placed:
            kept.append(line)
            placed = True
    return b''.join(each + b'\n' for each in kept + ([] if placed else [line]))
