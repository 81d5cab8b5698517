"""qpy-smtpd with its system calls failing one at a time: whatever the call, 250 is never said for nothing."""
import os
import subprocess

import pytest

from tests.peers.smtp_rig import PYTHON, SOURCE, Rig

pytestmark = pytest.mark.slow

RUN = """
import sys
sys.path.insert(0, %r)
from qpy import unix
from qpy.lib import program
name, when, how = sys.argv.pop(1), int(sys.argv.pop(1)), sys.argv.pop(1)
real, calls = getattr(unix, name), [0]
def failing(*args, **more):
    calls[0] += 1
    if how == 'short' and calls[0] >= when:
        return real(args[0], args[1][:1])
    if how != 'short' and calls[0] == when:
        raise OSError(int(how), 'injected')
    return real(*args, **more)
setattr(unix, name, failing)
program.run('qpy.qpyd.smtpd')
"""
TALK = (b'EHLO c\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<joe@mx.example.com>\r\n'
        b'RCPT TO:<no@mx.example.com>\r\nDATA\r\n'
        b'run 0\r\nhello\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<joe@mx.example.com>\r\nDATA\r\n'
        + b'run 0\r\n' + b'x' * 100000 + b'\r\n.\r\nQUIT\r\n')
ALL = ['220'] + ['250'] * 12 + ['550', '354', '250', '250', '250', '354',
    '250', '221']
EIO, EACCES, EMFILE, EPIPE, ECONNRESET, ECONNREFUSED, EAGAIN = 5, 13, 24, 32, 104, 111, 11

FAULTS = [*[('read', n, how) for n in range(1, 10) for how in (EIO, ECONNRESET)],
          *[('write', n, how) for n in range(1, 8) for how in (EPIPE, EIO)], ('write', 1, 'short'),
          ('write', 4, 'short'),
          *[('stat', n, how) for n in range(1, 22, 3) for how in (EACCES, EIO)],
          *[('open', n, how) for n in range(1, 18, 2) for how in (EACCES, EMFILE)],
          *[('connect_beneath', n, how) for n in (1, 2, 3) for how in (ECONNREFUSED, EAGAIN)],
          *[('peercred', n, EIO) for n in (1, 2, 3)], *[('socket_unix', n, EMFILE) for n in (1, 2, 3)],
          *[('send_packet', n, EPIPE) for n in (1, 2)], *[('recv_packet', n, ECONNRESET) for n in (1, 2)],
          ('fstat', 1, EIO), ('epoll', 1, EMFILE)]


@pytest.fixture(scope='module')
def rig():
    made = Rig()
    yield made
    made.stop()


def converse(rig, fault):
    """(replies, exit code, what went to the log, messages) of one conversation under a fault.

    Each has a number in its messages: one that smtpd did not live to see answered may be stored late."""
    rig.runs = run = getattr(rig, 'runs', 0) + 1
    talk, mark = TALK.replace(b'run 0', b'run %d' % run), b'run %d\n' % run
    done = subprocess.run([*PYTHON, '-c', RUN % SOURCE, *map(str, fault)], input=talk, capture_output=True, timeout=60,
                          env=rig.environment({'PROTO': 'TCP', 'TCPREMOTEIP': '192.0.2.1'}))
    messages = [message for message in rig.queued.messages if mark in message[0]]
    return done.stdout, done.returncode, done.stderr.decode(), messages


def test_no_fault(rig):
    """Without a fault the conversation goes as it should: the faults below hit something that works."""
    replies, code, log, messages = converse(rig, ('read', 10000, 5))
    assert [line[:3] for line in replies.decode().splitlines()] == ALL
    assert code == 0 and len(messages) == 2


@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: '-'.join(map(str, fault)))
def test_fault(rig, fault):
    """Every reply is whole or the last, 250 for a message is true, and the exit code is one of the page."""
    replies, code, log, messages = converse(rig, fault)
    assert code in (0, 1, 111) and 'Traceback' not in log + replies.decode('latin-1')
    lines = replies.split(b'\r\n')
    assert lines[-1] == b'' or fault[0] == 'write'
    assert all(line[:3].isdigit() and line[3:4] in b' -' for line in lines[:-1])
    acknowledged = sum(line.startswith(b'250 2.0.0 ok ') and b' qp ' in line for line in lines)
    assert acknowledged <= len(messages) <= 2
    assert [body.endswith(end) for (body, _),
        end in zip(messages, (b'hello\n', b'xxx\n'))] == [True] * len(messages) or \
        len(messages) == 1 and messages[0][0].endswith(b'xxx\n')
    if fault[-1] == 'short':
        assert [line[:3] for line in replies.decode().splitlines()] == ALL and acknowledged == 2
    assert os.path.exists(rig.queued.path)
