"""users/passwd: who may log in, and a hash of his password by scrypt (RFC 7914), in a line that says how it
was made; behind a colon the keys of SCRAM-SHA-256 (RFC 5802, 3), from which no password follows either.

    #secret:RANDOM
    joe:$scrypt$ln=15,r=8,p=1$SALT$HASH:$scram-sha-256$i=100000$SALT$STOREDKEY$SERVERKEY

All in base64 without padding. An unknown name costs the time of a known one, so that time does not tell who
exists; and it has a salt of its own, always the same, made of the secret.
"""
from _operator import _compare_digest as same
from binascii import Error, a2b_base64, b2a_base64
from hashlib import scrypt

from _hashlib import hmac_digest, openssl_sha256 as sha256, pbkdf2_hmac

from qpy.core import text

LN, R, P = 15, 8, 1         # what is written: 2 ** 15 * 8 * 128 bytes of memory, about a tenth of a second
LN_MAX, R_MAX, P_MAX = 20, 32, 16
SIZE, SALT = 32, 16         # bytes of hash and salt
NAME_MAX, PASSWORD_MAX = 255, 400       # bytes; all that checkpassword may get are 512
ITERATIONS, ITERATIONS_MAX = 100000, 10000000     # of SCRAM: as many at each login of a client
SECRET = b'#secret:'
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
        first, more, second = rest.partition(b':')
        entry = parse_hash(first)
        if not name or not colon or entry is None or more and parse_scram(second) is None:
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


class Keys:
    """What SCRAM-SHA-256 goes by. real: they are somebody's."""

    __slots__ = ('iterations', 'salt', 'stored', 'server', 'real')

    def __init__(self, iterations, salt, stored, server, real=True):
        self.iterations, self.salt, self.stored, self.server, self.real = iterations, salt, stored, server, real


class Scram:
    """The Keys of all; everybody: each user has some. random: a secret, where the file has none."""

    __slots__ = ('known', 'everybody', 'secret')

    def __init__(self, data, random):
        self.known, self.everybody, self.secret = {}, True, random
        for line in data.split(b'\n'):
            if line.startswith(SECRET):
                self.secret = line[len(SECRET):]
            if line and line[:1] != b'#':
                name, first, *second = line.split(b':', 2)
                self.everybody = self.everybody and bool(second)
                if second:
                    self.known.setdefault(text.lower(name), parse_scram(second[0]))

    def keys(self, name):
        """Those of a name; of a name that nobody has, what looks the same and fits no password."""
        name = text.lower(name)
        if name in self.known:
            return self.known[name]
        made = hmac_digest(self.secret, name, 'sha256')
        return Keys(ITERATIONS, made[:SALT], sha256(b'stored' + made).digest(), sha256(b'server' + made).digest(), False)


def parse_scram(value):
    """Keys, None if it is none."""
    parts = value.split(b'$')
    if len(parts) != 6 or parts[:2] != [b'', b'scram-sha-256'] or parts[2][:2] != b'i=':
        return None
    iterations = text.parse_uint(parts[2][2:], ITERATIONS_MAX)
    try:
        salt, stored, server = (a2b_base64(part + b'=' * (-len(part) % 4)) for part in parts[3:])
    except Error:
        return None
    return Keys(iterations, salt, stored, server) if iterations and salt and len(stored) == len(server) == SIZE else None


def scram_keys(password, salt):
    """The Keys of a password."""
    salted = pbkdf2_hmac('sha256', password, salt, ITERATIONS)
    stored = sha256(hmac_digest(salted, b'Client Key', 'sha256')).digest()
    return Keys(ITERATIONS, salt, stored, hmac_digest(salted, b'Server Key', 'sha256'))


def entry(name, password, salt, scram_salt=None):
    """The line of a user, without its end. salts: SALT random bytes each, the second if he may use SCRAM. ValueError
    for what cannot be one."""
    if not 0 < len(name) <= NAME_MAX or name[:1] == b'#' or any(c < 33 or c in b':\x7f' for c in name):
        raise ValueError('not a name')
    if not 0 < len(password) <= PASSWORD_MAX or not {0, 10, 13}.isdisjoint(password):
        raise ValueError('not a password: from 1 to %d bytes in one line' % PASSWORD_MAX)
    digest = hashed(password, LN, R, P, salt)
    line = b'%b:$scrypt$ln=%d,r=%d,p=%d$%b$%b' % (text.lower(name), LN, R, P, base64(salt), base64(digest))
    if scram_salt is None:
        return line
    keys = scram_keys(password, scram_salt)
    return line + b':$scram-sha-256$i=%d$%b$%b$%b' % (keys.iterations, *map(base64, (keys.salt, keys.stored, keys.server)))


def hashed(password, ln, r, p, salt):
    """scrypt."""
    return scrypt(password, salt=salt, n=1 << ln, r=r, p=p, maxmem=256 * r * ((1 << ln) + p + 4), dklen=SIZE)


def base64(data):
    """Without padding."""
    return b2a_base64(data, newline=False).rstrip(b'=')


def with_secret(data, random):
    """The file, with a secret: what makes salts for those who are not in it."""
    lines = data.split(b'\n')
    return data if any(line.startswith(SECRET) for line in lines) else SECRET + base64(random) + b'\n' + data


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
