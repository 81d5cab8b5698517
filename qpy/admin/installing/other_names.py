"""Other names for our programs: those that qmail's users know, and those that the machine calls sendmail."""
import os
import shutil
import subprocess

from qpy.admin.installing import doing

BARE_NAMES = ('sendmail', 'mailq', 'newaliases', 'forward', 'preline', 'condredirect', 'bouncesaying', 'except',
              'maildirmake', 'maildir2mbox', 'predate', 'datemail', 'mailsubj', 'qbiff', 'qreceipt', 'splogger',
              'tcp-env', 'dot-forward')     # recipes in .qmail files and run scripts call them so
QMAIL_NAMES = tuple('qmail-' + name for name in (
    'inject', 'queue', 'smtpd', 'qread', 'qstat', 'tcpto', 'tcpok', 'showctl', 'newu', 'newmrh', 'pw2u', 'getpw'))
ALL_QMAIL_NAMES = tuple('qmail-' + name for name in (          # the others, made by --qmail-names
    'start', 'send', 'clean', 'lspawn', 'rspawn', 'local', 'remote', 'qmtpd', 'qmqpd', 'qmqpc', 'popup', 'pop3d'))
QMAIL_HOME = '/var/qmail'
SYSTEM_LINKS = (('/usr/sbin/sendmail', 'qpy-sendmail'), ('/usr/lib/sendmail', 'qpy-sendmail'),
                ('/usr/bin/mailq', 'qpy-mailq'), ('/usr/bin/newaliases', 'qpy-newaliases'),
                ('/usr/sbin/rmail', 'qpy-sendmail'), ('/usr/sbin/runq', 'qpy-sendmail'),
                ('/usr/sbin/send-mail', 'qpy-sendmail'))
SENDMAIL_NAMES = ('send-mail', 'rmail', 'runq')         # what it is called elsewhere, and then does


def link_names(home, names):
    """Other names for launchers that are there."""
    for name in names:
        target = 'qpy-' + ('sendmail' if name in SENDMAIL_NAMES else name.removeprefix('qmail-'))
        path = os.path.join(home, 'bin', name)
        if os.path.lexists(path) and not (os.path.islink(path) and os.readlink(path) == target):
            doing.say('%s is kept: somebody has put it in the place of the link to %s' % (path, target))
        elif os.path.exists(os.path.join(home, 'bin', target)):
            doing.link(path, target)


def be_qmail(home, rootless):
    """Everything by qmail's names, also where scripts and list managers have its home built in."""
    link_names(home, ALL_QMAIL_NAMES)
    if rootless or os.path.realpath(QMAIL_HOME) == os.path.realpath(home):
        return
    if os.path.lexists(QMAIL_HOME):
        doing.say('%s is there already and stays as it is; when qpy-import has read it, move it away and do this again'
                  % QMAIL_HOME)
    else:
        doing.link(QMAIL_HOME, home)


def be_sendmail(home, rootless):
    """Put our sendmail, mailq and newaliases where the system's callers look; what is there is kept beside."""
    if rootless:
        raise doing.Trouble('--sendmail needs root')
    for path, target in system_links(home):
        if ours(path, target):
            if not guarded(path):
                divert(path, '--no-rename')
            continue
        set_aside(path)
        doing.link(path, target)
        doing.say('%s is now a link to %s' % (path, target))


def system_links(home):
    """[(path, target)], each place once."""
    one = os.path.realpath('/usr/lib') == os.path.realpath('/usr/sbin')
    return [(path, os.path.join(home, 'bin', name)) for path, name in SYSTEM_LINKS if not (one and path == '/usr/lib/sendmail')]


def ours(path, target):
    """Is it our link, or that of our package?"""
    return os.path.islink(path) and os.path.realpath(path) == os.path.realpath(target)


def guarded(path):
    """Whether no package can put its own file there: it is diverted, or our package's, or there is no dpkg."""
    if not shutil.which('dpkg-divert') or diverted(path):
        return True
    return subprocess.run(['dpkg-query', '--search', path], capture_output=True).returncode == 0


def diverted(path):
    """Does dpkg put elsewhere what packages have by this name?"""
    return bool(shutil.which('dpkg-divert') and doing.run('dpkg-divert', '--list', path).strip())


def divert(path, rename):
    """Let dpkg do so, also for packages to come."""
    doing.run('dpkg-divert', '--local', rename, '--divert', path + '.dist', '--add', path)


def set_aside(path):
    """Move what is there, or comes by a package, out of the way, by dpkg's rules where there is dpkg."""
    there, before = os.path.lexists(path), diverted(path)
    if before and there and os.path.lexists(path + '.dist'):
        raise doing.Trouble('%s and %s.dist are both there, and the second is what a package has put there; move the first away'
                            % (path, path))
    if shutil.which('dpkg-divert') and not before:
        divert(path, '--rename')
    if os.path.lexists(path):
        os.rename(path, path + '.dist')
    if there:
        doing.say('%s is kept as %s.dist' % (path, path))


def complaints(home):
    """[what is wrong with the links of --sendmail, with the remedy]; none where nobody has asked for them."""
    found = [(path, target, ours(path, target)) for path, target in system_links(home)]
    if not any(good for _, _, good in found):
        found = [each for each in found if taken_over(each[0])]
    remedy = '; qpy-install %s --sendmail' % home
    return ['%s: is no link to %s, so that not all mail of this machine comes to qpy%s' % (path, target, remedy)
            for path, target, good in found if not good] + \
        ['%s: dpkg does not know that it is ours, and another mail system\'s package would replace it%s' % (path, remedy)
         for path, _, good in found if good and not guarded(path)]


def taken_over(path):
    """Whether set_aside was here, and what stands there now is no link to a qpy."""
    link = os.path.basename(os.readlink(path)) if os.path.islink(path) else ''
    return not link.startswith('qpy-') and diverted(path) and path + '.dist' in doing.run('dpkg-divert', '--list', path)
