"""qpy-install: what it makes, what it leaves alone, and what --check finds."""
import argparse
import errno
import fcntl
import glob
import grp
import os
import pwd
import shutil
import stat
import subprocess
import time

import pytest

from qpy.admin import install
from qpy.admin.installing import doing, first_files, other_names, packages, program_files, supervisors, uninstall
from tests.peers.certificates import authority

pytestmark = pytest.mark.slow

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLAIN = 54321

SERVICES = 'smtpd qpyd tcp:127.0.0.1:2525 qpy-smtpd\ntls qpyt unix:tls:0660:qpyt:qpyd qpy-tls\n'


class Place:
    """A directory to install into, and the command, as a plain user."""

    def __init__(self, top):
        self.top, self.home = str(top), str(top / 'qpy')
        self.user = dict(user=PLAIN, group=PLAIN, extra_groups=[]) if os.geteuid() == 0 else {}
        if self.user:
            os.chown(top, PLAIN, PLAIN)

    def run(self, *words, code=0, program=SOURCE + '/bin/qpy-install'):
        """What it said, but for packages that this machine does not have."""
        said = self.all_said(*words, code=code, program=program)
        return ''.join(line for line in said.splitlines(True) if not line.startswith(('warning: without ', 'note: without ')))

    def all_said(self, *words, code=0, program=SOURCE + '/bin/qpy-install'):
        done = subprocess.run([program, self.home, *words], capture_output=True, text=True, cwd='/',
                              env={'PATH': '/usr/bin:/bin:/usr/sbin:/sbin'}, **self.user)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def read(self, name):
        with open(os.path.join(self.home, name)) as file:
            return file.read()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    made = Place(tmp_path_factory.mktemp('installed'))
    made.said = made.run('--offline', '--me', 'x.test', '--smtp', '2525', '--admin', 'a@b.test')
    return made


def test_a_rootless_installation_is_closed_and_in_order(installed):
    """DIR has mode 0700, --check is content, and the word rootless is said."""
    assert 'rootless' in installed.said
    assert stat.S_IMODE(os.stat(installed.home).st_mode) == 0o700
    assert 'is in order' in installed.run('--check')


def test_help_is_printed():
    """--help says something, and exits 0."""
    done = subprocess.run([SOURCE + '/bin/qpy-install', '--help'], capture_output=True, text=True)
    assert done.returncode == 0 and '--sendmail' in done.stdout


@pytest.mark.parametrize('admin, words', [
    ('no-such-user@vm', 'this machine has no user no'), ('root@vm', 'the address whose mail is to go there'),
    ('you@box', 'neither in control/locals nor'), ('daemon@localhost', 'delivers only to uid'), ('you@example.org', '')])
def test_a_host_without_a_dot_and_an_admin_nobody_knows(place, admin, words):
    """Both are warned of, with the remedy; what can be delivered is not."""
    said = place.run('--offline', '--me', 'vm', '--admin', admin)
    assert 'warning: the name of this host, vm, has no dot' in said and '--me' in said
    assert (words in said if words else said.count('warning') == 1)
    assert place.read('control/locals').splitlines()[1:] == ['vm', 'localhost']


def test_where_a_plain_user_may_not_write(place):
    """He is told both ways out."""
    done = subprocess.run([SOURCE + '/bin/qpy-install', '/proc/qpy', '--offline'], capture_output=True, text=True,
                          **place.user)
    assert done.returncode == 111 and done.stderr.count('\n') == 1
    assert 'you may not write to /proc: run it as root, or install for yourself with: qpy-install ~/mail' in done.stderr


def test_a_power_cut_leaves_old_or_new(tmp_path, monkeypatch):
    """Code and launchers are on the disk before they take the place of others: a cut that keeps the names and loses the bytes
    would leave programs that are empty."""
    home, events = str(tmp_path), []

    def recorded(name, real):
        def call(*arguments):
            events.append((name, [str(arguments[0]), *glob.glob(home + '/**/*.new', recursive=True)]))
            return real(*arguments)
        return call
    for name in ('bin', 'lib/qpy'):
        os.makedirs(os.path.join(home, name))
    for owner, name in ((doing, 'sync'), (program_files, 'exchange'), (os, 'rename')):
        monkeypatch.setattr(owner, name, recorded(name, getattr(owner, name)))
    program_files.copy_code(home, home, '/usr/bin/python3')
    program_files.write_launchers(home, home, '/usr/bin/python3')
    told = [(name, paths) for name, paths in events if name != 'rename' or '/bin/qpy-' in paths[0]]
    assert [name for name, _ in told][:3] == ['sync', 'exchange', 'sync'] and {name for name, _ in told[3:]} == {'rename'}
    assert told[0][1][0] == home + '/lib/qpy.new' and len(told) - 3 == len(program_files.launchers())
    assert len(told[2][1]) == 1 + len(program_files.launchers())       # each was written by then, and none was in its place
    assert os.listdir(home + '/lib') == ['qpy'] and not glob.glob(home + '/bin/*.new')


def test_two_at_once(place):
    """A second qpy-install in the same DIR says that it waits, and then does its work: they do not take each other's files
    away."""
    os.mkdir(place.home)
    os.chown(place.home, *(PLAIN, PLAIN) if place.user else (-1, -1))
    held = os.open(place.home + '/.lock', os.O_WRONLY | os.O_CREAT, 0o600)
    os.chown(held, *(PLAIN, PLAIN) if place.user else (-1, -1))
    fcntl.flock(held, fcntl.LOCK_EX)
    command = [SOURCE + '/bin/qpy-install', place.home, '--offline', '--me', 'x.test']
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd='/', **place.user) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == 'another qpy-install is at work in %s: waiting for its end\n' % place.home
    assert os.listdir(place.home) == ['.lock']
    os.unlink(place.home + '/.lock')                    # as who held it does
    os.close(held)
    assert ['installed in' in process.communicate()[0] for process in both] == [True, True]
    assert [process.returncode for process in both] == [0, 0] and os.listdir(place.home + '/lib/qpy')
    assert not os.path.exists(place.home + '/.lock')
    assert 'is in order' in place.run('--check')


@pytest.mark.root
def test_nobody_else_holds_an_installer_up(tmp_path):
    """P43: another account locks all that it can open of DIR, for ever: install, upgrade and uninstall go on; a lock that is
    none is named."""
    home = str(tmp_path / 'rooted')
    command = [SOURCE + '/bin/qpy-install', home, '--offline', '--me', 'x.test']
    subprocess.run(command, check=True, capture_output=True)
    os.symlink('/etc/passwd', home + '/.lock')
    refused = subprocess.run(command, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (
        111, 'qpy-install: fatal: %s/.lock: not a regular file; no qpy-install has made it: rm -r %s/.lock\n' % (home, home))
    os.unlink(home + '/.lock')
    with open(home + '/.lock', 'w'):                    # one that was killed has left it
        os.chmod(home + '/.lock', 0o600)
    holder = subprocess.Popen(['/usr/bin/python3', '-I', '-c', LOCKER, home], stdout=subprocess.PIPE, text=True, user=PLAIN,
                              group=PLAIN, extra_groups=[])
    try:
        locked = holder.stdout.readline().split()
        assert '.' in locked and 'queue' in locked and '.lock' not in locked
        for words in ((), ('--uninstall', '--purge')):
            done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0 and 'another' not in done.stdout
    finally:
        holder.kill()
        holder.communicate()
    assert not os.path.exists(home)


LOCKER = """
import fcntl, os, signal, sys
held = []
for name in ['.', *os.listdir(sys.argv[1])]:
    try:
        fd = os.open(os.path.join(sys.argv[1], name), os.O_RDONLY)
    except PermissionError:
        continue
    fcntl.flock(fd, fcntl.LOCK_EX)
    held.append(name)
print(*held, flush=True)
signal.pause()
"""


def test_a_disk_that_fails(tmp_path, monkeypatch):
    """What cannot be made durable takes nobody's place: the old code stays, and the reason is said."""
    (tmp_path / 'lib/qpy').mkdir(parents=True)
    (tmp_path / 'lib/qpy/old.py').write_text('')

    def fails(fd):
        raise OSError(errno.EIO, 'Input/output error')
    monkeypatch.setattr(doing.unix_kernel, 'syncfs', fails)
    with pytest.raises(OSError) as found:
        program_files.copy_code(str(tmp_path), str(tmp_path), '/usr/bin/python3')
    assert doing.words(found.value) == '%s/lib/qpy.new: Input/output error' % tmp_path
    assert os.listdir(tmp_path / 'lib') == ['qpy'] and os.listdir(tmp_path / 'lib/qpy') == ['old.py']


@pytest.mark.root
def test_a_full_disk(place):
    """No room for the code is one line: what could not be written and why; what was there stays."""
    script = 'mkdir -p %s && mount -t tmpfs -o size=1m none %s && exec %s/bin/qpy-install %s/qpy --offline --me x.test'
    done = subprocess.run(['unshare', '-m', 'sh', '-c', script % (place.home, place.home, SOURCE, place.home)], capture_output=True,
                          text=True, cwd='/')
    assert done.returncode == 111 and done.stderr.count('\n') == 1
    assert done.stderr.startswith('qpy-install: fatal: %s/' % place.home) and done.stderr.endswith(': No space left on device\n')


def test_units_follow_control_files(place, tmp_path, monkeypatch):
    """Units are made anew from control files by each run, and those of lines that have gone go, but for what is the site's; one
    that systemd has a link to, and that is of before, is noted."""
    place.run('--offline', '--me', 'x.test')
    systemd, linked = os.path.join(place.home, 'service/systemd'), tmp_path / 'linked'
    linked.mkdir()
    os.symlink(systemd + '/qpy-rspawn.service', linked / 'qpy-rspawn.service')
    monkeypatch.setattr(supervisors, 'LINKED', str(linked) + '/*')
    with open(systemd + '/qpy-site.service', 'w') as file:
        file.write('[Unit]\nDescription=ours\n')
    assert supervisors.out_of_date(place.home) == []
    with open(os.path.join(place.home, 'control/services'), 'w') as file:
        file.write('users off\nrspawn qpyr seq:rspawn:0600:qpys QMAILREMOTE=/site/remote qpy-rspawn\n')
    (line,) = supervisors.out_of_date(place.home)
    assert line.startswith('systemd/qpy-rspawn.service of %s/service: not as control/services' % place.home)
    assert os.path.exists(systemd + '/qpy-users.service')
    place.run('--offline', '--me', 'x.test')
    assert supervisors.out_of_date(place.home) == []
    left = os.listdir(systemd)
    assert not [name for name in left if 'users' in name] and 'qpy-site.service' in left and 'qpy.target' in left
    assert 'QMAILREMOTE=/site/remote' in place.read('service/systemd/qpy-rspawn.service')


def test_an_interpreter_by_a_relative_path(place):
    """--python is made absolute: launchers run from anywhere."""
    place.run('--offline', '--me', 'x.test', '--python', os.path.relpath('/usr/bin/python3', '/'))
    assert place.read('bin/qpy-send').startswith('#!/usr/bin/python3 -IS\n')


@pytest.mark.root
@pytest.mark.parametrize('text, words', [('qpyd maild\n', 'line 1, "qpyd maild": write role:name'), ('qpyx:y\n', 'write role:name, one of the roles'),
                                         ('qpyd:a\0b\n', 'NUL'), (None, 'a link that leads nowhere')])
def test_accounts_that_are_none(place, text, words):
    """A control/accounts that is broken, or a link to nowhere, is named in one line before any account is made."""
    control = os.path.join(place.home, 'control')
    os.makedirs(control)
    if text is None:
        os.symlink('/nowhere/accounts', control + '/accounts')
    else:
        with open(control + '/accounts', 'w') as file:
            file.write(text)
    before = pwd.getpwall(), grp.getgrall()
    done = subprocess.run([SOURCE + '/bin/qpy-install', place.home, '--offline', '--me', 'x.test'], capture_output=True, text=True, cwd='/')
    assert done.returncode == 111 and done.stdout == '' and done.stderr.count('\n') == 1
    assert 'control/accounts' in done.stderr and words in done.stderr
    assert os.listdir(place.home) == ['control'] and (pwd.getpwall(), grp.getgrall()) == before


@pytest.mark.parametrize('name', ['my mail', 'a:b', 'a%b', 'a$b', "a'b", 'a\\b', 'a\nb', 'a;b'])
@pytest.mark.parametrize('words', [['--offline', '--me', 'x.test'], ['--destdir', '/nowhere']])
def test_a_name_that_means_something_else(place, name, words):
    """A DIR whose name PATH, a shell or a unit would take for something else is refused in one line, and nothing is made."""
    place.home += name
    said = place.run(*words, code=111)
    assert 'its name holds %r, which PATH, run scripts and units take for something else' % name.strip('amyilb') in said
    assert not os.path.exists(place.home)


def test_a_name_that_is_fine(place):
    """Letters of any language, digits and . _ + @ - are."""
    place.home += '/Ä9._+@-'
    assert 'installed in %s' % place.home in place.run('--offline', '--me', 'x.test')


@pytest.mark.parametrize('below', ['queue', 'queue/mess', 'lib/qpy', 'control', 'new/deeper'])
def test_not_inside_another_installation(installed, below):
    """DIR may be no directory of another DIR: refused with the reason and both remedies, and nothing is made."""
    inside = os.path.join(installed.home, below)
    before = os.path.isdir(inside) and os.listdir(inside)
    done = subprocess.run([SOURCE + '/bin/qpy-install', inside, '--offline', '--me', 'x.test'], capture_output=True, text=True,
                          cwd='/', **installed.user)
    assert done.returncode == 111 and done.stdout == '' and done.stderr.count('\n') == 1
    assert '%s lies in the installation %s' % (inside, installed.home) in done.stderr
    assert 'qpy-install %s\n' % installed.home in done.stderr
    assert (os.path.isdir(inside) and os.listdir(inside)) == before


@pytest.mark.parametrize('below', [['queue/mess/0', 'queue/mess/22'], ['queue/info'], ['queue/todo']])
def test_not_into_the_home_of_a_qmail(place, below):
    """Its queue and files would lie among ours: refused with the remedy before anything is made; an installation of ours in
    which such a directory stands is brought up to date, and the directory named."""
    for name in ['control', 'queue/mess', *below]:
        os.makedirs(os.path.join(place.home, name))
    if place.user:
        for top, _, _ in os.walk(place.home):
            os.chown(top, PLAIN, PLAIN)
    before = sorted(os.walk(place.home))
    said = place.run('--offline', '--me', 'x.test', code=111)
    assert 'is the home of a qmail' in said and said.endswith('qpy-install DIR, then DIR/bin/qpy-import qmail %s\n' % place.home)
    assert sorted(os.walk(place.home)) == before
    os.rename(place.home, place.home + '-old')
    place.run('--offline', '--me', 'x.test')
    for name in below:
        os.makedirs(os.path.join(place.home, name), exist_ok=True)
        os.chmod(os.path.join(place.home, name), 0o777)
    assert "not of qpy's making" in place.run('--offline', code=100)


@pytest.mark.skipif(first_files.unprivileged() <= 25, reason='port 25 is free for all here')
def test_a_plain_user_cannot_have_port_25(place):
    """It is said before anything is made."""
    assert '--smtp 25: ports below 1024 need root' in place.run('--smtp', '25', '--offline', code=111)
    assert not os.path.exists(place.home)


def test_another_port_says_what_to_edit(installed):
    """control/services is kept; file and line are named."""
    said = installed.run('--offline', '--smtp', '2526')
    assert '%s/control/services is kept' % installed.home in said
    assert 'must be: smtpd qpyd tcp:127.0.0.1:2526 qpy-smtpd' in said
    assert installed.read('control/services') == SERVICES


def test_the_first_control_files(installed):
    """me, the SMTP line on loopback, who may relay, and the admin's aliases; no sample is live."""
    assert installed.read('control/me') == 'x.test\n'
    assert installed.read('control/locals').splitlines()[1:] == ['x.test', 'localhost']
    assert installed.read('control/services') == SERVICES
    assert '127.:allow,RELAYCLIENT=""' in installed.read('control/tcp.smtp')
    assert installed.read('alias/.qmail-postmaster') == '&a@b.test\n'
    assert sorted(os.listdir(installed.home + '/control')) == ['locals', 'me', 'services', 'tcp.smtp']
    assert 'services' in os.listdir(installed.home + '/doc/control')
    assert 'fail2ban-qpy.conf' in os.listdir(installed.home + '/doc')


def test_launchers_are_absolute_and_run_from_anywhere(installed):
    """Each launcher of the source but qpy-test stands in DIR/bin with its interpreter, code and home fixed."""
    names = {name for name in os.listdir(SOURCE + '/bin')} - set(program_files.LEFT_OUT)
    there = {name for name in os.listdir(installed.home + '/bin') if name.startswith('qpy-')}
    assert there == names
    text = installed.read('bin/qpy-clean')
    assert text.startswith('#!/usr/bin/python3 -IS\n') and repr(installed.home + '/lib') in text
    assert "program.run('qpy.qpyq.clean', %r)" % installed.home in text
    assert os.readlink(installed.home + '/bin/sendmail') == 'qpy-sendmail'
    installed.run('--check', program=installed.home + '/bin/qpy-install')


def test_the_code_is_byte_compiled(installed):
    """Every module has its compiled form: accounts that cannot write need none of their own."""
    for directory, _, files in os.walk(installed.home + '/lib/qpy'):
        for name in files:
            if name.endswith('.py'):
                assert [n for n in os.listdir(directory + '/__pycache__') if n.startswith(name[:-3] + '.')], name


def test_doing_it_again_changes_no_control_file_and_renews_the_code(place):
    """Control files and aliases are kept as they are, with a word about what was asked for; code is replaced."""
    place.run('--offline', '--me', 'x.test')
    for name, text in (('control/me', 'other.test\n'), ('control/services', '# mine\n'), ('alias/.qmail-root', '#\n')):
        with open(os.path.join(place.home, name), 'w') as file:
            file.write(text)
    with open(place.home + '/lib/qpy/stale.py', 'w') as file:
        file.write('')
    os.unlink(place.home + '/bin/qmail-queue')
    os.symlink('qpy-qmqpc', place.home + '/bin/qmail-queue')
    said = place.run('--offline', '--me', 'x.test', '--smtp', '2526')
    assert 'control/me is kept: other.test' in said and 'control/services is kept' in said
    assert place.read('control/services') == '# mine\n' and place.read('alias/.qmail-root') == '#\n'
    assert os.readlink(place.home + '/bin/qmail-queue') == 'qpy-qmqpc' and 'bin/qmail-queue is kept' in said
    assert os.readlink(place.home + '/bin/qmail-inject') == 'qpy-inject' and os.readlink(place.home + '/bin/rmail') == 'qpy-sendmail'
    assert not os.path.exists(place.home + '/lib/qpy/stale.py')
    assert sorted(n for n in os.listdir(place.home + '/lib')) == ['qpy', 'site']


def test_code_kept_elsewhere_is_left_alone(place):
    """A link DIR/lib/qpy belongs to a package and stays."""
    place.run('--offline', '--me', 'x.test')
    os.rename(place.home + '/lib/qpy', place.top + '/elsewhere')
    os.symlink(place.top + '/elsewhere', place.home + '/lib/qpy')
    place.run('--offline')
    assert os.readlink(place.home + '/lib/qpy') == place.top + '/elsewhere'
    os.chmod(place.top + '/elsewhere/unix.py', 0o666)
    assert 'lib/qpy/unix.py: has mode 0666' in place.run('--check', code=100)


@pytest.mark.parametrize('spoil, words', [
    (lambda home: os.chmod(home + '/queue/mess', 0o755), ('queue/mess: has mode 0755', 'chmod 0750')),
    (lambda home: os.rmdir(home + '/run'), ('run: missing', 'run qpy-install')),
    (lambda home: os.chmod(home + '/control/me', 0o666), ('control/me: has mode 0666', 'chmod go-w')),
    (lambda home: os.chmod(home + '/lib/qpy/unix.py', 0o646), ('lib/qpy/unix.py: has mode 0646', 'chmod go-w')),
    (lambda home: os.chmod(home + '/bin/qpy-queue', 0o4755), ('bin/qpy-queue: is set-user-id', 'chmod ug-s')),
    (lambda home: os.chmod(home + '/bin/qpy-queue', 0o055), ('bin/qpy-queue: has mode 0055', 'chmod u+rx')),
    (lambda home: os.chmod(home + '/lib/site', 0o455), ('lib/site: has mode 0455', 'cannot use it', 'chmod u+rx')),
    (lambda home: os.unlink(home + '/lib/qpy/qpyd/smtpd.py'), ('lib/qpy/qpyd/smtpd.py: missing', 'install qpy again')),
    (lambda home: os.mkdir(home + '/run/submit'), ('run/submit: this is a directory, and must be a socket', 'move it')),
    (lambda home: os.unlink(home + '/bin/qpy-smtpd'), ('bin/qpy-smtpd: missing', 'install qpy again')),
    (lambda home: os.truncate(home + '/lib/qpy/qpyd/smtpd.py', 1000), ('lib/qpy/qpyd/smtpd.py: not as', 'install qpy')),
])
def test_check_names_what_is_wrong_and_the_remedy(place, spoil, words):
    """--check exits 100 with one line for each thing; installing again, or the remedy, mends it."""
    place.run('--offline', '--me', 'x.test')
    spoil(place.home)
    said = place.run('--check', code=100)
    assert said.count('\n') == 1 and all(word in said for word in words)


def test_check_names_certificates_that_are_for_others(place):
    """Where none of the certificates is for this host --check says so; default.pem is for everybody."""
    place.run('--offline', '--me', 'x.test')
    with open(place.home + '/control/services', 'w') as file:
        file.write(SERVICES)

    def put(name, *names):
        certificate, key = authority().certificate(*names)
        with open('%s/keys/%s' % (place.home, name), 'w') as file:
            file.write(open(key).read() + open(certificate).read())
        os.chmod(file.name, 0o640)
        os.chown(file.name, PLAIN, PLAIN) if os.geteuid() == 0 else None
    put('other.pem', 'other.test')
    said = place.run('--check', code=100)
    assert said.count('\n') == 1 and '%s/keys/other.pem: not for x.test, ' % place.home in said
    put('default.pem', 'third.test')
    place.run('--check')
    os.unlink(place.home + '/keys/default.pem')
    put('own.pem', 'other.test', 'x.test')
    place.run('--check')


BELOW = 'unable to load the code below'
UNLOADABLE = [(BELOW, 'core', lambda path: os.chmod(path, 0)), (BELOW, 'unix.py', os.unlink), (BELOW, 'core', shutil.rmtree),
              (BELOW, 'unix.py', lambda path: os.truncate(path, 20)), (BELOW, '', lambda path: os.chmod(path, 0)),
              ('unable to load qpy.qpyq.queue', 'qpyq/queue.py', os.unlink),
              ('unable to load qpy.qpyq.queue', 'qpyq/queue.py', lambda path: os.truncate(path, 100))]


def test_code_that_cannot_be_loaded_is_said_in_a_line(place):
    """Closed to who runs it, missing, or no Python: one line that says what helps, and 111; never a traceback."""
    place.run('--offline', '--me', 'x.test')
    code = os.path.join(place.home, 'lib/qpy')
    shutil.copytree(code, code + '.whole', symlinks=True)
    for words, name, spoil in UNLOADABLE:
        spoil(os.path.join(code, name))
        said = place.run(program=place.home + '/bin/qpy-queue', code=111)
        assert said.startswith('qpy-queue: fatal: ' + words) and said.count('\n') == 1, (name, said)
        assert ('; chmod -R a+rX it, or ' if words == BELOW else 'qpy-install --check says what is wrong') in said
        for closed in (code, os.path.join(code, name)):
            if os.path.isdir(closed):
                os.chmod(closed, 0o755)
        shutil.rmtree(code)
        shutil.copytree(code + '.whole', code, symlinks=True)


@pytest.mark.skipif(os.geteuid() == 0, reason='root reads everything')
def test_check_of_a_closed_lib(place):
    """--check, from the source tree, names the directory that it may not read, and what helps."""
    place.run('--offline', '--me', 'x.test')
    os.chmod(place.home + '/lib', 0)
    try:
        said = place.run('--check', code=111)
        assert place.home + '/lib: Permission denied; chmod ' in said and "b'" not in said
    finally:
        os.chmod(place.home + '/lib', 0o755)


@pytest.mark.parametrize('words, remedy', [
    (('--me', 'not a name'), '--me'), (('--smtp', 'smtp'), '--smtp smtp: write'), (('--admin', 'root'), 'whole address'),
    (('--python', '/no/python'), 'is missing'),
])
def test_a_wrong_word_is_refused_with_its_remedy(place, words, remedy):
    """Nothing of a traceback; exit 111."""
    said = place.run('--offline', *words, code=111)
    assert remedy in said and said.startswith('qpy-install: fatal: ') and said.count('\n') == 1


def test_usage_is_100(place):
    """An unknown option is answered with the usage and 100."""
    assert 'usage: qpy-install' in place.run('--nonsense', code=100)


def test_being_sendmail_keeps_what_was_there(tmp_path, monkeypatch, capsys):
    """--sendmail makes links to DIR/bin where callers look, keeps what it finds as .dist, and does it once."""
    paths = tuple((str(tmp_path / name), 'qpy-' + name) for name in ('sendmail', 'mailq', 'newaliases'))
    monkeypatch.setattr(other_names, 'SYSTEM_LINKS', paths)
    monkeypatch.setattr(other_names.shutil, 'which', lambda name: None)
    (tmp_path / 'sendmail').write_text('another')
    for _ in range(2):
        other_names.be_sendmail('/var/qpy', rootless=False)
    assert (tmp_path / 'sendmail.dist').read_text() == 'another'
    assert all(os.readlink(path) == '/var/qpy/bin/' + name for path, name in paths)
    assert capsys.readouterr().out.count('is now a link') == 3
    with pytest.raises(doing.Trouble, match='needs root'):
        other_names.be_sendmail('/var/qpy', rootless=True)


def test_etc_aliases_is_not_hidden(tmp_path, monkeypatch):
    """Who becomes sendmail obeys /etc/aliases: for the names it has no .qmail file is made."""
    (tmp_path / 'aliases').write_text('root: ann@far.test\nhostmaster: root\n')
    (tmp_path / 'qpy/alias').mkdir(parents=True)
    monkeypatch.setattr(first_files, 'SYSTEM_ALIASES', str(tmp_path / 'aliases'))
    known = first_files.system_aliases()
    first_files.first_aliases(str(tmp_path / 'qpy'), None, known)
    assert sorted(os.listdir(tmp_path / 'qpy/alias')) == ['.qmail-mailer-daemon', '.qmail-postmaster', 'Maildir']
    monkeypatch.setattr(first_files, 'SYSTEM_ALIASES', str(tmp_path / 'absent'))
    assert first_files.system_aliases() == {}


def test_being_qmail(tmp_path, monkeypatch, capsys):
    """--qmail-names links every program of qmail that qpy has, and its home if there is none; what is there stays."""
    home = tmp_path / 'qpy'
    (home / 'bin').mkdir(parents=True)
    for name, _ in program_files.launchers():
        (home / 'bin' / name).write_text('')
    monkeypatch.setattr(other_names, 'QMAIL_HOME', str(tmp_path / 'qmail'))
    other_names.be_qmail(str(home), rootless=False)
    assert {name for name in os.listdir(home / 'bin') if name.startswith('qmail-')} == set(other_names.ALL_QMAIL_NAMES)
    assert os.readlink(home / 'bin/qmail-send') == 'qpy-send' and (tmp_path / 'qmail/bin/qmail-pop3d').exists()
    other_names.be_qmail(str(home), rootless=False)
    assert capsys.readouterr().out == ''
    (tmp_path / 'qmail').unlink()
    (tmp_path / 'qmail').mkdir()
    other_names.be_qmail(str(home), rootless=False)
    assert 'stays as it is' in capsys.readouterr().out


def test_an_address_or_a_port_for_smtp():
    """--smtp takes a port (loopback when rootless, every address as root) or ADDRESS:PORT."""
    assert first_files.smtp_line('2525', rootless=True) == SERVICES.partition('tls')[0]
    assert first_files.smtp_line('25', rootless=False).startswith('smtpd qpyd tcp:0.0.0.0:25')
    assert first_files.smtp_line('[::1]:26', rootless=False) == 'smtpd qpyd tcp:[::1]:26 qpy-smtpd\n'


def test_submission_lines():
    """--submission: a login and two ports, which start as they are written; not for a plain user, not without --smtp."""
    from qpy.core import services
    table = {service.name: service for service in services.table(first_files.submission_lines().encode())}
    assert [listen.port for listen in table[b'submission'].listens][:1] == [587]
    assert table[b'submissions'].environment == {b'SMTPS': b'1', b'REQUIREAUTH': b'1'}
    assert table[b'auth'].account == b'qpya'
    with pytest.raises(doing.Trouble, match='--submission needs --smtp'):
        install.install(install.parse(['/nowhere', '--submission']))


@pytest.mark.root
def test_an_interpreter_under_a_private_home_is_refused(tmp_path):
    """An interpreter that accounts cannot reach is named with what to do; the installer looks at the whole path."""
    private = tmp_path / 'private'
    private.mkdir(mode=0o700)
    shutil.copy('/usr/bin/python3', private / 'python3')
    with pytest.raises(doing.Trouble, match='cannot be executed by every account'):
        program_files.check_interpreter('/srv/mail', str(private / 'python3'), rootless=False)


@pytest.mark.root
def test_as_root_owners_and_modes_are_the_tables(tmp_path):
    """Accounts exist, directories have the table's owners and modes, installing twice changes nothing, and another
    owner is found by --check."""
    home = str(tmp_path / 'rooted')

    def run(*words):
        done = subprocess.run([SOURCE + '/bin/qpy-install', home, '--offline', '--me', 'x.test', *words],
                              capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
    assert run()[0] == 0
    before = {name: os.stat(os.path.join(home, name))[:6] for name in os.listdir(home)}
    assert run()[0] == 0
    assert {name: os.stat(os.path.join(home, name)).st_uid for name in before} == {n: s[4] for n, s in before.items()}
    there = os.stat(home + '/queue/mess')
    assert pwd.getpwuid(there.st_uid).pw_name == 'qpyq' and stat.S_IMODE(there.st_mode) == 0o750
    assert pwd.getpwuid(os.stat(home + '/queue/state').st_uid).pw_name == 'qpys'
    for role in ('qpyd', 'qpyt', 'qpyq', 'qpys', 'qpyu', 'qpyr', 'qpyp', 'qpya', 'qpyc', 'qpyl', 'alias'):
        assert 0 < pwd.getpwnam(role).pw_uid < 1000
    os.chown(home + '/queue/state', 0, 0)
    code, said = run('--check')
    assert code == 100 and 'queue/state: belongs to 0:0, must belong to' in said and 'chown' in said


@pytest.fixture
def groups_of_root():
    """Groups that root has at a shell, and nobody else is to have by it."""
    before = os.getgroups()
    os.setgroups([0, 4])
    yield
    os.setgroups(before)


@pytest.mark.root
def test_root_follows_no_link_of_another(tmp_path, groups_of_root):
    """In a directory of another root has his rights, whatever he does meanwhile, and its own again afterwards; the complaint
    has the whole path."""
    (tmp_path / 'secret').write_text('of root')
    os.chmod(tmp_path / 'secret', 0o600)
    (tmp_path / 'his').mkdir()
    (tmp_path / 'his/link').symlink_to(tmp_path / 'secret')
    os.chown(tmp_path / 'his', PLAIN, PLAIN)
    before = os.getresuid(), os.getresgid(), os.getgroups(), os.getcwd()
    for work in (lambda: open('link', 'w'), lambda: os.chmod('link', 0o644), lambda: doing.write('link/x', '')):
        with pytest.raises(OSError) as caught:
            with doing.as_its_owner(str(tmp_path / 'his')):
                work()
        assert caught.value.errno in (errno.EACCES, errno.EPERM, errno.ENOTDIR)
        assert caught.value.filename.startswith(str(tmp_path / 'his/link'))
    with doing.as_its_owner(str(tmp_path), str(tmp_path / 'his')):
        assert os.geteuid() == os.getegid() == PLAIN and os.getgroups() == []        # all of it belongs to who has DIR
    assert (os.getresuid(), os.getresgid(), os.getgroups(), os.getcwd()) == before
    assert (tmp_path / 'secret').read_text() == 'of root' and os.stat(tmp_path / 'secret').st_mode & 0o777 == 0o600


def test_what_lies_in_alias_ends_no_upgrade_and_no_removal(place):
    """A directory where a file is to be is a warning, and the upgrade goes on; directories deeper than a path can say go with
    the rest."""
    place.run('--offline', '--me', 'x.test')
    alias = place.home + '/alias'
    os.unlink(alias + '/.qmail-root')
    os.mkdir(alias + '/.qmail-root.new')
    shutil.rmtree(place.home + '/service')
    said = place.run('--offline')
    assert 'warning: %s/.qmail-root.new: Is a directory\n' % alias in said and os.path.exists(place.home + '/service/qpy.service')
    os.rmdir(alias + '/.qmail-root.new')
    here = os.open(alias, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir('deep', dir_fd=here)
        here, old = os.open('deep', os.O_RDONLY, dir_fd=here), here
        os.close(old)
    os.close(here)
    try:
        if place.user:
            subprocess.run(['chown', '-R', '--reference', alias, alias + '/deep'], check=True)
        assert 'File name too long' in place.run('--offline', code=100)
        assert place.home + ' is gone' in place.run('--uninstall', '--purge')
    finally:
        subprocess.run(['rm', '-rf', place.home], check=True)


@pytest.mark.root
def test_an_upgrade_follows_no_link_of_alias(tmp_path):
    """Links that alias has put where a file or a Maildir is to be lead nowhere: what is written is his own."""
    home, secret = str(tmp_path / 'rooted'), tmp_path / 'secret'
    alias = os.path.join(home, 'alias')

    def run():
        done = subprocess.run([SOURCE + '/bin/qpy-install', home, '--offline', '--me', 'x.test'], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
    assert run()[0] == 0
    secret.mkdir(mode=0o700)
    (secret / 'shadow').write_text('of root')
    there = os.stat(secret / 'shadow')
    shutil.rmtree(alias + '/Maildir')
    os.symlink(secret, alias + '/Maildir')
    for name in first_files.FIRST_ALIASES:
        os.unlink(alias + '/.qmail-' + name)
        os.symlink(secret / 'shadow', alias + '/.qmail-%s.new' % name)
    run()
    assert sorted(os.listdir(secret)) == ['shadow'] and (secret / 'shadow').read_text() == 'of root'
    assert os.stat(secret / 'shadow')[:6] == there[:6] and os.stat(secret).st_uid == 0
    for name in first_files.FIRST_ALIASES:
        made = os.lstat(alias + '/.qmail-' + name)
        assert stat.S_ISREG(made.st_mode) and made.st_uid == pwd.getpwnam('alias').pw_uid


@pytest.mark.root
def test_code_closed_to_an_account(tmp_path):
    """What root can read and others cannot is refused by qpy-start, which says path, mode and remedy, as --check does; and who
    runs a program of such an installation is told in a line."""
    home = str(tmp_path / 'above' / 'rooted')
    os.mkdir(tmp_path / 'above')

    def run(*words, **how):
        return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, **how)
    assert run(SOURCE + '/bin/qpy-install', home, '--offline', '--me', 'x.test').returncode == 0
    for name, letters in (('lib/qpy', 'rx'), ('lib/qpy/core', 'rx'), ('lib/qpy/qpyd/smtpd.py', 'r'), ('lib/site', 'rx'),
                          ('bin/qpy-inject', 'rx'), ('..', 'x')):
        path = os.path.normpath(os.path.join(home, name))
        before = os.stat(path).st_mode
        os.chmod(path, 0o700)
        wrong = '%s: has mode 0700, the accounts of mail and its users cannot use it; chmod a+%s %s\n' % (path, letters, path)
        start, check = run(home + '/bin/qpy-start'), run(home + '/bin/qpy-install', home, '--check')
        assert (start.returncode, start.stderr) == (111, 'qpy-start: fatal: unable to start: ' + wrong)
        assert check.returncode == 100 and wrong in check.stdout
        if name in ('lib/qpy', 'lib/qpy/core'):
            user = run(home + '/bin/qpy-inject', user=PLAIN, group=PLAIN, extra_groups=[])
            assert user.returncode == 111 and user.stderr.count('\n') == 1
            assert user.stderr.startswith('qpy-inject: fatal: %s %s (' % (BELOW, home + '/lib'))
        os.chmod(path, before & 0o7777)


TAKEOVER = r'''
mount -t tmpfs none %(top)s/ov || exit 77
for d in usr var/lib/dpkg etc; do
    n=$(echo $d | tr / _); mkdir -p %(top)s/ov/$n.u %(top)s/ov/$n.w
    mount -t overlay overlay -o lowerdir=/$d,upperdir=%(top)s/ov/$n.u,workdir=%(top)s/ov/$n.w /$d || exit 77
done
set -e
cd /; rm -f /usr/sbin/sendmail /usr/lib/sendmail
sed -i '/^qpy.:/d; /^alias:/d' /etc/passwd /etc/shadow /etc/group /etc/gshadow
printf '#!/bin/sh\necho old\n' > /usr/sbin/sendmail; chmod 755 /usr/sbin/sendmail
%(source)s/bin/qpy-install %(top)s/qpy --offline --me vm --sendmail
%(top)s/qpy/bin/qpy-install %(top)s/qpy --offline --sendmail
echo "links: $(for path in sbin/sendmail lib/sendmail bin/mailq bin/newaliases sbin/rmail sbin/runq; do readlink /usr/$path; done | xargs)"
echo "old: $(/usr/sbin/sendmail.dist)"
! command -v dpkg-divert || dpkg-divert --truename /usr/sbin/sendmail
/usr/sbin/sendmail -bv root@localhost
if command -v dpkg-divert; then
    mkdir -p %(top)s/mta/DEBIAN %(top)s/mta/usr/sbin
    printf 'Package: qpy-test-mta\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.test>\nDescription: x\n' >%(top)s/mta/DEBIAN/control
    printf '#!/bin/sh\necho another\n' >%(top)s/mta/usr/sbin/runq; chmod 755 %(top)s/mta/usr/sbin/runq
    dpkg-deb --build %(top)s/mta %(top)s/mta.deb; dpkg --install %(top)s/mta.deb
    echo "kept: $(readlink /usr/sbin/runq) $(/usr/sbin/runq.dist)"
    check() { %(top)s/qpy/bin/qpy-install %(top)s/qpy --check | grep '^/usr' || true; }
    check; echo 'first check done'
    ln -sf /bin/true /usr/sbin/runq; dpkg-divert --local --no-rename --remove /usr/bin/mailq >&2
    check; echo 'second check done'
    ! %(top)s/qpy/bin/qpy-install %(top)s/qpy --offline --sendmail; rm /usr/sbin/runq
    %(top)s/qpy/bin/qpy-install %(top)s/qpy --offline --sendmail
    echo 'third check:'; check; echo 'done'
fi
ln -s %(top)s/qpy/service/qpy.service /etc/systemd/system/qpy.service
printf 'Subject: x\\n\\nwaits\\n' >%(top)s/qpy/queue/mess/1234567890123456
echo 'to uninstall:'
%(top)s/qpy/bin/qpy-install %(top)s/qpy --uninstall
%(source)s/bin/qpy-install %(top)s/qpy --uninstall --accounts
ls %(top)s/qpy %(top)s/qpy/control
for path in /usr/sbin/sendmail /usr/lib/sendmail /usr/bin/mailq /etc/systemd/system/qpy.service; do ls -d $path || true; done
echo "again: $(/usr/sbin/sendmail)"
! command -v dpkg-divert || dpkg-divert --list /usr/sbin/sendmail
getent passwd qpyq qpys alias || echo 'no accounts'
getent group qpyq alias || echo 'no groups'
rm %(top)s/qpy/queue/mess/*
%(source)s/bin/qpy-install %(top)s/qpy --offline --me vm
%(source)s/bin/qpy-install %(top)s/qpy --uninstall --purge
%(source)s/bin/qpy-install %(top)s/qpy --uninstall --accounts
! getent passwd qpyq || echo 'still there'
'''


@pytest.mark.root
def test_being_the_machines_sendmail(tmp_path):
    """--sendmail on a machine of its own (overlays): the links, what was there is kept by dpkg's rules, a second
    run changes nothing, and callers get our sendmail.  --uninstall: what was there is back, the unit's link and the
    accounts are gone, and what people have written or sent is still there, by name.
    """
    (tmp_path / 'ov').mkdir()
    done = subprocess.run(['unshare', '-m', '-p', '-f', '--mount-proc', 'bash', '-c', TAKEOVER % {'top': tmp_path, 'source': SOURCE}],
                          capture_output=True, text=True, timeout=100)
    if done.returncode == 77:
        pytest.skip('overlays cannot be mounted here')
    assert done.returncode == 0, done.stdout + done.stderr
    links = ' '.join('%s/qpy/bin/qpy-%s' % (tmp_path, name) for name in ('sendmail', 'sendmail', 'mailq', 'newaliases', 'sendmail', 'sendmail'))
    assert 'links: %s\nold: old\n' % links in done.stdout
    assert not shutil.which('dpkg-divert') or '\n/usr/sbin/sendmail.dist\n' in done.stdout
    assert done.stdout.count('is kept as /usr/sbin/sendmail.dist') == 1 and 'deliverable, local' in done.stdout
    if shutil.which('dpkg-divert'):         # a package that comes later, and somebody who puts his own link there
        assert 'kept: %s/qpy/bin/qpy-sendmail another\nfirst check done\n' % tmp_path in done.stdout
        second = done.stdout.partition('first check done\n')[2].partition('second check done\n')[0].splitlines()
        remedy = 'qpy-install %s/qpy --sendmail' % tmp_path
        assert [line.partition(':')[0] for line in second] == ['/usr/sbin/runq', '/usr/bin/mailq']
        assert all(line.endswith(remedy) for line in second) and 'is no link to' in second[0] and 'dpkg does not know' in second[1]
        assert '/usr/sbin/runq and /usr/sbin/runq.dist are both there' in done.stderr
        assert '/usr/sbin/runq is now a link to %s/qpy/bin/qpy-sendmail\n' % tmp_path in done.stdout.partition('second check done')[2]
        assert 'third check:\ndone\n' in done.stdout
    after = done.stdout.partition('to uninstall:\n')[2]
    runq = 'what it was before' if shutil.which('dpkg-divert') else 'gone'
    for words in ('/usr/sbin/sendmail is what it was before', '/usr/bin/mailq is gone', '/usr/sbin/runq is ' + runq, 'qpy.service is removed',
                  'left: %s/qpy/queue (1 messages)' % tmp_path, 'left: %s/qpy/control (what --purge' % tmp_path,
                  'left: the mailboxes of users', 'qpy:\nalias\ncontrol\nqueue\nusers\n', '\nme\n', '\nagain: old\n',
                  'no accounts\nno groups\n'):
        assert words in after, (words, after, done.stderr)
    assert 'still there' not in after and '/etc/systemd/system/qpy.service\n' not in after and 'diversion of /usr/sbin' not in after.partition('again:')[2]


def test_the_word_before_the_wait(tmp_path, monkeypatch, capsys):
    """Who has no network is told before pip is started what it does and how long that may take, and pip gives up soon."""
    calls = []

    def run(*words):
        calls.append((words, capsys.readouterr().out))
        if words[1:3] == ('-I', '-c') or 'install' in words:
            raise doing.Trouble('no network')
    monkeypatch.setattr(doing, 'run', run)
    monkeypatch.setattr(packages, 'DISTRIBUTIONS', '/nowhere')
    packages.find_packages(str(tmp_path), install.parse([str(tmp_path)]))
    (venv, said), (pip, after) = calls[-2:]
    assert 'venv' in venv and said.startswith('fetching dnspython and click with pip: ') and 'half a minute' in said and '--offline' in said
    assert pip[pip.index('--retries') + 1] == '1' and pip[pip.index('--timeout') + 1] == '5' and not after
    assert said_without(capsys.readouterr().out) == ['no network'] * 2
    calls.clear()
    packages.find_packages(str(tmp_path), install.parse([str(tmp_path), '--offline']))
    assert all(words[1:3] == ('-I', '-c') for words, _ in calls) and said_without(capsys.readouterr().out) == ['', '']
    packages.find_packages(str(tmp_path), install.parse([str(tmp_path), '--offline', '--destdir', str(tmp_path)]))
    assert capsys.readouterr().out == ''


def said_without(said):
    """Why each package is not there, by its warning."""
    first, second = said.splitlines()
    assert first.startswith('warning: without dnspython mail for other hosts waits') and 'apt install python3-dnspython' in first
    assert second.startswith('warning: without click ') and 'qpy-ctl' in second and 'apt install python3-click' in second
    return [line.partition('run qpy-install again')[2].lstrip(': ') for line in (first, second)]


def test_check_names_packages_that_are_missing(installed, monkeypatch):
    """A link to a package that has been removed, and one that never was there, are noted: mail for other hosts would wait.
    That is no reason not to start."""
    site = installed.home + '/lib/site'
    monkeypatch.setattr(packages, 'DISTRIBUTIONS', '/nowhere')
    for name in ('dns', 'click'):
        if os.path.lexists(os.path.join(site, name)):
            os.rename(os.path.join(site, name), os.path.join(site, name + '.away'))
    os.symlink('/nowhere/dns', site + '/dns')
    try:
        assert [line.split()[1] for line in packages.lacking(installed.home)] == ['dnspython', 'click']
        said = installed.all_said('--check')
        assert 'is in order' in said
        if not os.path.isdir('/usr/lib/python3/dist-packages/dns'):
            assert 'note: without dnspython mail for other hosts waits' in said
    finally:
        os.unlink(site + '/dns')
        for name in ('dns', 'click'):
            if os.path.lexists(os.path.join(site, name + '.away')):
                os.rename(os.path.join(site, name + '.away'), os.path.join(site, name))


@pytest.mark.root
@pytest.mark.parametrize('wanted', [True, False])
def test_uninstall_says_one_thing_of_accounts(tmp_path, monkeypatch, capsys, wanted):
    """An account of another installation is left, and --accounts is offered only to who has not given it."""
    for name in ('lib/qpy', 'queue'):
        (tmp_path / 'qpy' / name).mkdir(parents=True)
    monkeypatch.setattr(uninstall.pwd, 'getpwnam', lambda name: pwd.struct_passwd((name, 'x', 9, 9, '', '/other', '')))
    monkeypatch.setattr(uninstall.grp, 'getgrnam', lambda name: grp.struct_group((name, 'x', 9, ['somebody'])))
    run = doing.run
    monkeypatch.setattr(doing, 'run', lambda *words: run(*words) if words[0] == 'rm' else pytest.fail(str(words)))
    uninstall.uninstall(argparse.Namespace(home=str(tmp_path / 'qpy'), rootless=False, accounts=wanted, purge=True))
    said = capsys.readouterr().out
    assert ('left: the account qpyq, which is not of this installation' in said) == wanted
    assert ('--accounts takes them away' in said) != wanted


def test_uninstall_leaves_what_people_have_written(place):
    """Control files, users and aliases stay and are named; the empty queue goes; --purge takes all, and DIR with it."""
    place.run('--offline', '--me', 'x.test')
    said = place.run('--uninstall')
    assert sorted(os.listdir(place.home)) == ['alias', 'control', 'users'] and place.read('control/me') == 'x.test\n'
    assert all('left: %s/%s (what --purge takes away too)' % (place.home, name) in said
               for name in ('alias', 'control', 'users'))
    assert place.run('--uninstall') == said
    place.run('--offline')
    assert place.read('control/me') == 'x.test\n'
    said = place.run('--uninstall', '--purge', program=place.home + '/bin/qpy-install')
    assert not os.path.exists(place.home) and '%s is gone' % place.home in said
    assert 'no installation of qpy' in place.run('--uninstall', '--purge', code=111)


def test_what_was_left_can_be_taken_away_later(place):
    """--purge after an --uninstall without it takes what that had left, as it had said."""
    place.run('--offline', '--me', 'x.test')
    place.run('--uninstall')
    assert '%s is gone' % place.home in place.run('--uninstall', '--purge') and not os.path.exists(place.home)


def test_uninstall_leaves_a_qmail_alone(place):
    """qmail's directories have the same names; they are none of ours."""
    for name in ('bin', 'control', 'alias', 'users', 'queue/mess'):
        os.makedirs(os.path.join(place.home, name))
        os.chmod(os.path.join(place.home, name), 0o777)
    with open(place.home + '/control/me', 'w') as file:
        file.write('x.test\n')
    os.chmod(place.home, 0o777)
    assert 'no installation of qpy' in place.run('--uninstall', '--purge', code=111)
    assert sorted(os.listdir(place.home)) == ['alias', 'bin', 'control', 'queue', 'users']


def test_uninstall_keeps_mail(place):
    """A queue with a message in it, or one set aside, stays without --purge, and how many is said."""
    place.run('--offline', '--me', 'x.test')
    for name in ('mess/1234567890123456', 'damaged/1234567890123457'):
        with open(place.home + '/queue/' + name, 'w') as file:
            file.write('mail')
    assert 'left: %s/queue (2 messages)' % place.home in place.run('--uninstall')
    assert place.read('queue/mess/1234567890123456') == 'mail'


def test_the_remedy_of_a_damaged_module_mends_it(place):
    """What --check names of the code, compiled or in the list itself, the next qpy-install makes anew, though the source is the same."""
    place.run('--offline', '--me', 'x.test')
    code = place.home + '/lib/qpy/'
    compiled = os.path.relpath(glob.glob(code + 'core/__pycache__/exits.*.pyc')[0], code)
    for name, at in (('core/exits.py', 0), (compiled, 8), (compiled, 100), ('FILES', 0)):
        with open(code + name, 'r+b') as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([ord('1') if byte == ord('0') else ord('0')]))
        assert 'install qpy again' in place.run('--check', code=100)
        place.run('--offline')
        assert 'is in order' in place.run('--check')


def test_a_chain_without_its_sockets_runs_all_the_same(place):
    """While a qpy-start holds the lock an upgrade tells nobody to start another, whatever has become of DIR/run; afterwards it does."""
    place.run('--offline', '--me', 'x.test')
    with open(place.home + '/queue/lock', 'w') as lock:
        os.chmod(lock.name, 0o600)
        os.chown(lock.name, place.user.get('user', -1), place.user.get('group', -1))
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = place.run('--offline')
        assert 'qpy runs in %s ' % place.home in said and 'start it with' not in said
    assert 'start it with %s/bin/qpy-start' % place.home in place.run('--offline')


def test_uninstall_takes_nothing_away_from_a_running_chain(place):
    """While qpy-start holds its lock nothing is removed, and how to stop it is said."""
    place.run('--offline', '--me', 'x.test')
    with open(place.home + '/queue/lock', 'w') as lock:
        os.chmod(lock.name, 0o666)
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = sorted(os.listdir(place.home))
        said = place.run('--uninstall', '--purge', code=111)
    assert 'stop it first' in said and sorted(os.listdir(place.home)) == before


def test_uninstall_waits_for_no_fifo(place):
    """A FIFO in the place of qpy-start's lock is named; nothing is removed."""
    place.run('--offline', '--me', 'x.test')
    os.mkfifo(place.home + '/queue/lock')
    os.chmod(place.home + '/queue/lock', 0o666)
    before = sorted(os.listdir(place.home))
    said = place.run('--uninstall', '--purge', code=111)
    assert 'queue/lock: not a regular file' in said and sorted(os.listdir(place.home)) == before


@pytest.mark.parametrize('words', [('--purge',), ('--accounts',), ('--check', '--uninstall'),
                                   ('--destdir', '/tmp/x', '--check')])
def test_words_that_do_not_go_together(place, words):
    """They are answered with the usage and 100, and nothing is done."""
    assert 'usage: qpy-install' in place.run(*words, code=100) and not os.path.exists(place.home)


def test_destdir_holds_what_belongs_to_a_package(place):
    """Code, launchers, manual, samples and units are below --destdir, with the paths they will have; nothing of this
    machine is among them, and a plain user can make it.  Unpacked, it installs itself."""
    staged = place.top + '/stage'
    said = place.run('--destdir', staged)
    tree = staged + place.home
    assert sorted(os.listdir(tree)) == ['bin', 'doc', 'lib', 'man', 'service'] and not os.path.exists(place.home)
    assert 'run %s/bin/qpy-install %s' % (place.home, place.home) in said
    for directory, _, files in os.walk(tree):
        for name in files:
            with open(os.path.join(directory, name), 'rb') as file:
                assert staged.encode() not in file.read(), name
    os.rename(tree, place.home)
    launcher = place.home + '/bin/qpy-install'
    place.run('--offline', '--me', 'x.test', program=launcher)
    assert 'is in order' in place.run('--check', program=launcher)
    assert os.listdir(place.home + '/lib/qpy/core/__pycache__')


@pytest.mark.root
def test_check_names_what_the_kernel_does_not_give(tmp_path):
    """Where user namespaces are forbidden --check says by what users are kept apart instead; it is no error."""
    home = str(tmp_path / 'rooted')
    command = [SOURCE + '/bin/qpy-install', home, '--offline', '--me', 'x.test']
    assert subprocess.run(command, capture_output=True).returncode == 0
    poor = ('import sys; sys.path.insert(0, %r)\nfrom qpy import unix_kernel\nfrom qpy.admin import install\n'
            'def unshare(kinds): raise PermissionError(1, "no")\nunix_kernel.unshare = unshare\n'
            'unix_kernel.landlock_abi = lambda: 1\nfrom qpy.lib import groups\ngroups.place = lambda: None\n'
            'unix_kernel.prctl = lambda *_: (_ for _ in ()).throw(OSError(22, "no"))\n'
            'sys.exit(install.main(b"", [%r.encode(), b"--check"]))' % (SOURCE, home))
    done = subprocess.run(['/usr/bin/python3', '-IS', '-c', poor], capture_output=True, text=True)
    assert done.returncode == 0 and 'is in order' in done.stdout, done.stdout + done.stderr
    for words in ('note: user namespaces are forbidden here: local deliveries are kept apart by a filter instead',
                  'note: network namespaces are forbidden here', 'rules for TCP ports', 'no control groups of version 2',
                  'no no-exec memory'):
        assert words in done.stdout


def test_the_unit_is_verified(installed):
    """systemd has nothing to say against qpy.service."""
    if not shutil.which('systemd-analyze'):
        pytest.skip('no systemd-analyze here')
    done = subprocess.run(['systemd-analyze', 'verify', installed.home + '/service/qpy.service'], capture_output=True,
                          text=True)
    if 'Failed to initialize' in done.stderr:
        pytest.skip('systemd-analyze does not work here')
    assert 'qpy.service' not in done.stderr, done.stderr


@pytest.mark.skipif(not shutil.which('runsv'), reason='no runit here')
def test_under_runit(place):
    """runsv starts the chain and its log; TERM to runsv ends both, and the log was written."""
    place.run('--offline', '--me', 'vm')
    service = place.home + '/service/qpy'
    supervisor = subprocess.Popen(['runsv', service], cwd='/', env={'PATH': '/usr/bin:/bin'}, **place.user)
    try:
        wait_for(lambda: os.path.exists(service + '/log/main/current'))
        wait_for(lambda: 'status: local 0/' in place.read('service/qpy/log/main/current'))
        subprocess.run(['sv', '-w', '30', 'hup', service], check=True, capture_output=True, **place.user)
    finally:
        supervisor.terminate()
        assert supervisor.wait(60) == 0
    assert 'status: exiting' in place.read('service/qpy/log/main/current')


def wait_for(condition, patience=20.0):
    """Look until it holds: runit tells nobody."""
    give_up = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)
