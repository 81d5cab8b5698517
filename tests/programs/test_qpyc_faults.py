"""qpy-check and qpy-milter with their system calls failing one at a time: a message is queued when it is acknowledged, nothing is
refused for good, and the next client is served."""
import os

import pytest

from tests.peers.milter import Milter, text
from tests.peers.smtp_rig import SOURCE, wait_until
from tests.programs import test_check, test_milter

pytestmark = pytest.mark.slow

RUN = """
import sys
sys.path.insert(0, %r)
from qpy import unix
from qpy.lib import program
name, when, number = sys.argv.pop(1), int(sys.argv.pop(1)), int(sys.argv.pop(1))
real, master, calls = getattr(unix, name), unix.getpid(), [0]
done = unix.shared_memory(1)        # in one worker only
def failing(*args, **more):
    calls[0] += unix.getpid() != master
    if calls[0] == when and unix.getpid() != master and not done[0]:
        done[0] = 1
        raise OSError(number, 'injected')
    return real(*args, **more)
setattr(unix, name, failing)
program.run('qpy.qpyc.%s')
"""
EIO, ENOMEM, EMFILE, ENOSPC, EPIPE, ECONNRESET, ECONNREFUSED = 5, 12, 24, 28, 32, 104, 111
LONG = b'Subject: long\r\n\r\n' + (b'x' * 70 + b'\r\n') * 20000

FAULTS = [*[('recv_packet', n, ECONNRESET) for n in range(1, 8)], *[('send_packet', n, EPIPE) for n in range(1, 7)],
          *[('accept', n, how) for n in (1, 2, 3) for how in (EMFILE, ENOMEM)],
          *[('connect_beneath', n, ECONNREFUSED) for n in (1, 2)], *[('socket_unix', n, EMFILE) for n in (1, 2)],
          *[('open', n, EMFILE) for n in range(1, 12)],
          *[('write', n, ENOSPC) for n in range(1, 6)], *[('pread', n, EIO) for n in (1, 2, 20, 60)], ('lseek', 1, EIO),
          *[('stat', n, EIO) for n in range(1, 12, 2)]]


def injected(monkeypatch, program, fault):
    """Let bin/qpy-PROGRAM be itself with this fault in its worker."""
    import subprocess
    real = subprocess.Popen

    def popen(command, *more, **words):
        own = SOURCE + '/bin/qpy-' + program
        if own in command:
            at = command.index(own)
            command = [*command[:at], '/usr/bin/python3', '-IS', '-c', RUN % (SOURCE, program), *map(str, fault), *command[at + 1:]]
        return real(command, *more, **words)
    monkeypatch.setattr(subprocess, 'Popen', popen)


def attempt(house, data):
    """The last reply of one try to send a message, which ends with the first that is no 2xx or 3xx."""
    client = house.rig.connect()
    said = client.reply()
    for line in (b'EHLO mail.example.org', test_milter.MAIL, test_milter.RCPT, b'DATA'):
        if said[:1] not in (b'2', b'3'):
            break
        said = client.say(line)
    if said[:3] == b'354':
        said = client.send(data + b'.\r\n').reply()
    client.close()
    return said


def check_all(house, wanted):
    """Two messages, and again until each has been taken; never a 5xx, and what was acknowledged is queued, as it should be."""
    acknowledged = 0
    for data in (test_milter.TEXT, LONG):
        def taken(data=data):
            said = attempt(house, data)
            assert said[:1] in (b'2', b'4'), said
            return said[:1] == b'2'
        try:
            wait_until(taken)
        except AssertionError:
            raise AssertionError('never taken: ' + house.rig.log()[-500:]) from None
        acknowledged += 1
    messages = house.rig.queued.wait(acknowledged)
    assert acknowledged == 2 and len(messages) <= 4
    assert {body.partition(b'\nSubject: ')[2][:4] for body, _ in messages} == {b's\nX-', b'long'}
    assert all(wanted(body) for body, _ in messages)


@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: '-'.join(map(str, fault)))
def test_fault_of_milter(monkeypatch, fault):
    """The milter's field is in every message that is queued, and no body is cut."""
    injected(monkeypatch, 'milter', fault)
    with Milter({b'E': lambda data: [b'h' + text(b'X-Judged', b'yes'), b'c']}) as milter:
        house = test_milter.House([milter])
        try:
            check_all(house, lambda body: b'\nX-Judged: yes\n' in body and (body.endswith(b'.dot\n') or body.endswith(b'x\n') and
                                                                              body.count(b'\n' + b'x' * 70) == 20000))
        finally:
            house.stop()


@pytest.mark.parametrize('fault', [fault for fault in FAULTS if fault[0] not in ('connect_beneath', 'socket_unix', 'pread', 'lseek')]
                         + [('fsync', 1, EIO), ('rename', 1, EIO)], ids=lambda fault: '-'.join(map(str, fault)))
def test_fault_of_check(monkeypatch, fault):
    """Greylisting goes on: each sender is told to wait, and is taken in the end."""
    injected(monkeypatch, 'check', fault)
    house = test_check.House(greylist='delay:1\nallow:0\n')
    try:
        first = attempt(house, test_milter.TEXT)
        assert first[:3] in (b'451', b'421'), first
        wait_until(lambda: attempt(house, test_milter.TEXT)[:1] == b'2')
        assert os.path.isdir(house.home + '/check')
    finally:
        house.stop()
