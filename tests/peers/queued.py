"""A queue of a test, and qpy's own programs of the queue's account running on it, started as qpy-start does."""
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import time

from qpy.core import mess
from tests.peers import handing

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PYTHON = '/usr/bin/python3'


OWNER = 61100               # whose DIR it is when root runs the tests: any uid will do


def make_home(path):
    """A rootless DIR with an empty queue; bytes.  Root gives it to OWNER, so that no account need exist."""
    home = os.fsencode(str(path))
    for name in (b'', b'/run', b'/control', b'/queue', b'/queue/mess', b'/queue/state', b'/queue/damaged'):
        os.makedirs(home + name, mode=0o755, exist_ok=True)
        give(home + name)
    return home


def give(path):
    """Root's DIR belongs to OWNER from now on, whose programs need no accounts."""
    if os.geteuid() == 0:
        os.chown(path, OWNER, OWNER)


@contextlib.contextmanager
def temporary_home():
    """make_home() in a directory that every uid can reach, removed afterwards."""
    top = tempfile.mkdtemp(prefix='qpy-test-')
    try:
        os.chmod(top, 0o755)
        yield make_home(top + '/qpy')
    finally:
        shutil.rmtree(top)


@contextlib.contextmanager
def as_owner():
    """Root acts as OWNER for a while; anybody else is himself."""
    root = os.geteuid() == 0
    if root:
        os.setegid(OWNER)
        os.seteuid(OWNER)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)


def listen(home, name):
    """A listening stream socket DIR/run/name (through a short path: the limit is 107 bytes)."""
    sock = socket.socket(socket.AF_UNIX)
    directory = os.open(home + b'/run', os.O_PATH)
    try:
        path = b'/proc/self/fd/%d/%s' % (directory, name)
        if os.path.lexists(path):
            os.unlink(path)
        sock.bind(path)
        os.chmod(path, 0o666)
    finally:
        os.close(directory)
    sock.listen(100)
    return sock


def connect(home, name):
    """A blocking stream socket connected to DIR/run/name."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    directory = os.open(home + b'/run', os.O_PATH)
    try:
        sock.connect(b'/proc/self/fd/%d/%s' % (directory, name))
    finally:
        os.close(directory)
    return sock


class Daemon:
    """bin/qpy-NAME on the sockets called names, with a life pipe; its log in DIR/NAME.log.

    prelude: Python to be run first, to break it on purpose."""

    def __init__(self, home, name, names, prelude=''):
        self.prelude = prelude
        self.home, self.name = home, name
        self.log_path = home + b'/' + name.encode() + b'.log'
        sockets = [listen(home, n) for n in names]
        life_read, self.life = os.pipe()
        os.set_inheritable(life_read, True)
        fds = [s.fileno() for s in sockets] + [life_read]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._exec(fds, list(names) + [b'life'])
            finally:
                os._exit(99)
        os.close(life_read)
        for sock in sockets:
            sock.close()
        self.status = None

    def _exec(self, fds, names):
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 2)
        os.dup2(log, 1)
        handing.place(fds)
        os.closerange(3 + len(fds), 65536)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(OWNER, OWNER, OWNER)
            os.setresuid(OWNER, OWNER, OWNER)
        environ = {'PATH': os.environ.get('PATH', '/usr/bin:/bin'), 'QPYHOME': os.fsdecode(self.home),
                   'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': str(len(fds)), 'LISTEN_FDNAMES': b':'.join(names).decode()}
        words = [PYTHON, '-IS', os.path.join(SOURCE, 'bin', 'qpy-' + self.name)]
        if self.prelude:
            words[2:] = ['-c', 'import sys; sys.path.insert(0, %r)\n%s\nfrom qpy.lib import program\n'
                         'program.run("qpy.qpyq.%s")' % (SOURCE, self.prelude, self.name)]
        os.execvpe(words[0], words, environ)

    def log(self):
        """What it has said."""
        try:
            with open(self.log_path, 'rb') as file:
                return file.read()
        except FileNotFoundError:
            return b''

    def end(self):
        """End it as the chain ends: close the life pipe.  Returns its exit code (negative: signal)."""
        if self.life is not None:
            os.close(self.life)
            self.life = None
        return self.wait()

    def kill(self, number=9):
        """Kill it."""
        if self.status is None:
            os.kill(self.pid, number)
        return self.end()

    def wait(self):
        """Its exit code."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


def wait_until(true, patience=20):
    """Until true() is; for what other processes do and tell nobody."""
    give_up = time.monotonic() + patience
    while not true():
        if time.monotonic() > give_up:
            raise AssertionError('waited in vain')
        time.sleep(0.005)


if SOURCE not in sys.path:
    sys.path.insert(0, SOURCE)


def check(home, acknowledged, body):
    """The queue against what was promised, {ID: number}; body(number) is that message, b<number> its recipient.  The queue's names."""
    names = os.listdir(home + b'/queue/mess')
    assert set(acknowledged) <= set(names)
    for name in filter(mess.is_id, names):
        with open(home + b'/queue/mess/' + name, 'rb') as file:
            data = file.read()
        try:
            content, envelope = mess.unpack(data, name)
        except mess.Damaged:
            assert name not in acknowledged
            continue
        number = int(envelope.recipients[0][1:])
        assert content.partition(b'\n')[2] == body(number) and acknowledged.get(name, number) == number
    return names
