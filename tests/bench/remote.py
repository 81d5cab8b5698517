"""Deliveries per second through qpy-rspawn and its qpy-remote to a sink (Postfix's smtp-sink, or one of our
own).

    python tests/bench/remote.py [--messages 5000] [--in-flight 50] [--hosts 4] [--workers 2] [--size 4096]
    [--sink PATH] [--tls]

--tls: by STARTTLS, to a sink of our own.  Not a test: prints one line.  All traffic stays on 127.0.0.1.
"""
import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, SOURCE)

from qpy import unix                                # noqa: E402
from tests.peers.certificates import authority      # noqa: E402
from tests.peers.qpyr import Rspawn                 # noqa: E402
from tests.peers.smtp_script import Server, good    # noqa: E402


def main():
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (('messages', 5000), ('in-flight', 50), ('hosts', 4), ('workers', 2), ('size', 4096),
                        ('recipients', 1)):
        parser.add_argument('--' + name, type=int, default=value)
    parser.add_argument('--sink', default='')
    parser.add_argument('--tls', action='store_true')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = prepare(directory)
        if options.sink:
            port, sink = 2599, subprocess.Popen([options.sink, '-u', 'nobody', '127.0.0.1:2599', '500'])
            time.sleep(0.3)
        else:
            port, sink = own_sink(options.tls)
        with open(os.path.join(home, 'control/smtproutes'), 'w') as file:
            file.write(':127.0.0.1:%d\n' % port)
        rspawn = Rspawn(home, str(options.workers))
        rspawn.wait(lambda: rspawn.capacity)
        seconds, failed = run(rspawn, options)
        ticks = cpu(rspawn)
        print('%d messages of %d bytes, %d in flight, %d hosts, %d workers: %.0f/s, %.0f us of CPU each, %d failed' % (
            options.messages, options.size, options.in_flight, options.hosts, options.workers,
            options.messages / seconds, ticks / options.messages * 1e6, failed))
        print(rspawn.end())
        sink.terminate()


def own_sink(tls):
    """(port, process) of a server like those of the tests, in a process of its own."""
    replies, extensions = {}, (b'PIPELINING', b'8BITMIME', b'SIZE 0')
    if tls:
        context, extensions = authority().context('x'), (*extensions, b'STARTTLS')

        def begin(talk, _):
            talk.raw(b'220 go\r\n')
            talk.sock = context.wrap_socket(talk.sock, server_side=True)
        replies = {b'STAR': begin}
    server = Server(good(extensions, replies))
    process = multiprocessing.Process(target=lambda: (server.__enter__(), time.sleep(3600)))
    process.start()
    return server.port, process


def prepare(directory):
    """A DIR of one account."""
    home = os.path.join(directory, 'qpy')
    for name in ('', 'control', 'run', 'queue', 'queue/mess'):
        os.mkdir(os.path.join(home, name))
    os.chown(home, 65534 if os.geteuid() == 0 else -1, -1)
    with open(os.path.join(home, 'control/me'), 'w') as file:
        file.write('me.example\n')
    return home


def run(rspawn, options):
    """(seconds, how many were not K)."""
    message = (b'Subject: x\n\n' + b'x' * 70 + b'\n') + (b'y' * 71 + b'\n') * (options.size // 72)
    copy = unix.memfd(message + b'tail')
    recipients = [b'r%d@x' % i for i in range(options.recipients)]
    sent, start = 0, time.monotonic()
    while len(rspawn.results) < options.messages * options.recipients:
        while sent < options.messages and sent * options.recipients - len(rspawn.results) < options.in_flight:
            lines = b'\n'.join(b'%d %s' % (sent * len(recipients) + i, r) for i, r in enumerate(recipients))
            rspawn.channel.send(b'R', b'1234567890123456', b'h%d.example' % (sent % options.hosts), b's@y', b'',
                                b'%d' % len(message), lines, fd=unix.reopen(copy))
            sent += 1
        rspawn.loop.step(1)
    return time.monotonic() - start, sum(result[0] != b'K' for result in rspawn.results.values())


def cpu(rspawn):
    """Seconds of CPU of rspawn and its workers so far."""
    total = 0
    for pid in (rspawn.process.pid, *rspawn.workers()):
        with open('/proc/%d/stat' % pid) as file:
            words = file.read().rpartition(')')[2].split()
        total += (int(words[11]) + int(words[12])) / os.sysconf('SC_CLK_TCK')
    return total


if __name__ == '__main__':
    main()
