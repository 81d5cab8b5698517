"""Filters instead of the queue (QMAILQUEUE, QPYQUEUE): run by a process that never sees a byte from the
network.

    runner = start(loop, allowed)           forks: before the first foreign byte
    job = runner.job(program, env, progress, done)      then as a queue_line.Stream

The filter gets the message on descriptor 0, the envelope on 1, may say why on 6, and answers with
qmail-queue's exit codes. If the client goes away in the middle, the envelope ends without its last NUL: the
filter must see that and fail (54). The runner executes nothing but what `allowed()` names at that moment.
"""
from qpy import unix
from qpy.core import exits, text
from qpy.lib import loop as loops
from qpy.lib import program, service

REQUEST_MAX = 100_000       # bytes of program and environment
PATIENCE = 900.0            # seconds a filter may run
MOST = 100                  # filters at a time
REASON_MAX = 255            # bytes of descriptor 6 that count
LOW = 64 << 10
KNOWN_PATH = b'/usr/local/bin:/usr/bin:/bin'


def start(loop, home, allowed):
    """Fork the runner; returns the end that asks it. allowed() -> names of the filters that may be run."""
    ours, theirs = unix.socketpair()
    pid = unix.fork()
    if not pid:
        ours.close()
        loop.epoll.close()
        unix._exit(program.guarded(lambda: Runner(theirs, home, allowed).serve()))
    theirs.close()
    return Asker(loop, ours)


# The process that runs filters.

class Runner:
    """The runner's side."""

    def __init__(self, sock, home, allowed):
        self.sock, self.home, self.allowed = sock, home, allowed
        self.loop = loops.Loop()
        self.running = {}           # pid: (number, timer)

    def serve(self):
        """Until the asker is gone, and with it every filter that still runs."""
        self.loop.on_signal(unix.SIGCHLD, self.reap)
        self.loop.watch(self.sock.fileno(), self.readable)
        self.loop.run()
        for pid in self.running:
            kill_group(pid)
        return exits.OK

    def readable(self):
        """Requests: `number NUL program NUL env NUL ...` with the descriptors for 0, 1 and 6."""
        try:
            packet = unix.recv_packet(self.sock, REQUEST_MAX, 3)
        except unix.error:
            return self.loop.stop()
        if packet is None:
            return
        data, fds = packet
        if not data:
            return self.loop.stop()
        number, name, *env = data.split(b'\0')
        status = self.refusal(name, fds) or self.run(number, name, env, fds)
        for fd in fds:
            unix.close_quietly(fd)
        if status:
            self.answer(number, status)

    def refusal(self, name, fds):
        """An exit code if this must not be run."""
        if len(fds) != 3 or len(self.running) >= MOST:
            return exits.QQ_MEMORY
        if name not in self.allowed():
            program.warn(b'control/tcp.smtp and our environment name no filter ' + text.logsafe(name))
            return exits.QQ_EXEC
        return 0

    def run(self, number, name, env, fds):
        """Start it; an exit code if that failed."""
        try:
            pid = unix.fork()
        except unix.error:
            return exits.QQ_MEMORY
        if not pid:
            become(name, dict(item.partition(b'=')[::2] for item in env), fds, self.home)
        self.running[pid] = number, self.loop.after(PATIENCE, lambda: kill_group(pid))
        return 0

    def reap(self):
        """Report the filters that ended."""
        while self.running:
            pid, status = unix.waitpid(-1, unix.WNOHANG)
            if not pid:
                return
            if pid in self.running:
                number, timer = self.running.pop(pid)
                timer.cancel()
                kill_group(pid)
                self.answer(number, unix.waitstatus_to_exitcode(status))

    def answer(self, number, status):
        """An exit code, or minus a signal."""
        try:
            unix.send_packet(self.sock, b'%s\0%d' % (number, status))
        except unix.error:
            self.loop.stop()


def kill_group(pid):
    """End a filter and what it started."""
    try:
        unix.killpg(pid, unix.SIGKILL)
    except unix.error:
        pass


def become(name, env, fds, home):
    """In the child: be the filter."""
    try:
        unix.setsid()
        service.uncalm()
        unix.signal(unix.SIGCHLD, unix.SIG_DFL)
        high = [unix.duplicate_above(fd, 10) for fd in fds]
        for fd, target in zip(high, (0, 1, 6)):
            unix.dup2(fd, target)
        unix.closerange(3, 6)
        unix.closerange(7, 65536)
        unix.chdir(home)
        env.setdefault(b'PATH', KNOWN_PATH)
        env.setdefault(b'ERROR_FD', b'6')
        unix.execve(name, [name], env)
    finally:
        unix._exit(exits.QQ_EXEC)


# The process that wants a message filtered.

class Asker:
    """The server's side of the runner.  lost(): called when that has ended, if anybody minds."""

    __slots__ = ('loop', 'sock', 'jobs', 'number', 'lost')

    def __init__(self, loop, sock):
        self.loop, self.sock, self.jobs, self.number, self.lost = loop, sock, {}, 0, None
        loop.watch(sock.fileno(), self.readable)

    def job(self, name, env, progress, done):
        """One message through the filter `name`; env: {name: value}, all of its environment."""
        self.number += 1
        job = Job(self, b'%d' % self.number, progress, done)
        message, envelope, errors = [unix.pipe2(unix.O_CLOEXEC) for _ in range(3)]
        job.take(message[1], envelope[1], errors[0])
        self.jobs[job.number] = job
        settings = [b'%s=%s' % item for item in env.items() if b'\0' not in item[1]]
        request = b'\0'.join([job.number, name, *settings])
        theirs = (message[0], envelope[0], errors[1])
        try:
            sent = self.sock is not None and unix.send_packet(self.sock, request, theirs)
        except unix.error:
            sent = False
        for fd in theirs:
            unix.close(fd)
        if not sent:
            self.loop.call_soon(lambda: job.exited(exits.QQ_MEMORY))
        return job

    def readable(self):
        """A filter ended, or the runner did."""
        try:
            packet = unix.recv_packet(self.sock, 100)
        except unix.error:
            packet = b'', []
        if packet is None:
            return
        if not packet[0]:
            return self.gone()
        number, _, status = packet[0].partition(b'\0')
        job = self.jobs.get(number)
        if job is not None:
            job.exited(int(status))

    def gone(self):
        """No runner any more: every job is told to try later."""
        self.loop.forget(self.sock.fileno())
        self.sock.close()
        self.sock = None
        for job in list(self.jobs.values()):
            job.exited(exits.QQ_EXEC)
        if self.lost is not None:
            self.lost()


class Job:
    """One message on its way through a filter: write, finish, abort, pending as in queue_line.Stream."""

    __slots__ = ('asker', 'number', 'progress', 'done', 'message', 'envelope', 'errors', 'waiting', 'pending',
                 'ended', 'over', 'high', 'watching', 'reason')

    def __init__(self, asker, number, progress, done):
        self.asker, self.number, self.progress, self.done = asker, number, progress, done
        self.waiting, self.pending, self.reason = b'', 0, b''
        self.ended, self.over, self.high, self.watching = None, False, False, False

    def take(self, message, envelope, errors):
        """Our ends of the three pipes."""
        self.message, self.envelope, self.errors = message, envelope, errors
        for fd in (message, envelope, errors):
            unix.set_blocking(fd, False)
        self.asker.loop.watch(errors, self.said)

    def write(self, data):
        """A part of the message."""
        if self.message >= 0 and not self.over:
            self.waiting += data
            self.flush()

    def finish(self, envelope):
        """The end of the message, and the envelope (which fits into a pipe, or is written as it can be)."""
        self.ended = envelope
        if self.message >= 0:
            self.flush()

    def flush(self):
        """Write what waits to the message's pipe, then close that, then the envelope to its own."""
        if self.message >= 0:
            self.waiting = self.push(self.message, self.waiting)
            if not self.waiting and self.ended is not None:
                self.message = self.shut(self.message)
                self.waiting, self.ended = self.ended, None
        if self.message < 0 and self.envelope >= 0:
            self.waiting = self.push(self.envelope, self.waiting)
            if not self.waiting:
                self.envelope = self.shut(self.envelope)
        before, self.pending = self.pending, len(self.waiting)
        if before >= LOW > self.pending:
            self.progress()

    def push(self, fd, data):
        """Write to a pipe; returns what it did not take. A filter that reads no more has its reasons."""
        done = 0
        try:
            while done < len(data):
                done += unix.write(fd, data[done:done + 65536])
        except BlockingIOError:
            pass
        except unix.error:
            done = len(data)
        self.asker.loop.watch(fd, None, self.flush if done < len(data) else None)
        return data[done:]

    def shut(self, fd):
        """Close one of the pipes; returns -1."""
        if fd >= 0:
            self.asker.loop.forget(fd)
            unix.close_quietly(fd)
        return -1

    def said(self):
        """Something on descriptor 6."""
        try:
            data = unix.read(self.errors, 4096)
        except BlockingIOError:
            return
        except unix.error:
            data = b''
        self.reason = (self.reason + data)[:REASON_MAX]
        if not data:
            self.errors = self.shut(self.errors)

    def exited(self, status):
        """The filter ended: its exit code, minus a signal."""
        if self.errors >= 0:
            self.said()
        complete = self.message < 0 and self.envelope < 0
        self.asker.jobs.pop(self.number, None)
        self.close()
        if self.over:
            return
        self.over = True
        if status < 0:
            self.done(exits.QQ_CRASHED)
        elif status:
            self.done(exits.queue_text(status, self.reason))
        else:
            self.done(b'K' if complete else exits.queue_text(exits.QQ_READ))

    def abort(self):
        """Not wanted any more: the envelope ends without its last NUL."""
        self.over = True
        self.close()

    def close(self):
        """Close our ends."""
        self.message, self.envelope, self.errors = map(self.shut, (self.message, self.envelope, self.errors))
