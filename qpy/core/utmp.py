"""utmp(5): who is logged in where, from the bytes of the file, as Linux writes them on every architecture.

    one record: type, pid, line[32], id[4], user[32], host[256], exit, session, time, address, unused: 384
    bytes
"""
from struct import Struct

RECORD = Struct('<hxxi32s4s32s')
SIZE = 384
USER_PROCESS = 7


def terminals(data, user):
    """The names below /dev of the terminals a user (bytes) is logged in on; what is no such name is left
    out."""
    found = []
    for at in range(0, len(data) - SIZE + 1, SIZE):
        kind, _, line, _, who = RECORD.unpack_from(data, at)
        line, who = line.partition(b'\0')[0], who.partition(b'\0')[0]
        if kind == USER_PROCESS and who == user and line and b'..' not in line and line[:1] != b'/':
            found.append(line)
    return list(dict.fromkeys(found))
