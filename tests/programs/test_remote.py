"""qpy-remote against scripted servers on loopback: warm, with many deliveries on one loop, and one shot."""
import os
import socket
import subprocess
import sys

import pytest

from qpy import unix
from qpy.core import mess, remote_report, smtp_client
from qpy.lib.loop import Loop
from qpy.qpyr import connection, remote, source
from tests.peers.smtp_script import Server, good

MESSAGE = b'Subject: x\n\n.dot\nhi\n'
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope='module', autouse=True)
def somewhere(tmp_path_factory):
    """Sender.home, while there are tests."""
    made = tmp_path_factory.mktemp('home')
    (made / 'control').mkdir()
    (made / 'control' / 'me').write_text('me.example\n')
    Sender.home = bytes(made)


class Sender:
    """A Remote with its loop.  DNS is a table: host -> (status, lines)."""

    home = b''          # a DIR that knows who it is

    def __init__(self, routes=None, table=None, port=25, patience=1, connect_patience=1, cap=60, loopback=True):
        self.loop = Loop()
        self.settings = remote.Settings(b'me.example', routes or {}, connect_patience, patience, cap, port, loopback)
        self.remote = remote.Remote(self.loop, Sender.home, lambda: self.settings)
        self.remote.names = self
        self.table = table or {}
        self.asked = []

    def ask(self, letter, name, callback):
        self.asked.append((letter, name))
        status, lines = self.table.get(name, (b'nxdomain', b''))
        self.loop.call_soon(lambda: callback(status, False, b'because', lines))

    def begin(self, recipients=(b'r@x.example',), message=MESSAGE, host=b'x.example', sender=b's@y.example', flags=b'',
              length=None):
        """Begin a delivery; the list its end is put into."""
        ended = []
        fd = unix.memfd(message)
        self.remote.deliver(host, sender, list(recipients), flags,
                            source.Source(fd, 0, len(message) if length is None else length), ended.append)
        return ended

    def wait(self, *lists, seconds=20):
        """Run the loop until each list has something."""
        until = unix.monotonic() + seconds
        while not all(lists) and unix.monotonic() < until:
            self.loop.step(0.2)
        return [found[0] for found in lists]

    def send(self, **options):
        """One delivery, to its end: [(K, Z or D, text)], in trouble."""
        delivery = self.wait(self.begin(**options))[0]
        return delivery.outcomes(), delivery.in_trouble


def to(server, **options):
    """A Sender whose every mail goes to this server."""
    return Sender({b'': b'127.0.0.1:%d' % server.port}, **options)


def test_a_message():
    """One message to two recipients arrives once, as it was, with its dot."""
    with Server(good()) as server:
        outcomes, trouble = to(server).send(recipients=[b'a@x.example', b'b@x.example'])
    assert outcomes == [(b'K', b'127.0.0.1 accepted message.\nRemote host said: 250 2.0.0 taken\n')] * 2 and not trouble
    assert server.mail == [(b's@y.example', [b'a@x.example', b'b@x.example'], MESSAGE.replace(b'\n', b'\r\n'))]
    assert server.log[1].startswith(b'MAIL FROM:<s@y.example> SIZE=24')


@pytest.mark.parametrize('extensions', [(b'PIPELINING',), (b'X',)])
def test_one_connection_for_many(extensions):
    """An open connection is used again; each message arrives once."""
    with Server(good(extensions)) as server:
        sender = to(server)
        for i in range(20):
            assert sender.send(message=b'n%d\n' % i)[0][0][0] == b'K'
        assert server.connections == 1 and len(server.mail) == 20
        assert len(sender.remote.pool.idle) == 1
        sender.remote.pool.close()
        assert sender.remote.pool.count == 0


def test_a_failed_message_does_not_spoil_the_next():
    """After a refused recipient the connection goes on, by RSET."""
    with Server(good(replies={b'RCPT': lambda talk, line: b'550 no' if b'bad' in line else b'250 ok'})) as server:
        sender = to(server)
        assert sender.send(recipients=[b'bad@x'])[0][0][0] == b'D'
        assert sender.send()[0][0][0] == b'K'
        assert server.connections == 1 and b'RSET' in server.log


def test_a_connection_has_an_end(monkeypatch):
    """A bounded number of messages go over one connection, which then says QUIT."""
    monkeypatch.setattr(connection.Pool, 'TRANSACTIONS', 3)
    with Server(good()) as server:
        sender = to(server)
        for _ in range(6):
            sender.send()
        assert server.connections == 2 and len(server.mail) == 6


def test_an_idle_connection_is_given_up(monkeypatch):
    """A connection without work is closed after some time, politely."""
    monkeypatch.setattr(connection.Pool, 'IDLE', 0.05)
    with Server(good()) as server:
        sender = to(server)
        sender.send()
        while sender.remote.pool.idle:
            sender.loop.step(0.1)
        assert sender.remote.pool.count == 0 and not sender.loop.readers


@pytest.mark.parametrize('limit', [1, 2])
def test_a_stale_connection(limit):
    """A server that says 421 (or hangs up) on a used connection is connected to anew: no deferral."""
    with Server(good(transactions=limit)) as server:
        sender = to(server)
        results = [sender.send()[0][0][0] for _ in range(5)]
        assert results == [b'K'] * 5 and len(server.mail) == 5


def test_many_at_once():
    """A hundred deliveries in flight end each with its own result."""
    def rcpt(talk, line):
        return b'250 ok' if b'<ok' in line else b'550 no' if b'<no' in line else b'450 later'
    with Server(good(replies={b'RCPT': rcpt})) as server:
        sender = to(server)
        names = [(b'ok', b'no', b'la')[i % 3] for i in range(100)]
        lists = [sender.begin(recipients=[b'%s%d@x' % (name, i)]) for i, name in enumerate(names)]
        letters = [delivery.outcomes()[0][0] for delivery in sender.wait(*lists)]
        assert letters == [{b'ok': b'K', b'no': b'D', b'la': b'Z'}[name] for name in names]
        assert len(server.mail) == names.count(b'ok')


def test_what_is_signed_and_has_8_bits():
    """RFC 6152, section 3: where no exchanger takes 8 bits it comes back, with the reason, and nobody has a part of it; where
    the second one does, it goes there as it is."""
    signed = (b'MIME-Version: 1.0\nContent-Type: multipart/signed; boundary=s\n\n--s\nContent-Transfer-Encoding: 8bit\n\n'
              + b'x\n' * 100_000 + b'\xe9\n--s\n\nsignature\n--s--\n')
    with Server(good((b'PIPELINING',))) as old, Server(good(), '127.0.0.2', old.port) as new:
        table = {b'x.example': (b'ok', b'1 a.example 127.0.0.1'),
                 b'z.example': (b'ok', b'1 a.example 127.0.0.1\n2 b.example 127.0.0.2')}
        sender = Sender(table=table, port=old.port)
        outcomes, _ = sender.send(message=signed, flags=b'8')
        assert outcomes == [(b'D', remote_report.no_eight_bit(b'127.0.0.1'))] and not old.mail
        assert sender.send(message=signed, flags=b'8', host=b'z.example')[0][0][0] == b'K'
        assert new.mail[0][2] == signed.replace(b'\n', b'\r\n') and not old.mail
        assert sender.send()[0][0][0] == b'K' and len(old.mail) == 1


def test_a_large_message_is_streamed():
    """20 MB go through in pieces, and arrive whole."""
    body = b'x' * 99 + b'\n'
    with Server(good()) as server:
        sender = to(server, patience=20)
        assert sender.send(message=body * 200000)[0][0][0] == b'K'
        assert server.mail[0][2] == (body * 200000).replace(b'\n', b'\r\n')


def test_too_many_recipients():
    """RFC 5321, 4.5.3.1.10: what a server refuses as too many for one transaction goes in the next one at
    once."""
    def script(talk):
        talk.seen = []

        def rcpt(talk, line):
            talk.seen.append(line)
            return b'250 ok' if len(talk.seen) % 5 else b'452 too many'
        good(replies={b'RCPT': rcpt})(talk)
    with Server(script) as server:
        outcomes, _ = to(server).send(recipients=[b'r%d@x' % i for i in range(7)])
    assert [letter for letter, _ in outcomes] == [b'K'] * 7
    assert sorted(r for _, recipients, _ in server.mail for r in recipients) == [b'r%d@x' % i for i in range(7)]


def hostile(step, act):
    """A good server that does act(talk) instead of its reply at this step."""
    def reply(talk, line):
        act(talk)
        talk.sock.close()
        raise OSError
    return good(replies={step: reply})


STEPS = [b'greeting', b'EHLO', b'MAIL', b'RCPT', b'DATA', b'dot']
ACTS = {'close': lambda talk: None, 'reset': lambda talk: talk.reset(), 'garbage': lambda talk: talk.raw(b'\0\xff\n'),
        '421': lambda talk: talk.say(b'421 going down'), 'long line': lambda talk: talk.raw(b'250-' + b'x' * 10 ** 6),
        'endless': lambda talk: talk.raw(b'250-x\r\n' * 10 ** 5), 'half': lambda talk: talk.raw(b'25'),
        'mismatch': lambda talk: talk.say(b'250-a', b'550 b'), 'code': lambda talk: talk.say(b'999 x')}


@pytest.mark.parametrize('act', ACTS)
@pytest.mark.parametrize('step', STEPS)
def test_hostile_at_every_step(step, act):
    """R-12, R-13, R-16, R-17, R-20: whatever the server does instead of answering is temporary."""
    with Server(hostile(step, ACTS[act])) as server:
        outcomes, trouble = to(server).send()
    assert outcomes[0][0] == b'Z' and (trouble or step == b'dot'), outcomes
    assert (b'Possible duplicate!' in outcomes[0][1]) == (step == b'dot' and act != '421')


@pytest.mark.parametrize('step', STEPS)
def test_silence_at_every_step(step):
    """R-12: a server that says nothing is given up after timeoutremote, temporarily."""
    with Server(hostile(step, lambda talk: talk.hang())) as server:
        outcomes, trouble = to(server, patience=0.2).send()
    assert outcomes[0][0] == b'Z' and b'did not answer in time' in outcomes[0][1]


def test_a_server_that_does_not_read():
    """R-16: a server that stops reading in the middle of the message is given up, temporarily."""
    def data(talk, line):
        talk.say(b'354 go')
        talk.hang()
    with Server(good(replies={b'DATA': data})) as server:
        outcomes, trouble = to(server, patience=0.3).send(message=b'x' * 79 + b'\n' * 10 ** 7)
    assert outcomes[0][0] == b'Z' and trouble


def test_a_tarpit():
    """R-23: a server that answers each step just in time does not hold a delivery longer than the cap."""
    def slow(talk, line):
        for byte in b'220 ' + b'x' * 100:
            talk.raw(bytes([byte]))
            talk.server.over.wait(0.1)
    with Server(good(replies={b'greeting': slow})) as server:
        outcomes, trouble = to(server, patience=5, cap=0.5).send()
    assert outcomes[0][0] == b'Z' and trouble and b'took too long' in outcomes[0][1]


def test_accepted_and_then_anything():
    """R-18: 250 and then RST is success."""
    def dot(talk, line):
        talk.raw(b'250 taken\r\n')
        talk.reset()
    with Server(good(replies={b'dot': dot})) as server:
        assert to(server).send()[0][0][0] == b'K'


def test_refused_early():
    """A 552 in the middle of a large message, and a close, is an answer and not a lost connection."""
    def data(talk, line):
        talk.say(b'354 go')
        talk.sock.recv(100000)
        talk.say(b'552 too long')
        talk.server.over.wait(0.1)
        talk.sock.close()
        raise OSError
    with Server(good(replies={b'DATA': data})) as server:
        outcomes, _ = to(server).send(message=b'x' * 79 + b'\n' * 10 ** 7)
    assert outcomes[0][0] == b'D' and b'552 too long' in outcomes[0][1]


def test_the_message_changes_meanwhile():
    """R-29: a message shorter than it should be is never ended with a dot."""
    with Server(good()) as server:
        outcomes, _ = to(server).send(message=b'x\n' * 1000, length=5000)
        assert outcomes[0] == (b'Z', remote_report.NO_READ)
        assert server.mail == []


def test_a_server_that_mishandles_pipelining():
    """R-30: a server that breaks off while several commands are on their way is spoken to one at a time
    afterwards."""
    def clumsy(talk):
        talk.say(b'220 hi')
        talk.line()
        talk.say(b'250-x', b'250 PIPELINING')
        talk.line()
        if talk.buffer:
            return
        talk.say(b'250 ok')
        talk.line()
        talk.say(b'250 ok')
        talk.line()
        talk.say(b'354 go')
        talk.server.mail.append(talk.message())
        talk.say(b'250 ok')
    with Server(clumsy) as server:
        sender = to(server)
        assert [sender.send()[0][0][0] for _ in range(2)] == [b'Z', b'K']


def closed_port():
    with socket.create_server(('127.0.0.1', 0)) as sock:
        return sock.getsockname()[1]


def test_nobody_there():
    """R-11: a refused connection is temporary, the destination's trouble, and named."""
    outcomes, trouble = Sender({b'': b'127.0.0.1:%d' % closed_port()}).send()
    assert outcomes[0][0] == b'Z' and trouble
    assert outcomes[0][1] == remote_report.NO_CONNECTION + b'127.0.0.1: connection refused\n'


def full_listener():
    """A listening socket whose queue is full: connecting to it times out."""
    sock = socket.socket()
    sock.bind(('127.0.0.1', 0))
    sock.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(sock.getsockname())
        fillers.append(filler)
    return sock, fillers


def test_a_black_hole():
    """R-11: an address that timed out twice is not tried again for a while, its mail is deferred at once."""
    sock, fillers = full_listener()
    sender = Sender({b'': b'127.0.0.1:%d' % sock.getsockname()[1]}, connect_patience=0.1)
    for _ in range(2):
        outcomes, trouble = sender.send()
        assert outcomes[0][1].endswith(b'127.0.0.1: connection timed out\n') and trouble
        count, last = sender.remote.dead.records[b'127.0.0.1']
        sender.remote.dead.records[b'127.0.0.1'] = count, last - 121
    assert b'not tried again yet' in sender.send()[0][0][1]
    for one in (sock, *fillers):
        one.close()


def answers(*hosts):
    return b'ok', b'\n'.join(b'%d h%d %s' % (preference, i, address) for i, (preference, address) in enumerate(hosts))


def test_the_next_address():
    """R-11, R-14, R-20: one that refuses the connection, greets badly, or says 421 is passed over for the
    next."""
    def busy(talk):
        talk.say(b'554 no mail here')
    with Server(good(), address='127.0.0.4') as server:
        port = server.port
        with Server(busy, address='127.0.0.2', port=port), Server(hostile(b'MAIL', ACTS['421']), '127.0.0.3', port):
            table = {b'x.example': answers((10, b'127.0.0.1'), (20, b'127.0.0.2'), (30, b'127.0.0.3'),
                                           (40, b'127.0.0.4'), (50, b'127.0.0.5'))}
            outcomes, trouble = Sender(table=table, port=port).send()
    assert outcomes[0][0] == b'K' and not trouble and len(server.mail) == 1


def test_no_other_address_after_the_dot():
    """R-17: once the message was sent no other server gets it too."""
    with Server(hostile(b'dot', ACTS['close']), '127.0.0.2') as first, Server(good(), '127.0.0.3', first.port) as second:
        table = {b'x.example': answers((10, b'127.0.0.2'), (20, b'127.0.0.3'))}
        outcomes, _ = Sender(table=table, port=first.port).send()
        assert outcomes[0][0] == b'Z' and second.mail == [] and second.connections == 0


def test_a_recipient_refused_before_trouble_stays_refused():
    """A 550 for one recipient counts although the connection died afterwards; the others go to the next
    server."""
    def half(talk):
        good(extensions=(b'X',), replies={b'RCPT': lambda talk, line: b'550 no' if b'a@' in line else b'421 bye'})(talk)
    with Server(half, '127.0.0.2') as first, Server(good(), '127.0.0.3', first.port) as second:
        table = {b'x.example': answers((10, b'127.0.0.2'), (20, b'127.0.0.3'))}
        outcomes, _ = Sender(table=table, port=first.port).send(recipients=[b'a@x', b'b@x'])
        assert [letter for letter, _ in outcomes] == [b'D', b'K']
        assert second.mail[0][1] == [b'b@x']


@pytest.mark.parametrize('status, lines, letter, text', [
    (b'nxdomain', b'', b'D', b"Sorry, I couldn't find any host named x.example. (#5.1.2)\n"),
    (b'nodata', b'', b'D', remote_report.NO_EXCHANGER), (b'nullmx', b'', b'D', remote_report.NULL_MX),
    (b'temp', b'', b'Z', b"Sorry, I couldn't look up x.example: because. (#4.4.3)\n"),
    (b'ok', b'junk', b'Z', b"Sorry, I couldn't look up x.example: bad line in an answer. (#4.4.3)\n"),
    (b'ok', b'', b'Z', b"Sorry, I couldn't look up x.example: an answer without an address. (#4.4.3)\n"),
    (b'ok', b'10 me 127.0.0.1\n20 other 192.0.2.1', b'D', remote_report.SELF)])
def test_what_dns_says(status, lines, letter, text):
    """R-01 to R-07: only what DNS is sure of is permanent."""
    outcomes, trouble = Sender(table={b'x.example': (status, lines)}, loopback=False).send()
    assert outcomes == [(letter, text)] and trouble == (letter == b'Z')


def test_literals_and_routes():
    """A literal host and a route to a literal need no DNS at all; a named relay is asked for by address
    only."""
    with Server(good()) as server:
        sender = Sender({b'lit.example': b'[127.0.0.1]:%d' % server.port, b'named.example': b'relay:%d' % server.port},
                        table={b'relay': (b'ok', b'0 relay 127.0.0.1')}, port=server.port)
        for host in (b'127.0.0.1', b'[127.0.0.1]', b'lit.example', b'named.example'):
            assert sender.send(host=host)[0][0][0] == b'K'
        assert sender.asked == [(b'A', b'relay')]


def test_we_talk_to_ourselves(monkeypatch):
    """R-07: an address not known to be ours shows it when connected to; D only if nothing better was tried."""
    monkeypatch.setattr(remote.mx, 'is_own', lambda address, own: False)
    with Server(good(), '127.0.0.1') as server:
        table = {b'best.example': answers((10, b'127.0.0.1'), (20, b'127.0.0.3')),
                 b'backup.example': answers((10, b'127.0.0.2'), (20, b'127.0.0.1'), (30, b'127.0.0.3'))}
        sender = Sender(table=table, port=server.port, loopback=False)
        assert sender.send(host=b'best.example')[0] == [(b'D', remote_report.SELF)]
        outcomes, trouble = sender.send(host=b'backup.example')
    assert outcomes[0][0] == b'Z' and trouble and outcomes[0][1].endswith(
        b'127.0.0.2: connection refused\n127.0.0.1: this host itself\n')


@pytest.mark.parametrize('name, line', [('locals', 'x.example'), ('virtualdomains', 'x.example:joe'),
                                        ('virtualdomains', 'x.example\n:')])
def test_what_is_ours_by_now(tmp_path, name, line):
    """R-07: a domain that was added to control/locals or control/virtualdomains is not bounced for before send has read
    that."""
    (tmp_path / 'control').mkdir()
    (tmp_path / 'control' / 'me').write_text('me.example\n')
    sender = Sender(table={b'x.example': answers((10, b'127.0.0.1'))}, loopback=False)
    sender.remote.home = bytes(tmp_path)
    assert sender.send()[0] == [(b'D', remote_report.SELF)]
    (tmp_path / 'control' / name).write_text(line + '\n')
    for answer in (answers((10, b'127.0.0.1')), (b'nxdomain', b''), (b'nodata', b''), (b'nullmx', b'')):
        sender.table[b'x.example'] = answer
        outcomes, trouble = sender.send()
        assert outcomes == [(b'Z', remote_report.NOT_READ_YET)] and trouble


def test_loopback_only_by_route():
    """R-07: mail for [127.0.0.1] would come back to us; an administrator may route to it all the same."""
    assert Sender(loopback=False).send(host=b'[127.0.0.1]')[0] == [(b'D', remote_report.SELF)]
    with Server(good()) as server:
        assert to(server, loopback=False).send()[0][0][0] == b'K'


@pytest.mark.parametrize('value', [b'relay:x', b'', b'[::1', b'nowhere.example'])
def test_a_route_that_leads_nowhere(value):
    """R-27: a broken route, or a relay that does not exist, is temporary: an administrator can mend it."""
    outcomes, _ = Sender({b'x.example': value}, table={b'x.example': (b'temp', b'')}).send()
    assert outcomes[0][0] == b'Z'


def test_addresses_that_would_end_their_command():
    """An address with CR, LF or a blank in its domain is refused by us, alone, before anything is said."""
    with Server(good()) as server:
        outcomes, _ = to(server).send(recipients=[b'a@x> SIZE=1', b'b\r\nDATA\r\n@x', b'c@x'])
        assert [letter for letter, _ in outcomes] == [b'D', b'D', b'K'] and server.mail[0][1] == [b'c@x']
        assert to(server).send(sender=b'a\nb@c')[0][0][0] == b'D'


@pytest.mark.parametrize('flags, message, recipient, extensions, letter', [
    (b'u', 'Subject: ä\n\n'.encode(), b'a@x', (b'8BITMIME',), b'D'),
    (b'u', b'Subject: a\n\nx\n', b'a@x', (b'8BITMIME',), b'K'),
    (b'', b'Subject: a\n\nx\n', 'ä@x'.encode(), (b'8BITMIME',), b'D'),
    (b'u', 'Subject: ä\n\n'.encode(), 'ä@x'.encode(), (b'8BITMIME', b'SMTPUTF8'), b'K'),
    (b'q', b'x\n', b'a@x', (b'8BITMIME',), b'Z')])
def test_internationalised_mail(flags, message, recipient, extensions, letter):
    """What needs SMTPUTF8 goes only where it is known; what merely could have needed it goes anywhere."""
    with Server(good(extensions)) as server:
        assert to(server).send(flags=flags, message=message, recipients=[recipient])[0][0][0] == letter
        assert any(b'SMTPUTF8' in line for line in server.log) == (b'SMTPUTF8' in extensions)


def test_nothing_is_left_behind():
    """P-09: after many deliveries of every kind no descriptor, timer or connection is left."""
    with Server(good()) as server, Server(hostile(b'DATA', ACTS['reset'])) as bad:
        sender = Sender({b'a': b'127.0.0.1:%d' % server.port, b'b': b'127.0.0.1:%d' % bad.port,
                         b'c': b'127.0.0.1:%d' % closed_port(), b'd': b'x:y'})
        before = len(os.listdir('/proc/self/fd'))
        for _ in range(20):
            lists = [sender.begin(host=host) for host in (b'a', b'b', b'c', b'd', b'e')]
            sender.wait(*lists)
        sender.remote.pool.close()
        assert not sender.loop.readers and not sender.loop.writers
        for talk in server.talks + bad.talks:
            talk.sock.close()
        assert len(os.listdir('/proc/self/fd')) <= before + 2


# --- one shot ------------------------------------------------------------------------------------------------

@pytest.fixture
def home(tmp_path):
    """A DIR with control files."""
    (tmp_path / 'control').mkdir()
    (tmp_path / 'control' / 'me').write_text('me.example\n')
    return tmp_path


def one_shot(home, *args, message=MESSAGE, **options):
    """Run bin/qpy-remote; (exit code, output)."""
    done = subprocess.run([sys.executable, '-IS', os.path.join(SOURCE, 'bin', 'qpy-remote'), *args], input=message,
                          stdout=subprocess.PIPE, env={'QPYHOME': str(home)}, timeout=30, **options)
    return done.returncode, done.stdout


def test_one_shot(home):
    """qpy-remote host sender recip...: qmail-remote's output, exit code 0, from a pipe and from a file's
    position."""
    with Server(good(replies={b'RCPT': lambda t, line: b'550 no' if b'bad' in line else b'250 ok'})) as server:
        (home / 'control' / 'smtproutes').write_text(':127.0.0.1:%d\n' % server.port)
        taken = b'K127.0.0.1 accepted message.\nRemote host said: 250 2.0.0 taken\n\0'
        assert one_shot(home, 'x.example', '', 'a@x.example') == (0, b'r\0' + taken)
        code, output = one_shot(home, 'x.example', 's@y', 'a@x', 'bad@x')
        assert (code, output) == (0, b'r\0h127.0.0.1 does not like recipient.\nRemote host said: 550 no\n\0' + taken)
        code, output = one_shot(home, 'x.example', 's@y', 'bad@x')
        assert output.endswith(b'\0DGiving up on 127.0.0.1.\n\0') and output.startswith(b'h127.0.0.1 does not like')
        (home / 'mess').write_bytes(b'skipped\nfrom here\n')
        with open(home / 'mess', 'rb') as file:
            os.lseek(file.fileno(), 8, os.SEEK_SET)
            subprocess.run([os.path.join(SOURCE, 'bin', 'qpy-remote'), 'x', 's@y', 'a@x'], stdin=file, check=True,
                           stdout=subprocess.DEVNULL, env={'QPYHOME': str(home)})
        assert [body for _, _, body in server.mail][-1] == b'from here\r\n'


def test_one_shot_without_anything(home):
    """R-25: bad arguments are D, no control files, no qpy-resolve and no connection are Z; the exit code is
    0."""
    assert one_shot(home, 'x', 'y') == (0, b'D' + remote_report.INVOKED + b'\0')
    code, output = one_shot(home, 'x.example', 's@y', 'a@x')
    assert code == 0 and output.startswith(b"ZSorry, I couldn't look up x.example: qpy-resolve cannot be asked")
    (home / 'control' / 'smtproutes').write_text('x.example:127.0.0.1:%d\n' % closed_port())
    assert one_shot(home, 'x.example', 's@y', 'a@x')[1].startswith(b"ZSorry, I wasn't able to establish")
    (home / 'control' / 'smtproutes').write_text('x.example:127.0.0.1:0\n')
    assert one_shot(home, 'x.example', 's@y', 'a@x', stderr=subprocess.DEVNULL) == (
        0, b'Z' + remote_report.NO_CONTROLS + b'\0')
    (home / 'control' / 'me').unlink()
    assert one_shot(home, 'x.example', 's@y', 'a@x', stderr=subprocess.DEVNULL)[1][:1] == b'Z'


def test_a_large_pipe(home):
    """A message from a pipe, of unknown length, is streamed to its end."""
    with Server(good()) as server:
        (home / 'control' / 'smtproutes').write_text(':127.0.0.1:%d\n' % server.port)
        assert one_shot(home, 'x', 's@y', 'a@x', message=b'line\n' * 10 ** 6)[1].startswith(b'r\0K')
        assert server.mail[0][2] == b'line\r\n' * 10 ** 6


def test_limits_are_what_the_manual_says():
    """R-13: 4 KB per line, 100 lines, 64 KB per reply."""
    assert (smtp_client.LINE_LIMIT, smtp_client.LINES_LIMIT, smtp_client.REPLY_LIMIT) == (4096, 100, 65536)


# --- what the sender wants to be told -----------------------------------------------------------------------

def queue_file(*recipient_options):
    """A descriptor of a queue file for r0@x.example and so on."""
    envelope = mess.Envelope(b's@y.example', [b'r%d@x.example' % i for i in range(len(recipient_options))],
                             [(b'R', b'HDRS'), (b'E', b'id+2B'), (b'X', b'trace')], recipient_options)
    return unix.memfd(mess.pack(MESSAGE, envelope.build(), b'1764000000000001'))


@pytest.mark.parametrize('extensions, mail, rcpt', [
    ((b'PIPELINING', b'DSN'), b' RET=HDRS ENVID=id+2B', [b' NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a@x', b'', b'', b' ORCPT=utf-8;jos\\x{E9}@x']),
    ((b'PIPELINING',), b'', [b'', b'', b'', b''])])
def test_wishes_are_passed_on(extensions, mail, rcpt):
    """RFC 3461, 5.2: RET, ENVID, NOTIFY and ORCPT go to a server that knows DSN, and to no other; what could not stand in a
    command is left out."""
    options = [[(b'N', b'SUCCESS,FAILURE'), (b'O', b'rfc822;a@x')], [], [(b'N', b'NEVER\r\nDATA'), (b'O', b'x' * 501)],
               [(b'O', 'utf-8;josé@x'.encode())]]
    with Server(good(extensions)) as server:
        sender, ended = to(server), []
        sender.remote.deliver(b'x.example', b's@y.example', [b'r%d@x.example' % i for i in range(4)], b'd',
                              source.Source(queue_file(*options), 0, len(MESSAGE)), ended.append)
        delivery = sender.wait(ended)[0]
        assert [letter for letter, _ in delivery.outcomes()] == [b'K'] * 4
    assert delivery.noticed == (set(range(4)) if mail else set())
    assert server.log[1] == b'MAIL FROM:<s@y.example>' + mail
    assert server.log[2:6] == [b'RCPT TO:<r%d@x.example>' % i + words for i, words in enumerate(rcpt)]


def test_by_when_it_is_wanted():
    """DELIVERBY, from the envelope: what is left of the time; and the report says that the next hop has it."""
    envelope = mess.Envelope(b's@y.example', [b'r@x.example'], [(b'D', b'%d;R' % (unix.time() + 1000))])
    for extensions, letter in (((b'DELIVERBY 10',), b'K'), ((b'X',), b'D')):
        with Server(good(extensions)) as server:
            sender, ended = to(server), []
            fd = unix.memfd(mess.pack(MESSAGE, envelope.build(), b'1764000000000001'))
            sender.remote.deliver(b'x.example', b's@y.example', [b'r@x.example'], b'b',
                                  source.Source(fd, 0, len(MESSAGE)), ended.append)
            delivery = sender.wait(ended)[0]
            assert delivery.outcomes()[0][0] == letter and delivery.timed == ({0} if letter == b'K' else set())
        if letter == b'K':
            assert server.log[1] in (b'MAIL FROM:<s@y.example> BY=%d;R' % left for left in range(990, 1001))
        else:
            assert not server.mail and b'#5.4.7' in delivery.outcomes()[0][1]


def test_a_server_with_limits():
    """RFC 9422: one recipient at a time, two messages on a connection: five get it in one delivery, on three connections."""
    with Server(good((b'PIPELINING', b'LIMITS RCPTMAX=1 MAILMAX=2'))) as server:
        sender = to(server)
        outcomes, trouble = sender.send(recipients=[b'r%d@x.example' % i for i in range(5)])
        assert [letter for letter, _ in outcomes] == [b'K'] * 5 and not trouble
        assert [mail[1] for mail in server.mail] == [[b'r%d@x.example' % i] for i in range(5)]
        assert server.connections == 3 and sender.send()[0][0][0] == b'K' and server.connections == 3


def test_a_delivery_matters_more_than_wishes():
    """A file without an envelope that can be read is delivered all the same."""
    with Server(good((b'DSN',))) as server:
        assert to(server).send(flags=b'd')[0][0][0] == b'K' and len(server.mail) == 1
