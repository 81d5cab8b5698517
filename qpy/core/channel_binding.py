"""tls-server-end-point (RFC 5929, section 4): what a server's certificate is known by on both ends of a TLS connection."""
from _hashlib import openssl_sha224, openssl_sha256, openssl_sha384, openssl_sha512

from qpy.core import dane

OID = 0x06
RSA, ECDSA = bytes.fromhex('2a864886f70d0101'), bytes.fromhex('2a8648ce3d0403')
# the last byte of the signature's algorithm: its hash; MD5 and SHA-1 count as SHA-256
HASHES = {RSA + b'\x04': openssl_sha256, RSA + b'\x05': openssl_sha256, RSA + b'\x0b': openssl_sha256,
          RSA + b'\x0c': openssl_sha384, RSA + b'\x0d': openssl_sha512, RSA + b'\x0e': openssl_sha224,
          bytes.fromhex('2a8648ce3d0401'): openssl_sha256, ECDSA + b'\x01': openssl_sha224,
          ECDSA + b'\x02': openssl_sha256, ECDSA + b'\x03': openssl_sha384, ECDSA + b'\x04': openssl_sha512}


def end_point(certificate):
    """The binding of a certificate (DER); b'' where none is defined: signed by an algorithm that is not one with one
    hash (RSA-PSS, Ed25519), or no certificate at all."""
    try:
        tag, at, _ = dane.element(certificate, 0)
        _, _, end = dane.element(certificate, at)
        inner, at, _ = dane.element(certificate, end)
        kind, begin, end = dane.element(certificate, at)
    except ValueError:
        return b''
    if (tag, inner, kind) != (dane.SEQUENCE, dane.SEQUENCE, OID):
        return b''
    found = HASHES.get(certificate[begin:end])
    return found(certificate).digest() if found else b''
