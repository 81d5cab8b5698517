"""users/passwd: who may log in, and a hash of his password by argon2id (RFC 9106) or scrypt (RFC 7914), in a line that says
how it was made; behind a colon the keys of SCRAM-SHA-256 (RFC 5802, 3), from which no password follows either.

    #secret:RANDOM
    joe:$argon2id$v=19$m=47104,t=1,p=1$SALT$HASH:$scram-sha-256$i=100000$SALT$STOREDKEY$SERVERKEY
    ann:$scrypt$ln=15,r=8,p=1$SALT$HASH

All in base64 without padding. An unknown name costs the time of a known one, so that time does not tell who
exists; and it has a salt of its own, always the same, made of the secret.

Python has no argon2id: where it is wanted, `argon2id` is unix_argon2's function, None where that library is not there.
"""
from _operator import _compare_digest as same
from binascii import Error, a2b_base64, b2a_base64
from hashlib import scrypt

from _hashlib import hmac_digest, openssl_sha256 as sha256, pbkdf2_hmac

from qpy.core import saslprep, text

SCRYPT, ARGON2ID = b'scrypt', b'argon2id'
#: what is written, each about a tenth of a second: 32 MB; 46 MB, as OWASP has it
WRITTEN = {SCRYPT: (15, 8, 1), ARGON2ID: (47104, 1, 1)}
#: what follows the name; the names of the numbers, and the most they may be
SHAPES = {SCRYPT: (b'', ((b'ln', 20), (b'r', 32), (b'p', 16))),
          ARGON2ID: (b'$v=19', ((b'm', 1 << 20), (b't', 64), (b'p', 16)))}
SIZE, SALT = 32, 16         # bytes of hash and salt
NAME_MAX, PASSWORD_MAX = 255, 400       # bytes; all that checkpassword may get are 512
ITERATIONS, ITERATIONS_MAX = 100000, 10000000     # of SCRAM: as many at each login of a client
SECRET = b'#secret:'
NO_LIBRARY = b'users/passwd has a hash by argon2id, and libargon2 is not here; apt install libargon2-1'


class NoLibrary(Exception):
    """A hash by argon2id, and nothing here that could make one."""


class BadFile(ValueError):
    """A line that is no entry; args: its number, remedy."""


def parse(data):
    """{name in lower case: Hash} of the file."""
    found = {}
    for number, line in enumerate(data.split(b'\n'), 1):
        if not line or line[:1] == b'#':
            continue
        name, colon, rest = line.partition(b':')
        first, more, second = rest.partition(b':')
        entry = parse_hash(first)
        if not name or not colon or entry is None or more and parse_scram(second) is None:
            raise BadFile(number, b'not NAME:$argon2id$... or NAME:$scrypt$...; write it with qpy-passwd')
        found.setdefault(text.lower(name), entry)
    return found


class Hash:
    """Of one password.  kind: SCRYPT or ARGON2ID; numbers: as SHAPES has them."""

    __slots__ = ('kind', 'numbers', 'salt', 'digest')

    def __init__(self, kind, numbers, salt, digest):
        self.kind, self.numbers, self.salt, self.digest = kind, numbers, salt, digest

    def can_be(self):
        """Is it long enough, and salted? (RFC 9106, 3.1)"""
        least = 8 if self.kind == ARGON2ID else 1
        room = self.kind == SCRYPT or self.numbers[0] >= 8 * self.numbers[2]
        return len(self.digest) == SIZE and len(self.salt) >= least and room

    def written(self):
        """As in the file."""
        more, names = SHAPES[self.kind]
        pairs = b','.join(b'%b=%d' % (name, number) for (name, _), number in zip(names, self.numbers))
        return b'$%b%b$%b$%b$%b' % (self.kind, more, pairs, base64(self.salt), base64(self.digest))


def parse_hash(value):
    """The Hash, None if it is none."""
    head, *parts = value.rsplit(b'$', 3)
    kind = head[1:].partition(b'$')[0]
    more, names = SHAPES.get(kind, (b'', ()))
    if not names or head != b'$' + kind + more or len(parts) != 3:
        return None
    pairs = [setting.partition(b'=') for setting in parts[0].split(b',')]
    if [name for name, _, _ in pairs] != [name for name, _ in names]:
        return None
    numbers = tuple(text.parse_uint(number, most) for (_, _, number), (_, most) in zip(pairs, names))
    try:
        salt, digest = (a2b_base64(part + b'=' * (-len(part) % 4)) for part in parts[1:])
    except Error:
        return None
    found = Hash(kind, numbers, salt, digest)
    return found if all(numbers) and found.can_be() else None


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
    salted = pbkdf2_hmac('sha256', saslprep.prepared(password), salt, ITERATIONS)
    stored = sha256(hmac_digest(salted, b'Client Key', 'sha256')).digest()
    return Keys(ITERATIONS, salt, stored, hmac_digest(salted, b'Server Key', 'sha256'))


def entry(name, password, salt, scram_salt=None, argon2id=None):
    """The line of a user, without its end. salts: SALT random bytes each, the second if he may use SCRAM; argon2id: see
    above. ValueError for what cannot be one."""
    if not 0 < len(name) <= NAME_MAX or name[:1] == b'#' or any(c < 33 or c in b':\x7f' for c in name):
        raise ValueError('not a name')
    if not 0 < len(password) <= PASSWORD_MAX or not {0, 10, 13}.isdisjoint(password):
        raise ValueError('not a password: from 1 to %d bytes in one line' % PASSWORD_MAX)
    kind = ARGON2ID if argon2id else SCRYPT
    made = Hash(kind, WRITTEN[kind], salt, hashed(password, kind, WRITTEN[kind], salt, argon2id))
    line = text.lower(name) + b':' + made.written()
    if scram_salt is None:
        return line
    keys = scram_keys(password, scram_salt)
    return line + b':$scram-sha-256$i=%d$%b$%b$%b' % (keys.iterations, *map(base64, (keys.salt, keys.stored, keys.server)))


def hashed(password, kind, numbers, salt, argon2id):
    """The hash of a password."""
    if kind == SCRYPT:
        ln, r, p = numbers
        return scrypt(password, salt=salt, n=1 << ln, r=r, p=p, maxmem=256 * r * ((1 << ln) + p + 4), dklen=SIZE)
    if argon2id is None:
        raise NoLibrary
    return argon2id(password, salt, *numbers, SIZE)


def base64(data):
    """Without padding."""
    return b2a_base64(data, newline=False).rstrip(b'=')


def with_secret(data, random):
    """The file, with a secret: what makes salts for those who are not in it."""
    lines = data.split(b'\n')
    return data if any(line.startswith(SECRET) for line in lines) else SECRET + base64(random) + b'\n' + data


def verify(entries, name, password, argon2id=None):
    """Is this the password of that name? Takes its time in any case.  NoLibrary."""
    found = entries.get(text.lower(name))
    known = found or stand_in(entries, text.lower(name))
    good = same(hashed(password, known.kind, known.numbers, known.salt, argon2id), known.digest)
    return good and found is not None


def stand_in(entries, name):
    """Whose time a name takes that nobody has: always the same one's of those that are there."""
    if not entries:
        return Hash(SCRYPT, WRITTEN[SCRYPT], bytes(SALT), bytes(SIZE))
    number = int.from_bytes(sha256(name).digest()[:8], 'big') % len(entries)
    return list(entries.values())[number]


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
