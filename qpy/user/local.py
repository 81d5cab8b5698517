"""qpy-local, as the recipient: delivers a message as his .qmail says.

One shot: qpy-local [-nN] user home local dash ext domain sender default, the message on descriptor 0, what there is
to say on 1 and 2; exits 0, 100 (never) or 111 (later).

Warm: serve(), which the seed of qpy-lspawn calls in a process that is already the user: `J` records with a message
each, answered by `R` records.  Jobs that only want Maildirs and wait together are made durable together; any other
has a child of its own, so that a slow one delays nobody.
"""
from _collections import deque

from qpy import unix
from qpy.core import channel, dotqmail, exits, localstatus, maildir
from qpy.lib import children, controls, program
from qpy.user import child, delivery, mailbox
from qpy.user.mailbox import Failed

USAGE = b'usage: qpy-local [-nN] user home local dash ext domain sender default'
TIME_LIMIT = b'timeoutlocal'

BATCH = 64                  # jobs made durable together at most
CHILDREN = 20               # programs, mboxes and forwards of one user at a time
REPORTS = 50                # records in one packet to lspawn
LEAVING = 5.0               # seconds that what is not a program (an mbox, a forward) may still take when lspawn is gone
GENERATIONS = 1000          # orphans buried after one delivery whose guardian did not see to it


# --- one shot ------------------------------------------------------------------------------------------------

def main(home, args):
    """Deliver what is on descriptor 0."""
    unix.umask(0o077)
    real, words = options(args)
    if len(words) != 8 or words[1][:1] != b'/':
        raise program.Fatal(exits.PERM, USAGE)
    job = delivery.Job(*words, b'', 0)
    if not real:
        return describe(home, job)
    child.read_limits(home)
    code, report = one(job, home, hostname(), controls.number(home, TIME_LIMIT))
    unix.write_all(1 if code == exits.OK else 2, localstatus.cut(report))
    return code


def options(args):
    """(whether to deliver, the words after the options)."""
    real, i = True, 0
    while i < len(args) and args[i][:1] == b'-' and args[i] != b'-':
        i += 1
        if args[i - 1] == b'--':
            break
        if args[i - 1].strip(b'-nN'):
            raise program.Fatal(exits.PERM, USAGE)
        real = args[i - 1][-1:] == b'N'
    return real, args[i:]


def describe(home, job):
    """Say what would be done (-n)."""
    try:
        plan = delivery.prepare(job, home, real=False)
    except Failed as end:
        unix.write_all(2, end.text + b'\n')
        return end.code
    if delivery.mode_of(plan.home_fd) & dotqmail.STICKY:
        program.warn(b'home directory is sticky: mail waits until its user has edited his .qmail file')
    unix.write_all(1, dotqmail.describe(plan.instructions))
    if plan.instructions and plan.instructions[-1][0] is dotqmail.FAIL:
        unix.write_all(2, plan.instructions[-1][1] + b'\n')
        return exits.TEMP
    return exits.OK


def one(job, home, host, limit):
    """Deliver one message from start to end: (exit code, report)."""
    try:
        plan = delivery.prepare(job, home)
    except Failed as end:
        return end.code, end.text + b'\n'
    child.adopt()
    return delivery.carry_out(plan, home, host, unix.monotonic() + limit)


def hostname():
    """This machine's name as part of a file name."""
    return maildir.host_part(unix.fsencode(unix.gethostname()))


# --- warm ----------------------------------------------------------------------------------------------------

def serve(sock, home, host, limit, fsync_all=None):
    """Serve jobs from lspawn until it closes the socket, which means: nobody waits for what is still under way.

    home: DIR.  host: of hostname().  limit: seconds that one delivery's programs may take.  fsync_all: as that of
    unix, and perhaps better.
    """
    child.adopt()
    worker = Worker(sock, home, host, limit, fsync_all)
    while worker.open:
        worker.turn()
    worker.leave()
    return exits.OK


class Worker:
    """One user's warm qpy-local."""

    __slots__ = ('sock', 'home', 'host', 'limit', 'fsync_all', 'ready', 'open', 'children', 'waiting', 'said',
                 'life', 'life_read')

    def __init__(self, sock, home, host, limit, fsync_all=None):
        self.sock, self.home, self.host, self.limit, self.fsync_all = sock, home, host, limit, fsync_all
        self.ready, self.open = unix.epoll(), True
        self.children, self.waiting = {}, deque()       # {pidfd: (pid, n, its report's pipe)}; (n, plan) to come
        self.said = []
        self.life_read, self.life = unix.pipe2(unix.O_CLOEXEC)      # its end tells the children that we are gone
        self.ready.register(sock.fileno(), unix.EPOLLIN)

    def turn(self, patience=None):
        """Wait for something to happen, and see to it."""
        fds = [fd for fd, _ in self.ready.poll(patience)]
        for fd in fds:
            if fd in self.children:
                self.ended(fd)
        if self.sock.fileno() in fds:
            self.deliver(self.jobs())
        while self.waiting and len(self.children) < CHILDREN:
            self.start(*self.waiting.popleft())
        self.report()

    def jobs(self):
        """[(n, Job)]: what has come, up to a batch; nothing when lspawn is gone, who would try it again."""
        found = []
        while self.open and len(found) < BATCH:
            packet = self.packet()
            if packet is None:
                break
            data, fds = packet
            records = channel.unpack(data, channel.WORKER_JOB) if data else []
            if len(records) != len(fds):
                raise channel.ChannelError('%d descriptors for %d jobs' % (len(fds), len(records)))
            if not data:
                self.ready.unregister(self.sock.fileno())
                self.open = False
                for _, job in found:
                    unix.close_quietly(job.fd)
                return []
            found += [(fields[0], delivery.Job(*fields[1:], fd)) for (_, fields), fd in zip(records, fds)]
        return found

    def packet(self):
        """The next one; its end too if lspawn was killed before it had read all reports."""
        try:
            return unix.recv_packet(self.sock, maxfds=unix.PACKET_FDS)
        except ConnectionResetError:
            return b'', []

    def deliver(self, jobs):
        """Maildirs together and now; children for the rest."""
        batch, plans, known = mailbox.Batch(self.host, self.fsync_all), {}, {}
        for n, job in jobs:
            try:
                alike = known.get(job.address())
                plan = delivery.prepare(job, self.home) if alike is None else delivery.again(job, alike)
            except Failed as end:
                unix.close_quietly(job.fd)
                self.say(n, end.code, end.text + b'\n')
                continue
            if plan.maildirs() is None:
                plan.body = None
                self.waiting.append((n, plan))
            else:
                self.put(batch, n, plan, plans, known)
        for n, problem in batch.commit().items():
            if problem is None:
                self.say(n, exits.OK, dotqmail.did(plans[n], 0, 0))
            else:
                self.say(n, exits.TEMP, mailbox.trouble(problem) + b'\n')

    def put(self, batch, n, plan, plans, known):
        """One message into the batch; plans[n] = how many Maildirs it has; known[its address] = it, if it went well."""
        paths = plan.maildirs()
        try:
            delivery.put(batch, n, plan, paths)
            plans[n] = len(paths)
            known[plan.job.address()] = plan
        except Failed as end:
            self.say(n, end.code, end.text + b'\n')
        finally:
            plan.close()
            unix.close_quietly(plan.job.fd)

    # --- children ---

    def start(self, n, plan):
        """A child for one plan."""
        try:
            self.have_child(n, plan)
        except unix.error as problem:
            self.say(n, exits.TEMP, b'Unable to fork: %s. (#4.3.0)\n' % mailbox.why(problem))
        plan.close()
        unix.close_quietly(plan.job.fd)

    def have_child(self, n, plan):
        """Fork, with a pipe for what the child has to report: it fits in, so the child waits for nobody."""
        out, into = unix.pipe2(unix.O_CLOEXEC | unix.O_NONBLOCK)
        try:
            pid, pidfd = children.begin(lambda: unix._exit(program.guarded(lambda: self.alone(plan, into))))
        except unix.error:
            unix.close(out)
            raise
        finally:
            unix.close(into)
        self.children[pidfd] = pid, n, out
        self.ready.register(pidfd, unix.EPOLLIN)

    def alone(self, plan, into):
        """In the child: carry out the plan, report, end.  lspawn's socket is the parent's alone: it tells his death."""
        self.sock.close()
        unix.close(self.life)
        child.adopt()                   # fork does not inherit it
        deadline = unix.monotonic() + self.limit
        code, report = delivery.carry_out(plan, self.home, self.host, deadline, self.life_read)
        unix.write_all(into, localstatus.cut(report))
        return code

    def ended(self, pidfd):
        """A child has ended: its exit code and report; what it left behind is ended too."""
        pid, n, out = self.children.pop(pidfd)
        self.ready.unregister(pidfd)
        unix.close(pidfd)
        code = unix.waitstatus_to_exitcode(unix.waitpid(pid, 0)[1])
        self.say(n, code, read_report(out))
        unix.close(out)
        self.end_strays()

    def end_strays(self):
        """Kill what came to us as an orphan: a program whose guardian was killed before it.  What multiplies faster than
        that is left to the seed: it ends all that came from us when we have ended."""
        ours = {pid for pid, _, _ in self.children.values()}
        for _ in range(GENERATIONS):
            strays = [pid for pid in child.children() if pid not in ours]
            if not strays or not child.kill_all(strays):
                return
            unix.waitpid(strays[0], 0)
        self.open = False

    def leave(self):
        """lspawn is gone: programs are ended by who runs them, the rest may finish what it writes, but not for long."""
        unix.close(self.life)
        self.waiting.clear()
        deadline = unix.monotonic() + LEAVING
        while self.children and unix.monotonic() < deadline:
            self.turn(max(0.0, deadline - unix.monotonic()))
        child.end_tree(0)

    # --- reports ---

    def say(self, n, code, report):
        """Have a result to report."""
        self.said.append(channel.pack(b'R', n, b'%d' % code, localstatus.cut(report)))

    def report(self):
        """Send what there is to report; wait for lspawn if it is slow."""
        while self.said:
            data = b''.join(self.said[:REPORTS])
            try:
                if not unix.send_packet(self.sock, data):
                    self.wait_to_write()
                    continue
            except unix.error:
                self.said = []              # lspawn is gone: nobody wants to know
                return
            del self.said[:REPORTS]

    def wait_to_write(self):
        """Until lspawn takes more."""
        ready = unix.epoll()
        ready.register(self.sock.fileno(), unix.EPOLLOUT)
        ready.poll()
        ready.close()


def read_report(out):
    """What a child that has ended wrote."""
    try:
        return unix.read(out, 2 * localstatus.OUTPUT_LIMIT)
    except BlockingIOError:             # a copy of the other end is somewhere, and nothing was written
        return b''
