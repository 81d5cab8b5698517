"""A queue that has a file system of its own, on a disk that records what is written to it (recorder.py): the power goes at
the very moment of each yes, and of what the disk had not been told to make safe by then any part may be missing.

INV1, INV2, Q-12, Q-13.  Root only, with /dev/fuse and loop devices.
"""
import contextlib
import ctypes
import os
import subprocess
import threading

import pytest

from qpy.core import submit as protocol
from tests.peers import queued as rig
from tests.power import explorer, recorder
from tests.power.disks import DISKS, make, mend, mount, workspace

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300),
              pytest.mark.skipif(not (os.path.exists('/dev/fuse') and os.path.exists('/dev/loop-control')),
                                 reason='needs /dev/fuse and loop devices')]
CLIENTS, EACH = 4, 5
FILES = 16
libc = ctypes.CDLL(None, use_errno=True)


def body(number):
    """Small ones, and now and then one that streams."""
    return b'Subject: %d\n\n' % number + b'x' * (400_000 if number % 10 == 0 else number % 3000)


@contextlib.contextmanager
def recorded(top, name):
    """(base image, recorder) of a disk that is mounted on top/disk meanwhile."""
    base, mounting = make(top, name)
    with recorder.Recorder(base) as disk:
        mount(disk.device, top + '/disk', mounting)
        try:
            yield base, disk
        finally:
            subprocess.run(['umount', top + '/disk'], check=True)


def pictures(top, name, base, history, moments):
    """Mount what a cut at each of these moments has left, one after the other; yields the moment."""
    replay = recorder.Replay(base, history)
    for moment, cut in zip(moments, recorder.cuts_at(history, moments)):
        image = replay.image(cut)
        mend(name, image)
        mount(image, top + '/disk', DISKS[name][2], loop=True)
        try:
            yield moment
        finally:
            subprocess.run(['umount', top + '/disk'], check=True)
    replay.close()


def submit(home, disk, numbers, acknowledged):
    """Hand in these messages over one connection; acknowledged gets (moment, ID, number)."""
    with rig.connect(home, b'submit') as sock:
        sock.sendall(protocol.VERSION)
        for number in numbers:
            sock.sendall(protocol.frame(body(number)) + protocol.END + protocol.envelope(b'a', [b'b%d' % number]))
            said = sock.recv(1000)
            assert said[:1] == b'K', said
            acknowledged.append((disk.position(), said[1:17], number))


@pytest.mark.parametrize('name', DISKS)
def test_a_yes_is_true_at_its_moment(name):
    """Whatever queued has said yes to is whole on the disk; where syncfs does not do that (ext4 without a journal), queued
    does without it."""
    with workspace() as top:
        acknowledged = []
        with recorded(top, name) as (base, disk):
            os.mkdir(top + '/qpy')
            os.mkdir(top + '/disk/queue')
            os.symlink(top + '/disk/queue', top + '/qpy/queue')
            home = rig.make_home(top + '/qpy')
            os.sync()
            daemon = rig.Daemon(home, 'queued', [b'submit', b'new'])
            threads = [threading.Thread(target=submit, args=(home, disk, range(n, CLIENTS * EACH, CLIENTS), acknowledged))
                       for n in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            daemon.end()
            assert len(acknowledged) == CLIENTS * EACH
            assert (b'sync by fsync' if 'without' in name else b'sync by syncfs') in daemon.log()
        tried = 0
        for moment in pictures(top, name, base, disk.history, sorted({moment for moment, _, _ in acknowledged})):
            rig.check(home, {ident: number for said, ident, number in acknowledged if said <= moment}, body)
            tried += 1
        explorer.FIGURES['real disks'] = explorer.FIGURES.get('real disks', 0) + tried


def kept(top, name, safe):
    """How many of FILES files that were safe by safe(descriptor, directory) are whole in cuts at just that moment."""
    text, moments, whole = b'all of it\n' * 20, [], 0
    with recorded(top, name) as (base, disk):
        os.mkdir(top + '/disk/files')
        directory = os.open(top + '/disk/files', os.O_RDONLY)
        os.sync()
        for number in range(FILES):
            fd = os.open(top + '/disk/files/%d' % number, os.O_WRONLY | os.O_CREAT)
            os.write(fd, text)
            safe(fd, directory)
            os.close(fd)
            moments.append(disk.position())
        os.close(directory)
    for number, _ in enumerate(pictures(top, name, base, disk.history, moments)):
        with contextlib.suppress(FileNotFoundError), open(top + '/disk/files/%d' % number, 'rb') as file:
            whole += file.read() == text
    return whole


def syncfs(fd, directory):
    """The whole file system."""
    assert libc.syncfs(directory) == 0


def fsync(fd, directory):
    """The file and its name."""
    os.fsync(fd)
    os.fsync(directory)


def test_control_syncfs_without_a_journal():
    """Nothing of qpy: why queued does without syncfs on an ext4 without a journal.  What syncfs should have made safe is not
    there after a cut; with a journal, or after fsync, it is."""
    for name, way in (('ext4', syncfs), ('ext4 without a journal', fsync)):
        with workspace() as top:
            assert kept(top, name, way) == FILES, (name, way)
    with workspace() as top:
        if kept(top, 'ext4 without a journal', syncfs) == FILES:
            pytest.skip('the syncfs of this kernel keeps its promise there')


def test_control_a_picture_is_looked_at_and_not_the_one_before():
    """Somebody else has the loop devices open meanwhile, as losetup and mount have: each picture is still its own."""
    with workspace() as top:
        with recorded(top, 'ext4') as (base, disk):
            moments = []
            for number in range(4):
                with open(top + '/disk/%d' % number, 'w') as file:
                    file.flush()
                    os.fsync(file.fileno())
                moments.append(disk.position())
        held = []
        for number, _ in enumerate(pictures(top, 'ext4', base, disk.history, moments)):
            names = [name for name in os.listdir(top + '/disk') if name.isdigit()]
            assert len(names) == number + 1
            held.append(os.open(device(top + '/disk'), os.O_RDONLY))
        for fd in held:
            os.close(fd)


def device(place):
    """The loop device mounted there."""
    with open('/proc/self/mounts') as file:
        return next(line.split()[0] for line in file if line.split()[1] == place)
