"""qpy-remote and TLS: against scripted servers on loopback that speak it, badly or well."""
import ssl

import pytest

from qpy.core import remote_report, tls_policy
from qpy.qpyr import connection
from tests.peers.certificates import authority
from tests.peers.smtp_script import Server, good
from tests.programs.test_remote import MESSAGE, Sender

EXTENSIONS = (b'PIPELINING', b'8BITMIME', b'STARTTLS')


def to(server, tls=None, kind=b'', cas=None, **options):
    """A Sender whose every mail goes to this server; tls: what control/tlsdestinations says of 127.0.0.1."""
    sender = Sender({b'': b'%s127.0.0.1:%d' % (kind, server.port)}, **options)
    sender.settings.tls = {b'127.0.0.1': tls} if tls else {}
    sender.settings.cas = (cas or authority().ca).encode()
    return sender


def begin(context, before=b'220 go'):
    """The reply to STARTTLS of a server with this context."""
    def reply(talk, _):
        talk.raw(before + b'\r\n')
        talk.sock = context.wrap_socket(talk.sock, server_side=True)
    return reply


def secure(*names, extensions=EXTENSIONS, replies=None, **options):
    """A server that speaks TLS after STARTTLS."""
    context = authority().context(*(names or ('127.0.0.1',)), **options)
    return good(extensions, {b'STAR': begin(context), **(replies or {})})


def test_tls_where_it_is_offered():
    """STARTTLS is used without being asked for, whoever signed; EHLO is said again; the report names protocol and
    cipher; the connection is used again."""
    with Server(secure('x', signed=False)) as server:
        sender = to(server)
        outcomes = [sender.send()[0][0] for _ in range(3)]
    assert [word for word in outcomes[0][1].split(b'\n')] == [
        b'127.0.0.1 accepted message.', b'Remote host said: 250 2.0.0 taken', b'TLSv1.3 TLS_AES_256_GCM_SHA384.', b'']
    assert [letter for letter, _ in outcomes] == [b'K'] * 3 and len(server.mail) == 3 and server.connections == 1
    assert server.log[:3] == [b'EHLO me.example', b'STARTTLS', b'EHLO me.example']
    assert server.mail[0][2] == MESSAGE.replace(b'\n', b'\r\n')


@pytest.mark.filterwarnings('ignore:ssl.TLSVersion')
@pytest.mark.parametrize('version, words', [('TLSv1_2', b'TLSv1.2 ECDHE-'), ('TLSv1_1', b'taken\n')])
def test_old_versions(version, words):
    """TLS 1.2 is spoken; with who knows only 1.1 mail goes in the clear where it may."""
    context = authority().context('x')
    context.set_ciphers('DEFAULT:@SECLEVEL=0')
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    with Server(good(EXTENSIONS, {b'STAR': begin(context)})) as server:
        outcome = to(server).send()[0][0]
    assert outcome[0] == b'K' and words in outcome[1] and (b'TLS' in outcome[1]) == (version == 'TLSv1_2')


def test_a_large_message_by_tls():
    """What does not fit into one record or one buffer arrives as it was."""
    message = b'Subject: x\n\n' + b''.join(b'%09d.\n' % i for i in range(300000))
    with Server(secure('x')) as server:
        assert to(server, patience=10).send(message=message)[0][0][0] == b'K'
    assert server.mail[0][2] == message.replace(b'\n', b'\r\n')


def test_tls_from_the_first_byte():
    """smtps= in control/smtproutes: no STARTTLS, no byte in the clear."""
    context = authority().context('x')

    def script(talk):
        talk.sock = context.wrap_socket(talk.sock, server_side=True)
        good()(talk)
    with Server(script) as server:
        outcomes, _ = to(server, kind=b'smtps=').send()
    assert outcomes[0][0] == b'K' and b'TLSv1.3' in outcomes[0][1] and b'STARTTLS' not in server.log
    with Server(good()) as server:
        outcomes, trouble = to(server, kind=b'smtps=').send()
    assert outcomes[0][0] == b'Z' and trouble and b'the mail waits, because control/smtproutes says smtps' in outcomes[0][1]
    assert not server.mail


def garbage(talk, _):
    talk.raw(b'220 go\r\nnone of TLS at all, and long enough for a record\r\n')


def no_handshake(talk, _):
    talk.raw(b'220 go\r\n')
    talk.sock.recv(10)
    talk.raw(b'none of TLS at all, and long enough for a record\r\n')
    return None


def gone(talk, _):
    talk.raw(b'220 go\r\n')
    talk.reset()
    return None


def refused(talk, _):
    talk.raw(b'454 4.7.0 no TLS today\r\n')
    return None


BROKEN = [garbage, no_handshake, gone, refused]


@pytest.mark.parametrize('broken', BROKEN)
def test_in_the_clear_where_tls_fails(broken):
    """T-05: without a policy the same server is spoken to once more, in the clear; for an hour it is not tried again."""
    with Server(good(EXTENSIONS, {b'STAR': broken})) as server:
        sender = to(server)
        assert [sender.send()[0][0][0] for _ in range(2)] == [b'K', b'K']
    assert len(server.mail) == 2 and server.log.count(b'STARTTLS') == 1
    assert server.connections == (1 if broken is refused else 2)


@pytest.mark.parametrize('broken', BROKEN + [None])
@pytest.mark.parametrize('level', [b'encrypt', b'verify'])
def test_never_in_the_clear_where_that_is_forbidden(broken, level):
    """T-05, T-06: a destination that must have TLS gets nothing without; the mail waits and the reason is said."""
    with Server(good(EXTENSIONS if broken else EXTENSIONS[:2], {b'STAR': broken})) as server:
        outcomes, trouble = to(server, level).send()
    assert outcomes[0][0] == b'Z' and trouble and not server.mail and b'MAIL FROM:<s@y.example>' not in server.log
    if broken in (None, no_handshake, refused):
        assert b'Connected to 127.0.0.1 but without TLS: ' in outcomes[0][1]
        assert b'; the mail waits, because control/tlsdestinations asks for it. (#4.7.' in outcomes[0][1]


def test_words_before_tls():
    """T-01: what a server (or who sits between) says after its 220 and before TLS is never taken for its words."""
    with Server(good(EXTENSIONS, {b'STAR': lambda t, _: t.raw(b'220 go\r\n250 forged\r\n')})) as server:
        outcomes, _ = to(server, b'encrypt').send()
    assert outcomes[0][0] == b'Z' and b'It said more before TLS had begun' in outcomes[0][1]


def test_a_handshake_without_end(monkeypatch):
    """T-03: a handshake that never ends is ended."""
    monkeypatch.setattr(connection, 'HANDSHAKE', 0.1)

    def silent(talk, _):
        talk.raw(b'220 go\r\n')
        talk.hang()
    with Server(good(EXTENSIONS, {b'STAR': silent})) as server:
        outcomes, _ = to(server, b'encrypt', patience=20).send()
    assert b'the handshake took too long' in outcomes[0][1] and outcomes[0][0] == b'Z'


def test_no_tls_where_it_is_switched_off():
    """`none`: STARTTLS is not said."""
    with Server(secure('x')) as server:
        assert to(server, b'none').send()[0][0][0] == b'K'
    assert b'STARTTLS' not in server.log


@pytest.mark.parametrize('names, options, tls, good_one', [
    (('127.0.0.1',), {}, b'verify', True), (('mx.example',), {}, b'verify mx.example', True),
    (('*.good.example',), {}, b'verify mx.good.example', True), (('mx.example',), {}, b'verify', False),
    (('other.example',), {}, b'verify mx.example', False), (('127.0.0.1',), {'signed': False}, b'verify', False),
    (('127.0.0.1',), {'days': -1}, b'verify', False), (('m*.good.example',), {}, b'verify mx.good.example', False)])
def test_certificates(names, options, tls, good_one):
    """`verify`: signed by who is trusted, in time, for the server's name or the one named; else the mail waits."""
    with Server(secure(*names, **options)) as server:
        outcomes, _ = to(server, tls).send()
    assert outcomes[0][0] == (b'K' if good_one else b'Z')
    assert bool(server.mail) == good_one
    if not good_one:
        assert any(word in outcomes[0][1].lower() for word in (b'mismatch', b'self-signed', b'self signed', b'expired'))


def test_the_authorities_of_the_system_do_not_know_ours():
    """Without control/tlscas the system's authorities count."""
    with Server(secure()) as server:
        sender = to(server, b'verify')
        sender.settings.cas = None
        outcomes, _ = sender.send()
    assert outcomes[0][0] == b'Z' and b'unable to get local issuer certificate' in outcomes[0][1]


class Ear:
    """In place of qpyr.tlsnotes.Notes: what was told."""

    def __init__(self):
        self.said, self.places = [], []

    def outcome(self, *fields):
        self.said.append(fields)

    def saw(self, place):
        self.places.append(place)


def by_dns(server, tls, host=b'mx.good.example', authenticated=False):
    """A Sender that finds the server as the exchanger `host` of x.example."""
    sender = Sender(table={b'x.example': (b'ok', b'10 %s 127.0.0.1' % host)}, port=server.port)
    sender.settings.tls, sender.settings.cas = {b'x.example': tls} if tls else {}, authority().ca.encode()
    ask = sender.ask
    sender.ask = lambda letter, name, callback: ask(
        letter, name, lambda status, _, reason, lines: callback(status, authenticated, reason, lines))
    return sender


def test_exchangers_below_a_domain():
    """`verify .good.example`: the exchanger must be there and its certificate for its own name."""
    with Server(secure('mx.good.example')) as server:
        assert by_dns(server, b'verify .good.example').send()[0][0][0] == b'K'
        assert by_dns(server, b'verify').send()[0][0][0] == b'K'
        outcomes = by_dns(server, b'verify .good.example', b'mx.bad.example').send()[0]
    assert outcomes[0][0] == b'Z' and b'control/tlsdestinations does not trust mx.bad.example' in outcomes[0][1]


@pytest.mark.parametrize('level, name', [
    (None, 'mx.good.example'), (b'encrypt', 'mx.good.example'), (b'verify', 'mx.good.example'), (b'verify x.example', 'x.example')])
def test_the_name_that_is_asked_for(level, name):
    """RFC 6066, section 3: the server's name, or the one that its certificate must be for; never a literal address."""
    context, asked = authority().context('mx.good.example', 'x.example'), []
    context.sni_callback = lambda sock, found, _: asked.append(found)
    with Server(good(EXTENSIONS, {b'STAR': begin(context)})) as server:
        assert by_dns(server, level).send()[0][0][0] == b'K' and asked == [name]
        assert to(server).send()[0][0][0] == b'K' and asked == [name, None]


# --- the remembered level -----------------------------------------------------------------------------------

def test_no_silent_downgrade(monkeypatch):
    """T-06: who spoke TLS lately is not spoken to without for a day; the log says why; an entry `may`, or the message's
    own `TLS-Required: no`, lifts that."""
    with Server([secure('x'), good(EXTENSIONS[:2]), good(EXTENSIONS[:2]), good(EXTENSIONS, {b'STAR': garbage}),
                 good(EXTENSIONS[:2])]) as server:
        sender = to(server)
        assert sender.send()[0][0][0] == b'K'
        sender.remote.pool.close()
        outcomes, trouble = sender.send()
        assert outcomes[0] == (b'Z', b'Connected to 127.0.0.1 but without TLS: it does not offer STARTTLS; the mail '
                               b'waits, because it spoke TLS lately. (#4.7.10)\n') and trouble
        waived = b'Subject: x\nTLS-Required: No\n\nhi\n'
        assert sender.send(message=waived)[0][0][0] == b'K'
        sender.remote.pool.close()
        assert sender.send()[0][0][0] == b'Z'
        sender.settings.tls = {b'127.0.0.1': b'may'}
        assert sender.send()[0][0][0] == b'K'
        sender.remote.pool.close()
        sender.settings.tls = {}
        assert sender.send()[0][0][0] == b'Z'
        monkeypatch.setattr(tls_policy.Memory, 'LASTS', 0)
        assert sender.send()[0][0][0] == b'K'


def test_another_port_is_another_place():
    """A filter without TLS beside a server with it, on another port of the same relay, is not asked for TLS."""
    with Server(secure('x')) as server, Server(good(EXTENSIONS[:2])) as beside:
        sender = to(server)
        assert sender.send()[0][0][0] == b'K'
        sender.settings.routes = {b'': b'127.0.0.1:%d' % beside.port}
        assert sender.send()[0][0][0] == b'K' and len(beside.mail) == 1


def test_a_connection_in_the_clear_is_not_used_for_tls():
    """A kept connection serves only deliveries that are content with its protection."""
    with Server([good(EXTENSIONS[:2]), secure('127.0.0.1'), secure('127.0.0.1')]) as server:
        sender = to(server, b'may')
        assert sender.send()[0][0][0] == b'K'
        sender.settings.tls = {b'127.0.0.1': b'encrypt'}
        assert b'TLSv1.3' in sender.send()[0][0][1] and server.connections == 2
        sender.settings.tls = {b'127.0.0.1': b'verify'}
        assert b'TLSv1.3' in sender.send()[0][0][1] and server.connections == 3
        sender.settings.tls = {b'127.0.0.1': b'may'}
        assert b'TLSv1.3' in sender.send()[0][0][1] and server.connections == 3


# --- REQUIRETLS ---------------------------------------------------------------------------------------------

REQUIRE = EXTENSIONS + (b'REQUIRETLS',)


def test_requiretls_is_passed_on():
    """RFC 8689: by verified TLS to a server that announces it; MAIL carries it."""
    with Server(secure(extensions=REQUIRE)) as server:
        outcomes, _ = to(server).send(flags=b'q')
    assert outcomes[0][0] == b'K' and any(line.endswith(b' REQUIRETLS') for line in server.log)


def test_requiretls_that_cannot_be_passed_on():
    """A server that does not announce it, by verified TLS, never will: 5.7.30.  All other trouble is for now."""
    with Server(secure()) as server:
        outcomes, _ = to(server).send(flags=b'q')
    assert outcomes[0] == (b'D', remote_report.no_requiretls(b'127.0.0.1')) and not server.mail
    with Server(secure('other', extensions=REQUIRE)) as server:
        assert to(server, b'may').send(flags=b'q')[0][0][0] == b'Z' and not server.mail
    with Server(good(REQUIRE[:2])) as server:
        assert to(server, b'none').send(flags=b'q')[0][0][0] == b'Z' and not server.mail


def test_requiretls_wants_signed_dns():
    """RFC 8689, 4.2.1: who the exchanger is must be proved, too; else whoever forges DNS gets the message."""
    with Server(secure('mx.good.example', extensions=REQUIRE)) as server:
        assert by_dns(server, None, authenticated=True).send(flags=b'q')[0][0][0] == b'K'
        assert by_dns(server, None).send(flags=b'q')[0][0] == (b'Z', remote_report.UNSIGNED)


def test_requiretls_tries_the_next_server():
    """One exchanger does not announce it, the next does."""
    with Server(secure('mx.good.example')) as bad, \
            Server(secure('mx.good.example', extensions=REQUIRE), '127.0.0.2', bad.port) as fine:
        sender = by_dns(bad, None, authenticated=True)
        sender.table = {b'x.example': (b'ok', b'1 mx.good.example 127.0.0.1\n2 mx.good.example 127.0.0.2')}
        assert sender.send(flags=b'q')[0][0][0] == b'K' and len(fine.mail) == 1 and not bad.mail


def test_requiretls_says_nothing_about_other_mail():
    """What fails by that wish alone leaves the host open to mail without it; what fails without it does not."""
    with Server(good(REQUIRE[:2])) as server:
        for flags, expected in ((b'q', False), (b'', False)):
            assert to(server).send(flags=flags)[1] is expected
        assert to(server, b'encrypt').send()[1] is True
    with Server(secure('mx.good.example', extensions=REQUIRE)) as server:
        assert by_dns(server, None).send(flags=b'q') == ([(b'Z', remote_report.UNSIGNED)], False)


# --- the pure part ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('head, waived', [
    (b'TLS-Required: no\n\n', True), (b'a: b\ntls-required:NO \n\nx', True), (b'a: b\n\nTLS-Required: no\n', False),
    (b'TLS-Required: yes\n\n', False), (b'X-TLS-Required: no\n\n', False), (b'\nTLS-Required: no\n\n', False),
    (b'TLS-Required: no', True), (b'', False)])
def test_tls_required_no(head, waived):
    """RFC 8689, section 5: a header field of its own, and only in the header."""
    assert tls_policy.is_waived(head) is waived


@pytest.mark.parametrize('value', [b'', b'tls', b'verify a b', b'encrypt a', b'verify a..b', b'verify .', b'MAY', b'dane x'])
def test_bad_levels(value):
    """An entry that nobody could use is an error with a reason."""
    with pytest.raises(ValueError):
        tls_policy.parse(value)
    assert [key for key, _ in tls_policy.faults({b'x': value, b'y': b'verify'})] == [b'x']


def test_decisions():
    """Who asks for what: an entry, a login, memory, the message."""
    table = {b'x': b'encrypt', b'n': b'none', b'm': b'may'}
    levels = [tls_policy.decide(host, table, *rest).level for host, *rest in (
        (b'X', False, False, False, False), (b'n', True, True, False, False), (b'm', False, True, False, False),
        (b'other', False, False, False, False), (b'other', True, False, False, True), (b'other', False, True, False, False),
        (b'other', False, True, False, True), (b'n', False, False, True, True), (b'x', False, False, False, True))]
    asks = [tls_policy.decide(host, {b'x': b'encrypt', b'd': b'dane', b'v': b'verify'}, False, False, False, waived).ask
            for host, waived in ((b'x', False), (b'x', True), (b'd', False), (b'd', True), (b'v', False))]
    assert asks == [True, False, True, True, False]
    assert levels == [b'encrypt', b'none', b'may', b'may', b'verify', b'encrypt', b'may', b'verify', b'encrypt']


def test_the_memory_is_bounded(monkeypatch):
    """The oldest domain is forgotten; a domain seen again is young."""
    monkeypatch.setattr(tls_policy.Memory, 'MOST', 2)
    memory = tls_policy.Memory()
    for domain in (b'a', b'b', b'A', b'c'):
        memory.saw(domain, 1)
    assert [memory.knows(domain, 2) for domain in (b'a', b'b', b'c')] == [True, False, True]
    assert not memory.knows(b'a', 1 + 86400)
