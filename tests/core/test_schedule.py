"""The retry curve, expiry, and what a jumping clock may do."""
import math

from hypothesis import example, given, strategies as st

from qpy.core import schedule

AGES = st.integers(0, 2 ** 31)


def attempts(skip, until):
    """The ages of the attempts of a message that fails at once every time."""
    age, ages = 0, []
    while age <= until:
        ages.append(age)
        age += schedule.retry(age, skip)
    return ages + [age]


def test_remote_curve():
    """Remote attempts are at age 400 k^2, and with 7 days of life the 40th, at 608,400 s, is the last."""
    ages = attempts(schedule.SKIP_REMOTE, 604800)
    assert ages == [400 * k * k for k in range(40)]
    assert ages[-1] == 608400


def test_local_curve():
    """Local attempts are at age 100 k^2; the last one of 7 days is at the same 608,400 s."""
    assert attempts(schedule.SKIP_LOCAL, 604800) == [100 * k * k for k in range(79)]


@given(st.integers(0, 2 ** 32))
def test_isqrt(number):
    """isqrt is exact up to qmail's limit of 16 bits."""
    assert schedule.isqrt(number) == min(65535, math.isqrt(number))


@given(st.integers(-2 ** 40, 2 ** 31), st.sampled_from([10, 20]))
def test_nothing_sleeps_for_a_year(age, skip):
    """Whatever the age, also one from the future, the next try is between a moment and a day away."""
    assert 1 <= schedule.retry(age, skip) <= 86400


@given(st.integers(0, 10 ** 6), st.floats(0, 1))
def test_jitter(seconds, chance):
    """Jitter only delays, and by a sixteenth at most."""
    assert seconds <= schedule.late(seconds, chance) <= seconds * 17 / 16


def test_due():
    """Q-31: no longer than a message can have been told to sleep, its jitter too; what lies beyond is of a wrong clock."""
    longest = schedule.late(schedule.retry(10 ** 9, 20), 1)
    assert [schedule.due(when, 1000) for when in (5, 1000, 1000 + longest, 1001 + longest, 10 ** 9)] == [
        5, 1000, 1000 + longest, 0, 0]


def test_backoff():
    """A destination in trouble is left alone for a minute, then longer, an hour at most."""
    assert [schedule.backoff(n, 0) for n in range(1, 9)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]


@given(st.integers(0, 10 ** 7), st.floats(0, 1))
def test_spread(count, chance):
    """A few overdue messages go at once, a million within a quarter of an hour."""
    assert 0 <= schedule.spread(count, chance) <= 900
    if count < 100:
        assert schedule.spread(count, chance) == 0
    elif count < 90_000:
        assert schedule.spread(count, chance) == count // 100
    else:
        assert schedule.spread(count, chance) == int(900 * chance)


def test_lifetime_zero():
    """queuelifetime 0: a message of one second gets exactly one attempt."""
    assert schedule.dying(1, 0, 0, 0, 20)
    assert not schedule.dying(0, 0, 0, 0, 20)


def test_expiry_needs_attempts_and_time():
    """Q-31, Q-37: age alone ends nothing: the message must have been tried and send must have been up for a while."""
    week = 604800
    assert not schedule.dying(week + 1, 0, 10 ** 6, week, 20)
    assert not schedule.dying(week + 1, 9, 60, week, 20)
    assert not schedule.dying(week, 9, 10 ** 6, week, 20)
    assert schedule.dying(week + 1, 3, 3600, week, 20)


def test_short_lifetime():
    """A lifetime of 500 s has two remote attempts in it; the third, at 1600 s, is the last."""
    assert schedule.attempts_needed(500, 20) == 2
    assert schedule.attempts_needed(5, 20) == 1


def clock():
    return schedule.Clock(1_000_000.0, 50.0)


def test_steady():
    """Small corrections of the wall clock are followed."""
    c = clock()
    assert c.look(1_000_010.5, 60.0) == 0
    assert c.now == 1_000_010
    assert c.running == 10


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-100, 100)), max_size=20))
def test_steady_time_never_goes_back(steps):
    """However the wall clock is set, little by little or by jumps: what was due stays due."""
    c, wall, mono = clock(), 1_000_000.0, 50.0
    for passed, apart in steps:
        before, wall, mono = c.now, wall + passed + apart, mono + passed
        c.look(wall, mono)
        assert c.now >= before


def test_a_clock_that_was_set_back_is_waited_for():
    """Steady time goes on with the wall clock when that is again where it was."""
    c = clock()
    for wall, mono, now in ((100, 150, 100), (50, 150, 100), (90, 190, 100), (101, 201, 101)):
        c.look(1_000_000.0 + wall, mono)
        assert c.now == 1_000_000 + now


@given(st.integers(61, 10 ** 9), st.sampled_from([1, -1]))
def test_jump(size, sign):
    """A jump either way is told once, moves no due time, and makes no message older."""
    c = clock()
    c.look(1_000_100.0, 150.0)
    assert c.look(1_000_100.0 + sign * size, 150.0) == sign * size
    assert c.now == 1_000_100
    assert c.look(1_000_110.0 + sign * size, 160.0) == 0
    assert c.now == 1_000_110
    assert c.age(1_000_050) <= 60                         # born before the jump
    assert c.age(1_000_105 + sign * size) <= 5     # born after it
    assert c.steady(c.wall(1_234_567)) == 1_234_567


@given(st.lists(st.one_of(st.integers(61, 10 ** 9), st.integers(-10 ** 9, -61)), min_size=1, max_size=40))
@example([62, -61])
@example([10_800, 283_800_000])         # the first found by a soak: born between the two it was nine years old
def test_many_jumps(jumps):
    """However often the clock has jumped, no message is older than it is, and one born under the latest clock, or any
    other while the clocks go forward only, and far, is as old as it is."""
    c, wall, steady, born = clock(), 1_000_050, 1_000_050, []
    c.look(wall, 100.0)
    for number, jump in enumerate([0, *jumps], 1):
        wall += jump
        c.look(wall, 100.0 + 10 * (number - 1))
        born.append((wall, steady))
        wall, steady = wall + 10, steady + 10
        c.look(wall, 100.0 + 10 * number)
    assert all(c.age(birth) <= steady - truly for birth, truly in born)
    if min(jumps) > steady - 1_000_050:         # longer than all of this took
        assert [c.age(birth) for birth, _ in born] == [steady - truly for _, truly in born]


def test_future_birth():
    """A birth in the future is age 0."""
    assert clock().age(2_000_000) == 0


def test_calendar():
    """What is due comes second by second, what is not stays, IDs in their order; equal seconds are one number."""
    calendar = schedule.Calendar()
    assert calendar.first() is None and calendar.take(10 ** 9) is None
    second = calendar.add(10 ** 9, 7)
    assert calendar.add(int('1000000000'), 3) is second and calendar.add(10 ** 9 - 1, 5) == 10 ** 9 - 1
    assert (calendar.first(), calendar.entries) == (10 ** 9 - 1, 3)
    assert calendar.take(10 ** 9 - 2) is None
    assert calendar.take(10 ** 9 - 1) == (10 ** 9 - 1, [5]) and calendar.take(10 ** 9 - 1) is None
    assert calendar.take(10 ** 9) == (10 ** 9, [3, 7]) and calendar.entries == 0 and calendar.first() is None
    calendar.add(5, 1)
    calendar.clear()
    assert calendar.take(10) is None and calendar.entries == 0
