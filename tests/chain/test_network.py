"""qpy-rspawn, qpy-remote and qpy-resolve on a real network: two namespaces, DNS on port 53, SMTP on port
25."""
import contextlib
import os
import shutil
import subprocess

import pytest

from qpy import unix, unix_kernel
from qpy.core import remote_report
from tests.peers.qpyr import Daemon, Rspawn
from tests.peers.smtp_script import Server, good

dns = pytest.importorskip('dns')
dns_script = pytest.importorskip('tests.peers.dns_script')

WORLD = ('192.0.2.2', '192.0.2.3', '192.0.2.4', '192.0.2.53')
OURS = ('192.0.2.1', '192.0.2.9')


@contextlib.contextmanager
def inside(name):
    """This thread in the network namespace `name`: sockets and processes made here belong there."""
    here, there = (os.open(path, os.O_RDONLY) for path in ('/proc/thread-self/ns/net', '/run/netns/' + name))
    try:
        unix_kernel.setns(there, unix_kernel.CLONE_NEWNET)
        yield
    finally:
        unix_kernel.setns(here, unix_kernel.CLONE_NEWNET)
        os.close(here)
        os.close(there)


def ip(*words):
    subprocess.run(['ip', *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.fixture(scope='module')
def network():
    """(name of our namespace, name of the world's), connected."""
    ours, world = 'qpy-us-%d' % os.getpid(), 'qpy-world-%d' % os.getpid()
    if os.geteuid() or not shutil.which('ip'):
        pytest.skip('needs root and ip(8)')
    try:
        for name in (ours, world):
            ip('netns', 'add', name)
        ip('-n', ours, 'link', 'add', 'near', 'type', 'veth', 'peer', 'name', 'far', 'netns', world)
        for name, link, addresses in ((ours, 'near', OURS), (world, 'far', WORLD)):
            for address in addresses:
                ip('-n', name, 'address', 'add', address + '/24', 'dev', link)
            ip('-n', name, 'address', 'add', 'fd77::%d/64' % (1 if name == ours else 2), 'dev', link, 'nodad')
            for each in ('lo', link):
                ip('-n', name, 'link', 'set', each, 'up')
    except subprocess.CalledProcessError as problem:
        for name in (ours, world):
            subprocess.run(['ip', 'netns', 'delete', name], check=False, stderr=subprocess.DEVNULL)
        pytest.skip('no network namespaces here: %r' % problem.stderr)
    yield ours, world
    for name in (ours, world):
        ip('netns', 'delete', name)


ZONE = {
    ('plain.test', 'MX'): ['10 two.test'], ('two.test', 'A'): ['192.0.2.2'], ('two.test', 'AAAA'): dns_script.NODATA,
    ('implicit.test', 'A'): ['192.0.2.3'],
    ('six.test', 'AAAA'): ['fd77::2'],
    ('second.test', 'MX'): ['10 closed.test', '20 implicit.test'], ('closed.test', 'A'): ['192.0.2.4'],
    ('nowhere.test', 'MX'): ['10 closed.test'],
    ('loop.test', 'MX'): ['10 us.test', '20 two.test'], ('us.test', 'A'): ['192.0.2.9'],
    ('lo.test', 'A'): ['127.0.0.1'], ('mapped.test', 'AAAA'): ['::ffff:127.0.0.1'], ('own6.test', 'AAAA'): ['fd77::1'],
    ('backup.test', 'MX'): ['10 closed.test', '20 us.test', '30 two.test'],
    ('null.test', 'MX'): ['0 .'],
    ('fail.test', 'MX'): dns_script.SERVFAIL,
    ('silly.test', 'MX'): ['10 gone.test'],
}
CASES = [(b'plain.test', b'K', '192.0.2.2', ''), (b'implicit.test', b'K', '192.0.2.3', 'R-04'),
         (b'six.test', b'K', 'fd77::2', 'IPv6'), (b'second.test', b'K', '192.0.2.3', 'R-11: refused, next'),
         (b'[192.0.2.2]', b'K', '192.0.2.2', 'a literal'), (b'[IPv6:fd77::2]', b'K', 'fd77::2', 'a literal'),
         (b'nowhere.test', b'Z', remote_report.NO_CONNECTION + b'192.0.2.4: connection refused\n', 'R-11'),
         (b'loop.test', b'D', remote_report.SELF, 'R-07'), (b'lo.test', b'D', remote_report.SELF, 'R-07'),
         (b'mapped.test', b'D', remote_report.SELF, 'R-07'), (b'own6.test', b'D', remote_report.SELF, 'R-07'),
         (b'[192.0.2.9]', b'D', remote_report.SELF, 'R-07'),
         (b'backup.test', b'Z', remote_report.NO_CONNECTION + b'192.0.2.4: connection refused\n', 'R-07: only better'),
         (b'null.test', b'D', remote_report.NULL_MX, 'R-05'), (b'silly.test', b'D', remote_report.NO_EXCHANGER, 'R-03'),
         (b'gone.test', b'D', remote_report.no_host(b'gone.test'), 'R-02'), (b'fail.test', b'Z', b'', 'R-01')]


def furnish(home):
    """A DIR that belongs to nobody, asks the DNS of this test, and has the dnspython that tests have."""
    for name in ('control', 'run', 'lib', 'queue', 'queue/mess'):
        (home / name).mkdir()
    os.chown(home, 65534, 65534)
    (home / 'control' / 'me').write_text('us.test\n')
    (home / 'control' / 'resolvers').write_text('192.0.2.53\n')
    (home / 'lib' / 'site').symlink_to(os.path.dirname(os.path.dirname(dns.__file__)))


@pytest.mark.root
def test_where_mail_goes(network, tmp_path):
    """R-01 to R-07, R-11: the table above, by real DNS and SMTP ports, through the real daemons."""
    ours, world = network
    furnish(tmp_path)
    with contextlib.ExitStack() as stack:
        with inside(world):
            servers = {address: stack.enter_context(Server(good(), address, 25))
                       for address in ('192.0.2.2', '192.0.2.3', 'fd77::2')}
            stack.enter_context(dns_script.Server(ZONE, address='192.0.2.53', port=53))
        with inside(ours):
            resolve = Daemon(tmp_path, 'resolve')
            rspawn = Rspawn(tmp_path, '2')
        for i, (host, _, _, _) in enumerate(CASES):
            rspawn.send(i, host, message=b'for ' + host + b'\n')
        rspawn.wait(lambda: len(rspawn.results) == len(CASES))
        wrong = []
        for i, (host, letter, what, why) in enumerate(CASES):
            if letter == b'K':
                right = b'for ' + host + b'\r\n' in [body for _, _, body in servers[what].mail]
            else:
                right = rspawn.results[i][2].startswith(what)
            if rspawn.results[i][0] != letter or not right:
                wrong.append((host, why, rspawn.results[i]))
        for daemon in (rspawn, resolve):
            code, log = daemon.end()
            assert (code, log) == (0, b'')
    assert wrong == [] and sum(len(server.mail) for server in servers.values()) == 6


def children(daemon):
    path = b'/proc/%d/task/%d/children' % (daemon.process.pid, daemon.process.pid)
    return [int(word) for word in unix.read_file(path).split()]


@pytest.mark.root
def test_a_resolver_that_dies(network, tmp_path):
    """R-25: while qpy-resolve or the DNS is away everything is temporary; mail goes when it is back."""
    ours, world = network
    furnish(tmp_path)
    with inside(ours):
        rspawn = Rspawn(tmp_path, '1')
    rspawn.send(0, b'plain.test')
    rspawn.wait(lambda: 0 in rspawn.results)
    with inside(ours):
        resolve = Daemon(tmp_path, 'resolve')
    rspawn.send(1, b'plain.test')
    rspawn.wait(lambda: 1 in rspawn.results)
    assert [rspawn.results[i][:2] for i in (0, 1)] == [(b'Z', b'h')] * 2
    assert b'qpy-resolve cannot be asked' in rspawn.results[0][2] and b'connection refused' in rspawn.results[1][2]
    with inside(world):
        server, names = Server(good(), '192.0.2.2', 25), dns_script.Server(ZONE, address='192.0.2.53', port=53)
    with server, names:
        rspawn.send(2, b'plain.test')
        rspawn.wait(lambda: 2 in rspawn.results)
        worker = children(resolve)[0]
        os.kill(worker, 9)
        rspawn.wait(lambda: (rspawn.loop.step(0.01), children(resolve))[1] not in ([], [worker]))
        rspawn.send(3, b'implicit.test')
        rspawn.wait(lambda: 3 in rspawn.results)
    assert rspawn.results[2][0] == b'K' and b'192.0.2.3: connection refused' in rspawn.results[3][2]
    assert rspawn.end()[0] == 0 and b'killed by signal 9' in resolve.end()[1]
