"""DANE for SMTP (RFC 7672): does a server's certificate match its TLSA records (RFC 6698)?

A record is (usage, selector, matching type, data).  Usable are usages 2 (DANE-TA: the authority that signed it) and 3
(DANE-EE: the certificate itself, whatever names and dates it has); the others mean nothing for mail (RFC 7672, 3.1.3).
"""
from _hashlib import openssl_sha256 as sha256, openssl_sha512 as sha512

from qpy.core import text

RECORDS = 50            # of one answer, looked at most
TA, EE = 2, 3
WHOLE, KEY = 0, 1       # selectors: the certificate, or its public key
DIGESTS = {0: bytes, 1: lambda data: sha256(data).digest(), 2: lambda data: sha512(data).digest()}
SIZES = {1: 32, 2: 64}


def parse(lines):
    """[record] of the lines b'USAGE SELECTOR TYPE HEX' in an answer of qpy-resolve; ValueError for what is none."""
    records = []
    for line in lines.split(b'\n')[:RECORDS] if lines else ():
        fields = line.split(b' ')
        numbers = [text.parse_uint(field, 255) for field in fields[:3]]
        if len(fields) != 4 or None in numbers:
            raise ValueError('bad line in an answer')
        records.append((*numbers, bytes.fromhex(fields[3].decode('ascii', 'replace'))))
    return records


def usable(records):
    """Those that say something we can check.  An authority that is given by nothing but its key cannot be checked unless
    the server sends its certificate, which matching shows."""
    return [record for record in records
            if record[0] in (TA, EE) and record[1] in (WHOLE, KEY) and record[2] in DIGESTS and record[3]
            and len(record[3]) == SIZES.get(record[2], len(record[3]))]


def matches(record, certificate):
    """Whether this record means this certificate (DER)."""
    _, selector, kind, data = record
    try:
        chosen = certificate if selector == WHOLE else public_key(certificate)
    except ValueError:
        return False
    return DIGESTS[kind](chosen) == data


def end_entity(records, chain):
    """Whether a DANE-EE record means the server's own certificate, the first of chain."""
    return bool(chain) and any(record[0] == EE and matches(record, chain[0]) for record in records)


def authority(records, chain):
    """The certificate (DER) of an authority that a DANE-TA record means: in the chain, or in the record; or b''.

    Whether it signed the server's certificate remains to be seen."""
    for record in records:
        if record[0] == TA:
            for certificate in chain:
                if matches(record, certificate):
                    return certificate
            if record[1:3] == (WHOLE, 0):
                return record[3]
    return b''


# --- as much of DER as that takes (X.690) -------------------------------------------------------------------

SEQUENCE, VERSION = 0x30, 0xa0
BEFORE_KEY = 5          # fields: serial number, signature, issuer, validity, subject (RFC 5280, 4.1)


def element(data, at):
    """(tag, begin of the contents, end) of the element at `at`; ValueError."""
    if at + 2 > len(data):
        raise ValueError('the data end too early')
    tag, size, begin = data[at], data[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7f
        if not 1 <= count <= 4 or begin + count > len(data):
            raise ValueError('a length that is none')
        size, begin = int.from_bytes(data[begin:begin + count], 'big'), begin + count
    if begin + size > len(data):
        raise ValueError('an element longer than the data')
    return tag, begin, begin + size


def public_key(certificate):
    """The SubjectPublicKeyInfo of an X.509 certificate, both DER; ValueError."""
    tag, at, _ = element(certificate, 0)
    inner, at, _ = element(certificate, at)
    if tag != SEQUENCE or inner != SEQUENCE:
        raise ValueError('no certificate')
    tag, _, end = element(certificate, at)
    at = end if tag == VERSION else at
    for _ in range(BEFORE_KEY):
        at = element(certificate, at)[2]
    tag, _, end = element(certificate, at)
    if tag != SEQUENCE:
        raise ValueError('no public key')
    return certificate[at:end]
