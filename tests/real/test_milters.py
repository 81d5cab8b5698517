"""Debian's own filters at qpy-milter and qpy-check: opendkim, rspamd, clamav-milter, postgrey; rblsmtpd and fixcrio before
qpy-smtpd."""
import base64
import glob
import os
import signal
import socket
import subprocess
import tempfile
import threading

import pytest

from tests.peers import debian
from tests.peers.qpy import free_port, wait_for_port
from tests.peers.smtp_rig import wait_until
from tests.programs.test_check import House as CheckHouse, transaction
from tests.programs.test_milter import House
from tests.real.conftest import unpacked

OPENDKIM = ('opendkim', 'libopendkim11', 'libbsd0', 'libmd0', 'libdb5.3', 'libldap-2.5-0', 'liblua5.3-0', 'libmemcached11',
            'libmilter1.0.1', 'libopendbx1', 'librbl1', 'libunbound8', 'libvbr2', 'libsasl2-2', 'libhashkit2',
            'libevent-2.1-7', 'libnghttp2-14', 'libprotobuf-c1', 'libhiredis0.14')
RSPAMD = ('rspamd', 'libhyperscan5', 'libicu72', 'libluajit2-5.1-2', 'libluajit2-5.1-common', 'libpcre2-8-0', 'libsodium23',
          'libsqlite3-0', 'libunwind8', 'libglib2.0-0', 'libstdc++6')
CLAMAV = ('clamav-milter', 'libmilter1.0.1', 'libclamav12', 'clamav-daemon', 'clamav-base', 'libjson-c5', 'libxml2',
          'libpcre2-8-0', 'libbz2-1.0', 'libmspack0', 'libtfm1', 'libcurl4', 'libsystemd0', 'libltdl7')
POSTGREY = ('postgrey', 'libnet-server-perl', 'libberkeleydb-perl', 'libdb5.3', 'libio-multiplex-perl', 'libnet-dns-perl',
            'libnetaddr-ip-perl')
GTUBE = b'XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X'
EICAR = b'X5O!P%@AP[4\\PZX54(P^)7CC)7}$' + b'EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*'
FULL = (b'From: ann@qpy.test\r\nTo: joe@mx.example.com\r\nSubject: a  folded\r\n\tsubject\r\n'
        b'Date: Mon, 30 Nov 2026 04:00:00 +0000\r\nMessage-ID: <1@qpy.test>\r\n\r\n')


class Started:
    """Somebody else's daemon on a port or socket of ours, ended with the test."""

    def __init__(self, root, command, place, env=None):
        libraries = debian.libraries(root) + [root + '/usr/lib', root + '/usr/lib/rspamd'] if root else []
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        start_new_session=True, env={'LD_LIBRARY_PATH': ':'.join(libraries),
                                                                     'PATH': '/usr/bin:/bin', **(env or {})})
        try:
            if isinstance(place, int):
                wait_for_port(place, 60, lambda: self.process.poll() is None)
            else:
                wait_until(lambda: os.path.exists(place) or self.process.poll() is not None, 60)
                assert self.process.poll() is None
        except (OSError, AssertionError):
            self.end()
            self.log.seek(0)
            raise AssertionError('%s did not start: %r' % (command[0], self.log.read()[-2000:])) from None

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self):
        self.end()
        self.log.close()


@pytest.fixture
def start(tmp_path):
    """A function that starts daemons and houses of ours, and ends them in the order that suits them."""
    running = []

    def begin(thing):
        running.append(thing)
        return thing
    yield begin
    for thing in reversed(running):
        thing.stop()


def opendkim(start, tmp_path, name, lines):
    """An opendkim with this configuration; its socket's path."""
    root, path = unpacked(*OPENDKIM), str(tmp_path / (name + '.sock'))
    conf = tmp_path / (name + '.conf')
    conf.write_text('Socket local:%s\nSyslog no\nBackground no\nRequireSafeKeys no\nUserID root\n%s\n' % (path, lines))
    start(Started(root, [root + '/usr/sbin/opendkim', '-f', '-x', str(conf)], path))
    return path


@pytest.mark.root
def test_opendkim_signs_and_verifies(start, tmp_path):
    """What one opendkim has signed through one qpy, another one verifies through another qpy: not a byte was changed that
    DKIM sees, long lines, dots and folded fields among them."""
    key = str(tmp_path / 'key')
    subprocess.run(['openssl', 'genrsa', '-out', key, '2048'], check=True, capture_output=True)
    public = subprocess.run(['openssl', 'rsa', '-in', key, '-pubout', '-outform', 'DER'], check=True, capture_output=True).stdout
    (tmp_path / 'keys').write_text('sel._domainkey.qpy.test v=DKIM1; k=rsa; p=%s\n' % base64.b64encode(public).decode())
    signer = opendkim(start, tmp_path, 'sign', 'Domain qpy.test\nSelector sel\nKeyFile %s\nMode s\nInternalHosts 127.0.0.1\n'
                      'Canonicalization simple/simple\nOversignHeaders From' % key)
    reader = opendkim(start, tmp_path, 'verify', 'Mode v\nInternalHosts 192.0.2.1\nAlwaysAddARHeader yes\nAuthservID mx.test\n'
                      'TestPublicKeys %s/keys' % tmp_path)
    text = FULL + b'..dot\r\n' + b'x' * 990 + b'\r\n\r\n  trailing \t\r\n\r\n\r\n'
    house = start(House([signer]))
    assert house.send(data=text).startswith(b'250')
    (body, _), = house.rig.queued.wait()
    assert body.startswith(b'DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; d=qpy.test; s=sel;') and b'\nReceived: ' in body
    wire = b'\r\n'.join(b'.' + line if line[:1] == b'.' else line for line in body.split(b'\n'))
    other = start(House([reader]))
    assert other.send(data=wire).startswith(b'250')
    (body, _), = other.rig.queued.wait()
    assert b'Authentication-Results: mx.test;\n\tdkim=pass' in body
    broken = start(House([reader]))
    assert broken.send(data=wire.replace(b'trailing', b'altered ')).startswith(b'250')
    assert b'dkim=fail' in broken.rig.queued.wait()[0][0]
    assert 'inserts DKIM-Signature' in house.log()


@pytest.mark.root
def test_opendkim_behind_a_proxy(start, tmp_path):
    """Each client that XCLIENT names is a session of its own for libmilter, which allows one CONNECT on a connection: the message
    of each is seen, and none waits for an answer that does not come."""
    reader = opendkim(start, tmp_path, 'verify', 'Mode v\nInternalHosts 192.0.2.9\nAlwaysAddARHeader yes\nAuthservID mx.test\n')
    house = start(House([reader], options='timeout=5', tcp_smtp='127.:allow,XCLIENT="1"\n:allow,XCLIENT="1"\n'))
    client = house.client()
    for count, address in enumerate((b'192.0.2.7', b'192.0.2.8'), 1):
        assert client.say(b'XCLIENT ADDR=' + address)[:3] == b'220' and client.say(b'EHLO mail.example.org')[:3] == b'250'
        assert house.send(client, FULL + b'x\r\n').startswith(b'250')
        assert b'Authentication-Results: mx.test; dkim=none' in house.rig.queued.wait(count)[count - 1][0].replace(b'\n\t', b' ')


@pytest.mark.root
@pytest.mark.slow
def test_rspamd(start, tmp_path):
    """rspamd's proxy rejects GTUBE at the end of the message, adds its header to what is only suspicious, and passes the
    rest; the next message of the session is served too."""
    root, port = unpacked(*RSPAMD), free_port()
    share = root + '/usr/share/rspamd'
    os.chmod(tmp_path, 0o755)
    conf = tmp_path / 'rspamd.conf'
    conf.write_text('''
options { filters = "regexp"; control_socket = "%(here)s/ctl mode=0600"; url_tld = "%(share)s/effective_tld_names.dat";
          tempdir = "%(here)s"; dns { timeout = 0.1s; nameserver = ["127.0.0.1:1"]; } cache_file = "%(here)s/cache";
          hs_cache_dir = "%(here)s/"; stats_file = "%(here)s/stats"; history_file = "%(here)s/history"; local_addrs = []; }
logging { type = "console"; level = "info"; }
lua = "%(share)s/rules/rspamd.lua"
worker "rspamd_proxy" { bind_socket = "127.0.0.1:%(port)d"; milter = yes; timeout = 60s; count = 1;
                        upstream "local" { default = yes; self_scan = yes; } }
actions { reject = 15; add_header = 6; greylist = null; }
regexp { WORD { re = "Subject=/suspicious/iH"; score = 7.0; } }
''' % dict(here=tmp_path, share=share, port=port))
    places = dict(SHAREDIR=share, LUALIBDIR=share + '/lualib', RULESDIR=share + '/rules', PLUGINSDIR=share + '/plugins',
                  DBDIR=tmp_path, RUNDIR=tmp_path, LOGDIR=tmp_path, CONFDIR=root + '/etc/rspamd', LOCAL_CONFDIR=tmp_path)
    start(Started(root, [root + '/usr/bin/rspamd', '-c', str(conf), '-f', '-i', *(
        '--var=%s=%s' % pair for pair in places.items())], port))
    house = start(House(['127.0.0.1:%d' % port]))
    client = house.client()
    assert house.send(client, data=FULL + GTUBE + b'\r\n').startswith(b'554 5.7.1 ')
    assert house.send(client, data=FULL + b'hello\r\n').startswith(b'250')
    assert house.send(client, data=FULL.replace(b'a  folded', b'suspicious') + b'hello\r\n').startswith(b'250')
    messages = house.rig.queued.wait(2)
    assert len(messages) == 2 and messages[0][0].endswith(b'\n\nhello\n')
    assert b'\nX-Spam: Yes\n' in messages[1][0]


@pytest.mark.root
@pytest.mark.slow
def test_clamav(start, tmp_path):
    """clamav-milter with a clamd that knows one signature: EICAR is refused, other mail passes."""
    root = unpacked(*CLAMAV)
    os.chmod(tmp_path, 0o755)
    (tmp_path / 'db').mkdir()
    (tmp_path / 'db/test.hdb').write_text('44d88612fea8a8f36de82e1278abb02f:68:Eicar-Test\n')
    clamd, milter = tmp_path / 'clamd.sock', tmp_path / 'milter.sock'
    (tmp_path / 'clamd.conf').write_text('LocalSocket %s\nDatabaseDirectory %s/db\nForeground yes\nUser root\n' % (clamd, tmp_path))
    (tmp_path / 'milter.conf').write_text('MilterSocket unix:%s\nClamdSocket unix:%s\nForeground yes\nUser root\nOnInfected Reject\n'
                                          'RejectMsg %%v found\nAddHeader Replace\n' % (milter, clamd))
    start(Started(root, [root + '/usr/sbin/clamd', '-c', str(tmp_path / 'clamd.conf')], str(clamd)))
    start(Started(root, [root + '/usr/sbin/clamav-milter', '-c', str(tmp_path / 'milter.conf')], str(milter)))
    house = start(House([str(milter)]))
    client = house.client()
    infected = FULL.replace(b'\r\n\r\n', b'\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n') + \
        b'--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n%s\r\n--b--\r\n'
    assert b'Eicar-Test' in house.send(client, data=infected % base64.b64encode(EICAR))
    assert house.send(client, data=infected % base64.b64encode(b'nothing')).startswith(b'250')
    (body, _), = house.rig.queued.wait()
    assert b'X-Virus-Status: Clean\n' in body


@pytest.mark.root
def test_postgrey(start, tmp_path):
    """A policy server of Postfix's: postgrey defers what is new and takes it a second later; qpy-check keeps its connection."""
    root, path = unpacked(*POSTGREY), str(tmp_path / 'postgrey.sock')
    for name in ('db', 'etc'):
        (tmp_path / name).mkdir()
    (tmp_path / 'etc/none').write_text('')
    places = [root + '/usr/share/perl5', *glob.glob(root + '/usr/lib/*-linux-gnu/perl5/*')]
    start(Started(root, ['perl', '-T', *('-I' + place for place in places), root + '/usr/sbin/postgrey', '--unix=' + path,
                         '--dbdir=%s/db' % tmp_path, '--user=root', '--group=root', '--delay=1',
                         '--whitelist-clients=%s/etc/none' % tmp_path, '--whitelist-recipients=%s/etc/none' % tmp_path], path))
    house = start(CheckHouse(policyservers=path + '\n'))
    client = house.client()
    said = transaction(client)[1]
    assert said.startswith(b'450 4.2.0 Greylisted') or said.startswith(b'450 4.7.1 Greylisted'), said
    wait_until(lambda: transaction(client)[1] == b'250 2.1.5 ok')
    assert '/postgrey.sock says ' in house.rig.log()


POLICYD_SPF = ('postfix-policyd-spf-python', 'python3-spf-engine', 'python3-spf', 'python3-authres')
WITH_DNS = ('import sys, dns.resolver; dns.resolver.default_resolver = own = dns.resolver.Resolver(configure=False); '
            'own.nameservers, own.port = ["127.0.0.1"], int(sys.argv.pop(1)); '
            'from spf_engine.policyd_spf import main; sys.exit(main())')


@pytest.mark.parametrize('rejects, rules, reply', [
    ('False', 'fail\n', b'550 5.7.23 SPF of bad.example does not permit your address 192.0.2.7'), ('False', '', b'250 2.1.5 ok'),
    ('Fail', '', b'550 5.7.23 Message rejected due to: SPF fail - not authorized')])
def test_policyd_spf(start, tmp_path, rejects, rules, reply):
    """Debian's policy server for SPF refuses by itself, or only says what it has found: then control/spfrules refuses what
    it lists, for the first recipient of a session as well, and its field stands on top of what is accepted."""
    dns = pytest.importorskip('dns')
    from tests.peers.dns_script import Server as Dns
    root = unpacked(*POLICYD_SPF)
    (tmp_path / 'conf').write_text('debugLevel = 0\nHELO_reject = False\nMail_From_reject = %s\nHeader_Type = SPF\n' % rejects)
    zone = {('bad.example', 'TXT'): ['"v=spf1 ip4:198.51.100.1 -all"'], ('good.example', 'TXT'): ['"v=spf1 ip4:192.0.2.0/24 -all"']}
    with Dns(zone) as server:
        places = root + '/usr/lib/python3/dist-packages', os.path.dirname(os.path.dirname(dns.__file__))
        spawn = start(Port(['/usr/bin/python3', '-c', WITH_DNS, str(server.port), str(tmp_path / 'conf')],
                           {'PATH': '/usr/bin:/bin', 'PYTHONPATH': ':'.join(places), 'PYTHONDONTWRITEBYTECODE': '1'}))
        house = start(CheckHouse(policyservers='127.0.0.1:%d timeout=60\n' % spawn.address[1], spfrules=rules))
        client = house.rig.one_shot(PROTO='TCP', TCPREMOTEIP='192.0.2.7')
        assert client.reply()[:3] == b'220' and client.say(b'HELO mail.example.org')[:3] == b'250'
        said = transaction(client, sender=b'MAIL FROM:<ann@bad.example>')[1]
        assert said.startswith(reply), said
        client.say(b'MAIL FROM:<ann@good.example>')
        assert client.say(b'RCPT TO:<joe@mx.example.com>') == b'250 2.1.5 ok' and client.say(b'DATA')[:3] == b'354'
        assert client.say(b'Subject: x\r\n\r\nx\r\n.')[:3] == b'250'
        assert house.rig.queued.wait()[0][0].startswith(b'Received-SPF: Pass (mailfrom) identity=mailfrom; client-ip=192.0.2.7; ')


# --- programs before qpy-smtpd ---------------------------------------------------------------------------------------

class Port:
    """A TCP server that gives each connection to a program, as tcpserver does."""

    def __init__(self, command, env):
        self.command, self.env = command, env
        self.sock = socket.create_server(('127.0.0.1', 0))
        self.address = self.sock.getsockname()
        self.processes = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection = self.sock.accept()[0]
            except OSError:
                return
            self.processes.append(subprocess.Popen(self.command, stdin=connection, stdout=connection, env=self.env,
                                                   stderr=subprocess.PIPE))
            connection.close()

    def stop(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        for process in self.processes:
            process.kill() if process.poll() is None else None
            process.communicate()


def before(start, program, **control):
    """qpy-smtpd one shot behind a program of ucspi-tcp: (address to connect to, the house)."""
    house = start(CheckHouse(check=bool(control.pop('check', False)), **control))
    root = unpacked('ucspi-tcp')
    smtpd = ['/usr/bin/python3', '-IS', os.path.join(os.path.dirname(__file__), '../../bin/qpy-smtpd')]
    env = {'PATH': '/usr/bin:/bin', 'QPYHOME': house.home, 'PROTO': 'TCP', 'TCPREMOTEIP': '127.0.0.1', 'TCPLOCALIP': '127.0.0.1',
           'DNSCACHEIP': '127.0.0.1'}
    return start(Port([root + '/usr/bin/' + program[0], *program[1:], *smtpd], env)).address, house


def spoken(address, data, patience=20):
    """Everything that is said to a client who says this and closes his side."""
    with socket.create_connection(address, patience) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        said = b''
        while piece := client.recv(65536):
            said += piece
        return said


def test_fixcrio(start):
    """Under fixcrio a client that ends its lines with LF alone is heard, message and all."""
    address, house = before(start, ['fixcrio'])
    said = spoken(address, b'HELO x\nMAIL FROM:<ann@example.org>\nRCPT TO:<joe@mx.example.com>\nDATA\nSubject: s\n\nb\n.\nQUIT\n')
    assert b'\r\n250 2.0.0 ok ' in said and b'\r\n221 ' in said
    assert house.rig.queued.wait()[0][0].endswith(b'\nSubject: s\n\nb\n')


@pytest.mark.root
@pytest.mark.parametrize('listed', [True, False])
def test_rblsmtpd(start, listed):
    """rblsmtpd, which asks DNS itself, turns a listed client away and runs qpy-smtpd for the others.  Its DNS is on port 53
    of a network namespace."""
    from tests.peers import net
    from tests.peers.dns_script import Server as Dns
    unpacked('ucspi-tcp')
    host = net.Host('rbl')
    dns = None
    try:
        zone = {('1.0.0.127.rbl.example', 'TXT'): ['"listed, see rbl.example"']} if listed else {('rbl.example', 'A'): ['127.0.0.1']}
        dns = host.call(lambda: Dns(zone, '127.0.0.1', 53).__enter__())
        house = start(CheckHouse(check=False))
        smtpd = ['/usr/bin/python3', '-IS', os.path.join(os.path.dirname(__file__), '../../bin/qpy-smtpd')]
        done = subprocess.run([*host.prefix, unpacked('ucspi-tcp') + '/usr/bin/rblsmtpd', '-r', 'rbl.example', '-t', '5', *smtpd],
                              input=b'HELO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<joe@mx.example.com>\r\nQUIT\r\n',
                              capture_output=True, timeout=60,
                              env={'PATH': '/usr/bin:/bin', 'QPYHOME': house.home, 'PROTO': 'TCP', 'TCPREMOTEIP': '127.0.0.1',
                                   'DNSCACHEIP': '127.0.0.1'})
    finally:
        if dns:
            dns.__exit__()
        host.end()
    if listed:
        assert b'451 listed, see rbl.example' in done.stdout and b'250 2.1.5' not in done.stdout
    else:
        assert done.stdout.startswith(b'220 mx.example.com ESMTP') and b'250 2.1.5 ok' in done.stdout
