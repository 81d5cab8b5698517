"""A real Exim, as Debian ships it, that files what it accepts in a Maildir; unpacked, with accounts of its own on a Host
(tests.peers.net).  Needs root, and the packages (tests.peers.debian).
"""
import os
import shutil
import signal
import subprocess
import tempfile

from tests.peers import debian, net
from tests.peers.qpy import wait_for_port

UID = 64011
PACKAGES = ('exim4-daemon-light', 'exim4-base', 'libgnutls-dane0', 'libunbound8', 'libidn12', 'libnsl2')
CONF = """
keep_environment =
primary_hostname = exim.test
spool_directory = {work}/spool
log_file_path = {work}/log.%slog
pid_file_path = {work}/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
domainlist ours = exim.test
acl_smtp_rcpt = anybody
{tls}
host_lookup =
smtp_accept_queue_per_connection = 0
rfc1413_query_timeout = 0s
begin acl
anybody:
  accept domains = {taken}
begin routers
{onward}
ours:
  driver = accept
  domains = +ours
  transport = box
begin transports
onward:
  driver = smtp
  allow_localhost
{way}
box:
  driver = appendfile
  directory = {work}/box
  maildir_format
  user = nobody
  group = nogroup
{login}
"""
ONWARD = """onward:
  driver = manualroute
  domains = ! +ours
  transport = onward
  route_list = * 127.0.0.1::%d
  self = send"""
LOGIN = """begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  client_send = ^%s^%s"""
CLEAR, PROTECTED = '  hosts_avoid_tls = *', '  hosts_require_tls = *\n  hosts_require_auth = *\n  tls_verify_hosts =\n  tls_try_verify_hosts ='
TLS = ' *\ntls_certificate = {work}/tls.pem\ntls_privatekey = {work}/tls.key'


class Exim:
    """Listens on 127.0.0.1:port for domain exim.test; its box is a Maildir.  relay: a port on 127.0.0.1 that takes all
    other mail; login: (user, password) for it, by TLS."""

    domain = 'exim.test'

    def __init__(self, port, certificate=None, relay=None, login=None):
        """certificate: (file, key) in PEM for STARTTLS."""
        root = debian.unpack(*PACKAGES)
        self.work = tempfile.mkdtemp(prefix='qpy-exim-')
        os.chmod(self.work, 0o755)
        for name, uid in (('spool', UID), ('box', 65534)):
            os.mkdir(os.path.join(self.work, name))
            os.chown(os.path.join(self.work, name), uid, uid)
        self.host = net.Host('exim', network=False)
        self.host.usr(os.path.join(root, 'usr'))
        accounts(self.host, self.work, {'Debian-exim': UID})
        tls = 'tls_advertise_hosts =' + (TLS.format(work=self.work) if certificate else '')
        for source, name in zip(certificate or (), ('tls.pem', 'tls.key')):
            shutil.copy(source, os.path.join(self.work, name))
            os.chown(os.path.join(self.work, name), UID, UID)
        self.host.etc(self.work, {'exim4/exim4.conf': CONF.format(
            work=self.work, port=port, tls=tls, taken='*' if relay else '+ours', onward=ONWARD % relay if relay else '',
            way=PROTECTED if login else CLEAR, login=LOGIN % login if login else '')})
        os.chown(self.work, UID, UID)
        self.output = open(os.path.join(self.work, 'output'), 'wb')
        self.process = subprocess.Popen([*self.host.prefix, '/usr/sbin/exim4', '-bdf', '-q1m'], stdin=subprocess.DEVNULL,
                                        stdout=self.output, stderr=self.output, start_new_session=True)
        started(self, port)

    def box(self):
        """The Maildir with what it has taken."""
        return os.path.join(self.work, 'box/new')


def accounts(host, directory, names):
    """Let these accounts, {name: uid}, and groups exist on the host, in place of what the machine has under their names."""
    files = {}
    for kind, line in (('passwd', '%s:*:%d:%d::/:/bin/false\n'), ('group', '%s:*:%d:%.0s\n')):
        with open('/etc/' + kind) as known:
            kept = [each for each in known if each.partition(':')[0] not in names]
        files[kind] = ''.join(kept) + ''.join(line % (name, uid, uid) for name, uid in names.items())
    host.etc(directory, files)


def started(server, port):
    """Wait until it greets; RuntimeError with what it has said."""
    try:
        wait_for_port(port, alive=lambda: server.process.poll() is None, greeting=b'220')
    except OSError:
        said = log(server)
        stop(server)
        raise RuntimeError('it did not start: ' + said) from None


def log(server):
    """What it has said."""
    with open(os.path.join(server.work, 'output'), errors='replace') as file:
        return file.read()


def stop(server):
    """End it with all its processes, and remove what it wrote."""
    if server.process.poll() is None:
        os.killpg(server.process.pid, signal.SIGTERM)
        try:
            server.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()
    server.output.close()
    server.host.end()
    shutil.rmtree(server.work, ignore_errors=True)
