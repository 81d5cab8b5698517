"""Logins through a whole chain: qpy-auth, qpy-tls and qpy-smtpd, with passwords, programs, tokens and a real Dovecot."""
import base64
import contextlib
import glob
import os
import smtplib
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402
import test_tls_in as tls  # noqa: E402
from qpy.core import sasl_client, tls_certificate  # noqa: E402
from tests.peers import debian  # noqa: E402
from tests.peers.certificates import authority  # noqa: E402

pytestmark = pytest.mark.slow
LINE = 'auth qpya seq:auth:0660:qpya:qpyd qpy-auth\n'
SECRET = b'a secret'


class AuthHouse(tls.TlsHouse):
    """A house where `user` may log in."""

    def __init__(self, auth=None, smtp='', password=SECRET, **more):
        super().__init__({'x.pem': authority().certificate('here.test')}, smtp=smtp, **more)
        with open(self.home + '/control/services') as file:
            self.write('control/services', file.read() + LINE)
        self.write('control/tcp.smtp', ':allow\n')          # nobody relays by his address
        if auth is not None:
            self.write('control/auth', auth)
        if password:
            self.passwd(b'user', password)

    def passwd(self, name, password):
        self.as_owner(self.home + '/bin/qpy-passwd', name, data=password + b'\n')

    def ready(self):
        """A client under TLS that has said EHLO, and the mechanisms it is offered."""
        client = self.starttls(tls.trusting(), 'here.test')
        client.send(b'EHLO client.test\r\n')
        lines = [client.line()]
        while lines[-1][3:4] == b'-':
            lines.append(client.line())
        return client, next((line[9:].split(b' ') for line in lines if line[4:9] == b'AUTH '), [])

    def await_auth(self, wanted=b'PLAIN'):
        """Until that mechanism is offered."""
        self.await_offer()

        def offered():
            client, mechanisms = self.ready()
            client.close()
            return wanted in mechanisms
        self.await_that(offered, 'offer of AUTH')

    def start(self, *words, **more):
        super().start(*words, **more)
        self.await_auth()
        return self


@contextlib.contextmanager
def house(**more):
    found = AuthHouse(**more)
    try:
        yield found.start()
    finally:
        found.remove()


@pytest.fixture(scope='module')
def one():
    with house() as h:
        yield h


def log_in(client, mechanism, user=b'user', password=SECRET, token=b'', at_once=True, end_point=b''):
    """The last reply to a login of our own client."""
    who = sasl_client.Credentials(user, password, base64.b64encode(os.urandom(12)), token, b'here.test', 25, end_point)
    exchange = sasl_client.MECHANISMS[mechanism](who)
    first = exchange.first()
    line = b'AUTH ' + mechanism
    if first is not None and at_once:
        line, first = line + b' ' + sasl_client.encode(first), None
    reply = client.say(line)
    while reply[:3] == b'334':
        answer = first if first is not None else exchange.answer(sasl_client.decode(reply))
        first = None
        reply = client.say(sasl_client.encode(answer) if answer else b'')
    return reply


def end_point(client):
    return bytes.fromhex(tls_certificate.binding(client.sock.getpeercert(True)).decode())


@pytest.mark.parametrize('at_once', [True, False])
@pytest.mark.parametrize('mechanism', [b'PLAIN', b'LOGIN', b'SCRAM-SHA-256', b'SCRAM-SHA-256-PLUS'])
def test_each_mechanism(one, mechanism, at_once):
    """RFC 4954: with and without a first response; the password opens, another one does not; then mail goes anywhere."""
    client, mechanisms = one.ready()
    assert mechanisms == [b'SCRAM-SHA-256-PLUS', b'SCRAM-SHA-256', b'PLAIN', b'LOGIN']
    bound = end_point(client) if mechanism[-5:] == b'-PLUS' else b''
    assert client.say(b'MAIL FROM:<user@here.test>')[:3] == b'250'
    assert client.say(b'RCPT TO:<a@elsewhere.test>')[:3] == b'553' and client.say(b'RSET')[:3] == b'250'
    assert log_in(client, mechanism, password=b'wrong', at_once=at_once, end_point=bound) == b'535 5.7.8 authentication failed'
    assert log_in(client, mechanism, at_once=at_once, end_point=bound) == b'235 2.7.0 welcome'
    assert client.say(b'AUTH PLAIN')[:3] == b'503'
    assert client.say(b'MAIL FROM:<user@here.test> AUTH=<>')[:3] == b'250'
    assert client.say(b'RCPT TO:<a@elsewhere.test>')[:3] == b'250'
    client.close()


def test_the_log_says_who_and_why(one):
    """Of a failure the address, the name and the reason, which the client is not told; of mail the login."""
    client, _ = one.ready()
    assert log_in(client, b'PLAIN', b'nobody') == log_in(client, b'PLAIN', password=b'wrong')
    assert 'refused auth ip 127.0.0.1 helo client.test: 535 5.7.8 authentication failed (nobody: wrong)' \
        in one.await_line('(nobody: wrong)')
    one.await_line('authentication failed (user: wrong)')
    log_in(client, b'PLAIN')
    for line in (b'MAIL FROM:<user@here.test>', b'RCPT TO:<user@here.test>', b'DATA', b'Subject: by login\r\n\r\nx\r\n.'):
        assert client.say(line)[:1] in (b'2', b'3')
    assert ' login user from <user@here.test>' in one.await_line('accepted ip 127.0.0.1 helo client.test login')
    assert b'with ESMTPSA (TLSv1.3 ' in one.await_message('user/Maildir', 'by login')


@pytest.mark.parametrize('mechanism', [b'PLAIN', b'SCRAM-SHA-256'])
def test_no_oracle(one, mechanism):
    """A wrong password and a user who does not exist are told alike and after the same time; SCRAM's salt tells nothing."""
    times = {}
    for user in (b'user', b'nobody'):
        client, _ = one.ready()
        before = time.monotonic()
        assert log_in(client, mechanism, user, b'wrong') == b'535 5.7.8 authentication failed'
        times[user] = time.monotonic() - before
        client.close()
    assert min(times.values()) >= 2.0 and abs(times[b'user'] - times[b'nobody']) < 1.0


def test_nothing_in_the_clear(one):
    """AUTH is not offered without TLS, and refused to who tries all the same: before the secret is sent, if he waits."""
    client = one.client()
    client.send(b'EHLO x\r\n')
    lines = [client.line()]
    while lines[-1][3:4] == b'-':
        lines.append(client.line())
    assert not any(b'AUTH' in line for line in lines)
    assert client.say(b'AUTH LOGIN') == b'538 5.7.11 STARTTLS first: nobody may log in in the clear'


@pytest.mark.parametrize('lines, replies', [
    ([b'AUTH'], [b'504']), ([b'AUTH CRAM-MD5'], [b'504']), ([b'AUTH PLAIN !!!'], [b'535']),
    ([b'AUTH PLAIN', b'*'], [b'334', b'501']), ([b'AUTH LOGIN', b'\xff\xfe'], [b'334', b'501']),
    ([b'AUTH PLAIN', b'x' * 13000], [b'334', b'501']), ([b'AUTH PLAIN =', ], [b'535']),
    ([b'HELO x', b'AUTH PLAIN'], [b'250', b'503']), ([b'MAIL FROM:<>', b'AUTH PLAIN'], [b'250', b'503']),
    ([b'AUTH PLAIN ' + b'A' * 9000], [b'535'])])
def test_logins_that_are_none(one, lines, replies):
    """RFC 4954, 4: cancelled, malformed, too long, too late; the session goes on."""
    client, _ = one.ready()
    assert [client.say(line)[:3] for line in lines] == replies
    assert client.say(b'NOOP')[:3] == b'250'
    client.close()


def test_three_failures_end_a_session(one):
    """RFC 4954 would let a client guess on."""
    client, _ = one.ready()
    assert [log_in(client, b'PLAIN', password=b'x')[:3] for _ in range(2)] == [b'535'] * 2
    client.send(b'AUTH PLAIN AHVzZXIAeA==\r\n')
    assert client.reply()[:3] == b'535' and client.reply()[:3] == b'421' and client.line() == b''


def test_pipelined_commands_wait_for_the_login(one):
    """What stands behind AUTH is obeyed after it, in order."""
    client, _ = one.ready()
    client.send(b'AUTH PLAIN ' + base64.b64encode(b'\0user\0' + SECRET) + b'\r\nMAIL FROM:<user@here.test>\r\n'
                b'RCPT TO:<a@elsewhere.test>\r\nQUIT\r\n')
    assert [client.reply()[:3] for _ in range(4)] == [b'235', b'250', b'250', b'221']


def test_a_login_that_is_left_in_the_middle(one):
    """Clients that go while they are asked, or while somebody judges: the next one is served."""
    for response in (None, base64.b64encode(b'\0user\0x')):
        client, _ = one.ready()
        client.send(b'AUTH PLAIN' + (b' ' + response if response else b'') + b'\r\n')
        client.close()
    client, _ = one.ready()
    assert log_in(client, b'PLAIN')[:3] == b'235'


def with_tls_for_perl():
    """An environment in which swaks can speak TLS; None if it cannot be had."""
    try:
        root = debian.unpack('swaks', 'libnet-ssleay-perl', 'perl-openssl-defaults', 'libnet-dns-perl')
    except RuntimeError:
        return None
    places = [root + '/usr/share/perl5'] + glob.glob(root + '/usr/lib/*/perl5/*')
    return {'PERL5LIB': ':'.join(places), 'PATH': root + '/usr/bin:/usr/bin:/bin'}


def test_smtplib_swaks_curl_and_msmtp(one, tmp_path):
    """What people use: Python, swaks by each mechanism it knows, curl, msmtp by SCRAM."""
    ca = authority().ca
    with smtplib.SMTP('127.0.0.1', one.port, timeout=20) as client:
        client._host = 'here.test'
        client.starttls(context=tls.trusting())
        client.login('user', SECRET.decode())
        client.sendmail('user@here.test', ['user@here.test'], 'Subject: of smtplib\r\n\r\nx\r\n')
    one.await_message('user/Maildir', 'of smtplib')
    common = ['--server', '127.0.0.1', '--from', 'user@here.test', '--to', 'user@here.test', '--auth-user', 'user',
              '--auth-password', SECRET.decode()]
    perl = with_tls_for_perl()
    if perl:
        for way in (['--tls', '--port', str(one.port)], ['--tls-on-connect', '--port', str(one.smtps)]):
            for mechanism in ('PLAIN', 'LOGIN'):
                done = subprocess.run(['swaks', *common, *way, '--auth', mechanism, '--h-Subject', 'of swaks ' + mechanism],
                                      capture_output=True, text=True, timeout=60, env=perl)
                assert done.returncode == 0, done.stdout + done.stderr
                one.await_message('user/Maildir', 'of swaks ' + mechanism)
    message = tmp_path / 'message'
    message.write_text('Subject: of curl\r\n\r\nx\r\n')
    subprocess.run(['curl', '-sS', '--connect-to', '::127.0.0.1:', 'smtps://here.test:%d' % one.smtps, '--cacert', ca,
                    '--mail-from', 'user@here.test', '--mail-rcpt', 'user@here.test', '--user', 'user:' + SECRET.decode(),
                    '-T', str(message)], check=True, timeout=60)
    one.await_message('user/Maildir', 'of curl')


@pytest.mark.parametrize('mechanism', ['scram-sha-256', 'plain', 'login', 'on'])
def test_msmtp(one, mechanism, tmp_path):
    """Debian's msmtp with GNU SASL; `on` lets it choose the best that it knows."""
    try:
        root = debian.unpack('msmtp', 'libgsasl18', 'libsecret-1-0', 'libgssglue1', 'libntlm0', 'libidn12')
    except RuntimeError as problem:
        pytest.skip(str(problem))
    libraries = root + '/usr/lib/' + os.uname().machine + '-linux-gnu'
    done = subprocess.run([root + '/usr/bin/msmtp', '--file=/dev/null', '--host=127.0.0.1', '--port=%d' % one.port, '--tls=on',
                           '--tls-certcheck=off', '--auth=' + mechanism, '--user=user',
                           '--passwordeval=echo ' + SECRET.decode(), '--from=user@here.test', 'user@here.test'],
                          input='Subject: of msmtp %s\n\nx\n' % mechanism, capture_output=True, text=True, timeout=60,
                          env={'LD_LIBRARY_PATH': libraries, 'PATH': '/usr/bin:/bin', 'HOME': str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert b'with ESMTPSA' in one.await_message('user/Maildir', 'of msmtp ' + mechanism)


PROGRAM = """#!/usr/bin/python3
import os, sys
user, secret, mechanism = os.read(3, 512).split(b'\\0')[:3]
assert sys.argv[1:] == ['/bin/true'] or 'token' in sys.argv[0]
assert os.environ['TCPREMOTEIP'] == '127.0.0.1' and os.environ['AUTHMECH'].encode() == mechanism
if secret == b'later': sys.exit(111)
if secret == b'crash': os.kill(os.getpid(), 9)
sys.exit(0 if (user, secret) in ((b'Joe', b'by program'), (b'joe', b'good token')) else 1)
"""


def test_programs_judge():
    """checkpassword's interface for passwords and for tokens; what is neither yes nor no is later; several in order."""
    found = AuthHouse()
    for name in ('judge', 'token'):
        found.write(name, PROGRAM)
        os.chmod(found.home + '/' + name, 0o755)
    found.write('control/auth', 'passwd\nprogram {0}/judge\ntoken {0}/token\n'.format(found.home))
    try:
        found.start()
        client, mechanisms = found.ready()
        assert mechanisms == [b'PLAIN', b'LOGIN', b'OAUTHBEARER', b'XOAUTH2']
        assert log_in(client, b'PLAIN', b'Joe', b'by program')[:3] == b'235'
        for mechanism, arguments, reply in [
                (b'PLAIN', (b'user', SECRET), b'235'), (b'LOGIN', (b'Joe', b'by program'), b'235'),
                (b'PLAIN', (b'Joe', b'wrong'), b'535'), (b'PLAIN', (b'Joe', b'later'), b'454'), (b'PLAIN', (b'Joe', b'crash'), b'454'),
                (b'OAUTHBEARER', (b'joe', b'', b'good token'), b'235'), (b'XOAUTH2', (b'joe', b'', b'good token'), b'235'),
                (b'OAUTHBEARER', (b'joe', b'', b'old token'), b'535'), (b'XOAUTH2', (b'joe', b'', b'later'), b'454')]:
            client, _ = found.ready()
            assert log_in(client, mechanism, *arguments)[:3] == reply, (mechanism, arguments)
            client.close()
    finally:
        found.remove()


def test_brakes():
    """After ten failures the account is not looked at for strangers, who are told so alike whether it exists or not."""
    with house() as h:
        def attempt(user, source, password):
            import socket
            from tests.peers.smtp_rig import Client
            client = Client(socket.create_connection(('127.0.0.1', h.port), 20, source_address=(source, 0)))
            client.reply()
            client.say(b'EHLO x')
            client.say(b'STARTTLS')
            client = Client(tls.trusting().wrap_socket(client.sock, server_hostname='here.test'))
            client.say(b'EHLO x')
            client.send(b'AUTH PLAIN ' + base64.b64encode(b'\0' + user + b'\0' + password) + b'\r\n')
            return client
        assert attempt(b'user', '127.0.0.1', SECRET).reply()[:3] == b'235'
        for user in (b'user', b'ghost'):
            guesses = [attempt(user, '127.0.0.%d' % (10 + n), b'guess') for n in range(10)]
            assert {client.reply()[:3] for client in guesses} == {b'535'}
            assert attempt(user, '127.0.0.99', SECRET).reply()[:3] == b'454'
        h.await_line('(user: too many failed logins to this account)')
        assert attempt(b'user', '127.0.0.1', SECRET).reply()[:3] == b'235'
        guesses = [attempt(b'u%d' % n, '127.0.0.50', b'guess') for n in range(20)]
        assert {client.reply()[:3] for client in guesses} == {b'535'}
        assert attempt(b'user', '127.0.0.50', SECRET).reply()[:3] == b'454'
        guesses = [attempt(b'v%d' % n, '127.0.0.60', b'guess') for n in range(30)]
        assert sorted(client.reply()[:3] for client in guesses) == [b'454'] * 10 + [b'535'] * 20


def test_passwords_change_while_it_runs():
    """qpy-passwd counts at the next login; a name without SCRAM's keys takes SCRAM from all; none left: no AUTH."""
    with house() as h:
        h.passwd(b'user', b'another')
        client, _ = h.ready()
        assert log_in(client, b'SCRAM-SHA-256', password=b'another', end_point=end_point(client))[:3] == b'535'     # it says y
        assert log_in(client, b'SCRAM-SHA-256-PLUS', password=b'another', end_point=end_point(client))[:3] == b'235'
        with open(h.home + '/users/passwd') as file:
            old = file.read()
        h.write('users/passwd', old + 'ann:' + old.split('user:')[1].split(':')[0] + '\n')
        os.chmod(h.home + '/users/passwd', 0o640)

        def offered():
            client, mechanisms = h.ready()
            log_in(client, b'PLAIN', password=b'another')
            client.close()
            return mechanisms
        h.await_that(lambda: offered() == [b'PLAIN', b'LOGIN'], 'end of SCRAM')


@pytest.mark.root
def test_dovecot_judges():
    """A real Dovecot: its mechanisms are offered, its users log in with their password, by a challenge too; without it
    nobody does, and when it is back they do again."""
    dovecot = pytest.importorskip('tests.peers.dovecot')
    try:
        peer = dovecot.Dovecot(houses.free_port(), houses.PLAIN, '/nonexistent')
    except RuntimeError as problem:
        pytest.skip(str(problem))
    found = AuthHouse(auth='dovecot %s/auth\n' % peer.work, password=b'')
    try:
        found.start()
        client, mechanisms = found.ready()
        assert mechanisms == [b'SCRAM-SHA-256', b'PLAIN', b'LOGIN']
        for mechanism in mechanisms:
            client, _ = found.ready()
            assert log_in(client, mechanism, b'anybody', b'wrong')[:3] == b'535'
            assert log_in(client, mechanism, b'anybody', dovecot.PASSWORD.encode())[:3] == b'235'
            client.close()
        os.killpg(peer.process.pid, 9)      # its auth waits for us otherwise
        found.await_line('Dovecot has gone')
        client, mechanisms = found.ready()
        assert mechanisms == [] and client.say(b'AUTH PLAIN')[:3] == b'502'
    finally:
        found.remove()
        peer.stop()


def test_qpy_auth_dies_in_a_login():
    """Its worker is killed: who waits is told to come again, and the next login is judged by another one."""
    with house() as h:
        client, _ = h.ready()
        assert client.say(b'AUTH PLAIN')[:3] == b'334'
        master = h.daemons()['auth']
        for pid in houses.descendants(master):
            os.kill(pid, 9)
        assert client.say(base64.b64encode(b'\0user\0' + SECRET))[:3] == b'454'
        h.await_auth()
        client, _ = h.ready()
        assert log_in(client, b'PLAIN')[:3] == b'235'
