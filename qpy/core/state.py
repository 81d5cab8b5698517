"""queue/state/ID: what has become of a message's recipients, as entries that are only ever appended.

    4 bytes length, payload, 4 bytes CRC-32 of payload and ID           (numbers big-endian)

A payload is a letter and fields separated by NUL (only the last may itself hold NUL):

    d index                 recipient number index was delivered
    d index text            ... of which the sender wants to be told; text: how (core.notices), a blank, what was said
    f index text            failed for good, with what was said
    r index                 the sender has been told (or shall not be), durably
    z index text            deferred, with what was said: for people
    w unix                  the sender has been told, durably, that it takes long
    a unix attempts         a pass has ended: due again at unix, after so many attempts
    b unix                  its age counts from then: its ID comes from a clock that stood wrong
    h reason                held
    o                       released

index counts the T records of the envelope from 0.  Letters not known here are skipped, and kept where a state is written
anew.

What is damaged is passed over, and reading goes on at the next entry that is whole: each is true whatever became of the
others (h and o are on disk before anybody counts on them), so that any of them may be missing after a crash.  What a
missing one said is done again: a duplicate at worst.  Behind the last whole entry is the tail, torn by a crash, which is
cut off before the next one is appended.  A text cannot pass for an entry: it holds no NUL, and lengths begin with two.
"""
from zlib import crc32

from qpy.core import text

PENDING, DELIVERED, FAILED, REPORTED, SUCCEEDED = range(5)     # SUCCEEDED: delivered, and to be reported
KNOWN = b'dfrzwabho'
OF_RECIPIENT = (b'd', b'f', b'r', b'z')      # the letters whose first field is a recipient's index
ENTRY_LIMIT = 65536         # bytes of one payload; what claims more is torn
TEXT_LIMIT = 10_000         # bytes of text kept of one failure or deferral
INDEX_LIMIT = 1 << 31
TIME_LIMIT = 1 << 40
HOLE = bytes(4096)          # zeros, as a file system leaves them in place of what it has lost


class View:
    """What the entries of one message add up to.

    status: bytearray, one of the above for each recipient; texts: {index: last failure or deferral, or success};
    warned: unix seconds, or 0; due: unix seconds of the next attempt (0: at once); attempts: passes so far; held: reason
    or None; born: unix seconds from which its age counts in place of its ID's, or 0; others: entries of a later version;
    end: where the last whole entry ends; tail: how many bytes follow (torn: cut them off before appending); lost: how many
    before it are of no whole entry.
    """

    __slots__ = ('status', 'texts', 'due', 'attempts', 'held', 'end', 'tail', 'lost', 'warned', 'born', 'others')

    def __init__(self, recipients):
        self.status = bytearray(recipients)
        self.texts, self.due, self.attempts, self.held, self.end = {}, 0, 0, None, 0
        self.warned = self.born = self.tail = self.lost = 0
        self.others = []

    def indices(self, status):
        """The recipients (indices) that are in this status."""
        return [i for i, known in enumerate(self.status) if known == status]

    def finished(self):
        """True if nothing is left to be done: every recipient delivered or failed, and what is to be
        reported is."""
        return not any(status in self.status for status in (PENDING, FAILED, SUCCEEDED))

    def entries(self):
        """[(letter, fields ...)]: as few as say the same to replay()."""
        found = []
        for index, status in enumerate(self.status):
            number, words = b'%d' % index, self.texts.get(index)
            if status == REPORTED:
                found.append((b'r', number))
            elif status == DELIVERED:
                found.append((b'd', number))
            elif status != PENDING:
                found.append((b'f' if status == FAILED else b'd', number, words or b''))
            elif words is not None:
                found.append((b'z', number, words))
        if self.warned:
            found.append((b'w', b'%d' % self.warned))
        if self.born:
            found.append((b'b', b'%d' % self.born))
        if self.due or self.attempts:
            found.append((b'a', b'%d' % self.due, b'%d' % self.attempts))
        return found + ([] if self.held is None else [(b'h', self.held)]) + self.others

    def apply(self, letter, fields):
        """Let one entry count.  Anything that makes no sense is skipped: then work is repeated, not lost."""
        if letter in OF_RECIPIENT:
            self._recipient(letter, text.parse_uint(fields[0], INDEX_LIMIT), fields[1] if fields[1:] else b'')
        elif letter == b'a' and len(fields) == 2:
            due, attempts = text.parse_uint(fields[0], TIME_LIMIT), text.parse_uint(fields[1], INDEX_LIMIT)
            if due is not None and attempts is not None:
                self.due, self.attempts = due, attempts
        elif letter == b'w':
            self.warned = text.parse_uint(fields[0], TIME_LIMIT) or self.warned
        elif letter == b'b':
            self.born = text.parse_uint(fields[0], TIME_LIMIT) or self.born
        elif letter == b'h':
            self.held = fields[0]
        elif letter == b'o' and fields == [b'']:       # not the length before a text that was made to look like one
            self.held = None
        elif letter not in KNOWN:
            self.others.append((letter, *fields))

    def _recipient(self, letter, index, words):
        if index is None or index >= len(self.status) or self.status[index] in (DELIVERED, REPORTED):
            return
        if letter == b'z':
            if self.status[index] == PENDING:
                self.texts[index] = words
            return
        if self.status[index] == SUCCEEDED:
            if letter == b'r':
                self.status[index] = DELIVERED
            return
        self.status[index] = {b'd': SUCCEEDED if words else DELIVERED, b'f': FAILED, b'r': REPORTED}[letter]
        if letter == b'f' or letter == b'd' and words:
            self.texts[index] = words
        elif letter == b'd':
            self.texts.pop(index, None)


def entry(ident, letter, *fields):
    """One entry of message ident, ready to be appended.  Text (the last field of d, f and z) is cut at TEXT_LIMIT."""
    if len(letter) != 1 or any(b'\0' in field for field in fields[:-1]):
        raise ValueError('no such entry')
    payload = letter + b'\0'.join(fields)[:TEXT_LIMIT]
    return b'%b%b%b' % (len(payload).to_bytes(4, 'big'), payload, crc32(payload + ident).to_bytes(4, 'big'))


def entries(data, ident):
    """([(letter, [fields])], end, lost) of a state file's bytes: the whole entries, where the last of them ends, and how
    many bytes before that are of none."""
    found, at, end, lost = [], 0, 0, 0
    while at >= 0:
        payload = payload_at(data, ident, at)
        if payload is None:
            at = next_length(data, at + 1)
            continue
        letter = payload[:1]
        found.append((letter, payload[1:].split(b'\0', 0 if letter in b'ho' else 1)))
        lost += at - end
        at = end = at + 8 + len(payload)
    return found, end, lost


def payload_at(data, ident, at):
    """What the entry that begins there says; None if none does."""
    size = int.from_bytes(data[at:at + 4], 'big')
    payload = data[at + 4:at + 4 + size]
    crc = data[at + 4 + size:at + 8 + size]
    if not 1 <= size <= ENTRY_LIMIT or len(crc) < 4 or crc32(payload + ident) != int.from_bytes(crc, 'big'):
        return None
    return payload


def next_length(data, at):
    """Where, from at on, the length of an entry may stand; -1 if nowhere."""
    while data.startswith(HOLE, at):
        at += len(HOLE) - 3
    return data.find(b'\0\0', at)


def pack_indices(indices):
    """Numbers of recipients in a field of a record: a hexadecimal number with a bit for each, however many they are."""
    if not indices:
        return b'0'
    bits = bytearray(b'0') * (max(indices) + 1)
    for index in indices:
        bits[-1 - index] = 49           # '1'
    return b'%x' % int(bits, 2)


def unpack_indices(word, recipients):
    """What pack_indices() made, ascending; ValueError if it is no such number, or names one beyond `recipients`."""
    if not 0 < len(word) <= recipients // 4 + 1 or word.strip(b'0123456789abcdef'):
        raise ValueError('no set of recipients')
    indices = [index for index, bit in enumerate(reversed('{:b}'.format(int(word, 16)))) if bit == '1']
    if indices and indices[-1] >= recipients:
        raise ValueError('no such recipient')
    return indices


def replay(data, ident, recipients):
    """The View that a state file's bytes (whole, damaged or empty) give of a message with so many recipients."""
    view = View(recipients)
    found, view.end, view.lost = entries(data, ident)
    view.tail = len(data) - view.end
    for letter, fields in found:
        view.apply(letter, fields)
    return view
