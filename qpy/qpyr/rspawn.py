"""qpy-rspawn, as qpyr: hands remote deliveries to qpy-remote and brings back what became of them.

DIR/run/rspawn: records R with the message's descriptor from qpy-send; back a record C (how many at a time)
and then K, Z or D per delivery.  It reads no byte from the network: a few qpy-remote processes, forked from
it, do.  All mail for one host goes to the same of them, so that connections are used again.  One that dies is
forked anew, and what it had in flight is answered Z.  When control/smtproutes names a port that is closed to them, others
take their place, and they end when they have done what they have.

With $QMAILREMOTE set, that program runs once per delivery instead, with qmail-remote's arguments
and descriptors.
Exit code 0 when the chain ends, 111 for trouble at start.
"""
import gc
from zlib import crc32

from qpy import unix, unix_kernel
from qpy.core import channel, exits, manifest, remote_report, text
from qpy.lib import children, confine, execute, inherit, packets, program, service
from qpy.lib.loop import Loop
from qpy.qpyr import remote

WORKERS_MOST = 4
FDS_EACH = 3            # descriptors of a delivery in its worker: message, connection, a kept connection
SPARE_FDS = 100
CAPACITY_MOST = 20000
STEADY = 10             # seconds a worker must live to be forked anew at once
SLOWEST = 60            # seconds between two forks of a worker that keeps dying
FAREWELL = 60           # seconds one that has nothing left to do may take to end
SCOPES = ((b'Z', b'h'), (b'Z', b'o'), (b'K', b'd'), (b'K', b'b'), (b'K', b'db'))      # a host, or one message, in trouble; what the next hop sees to


class Jobs:
    """The deliveries in flight, under serial numbers of our own: a worker can speak of its own only."""

    __slots__ = ('waiting', 'last')

    def __init__(self):
        self.waiting, self.last = {}, 0     # serial: (client's channel, delivery number, worker)

    def add(self, client, number, worker):
        """The serial number of a new delivery."""
        self.last += 1
        serial = b'%d' % self.last
        self.waiting[serial] = client, number, worker
        return serial

    def end(self, worker, serial, letter, scope, words):
        """Pass on the result; False if it is none this worker owes."""
        client, number, owner = self.waiting.get(serial, (None, b'', None))
        if owner is not worker:
            return False
        del self.waiting[serial]
        client.send(letter, number, scope if (letter, scope) in SCOPES else b'', remote_report.safe_report(words))
        return True

    def end_all(self, worker, words):
        """This worker is gone."""
        for serial in [serial for serial, job in self.waiting.items() if job[2] is worker]:
            self.end(worker, serial, b'Z', b'', words)

    def any_of(self, worker):
        """Whether this worker owes a result."""
        return any(job[2] is worker for job in self.waiting.values())

    def forget(self, client):
        """This client is gone: nobody waits for its results."""
        silent = Silent()
        for serial, (owner, number, worker) in list(self.waiting.items()):
            if owner is client:
                self.waiting[serial] = silent, number, worker


class Silent:
    """In place of a client that went away."""

    __slots__ = ()

    def send(self, *_):
        """Nobody listens."""


class Worker:
    """One qpy-remote, forked and forked again.  work(socket) is what the child does.  retired: nothing new for it."""

    __slots__ = ('loop', 'jobs', 'work', 'channel', 'pid', 'since', 'delay', 'retired')

    def __init__(self, loop, jobs, work):
        self.loop, self.jobs, self.work = loop, jobs, work
        self.channel, self.pid, self.since, self.delay, self.retired = None, 0, 0, 0, False
        self.start()

    def start(self):
        """Fork it."""
        if self.retired:
            return None
        try:
            ours, theirs = unix.socketpair()
            self.pid = unix.fork()
        except OSError as problem:
            program.warn(b'unable to start qpy-remote: ' + program.reason(problem))
            return self._again()
        if self.pid == 0:
            become_worker(theirs, self.work)
        theirs.close()
        self.since = unix.monotonic()
        self.channel = packets.Channel(self.loop, ours, channel.REPORT, self._reports, self._gone)
        return None

    def send(self, fields, fd):
        """Give it a delivery."""
        self.channel.send(b'R', *fields, fd=fd)

    def retire(self):
        """Let it finish what it has, and end.  Another one takes its place."""
        self.retired = True
        self._end_if_done()

    def _reports(self, records):
        for letter, (serial, scope, words), _ in records:
            if not self.jobs.end(self, serial, letter, scope, words):
                self.channel.close()
                return self._gone('spoke of a delivery it does not have')
        return self._end_if_done()

    def _end_if_done(self):
        """Retired, and nothing owed: the end of its channel is the end of its work."""
        if self.retired and self.channel is not None and not self.jobs.any_of(self):
            self.channel.close()
            self.channel = None
            Leaving(self.loop, self.pid)

    def _gone(self, reason):
        """It died, or said what it must not say: then it dies now."""
        self.channel = None
        unix.kill(self.pid, unix.SIGKILL)
        status = unix.waitstatus_to_exitcode(unix.waitpid(self.pid, 0)[1])
        program.warn(b'qpy-remote %d ended (%s, status %d)' % (self.pid, reason.encode(), status))
        self.jobs.end_all(self, remote_report.CRASHED)
        if unix.monotonic() - self.since > STEADY:
            self.delay = 0
        self._again()

    def _again(self):
        self.loop.after(self.delay, self.start)
        self.delay = min(max(1, 2 * self.delay), SLOWEST)


class Leaving:
    """A qpy-remote that says its good-byes: reaped when it has ended, ended if it takes too long."""

    __slots__ = ('loop', 'pid', 'watched', 'patience')

    def __init__(self, loop, pid):
        self.loop, self.pid = loop, pid
        try:
            self.watched = unix.pidfd_open(pid)
        except OSError:                     # no descriptor left: then without good-byes
            unix.kill(pid, unix.SIGKILL)
            unix.waitpid(pid, 0)
            return
        loop.watch(self.watched, self._ended)
        self.patience = loop.after(FAREWELL, lambda: unix.kill(pid, unix.SIGKILL))

    def _ended(self):
        self.patience.cancel()
        self.loop.forget(self.watched)
        unix.close(self.watched)
        unix.waitpid(self.pid, 0)


def become_worker(sock, work):
    """In the child: keep nothing of the master but this socket, work, and never come back."""
    gc.freeze()     # nothing of the master's is ever finalised here: its descriptor numbers are ours now
    unix.set_wakeup_fd(-1)
    unix.closerange(3, sock.fileno())
    unix.closerange(sock.fileno() + 1, 1 << 30)
    program.name = b'qpy-remote'
    unix_kernel.show_name(program.name)
    unix._exit(program.guarded(lambda: work(sock)))


class Workers:
    """The qpy-remote processes, all confined for the same Settings."""

    __slots__ = ('loop', 'jobs', 'home', 'watched', 'settings', 'running')

    def __init__(self, loop, jobs, home, watched, count):
        self.loop, self.jobs, self.home, self.watched = loop, jobs, home, watched
        self.settings = watched.value
        self.running = [self._new() for _ in range(count)]

    def _new(self):
        return Worker(self.loop, self.jobs, lambda sock: remote.serve(self.home, sock, self.watched, self.settings))

    def current(self):
        """[Worker], others than before if those may not do what the control files say by now."""
        newest = self.watched.get()
        if not self.settings.covers(newest):
            before, self.settings = self.running, newest
            self.running = [self._new() for _ in before]
            for worker in before:
                worker.retire()
        return self.running


class Master:
    """Deliveries in, results out.  get_runners() -> Workers, or what stands for them (see Programs)."""

    __slots__ = ('loop', 'capacity', 'jobs', 'get_runners', 'trusted')

    def __init__(self, loop, capacity, trusted):
        self.loop, self.capacity, self.trusted = loop, capacity, trusted
        self.jobs = Jobs()
        self.get_runners = list

    def client(self, sock, peer):
        """qpy-send has connected."""
        if peer[1] not in self.trusted:
            program.warn(b'uid %d has no business here' % peer[1])
            return sock.close()
        holder = []
        client = packets.Channel(self.loop, sock, channel.RSPAWN_JOB,
                                 lambda records: self.begin(holder[0], records),
                                 lambda reason: self.jobs.forget(holder[0]))
        holder.append(client)
        client.send(b'C', b'%d' % self.capacity)
        return None

    def begin(self, client, records):
        """Hand each delivery to the worker of its host."""
        runners = self.get_runners()
        for _, (ident, host, sender, flags, length, lines), fd in records:
            numbers, addresses = remote.split_recipients(lines)
            runner = choose(runners, host)
            if runner is None or len(self.jobs.waiting) + len(numbers) > 2 * self.capacity:
                unix.close_quietly(fd)
                words = remote_report.NOT_RUN if runner is None else remote_report.TOO_MANY
                for number in numbers:
                    client.send(b'Z', number, b'', words)
                continue
            serials = [self.jobs.add(client, number, runner) for number in numbers]
            lines = b'\n'.join(b'%s %s' % pair for pair in zip(serials, addresses))
            runner.send((ident, host, sender, flags, length, lines), fd)


def choose(runners, host):
    """The worker for a host: always the same one while it lives, another one while it does not."""
    start = crc32(text.lower(host)) % len(runners)
    for runner in runners[start:] + runners[:start]:
        if runner.channel is not None:
            return runner
    return None


# --- QMAILREMOTE --------------------------------------------------------------------------------------------

class Programs:
    """In place of a Worker: a program of the administrator's for each delivery."""

    CAPACITY = 120      # qmail's

    __slots__ = ('loop', 'jobs', 'program', 'channel')

    def __init__(self, loop, jobs, path):
        self.loop, self.jobs, self.program, self.channel = loop, jobs, path, True

    def send(self, fields, fd):
        """Run it for each recipient, with his own host: behind a relay those of a transaction may have several."""
        _, _, sender, _, length, lines = fields
        size = text.parse_uint(length, 1 << 62) or 0
        for serial, recipient in zip(*remote.split_recipients(lines)):
            host = text.lower(recipient.rpartition(b'@')[2])
            try:
                Run(self, serial, [self.program, host, sender, recipient], fd, size)
            except OSError as problem:
                program.warn(b'unable to run QMAILREMOTE: ' + program.reason(problem))
                self.jobs.end(self, serial, b'Z', b'', remote_report.NOT_RUN)
        unix.close_quietly(fd)


class Run:
    """One such program: its output, and its end."""

    __slots__ = ('owner', 'serial', 'pid', 'out', 'watched', 'pieces', 'size')

    def __init__(self, owner, serial, argv, fd, length):
        self.owner, self.serial = owner, serial
        self.pieces, self.size = [], 0
        message = unix.memory_copy(fd, length)
        try:
            self.out, theirs = unix.pipe2(unix.O_CLOEXEC | unix.O_NONBLOCK)
            try:
                self.pid, self.watched = children.begin(lambda: become_program(argv, message, theirs))
            except OSError:
                unix.close(self.out)
                raise
            finally:
                unix.close(theirs)
        finally:
            unix.close(message)
        owner.loop.watch(self.out, self._readable)
        owner.loop.watch(self.watched, self._ended)

    def _readable(self):
        """Take what it printed; beyond the limit it is thrown away."""
        try:
            data = unix.read(self.out, 65536)
        except BlockingIOError:
            return False
        if not data:
            self.owner.loop.forget(self.out)
            return False
        if self.size < remote_report.OUTPUT_LIMIT:
            self.pieces.append(data)
        self.size += len(data)
        return True

    def _ended(self):
        """It ended; what its children print later is not waited for."""
        while self._readable():
            pass
        for fd in (self.out, self.watched):
            self.owner.loop.forget(fd)
            unix.close(fd)
        status = unix.waitstatus_to_exitcode(unix.waitpid(self.pid, 0)[1])
        letter, words = remote_report.outcome(status, b''.join(self.pieces))
        self.owner.jobs.end(self.owner, self.serial, letter, b'', words)


def become_program(argv, message, out):
    """In the child: qmail-remote's descriptors, then the program, found by PATH."""
    try:
        message, out = unix.duplicate_above(message, 10), unix.duplicate_above(out, 10)
        unix.dup2(message, 0)
        unix.dup2(out, 1)
        unix.set_blocking(1, True)
        unix.dup2(out, 2)
        unix.closerange(3, 1 << 30)
        service.uncalm()
        execute.along_path(argv, dict(unix.environ))
    except OSError:
        pass
    finally:
        unix._exit(exits.TEMP)


# --- the program --------------------------------------------------------------------------------------------

def main(home, args):
    """qpy-rspawn [processes]"""
    unix_kernel.set_dumpable(0)
    unix.umask(0o077)
    count = processes(args)
    found = inherit.listeners()
    watched = remote.watch(home)            # refuses to start on what is broken, naming it
    service.calm()
    most = (unix.raise_descriptor_limit() - SPARE_FDS) // FDS_EACH
    path = unix.environ.get(b'QMAILREMOTE')
    loop = Loop()
    master = Master(loop, Programs.CAPACITY if path else max(1, min(most, CAPACITY_MOST)), trusted(home))
    inherit.life(loop, found)
    listening = inherit.sockets(found, b'rspawn')
    if not listening:
        raise program.Fatal(exits.TEMP, b'no socket called rspawn was handed over; qpy-start does that')
    confine.confine(home, manifest.chosen(b'rspawn', unix.environ))
    if path:
        runners = [Programs(loop, master.jobs, path)]
        master.get_runners = lambda: runners
    else:
        master.get_runners = Workers(loop, master.jobs, home, watched, count).current
    for sock in listening:
        packets.serve(loop, sock, master.client)
    loop.run()
    return exits.OK


def processes(args):
    """How many qpy-remote: as asked for, else one per processor, at most WORKERS_MOST."""
    if args:
        count = text.parse_uint(args[0], manifest.WORKERS_MOST)
        if not count:
            raise program.Fatal(exits.PERM, b'usage: qpy-rspawn [processes]')
        return count
    return min(len(unix.sched_getaffinity(0)), WORKERS_MOST)


def trusted(home):
    """The uids that may ask: qpy-send's, root, and our own where there is but one account."""
    return {0, packets.owner_of(home, b'qpys')}
