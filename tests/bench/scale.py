"""What a full queue and a crowd of idle clients cost, in time and memory.

    sudo /usr/bin/python3 tests/bench/scale.py [--messages 1000000] [--clients 10000]
                                               [--work dead,cold,drain,neighbours,idle-clients]

Needs root, Debian's package archive (Postfix's smtp-sink and smtp-source are unpacked, not installed) and, for a
million messages, 10 GB below /var/tmp.  What is measured is the chain as qpy-install leaves it, with its queue on an ext4 of
its own, a loop mount; each work has a new one, and takes it away.

The waiting messages are small, for one recipient each, and all go to one relay, where nothing listens.  They do not come
by SMTP: their files are written as qpy-queue-format(5) has them, while the chain stands still, and the file system is then
mounted anew, so that the start finds none of its inodes in memory (the blocks of the image may well be: what is measured is
no disk).  New messages come by SMTP, for a user's Maildir and for a relay that answers.

    dead            --messages have waited: each has a state, and is due within the hours that are between two attempts
                    at a message a day old, or a little overdue.  Seconds from the start of qpy-start to the first
                    deliveries; those of new messages while the queue is searched, and after that; memory of qpy-send
                    for each (private, less that of a chain with an empty queue)
    cold            the same, but none was tried: all are due at once, so that every one is read and deferred
    drain           100,000 of `dead` (or --messages), and the relay comes alive: messages a second, tenth by tenth
    neighbours      100,000 for the dead relay (or --messages): rate and latency of the others' mail without them, while
                    they are tried for the first time, and while they wait
    idle-clients    --clients have said EHLO and say no more: memory of all processes of qpy-smtpd (proportional; what the
                    kernel keeps for sockets is not in it), and the time of a whole message beside them

Seconds are moods of the machine; bytes, and how the tenths of a drain compare, are not.
"""
import argparse
import contextlib
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from qpy.core import mess, state  # noqa: E402
from tests.bench import servers, works  # noqa: E402

DEAD, LIVE = 'sink.test', 'd0.test'     # servers.Qpy has routes for both; a sink stands only where this says so
SOME = 100_000
CROWD = 2000                # messages of a neighbour
AGE, BETWEEN = 86_400, 12_000           # seconds: of a waiting message, and between two attempts at it
TEXT = b'Subject: x\n\nhello\n'
REASON = b'Connected to 127.0.0.1 but nobody was at home. (#4.4.1)\n'
PROBES = 20                 # of which a median is taken


def main():
    """Do the works."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--messages', type=int, default=1_000_000)
    parser.add_argument('--clients', type=int, default=10_000)
    parser.add_argument('--work', default=','.join(ALL))
    options = parser.parse_args()
    works.PATIENCE = 3600
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('asked to end'))
    for name in options.work.split(','):
        print('\n%s' % name, flush=True)
        with chain(2 * options.messages) as server:
            ALL[name](server, options)


# --- the chain -----------------------------------------------------------------------------------------------

class Chain(servers.Qpy):
    """qpy with a queue that can be filled while it stands still.  mount: the file system of the queue, anew."""

    def __init__(self, base, spool, remount):
        self.remount = remount
        super().__init__('qpy', base, spool)
        self.sink = servers.Sink(servers.SINK_ADDRESSES[0])
        works.first(self)

    def halt(self):
        """Stop, and stay installed."""
        self.server.stop(remove=False)

    def go(self):
        """Start; returns when that began."""
        began = time.monotonic()
        self.server.start()
        return began

    def stop(self):
        """For good."""
        self.sink.stop()
        super().stop()

    def says(self, what):
        """A number of `qpy-ctl stat`."""
        words = self.server.command(self.server.home + '/bin/qpy-ctl', 'stat').split()
        return int(words[words.index(what) + 1])

    def private(self):
        """Bytes that qpy-send alone has."""
        pid, = [pid for pid, program in self.processes() if program == 'send']
        with open('/proc/%d/smaps_rollup' % pid) as file:
            text = file.read()
        return 1024 * (servers.number_in(text, 'Private_Clean:') + servers.number_in(text, 'Private_Dirty:'))

    def local(self):
        """Seconds of a new message into a Maildir, from its connection on."""
        return sum(works.one(self))

    def remote(self):
        """Seconds of a new message to the next hop that answers."""
        before = self.sink.count()
        client = works.Client(self, 'x@' + LIVE)
        works.until(lambda: self.sink.count() > before)
        took = time.monotonic() - client.start
        client.close()
        return took

    def rate(self, messages):
        """Messages a second from 20 sessions to the next hop that answers."""
        before, start = self.sink.count(), time.monotonic()
        works.finish(works.source(self, 'x@' + LIVE, messages))
        works.until(lambda: self.sink.count() >= before + messages)
        return messages / (time.monotonic() - start)


@contextlib.contextmanager
def chain(files):
    """A Chain on disks of its own, the queue's with room for so many files; nothing is left of it."""
    images = tempfile.mkdtemp(prefix='qpy-bench-', dir='/var/tmp')
    os.chmod(images, 0o755)
    base, spool = os.path.join(images, 'disk'), os.path.join(images, 'spool')
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, images, ignore_errors=True)
        undo.callback(servers.own_disk(base, images, 2048))
        undo.callback(servers.own_disk(spool, images, 1024 + files // 200, files + 10_000))

        def remount():
            subprocess.run(['umount', spool], check=True)
            subprocess.run(['mount', '-o', 'loop', spool + '.image', spool], check=True)
        server = Chain(base, spool, remount)
        undo.callback(server.stop)
        yield server


def fill(server, messages, tried):
    """Put messages for the dead relay into the queue of a Chain that stands still; returns when it is mounted anew."""
    began, now = time.monotonic(), int(time.time())
    first = (now - AGE) * 1_000_000
    names = [b'%016d' % number for number in range(first, first + messages)]
    envelope = mess.Envelope(b'sender@client.test', [b'x@' + DEAD.encode()]).build()
    writers = [write(server.queue + '/queue/mess', ((name, mess.pack(TEXT, envelope, name)) for name in names))]
    if tried:
        writers.append(write(server.queue + '/queue/state', (
            (name, state.entry(name, b'z', b'0', REASON)
             + state.entry(name, b'a', b'%d' % (now + n * BETWEEN // messages - BETWEEN // 20), b'15'))
            for n, name in enumerate(names))))
    if any(os.waitpid(pid, 0)[1] for pid in writers):
        raise SystemExit('the queue could not be filled')
    server.remount()
    print('  %d messages were put into the queue in %.0f s' % (messages, time.monotonic() - began), flush=True)


def write(directory, files):
    """Begin to write files, (name, bytes), as the owner of their directory, in a process of its own; returns its ID."""
    pid = os.fork()
    if pid:
        return pid
    try:
        owner, fd = os.stat(directory), os.open(directory, os.O_RDONLY)
        os.umask(0o027)
        os.setgroups([])
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
        for name, data in files:
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640, dir_fd=fd)
            os.write(file, data)
            os.close(file)
        os._exit(0)
    finally:
        os._exit(1)


def tell(what, *words):
    """One figure."""
    print('  %-62s %s' % (what, ' '.join(words)), flush=True)


# --- the works -----------------------------------------------------------------------------------------------

def dead(server, options, tried=True):
    """A start on a full queue."""
    empty = server.private()
    server.halt()
    fill(server, options.messages, tried)
    began = server.go()
    tell('from start to greeting', '%.1f s' % (time.monotonic() - began))
    for name, new in (('local', server.local), ('remote', server.remote)):
        took = new()
        tell('from start to the first %s delivery' % name, '%.1f s, of which the message %.3f s'
             % (time.monotonic() - began, took))
    waits = probe(server, lambda: server.says('scanning') or server.says('messages') < options.messages)
    tell_waits('while the queue is searched', waits, time.monotonic() - began)
    if not tried:
        waits = probe(server, lambda: server.says('active'))
        tell_waits('while all are tried', waits, time.monotonic() - began)
    tell_waits('beside what waits', [(server.local(), server.remote()) for _ in range(PROBES)])
    tell('memory of qpy-send for each', '%.0f bytes' % ((server.private() - empty) / options.messages))
    tell('memory of the chain', ', '.join('%s %.0f MB' % (program, share) for program, (share, _)
                                          in sorted(server.memory().items()) if share > 20))


def cold(server, options):
    """The same, with messages that nobody has tried."""
    dead(server, options, False)


def probe(server, busy):
    """[(local, remote)]: seconds of new messages, one a second at most, while something is the case; the first in any case."""
    found = [(server.local(), server.remote())]
    while busy():
        found.append((server.local(), server.remote()))
        time.sleep(1)
    return found


def tell_waits(when, waits, over=None):
    """What probe() found."""
    locals_, remotes = zip(*waits)
    tell('a new message ' + when + ('' if over is None else ' (until %.0f s)' % over),
         *('%s %.3f s, at most %.3f;' % (name, statistics.median(times), max(times))
           for name, times in (('local', locals_), ('remote', remotes))), 'of %d' % len(waits))


def drain(server, options):
    """The relay comes alive."""
    messages = min(SOME, options.messages)
    server.halt()
    fill(server, messages, True)
    server.go()
    works.until(lambda: not server.says('scanning') and server.says('messages') == messages, 0.5)
    with contextlib.closing(Alive()) as alive:
        os.kill(next(pid for pid, program in server.processes() if program == 'send'), signal.SIGALRM)
        began = [time.monotonic()]
        for tenth in range(1, 11):
            works.until(lambda: alive.count() >= tenth * messages // 10)
            began.append(time.monotonic())
            tell('drained, %d of 10' % tenth, '%.0f/s' % (messages / 10 / (began[-1] - began[-2])))
        works.until(lambda: not server.waiting(), 0.1)
        tell('drained, all', '%.0f/s; %d messages, %d deliveries' % (
            messages / (began[-1] - began[0]), messages, alive.count()))


class Alive(servers.Sink):
    """A sink where there was none."""

    close = servers.Sink.stop


def neighbours(server, options):
    """Mail for others, without and beside what is for a dead relay."""
    messages = min(SOME, options.messages)
    alone = beside(server, 'without them')
    server.halt()
    fill(server, messages, False)
    server.go()
    trying = beside(server, 'while they are tried', lambda: server.says('scanning') or server.says('active'))
    works.until(lambda: not (server.says('scanning') or server.says('active')), 0.5)
    os.sync()                           # their states; else every sync of new mail waits for some of these
    waiting = beside(server, 'while they wait')
    tell('rate: tried, waiting to without', '%.2f, %.2f' % (trying / alone, waiting / alone))


def beside(server, when, lasts=None):
    """Three rounds of rate and latency, or as many as something lasts, if these are fewer; the median rate."""
    rates, waits = [], []
    for _ in range(3):
        rates.append(server.rate(CROWD))
        waits += [(server.local(), server.remote()) for _ in range(PROBES)]
        if lasts is not None and not lasts():
            break
    tell('20 sessions to the live relay ' + when, '/s '.join('%.0f' % rate for rate in rates) + '/s')
    tell_waits(when, waits)
    return statistics.median(rates)


def idle_clients(server, options):
    """Clients that say nothing."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(options.clients + 1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    server.halt()
    for name in ('concurrencyincoming', 'concurrencyaddress'):
        server.server.write('control/' + name, '0\n')
    server.go()
    tell_waits('without them', [(server.local(), server.remote()) for _ in range(PROBES)])
    began, socks = time.monotonic(), []
    try:
        for _ in range(options.clients):
            socks.append(socket.create_connection(('127.0.0.1', server.port)))
            socks[-1].sendall(b'EHLO client.test\r\n')
        for sock in socks:
            with sock.makefile('rb') as file:
                if not (file.readline().startswith(b'220 ') and file.readline().startswith(b'250')):
                    raise SystemExit('a client was not served')
        tell('%d clients were greeted' % len(socks), 'in %.1f s' % (time.monotonic() - began))
        tell_waits('beside them', [(server.local(), server.remote()) for _ in range(PROBES)])
        tell('memory of qpy-smtpd', '%.1f MB' % server.memory()['smtpd'][0])
    finally:
        for sock in socks:
            sock.close()


ALL = {'dead': dead, 'cold': cold, 'drain': drain, 'neighbours': neighbours, 'idle-clients': idle_clients}


if __name__ == '__main__':
    main()
