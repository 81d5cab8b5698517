"""control/services: the process table, in the manner of inetd.

    name account listen[,listen] [NAME=VALUE ...] program [argument ...]
    name off

What a line may ask for:

    tcp:ADDRESS:PORT              a TCP port; an IPv6 address stands in brackets
    unix:NAME:MODE[:OWNER[:GROUP]]   a stream socket DIR/run/NAME
    seq:NAME:MODE[:OWNER[:GROUP]]    a SOCK_SEQPACKET socket DIR/run/NAME
    pair:NAME                     one end of a pair shared by the two lines that name it
    -                             nothing

The lines of the file are laid over DEFAULT: a name that is there already is replaced, any other is added, and
`name off` takes one away.  The word DEFAULTDELIVERY stands for the default delivery instruction.
"""
from qpy.core import accounts, address as addresses, text
from qpy.core.controls import ControlError

FILE = b'services'
DEFAULT = b"""\
queued   qpyq  unix:submit:0666,unix:new:0600:qpys   qpy-queued
clean    qpyq  unix:clean:0600:qpys                  qpy-clean
resolve  qpyr  seq:resolve:0660:qpyr:qpyd,seq:names:0600:qpyc qpy-resolve
users    qpyp  seq:users:0660:qpyu:qpyd,seq:exists:0666 qpy-users
seed     root  pair:seed                             qpy-seed
lspawn   qpyu  seq:lspawn:0600:qpys,pair:seed        qpy-lspawn DEFAULTDELIVERY
rspawn   qpyr  seq:rspawn:0600:qpys                  qpy-rspawn
bouncer  qpys  seq:bounce:0600:qpys                  qpy-bouncer
send     qpys  unix:control:0666                     qpy-send
"""
SMTP = b'smtpd    qpyd  tcp:%s                        qpy-smtpd\n'     # what qpy-install --smtp writes
TLS = b'tls      qpyt  unix:tls:0660:qpyt:qpyd           qpy-tls\n'
AUTH = b'auth     qpya  seq:auth:0660:qpya:qpyd           qpy-auth\n'
NAME_BYTES = frozenset(b'abcdefghijklmnopqrstuvwxyz0123456789-_.')
NAME_LIMIT = 32
RESERVED = (b'log', b'start', b'life')
ROOT_ONLY = b'seed'         # the one line that may start as root: it makes a user namespace and then leaves root
REMEDY = b'write: name account listen[,listen] program arguments'


class Service:
    """One line: its name, its account (a role, or root), its listens, its environment, its words, its line number."""

    __slots__ = ('name', 'account', 'listens', 'environment', 'words', 'line')

    def __init__(self, name, account, listens, environment, words, line):
        self.name, self.account, self.listens = name, account, listens
        self.environment, self.words, self.line = environment, words, line


LOG = Service(b'log', b'qpyl', (), {}, (b'qpy-log',), 0)    # runs beside every line; its linger is longer than start's GRACE


class Listen:
    """One thing to hand over: kind tcp unix seq pair; name; for tcp address, port; for files mode, owner, group."""

    __slots__ = ('kind', 'name', 'address', 'port', 'mode', 'owner', 'group')

    def __init__(self, kind, name, address=b'', port=0, mode=0, owner=b'', group=b''):
        self.kind, self.name, self.address, self.port = kind, name, address, port
        self.mode, self.owner, self.group = mode, owner, group


def path(service, home):
    """The path of a service's program."""
    return service.words[0] if service.words[0][:1] == b'/' else home + b'/bin/' + service.words[0]


def table(data):
    """[Service] in the order of starting, from the bytes of control/services (None: there is none).

    ControlError for what must be mended."""
    found = {service.name: service for service in parse(DEFAULT)}
    for service in found.values():
        service.line = 0
    for service in parse(data or b''):
        found[service.name] = service
    running = [service for service in found.values() if service.words]
    check_together(running)
    return running


def parse(data):
    """[Service], one for each line; `name off` has no words."""
    services, seen = [], set()
    for number, entry in enumerate(data.split(b'\n'), 1):
        words = entry.replace(b'\t', b' ').split(b' ')
        words = [word for word in words if word]
        if not words or words[0][:1] == b'#':
            continue
        if b'\r' in entry or b'\0' in entry:
            raise ControlError(FILE, number, entry, b'a carriage return or NUL; save the file as plain Unix text')
        service = parse_line(words, number)
        if service.name in seen:
            raise ControlError(FILE, number, service.name, b'this name stands twice; give the second another')
        seen.add(service.name)
        services.append(service)
    return services


def parse_line(words, number):
    """The Service that the words of one line describe."""
    name = words[0]
    check_name(name, number)
    if words[1:] == [b'off']:
        return Service(name, b'', (), {}, (), number)
    if len(words) < 4:
        raise ControlError(FILE, number, b' '.join(words), b'too few words; ' + REMEDY)
    account = words[1]
    check_account(account, name, number)
    listens = () if words[2] == b'-' else tuple(parse_listen(word, name, account, number)
                                                for word in words[2].split(b','))
    environment, program = split_environment(words[3:])
    if not program:
        raise ControlError(FILE, number, b' '.join(words), b'no program; ' + REMEDY)
    if b'/' in program[0] and program[0][:1] != b'/':
        raise ControlError(FILE, number, program[0], b'write a program of DIR/bin by its name, others with full path')
    return Service(name, account, listens, environment, tuple(program), number)


def split_environment(words):
    """({NAME: VALUE}, the words from the program on)."""
    environment = {}
    for i, word in enumerate(words):
        key, sign, value = word.partition(b'=')
        if not sign or b'/' in key:
            return environment, words[i:]
        environment[key] = value
    return environment, []


def check_name(name, number):
    """ControlError unless name can be a file's name and a word in the log."""
    if name in RESERVED:
        raise ControlError(FILE, number, name, b'a name that qpy-start uses itself; choose another')
    if len(name) > NAME_LIMIT or name[:1] in (b'.', b'-') or not NAME_BYTES.issuperset(name):
        raise ControlError(FILE, number, name, b'not a name; lower-case letters, digits, - _ . and at most %d bytes'
                           % NAME_LIMIT)


def check_account(account, name, number):
    """ControlError unless account is one of the roles; root is for the seed alone."""
    if account == b'root' and name == ROOT_ONLY:
        return
    if account == b'root':
        raise ControlError(FILE, number, account, b'only the seed starts as root; choose the account of its work')
    if account not in accounts.ROLES or account == b'alias':
        raise ControlError(FILE, number, account, b'not an account of qpy; one of: '
                           + b' '.join(role for role in accounts.ROLES if role != b'alias'))


def parse_listen(word, service, account, number):
    """The Listen that one word describes."""
    kind, _, rest = word.partition(b':')
    if kind == b'tcp':
        return Listen(kind, service, *parse_tcp(rest, word, number))
    if kind == b'pair':
        check_name(rest, number)
        return Listen(kind, rest)
    if kind not in (b'unix', b'seq'):
        raise ControlError(FILE, number, word, b'write tcp:ADDRESS:PORT, unix:NAME:MODE, seq:NAME:MODE, pair:NAME or -')
    fields = rest.split(b':')
    if not 2 <= len(fields) <= 4:
        raise ControlError(FILE, number, word, b'write %s:NAME:MODE[:OWNER[:GROUP]]' % kind)
    check_name(fields[0], number)
    owner = fields[2] if len(fields) > 2 else account
    group = fields[3] if len(fields) > 3 else accounts.GROUP.get(owner, owner)
    for role in (owner, group):
        if role not in accounts.ROLES and role != b'root':
            raise ControlError(FILE, number, word, b'no such account: ' + role)
    return Listen(kind, fields[0], mode=parse_mode(fields[1], word, number), owner=owner, group=group)


def parse_tcp(rest, word, number):
    """(address, port) of ADDRESS:PORT."""
    address, _, digits = rest.rpartition(b':')
    port = text.parse_uint(digits, 65535)
    if address[:1] == b'[' and address[-1:] == b']':
        address = address[1:-1]
        packed = addresses.parse_ipv6(address)
    else:
        packed = addresses.parse_ipv4(address)
    if packed is None or not port:
        raise ControlError(FILE, number, word, b'write tcp:ADDRESS:PORT, for example tcp:0.0.0.0:25 or tcp:[::]:25')
    return address, port


def parse_mode(digits, word, number):
    """The number that three or four octal digits stand for."""
    if not 3 <= len(digits) <= 4 or digits.strip(b'01234567'):
        raise ControlError(FILE, number, word, b'the mode is octal, for example 0600')
    mode = int(digits, 8)
    if mode & ~0o666:
        raise ControlError(FILE, number, word, b'a socket has read and write bits only, for example 0600')
    return mode


def check_together(services):
    """ControlError where lines do not fit each other: sockets named twice, pairs without their other end."""
    files, pairs = {}, {}
    for service in services:
        for listen in service.listens:
            if listen.kind == b'pair':
                pairs.setdefault(listen.name, []).append(service)
                continue
            key = (listen.address, listen.port) if listen.kind == b'tcp' else listen.name
            if key in files:
                raise ControlError(FILE, service.line, service.name, b'listens where %s does already; '
                                   b'change one of them' % files[key])
            files[key] = service.name
    for name, ends in pairs.items():
        if len(ends) != 2:
            raise ControlError(FILE, ends[0].line, b'pair:' + name, b'a pair needs two lines that name it, not %d'
                               % len(ends))
