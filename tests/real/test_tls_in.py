"""Mail in by TLS from programs of others: Postfix, openssl, swaks; and the one shot qpy-smtpd, as under tcpserver."""
import contextlib
import os
import smtplib
import socket
import ssl
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'chain'))
import houses  # noqa: E402
import test_auth  # noqa: E402
import test_tls_in as tls  # noqa: E402
from tests.peers import debian, exim, opensmtpd  # noqa: E402
from tests.peers.certificates import authority  # noqa: E402
from tests.peers.smtp_rig import Client  # noqa: E402

pytestmark = pytest.mark.slow
RULES = '127.0.0.1:allow,PROXY="%d",XCLIENT="1"\n192.0.2.7:allow,RELAYCLIENT=""\n:allow\n'


@pytest.fixture(scope='module')
def house():
    found = test_auth.AuthHouse()
    try:
        yield found.start()
    finally:
        found.remove()


@pytest.mark.root
@pytest.mark.parametrize('protocols', ['TLSv1.2', 'TLSv1.3'])
def test_postfix_as_previous_hop(house, protocols):
    """Postfix verifies our certificate for the name it wants, and sends over a connection that it keeps."""
    postfix = pytest.importorskip('tests.peers.postfix')
    port = houses.free_port()
    more = ('relayhost = [127.0.0.1]:%d\ndisable_dns_lookups = yes\nsmtp_tls_security_level = secure\nsmtp_tls_CAfile = %s\n'
            'smtp_tls_secure_cert_match = here.test\nsmtp_tls_mandatory_protocols = %s\nsmtp_tls_loglevel = 1\n'
            % (house.port, authority().ca, '>=%s, <=%s' % (protocols, protocols)))
    try:
        peer = postfix.Postfix(port, more=more)
    except RuntimeError as problem:
        pytest.skip(str(problem))
    try:
        words = 'by postfix and ' + protocols
        with smtplib.SMTP('127.0.0.1', port, timeout=30) as client:
            for number in range(3):
                client.sendmail('a@else.test', ['user@here.test'], 'Subject: %s %d\r\n\r\n' % (words, number) + 'x' * 70 + '\r\n')
        for number in range(3):
            found = house.await_message('user/Maildir', '%s %d' % (words, number))
            assert b'with ESMTPS (' + protocols.encode() in found
    finally:
        peer.stop()


@pytest.mark.root
@pytest.mark.parametrize('kind, scheme', [(exim.Exim, ''), (opensmtpd.OpenSmtpd, 'smtp+tls://'),
                                          (opensmtpd.OpenSmtpd, 'smtps://')])
def test_a_previous_hop_that_logs_in(house, kind, scheme):
    """Exim (GnuTLS) and OpenSMTPD (LibreSSL's tls) relay by STARTTLS, OpenSMTPD by port 465 too, after AUTH; a wrong password
    gets nothing through."""
    relay = house.smtps if scheme == 'smtps://' else house.port
    stranger = '%s.%d' % (kind.domain, relay)
    for login, words in (('user', test_auth.SECRET.decode()), 'by %s %s' % (kind.domain, scheme)), ((stranger, 'wrong'), None):
        port, more = houses.free_port(), {'scheme': scheme} if scheme else {}
        try:
            peer = kind(port, relay=relay, login=login, **more)
        except RuntimeError as problem:
            pytest.skip(str(problem))
        try:
            with smtplib.SMTP('127.0.0.1', port, timeout=30) as client:
                client.sendmail('user@here.test', ['user@here.test'], 'Subject: %s\r\n\r\n' % words + 'x' * 70 + '\r\n')
            if words is None:
                house.await_line('535 5.7.8 authentication failed (%s: wrong)' % stranger)
            else:
                assert b' with ESMTPSA (TLSv1.3 ' in house.await_message('user/Maildir', words)
        finally:
            exim.stop(peer)


@pytest.mark.parametrize('port, words', [('port', ['-starttls', 'smtp']), ('smtps', [])])
def test_openssl(house, port, words):
    """s_client verifies the chain and the name, by STARTTLS and from the first byte; renegotiation gains nothing."""
    done = subprocess.run(['openssl', 's_client', *words, '-connect', '127.0.0.1:%d' % getattr(house, port), '-CAfile', authority().ca,
                           '-verify_hostname', 'here.test', '-servername', 'here.test', '-verify_return_error', '-crlf', '-quiet',
                           '-ign_eof'], input=b'EHLO x\nQUIT\n', capture_output=True, timeout=30)
    assert b'250-PIPELINING' in done.stdout and b'221 2.0.0 here.test' in done.stdout, done.stderr
    # With the first byte in TLS a greeting comes; asked before it is there, s_client takes it for a part of the handshake.
    with subprocess.Popen(['timeout', '30', 'openssl', 's_client', *words, '-connect', '127.0.0.1:%d' % getattr(house, port), '-tls1_2'],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        said = b''
        while not words and b'220 here.test' not in said:
            more = client.stdout.read1()
            assert more, said
            said += more
        said += client.communicate(b'R\n', timeout=30)[0]
    assert b'no renegotiation' in said


def swaks(house, *words):
    """Run it; its output."""
    perl = test_auth.with_tls_for_perl()
    if perl is None:
        pytest.skip('no swaks to be had')
    done = subprocess.run(['swaks', '--server', '127.0.0.1', '--from', 'a@else.test', *words], capture_output=True, text=True, timeout=60,
                          env=perl)
    return done.returncode, done.stdout + done.stderr


def test_swaks_through_a_proxy(house):
    """Version 1 and 2 of the PROXY protocol, XCLIENT, and TLS behind both: the client's own address counts."""
    try:
        house.write('control/tcp.smtp', RULES % 1)
        for version in ('1', '2'):
            proxy = ['--proxy-version', version, '--proxy-family', 'TCP4' if version == '1' else 'AF_INET', '--proxy-source', '192.0.2.7',
                     '--proxy-source-port', '1', '--proxy-dest', '192.0.2.1', '--proxy-dest-port', '25']
            proxy += ['--proxy-protocol', 'STREAM', '--proxy-command', 'PROXY'] if version == '2' else []
            code, said = swaks(house, *proxy, '--port', str(house.port), '--tls', '--to', 'user@here.test', '--h-Subject', 'proxy ' + version)
            assert code == 0, said
            assert b'(192.0.2.7)' in house.await_message('user/Maildir', 'proxy ' + version)
        house.write('control/tcp.smtp', RULES % 0)
        code, said = swaks(house, '--xclient', 'ADDR=192.0.2.7 NAME=real.test', '--port', str(house.port), '--tls', '--to', 'user@here.test',
                           '--h-Subject', 'by xclient', '--xclient-before-starttls')
        assert code == 0, said
        assert b'Received: from real.test ' in house.await_message('user/Maildir', 'by xclient')
    finally:
        house.write('control/tcp.smtp', ':allow\n')


def test_one_shot(house):
    """qpy-smtpd on descriptors 0 and 1 of one connection: STARTTLS, a login, a message, and the end of the program."""
    ours, theirs = socket.socketpair()
    user = dict(user=house.uid, group=house.gid, extra_groups=[]) if os.geteuid() == 0 else {}
    process = subprocess.Popen([house.home + '/bin/qpy-smtpd'], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, cwd='/',
                               env={'PROTO': 'TCP', 'TCPREMOTEIP': '192.0.2.9'}, **user)
    theirs.close()
    client = Client(ours)
    assert client.reply()[:3] == b'220' and client.say(b'EHLO x')[:3] == b'250' and client.say(b'STARTTLS')[:3] == b'220'
    client = Client(tls.trusting().wrap_socket(client.sock, server_hostname='here.test'))
    assert client.say(b'EHLO x')[:3] == b'250'
    assert test_auth.log_in(client, b'SCRAM-SHA-256') == b'235 2.7.0 welcome'
    for line in (b'MAIL FROM:<user@here.test>', b'RCPT TO:<user@here.test>', b'DATA', b'Subject: of one shot\r\n\r\nx\r\n.'):
        assert client.say(line)[:1] in b'23'
    assert client.say(b'QUIT')[:3] == b'221' and client.line() == b''
    assert process.wait(20) == 0
    process.stderr.close()
    assert b'(192.0.2.9)\n  by ' in house.await_message('user/Maildir', 'of one shot')


def test_tls_right_behind_the_header_of_a_proxy(house):
    """Port 465 behind a proxy: the header and the first bytes of TLS in one segment; not one of them is taken for the other."""
    try:
        house.write('control/tcp.smtp', RULES % 1)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        stream = tls.trusting().wrap_bio(incoming, outgoing, server_hostname='here.test')
        sock = socket.create_connection(('127.0.0.1', house.smtps), 20)
        first = b'PROXY TCP4 192.0.2.7 192.0.2.1 1 465\r\n'

        def go(step):
            nonlocal first
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    sock.sendall(first + outgoing.read())
                    first = b''
                    incoming.write(sock.recv(65536))
        go(stream.do_handshake)
        assert go(lambda: stream.read(1000)) == b'220 here.test ESMTP\r\n'
        stream.write(b'MAIL FROM:<a@else.test>\r\nRCPT TO:<a@elsewhere.test>\r\nQUIT\r\n')
        said = b''
        while b'221 ' not in said:
            said += go(lambda: stream.read(1000))
        assert [line[:3] for line in said.split(b'\r\n')] == [b'250', b'250', b'221', b'']
        sock.close()
    finally:
        house.write('control/tcp.smtp', ':allow\n')


def test_qpy_listen(house):
    """The warm smtpd that qpy-listen starts beside the chain finds qpy-tls and qpy-auth too."""
    port = houses.free_port()
    user = dict(user=house.uid, group=house.gid, extra_groups=[]) if os.geteuid() == 0 else {}
    process = subprocess.Popen([house.home + '/bin/qpy-listen', '127.0.0.1:%d' % port, 'qpy-smtpd', '1'], cwd='/', env={},
                               stderr=subprocess.DEVNULL, start_new_session=True, **user)
    try:
        def offered():
            with contextlib.suppress(OSError, smtplib.SMTPException), smtplib.SMTP('127.0.0.1', port, timeout=20) as client:
                client.ehlo()
                return client.has_extn('starttls')
        house.await_that(offered, 'STARTTLS of qpy-listen')
        with smtplib.SMTP('127.0.0.1', port, timeout=20) as client:
            client._host = 'here.test'
            client.starttls(context=tls.trusting())
            client.login('user', test_auth.SECRET.decode())
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)


FINE = ('SSLv2', 'SSLv3', 'TLS 1.2', 'TLS 1.3', 'NULL ciphers', 'Anonymous NULL', 'Export ciphers', 'LOW:', 'Strong encryption', 'PFS is offered',
        'Heartbleed', 'CCS', 'Secure Renegotiation', 'Secure Client-Initiated', 'CRIME', 'POODLE', 'TLS_FALLBACK_SCSV', 'SWEET32', 'FREAK',
        'DROWN', 'LOGJAM', 'BEAST')


def test_testssl(house, tmp_path):
    """Debian's testssl.sh, without looking anybody up, finds old protocols, weak ciphers and known holes nowhere."""
    try:
        root = debian.unpack('testssl.sh', 'bsdextrautils')
    except RuntimeError as problem:
        pytest.skip(str(problem))
    (tmp_path / 'dig').write_text('#!/bin/sh\n')            # it wants one, and an address needs none
    os.chmod(tmp_path / 'dig', 0o755)
    done = subprocess.run([root + '/usr/bin/testssl', '--starttls', 'smtp', '--fast', '--quiet', '--color', '0', '-p', '-s', '-f', '-U',
                           '127.0.0.1:%d' % house.port], capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL,
                          env={'PATH': '%s:%s/usr/bin:/usr/bin:/bin' % (tmp_path, root), 'TERM': 'dumb', 'HOME': str(tmp_path),
                               'TESTSSL_INSTALL_DIR': root + '/etc/testssl'})
    lines = [line.strip() for line in done.stdout.split('\n')]
    for name in FINE:
        found = [line for line in lines if line.startswith(name)]
        assert found and all('(OK)' in line or 'supported' in line for line in found), done.stdout
    assert any(line.startswith('TLS 1.1') and 'not offered' in line for line in lines)
    assert any(line.startswith('ROBOT') and 'does not support' in line for line in lines)
