"""What reads and what sorts the mail that an installed qpy delivers: Dovecot's IMAP, procmail and maildrop,
for a user with an account, inside the chain's own user namespace and where there may be none.
"""
import imaplib
import os
import smtplib
import time

import pytest

from tests.peers import dovecot, forbidden
from tests.peers.qpy import free_port
from tests.real.conftest import PATIENCE, UID, installed, program


@pytest.fixture(scope='module')
def fallback():
    """A server on a machine that forbids user namespaces."""
    with installed(forbidden.NAMESPACES) as qpy:
        give_up = time.monotonic() + PATIENCE
        while 'no user namespace' not in qpy.log():         # the port may be open before
            assert time.monotonic() < give_up, qpy.log()
            time.sleep(0.01)
        yield qpy


@pytest.fixture(params=['server', 'fallback'])
def either(request):
    """A server with a user namespace for its deliveries, and one without."""
    found = request.getfixturevalue(request.param)
    found.mailbox.seen = found.mailbox.names()
    return found



def send(server, recipient, text, sender='a@client.test'):
    """One message by SMTP; text is bytes with LF line ends."""
    with smtplib.SMTP('127.0.0.1', server.port, timeout=20) as client:
        client.sendmail(sender, [recipient], text.replace(b'\n', b'\r\n'), mail_options=['BODY=8BITMIME'])


def first_file(directory, log):
    """The bytes of the first file to appear in a directory."""
    give_up = time.monotonic() + PATIENCE
    while not (os.path.isdir(directory) and os.listdir(directory)):
        assert time.monotonic() < give_up, log()[-3000:]
        time.sleep(0.01)            # a directory announces nothing to a plain reader
    with open(os.path.join(directory, os.listdir(directory)[0]), 'rb') as file:
        return file.read()


def outcome(server, recipient, count=1):
    """(letter, text) of the count-th delivery to this recipient."""
    give_up = time.monotonic() + PATIENCE
    while len(server.outcomes().get(recipient, ())) < count:
        assert time.monotonic() < give_up, server.log()[-3000:]
        time.sleep(0.01)
    return server.outcomes()[recipient][count - 1]


@pytest.fixture
def imap(server):
    """A session with Dovecot as joe, INBOX selected."""
    try:
        there = dovecot.Dovecot(free_port(), UID, server.mailbox.home)
    except RuntimeError as problem:
        pytest.skip('no Dovecot: %s' % problem)
    try:
        with imaplib.IMAP4('127.0.0.1', there.port, timeout=20) as session:
            session.login('joe', dovecot.PASSWORD)
            session.select()
            yield session
    finally:
        there.stop()


def test_dovecot(server, mailbox, imap):
    """Dovecot shows each message that qpy delivered, while it looks on, with the very bytes of the file, and
    takes it into cur."""
    texts = [b'Subject: imap %d\n\n8 bit: \xfc\xff\n.\n..\nFrom here\n%s\n\n' % (i, b'x' * 900 * i)
             for i in range(3)]
    for text in texts:
        send(server, 'joe@qpy.test', text)
        file = mailbox.next(log=server.log)
        give_up = time.monotonic() + PATIENCE
        subject = text.partition(b'\n')[0].partition(b': ')[2].decode()
        while not (found := imap.search(None, 'HEADER', 'Subject', '"%s"' % subject)[1][0].split()):
            assert time.monotonic() < give_up, 'Dovecot does not see it'
            imap.noop()
        seen = imap.fetch(found[-1].decode(), '(BODY.PEEK[])')[1][0][1]
        assert seen == file.replace(b'\n', b'\r\n') and file.endswith(text)
    assert any(name.endswith(',') for name in os.listdir(mailbox.directory + '/cur'))


def test_procmail(either):
    """`|preline procmail` sorts under $HOME by .procmailrc, with From_, Return-Path and Delivered-To in
    front."""
    either.mailbox.write('.procmailrc', 'MAILDIR=$HOME\nDEFAULT=$HOME/procmail/\nLOGFILE=$HOME/procmail.log\n')
    either.mailbox.dot_qmail('procmail', '|preline %s\n' % program('procmail'))
    send(either, 'joe-procmail@qpy.test', b'Subject: sort\n\n8 bit: \xfc\nlast\n')
    text = first_file(either.mailbox.home + '/procmail/new', either.log)
    assert text.endswith(b'Subject: sort\n\n8 bit: \xfc\nlast\n')
    assert b'\nDelivered-To: joe-procmail@qpy.test\n' in text
    assert outcome(either, 'joe-procmail@qpy.test')[0] == 'K'


def test_procmail_says_later_and_never(either):
    """procmail's EXITCODE is our answer: 75 tries again, 100 bounces."""
    either.mailbox.dot_qmail('answers', '|preline %s ./answers.rc\n' % program('procmail'))
    either.mailbox.write('answers.rc', 'EXITCODE=75\nHOST\n')
    send(either, 'joe-answers@qpy.test', b'Subject: x\n\n', sender='joe@qpy.test')
    assert outcome(either, 'joe-answers@qpy.test')[0] == 'Z'
    either.mailbox.write('answers.rc', 'EXITCODE=100\nHOST\n')
    either.command(either.home + '/bin/qpy-ctl', 'run')
    assert outcome(either, 'joe-answers@qpy.test', 2)[0] == 'D'
    assert either.mailbox.next(log=either.log).startswith(b'Return-Path: <>\n')


def test_maildrop(either):
    """`|preline maildrop` delivers under $HOME by .mailfilter, and its EXITCODE is our answer."""
    for name in ('maildrop', 'maildrop/new', 'maildrop/cur', 'maildrop/tmp'):
        os.mkdir(os.path.join(either.mailbox.home, name))
        os.chown(os.path.join(either.mailbox.home, name), UID, UID)
    either.mailbox.write('.mailfilter', 'if (/^Subject: defer/)\n{\n EXITCODE=75\n exit\n}\nto "$HOME/maildrop/"\n')
    either.mailbox.dot_qmail('maildrop', '|preline %s\n' % program('maildrop'))
    send(either, 'joe-maildrop@qpy.test', b'Subject: sort\n\n8 bit: \xfc\nlast\n')
    text = first_file(either.mailbox.home + '/maildrop/new', either.log)
    assert text.endswith(b'Subject: sort\n\n8 bit: \xfc\nlast\n')
    assert b'\nDelivered-To: joe-maildrop@qpy.test\n' in text
    send(either, 'joe-maildrop@qpy.test', b'Subject: defer\n\n')
    assert outcome(either, 'joe-maildrop@qpy.test', 2)[0] == 'Z'
    either.mailbox.write('.mailfilter', 'to "$HOME/maildrop/"\n')
    either.command(either.home + '/bin/qpy-ctl', 'run')
    assert outcome(either, 'joe-maildrop@qpy.test', 3)[0] == 'K'
