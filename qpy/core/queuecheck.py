"""What may stand in a queue, and what each thing means: the table of qpy-internals(7) as sentences, for qpy-fsck.

Pure.  A finding is (kind, sentence); TABLE says of each kind whether it is in order (the programs see to it by
themselves), whether qpy-fsck may set the file aside, and what the programs do, to which a test holds them.  What is
whole and what is finished is decided by core.mess and core.state, as in every other program.
"""
from qpy.core import mess, state

FINE, HEALS, WRONG = range(3)       # nothing to say; the programs see to it; somebody must look

#: what the programs do about it when they start: deliver (or report) the message, remove the file, set it aside,
#: nothing
DELIVERED, REMOVED, ASIDE, LEFT = b'delivered', b'removed', b'set aside', b'left'

#: kind: (how bad, may qpy-fsck set it aside, what it means, what the programs do)
TABLE = {
    b'whole': (FINE, False,
        b'in the queue; no attempt is known, or its state says when it is due',
        DELIVERED),
    b'part': (HEALS, False,
        b'was being received when queued ended, and was never acknowledged; queued '
        b'removes it when it starts',
        REMOVED),
    b'receiving': (FINE, False,
        b'is being received',
        LEFT),
    b'young': (FINE, False,
        b'is being written, or has just been',
        LEFT),
    b'finished': (HEALS, False,
        b'every recipient is finished, only the removal was interrupted; send has it '
        b'removed when it starts',
        REMOVED),
    b'damaged': (WRONG, True,
        b'is no whole message: a power cut tore it before it was acknowledged, or the '
        b'disk has lost what it had; it is never delivered, and send sets it aside when '
        b'it starts',
        ASIDE),
    b'renamed': (WRONG, True,
        b'is a whole message under the name of another one, and is not delivered as that; send '
        b'sets it aside when it starts',
        ASIDE),
    b'misnamed': (WRONG, True,
        b'is a whole message under a name that is none; no program looks at it',
        LEFT),
    b'newer': (HEALS, False,
        b'was written by a later version of qpy; this one leaves it alone',
        LEFT),
    b'foreign': (WRONG, True,
        b'is nothing of ours; no program looks at it',
        LEFT),
    b'no file': (WRONG, True,
        b'is not a regular file; no program can use it',
        LEFT),
    b'no state': (WRONG, True,
        b'is not a regular file, and its message waits as long as this is in the place of its state; '
        b'once it is set aside, all recipients are tried again',
        LEFT),
    b'unreadable': (WRONG, False,
        b'cannot be read now, which says nothing about it; send tries again',
        LEFT),
    b'writable': (WRONG, False,
        b'can be written by others: qpy-install mends the mode',
        DELIVERED),
    b'closed': (WRONG, False,
        b'is closed to a program that needs it, by its owner or mode, and nothing becomes of it; qpy-fsck(8), '
        b'EXAMPLES, opens a copy that was made without its owners',
        LEFT),
    b'torn': (HEALS, False,
        b'ends in an entry torn by a crash, which is ignored; what it said is done '
        b'again, a duplicate at worst',
        DELIVERED),
    b'broken': (WRONG, False,
        b'has a damaged place with whole entries behind it: the disk has lost what stood there, or a power cut; it is done '
        b'again, a duplicate at worst, but a hold or release is forgotten: see qpy-qread whether what was held still is',
        DELIVERED),
    b'orphan': (HEALS, False,
        b'is the state of a message that is gone; send removes it when it starts',
        REMOVED),
    b'shorter': (HEALS, False,
        b'was to take the place of a longer state when send ended; send removes it when it '
        b'starts',
        REMOVED),
    b'strange': (WRONG, False,
        b'names a recipient that its message does not have; such entries are skipped',
        DELIVERED),
    b'kept': (HEALS, False,
        b'was set aside; look at it, and delete it when you know what it was',
        LEFT),
    b'kept whole': (WRONG, False,
        b'was set aside and is a whole message: with qpy stopped, move it back into '
        b'queue/mess under the name its last line tells, and queue/state/NAME.aside (of several the latest), if that is '
        b'there, to queue/state/NAME, or all its recipients are served again; and it is delivered',
        LEFT),
}


#: {file system, as the kernel calls it: what its kind means for a queue}
_SERVER = (b'is a server\'s: what it says is stored is stored as far as that server keeps its word; let nobody '
           b'else use the queue, and look at the options of the export')
_JOURNAL = (b'has no journal: after a power cut its repair may move files to lost+found or drop them; use one with '
            b'a journal')
_MEMORY = b'is memory: all mail in it is gone when the machine stops; put the queue on a disk'
FILE_SYSTEMS = {
    **dict.fromkeys((b'tmpfs', b'ramfs'), _MEMORY),
    **dict.fromkeys((b'nfs', b'nfs4', b'cifs', b'smb3', b'9p', b'ceph', b'glusterfs', b'fuse.sshfs', b'fuse.glusterfs'),
                    _SERVER),
    **dict.fromkeys((b'ext2', b'vfat', b'exfat', b'minix'), _JOURNAL),
    b'overlay': b'is a container\'s: mail in it goes with the container; put the queue on a volume',
    b'aufs': b'is a container\'s: mail in it goes with the container; put the queue on a volume',
}

READ, WRITE, SEARCH = 4, 2, 1
ALL = READ | WRITE | SEARCH

#: {directory, or file of queue/state: who must have what of it}; a file of a directory: of the regular files in it
DIRECTORIES = {b'mess': ((b'qpyq', ALL), (b'qpys', READ | SEARCH)), b'state': ((b'qpys', ALL), (b'qpyq', READ | SEARCH)),
               b'damaged': ((b'qpyq', ALL),)}
FILES = {b'mess': ((b'qpyq', READ), (b'qpys', READ)), b'state': ((b'qpys', READ | WRITE), (b'qpyq', READ)), b'damaged': ()}
LOCK = ((b'qpys', READ | WRITE),)
QUEUE = ((b'qpyq', SEARCH), (b'qpys', SEARCH))      # what they must have of queue itself


def closed(needs, have, identity):
    """Is something closed to one who needs it?  have: its (uid, gid, mode); identity: {role: (uid, gid)}, where a role whose
    account is missing is not looked at."""
    uid, gid, mode = have
    for role, bits in needs:
        if role in identity:
            mine, group = identity[role]
            if mode >> (6 if uid == mine else 3 if gid == group else 0) & bits != bits:
                return True
    return False


def true_name(footer):
    """The ID that the last 62 bytes of a file claim, None if they are no footer."""
    ident = footer[36:52]
    return ident if footer[:5] == b'qpy1 ' and len(footer) == mess.FOOTER_SIZE and mess.is_id(ident) else None


def of_state(data, ident, recipients):
    """The kinds that fit the bytes of a state whose message has so many recipients."""
    view, kinds = state.replay(data, ident, recipients), []
    if view.tail:
        kinds.append(b'torn')
    if view.lost:
        kinds.append(b'broken')
    entries = state.entries(data, ident)[0]
    if any(letter in state.OF_RECIPIENT and not known(fields[0], recipients) for letter, fields in entries):
        kinds.append(b'strange')
    if recipients and view.finished():
        kinds.append(b'finished')
    return kinds


def known(index, recipients):
    """Is it the number of one of so many recipients?"""
    return index.isdigit() and int(index) < recipients
