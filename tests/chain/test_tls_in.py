"""TLS for those who bring mail: qpy-tls in a whole chain, spoken to by Python's ssl, and by hostile clients."""
import contextlib
import os
import smtplib
import socket
import ssl
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402
from tests.peers.certificates import authority  # noqa: E402
from tests.peers.milter import Milter  # noqa: E402
from tests.peers.smtp_rig import Client  # noqa: E402

pytestmark = pytest.mark.slow
TLS = 'tls qpyt unix:tls:0660:qpyt:qpyd qpy-tls 2\n'


class TlsHouse(houses.House):
    """A house with qpy-tls, and a second port, smtps. files: {name in keys/: (certificate, key)}."""

    def __init__(self, files, smtp='', smtps='', **more):
        super().__init__(**more)
        self.smtps = houses.free_port()
        for name, pair in files.items():
            self.put(name, *pair)
        self.write('control/services', 'smtpd qpyd tcp:127.0.0.1:%d %s qpy-smtpd 1\n' % (self.port, smtp) + TLS
                   + 'smtps qpyd tcp:127.0.0.1:%d SMTPS=1 %s qpy-smtpd 1\n' % (self.smtps, smtps))

    def put(self, name, certificate, key, mode=0o640):
        """Give qpy-tls a file, in one step."""
        path = os.path.join(self.home, 'keys', name)
        with open(path + '.new', 'wb') as out:
            for part in (key, certificate):
                with open(part, 'rb') as file:
                    out.write(file.read())
        os.chmod(path + '.new', mode)
        os.chown(path + '.new', self.uid, self.gid)
        os.rename(path + '.new', path)

    def client(self):
        """A greeted client in the clear."""
        client = Client(socket.create_connection(('127.0.0.1', self.port), houses.PATIENCE))
        assert client.reply()[:3] == b'220'
        return client

    def await_offer(self, offered=True):
        """Until STARTTLS is offered to new clients, or is not any more."""
        def offer():
            client = self.client()
            client.send(b'EHLO x\r\n')
            lines = [client.line()]
            while lines[-1][3:4] == b'-':
                lines.append(client.line())
            client.close()
            return (b'250-STARTTLS' in lines) == offered
        self.await_that(offer, 'STARTTLS' if offered else 'end of STARTTLS')

    def starttls(self, context, name):
        """A client under TLS."""
        client = self.client()
        assert client.say(b'EHLO before')[:3] == b'250' and client.say(b'STARTTLS') == b'220 2.0.0 ready to start TLS'
        return Client(context.wrap_socket(client.sock, server_hostname=name))


def trusting(**more):
    context = ssl.create_default_context(cafile=authority().ca)
    for name, value in more.items():
        setattr(context, name, value)
    return context


@contextlib.contextmanager
def house(files, **more):
    found = TlsHouse(files, **more)
    try:
        yield found.start()
    finally:
        found.remove()


@pytest.fixture(scope='module')
def two():
    """One with certificates for two names; the first is its own."""
    with house({'a.pem': authority().certificate('*.w.test', 'here.test'), 'b.pem': authority().certificate('other.test')}) as h:
        h.await_offer()
        yield h


def test_a_message_by_starttls(two):
    """smtplib: the message arrives, its Received line tells ESMTPS, version and cipher, and the queue the protocol."""
    with smtplib.SMTP('127.0.0.1', two.port, local_hostname='client.test', timeout=20) as client:
        client._host = 'here.test'
        client.starttls(context=trusting())
        client.sendmail('a@else.test', ['user@here.test'], 'Subject: by starttls\r\n\r\n' + 'x' * 70 + '\r\n')
    found = two.await_message('user/Maildir', 'by starttls')
    assert b'(HELO client.test) (127.0.0.1)\n  by here.test with ESMTPS (TLSv1.3 TLS_' in found


@pytest.mark.parametrize('version', [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize('name', ['here.test', 'other.test', 'x.w.test'])
def test_each_name_has_its_certificate(two, name, version):
    """SNI, by both versions of TLS, on both ports; the certificate verifies for the name that was asked for."""
    context = trusting(minimum_version=version, maximum_version=version)
    client = two.starttls(context, name)
    assert client.say(b'EHLO after')[:3] == b'250' and client.say(b'QUIT')[:3] == b'221' and client.line() == b''
    raw = context.wrap_socket(socket.create_connection(('127.0.0.1', two.smtps), 20), server_hostname=name)
    client = Client(raw)
    assert client.reply() == b'220 here.test ESMTP' and client.say(b'QUIT')[:3] == b'221' and client.line() == b''


def test_an_unknown_name_gets_our_own(two):
    """Who asks for no name of ours, or for none, gets the certificate for control/me."""
    for name in ('nobody.test', None):
        context = trusting(check_hostname=False)
        client = two.starttls(context, name)
        assert ('DNS', 'here.test') in client.sock.getpeercert()['subjectAltName']
        client.close()


@pytest.mark.parametrize('old', ['-tls1', '-tls1_1', '-ssl3'])
def test_old_versions_are_refused(two, old):
    """Nothing below TLS 1.2, whatever the client begs for."""
    done = subprocess.run(['openssl', 's_client', '-starttls', 'smtp', '-connect', '127.0.0.1:%d' % two.port, old,
                           '-cipher', 'ALL:@SECLEVEL=0'], input=b'QUIT\r\n', capture_output=True, timeout=30)
    assert b'BEGIN CERTIFICATE' not in done.stdout


@pytest.mark.parametrize('cipher, good', [('kRSA', False), ('PSK', False), ('SRP', False), ('aNULL', False), ('ECDHE+AES256', True),
                                          ('ECDHE+CHACHA20', True)])
def test_ciphers_of_tls_1_2(two, cipher, good):
    """A key that is stolen later opens no session of today: key exchange by RSA is refused, and what needs no certificate."""
    done = subprocess.run(['openssl', 's_client', '-starttls', 'smtp', '-connect', '127.0.0.1:%d' % two.port, '-tls1_2',
                           '-cipher', cipher + ':@SECLEVEL=0'], input=b'QUIT\r\n', capture_output=True, timeout=30)
    assert (b'BEGIN CERTIFICATE' in done.stdout) == good


def test_words_behind_starttls_are_never_obeyed(two):
    """T-01: in one segment with STARTTLS: 503 and the end; the injected message is nowhere."""
    client = two.client()
    client.say(b'EHLO x')
    client.send(b'STARTTLS\r\nRSET\r\nMAIL FROM:<evil@else.test>\r\nRCPT TO:<user@here.test>\r\nDATA\r\nevil\r\n.\r\n')
    assert client.reply() == b'503 5.5.1 nothing may follow STARTTLS before the handshake' and client.line() == b''
    two.await_line('refused session ip 127.0.0.1 helo x: 503 5.5.1 nothing may follow STARTTLS')
    assert not any(b'evil' in message for message in two.messages('user/Maildir'))


def test_words_after_the_reply_break_the_handshake(two):
    """T-01: sent in the clear a moment later, where the handshake belongs: TLS fails, nothing is obeyed."""
    client = two.client()
    client.say(b'EHLO late.test')
    client.say(b'STARTTLS')
    client.send(b'MAIL FROM:<evil@else.test>\r\nRCPT TO:<user@here.test>\r\nDATA\r\nlate evil\r\n.\r\n')
    with contextlib.suppress(OSError, AssertionError):
        while client.line():
            pass
    two.await_line('refused starttls ip 127.0.0.1 helo late.test: ')
    assert not any(b'late evil' in message for message in two.messages('user/Maildir'))


@pytest.mark.parametrize('garbage', [b'', b'\0' * 100, b'\x16\x03\x01\x40\x00' + b'\x01' * 300, b'\x16\x03\x01\x00\x02\x01\x00',
                                     b'\x80\x2e\x01\x03\x01', os.urandom(5000)])
def test_a_handshake_of_garbage(two, garbage):
    """T-03: that session ends, and the next one is served as always."""
    client = two.client()
    client.say(b'EHLO x')
    client.say(b'STARTTLS')
    client.send(garbage)
    client.sock.shutdown(socket.SHUT_WR)
    with contextlib.suppress(OSError):
        while client.sock.recv(65536):
            pass
    after = two.starttls(trusting(), 'here.test')
    assert after.say(b'EHLO x')[:3] == b'250'
    after.close()


def test_a_client_that_never_finishes_holds_up_nobody(two):
    """T-03: a hundred handshakes are begun and left there; another client is served."""
    waiting = []
    for number in range(100):
        client = two.client()
        client.say(b'EHLO x')
        client.say(b'STARTTLS')
        client.send(b'\x16\x03\x01\x02\x00' if number % 2 else b'')
        waiting.append(client)
    after = two.starttls(trusting(), 'here.test')
    assert after.say(b'EHLO x')[:3] == b'250' and after.say(b'QUIT')[:3] == b'221'
    for client in waiting:
        client.close()


def test_a_long_message_both_ways(two):
    """5 MB under TLS, and then another message: nothing is lost between the two sides."""
    body = ''.join('%07d %s\r\n' % (n, 'x' * 60) for n in range(70000))
    with smtplib.SMTP_SSL('127.0.0.1', two.smtps, context=trusting(check_hostname=False), timeout=60) as client:
        client.sendmail('a@else.test', ['user@here.test'], 'Subject: long one\r\n\r\n' + body)
        client.sendmail('a@else.test', ['user@here.test'], 'Subject: after the long\r\n\r\nx\r\n')
    found = two.await_message('user/Maildir', 'long one')
    assert found.endswith(body.replace('\r\n', '\n').encode())
    two.await_message('user/Maildir', 'after the long')


def test_no_certificate_no_offer():
    """T-04: STARTTLS is not offered, the log says why, mail goes on in the clear; one that is put there counts at once."""
    with house({}) as h:
        h.await_line('qpy-tls: warning: no TLS: no key and certificate in ')
        client = h.client()
        client.send(b'EHLO x\r\n')
        lines = [client.line()]
        while lines[-1][3:4] == b'-':
            lines.append(client.line())
        assert lines[0] == b'250-here.test' and not any(b'STARTTLS' in line for line in lines)
        assert client.say(b'STARTTLS') == b'454 4.7.0 TLS is not available now'
        client.close()
        h.smtp('user@here.test', subject='in the clear')
        assert b' with ESMTP; ' in h.await_message('user/Maildir', 'in the clear')
        assert socket.create_connection(('127.0.0.1', h.smtps), 20).recv(100) == b''
        h.put('x.pem', *authority().certificate('here.test'))
        h.await_offer()
        h.starttls(trusting(), 'here.test').close()
        os.unlink(h.home + '/keys/x.pem')
        h.await_offer(False)                # without a handshake that fails


def test_a_certificate_for_somebody_else_is_offered_loudly():
    """No certificate for control/me or the name in control/smtpgreeting: what is there is offered, the first of them, on both
    ports, with a line in the log; one for this host is better, and keys/default.pem whatever its names."""
    a = authority()
    with house({'other.test.pem': a.certificate('other.test'), 'z.pem': a.certificate('z.test')}) as h:
        h.await_line('qpy-tls: warning: %s/keys/other.test.pem: not for here.test, ' % h.home)
        h.await_offer()
        h.starttls(trusting(), 'other.test').close()
        h.starttls(trusting(), 'z.test').close()
        sock = trusting().wrap_socket(socket.create_connection(('127.0.0.1', h.smtps), 20), server_hostname='other.test')
        assert sock.recv(100)[:3] == b'220'
        unchecked = trusting()
        unchecked.check_hostname = False
        assert ('DNS', 'other.test') in h.starttls(unchecked, 'here.test').sock.getpeercert()['subjectAltName']
        h.put('zz-own.pem', *a.certificate('here.test'))
        h.await_that(lambda: taken(h, 'here.test'), 'the own one')
        os.unlink(h.home + '/keys/zz-own.pem')
        h.put('default.pem', *a.certificate('third.test'))
        h.await_that(lambda: taken(h, 'third.test'), 'default.pem')
        assert sum('not for here.test' in line for line in h.lines) == 1


def taken(h, name):
    """Does a client that asks for no name get the certificate for this one?"""
    unchecked = trusting()
    unchecked.check_hostname = False
    h.client().close()                          # so that qpy-tls looks
    return ('DNS', name) in h.starttls(unchecked, None).sock.getpeercert()['subjectAltName']


@pytest.mark.parametrize('make, why', [
    (lambda a: (a.certificate('here.test', days=-1), 0o640), 'expired on '),
    (lambda a: ((a.certificate('here.test')[0], a.certificate('other.test')[1]), 0o640), 'key values mismatch'),
    (lambda a: (a.certificate('here.test'), 0o644), 'others can read or change this key'),
    (lambda a: ((a.certificate('here.test')[0],) * 2, 0o640), 'it must hold a private key and its certificate'),
    (lambda a: (('/dev/null', '/dev/null'), 0o640), 'it must hold a private key and its certificate')])
def test_a_bad_file_is_named_and_not_used(make, why):
    """T-04: expired, another key, readable by others, no key, empty: the file and the reason, and no STARTTLS."""
    pair, mode = make(authority())
    found = TlsHouse({})
    try:
        found.put('bad.pem', *pair, mode)
        found.start()
        assert '/keys/bad.pem: ' in found.await_line(why)
        found.await_line('qpy-tls: warning: no TLS: ')
        assert found.client().say(b'STARTTLS')[:3] == b'454'
    finally:
        found.remove()


def test_a_new_certificate_counts_and_a_broken_one_does_not():
    """T-04: replaced while it runs: the next client gets the new one; after a broken one the old one stays, with a line."""
    old, new = authority().certificate('here.test'), authority().certificate('new.test', 'here.test')
    with house({'x.pem': old}) as h:
        h.await_offer()
        first = h.starttls(trusting(), 'here.test')
        h.put('x.pem', *new)
        h.await_that(lambda: all(('DNS', 'new.test') in names(h) for _ in range(8)), 'new certificate of both workers')
        h.put('x.pem', old[0], new[1])
        h.await_that(lambda: names(h) and [line for line in h.lines if 'what it held before stays' in line], 'complaint')
        assert ('DNS', 'new.test') in names(h)
        assert first.say(b'EHLO still')[:3] == b'250'


def names(h):
    client = h.starttls(trusting(), 'here.test')
    found = client.sock.getpeercert()['subjectAltName']
    client.close()
    return found


def test_tls_by_force():
    """FORCETLS: 530 in the clear, mail under TLS."""
    with house({'x.pem': authority().certificate('here.test')}, smtp='FORCETLS=1') as h:
        h.await_offer()
        assert h.client().say(b'MAIL FROM:<a@else.test>') == b'530 5.7.0 STARTTLS first'
        client = h.starttls(trusting(), 'here.test')
        assert client.say(b'MAIL FROM:<a@else.test>')[:3] == b'250'


def test_a_handshake_is_no_early_talk():
    """control/greetdelay counts where the server speaks first; on the port where TLS comes first it is the client."""
    with house({'x.pem': authority().certificate('here.test')}) as h:
        h.await_offer()
        h.write('control/tcp.smtp', ':allow\n')
        h.write('control/greetdelay', '30\n')
        h.await_that(lambda: spoke_early(h), 'control/greetdelay')
        raw = trusting().wrap_socket(socket.create_connection(('127.0.0.1', h.smtps), 20), server_hostname='here.test')
        client = Client(raw)
        assert client.reply()[:3] == b'220' and client.say(b'EHLO x')[:3] == b'250' and client.say(b'QUIT')[:3] == b'221'


def spoke_early(h):
    """Is who speaks first on the other port disconnected?"""
    client = Client(socket.create_connection(('127.0.0.1', h.port), houses.PATIENCE))
    client.send(b'EHLO x\r\n')
    said = client.reply()[:3]
    client.close()
    return said == b'554'


def test_clients_with_certificates():
    """TLSCLIENTS: a rule for the certificate's name, or for its SHA-256, counts; a stranger's certificate is refused."""
    a = authority()
    known, marked = a.certificate('friend.test'), a.certificate('marked.test', signed=False)
    stranger = a.certificate('stranger.test', signed=False)
    mark = ssl.PEM_cert_to_DER_cert(open(marked[0]).read())
    import hashlib
    with house({'x.pem': a.certificate('here.test')}, smtp='TLSCLIENTS=1') as h:
        h.write('control/tlsclients', open(a.ca).read() + open(marked[0]).read())
        h.write('control/tcp.smtp', 'tls=friend.test:allow,RELAYCLIENT=""\ntls=%s:deny\n:allow\n'
                % hashlib.sha256(mark).hexdigest())
        h.await_offer()

        def greeted(pair):
            context = trusting()
            if pair:
                context.load_cert_chain(*pair)
            client = h.starttls(context, 'here.test')
            assert client.say(b'EHLO x')[:3] == b'250' and client.say(b'MAIL FROM:<>')[:3] == b'250'
            return client.say(b'RCPT TO:<a@elsewhere.test>')[:3]
        h.await_that(lambda: greeted(known) == b'250', 'relaying')
        assert greeted(None) == b'553'
        context = trusting()
        context.load_cert_chain(*marked)
        assert h.starttls(context, 'here.test').reply() == b'554 5.7.1 no mail is accepted from your address'
        with pytest.raises((ssl.SSLError, AssertionError, OSError)):
            greeted(stranger)
        h.await_line('refused starttls ip 127.0.0.1 helo before: ')


def test_a_certificate_passes_by_the_milters():
    """A rule with NOCHECK for a client's certificate counts from the handshake on: its message goes past the milters, which were
    asked about the client before; that of a client without one does not."""
    a, one = authority(), Milter()
    found = TlsHouse({'x.pem': a.certificate('here.test')}, smtp='TLSCLIENTS=1')
    try:
        found.write('control/services', open(found.home + '/control/services').read()
                    + 'milter qpyc seq:milter:0660:qpyc:qpyd,unix:filter:0660:qpyc:qpyd qpy-milter\n')
        found.write('control/milters', one.place + '\n')
        found.write('control/tlsclients', open(a.ca).read())
        found.write('control/tcp.smtp', 'tls=friend.test:allow,NOCHECK=""\n:allow\n')
        found.start()
        found.await_offer()
        for pair, heard in ((a.certificate('friend.test'), b''), ((), b'MRE')):
            context = trusting()
            if pair:
                context.load_cert_chain(*pair)
            client = found.starttls(context, 'here.test')
            for line in (b'EHLO x', b'MAIL FROM:<>', b'RCPT TO:<user@here.test>', b'DATA', b'Subject: x\r\n\r\nx\r\n.'):
                assert client.say(line)[:1] in b'23', line
            assert b''.join(letter for letter, _ in one.heard if letter in b'MRE') == heard
            assert one.wait(b'C')
        helo = [macros for letter, macros in one.macros if letter == b'H'][-1]      # under TLS
        assert helo[b'{tls_version}'] == b'TLSv1.3' and helo[b'{cipher}'].startswith(b'TLS_')
    finally:
        found.remove()
        one.__exit__()


def test_workers_that_die_take_their_sessions_only(two):
    """The workers of qpy-tls are killed: clients under TLS are disconnected, others and new ones go on."""
    clients, other = [two.starttls(trusting(), 'here.test') for _ in range(4)], two.client()
    for worker in houses.descendants(two.daemons()['tls']):
        os.kill(worker, 9)
    two.await_line('worker killed by signal 9', 2)
    assert all(client.line() == b'' for client in clients)
    assert other.say(b'NOOP')[:3] == b'250'
    two.await_offer()
    assert two.starttls(trusting(), 'here.test').say(b'NOOP')[:3] == b'250'


def test_nothing_of_the_callers_environment_reaches_openssl(tmp_path):
    """T-07: OPENSSL_CONF names a module to be loaded, SSLKEYLOGFILE a file to write keys to: neither is looked at."""
    log = tmp_path / 'keys'
    conf = tmp_path / 'conf'
    conf.write_text('openssl_conf = nonsense\n[nonsense\n')
    with house({'x.pem': authority().certificate('here.test')}) as h:
        assert h.stop() == 0
        text = open(h.home + '/control/services').read().replace('qpy-tls 2', 'OPENSSL_CONF=%s SSLKEYLOGFILE=%s qpy-tls 2' % (conf, log))
        h.write('control/services', text)
        os.chmod(tmp_path, 0o777)
        h.start()
        h.await_offer()
        h.starttls(trusting(), 'here.test').close()
        assert not log.exists()
