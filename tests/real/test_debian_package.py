"""The package that qpy-deb builds, on a Debian of its own: with systemd as process 1, and in a clean chroot without."""
import os
import shutil
import subprocess

import pytest

from tests.peers import machine

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DIR = '/var/lib/qpy'
ANOTHER = """\
Package: another-mta
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.org>
Provides: mail-transport-agent
Conflicts: mail-transport-agent
Description: %s
"""


@pytest.fixture(scope='module')
def build(tmp_path_factory):
    """build(): the path of a package of the source as it is now."""
    if not shutil.which('dpkg-deb'):
        pytest.skip('no dpkg-deb here')
    source = tmp_path_factory.mktemp('source')
    for name in ('bin', 'qpy', 'man', 'control'):
        shutil.copytree(os.path.join(SOURCE, name), source / name, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(SOURCE + '/setup.cfg', source)

    def work():
        place = tmp_path_factory.mktemp('package')
        built = subprocess.run([source / 'bin/qpy-deb', place, '--maintainer', 'A B <a@example.org>'], capture_output=True,
                               text=True, cwd='/')
        assert built.returncode == 0, built.stderr
        path = built.stdout.strip()
        assert os.listdir(place) == [os.path.basename(path)]
        return path
    return work


@pytest.fixture(scope='module')
def package(build):
    """The path of the package."""
    return build()


def boot(**how):
    """A machine with the user joe, or a visible skip."""
    try:
        there = machine.Machine(**how)
    except RuntimeError as problem:
        pytest.skip('no machine to be had: %s' % problem)
    there.run('useradd', '--create-home', '--shell', '/bin/sh', 'joe')
    return there


@pytest.fixture(scope='module')
def booted(package):
    """A machine with systemd and the package."""
    there = boot(systemd=True)
    try:
        there.put(package, '/root/qpy.deb')
        there.said = there.run('dpkg', '-i', '/root/qpy.deb')
        yield there
    finally:
        there.end()


def mail(there, place='/home/joe/Maildir', words='', count=1):
    """Wait for messages in a Maildir of the machine that hold these words: the last one."""
    def found():
        directory = there.path(place + '/new')
        texts = []
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
            with open(os.path.join(directory, name)) as file:
                texts.append(file.read())
        return ([text for text in texts if words in text] + [None] * count)[count - 1]
    try:
        return there.await_that(found, 'mail with %r' % words)
    except AssertionError as problem:
        said = there.call('journalctl', '--no-pager', '-u', 'qpy', '-n', '30').stdout
        if os.path.exists(there.top + '/log'):          # of a qpy-start without systemd
            with open(there.top + '/log') as file:
                said += file.read()
        raise AssertionError('%s; the log says:\n%s' % (problem, said)) from None


def waiting_mail(there, count):
    """The names in the queue once so many messages are left in it: what stands in a Maildir leaves a moment later."""
    def found():
        names = sorted(os.listdir(there.path(DIR + '/queue/mess')))
        return (names,) if len(names) == count else None
    return there.await_that(found, 'queue with %d messages' % count)[0]


def sendmail(there, *recipients, text):
    """As joe."""
    there.run('setpriv', '--reuid', 'joe', '--regid', 'joe', '--clear-groups', 'sendmail', *recipients,
              data='Subject: x\n\n%s\n' % text)


def test_it_is_installed_and_runs(booted):
    """dpkg has configured it, the chain runs under systemd, --check finds everything in order, and no file of the package
    has a set-id bit."""
    assert booted.run('dpkg-query', '-W', '-f', '${Status}', 'qpy') == 'install ok installed'
    assert booted.run('systemctl', 'is-active', 'qpy').strip() == 'active'
    assert booted.run('systemctl', 'is-enabled', 'qpy').strip() == 'enabled'
    assert '%s is in order' % DIR in booted.run('qpy-install', '--check')
    assert booted.run('find', '/usr/lib/qpy', '/var/lib/qpy/', '/etc/qpy', '-perm', '/6000', '-type', 'f') == ''
    assert booted.run('sh', '-c', 'ls /usr/lib/qpy/qpy/core/__pycache__ | wc -l').strip() != '0'


def test_the_mail_of_cron_arrives(booted):
    """cron runs a job and calls /usr/sbin/sendmail with what it has printed: joe finds it in his Maildir."""
    booted.run('crontab', '-u', 'joe', '-', data='@reboot printf "out of cron\\n"\n')
    booted.run('sh', '-c', 'rm -f /run/crond.reboot; systemctl restart cron')
    text = mail(booted, words='out of cron')
    assert 'From: root@machine.test (Cron Daemon)' in text and 'To: joe@machine.test' in text
    joe = booted.run('id', '-u', 'joe').strip()
    assert 'invoked by uid %s)' % joe in text


def test_what_policy_wants_of_a_mail_transport_agent(booted):
    """/etc/mailname and /etc/aliases exist and count, newaliases and mailq work, ~/.forward is followed, mail for
    postmaster and root arrives, and the manual is on its path."""
    assert booted.read('/etc/mailname') == 'machine.test\n' == booted.read('/etc/qpy/control/me')
    assert 'postmaster: root' in booted.read('/etc/aliases')
    for path in ('/usr/sbin/sendmail', '/usr/lib/sendmail', '/usr/bin/newaliases', '/usr/bin/mailq', '/usr/sbin/rmail'):
        assert booted.run('readlink', '-f', path).startswith('/usr/lib/qpy/bin/qpy-')
    sendmail(booted, 'postmaster', text='for the postmaster')
    mail(booted, DIR + '/alias/Maildir', words='for the postmaster')
    booted.write('/etc/aliases', booted.read('/etc/aliases') + 'friend: joe\nroot: joe\n')
    booted.run('newaliases')
    sendmail(booted, 'friend', text='for a friend')
    mail(booted, words='for a friend')
    sendmail(booted, 'postmaster', text='for the new root')
    mail(booted, words='for the new root')
    booted.run('mailq')
    booted.run('useradd', '--create-home', 'mary')
    booted.write('/home/mary/.forward', 'joe\n')
    booted.run('chown', 'mary:', '/home/mary/.forward')
    sendmail(booted, 'mary', text='by way of mary')
    mail(booted, words='by way of mary')
    for page in ('man8/sendmail.8.gz', 'man1/newaliases.1.gz', 'man1/mailq.1.gz', 'man8/qpy-start.8.gz'):
        booted.run('gzip', '-t', '/usr/share/man/' + page)


def test_another_mail_transport_agent_is_refused_beside_it(booted, tmp_path):
    """dpkg installs no second one: the virtual package is provided and in conflict."""
    (tmp_path / 'another/DEBIAN').mkdir(parents=True)
    (tmp_path / 'another/DEBIAN/control').write_text(ANOTHER % 'another')
    subprocess.run(['dpkg-deb', '--build', tmp_path / 'another', tmp_path / 'another.deb'], check=True, capture_output=True)
    booted.put(tmp_path / 'another.deb', '/root/another.deb')
    done = booted.call('dpkg', '-i', '/root/another.deb')
    assert done.returncode != 0 and 'mail-transport-agent' in done.stderr and 'qpy' in done.stderr


def test_an_upgrade_keeps_what_is_there(booted):
    """The same package again, as an upgrade: control files, aliases and waiting mail are as before, the chain is
    started anew, which is said as it is, with how long that may take, and mail goes on."""
    booted.write('/etc/qpy/control/smtproutes', 'wait.test:127.0.0.1:9\n')
    sendmail(booted, 'someone@wait.test', text='waits')
    waiting = waiting_mail(booted, 1)
    before = booted.run('systemctl', 'show', '-P', 'MainPID', 'qpy')
    booted.write('/etc/qpy/control/timeoutstop', '7\n')
    done = booted.call('dpkg', '-i', '/root/qpy.deb')
    said = done.stdout + done.stderr
    assert done.returncode == 0 and 'qpy in %s is started anew by systemd now, when the deliveries under way have ended: that may take ' \
        '7 seconds (control/timeoutstop)\n' % DIR in said and 'when it suits you' not in said and 'no restart' not in said
    assert booted.read('/etc/qpy/control/smtproutes') == 'wait.test:127.0.0.1:9\n'
    assert 'friend: joe' in booted.read('/etc/aliases')
    assert waiting_mail(booted, 1) == waiting
    assert booted.run('systemctl', 'show', '-P', 'MainPID', 'qpy') != before
    sendmail(booted, 'joe', text='after the upgrade')
    mail(booted, words='after the upgrade')


def test_uninstall_leaves_the_package_to_dpkg(booted):
    """qpy-install --uninstall says who takes the package away, and does nothing."""
    done = booted.call('qpy-install', '--uninstall')
    assert done.returncode == 111 and 'apt remove qpy' in done.stderr
    assert booted.run('systemctl', 'is-active', 'qpy').strip() == 'active'


def test_removed_and_purged(booted):
    """Removed: nothing runs, the commands are gone, mail and control files are there.  Installed again it goes on.
    Purged: control files and keys are gone; mail is not, and is named, each place once."""
    waiting = waiting_mail(booted, 1)
    booted.run('dpkg', '-r', 'qpy')
    assert booted.call('systemctl', 'is-active', 'qpy').stdout.strip() != 'active'
    assert not any(os.path.lexists(booted.path(path)) for path in ('/usr/sbin/sendmail', '/usr/lib/qpy', DIR + '/bin'))
    assert booted.read('/etc/qpy/control/me') == 'machine.test\n'
    assert os.listdir(booted.path(DIR + '/queue/mess')) == waiting
    booted.run('dpkg', '-i', '/root/qpy.deb')
    sendmail(booted, 'joe', text='back again')
    mail(booted, words='back again')
    assert waiting_mail(booted, 1) == waiting
    assert {'check', 'keys', 'tls', 'queue'} <= {*os.listdir(booted.path(DIR))}
    done = booted.call('dpkg', '-P', 'qpy')
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stdout + done.stderr).split('\n') if line.startswith('left: ')]
    assert 'left: %s/queue/mess, with mail in it' % DIR in said
    assert len({*said}) == len(said) and {line.split('/')[4].partition(',')[0] for line in said} == {
        *os.listdir(booted.path(DIR))} <= {'queue', 'alias'}
    assert not os.path.exists(booted.path('/etc/qpy')) and os.listdir(booted.path(DIR + '/queue/mess')) == waiting


def test_in_a_clean_chroot_without_systemd(package):
    """Where no systemd runs dpkg installs it too; qpy-start in the foreground and cron do the rest, and cron's mail
    arrives.  What a supervisor would start again is not taken from under it.  Purged, without mail left, it ends what runs,
    and leaves nothing of its own."""
    there = boot()
    try:
        there.put(package, '/root/qpy.deb')
        there.run('dpkg', '-i', '/root/qpy.deb')
        with open(os.path.join(there.top, 'log'), 'w') as log:
            started = there.start('sh', '-c', 'while :; do %s/bin/qpy-start; [ ! -e /run/down ] || exit 0; done' % DIR, stdout=log,
                                  stderr=log)
        def ready():
            with open(os.path.join(there.top, 'log')) as file:
                return 'status: local' in file.read()
        there.await_that(ready, 'start')                    # cron hands its mail in once
        there.run('crontab', '-u', 'joe', '-', data='@reboot printf "out of a chroot\\n"\n')
        there.start('cron', '-f', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        text = mail(there, words='out of a chroot')
        assert 'To: joe@machine.test' in text
        waiting_mail(there, 0)
        there.run('sh', '-c', 'kill $(cat /run/crond.pid)')
        refused = there.call('dpkg', '-P', 'qpy')
        assert refused.returncode == 1 and 'qpy runs in %s; stop it first' % DIR in refused.stderr
        there.write('/run/down', '')
        there.run('dpkg', '-P', 'qpy')
        assert started.wait(60) == 0
        assert not any(os.path.lexists(there.path(path)) for path in ('/etc/qpy', '/usr/lib/qpy', DIR, '/usr/sbin/sendmail'))
    finally:
        there.end()


def test_the_same_source_makes_the_same_files(package, build):
    """Building twice gives the same files with the same sums."""
    def sums(path):
        return subprocess.run(['dpkg-deb', '--info', path, 'md5sums'], capture_output=True, text=True, check=True).stdout
    assert sums(package) == sums(build()) != ''


def test_lintian_finds_no_error(package):
    """lintian, where it is installed, has no error."""
    if not shutil.which('lintian'):
        pytest.skip('no lintian here')
    done = subprocess.run(['lintian', '--tag-display-limit', '0', package], capture_output=True, text=True)
    assert not [line for line in done.stdout.split('\n') if line.startswith('E:')], done.stdout
