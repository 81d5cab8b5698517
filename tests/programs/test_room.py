"""lib.room: what the machine or a control group leaves us."""
from qpy import unix
from qpy.lib import room


def test_this_machine():
    """There is some memory, and no more of it than the hardware has."""
    assert 1 << 20 < room.memory() <= unix.physical_memory()
    assert room.processes() > 1


def test_the_tightest_group_counts(monkeypatch):
    """Of our group and those above it the least number; `max` and files that are not there say nothing."""
    files = {b'/proc/self/cgroup': b'1:name=systemd:/x\n0::/a.slice/b.service\n',
             b'/sys/fs/cgroup/a.slice/b.service/memory.max': b'max\n',
             b'/sys/fs/cgroup/a.slice/memory.max': b'1000000\n'}

    def read_file(path, limit):
        if path in files:
            return files[path]
        raise FileNotFoundError(2, 'no such file')
    monkeypatch.setattr(unix, 'read_file', read_file)
    assert room.memory() == 1000000
    assert room.processes() == room.LIMIT
    files.clear()
    assert room.processes() == room.LIMIT
