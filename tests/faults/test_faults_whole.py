"""Every call fails once: queued, send, clean, the bouncer and local's Maildir, mbox and forward, in one process.

Q-01 to Q-11, L-18, INV1 to INV3, INV6: call number n of the whole way of a message fails with each errno it can have,
or writes short, or is the last of the process; then everything goes on, the queue drains, and the ledger balances.
"""
import errno

import pytest

from qpy.lib import program
from tests.power import explorer, whole
from tests.power.test_power_machine import Killed
from tests.power.test_power_whole import SCENES
from tests.power.whole import Message, World

READ = [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.EACCES]
CHANGE = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM]
#: what each call can say, beside being the last one.  Of those that open a file also EMFILE and ENFILE.
ERRNOS = {'open': [*READ, errno.ENFILE], 'create': [*CHANGE, errno.EMFILE, errno.ENFILE, errno.EACCES], 'read': [errno.EIO],
          'pread': [errno.EIO, 'short'], 'stat': [errno.EIO, errno.EACCES], 'fstat': [errno.EIO], 'lstat': [errno.EIO],
          'listdir': [errno.EIO, errno.ENOMEM], 'scandir': READ, 'write': [*CHANGE, 'short'], 'fsync': [errno.EIO, errno.ENOSPC],
          'syncfs': [errno.EIO], 'link': [*CHANGE, errno.EACCES], 'unlink': [errno.EIO, errno.EROFS, errno.EACCES],
          'rename': CHANGE, 'mkdir': CHANGE, 'ftruncate': [errno.EIO, errno.EROFS], 'close': [errno.EIO, errno.ENOSPC, errno.EDQUOT],
          'copy_file_range': [errno.EIO, errno.ENOSPC, 'short'], 'fchmod': [errno.EIO], 'flock': [errno.ENOLCK],
          'lockf': [errno.ENOLCK], 'posix_fadvise': [errno.EIO], 'sync_file_range': [errno.EIO, errno.ENOSPC]}
LONG_WAYS = ('expired', 'double bounce')         # with many calls: the first errno only
WAYS = [(scene, False) for scene in SCENES] + [('Maildir and mbox', True), ('partly', True), ('another host', True)]


def start(seam):
    """The programs, however often start must try."""
    for _ in range(5):
        try:
            return whole.System(seam)
        except (OSError, program.Fatal, Killed):
            seam.disk.files.clear()
    raise whole.Loss('they do not start')


def way(seam, scene, long, own, fault=None, record=None, check=whole.check):
    """One scene with one fault, and check(disk, world) at its end; the disk."""
    messages, verdicts = SCENES[scene]
    world = World(dict(verdicts))
    with seam.on(whole.fresh_disk('bare', own), world):
        disk = seam.disk
        disk.fault, disk.record = fault, record
        system, submitted, starts = start(seam), False, 0
        while True:
            try:
                system.pump()
                if not submitted:
                    submitted = True
                    for message in messages:
                        system.submit(Message(message.number, message.sender, message.recipients, long,
                                              message.notify))
                system.run()
                break
            except (whole.Died, whole.Undrained, OSError, Killed) as end:
                starts += 1
                system.hear()
                left = {path[5:] for path in disk.tree(whole.HOME + b'/queue') if path[:5] == b'mess/'}
                if starts > 2 or isinstance(end, whole.Undrained) and left & set(world.acknowledged):
                    raise
                system.clients.clear()
                system.stop()
                system = start(seam)
        leaks = dict(disk.files)
        for fd in (system.clean.mess, system.clean.state, system.clean.damaged, system.bouncer.mess, system.bouncer.state,
                   system.send.store.mess, system.send.store.state, system.queued.disk.mess):
            leaks.pop(fd, None)
        system.stop()
        check(disk, world)
        if not starts:
            assert len(world.acknowledged) + world.refused >= len(messages) and not leaks
    return disk


@pytest.mark.parametrize('own', [False, True], ids=['fsync', 'syncfs'])
@pytest.mark.parametrize('scene, long', WAYS)
def test_every_call_fails_once(monkeypatch, scene, long, own):
    """Whichever call fails, with whatever it can say, or is the last: nothing acknowledged is lost, nothing torn is
    delivered, every client is answered, no descriptor leaks, and the queue drains by itself."""
    seam, record = whole.install(monkeypatch, long), []
    way(seam, scene, long, own, record=record)
    for number, call in enumerate(record, 1):
        for problem in [*ERRNOS[call][:1 if scene in LONG_WAYS else None], Killed()]:
            explorer.FIGURES['faults'] += 1
            try:
                way(seam, scene, long, own, (number, problem))
            except BaseException as wrong:
                wrong.add_note('call %d (%s) with %r' % (number, call, problem))
                raise
    explorer.FIGURES['calls'] += len(record)
