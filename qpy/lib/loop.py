"""The event loop of the warm programs: descriptors, timers, signals, and nothing else.

Callbacks take no arguments and must not block.  One pass of the loop: wait; handle every descriptor that is ready;
run what is due; then run what asked for the end of the pass (`call_soon`), which is where several small outputs of
one pass become one write.
"""
import gc
from heapq import heapify, heappop, heappush

from qpy import unix

READ = unix.EPOLLIN
WRITE = unix.EPOLLOUT
_ENDS = unix.EPOLLHUP | unix.EPOLLERR
MAX_SLEEP = 3600.0      # seconds; a bound on what a mistake in a timer can cost


class Timer:
    """Something to be done later; cancel() takes it back.

    A time limit that moves with every byte need not be a new Timer each time: note the time of the last byte, and
    look at it when the timer fires.
    """

    __slots__ = ('when', 'callback', 'loop')

    def __init__(self, when, callback, loop):
        self.when, self.callback, self.loop = when, callback, loop

    def cancel(self):
        """Never call back."""
        if self.callback is not None:
            self.callback = None
            self.loop._cancelled()


class Loop:
    """One per process."""

    __slots__ = ('epoll', 'readers', 'writers', 'fresh', 'timers', 'dead_timers', 'number', 'soon', 'signals', 'running',
                 'wake_read', 'wake_write')

    def __init__(self):
        self.epoll = unix.epoll()
        self.readers, self.writers = {}, {}
        self.fresh = set()              # registered in this pass: what epoll said before is about another of that number
        self.timers, self.soon, self.signals = [], [], {}       # timers: a heap of (when, number, Timer)
        self.dead_timers = self.number = 0
        self.running = False
        self.wake_read = self.wake_write = -1

    # --- descriptors ---

    def watch(self, fd, on_readable=None, on_writable=None):
        """Call back whenever fd is readable and/or writable; replaces what was asked for fd before.

        The end of a stream and errors count as readable and writable alike: the next read or write tells which.
        """
        known = (READ if fd in self.readers else 0) | (WRITE if fd in self.writers else 0)
        (self.readers.__setitem__(fd, on_readable) if on_readable else self.readers.pop(fd, None))
        (self.writers.__setitem__(fd, on_writable) if on_writable else self.writers.pop(fd, None))
        events = (READ if on_readable else 0) | (WRITE if on_writable else 0)
        if events == known:
            return                      # another callback for the same: the kernel need not hear of it
        if not events:
            self.epoll.unregister(fd)
        elif known:
            self.epoll.modify(fd, events)
        else:
            self.epoll.register(fd, events)
            self.fresh.add(fd)

    def watch_shared(self, fd, on_readable):
        """As watch, for a listening socket that other processes watch too: not all of them wake for one client."""
        self.forget(fd)
        self.readers[fd] = on_readable
        self.epoll.register(fd, READ | unix.EPOLL_EXCLUSIVE)
        self.fresh.add(fd)

    def forget(self, fd):
        """Stop watching fd.  Must come before its close."""
        self.watch(fd)

    # --- time ---

    def after(self, seconds, callback):
        """Call back once, in so many seconds (of the clock that never jumps).  Returns the Timer."""
        timer = Timer(unix.monotonic() + seconds, callback, self)
        self.number += 1                # so that timers themselves are never compared
        heappush(self.timers, (timer.when, self.number, timer))
        return timer

    def _cancelled(self):
        self.dead_timers += 1
        if self.dead_timers > 64 and self.dead_timers * 2 > len(self.timers):
            self.timers[:] = [entry for entry in self.timers if entry[2].callback is not None]
            heapify(self.timers)
            self.dead_timers = 0

    def call_soon(self, callback):
        """Call back at the end of this pass."""
        self.soon.append(callback)

    # --- signals and threads ---

    def on_signal(self, number, callback):
        """Call back, in the loop, after signal `number` has arrived (0: after waker()'s function was called)."""
        self._open_waker()
        self.signals[number] = callback
        if number:
            unix.signal(number, lambda *_: None)

    def waker(self):
        """A function that another thread may call to wake the loop (callback: on_signal(0, ...))."""
        self._open_waker()
        descriptor = self.wake_write
        return lambda: _poke(descriptor)

    def _open_waker(self):
        if self.wake_read < 0:
            self.wake_read, self.wake_write = unix.pipe2(unix.O_CLOEXEC | unix.O_NONBLOCK)
            unix.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
            self.watch(self.wake_read, self._woken)

    def _woken(self):
        try:
            numbers = set(unix.read(self.wake_read, 4096))
        except BlockingIOError:
            return
        for number in numbers:
            if number in self.signals:
                self.signals[number]()

    # --- the loop itself ---

    def run(self):
        """Serve until stop().  What is there now stays: it is not looked at for garbage again."""
        gc.freeze()
        self.running = True
        while self.running:
            self.step()

    def stop(self):
        """Leave run() at the end of this pass."""
        self.running = False

    def step(self, longest=MAX_SLEEP):
        """One pass; waits at most `longest` seconds for something to happen."""
        self._hear(self.epoll.poll(self._patience(longest)))
        if self.timers:
            self._run_due()
        while self.soon:
            callbacks, self.soon = self.soon, []
            for callback in callbacks:
                callback()

    def _hear(self, ready):
        readers, writers, fresh = self.readers, self.writers, self.fresh
        fresh.clear()
        for fd, events in ready:
            if events & (READ | _ENDS):
                callback = readers.get(fd)
                if callback and fd not in fresh:
                    callback()
            if events & (WRITE | _ENDS):
                callback = writers.get(fd)
                if callback and fd not in fresh:
                    callback()

    def _patience(self, longest):
        if self.soon:
            return 0
        while self.timers and self.timers[0][2].callback is None:
            heappop(self.timers)
            self.dead_timers -= 1
        if not self.timers:
            return longest
        return min(longest, max(0.0, self.timers[0][0] - unix.monotonic()))

    def _run_due(self):
        now, timers = unix.monotonic(), self.timers
        if timers and timers[0][0] <= now:          # what came meanwhile is heard before anybody gives up waiting for it
            self._hear(self.epoll.poll(0))
        while timers and timers[0][0] <= now:
            timer = heappop(timers)[2]
            callback, timer.callback = timer.callback, None
            if callback:
                callback()
            else:
                self.dead_timers -= 1


def _poke(descriptor):
    try:
        unix.write(descriptor, b'\0')
    except OSError:
        pass        # full: the loop is awake already
