"""core.getpw: local parts and accounts."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import getpw

ACCOUNTS = {b'joe': (b'joe', 1001, 101, b'/home/joe'), b'joe-x': (b'joe-x', 1002, 102, b'/home/x'),
            b'root': (b'root', 0, 0, b'/root'), b'daemon': (b'daemon', 1, 1, b'/usr/sbin'),
            b'lost': (b'lost', 1003, 103, b'/home/lost'), b'stolen': (b'stolen', 1004, 104, b'/home/joe'),
            b'nobody': (b'nobody', 65534, 65534, b'/nobody'), b'a.b': (b'a.b', 1005, 105, b'/home/ab'),
            b'alias': (b'alias', 120, 120, b'/var/qpy/alias'), b'': (b'', 1009, 109, b'/home/empty')}
OWNERS = {b'/home/joe': 1001, b'/home/x': 1002, b'/root': 0, b'/usr/sbin': 1, b'/home/ab': 1005, b'/nobody': 65534,
          b'/var/qpy/alias': 120, b'/home/empty': 1009}


def find(local):
    """The fields that matter."""
    user = getpw.find(local, ACCOUNTS.get, OWNERS.get)
    return user.user, user.dash, user.ext


@pytest.mark.parametrize('local, expected', [
    (b'joe', (b'joe', b'', b'')), (b'JOE', (b'joe', b'', b'')), (b'joe-', (b'joe', b'-', b'')),
    (b'joe-list', (b'joe', b'-', b'list')), (b'Joe-List-Two', (b'joe', b'-', b'List-Two')),
    (b'joe-x', (b'joe-x', b'', b'')), (b'joe-x-y', (b'joe-x', b'-', b'y')), (b'joe-xy', (b'joe', b'-', b'xy')),
    (b'a.b', (b'a.b', b'', b'')), (b'joe+x', (b'alias', b'-', b'joe+x')),
    (b'root', (b'alias', b'-', b'root')), (b'daemon', (b'alias', b'-', b'daemon')),
    (b'nobody', (b'alias', b'-', b'nobody')), (b'lost', (b'alias', b'-', b'lost')),
    (b'stolen', (b'alias', b'-', b'stolen')), (b'alias', (b'alias', b'', b'')),
    (b'alias-x', (b'alias', b'-', b'x')), (b'', (b'alias', b'-', b'')), (b'-x', (b'alias', b'-', b'-x')),
    (b'joe-' + b'x' * 100, (b'joe', b'-', b'x' * 100)), (b'Unknown.One', (b'alias', b'-', b'Unknown.One'))])
def test_who(local, expected):
    """The longest account that is a mail user with a home of its own; else alias; uid 0 and service accounts never."""
    assert find(local) == expected


def test_no_alias():
    """Without an account alias nothing can be said: temporary, 116."""
    with pytest.raises(getpw.Trouble) as caught:
        getpw.find(b'x', {}.get, OWNERS.get)
    assert caught.value.code == 116


def test_trouble_is_not_absence():
    """When passwd or a home cannot be looked at, nothing shorter and not alias is tried (L-04, INV8)."""
    def down(name):
        raise getpw.Trouble(118, b'down')
    with pytest.raises(getpw.Trouble):
        getpw.find(b'joe', down, OWNERS.get)
    with pytest.raises(getpw.Trouble):
        getpw.find(b'joe', ACCOUNTS.get, down)


@given(st.binary(max_size=60) | st.text('joe-x', max_size=12).map(str.encode))
def test_total_and_exact(local):
    """Any local part has an answer; account, break and extension make up the local part again."""
    user = getpw.find(local, ACCOUNTS.get, OWNERS.get)
    if user.user == b'alias' and user.reason.startswith(b'no'):
        assert (user.dash, user.ext) == (b'-', local)
    else:
        assert user.user + user.dash + user.ext == local[:len(user.user)].lower() + local[len(user.user):]
    assert user.uid != 0


@given(st.binary(max_size=2000))
def test_the_number_of_lookups_is_bounded(local):
    """At most one look-up per break in the first 31 bytes."""
    asked = []
    getpw.find(local, lambda name: asked.append(name) or (ACCOUNTS[b'alias'] if name == b'alias' else None), OWNERS.get)
    assert len(asked) <= 33 and all(len(name) <= 31 for name in asked)
