"""A real Dovecot, as Debian ships it, in a mount namespace of its own, serving IMAP on loopback from
Maildirs, LMTP on the Unix socket `work`/lmtp and on a port, and logins on `work`/auth.

Needs root, overlayfs, and the packages (tests.peers.debian).
"""
import base64
import hmac
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

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
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
protocol lmtp {{
  mail_plugins = quota
}}
plugin {{
  quota = count:all
  quota_vsizes = yes
}}
service auth {{
  unix_listener {work}/auth {{
    mode = 0666
  }}
}}
auth_mechanisms = plain login scram-sha-256
auth_username_format = %n
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = passwd-file
  args = {work}/users
}}
userdb {{
  driver = static
  args = uid={uid} gid={uid} home={home}
}}
"""


class Dovecot:
    """IMAP on 127.0.0.1:port; every name logs in with PASSWORD and sees the Maildir of home, which is
    uid's; but `full`, who has no room for mail.  lmtp: a port, 0 for none."""

    CONF, PACKAGES, GREETING = CONF, PACKAGES, b'* OK'

    def __init__(self, port, uid, home, lmtp=0, **more):
        self.port, self.root = port, debian.unpack(*self.PACKAGES)
        self.work = tempfile.mkdtemp(prefix='qpy-dovecot-', dir='/var/tmp')
        os.chmod(self.work, 0o755)
        for name in ('etc', 'run', 'state', 'upper'):
            os.makedirs(os.path.join(self.work, name))
        self.conf = os.path.join(self.work, 'dovecot.conf')
        with open(self.conf, 'w') as file:
            file.write(self.CONF.format(work=self.work, port=port, password=PASSWORD, uid=uid, home=home, lmtp=lmtp, **more))
        with open(os.path.join(self.work, 'users'), 'w') as file:
            file.write('full::{0}:{0}::{1}/full::userdb_quota_rule=*:bytes=1\n'.format(uid, home))
        self._accounts()
        self.process = self._start()
        try:
            wait_for_port(port, alive=lambda: self.process.poll() is None, greeting=self.GREETING)
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


SUBMISSION = """
protocols = submission
listen = 127.0.0.1
base_dir = {work}/run
state_dir = {work}/state
log_path = {work}/log
hostname = dovecot.test
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
disable_plaintext_auth = yes
default_internal_user = dvc
default_internal_group = dvc
default_login_user = dvclogin
mail_location = maildir:~/Maildir
auth_mechanisms = {mechanisms}
submission_relay_host = 127.0.0.1
submission_relay_port = {relay}
submission_relay_ssl = no
service submission-login {{
  chroot =
  inet_listener submission {{
    port = {port}
  }}
}}
auth_username_format = %n
passdb {{
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = {oauth}
}}
passdb {{
  driver = static
  mechanisms = plain login scram-sha-256
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={uid} home={home}
}}
"""
# Tokens are JSON web tokens signed with a key that Dovecot has, so that nobody needs to be asked.
OAUTH = 'introspection_mode = local\nlocal_validation_key_dict = fs:posix:prefix={place}/\nusername_attribute = sub\n'


class Submission(Dovecot):
    """Submission by STARTTLS on 127.0.0.1:port with these SASL mechanisms; what comes goes on to 127.0.0.1:relay."""

    CONF, PACKAGES, GREETING = SUBMISSION, ('dovecot-submissiond', *PACKAGES), b'220 '

    def __init__(self, port, uid, home, mechanisms, relay, certificate, directory):
        """certificate: (file, key) in PEM; directory: for the key of tokens."""
        self.secret = os.urandom(32)
        place = os.path.join(directory, 'keys', 'default', 'HS256')
        os.makedirs(place)
        with open(os.path.join(place, 'default'), 'wb') as file:
            file.write(base64.b64encode(self.secret))
        oauth = os.path.join(directory, 'oauth2.conf')
        with open(oauth, 'w') as file:
            file.write(OAUTH.format(place=os.path.join(directory, 'keys')))
        super().__init__(port, uid, home, mechanisms=mechanisms, relay=relay, certificate=certificate[0],
                         key=certificate[1], oauth=oauth)

    def token(self, user, seconds=3600):
        """A token for this user, good for so long."""
        def part(data):
            return base64.urlsafe_b64encode(data).rstrip(b'=')
        now = int(time.time())
        words = b'.'.join(part(json.dumps(each).encode()) for each in (
            {'alg': 'HS256', 'typ': 'JWT'}, {'sub': user, 'iat': now - 10, 'exp': now + seconds}))
        return (words + b'.' + part(hmac.digest(self.secret, words, 'sha256'))).decode()
