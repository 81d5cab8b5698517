"""MIME for servers without 8BITMIME, beside the standard library's reader of mail."""
import email
import email.policy
import quopri
import quopri

import pytest
from hypothesis import given, settings, strategies as st

from qpy.core import seven_bit

LEAF = b'Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n'
TOP = b'Subject: x\nMIME-Version: 1.0\n'


def converted(data, *cuts):
    """data through a Converter, in pieces."""
    converter, out, at = seven_bit.Converter(), b'', 0
    for cut in sorted({cut for cut in cuts if 0 < cut < len(data)}) + [len(data)]:
        out += converter.feed(data[at:cut])
        at = cut
    return out + converter.finish()


def parts(data):
    """[(type, contents)] of the leaves of a message, as Python's reader has them."""
    message = email.message_from_bytes(data, policy=email.policy.compat32)
    return [(part.get_content_type(), part.get_payload(decode=True)) for part in message.walk() if not part.is_multipart()]


def ascii_only(data):
    return data.isascii() and all(len(line) <= 998 for line in data.split(b'\n'))


@pytest.mark.parametrize('body', [
    'naïve\n'.encode(), 'a=b\u00e9 \n\ttab\t\n'.encode(), 'é'.encode() * 500 + b'\n', b'x' * 5000 + 'é\n'.encode(),
    'no end é '.encode(), 'no end é'.encode(), b'\xff\xfe\n\n\n', 'é \n'.encode(), b'.dot\n..\xe9\n', 'é'.encode() + b' ' * 1200 + b'\n',
    b'\xe9' * 999 + b' \n', b'\xe9' * 1000 + b' ' * 1 + b'\n'])
def test_one_part(body):
    """What is read of it is what was written; no line is too long, no byte beyond ASCII, no blank at the end of a line."""
    out = converted(TOP + LEAF + body)
    assert ascii_only(out) and b'Content-Transfer-Encoding: quoted-printable\n' in out and b'8bit' not in out
    assert parts(out) == [('text/plain', body)]
    assert not out.endswith(b' ')
    assert not any(line.endswith((b' ', b'\t')) or len(line) > 76 for line in out.partition(b'\n\n')[2].split(b'\n'))


MIXED = (TOP + b'Content-Type: multipart/mixed;\n\tboundary="a b"\nContent-Transfer-Encoding: 8bit\n\npreamble\n--a b\n'
         + LEAF + 'één\n--a\n--a bc\n'.encode() + b'--a b\nContent-Type: multipart/alternative; boundary=in\n\n--in\n'
         + LEAF + 'zwö\n'.encode() + b'--in\nContent-Type: text/html\n\n<p>7bit</p>\n--in--\nepilogue of in\n'
         + b'--a b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nSubject: y\n' + LEAF + 'drei ü\n'.encode()
         + b'--a b\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n/+8=\n--a b--\n'
         + b'--a b\nepilogue\n')


def test_parts_in_parts():
    """Each leaf that says 8bit is converted, those around it say 7bit, and all else is as it was."""
    out = converted(MIXED)
    assert ascii_only(out) and parts(out) == parts(MIXED)
    assert out.count(b'quoted-printable') == 3 and out.count(b'Content-Transfer-Encoding: 7bit\n') == 2
    assert [line for line in out.split(b'\n') if b'reamble' in line or b'pilogue' in line] == [
        b'preamble', b'epilogue of in', b'epilogue']


@pytest.mark.parametrize('data', [
    b'Subject: x\n\n\xe9\n', b'Subject: x\nContent-Transfer-Encoding: 8bit\n\n\xe9\n', TOP + b'\n\xe9\n',
    TOP + b'Content-Transfer-Encoding: quoted-printable\n\n=E9 \xe9\n', b'\n\xe9', b'', b'Subject: x', TOP + LEAF.strip(),
    TOP + b'Content-Type: multipart/signed; boundary=s\n\n--s\n' + LEAF + b'a\n--s--\n',
    TOP + b'Content-Type: message/delivery-status\nContent-Transfer-Encoding: 8bit\n\nx: \xe9\n',
    TOP + b'Content-Type: multipart/mixed\n\n--s\n' + LEAF + b'\xe9\n', TOP + b'X: ' + b'y' * 300_000 + b'\n' + LEAF + b'\xe9\n'])
def test_what_cannot_be_converted(data):
    """No MIME, 8 bits where 7 are promised, what is signed or has no other encoding, a multipart without a boundary, a header
    without an end: as it came."""
    assert converted(data) == data


SIGNED = b'Content-Type: multipart/signed; boundary=s\n\n--s\n%s\n--s\nContent-Type: application/pgp-signature\n\nx\n--s--\n'
OUTER = TOP + b'Content-Type: multipart/mixed; boundary=o\n\n--o\n%s--o\n' + LEAF + b'\xe9\n--o--\n'


@pytest.mark.parametrize('data, sealed', [
    (TOP + SIGNED % (LEAF + b'\xe9'), True), (TOP + SIGNED % b'Subject: \xe9\n', True), (OUTER % (SIGNED % (LEAF + b'\xe9')), True),
    (TOP + b'Content-Type: multipart/signed\n\n\xe9', True), (OUTER % (SIGNED % (LEAF + b'e')), False),
    (b'Content-Type: multipart/signed\n\n\xe9\n', False)])
def test_what_is_signed(data, sealed):
    """8 bits in a signed part, and nowhere else, make a message that cannot be converted; at whatever place it is cut."""
    for cut in range(0, len(data), 7):
        if sealed:
            with pytest.raises(seven_bit.Sealed):
                converted(data, cut)
        else:
            out = converted(data, cut)
            assert SIGNED % (LEAF + b'e') in out or out == data


def test_reports_on_internationalised_mail():
    """RFC 6532, 3.7: message/global and its kin may be quoted-printable."""
    body = 'Subject: é\n\né\n'.encode()
    out = converted(TOP + b'Content-Type: message/global\nContent-Transfer-Encoding: 8bit\n\n' + body)
    assert ascii_only(out) and b'Content-Transfer-Encoding: quoted-printable\n' in out
    assert quopri.decodestring(out.partition(b'\n\n')[2]) == body


def test_crlf():
    """Line ends of both kinds."""
    out = converted(MIXED.replace(b'\n', b'\r\n'))
    assert parts(out) == [(kind, data.replace(b'\r\n', b'\n') if kind == 'text/html' else data) for kind, data in parts(MIXED)] or \
        [(kind, data.replace(b'\r\n', b'\n')) for kind, data in parts(out)] == parts(MIXED)


@given(st.lists(st.integers(0, len(MIXED)), max_size=30))
def test_pieces_do_not_matter(cuts):
    """In whatever pieces it comes."""
    assert converted(MIXED, *cuts) == converted(MIXED)


@settings(max_examples=300)
@given(st.lists(st.sampled_from([b'--a b\n', b'--a b--\n', LEAF, TOP, b'Content-Type: multipart/mixed; boundary="a b"\n\n', b'\n',
                                 'é ='.encode(), b' ', b'x' * 700, b'\r', b'Content-Type: message/rfc822\n\n', b'--'])),
       st.lists(st.integers(0, 3000), max_size=5))
def test_total_on_any_bytes(words, cuts):
    """Nothing it meets stops it, in any pieces, and nothing that is 7bit throughout grows 8 bits."""
    data = b''.join(words)
    assert converted(data, *cuts) == converted(data)
    if data.isascii():
        assert converted(data).isascii()


@given(st.binary(max_size=3000), st.lists(st.integers(0, 3200), max_size=6))
def test_any_text_comes_back(body, cuts):
    """Quoted-printable gives every text back, but for CRs before a line end."""
    body = body.replace(b'\r', b'').replace(b'\0', b'')
    out = converted(TOP + LEAF + body, *cuts)
    assert ascii_only(out) and parts(out) == [('text/plain', body)]
