"""Signed zones as the world has them, from a root of our own: nsd serves them, unbound validates them, ldns signs them.
All from Debian, unpacked.

    zone = Zone(directory, 'dane.test', lines, address)     lines of a zone file, without SOA and NS; its server's address
    parent = Zone(directory, 'test', zone.cut() + ..., address)         and so on up to Zone(directory, '', ...), the root
    nsd = Nsd(directory, zones, host, address)
    unbound = Unbound(directory, root, host)
"""
import os
import shutil
import socket
import subprocess
import time

from tests.peers import debian

HEAD = '$ORIGIN {origin}\n$TTL 60\n@ 60 IN SOA {server} root.{server} 1 3600 600 86400 60\n@ 60 IN NS {server}\n{server} 60 IN A {address}\n'
NSD = """server:
  server-count: 1
  ip-address: {address}
  username: root
  zonesdir: "{work}"
  database: ""
  pidfile: ""
  zonelistfile: "{work}/zone.list"
  xfrdfile: "{work}/xfrd.state"
  xfrdir: "{work}"
remote-control:
  control-enable: no
"""
SERVED = 'zone:\n  name: "%s"\n  zonefile: "%s"\n'
UNBOUND = """server:
  interface: {interface}
  access-control: 0.0.0.0/0 allow
  do-daemonize: no
  do-ip6: no
  username: ""
  chroot: ""
  directory: "{work}"
  pidfile: ""
  use-syslog: no
  logfile: ""
  val-log-level: 2
  module-config: "validator iterator"
  do-not-query-localhost: no
  trust-anchor: "{anchor}"
  root-hints: "{hints}"
  local-zone: "test." nodefault
remote-control:
  control-enable: no
"""


def program(name, *packages):
    """A program of Debian's, with the libraries that a small system has not."""
    return debian.program(name, *packages, 'libevent-2.1-7', 'libprotobuf-c1')


class Zone:
    """A zone and its keys.  file: the signed zone; anchor: its DS record.  nsec3: names that are not there are denied by it."""

    def __init__(self, directory, name, lines, address, nsec3=False):
        self.name, self.address, self.server = name, address, 'ns.' + (name + '.' if name else '')
        tools = ('ldnsutils', 'libldns3', 'libpcap0.8')
        plain = os.path.join(directory, 'zone.' + name)
        origin = name + '.'
        with open(plain, 'w') as file:
            file.write(HEAD.format(origin=origin, server=self.server, address=address) + ''.join(line + '\n' for line in lines))
        run = (lambda *words: subprocess.run(words, cwd=directory, check=True, capture_output=True, text=True).stdout)
        key = run(program('ldns-keygen', *tools), '-a', 'ECDSAP256SHA256', '-k', origin).strip()
        run(program('ldns-signzone', *tools), *(('-n',) if nsec3 else ()), '-f', plain + '.signed', plain, key)
        self.file = plain + '.signed'
        with open(os.path.join(directory, key + '.ds')) as file:
            self.anchor = ' '.join(file.read().split())

    def cut(self, signed=True):
        """The lines by which the zone above leads here; not signed: without DS, as if it were not."""
        return ['%s. IN NS %s' % (self.name, self.server), '%s IN A %s' % (self.server, self.address)] + [self.anchor] * signed

    def spoil(self, old, new):
        """Change a record behind the back of its signature."""
        with open(self.file) as file:
            text = file.read()
        assert old in text
        with open(self.file, 'w') as file:
            file.write(text.replace(old, new))


class Server:
    """A daemon on a tests.peers.net.Host that answers DNS at (address, port)."""

    def __init__(self, words, directory, host, address, port):
        self.log_path = os.path.join(directory, os.path.basename(words[0]) + '.log')
        with open(self.log_path, 'w') as log:
            self.process = subprocess.Popen([*host.prefix, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        give_up = time.monotonic() + 20
        while not host.call(lambda: answers(address, port)):
            if self.process.poll() is not None or time.monotonic() > give_up:
                self.stop()
                raise RuntimeError('%s does not answer: %s' % (words[0], self.log()))

    def log(self):
        """What it has said."""
        with open(self.log_path, errors='replace') as file:
            return file.read()

    def stop(self):
        """End it."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def answers(address, port):
    """Does something there answer a question within half a second?"""
    query = b'\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04dane\x04test\x00\x00\x06\x00\x01'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        try:
            sock.connect((address, port))
            sock.send(query)
            return sock.recv(4096)[:2] == query[:2]
        except OSError:
            time.sleep(0.02)         # nobody there yet: the kernel says so at once
            return False


class Nsd(Server):
    """The zones, for whoever asks."""

    def __init__(self, directory, zones, host, address):
        conf = os.path.join(directory, 'nsd.conf')
        with open(conf, 'w') as file:
            file.write(NSD.format(address=address, work=directory)
                       + ''.join(SERVED % (zone.name + '.', zone.file) for zone in zones))
        super().__init__([program('nsd', 'nsd', 'libfstrm0'), '-d', '-c', conf], directory, host, address, 53)


class Unbound(Server):
    """A validating resolver on host, which trusts the key of the root that is given, and no other."""

    def __init__(self, directory, root, host, interface='127.0.0.1'):
        directory = os.path.join(directory, 'unbound.' + interface)
        os.makedirs(directory)
        conf, hints = os.path.join(directory, 'unbound.conf'), os.path.join(directory, 'hints')
        with open(hints, 'w') as file:
            file.write('. 3600 IN NS %s\n%s 3600 IN A %s\n' % (root.server, root.server, root.address))
        with open(conf, 'w') as file:
            file.write(UNBOUND.format(work=directory, anchor=root.anchor, hints=hints, interface=interface))
        super().__init__([program('unbound', 'unbound', 'libnghttp2-14', 'libpython3.11'), '-d', '-p', '-c', conf], directory,
                         host, interface, 53)


def available():
    """Why there is none here, or ''."""
    if not shutil.which('apt-get'):
        return 'no apt-get here'
    try:
        program('unbound', 'unbound', 'libnghttp2-14', 'libpython3.11')
        program('nsd', 'nsd', 'libfstrm0')
        program('ldns-signzone', 'ldnsutils', 'libldns3', 'libpcap0.8')
    except RuntimeError as problem:
        return str(problem)
    return ''
