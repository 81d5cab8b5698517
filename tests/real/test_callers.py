"""Programs that call sendmail, from Debian's packages: PHP's mail(), Perl's Email::Sender, mailutils, mdadm,
unattended-upgrades, logwatch."""
import os
import subprocess

import pytest

from tests.peers import debian
from tests.real.conftest import UID, unpacked
from tests.real.test_schedulers import machine  # noqa: F401  (a fixture)

PHP = ('php8.2-cli', 'libedit2', 'libmagic1', 'libargon2-1', 'libsodium23', 'libxml2', 'libicu', 'libbsd0', 'libmd0')
EMAIL_SENDER = tuple('lib%s-perl' % name for name in '''
    email-sender capture-tiny email-abstract email-address-xs email-date-format email-simple module-runtime moo
    moox-types-mooselike scalar-list-utils sub-exporter sub-exporter-progressive sub-install sub-quote throwable try-tiny
    class-method-modifiers class-xsaccessor data-optlist devel-globaldestruction devel-stacktrace params-util role-tiny
    mro-compat class-c3 algorithm-c3 module-pluggable import-into'''.split())
MAILUTILS = ('mailutils', 'libmailutils9', 'mailutils-common', 'guile-3.0-libs', 'libgc1', 'libmariadb3', 'libgsasl18',
             'libfribidi0', 'libntlm0', 'libgssglue1', 'libidn12', 'libldap-2.5-0', 'libsasl2-2', 'libltdl7',
             'libpython3.11', 'libunistring2')
UPGRADES = ('unattended-upgrades', 'python3-apt', 'python-apt-common', 'python3-distro-info', 'python3-dbus')


def as_joe(server, *command, data=b'', **env):
    """Run a command as joe on the machine where he has an account; it must succeed."""
    done = subprocess.run([*server.host.prefix, 'setpriv', '--reuid', str(UID), '--regid', str(UID), '--clear-groups',
                           *command], input=data, capture_output=True, cwd='/',
                          env={'PATH': '/usr/bin:/bin', 'HOME': server.mailbox.home, **env})
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done


def with_libraries(root):
    """The environment in which unpacked programs find theirs."""
    return {'LD_LIBRARY_PATH': ':'.join(debian.libraries(root))}


def test_php(server, mailbox, tmp_path):
    """PHP's mail(), with extra parameters, CRLF between its headers and LF in the body; it says true."""
    root = unpacked(*PHP)
    script = ('var_dump(mail("joe@qpy.test", "from php", "one\\n.\\ntwo\\n", "From: web@qpy.test\\r\\nX-Php: yes", '
              '"-fwww@qpy.test"));')
    said = as_joe(server, root + '/usr/bin/php8.2', '-n', '-d', 'sendmail_path=%s/bin/qpy-sendmail -t -i' % server.home,
                  '-r', script, **with_libraries(root))
    assert said.stdout == b'bool(true)\n'
    text = mailbox.next(log=server.log)
    assert text.startswith(b'Return-Path: <www@qpy.test>\n') and b'\r' not in text
    assert b'\nFrom: web@qpy.test\n' in text and b'\nX-Php: yes\n' in text and text.endswith(b'\n\none\n.\ntwo\n\n')


def test_php_is_told_of_a_failure(server):
    """A recipient that is none: mail() is false, as sendmail's exit code says."""
    root = unpacked(*PHP)
    said = as_joe(server, root + '/usr/bin/php8.2', '-n', '-d', 'sendmail_path=%s/bin/qpy-sendmail -t -i' % server.home,
                  '-r', 'var_dump(mail("", "x", "y"));', **with_libraries(root))
    assert b'bool(false)' in said.stdout


def test_email_sender(server, mailbox):
    """Perl's Email::Sender finds sendmail along PATH and hands sender and recipients over as words."""
    root = unpacked(*EMAIL_SENDER)
    program = ('use Email::Sender::Simple qw(sendmail); use Email::Simple; use Email::Sender::Transport::Sendmail; '
               'sendmail(Email::Simple->create(header => [To => q(joe@qpy.test), From => q(perl@qpy.test), '
               'Subject => q(from perl)], body => qq(.\\nFrom here\\n)), {transport => '
               'Email::Sender::Transport::Sendmail->new({sendmail => $ARGV[0]})}); print qq(sent\\n);')
    places = ':'.join([root + '/usr/share/perl5', *(path + '/perl5/5.36' for path in debian.libraries(root))])
    said = as_joe(server, 'perl', '-e', program, server.home + '/bin/qpy-sendmail', PERL5LIB=places)
    assert said.stdout == b'sent\n'
    text = mailbox.next(log=server.log)
    assert text.startswith(b'Return-Path: <perl@qpy.test>\n') and text.endswith(b'\n\n.\nFrom here\n')


def test_mailutils(server, mailbox):
    """GNU mailutils' mail: it closes descriptors 1 and 2 before it runs sendmail."""
    root = unpacked(*MAILUTILS)
    as_joe(server, root + '/usr/bin/mail.mailutils', '-E', 'set sendmail=sendmail:%s/bin/qpy-sendmail' % server.home,
           '-s', 'from mailutils', 'joe@qpy.test', data=b'hello\n.\nagain\n', **with_libraries(root))
    text = mailbox.next(log=server.log)
    assert b'\nSubject: from mailutils\n' in text and b'hello\n' in text
    assert b'invoked by uid %d)' % UID in text


def test_unattended_upgrades(server, mailbox):
    """The summary of unattended-upgrades, by its own function, through sendmail -oi -t."""
    root = unpacked(*UPGRADES)
    program = ('import importlib.machinery, importlib.util, sys\n'
               'loader = importlib.machinery.SourceFileLoader("uu", sys.argv[1])\n'
               'uu = importlib.util.module_from_spec(importlib.util.spec_from_loader("uu", loader))\n'
               'loader.exec_module(uu)\n'
               'uu.SENDMAIL_BINARY = sys.argv[2]\n'
               'print(uu._send_mail_using_sendmail("root@qpy.test", "joe@qpy.test", "done", "no newline at the end"))\n')
    said = as_joe(server, '/usr/bin/python3', '-c', program, root + '/usr/bin/unattended-upgrade',
                  server.home + '/bin/qpy-sendmail', PYTHONPATH=root + '/usr/lib/python3/dist-packages',
                  PYTHONDONTWRITEBYTECODE='1')
    assert said.stdout.strip() == b'0'
    text = mailbox.next(log=server.log)
    assert b'no newline at the end' in text and b'\nFrom: root@qpy.test\n' in text


def test_logwatch(server, mailbox, machine):  # noqa: F811
    """logwatch, whole, mails what its services say by its own `mailer`, sendmail -t: From, To, no Date, no -i."""
    host = machine('logwatch', {'logwatch/conf/logwatch.conf': 'TmpDir = /tmp\nMailFrom = logs@qpy.test\n',
                                'logwatch/conf/services/mine.conf': 'Title = "what I saw"\nLogFile = NONE\n',
                                'logwatch/scripts/services/mine': 'print "all is well\\n.\\nreally\\n";'},
                   [('/tmp/log', 'root', '755')])
    host.run('logwatch', '--output', 'mail', '--mailto', 'joe@qpy.test', '--service', 'mine', '--logdir', '/tmp/log')
    text = mailbox.next(log=server.log)
    assert b'\nTo: joe@qpy.test\n' in text and b'\nFrom: logs@qpy.test\n' in text and b'\nSubject: Logwatch for ' in text
    assert b'what I saw Begin' in text and b'all is well' in text and b'really' in text and b'\nDate: ' in text


MDSTAT = 'Personalities : [raid1]\nmd0 : active raid1 sdb1[1] sda1[0]\n      1000 blocks super 1.2 [2/2] [UU]\n\nunused devices: <none>\n'


def test_mdadm(server, mailbox, machine):  # noqa: F811
    """mdadm --monitor --test mails about each array, by sh -c 'sendmail -t'; what it says of the array, and no array, is
    needed."""
    host = machine('mdadm', {'mdstat': MDSTAT, 'mdadm/mdadm.conf': 'MAILFROM raid@qpy.test\n'}, [])
    host.run('sh', '-c', 'mount -t tmpfs t /proc && cp /etc/mdstat /proc/mdstat && '
             'exec mdadm --monitor --oneshot --test --mail joe@qpy.test /dev/md0')
    text = mailbox.next(log=server.log)
    assert b'\nSubject: TestMessage event on /dev/md0:' in text and b'\nFrom: raid@qpy.test\n' in text
    assert text.endswith(MDSTAT.encode())
