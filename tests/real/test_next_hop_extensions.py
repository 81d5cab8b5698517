"""What a message needs and what the next hop knows, with Debian's servers: it arrives as it is, or converted, or is refused
with the reason; never cut, never changed unseen."""
import email
import email.policy
import os
import pathlib
import shutil
import tempfile

import pytest

from tests.peers import exim, opensmtpd
from tests.peers.certificates import authority
from tests.real.test_next_hop import free_port, wait_for
from tests.real.test_tls_out import USER, arrived, postfix, rspawn_with, send  # noqa: F401

pytestmark = pytest.mark.root
MIME = b'MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n'
TEXT = 'naïve = \t\n.dot\n\nend\n'.encode()
PLAIN = b'Subject: plain\n\n' + TEXT
EIGHT = b'Subject: eight\n' + MIME + b'\n' + TEXT
SIGNED = (b'Subject: signed\nMIME-Version: 1.0\nContent-Type: multipart/signed; boundary=s\n\n--s\n' + MIME + b'\n' + TEXT
          + b'--s\nContent-Type: application/pgp-signature\n\nx\n--s--\n')
HEADER = 'Subject: grüße\n'.encode() + MIME + b'\n' + TEXT
LONG = b'Subject: long\n\n' + b'x' * 70 + b'\n' * 100
ALL, OLD = '', 'smtpd_discard_ehlo_keywords = 8bitmime, smtputf8, dsn\n'
JOE, ALSO_JOE, IDN = b'joe@postfix.test', 'jösé@postfix.test'.encode(), 'joe@bücher.test'.encode()

# what Postfix is told to know, the message, flags and recipient; what becomes of it, and a word of the report or `raw` (it
# arrives as it was sent) or `converted`
CASES = [
    (ALL, EIGHT, b'8', JOE, b'K', 'raw'), (ALL, PLAIN, b'8', JOE, b'K', 'raw'), (ALL, SIGNED, b'8', JOE, b'K', 'raw'),
    (ALL, HEADER, b'8u', JOE, b'K', 'raw'), (ALL, EIGHT, b'8u', ALSO_JOE, b'K', 'raw'), (ALL, EIGHT, b'8u', IDN, b'K', 'raw'),
    (OLD, EIGHT, b'8', JOE, b'K', 'converted'), (OLD, PLAIN, b'8', JOE, b'K', 'raw'), (OLD, SIGNED, b'8', JOE, b'D', '#5.6.3'),
    (OLD, HEADER, b'8u', JOE, b'D', '#5.6.7'), (OLD, EIGHT, b'8u', ALSO_JOE, b'D', '#5.6.7'),
    (OLD, EIGHT, b'8u', IDN, b'K', 'converted'),
    ('message_size_limit = 2000\n', b'Subject: long\n\n' + b'x' * 70 + b'\n' * 3000, b'', JOE, b'D', '#5.3.4')]


@pytest.fixture(scope='module')
def peers():
    """peer(lines of main.cf) -> (Postfix, its port, joe's home); everybody there is joe."""
    started = {}

    def start(more):
        if more not in started:
            box = pathlib.Path(tempfile.mkdtemp(prefix='qpy-test-', dir='/var/tmp'))
            os.chown(box, USER, USER)
            port = free_port()
            made = postfix.Postfix(port, local='postfix.test, xn--bcher-kva.test, bücher.test', users=[('joe', USER, str(box))],
                                   more=more + 'local_recipient_maps =\nluser_relay = joe\n')
            wait_for(port)
            started[more] = made, port, box
        return started[more]
    yield start
    for made, _, box in started.values():
        made.stop()
        shutil.rmtree(box)


@pytest.mark.parametrize('case', range(len(CASES)))
def test_postfix(tmp_path, peers, case):
    """The table above."""
    more, message, flags, recipient, letter, what = CASES[case]
    made, port, box = peers(more)
    (box / 'Maildir/new').exists() and [file.unlink() for file in (box / 'Maildir/new').iterdir()]
    rspawn = rspawn_with(tmp_path / 'qpy', smtproutes=':127.0.0.1:%d\n' % port)
    result, = send(rspawn, 1, recipient, message=message, flags=flags)
    assert result[0] == letter, (result, made.log()[-2000:])
    if letter == b'K':
        found, = arrived(rspawn, box)
        body = found.partition(b'\n\n')[2]
        if what == 'raw':
            header, _, text = message.partition(b'\n\n')
            assert body == text and header in found             # Postfix writes From, Date and Message-Id below it
        else:
            assert body.isascii() and b'quoted-printable' in found
            assert email.message_from_bytes(found, policy=email.policy.default).get_payload(decode=True) == TEXT
    else:
        assert what.encode() in result[2], result
        assert not (box / 'Maildir/new').exists() or not os.listdir(box / 'Maildir/new')
    assert rspawn.end() == (0, b'')


@pytest.mark.parametrize('kind', [exim.Exim, opensmtpd.OpenSmtpd])
@pytest.mark.parametrize('message, flags', [(EIGHT, b'8'), (SIGNED, b'8'), (PLAIN, b'')])
def test_exim_and_opensmtpd(tmp_path, kind, message, flags):
    """What they take, Exim by TLS with a certificate that verifies, is filed as it was sent."""
    port, tls = free_port(), kind is exim.Exim
    try:
        made = kind(port, *[authority().certificate('127.0.0.1')] * tls)
    except (RuntimeError, AssertionError) as problem:
        pytest.skip('none here: %s' % problem)
    try:
        rspawn = rspawn_with(tmp_path / 'qpy', smtproutes=':127.0.0.1:%d\n' % port, tlsdestinations=':verify\n' * tls,
                             tlscas=pathlib.Path(authority().ca).read_text())
        result, = send(rspawn, 1, b'joe@' + kind.domain.encode(), message=message, flags=flags)
        assert result[0] == b'K' and (b'TLSv1.3' in result[2]) == tls, (result, exim.log(made))
        rspawn.wait(lambda: (rspawn.loop.step(0.05), os.path.isdir(made.box()) and os.listdir(made.box()))[1])
        found = pathlib.Path(made.box(), os.listdir(made.box())[0]).read_bytes()
        assert found.partition(b'\n\n')[2] == message.partition(b'\n\n')[2], found
        assert rspawn.end() == (0, b'')
    finally:
        exim.stop(made)
