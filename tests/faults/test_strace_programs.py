"""The real programs that write, killed at their n-th call of each kind, or told that it failed (strace's injection).

Q-01 to Q-11, L-18, L-20, INV1, INV2: local to a Maildir, an mbox, a program and a forward, queue, inject.  What exits 0
has done it; what does not has left nothing torn; and the same again, undisturbed, succeeds.
"""
import contextlib
import os
import random
import re
import shutil
import subprocess

import pytest

from qpy.core import mess
from tests.peers import queued as rig
from tests.power import explorer

MOST = int(os.environ.get('QPY_STRACE_MOST', '30'))         # injections for each program; 0: all there are
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300 + 5 * (MOST or 400)),
              pytest.mark.skipif(not shutil.which('strace'), reason='needs strace')]
TAIL = 15                   # of the files opened, the last so many: before them the interpreter loads its modules
TEXT = b'Subject: one\n\n' + b'x' * 70 + b'\nthe end of it\n'
#: what each call is told; not EPIPE for sendto, which while queued lives and waits cannot be
CALLS = {'openat': ['EMFILE', 'EIO', 'EACCES'], 'write': ['ENOSPC', 'EIO', 'EDQUOT', 'EINTR'], 'fsync': ['EIO', 'ENOSPC'],
         'linkat': ['EIO', 'ENOSPC'], 'unlinkat': ['EIO', 'EROFS'], 'pread64': ['EIO'], 'fadvise64': ['EIO'], 'mkdirat': ['ENOSPC'],
         'ftruncate': ['EIO'], 'sendto': ['ENOBUFS', 'ENOMEM'], 'recvfrom': ['ECONNRESET', 'ENOMEM'], 'connect': ['ECONNREFUSED', 'EAGAIN'],
         'socket': ['EMFILE', 'ENFILE'], 'pipe2': ['EMFILE', 'ENFILE'], 'clone': ['EAGAIN', 'ENOMEM'], 'wait4': ['EINTR'],
         'execve': ['ENOMEM', 'EACCES'], 'flock': ['ENOLCK', 'EINTR'], 'dup2': ['EMFILE'], 'memfd_create': ['EMFILE']}
LOCAL = ['joe', '{user}', 'joe', '', '', 'here.example', 'me@here.example', './Maildir/\n']


class Program:
    """How a program is called, and whether it has done what it was asked."""

    def __init__(self, words, qmail, done, torn):
        self.words, self.qmail, self.done, self.torn = words, qmail, done, torn


def read(path):
    """The bytes of a file, b'' if there is none."""
    with contextlib.suppress(FileNotFoundError), open(path, 'rb') as file:
        return file.read()
    return b''


def maildir(home):
    """[bytes] in new/."""
    new = home + '/user/Maildir/new/'
    return [read(new + name) for name in os.listdir(new)] if os.path.isdir(new) else []


def queue(home):
    """[message] of the whole files in the queue; torn ones are None."""
    found = []
    for name in map(os.fsencode, os.listdir(home + '/queue/mess')):
        if mess.is_id(name):
            try:
                found.append(mess.unpack(read(os.path.join(os.fsencode(home) + b'/queue/mess', name)), name)[0])
            except mess.Damaged:
                found.append(None)
    return found


def ends(data):
    """Is it the whole message?"""
    return data is not None and data.rstrip(b'\n').endswith(TEXT.rstrip(b'\n'))


PROGRAMS = {
    'Maildir': Program(['qpy-local', '--', *LOCAL], '', lambda home: any(map(ends, maildir(home))),
                       lambda home: not all(map(ends, maildir(home)))),
    'mbox': Program(['qpy-local', '--', *LOCAL], './Mailbox\n',
                    lambda home: any(map(ends, (b'\n' + read(home + '/user/Mailbox')).split(b'\nFrom '))), lambda home: False),
    'program': Program(['qpy-local', '--', *LOCAL], '|cat > got\n', lambda home: ends(read(home + '/user/got')), lambda home: False),
    'forward': Program(['qpy-local', '--', *LOCAL], '&ann@here.example\n', lambda home: any(map(ends, queue(home))),
                       lambda home: None in queue(home)),
    'queue': Program(['sh', '-c', 'printf "Fa@b\\0Tc@d\\0\\0" | qpy-queue 1<&0 0<"$0"', '{text}'], '',
                     lambda home: any(map(ends, queue(home))), lambda home: None in queue(home)),
    'inject': Program(['qpy-inject', 'ann@here.example'], '', lambda home: any(map(ends, queue(home))),
                      lambda home: None in queue(home)),
}


def empty(home):
    """As before the program ran."""
    shutil.rmtree(home + '/user/Maildir', ignore_errors=True)
    for path in [home + '/user/Mailbox', home + '/user/Mailbox.lock', home + '/user/got',
                 *(home + '/queue/mess/' + name for name in os.listdir(home + '/queue/mess'))]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def run(home, program, strace=()):
    """Run it as DIR's owner, perhaps under strace; its exit code (negative: killed)."""
    words = [word.replace('{user}', home + '/user').replace('{text}', home + '/text') for word in program.words]
    if words[0].startswith('qpy-'):
        words = [rig.PYTHON, '-IS', rig.SOURCE + '/bin/' + words[0], *words[1:]]
    with open(home + '/text', 'rb') as text:
        done = subprocess.run([*strace, *words], stdin=text, capture_output=True, timeout=60, cwd='/', user=rig.OWNER,
                              group=rig.OWNER, extra_groups=[],
                              env={'PATH': rig.SOURCE + '/bin:/usr/bin:/bin', 'QPYHOME': home, 'USER': 'joe', 'HOME': home + '/user'})
    return done.returncode


def counts(home, program):
    """{call: how often} of an undisturbed run."""
    log = home + '/user/strace'
    code = run(home, program, ['strace', '-f', '-qq', '-o', log, '-e', 'trace=' + ','.join(CALLS)])
    if code:
        pytest.skip('strace does not work here: exit %d' % code)
    found = {}
    for call in re.findall(rb'^\d+ +(\w+)\(', read(log), re.M):
        found[call.decode()] = found.get(call.decode(), 0) + 1
    os.unlink(log)
    return found


def injections(found, name):
    """[(call, what strace does to it)]: MOST of them, the same ones each time."""
    every = [(call, '%s:when=%d' % (what, number)) for call, count in found.items()
             for number in range(max(1, count - TAIL if call == 'openat' else 1), count + 1)
             for what in ['signal=KILL', *('error=' + error for error in CALLS[call])]]
    return every if not MOST or len(every) <= MOST else random.Random(name).sample(every, MOST)


@pytest.mark.parametrize('name', PROGRAMS)
def test_killed_or_failed_at_any_call(name):
    """Exit 0 is true; anything else has left nothing torn behind; and it can be done again."""
    program = PROGRAMS[name]
    with rig.temporary_home() as place:
        home = os.fsdecode(place)
        os.mkdir(home + '/user', 0o700)
        os.chown(home + '/user', rig.OWNER, rig.OWNER)
        for path, text in ((home + '/user/.qmail', program.qmail), (home + '/control/me', 'here.example\n'), (home + '/text', TEXT)):
            if text:
                with open(path, 'wb') as file:
                    file.write(text if isinstance(text, bytes) else text.encode())
        daemon = rig.Daemon(place, 'queued', [b'submit', b'new'])
        try:
            with rig.connect(place, b'new') as ears:
                ears.recv(100)
            found = counts(home, program)
            assert program.done(home)
            tried = injections(found, name)
            for call, what in tried:
                empty(home)
                code = run(home, program, ['strace', '-f', '-qq', '-o', '/dev/null', '-e', 'trace=' + call, '-e',
                                           'inject=%s:%s' % (call, what)])
                assert program.done(home) or code != 0, (call, what)
                assert not program.torn(home), (call, what)
                assert run(home, program) == 0 and program.done(home), (call, what)
        finally:
            daemon.end()
    explorer.FIGURES['injections'] = explorer.FIGURES.get('injections', 0) + len(tried)
