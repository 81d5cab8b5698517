"""ETRN in a whole chain: a host that was away is back and says so, by its own client and by Debian's fetchmail."""
import os
import socket
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402
from tests.peers import debian  # noqa: E402
from tests.peers.smtp_rig import Client  # noqa: E402
from tests.peers.smtp_script import Server, good  # noqa: E402

pytestmark = pytest.mark.slow


class Branches(houses.House):
    """Two hosts that may ask, and one that may not; all are away, and one message waits for them."""

    def __init__(self):
        self.ports = {name: houses.free_port() for name in ('one.branches.test', 'two.branches.test', 'other.test')}
        super().__init__(routes=''.join('%s:127.0.0.1:%d\n' % each for each in self.ports.items()))
        self.write('control/etrn', '.branches.test\n')
        self.start()
        self.sendmail('-f', 'user@here.test', *['joe@' + name for name in self.ports], text='Subject: waits\n\nhello\n')
        self.await_line('left alone for', 3)
        self.await_that(lambda: self.queue(), 'queue')

    def client(self):
        """A client that has said EHLO."""
        found = Client(socket.create_connection(('127.0.0.1', self.port)))
        found.reply()
        found.send(b'EHLO one.branches.test\r\n')
        lines = [found.line()]
        while lines[-1][3:4] == b'-':
            lines.append(found.line())
        assert b'250-ETRN' in lines
        return found


class RootedBranches(Branches):
    rootless = False


@pytest.fixture(params=[Branches, pytest.param(RootedBranches, marks=pytest.mark.root)], ids=['rootless', 'rooted'])
def house(request):
    made = request.param()
    yield made
    made.remove()


def test_a_host_that_is_back(house):
    """Its mail comes at once, though it was left alone; nobody else's is tried; asked again at once nothing waits."""
    client = house.client()
    with Server(good(), port=house.ports['one.branches.test']) as one, Server(good(), port=house.ports['other.test']) as other:
        assert client.say(b'ETRN other.test')[:9] == b'459 4.7.1'
        assert client.say(b'ETRN one.branches.test') == b'253 2.0.0 ok, 1 pending messages for node one.branches.test started'
        house.await_line('destination 127.0.0.1:%d: in order again' % house.ports['one.branches.test'])
        assert [recipients for _, recipients, _ in one.mail] == [[b'joe@one.branches.test']] and other.connections == 0
        house.await_line('qpy-smtpd: etrn ip 127.0.0.1 helo one.branches.test: one.branches.test, 1 messages')
        house.await_line('etrn one.branches.test: messages tried out of turn 1, asked for by uid ')
        house.await_that(lambda: any('delivery' in line and 'success' in line for line in house.lines), 'success')
    starting = [line for line in house.lines if 'starting delivery' in line]
    assert len(starting) == 4 and 'to remote joe@one.branches.test' in starting[3]
    house.write('control/tcp.smtp', ':allow\n')
    assert house.client().say(b'ETRN one.branches.test')[:3] == b'250'          # to a stranger not even that nothing waits
    assert client.say(b'QUIT')[:3] == b'221'


def test_sendmail(house):
    """sendmail -qR of any user does the same for one domain; for one that is not listed it tries everything, once a minute."""
    with Server(good(), port=house.ports['two.branches.test']) as two, Server(good(), port=house.ports['other.test']) as other:
        house.sendmail('-qRtwo.branches.test', text='')
        house.await_that(lambda: two.mail, 'mail')
        house.await_line('etrn two.branches.test: messages tried out of turn 1, asked for by uid ')
        assert other.connections == 0
        house.sendmail('-qRother.test', text='')
        house.await_that(lambda: other.mail, 'mail')


def test_fetchmail(house, tmp_path):
    """fetchmail as an ETRN client has the mail of both hosts sent to it, and is told when it asks in vain."""
    try:
        fetchmail = debian.program('fetchmail', 'fetchmail')
    except (RuntimeError, OSError) as problem:
        pytest.skip('no fetchmail: %s' % problem)

    def ask(node):
        rc = tmp_path / 'rc'
        rc.write_text("poll 127.0.0.1 protocol etrn service %d sslproto '' fetchdomains '%s'\n" % (house.port, node))
        rc.chmod(0o600)
        return subprocess.run([fetchmail, '-v', '-f', str(rc), '--nodetach', '--pidfile', str(tmp_path / 'pid')], capture_output=True,
                              text=True, timeout=60, env={'PATH': '/usr/bin:/bin', 'HOME': str(tmp_path), 'FETCHMAILHOME': str(tmp_path)})
    with Server(good(), port=house.ports['one.branches.test']) as one, Server(good(), port=house.ports['two.branches.test']) as two:
        done = ask('@branches.test')
        assert done.returncode == 0 and 'fetchmail: Pending messages for @branches.test started' in done.stdout, done
        for host in (one, two):
            house.await_that(lambda: host.mail, 'mail')
        assert 'ETRN< 459 4.7.1 node other.test not allowed' in ask('other.test').stdout
