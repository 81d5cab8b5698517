"""Cases of the catalogue (cases.txt) that have no natural place beside the tests of one program."""
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile

import pytest

from qpy.core import mess, smtp_policy, smtp_server, state
from tests.peers.smtp_rig import Rig

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENVELOPE = b'MAIL FROM:<ann@example.org>\r\nRCPT TO:<joe@mx.example.com>\r\nDATA\r\n'


# --- the server's session ---

def conversation(data, step, most=1000):
    """(replies, messages) of a session that gets data in pieces of `step` bytes."""
    policy = smtp_policy.Policy(b'mx.example.com', hosts=None, max_recipients=most)
    session = smtp_server.Session(policy, smtp_policy.Client(ip=b'192.0.2.7', relay=b''))
    out, found, text = b'', [], b''
    for at in range(0, len(data), step):
        session.receive(data[at:at + step])
        while (event := session.next()) is not None:
            kind, value = event
            if kind == smtp_server.CHECK:
                session.recipient(b'yes')
            elif kind == smtp_server.START:
                session.begin(b'now')
                text = b''
            elif kind == smtp_server.BODY:
                text += value
            elif kind == smtp_server.SUBMIT:
                found.append((session.sender, list(session.recipients), text + value))
                session.queued(1, 2)
        out += session.output()
    return out, found


@pytest.mark.parametrize('step', [1, 7, 10 ** 6])
def test_a_client_that_talks_first(step):
    """G-13: what is said before any reply is obeyed in order, whatever the segments."""
    out, found = conversation(b'EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n', step)
    final = [line[:3] for line in out.split(b'\r\n') if line[3:4] == b' ']
    assert final == [b'250', b'250', b'250', b'354', b'250', b'221']
    assert found == [(b'a@b.c', [b'd@e.f'], b'x\n')]


def test_one_recipient_many_times():
    """G-34: one address ten thousand times: up to the limit each is kept as it came, above it each gets 452."""
    line = b'RCPT TO:<joe@e.f>\r\n'
    out, found = conversation(b'MAIL FROM:<>\r\n' + line * 900 + b'DATA\r\nx\r\n.\r\n', 4096)
    assert found == [(b'', [b'joe@e.f'] * 900, b'x\n')]
    out, found = conversation(b'MAIL FROM:<>\r\n' + line * 10000, 4096, most=500)
    lines = out.split(b'\r\n')
    assert lines[1:501] == [lines[1]] * 500 and {each[:3] for each in lines[501:-1]} <= {b'452', b'421'}
    assert not found


# --- smtpd ---

def test_urgent_data_and_resets():
    """G-39: urgent data is neither a command nor a message's end, and a hundred resets harm nobody.

    (A reset before the banner once ended the worker, and every session it had.)"""
    rig = Rig()
    try:
        rig.warm()
        for _ in range(100):
            sock = rig.connect().sock
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            sock.close()
        client = rig.connect()
        assert client.reply()[:3] == b'220'
        assert 'worker exited' not in rig.log()
        client.sock.send(b'!', socket.MSG_OOB)
        client.send(ENVELOPE + b'one\r\n')
        client.sock.send(b'.', socket.MSG_OOB)
        client.send(b'two\r\n.\r\n')
        codes = [client.reply()[:3] for _ in range(4)]
        assert codes == [b'250', b'250', b'354', b'250']
        (body, _), = rig.queued.messages
        assert body.endswith(b'\none\ntwo\n')
    finally:
        rig.stop()


# --- the queue put back ---

def test_an_older_state_of_a_message():
    """Q-15: from whatever earlier moment the state of a message comes back, nobody who was not done then counts
    as done: a second copy at worst."""
    ident = b'1764036974123456'
    facts = [(b'z', b'0', b'later'), (b'a', b'1764036999', b'1'), (b'd', b'0'), (b'f', b'1', b'no'), (b'r', b'1'), (b'd', b'2')]
    entries = [state.entry(ident, *fact) for fact in facts]
    for kept in range(len(entries) + 1):
        view = state.replay(b''.join(entries[:kept]), ident, 3)
        done = {int(fact[1]) for fact in facts[:kept] if fact[0] in (b'd', b'f', b'r')}
        assert set(view.indices(state.PENDING)) == {0, 1, 2} - done
        assert view.finished() == (kept == len(entries))
    message = mess.pack(b'x\n', mess.Envelope(b's', [b'a', b'b', b'c']).build(), ident)
    assert mess.unpack(message, ident)[1].recipients == [b'a', b'b', b'c']


# --- local ---

def local(home, lines):
    """qpy-local's (exit code, output) for one message, after this .qmail."""
    (home / '.qmail').write_bytes(lines)
    with tempfile.TemporaryFile() as message:
        message.write(b'Subject: x\n\nhello\n')
        message.seek(0)
        done = subprocess.run([os.path.join(SOURCE, 'bin/qpy-local'), '--', 'joe', str(home), 'joe', '', '', 'x.example',
                               's@y', './Maildir/'], stdin=message, capture_output=True, env={'QPYHOME': str(home)},
                              timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_programs_that_are_none(tmp_path):
    """L-25: a program that is not there, may not be run, or is none: later, never for good."""
    home = tmp_path / 'home'
    (home / 'control').mkdir(parents=True)
    (home / 'junk').write_bytes(b'\x7fELF but not really')
    (home / 'junk').chmod(0o755)
    (home / 'closed').write_text('#!/bin/sh\nexit 0\n')
    (home / 'gone').write_text('#!/no/such/interpreter\n')
    (home / 'gone').chmod(0o755)
    for command in (b'/no/such/program', b'./junk', b'./closed', b'./gone', b'exec ./junk', b'('):
        code, said = local(home, b'|' + command + b'\n')
        assert code == 111, (command, said)


SWAP = """
import os, sys
link, other = sys.argv[1:]
os.write(1, b'go')
while True:
    for made in (lambda: os.symlink(other, link + '.n'), lambda: open(link + '.n', 'x').close()):
        try:
            made()
            os.rename(link + '.n', link)
        except FileExistsError:
            os.unlink(link + '.n')
"""


def test_a_link_that_comes_and_goes(tmp_path):
    """L-15: in a directory where all may write, a name that is a link now and a file then never leads a message
    elsewhere."""
    from qpy.user import mailbox
    spool, victim = tmp_path / 'spool', tmp_path / 'victim'
    spool.mkdir()
    spool.chmod(0o1777)
    victim.write_bytes(b'')
    swapper = subprocess.Popen([sys.executable, '-c', SWAP, str(spool / 'joe'), str(victim)], stdout=subprocess.PIPE)
    home = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    outcomes = set()
    try:
        assert swapper.stdout.read(2) == b'go'
        for _ in range(3000):
            try:
                os.close(mailbox.open_mbox(home, os.fsencode(spool / 'joe')))
                outcomes.add('opened')
            except mailbox.Failed as failed:
                outcomes.add('refused')
                assert failed.code == 111
            if len(outcomes) == 2 and _ > 1000:
                break
        with tempfile.TemporaryFile() as message:
            message.write(b'x\n')
            for _ in range(100):
                try:
                    mailbox.append(home, os.fsencode(spool / 'joe'), b'From s@y\n', message.fileno())
                except mailbox.Failed as failed:
                    assert failed.code == 111
    finally:
        swapper.send_signal(signal.SIGKILL)
        swapper.wait()
        swapper.stdout.close()
        os.close(home)
    assert outcomes == {'opened', 'refused'} and victim.read_bytes() == b''


# --- the wrapper of every program ---

ENDINGS = ['raise ValueError', 'raise MemoryError', 'raise RecursionError', 'raise SystemExit', 'raise SystemExit(None)',
           'raise SystemExit(3)', 'raise GeneratorExit', 'def f(): f()\n    f()', 'raise KeyError(b"\\n")',
           'raise UnicodeError', 'return None + 1', 'raise BaseException', 'import no_such_module']


@pytest.mark.parametrize('ending', ENDINGS)
def test_what_nobody_foresaw(tmp_path, ending):
    """P-03, P-04: whatever a program ends with that nobody foresaw, it is 111 and one line on descriptor 2."""
    (tmp_path / 'broken.py').write_text('def main(home, args):\n    %s\n' % ending)
    done = subprocess.run([sys.executable, '-c', 'import sys; sys.path[:0] = sys.argv[1:]\n'
                           'from qpy.lib import program; program.run("broken")', SOURCE, str(tmp_path)],
                          capture_output=True, timeout=60)
    assert done.returncode == 111 and done.stdout == b''
    assert done.stderr.count(b'\n') == 1 and b'Traceback' not in done.stderr


# --- the log ---

def test_a_log_on_a_full_disk():
    """A-18: while what qpy-log writes to is full, programs' lines are taken from them all the same: nobody waits, and
    qpy-log ends as ever with the last of them."""
    read, write = os.pipe()
    arrange = ("import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
               "os.execv(sys.argv[2], sys.argv[2:])")
    with open('/dev/full', 'wb') as full:
        child = subprocess.Popen(['/usr/bin/python3', '-IS', '-c', arrange, str(read), SOURCE + '/bin/qpy-log'],
                                 pass_fds=[read], stdout=full, stderr=subprocess.PIPE,
                                 env={'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'send'})
    os.close(read)
    line = b'x' * 999 + b'\n'
    for _ in range(300):            # far more than a pipe holds
        os.write(write, line)
    os.close(write)
    assert child.wait(20) == 0
    child.stderr.close()
