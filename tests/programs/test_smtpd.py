"""qpy-smtpd as a process, one shot and warm: what it takes, hands on, refuses, and survives."""
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from qpy import unix
from qpy.lib import program
from qpy.lib.loop import Loop
from qpy.qpyd import etrn_line, server, settings
from tests.peers.smtp_rig import PYTHON, SOURCE, Rig

ENVELOPE = b'MAIL FROM:<ann@example.org>\r\nRCPT TO:<joe@mx.example.com>\r\nDATA\r\n'


@pytest.fixture
def make():
    rigs = []

    def build(**more):
        rigs.append(Rig(**more))
        return rigs[-1]
    yield build
    for rig in rigs:
        rig.stop()


@pytest.fixture(params=['one shot', 'warm'])
def either(request, make):
    """A function that makes a rig and a client of it, for both faces of the program."""
    def build(**more):
        rig = make(**more)
        client = rig.one_shot() if request.param == 'one shot' else rig.warm().connect()
        assert client.reply() == b'220 mx.example.com ESMTP'
        return rig, client
    return build


def wait_until(fact, patience=20):
    """Until something outside of our reach has happened."""
    give_up = time.monotonic() + patience
    while not fact():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_a_message(either):
    """A pipelined message reaches the queue with its Received line and envelope; the last reply names time
    and pid."""
    rig, client = either()
    client.send(b'EHLO client.example\r\n' + ENVELOPE)
    assert [client.reply()[:3] for _ in range(4)] == [b'250', b'250', b'250', b'354']
    words = client.say(b'Subject: x\r\n\r\n..dot\r\n.').split(b' ')
    assert words[:3] == [b'250', b'2.0.0', b'ok'] and words[4] == b'qp'
    assert abs(int(words[3]) - time.time()) < 100
    assert client.say(b'QUIT') == b'221 2.0.0 mx.example.com' and client.line() == b''
    (body, envelope), = rig.queued.messages
    head, _, rest = body.partition(b'; ')
    assert head.startswith(b'Received: from unknown (HELO client.example) (') and head.endswith(b'with ESMTP')
    assert rest.partition(b'\n')[2] == b'Subject: x\n\n.dot\n'
    assert envelope.sender == b'ann@example.org' and envelope.recipients == [b'joe@mx.example.com']
    options = dict(envelope.options)
    assert options[b'P'] == b'ESMTP' and options[b'H'] == b'client.example'
    wait_until(lambda: 'qpy-smtpd: accepted ip ' in rig.log())
    assert ' from <ann@example.org> to 1 bytes ' in rig.log()


class FakeSend(threading.Thread):
    """Answers each request on run/control with the same bytes; asked: the requests."""

    def __init__(self, home, answer):
        super().__init__(daemon=True)
        self.socket, self.answer, self.asked = socket.socket(socket.AF_UNIX), answer, []
        self.socket.bind(os.path.join(home, 'run/control'))
        self.socket.listen(5)
        self.start()

    def run(self):
        while True:
            try:
                client = self.socket.accept()[0]
            except OSError:
                return
            with client:
                try:
                    self.asked.append(client.recv(1000))
                    client.sendall(self.answer)
                except OSError:         # it asks no more
                    pass


@pytest.mark.parametrize('answer, code, log', [
    (b'3\0.\0', b'253 2.0.0 ok, 3 pending messages for node branch.example started', ' helo -: branch.example, 3 messages'),
    (b'0\0.\0', b'251 2.0.0', 'refused etrn ip'),
    (b'later 7\0.\0', b'458 4.3.0 unable to queue messages for node branch.example: asked for '
     b'a moment ago; again in 7 seconds', 'refused etrn ip'),
    (b'', b'458 4.3.0', 'refused etrn'), (b'3', b'458 4.3.0', 'refused etrn'), (b'x\0.\0', b'458 4.3.0', 'refused etrn'),
    (b'3\0' * 1000 + b'.\0', b'458 4.3.0', 'refused etrn'), (b'!\x1b[31m\0', b'458 4.3.0', 'refused etrn'),
    (None, b'458 4.3.0 unable to queue messages for node branch.example: the queue cannot be asked now', 'refused etrn')])
def test_etrn(either, answer, code, log):
    """qpy-send is asked for a domain of control/etrn, and says what comes of it; whatever it says, the session goes on."""
    rig, client = either(etrn='branch.example\n', tcp_smtp=':allow,RELAYCLIENT=""\n')
    other = FakeSend(rig.home, answer) if answer is not None else None
    assert client.say(b'ETRN branch.example').startswith(code)
    assert client.say(b'NOOP')[:3] == b'250' and client.say(b'ETRN elsewhere.example')[:3] == b'459'
    wait_until(lambda: log in rig.log())
    if other is not None:
        assert other.asked == [b'etrn branch.example\0']
        other.socket.close()


@pytest.mark.parametrize('name', ['socket_unix', 'connect_beneath', 'peercred', 'write', 'read', None])
def test_etrn_where_a_call_fails(make, monkeypatch, name):
    """Whatever fails on the way to qpy-send and back, there is one answer, and nothing is left open."""
    rig, said, loop = make(etrn='branch.example\n'), [], Loop()
    other = FakeSend(rig.home, b'3\0.\0')
    before = len(os.listdir('/proc/self/fd'))
    if name:
        def fails(*_):
            raise OSError(5, 'injected')
        monkeypatch.setattr(unix, name, fails)
    etrn_line.ask(loop, os.fsencode(rig.home), b'branch.example', lambda *answer: said.append(answer))
    while not said:
        loop.step(1)
    assert said == [(None, etrn_line.ABSENT) if name else (3, b'')]
    monkeypatch.undo()
    wait_until(lambda: len(os.listdir('/proc/self/fd')) <= before)
    other.socket.close()


def test_recipients_are_looked_up(either):
    """G: no is 550 5.1.1, temp is 451, unknown and yes are accepted; each refusal is one line of the log."""
    rig, client = either()
    client.say(b'MAIL FROM:<ann@example.org>')
    for local, code in [(b'no', b'550 5.1.1'), (b'temp', b'451 4.3.0'), (b'unknown', b'250 2.1.5'),
            (b'joe', b'250 2.1.5')]:
        assert client.say(b'RCPT TO:<%s@mx.example.com>' % local).startswith(code)
    wait_until(lambda: rig.log().count('refused rcpt ip ') == 2)
    assert 'from <ann@example.org> to <no@mx.example.com>: 550 5.1.1 sorry, no mailbox' in rig.log()


def test_recipients_are_not_looked_up_where_that_is_switched_off(either):
    """checkrecipients: no: every recipient of ours is taken and nobody is asked; foreign ones and validrcptto count."""
    rig, client = either(checkrecipients='no\n', validrcptto='no@mx.example.com\ntemp@mx.example.com\n')
    client.say(b'MAIL FROM:<ann@example.org>')
    for address, code in [(b'no@mx.example.com', b'250'), (b'temp@mx.example.com', b'250'), (b'x@mx.example.com', b'550'),
                          (b'no@far.example', b'553')]:
        assert client.say(b'RCPT TO:<%s>' % address).startswith(code)
    assert rig.users.asked == []


def test_no_users_daemon(either):
    """Without qpy-users, recipients in our domains are accepted, and others are not."""
    rig, client = either(users=False)
    client.say(b'MAIL FROM:<>')
    assert client.say(b'RCPT TO:<no@mx.example.com>')[:3] == b'250'
    assert client.say(b'RCPT TO:<no@elsewhere.example>')[:3] == b'553'


def test_no_queue(either):
    """Without qpy-queued DATA is answered 451, and the session goes on."""
    rig, client = either(queue=False)
    client.send(ENVELOPE)
    assert [client.reply()[:3] for _ in range(3)] == [b'250', b'250', b'451']
    assert client.say(b'NOOP')[:3] == b'250'


@pytest.mark.parametrize('answer, reply', [((53, None), b'451 4.3.0 qq write error or disk full'),
                                           ((31, b'not today (#5.7.1)'), b'554 5.7.1 not today')])
def test_queue_says_no(either, answer, reply):
    """What queued answers is said to the client with its enhanced code, and the next message is served."""
    rig, client = either()
    rig.queued.answer = answer
    client.send(ENVELOPE)
    for _ in range(3):
        client.reply()
    assert client.say(b'x\r\n.') == reply
    rig.queued.answer = None
    client.send(ENVELOPE)
    for _ in range(3):
        client.reply()
    assert client.say(b'x\r\n.')[:3] == b'250'


def test_queue_goes_away(either):
    """queued dies between two messages, and with a message in hand: 451 each time, never 250, never
    silence."""
    rig, client = either()
    client.send(ENVELOPE)
    assert [client.reply()[:3] for _ in range(3)][2] == b'354'
    rig.queued.answer = 'die'
    client.send(b'x\r\n.\r\n')
    assert client.reply()[:3] == b'451'
    client.send(ENVELOPE)
    assert [client.reply()[:3] for _ in range(3)][2] == b'451'
    assert not rig.queued.messages


def test_bare_lf_closes(either):
    """G-02: 550 at once, then the connection ends, though the client sends on; nothing is queued."""
    rig, client = either()
    client.send(ENVELOPE)
    for _ in range(3):
        client.reply()
    client.send(b'x\n.\r\nMAIL FROM:<evil@x>\r\n' + b'y' * 200000)
    assert client.reply().startswith(b'550 5.5.2 bare LF') and client.line() == b''
    assert not rig.queued.messages


def test_client_leaves_in_the_middle(either):
    """G-11: a client that goes before the end of the text leaves nothing in the queue, whether short or
    long."""
    for size in (100, 1000000):
        rig, client = either()
        client.send(ENVELOPE)
        for _ in range(3):
            client.reply()
        client.send(b'x' * size)
        client.close()
        other = rig.connect() if hasattr(rig, 'address') else rig.one_shot()
        other.reply()
        other.send(ENVELOPE + b'second\r\n.\r\n')
        assert [other.reply()[:3] for _ in range(4)][3] == b'250'
        assert [body.endswith(b'\nsecond\n') for body, _ in rig.queued.messages] == [True]


def test_half_close(either):
    """G-38: a client that shuts its side down after the text still gets its answer, and the message is
    kept."""
    rig, client = either()
    client.send(ENVELOPE + b'x\r\n.\r\n')
    client.sock.shutdown(socket.SHUT_WR)
    assert [client.reply()[:3] for _ in range(4)] == [b'250', b'250', b'354', b'250'] and client.line() == b''
    assert len(rig.queued.messages) == 1


def test_long_message_is_streamed(either):
    """A message of 20 MB arrives whole and unchanged, and smtpd's memory does not grow with it."""
    rig, client = either()
    client.send(ENVELOPE)
    for _ in range(3):
        client.reply()
    block = (b'0123456789' * 7 + b'\r\n') * 1000
    for _ in range(280):
        client.send(block)
    assert client.say(b'.')[:3] == b'250'
    body = rig.queued.messages[0][0]
    assert body.partition(b'-0000\n')[2] == block.replace(b'\r\n', b'\n') * 280
    for pid in descendants(rig.processes[0].pid):
        assert peak_memory(pid) < 60 << 20


def descendants(pid):
    """pid and its children."""
    with open('/proc/%d/task/%d/children' % (pid, pid)) as file:
        return [pid] + [child for word in file.read().split() for child in descendants(int(word))]


def peak_memory(pid):
    """Bytes of VmHWM."""
    with open('/proc/%d/status' % pid) as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith('VmHWM'))


def test_exit_codes(make):
    """One shot: 0 after QUIT, 1 without, 111 with 421 when the controls cannot be read, 100 for bad usage."""
    rig = make()
    client = rig.one_shot()
    client.reply()
    client.say(b'QUIT')
    assert rig.processes[-1].wait(20) == 0
    client = rig.one_shot()
    client.reply()
    client.close()
    assert rig.processes[-1].wait(20) == 1
    rig.write('databytes', 'many\n')
    client = rig.one_shot()
    assert client.reply() == b'421 4.3.0 unable to read controls'
    assert rig.processes[-1].wait(20) == 111
    assert 'qpy-smtpd: fatal: unable to use control/databytes, line 1, "many": not a number' in rig.log()


def test_a_soft_limit_of_thirty_megabytes(make):
    """Under tcpserver behind softlimit, as qmail's run scripts have it, 30 MB of address space are enough for a message."""
    rig = make(me='here.example\n')
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(['prlimit', '--as=30000000', *PYTHON, SOURCE + '/bin/qpy-smtpd'], stdin=theirs, stdout=theirs,
                               env=rig.environment({'RELAYCLIENT': ''}))
    theirs.close()
    with ours, ours.makefile('rwb') as talk:
        for line in (b'', b'HELO x', b'MAIL FROM:<a@x.y>', b'RCPT TO:<b@x.y>', b'DATA', b'Subject: x\r\n\r\n' + b'x' * 70 + b'\r\n.', b'QUIT'):
            if line:
                talk.write(line + b'\r\n')
                talk.flush()
            assert talk.readline()[:1] in b'23'
    assert process.wait(20) == 0 and len(rig.queued.messages) == 1



@pytest.mark.parametrize('through', ['file', 'pipe'])
def test_descriptors_that_are_no_sockets(make, through):
    """Commands from a regular file or a pipe, replies into a pipe; LF line ends only with QPYLOCALBS
    (sendmail -bs)."""
    rig = make()
    path = os.path.join(rig.home, 'input')
    with open(path, 'wb') as file:
        file.write(b'MAIL FROM:<ann@x.y>\nRCPT TO:<joe@elsewhere.example>\nDATA\nSubject: x\n\n..\n.\nQUIT\n')
    env = rig.environment({'QPYLOCALBS': '1', 'PROTO': 'TCP', 'RELAYCLIENT': '', 'TCPREMOTEIP': '127.0.0.1',
        'DATABYTES': '0',
                           'TCPREMOTEINFO': 'sendmail-bs', 'TCPREMOTEHOST': 'localhost',
                           'TCPLOCALHOST': 'localhost'})
    with open(path, 'rb') as file:
        source = subprocess.PIPE if through == 'pipe' else file
        done = subprocess.run(PYTHON + [SOURCE + '/bin/qpy-smtpd'], stdin=file if through == 'file' else None,
                              input=None if through == 'file' else file.read(), capture_output=True,
                              env=env, timeout=30) \
            if source else None
    assert [line[:3] for line in done.stdout.split(b'\r\n')] == [b'220', b'250', b'250', b'354', b'250',
        b'221', b'']
    assert done.returncode == 0 and done.stderr == b''      # mutt and cron would show it
    body, envelope = rig.queued.messages[0]
    assert body.startswith(b'Received: from localhost (sendmail-bs@127.0.0.1)\n  by localhost with SMTP; ')
    assert body.endswith(b'\nSubject: x\n\n.\n') and envelope.recipients == [b'joe@elsewhere.example']


def test_environment_of_tcpserver(make):
    """PROTO set: TCP* variables are believed, RELAYCLIENT is appended, DATABYTES counts, tcp.smtp is not
    asked."""
    rig = make(tcp_smtp=':deny\n', databytes='5\n')
    client = rig.one_shot(PROTO='TCP', TCPREMOTEIP='::ffff:192.0.2.9', TCPREMOTEHOST='Evil_host\n',
        RELAYCLIENT='.relay', DATABYTES='100')
    client.reply()
    client.send(b'EHLO x\r\n')
    assert [client.line() for _ in range(11)][2] == b'250-SIZE 100'
    client.send(b'MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n0123456789\r\n.\r\n')
    assert [client.reply()[:3] for _ in range(4)][3] == b'250'
    body, envelope = rig.queued.messages[0]
    assert envelope.recipients == [b'a@b.example.relay']
    assert body.startswith(b'Received: from Evil?host? (HELO x) (192.0.2.9)\n')
    assert dict(envelope.options)[b'C'] == b'192.0.2.9'


def test_systemd_accept(make):
    """REMOTE_ADDR of systemd's Accept=yes: our own rules of tcp.smtp apply to it."""
    rig = make(tcp_smtp='192.0.2.:allow,RELAYCLIENT=""\n:deny\n')
    client = rig.one_shot(REMOTE_ADDR='192.0.2.77', REMOTE_PORT='1')
    client.reply()
    client.say(b'MAIL FROM:<>')
    assert client.say(b'RCPT TO:<a@anywhere.example>')[:3] == b'250'
    assert rig.one_shot(REMOTE_ADDR='198.51.100.1').reply()[:3] == b'554'


def test_rules_and_edits_act_at_the_next_connection(make):
    """A-08: an edited control file acts at the next connection; a broken one is said, and the old one
    stays."""
    rig = make(tcp_smtp=':deny\n').warm(workers=1)      # "the old one" is what this worker had
    assert rig.connect().reply()[:3] == b'554'
    rig.write('tcp.smtp', '127.:allow,RELAYCLIENT="",DATABYTES="77"\n')
    client = rig.connect()
    client.reply()
    client.send(b'EHLO x\r\n')
    assert [client.line() for _ in range(5)][2] == b'250-SIZE 77'
    client.send(b'MAIL FROM:<>\r\nRCPT TO:<a@anywhere.example>\r\n')
    assert [client.reply()[:3] for _ in range(2)] == [b'250', b'250']
    rig.write('tcp.smtp', '127.:perhaps\n')
    rig.write('smtpgreeting', 'new.example.com\n')
    assert rig.connect().reply() == b'220 mx.example.com ESMTP'
    wait_until(lambda: 'keeping the old settings: control/tcp.smtp, line 1' in rig.log())
    rig.write('tcp.smtp', '127.:allow\n')
    assert rig.connect().reply() == b'220 new.example.com ESMTP'


def test_limits_of_connections(make):
    """D-01, D-02: above concurrencyaddress and concurrencyincoming clients get 421, over all workers; places
    are freed."""
    rig = make(concurrencyaddress='3\n', concurrencyincoming='5\n').warm(workers=2)
    here = [rig.connect() for _ in range(3)]
    assert [client.reply()[:3] for client in here] == [b'220'] * 3
    assert rig.connect().reply().startswith(b'421 4.7.0')
    others = [rig.connect(source=('127.0.0.2', 0)) for _ in range(2)]
    assert [client.reply()[:3] for client in others] == [b'220'] * 2
    assert rig.connect(source=('127.0.0.3', 0)).reply().startswith(b'421 4.3.2')
    here[0].say(b'QUIT')
    assert here[0].line() == b''
    wait_until(lambda: rig.connect(source=('127.0.0.3', 0)).reply()[:3] == b'220')
    assert 'refused connection ip 127.0.0.1: 421 4.7.0' in rig.log()


def test_relay_clients_have_no_limit_of_their_own(make):
    """concurrencyaddress does not count for clients with RELAYCLIENT; concurrencyincoming does."""
    rig = make(concurrencyaddress='2\n', concurrencyincoming='4\n', tcp_smtp='127.0.0.1:allow,RELAYCLIENT=""\n').warm()
    clients = [rig.connect() for _ in range(4)]
    assert [client.reply()[:3] for client in clients] == [b'220'] * 4
    assert rig.connect().reply().startswith(b'421 4.3.2')


def test_a_flood_of_connections_is_no_flood_of_lines(make):
    """D-10: of many refusals of one address one is logged at once; the others are counted later."""
    rig = make(tcp_smtp='127.0.0.1:deny\n').warm(workers=1)
    assert {rig.connect().reply()[:3] for _ in range(50)} == {b'554'}
    assert rig.connect(source=('127.0.0.2', 0)).reply()[:3] == b'220'
    assert rig.log().count('refused connection ip 127.0.0.1: 554') == 1


def test_lost_lines_are_told(monkeypatch):
    """D-10: lines that a full log would not take are counted, and told as soon as it takes something, also if no
    client comes any more."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    monkeypatch.setattr(program.unix, 'write', lambda fd, data: os.write(write if fd == 2 else fd, data))
    monkeypatch.setattr(program, 'name', b'qpy-smtpd')
    monkeypatch.setattr(program, 'lost', 0)
    monkeypatch.setattr(server, 'TELL_LOST', 0.01)
    loop = Loop()
    one = server.Server(b'/nonexistent', loop, None, environ={})
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write, bytes(4096))
    for words in (b'one', b'two', b'three'):
        one.log(words)
    loop.step(0)
    assert program.lost == 3 and one.telling
    loop.step(1)
    assert program.lost == 3 and one.telling
    os.read(read, 1 << 20)
    while program.lost:
        loop.step(1)
    assert os.read(read, 65536) == b'qpy-smtpd: warning: 3 log lines were lost\n' and not one.telling
    program.lost = 2
    program.log(b'qpy-smtpd: four')
    assert os.read(read, 65536) == b'qpy-smtpd: warning: 2 log lines were lost\nqpy-smtpd: four\n'
    for fd in (read, write):
        os.close(fd)


def test_slow_message_stalls_nobody(make):
    """While queued takes nothing of a long message, the client is not read any further, and others are
    served."""
    rig = make().warm(workers=1)
    client = rig.connect()
    client.reply()
    client.send(ENVELOPE)
    for _ in range(3):
        client.reply()
    rig.queued.hold.clear()
    client.sock.setblocking(False)
    sent, block = 0, b'x' * 65534 + b'\r\n'
    give_up = time.monotonic() + 10
    quiet = 0
    while time.monotonic() < give_up and quiet < 30:
        try:
            sent += client.sock.send(block)
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.01)
    assert sent < 30 << 20
    other = rig.connect()
    assert other.reply()[:3] == b'220' and other.say(b'NOOP')[:3] == b'250'
    for pid in descendants(rig.server.pid):
        assert peak_memory(pid) < 60 << 20
    rig.queued.hold.set()
    client.sock.settimeout(20)
    client.send(b'\r\n' * 2 + b'.\r\n')
    assert client.reply()[:3] == b'250'


def test_many_clients_share_connections(make):
    """200 clients, one message each: all queued, over few connections to queued."""
    rig = make(concurrencyaddress='0\n').warm(workers=2)
    clients = [rig.connect() for _ in range(200)]
    for client in clients:
        client.send(b'EHLO x\r\n' + ENVELOPE + b'hello\r\n.\r\nQUIT\r\n')
    for client in clients:
        assert [client.reply()[:3] for _ in range(7)] == [b'220', b'250', b'250', b'250', b'354', b'250',
            b'221']
    assert len(rig.queued.messages) == 200 and len(rig.queued.connections) <= 2


def test_timeouts(make):
    """G-37: an idle client, and one that sends a byte at a time without ever ending its line, get 421 and the
    end."""
    rig = make(timeoutsmtpd='1\n').warm()
    idle, dripping = rig.connect(), rig.connect()
    for client in (idle, dripping):
        client.reply()
    for _ in range(30):
        if not dripping.quiet(0.1):
            break
        dripping.send(b'N')
    assert dripping.reply() == b'421 4.4.2 timeout'
    assert idle.reply() == b'421 4.4.2 timeout' and idle.line() == b''
    wait_until(lambda: rig.log().count('421 4.4.2 timeout') == 2)


def test_session_limit(make):
    """G-37: a session ends after timeoutsession, however busy it is."""
    rig = make(timeoutsession='1\n')
    client = rig.one_shot()
    client.reply()
    reply = b'250'
    while reply[:3] == b'250':
        reply = client.say(b'NOOP')
        time.sleep(0.02)
    assert reply.startswith(b'421 4.4.2 this session')


def test_no_session_limit(make):
    """timeoutsession 0: a session may last for ever, and nobody is warned of the 0."""
    rig = make(timeoutsession='0\n')
    assert settings.Settings(os.fsencode(rig.home)).session == float('inf')
    client = rig.one_shot()
    client.reply()
    assert client.say(b'NOOP')[:3] == b'250' and client.say(b'QUIT')[:3] == b'221' and 'timeoutsession' not in rig.log()


def test_worker_dies(make):
    """A worker that is killed is replaced, and its clients' places are free again; no client waits for
    ever."""
    rig = make(concurrencyaddress='2\n').warm(workers=1)
    clients = [rig.connect(), rig.connect()]
    for client in clients:
        client.reply()
    worker = descendants(rig.server.pid)[1]
    os.kill(worker, signal.SIGKILL)
    assert clients[0].line() == b''
    assert rig.connect().reply()[:3] == b'220'


def test_the_chain_ends(make):
    """When the life pipe closes, clients at rest hear 421, and master and workers leave."""
    rig = make().warm()
    client = rig.connect()
    client.reply()
    pids = descendants(rig.server.pid)
    os.close(rig.life)
    rig.life = os.open('/dev/null', os.O_RDONLY)
    assert client.reply()[:3] == b'421'
    assert rig.server.wait(20) == 0
    wait_until(lambda: not any(os.path.exists('/proc/%d' % pid) for pid in pids))


@pytest.mark.parametrize('answered', [True, False])
def test_the_chain_ends_while_a_message_has_no_answer_yet(make, answered):
    """Its client hears of it before the 421, so that he does not send again what was taken; nobody waits for ever."""
    rig = make().warm(workers=1)
    rig.queued.hold.clear()
    idle, client = rig.connect(), rig.connect()
    assert [idle.reply()[:3], client.reply()[:3]] == [b'220', b'220']
    for line in (b'HELO x', b'MAIL FROM:<a@x.example>', b'RCPT TO:<joe@mx.example.com>', b'DATA'):
        assert client.say(line)[:1] in b'23'
    client.send(b'Subject: x\r\n\r\n.\r\n')
    wait_until(lambda: rig.queued.connections)
    rig.queued.connections[0].recv(1, socket.MSG_PEEK)          # it has come
    os.close(rig.life)
    rig.life = os.open('/dev/null', os.O_RDONLY)
    assert idle.reply()[:3] == b'421' and rig.server.poll() is None
    if answered:
        rig.queued.hold.set()
        assert [client.reply()[:3], client.reply()[:3]] == [b'250', b'421']
    assert rig.server.wait(20) == 0
    rig.queued.hold.set()
    assert client.line() == b''


FILTER = '''#!/bin/sh
cat > {home}/message; tr '\\0' '\\n' < /dev/fd/1 > {home}/envelope
{{ env; }} > {home}/environment
[ -s {home}/envelope ] && grep -q '^$' {home}/envelope || exit 54
echo {say} >&6
exit {code}
'''


def filtered(rig, code=0, say=''):
    path = os.path.join(rig.home, 'filter')
    with open(path, 'w') as file:
        file.write(FILTER.format(home=rig.home, code=code, say=say))
    os.chmod(path, 0o755)
    return path


@pytest.mark.parametrize('variable, whole', [('QMAILQUEUE', False), ('QPYQUEUE', True)])
@pytest.mark.parametrize('face', ['one shot', 'warm'])
def test_filter(make, variable, whole, face):
    """QMAILQUEUE gets sender and recipients, QPYQUEUE all records; both the message; exit 0 is 250."""
    rig = make()
    path = filtered(rig)
    if face == 'warm':
        rig.write('tcp.smtp', '127.:allow,%s="%s"\n' % (variable, path))
        client = rig.warm().connect()
    else:
        client = rig.one_shot(**{variable: path, 'PROTO': 'TCP', 'TCPREMOTEIP': '192.0.2.1'})
    client.reply()
    client.send(b'EHLO x\r\n' + ENVELOPE + b'hello\r\n.\r\nQUIT\r\n')
    assert [client.reply()[:3] for _ in range(6)] == [b'250', b'250', b'250', b'354', b'250', b'221']
    with open(os.path.join(rig.home, 'message'), 'rb') as file:
        assert file.read().endswith(b'\nhello\n')
    with open(os.path.join(rig.home, 'envelope'), 'rb') as file:
        records = file.read().split(b'\n')
    assert records[0] == b'Fann@example.org' and b'Tjoe@mx.example.com' in records and records[-2:] == [b'',
        b'']
    assert (b'PESMTP' in records) == whole
    with open(os.path.join(rig.home, 'environment'), 'rb') as file:
        assert b'TCPREMOTEIP=' in file.read()
    assert not rig.queued.messages


@pytest.mark.parametrize('face', ['one shot', 'warm'])
def test_a_filter_in_the_place_of_qmail_queue(make, face):
    """What was put in the place of bin/qmail-queue is a QMAILQUEUE for every client."""
    rig = make()
    os.mkdir(rig.home + '/bin')
    os.rename(filtered(rig), rig.home + '/bin/qmail-queue')
    client = rig.warm().connect() if face == 'warm' else rig.one_shot(PROTO='TCP', TCPREMOTEIP='192.0.2.1')
    client.reply()
    client.send(b'EHLO x\r\n' + ENVELOPE + b'hello\r\n.\r\nQUIT\r\n')
    assert [client.reply()[:3] for _ in range(6)] == [b'250', b'250', b'250', b'354', b'250', b'221']
    with open(os.path.join(rig.home, 'message'), 'rb') as file:
        assert file.read().endswith(b'\nhello\n')
    assert not rig.queued.messages


@pytest.mark.parametrize('code, say, reply', [(31, '', b'554 5.3.0 mail server permanently rejected message'),
                                              (82, 'Dno spam (#5.7.1)', b'554 5.7.1 no spam'),
                                              (1, '', b'451 4.3.0'),
                                              (71, '', b'451 4.3.0 '),
                                              (77, '', b'451 4.3.0 qq temporary problem')])
def test_filter_refuses(make, code, say, reply):
    """A filter's exit codes mean what qmail-queue's do; its own words on descriptor 6 are said for 82."""
    rig = make()
    rig.write('tcp.smtp', '127.:allow,QMAILQUEUE="%s"\n' % filtered(rig, code, "'%s'" % say))
    client = rig.warm().connect()
    client.reply()
    client.send(ENVELOPE + b'x' * 300000 + b'\r\n.\r\n')
    assert [client.reply() for _ in range(4)][3].startswith(reply)


def test_filter_sees_an_abort(make):
    """A client that leaves in the middle: the filter's envelope ends without its last NUL."""
    rig = make()
    rig.write('tcp.smtp', '127.:allow,QMAILQUEUE="%s"\n' % filtered(rig))
    client = rig.warm().connect()
    client.reply()
    client.send(ENVELOPE)
    for _ in range(3):
        client.reply()
    client.send(b'x' * 300000)
    wait_until(lambda: os.path.exists(rig.home + '/message'))
    client.close()
    wait_until(lambda: os.path.exists(rig.home + '/envelope'))
    assert open(rig.home + '/envelope', 'rb').read() == b''


def test_filter_is_missing(make):
    """A filter that cannot be executed is 451, as in qmail."""
    rig = make(tcp_smtp='127.:allow,QMAILQUEUE="/nowhere/at/all"\n').warm()
    client = rig.connect()
    client.reply()
    client.send(ENVELOPE + b'x\r\n.\r\n')
    assert [client.reply() for _ in range(4)][3] == b'451 4.3.0 unable to exec qq'


def test_garbage_gets_no_traceback(either):
    """F: bytes of any kind get SMTP replies and nothing else; the log stays one line per thing."""
    rig, client = either()
    client.send(os.urandom(5000) + b'\r\n' + b'\0' * 100 + b'\r\n')
    client.send(b'PROXY TCP4 1.2.3.4 1.2.3.4 1 25\r\nQUIT\r\n')
    lines = []
    while True:
        line = client.line()
        if not line:
            break
        lines.append(line)
    assert lines and all(line[:3].isdigit() for line in lines)
    assert 'Traceback' not in rig.log() and all(line.startswith('qpy-smtpd: ')
        for line in rig.log().splitlines())


@pytest.mark.skipif(not os.path.exists('/usr/bin/tcpserver'), reason='needs ucspi-tcp')
def test_under_tcpserver(make):
    """The classical way: tcpserver with rules, a client of the standard library."""
    import smtplib
    rig = make()
    rules = os.path.join(rig.home, 'rules.cdb')
    subprocess.run(['tcprules', rules, rules + '.tmp'], input=b'127.:allow,RELAYCLIENT=""\n', check=True)
    with socket.create_server(('127.0.0.1', 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(['tcpserver', '-RHl0', '-x', rules, '127.0.0.1', str(port), *PYTHON,
        SOURCE + '/bin/qpy-smtpd'],
                              stderr=rig.log_file, env=rig.environment({}))
    rig.processes.append(server)

    def there():
        try:
            socket.create_connection(('127.0.0.1', port)).close()
            return True
        except OSError:
            return False
    wait_until(there)
    with smtplib.SMTP('127.0.0.1', port, timeout=20) as client:
        client.sendmail('ann@example.org', ['a@anywhere.example', 'b@anywhere.example'],
            'Subject: x\n\nhello\n')
    assert rig.queued.messages[0][1].recipients == [b'a@anywhere.example', b'b@anywhere.example']


@pytest.mark.skipif(os.geteuid() == 0, reason='all of /proc is root\'s then anyway')
def test_workers_cannot_be_traced(make):
    """P07: master, workers and runners are not dumpable: another process of the account cannot look into them."""
    rig = make().warm()
    rig.connect().reply()
    owners = {os.stat('/proc/%d/environ' % pid).st_uid for pid in descendants(rig.server.pid)}
    assert owners == {0}


@pytest.mark.slow
def test_silent_users_daemon(make):
    """A qpy-users that does not answer delays a recipient, and others not at all; then he is accepted."""
    rig = make().warm(workers=1)
    slow, other = rig.connect(), rig.connect()
    for client in (slow, other):
        client.reply()
    slow.send(b'MAIL FROM:<>\r\nRCPT TO:<silent@mx.example.com>\r\n')
    assert slow.reply()[:3] == b'250' and slow.quiet()
    assert other.say(b'MAIL FROM:<>')[:3] == b'250'
    assert other.say(b'RCPT TO:<joe@mx.example.com>')[:3] == b'250'
    assert slow.reply()[:3] == b'250'


def test_what_a_client_wishes_reaches_the_queue(either):
    """RFC 3461, 6531, 2852: RET, ENVID, SMTPUTF8, BY, NOTIFY and ORCPT are records of the envelope, each at its recipient."""
    rig, client = either()
    client.say(b'EHLO c')
    assert client.say('MAIL FROM:<ä@x.example> SMTPUTF8 RET=HDRS ENVID=QQ BY=3600;N'.encode())[:3] == b'250'
    for line in ('RCPT TO:<jörg@mx.example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;joe@x', 'RCPT TO:<ann@mx.example.com>'):
        assert client.say(line.encode())[:3] == b'250'
    client.send(b'BDAT 12\r\nSubject: x\r\nBDAT 6 LAST\r\n\r\n.x\r\n')
    assert [client.reply()[:3], client.reply()[:3]] == [b'250', b'250']
    (body, envelope), = rig.queued.messages
    assert body.endswith(b' with UTF8SMTP; ' + body.partition(b' with UTF8SMTP; ')[2]) and body.endswith(b'\nSubject: x\n\n.x\n')
    assert envelope.sender == 'ä@x.example'.encode() and envelope.recipients[0] == 'jörg@mx.example.com'.encode()
    options = dict(envelope.options)
    assert options[b'U'] == b'' and options[b'R'] == b'HDRS' and options[b'E'] == b'QQ' and options[b'D'].endswith(b';N')
    assert abs(int(options[b'D'][:-2]) - time.time() - 3600) < 100
    assert list(map(list, envelope.recipient_options)) == [[(b'N', b'SUCCESS,FAILURE'), (b'O', b'rfc822;joe@x')], []]


def test_a_long_message_in_chunks(either):
    """CHUNKING: three megabytes in a hundred chunks, and then RSET in the middle of another: the first alone is queued."""
    rig, client = either()
    client.send(b'EHLO c\r\n' + ENVELOPE.replace(b'DATA\r\n', b''))
    chunk = b'0123456789abcdef\r\n' * 1700
    for number in range(100):
        client.send(b'BDAT %d%s\r\n' % (len(chunk), b' LAST' * (number == 99)) + chunk)
    assert {client.reply()[:3] for _ in range(103)} == {b'250'}
    client.send(ENVELOPE.replace(b'DATA\r\n', b'') + b'BDAT 100000\r\n' + chunk[:99999] + b'x' * (100000 - len(chunk[:99999])))
    assert {client.reply()[:3] for _ in range(3)} == {b'250'}
    assert client.say(b'RSET')[:3] == b'250' and client.say(b'BDAT 0 LAST')[:3] == b'503'
    (body, _), = rig.queued.messages
    assert body.partition(b'-0000\n')[2] == chunk.replace(b'\r\n', b'\n') * 100
    wait_until(lambda: rig.queued.abandoned == 1)


@pytest.mark.parametrize('header', [b'PROXY TCP4 192.0.2.7 192.0.2.1 1 25\r\n',
                                    b'\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\7\xc0\0\2\1\0\1\0\x19'])
def test_a_client_behind_a_proxy(make, header):
    """PROXY, version 1 and 2, in pieces and with commands behind it: the rules, the log and the envelope know the client."""
    rig = make(tcp_smtp='127.:allow,PROXY="1"\n192.0.2.7:allow,RELAYCLIENT=""\n192.0.2.8:deny\n:allow\n').warm()
    client = rig.connect()
    client.send(header[:5])
    assert client.quiet()
    client.send(header[5:] + b'EHLO c\r\n')
    assert client.reply() == b'220 mx.example.com ESMTP' and client.reply()[:3] == b'250'
    client.send(b'MAIL FROM:<a@x.example>\r\nRCPT TO:<b@elsewhere.example>\r\nDATA\r\nx\r\n.\r\n')
    assert [client.reply()[:3] for _ in range(4)] == [b'250', b'250', b'354', b'250']
    (body, envelope), = rig.queued.messages
    assert b'(192.0.2.7)' in body and dict(envelope.options)[b'C'] == b'192.0.2.7'
    wait_until(lambda: 'accepted ip 192.0.2.7' in rig.log())
    client = rig.connect()
    client.send(header.replace(b'192.0.2.7', b'192.0.2.8').replace(b'\xc0\0\2\7', b'\xc0\0\2\x08'))
    assert client.reply() == b'554 5.7.1 no mail is accepted from your address'


@pytest.mark.parametrize('proxied', [True, False])
def test_a_flood_by_way_of_a_proxy_is_no_flood_of_lines(make, proxied):
    """Clients that are sent away behind PROXY or XCLIENT are logged as those that connect: by their address, once and counted."""
    rig = make(tcp_smtp='127.:allow,PROXY="%d",XCLIENT="1"\n192.0.2.8:deny\n:allow\n' % proxied).warm(workers=1)
    for _ in range(10):
        client = rig.connect()
        if not proxied:
            assert client.reply()[:3] == b'220'
        client.send(b'PROXY TCP4 192.0.2.8 192.0.2.1 1 25\r\n' if proxied else b'XCLIENT ADDR=192.0.2.8\r\n')
        assert client.reply()[:3] == b'554' and client.line() == b''
    wait_until(lambda: 'refused connection ip 192.0.2.8: 554 5.7.1' in rig.log())
    assert rig.log().count('refused ') == 1
    wait_until(lambda: '(9 more)' in rig.log())


@pytest.mark.parametrize('header', [b'PROXY UNKNOWN\r\n', b'\r\n\r\n\0\r\nQUIT\n\x20\0\0\0'])
def test_a_proxy_that_speaks_for_itself(make, header):
    """PROXY UNKNOWN, and LOCAL in version 2: the proxy is the client, and its own rule counts."""
    client = make(tcp_smtp='127.:allow,PROXY="1",RELAYCLIENT=""\n').warm().connect()
    client.send(header + b'EHLO c\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@elsewhere.example>\r\n')
    assert [client.reply()[:3] for _ in range(4)] == [b'220', b'250', b'250', b'250']


def test_a_proxy_that_says_nothing_of_it(make):
    """Without the header nobody is greeted; a client that is no proxy cannot say who it is."""
    rig = make(tcp_smtp='127.0.0.1:allow,PROXY="1"\n:allow\n').warm()
    client = rig.connect()
    client.send(b'EHLO c\r\n')
    assert client.line() == b''
    wait_until(lambda: 'refused session ip 127.0.0.1 helo -: ' in rig.log() and 'in a PROXY header' in rig.log())
    client = rig.connect(('127.0.0.2', 0))
    assert client.reply()[:3] == b'220'
    assert client.say(b'PROXY TCP4 192.0.2.7 192.0.2.1 1 25')[:3] == b'502'


def test_xclient(make):
    """From a listed address: announced, believed, and the session begins anew; from others it is refused."""
    rig = make(tcp_smtp='127.0.0.1:allow,XCLIENT="1"\n192.0.2.7:allow,RELAYCLIENT=""\n192.0.2.8:deny\n:allow\n').warm()
    client = rig.connect()
    client.reply()
    client.send(b'EHLO c\r\n')
    lines = [client.line()]
    while lines[-1][3:4] == b'-':
        lines.append(client.line())
    assert any(line.startswith(b'250-XCLIENT NAME ADDR ') for line in lines)
    assert client.say(b'XCLIENT NAME=mx.real.example ADDR=192.0.2.7 HELO=real.example PROTO=ESMTP')[:3] == b'220'
    assert client.say(b'XCLIENT ADDR=192.0.2.9')[:3] == b'550'
    client.send(b'MAIL FROM:<a@x.example>\r\nRCPT TO:<b@elsewhere.example>\r\nDATA\r\nx\r\n.\r\n')
    assert [client.reply()[:3] for _ in range(4)] == [b'250', b'250', b'354', b'250']
    (body, envelope), = rig.queued.messages
    assert body.startswith(b'Received: from mx.real.example (HELO real.example) (192.0.2.7)')
    client = rig.connect()
    client.reply()
    assert client.say(b'XCLIENT ADDR=x')[:3] == b'501'
    assert client.say(b'XCLIENT ADDR=192.0.2.8')[:3] == b'554' and client.line() == b''
    client = rig.connect(('127.0.0.2', 0))
    client.reply()
    client.send(b'EHLO c\r\n')
    assert b'XCLIENT' not in b''.join(client.line() for _ in range(10))
    assert client.say(b'XCLIENT ADDR=192.0.2.7')[:3] == b'550'


OWNERS = {b'joe-x': (b'joe', b'-', b'x'), b'joe-ann': (b'joe-ann', b'', b'')}


@pytest.fixture
def joe(make):
    """A client that has logged in as joe, and its rig; joe-ann is a user, and of joe-away nothing is known now."""
    rig = make(tcp_smtp='127.:allow,XCLIENT="1"\n', locals='mx.example.com\n', checkfrom='yes\n').warm()
    rig.users.owners.update(OWNERS)
    client = rig.connect()
    client.reply()
    assert client.say(b'XCLIENT ADDR=127.0.0.1 LOGIN=joe PROTO=ESMTP')[:3] == b'220' and client.say(b'EHLO x')[:3] == b'250'
    return rig, client


@pytest.mark.parametrize('local, code', [(b'joe', b'250'), (b'joe-x', b'250'), (b'joe-ann', b'553'), (b'joe-away', b'451'), (b'ann', b'553')])
def test_a_longer_name_may_be_another_users(joe, local, code):
    """joe sends as joe-x, but not as joe-ann, who is a user; later where that cannot be looked up; and the session goes on."""
    rig, client = joe
    assert client.say(b'MAIL FROM:<%s@mx.example.com>' % local)[:3] == code
    assert client.say(b'RSET')[:3] == b'250' and client.say(b'MAIL FROM:<joe@mx.example.com>')[:3] == b'250'


@pytest.mark.parametrize('size', [10, 300_000])
@pytest.mark.parametrize('chunks', [False, True])
@pytest.mark.parametrize('local, code', [(b'joe-x', b'250'), (b'joe-ann', b'550'), (b'joe-away', b'451')])
def test_a_longer_name_in_from(joe, local, code, chunks, size):
    """control/checkfrom: the same for From and Sender, of messages that are kept and of those that are streamed."""
    rig, client = joe
    text = b'From: joe@mx.example.com, %s@mx.example.com\r\nSender: joe-x@mx.example.com\r\n\r\n%s\r\n' % (local, b'x' * 70 * (size // 70))
    client.send(ENVELOPE.partition(b'DATA')[0].replace(b'ann@example.org', b'joe@mx.example.com'))
    assert [client.reply()[:3] for _ in range(2)] == [b'250', b'250']
    if chunks:
        client.send(b'BDAT %d LAST\r\n%s' % (len(text), text))
    else:
        assert client.say(b'DATA')[:3] == b'354'
        client.send(text + b'.\r\n')
    assert client.reply()[:3] == code and client.say(b'NOOP')[:3] == b'250'
    assert len(rig.queued.messages) == (code == b'250')
    if size > 64 << 10 and code != b'250':
        wait_until(lambda: rig.queued.abandoned == 1)


def test_who_goes_while_his_sender_is_looked_up(joe):
    """A long message whose client has gone before qpy-users answered is given up, and not held for ever."""
    rig, client = joe
    asked, gate = threading.Event(), threading.Event()
    answer = rig.users.owner
    rig.users.owner = lambda *args: (asked.set(), gate.wait(), answer(*args))
    client.send(ENVELOPE.replace(b'ann@example.org', b'joe@mx.example.com'))
    assert [client.reply()[:3] for _ in range(3)] == [b'250', b'250', b'354']
    client.send(b'From: joe-x@mx.example.com\r\n\r\n' + b'x' * 70 * 5000 + b'\r\n.\r\n')
    assert asked.wait(20)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
    client.close()
    gate.set()
    wait_until(lambda: rig.queued.abandoned + len(rig.queued.messages) == 1)


def test_a_worker_whose_runner_is_killed_is_replaced(make, tmp_path):
    """INV6, D-13: without its runner a worker could have no message filtered any more, and may fork no other: it ends, and
    the next one filters again.  No zombie stays."""
    rig = make().warm(workers=1)
    rig.connect().reply()
    _, worker, runner = descendants(rig.server.pid)
    os.kill(runner, signal.SIGKILL)
    wait_until(lambda: 'starting another one' in rig.log())
    wait_until(lambda: len(descendants(rig.server.pid)) == 3)
    assert not {worker, runner} & set(descendants(rig.server.pid))
    client = rig.connect()
    assert client.reply()[:3] == b'220' and client.say(b'HELO x')[:3] == b'250'
