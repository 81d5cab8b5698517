"""Every way to end, or nearly end, a text, given to qpy in front of Postfix, Exim and OpenSMTPD: at the neighbour there is one
message or none, and never one that nobody sent."""
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

import pytest

from tests.peers import exim, net, opensmtpd, postfix, qpy as peer

pytestmark = pytest.mark.root
PORT, *NEXT = (peer.free_port() for _ in range(4))
JOE = 64121
ENDS = (b'\r', b'\n', b'\r\n')
ENDINGS = [(before, after) for before in ENDS for after in ENDS]
FORGED = b'MAIL FROM:<evil@x.example>\r\nRCPT TO:<joe@%b>\r\nDATA\r\nSubject: forged\r\n\r\nforged\r\n.\r\n'
PATIENCE = 30


class Postfix:
    """As the others: domain, box()."""

    domain = 'postfix.test'

    def __init__(self, port):
        self.home = tempfile.mkdtemp(prefix='qpy-test-joe-')
        os.chown(self.home, JOE, JOE)
        self.postfix = postfix.Postfix(port, users=[('joe', JOE, self.home)])

    def box(self):
        return self.home + '/Maildir/new'

    def stop(self):
        self.postfix.stop()
        shutil.rmtree(self.home)


NEIGHBOURS = dict(zip((Postfix, exim.Exim, opensmtpd.OpenSmtpd), NEXT))


@pytest.fixture(scope='module')
def qpy():
    """A host that relays for this machine, to each neighbour's port."""
    base = tempfile.mkdtemp(prefix='qpy-endings-', dir='/var/tmp')
    os.chmod(base, 0o755)
    host = net.Host('qpy', network=False)
    running = None
    try:
        running = peer.Qpy(os.path.join(base, 'qpy'), PORT, host=host, controls={'tcp.smtp': '127.:allow,RELAYCLIENT=""\n'},
                           routes=['%s:127.0.0.1:%d' % (kind.domain, port) for kind, port in NEIGHBOURS.items()])
        yield running
    finally:
        if running:
            running.stop()
        host.end()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope='module', params=NEIGHBOURS, ids=lambda kind: kind.domain)
def neighbour(request):
    """One of them; a visible skip where it cannot be had."""
    try:
        server = request.param(NEIGHBOURS[request.param])
    except RuntimeError as problem:
        pytest.skip('no %s: %s' % (request.param.domain, problem))
    yield server
    server.stop() if isinstance(server, Postfix) else exim.stop(server)


def subjects(server):
    """The subjects of all that arrived there, sorted, and the texts."""
    try:
        files = list(pathlib.Path(server.box()).iterdir())
    except FileNotFoundError:
        return [], []
    texts = [file.read_bytes() for file in files]
    return sorted(line[9:].strip() for text in texts for line in text.split(b'\n\n')[0].split(b'\n')
                  if line.startswith(b'Subject: ')), texts


def settled(qpy, server, wanted):
    """Wait until these subjects are there and nothing is on its way; what is there then."""
    give_up = time.monotonic() + PATIENCE
    while True:
        found, texts = subjects(server)
        if len(found) >= len(wanted) and not qpy.waiting():
            return found, texts
        assert time.monotonic() < give_up, (found, wanted, qpy.log()[-2000:])
        time.sleep(0.05)            # a Maildir and a queue announce nothing to a plain reader


def accepted(domain, subject, text):
    """How many messages the door takes of a conversation whose DATA holds this text and then FORGED."""
    with socket.create_connection(('127.0.0.1', PORT), 20) as sock:
        stream = sock.makefile('rwb')
        stream.readline()
        for line in (b'HELO x', b'MAIL FROM:<a@x.example>', b'RCPT TO:<joe@%b>' % domain, b'DATA'):
            stream.write(line + b'\r\n')
            stream.flush()
            last = stream.readline()
        assert last.startswith(b'354')
        stream.write(b'Subject: %b\r\n\r\n' % subject + text + FORGED % domain + b'QUIT\r\n')
        stream.flush()
        try:
            replies = stream.read().splitlines()
        except ConnectionResetError:
            replies = []
    return sum(reply.startswith(b'250 2.0.0 ok') for reply in replies)


def test_at_the_door(qpy, neighbour):
    """G-01 to G-06: by SMTP: the true end makes two messages, of which the second was really sent; every other one makes
    none; a dot that is text makes one."""
    domain, wanted, before = neighbour.domain.encode(), [], len(subjects(neighbour)[0])
    for number, (first, second) in enumerate(ENDINGS):
        for at, start in enumerate((b'text', b'text\r\n', b'')):
            subject = b'd%d.%d' % (number, at)
            taken = accepted(domain, subject, start + first + b'.' + second)
            assert taken == (2 if first == second == b'\r\n' else 0), (first, second)
            wanted += [subject, b'forged'][:taken]
    for number, text in enumerate((b'text\r\n..\r\n', b'text\r\n.x\r\n', b'text\r\n. \r\n', b'.\0\r\n', b'text\r\n..', b'text.\r\n')):
        assert accepted(domain, b't%d' % number, text) == 1
        wanted.append(b't%d' % number)
    found, _ = settled(qpy, neighbour, wanted)
    assert found == sorted(wanted) and not before


def test_by_sendmail(qpy, neighbour):
    """INV4: by sendmail: whatever ends stand around a dot, it is one message, with what follows in its text."""
    domain, known = neighbour.domain.encode(), subjects(neighbour)[0]
    for number, (first, second) in enumerate(ENDINGS):
        text = b'Subject: s%d\n\ntext' % number + first + b'.' + second + FORGED % domain
        subprocess.run([qpy.home + '/bin/qpy-sendmail', '-i', '-f', 'a@x.example', 'joe@' + neighbour.domain], input=text, check=True)
    wanted = sorted(known + [b's%d' % number for number in range(len(ENDINGS))])
    found, texts = settled(qpy, neighbour, wanted)
    assert found == wanted
    for text in texts:
        if b'\nSubject: s' in text:
            assert b'MAIL FROM:<evil@x.example>' in text and b'\nforged' in text


def test_by_the_queue(qpy, neighbour):
    """INV4: by qpy-queue, which keeps every byte, CRs too: the neighbour never sees the end of a text where there is none."""
    domain, known = neighbour.domain.encode(), subjects(neighbour)[0]
    for number, (first, second) in enumerate(ENDINGS):
        text = b'Subject: q%d\n\ntext' % number + first + b'.' + second + FORGED % domain
        with tempfile.TemporaryFile() as message, tempfile.TemporaryFile() as envelope:
            message.write(text)
            envelope.write(b'Fa@x.example\0Tjoe@%b\0\0' % domain)
            message.seek(0)
            envelope.seek(0)
            subprocess.run([qpy.home + '/bin/qpy-queue'], stdin=message, stdout=envelope, check=True)
    wanted = sorted(known + [b'q%d' % number for number in range(len(ENDINGS))])
    found, texts = settled(qpy, neighbour, wanted)
    assert found == wanted
    assert sum(b'\nSubject: q' in text and b'MAIL FROM:<evil@x.example>' in text for text in texts) == len(ENDINGS)
