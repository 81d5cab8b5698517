"""One TLS session: a client's socket on one side, the SMTP server's on the other, and OpenSSL between them.

Bytes that the client sent before the handshake never get here as clear text: whatever is in his socket is TLS, or the
handshake fails.  Neither side is read while HIGH bytes for the other one wait.
"""
from qpy import unix, unix_tls
from qpy.core import tls_front

READ = 65536
HIGH = 256 << 10            # bytes that may wait for one side
HANDSHAKE = 60.0            # seconds it may take
LINGER = 10.0               # seconds for the client to take what is left when the server has gone


class Relay:
    """front: qpyt.tls.Front; plain, wire: sockets; asking: the client is asked for a certificate."""

    __slots__ = ('front', 'plain', 'wire', 'stream', 'asking', 'stands', 'to_plain', 'to_wire', 'timer',
                 'plain_ended', 'wire_ended', 'plain_shut', 'wire_shut', 'watched')

    def __init__(self, front, plain, wire, asking):
        self.front, self.plain, self.wire, self.asking = front, plain, wire, asking
        self.stream = unix_tls.Stream(front.certificates.default.of(asking), server=True)
        self.stands = False
        self.to_plain, self.to_wire = b'', b''
        self.plain_ended = self.wire_ended = False      # nothing more comes from there
        self.plain_shut = self.wire_shut = False        # it has been told that nothing more comes
        self.watched = None
        self.timer = front.loop.after(HANDSHAKE, lambda: self.failed(b'no handshake within %d seconds' % HANDSHAKE))
        self.move()

    # --- what comes ---

    def from_wire(self):
        """Bytes of the client."""
        try:
            data = unix.read(self.wire.fileno(), READ)
        except BlockingIOError:
            return
        except unix.error:
            return self.close()
        try:
            self.stream.feed(data)
            if self.stands or self.shake():
                self.decrypt()
        except unix_tls.TlsError as problem:
            return self.failed(problem.words)
        if not data:
            self.wire_ended = True
            if not self.stands:
                return self.failed(b'the client left in the handshake')
        return self.move()

    def shake(self):
        """Go on with the handshake; True when it has just been done."""
        if not self.stream.handshake():
            return False
        self.timer.cancel()
        self.stands = True
        self.to_plain = tls_front.stands(self.front.describe(self.stream, self.asking))
        return True

    def decrypt(self):
        """All that is complete."""
        stream = self.stream
        while stream.more() and not stream.ended:
            data = stream.read()
            if not data:
                break
            self.to_plain += data
        self.wire_ended = self.wire_ended or self.stream.ended

    def from_plain(self):
        """Bytes of the server."""
        try:
            data = unix.read(self.plain.fileno(), READ)
        except BlockingIOError:
            return
        except unix.error:
            data = b''
        try:
            if data:
                self.stream.write(data)
            else:
                self.plain_ended = True
                self.stream.close()
        except unix_tls.TlsError:
            return self.close()
        return self.move()

    # --- what goes ---

    def move(self):
        """Write what can be written, then watch what there is to watch for."""
        self.to_wire += self.stream.take()
        try:
            if self.to_wire:
                self.to_wire = written(self.wire, self.to_wire)
        except unix.error:
            return self.close()
        try:
            if self.to_plain:
                self.to_plain = written(self.plain, self.to_plain)
        except unix.error:                  # the server has gone, but its last words may still be on their way
            self.to_plain, self.wire_ended = b'', True
        self.pass_ends_on()
        if self.wire_shut and self.wire_ended:
            return self.close()
        return self.watch()

    def pass_ends_on(self):
        """Who has ended: the other side hears of it when it has everything."""
        if self.wire_ended and not self.to_plain and not self.plain_shut:
            self.plain_shut = True
            shut(self.plain)
        if self.plain_ended and not self.to_wire and not self.wire_shut:
            self.wire_shut = True
            shut(self.wire)
            self.timer = self.front.loop.after(LINGER, self.close)

    def watch(self):
        """Read a side while there is room for its bytes, write to it while there are some."""
        wanted = (not self.wire_ended and len(self.to_plain) < HIGH, bool(self.to_wire),
                  self.stands and not self.plain_ended and len(self.to_wire) < HIGH, bool(self.to_plain))
        if wanted != self.watched:
            self.watched = wanted
            loop = self.front.loop
            loop.watch(self.wire.fileno(), self.from_wire if wanted[0] else None, self.move if wanted[1] else None)
            loop.watch(self.plain.fileno(), self.from_plain if wanted[2] else None, self.move if wanted[3] else None)

    # --- the end ---

    def failed(self, reason):
        """No session, or its end: the client gets OpenSSL's alert, the server the reason."""
        try:
            written(self.wire, self.to_wire + self.stream.take())
            if not self.stands:
                written(self.plain, tls_front.said(tls_front.FAILED, reason))
        except unix.error:
            pass
        self.close()

    def close(self):
        """Both sides, now."""
        if self.plain is None:
            return
        if self.timer is not None:
            self.timer.cancel()
        for sock in (self.wire, self.plain):
            self.front.loop.forget(sock.fileno())
        shut(self.wire, unix.SHUT_RDWR)     # the socket is not ours alone where the server is one shot
        self.wire.close()
        self.plain.close()
        self.plain = self.wire = None
        self.front.left(self)


def written(sock, data):
    """What sock did not take of data."""
    try:
        return data[unix.write(sock.fileno(), data):]
    except BlockingIOError:
        return data


def shut(sock, how=unix.SHUT_WR):
    """Say that nothing more comes."""
    try:
        sock.shutdown(how)
    except unix.error:
        pass
