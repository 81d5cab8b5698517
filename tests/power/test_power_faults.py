"""One call fails, everything goes on until the queue is empty, and then the power is cut: INV1, Q-05, Q-12, L-20.

What a failure has left half made must not carry mail: who tries again finds it there, and may take it for durable.
"""
import errno
import random

import pytest

from qpy import unix
from qpy.user import mailbox
from tests.faults.test_faults_whole import way
from tests.power import explorer, whole
from tests.power.test_power_machine import Killed

SMALL = ('Maildir', 'first Maildir', 'mbox', 'Maildir and mbox', 'forward', 'deferred', 'partly', 'bounced', 'success to be told')
OPENS = ('open', 'create')
MOST = 16                   # of the cuts at one moment; with the one that takes all that was not synced


def check_every_cut(disk, world):
    """Whatever the power cut leaves, the ledger balances: all promises are kept by now."""
    chance = random.Random(0)

    def pick(choices):
        return choices if len(choices) <= MOST else [choices[0], *chance.sample(choices[1:], MOST - 1)]
    disk.on_call = None
    for picture in disk.cuts(pick=pick):
        explorer.STATES.add(picture.key)
        whole.check(picture.disk(), world)


def sweep(monkeypatch, scene, problems):
    """Each call of a scene with each of problems(its name), one at a time, and every cut after each."""
    seam, record = whole.install(monkeypatch), []
    way(seam, scene, False, False, record=record, check=check_every_cut)
    for number, call in enumerate(record, 1):
        for problem in problems(call):
            explorer.FIGURES['faults'] += 1
            try:
                way(seam, scene, False, False, (number, problem), check=check_every_cut)
            except BaseException as wrong:
                wrong.add_note('call %d (%s) with %r' % (number, call, problem))
                raise


def failures(call):
    """What a call may say."""
    return [errno.EIO, errno.EMFILE] if call in OPENS else [errno.EIO]


@pytest.mark.parametrize('problems', [failures, lambda call: [Killed()]], ids=['failure', 'kill'])
@pytest.mark.parametrize('scene', SMALL)
def test_one_fault_and_then_a_power_cut(monkeypatch, scene, problems):
    """Call n fails (or is the last one of the programs), for every n; what was acknowledged survives the cut after that."""
    sweep(monkeypatch, scene, problems)


def make_all_at_once(path, dir_fd):
    """A Maildir as it was made once: what was made is synced afterwards, by whoever has made it."""
    path = path.rstrip(b'/')
    for part in (b'', b'/tmp', b'/new', b'/cur'):
        mailbox.make_directory(path + part, dir_fd)
    mailbox.sync_name(dir_fd, path)
    unix.sync_directory(path, dir_fd)


@pytest.mark.parametrize('problems', [failures, lambda call: [Killed()]], ids=['failure', 'kill'])
def test_control_a_maildir_that_is_complete_before_it_is_durable(monkeypatch, problems):
    """Whoever finds such a one delivers into it, and the next cut takes the whole Maildir: the rig reports the loss."""
    monkeypatch.setattr(mailbox, 'make', make_all_at_once)
    with pytest.raises(whole.Loss, match='neither delivered nor bounced'):
        sweep(monkeypatch, 'first Maildir', problems)
