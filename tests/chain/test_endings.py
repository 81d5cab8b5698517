"""How the chain ends when something in it does not want to: users' programs that hang, workers that are stopped."""
import os
import signal
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402

pytestmark = pytest.mark.slow

ANN = 54001
HANGS = '|echo $$ > pids; trap "" TERM; (setsid sleep 777 & echo $! >> pids); sleep 778\n'
SECONDS = 8.0               # far less than any program may take, and than the grace of start


@pytest.fixture(params=['rootless', pytest.param('rooted', marks=pytest.mark.root)])
def house(request):
    made = houses.House() if request.param == 'rootless' else houses.Rooted(users={'user': (ANN, ANN)})
    yield made
    made.remove()


def hanging(house):
    """The chain with a program of a user's that hangs: [pid] of its processes and of everything of the chain."""
    house.recipe('user', '.qmail-slow', HANGS)
    house.start()
    house.smtp('user-slow@here.test')
    path = os.path.join(house.user_homes['user'], 'pids')
    house.await_that(lambda: os.path.exists(path) and len(open(path).read().split()) == 2, 'program')
    with open(path) as file:
        found = [int(word) for word in file.read().split()] + houses.descendants(house.process.pid)
    assert all(houses.alive(pid) for pid in found[:2])
    return found


def gone(pids):
    """Wait until none of them lives."""
    give_up = time.monotonic() + 5
    while any(houses.alive(pid) for pid in pids):
        assert time.monotonic() < give_up, [(pid, houses.name_of(pid)) for pid in pids if houses.alive(pid)]
        time.sleep(0.01)             # what is left is the kernel's work


@pytest.mark.parametrize('name', ['queued', *(pytest.param(name, marks=pytest.mark.slow)
                                             for name in ('lspawn', 'seed'))])
def test_a_killed_neighbour_while_a_program_hangs(house, name):
    """The chain ends with 111 within seconds, and of the program's whole tree, sessions of its own too, nothing stays."""
    pids = hanging(house)
    started = time.monotonic()
    os.kill(house.daemons()[name], signal.SIGKILL)
    assert house.wait_end() == 111 and time.monotonic() - started < SECONDS
    assert any('%s has ended by signal 9' % name in line for line in house.lines)
    gone(pids)


def test_a_second_term_does_not_wait(house):
    """TERM waits for the program under way; the second TERM ends it, and all."""
    pids = hanging(house)
    house.process.send_signal(signal.SIGTERM)
    house.await_line('exitasap')
    assert all(houses.alive(pid) for pid in pids[:2])
    started = time.monotonic()
    house.process.send_signal(signal.SIGTERM)
    house.wait_end()
    assert time.monotonic() - started < SECONDS
    gone(pids)


def test_a_program_that_outlasts_the_end(house):
    """A program still under way control/timeoutstop seconds after TERM is ended with everything it started; the chain
    ends in order, and the message waits for the next start."""
    house.write('control/timeoutstop', '1\n')
    pids = hanging(house)
    started = time.monotonic()
    assert house.stop() == 0 and 1 <= time.monotonic() - started < SECONDS
    assert 'warning: deliveries cut off after 1 seconds (control/timeoutstop): 1; they are tried again after the start' \
        in '\n'.join(house.lines)
    gone(pids)
    assert len(house.queue()) == 1


@pytest.mark.slow
def test_a_worker_that_its_user_has_stopped(house):
    """A stopped worker, which holds the log, delays the end by the log's linger and no more."""
    house.start()
    house.smtp('user@here.test', text='warm')
    house.await_message('user/Maildir', 'warm')
    (worker,) = houses.descendants(house.daemons()['seed'])
    os.kill(worker, signal.SIGSTOP)
    try:
        os.kill(house.daemons()['queued'], signal.SIGKILL)
        assert house.process.wait(10) == 111
        house.wait_end()
    finally:
        os.kill(worker, signal.SIGKILL)
