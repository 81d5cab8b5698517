"""Cases of the catalogue (cases.txt) about machines that are not as they should be: slow, stopped, without /proc, with
homes that hang, with a million files."""
import contextlib
import ctypes
import os
import signal
import smtplib
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from qpy import unix
from qpy.core import mess
from tests.peers import queued as rig
from tests.peers.send_rig import Rig
from tests.power import whole
from tests.power.whole import Message, World

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'chain'))
import houses  # noqa: E402

ANN, BOB = 54001, 54002
SOURCE = houses.SOURCE
libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def house(kind=houses.House, **more):
    """A House, gone afterwards."""
    made = kind(**more)
    try:
        yield made
    finally:
        made.remove()


# --- /proc ---

@pytest.mark.root
def test_a_chain_without_proc():
    """P-12: where /proc is not mounted the chain does not start, and says why and what to do."""
    with house() as there:
        words = 'umount -l /proc && exec setpriv --reuid %d --regid %d --clear-groups %s/bin/qpy-start' % (
            there.uid, there.gid, there.home)
        done = subprocess.run(['unshare', '-m', 'sh', '-c', words], capture_output=True, text=True, cwd='/', timeout=30)
        assert done.returncode == 111
        assert (done.stdout + done.stderr).splitlines()[-1] == (
            'qpy-start: fatal: unable to start: /proc is not mounted, by which deliveries open the message anew; '
            'mount -t proc proc /proc')



# --- time ---

class Throttle:
    """Lets a chain run a tenth of the time: what a quota of the processor does."""

    def __init__(self, start):
        self.start, self.over = start, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def signal(self, number):
        """To all of its processes."""
        for pid in [self.start, *houses.descendants(self.start)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def run(self):
        """Stop and go."""
        while not self.over.wait(0.01):
            self.signal(signal.SIGSTOP)
            self.over.wait(0.09)
            self.signal(signal.SIGCONT)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.signal(signal.SIGCONT)


@pytest.mark.slow
def test_hardly_any_processor_time():
    """D-12: with a tenth of its time everything is only slower: no program ends, nothing is refused or there twice."""
    with house() as there:
        there.recipe('user', '.qmail-list', './Maildir/\n')
        there.start()
        with Throttle(there.process.pid):
            for number in range(10):
                there.smtp(['user@here.test', 'user-list@here.test'], text='number %d.' % number)
            for number in range(10):
                there.await_message('user/Maildir', 'number %d.' % number, 2)
        assert len(there.messages('user/Maildir')) == 20
        assert not any('warning' in line and 'dnspython' not in line and 'TLS' not in line
                       for line in there.lines), there.lines
        assert there.stop() == 0


@pytest.mark.parametrize('wall, mono', [(600, 600), (600, 0), (86400, 86400), (30 * 86400, 0)],
                         ids=['stopped', 'suspended', 'stopped for a day', 'suspended for a month'])
def test_the_whole_machine_stands_still(monkeypatch, wall, mono):
    """Q-32: all programs at once, for minutes or for weeks, at any moment of a message's way: each recipient is served
    once when it goes on, nothing bounces that would not have, and nobody is told of anything."""
    seam = whole.install(monkeypatch)
    for moment in range(8):
        world = World({b'later@z.example': b'Z'})
        with seam.on(whole.fresh_disk('ordered', False), world):
            system = whole.System(seam)
            system.pump()
            system.submit(Message(1, b'joe@here.example', [b'bob@here.example', b'later@z.example', b'fine@x.example']))
            steps = [system.pump, lambda: system.deliver(1), system.pump, lambda: system.deliver(1), system.pump,
                     system.deliver, system.pump]
            for step in steps[:moment]:
                step()
            world.wall, world.mono = world.wall + wall, world.mono + mono
            system.run()
            system.stop()
            whole.check(seam.disk, world)
            assert len(world.abroad) == 2 and len(whole.files_of(seam.disk.tree(b'/disk/home'), b'bob')) == 1
            assert not whole.files_of(seam.disk.tree(b'/disk/home'), b'joe')


# --- homes that hang ---

class Hung:
    """A mounted file system that answers nothing: an NFS server that has gone away."""

    def __init__(self, place):
        self.place = place
        self.fuse = os.open('/dev/fuse', os.O_RDWR)
        options = b'fd=%d,rootmode=40755,user_id=0,group_id=0,allow_other' % self.fuse
        if libc.mount(b'hung', place.encode(), b'fuse', 6, options):
            os.close(self.fuse)
            pytest.skip('no FUSE here: ' + os.strerror(ctypes.get_errno()))
        unique = struct.unpack_from('<IIQ', os.read(self.fuse, 1 << 20))[2]
        body = struct.pack('<IIIIHHIIHHI28x', 7, 31, 131072, 0, 16, 12, 1 << 20, 1, 256, 0, 0)
        os.write(self.fuse, struct.pack('<IiQ', 16 + len(body), 0, unique) + body)

    def end(self):
        """Whoever waits gets an error."""
        libc.umount2(self.place.encode(), 2)
        os.close(self.fuse)


@pytest.mark.root
@pytest.mark.slow
def test_a_home_that_hangs():
    """L-02: a user's home answers nothing at all.  Everybody else's mail is delivered meanwhile, his deliveries are
    given up at their limit and tried later, and when the home answers again he has his mail."""
    with house(houses.Rooted, users={'ann': (ANN, ANN), 'bob': (BOB, BOB)}) as there:
        path = there.home + '/lib/qpy/qpyu/pool.py'
        with open(path) as file:
            text = file.read()
        assert '\nGRACE = 300.0 ' in text
        with open(path, 'w') as file:
            file.write(text.replace('\nGRACE = 300.0 ', '\nGRACE = 1.0 '))
        there.write('control/timeoutlocal', '2\n')
        there.start()
        there.smtp('bob@here.test', text='before')
        there.await_message('bob/Maildir', 'before')
        hung = Hung(there.user_homes['ann'])
        try:
            for number in range(3):
                there.sendmail('ann@here.test', text='Subject: s\n\nfor ann %d\n' % number)
            for number in range(5):
                there.smtp('bob@here.test', text='meanwhile %d' % number)
                there.await_message('bob/Maildir', 'meanwhile %d' % number)
            there.await_line('deferral', 3)
        finally:
            hung.end()
        there.process.send_signal(signal.SIGALRM)
        for number in range(3):
            there.await_message('ann/Maildir', 'for ann %d' % number)
        assert there.stop() == 0


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize('first', ['deliveries', 'rcpt'])
def test_homes_of_passwd_that_hang(first):
    """L-02: several users of passwd have homes on a file server that is gone.  At RCPT their mail has to wait, and names that
    are unknown are refused all the while; deliveries to them are deferred, and everybody else's are made.  Workers
    wait for them, as many as may; the log names each once; and when the homes answer again, they have their mail."""
    hanging = ['h%d' % number for number in range(1, 6)]
    with house(houses.Rooted, users={}) as there:
        most_given_up(there, 3)
        for name in ('hung', 'well', *('well/' + name for name in hanging), 'bob'):
            os.mkdir(os.path.join(there.top, name))
        for name in [*('well/' + name for name in hanging), 'bob']:
            os.chown(os.path.join(there.top, name), ANN if name != 'bob' else BOB, BOB)
        os.symlink('hung', there.top + '/server')
        hung = Hung(there.top + '/hung')
        try:
            start_with(there, [(name, ANN, there.top + '/server/' + name) for name in hanging] + [('bob', BOB, there.top + '/bob')])
            for step in (deliver, ask) if first == 'deliveries' else (ask, deliver):
                step(there, hanging)
            there.await_line('deferral', len(hanging))
            assert any('/server/h5_does_not_answer' in line for line in there.lines)
            named = [line.partition(' does not answer')[0][-2:] for line in there.lines if 'another worker serves' in line]
            assert 'h1' in named and len(set(named)) == len(named) <= 3 and set(named) < set(hanging)
            assert len(houses.descendants(there.daemons()['users'])) == 2 + 3
        finally:
            os.symlink('well', there.top + '/server.new')
            os.rename(there.top + '/server.new', there.top + '/server')
            hung.end()
        there.await_that(lambda: len(houses.descendants(there.daemons()['users'])) == 2, 'end of those who waited')
        there.process.send_signal(signal.SIGALRM)
        for name in hanging:
            there.await_message('well/%s/Maildir' % name, 'for ' + name)
        assert there.stop() == 0


def ask(there, hanging):
    """At RCPT: what hangs has to wait, the others are told from those that do not exist."""
    with smtplib.SMTP('127.0.0.1', there.port, local_hostname='client.test', timeout=20) as client:
        client.ehlo()
        client.mail('sender@else.test')
        for name in hanging:
            assert client.rcpt(name + '@here.test')[0] == 451
            assert client.rcpt('nobody@here.test')[0] == 550
            assert client.rcpt('bob@here.test')[0] == 250
        assert client.rcpt('h1-list@here.test')[0] == 451


def deliver(there, hanging):
    """To what hangs, and to somebody else after each."""
    for name in hanging:
        there.sendmail(name + '@here.test', text='Subject: s\n\nfor %s\n' % name)
        there.smtp('bob@here.test', text='beside ' + name)
        there.await_message('bob/Maildir', 'beside ' + name)


def most_given_up(there, number):
    """Let fewer workers wait, so that a test sees the last of them."""
    path = there.home + '/lib/qpy/qpyp/board.py'
    with open(path) as file:
        text = file.read()
    assert '\nGIVEN_UP = 8 ' in text
    with open(path, 'w') as file:
        file.write(text.replace('\nGIVEN_UP = 8 ', '\nGIVEN_UP = %d ' % number))


def start_with(there, people):
    """Start a chain that finds these in its /etc/passwd: (name, uid, home)."""
    with open('/etc/passwd') as known, open(there.top + '/passwd', 'w') as own:
        own.write(known.read() + ''.join('%s:x:%d:%d::%s:/bin/false\n' % (name, uid, BOB, home) for name, uid, home in people))
    words = 'mount --bind %s/passwd /etc/passwd && exec "$@"' % there.top
    there.start(through=('unshare', '-m', 'sh', '-c', words, 'sh'))


# --- load ---

@pytest.mark.parametrize('wanted', [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_many_idle_connections(wanted):
    """D-01: beside 10,000 clients that say nothing a new one is served at once, with bounded memory."""
    import resource
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < wanted + 1000:
        pytest.skip('fewer descriptors than that are allowed here')
    with house() as there:
        there.write('control/concurrencyincoming', '0\n')
        there.write('control/concurrencyaddress', '0\n')
        there.start()
        socks = []
        try:
            for _ in range(wanted):
                sock = socket.socket()
                socks.append(sock)
                sock.connect(('127.0.0.1', there.port))
            greeted = sum(sock.recv(3) == b'220' for sock in socks)
            assert greeted == wanted
            began = time.monotonic()
            there.smtp('user@here.test', text='beside them')
            there.await_message('user/Maildir', 'beside them')
            assert time.monotonic() - began < 5
            smtpd = [pid for pid in houses.descendants(there.daemons()['smtpd'])]
            used = sum(int(houses.status(pid).get('RssAnon', '0 kB').split()[0]) for pid in smtpd)
            assert used < 5 * wanted + 50_000, 'smtpd uses %d KB' % used
        finally:
            for sock in socks:
                sock.close()
        assert there.stop() == 0


OLDEST = 1_700_000_000_000_000


def fill(home, many):
    """Messages to one user, in queue/mess, with consecutive IDs; none was tried yet."""
    envelope = mess.Envelope(b'joe@here.example', [b'bob@here.example']).build()
    directory = os.open(home + b'/queue/mess', os.O_RDONLY)
    for number in range(OLDEST, OLDEST + many):
        ident = b'%016d' % number
        fd = os.open(ident, os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=directory)
        os.write(fd, mess.pack(b'Subject: x\n\nhello\n', envelope, ident))
        os.close(fd)
    os.close(directory)


@contextlib.contextmanager
def home_in_memory():
    """A home whose files never reach a disk."""
    before, tempfile.tempdir = tempfile.tempdir, '/dev/shm'
    try:
        with rig.temporary_home() as home:
            yield home
    finally:
        tempfile.tempdir = before


def anonymous_memory():
    """KB of this process."""
    return int(houses.status(os.getpid())['RssAnon'].split()[0])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not os.path.isdir('/dev/shm'), reason='needs /dev/shm')
def test_many_files_in_the_queue():
    """D-04, Q-26: send starts on a queue of 100,000 real files (QPY_MANY of them).  It needs 300 bytes for each beside
    what it works on, every one is found, and a new message is delivered while it still searches."""
    many = int(os.environ.get('QPY_MANY', '100000'))
    with home_in_memory() as home:
        fill(home, many)
        there = Rig(home)
        try:
            before, began = anonymous_memory(), time.monotonic()
            unix.monotonic = lambda: there.mono + time.monotonic() - began      # Rig's own clock stands still
            there.start()
            there.ends[b'new'].send(b'<%016d\0' % (OLDEST + many))
            new = there.put(b'ann@here.example', announce=False)
            there.ends[b'new'].send(new + b'\0')
            while not any(job[4] == b'ann@here.example' for job in there.jobs):
                there.loop.step(0)
                there.serve()
            first, searched = time.monotonic() - began, there.send.searched
            while not there.send.searched:
                there.loop.step(0)
                there.serve()
            assert not searched and first < 5, 'the new message had to wait: %.1f s' % first
            assert all(there.send.dispatch.knows(OLDEST + number) for number in range(many))
            used = (anonymous_memory() - before) * 1024
            assert used < 15_000_000 + 300 * many, '%d bytes each' % (used // many)
            seconds = time.monotonic() - began
            assert seconds < 5 + many / 3000, 'searched in %.0f s' % seconds
        finally:
            there.end()


@pytest.mark.root
@pytest.mark.slow
def test_one_user_who_submits_without_pause():
    """D-09: while one local user fills the queue as fast as he is let, on all connections he may have, what others hand
    in is taken in less than ten times its usual time."""
    with house(houses.Rooted, users={'ann': (ANN, ANN)}) as there:
        there.start()

        def usual():
            seconds = []
            for number in range(15):
                began = time.monotonic()
                there.smtp('ann@here.test', text='by the way %d' % number)
                seconds.append(time.monotonic() - began)
            return sorted(seconds)
        alone = usual()
        flood = subprocess.Popen([sys.executable, '-c', FLOOD, there.home, SOURCE], user=BOB, group=BOB,
                                 extra_groups=[],
                                 stdout=subprocess.PIPE, env={})
        try:
            assert flood.stdout.readline() == b'begun\n'
            beside = usual()
        finally:
            flood.kill()
            flood.wait()
            flood.stdout.close()
        assert beside[len(beside) // 2] < 10 * alone[len(alone) // 2] + 0.05, (alone, beside)
        assert there.process.poll() is None


FLOOD = """
import os, socket, sys, threading
sys.path.insert(0, sys.argv[2])
from qpy.core import submit
os.chdir(sys.argv[1] + '/run')
message = submit.frame(b'Subject: flood\\n\\nx\\n') + submit.END + submit.envelope(b'bob@here.test', [b'ann@here.test'])
taken = threading.Event()
def run():
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect('submit')
                sock.sendall(submit.VERSION)
                while True:
                    sock.sendall(message)
                    if not sock.recv(100):
                        break
                    taken.set()
        except OSError:
            pass
for _ in range(30):
    threading.Thread(target=run, daemon=True).start()
taken.wait()
print('begun', flush=True)
threading.Event().wait()
"""


# --- links ---

@pytest.fixture
def unprotected_links():
    """The kernel's own protection of links and files in /tmp is off for the time of a test."""
    switches = ['/proc/sys/fs/protected_' + name for name in ('hardlinks', 'symlinks', 'regular', 'fifos')]
    before = {}
    try:
        for path in switches:
            with open(path) as file:
                before[path] = file.read()
            with open(path, 'w') as file:
                file.write('0')
    except OSError as problem:
        pytest.skip('the switches cannot be set here: %s' % problem)
    try:
        yield
    finally:
        for path, value in before.items():
            with open(path, 'w') as file:
                file.write(value)


@pytest.mark.root
@pytest.mark.slow
def test_links_where_the_kernel_does_not_protect(unprotected_links):
    """L-16: an mbox in a directory where everybody may write, which somebody has made a link to a victim's file before:
    the victim's file is untouched, with fs.protected_* all off."""
    with house(houses.Rooted, users={'ann': (ANN, ANN), 'bob': (BOB, BOB)}) as there:
        spool = there.top + '/spool'
        os.mkdir(spool)
        os.chmod(spool, 0o1777)
        victim = there.user_homes['ann'] + '/notes'
        there.write(victim, 'mine\n', (ANN, ANN))
        for name, make in (('soft', os.symlink), ('hard', os.link)):
            make(victim, spool + '/' + name)
            os.lchown(spool + '/soft', BOB, BOB)
            there.recipe('ann', '.qmail-' + name, spool + '/' + name + '\n')
        os.mkfifo(spool + '/pipe')
        os.chown(spool + '/pipe', BOB, BOB)
        there.recipe('ann', '.qmail-pipe', spool + '/pipe\n')
        there.start()
        for name in ('soft', 'hard', 'pipe'):
            there.sendmail('ann-%s@here.test' % name, text='Subject: s\n\nfor %s\n' % name)
        there.await_line('deferral', 3)
        with open(victim) as file:
            assert file.read() == 'mine\n'
        assert len(there.queue()) >= 3
