"""The Received lines of the servers, in qmail's form.

    Received: from mail.example.org (HELO foo) (joe@192.0.2.7)
      by mx.example.com with ESMTPS (TLSv1.3 TLS_AES_256_GCM_SHA384); 25 Nov 2026 02:16:14 -0000
"""
from qpy.core import text

_SAFE = frozenset(b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.@%+/=:-[]')
_TABLE = bytes(byte if byte in _SAFE else ord('?') for byte in range(256))
UNKNOWN = b'unknown'


def safe(value: bytes) -> bytes:
    """A foreign word as it may stand in a header: every byte but those of host names and addresses as `?`."""
    return value.translate(_TABLE)


def line(name: bytes, helo: bytes, info: bytes, ip: bytes, local: bytes, protocol: bytes,
         date: bytes, tls: bytes = b'') -> bytes:
    """The two lines that a server puts on top of a message. Empty name, ip, local: `unknown`; empty info:
    left out.

    name: of the client, from DNS; helo: what it calls itself; info: user at the client; date: header_date; tls:
    version and cipher, if that protected it."""
    protected = b' (%s)' % tls if tls else b''
    greeting = b' (HELO %s)' % safe(helo) if helo and text.lower(helo) != text.lower(name or UNKNOWN) else b''
    user = safe(info) + b'@' if info else b''
    return b'Received: from %s%s (%s%s)\n  by %s with %s%s; %s\n' % (
        safe(name or UNKNOWN), greeting, user, safe(ip or UNKNOWN), safe(local or UNKNOWN), protocol, protected, date)


def hidden(local: bytes, protocol: bytes, date: bytes, tls: bytes = b'') -> bytes:
    """The same, telling nothing about the client (RFC 5321, 7.6)."""
    protected = b' (%s)' % tls if tls else b''
    return b'Received: by %s with %s%s; %s\n' % (safe(local or UNKNOWN), protocol, protected, date)
