"""Control groups of local deliveries, on a made-up kernel: which group is ours, what is bounded, what is ended."""
import errno
import os

import pytest

from qpy import unix
from qpy.core import limits
from qpy.lib import groups


class Kernel:
    """A tree of groups in a directory: a new one has the files that its kernel gives it."""

    def __init__(self, top, monkeypatch, systemd=False, delegated=False, controllers=True, version=2, kill=True):
        self.top, self.written = str(top), []
        files = ['cgroup.procs', 'cgroup.controllers', 'cgroup.subtree_control', 'cgroup.threads']
        files += ['cgroup.kill'] if kill else []
        self.files = files + (['memory.max', 'pids.max'] if controllers else [])
        if version == 2:
            self.make(b'', 0)
        cgroup = b'0::/\n' if version == 2 else b'1:memory:/\n'
        monkeypatch.setattr(groups, 'PLACES', (os.fsencode(top),))
        monkeypatch.setattr(groups, 'SYSTEMD', b'/' if systemd else b'/no/such')
        monkeypatch.setattr(unix, 'read_file', lambda path, limit=0: cgroup if path == b'/proc/self/cgroup' else b'')
        monkeypatch.setattr(unix, 'mkdir', self.make)
        monkeypatch.setattr(unix, 'rmdir', self.remove)
        monkeypatch.setattr(unix, 'chown', lambda path, uid, gid: self.written.append((path, b'for %d' % uid)))
        monkeypatch.setattr(groups, 'put', self.put)
        monkeypatch.setattr(unix, 'getxattr', lambda path, name: self.attribute(delegated))

    @staticmethod
    def attribute(delegated):
        if not delegated:
            raise OSError(errno.ENODATA, 'none')
        return b'1'

    def make(self, path, mode):
        path = os.fsdecode(path) or self.top
        if path != self.top or not os.path.isdir(path):
            os.mkdir(path)
        for name in self.files:
            open(os.path.join(path, name), 'w').close()

    def remove(self, path):
        for name in self.files:
            os.unlink(os.path.join(os.fsdecode(path), name))
        os.rmdir(path)

    def put(self, path, content):
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, 'none', path)
        self.written.append((path, content))

    def wrote(self, name):
        """[what was written to files of this name]"""
        return [content for path, content in self.written if path.endswith(os.fsencode(name))]


def test_delegated_by_systemd(tmp_path, monkeypatch):
    """A group that systemd has given away is used as it is: users below it, which qpyu owns, the seed in it, and the
    controllers let through twice."""
    kernel = Kernel(tmp_path, monkeypatch, systemd=True, delegated=True)
    found = groups.prepare(77, 78)
    assert found.path == os.fsencode(tmp_path) + b'/users'
    assert kernel.wrote('users/seed/cgroup.procs') == [b'0', b'for 77']
    assert kernel.wrote('cgroup.subtree_control') == [b'+memory', b'+pids'] * 2 + [b'for 77']
    assert kernel.wrote('/users') == kernel.wrote('users/cgroup.procs') == [b'for 77']


@pytest.mark.parametrize('how', [dict(systemd=True), dict(version=1), dict(kill=False)])
def test_where_none_is_ours(tmp_path, monkeypatch, how):
    """systemd's own groups are left alone; without version 2, or without cgroup.kill, there are none."""
    Kernel(tmp_path, monkeypatch, **how)
    assert groups.prepare(77, 78) is None


def test_trouble_is_no_end(tmp_path, monkeypatch, capfd):
    """A kernel that refuses is named, and there are none."""
    Kernel(tmp_path, monkeypatch)
    monkeypatch.setattr(unix, 'chown', lambda *_: (_ for _ in ()).throw(PermissionError(errno.EPERM, 'no')))
    assert groups.prepare(77, 78) is None
    assert 'unable to make control groups' in capfd.readouterr().err


def test_where_no_systemd_rules(tmp_path, monkeypatch):
    """A group of our own is made, named after the process; what a chain that is gone has left is removed, what belongs to
    one that lives is not."""
    Kernel(tmp_path, monkeypatch)
    gone, living = b'/qpy-%d' % (2 ** 22 + 1), b'/qpy-%d' % os.getppid()
    for name in (gone, gone + b'/users', gone + b'/users/seed', living):
        unix.mkdir(os.fsencode(tmp_path) + name, 0o755)
    found = groups.prepare(77, 78)
    assert found.path == os.fsencode(tmp_path) + b'/qpy-%d/users' % os.getpid()
    assert not os.path.exists(os.fsencode(tmp_path) + gone) and os.path.exists(os.fsencode(tmp_path) + living)


def test_bounds_of_a_user(tmp_path, monkeypatch):
    """A user's group has the bounds of control/programlimits, where the kernel has their files; 0 is no bound."""
    kernel = Kernel(tmp_path, monkeypatch)
    found = groups.prepare(77, 78, limits.bounds({b'usermemory': b'5', b'processes': b'10'}))
    path = found.new(1000)
    assert path.endswith(b'/users/1000.1') and found.new(1000).endswith(b'/users/1000.2')
    assert kernel.wrote('1000.1/memory.max') == [b'%d' % (5 << 20)] and kernel.wrote('1000.1/pids.max') == [b'74']
    assert limits.bounds({b'usermemory': b'0', b'processes': b'0'}) == []
    with pytest.raises(ValueError):
        limits.bounds({b'usermemory': b'much'})


def test_without_controllers_a_user_has_a_group_still(tmp_path, monkeypatch):
    """Where memory and processes cannot be bounded, what a user leaves behind is ended all the same."""
    kernel = Kernel(tmp_path, monkeypatch, controllers=False)
    found = groups.prepare(77, 78, limits.bounds({}))
    path = found.new(1000)
    groups.enter(path)
    found.end(path)
    assert kernel.wrote('1000.1/cgroup.procs') == [b'0'] and kernel.wrote('1000.1/cgroup.kill') == [b'1']
    assert not os.path.exists(path)


def test_a_group_goes_when_it_can(tmp_path, monkeypatch):
    """While processes of a group are ending it cannot be removed: that is tried again, and it is ended once."""
    kernel = Kernel(tmp_path, monkeypatch)
    found = groups.prepare(77, 78)
    path, removed = found.new(1000), unix.rmdir
    monkeypatch.setattr(unix, 'rmdir', lambda path: (_ for _ in ()).throw(OSError(errno.EBUSY, 'busy')))
    found.end(path)
    assert found.dying == {path}
    monkeypatch.setattr(unix, 'rmdir', removed)
    found.new(1001)
    assert not os.path.exists(path) and not found.dying
    found.end(path)
    assert kernel.wrote('cgroup.kill') == [b'1']
