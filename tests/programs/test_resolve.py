"""qpy-resolve against a scripted DNS server on loopback: what each kind of answer, and of no answer,
means."""
import pytest

from qpy import unix
from qpy.lib.loop import Loop
from qpy.qpyr import dnsquery, resolve
from qpy.qpyr.names import Names

dns_script = pytest.importorskip('tests.peers.dns_script')
import dns.flags  # noqa: E402
import dns.message  # noqa: E402
import dns.rrset  # noqa: E402


@pytest.fixture
def quick(monkeypatch):
    """DNS servers that do not answer are given up after a third of a second."""
    monkeypatch.setattr(dnsquery, 'WAITS', (0.3, 0.3))
    monkeypatch.setattr(dnsquery, 'TCP_WAIT', 0.3)


class Asker:
    """A resolver and one client of it, in one loop."""

    def __init__(self, servers, home=b'/nonexistent'):
        assert resolve.load(home) == b''
        self.loop = Loop()
        self.server = resolve.Server(self.loop, lambda: servers)
        ours, theirs = unix.socketpair()
        self.server.client(theirs, None)
        self.names = Names(self.loop, home)
        self.names.attach(ours)

    def ask(self, letter, *names):
        """[(status, authenticated, reason, [answers])], asked all at once."""
        found = {}
        for i, name in enumerate(names):
            self.names.ask(letter, name, lambda *answer, i=i: found.__setitem__(i, answer))
        until = unix.monotonic() + 20
        while len(found) < len(names) and unix.monotonic() < until:
            self.loop.step(0.5)
        return [found[i][:3] + (found[i][3].split(b'\n') if found[i][3] else [],) for i in range(len(names))]

    def one(self, letter, name):
        """(status, answers) of one question."""
        status, _, _, answers = self.ask(letter, name)[0]
        return status, answers


ZONE = {
    ('plain.example', 'MX'): ['10 mx.plain.example', '20 other.plain.example'],
    ('mx.plain.example', 'A'): ['192.0.2.1'], ('mx.plain.example', 'AAAA'): ['2001:db8::1'],
    ('other.plain.example', 'A'): ['192.0.2.2'],
    ('_25._tcp.mx.plain.example', 'TLSA'): ['3 1 1 ' + '00ff' * 16, '2 0 0 30'],
    ('_25._tcp.alias.example', 'CNAME'): ['_25._tcp.mx.plain.example.'],
    ('_25._tcp.broken.example', 'TLSA'): dns_script.SERVFAIL,
    ('host.example', 'A'): ['192.0.2.3'],
    ('v6.example', 'AAAA'): ['2001:db8::3'],
    ('null.example', 'MX'): ['0 .'],
    ('alsonull.example', 'MX'): ['0 .', '10 mx.plain.example'],
    ('gone.example', 'MX'): ['10 no.such.example', '20 neither.example'],
    ('half.example', 'MX'): ['10 no.such.example', '20 broken.example'],
    ('better.example', 'MX'): ['10 broken.example', '20 mx.plain.example'],
    ('broken.example', 'A'): dns_script.SERVFAIL, ('broken.example', 'AAAA'): dns_script.SERVFAIL,
    ('text.example', 'TXT'): ['x'],
    ('servfail.example', 'MX'): dns_script.SERVFAIL,
    ('refused.example', 'MX'): dns_script.REFUSED,
    ('formerr.example', 'MX'): dns_script.FORMERR,
    ('silent.example', 'MX'): dns_script.SILENT,
    ('brokena.example', 'MX'): dns_script.NODATA, ('brokena.example', 'A'): dns_script.SERVFAIL,
    ('odd.example', 'MX'): dns_script.NXDOMAIN, ('odd.example', 'A'): ['192.0.2.4'],
    ('alias.example', 'CNAME'): ['plain.example.'],
    ('mxalias.example', 'MX'): ['10 alias2.example'], ('alias2.example', 'CNAME'): ['host.example.'],
    ('loop.example', 'CNAME'): ['pool.example.'], ('pool.example', 'CNAME'): ['loop.example.'],
    ('self.example', 'CNAME'): ['self.example.'],
    ('big.example', 'MX'): dns_script.TRUNCATED, ('big.example', 'MX/tcp'): ['5 host.example'],
    ('huge.example', 'A'): ['192.0.2.%d' % i for i in range(1, 255)],
    ('bad.example', 'MX'): [r'10 a\032b.example', r'10 \$\(id\).example', '10 [1.2.3.4]', r'10 x\010y.example',
                            '20 host.example'],
    ('onlybad.example', 'MX'): [r'10 a\032b.example'], ('numeric.example', 'MX'): ['10 192.0.2.77', '20 host.example'],
    **{('c%d.example' % i, 'CNAME'): ['c%d.example.' % (i + 1)] for i in range(20)},
    ('c20.example', 'A'): ['192.0.2.9'],
}

MEANINGS = [
    (b'plain.example', b'ok', [b'10 mx.plain.example 192.0.2.1', b'10 mx.plain.example 2001:db8::1',
                               b'20 other.plain.example 192.0.2.2'], 'MX'),
    (b'PLAIN.Example.', b'ok', 3, 'names ignore case and a dot at their end'),
    (b'host.example', b'ok', [b'0 host.example 192.0.2.3'], 'R-04: no MX, the host itself'),
    (b'v6.example', b'ok', [b'0 v6.example 2001:db8::3'], 'R-04: IPv6 only'),
    (b'odd.example', b'ok', [b'0 odd.example 192.0.2.4'], 'NXDOMAIN for MX alone proves nothing'),
    (b'nowhere.example', b'nxdomain', [], 'R-02'),
    (b'text.example', b'nodata', [], 'the name exists, without mail or address'),
    (b'null.example', b'nullmx', [], 'R-05'),
    (b'alsonull.example', b'ok', 2, 'R-05: a null MX among others is none'),
    (b'gone.example', b'nodata', [], 'R-03: all exchangers gone'),
    (b'numeric.example', b'ok', [b'10 192.0.2.77 192.0.2.77', b'20 host.example 192.0.2.3'], 'an address in the place of a name'),
    (b'half.example', b'temp', [], 'R-03: one of them only unknown'),
    (b'better.example', b'ok', 2, 'an exchanger that cannot be looked up now is passed over'),
    (b'servfail.example', b'temp', [], 'R-01'), (b'refused.example', b'temp', [], 'R-01'),
    (b'formerr.example', b'temp', [], 'R-01'), (b'silent.example', b'temp', [], 'R-01'),
    (b'brokena.example', b'temp', [], 'R-01: no MX, and the address unknown'),
    (b'alias.example', b'ok', 3, 'R-06: a CNAME'),
    (b'mxalias.example', b'ok', [b'10 alias2.example 192.0.2.3'], 'R-06: an exchanger that is a CNAME'),
    (b'loop.example', b'temp', [], 'R-06: a loop'), (b'self.example', b'temp', [], 'R-06: the shortest loop'),
    (b'c0.example', b'temp', [], 'R-06: a chain too long'), (b'c13.example', b'ok', 1, 'R-06: a chain within reason'),
    (b'big.example', b'ok', [b'5 host.example 192.0.2.3'], 'a truncated answer is asked for again by TCP'),
    (b'huge.example', b'ok', resolve.ADDRESSES, 'R-10: answers are bounded'),
    (b'bad.example', b'ok', [b'20 host.example 192.0.2.3'], 'R-08: names that are no host names'),
    (b'onlybad.example', b'nodata', [], 'R-08: nothing else there'),
    (b'a b.example', b'nxdomain', [], 'R-08'), (b'a..example', b'nxdomain', [], 'R-08'), (b'', b'nxdomain', [], 'R-08'),
    (b'x' * 64 + b'.example', b'nxdomain', [], 'R-08'), (b'a.' * 130, b'nxdomain', [], 'R-08'),
    (b'$(id).example', b'nxdomain', [], 'R-08'), (b'\xff.example', b'nxdomain', [], 'R-08'),
]


def test_what_answers_mean(quick):
    """R-01 to R-08, R-10: the table above, all asked at once."""
    with dns_script.Server(ZONE) as server:
        found = Asker([server.address]).ask(b'M', *[name for name, _, _, _ in MEANINGS])
    wrong = [(name, why, answer) for (name, status, answers, why), answer in zip(MEANINGS, found)
             if answer[0] != status or (len(answer[3]) if isinstance(answers, int) else answer[3]) != answers]
    assert wrong == []


def test_addresses_only(quick):
    """A question for addresses never looks at MX."""
    with dns_script.Server(ZONE) as server:
        asker = Asker([server.address])
        assert asker.one(b'A', b'host.example') == (b'ok', [b'0 host.example 192.0.2.3'])
        assert asker.one(b'A', b'plain.example') == (b'nodata', [])
        assert asker.one(b'A', b'nowhere.example') == (b'nxdomain', [])
        assert not any(kind == 'MX' for _, kind, _ in server.asked)


def test_international_names(quick):
    """A domain in UTF-8 is asked for in its xn-- form."""
    with dns_script.Server({('xn--bcher-kva.example', 'A'): ['192.0.2.1']}) as server:
        assert Asker([server.address]).one(b'M', 'bücher.example'.encode())[0] == b'ok'


def test_memory(quick):
    """A second question is answered from memory; equal questions at one time become one; failures are not
    kept."""
    with dns_script.Server(dict(ZONE)) as server:
        asker = Asker([server.address])
        asker.ask(b'M', *[b'host.example'] * 50)
        assert len(server.asked) == 3
        asker.ask(b'M', b'host.example')
        assert len(server.asked) == 3
        assert asker.one(b'M', b'servfail.example')[0] == b'temp'
        server.zone['servfail.example', 'MX'] = ['1 host.example']
        assert asker.one(b'M', b'servfail.example')[0] == b'ok'


@pytest.mark.parametrize('ttl, kept', [(0, 0), (300, 300), (2 ** 31 - 1, resolve.KEPT)])
def test_ttl(quick, ttl, kept):
    """R-10: TTL 0 is not kept, an absurd one is kept for a day at most."""
    with dns_script.Server(ZONE, ttl=ttl) as server:
        asker = Asker([server.address])
        asker.ask(b'A', b'host.example')
        left = [until - unix.monotonic() for result, until in asker.server.resolver.cache.values()
                if result.status == b'ok']
        assert [round(seconds) for seconds in left] == ([kept] if kept else [])


def test_memory_is_bounded(quick, monkeypatch):
    """INV7: however many names are asked for, a bounded number of results is kept."""
    monkeypatch.setattr(resolve, 'CACHED', 50)
    with dns_script.Server({}) as server:
        asker = Asker([server.address])
        asker.ask(b'A', *[b'h%d.example' % i for i in range(300)])
        assert len(asker.server.resolver.cache) <= 50


def test_the_next_server_is_asked(quick):
    """A server that is silent, refuses, or is not there is passed over."""
    with dns_script.Server(ZONE) as good, dns_script.Server({('host.example', k): dns_script.REFUSED
                                                             for k in ('MX', 'A', 'AAAA')}) as refusing:
        with dns_script.Server({}) as closed:
            pass
        for first in (refusing.address, closed.address):
            assert Asker([first, good.address]).one(b'M', b'host.example')[0] == b'ok'


def test_nobody_answers(quick):
    """R-25: with no server at all everything is temporary, with a reason."""
    with dns_script.Server({}) as closed:
        pass
    for servers in ([closed.address], []):
        status, _, reason, _ = Asker(servers).ask(b'M', b'host.example')[0]
        assert status == b'temp' and reason


def spoofed(server, query, tcp):
    """Wrong IDs, wrong questions, queries, noise; then the truth."""
    def packet(change):
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text(query.question[0].name, 60, 'IN', 'A', '203.0.113.66'))
        change(response)
        return response.to_wire()

    def other_question(response):
        response.question = [dns.rrset.from_text('evil.example.', 0, 'IN', 'A')]
        response.answer = []
    lies = [packet(lambda r: setattr(r, 'id', r.id ^ 1)), packet(lambda r: setattr(r, 'flags', 0)),
            packet(other_question), b'', b'\0' * 12, query.to_wire(), packet(lambda r: None)[:-3],
            query.id.to_bytes(2, 'big') + b'\x80\0\0\1\0\1\0\0\0\0\xc0\x0c\xc0\x0c']
    truth = dns.message.make_response(query)
    truth.answer.append(dns.rrset.from_text(query.question[0].name, 60, 'IN', 'A', '192.0.2.1'))
    return [*lies, truth.to_wire()]


def test_spoofed_answers_are_ignored(quick):
    """R-09: answers with another ID, to another question, or that cannot be read are no answers."""
    with dns_script.Server({('x.example', 'A'): spoofed, ('x.example', 'AAAA'): dns_script.NODATA}) as server:
        assert Asker([server.address]).one(b'A', b'x.example') == (b'ok', [b'0 x.example 192.0.2.1'])


def test_a_flood_of_noise_is_bounded(quick):
    """R-09: a server that sends nothing but noise is given up."""
    zone = {('x.example', kind): lambda server, query, tcp: [b'noise'] * 200 for kind in ('A', 'AAAA')}
    with dns_script.Server(zone) as server:
        assert Asker([server.address]).one(b'A', b'x.example')[0] == b'temp'


@pytest.mark.parametrize('reply', [None, b'', b'\0' * 12, b'\xff' * 400])
def test_tcp_that_does_not_work(quick, reply):
    """R-01: truncated by UDP and nothing usable by TCP is temporary."""
    zone = {('x.example', 'A'): lambda server, query, tcp: reply if tcp else truncated(query),
            ('x.example', 'AAAA'): dns_script.NODATA}
    with dns_script.Server(zone) as server:
        assert Asker([server.address]).one(b'A', b'x.example')[0] == b'temp'


def test_tcp_refused(quick):
    """R-01: truncated by UDP and TCP refused is temporary."""
    zone = {('x.example', 'A'): dns_script.TRUNCATED, ('x.example', 'AAAA'): dns_script.NODATA}
    with dns_script.Server(zone, tcp=False) as server:
        assert Asker([server.address]).one(b'A', b'x.example')[0] == b'temp'


def truncated(query):
    response = dns.message.make_response(query)
    response.flags |= dns.flags.TC
    return response.to_wire()


def test_a_server_without_edns(quick):
    """A server that answers FORMERR to EDNS is asked without it."""
    def old(server, query, tcp):
        if query.edns >= 0:
            return server.plain(query, '', '', dns_script.FORMERR)
        return server.plain(query, 'x.example', 'A', ['192.0.2.1'])
    with dns_script.Server({('x.example', 'A'): old, ('x.example', 'AAAA'): dns_script.NODATA}) as server:
        assert Asker([server.address]).one(b'A', b'x.example')[0] == b'ok'


def test_the_authenticated_bit(quick, monkeypatch):
    """AD is believed from a resolver on this host only, and only if every answer had it."""
    with dns_script.Server(ZONE, authentic=True) as server, dns_script.Server(ZONE) as plain:
        _, authenticated, _, lines = Asker([server.address]).ask(b'M', b'plain.example')[0]
        assert authenticated is True and lines[0] == b'10 mx.plain.example 192.0.2.1 mx.plain.example'
        assert Asker([server.address]).one(b'M', b'mxalias.example')[1] == [b'10 alias2.example 192.0.2.3 host.example']
        assert Asker([plain.address]).ask(b'M', b'plain.example')[0][1] is False
        monkeypatch.setattr(resolve.ip, 'is_this_host', lambda packed: False)
        assert Asker([server.address]).ask(b'M', b'plain.example')[0][1] is False


def test_some_addresses_are_authenticated(quick):
    """RFC 7672, 2.2.2: who the exchangers are is one thing, the address of each another: those of the one zone that is
    not signed take nothing from those of the others."""
    zone = {('x.example', 'MX'): ['10 mx.signed.example', '20 mx.unsigned.example'],
            ('mx.signed.example', 'A'): ['192.0.2.1'], ('mx.unsigned.example', 'A'): ['192.0.2.2']}
    with dns_script.Server(zone, authentic=lambda name: 'unsigned' not in name) as server:
        _, authenticated, _, lines = Asker([server.address]).ask(b'M', b'x.example')[0]
    assert authenticated and lines == [b'10 mx.signed.example 192.0.2.1 mx.signed.example',
                                       b'20 mx.unsigned.example 192.0.2.2']


def test_without_dnspython(monkeypatch):
    """Without dnspython every question is answered temp, with that reason: nothing dies, nothing bounces."""
    asker = Asker([])
    asker.server.trouble = b'dnspython cannot be loaded'
    assert asker.ask(b'M', b'a.example')[0][:3] == (b'temp', False, b'dnspython cannot be loaded')


def test_too_many_questions(quick, monkeypatch):
    """INV7: one client may ask a bounded number of questions at a time; the rest is temporary."""
    monkeypatch.setattr(resolve, 'PER_CLIENT', 10)
    with dns_script.Server(ZONE) as server:
        found = Asker([server.address]).ask(b'M', *[b'host.example'] * 30)
    assert [status for status, *_ in found].count(b'temp') == 20


def test_which_servers(tmp_path, monkeypatch):
    """control/resolvers comes before resolv.conf; both are read again when they change, broken ones are not
    used."""
    conf = tmp_path / 'resolv.conf'
    conf.write_bytes(b'search example\nnameserver 192.0.2.53\nnameserver\t2001:db8::53\nnameserver junk\n')
    (tmp_path / 'control').mkdir()
    home = bytes(tmp_path)
    monkeypatch.setattr(resolve, 'LOOK', 0)
    servers = resolve.Servers(home, bytes(conf))
    assert servers.get() == [(b'192.0.2.53', 53), (b'2001:db8::53', 53)]
    own = tmp_path / 'control' / 'resolvers'
    own.write_bytes(b'127.0.0.1:5353\n[::1]:54\n::1\n# x\n')
    assert servers.get() == [(b'127.0.0.1', 5353), (b'::1', 54), (b'::1', 53)]
    own.write_bytes(b'localhost\n')
    assert servers.get() == [(b'127.0.0.1', 5353), (b'::1', 54), (b'::1', 53)]
    with pytest.raises(resolve.controls.Broken):
        resolve.read_servers(home, bytes(conf))
    own.unlink()
    conf.write_bytes(b'nameserver 192.0.2.54\n')
    assert servers.get() == [(b'192.0.2.54', 53)]
    conf.unlink()
    assert servers.get() == [(b'127.0.0.1', 53)]


def test_a_dead_daemon(tmp_path):
    """A client whose qpy-resolve is not there, or goes away, gets temp, and asks anew the next time."""
    loop, found = Loop(), []
    names = Names(loop, bytes(tmp_path))
    names.ask(b'M', b'x.example', lambda *answer: found.append(answer[0]))
    loop.step(0.1)
    assert found == [b'temp']
    ours, theirs = unix.socketpair()
    names.attach(ours)
    names.ask(b'M', b'x.example', lambda *answer: found.append(answer[0]))
    theirs.close()
    loop.step(0.1)
    loop.step(0.1)
    assert found == [b'temp', b'temp'] and names.channel is None


def test_tlsa():
    """T: TLSA records as usage, selector, type and hexadecimal data, through an alias, too; a failure is no absence."""
    with dns_script.Server(ZONE, authentic=True) as server:
        asker = Asker([(b'127.0.0.1', server.port)])
        whole = b'3 1 1 ' + b'00ff' * 16
        for name in (b'_25._tcp.mx.plain.example', b'_25._tcp.alias.example'):
            status, authenticated, _, answers = asker.ask(b'T', name)[0]
            assert (status, authenticated, sorted(answers)) == (b'ok', True, [b'2 0 0 30', whole])
        assert asker.one(b'T', b'_25._tcp.other.plain.example')[0] in (b'nxdomain', b'nodata')
        assert asker.one(b'T', b'_25._tcp.broken.example') == (b'temp', [])
