"""Power cuts on real file systems: every block that reaches the disk is recorded while a whole installation takes and
delivers mail; then the disk is put into the states that a power cut could have left, mounted, and looked at.

INV1, INV2, Q-12, Q-13.  Root only, with /dev/fuse and loop devices.
"""
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading

import pytest

from qpy.core import mess
from tests.peers import debian
from tests.power import explorer, recorder
from tests.power.disks import DISKS, make, mend, mount, workspace

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'chain'))
import houses  # noqa: E402

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300),
              pytest.mark.skipif(not (os.path.exists('/dev/fuse') and os.path.exists('/dev/loop-control')),
                                 reason='needs /dev/fuse and loop devices')]
STATES = int(os.environ.get('QPY_POWER_STATES', '40'))      # of each kind of disk
RECOVERIES = 2              # of them, so many with the programs started again
CLIENTS, EACH = 4, 3
END = 'this is the end.\n'


class Load:
    """A whole installation on the disk, and what it was given and said yes to."""

    def __init__(self, disk, place, preload=None):
        self.disk, self.place, self.acknowledged, self.lock = disk, place, [], threading.Lock()
        before, tempfile.tempdir = tempfile.tempdir, place
        try:
            self.house = houses.House()
        finally:
            tempfile.tempdir = before
        self.house.recipe('user', '.qmail-box', './Mailbox\n')
        self.house.recipe('user', '.qmail-default', './Maildir/\n')
        if preload:
            self.preload(preload)

    def preload(self, library):
        """Have all programs run under a library."""
        there = self.house.top + '/preloaded.so'
        shutil.copy(library, there)
        os.chmod(there, 0o755)
        for name in os.listdir(self.house.home + '/bin'):
            path = self.house.home + '/bin/' + name
            with open(path) as file:
                text = file.read()
            if not os.path.islink(path):
                with open(path, 'w') as file:
                    file.write(text.replace('#!/usr/bin/python3', '#!/usr/bin/env -S LD_PRELOAD=%s /usr/bin/python3' % there, 1))
        self.without_aio()

    def without_aio(self):
        """The library does not know the kernel's aio, by which several files are synced together."""
        for directory, _, names in os.walk(self.house.top):
            if 'unix_kernel.py' in names:
                with open(directory + '/unix_kernel.py', 'r+') as file:
                    text = file.read().replace("_AIO_CALLS = {", "_AIO_CALLS = {} and {")
                    file.seek(0)
                    file.write(text)

    def run(self):
        """Mail from several clients at once, until all is delivered; the position in the history where it began."""
        self.house.start()
        os.sync()
        start = self.disk.position()
        threads = [threading.Thread(target=self.client, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(self.acknowledged) == CLIENTS * EACH
        self.house.await_that(lambda: self.house.queue() == [], 'empty queue')
        end = self.disk.position()
        self.house.stop()
        return start, end

    def client(self, number):
        """Several messages, one after the other; every third goes to the mbox, the last is long."""
        for i in range(EACH):
            which = number * EACH + i
            to = 'user-box@here.test' if which % 3 == 1 else 'user-list@here.test' if which % 3 == 2 else 'user@here.test'
            self.house.smtp(to, text=text_of(which).rstrip('\n'))
            with self.lock:
                self.acknowledged.append((self.disk.position(), which))


def text_of(which):
    """The text of message `which`: the last of a client is long."""
    lines = 'x' * 70 + '\n' if which % EACH < EACH - 1 else ('y' * 70 + '\n') * 6000
    return 'number %d of many\n%s%s' % (which, lines, END)


def whole_in(data, last=True):
    """The number of a whole message, None if it is torn or none.

    last: nothing comes after it.  In an mbox there may be the beginning of the next one, of which the cut has left any bytes
    or none at all: NULs."""
    before, mark, rest = data.partition(b'number ')
    if not mark:
        return None
    which = int(rest.split(b' ', 1)[0])
    text = text_of(which).encode()
    return which if text in data and (not last or data.rstrip(b'\n').endswith(text.rstrip())) else None


def look(house):
    """(numbers found whole anywhere, paths of torn files in new/) of the mounted disk."""
    found, torn = set(), []
    queue = house.home + '/queue/mess/'
    for name in os.listdir(queue):
        if mess.is_id(name.encode()):
            try:
                with open(queue + name, 'rb') as file:
                    found.add(whole_in(mess.unpack(file.read(), name.encode())[0]))
            except mess.Damaged:
                pass
    new = house.top + '/user/Maildir/new/'
    for name in os.listdir(new):
        with open(new + name, 'rb') as file:
            number = whole_in(file.read())
        found.add(number)
        if number is None:
            torn.append(name)
    with contextlib.suppress(FileNotFoundError), open(house.top + '/user/Mailbox', 'rb') as file:
        for piece in (b'\n' + file.read()).split(b'\nFrom ')[1:]:
            found.add(whole_in(piece, last=False))
    return found, torn


def losses(name, top, load, base, mounting, start, end, history, wanted):
    """(states tried, [what was lost or torn])."""
    replay, tried, bad = recorder.Replay(base, [r for r in history if r[0] <= end]), 0, []
    for cut in recorder.cuts(replay.history, start, wanted):
        image = replay.image(cut)
        mend(name, image)
        try:
            mount(image, load.place, mounting, loop=True)
        except subprocess.CalledProcessError as problem:
            bad.append('at %d: not mountable: %s' % (cut.position, problem.stderr))
            continue
        try:
            found, torn = look(load.house)
        except OSError as problem:
            found, torn = set(), [str(problem)]
        subprocess.run(['umount', load.place], check=True)
        tried += 1
        due = {which for position, which in load.acknowledged if position <= cut.position}
        bad += ['at %d: number %d is lost' % (cut.position, which) for which in sorted(due - found)]
        bad += ['at %d: torn: %s' % (cut.position, path) for path in torn]
    replay.close()
    return tried, bad


def recover(name, load, base, mounting, start, end, history, wanted):
    """Start the programs on some of the states: they deliver what was acknowledged and is not delivered yet."""
    replay = recorder.Replay(base, [r for r in history if r[0] <= end])
    for cut in recorder.cuts(replay.history, start, wanted, seed=2):
        mount(replay.image(cut), load.place, mounting, loop=True)
        try:
            load.house.start()
            load.house.await_that(lambda: load.house.queue() == [], 'empty queue')
            assert load.house.stop() == 0
            found, torn = look(load.house)
            assert not torn and {which for position, which in load.acknowledged if position <= cut.position} <= found
        finally:
            if load.house.process.poll() is None:
                load.house.stop()
            subprocess.run(['umount', load.place], check=True)
    replay.close()


def record(top, name, preload=None):
    """Run the load on a recorded disk: (Load, base image, mount options, start, end, history)."""
    base, mounting = make(top, name)
    with recorder.Recorder(base) as disk:
        mount(disk.device, top + '/disk', mounting)
        try:
            os.chmod(top + '/disk', 0o755)
            load = Load(disk, top + '/disk', preload)
            start, end = load.run()
        finally:
            subprocess.run(['umount', '-l', top + '/disk'], check=True)
    return load, base, mounting, start, end, disk.history


@pytest.mark.parametrize('name', DISKS)
def test_no_state_of_a_real_disk_loses_mail(name):
    """Q-12, Q-13: prefixes of the blocks written, and subsets of those not flushed: whatever was acknowledged by then
    is in the queue, in the Maildir or in the mbox, and no file in new/ is torn."""
    with workspace() as top:
        load, base, mounting, start, end, history = record(top, name)
        tried, bad = losses(name, top, load, base, mounting, start, end, history, STATES)
        explorer.FIGURES['real disks'] = explorer.FIGURES.get('real disks', 0) + tried
        assert not bad, bad
        if 'without' not in name:
            recover(name, load, base, mounting, start, end, history, RECOVERIES)
        assert tried >= min(STATES, 10)


def test_control_under_libeatmydata_mail_is_lost():
    """If fsync does nothing, the rig must find lost mail: else it would find none anywhere."""
    try:
        root = debian.unpack('libeatmydata1')
    except RuntimeError as problem:
        pytest.skip('no libeatmydata: %s' % problem)
    library = next(path + '/libeatmydata.so' for path in debian.libraries(root))
    with workspace() as top:
        load, base, mounting, start, end, history = record(top, 'ext4', library)
        written = [record for record in history if start < record[0] <= end and record[1] == recorder.WRITE]
        if written:
            tried, bad = losses('ext4', top, load, base, mounting, start, end, history, STATES)
            assert any('is lost' in line for line in bad)
        # else not one block of what was acknowledged has reached the disk
