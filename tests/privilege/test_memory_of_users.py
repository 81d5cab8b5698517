"""What control groups do to the processes of a user, on a real kernel with the controllers of memory and processes.

It is another Linux that runs as a process here (tests/peers/kernel.py): on many machines, as on those of our tests, these
controllers belong to version 1 and cannot be had elsewhere.
"""
import os
import re

import pytest

from tests.peers import kernel

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = r"""
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from qpy import unix
from qpy.core import limits
from qpy.lib import groups

def child(path, work):
    '''Start work() as the user in his group; its pid.'''
    pid = os.fork()
    if pid:
        return pid
    groups.enter(path)
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
    os._exit(work())

def hold(megabytes, then=lambda: 0):
    held = bytearray(megabytes << 20)
    for place in range(0, len(held), 4096):
        held[place] = 1
    return then()

def many():
    count = 0
    try:
        while os.fork():
            count += 1
        signal.pause()
    except BlockingIOError:
        return count + 1                    # with us

def result(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def ready(path, work):
    '''A child, once it is at it.'''
    reader, writer = os.pipe()
    pid = child(path, lambda: work(lambda: (os.write(writer, b'.'), signal.pause())))
    os.close(writer)
    os.read(reader, 1)
    return pid

made = groups.prepare(993, 993, limits.bounds({b'usermemory': b'40', b'processes': b'6'}))
print('groups', made.path.decode())
path = made.new(1000)
print('20 MB', result(child(path, lambda: hold(20))))
print('80 MB', result(child(path, lambda: hold(80))))
ready(path, lambda then: hold(25, then))
child(path, lambda: hold(25))
_, status = os.wait()
print('25 MB twice', os.waitstatus_to_exitcode(status))
other = made.new(1001)
print('25 MB of another', result(child(other, lambda: hold(25))))
made.end(path)
made.end(other)
os.wait()                                   # who of the two is left
path = made.new(1000)
print('processes', result(child(path, many)))
made.end(path)
stubborn = made.new(1000)
pid = ready(stubborn, lambda then: ([signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)], then()))
made.end(stubborn)
print('stubborn', result(pid))
made.bury()
print('left', sorted(name for name in os.listdir(made.path) if name[:1].isdigit()))
"""


@pytest.fixture(scope='module')
def said(tmp_path_factory):
    """{what: answer} of the script."""
    try:
        lines = kernel.run(tmp_path_factory.mktemp('linux'), SCRIPT, SOURCE)
    except RuntimeError as reason:
        pytest.skip('no Linux with control groups of version 2 for memory: %s' % reason)
    print(lines)
    return dict(re.findall(r'^(.*?) (\S+)$', lines, re.M))


def test_memory_is_bounded_for_all_processes_of_a_user(said):
    """What fits under usermemory goes on; one process that is too large, or two that are so together, are killed by the kernel,
    and another user's is not."""
    assert said['20 MB'] == '0' and said['80 MB'] == '-9'
    assert said['25 MB twice'] == '-9' and said['25 MB of another'] == '0'


def test_processes_are_bounded(said):
    """A user has as many as control/programlimits says, and those of ours among them."""
    assert said['processes'] == '70'


def test_all_of_a_group_is_ended(said):
    """Whatever it ignores; and every group goes with its last process."""
    assert said['stubborn'] == '-9' and said['left'] == '[]'
