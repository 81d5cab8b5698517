"""qpy-qmtpd, qpy-qmqpd and qpy-qmqpc as real processes, one shot and warm, with a stand-in for qpy-queued."""
import os
import re
import socket
import subprocess
import threading

import pytest

from qpy.core import netstring
from tests.peers.smtp_rig import PYTHON, SOURCE, Rig

pytestmark = pytest.mark.slow

encode = netstring.encode


class NetRig(Rig):
    """As Rig, for another program."""

    def shot(self, name, data, **env):
        """(exit code, what it said) of one client that sends data and waits."""
        ours, theirs = socket.socketpair()
        ours.settimeout(20)
        process = subprocess.Popen(PYTHON + [SOURCE + '/bin/qpy-' + name], stdin=theirs, stdout=theirs,
                                   stderr=self.log_file, env=self.environment(env))
        theirs.close()
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        said = b''.join(iter(lambda: ours.recv(65536), b''))
        ours.close()
        return process.wait(20), said

    def serve(self, name, **env):
        """Start it warm; the address it listens on."""
        listening = socket.create_server(('127.0.0.1', 0))
        life_read, self.life = os.pipe()
        self.listening = listening
        script = ('exec 3<&%d 4<&%d; export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=%s:life; exec "$@"'
                  % (listening.fileno(), life_read, name))
        self.processes.append(subprocess.Popen(
            ['/bin/bash', '-c', script, 'sh', *PYTHON, SOURCE + '/bin/qpy-' + name], stdin=subprocess.DEVNULL,
            stdout=self.log_file, stderr=self.log_file, env=self.environment(env),
            pass_fds=(listening.fileno(), life_read)))
        os.close(life_read)
        return listening.getsockname()


@pytest.fixture
def rig():
    here = NetRig()
    yield here
    here.stop()


def message(text, sender, *recipients, end=b'\n'):
    return encode(end + text) + encode(sender) + encode(b''.join(map(encode, recipients)))


def answers(said):
    """The netstrings of an answer."""
    found = []
    while said:
        size, _, rest = said.partition(b':')
        found.append(rest[:int(size)])
        said = rest[int(size) + 1:]
    return found


TCP = {'PROTO': 'TCP', 'TCPREMOTEIP': '192.0.2.7', 'TCPREMOTEHOST': 'client.example',
       'TCPLOCALHOST': 'mx.example.com'}


def test_qmtp(rig):
    """Two messages in one connection; one answer per recipient; the Received line; who it was is in the
    envelope."""
    data = message(b'A: b\n\nx\n', b's@y', b'joe@mx.example.com', b'joe@elsewhere.example',
                   b'ann@mx.example.com') \
        + message(b'C: d\r\n\r\ny\r\n', b'', b'bob@mx.example.com', end=b'\r')
    code, said = rig.shot('qmtpd', data, **TCP)
    found = answers(said)
    assert code == 0 and len(found) == 4
    assert all(re.fullmatch(rb'Kok \d+ qp \d+', found[n]) for n in (0, 2, 3))
    assert found[1] == b"Dsorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
    assert len(found[1]) == 66
    (first, envelope), (second, _) = rig.queued.wait(2)
    assert re.fullmatch(rb'Received: from client.example \(192.0.2.7\)\n  by mx.example.com with QMTP; [^\n]+\nA: b\n\nx\n',
                        first)
    assert envelope.sender == b's@y' and envelope.recipients == [b'joe@mx.example.com', b'ann@mx.example.com']
    assert envelope.option(b'P') == b'QMTP' and envelope.option(b'C') == b'192.0.2.7'
    assert second.endswith(b'\nC: d\n\ny\n')


def test_qmtp_refusals(rig):
    """Unusable recipients and senders, denied ones, those nobody has, and a message that is too long."""
    rig.write('badrcptto', 'bad@mx.example.com\n')
    rig.write('databytes', '5\n')
    data = (message(b'1', b's@y', b'x' * 1000, b'bad@mx.example.com', b'no@mx.example.com',
                    b'temp@mx.example.com')
            + message(b'1', b's' * 1000, b'joe@mx.example.com') + message(b'123456', b's@y', b'joe@mx.example.com'))
    code, said = rig.shot('qmtpd', data, **TCP)
    assert code == 0 and answers(said) == [
        b"Dsorry, I can't handle that recipient (#5.1.3)",
        b'Dsorry, your envelope recipient has been denied (#5.7.1)',
        b'Dsorry, no mailbox here by that name (#5.1.1)', b'Zunable to look up that recipient now (#4.3.0)',
        b'Dunacceptable sender (#5.1.7)', b'Dsorry, that message size exceeds my databytes limit (#5.3.4)']
    assert rig.queued.messages == [] and said.startswith(b"46:Dsorry, I can't")


def test_qmtp_asks_nobody_where_that_is_switched_off(rig):
    """checkrecipients: no."""
    rig.write('checkrecipients', 'no\n')
    code, said = rig.shot('qmtpd', message(b'1', b's@y', b'no@mx.example.com', b'temp@mx.example.com'), **TCP)
    assert code == 0 and all(answer.startswith(b'Kok ') for answer in answers(said)) and rig.users.asked == []


def test_qmtp_relay(rig):
    """RELAYCLIENT lifts rcpthosts and is appended; DATABYTES counts in place of databytes."""
    rig.write('databytes', '1\n')
    code, said = rig.shot('qmtpd', message(b'12345', b's@y', b'joe@far.example'), **TCP, RELAYCLIENT='.x',
                          DATABYTES='9')
    assert code == 0 and answers(said)[0][:1] == b'K'
    assert rig.queued.wait()[0][1].recipients == [b'joe@far.example.x']


@pytest.mark.parametrize('answer, wanted', [((53, None), b'Zqq write error or disk full (#4.3.0)'),
                                            ((31, None),
                                             b'Dmail server permanently rejected message (#5.3.0)'),
                                            ('die', b'Zcommunication with mail server failed (#4.4.2)')])
@pytest.mark.parametrize('name', ['qmtpd', 'qmqpd'])
def test_what_the_queue_says(rig, name, answer, wanted):
    """The client hears qmail's sentence for the queue's answer."""
    rig.queued.answer = answer
    data = message(b'a\n', b's', b'joe@mx.example.com') if name == 'qmtpd' else qmqp_message(b'a\n', b's', b'joe@x')
    assert rig.shot(name, data, **TCP) == (0, encode(wanted))


@pytest.mark.parametrize('name', ['qmtpd', 'qmqpd'])
def test_malformed(rig, name):
    """What is not the protocol ends with 100, too much with 111; an early end queues nothing."""
    assert rig.shot(name, b'GET / HTTP/1.0\r\n\r\n', **TCP)[0] == 100
    assert rig.shot(name, b'200000001:', **TCP)[0] == 111
    assert rig.shot(name, message(b'a', b's', b'joe@mx.example.com')[:-1], **TCP) in ((0, b''), (100, b''))
    assert rig.queued.messages == []


def test_a_long_message(rig):
    """Three megabytes wait in a file without a name, and arrive whole."""
    text = b'0123456789abcde\n' * 200000
    code, said = rig.shot('qmtpd', message(text, b's@y', b'joe@mx.example.com'), **TCP)
    assert code == 0 and said[2:5].lstrip(b':')[:2] == b'Ko'
    assert rig.queued.wait()[0][0].endswith(text)


def qmqp_message(text, *addresses):
    return encode(encode(text) + b''.join(map(encode, addresses)))


def test_qmqp(rig):
    """Any recipient is taken; an address that cannot be used refuses the message."""
    code, said = rig.shot('qmqpd', qmqp_message(b'A: b\n\nx\n', b's@y', b'a@far', b'b@far'), **TCP)
    assert code == 0 and re.fullmatch(rb'\d+:Kok \d+ qp \d+,', said)
    text, envelope = rig.queued.wait()[0]
    assert envelope.recipients == [b'a@far', b'b@far'] and b' with QMQP; ' in text
    assert rig.shot('qmqpd', qmqp_message(b'x', b's@y', b'a\0b'), **TCP) == (
        0, encode(b"Dsorry, I can't accept addresses like that (#5.1.3)"))
    assert answers(rig.shot('qmqpd', qmqp_message(b'x', b's@y'), **TCP)[1])[0].startswith(b'D')        # to nobody


def test_warm(rig):
    """Warm, tcp.smtp decides: QMTP without relaying, QMQP only with RELAYCLIENT; the chain's end ends it."""
    rig.write('tcp.smtp', '127.:allow,RELAYCLIENT=""\n')
    address = rig.serve('qmqpd')
    for _ in range(3):
        assert answers(ask(address, qmqp_message(b'x', b's@y', b'a@far')))[0][:1] == b'K'
    rig.queued.wait(3)
    rig.write('tcp.smtp', ':allow\n')
    assert ask(address, qmqp_message(b'x', b's@y', b'a@far')) == b''
    assert len(rig.queued.messages) == 3 and 'no RELAYCLIENT' in rig.log()
    os.close(rig.life)
    assert rig.processes[0].wait(20) == 0
    rig.life = os.open('/dev/null', os.O_RDONLY)


def test_warm_qmtp(rig):
    """An idle client holds up nobody."""
    address = rig.serve('qmtpd')
    idle = socket.create_connection(address)
    assert answers(ask(address, message(b'x', b's', b'joe@mx.example.com')))[0][:1] == b'K'
    idle.close()


def ask(address, data):
    """What a server says to data."""
    with socket.create_connection(address, 20) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            return b''.join(iter(lambda: sock.recv(65536), b''))
        except OSError:                 # sent away
            return b''


# --- the client ---------------------------------------------------------------------------------------------

def qmqpc(rig, text, envelope, **env):
    """The exit code of qpy-qmqpc."""
    files = []
    for name, content in (('m', text), ('e', envelope)):
        with open(os.path.join(rig.home, name), 'wb') as file:
            file.write(content)
        files.append(open(os.path.join(rig.home, name), 'rb'))
    done = subprocess.run(PYTHON + [SOURCE + '/bin/qpy-qmqpc'], stdin=files[0], stdout=files[1],
                          stderr=subprocess.PIPE,
                          env=rig.environment(env), timeout=60)
    for file in files:
        file.close()
    assert done.stderr == b''
    return done.returncode


ENVELOPE = b'Fs@y\0Ta@far\0Tb@far\0\0'


def test_client_and_server(rig):
    """qmqpc hands a message to qmqpd, trying the next host where one refuses; 0 when it is queued there."""
    rig.write('tcp.smtp', '127.:allow,RELAYCLIENT=""\n')
    host, port = rig.serve('qmqpd')
    rig.write('qmqpservers', '# comment\nmail.example.org\n127.0.0.1:1\n%s:%d\n' % (host, port))
    assert qmqpc(rig, b'A: b\n\nx\n', ENVELOPE) == 0
    text, envelope = rig.queued.wait()[0]
    assert text.endswith(b'A: b\n\nx\n') and envelope.recipients == [b'a@far', b'b@far']
    rig.queued.answer = (31, None)
    assert qmqpc(rig, b'x' * 3000000, ENVELOPE) == 31
    rig.queued.answer = (53, None)
    assert qmqpc(rig, b'', ENVELOPE) == 71


@pytest.mark.parametrize('envelope, wanted', [(b'', 54), (b'Fs\0Ta\0', 54), (b'Xs\0Ta\0\0', 91),
                                              (b'Fs\0?a\0\0', 91),
                                              (b'Fs\0T' + b'a' * 1003 + b'\0\0', 11), (ENVELOPE, 55)])
def test_client_envelopes(rig, envelope, wanted):
    """Envelopes as qmail-queue judges them; without a list of servers 55."""
    assert qmqpc(rig, b'x', envelope) == wanted


@pytest.mark.parametrize('answer, wanted', [(b'', 74), (b'junk', 74), (b'3:Kok', 74), (b'3:Kok,', 0),
                                            (b'2:Zx,', 71), (b'2:Dx,', 31),
                                            (b'2:Xx,', 74), (b'6000:', 74)])
def test_client_answers(rig, answer, wanted):
    """Only a complete K, Z or D counts; a lost connection is 74, and no other host is tried."""
    listening = socket.create_server(('127.0.0.1', 0))
    rig.write('qmqpservers', '127.0.0.1:%d\n127.0.0.1:%d\n' % (listening.getsockname()[1],
                                                               listening.getsockname()[1]))

    def serve():
        client = listening.accept()[0]
        data = b''
        while not data.endswith(b'5:a@far,5:b@far,,'):
            data += client.recv(65536)
        client.sendall(answer)
        client.close()
    thread = threading.Thread(target=serve)
    thread.start()
    assert qmqpc(rig, b'x', ENVELOPE) == wanted
    thread.join()
    listening.close()


def test_client_without_a_server(rig):
    """Nobody takes a connection: 73."""
    rig.write('qmqpservers', '127.0.0.1:1\n')
    assert qmqpc(rig, b'x', ENVELOPE) == 73
