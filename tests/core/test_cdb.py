"""core.cdb: the constant database, whole and damaged."""
import struct

import pytest
from hypothesis import given, settings, strategies as st

from qpy.core import cdb

KEYS = st.binary(max_size=6)
RECORDS = st.lists(st.tuples(KEYS, st.binary(max_size=12)), max_size=30)


def watched(data):
    """A reader over data that fails the test when something outside is asked for."""
    def read_at(offset, count):
        assert 0 <= offset and count >= 0 and offset + count <= len(data)
        return data[offset:offset + count]
    return cdb.Cdb(read_at, len(data))


@given(RECORDS, KEYS)
def test_what_was_written_is_read(records, absent):
    """Every key gives its first value, all its values in order, and the records in order; others give None."""
    db = watched(cdb.build(records))
    for key, _ in records:
        assert db.all(key) == [v for k, v in records if k == key]
        assert db.get(key) == db.all(key)[0]
    if absent not in dict(records):
        assert db.get(absent) is None and db.all(absent) == []
    assert list(db.records()) == records


def test_known_bytes():
    """The format byte by byte, for one record: written down by hand from the specification."""
    data = cdb.build([(b'one', b'Hello')])
    h = 5381
    for c in b'one':
        h = ((h << 5) + h ^ c) & 0xffffffff
    record = struct.pack('<II', 3, 5) + b'oneHello'
    header = b''.join(struct.pack('<II', 2048 + 16 + (16 if n > h & 255 else 0), 2 if n == h & 255 else 0)
                      for n in range(256))
    slots = [b'\0' * 8] * 2
    slots[(h >> 8) % 2] = struct.pack('<II', h, 2048)
    assert data == header + record + b''.join(slots)


def test_hash():
    """The hash starts with 5381."""
    assert cdb.hashed(b'') == 5381
    assert cdb.hashed(b'a') == 5381 * 33 ^ 97


@given(st.binary(max_size=30))
def test_prefix_hashes(key):
    """One pass gives the hash of every prefix."""
    assert cdb.prefix_hashes(key) == [cdb.hashed(key[:n]) for n in range(len(key) + 1)]


@given(RECORDS, st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6), KEYS)
@settings(max_examples=200)
def test_damage_is_an_error_or_harmless(records, damage, key):
    """Bytes changed anywhere: never a read outside, never anything but a value, None or CdbError (A-04)."""
    data = bytearray(cdb.build(records))
    for where, what in damage:
        data[where % len(data)] = what
    ask_all(bytes(data), [key] + [k for k, _ in records])


@given(st.binary(max_size=300), st.integers(0, 2400), KEYS)
def test_garbage(data, repeat, key):
    """A file of arbitrary bytes does no harm."""
    ask_all((data * (1 + repeat // (len(data) + 1)))[:4000], [key])


def ask_all(data, keys):
    """Ask a possibly damaged database everything: an answer is what stands beside the key in these bytes."""
    try:
        db = watched(data)
    except cdb.CdbError:
        return
    for key in keys:
        try:
            values = db.all(key)
            assert db.get(key) == (values[0] if values else None)
        except cdb.CdbError:
            continue
        assert all(key + value in data for value in values)
    try:
        assert all(key + value in data for key, value in db.records())
    except cdb.CdbError:
        pass


GOOD = cdb.build([(b'key%d' % n, b'v' * n) for n in range(40)])


@pytest.mark.parametrize('length', [0, 1, 2047, 2048, 2049, len(GOOD) - 8, len(GOOD) - 1])
def test_truncation_is_noticed_at_once(length):
    """A file that lost its tail, or all of itself, is an error for each question, never `not found` (A-04)."""
    with pytest.raises(cdb.CdbError):
        watched(GOOD[:length])


def test_every_truncation():
    """Wherever the file was cut."""
    for length in range(len(GOOD)):
        with pytest.raises(cdb.CdbError):
            watched(GOOD[:length])


def test_zeros_and_growth():
    """A file of zeros, or one with bytes behind its end, is damaged; an empty database is not."""
    for data in (b'\0' * 2048, b'\0' * 5000, GOOD + b'x', GOOD + b'\0' * 8):
        with pytest.raises(cdb.CdbError):
            watched(data)
    assert watched(cdb.build([])).get(b'key') is None


def test_wrong_byte_order():
    """A big-endian database is damaged."""
    words = struct.unpack('<%dI' % (len(GOOD) // 4), GOOD[:len(GOOD) // 4 * 4])
    with pytest.raises(cdb.CdbError):
        watched(struct.pack('>%dI' % len(words), *words) + GOOD[len(GOOD) // 4 * 4:])


def test_hash_loop():
    """A table whose slots are all taken ends in an error, not in a loop."""
    h = cdb.hashed(b'k')
    data = bytearray(cdb.build([(b'k', b'v')]))
    data[-16:] = struct.pack('<IIII', h ^ 256, 2048, h ^ 256, 2048)
    with pytest.raises(cdb.CdbError):
        watched(bytes(data)).get(b'k')


def test_huge_lengths_are_not_read():
    """A record that claims 4 GB is an error without an attempt to read them."""
    data = bytearray(cdb.build([(b'k', b'v')]))
    data[2048:2056] = struct.pack('<II', 1, 0xffffffff)
    with pytest.raises(cdb.CdbError):
        watched(bytes(data)).get(b'k')
    with pytest.raises(cdb.CdbError):
        cdb.Cdb(lambda offset, count: b'', 5 << 30)


def test_read_errors_are_cdb_errors():
    """What the reader cannot read is temporary trouble, a short read too."""
    def fail(offset, count):
        raise OSError(5, 'I/O error')
    for read_at in (fail, lambda offset, count: b''):
        with pytest.raises(cdb.CdbError):
            cdb.Cdb(read_at, 2048)


def test_many_equal_keys_are_bounded():
    """More values than a key may have are an error."""
    db = watched(cdb.build([(b'k', b'v')] * (cdb.MOST_VALUES + 1)))
    assert db.get(b'k') == b'v'
    with pytest.raises(cdb.CdbError):
        db.all(b'k')
