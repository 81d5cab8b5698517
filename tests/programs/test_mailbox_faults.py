"""Maildir and mbox when the system fails: every call, every time, and the order that makes a delivery durable."""
import errno
import os

import pytest

from qpy import unix
from qpy.user import mailbox

MESSAGE = b'Subject: x\n\nbody\n'
HEAD = b'Return-Path: <>\n'
CALLS = ('open', 'write', 'fsync', 'close', 'link', 'unlink', 'pread', 'posix_fadvise', 'mkdir', 'stat', 'fstat',
         'urandom', 'lockf', 'flock', 'ftruncate')


def failures(calls, numbers):
    """Each call with each errno; writes are short too."""
    return [(call, number) for call in calls for number in numbers] + [('write', 'short')]


class Seam:
    """Records the calls that qpy.unix gets; fails call number `fail` of `name` with `number`, or writes short."""

    def __init__(self, monkeypatch, name=None, fail=0, number=errno.EIO):
        self.calls, self.counts = [], {}
        for call in CALLS:
            monkeypatch.setattr(unix, call, self.wrap(call, getattr(unix, call), call == name, fail, number))

    def wrap(self, call, real, here, fail, number):
        def wrapped(*args, **more):
            self.counts[call] = self.counts.get(call, 0) + 1
            if here and self.counts[call] == fail:
                if number == 'short':
                    return real(args[0], bytes(args[1])[:1], *args[2:])
                if call == 'close':
                    real(*args)
                raise OSError(number, os.strerror(number))
            result = real(*args, **more)
            self.calls.append((call, args, result))
            return result
        return wrapped


@pytest.fixture
def home(tmp_path):
    """(descriptor of a home with two Maildirs, descriptor of a message, path)."""
    for box in 'ab':
        for part in ('', '/tmp', '/new', '/cur'):
            (tmp_path / (box + part)).mkdir(mode=0o700)
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    message = unix.memfd(MESSAGE)
    yield fd, message, tmp_path
    os.close(fd)
    os.close(message)


def deliver(fd, message, whole=True, create=False):
    """Three messages in a batch: {key: None or why not}."""
    batch, results = mailbox.Batch(b'host'), {}
    for key, paths in enumerate(([b'./a/'], [b'./b/'], [b'./a/', b'./b/'])):
        try:
            batch.put(key, fd, b'/home', paths, create, HEAD, MESSAGE if whole else None, message)
        except mailbox.Failed as end:
            results[key] = end
    results.update(batch.commit())
    return results


#: of the batch above: whom each fsync is for, those of the files and then those of a's new/ and b's
SYNCED_FOR = ({0}, {1}, {2}, {2}, {0, 2}, {1, 2})


def files(path, part):
    return [item for box in 'ab' for item in (path / box / part).iterdir()]


def test_the_order(home, monkeypatch):
    """INV1, L-20: each file is synced before any name appears in new/, each new/ is synced after its last name."""
    fd, message, path = home
    seam = Seam(monkeypatch)
    assert deliver(fd, message) == {0: None, 1: None, 2: None}
    names = [call for call, _, _ in seam.calls if call in ('fsync', 'link')]
    assert names == ['fsync'] * 4 + ['link'] * 4 + ['fsync'] * 2
    assert all(b'new/' in args[1] and args[0] == args[1].replace(b'new/', b'tmp/') for call, args, _ in seam.calls
               if call == 'link')
    assert len(files(path, 'new')) == 4 and not files(path, 'tmp')


@pytest.mark.parametrize('call, number', failures(('open', 'write', 'fsync', 'close', 'link', 'unlink', 'posix_fadvise',
                                                   'stat', 'urandom', 'pread'), (errno.ENOSPC, errno.EIO)))
@pytest.mark.parametrize('whole', [True, False])
def test_every_failure_of_a_batch(home, call, number, whole):
    """Q-01, Q-04 to Q-07, L-18: whatever call fails, what is reported as delivered is there whole, the others go on,
    nothing else is whole in new/ but what a failed sync left in doubt, and tmp/ is empty."""
    fd, message, path = home
    fail = 0
    while True:
        fail += 1
        with pytest.MonkeyPatch.context() as patch:
            seam = Seam(patch, call, fail, number)
            results = deliver(fd, message, whole)
        delivered = [key for key, problem in results.items() if problem is None]
        found = files(path, 'new')
        assert set(results) == {0, 1, 2}
        assert all(item.read_bytes() == HEAD + MESSAGE for item in found)
        assert len(found) >= sum(2 if key == 2 else 1 for key in delivered)
        assert number != 'short' or len(delivered) == 3
        if call == 'fsync' and fail <= len(SYNCED_FOR):
            assert {key for key, problem in results.items() if problem is not None} == SYNCED_FOR[fail - 1]
        if call != 'unlink':
            assert not files(path, 'tmp'), (call, fail)
        if not (call == 'fsync' and fail > 4):
            assert len(found) <= sum(2 if key == 2 else 1 for key in delivered) + (1 if call == 'link' else 0)
        for item in found + files(path, 'tmp'):
            item.unlink()
        if seam.counts.get(call, 0) < fail:
            break
    assert delivered == [0, 1, 2]


def test_a_missing_maildir_is_made_durable(home, monkeypatch):
    """Default delivery makes the Maildir, and syncs what holds the new names, before the message counts."""
    fd, message, path = home
    seam = Seam(monkeypatch)
    batch = mailbox.Batch(b'host')
    batch.put(0, fd, b'/home', [b'./Maildir/'], True, HEAD, MESSAGE, message)
    assert batch.commit() == {0: None}
    assert [call for call, _, _ in seam.calls if call in ('fsync', 'link', 'mkdir')] == (
        ['mkdir', 'fsync', 'mkdir', 'mkdir', 'fsync', 'mkdir', 'fsync', 'fsync', 'link', 'fsync'])


@pytest.mark.parametrize('call, number', failures(('open', 'write', 'fsync', 'stat', 'fstat', 'pread', 'lockf',
                                                   'flock'), (errno.ENOSPC, errno.EIO, errno.ENOLCK)))
def test_every_failure_of_an_mbox(home, call, number):
    """L-18: after any failure the mbox is as it was; after a success it has exactly one message more."""
    fd, message, path = home
    before = b'From a\n\nx\n\n'
    fail = 0
    while True:
        fail += 1
        (path / 'mbox').write_bytes(before)
        with pytest.MonkeyPatch.context() as patch:
            seam = Seam(patch, call, fail, number)
            try:
                mailbox.append(fd, b'./mbox', b'From b\n' + HEAD, message)
                whole = True
            except mailbox.Failed as end:
                whole, code = False, end.code
                assert code == 111
        data = (path / 'mbox').read_bytes()
        assert data == (before + b'From b\n' + HEAD + MESSAGE + b'\n' if whole else before), (call, fail)
        assert not (path / 'mbox.lock').exists()
        if seam.counts.get(call, 0) < fail:
            break
    assert whole


@pytest.mark.parametrize('free', [True, False])
def test_only_who_holds_the_lock_cuts_an_mbox_back(home, monkeypatch, free):
    """L-18: where the file system knows no locks, somebody else may have added his message behind ours meanwhile: it
    stays, with what we had written before it."""
    fd, message, path = home
    before, other = b'From a\n\nx\n\n', b'From other\n\ny\n\n'
    (path / 'mbox').write_bytes(before)

    def no_locks(*args):
        raise OSError(errno.ENOLCK, 'no locks')

    def fail(there):
        with open(path / 'mbox', 'ab') as file:
            file.write(other)
        raise OSError(errno.EIO, 'Input/output error')
    if not free:
        monkeypatch.setattr(unix, 'lockf', no_locks)
        monkeypatch.setattr(unix, 'flock', no_locks)
    monkeypatch.setattr(unix, 'fsync', lambda there: fail(there) if unix.S_ISREG(os.fstat(there).st_mode) else None)
    with pytest.raises(mailbox.Failed):
        mailbox.append(fd, b'./mbox', b'From b\n' + HEAD, message)
    data = (path / 'mbox').read_bytes()
    assert data == before if free else data.startswith(before) and data.endswith(other)


def test_a_name_that_is_taken(home, monkeypatch):
    """L-12: a name that exists, with a clock that stands still, is never overwritten: another is tried, then later."""
    fd, message, path = home
    names = [b'1.taken', b'1.taken', b'1.free']
    monkeypatch.setattr(mailbox, 'new_name', lambda host: names.pop(0))
    (path / 'a/tmp/1.taken').write_bytes(b'other')
    batch = mailbox.Batch(b'host')
    batch.put(0, fd, b'/home', [b'./a/'], False, HEAD, MESSAGE, message)
    assert batch.commit() == {0: None}
    assert (path / 'a/tmp/1.taken').read_bytes() == b'other'
    (path / 'a/new/2.taken').write_bytes(b'other')
    names += [b'2.taken']
    batch = mailbox.Batch(b'host')
    batch.put(0, fd, b'/home', [b'./a/'], False, HEAD, MESSAGE, message)
    assert isinstance(batch.commit()[0], FileExistsError)
    assert (path / 'a/new/2.taken').read_bytes() == b'other' and not (path / 'a/tmp/2.taken').exists()


def test_a_file_system_without_links(home, monkeypatch):
    """Where there are no hard links the file is renamed, if nothing has the name."""
    fd, message, path = home

    def no_links(*args, **more):
        raise OSError(errno.EPERM, 'no links')
    monkeypatch.setattr(unix, 'link', no_links)
    assert deliver(fd, message) == {0: None, 1: None, 2: None}
    assert len(files(path, 'new')) == 4 and not files(path, 'tmp')
