"""All of qpy that keeps mail, in one process on a modelled disk: queued, send, the bouncer, clean, and local delivery.

    World    what a power cut does not touch: clocks, other hosts, and the ledger of what was promised
    System   one run of the programs, their real modules, over the disk of the moment; stopped or cut at any time
    Seam     the disk and the world that `unix` means at the moment

The programs speak through real sockets, in one loop.  Stand-ins: start (who connects them), lspawn and its seed (the
worker's own code delivers, without a process), rspawn (another host's verdict).
"""
import os
from contextlib import contextmanager

from qpy import unix, unix_kernel
from qpy.core import bounce, channel, dotqmail, localstatus, mess, submit as words
from qpy.lib import aside, loop as loops, packets, program, submit
from qpy.qpyq import clean, queued, store as queue_store
from qpy.qpys import bouncer, send, store as send_store, streams
from qpy.user import delivery, local, mailbox
from tests.power import disk as model

HOME = b'/disk/qpy'
USERS = {b'ann': None, b'bob': b'./Maildir/\n', b'joe': None, b'pm': None, b'box': b'./Mailbox\n',
         b'two': b'./Maildir/\n./Mailbox\n', b'fwd': b'&ann@here.example\n'}
CONTROLS = {b'me': b'here.example', b'locals': b'here.example', b'bounceformat': b'qsbmf', b'doublebounceto': b'pm',
            b'queuelifetime': b'100000'}
START = 1_800_000_000.0
SUCCESS = b'\nYou asked to be told when your message has reached'
SECOND_HALF = b'.' * 20 + b'\nthe end\n'


class Loss(AssertionError):
    """A promise was broken."""


class Undrained(Loss):
    """Something stays in the queue."""


class Message:
    """One that a client sends.  notify: what it asks for each recipient (RFC 3461)."""

    def __init__(self, number, sender, recipients, long=False, notify=b''):
        self.number, self.sender, self.recipients, self.notify = number, sender, tuple(recipients), notify
        self.body = b'Subject: number %d\n\n%s' % (number, SECOND_HALF * (5 if long else 1))


class World:
    """Clocks, other hosts, and what was promised."""

    def __init__(self, verdicts=None):
        self.wall, self.mono, self.chance = START, 1000.0, 0
        self.verdicts = verdicts or {}          # {recipient: letters of the next reports}, for other hosts
        self.messages = {}                      # number: Message
        self.acknowledged = {}                  # ID: number
        self.abroad = []                        # (number or None, recipient): taken by another host
        self.whole = set()                      # every delivery that was written to its end
        self.refused = 0

    def copy(self):
        """As it is now: what happens to the copy does not happen here."""
        new = World()
        new.wall, new.mono, new.chance = self.wall, self.mono, self.chance
        new.verdicts = dict(self.verdicts)
        new.messages, new.acknowledged = dict(self.messages), dict(self.acknowledged)
        new.abroad, new.whole = list(self.abroad), set(self.whole)
        return new

    def key(self):
        """What a recovery depends on besides the disk."""
        return frozenset(self.acknowledged), frozenset(self.abroad), int(self.wall)

    def urandom(self, size):
        """Bytes that differ each time and are the same in each run."""
        self.chance += 1
        return b'%0*d' % (size, self.chance)

    def verdict(self, recipient, recovering):
        """What another host says."""
        if recipient.startswith(b'never'):
            return b'D'
        left = self.verdicts.get(recipient, b'')
        if recovering or not left:
            return b'K'
        self.verdicts[recipient] = left[1:]
        return left[:1]


class Seam:
    """What `unix` means now."""

    def __init__(self):
        self.disk = self.world = self.system = None

    @contextmanager
    def on(self, disk, world):
        """For a while, another disk and world."""
        before, sequence = (self.disk, self.world, self.system), mailbox.sequence
        self.disk, self.world, self.system = disk, world, None
        try:
            yield
        finally:
            self.disk, self.world, self.system = before
            mailbox.sequence = sequence


def install(monkeypatch, long=False):
    """The Seam behind which everything runs.  long: messages of a few hundred bytes count as long ones."""
    seam = Seam()
    model.attach(monkeypatch, lambda: seam.disk, unix, unix_kernel, b'/disk')
    for name, value in {'time': lambda: seam.world.wall, 'monotonic': lambda: seam.world.mono, 'geteuid': lambda: model.UID,
                        'getpid': lambda: 4711, 'urandom': lambda size: seam.world.urandom(size),
                        'sleep': lambda seconds: seam.world.__setattr__('mono', seam.world.mono + seconds)}.items():
        monkeypatch.setattr(unix, name, value)
    monkeypatch.setattr(unix, 'send_packet', passing(seam, unix.send_packet, unix.memfd))
    monkeypatch.setattr(queued, 'Committer', Committer)
    monkeypatch.setattr(queued, 'file_system', lambda directory: b'ext4')
    monkeypatch.setattr(queued, 'without_journal', lambda device: False)
    monkeypatch.setattr(packets, 'connect', lambda home, name, uid, kind=unix.SOCK_SEQPACKET:
                        seam.system.connect(name, kind))
    monkeypatch.setattr(submit, 'connect', lambda home: seam.system.client())
    monkeypatch.setattr(program, 'complain', lambda line: None)
    monkeypatch.setattr(program, 'warn', lambda line: None)
    monkeypatch.setattr(mailbox, 'sequence', 0)
    if long:
        monkeypatch.setattr(queued, 'SMALL', 60)
        monkeypatch.setattr(queue_store, 'PUSH', 50)
        monkeypatch.setattr(send_store, 'MEMORY', 60)
        monkeypatch.setattr(send_store, 'PIECE', 100)
        monkeypatch.setattr(mailbox, 'CHUNK', 90)
        monkeypatch.setattr(delivery, 'WHOLE', 80)
        monkeypatch.setattr(mailbox, 'PUSH_EVERY', 64)
    return seam


def passing(seam, real, memfd):
    """send_packet that passes a file of the modelled disk as what the other side will read of it."""
    def send_packet(sock, data, fds=()):
        passed = [memfd(seam.disk._node(fd).seen) if fd >= model.BASE else fd for fd in fds]
        try:
            return real(sock, data, passed)
        finally:
            for fd in passed:
                if fd not in fds:
                    os.close(fd)
    return send_packet


def fresh_disk(kind, own):
    """A disk with an empty queue (own: on a file system of its own) and the users' homes."""
    disk = model.Disk(kind)
    for path in (b'/disk', HOME, HOME + b'/control', HOME + b'/run', HOME + b'/queue'):
        disk.build(path)
    if own:
        disk.mount(HOME + b'/queue')
    for name in (b'mess', b'state', b'damaged'):
        disk.build(HOME + b'/queue/' + name)
    for name, value in CONTROLS.items():
        disk.build(HOME + b'/control/' + name, value + b'\n')
    disk.build(b'/disk/home')
    for user, lines in USERS.items():
        disk.build(b'/disk/home/' + user)
        if lines:
            disk.build(b'/disk/home/' + user + b'/.qmail', lines)
    for user in (b'bob', b'two'):
        for part in (b'', b'/tmp', b'/new', b'/cur'):
            disk.build(b'/disk/home/' + user + b'/Maildir' + part, dull=part == b'/tmp')
    return disk


# --- one process instead of many -------------------------------------------------------------------------------

class Committer:
    """queued's, without the thread: the group is synced in the next pass of the loop."""

    def __init__(self, disk, wake):
        self.disk, self.wake, self.written, self.done = disk, wake, None, False

    def give(self, written):
        """Sync these, after what the loop has still to do in this pass."""
        self.written, self.done = written, False
        self.wake.__self__.call_soon(self.work)

    def do(self, written):
        """Sync these here and now, as without a thread."""
        self.disk.sync(written)
        self.done = True

    def work(self):
        """What the thread does."""
        self.disk.sync(self.written)
        self.done = True
        self.wake()


class Loop(loops.Loop):
    """The loop of all, which knows when nothing is left to do now."""

    __slots__ = ('woken_by',)

    def on_signal(self, number, callback):
        """The committer's only."""
        self.woken_by = callback

    def waker(self):
        """Call back in the next pass."""
        return self.wake

    def wake(self):
        """As the pipe would."""
        self.call_soon(self.woken_by)

    def turn(self):
        """One pass; whether there was anything to do."""
        there = self.soon or self.timers and any(when <= unix.monotonic() and t.callback for when, _, t in self.timers) \
            or self.epoll.poll(0)
        if there:
            self.step(0)
        return bool(there)


class Pumped:
    """A client's socket: when its owner waits on it, everybody else goes on."""

    def __init__(self, system, sock):
        self.system, self.sock, self.waits = system, sock, False
        self.fileno, self.send, self.close = sock.fileno, sock.send, sock.close

    def settimeout(self, seconds):
        """Its owner will wait."""
        self.waits = True

    def sendall(self, data, flags=0):
        """All of it."""
        while data:
            try:
                data = data[self.sock.send(data, flags):]
            except BlockingIOError:
                self.system.pump()

    def recv(self, size):
        """What has come, or BlockingIOError."""
        if self.waits:
            self.system.pump()
        return self.sock.recv(size)


class Worker(local.Worker):
    """local's worker of one user, which needs no child and has no lspawn."""

    __slots__ = ('results', 'disk')

    def __init__(self, seam):
        self.disk = lambda: seam.disk
        self.home, self.host, self.limit, self.fsync_all = HOME, b'here.example', 1000, None
        self.results = []

    def start(self, n, plan):
        """In place of a child, whose descriptors go with it (in a forward everybody else goes on and opens his own)."""
        files = self.disk().files
        before = dict(files)
        forwards = any(kind is dotqmail.FORWARD for kind, _ in plan.instructions)
        code, report = delivery.carry_out(plan, self.home, self.host, unix.monotonic() + self.limit)
        for fd in () if forwards else set(files) - set(before):
            del files[fd]
        self.say(n, code, report)
        plan.close()
        unix.close_quietly(plan.job.fd)

    def say(self, n, code, report):
        """Keep the result."""
        self.results.append((n, *localstatus.report(code, report)))


class System:
    """The programs, from start to stop."""

    def __init__(self, seam, recovering=False, route=(10, 10)):
        self.seam, self.world, self.recovering = seam, seam.world, recovering
        self.loop, self.socks, self.jobs, self.clients, self.dead = Loop(), [], [], [], False
        seam.system = self
        self.queued = queued.Queued(self.loop, queued.open_store(HOME), queued.Accounts(HOME), 100)
        self.clean = clean.Clean(HOME)
        settings = Watched()
        self.bouncer = bouncer.Bouncer(HOME, self.loop, settings)
        self.send = send.Send(HOME, self.loop, Log(self.loop), send.Controls(HOME), None)
        self.send.connect()
        self.send.keep_house()
        for name, capacity in ((b'lspawn', 10), (b'rspawn', 10)):
            self.ends[name].send(b'C', b'%d' % capacity)

    ends = None

    def connect(self, name, kind):
        """send connects to somebody."""
        mine, theirs = unix.socketpair(kind)
        self.socks += [mine, theirs]
        peer = (4711, model.UID, model.UID)
        self.ends = self.ends or {}
        if name == b'new':
            self.queued.subscribed(theirs, peer)
        elif name == b'clean':
            clean.Client(self.loop, self.clean, theirs)
        elif name == b'bounce':
            self.bouncer.connected(theirs, peer)
        else:
            table = channel.LSPAWN_JOB if name == b'lspawn' else channel.RSPAWN_JOB
            self.ends[name] = packets.Channel(self.loop, theirs, table, lambda records: self.jobs.extend(
                (name, *fields, self.bytes_of(fd, fields)) for _, fields, fd in records), self.lost)
        return mine

    def lost(self, why):
        """send has closed its end."""
        self.dead = True

    @staticmethod
    def bytes_of(fd, fields):
        """lspawn's descriptor is kept; of rspawn's the bytes are read (other hosts see the message alone)."""
        return fd

    def client(self):
        """A connection to queued."""
        mine, theirs = unix.socketpair(unix.SOCK_STREAM)
        self.socks += [mine, theirs]
        self.queued.connected(theirs, (4711, model.UID, model.UID))
        return Pumped(self, mine)

    def stop(self):
        """Whether they end, die, or lose their power: nothing of them is left but files."""
        for sock in self.socks:
            sock.close()
        for job in self.jobs:
            self.drop(job[-1])
        self.send.forget_read()
        self.loop.epoll.close()
        disk = self.seam.disk
        disk.files.clear()
        self.jobs.clear()

    @staticmethod
    def drop(fd):
        """Close a delivery's descriptor."""
        unix.close_quietly(fd)

    # --- what a test does ---

    def pump(self, most=2000):
        """Let everything happen that can happen now, without a delivery."""
        for _ in range(most):
            if self.dead or self.send.code:
                raise Died()
            if not self.loop.turn():
                return
        raise Loss('it never comes to rest')

    def submit(self, *messages):
        """Clients send these at once; each has its answer, or its connection is lost."""
        for message in messages:
            self.world.messages[message.number] = message
            sock = self.client().sock
            self.clients.append((sock, words.Answers(), message))
            sock.send(words.VERSION + words.frame(message.body[:25]) + words.frame(message.body[25:]) + words.END
                      + words.envelope(message.sender, message.recipients, (), [((b'N', message.notify),)] * len(
                          message.recipients) if message.notify else None))

    def hear(self):
        """Note every answer that was given, also one that no client has read yet."""
        for item in list(self.clients):
            sock, answers, message = item
            try:
                data = sock.recv(1000)
            except BlockingIOError:
                continue
            for code, ident in answers.feed(data):
                self.clients.remove(item)
                if code == 0:
                    self.world.acknowledged[ident] = message.number
                else:
                    self.world.refused += 1

    def deliver(self, count=None):
        """Carry out deliveries that send has asked for, and report; local ones together."""
        jobs, self.jobs = self.jobs[:count], self.jobs[len(self.jobs) if count is None else count:]
        here = [job for job in jobs if job[0] == b'lspawn']
        for job in jobs:
            if job[0] == b'rspawn':
                self.abroad(job)
        by_user = {}
        for job in here:
            by_user.setdefault(job[4].partition(b'@')[0], []).append(job)
        for user, mine in sorted(by_user.items()):
            worker = Worker(self.seam)
            worker.waiting = []
            worker.deliver([(job[1], self.job(user, job)) for job in mine])
            for n, plan in worker.waiting:
                worker.start(n, plan)
            for n, letter, text in worker.results:
                self.ends[b'lspawn'].send(letter, n, b'', text)
        return bool(jobs)

    @staticmethod
    def job(user, job):
        """What lspawn makes of an L record."""
        _, number, ident, sender, recipient, options, fd = job
        home = b'/disk/home/' + user
        if user not in USERS:
            home, dash, ext = b'/disk/home/ann', b'-', user
        else:
            dash = ext = b''
        return delivery.Job(user, home, user, dash, ext, recipient.partition(b'@')[2], sender, b'./Maildir/\n', options, fd)

    def abroad(self, job):
        """Other hosts hear one transaction."""
        _, ident, host, sender, flags, length, lines, fd = job
        data = unix.pread_exactly(fd, int(length), 0)
        self.drop(fd)
        for line in lines.split(b'\n'):
            number, _, recipient = line.partition(b' ')
            letter = self.world.verdict(recipient, self.recovering)
            if letter == b'K':
                self.world.abroad.append((data, recipient))
            self.ends[b'rspawn'].send(letter, number, b'', b'said %s\n' % letter)

    def wait(self, seconds):
        """The clocks go on."""
        self.world.wall += seconds
        self.world.mono += seconds

    def run(self, patience=60):
        """Until the queue is empty; the clock goes on whenever there is nothing else to do."""
        for _ in range(patience):
            self.pump()
            while self.deliver():
                self.pump()
            self.hear()
            if self.at_rest():
                return
            self.to_the_next_event()
        raise Undrained('the queue does not drain: %r' % self.seam.disk.tree(HOME + b'/queue'))

    def to_the_next_event(self):
        """Jump to whatever timer is due next that matters."""
        due = self.send.dispatch.next_due()
        self.wait(max(1.0, due - self.send.clock.now + 0.02) if due is not None else 131)

    def at_rest(self):
        """Is the queue empty, and the state too?"""
        mess_, state_ = (self.seam.disk._find(HOME + b'/queue/' + name, None)[2].seen for name in (b'mess', b'state'))
        return not mess_ and all(map(aside.is_kept, state_)) and not self.clients


class Died(Exception):
    """One of the programs ended; then start ends them all."""


class Log(streams.Log):
    """Nobody reads it."""

    def write(self, lines):
        """Drop them."""


class Watched:
    """The bouncer's control files, which do not change."""

    def __init__(self):
        self.value = bouncer.load(HOME)

    def get(self):
        """They."""
        return self.value


# --- the oracle ------------------------------------------------------------------------------------------------

def files_of(tree, user):
    """What is in a user's new/."""
    prefix = user + b'/Maildir/new/'
    return [data for path, data in tree.items() if path.startswith(prefix)]


def pieces_of_mbox(data):
    """The messages of an mbox, as a reader finds them: From_ lines after an empty line or at the start."""
    return [b'From ' + piece for piece in (b'\n' + data).split(b'\nFrom ')[1:]]


def check(disk, world):
    """The queue is empty: every acknowledged recipient got the message or is told of in a bounce, and what stands in
    a Maildir is whole."""
    tree = disk.tree(b'/disk/home')
    for path, data in tree.items():
        if b'/Maildir/new/' in path and not whole(data, world):
            raise Loss('%r is torn: %r' % (path, data))
    for path, data in disk.tree(HOME + b'/queue/damaged').items():
        if path[:16] in world.acknowledged:
            raise Loss('%r was acknowledged and is set aside' % path)
    for ident, number in world.acknowledged.items():
        message = world.messages[number]
        for recipient in message.recipients:
            if not (delivered(tree, world, message, recipient) or told(tree, world, message, recipient)):
                raise Loss('%r was acknowledged for %r, and is neither delivered nor bounced' % (ident, recipient))
            if message.notify and not any(b'<%s>:' % recipient in data and SUCCESS in data for data in files_of(
                    tree, message.sender.partition(b'@')[0])):
                raise Loss('the success of %r for %r was to be told, and is not' % (ident, recipient))


def torn_in_mbox(disk, world):
    """The pieces of every mbox in which no message is whole: the only torn mail there may be (qpy-local(8))."""
    for path, data in disk.tree(b'/disk/home').items():
        if path.endswith(b'/Mailbox'):
            yield from (piece for piece in pieces_of_mbox(data)
                        if not any(message.body in piece for message in world.messages.values()))


def whole(data, world):
    """Does a delivered file end as the message did?"""
    if b'\nHi. This is the qmail-send program' in data:
        return data.endswith(SECOND_HALF)
    if SUCCESS in data:
        return data.endswith(bounce.STRIPPED)
    return any(data.endswith(message.body) for message in world.messages.values())


def delivered(tree, world, message, recipient):
    """Is it where the recipient finds it?"""
    user, _, host = recipient.partition(b'@')
    if host != b'here.example':
        return any(to == recipient and data.endswith(message.body) for data, to in world.abroad)
    marks = [b'Delivered-To: %s\n' % recipient]
    boxes = {b'box': [b'mbox'], b'two': [b'two', b'mbox'], b'fwd': [b'ann']}.get(user, [user])
    for box in boxes:
        if box == b'mbox':
            found = any(marks[0] in piece and ends_in(piece, message.body)
                        for piece in pieces_of_mbox(tree.get(user + b'/Mailbox', b'')))
        else:
            found = any(marks[0] in data and data.endswith(message.body) and b'\nHi. This' not in data
                        for data in files_of(tree, box))
        if not found:
            return False
    return True


def ends_in(piece, body):
    """Is this the end of a message in an mbox?  Behind its empty line may stand what a power cut has left of the next
    one (qpy-local(8)): NULs in place of its From_ line make it none."""
    _, found, rest = piece.partition(body.rstrip(b'\n'))
    return bool(found) and (not rest.strip(b'\n') or rest.startswith(b'\n\n\0'))


def told(tree, world, message, recipient):
    """Is the sender told, or if that is impossible the postmaster?  Only of what does fail."""
    if not (recipient.startswith((b'never', b'late')) or recipient.partition(b'@')[0] == b'nobody'):
        return False
    reader = message.sender.partition(b'@')[0]
    places = files_of(tree, b'pm') if reader.startswith(b'never') else files_of(tree, reader) if reader in USERS else []
    return any(b'<%s>:' % recipient in data and message.body in data for data in places)
