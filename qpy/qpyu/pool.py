"""The warm users: one process for each (uid, gid) with mail now, kept for a while, never too many."""
from _collections import deque

from qpy import unix
from qpy.core import channel, localstatus
from qpy.lib import packets, program

MOST, LEAST = 1000, 50      # warm users at a time, whatever there is room for
EACH = 2 << 20              # bytes of memory that one takes; an eighth of all is for them
IDLE = 60.0                 # seconds without mail after which a user's process leaves
GRACE = 300.0               # seconds beyond the time limit of programs that a delivery may take in all


def most(memory, processes, descriptors):
    """How many users may be warm, where there is so much of each; deliveries under way hold descriptors too."""
    return max(LEAST, min(MOST, memory // 8 // EACH, processes // 2, (descriptors - 1000) // 2))


class Delivery:
    """One job for one user: whose, the fields of its `J` record after the number, the message, whom to tell."""

    __slots__ = ('key', 'fields', 'fd', 'done')

    def __init__(self, key, fields, fd, done):
        self.key, self.fields, self.fd, self.done = key, fields, fd, done


class Worker:
    """A user's process: its channel, once it is known to run; its pid; the deliveries it has; limit: seconds its
    programs may take.
    """

    __slots__ = ('key', 'channel', 'ready', 'jobs', 'used', 'limit', 'pid')

    def __init__(self, key, limit):
        self.key, self.channel, self.ready, self.jobs, self.used = key, None, False, {}, 0.0
        self.limit, self.pid = limit, b''


class Pool:
    """All warm users, least recently used first; seed is the channel to the seed.  limit(): for a new worker."""

    __slots__ = ('loop', 'seed', 'workers', 'births', 'homeless', 'deadlines', 'number', 'limit', 'sweeping',
                 'watching', 'most')

    def __init__(self, loop, sock, limit, seed_gone, most=LEAST):
        self.loop, self.limit, self.most = loop, limit, most
        self.seed = packets.Channel(loop, sock, channel.SEED_REPORT, self.born, seed_gone)
        self.workers, self.births = {}, deque()         # {key: Worker}; Workers the seed has not answered for
        self.homeless, self.deadlines = deque(), {}     # Deliveries without a worker; {n: (when, Worker)}
        self.number, self.sweeping, self.watching = 0, False, False

    # --- jobs ---

    def deliver(self, delivery):
        """Have it delivered; delivery.done(letter, text) is called once."""
        worker = self.workers.pop(delivery.key, None)
        if worker is None and len(self.workers) >= self.most and not self.make_room():
            return self.homeless.append(delivery)
        worker = worker or self.start(delivery.key)
        if worker is None:
            return self.finish(delivery, localstatus.UNABLE_TO_RUN)
        self.workers[delivery.key] = worker             # last: most recently used
        self.number += 1
        n = b'%d' % self.number
        worker.jobs[n] = delivery
        self.deadlines[n] = unix.monotonic() + worker.limit + GRACE, worker
        self.watch()
        if worker.ready:
            self.hand_over(worker, n, delivery)

    def hand_over(self, worker, n, delivery):
        """Send one job; the descriptor goes with it."""
        fd, delivery.fd = delivery.fd, -1
        worker.channel.send(b'J', n, *delivery.fields, fd=fd)

    def finish(self, delivery, report):
        """Tell the outcome: a letter and a text."""
        if delivery.fd >= 0:
            unix.close_quietly(delivery.fd)
            delivery.fd = -1
        delivery.done(report[:1], report[1:])

    def reported(self, worker, records):
        """Results from a user's process.  What it has no job for is ignored: it is his process."""
        for _, (n, code, output), _ in records:
            delivery = worker.jobs.pop(n, None)
            if delivery is not None:
                del self.deadlines[n]
                self.finish(delivery, b''.join(localstatus.report(exit_code(code), output)))
        if not worker.jobs:
            self.rest(worker)

    def rest(self, worker):
        """A worker without jobs: its place is for those who wait, else it stays warm."""
        worker.used = unix.monotonic()
        if self.homeless:
            self.dismiss(worker)
            self.deliver(self.homeless.popleft())
        elif not self.sweeping:
            self.sweeping = True
            self.loop.after(IDLE, self.sweep)

    # --- birth and death ---

    def start(self, key):
        """Ask the seed for a worker; None if there are no descriptors for it."""
        try:
            ours, his = unix.socketpair()
        except unix.error as problem:
            program.warn(b'unable to make a socket pair: ' + program.reason(problem))
            return None
        worker = Worker(key, self.limit())
        worker.channel = packets.Channel(self.loop, ours, channel.WORKER_REPORT,
                                         lambda records: self.reported(worker, records),
                                         lambda reason: self.closed(worker))
        self.births.append(worker)
        self.seed.send(b'U', b'%d' % key[0], b'%d' % key[1], fd=his.detach())
        return worker

    def born(self, records):
        """The seed's answers, in the order it was asked.  Only now the jobs go: the seed has closed its end."""
        for letter, (_, word), _ in records:
            worker = self.births.popleft()
            worker.ready, worker.pid = True, word
            if letter == b'X':
                self.died(worker, b'Z%s\n' % word)
            elif worker.channel.sock is None:
                self.died(worker, localstatus.CRASHED)
            else:
                for n, delivery in worker.jobs.items():
                    self.hand_over(worker, n, delivery)

    def closed(self, worker):
        """A user's process has ended.  If it was never born the seed is about to say why."""
        if worker.ready:
            self.died(worker, localstatus.CRASHED)

    def died(self, worker, report):
        """A worker is gone, or given up: the same report for all it had."""
        self.dismiss(worker)
        jobs, worker.jobs = worker.jobs, {}
        for n, delivery in jobs.items():
            del self.deadlines[n]
            self.finish(delivery, report)
        while self.homeless and len(self.workers) < self.most:
            self.deliver(self.homeless.popleft())

    def dismiss(self, worker):
        """Close its channel: it ends when its last child has."""
        worker.channel.close()
        if self.workers.get(worker.key) is worker:
            del self.workers[worker.key]

    def make_room(self):
        """Dismiss the idle worker whose last mail is longest ago; False if all are busy."""
        for worker in self.workers.values():
            if not worker.jobs:
                self.dismiss(worker)
                return True
        return False

    # --- time ---

    def sweep(self):
        """Dismiss who has been idle for long."""
        now = unix.monotonic()
        idle = [worker for worker in self.workers.values() if not worker.jobs]
        for worker in idle:
            if worker.used + IDLE <= now + 1:
                self.dismiss(worker)
        self.sweeping = any(not worker.jobs for worker in self.workers.values())
        if self.sweeping:
            self.loop.after(IDLE / 4, self.sweep)

    def watch(self):
        """Have a timer for the oldest delivery; they all have the same time, so it is the first to be late."""
        if not self.watching and self.deadlines:
            self.watching = True
            when = next(iter(self.deadlines.values()))[0]
            self.loop.after(max(0.0, when - unix.monotonic()), self.overdue)

    def overdue(self):
        """Give up workers with a delivery that should have ended: stopped, or caught in a dead file system."""
        self.watching = False
        while self.deadlines:
            when, worker = next(iter(self.deadlines.values()))
            if when > unix.monotonic():
                break
            program.warn(b'uid %d: a delivery did not end in time' % worker.key[0])
            if worker.ready:
                self.seed.send(b'K', worker.pid)    # it may be stopped: it would not see that its channel is closed
            self.died(worker, localstatus.OVERDUE)
        self.watch()


def exit_code(field):
    """The exit code in a report, -1 for a signal; what is no code is temporary."""
    if field[:1] == b'-':
        return -1
    return int(field) if len(field) <= 3 and field.isdigit() else 111
