"""MT-PRIORITY: numbers, and whose turn it is."""
from hypothesis import given, strategies as st

from qpy.core import mess, priority


def test_all_of_them():
    """RFC 6710: nineteen, each in one way."""
    assert [priority.parse(b'%d' % n) for n in range(-9, 10)] == list(range(-9, 10))


@given(st.binary(max_size=4))
def test_nothing_else(value):
    """What is no number of these is none."""
    found = priority.parse(value)
    assert found is None or value == b'%d' % found


def test_an_envelope():
    """Its record M; one that holds nonsense is as urgent as everybody's."""
    for options, wanted in (([], 0), ([(b'M', b'-3')], -3), ([(b'M', b'x')], 0)):
        assert priority.of(mess.Envelope(b's@x', [b'r@x'], options)) == wanted


@given(st.lists(st.one_of(st.none(), st.integers(-9, 9)), max_size=60))
def test_turns(steps):
    """Against a sorted list: the highest first, then who came first; None: one is served."""
    turns, model = priority.Turns(), []
    for number, step in enumerate(steps):
        if step is None and model:
            assert turns.popleft() == model.pop(0)[1]
        elif step is not None:
            turns.append(number, step)
            model.append((-step, number))
            model.sort()
        assert len(turns) == len(model) and bool(turns) == bool(model)
