"""qpy-resolve, as qpyr: answers from DNS for qpy-remote and qpy-smtpd.

DIR/run/resolve, and DIR/run/names for qpy-check: records M (mail exchangers, else addresses), A (addresses), I (IPv4
addresses), T (TLSA), X (TXT) and P (names of an address); back a record a, whose status is

    ok         there are answers: lines PREFERENCE HOST ADDRESS and, where the address was validated, the name that HOST
               is an alias of (itself, if of none); of TLSA USAGE SELECTOR TYPE HEX, of TXT HEX, of P a name
    nxdomain   the name does not exist
    nodata     it exists and has nothing of the kind
    nullmx     it says that it accepts no mail (RFC 7505)
    temp       nobody could say: servers silent, broken, or contradicting themselves

Only the first four come from an answer that names the question; everything unclear is temp.  The bytes are
read and written by dnspython, which nothing else of qpy uses; without it every answer is temp, and the log
says so.
"""
import sys
from _collections import deque

from qpy import unix
from qpy.core import channel, dnsconf, exits, idna, ip, text
from qpy.lib import confine, controls, inherit, master, packets, program, service
from qpy.lib.loop import Loop
from qpy.qpyr.dnsquery import ANSWER, IGNORE, NEXT, PLAIN, TRUNCATED, Query

HOPS = 8                # CNAMEs followed from answer to answer
TARGETS = 20            # mail exchangers looked up for one domain, the best ones
ADDRESSES = 60          # given in one answer
TLSA_MOST = 50          # records given in one answer
TXT_MOST, TXT_SIZE = 50, 1000       # records, and bytes of each
PTR_MOST = 10           # names of one address
CACHED = 20000          # results kept
KEPT = 86400            # seconds a result is kept at most, whatever its TTL says
KEPT_MISSING = 3600     # ... when it says that there is nothing
UNKNOWN_TTL = 60        # for an answer that says nothing about its time
ACTIVE = 500            # questions to DNS at a time
WAITING = 20000         # questions that wait for those
PER_CLIENT = 20000      # questions of one client at a time
LOOK = 1.0              # seconds between two looks at resolv.conf
EDNS_SIZE = 1232        # bytes: what passes everywhere without fragments
HOST_BYTES = frozenset(b'abcdefghijklmnopqrstuvwxyz0123456789-_.')

OK, NXDOMAIN, NODATA, NULLMX, TEMP = b'ok', b'nxdomain', b'nodata', b'nullmx', b'temp'
dns = None              # dnspython, once it is loaded


# --- dnspython ----------------------------------------------------------------------------------------------

def load(home):
    """Load dnspython and all it would load later; b'' or why that failed."""
    global dns
    for place in (home + b'/lib/site', b'/usr/lib/python3/dist-packages', site_packages()):
        if unix.access(place + b'/dns/message.py', unix.R_OK) and unix.fsdecode(place) not in sys.path:
            sys.path.append(unix.fsdecode(place))
    try:
        import dns.exception
        import dns.flags
        import dns.message
        import dns.rcode
        import dns.rdata
        import dns.rdataclass
        import dns.rdatatype
        load_record_types()
    except (ImportError, AttributeError) as problem:
        return b'dnspython cannot be loaded: ' + text.printable(str(problem).encode('utf-8', 'replace'))
    return b''


def load_record_types():
    """dnspython loads the code of a record type when it first meets one: not any more then."""
    if hasattr(dns.rdata, 'load_all_types'):
        return dns.rdata.load_all_types()
    for kind in dns.rdatatype.RdataType:        # up to 2.3, Debian 12's
        dns.rdata.get_rdata_class(dns.rdataclass.IN, kind)
    return None


def site_packages():
    """The interpreter's own place for packages."""
    return unix.fsencode('%s/lib/python%d.%d/site-packages' % (sys.prefix, *sys.version_info[:2]))


# --- names --------------------------------------------------------------------------------------------------

def host_name(name):
    """name as DNS is asked for it (lower case, no dot at the end, IDNA), or None if it can be none (R-08)."""
    name = idna.domain(name)
    if name is None:
        return None
    name = text.lower(name)
    name = name[:-1] if name.endswith(b'.') else name
    if not 1 <= len(name) <= 253 or not HOST_BYTES.issuperset(name):
        return None
    return name if all(1 <= len(label) <= 63 for label in name.split(b'.')) else None


def host_of(name):
    """The host name (bytes) of a dnspython name, or None."""
    labels = name.labels[:-1]
    if not labels or any(b'.' in label for label in labels):
        return None
    return host_name(b'.'.join(labels)) if all(label.isascii() for label in labels) else None


class Result:
    """What is known about (kind, host).  values: addresses as text, (preference, host or None) for MX, else lines.
    end: the host that the answer is about, where an alias led to another one."""

    __slots__ = ('status', 'values', 'authenticated', 'ttl', 'reason', 'end')

    def __init__(self, status, values=(), authenticated=False, ttl=0, reason=b'', end=b''):
        self.status, self.values, self.authenticated = status, values, authenticated
        self.ttl, self.reason, self.end = ttl, reason, end


# --- one answer ---------------------------------------------------------------------------------------------

def make_question(kind, host):
    """(question, [wire with EDNS, wire without])."""
    flags = dns.flags.RD | dns.flags.AD         # RFC 6840, 5.7: AD asks for the AD bit
    identity = int.from_bytes(unix.urandom(2), 'big')
    question = dns.message.make_query(host.decode('ascii') + '.', kind, id=identity, use_edns=0,
                                      payload=EDNS_SIZE, flags=flags)
    with_edns = question.to_wire()
    question.use_edns(False)
    return question, [with_edns, question.to_wire()]


def judge_of(question):
    """The judge (see qpyr.dnsquery) of answers to this question."""
    identity = question.id.to_bytes(2, 'big')

    def judge(packet):
        if len(packet) < 12 or packet[:2] != identity or not packet[2] & 0x80:
            return IGNORE, None
        truncated = bool(packet[2] & 2)
        try:
            response = dns.message.from_wire(packet, question_only=truncated, ignore_trailing=True)
            if not question.is_response(response):
                return IGNORE, None
        except Exception:       # a foreign parser on foreign bytes: whatever it trips over is no answer
            return IGNORE, None
        return (TRUNCATED, b'too long') if truncated else verdict(response)
    return judge


def verdict(response):
    """What a well-formed answer to our question is worth, by its code."""
    code = response.rcode()
    if code in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return ANSWER, response
    odd = (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS)
    return PLAIN if code in odd else NEXT, dns.rcode.to_text(code).encode()


def read_answer(kind, response, local):
    """(Result, alias): alias is the host to ask about instead, where the answer ends in a CNAME."""
    authenticated = bool(local and response.flags & dns.flags.AD)
    try:
        chain = response.resolve_chaining()
    except dns.exception.DNSException as problem:
        return Result(TEMP, reason=b'a strange answer (%s)' % type(problem).__name__.encode()), None
    ttl = chain.minimum_ttl
    end = host_of(chain.canonical_name) if chain.cnames else None
    if chain.answer is not None:
        return Result(OK, values_of(kind, chain.answer), authenticated, min(ttl, KEPT), end=end or b''), None
    ttl = min(ttl, KEPT_MISSING) if ttl < 1 << 30 else UNKNOWN_TTL
    if response.rcode() == dns.rcode.NXDOMAIN:
        return Result(NXDOMAIN, (), authenticated, ttl), None
    return Result(NODATA, (), authenticated, ttl), end


def values_of(kind, rrset):
    """The values of an answer, the unusable ones left out."""
    if kind == 'MX':
        return tuple((record.preference, b'' if not record.exchange.labels[:-1] else host_of(record.exchange))
                     for record in rrset)
    if kind == 'TLSA':
        return tuple(b'%d %d %d %s' % (record.usage, record.selector, record.mtype, record.cert.hex().encode())
                     for record in rrset)[:TLSA_MOST]
    if kind == 'TXT':
        return tuple(b''.join(record.strings)[:TXT_SIZE].hex().encode() for record in rrset)[:TXT_MOST]
    if kind == 'PTR':
        return tuple(host for host in (host_of(record.target) for record in rrset) if host)[:PTR_MOST]
    addresses = (record.address.encode('ascii') for record in rrset)
    return tuple(address for address in addresses if ip.pack(address) is not None)


# --- look-ups -----------------------------------------------------------------------------------------------

class Resolver:
    """Look-ups with a memory.  get_servers() -> [(address, port)]."""

    __slots__ = ('loop', 'get_servers', 'cache', 'running', 'active', 'waiting')

    def __init__(self, loop, get_servers):
        self.loop, self.get_servers = loop, get_servers
        self.cache = {}         # (kind, host): (Result, until)
        self.running = {}       # (kind, host): [callbacks]
        self.active = 0
        self.waiting = deque()

    def lookup(self, kind, host, done):
        """done(Result) for records of kind (MX, A, AAAA) of host; at once if known."""
        key = kind, host
        known = self.cache.get(key)
        if known is not None and known[1] > unix.monotonic():
            return done(known[0])
        if key in self.running:
            return self.running[key].append(done)
        if len(self.waiting) >= WAITING:
            return done(Result(TEMP, reason=b'too many questions at a time'))
        self.running[key] = [done]
        return self._ask(kind, host, 0, lambda result: self._known(key, result))

    def _known(self, key, result):
        if result.status != TEMP and result.ttl > 0:
            self._make_room()
            self.cache[key] = result, unix.monotonic() + result.ttl
        for done in self.running.pop(key):
            done(result)

    def _make_room(self):
        if len(self.cache) < CACHED:
            return
        now = unix.monotonic()
        for key in [key for key, (_, until) in self.cache.items() if until <= now]:
            del self.cache[key]
        for key in list(self.cache)[:max(0, len(self.cache) - CACHED // 2)]:
            del self.cache[key]

    def _ask(self, kind, host, hops, done):
        if self.active >= ACTIVE:
            return self.waiting.append((kind, host, hops, done))
        self.active += 1
        question, wires = make_question(kind, host)
        return Query(self.loop, self.get_servers(), wires, judge_of(question),
                     lambda value, note: self._answered(kind, hops, done, value, note)).start()

    def _answered(self, kind, hops, done, response, note):
        self.active -= 1
        if self.waiting:
            waiting = self.waiting.popleft()
            self.loop.call_soon(lambda: self._ask(*waiting))
        if response is None:
            return done(Result(TEMP, reason=note))
        result, alias = read_answer(kind, response, ip.is_this_host(ip.pack(note[0].partition(b'%')[0])))
        if alias is None:
            return done(result)
        if hops >= HOPS:
            return done(Result(TEMP, reason=b'too many CNAMEs, one after the other'))
        return self._ask(kind, alias, hops + 1, lambda last: done(joined(result, alias, last)))

    # --- questions of clients ---

    def addresses(self, host, done):
        """done(Result) with the A and AAAA addresses of host."""
        gather = Gather(2, lambda results: done(all_addresses(results)))
        for place, kind in enumerate(('A', 'AAAA')):
            self.lookup(kind, host, gather.slot(place))

    def exchangers(self, host, done):
        """done(Result) with (preference, host, address) for mail to host."""
        self.lookup('MX', host, lambda result: self._exchangers(host, result, done))

    def _exchangers(self, host, result, done):
        if result.status == TEMP:
            return done(result)
        if result.status != OK:     # RFC 5321, 5.1: the host itself, also when it is said not to exist
            return self.addresses(host, lambda found: done(with_preference([(0, host)], [found], result)))
        if all(target == b'' for _, target in result.values):
            return done(Result(NULLMX, (), result.authenticated, result.ttl))
        targets = sorted(set(pair for pair in result.values if pair[1]))[:TARGETS]
        if not targets:
            return done(Result(NODATA, reason=b'none of its mail exchangers is a host name'))
        gather = Gather(len(targets), lambda results: done(with_preference(targets, results, result)))
        for place, (_, target) in enumerate(targets):
            self.place_of(target, gather.slot(place))
        return None

    def place_of(self, target, done):
        """The addresses of a mail exchanger; one that is written as an address, which no standard knows, is meant so."""
        return done(Result(OK, (target,))) if ip.pack(target) else self.addresses(target, done)


class Gather:
    """Several results into one call."""

    __slots__ = ('results', 'missing', 'done')

    def __init__(self, count, done):
        self.results, self.missing, self.done = [None] * count, count, done

    def slot(self, place):
        """The callback for one of them."""
        def put(result):
            self.results[place] = result
            self.missing -= 1
            if not self.missing:
                self.done(self.results)
        return put


def joined(alias, name, last):
    """What an alias of name and what is known of that amount to together."""
    authenticated, ttl = alias.authenticated and last.authenticated, min(alias.ttl, last.ttl)
    return Result(last.status, last.values, authenticated, ttl, last.reason, last.end or name)


def all_addresses(results):
    """A and AAAA as one: what is there, else temp if one of them is unknown, else that there is nothing."""
    found = [result for result in results if result.status == OK and result.values]
    if found:
        return Result(OK, tuple(value for result in found for value in result.values),
                      all(result.authenticated for result in found), end=found[0].end)
    for result in results:
        if result.status == TEMP:
            return result
    missing = all(result.status == NXDOMAIN for result in results)
    return Result(NXDOMAIN if missing else NODATA, (), all(result.authenticated for result in results))


def with_preference(targets, results, mx):
    """The answer for a domain from its targets [(preference, host)] and their addresses.  It is authenticated if who the
    targets are is; whether the addresses are stands with each (RFC 7672, 2.2.2)."""
    values = tuple(b'%d %s %s' % (preference, host, address) + (b' ' + (found.end or host)) * found.authenticated
                   for (preference, host), found in zip(targets, results) for address in found.values)
    if values:
        return Result(OK, values[:ADDRESSES], mx.authenticated)
    for found in results:
        if found.status == TEMP:
            return found
    if mx.status != OK:
        return results[0]
    return Result(NODATA, (), reason=b'none of its mail exchangers has an address')


# --- clients ------------------------------------------------------------------------------------------------

class Client:
    """One that asks."""

    __slots__ = ('server', 'channel', 'asked')

    def __init__(self, server, sock):
        self.server, self.asked = server, 0
        self.channel = packets.Channel(server.loop, sock, channel.RESOLVE_ASK, self._records, self._closed)

    def _records(self, records):
        for letter, (number, name), _ in records:
            self.asked += 1
            self.server.answer(letter, name, self.asked, lambda result, n=number: self._answer(n, result))

    def _answer(self, number, result):
        self.asked -= 1
        lines = b'\n'.join(result.values)
        authenticated = b'1' if result.authenticated else b'0'
        self.channel.send(b'a', number, result.status, authenticated, text.printable(result.reason), lines)

    def _closed(self, reason):
        if reason != 'closed':
            program.warn(b'a client was dropped: ' + reason.encode())


class Server:
    """All clients, and the answers.  trouble: why there cannot be any."""

    __slots__ = ('loop', 'resolver', 'trouble')

    def __init__(self, loop, get_servers, trouble=b''):
        self.loop, self.trouble = loop, trouble
        self.resolver = Resolver(loop, get_servers)

    def client(self, sock, _):
        """Somebody has connected."""
        Client(self, sock)

    def answer(self, letter, name, asked, done):
        """done(Result), whose values are lines."""
        if self.trouble or asked > PER_CLIENT:
            return done(Result(TEMP, reason=self.trouble or b'too many questions at a time'))
        host = host_name(name)
        if host is None and letter != b'P':
            return done(Result(NXDOMAIN, reason=b'that is no host name'))
        if letter == b'P':
            return self.names(name, done)
        if letter == b'I':
            return self.resolver.lookup('A', host, lambda found: done(with_preference([(0, host)], [found], found)))
        if letter == b'X':
            return self.resolver.lookup('TXT', host, done)
        if letter == b'T':
            return self.resolver.lookup('TLSA', host, done)
        if letter == b'M':
            return self.resolver.exchangers(host, done)
        return self.resolver.addresses(host, lambda found: done(with_preference([(0, host)], [found], found)))


    def names(self, address, done):
        """done(Result) with the names of an address."""
        packed = ip.pack(address)
        if packed is None:
            return done(Result(NXDOMAIN, reason=b'that is no address'))
        return self.resolver.lookup('PTR', ip.reverse_name(packed), done)


# --- which servers to ask -----------------------------------------------------------------------------------

class Servers:
    """The DNS servers: control/resolvers, else resolv.conf, looked at again when they change."""

    __slots__ = ('home', 'resolv_conf', 'found', 'looked', 'stamp')

    def __init__(self, home, resolv_conf=b'/etc/resolv.conf'):
        self.home, self.resolv_conf = home, resolv_conf
        self.looked, self.stamp = unix.monotonic(), self._stamp()
        self.found = read_servers(home, resolv_conf)

    def get(self):
        """[(address, port)]"""
        now = unix.monotonic()
        if now - self.looked >= LOOK:
            self.looked = now
            stamp = self._stamp()
            if stamp != self.stamp:
                self.stamp = stamp
                self._again()
        return self.found

    def _again(self):
        try:
            self.found = read_servers(self.home, self.resolv_conf)
        except (controls.Broken, OSError) as problem:
            why = problem.text if isinstance(problem, controls.Broken) else program.reason(problem)
            program.warn(b'keeping the old DNS servers: ' + why)

    def _stamp(self):
        stamps = []
        for path in (self.home + b'/control/resolvers', self.resolv_conf):
            try:
                status = unix.stat(path)
                stamps.append((status.st_ino, status.st_size, status.st_mtime_ns))
            except OSError:
                stamps.append(None)
        return stamps


def read_servers(home, resolv_conf):
    """[(address, port)]; Broken if control/resolvers has a line that names none."""
    lines = controls.numbered(home, b'resolvers')
    if not lines:
        try:
            return dnsconf.parse_resolv_conf(unix.read_file(resolv_conf))
        except FileNotFoundError:
            return dnsconf.LOCAL
    servers = []
    for number, line in lines:
        try:
            servers.append(dnsconf.parse_server(line))
        except ValueError as problem:
            raise controls.Broken(b'resolvers', number, line, str(problem).encode()) from None
    return servers


# --- the program --------------------------------------------------------------------------------------------

def main(home, args):
    """qpy-resolve"""
    found = service.begin(b'resolve', args)
    servers = Servers(home)
    trouble = load(home)
    if trouble:
        program.warn(trouble + b'; all mail that needs DNS waits')
    confine.confine(home, b'resolve-master')
    return master.run(found, lambda found: work(home, found, servers, trouble))


def work(home, found, servers, trouble):
    """The one that reads what DNS says."""
    loop = Loop()
    inherit.life(loop, found)
    server = Server(loop, servers.get, trouble)
    for sock in inherit.sockets(found, b'resolve') + inherit.sockets(found, b'names'):
        packets.serve(loop, sock, server.client)
    confine.confine(home, b'resolve')
    loop.run()
    return exits.OK
