"""Whom the seed can become, in words: maps = (uids, gids), each [(first, count)] as core.idmap makes them.

    run/mailids     uids 89 990 1000+64534 65535+4294901760       written by the seed when it starts, for who explains
                    gids 100 990 1000+64534 65535+4294901760
"""
from qpy.core import idmap, text

USUAL_GROUPS = (100,)       # `users`: the primary group of users on many systems, which owns nothing


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
    if not within(maps[0], uid):
        return b'uid %d was none of mail when qpy was started; if users/assign names it now, start qpy anew' % uid
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
