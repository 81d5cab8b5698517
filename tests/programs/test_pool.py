"""The pool of warm users: never too many, none for ever, and an outcome for every delivery, whatever the users do."""
import pytest

from qpy import unix
from qpy.core import channel
from qpy.lib import loop, packets
from qpy.qpyu import pool


class Stage:
    """A Pool in a loop; the test is the seed and the users' processes."""

    def __init__(self, limit=100):
        self.loop = loop.Loop()
        ours, his = unix.socketpair()
        self.pool = pool.Pool(self.loop, ours, lambda: limit, lambda reason: None)
        self.asked, self.workers, self.results, self.killed = [], {}, {}, []
        self.seed = packets.Channel(self.loop, his, channel.SEED_JOB, self.seed_asked, lambda reason: None)
        self.answer = b'G'

    def seed_asked(self, records):
        for letter, (uid, *_), fd in records:
            if letter == b'K':
                self.killed.append(uid)
                continue
            self.asked.append(int(uid))
            if self.answer == b'G':
                self.workers[int(uid)] = Process(self, fd)
                self.seed.send(b'G', uid, b'1')
            elif self.answer == b'X':
                unix.close(fd)
                self.seed.send(b'X', uid, b'no such user')

    def deliver(self, uid, name):
        fd = unix.memfd(b'x')
        fields = (b'u', b'/home', b'l', b'', b'', b'h', b's', b'd', b'')
        self.pool.deliver(pool.Delivery((uid, uid), fields, fd, lambda letter, text: self.done(name, letter, text)))

    def done(self, name, letter, text):
        assert name not in self.results
        self.results[name] = letter, text

    def until(self, fact, longest=5.0):
        end = unix.monotonic() + longest
        while not fact():
            assert unix.monotonic() < end
            self.loop.step(0.05)


def test_time_limit_of_a_worker():
    """A worker has the limit of the time it was started: an edit counts for those started later."""
    stage, limits = Stage(), [100, 5]
    stage.pool.limit = lambda: limits.pop(0)
    for uid, name in ((1, 'a'), (2, 'b'), (1, 'c')):
        stage.deliver(uid, name)
    now = unix.monotonic()
    assert [round((when - now - pool.GRACE) / 5) * 5 for when, _ in stage.pool.deadlines.values()] == [100, 5, 100]


class Process:
    """A user's process."""

    def __init__(self, stage, fd):
        self.jobs, self.closed = [], False
        self.channel = packets.Channel(stage.loop, unix.socket_of(fd), channel.WORKER_JOB, self.work, self.ended)

    def work(self, records):
        for _, fields, fd in records:
            unix.close(fd)
            self.jobs.append(fields[0])

    def ended(self, reason):
        self.closed = True

    def report(self, code=b'0', text=b'did it\n'):
        self.channel.send(b'R', self.jobs.pop(0), code, text)


@pytest.fixture
def stage():
    return Stage()


def test_one_process_for_each_user(stage):
    """Two deliveries of one user go to one process; another user has his own; outcomes find their deliveries."""
    for uid, name in ((1001, 'a'), (1001, 'b'), (1002, 'c')):
        stage.deliver(uid, name)
    stage.until(lambda: len(stage.workers) == 2 and len(stage.workers[1001].jobs) == 2 and stage.workers[1002].jobs)
    assert stage.asked == [1001, 1002]
    stage.workers[1002].report(b'111', b'later\n')
    stage.workers[1001].report()
    stage.workers[1001].report(b'-9')
    stage.until(lambda: len(stage.results) == 3)
    assert stage.results == {'a': (b'K', b'did it\n'), 'b': (b'Z', b'qmail-local crashed.\n'), 'c': (b'Z', b'later\n')}


def test_the_seed_refuses(stage):
    """P24: what the seed says no to is temporary, with its reason."""
    stage.answer = b'X'
    stage.deliver(1001, 'a')
    stage.until(lambda: stage.results)
    assert stage.results == {'a': (b'Z', b'no such user\n')} and not stage.pool.workers


def test_as_many_as_there_is_room_for():
    """An eighth of the memory, half of the processes, what descriptors are left: 50 users at least, 1,000 at most."""
    plenty = 1 << 40
    assert pool.most(plenty, plenty, plenty) == 1000
    assert pool.most(2 << 30, plenty, plenty) == 128
    assert pool.most(1 << 20, plenty, plenty) == pool.most(plenty, plenty, 1024) == 50
    assert pool.most(plenty, 400, plenty) == 200
    assert pool.most(plenty, plenty, 2000) == 500


def test_never_too_many(stage):
    """INV7: at the limit an idle user makes room, the one longest without mail; if all are busy the next one waits."""
    stage.pool.most = 2
    for uid in (1001, 1002):
        stage.deliver(uid, uid)
        stage.until(lambda uid=uid: uid in stage.workers and stage.workers[uid].jobs)
    stage.deliver(1003, 1003)
    stage.until(lambda: len(stage.pool.homeless) == 1)
    assert len(stage.pool.workers) == 2
    stage.workers[1002].report()
    stage.until(lambda: 1003 in stage.workers and stage.workers[1003].jobs)
    assert stage.workers[1002].closed and not stage.workers[1001].closed
    stage.workers[1001].report()
    stage.workers[1003].report()
    stage.until(lambda: len(stage.results) == 3)
    stage.deliver(1004, 1004)
    stage.until(lambda: stage.workers[1001].closed and 1004 in stage.workers)


def test_nobody_stays_for_ever(stage, monkeypatch):
    """A user without mail leaves after IDLE seconds."""
    monkeypatch.setattr(pool, 'IDLE', 0.05)
    stage.deliver(1001, 'a')
    stage.until(lambda: 1001 in stage.workers and stage.workers[1001].jobs)
    stage.workers[1001].report()
    stage.until(lambda: stage.workers[1001].closed)
    assert not stage.pool.workers and stage.results['a'][0] == b'K'


def test_a_stopped_user(monkeypatch):
    """P44, L-02: a process that does not answer in time is given up: its deliveries are temporary, it gets no more."""
    monkeypatch.setattr(pool, 'GRACE', 0.0)
    stage = Stage(limit=0.1)
    stage.deliver(1001, 'a')
    stage.deliver(1001, 'b')
    stage.until(lambda: len(stage.results) == 2)
    assert {result[0] for result in stage.results.values()} == {b'Z'}
    assert not stage.pool.workers and not stage.pool.deadlines
    stage.until(lambda: stage.killed)
    assert stage.killed == [b'1']               # with all that came from it, if the seed can
    first = stage.workers[1001]
    stage.deliver(1001, 'c')
    stage.until(lambda: stage.workers[1001] is not first)


def test_lies_of_a_process(stage):
    """P-01: reports for what it does not have are ignored; a malformed one ends the channel, and its jobs wait."""
    stage.deliver(1001, 'a')
    stage.until(lambda: 1001 in stage.workers and stage.workers[1001].jobs)
    worker = stage.workers[1001]
    worker.channel.send(b'R', b'999', b'0', b'x')
    worker.channel.send(b'R', b'', b'0', b'x')
    worker.report(b'nonsense', b'y' * 5000)
    stage.until(lambda: stage.results)
    assert stage.results['a'][0] == b'Z' and len(stage.results['a'][1]) <= 3000
    stage.deliver(1001, 'b')
    stage.until(lambda: worker.jobs)
    worker.channel.sock.send(b'garbage')
    stage.until(lambda: 'b' in stage.results)
    assert stage.results['b'] == (b'Z', b'qmail-local crashed.\n')


def test_descriptors_do_not_pile_up(stage):
    """P-09: as many descriptors after a hundred deliveries as after one."""
    import gc
    import os
    gc.collect()                # what other tests have left
    counts = []
    for name in range(100):
        stage.deliver(1001, name)
        stage.until(lambda: 1001 in stage.workers and stage.workers[1001].jobs)
        stage.workers[1001].report()
        stage.until(lambda name=name: name in stage.results)
        counts.append(len(os.listdir('/proc/self/fd')))
    assert counts[0] >= counts[-1]
