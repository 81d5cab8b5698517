"""users/assign, and users/cdb made of it: who owns an address, decided by a table instead of by passwd.

    =joe.shmoe:joe:503:78:/home/joe:::            exactly joe.shmoe is joe
    +joe-:joe:503:78:/home/joe:-::                joe-ANYTHING is joe with the extension ANYTHING
    +:alias:7790:2108:/var/qpy/alias:-::          anything else is alias
    .                                             the end

cdb:  !joe.shmoe NUL -> user NUL uid NUL gid NUL home NUL dash NUL ext        (exact)
      !joe-          -> the same                                              (wildcard)
      (empty key)    -> the last characters of all wildcards, each once
Keys are in lower case. An exact entry comes before all wildcards, a longer wildcard before a shorter one.
The first line with a key wins.
"""

from qpy.core import cdb, text
from qpy.core.getpw import Trouble, User

QLX_CDB = 117                       # qmail-lspawn: trouble with users/cdb
MAXIMUM_ID = 0xfffffffe


class AssignError(Exception):
    """users/assign is not in its format: number of the line (0: none), and why."""

    def __init__(self, line, why):
        super().__init__(line, why)
        self.line, self.why = line, why


def parse(data):
    """([(key, value)] for the cdb, [(line number, warning)]) of users/assign. AssignError."""
    records, warnings, wildcards = [], [], b''
    for n, line in enumerate(data.split(b'\n')[:-1] if data.endswith(b'\n') else data.split(b'\n'), 1):
        if line[:1] == b'.':
            records.append((b'', wildcards))
            return records, warnings
        key, fields = parse_line(line, n)
        records.append((key, b'\0'.join(fields)))
        warnings += [(n, word) for word in doubts(line, fields)]
        if len(key) > 1 and key[-1:] != b'\0' and key[-1:] not in wildcards:
            wildcards += key[-1:]
    raise AssignError(0, b'no line with a dot at the end')


def parse_line(line, n):
    """(cdb key, [user, uid, gid, home, dash, ext]) of one line."""
    parts = line.split(b':', 7)
    if not line:
        raise AssignError(n, b'an empty line')
    if b'\0' in line or b'\r' in line:
        raise AssignError(n, b'a NUL or carriage return')
    if len(parts) < 8 or not parts[0]:
        raise AssignError(n, b'fewer than seven colons' if parts[0] else b'no address')
    name = b'!' + text.lower(parts[0][1:])
    return (name if line[:1] == b'+' else name + b'\0'), parts[1:7]


def doubts(line, fields):
    """What qmail-newu accepts, but nobody means, or no delivery will accept: words for warnings."""
    user, uid, gid, home, _, _ = fields
    if line[:1] not in (b'=', b'+'):
        yield b'neither = nor + in front: it counts as = in place of its first character, and there are no comments'
    if number(uid) is None or number(gid) is None:
        yield b'uid or gid is not a number: mail will be deferred'
    elif number(uid) == 0:
        yield b'uid 0: mail will be deferred, nothing is delivered as root'
    if home[:1] != b'/':
        yield b'the home directory does not begin with a slash: mail will be deferred'
    if not user:
        yield b'no user name'


def number(field):
    """A uid or gid, None if it is not one."""
    return text.parse_uint(field, MAXIMUM_ID)


def ids(values):
    """[(uid, gid)] of values of users/cdb, those that are none left out."""
    fields = [value.split(b'\0') for value in values]
    found = [(number(value[1]), number(value[2])) for value in fields if len(value) == 6]
    return [pair for pair in found if None not in pair]


def find(local, get):
    """The User of a local part by users/cdb, None if it is not there.

    get: that of a core.cdb.Cdb, raising CdbError. Trouble if the answer makes no sense. An ext that came by
    a wildcard has the case it had in local."""
    wildcards = get(b'')
    if wildcards is None:
        raise Trouble(QLX_CDB, b'users/cdb has no wildcard record; run qpy-newu')
    key = b'!' + text.lower(local)
    value = get(key + b'\0')
    if value is not None:
        return user(value, b'', b'users/assign, =' + text.lower(local))
    hashes = cdb.prefix_hashes(key)
    for length in range(len(local), -1, -1):
        if length and key[length] not in wildcards:
            continue
        value = get(key[:length + 1], hashes[length + 1])
        if value is not None:
            return user(value, local[length:], b'users/assign, +' + key[1:length + 1])
    return None


def user(value, rest, reason):
    """The User of a cdb value, rest appended to its ext. Trouble if it lacks fields or may not be used."""
    fields = value.split(b'\0')
    if len(fields) != 6:
        raise Trouble(QLX_CDB, reason + b': users/cdb is damaged; run qpy-newu')
    name, uid, gid, home, dash, ext = fields
    uid, gid = number(uid), number(gid)
    if uid is None or gid is None or home[:1] != b'/':
        raise Trouble(QLX_CDB, reason + b': uid, gid or home directory cannot be used')
    if uid == 0:
        raise Trouble(QLX_ROOT, reason + b': uid 0; nothing is delivered as root')
    return User(name, uid, gid, home, dash, ext + rest, reason)


QLX_ROOT = 113                      # qmail-lspawn: not allowed to perform deliveries as root


def build(data):
    """(bytes of users/cdb, [(line number, warning)]) of users/assign. AssignError, ValueError (4 GB)."""
    records, warnings = parse(data)
    return cdb.build(records), warnings
