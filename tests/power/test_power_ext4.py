"""Power cuts on a real ext4: queued under load, the file system shut down under it without a flush, mounted again.

FS_IOC_SHUTDOWN (flag 2) drops everything that was not written: the page cache's dirty bytes and the open journal
transaction.  Needs root and loop devices.
"""
import contextlib
import fcntl
import os
import select
import shutil
import subprocess
import tempfile

import pytest

from qpy.core import submit as protocol
from tests.peers import queued as rig

pytestmark = [pytest.mark.root, pytest.mark.skipif(not os.path.exists('/dev/loop-control') or not shutil.which('mkfs.ext4'),
                                                   reason='needs loop devices and mkfs.ext4')]
FS_IOC_SHUTDOWN, WITHOUT_FLUSH = 0x8004587D, 2


def body(number):
    """Small ones, and now and then one that streams."""
    return b'Subject: %d\n\n' % number + b'x' * (400_000 if number % 10 == 0 else number % 3000)


def one(number):
    """Message `number` as the channel carries it."""
    return protocol.frame(body(number)) + protocol.END + protocol.envelope(b'a', [b'b%d' % number])


@contextlib.contextmanager
def ext4():
    """(mount point, function that mounts again after a shutdown)."""
    top = tempfile.mkdtemp(prefix='qpy-power-')
    os.chmod(top, 0o755)
    image, place = top + '/image', top + '/disk'
    os.mkdir(place)
    with open(image, 'wb') as file:
        file.truncate(200 << 20)
    subprocess.run(['mkfs.ext4', '-q', image], check=True)

    def mount():
        subprocess.run(['mount', '-o', 'loop', image, place], check=True)

    def again():
        subprocess.run(['umount', place], check=True)
        mount()
    try:
        try:
            mount()
        except subprocess.CalledProcessError:
            pytest.skip('loop mounts are not allowed here')
        yield place, again
    finally:
        subprocess.run(['umount', place])
        shutil.rmtree(top)


def cut(place):
    """The power goes."""
    fd = os.open(place, os.O_RDONLY)
    fcntl.ioctl(fd, FS_IOC_SHUTDOWN, WITHOUT_FLUSH.to_bytes(4, 'little'))
    os.close(fd)


def load(home, place, wanted, prelude=''):
    """20 clients; the power goes when `wanted` messages are acknowledged.  Returns {ID: number} of all that were."""
    daemon = rig.Daemon(home, 'queued', [b'submit', b'new'], prelude)
    poller, clients, number, acknowledged = select.epoll(), {}, 0, {}
    for _ in range(20):
        sock = rig.connect(home, b'submit')
        sock.sendall(protocol.VERSION + one(number))
        clients[sock.fileno()] = [sock, number]
        poller.register(sock.fileno(), select.EPOLLIN)
        number += 1
    is_cut = False
    while clients:
        for fd, _ in poller.poll():
            sock, which = clients[fd]
            try:
                said = sock.recv(1000)
            except OSError:
                said = b''
            if said[:1] == b'K':
                acknowledged[said[1:17]] = which
            if said and not is_cut:
                sock.sendall(one(number))
                clients[fd][1] = number
                number += 1
            else:
                poller.unregister(fd)
                sock.close()
                del clients[fd]
        if len(acknowledged) >= wanted and not is_cut:
            cut(place)
            is_cut = True
    daemon.kill()
    return acknowledged


@pytest.mark.parametrize('own', [False, True])
def test_acknowledged_messages_survive_the_cut(own):
    """INV1, INV2: in both ways of syncing, cut after cut: every acknowledged message is whole; no torn one passes."""
    with ext4() as (place, again):
        if own:                                     # DIR elsewhere, the queue alone on the disk
            top = tempfile.mkdtemp(prefix='qpy-power-')
            os.chmod(top, 0o755)
            os.mkdir(top + '/qpy')
            os.symlink(place, top + '/qpy/queue')
            home = rig.make_home(top + '/qpy')
        else:
            home = rig.make_home(place + '/qpy')
        acknowledged = {}
        try:
            for wanted in (1, 20, 63, 150):
                acknowledged.update(load(home, place, wanted))
                again()
                if own:
                    assert os.stat(home).st_dev != os.stat(home + b'/queue/mess').st_dev
                os.makedirs(home + b'/run', exist_ok=True)
                rig.check(home, acknowledged, body)
        finally:
            if own:
                shutil.rmtree(top)


def test_control_without_any_sync_the_rig_reports_losses():
    """If queued does not sync at all, the cut must be seen to lose acknowledged mail; else this rig is broken."""
    with ext4() as (place, again):
        home = rig.make_home(place + '/qpy')
        os.sync()
        acknowledged = load(home, place, 100, 'from qpy import unix, unix_kernel\nunix.fsync = lambda fd: None\n'
                            'unix_kernel.fsync_together = lambda fds: [None] * len(fds)')
        again()
        with pytest.raises((AssertionError, OSError)):          # gone, or not even readable any more
            rig.check(home, acknowledged, body)
