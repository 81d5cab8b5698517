"""What lies in the directories of core.layout: owners and modes, the one table of qpy-install --check.

A path is looked up by the first row whose pattern it fits: * stands for any name, ** for what is below too, ID for a
message's.  Owners are roles of core.accounts; of several each will do, and the last one is what a remedy gives it to.
Modes are those of a file: what it must have at least, and may have at most; a directory may be searched by whom it may
be read by.  In a rootless DIR everything belongs to DIR's owner.
"""
from qpy.core import accounts

ANY = b''
#        files                        owner           group    least  most
TABLE = ((b'bin/*',                   b'root',        ANY,     0o555, 0o755),
         (b'lib/site/**',             b'root',        ANY,     0,     0o755),
         (b'lib/bin/*',               b'root',        ANY,     0o555, 0o755),       # Debian's package has it there
         (b'lib/**',                  b'root',        ANY,     0,     0o644),
         (b'control/smtplogins',      b'root',        ANY,     0,     0o640),
         (b'control/**',              b'root',        ANY,     0,     0o755),
         (b'keys/*.pem',              b'root',        b'qpyt', 0o440, 0o640),
         (b'keys/**',                 b'root',        ANY,     0,     0o640),
         (b'users/passwd',            b'root',        b'qpya', 0o640, 0o640),
         (b'users/passwd*',           b'root',        ANY,     0,     0o640),
         (b'users/**',                b'root',        ANY,     0o444, 0o755),
         (b'alias/**',                b'root alias',  ANY,     0,     0o755),
         (b'man/**',                  b'root',        ANY,     0o444, 0o644),
         (b'doc/**',                  b'root',        ANY,     0o444, 0o644),
         (b'service/qpy/run',         b'root',        ANY,     0o555, 0o755),
         (b'service/qpy/log/run',     b'root',        ANY,     0o555, 0o755),
         (b'service/qpy/log/main**',  ANY,            ANY,     0,     0o755),       # as whom the logger runs is the site's
         (b'service/**',              b'root',        ANY,     0,     0o755),
         (b'run/mailids',             b'root',        ANY,     0o444, 0o644),
         (b'queue/lock',              b'root',        ANY,     0o600, 0o600),
         (b'queue/mess/ID',           b'qpyq',        b'qpyq', 0o640, 0o640),
         (b'queue/mess/*.part',       b'qpyq',        b'qpyq', 0,     0o640),
         (b'queue/state/lock',        b'qpys',        ANY,     0o600, 0o600),
         (b'queue/state/ID',          b'qpys',        b'qpyq', 0o640, 0o640),
         (b'queue/state/copy.*',      b'qpys',        ANY,     0,     0o640),
         (b'queue/state/shorter',     b'qpys',        ANY,     0,     0o640),
         (b'queue/damaged/*',         b'qpyq',        ANY,     0,     0o640),
         (b'check/*',                 b'qpyc',        ANY,     0,     0o640),
         (b'tls/**',                  b'qpyr',        ANY,     0,     0o640))
MAILDIR, PARTS = (b'alias/', b'alias', ANY, 0o600, 0o755), {b'tmp', b'new', b'cur'}     # below alias, and what is in one
STRICT = (b'queue',)            # where a path that fits no row has no business

assert all(role in accounts.ROLES + (b'root',) for _, owner, group, _, _ in TABLE for role in owner.split() + group.split())


def for_directory(mode):
    """The mode of a directory for that of a file: searched by whom it may be read by."""
    return mode | (mode & 0o444) >> 2


def wanted(row, directory, house, have):
    """((uid, gid, mode) that something must have, each None where it has what the row wants).

    have: (uid, gid, mode); house: with .rootless, and .identity of roles; a role that is missing there is not looked at."""
    _, owner, group, least, most = row
    if directory:
        least, most = for_directory(least), for_directory(most)
    if house.rootless:
        least &= 0o700                          # the owner is everybody
    owners = [house.identity[role][0] for role in (owner.split() or ()) if role in house.identity]
    gid = house.identity[group][1] if group in house.identity and not house.rootless else None
    mode = have[2] & 0o777
    right = mode & most | least
    return (owners[-1] if owners and have[0] not in owners and not (house.rootless and have[0] == 0) else None,
            gid if gid != have[1] else None, right if right != mode else None)
