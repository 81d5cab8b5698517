"""A master that reads no foreign byte and has workers that do: one that dies is replaced.

    found = inherit.listeners()
    ... open and connect what the work needs, confine ...
    return master.run(found, worker, 2)

worker(found) runs in a child: it makes its own Loop, ends with inherit.life(loop, found) when the master or
the chain does, and returns an exit code. A worker that dies soon is replaced later and later, up to
LONGEST_PAUSE.
"""
from qpy import unix
from qpy.lib import inherit, loop, program

FIRST_PAUSE = 0.25          # seconds before a worker that died young is replaced; doubled each time
LONGEST_PAUSE = 30.0
GROWN_UP = 10.0             # seconds after which a worker's death is not held against the next one


class Master:
    """The workers of one program."""

    def __init__(self, found, worker, count):
        self.found, self.worker, self.count = found, worker, count
        self.loop = loop.Loop()
        self.born, self.pause = {}, FIRST_PAUSE      # {pid: when}
        self.read_end, self.write_end = unix.pipe2(unix.O_CLOEXEC)

    def run(self):
        """Have `count` workers until the chain ends."""
        self.loop.on_signal(unix.SIGCHLD, self.reap)
        inherit.life(self.loop, dict(self.found))
        for _ in range(self.count):
            self.start()
        self.loop.run()

    def start(self):
        """One more worker; its pid, None if that has to wait."""
        try:
            pid = unix.fork()
        except unix.error as problem:
            program.warn(b'unable to fork: ' + program.reason(problem))
            return self.again()
        if not pid:
            unix._exit(program.guarded(self.child))
        self.born[pid] = unix.monotonic()
        return pid

    def child(self):
        """The worker's side of fork: nothing of the master's loop stays."""
        unix.set_wakeup_fd(-1)
        unix.signal(unix.SIGCHLD, unix.SIG_DFL)
        unix.close(self.write_end)
        self.loop.epoll.close()
        found = dict(self.found)
        found[b'life'] = found.get(b'life', []) + [self.read_end]
        return self.worker(found)

    def reap(self):
        """Replace the workers that ended."""
        while self.born:
            pid, status = unix.waitpid(-1, unix.WNOHANG)
            if not pid:
                return
            if pid in self.born:
                self.ended(unix.monotonic() - self.born.pop(pid), unix.waitstatus_to_exitcode(status), pid)

    def ended(self, age, code, pid=None):  # pylint: disable=unused-argument
        """A worker ended: say so, and have another one soon."""
        if age > GROWN_UP:
            self.pause = FIRST_PAUSE
        if code:                                     # 0: it saw the end of the chain before us
            how = b'exited' if code >= 0 else b'killed by signal'
            program.warn(b'worker %s %d, starting another one' % (how, abs(code)))
        self.again()

    def again(self):
        """Start a worker after a pause that grows."""
        self.loop.after(self.pause, self.start)
        self.pause = min(2 * self.pause, LONGEST_PAUSE)


def run(found, worker, count=1):
    """Serve with `count` workers until the life pipe closes; returns the exit code."""
    Master(found, worker, count).run()
    return 0
