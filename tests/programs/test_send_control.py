"""Questions to qpy-send: who may ask what, and that no client can hold it up."""
import json
import os
import socket
import threading

import pytest
from hypothesis import given, settings, strategies as st

from qpy.lib import owner, program, sendctl
from qpy.qpys import control
from qpy.user import qread, qstat, sendmail
from tests.peers import queued
from tests.peers.send_rig import STRANGER, SUBMITTER, Rig

ROOT, JOE, BOB = 0, SUBMITTER, STRANGER


@pytest.fixture
def rig():
    with queued.temporary_home() as home, pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, 'become', lambda home: None)       # readers run in this process, which stays who it is
        rig = Rig(home)
        rig.start()
        yield rig
        rig.end()


def client(rig, uid=ROOT):
    """The client's end of a new connection of this user."""
    mine, its = socket.socketpair()
    mine.setblocking(False)
    its.setblocking(False)
    rig.desk.connected(its, (1, uid, uid))
    return mine


def answer(rig, request, uid=ROOT, sock=None):
    """The records of one answer, the end included."""
    sock = sock or client(rig, uid)
    sock.send(request + b'\0')
    data = b''
    for _ in range(10_000):
        rig.loop.step(0)
        try:
            piece = sock.recv(1 << 20)
        except BlockingIOError:
            continue
        if not piece:
            return None
        data += piece
        last = data.split(b'\0')[-2]
        if data.endswith(b'\0') and (last == b'.' or last[:1] == b'!'):
            return data.split(b'\0')[:-1]
    raise AssertionError('no answer: %r' % data)


def deferred(rig, *recipients):
    ident = rig.put(*recipients)
    for job in list(rig.jobs):
        rig.report(job, b'Z', b'not now\n')
    return ident


def test_stat(rig):
    """stat counts."""
    deferred(rig, b'a@x.example')
    rig.put(b'b@here.example')
    counts = dict(record.split(b'\t') for record in answer(rig, b'stat', JOE)[:-1])
    assert counts[b'messages'] == b'2' and counts[b'active'] == b'1' and counts[b'local'] == b'1'


def test_list(rig):
    """list tells place, time and reason; everybody sees his own, root all."""
    ident = deferred(rig, b'a b@x.example', b'virt%@here.example', b'\xc3\xa9\x1b@x.example')
    m, one, two, three, end = answer(rig, b'list', JOE)
    assert m.split(b'\t')[:6] == [b'm', ident, b'18', b'1800000000', b'joe@here.example', b'waiting']
    assert 1_800_000_400 <= int(m.split(b'\t')[6]) < 1_800_000_430 and m.split(b'\t')[7:] == [b'1', b'%d' % JOE]
    assert one == b't\tpending\tremote\ta b@x.example\tnot now' and end == b'.'
    assert two == b't\tpending\tlocal\tvirt%@here.example\tnot now'
    assert three == b't\tpending\tremote\t___@x.example\tnot now'
    assert answer(rig, b'list', BOB) == [b'.']
    assert answer(rig, b'list ' + ident) == [m, one, two, three, b'.']
    assert answer(rig, b'list ' + ident, BOB) == [b'.']


def test_reasons_are_for_people(rig):
    """A reason is listed as it was said, blanks and all, its lines in one; the log keeps qmail's spelling."""
    rig.put(b'a@x.example')
    rig.report(rig.jobs[0], b'Z', b'Unable to open ./Maildir: no\tsuch\n100% \xc3\xa9\n', b'h')
    assert b'delivery 1: deferral: Unable_to_open_./Maildir:_no_such/100__' in b'\n'.join(rig.lines())
    assert answer(rig, b'list')[1].endswith(b'\tUnable to open ./Maildir: no?such / 100% ??')
    assert answer(rig, b'tcpto')[0].endswith(b'\tUnable to open ./Maildir: no?such / 100% ??')


@pytest.mark.parametrize('request_', [b'hold 1800000000000001', b'release 1800000000000001', b'tcpok', b'tcpto',
                                      b'drop 1800000000000001', b'bounce 1800000000000001'])
def test_not_permitted(rig, request_):
    """What changes anything is root's and send's own."""
    rig.put(b'a@here.example')
    assert answer(rig, request_, JOE) == [b'!not permitted']


@pytest.mark.parametrize('request_', [b'', b'nonsense', b'hold', b'drop 17', b'list x', b'run 1700000000000000'])
def test_no_sense(rig, request_):
    """What makes no sense is refused with a reason, and the connection stays."""
    sock = client(rig)
    assert answer(rig, request_, sock=sock)[0][:1] == b'!'
    assert answer(rig, b'stat', sock=sock)[-1] == b'.'


def test_run(rig):
    """run tries everything at once; for others than root once a minute, and it never fails for anybody."""
    deferred(rig, b'a@x.example')
    assert answer(rig, b'run', JOE) == [b'.']
    rig.step()
    rig.report(rig.jobs[0], b'Z')
    assert answer(rig, b'run', BOB) == [b'.']
    rig.step()
    assert not rig.jobs
    assert answer(rig, b'run') == [b'.']
    rig.step()
    assert rig.jobs


def test_hold_survives_a_crash(rig):
    """A hold is synced before it is confirmed; the next send keeps it, until release."""
    ident = deferred(rig, b'a@x.example')
    assert answer(rig, b'hold %s being looked at' % ident) == [b'.']
    rig.crash()
    rig.start(rig.last + 1)
    rig.step(10)
    rig.wait(9999)
    assert not rig.jobs and rig.state(ident).held == b'being looked at'
    assert answer(rig, b'list')[0].split(b'\t')[5] == b'held'
    assert answer(rig, b'release ' + ident) == [b'.']
    rig.step()
    assert rig.jobs
    rig.report(rig.jobs[0])
    assert os.listdir(rig.home + b'/queue/mess') == []


def test_drop(rig):
    """drop removes, also what has a state, and tells nobody."""
    ident = deferred(rig, b'a@x.example')
    assert answer(rig, b'drop ' + ident) == [b'.']
    rig.step()
    assert rig.cleaned == [b'r' + ident] and not rig.bounce_jobs and rig.state(ident) is None


def test_bounce(rig):
    """bounce gives up now and reports it."""
    ident = deferred(rig, b'a@x.example')
    assert answer(rig, b'bounce ' + ident) == [b'.']
    rig.step()
    assert rig.bounce_jobs == [[ident, b'1', b'bounce']] and b'administrator' in rig.state(ident).texts[0]


def test_tcpto_and_tcpok(rig):
    """A destination in trouble is shown with the reason; after tcpok, or HUP, what waits for it is tried at once."""
    for told in (lambda: answer(rig, b'tcpok x.example'), rig.send.reread):
        rig.put(b'a@x.example')
        rig.report(rig.jobs[0], b'Z', b'no route\n', b'h')
        rig.put(b'b@x.example')
        record, end = answer(rig, b'tcpto')
        assert record.split(b'\t')[:3] == [b'x.example', b'1', b'0'] and record.endswith(b'\tno route')
        rig.wait(3)
        assert answer(rig, b'tcpto')[0].split(b'\t')[:3] == [b'x.example', b'1', b'3']
        assert not rig.jobs
        told()
        rig.step()
        assert answer(rig, b'tcpto') == [b'.']
        assert sorted(job[-2].partition(b' ')[2] for job in rig.jobs) == [b'a@x.example', b'b@x.example']
        for job in list(rig.jobs):
            rig.report(job)


def test_destinations(rig):
    """Each destination with what goes on there: under way, allowed, window, waiting, rate, trouble; gone when idle."""
    rig.write('destinationlimits', 'x.example:1 60/m')
    rig.send.reread()
    for _ in range(3):
        rig.put(b'a@x.example')
    rig.put(b'a@y.example')
    assert answer(rig, b'destinations') == [b'x.example\t1\t1\t5\t2\t60/60\t0\t0\t', b'y.example\t1\t20\t5\t0\t-\t0\t0\t',
                                            b'.']
    rig.lines()
    for job in list(rig.jobs):
        rig.report(job, b'Z', b'no route\n', b'h')
    assert any(line.startswith(b'destination y.example: left alone for 6') and line.endswith(b' in a row 1: no_route/')
               for line in rig.lines())
    fields = answer(rig, b'destinations')[1].split(b'\t')
    assert fields[:7] + fields[8:] == [b'y.example', b'0', b'20', b'5', b'0', b'-', b'1', b'no route'] and 60 <= int(fields[7]) < 64
    answer(rig, b'tcpok')
    rig.step()
    assert b'destination y.example: in order again' in rig.lines()
    for job in list(rig.jobs):
        rig.report(job)
    assert not any(line.startswith(b'y.example') for line in answer(rig, b'destinations'))


def test_a_smarthost_is_one_destination(rig):
    """Many domains behind one relay share its limit, and recipients of one message there go in one transaction, whose host
    is one of theirs; who is routed elsewhere does not; tcpok knows the relay by its name."""
    rig.write('smtproutes', ':relay.example:587\nown.example:')
    rig.write('senderroutes', 'ann@here.example:other.example')
    rig.write('destinationlimits', 'relay.example:2')
    rig.send.reread()
    rig.put(b'a@w.example', b'b@x.example', b'c@own.example')
    for n in range(4):
        rig.put(b'a@d%d.example' % n)
    rig.put(b'a@x.example', b'b@z.example', sender=b'ann@here.example')
    hosts = sorted(tuple(line.partition(b' ')[2] for line in job[-2].split(b'\n')) for job in rig.jobs)
    assert (b'a@w.example', b'b@x.example') in hosts and (b'c@own.example',) in hosts
    assert (b'a@x.example', b'b@z.example') in hosts and len(hosts) == 4
    found = {line.split(b'\t')[0]: line.split(b'\t')[1:3] for line in answer(rig, b'destinations')[:-1]}
    assert found == {b'relay.example:587': [b'2', b'2'], b'own.example': [b'1', b'20'], b'other.example': [b'1', b'20']}
    for job in [job for job in rig.jobs if b'@own' not in job[-2] and b'@z' not in job[-2]]:
        rig.report(job, b'Z', b'no route\n', b'h')
    assert [line.split(b'\t')[0] for line in answer(rig, b'tcpto')[:-1]] == [b'relay.example:587']
    answer(rig, b'tcpok relay.example')
    assert answer(rig, b'tcpto') == [b'.']


def test_broken_limits(rig):
    """An entry that nobody can use: the old ones stay, and the log says which line."""
    rig.write('destinationlimits', ':5\nx.example:many')
    rig.send.reread()
    rig.step()
    assert any(b'unable to reread controls' in line and b'1_to_20000' in line.replace(b' ', b'_') for line in rig.lines())


def test_limits(rig):
    """P43: too many connections, a request too long, a client that reads nothing: none costs the others anything."""
    mine = [client(rig, JOE) for _ in range(control.PER_UID)]
    extra = client(rig, JOE)
    assert extra.recv(1) == b''
    assert answer(rig, b'stat', BOB)[-1] == b'.'
    mine[0].send(b'x' * (control.REQUEST_LIMIT + 1))
    for _ in range(3):
        rig.loop.step(0)
    assert mine[0].recv(1) == b''
    rig.wait(control.PATIENCE + 2)
    assert not rig.desk.clients


def heard(sock):
    """What has come; None at the end, b'' while there is nothing."""
    try:
        return sock.recv(1 << 20) or None
    except BlockingIOError:
        return b''


def test_many_users_leave_room(rig):
    """P15: places are kept for root and our own, and the one of the user who is idle longest goes to the next; where all
    have asked and wait for their answers, there is none."""
    places = control.CLIENTS - control.KEPT
    users = []
    for n in range(places):
        users.append(client(rig, 2000 + n // control.PER_UID))
        rig.mono += 0.01
    assert answer(rig, b'stat', 2000, users[0])[-1] == b'.'         # not idle for so long as the second
    users.append(client(rig, 3000))
    assert answer(rig, b'stat', 3000, users[-1])[-1] == b'.' and heard(users[1]) is None and heard(users[0]) == heard(users[2]) == b''
    for one in rig.desk.clients:
        one.answer = one.answer or iter(())                         # all of them have asked
    assert heard(client(rig, 3001)) is None
    ours = [client(rig, ROOT) for _ in range(control.CLIENTS - len(rig.desk.clients))]
    assert len(ours) == control.KEPT and [answer(rig, b'stat', ROOT, sock)[-1] for sock in ours] == [b'.'] * len(ours)
    assert heard(client(rig, ROOT)) is None


def test_a_request_has_its_time(rig):
    """A byte now and then keeps no place: a request is whole in time, or its client is dropped."""
    sock = client(rig, JOE)
    for _ in range(control.PATIENCE // 10 + 2):
        if heard(sock) is None:
            break
        sock.send(b's')
        rig.wait(10)
    assert heard(sock) is None and not rig.desk.clients


@pytest.mark.parametrize('uid, stays', [(JOE, False), (ROOT, True)])
def test_an_answer_has_its_time(rig, uid, stays):
    """Who takes a few bytes of a long answer now and then is dropped, unless he is root."""
    for _ in range(900):
        rig.put(*[b'someone-with-a-long-name-%d@x.example' % n for n in range(30)], announce=False)
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(60)
    sock = client(rig, uid)
    sock.send(b'list\0')
    for _ in range(100):
        rig.loop.step(0)
    (its,) = rig.desk.clients
    assert its.out
    for _ in range(2 * control.PATIENCE // 10):
        its.taken, its.last = its.taken + 5, rig.mono               # as if some bytes had gone
        rig.wait(10)
    assert (its.sock is not None) == stays


def test_slow_reader(rig):
    """The answer for a client that does not read stops at a bound, and goes on when it reads."""
    for _ in range(300):
        rig.put(*[b'someone-with-a-long-name-%d@x.example' % n for n in range(30)], announce=False)
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step(30)
    sock = client(rig)
    sock.send(b'list\0')
    for _ in range(500):
        rig.loop.step(0)
    (its,) = rig.desk.clients
    assert 0 < len(its.out) < 3 * control.OUT
    data = b''
    while not data.endswith(b'\0.\0'):
        rig.loop.step(0)
        try:
            data += sock.recv(1 << 20)
        except BlockingIOError:
            pass
    assert data.count(b'\0m\t') + data.startswith(b'm\t') == 300


@settings(max_examples=30)
@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b'list\0', b'stat\0run\0', b'hold \0', b'\0'])),
                max_size=6))
def test_anything(pieces):
    """P-01: whatever a client says, send goes on."""
    with queued.temporary_home() as home:
        rig = Rig(home)
        rig.start()
        sock = client(rig, JOE)
        for piece in pieces:
            try:
                sock.send(piece)
            except BrokenPipeError:
                break
            rig.loop.step(0)
        sock.close()
        for _ in range(5):
            rig.loop.step(0)
        assert not rig.desk.clients
        rig.put(b'a@here.example')
        assert rig.jobs
        rig.end()


# --- ETRN ----------------------------------------------------------------------------------------------------

@pytest.fixture
def branch(rig):
    """A send for which control/etrn lists branch.example."""
    rig.write('etrn', 'branch.example')
    rig.crash()
    rig.start(rig.last + 1)
    return rig


def tried(rig):
    """What rspawn was given, each answered with a deferral: (ID, recipients)."""
    found = [(job[1], [line.split(b' ')[1] for line in job[6].split(b'\n')]) for job in rig.jobs if job[0] == b'rspawn']
    for job in list(rig.jobs):
        rig.report(job, b'Z', b'not now\n')
    return found


def test_etrn(branch):
    """Anybody may have what waits for a domain of control/etrn tried, and nothing else is; the log says who asked."""
    both = deferred(branch, b'a@branch.example', b'b@other.example')
    other = deferred(branch, b'c@other.example')
    branch.lines()
    assert answer(branch, b'etrn branch.example', BOB) == [b'1', b'.']
    branch.step()
    assert tried(branch) == [(both, [b'a@branch.example'])]
    assert b'etrn branch.example: messages tried out of turn 1, asked for by uid %d' % BOB in branch.lines()
    assert branch.state(other).attempts == branch.state(both, 2).attempts == 1


def test_etrn_is_refused(branch):
    """Twice within two minutes, for domains that are not listed, for none: nothing happens, and it is said why."""
    deferred(branch, b'a@branch.example')
    assert answer(branch, b'etrn branch.example', BOB) == [b'1', b'.']
    branch.step()
    assert len(tried(branch)) == 1
    branch.wait(60)
    assert answer(branch, b'etrn branch.example', ROOT) == [b'later 60', b'.']
    assert answer(branch, b'etrn other.example') == answer(branch, b'etrn @branch.example') == [
        b'!not in my list of domains for ETRN']
    assert answer(branch, b'etrn #x') == [b'!there are no queues by name']
    assert answer(branch, b'etrn') == answer(branch, b'etrn a b') == [b'!malformed']
    branch.step()
    assert tried(branch) == []
    branch.wait(60)
    assert answer(branch, b'etrn branch.example', BOB) == [b'1', b'.']


def test_etrn_after_a_restart(branch):
    """What waits from before the start is known by its files: of a message the recipients that are not finished."""
    one = deferred(branch, b'a@branch.example', b'b@here.example')
    two = branch.put(b'a@branch.example', b'c@other.example')
    for job in list(branch.jobs):
        branch.report(job, b'K' if job[2] == b'branch.example' else b'Z', b'x\n')
    branch.crash()
    branch.start(branch.last + 1)
    assert branch.jobs == [] and branch.send.dispatch.count() == 2
    assert answer(branch, b'etrn branch.example') == [b'1', b'.']
    branch.step()
    assert tried(branch) == [(one, [b'a@branch.example'])] and branch.state(two, 2).attempts == 1


def test_etrn_while_the_queue_is_searched(rig):
    """Before it is known what waits the answer is: not now."""
    rig.write('etrn', 'branch.example')
    rig.crash()
    rig.start()
    assert answer(rig, b'etrn branch.example') == [b'!it is not known yet what waits']
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    rig.step()
    assert answer(rig, b'etrn branch.example') == [b'0', b'.']


def test_etrn_of_a_domain_that_is_new(rig):
    """A domain that control/etrn lists since HUP: what waited for it before is known; where it lists it no more, nobody asks."""
    rig.ends[b'new'].send(b'<%016d\0' % (rig.last + 1))
    waits = deferred(rig, b'a@branch.example')
    assert answer(rig, b'etrn branch.example')[0][:4] == b'!not'
    rig.write('etrn', '.example')
    rig.send.reread()
    rig.step()
    assert answer(rig, b'etrn branch.example') == [b'1', b'.']
    rig.step()
    assert tried(rig) == [(waits, [b'a@branch.example'])]
    os.unlink(rig.home + b'/control/etrn')
    rig.send.reread()
    rig.step()
    assert answer(rig, b'etrn branch.example')[0][:4] == b'!not' and rig.send.dispatch.waiting.ids == {}


@pytest.mark.parametrize('again', [lambda rig: (rig.crash(), rig.start(rig.last + 1)), lambda rig: (
    rig.write('etrn', '.example'), rig.send.reread(), rig.step())], ids=['restart', 'HUP'])
@pytest.mark.parametrize('option', [(b'b', b'%d' % (1_800_000_000 + 3600)), (b'h', b'because')])
def test_etrn_hurries_nothing_that_is_to_wait(branch, again, option):
    """A message that its sender wants released later (RFC 4865), or that is held, is neither tried nor counted; after that time
    it is, as any other."""
    branch.put(b'a@branch.example', options=[option])
    again(branch)
    assert answer(branch, b'etrn branch.example') == [b'0', b'.']
    branch.step()
    assert branch.jobs == []
    branch.wait(3601)
    assert len(tried(branch)) == (option[0] == b'b')
    assert answer(branch, b'etrn branch.example') == [b'%d' % (option[0] == b'b'), b'.']


def test_etrn_costs_what_waits_there(branch):
    """Of a thousand messages that wait those for the domain are read, and no others."""
    for number in range(1000):
        branch.put(b'u%d@%s.example' % (number, b'branch' if number % 100 == 0 else b'other%d' % (number % 7)), announce=False)
    branch.crash()
    branch.start(branch.last + 1)
    for _ in range(200):
        branch.step()
        tried(branch)
    read = []
    load = branch.send.store.load
    branch.send.store.load = lambda name, check: read.append(name) or load(name, check)
    assert answer(branch, b'etrn branch.example') == [b'10', b'.']
    branch.step()
    assert len(set(read)) == 10 and len(tried(branch)) <= 10


# --- the programs --------------------------------------------------------------------------------------------

class Served:
    """run/control answered from a thread while a program of this process asks."""

    def __init__(self, rig):
        self.rig = rig

    def __enter__(self):
        sock = self.rig.listen(b'control', socket.SOCK_STREAM)
        sock.setblocking(False)
        self.sock, self.done = sock, False
        control.serve(self.rig.send, [sock])
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.done:
            self.rig.loop.step(0.01)

    def __exit__(self, *_):
        self.done = True
        self.thread.join()
        self.rig.loop.forget(self.sock.fileno())
        self.sock.close()


def output(capfd):
    return capfd.readouterr().out


def test_qread(rig, capfd, monkeypatch):
    """qpy-qread prints qmail-qread's lines: two blanks, one behind the sender, local recipients first."""
    monkeypatch.setattr(qread.unix, 'signal', lambda *_: None)
    ident = rig.put(b'a@x.example', b'b@here.example', b'c@y.example')
    remote = [job for job in rig.jobs if job[0] == b'rspawn']
    rig.report(remote[0], b'Z', b'later\n')
    rig.report(remote[1], b'K')
    rig.report(rig.jobs[0], b'Z', b'full\n')
    with Served(rig):
        assert qread.main(rig.home, []) == 0
        text = output(capfd)
        assert qread.main(rig.home, [b'--json', ident]) == 0
        fields = json.loads(output(capfd))
    assert text == ('15 Jan 2027 08:00:00 GMT  #%s  18  <joe@here.example> \n'
                    '\tlocal\tb@here.example\n\tremote\ta@x.example\n  done\tremote\tc@y.example\n' % ident.decode())
    assert fields['id'] == ident.decode() and fields['attempts'] == 1
    assert fields['recipients'][0] == {'status': 'pending', 'channel': 'remote', 'address': 'a@x.example',
                                       'reason': 'later'}


def test_a_list_that_cannot_be_written(rig, monkeypatch):
    """A full disk behind descriptor 1 is not laid at send's door."""
    monkeypatch.setattr(qread.unix, 'signal', lambda *_: None)
    deferred(rig, b'a@x.example')

    def full(fd, data):
        raise OSError(28, 'full')
    monkeypatch.setattr(qread.unix, 'write_all', full)
    with Served(rig), pytest.raises(program.Fatal) as caught:
        qread.main(rig.home, [])
    assert b'unable to write the list: full' in caught.value.text


def test_send_that_does_not_answer():
    """Running and silent is told from not running."""
    assert sendctl.trouble(TimeoutError('timed out')) == b'qpy-send runs, and does not answer'
    assert sendctl.trouble(FileNotFoundError()) == b'qpy-send is not running'


def test_qread_without_send(rig, capfd, monkeypatch):
    """While send is not running who may read the queue's files gets what these say, and it says so; strays are passed over."""
    monkeypatch.setattr(qread.unix, 'signal', lambda *_: None)
    ident = deferred(rig, b'a@x.example', b'b@here.example')
    other = rig.put(b'c@y.example')
    for name, data in ((b'1800000000000000', b'damaged'), (b'x.part', b'')):
        with open(rig.home + b'/queue/mess/' + name, 'wb') as file:
            file.write(data)
    os.mkfifo(rig.home + b'/queue/mess/1799999999999998')
    with Served(rig):
        assert qread.main(rig.home, []) == 0
    asked = capfd.readouterr()
    os.unlink(rig.home + b'/run/control')
    assert qread.main(rig.home, []) == 0
    read = capfd.readouterr()
    assert read.out == asked.out and asked.err == '' and read.err.endswith(
        'warning: qpy-send is not running; this is what the files of the queue say\n')
    assert qread.main(rig.home, [b'--json', ident]) == 0
    fields = json.loads(output(capfd))
    assert fields['place'] == 'stopped' and fields['attempts'] == 1 and fields['due'] >= 1_800_000_400
    assert [each['reason'] for each in fields['recipients']] == ['not now', 'not now']
    with pytest.raises(program.Fatal, match='no such message'):
        qread.main(rig.home, [b'1700000000000000'])
    assert other.decode() in read.out


def test_qread_without_send_and_rights(rig, capfd, monkeypatch):
    """Whoever may not read the files is told that send is not running, with 111; mailq says the same with 75."""
    monkeypatch.setattr(qread.unix, 'signal', lambda *_: None)

    def closed(path):
        raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(qread.unix, 'listdir', closed)
    with pytest.raises(program.Fatal) as refused:
        qread.main(rig.home, [])
    assert (refused.value.code, refused.value.text) == (111, b'qpy-send is not running')
    assert sendmail.run(rig.home, [b'-bp'], b'mailq') == 75
    assert capfd.readouterr().err == 'mailq: the queue cannot be listed: qpy-send is not running\n'


def test_mailq_of_an_empty_queue(rig, capfd, monkeypatch):
    """It says so, as Postfix does."""
    monkeypatch.setattr(sendmail.unix, 'signal', lambda *_: None)
    with Served(rig):
        assert sendmail.run(rig.home, [b'-bp'], b'mailq') == 0
    assert output(capfd) == 'Mail queue is empty\n'


def test_mailq_counts(rig, capfd, monkeypatch):
    """mailq ends with the number of all messages, as Sendmail and as Postfix say it, whoever asks; what is listed is only
    what he submitted."""
    monkeypatch.setattr(sendmail.unix, 'signal', lambda *_: None)
    deferred(rig, b'a@x.example')
    deferred(rig, b'b@x.example')
    with Served(rig):
        assert sendmail.run(rig.home, [], b'mailq') == 0
        out = output(capfd)
        assert out.endswith('\tremote\tb@x.example\n                Total Requests: 2\n-- 1 Kbytes in 2 Requests.\n'), out
        monkeypatch.setattr(qread.sendctl, 'listed', lambda home: iter(()))
        assert sendmail.run(rig.home, [], b'mailq') == 0
        assert output(capfd) == '                Total Requests: 2\n-- at least 0 Kbytes in 2 Requests.\n'
    monkeypatch.undo()
    monkeypatch.setattr(sendmail.unix, 'signal', lambda *_: None)
    os.unlink(rig.home + b'/run/control')
    assert sendmail.run(rig.home, [], b'mailq') == 0
    assert capfd.readouterr().out == out


def test_qstat(rig, capfd):
    """qpy-qstat prints the two lines that monitoring reads, with send and without it."""
    deferred(rig, b'a@x.example')
    with Served(rig):
        assert qstat.main(rig.home, []) == 0
    assert output(capfd) == 'messages in queue: 1\nmessages in queue but not yet preprocessed: 0\n'
    os.unlink(rig.home + b'/run/control')
    assert qstat.main(rig.home, []) == 0
    assert output(capfd).startswith('messages in queue: 1\n')


def test_ctl(rig, capfd):
    """qpy-ctl lists, acts, and speaks JSON; what send refuses and what it does not know is 100, no send 111."""
    pytest.importorskip('click')
    from qpy.admin import ctl
    ident = deferred(rig, b'a@x.example')
    with Served(rig):
        assert ctl.main(rig.home, [b'--json', b'list']) == 0
        assert json.loads(output(capfd))['id'] == ident.decode()
        assert ctl.main(rig.home, [b'hold', ident, b'some', b'reason']) == 0
        assert rig.state(ident).held == b'some reason'
        assert ctl.main(rig.home, [b'list']) == 0
        assert '  held  attempts 1\n    held: some reason\n    pending remote a@x.example\n            not now\n' in output(capfd)
        assert ctl.main(rig.home, [b'drop', b'1700000000000000']) == 100
        assert ctl.main(rig.home, [b'nonsense']) == ctl.main(rig.home, [b'etrn', b'x.example']) == 100
        assert ctl.main(rig.home, [b'--json', b'stat']) == 0
        captured = capfd.readouterr()
        assert json.loads(captured.out)['held'] == 1
        assert 'no such message' in captured.err
        rig.ends[b'new'].send(rig.put(b'a@y.example', announce=False) + b'\0')      # the loop belongs to the other thread
        queued.wait_until(lambda: ctl.main(rig.home, [b'destinations']) == 0 and 'active 1 ' in output(capfd))
        for words in ([b'--json', b'destinations'], [b'destinations']):
            assert ctl.main(rig.home, words) == 0
        rows, line = output(capfd).rsplit('\n', 2)[:2]
        assert json.loads(rows.split('\n')[-1])['allowed'] == 20
        assert line == 'y.example  active 1 of 20, window 5, waiting 0, rate -'
    os.unlink(rig.home + b'/run/control')
    assert ctl.main(rig.home, [b'stat']) == 111
