"""control/outgoingip: which of this host's addresses a delivery leaves from; with it qpy-remote may bind, and no more."""
import os
import socket

import pytest

from qpy.core import outgoingip
from qpy.lib import controls
from qpy.qpyr import remote
from tests.peers.smtp_script import Server, good
from tests.programs.test_remote import Sender, closed_port, full_listener

LINES = [b'127.0.0.2', b'::1', b'x.example:127.0.0.3', b'.x.example:127.0.0.4', b'@Y.example:127.0.0.5',
         b'joe@y.example:127.0.0.6', b'free.example:0.0.0.0', b'@six.example:[::1]']


def test_which_address():
    """The sender's address, his domain, the recipients' domain, its endings, all: the first line with an address of the
    destination's kind; 0.0.0.0 is the system's choice; this host is not left for from another network's address."""
    table = outgoingip.table(LINES)
    for sender, host, destination, wanted in (
            (b'a@b', b'else.example', b'192.0.2.1', b'127.0.0.2'), (b'a@b', b'X.example', b'192.0.2.1', b'127.0.0.3'),
            (b'a@b', b'w.x.example', b'192.0.2.1', b'127.0.0.4'), (b'ann@y.EXAMPLE', b'x.example', b'192.0.2.1', b'127.0.0.5'),
            (b'Joe@y.example', b'x.example', b'192.0.2.1', b'127.0.0.6'), (b'', b'x.example', b'192.0.2.1', b'127.0.0.3'),
            (b'a@b', b'free.example', b'192.0.2.1', b''), (b'a@six.example', b'x.example', b'192.0.2.1', b'127.0.0.3'),
            (b'a@six.example', b'x.example', b'2001:db8::1', b'::1'), (b'x', b'y', b'::ffff:192.0.2.1', b''),
            (b'x', b'y', b'/run/lmtp', b'')):
        assert outgoingip.choose(table, sender, host, destination) == wanted, (sender, host, destination)
    assert outgoingip.choose(outgoingip.table([b'192.0.2.9']), b'', b'y', b'127.0.0.1') == b''
    assert outgoingip.choose({}, b'', b'y', b'192.0.2.1') == b''


@pytest.mark.parametrize('line', [b'', b'x.example', b'x.example:', b'x.example:y', b'192.0.2.256', b'a b:192.0.2.1',
                                  b'::ffff:192.0.2.1', b'x:[192.0.2.1', b'192.0.2.1:x.example'])
def test_lines_that_cannot_be_used(line, tmp_path):
    """Each is an error that names file, line and remedy, before anything is sent."""
    with pytest.raises(ValueError):
        outgoingip.parse(line)
    if line:
        (tmp_path / 'control').mkdir()
        (tmp_path / 'control/me').write_text('me.example\n')
        (tmp_path / 'control/outgoingip').write_bytes(b'# ours\n' + line + b'\n')
        with pytest.raises(controls.Broken) as caught:
            remote.read_settings(os.fsencode(tmp_path))
        assert b'control/outgoingip, line 2, "' in caught.value.text and b'write ADDRESS' in caught.value.text


def sender_with(*lines, port):
    """A Sender whose every mail goes to 127.0.0.1 from these addresses."""
    sender = Sender({b'': b'127.0.0.1:%d' % port})
    sender.settings.sources = outgoingip.table(list(lines))
    return sender


def whom(talk, line):
    """The server's final word is the address of its client."""
    return b'250 from ' + talk.sock.getpeername()[0].encode()


@pytest.mark.parametrize('address', ['127.0.0.1', '::1'])
def test_it_leaves_from_there(address):
    """Of IPv4 and of IPv6 connections; who is to leave from elsewhere does not use an open one."""
    try:
        server = Server(good(replies={b'dot': whom}), address)
    except OSError:
        pytest.skip('no IPv6 here')
    with server:
        sender = Sender({b'': b'%s:%d' % (b'[::1]' if ':' in address else b'127.0.0.1', server.port)})
        sender.settings.sources = outgoingip.table([b'127.0.0.2', b'::1', b'@z.example:127.0.0.3'])
        said = [sender.send(sender=who)[0][0] for who in (b'a@y.example', b'a@z.example', b'b@y.example')]
        assert [letter for letter, _ in said] == [b'K'] * 3
        found = [words.rpartition(b'from ')[2].strip() for _, words in said]
        assert found == ([b'::1'] * 3 if ':' in address else [b'127.0.0.2', b'127.0.0.3', b'127.0.0.2'])
        assert server.connections == (1 if ':' in address else 2)


def test_the_port_is_chosen_late():
    """The address is bound without a port, which is chosen by destination when it connects: else all destinations
    together could have no more connections than there are ports."""
    with Server(good()) as server:
        sender = sender_with(b'127.0.0.2', port=server.port)
        assert sender.send()[0][0][0] == b'K'
        ((kept, _),) = next(iter(sender.remote.pool.idle.values()))
        assert kept.sock.getsockopt(socket.IPPROTO_IP, 24) == 1 and kept.sock.getsockname()[0] == '127.0.0.2'


def test_an_address_we_do_not_have():
    """The mail waits, and the report names file and address; the server is not held to be dead."""
    with Server(good()) as server:
        sender = sender_with(b'127.0.0.2', port=server.port)
        sender.settings.sources = {4: {b'': b'192.0.2.77'}, 16: {}}
        sender.settings.routes = {b'': b'[192.0.2.1]:%d' % server.port}
        outcomes, trouble = sender.send()
    assert outcomes[0][0] == b'Z' and trouble and not server.mail
    assert b'unable to leave from 192.0.2.77, see control/outgoingip: cannot assign requested address' in outcomes[0][1]
    assert not sender.remote.dead.is_dead(b'192.0.2.1', 1e9)


def test_an_address_of_one_sender_says_nothing_about_other_mail():
    """Joe's mail leaves from an address we do not have, or from which nothing is reached: the host is in no trouble, and not
    held to be dead, for those whose mail leaves from elsewhere."""
    sender = sender_with(b'joe@y.example:127.0.0.3', port=closed_port())
    assert [sender.send(sender=who)[1] for who in (b'joe@y.example', b'ann@y.example')] == [False, True]
    sender.settings.sources = {4: {b'joe@y.example': b'192.0.2.77'}, 16: {}}
    sender.settings.routes = {b'': b'[192.0.2.1]'}
    outcomes, trouble = sender.send(sender=b'joe@y.example')
    assert b'unable to leave from' in outcomes[0][1] and not trouble
    sock, fillers = full_listener()
    sender = sender_with(b'joe@y.example:127.0.0.3', port=sock.getsockname()[1])
    sender.settings.connect_patience = 0.1
    assert b'timed out' in sender.send(sender=b'joe@y.example')[0][0][1] and not sender.remote.dead.records
    assert b'timed out' in sender.send()[0][0][1] and list(sender.remote.dead.records) == [b'127.0.0.1']
    for one in (sock, *fillers):
        one.close()


def test_the_right_to_bind_comes_with_the_file():
    """Who has no such file may not bind; who is confined for it, or for other ports, cannot do what the new one says, and goes
    on with the newest it can do."""
    without, with_one = remote.Settings(b'me', {}), remote.Settings(b'me', {}, sources=outgoingip.table([b'127.0.0.2']))
    more = remote.Settings(b'me', {b'': b'relay:2525'})
    assert (without.row, with_one.row) == (b'remote', b'remote-bound')
    assert more.covers(without) and not without.covers(more)
    assert not with_one.covers(without) and not without.covers(with_one)
    fewer, answers = remote.Settings(b'me', {}), iter((with_one, more, without))
    watched = type('Watched', (), {'value': fewer, 'get': lambda self: next(answers)})()
    reach = remote.Reach(watched, fewer)
    assert [reach.get() for _ in range(3)] == [fewer, fewer, without]
