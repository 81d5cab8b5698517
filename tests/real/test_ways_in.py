"""Who may hold the listening socket or send many messages at once: tcpserver, systemd, qpy-listen,
smtp-source, Postfix."""
import os
import pwd
import signal
import smtplib
import socket
import subprocess
import time

import pytest

from tests.peers import postfix
from tests.peers.qpy import free_port, wait_for_port
from tests.real.conftest import needs, smtp_tool

WAYS, UPSTREAM = free_port(), free_port()
MESSAGES, SESSIONS = 200, 20


class Started:
    """A server started for one test, and ended with it."""

    def __init__(self, *command, port=WAYS, greeting=b'220', **more):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, start_new_session=True, **more)
        self.port, self.greeting = port, greeting

    def __enter__(self):
        try:
            wait_for_port(self.port, alive=lambda: self.process.poll() is None, greeting=self.greeting)
        except OSError:
            said = self.end()
            raise AssertionError('did not start: %r' % said) from None
        return self

    def end(self):
        """What it said."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            return self.process.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.communicate()[0]

    def __exit__(self, *_):
        self.end()


def as_qpyd(*command):
    """The command, run by the account that hears the network."""
    account = pwd.getpwnam('qpyd')
    return ['setpriv', '--reuid', str(account.pw_uid), '--regid', str(account.pw_gid), '--clear-groups',
            *command]


def send_one(mailbox, server, port=WAYS, text='hello'):
    """One message through a port; the bytes that arrive."""
    with smtplib.SMTP('127.0.0.1', port, timeout=20) as client:
        client.sendmail('a@client.test', ['joe@qpy.test'], 'Subject: way\n\n%s\n' % text)
    mail = mailbox.next(log=server.log)
    assert mail.endswith(b'\n\n%s\n' % text.encode())
    return mail


def relays(port, source):
    """The code that RCPT to somebody elsewhere gets when asked from this address."""
    with smtplib.SMTP('127.0.0.1', port, timeout=20, source_address=(source, 0)) as client:
        client.ehlo('client.test')
        client.mail('a@client.test')
        return client.rcpt('someone@elsewhere.test')[0]


@needs('tcpserver', 'tcprules')
def test_tcpserver(server, mailbox):
    """One qpy-smtpd per connection under tcpserver: its rules file says who relays, who does not, and who is
    denied."""
    cdb = os.path.dirname(server.home) + '/tcp.cdb'
    subprocess.run(['tcprules', cdb, cdb + '.tmp'], check=True,
                   input=b'127.0.0.1:allow,RELAYCLIENT=""\n127.0.0.3:deny\n127.:allow\n')
    os.chmod(cdb, 0o644)
    account = pwd.getpwnam('qpyd')
    with Started('tcpserver', '-vRH', '-l', 'tcp.test', '-x', cdb, '-u', str(account.pw_uid), '-g',
                 str(account.pw_gid),
                 '127.0.0.1', str(WAYS), server.home + '/bin/qpy-smtpd'):
        mail = send_one(mailbox, server)
        assert relays(WAYS, '127.0.0.1') == 250
        assert relays(WAYS, '127.0.0.2') == 553
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
            relays(WAYS, '127.0.0.3')
    assert b'127.0.0.1' in mail.partition(b'\n\n')[0] and b'invoked from network' in mail


@needs('systemd-socket-activate')
@pytest.mark.parametrize('way', (['-a', '--inetd'], ['-a'], []))
def test_systemd(server, mailbox, way):
    """Under systemd one per connection (socket on descriptors 0 and 1, or on 3), and warm with the listening
    socket."""
    with Started(*as_qpyd('systemd-socket-activate', *way, '-l', '127.0.0.1:%d' % WAYS,
                          server.home + '/bin/qpy-smtpd')):
        send_one(mailbox, server, text='first')
        send_one(mailbox, server, text='second')
        assert relays(WAYS, '127.0.0.1') == 250         # control/tcp.smtp judges where no UCSPI server did


def test_qpy_listen(server, mailbox):
    """qpy-listen opens the port as root and qpy-smtpd serves it warm as qpyd."""
    with Started(server.home + '/bin/qpy-listen', '127.0.0.1:%d' % WAYS, 'qpy-smtpd', '2') as listener:
        assert b'invoked from network' in send_one(mailbox, server)
        with open('/proc/%d/status' % listener.process.pid) as status:
            assert 'Uid:\t' + '\t'.join([str(pwd.getpwnam('qpyd').pw_uid)] * 4) in status.read()


@pytest.mark.parametrize('end', (b'\n', b'\r\n'))
def test_sendmail_bs(server, mailbox, end):
    """sendmail -bs speaks SMTP on its pipes, takes either line end, and whoever may run it may relay."""
    lines = [b'EHLO pipe.test', b'MAIL FROM:<a@client.test>', b'RCPT TO:<joe@qpy.test>', b'DATA',
             b'Subject: bs', b'',
             b'from a pipe', b'..', b'.', b'MAIL FROM:<a@client.test>', b'RCPT TO:<someone@elsewhere.test>',
             b'RSET',
             b'QUIT', b'']
    done = subprocess.run([server.home + '/bin/qpy-sendmail', '-bs'], input=end.join(lines),
                          capture_output=True, timeout=30)
    codes = [line[:3] for line in done.stdout.splitlines() if line[3:4] != b'-']
    assert (done.returncode, codes) == (0, [b'220', *[b'250'] * 3, b'354', *[b'250'] * 4, b'221']), done
    assert mailbox.next(log=server.log).endswith(b'Subject: bs\n\nfrom a pipe\n.\n')


def test_smtp_source(server, mailbox):
    """smtp-source with many parallel sessions: each message it was told is accepted arrives, once."""
    source = smtp_tool('smtp-source')
    subprocess.run([*source, '-d', '-s', str(SESSIONS), '-m', str(MESSAGES), '-l', '4096', '-f',
                    'a@client.test',
                    '-t', 'joe@qpy.test', '127.0.0.1:%d' % server.port], check=True, timeout=60)
    assert len(arrived(mailbox, MESSAGES, server)) == MESSAGES


def test_pipelined_commands(server, mailbox):
    """RFC 2920: whole transactions in one packet, several after each other, are answered in order and all
    arrive."""
    one = b'MAIL FROM:<a@client.test>\r\nRCPT TO:<joe@qpy.test>\r\nRCPT TO:<no-such@qpy.test>\r\nDATA\r\n'
    with socket.create_connection(('127.0.0.1', server.port), 20) as sock, sock.makefile('rb') as replies:
        assert replies.readline().startswith(b'220 ')
        sock.sendall(b'EHLO client.test\r\n')
        while (line := replies.readline()).startswith(b'250-'):
            pass
        assert line.startswith(b'250 ')
        for number in range(5):
            sock.sendall(one)
            assert [replies.readline()[:3] for _ in range(4)] == [b'250', b'250', b'550', b'354']
            sock.sendall(b'Subject: %d\r\n\r\npipelined\r\n.\r\n' % number + b'NOOP\r\nRSET\r\n')
            assert [replies.readline()[:3] for _ in range(3)] == [b'250', b'250', b'250']
    mails = arrived(mailbox, 5, server)
    assert sorted(mail.partition(b'Subject: ')[2][:1] for mail in mails) == [b'0', b'1', b'2', b'3', b'4']


def arrived(mailbox, count, server, patience=40):
    """Wait until `count` new messages are there; their bytes."""
    give_up = time.monotonic() + patience
    while len(mailbox.names() - mailbox.seen) < count:
        assert time.monotonic() < give_up, (len(mailbox.names() - mailbox.seen), server.log()[-2000:])
        time.sleep(0.02)                # a directory announces nothing to a plain reader
    new = mailbox.names() - mailbox.seen
    mailbox.seen |= new
    mails = []
    for name in new:
        with open(mailbox.directory + '/new/' + name, 'rb') as file:
            mails.append(file.read())
    return mails


@pytest.fixture(scope='module')
def upstream(server):
    """A Postfix that sends all its mail to qpy."""
    try:
        here = postfix.Postfix(UPSTREAM, more='relayhost = [127.0.0.1]:%d\ndisable_dns_lookups = yes\n'
                               % server.port)
    except RuntimeError as problem:
        pytest.skip('no Postfix: %s' % problem)
    yield here
    here.stop()


def test_postfix_as_previous_hop(server, mailbox, upstream):
    """Mail that came through Postfix has both hops in front, and its 8-bit body as it was; DSN records do
    not disturb."""
    body = 'Gr\xfc\xdfe\n.\nFrom here\n\n'.encode('latin-1') * 100
    with smtplib.SMTP('127.0.0.1', UPSTREAM, timeout=20) as client:
        client.ehlo('client.test')
        client.sendmail('a@client.test', ['joe@qpy.test'],
                        b'Subject: hop\r\n\r\n' + body.replace(b'\n', b'\r\n'),
                        mail_options=['BODY=8BITMIME'], rcpt_options=['NOTIFY=FAILURE'])
    mail = mailbox.next(log=lambda: server.log() + upstream.log())
    head, _, got = mail.partition(b'\n\n')
    assert got == body and head.count(b'\nReceived: ') >= 3 and b'(Postfix)' in head


def test_postfix_hears_of_unknown_users(server, mailbox, upstream):
    """One of two recipients is refused at RCPT: the other gets the mail, and Postfix's bounce goes to the
    sender."""
    with smtplib.SMTP('127.0.0.1', UPSTREAM, timeout=20) as client:
        client.sendmail('joe@qpy.test', ['joe@qpy.test', 'no-such@qpy.test'], 'Subject: two\n\ntext\n')
    texts = [mailbox.next(log=lambda: server.log() + upstream.log()) for _ in range(2)]
    bounce = next(text for text in texts if text.startswith(b'Return-Path: <>'))
    assert b'no-such@qpy.test' in bounce and b'5.1.1' in bounce
