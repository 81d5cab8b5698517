"""tls-server-end-point: what a certificate is known by, beside what openssl says of it."""
import hashlib
import subprocess

import pytest
from hypothesis import given, strategies as st

from qpy.core import channel_binding


def certificate(path, *options):
    """A self-signed certificate (DER) that openssl makes with these options."""
    done = subprocess.run(['openssl', 'req', '-x509', '-nodes', '-subj', '/CN=x', '-keyout', str(path), '-outform', 'der',
                           *options], capture_output=True, timeout=60)
    if done.returncode:
        pytest.skip('this openssl makes no such certificate')
    return done.stdout


@pytest.mark.parametrize('options, name', [
    (('-newkey', 'rsa:1024', '-sha256'), 'sha256'), (('-newkey', 'rsa:1024', '-sha384'), 'sha384'),
    (('-newkey', 'rsa:1024', '-sha512'), 'sha512'), (('-newkey', 'rsa:1024', '-sha224'), 'sha224'),
    (('-newkey', 'rsa:1024', '-sha1'), 'sha256'),
    (('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-sha256'), 'sha256'),
    (('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-384', '-sha384'), 'sha384'),
    (('-newkey', 'ed25519'), None), (('-newkey', 'rsa:2048', '-sigopt', 'rsa_padding_mode:pss', '-sha256'), None)])
def test_by_its_signature(tmp_path, options, name):
    """RFC 5929, 4.1: the hash of the signature, SHA-256 for the weak ones; none where there is not one hash."""
    found = certificate(tmp_path / 'key', *options)
    assert channel_binding.end_point(found) == (hashlib.new(name, found).digest() if name else b'')


@given(st.binary(max_size=60))
def test_what_is_no_certificate(data):
    """It has none."""
    assert channel_binding.end_point(data) == channel_binding.end_point(b'\x30\x80' + data) == b''
