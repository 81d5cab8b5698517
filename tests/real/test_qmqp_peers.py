"""Postfix's qmqp-source and qmqp-sink against qpy-qmqpd and qpy-qmqpc."""
import os
import signal
import subprocess

import pytest

from tests.peers import postfix
from tests.peers.qpy import free_port, wait_for_port
from tests.peers.smtp_rig import PYTHON, SOURCE
from tests.programs.test_qmtp_qmqp_programs import ENVELOPE, NetRig, qmqpc


@pytest.fixture
def rig():
    here = NetRig()
    yield here
    here.stop()


def tool(name):
    """The command line of one of Postfix's tools; skips where Postfix cannot be had."""
    try:
        return postfix.tool(name)
    except (OSError, StopIteration, RuntimeError, subprocess.CalledProcessError) as problem:
        pytest.skip('no %s: %s' % (name, problem))


def test_qmqp_source(rig):
    """qmqp-source's messages, ten connections at a time, are all queued with both recipients."""
    rig.write('tcp.smtp', '127.:allow,RELAYCLIENT=""\n')
    host, port = rig.serve('qmqpd')
    subprocess.run([*tool('qmqp-source'), '-m', '50', '-s', '10', '-l', '4000', '-r', '2', '-f',
                    'a@client.test', '-t',
                    'joe@far.test', '%s:%d' % (host, port)], check=True, timeout=60)
    found = rig.queued.wait(50)
    assert len(found) == 50 and all(len(envelope.recipients) == 2 for _, envelope in found)
    assert all(len(text) > 4000 for text, _ in found)


def test_qmqp_sink(rig):
    """qmqp-sink takes what qpy-qmqpc sends, short and long."""
    port = free_port()
    sink = subprocess.Popen([*tool('qmqp-sink'), '-c', '127.0.0.1:%d' % port, '10'],
                            stdout=subprocess.DEVNULL,
                            start_new_session=True)
    try:
        wait_for_port(port, alive=lambda: sink.poll() is None)
        rig.write('qmqpservers', '127.0.0.1:%d\n' % port)
        assert [qmqpc(rig, text, ENVELOPE) for text in (b'A: b\n\nx\n', b'', b'y' * 2000000)] == [0, 0, 0]
    finally:
        os.killpg(sink.pid, signal.SIGTERM)
        sink.wait()


def test_a_host_without_a_queue(rig):
    """sendmail with QMAILQUEUE=qpy-qmqpc queues on the other host, and says nothing."""
    rig.write('tcp.smtp', '127.:allow,RELAYCLIENT=""\n')
    host, port = rig.serve('qmqpd')
    rig.write('qmqpservers', '%s:%d\n' % (host, port))
    done = subprocess.run(PYTHON + [SOURCE + '/bin/qpy-sendmail', 'joe@far.test'], input=b'Subject: x\n\ny\n',
                          env=rig.environment({'QMAILQUEUE': SOURCE + '/bin/qpy-qmqpc'}), capture_output=True,
                          timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b'', b'')
    assert rig.queued.wait()[0][1].recipients == [b'joe@far.test']
