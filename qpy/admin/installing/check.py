"""qpy-install DIR --check: names everything that is not as it should be, with the remedy; changes nothing.

What no chain may start with is judged by qpy.lib.faults, as by qpy-start; the rest by core.installed, by the list of what was
installed, and by the system's accounts.
"""
import grp
import hashlib
import os
import pwd
import re
import stat

from qpy.admin import cert
from qpy.admin.installing import doing, kernel, other_names, owners, packages, program_files, supervisors
from qpy.core import accounts, grammars, installed, layout
from qpy.lib import controls, faults, owner


def check(options):
    """Name everything that is not as it should be."""
    home = options.home
    rootless = os.path.isdir(home) and os.stat(home).st_uid != 0
    if rootless:
        become_owner(home)
    elif os.geteuid() and os.path.isdir(home):
        raise doing.Trouble('%s belongs to root, who alone can look at all of it: run this as root' % home)
    wrong = complaints(home, rootless)
    for line in wrong:
        doing.say(line)
    if not wrong:
        doing.say('%s is in order' % home)
    for line in packages.lacking(home) + ([] if rootless else [*homes(home), *stale_units(home), *kernel.shortcomings()]):
        doing.say('note: ' + line)
    return doing.WRONG if wrong else doing.OK


def become_owner(home):
    """As qpy-start does: what root can read, the owner may not."""
    uid = owner.become(os.fsencode(home))
    if os.geteuid() != uid:
        raise doing.Trouble('%s belongs to uid %d, who alone can look at all of it' % (home, uid))


def complaints(home, rootless):
    """[what is wrong, with the remedy]"""
    if not os.path.isdir(home):
        return ['%s: missing; run qpy-install %s' % (home, home)]
    there = os.stat(home)
    try:
        house = faults.rootless(os.fsencode(home), (there.st_uid, there.st_gid)) if rootless \
            else faults.rooted(os.fsencode(home))
    except controls.Broken as broken:
        return [broken.why.decode()]
    found = of_start(house)
    named, said = {path for path, _ in found}, {text for _, text in found}
    for path, text in (*of_files(house), *other_than_installed(home), *of_units(house), *of_sockets(house), *of_certificates(house)):
        if path not in named or (b'set-user-id' in text or b'capabilities' in text or b'access list' in text) and text not in said:
            found.append((path, text))
    return [shown(text) for _, text in found] + ([] if rootless else of_people(home, house) + other_names.complaints(home))


def shown(text):
    """A line that is safe to print, whatever is in the names of files; a shell reads $'\\xHH'."""
    return ''.join(chr(byte) if 32 <= byte < 127 else '\\x%02x' % byte for byte in text)


def of_start(house):
    """[(path, complaint)] of what qpy-start refuses or warns of."""
    code = house.home + b'/lib/qpy'
    if not os.path.isdir(code):
        return [(code, b'%s: missing; install qpy again' % code)]
    python, directories = interpreter(house)
    found = faults.everything(house, code, grammars.CHECKS, (os.fsencode(python), directories))
    found = [(fault.path, fault.text) for fault in found]
    return found + of_modules(house, directories, {path for path, _ in found})


def interpreter(house):
    """The interpreter of DIR's launchers and where it finds modules: unknown if others can change it, who shall not be run."""
    python = program_files.interpreter_of(os.fsdecode(house.home))
    if not python or [*faults.of_interpreter(house, os.fsencode(python), ())]:
        return python, ()
    try:
        return python, program_files.directories_of(python)
    except (doing.Trouble, PermissionError):
        return python, ()


NOT_LOADED = {'site-packages', 'dist-packages'}         # by python3 -IS; where ours are is DIR/lib/site


def of_modules(house, directories, named):
    """[(path, complaint)] on modules of the interpreter that others can change, but for those named already: one line for all
    in a directory."""
    safe, wrong = {0, house.of(b'root')[0]}, []
    for top in directories:
        found = [(path, fault.text) for path in modules_below(os.fsdecode(top)) if path not in named
                 for fault in faults.of_writers(path, safe)]
        named |= {path for path, _ in found}
        if len(found) > 1:
            what = found[0][1].partition(b'; ')[0]
            found = [(top, b'%s, and so with %d more below %s; chown -R root %s; chmod -R go-w %s'
                      % (what, len(found) - 1, top, layout.typed(top), layout.typed(top)))]
        wrong += found
    return wrong


def modules_below(top):
    """Every directory and file that modules are loaded from, as bytes."""
    for directory, names, files in os.walk(top):
        names[:] = sorted(set(names) - NOT_LOADED)
        yield from (path for path in (os.fsencode(os.path.join(directory, name)) for name in (*names, *sorted(files)))
                    if os.path.exists(path))


# --- files -----------------------------------------------------------------------------------------------------

FOLLOWED = {name for name, *_ in layout.TABLE} - {b'man'} | {b'lib/qpy', b'lib/site/dns', b'lib/site/click'}
MAIL = re.compile(rb'alias/(.*/)?(new|cur|tmp)/.*', re.S)       # whose messages' modes are nobody's business here
OWN_PAGE = re.compile(rb'man/man\d/qpy[^/]*')
ATTRIBUTES = {'security.capability': b'%s: carries file capabilities; %.0ssetcap -r %s',      # root's, who follows no link there
              **dict(layout.ACCESS_LISTS)}
HELD = {name: owner for name, owner, *_ in layout.TABLE if owner != b'root'} | {b'service/qpy/log/main': b'qpyl'}


def of_files(house):
    """[(path, complaint)] on everything in the directories of DIR."""
    rows, directories = rows_by_top(), {name for name, *_ in layout.rows(house.rootless)}
    found = [(path, layout.complaint(path, (0, 0, 0), None)) for path in (house.home + b'/' + name for name in directories)
             if not os.path.lexists(path)]
    found += [(house.home, line) for line in of_attributes(house.home, os.stat(house.home), b'')]
    for top in sorted({name for name in directories if name and b'/' not in name} | {*os.listdir(house.home)}):
        for name, path, there in walk(house.home, top, found):
            chown, by = hands(house, name, path, there)
            found += [(path, line) for line in of_attributes(path, there, by)]
            if name in directories or MAIL.fullmatch(name):
                continue                        # of_start has looked at it
            row = installed.MAILDIR if top == b'alias' and stat.S_ISDIR(there.st_mode) and of_maildir(path) else \
                next((row for fits, row in rows.get(top, ()) if fits(name)), None)
            if top in installed.STRICT and (row is None or not stat.S_ISREG(there.st_mode)):
                found.append((path, b'%s: not of qpy\'s making; qpy-fsck says more about it; move it elsewhere' % path))
            elif row is not None:
                found += [(path, line) for line in of_file(house, row, path, there, chown, by)]
    return found + of_recipes(house)


def hands(house, name, path, there):
    """(chown, by) of layout.complaint.  What lies in a directory of another account can be another thing by the time a remedy is
    typed: root follows no name there, and what would follow one is typed as that account."""
    top = next((top for top in HELD if name.startswith(top + b'/')), None)
    if house.rootless or top is None or HELD[top] not in house.identity:
        return None, b''
    uid, gid = house.of(HELD[top])

    def chown(owner):
        """By find where there are directories between, one of which may have become a link: it follows none on its way."""
        if b'/' not in name[len(top) + 1:]:
            return b'chown -h %s %s' % (owner, layout.typed(path))
        return b'find %s -path %s -execdir chown -h %s {} +' % (
            layout.typed(house.home + b'/' + top), layout.typed(re.sub(rb'([*?[\\])', rb'\\\1', path)), owner)
    first = b'' if there.st_uid == uid else chown(b'%d' % uid) + b'; '
    return chown, first + b'setpriv --reuid=%d --regid=%d --clear-groups ' % (uid, gid)


def of_maildir(path):
    """Whether a directory is a Maildir, or a part of one."""
    above, name = os.path.split(path)
    try:
        return any(installed.PARTS.issubset(os.listdir(place)) for place in (path, *([above] if name in installed.PARTS else ())))
    except OSError:                             # walk names what cannot be looked at
        return False


def of_recipes(house):
    """[(path, complaint)] on .qmail files of alias that alias cannot read: mail for these addresses waits."""
    found, top = [], house.home + b'/alias'
    for path in faults.entries(top) if os.path.isdir(top) and os.access(top, os.R_OK) and b'alias' in house.identity else ():
        if not path.startswith(top + b'/.qmail'):
            continue
        try:
            itself, there = os.lstat(path), os.stat(path)
        except OSError:                         # it has gone
            continue
        _, by = hands(house, path[len(house.home) + 1:], path, itself)
        if faults.readable(there, house.of(b'alias')):
            continue
        if stat.S_ISLNK(itself.st_mode):
            what, remedy = b'is a link to what alias may not read', b'rm '
        else:
            what, remedy = b'has mode %04o, alias may not read it' % (there.st_mode & 0o7777), by + b'chmod 0644 '
        found.append((path, b'%s: %s, so that mail for it waits; %s%s' % (path, what, remedy, layout.typed(path))))
    return found


def rows_by_top():
    """{first part of the path: [(fullmatch of a pattern, row)]}"""
    found = {}
    for row in installed.TABLE:
        pattern = re.escape(row[0]).replace(rb'\*\*', b'.*').replace(rb'\*', b'[^/]*').replace(b'/ID', rb'/\d{16}')
        found.setdefault(row[0].partition(b'/')[0], []).append((re.compile(pattern, re.S).fullmatch, row))
    return found


def walk(home, top, unseen):
    """(name below DIR, path, stat) of what is in DIR and everything in it; links are passed over but for those by which a
    package or an administrator keeps directories elsewhere, and those in the queue, where none is ours.  What cannot be looked at
    becomes a (path, complaint) of unseen."""
    waiting = [top]
    while waiting:
        name = waiting.pop()
        path = home + b'/' + name
        try:
            there = os.stat(path) if name in FOLLOWED else os.lstat(path)
        except FileNotFoundError:
            continue
        except OSError as problem:
            unseen.append(out_of_sight(path, problem))
            continue
        if name == b'man' and stat.S_ISLNK(there.st_mode):
            waiting += own_pages(path)
        if stat.S_ISLNK(there.st_mode) and top not in installed.STRICT:
            continue
        yield name, path, there
        if stat.S_ISDIR(there.st_mode):
            try:
                waiting += sorted((name + b'/' + entry for entry in os.listdir(path)), reverse=True)
            except OSError as problem:
                unseen.append(out_of_sight(path, problem))


LONGEST = 200                   # bytes of a path that are shown of one that is too long


def out_of_sight(path, problem):
    """(path, complaint) on what --check cannot look at."""
    seen = path if len(path) <= LONGEST else path[:LONGEST] + b'...'
    return path, b'%s: %s, so that nobody can say what it is; move it elsewhere' % (seen, os.strerror(problem.errno).encode())


def own_pages(man):
    """Names of our pages in a manual that is not ours alone."""
    names = [b'man/%s/%s' % (section, page) for section in os.listdir(man) if section in (b'man1', b'man5', b'man7', b'man8')
             for page in os.listdir(man + b'/' + section)]
    return [name for name in names if OWN_PAGE.fullmatch(name)]


def of_attributes(path, there, by):
    """What mode and owner do not show: set-user-id bits, capabilities, access lists.  by: as of layout.complaint."""
    if stat.S_ISLNK(there.st_mode):
        return
    if there.st_mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISDIR(there.st_mode):
        yield b'%s: is set-user-id or set-group-id; %schmod ug-s %s' % (path, by, layout.typed(path))
    try:
        names = os.listxattr(path)
    except OSError:
        return                                  # none on this file system
    for name in names:
        if name in ATTRIBUTES:
            yield ATTRIBUTES[name] % (path, by, layout.typed(path))


def of_file(house, row, path, there, chown, by):
    """Owner and mode against a row of core.installed."""
    have = (there.st_uid, there.st_gid, there.st_mode & 0o777)
    uid, gid, mode = installed.wanted(row, stat.S_ISDIR(there.st_mode), house, have)
    for want in ((uid, gid, None), (None, None, mode)):
        line = layout.complaint(path, want, have, chown, by)
        if line:
            yield line


def of_sockets(house):
    """[(path, complaint)] on what has the name of a socket and is none, or lets others in than control/services says."""
    found = []
    for service in supervisors.service_table(os.fsdecode(house.home)):
        for listen in service.listens:
            path = house.home + b'/run/' + listen.name
            if listen.kind not in (b'unix', b'seq') or not os.path.lexists(path):
                continue
            there = os.lstat(path)
            if not stat.S_ISSOCK(there.st_mode):
                found.append((path, layout.no_socket(path, stat.S_ISDIR(there.st_mode))))
                continue
            role = (b'root', listen.owner, listen.group) if not house.rootless else (b'root',) * 3
            if all(name in house.identity for name in role):
                want = (house.of(role[1])[0], None if house.rootless else house.of(role[2])[1],
                        0o600 if house.rootless else listen.mode)
                line = layout.complaint(path, want, (there.st_uid, there.st_gid, there.st_mode))
                found += [(path, line)] if line else []
    return found


def of_certificates(house):
    """[(path, complaint)] where qpy-tls has certificates, and none that is for this host."""
    served = any(service.words[0] == b'qpy-tls' for service in supervisors.service_table(os.fsdecode(house.home)))
    line = served and cert.mismatch(house.home)
    return [(house.home + b'/keys', line)] if line else []


def of_units(house):
    """[(path, complaint)] on what supervisors start us by, where it is missing; and on the unit, where it is not ours any more."""
    home, found = os.fsdecode(house.home), []
    try:
        units = supervisors.main_units(home, home, house.rootless)
    except doing.Trouble:                       # the complaints have named it
        return []
    for name, (content, _) in units.items():
        path = house.home + b'/service/' + os.fsencode(name)
        if not os.path.exists(path):
            found.append((path, b'%s: missing; run qpy-install %s' % (path, house.home)))
        elif name == supervisors.UNIT and os.access(path, os.R_OK) and doing.read(path) != content:
            found.append((path, b'%s: not as qpy-install put it there; run qpy-install %s, and keep settings of your own by '
                          b'systemctl edit qpy' % (path, house.home)))
    return found


def other_than_installed(home):
    """[(path, complaint)] on every module, launcher and page that is missing, or not what qpy-install put there."""
    try:
        with open(os.path.join(home, program_files.FILES)) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:                   # of an older version, or code that is kept elsewhere
        return []
    wrong, listed = [], {line.partition('  ')[2]: line.partition('  ')[0] for line in lines}
    for name, digest in listed.items():
        path = os.fsencode(os.path.join(home, name))
        if name.startswith(('bin/', 'man/')) and os.path.islink(os.path.join(home, name[:3])):
            continue                            # a package's
        try:
            with open(path, 'rb') as file:
                if hashlib.sha256(file.read()).hexdigest() != digest:
                    wrong.append((path, b'%s: not as qpy-install put it there; install qpy again' % path))
        except (FileNotFoundError, NotADirectoryError):
            if not name.endswith('.pyc'):       # without it the code is compiled each time
                wrong.append((path, b'%s: missing; install qpy again' % path))
        except PermissionError:
            pass                                # of_start() names it
    return wrong + strangers(os.fsencode(home), {os.fsencode(name) for name in listed})


LOADED = (b'.py', b'.so', b'.pth')
OF_LIB = (b'qpy', b'site', b'bin')


def strangers(home, listed):
    """[(path, complaint)] on modules and packages that could be loaded in place of others, and are none of ours."""
    names = [b'lib/' + name for name in sorted(os.listdir(home + b'/lib')) if name not in OF_LIB]
    names += [name for name, _, there in walk(home, b'lib/qpy', []) if name.endswith(LOADED) and name not in listed]
    return [(home + b'/' + name, b'%s/%s: not of qpy\'s making, and could be loaded; move it elsewhere' % (home, name))
            for name in names if not name.startswith(b'lib/qpy.')]      # what an upgrade that was cut off has left


# --- people ----------------------------------------------------------------------------------------------------

NO_SHELLS = ('nologin', 'false')
SHADOW, GSHADOW = '/etc/shadow', '/etc/gshadow'
NO_PASSWORD = ('!', '*')                # what a hash begins with that fits no password


def of_people(home, house):
    """[complaint] on accounts that are more than one, or can log in, and on who else is in their groups."""
    names, everybody = owners.account_names(home), pwd.getpwall()
    roles = {names[role.decode()]: role for role in accounts.ROLES}
    wrong = []
    if len(roles) < len(accounts.ROLES):
        wrong.append('control/accounts: several roles have one account, which can then do what each of them can; give each '
                     'its own')
    uids = {house.of(role)[0]: names[role.decode()] for role in accounts.ROLES if role in house.identity}
    for entry in everybody:
        if entry.pw_name in roles:
            if os.path.basename(entry.pw_shell) not in NO_SHELLS:
                wrong.append('the account %s has the shell %s; usermod --shell /usr/sbin/nologin %s'
                             % (entry.pw_name, entry.pw_shell or '/bin/sh', entry.pw_name))
        elif entry.pw_uid in uids:
            wrong.append('the account %s has the uid of %s, and is it; give it another: usermod --uid UID %s'
                         % (entry.pw_name, uids[entry.pw_uid], entry.pw_name))
    own = [names[group.decode()] for group in dict.fromkeys(accounts.GROUP.values())]
    for group in own:
        wrong += of_group(group, roles, everybody)
    wrong += of_passwords(roles, everybody) + of_administrators(own)
    return wrong + of_other_groups(roles, {*own})


def fields(path, count):
    """The lines of a file of the system that have so many fields."""
    lines = [line.split(':') for line in doing.read(path).split('\n')]
    return [line for line in lines if len(line) >= count]


def of_passwords(roles, everybody):
    """[complaint] on accounts of ours that a password opens, or none does."""
    hashes = {entry.pw_name: entry.pw_passwd for entry in everybody if entry.pw_name in roles and entry.pw_passwd != 'x'}
    hashes.update((name, value) for name, value, *_ in fields(SHADOW, 2) if name in roles)
    return ['the account %s can log in with %s; usermod --lock %s' % (name, 'a password' if value else 'no password at all', name)
            for name, value in hashes.items() if not value.startswith(NO_PASSWORD)]


def of_administrators(own):
    """[complaint] on who may put people into our groups, or comes in by a password of theirs."""
    wrong = []
    for name, value, administrators, *_ in fields(GSHADOW, 4):
        if name in own and administrators:
            wrong.append("the group %s has the administrator %s, who can put anybody into it; gpasswd --administrators '' %s"
                         % (name, administrators, name))
        if name in own and value and not value.startswith(NO_PASSWORD):
            wrong.append('the group %s has a password, by which others come into it; gpasswd --remove-password %s' % (name, name))
    return wrong


def of_other_groups(roles, own):
    """[complaint] on accounts of ours in groups that are not: qpy-start takes them away, systemd's units of each program do not."""
    return ['the account %s is in the group %s, and can use what is its; gpasswd --delete %s %s'
            % (member, group.gr_name, member, group.gr_name)
            for group in grp.getgrall() if group.gr_name not in own for member in group.gr_mem if member in roles]


def of_group(name, roles, everybody):
    """[complaint] on who is in a group of ours and none of ours."""
    try:
        group = grp.getgrnam(name)
    except KeyError:
        return []                               # of_start names it
    ours = {account for account, role in roles.items() if roles.get(name) == accounts.GROUP[role]}
    return ['the group %s has the member %s, who can then use what is its alone; gpasswd --delete %s %s'
            % (name, member, member, name) for member in group.gr_mem if member not in ours] + \
           ['the account %s has the group %s, and can use what is its alone; usermod --gid GROUP %s'
            % (entry.pw_name, name, entry.pw_name) for entry in everybody
            if entry.pw_gid == group.gr_gid and entry.pw_name not in roles]


def stale_units(home):
    """[note] on units that systemd uses and control files have left behind."""
    try:
        return supervisors.out_of_date(home)
    except doing.Trouble:                       # the complaints have named it
        return []


def homes(home):
    """[note] on a home of alias that leads people elsewhere: its mail is in DIR/alias."""
    try:
        name = owners.account_names(home)['alias']
    except doing.Trouble:                       # the complaints have named it
        return []
    place = os.path.join(home, 'alias')
    if not doing.exists(pwd.getpwnam, name) or pwd.getpwnam(name).pw_dir == place:
        return []
    return ['the account %s has the home %s; its mail and .qmail files are in %s; usermod --home %s %s'
            % (name, pwd.getpwnam(name).pw_dir, place, place, name)]
