"""What control files that have no test of their own change in the programs that read them."""
import os
import socket
import subprocess

import pytest

from qpy.core import smtp_replies as replies
from qpy.lib.loop import Loop
from qpy.qpyc import settings as check_settings
from qpy.qpyd import census, conversation, server, settings
from tests.peers import queued, send_rig
from tests.peers.smtp_rig import SOURCE, Rig

ENVELOPE = b'HELO x\r\nMAIL FROM:<ann@example.org>\r\nRCPT TO:<joe@mx.example.com>\r\nDATA\r\n'


@pytest.fixture
def make():
    rigs = []

    def build(**control):
        rigs.append(Rig(**control))
        return rigs[-1]
    yield build
    for rig in rigs:
        rig.stop()


def test_maxrcpt_smtpgreeting_and_localiphost(make):
    """The greeting; the recipient beyond the limit; the name that stands for [our address]."""
    rig = make(maxrcpt='100\n', smtpgreeting='mx.example.com at your service\n', localiphost='literal.example\n',
               rcpthosts='mx.example.com\nliteral.example\n')
    client = rig.warm(workers=1).connect()
    assert client.reply() == b'220 mx.example.com at your service ESMTP'
    assert client.say(b'EHLO x') and client.say(b'MAIL FROM:<>')[:3] == b'250'
    assert client.say(b'RCPT TO:<joe@[127.0.0.1]>')[:3] == b'250'
    assert {client.say(b'RCPT TO:<u%d@mx.example.com>' % n)[:3] for n in range(99)} == {b'250'}
    assert client.say(b'RCPT TO:<one.more@mx.example.com>')[:9] == b'452 4.5.3'
    assert client.say(b'DATA')[:3] == b'354' and client.say(b'x\r\n.')[:3] == b'250'
    rig.queued.wait()
    recipients = rig.queued.messages[0][1].recipients
    assert recipients[0] == b'joe@literal.example' and len(recipients) == 100


def test_mindatarate(make):
    """After two minutes a message must have come at this rate, else its client is sent away; who is faster stays."""
    rig = make(mindatarate='100\n')
    loop, now = Loop(), [1000.0]
    watched = settings.watched(os.fsencode(rig.home))
    here = server.Server(os.fsencode(rig.home), loop, watched, census.Census(), environ={})
    here.now = lambda: now[0]
    clients = []
    for size in (5000, 20000):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        here.arrived(theirs, b'', watched.get())
        clients.append(ours)
        ours.sendall(ENVELOPE)
        for _ in range(20):
            loop.step(0.05)
        ours.sendall(b'x' * 78 + b'\r\n' * (size // 80) + b'y' * size)
        for _ in range(5):
            loop.step(0.05)
    now[0] += conversation.RATE_GRACE + 1
    for each in list(here.clients):
        each.look_at_clock(now[0], watched.get())
    for _ in range(5):
        loop.step(0.05)
    slow, fast = (sock.recv(65536) for sock in clients)
    assert slow.endswith(replies.TOO_SLOW + b'\r\n') and fast.endswith(b'354 go ahead\r\n')
    for sock in clients:
        sock.close()


def test_concurrencydestination():
    """So many transactions at a time to one domain; another one has its own; HUP is enough."""
    with queued.temporary_home() as home:
        rig = send_rig.Rig(home)
        rig.start()
        rig.write('concurrencydestination', '2')
        rig.send.reread()
        for n in range(5):
            rig.put(b'a%d@x.example' % n)
        rig.put(b'a@y.example')
        assert sorted(job[-2].rpartition(b'@')[2] for job in rig.jobs) == [b'x.example'] * 2 + [b'y.example']
        rig.end()


def test_names_for_new_messages(tmp_path):
    """idhost, defaulthost, defaultdomain and plusdomain, from their files."""
    (tmp_path / 'control').mkdir()
    for name, text in (('me', 'me.example'), ('idhost', 'id.example'), ('defaulthost', 'desk'), ('defaultdomain', 'dom.example'),
                       ('plusdomain', 'plus.example')):
        (tmp_path / 'control' / name).write_text(text + '\n')
    done = subprocess.run([SOURCE + '/bin/qpy-inject', '-n'], input=b'To: a, b@lab+, c@short\n\n', capture_output=True,
                          env={'QPYHOME': str(tmp_path), 'PATH': '/usr/bin:/bin', 'QMAILUSER': 'joe'})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split(b'\n')
    assert b'To: a@desk.dom.example, b@lab.plus.example, c@short.dom.example' in lines
    assert b'From: joe@desk.dom.example' in lines
    assert [line for line in lines if line.startswith(b'Message-ID:')][0].endswith(b'@id.example>')


def test_dnsblthreshold(tmp_path):
    """The weight at which a client is refused."""
    (tmp_path / 'control').mkdir()
    (tmp_path / 'control/me').write_text('me.example\n')
    assert check_settings.load(os.fsencode(tmp_path)).threshold == 1
    (tmp_path / 'control/dnsblthreshold').write_text('7\n')
    assert check_settings.load(os.fsencode(tmp_path)).threshold == 7
