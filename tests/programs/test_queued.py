"""qpy-queued as a process: hostile clients, restarts, limits, the channel to send."""
import array
import contextlib
import os
import signal
import socket
import subprocess
import time
import traceback

import pytest

from qpy import unix, unix_kernel
from qpy.core import ids, mess, submit as protocol
from qpy.lib import loop as loops, packets, reserve, submit
from qpy.qpyq import queued, store
from tests.peers import queued as rig

MESSAGE = b'Subject: x\n\nbody\n'
ONE = protocol.frame(MESSAGE) + protocol.END + protocol.envelope(b'a', [b'b'])


@pytest.fixture
def home():
    """A rootless DIR with its queue."""
    with rig.temporary_home() as made:
        yield made


@pytest.fixture
def daemon(home):
    """queued, serving home."""
    started = rig.Daemon(home, 'queued', [b'submit', b'new'])
    yield started
    started.kill()


def listing(home, directory=b'mess'):
    """The names in queue/mess."""
    return sorted(os.listdir(home + b'/queue/' + directory))


def hear(sock):
    """Everything up to the end of the connection."""
    heard = b''
    try:
        while data := sock.recv(65536):
            heard += data
    except ConnectionResetError:
        pass
    return heard


def answer(sock):
    """The next answer."""
    heard = b''
    while not heard.endswith(b'\0'):
        data = sock.recv(1)
        assert data, heard
        heard += data
    return heard


def answered(inside, sock):
    """What a client of the loop is told about its next message."""
    said = b''
    while not said.endswith(b'\0'):
        inside.loop.step(5)
        try:
            said += sock.recv(1000)
        except BlockingIOError:
            pass
    return said


def accepted(said):
    """True for K, ID, NUL."""
    return said[:1] == b'K' and mess.is_id(said[1:-1]) and said[-1:] == b'\0'


# --- clients ---

def test_byte_by_byte_and_all_at_once(home, daemon):
    """However the bytes arrive, each message is queued once and answered once, in order, also after shutdown."""
    sock = rig.connect(home, b'submit')
    for byte in protocol.VERSION + ONE:
        sock.send(bytes([byte]))
    assert accepted(answer(sock))
    sock.sendall(ONE * 500)
    sock.shutdown(socket.SHUT_WR)
    said = hear(sock).split(b'\0')
    assert len(said) == 501 and [s[1:] for s in said[:-1]] == sorted(s[1:] for s in said[:-1])
    assert len(listing(home)) == 501


@pytest.mark.parametrize('long', [False, True])
def test_whoever_is_cut_off_has_not_submitted(home, daemon, long):
    """INV2: a connection that ends at any byte before the last leaves nothing, not even a part."""
    whole = protocol.VERSION + (protocol.frame(b'x' * 300_000) if long else b'') + ONE
    for cut in ([1, 5, 30_000, 299_000, 300_020, len(whole) - 1] if long else range(len(whole))):
        sock = rig.connect(home, b'submit')
        sock.sendall(whole[:cut])
        sock.shutdown(socket.SHUT_WR)
        assert hear(sock) == b''
    assert listing(home) == []


@pytest.mark.parametrize('said, code', [
    (b'\x02', b'91'), (b'EHLO there\r\n', b'91'), (b'\x01\xff\xff\xff\xfe', b'91'),
    (b'\x01' + protocol.END + b'\0', b'91'), (b'\x01' + protocol.END + b'Fa\0Fb\0\0', b'91'),
    (b'\x01' + protocol.END + b'F' + b'a' * 1003 + b'\0\0', b'11'), (b'\x01' + protocol.END + b'Fa\0Tb\r\0\0', b'31'),
])
def test_bad_submissions(home, daemon, said, code):
    """S-16, P-08: refused with qmail-queue's codes; nothing queued; others are served."""
    sock = rig.connect(home, b'submit')
    sock.sendall(said)
    assert answer(sock).startswith(code + b' ')
    assert listing(home) == []
    assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0


def test_garbage_from_many_clients(home, daemon):
    """P-01: random bytes, behind a right version byte or not, end no daemon and queue nothing."""
    for size in (1, 10, 1000, 100_000):
        for start in (b'', protocol.VERSION, protocol.VERSION + protocol.frame(MESSAGE) + protocol.END):
            sock = rig.connect(home, b'submit')
            try:
                sock.sendall(start + os.urandom(size).replace(b'\0', b'\1'))
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            assert b'K' not in hear(sock)[:1]
    assert listing(home) == [] and submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0


def test_a_refused_message_does_not_disturb_its_neighbours(home, daemon):
    """Good, bad and abandoned messages on one connection: each gets its own answer, in order."""
    sock = rig.connect(home, b'submit')
    bad = protocol.frame(b'y' * 400_000) + protocol.END + b'Ta\0\0'
    sock.sendall(protocol.VERSION + ONE + bad + protocol.frame(b'z' * 400_000) + protocol.ABANDON + ONE)
    assert accepted(answer(sock)) and answer(sock).startswith(b'91 ') and accepted(answer(sock))
    assert len(listing(home)) == 2


def descriptors(daemon):
    """How many it has open; root alone may look, as queued is not dumpable."""
    return len(os.listdir('/proc/%d/fd' % daemon.pid)) if os.geteuid() == 0 else 0


def test_descriptors_are_never_taken(home, daemon):
    """S-13, P14: descriptors beside the bytes do not reach queued; the kernel may even refuse them."""
    assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
    before = descriptors(daemon)
    sock = rig.connect(home, b'submit')
    read, write = os.pipe()
    try:
        sock.sendmsg([protocol.VERSION], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [write] * 100))])
    except OSError:
        sock.sendall(protocol.VERSION)
    sock.sendall(ONE)
    assert accepted(answer(sock))
    os.close(write)
    assert os.read(read, 1) == b''                  # nobody holds the other end
    os.close(read)
    assert descriptors(daemon) <= before + 1


def test_a_long_message_is_streamed_and_stalls_nobody(home, daemon):
    """64 MB: memory stays small, and short messages are answered while it is under way."""
    sock = rig.connect(home, b'submit')
    sock.sendall(protocol.VERSION)
    piece = protocol.frame(b'x' * 65_536)
    for number in range(1024):
        sock.sendall(piece)
        if number % 256 == 128:
            assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
    with open('/proc/%d/status' % daemon.pid) as file:
        [peak] = [int(line.split()[1]) for line in file if line.startswith('VmHWM')]
    assert peak < 60_000                            # kB, most of it the interpreter's
    sock.sendall(protocol.END + protocol.envelope(b'a', [b'b']))
    said = answer(sock)
    with open(home + b'/queue/mess/' + said[1:-1], 'rb') as file:
        assert mess.unpack(file.read(), said[1:-1])[0].endswith(b'\n' + b'x' * (64 << 20))


@pytest.mark.root
def test_one_uid_cannot_take_all_connections(home, daemon):
    """S-12, P15: beyond its share a uid hears 71, and others are served."""
    os.setegid(61998)
    os.seteuid(61998)
    try:
        held = [rig.connect(home, b'submit') for _ in range(queued.USER_CONNECTIONS)]
        turned_away = rig.connect(home, b'submit')
        assert hear(turned_away).startswith(b'71 ')
        held[0].sendall(protocol.VERSION + ONE)     # those that are in go on
        assert accepted(answer(held[0]))
        for sock in held:
            sock.close()
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0


@contextlib.contextmanager
def acting_as(uid):
    """Root is this uid for a while, also for who is connected to."""
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def as_uid(home, uid):
    """A connection of this uid."""
    with acting_as(uid):
        return rig.connect(home, b'submit')


@pytest.mark.root
def test_many_uids_leave_room(home):
    """P15: with places for four strangers, each with his own uid, the fifth has that of the one who is idle longest; where
    none is, he hears 71.  Root and qpy's own account are served all the while."""
    daemon = rig.Daemon(home, 'queued', [b'submit', b'new'], 'from qpy import unix; unix.raise_descriptor_limit = lambda: 512')
    try:
        busy, idle, *others = [as_uid(home, 61001 + n) for n in range(4)]
        busy.sendall(protocol.VERSION + ONE[:-3])
        others[0].sendall(protocol.VERSION + ONE)       # an answer: all before it has been heard
        assert accepted(answer(others[0]))
        fifth = as_uid(home, 61005)
        assert hear(idle).startswith(b'52 ')
        fifth.sendall(protocol.VERSION + ONE)
        assert accepted(answer(fifth))
        for sock in (fifth, *others):
            sock.sendall((b'' if sock is not others[1] else protocol.VERSION) + ONE[:-3])
        assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
        rig.wait_until(lambda: hear(as_uid(home, 61006)).startswith(b'71 '))
        with rig.as_owner():
            assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
        for sock in (busy, fifth, *others):
            sock.sendall(ONE[-3:])
            assert accepted(answer(sock))
        with acting_as(61007):
            assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
    finally:
        daemon.kill()


@pytest.mark.root
def test_provenance_is_the_kernels(home, daemon):
    """P08, P46: another uid's message carries that uid, whatever it says, and its P, C, H, L are dropped."""
    lies = [(b'u', b'0'), (b'p', b'1'), (b't', b'1'), (b'P', b'ESMTP'), (b'C', b'192.0.2.1'), (b'L', b'root'), (b'X', b'mine')]
    os.setegid(61998)
    os.seteuid(61998)
    try:
        code, ident = submit.send(home, b'a', [b'b'], MESSAGE, lies)
    finally:
        os.seteuid(0)
        os.setegid(0)
    with open(home + b'/queue/mess/' + ident, 'rb') as file:
        message, envelope = mess.unpack(file.read(), ident)
    assert [letter for letter, _ in envelope.options] == [b'u', b'p', b't', b'X']
    assert envelope.option(b'u') == b'61998' and envelope.option(b'p') == b'%d' % os.getpid()
    assert message.startswith(b'Received: (qpy %d invoked by uid 61998); ' % os.getpid())


# --- start and end ---

def test_start_sweeps_parts_and_goes_on_above_every_id(home):
    """*.part of an earlier run are removed, everything else stays; IDs begin above those in mess, state and damaged.
    A name beyond the year 2255 is no ID."""
    near = int(time.time() * 1e6) + 3_600_000_000
    high = [mess.make_id(near + n) for n in range(3)]
    names = {b'mess': [b'1764036974123456', b'77.1.part', b'notes', b'9999999999999999'], b'state': high[:1], b'damaged': high[1:2]}
    for directory, files in names.items():
        for name in files:
            open(home + b'/queue/' + directory + b'/' + name, 'wb').close()
    daemon = rig.Daemon(home, 'queued', [b'submit', b'new'])
    ears = rig.connect(home, b'new')
    assert answer(ears) == b'<' + high[2] + b'\0'
    assert submit.send(home, b'a', [b'b'], MESSAGE)[1] == high[2]
    assert listing(home) == [b'1764036974123456', high[2], b'9999999999999999', b'notes']
    assert daemon.end() == 0


def test_ids_of_a_clock_that_stood_ahead(home):
    """IDs of the year 2049 in mess, state and damaged: new ones are of today, the old ones are told to who looks, and a
    warning says so; a name of the last year before 2255 stops nothing."""
    names = {b'mess': b'2500000000000007', b'state': b'2500000000000009', b'damaged': b'8999999999999999'}
    for directory, name in names.items():
        open(home + b'/queue/' + directory + b'/' + name, 'wb').close()
    began = int(time.time() * 1e6)
    daemon = rig.Daemon(home, 'queued', [b'submit', b'new'])
    ident = submit.send(home, b'a', [b'b'], MESSAGE)[1]
    assert began < int(ident) < time.time() * 1e6
    ears = rig.connect(home, b'new')
    assert b''.join(answer(ears) for _ in range(3)) == b'2500000000000007-2500000000000009\x008999999999999999-8999999999999999\0<%016d\0' % (int(ident) + 1)
    assert daemon.end() == 0 and b'warning: the queue has IDs ahead of the clock, up to 8999999999999999, 1' in daemon.log()


@pytest.mark.parametrize('directory', [b'mess', b'state', b'damaged'])
def test_what_an_ending_queued_leaves_is_seen(home, monkeypatch, directory):
    """Q-28: what the one before commits until it gives its lock away counts: send is told to look for it, and no new ID is
    below it."""
    late, lock = mess.make_id(int(time.time() * 1e6) + 3_600_000_000), queued.lock

    def at_last(*args):
        open(home + b'/queue/' + directory + b'/' + late, 'wb').close()
        return lock(*args)
    monkeypatch.setattr(queued, 'lock', at_last)
    with rig.as_owner():
        disk = queued.open_store(home)
    assert disk.ids.known()[0] > int(late) and disk.ids.give(1, int(time.time() * 1e6)) > int(late)
    os.close(disk.mess)


def test_a_second_queued_refuses(home, daemon):
    """Q-28: one writer; the second waits a little and says whose place is taken; it has touched nothing."""
    assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
    open(home + b'/queue/mess/77.1.part', 'wb').close()
    os.rename(home + b'/run/submit', home + b'/run/first')
    second = rig.Daemon(home, 'queued', [b'submit'], 'from qpy.qpyq import queued; queued.LOCK_TRIES = 3')
    assert second.wait() == 111 and b'another qpy-queued' in daemon.log()
    assert b'77.1.part' in listing(home)            # the first one may be writing it
    os.rename(home + b'/run/first', home + b'/run/submit')
    assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0


@pytest.mark.parametrize('spoil, words', [
    (lambda home: os.rename(home + b'/queue/mess', home + b'/queue/other'), b'queue/mess: No such file'),
    (lambda home: os.chmod(home + b'/queue/mess', 0o777), b'queue/mess: mode 0777'),
    (lambda home: os.chmod(home + b'/queue/state', 0o777), b'queue/state: mode 0777'),
    (lambda home: (os.rmdir(home + b'/queue/damaged'), open(home + b'/queue/damaged', 'w').close()), b'queue/damaged: not a directory'),
])
def test_a_wrong_queue_is_refused_with_its_path(home, spoil, words):
    """Q-27, A: wrong owner, mode or kind: exit 111 and one line that names the path."""
    spoil(home)
    daemon = rig.Daemon(home, 'queued', [b'submit', b'new'])
    assert daemon.wait() == 111 and words in daemon.log() and daemon.log().count(b'\n') == 1


def test_killed_at_any_time_what_was_acknowledged_is_there(home):
    """Q-11, S-09: kill -9 under load, again and again: every acknowledged message is whole in the queue."""
    acknowledged = []
    for number in range(5):
        daemon = rig.Daemon(home, 'queued', [b'submit', b'new'])
        socks = [rig.connect(home, b'submit') for _ in range(8)]
        for sock in socks:
            sock.sendall(protocol.VERSION + ONE * 40)
        first = answer(socks[0])
        daemon.kill()
        acknowledged.append(first)
        for sock in socks:
            acknowledged += [piece + b'\0' for piece in hear(sock).split(b'\0')[:-1]]
        assert all(accepted(said) for said in acknowledged)
    for said in acknowledged:
        with open(home + b'/queue/mess/' + said[1:-1], 'rb') as file:
            assert mess.unpack(file.read(), said[1:-1])[0].endswith(MESSAGE)
    assert len(acknowledged) == len(set(acknowledged)) >= 5


def test_the_end_of_the_chain_is_its_end_and_signals_are_not(home, daemon):
    """Only the life pipe ends it, with exit code 0."""
    assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
    for number in (1, 2, 15):
        os.kill(daemon.pid, number)
    assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
    assert daemon.end() == 0


def test_the_end_of_the_chain_names_nothing_that_it_does_not_answer(home, daemon):
    """Messages that come when the chain ends: each has its answer, or is not in the queue and its client comes again."""
    socks = [rig.connect(home, b'submit') for _ in range(8)]
    for sock in socks:
        sock.sendall(protocol.VERSION + ONE)
    before = {answer(sock)[1:-1] for sock in socks}
    os.kill(daemon.pid, signal.SIGSTOP)
    for sock in socks:
        sock.sendall(ONE)
    os.close(daemon.life)
    daemon.life = None
    os.kill(daemon.pid, signal.SIGCONT)         # all of it lies before it when it wakes
    assert daemon.wait() == 0
    answers = [hear(sock) for sock in socks]
    assert all(said == b'' or accepted(said) for said in answers)
    assert {said[1:-1] for said in answers if said} == set(listing(home)) - before


def test_a_full_disk_is_temporary_and_said_once(home, daemon):
    """Q-01, Q-10: while the queue cannot be written clients hear 53; afterwards all is well without a restart."""
    assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
    os.chmod(home + b'/queue/mess', 0o555)
    for body in (MESSAGE, b'x' * 300_000):
        for _ in range(3):
            assert submit.send(home, b'a', [b'b'], body)[0] == 53
    os.chmod(home + b'/queue/mess', 0o755)
    assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
    assert daemon.log().count(b'Permission denied') == 1 and len(listing(home)) == 2


SMALL_DISK = 'mount --make-rprivate / && mount -t tmpfs -o size=%dm,uid=%d,gid=%d,mode=755 none %s/queue'


def on_small_disk(home, megabytes, work):
    """work() in a child whose queue has a file system of its own, which ends with it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            unix_kernel.unshare(unix_kernel.CLONE_NEWNS)
            subprocess.run(['sh', '-c', SMALL_DISK % (megabytes, rig.OWNER, rig.OWNER, os.fsdecode(home))], check=True)
            for name in (b'mess', b'state', b'damaged'):
                os.mkdir(home + b'/queue/' + name, 0o755)
                rig.give(home + b'/queue/' + name)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.root
def test_who_fills_the_disk_leaves_room_for_root_and_us(home):
    """P15: when a user has filled the queue's disk with long and short messages, strangers hear 53; root's, ours and what send
    writes have room; it is said once, and strangers are served again when something has gone."""
    def work():
        daemon = rig.Daemon(home, 'queued', [b'submit', b'new'])
        with acting_as(61001):
            for size in (1 << 20, 100_000, 1000):
                while (code := submit.send(home, b'a', [b'b'], b'x' * size)[0]) == 0:
                    pass
                assert code == 53
        with acting_as(61002):
            assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 53
        with rig.as_owner():
            taken = 0
            while (code := submit.send(home, b'a', [b'b'], MESSAGE)[0]) == 0:
                taken += 1
            assert taken and code == 53
        for _ in range(5):
            assert submit.send(home, b'a', [b'b'], b'x' * 10_000)[0] == 0
        with rig.as_owner():
            for name in listing(home):
                with open(home + b'/queue/state/' + name, 'wb') as file:
                    file.write(b'x' * reserve.BLOCK)
        assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
        assert daemon.log().count(b'kept to finish') == 1
        os.unlink(home + b'/queue/mess/' + listing(home)[0])
        with acting_as(61002):
            rig.wait_until(lambda: submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0)
        daemon.kill()
    on_small_disk(home, 25, work)


@pytest.mark.root
def test_states_of_a_backlog_leave_the_reserve_alone(home):
    """P15: a user has filled the inodes with messages none of which was tried; when each gets its state, what is kept for root
    is still there, and when the messages go, strangers are served again."""
    def work():
        subprocess.run(['mount', '-o', 'remount,nr_inodes=400', os.fsdecode(home) + '/queue'], check=True)
        daemon = rig.Daemon(home, 'queued', [b'submit', b'new'])
        with acting_as(61001):
            while submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0:
                pass
        names = listing(home)
        for name in names:
            os.close(os.open(home + b'/queue/state/' + name, os.O_WRONLY | os.O_CREAT))
        assert len(names) > 100 and os.statvfs(home + b'/queue').f_favail > 0
        assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
        for name in names:
            os.unlink(home + b'/queue/mess/' + name)
            os.unlink(home + b'/queue/state/' + name)
        with acting_as(61002):
            rig.wait_until(lambda: submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0)
        daemon.kill()
    on_small_disk(home, 25, work)


# --- in process: what needs no second process ---

class NoDisk:
    """A Store whose commit waits for turn.release(), once each; or for nothing, when free."""

    own, free, space = False, False, reserve.UNKNOWN
    complain = staticmethod(lambda what, problem: None)

    def __init__(self):
        self.ids = ids.Ids()
        self.turn = unix.lock()
        self.turn.acquire()

    def name(self, group):
        """IDs one after the other."""
        for number, entry in enumerate(group, self.ids.give(len(group), 0)):
            entry.ident = mess.make_id(number)

    def room(self):
        """What the test says; each question counts."""
        self.asked = getattr(self, 'asked', 0) + 1
        return reserve.Room(self.space)

    @staticmethod
    def write(group):
        """All is well."""
        return group

    def sync(self, written):
        """Wait for the test."""
        if not self.free:
            self.turn.acquire()


class Who:
    """Everybody is a stranger."""

    believed, sender, services = (), os.geteuid(), frozenset()

    @staticmethod
    def phrase(uid):
        """As Accounts."""
        return b'by uid %d' % uid

    @staticmethod
    def leaves(uid):
        """As Accounts."""
        return reserve.USERS


@pytest.fixture
def inside():
    """A Queued in this process, on NoDisk; the thread is left waiting at the end."""
    made = queued.Queued(loops.Loop(), NoDisk(), Who, 1000)
    yield made
    unix.set_wakeup_fd(-1)


def client(inside):
    """A connected pair: our end, and the Client that queued made of the other."""
    ours, theirs = unix.socketpair(unix.SOCK_STREAM)
    inside.connected(theirs, (4711, 1000, 1000))
    ours.setblocking(False)
    return ours


def test_answers_come_only_after_the_commit(inside):
    """The promise itself: while the disk is busy nobody hears K; a second group gathers meanwhile."""
    one, two = client(inside), client(inside)
    one.send(protocol.VERSION + ONE)
    inside.loop.step(5)
    two.send(protocol.VERSION + ONE)
    inside.loop.step(5)
    assert len(inside.busy) == 1 and len(inside.gathered) == 1
    for sock in (one, two):
        with pytest.raises(BlockingIOError):
            sock.recv(100)
    inside.disk.turn.release()
    while inside.gathered:
        inside.loop.step(5)
    inside.loop.step(0)
    assert accepted(one.recv(100))
    with pytest.raises(BlockingIOError):
        two.recv(100)
    inside.disk.turn.release()
    while inside.busy:
        inside.loop.step(5)
    inside.loop.step(0)
    assert accepted(two.recv(100))
    owner = inside.owners[1000]
    assert (owner.memory, owner.bytes, inside.memory, inside.waiting) == (0, 0, 0, 0)


def test_a_wake_up_for_nothing_answers_nobody(inside):
    """Whatever wakes the loop, K is said only when the committer says that it is done; a lost wake-up costs time only."""
    sock = client(inside)
    sock.send(protocol.VERSION + ONE)
    while not inside.busy:
        inside.loop.step(5)
    for _ in range(3):
        inside.group_done()
        inside.loop.waker()()
        inside.loop.step(0)
    with pytest.raises(BlockingIOError):
        sock.recv(100)
    inside.committer.wake = lambda: None
    inside.disk.turn.release()
    rig.wait_until(lambda: inside.committer.done)
    inside.sweep()
    assert accepted(sock.recv(100))


def test_counters_return_to_zero_however_a_client_ends(inside):
    """INV7: memory, bytes and places of a uid are given back: after success, refusal, cut-off, and endless envelopes."""
    inside.disk.free = True
    for said in (protocol.VERSION + ONE, b'', protocol.VERSION, protocol.VERSION + protocol.frame(b'xx'), b'\x07', protocol.VERSION + ONE[:-3],
                 protocol.VERSION + protocol.END + b'T' * 70_000, protocol.VERSION + protocol.frame(b'xx') + protocol.ABANDON):
        sock = client(inside)
        if said:
            sock.send(said)
            inside.loop.step(5)
        sock.close()
        while inside.clients or inside.busy:
            inside.loop.step(5)
    assert not inside.owners and not inside.memory and not inside.waiting


def test_slow_and_silent_strangers_are_dropped_and_slow_disks_are_not_their_fault(inside, monkeypatch):
    """S-12, D-03: nothing said for IDLE, or slower than RATE after GRACE: out, with 52.  Whoever waits for us stays."""
    silent, slow, fast, waiting = [client(inside) for _ in range(4)]
    slow.send(protocol.VERSION + protocol.frame(b'x'))
    fast.send(protocol.VERSION + protocol.frame(b'x' * 100_000))
    waiting.send(protocol.VERSION + ONE)
    while len(inside.clients) == 4 and not inside.busy:
        inside.loop.step(5)
    inside.loop.step(0)
    now = time.monotonic()
    monkeypatch.setattr(unix, 'monotonic', lambda: now + 61)
    inside.sweep()
    assert slow.recv(100).startswith(b'52 ') and len(inside.clients) == 3
    monkeypatch.setattr(unix, 'monotonic', lambda: now + 121)
    inside.sweep()
    assert silent.recv(100).startswith(b'52 ') and len(inside.clients) < 3
    monkeypatch.setattr(unix, 'monotonic', lambda: now + 4000)
    inside.sweep()
    assert fast.recv(100).startswith(b'52 ') and len(inside.clients) == 1
    inside.disk.turn.release()


def test_a_slow_disk_makes_clients_wait_not_memory_grow(inside, monkeypatch):
    """D-14: beyond WAITING_LIMIT queued stops reading; it goes on when the disk has caught up."""
    monkeypatch.setattr(queued, 'WAITING_LIMIT', 100_000)
    body = protocol.frame(b'x' * 40_000) + protocol.END + protocol.envelope(b'a', [b'b'])
    sock = client(inside)
    left = memoryview(protocol.VERSION + body * 40)
    for _ in range(60):
        try:
            left = left[sock.send(left):]
        except BlockingIOError:
            pass
        inside.loop.step(0)
    assert left and inside.waiting < 500_000 and inside.paused
    heard = 0
    inside.disk.free = True
    inside.disk.turn.release()
    while heard < 40:
        try:
            left = left[sock.send(left):] if left else left
        except BlockingIOError:
            pass
        inside.loop.step(0.01)
        try:
            heard += sock.recv(10_000).count(b'\0')
        except BlockingIOError:
            pass
    assert not left


COST = queued.OVERHEAD + reserve.BLOCK          # of a message on the disk, beside its bytes


def test_the_disk_is_not_asked_for_each_message(inside, monkeypatch):
    """Where there is room the disk is asked once a second, however many messages come; what it has said is used up by long ones
    and by short ones, with what each takes beside its bytes; and what waits in memory is none of what is free."""
    now = [1000.0]
    monkeypatch.setattr(unix, 'monotonic', lambda: now[0])
    inside.disk.free, inside.disk.space = True, 20 * COST
    sock = client(inside)
    sock.send(protocol.VERSION)

    def sent(size):
        sock.send(body(size))
        said = answered(inside, sock)
        assert accepted(said) or said[:3] == b'53 '
        return accepted(said)
    assert [sent(1) for _ in range(10)] == [True] * 10 and inside.disk.asked == 1
    inside.disk.space = 3 * COST
    assert sent(1) and inside.disk.asked == 1
    now[0] += 1.0
    assert sent(1) and inside.disk.asked == 2
    assert sent(1) and inside.disk.asked == 2 and sent(1) and inside.disk.asked == 3
    now[0] += 1.0
    assert not sent(3 * COST + 1)
    inside.memory += 3 * COST
    now[0] += 1.0
    assert not sent(1)
    inside.memory -= 3 * COST
    now[0] += 1.0
    assert sent(1)


def kept(room):
    """The four numbers of a Room."""
    return room.bytes, room.inodes, room.kept, room.kept_inodes


ALL = reserve.UNKNOWN


@pytest.mark.parametrize('disk, room', [
    ((4096, 4096, 1000, 100, 0, 0), (4096 * 100, ALL, 4096 * 20, 0)), ((512, 4096, 1000, 10, 0, 0), (4096 * 10, ALL, 4096 * 20, 0)),
    ((1, 1, 1 << 40, 1 << 30, 0, 0), (1 << 30, ALL, 256 << 20, 0)), ((4096, 4096, 1000, 100, 1000, 19), (4096 * 100, 19, 4096 * 20, 20)),
    ((0, 0, 0, 0, 0, 0), (ALL, ALL, 0, 0)),
    ((4096, 4096, 1000, 100, 1 << 40, 1 << 30), (4096 * 100, 1 << 30, 4096 * 20, 100_000)),
    (OSError(38, 'x'), (ALL, ALL, 0, 0))])
def test_what_the_reserve_is(monkeypatch, disk, room):
    """A fiftieth of bytes and inodes, but no more than 256 MB; a file system that does not tell is not full."""
    def told(fd):
        if isinstance(disk, OSError):
            raise disk
        size, fragment, blocks, left, files, files_left = disk
        return os.statvfs_result((size, fragment, blocks, left, left, files, files_left, files_left, 0, 255))
    monkeypatch.setattr(unix, 'fstatvfs', told)
    monkeypatch.setattr(unix, 'listdir', lambda fd: [])
    assert kept(store.Store(-1, False).room()) == room


@pytest.mark.parametrize('before, now, left', [(0, 0, 100), (40, 40, 60), (90, 30, 70), (90, 90, 10)])
def test_what_is_promised_to_states(monkeypatch, before, now, left):
    """An inode and a block for each message, which are counted where that matters, and not again at once."""
    asked = []
    monkeypatch.setattr(unix, 'fstatvfs', lambda fd: os.statvfs_result((4096, 4096, 1000, 100, 100, 1000, 100, 100, 0, 255)))
    monkeypatch.setattr(unix, 'listdir', lambda fd: asked.append(fd) or [b'%d' % number for number in range(now)])
    disk = store.Store(-1, False, messages=before)
    rooms = [disk.room() for _ in range(2)]
    assert [kept(room)[:2] for room in rooms] == [(4096 * left, left)] * 2 and len(asked) == (before > 40)


def test_each_stops_at_its_quarters():
    """In this order, of bytes as of inodes: users, the network, reports, root."""
    stops = [sum(reserve.Room(left, 9, 400).holds(1, 0, quarters) for left in range(1, 501))
             for quarters in (reserve.USERS, reserve.NETWORK, reserve.REPORTS, reserve.ROOT)]
    assert stops == [100, 200, 300, 400]
    assert [reserve.Room(9, 3, 0, 4).holds(0, 1, quarters) for quarters in (4, 3, 2, 1)] == [False, False, True, True]


def test_a_message_to_many_is_promised_more_than_a_block():
    """64 bytes of a state for each recipient, in whole blocks."""
    assert [reserve.promised(b'Fa' + b'\0Tb' * count + b'\0') for count in (0, 1, 64, 65)] == [4096, 4096, 4096, 8192]


def test_what_is_promised_to_many_stays_until_the_message_goes(tmp_path):
    """Counting anew forgets the promise of a message that has gone, and of no other."""
    fd = os.open(tmp_path, os.O_RDONLY)
    disk = store.Store(fd, False)
    few, many, gone = (store.Entry([b'x'], None, b'Fa' + b'\0Tb' * count + b'\0') for count in (1, 100, 200))
    disk.name([few, many, gone])
    disk.commit([few, many, gone])
    assert disk.wide == {many.ident: 4096, gone.ident: 3 * 4096}
    os.unlink(os.fsencode(tmp_path) + b'/' + gone.ident)
    disk.count()
    os.close(fd)
    assert disk.wide == {many.ident: 4096} and disk.messages == 2


def test_only_so_many_promises_are_remembered(tmp_path, monkeypatch):
    """Memory is bounded, and places are free again when messages have gone; that is looked for seldom."""
    monkeypatch.setattr(store, 'WIDE_MOST', 1)
    fd = os.open(tmp_path, os.O_RDONLY)
    disk = store.Store(fd, False)
    first, second = (store.Entry([b'x'], None, b'Fa' + b'\0Tb' * 100 + b'\0') for _ in range(2))
    disk.name([first, second])
    disk.commit([first, second])
    assert [*disk.wide] == [first.ident]
    os.unlink(os.fsencode(tmp_path) + b'/' + first.ident)
    disk.counted = unix.monotonic() - store.COUNT_SELDOM / 2
    disk.room()
    assert [*disk.wide] == [first.ident]
    disk.counted -= store.COUNT_SELDOM
    disk.room()
    os.close(fd)
    assert not disk.wide and disk.messages == 1


def body(size):
    """A submission of that many bytes of message."""
    return protocol.frame(b'x' * size) + protocol.END + protocol.envelope(b'a', [b'b'])


@pytest.mark.parametrize('name, limit, words', [
    ('MESSAGE_LIMIT', 1000, b'31 message too large (#5.3.4)'),
    ('USER_MEMORY', 1000, b'71 too much under way for this user (#4.3.2)'),
    ('USER_BYTES', 1000, b'71 too much under way for this user (#4.3.2)')])
def test_too_much_is_refused_and_the_next_message_is_not(inside, monkeypatch, name, limit, words):
    """INV7: a message over a limit is refused once it has ended, with the limit's sentence; what is just
    at it is taken, and the one behind it on the same connection too.
    """
    monkeypatch.setattr(mess if name == 'MESSAGE_LIMIT' else queued, name, limit)
    inside.disk.free = True
    sock = client(inside)
    for size, taken in ((limit + 1, False), (limit - 500, True)):
        sock.send((protocol.VERSION if not taken else b'') + body(size))
        said = answered(inside, sock)
        assert accepted(said) if taken else said == words + b'\0'


def test_who_sends_without_waiting_is_not_read_on(inside, monkeypatch):
    """D-14: with more than PIPELINE messages waiting for the disk a client waits, however small they are."""
    monkeypatch.setattr(queued, 'PIPELINE', 3)
    sock = client(inside)
    sock.send(protocol.VERSION + ONE)
    for _ in range(20):
        inside.loop.step(0)
        sock.send(ONE)
    waiting, = inside.clients
    assert len(waiting.pending) == 4 and inside.paused
    inside.disk.free = True
    inside.disk.turn.release()
    heard = 0
    while heard < 21:
        inside.loop.step(0.01)
        try:
            heard += sock.recv(10_000).count(b'\0')
        except BlockingIOError:
            pass


def test_who_never_listens_is_left(inside, monkeypatch):
    """S-12: answers that nobody reads are kept up to OUT_LIMIT bytes; then that client is closed."""
    monkeypatch.setattr(queued, 'OUT_LIMIT', 100)
    inside.disk.free = True
    sock = client(inside)
    waiting, = inside.clients
    waiting._say(b'x' * 100)
    assert inside.clients
    while inside.clients:
        waiting._say(b'x' * 65536)
    assert len(waiting.out) > 100
    sock.close()


def test_what_send_does_not_hear_it_is_told_to_look_for(inside):
    """new: when send does not read, IDs are forgotten and one <N takes their place; no ID at or above N was told before."""
    ours, theirs = unix.socketpair(unix.SOCK_STREAM)
    ours.setblocking(False)
    inside.subscribed(theirs, (1, os.geteuid(), 0))
    announcer, last = inside.announcer, 0
    for _ in range(600):
        first = inside.disk.ids.give(100, 0)
        idents = [mess.make_id(first + i) for i in range(100)]
        inside.disk.ids.settled()
        last += 100
        announcer.announce(idents)
    [listener] = announcer.listeners
    assert listener.overflow and len(listener.out) <= listener.LIMIT
    heard = b''
    for _ in range(200):
        inside.loop.step(0)
        try:
            heard += ours.recv(65536)
        except BlockingIOError:
            pass
    announcer.announce([mess.make_id(last + 1)])
    heard += ours.recv(65536)
    records = heard.split(b'\0')[:-1]
    scans = [i for i, record in enumerate(records) if record[:1] == b'<']
    assert scans[0] == 0 and len(scans) == 2 and records[scans[1]] == b'<' + mess.make_id(last + 1)
    assert records[-1] == mess.make_id(last + 1) and all(mess.is_id(r) for i, r in enumerate(records) if i not in scans)
    assert records[1:scans[1]] == [mess.make_id(i) for i in range(1, scans[1])]


def test_send_dies_while_it_is_told_what_waited(inside, monkeypatch):
    """new: a listener that has gone when it is to hear the rest, and to look again, is forgotten, and queued goes on."""
    ours, theirs = unix.socketpair(unix.SOCK_STREAM)
    inside.subscribed(theirs, (1, os.geteuid(), 0))
    announcer = inside.announcer
    [listener] = announcer.listeners
    while not listener.overflow:
        announcer.announce([b'1764036974123456'] * 1000)
    ours.close()
    listener.writable()
    assert not announcer.listeners and listener.sock is None


def test_what_was_given_up_is_not_announced(inside, monkeypatch):
    """Q-05: of a group, send hears of those that are safe; the client of another hears why, and nobody looks for a file that
    is not there."""
    inside.disk.free, answers = True, []
    ours, theirs = unix.socketpair(unix.SOCK_STREAM)
    ours.setblocking(False)
    inside.subscribed(theirs, (1, os.geteuid(), 0))

    def half(written):
        for entry in written[1::2]:
            entry.failure = (53, None)
    monkeypatch.setattr(inside.disk, 'sync', half)
    sock = client(inside)
    sock.send(protocol.VERSION + ONE * 4)
    reader = protocol.Answers()
    while len(answers) < 4:
        inside.loop.step(5)
        with contextlib.suppress(BlockingIOError):
            answers += reader.feed(sock.recv(1000))
    assert [code for code, _ in answers] == [0, 53, 0, 53]
    records = ours.recv(1000).split(b'\0')[:-1]
    assert [record for record in records if mess.is_id(record)] == [ident for code, ident in answers if code == 0]


def test_only_send_subscribes(inside):
    """Another uid hears nothing on new."""
    ours, theirs = unix.socketpair(unix.SOCK_STREAM)
    inside.subscribed(theirs, (1, os.geteuid() + 1 if os.geteuid() else 5, 0))
    ours.setblocking(True)
    assert ours.recv(100) == b'' and not inside.announcer.listeners


def test_running_out_of_descriptors_pauses_accepting(inside, monkeypatch):
    """Q-08: EMFILE on accept: no spin; accepting goes on after a pause."""
    monkeypatch.setattr(packets, 'PAUSE', 0.05)
    tries, path = [], b'\0qpy-test-%d' % os.getpid()

    def failing(sock):
        tries.append(1)
        raise OSError(24, 'Too many open files')
    listening = unix.socket_unix(unix.SOCK_STREAM)
    listening.bind(path)
    listening.listen(5)
    packets.serve(inside.loop, listening, inside.connected)
    ours = unix.socket_unix(unix.SOCK_STREAM, True)
    ours.connect(path)
    with monkeypatch.context() as patch:
        patch.setattr(unix, 'accept', failing)
        for _ in range(5):
            inside.loop.step(0)
    assert len(tries) == 1
    while not inside.clients:
        inside.loop.step(5)
    listening.close()
