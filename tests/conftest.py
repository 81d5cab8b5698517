"""What all tests share: the source on the path, a moderate hypothesis, and visible skips for what needs root."""
import contextlib
import functools
import os
import pathlib
import resource
import shutil
import sys
import tempfile

import pytest

SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if SOURCE not in sys.path:
    sys.path.insert(0, SOURCE)

resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

try:
    from hypothesis import HealthCheck, settings
except ImportError:
    pass
else:
    settings.register_profile('default', deadline=None, max_examples=100, derandomize=bool(os.environ.get('CI')),
                              suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile('fast', deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile('long', deadline=None, max_examples=20000,
                              suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile(os.environ.get('QPY_HYPOTHESIS', 'default'))


class Directories:
    """In place of pytest's own: below a directory that every account can search, whatever other sessions of pytest do to
    theirs meanwhile.
    """

    def __init__(self):
        self.made = []

    def mktemp(self, name, numbered=True):
        """A new directory."""
        path = pathlib.Path(tempfile.mkdtemp(prefix='qpy-test-%s-' % name[:20]))
        path.chmod(0o755)
        self.made.append(path)
        return path

    def remove(self):
        """All of them."""
        for path in self.made:
            shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def rights_that_stay():
    """A test that runs a program in this process must not leave it with that program's rights: all tests after it would have
    them."""
    before = os.getresuid(), os.getresgid(), os.getgroups()
    yield
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before


@pytest.fixture(scope='session')
def tmp_path_factory():
    made = Directories()
    yield made
    made.remove()


@pytest.fixture
def tmp_path():
    made = Directories()
    yield made.mktemp('path')
    made.remove()


def pytest_collection_modifyitems(items):
    """Tests marked root are skipped, and seen to be skipped, for everybody else."""
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker('root'):
                item.add_marker(pytest.mark.skip(reason='needs root'))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With --dist=loadfile a worker takes a whole file, and one of them all files whose tests share the machine's accounts,
    mounts and servers: it begins with those, since they take longest.
    """
    if config.getoption('dist') != 'loadfile':
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.split('::', 1)[0]
            return 'the machine' if needs_machine(path) else path
    config.option.loadscopereorder = False
    return Scheduling(config, log)


@functools.cache
def needs_machine(path):
    """Whether tests of a file, named as pytest does, share something of the machine: those of root and of other people's
    software.
    """
    if path.startswith(('tests/real/', 'tests/net/')):
        return True
    with open(os.path.join(SOURCE, path), encoding='utf-8') as file:
        return 'mark.root' in file.read()


POWER = pytest.StashKey()
ROLES = ('qpyd', 'qpyt', 'qpyq', 'qpys', 'qpyu', 'qpyr', 'qpyp', 'qpya', 'qpyc', 'qpyl', 'alias')


def known_accounts():
    """Those of qpy's accounts and groups that this machine has now."""
    import grp
    import pwd
    return ({entry.pw_name for entry in pwd.getpwall()} & set(ROLES),
            {entry.gr_name for entry in grp.getgrall()} & set(ROLES))


def pytest_configure(config):
    """Remember which accounts were there before the tests."""
    config.accounts_before = known_accounts()


def remove_groups():
    """Remove the control groups of chains that are gone: only root could, and the next chain would."""
    for place in ('/sys/fs/cgroup', '/sys/fs/cgroup/unified'):
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if name.startswith('qpy-') and name[4:].isdigit() and not os.path.exists('/proc/' + name[4:]):
                for directory, _, _ in os.walk(os.path.join(place, name), topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(directory)


def pytest_unconfigure(config):
    """Remove the accounts that tests have made (their installations are gone by now)."""
    if os.geteuid() != 0 or hasattr(config, 'workerinput'):
        return
    import subprocess
    remove_groups()
    users, groups = known_accounts()
    for name in users - config.accounts_before[0]:
        subprocess.run(['userdel', name], capture_output=True)
    for name in groups - config.accounts_before[1]:
        subprocess.run(['groupdel', name], capture_output=True)


def power_tried():
    """(distinct crash states, {what: how many}) that tests of this process have tried."""
    explorer = sys.modules.get('tests.power.explorer')
    return (set(explorer.STATES), dict(explorer.FIGURES)) if explorer else (set(), {})


def pytest_sessionfinish(session):
    """A worker of xdist hands over what only the process that prints can sum up."""
    if hasattr(session.config, 'workeroutput'):
        states, figures = power_tried()
        session.config.workeroutput['power'] = {'%x' % state for state in states}, figures


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """That process takes it."""
    node.config.stash.setdefault(POWER, []).append(getattr(node, 'workeroutput', {}).get('power', (set(), {})))


def say_power(terminalreporter):
    """What the power tests and the faults have tried."""
    ours, figures = power_tried()
    states = {'%x' % state for state in ours}
    for some, numbers in [*terminalreporter.config.stash.get(POWER, [])]:
        states |= some
        for name, number in numbers.items():
            figures[name] = figures.get(name, 0) + number
    if states or any(figures.values()):
        said = ', '.join('%d %s' % (number, name) for name, number in figures.items() if number)
        terminalreporter.write_line('power: %d distinct crash states; %s' % (len(states), said))


def pytest_terminal_summary(terminalreporter):
    """Print how much code is trusted, so that growth is seen; and what was tried."""
    say_power(terminalreporter)
    found = [value for reports in terminalreporter.stats.values() for report in reports
             for name, value in getattr(report, 'user_properties', ()) if name == 'lines of code' and report.when == 'call']
    if found:
        terminalreporter.section('code that is root for a moment or can touch queue/mess')
        for line in sorted(found):
            terminalreporter.write_line(line)
