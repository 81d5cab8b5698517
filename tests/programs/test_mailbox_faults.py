"""Maildir and mbox when the system fails: every call, every time, and the order that makes a delivery durable."""
import errno
import itertools
import os
import socket
import time

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


def test_a_long_message_is_pushed_while_it_is_written(home, monkeypatch):
    """So that the last fsync of 100 MB waits for the last part alone: the disk is asked to begin every PUSH_EVERY bytes."""
    fd, _, _ = home
    monkeypatch.setattr(mailbox, 'PUSH_EVERY', 100)
    monkeypatch.setattr(mailbox, 'CHUNK', 50)
    seam, long = Seam(monkeypatch), unix.memfd(b'x' * 1000)
    batch = mailbox.Batch(b'host')
    batch.put(0, fd, b'/home', [b'./a/'], False, HEAD, None, long)
    os.close(long)
    assert [call for call, _, _ in seam.calls if call in ('write', 'posix_fadvise')] == ['write'] + ['write', 'write', 'posix_fadvise'] * 10
    assert batch.commit() == {0: None}


def test_a_missing_maildir_is_made_durable(home, monkeypatch):
    """Default delivery makes the Maildir, and syncs what holds the new names, before the message counts."""
    fd, message, path = home
    seam = Seam(monkeypatch)
    batch = mailbox.Batch(b'host')
    batch.put(0, fd, b'/home', [b'./Maildir/'], True, HEAD, MESSAGE, message)
    assert batch.commit() == {0: None}
    assert [call for call, _, _ in seam.calls if call in ('fsync', 'link', 'mkdir')] == (
        ['mkdir', 'mkdir', 'mkdir', 'fsync', 'fsync', 'mkdir', 'fsync', 'link', 'fsync'])


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


class Killed(BaseException):
    """Nothing of the process happens any more."""


class Held:
    """An mbox and its Lock, on a real directory."""

    def __init__(self, path):
        self.dot, self.mine = path / 'mbox.lock', b'%d:%s\n' % (os.getpid(), os.fsencode(socket.gethostname()))
        self.home = os.open(path, os.O_PATH | os.O_DIRECTORY)
        self.fd = os.open(path / 'mbox', os.O_RDWR | os.O_CREAT)

    def take(self):
        """The Lock."""
        return mailbox.Lock(self.home, b'./mbox', self.fd)

    def close(self):
        """Whose process ends loses the kernel's locks."""
        os.close(self.fd)
        os.close(self.home)


def test_a_dot_lock_always_says_whose_it_is(tmp_path):
    """L-17, INV6: whoever is killed at any call while he takes or gives back the locks of an mbox leaves no dot-lock, or
    one that names him: it holds nobody up when he is gone."""
    for number in itertools.count(1):
        held, calls = Held(tmp_path), itertools.count(1)

        def dying(real, number=number, calls=calls):
            def call(*args, **more):
                if next(calls) >= number:
                    raise Killed()
                return real(*args, **more)
            return call
        with pytest.MonkeyPatch.context() as patch:
            for name in ('open', 'write', 'link', 'unlink', 'lockf', 'flock', 'close'):
                patch.setattr(unix, name, dying(getattr(unix, name)))
            try:
                held.take().release()
                break
            except Killed:
                pass
        assert not held.dot.exists() or held.dot.read_bytes() == held.mine, number
        held.close()
        for left in tmp_path.iterdir():
            left.unlink()
    assert number > 8 and os.listdir(tmp_path) == ['mbox']
    held.close()


def test_a_lost_answer_of_nfs(tmp_path, monkeypatch):
    """The link was made and its answer lost: said again it exists, and is ours by its number of names."""
    held, real = Held(tmp_path), unix.link

    def link(*args, **more):
        real(*args, **more)
        raise FileExistsError(errno.EEXIST, 'File exists')
    monkeypatch.setattr(unix, 'link', link)
    lock = held.take()
    assert lock.has_dot and held.dot.read_bytes() == held.mine
    lock.release()
    held.close()
    assert os.listdir(tmp_path) == ['mbox']


@pytest.mark.parametrize('call', ['link', 'open'])
def test_a_dot_lock_where_there_are_no_links(tmp_path, monkeypatch, call):
    """It is made in its place then; and where a directory takes no new name at all, it is done without, unless one is
    there already."""
    held, real = Held(tmp_path), getattr(unix, call)

    def refused(path, *args, **more):
        if call == 'link' or b'lk' in path:
            raise OSError(errno.EPERM, 'Operation not permitted')
        return real(path, *args, **more)
    monkeypatch.setattr(unix, call, refused)
    lock = held.take()
    assert lock.has_dot and held.dot.read_bytes() == held.mine
    lock.release()
    assert os.listdir(tmp_path) == ['mbox']
    held.dot.write_bytes(b'1:elsewhere\n')
    monkeypatch.setattr(mailbox, 'LOCK_PATIENCE', 0)
    with pytest.raises(mailbox.Failed):
        held.take()
    assert held.dot.read_bytes() == b'1:elsewhere\n'
    held.close()


@pytest.mark.parametrize('said', [b'', b'\0' * 20])
@pytest.mark.parametrize('since, counts', [(-10, False), (10, True)])
def test_a_dot_lock_without_a_name(tmp_path, monkeypatch, said, since, counts):
    """A power cut may take the bytes of a dot-lock: an empty one is nobody's if it is older than the host's start."""
    held = Held(tmp_path)
    started = int(time.time()) - 100
    monkeypatch.setattr(unix, 'read_file', lambda path: b'cpu 1\nbtime %d\nprocesses 1\n' % started)
    monkeypatch.setattr(mailbox, 'LOCK_PATIENCE', 0.01)
    held.dot.write_bytes(said)
    os.utime(held.dot, (started + since,) * 2)
    if counts:
        with pytest.raises(mailbox.Failed):
            held.take()
        assert held.dot.read_bytes() == said
    else:
        held.take().release()
        assert not held.dot.exists()
    held.close()


def test_when_the_host_was_started(monkeypatch):
    """As the kernel says; where that cannot be seen, at the beginning of time, before which there are no locks."""
    assert 0 < mailbox.started() <= time.time()
    monkeypatch.setattr(unix, 'read_file', lambda path: b'cpu 1\n')
    assert mailbox.started() == 0


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
    """INV1, L-20: where there are no hard links the file is renamed, if nothing has the name, and each new/ is synced
    after its last name as everywhere."""
    fd, message, path = home
    order, rename, fsync = [], unix.rename, unix.fsync

    def no_links(*args, **more):
        raise OSError(errno.EPERM, 'no links')

    def renamed(*args, **more):
        rename(*args, **more)
        order.append('rename')

    def synced(there):
        fsync(there)
        order.append(os.fstat(there).st_ino)
    monkeypatch.setattr(unix, 'link', no_links)
    monkeypatch.setattr(unix, 'rename', renamed)
    monkeypatch.setattr(unix, 'fsync', synced)
    assert deliver(fd, message) == {0: None, 1: None, 2: None}
    found = files(path, 'new')
    assert len(found) == 4 and not files(path, 'tmp')
    assert set(order[:4]) == {item.stat().st_ino for item in found}
    assert order[4:] == ['rename'] * 4 + [(path / box / 'new').stat().st_ino for box in 'ab']
