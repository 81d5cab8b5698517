"""A real Dovecot, as Debian ships it, in a mount namespace of its own, serving IMAP on loopback from
Maildirs, and LMTP on the Unix socket `work`/lmtp.

Needs root, overlayfs, and the packages (tests.peers.debian).
"""
import os
import shutil
import signal
import subprocess
import tempfile

from tests.peers import debian
from tests.peers.qpy import wait_for_port

PACKAGES = ('dovecot-core', 'dovecot-imapd', 'dovecot-lmtpd', 'libexttextcat-2.0-0', 'libexttextcat-data', 'liblua5.4-0',
            'libwrap0',
            'libicu', 'libsodium23', 'libstemmer0d', 'libtirpc3', 'libunwind8')
UID, LOGIN_UID = 64011, 64012           # its accounts exist in its own /etc only
PASSWORD = 'secret'

CONF = """
protocols = imap lmtp
listen = 127.0.0.1
base_dir = {work}/run
state_dir = {work}/state
log_path = {work}/log
ssl = no
disable_plaintext_auth = no
default_internal_user = dvc
default_internal_group = dvc
default_login_user = dvclogin
mail_location = maildir:~/Maildir
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  unix_listener {work}/lmtp {{
    mode = 0666
  }}
}}
auth_username_format = %n
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={uid} home={home}
}}
"""


class Dovecot:
    """IMAP on 127.0.0.1:port; every name logs in with PASSWORD and sees the Maildir of home, which is
    uid's."""

    def __init__(self, port, uid, home):
        self.port, self.root = port, debian.unpack(*PACKAGES)
        self.work = tempfile.mkdtemp(prefix='qpy-dovecot-', dir='/var/tmp')
        os.chmod(self.work, 0o755)
        for name in ('etc', 'run', 'state', 'upper'):
            os.makedirs(os.path.join(self.work, name))
        self.conf = os.path.join(self.work, 'dovecot.conf')
        with open(self.conf, 'w') as file:
            file.write(CONF.format(work=self.work, port=port, password=PASSWORD, uid=uid, home=home))
        self._accounts()
        self.process = self._start()
        try:
            wait_for_port(port, alive=lambda: self.process.poll() is None, greeting=b'* OK')
        except OSError:
            said = self.log()
            self.stop()
            raise RuntimeError('Dovecot did not start: ' + said) from None

    def _accounts(self):
        for name, line in (('passwd', '{0}:x:{1}:{1}::/:/bin/false\n'), ('group', '{0}:x:{1}:\n')):
            with open('/etc/' + name) as known, open(os.path.join(self.work, 'etc', name), 'w') as own:
                own.write(known.read() + line.format('dvc', UID) + line.format('dvclogin', LOGIN_UID))

    def _start(self):
        script = ('set -e; mount --make-rprivate /; '
                  'mount -t overlay overlay -o lowerdir={root}/usr:/usr /usr; '
                  'mount -t overlay overlay -o lowerdir={work}/etc:/etc /etc; '
                  'exec dovecot -F -c {conf}').format(root=self.root, work=self.work, conf=self.conf)
        with open(os.path.join(self.work, 'output'), 'wb') as output:
            return subprocess.Popen(['unshare', '-m', 'sh', '-c', script], stdin=subprocess.DEVNULL,
                                    stdout=output,
                                    stderr=output, start_new_session=True)

    def log(self):
        """What it has said so far."""
        texts = []
        for name in ('output', 'log'):
            if os.path.exists(os.path.join(self.work, name)):
                with open(os.path.join(self.work, name), errors='replace') as file:
                    texts.append(file.read())
        return '\n'.join(texts)

    def stop(self):
        """End it and remove what it wrote."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        shutil.rmtree(self.work, ignore_errors=True)
