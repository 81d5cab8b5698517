"""qpy-install DIR --check: names everything that is not as it should be, with the remedy; changes nothing."""
import hashlib
import os
import stat

from qpy.admin.installing import doing, kernel, owners, program_files, supervisors
from qpy.core import layout


def check(options):
    """Name everything that is not as it should be."""
    home = options.home
    rootless = os.path.isdir(home) and os.stat(home).st_uid != 0
    wrong = complaints(home, rootless)
    for line in wrong:
        doing.say(line)
    if not wrong:
        doing.say('%s is in order' % home)
    for line in [] if rootless or os.geteuid() else kernel.shortcomings():
        doing.say('note: ' + line)
    return doing.WRONG if wrong else doing.OK


def complaints(home, rootless):
    """[what is wrong, with the remedy] of accounts, directories, code and launchers."""
    if not os.path.isdir(home):
        return ['%s: missing; run qpy-install %s' % (home, home)]
    who, wrong = owners.identities(home, rootless), []
    names = owners.account_names(home)
    wrong += ['the account or group %s is missing; run qpy-install %s' % (names[role], home)
              for role, found in who.items() if found is None]
    for name, owner, group, mode in layout.rows(rootless):
        path = os.path.join(home, name.decode()) if name else home
        uid = who[owner.decode()] and who[owner.decode()][0]
        gid = None if rootless else who[group.decode()] and who[group.decode()][1]
        line = layout.complaint(os.fsencode(path), (uid, gid, mode), owner_and_mode(path)).decode()
        wrong += [line] if line else []
    root = who['root'][0]
    for top in ('bin', 'lib', 'control', 'users'):
        wrong += changeable(os.path.join(home, top), {0, root})
    return wrong + closed_to_accounts(home, rootless) + other_than_installed(home) + no_sockets(home)


def no_sockets(home):
    """[complaint] on what has the name of a socket and is none."""
    paths = [os.path.join(home, 'run', listen.name.decode()) for service in supervisors.service_table(home)
             for listen in service.listens if listen.kind in (b'unix', b'seq')]
    return [layout.no_socket(os.fsencode(path), os.path.isdir(path)).decode() for path in paths
            if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode)]


def closed_to_accounts(home, rootless):
    """[complaint] on what of the code, or on the way to it, an account cannot use."""
    code, found = os.path.realpath(os.path.join(home, 'lib/qpy')), []
    for path in () if rootless else sorted({*doing.ways_to(os.path.realpath(home)), *doing.ways_to(code)}):
        found.append((path, layout.SEARCH))
    for top in ('bin', 'lib/qpy', 'lib/site'):
        for directory, directories, files in os.walk(os.path.join(home, top), followlinks=True):
            directories[:] = sorted(set(directories) - {'__pycache__'})
            found.append((directory, layout.BOTH))
            found += [(os.path.join(directory, name), layout.BOTH) for name in directories]
            found += [(os.path.join(directory, name), layout.READ if name.endswith('.py') else layout.BOTH)
                      for name in files if name.endswith('.py') or name.startswith('qpy-')]
    lines = [layout.closed(os.fsencode(path), os.stat(path).st_mode, wanted, rootless).decode()
             for path, wanted in dict(found).items() if os.path.exists(path)]
    return [line for line in lines if line]


def owner_and_mode(path):
    """(uid, gid, mode), None if it is not there."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return None
    return there.st_uid, there.st_gid, there.st_mode


def changeable(top, safe):
    """[complaint] on every file below top that an account other than the safe ones could change."""
    wrong = []
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(directory, name)
            there = os.lstat(path)
            if stat.S_ISLNK(there.st_mode):
                continue
            if there.st_uid not in safe:
                wrong.append('%s: belongs to uid %d; chown root %s' % (path, there.st_uid, path))
            elif there.st_mode & 0o022 and not path.endswith('.lock'):
                wrong.append('%s: has mode %04o, others can change it; chmod go-w %s'
                             % (path, there.st_mode & 0o7777, path))
            elif there.st_mode & (stat.S_ISUID | stat.S_ISGID):
                wrong.append('%s: is set-user-id or set-group-id; chmod ug-s %s' % (path, path))
    return wrong


def other_than_installed(home):
    """[complaint] on every module and launcher that is missing, or not what qpy-install put there."""
    try:
        with open(os.path.join(home, program_files.FILES)) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:                   # of an older version, or code that is kept elsewhere
        return []
    wrong = []
    for digest, _, name in (line.partition('  ') for line in lines):
        path = os.path.join(home, name)
        if name.startswith('bin/') and os.path.islink(os.path.join(home, 'bin')):
            continue
        try:
            with open(path, 'rb') as file:
                if hashlib.sha256(file.read()).hexdigest() != digest:
                    wrong.append('%s: not as qpy-install put it there; install qpy again' % path)
        except (FileNotFoundError, NotADirectoryError):
            wrong.append('%s: missing; install qpy again' % path)
        except PermissionError:
            pass                                # closed_to_accounts() names it
    return wrong
