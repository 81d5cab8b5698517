"""A long message on its way through a file: it is there whole, or the disk did not take it."""
import errno
import os

import pytest

from qpy import unix
from qpy.lib import spool

PIECES = [bytes([n + 1]) * 400_000 for n in range(5)]        # the third is the first that memory does not take


@pytest.fixture
def spooled(tmp_path):
    """A Spool on a directory of its own."""
    found = spool.Spool((os.fsencode(tmp_path),))
    yield found
    found.close()


def content(spooled, pieces):
    """What comes out of what goes in."""
    for piece in pieces:
        spooled.add(piece)
    fd = spooled.content()
    assert spooled.size == len(b''.join(pieces)) > spool.IN_MEMORY
    return unix.read_all(fd, 1 << 22)


@pytest.mark.parametrize('count', [3, 5])
def test_short_writes(spooled, monkeypatch, count):
    """Q-07: what the system takes half of is offered to it again, both what was in memory and what comes after."""
    write = unix.write
    monkeypatch.setattr(unix, 'write', lambda fd, data: write(fd, bytes(data)[:(len(data) + 1) // 2]))
    assert content(spooled, PIECES[:count]) == b''.join(PIECES[:count])


@pytest.mark.parametrize('count', [3, 4, 5])
@pytest.mark.parametrize('missing', [0, 1, 399_999])
def test_a_disk_that_gets_full(spooled, monkeypatch, count, missing):
    """Q-01: where the end of the last piece has no room the message is refused, and never torn."""
    write, room = unix.write, [400_000 * count - missing]

    def full(fd, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, 'No space left on device')
        done = write(fd, bytes(data)[:room[0]])
        room[0] -= done
        return done
    monkeypatch.setattr(unix, 'write', full)
    if not missing:
        assert content(spooled, PIECES[:count]) == b''.join(PIECES[:count])
        return
    with pytest.raises(OSError) as found:
        content(spooled, PIECES[:count])
    assert found.value.errno == errno.ENOSPC
