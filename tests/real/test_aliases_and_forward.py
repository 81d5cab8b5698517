"""/etc/aliases and ~/.forward in an installed qpy, from SMTP to the mailbox, with all accounts and
boundaries."""
import os
import smtplib
import subprocess

import pytest


def newaliases(server, text):
    """users/aliases with this text, compiled."""
    server.write('users/aliases', text)
    done = subprocess.run([server.home + '/bin/newaliases'], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done
    return done.stdout + done.stderr


def send(server, recipient):
    """One message by SMTP."""
    with smtplib.SMTP('127.0.0.1', server.port, timeout=20) as client:
        client.sendmail('a@client.test', [recipient], 'Subject: %s\n\nhello\n' % recipient)


def test_aliases(server, mailbox):
    """An alias is accepted at RCPT, goes its way as alias, and arrives; what is no alias is refused at
    RCPT."""
    path = server.home + '/users/list'
    server.write('users/list', 'joe@qpy.test\n')
    os.chmod(path, 0o644)
    newaliases(server, 'webmaster: joe\nhikers: :include:%s\nowner-hikers: joe\n'
                       'gate: "|sed s/hello/filtered/ | %s/bin/forward joe@qpy.test"\n' % (path, server.home))
    send(server, 'WebMaster@qpy.test')
    mail = mailbox.next(log=server.log)
    assert b'\nDelivered-To: WebMaster@qpy.test\n' in mail and mail.startswith(b'Return-Path: <a@client.test>\n')
    send(server, 'hikers@qpy.test')
    assert mailbox.next(log=server.log).startswith(b'Return-Path: <owner-hikers@qpy.test>\n')
    send(server, 'gate@qpy.test')
    mail = mailbox.next(log=server.log)
    assert mail.endswith(b'\nfiltered\n') and b'\nDelivered-To: gate@qpy.test\n' in mail
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(server, 'webmaster-x@qpy.test')


def test_an_alias_with_a_users_name(server, mailbox):
    """It has no effect, and newaliases says so; sendmail -bv names the file that counts."""
    assert 'joe is not used: it belongs to the user joe' in newaliases(server, 'joe: nobody@qpy.test\nw: joe\n')
    send(server, 'joe@qpy.test')
    mailbox.next(log=server.log)
    done = subprocess.run([server.home + '/bin/sendmail', '-bv', 'w@qpy.test'], capture_output=True,
                          text=True, timeout=30)
    assert done.returncode == 0 and 'users/aliases.cdb' in done.stdout


def test_dot_forward(server, mailbox):
    """With control/dotforward, joe's .forward counts: himself and a program."""
    server.write('control/dotforward', 'yes\n')
    mailbox.write('.forward', '"|cat > %s/copy", \\joe\n' % mailbox.home)
    try:
        send(server, 'joe@qpy.test')
        mail = mailbox.next(log=server.log)
        with open(mailbox.home + '/copy', 'rb') as file:
            copy = file.read()
        assert copy.startswith(b'From a@client.test ') and copy.partition(b'\n')[2] == mail
    finally:
        os.unlink(server.home + '/control/dotforward')
        os.unlink(mailbox.home + '/.forward')
