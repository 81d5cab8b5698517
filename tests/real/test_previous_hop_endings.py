"""Every way to end, or nearly end, a text, given to Postfix, Exim and OpenSMTPD, each of which passes all its mail to
qpy: of each message that the neighbour has taken one arrives or none, and never one that it has not taken."""
import re
import socket
import time

import pytest

from tests.peers import exim, opensmtpd, postfix, qpy as peer

pytestmark = [pytest.mark.root, pytest.mark.timeout(200)]
PORTS = [peer.free_port() for _ in range(3)]
STARTS = (b'text', b'text\r\n', b'')
ENDS = (b'\r', b'\n', b'\r\n')
FORGED = b'MAIL FROM:<evil@x.example>\r\nRCPT TO:<joe@qpy.test>\r\nDATA\r\nSubject: forged\r\n\r\nforged\r\n.\r\n'
TAKEN = re.compile(rb'^250 .*(queued as|OK id=|accepted for delivery)', re.M | re.I)
PATIENCE = 40


def with_postfix(port, relay):
    """Postfix, with qpy as its smarthost."""
    return postfix.Postfix(port, more='relayhost = [127.0.0.1]:%d\ndisable_dns_lookups = yes\n' % relay)


NEIGHBOURS = {'Postfix': with_postfix, 'Exim': lambda port, relay: exim.Exim(port, relay=relay),
              'OpenSMTPD': lambda port, relay: opensmtpd.OpenSmtpd(port, relay=relay)}


@pytest.fixture(params=NEIGHBOURS)
def neighbour(request, server):
    """The port of one of them; a visible skip where it cannot be had."""
    port = PORTS[list(NEIGHBOURS).index(request.param)]
    try:
        there = NEIGHBOURS[request.param](port, server.port)
    except RuntimeError as problem:
        pytest.skip('no %s: %s' % (request.param, problem))
    there.port = port
    yield there
    there.stop() if isinstance(there, postfix.Postfix) else exim.stop(there)


def taken(port, subject, text):
    """How many messages the neighbour takes of a conversation whose DATA holds this text and then FORGED."""
    with socket.create_connection(('127.0.0.1', port), 20) as sock:
        stream = sock.makefile('rwb')
        stream.readline()
        for line in (b'HELO x', b'MAIL FROM:<a@x.example>', b'RCPT TO:<joe@qpy.test>', b'DATA'):
            stream.write(line + b'\r\n')
            stream.flush()
            last = stream.readline()
        assert last.startswith(b'354'), last
        stream.write(b'Subject: %b\r\n\r\n' % subject + text + FORGED)
        stream.flush()
        sock.shutdown(socket.SHUT_WR)
        try:
            replies = stream.read()
        except ConnectionResetError:
            replies = b''
    return len(TAKEN.findall(replies))


def arrived(mailbox):
    """{subject: [texts]} of what is new in joe's Maildir."""
    found = {}
    for name in mailbox.names() - mailbox.seen:
        with open(mailbox.directory + '/new/' + name, 'rb') as file:
            text = file.read()
        subject = re.search(rb'^Subject: (.*)$', text, re.M)
        found.setdefault(subject[1].strip() if subject else b'?', []).append(text)
    return found


def test_what_a_neighbour_takes_arrives_once(server, mailbox, neighbour):
    """G-01 to G-06, G-09, INV4: a message taken is a message, whatever stands in it; what stands around a dot in its
    text makes no second one between the neighbour and us."""
    promised, forged = {}, 0
    ends = ENDS[1:] if isinstance(neighbour, opensmtpd.OpenSmtpd) else ENDS       # see below
    for number, (first, second) in enumerate((a, b) for a in ends for b in ends):
        for at, start in enumerate(STARTS):
            subject = b'p%d.%d' % (number, at)
            promised[subject] = taken(neighbour.port, subject, start + first + b'.' + second)
            forged += max(0, promised[subject] - 1)
    true_end = b'p%d.0' % number            # the last of them
    for number, text in enumerate((b'text\r\n..\r\n', b'text\r\n.x\r\n', b'text\r\n..', b'text.\r\n')):
        subject = b'q%d' % number
        promised[subject] = taken(neighbour.port, subject, text)
        assert promised[subject] <= 1
    due = {subject for subject, count in promised.items() if count}
    assert len(due) >= 3, promised
    give_up = time.monotonic() + PATIENCE
    while not ({true_end, b'q0', b'q1', b'q2', b'q3'} & due <= set(arrived(mailbox)) and not server.waiting()):
        assert time.monotonic() < give_up, (promised, sorted(arrived(mailbox)), server.log()[-2000:])
        time.sleep(0.05)            # a Maildir announces nothing to a plain reader
    found = arrived(mailbox)
    assert set(found) <= due | {b'forged'}
    assert all(len(texts) == 1 for subject, texts in found.items() if subject != b'forged')
    assert len(found.get(b'forged', [])) <= forged


@pytest.mark.parametrize('neighbour', ['OpenSMTPD'], indirect=True)
def test_a_bare_cr_is_taken_and_goes_no_further(server, mailbox, neighbour):
    """G-05, G-06: OpenSMTPD takes a CR alone for text and passes it on: it is refused by name, and nothing arrives of any
    of them, least of all what stands behind.  It then leaves us alone for longer than a test can wait."""
    refused = server.log().count('bare CR')
    for number, (first, second) in enumerate((a, b) for a in ENDS for b in ENDS if b'\r' in (a, b)):
        for at, start in enumerate(STARTS):
            assert taken(neighbour.port, b'r%d.%d' % (number, at), start + first + b'.' + second) == 1
    give_up = time.monotonic() + PATIENCE
    while server.log().count('bare CR') == refused or server.waiting():
        assert time.monotonic() < give_up, server.log()[-2000:]
        time.sleep(0.05)            # the log is read by others too
    assert not arrived(mailbox)
