"""qpy-start with stand-ins for the daemons: what it refuses, what it hands over, and how the chain ends."""
import os
import shutil
import signal
import socket
import subprocess

import pytest

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DAEMONS = ('queued', 'clean', 'resolve', 'users', 'seed', 'lspawn', 'rspawn', 'bouncer', 'send')
STAND_IN = '''#!/usr/bin/python3 -IS
import os, signal, sys
name = os.path.basename(sys.argv[0]).rpartition('-')[2]
count = int(os.environ['LISTEN_FDS'])
def say(text):
    os.write(2, text.encode() + b'\\n')
ignored = [s.name for s in (signal.SIGHUP, signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD) if signal.getsignal(s) is signal.SIG_IGN]
if name == 'send':
    signal.signal(signal.SIGTERM, lambda *_: (say('got TERM'), os._exit(0)))
    signal.signal(signal.SIGHUP, lambda *_: say('got HUP'))
    signal.signal(signal.SIGALRM, lambda *_: say('got ALRM'))
fds = sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1]
say('hello %s %s ign=%s fds=%d session=%s pid=%s env=%s cwd=%s null=%s' % (
    ' '.join(sys.argv[1:]), os.environ['LISTEN_FDNAMES'], ','.join(ignored), len(fds), os.getsid(0) == os.getpid(),
    os.environ['LISTEN_PID'] == str(os.getpid()), ','.join(sorted(os.environ)), os.getcwd(),
    os.path.samefile('/proc/self/fd/0', '/dev/null')))
if name == os.environ.get('DIES'):
    os._exit(3)
while os.read(2 + count, 1):
    pass
say('goodbye')
'''


class House:
    """A rootless DIR with stand-ins, owned by `uid` when the tests run as root."""

    def __init__(self, home):
        self.home = home
        for name in ('bin', 'control', 'run', 'queue', 'queue/mess', 'queue/state', 'queue/damaged'):
            os.mkdir(os.path.join(home, name))
        for name, mode in (('', 0o700), ('queue/mess', 0o750), ('queue/state', 0o750), ('queue/damaged', 0o700)):
            os.chmod(os.path.join(home, name), mode)
        for name in DAEMONS:
            self.write('bin/qpy-' + name, STAND_IN, 0o755)
        self.write('bin/qpy-log', '#!/bin/sh\nexec %s/bin/qpy-log\n' % SOURCE, 0o755)
        self.write('control/me', 'me.test\n')
        self.process, self.path, self.before = None, '/bin', []

    def write(self, name, text, mode=0o644):
        path = os.path.join(self.home, name)
        with open(path, 'w') as file:
            file.write(text)
        os.chmod(path, mode)

    def start(self, *arguments, log=None):
        """Start it; its log goes into a pipe that is read here, or into a file."""
        user = {}
        if os.geteuid() == 0:
            for directory, directories, files in os.walk(self.home):
                for name in ['.'] + directories + files:
                    os.chown(os.path.join(directory, name), 54321, 54321)
        self.process = subprocess.Popen([*self.before, SOURCE + '/bin/qpy-start', *arguments], stdin=subprocess.DEVNULL,
                                        stdout=open(log, 'w') if log else subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd='/',
                                        env={'QPYHOME': self.home, 'SECRET': 'x', 'PATH': self.path}, **user)
        return self.process

    def read_until(self, wanted, count=1):
        """Lines up to the count-th that holds `wanted`."""
        lines = []
        while count:
            line = self.process.stdout.readline()
            assert line, 'ended before %r:\n%s' % (wanted, ''.join(lines))
            lines.append(line)
            count -= wanted in line
        return lines

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            if self.process.stdout:
                self.process.stdout.close()
            self.process.wait()

    def refusal(self):
        """The one line of a start that is refused."""
        out, _ = self.start().communicate(timeout=60)
        assert self.process.returncode == 111
        assert out.count('\n') == 1 + out.count('rootless:')
        return out


@pytest.fixture
def house(tmp_path):
    made = House(str(tmp_path))
    yield made
    made.end()


def test_each_program_gets_what_its_line_says(house):
    """Descriptors by name and nothing else, a session of its own, a clean environment; TERM ends the chain with 0."""
    house.write('control/services', 'extra qpyd tcp:127.0.0.1:%d,unix:deep:0600 A=b qpy-users x y\n' % free_port())
    house.start('|cat')
    lines = house.read_until('hello', len(DAEMONS) + 1)
    assert 'rootless: everything runs under uid' in lines[0]
    said = {line.partition(': ')[0]: line for line in lines if ': hello' in line}
    assert 'hello  submit:new:life ign= fds=6 session=True pid=True' in said['queued']
    assert 'hello |cat lspawn:seed:life ign= fds=6' in said['lspawn']
    assert 'hello x y extra:deep:life ign= fds=6' in said['extra'] and 'env=A,' in said['extra']
    assert all('SECRET' not in line and 'cwd=/ null=True' in line for line in said.values())
    (bare,) = [line for line in lines if line.startswith('hello')]
    assert 'control:life ign=SIGHUP,SIGALRM ' in bare       # send's line carries no name; who tells it something early does not end it
    house.process.send_signal(signal.SIGTERM)
    rest = house.process.stdout.read()
    assert 'got TERM' in rest and rest.count('goodbye') == len(DAEMONS)
    assert house.process.wait() == 0


STRAY = """import sys
sys.path.insert(0, %r)
from qpy import unix
from qpy.lib import program
from qpy.root import bind
only_one = bind.only_one
bind.only_one = lambda home: (unix.dup2(unix.open(b'/etc/passwd', unix.O_RDONLY), 60), only_one(home))[1]
program.run('qpy.root.start')
""" % SOURCE


@pytest.mark.parametrize('before', [['sh', '-c', 'exec 5</etc/passwd 9</etc/passwd; exec "$@"', 'sh'],
                                    ['/usr/bin/python3', '-IS', '-c', STRAY]])
def test_strays_reach_nobody(house, before):
    """P-10, P01: what whoever starts us has open is closed at once, by qpy-start too; and what it should not close itself on
    exec reaches no program."""
    house.before = before
    house.start()
    lines = house.read_until('hello', len(DAEMONS))
    assert 'hello  submit:new:life ign= fds=6 ' in next(line for line in lines if line.startswith('queued: hello'))
    if before[0] == 'sh':
        held = '/proc/%d/fd' % house.process.pid
        assert '/etc/passwd' not in [os.readlink(os.path.join(held, fd)) for fd in os.listdir(held)]


@pytest.mark.skipif(not shutil.which('ps'), reason='no ps here')
def test_qmails_names_are_what_ps_and_pgrep_find(house):
    """After --qmail-names the daemons that qmail has run by its names, which pgrep, pidof, and tools that read ps look
    for, and HUP to what they find is HUP to send; the others keep theirs."""
    for name in ('send', 'lspawn', 'rspawn', 'clean'):
        os.symlink('qpy-' + name, house.home + '/bin/qmail-' + name)
    house.start()
    house.read_until('hello', len(DAEMONS))

    def found(name):
        said = subprocess.run(['ps', '-ewwo', 'pid=,comm=,args='], capture_output=True, text=True, check=True).stdout
        return [line.split() for line in said.splitlines() if house.home in line and line.split()[1] == name]
    for name in ('qmail-send', 'qmail-lspawn', 'qmail-rspawn', 'qmail-clean', 'qpy-users', 'qpy-queued'):
        (line,) = found(name)
        assert house.home + '/bin/' + name in line
    assert not found('qpy-send')
    os.kill(int(found('qmail-send')[0][0]), signal.SIGHUP)
    house.read_until('got HUP')
    house.process.send_signal(signal.SIGTERM)
    assert 'got TERM' in house.process.stdout.read() and house.process.wait() == 0


def test_hup_and_alrm_go_to_send(house):
    """HUP and ALRM are relayed to send and end nothing; INT is as TERM."""
    house.start()
    house.read_until('hello', len(DAEMONS))
    for number, word in ((signal.SIGHUP, 'got HUP'), (signal.SIGALRM, 'got ALRM'), (signal.SIGINT, 'got TERM')):
        house.process.send_signal(number)
        house.read_until(word)
    house.process.stdout.read()
    assert house.process.wait() == 0


def test_hup_says_what_is_broken(house):
    """At HUP each control file that is broken is named at once with line, value and remedy, whoever reads it and when;
    send is told all the same, and a mended file is not named again."""
    house.start()
    house.read_until('hello', len(DAEMONS))
    house.write('control/smtproutes', 'a.test:relay.test\nb.test:relay.test:99999\n')
    house.write('control/bounceformat', 'pretty\n')
    house.write('control/virtaldomains', 'x.test:joe\n')
    os.mkfifo(house.home + '/control/percenthack')
    house.process.send_signal(signal.SIGHUP)
    told = ''
    while told.count('warning') < 4 or 'got HUP' not in told:
        told += ''.join(house.read_until('\n'))
    assert 'qpy-start: warning: control/bounceformat, line 1, "pretty": write one of: rfc3464 qsbmf; until it is mended, ' \
        'who reads it keeps what it had\n' in told
    assert 'warning: control/smtproutes, line 2, "relay.test:99999": ' in told
    assert 'warning: control/virtaldomains: no program reads a file of this name; did you mean virtualdomains?\n' in told
    assert 'warning: control/percenthack: this is a FIFO, and must be a file; rm ' in told
    for name in ('smtproutes', 'bounceformat', 'virtaldomains', 'percenthack'):
        os.unlink(os.path.join(house.home, 'control', name))
    house.process.send_signal(signal.SIGHUP)
    house.read_until('got HUP')
    house.process.send_signal(signal.SIGTERM)
    assert 'warning' not in house.process.stdout.read() and house.process.wait() == 0


@pytest.mark.parametrize('name', ['queued', 'users', 'send'])
def test_the_end_of_one_is_the_end_of_all(house, name):
    """When any program of the chain ends, all end, it is said which, and the code is 111."""
    house.write('control/services', '%s qpyq - DIES=%s qpy-%s\n' % (name, name, name))
    house.start()
    rest = house.process.stdout.read()
    assert '%s has ended with exit code 3; ending the chain' % name in rest
    assert rest.count('goodbye') == len(DAEMONS) - 1
    assert house.process.wait() == 111


@pytest.mark.parametrize('dying', ['log', 'logger'])
def test_the_end_of_the_log_is_said_where_there_was_none_yet(house, dying):
    """When qpy-log ends, or what reads it, standard error as qpy-start found it has the line that says so."""
    if dying == 'log':
        house.start()
        house.read_until('hello', len(DAEMONS))
        os.kill(children(house.process.pid)['qpy-log'], signal.SIGKILL)
        said = 'qpy-start: log has ended by signal 9; ending the chain'
    else:
        house.start('./Maildir/', 'sh', '-c', 'exit 3')
        said = 'qpy-start: logger has ended with exit code 3; ending the chain'
    assert said in house.process.stdout.read().split('\n')
    assert house.process.wait() == 111


def children(pid):
    """{name: pid} of the programs that a process has started."""
    found = {}
    for name in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open('/proc/%s/stat' % name) as file:
                parent = file.read().rpartition(') ')[2].split()[1]
            with open('/proc/%s/cmdline' % name) as file:
                words = file.read().split('\0')
        except OSError:                             # it has ended
            continue
        if int(parent) == pid:
            found.update((os.path.basename(word), int(name)) for word in words if '/bin/' in word)
    return found


def test_a_killed_start_takes_the_chain_with_it(house):
    """After SIGKILL of start nothing of the chain is left: the log's pipes all come to their end."""
    house.start()
    house.read_until('hello', len(DAEMONS))
    house.process.kill()
    house.process.stdout.read()          # comes to an end only when no program holds the log any more


def test_only_one_chain_for_a_directory(house):
    """A second start is refused and leaves the sockets of the first alone."""
    house.start()
    house.read_until('hello', len(DAEMONS))
    first, sockets = house.process, sorted(os.listdir(house.home + '/run'))
    out, _ = house.start().communicate()
    assert 'another qpy-start runs' in out and house.process.returncode == 111
    assert sorted(os.listdir(house.home + '/run')) == sockets
    house.process = first


def test_a_queue_that_cannot_be_written(house):
    """A lock that does not open, as on a file system that is mounted read-only: the file, why, and what is wanted of it."""
    house.write('queue/lock', '', 0o400)
    out, _ = house.start().communicate()
    assert house.process.returncode == 111
    assert ('unable to start: Permission denied: %s/queue/lock; qpy writes to this file and to all of %s/queue: let it'
            % (house.home, house.home)) in out


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir, lambda path: os.symlink('/dev/null', path)])
def test_a_lock_that_is_no_file(house, make):
    """It is named with what to type; nothing waits for a FIFO's reader, nothing is made where a link leads."""
    make(house.home + '/queue/lock')
    out, _ = house.start().communicate(timeout=60)
    assert house.process.returncode == 111
    assert 'unable to start: queue/lock: not a regular file; rm -r %s/queue/lock' % house.home in out


@pytest.mark.parametrize('most', [40, 256, 512])
def test_too_few_descriptors(house, most):
    """A hard limit that the chain cannot work under is named before any program runs, with what raises it."""
    house.before = ['/bin/sh', '-c', 'ulimit -n %d; exec "$@"' % most, 'sh']
    out, _ = house.start().communicate()
    assert house.process.returncode == 111
    assert 'unable to start: at most %d descriptors may be open (RLIMIT_NOFILE, hard); 1024 are the least: ' % most in out


def test_sockets_are_closed_to_others_and_paths_may_be_long(tmp_path, house):
    """Rootless sockets have mode 0600, stale ones are replaced, and DIR may be deeper than a socket's name can be."""
    deep = house.home + '/' + 'd' * 100
    os.mkdir(deep)
    made = House(deep)
    stale = socket.socket(socket.AF_UNIX)
    here = os.open('.', os.O_RDONLY)
    os.chdir(deep + '/run')
    try:
        stale.bind('submit')
    finally:
        os.fchdir(here)
        os.close(here)
    try:
        os.chmod(house.home, 0o711)
        made.start()
        made.read_until('hello', len(DAEMONS))
        modes = {name: os.stat(deep + '/run/' + name).st_mode & 0o777 for name in os.listdir(deep + '/run')}
        assert set(modes.values()) == {0o600} and 'submit' in modes
    finally:
        made.end()
        stale.close()


def test_a_port_that_is_taken(house):
    """The refusal names address, port and service."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        house.write('control/services', 'smtpd qpyd tcp:127.0.0.1:%d qpy-users\n' % taken.getsockname()[1])
        assert 'unable to listen on 127.0.0.1 port %d for smtpd' % taken.getsockname()[1] in house.refusal()


@pytest.mark.parametrize('make, kind', [(os.mkdir, 'directory'), (lambda path: open(path, 'w').close(), 'file')])
def test_something_else_in_the_place_of_a_socket(house, make, kind):
    """It is named for what it is, with the remedy, and stays: who knows whose it is."""
    path = house.home + '/run/submit'
    make(path)
    assert '%s: this is a %s, and must be a socket, which qpy-start makes; move it elsewhere' % (path, kind) in house.refusal()
    assert os.path.exists(path)


@pytest.mark.parametrize('file, text, words', [
    ('control/databytes', '10M\n', 'control/databytes, line 1, "10M": not a number'),
    ('control/me', '\n', 'control/me'),
    ('control/services', 'smtpd qpyd tcp:25 qpy-smtpd\n', 'control/services, line 1, "tcp:25": write tcp:ADDRESS:PORT'),
    ('control/locals', 'a\r\n', 'control/locals, line 1'),
    ('control/locals', 'here.test\na b\n', 'control/locals, line 2, "a b": not a domain; write one domain per line'),
    ('control/virtualdomains', 'a.test:a\nb.test\n', 'control/virtualdomains, line 2, "b.test": no colon; write domain:user'),
    ('control/doublebounceto', '@\n', 'control/doublebounceto, line 1, "@": write only what stands before the @'),
    ('control/smtproutes', 'relay.test\n', 'control/smtproutes, line 1, "relay.test": no colon; write domain:relay'),
    ('control/smtproutes', ':relay:smtp\n', 'control/smtproutes, line 1, "relay:smtp": not a port number'),
    ('control/tcp.smtp', ':allow\n10.:no\n', 'control/tcp.smtp, line 2, "10.:no": after the colon, write allow or deny'),
    ('control/resolvers', 'ns.test\n', 'control/resolvers, line 1, "ns.test": write an address'),
    ('control/accounts', '#\nqpyx:y\n', 'control/accounts, line 2, "qpyx:y": write role:name, one of the roles qpyd'),
    ('control/programlimits', 'memory:64\ncpus:1\n', 'control/programlimits, line 2, "cpus:1": no such limit; one of: cpu '),
    ('control/defaultdelivery', 'Maildir\n', 'control/defaultdelivery, line 1, "Maildir": write ./Maildir/'),
])
def test_a_broken_control_file_is_named(house, file, text, words):
    """Start refuses with file, line, value and remedy."""
    house.write(file, text)
    assert words in house.refusal()


@pytest.mark.parametrize('name, mode', [('queue/mess', 0o755), ('control', 0o777), ('queue/damaged', 0o750), ('', 0o755)])
def test_a_directory_of_wrong_mode_is_named_with_the_remedy(house, name, mode):
    """Start refuses and says which chmod to type."""
    path = os.path.join(house.home, name).rstrip('/')
    os.chmod(path, mode)
    out = house.refusal()
    assert 'has mode %04o, must have' % mode in out and 'chmod' in out and path in out


def test_a_directory_in_place_of_a_control_file(house):
    """It is named with what to type."""
    os.mkdir(house.home + '/control/percenthack')
    assert ('control/percenthack: this is a directory, and must be a file; rmdir %s/control/percenthack' % house.home
            in house.refusal())


def test_a_fifo_in_place_of_a_control_file(house):
    """It is named with what to type; start does not wait for it."""
    os.mkfifo(house.home + '/control/percenthack')
    assert ('control/percenthack: this is a FIFO, and must be a file; rm %s/control/percenthack' % house.home
            in house.refusal())


def test_a_control_file_closed_to_its_reader(house):
    """Rootless: DIR's owner may not read it."""
    os.chmod(house.home + '/control/me', 0)
    assert 'may not read it; chmod 0644 %s/control/me' % house.home in house.refusal()


def test_a_delivery_instruction_that_is_none(house):
    """`Maildir` would be an address to forward to: refused, with what was meant."""
    out, _ = house.start('Maildir').communicate()
    assert house.process.returncode == 111
    assert 'unable to deliver by "Maildir": write ./Maildir/ for a Maildir' in out


def test_rules_may_be_a_cdb(house):
    """control/tcp.smtp as tcprules makes it is taken."""
    from qpy.core import cdb
    with open(house.home + '/control/tcp.smtp', 'wb') as file:
        file.write(cdb.build([(b'', b'')]))
    house.start()
    house.read_until('hello', len(DAEMONS))


def test_a_directory_that_is_missing(house):
    """Start refuses and says what makes it."""
    os.rmdir(house.home + '/queue/state')
    assert 'queue/state: missing; run qpy-install' in house.refusal()


def test_a_control_file_others_can_write(house):
    """A launcher directory open to others is refused: they would decide what runs."""
    os.chmod(house.home + '/bin', 0o777)
    assert 'chmod 0755' in house.refusal()


@pytest.mark.parametrize('name', ['control/me', 'control/locals', 'users/cdb'])
def test_a_file_others_can_write(house, name):
    """A control file or a table of users open to others is refused with the remedy."""
    os.makedirs(house.home + '/users', exist_ok=True)
    house.write(name, 'me.test\n', 0o666)
    out = house.refusal()
    assert '%s: has mode 0666' % name in out and 'chmod go-w' in out


def test_a_program_that_is_missing(house):
    """Start names path and line before anything is started."""
    os.unlink(house.home + '/bin/qpy-rspawn')
    assert ('unable to start: %s/bin/qpy-rspawn: missing, and rspawn is to run; install it' % house.home
            in house.refusal())
    house.write('bin/qpy-rspawn', STAND_IN, 0o755)
    house.write('control/services', 'filter qpyd - /nonexistent/filter\n')
    assert ('/nonexistent/filter: missing, and filter is to run; install it, or mend '
            'control/services, line 1' in house.refusal())


def test_the_reason_of_a_failed_start_is_there_before_it_returns(house):
    """A program whose interpreter is missing: what stands in the log when start has returned says why."""
    house.write('bin/qpy-users', '#!/nonexistent/python\n', 0o755)
    log = house.home + '/log'
    house.start(log=log)
    assert house.process.wait(60) == 111
    with open(log) as file:
        said = file.read()
    assert 'users has ended with exit code 111; ending the chain' in said
    assert 'unable to run %s/bin/qpy-users: No such file or directory' % house.home in said


def test_a_word_that_is_no_delivery(house):
    """A first argument that could be taken for an address is refused, before a logger runs."""
    out, _ = house.start('a', 'b').communicate()
    assert 'unable to deliver by "a": write ./Maildir/' in out and house.process.returncode == 111


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def test_the_unit_is_more_patient_than_the_end_takes():
    """systemd's unit waits longer than deliveries may take at the end and the chain after them, and the sample says so."""
    from qpy.admin.installing import supervisors
    from qpy.core import controls
    from qpy.root import chain
    patience = int(supervisors.SYSTEMD.partition('TimeoutStopSec=')[2].partition('s\n')[0])
    assert controls.row(b'timeoutstop')[2] + chain.GRACE + chain.LAST_WORDS < patience
    with open(SOURCE + '/control/timeoutstop') as file:
        text = file.read()
    assert 'waits for %d,' % patience in text and chain.GRACE + chain.LAST_WORDS < 20
