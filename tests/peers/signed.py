"""A signed zone as the world has it: nsd serves it, unbound validates it, ldns signs it.  All from Debian, unpacked.

    zone = Zone(directory, 'dane.test', lines)          lines of a zone file, without SOA and NS
    nsd = Nsd(directory, zone, host, address, port)
    unbound = Unbound(directory, zone, host, (address, port), others)
"""
import os
import shutil
import socket
import subprocess
import time

from tests.peers import debian

HEAD = '@ 60 IN SOA ns.%s. root.%s. 1 3600 600 86400 60\n@ 60 IN NS ns.%s.\nns 60 IN A 127.0.0.1\n'
NSD = """server:
  server-count: 1
  ip-address: {address}@{port}
  username: root
  zonesdir: "{work}"
  database: ""
  pidfile: ""
  zonelistfile: "{work}/zone.list"
  xfrdfile: "{work}/xfrd.state"
  xfrdir: "{work}"
remote-control:
  control-enable: no
zone:
  name: "{name}"
  zonefile: "{file}"
"""
UNBOUND = """server:
  interface: 127.0.0.1
  port: 53
  do-daemonize: no
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
  local-zone: "test." nodefault
remote-control:
  control-enable: no
stub-zone:
  name: "{name}"
  stub-addr: {stub}
forward-zone:
  name: "."
  forward-addr: {others}
"""


def program(name, *packages):
    """A program of Debian's, with the libraries that a small system has not."""
    return debian.program(name, *packages, 'libevent-2.1-7', 'libprotobuf-c1')


class Zone:
    """A zone and its keys.  file: the signed zone; anchor: its DS record."""

    def __init__(self, directory, name, lines):
        self.name, self.work = name, directory
        tools = ('ldnsutils', 'libldns3', 'libpcap0.8')
        plain = os.path.join(directory, name)
        with open(plain, 'w') as file:
            file.write('$ORIGIN %s.\n$TTL 60\n' % name + HEAD % (name, name, name) + ''.join(line + '\n' for line in lines))
        run = (lambda *words: subprocess.run(words, cwd=directory, check=True, capture_output=True, text=True).stdout)
        key = run(program('ldns-keygen', *tools), '-a', 'ECDSAP256SHA256', '-k', name).strip()
        run(program('ldns-signzone', *tools), '-f', plain + '.signed', plain, key)
        self.file = plain + '.signed'
        with open(os.path.join(directory, key + '.ds')) as file:
            self.anchor = ' '.join(file.read().split())

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
    """The zone, for whoever asks."""

    def __init__(self, directory, zone, host, address, port):
        conf = os.path.join(directory, 'nsd.conf')
        with open(conf, 'w') as file:
            file.write(NSD.format(address=address, port=port, work=directory, name=zone.name, file=zone.file))
        super().__init__([program('nsd', 'nsd', 'libfstrm0'), '-d', '-c', conf], directory, host, address, port)


class Unbound(Server):
    """A validating resolver on 127.0.0.1:53 of host, which trusts the zone's key; others: who answers for the rest."""

    def __init__(self, directory, zone, host, stub, others):
        conf = os.path.join(directory, 'unbound.conf')
        with open(conf, 'w') as file:
            file.write(UNBOUND.format(work=directory, anchor=zone.anchor, name=zone.name, stub='%s@%d' % stub, others=others))
        super().__init__([program('unbound', 'unbound', 'libnghttp2-14', 'libpython3.11'), '-d', '-p', '-c', conf], directory,
                         host, '127.0.0.1', 53)


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
