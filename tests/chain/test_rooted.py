"""The whole chain as root installs it: real accounts, what each process may still do, and whose the mail is."""
import os
import signal
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402
sys.path.insert(0, houses.SOURCE)
from tests.peers import forbidden  # noqa: E402

pytestmark = pytest.mark.root
ANN, BOB = 54001, 54002


@pytest.fixture(scope='module')
def running():
    house = houses.Rooted(users={'ann': (ANN, ANN), 'bob': (BOB, BOB)})
    try:
        yield house.start()
        assert house.stop() == 0
    finally:
        house.remove()


def account(name):
    import pwd
    return pwd.getpwnam(name).pw_uid


def test_mail_belongs_to_its_user(running):
    """Each message is delivered by and belongs to its recipient, in a home nobody else can enter."""
    for name, uid in (('ann', ANN), ('bob', BOB)):
        running.smtp(name + '@here.test', text='for ' + name)
        running.await_message(name + '/Maildir', 'for ' + name)
        new = os.path.join(running.user_homes[name], 'Maildir/new')
        assert {os.stat(os.path.join(new, f)).st_uid for f in os.listdir(new)} == {uid}


def test_a_users_program_is_that_user_and_nothing_more(running):
    """A program in .qmail has the user's uid and gid, no other group, no capability, nothing above descriptor 2."""
    running.recipe('ann', '.qmail-who', '|{ id -u; id -G; grep -E "CapEff|CapPrm|CapBnd|NoNewPrivs" /proc/self/status; '
                                        'ls /proc/self/fd | wc -l; cat /etc/shadow; true; } > who 2>&1\n')
    running.smtp('ann-who@here.test', text='who')
    path = os.path.join(running.user_homes['ann'], 'who')
    running.await_that(lambda: os.path.exists(path) and any('success' in x for x in running.lines[-3:]), 'the answer')
    with open(path) as file:
        lines = file.read().split('\n')
    assert lines[:2] == [str(ANN), str(ANN)]
    fields = dict(line.split(':\t') for line in lines[2:6])
    assert fields['CapEff'] == fields['CapPrm'] == fields['CapBnd'] == '0' * 16 and fields['NoNewPrivs'] == '1'
    assert lines[6] == '4'                           # 0, 1, 2 and ls's own
    assert 'Permission denied' in lines[7]


def test_each_program_has_its_account_and_no_way_back(running):
    """No process of the chain has uid 0; the others have no capability; all have no_new_privs; groups are as tabled."""
    accounts = {'queued': 'qpyq', 'clean': 'qpyq', 'resolve': 'qpyr', 'users': 'qpyp', 'seed': 'qpyu', 'lspawn': 'qpyu',
                'rspawn': 'qpyr', 'bouncer': 'qpys', 'send': 'qpys', 'smtpd': 'qpyd', 'tls': 'qpyt', 'log': 'qpyl'}
    daemons = running.daemons()
    assert set(daemons) == set(accounts)
    for name, pid in [*daemons.items(), ('start', running.process.pid)]:
        found, uid = houses.status(pid), account(accounts.get(name, 'qpys'))
        assert found['Uid'].split() == [str(uid)] * 4, name
        assert found['NoNewPrivs'] == '1', name
        assert not found['Groups'].split() or found['Groups'].split() == found['Gid'].split()[:1], name
        if name != 'seed':
            assert all(int(found[field], 16) == 0 for field in ('CapPrm', 'CapEff', 'CapInh', 'CapAmb', 'CapBnd')), name


def test_nobody_of_the_same_account_can_look_into_a_program(running):
    """Every program of the chain is not dumpable: its /proc files belong to root, ptrace by its account is refused."""
    for pid in [running.process.pid, *houses.descendants(running.process.pid)]:
        try:
            assert os.stat('/proc/%d/environ' % pid).st_uid == 0, houses.name_of(pid)
        except FileNotFoundError:
            pass                                     # it has ended


def test_the_seed_lives_where_root_does_not_exist(running):
    """The seed's maps hold neither 0 nor a service account, and it has two capabilities there and no more."""
    seed = running.daemons()['seed']
    if os.readlink('/proc/%d/ns/user' % seed) == os.readlink('/proc/self/ns/user'):
        pytest.skip('user namespaces are forbidden here')
    for name in ('uid_map', 'gid_map'):
        with open('/proc/%d/%s' % (seed, name)) as file:
            ranges = [tuple(map(int, line.split())) for line in file]
        for number in (0, 1, 42, account('qpyq'), account('qpys'), account('qpyd'), 65534):
            assert not any(inside <= number < inside + count for inside, _, count in ranges), number
        assert all(inside == outside for inside, outside, _ in ranges)
    assert int(houses.status(seed)['CapEff'], 16) == 1 << 6 | 1 << 7


def test_no_process_at_all_is_root(running):
    """After a delivery no process below start, worker or daemon, has a uid of 0 in any place."""
    running.smtp('bob@here.test', text='once more')
    running.await_message('bob/Maildir', 'once more')
    for pid in houses.descendants(running.process.pid):
        try:
            assert '0' not in houses.status(pid)['Uid'].split()
        except FileNotFoundError:
            pass                                     # it has ended


def test_what_needs_no_network_has_none(running):
    """smtpd, queued, send and clean share a network namespace without any interface; the others keep the host's."""
    daemons = running.daemons()
    here = os.readlink('/proc/self/ns/net')
    spaces = {name: os.readlink('/proc/%d/ns/net' % daemons[name]) for name in daemons}
    if spaces['queued'] == here:
        pytest.skip('network namespaces are forbidden here')
    assert len({spaces[name] for name in ('smtpd', 'queued', 'send', 'clean', 'bouncer', 'log')}) == 1
    assert all(spaces[name] == here for name in ('rspawn', 'resolve', 'lspawn', 'users'))


def test_any_user_may_hand_in_mail_and_none_may_look(running):
    """A local user's sendmail works and is stamped with his uid by the kernel; the queue is closed to him."""
    running.sendmail('bob@here.test', text='Subject: x\n\nfrom ann\n', uid=ANN, gid=ANN)
    message = running.await_message('bob/Maildir', 'from ann')
    assert b'invoked by uid %d' % ANN in message
    for name in ('mess', 'state', 'damaged'):
        done = running.as_owner('/bin/ls', running.home + '/queue/' + name, uid=ANN, gid=ANN, check=False)
        assert done.returncode != 0


def test_mail_for_root_lands_with_alias(running):
    """root's mail goes to ~alias/.qmail-root, never to uid 0."""
    running.sendmail('root', text='Subject: x\n\nto root\n', uid=ANN, gid=ANN)
    running.await_message('qpy/alias/Maildir', 'to root')
    new = os.path.join(running.home, 'alias/Maildir/new')
    assert {os.stat(os.path.join(new, name)).st_uid for name in os.listdir(new)} == {account('alias')}


def test_nothing_installed_is_set_user_id(running):
    """No file of the installation has a set-user-id or set-group-id bit, and --check finds all in order."""
    for directory, directories, files in os.walk(running.home):
        for name in files + directories:
            assert not os.lstat(os.path.join(directory, name)).st_mode & 0o6000
    done = running.as_owner(running.home + '/bin/qpy-install', running.home, '--check')
    assert b'is in order' in done.stdout


def test_where_namespaces_are_forbidden():
    """As in many containers: it starts, says what is missing, delivers as each user, and still nobody becomes root."""
    house = houses.Rooted(users={'ann': (ANN, ANN)})
    try:
        house.start(through=forbidden.NAMESPACES)
        assert any('allows no network namespace' in line for line in house.lines)
        house.await_line('no user namespace')
        house.recipe('ann', '.qmail', '|id -u > id; grep Cap /proc/self/status >> id\n')
        house.smtp('ann@here.test', text='without')
        house.await_line('success')
        with open(os.path.join(house.user_homes['ann'], 'id')) as file:
            lines = file.read().split()
        assert lines[0] == str(ANN) and set(lines[2::2]) == {'0' * 16}
        seed = houses.status(house.daemons()['seed'])
        for pid in houses.descendants(house.process.pid):
            real, effective, saved, files = houses.status(pid)['Uid'].split()
            assert '0' not in (real, effective, files) and (saved != '0' or pid == house.daemons()['seed'])
        assert seed['Uid'].split()[2] == '0'            # which the filter keeps it from: it is there to be lost
        assert int(seed['CapPrm'], 16) == 1 << 6 | 1 << 7 and seed['Seccomp'] == '2' and seed['NoNewPrivs'] == '1'
        assert house.stop() == 0
    finally:
        house.remove()


def test_hup_judges_as_its_readers_would():
    """After HUP the log names the control file that its readers may no longer read, and a relay that nobody can be; one
    with passwords, which start may not read, is left to who may; the mail goes on by what was there before."""
    house = houses.Rooted(users={'ann': (ANN, ANN)})
    try:
        house.write('control/smtplogins', 'me@relay.test:secret\n')
        os.chown(house.home + '/control/smtplogins', 0, account('qpyr'))
        os.chmod(house.home + '/control/smtplogins', 0o640)
        house.start()
        house.await_confined(('users', 'rspawn', 'bouncer', 'smtpd'))
        os.chmod(house.home + '/control/locals', 0o600)
        house.write('control/senderroutes', '@here.test:relay.test:port\n')
        house.process.send_signal(signal.SIGHUP)
        house.await_line('control/locals: has mode 0600, qpy-')
        house.await_line('control/senderroutes, line 1, "relay.test:port": ')
        house.await_line('alert: unable to reread controls: control/locals: uid')
        assert not any('smtplogins' in line for line in house.lines)
        house.smtp('ann@here.test', text='as before')
        house.await_message('ann/Maildir', 'as before')
        assert house.stop() == 0
    finally:
        house.remove()


def test_a_killed_start_takes_everybody_with_it():
    """After SIGKILL of start, which cannot say goodbye, no process of the chain is left, whatever its account."""
    import time
    house = houses.Rooted(users={'ann': (ANN, ANN)})
    try:
        house.start()
        house.smtp('ann@here.test', text='before')
        house.await_message('ann/Maildir', 'before')
        pids = houses.descendants(house.process.pid)
        assert len(pids) > 10
        house.process.send_signal(signal.SIGKILL)
        house.wait_end()                             # the log's end: no program holds a pipe any more
        give_up = time.monotonic() + 20
        while any(houses.alive(pid) for pid in pids):
            assert time.monotonic() < give_up
            time.sleep(0.01)             # what is left is the kernel's work
    finally:
        house.remove()


@pytest.mark.parametrize('name, mode', [('me', 0), ('smtproutes', 0o600)])
def test_a_control_file_its_readers_may_not_read(name, mode):
    """Start reads as root, and still refuses what its daemons could not read, with the remedy."""
    house = houses.Rooted()
    try:
        os.chmod(house.home + '/control/' + name, mode)
        refused = house.as_owner(house.home + '/bin/qpy-start', check=False)
        path = os.fsencode(house.home) + b'/control/' + name.encode()
        assert refused.returncode == 111 and refused.stderr.count(b'\n') == 1
        assert path + b': has mode %04o, ' % mode in refused.stderr and b'chmod 0644 ' + path in refused.stderr
    finally:
        house.remove()


def test_a_fresh_machine_called_vm():
    """echo hi | sendmail root, root@localhost and root@vm land in the Maildir of alias, by sendmail and by SMTP."""
    house = houses.Rooted(me='vm')
    try:
        house.start()
        for number, address in enumerate(('root', 'root@localhost', 'postmaster@vm', 'root@vm')):
            house.sendmail(address, text='hi %d\n' % number)
            house.await_message('qpy/alias/Maildir', 'hi %d' % number)
        for address in ('root@localhost', 'root@vm'):
            house.smtp(address, text='by smtp to ' + address)
            house.await_message('qpy/alias/Maildir', 'by smtp to ' + address)
        assert house.stop() == 0
    finally:
        house.remove()


def test_accounts_may_have_other_names():
    """With other names in control/accounts the installer makes those, everything runs under them, and mail arrives."""
    import grp
    import pwd
    import subprocess
    house = houses.Rooted(users={'ann': (ANN, ANN)})
    other = {role: 'x' + role for role in ('qpyq', 'qpys', 'qpyr')}
    try:
        house.write('control/accounts', ''.join('%s:%s\n' % pair for pair in other.items()))
        refused = house.as_owner(house.home + '/bin/qpy-start', check=False)
        assert refused.returncode == 111 and b'the account or group xqpyq is missing; run qpy-install' in refused.stderr
        house.as_owner('/usr/bin/python3', '-IS', houses.SOURCE + '/bin/qpy-install', house.home, '--offline')
        house.start()
        house.smtp('ann@here.test', text='under other names')
        house.await_message('ann/Maildir', 'under other names')
        assert houses.status(house.daemons()['send'])['Uid'].split()[0] == str(pwd.getpwnam('xqpys').pw_uid)
        assert house.stop() == 0
    finally:
        house.remove()
        for name in other.values():
            subprocess.run(['userdel', name], capture_output=True)
        for name in other.values():
            subprocess.run(['groupdel', name], capture_output=True)
    assert not {entry.gr_name for entry in grp.getgrall()} & set(other.values())


def test_ids_that_came_after_the_start():
    """A low uid that users/assign names while qpy runs, and a low gid, wait: newu, -bv and the deferral say until when; after
    a start anew they have their mail.  Group 100 needs none of that, and shadow's is there only if it is named."""
    house = houses.Rooted(users={'ann': (ANN, ANN)})
    try:
        house.start()
        house.assign({'ann': (ANN, ANN), 'pop': (89, 89), 'sue': (54003, 100), 'tim': (54004, 61)})
        words = house.as_owner(house.home + '/bin/qpy-newu').stderr.decode()
        assert 'uid 89: unknown to the qpy that runs' in words and 'gid 61, 89: ' in words and '100' not in words
        done = house.sendmail('-bv', 'sue', 'pop', 'tim', uid=ANN, gid=ANN, check=False)
        sue, pop, tim = done.stdout.decode().splitlines()
        assert done.returncode == 75 and 'sue@here.test ... deliverable' in sue and 'not to be said now' in pop
        assert 'uid 89 was none of mail when qpy was started' in pop and 'with a line 61 in control/mailgroups' in tim
        house.sendmail('sue', 'pop', 'tim', text='Subject: x\n\nfor all\n')
        house.await_message('sue/Maildir', 'for all')
        house.await_line('deferral: uid_89_was_none_of_mail_when_qpy_was_started;')
        house.await_line('deferral: gid_61_was_no_group_of_users_of_mail_when_qpy_was_started;')
        assert house.stop() == 0
        house.start()
        house.process.send_signal(signal.SIGALRM)
        for name in ('pop', 'tim'):
            house.await_message(name + '/Maildir', 'for all')
        assert house.sendmail('-bv', 'sue', 'pop', 'tim', uid=ANN, gid=ANN).returncode == 0
        assert house.stop() == 0
    finally:
        house.remove()
