"""qpy-smtpd in front of the real qpy-queued: what a client was told 250 for is on disk, as it was sent."""
import os
import random

import pytest

from qpy.core import mess
from tests.peers.queued import Daemon, connect, temporary_home
from tests.peers.smtp_rig import Client


@pytest.fixture
def home():
    with temporary_home() as path:
        with open(path + b'/control/me', 'w') as file:
            file.write('mx.example.com\n')
        yield path


@pytest.fixture
def chain(home):
    daemons = [Daemon(home, 'queued', [b'submit', b'new']), Daemon(home, 'smtpd', [b'smtp'])]
    yield daemons
    for daemon in reversed(daemons):
        daemon.end()


def greeted(home):
    client = Client(connect(home, b'smtp'))
    assert client.reply()[:3] == b'220'
    return client


def stored(home):
    """{ID: (text, envelope)} of the queue, each checked by its footer."""
    found = {}
    for name in os.listdir(home + b'/queue/mess'):
        with open(home + b'/queue/mess/' + name, 'rb') as file:
            found[name] = mess.unpack(file.read(), name)
    return found


def send(client, text, recipients=(b'joe@mx.example.com',)):
    """One message; the last reply."""
    client.send(b''.join([b'MAIL FROM:<ann@example.org> BODY=8BITMIME\r\n',
        *[b'RCPT TO:<%s>\r\n' % r for r in recipients], b'DATA\r\n']))
    for _ in range(len(recipients) + 2):
        client.reply()
    return client.send(text + b'\r\n.\r\n').reply()


def test_what_is_acknowledged_is_on_disk(home, chain):
    """The file is there when 250 is, with both Received lines, one pid in both and in the reply, and the
    envelope."""
    client = greeted(home)
    client.say(b'EHLO client.example')
    reply = send(client, b'Subject: x\r\n\r\n\xe4\r\n..', [b'joe@mx.example.com', b'"a b"@mx.example.com'])
    pid = reply.split(b' ')[-1]
    (text, envelope), = stored(home).values()
    lines = text.split(b'\n')
    assert lines[0].startswith(b'Received: (qpy %s invoked ' % pid)
    assert lines[1] == b'Received: from unknown (HELO client.example) (unknown)'
    assert lines[2].startswith(b'  by mx.example.com with ESMTP; ')
    assert lines[3:] == [b'Subject: x', b'', b'\xe4', b'.', b'']
    assert envelope.recipients == [b'joe@mx.example.com',
        b'a b@mx.example.com'] and envelope.option(b'B') == b'8BITMIME'


def test_conservation(home, chain):
    """G-09: random bodies of every size arrive byte for byte, one message in, one message out."""
    chooser, sent = random.Random(7), {}
    clients = [greeted(home) for _ in range(4)]
    for n in range(40):
        size = chooser.choice([0, 1, 100, 5000, 60000, 70000, 300000])
        body = b''.join(chooser.choice([b'.', b'..', b'\n', b'x', b'\xff\0', b'.\n', b'y' * 60])
            for _ in range(size // 20))
        body = b'X-Number: %d\n\n%s\n' % (n, body)
        wire = body[:-1].replace(b'\n', b'\r\n').replace(b'\r\n.', b'\r\n..')
        assert send(clients[n % 4], wire)[:3] == b'250'
        sent[n] = body
    found = [text.split(b'\n', 3)[3] for text, _ in stored(home).values()]
    assert sorted(found) == sorted(sent.values())


def test_queued_comes_back(home, chain):
    """queued is killed under an open session: 451 while it is gone, 250 once it is back."""
    client = greeted(home)
    assert send(client, b'one')[:3] == b'250'
    chain[0].kill()
    client.send(b'MAIL FROM:<>\r\nRCPT TO:<joe@mx.example.com>\r\nDATA\r\n')
    assert [client.reply()[:3] for _ in range(3)][2] == b'451'
    chain[0] = Daemon(home, 'queued', [b'submit', b'new'])
    assert send(client, b'two')[:3] == b'250'
    assert len(stored(home)) == 2
