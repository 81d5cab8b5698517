"""Interleavings: several messages, steps of the programs, deliveries, time, failing calls, kills and power cuts, also
during recovery, in any order hypothesis can think of; then everything must come true (INV1 to INV3, INV6).
"""
import errno
import os
import random

import pytest
from hypothesis import Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from qpy.lib import program
from qpy.qpyq import store as queue_store
from qpy.user import mailbox
from tests.power import explorer, whole

RECIPIENTS = [b'ann@here.example', b'bob@here.example', b'box@here.example', b'two@here.example', b'fwd@here.example',
              b'nobody@here.example', b'fine@x.example', b'later@z.example', b'late@z.example', b'never@y.example']
SENDERS = [b'joe@here.example', b'ann@here.example', b'never@sender.example']
ERRNOS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.EINTR, 'short']


OTHERS = 3              # other outcomes of a power cut that are tried beside the one it goes on with


class PowerCut(BaseException):
    """Now."""


class Killed(BaseException):
    """One program, and with it the chain."""


class Machine(RuleBasedStateMachine):
    """The programs between two disasters."""

    kind, own = 'bare', False

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.seam = whole.install(self.patch)
        self.seam.world = whole.World({b'later@z.example': b'ZZZZ', b'late@z.example': b'Z' * 100})
        self.seam.disk = whole.fresh_disk(self.kind, self.own)
        self.number, self.chance, self.disasters, self.left = 0, random.Random(0), 0, 0
        self.system, self.lost = None, False
        self.start()

    # --- what may happen in the middle of a step ---

    def start(self):
        """Start the programs; a call may fail, and then start tries again."""
        for _ in range(40):
            try:
                self.system = whole.System(self.seam)
                return
            except (OSError, program.Fatal):
                self.sweep()
                self.seam.world.mono += 5
                if self.seam.disk.lasting and _ > 2:
                    self.mend_now()
            except (PowerCut, Killed) as end:
                self.sweep()
                self.disaster(end)
        raise whole.Loss('they do not start')

    def sweep(self):
        """What a start that failed has left of its process."""
        self.seam.disk.files.clear()

    def disaster(self, end):
        """The power is cut, or the process killed."""
        self.disasters += 1
        self.seam.disk.on_call = None
        if isinstance(end, PowerCut):
            self.others()
            picture = self.seam.disk.cut(self.chance)
            explorer.STATES.add(picture.key)
            explorer.FIGURES['cuts in interleavings'] = explorer.FIGURES.get('cuts in interleavings', 0) + 1
            self.seam.disk = picture.disk()
            self.seam.world.mono = 100.0
            self.seam.world.wall += 30

    def others(self):
        """What else the cut might have left: recover from some of it, on the side."""
        explore = explorer.Explorer(self.seam)
        fault, self.seam.disk.fault = self.seam.disk.fault, None
        for _ in range(OTHERS):
            picture = self.seam.disk.cut(self.chance)
            explorer.STATES.add(picture.key)
            self.lost = True
            explore.recover(picture)
            self.lost = False
        self.seam.disk.fault = fault

    def act(self, what, *args):
        """Do something; if the programs do not survive it, the next ones start."""
        try:
            what(*args)
            self.system.hear()
        except (whole.Died, OSError, program.Fatal, PowerCut, Killed) as end:
            self.seam.disk.on_call = None
            self.system.hear()
            fault, self.seam.disk.fault = self.seam.disk.fault, None
            self.system.stop()
            self.seam.disk.fault = fault
            self.disaster(end)
            self.start()

    def arm(self, calls, end):
        """Raise end at a change of the disk, so many from now."""
        left = [calls]

        def count():
            left[0] -= 1
            if left[0] < 0:
                raise end
        self.seam.disk.on_call = count

    # --- rules ---

    @rule(recipients=st.lists(st.sampled_from(RECIPIENTS), min_size=1, max_size=4, unique=True),
          sender=st.sampled_from(SENDERS), count=st.integers(1, 3))
    def submit(self, recipients, sender, count):
        """Some messages at once."""
        messages = [whole.Message(self.number + i, sender, recipients) for i in range(count)]
        self.number += count
        self.act(self.system.submit, *messages)

    @rule(turns=st.integers(1, 12))
    def step(self, turns):
        """Some passes of the loop."""
        def some():
            for _ in range(turns):
                self.system.loop.turn()
            if self.system.dead or self.system.send.code:
                raise whole.Died()
        self.act(some)

    @rule()
    def settle(self):
        """Until nothing can be done at once."""
        self.act(self.system.pump)

    @precondition(lambda self: self.system.jobs)
    @rule(count=st.integers(1, 4))
    def deliver(self, count):
        """Some deliveries."""
        self.act(self.system.deliver, count)

    @rule(seconds=st.sampled_from([1, 130, 500, 2000, 20_000]))
    def tick(self, seconds):
        """Time passes."""
        self.system.wait(seconds)
        self.act(self.system.pump)

    @rule(seconds=st.sampled_from([-100_000, -3600, 3600, 2_592_000]))
    def jump(self, seconds):
        """Somebody sets the clock."""
        self.seam.world.wall += seconds
        self.act(self.system.pump)

    @rule(calls=st.integers(1, 60), problem=st.sampled_from(ERRNOS), lasting=st.booleans())
    def fail(self, calls, problem, lasting):
        """A call will fail, or all from that one on."""
        disk = self.seam.disk
        disk.fault, disk.lasting = (disk.calls + calls, problem), lasting and problem != 'short'
        self.disasters += 1

    @rule()
    def mend(self):
        """The disk is well again."""
        self.mend_now()

    def mend_now(self):
        """The same, at any time."""
        self.seam.disk.fault, self.seam.disk.lasting = None, False

    @rule(calls=st.integers(0, 25), seed=st.integers(0, 1 << 30), power=st.booleans())
    def cut(self, calls, seed, power):
        """The power is cut, or the programs are killed, so many changes of the disk from now."""
        self.chance = random.Random(seed)
        self.arm(calls, PowerCut() if power else Killed())

    @rule(seed=st.integers(0, 1 << 30))
    def cut_now(self, seed):
        """The power is cut between two calls."""
        self.chance = random.Random(seed)

        def now():
            raise PowerCut
        self.act(now)

    def teardown(self):
        """When all is well again the queue drains, and all that was promised has come true."""
        try:
            self.seam.disk.on_call = None
            self.mend_now()
            explorer.FIGURES['interleavings'] = explorer.FIGURES.get('interleavings', 0) + 1
            if not self.lost:
                self.finish()
        finally:
            if not self.lost:
                self.system.stop()
            self.patch.undo()

    def finish(self):
        """Let it drain.  What was refused and could not be removed either, the next start sees to."""
        self.seam.world.verdicts.clear()
        for again in range(3):
            try:
                self.system.run(200)
                break
            except (whole.Died, whole.Undrained):
                left = {path[5:] for path in self.seam.disk.tree(whole.HOME + b'/queue') if path[:5] == b'mess/'}
                if again == 2 or left & set(self.seam.world.acknowledged):
                    raise
                self.system.stop()
                self.start()
        whole.check(self.seam.disk, self.seam.world)
        if not self.disasters:
            self.once()

    def once(self):
        """Nothing happened: then nothing came twice."""
        tree = self.seam.disk.tree(b'/disk/home')
        for user in whole.USERS:
            found = [data for data in whole.files_of(tree, user)]
            assert len(found) == len(set(found)), 'twice'
        assert len(self.seam.world.abroad) == len(set(self.seam.world.abroad))


@pytest.mark.parametrize('kind, own', [('bare', False), ('bare', True), ('ordered', False), ('ordered', True)])
def test_interleavings(kind, own):
    """INV1 to INV3, INV6, Q-14, Q-31, Q-37: whatever happens in whatever order, nothing acknowledged is lost, nothing
    torn is delivered, and when the trouble is over the queue drains by itself."""
    machine = type('Machine_%s_%s' % (kind, own), (Machine,), {'kind': kind, 'own': own})
    long = os.environ.get('QPY_HYPOTHESIS') == 'long'
    run_state_machine_as_test(machine, settings=settings(max_examples=3000 if long else 60, stateful_step_count=40,
                                                         deadline=None, print_blob=False))


def test_what_a_cut_leaves_behind_a_message_in_an_mbox():
    """L-19: NULs where the next one was to be; the message before them is there, and the next one is written anew."""
    box, joe, ann = b'box@here.example', b'joe@here.example', b'ann@here.example'
    machine = type('Machine', (Machine,), {'kind': 'ordered', 'own': False})()
    machine.submit(count=2, recipients=[box], sender=joe)
    machine.settle()
    machine.deliver(count=1)
    machine.settle()
    machine.submit(count=1, recipients=[ann], sender=joe)
    machine.settle()
    machine.cut(calls=10, power=False, seed=0)
    machine.deliver(count=1)
    machine.cut_now(seed=2)
    left = machine.seam.disk.tree(b'/disk/home')[b'box/Mailbox']
    machine.teardown()
    assert left.rpartition(b'the end\n\n')[2].startswith(b'\0')


class Quiet(Machine):
    """The same where nothing goes wrong but the power: what a wrong order loses is found in a tenth of the time."""

    jump = fail = mend = tick = cut = None


def files_only(self, fds, fsync=queue_store.Store._fsync):
    """In place of Store._fsync: the directory, which is the last, is left out."""
    return fsync(self, fds[:-1]) + [None]


@pytest.mark.parametrize('wrong', [(queue_store.Store, '_fsync', files_only),
                                   (mailbox.Batch, 'sync_names', lambda self: None)], ids=['queue', 'Maildir'])
def test_control_a_missing_directory_sync(monkeypatch, wrong):
    """Without the sync of a directory the machine finds a loss."""
    monkeypatch.setattr(*wrong)
    with pytest.raises(BaseException) as found:
        run_state_machine_as_test(Quiet, settings=settings(max_examples=400, stateful_step_count=40, deadline=None,
                                                             print_blob=False, report_multiple_bugs=False, database=None,
                                                             phases=[Phase.generate]))
    assert 'neither delivered nor bounced' in str(found.value)
