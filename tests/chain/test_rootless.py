"""The whole chain under one account: every way through it, and what happens when a part is killed."""
import os
import signal
import smtplib
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402

from qpy import unix_kernel  # noqa: E402
from qpy.admin.sink import Sink  # noqa: E402
from tests.peers.smtp_script import Server, good  # noqa: E402


@pytest.fixture(scope='module')
def running():
    """One chain for the tests that leave it as it was, with a sink for remote mail."""
    taken = []
    sink = Sink(('127.0.0.1', 0), lambda *message: taken.append(message))
    house = houses.House(routes=':127.0.0.1:%d\n' % sink.port)
    house.taken = taken
    try:
        yield house.start()
        assert house.stop() == 0
    finally:
        house.remove()
        sink.shutdown()
        sink.server_close()


@pytest.fixture
def house():
    made = houses.House()
    yield made
    made.remove()


def test_smtp_to_maildir(running):
    """A message by SMTP lands in the Maildir with its envelope, and leaves nothing in the queue."""
    running.smtp('user@here.test', text='by smtp')
    message = running.await_message('user/Maildir', 'by smtp')
    assert message.startswith(b'Return-Path: <sender@else.test>\nDelivered-To: user@here.test\nReceived: ')
    running.await_line('end msg')
    running.await_that(lambda: running.queue() == [], 'empty queue')


def test_sendmail_to_maildir(running):
    """A message by sendmail lands with a date and a message ID."""
    running.sendmail('-f', 'me@here.test', 'user@here.test', text='To: user@here.test\n\nby sendmail\n')
    message = running.await_message('user/Maildir', 'by sendmail')
    assert b'\nMessage-ID: <' in message or b'\nMessage-Id: <' in message


def test_every_kind_of_line(running):
    """mbox, program and forward lines of one .qmail are all carried out."""
    running.recipe('user', '.qmail-all', './Mailbox\n|cat > "$HOME/got"\n&user@here.test\n')
    running.smtp('user-all@here.test', text='everywhere')
    running.await_message('user/Maildir', 'everywhere')
    home = running.user_homes['user']
    for name in ('Mailbox', 'got'):
        with open(os.path.join(home, name)) as file:
            assert 'everywhere' in file.read()


def test_an_unknown_recipient_is_refused_at_the_door(running):
    """RCPT of an address that does not exist gets a 5xx; nothing enters the queue."""
    import smtplib
    running.recipe('user', '.qmail-default', './Maildir/\n')
    with smtplib.SMTP('127.0.0.1', running.port, timeout=20) as client:
        client.helo('x')
        client.mail('a@b.test')
        assert client.rcpt('nobody-of-this-name@here.test')[0] == 550
        assert client.rcpt('user-anything@here.test')[0] == 250


def test_remote_mail_reaches_the_next_host(running):
    """Several recipients at one host arrive together."""
    running.smtp(['a@far.test', 'b@far.test'], text='for two')
    running.await_that(lambda: sum(len(r) for _, r, m in running.taken if b'for two' in m) == 2, 'remote delivery')


def test_a_failure_comes_back_as_a_bounce(running):
    """A permanent failure is reported to the envelope sender, from the empty sender."""
    running.recipe('user', '.qmail-no', "|echo 'will not do'; exit 100\n")
    running.smtp('user-no@here.test', sender='user@here.test', text='original')
    message = running.await_message('user/Maildir', 'will not do')
    assert message.startswith(b'Return-Path: <>\n') and b'original' in message


def test_a_deferred_message_is_tried_again_when_asked(running):
    """A temporary failure keeps the message; sendmail -q tries it at once."""
    running.recipe('user', '.qmail-later', '|test -e tried || { touch tried; exit 111; }\n./Maildir/\n')
    running.smtp('user-later@here.test', text='at last')
    running.await_that(lambda: [x for x in running.lines if 'deferral' in x], 'deferral')
    running.sendmail('-q')
    running.await_message('user/Maildir', 'at last')


def test_mail_for_another_user_waits(running):
    """Rootless, a recipient with another uid is deferred and the reason is said."""
    with open(running.home + '/users/assign') as file:
        table = file.read()
    running.write('users/assign', '=other:other:1:1:/nonexistent:::\n' + table)
    running.as_owner(running.home + '/bin/qpy-newu')
    running.sendmail('other@here.test')
    running.await_that(lambda: any('deferral' in line and 'uid' in line for line in running.lines),
                       'deferral with a reason')


def test_an_edited_time_limit(house):
    """control/timeoutlocal counts for the next user's process, without a restart; a broken one changes nothing."""
    house.recipe('user', '.qmail-slow', '|sleep 1000\n')
    house.start()
    house.write('control/timeoutlocal', '1\n')
    house.sendmail('user-slow@here.test')
    house.await_line('delivery 1: deferral')
    assert house.stop() == 0


def test_another_directory_in_the_place_of_control(house):
    """The programs may read what was there at their start (Landlock): what they say of a control that was replaced as a whole,
    as by a restored backup, names the remedy that helps, and not a mode that is right."""
    if not unix_kernel.landlock_abi():
        pytest.skip('no Landlock here')
    house.start()
    house.await_confined(['send', 'users'])
    control = house.home + '/control'
    house.as_owner('/bin/cp', '-a', control, control + '.new')
    house.as_owner('/bin/mv', control, control + '.old')
    house.as_owner('/bin/mv', control + '.new', control)
    house.process.send_signal(signal.SIGHUP)
    said = [house.await_line(words) for words in ('qpy-start: warning: unable to look at control: ',
                                                  'alert: unable to reread controls: control/locals: ')]
    assert all(line.endswith('when this program was started; start qpy anew') for line in said)
    assert not [line for line in house.lines if 'chmod' in line]
    house.smtp('user@here.test', text='all the same')
    house.await_message('user/Maildir', 'all the same')
    assert house.stop() == 0
    house.start()
    assert not [line for line in house.lines if 'start qpy anew' in line] and house.stop() == 0


def test_a_host_without_a_dot():
    """On a machine called vm, local mail and its bounce stay here, to plain names, root@vm and root@localhost."""
    house = houses.House(me='vm')
    try:
        house.recipe('user', '.qmail-no', "|echo 'will not do'; exit 100\n")
        house.start()
        for number, address in enumerate(('user', 'user@vm', 'user@localhost')):
            house.sendmail(address, text='To: user\n\nnumber %d\n' % number)
            house.await_message('user/Maildir', 'number %d' % number)
        house.sendmail('-f', 'user', 'user-no')
        message = house.await_message('user/Maildir', 'will not do')
        assert message.startswith(b'Return-Path: <>\nDelivered-To: user@vm\n')
        house.stop()
    finally:
        house.remove()


def test_hup_to_everybody(running):
    """What people send to programs that they have changed a control file of ends none of them, workers included."""
    everybody = houses.descendants(running.process.pid)
    assert len(everybody) > 10
    for pid in everybody:
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGALRM)
    running.smtp('user@here.test', text='after all those signals')
    running.await_message('user/Maildir', 'after all those signals')
    assert set(everybody) <= set(houses.descendants(running.process.pid))


def test_hup_and_alrm(running):
    """HUP and ALRM to start reach send and end nothing."""
    running.process.send_signal(signal.SIGHUP)
    running.process.send_signal(signal.SIGALRM)
    running.smtp('user@here.test', text='still here')
    running.await_message('user/Maildir', 'still here')


@pytest.mark.parametrize('name', ['queued', 'send', *(pytest.param(name, marks=pytest.mark.slow)
                                                     for name in ('lspawn', 'rspawn', 'clean', 'seed'))])
def test_a_killed_neighbour_ends_the_chain_and_nothing_is_lost(house, name):
    """After SIGKILL of a program the chain ends with 111; started again it delivers what had been accepted."""
    house.recipe('user', '.qmail', '|test -e go || exit 111\n./Maildir/\n')
    house.start()
    house.smtp('user@here.test', text='kept')
    house.await_line('deferral')
    os.kill(house.daemons()[name], signal.SIGKILL)
    assert house.wait_end() == 111
    assert any('%s has ended by signal 9' % name in line for line in house.lines)
    assert len([n for n in os.listdir(house.home + '/queue/mess')]) == 1
    house.recipe('user', 'go', '')
    house.start()
    house.sendmail('-q')        # whether send has found it already or not
    house.await_message('user/Maildir', 'kept')
    house.await_line('end msg')
    house.await_that(lambda: house.queue() == [], 'empty queue')
    assert house.stop() == 0


def test_mail_waits_while_the_chain_is_down(house):
    """Without a chain sendmail says so with a temporary code, and no traceback."""
    done = house.sendmail('user@here.test', check=False)
    assert done.returncode in (75, 111)
    assert b'Traceback' not in done.stderr and done.stderr


def test_fifos_where_files_belong(house):
    """A FIFO under the name of a message or of a control file holds nothing up: it is named, and mail goes on by what was
    known before."""
    stray = house.home + '/queue/mess/1796035375725703'
    os.mkfifo(stray)
    os.chown(stray, house.uid, house.gid)
    house.write('control/smtpgreeting', 'here.test as before\n')
    house.start()
    house.await_line('mess/1796035375725703 is left alone: not a regular file')
    house.smtp('user@here.test', text='past the stray')
    house.await_message('user/Maildir', 'past the stray')
    os.unlink(house.home + '/control/smtpgreeting')
    os.mkfifo(house.home + '/control/smtpgreeting')
    for _ in range(12):
        with smtplib.SMTP(timeout=houses.PATIENCE) as client:
            assert b'as before' in client.connect('127.0.0.1', house.port)[1]
    house.process.send_signal(signal.SIGHUP)
    house.await_line('start: warning: control/smtpgreeting: this is a FIFO')
    assert house.stop() == 0


def test_a_relay_of_one_sender_that_is_busy():
    """What control/senderroutes leads to a host that says 421 is one destination: it is left alone, and more mail for it waits
    without being tried, wherever it goes; others' mail goes its own way."""
    with Server(lambda talk: talk.say(b'421 busy')) as busy, Server(good()) as other:
        house = houses.House(routes=':127.0.0.1:%d\n' % other.port)
        try:
            house.write('control/senderroutes', 'user@here.test:127.0.0.1:%d\n' % busy.port)
            house.start()
            house.sendmail('-f', 'user@here.test', 'a@one.test')
            house.await_line('destination 127.0.0.1:%d: left alone for ' % busy.port)
            for number in range(5):
                house.sendmail('-f', 'user@here.test', 'b@two%d.test' % number)
            house.await_line(' untried, recipients 1', 5)
            house.sendmail('-f', 'ann@here.test', 'a@one.test')
            house.await_that(lambda: other.mail, 'mail of others')
            assert busy.connections == 1 and len(other.mail) == 1
        finally:
            house.remove()


def test_everything_is_a_batch_process(running):
    """What the chain starts, users' processes and programs too, does not interrupt who wakes it."""
    home = running.user_homes['user']
    running.recipe('user', '.qmail-policy', '|%s -c "import os; print(os.sched_getscheduler(0))" > policy\n' % sys.executable)
    running.smtp('user-policy@here.test', text='policy')
    running.await_that(lambda: os.path.exists(home + '/policy') and os.path.getsize(home + '/policy'), 'policy')
    with open(home + '/policy') as file:
        assert int(file.read()) == os.SCHED_BATCH
    pids = houses.descendants(running.process.pid)
    assert len(pids) > 8
    assert {os.sched_getscheduler(pid) for pid in [running.process.pid, *pids]} == {os.SCHED_BATCH}


@pytest.mark.parametrize('chosen, kept', [(os.SCHED_OTHER, os.SCHED_BATCH), (os.SCHED_IDLE, os.SCHED_IDLE)])
def test_a_policy_that_somebody_has_chosen_is_kept(chosen, kept):
    """Who starts the chain by chrt(1) has all of it as he said."""
    code = ('import os, sys; from qpy.root import start; os.sched_setscheduler(0, int(sys.argv[1]), os.sched_param(0));'
            'start.do_not_interrupt(); print(os.sched_getscheduler(0))')
    done = subprocess.run([sys.executable, '-c', code, str(chosen)], capture_output=True, text=True, check=True,
                          cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    assert int(done.stdout) == kept
