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


SENDERS = {b'@y.example': b'relay.y', b'free@y.example': b''}
ROUTES = {b'': b' Relay.Example:587 second.example', b'.x.example': b'10.0.0.9', b'far.example': b'', b'[192.0.2.1]': b'z'}


@pytest.mark.parametrize('sender, domain, name, host', [
    (b'a@b', b'Any.example', b'relay.example:587 second.example', b'relay.example'), (b'a@b', b'w.x.example', b'10.0.0.9', b'10.0.0.9'),
    (b'a@b', b'Far.example', b'far.example', b'far.example'), (b'joe@Y.example', b'w.x.example', b'relay.y', b'relay.y'),
    (b'free@y.example', b'w.x.example', b'w.x.example', b'w.x.example'), (b'', b'[192.0.2.1]', b'z', b'z')])
def test_a_relay_is_one_destination(sender, domain, name, host):
    """All mail that one entry of senderroutes, else smtproutes, sends to a relay has one name; an empty value means the
    domain; limits go by the first relay's name."""
    assert destinations.name_of(sender, domain, SENDERS, ROUTES) == name
    assert destinations.host_of(name) == host
    assert destinations.find(name, {host: 7, b'': 1}) == 7


def test_names_of_all_kinds():
    """The path of a socket, an IPv6 relay, a login; what is no place stands for itself."""
    for name, host in ((b'lmtp=/run/lmtp', b'/run/lmtp'), (b'[2001:db8::1]:25', b'2001:db8::1'), (b'smtps=a@b@c.example', b'c.example'),
                       (b'[IPv6:2001:db8::1]', b'[IPv6:2001:db8::1]'), (b'', b''), (b'_x_.example', b'_x_.example')):
        assert destinations.host_of(name) == host


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
