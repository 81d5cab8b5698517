"""Which IDs are given, whatever the clock does."""
from hypothesis import given, strategies as st

from qpy.core import ids

NOW, YEAR = 1_795_000_000_000_000, 365 * ids.AHEAD
FUTURE = NOW + 23 * YEAR


def test_an_empty_queue():
    """The clock's own number, and rising within it."""
    found = ids.Ids((), NOW)
    assert [found.give(3, NOW), found.give(2, NOW), found.give(1, NOW + 100)] == [NOW, NOW + 3, NOW + 100]


def test_after_a_restart_under_the_right_clock():
    """With messages of the year 2049 in the queue new IDs are of today, and the old ones are named as known."""
    found = ids.Ids([NOW - 7, FUTURE, FUTURE + 5], NOW)
    assert found.ahead == FUTURE + 5
    assert found.give(1, NOW) == NOW
    assert found.known() == (NOW, [(FUTURE, FUTURE + 5)])
    found.settled()
    assert found.known() == (NOW + 1, [(FUTURE, FUTURE + 5)])


def test_a_clock_that_is_ahead_for_a_while():
    """In one run: IDs go with the clock to the future and back, and what was given there is never given again."""
    found = ids.Ids((), NOW)
    assert found.give(1, NOW) == NOW
    assert found.give(2, FUTURE) == FUTURE
    assert found.give(1, NOW + 9) == NOW + 9 and found.known() == (NOW + 9, [(FUTURE, FUTURE + 1)])
    found.settled()
    assert found.give(1, FUTURE) == FUTURE + 2
    found.settled()
    assert found.known() == (FUTURE + 3, [])


def test_a_clock_that_is_behind_for_a_while():
    """IDs of a clock that was not set yet stay what they are; those of the set clock are known to who looks."""
    found = ids.Ids([NOW - 5], 0)
    assert found.ahead == NOW - 5 and found.give(1, 1000) == 1000
    found.settled()
    assert found.give(1, NOW) == NOW and found.known() == (NOW, []) and not found.ahead


def test_set_back_by_less_than_a_day():
    """IDs rise until the clock has caught up."""
    found = ids.Ids([NOW], NOW - ids.AHEAD)
    assert found.give(1, NOW - ids.AHEAD + 1) == NOW + 1 and not found.ahead


def test_set_back_into_what_grows_now():
    """After days of one run a clock that goes back by two of them stands in what was given: that is not given again."""
    found = ids.Ids((), NOW)
    for half_days in range(1, 9):
        found.give(1, NOW + half_days * ids.AHEAD // 2)
    found.settled()
    last = NOW + 4 * ids.AHEAD
    assert found.give(3, NOW + 2 * ids.AHEAD) == last + 1 and found.known() == (last + 1, [])
    assert found.give(1, NOW - ids.AHEAD) == NOW - ids.AHEAD and found.known()[1] == [(NOW + ids.AHEAD // 2, last + 3)]


def test_a_group_does_not_run_into_what_is_taken():
    """Numbers in a row are free, all of them."""
    found = ids.Ids([NOW + 2 * ids.AHEAD], NOW)
    found.give(1, NOW)
    assert found.give(10, NOW + 2 * ids.AHEAD - 5) == NOW + 2 * ids.AHEAD + 1


def test_found_in_any_order():
    """Numbers of many days, also around the day that makes a clock a wrong one, are the same spans in whatever order a
    directory has them, and one that is read once will do."""
    found = [NOW - 3 * YEAR, NOW - 3 * YEAR + ids.AHEAD, NOW, NOW + ids.AHEAD, NOW + ids.AHEAD + 1, NOW + 3 * ids.AHEAD]
    for each in (found, found[::-1], found[3:] + found[:3]):
        keeper = ids.Ids(iter(each), NOW)
        assert (keeper.first, keeper.last) == (NOW, NOW + ids.AHEAD)
        assert keeper.spans == [(NOW - 3 * YEAR, NOW - 3 * YEAR + ids.AHEAD), (NOW + ids.AHEAD + 1, NOW + ids.AHEAD + 1),
                                (NOW + 3 * ids.AHEAD, NOW + 3 * ids.AHEAD)]


TIMES = st.one_of(st.sampled_from([NOW, FUTURE, 0, NOW - 2 * YEAR]).flatmap(
    lambda t: st.integers(max(0, t - 3 * ids.AHEAD), t + 3 * ids.AHEAD)), st.integers(0, 8 * 10 ** 15))


STEPS = st.one_of(st.sampled_from([0, 1, ids.AHEAD, -ids.AHEAD]), st.integers(-2 * ids.AHEAD, ids.AHEAD))
CLOCKS = st.one_of(st.tuples(st.just(True), STEPS), st.tuples(st.just(False), TIMES))   # walks, or jumps


@given(st.sets(TIMES, max_size=80), TIMES, st.lists(st.tuples(CLOCKS, st.integers(1, 20)), max_size=120))
def test_no_number_twice_and_what_is_known_is_settled(found, begin, groups):
    """Whatever the clock says: no number is given that was given or found; what is told as known holds every settled
    number and none that is on its way; a clock that did not stand in what is taken, nor just before, is followed."""
    keeper, taken, now = ids.Ids(found, begin), set(found), begin

    def known(number):
        below, beyond = keeper.known()
        return number < below or any(first <= number <= last for first, last in beyond)
    assert all(map(known, taken))
    for (walks, value), count in groups:
        now = max(0, now + value if walks else value)
        spans, last = [*keeper.spans, (keeper.first, keeper.last)], keeper.last
        number = keeper.give(count, now)
        group = set(range(number, number + count))
        assert not group & taken and all(map(known, taken)) and not any(map(known, group))
        if now <= last - ids.AHEAD and now and not any(a < now + count and now <= b for a, b in spans):
            assert number == now
        assert number >= now
        assert len(keeper.spans) <= ids.MOST
        taken |= group
        keeper.settled()
        assert all(map(known, group))
