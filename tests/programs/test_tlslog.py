"""qpy-tlslog, what qpy-remote tells it, and what qpy-tlsrpt shows of it."""
import json
import os
import subprocess

import pytest

from qpy import unix
from qpy.core import tls_policy
from qpy.lib.loop import Loop
from qpy.qpyr import tlslog, tlsnotes
from tests.peers.certificates import authority
from tests.peers.qpyr import SOURCE, Daemon
from tests.peers.queued import give
from tests.peers.smtp_script import Server, good
from tests.programs.test_remote_dane import record, send
from tests.programs.test_remote_tls import EXTENSIONS, Ear, begin, by_dns, secure, to

KEY = [b'x.example', b'no-policy-found', b'', b'mx.x.example', b'', b'192.0.2.1', b'192.0.2.2', b'']


@pytest.fixture
def home(tmp_path):
    for name in ('control', 'run', 'tls', 'queue', 'queue/mess'):
        (tmp_path / name).mkdir()
    (tmp_path / 'control/me').write_text('mail.here.example\n')
    give(tmp_path)
    return tmp_path


def tlsrpt(home, *words):
    """qpy-tlsrpt: (exit code, lines)."""
    done = subprocess.run([SOURCE + '/bin/qpy-tlsrpt', *words], capture_output=True, env={'QPYHOME': str(home)}, timeout=60)
    return done.returncode, (done.stdout + done.stderr).decode().splitlines()


def told(daemon, home):
    """Notes connected to a daemon."""
    notes = tlsnotes.Notes(Loop(), bytes(home))
    assert notes.load() == []
    return notes


def test_from_remote_to_the_report(home):
    """What is told is in the file of the day when the chain ends, counted, and shown for people and as JSON."""
    daemon = Daemon(home, 'tlslog')
    notes = told(daemon, home)
    for _ in range(3):
        notes.outcome(*KEY)
    notes.outcome(*KEY[:4], b'certificate-expired', *KEY[5:7], b'it\thas expired\n')
    notes.outcome(b'y.example', *KEY[1:])
    notes.outcome(b'', *KEY[1:])
    assert notes.load() == []           # all of it has been heard
    assert daemon.end() == (0, b'')
    for day in (home / 'tls').iterdir():        # it ran as root here, where it may
        give(day)
    assert tlsrpt(home, 'X.example') == (0, [
        'x.example  no-policy-found  by TLS 3, failed 1',
        '    1 x certificate-expired at mx.x.example [192.0.2.2]: it?has expired|'])
    code, lines = tlsrpt(home, '--json')
    assert code == 0 and [json.loads(line)['policies'][0]['policy']['policy-domain'] for line in lines] == [
        'x.example', 'y.example']
    assert tlsrpt(home, '--day', '2020-01-01')[0] == 111 and tlsrpt(home, '--day', 'x')[0] == 100
    assert tlsrpt(home, '--nonsense')[0] == 100 and tlsrpt(home, '--help')[0] == 0


def test_a_memory_over_a_restart(home, monkeypatch):
    """Who spoke TLS is known to the next qpy-remote, through two restarts, as long as it is worth knowing."""
    (home / 'tls/memory').write_text('old.example:25 1000\nx\n\n')
    daemon = Daemon(home, 'tlslog')
    notes = told(daemon, home)
    notes.saw(b'mx.Good.example:25')
    notes.saw(b'mx.Good.example:25')
    assert [place for place, _ in notes.load()] == [b'mx.good.example:25']
    assert daemon.end() == (0, b'')
    assert (home / 'tls/memory').read_text().startswith('old.example:25 1000\nmx.good.example:25 1')
    os.unlink(home / 'run/tlslog')
    daemon = Daemon(home, 'tlslog')
    [(place, age)] = tlsnotes.Notes(Loop(), bytes(home)).load()
    assert place == b'mx.good.example:25' and 0 <= age < 60
    with Server(good()) as server:
        sender = to(server)
        sender.remote.notes = tlsnotes.Notes(sender.loop, bytes(home))
        sender.remote.recall()
        assert sender.remote.memory.knows(b'mx.good.example:25', unix.monotonic())
        assert not sender.remote.memory.knows(b'old.example:25', unix.monotonic())
    assert daemon.end()[0] == 0


def test_a_long_memory(home):
    """More than one record holds."""
    loop = Loop()
    store = tlslog.Store(loop, bytes(home / 'tls'))
    for i in range(1200):
        store.saw(b'h%d:25' % i)
    assert sum(len(lines.split(b'\n')) for lines in store.remembered()) == 1200 and len(store.remembered()) == 3
    for i in range(tls_policy.Memory.MOST):
        store.saw(b'g%d:25' % i)
    assert len(store.memory) == tls_policy.Memory.MOST and b'h0:25' not in store.memory
    store.save()
    assert tlslog.Store(loop, bytes(home / 'tls')).memory == store.memory


def test_days(home, monkeypatch):
    """At midnight a new file begins, what was counted is in the old one, and what is too old is removed."""
    clock = [1_795_000_000]
    monkeypatch.setattr(unix, 'time', lambda: clock[0])
    store = tlslog.Store(Loop(), bytes(home / 'tls'))
    for _ in range(tlslog.KEPT + 5):
        store.outcome(KEY)
        clock[0] += 86400
    store.save()
    days = sorted(name for name in os.listdir(home / 'tls') if name.startswith('2026-') or name.startswith('2027-'))
    assert len(days) in (tlslog.KEPT, tlslog.KEPT + 1)
    assert all((home / 'tls' / day).read_bytes() == b'1\t' + b'\t'.join(KEY) + b'\n' for day in days)


def test_a_disk_that_is_full(home, monkeypatch):
    """It is said, nothing is torn, and the next change tries again."""
    store = tlslog.Store(Loop(), bytes(home / 'tls'))
    store.outcome(KEY)
    store.save()
    before = {name: (home / 'tls' / name).read_bytes() for name in os.listdir(home / 'tls')}
    with monkeypatch.context() as patch:
        def full(fd, data):
            raise OSError(unix.ENOSPC, 'No space left on device')
        patch.setattr(unix, 'write_all', full)
        store.outcome(KEY)
        store.save()
    for name, data in before.items():
        assert (home / 'tls' / name).read_bytes() == data
    store.outcome(KEY)
    store.save()
    assert any(data.startswith(b'3\t') for data in map(lambda n: (home / 'tls' / n).read_bytes(), before))


def test_without_it(home):
    """Nobody is told, nothing is said and nothing waits; and who is there but deaf does not hold up the start."""
    notes = tlsnotes.Notes(Loop(), bytes(home))
    notes.outcome(*KEY)
    assert notes.load() == [] and notes.channel is None


# --- what qpy-remote tells ----------------------------------------------------------------------------------

def listening(sender):
    sender.remote.notes = Ear()
    return sender


def test_a_session_is_told_once():
    """One session, many messages: one record; the place is told each time (Notes passes it on once an hour)."""
    with Server(secure('mx.good.example')) as server:
        sender = listening(by_dns(server, None))
        for _ in range(3):
            assert sender.send()[0][0][0] == b'K'
    [(domain, kind, policy, name, result, ours, theirs, reason)] = sender.remote.notes.said
    assert (domain, kind, policy, name) == (b'x.example', b'no-policy-found', b'', b'mx.good.example')
    assert (result, ours, theirs, reason) == (b'', b'127.0.0.1', b'127.0.0.1', b'')
    assert set(sender.remote.notes.places) == {b'x.example:%d' % server.port}


@pytest.mark.parametrize('extensions, replies, result', [
    (EXTENSIONS[:1], {}, b'starttls-not-supported'), (EXTENSIONS, {b'STAR': b'454 no'}, b'starttls-not-supported'),
    (EXTENSIONS, {b'STAR': lambda t, _: t.raw(b'220 go\r\nnone of TLS, and long enough for a record of it\r\n')},
     b'validation-failure')])
def test_a_failure_is_told(extensions, replies, result):
    """Also where the mail goes in the clear then: once, not for the second connection, too."""
    with Server(good(extensions, replies)) as server:
        sender = listening(by_dns(server, None))
        assert sender.send()[0][0][0] == b'K'
    assert [fields[4] for fields in sender.remote.notes.said] == [result] and not sender.remote.notes.places


def test_relays_are_not_told():
    """What an administrator has chosen publishes no policy."""
    with Server(secure('x')) as server:
        sender = listening(to(server))
        assert sender.send()[0][0][0] == b'K'
    assert sender.remote.notes.said == []


def test_dane_is_told(monkeypatch):
    """The policy is the TLSA records; a certificate that does not match is a failure of validation."""
    heard = []
    monkeypatch.setattr(tlsnotes.Notes, 'outcome', lambda self, *fields: heard.append(fields))
    certificate = authority().certificate('mx.good.example')[0]
    other = authority().certificate('other.example')[0]
    for path, result in ((certificate, b''), (other, b'validation-failure')):
        heard.clear()
        line = record(3, 1, 1, path)
        with Server(good(EXTENSIONS, {b'STAR': begin(authority().context('mx.good.example'))})) as server:
            send(server, [line])
        assert {fields[:5] for fields in heard} == {(b'x.example', b'tlsa', line, b'mx.good.example', result)}
