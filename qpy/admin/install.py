"""qpy-install, as root or as a plain user: makes DIR, or brings it up to date, or checks it.

    arguments   DIR [--smtp PORT] [--me NAME] [--admin ADDRESS] [--sendmail] [--qmail-names] [--python PATH] [--offline]
                DIR --check
                DIR --uninstall [--accounts] [--purge]           (admin.uninstall)
                DIR --destdir PLACE [--python PATH]
    exit        0; 100 when called wrongly or --check found something; 111 when something cannot be done

As root: accounts, directories, code, launchers, manual, first control files, units.  As a plain user the same in a
directory of one's own, without accounts: rootless.  What is there already is kept: control files are never changed,
and running it again upgrades the code.
"""
import argparse
import ctypes
import grp
import hashlib
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile

from qpy.admin import kernel
from qpy.core import accounts, aliases, controls as tables, layout, services, units
from qpy.lib import program

OK, WRONG, TEMP = 0, 100, 111
PYTHON = '/usr/bin/python3'
CODE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))     # what holds qpy/
LEFT_OUT = ('qpy-test', 'qpy-deb')          # need the source tree
BARE_NAMES = ('sendmail', 'mailq', 'newaliases', 'forward', 'preline', 'condredirect', 'bouncesaying', 'except',
              'maildirmake', 'maildir2mbox', 'predate', 'datemail', 'mailsubj', 'qbiff', 'qreceipt', 'splogger',
              'tcp-env', 'dot-forward')     # recipes in .qmail files and run scripts call them so
QMAIL_NAMES = tuple('qmail-' + name for name in (
    'inject', 'queue', 'smtpd', 'qread', 'qstat', 'tcpto', 'tcpok', 'showctl', 'newu', 'newmrh', 'pw2u', 'getpw'))
ALL_QMAIL_NAMES = tuple('qmail-' + name for name in (          # the others, made by --qmail-names
    'start', 'send', 'clean', 'lspawn', 'rspawn', 'local', 'remote', 'qmtpd', 'qmqpd', 'qmqpc', 'popup', 'pop3d'))
SYSTEM_ALIASES = '/etc/aliases'
QMAIL_HOME = '/var/qmail'
SYSTEM_LINKS = (('/usr/sbin/sendmail', 'qpy-sendmail'), ('/usr/lib/sendmail', 'qpy-sendmail'),
                ('/usr/bin/mailq', 'qpy-mailq'), ('/usr/bin/newaliases', 'qpy-newaliases'),
                ('/usr/sbin/rmail', 'qpy-sendmail'), ('/usr/sbin/runq', 'qpy-sendmail'))
FILES = 'lib/qpy/FILES'         # sha256sum's lines, of DIR
SENDMAIL_NAMES = ('send-mail', 'rmail', 'runq')         # what it is called elsewhere, and then does
PACKAGES = (('dns', 'dnspython'), ('click', 'click'))
FIRST_ALIASES = ('root', 'postmaster', 'mailer-daemon')

LAUNCHER = """\
#!%(python)s -IS
import sys
sys.path.insert(0, %(code)r)
try:
    from qpy.lib import program
except Exception as problem:
    print('%(name)s: fatal: unable to load the code below', %(code)r, '(%%s); qpy-install --check says what is wrong' %% problem,
          file=sys.stderr)
    sys.exit(111)
program.run(%(module)r, %(home)r)
"""
TCP_SMTP = """\
# Who may do what on the SMTP port, in tcprules' form; see qpy-smtpd(8).
127.:allow,RELAYCLIENT=""
[::1]:allow,RELAYCLIENT=""
:allow
"""
SYSTEMD = """\
[Unit]
Description=qpy mail transfer agent
Documentation=file:%(home)s/man/man8/qpy-start.8
After=network.target nss-lookup.target
ConditionPathExists=%(home)s/control/me

[Service]
Type=notify
ExecStart=%(home)s/bin/qpy-start
ExecReload=+/bin/sh -c 'kill -HUP $MAINPID'
Restart=always
KillMode=mixed
TimeoutStopSec=90s
LimitNOFILE=65536
TasksMax=infinity
%(fence)s
[Install]
WantedBy=multi-user.target
"""
RUN = '#!/bin/sh\nexec 2>&1\nexec %(home)s/bin/qpy-start\n'
RUN_LOG = """\
#!/bin/sh
if command -v svlogd >/dev/null; then exec svlogd -tt ./main; fi
exec multilog t ./main
"""


class Trouble(Exception):
    """Something that cannot be done; the text holds the remedy."""


def main(home, args):
    """Parse the words, then do the steps in order."""
    os.umask(0o022)
    try:
        options = parse([os.fsdecode(word) for word in args], os.fsdecode(home))
    except SystemExit as end:
        return OK if not end.code else WRONG
    try:
        return action(options)(options)
    except BrokenPipeError:
        sys.stdout = None                            # who listened has heard enough
    except (Trouble, OSError, shutil.Error) as problem:
        fatal('qpy-install', problem)
    return TEMP


def action(options):
    """The function that does what the options ask for."""
    if options.uninstall:
        from qpy.admin import uninstall
        return uninstall.uninstall
    return check if options.check else stage if options.destdir else install


def fatal(program, problem):
    """Say why it ends; what could not be printed is not tried again."""
    if isinstance(problem, OSError) and problem.filename is None:
        sys.stdout = None
    print('%s: fatal: %s' % (program, words(problem)), file=sys.stderr, flush=True)


def words(problem):
    """What went wrong, for a person: without Python's number."""
    if not isinstance(problem, OSError) or not problem.strerror:
        return str(problem)
    if problem.filename is None:
        return 'unable to write what there is to say: ' + problem.strerror
    return '%s: %s' % (problem.filename, problem.strerror)


def parse(words, home=os.fsdecode(program.DEFAULT_HOME)):
    """The options; SystemExit after a usage line.  home: DIR if none is named, which an installed qpy-install knows."""
    parser = argparse.ArgumentParser(prog='qpy-install', description='Make, upgrade or check an installation of qpy.')
    parser.add_argument('home', metavar='DIR', nargs='?', default=home, help='default %(default)s')
    parser.add_argument('--smtp', metavar='PORT', help='receive mail on this TCP port (or ADDRESS:PORT)')
    parser.add_argument('--submission', action='store_true', help='with --smtp: ports 587 and 465 for who logs in')
    parser.add_argument('--me', metavar='NAME', help='full name of this host')
    parser.add_argument('--admin', metavar='ADDRESS', help='who gets mail for root and postmaster')
    parser.add_argument('--sendmail', action='store_true', help='be this machine\'s sendmail, mailq and newaliases')
    parser.add_argument('--qmail-names', action='store_true', help='all programs by qmail\'s names too, and /var/qmail')
    parser.add_argument('--check', action='store_true', help='only compare owners and modes; say what is wrong')
    parser.add_argument('--uninstall', action='store_true', help='take it away again; mail and control files stay')
    parser.add_argument('--accounts', action='store_true', help='with --uninstall: the accounts too')
    parser.add_argument('--purge', action='store_true', help='with --uninstall: control files, queue and aliases too')
    parser.add_argument('--destdir', metavar='PLACE', help='for packagers: put what belongs to a package below PLACE')
    parser.add_argument('--python', metavar='PATH', default=PYTHON, help='interpreter (default %(default)s)')
    parser.add_argument('--offline', action='store_true', help='download nothing')
    options = parser.parse_args(words)
    if (options.accounts or options.purge) and not options.uninstall:
        parser.error('--accounts and --purge say what --uninstall takes away')
    if sum(map(bool, (options.check, options.uninstall, options.destdir))) > 1:
        parser.error('--check, --uninstall and --destdir exclude each other')
    options.home = os.path.abspath(options.home)
    options.rootless = os.geteuid() != 0
    return options


def install(options):
    """Every step, each of which leaves alone what is there."""
    home = options.home
    check_interpreter(options.python, options.rootless)
    check_place(home, options.rootless)
    listen = smtp_line(options.smtp, options.rootless) if options.smtp else None
    if options.submission and (not listen or options.rootless):
        raise Trouble('--submission needs --smtp, and root: ports 587 and 465 are below 1024')
    if options.admin and not all(options.admin.rpartition('@')):
        raise Trouble('--admin needs a whole address, such as you@example.org')
    if not options.rootless:
        make_accounts(home)
    make_directories(home, options.rootless)
    let_auth_read(home, options.rootless)
    renewed = put_code(home, home, options)
    if options.qmail_names:
        be_qmail(home, options.rootless)
    first_controls(home, options.me, listen, options.submission)
    known = {} if options.admin or not options.sendmail else system_aliases()
    first_aliases(home, options.admin, options.rootless, known)
    trouble = admin_trouble(home, options.admin) if options.admin else ''
    if trouble:
        say('warning: ' + trouble)
    write_units(home, home)
    if options.sendmail:
        be_sendmail(home, options.rootless)
        new_aliases(home)
    wrong = complaints(home, options.rootless)
    for line in wrong:
        say(line)
    if running(home):
        say(RESTART % home if renewed else 'qpy runs in %s and its code has not changed: no restart is needed' % home)
    else:
        say('installed in %s%s; start it with %s/bin/qpy-start'
            % (home, ' (rootless: everything runs under your account)' if options.rootless else '', home))
    return WRONG if wrong else OK


RESTART = ('qpy runs in %s with the code it was started with: restart it when it suits you (systemctl restart qpy, sv '
           'restart, svc -t); mail goes on meanwhile')


def stage(options):
    """For packagers: below --destdir what is the same on every machine; DIR/bin/qpy-install does the rest there."""
    home, place = options.home, os.path.abspath(options.destdir) + options.home
    for name, owner, _, mode in layout.rows(rootless=False):
        if name in PACKAGED:
            os.makedirs(os.path.join(place, name.decode()), exist_ok=True)
            os.chmod(os.path.join(place, name.decode()), mode)
    options.offline = True
    put_code(place, home, options)
    write_units(place, home)
    say('%s holds what belongs to a package; on the machine where it is unpacked run %s/bin/qpy-install %s, which makes '
        'accounts, directories and the first control files' % (place, home, home))
    return OK


PACKAGED = (b'bin', b'lib', b'man', b'doc', b'service')     # directories that hold nothing of one machine


def put_code(place, home, options):
    """Code, packages, launchers and manual into `place`, where they will be found as `home`; whether the code is new."""
    renewed = copy_code(place, home, options.python)
    find_packages(place, options)
    write_launchers(place, home, options.python)
    copy_pages(place)
    return renewed


def running(home):
    """Whether a chain runs in DIR: somebody serves its control socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            directory = os.open(os.path.join(home, 'run'), os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            sock.connect('/proc/self/fd/%d/control' % directory)        # a socket's path may have 107 bytes
        except OSError:
            return False
        finally:
            os.close(directory)
    return True


def check_place(home, rootless):
    """Trouble if a plain user cannot make DIR there, or if it would lie in another installation."""
    for above in ways_to(os.path.realpath(home)):
        if all(os.path.isdir(os.path.join(above, name)) for name in ('queue/mess', 'queue/state', 'control')):
            raise Trouble('%s lies in the installation %s, whose programs would find what is none of theirs: choose a '
                          'directory outside of it, or upgrade that one with: qpy-install %s' % (home, above, above))
    there = nearest(home)
    if rootless and not os.access(there, os.W_OK | os.X_OK):
        raise Trouble('you may not write to %s: run it as root, or install for yourself with: qpy-install ~/mail'
                      % there)


def nearest(path):
    """path if it is there, else the lowest directory above it that is."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def check(options):
    """Name everything that is not as it should be."""
    home = options.home
    rootless = os.path.isdir(home) and os.stat(home).st_uid != 0
    wrong = complaints(home, rootless)
    for line in wrong:
        say(line)
    if not wrong:
        say('%s is in order' % home)
    for line in [] if rootless or os.geteuid() else kernel.shortcomings():
        say('note: ' + line)
    return WRONG if wrong else OK


def say(line):
    """One line for the person who typed the command."""
    print(line, flush=True)


# --- the interpreter -----------------------------------------------------------------------------------------

def check_interpreter(python, rootless):
    """Trouble unless every account can run it and it is new enough."""
    real = os.path.realpath(python)
    if not os.path.isfile(real):
        raise Trouble('%s is missing; install python3' % python)
    path = real
    while not rootless and path != '/':
        if not os.stat(path).st_mode & stat.S_IXOTH:
            raise Trouble('%s cannot be executed by every account, because of %s; install Debian\'s python3, or give '
                          'another with --python' % (python, path))
        path = os.path.dirname(path)
    asked = subprocess.run([python, '-IS', '-c', 'import sys; print(sys.version_info >= (3, 11))'],
                           capture_output=True, text=True)
    if asked.stdout.strip() != 'True':
        raise Trouble('%s is older than Python 3.11' % python)


# --- accounts ------------------------------------------------------------------------------------------------

def account_names(home):
    """{role: name}, as control/accounts may have it."""
    path = os.path.join(home, 'control/accounts')
    lines = []
    if os.path.exists(path):
        with open(path, 'rb') as file:
            lines = tables.parse_list(file.read(), b'accounts')
    try:
        return {role.decode(): name.decode() for role, name in accounts.names(lines).items()}
    except ValueError as problem:
        raise Trouble('control/accounts: wrong line %r; write role:name' % problem.args[0]) from None


def make_accounts(home):
    """The system accounts and groups that are missing."""
    names = account_names(home)
    for group in dict.fromkeys(accounts.GROUP.values()):
        if not exists(grp.getgrnam, names[group.decode()]):
            run('groupadd', '--system', names[group.decode()])
    for role, group, what in accounts.TABLE:
        name = names[role.decode()]
        if not exists(pwd.getpwnam, name):
            place = os.path.join(home, 'alias') if role == b'alias' else home
            run('useradd', '--system', '--gid', names[group.decode()], '--home-dir', place, '--no-create-home',
                '--shell', '/usr/sbin/nologin', '--comment', 'qpy ' + what.decode().replace(';', ' and'), name)
        elif pwd.getpwnam(name).pw_uid == 0:
            raise Trouble('the account %s has uid 0; name another in control/accounts' % name)


def exists(look_up, name):
    """Whether a name is known."""
    try:
        look_up(name)
    except KeyError:
        return False
    return True


def run(*words):
    """Run a command; Trouble with its own words if it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        raise Trouble('%s is missing; run this by hand in your system\'s way: %s' % (words[0], ' '.join(words))) from None
    if done.returncode:
        raise Trouble('%s: %s' % (' '.join(words), (done.stderr or done.stdout).strip()))
    return done.stdout


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


# --- directories ---------------------------------------------------------------------------------------------

def make_directories(home, rootless):
    """Every directory of the table that is missing, and the owners and modes of all but the administrator's DIR."""
    if os.path.isdir(home) and not rootless and os.stat(home).st_uid != 0:
        raise Trouble('%s belongs to uid %d: chown it to root, or install as that user'
                      % (home, os.stat(home).st_uid))
    os.makedirs(home, exist_ok=True)
    if rootless and os.stat(home).st_uid != os.geteuid():
        raise Trouble('%s belongs to uid %d; choose a directory of your own' % (home, os.stat(home).st_uid))
    who = identities(home, rootless)
    for name, owner, group, mode in layout.rows(rootless):
        path = os.path.join(home, name.decode()) if name else home
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
        if not rootless:
            os.chown(path, who[owner.decode()][0], who[group.decode()][1])


def let_auth_read(home, rootless):
    """users/passwd of an older installation: qpy-auth reads it too."""
    path = os.path.join(home, 'users/passwd')
    if os.path.exists(path):
        if not rootless:
            os.chown(path, 0, identities(home, rootless)['qpya'][1])
        os.chmod(path, 0o640)


def complaints(home, rootless):
    """[what is wrong, with the remedy] of accounts, directories, code and launchers."""
    if not os.path.isdir(home):
        return ['%s: missing; run qpy-install %s' % (home, home)]
    who, wrong = identities(home, rootless), []
    names = account_names(home)
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
    paths = [os.path.join(home, 'run', listen.name.decode()) for service in service_table(home) for listen in service.listens
             if listen.kind in (b'unix', b'seq')]
    return [layout.no_socket(os.fsencode(path), os.path.isdir(path)).decode() for path in paths
            if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode)]


def closed_to_accounts(home, rootless):
    """[complaint] on what of the code, or on the way to it, an account cannot use."""
    code, found = os.path.realpath(os.path.join(home, 'lib/qpy')), []
    for path in () if rootless else sorted({*ways_to(os.path.realpath(home)), *ways_to(code)}):
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


def ways_to(path):
    """Every directory above path."""
    while path != '/':
        path = os.path.dirname(path)
        yield path


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


# --- code ----------------------------------------------------------------------------------------------------

def copy_code(place, home, python):
    """lib/qpy of `place`, byte-compiled, exchanged in one step; whether it differs from what was there.

    A link there is somebody else's business.  What runs meanwhile finds the old code or the new one, never none."""
    target = os.path.join(place, 'lib/qpy')
    if os.path.islink(target) or os.path.realpath(CODE) == os.path.realpath(os.path.join(place, 'lib')):
        return True
    new, old = target + '.new', target + '.old'
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(os.path.join(CODE, 'qpy'), new, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'),
                    copy_function=copy_file)
    with open(os.path.join(new, os.path.basename(FILES)), 'w') as file:
        file.write(list_of_files(new, home, python))
    run(python, '-IS', '-m', 'compileall', '-q', '-s', new, '-p', os.path.join(home, 'lib/qpy'), new)
    tidy(new)
    renewed = sources(new) != sources(target)
    exchange(new, target)
    shutil.rmtree(new, ignore_errors=True)
    return renewed


def sources(top):
    """{path below top: content} of the modules there."""
    found = {}
    for directory, _, files in os.walk(top):
        for name in files:
            if name.endswith('.py'):
                with open(os.path.join(directory, name), 'rb') as file:
                    found[os.path.relpath(file.name, top)] = file.read()
    return found


def list_of_files(code, home, python):
    """What --check compares modules and launchers with later: the text of FILES."""
    found = {'lib/qpy/' + name: content for name, content in sources(code).items()}
    found.update(('bin/' + name, launcher(name, module, home, python).encode()) for name, module in launchers())
    return ''.join('%s  %s\n' % (hashlib.sha256(found[name]).hexdigest(), name) for name in sorted(found))


def other_than_installed(home):
    """[complaint] on every module and launcher that is missing, or not what qpy-install put there."""
    try:
        with open(os.path.join(home, FILES)) as file:
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


RENAME_EXCHANGE, AT_FDCWD = 2, -100


def exchange(new, target):
    """Let new and target change places in one step; where a file system cannot, in two."""
    if not os.path.exists(target):
        return os.rename(new, target)
    if ctypes.CDLL(None).renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(target), RENAME_EXCHANGE) == 0:
        return None
    os.rename(target, target + '.old')
    os.rename(new, target)
    return shutil.rmtree(target + '.old', ignore_errors=True)


def copy_file(source, target, **_):
    """Content and time, but neither owner nor mode."""
    shutil.copyfile(source, target)
    there = os.stat(source)
    os.utime(target, ns=(there.st_atime_ns, there.st_mtime_ns))


def tidy(top):
    """Everybody can read it, only its owner can change it."""
    os.chmod(top, 0o755)
    for directory, directories, files in os.walk(top):
        for name in directories:
            os.chmod(os.path.join(directory, name), 0o755)
        for name in files:
            os.chmod(os.path.join(directory, name), 0o644)


def launchers():
    """[(name, module)] of the programs beside the code."""
    source = os.path.join(CODE, 'bin') if os.path.isdir(os.path.join(CODE, 'bin')) \
        else os.path.join(os.path.dirname(CODE), 'bin')
    found = []
    for name in sorted(os.listdir(source)):
        path = os.path.join(source, name)
        if name in LEFT_OUT or os.path.islink(path) or not os.path.isfile(path):
            continue
        with open(path) as file:
            module = launched(file.read())
        if module:
            found.append((name, module))
    return found


def launched(text):
    """The module that a launcher's text runs, or None."""
    last = text.rstrip('\n').rpartition('\n')[2]
    if not last.startswith("program.run('"):
        return None
    return last.split("'")[1]


def launcher(name, module, home, python):
    """Its text."""
    return LAUNCHER % {'python': python, 'code': os.path.join(home, 'lib'), 'module': module, 'home': home, 'name': name}


def write_launchers(place, home, python):
    """bin of `place`: every launcher with absolute paths of DIR, and the names that qmail's users know.

    A link there is somebody else's business."""
    if os.path.islink(os.path.join(place, 'bin')):
        return
    for name, module in launchers():
        write(os.path.join(place, 'bin', name), launcher(name, module, home, python), 0o755)
    link_names(place, BARE_NAMES + SENDMAIL_NAMES + QMAIL_NAMES)


def link_names(home, names):
    """Other names for launchers that are there."""
    for name in names:
        target = 'qpy-' + ('sendmail' if name in SENDMAIL_NAMES else name.removeprefix('qmail-'))
        path = os.path.join(home, 'bin', name)
        if os.path.lexists(path) and not (os.path.islink(path) and os.readlink(path) == target):
            say('%s is kept: somebody has put it in the place of the link to %s' % (path, target))
        elif os.path.exists(os.path.join(home, 'bin', target)):
            link(path, target)


def be_qmail(home, rootless):
    """Everything by qmail's names, also where scripts and list managers have its home built in."""
    link_names(home, ALL_QMAIL_NAMES)
    if rootless or os.path.realpath(QMAIL_HOME) == os.path.realpath(home):
        return
    if os.path.lexists(QMAIL_HOME):
        say('%s is there already and stays as it is' % QMAIL_HOME)
    else:
        link(QMAIL_HOME, home)


def write(path, content, mode=0o644):
    """Write a file in one step."""
    new = path + '.new'
    with open(new, 'w') as file:
        file.write(content)
    os.chmod(new, mode)
    os.rename(new, path)


def link(path, target):
    """A symbolic link, in one step."""
    new = path + '.new'
    if os.path.lexists(new):
        os.unlink(new)
    os.symlink(target, new)
    os.rename(new, path)


def copy_pages(home):
    """The manual; and in DIR/doc, never live, the samples of control files and what others need to work with us."""
    for source, target in (('man', 'man'), ('control', 'doc/control')):
        directory = os.path.join(CODE, source)
        if not os.path.isdir(directory) or os.path.realpath(directory) == os.path.realpath(os.path.join(home, target)):
            continue
        for name in sorted(os.listdir(directory)):
            place = os.path.join(home, target)
            if source == 'man':
                section = name.rpartition('.')[2]
                place = os.path.join(home, 'man/man' + section if section.isdigit() else 'doc')
            os.makedirs(place, exist_ok=True)
            shutil.copyfile(os.path.join(directory, name), os.path.join(place, name))
            os.chmod(os.path.join(place, name), 0o644)


# --- the two packages ----------------------------------------------------------------------------------------

def find_packages(home, options):
    """DIR/lib/site with dnspython and click: the distribution's by link, else pip's; Trouble is only said."""
    site = os.path.join(home, 'lib/site')
    os.makedirs(site, exist_ok=True)
    os.chmod(site, 0o755)
    missing = [pair for pair in PACKAGES if not os.path.isdir(os.path.join(site, pair[0]))]
    missing = [pair for pair in missing if not link_package(site, pair[0], options)]
    if not missing or options.offline:
        return
    try:
        fetch(site, [distribution for _, distribution in missing])
    except Trouble as problem:
        say('without %s: remote mail goes only where control/smtproutes names a host by address '
            '(apt install python3-dnspython python3-click, and run this again): %s'
            % (' and '.join(distribution for _, distribution in missing), str(problem).splitlines()[-1][:200]))


def link_package(site, package, options):
    """Link one package of the distribution; False if it is not there or others could change it."""
    try:
        found = run(options.python, '-I', '-c', 'import %s; print(%s.__path__[0])' % (package, package)).strip()
    except Trouble:
        return False
    if os.stat(found).st_uid not in (0, os.geteuid()) or os.stat(found).st_mode & 0o022:
        return False
    link(os.path.join(site, package), found)
    return True


def fetch(site, distributions):
    """Let pip of a passing venv put packages into site."""
    with tempfile.TemporaryDirectory() as venv:
        run(PYTHON, '-m', 'venv', venv)
        run(os.path.join(venv, 'bin/pip'), 'install', '--quiet', '--disable-pip-version-check', '--target', site,
            *distributions)
    tidy(site)


# --- first files ---------------------------------------------------------------------------------------------

def first(path, content, mode=0o644):
    """Write a file that is not there yet; True if it was written."""
    if os.path.lexists(path):
        return False
    write(path, content, mode)
    return True


LOCALS = '# Mail to these domains is delivered here. If the name in me changes, change it here too.\n%s\nlocalhost\n'


def submission_lines():
    """The lines of control/services by which people send: a login, and ports of their own."""
    lines = [services.AUTH.decode()]
    for name, port, more in (('submission', '587', ''), ('submissions', '465', 'SMTPS=1 ')):
        where = 'tcp:0.0.0.0:' + port + (',tcp:[::]:' + port if has_ipv6() else '')
        lines.append('%s qpyd %s %sREQUIREAUTH=1 qpy-smtpd' % (name, where, more))
    return ''.join(' '.join(line.split()) + '\n' for line in lines)


def first_controls(home, me, listen, submission=False):
    """control/me, with it control/locals, and with --smtp the port, TLS on it, and who may relay."""
    control = os.path.join(home, 'control')
    path = os.path.join(control, 'me')
    if not os.path.exists(path):
        name = me or host_name()
        try:
            tables.parse_line(name.encode(), b'me')
        except (tables.ControlError, UnicodeError) as wrong:
            raise Trouble('unable to use %r as the name of this host: %s; give one with --me' % (name, wrong)) from None
        write(path, name + '\n')
        first(os.path.join(control, 'locals'), LOCALS % name)
        if '.' not in name.strip('.'):
            say('warning: the name of this host, %s, has no dot: mail works inside, but other hosts refuse what comes '
                'from such a name. Write its full name into control/me and control/locals, or remove both and give it '
                'with --me' % name)
    elif me and read_first_line(path) != me:
        say('control/me is kept: %s' % read_first_line(path))
    if listen:
        path = os.path.join(control, 'services')
        more = b' '.join(services.TLS.split()).decode() + '\n' + (submission_lines() if submission else '')
        if not first(path, listen + more):
            with open(path) as file:
                if listen not in file.read():
                    say('%s is kept as it is; to listen on another port, edit it: the line that begins with smtpd must '
                        'be: %s' % (path, listen.strip()))
        first(os.path.join(control, 'tcp.smtp'), TCP_SMTP)


def read_first_line(path):
    """The first line of a file."""
    with open(path) as file:
        return file.readline().strip()


def host_name():
    """The full name of this host, as well as the machine knows it."""
    if os.path.exists('/etc/mailname'):
        name = read_first_line('/etc/mailname')
        if name:
            return name
    try:
        asked = subprocess.run(['hostname', '-f'], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return os.uname().nodename
    return asked.stdout.strip() or os.uname().nodename


def smtp_line(word, rootless):
    """The line of control/services that opens a port; word is PORT or ADDRESS:PORT."""
    if ':' in word:
        places = ['tcp:' + word]
    elif rootless:
        places = ['tcp:127.0.0.1:' + word]
    else:
        places = ['tcp:0.0.0.0:' + word] + (['tcp:[::]:' + word] if has_ipv6() else [])
    port = word.rpartition(':')[2]
    if rootless and port.isascii() and port.isdigit() and int(port[:6]) < unprivileged():
        raise Trouble('--smtp %s: ports below %d need root; take a higher one, for example --smtp 2525, or install as root'
                      % (word, unprivileged()))
    line = services.SMTP % ',tcp:'.join(place[4:] for place in places).encode()
    try:
        services.parse(line)
    except tables.ControlError as wrong:
        raise Trouble('--smtp %s: %s' % (word, wrong.remedy.decode())) from None
    return b' '.join(line.split()).decode() + '\n'


def unprivileged():
    """The lowest port that needs no root."""
    try:
        return int(read_first_line('/proc/sys/net/ipv4/ip_unprivileged_port_start'))
    except (OSError, ValueError):
        return 1024


def has_ipv6():
    """Whether this machine has an IPv6 address at all."""
    try:
        with open('/proc/net/if_inet6') as file:
            return bool(file.read(1))
    except OSError:
        return False


def system_aliases():
    """What /etc/aliases says, where this machine's sendmail is to go by it."""
    try:
        with open(SYSTEM_ALIASES, 'rb') as file:
            return aliases.compile(file.read())[0]
    except FileNotFoundError:
        return {}


def new_aliases(home):
    """users/aliases.cdb of /etc/aliases; what it has to say about it is for the administrator."""
    done = subprocess.run([os.path.join(home, 'bin/qpy-newaliases')], capture_output=True, text=True)
    for line in (done.stdout + done.stderr).splitlines():
        say(line)


def first_aliases(home, admin, rootless, known=()):
    """~alias/.qmail-root, -postmaster, -mailer-daemon; into ~alias/Maildir/ unless an address is given.

    known: names that /etc/aliases has, which a file here would hide."""
    alias = os.path.join(home, 'alias')
    to_maildir = False
    for name in FIRST_ALIASES:
        if name.encode() in known:
            continue
        to_maildir |= first(os.path.join(alias, '.qmail-' + name), '&%s\n' % admin if admin else './Maildir/\n') \
            and not admin
    if to_maildir:
        make_maildir(os.path.join(alias, 'Maildir'), identities(home, rootless)['alias'])


def admin_trouble(home, admin):
    """Why mail for an administrator would not arrive, '' if it may."""
    local, _, domain = admin.lower().rpartition('@')
    if domain not in lines_of(home, 'locals'):
        routed = any(line.startswith((domain + ':', ':')) for name in ('virtualdomains', 'smtproutes')
                     for line in lines_of(home, name))
        return '' if '.' in domain or routed else '--admin %s: %s is neither in control/locals nor a name that other ' \
            'hosts know; write the address with its full domain' % (admin, domain)
    if local in FIRST_ALIASES:
        return '--admin %s: this is the address whose mail is to go there; give that of a person' % admin
    user = local.partition('-')[0]
    if os.path.exists(os.path.join(home, 'alias/.qmail-' + local)) or known_in_assign(home, local):
        return ''
    if not exists(pwd.getpwnam, user):
        return '--admin %s: this machine has no user %s' % (admin, user)
    owner, uid = os.stat(home).st_uid, pwd.getpwnam(user).pw_uid
    if uid == 0:
        return '--admin %s: no mail is delivered to root' % admin
    return '' if owner in (0, uid) else '--admin %s: this installation is rootless and delivers only to uid %d' % (
        admin, owner)


def lines_of(home, name):
    """The entries of a control file in lower case, [] if it is not there."""
    try:
        with open(os.path.join(home, 'control', name)) as file:
            return [line.strip().lower() for line in file if line[:1] not in ('#', '\n')]
    except FileNotFoundError:
        return [read_first_line(os.path.join(home, 'control/me')).lower()] if name == 'locals' else []


def known_in_assign(home, local):
    """Whether users/assign knows a local part."""
    try:
        with open(os.path.join(home, 'users/assign')) as file:
            return any(line[:1] == '=' and line[1:].partition(':')[0] == local or
                       line[:1] == '+' and local.startswith(line[1:].partition(':')[0]) for line in file)
    except FileNotFoundError:
        return False


def make_maildir(path, owner):
    """A Maildir that belongs to owner = (uid, gid)."""
    for directory in (path, *(os.path.join(path, name) for name in ('tmp', 'new', 'cur'))):
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o700)
            os.chown(directory, *owner)


def write_units(place, home):
    """service in `place`: for systemd, and for runit, daemontools and their kin."""
    words = {'home': home, 'fence': units.START.decode()}
    service = os.path.join(place, 'service')
    os.makedirs(os.path.join(service, 'qpy/log/main'), exist_ok=True)
    write(os.path.join(service, 'qpy.service'), SYSTEMD % words)
    write(os.path.join(service, 'qpy/run'), RUN % words, 0o755)
    write(os.path.join(service, 'qpy/log/run'), RUN_LOG % words, 0o755)
    write_each_unit(place, home, service)


def service_table(place):
    """[Service] of control/services, or of the default one where that is broken: qpy-start names the line."""
    path = os.path.join(place, 'control/services')
    try:
        return services.table(open(path, 'rb').read() if os.path.exists(path) else None)
    except tables.ControlError:
        return services.table(None)


def write_each_unit(place, home, service):
    """For sites that let systemd start each program; and the accounts, for packages that let it make them."""
    for directory in ('systemd/each', 'sysusers.d'):
        os.makedirs(os.path.join(service, directory), exist_ok=True)
    names = {role.encode(): name.encode() for role, name in account_names(place).items()}
    table = service_table(place)
    for directory, found in (('systemd', units.units(os.fsencode(home), table, names)),
                             ('systemd/each', units.each(os.fsencode(home), table, names))):
        for name, content in found.items():
            write(os.path.join(service, directory, os.fsdecode(name)), content.decode())
    write(os.path.join(service, 'sysusers.d/qpy.conf'), units.sysusers(os.fsencode(home), names).decode())


def be_sendmail(home, rootless):
    """Put our sendmail, mailq and newaliases where the system's callers look; what is there is kept beside."""
    if rootless:
        raise Trouble('--sendmail needs root')
    for path, name in SYSTEM_LINKS:
        target = os.path.join(home, 'bin', name)
        if os.path.islink(path) and os.path.realpath(path) == os.path.realpath(target):
            continue                    # ours already, or our package's
        if path == '/usr/lib/sendmail' and os.path.realpath('/usr/lib') == os.path.realpath('/usr/sbin'):
            continue
        if os.path.lexists(path):
            set_aside(path)
        link(path, target)
        say('%s is now a link to %s' % (path, target))


def set_aside(path):
    """Move what is there out of the way, by dpkg's rules where there is dpkg."""
    if shutil.which('dpkg-divert'):
        run('dpkg-divert', '--local', '--rename', '--divert', path + '.dist', '--add', path)
    if os.path.lexists(path):
        os.rename(path, path + '.dist')
    say('%s is kept as %s.dist' % (path, path))
