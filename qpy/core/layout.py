"""The directories of DIR: owners and modes, the one table.

qpy-install makes them, qpy-install --check and qpy-start compare them, the manual lists them.  Owners are roles of
core.accounts; in a rootless DIR everything belongs to DIR's owner, and DIR itself is closed.
"""
from qpy.core import accounts

#        directory          owner    group    mode   what it holds
TABLE = ((b'',              b'root', b'root', 0o755, b'everything of this installation'),
         (b'bin',           b'root', b'root', 0o755, b'launchers'),
         (b'control',       b'root', b'root', 0o755, b'what the administrator writes'),
         (b'keys',          b'root', b'qpyt', 0o750, b'keys and certificates of TLS'),
         (b'users',         b'root', b'root', 0o755, b'assign and cdb: who has mail here'),
         (b'alias',         b'alias', b'alias', 0o755, b'.qmail files of addresses that are no user'),
         (b'lib',           b'root', b'root', 0o755, b'the code, and the two packages it uses'),
         (b'man',           b'root', b'root', 0o755, b'the manual'),
         (b'doc',           b'root', b'root', 0o755, b'samples of control files'),
         (b'service',       b'root', b'root', 0o755, b'units for supervisors'),
         (b'run',           b'root', b'root', 0o755, b'sockets'),
         (b'queue',         b'root', b'root', 0o755, b'the queue'),
         (b'queue/mess',    b'qpyq', b'qpyq', 0o750, b'messages'),
         (b'queue/state',   b'qpys', b'qpyq', 0o750, b'what is known of messages not finished at once'),
         (b'check',         b'qpyc', b'qpyc', 0o700, b'what the checks of clients remember'),
         (b'tls',           b'qpyr', b'qpyr', 0o750, b'what TLS with other hosts came to'),
         (b'queue/damaged', b'qpyq', b'qpyq', 0o700, b'torn messages, set aside'))

ROOTLESS_MODE = 0o700       # of DIR itself
WRITTEN = (b'run', b'queue', b'queue/mess', b'queue/state', b'queue/damaged', b'check', b'tls')     # by the chain
NEEDED_TO_RUN = (b'', b'bin', b'control', b'run', b'queue', b'queue/mess', b'queue/state', b'queue/damaged')

assert all(role in accounts.ROLES or role == b'root' for _, owner, group, _, _ in TABLE for role in (owner, group))


def rows(rootless):
    """TABLE's rows as (directory, owner, group, mode) for a rooted or a rootless DIR."""
    return [(name, owner, group, ROOTLESS_MODE if rootless and not name else mode)
            for name, owner, group, mode, _ in TABLE]


PLAIN = b'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./-_'


def typed(path):
    """path as a person types it to a shell: in a remedy a name must not be anything but a name."""
    if path and not path.translate(None, PLAIN):
        return path
    if all(32 <= byte < 127 for byte in path):
        return b"'%s'" % path.replace(b"'", b"'\\''")
    return b"$'%s'" % b''.join(bytes((byte,)) if 32 <= byte < 127 and byte not in b"'\\" else b'\\x%02x' % byte for byte in path)


def complaint(path, want, have, chown=None, by=b''):
    """What is wrong with a directory, with the remedy; b'' if nothing is.

    want: (uid, gid, mode) where None is not looked at; have: (uid, gid, mode) or None if it is not there.  chown: OWNER ->
    the command, if another than usual; by: what is typed before chmod."""
    uid, gid, mode = want
    if have is None:
        return b'%s: missing; run qpy-install' % path
    if uid is not None and have[0] != uid or gid is not None and have[1] != gid:
        owner = b'%d:%d' % (have[0] if uid is None else uid, have[1] if gid is None else gid)
        return b'%s: belongs to %d:%d, must belong to %s; %s' % (
            path, have[0], have[1], owner, chown(owner) if chown else b'chown %s %s' % (owner, typed(path)))
    if mode is not None and have[2] & 0o7777 != mode:
        digits = b'%05o' if have[2] & 0o6000 else b'%04o'       # chmod keeps these of a directory but for five
        return b'%s: has mode %04o, must have %04o; %schmod %s %s' % (path, have[2] & 0o7777, mode, by, digits % mode, typed(path))
    return b''


READ, SEARCH, BOTH = 0o4, 0o1, 0o5


def closed(path, mode, wanted, rootless):
    """What is wrong with a part of the code, or a directory on the way to it, that all accounts need (in a rootless DIR its
    owner alone), with the remedy; b'' if nothing is.  wanted: READ for a module, SEARCH for a directory above DIR, BOTH for
    one of the code and for a program."""
    bits = wanted << (6 if rootless else 0)
    if mode & bits == bits:
        return b''
    return b'%s: has mode %04o, %s cannot use it; chmod %s+%s %s' % (
        path, mode & 0o7777, b'its owner' if rootless else b'the accounts of mail and its users',
        b'u' if rootless else b'a', {READ: b'r', SEARCH: b'x', BOTH: b'rx'}[wanted], typed(path))


#                what a list of access for others is called, and what it does beside the mode; then path, and by as in complaint
ACCESS_LISTS = (('system.posix_acl_access', b'%s: has an access list, which opens it to more than its mode says; %ssetfacl -b %s'),
                ('system.posix_acl_default', b'%s: has an access list for what will be made in it; %ssetfacl -b %s'))


def nowhere(path, end, home=b''):
    """What is wrong with a link that leads nowhere, with the remedy; what it leads to may only not be mounted.  home: DIR, if
    qpy-install makes there what is missing."""
    return b'%s: is a link to %s, where nothing is; if that is not for now only, rm %s%s' % (
        path, end, typed(path), home and b' and run qpy-install ' + typed(home))


def no_program(directory):
    """What is wrong with a directory of programs on a file system mounted noexec, with the remedy."""
    return b'%s: is on a file system mounted noexec, where no program can be started; mount -o remount,exec ' \
           b'"$(findmnt -nro TARGET -T %s)"' % (directory, typed(directory))


def no_writing(path):
    """What is wrong with a directory that the chain writes to on a file system mounted read-only, with the remedy."""
    return b'%s: is on a file system mounted read-only, if no unit of systemd makes it so (ReadWritePaths=%s there); ' \
           b'mount -o remount,rw "$(findmnt -nro TARGET -T %s)"' % (path, path, typed(path))


def no_socket(path, is_directory):
    """What is wrong where something else has the name of a socket of DIR/run, with the remedy."""
    return b'%s: this is a %s, and must be a socket, which qpy-start makes; move it elsewhere' % (
        path, b'directory' if is_directory else b'file')
