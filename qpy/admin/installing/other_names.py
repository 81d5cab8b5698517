"""Other names for our programs: those that qmail's users know, and those that the machine calls sendmail."""
import os
import shutil

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
                ('/usr/sbin/rmail', 'qpy-sendmail'), ('/usr/sbin/runq', 'qpy-sendmail'))
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
    for path, name in SYSTEM_LINKS:
        target = os.path.join(home, 'bin', name)
        if os.path.islink(path) and os.path.realpath(path) == os.path.realpath(target):
            continue                    # ours already, or our package's
        if path == '/usr/lib/sendmail' and os.path.realpath('/usr/lib') == os.path.realpath('/usr/sbin'):
            continue
        if os.path.lexists(path):
            set_aside(path)
        doing.link(path, target)
        doing.say('%s is now a link to %s' % (path, target))


def set_aside(path):
    """Move what is there out of the way, by dpkg's rules where there is dpkg."""
    if shutil.which('dpkg-divert'):
        doing.run('dpkg-divert', '--local', '--rename', '--divert', path + '.dist', '--add', path)
    if os.path.lexists(path):
        os.rename(path, path + '.dist')
    doing.say('%s is kept as %s.dist' % (path, path))
