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
    assert mailids.complaint(maps, 90, 100) == b'uid 90 was none of mail when qpy was started; if users/assign or passwd names it ' \
        b'now, start qpy anew'
    assert b'among those of services, 60514 to 65535' in mailids.complaint(maps, 64045, 1000)
    words = mailids.complaint(maps, 1001, 60)
    assert b'gid 60 ' in words and b'start qpy anew' in words and words.endswith(b'with a line 60 in control/mailgroups')


def test_groups_of_this_system_stay_out():
    """A primary group that only LDAP's users have is theirs; one that /etc/group names is the system's."""
    local = b'root:x:0:\nshadow:x:42:\ndocker:x:998:joe\nbroken\n:::\n'
    assert mailids.strangers({500, 42, 998, 0}, local) == ([500], [0, 42, 998])


def test_groups_had_by_membership():
    """A group above the minimum that is no ordinary user's primary one; a service's is none of a user's."""
    passwd = b'joe:x:1000:1000::/h:/s\nvirt:x:64045:1006::/h:/s\ndaemon:x:990:1007::/h:/s\nbroken:x:1\n'
    group = b'joe:x:1000:\ndocker:x:1002:joe\nvirt:x:1006:\ndaemon:x:1007:\nadm:x:4:joe\nbroken\nodd:x:y:\n'
    assert mailids.users(passwd, 1000) == [(1000, 1000)]
    assert mailids.of_members(passwd, group, 1000) == {1002, 1006, 1007}


@pytest.mark.parametrize('data, other', [
    (b'', False), (b'passwd: files systemd # ldap\n', False), (b'passwd: files [!UNAVAIL=return] systemd\n', False), (b'# passwd: sss\n', False),
    (b'group: ldap\n\npasswd:\tfiles sss\n', True), (b'passwd: compat', True), (b'passwd:extrausers files\n', True)])
def test_where_users_come_from(data, other):
    """nsswitch.conf says whether there can be users whom /etc/passwd does not have."""
    assert mailids.other_sources(data) == other


def test_ids_of_containers():
    """Lines of /etc/subuid; what is none is not taken."""
    assert mailids.subordinate(b'joe:100000:65536\n# x\nann:x:5\n1001:165536:65536\n:7\nnone:5:0\n') == [(100000, 65536), (165536, 65536)]
