"""qpy-tls, as qpyt: TLS for the clients of SMTP servers, which never see a private key.

DIR/run/tls, see core.tls_front: a server hands over its client's socket, and gets clear text back on the connection
that it handed it over on.  Reads: DIR/keys, control/tlsclients, control/me.  The first argument is the number of workers;
a master that reads nothing foreign keeps them.  Exit: 0 when the chain ends, else 111.
"""
from qpy import unix
from qpy.core import exits, manifest, text, tls_certificate, tls_front
from qpy.lib import confine, inherit, master, packets, program, service
from qpy.lib.loop import Loop
from qpy.qpyt.certificates import Certificates
from qpy.qpyt.relay import Relay

SESSIONS = 5000         # at a time in one worker
FAREWELL = 3.0          # seconds for sessions to end when the chain does
FIRST = 1 << 10         # bytes of what a server says first
LONGEST = 86400.0       # seconds between two looks at their dates: clocks may jump
PAUSE = 1.0             # seconds between two looks at the files, while clients come
ACCEPTS = 8             # connections taken in one pass: the other workers want some too


class Front:
    """What one worker has."""

    def __init__(self, home, loop, certificates, servers):
        """servers: the uids that may ask."""
        self.home, self.loop, self.certificates, self.servers = home, loop, certificates, servers
        self.relays, self.watchers = set(), set()
        self.looked, self.timer, self.ending = 0.0, None, False
        self.available = certificates.default is not None
        self.plan()

    # --- who comes ---

    def listen(self, sock):
        """Serve everybody who connects."""
        self.loop.watch_shared(sock.fileno(), lambda: self.accept(sock))

    def accept(self, listening):
        """Take those who wait."""
        try:
            for _ in range(ACCEPTS):
                found = unix.accept(listening)
                if found is None:
                    return
                self.arrived(found[0])
        except unix.error as problem:
            program.warn(b'unable to accept: ' + program.reason(problem))
            self.loop.forget(listening.fileno())
            self.loop.after(packets.PAUSE, lambda: self.listen(listening))

    def arrived(self, sock):
        """A server, or somebody who says so."""
        if unix.peercred(sock)[1] not in self.servers:
            return sock.close()
        return self.loop.watch(sock.fileno(), lambda: self.first(sock))

    def first(self, sock):
        """What it wants."""
        try:
            packet = unix.recv_packet(sock, FIRST, 1)
        except unix.error:
            packet = b'', []
        if packet is None:
            return
        data, fds = packet
        self.loop.forget(sock.fileno())
        if data == tls_front.WATCH and not fds:
            return self.watch(Watcher(self, sock))
        if data in (tls_front.SERVE, tls_front.ASK) and len(fds) == 1:
            return self.serve(sock, unix.socket_of(fds[0]), data == tls_front.ASK)
        for fd in fds:
            unix.close_quietly(fd)
        return sock.close()

    def serve(self, plain, wire, asking):
        """A session, if there can be one."""
        self.look()
        if self.available and len(self.relays) < SESSIONS:
            return self.relays.add(Relay(self, plain, wire, asking))
        try:
            unix.write(plain.fileno(), tls_front.said(tls_front.FAILED, self.certificates.reason or b'too many sessions'))
        except unix.error:
            pass
        wire.close()
        return plain.close()

    def describe(self, stream, asking):
        """The Tls of a handshake that is done."""
        version, _, cipher = stream.words().partition(b' ')
        chosen = self.certificates.by_context(stream.tls.context)
        shown = stream.peer() if asking else None
        name, mark = (tls_certificate.person(shown[1]), tls_certificate.fingerprint(shown[0])) if shown else (b'', b'')
        return tls_front.Tls(version, cipher, chosen.binding if chosen else b'', name, mark)

    def left(self, relay):
        """A session has ended."""
        self.relays.discard(relay)
        if self.ending and not self.relays:
            self.loop.stop()

    # --- how things are ---

    def watch(self, watcher):
        """A server wants to know whether there is TLS: one with a single client, as qpy-popup, asks this alone."""
        self.look()
        self.watchers.add(watcher)
        watcher.tell(self.available, self.certificates.reason)

    def look(self):
        """Look at the files, not more than once in PAUSE."""
        now = unix.monotonic()
        if now < self.looked + PAUSE:
            return
        self.looked = now
        before, self.available = self.available, self.certificates.look()
        self.plan()
        if self.available != before:
            for watcher in list(self.watchers):
                watcher.tell(self.available, self.certificates.reason)

    def plan(self):
        """Look again when a certificate begins or ends."""
        if self.timer is not None:
            self.timer.cancel()
        when = self.certificates.changes(unix.time())
        self.timer = when and self.loop.after(min(max(when - unix.time(), PAUSE), LONGEST), self.look)

    def end(self):
        """The chain ends: sessions have a moment for their last words."""
        self.ending = True
        if not self.relays:
            return self.loop.stop()
        return self.loop.after(FAREWELL, self.loop.stop)


class Watcher:
    """A server that wants to know."""

    __slots__ = ('front', 'sock')

    def __init__(self, front, sock):
        self.front, self.sock = front, sock
        front.loop.watch(sock.fileno(), self.readable)

    def tell(self, available, reason):
        """Say how it is; who does not listen is left."""
        line = tls_front.said(tls_front.AVAILABLE) if available else tls_front.said(tls_front.NONE, reason)
        try:
            if unix.write(self.sock.fileno(), line) == len(line):
                return
        except unix.error:
            pass
        self.close()

    def readable(self):
        """It asks for another look, or has gone."""
        try:
            data = unix.read(self.sock.fileno(), FIRST)
        except BlockingIOError:
            return
        except unix.error:
            data = b''
        if not data:
            return self.close()
        return self.front.look()

    def close(self):
        """The end."""
        self.front.watchers.discard(self)
        self.front.loop.forget(self.sock.fileno())
        self.sock.close()


def main(home, args):
    """qpy-tls [WORKERS]"""
    count = text.parse_uint(args[0], manifest.WORKERS_MOST) if args else min(max(2, len(unix.sched_getaffinity(0))), 8)
    if not count or len(args) > 1:
        raise program.Fatal(exits.PERM, b'usage: qpy-tls [WORKERS]')
    found = service.begin(b'tls', [])
    servers = (packets.owner_of(home, b'qpyd'), 0)
    certificates = Certificates(home, unix.shared_memory(8))
    unix.raise_descriptor_limit()
    confine.confine(home, b'tls-master')
    return master.run(found, lambda found: work(home, found, certificates, servers), count)


def work(home, found, certificates, servers):
    """One worker: it reads what clients send."""
    loop = Loop()
    front = Front(home, loop, certificates, servers)
    inherit.life(loop, found, front.end)
    for sock in inherit.sockets(found, b'tls'):
        front.listen(sock)
    confine.confine(home, b'tls')
    loop.run()
    return exits.OK
