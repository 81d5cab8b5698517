"""A real OpenSMTPD, as Debian ships it, that files what it accepts in a Maildir; unpacked, with accounts, spool and
sockets of its own on a Host (tests.peers.net).  Needs root, overlayfs, and the packages (tests.peers.debian).
"""
import os
import subprocess
import tempfile

from tests.peers import debian, exim, net

UID = 64021
PACKAGES = ('opensmtpd', 'libevent-2.1-7')
CONF = """
{login}
{pki}
listen on 127.0.0.1 port {port} {tls}hostname opensmtpd.test
action "box" maildir "{work}/box" user joe
match from any for domain "opensmtpd.test" action "box"
{onward}
"""
ONWARD = """action "onward" relay host %s127.0.0.1:%d%s
match from any for any action "onward"
"""
PKI = """pki own cert "{0}"
pki own key "{1}\""""
LOGIN = 'table secrets { onward = "%s:%s" }'


class OpenSmtpd:
    """Listens on 127.0.0.1:port for domain opensmtpd.test, where joe is known; his box is a Maildir.
    relay: a port on 127.0.0.1 that takes all other mail; scheme: how it is spoken to (smtp://, smtp+tls://, smtps://); login:
    (user, password) for it.  certificate: (file, file of its key) for STARTTLS.  That of Debian 12 (6.8.0p2 with OpenSSL 3) offers
    it and then fails every handshake: it keeps keys in a process of its own, and OpenSSL finds "missing private key"."""

    domain = 'opensmtpd.test'

    def __init__(self, port, relay=None, scheme='smtp://', login=None, certificate=None):
        root = debian.unpack(*PACKAGES)
        self.work = tempfile.mkdtemp(prefix='qpy-opensmtpd-')
        os.chmod(self.work, 0o755)
        for name in ('box', 'box/new', 'box/cur', 'box/tmp'):
            os.mkdir(os.path.join(self.work, name))
            os.chown(os.path.join(self.work, name), UID + 2, UID + 2)
        self.host = net.Host('opensmtpd', network=False)
        self.host.usr(os.path.join(root, 'usr'))
        exim.accounts(self.host, self.work, {'opensmtpd': UID, 'opensmtpq': UID + 1, 'joe': UID + 2})
        for place in ('/var/lib', '/var/spool', '/run'):
            self.host.run('mount', '-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', place)
        self.host.run('mkdir', '-p', '/var/lib/opensmtpd/empty')
        conf = os.path.join(self.work, 'conf')
        with open(conf, 'w') as file:
            where = scheme + ('onward@' if login else ''), relay, ' auth <secrets> tls no-verify' if login else ''
            file.write(CONF.format(work=self.work, port=port, pki=PKI.format(*certificate) if certificate else '',
                                   tls='tls pki own ' if certificate else '', login=LOGIN % login if login else '',
                                   onward=ONWARD % where if relay else ''))
        os.chmod(conf, 0o600)
        self.output = open(os.path.join(self.work, 'output'), 'wb')
        self.process = subprocess.Popen([*self.host.prefix, '/usr/sbin/smtpd', '-F', '-v', '-f', conf], stdin=subprocess.DEVNULL,
                                        stdout=self.output, stderr=self.output, start_new_session=True)
        exim.started(self, port)

    def box(self):
        """The Maildir with what it has taken."""
        return os.path.join(self.work, 'box/new')
