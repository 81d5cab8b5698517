"""A real Postfix, as Debian ships it, in a mount namespace of its own: it sees its files under /usr and its
accounts in /etc, and nobody else does.  Needs root, overlayfs, and the packages (tests.peers.debian).
"""
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from tests.peers import debian

UID, GID, DROP = 64001, 64001, 64002        # its accounts exist in its own /etc only

MAIN = """
compatibility_level = 3.6
queue_directory = {work}/spool
data_directory = {work}/lib
mail_owner = pfx
setgid_group = pfxdrop
default_privs = nobody
myhostname = postfix.test
mydestination = {local}
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
home_mailbox = Maildir/
biff = no
maillog_file = /var/log/qpy-postfix.log
maillog_file_prefixes = {work}, /var
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_host_lookup = native
{more}
"""
STOCK_LOG = 'maillog_file = /var/log/qpy-postfix.log\n'


def binaries():
    """The root of the unpacked package."""
    return debian.unpack('postfix', 'libicu')


class Postfix:
    """Listens on 127.0.0.1:port; work holds its queue, the homes' file system is the machine's."""

    def __init__(self, port, local='postfix.test', more='', work=None, users=()):
        """more: further lines of main.cf; users: (name, uid, home) known to it and to nobody else."""
        self.port, self.root = port, binaries()
        self.work = work or tempfile.mkdtemp(prefix='qpy-postfix-')
        self._files(local, more, users)
        self.master = self._start()

    def _files(self, local, more, users):
        etc = os.path.join(self.work, 'etc')
        for name in ('etc/postfix', 'spool', 'lib', 'log', 'upper', 'over'):
            os.makedirs(os.path.join(self.work, name), exist_ok=True)
        os.chmod(self.work, 0o755)
        os.chown(os.path.join(self.work, 'lib'), UID, GID)
        with open('/etc/passwd') as known, open(etc + '/passwd', 'w') as own:
            own.write(known.read() + 'pfx:x:%d:%d::/:/bin/false\n' % (UID, GID))
            own.writelines('%s:x:%d:%d::%s:/bin/false\n' % (name, uid, uid, home)
                           for name, uid, home in users)
        with open('/etc/group') as known, open(etc + '/group', 'w') as own:
            own.write(known.read() + 'pfx:x:%d:\npfxdrop:x:%d:\n' % (GID, DROP))
        with open(etc + '/postfix/main.cf', 'w') as main:
            main.write(MAIN.format(work=self.work, local=local, more=more))
        stock = os.path.join(self.root, 'usr/share/postfix/master.cf.dist')
        for name in ('postfix-files',):
            shutil.copy(os.path.join(self.root, 'etc/postfix', name), etc + '/postfix/')
        with open(stock) as given, open(etc + '/postfix/master.cf', 'w') as own:
            own.write(given.read().replace('\nsmtp      inet', '\n%d      inet' % self.port))

    def _script(self):
        return ('set -e; mount --make-rprivate /; '
                'mount -t overlay overlay -o lowerdir={root}/usr:/usr /usr; '
                'mount -t overlay overlay -o lowerdir={work}/etc:/etc /etc; '
                'mount --bind {work}/log /var/log; '
                'postfix set-permissions >/dev/null 2>&1 || true; '
                'postfix check; exec postfix start-fg').format(root=self.root, work=self.work)

    def _start(self):
        self.output = open(os.path.join(self.work, 'output'), 'wb')
        master = subprocess.Popen(['unshare', '-m', 'sh', '-c', self._script()], stdin=subprocess.DEVNULL,
                                  stdout=self.output, stderr=self.output, start_new_session=True)
        give_up = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(('127.0.0.1', self.port), 1).close()
                return master
            except OSError:
                if time.monotonic() > give_up or master.poll() is not None:
                    os.killpg(master.pid, signal.SIGKILL)
                    raise RuntimeError('Postfix did not start: ' + self.log()) from None
                # back-off between attempts: its listener announces itself by nothing else
                time.sleep(0.05)

    def run(self, *command, **more):
        """Run one of its commands inside its namespace."""
        return subprocess.run(['nsenter', '-m', '-t', str(self.master.pid), *command], **more)

    def log(self):
        """What it has said so far."""
        texts = []
        for name in ('output', 'log/qpy-postfix.log'):
            try:
                with open(os.path.join(self.work, name), errors='replace') as file:
                    texts.append(file.read())
            except FileNotFoundError:
                pass
        return '\n'.join(texts)

    def stop(self):
        """End it and remove what it wrote."""
        daemon = self._daemon()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid, end in ((daemon, os.kill), (self.master.pid, os.killpg)):
                try:
                    end(pid, number)
                except ProcessLookupError:
                    pass
            try:
                self.master.wait(10)
                break
            except subprocess.TimeoutExpired:
                pass
        self.output.close()
        shutil.rmtree(self.work, ignore_errors=True)
        give_up = time.monotonic() + 10
        while self._listens() and time.monotonic() < give_up:
            time.sleep(0.02)        # its daemon is nobody's child here

    def _listens(self):
        """Does somebody still have the port, whom the next one's start would be taken for?"""
        try:
            socket.create_connection(('127.0.0.1', self.port), 1).close()
            return True
        except OSError:
            return False

    def _daemon(self):
        """The pid of its master process, which leaves the session it was started in."""
        try:
            with open(os.path.join(self.work, 'spool/pid/master.pid')) as file:
                return int(file.read())
        except (FileNotFoundError, ValueError):
            return self.master.pid


def tool(name):
    """The command line that runs smtp-source or smtp-sink of the unpacked package."""
    root = binaries()
    path = next(p for p in (root + '/usr/sbin/' + name, root + '/usr/bin/' + name) if os.path.exists(p))
    library = [root + '/usr/lib/postfix', *debian.libraries(root)]
    return ['env', 'LD_LIBRARY_PATH=' + ':'.join(library), path]
