"""What the control files tell an SMTP server, as one value that is made anew when a file changes."""
from qpy import unix
from qpy.core import address, asking, cdb, ratelimits, submission, tcprules, text
from qpy.core.manifest import FILTERS
from qpy.core.rcpthosts import Rcpthosts
from qpy.core.smtp_policy import Client, Policy
from qpy.core.validrcptto import ValidRecipients
from qpy.lib import cdb as cdb_files
from qpy.lib import controls

FILES = (b'me', b'accountlimits', b'authsenders', b'badhelo', b'badmailfrom', b'badrcptto', b'checkfailure',
         b'checkfrom', b'checkrecipients', b'concurrencyaddress', b'concurrencyincoming', b'databytes', b'dnsbl',
         b'envnoathost', b'etrn', b'greetdelay', b'greylist', b'helorules', b'localiphost', b'locals', b'maxrcpt',
         b'milters', b'mindatarate', b'percenthack', b'policyservers', b'ratelimits', b'rcpthosts', b'reversedns',
         b'smtpgreeting', b'spfrules', b'tcp.smtp', b'timeoutcheck', b'timeoutsession', b'timeoutsmtpd',
         b'validrcptto', b'validrcptto.cdb', b'virtualdomains')
BARE_LF = (b'', b'commands', b'451')
FOREVER = float('inf')


class Settings:
    """policy: core.smtp_policy.Policy; rules: of control/tcp.smtp; the rest as their control files."""

    __slots__ = ('me', 'policy', 'rules', 'timeout', 'session', 'rate', 'connections', 'per_address', 'greet_delay', 'arrivals',
                 'check_stages', 'milter_stages', 'check_failure', 'check_patience', 'check_recipients')

    def __init__(self, home):
        rates = read_rates(home)
        self.policy = read_policy(home)
        self.check_stages = read_stages(home, rates)
        self.milter_stages = frozenset(asking.STAGES if controls.listing(home, b'milters') else ())
        self.policy.stages = self.check_stages | self.milter_stages
        self.arrivals = rates.get(b'connections')       # a Limit, or None
        self.greet_delay = controls.number(home, b'greetdelay')
        self.check_failure = controls.line(home, b'checkfailure')
        self.check_patience = controls.number(home, b'timeoutcheck')
        self.check_recipients = controls.line(home, b'checkrecipients') == b'yes'
        self.me = controls.line(home, b'me')
        self.rules = read_rules(home)
        self.timeout = controls.number(home, b'timeoutsmtpd')
        self.session = controls.number(home, b'timeoutsession') or FOREVER
        self.rate = controls.number(home, b'mindatarate')
        self.connections = controls.number(home, b'concurrencyincoming')
        self.per_address = controls.number(home, b'concurrencyaddress')


def watched(home):
    """Settings that follow the control files: .get(). Raises controls.Broken, OSError the first time."""
    return controls.Watched(home, FILES, Settings)


def read_policy(home):
    """The Policy of DIR/control."""
    hosts, hack = controls.lookup(home, b'rcpthosts'), controls.lookup(home, b'percenthack') or ()
    local, virtual = controls.lookup(home, b'locals'), controls.mapping(home, b'virtualdomains')
    if hosts is None:
        found = Rcpthosts(None, None, local, virtual, hack)
    else:
        found = Rcpthosts(hosts, Compiled(home, b'morercpthosts.cdb'), hack=hack)
    made = Policy(controls.line(home, b'smtpgreeting'), controls.number(home, b'databytes'), found,
                  controls.lookup(home, b'badmailfrom') or {}, controls.lookup(home, b'badrcptto') or {},
                  controls.line(home, b'localiphost'), controls.number(home, b'maxrcpt'),
                  controls.lookup(home, b'badhelo') or (), read_valid(home), no_host=controls.line(home, b'envnoathost'))
    made.etrn = controls.lookup(home, b'etrn') or {}
    made.senders = submission.Senders(local or (), virtual, controls.listing(home, b'authsenders') or (),
                                      controls.line(home, b'checkfrom') == b'yes')
    return made


def read_rates(home):
    """{what: Limit} of control/ratelimits."""
    lines = controls.mapping_lines(home, b'ratelimits')
    try:
        return ratelimits.parse({key: value for key, (value, _) in lines.items()})
    except ValueError as problem:
        key, why = problem.args
        raise controls.Broken(b'ratelimits', lines[key][1], key + b':' + lines[key][0], why) from None


def read_stages(home, rates):
    """The stages at which qpy-check is asked."""
    present = {name for name in (b'dnsbl', b'helorules', b'spfrules') if controls.listing(home, name)}
    present |= {name for name in (b'greylist', b'accountlimits') if controls.mapping(home, name)}
    present |= {b'reversedns'} if controls.line(home, b'reversedns') != b'no' else set()
    return asking.stages(present | set(rates), controls.listing(home, b'policyservers') or ())


def read_valid(home):
    """The ValidRecipients of control/validrcptto.cdb, else of control/validrcptto; None if neither is there."""
    if unix.access(home + b'/control/validrcptto.cdb', 0):
        return ValidRecipients(Compiled(home, b'validrcptto.cdb'))
    listed = controls.lookup(home, b'validrcptto')
    return None if listed is None else ValidRecipients(listed)


class Compiled:
    """A cdb in control/, asked as a Cdb would be; it may come, go and change between questions."""

    __slots__ = ('database',)

    def __init__(self, home, name):
        self.database = cdb_files.Database(home + b'/control/' + name)

    def get(self, key):
        """The value of key, None if it is not there or there is no file. CdbError for all trouble."""
        return self.database.ask(lambda db: db.get(key))


def read_rules(home):
    """The rules of control/tcp.smtp, which is text or what tcprules made of it; none if it is absent."""
    data = controls.raw(home, b'tcp.smtp')
    if data is None:
        return tcprules.Rules()
    if b'\0' in data:
        try:
            return tcprules.CdbRules(cdb.over(data))
        except cdb.CdbError as problem:
            raise controls.Broken(b'tcp.smtp', 0, b'', b'not a cdb after all: %s; make it anew with tcprules'
                                  % str(problem).encode()) from None
    try:
        return tcprules.parse(data)
    except tcprules.RulesError as problem:
        raise controls.Broken(b'tcp.smtp', problem.number, problem.line, problem.remedy) from None


# Who is there, and what the rules or the environment give him.

class Denied(Exception):
    """The rules refuse this client."""


def client_of_peer(settings, environ, ip, local_ip):
    """The Client of a connection of our own; rules apply. Raises Denied, CdbError."""
    allowed, env = settings.rules.verdict(ip)
    if not allowed:
        raise Denied(ip)
    own = {name: environ[name] for name in GIVEN if name in environ}
    own.update(env)
    return client(own, ip, b'', b'', settings.me, local_ip)


def client_of_certificate(settings, known, tls):
    """The Client of a connection whose client has shown a certificate: what the rules say of its name or its SHA-256
    is laid over what is known. Raises Denied, CdbError."""
    for key in (tls.print, text.lower(tls.name)):
        found = settings.rules.named(b'tls=' + key) if key else None
        if found is not None:
            if not found[0]:
                raise Denied(known.ip)
            return client({**dict(known.env), **dict(found[1])}, known.ip, known.name, known.info, known.local,
                          known.local_ip)
    return known


GIVEN = (b'RELAYCLIENT', b'DATABYTES', b'QPYBARELF', b'NOBADHELO', b'NOCHECK', b'FORCETLS', b'SMTPS', b'TLSCLIENTS',
         b'REQUIREAUTH', b'HIDECLIENT', b'PROXY', b'XCLIENT',
         *FILTERS)


def on(env, name):
    """Is a switch on: there, and not 0?"""
    return env.get(name, b'0') != b'0'


def client_of_environment(environ):
    """The Client that a UCSPI server (PROTO, TCPREMOTEIP and so on) says is on descriptors 0 and 1."""
    def told(name):
        return environ.get(b'TCP' + name) or environ.get(b'TCP6' + name) or b''
    ip = address.normal_ip(told(b'REMOTEIP'))
    local_ip = address.normal_ip(told(b'LOCALIP'))
    here = told(b'LOCALHOST') or local_ip
    found = client(environ, ip, told(b'REMOTEHOST'), told(b'REMOTEINFO'), here, local_ip)
    if environ.get(b'QPYLOCALBS') == b'1':
        found.bare_lf, found.judged = b'all', False
    return found


def client(env, ip, name, info, local, local_ip):
    """A Client with what RELAYCLIENT, DATABYTES and QPYBARELF of env mean."""
    databytes, bare_lf = env.get(b'DATABYTES'), env.get(b'QPYBARELF', b'')
    found = Client(ip, name, info, local, local_ip, env.get(b'RELAYCLIENT'),
                   None if databytes is None else leading_number(databytes),
                   bare_lf if bare_lf in BARE_LF else b'', tuple(env.items()), on(env, b'FORCETLS'))
    found.judged, found.whole = b'NOCHECK' not in env, filter_of(env)[1]
    found.force_auth, found.hidden = on(env, b'REQUIREAUTH'), on(env, b'HIDECLIENT')
    found.may_speak = on(env, b'XCLIENT')
    return found


def leading_number(value):
    """The digits that value begins with, as qmail reads numbers; 0 if there are none."""
    end = len(value) - len(value.lstrip(b'0123456789'))
    return text.parse_uint(value[:end], 10 ** 18) or 0


def filter_of(env):
    """(program, whether it gets all envelope records) for a client's environment; (b'', True): the queue
    itself."""
    if env.get(b'QPYQUEUE'):
        return env[b'QPYQUEUE'], True
    return env.get(b'QMAILQUEUE', b''), not env.get(b'QMAILQUEUE')


def filters_named(rules, environ):
    """Every filter that the rules or our own environment name: nothing else is ever run."""
    return (tcprules.values(rules, FILTERS) | {environ[name] for name in FILTERS if name in environ}) - {b''}


def peer_ips(sock):
    """(client's address, ours) of a connected TCP socket, as text; empty where there is none."""
    try:
        peer, here = sock.getpeername(), sock.getsockname()
    except unix.error:
        return b'', b''
    return ip_text(peer), ip_text(here)


def ip_text(name):
    """The IP address of what getpeername gives, IPv4 where it is IPv4."""
    return address.normal_ip(name[0].partition('%')[0].encode()) if isinstance(name, tuple) else b''
