"""qpy-send with each of its system calls failing once, and killed at each of them: nothing is lost."""
import errno
import os

import pytest

from qpy import unix
from qpy.core import state
from qpy.lib import reserve
from qpy.qpys import store
from tests.peers import queued
from tests.peers.send_rig import Rig

pytestmark = pytest.mark.slow

CALLS = ('open', 'pread', 'write', 'close', 'memfd', 'reopen', 'unlink', 'scandir', 'fstat', 'ftruncate', 'read',
         'copy_file_range', 'fchmod', 'read_all', 'stat')
RECIPIENTS = {b'K': b'fine@x.example', b'D': b'never@y.example', b'Z': b'later@z.example'}


class Killed(BaseException):
    """The process ends here."""


class Fault:
    """Fails the n-th call of those in CALLS, once; or only counts them."""

    def __init__(self, monkeypatch, number=None, problem=None):
        self.count, self.number, self.problem, self.on = 0, number, problem, False
        for name in CALLS:
            monkeypatch.setattr(unix, name, self.wrapped(getattr(unix, name)))

    def wrapped(self, real):
        def call(*args, **more):
            if self.on:
                self.count += 1
                if self.count == self.number:
                    raise self.problem() if self.problem is Killed else OSError(self.problem, 'injected')
            return real(*args, **more)
        return call


class Ledger:
    """What became of each recipient, kept outside of the system."""

    def __init__(self, rig, fault):
        self.rig, self.fault = rig, fault
        self.due, self.got, self.told, self.tries = {}, {}, {}, {}

    def guarded(self, act, *args):
        """Do it; if the process dies of it, or ends itself, start the next one."""
        self.fault.on = True
        try:
            act(*args)
            died = not self.rig.running()
        except (Killed, OSError):
            died = True
        self.fault.on = False
        if died:
            self.rig.crash()
            self.rig.start(self.rig.last + 1)

    def put(self, *recipients, body=b'Subject: x\n\nhello\n', announce=True):
        """A message that is announced, or that is found when send looks for what was there before."""
        ident = self.rig.put(*recipients, body=body, announce=False)
        self.due[ident] = list(recipients)
        self.rig.ends[b'new'].send(ident + b'\0' if announce else b'<%016d\0' % (self.rig.last + 1))
        self.guarded(self.rig.step, 6)

    def answer(self, job):
        """A report for one job: `later` is deferred once, `never` fails, the rest is delivered."""
        ident, recipients = (job[2], [job[4]]) if job[0] == b'lspawn' else \
            (job[1], [line.partition(b' ')[2] for line in job[6].split(b'\n')])
        letter = b'D' if b'never' in recipients[0] else b'K'
        if b'later' in recipients[0] and self.tries.setdefault(ident, 0) == 0:
            self.tries[ident], letter = 1, b'Z'
        for recipient in recipients:
            assert recipient in self.due[ident]
            if letter == b'K':
                self.got[ident, recipient] = self.got.get((ident, recipient), 0) + 1
        self.guarded(self.rig.report, job, letter)

    def told_of(self, job):
        for index in state.unpack_indices(job[1], len(self.due[job[0]])):
            key = (job[0], self.due[job[0]][index])
            self.told[key] = self.told.get(key, 0) + 1
        self.guarded(self.rig.bounced)

    def drain(self):
        """Answer until the queue is empty, letting time pass when there is nothing to answer."""
        for _ in range(80):
            if self.rig.jobs:
                self.answer(self.rig.jobs[0])
            elif self.rig.bounce_jobs:
                self.told_of(self.rig.bounce_jobs[0])
            elif not os.listdir(self.rig.home + b'/queue/mess'):
                return
            else:
                self.guarded(self.rig.wait, 131)
        raise AssertionError('it does not drain: %r' % self.rig.lines())

    def check(self, at_most):
        """Each recipient was delivered, or its failure reported, and no more often than `at_most`."""
        for ident, recipients in self.due.items():
            for recipient in recipients:
                key = (ident, recipient)
                assert (key in self.told) == (b'never' in recipient), key
                assert (key in self.got) != (b'never' in recipient), key
        assert all(count <= at_most for count in [*self.got.values(), *self.told.values()])


def scenario(monkeypatch, number=None, problem=None, at_most=2):
    """All that mail does, once; how many calls it took."""
    with queued.temporary_home() as home, monkeypatch.context() as patch:
        rig = Rig(home)
        rig.start()
        fault = Fault(patch, number, problem)
        ledger = Ledger(rig, fault)
        ledger.put(b'bob@here.example', b'later@z.example', announce=False)
        ledger.put(b'a@x.example', b'never@y.example', b'later@z.example', b'bob@here.example')
        ledger.put(b'bob@here.example', b'ann@here.example', body=b'x' * 1_500_000)
        ledger.drain()
        ledger.check(at_most)
        for _ in range(10):
            rig.wait(131)
        left = set(os.listdir(home + b'/queue/state')) - {b'lock'}
        if left:                # an orphan goes at the next start
            rig.crash()
            rig.start(rig.last + 1)
            rig.step(10)
            left = set(os.listdir(home + b'/queue/state')) - {b'lock'}
        assert not left
        rig.end()
        return fault.count


def test_without_faults(monkeypatch):
    """The scenario itself: everything exactly once."""
    assert scenario(monkeypatch, at_most=1) > 50


@pytest.mark.parametrize('problem', [Killed, pytest.param(errno.EIO, marks=pytest.mark.slow),
                                     pytest.param(errno.ENOSPC, marks=pytest.mark.slow),
                                     pytest.param(errno.EMFILE, marks=pytest.mark.slow)])
def test_every_call(monkeypatch, problem):
    """Q-11, Q-01..Q-10, INV1, INV3: whichever call fails or is the last, each recipient is delivered or told of, a
    second time at most, and the queue drains without help."""
    number = 1
    while scenario(monkeypatch, number, problem) >= number:
        number += 1


@pytest.mark.parametrize('free, copied', [(20, True), (19, False)])
def test_a_copy_leaves_room_for_the_states(tmp_path, monkeypatch, free, copied):
    """A block of the copy, a quarter of the reserve of twenty, and a block for each of fourteen messages: with one less nothing
    is copied."""
    for name in ('queue', 'queue/mess', 'queue/state'):
        (tmp_path / name).mkdir()
    (tmp_path / 'queue/mess/x').write_bytes(b'x' * reserve.BLOCK)
    there = store.Store(bytes(tmp_path))
    copy = store.Copy(there, b'x', reserve.BLOCK, 14)
    monkeypatch.setattr(unix, 'fstatvfs', lambda fd: os.statvfs_result((4096, 4096, 1000, free, free, 0, 0, 0, 0, 255)))
    try:
        if copied:
            assert copy.step() and os.pread(copy.fd, 9000, 0) == b'x' * reserve.BLOCK
        else:
            with pytest.raises(OSError) as full:
                copy.step()
            assert full.value.errno == errno.ENOSPC
            os.close(copy.source)
    finally:
        os.close(copy.fd)
