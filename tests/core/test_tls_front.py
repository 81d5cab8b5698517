"""What SMTP servers and qpy-tls say to each other, and what qpy-tls reads in certificates."""
import calendar
import hashlib
import ssl
import subprocess
import time

import pytest
from hypothesis import given, strategies as st

from qpy.core import dates, tls_certificate, tls_front
from qpy.core.tls_front import Tls
from tests.peers.certificates import authority


@given(st.lists(st.binary(max_size=300), min_size=5, max_size=5))
def test_whatever_a_client_shows_is_one_line(fields):
    """Names in foreign certificates are made safe and cut: the answer has its five fields, and ends once."""
    answer = tls_front.stands(Tls(*fields))
    assert answer.endswith(b'\n') and answer.count(b'\n') == 1 and len(answer) <= tls_front.MOST
    letter, tls = tls_front.parse(answer[:-1])
    assert letter == tls_front.STANDS
    assert all(33 <= byte < 127 for byte in tls.version + tls.cipher + tls.binding + tls.name + tls.print)


def test_a_plain_answer_comes_back():
    """What is made is what is read."""
    tls = tls_front.parse(tls_front.stands(Tls(b'TLSv1.3', b'X', b'ab', b'mx.example', b'cd'))[:-1])[1]
    assert (tls.version, tls.cipher, tls.binding, tls.name, tls.print) == (b'TLSv1.3', b'X', b'ab', b'mx.example', b'cd')
    assert tls_front.parse(tls_front.said(tls_front.NONE, b'a\nb')[:-1]) == (tls_front.NONE, b'a?b')


@pytest.mark.parametrize('line', [b'', b'K', b'Ka\0b', b'Ka\0b\0c\0d\0e\0f', b'X', b'x'])
def test_what_is_no_answer(line):
    """Anything that the table does not have is an error."""
    with pytest.raises(ValueError):
        tls_front.parse(line)


@given(st.integers(0, 7_000_000_000))
def test_dates_of_certificates(when):
    """As the C library counts, leap years and all."""
    t = time.gmtime(when)
    text = '%s %2d %02d:%02d:%02d %d GMT' % (dates._MONTHS[t[1] - 1].decode(), t[2], t[3], t[4], t[5], t[0])
    assert dates.of_certificate(text) == calendar.timegm(t) == when == int(ssl.cert_time_to_seconds(text))


TABLE = {b'a.example': 1, b'*.b.example': 2, b'x.b.example': 3}


@pytest.mark.parametrize('name, chosen', [
    (None, 0), (b'', 0), (b'a.example', 1), (b'A.EXAMPLE.', 1), (b'y.b.example', 2), (b'x.b.example', 3),
    (b'z.y.b.example', 0), (b'b.example', 0), (b'*.b.example', 2), (b'c.example', 0), (b'.', 0)])
def test_which_certificate(name, chosen):
    """RFC 6125 6.4: the name itself, else a wildcard for one label, else the default."""
    assert tls_certificate.choose(TABLE, name, 0) == chosen


def test_the_name_of_a_person():
    """DNS name, mail address, common name, in this order."""
    info = {'subject': ((('commonName', 'Ann'),),), 'subjectAltName': (('email', 'ann@x.example'), ('DNS', 'X.example'))}
    assert tls_certificate.person(info) == b'x.example'
    info['subjectAltName'] = info['subjectAltName'][:1]
    assert tls_certificate.person(info) == b'ann@x.example'
    del info['subjectAltName']
    assert tls_certificate.person(info) == b'Ann' and tls_certificate.person({}) == b''


@pytest.mark.parametrize('key, digest, expected', [
    ('ec -pkeyopt ec_paramgen_curve:P-256', 'sha256', 'sha256'), ('ec -pkeyopt ec_paramgen_curve:P-384', 'sha384', 'sha384'),
    ('rsa:2048', 'sha256', 'sha256'), ('rsa:2048', 'sha512', 'sha512'), ('rsa:2048', 'sha1', 'sha256'), ('ed25519', 'sha256', None)])
def test_what_binds_to_a_certificate(tmp_path, key, digest, expected):
    """RFC 5929 4.1: by the hash of the signature, SHA-1 by SHA-256, nothing where the signature has no one hash."""
    subprocess.run('openssl req -x509 -newkey %s -%s -nodes -keyout k -out c -outform DER -subj /CN=x' % (key, digest),
                   shell=True, cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    der = (tmp_path / 'c').read_bytes()
    assert tls_certificate.binding(der) == (hashlib.new(expected, der).hexdigest().encode() if expected else b'')


def test_names_of_a_certificate():
    """Those in subjectAltName, whatever the common name says."""
    found = ssl._ssl._test_decode_cert(authority().certificate('Mx.example', '*.w.example', '192.0.2.1')[0])
    assert tls_certificate.names(found) == {b'mx.example', b'*.w.example'}
