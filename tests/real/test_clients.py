"""Mail clients people have, from Debian's packages, against an installed qpy: by SMTP and through
sendmail."""
import os
import smtplib
import subprocess

import pytest

from tests.real.conftest import UID, needs, program, unpacked

BODY = 'line one\n.\n..two dots\nFrom the start\n\nlast line\n'


def run(*command, uid=None, **more):
    """Run a client to its end; it must succeed."""
    done = subprocess.run(command, capture_output=True, user=uid, group=uid, extra_groups=[] if uid else None,
                          **more)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done


def test_smtplib(server, mailbox):
    """Python's smtplib: the body arrives byte for byte, with Return-Path and Delivered-To in front."""
    with smtplib.SMTP('127.0.0.1', server.port) as client:
        client.sendmail('a@client.test', ['joe@qpy.test'], 'Subject: one\n\n' + BODY)
    mail = mailbox.next(log=server.log)
    assert mail.endswith(('Subject: one\n\n' + BODY).encode())
    assert mail.startswith(b'Return-Path: <a@client.test>\nDelivered-To: joe@qpy.test\nReceived: ')


def test_smtplib_is_refused_for_an_unknown_user(server):
    """A recipient that does not exist is refused at RCPT with 550 5.1.1, and the session goes on."""
    with smtplib.SMTP('127.0.0.1', server.port) as client:
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            client.sendmail('a@client.test', ['nobody-here@qpy.test'], b'Subject: x\n\n')
        assert refused.value.recipients['nobody-here@qpy.test'][0] == 550


def test_nothing_is_relayed_for_strangers(server):
    """A-03: without RELAYCLIENT a foreign domain is refused."""
    server.write('control/tcp.smtp', ':allow\n')
    try:
        with smtplib.SMTP('127.0.0.1', server.port) as client:
            client.helo('x')
            client.mail('a@client.test')
            assert client.rcpt('someone@elsewhere.test')[0] in (550, 553)
    finally:
        server.write('control/tcp.smtp', '127.:allow,RELAYCLIENT=""\n:allow\n')


@needs('swaks')
def test_swaks(server, mailbox):
    """swaks, which checks each reply."""
    run('swaks', '--server', '127.0.0.1', '--port', str(server.port), '--to', 'joe@qpy.test', '--from',
        'a@client.test',
        '--helo', 'client.test', '--body', 'hello from swaks')
    assert b'hello from swaks' in mailbox.next(log=server.log)


@needs('curl')
def test_curl(server, mailbox, tmp_path):
    """curl's smtp://."""
    (tmp_path / 'mail').write_text('Subject: curl\r\n\r\nhello from curl\r\n')
    run('curl', '-sS', 'smtp://127.0.0.1:%d' % server.port, '--mail-from', 'a@client.test', '--mail-rcpt',
        'joe@qpy.test',
        '--upload-file', str(tmp_path / 'mail'))
    assert b'hello from curl' in mailbox.next(log=server.log)


@needs('msmtp')
def test_msmtp(server, mailbox):
    """msmtp."""
    run('msmtp', '--host=127.0.0.1', '--port=%d' % server.port, '--from=a@client.test', '--tls=off',
        '--auth=off',
        'joe@qpy.test', input=b'Subject: msmtp\n\nhello from msmtp\n')
    assert b'hello from msmtp' in mailbox.next(log=server.log)


def sendmail(server):
    """The installed sendmail."""
    return server.home + '/bin/qpy-sendmail'


def test_cron_calls_sendmail(server, mailbox):
    """cron's call, as any user, with root's HOME: the Received line names the kernel's word on who
    submitted."""
    run(sendmail(server), '-FCronDaemon', '-i', '-B8BITMIME', '-oem', 'joe', uid=UID, cwd='/',
        env={'HOME': '/root', 'PATH': '/usr/bin:/bin'},
        input=b'From: root (Cron Daemon)\nTo: joe\nSubject: Cron <joe@here> date\n\nWed Nov 25\n')
    mail = mailbox.next(log=server.log)
    assert b'invoked by uid %d' % UID in mail and b'Subject: Cron <joe@here> date\n' in mail


def test_submission_under_no_new_privs(server, mailbox):
    """P17: nothing is set-user-id, so submission works where such programs cannot be had."""
    run('setpriv', '--no-new-privs', sendmail(server), 'joe', uid=UID, cwd='/',
        input=b'Subject: nnp\n\nstill works\n')
    assert b'still works' in mailbox.next(log=server.log)


@needs('git')
def test_git_send_email(server, mailbox, tmp_path):
    """git send-email through sendmail: a patch arrives as it was, lone dots and From lines included."""
    program, root = '/usr/lib/git-core/git-send-email', ''
    if not os.path.exists(program):
        root = unpacked('git-email', 'libmailtools-perl', 'libtimedate-perl', 'liberror-perl')
    patch = tmp_path / '0001-x.patch'
    patch.write_text('From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n'
                     'From: A <a@client.test>\nDate: Wed, 25 Nov 2026 02:16:14 +0000\nSubject: [PATCH] x\n\n'
                     'why\n.\nFrom here\n---\n diff\n')
    run('perl', root + program, '--quiet', '--confirm=never', '--suppress-cc=all', '--from=a@client.test',
        '--to=joe@qpy.test', '--sendmail-cmd=' + sendmail(server), str(patch), cwd=tmp_path,
        env={'HOME': str(tmp_path), 'PATH': '/usr/bin:/bin', 'PERL5LIB': root + '/usr/share/perl5',
             'EMAIL': 'a@client.test'})
    assert b'\nwhy\n.\nFrom here\n---\n diff\n' in mailbox.next(log=server.log)


def test_bsd_mailx(server, mailbox, tmp_path):
    """bsd-mailx with a Bcc: it is delivered and not seen."""
    server.mailbox.dot_qmail('bcc', './Maildir/\n')
    (tmp_path / 'rc').write_text('set sendmail=%s\n' % sendmail(server))
    run(program('bsd-mailx'), '-s', 'from mailx', '-b', 'joe-bcc@qpy.test', 'joe@qpy.test',
        input=b'hello from mailx\n',
        env={'MAILRC': str(tmp_path / 'rc'), 'HOME': str(tmp_path), 'PATH': '/usr/bin:/bin'})
    for _ in range(2):
        mail = mailbox.next(log=server.log)
        assert b'hello from mailx' in mail and b'Bcc' not in mail


def test_mutt(server, mailbox, tmp_path):
    """mutt with an attachment, a Bcc and DSN options: both get it, the Bcc is not seen, sendmail takes the
    options."""
    server.mailbox.dot_qmail('bcc', './Maildir/\n')
    (tmp_path / 'rc').write_text('set sendmail="%s -oem -oi"\n'
                                 'set dsn_notify="failure,delay"\nset dsn_return=hdrs\n'
                                 'set use_envelope_from\nset envelope_from_address="joe@qpy.test"\n'
                                 % sendmail(server))
    (tmp_path / 'file').write_bytes(bytes(range(256)))
    run(program('mutt'), '-F', str(tmp_path / 'rc'), '-n', '-s', 'from mutt', '-b', 'joe-bcc@qpy.test', '-a',
        str(tmp_path / 'file'), '--', 'joe@qpy.test', input=b'hello from mutt\n', cwd=tmp_path,
        env={'HOME': str(tmp_path), 'PATH': '/usr/bin:/bin', 'TERM': 'dumb'})
    for _ in range(2):
        mail = mailbox.next(log=server.log)
        assert b'hello from mutt' in mail
        assert b'joe-bcc@qpy.test' not in mail.partition(b'Delivered-To: joe-bcc')[2]
        assert mail.startswith(b'Return-Path: <joe@qpy.test>\n') and b'AAECAwQFBgcICQoL' in mail


def test_s_nail(server, mailbox, tmp_path):
    """s-nail through sendmail."""
    run(program('s-nail'), '-n', '-s', 'from s-nail', '-S', 'sendmail=' + sendmail(server), 'joe@qpy.test',
        input=b'hello from s-nail\n', env={'HOME': str(tmp_path), 'PATH': '/usr/bin:/bin'})
    assert b'hello from s-nail' in mailbox.next(log=server.log)


def test_mailutils_calls_sendmail(server, mailbox):
    """GNU mailutils' call: descriptors 1 and 2 are closed, no From, the recipient in angle brackets."""
    run('sh', '-c', 'exec "$0" -oi -t >&- 2>&-', sendmail(server),
        input=b'To: <joe@qpy.test>\nSubject: closed\n\nhello\n')
    assert mailbox.next(log=server.log).endswith(b'Subject: closed\n\nhello\n')


@needs('curl')
def test_curl_to_many(server, mailbox, tmp_path):
    """curl with two recipients, one unknown: curl gives up by default, and goes on where it is told to."""
    (tmp_path / 'mail').write_text('Subject: curl\r\n\r\nto two\r\n')
    words = ['curl', '-sS', 'smtp://127.0.0.1:%d' % server.port, '--mail-from', 'a@client.test',
             '--mail-rcpt', 'joe@qpy.test',
             '--mail-rcpt', 'no-such@qpy.test', '--upload-file', str(tmp_path / 'mail')]
    assert subprocess.run(words, capture_output=True).returncode == 55
    run(*words, '--mail-rcpt-allowfails')
    assert b'to two' in mailbox.next(log=server.log) and not mailbox.names() - mailbox.seen
