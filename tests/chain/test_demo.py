"""qpy-demo as a person meets it: --check, and the live trace."""
import contextlib
import os
import re
import shutil
import signal
import smtplib
import subprocess
import tempfile

import pytest

from qpy.admin.installing import first_files

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLAIN = 54321
CHECKS = ('SMTP in, Maildir', 'sendmail in, Maildir', 'mbox', 'program', 'alias (postmaster)', 'extension address', 'forward',
          'bounce', 'deferral that succeeds later', 'remote, to the built-in sink')
ENVIRONMENT = {'PATH': '/usr/bin:/bin'}


def check(program, words=(), env=ENVIRONMENT, **more):
    done = subprocess.run([program, '--check', '--port', '0', *words], capture_output=True, text=True, timeout=60, cwd='/',
                          env=env, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.split('\n') if line[:6].strip() in ('ok', 'FAILED')]
    assert [line[7:41].strip() for line in said] == list(CHECKS)
    assert all(re.match(r'ok     .{34} +\d+\.\d{3} s  \S', line) for line in said)
    seconds = float(re.search(r'all is well in ([0-9.]+) s', done.stdout).group(1))
    assert seconds < 15


def test_check_goes_every_way_once():
    """--check has one good line with a time for each way, exits 0 and takes less than 15 seconds."""
    check(SOURCE + '/bin/qpy-demo')


@pytest.mark.root
def test_a_plain_user_and_a_source_tree_he_cannot_write(tmp_path):
    """From a read-only source tree a plain user needs nothing but python3; the tree stays as it was."""
    tree = tmp_path / 'tree'
    for name in ('bin', 'qpy', 'man', 'control'):
        shutil.copytree(os.path.join(SOURCE, name), tree / name, ignore=shutil.ignore_patterns('__pycache__'))
    before = sorted(str(path) for path in tree.rglob('*'))
    check(str(tree / 'bin/qpy-demo'), user=PLAIN, group=PLAIN, extra_groups=[])
    assert sorted(str(path) for path in tree.rglob('*')) == before


@pytest.mark.root
@pytest.mark.parametrize('mode', [0o700, 0o755])
def test_a_clone_that_only_root_can_read(mode):
    """Root's clone below a closed directory: the demo steps down all the same, and leaves no copy behind."""
    top = tempfile.mkdtemp(prefix='qpy-test-')
    try:
        tree = os.path.join(top, 'tree')
        for name in ('bin', 'qpy', 'man', 'control'):
            shutil.copytree(os.path.join(SOURCE, name), os.path.join(tree, name),
                            ignore=shutil.ignore_patterns('__pycache__'))
        os.chmod(top, mode)
        os.chmod(tree + '/qpy/unix.py', 0o600)
        with room() as tmp:
            check(tree + '/bin/qpy-demo', env={**ENVIRONMENT, 'TMPDIR': tmp})
        with room() as tmp:                             # neither does it leave one where nobody else may go
            os.chmod(tmp, 0o700)
            done = subprocess.run([tree + '/bin/qpy-demo', '--check'], capture_output=True, text=True,
                                  env={**ENVIRONMENT, 'TMPDIR': tmp}, cwd='/')
            assert done.returncode == 111 and 'may not reach %s; set TMPDIR' % tmp in done.stderr
    finally:
        shutil.rmtree(top)


@contextlib.contextmanager
def room():
    """A directory for temporary files that must be empty in the end."""
    tmp = tempfile.mkdtemp(prefix='qpy-test-')
    os.chmod(tmp, 0o1777)
    try:
        yield tmp
        assert not os.listdir(tmp)
    finally:
        shutil.rmtree(tmp)


class Watched:
    """A demo that runs, and its output line by line."""

    def __init__(self):
        self.process = subprocess.Popen([SOURCE + '/bin/qpy-demo', '--port', '0'], stdout=subprocess.PIPE, text=True,
                                        cwd='/', env=ENVIRONMENT)
        self.lines = []

    def read_until(self, words):
        while True:
            line = self.process.stdout.readline()
            assert line, ''.join(self.lines)
            self.lines.append(line)
            if words in line:
                return line


@pytest.mark.slow
def test_the_trace_shows_each_messages_way():
    """It says where it is and what to paste; a message's way is shown with times up to its file; ^C ends all."""
    demo = Watched()
    try:
        home = demo.read_until('A mail server of your own, in ').split()[-1]
        port = int(demo.read_until('SMTP').split()[-1])
        demo.read_until('demo-fail@demo.test')
        demo.read_until('smtplib')
        demo.read_until('What happens')
        place = demo.read_until('delivered').split()[-1]
        assert os.path.dirname(place) == home + '/home/Maildir/new'
        paste_lines(demo, home)
        with smtplib.SMTP('127.0.0.1', port, timeout=20) as client:
            client.sendmail('you@demo.test', ['anybody@away.example', 'demo-fail@demo.test'], 'Subject: x\r\n\r\nx\r\n')
        demo.read_until('queued')
        demo.read_until('This address always fails.')
        demo.read_until('a report goes back')
        demo.process.send_signal(signal.SIGINT)
        last_words = demo.process.stdout.read()
        assert demo.process.wait(30) == 0
        assert not os.path.exists(home) and 'warning' not in last_words and 'lost' not in last_words
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
        demo.process.stdout.close()
        demo.process.wait()


def paste_lines(demo, home):
    """Run what it has printed for the clients of this machine, as whoever pastes it: each of their messages arrives."""
    lines = [line.strip() for line in demo.lines if re.match(r' +(printf|echo|swaks|python3) ', line)]
    assert len(lines) > 1
    with tempfile.TemporaryDirectory() as place:
        for line in lines:
            done = subprocess.run(['/bin/sh', '-c', line], capture_output=True, text=True, timeout=60, cwd='/',
                                  env={**ENVIRONMENT, 'HOME': place})
            assert done.returncode == 0, line + done.stdout + done.stderr
            demo.read_until('delivered')


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
                                    signal.SIGKILL])
def test_whatever_ends_the_demo_ends_its_chain(number):
    """After TERM and HUP chain and sandbox are gone; after KILL the chain goes too: its socket refuses clients."""
    demo = Watched()
    try:
        home = demo.read_until('A mail server of your own, in ').split()[-1]
        demo.read_until('finished')
        demo.process.send_signal(number)
        demo.process.stdout.read()
        code = demo.process.wait(30)
        assert code == (0 if number != signal.SIGKILL else -9)
        if number == signal.SIGKILL:
            wait_for_the_lock(home)
            shutil.rmtree(home)
        assert not os.path.exists(home)
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
        demo.process.stdout.close()
        demo.process.wait()


def wait_for_the_lock(home):
    """Until no chain holds DIR: the lock can be had."""
    import fcntl
    with open(home + '/queue/lock', 'r+') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


@pytest.mark.slow
def test_a_directory_that_stays_can_be_used_again():
    """With --dir the sandbox stays, and a second round in it is as good as the first."""
    top = tempfile.mkdtemp(prefix='qpy-test-')
    try:
        user = dict(user=PLAIN, group=PLAIN, extra_groups=[]) if os.geteuid() == 0 else {}
        if user:
            os.chown(top, PLAIN, PLAIN)
        for _ in range(2):
            check(SOURCE + '/bin/qpy-demo', words=('--dir', top + '/sandbox'), **user)
        assert os.path.isdir(top + '/sandbox/home/Maildir')
    finally:
        shutil.rmtree(top, ignore_errors=True)



@pytest.mark.slow
@pytest.mark.parametrize('words, code, said', [
    ('--port 99999', 100, '99999 is no port'), ('--port 25x', 100, '25x is no port'),
    ('--dir /proc/x', 111, 'may not write to /proc; choose another directory with --dir'),
    ('--check --port 0 >/dev/full', 111, 'fatal: unable to write what there is to say: No space left on device'),
    ('--help >/dev/full', 111, 'unable to write what there is to say: No space left on device'),
    ('--help | grep -q -- --check', 0, ''), ('--port 0 | head -n 2 >/dev/null', 0, '')])
def test_what_a_person_gets_to_read(words, code, said):
    """Each mistake is answered in words, without Python's; whoever reads no further ends the demo without a word."""
    with room() as tmp:
        done = subprocess.run(['/bin/bash', '-c', 'set -o pipefail; %s/bin/qpy-demo %s' % (SOURCE, words)], text=True,
                              capture_output=True, timeout=60, cwd='/', env={**ENVIRONMENT, 'TMPDIR': tmp})
    assert done.returncode == code and said in done.stderr and (said or not done.stderr)
    assert not any(word in done.stderr for word in ('Errno', 'unforeseen', 'Traceback'))


@pytest.mark.skipif(os.geteuid() != 0 and first_files.unprivileged() <= 25, reason='port 25 is free for all here')
def test_a_port_that_needs_root_is_said():
    """Also as root, who has stepped down by then."""
    done = subprocess.run([SOURCE + '/bin/qpy-demo', '--port', '25'], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 111 and 'ports below 1024 need root' in done.stderr


@pytest.mark.slow
def test_a_port_that_is_taken_is_said():
    """--port with a port in use is refused in one line, and nothing is left behind."""
    import socket
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        done = subprocess.run([SOURCE + '/bin/qpy-demo', '--port', str(taken.getsockname()[1])], capture_output=True,
                              text=True, env=ENVIRONMENT)
    assert done.returncode == 111 and 'is taken; choose another with --port' in done.stderr
