"""cdb: D. J. Bernstein's constant database, read without trust and written.

    2048 bytes of header: 256 pairs (position, slots) of hash tables
    records: key length, data length, key, data
    256 hash tables of slots (hash, record position), position 0 = free; each twice as long as it has entries
    all numbers 32 bit little-endian; hash of a key: start 5381, per byte h = ((h << 5) + h) ^ byte
    table = h & 255, first slot = (h >> 8) mod slots, then the next ones around

A reader must never take a damaged file for "not found": whatever does not fit is a CdbError, which every
caller treats as temporary. Nothing outside the file is read, and the number of probes and of bytes has a
bound.
"""
from struct import Struct

HEADER = 2048
PAIR = Struct('<II')
LONGEST = 1 << 20           # bytes of one value
MOST_PROBES = 20000         # slots looked at for one key
MOST_VALUES = 1000          # values of one key
MAXIMUM = 0xffffffff        # bytes of a file


class CdbError(Exception):
    """The file is damaged or cannot be read: temporary, never `not found`."""


def hashed(key):
    """The cdb hash of key."""
    h = 5381
    for byte in key:
        h = (h * 33 ^ byte) & MAXIMUM
    return h


def prefix_hashes(key):
    """[hash of key[:0], key[:1], ... key]: what asking for each prefix needs, in one pass."""
    h, found = 5381, [5381]
    for byte in key:
        h = (h * 33 ^ byte) & MAXIMUM
        found.append(h)
    return found


class Cdb:
    """A database of `size` bytes behind read_at(offset, count) -> bytes, fewer only at its end."""

    __slots__ = ('read_at', 'size', 'tables', 'end')

    def __init__(self, read_at, size):
        self.read_at, self.size = read_at, size
        if not HEADER <= size <= MAXIMUM:
            raise CdbError('a cdb cannot have %d bytes' % size)
        self.end = size
        self.tables = list(PAIR.iter_unpack(self.read(0, HEADER)))
        self.end = self.check_tables()

    def check_tables(self):
        """Where the records end. The tables fill the file from there to its end, without gap or overlap."""
        if any(not HEADER <= position <= self.size for position, _ in self.tables):
            raise CdbError('a hash table outside of the file')
        used = sorted((position, slots) for position, slots in self.tables if slots)
        if not used and self.size != HEADER:
            raise CdbError('records, but no hash table')
        at = end = used[0][0] if used else HEADER
        for position, slots in used:
            if position != at:
                raise CdbError('hash tables overlap or leave a gap')
            at += slots * PAIR.size
        if at != self.size:
            raise CdbError('the file does not end where its hash tables do')
        return end

    def read(self, offset, count):
        """Exactly count bytes at offset."""
        if offset + count > self.size:
            raise CdbError('a position outside of the file')
        try:
            data = self.read_at(offset, count)
        except OSError as problem:
            raise CdbError(problem.strerror or 'read error') from problem
        if len(data) != count:
            raise CdbError('the file ends too early')
        return data

    def record(self, position):
        """(key length, data length, position of the key) of a record, all of it before the tables."""
        if not HEADER <= position <= self.end - PAIR.size:
            raise CdbError('a record outside of the records')
        klen, dlen = PAIR.unpack(self.read(position, PAIR.size))
        position += PAIR.size
        if position + klen + dlen > self.end:
            raise CdbError('a record that ends outside of the records')
        return klen, dlen, position

    def candidates(self, h):
        """Record positions of the slots that carry the hash h, in the order of the table."""
        table, slots = self.tables[h & 255]
        if not slots:
            return
        slot = (h >> 8) % slots
        for _ in range(min(slots, MOST_PROBES)):
            found, position = PAIR.unpack(self.read(table + slot * PAIR.size, PAIR.size))
            if not position:
                return
            if found == h:
                yield position
            slot = (slot + 1) % slots
        raise CdbError('a hash table without a free slot')

    def values(self, key, h=None):
        """Each value of key, the one written first coming first. h: hash of key, if it is known."""
        for position in self.candidates(hashed(key) if h is None else h):
            klen, dlen, position = self.record(position)
            if klen == len(key) and self.read(position, klen) == key:
                if dlen > LONGEST:
                    raise CdbError('a value of %d bytes' % dlen)
                yield self.read(position + klen, dlen)

    def get(self, key, h=None):
        """The first value of key, None if there is none. h: hash of key, if it is known."""
        for value in self.values(key, h):
            return value
        return None

    def all(self, key):
        """All values of key, in the order they were written."""
        found = []
        for value in self.values(key):
            found.append(value)
            if len(found) > MOST_VALUES:
                raise CdbError('more than %d values for one key' % MOST_VALUES)
        return found

    def records(self):
        """Each (key, value), in the order they were written."""
        position = HEADER
        while position < self.end:
            klen, dlen, start = self.record(position)
            if max(klen, dlen) > LONGEST:
                raise CdbError('a record of %d bytes' % (klen + dlen))
            data = self.read(start, klen + dlen)
            yield data[:klen], data[klen:]
            position = start + klen + dlen


def over(data):
    """The database in a bytes object."""
    return Cdb(lambda offset, count: data[offset:offset + count], len(data))


def build(records):
    """The bytes of a database of (key, value) pairs; of equal keys the first counts. ValueError: too big."""
    pieces, at = [], HEADER
    entries = [[] for _ in range(256)]
    for key, value in records:
        h = hashed(key)
        entries[h & 255].append((h, at))
        pieces += PAIR.pack(len(key), len(value)), key, value
        at += PAIR.size + len(key) + len(value)
    if at + sum(2 * len(table) * PAIR.size for table in entries) > MAXIMUM:
        raise ValueError('a cdb cannot be longer than 4 GB')
    header = []
    for table in entries:
        header.append(PAIR.pack(at, 2 * len(table)))
        pieces.append(table_bytes(table))
        at += 2 * len(table) * PAIR.size
    return b''.join(header + pieces)


def table_bytes(entries):
    """One hash table: each (hash, position) in the first free slot from its own on."""
    slots = [(0, 0)] * (2 * len(entries))
    for h, position in entries:
        slot = (h >> 8) % len(slots)
        while slots[slot][1]:
            slot = (slot + 1) % len(slots)
        slots[slot] = h, position
    return b''.join(PAIR.pack(*pair) for pair in slots)
