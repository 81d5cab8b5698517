"""lib.cdb: cdb files that are replaced, rewritten and missing."""
import os

import pytest

from qpy import unix
from qpy.core import cdb as bytes_
from qpy.lib import cdb


@pytest.fixture
def path(tmp_path):
    """Where a database may be."""
    return os.fsencode(tmp_path / 'cdb')


def value(database, key=b'k'):
    """What the database answers."""
    return database.ask(lambda db: db.get(key), absent=b'no file')


def test_follows_replacement_and_absence(path):
    """Absent, written, replaced, removed: each question is answered by what is there then."""
    database = cdb.Database(path)
    assert value(database) == b'no file'
    cdb.replace(path, bytes_.build([(b'k', b'1')]))
    assert value(database) == value(database) == b'1'
    cdb.replace(path, bytes_.build([(b'k', b'2')]))
    assert value(database) == b'2'
    os.unlink(path)
    assert value(database) == b'no file'
    assert os.listdir(os.path.dirname(path)) == []


def test_damage_is_temporary_and_mends_itself(path):
    """A truncated, empty or unreadable file is CdbError; when it is whole again it answers (A-04)."""
    database = cdb.Database(path)
    whole = bytes_.build([(b'k', b'1')])
    for bad in (b'', whole[:2048], whole[:-1]):
        with open(path, 'wb') as out:
            out.write(bad)
        with pytest.raises(cdb.CdbError):
            value(database)
    cdb.replace(path, whole)
    assert value(database) == b'1'
    os.unlink(path)
    os.mkdir(path)
    with pytest.raises(cdb.CdbError):
        value(database)


def test_rewriting_in_place_is_noticed(path):
    """A file that changes under the question is an error for that question, not a mixture (A-05)."""
    cdb.replace(path, bytes_.build([(b'k', b'1')]))
    database = cdb.Database(path)

    def meddle(db):
        with open(path, 'r+b') as file:
            file.truncate(3000)
        return db.get(b'k')
    with pytest.raises(cdb.CdbError):
        database.ask(meddle)


def test_replace_is_durable_and_whole(path, monkeypatch):
    """The bytes are synced before the name moves, the directory after; a failure leaves the old file."""
    cdb.replace(path, bytes_.build([(b'k', b'old')]))
    calls = []
    for name in ('fsync', 'rename'):
        real = getattr(unix, name)
        monkeypatch.setattr(unix, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1])
    cdb.replace(path, bytes_.build([(b'k', b'new')]))
    assert calls == ['fsync', 'rename', 'fsync']

    def full(fd, data):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(unix, 'write', full)
    with pytest.raises(OSError):
        cdb.replace(path, b'x')
    assert value(cdb.Database(path)) == b'new'


def test_mode(path):
    """The file is readable for all, writable for its owner, whatever the umask."""
    before = os.umask(0o077)
    try:
        cdb.replace(path, bytes_.build([]))
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o644
