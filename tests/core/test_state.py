"""queue/state/ID (qpy.core.state)."""
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpy import unix
from qpy.core import state, submit

IDENT = b'1764036974123456'
index = st.integers(0, 4).map(lambda n: b'%d' % n)
words = st.binary(max_size=30)
facts = st.one_of(st.tuples(st.sampled_from([b'd', b'r']), index), st.tuples(st.sampled_from([b'f', b'z']), index, words),
                  st.tuples(st.just(b'a'), st.integers(0, 1 << 33).map(lambda n: b'%d' % n), index),
                  st.tuples(st.just(b'h'), words), st.tuples(st.just(b'o'), st.just(b'')), st.tuples(st.just(b'w'), words))


def write(history):
    """A state file's bytes."""
    return b''.join(state.entry(IDENT, *fact) for fact in history)


@given(st.lists(facts))
def test_entries_come_back(history):
    """What was appended is what is read, whole, in order, unknown letters too."""
    found, end, lost = state.entries(write(history), IDENT)
    assert end == len(write(history)) and not lost
    assert [letter for letter, _ in found] == [fact[0] for fact in history]
    assert [b'\0'.join(fields) for _, fields in found] == [b'\0'.join(fact[1:]) for fact in history]


@given(st.lists(facts, min_size=1), st.data())
def test_a_torn_tail_is_ignored_and_its_place_known(history, data):
    """Cut the file anywhere: the whole entries before the cut count, end is where the next one is to be written."""
    whole = write(history)
    cut = data.draw(st.integers(0, len(whole)))
    found, end, lost = state.entries(whole[:cut], IDENT)
    assert whole.startswith(write(history[:len(found)])) and end == len(write(history[:len(found)])) <= cut and not lost
    assert len(found) == len(history) or len(write(history[:len(found) + 1])) > cut


said = st.binary(max_size=30).map(lambda text: text.replace(b'\0', b''))
spoken = st.one_of(st.tuples(st.sampled_from([b'd', b'r']), index), st.tuples(st.sampled_from([b'f', b'z']), index, said))


@given(st.lists(spoken, min_size=1, max_size=8), st.data())
def test_damage_takes_what_stood_there_and_no_more(history, data):
    """Q-19: whatever becomes of some bytes, every entry outside of them is read, none is invented, and the figures say where
    the last one ends and how much before it is lost."""
    whole = write(history)
    first = data.draw(st.integers(0, len(whole) - 1))
    last = data.draw(st.integers(first + 1, len(whole)))
    noise = data.draw(st.sampled_from([b'\0', b'\xff', b'x'])) * (last - first)
    broken = whole[:first] + noise + whole[last:]
    ends = [len(write(history[:n + 1])) for n in range(len(history))]
    left = [n for n, end in enumerate(ends) if broken[end - len(write(history[n:n + 1])):end] == write(history[n:n + 1])]
    found, end, lost = state.entries(broken, IDENT)
    assert [(letter, *fields) for letter, fields in found] == [history[n] for n in left]
    assert end == (ends[left[-1]] if left else 0) and lost == end - len(write([history[n] for n in left]))
    view = state.replay(broken, IDENT, 5)
    assert (view.end, view.lost, view.tail) == (end, lost, len(broken) - end)


@pytest.mark.parametrize('size', [1, 3, 4095, 4096, 4097, 8189, 8192, 12_288, 100_000])
@pytest.mark.parametrize('around', [b'', b'\xff'])
def test_a_hole(size, around):
    """Zeros in place of some pages: what stands behind them is found, and quickly."""
    hole = around + bytes(size) + around
    data = write([(b'd', b'0')]) + hole + write([(b'h', b'not now'), (b'd', b'2')])
    assert state.entries(data, IDENT) == ([(b'd', [b'0']), (b'h', [b'not now']), (b'd', [b'2'])], len(data), len(hole))


def test_a_text_cannot_pass_for_an_entry():
    """INV7: what another host said is never read as an entry, though what it stands in is damaged."""
    forged = write([(b'o',)]).lstrip(b'\0')
    data = write([(b'h', b'not now'), (b'z', b'0', forged + b'\xff' + forged), (b'd', b'1')])
    for at in range(len(write([(b'h', b'not now')])), len(data)):
        for byte in (data[at] ^ 1, 0, 255):
            assert state.replay(data[:at] + bytes([byte]) + data[at + 1:], IDENT, 2).held == b'not now'


def test_a_text_cannot_release_with_the_length_before_it():
    """INV7: nor with the last byte of the checksum in front of it, and its own length for a letter."""
    hold = write([(b'h', b'not now')])
    before = next(entry for n in range(9999) if (entry := write([(b'z', b'0', b'%d' % n)])).endswith(b'\0'))
    inside = b'o' + b'z1\0' + b'x' * 28
    words = (inside[4:] + zlib.crc32(inside + IDENT).to_bytes(4, 'big')).ljust(0x206f - 3, b'x')
    last = write([(b'z', b'1', words)])
    assert last[:4] == b'\0\0\x20o' and b'\0' not in words
    broken = hold + b'\xff' + before[1:] + last
    assert (b'o', [b'z1\0' + b'x' * 28]) in state.entries(broken, IDENT)[0]
    assert state.replay(broken, IDENT, 2).held == b'not now'


@given(st.lists(facts, max_size=8), st.data())
def test_entries_are_true_whatever_became_of_the_others(history, data):
    """Q-19: a recipient counts as done by no set of entries, in their order, by which he does not by all of them."""
    some = [fact for fact in history if data.draw(st.booleans())]
    every, few = (state.replay(write(facts), IDENT, 5) for facts in (history, some))
    done = (state.DELIVERED, state.REPORTED, state.SUCCEEDED)
    assert all(there in done for there, here in zip(every.status, few.status, strict=True) if here in done)


@given(st.binary(max_size=100))
def test_any_bytes_can_be_replayed(data):
    """Q-19: garbage is an empty history; nobody counts as done because of it."""
    view = state.replay(data, IDENT, 3)
    if view.end == 0:
        assert view.indices(state.PENDING) == [0, 1, 2] and not view.finished()


def test_another_messages_entries_do_not_count():
    """Stale blocks of an older file are no history of this one."""
    assert state.entries(state.entry(b'1764036974123457', b'd', b'0'), IDENT) == ([], 0, 0)


@pytest.mark.parametrize('history, status, finished', [
    ([], 'PP', False),
    ([(b'd', b'0')], 'DP', False),
    ([(b'd', b'0'), (b'd', b'1')], 'DD', True),
    ([(b'd', b'0'), (b'f', b'1', b'no')], 'DF', False),
    ([(b'd', b'0'), (b'f', b'1', b'no'), (b'r', b'1')], 'DR', True),
    ([(b'r', b'0'), (b'r', b'1')], 'RR', True),
    ([(b'd', b'0'), (b'f', b'0', b'no'), (b'z', b'0', b'later')], 'DP', False),
    ([(b'd', b'0', b'relayed ok'), (b'd', b'1')], 'SD', False),
    ([(b'd', b'0', b'relayed ok'), (b'z', b'0', b'x'), (b'f', b'0', b'x'), (b'd', b'1')], 'SD', False),
    ([(b'd', b'0', b'relayed ok'), (b'r', b'0'), (b'd', b'1')], 'DD', True),
    ([(b'd', b'2'), (b'd', b'99999999999'), (b'd', b'x'), (b'd', b''), (b'd', b'-1'), (b'q', b'0')], 'PP', False),
])
def test_what_entries_add_up_to(history, status, finished):
    """Finished means: every recipient delivered or failed, and reported where that is wanted.  Nonsense leaves people waiting, never out."""
    view = state.replay(write(history), IDENT, 2)
    assert ''.join('PDFRS'[s] for s in view.status) == status and view.finished() is finished


def test_passes_texts_and_holds():
    """Due time, attempts, the last deferral and a hold are there after a restart."""
    view = state.replay(write([(b'z', b'0', b'busy\0x'), (b'f', b'1', b'no such user'), (b'a', b'1764037974', b'2'), (b'h', b'by root')]), IDENT, 2)
    assert view.texts == {0: b'busy\0x', 1: b'no such user'} and (view.due, view.attempts, view.held) == (1764037974, 2, b'by root')
    assert view.warned == 0
    view.apply(b'w', [b'1764037975'])
    view.apply(b'w', [b'x'])
    assert view.warned == 1764037975
    view.apply(b'o', [b''])
    view.apply(b'd', [b'0'])
    assert view.held is None and view.texts == {1: b'no such user'}


def test_a_message_without_recipients_is_finished():
    """Zero recipients: nothing is left to be done."""
    assert state.replay(b'', IDENT, 0).finished()


def test_long_texts_are_cut_and_indices_cannot_be_forged():
    """INV7, P-02."""
    found, _, _ = state.entries(state.entry(IDENT, b'f', b'0', b'x' * 99999), IDENT)
    assert len(found[0][1][1]) < 10_000
    with pytest.raises(ValueError):
        state.entry(IDENT, b'f', b'0\0001', b'x')


ENTRIES = st.one_of(
    st.tuples(st.sampled_from([b'd', b'r']), st.sampled_from([b'0', b'1', b'2'])),
    st.tuples(st.sampled_from([b'd', b'f', b'z']), st.sampled_from([b'0', b'1', b'2']), st.binary(max_size=9)),
    st.tuples(st.just(b'a'), st.integers(0, 9).map(b'%d'.__mod__), st.integers(0, 9).map(b'%d'.__mod__)),
    st.tuples(st.sampled_from([b'w', b'b']), st.integers(0, 9).map(b'%d'.__mod__)),
    st.tuples(st.sampled_from([b'h', b'o']), st.binary(max_size=9)),
    st.tuples(st.sampled_from([b'D', b'y']), st.sampled_from([b'', b'0']), st.binary(max_size=9)))      # of a later version


@given(st.lists(ENTRIES))
def test_a_shorter_state_says_the_same(history):
    """entries() of a View, replayed, is that View but for texts nobody reads any more; and it is no longer."""
    long = write(history)
    view = state.replay(long, IDENT, 3)
    short = write(view.entries())
    again = state.replay(short, IDENT, 3)
    assert all(getattr(view, name) == getattr(again, name)
               for name in ('status', 'due', 'attempts', 'held', 'warned', 'born', 'others'))
    assert view.others == [entry for entry in history if entry[0] in (b'D', b'y')]
    assert {n: words for n, words in view.texts.items() if view.status[n] not in (state.REPORTED, state.DELIVERED)} == again.texts
    assert len(short) <= len(long) + 20


@given(st.sets(st.integers(0, 2000)))
def test_sets_of_recipients(indices):
    """What is packed comes out, in order; numbers beyond the message's recipients do not."""
    word = state.pack_indices(list(indices))
    assert state.unpack_indices(word, 2001) == sorted(indices)
    if indices:
        with pytest.raises(ValueError):
            state.unpack_indices(word, max(indices))


def test_everybody_fits_into_a_packet():
    """However many recipients a message may have, and whichever they are."""
    for some in (range(submit.RECIPIENT_LIMIT), range(1, submit.RECIPIENT_LIMIT, 2)):
        word = state.pack_indices(some)
        assert len(word) < unix.PACKET_LIMIT // 4 and state.unpack_indices(word, submit.RECIPIENT_LIMIT) == list(some)


@pytest.mark.parametrize('word', [b'', b'g', b'-1', b'0x1', b' 1', b'F', b'1' * 100])
def test_what_is_no_set(word):
    """P-01: whoever sends it has lost his mind."""
    with pytest.raises(ValueError):
        state.unpack_indices(word, 8)
