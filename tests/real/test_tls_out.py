"""Mail out of a confined qpy-rspawn by TLS, and by LMTP, to Debian's own servers: Postfix and Dovecot."""
import glob
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from qpy.core import mess
from tests.peers.certificates import authority
from tests.peers.qpyr import Daemon, Rspawn
from tests.peers.smtp_script import Server, good
from tests.real.conftest import unpacked
from tests.real.test_next_hop import free_port, wait_for

dovecot = pytest.importorskip('tests.peers.dovecot')
postfix = pytest.importorskip('tests.peers.postfix')
exim = pytest.importorskip('tests.peers.exim')
opensmtpd = pytest.importorskip('tests.peers.opensmtpd')
pytestmark = pytest.mark.root
USER = 64100


@pytest.fixture
def user_home():
    """A home of a user who is in nobody else's /etc/passwd."""
    path = pathlib.Path(tempfile.mkdtemp(prefix='qpy-test-', dir='/var/tmp'))
    os.chown(path, USER, USER)
    yield path
    shutil.rmtree(path)


def arrived(rspawn, home, count=1):
    """The messages in the Maildir of home, when there are so many."""
    rspawn.wait(lambda: (rspawn.loop.step(0.05), len(glob.glob(str(home / 'Maildir/new/*'))) >= count)[1])
    return [pathlib.Path(name).read_bytes() for name in glob.glob(str(home / 'Maildir/new/*'))]


def rspawn_with(path, **controls):
    """qpy-rspawn, confined, with these control files."""
    for name in ('control', 'run', 'queue', 'queue/mess'):
        (path / name).mkdir(parents=True)
    os.chown(path, 65534, 65534)
    for name, text in {'me': 'me.example\n', 'timeoutremote': '20\n', **controls}.items():
        (path / 'control' / name).write_text(text)
    return Rspawn(path, '1')


def send(rspawn, number, *recipients, **options):
    """One delivery; [result] of its recipients."""
    rspawn.send(number, b'postfix.test', list(recipients), **options)
    rspawn.wait(lambda: all(number + i in rspawn.results for i in range(len(recipients))))
    return [rspawn.results[number + i] for i in range(len(recipients))]


def with_tls(path, certificate, level):
    """Lines of Postfix's main.cf."""
    for source, name in zip(certificate, ('tls.pem', 'tls.key')):
        shutil.copy(source, path / name)
    return ('smtpd_tls_security_level = {1}\nsmtpd_tls_received_header = yes\nsmtpd_tls_cert_file = {0}/tls.pem\n'
            'smtpd_tls_key_file = {0}/tls.key\n').format(path, level)


@pytest.mark.parametrize('names, tls, letter', [
    (('127.0.0.1',), 'verify', b'K'), (('mail.postfix.test',), 'verify mail.postfix.test', b'K'),
    (('mail.postfix.test',), 'verify', b'Z'), (('x',), 'may', b'K'), (('x',), None, b'K')])
def test_postfix_by_tls(tmp_path, user_home, names, tls, letter):
    """Postfix with a certificate of a private authority: names that match and names that do not, and what it writes
    into its Received line."""
    port = free_port()
    peer = postfix.Postfix(port, users=[('joe', USER, str(user_home))], more=with_tls(
        tmp_path, authority().certificate(*names), 'may'))
    try:
        wait_for(port)
        rspawn = rspawn_with(tmp_path / 'qpy', smtproutes=':127.0.0.1:%d\n' % port,
                             tlscas=pathlib.Path(authority().ca).read_text(),
                             **({'tlsdestinations': '127.0.0.1:%s\n' % tls} if tls else {}))
        result = send(rspawn, 1, b'joe@postfix.test', b'nobody.here@postfix.test')
        assert result[0][0] == letter, result
        if letter == b'K':
            assert b'TLSv1.3 TLS_AES_256_GCM_SHA384' in result[0][2] and result[1][0] == b'D'
            assert b'using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384' in arrived(rspawn, user_home)[0]
        else:
            assert b'mismatch' in result[0][2]
        assert rspawn.end() == (0, b'')
    finally:
        peer.stop()


def test_exim_by_tls(tmp_path):
    """GnuTLS on the other side: a certificate that verifies, and several messages on a connection."""
    port = free_port()
    try:
        peer = exim.Exim(port, authority().certificate('127.0.0.1'))
    except (RuntimeError, AssertionError) as problem:
        pytest.skip('none here: %s' % problem)
    try:
        rspawn = rspawn_with(tmp_path / 'qpy', smtproutes=':127.0.0.1:%d\n' % port, tlsdestinations=':verify\n',
                             tlscas=pathlib.Path(authority().ca).read_text())
        for number in range(1, 4):
            result, = send(rspawn, number, b'joe@exim.test', message=b'Subject: %d\n\nby TLS\n' % number)
            assert result[0] == b'K' and b'TLSv1.3' in result[2], (result, exim.log(peer))
        rspawn.wait(lambda: (rspawn.loop.step(0.05), len(os.listdir(peer.box())) >= 3)[1])
        for name in os.listdir(peer.box()):
            text = pathlib.Path(peer.box(), name).read_text()
            assert 'by TLS' in text and 'TLS' in text.partition('\n\n')[0]
        assert rspawn.end() == (0, b'')
    finally:
        exim.stop(peer)


def handshakes(port):
    """Whether a server that offers STARTTLS gets through a handshake with OpenSSL's own client."""
    done = subprocess.run(['openssl', 's_client', '-starttls', 'smtp', '-connect', '127.0.0.1:%d' % port], input=b'QUIT\r\n',
                          capture_output=True, timeout=60)
    return b'\n221 ' in done.stdout


def test_opensmtpd_by_tls(tmp_path):
    """A server that fails each handshake it has offered, as Debian 12's OpenSMTPD does, gets its mail in the clear; where
    TLS must be, mail waits and says why.  One that does not fail gets it by TLS."""
    port, certificate = free_port(), [str(tmp_path / name) for name in ('tls.pem', 'tls.key')]
    for source, name in zip(authority().certificate('127.0.0.1'), certificate):
        shutil.copy(source, name)
        os.chmod(name, 0o600)
    try:
        peer = opensmtpd.OpenSmtpd(port, certificate=certificate)
    except (RuntimeError, AssertionError) as problem:
        pytest.skip('none here: %s' % problem)
    try:
        able = handshakes(port)
        rspawn = rspawn_with(tmp_path / 'qpy', smtproutes=':127.0.0.1:%d\n' % port)
        result, = send(rspawn, 1, b'joe@opensmtpd.test')
        assert result[0] == b'K' and (b'TLSv1' in result[2]) == able, (result, exim.log(peer))
        (tmp_path / 'qpy/control/tlsdestinations').write_text(':encrypt\n')
        result, = send(rspawn, 2, b'joe@opensmtpd.test')
        assert result[0] == (b'K' if able else b'Z') and (b'TLSv1.3' if able else b'internal error') in result[2], result
        rspawn.wait(lambda: (rspawn.loop.step(0.05), len(os.listdir(peer.box())) >= 1 + able)[1])
        assert rspawn.end() == (0, b'')
    finally:
        exim.stop(peer)


AIOSMTPD = ('python3-aiosmtpd', 'python3-public', 'python3-attr')


@pytest.mark.parametrize('tls', [False, True])
def test_aiosmtpd(tmp_path, tls):
    """aiosmtpd as next hop, in the clear and by TLS alone: a message as it was, one with SMTPUTF8, and a dot at each line's
    beginning; two on one connection."""
    root, port, work = unpacked(*AIOSMTPD), free_port(), tempfile.mkdtemp(prefix='qpy-test-', dir='/var/tmp')
    certificate, key = authority().certificate('127.0.0.1')
    with open(work + '/output', 'wb') as output:
        peer = subprocess.Popen(
            ['/usr/bin/python3', '-m', 'aiosmtpd', '-n', '-u', '-l', '127.0.0.1:%d' % port, *(
                ('--tlscert', certificate, '--tlskey', key) if tls else ()), '-c', 'aiosmtpd.handlers.Mailbox', work + '/box'],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=work,
            env={'PATH': '/usr/bin:/bin', 'PYTHONPATH': root + '/usr/lib/python3/dist-packages', 'PYTHONDONTWRITEBYTECODE': '1'})
    try:
        wait_for(port)
        rspawn = rspawn_with(tmp_path / 'qpy', smtproutes=':127.0.0.1:%d\n' % port, tlsdestinations=':%s\n' % ('verify' if tls else 'may'),
                             tlscas=pathlib.Path(authority().ca).read_text())
        texts = [b'Subject: one\n\n' + b'.\n..\n' * 5000, 'Subject: zw\xf6i\n\nx\n'.encode()]
        for number, text in enumerate(texts, 1):
            result, = send(rspawn, number, b'joe@aio.test', message=text, flags=b'8u' if number == 2 else b'')
            assert result[0] == b'K' and (b'TLSv1.3' in result[2]) == tls, (result, pathlib.Path(work, 'output').read_text())
        found = [pathlib.Path(name).read_bytes().partition(b'\n\n') for name in glob.glob(work + '/box/new/*')]
        assert sorted((top.partition(b'\n')[0], body) for top, _, body in found) == [
            (text.partition(b'\n')[0], text.partition(b'\n\n')[2]) for text in texts]
        assert rspawn.end() == (0, b'')
    finally:
        peer.terminate()
        peer.wait(20)
        shutil.rmtree(work)


def test_postfix_takes_the_wishes(tmp_path, user_home):
    """DSN: Postfix gets NOTIFY, RET, ENVID and ORCPT and sends the notice of success itself; the report says that it will."""
    port = free_port()
    peer = postfix.Postfix(port, users=[('joe', USER, str(user_home))])
    try:
        wait_for(port)
        rspawn = rspawn_with(tmp_path / 'qpy', smtproutes=':127.0.0.1:%d\n' % port)
        message = b'Subject: wishes\n\nhi\n'
        envelope = mess.Envelope(b'joe@postfix.test', [b'joe@postfix.test'], [(b'R', b'HDRS'), (b'E', b'env+2B1')],
                                 [[(b'N', b'SUCCESS'), (b'O', b'rfc822;Joe@first.test')]]).build()
        tail = mess.pack(message, envelope, b'1764000000000001')[len(message):]
        result, = send(rspawn, 1, b'joe@postfix.test', message=message, tail=tail, flags=b'd', sender=b'joe@postfix.test')
        assert result[:2] == (b'K', b'd'), result
        notice = next(file for file in arrived(rspawn, user_home, 2) if b'delivery-status' in file)
        assert b'\nOriginal-Envelope-Id: env+1\n' in notice and b'\nAction: delivered\n' in notice
        assert b'\nOriginal-Recipient: rfc822;Joe@first.test\n' in notice
        assert rspawn.end() == (0, b'')
    finally:
        peer.stop()


def test_postfix_insists_on_tls(tmp_path, user_home):
    """smtpd_tls_security_level = encrypt: without TLS it answers 530, which is temporary; by TLS it takes the mail."""
    port = free_port()
    peer = postfix.Postfix(port, users=[('joe', USER, str(user_home))], more=with_tls(
        tmp_path, authority().certificate('x'), 'encrypt'))
    try:
        wait_for(port)
        rspawn = rspawn_with(tmp_path / 'qpy', smtproutes=':127.0.0.1:%d\n' % port, tlsdestinations=':none\n')
        assert send(rspawn, 1, b'joe@postfix.test')[0][0] == b'Z' and b'530 ' in rspawn.results[1][2]
        (tmp_path / 'qpy' / 'control' / 'tlsdestinations').write_text(':encrypt\n')
        assert send(rspawn, 2, b'joe@postfix.test')[0][0] == b'K' and b'TLSv1.3' in rspawn.results[2][2]
        assert rspawn.end() == (0, b'')
    finally:
        peer.stop()


@pytest.fixture
def submission(tmp_path, user_home):
    """Dovecot's submission service in front of a server of ours: submission(mechanisms) -> (Dovecot, that server)."""
    started = []

    def start(mechanisms):
        relay = started.append(Server(good((b'PIPELINING', b'8BITMIME')))) or started[0]
        relay.__enter__()
        directory = tempfile.mkdtemp(dir=user_home.parent, prefix='qpy-test-')
        os.chmod(directory, 0o755)
        started.append(directory)
        try:
            made = dovecot.Submission(free_port(), USER, str(user_home), mechanisms, relay.port,
                                      authority().certificate('127.0.0.1'), directory)
        except (RuntimeError, subprocess.CalledProcessError) as problem:
            pytest.skip('no Dovecot: %s' % problem)
        started.append(made)
        return made, relay
    yield start
    relay, directory, *servers = started
    for server in servers:
        server.stop()
    shutil.rmtree(directory)
    relay.__exit__()


@pytest.mark.parametrize('mechanisms, password, letter', [
    ('plain login scram-sha-256', dovecot.PASSWORD, b'K'), ('plain', dovecot.PASSWORD, b'K'),
    ('login', dovecot.PASSWORD, b'K'), ('scram-sha-256', dovecot.PASSWORD, b'K'), ('scram-sha-256', 'wrong', b'Z'),
    ('plain', 'wrong', b'Z')])
def test_dovecot_logs_us_in(tmp_path, submission, mechanisms, password, letter):
    """PLAIN, LOGIN and SCRAM-SHA-256 as Dovecot speaks them; a wrong password waits."""
    server, relay = submission(mechanisms)
    rspawn = rspawn_with(tmp_path / 'qpy', smtproutes=':joe@127.0.0.1:%d\n' % server.port,
                         tlscas=pathlib.Path(authority().ca).read_text())
    (tmp_path / 'qpy/control/smtplogins').touch(mode=0o600)
    (tmp_path / 'qpy/control/smtplogins').write_text('joe@127.0.0.1:%s\n' % password)
    result, = send(rspawn, 1, b'ann@far.test', message=b'Subject: x\n\nby login\n')
    assert result[0] == letter, (result, server.log())
    assert len(relay.mail) == (letter == b'K') and (letter == b'K' or b'my login was rejected' in result[2])
    assert rspawn.end() == (0, b'')


@pytest.mark.parametrize('mechanism', ['xoauth2', 'oauthbearer'])
def test_dovecot_takes_our_token(tmp_path, submission, mechanism):
    """A token of qpy-token's, from a program; one that has expired is asked for anew, and the new one is taken."""
    server, relay = submission(mechanism)
    home = tmp_path / 'qpy'
    program = home / 'program'
    rspawn = rspawn_with(home, smtproutes=':joe@127.0.0.1:%d\n' % server.port,
                         smtptokens='joe@127.0.0.1:%s\n' % program, tlscas=pathlib.Path(authority().ca).read_text())
    program.write_text('#!/bin/sh\ncat %s/token; cp %s/next %s/token\n' % (home, home, home))
    program.chmod(0o755)
    (home / 'token').write_text(server.token('joe', -5) + '\n')
    (home / 'next').write_text(server.token('joe') + '\n')
    keeper = Daemon(home, 'token')
    result, = send(rspawn, 1, b'ann@far.test', message=b'Subject: x\n\nby token\n')
    assert result[0] == b'K', (result, server.log())
    assert len(relay.mail) == 1 and 'by token' in relay.mail[0][2].decode()
    assert rspawn.end() == (0, b'') and keeper.end()[0] == 0


@pytest.mark.parametrize('way', ['unix', 'tcp'])
def test_dovecot_by_lmtp(tmp_path, user_home, way):
    """Dovecot's LMTP takes a message for two of three, into the user's Maildir; the third, who has no room, is refused after
    the message, alone, and once."""
    port = free_port()
    try:
        server = dovecot.Dovecot(free_port(), USER, str(user_home), lmtp=port)
    except (RuntimeError, subprocess.CalledProcessError) as problem:
        pytest.skip('no Dovecot: %s' % problem)
    try:
        rspawn = rspawn_with(tmp_path / 'qpy', smtproutes=':lmtp=%s\n' % (
            server.work + '/lmtp' if way == 'unix' else '127.0.0.1:%d' % port))
        body = b'Subject: x\n\n.dot\n..two\n' + bytes(range(128, 256)) + b'\nno end'
        results = send(rspawn, 1, b'joe@postfix.test', b'full@postfix.test', b'ann@postfix.test', message=body)
        assert [result[0] for result in results] == [b'K', b'D', b'K'], (results, server.log())
        assert b'5.2.2' in results[1][2] and b'full@postfix.test' in results[1][2] and b'saved' in results[0][2].lower()
        assert all(file.partition(b'\n\n')[2] == body.partition(b'\n\n')[2] + b'\n'
                   for file in arrived(rspawn, user_home, 2))
        assert send(rspawn, 4, b'joe@postfix.test')[0][0] == b'K'      # the connection is used again
        assert rspawn.end() == (0, b'')
    finally:
        server.stop()
