"""qpy-install DIR --uninstall [--accounts] [--purge]: takes an installation away and says what it left.

What qpy-install has made by itself goes: links and diversions of the system's sendmail, links of supervisors and of
qmail's home, code, launchers, manual, units, sockets.  What people have written or sent stays unless --purge says
otherwise: control files, users, aliases with their mailboxes, a queue with mail in it.  Users' mailboxes are never
touched.  Accounts stay unless --accounts is given: files elsewhere may be theirs.
"""
import contextlib
import fcntl
import glob
import grp
import os
import pwd
import shutil

from qpy import unix
from qpy.admin.installing import doing, other_names, owners, places
from qpy.core import accounts, layout

THEIRS = ('control', 'users', 'alias', 'queue')             # what people have written or sent
OURS = tuple(name.decode() for name, *_ in layout.TABLE if name and b'/' not in name and name.decode() not in THEIRS)
SUPERVISED = ('/etc/systemd/system/*', '/etc/systemd/system/*.wants/*', '/etc/sysusers.d/*', '/etc/service/*',
              '/service/*', '/etc/sv/*')                    # where links to DIR/service may be


def uninstall(options):
    """Every step; each leaves alone what is not ours."""
    home = options.home
    if not is_ours(home, options.rootless):
        raise doing.Trouble('%s is no installation of qpy: it has no lib/qpy' % home)
    if os.path.islink(os.path.join(home, 'lib')):
        raise doing.Trouble('the code of %s belongs to a package; remove that: apt remove qpy' % home)
    if os.path.isdir(home) and (not os.access(home, os.W_OK) or os.stat(home).st_uid != os.geteuid()):
        raise doing.Trouble('%s is not yours to take away; run it as uid %d' % (home, os.stat(home).st_uid))
    with places.alone(home) if os.path.isdir(home) else contextlib.nullcontext():
        return take_away(home, options)


def take_away(home, options):
    """The steps that change something."""
    lock = not_running(home)
    if not options.rootless:
        give_sendmail_back(home)
        remove_links(home)
    names = owners.account_names(home)
    waiting = messages(home)
    remove(home, OURS)
    if options.purge:
        remove(home, THEIRS)
    elif not waiting:
        remove(home, ('queue',))
    if lock is not None:
        os.close(lock)
    if os.path.isdir(home) and not set(os.listdir(home)) - {places.LOCK}:
        shutil.rmtree(home)
        doing.say('%s is gone' % home)
    if not options.rootless and options.accounts:
        remove_accounts(home, names)
    for line in left(home, waiting, {} if options.accounts else names):
        doing.say(line)
    return doing.OK


def is_ours(home, rootless):
    """Whether this is an installation, or what is left of one where the same was asked for before.  A qmail is none."""
    if os.path.isdir(os.path.join(home, 'lib/qpy')):
        return True
    left_over = not os.path.lexists(os.path.join(home, 'bin')) and os.path.isfile(os.path.join(home, 'control/me'))
    return left_over or not rootless and lives_in(owners.account_names(home)['qpyq'], home)


def lives_in(account, home):
    """Whether there is this account, made for that directory."""
    return doing.exists(pwd.getpwnam, account) and pwd.getpwnam(account).pw_dir == home


def not_running(home):
    """A descriptor that holds the lock of qpy-start, None if there is no queue; Trouble if somebody runs there."""
    if not os.path.isdir(os.path.join(home, 'queue')):
        return None
    path = os.path.join(home, 'queue/lock')
    try:
        lock = unix.open_regular(path, os.O_WRONLY | os.O_CREAT, 0o600)
    except unix.NotRegular as problem:
        raise doing.Trouble('%s: %s; no qpy-start has made it: rm -r %s' % (path, problem.strerror, path)) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = places.running(home)        # systemd may have started each program by itself
    except BlockingIOError:
        held = True
    if held:
        os.close(lock)
        raise doing.Trouble('qpy runs in %s; stop it first (systemctl disable --now qpy, or sv down, svc -d)' % home)
    return lock


# --- the system around DIR -------------------------------------------------------------------------------------

def give_sendmail_back(home):
    """Undo what --sendmail did: our links go, what was there before comes back."""
    for path, name in other_names.SYSTEM_LINKS:
        if leads_into(path, home):
            os.unlink(path)
            bring_back(path)
            doing.say('%s is %s' % (path, 'what it was before' if os.path.lexists(path) else 'gone'))


def leads_into(path, home):
    """Whether path is a link to something of DIR."""
    return os.path.islink(path) and (os.readlink(path) + '/').startswith(home + '/')


def bring_back(path):
    """What set_aside has put away, by dpkg's rules where there is dpkg."""
    kept = path + '.dist'
    if shutil.which('dpkg-divert'):
        if doing.run('dpkg-divert', '--list', path).strip():
            doing.run('dpkg-divert', '--local', '--rename', '--divert', kept, '--remove', path)
    if os.path.lexists(kept) and not os.path.lexists(path):
        os.rename(kept, path)


def remove_links(home):
    """Links of supervisors to our units and service directories, and of qmail's home to us."""
    for path in [*(name for pattern in SUPERVISED for name in glob.glob(pattern)), other_names.QMAIL_HOME]:
        if leads_into(path, home) or path == other_names.QMAIL_HOME and os.path.islink(path) and os.readlink(path) == home:
            os.unlink(path)
            doing.say('the link %s is removed' % path)


# --- DIR -------------------------------------------------------------------------------------------------------

def messages(home):
    """How many messages wait in the queue, also set aside as damaged: somebody may want to read them."""
    return sum(len(os.listdir(os.path.join(home, 'queue', name))) for name in ('mess', 'damaged')
               if os.path.isdir(os.path.join(home, 'queue', name)))


def remove(home, names):
    """Directories of DIR; a link goes, what it leads to stays."""
    for name in names:
        path = os.path.join(home, name)
        if os.path.islink(path):
            os.unlink(path)
        elif os.path.isdir(path):
            doing.run('rm', '-rf', '--', path)      # which goes as deep as somebody has made directories


def left(home, waiting, names):
    """What is still there, and how to be rid of it.  names: of the accounts that nobody wanted to be rid of."""
    lines = []
    for name in sorted(set(os.listdir(home)) - {places.LOCK}) if os.path.isdir(home) else ():
        what = '%d messages' % waiting if name == 'queue' else \
            'what --purge takes away too' if name in THEIRS else 'not of qpy\'s making'
        lines.append('left: %s/%s (%s)' % (home, name, what))
    there = sorted(name for name in names.values() if doing.exists(pwd.getpwnam, name))
    if there and os.geteuid() == 0:
        lines.append('left: the accounts %s (--accounts takes them away too)' % ' '.join(there))
    return lines + ['left: the mailboxes of users']


# --- accounts --------------------------------------------------------------------------------------------------

def remove_accounts(home, names):
    """The accounts that qpy-install has made: those whose home is DIR or DIR/alias; groups without members follow."""
    for role in accounts.ROLES:
        name = names[role.decode()]
        if not doing.exists(pwd.getpwnam, name):
            continue
        if pwd.getpwnam(name).pw_dir not in (home, os.path.join(home, 'alias')):
            doing.say('left: the account %s, which is not of this installation' % name)
            continue
        doing.run('userdel', name)
    for role in dict.fromkeys(accounts.GROUP.values()):
        name = names[role.decode()]
        if doing.exists(grp.getgrnam, name) and not in_use(grp.getgrnam(name)):
            doing.run('groupdel', name)


def in_use(group):
    """Whether anybody is in a group."""
    return bool(group.gr_mem) or any(entry.pw_gid == group.gr_gid for entry in pwd.getpwall())
