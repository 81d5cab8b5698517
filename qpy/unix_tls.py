"""TLS by OpenSSL, without a socket: bytes in, bytes out.  The only file that knows it.

    context = client()                              TLS 1.2 or better, the certificate is not looked at
    context = client(verify=True, cas=b'/path')     it must verify, for the name given to the Stream
    stream = Stream(context, b'mx.example.org')
    stream.feed(bytes from the other side); stream.handshake() -> True when it stands
    stream.take() -> bytes for the other side       after each of these calls
    stream.write(data); stream.read() -> data       afterwards

    context = server(b'/path')                      for those who connect to us; the file holds key and certificates
    context.sni_callback = by_name(choose)          another context by the name the client asks for
    certificate_of(context) -> (DER, {names and dates})

It uses _ssl, which is the interpreter's own binding, and not ssl, the layer of Python above it: that one brings 38
more modules (re, enum, socket, selectors ...), 2 MB and as much time again, for classes that wrap sockets, of which
nothing is used here; and it hides the chain of certificates until 3.13.

What others put into the environment of OpenSSL is removed before it is loaded: OPENSSL_CONF names code to load.
"""
from qpy import unix

for _name in (b'OPENSSL_CONF', b'OPENSSL_CONF_INCLUDE', b'OPENSSL_MODULES', b'OPENSSL_ENGINES', b'SSL_CERT_FILE',
              b'SSL_CERT_DIR', b'SSLKEYLOGFILE'):
    unix.environ.pop(_name, None)

import _ssl         # noqa: E402 - after the environment is clean

TLS_1_2 = 0x0303
CLIENT, SERVER = _ssl.PROTOCOL_TLS_CLIENT, _ssl.PROTOCOL_TLS_SERVER
CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED = _ssl.CERT_NONE, _ssl.CERT_OPTIONAL, _ssl.CERT_REQUIRED
DER = _ssl.ENCODING_DER
CHUNK = 65536
FORWARD = 'ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!aNULL:!PSK:!SRP'      # of TLS 1.2: a key that is stolen opens nothing old
WEAK = 'DEFAULT:@SECLEVEL=1'        # who sends in the clear otherwise may as well use a short key


class TlsError(OSError):
    """TLS failed.  words: why, for people.  verify: the certificate was the reason."""

    def __init__(self, problem):
        self.verify = isinstance(problem, _ssl.SSLCertVerificationError)
        message = getattr(problem, 'verify_message', '') if self.verify else getattr(problem, 'reason', '')
        words = (message or problem.strerror or 'TLS failed').replace('_', ' ')
        self.words = (words if self.verify else words.lower()).encode('ascii', 'replace')
        super().__init__(problem.errno, words)


def client(verify=False, cas=None, data=b''):
    """A context for connecting.  verify: the certificate must be signed by one that is trusted and be valid for the
    Stream's name (its subjectAltName: RFC 6125, 6.4; RFC 8461, 4.1).

    Trusted are the certificates in the file cas (PEM), else the system's; or that in data (DER), which need not be a
    root, and then names are the caller's business (`peer`).  OSError if they cannot be read."""
    context = _ssl._SSLContext(CLIENT)
    context.minimum_version = TLS_1_2
    context.options &= ~_ssl.OP_IGNORE_UNEXPECTED_EOF          # that a connection was cut is to be seen
    context.options |= _ssl.OP_NO_RENEGOTIATION | _ssl.OP_NO_COMPRESSION
    context._host_flags = _ssl.HOSTFLAG_NEVER_CHECK_SUBJECT | _ssl.HOSTFLAG_NO_PARTIAL_WILDCARDS
    if not verify:
        context.check_hostname = False
        context.verify_mode = CERT_NONE
        context.set_ciphers(WEAK)
        return context
    if data:
        context.check_hostname = False
        context.verify_flags |= _ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        trust(context, cas, data)
    except _ssl.SSLError as problem:
        raise TlsError(problem) from None
    return context


def server(path, clients=None):
    """A context for those who connect to us: TLS 1.2 or better, no session tickets (their key would never change).

    path: PEM, a private key without a pass phrase and its chain of certificates.  clients: clients are asked for a
    certificate; who shows one must have one of those in this file (PEM), or signed by one of them.  OSError."""
    context = _ssl._SSLContext(SERVER)
    context.minimum_version = TLS_1_2
    context.options |= _ssl.OP_NO_RENEGOTIATION | _ssl.OP_NO_COMPRESSION | _ssl.OP_CIPHER_SERVER_PREFERENCE \
        | _ssl.OP_NO_TICKET
    context.options &= ~_ssl.OP_IGNORE_UNEXPECTED_EOF
    context.num_tickets = 0
    context.set_ciphers(FORWARD)
    try:
        context.load_cert_chain(unix.fsdecode(path), None, lambda: b'')
        if clients:
            context.verify_mode = CERT_OPTIONAL
            context.verify_flags |= _ssl.VERIFY_X509_PARTIAL_CHAIN
            trust(context, clients, b'')
    except _ssl.SSLError as problem:
        raise TlsError(problem) from None
    return context


def by_name(choose):
    """An sni_callback: choose(name as bytes, or None) -> the context to go on with, None: this one."""
    def asked(tls, name, _):
        tls.context = choose(None if name is None else name.encode('ascii')) or tls.context
    return asked


def certificate_of(context):
    """(DER, what is in it) of a server's own certificate, as a client sees it: by shaking hands with ourselves, so that
    key and certificate are known to work together.  TlsError."""
    ours, theirs = Stream(context, server=True), Stream(client())
    done = False
    while not done:
        theirs.handshake()
        ours.feed(theirs.take())
        done = ours.handshake()
        theirs.feed(ours.take())
    theirs.handshake()
    found = theirs.tls.get_unverified_chain()[0]
    return found.public_bytes(DER), found.get_info()


def trust(context, cas, data):
    """Load what is trusted."""
    if data:
        context.load_verify_locations(None, None, data)
    elif cas:
        context.load_verify_locations(unix.fsdecode(cas), None, None)
    else:
        context.set_default_verify_paths()      # a directory by hashes: only what is needed is ever read


class Stream:
    """One connection's TLS.  name: of the other side, asked for by SNI and, where verified, found in its
    certificate."""

    __slots__ = ('incoming', 'outgoing', 'tls', 'ended', 'cut')

    def __init__(self, context, name=None, server=False):
        self.incoming, self.outgoing = _ssl.MemoryBIO(), _ssl.MemoryBIO()
        self.ended = False          # nothing more comes
        self.cut = False            # ... and the other side did not say that this is the end
        self.tls = context._wrap_bio(self.incoming, self.outgoing, server_side=server,
                                     server_hostname=None if name is None else name.decode('ascii'))

    def feed(self, data):
        """Bytes of the other side; b'' is the end of the connection."""
        self.incoming.write(data) if data else self.incoming.write_eof()

    def take(self):
        """Bytes for the other side."""
        return self.outgoing.read()

    def handshake(self):
        """Go on with it; True when it is done.  TlsError if it cannot be done."""
        try:
            self.tls.do_handshake()
        except _ssl.SSLWantReadError:
            return False
        except (_ssl.SSLError, _ssl.SSLZeroReturnError) as problem:
            raise TlsError(problem) from None
        return True

    def read(self, limit=CHUNK):
        """What has arrived, b'' if nothing is complete or (see `ended`) nothing will come.  TlsError."""
        try:
            data = self.tls.read(limit)
        except _ssl.SSLWantReadError:
            return b''
        except _ssl.SSLZeroReturnError:
            data = b''
        except _ssl.SSLEOFError:
            data, self.cut = b'', True
        except _ssl.SSLError as problem:
            raise TlsError(problem) from None
        self.ended = not data
        return data

    def more(self):
        """Whether read() may have something: to ask it in vain costs an exception."""
        return bool(self.incoming.pending or self.tls.pending())

    def write(self, data):
        """Encrypt data (not empty).  TlsError."""
        try:
            self.tls.write(data)
        except _ssl.SSLError as problem:
            raise TlsError(problem) from None

    def close(self):
        """Say that nothing follows (close_notify); the answer is not waited for."""
        try:
            self.tls.shutdown()
        except _ssl.SSLError:
            pass

    def peer(self):
        """(DER, what is in it) of the certificate that the other side has shown and that was verified, None if there is
        none."""
        shown = self.tls.getpeercert(True)
        return (shown, self.tls.getpeercert(False)) if shown else None

    def words(self):
        """b'TLSv1.3 TLS_AES_256_GCM_SHA384': protocol and cipher."""
        cipher = self.tls.cipher()
        return b'%s %s' % ((self.tls.version() or 'TLS').encode(), (cipher[0] if cipher else 'none').encode())

    def chain(self):
        """[DER] of the certificates the other side sent, its own first."""
        return [certificate.public_bytes(DER) for certificate in self.tls.get_unverified_chain() or ()]
