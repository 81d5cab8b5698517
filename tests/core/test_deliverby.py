"""DELIVERBY (RFC 2852): what stands in the envelope and on the wire, and who must not have such a message."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import deliverby

NOW = 1_795_000_000


@pytest.mark.parametrize('wire, value', [
    (b'3600;R', b'1795003600;R'), (b'+60;n', b'1795000060;N'), (b'-60;N', b'1794999940;N'), (b'0;N', b'1795000000;N'),
    (b'1;RT', b'1795000001;RT'), (b'999999999;nt', b'2794999999;NT')])
def test_from_the_wire(wire, value):
    """Seconds become a time; what is understood is what was said."""
    assert deliverby.from_wire(wire, NOW) == value
    by = deliverby.parse(value)
    assert (by.mode, by.returns, by.trace) == (value.partition(b';')[2], b'R' in value, b'T' in value)


@pytest.mark.parametrize('wire', [b'', b'60', b'60;', b'60;X', b'60;TR', b'0;R', b'-1;R', b';R', b'x;N', b'1000000000;N',
                                  b'--1;N', b'1 ;N', b'60;R;T'])
def test_what_is_none(wire):
    """A syntax error, and R with no time."""
    with pytest.raises(ValueError):
        deliverby.from_wire(wire, NOW)


@pytest.mark.parametrize('value', [None, b'', b'x;R', b'5', b'5;', b'5;RX', b'-5;N'])
def test_records_nobody_understands(value):
    """They ask for nothing."""
    assert deliverby.parse(value) is None


@given(st.integers(0, 10 ** 12), st.sampled_from(sorted(deliverby.MODES)), st.integers(-10 ** 12, 10 ** 12))
def test_there_and_back(deadline, mode, left):
    """What goes on the wire can be read by the next server, and means the same, as far as nine digits reach."""
    by = deliverby.parse(b'%d;%s' % (deadline, mode))
    wire = deliverby.on_wire(by, left)
    assert wire.startswith(b' BY=')
    if left > 0:
        again = deliverby.parse(deliverby.from_wire(wire[4:], deadline))
        assert again.deadline - deadline == min(left, deliverby.MOST) and again.mode == by.mode


@pytest.mark.parametrize('mode, left, offered, refused', [
    (b'N', -5, None, False), (b'N', 5, b'60', False), (b'R', 60, None, True), (b'R', 60, b'', False), (b'R', 60, b'60', False),
    (b'R', 59, b'60', True), (b'R', 0, b'', True), (b'R', 60, b'x', False)])
def test_who_must_not_have_it(mode, left, offered, refused):
    """With R nobody who would not send it back in time, or wants more than is left."""
    assert bool(deliverby.refusal(deliverby.parse(b'1;' + mode), left, offered)) is refused
