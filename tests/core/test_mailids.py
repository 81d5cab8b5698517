"""Whom the seed can become, as it writes it down, and what is said of whom it cannot."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import idmap, mailids

IDS = st.sets(st.integers(1, 3000), max_size=20)


@given(IDS, IDS, IDS)
def test_what_is_written_is_read(uids, gids, without):
    """The maps come back as they were, and hold exactly what they held."""
    maps = idmap.ranges(1000, uids, without), idmap.ranges(1000, gids, without)
    assert mailids.read(mailids.written(maps)) == maps
    for number in range(1, 3010):
        assert mailids.within(maps[0], number) == ((number >= 1000 or number in uids) and number not in without)


@pytest.mark.parametrize('data', [b'', b'uids 1', b'uids 1\ngids 2', b'gids 1\nuids 2\n', b'uids x\ngids 1\n',
                                  b'uids 1\ngids 1\nmore\n', b'uids 1+\xff\ngids\n'])
def test_anything_else_is_refused(data):
    """Half a file, or another, is no answer."""
    with pytest.raises(ValueError):
        mailids.read(data)


def test_complaints_name_the_remedy():
    """A uid that is missing may come by users/assign, a gid by control/mailgroups; who is there is not complained of."""
    maps = [(89, 1), (1000, 10)], [(100, 1), (1000, 10)]
    assert mailids.complaint(maps, 1000, 100) == mailids.complaint(maps, 89, 1009) == b''
    assert mailids.complaint(maps, 90, 100) == b'uid 90 was none of mail when qpy was started; if users/assign names it now, ' \
        b'start qpy anew'
    words = mailids.complaint(maps, 1001, 60)
    assert b'gid 60 ' in words and b'start qpy anew' in words and words.endswith(b'with a line 60 in control/mailgroups')


def test_groups_of_this_system_stay_out():
    """A primary group that only LDAP's users have is theirs; one that /etc/group names is the system's."""
    local = b'root:x:0:\nshadow:x:42:\ndocker:x:998:joe\nbroken\n:::\n'
    assert mailids.strangers({500, 42, 998, 0}, local) == ([500], [0, 42, 998])
