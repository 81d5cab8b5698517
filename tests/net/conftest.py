"""Two qpy hosts, a.test and b.test, and a DNS server, on a network of their own with real ports."""
import contextlib
import os
import pathlib
import shutil
import tempfile
import time

import pytest

from tests.peers import net, qpy as peer
from tests.real.conftest import UID, Mailbox

dns_script = pytest.importorskip('tests.peers.dns_script')

PATIENCE = 60                       # seconds until what should have happened has not


class Site:
    """One host with a qpy and one user, whose Maildir is `mailbox`."""

    def __init__(self, host, base, user):
        self.host, self.user, self.address = host, user, '%s@%s.test' % (user, host.name)
        home = os.path.join(base, user)
        os.makedirs(home)
        os.chown(home, UID, UID)
        self.mailbox = Mailbox(home)
        self.qpy = peer.Qpy(os.path.join(base, host.name), 25, users=[(user, UID, UID, home)],
                            me=host.name + '.test',
                            host=host, controls={'timeoutconnect': '2\n', 'timeoutremote': '30\n'})

    def send(self, recipients, text, sender=None):
        """Hand a message to this host's sendmail; text is the whole message as bytes."""
        self.host.run(self.qpy.home + '/bin/qpy-sendmail', '-i', '-f',
                      self.address if sender is None else sender, '--',
                      *recipients, data=text)

    @contextlib.contextmanager
    def with_service(self, line, *controls):
        """Stopped, with one more line in control/services; afterwards it runs as before, without these control files and
        without what waits."""
        services = pathlib.Path(self.qpy.home, 'control/services')
        before = services.read_text()
        self.qpy.stop(remove=False)
        services.write_text(before + line)
        try:
            yield
        finally:
            self.qpy.stop(remove=False)
            services.write_text(before)
            for name in controls:
                pathlib.Path(self.qpy.home, 'control', name).unlink(missing_ok=True)
            for name in self.qpy.waiting():
                pathlib.Path(self.qpy.home, 'queue/mess', name).unlink()
            self.qpy.start()

    def next(self):
        """The next message in the mailbox."""
        return self.mailbox.next(patience=PATIENCE, log=self.qpy.log)

    def until(self, fact, explain=lambda: ''):
        """Wait until fact() holds."""
        give_up = time.monotonic() + PATIENCE
        while not fact():
            assert time.monotonic() < give_up, '%s\n%s' % (explain(), self.qpy.log()[-6000:])
            time.sleep(0.02)            # a log file announces nothing to a plain reader


class World:
    """The network, its zone (change it as you like), its two sites."""

    def __init__(self, network, base, stack):
        self.net, self.zone, self.stack = network, {}, stack
        for name, host in network.hosts.items():
            self.zone[name + '.test', 'MX'] = ['10 mx.%s.test' % name]
            self.zone['mx.%s.test' % name, 'A'] = [host.address]
        self.dns = self.start(network.hub, lambda: dns_script.Server(self.zone, net.HUB, 53, ttl=0))
        self.a = self._site('a', base, 'joe')
        self.b = self._site('b', base, 'sue')

    def _site(self, name, base, user):
        site = Site(self.net.hosts[name], base, user)
        self.stack.callback(site.qpy.stop)
        return site

    def start(self, host, make):
        """Start a server of tests.peers on a host, for as long as the world stands."""
        return self.stack.enter_context(host.call(make))


@pytest.fixture(scope='session')
def world():
    """A World; everything of it is gone afterwards."""
    if os.geteuid() != 0 or not shutil.which('ip'):
        pytest.skip('needs root and iproute2')
    base = tempfile.mkdtemp(prefix='qpy-net-', dir='/var/tmp')
    os.chmod(base, 0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        try:
            network = stack.enter_context(net.Net(('a', 'b'), base))
        except (AssertionError, RuntimeError) as problem:
            pytest.skip('no network namespaces here: %s' % problem)
        yield World(network, base, stack)


@pytest.fixture
def sites(world):
    """(a, b), with what is in their mailboxes already not looked at."""
    for site in (world.a, world.b):
        site.mailbox.seen = site.mailbox.names()
    return world.a, world.b
