"""systemd itself, as process 1 of a machine of its own: the whole chain as one service, each program by itself with
activation by sockets (Accept=no), a process for each connection (Accept=yes), readiness, and the journal.  And runit and
daemontools with the service directory that is theirs."""
import os
import smtplib
import socket
import subprocess

import pytest

from tests.peers import machine, net, optional

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DIR = '/var/qpy'
JOE = 1000


def installed(**how):
    """A machine with qpy in DIR, SMTP on port 25, and joe; or a visible skip."""
    try:
        there = machine.Machine(**how)
    except RuntimeError as problem:
        pytest.skip('no machine to be had: %s' % problem)
    there.run('useradd', '--create-home', '--uid', str(JOE), 'joe')
    for name in ('bin', 'qpy', 'man', 'control'):
        there.put(os.path.join(SOURCE, name), '/root/' + name)
    there.run('/root/bin/qpy-install', DIR, '--offline', '--me', 'machine.test', '--smtp', '25', '--sendmail')
    return there


@pytest.fixture(scope='module')
def booted():
    there = installed(systemd=True)
    try:
        yield there
    finally:
        there.end()


def mail(there, words):
    """Wait for joe's message that holds these words."""
    directory = there.path('/home/joe/Maildir/new')

    def found():
        for name in os.listdir(directory) if os.path.isdir(directory) else ():
            with open(os.path.join(directory, name)) as file:
                text = file.read()
            if words in text:
                return text
        return None
    try:
        return there.await_that(found, 'mail with %r' % words, 30)
    except AssertionError as problem:
        raise AssertionError('%s\n%s' % (problem, journal(there))) from None


def journal(there, *words):
    """The newest lines of the journal."""
    return there.call('journalctl', '--no-pager', '-n', '80', *words).stdout


def inside(there, function):
    """function(), in a thread that is on the machine's network."""
    return net.call(there.one, function)


def smtp(there, text, address='127.0.0.1'):
    """Hand in a message for joe by SMTP on port 25 of the machine."""
    def work():
        with smtplib.SMTP(address, 25, local_hostname='client.test', timeout=20) as client:
            client.sendmail('a@else.test', ['joe@machine.test'], 'Subject: x\r\n\r\n%s\r\n' % text)
    inside(there, work)


def by_hand(there, text, recipient='joe'):
    """Hand in a message by sendmail as joe."""
    there.run('setpriv', '--reuid', 'joe', '--regid', 'joe', '--clear-groups', 'sendmail', recipient,
              data='Subject: x\n\n%s\n' % text)


def link(there, *names):
    """Make units known to systemd, as the manual says."""
    for name in names:
        there.run('ln', '-sf', '%s/service/%s' % (DIR, name), '/etc/systemd/system/')
    there.run('systemctl', 'daemon-reload')


def state(there, unit, what='ActiveState'):
    return there.run('systemctl', 'show', '-P', what, unit).strip()


def everything(there):
    """All units of the directory for each program by itself."""
    return ['systemd/' + name for name in os.listdir(there.path(DIR + '/service/systemd')) if name.startswith('qpy')]


# --- the whole chain -----------------------------------------------------------------------------------------------

@pytest.fixture
def whole(booted):
    """qpy.service, started."""
    link(booted, 'qpy.service')
    booted.run('systemctl', 'start', 'qpy')
    yield booted
    booted.run('systemctl', 'stop', 'qpy')
    assert state(booted, 'qpy', 'Result') == 'success'


def test_the_whole_chain_is_one_service(whole):
    """qpy.service comes up, takes mail by SMTP and sendmail, and delivers it; its log is in the journal, line by line;
    a reload makes send read its control files again; TERM ends it well."""
    assert state(whole, 'qpy') == 'active'
    smtp(whole, 'by smtp under systemd')
    by_hand(whole, 'by hand under systemd')
    mail(whole, 'by smtp under systemd')
    assert 'invoked by uid %d' % JOE in mail(whole, 'by hand under systemd')
    text = journal(whole, '-u', 'qpy', '-o', 'cat')
    assert 'status: local 0/' in text and 'delivery 1: success: ' in text
    whole.run('systemctl', 'reload', 'qpy')
    by_hand(whole, 'after the reload')
    mail(whole, 'after the reload')


def test_it_says_when_it_is_ready(whole):
    """systemd waits for READY=1 (Type=notify): when `systemctl start` comes back the sockets accept at once, and the
    unit has a main process that has become qpys."""
    assert state(whole, 'qpy', 'Type') == 'notify'
    whole.run('systemctl', 'restart', 'qpy')
    smtp(whole, 'at once after the start')
    mail(whole, 'at once after the start')
    pid = state(whole, 'qpy', 'MainPID')
    qpys = whole.run('id', '-u', 'qpys').strip()
    status = whole.run('cat', '/proc/%s/status' % pid)
    assert '\nUid:\t%s\t%s\t%s\t%s\n' % ((qpys,) * 4) in status


def test_without_readiness_the_start_fails(booted):
    """Counter-test: a start that cannot be is a failed start, not one that seems to have worked."""
    link(booted, 'qpy.service')
    booted.run('chmod', '777', DIR + '/control')
    try:
        done = booted.call('systemctl', 'start', 'qpy')
        assert done.returncode != 0
        assert 'chmod' in journal(booted, '-u', 'qpy', '-o', 'cat')
    finally:
        booted.run('chmod', '755', DIR + '/control')
        booted.run('systemctl', 'stop', 'qpy')


def test_users_are_still_kept_apart(whole):
    """Inside the unit's own limits the seed is in its namespace of users, and the log has no warning about less."""
    by_hand(whole, 'for the seed')
    mail(whole, 'for the seed')
    found = whole.run('sh', '-c', 'for p in /proc/[0-9]*; do tr "\\0" " " <$p/cmdline | grep -q qpy-seed && '
                      'readlink $p/ns/user; done; readlink /proc/1/ns/user').split()
    assert len(set(found)) == 2 and len(found) >= 2
    assert 'no user namespace' not in journal(whole, '-u', 'qpy') and 'no network namespace' not in journal(whole, '-u', 'qpy')


def test_programs_of_users_write_where_users_may(whole):
    """A directory of joe's below /usr is his under systemd too."""
    whole.run('mkdir', '-p', '/usr/local/lists')
    whole.run('chown', 'joe:', '/usr/local/lists')
    whole.write('/home/joe/.qmail-list', '|cat >/usr/local/lists/new && mv /usr/local/lists/new /usr/local/lists/archive\n')
    whole.run('chown', 'joe:', '/home/joe/.qmail-list')
    by_hand(whole, 'for the archive', 'joe-list')
    whole.await_that(lambda: os.path.exists(whole.path('/usr/local/lists/archive')), 'archive')
    assert 'for the archive' in whole.read('/usr/local/lists/archive')


def ended_by_groups(there, unit):
    """The worker of joe has a group of its own in the one systemd has given to the unit, and the log says so; a daemon
    whose worker is killed is ended with it."""
    assert 'is ended by control groups' in journal(there, '-u', unit, '-o', 'cat')
    there.write('/home/joe/.qmail-stay', '|setsid sleep 606 & cat /proc/self/cgroup >group; kill -9 $(cut -d" " -f4 '
                '/proc/$PPID/stat) $PPID\n')
    there.run('chown', 'joe:', '/home/joe/.qmail-stay')
    there.run('setpriv', '--reuid', 'joe', '--regid', 'joe', '--clear-groups', 'sendmail', 'joe-stay', data='x\n')
    there.await_that(lambda: os.path.exists(there.path('/home/joe/group')) and there.read('/home/joe/group'), 'group')
    (line,) = [line for line in there.read('/home/joe/group').split('\n') if line.startswith('0::')]
    assert line.startswith('0::/system.slice/%s.service/users/%d.' % (unit, JOE))
    there.await_that(lambda: 'sleep' not in there.run('sh', '-c', 'cat /proc/[0-9]*/comm 2>/dev/null || true').split(),
                     'end of the daemon')
    there.run('rm', '/home/joe/group', '/home/joe/.qmail-stay')


def test_what_is_left_behind_is_ended_by_a_group(whole):
    """qpy.service has its control group to itself (Delegate=yes); the daemons are in its `chain`."""
    ended_by_groups(whole, 'qpy')
    assert state(whole, 'qpy', 'Delegate') == 'yes'
    assert whole.run('cat', '/proc/%s/cgroup' % state(whole, 'qpy', 'MainPID')).rstrip().endswith('qpy.service/chain')


# --- each program by itself --------------------------------------------------------------------------------------------

OPTIONAL = (optional.INSIDE + optional.netstrings('127.0.0.1:209', '127.0.0.1:628')
            + 'submission qpyd tcp:127.0.0.1:587 qpy-smtpd\n')


class Sink:
    """Another host's SMTP server, on port 2626 of the machine: message() waits for the next one's bytes."""

    def __init__(self, there):
        self.socket = inside(there, lambda: socket.create_server(('127.0.0.1', 2626)))
        self.socket.settimeout(30)

    def message(self):
        sock, _ = self.socket.accept()
        with sock, sock.makefile('rwb', buffering=0) as file:
            file.write(b'220 sink.test\r\n')
            text, taking = b'', False
            for line in file:
                if taking and line == b'.\r\n':
                    taking = False
                elif taking:
                    text += line
                    continue
                elif line.upper().startswith(b'DATA'):
                    taking = True
                    file.write(b'354 go\r\n')
                    continue
                file.write(b'250 ok\r\n')
                if line.upper().startswith(b'QUIT') or text and not taking:
                    return text


@pytest.fixture
def apart(booted):
    """qpy.target: a unit for each program there is, sockets made by systemd."""
    before = booted.read(DIR + '/control/services')
    booted.write(DIR + '/control/services', before + OPTIONAL if 'tls' not in before else
                 ''.join(line + '\n' for line in before.split('\n') if line.startswith('smtpd')) + OPTIONAL)
    booted.write(DIR + '/control/smtproutes', 'far.test:127.0.0.1:2626\n')
    booted.run(DIR + '/bin/qpy-install', DIR, '--offline')
    names = everything(booted)
    link(booted, *names)
    booted.run('systemctl', 'start', 'qpy.target')
    yield booted
    booted.run('systemctl', 'stop', 'qpy.target')
    booted.run('sh', '-c', 'systemctl stop "qpy-*"')
    for name in names:
        booted.run('rm', '/etc/systemd/system/' + os.path.basename(name))
    booted.run('systemctl', 'daemon-reload')
    booted.write(DIR + '/control/services', before)


def services(there):
    return [os.path.basename(name) for name in everything(there) if name.endswith('.service')]


def test_each_program_by_itself(apart):
    """systemd makes the sockets (Accept=no) and starts each program with its own account and limits; mail by SMTP and
    sendmail is delivered; all are active, none has failed, and each one's lines are its own in the journal."""
    smtp(apart, 'by smtp, each by itself')
    by_hand(apart, 'by hand, each by itself')
    mail(apart, 'by smtp, each by itself')
    assert 'invoked by uid %d' % JOE in mail(apart, 'by hand, each by itself')
    there = Sink(apart)
    by_hand(apart, 'to another host', 'someone@far.test')
    assert b'to another host' in there.message()
    for name in services(apart):
        assert state(apart, name) == 'active', journal(apart, '-u', name)
        assert state(apart, name, 'NRestarts') == '0', journal(apart, '-u', name)
    assert 'delivery 1: success' in journal(apart, '-u', 'qpy-send', '-o', 'cat')
    ended_by_groups(apart, 'qpy-seed')
    for name in ('qpy-queued', 'qpy-smtpd', 'qpy-clean'):
        assert state(apart, name, 'CapabilityBoundingSet') == ''
        pid = state(apart, name, 'MainPID')
        status = apart.run('cat', '/proc/%s/status' % pid)
        assert 'NoNewPrivs:\t1\n' in status and 'CapPrm:\t0000000000000000\n' in status and 'Seccomp:\t2\n' in status


def test_a_socket_outlives_its_program(apart):
    """A program that has ended is started anew, and what came meanwhile waits at the socket, which is systemd's."""
    by_hand(apart, 'before the end')
    mail(apart, 'before the end')
    apart.run('systemctl', 'kill', '--signal=KILL', 'qpy-queued')
    apart.await_that(lambda: apart.call('setpriv', '--reuid', 'joe', '--regid', 'joe', '--clear-groups', 'sendmail', 'joe',
                                        data='Subject: x\n\nafter the end\n').returncode == 0, 'submission')
    mail(apart, 'after the end')
    assert int(state(apart, 'qpy-queued', 'NRestarts')) >= 1


NEW_CODE = '/usr/bin/python3 -c "import mmap; mmap.mmap(-1, 4096, prot=7)" || exit 111\n'
FILTER = '#!/bin/sh\n' + NEW_CODE + "exec 3<&1\nsed '1i X-Filtered: yes' | /var/qpy/bin/qpy-queue 1<&3\n"
REMOTE = '#!/bin/sh\n' + NEW_CODE + 'for i in $(seq 30); do sleep 600 & all="$all $!"; done\nkill $all\nprintf "r\\0Kby the program of the site\\n\\0"\n'
CHECKER = '#!/bin/sh\nexit 0\n'
OWN = {'smtpd': 'smtpd qpyd tcp:0.0.0.0:25,tcp:[::]:25 QMAILQUEUE=/usr/local/bin/filter qpy-smtpd',
       'tls': 'tls qpyt unix:tls:0660:qpyt:qpyd qpy-tls 40',
       'rspawn': 'rspawn qpyr seq:rspawn:0600:qpys QMAILREMOTE=/usr/local/bin/remote qpy-rspawn'}


def test_programs_of_the_sites_own(apart):
    """Where a filter, QMAILREMOTE or a program that judges logins is to be run, or many workers, qpy-install makes units in which
    they do: they start processes of their own and what they need in memory, and mail goes through them."""
    for name, text in (('filter', FILTER), ('remote', REMOTE), ('checker', CHECKER)):
        apart.write('/usr/local/bin/' + name, text)
        apart.run('chmod', '755', '/usr/local/bin/' + name)
    before = apart.read(DIR + '/control/services')
    apart.write(DIR + '/control/services', ''.join(line + '\n' for line in before.split('\n') if line.split(' ')[0] not in OWN)
                + ''.join(line + '\n' for line in OWN.values()))
    apart.write(DIR + '/control/auth', 'program /usr/local/bin/checker\n')
    try:
        apart.run(DIR + '/bin/qpy-install', DIR, '--offline')
        apart.run('systemctl', 'daemon-reload')
        apart.run('systemctl', 'restart', 'qpy-smtpd', 'qpy-tls', 'qpy-rspawn', 'qpy-auth', 'qpy-send')
        smtp(apart, 'through the filter')
        assert 'X-Filtered: yes' in mail(apart, 'through the filter')
        by_hand(apart, 'by the other way', 'someone@far.test')
        try:
            apart.await_that(lambda: 'by_the_program_of_the_site' in journal(apart, '-u', 'qpy-send', '-o', 'cat'), 'its report', 20)
        except AssertionError as problem:
            raise AssertionError('%s\n%s' % (problem, journal(apart))) from None
        apart.await_that(lambda: apart.run('sh', '-c', "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c 'bin/qpy-tl[s]$'")
                         == '41\n', 'the workers')
        for name in ('qpy-smtpd', 'qpy-tls', 'qpy-rspawn', 'qpy-auth'):
            assert state(apart, name) == 'active' and state(apart, name, 'NRestarts') == '0', journal(apart, '-u', name)
        assert not [line for line in journal(apart, '-u', 'qpy-tls', '-o', 'cat').split('\n') if 'fork' in line]
    finally:
        apart.run('rm', '-f', DIR + '/control/auth')


# --- a process for each connection ---------------------------------------------------------------------------------------

@pytest.fixture
def each(whole):
    """The chain without smtpd, and systemd accepting on port 25."""
    services = whole.read(DIR + '/control/services')
    whole.write(DIR + '/control/services', '# systemd accepts\n')
    whole.run('systemctl', 'restart', 'qpy')
    link(whole, 'systemd/each/qpy-smtpd.socket', 'systemd/each/qpy-smtpd@.service')
    whole.run('systemctl', 'start', 'qpy-smtpd.socket')
    yield whole
    whole.run('systemctl', 'stop', 'qpy-smtpd.socket')
    whole.run('rm', '/etc/systemd/system/qpy-smtpd.socket', '/etc/systemd/system/qpy-smtpd@.service')
    whole.run('systemctl', 'daemon-reload')
    whole.write(DIR + '/control/services', services)


def test_a_process_for_each_connection(each):
    """Accept=yes: qpy-smtpd@.service serves the one client on its descriptors, as qpyd, confined, in a network without
    interfaces; who the client is comes from the socket; mail arrives by IPv4 and IPv6; the unit goes when it ends."""
    smtp(each, 'accepted by systemd')
    text = mail(each, 'accepted by systemd')
    assert 'client.test' in text and '127.0.0.1' in text
    smtp(each, 'by the sixth', '::1')
    mail(each, 'by the sixth')

    def session():
        with socket.create_connection(('127.0.0.1', 25), 20) as sock:
            assert sock.recv(1000).startswith(b'220 ')
            unit = each.run('systemctl', 'list-units', '--plain', '--no-legend', 'qpy-smtpd@*').split()[0]
            pid = state(each, unit, 'MainPID')
            seen = {'status': each.run('cat', '/proc/%s/status' % pid), 'unit': unit,
                    'net': each.run('readlink', '/proc/%s/ns/net' % pid)}
            sock.sendall(b'QUIT\r\n')
            assert sock.recv(1000).startswith(b'221 ')
            return seen
    seen = inside(each, session)
    qpyd = each.run('id', '-u', 'qpyd').strip()
    assert '\nUid:\t%s\t%s\t%s\t%s\n' % ((qpyd,) * 4) in seen['status'] and 'Seccomp:\t2\n' in seen['status']
    assert seen['net'] != each.run('readlink', '/proc/1/ns/net')
    each.await_that(lambda: seen['unit'] not in each.run('systemctl', 'list-units', '--all', '--plain', 'qpy-smtpd@*'),
                    'end of ' + seen['unit'])


# --- the other supervisors -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('start, up, stop', [
    (('runsvdir', '/service'), ('sv', 'status', '/service/qpy'), ('sv', '-w', '30', 'force-stop', '/service/qpy')),
    (('svscan', '/service'), ('svstat', '/service/qpy'), ('svc', '-d', '/service/qpy'))],
    ids=['runit', 'daemontools'])
def test_other_supervisors(start, up, stop):
    """runit's runsvdir and daemontools' svscan run DIR/service/qpy as it is: the chain is up, mail is delivered, the log is
    written by their own logger, as qpyl, also where root has written it before; who is killed is started anew, and down is
    down."""
    there = installed()
    try:
        there.run('mkdir', '/service')
        there.run('sh', '-c', 'echo before > %s/service/qpy/log/main/current' % DIR)
        there.run('ln', '-s', DIR + '/service/qpy', '/service/qpy')
        there.start(*start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def status():
            return there.call(*up).stdout
        there.await_that(lambda: 'run:' in status() or ': up (' in status(), 'service')
        log = there.path(DIR + '/service/qpy/log/main/current')

        def said(words, count=1):
            return os.path.exists(log) and there.read(DIR + '/service/qpy/log/main/current').count(words) >= count
        there.await_that(lambda: said('status: local 0/'), 'log')
        loggers = there.run('sh', '-c', 'for i in /proc/[0-9]*; do case $(readlink $i/exe) in */svlogd|*/multilog) stat -c %U $i; esac; done')
        assert loggers.split() == ['qpyl'] and there.run(DIR + '/bin/qpy-install', '--check').startswith(DIR + ' is in order\n')
        smtp(there, 'by smtp')
        mail(there, 'by smtp')
        there.run('sh', '-c', 'kill -9 $(%s | grep -o "pid [0-9]*" | grep -o "[0-9]*" | head -1)' % ' '.join(up)
                  if start[0] == 'svscan' else 'kill -9 $(cat /service/qpy/supervise/pid)')
        there.await_that(lambda: said('qpy-queued: status: ', 2), 'second start')
        by_hand(there, 'after the second start')
        mail(there, 'after the second start')
        there.run(*stop)
        there.await_that(lambda: not there.call('sh', '-c', 'grep -l qpy-[s]end /proc/[0-9]*/cmdline').stdout, 'end')
        there.await_that(lambda: said('status: exiting'), 'last line')
    finally:
        there.end()
