"""One TCP connection to a mail server in the event loop, and the ones kept open for the next message.

A Connection carries a core session's bytes, by TLS when the session wants that; it decides nothing about mail.
"""
from qpy import unix, unix_tls
from qpy.core import remote_report
from qpy.core.smtproutes import SMTPS

CHUNK = 65536           # read at a time; written ahead at most twice that
SILENT = b'It did not answer in time'
HANDSHAKE = 60          # seconds for all of it (T-03); below timeoutremote, as nobody has to think


class NoSource(OSError):
    """The address of ours that mail is to leave from cannot be used."""


class Connection:
    """A connection to key = (address, or path of a Unix socket; port; kind; login; our address, or b'' for any): see
    core.smtproutes and core.outgoingip.

    shield: what its bytes are protected by: b'' nothing, b'none' nothing on purpose, b'tls', b'verified NAME',
    b'dane NAME', b'dane NAME for DOMAIN'.
    on_done(connection): the session's transaction has its report (the connection may be over, see `usable`).
    """

    __slots__ = ('loop', 'key', 'sock', 'session', 'outgoing', 'source', 'on_done', 'on_connected', 'timer',
                 'last', 'patience', 'transaction', 'writing', 'make_stream', 'inspect', 'stream', 'deadline',
                 'shield', 'ours')

    def __init__(self, loop, key):
        self.loop, self.key = loop, key
        self.sock = self.session = self.source = self.on_done = self.on_connected = None
        self.outgoing = b''
        self.timer = self.transaction = self.make_stream = self.inspect = self.stream = None
        self.deadline = None
        self.last = self.patience = 0
        self.writing, self.shield = False, b''
        self.ours = b''         # our address, for reports

    # --- connecting ---

    def connect(self, patience, on_connected):
        """Begin; on_connected(reason) with b'' when it stands, else with words (b'timed out' for that).

        OSError if it failed at once; NoSource if our address cannot be used.
        """
        address, port = self.key[:2]
        self.sock = unix.socket_unix() if self.is_local else self._tcp_socket(address)
        try:
            self.sock.connect(address if self.is_local else (address.decode('ascii'), port))
        except BlockingIOError:
            if self.is_local:           # its queue is full; unlike with TCP nobody says when it is not
                self.close()
                raise
        except OSError:
            self.close()
            raise
        self.on_connected = on_connected
        self.timer = self.loop.after(patience, lambda: self._connected(unix.ETIMEDOUT))
        self.loop.watch(self.sock.fileno(), None, self._connect_ready)

    def _tcp_socket(self, address):
        """A socket that can reach address, bound to ours if that is prescribed; the port is chosen when it connects."""
        family = unix.AF_INET6 if b':' in address else unix.AF_INET
        sock = unix.socket(family, unix.SOCK_STREAM | unix.SOCK_CLOEXEC, 0)
        sock.setblocking(False)
        sock.setsockopt(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
        source = self.key[4]
        if source:
            try:
                sock.setsockopt(unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source.decode('ascii'), 0))
            except OSError as problem:
                sock.close()
                raise NoSource(problem.errno, problem.strerror) from None
        return sock

    @property
    def is_local(self):
        """Whether it is to a Unix socket."""
        return self.key[0].startswith(b'/')

    def _connect_ready(self):
        self._connected(self.sock.getsockopt(unix.SOL_SOCKET, unix.SO_ERROR))

    def _connected(self, errno):
        self.timer.cancel()
        self.timer = None
        self.loop.forget(self.sock.fileno())
        done, self.on_connected = self.on_connected, None
        if errno:
            self.close()
        elif not self.is_local:
            self.ours = self.sock.getsockname()[0].encode()
        done(errno)

    def ends(self):
        """(our address, theirs) as text; equal ones mean that this host talks to itself."""
        return self.sock.getsockname()[0], self.sock.getpeername()[0]

    # --- a transaction ---

    def start(self, session, patience, make_stream, inspect):
        """Speak SMTP: each step of the other side may take `patience` seconds.  make_stream() -> a Stream for TLS;
        inspect(stream) -> b'', or why the other side is not who it should be."""
        self.session, self.patience, self.make_stream, self.inspect = session, patience, make_stream, inspect

    def carry(self, transaction, source, on_done):
        """Do this transaction; the message comes from source."""
        self.transaction, self.source, self.on_done = transaction, source, on_done
        self.last = unix.monotonic()
        if self.timer is None:          # else it is still that of an earlier transaction
            self.timer = self.loop.after(self.patience, self._look_at_clock)
        self.loop.watch(self.sock.fileno(), self._readable)
        self.session.begin(transaction)
        if self.key[2] == SMTPS and self.stream is None:
            self._begin_tls()
        self._pump()
        if transaction.report is not None:
            self.loop.call_soon(self._settle)

    @property
    def usable(self):
        """True if another transaction may follow."""
        return self.sock is not None and self.session.idle and not self.outgoing

    def lost(self, reason):
        """Give it up: what runs on it ends with this reason."""
        if self.session is not None:
            self.session.lost(reason)
        self._settle()

    def _look_at_clock(self):
        self.timer = None
        if self.transaction is None:
            return None
        left = self.last + self.patience - unix.monotonic()
        if left <= 0:
            return self.lost(SILENT)
        self.timer = self.loop.after(left, self._look_at_clock)
        return None

    def _readable(self):
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as problem:
            return self.lost(_words(problem))
        self.last = unix.monotonic()
        self._take_in(data)
        if not self.session.over:
            if not self._pump() and self.session.waiting and not self.is_local:
                self._acknowledge()
        self._settle()

    def _acknowledge(self):
        """More replies are to come, and nothing of ours goes there now: a server that sends them one by one would wait 40 ms
        for our kernel's word on each."""
        if self.sock is not None:
            self.sock.setsockopt(unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)

    def _take_in(self, data):
        """What the other side said, b'' when it closed."""
        if self.stream is not None:
            return self._decrypt(data)
        self.session.feed(data) if data else self.session.eof()
        if self.session.wants_tls:
            self._begin_tls()
        return None

    # --- TLS ---

    def _begin_tls(self):
        """Our first words of the handshake."""
        self.stream = self.make_stream()
        self.deadline = self.loop.after(HANDSHAKE, lambda: self._failed_tls(b'the handshake took too long', True))
        self._shake_hands()

    def _shake_hands(self):
        """A step of the handshake; True when it is over and went well."""
        try:
            done = self.stream.handshake()
        except unix_tls.TlsError as problem:
            self._failed_tls(problem.words)
            return False
        self.outgoing += self.stream.take()
        if not done:
            return False
        self.deadline.cancel()
        self.deadline = None
        wrong = self.inspect(self.stream)
        self.session.insecure(wrong) if wrong else self.session.secured(self.stream.words(), self._chain())
        return not wrong

    def _chain(self):
        """The server's certificates, where a login may be bound to them."""
        return self.stream.chain() if self.session.login is not None else ()

    def _failed_tls(self, reason, settle=False):
        """No TLS with this server.  What TLS itself has to say about it (an alert) is said."""
        self.outgoing += self.stream.take()
        self.session.insecure(reason)
        if settle:
            self._settle()

    def _decrypt(self, data):
        """Bytes of TLS."""
        self.stream.feed(data)
        if self.deadline is not None and not self._shake_hands():
            return
        try:
            while words := self.stream.read():
                self.session.feed(words)
        except unix_tls.TlsError as problem:
            return self.session.lost(b'TLS failed: ' + problem.words)
        if self.stream.ended and not self.session.over:
            self.session.eof()
        return None

    def _pump(self):
        """Send what there is to be sent, and as much of the message as the other side takes.  True if any of it left."""
        left = False
        try:
            while True:
                self._fill()
                if not self.outgoing:
                    self._want_writable(False)
                    break
                sent = self.sock.send(self.outgoing)
                left = True
                self.last = unix.monotonic()
                self.outgoing = self.outgoing[sent:]
        except BlockingIOError:
            self._want_writable(True)
        except OSError as problem:
            self._broken(problem)
        return left

    def _fill(self):
        """Take from the session, and read the message while there is little to send."""
        words = self.session.take()
        if self.session.wants_body:
            words = self._read_body(words)
        if words and self.stream is not None:
            self.stream.write(words)
            words = self.stream.take()
        self.outgoing = self.outgoing + words if self.outgoing else words

    def _read_body(self, words):
        """These words, and what follows of the message."""
        pieces, size = [words], len(self.outgoing) + len(words)
        while self.session.wants_body and size < CHUNK:
            try:
                chunk = self.source.read()
            except OSError:
                self.session.abandon(b'Z', remote_report.NO_READ)
                self.outgoing = b''
                self._settle()
                return b''
            self.session.body(chunk) if chunk else self.session.body_end()
            pieces.append(self.session.take())
            size += len(pieces[-1])
        return b''.join(pieces)

    def _writable(self):
        self._pump()
        self._settle()

    def _want_writable(self, wanted):
        if wanted != self.writing and self.sock is not None:
            self.writing = wanted
            self.loop.watch(self.sock.fileno(), self._readable, self._writable if wanted else None)

    def _broken(self, problem):
        """Sending failed: what the other side said before is still to be read."""
        try:
            for _ in range(16):
                data = self.sock.recv(CHUNK)
                if not data or self.session.over:
                    break
                self._take_in(data)
        except OSError:
            pass
        self.lost(_words(problem))

    def _settle(self):
        """Close what is over, and tell who waits for the transaction."""
        if self.session is not None and self.session.over and self.sock is not None:
            self._last_words()
            self.close()
        transaction = self.transaction
        if transaction is not None and transaction.report is not None:
            done, self.on_done, self.transaction, self.source = self.on_done, None, None, None
            done(self)

    # --- the end ---

    def say_goodbye(self):
        """QUIT without waiting for the answer, and close."""
        if self.sock is not None and self.session is not None:
            self.session.quit()
            self._last_words()
        self.close()

    def _last_words(self):
        """What the session still has to say (QUIT), or TLS (an alert), if it can be said at once."""
        words = self.session.take()
        if self.deadline is not None:       # in the middle of a handshake nothing is said in the clear
            words, self.outgoing = self.outgoing, b''
        try:
            if words and self.stream is not None and self.deadline is None:
                self.stream.write(words)
                self.stream.close()
                words = self.stream.take()
            if words and not self.outgoing:
                self.sock.send(words)
        except OSError:
            pass

    def close(self):
        """Close now, without a word."""
        for timer in (self.timer, self.deadline):
            if timer is not None:
                timer.cancel()
        self.deadline = None
        if self.sock is not None:
            self.loop.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None


def _words(problem):
    return (problem.strerror or 'connection lost').encode()


class Pool:
    """Connections without work, kept for the next message to the same address for a short while."""

    IDLE = 10           # seconds one is kept: a busy destination's next message comes within milliseconds
    TRANSACTIONS = 100  # on one connection; some servers count
    EACH, ALL = 20, 200     # kept for one address; kept at all

    __slots__ = ('loop', 'idle', 'count', 'timer')

    def __init__(self, loop):
        self.loop, self.idle, self.count = loop, {}, 0      # idle: {(key, shield): [(connection, until when)]}
        self.timer = None

    def has(self, key, shields):
        """Whether take() would give one."""
        return any((key, shield) in self.idle for shield in shields)

    def take(self, key, shields):
        """A connection to key, protected by one of shields, that can be used at once; or None."""
        for shield in shields:
            waiting = self.idle.get((key, shield))
            if waiting:
                connection, _ = waiting.pop()
                self._dropped((key, shield))
                return connection
        return None

    def put(self, connection):
        """Keep it, or say good-bye if there are enough."""
        key = connection.key, connection.shield
        waiting = self.idle.setdefault(key, [])
        if (connection.session.transactions >= self.TRANSACTIONS or len(waiting) >= self.EACH
                or self.count >= self.ALL):
            if not waiting:
                del self.idle[key]
            return connection.say_goodbye()
        waiting.append((connection, unix.monotonic() + self.IDLE))
        self.count += 1
        if self.timer is None:
            self.timer = self.loop.after(self.IDLE, self._sweep)
        self.loop.watch(connection.sock.fileno(), lambda: self._remove(connection, False))

    def _sweep(self):
        """The time of those that have waited longest is over."""
        self.timer, now = None, unix.monotonic()
        self._part_with([connection for connection, until in self._all() if until <= now])
        left = [until for _, until in self._all()]
        if left:
            self.timer = self.loop.after(min(left) - now, self._sweep)

    def close(self):
        """Say good-bye to all."""
        self._part_with([connection for connection, _ in self._all()])

    def _all(self):
        return [entry for waiting in self.idle.values() for entry in waiting]

    def _part_with(self, connections):
        for connection in connections:
            self._remove(connection, True)

    def _remove(self, connection, politely):
        """Its time is over, or the other side closed it or said something nobody asked for."""
        key = connection.key, connection.shield
        for entry in self.idle.get(key, ()):
            if entry[0] is connection:
                self.idle[key].remove(entry)
                self._dropped(key)
                break
        connection.say_goodbye() if politely else connection.close()

    def _dropped(self, key):
        self.count -= 1
        if not self.idle[key]:
            del self.idle[key]
