"""core.refusals: what is logged of clients that are turned away."""
from hypothesis import given, strategies as st

from qpy.core import refusals

FIRST = b'refused connection ip 192.0.2.1: 421 x'


def test_one_line_then_a_count():
    """The first is told at once, what follows within the window in one line at its end, and a new window begins."""
    seen = refusals.Refusals()
    assert seen.line(b'192.0.2.1', b'421 x', 100.0) == FIRST
    assert [seen.line(b'192.0.2.1', b'421 x', 100.0 + n) for n in range(1, 6)] == [b''] * 5
    assert seen.line(b'192.0.2.2', b'554 y', 105.0) == b'refused connection ip 192.0.2.2: 554 y'
    assert seen.counted(109.9) == [] and seen.counted(110.0) == [FIRST + b' (5 more)']
    assert seen.counted(200.0) == [] and not seen.open
    assert seen.line(b'192.0.2.1', b'421 x', 201.0) == FIRST


def test_a_late_look_loses_no_count():
    """If nobody has looked since the window ended, the next line carries the count."""
    seen = refusals.Refusals()
    assert [seen.line(b'192.0.2.1', b'421 x', when) for when in (0.0, 1.0, 2.0, 30.0)] == [FIRST, b'', b'',
                                                                                         FIRST + b' (2 more)']


def test_many_addresses():
    """Memory and lines are bounded whoever comes: beyond MOST addresses the rest count as one."""
    seen = refusals.Refusals()
    lines = [seen.line(b'%d' % n, b'421 x', 0.0) for n in range(5000)]
    assert sum(map(bool, lines)) == refusals.MOST + 1 == len(seen.open)
    assert seen.counted(60.0) == [b'refused connection ip others: 421 x (%d more)' % (5000 - refusals.MOST - 1)]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 8))))
def test_nothing_is_forgotten(steps):
    """Lines and the counts in them add up to the refusals."""
    seen, now, alone, counted = refusals.Refusals(), 0.0, [], []
    for who, later in steps:
        now += later
        if who == 3:
            counted += seen.counted(now)
        else:
            alone.append(seen.line(b'%d' % who, b'421 x', now))
    counted += seen.counted(now + 100)
    more = sum(int(line.rpartition(b'(')[2].split()[0]) for line in alone + counted if b' more)' in line)
    assert more + sum(map(bool, alone)) == len(alone) and all(b' more)' in line for line in counted)
