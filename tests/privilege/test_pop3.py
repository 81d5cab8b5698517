"""What hears POP3 clients, and what serves them: owned, as probing.py does it for the chain; behind a port as under
tcpserver, started as root."""
import os
import socket

import pytest

from qpy import unix_kernel
from tests.peers import pop3

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
LAUNCHER = '''\
#!/usr/bin/python3 -IS
import os, socket, sys
sys.path.insert(0, %(source)r)
from qpy.lib import confine, program
real = confine.confine
def attempt(what, work):
    try:
        work()
        answer = 'possible'
    except OSError as problem:
        answer = 'refused' if problem.errno in (1, 13, 11) else str(problem)
    os.write(2, ('probe %%s %%s: %%s\\n' %% (%(name)r, what, answer)).encode())
def child():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
def created(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    os.unlink(path)
def tcp():
    sock = socket.socket()
    sock.connect(('127.0.0.1', %(port)d))
ATTEMPTS = (
    ('exec', lambda: os.execve('/bin/true', ['true'], {})), ('fork', child), ('tcp', tcp), ('udp', lambda: socket.socket(2, 2)),
    ('passwords', lambda: os.open(%(home)r + '/users/passwd', os.O_RDONLY)), ('shadow', lambda: os.open('/etc/shadow', os.O_RDONLY)),
    ('list', lambda: os.listdir('/')), ('create', lambda: created('/tmp/qpy-probe-pop')), ('kill', lambda: os.kill(os.getppid(), 0)),
    ('root', lambda: os.setresuid(0, 0, 0)), ('other', lambda: os.open(%(home)r + '/alias/private', os.O_RDONLY)),
    ('memory', lambda: open('/proc/%%d/mem' %% os.getppid(), 'rb').close()))
def confined(where, name, ports=()):
    answer = [] if %(loose)r else real(where, name, ports)
    if name == %(name)r.encode():
        for what, work in ATTEMPTS:
            if what not in %(but)r:
                attempt(what, work)
        os.write(2, b'end of ' + name + b'\\n')
    return answer
confine.confine = confined
program.run(%(module)r, %(home)r)
'''


class Owned(pop3.House):
    """Programs whose start-up is as always, and who then try everything."""

    def __init__(self, tmp_path, loose=False):
        pop3.House.__init__(self, rooted=True)
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.place, self.loose = tmp_path, loose
        self.mail('new/1.host', b'Subject: one\n\nbody\n')
        for directory in (self.home, self.home + '/joe'):
            os.chmod(directory, 0o755)
        self.write('alias/private', 'x')
        os.chmod(self.home + '/alias/private', 0o600)
        os.chown(self.home + '/alias/private', pop3.OWNER, pop3.OWNER)

    def launcher(self, name, module, but=()):
        path = self.place / ('qpy-' + name)
        path.write_text(LAUNCHER % dict(source=pop3.SOURCE, name=name, module=module, home=self.home, loose=self.loose,
                                        port=self.listener.getsockname()[1], but=but + (('exec',) if self.loose else ())))
        path.chmod(0o755)
        return str(path)

    def answers(self, *words):
        """{(program, what): answer} of one session in which joe logs in, reads, deletes and quits."""
        ours, theirs = socket.socketpair()
        ours.settimeout(30)
        with open(self.place / 'log', 'wb') as log:
            self.processes.append(pop3.subprocess.Popen(
                words, stdin=theirs, stdout=theirs, stderr=log,
                env={'PATH': '/usr/bin:/bin', 'QPYHOME': self.home, 'TCPREMOTEIP': '192.0.2.7'}))
        theirs.close()
        file = ours.makefile('rwb', buffering=0)
        self.said = [file.readline()]
        for line in (b'USER joe\r\n', b'PASS %s\r\n' % pop3.PASSWORD, b'STAT\r\n', b'DELE 1\r\n', b'QUIT\r\n'):
            file.write(line)
            self.said.append(file.readline())
        assert self.processes[-1].wait(30) == 1
        ours.close()
        found = {}
        for line in (self.place / 'log').read_text().split('\n'):
            if line.startswith('probe '):
                words, _, answer = line.removeprefix('probe ').partition(': ')
                found[tuple(words.split())] = answer
        return found

    def stop(self):
        self.listener.close()
        pop3.House.stop(self)


@pytest.fixture
def owned(tmp_path):
    made = []

    def make(loose=False):
        made.append(Owned(tmp_path, loose))
        return made[-1]
    yield make
    for house in made:
        house.stop()


def session(house):
    """The answers of popup, checkpassword and pop3d."""
    return house.answers(house.launcher('popup', 'qpy.qpyd.popup'), 'pop.example',
                         house.launcher('checkpassword', 'qpy.root.checkpassword', ('exec', 'fork', 'tcp', 'udp', 'passwords',
                                        'shadow', 'list', 'create', 'kill', 'root', 'other', 'memory')),
                         house.launcher('pop3d', 'qpy.user.pop3d'), 'Maildir')


def test_who_hears_a_client_and_who_serves_him(owned):
    """popup, when it hears its client, and pop3d, when it serves the user's Maildir, start nothing, connect nowhere, open no
    passwords and no file of the user outside of the Maildir, make none, signal nobody; and the session works: a message is
    counted and deleted."""
    if not unix_kernel.landlock_abi():
        pytest.skip('no Landlock here')
    house = owned()
    answers = session(house)
    assert house.said[2:] == [b'+OK \r\n', b'+OK 1 19\r\n', b'+OK \r\n', b'+OK \r\n'], house.said
    assert house.names('new') == house.names('cur') == []
    assert {name for name, _ in answers} == {'popup', 'pop3d'}
    assert {key: answer for key, answer in answers.items() if answer != 'refused'} == {}


def test_without_it_the_doors_are_open(owned):
    """Counter-test: without confine the probes find what was closed."""
    answers = session(owned(loose=True))
    for name in ('popup', 'pop3d'):
        assert {what for what in ('fork', 'tcp', 'udp', 'list', 'create') if answers[name, what] == 'possible'} == {
            'fork', 'tcp', 'udp', 'list', 'create'}
    assert answers['pop3d', 'other'] == 'possible'


def test_who_judges_is_root_only_until_then(owned):
    """checkpassword runs with no_new_privs and a filter from before it reads a password; what it becomes has no capability."""
    house = owned()
    process, sock = house.session('popup', 'h', 'qpy-checkpassword', 'sh', '-c', 'cat /proc/self/status')
    sock.sendall(b'USER joe\r\nPASS %s\r\n' % pop3.PASSWORD)
    text = b''
    while True:
        data = sock.recv(9999)
        if not data:
            break
        text += data
    for line in (b'Uid:\t%d\t%d\t%d\t%d' % ((pop3.OWNER,) * 4), b'Gid:\t%d' % pop3.OWNER, b'NoNewPrivs:\t1', b'Seccomp:\t2',
                 b'CapPrm:\t' + b'0' * 16, b'CapBnd:\t' + b'0' * 16):
        assert line in text, line
    assert process.wait(30) == 1
