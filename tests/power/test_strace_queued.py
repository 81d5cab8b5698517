"""The real queued, killed at its n-th call of each kind, or told that the call failed (strace's injection).

INV1 to INV3 after each: what was acknowledged is whole in the queue; what is whole was sent.
"""
import os
import re
import shutil
import subprocess

import pytest

from qpy.core import submit as protocol
from tests.peers import queued as rig

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(not shutil.which('strace'), reason='needs strace')]
CLIENTS, EACH = 3, 3


def body(number):
    """One of three streams."""
    return b'Subject: %d\n\n' % number + (b'x' * 300_000 if number % 3 == 0 else b'')


def message(number):
    """As the channel carries it."""
    return protocol.frame(body(number)) + protocol.END + protocol.envelope(b'a', [b'b%d' % number])


def traced(home, inject):
    """queued, and strace attached to it with this injection; skips where tracing is forbidden.

    It is not confined: strace makes a call fail by asking the kernel for call number -1, for which the filter kills."""
    daemon = rig.Daemon(home, 'queued', [b'submit', b'new'], 'from qpy.qpyq import queued; queued.SWEEP = 0.3\n'
                        'from qpy.lib import confine; confine.confine = lambda *words: None')
    ears = rig.connect(home, b'new')
    assert ears.recv(100)
    tracer = subprocess.Popen(['strace', '-f', '-qq', '-o', '/dev/null', '-p', str(daemon.pid), '-e', 'trace=' + inject.partition(':')[0],
                               '-e', 'inject=' + inject], stderr=subprocess.PIPE)
    attached = re.compile(rb'TracerPid:\t[1-9]')

    def ready():
        if tracer.poll() is not None:
            pytest.skip('strace: ' + tracer.stderr.read().decode())
        tasks = '/proc/%d/task/' % daemon.pid
        return all(attached.search(open(tasks + task + '/status', 'rb').read()) for task in os.listdir(tasks))
    rig.wait_until(ready)
    return daemon, ears, tracer


def submit_all(home):
    """CLIENTS connections with EACH messages, pipelined: ({ID: number}, [refusals])."""
    acknowledged, refused, socks = {}, [], []
    for client in range(CLIENTS):
        try:
            sock = rig.connect(home, b'submit')
        except ConnectionRefusedError:
            break                                   # it is dead already
        numbers = [client + CLIENTS * i for i in range(EACH)]
        socks.append((sock, numbers))
        try:
            sock.sendall(protocol.VERSION + b''.join(map(message, numbers)))
        except OSError:
            pass
    for sock, numbers in socks:
        said = b''
        try:
            while said.count(b'\0') < EACH and (data := sock.recv(1000)):
                said += data
        except OSError:
            pass
        for number, piece in zip(numbers, said.split(b'\0')[:-1], strict=False):
            if piece[:1] == b'K':
                acknowledged[piece[1:]] = number
            else:
                refused.append(piece)
        sock.close()
    return acknowledged, refused


@pytest.mark.parametrize('when', [1, 2, 4, 7])
@pytest.mark.parametrize('call', ['openat', 'write', 'fsync', 'close', 'linkat', 'unlinkat', 'sync_file_range', 'sendto', 'recvfrom'])
def test_killed_at_any_call(call, when):
    """Q-11: after kill -9 at the n-th call what was acknowledged is whole; the next start sweeps up and serves."""
    with rig.temporary_home() as home:
        daemon, ears, tracer = traced(home, '%s:signal=KILL:when=%d' % (call, when))
        acknowledged, _ = submit_all(home)
        daemon.kill()
        tracer.wait(20)
        ears.close()
        rig.check(home, acknowledged, body)
        again = rig.Daemon(home, 'queued', [b'submit', b'new'])
        more, refused = submit_all(home)
        assert len(more) == CLIENTS * EACH and not refused
        names = rig.check(home, {**acknowledged, **more}, body)
        assert not [name for name in names if name.endswith(b'.part')]
        assert again.end() == 0


@pytest.mark.parametrize('call, error', [('openat', 'ENOSPC'), ('openat', 'EMFILE'), ('write', 'ENOSPC'), ('write', 'EIO'), ('fsync', 'EIO'),
                                         ('fsync', 'ENOSPC'), ('linkat', 'EIO'), ('unlinkat', 'EROFS'), ('sync_file_range', 'EIO'),
                                         ('accept4', 'EMFILE'), ('write', 'EINTR')])
def test_any_call_may_fail(call, error):
    """Q-01 to Q-08: every second call of a kind fails: clients hear 53 or K, and K is true; queued goes on."""
    with rig.temporary_home() as home:
        daemon, ears, tracer = traced(home, '%s:error=%s:when=2+2' % (call, error))
        acknowledged, refused = submit_all(home)
        assert len(acknowledged) + len(refused) == CLIENTS * EACH and all(said.startswith(b'53 ') for said in refused)
        tracer.terminate()
        tracer.wait(20)
        more, refused = submit_all(home)
        assert len(more) == CLIENTS * EACH and not refused
        rig.check(home, {**acknowledged, **more}, body)
        ears.close()
        assert daemon.end() == 0
