"""qpy-rspawn as a process: deliveries in, results out, workers that die, and programs in place of
qpy-remote."""
import contextlib
import errno
import gc
import os
import signal
import socket
import stat
import threading

import pytest

from qpy import unix
from qpy.core import remote_report
from tests.peers.qpyr import SOURCE, Rspawn
from tests.peers.smtp_script import Server, good


@pytest.fixture
def home(tmp_path):
    """A DIR with control files."""
    for name in ('control', 'run', 'queue', 'queue/mess'):
        (tmp_path / name).mkdir()
    (tmp_path / 'control' / 'me').write_text('me.example\n')
    os.chown(tmp_path, *(65534, 65534) if os.geteuid() == 0 else (-1, -1))      # rootless: one owner for all
    return tmp_path


@contextlib.contextmanager
def running(home, *args, log=b'', **environment):
    """A Rspawn that must end well, with every piece of `log` in its log."""
    rspawn = Rspawn(home, *args, **environment)
    try:
        rspawn.wait(lambda: rspawn.capacity)
        yield rspawn
    finally:
        code, said = rspawn.end()
    assert code == 0 and (log in said if log else said == b''), said


def route(home, port):
    (home / 'control' / 'smtproutes').write_text(':127.0.0.1:%d\n' % port)


def test_deliveries(home):
    """Each delivery gets its result under its own number; the envelope behind the message is not sent."""
    def rcpt(talk, line):
        return b'550 no' if b'bad' in line else b'250 ok'
    with Server(good(replies={b'RCPT': rcpt})) as server:
        route(home, server.port)
        with running(home, '2') as rspawn:
            for i in range(0, 60, 3):
                rspawn.send(i, b'h%d.example' % i, [b'a@x', b'bad@x', b'c@x'])
            rspawn.wait(lambda: len(rspawn.results) == 60)
            assert [rspawn.results[i][0] for i in range(60)] == [b'K', b'D', b'K'] * 20
            assert rspawn.capacity > 100
        assert {body for _, _, body in server.mail} == {b'Subject: x\r\n\r\nhi\r\n'} and len(server.mail) == 20


def test_one_host_one_worker(home):
    """Mail for one host, however it is written, goes to one worker, and over one connection."""
    with Server(good()) as server:
        route(home, server.port)
        with running(home, '4') as rspawn:
            for i in range(10):
                rspawn.send(i, b'X.example' if i % 2 else b'x.Example')
                rspawn.wait(lambda: i in rspawn.results)
        assert server.connections == 1 and len(server.mail) == 10


def test_scope(home):
    """A destination in trouble as a whole is marked h; a refusal of one recipient is not; what a message wants for itself is
    marked o."""
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    with Server(good(replies={b'RCPT': b'450 later'})) as server:
        (home / 'control' / 'smtproutes').write_text('a:127.0.0.1:%d\nb:127.0.0.1:%d\n' % (port, server.port))
        with running(home) as rspawn:
            rspawn.send(1, b'a')
            rspawn.send(2, b'b')
            rspawn.send(3, b'a', flags=b'q')
            rspawn.wait(lambda: len(rspawn.results) == 3)
            assert rspawn.results[3][:2] == (b'Z', b'o')
            assert rspawn.results[1][:2] == (b'Z', b'h') and rspawn.results[2][:2] == (b'Z', b'')


def test_a_worker_is_killed(home):
    """R-28: what a killed qpy-remote had in flight is Z, "qpy-remote crashed."; a new one takes the next
    delivery."""
    silent = [lambda talk: talk.hang(), good()]
    with Server(silent) as server:
        route(home, server.port)
        with running(home, '1', log=b'qpy-remote ') as rspawn:
            rspawn.send(5, recipients=[b'a@x', b'b@x'])
            rspawn.wait(lambda: (rspawn.loop.step(0.01), server.connections)[1])
            old = rspawn.workers()
            os.kill(old[0], signal.SIGKILL)
            rspawn.wait(lambda: len(rspawn.results) == 2)
            assert rspawn.results == {n: (b'Z', b'', remote_report.CRASHED) for n in (5, 6)}
            rspawn.wait(lambda: (rspawn.loop.step(0.01), rspawn.workers())[1] not in ([], old))
            rspawn.send(7)
            rspawn.wait(lambda: 7 in rspawn.results)
            assert rspawn.results[7][0] == b'K'


def test_a_client_that_talks_nonsense(home):
    """P-01: a packet that no table allows ends that connection, not the program."""
    with Server(good()) as server:
        route(home, server.port)
        with running(home, '1') as rspawn:
            other = unix.socket_unix(unix.SOCK_SEQPACKET, blocking=True)
            other.connect(bytes(home) + b'/run/rspawn')
            other.send(b'Rjunk')
            assert b''.join(iter(lambda: other.recv(100), b'')).startswith(b'C')
            rspawn.send(1)
            rspawn.wait(lambda: 1 in rspawn.results)


SLOW, BOTH = 'a.example:127.0.0.1:{slow}\n', 'a.example:127.0.0.1:{slow}\n:127.0.0.1:{other}\n'
LATER = [(SLOW, 'smtproutes', BOTH), (SLOW, 'senderroutes', '@y.example:127.0.0.1:{other}\n'),
         (BOTH, 'outgoingip', '127.0.0.2\n')]


@pytest.mark.parametrize('routes, file, text', LATER)
@pytest.mark.parametrize('how', [{}, {'QMAILREMOTE': os.path.join(SOURCE, 'bin', 'qpy-remote')}])
def test_what_was_closed_to_it(home, routes, file, text, how):
    """A port that control/smtproutes names since qpy-remote began is closed to it, and so are other addresses of ours: another
    one takes the next delivery, at once; the old one finishes what it has, and ends; each arrives once, nothing is said."""
    release = threading.Event()

    def late(talk, line):
        release.wait(20)
        return b'250 at last'
    with Server(good(replies={b'dot': late})) as slow, Server(good()) as other:
        ports = {'slow': slow.port, 'other': other.port}
        (home / 'control' / 'smtproutes').write_text(routes.format(**ports))
        with running(home, '1', **how) as rspawn:
            rspawn.send(1, b'a.example')
            rspawn.wait(lambda: (rspawn.loop.step(0.01), b'DATA' in slow.log)[1])
            old = rspawn.workers()
            (home / 'control' / file).write_text(text.format(**ports))
            rspawn.send(2, b'b.example')
            rspawn.wait(lambda: 2 in rspawn.results)
            assert rspawn.results[2][0] == b'K' and 1 not in rspawn.results and set(old) <= set(rspawn.workers())
            release.set()
            rspawn.wait(lambda: 1 in rspawn.results)
            assert rspawn.results[1][0] == b'K'
            rspawn.wait(lambda: (rspawn.loop.step(0.01), not set(old) & set(rspawn.workers()))[1])
    assert len(slow.mail) == len(other.mail) == 1
    assert other.talks[0].peer == ('127.0.0.2' if file == 'outgoingip' else '127.0.0.1')


def test_the_first_routes(home):
    """control/smtproutes is written for the first time: the next delivery goes by it."""
    with Server(good()) as server, running(home, '1') as rspawn:
        rspawn.send(1)
        rspawn.wait(lambda: 1 in rspawn.results)
        route(home, server.port)
        rspawn.send(2)
        rspawn.wait(lambda: 2 in rspawn.results)
        assert rspawn.results[1][0] == b'Z' and rspawn.results[2][0] == b'K' and len(server.mail) == 1


def test_a_port_that_comes_back(home):
    """A qpy-remote that begins while a port is not named may reach it when it is named again, as its like may."""
    with Server(good()) as server:
        route(home, server.port)
        with running(home, '1', log=b'qpy-remote ') as rspawn:
            rspawn.send(1)
            rspawn.wait(lambda: 1 in rspawn.results)
            (home / 'control' / 'smtproutes').write_text('# none\n')
            rspawn.send(2)
            rspawn.wait(lambda: 2 in rspawn.results)
            old = rspawn.workers()
            os.kill(old[0], signal.SIGKILL)
            rspawn.wait(lambda: (rspawn.loop.step(0.01), rspawn.workers())[1] not in ([], old))
            route(home, server.port)
            rspawn.send(3)
            rspawn.wait(lambda: 3 in rspawn.results)
        assert [rspawn.results[n][0] for n in (1, 2, 3)] == [b'K', b'Z', b'K']


def test_broken_settings_are_said_once(home):
    """Control files that become broken: the old ones stay, which is said in one line; who begins then has the old ones too."""
    with Server(good()) as server:
        route(home, server.port)
        with running(home, '2', log=b'keeping the old settings') as rspawn:
            (home / 'control' / 'smtproutes').write_text('x.example:relay:port\n')
            for number in range(10):
                rspawn.send(number, b'h%d.example' % number)
            rspawn.wait(lambda: len(rspawn.results) == 10)
            old = rspawn.workers()
            for pid in old:
                os.kill(pid, signal.SIGKILL)
            rspawn.wait(lambda: (rspawn.loop.step(0.01), len(set(rspawn.workers()) - set(old)) == 2)[1])
            rspawn.send(11)
            rspawn.wait(lambda: 11 in rspawn.results)
        assert {result[0] for result in rspawn.results.values()} == {b'K'}


def test_a_worker_that_lies(home, monkeypatch):
    """P38: a worker that speaks of a delivery it does not have is killed; what it does have is Z."""
    from qpy.qpyr import rspawn
    said, forks = [], []
    monkeypatch.setattr(rspawn.program, 'warn', said.append)
    loop, jobs = rspawn.Loop(), rspawn.Jobs()
    client = type('Client', (), {'send': lambda self, *record: forks.append(record)})()

    def lie(sock):
        sock.setblocking(True)
        sock.recv(1000)
        sock.send(b'K999\0\0did what?\n\0')
        sock.recv(1000)
    worker = rspawn.Worker(loop, jobs, lie)
    worker.send((b'1', b'h', b's', b'', b'0', jobs.add(client, b'7', worker) + b' r@h'), None)
    while not forks:
        loop.step(1)
    assert forks == [(b'Z', b'7', b'', remote_report.CRASHED)] and b'does not have' in said[0]
    loop.step(0.1)
    worker.channel.close()
    os.kill(worker.pid, signal.SIGKILL)
    os.waitpid(worker.pid, 0)


@pytest.mark.root       # they are not dumpable: nobody else may look
def test_workers_hold_nothing_of_the_master(home):
    """A qpy-remote has its channel, its epoll and the standard descriptors, and not the listening socket."""
    with running(home, '2') as rspawn:
        rspawn.wait(lambda: len(rspawn.workers()) == 2)
        for pid in rspawn.workers():
            rspawn.wait(lambda: (rspawn.loop.step(0.01), len(links(pid)))[1] == 5)
            assert sum(link.startswith('socket:') for link in links(pid)) == 1
            assert sum('eventpoll' in link for link in links(pid)) == 1


def links(pid):
    return [os.readlink('/proc/%d/fd/%s' % (pid, fd)) for fd in os.listdir('/proc/%d/fd' % pid)]


def test_signals_do_not_cut_deliveries(home):
    """TERM, INT and HUP of a process group change nothing; the life pipe ends it."""
    with running(home, '1') as rspawn:
        rspawn.wait(lambda: rspawn.workers())
        for pid in (rspawn.process.pid, *rspawn.workers()):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(pid, number)
        rspawn.send(1, b'[127.0.0.1]')
        rspawn.wait(lambda: 1 in rspawn.results)


def test_broken_controls(home):
    """A broken control file: refuse to start, naming file, line, value and remedy."""
    (home / 'control' / 'smtproutes').write_text('# x\nexample.org:relay:port\n')
    rspawn = Rspawn(home)
    code, log = rspawn.end()
    assert code == 111 and log.count(b'\n') == 1
    for word in (b'qpy-rspawn: fatal: unable to use control/smtproutes, line 2', b'relay:port', b'not a port number'):
        assert word in log


SCRIPTS = [('cat >"$OUT"; printf "r\\0Kfine %s %s %s\\n\\0" "$1" "$2" "$3"', b'K', b'fine x.example s@y.example r@x.example\n'),
           ('printf "hno\\n\\0Dgiving up\\n\\0"', b'D', b'no\ngiving up\n'), ('exit 1', b'Z', remote_report.NOT_RUN),
           ('exit 100', b'Z', remote_report.NOT_RUN), ('kill -9 $$', b'Z', remote_report.CRASHED),
           ('exit 0', b'Z', remote_report.NO_OUTPUT), ('echo hello', b'Z', remote_report.GARBAGE),
           ('printf "Kfine\\n\\0"; sleep 5 &', b'K', b'fine\n')]


@pytest.mark.parametrize('script, letter, text', SCRIPTS)
def test_qmailremote(home, script, letter, text):
    """QMAILREMOTE runs in place of qpy-remote, with its arguments, the message alone on 0, its report from
    1."""
    program = home / 'program'
    program.write_text('#!/bin/sh\n' + script + '\n')
    program.chmod(stat.S_IRWXU)
    out = home / 'out'
    with running(home, QMAILREMOTE=str(program), OUT=str(out)) as rspawn:
        rspawn.send(3)
        rspawn.wait(lambda: 3 in rspawn.results)
        assert rspawn.results[3] == (letter, b'', text) and rspawn.capacity == 120
    if 'OUT' in script:
        assert out.read_bytes() == b'Subject: x\n\nhi\n'


def test_qmailremote_gets_each_recipients_host(home):
    """A transaction with a relay may hold recipients of several domains; the program is run for each with his own."""
    program = home / 'program'
    program.write_text('#!/bin/sh\nprintf "K%s %s\\\\n\\\\0" "$1" "$3"\n')
    program.chmod(stat.S_IRWXU)
    with running(home, QMAILREMOTE=str(program)) as rspawn:
        rspawn.send(3, b'x.example', recipients=[b'a@X.example', b'b@y.example'])
        rspawn.wait(lambda: len(rspawn.results) == 2)
        assert [rspawn.results[n][2] for n in (3, 4)] == [b'x.example a@X.example\n', b'y.example b@y.example\n']


def test_qmailremote_that_is_not_there(home):
    """A QMAILREMOTE that cannot be run is temporary."""
    with running(home, QMAILREMOTE='/nonexistent/program') as rspawn:
        rspawn.send(3, recipients=[b'a@x', b'b@x'])
        rspawn.wait(lambda: len(rspawn.results) == 2)
        assert {result[0] for result in rspawn.results.values()} == {b'Z'}


def children_here():
    """The processes that this one has begun and not reaped, those of other tests among them."""
    with open('/proc/self/task/%d/children' % os.getpid()) as file:
        return file.read().split()


@pytest.mark.parametrize('call', ['memory_copy', 'pipe2', 'fork', 'pidfd_open'])
def test_qmailremote_that_cannot_be_started(monkeypatch, tmp_path, call):
    """INV6: whichever call fails, the delivery is temporary, and neither a descriptor nor a process is left of it."""
    from qpy.qpyr import rspawn
    answers = []

    def fail(*args):
        raise OSError(errno.EMFILE, 'Too many open files')
    monkeypatch.setattr(rspawn.program, 'warn', lambda line: None)
    jobs, client = rspawn.Jobs(), type('Client', (), {'send': lambda self, *record: answers.append(record)})()
    programs = rspawn.Programs(rspawn.Loop(), jobs, b'/bin/cat')
    (tmp_path / 'message').write_bytes(b'x')
    gc.collect()
    before, children = os.listdir('/proc/self/fd'), children_here()
    with monkeypatch.context() as patch:
        patch.setattr(unix, call, fail)
        programs.send((b'1', b'h', b's', b'', b'1', jobs.add(client, b'7', programs) + b' r@h'),
                      os.open(tmp_path / 'message', os.O_RDONLY))
    assert answers == [(b'Z', b'7', b'', remote_report.NOT_RUN)]
    assert os.listdir('/proc/self/fd') == before
    assert children_here() == children
