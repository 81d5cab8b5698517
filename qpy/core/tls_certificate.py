"""What is read in certificates: names, and what binds a login to one (RFC 5929)."""
from _hashlib import openssl_sha256 as sha256

from qpy.core import channel_binding


def names(info):
    """{lower-case DNS name} of a certificate's subjectAltName, `*.` in front of those that stand for one label."""
    return {value.lower().encode('ascii', 'replace') for kind, value in info.get('subjectAltName', ()) if kind == 'DNS'}


def is_for(info, wanted):
    """Whether a certificate is for one of these names (RFC 6125, 6.4)."""
    table = dict.fromkeys(names(info), True)
    return any(choose(table, name, False) for name in wanted)


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


def first(table, names):
    """The same for the first of these names that there is one for; None."""
    return next(filter(None, (choose(table, name, None) for name in names)), None)


def not_ours(home, names):
    """What is wrong where there is none."""
    return b'no certificate in %s/keys is for %s; put one there by qpy-cert, or call the one that all clients are to get ' \
           b'whatever its names default.pem' % (home, b' or '.join(dict.fromkeys(names)))


def binding(certificate):
    """What tls-server-end-point is for a certificate (DER), in hexadecimal; b'' where it is undefined (Ed25519, PSS)."""
    return channel_binding.end_point(certificate).hex().encode()
