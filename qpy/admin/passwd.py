"""qpy-passwd, as root: sets or removes the password of a mail user in DIR/users/passwd.

    qpy-passwd [-d] NAME        the password: typed twice, or of descriptor 0 its first line
    exit    0; 100 wrong use, or not a password; 111 the file cannot be read or written
"""
import fcntl
import getpass
import grp
import os
import sys

from qpy import unix_argon2
from qpy.core import passwords
from qpy.core.getpw import Trouble
from qpy.lib import cdb, owner, packets, users

OK, WRONG, TEMP = 0, 100, 111
USAGE = 'usage: qpy-passwd [-d] NAME'


class Refused(Exception):
    """Not done, and why."""


def main(home, args):
    """Read the password, write the file."""
    remove = args[:1] == [b'-d']
    words = args[1:] if remove else args
    if len(words) != 1 or words[0][:1] == b'-':
        return complain(USAGE, WRONG)
    name, path = words[0], home + b'/users/passwd'
    try:
        owner.become(home)
        line = None if remove else entry(name, ask())
        warn_of_strangers(home, name)
        replace(path, name, line)
    except passwords.BadFile as problem:
        return complain('users/passwd, line %d: %s' % (problem.args[0], problem.args[1].decode()), TEMP)
    except (ValueError, Refused) as problem:
        return complain(problem, WRONG)
    except OSError as problem:
        return complain(problem, TEMP)
    return OK


def complain(problem, code):
    """One line."""
    print('qpy-passwd: fatal: %s' % problem, file=sys.stderr)
    return code


def ask():
    """The password."""
    if not sys.stdin.isatty():
        return sys.stdin.buffer.readline().rstrip(b'\n')
    first = getpass.getpass('Password: ')
    if getpass.getpass('Again: ') != first:
        raise Refused('the two are not the same')
    return os.fsencode(first)


def entry(name, password):
    """The line, by the best hash there is."""
    if unix_argon2.argon2id is None:
        print('qpy-passwd: warning: libargon2 is not installed (apt install libargon2-1): the hash is by scrypt',
              file=sys.stderr)
    return passwords.entry(name, password, os.urandom(passwords.SALT), os.urandom(passwords.SALT), unix_argon2.argon2id)


def warn_of_strangers(home, name):
    """A name that no mail user has is kept, but cannot log in."""
    try:
        user = users.Lookup(home).find(name)
    except Trouble:
        return
    if user.dash or user.ext:
        print('qpy-passwd: warning: no mail user has the name %s' % os.fsdecode(name), file=sys.stderr)


def replace(path, name, line):
    """Change one line of the file, which only its owner and qpy-auth can read."""
    with open(path + b'.lock', 'wb', opener=lambda path, flags: os.open(path, flags, 0o600)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with open(path, 'rb') as file:
                data = file.read()
        except FileNotFoundError:
            data = b''
        passwords.parse(data)           # a file that is broken is not written anew
        data = passwords.replaced(data, name, line)
        cdb.replace(path, passwords.with_secret(data, os.urandom(passwords.SALT)), 0o600)
        for_auth(path)


def for_auth(path):
    """Let the group of qpy-auth read it, where there is one."""
    home = os.path.dirname(os.path.dirname(path))
    if os.stat(home).st_uid == 0:
        try:
            os.chown(path, 0, grp.getgrnam(os.fsdecode(packets.account_name(home, b'qpya'))).gr_gid)
        except KeyError:
            return
    os.chmod(path, 0o640)
