"""Power cuts on what is put away or must not be forgotten: files set aside, holds, states written anew (Q-03, Q-05, Q-18)."""
import errno

import pytest

from qpy.admin import fsck
from qpy.core import mess, state
from qpy.lib import aside
from qpy.qpyq import clean
from qpy.qpys import store
from tests.power import whole
from tests.power.disk import Disk

IDENT = b'1764036974123456'
TORN = b'the half of a message\n'
QUEUE = whole.HOME + b'/queue/'
WHOLE = mess.pack(b'Subject: x\n\nhello\n', mess.Envelope(b'a@b', [b'c@d', b'e@f', b'g@h']).build(), IDENT)


@pytest.fixture
def disk(monkeypatch):
    """A modelled disk of bare POSIX with an empty queue, on which the programs work."""
    seam = whole.install(monkeypatch)
    with seam.on(whole.fresh_disk('bare', False), whole.World()):
        yield seam.disk


def left_by_cuts(disk):
    """Each {path: content} of the queue that a power cut now may leave."""
    return [picture.disk().tree(QUEUE.rstrip(b'/')) for picture in disk.cuts()]


def by_clean(ident):
    """As send has it done."""
    assert clean.Clean(whole.HOME).obey(b's' + ident) == clean.DONE


def by_fsck(ident):
    """As the administrator does it."""
    fsck.main(whole.HOME, [b'--set-aside'])


@pytest.mark.parametrize('set_aside', [by_clean, by_fsck])
def test_what_is_set_aside_is_somewhere(disk, monkeypatch, set_aside):
    """Once it is said to be set aside, every power cut leaves the file in one of the two places, and as it was."""
    monkeypatch.setattr(fsck, 'say', lambda line: None)
    disk.build(QUEUE + b'mess/' + IDENT, TORN)
    set_aside(IDENT)
    assert disk.tree(QUEUE + b'damaged') == {IDENT: TORN}
    assert all(TORN in tree.values() for tree in left_by_cuts(disk))


def test_what_fsck_says_to_be_set_aside_is(disk, monkeypatch):
    """No power cut brings it back to the queue."""
    monkeypatch.setattr(fsck, 'say', lambda line: None)
    disk.build(QUEUE + b'mess/' + IDENT, TORN)
    by_fsck(IDENT)
    assert all(list(tree) == [b'damaged/' + IDENT] for tree in left_by_cuts(disk))


HELD = state.entry(IDENT, b'd', b'0') + state.entry(IDENT, b'h', b'not now')


def test_a_state_is_kept_before_its_message_goes(disk):
    """Q-18: once it has its second name, every power cut leaves that."""
    store.Store(whole.HOME).append(IDENT, [(b'd', b'0'), (b'h', b'not now')], sync=True)
    kept = aside.keep_state(store.Store(whole.HOME).state, IDENT)
    assert kept == IDENT + b'.aside'
    assert all(tree[b'state/' + kept] == HELD for tree in left_by_cuts(disk))


def test_fsck_keeps_the_state_before_its_message_goes(disk, monkeypatch):
    """Whatever the moment of a power cut, the state has the name that fits the place of its message: by the other one it
    would be removed as an orphan."""
    monkeypatch.setattr(fsck, 'say', lambda line: None)
    disk.build(QUEUE + b'mess/' + IDENT, TORN)
    store.Store(whole.HOME).append(IDENT, [(b'd', b'0'), (b'h', b'not now')], sync=True)
    trees = []

    def then_look(name):
        real = getattr(Disk, name)

        def call(self, *args, **more):
            done = real(self, *args, **more)
            trees.extend(left_by_cuts(self))
            return done
        monkeypatch.setattr(Disk, name, call)
    for name in ('link', 'rename', 'unlink', 'fsync'):
        then_look(name)
    by_fsck(IDENT)
    assert {b'mess/' + IDENT in tree for tree in trees} == {True, False}
    for tree in trees:
        assert tree[b'state/' + IDENT + (b'' if b'mess/' + IDENT in tree else b'.aside')] == HELD


@pytest.mark.parametrize('data', [WHOLE, TORN], ids=['whole', 'torn'])
def test_what_cannot_be_read_is_not_set_aside(disk, data):
    """Q-03: EIO says nothing of a message: clean answers "not now", and it stays in the queue; the next time it is read."""
    disk.build(QUEUE + b'mess/' + IDENT, data)
    disk.build(QUEUE + b'mess/1764036974123457', data)
    one = clean.Clean(whole.HOME)
    disk.record = record = []
    one.obey(b's1764036974123457')
    reads = [n for n, call in enumerate(record, 1) if call in ('open', 'fstat', 'pread')]
    assert len(reads) >= 3
    start = disk.calls
    for n in reads:
        disk.fault = (start + n, errno.EIO)
        assert one.obey(b's' + IDENT) == clean.LATER and IDENT in disk.tree(QUEUE + b'mess')
        start = disk.calls
    assert one.obey(b's' + IDENT) == (clean.REFUSED if data == WHOLE else clean.DONE)


def test_a_hold_is_kept(disk):
    """An administrator's hold, and his release, are on disk when they are confirmed: no power cut takes them or what a
    state had said before."""
    place = store.Store(whole.HOME)
    for entry, held in (((b'h', b'for now'), b'for now'), ((b'o',), None), ((b'h', b'again'), b'again')):
        place.append(IDENT, [entry], sync=True)
        for tree in left_by_cuts(disk):
            assert state.replay(tree[b'state/' + IDENT], IDENT, 3).held == held


def test_a_state_written_anew_is_there_first(disk, monkeypatch):
    """The shorter one takes the place of what was on disk: every power cut leaves the one or the other, whole."""
    monkeypatch.setattr(store, 'WORDY', 0)
    place = store.Store(whole.HOME)
    place.append(IDENT, [(b'd', b'0')] + [(b'z', b'1', b'not now')] * 20 + [(b'h', b'for now')], sync=True)
    before = len(disk.tree(QUEUE + b'state')[IDENT])
    place.view(IDENT, 3)
    assert len(disk.tree(QUEUE + b'state')[IDENT]) < before / 2
    for tree in left_by_cuts(disk):
        view = state.replay(tree[b'state/' + IDENT], IDENT, 3)
        assert view.held == b'for now' and view.indices(state.DELIVERED) == [0]
