"""qpy-lspawn, its seed and the users' warm qpy-local as real processes; the test is qpy-send and qpy-users.

As root: accounts qpyu, qpyp and so on, mail for uids that exist nowhere else.  As a plain user: a DIR of one's own.
"""
import array
import contextlib
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time

import pytest

from qpy import unix
from qpy.core import accounts, channel
from tests.peers import handing

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AS_ROOT = os.geteuid() == 0
UID = 54321 if AS_ROOT else os.geteuid()
OTHER = 54322
PATIENCE = 30
root_only = pytest.mark.skipif(not AS_ROOT, reason='needs root: several accounts')


def spawn(program, args, fds, names, home, uid):
    """Start bin/PROGRAM with descriptors handed over in systemd's way."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        handing.place(fds)
        if AS_ROOT:
            os.setgroups([])
            os.setresgid(*[uid[1]] * 3)
            os.setresuid(*[uid[0]] * 3)
        env = {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': str(len(fds)), 'LISTEN_FDNAMES': ':'.join(names),
               'QPYHOME': home, 'PATH': '/usr/bin:/bin'}
        null = os.open('/dev/null', os.O_RDWR)
        log = os.open(home + '/log', os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execve(os.path.join(SOURCE, 'bin', program), [program, *args], env)
    finally:
        os._exit(99)


class Chain:
    """A DIR with lspawn and seed; users: {local part: fields of a `w` record after the number}."""

    def __init__(self, default='./Maildir/', timeout=None):
        self.home = tempfile.mkdtemp(prefix='qpy-lspawn-')
        os.chmod(self.home, 0o755)
        for name in ('control', 'queue', 'queue/mess', 'run', 'users'):
            os.mkdir(os.path.join(self.home, name))
        open(self.home + '/log', 'w').close()
        os.chmod(self.home + '/log', 0o666)
        if timeout:
            with open(self.home + '/control/timeoutlocal', 'w') as file:
                file.write('%d\n' % timeout)
        self.users, self.asked, self.n = {}, [], 0
        self.life, life = os.pipe()[::-1]
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.serve_users()
        self.listening = listen(self.home + '/run/lspawn')
        self.pids = [spawn('qpy-seed', [], [pair[0].fileno(), life], ['seed', 'life'], self.home, (0, 0)),
                     spawn('qpy-lspawn', [default], [self.listening.fileno(), pair[1].fileno(), life],
                           ['lspawn', 'seed', 'life'], self.home, identity('qpyu'))]
        for end in pair:
            end.close()
        os.close(life)
        self.send = self.connect()
        self.reports = {}

    def connect(self):
        """Be qpy-send."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(PATIENCE)
        sock.connect(self.home + '/run/lspawn')
        data = sock.recv(unix.PACKET_LIMIT)
        (letter, (capacity,)), *_ = channel.unpack(data, channel.LSPAWN_REPORT)
        assert letter == b'C' and int(capacity) >= 100
        return sock

    def serve_users(self):
        """Be qpy-users."""
        self.users_socket = listen(self.home + '/run/users')

        def answer():
            while True:
                try:
                    client, _ = self.users_socket.accept()
                except OSError:
                    return
                while True:
                    data = client.recv(unix.PACKET_LIMIT)
                    if not data:
                        break
                    for _, (number, local) in channel.unpack(data, channel.USERS_ASK):
                        self.asked.append(local)
                        fields = self.users.get(local, (b'temp', b'', b'', b'', b'', b'', b'', b'no such test user'))
                        client.send(channel.pack(b'w', number, *fields))
        threading.Thread(target=answer, daemon=True).start()

    def user(self, local, uid=UID, home=None, dash=b'', ext=b'', gid=None):
        """A user with a new home; returns it."""
        home = home or os.path.join(self.home, 'home-' + local.decode())
        if not os.path.isdir(home):
            os.mkdir(home, 0o755)
            if AS_ROOT:
                os.chown(home, uid, uid)
        gid = (uid if AS_ROOT else os.getegid()) if gid is None else gid
        self.users[local] = (b'yes', local, b'%d' % uid, b'%d' % gid, home.encode(), dash, ext, b'test')
        return home

    def ask(self, local, message=b'A: b\n\nbody\n', sender=b's@y', options=b'', sock=None):
        """Ask for one delivery; its number."""
        self.n += 1
        fd = unix.memfd(message)
        data = channel.pack(b'L', b'%d' % self.n, b'1234567890123456', sender,
                            local if b'@' in local or not local else local + b'@x.example', options)
        (sock or self.send).sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])
        os.close(fd)
        return self.n

    def report(self, number):
        """(letter, text) of a delivery, waiting for it."""
        while number not in self.reports:
            data = self.send.recv(unix.PACKET_LIMIT)
            assert data, 'lspawn is gone: ' + self.log()
            for letter, (delnum, scope, text) in channel.unpack(data, channel.LSPAWN_REPORT):
                assert int(delnum) not in self.reports and scope == b''
                self.reports[int(delnum)] = letter, text
        return self.reports[number]

    def deliver(self, *args, **more):
        """Ask and wait."""
        return self.report(self.ask(*args, **more))

    def log(self):
        with open(self.home + '/log') as file:
            return file.read()

    def workers(self):
        """The pids of the warm users."""
        with open('/proc/%d/task/%d/children' % (self.pids[0], self.pids[0])) as file:
            return [int(word) for word in file.read().split()]

    def close(self):
        """End the chain by its life pipe; everything must go."""
        workers = self.workers()
        os.close(self.life)
        self.send.close()
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]
        for pid in workers:
            wait_for(lambda pid=pid: not running(pid))
        self.users_socket.shutdown(socket.SHUT_RDWR)
        self.users_socket.close()
        self.listening.close()
        shutil.rmtree(self.home)
        return codes


def listen(path):
    """A listening socket that everybody may connect to."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(path)
    os.chmod(path, 0o666)
    sock.listen(100)
    return sock


def identity(role):
    """(uid, gid) of an account; the own ones as a plain user."""
    if not AS_ROOT:
        return os.geteuid(), os.getegid()
    return unix.getpwnam(role.encode())[1], unix.getgrnam(accounts.GROUP[role.encode()])


def running(pid):
    """Whether a process is there and not a zombie."""
    try:
        with open('/proc/%d/stat' % pid) as file:
            return file.read().rpartition(')')[2].split()[0] not in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(fact):
    """Wait until something that no descriptor tells has happened."""
    end = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < end
        select.select([], [], [], 0.01)


def mails(home, box='Maildir'):
    """The messages in new/."""
    new = os.path.join(home, box, 'new')
    return [open(os.path.join(new, name), 'rb').read() for name in sorted(os.listdir(new))]


@pytest.fixture(scope='session')
def made_accounts():
    """The accounts, made for the time of the tests if they are missing."""
    made = []
    if AS_ROOT:
        for role in accounts.ROLES:
            try:
                unix.getpwnam(role)
            except KeyError:
                group = accounts.GROUP[role].decode()
                subprocess.run(['groupadd', '-f', '--system', group], check=True)
                subprocess.run(['useradd', '--system', '-M', '-g', group, role.decode()], check=True)
                made.append(role.decode())
    yield
    for role in made:
        subprocess.run(['userdel', role], check=False)
    for group in {accounts.GROUP[role.encode()].decode() for role in made}:
        subprocess.run(['groupdel', group], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture
def chain(made_accounts):
    """A running lspawn with its seed."""
    running_chain = Chain()
    yield running_chain
    assert running_chain.close() == [0, 0]


def test_a_message_lands(chain):
    """The whole way: looked up, handed to the user's process, in his Maildir under his own uid and gid."""
    home = chain.user(b'joe')
    assert chain.deliver(b'joe') == (b'K', b'did 1+0+0\n')
    assert mails(home) == [b'Return-Path: <s@y>\nDelivered-To: joe@x.example\nA: b\n\nbody\n']
    name = os.path.join(home, 'Maildir/new', os.listdir(home + '/Maildir/new')[0])
    assert os.stat(name).st_uid == UID and stat.S_IMODE(os.stat(name).st_mode) == 0o600


def test_many_at_once(chain):
    """Deliveries of several addresses of one user, all answered once, all there."""
    home = chain.user(b'joe')
    for i in range(5):
        chain.user(b'joe-%d' % i, home=home, dash=b'-', ext=b'%d' % i)
    with open(home + '/.qmail-default', 'w') as file:
        file.write('./Maildir/\n')
    numbers = [chain.ask(b'joe')] + [chain.ask(b'joe-%d' % (i % 5)) for i in range(150)]
    assert {chain.report(number) for number in numbers} == {(b'K', b'did 1+0+0\n')}
    assert len(mails(home)) == 151 and len(chain.workers()) == 1
    assert not os.listdir(home + '/Maildir/tmp')


def test_what_needs_no_user(chain):
    """No local part and no host are permanent, and said so; a look-up that fails is temporary."""
    assert chain.deliver(b'@x.example') == (b'D', b'Sorry, address must include a name in front of the @. (#5.1.3)\n')
    assert chain.deliver(b'') == (b'D', b'Sorry, address must include host name. (#5.1.3)\n')
    assert chain.deliver(b'nobody') == (b'Z', b'no such test user\n')
    wait_for(lambda: not chain.workers())           # the seed may still be making its namespace


def test_never_as_root(chain):
    """S3: an answer with uid 0 delivers nothing, with qmail's words; gid 0 neither."""
    chain.user(b'root', uid=0, home='/')
    chain.user(b'wheel', uid=UID, home='/', gid=0)
    text = b'Not allowed to perform deliveries as root.\n'
    if AS_ROOT:
        assert chain.deliver(b'root') == (b'Z', text)
        assert chain.deliver(b'wheel') == (b'Z', text)
    else:
        assert chain.deliver(b'root')[0] == b'Z'


@pytest.mark.skipif(AS_ROOT, reason='about a DIR that belongs to a plain user')
def test_rootless_defers_other_users(chain):
    """Rootless: mail for another uid waits, and the report says why."""
    chain.user(b'other', uid=UID + 1)
    letter, text = chain.deliver(b'other')
    assert letter == b'Z' and b'without root' in text


@root_only
@pytest.mark.parametrize('uid', [1, 42, 999, 65534])
def test_no_service_becomes_a_mail_user(chain, uid):
    """P24: the seed refuses ids below the minimum, nobody, and qpy's own accounts."""
    for number in (uid, identity('qpyq')[0], identity('qpyd')[0]):
        chain.user(b'x%d' % number, uid=number, home='/tmp')
        assert chain.deliver(b'x%d' % number)[0] == b'Z'
    assert not chain.workers()


@root_only
def test_what_a_worker_is(chain):
    """P30: all ids are the user's, one group, no capability, no way back; not dumpable; nothing above descriptor 5."""
    chain.user(b'joe')
    chain.deliver(b'joe')
    status = dict(line.split(':', 1) for line in open('/proc/%d/status' % chain.workers()[0]) if ':' in line)
    assert status['Uid'].split() == status['Gid'].split() == [str(UID)] * 4
    assert set(status['Groups'].split()) <= {str(UID)}
    assert all(int(status[name], 16) == 0 for name in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb'))
    assert status['NoNewPrivs'].strip() == '1'
    assert os.stat('/proc/%d/environ' % chain.workers()[0]).st_uid == 0        # not dumpable: not his to trace


@root_only
def test_the_seed(chain):
    """P24, P02: after start the seed is qpyu with two capabilities in a namespace where root does not exist."""
    chain.user(b'joe')
    chain.deliver(b'joe')
    status = dict(line.split(':', 1) for line in open('/proc/%d/status' % chain.pids[0]) if ':' in line)
    uid = str(identity('qpyu')[0])
    assert status['Uid'].split() == [uid, uid, '0' if 'no user namespace' in chain.log() else uid, uid]
    assert int(status['CapEff'], 16) == 1 << 6 | 1 << 7
    if 'no user namespace' not in chain.log():
        for kind in ('uid_map', 'gid_map'):
            ranges = [tuple(map(int, line.split())) for line in open('/proc/%d/%s' % (chain.pids[0], kind))]
            assert all(first == outside and first > 0 for first, outside, _ in ranges)
            for forbidden in (0, 42, 6, 65534, identity('qpyq')[0]):
                assert not any(first <= forbidden < first + count for first, _, count in ranges)


@root_only
def test_users_are_apart(chain):
    """P30, P31: each user's mail is written by his own process, and a program of one cannot read the other's."""
    one, other = chain.user(b'one'), chain.user(b'other', uid=OTHER)
    os.chmod(other, 0o700)
    assert chain.deliver(b'other')[0] == b'K'
    with open(one + '/.qmail', 'w') as file:
        file.write('|id -u; id -G; ls %s/Maildir 2>&1 | grep -c denied; ls /proc/self/fd | wc -l\n' % other)
    assert chain.deliver(b'one') == (b'K', b'%d\n%d\n1\n4\ndid 0+0+1\n' % (UID, UID))
    assert len(chain.workers()) == 2


def test_a_slow_program_delays_nobody(chain):
    """Jobs with a program have a child of their own: a Maildir delivery of the same user goes past them."""
    home = chain.user(b'joe')
    chain.user(b'joe-slow', home=home, dash=b'-', ext=b'slow')
    os.mkfifo(home + '/gate')
    os.chmod(home + '/gate', 0o666)
    with open(home + '/.qmail-slow', 'w') as file:
        file.write('|cat gate; echo go\n')
    slow = [chain.ask(b'joe-slow') for _ in range(30)]
    assert chain.deliver(b'joe') == (b'K', b'did 1+0+0\n')
    assert not set(slow) & set(chain.reports)
    opener = threading.Thread(target=lambda: open_gate(home + '/gate', lambda: set(slow) <= set(chain.reports)))
    opener.start()
    assert {chain.report(number) for number in slow} == {(b'K', b'go\ndid 0+0+1\n')}
    opener.join()


def open_gate(path, finished):
    """Let everybody through who waits at a FIFO, until it is finished."""
    while not finished():
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            select.select([], [], [], 0.01)         # nobody waits just now


def test_a_killed_worker(chain):
    """Q-33: a user who kills his own process gets what it held later, and the next delivery has a new one."""
    home = chain.user(b'joe')
    assert chain.deliver(b'joe') == (b'K', b'did 1+0+0\n')
    worker = chain.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    number = chain.ask(b'joe')
    chain.user(b'nobody', uid=0)
    chain.deliver(b'nobody')                # after this lspawn has passed the other one on
    os.kill(worker, signal.SIGKILL)
    assert chain.report(number) == (b'Z', b'qmail-local crashed.\n')
    assert chain.deliver(b'joe') == (b'K', b'did 1+0+0\n')
    assert len(mails(home)) == 2


def test_a_killed_guardian(chain):
    """P36: killing the process that waits for a program makes the delivery temporary and ends the program too."""
    home = chain.user(b'joe')
    with open(home + '/.qmail', 'w') as file:
        file.write('|echo $$ > pid; kill -9 $PPID; exec sleep 987\n')
    assert chain.deliver(b'joe') == (b'Z', b'qmail-local crashed.\n')
    with open(home + '/pid') as file:
        pid = int(file.read())
    wait_for(lambda: not running(pid))
    assert len(chain.workers()) == 1


def test_a_program_at_its_limit(made_accounts):
    """L-28: the limit of control/timeoutlocal ends a program and its descendants; temporary."""
    chain = Chain(timeout=1)
    try:
        home = chain.user(b'joe')
        with open(home + '/.qmail', 'w') as file:
            file.write('|setsid sleep 988 & echo $! > pid; sleep 988\n')
        assert chain.deliver(b'joe') == (b'Z', b'Program ran out of time and was stopped. (#4.3.0)\n')
        with open(home + '/pid') as file:
            assert not running(int(file.read()))
    finally:
        assert chain.close() == [0, 0]


def test_mixed_jobs_and_exact_reports(chain):
    """L-36: what a program prints is the report's text, and its letters or NULs change no verdict."""
    home = chain.user(b'joe')
    for script, wanted in ((b'|printf "Kfine\\\\nZ\\\\0x"; exit 100\n', (b'D', b'Kfine\nZ')),
                           (b'|echo no; exit 1\n', (b'Z', b'no\n')), (b'./no/such\n', None),
                           (b'#\n', (b'K', b'did 0+0+0\n'))):
        with open(home + '/.qmail', 'wb') as file:
            file.write(script)
        got = chain.deliver(b'joe')
        assert got == wanted or wanted is None and got[0] == b'Z'


def test_qmail_is_read_anew(chain):
    """L-08: an edited .qmail counts for the next delivery, though the user is warm."""
    home = chain.user(b'joe')
    assert chain.deliver(b'joe') == (b'K', b'did 1+0+0\n')
    with open(home + '/.qmail', 'w') as file:
        file.write('./mbox\n')
    assert chain.deliver(b'joe') == (b'K', b'did 1+0+0\n')
    assert os.path.getsize(home + '/mbox') and len(mails(home)) == 1


def test_a_number_in_use(chain):
    """A delivery number that is still in use is refused, temporarily."""
    home = chain.user(b'joe')
    with open(home + '/.qmail', 'w') as file:
        file.write('|sleep 0.5\n')
    number = chain.ask(b'joe')
    chain.n -= 1
    chain.ask(b'joe')
    assert chain.report(number) == (b'Z', b'Internal error: delnum in use. (#4.3.5)\n')
    del chain.reports[number]
    assert chain.report(number)[0] == b'K'


def test_send_comes_again(chain):
    """Q-34: after qpy-send was lost its deliveries end by themselves; a new one is served, and hears only its own."""
    home = chain.user(b'joe')
    assert chain.deliver(b'joe') == (b'K', b'did 1+0+0\n')
    chain.ask(b'joe')
    chain.send.close()
    chain.send = chain.connect()
    assert chain.deliver(b'joe') == (b'K', b'did 1+0+0\n')
    assert len(mails(home)) in (2, 3)       # whether the one in between was still read is chance


def test_garbage_from_send(chain):
    """P-01: a malformed packet ends that connection and nothing else."""
    chain.send.send(b'Lnonsense')
    assert chain.send.recv(100) == b''
    chain.send = chain.connect()
    chain.user(b'joe')
    assert chain.deliver(b'joe')[0] == b'K'


def test_the_seed_dies(made_accounts):
    """Without its seed lspawn ends with 111, and the chain with it."""
    chain = Chain()
    os.kill(chain.pids[0], signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(chain.pids[1], 0)[1]) == 111
    os.waitpid(chain.pids[0], 0)
    os.close(chain.life)
    shutil.rmtree(chain.home)


def test_answers_are_remembered_for_a_moment(chain):
    """A burst to one user is one question to qpy-users."""
    chain.user(b'joe')
    numbers = [chain.ask(b'joe') for _ in range(20)]
    for number in numbers:
        assert chain.report(number)[0] == b'K'
    assert chain.asked.count(b'joe') <= 2


def test_a_new_table_counts_at_once(chain):
    """What qpy-newu or an edit of users/cdb changes is asked for again, by the confined program, within the moment for which
    an answer is remembered."""
    chain.user(b'joe')
    assert chain.deliver(b'joe')[0] == b'K' and chain.asked.count(b'joe') == 1
    with open(chain.home + '/users/cdb', 'w') as table:
        table.write('new')
    assert chain.deliver(b'joe')[0] == b'K' and chain.asked.count(b'joe') == 2


def test_signals_do_not_cut_deliveries(chain):
    """TERM, INT, HUP and ALRM to lspawn and the seed change nothing: the chain ends by its life pipe."""
    chain.user(b'joe')
    assert chain.deliver(b'joe')[0] == b'K'
    for pid in chain.pids:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
            os.kill(pid, number)
    assert chain.deliver(b'joe')[0] == b'K'


def test_a_killed_worker_with_a_running_program(chain):
    """Q-33: a user who kills his process while a program of his runs: later, at once, though the program goes on."""
    home = chain.user(b'joe')
    with open(home + '/.qmail', 'w') as file:
        file.write('|echo $$ > pid; exec sleep 989\n')
    number = chain.ask(b'joe')
    wait_for(lambda: os.path.exists(home + '/pid') and os.path.getsize(home + '/pid'))
    os.kill(chain.workers()[0], signal.SIGKILL)
    assert chain.report(number) == (b'Z', b'qmail-local crashed.\n')
    os.unlink(home + '/.qmail')
    assert chain.deliver(b'joe') == (b'K', b'did 1+0+0\n')
    with open(home + '/pid') as file, contextlib.suppress(ProcessLookupError):     # its guardian may have ended it
        os.kill(int(file.read()), signal.SIGKILL)


@root_only
def test_a_fork_bomb(made_accounts):
    """L-30, P37: a program that multiplies is ended with all it made, and another user's mail goes past it."""
    chain = Chain(timeout=1)
    try:
        home, other = chain.user(b'joe'), chain.user(b'other', uid=OTHER)
        with open(home + '/.qmail', 'w') as file:
            file.write('|n() { n & sleep 600 & sleep 0.01; n; }; n\n')
        number = chain.ask(b'joe')
        assert chain.deliver(b'other') == (b'K', b'did 1+0+0\n') and mails(other)
        assert chain.report(number)[0] == b'Z'
        assert not [pid for pid in os.listdir('/proc') if pid.isdigit() and sleeps(pid)]
    finally:
        assert chain.close() == [0, 0]


def sleeps(pid):
    """Whether this is one of the bomb's processes."""
    try:
        with open('/proc/%s/cmdline' % pid, 'rb') as file:
            return file.read() == b'sleep\x00600\x00'
    except OSError:
        return False


def queue_once(chain, answer):
    """Be qpy-queued for one message: returns a list that will hold (message, envelope)."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(chain.home + '/run/submit')
    os.chmod(chain.home + '/run/submit', 0o666)
    listening.listen(1)
    got = []

    def serve():
        client = listening.accept()[0].makefile('rwb')
        assert client.read(1) == b'\1'
        message = b''
        while size := int.from_bytes(client.read(4), 'big'):
            message += client.read(size)
        envelope = b''
        while not envelope.endswith(b'\0\0'):
            envelope += client.read(1)
        got.append((message, envelope))
        client.write(answer)
        client.flush()
        listening.close()
    threading.Thread(target=serve, daemon=True).start()
    return got


def test_a_forward_carries_its_options_over(chain):
    """Forwards are one submission after the last line, with trace ID, SMTPUTF8 and REQUIRETLS of the original."""
    home = chain.user(b'joe')
    with open(home + '/.qmail', 'w') as file:
        file.write('a@z\n./mbox\nb@z\n')
    got = queue_once(chain, b'K1795576183000001\0')
    number = chain.ask(b'joe', options=b'X1795576182000001\nU\nQ')
    assert chain.report(number) == (b'K', b'did 1+2+0\nqp 1795576183000001\n')
    message, envelope = got[0]
    assert message == b'Delivered-To: joe@x.example\nA: b\n\nbody\n'
    assert envelope == b'Fs@y\0X1795576182000001\0U\0Q\0Ta@z\0Tb@z\0\0'


def test_a_program_is_told_what_it_carries_over(chain):
    """The same for what programs send on: they find it in QPYENVELOPE; where there is nothing it is not set."""
    home = chain.user(b'joe')
    with open(home + '/.qmail', 'w') as file:
        file.write('|echo "${QPYENVELOPE-none}"\n')
    assert chain.report(chain.ask(b'joe', options=b'B8BITMIME\nQ'))[1] == b'B8BITMIME\nQ\ndid 0+0+1\n'
    assert chain.deliver(b'joe')[1] == b'none\ndid 0+0+1\n'


@pytest.mark.parametrize('answer, wanted', [
    (b'31 no, never (#5.3.0)\0', (b'D', b'Unable to forward message: no, never (#5.3.0).\n')),
    (b'53 full (#4.3.0)\0', (b'Z', b'Unable to forward message: full (#4.3.0).\n'))])
def test_a_refused_forward(chain, answer, wanted):
    """L-32: what queued says decides, and is said."""
    home = chain.user(b'joe')
    with open(home + '/.qmail', 'w') as file:
        file.write('a@z\n')
    queue_once(chain, answer)
    assert chain.deliver(b'joe') == wanted


def test_a_program_cannot_change_the_message(chain):
    """P34, L-31: what one recipient's program does to its descriptor 0 changes nothing for the next reader."""
    home = chain.user(b'joe')
    with open(home + '/.qmail', 'w') as file:
        file.write('|(echo x >&0) 2>/dev/null && echo bad; (: > /proc/self/fd/0) 2>/dev/null && echo worse; '
                   'chmod 666 /proc/self/fd/0 2>/dev/null; exit 0\n|cat\n')
    letter, text = chain.deliver(b'joe')
    if AS_ROOT:
        assert b'worse' not in text
    assert letter == b'K' and b'bad' not in text and text.endswith(b'A: b\n\nbody\ndid 0+0+2\n')


STRANGER = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
    sock.settimeout(20)
    sock.connect('/proc/self/fd/' + sys.argv[1])
    sys.stdout.buffer.write(sock.recv(100))
"""


def stranger(path):
    """What another account hears at a socket that seqpackets come from: b'' at its end."""
    os.chmod(path, 0o777)
    directory = os.open(os.path.dirname(path), os.O_PATH)
    try:
        done = subprocess.run(['/usr/bin/python3', '-I', '-c', STRANGER, '%d/%s' % (directory, os.path.basename(path))],
                              user=54399, pass_fds=[directory], cwd='/', capture_output=True, timeout=60)
    finally:
        os.close(directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lspawn_and_its_seed_meet_at_a_socket(tmp_path):
    """Started by systemd they share no pair: the seed accepts its one client on DIR/run/seed, and lspawn connects; who is
    neither of its account nor root is sent away."""
    import socket
    import threading
    from qpy import unix
    from qpy.qpyu import lspawn, seed
    (tmp_path / 'run').mkdir()
    os.chown(tmp_path, os.geteuid() or 54321, -1)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(tmp_path / 'run/seed'))
    listening.listen()
    found = []
    waiting = threading.Thread(target=lambda: found.append(seed.only_client(listening.detach())))
    waiting.start()
    if os.geteuid() == 0:
        assert stranger(str(tmp_path / 'run/seed')) == b''
    ours = lspawn.seed_socket(os.fsencode(str(tmp_path)), {})
    waiting.join(20)
    unix.send_packet(ours, b'U')
    assert unix.recv_packet(found[0])[0] == b'U'
    ours.close()
    found[0].close()
