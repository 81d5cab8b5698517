"""Delivery status notifications through the whole chain: what `sendmail -N` asks for is what comes back."""
import os
import smtplib
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402

from qpy.admin.sink import Sink  # noqa: E402
from tests.peers.smtp_script import Server, good  # noqa: E402


@pytest.fixture(scope='module')
def house():
    """A chain with a sink, which knows no DSN, for remote mail; user-no fails."""
    sink = Sink(('127.0.0.1', 0), lambda *message: None)
    server = Server(good((b'DSN', b'DELIVERBY')))
    server.__enter__()
    made = houses.House(routes=':127.0.0.1:%d\nknows.test:127.0.0.1:%d\n' % (sink.port, server.port))
    made.server = server
    try:
        made.recipe('user', '.qmail-no', "|echo 'will not do'; exit 100\n")
        made.recipe('user', '.qmail-out', '&x@far.test\n&user-no@here.test\n')
        made.recipe('user', '.qmail-list', '&user-no@here.test\n')
        made.recipe('user', '.qmail-list-owner', './Maildir/\n')
        yield made.start()
        assert made.stop() == 0
    finally:
        made.remove()
        server.__exit__()
        sink.shutdown()
        sink.server_close()


def send(house, notify, recipient, subject):
    """One message; the lines of the log from its beginning until the queue is empty again."""
    before = len(house.lines)
    house.sendmail('-N', notify, '-V', 'env-' + subject, '-f', 'user@here.test', recipient,
                   text='Subject: %s\n\nThe text.\n' % subject)

    def done():
        lines = house.lines[before:]
        new, end = (sum(line.startswith(word) for line in lines) for word in ('new msg', 'end msg'))
        return new and new == end and not house.queue() and lines
    return house.await_that(done, 'end of every message')


@pytest.mark.parametrize('recipient, action', [('user@here.test', 'delivered'), ('joe@far.test', 'relayed'),
                                               ('user-out@here.test', 'expanded')])
def test_success(house, recipient, action):
    """Delivered here, relayed to a server without DSN, expanded by a .qmail: told once, and by nobody behind it."""
    lines = send(house, 'success', recipient, action)
    message = house.await_message('user/Maildir', 'Original-Envelope-Id: env-' + action)
    assert b'\nAction: ' + action.encode() + b'\n' in message and message.startswith(b'Return-Path: <>\n')
    assert b'Subject: %s\n' % action.encode() in message and b'The text.' not in message
    assert sum(line.startswith('notice msg') and line.endswith(': success') for line in lines) == 1, lines


def test_an_alias_hands_the_wishes_on(house):
    """A failure behind an alias is told as the sender asked, with the address he wrote and his envelope ID."""
    send(house, 'failure', 'user-out@here.test', 'behind')
    message = house.await_message('user/Maildir', 'Original-Envelope-Id: env-behind')
    assert b'\nOriginal-Recipient: rfc822; user-out@here.test\nFinal-Recipient: rfc822; user-no@here.test\n' in message


@pytest.mark.parametrize('recipient', ['user-no@here.test', 'user-out@here.test'])
def test_never(house, recipient):
    """NOTIFY=NEVER: no report at all, here and behind an alias."""
    lines = send(house, 'never', recipient, 'never')
    assert not any(line.startswith(('bounce msg', 'notice msg')) for line in lines) and any('failure:' in line for line in lines)


def test_the_owner_of_a_list_has_no_wishes(house):
    """A list has a sender of its own, who is told of failures whatever the author asked for (RFC 3461, 5.2.7.3)."""
    lines = send(house, 'never', 'user-list@here.test', 'list')
    assert sum(line.startswith('bounce msg') for line in lines) == 1
    assert b'\nTo: user-list-owner@here.test\n' in house.await_message('user/Maildir', 'Subject: list')


def test_a_next_hop_that_knows_dsn(house):
    """It gets the wishes, and tells; we do not."""
    lines = send(house, 'success,failure', 'joe@knows.test', 'knows')
    assert not any(line.startswith('notice msg') for line in lines)
    assert b'RCPT TO:<joe@knows.test> NOTIFY=SUCCESS,FAILURE' in house.server.log


def by_smtp(house, recipient, mail, rcpt=()):
    """A message by SMTP with these parameters; the log from its beginning until the queue is empty, as send() has it."""
    with smtplib.SMTP('127.0.0.1', house.port, timeout=houses.PATIENCE) as client:
        client.ehlo('client.test')
        assert client.has_extn('dsn') and client.has_extn('deliverby')
        client.sendmail('user@here.test', [recipient], 'Subject: timed\r\n\r\nhi\r\n', mail, rcpt)
    return house.await_that(lambda: not house.queue() and house.lines[-1].startswith('end msg') and house.lines, 'end')


def test_deliver_by_from_door_to_door(house):
    """DELIVERBY, from the SMTP client through the queue: what is left of the time to a server that knows it; back to the
    sender where it does not; and told, with N, that it has gone there."""
    by_smtp(house, 'joe@knows.test', ['BY=1000;R', 'ENVID=timed1'], ['NOTIFY=FAILURE'])
    line = next(line for line in house.server.log if b'BY=' in line)
    assert line.startswith(b'MAIL FROM:<user@here.test> BY=') and b';R' in line and b' ENVID=timed1' in line
    by_smtp(house, 'joe@far.test', ['BY=1000;R', 'ENVID=timed2'])
    message = house.await_message('user/Maildir', 'Original-Envelope-Id: timed2')
    assert b'\nAction: failed\nStatus: 5.4.7\n' in message
    by_smtp(house, 'joe@far.test', ['BY=1000;N', 'ENVID=timed3'])
    assert b'\nAction: relayed\n' in house.await_message('user/Maildir', 'Original-Envelope-Id: timed3')
