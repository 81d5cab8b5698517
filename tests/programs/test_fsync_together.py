"""unix_kernel.fsync_together: many files made durable at once, each with its own answer; and the file systems of a queue."""
import errno
import os
import signal
import subprocess
import sys

import pytest

from qpy import unix, unix_kernel
from qpy.qpyq import queued
from tests.peers import queued as rig
from tests.power import recorder


class FailingServer(recorder.Server):
    """A file system that cannot make anything durable."""

    def fsync(self, node, request):
        os.write(self.log, b'asked ')
        return errno.EIO


@pytest.fixture
def failing(tmp_path):
    """A directory with one file, `disk`, whose fsync fails after it was asked for."""
    if not os.access('/dev/fuse', os.W_OK):
        pytest.skip('no /dev/fuse here')
    place = tmp_path / 'failing'
    place.mkdir()
    (tmp_path / 'image').write_bytes(bytes(65536))
    pid = recorder.mount(str(place), str(tmp_path / 'image'), str(tmp_path / 'log'), FailingServer)
    yield place
    os.kill(pid, signal.SIGKILL)                # also if a test that failed has left a file open
    recorder.unmount(str(place), pid)


@pytest.mark.root
def test_a_sync_that_fails_later(failing, tmp_path):
    """A file whose fsync the kernel takes, and which fails in its time, has its own answer too."""
    good = files(tmp_path, 3)
    bad = os.open(failing / 'disk', os.O_RDWR)
    os.write(bad, b'x' * 5000)
    found = unix_kernel.fsync_together([good[0], bad, *good[1:]])
    assert [problem and problem.errno for problem in found] == [None, errno.EIO, None, None]
    assert (tmp_path / 'log').read_bytes()
    for fd in (*good, bad):
        os.close(fd)


@pytest.mark.root
def test_syncfs_is_not_believed_everywhere(failing, tmp_path):
    """A queue on a file system of its own has its files synced one by one where syncfs is not known to do that: FUSE is
    not even asked."""
    directory = os.open(failing, os.O_RDONLY)
    unix_kernel.syncfs(directory)
    assert not (tmp_path / 'log').read_bytes()
    assert not queued.own_file_system(os.fsencode(tmp_path), directory)
    os.close(directory)


SERVED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tests.peers import queued as rig
home = rig.make_home(sys.argv[2])
daemon = rig.Daemon(home, 'queued', [b'submit', b'new'])
rig.wait_until(lambda: b'\\n' in daemon.log())
code = daemon.end()
os.write(1, b'%d %s' % (code, daemon.log()))
"""


@pytest.mark.root
@pytest.mark.parametrize('mounted', ['', '/mess', '/state', '/damaged'])
def test_a_queue_on_several_file_systems(mounted):
    """A file system mounted at a part of the queue is refused at start, with where it belongs; at the queue it serves."""
    with rig.temporary_home() as home:
        name = os.fsdecode(home)
        done = subprocess.run(['unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o mode=755 x "$0" && exec "$@"',
                               name + '/queue' + mounted, sys.executable, '-c', SERVED, rig.SOURCE, name], capture_output=True, timeout=60)
    if mounted:
        assert done.stdout == (b'111 qpy-queued: fatal: unable to use %b/queue: mess, state and damaged are on different file '
                               b'systems; mount one at %b/queue, with all three in it\n' % (home, home)), done
    else:
        assert done.stdout.startswith(b'0 ') and b'status: sync by ' in done.stdout, done


def test_answers_that_were_not_collected_are_nobodys(tmp_path, monkeypatch):
    """After an error between the call and its answers the next group has its own: nothing is said to be safe before it is."""
    fds = files(tmp_path, 3)
    assert unix_kernel.fsync_together(fds) == [None] * 3

    def out_of_memory(*args):
        raise MemoryError
    with monkeypatch.context() as patch:
        patch.setattr(unix_kernel, '_fsync_results', out_of_memory)
        with pytest.raises(MemoryError):
            unix_kernel.fsync_together(fds)
    asked = []
    monkeypatch.setattr(unix, 'fsync', asked.append)
    assert unix_kernel.fsync_together(fds) == [None] * 3 and asked == fds
    monkeypatch.setattr(unix_kernel, '_aio', (0, None))         # for whoever comes after this test
    for fd in fds:
        os.close(fd)


def files(directory, count):
    """So many descriptors of files that have been written to."""
    fds = [os.open(os.path.join(directory, '%d' % n), os.O_CREAT | os.O_WRONLY) for n in range(count)]
    for fd in fds:
        os.write(fd, b'x' * 5000)
    return fds


def test_none_for_each_that_is_on_disk(tmp_path):
    """No file, one, some, and more than the kernel takes at once: None for each."""
    for count in (0, 1, 2, 17, 2 * unix_kernel._AIO_DEPTH + 3):
        fds = files(tmp_path, count)
        assert unix_kernel.fsync_together(fds) == [None] * count
        for fd in fds:
            os.close(fd)


def test_each_has_its_own_answer(tmp_path):
    """Descriptors that cannot be synced are named by their place, whether the kernel refuses them at once or later."""
    good, (out, into) = files(tmp_path, 2), os.pipe()
    found = unix_kernel.fsync_together([good[0], out, 1_000_000, good[1], into])
    assert [problem is None for problem in found] == [True, False, False, True, False]
    assert found[2].errno == errno.EBADF
    for fd in (*good, out, into):
        os.close(fd)


def test_a_child_has_a_context_of_its_own(tmp_path):
    """After a fork the child's files are synced too, and the parent's go on."""
    fds = files(tmp_path, 3)
    assert unix_kernel.fsync_together(fds) == [None] * 3
    pid = os.fork()
    if not pid:
        os._exit(unix_kernel.fsync_together(fds) != [None] * 3)
    assert os.waitpid(pid, 0)[1] == 0
    assert unix_kernel.fsync_together(fds) == [None] * 3
    for fd in fds:
        os.close(fd)


def test_without_aio_it_is_done_in_turn(tmp_path, monkeypatch):
    """On a machine whose calls are not known, or where the kernel has no more contexts, fsync is asked for each."""
    asked = []
    monkeypatch.setattr(unix_kernel, '_aio', (0, None))
    monkeypatch.setattr(unix_kernel, '_AIO_CALLS', {})
    monkeypatch.setattr(unix, 'fsync', asked.append)
    fds = files(tmp_path, 3)
    assert unix_kernel.fsync_together(fds) == [None] * 3
    assert asked == fds
    for fd in fds:
        os.close(fd)


def test_what_the_kernel_does_not_take_is_done_in_turn(tmp_path, monkeypatch):
    """A context that refuses everything is no loss: each is synced by fsync, and answers for itself."""
    asked = []
    calls = unix_kernel._AIO_CALLS.get(os.uname().machine)
    broken = (*calls[1:], unix_kernel._ctypes.c_ulong(12345)) if calls else None
    monkeypatch.setattr(unix_kernel, '_aio', (os.getpid(), broken))
    monkeypatch.setattr(unix, 'fsync', asked.append)
    fds = files(tmp_path, 3)
    assert unix_kernel.fsync_together(fds) == [None] * 3
    assert asked == fds
    for fd in fds:
        os.close(fd)
