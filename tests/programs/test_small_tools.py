"""maildir2mbox, qreceipt, qbiff, splogger, tcp-env, tcpto, tcpok as real processes."""
import mailbox
import os
import pty
import socket
import subprocess
import threading

import pytest

from qpy import unix
from qpy.qpyl import splogger
from qpy.user import qbiff

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(name, *words, stdin=b'', **env):
    """The finished program."""
    return subprocess.run([SOURCE + '/bin/qpy-' + name, *words], input=stdin, capture_output=True, timeout=30,
                          env={'PATH': '/usr/bin:/bin', **env})


@pytest.fixture
def box(tmp_path):
    """A Maildir with three messages, and where they are to go."""
    for part in ('new', 'cur', 'tmp'):
        (tmp_path / 'Maildir' / part).mkdir(parents=True)
    texts = (('new/2', b'Return-Path: <s@y>\nSubject: two\n\nFrom here\n'),
             ('cur/1:2,S', b'Subject: one\n\nno newline'),
             ('new/3', b'Return-Path: <>\nSubject: three\n\n'), ('new/.hidden', b'x'))
    for at, (name, content) in enumerate(texts):
        (tmp_path / 'Maildir' / name).write_bytes(content)
        os.utime(tmp_path / 'Maildir' / name, (int(name[4:5].replace('.', '9')) * 100,) * 2)
    return tmp_path


def variables(path):
    return {'MAIL': str(path / 'mbox'), 'MAILTMP': str(path / 'mbox.tmp'), 'MAILDIR': str(path / 'Maildir')}


def test_maildir2mbox(box):
    """The messages are in the mbox, the oldest first, whole, also one without a last newline; then they are
    gone."""
    (box / 'mbox').write_bytes(b'From a Thu Nov 05 02:16:14 2026\nSubject: old\n\n\n')
    done = run('maildir2mbox', **variables(box))
    assert (done.returncode, done.stderr) == (0, b'')
    found = mailbox.mbox(box / 'mbox')
    assert [message['subject'] for message in found] == ['old', 'one', 'two', 'three']
    assert [message.get_from().split()[0] for message in found] == ['a', 'XXX', 's@y', 'MAILER-DAEMON']
    assert found[1].get_payload() == 'no newline\n' and b'\n>From here\n' in (box / 'mbox').read_bytes()
    assert os.listdir(box / 'Maildir/new') == ['.hidden'] and os.listdir(box / 'Maildir/cur') == []


def test_maildir2mbox_that_cannot_write(box):
    """Trouble is 111, and the message stays; a variable that is missing is 100."""
    env = {**variables(box), 'MAIL': str(box / 'nowhere/mbox')}
    assert run('maildir2mbox', **env).returncode == 111
    assert len(os.listdir(box / 'Maildir/new')) == 3
    for name in variables(box):
        assert run('maildir2mbox', **{k: v for k, v in variables(box).items() if k != name}).returncode == 100


@pytest.fixture
def queue(tmp_path):
    """A filter that keeps what is queued."""
    path = tmp_path / 'queue'
    path.write_text('#!/bin/sh\nexec 3<&1 >/dev/null; cat > "%s/message"; cat <&3 | tr "\\0" "|" > "%s/envelope"; exit '
                    '${CODE:-0}\n' % (tmp_path, tmp_path))
    path.chmod(0o755)
    return str(path)


ASKING = b'Message-ID: <1@y>\nNotice-Requested-Upon-Delivery-To: Joe <joe@x>,\n  other@x\n\nbody\n'


def test_qreceipt(queue, tmp_path):
    """Who asks for a notice about this address gets one, from nobody, naming his Message-ID."""
    done = run('qreceipt', 'joe@x', stdin=ASKING, SENDER='s@y', QMAILQUEUE=queue, QPYHOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, b'')
    assert (tmp_path / 'envelope').read_text() == 'F|Ts@y||'
    message = (tmp_path / 'message').read_bytes()
    assert message.startswith(b'From: DELIVERY NOTICE SYSTEM <s@y>\nTo: <s@y>\nSubject: success notice\n')
    assert message.endswith(b'\n\nHi! This is the qreceipt program. Your message was delivered to the\n'
                            b'following address: joe@x. Thanks for asking.\nYour Message-ID: <1@y>\n')


@pytest.mark.parametrize('target, sender, message', [
    ('Joe@x', 's@y', ASKING), ('joe@x', '', ASKING), ('joe@x', '#@[]', ASKING),
    ('joe@x', 's@y', b'A: b\n\nbody\n'),
    ('joe@x', 's@y', b'Notice-Requested-Upon-Delivery-To: "joe@x\n\n'),
    ('joe@x', 's@y', b'A: b\n\nNotice-Requested-Upon-Delivery-To: joe@x\n')])
def test_qreceipt_that_is_not_wanted(queue, tmp_path, target, sender, message):
    """Another address, a bounce, or nobody asking in the header: nothing is sent, exit 0."""
    done = run('qreceipt', target, stdin=message, SENDER=sender, QMAILQUEUE=queue, QPYHOME=str(tmp_path))
    assert done.returncode == 0 and not (tmp_path / 'envelope').exists()


@pytest.mark.parametrize('code, wanted', [('31', 100), ('53', 111)])
def test_qreceipt_that_cannot_send(queue, tmp_path, code, wanted):
    """The queue's answer decides; without SENDER or an address it is 100."""
    env = {'SENDER': 's@y', 'QMAILQUEUE': queue, 'QPYHOME': str(tmp_path), 'CODE': code}
    assert run('qreceipt', 'joe@x', stdin=ASKING, **env).returncode == wanted
    assert run('qreceipt', stdin=ASKING, **env).returncode == 100
    del env['SENDER']
    assert run('qreceipt', 'joe@x', stdin=ASKING, **env).returncode == 100


def test_qbiff(monkeypatch, tmp_path):
    """A terminal of the user with the x bit is told, in printable characters; one without the bit is not."""
    from tests.core.test_small_formats import record
    ends = [pty.openpty() for _ in range(2)]
    names = [os.ttyname(theirs) for _, theirs in ends]
    for name, mode in zip(names, (0o720, 0o620)):
        os.chown(name, os.geteuid(), -1)
        os.chmod(name, mode)
    (tmp_path / 'utmp').write_bytes(b''.join(record(7, name[5:].encode(), b'joe') for name in names))
    monkeypatch.setattr(qbiff, 'UTMP', os.fsencode(tmp_path / 'utmp'))
    monkeypatch.setattr(unix, 'read', lambda fd,
                        size: b'Subject: \x1b[2Jhi\n\nthere\n' if fd == 0 else os.read(fd, size))
    for name, value in ((b'USER', b'joe'), (b'SENDER', b's@y'), (b'LOCAL', b'joe')):
        monkeypatch.setitem(unix.environ, name, value)
    assert qbiff.main(b'/', []) == 0
    os.set_blocking(ends[0][0], False), os.set_blocking(ends[1][0], False)
    said = os.read(ends[0][0], 1000).replace(b'\r\r', b'\r')
    assert said == b'\r\n\a*** TO <joe> FROM <s@y>\r\n    ?[2Jhi there\r\n'
    with pytest.raises(BlockingIOError):
        os.read(ends[1][0], 1000)
    for pair in ends:
        os.close(pair[0]), os.close(pair[1])


def test_qbiff_never_fails():
    """Without variables, or without utmp: exit 0."""
    assert run('qbiff').returncode == 0


def test_splogger(monkeypatch, tmp_path):
    """Each line is one datagram with tag and facility; a last line without newline is not lost."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(tmp_path / 'log'))
    monkeypatch.setattr(splogger, 'SOCKET', os.fsencode(tmp_path / 'log'))
    pieces = [b'status: local 0/10\nwarn', b'ing: last', b'']
    monkeypatch.setattr(unix, 'read', lambda fd, size: pieces.pop(0))
    assert splogger.main(b'/', [b'qmail', b'3']) == 0
    server.settimeout(5)
    first, second = server.recv(2000), server.recv(2000)
    assert first.startswith(b'<30>') and b' qmail: ' in first and first.endswith(b' status: local 0/10')
    assert second.startswith(b'<28>') and second.endswith(b' warning: last')
    assert run('splogger', 'a', 'mail').returncode == 100


def test_splogger_without_syslog(monkeypatch, tmp_path):
    """No syslog: lines are lost, their number is said, nothing fails."""
    monkeypatch.setattr(splogger, 'SOCKET', os.fsencode(tmp_path / 'absent'))
    pieces, said = [b'a\nb\n', b''], []
    monkeypatch.setattr(unix, 'read', lambda fd, size: pieces.pop(0))
    monkeypatch.setattr('qpy.lib.program.log', said.append)
    assert splogger.main(b'/', []) == 0
    assert said[0].endswith(b'would not take 2 lines')


@pytest.fixture
def connection():
    """(client's end, server's end) of a TCP connection on this machine."""
    listening = socket.create_server(('127.0.0.1', 0))
    client = socket.create_connection(listening.getsockname())
    server = listening.accept()[0]
    yield client, server
    for sock in (listening, client, server):
        sock.close()


def test_tcp_env(connection):
    """The program finds PROTO and who is there; the exit code is its own."""
    client, server = connection
    done = subprocess.run([SOURCE + '/bin/qpy-tcp-env', '-R', 'sh', '-c', 'env >&2; exit 7'], stdin=server,
                          capture_output=True, env={'PATH': '/usr/bin:/bin', 'TCPREMOTEINFO': 'lie'},
                          timeout=30)
    found = dict(line.split('=', 1) for line in done.stderr.decode().splitlines() if '=' in line)
    assert done.returncode == 7 and found['PROTO'] == 'TCP' and 'TCPREMOTEINFO' not in found
    assert found['TCPREMOTEIP'] == found['TCPLOCALIP'] == '127.0.0.1'
    assert int(found['TCPREMOTEPORT']) == client.getsockname()[1]
    assert int(found['TCPLOCALPORT']) == server.getsockname()[1]


def test_tcp_env_that_knows_already():
    """With PROTO=TCP nothing is asked and nothing changed."""
    done = run('tcp-env', '-t5', 'env', PROTO='TCP', TCPREMOTEIP='192.0.2.1')
    assert b'TCPREMOTEIP=192.0.2.1' in done.stdout and done.returncode == 0


@pytest.mark.parametrize('words, wanted', [((), 100), (('-t', 'x', 'env'), 100), (('-x', 'env'), 100),
                                           (('no-such-program',), 111), (('--', 'true'), 0)])
def test_tcp_env_called_wrongly(words, wanted):
    """Usage is 100, a program that cannot be run 111."""
    assert run('tcp-env', *words, PROTO='TCP').returncode == wanted


class FakeSend:
    """Answers on run/control."""

    def __init__(self, home, answer):
        os.makedirs(home + '/run')
        self.socket, self.asked, self.answer = socket.socket(socket.AF_UNIX), b'', answer
        self.socket.bind(home + '/run/control')
        if os.geteuid() == 0:
            for name in ('', '/run', '/run/control'):
                os.chown(home + name, 1234, 1234)
        self.socket.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        client = self.socket.accept()[0]
        while not self.asked.endswith(b'\0'):
            self.asked += client.recv(1000)
        client.sendall(self.answer)
        client.close()
        self.socket.close()


@pytest.mark.parametrize('name, words, asked, answer, code, out', [
    ('tcpto', (), b'tcpto\0', b'192.0.2.1\t3\t9\t60\ttimed_out\0.\0', 0,
     b'192.0.2.1 timed out 9 seconds ago; # recent timeouts: 3; left alone for 60 more seconds: timed_out\n'),
    ('tcpto', (), b'tcpto\0', b'!not permitted\0', 111, b''), ('tcpok', (), b'tcpok\0', b'.\0', 0, b''),
    ('tcpok', ('mx.x',), b'tcpok mx.x\0', b'.\0', 0, b''), ('tcpok', (), b'tcpok\0', b'', 111, b'')])
def test_tcpto_and_tcpok(tmp_path, name, words, asked, answer, code, out):
    """They ask send, and say what it says."""
    send = FakeSend(str(tmp_path / 'home'), answer)
    done = run(name, *words, QPYHOME=str(tmp_path / 'home'))
    send.thread.join()
    assert (done.returncode, done.stdout, send.asked) == (code, out, asked)
    assert bool(done.stderr) == bool(code)


def test_tcpto_without_send(tmp_path):
    """Nobody to ask: 111 and one line; wrong use: 100."""
    done = run('tcpto', QPYHOME=str(tmp_path))
    assert done.returncode == 111 and done.stderr.count(b'\n') == 1
    assert run('tcpok', '-x').returncode == run('tcpto', 'x').returncode == run('tcpok', 'a', 'b').returncode == 100


@pytest.mark.root
@pytest.mark.parametrize('path, words', [
    ('queue/mess', ('fsck', '--set-aside')), ('queue/mess', ('qstat',)), ('run', ('qread',)), ('run', ('mailq',)), ('run', ('tcpto',)),
    ('run', ('tcpok',)), ('control', ('showctl',)), ('tls', ('tlsrpt', '--day', '2026-01-01')),
    ('users', ('pw2u',)), ('run', ('sendmail', '-q'))])
def test_root_follows_no_link_of_a_rootless_dir(tmp_path, path, words):
    """Where DIR is a user's, root looks at it and works on it as he: his links lead root to nothing of root's."""
    home, secret = tmp_path / 'mail', tmp_path / 'secret'
    for name in ('queue/mess', 'queue/state', 'queue/damaged', 'run', 'control', 'tls', 'users'):
        (home / name).mkdir(parents=True)
    (home / path).rmdir()
    (home / path).symlink_to(secret)
    secret.mkdir(mode=0o700)
    for name in ('me', '2026-01-01', 'include', '1700000000000000'):
        (secret / name).write_text('x.test\n')
    for directory, names, files in os.walk(home):
        for name in ('.', *names, *files):
            os.lchown(os.path.join(directory, name), 54321, 54321)
    done = run(*words, QPYHOME=str(home))
    said = b'not running' if words == ('qstat',) else b'Permission denied'
    assert said in done.stdout + done.stderr and b'x.test' not in done.stdout and len(os.listdir(secret)) == 4


@pytest.mark.root
def test_root_runs_no_code_of_a_rootless_dir(tmp_path):
    """What qpy-ctl loads from DIR/lib/site is run by DIR's owner."""
    place = tmp_path / 'lib/site/click'
    place.mkdir(parents=True)
    (place / '__init__.py').write_text("import os\nos.write(1, b'%d' % os.geteuid())\nos._exit(0)\n")
    os.chown(tmp_path, 54321, 54321)
    assert run('ctl', 'stat', QPYHOME=str(tmp_path)).stdout == b'54321'
