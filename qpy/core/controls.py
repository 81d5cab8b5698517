"""The control files: one table of their names, and what their bytes mean.

Everything that knows a control file answers to TABLE: the programs that read it, qpy-showctl, the page
qpy-control.5 and the samples in control/. The functions here take the bytes of a file and return values; they
raise ControlError for what an administrator must mend. Rules (qmail's):

    line, number    only the first line counts; blanks and tabs at its end are dropped, one in front is kept
    list            one entry per line; empty lines and lines that start with # are skipped
    map             a list of  KEY:VALUE  lines; keys ignore case, the last line with a key wins
    text, cdb       the reader named in the table has its own grammar

Stricter than qmail: a NUL, a carriage return, a byte order mark, a non-ASCII byte where mail could not use it,
a map's line without a colon, an entry that no domain or address can ever be equal to, is an error that says what to
do, because each of them is silently fatal to the comparison it takes part in.
"""

from qpy.core import text

LINE, NUMBER, LIST, MAP, TEXT, CDB = b'line', b'number', b'list', b'map', b'text', b'cdb'

FILE_LIMIT = 64 * 1024 * 1024           # bytes; a million virtual domains are 30 MB
ME = (b'me', None)                      # default: control/me, and without that the reader cannot work


def me_or(literal: bytes) -> tuple:
    """Default: the value of control/me, and without that `literal`."""
    return (b'me', literal)


def dotted_me_or(literal: bytes) -> tuple:
    """The same, but a name without a dot counts as none: b'' then. Nobody's host is vm.vm."""
    return (b'me', literal, b'.')


# name, kind, default, readers, meaning.
# default: None = absent (the meaning says what follows from that), bytes or int, ME, me_or(literal),
# dotted_me_or(literal); for a list ME means a list of that one name.
TABLE = (
    (b'me', LINE, None, b'all', b'full name of this host, the default of many others; required'),
    (b'accountlimits', MAP, None, b'qpy-smtpd qpy-check',
     b'what one login may send in some time before its mail is held: messages, recipients, newrecipients'),
    (b'accounts', MAP, None, b'qpy-start qpy-install', b'other names for the accounts: qpyd:NAME and so on'),
    (b'auth', LIST, None, b'qpy-auth',
     b'who judges logins: passwd (the default), program /PATH, token /PATH, dovecot /PATH'),
    (b'authsenders', LIST, None, b'qpy-smtpd',
     b'more senders for those who log in: login:address, login:@domain, login:*'),
    (b'badhelo', LIST, None, b'qpy-smtpd',
     b'clients refused by the name they give in HELO: a name, or .domain for all below it'),
    (b'badmailfrom', LIST, None, b'qpy-smtpd', b'senders refused: an address, or @host for all of a host'),
    (b'badrcptto', LIST, None, b'qpy-smtpd qpy-qmtpd',
     b'recipients refused: an address, or @host for all of a host'),
    (b'bounceformat', LINE, b'rfc3464', b'qpy-bouncer',
     b'form of bounces: rfc3464 or qsbmf (plain text only)'),
    (b'bouncefrom', LINE, b'MAILER-DAEMON', b'qpy-bouncer', b'local part of the address bounces come from'),
    (b'bouncehost', LINE, me_or(b'bouncehost'), b'qpy-bouncer', b'host of the address bounces come from'),
    (b'bouncemaxbytes', NUMBER, 1000000, b'qpy-bouncer',
     b'longest message that a bounce returns whole, in bytes; 0 is no limit'),
    (b'bouncewhen', LINE, b'pass', b'qpy-send',
     b'when failures are reported: pass (after each pass over a message) or end (once, when it is finished)'),
    (b'checkexempt', LIST, None, b'qpy-check',
     b'recipients whose mail is not checked: an address, or @domain'),
    (b'checkfailure', LINE, b'defer', b'qpy-smtpd qpy-check',
     b'what becomes of mail that cannot be checked now: defer or accept'),
    (b'checkfrom', LINE, b'no', b'qpy-smtpd',
     b'whether From and Sender must belong to who has logged in (yes, no)'),
    (b'checkrecipients', LINE, b'yes', b'qpy-smtpd qpy-qmtpd',
     b'yes: recipients that do not exist are refused at once; no: all of an accepted domain are taken, as by qmail'),
    (b'concurrencyaddress', NUMBER, 100, b'qpy-smtpd',
     b'SMTP connections at a time from one address; 0 is no limit'),
    (b'concurrencydestination', NUMBER, 20, b'qpy-send', b'remote deliveries at a time to one host, or relay of smtproutes'),
    (b'concurrencyincoming', NUMBER, 2000, b'qpy-smtpd', b'SMTP connections at a time; 0 is no limit'),
    (b'concurrencylocal', NUMBER, 200, b'qpy-send', b'local deliveries at a time; 0 stops them'),
    (b'concurrencyremote', NUMBER, 200, b'qpy-send', b'remote deliveries at a time; 0 stops them'),
    (b'databytes', NUMBER, 0, b'qpy-smtpd qpy-qmtpd',
     b'longest message accepted from the network, in bytes; 0: no limit'),
    (b'defaultdelivery', TEXT, b'./Maildir/', b'qpy-start qpy-lspawn',
     b'delivery instructions, as in .qmail, for a user without a .qmail file'),
    (b'defaultdomain', LINE, dotted_me_or(b'defaultdomain'), b'qpy-inject qpy-local',
     b'domain added to a host name without a dot that is not in locals'),
    (b'defaulthost', LINE, ME, b'qpy-inject', b'host added to an address without one'),
    (b'delaywarning', NUMBER, 0, b'qpy-send',
     b'seconds after which senders are told that a message has not arrived yet; 0: never'),
    (b'destinationlimits', MAP, None, b'qpy-send',
     b'domain:NUMBER or domain:NUMBER RATE: transactions at a time, and in a time (60/h), to one host'),
    (b'dnsbl', LIST, None, b'qpy-smtpd qpy-check',
     b'lists of addresses in DNS: ZONE [WEIGHT] [=127.0.0.2-11]'),
    (b'dnsblthreshold', NUMBER, 1, b'qpy-check',
     b'weight in the lists of dnsbl at which a client is refused'),
    (b'dotforward', LINE, b'no', b'qpy-local',
     b'yes: ~/.forward counts for a user without a .qmail file'),
    (b'doublebouncehost', LINE, me_or(b'doublebouncehost'), b'qpy-bouncer',
     b'host that double bounces go to'),
    (b'doublebounceto', LINE, b'postmaster', b'qpy-bouncer',
     b'user at doublebouncehost that double bounces go to; an empty first line drops them'),
    (b'envnoathost', LINE, me_or(b'envnoathost'), b'qpy-send qpy-users qpy-smtpd qpy-qmtpd',
     b'host added to a recipient without @'),
    (b'etrn', LIST, None, b'qpy-smtpd qpy-send',
     b'domains whose waiting mail is tried at once when somebody says ETRN: a domain, or .domain for all below it'),
    (b'greetdelay', NUMBER, 0, b'qpy-smtpd',
     b'seconds a client waits for the greeting; who speaks before it is refused'),
    (b'greylist', MAP, None, b'qpy-smtpd qpy-check',
     b'who is new is asked to come again: delay, retry, keep in seconds, and allow'),
    (b'helohost', LINE, ME, b'qpy-remote', b'name this host gives itself when it sends by SMTP'),
    (b'helorules', LIST, None, b'qpy-smtpd qpy-check',
     b'what a name in HELO must be: valid, notours, resolves'),
    (b'idhost', LINE, me_or(b'idhost'), b'qpy-inject', b'right side of the Message-ID of new messages'),
    (b'localiphost', LINE, ME, b'qpy-smtpd', b'name that stands for user@[address of this host]'),
    (b'locals', LIST, ME, b'qpy-send qpy-users qpy-smtpd qpy-inject qpy-local',
     b'domains delivered here, to users of this machine'),
    (b'mailgroups', LIST, None, b'qpy-seed',
     b'more groups below 1000 that users of mail may have as their primary group, by number'),
    (b'maxrcpt', NUMBER, 1000, b'qpy-smtpd', b'recipients that one SMTP message may have'),
    (b'milters', LIST, None, b'qpy-smtpd qpy-milter',
     b'filters that speak the milter protocol: ADDRESS:PORT or /PATH, with default, timeout and endtimeout'),
    (b'mindatarate', NUMBER, 30, b'qpy-smtpd',
     b'bytes per second a message must come with, on average, after its first two minutes'),
    (b'morercpthosts', LIST, None, b'qpy-newmrh',
     b'more domains for rcpthosts: the source of morercpthosts.cdb'),
    (b'morercpthosts.cdb', CDB, None, b'qpy-smtpd qpy-qmtpd',
     b'fast form of morercpthosts, asked after rcpthosts'),
    (b'outgoingip', LIST, None, b'qpy-rspawn qpy-remote',
     b'addresses of this host that mail leaves from, each ADDRESS, domain:ADDRESS or @sender.domain:ADDRESS'),
    (b'percenthack', LIST, None, b'qpy-send qpy-users qpy-smtpd qpy-qmtpd',
     b'domains where user%host@domain means user@host'),
    (b'plusdomain', LINE, me_or(b'plusdomain'), b'qpy-inject qpy-local',
     b'domain that replaces a + at the end of a host'),
    (b'policyservers', LIST, None, b'qpy-smtpd qpy-check',
     b'servers of Postfix\'s policy delegation protocol: ADDRESS:PORT or /PATH, with stages, default and timeout'),
    (b'programlimits', MAP, None, b'qpy-seed qpy-local',
     b'what each process of a .qmail program may use: memory, processes, cpu, files, filesize'),
    (b'qmqpservers', LIST, None, b'qpy-qmqpc',
     b'hosts that take this one\'s mail by QMQP, each ADDRESS or ADDRESS:PORT, tried in order'),
    (b'queuelifetime', NUMBER, 604800, b'qpy-send qpy-bouncer', b'seconds after which an undelivered message bounces'),
    (b'ratelimits', MAP, None, b'qpy-smtpd qpy-check',
     b'how many connections, messages and recipients from one address in some time'),
    (b'rcpthosts', LIST, None, b'qpy-smtpd qpy-qmtpd',
     b'domains mail is accepted for, or .domain for all below it; when missing: locals and virtualdomains'),
    (b'resolvers', LIST, None, b'qpy-resolve',
     b'DNS servers to ask, each ADDRESS or ADDRESS:PORT ([IPv6]:PORT); when missing: /etc/resolv.conf'),
    (b'reversedns', LINE, b'no', b'qpy-smtpd qpy-check',
     b'whether a client\'s address must have a name in DNS: no, exists, confirmed'),
    (b'senderroutes', MAP, None, b'qpy-rspawn qpy-remote qpy-send',
     b'relays by envelope sender, address:relay or @domain:relay as in smtproutes, looked at before it'),
    (b'services', TEXT, None, b'qpy-start', b'the process table: which daemons run, under which account'),
    (b'smtpgreeting', LINE, ME, b'qpy-smtpd qpy-tls', b'greeting; its first word should be the name of this host'),
    (b'smtplogins', MAP, None, b'qpy-rspawn qpy-remote',
     b'passwords for relays, user@relay:password; readable by root and qpyr only'),
    (b'smtproutes', MAP, None, b'qpy-rspawn qpy-remote qpy-send',
     b'relays by destination, domain:relay or domain:relay:port, asked before DNS'),
    (b'smtptokens', MAP, None, b'qpy-rspawn qpy-remote qpy-token',
     b'programs that print the token of a login for a relay, user@relay:/path/of/program argument ...'),
    (b'spfrules', LIST, None, b'qpy-smtpd qpy-check',
     b'results of SPF that a policy server has found and mail is refused for: fail, softfail, permerror, temperror'),
    (b'tcp.smtp', TEXT, None, b'qpy-smtpd qpy-qmtpd qpy-qmqpd',
     b'rules by client address, as tcprules reads them'),
    (b'timeoutcheck', NUMBER, 30, b'qpy-smtpd qpy-check',
     b'seconds that the checks of one command may take'),
    (b'timeoutconnect', NUMBER, 60, b'qpy-remote', b'seconds to wait for a connection to be made'),
    (b'timeoutlocal', NUMBER, 3600, b'qpy-seed qpy-lspawn qpy-local',
     b'seconds the programs of one local delivery may take before they are stopped and it is tried again'),
    (b'timeoutremote', NUMBER, 1200, b'qpy-remote', b'seconds to wait for a remote server at each step'),
    (b'timeoutsession', NUMBER, 14400, b'qpy-smtpd', b'seconds that one SMTP session may last'),
    (b'timeoutsmtpd', NUMBER, 1200, b'qpy-smtpd', b'seconds to wait for an SMTP client at each step'),
    (b'timeoutstop', NUMBER, 60, b'qpy-send',
     b'seconds that deliveries under way have at the end, before they are cut off; 0: as long as they take'),
    (b'tlscas', TEXT, None, b'qpy-rspawn qpy-remote qpy-mtasts',
     b'certificates of the authorities that sign servers\' certificates, in PEM, instead of the system\'s'),
    (b'tlsclients', TEXT, None, b'qpy-tls',
     b'certificates in PEM by which clients that show one are known: their own, or of who signed them'),
    (b'tlsdestinations', MAP, None, b'qpy-rspawn qpy-remote',
     b'TLS by destination, domain:none, may, encrypt, dane or verify, and for verify perhaps a name'),
    (b'validrcptto', LIST, None, b'qpy-smtpd qpy-qmtpd qpy-newvrt',
     b'the recipients that exist, as addresses, or @domain for all there; when missing: all that may be tried'),
    (b'validrcptto.cdb', CDB, None, b'qpy-smtpd qpy-qmtpd', b'fast form of validrcptto, asked instead of it'),
    (b'virtualdomains', MAP, None, b'qpy-send qpy-users qpy-smtpd',
     b'domain:user, delivered here to user-LOCAL; address:user for one address; .domain for all below it'),
)

# When an edit acts, by reader; qpy-control.5 says it in these words.
EDITS = (
    (b'qpy-smtpd qpy-qmtpd qpy-qmqpd qpy-milter', b'at the next connection'),
    (b'qpy-users qpy-resolve qpy-check qpy-token qpy-tls', b'at the next question'),
    (b'qpy-bouncer', b'at the next bounce'),
    (b'qpy-remote qpy-rspawn qpy-local', b'at the next delivery'),
    (b'qpy-inject qpy-qmqpc', b'at the next message'),
    (b'qpy-send', b'at HUP'),
    (b'qpy-start qpy-lspawn qpy-seed qpy-auth qpy-mtasts', b'when they are started again'),
    (b'qpy-install qpy-newmrh qpy-newvrt', b'when they are run'),
)

# Smallest and largest useful value; outside of it the nearest is taken, and the reader says so.
LIMITS = {b'concurrencydestination': (1, 20000), b'concurrencylocal': (0, 10000),
          b'concurrencyremote': (0, 20000), b'maxrcpt': (100, 10 ** 5),
          b'dnsblthreshold': (1, 10 ** 6), b'greetdelay': (0, 300), b'timeoutcheck': (1, 3600),
          b'queuelifetime': (0, 10 ** 9), b'timeoutconnect': (1, 86400), b'timeoutlocal': (1, 86400),
          b'timeoutremote': (1, 86400), b'timeoutsession': (0, 10 ** 9), b'timeoutsmtpd': (1, 86400)}

CHOICES = {b'checkfailure': (b'defer', b'accept'), b'checkfrom': (b'yes', b'no'), b'checkrecipients': (b'yes', b'no'),
           b'reversedns': (b'no', b'exists', b'confirmed'), b'bounceformat': (b'rfc3464', b'qsbmf'),
           b'bouncewhen': (b'pass', b'end'), b'dotforward': (b'no', b'yes')}

HOSTS = (b'me', b'bouncehost', b'defaultdomain', b'defaulthost', b'doublebouncehost', b'envnoathost',
         b'helohost', b'idhost', b'localiphost', b'plusdomain')      # line files that hold one host name
LOCAL_PARTS = (b'bouncefrom', b'doublebounceto')    # line files that hold what stands before an @
NEVER_EMPTY = (b'bouncefrom', b'smtpgreeting')      # line files without which what is said to others has no form
EIGHT_BIT = (b'badmailfrom', b'badrcptto', b'defaultdelivery', b'smtplogins', b'authsenders', b'tlscas', b'tlsclients',
             b'validrcptto')                # UTF-8 occurs here

SECRETS = (b'smtplogins',)                # what stands behind the colon is nobody's business
BARRED = (b'smtproutes', b'senderroutes', b'authsenders')       # nor what stands behind a bar
BOM = b'\xef\xbb\xbf'
BLANKS = b' \t'
HOST_NAME = b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.'
HOST_BYTES = frozenset(b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.[]:')


class ControlError(Exception):
    """A control file that must be mended: file name, line number (0: the whole file), value, remedy."""

    def __init__(self, file: bytes, line: int, value: bytes, remedy: bytes):
        super().__init__(file, line, value, remedy)
        self.file, self.line, self.value, self.remedy = file, line, value, remedy

    @property
    def text(self) -> bytes:
        """One line for a person, safe to print."""
        where = b'control/' + self.file + (b', line %d' % self.line if self.line else b'')
        value = hidden(self.value) if self.file in SECRETS else self.value
        value = unbarred(value) if self.file in BARRED else value
        shown = b', "' + show(value) + b'"' if value else b''
        return where + shown + b': ' + self.remedy

    def __str__(self) -> str:
        return self.text.decode('ascii', 'replace')


def hidden(value: bytes) -> bytes:
    """What may be said of KEY:PASSWORD."""
    key, colon, _ = value.partition(b':')
    return key + b':...' if colon else b''


def unbarred(value: bytes) -> bytes:
    """What may be said of relay|USER|PASSWORD, which patches of qmail know and we do not."""
    relay, bar, _ = value.partition(b'|')
    return relay + bar + b'...' if bar else value


def show(value: bytes) -> bytes:
    """The value as a person may see it: at most 60 bytes, each strange one as \\xHH."""
    shown = b''.join(b'%c' % c if 32 <= c < 127 else b'\\x%02x' % c for c in value[:60])
    return shown + (b'...' if len(value) > 60 else b'')


def row(name: bytes) -> tuple | None:
    """The TABLE row of a control file, or None."""
    for entry in TABLE:
        if entry[0] == name:
            return entry
    return None


# --- lines --------------------------------------------------------------------------------------------------

def trouble(value: bytes, eight_bit: bool = False) -> bytes:
    """What is wrong with the bytes of one value, with the remedy; b'' when nothing is."""
    if BOM in value:
        return b'a byte order mark; save the file without BOM'
    if b'\0' in value:
        return b'a NUL byte; write the file anew as plain text'
    if b'\r' in value:
        return b"a carriage return; save the file with Unix line ends (sed -i 's/\\r$//')"
    if not eight_bit and not value.isascii():
        return b'a non-ASCII byte; write plain ASCII, domains in their xn-- form'
    return b''


def clean(data: bytes, name: bytes) -> bool:
    """True if no line of the file can be in trouble: the fast way past a million checks."""
    return not (b'\0' in data or b'\r' in data or BOM in data) and (data.isascii() or name in EIGHT_BIT)


def checked(value: bytes, name: bytes, number: int) -> bytes:
    """The value, unless its bytes are in trouble: then ControlError."""
    wrong = trouble(value, name in EIGHT_BIT)
    if wrong:
        raise ControlError(name, number, value, wrong)
    return value


def first_line(data: bytes, name: bytes) -> bytes:
    """The value of a line file: its first line without the blanks at its end; an empty one if only comments follow."""
    value, *others = data.split(b'\n')
    value = value.rstrip(BLANKS)
    if not value and any(line.strip() and line[:1] != b'#' for line in others):
        raise ControlError(name, 1, b'', b'empty, and no other line counts; write the value into the first one')
    return checked(value, name, 1)


def lines(data: bytes, name: bytes) -> list:
    """[(line number, entry)] of a list file. Comments may hold any bytes but CR and NUL."""
    if len(data) > FILE_LIMIT:
        raise ControlError(name, 0, b'', b'longer than %d bytes; use a cdb' % FILE_LIMIT)
    entries = [(n, entry.rstrip(BLANKS)) for n, entry in enumerate(data.split(b'\n'), 1)]
    entries = [(n, entry) for n, entry in entries if entry and entry[:1] != b'#']
    if not clean(data, name):
        for n, entry in entries:
            checked(entry, name, n)
    fault = FAULTS.get(name)
    if fault:
        for n, entry in entries:
            wrong = fault(entry)
            if wrong:
                raise ControlError(name, n, entry, wrong)
    return entries


# What is wrong with an entry, with the remedy; b'' when nothing is.

def fault_of_domain(entry: bytes) -> bytes:
    """An entry that mail's domains are compared with."""
    if entry.translate(None, HOST_NAME) and not is_literal(entry):
        return b'not a domain; write one domain per line, letters, digits, dots and hyphens only'
    return b'a dot too many' if entry[-1:] == b'.' or b'..' in entry else b''


def fault_of_own_domain(entry: bytes) -> bytes:
    """The same where .domain does not stand for what is below it."""
    if entry[:1] == b'.':
        return b'no domain begins with a dot; write each domain, or .domain:user into virtualdomains'
    return fault_of_domain(entry)


def is_literal(entry: bytes) -> bool:
    """[192.0.2.1] and its like."""
    return entry[:1] == b'[' and entry[-1:] == b']' and HOST_BYTES.issuperset(entry)


def fault_of_address(entry: bytes) -> bytes:
    """An address, or @host."""
    local, at, host = entry.rpartition(b'@')
    if not at:
        return b'no address has no @; write user@host, or @host for all of a host'
    if local == b'*':
        return b'no patterns; write @host for all of a host'
    if entry[:1] in (b' ', b'\t'):
        return b'a blank in front of the address'
    return fault_of_own_domain(host) if host.isascii() else b''


def fault_of_helo(entry: bytes) -> bytes:
    """What a client says in HELO; nobody's regular expressions."""
    if entry.translate(None, HOST_NAME) and not is_literal(entry):
        return b'not a name; write mail.example.com, .example.com for all below it, or [192.0.2.1]: no patterns'
    return b''


def fault_of_account(entry: bytes) -> bytes:
    """role:name."""
    return b'' if entry.partition(b':')[2] else b'write role:name, as in qpyd:maild'


def fault_of_route(entry: bytes) -> bytes:
    """host:relay."""
    key, colon, _ = entry.partition(b':')
    if not colon:
        return b'no colon; write domain:relay or domain:relay:port, :relay for all other domains'
    return fault_of_domain(key) if key and not key.startswith(b'[') else b''


def fault_of_sender_route(entry: bytes) -> bytes:
    """address:relay, @host:relay."""
    key, colon, _ = entry.partition(b':')
    return b'' if colon and b'@' in key else b'write address:relay or @domain:relay'


def fault_of_login(entry: bytes) -> bytes:
    """user@relay:password."""
    user, at, host = entry.partition(b':')[0].rpartition(b'@')
    if not (user and at and host and entry.partition(b':')[2]):
        return b'write user@relay:password, user and relay as in smtproutes, without a port'
    return fault_of_domain(host)


def fault_of_token(entry: bytes) -> bytes:
    """user@relay:/program."""
    user, at, host = entry.partition(b':')[0].rpartition(b'@')
    if not (user and at and host and entry.partition(b':')[2][:1] == b'/'):
        return b'write user@relay:/path/of/program, user and relay as in smtproutes, without a port'
    return fault_of_domain(host)


def fault_of_tls(entry: bytes) -> bytes:
    """domain:level."""
    key, colon, _ = entry.partition(b':')
    if not colon:
        return b'no colon; write domain:level, :level for all other domains'
    return fault_of_domain(key)


def fault_of_group(entry: bytes) -> bytes:
    """A gid."""
    good = text.parse_uint(entry, 4294967294)
    return b'' if good else b'write the number of a group, and not that of root; getent group NAME says it'


def fault_of_limit(entry: bytes) -> bytes:
    """domain:number rate."""
    key, colon, _ = entry.partition(b':')
    if not colon:
        return b'no colon; write domain:10 or domain:10 60/h, :10 for all other domains'
    return fault_of_domain(key)


def fault_of_virtual(entry: bytes) -> bytes:
    """domain:user and its relatives."""
    key, colon, user = entry.partition(b':') if entry[:1] != b'[' else partition_literal(entry)
    if not colon:
        return b'no colon; write domain:user'
    if b'@' in user or b' ' in user or b'\t' in user:
        return b'after the colon stands a user of this machine; forward in his .qmail-default'
    local, at, domain = key.rpartition(b'@')
    if at and (local in (b'', b'*') or local[:1] in (b' ', b'\t')):
        return b'before the @ stands one local part; write domain:user for all of a domain'
    return fault_of_domain(domain)


def partition_literal(entry: bytes) -> tuple:
    """As partition at the colon after a bracket."""
    literal, bracket, rest = entry.partition(b']')
    return literal + bracket, rest[:1], rest[1:]


def fault_of_sender(entry: bytes) -> bytes:
    """login:address."""
    login, colon, sender = entry.partition(b':')
    good = login and colon and (sender == b'*' or b'@' in sender)
    return b'' if good else b'write login:address, login:@domain or login:*'


FAULTS = {b'accounts': fault_of_account, b'authsenders': fault_of_sender, b'badhelo': fault_of_helo,
          b'badmailfrom': fault_of_address, b'badrcptto': fault_of_address, b'checkexempt': fault_of_address,
          b'destinationlimits': fault_of_limit, b'etrn': fault_of_domain, b'locals': fault_of_own_domain,
          b'mailgroups': fault_of_group, b'morercpthosts': fault_of_domain, b'percenthack': fault_of_own_domain,
          b'rcpthosts': fault_of_domain, b'senderroutes': fault_of_sender_route, b'smtplogins': fault_of_login,
          b'smtproutes': fault_of_route, b'smtptokens': fault_of_token, b'tlsdestinations': fault_of_tls,
          b'validrcptto': fault_of_address, b'virtualdomains': fault_of_virtual}


# --- values -------------------------------------------------------------------------------------------------

def parse_line(data: bytes, name: bytes) -> bytes:
    """The value of a line file, checked as a host name or against its choices where the tables say so."""
    value = first_line(data, name)
    if name in HOSTS:
        return check_host(value, name)
    if name in LOCAL_PARTS and (b'@' in value or b' ' in value or b'\t' in value):
        raise ControlError(name, 1, value, b'write only what stands before the @; the host has a file of its own')
    if name in NEVER_EMPTY and not value:
        raise ControlError(name, 1, value, b'empty; write a value, or remove the file')
    choices = CHOICES.get(name)
    if choices and text.lower(value) not in choices:
        raise ControlError(name, 1, value, b'write one of: ' + b' '.join(choices))
    return text.lower(value) if choices else value


def check_host(value: bytes, name: bytes) -> bytes:
    """The value if it can be a host name in an address; one dot at its end is dropped."""
    if not value:
        raise ControlError(name, 1, value, b'empty; write a full host name, such as mail.example.org')
    if value[:1] in (b' ', b'\t') or not HOST_BYTES.issuperset(value):
        raise ControlError(name, 1, value, b'not a host name; letters, digits, dots and hyphens only')
    value = value[:-1] if value[-1:] == b'.' else value
    if not value or value[:1] == b'.' or b'..' in value or len(value) > 253:
        raise ControlError(name, 1, value, b'not a host name; a dot too many, or longer than 253 bytes')
    return value


def parse_number(data: bytes, name: bytes) -> int | None:
    """The value of a number file; None when its first line is empty, which means the default.

    qmail takes the digits in front and forgets the rest; so does this, after a blank. `10M` is an error."""
    value = first_line(data, name)
    if not value:
        return None
    digits = value.replace(b'\t', b' ').partition(b' ')[0]
    number = text.parse_uint(digits, 10 ** 18)
    if number is None:
        raise ControlError(name, 1, value, b'too large' if digits.isdigit() else b'not a number; write decimal digits only')
    return number


def limit(name: bytes, number: int) -> int:
    """The number, or the nearest one that LIMITS allows."""
    low, high = LIMITS.get(name, (0, 10 ** 18))
    return min(max(number, low), high)


def parse_list(data: bytes, name: bytes) -> list:
    """The entries of a list file, in order, as written."""
    return [entry for _, entry in lines(data, name)]


def parse_set(data: bytes, name: bytes) -> dict:
    """{lower-case entry: number of its last line} of a list file used for look-ups."""
    return {text.lower(entry): n for n, entry in lines(data, name)}


def parse_map(data: bytes, name: bytes) -> dict:
    """{lower-case key: value} of a map file; the last line with a key wins."""
    return {key: value for key, (value, _) in parse_map_lines(data, name).items()}


def parse_map_lines(data: bytes, name: bytes) -> dict:
    """{lower-case key: (value, line number)} of a map file."""
    result = {}
    for n, entry in lines(data, name):
        key, colon, value = entry.partition(b':')
        if not colon:
            raise ControlError(name, n, entry, b'no colon; write key:value')
        result[text.lower(key)] = (value, n)
    return result


def parse_text(data: bytes, name: bytes) -> bytes:
    """The whole of a text file without the empty lines at its end; its grammar is its reader's."""
    for n, line in enumerate(data.split(b'\n'), 1):
        if line[:1] != b'#':
            checked(line, name, n)
    if name == b'defaultdelivery':
        check_delivery(data, name)
    return data.rstrip(b'\n')


def check_delivery(data: bytes, name: bytes) -> None:
    """ControlError unless every line is a delivery instruction that says by its first byte what it is."""
    lines = data.rstrip(b'\n').split(b'\n')
    for n, line in enumerate(lines, 1):
        if n == 1 and not line.rstrip(BLANKS):
            raise ControlError(name, n, b'', b'empty; write ./Maildir/ to deliver into everybody\'s Maildir')
        if line.rstrip(BLANKS) and not line.startswith((b'./', b'/', b'|', b'&', b'#')):
            raise ControlError(name, n, line, b'write ./Maildir/ for a Maildir, ./Mailbox for an mbox, |command or '
                               b'&address')
    if all(line[:1] == b'#' or not line.rstrip(BLANKS) for line in lines):
        raise ControlError(name, 1, lines[0], b'only comments, so that mail would be thrown away; write ./Maildir/, or '
                           b'|exit 99 if that is meant')


# --- names --------------------------------------------------------------------------------------------------

def strangers(names) -> list:
    """[(name, the nearest known name or b'')] of the names that no program reads; copies are left out."""
    return [(name, nearest(name)) for name in sorted(set(names) - {entry[0] for entry in TABLE}) if not is_copy(name)]


def is_copy(name: bytes) -> bool:
    """Is this how editors and programs call what they put beside a file?"""
    stem, _, ending = name.rpartition(b'.')
    return name[:1] in (b'.', b'#') or name[-1:] == b'~' or name.endswith(b'.cdb.tmp') \
        or ending in (b'bak', b'old', b'orig', b'save') and row(stem) is not None


def nearest(name: bytes) -> bytes:
    """The known control file whose name is nearest to a misspelt one, or b'' if none is near."""
    best = min((distance(text.lower(name), entry[0]), entry[0]) for entry in TABLE)
    return best[1] if best[0] <= 1 + len(best[1]) // 5 else b''


def distance(a: bytes, b: bytes) -> int:
    """Edits (insert, delete, replace, swap neighbours) from a to b; names are short."""
    a, b = a[:64], b[:64]
    before, last = [], list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        line = [i]
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, line[-1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                cost = min(cost, before[j - 2] + 1)
            line.append(cost)
        before, last = last, line
    return last[-1]
