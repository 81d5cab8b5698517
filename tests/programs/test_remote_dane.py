"""qpy-remote and DANE (RFC 7672): what TLSA records, or their absence, do to mail."""
import hashlib
import os
import subprocess

import pytest
from hypothesis import given, strategies as st

from qpy.core import dane, tls_policy
from tests.peers.certificates import authority
from tests.peers.smtp_script import Server, good
from tests.programs.test_remote_tls import EXTENSIONS, begin, by_dns, secure

HOST = 'mx.good.example'


def der(path):
    """A certificate file as DER."""
    return subprocess.run(['openssl', 'x509', '-in', path, '-outform', 'der'], stdout=subprocess.PIPE, check=True).stdout


def key_of(path):
    """The public key in it, as openssl sees it."""
    key = subprocess.run(['openssl', 'x509', '-in', path, '-pubkey', '-noout'], stdout=subprocess.PIPE, check=True).stdout
    return subprocess.run(['openssl', 'pkey', '-pubin', '-outform', 'der'], input=key, stdout=subprocess.PIPE,
                          check=True).stdout


def record(usage, selector, kind, path):
    """A line of an answer that means the certificate in this file."""
    data = der(path) if selector == 0 else key_of(path)
    data = {0: bytes, 1: lambda d: hashlib.sha256(d).digest(), 2: lambda d: hashlib.sha512(d).digest()}[kind](data)
    return b'%d %d %d %s' % (usage, selector, kind, data.hex().encode())


def chained(*names, **options):
    """A server's context that sends the authority's certificate, too."""
    certificate, key = authority().certificate(*names, **options)
    path = certificate + '.chain'
    with open(path, 'w') as file:
        file.write(open(certificate).read() + open(authority().ca).read())
    context = authority().context(*names, **options)
    context.load_cert_chain(path, key)
    return context


def send(server, records=None, status=b'ok', tls=None, proved=True, authenticated=True, end=HOST.encode(), **options):
    """(letter, text) of a delivery; records: lines for its TLSA question.  proved: the exchanger's name is; end: what it is
    an alias of, b'' if its address is not proved."""
    sender = by_dns(server, tls)
    sender.settings.cas = None
    sender.table[b'x.example'] = b'ok', b' '.join([b'10 mx.good.example 127.0.0.1'] + [end] * bool(end))
    sender.table[b'_%d._tcp.mx.good.example' % server.port] = status, b'\n'.join(records or [])

    def ask(letter, name, callback):
        sender.asked.append((letter, name))
        found = sender.table.get(name, (b'nxdomain', b''))
        secure = authenticated if letter == b'T' else proved
        sender.loop.call_soon(lambda: callback(found[0], secure, b'because', found[1]))
    sender.ask = ask
    outcome = [sender.send(**options)[0][0], sender.send(**options)[0][0]][-1]
    return outcome + (sender,)


CERTIFICATE = authority().certificate(HOST)[0]
ANOTHER = authority().certificate('other.example')[0]


@pytest.mark.parametrize('selector', [0, 1])
@pytest.mark.parametrize('kind', [0, 1, 2])
@pytest.mark.parametrize('usage', [2, 3])
def test_records_that_match(usage, selector, kind):
    """DANE-EE and DANE-TA, certificate and key, whole and as digests: the mail goes by TLS, verified by DNS alone."""
    path = CERTIFICATE if usage == 3 else authority().ca
    with Server(good(EXTENSIONS, {b'STAR': begin(chained(HOST))})) as server:
        letter, text, sender = send(server, [b'3 1 1 ' + b'00' * 32, record(usage, selector, kind, path)])
        assert letter == b'K' and b'TLSv1.3' in text and len(server.mail) == 2
        assert server.connections == (1 if usage == 3 else 2)
        assert [key[1] for key in sender.remote.pool.idle] == [b'dane mx.good.example']


@pytest.mark.parametrize('records, why', [
    ([record(3, 1, 1, ANOTHER)], b'does not match'), ([record(2, 0, 1, ANOTHER)], b'does not match'),
    ([b'2 0 0 3000'], b'does not match'), ([record(2, 0, 0, ANOTHER)], b'self-signed certificate in')])
def test_records_that_do_not_match(records, why):
    """Never in the clear, never with whomever: the mail waits and says why."""
    with Server(good(EXTENSIONS, {b'STAR': begin(chained(HOST))})) as server:
        letter, text, _ = send(server, records)
        assert letter == b'Z' and not server.mail and b'its TLSA records ask for it' in text and why in text


def test_names_and_dates():
    """DANE-EE asks neither for the name nor for the date (RFC 7672, 3.1.1); DANE-TA asks for both (3.1.2)."""
    for names, options in ((('strange.example',), {}), ((HOST,), {'days': -1})):
        path = authority().certificate(*names, **options)[0]
        context = chained(*names, **options)
        with Server(good(EXTENSIONS, {b'STAR': begin(context)})) as server:
            assert send(server, [record(3, 0, 1, path)])[0] == b'K'
            assert send(server, [record(2, 0, 1, authority().ca)])[0] == b'Z' and len(server.mail) == 2


@pytest.mark.parametrize('replies, extensions', [
    ({}, EXTENSIONS[:2]), ({b'STAR': b'454 not today'}, EXTENSIONS)])
def test_no_tls_where_there_are_records(replies, extensions):
    """T-06: STARTTLS stripped or refused: the mail waits."""
    with Server(good(extensions, replies)) as server:
        letter, text, _ = send(server, [record(3, 1, 1, CERTIFICATE)])
        assert letter == b'Z' and not server.mail and b'its TLSA records ask for it' in text


@pytest.mark.parametrize('records', [[b'1 0 1 ' + b'00' * 32], [b'3 9 1 00'], [b'3 1 1 00'], [b'255 0 0 3000']])
def test_records_of_no_use(records):
    """RFC 7672, 2.2: records, none of them usable, still ask for TLS, with whomever; not for its absence."""
    with Server(secure('x')) as server:
        assert send(server, records)[0] == b'K' and b'STARTTLS' in server.log
    with Server(good(EXTENSIONS[:2])) as server:
        assert send(server, records)[0] == b'Z' and not server.mail


def test_no_records():
    """Without records, or with records nobody has validated, or behind names that nobody has, all is as without DANE."""
    wrong = [record(3, 1, 1, ANOTHER)]
    for options in ({'status': b'nxdomain'}, {'status': b'nodata'}, {'records': wrong, 'authenticated': False},
                    {'records': wrong, 'proved': False}, {'records': wrong, 'end': b''}):
        with Server(good(EXTENSIONS[:2])) as server:
            letter, _, sender = send(server, **options)
            asked = any(question == b'T' for question, _ in sender.asked)
            assert letter == b'K' and asked == options.get('proved', bool(options.get('end', True)))


def test_a_question_without_an_answer():
    """RFC 7672, 2.1: where the records cannot be looked up the server is not used; the mail waits."""
    with Server(secure(HOST)) as server:
        letter, text, _ = send(server, status=b'temp')
        assert letter == b'Z' and b'its TLSA records could not be looked up: because' in text and not server.connections
        assert send(server, [b'nonsense'])[0] == b'Z' and not server.connections


def test_what_the_administrator_wrote():
    """`dane` wants records and a resolver that validates; `none` and `may` are stronger than records, `encrypt` is not; so is the
    message's TLS-Required: no (RFC 8689)."""
    with Server(secure(HOST)) as server:
        assert send(server, [record(3, 1, 1, CERTIFICATE)], tls=b'dane')[0] == b'K'
        assert b'no TLSA records that can be used' in send(server, status=b'nxdomain', tls=b'dane')[1]
        assert b'not validated' in send(server, [record(3, 1, 1, CERTIFICATE)], tls=b'dane', proved=False)[1]
        wrong = [record(3, 1, 1, ANOTHER)]
        assert send(server, wrong, tls=b'none')[0] == send(server, wrong, tls=b'may')[0] == b'K'
        assert send(server, wrong)[0] == send(server, wrong, tls=b'encrypt')[0] == b'Z'
        assert send(server, status=b'temp', tls=b'encrypt')[0] == b'Z'
        assert send(server, status=b'nxdomain', tls=b'encrypt')[0] == b'K'
        assert send(server, wrong, tls=b'encrypt', message=b'TLS-Required: no\n\nhi\n')[0] == b'K'
        assert send(server, wrong, message=b'TLS-Required: no\n\nhi\n')[0] == b'K'


@pytest.mark.parametrize('names, letter', [
    ((HOST,), b'K'), (('*.good.example',), b'K'), (('x.example',), b'K'), (('*.x.example', 'mx2.good.example'), b'Z')])
def test_names_that_an_authority_vouches_for(names, letter):
    """RFC 7672, 3.2.2: the server's name, or that of the domain it serves; a connection that only the latter has proved
    is for no other domain."""
    with Server(good(EXTENSIONS, {b'STAR': begin(chained(*names))})) as server:
        found, text, sender = send(server, [record(2, 0, 1, authority().ca)])
        assert found == letter and (letter == b'K' or b'hostname mismatch' in text and not server.mail), text
        by_domain = b' for x.example' * (names == ('x.example',))
        assert [key[1] for key in sender.remote.pool.idle] == [b'dane mx.good.example' + by_domain] * (letter == b'K')
        if letter == b'K':
            sender.table[b'y.example'] = sender.table[b'x.example']
            before = server.connections
            outcomes, _ = sender.send(host=b'y.example', recipients=[b'r@y.example'])
            assert outcomes[0][0] == (b'Z' if by_domain else b'K') and (server.connections > before) == bool(by_domain)


def test_an_exchanger_that_is_an_alias():
    """RFC 7672, 2.2.2: the records at the end of its aliases count, and the name there; without any, those at its own."""
    with Server(good(EXTENSIONS, {b'STAR': begin(chained('end.example'))})) as server:
        letter, _, sender = send(server, status=b'nxdomain', end=b'end.example')
        name = b'_%d._tcp.%%s' % server.port
        assert letter == b'K' and [n for kind, n in sender.asked if kind == b'T'][:2] == [
            name % b'end.example', name % b'mx.good.example']
        sender.remote.pool.close()
        sender.table[name % b'end.example'] = b'ok', record(2, 0, 1, authority().ca)
        assert sender.send()[0][0][0] == b'K'
        assert [key[1] for key in sender.remote.pool.idle] == [b'dane mx.good.example']
        assert b'does not match' in send(server, [record(3, 1, 1, ANOTHER)], end=b'end.example')[1]


def test_requiretls_by_dane():
    """RFC 8689: a certificate that only DNS vouches for will do."""
    path = authority().certificate(HOST, signed=False)[0]
    with Server(secure(HOST, extensions=(*EXTENSIONS, b'REQUIRETLS'), signed=False)) as server:
        assert send(server, [record(3, 1, 1, path)], flags=b'q')[0] == b'K'
        assert send(server, status=b'nxdomain', flags=b'q')[0] == b'Z'


# --- the pure part ------------------------------------------------------------------------------------------

def test_the_key_is_the_one_openssl_sees():
    """The public key cut out of EC and RSA certificates."""
    for path in (CERTIFICATE, authority().ca):
        assert dane.public_key(der(path)) == key_of(path)
    where = authority().where
    subprocess.run('openssl req -x509 -newkey rsa:2048 -nodes -keyout r.key -out r.pem -subj /CN=r', shell=True, cwd=where,
                   check=True, stderr=subprocess.DEVNULL)
    path = os.path.join(where, 'r.pem')
    assert dane.public_key(der(path)) == key_of(path)


@given(st.integers(0, 600), st.integers(0, 255))
def test_a_certificate_that_is_none(place, byte):
    """Whatever a server sends in place of a certificate: a ValueError, or bytes of it."""
    data = bytearray(der_of_one())
    data[place % len(data)] = byte
    for bad in (bytes(data), bytes(data[:place])):
        try:
            assert dane.public_key(bad) in bad
        except ValueError:
            pass
        assert dane.matches((3, 1, 0, b'x'), bad) is False


KEPT = []


def der_of_one():
    if not KEPT:
        KEPT.append(der(CERTIFICATE))
    return KEPT[0]


def test_lines_of_answers():
    """What is no record is no answer."""
    assert dane.parse(b'3 1 1 00ff\n2 0 0 30') == [(3, 1, 1, b'\0\xff'), (2, 0, 0, b'0')] and dane.parse(b'') == []
    for bad in (b'3 1 1', b'3 1 x 00', b'3 1 256 00', b'3 1 1 0', b'3 1 1 zz', b'3 1 1 00 11'):
        with pytest.raises(ValueError):
            dane.parse(bad)
    assert tls_policy.with_records(tls_policy.OPPORTUNISTIC, [], False).level == b'may'
