"""Between an SMTP server and qpy-tls, on DIR/run/tls: one connection per TLS session, or one to be told how things are.

    to qpy-tls      S + a client's socket       shake hands with him, as server
                    C + a client's socket       the same, and ask him for a certificate
                    W                           say now, and whenever it changes, whether there is TLS
                    ?                           after W: look again
    back            K version NUL cipher NUL binding NUL name NUL print LF      it stands: clear text follows
                    Z reason LF                 it does not, and the client is gone
                    A LF                        after W: there is TLS
                    N reason LF                 after W: there is none

binding: the hash of our certificate that SCRAM binds to (RFC 5929, 4), in hexadecimal; name, print: of the client's
certificate, if he showed one: the name it is for, its SHA-256.
"""
SERVE, ASK, WATCH, LOOK = b'S', b'C', b'W', b'?'
STANDS, FAILED, AVAILABLE, NONE = b'K', b'Z', b'A', b'N'
MOST = 2000             # bytes of an answer
FIELD_MAX = 255

_SAFE = bytes(c if 32 < c < 127 else ord('?') for c in range(256))


class Tls:
    """What protects a session: see above."""

    __slots__ = ('version', 'cipher', 'binding', 'name', 'print')

    def __init__(self, version, cipher, binding=b'', name=b'', print=b''):
        self.version, self.cipher, self.binding = version, cipher, binding
        self.name, self.print = name, print


def stands(tls):
    """The answer K."""
    fields = (tls.version, tls.cipher, tls.binding, tls.name, tls.print)
    return STANDS + b'\0'.join(field[:FIELD_MAX].translate(_SAFE) for field in fields) + b'\n'


def said(letter, reason=b''):
    """One of the others."""
    return letter + bytes(c if 32 <= c < 127 else 63 for c in reason[:FIELD_MAX]) + b'\n'


def parse(line):
    """(letter, Tls or reason) of an answer without its LF; ValueError."""
    letter, rest = line[:1], line[1:]
    if letter == STANDS:
        fields = rest.split(b'\0')
        if len(fields) != len(Tls.__slots__):
            raise ValueError('an answer of qpy-tls with %d fields' % len(fields))
        return letter, Tls(*fields)
    if letter not in (FAILED, AVAILABLE, NONE):
        raise ValueError('an answer of qpy-tls that is none')
    return letter, rest
