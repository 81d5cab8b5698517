"""What qpy-tls reads in certificates: names, and what binds a login to one (RFC 5929)."""
from _hashlib import openssl_sha256 as sha256, openssl_sha384 as sha384, openssl_sha512 as sha512

from qpy.core import dane


def names(info):
    """{lower-case DNS name} of a certificate's subjectAltName, `*.` in front of those that stand for one label."""
    return {value.lower().encode('ascii', 'replace') for kind, value in info.get('subjectAltName', ()) if kind == 'DNS'}


def person(info):
    """The one name that a client's certificate is for: a DNS name, else a mail address, else its common name."""
    for wanted in ('DNS', 'email'):
        for kind, value in info.get('subjectAltName', ()):
            if kind == wanted:
                return value.encode('ascii', 'replace').lower()
    for part in info.get('subject', ()):
        for kind, value in part:
            if kind == 'commonName':
                return value.encode('ascii', 'replace')
    return b''


def fingerprint(certificate):
    """The SHA-256 of a certificate (DER), in hexadecimal."""
    return sha256(certificate).hexdigest().encode()


def choose(table, name, default):
    """What table, {DNS name: anything}, has for the name a client asks for (RFC 6125, 6.4): the name itself, else a
    wildcard for its first label, else default."""
    if not name:
        return default
    name = name.lower().rstrip(b'.')
    return table.get(name) or table.get(b'*.' + name.partition(b'.')[2]) or default


# The hash of the signature decides how the certificate is bound, MD5 and SHA-1 count as SHA-256 (RFC 5929, 4.1).
SIGNED_BY = {bytes.fromhex(oid): digest for oid, digest in (
    ('2a864886f70d010104', sha256), ('2a864886f70d010105', sha256), ('2a864886f70d01010b', sha256),     # RSA
    ('2a864886f70d01010c', sha384), ('2a864886f70d01010d', sha512),
    ('2a8648ce3d0401', sha256), ('2a8648ce3d040302', sha256), ('2a8648ce3d040303', sha384),             # ECDSA
    ('2a8648ce3d040304', sha512))}


def binding(certificate):
    """What tls-server-end-point is for a certificate (DER), in hexadecimal; b'' where it is undefined (Ed25519, PSS)."""
    _, at, _ = dane.element(certificate, 0)
    _, _, at = dane.element(certificate, at)            # behind what was signed
    _, at, _ = dane.element(certificate, at)
    _, begin, end = dane.element(certificate, at)
    digest = SIGNED_BY.get(certificate[begin:end])
    return digest(certificate).hexdigest().encode() if digest else b''
