"""qpy-token: programs of the administrator's that give tokens, and what becomes of those that do not."""
import errno
import gc
import os

import pytest

from qpy import unix
from qpy.core import channel
from qpy.lib import packets
from qpy.lib.loop import Loop
from qpy.qpyr import names, token
from tests.peers.qpyr import Daemon
from tests.peers.queued import give

ACCOUNT = b'joe@x.example@relay.example'


class Asker:
    """Tokens in a loop; the program of ACCOUNT is a shell script."""

    def __init__(self, place, script):
        self.place, self.loop = place, Loop()
        self.path = os.fsencode(str(place / 'program'))
        with open(self.path, 'w') as file:
            file.write('#!/bin/sh\necho run >> %s/runs\n%s\n' % (place, script))
        os.chmod(self.path, 0o755)
        self.programs = {ACCOUNT: self.path + b' one two'}
        self.tokens = token.Tokens(self.loop, b'/home-of-qpy', lambda: self.programs)

    def one(self, fresh=False, account=ACCOUNT):
        """(status, token, reason)"""
        found, until = [], unix.monotonic() + 20
        self.tokens.ask(account, fresh, lambda *answer: found.append(answer))
        while not found and unix.monotonic() < until:
            self.loop.step(0.2)
        return found[0]

    @property
    def runs(self):
        """How often it was run."""
        path = self.place / 'runs'
        return path.read_text().count('run') if path.exists() else 0


def test_a_token(tmp_path):
    """The first line of what the program prints; it is kept, unless a fresh one is wanted."""
    asker = Asker(tmp_path, 'echo " ya29.$# "; echo more; test "$HOME/$QPYACCOUNT/$1" = '
                            '/home-of-qpy/joe@x.example@relay.example/one')
    asker.tokens.ask(ACCOUNT, False, lambda *answer: None)
    assert asker.one() == asker.one() == (b'ok', b'ya29.2', b'') and asker.runs == 1
    assert asker.one(fresh=True) == (b'ok', b'ya29.2', b'') and asker.runs == 2


def test_a_token_is_kept_for_a_while(tmp_path, monkeypatch):
    """Then its program is asked again."""
    monkeypatch.setattr(token, 'CACHED', 0)
    asker = Asker(tmp_path, 'echo x')
    asker.one(), asker.one()
    assert asker.runs == 2


@pytest.mark.parametrize('script, reason', [
    ('echo x; exit 1', b'ended with status 1'), ('kill -9 $$', b'ended with status -9'), ('exit 0', b'no token'),
    ('echo; echo x', b'no token'), ('echo a b', b'no token'), ("printf 'a\\001b\\n'", b'no token'),
    ('head -c 9000 /dev/zero | tr "\\0" x', b'no token')])
def test_programs_without_a_token(tmp_path, script, reason):
    """An exit code, a signal, nothing, what could not be a token: temporary, with the reason; and asked again next time."""
    asker = Asker(tmp_path, script)
    status, found, why = asker.one()
    assert (status, found) == (b'temp', b'') and reason in why
    asker.one()
    assert asker.runs == 2


def test_a_program_that_hangs_is_stopped_with_its_children(tmp_path, monkeypatch):
    """After PATIENCE nothing of it is left."""
    monkeypatch.setattr(token, 'PATIENCE', 0.3)
    asker = Asker(tmp_path, 'sleep 1000 & echo $! > %s/child; wait' % tmp_path)
    assert b'took longer' in asker.one()[2]
    pid = int((tmp_path / 'child').read_text())
    with pytest.raises(ProcessLookupError):
        while open('/proc/%d/stat' % pid).read().split(') ')[1][0] != 'Z':
            os.kill(pid, 0)
        raise ProcessLookupError


@pytest.mark.parametrize('call', ['pipe2', 'fork', 'pidfd_open'])
def test_a_program_that_cannot_be_started(tmp_path, monkeypatch, call):
    """Whichever call fails, the mail waits, neither a descriptor nor a process is left of it, and the next one is."""
    asker = Asker(tmp_path, 'echo ya29')

    def fail(*args):
        raise OSError(errno.EMFILE, 'Too many open files')
    gc.collect()
    before = os.listdir('/proc/self/fd')
    with monkeypatch.context() as patch:
        patch.setattr(unix, call, fail)
        assert asker.one() == (b'temp', b'', b'Too many open files')
    assert os.listdir('/proc/self/fd') == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert asker.one() == (b'ok', b'ya29', b'')


def test_a_child_that_keeps_the_pipe_open(tmp_path):
    """What a program leaves running holds nobody up, and does not live on."""
    asker = Asker(tmp_path, 'sleep 1000 & echo x')
    assert asker.one() == (b'ok', b'x', b'')


def test_accounts_that_have_none(tmp_path, monkeypatch):
    """Not in the file; a program that is not there; more at a time than may be."""
    asker = Asker(tmp_path, 'echo x')
    assert b'no such entry' in asker.one(account=b'ann@relay.example')[2]
    asker.programs = {ACCOUNT: b'/nonexistent'}
    assert b'status 111' in asker.one()[2]
    monkeypatch.setattr(token, 'AT_A_TIME', 0)
    assert b'too many' in asker.one()[2]


def test_the_program(tmp_path):
    """qpy-token, as qpy-start starts it: asked as qpy-remote asks, in any case of the name."""
    for name in ('control', 'run', 'queue', 'queue/mess'):
        (tmp_path / name).mkdir()
    (tmp_path / 'control/smtptokens').write_text('Joe@relay.example:/bin/echo ya29\n')
    give(tmp_path)
    daemon = Daemon(tmp_path, 'token')
    loop, found = Loop(), []
    asker = names.Tokens(loop, bytes(tmp_path))
    asker.attach(daemon.connect())
    asker.ask(b'K', b'joe@RELAY.example', lambda *answer: found.append(answer))
    while not found:
        loop.step(1)
    assert found == [(b'ok', b'ya29', b'')]
    code, log = daemon.end()
    assert code == 0 and log == b''


def test_a_keeper_that_is_not_there(tmp_path):
    """qpy-remote without qpy-token: the mail waits, with the reason; nonsense of its is no token."""
    loop, found = Loop(), []
    asker = names.Tokens(loop, bytes(tmp_path))
    asker.ask(b'K', ACCOUNT, lambda *answer: found.append(answer))
    loop.step(0.1)
    assert found[0][:2] == (b'temp', b'') and b'qpy-token cannot be asked' in found[0][2]
    ours, theirs = unix.socketpair()
    asker.attach(ours)
    asker.ask(b'K', ACCOUNT, lambda *answer: found.append(answer))
    packets.Channel(loop, theirs, channel.TOKEN_ASK, lambda records: None, lambda why: None).send(b'k', b'1', b'ok', b'', b'')
    while len(found) < 2:
        loop.step(1)
    assert found[1] == (b'temp', b'', b'')
