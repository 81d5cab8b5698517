"""The first control files and aliases; what is there already is never changed."""
import os
import pwd
import subprocess

from qpy.admin.installing import doing
from qpy.core import aliases, controls as tables, services

SYSTEM_ALIASES = '/etc/aliases'
FIRST_ALIASES = ('root', 'postmaster', 'mailer-daemon')
TCP_SMTP = """\
# Who may do what on the SMTP port, in tcprules' form; see qpy-smtpd(8).
127.:allow,RELAYCLIENT=""
[::1]:allow,RELAYCLIENT=""
:allow
"""
LOCALS = '# Mail to these domains is delivered here. If the name in me changes, change it here too.\n%s\nlocalhost\n'


def submission_lines():
    """The lines of control/services by which people send: a login, and ports of their own."""
    lines = [services.AUTH.decode()]
    for name, port, more in (('submission', '587', ''), ('submissions', '465', 'SMTPS=1 ')):
        where = 'tcp:0.0.0.0:' + port + (',tcp:[::]:' + port if has_ipv6() else '')
        lines.append('%s qpyd %s %sREQUIREAUTH=1 qpy-smtpd' % (name, where, more))
    return ''.join(' '.join(line.split()) + '\n' for line in lines)


def first_controls(home, me, listen, submission=False):
    """control/me, with it control/locals, and with --smtp the port, TLS on it, and who may relay."""
    control = os.path.join(home, 'control')
    path = os.path.join(control, 'me')
    if not os.path.exists(path):
        name = me or host_name()
        try:
            tables.parse_line(name.encode(), b'me')
        except (tables.ControlError, UnicodeError) as wrong:
            raise doing.Trouble('unable to use %r as the name of this host: %s; give one with --me' % (name, wrong)) from None
        doing.write(path, name + '\n')
        doing.first(os.path.join(control, 'locals'), LOCALS % name)
        if '.' not in name.strip('.'):
            doing.say('warning: the name of this host, %s, has no dot: mail works inside, but other hosts refuse what comes '
                      'from such a name. Write its full name into control/me and control/locals, or remove both and give it '
                      'with --me' % name)
    elif me and doing.read_first_line(path) != me:
        doing.say('control/me is kept: %s' % doing.read_first_line(path))
    if listen:
        path = os.path.join(control, 'services')
        more = b' '.join(services.TLS.split()).decode() + '\n' + (submission_lines() if submission else '')
        if not doing.first(path, listen + more):
            with open(path) as file:
                if listen not in file.read():
                    doing.say('%s is kept as it is; to listen on another port, edit it: the line that begins with smtpd must '
                              'be: %s' % (path, listen.strip()))
        doing.first(os.path.join(control, 'tcp.smtp'), TCP_SMTP)


def host_name():
    """The full name of this host, as well as the machine knows it."""
    if os.path.exists('/etc/mailname'):
        name = doing.read_first_line('/etc/mailname')
        if name:
            return name
    try:
        asked = subprocess.run(['hostname', '-f'], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return os.uname().nodename
    return asked.stdout.strip() or os.uname().nodename


def smtp_line(word, rootless):
    """The line of control/services that opens a port; word is PORT or ADDRESS:PORT."""
    if ':' in word:
        places = ['tcp:' + word]
    elif rootless:
        places = ['tcp:127.0.0.1:' + word]
    else:
        places = ['tcp:0.0.0.0:' + word] + (['tcp:[::]:' + word] if has_ipv6() else [])
    port = word.rpartition(':')[2]
    if rootless and port.isascii() and port.isdigit() and int(port[:6]) < unprivileged():
        raise doing.Trouble('--smtp %s: ports below %d need root; take a higher one, for example --smtp 2525, or install as root'
                            % (word, unprivileged()))
    line = services.SMTP % ',tcp:'.join(place[4:] for place in places).encode()
    try:
        services.parse(line)
    except tables.ControlError as wrong:
        raise doing.Trouble('--smtp %s: %s' % (word, wrong.remedy.decode())) from None
    return b' '.join(line.split()).decode() + '\n'


def unprivileged():
    """The lowest port that needs no root."""
    try:
        return int(doing.read_first_line('/proc/sys/net/ipv4/ip_unprivileged_port_start'))
    except (OSError, ValueError):
        return 1024


def has_ipv6():
    """Whether this machine has an IPv6 address at all."""
    try:
        with open('/proc/net/if_inet6') as file:
            return bool(file.read(1))
    except OSError:
        return False


def system_aliases():
    """What /etc/aliases says, where this machine's sendmail is to go by it."""
    try:
        with open(SYSTEM_ALIASES, 'rb') as file:
            return aliases.compile(file.read())[0]
    except FileNotFoundError:
        return {}


def new_aliases(home):
    """users/aliases.cdb of /etc/aliases; what it has to say about it is for the administrator."""
    done = subprocess.run([os.path.join(home, 'bin/qpy-newaliases')], capture_output=True, text=True)
    for line in (done.stdout + done.stderr).splitlines():
        doing.say(line)


def first_aliases(home, admin, known=()):
    """~alias/.qmail-root, -postmaster, -mailer-daemon; into ~alias/Maildir/ unless an address is given.

    known: names that /etc/aliases has; they need no file."""
    with doing.as_its_owner(os.path.join(home, 'alias'), home):
        written = [name for name in FIRST_ALIASES if name.encode() not in known
                   and doing.first('.qmail-' + name, '&%s\n' % admin if admin else './Maildir/\n')]
        if written and not admin:
            make_maildir('Maildir')


def admin_trouble(home, admin):
    """Why mail for an administrator would not arrive, '' if it may."""
    local, _, domain = admin.lower().rpartition('@')
    if domain not in lines_of(home, 'locals'):
        routed = any(line.startswith((domain + ':', ':')) for name in ('virtualdomains', 'smtproutes')
                     for line in lines_of(home, name))
        return '' if '.' in domain or routed else '--admin %s: %s is neither in control/locals nor a name that other ' \
            'hosts know; write the address with its full domain' % (admin, domain)
    if local in FIRST_ALIASES:
        return '--admin %s: this is the address whose mail is to go there; give that of a person' % admin
    user = local.partition('-')[0]
    if os.path.exists(os.path.join(home, 'alias/.qmail-' + local)) or known_in_assign(home, local):
        return ''
    if not doing.exists(pwd.getpwnam, user):
        return '--admin %s: this machine has no user %s' % (admin, user)
    owner, uid = os.stat(home).st_uid, pwd.getpwnam(user).pw_uid
    if uid == 0:
        return '--admin %s: no mail is delivered to root' % admin
    return '' if owner in (0, uid) else '--admin %s: this installation is rootless and delivers only to uid %d' % (
        admin, owner)


def lines_of(home, name):
    """The entries of a control file in lower case, [] if it is not there."""
    try:
        with open(os.path.join(home, 'control', name)) as file:
            return [line.strip().lower() for line in file if line[:1] not in ('#', '\n')]
    except FileNotFoundError:
        return [doing.read_first_line(os.path.join(home, 'control/me')).lower()] if name == 'locals' else []


def known_in_assign(home, local):
    """Whether users/assign knows a local part."""
    try:
        with open(os.path.join(home, 'users/assign')) as file:
            return any(line[:1] == '=' and line[1:].partition(':')[0] == local or
                       line[:1] == '+' and local.startswith(line[1:].partition(':')[0]) for line in file)
    except FileNotFoundError:
        return False


def make_maildir(path):
    """A Maildir, unless something is there by that name."""
    if not os.path.lexists(path):
        for directory in (path, *(os.path.join(path, name) for name in ('new', 'cur', 'tmp'))):
            os.mkdir(directory, 0o700)
