"""qpy-install --check against whoever spoils an installation: everything of the tables, at random, and what lies around it."""
import contextlib
import errno
import grp
import os
import pwd
import random
import shutil
import socket
import stat
import struct
import subprocess

import pytest

from qpy.admin.installing import check
from qpy.core import controls, grammars, installed, layout

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLAIN = 54321
ID = '1234567890123456'
# What lies where, for each row of core.installed, when an installation has been at work: {path: (owner, group, mode)}.
FILES = {'bin/qpy-send': ('root', 'root', 0o755), 'lib/site/more.py': ('root', 'root', 0o644),
         'lib/qpy/core/mess.py': ('root', 'root', 0o644), 'control/smtplogins': ('root', 'qpyr', 0o640),
         'control/locals': ('root', 'root', 0o644), 'keys/x.test.pem': ('root', 'qpyt', 0o640),
         'keys/notes': ('root', 'root', 0o600), 'users/passwd': ('root', 'qpya', 0o640),
         'users/passwd.lock': ('root', 'root', 0o600), 'users/cdb': ('root', 'root', 0o644),
         'alias/.qmail-root': ('root', 'root', 0o644), 'man/man8/qpy-send.8': ('root', 'root', 0o644),
         'doc/control/locals': ('root', 'root', 0o644), 'service/qpy/run': ('root', 'root', 0o755),
         'service/qpy/log/run': ('root', 'root', 0o755), 'service/qpy/log/main/current': ('qpyl', 'qpyl', 0o644),
         'service/qpy.service': ('root', 'root', 0o644), 'queue/lock': ('root', 'root', 0o600),
         'queue/mess/' + ID: ('qpyq', 'qpyq', 0o640), 'queue/mess/1.2.part': ('qpyq', 'qpyq', 0o640),
         'queue/state/lock': ('qpys', 'qpyq', 0o600), 'queue/state/' + ID: ('qpys', 'qpyq', 0o640),
         'queue/state/copy.1': ('qpys', 'qpyq', 0o640), 'queue/state/shorter': ('qpys', 'qpyq', 0o640),
         'queue/damaged/' + ID: ('qpyq', 'qpyq', 0o640), 'check/greylist': ('qpyc', 'qpyc', 0o600),
         'run/mailids': ('root', 'root', 0o644),
         'tls/policies': ('qpyr', 'qpyr', 0o640), 'lib/bin/qpy-x': ('root', 'root', 0o755)}
CONTENT = {'control/smtplogins': 'me@relay.test:secret\n', 'control/locals': 'x.test\n'}
SOCKETS = {'run/submit': ('qpyq', 'qpyq', 0o666), 'run/clean': ('qpys', 'qpyq', 0o600)}
CAPABILITY = struct.pack('<5I', 0x02000001, 1 << 10, 0, 0, 0)


def install(home, *words):
    """qpy-install, and what it said."""
    done = subprocess.run([SOURCE + '/bin/qpy-install', home, *words], capture_output=True, text=True, cwd='/')
    return done.returncode, done.stdout + done.stderr


def give(path, owner, group, mode):
    """Owner and mode of a file."""
    os.chown(path, pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid)
    os.chmod(path, mode)


def access_list(mode):
    """What setfacl -m u:PLAIN:r makes of a file of this mode."""
    nobody, owner, group, other = 2 ** 32 - 1, mode >> 6 & 7, mode >> 3 & 7, mode & 7
    entries = (1, owner, nobody), (2, 4, PLAIN), (4, group, nobody), (16, group | 4, nobody), (32, other, nobody)
    return struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)


@pytest.fixture(scope='module')
def rooted(tmp_path_factory):
    """A DIR that has been at work."""
    home = str(tmp_path_factory.mktemp('rooted') / 'above' / 'qpy')
    os.mkdir(os.path.dirname(home))
    assert install(home, '--offline', '--me', 'x.test')[0] == 0
    for name, (owner, group, mode) in FILES.items():
        path = os.path.join(home, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.exists(path) or name in CONTENT:
            with open(path, 'w') as file:
                file.write(CONTENT.get(name, ''))
        give(path, owner, group, mode)
    for name, what in SOCKETS.items():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(os.path.join(home, name))
        give(os.path.join(home, name), *what)
    give(os.path.join(home, 'service/qpy/log/main'), 'qpyl', 'qpyl', 0o755)
    return home


def row_of(name):
    """The row of core.installed that a path of FILES is judged by."""
    return next(row for fits, row in check.rows_by_top()[name.encode().partition(b'/')[0]] if fits(name.encode()))


def test_every_row_has_its_file():
    """Each row of the table is spoiled by what follows: a new one needs a file here."""
    assert {row_of(name) for name in FILES} == set(installed.TABLE)


class NotSupported(Exception):
    """This file system has no such thing."""


def let_plain_read(path):
    """By an access list."""
    try:
        os.setxattr(path, 'system.posix_acl_access', access_list(os.stat(path).st_mode))
    except OSError as problem:
        if problem.errno != errno.EOPNOTSUPP:
            raise
        raise NotSupported from None


# --- at random -------------------------------------------------------------------------------------------------

def spoilers(name, directory):
    """[what somebody may do to a path]"""
    row = None if name in SOCKETS or directory else row_of(name)
    most = SOCKETS[name][2] if name in SOCKETS else row[4] if row else 0o755
    wider = [lambda path, bit=bit: os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | bit)
             for bit in (0o002, 0o020, 0o004, 0o040) if bit & ~most]
    found = wider + [let_plain_read] * (name not in SOCKETS)
    if row is None or row[1]:
        found.append(lambda path: os.chown(path, PLAIN, -1))
    if row is None or row[2]:
        found.append(lambda path: os.chown(path, -1, PLAIN))
    if directory:
        found.append(lambda path: os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | random.choice((0o4000, 0o2000))))
    if row:
        found += [lambda path: os.setxattr(path, 'security.capability', CAPABILITY),
                  lambda path: os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | random.choice((0o4000, 0o2000)))]
    return found


def complaints(home):
    """{path: [remedy]} of what --check says."""
    found = {}
    for line in check.complaints(home, False):
        path, colon, rest = line.partition(': ')
        assert colon, line
        found.setdefault(path, []).append(rest.partition('; ')[2])
    return found


def mend(remedies):
    """Type what is said; where a tool is not installed, what it does."""
    for words in remedies:
        *typed, path = words.split()
        if any(tool in typed and not shutil.which(tool) for tool in ('setfacl', 'setcap')):
            for name in ('system.posix_acl_access', 'security.capability'):
                with contextlib.suppress(OSError):
                    os.removexattr(path, name)
        else:
            subprocess.run(['sh', '-c', words], check=True, capture_output=True)


@pytest.mark.root
def test_a_remedy_is_about_nothing_but_the_file_that_it_names(rooted, tmp_path):
    """Whoever has alias does not choose what root types: not by a link, before --check or after it, and not by a name."""
    secret, alias = tmp_path / 'secret', rooted + '/alias/'
    secret.write_text('secret')
    secret.chmod(0o600)
    names = ['a; touch MINE #', '$(touch MINE)', '`touch MINE`', "it's; touch MINE #'", 'new\nline; touch MINE', '\x1b[m\\; touch MINE',
             'stars*?[a]', 'deep/er*/$(touch MINE)']

    def said(lines):
        shown = [check.shown(os.fsencode(alias + name)) + ': ' for name in [*names, '.qmail-link', 'deep', 'deep/er*']]
        return [line.removeprefix(next(path for path in shown if line.startswith(path))).partition('; ')[2] for line in lines]
    try:
        os.symlink(secret, alias + '.qmail-link')
        os.makedirs(alias + 'deep/er*')
        os.chown(alias + 'deep', PLAIN, PLAIN)
        for name in names:
            with open(alias + name, 'w') as file:
                os.fchown(file.fileno(), PLAIN, PLAIN)
                os.fchmod(file.fileno(), 0o4666)
        for _ in range(3):
            lines = check.complaints(rooted, False)
            assert not any('chmod' in line for line in lines if '.qmail-link' in line)
            for remedy in said(lines):
                subprocess.run(['bash', '-c', remedy], check=True, cwd=tmp_path)
        assert check.complaints(rooted, False) == []
        assert [path.name for path in tmp_path.iterdir()] == ['secret'] and secret.stat().st_mode & 0o777 == 0o600
        os.unlink(alias + names[0])                     # and now between --check and its remedy
        with open(alias + names[0], 'w') as file:
            os.fchown(file.fileno(), PLAIN, PLAIN)
            os.fchmod(file.fileno(), 0o666)
        remedies = said(check.complaints(rooted, False))
        os.unlink(alias + names[0])
        os.symlink(secret, alias + names[0])
        for remedy in remedies:
            subprocess.run(['bash', '-c', remedy], cwd=tmp_path)
        there = secret.stat()
        assert len(remedies) == 2 and (there.st_uid, there.st_mode & 0o777) == (0, 0o600)
    finally:
        shutil.rmtree(alias + 'deep', ignore_errors=True)
        for name in [*names[:-1], '.qmail-link']:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(alias + name)


@pytest.mark.root
def test_what_is_too_deep_to_look_at_hides_nothing(rooted):
    """3,000 directories in each other below alias are one complaint, and what else is wrong is named."""
    top = rooted + '/alias/deep'
    here = os.open(rooted + '/alias', os.O_RDONLY)
    try:
        for _ in range(3000):
            os.mkdir('deep', dir_fd=here)
            here, old = os.open('deep', os.O_RDONLY, dir_fd=here), here
            os.close(old)
        os.chmod(rooted + '/control/me', 0o666)
        said = [line for line in check.complaints(rooted, False) if 'belongs to' not in line]
        assert len(said) == 2 and sum('File name too long' in line for line in said) == 1 and '/control/me: has mode 0666' in ''.join(said)
    finally:
        os.close(here)
        os.chmod(rooted + '/control/me', 0o644)
        subprocess.run(['rm', '-rf', top], check=True)


@pytest.mark.root
@pytest.mark.parametrize('seed', range(8))
def test_whatever_is_widened_is_named_and_mended(rooted, seed):
    """One thing is done to a file of each row and to each directory of the table, at random: all are named by --check, and
    when its remedies have been typed the installation is in order."""
    chance = random.Random(seed)
    random.seed(seed)
    directories = [os.fsdecode(name) or '.' for name, *_ in layout.TABLE]
    before = {name: os.stat(os.path.join(rooted, name)) for name in [*FILES, *SOCKETS, *directories]}
    spoiled = set()
    try:
        for name in before:
            with contextlib.suppress(NotSupported):
                path = os.path.normpath(os.path.join(rooted, name))
                chance.choice(spoilers(name, name in directories))(path)
                spoiled.add(path)
        found = complaints(rooted)
        assert set(found) == spoiled
        for _ in range(4):                                  # who owns it first, then what its mode is
            mend(remedy for remedies in found.values() for remedy in remedies)
            found = complaints(rooted)
        assert not found
    finally:
        for name, there in before.items():
            path = os.path.join(rooted, name)
            os.chown(path, there.st_uid, there.st_gid)
            os.chmod(path, there.st_mode & 0o7777)
            for attribute in os.listxattr(path) if name not in SOCKETS else ():
                os.removexattr(path, attribute)


@pytest.mark.root
@pytest.mark.parametrize('name, mode, words', [
    ('users/passwd', 0o600, 'must have 0640'), ('keys/x.test.pem', 0o600, 'must have 0640'),
    ('service/qpy/run', 0o644, 'must have 0755'), ('users/cdb', 0o600, 'must have 0644'),
    ('control/locals', 0o600, 'qpy-send may not read it; chmod 0644'),
    ('control/smtplogins', 0o600, 'qpy-rspawn may not read it; chgrp qpyr'), ('..', 0o777, 'others could change what runs here'),
    ('..', 0o700, 'cannot use it; chmod a+x')])
def test_what_is_closed_or_around_it(rooted, name, mode, words):
    """What its reader can no longer read is named, and a way to DIR that others can change or accounts cannot pass."""
    path = os.path.normpath(os.path.join(rooted, name))
    before = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, mode)
    lines = check.complaints(rooted, False)
    os.chmod(path, before)
    assert len(lines) == 1 and lines[0].startswith(path + ': ') and words in lines[0]


@pytest.mark.root
def test_what_has_no_business_in_the_queue(rooted):
    """A stray is named, on a line that does nothing to a terminal; links that lead to other code are followed."""
    stray = os.fsencode(rooted) + b'/queue/mess/\x1b[2J\nx'
    with open(stray, 'w'):
        (line,) = check.complaints(rooted, False)
    os.unlink(stray)
    assert line.isprintable() and '/queue/mess/\\x1b[2J\\x0ax: not of qpy\'s making' in line
    elsewhere, site = os.path.join(rooted, '..', 'elsewhere'), rooted + '/lib/site/click'
    os.mkdir(elsewhere)
    with open(elsewhere + '/core.py', 'w') as file:
        os.chmod(file.name, 0o666)
    if os.path.islink(site):
        os.unlink(site)
    os.symlink(elsewhere, site)
    try:
        (line,) = check.complaints(rooted, False)
        assert line.startswith(site + '/core.py: has mode 0666')
    finally:
        os.unlink(site)


@pytest.mark.root
@pytest.mark.parametrize('name', ['bin/qpy-queue', 'control/defaulthost', 'users/cdb'])
def test_a_link_to_what_others_can_change(rooted, tmp_path, name):
    """Where a link of ours leads is looked at as the file would be: it is the link that is to go, if another owns a
    directory on the way, and qpy-start refuses it as well."""
    path, aside = os.path.join(rooted, name), os.path.join(rooted, 'aside')
    (tmp_path / 'joe').mkdir()
    if os.path.exists(path):
        os.rename(path, aside)
        shutil.copy(aside, tmp_path / 'joe/file')
    else:
        (tmp_path / 'joe/file').write_text('x.test\n')
    os.chmod(tmp_path / 'joe/file', 0o755)
    os.symlink(tmp_path / 'joe/file', path)
    os.chown(tmp_path / 'joe', PLAIN, PLAIN)
    lines = check.complaints(rooted, False)
    started = subprocess.run([rooted + '/bin/qpy-start'], capture_output=True, text=True, cwd='/')
    os.unlink(path)
    if os.path.exists(aside):
        os.rename(aside, path)
    end = '%s/joe/file' % tmp_path
    assert lines == ['%s: is a link to %s, and others could change %s/joe; cp --remove-destination %s %s'
                     % (path, end, tmp_path, end, path)]
    assert started.returncode == 111 and lines[0] in started.stderr


def both(home, *before):
    """What --check and qpy-start say of it; before: a command that runs them, for a namespace of their own."""
    checked, started = (subprocess.run([*before, '/usr/bin/python3', '-IS', home + '/bin/' + name, *words], capture_output=True,
                                       text=True, cwd='/', timeout=60)
                        for name, words in (('qpy-install', [home, '--check']), ('qpy-start', [])))
    return [line for line in checked.stdout.split('\n') if line and not line.startswith('note: ')], started


def is_mended(rooted, script, said):
    """Whether --check is content once the remedy that it has named is carried out, after the mounts of script."""
    remedy = said.partition('; ')[2]
    done = subprocess.run(['unshare', '-m', 'sh', '-c', script % (remedy + ' &&'), 'sh', rooted + '/bin/qpy-install', rooted, '--check'],
                          capture_output=True, text=True, cwd='/')
    return '%s is in order' % rooted in done.stdout


@pytest.mark.root
@pytest.mark.parametrize('mounted', ['', '/bin'])
def test_a_mount_without_programs(rooted, tmp_path, mounted):
    """Where DIR or DIR/bin is mounted noexec --check has one line about it, which is why qpy-start does not start; its remedy
    is one."""
    place = rooted + mounted
    script = 'mount --bind %s %s && mount -o remount,bind,noexec %s && %%s exec "$@"' % (place, place, place)
    said, started = both(rooted, 'unshare', '-m', 'sh', '-c', script % '', 'sh')
    assert said == ['%s/bin: is on a file system mounted noexec, where no program can be started; mount -o remount,exec '
                    '"$(findmnt -nro TARGET -T %s/bin)"' % (rooted, rooted)]
    assert started.returncode == 111 and started.stderr == 'qpy-start: fatal: unable to start: %s\n' % said[0]
    assert is_mended(rooted, script, said[0])


@pytest.mark.root
@pytest.mark.parametrize('mounted, named', [('', 'run'), ('queue', 'queue'), ('run', 'run'), ('tls', 'tls')])
def test_a_mount_that_cannot_be_written(rooted, mounted, named):
    """Where DIR, or a directory that the chain writes to, is mounted read-only --check and qpy-start say so, once, with a remedy
    that is one."""
    place = os.path.join(rooted, mounted).rstrip('/')
    script = 'mount --bind %s %s && mount -o remount,bind,ro %s && %%s exec "$@"' % (place, place, place)
    said, started = both(rooted, 'unshare', '-m', 'sh', '-c', script % '', 'sh')
    path = os.path.join(rooted, named)
    assert said == ['%s: is on a file system mounted read-only, if no unit of systemd makes it so (ReadWritePaths=%s there); '
                    'mount -o remount,rw "$(findmnt -nro TARGET -T %s)"' % (path, path, path)]
    assert started.returncode == 111 and started.stderr == 'qpy-start: fatal: unable to start: %s\n' % said[0]
    assert is_mended(rooted, script, said[0])


@pytest.mark.root
@pytest.mark.parametrize('name, starts', [('bin/qpy-send', False), ('bin/qpy-log', False), ('bin/qpy-inject', True), ('bin/other', True),
                                          ('bin', False), ('users/cdb', True)])
def test_a_link_that_leads_nowhere(rooted, name, starts):
    """A link in bin/ or users/, or in the place of bin/, whose end is missing is named once by --check, by qpy-start as well,
    which does not start where it needs it; what it says is a remedy."""
    path, aside = os.path.join(rooted, name), os.path.join(rooted, 'aside')
    if os.path.lexists(path):
        os.rename(path, aside)
    os.symlink('/nowhere/x', path)
    try:
        lines = check.complaints(rooted, False)
        house = check.faults.rooted(rooted.encode())
        faults = [fault for fault in check.faults.everything(house, rooted.encode() + b'/lib/qpy', grammars.CHECKS)]
    finally:
        os.unlink(path)
        if os.path.lexists(aside):
            os.rename(aside, path)
    again = ' and run qpy-install ' + rooted if name != 'users/cdb' else ''
    wanted = '%s: is a link to /nowhere/x, where nothing is; if that is not for now only, rm %s%s' % (path, path, again)
    assert [line for line in lines if path + ':' in line] == [wanted]
    assert lines == [wanted] or name == 'bin' and all(line.startswith(path) for line in lines)
    assert [(fault.text.decode(), fault.grave) for fault in faults] == [(wanted, not starts)]


@pytest.mark.root
@pytest.mark.parametrize('name', ['queue/mess', 'queue/state', 'control', 'queue', 'keys', ''])
@pytest.mark.parametrize('kind', ['access', 'default'])
def test_an_access_list_of_a_directory(rooted, name, kind):
    """A list that opens a directory to another account is named by --check, once, and warned of by qpy-start; setfacl -b, the
    remedy, is all there is to do."""
    path = os.path.join(rooted, name).rstrip('/')
    before = os.stat(path).st_mode
    os.setxattr(path, 'system.posix_acl_' + kind, access_list(before))
    try:
        assert os.stat(path).st_mode & 0o777 == before & 0o777 | (0o040 if kind == 'access' else 0)
        lines = check.complaints(rooted, False)
        faults = check.faults.everything(check.faults.rooted(rooted.encode()), rooted.encode() + b'/lib/qpy', grammars.CHECKS)
        texts = [(fault.text.decode(), fault.grave) for fault in faults]
    finally:
        os.removexattr(path, 'system.posix_acl_' + kind)
        os.chmod(path, before & 0o7777)
    what = 'opens it to more than its mode says' if kind == 'access' else 'for what will be made in it'
    wanted = [line for line in lines if line.startswith(path + ': has an access list') and what in line]
    assert len(wanted) == 1 and wanted[0].endswith('; setfacl -b ' + path)
    assert (wanted[0], False) in texts


@pytest.mark.root
def test_a_list_that_changes_the_mode_too(rooted):
    """setfacl -m u:joe:rwx widens the mode that is shown: both are named, since chmod alone leaves him in."""
    path = rooted + '/queue/mess'
    os.setxattr(path, 'system.posix_acl_access', access_list(0o770))
    try:
        lines = check.complaints(rooted, False)
    finally:
        os.removexattr(path, 'system.posix_acl_access')
        os.chmod(path, 0o750)
    assert len(lines) == 2 and 'access list' in lines[0] and 'has mode 0770' in lines[1]


@pytest.mark.root
def test_code_that_is_none_of_ours(rooted):
    """A module that could be loaded in place of another, and a compiled one that was changed, are named."""
    code, strange = rooted + '/lib/qpy', [rooted + '/lib/os.py', rooted + '/lib/qpy/core/json/__init__.py']
    os.mkdir(os.path.dirname(strange[1]))
    for path in strange:
        with open(path, 'w'):
            os.chmod(path, 0o644)
    (compiled,) = [code + '/core/__pycache__/' + name for name in os.listdir(code + '/core/__pycache__') if name.startswith('mess.')]
    with open(compiled, 'rb') as file:
        before = file.read()
    with open(compiled, 'ab') as file:
        file.write(b'x')
    lines = check.complaints(rooted, False)
    os.unlink(strange[0])
    shutil.rmtree(os.path.dirname(strange[1]))
    with open(compiled, 'wb') as file:
        file.write(before)
    assert sorted(line.partition(': ')[0] for line in lines) == sorted([*strange, compiled])
    assert check.complaints(rooted, False) == []


@pytest.mark.root
def test_it_needs_root(rooted):
    """A plain user could not see all of it, and is told so rather than that all is well."""
    os.chmod(os.path.dirname(os.path.dirname(rooted)), 0o755)
    done = subprocess.run([rooted + '/bin/qpy-install', '--check'], capture_output=True, text=True, cwd='/', user=PLAIN,
                          group=PLAIN, extra_groups=[])
    assert done.returncode == 111 and done.stdout == '' and done.stderr.count('\n') == 1
    assert '%s belongs to root' % rooted in done.stderr and 'run this as root' in done.stderr


def take_away(path):
    os.rename(path, path + '-aside')


def add_a_line(path):
    take_away(path)
    shutil.copy(path + '-aside', path)
    with open(path, 'a') as file:
        file.write('ExecStartPre=/bin/true\n')


def set_user_id(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy('/bin/true', path)
    os.chmod(path, 0o4755)


def link_there(path):
    os.symlink('/etc/passwd', path)


def closed(path):
    take_away(path)
    shutil.copy(path + '-aside', path)
    os.chmod(path, 0o600)


def closed_by_alias(path):
    closed(path)
    os.chown(path, pwd.getpwnam('alias').pw_uid, -1)


@pytest.mark.root
@pytest.mark.parametrize('name, spoil, words', [
    ('alias/.qmail-root', closed, 'has mode 0600, alias may not read it, so that mail for it waits; chown -h '),
    ('alias/.qmail-root', closed_by_alias, None),
    ('x', set_user_id, 'is set-user-id or set-group-id; chmod ug-s PATH'), ('more/deep/x', set_user_id, 'is set-user-id'),
    ('alias/Maildir/x', set_user_id, 'is set-user-id'), ('alias/Maildir/new/1.2.x', set_user_id, 'is set-user-id'),
    ('queue/mess/1234567890123457', link_there, "not of qpy's making"), ('queue/x', link_there, "not of qpy's making"),
    ('queue/mess/1234567890123458', os.mkfifo, "not of qpy's making"),
    ('man/man8/qpy-send.8', take_away, 'missing; install qpy again'),
    ('man/man8/qpy-queued.8', add_a_line, 'not as qpy-install put it there; install qpy again'),
    ('service/qpy/run', take_away, 'missing; run qpy-install HOME'), ('service/qpy/log/run', take_away, 'missing; run qpy-install HOME'),
    ('service/qpy.service', take_away, 'missing; run qpy-install HOME'),
    ('service/qpy.service', add_a_line, 'not as qpy-install put it there; run qpy-install HOME, and keep settings of your own by systemctl '
                                        'edit qpy')])
def test_what_else_may_be_wrong_with_files(fresh, name, spoil, words):
    """Each is named by --check in one line; nothing else is."""
    path = os.path.join(fresh, name)
    assert check.complaints(fresh, False) == []
    there = set(os.listdir(fresh))
    spoil(path)
    try:
        lines = [line for line in check.complaints(fresh, False) if '-aside' not in line]
    finally:
        if os.path.lexists(path):
            os.unlink(path)
        if os.path.exists(path + '-aside'):
            os.rename(path + '-aside', path)
        for made in set(os.listdir(fresh)) - there:
            shutil.rmtree(os.path.join(fresh, made))
    assert len(lines) == bool(words) and all(
        line.startswith('%s: %s' % (path, words.replace('PATH', path).replace('HOME', fresh))) for line in lines)


@pytest.fixture(scope='module')
def fresh(tmp_path_factory):
    """A DIR as it has just been installed."""
    home = str(tmp_path_factory.mktemp('fresh') / 'qpy')
    code, said = install(home, '--offline', '--me', 'x.test')
    assert code == 0, said
    return home


@pytest.mark.root
def test_a_queue_elsewhere_is_looked_at(fresh):
    """A directory of the table that an administrator keeps on another disk, by a link, is checked as in its place."""
    queue, elsewhere = fresh + '/queue', fresh + '-queue'
    os.rename(queue, elsewhere)
    os.symlink(elsewhere, queue)
    try:
        assert check.complaints(fresh, False) == []
        with open(elsewhere + '/mess/x', 'w'):
            (line,) = check.complaints(fresh, False)
        os.unlink(elsewhere + '/mess/x')
        assert line.startswith(queue + "/mess/x: not of qpy's making")
    finally:
        os.unlink(queue)
        os.rename(elsewhere, queue)


# --- the interpreter -------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def own_python(tmp_path_factory):
    """A DIR with an interpreter of its own, and where that lies: not below DIR."""
    top = tmp_path_factory.mktemp('python')
    place = str(top / 'py')
    library = os.path.dirname(subprocess.run(['/usr/bin/python3', '-IS', '-c', 'import os; print(os.__file__)'], capture_output=True,
                                             text=True).stdout.strip())
    version = os.path.basename(library)
    shutil.copytree(library, '%s/lib/%s' % (place, version), symlinks=True, ignore=shutil.ignore_patterns('test', '__pycache__'))
    os.mkdir(place + '/bin')
    shutil.copy('/usr/bin/python3', place + '/bin/python3')
    code, said = install(str(top / 'qpy'), '--offline', '--me', 'x.test', '--python', place + '/bin/python3')
    assert code == 0, said
    return str(top / 'qpy'), place, version


def give_away(path):
    os.chown(path, PLAIN, PLAIN)


@pytest.mark.root
@pytest.mark.parametrize('name, spoil', [
    ('bin/python3', give_away), ('bin/python3', lambda path: os.chmod(path, 0o777)), ('bin', give_away), ('', give_away),
    ('lib/VERSION', give_away), ('lib/VERSION/lib-dynload', lambda path: os.chmod(path, 0o775))])
def test_P04_an_interpreter_that_others_can_change(own_python, name, spoil):
    """Whoever can change it, or where it finds modules, would be root: qpy-install refuses it before it is run, --check has a
    line, and qpy-start does not start; nobody but root is to own what is named."""
    home, place, version = own_python
    path = os.path.join(place, name.replace('VERSION', version)).rstrip('/')
    before = os.stat(path)
    assert check.complaints(home, False) == []
    spoil(path)
    try:
        lines = check.complaints(home, False)
        started = subprocess.run([home + '/bin/qpy-start'], capture_output=True, text=True, cwd='/', timeout=10)
        again = install(home, '--offline', '--python', place + '/bin/python3')
    finally:
        os.chown(path, before.st_uid, before.st_gid)
        os.chmod(path, before.st_mode & 0o7777)
    assert len(lines) == 1 and lines[0].startswith(path + ': ') and 'could change what runs here; ' in lines[0] \
        and lines[0].endswith(path + ', or run qpy-install %s with another --python' % home)
    assert started.returncode == 111 and started.stderr == 'qpy-start: fatal: unable to start: %s\n' % lines[0]
    assert again == (111, 'qpy-install: fatal: %s\n' % lines[0])


@pytest.mark.root
def test_P04_modules_that_others_can_change(own_python):
    """--check looks at each module of the interpreter, and has one line for many; its remedy is one."""
    home, place, version = own_python
    top = '%s/lib/%s' % (place, version)
    os.chmod(top + '/os.py', 0o666)
    (line,) = check.complaints(home, False)
    assert line == '%s/os.py: has mode 0666, others could change what runs here; chmod go-w %s/os.py' % (top, top)
    for name in ('json/__init__.py', 'json', 'socket.py'):
        give_away(os.path.join(top, name))
    (line,) = check.complaints(home, False)
    assert 'and so with 3 more below %s; chown -R root %s; chmod -R go-w %s' % (top, top, top) in line
    subprocess.run(['sh', '-c', line.partition('; ')[2]], check=True)
    assert check.complaints(home, False) == []


@pytest.mark.root
def test_P04_links_on_the_way_to_an_interpreter(own_python):
    """Every link that leads to it counts, and the file by which a virtual environment names another."""
    home, place, _ = own_python
    house = check.faults.rooted(os.fsencode(home))
    joes = os.path.join(os.path.dirname(place), 'joe')
    os.mkdir(joes)
    try:
        os.symlink(place + '/bin/python3', joes + '/python3')
        os.symlink('joe/python3', os.path.dirname(place) + '/python')
        path = os.fsencode(os.path.dirname(place) + '/python')
        assert [*check.faults.of_interpreter(house, path, ())] == []
        give_away(joes)
        assert [fault.path for fault in check.faults.of_interpreter(house, path, ())] == [os.fsencode(joes)]
        os.chown(joes, 0, 0)
        with open(joes + '/pyvenv.cfg', 'w'):
            os.chmod(joes + '/pyvenv.cfg', 0o666)
        assert [fault.path for fault in check.faults.of_interpreter(house, path, ())] == [os.fsencode(joes + '/pyvenv.cfg')]
        (fault,) = check.faults.of_interpreter(house, b'/no/python', ())
        assert fault.text.startswith(b'/no/python: missing') and fault.grave
    finally:
        os.unlink(os.path.dirname(place) + '/python')
        shutil.rmtree(joes)


MIDDLE = 'let it lead to a place of root'


@pytest.mark.root
@pytest.mark.parametrize('name, remedy', [
    ('bin/qpy-send', 'cp --remove-destination {end} {path}'), ('bin', MIDDLE), ('control', MIDDLE), ('lib/qpy', MIDDLE), ('', MIDDLE),
    ('../py', 'chown root {joe}, or run qpy-install {home} with another --python')])
def test_P04_a_link_of_others_in_the_middle(own_python, name, remedy):
    """Where root's name leads to root's file by a link of another account, that account chooses the file: --check has a line,
    qpy-start does not start, and qpy-install takes neither such a DIR nor such an interpreter."""
    home, place, _ = own_python
    path, joe = os.path.normpath(os.path.join(home, name)), os.path.dirname(home) + '/joe'
    end = os.path.dirname(home) + '/far'
    os.mkdir(joe)
    os.rename(path, end)
    os.symlink(end, joe + '/k')
    os.symlink('../' * (path.count('/') - joe.count('/')) + 'joe/k', path)
    try:
        assert check.complaints(home, False) == []
        os.lchown(joe + '/k', PLAIN, PLAIN)                      # where others cannot put another, whosever it is
        assert check.complaints(home, False) == []
        give_away(joe)
        lines = check.complaints(home, False)
        os.chown(joe, 0, 0)
        os.chmod(joe, 0o1777)                                    # as in /tmp
        also = check.complaints(home, False)
        started = subprocess.run([home + '/bin/qpy-start'], capture_output=True, text=True, cwd='/', timeout=10)
        again = install(home, '--offline', '--python', place + '/bin/python3') if not name or path == place else None
    finally:
        os.unlink(path)
        os.rename(end, path)
        shutil.rmtree(joe)
    assert [line.endswith('; ' + remedy.format(end=end, path=path, joe=joe, home=home)) for line in lines] == [True]
    assert len(also) == 1 and joe + '/k' in also[0]
    assert (started.returncode, started.stderr) == (111, 'qpy-start: fatal: unable to start: %s\n' % also[0])
    assert again in (None, (111, 'qpy-install: fatal: %s\n' % also[0]))


@pytest.mark.root
@pytest.mark.parametrize('closed', ['joe', 'py', 'joe/pyvenv.cfg'])
def test_an_interpreter_that_accounts_cannot_run(own_python, closed):
    """Every link on the way to it is the accounts' way too: qpy-install, --check and qpy-start name what is closed."""
    home, place, _ = own_python
    top, first = os.path.dirname(place), os.path.join(home, 'bin/qpy-start')
    os.makedirs(top + '/joe/bin')
    os.symlink(place + '/bin/python3', top + '/joe/bin/python3')
    with open(top + '/joe/pyvenv.cfg', 'w') as file:
        file.write('home = %s/bin\n' % place)
    path = os.path.join(top, closed)
    before = os.stat(path).st_mode & 0o7777
    line = "%s: has mode %%04o, so that %s/joe/bin/python3 cannot be executed by every account; install Debian's python3, or run " \
        'qpy-install %s with another --python' % (path, top, home)
    try:
        assert install(home, '--offline', '--python', top + '/joe/bin/python3')[0] == 0 and check.complaints(home, False) == []
        os.chmod(path, before & ~0o007)
        line %= before & ~0o007
        assert check.complaints(home, False) == [line]
        started = subprocess.run([first], capture_output=True, text=True, cwd='/', timeout=10)
        assert (started.returncode, started.stderr) == (111, 'qpy-start: fatal: unable to start: %s\n' % line)
        assert install(home, '--offline', '--python', top + '/joe/bin/python3') == (111, 'qpy-install: fatal: %s\n' % line)
    finally:
        os.chmod(path, before)
        shutil.rmtree(top + '/joe')
        assert install(home, '--offline', '--python', place + '/bin/python3')[0] == 0


@pytest.mark.root
def test_P04_without_root_it_may_be_ones_own(own_python):
    """A rootless installation takes an interpreter of its owner, and none of a third account."""
    _, place, _ = own_python
    house = check.faults.rootless(b'/srv/mail', (PLAIN, PLAIN))
    path = os.fsencode(place + '/bin/python3')
    try:
        give_away(path)
        assert [*check.faults.of_interpreter(house, path, ())] == []
        os.chown(path, PLAIN + 1, PLAIN)
        assert [fault.path for fault in check.faults.of_interpreter(house, path, ())] == [path]
    finally:
        os.chown(path, 0, 0)


# --- people ----------------------------------------------------------------------------------------------------

@pytest.mark.root
def test_a_maildir_that_alias_cannot_use(rooted):
    """What root has made below alias with maildirmake takes no mail of alias: each part is named, and the remedies are some."""
    assert check.complaints(rooted, False) == []
    top = rooted + '/alias/lists/Maildir'
    os.mkdir(rooted + '/alias/lists')
    try:
        subprocess.run([rooted + '/bin/qpy-maildirmake', top], check=True)
        os.mkdir(top + '/.Sent')
        os.mkdir(rooted + '/alias/new', 0o755)         # of root's, and no part of any
        lines = check.complaints(rooted, False)
        assert sorted(line.partition(': belongs to 0:0, must belong to ')[0] for line in lines) == [
            top, top + '/cur', top + '/new', top + '/tmp']
        for line in lines:
            subprocess.run(['sh', '-c', line.partition('; ')[2]], check=True)
        assert check.complaints(rooted, False) == []
        os.chmod(top + '/new', 0o500)
        assert check.complaints(rooted, False) == [
            '%s/new: has mode 0500, must have 0700; setpriv --reuid=%d --regid=%d --clear-groups chmod 0700 %s/new'
            % (top, *pwd.getpwnam('alias')[2:4], top)]
    finally:
        shutil.rmtree(rooted + '/alias/lists')
        shutil.rmtree(rooted + '/alias/new', ignore_errors=True)


@pytest.mark.root
def test_who_else_can_be_one_of_ours(rooted, monkeypatch):
    """Members of our groups, accounts with our uids or groups, shells, and roles that share an account."""
    everybody, group_of = pwd.getpwall(), grp.getgrnam
    by_name = {entry.pw_name: entry for entry in everybody}
    joe = ('joe', 'x', PLAIN, PLAIN, '', '/home/joe', '/bin/bash')

    def with_people(*people, members=()):
        changed = {person[0]: pwd.struct_passwd(person) for person in people}
        monkeypatch.setattr(pwd, 'getpwall', lambda: [*{**by_name, **changed}.values()])
        monkeypatch.setattr(grp, 'getgrnam', lambda name: grp.struct_group(
            (*group_of(name)[:3], list(members) if name == 'qpyt' else [])))
        return check.complaints(rooted, False)
    qpyq, qpyt = by_name['qpyq'], by_name['qpyt']
    assert with_people(joe) == []
    (line,) = with_people(joe, members=['joe', 'qpyt'])
    assert line.startswith('the group qpyt has the member joe') and line.endswith('; gpasswd --delete joe qpyt')
    (line,) = with_people((*joe[:3], qpyt.pw_gid, *joe[4:]))
    assert line.startswith('the account joe has the group qpyt') and line.endswith('; usermod --gid GROUP joe')
    (line,) = with_people((*joe[:2], qpyq.pw_uid, *joe[3:]))
    assert line.startswith('the account joe has the uid of qpyq') and line.endswith('; give it another: usermod --uid UID joe')
    (line,) = with_people((*qpyt[:6], ''))
    assert line == 'the account qpyt has the shell /bin/sh; usermod --shell /usr/sbin/nologin qpyt'
    with open(rooted + '/control/accounts', 'w') as file:
        file.write('qpya:qpyt\n')
    lines = with_people()
    os.unlink(rooted + '/control/accounts')
    assert any('several roles have one account' in line for line in lines)


@pytest.mark.root
def test_who_can_log_in_or_let_others_in(rooted, monkeypatch, tmp_path):
    """A password on an account of ours, or none where one is asked for; an administrator or a password of one of our groups.
    Locked ones, and those of others, are nobody's business."""
    shadow, gshadow = tmp_path / 'shadow', tmp_path / 'gshadow'
    monkeypatch.setattr(check, 'SHADOW', str(shadow))
    monkeypatch.setattr(check, 'GSHADOW', str(gshadow))
    shadow.write_text('root:$y$x:1::::::\nqpyd:!:1::::::\nqpyl:!*:1::::::\nqpyq:!$y$x:1::::::\nqpys:*:1::::::\n\n')
    gshadow.write_text('sudo:$y$x:joe:joe\nqpyq:!::\nqpyd:*::\n')
    assert check.complaints(rooted, False) == []
    shadow.write_text('qpyd:$y$x:1::::::\nqpyl::1::::::\n')
    gshadow.write_text('qpyq:!:joe,ann:\nqpyd:$y$x::\n')
    assert check.complaints(rooted, False) == [
        'the account qpyd can log in with a password; usermod --lock qpyd',
        'the account qpyl can log in with no password at all; usermod --lock qpyl',
        "the group qpyq has the administrator joe,ann, who can put anybody into it; gpasswd --administrators '' qpyq",
        'the group qpyd has a password, by which others come into it; gpasswd --remove-password qpyd']


@pytest.mark.root
def test_what_else_one_of_ours_can_use(rooted, monkeypatch):
    """An account of ours in a group that is none of ours: named for each, with the remedy; others there are nobody's business."""
    shadow = grp.struct_group(('shadow', 'x', 42, ['joe', 'qpyd', 'qpyl']))
    monkeypatch.setattr(grp, 'getgrall', lambda: [shadow, grp.struct_group(('qpyq', 'x', 9, ['qpys']))])
    assert check.complaints(rooted, False) == [
        'the account %s is in the group shadow, and can use what is its; gpasswd --delete %s shadow' % (name, name) for name in ('qpyd', 'qpyl')]


def test_homes(tmp_path, monkeypatch):
    """A home of alias that is not where its mail is: a note, because two installations may share the accounts."""
    monkeypatch.setattr(pwd, 'getpwnam', lambda name: pwd.struct_passwd((name, 'x', 9, 9, '', '/elsewhere', '/bin/false')))
    (line,) = check.homes(str(tmp_path))
    assert 'has the home /elsewhere' in line and line.endswith('; usermod --home %s/alias alias' % tmp_path)


# --- one judgement ---------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def own(tmp_path_factory):
    """A rootless DIR, and how its owner runs a program of it."""
    top = tmp_path_factory.mktemp('own')
    user = dict(user=PLAIN, group=PLAIN, extra_groups=[]) if os.geteuid() == 0 else {}
    if user:
        os.chown(top, PLAIN, PLAIN)
    home = str(top / 'qpy')

    def run(*words, user=user):
        done = subprocess.run(words, capture_output=True, text=True, cwd='/', stdin=subprocess.DEVNULL,
                              env={'PATH': '/usr/bin:/bin:/usr/sbin:/sbin'}, **user)
        said = (done.stdout + done.stderr).splitlines(True)         # packages are the machine's
        return done.returncode, ''.join(line for line in said if not line.startswith('note: without '))
    assert run(SOURCE + '/bin/qpy-install', home, '--offline', '--me', 'x.test')[0] == 0
    return home, run


@pytest.mark.parametrize('name, text, mode, words', [
    ('databytes', '10M\n', 0o644, 'control/databytes, line 1, "10M": not a number'),
    ('smtproutes', ':relay:smtp\n', 0o644, 'control/smtproutes, line 1, "relay:smtp": not a port number'),
    ('programlimits', 'cpus:3\n', 0o644, 'control/programlimits, line 1, "cpus:3": no such limit; one of: cpu'),
    ('services', 'x qpyd - /no/x\n', 0o644, '/no/x: missing, and x is to run; install it, or mend '
                                            'control/services, line 1'),
    ('accounts', 'qpyx:y\n', 0o644, 'control/accounts, line 1, "qpyx:y": write role:name, one of the roles'),
    ('locals', 'x.test\n', 0, 'control/locals: uid %d may not read it; chmod 0644'), ('locals', 'x.test\n', 0o666, 'others could change')])
def test_what_start_refuses_check_names(own, name, text, mode, words):
    """qpy-start and --check say the same of a control file that is broken or unreadable; --check says it for root, too."""
    home, run = own
    path = os.path.join(home, 'control', name)
    before = open(path, 'rb').read() if os.path.exists(path) else None
    words = words % os.stat(home).st_uid if '%d' in words else words
    with open(path, 'w') as file:
        file.write(text)
    os.chown(path, os.stat(home).st_uid, -1)
    os.chmod(path, mode)
    try:
        code, started = run(home + '/bin/qpy-start')
        assert code == 111 and words in started
        for user in [{}] + [dict(user=0)] * (os.geteuid() == 0):
            code, said = run(home + '/bin/qpy-install', '--check', **({'user': user} if user else {}))
            assert code == 100 and words in said and said.count('\n') == 1, said
        assert started.splitlines()[-1].partition('unable to start: ')[2] == said.rstrip('\n')
    finally:
        os.unlink(path)
        if before is not None:
            with open(path, 'wb') as file:
                file.write(before)
            os.chown(path, os.stat(home).st_uid, -1)


@pytest.mark.parametrize('name, text, words', [
    ('greylist', 'delay:x\n', 'line 1, "delay:x": not a number'), ('ratelimits', 'mails:1/h\n', 'not known; one of: connections'),
    ('accountlimits', '*:x\n', 'write messages='), ('dnsbl', 'a b\n', 'not a domain'), ('milters', 'x\n', 'write an address'),
    ('policyservers', 'x\n', 'write an address'), ('helorules', 'good\n', 'not known; one of: valid'),
    ('spfrules', 'pass\n', 'not known; one of: fail'),
    ('destinationlimits', 'a.test:0\n', 'write how many at a time'), ('concurrencylocal', '20000\n', '20000 is out of range'),
    ('rcpthost', 'a.test\n', 'no program reads a file of this name; did you mean rcpthosts?')])
def test_what_start_leaves_to_others_check_names(own, name, text, words):
    """Files whose readers refuse them, values out of range, and names that are misspelt."""
    home, run = own
    path = os.path.join(home, 'control', name)
    with open(path, 'w') as file:
        file.write(text)
    os.chown(path, os.stat(home).st_uid, -1)
    code, said = run(home + '/bin/qpy-install', '--check')
    os.unlink(path)
    assert code == 100 and said.startswith('control/' + name) and words in said and said.count('\n') == 1


def test_every_sample_passes():
    """Each sample of a file with a grammar is a good one."""
    for name, look in grammars.CHECKS.items():
        path = os.path.join(SOURCE, 'control', os.fsdecode(name))
        if os.path.exists(path):
            with open(path, 'rb') as file:
                assert look(file.read(), name) is None
    assert set(grammars.CHECKS) <= {row[0] for row in controls.TABLE}
