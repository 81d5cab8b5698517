"""Remote delivery to Debian's software: Postfix as the next hop, and its smtp-sink refusing, stalling,
aborting."""
import contextlib
import glob
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

import pytest

from tests.peers.qpyr import Rspawn

postfix = pytest.importorskip('tests.peers.postfix')
pytestmark = pytest.mark.root


@pytest.fixture(autouse=True, scope='module')
def package():
    """Postfix's files; a visible skip where they cannot be had."""
    try:
        postfix.binaries()
    except RuntimeError as problem:
        pytest.skip('no Postfix: %s' % problem)


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as sock:
        return sock.getsockname()[1]


def wait_for(port):
    """Until somebody listens there."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            socket.create_connection(('127.0.0.1', port)).close()
            return
        except OSError:
            time.sleep(0.02)        # another program's start, which tells nobody
    raise AssertionError('nobody listens')


@contextlib.contextmanager
def rspawn_to(tmp_path, port, patience=2):
    """qpy-rspawn whose every mail goes to this port."""
    for name in ('control', 'run', 'queue', 'queue/mess'):
        (tmp_path / name).mkdir()
    os.chown(tmp_path, 65534, 65534)
    (tmp_path / 'control' / 'me').write_text('me.example\n')
    (tmp_path / 'control' / 'timeoutremote').write_text('%d\n' % patience)
    (tmp_path / 'control' / 'smtproutes').write_text(':127.0.0.1:%d\n' % port)
    rspawn = Rspawn(tmp_path, '1')
    yield rspawn
    assert rspawn.end() == (0, b'')


SINK = [((), b'K', b'accepted message'), (('-e',), b'K', b'accepted message'), (('-p',), b'K', b'accepted message'),
        (('-8',), b'K', b'accepted message'), (('-P',), b'K', b'accepted message'),
        (('-f', 'connect'), b'Z', b'greeting failed'), (('-f', 'ehlo,helo'), b'Z', b'my name was rejected'),
        (('-f', 'ehlo'), b'K', b'accepted message'),
        (('-f', 'mail'), b'D', b'sender was rejected'), (('-f', 'rcpt'), b'D', b'does not like recipient'),
        (('-f', 'data'), b'D', b'failed on DATA command'), (('-f', '.'), b'D', b'failed after I sent the message'),
        (('-r', 'mail'), b'Z', b'sender was rejected'), (('-r', 'rcpt'), b'Z', b'does not like recipient'),
        (('-r', 'data'), b'Z', b'failed on DATA command'), (('-r', '.'), b'Z', b'failed after I sent the message'),
        (('-q', 'connect'), b'Z', b'connection died'), (('-q', 'ehlo'), b'Z', b'connection died'),
        (('-q', 'mail'), b'Z', b'connection died'), (('-q', 'rcpt'), b'Z', b'connection died'),
        (('-q', 'data'), b'Z', b'connection died'), (('-q', '.'), b'Z', b'Possible duplicate!'),
        (('-Q', 'mail'), b'Z', b'421'), (('-Q', '.'), b'Z', b'421'),
        (('-W', 'rcpt:3'), b'Z', b'503'), (('-p', '-W', 'rcpt:10'), b'Z', b'did not answer in time'),
        (('-w', '10'), b'Z', b'did not answer in time')]


@pytest.mark.parametrize('options, letter, text', SINK)
def test_smtp_sink(tmp_path, options, letter, text):
    """R-12 to R-19 with a real program on the other side: what it does decides, and nothing permanent is made
    up."""
    port = free_port()
    sink = subprocess.Popen([*postfix.tool('smtp-sink'), '-u', 'nobody', *options, '127.0.0.1:%d' % port, '10'])
    try:
        wait_for(port)
        with rspawn_to(tmp_path, port) as rspawn:
            for i in range(2):
                rspawn.send(i)
            rspawn.wait(lambda: len(rspawn.results) == 2)
            for result in rspawn.results.values():
                assert result[0] == letter and text in result[2], result
    finally:
        sink.terminate()
        sink.wait()


def test_postfix(tmp_path):
    """Postfix accepts, files and refuses what we send: two recipients in one transaction, and all bytes of
    the body."""
    port = free_port()
    user_home = pathlib.Path(tempfile.mkdtemp(prefix='qpy-test-'))      # tmp_path is closed to joe
    os.chown(user_home, 64100, 64100)
    peer = postfix.Postfix(port, users=[('joe', 64100, str(user_home))])
    try:
        wait_for(port)
        (tmp_path / 'qpy').mkdir()
        with rspawn_to(tmp_path / 'qpy', port, patience=20) as rspawn:
            body = b'Subject: x\n\n.dot\n..two\n' + bytes(range(128, 256)) + b'\nno end'
            rspawn.send(1, b'postfix.test', [b'joe@postfix.test', b'nobody.here@postfix.test'], body)
            rspawn.wait(lambda: len(rspawn.results) == 2)
            assert rspawn.results[1][0] == b'K' and rspawn.results[2][0] == b'D', rspawn.results
            rspawn.wait(lambda: (rspawn.loop.step(0.05), glob.glob(str(user_home / 'Maildir/new/*')))[1])
        with open(glob.glob(str(user_home / 'Maildir/new/*'))[0], 'rb') as file:
            assert file.read().partition(b'\n\n')[2] == body.partition(b'\n\n')[2] + b'\n'
    finally:
        peer.stop()
        shutil.rmtree(user_home)
