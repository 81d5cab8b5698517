"""Power cuts and failing calls against queued's own commit code (qpy.qpyq.store), on a disk that forgets.

The promise: what was acknowledged is in the queue and whole, whatever the power cut leaves; and what is torn is
never taken for whole.
"""
import errno

import pytest

from qpy import unix, unix_kernel
from qpy.core import ids, mess
from qpy.qpyq import store
from tests.power import disk as model

ENVELOPE = b'Fa@b\0Tc@d\0'
MODES = [(kind, own) for kind in ('bare', 'ordered') for own in (False, True)]
FAULTS = [errno.ENOSPC, errno.EIO, errno.EINTR, 'short']


class Loss(AssertionError):
    """A promise was broken."""


class Run:
    """Groups of messages through a Store on a disk; after every call, every power cut is tried."""

    def __init__(self, monkeypatch, kind, own, fault=None, every_call=True):
        self.disk = model.Disk(kind)
        model.attach(monkeypatch, self.disk, unix, unix_kernel)
        monkeypatch.setattr(store, 'PUSH', 10)
        self.store = store.Store(model.DIRECTORY, own)
        self.sent, self.acknowledged, self.refused = {}, {}, set()
        self.disk.fault = fault
        if every_call:
            self.disk.on_call = self.check

    def entry(self, number, long):
        """A message that differs from all others; a long one has streamed into a part already.  None if it failed."""
        body = b'message %d\n' % number * 3
        if not long:
            return body, store.Entry([body[:5], body[5:]], None, ENVELOPE)
        part = None
        try:
            part = self.store.new_part()
            for at in range(0, len(body), 8):
                part.write(body[at:at + 8])
        except OSError:
            if part:
                part.drop()
            return body, None
        return body, store.Entry([], part, ENVELOPE)

    def commit(self, numbers, long=()):
        """One group; afterwards its messages are acknowledged or refused."""
        group = []
        for number in numbers:
            body, entry = self.entry(number, number in long)
            if entry:
                group.append((body, entry))
        entries = [entry for _, entry in group]
        self.store.name(entries)
        for body, entry in group:
            self.sent[entry.ident] = body
        self.store.commit(entries)
        for body, entry in group:
            if entry.failure is None:
                self.acknowledged[entry.ident] = body
            else:
                self.refused.add(entry.ident)
        self.check()

    def check(self):
        """Try every power cut that could happen now."""
        for left in self.disk.crashes(mess.is_id):
            for ident, body in self.acknowledged.items():
                if ident not in left:
                    raise Loss('%r was acknowledged and has no name' % ident)
                if self.read(left[ident], ident) != body:
                    raise Loss('%r was acknowledged and is torn' % ident)
            for name, content in left.items():
                if mess.is_id(name) and self.read(content, name) not in (None, self.sent[name]):
                    raise Loss('%r is torn and was taken for whole' % name)
                assert mess.is_id(name) or name.endswith(b'.part')

    @staticmethod
    def read(content, ident):
        """The message, or None if the file is not whole."""
        try:
            message, envelope = mess.unpack(content, ident)
        except mess.Damaged:
            return None
        assert envelope.build() == ENVELOPE
        return message


SCENES = {
    'one': [([1], ())],
    'one long': [([1], (1,))],
    'two groups': [([1, 2], ()), ([3], ())],
    'mixed': [([1, 2], (2,)), ([3, 4], (3,))],
}


def play(run, scene):
    """All groups of a scene."""
    for numbers, long in SCENES[scene]:
        run.commit(numbers, long)


@pytest.mark.parametrize('scene', SCENES)
@pytest.mark.parametrize('kind, own', MODES)
def test_no_power_cut_loses_what_was_acknowledged(monkeypatch, kind, own, scene):
    """Q-12, Q-13: after every single call, every outcome of a power cut: acknowledged is present and whole, torn is seen."""
    run = Run(monkeypatch, kind, own)
    play(run, scene)
    assert len(run.acknowledged) == sum(len(numbers) for numbers, _ in SCENES[scene]) and not run.disk.files


@pytest.mark.parametrize('scene', SCENES)
@pytest.mark.parametrize('kind, own', MODES)
def test_no_failing_call_loses_what_was_acknowledged(monkeypatch, kind, own, scene):
    """Q-01, Q-04 to Q-07: call n fails, for every n, with each errno and with a short write: refused messages are gone,
    acknowledged ones survive every power cut, no descriptor leaks, and later groups are served."""
    count = Run(monkeypatch, kind, own, every_call=False)
    count.disk.record = record = []
    play(count, scene)
    for number, call in enumerate(record, 1):
        for fault in FAULTS:
            run = Run(monkeypatch, kind, own, (number, fault), every_call=scene != 'mixed')
            play(run, scene)
            run.commit([90], ())
            assert not run.disk.files, 'descriptor left open'
            assert 90 in [int(body.split()[1]) for body in run.acknowledged.values()]
            if fault == 'short':
                assert not run.refused
            left = {name for name in run.disk.names if mess.is_id(name)}
            assert left - set(run.acknowledged) <= run.refused and set(run.acknowledged) <= left
            assert set(run.disk.names) == set(run.acknowledged) or call == 'unlink', 'a client that comes back makes it two'


@pytest.mark.parametrize('kind, own', MODES)
def test_a_disk_that_stays_broken_is_survived(monkeypatch, kind, own):
    """Q-02, Q-10: from call n on everything fails, also the cleaning up: nothing is raised, nothing falsely acknowledged,
    and what was acknowledged before stays."""
    count = Run(monkeypatch, kind, own, every_call=False)
    play(count, 'mixed')
    for number in range(1, count.disk.calls + 1):
        for fault in (errno.EROFS, errno.ENOSPC, errno.EIO):
            run = Run(monkeypatch, kind, own, (number, fault), every_call=False)
            run.disk.lasting = True
            play(run, 'mixed')
            run.disk.fault = None
            run.commit([90], ())
            assert b'message 90\n' * 3 in run.acknowledged.values() and not run.disk.files


def test_a_failed_fsync_is_final(monkeypatch):
    """Q-05: the message whose fsync failed is refused and unlinked; it is not asked again."""
    run = Run(monkeypatch, 'bare', False)
    run.disk.fault = (5, errno.EIO)                     # open, write, twice posix_fadvise, fsync
    run.commit([1])
    assert run.refused and not run.acknowledged and not run.disk.names


def test_an_existing_file_is_never_replaced_or_removed(monkeypatch):
    """Whatever stands in the queue under a name that is given again stays as it is."""
    for long in ((), (2,)):
        run = Run(monkeypatch, 'bare', False)
        run.commit([1])
        [ident] = run.acknowledged
        body, entry = run.entry(2, 2 in long)
        entry.ident = ident
        run.store.commit([entry])
        assert entry.failure is not None
        run.check()


def test_ids_rise_when_the_clock_is_set_back_a_little(monkeypatch):
    """R10: strictly above every ID given or found, also when the clock is set back by hours."""
    place = store.Store(-1, False, ids.Ids([1_764_036_974_000_000], 1_764_036_974_000_000))
    given = []
    for now in (1764036974.5, 1764036974.5, 1764000000.0, 1764036999.0, 1764036998.0):
        monkeypatch.setattr(unix, 'time', lambda now=now: now)
        group = [store.Entry([], None, b''), store.Entry([], None, b'')]
        place.name(group)
        given += [entry.ident for entry in group]
    assert given == sorted(set(given)) and given[0] > b'1764036974000000'


# --- standing controls: the rig must see what it is there to see ---

fsync = store.Store._fsync


def broken(monkeypatch, replacement):
    """Play 'one' with another Store._fsync; the rig must report a loss."""
    monkeypatch.setattr(store.Store, '_fsync', replacement)
    run = Run(monkeypatch, 'bare', False)
    with pytest.raises(Loss):
        play(run, 'one')


def test_control_without_the_directorys_sync_mail_is_lost(monkeypatch):
    """The rig reports a loss if the directory is not synced before the answer."""
    broken(monkeypatch, lambda place, fds: fsync(place, fds[:-1]) + [None])


def test_control_without_the_files_sync_mail_is_lost(monkeypatch):
    """The rig reports a loss if the file is not synced before the answer."""
    broken(monkeypatch, lambda place, fds: [None] * (len(fds) - 1) + fsync(place, fds[-1:]))


def test_control_asking_fsync_again_loses_mail(monkeypatch):
    """The rig reports a loss if a failed fsync is tried again and believed."""
    def stubborn(place, fds):
        return [problem and fsync(place, [fd])[0] for fd, problem in zip(fds, fsync(place, fds))]
    monkeypatch.setattr(store.Store, '_fsync', stubborn)
    run = Run(monkeypatch, 'bare', False, (3, errno.EIO))
    with pytest.raises(Loss):
        play(run, 'one')


def test_control_a_footer_without_checksum_would_pass_torn_files(monkeypatch):
    """The rig reports a torn file that passes for whole."""
    monkeypatch.setattr(mess, 'check', lambda pieces, crc: None)
    run = Run(monkeypatch, 'bare', False)
    with pytest.raises(Loss):
        play(run, 'one')
