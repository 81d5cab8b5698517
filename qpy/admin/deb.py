"""qpy-deb, in the source tree: builds a package for Debian, with dpkg-deb alone.

    arguments   [DIRECTORY] [--maintainer 'NAME <ADDRESS>']; the package goes into DIRECTORY, default here
    exit        0 when it is built, its path on descriptor 1; 100 when called wrongly; 111 when it cannot be built

The package is a mail-transport-agent in the sense of Debian policy 11.6.  Its DIR is /var/lib/qpy, whose code,
launchers, manual and control files are links to where Debian has such things; qpy-install, run by its postinst, makes
accounts, directories and the first control files, as everywhere.
"""
import argparse
import configparser
import email.utils
import gzip
import hashlib
import os
import shutil
import sys
import tempfile

from qpy.admin import install
from qpy.admin.installing import doing, first_files, packages, program_files

DIR = '/var/lib/qpy'
LINKS = {DIR + '/bin': '/usr/lib/qpy/bin', DIR + '/lib': '/usr/lib/qpy', DIR + '/man': '/usr/share/man',
         DIR + '/doc': '/usr/share/doc/qpy', DIR + '/control': '/etc/qpy/control', DIR + '/users': '/etc/qpy/users'}
COMMANDS = {'/usr/sbin/sendmail': '../lib/qpy/bin/qpy-sendmail', '/usr/lib/sendmail': '../sbin/sendmail',
            '/usr/bin/mailq': '../lib/qpy/bin/qpy-mailq', '/usr/bin/newaliases': '../lib/qpy/bin/qpy-newaliases',
            '/usr/sbin/rmail': '../lib/qpy/bin/qpy-sendmail', '/usr/sbin/runq': '../lib/qpy/bin/qpy-sendmail',
            '/usr/sbin/send-mail': '../lib/qpy/bin/qpy-sendmail'}
PAGES = {'man8/sendmail.8': 'qpy-sendmail.8', 'man8/rmail.8': 'qpy-sendmail.8', 'man8/runq.8': 'qpy-sendmail.8',
         'man8/send-mail.8': 'qpy-sendmail.8', 'man1/mailq.1': 'qpy-mailq.1', 'man1/newaliases.1': 'qpy-newaliases.1'}
SITE = '../../python3/dist-packages'            # where Debian has dnspython and click, from lib/site

CONTROL = """\
Package: qpy
Version: %(version)s
Architecture: all
Maintainer: %(maintainer)s
Installed-Size: %(size)d
Depends: python3 (>= 3.11), python3-dnspython, python3-click, passwd, init-system-helpers (>= 1.54), \
debconf (>= 0.5) | debconf-2.0
Recommends: libargon2-1
Provides: mail-transport-agent
Conflicts: mail-transport-agent
Replaces: mail-transport-agent
Section: mail
Priority: optional
Description: mail transfer agent in qmail's shape: tiny programs, no set-user-id
 qpy takes mail by SMTP and from sendmail, keeps it in a queue that survives a
 power cut, and delivers it to Maildirs, mbox files, programs and other hosts,
 steered by .qmail files and control files as qmail is.
 .
 Nothing in it is set-user-id.  Each program has one job, an account of its
 own, and a page of manual.
"""
TEMPLATES = """\
Template: qpy/mailname
Type: string
Description: System mail name:
 The mail name of this system is the domain of the addresses of its users.
 It is written to /etc/mailname, where all mail programs look for it.
"""
CONFIG = """\
#!/bin/sh
set -e
. /usr/share/debconf/confmodule
if [ ! -s /etc/mailname ]; then
    db_get qpy/mailname || RET=
    if [ -z "$RET" ]; then
        db_set qpy/mailname "$(hostname --fqdn 2>/dev/null || hostname)" || true
    fi
    db_input high qpy/mailname || true
    db_go || true
fi
"""
POSTINST = """\
#!/bin/sh
set -e
. /usr/share/debconf/confmodule
if [ "$1" = configure ]; then
    if [ ! -s /etc/mailname ]; then
        db_get qpy/mailname || RET=
        echo "${RET:-$(hostname --fqdn 2>/dev/null || hostname)}" >/etc/mailname
    fi
    db_stop
    if [ ! -e /etc/aliases ]; then
        printf '# See qpy-aliases(5); newaliases makes changes count.\\nmailer-daemon: postmaster\\npostmaster: root\\n' \\
            >/etc/aliases
    fi
    if [ ! -e %(home)s/control/me ]; then
        echo yes >%(home)s/control/dotforward
    fi
    py3compile -p qpy /usr/lib/qpy
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers qpy.conf
    fi
    %(home)s/bin/qpy-install %(home)s --offline --sendmail >&2 || [ $? = 100 ]      # it has said what wants mending
    deb-systemd-helper unmask qpy.service >/dev/null || true
    if deb-systemd-helper --quiet was-enabled qpy.service; then
        deb-systemd-helper enable qpy.service >/dev/null || true
    else
        deb-systemd-helper update-state qpy.service >/dev/null || true
    fi
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        deb-systemd-invoke restart qpy.service >/dev/null || true
    fi
fi
"""
PRERM = """\
#!/bin/sh
set -e
if [ "$1" = remove ]; then
    if [ -d /run/systemd/system ]; then
        deb-systemd-invoke stop qpy.service >/dev/null || true
    fi
    lock=%(home)s/queue/lock            # which qpy-start holds, whoever has started it
    if [ -e $lock ] && ! flock -n $lock true; then
        pids=$(lslocks -nro PID,PATH | sed -n "s|^\\([0-9]*\\) $lock$|\\1|p")
        if ! { kill -TERM $pids && flock -w 90 $lock true && sleep 3 && flock -n $lock true; }; then    # runit starts it again
            echo "qpy runs in %(home)s; stop it first: sv down qpy, svc -d, or end qpy-start" >&2
            exit 1
        fi
    fi
fi
py3clean -p qpy
"""
# debconf begins the script anew, whose first lines it therefore is
POSTRM = """\
#!/bin/sh
set -e
if [ "$1" = purge ] && [ -e /usr/share/debconf/confmodule ]; then
    . /usr/share/debconf/confmodule
    db_purge
    db_stop
fi
if [ "$1" = remove ]; then
    rm -rf %(home)s/run %(home)s/service /etc/qpy/users/aliases.cdb
fi
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
if [ "$1" = purge ]; then
    rm -rf /etc/qpy
    kept=
    for place in queue/mess queue/damaged alias; do
        if [ -n "$(find %(home)s/$place -type f ! -name '.qmail*' ! -path '*/tmp/*' -print -quit 2>/dev/null)" ]; then
            echo "left: %(home)s/$place, with mail in it" >&2
            kept="$kept ${place%%%%/*}"
        fi
    done
    for path in %(home)s/* %(home)s/.[!.]*; do
        case " $kept " in
            *" ${path##*/} "*) ;;
            *) rm -rf "$path" ;;
        esac
    done
    if [ -z "$kept" ]; then
        rm -rf %(home)s
    fi
    if command -v deb-systemd-helper >/dev/null; then
        deb-systemd-helper purge qpy.service >/dev/null || true
        deb-systemd-helper unmask qpy.service >/dev/null || true
    fi
fi
"""
SCRIPTS = {'config': CONFIG, 'postinst': POSTINST, 'prerm': PRERM, 'postrm': POSTRM}
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: qpy
Comment: built from the source of qpy by qpy-deb

Files: *
Copyright: the authors of qpy
License: as-in-the-source
%s
"""
UNLICENSED = ' The source this was built from holds no statement of a licence: it is for the machines of who built it.'
CHANGELOG = """\
qpy (%(version)s) unstable; urgency=medium

  * Built from the source by qpy-deb.

 -- %(maintainer)s  %(date)s
"""
README = """\
qpy for Debian
==============

DIR, which the manual speaks of, is /var/lib/qpy.  Control files are in
/etc/qpy/control (samples with explanations: /usr/share/doc/qpy/control),
users/assign is in /etc/qpy/users, ~alias is /var/lib/qpy/alias.

No port is opened until you say so:
    printf 'smtpd qpyd tcp:0.0.0.0:25,tcp:[::]:25 qpy-smtpd\\n' >/etc/qpy/control/services
    printf '127.:allow,RELAYCLIENT=""\\n:allow\\n' >/etc/qpy/control/tcp.smtp
    systemctl restart qpy

Mail for users goes to ~/Maildir/, by their ~/.qmail, or (control/dotforward)
by their ~/.forward; /var/mail is not used unless you say so
(control/defaultdelivery).  Mail for root goes to /var/lib/qpy/alias/Maildir/
unless /etc/aliases or /var/lib/qpy/alias/.qmail-root says where else.

Removing the package leaves mail and control files; purging it leaves mail.
"""


def main(home, args):
    """Build it, and say where it is."""
    os.umask(0o022)
    try:
        options = parse([os.fsdecode(word) for word in args])
    except SystemExit as end:
        return doing.OK if not end.code else doing.WRONG
    try:
        if not shutil.which('dpkg-deb'):
            raise doing.Trouble('dpkg-deb is missing: packages for Debian are built on Debian')
        with tempfile.TemporaryDirectory(prefix='qpy-deb-') as top:
            os.chmod(top, 0o755)
            print(build(top, options), flush=True)
    except (doing.Trouble, OSError, shutil.Error) as problem:
        doing.fatal('qpy-deb', problem)
        return doing.TEMP
    return doing.OK


def parse(words):
    """The options; SystemExit after a usage line."""
    parser = argparse.ArgumentParser(prog='qpy-deb', description='Build a package of qpy for Debian.')
    parser.add_argument('directory', metavar='DIRECTORY', nargs='?', default='.', help='where it is put (default here)')
    parser.add_argument('--maintainer', metavar='NAME', default=who(), help='who answers for it (default %(default)s)')
    return parser.parse_args(words)


def who():
    """Debian's word for who builds packages here."""
    return '%s <%s>' % (os.environ.get('DEBFULLNAME', 'who built it'),
                        os.environ.get('DEBEMAIL', 'root@' + first_files.host_name()))


def build(top, options):
    """The path of the finished package; top: an empty directory to work in."""
    words = {'home': DIR, 'version': version(), 'maintainer': options.maintainer,
             'date': email.utils.formatdate(newest(), localtime=False)}
    gather(top)
    documents(top, words)
    write(top, '/DEBIAN/control', CONTROL % {**words, 'size': size(top)})
    write(top, '/DEBIAN/templates', TEMPLATES)
    for name, text in SCRIPTS.items():
        write(top, '/DEBIAN/' + name, text % words, 0o755)
    write(top, '/DEBIAN/md5sums', sums(top))
    path = os.path.join(options.directory, 'qpy_%s_all.deb' % words['version'])
    doing.run('dpkg-deb', '--root-owner-group', '-Zxz', '--build', top, path)
    return path


def version():
    """The version in setup.cfg."""
    found = configparser.ConfigParser()
    if not found.read(os.path.join(program_files.CODE, 'setup.cfg')):
        raise doing.Trouble('%s is no source tree of qpy: it has no setup.cfg' % program_files.CODE)
    return found['metadata']['version']


def newest():
    """The time of the youngest source, so that one source makes one package; SOURCE_DATE_EPOCH is stronger."""
    given = os.environ.get('SOURCE_DATE_EPOCH')
    return int(given) if given else max(os.stat(os.path.join(directory, name)).st_mtime
                                        for directory, _, names in os.walk(os.path.join(program_files.CODE, 'qpy'))
                                        for name in names if name.endswith('.py'))


# --- files -----------------------------------------------------------------------------------------------------

def gather(top):
    """What qpy-install puts below a --destdir, moved to where Debian has it."""
    with open(os.devnull, 'w') as nothing:
        said, sys.stdout = sys.stdout, nothing
        try:
            install.stage(argparse.Namespace(home=DIR, destdir=top, python=program_files.PYTHON, offline=True))
        finally:
            sys.stdout = said
    place = top + DIR
    for directory, names, _ in os.walk(place + '/lib'):
        if '__pycache__' in names:
            shutil.rmtree(os.path.join(directory, '__pycache__'))       # made where it is installed
            names.remove('__pycache__')
    move(place + '/lib', top + '/usr/lib/qpy')
    move(place + '/bin', top + '/usr/lib/qpy/bin')
    move(place + '/man', top + '/usr/share/man')
    move(place + '/doc', top + '/usr/share/doc/qpy')
    unit(place + '/service/qpy.service', top)
    move(place + '/service/sysusers.d/qpy.conf', top + '/usr/lib/sysusers.d/qpy.conf')
    shutil.rmtree(place + '/service')
    for name in ('/etc/qpy/control', '/etc/qpy/users', '/usr/sbin', '/usr/bin'):
        os.makedirs(top + name, exist_ok=True)
    for path, target in {**LINKS, **COMMANDS, **tools(top)}.items():
        os.symlink(target, top + path)
    for package, _ in packages.PACKAGES:
        path = top + '/usr/lib/qpy/site/' + package
        if os.path.islink(path):
            os.unlink(path)
        os.symlink(os.path.join(SITE, package), path)


def unit(path, top):
    """The unit, with the manual where it is now."""
    with open(path) as file:
        write(top, '/usr/lib/systemd/system/qpy.service',
              file.read().replace('file:%s/man/man8/qpy-start.8' % DIR, 'man:qpy-start(8)'))


def move(old, new):
    """Rename, with the directories that are needed for it."""
    os.makedirs(os.path.dirname(new), exist_ok=True)
    os.rename(old, new)


def tools(top):
    """{link: target}: every program on the path, by the section of its page."""
    found = {}
    for section, place in (('1', '/usr/bin/'), ('8', '/usr/sbin/')):
        for page in os.listdir('%s/usr/share/man/man%s' % (top, section)):
            name = page.rpartition('.')[0]
            if os.path.exists('%s/usr/lib/qpy/bin/%s' % (top, name)):
                found[place + name] = '../lib/qpy/bin/' + name
    return found


def documents(top, words):
    """The manual, compressed, and what policy wants to be in /usr/share/doc."""
    pages = top + '/usr/share/man/'
    for directory in os.listdir(pages):
        if not os.path.isdir(pages + directory):
            move(pages + directory, top + '/usr/share/doc/qpy/' + directory)         # pictures
            continue
        for name in os.listdir(pages + directory):
            path = os.path.join(pages, directory, name)
            if name.rpartition('.')[0] in program_files.LEFT_OUT:
                os.unlink(path)
                continue
            with open(path, 'rb') as file:
                compress(path + '.gz', file.read())
            os.unlink(path)
    for path, target in PAGES.items():
        os.symlink(target + '.gz', pages + path + '.gz')
    doc = top + '/usr/share/doc/qpy/'
    write(top, '/usr/share/doc/qpy/README.Debian', README)
    write(top, '/usr/share/doc/qpy/copyright', COPYRIGHT % licence())
    compress(doc + 'changelog.gz', (CHANGELOG % words).encode())


def licence():
    """What the source says about who may do what with it."""
    for name in ('COPYING', 'LICENSE'):
        path = os.path.join(program_files.CODE, name)
        if os.path.exists(path):
            with open(path) as file:
                return ''.join(' ' + (line.strip() and line or '.\n') for line in file)
    return UNLICENSED


def compress(path, content):
    """Write a .gz file that is the same every time."""
    with open(path, 'wb') as file, gzip.GzipFile('', 'wb', 9, file, 0) as packed:
        packed.write(content)


def write(top, path, content, mode=0o644):
    """Write a file of the package."""
    os.makedirs(os.path.dirname(top + path), exist_ok=True)
    doing.write(top + path, content, mode)


def files(top):
    """Paths of all plain files of the package, sorted."""
    found = [os.path.join(directory, name) for directory, _, names in os.walk(top) for name in names]
    return sorted(path for path in found if not os.path.islink(path) and not path.startswith(top + '/DEBIAN/'))


def size(top):
    """Kilobytes when it is installed."""
    return sum((os.stat(path).st_size + 1023) // 1024 for path in files(top))


def sums(top):
    """The text of DEBIAN/md5sums."""
    lines = []
    for path in files(top):
        with open(path, 'rb') as file:
            lines.append('%s  %s\n' % (hashlib.md5(file.read()).hexdigest(), os.path.relpath(path, top)))
    return ''.join(lines)
