"""Real file systems in images in memory, to be recorded (recorder.py) and looked at.

    with workspace() as top:
        image, options = make(top, 'ext4 without a journal')
        mount(device or image, top + '/disk', options)

Root only.
"""
import contextlib
import os
import shutil
import subprocess
import tempfile

import pytest

from tests.peers import debian

MEGABYTES = {'xfs': 320, 'btrfs': 128}
DISKS = {
    'ext4': ('ext4', [], ''),
    'ext4, data=writeback': ('ext4', [], 'data=writeback'),
    'ext4 without a journal': ('ext4', ['-O', '^has_journal'], ''),
    'xfs': ('xfs', [], ''),
    'btrfs': ('btrfs', [], ''),
}


def maker(kind):
    """The command that makes a file system; skips, and says so, where there is none."""
    packages = {'xfs': ('xfsprogs', 'libinih1', 'liburcu8'), 'btrfs': ('btrfs-progs', 'liblzo2-2')}
    if kind in packages:
        with open('/proc/filesystems') as file:
            if kind not in file.read().split():
                subprocess.run(['modprobe', kind], capture_output=True)
    try:
        return debian.program('mkfs.' + kind, *packages.get(kind, ('e2fsprogs',)))
    except RuntimeError as problem:
        pytest.skip('no mkfs.%s: %s' % (kind, problem))


@contextlib.contextmanager
def workspace():
    """A directory in memory for images, and a mount point in it."""
    top = tempfile.mkdtemp(prefix='qpy-power-', dir='/dev/shm')
    os.chmod(top, 0o755)
    os.mkdir(top + '/disk')
    try:
        yield top
    finally:
        subprocess.run(['umount', '-l', top + '/disk'], capture_output=True)
        shutil.rmtree(top)


def make(top, name):
    """(path of an image with an empty file system, mount options)."""
    kind, options, mounting = DISKS[name]
    image = top + '/base'
    with open(image, 'wb') as file:
        file.truncate(MEGABYTES.get(kind, 48) << 20)
    done = subprocess.run([maker(kind), '-q', *options, image], capture_output=True, text=True)
    if done.returncode:
        pytest.skip('mkfs.%s: %s' % (kind, done.stderr))
    return image, mounting


def mount(device, place, options, loop=False):
    """Mount it; a CalledProcessError if the file system cannot be mounted."""
    words = ['-o', ','.join(filter(None, [options, 'loop' if loop else '']))] if options or loop else []
    subprocess.run(['mount', *words, device, place], check=True, capture_output=True)


def mend(name, image):
    """What is done after a cut before such a disk is mounted."""
    if 'without a journal' in name:
        subprocess.run(['e2fsck', '-fy', image], capture_output=True)
