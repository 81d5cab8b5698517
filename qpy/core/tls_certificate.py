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


def general(files, own, default):
    """(the path of the certificate for clients who ask for none of them, whether it is for this host) of files, {path: names} in
    their order: the one at the path default, whatever its names; else the one for the first of these names of this host that
    there is one for; else the first."""
    if default in files:
        return default, True
    found = first({name: path for path, names in reversed(files.items()) for name in names}, own)
    return found or next(iter(files), None), bool(found)


def not_ours(path, own):
    """What is wrong with one that all clients get, and that is not for this host."""
    return b'%s: not for %s, and yet what all clients get, for want of a better one; put one for that name beside it by qpy-cert, ' \
           b'or, if others know this host by the name in it, call it default.pem' % (path, b' or '.join(dict.fromkeys(own)))


def binding(certificate):
    """What tls-server-end-point is for a certificate (DER), in hexadecimal; b'' where it is undefined (Ed25519, PSS)."""
    return channel_binding.end_point(certificate).hex().encode()
