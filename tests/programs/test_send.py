"""qpy-send in this process: a real queue, stand-ins for its neighbours, a clock that jumps."""
import errno
import os
import stat

import pytest

from qpy import unix
from qpy.core import channel, mess
from qpy.lib import program
from qpy.qpys import control, send, store
from tests.peers import queued
from tests.peers.send_rig import SUBMITTER, Rig


@pytest.fixture
def rig():
    with queued.temporary_home() as home:
        rig = Rig(home)
        rig.start()
        yield rig
        rig.end()


def there(rig, name):
    """Names in a directory of the queue, without the lock."""
    return sorted(set(os.listdir(rig.home + b'/queue/' + name)) - {b'lock'})


def test_one_local_message(rig):
    """The common message: one job with the message's bytes alone, removed after K; no state is ever written."""
    assert rig.lines() == [b'status: local 0/10 remote 0/20']
    ident = rig.put(b'bob@here.example')
    (name, number, job_id, sender, recipient, options, fd), = rig.jobs
    assert (name, number, job_id, sender, recipient, options) == (
        b'lspawn', b'1', ident, b'joe@here.example', b'bob@here.example', b'')
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o444
    with pytest.raises(OSError):
        os.write(fd, b'x')
    assert rig.report(rig.jobs[0], text=b'did 1+0+0\n') == b'Subject: x\n\nhello\n'
    assert rig.cleaned == [b'r' + ident] and there(rig, b'mess') == there(rig, b'state') == []
    assert rig.lines() == [
        b'new msg ' + ident, b'info msg %s: bytes 18 from <joe@here.example> qp 4711 uid %d' % (ident, SUBMITTER),
        b'starting delivery 1: msg %s to local bob@here.example' % ident, b'status: local 1/10 remote 0/20',
        b'delivery 1: success: did_1+0+0/', b'status: local 0/10 remote 0/20', b'end msg ' + ident]
    assert rig.send.dispatch.count() == 0


def test_remote_group(rig):
    """Recipients at one host go as one R record with the queue file, its length, and a number each."""
    ident = rig.put(b'a@x.example', b'b@X.example', b'c@y.example', options=[(b'B', b'8BITMIME'), (b'Q', b'')])
    first, second = rig.jobs
    assert first[1:7] == (ident, b'x.example', b'joe@here.example', b'8q', b'18', b'1 a@x.example\n2 b@X.example')
    assert second[6] == b'3 c@y.example'
    assert rig.report(first) == b'Subject: x\n\nhello\n'
    assert rig.state(ident, 3).indices(1) == [0, 1]
    rig.report(second)
    assert there(rig, b'state') == there(rig, b'mess') == []


def test_options_and_trace(rig):
    """What a forward must carry over goes to lspawn; the trace ID has a log line of its own."""
    ident = rig.put(b'bob@here.example', options=[(b'X', b'abc 1'), (b'U', b''), (b'B', b'8BITMIME'), (b'L', b'joe')])
    assert rig.jobs[0][5] == b'Xabc 1\nB8BITMIME\nU'
    assert b'trace msg %s: abc_1' % ident in rig.lines()


def test_several_local_recipients_have_their_own_place_in_the_file(rig):
    """Two deliveries of one message do not share a file position, and nobody can write."""
    rig.put(b'a@here.example', b'b@here.example')
    first, second = rig.jobs
    os.lseek(first[-1], 5, os.SEEK_SET)
    assert os.lseek(second[-1], 0, os.SEEK_CUR) == 0
    rig.report(first)
    assert rig.report(second) == b'Subject: x\n\nhello\n'
    assert there(rig, b'mess') == []


def test_long_message(rig):
    """A message beyond 1 MB goes as a nameless 0444 copy of its own bytes; two recipients share the copy."""
    body = b'x' * (9 << 20) + b'\n'
    rig.put(b'a@here.example', b'b@here.example', body=body, sender=b'')
    rig.step(20)
    first, second = rig.jobs
    mode = os.fstat(first[-1])
    assert stat.S_IMODE(mode.st_mode) == 0o444 and mode.st_nlink == 0 and mode.st_size == len(body)
    assert there(rig, b'state') == []
    assert rig.report(first) == body == rig.report(second)
    assert there(rig, b'mess') == []


def test_deferral(rig):
    """A deferral is written with its reason and the next time; the next attempt is then, and has no `new msg`."""
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z', b'busy\n')
    view = rig.state(ident)
    assert view.texts == {0: b'busy\n'} and view.attempts == 1
    assert 1_800_000_400 <= view.due <= 1_800_000_425
    rig.lines()
    rig.wait(399)
    assert not rig.jobs
    rig.wait(30)
    assert rig.lines()[0] == b'starting delivery 2: msg %s to remote a@x.example' % ident
    rig.report(rig.jobs[0])
    assert there(rig, b'mess') == there(rig, b'state') == []


def test_bounce(rig):
    """Failures are in the state before the bouncer is asked, reported after its answer, and its process is named."""
    ident = rig.put(b'a@x.example', b'b@y.example')
    rig.report(rig.jobs[0], b'D', b'no\n')
    assert not rig.bounce_jobs
    rig.report(rig.jobs[0])
    assert rig.bounce_jobs == [[ident, b'1', b'bounce']]
    assert rig.state(ident, 2).indices(2) == [0] and rig.state(ident, 2).texts[0] == b'no\n'
    rig.bounced()
    assert there(rig, b'mess') == []
    assert rig.lines()[-2:] == [b'bounce msg %s qp 77' % ident, b'end msg ' + ident]


def test_success_and_delay(rig):
    """NOTIFY: what is asked for is asked of the bouncer, and stands in the log as what it is, not as a bounce."""
    rig.write('delaywarning', '1000')
    rig.send.reread()
    ident = rig.put(b'a@x.example', b'joe@here.example', recipient_options=[[(b'N', b'DELAY')], [(b'N', b'SUCCESS')]])
    remote, local = sorted(rig.jobs, key=lambda job: job[0], reverse=True)
    rig.report(local, b'K', b'did 1+0+0\n')
    rig.report(remote, b'Z', b'busy\n')
    assert rig.bounce_jobs == [[ident, b'2', b'success']]
    rig.bounced()
    assert b'notice msg %s qp 77: success' % ident in rig.lines() and not rig.bounce_jobs
    while not rig.bounce_jobs:
        rig.wait(500)
        for job in list(rig.jobs):
            rig.report(job, b'Z', b'busy\n')
    assert rig.bounce_jobs == [[ident, b'1', b'delay']] and rig.state(ident, 2).indices(1) == [1]
    rig.bounced()
    assert b'notice msg %s qp 77: delay' % ident in rig.lines() and rig.state(ident, 2).warned


def test_a_time_in_the_envelope(rig):
    """Record D: what is wanted back rather than late fails when its time is over; a forward and the next hop hear of it."""
    ident = rig.put(b'a@x.example', b'joe@here.example', options=[(b'D', b'%d;R' % (rig.wall + 500))])
    remote, local = sorted(rig.jobs, key=lambda job: job[0], reverse=True)
    assert remote[4] == b'b' and b'D%d;R' % (rig.wall + 500) in local[5].split(b'\n')
    rig.report(local)
    rig.report(remote, b'Z', b'busy\n')
    rig.wait(501)
    rig.wait(1)
    assert rig.bounce_jobs == [[ident, b'1', b'bounce']] and b'rather than late' in rig.state(ident, 2).texts[0]
    rig.bounced()
    assert there(rig, b'mess') == []


def test_bounce_later(rig):
    """A bouncer that cannot is asked again after 123 seconds."""
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'D')
    rig.bounced(False)
    assert b'warning: trouble injecting bounce message, will try later: not now' in rig.lines()
    rig.wait(122)
    assert not rig.bounce_jobs
    rig.wait(2)
    assert rig.bounce_jobs and not rig.jobs
    rig.bounced()
    assert rig.cleaned == [b'r' + ident] and there(rig, b'state') == []


def test_status_waits_for_both_spawners(rig):
    """Mail starts with the first spawner that is there; no status line shows a limit that is not known yet."""
    rig.crash()
    rig.lines()
    rig.capacity = (10, None)
    rig.start(rig.last + 1)
    rig.put(b'a@here.example')
    assert len(rig.jobs) == 1 and not any(line.startswith(b'status:') for line in rig.lines())
    rig.ends[b'rspawn'].send(channel.pack(b'C', b'20'))
    rig.step()
    assert rig.lines() == [b'status: local 1/10 remote 0/20']


def test_restart(rig):
    """After a crash the recipients that were done are not tried again; what was due later stays so."""
    first = rig.put(b'a@x.example', b'b@y.example')
    rig.report(rig.jobs[0])
    second = rig.put(b'c@z.example')
    rig.report(rig.jobs[1], b'Z')
    rig.crash()
    rig.start(rig.last + 1)
    rig.step(10)
    assert [(job[1], job[6].partition(b' ')[2]) for job in rig.jobs] == [(first, b'b@y.example')]
    rig.wait(430)
    assert [job[1] for job in rig.jobs] == [first, second]


def test_scan_takes_only_ids_below(rig):
    """Files of this run that are not announced yet, parts, and strange names are not looked at."""
    old = rig.put(b'a@here.example', announce=False)
    below = rig.last + 1
    rig.put(b'b@here.example', announce=False)
    for name in (b'junk', b'1800000000000009.part'):
        open(rig.home + b'/queue/mess/' + name, 'w').close()
    rig.ends[b'new'].send(b'<%016d\0' % below)
    rig.step(10)
    assert [job[2] for job in rig.jobs] == [old]
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(10)
    assert len(rig.jobs) == 2


@pytest.mark.parametrize('damage', [lambda data: data[:-1], lambda data: b'Y' + data[1:], lambda data: b'',
                                    lambda data: data[:30] + data[31:]])
def test_damaged(rig, damage):
    """Q-19: what is found by scanning and is not whole is set aside by clean, with a warning, never delivered."""
    ident = rig.put(b'a@here.example', announce=False)
    path = rig.home + b'/queue/mess/' + ident
    with open(path, 'rb') as file:
        data = file.read()
    with open(path, 'wb') as file:
        file.write(damage(data))
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(10)
    assert rig.cleaned == [b's' + ident] and not rig.jobs
    assert any(line.startswith(b'warning: mess/' + ident + b' is damaged') for line in rig.lines())
    assert rig.send.dispatch.count() == 0


@pytest.mark.parametrize('size', [10, 300_000])
def test_cut_short_while_it_waits(rig, size):
    """What is cut short is found by the search itself, not when its next attempt is due; its state is kept for
    whoever puts it back."""
    ident = rig.put(b'a@x.example', body=b'x' * size)
    rig.report(rig.jobs[0], b'Z')
    rig.crash()
    os.truncate(rig.home + b'/queue/mess/' + ident, size // 2)
    rig.start(rig.last + 1)
    rig.step(20)
    assert rig.cleaned == [b's' + ident] and rig.send.dispatch.count() == 0
    assert there(rig, b'state') == [ident + b'.aside']
    rig.crash()
    rig.start(rig.last + 1)
    rig.step(20)
    assert there(rig, b'state') == [ident + b'.aside'] and rig.send.dispatch.count() == 0


def test_a_stop_before_clean_has_answered(rig):
    """Q-18: what clean has set aside while send ended keeps its state: by its own name it is an orphan at the next start."""
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    rig.crash()
    with open(rig.home + b'/queue/state/' + ident, 'rb') as file:
        known = file.read()
    os.truncate(rig.home + b'/queue/mess/' + ident, 20)
    rig.clean_answer = b''
    rig.start(rig.last + 1)
    rig.step(20)
    assert rig.cleaned == [b's' + ident] and there(rig, b'state') == [ident, ident + b'.aside']
    rig.crash()
    os.rename(rig.home + b'/queue/mess/' + ident, rig.home + b'/queue/damaged/' + ident)
    rig.start(rig.last + 1)
    rig.step(20)
    assert there(rig, b'state') == [ident + b'.aside']
    with open(rig.home + b'/queue/state/' + ident + b'.aside', 'rb') as file:
        assert file.read() == known


def test_what_has_no_place_for_its_state_is_not_set_aside(rig, monkeypatch):
    """Q-03: where the state cannot be kept, clean is not asked yet; nothing is delivered meanwhile."""
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    rig.crash()
    os.truncate(rig.home + b'/queue/mess/' + ident, 20)
    real = unix.link

    def full(*args, **more):
        raise OSError(unix.ENOSPC, 'No space left on device')
    monkeypatch.setattr(unix, 'link', full)
    rig.start(rig.last + 1)
    rig.step(20)
    assert not rig.cleaned and there(rig, b'state') == [ident] and rig.send.dispatch.count() == 1
    assert any(line.startswith(b'warning: unable to keep state/' + ident) for line in rig.lines())
    monkeypatch.setattr(unix, 'link', real)
    rig.wait(130)
    assert rig.cleaned == [b's' + ident] and there(rig, b'state') == [ident + b'.aside'] and not rig.jobs


def test_changed_while_it_waits(rig):
    """A changed byte is found before the next attempt: the whole file is read then."""
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    rig.crash()
    with open(rig.home + b'/queue/mess/' + ident, 'r+b') as file:
        file.write(b'Y')
    rig.start(rig.last + 1)
    rig.step(20)
    assert rig.cleaned == [] and rig.send.dispatch.count() == 1
    rig.wait(500)
    assert rig.cleaned == [b's' + ident] and not rig.jobs


def test_set_aside_later(rig):
    """A damaged file that clean cannot set aside now is looked at again, and is never delivered meanwhile."""
    ident = rig.put(b'a@here.example', announce=False)
    os.truncate(rig.home + b'/queue/mess/' + ident, 20)
    rig.clean_answer = b'!'
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(10)
    assert rig.cleaned == [b's' + ident] and not rig.jobs and rig.send.dispatch.count() == 1
    rig.clean_answer = b'+'
    rig.wait(130)
    assert rig.cleaned == [b's' + ident] * 2 and not rig.jobs and rig.send.dispatch.count() == 0


def test_a_read_error_seen_once(rig):
    """Q-03: what clean finds whole is not set aside, and keeps what is known of it: marks, passes, and a hold."""
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    rig.crash()
    path = rig.home + b'/queue/mess/' + ident
    with open(path, 'rb') as file:
        data = file.read()
    os.truncate(path, 20)
    rig.clean_answer = b'x'
    rig.start(rig.last + 1)
    rig.step(20)
    assert rig.cleaned == [b's' + ident] and there(rig, b'state') == [ident] and rig.state(ident).attempts == 1
    with open(path, 'wb') as file:
        file.write(data)
    rig.wait(500)
    rig.report(rig.jobs[0], b'Z')
    assert rig.state(ident).attempts == 2


def test_long_damaged(rig):
    """A flipped byte in the middle of a long message is found, too."""
    ident = rig.put(b'a@here.example', announce=False, body=b'x' * 300_000)
    with open(rig.home + b'/queue/mess/' + ident, 'r+b') as file:
        file.seek(150_000)
        file.write(b'y')
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(10)
    assert rig.cleaned == [b's' + ident]


def test_long_damaged_of_a_clock_that_stood_ahead(rig):
    """... also in one that stands in a span told before: nobody of this run has seen it whole."""
    last, rig.last = rig.last, 2_500_000_000_000_000 - 1
    ident = rig.put(b'a@here.example', announce=False, body=b'x' * 300_000)
    rig.last = last
    with open(rig.home + b'/queue/mess/' + ident, 'r+b') as file:
        file.seek(150_000)
        file.write(b'y')
    rig.ends[b'new'].send(ident + b'-' + ident + b'\0<%016d\0' % (last + 1))
    rig.step(10)
    assert rig.cleaned == [b's' + ident] and not rig.jobs


def test_what_is_being_set_aside_is_known(rig):
    """Until clean has answered nobody looks at it again, nor takes its state for an orphan's."""
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    rig.crash()
    os.truncate(rig.home + b'/queue/mess/' + ident, 20)
    rig.clean_answer = b''
    rig.start(rig.last + 1)
    rig.step(20)
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(20)
    assert rig.cleaned == [b's' + ident] and rig.send.dispatch.count() == 1
    rig.ends[b'clean'].send(b'+')
    rig.step(20)
    assert rig.send.dispatch.count() == 0


def test_newer_format(rig):
    """A-14: a queue file of a later version is left alone, with one warning."""
    ident = rig.put(b'a@here.example', announce=False)
    path = rig.home + b'/queue/mess/' + ident
    with open(path, 'rb') as file:
        data = file.read()
    with open(path, 'wb') as file:
        file.write(data[:-62] + b'qpy2' + data[-58:])
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(10)
    rig.wait(90_000)
    assert not rig.cleaned and os.path.exists(path)
    assert sum(b'is left alone' in line for line in rig.lines()) == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir, lambda path: os.symlink('/dev/null', path)])
def test_no_regular_file(rig, make):
    """What is no file under the name of a message is left alone, with one warning; nothing waits for it."""
    stray = b'%016d' % (rig.last + 1)
    make(rig.home + b'/queue/mess/' + stray)
    for _ in range(2):
        rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 2))
        rig.step(10)
        rig.wait(90_000)
    assert not rig.cleaned and there(rig, b'mess') == [stray] and rig.send.dispatch.count() == 0
    assert [line for line in rig.lines() if stray in line] == [
        b'warning: mess/%s is left alone: not a regular file' % stray]


@pytest.mark.timeout(60)
@pytest.mark.parametrize('make, remove', [(os.mkfifo, os.unlink), (os.mkdir, os.rmdir)])
def test_a_state_that_is_no_regular_file(rig, make, remove):
    """In the place of a state: its message waits, the warning names the state, other mail goes on."""
    ident = rig.put(b'a@here.example', announce=False)
    make(rig.home + b'/queue/state/' + ident)
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(10)
    rig.wait(200)
    assert not rig.jobs
    assert [line for line in rig.lines() if ident in line][:2] == [
        b'warning: trouble reading state/%s; will try again later (not a regular file)' % ident] * 2
    with pytest.raises(unix.NotRegular):
        rig.send.store.append(ident, [(b'o',)])
    remove(rig.home + b'/queue/state/' + ident)
    rig.wait(400)
    assert [job[2] for job in rig.jobs] == [ident]


def test_orphans_that_are_no_files(rig):
    """A FIFO and a link are removed as a state is; a directory stays, and is named: qpy-fsck moves it."""
    names = [b'17000000000000%02d' % n for n in range(3)]
    for make, name in zip((os.mkfifo, os.mkdir, lambda path: os.symlink('/dev/null', path)), names):
        make(rig.home + b'/queue/state/' + name)
    rig.crash()
    rig.start(rig.last + 1)
    rig.step(20)
    assert there(rig, b'state') == [names[1]]
    assert any(line.startswith(b'warning: unable to unlink state/' + names[1]) for line in rig.lines())


def test_orphan_states(rig):
    """A state without a message is removed at start; that of a message stays."""
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    with open(rig.home + b'/queue/state/1700000000000000', 'w') as file:
        file.write('x')
    rig.crash()
    rig.start(rig.last + 1)
    rig.step(20)
    assert there(rig, b'state') == [ident]


def test_torn_state_is_cut(rig):
    """A torn entry is cut off before the next is appended, so that it hides nothing behind it."""
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    with open(rig.home + b'/queue/state/' + ident, 'ab') as file:
        file.write(b'\0\0\0\x20torn')
    rig.crash()
    rig.start(rig.last + 1)
    rig.step(10)
    rig.wait(500)
    rig.report(rig.jobs[0], b'Z')
    assert rig.state(ident).attempts == 2


def test_a_damaged_place_in_a_state(rig):
    """Q-19: one flipped bit in front of it takes no hold away; the log says that something is lost, once."""
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    rig.send.store.append(ident, [(b'h', b'do not send')], sync=True)
    path = rig.home + b'/queue/state/' + ident
    with open(path, 'r+b') as file:
        data = bytearray(file.read())
        data[6] ^= 1
        file.seek(0)
        file.write(data)
        file.write(b'\0\0\0\x20torn')
    rig.crash()
    rig.start(rig.last + 1)
    rig.step(10)
    rig.wait(500)
    assert not rig.jobs and rig.state(ident).held == b'do not send'
    assert os.stat(path).st_size == len(data)
    lines = rig.lines()
    assert len([line for line in lines if b'warning: state/%b is damaged: ' % ident in line]) == 1
    assert len([line for line in lines if b'warning: state/%b ended in 8 bytes' % ident in line]) == 1


def test_file_removed_by_hand(rig):
    """A-17: a message whose file is gone is forgotten, and the log says so; the others go on."""
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    os.unlink(rig.home + b'/queue/mess/' + ident)
    rig.wait(500)
    assert not rig.jobs and rig.send.dispatch.count() == 0
    assert [line for line in rig.lines() if b'warning: mess/%s was removed' % ident in line]
    rig.put(b'b@here.example')
    assert rig.jobs


def fail(monkeypatch, name, number, when=lambda args: True):
    """Have unix.NAME fail with this errno."""
    real = getattr(unix, name)

    def failing(*args, **more):
        if when(args):
            raise OSError(number, os.strerror(number))
        return real(*args, **more)
    monkeypatch.setattr(unix, name, failing)


@pytest.mark.parametrize('number', [errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.ELOOP])
def test_unreadable_message(rig, monkeypatch, number):
    """Q-03, Q-08, Q-10: a message that cannot be read stays, is logged, and is looked at again after 123 s."""
    with monkeypatch.context() as patch:
        fail(patch, 'open', number, lambda args: mess.is_id(args[0]))
        rig.put(b'a@here.example')
        assert not rig.jobs
    assert any(b'will try again later' in line for line in rig.lines())
    rig.wait(100)
    assert not rig.jobs
    rig.wait(30)
    assert rig.jobs


@pytest.mark.parametrize('number', [errno.EIO, errno.EMFILE, errno.ENOMEM])
def test_unreadable_message_at_the_search(rig, monkeypatch, number):
    """Q-03: one file that cannot be read when send looks for what was there before stops neither it nor the others."""
    bad, good = (rig.put(b'a@here.example', announce=False) for _ in range(2))
    with monkeypatch.context() as patch:
        fail(patch, 'open', number, lambda args: args[0] == bad)
        rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
        rig.step(20)
        assert rig.running() and [job[2] for job in rig.jobs] == [good]
    rig.wait(130)
    assert [job[2] for job in rig.jobs] == [good, bad]


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_state_cannot_be_written(rig, monkeypatch, number):
    """Q-01, Q-21: a failure that cannot be noted is neither reported nor forgotten; it is noted later."""
    ident = rig.put(b'a@x.example', b'b@y.example')
    with monkeypatch.context() as patch:
        fail(patch, 'open', number, lambda args: args[0] == ident and args[1] & os.O_CREAT)
        rig.report(rig.jobs[0])
        rig.report(rig.jobs[0], b'D')
        assert not rig.bounce_jobs
    assert any(b'trouble marking state/' in line for line in rig.lines())
    rig.wait(130)
    assert rig.bounce_jobs == [[ident, b'2', b'bounce']]
    rig.bounced()
    assert there(rig, b'mess') == []


def test_many_states_cannot_be_written(rig, monkeypatch):
    """Q-01: the first is told at once, with what it means; those of each minute are counted, until a minute has none."""
    def told():
        return [line.partition(b'trouble marking ')[2] for line in rig.lines() if b'trouble marking ' in line]

    def broken(patch, *idents):
        fail(patch, 'open', errno.ENOSPC, lambda args: args[0] in idents and args[1] & os.O_CREAT)
    first, second = (rig.put(b'a@x.example', b'b@y.example') for _ in range(2))
    with monkeypatch.context() as patch:
        broken(patch, first, second)
        for letter in b'Z', b'D':
            rig.report(rig.jobs[0], letter)
        assert told() == [b'state/' + first + b'; it is tried again (No space left on device)']
        rig.report(rig.jobs[0], b'K')
        assert not told()
        rig.wait(61)
        assert told() == [b'states: 1 more times in 60 seconds, 1 of them after deliveries']
    rig.wait(200)
    assert not told()
    third = rig.put(b'a@z.example', b'b@w.example')
    with monkeypatch.context() as patch:
        broken(patch, third)
        rig.report(next(job for job in rig.jobs if job[2] in (b'z.example', b'w.example')), b'K')
        assert told() == [b'state/' + third + b'; if qpy-send ends before it is, the message is delivered twice'
                          b' (No space left on device)']


def test_short_write_leaves_whole_entries(rig, monkeypatch):
    """Q-07: a short write to a state counts as none, and no half entry stays."""
    ident = rig.put(b'a@x.example', b'b@y.example')
    rig.report(rig.jobs[0])
    real = unix.write
    with monkeypatch.context() as patch:
        patch.setattr(unix, 'write', lambda fd, data: real(fd, data[:7]) if b'no\n' in data and data[:1] == b'\0'
                      else real(fd, data))
        rig.report(rig.jobs[0], b'D', b'no\n')
    assert not rig.bounce_jobs
    view = rig.state(ident, 2)
    assert view.end == os.path.getsize(rig.home + b'/queue/state/' + ident) and view.indices(1) == [0]
    rig.wait(130)
    assert rig.bounce_jobs


def test_a_state_is_not_longer_than_it_need_be(rig, monkeypatch):
    """INV7: what older passes said of a deferral goes when the state is read again; nothing else does."""
    monkeypatch.setattr(store, 'WORDY', 3000)
    ident = rig.put(b'a@x.example', b'b@y.example', b'c@z.example')
    rig.report(rig.jobs[0])
    sizes = []
    for attempt in range(7):
        while rig.jobs:
            rig.report(rig.jobs[0], b'Z', b'later %d ' % attempt + b'x' * 300 + b'\n')
        sizes.append(os.path.getsize(rig.home + b'/queue/state/' + ident))
        rig.wait(86400)
    view = rig.state(ident, 3)
    assert max(sizes) == 3315 and view.attempts == 7 and view.indices(1) == [0]
    assert view.texts[1].startswith(b'later 6 ') and os.listdir(rig.home + b'/queue/state') == [ident]


@pytest.mark.parametrize('call', ['open', 'write', 'fsync', 'rename'])
def test_a_state_that_cannot_be_made_shorter_stays(rig, monkeypatch, call):
    """Q-21: the longer one is as good."""
    monkeypatch.setattr(store, 'WORDY', 1)
    ident = rig.put(b'a@x.example')
    for _ in range(4):
        rig.report(rig.jobs[0], b'Z', b'later\n')
        with monkeypatch.context() as patch:
            real = getattr(unix, call)

            def fails(*words, **more):
                if call == 'fsync' or words[0] == store.SHORTER or call == 'write' and words[1][:4] == b'\0\0\0\x07':
                    raise OSError(errno.ENOSPC, 'no space left')
                return real(*words, **more)
            patch.setattr(unix, call, fails)
            rig.wait(86400)
    view = rig.state(ident, 1)
    assert view.attempts == 4 and view.texts == {0: b'later\n'}


def test_memory_files_run_out(rig, monkeypatch):
    """Q-09: a body that cannot be made is a deferral."""
    with monkeypatch.context() as patch:
        fail(patch, 'memfd', errno.ENOMEM)
        rig.put(b'a@here.example')
    assert any(b'deferral: qpy-send_is_unable_to_open_the_message' in line for line in rig.lines())
    rig.wait(200)
    assert rig.jobs


def test_clean_refuses(rig):
    """A finished message that stays on disk is not delivered again, also not by the next send."""
    rig.clean_answer = b'!'
    ident = rig.put(b'a@here.example')
    rig.report(rig.jobs[0])
    assert rig.state(ident).finished()
    rig.wait(130)
    assert rig.cleaned == [b'r' + ident] * 2
    rig.crash()
    rig.clean_answer = b'+'
    rig.start(rig.last + 1)
    rig.step(10)
    assert not rig.jobs and rig.cleaned[-1] == b'r' + ident and there(rig, b'mess') == there(rig, b'state') == []


def test_terminate(rig):
    """TERM: nothing new is started, what is under way is finished, then exit 0."""
    rig.put(b'a@here.example')
    rig.send.terminate()
    rig.put(b'b@here.example')
    assert len(rig.jobs) == 1
    rig.loop.running = True
    rig.report(rig.jobs[0])
    assert rig.lines()[-1] == b'status: exiting' and rig.send.code == 0 and not rig.loop.running


def test_a_delivery_that_outlasts_the_end(rig):
    """control/timeoutstop seconds after TERM send leaves a delivery that is still under way, says so and exits 0; with 0
    it waits for it, however long."""
    def ended(seconds):
        rig.wait(seconds)
        return not rig.loop.running
    rig.put(b'a@here.example')
    rig.loop.running = True
    rig.send.terminate()
    assert not ended(59) and ended(2)
    assert rig.lines()[-2:] == [b'warning: deliveries cut off after 60 seconds (control/timeoutstop): 1; '
                                b'they are tried again after the start', b'status: exiting'] and rig.send.code == 0
    rig.crash()
    rig.write('timeoutstop', '0')
    rig.start(rig.last + 1)
    rig.loop.running = True
    rig.send.terminate()
    assert len(rig.jobs) == 1 and not ended(100_000)
    rig.report(rig.jobs[0])
    assert ended(1)


def test_a_full_disk_does_not_outlast_the_end(rig, monkeypatch):
    """TERM while a state cannot be written: it is tried again at once and every ten seconds, and when there is room the
    end comes by itself."""
    def append(*_, **__):
        tries.append(rig.mono)
        raise OSError(errno.ENOSPC, 'No space left on device')
    tries = []
    real = rig.send.store.append
    monkeypatch.setattr(rig.send.store, 'append', append)
    rig.put(b'a@here.example', b'b@here.example')
    for job in list(rig.jobs):
        rig.report(job, b'Z', b'later\n')
    before, began = len(tries), rig.mono
    rig.loop.running = True
    rig.send.terminate()
    rig.step()
    assert len(tries) == before + 1 and rig.loop.running
    rig.wait(12)
    assert len(tries) == before + 2 and rig.mono - began < 15
    monkeypatch.setattr(rig.send.store, 'append', real)
    rig.wait(12)
    assert not rig.loop.running and rig.send.code == 0 and rig.lines()[-1] == b'status: exiting'


@pytest.mark.parametrize('name', [b'lspawn', b'rspawn', b'bounce', b'clean', b'new'])
def test_lost_neighbour(rig, name):
    """Q-33: a neighbour that is gone ends send with an alert and 111."""
    rig.loop.running = True
    rig.ends[name].close()
    for _ in range(3):
        rig.loop.step(0)
    assert rig.send.code == 111 and not rig.loop.running
    assert any(line.startswith(b'alert: oh no! lost ') for line in rig.lines())


@pytest.mark.parametrize('name', [b'lspawn', b'rspawn', b'bounce', b'clean', b'new'])
def test_all_end(rig, name):
    """A second TERM ends everything at once: neighbours that go then raise no alarm."""
    rig.put(b'a@here.example')
    rig.send.terminate()
    rig.loop.running = True
    rig.ends[name].close()
    for _ in range(3):
        rig.loop.step(0)
    assert rig.send.code == 0 and not rig.loop.running
    assert not any(b'alert' in line or b'warning' in line for line in rig.lines())


def test_reports_nobody_waits_for(rig):
    """Q-35, P38: numbers out of range, of the other channel, or twice change nothing."""
    rig.put(b'a@here.example')
    rig.ends[b'rspawn'].send(b'K1\0\0x\0' b'D99\0\0x\0' b'Zx\0\0x\0' b'K-1\0\0\0')
    rig.step()
    assert sum(line.endswith(b'delivery report out of range') for line in rig.lines()) == 4
    rig.report(rig.jobs[0])
    assert there(rig, b'mess') == []


def test_reread(rig):
    """HUP takes new control files; with a broken one the old ones stay, and that is said."""
    rig.write('virtualdomains', 'virt.example:bob')
    rig.write('concurrencylocal', '3')
    rig.send.reread()
    rig.put(b'x@virt.example')
    assert rig.jobs[0][4] == b'bob-x@virt.example'
    assert rig.send.dispatch.local.limit == 3
    rig.write('concurrencylocal', 'many')
    rig.write('virtualdomains', 'virt.example:tom')
    rig.send.reread()
    rig.step()
    assert any(line.startswith(b'alert: unable to reread controls: control/concurrencylocal') for line in rig.lines())
    rig.write('concurrencylocal', '4')
    rig.write('smtproutes', ':relay.example:port')
    rig.send.reread()
    rig.step()
    assert any(line.startswith(b'alert: unable to reread controls: control/smtproutes, line 1, "relay.example:port": ')
               for line in rig.lines())
    assert rig.send.controls.relays == {} and rig.send.dispatch.local.wanted == 3
    rig.report(rig.jobs[0])
    rig.put(b'y@virt.example')
    assert rig.jobs[0][4] == b'bob-y@virt.example'


def test_alarm(rig):
    """ALRM: what waits is tried now."""
    rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    rig.send.run_all()
    rig.step()
    assert rig.jobs


@pytest.mark.parametrize('when', ['before the search', 'during it'])
def test_alarm_during_the_search(rig, when):
    """ALRM before the queue is searched through counts for what is found later; it does not for a later start."""
    idents = [rig.put(b'%c@x.example' % c) for c in b'abc']
    for job in list(rig.jobs):
        rig.report(job, b'Z')
    rig.crash()
    rig.start()
    if when == 'before the search':
        rig.send.run_all()
    else:
        find = rig.send.found_message

        def found(name):
            find(name)
            rig.send.found_message = find
            rig.send.run_all()
        rig.send.found_message = found
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(20)
    assert sorted(job[1] for job in rig.jobs) == idents
    for job in list(rig.jobs):
        rig.report(job, b'Z')
    rig.crash()
    rig.start(rig.last + 1)
    rig.step(20)
    assert not rig.jobs


def test_the_search_looks_at_files_by_age(rig, monkeypatch):
    """Whatever order the directory has the names in, the files are opened as they were written, oldest first."""
    idents = [rig.put(b'a@here.example', announce=False) for _ in range(50)]
    looked, find = [], rig.send.found_message
    rig.send.found_message = lambda name: (looked.append(name), find(name))
    scandir = unix.scandir
    monkeypatch.setattr(unix, 'scandir', lambda fd: iter(sorted(scandir(fd), key=lambda entry: entry.name[::-1], reverse=True)))
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(20)
    assert looked == idents


def test_the_search_leaves_room_for_others(rig):
    """On a disk that takes its time, a pass of the loop looks at few files: one message for each that is slow."""
    for _ in range(10):
        rig.put(b'a@here.example', announce=False)
    looked, find = [], rig.send.found_message

    def slow(name):
        looked.append(name)
        rig.mono += send.GLANCE + 0.001
        find(name)
    rig.send.found_message = slow
    rig.send.search(rig.last + 1)
    passes = []
    while rig.send.scan is not None:
        before = len(looked)
        rig.send.search_on()
        passes.append(len(looked) - before)
    assert len(looked) == 10 and max(passes) == 1


def test_a_dead_relay_and_its_neighbours(rig):
    """D-05: of a thousand messages for a relay that is away few are tried, one for another relay goes at once, and when the
    first is there again each of them is delivered once."""
    for _ in range(1000):
        rig.put(b'x@dead.example', announce=False)
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(20)
    tried = list(rig.jobs)
    assert len(tried) <= 5
    for job in tried:
        rig.report(job, b'Z', b'no route\n', b'h')
    rig.step(20)
    assert not rig.jobs and len(there(rig, b'state')) == 1000
    rig.put(b'y@live.example')
    job, = rig.jobs
    assert job[2] == b'live.example'
    rig.report(job)
    rig.send.run_all()
    rig.step(20)
    delivered = []
    while rig.jobs:
        delivered.append(rig.jobs[0][1])
        rig.report(rig.jobs[0])
    assert len(delivered) == len(set(delivered)) == 1000 and not there(rig, b'mess') and not there(rig, b'state')


def test_verp(rig):
    """A sender that ends in -@[] is expanded for each recipient; the log shows it as it is."""
    ident = rig.put(b'a@x.example', b'b@here.example', sender=b'l-return-@here.example-@[]')
    assert sorted(job[3] for job in rig.jobs) == [b'l-return-a=x.example@here.example',
                                                 b'l-return-b=here.example@here.example']
    assert b'info msg %s: bytes 18 from <l-return-@here.example-@[]> qp 4711 uid %d' % (ident, SUBMITTER) in rig.lines()


def test_envelope_wishes(rig):
    """A message that came with a hold is held; one with a time is tried then."""
    rig.put(b'a@here.example', options=[(b'h', b'wait')])
    later = rig.put(b'b@here.example', options=[(b'b', b'%d' % (rig.wall + 1000))])
    assert not rig.jobs
    rig.wait(999)
    assert not rig.jobs
    rig.wait(2)
    assert [job[2] for job in rig.jobs] == [later]


def test_a_message_from_a_clock_that_stood_ahead(rig):
    """A message of 2049 that is found under the right clock is named at start; it has the age of the day it was found, is
    tried along its curve and expires, also if send is started anew in between; mailq shows that day."""
    day, right = 86_400, rig.wall
    rig.last = 2_500_000_000_000_000
    ident = rig.put(b'a@x.example', announce=False)
    rig.crash()

    def start():
        rig.start()
        rig.ends[b'new'].send(b'%s-%s\0<%016d\0' % (ident, ident, int(right * 1e6)))
        rig.step(10)

    def arrived():
        client = control.Desk(rig.send).records(0, b'list')
        return int(next(iter(client)).split(b'\t')[3])
    start()
    assert any(line.startswith(b'warning: mess/%s is of 22 Mar 2049 04:26:40 by its ID, which cannot be' % ident)
               for line in rig.lines())
    rig.report(rig.jobs[0], b'Z', b'later\n')
    assert rig.state(ident).born == right and arrived() == right
    dues = []
    for _ in range(3):
        dues.append(rig.state(ident).due - right)
        rig.wait(rig.state(ident).due - rig.wall + 1)
        rig.report(rig.jobs[0], b'Z', b'later\n')
    assert dues[0] >= 400 and all(later > sooner * 1.9 for sooner, later in zip(dues, dues[1:]))
    rig.crash()
    start()
    rig.wait(6 * day)
    rig.report(rig.jobs[0], b'Z', b'later\n')
    assert rig.state(ident).born == right and arrived() == right and not rig.bounce_jobs
    rig.wait(2 * day)
    rig.report(rig.jobs[0], b'Z', b'later\n')
    assert rig.bounce_jobs[0][0] == ident and b'in the queue too long' in rig.state(ident).texts[0]


def test_the_messages_of_a_clock_that_stood_ahead_are_counted(rig):
    """Of very many only some are named at start, and how many there are."""
    rig.last = 2_500_000_000_000_000
    idents = [rig.put(b'a@here.example', announce=False) for _ in range(send.NAMED + 5)]
    rig.ends[b'new'].send(b'%s-%s\0<%016d\0' % (idents[0], idents[-1], int(rig.wall * 1e6)))
    rig.step(10)
    told = [line for line in rig.lines() if line.startswith(b'warning: ')]
    assert len(told) == send.NAMED + 1 and told[-1] == b'warning: %d messages in all come from a clock that stood wrong' % len(idents)
    assert len(rig.jobs) == 5           # of one user's, at first


def test_what_is_still_being_written_is_not_looked_at(rig):
    """Only IDs below N, and in the spans told before it, are looked for: torn files elsewhere are left to queued."""
    names = [2_400_000_000_000_000, 2_500_000_000_000_000, 2_500_000_000_000_009, 2_500_000_000_000_010]
    for name in names:
        open(rig.home + b'/queue/mess/%016d' % name, 'wb').close()
    rig.ends[b'new'].send(b'2500000000000000-2500000000000009\0<%016d\0' % (rig.last + 1))
    rig.step(10)
    assert rig.cleaned == [b's%016d' % name for name in names[1:3]]
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(10)
    assert len(rig.cleaned) == 2


def test_jump_is_told(rig):
    """Q-31: a jump of the clock is an alert, and changes nothing else."""
    rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    rig.wall += 30 * 86400
    rig.send.wake()
    rig.step()
    assert b'alert: the clock jumped by 2592000 seconds; no message is older for it' in rig.lines()
    assert not rig.jobs
    rig.wait(430)
    rig.report(rig.jobs[0], b'Z')
    assert not rig.bounce_jobs


@pytest.mark.parametrize('started_anew', [True, False])
def test_a_due_of_a_clock_that_stood_ahead(rig, started_anew):
    """Q-31: what was to be tried again in five years, as the clock had it that is right now, does not wait for them: it is
    tried when its time is over, by a new send at once, and written down with the right clock."""
    years = 5 * 365 * 86_400
    rig.crash()
    rig.wall += years
    rig.last = int(rig.wall) * 1_000_000
    rig.start()
    ident = rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z')
    rig.wall -= years
    assert rig.state(ident).due > rig.wall + years
    if started_anew:
        rig.crash()
        rig.start()
        rig.ends[b'new'].send(b'%s-%s\0<%016d\0' % (ident, ident, int(rig.wall * 1e6)))
        rig.step(10)
    else:
        rig.wait(430)
    rig.report(rig.jobs[0], b'Z')
    assert rig.wall < rig.state(ident).due < rig.wall + 1.1 * 86_400 and not rig.bounce_jobs
    rig.wait(1.1 * 86_400)
    rig.report(rig.jobs[0])
    assert there(rig, b'mess') == []


def test_a_time_in_the_envelope_of_a_clock_that_stood_behind(rig):
    """Q-31: a message that is to be tried at a time is looked at once a day: where the clock is put right in between, it does
    not wait for the years that the clock stood behind."""
    years = 5 * 365 * 86_400
    rig.put(b'a@x.example', options=[(b'b', b'%d' % (rig.wall + years))])
    assert not rig.jobs
    rig.wall += years
    rig.wait(86_401)
    rig.report(rig.jobs[0])
    assert there(rig, b'mess') == []


def test_second_send(rig):
    """Q-28: the queue is one send's at a time."""
    held = send.own_lock(rig.home, rig.log)
    with pytest.raises(program.Fatal) as refused:
        send.own_lock(rig.home, rig.log)
    assert refused.value.code == 111
    assert b'alert: cannot start: qpy-send is already running' in rig.lines()
    os.close(held)


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir, lambda path: os.symlink('/dev/null', path)])
def test_a_lock_that_is_no_file(rig, make):
    """What is no file in the place of send's lock is refused with what to type."""
    make(rig.home + b'/queue/state/lock')
    with pytest.raises(program.Fatal) as refused:
        send.own_lock(rig.home, rig.log)
    assert refused.value.code == 111
    assert b'queue/state/lock: not a regular file; rm -r %b/queue/state/lock' % rig.home in refused.value.text


def test_a_lock_of_somebody_else(rig, monkeypatch):
    """Q-25: in a copy without its owners the lock is root's: send ends with the way out, and not as if that were unforeseen."""
    def refuse(*args):
        raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(unix, 'open_regular', refuse)
    with pytest.raises(program.Fatal) as refused:
        send.own_lock(rig.home, rig.log)
    assert refused.value.code == 111
    assert refused.value.text.startswith(b'unable to lock queue/state/lock: Permission denied') and b'qpy-fsck' in refused.value.text


def test_log_that_takes_nothing(rig):
    """Q-39: a full log does not stop mail; lost lines are counted and told."""
    filler = b'x' * 65536
    try:
        while True:
            os.write(rig.log_write, filler)
    except BlockingIOError:
        pass
    for _ in range(2000):
        ident = rig.put(b'a@here.example', announce=False)
        rig.ends[b'new'].send(ident + b'\0')
        if rig.last % 50 == 0:
            rig.step()
            while rig.jobs:
                rig.report(rig.jobs[0])
    rig.step()
    while rig.jobs:
        rig.report(rig.jobs[0])
    assert there(rig, b'mess') == [] and rig.log.lost
    lines = []
    for _ in range(20):
        lines += rig.lines()
        rig.wait(1)
    assert not rig.log.lost and any(line.startswith(b'warning: ') and line.endswith(b' log lines were lost') for line in lines)


def test_no_descriptor_is_left_open(rig):
    """P-09: after a hundred messages of all kinds as many descriptors are open as before."""
    def count():
        return len(os.listdir('/proc/self/fd'))
    before = count()
    for n in range(100):
        rig.put(b'a@here.example', b'b@here.example', b'c@x.example', body=b'x' * (2_000_000 if n % 25 == 0 else 9))
        rig.step(10)
        while rig.jobs:
            rig.report(rig.jobs[0], (b'K', b'Z', b'D')[n % 3])
        while rig.bounce_jobs:
            rig.bounced()
    assert count() == before
