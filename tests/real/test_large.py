"""A message of tens of megabytes, in and out, while others go on: nobody holds it in memory, nobody waits
for it."""
import os
import shutil
import smtplib
import subprocess
import threading
import time

import pytest

from tests.peers.qpy import free_port, wait_for_port
from tests.real.conftest import smtp_tool

pytestmark = pytest.mark.root
SIZE = 40 << 20                 # bytes of the message
HELD = 24 << 20                 # bytes that no program may grow by on its account
SINK = free_port()


def peak(pid):
    """The most memory that a process has had so far, in bytes; 0 if it is gone."""
    try:
        with open('/proc/%d/status' % pid) as file:
            return int(file.read().partition('VmHWM:')[2].split()[0]) << 10
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


@pytest.fixture
def sink(server):
    """The directory of what an smtp-sink, the next hop of big.test, has taken."""
    command = smtp_tool('smtp-sink')
    place = os.path.join(os.path.dirname(server.home), 'sink')
    os.mkdir(place)
    shutil.chown(place, 'nobody')
    server.write('control/smtproutes', 'big.test:127.0.0.1:%d\n' % SINK)
    process = subprocess.Popen([*command, '-u', 'nobody', '-d', place + '/%M.',
                                '127.0.0.1:%d' % SINK, '10'])
    wait_for_port(SINK)
    server.stop(remove=False)           # smtproutes is read at the start
    server.start()
    yield place
    process.kill()
    process.wait()


def send_big(port):
    """Send it at full speed, to a user here and to one elsewhere; seconds until it was acknowledged."""
    line = b'x' * 998 + b'\r\n'
    with smtplib.SMTP('127.0.0.1', port, timeout=60) as client:
        client.ehlo('client.test')
        client.mail('a@client.test', ['SIZE=%d' % SIZE])
        for name in ('joe@qpy.test', 'x@big.test'):
            assert client.rcpt(name)[0] == 250
        assert client.docmd('DATA')[0] == 354
        begun = time.monotonic()
        client.send(b'Subject: big\r\n\r\n')
        for _ in range(SIZE // 1000 // 100):
            client.send(line * 100)
        assert client.docmd('.')[0] == 250
        return time.monotonic() - begun


def test_large(server, mailbox, sink):
    """While 40 MB go through the whole chain, in and out twice, small messages are acknowledged as ever, and
    no program of the chain grows by more than a part of it."""
    before = {pid: peak(pid) for pid, _ in server.pids()}
    slowest, over = [0.0], threading.Event()

    def small():
        while not over.is_set():
            begun = time.monotonic()
            with smtplib.SMTP('127.0.0.1', server.port, timeout=30) as client:
                client.sendmail('a@client.test', ['joe@qpy.test'], 'Subject: small\n\ntext\n')
            slowest[0] = max(slowest[0], time.monotonic() - begun)
    other = threading.Thread(target=small)
    other.start()
    try:
        took = send_big(server.port)
        give_up = time.monotonic() + 60
        while server.outcomes().get('x@big.test', [('', '')])[-1][0] != 'K':
            assert time.monotonic() < give_up, server.log()[-3000:]
            time.sleep(0.05)
    finally:
        over.set()
        other.join()
    grown = {(name, pid): peak(pid) - before.get(pid, 10 << 20) for pid, name in server.pids()}
    print('took %.1f s, slowest small one %.2f s, grown by MB: %s'
          % (took, slowest[0], {name: size >> 20 for (name, _), size in grown.items() if size >> 20}))
    sizes = sorted(os.path.getsize(mailbox.directory + '/new/' + name)
                   for name in mailbox.names() - mailbox.seen)
    sunk = [os.path.getsize(os.path.join(sink, name)) for name in os.listdir(sink)]
    assert sizes[-1] > SIZE * 0.99 and sum(sunk) > SIZE * 0.99
    assert max(grown.values()) < HELD, grown
    assert slowest[0] < max(2.0, took / 2)
