"""qpy-mtasts and what qpy-remote makes of its answers: MTA-STS, RFC 8461."""
import os
import socket
import threading

import pytest
from hypothesis import given, strategies as st

from qpy import unix, unix_tls
from qpy.core import mta_sts
from qpy.lib.loop import Loop
from qpy.qpyr import mtasts, names
from tests.peers.certificates import authority
from tests.peers.qpyr import Daemon
from tests.peers.smtp_script import Server, good
from tests.programs.test_remote_tls import EXTENSIONS, Ear, by_dns, secure

POLICY = b'version: STSv1\r\nmode: enforce\r\nmx: mail.x.example\r\nmx: *.good.example\r\nmax_age: 86400\r\n'
HEAD = b'HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n'


class Web:
    """An HTTPS server that answers each connection with `answer`, if that is not None."""

    def __init__(self, *names, answer=None, at=('127.0.0.1', 0), **options):
        self.context = authority().context(*names, **options)
        self.answer, self.requests = HEAD + b'\r\n' + POLICY if answer is None else answer, []
        self.sock = socket.create_server(at)
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection = self.sock.accept()[0]
                connection = self.context.wrap_socket(connection, server_side=True)
                self.requests.append(connection.recv(65536))
                connection.sendall(self.answer)
                connection.unwrap() if b'cut' not in self.answer else None
                connection.close()
            except OSError:
                if self.sock.fileno() < 0:
                    return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class Asker:
    """Policies in a loop; records: of TXT, asked: what DNS was asked for; addresses: of the web server."""

    addresses = [b'127.0.0.1']

    def __init__(self, port, records=(b'v=STSv1; id=1;',), status=b'ok', directory=-1):
        self.loop, self.records, self.status, self.asked = Loop(), list(records), status, []
        self.policies = mtasts.Policies(self.loop, self, unix_tls.client(True, authority().ca.encode()), port,
                                        directory)

    def ask(self, letter, name, callback):
        self.asked.append((letter, name))
        lines = b'\n'.join([record.hex().encode() for record in self.records] if letter == b'X' else
                           [b'0 h ' + address for address in self.addresses])
        self.loop.call_soon(lambda: callback(self.status if letter == b'X' else b'ok', False, b'because', lines))

    def one(self, domain=b'x.example'):
        """(mode, patterns, reason)"""
        found, until = [], unix.monotonic() + 20
        self.policies.ask(domain, lambda *answer: found.append(answer))
        while not found and unix.monotonic() < until:
            self.loop.step(0.2)
        return found[0]


def test_a_policy():
    """It is fetched by TLS from the domain's web server, and kept; asked for twice at once it is fetched once."""
    with Web('mta-sts.x.example') as web:
        asker = Asker(web.port)
        asker.policies.ask(b'x.example', lambda *answer: None)
        for _ in range(2):
            assert asker.one() == (b'enforce', [b'mail.x.example', b'*.good.example'], b'')
    assert asker.asked == [(b'X', b'_mta-sts.x.example'), (b'A', b'mta-sts.x.example')]
    assert web.requests[0].startswith(b'GET /.well-known/mta-sts.txt HTTP/1.0\r\nHost: mta-sts.x.example\r\n')


def test_a_policy_that_changes(monkeypatch):
    """The same id: nothing is fetched.  A new one: it is.  The web server is gone: the old one stays while it is good."""
    monkeypatch.setattr(mtasts, 'CHECKED', 0)
    monkeypatch.setattr(mtasts, 'AGAIN', 0)
    with Web('mta-sts.x.example') as web:
        asker = Asker(web.port)
        assert asker.one()[0] == asker.one()[0] == b'enforce' and len(web.requests) == 1
        web.answer, asker.records = web.answer.replace(b'enforce', b'testing'), [b'v=STSv1; id=2;']
        assert asker.one()[0] == b'testing' and len(web.requests) == 2
    asker.records = [b'v=STSv1; id=3;']
    assert asker.one()[0] == b'testing'
    asker.records, asker.status = [], b'nxdomain'
    assert asker.one()[0] == b'testing'
    asker.policies.known[b'x.example'].until = 0
    assert asker.one()[0] == b'none'


def test_policies_over_a_restart(tmp_path, monkeypatch):
    """What was known is known again, with the age it has; who blocks DNS meanwhile undoes nothing; what is over is gone."""
    directory = os.open(tmp_path, os.O_RDONLY)
    with Web('mta-sts.x.example') as web:
        asker = Asker(web.port, directory=directory)
        assert asker.one()[0] == b'enforce'
        asker.policies.save()
        again = Asker(web.port, status=b'temp', directory=directory)
        assert again.one() == (b'enforce', [b'mail.x.example', b'*.good.example'], b'') and len(web.requests) == 1
        left = again.policies.known[b'x.example'].until - unix.monotonic()
        assert 86390 < left <= 86400
        now = unix.time()
        monkeypatch.setattr(unix, 'time', lambda: now + 86401)
        assert Asker(web.port, status=b'temp', directory=directory).one()[0] == b'none'
        monkeypatch.setattr(unix, 'time', lambda: now - 10 ** 7)
        assert Asker(web.port, directory=directory).policies.known[b'x.example'].until <= unix.monotonic() + 86400
    (tmp_path / 'policies').write_bytes(b'x.example\t1\t99999999999\tenforce\t5')
    assert Asker(1, (), b'nxdomain', directory=directory).one()[0] == b'none'
    os.close(directory)


@given(st.lists(st.tuples(st.sampled_from([b'a.x', b'b.y']), st.sampled_from([b'1', b'abc']), st.integers(0, 1 << 39),
                          st.sampled_from(mta_sts.MODES), st.integers(0, mta_sts.AGE_MOST),
                          st.lists(st.sampled_from([b'mx.x', b'*.y']), max_size=4))), st.binary(max_size=50))
def test_what_is_kept_comes_back(entries, junk):
    """Each line is read as it was written, whatever else is in the file."""
    made = [(domain, identity, until, mta_sts.Policy(mode, patterns, age))
            for domain, identity, until, mode, age, patterns in entries]
    data = mta_sts.build_cache(made)
    found = [(domain, identity, until, policy.mode, policy.age, policy.patterns)
             for domain, identity, until, policy in mta_sts.parse_cache(data)]
    assert found == [(*entry[:3], entry[3], entry[4], entry[5]) for entry in entries]
    mta_sts.parse_cache(junk + data + junk)


@pytest.mark.parametrize('certificate, answer', [
    (('other.example',), None), (('mta-sts.x.example',), b'HTTP/1.1 301 Moved\r\nLocation: x\r\n\r\n'),
    (('mta-sts.x.example',), HEAD.replace(b'plain', b'html') + b'\r\n' + POLICY),
    (('mta-sts.x.example',), HEAD + b'Content-Length: 500\r\n\r\n' + POLICY),
    (('mta-sts.x.example',), HEAD + b'X: cut\r\n\r\n' + POLICY),
    (('mta-sts.x.example',), HEAD + b'\r\n' + POLICY.replace(b'STSv1', b'STSv2')),
    (('mta-sts.x.example',), HEAD + b'\r\n' + POLICY + b'x' * 70000), (('mta-sts.x.example',), b'SSH-2.0\r\n')])
def test_policies_that_cannot_be_had(certificate, answer):
    """Wrong certificate, redirection, another type, cut short, another version, too long, no HTTP: none."""
    with Web(*certificate, answer=answer) as web:
        mode, _, reason = Asker(web.port).one()
    assert mode == b'none' and reason.startswith(mta_sts.UNAVAILABLE)


def test_a_web_server_whose_first_address_is_a_hole(monkeypatch):
    """An address that swallows everything takes a part of the time only: the next one has the policy."""
    monkeypatch.setattr(mtasts, 'CONNECT', 0.2)
    with Web('mta-sts.x.example') as web:
        hole = socket.create_server(('127.0.0.2', web.port), backlog=0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:                            # its queue is full: who comes now is not answered
            each.setblocking(False)
            each.connect_ex(('127.0.0.2', web.port))
        asker = Asker(web.port)
        monkeypatch.setattr(asker, 'addresses', [b'127.0.0.2', b'127.0.0.1'])
        assert asker.one()[0] == b'enforce' and len(web.requests) == 1
        for each in (hole, *waiting):
            each.close()


@pytest.mark.parametrize('records, status', [
    ((), b'nxdomain'), ((), b'temp'), ((b'v=spf1 -all',), b'ok'), ((b'v=STSv1; id=1', b'v=STSv1; id=2'), b'ok'),
    ((b'v=STSv1;',), b'ok'), ((b'v=STSv1; id=a b',), b'ok')])
def test_no_record(records, status):
    """Without one good TXT record no web server is asked."""
    asker = Asker(1, records, status)
    assert asker.one()[0] == b'none' and len(asker.asked) == 1
    assert asker.one('b\xfccher.example'.encode())[0] == b'none' and len(asker.asked) == 1


def test_a_program(tmp_path):
    """qpy-mtasts, as qpy-start starts it, confined: without qpy-resolve there is no policy; it ends with the chain."""
    for name in ('control', 'run', 'tls', 'queue', 'queue/mess'):
        (tmp_path / name).mkdir()
    daemon = Daemon(tmp_path, 'mtasts')
    loop, found = Loop(), []
    asker = names.Policies(loop, bytes(tmp_path))
    assert asker.there()
    asker.attach(daemon.connect())
    asker.ask(b'S', b'x.example', lambda *answer: found.append(answer))
    while not found:
        loop.step(1)
    assert found[0][0] == b'none' and b'qpy-resolve cannot be asked' in found[0][2]
    code, log = daemon.end()
    assert code == 0 and b'tls' not in log


# --- qpy-remote ---------------------------------------------------------------------------------------------

class Sts:
    """In place of qpy-mtasts."""

    def __init__(self, sender, mode, patterns=(), reason=b'because'):
        self.loop, self.answer, self.asked = sender.loop, (mode, list(patterns), reason), []
        sender.remote.policies = self

    def there(self):
        return True

    def ask(self, letter, domain, callback):
        self.asked.append(domain)
        self.loop.call_soon(lambda: callback(*self.answer))


def deliver(server, mode, patterns, **options):
    sender = by_dns(server, options.pop('tls', None))
    policies = Sts(sender, mode, patterns)
    return sender.send(**options)[0][0], policies


def test_enforced_policies():
    """A server that the policy names, with a certificate for its name; nothing else takes the mail."""
    with Server(secure('mx.good.example')) as server:
        assert deliver(server, b'enforce', [b'*.good.example'])[0][0] == b'K'
        outcome, policies = deliver(server, b'enforce', [b'mail.x.example'])
        assert outcome[0] == b'Z' and b'the policy of x.example does not name mx.good.example' in outcome[1]
        assert policies.asked == [b'x.example']
        assert deliver(server, b'testing', [b'mail.x.example'])[0][0] == b'K'
        assert deliver(server, b'temp', [])[0][0] == b'Z'
        assert deliver(server, b'enforce', [b'y.example'], message=b'TLS-Required: no\n\nx\n')[0][0] == b'K'
        assert deliver(server, b'enforce', [b'y.example'], tls=b'may')[0][0] == b'K'
        assert deliver(server, b'enforce', [b'y.example'], tls=b'encrypt')[0][0] == b'Z'
        assert deliver(server, b'enforce', [b'y.example'], tls=b'encrypt', message=b'TLS-Required: no\n\nx\n')[0][0] == b'K'
        assert deliver(server, b'none', [], tls=b'encrypt')[0][0] == b'K'
    for script in (secure('other.example'), good(EXTENSIONS[:2])):
        with Server(script) as server:
            outcome, _ = deliver(server, b'enforce', [b'*.good.example'])
            assert outcome[0] == b'Z' and not server.mail and b'its MTA-STS policy asks for it' in outcome[1]


@pytest.mark.parametrize('script, patterns, result', [
    (lambda: secure('mx.good.example'), [b'*.good.example'], b''),
    (lambda: secure('mx.good.example'), [b'y.example'], b'validation-failure'),
    (lambda: secure('other.example'), [b'*.good.example'], b'certificate-host-mismatch'),
    (lambda: good(EXTENSIONS[:2]), [b'*.good.example'], b'starttls-not-supported')])
def test_policies_for_tests(script, patterns, result):
    """Mode testing: what the policy would forbid is kept for a report, once an hour, and the mail goes all the same."""
    with Server(script()) as server:
        sender = by_dns(server, None)
        Sts(sender, b'testing', patterns)
        sender.remote.notes = Ear()
        for _ in range(3):
            assert sender.send()[0][0][0] == b'K'
            sender.remote.pool.close()
    said = sender.remote.notes.said
    assert {fields[1] for fields in said} == {b'sts'} and {b'mode: testing' in fields[2] for fields in said} == {True}
    results = [fields[4] for fields in said]
    assert results.count(result) >= 1 and len(server.mail) == 3
    if result.startswith(b'certificate'):
        assert results.count(result) == 1 and results.count(b'') == 3


def test_a_policy_that_cannot_be_had_is_reported():
    """RFC 8460, 4.3.2.2; the mail goes as without one.  That there is no record is no failure."""
    for reason, results in ((mta_sts.UNAVAILABLE + b'it answered 404', [b'sts-policy-fetch-error', b'']), (b'no record in DNS', [b''])):
        with Server(secure('x')) as server:
            sender = by_dns(server, None)
            Sts(sender, b'none', (), reason)
            sender.remote.notes = Ear()
            assert sender.send()[0][0][0] == b'K'
        said = sender.remote.notes.said
        assert [fields[4] for fields in said] == results and said[-1][1] == b'no-policy-found'
        assert len(said) == 1 or said[0][:4] == (b'x.example', b'sts', b'', b'')


def test_requiretls_by_mta_sts():
    """RFC 8689, 4.2.1: a policy proves the name of a server as well as signed DNS does."""
    with Server(secure('mx.good.example', extensions=(*EXTENSIONS, b'REQUIRETLS'))) as server:
        assert deliver(server, b'enforce', [b'*.good.example'], flags=b'q')[0][0] == b'K'
        assert deliver(server, b'testing', [b'*.good.example'], flags=b'q')[0][0] == b'Z'


# --- the pure part ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('pattern, host, allowed', [
    (b'mx.x.example', b'MX.x.example', True), (b'*.x.example', b'mx.x.example', True), (b'*.x.example', b'x.example', False),
    (b'*.x.example', b'a.b.x.example', False), (b'x.example', b'mx.x.example', False)])
def test_patterns(pattern, host, allowed):
    """RFC 8461, 4.1: * stands for one label."""
    assert mta_sts.allows([pattern], host) is allowed


@given(st.binary(max_size=300))
def test_any_bytes(data):
    """Whatever a web server says is a policy or a ValueError."""
    for parse in (mta_sts.parse_policy, mta_sts.parse_response):
        try:
            parse(data)
        except ValueError:
            pass
    mta_sts.parse_record([data])
