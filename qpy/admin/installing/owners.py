"""The accounts and groups of DIR: their names, which are missing, and their numbers."""
import grp
import os
import pwd

from qpy.admin.installing import doing
from qpy.core import accounts, grammar
from qpy.lib import controls


def account_names(home):
    """{role: name}, as control/accounts may have it."""
    try:
        controls.parsed(grammar.check, os.fsencode(home), b'accounts')
        lines = controls.listing(os.fsencode(home), b'accounts')
    except controls.Broken as broken:
        raise doing.Trouble(os.fsdecode(broken.why)) from None
    return {role.decode(): name.decode() for role, name in accounts.names(lines or []).items()}


def make_accounts(home):
    """The system accounts and groups that are missing."""
    names = account_names(home)
    for group in dict.fromkeys(accounts.GROUP.values()):
        if not doing.exists(grp.getgrnam, names[group.decode()]):
            doing.run('groupadd', '--system', names[group.decode()])
    for role, group, what in accounts.TABLE:
        name = names[role.decode()]
        if not doing.exists(pwd.getpwnam, name):
            place = os.path.join(home, 'alias') if role == b'alias' else home
            doing.run('useradd', '--system', '--gid', names[group.decode()], '--home-dir', place, '--no-create-home',
                      '--shell', '/usr/sbin/nologin', '--comment', 'qpy ' + what.decode().replace(';', ' and'), name)
        elif pwd.getpwnam(name).pw_uid == 0:
            raise doing.Trouble('the account %s has uid 0; name another in control/accounts' % name)


def identities(home, rootless):
    """{role: (uid, gid)} including root; None where an account is missing."""
    if rootless:
        there = os.stat(home)
        return {role.decode(): (there.st_uid, there.st_gid) for role in accounts.ROLES + (b'root',)}
    names, found = account_names(home), {'root': (0, 0)}
    for role, group, _ in accounts.TABLE:
        try:
            found[role.decode()] = (pwd.getpwnam(names[role.decode()]).pw_uid,
                                    grp.getgrnam(names[group.decode()]).gr_gid)
        except KeyError:
            found[role.decode()] = None
    return found
