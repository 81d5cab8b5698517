"""lib.master: workers that die are replaced, later and later."""
import os

import pytest

from qpy import unix
from qpy.lib import master, program


@pytest.fixture
def quiet(monkeypatch):
    """What the master logs."""
    lines = []
    monkeypatch.setattr(program, 'warn', lines.append)
    return lines


def test_workers_are_replaced_until_life_ends(quiet, monkeypatch):
    """Every worker that ends is replaced after a pause that grows to its limit; the life pipe ends it all."""
    monkeypatch.setattr(master, 'FIRST_PAUSE', 0.001)
    life, alive = os.pipe()
    births = os.pipe()

    def worker(found):
        assert len(found[b'life']) == 2
        os.write(births[1], b'x')
        return 7
    boss = master.Master({b'life': [life]}, worker, 2)
    pauses = []
    again = boss.again

    def counted():
        pauses.append(boss.pause)
        again()
        if len(pauses) == 5:
            os.close(alive)
    boss.again = counted
    boss.run()
    assert pauses == sorted(pauses) and pauses[4] == 16 * pauses[0]
    assert len(os.read(births[0], 100)) >= 5
    assert quiet[0] == b'worker exited 7, starting another one'
    while boss.born:
        boss.born.pop(os.wait()[0])
    unix.set_wakeup_fd(-1)
    unix.signal(unix.SIGCHLD, unix.SIG_DFL)


def test_fork_failure_is_waited_out(quiet, monkeypatch):
    """When fork fails the master says so and tries again later."""
    boss = master.Master({}, None, 1)
    monkeypatch.setattr(unix, 'fork', lambda: (_ for _ in ()).throw(OSError(11, 'Resource temporarily unavailable')))
    boss.start()
    assert quiet == [b'unable to fork: Resource temporarily unavailable'] and len(boss.loop.timers) == 1


def test_an_old_worker_is_forgiven(quiet):
    """A worker that had served for a while is replaced soon, however often that happens."""
    boss = master.Master({}, None, 1)
    boss.pause = master.LONGEST_PAUSE
    boss.ended(master.GROWN_UP + 1, -9)
    assert boss.pause == 2 * master.FIRST_PAUSE
    boss.ended(0, 0)
    boss.ended(0, 0)
    for _ in range(20):
        boss.ended(0, 0)
    assert boss.pause == master.LONGEST_PAUSE
