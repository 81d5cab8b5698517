"""qpy-checkpassword, as root: looks whether a password is right, becomes its user, and then the program that
serves him.

    qpy-checkpassword program [argument ...]
    descriptors   3: name NUL password NUL timestamp NUL, 512 bytes at most, to its end
    reads         DIR/users/passwd (core.passwords); who a name is: users/cdb and passwd, as for mail
    exit          the program's; 1 no such name, or not its password; 2 wrong use; 111 later

Started without root it serves the account it runs as.
"""
from qpy import unix, unix_argon2
from qpy.core import exits, passwords
from qpy.core.getpw import Trouble
from qpy.lib import confine, execute, program, users

CREDENTIALS = 3
MOST = 512                  # bytes on descriptor 3
REFUSED, MISUSED = 1, 2
FILE = b'/users/passwd'
FILE_LIMIT = 64 << 20
SHELL = b'/bin/sh'


def main(home, args):
    """Read, verify, look up, become, and be the program."""
    unix.umask(0o077)
    confine.confine(home, b'checkpassword')
    name, password = read_credentials()
    if not args:
        raise program.Fatal(MISUSED, b'usage: qpy-checkpassword program [argument ...]')
    try:
        good = passwords.verify(entries(home), name, password, unix_argon2.argon2id)
    except passwords.NoLibrary:
        raise program.Fatal(exits.TEMP, passwords.NO_LIBRARY) from None
    if not good:
        return REFUSED
    user = account(home, name)
    become(user)
    environ = {**unix.environ, b'USER': user.user, b'HOME': user.home, b'SHELL': SHELL}
    problem = execute.along_path(args, environ)
    raise program.Fatal(exits.TEMP, b'unable to run %s: %s' % (args[0], program.reason(problem)))


def read_credentials():
    """(name, password) from descriptor 3."""
    try:
        data = unix.read_all(CREDENTIALS, MOST)
        unix.close(CREDENTIALS)
    except unix.error as problem:
        raise program.Fatal(MISUSED, b'unable to read descriptor 3: ' + program.reason(problem)) from None
    fields = data.split(b'\0')
    if len(fields) < 3:
        raise program.Fatal(MISUSED, b'descriptor 3 does not hold name, password and timestamp')
    return fields[0], fields[1]


def entries(home):
    """What users/passwd says."""
    try:
        return passwords.parse(unix.read_file(home + FILE, limit=FILE_LIMIT))
    except FileNotFoundError:
        return {}
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to read users/passwd: ' + program.reason(problem)) from None
    except passwords.BadFile as problem:
        raise program.Fatal(exits.TEMP, b'users/passwd, line %d: %s' % problem.args) from None


def account(home, name):
    """The user of a name: it must be a whole mailbox, not an address with an extension or one that nobody
    has."""
    try:
        user = users.Lookup(home).find(name)
    except Trouble as trouble:
        raise program.Fatal(exits.TEMP, b'unable to look up a user: ' + trouble.text) from None
    if user.dash or user.ext or user.uid == 0:
        raise program.Fatal(exits.TEMP, b'users/passwd has a name that no mail user has')
    return user


def become(user):
    """That user for good, in his home."""
    if unix.geteuid() == 0:
        confine.drop(user.uid, user.gid)
    elif unix.geteuid() != user.uid:
        raise program.Fatal(exits.TEMP, b'unable to become uid %d: not started as root' % user.uid)
    try:
        unix.chdir(user.home)
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to switch to a home: ' + program.reason(problem)) from None
