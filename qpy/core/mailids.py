"""Whom the seed can become, and in words: maps = (uids, gids), each [(first, count)] as core.idmap makes them.

    run/mailids     uids 89 990 1000+64534 65535+4294901760       written by the seed when it starts, for who explains
                    gids 100 990 1000+64534 65535+4294901760
"""
from qpy.core import idmap, text

USUAL_GROUPS = (100,)       # `users`: the primary group of users on many systems, which owns nothing
SERVICES = 60514, 65535     # Debian's services that have their ids on demand, systemd's dynamic users; homed ends at 60513
LARGE = 65536, idmap.HIGHEST        # no tool gives these to a user of /etc/passwd by itself; of containers, of LDAP
LOCAL_SOURCES = {b'files', b'systemd'}


def between(first, last):
    """The range (first, count) from first to last."""
    return first, last - first + 1


def other_sources(nsswitch):
    """Whether users come from elsewhere than /etc/passwd (LDAP, NIS, extrausers), by the bytes of /etc/nsswitch.conf."""
    for line in nsswitch.split(b'\n'):
        database, colon, sources = line.partition(b'#')[0].partition(b':')
        if colon and database.strip() == b'passwd':
            return not LOCAL_SOURCES.issuperset(word for word in sources.split() if word[:1] != b'[')
    return False


def subordinate(data):
    """[(first, count)] of /etc/subuid or /etc/subgid: ids of users' containers."""
    fields = [[text.parse_uint(field, idmap.HIGHEST) for field in line.split(b':')[1:]] for line in data.split(b'\n')]
    return [tuple(pair) for pair in fields if len(pair) == 2 and None not in pair and pair[1]]


def users(passwd, lowest):
    """[(uid, gid)] of the ordinary users in the bytes of /etc/passwd."""
    found = []
    for line in passwd.split(b'\n'):
        fields = line.split(b':')
        ids = [text.parse_uint(field, idmap.HIGHEST) for field in fields[2:4]]
        if len(fields) == 7 and None not in ids and ids[0] >= lowest and not within([between(*SERVICES)], ids[0]):
            found.append(tuple(ids))
    return found


def of_members(passwd, group, lowest):
    """{gid} from lowest up that the bytes of /etc/group name, and that no ordinary user has as his primary group: those
    in it are so by membership, as with docker."""
    fields = [line.split(b':') for line in group.split(b'\n')]
    found = {text.parse_uint(line[2], idmap.HIGHEST) for line in fields if len(line) > 2} - {None}
    return {gid for gid in found if gid >= lowest} - {gid for _, gid in users(passwd, lowest)}


def within(found, number):
    """Whether number is in one of [(first, count)]."""
    return any(first <= number < first + count for first, count in found)


def strangers(found, local):
    """(those of `found` that may be added, those that may not): primary groups of users that another source than
    /etc/passwd has; what /etc/group (`local`, its bytes) names is a group of this system, with files of its own."""
    fields = [line.split(b':') for line in local.split(b'\n')]
    ours = {text.parse_uint(line[2], idmap.HIGHEST) for line in fields if len(line) > 2}
    return sorted(set(found) - ours), sorted(set(found) & ours)


def complaint(maps, uid, gid):
    """Why no mail can be delivered as these while maps = (uids, gids) are in force, with the remedy; b'' if it can."""
    if not within(maps[0], uid) and within([between(*SERVICES)], uid):
        return b'uid %d lies among those of services, %d to %d: if it is to have mail, name it in users/assign and start qpy ' \
               b'anew' % (uid, *SERVICES)
    if not within(maps[0], uid):
        return b'uid %d was none of mail when qpy was started; if users/assign or passwd names it now, start qpy anew' % uid
    if not within(maps[1], gid):
        return b'gid %d was no group of users of mail when qpy was started; start qpy anew, and if that does not help, ' \
               b'with a line %d in control/mailgroups' % (gid, gid)
    return b''


def written(maps):
    """The bytes of run/mailids."""
    return b''.join(name + b''.join(b' %d' % first if count == 1 else b' %d+%d' % (first, count) for first, count in found)
                    + b'\n' for name, found in zip((b'uids', b'gids'), maps))


def read(data):
    """(uids, gids) of the bytes of run/mailids; ValueError."""
    lines = [line.split(b' ') for line in data.split(b'\n')]
    if [line[0] for line in lines] != [b'uids', b'gids', b'']:
        raise ValueError('not what the seed writes')
    return tuple([(int(first), int(count or 1)) for first, _, count in (word.partition(b'+') for word in line[1:])]
                 for line in lines[:2])
