"""control/destinationlimits: its entries, and what a rate lets through."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import destinations


@pytest.mark.parametrize('value, limit', [
    (b'5', (5, 0, 0)), (b' 20\t600/h ', (20, 600, 3600)), (b'1 10/s', (1, 10, 1)), (b'1 10/m', (1, 10, 60)),
    (b'20000 5000/d', (20000, 5000, 86400))])
def test_entries(value, limit):
    """A number, and perhaps a rate."""
    assert destinations.parse(value) == destinations.Limit(*limit)


@pytest.mark.parametrize('value', [b'', b'0', b'20001', b'x', b'-1', b'5 10', b'5 10/w', b'5 0/h', b'5 /h', b'5 1/h 2', b'10/h'])
def test_entries_nobody_can_use(value):
    """They say what to write."""
    with pytest.raises(ValueError, match='10/s|at a time'):
        destinations.parse(value)


def test_which_entry():
    """The host, then what it is below, then the rest."""
    table = {b'x.example': 1, b'.example': 2, b'': 3}
    assert [destinations.find(host, table) for host in (b'X.example', b'y.example', b'example', b'other')] == [1, 2, 3, 3]
    assert destinations.find(b'x', {b'y': 1}) is None and destinations.find(b'x', {}) is None


@given(st.integers(1, 5000), st.sampled_from(sorted(destinations.PERIODS.values())), st.lists(st.integers(0, 4000), max_size=60))
def test_never_more_than_the_rate(count, seconds, steps):
    """Whoever takes all he may, whenever he looks: in any period no more than count and one second's worth; and after
    again() there is something."""
    pace, now, taken = destinations.Pace(destinations.Limit(1, count, seconds), 0), 0, []
    for step in steps:
        now += step
        many = pace.left(now)
        taken += [now] * many
        for _ in range(many):
            pace.take()
        assert not pace.left(now)
        copy = destinations.Pace(pace.limit, now)
        copy.credit = pace.credit
        assert copy.left(now + copy.again()) >= 1
    for first in set(taken):
        assert sum(first <= when < first + seconds for when in taken) <= count + max(1, count // seconds) + 1
