"""Port 587 in a whole chain: who has logged in sends as himself, and his message goes out complete."""
import base64
import calendar
import os
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import test_tls_in as tls  # noqa: E402
from test_auth import SECRET, AuthHouse, log_in  # noqa: E402
from tests.peers.smtp_script import Server, good  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def next_hop():
    """A server that knows no TLS."""
    with Server(good((b'MT-PRIORITY',))) as server:
        yield server


@pytest.fixture(scope='module')
def one(next_hop):
    found = AuthHouse(smtp='REQUIREAUTH=1 HIDECLIENT=1', routes='next.test:127.0.0.1:%d\n' % next_hop.port)
    found.write('control/authsenders', 'user:@else.test\n')
    try:
        yield found.start()
    finally:
        found.remove()


def send(client, sender, text, recipient=b'user@here.test'):
    """The replies' codes."""
    said = [client.say(b'MAIL FROM:<%s>' % sender)[:3]]
    if said[-1] == b'250':
        said += [client.say(line)[:3] for line in (b'RCPT TO:<%s>' % recipient, b'DATA', text + b'\r\n.')]
    return said


def test_nobody_without_a_login(one):
    """530 for MAIL, whoever he is; under TLS too."""
    client, _ = one.ready()
    assert client.say(b'MAIL FROM:<user@here.test>') == b'530 5.7.0 authentication required'
    client.close()


def test_senders(one):
    """His own addresses and those that control/authsenders gives him; others are 553, and the log says who tried."""
    client, _ = one.ready()
    log_in(client, b'PLAIN')
    for sender, code in [(b'user@here.test', b'250'), (b'user-ext@here.test', b'250'), (b'', b'250'), (b'x@else.test', b'250'),
                         (b'root@here.test', b'553'), (b'user@elsewhere.test', b'553')]:
        assert client.say(b'MAIL FROM:<%s>' % sender)[:3] == code, sender
        client.say(b'RSET')
    assert 'from <root@here.test>: 553 5.7.1 sorry, this sender address is not yours' in one.await_line(
        'refused mail ip 127.0.0.1 helo client.test login user')
    client.close()


TEXT = b'From: =?UTF-8?Q?J=C3=B6?= <user@here.test>\r\nTo: user@here.test\r\nSubject: %s\r\n\r\nk\xc3\xb6rper\r\n'
PLAIN = base64.b64encode(b'\0user\0' + SECRET)
#: what people's programs say to port 587, after STARTTLS and EHLO: (how they call themselves, [what is sent at once: how many replies])
CLIENTS = {
    b'Thunderbird': (b'[192.168.1.20]', [
        (b'AUTH PLAIN ' + PLAIN, b'235'), (b'MAIL FROM:<user@here.test> BODY=8BITMIME SIZE=%d', b'250'),
        (b'RCPT TO:<user@here.test>', b'250'), (b'DATA', b'354'), (b'%s.', b'250'), (b'QUIT', b'221')]),
    b'Outlook': (b'DESKTOP-7Q2K1', [
        (b'AUTH LOGIN', b'334'), (base64.b64encode(b'user'), b'334'), (base64.b64encode(SECRET), b'235'),
        (b'MAIL FROM: <user@here.test>', b'250'), (b'RCPT TO: <user@here.test>', b'250'), (b'DATA', b'354'), (b'%s.', b'250'),
        (b'QUIT', b'221')]),
    b'Apple Mail': (b'smtpclient.apple', [
        (b'AUTH PLAIN', b'334'), (PLAIN, b'235'), (b'MAIL FROM:<user@here.test>', b'250'), (b'RCPT TO:<user@here.test>', b'250'),
        (b'DATA', b'354'), (b'%s.', b'250'), (b'RSET', b'250'), (b'NOOP', b'250'), (b'QUIT', b'221')]),
    b'K-9 Mail': (b'[127.0.0.1]', [
        (b'AUTH PLAIN ' + PLAIN, b'235'), (b'MAIL FROM:<user@here.test> BODY=8BITMIME\r\nRCPT TO:<user@here.test>', b'250 250'),
        (b'BDAT %d LAST\r\n%s', b'250'), (b'QUIT', b'221')])}


@pytest.mark.parametrize('client', CLIENTS)
def test_what_mail_programs_say(one, client):
    """The dialogues of common programs, with their names for themselves, blanks, logins in one step or more, and BDAT."""
    name, dialogue = CLIENTS[client]
    there = one.starttls(tls.trusting(), 'here.test')
    there.send(b'EHLO %s\r\n' % name)
    assert there.reply()[:3] == b'250'
    text = TEXT % client
    for line, codes in dialogue:
        for known, value in ((b'%d', b'%d' % len(text)), (b'%s', text)):
            line = line.replace(known, value)
        there.send(line if line.startswith(b'BDAT') else line + b'\r\n')
        assert b' '.join(there.reply()[:3] for _ in codes.split()) == codes, line
    found = one.await_message('user/Maildir', 'Subject: ' + client.decode())
    assert found.endswith(b'\n\nk\xc3\xb6rper\n') and b'Message-ID: <' in found
    there.close()


def test_from(one):
    """control/checkfrom: the address in From must be his, too; without it anybody's may stand there."""
    def said(text):
        client, _ = one.ready()
        log_in(client, b'PLAIN')
        return send(client, b'user@here.test', text)[-1]
    assert said(b'From: boss@bank.test\r\n\r\nx') == b'250'
    one.write('control/checkfrom', 'yes\n')
    assert said(b'From: boss@bank.test\r\n\r\nx') == b'550' and said(b'From: U <x@else.test>\r\n\r\nx') == b'250'
    one.await_line('sorry, the address in From or Sender is not yours (boss@bank.test)')
    one.write('control/checkfrom', 'no\n')


def test_what_is_missing_is_added(one):
    """Date, Message-ID and From, once each, below Received; the client is not told of."""
    client, _ = one.ready()
    log_in(client, b'PLAIN')
    assert send(client, b'user@here.test', b'Subject: incomplete\r\n\r\nbody\r\n..dot')[-1] == b'250'
    found = one.await_message('user/Maildir', 'incomplete')
    header, _, body = found.partition(b'\n\n')
    assert body == b'body\n.dot\n'
    assert b'Received: by here.test with ESMTPSA (TLSv1.3 ' in header and b'127.0.0.1' not in header and b'client.test' not in header
    names = [line.partition(b':')[0] for line in header.split(b'\n') if line[:1] != b' ']
    assert names == [b'Return-Path', b'Delivered-To', b'Received', b'Received', b'Date', b'Message-ID', b'From', b'Subject']
    assert b'\nFrom: <user@here.test>\n' in header and b'@here.test>\nFrom' in header


def test_what_is_there_stays(one):
    """A complete message, long enough to be streamed, is what it was."""
    client, _ = one.ready()
    log_in(client, b'SCRAM-SHA-256')
    text = b'Message-ID: <mine@x>\r\nDate: then\r\nFrom: Me <user@here.test>\r\nSubject: nothing missing\r\n\r\n' + b'0123456789\r\n' * 20000
    assert send(client, b'user@here.test', text)[-1] == b'250'
    found = one.await_message('user/Maildir', 'nothing missing')
    assert found.endswith(b'\n' + text.replace(b'\r\n', b'\n') + b'\n')
    assert found.count(b'\nDate:') == 1 and found.count(b'\nMessage-ID:') == 1


def test_a_later_release(one):
    """FUTURERELEASE, RFC 4865: who has logged in may have a message held; it waits that long, and not at all without."""
    client, _ = one.ready()
    log_in(client, b'PLAIN')
    client.send(b'EHLO client.test\r\n')
    lines = [client.line()]
    while lines[-1][3:4] == b'-':
        lines.append(client.line())
    before = time.time()
    [latest] = [line.rpartition(b' ')[2] for line in lines if line.startswith(b'250-FUTURERELEASE 259200 ')]
    assert abs(calendar.timegm(time.strptime(latest.decode(), '%Y-%m-%dT%H:%M:%SZ')) - before - 259200) < 60
    assert client.say(b'MAIL FROM:<user@here.test> HOLDUNTIL=2099-01-01T00:00:00Z')[:3] == b'501'
    assert client.say(b'MAIL FROM:<user@here.test> HOLDFOR=3')[:3] == b'250'
    assert [client.say(line)[:3] for line in (b'RCPT TO:<user@here.test>', b'DATA', b'Subject: released later\r\n\r\nx\r\n.')] == [
        b'250', b'354', b'250']
    assert send(client, b'user@here.test', b'Subject: at once\r\n\r\nx')[-1] == b'250'
    one.await_message('user/Maildir', 'at once')
    assert not any(b'released later' in message for message in one.messages('user/Maildir'))
    one.await_message('user/Maildir', 'released later')
    assert time.time() - before >= 3


@pytest.mark.parametrize('priority, last', [(b'7', b' MT-PRIORITY=7'), (b'0', b'')])
def test_a_priority_goes_on(one, next_hop, priority, last):
    """MT-PRIORITY, RFC 6710: from who has logged in through the queue to a next hop that knows it."""
    client, _ = one.ready()
    log_in(client, b'PLAIN')
    before = len(next_hop.mail)
    assert client.say(b'MAIL FROM:<user@here.test> MT-PRIORITY=' + priority)[:3] == b'250'
    assert [client.say(line)[:3] for line in (b'RCPT TO:<p@next.test>', b'DATA', b'Subject: p\r\n\r\nx\r\n.')] == [
        b'250', b'354', b'250']
    one.await_that(lambda: len(next_hop.mail) > before, 'the message')
    line = [line for line in next_hop.log if line.startswith(b'MAIL FROM:<user@here.test>')][-1]
    assert line.partition(b'>')[2].partition(b' MT-')[1:] == last.partition(b' MT-')[1:]


def test_tls_is_required_of_the_next_hop(one, next_hop):
    """REQUIRETLS, RFC 8689: a message that came so is not sent to a server without it, and its sender is told why."""
    before = len(next_hop.mail)
    client, _ = one.ready()
    log_in(client, b'PLAIN')
    assert send(client, b'user@here.test', b'Subject: in the clear\r\n\r\nx', b'y@next.test')[-1] == b'250'
    one.await_that(lambda: len(next_hop.mail) > before, 'the other message')
    assert client.say(b'MAIL FROM:<user@here.test> REQUIRETLS')[:3] == b'250'
    assert [client.say(line)[:3] for line in (b'RCPT TO:<x@next.test>', b'DATA', b'Subject: by tls only\r\n\r\nx\r\n.')] == [
        b'250', b'354', b'250']
    one.await_line('REQUIRETLS')
    assert len(next_hop.mail) == before + 1


def test_tls_is_required_of_what_a_program_sends_on(one, next_hop):
    """What a program of a delivery passes on, by forward or by sendmail, needs TLS as the message did."""
    one.recipe('user', '.qmail-lists', '|forward f@next.test\n|qpy-sendmail -i -f "$SENDER" s@next.test\n')
    client, _ = one.ready()
    log_in(client, b'PLAIN')
    seen, before = len(next_hop.mail), sum('deferral: ' in line and 'REQUIRETLS' in line for line in one.lines)
    assert send(client, b'user@here.test', b'Subject: in the clear\r\n\r\nx', b'user-lists@here.test')[-1] == b'250'
    one.await_that(lambda: len(next_hop.mail) == seen + 2, 'both copies')
    assert client.say(b'MAIL FROM:<user@here.test> REQUIRETLS')[:3] == b'250'
    assert [client.say(line)[:3] for line in (b'RCPT TO:<user-lists@here.test>', b'DATA', b'Subject: by tls\r\n\r\nx\r\n.')] == [
        b'250', b'354', b'250']
    one.await_that(lambda: sum('deferral: ' in line and 'REQUIRETLS' in line for line in one.lines) >= before + 2, 'both to wait')
    assert len(next_hop.mail) == seen + 2
