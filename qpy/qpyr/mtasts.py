"""qpy-mtasts, as qpyr: what policy for mail a domain publishes by HTTPS (MTA-STS, RFC 8461).

DIR/run/mtasts: records S (a domain); back a record s: mode, patterns of exchangers, reason.  The mode is `none` where
there is no policy, or none that could be had: RFC 8461, 3.3 and 5.1, leave mail as it is then.  qpy-resolve is asked
for the domain's TXT record and the web server's addresses.

Policies are kept in DIR/tls/policies over a restart, so that who blocks DNS or the web server then does not undo them
(RFC 8461, 10.2); the file is written anew LATER seconds after a change, and at the end.

One worker answers; a master replaces it when it dies.
"""
from qpy import unix, unix_tls
from qpy.core import channel, exits, mta_sts, text
from qpy.lib import confine, controls, inherit, master, packets, program, service
from qpy.lib.loop import Loop
from qpy.qpyr.names import Names

PORT = 443
PATIENCE = 60           # seconds for one policy (RFC 8461, 3.3)
ADDRESSES = 3           # of a web server, tried in turn
CONNECT = 15            # seconds for one that is not the last
KEPT = 20000            # policies
AGAIN = 300             # seconds before a domain whose policy could not be had is asked again (RFC 8461, 3.3)
CHECKED = 600           # seconds between two looks whether a policy has changed
AT_A_TIME = 100         # policies on their way
LATER = 30              # seconds
FILE, NEW = b'policies', b'policies.new'
FILE_LIMIT = 64 << 20
DIRECTORY = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC


class Known:
    """What is known of a domain.  policy: or None; identity: of it; until: it is good for; checked: when to look again."""

    __slots__ = ('policy', 'identity', 'until', 'checked', 'reason')

    def __init__(self, policy, identity, until, checked, reason):
        self.policy, self.identity, self.until, self.checked, self.reason = policy, identity, until, checked, reason


class Policies:
    """All of them.  names: qpyr.names; context: for TLS; port: another one is for tests; directory: an open one, for
    the file, or -1."""

    __slots__ = ('loop', 'names', 'context', 'known', 'running', 'port', 'directory', 'timer')

    def __init__(self, loop, names, context, port=PORT, directory=-1):
        self.loop, self.names, self.context, self.port = loop, names, context, port
        self.known, self.running = {}, {}
        self.directory, self.timer = directory, None
        self._load()

    def _load(self):
        """What is still good of the file; its domains are asked whether it has changed when they are next asked about."""
        try:
            data = unix.read_file(FILE, FILE_LIMIT, self.directory) if self.directory >= 0 else b''
        except FileNotFoundError:
            return
        except unix.error as problem:
            return program.warn(b'unable to read tls/policies: ' + program.reason(problem))
        wall, now = int(unix.time()), unix.monotonic()
        for domain, identity, until, policy in mta_sts.parse_cache(data)[-KEPT:]:
            left = min(until - wall, policy.age)        # the clock may have been set back
            if left > 0:
                self.known[domain] = Known(policy, identity, now + left, 0, b'')

    def _later(self):
        if self.timer is None and self.directory >= 0:
            self.timer = self.loop.after(LATER, self.save)

    def save(self):
        """Write the file, if something has changed."""
        if self.timer is None:
            return
        self.timer.cancel()
        self.timer = None
        wall, now = int(unix.time()), unix.monotonic()
        data = mta_sts.build_cache([(domain, known.identity, wall + int(known.until - now), known.policy)
                                    for domain, known in self.known.items() if known.policy and known.until > now])
        try:
            fd = unix.open(NEW, unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC | unix.O_CLOEXEC | unix.O_NOFOLLOW, 0o640,
                           dir_fd=self.directory)
            try:
                unix.write_all(fd, data)
            finally:
                unix.close(fd)
            unix.rename(NEW, FILE, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except unix.error as problem:
            program.warn(b'unable to write tls/policies: ' + program.reason(problem))

    def ask(self, domain, done):
        """done(mode, patterns, reason), at once if that is known."""
        if not domain.isascii():
            return done(mta_sts.NONE, (), b'no name in ASCII')
        known, now = self.known.get(domain), unix.monotonic()
        if known is not None and now < known.checked:
            return self._tell(known, done)
        if domain in self.running:
            return self.running[domain].append(done)
        if len(self.running) >= AT_A_TIME:
            return self._tell(known, done) if known else done(mta_sts.NONE, (), b'too many questions at a time')
        self.running[domain] = [done]
        return self.names.ask(b'X', b'_mta-sts.' + domain,
                              lambda status, _, reason, lines: self._record(domain, status, reason, lines))

    @staticmethod
    def _tell(known, done):
        if known.policy is None or unix.monotonic() >= known.until:
            return done(mta_sts.NONE, (), known.reason)
        return done(known.policy.mode, known.policy.patterns, known.reason)

    def _record(self, domain, status, reason, lines):
        """The TXT record: unchanged, new, or none."""
        known = self.known.get(domain)
        if status != b'ok':
            return self._failed(domain, b'no record in DNS' if status != b'temp' else reason)
        try:
            identity = mta_sts.parse_record([bytes.fromhex(line.decode('ascii')) for line in lines.split(b'\n')])
        except ValueError:
            identity = None
        if identity is None:
            return self._failed(domain, b'no record in DNS')
        if known is not None and known.policy is not None and known.identity == identity:
            known.checked = unix.monotonic() + CHECKED
            if unix.monotonic() < known.until - known.policy.age / 2:
                return self._known(domain, known)
        Fetch(self, domain, lambda policy, why: self._fetched(domain, identity, policy, why)).start()
        return None

    def _fetched(self, domain, identity, policy, why):
        if policy is None:
            program.warn(b'the MTA-STS policy of %s cannot be had: %s' % (text.printable(domain), why))
            return self._failed(domain, mta_sts.UNAVAILABLE + why)
        now = unix.monotonic()
        self._later()
        return self._known(domain, Known(policy, identity, now + policy.age, now + CHECKED, b''))

    def _failed(self, domain, why):
        """No (new) policy: the old one stays while it is good (RFC 8461, 5.1)."""
        known = self.known.get(domain) or Known(None, b'', 0, 0, why)
        known.checked = unix.monotonic() + AGAIN
        return self._known(domain, known)

    def _known(self, domain, known):
        self.known.pop(domain, None)
        if len(self.known) >= KEPT:
            del self.known[next(iter(self.known))]
        self.known[domain] = known
        for done in self.running.pop(domain):
            self._tell(known, done)


class Fetch:
    """One policy on its way.  done(Policy or None, why not)."""

    __slots__ = ('policies', 'domain', 'host', 'done', 'addresses', 'timer', 'hurry', 'sock', 'stream', 'shaking', 'data', 'why')

    def __init__(self, policies, domain, done):
        self.policies, self.domain, self.host, self.done = policies, domain, b'mta-sts.' + domain, done
        self.addresses, self.data, self.why = [], b'', b'its web server has no address'
        self.sock = self.stream = self.hurry = None
        self.timer = policies.loop.after(PATIENCE, lambda: self._end(None, b'it took too long'))

    def start(self):
        """Ask for addresses."""
        self.policies.names.ask(b'A', self.host, self._found)

    def _found(self, status, _, reason, lines):
        if self.done is None:
            return None
        if status == b'temp':
            self.why = reason
        self.addresses = [line.split(b' ')[2] for line in lines.split(b'\n') if line.count(b' ') in (2, 3)][:ADDRESSES][::-1]
        return self._next()

    def _next(self):
        """The next address."""
        self._close()
        if not self.addresses:
            return self._end(None, self.why)
        address = self.addresses.pop()
        family = unix.AF_INET6 if b':' in address else unix.AF_INET
        try:
            self.sock = unix.socket(family, unix.SOCK_STREAM | unix.SOCK_CLOEXEC, 0)
            self.sock.setblocking(False)
            self.sock.connect((address.decode('ascii'), self.policies.port))
        except BlockingIOError:
            pass
        except OSError as problem:
            return self._failed(problem)
        self.stream, self.shaking, self.data = unix_tls.Stream(self.policies.context, self.host), True, b''
        self.policies.loop.watch(self.sock.fileno(), None, self._connected)
        if self.addresses:
            self.hurry = self.policies.loop.after(CONNECT, lambda: self._failed(OSError(unix.ETIMEDOUT, 'timed out')))
        return None

    def _failed(self, problem):
        words = problem.words if isinstance(problem, unix_tls.TlsError) else program.reason(problem)
        self.why = b'its web server: ' + words
        return self._next()

    def _connected(self):
        errno = self.sock.getsockopt(unix.SOL_SOCKET, unix.SO_ERROR)
        if errno:
            return self._failed(OSError(errno, unix.strerror(errno)))
        self._hurry_no_more()
        self.policies.loop.watch(self.sock.fileno(), self._readable)
        return self._go_on(lambda: None)

    def _readable(self):
        def take():
            data = self.sock.recv(65536)
            self.stream.feed(data)
        self._go_on(take)

    def _go_on(self, take):
        """A step of TLS and HTTP; what is sent is short and fits."""
        try:
            take()
            if self.shaking and self.stream.handshake():
                self.shaking = False
                self.stream.write(mta_sts.request(self.domain))
            words = self.stream.take()
            if words:
                self.sock.send(words)
            while not self.shaking and (piece := self.stream.read()):
                self.data += piece
        except BlockingIOError:
            return None
        except OSError as problem:
            return self._failed(problem)
        if len(self.data) > mta_sts.HEAD_LIMIT + mta_sts.BODY_LIMIT:
            return self._end(None, b'it is too long')
        return self._ended() if self.stream.ended else None

    def _ended(self):
        """The whole answer is there."""
        try:
            self._end(mta_sts.parse_policy(mta_sts.parse_response(self.data, self.stream.cut)), b'')
        except ValueError as problem:
            self._end(None, text.printable(str(problem).encode()))

    def _end(self, policy, why):
        self._close()
        self.timer.cancel()
        done, self.done = self.done, None
        if done is not None:
            done(policy, why)

    def _hurry_no_more(self):
        if self.hurry is not None:
            self.hurry.cancel()
            self.hurry = None

    def _close(self):
        self._hurry_no_more()
        if self.sock is not None:
            self.policies.loop.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None


class Client:
    """One that asks."""

    __slots__ = ('policies', 'channel')

    def __init__(self, policies, sock):
        self.policies = policies
        self.channel = packets.Channel(policies.loop, sock, channel.MTASTS_ASK, self._records, lambda reason: None)

    def _records(self, records):
        for _, (number, domain), _ in records:
            self.policies.ask(text.lower(domain), lambda *answer, n=number: self._answer(n, *answer))

    def _answer(self, number, mode, patterns, reason):
        self.channel.send(b's', number, mode, b'\n'.join(patterns), text.printable(reason))


def main(home, args):
    """qpy-mtasts"""
    found = service.begin(b'mtasts', args)
    cas = home + b'/control/tlscas' if controls.text(home, b'tlscas') is not None else None
    try:
        context = unix_tls.client(True, cas)
    except OSError as problem:
        raise controls.Broken(b'tlscas', 0, b'', b'not certificates in PEM (%s)' % program.reason(problem)) from None
    confine.confine(home, b'mtasts-master', (PORT,))
    return master.run(found, lambda found: work(home, found, context))


def work(home, found, context):
    """The one that reads what web servers say."""
    loop = Loop()
    inherit.life(loop, found)
    policies = Policies(loop, Names(loop, home), context, directory=directory_of(home))
    for sock in inherit.sockets(found, b'mtasts'):
        packets.serve(loop, sock, lambda sock, _: Client(policies, sock))
    confine.confine(home, b'mtasts', (PORT,))
    loop.run()
    policies.save()
    return exits.OK


def directory_of(home):
    """DIR/tls, open; -1, with a word, if there is none: then nothing is kept."""
    try:
        return unix.open(home + b'/tls', DIRECTORY)
    except unix.error as problem:
        program.warn(b'no policy is kept over a restart: unable to open tls: ' + program.reason(problem))
        return -1
