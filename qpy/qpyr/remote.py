"""qpy-remote, as qpyr: carries messages to other hosts by SMTP.

One shot:  qpy-remote host sender recip...   descriptor 0 the message, descriptor 1 the report
           Exit code 0, or 111 without a report.
Warm:      serve(home, socket), forked by qpy-rspawn: many deliveries at a time on one event loop, each a
           record R with the message's descriptor, each answered by a record K, Z or D per recipient.
It knows no DNS: it asks qpy-resolve.
"""
from qpy import unix, unix_tls
from qpy.core import channel, exits, mx, outgoingip, remote_report, route, smtproutes, tcpto, text, tls_policy
from qpy.lib import confine, controls, packets, program
from qpy.lib import route as routing
from qpy.lib.loop import Loop
from qpy.qpyr import source as sources
from qpy.qpyr.connection import Pool
from qpy.qpyr.delivery import Delivery
from qpy.qpyr.names import Names, Policies, Tokens
from qpy.qpyr.tlsnotes import Notes

CAP = 3600              # seconds for a whole delivery, above timeoutconnect and timeoutremote: for tarpits
OWN_FOR = 60            # seconds our own addresses are believed
REMEMBERED_FOR = 3600   # seconds a server that died of PIPELINING, or of TLS, is spoken to without
REMEMBERED_MOST = 1000  # such servers
CONTROLS = (b'me', b'helohost', b'outgoingip', b'senderroutes', b'smtplogins', b'smtproutes', b'smtptokens',
            b'timeoutconnect', b'timeoutremote',
            b'tlscas', b'tlsdestinations')


class Settings:
    """What the control files say.  loopback, port, cap: other values are for tests."""

    __slots__ = ('helo', 'routes', 'connect_patience', 'patience', 'cap', 'port', 'loopback', 'senders', 'logins',
                 'tls', 'cas', 'contexts', 'named', 'sources', 'tokens', 'parsed')

    def __init__(self, helo, routes, connect_patience=60, patience=1200, cap=CAP, port=smtproutes.PORT,
                 loopback=False, senders=None, logins=None, tls=None, cas=None, sources=None,
                 tokens=()):
        self.helo, self.routes = helo, routes
        self.connect_patience, self.patience, self.cap = connect_patience, patience, cap
        self.port, self.loopback = port, loopback
        self.senders, self.logins, self.tls, self.cas = senders or {}, logins or {}, tls or {}, cas
        self.contexts, self.named, self.parsed = {}, None, {}
        self.sources = sources or {}        # core.outgoingip.table()
        self.tokens = tokens                # accounts (user@relay) that qpy-token has tokens for

    def ports(self):
        """Every TCP port that mail may leave by.  Made once: it is asked for with each delivery."""
        if self.named is None:
            self.named = {self.port} | smtproutes.ports((self.routes, self.senders))
        return self.named

    def hops(self, value):
        """smtproutes.parse(value), read once."""
        if value not in self.parsed:
            self.parsed[value] = smtproutes.parse(value)
        return self.parsed[value]

    @property
    def row(self):
        """The line of core.manifest for who obeys these."""
        return b'remote-bound' if any(self.sources.values()) else b'remote'

    def covers(self, other):
        """Whether who is confined for these may obey the other ones: they ask for nothing that was closed to it, and it
        holds no right that they do not give."""
        return other is self or other.row == self.row and other.ports() <= self.ports()

    def context(self, verify):
        """The context for TLS whose certificate must verify, or need not.  OSError if control/tlscas is broken."""
        if verify not in self.contexts:
            self.contexts[verify] = unix_tls.client(verify, self.cas)
        return self.contexts[verify]


def read_settings(home):
    """The Settings of DIR; Broken or OSError."""
    routes = controls.checked_mapping(home, b'smtproutes', smtproutes.faults, smtproutes.REMEDY)
    senders = controls.checked_mapping(home, b'senderroutes', smtproutes.faults, smtproutes.REMEDY)
    tls = controls.checked_mapping(home, b'tlsdestinations', tls_policy.faults)
    cas = home + b'/control/tlscas' if controls.text(home, b'tlscas') is not None else None
    settings = Settings(controls.line(home, b'helohost'), routes, controls.number(home, b'timeoutconnect'),
                        controls.number(home, b'timeoutremote'), senders=senders, tls=tls, cas=cas,
                        logins=read_logins(home), sources=read_sources(home),
                        tokens=frozenset(controls.mapping(home, b'smtptokens')))
    if cas:
        try:
            settings.context(True)
        except OSError as problem:
            raise controls.Broken(b'tlscas', 0, b'', b'not certificates in PEM (%s)' % program.reason(problem)) from None
    return settings


def read_logins(home):
    """{user@relay: password}; Broken if everybody may read them."""
    found = controls.mapping(home, b'smtplogins')
    if found and unix.stat(home + b'/control/smtplogins').st_mode & 0o007:
        raise controls.Broken(b'smtplogins', 0, b'', b'everybody may read these passwords; chgrp qpyr, chmod 0640')
    return found


def read_sources(home):
    """The addresses of control/outgoingip; Broken if a line cannot be used."""
    lines = controls.numbered(home, b'outgoingip')
    for number, line in lines:
        try:
            outgoingip.parse(line)
        except ValueError as problem:
            raise controls.Broken(b'outgoingip', number, line, b'%s; %s' % (str(problem).encode(), outgoingip.REMEDY)) \
                from None
    return outgoingip.table([line for _, line in lines])


class Remote:
    """What all deliveries of one process share.  get_settings() -> Settings, looked at for what begins together."""

    __slots__ = ('loop', 'get_settings', 'settings', 'names', 'pool', 'dead', 'clumsy', 'without_tls', 'failed_tests', 'memory',
                 'home', 'own', 'own_until', 'authorities', 'policies', 'tokens', 'notes')

    def __init__(self, loop, home, get_settings):
        self.loop, self.home, self.get_settings = loop, home, get_settings
        self.settings = None
        self.names, self.policies, self.pool = Names(loop, home), Policies(loop, home), Pool(loop)
        self.tokens, self.notes = Tokens(loop, home), Notes(loop, home)
        self.dead = tcpto.Table(unix.getpid())
        self.clumsy, self.without_tls, self.failed_tests, self.memory = {}, {}, {}, tls_policy.Memory()
        self.own, self.own_until = frozenset(), 0
        self.authorities = {}       # (server, TLSA records): context that trusts the authority they name

    def recall(self):
        """Take over what qpy-tlslog remembers of who spoke TLS lately."""
        now = unix.monotonic()
        for place, age in self.notes.load():
            self.memory.saw(place, now - age)

    def look(self):
        """Look at the control files; deliveries that are under way go on by what they began with."""
        self.settings = self.get_settings()

    def deliver(self, *what):
        """Look, and begin a delivery."""
        self.look()
        self.begin(*what)

    def begin(self, host, sender, recipients, flags, source, on_end):
        """Begin a delivery; see qpyr.delivery."""
        Delivery(self, host, sender, recipients, flags, source, on_end).start()

    def random(self):
        """A float in [0, 1)."""
        return int.from_bytes(unix.urandom(6), 'big') / (1 << 48)

    def own_addresses(self):
        """The packed addresses of this host, as of lately."""
        now = unix.monotonic()
        if now >= self.own_until:
            self.own, self.own_until = read_own_addresses(), now + OWN_FOR
        return self.own

    def is_ours(self, host):
        """Do the control files, as they are now, have mail for this host delivered here?  Broken ones: they may."""
        try:
            return route.rewrite(b'postmaster@' + host, routing.load(self.home)).channel == route.LOCAL
        except (controls.Broken, unix.error):
            return True

    def trust(self, anchor, certificate):
        """DANE-TA: for this server and these records this certificate (DER) is the authority; False if it is none."""
        if len(self.authorities) >= REMEMBERED_MOST:
            self.authorities.clear()
        try:
            self.authorities[anchor] = unix_tls.client(True, data=certificate)
        except OSError:                     # a record that is no certificate
            return False
        return True

    def remember(self, servers, key):
        """This server cannot have several commands on their way (R-30; clumsy), or its TLS does not work (T-05;
        without_tls), or not as its domain's MTA-STS policy for tests has it (failed_tests): for an hour it is not tried
        again."""
        if len(servers) >= REMEMBERED_MOST:
            servers.clear()
        if key not in servers:
            servers[key] = self.loop.after(REMEMBERED_FOR, lambda: servers.pop(key, None))


def read_own_addresses():
    """The packed addresses of this host; without /proc what qpyr.delivery learns from getsockname remains."""
    own = set()
    for path, parse in ((b'/proc/net/fib_trie', mx.from_fib_trie), (b'/proc/net/if_inet6', mx.from_if_inet6)):
        try:
            own |= parse(unix.read_file(path))
        except OSError:
            pass
    return frozenset(own)


# --- warm ---------------------------------------------------------------------------------------------------

class Server:
    """The deliveries qpy-rspawn asks for."""

    __slots__ = ('remote', 'channel')

    def __init__(self, remote, sock):
        self.remote = remote
        self.channel = packets.Channel(remote.loop, sock, channel.RSPAWN_JOB, self.begin, self.closed)

    def begin(self, records):
        """Start what was asked for."""
        self.remote.look()
        for _, fields, fd in records:
            _, host, sender, flags, length, lines = fields
            numbers, recipients = split_recipients(lines)
            size = text.parse_uint(length, 1 << 62)
            if size is None or not all(numbers):
                raise channel.ChannelError('bad record R')      # from our own master: a bug; be started anew
            source = sources.Source(fd, 0, size)
            self.remote.begin(host, sender, recipients, flags, source,
                              lambda delivery, n=numbers: self.report(n, delivery))

    def report(self, numbers, delivery):
        """Answer for each recipient."""
        scopes = {b'Z': b'h' if delivery.in_trouble else b'o' * delivery.aside}
        for index, (number, (letter, words)) in enumerate(zip(numbers, delivery.outcomes())):
            scopes[b'K'] = b'd' * (index in delivery.noticed) + b'b' * (index in delivery.timed)
            self.channel.send(letter, number, scopes.get(letter, b''), words)

    def closed(self, _):
        """qpy-rspawn is gone: nobody would hear of what is still in flight, so it is not finished."""
        self.remote.loop.stop()


def split_recipients(lines):
    """([delivery number], [address]) of the last field of a record R."""
    pairs = [line.partition(b' ') for line in lines.split(b'\n')]
    return [number for number, _, _ in pairs], [address for _, _, address in pairs]


class Reach:
    """The settings that this process can obey: it was confined for `bounds` when it began, for good.

    qpy-rspawn looks before each delivery and gives it to a process that can do it; if the files change between that look and
    ours, the delivery goes the way that was right a moment ago."""

    __slots__ = ('watched', 'bounds', 'settings')

    def __init__(self, watched, bounds):
        self.watched, self.bounds, self.settings = watched, bounds, watched.value

    def get(self):
        """The newest Settings that fit."""
        newest = self.watched.get()
        if self.bounds.covers(newest):
            self.settings = newest
        return self.settings


def watch(home):
    """The Settings of DIR, to be looked at again; Broken or OSError."""
    return controls.Watched(home, CONTROLS, read_settings)


def serve(home, sock, watched, bounds):
    """Do what comes on sock, until it is closed.  watched: our master's, of watch(); bounds: the Settings that say how far
    this process may reach, which cover watched.value.  Returns the exit code."""
    watched.quiet = True                    # what is broken is said once, by our master
    loop = Loop()
    remote = Remote(loop, home, Reach(watched, bounds).get)
    remote.recall()
    Server(remote, sock)
    confine.confine(home, bounds.row, bounds.ports())
    loop.run()
    remote.pool.close()
    return exits.OK


# --- one shot -----------------------------------------------------------------------------------------------

def main(home, args):
    """qpy-remote host sender recip..."""
    unix.umask(0o077)
    unix.write_all(1, one_shot(home, args))
    return exits.OK


def one_shot(home, args):
    """The report on one delivery, from descriptor 0."""
    if len(args) < 3 or any(b'\0' in arg for arg in args):
        return remote_report.build([], (b'D', remote_report.INVOKED))
    try:
        settings = read_settings(home)
    except (controls.Broken, OSError) as problem:
        program.complain(problem.text if isinstance(problem, controls.Broken) else program.reason(problem))
        return remote_report.build([], (b'Z', remote_report.NO_CONTROLS))
    loop, ended = Loop(), []

    def on_end(delivery):
        ended.append(delivery.output())
        loop.stop()
    remote = Remote(loop, home, lambda: settings)
    confine.confine(home, settings.row, settings.ports())
    loop.call_soon(lambda: remote.deliver(args[0], args[1], args[2:], b'', sources.of_descriptor(0), on_end))
    loop.run()
    remote.pool.close()
    return ended[0]
