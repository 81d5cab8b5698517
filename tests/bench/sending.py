"""Messages per second of qpy-send alone: its neighbours answer at once, from another process.

    /usr/bin/python3 tests/bench/sending.py [--messages 5000] [--size 4096] [--outstanding 100] [--remote] [--profile]

What is measured: from the announcement until clean was told to remove the message, and send's own CPU per message.
The queue is on /dev/shm, so that only send and the kernel count.
"""
import argparse
import os
import shutil
import socket
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from qpy import unix  # noqa: E402
from qpy.core import channel, mess  # noqa: E402
from qpy.lib import loop as loops  # noqa: E402
from qpy.qpys import send, streams  # noqa: E402
from tests.peers import queued  # noqa: E402

KINDS = {b'new': socket.SOCK_STREAM, b'clean': socket.SOCK_STREAM, b'lspawn': socket.SOCK_SEQPACKET,
         b'rspawn': socket.SOCK_SEQPACKET, b'bounce': socket.SOCK_SEQPACKET}


def listen(home, name, kind):
    """A listening socket run/name."""
    sock = socket.socket(socket.AF_UNIX, kind)
    os.chdir(home + b'/run')
    sock.bind(name)
    sock.listen(5)
    return sock


def neighbours(home, listening, idents, outstanding):
    """Announce, report success, remove: until all are gone."""
    ends = {name: sock.accept()[0] for name, sock in listening.items()}
    for name in (b'lspawn', b'rspawn'):
        ends[name].send(channel.pack(b'C', b'1000'))
    poll = {ends[name].fileno(): name for name in (b'lspawn', b'rspawn', b'clean')}
    epoll = unix.epoll()
    for fd in poll:
        epoll.register(fd, unix.EPOLLIN)
    announced = removed = 0
    rest = b''
    begin = time.monotonic()
    while removed < len(idents):
        batch = idents[announced:removed + outstanding]
        if batch:
            ends[b'new'].sendall(b'\0'.join(batch) + b'\0')
            announced += len(batch)
        for fd, _ in epoll.poll():
            name = poll[fd]
            if name == b'clean':
                *words, rest = (rest + ends[name].recv(65536)).split(b'\0')
                for word in words:
                    os.unlink(home + b'/queue/mess/' + word[1:])
                ends[name].sendall(b'+' * len(words))
                removed += len(words)
            else:
                ends[name].send(answers(ends[name]))
    print('%d messages in %.2f s: %.0f/s' % (removed, time.monotonic() - begin,
                                             removed / (time.monotonic() - begin)), flush=True)


def answers(sock):
    """K for every delivery of the next packet."""
    data, fds = unix.recv_packet(sock, maxfds=unix.PACKET_FDS)
    for fd in fds:
        os.close(fd)
    table = {**channel.LSPAWN_JOB, **channel.RSPAWN_JOB}
    numbers = []
    for letter, fields in channel.unpack(data, table):
        numbers += [fields[0]] if letter == b'L' else [line.split(b' ')[0] for line in fields[5].split(b'\n')]
    return b''.join(channel.pack(b'K', number, b'', b'did 1+0+0\n') for number in numbers)


def main():
    """Make the queue, fork the neighbours, be send."""
    options = argparse.ArgumentParser()
    options.add_argument('--messages', type=int, default=5000)
    options.add_argument('--size', type=int, default=4096)
    options.add_argument('--outstanding', type=int, default=100)
    options.add_argument('--remote', action='store_true')
    options.add_argument('--profile', action='store_true')
    options = options.parse_args()
    top = tempfile.mkdtemp(prefix='qpy-bench-', dir='/dev/shm')
    home = queued.make_home(top + '/qpy')
    try:
        run(home, options)
    finally:
        shutil.rmtree(top)


def run(home, options):
    """The race."""
    for name, value in (('me', 'here.example'), ('locals', 'here.example')):
        with open(home + b'/control/' + name.encode(), 'w') as file:
            file.write(value + '\n')
    idents = []
    for n in range(options.messages):
        ident = b'%016d' % (1_800_000_000_000_000 + n)
        host = b'h%d.example' % (n % 50) if options.remote else b'here.example'
        envelope = mess.Envelope(b'joe@x.example', [b'user%d@%s' % (n % 100, host)],
                                 [(b'u', b'1'), (b'p', b'2'), (b't', b'3')]).build()
        with open(home + b'/queue/mess/' + ident, 'wb') as file:
            file.write(mess.pack(b'x' * options.size, envelope, ident))
        idents.append(ident)
    listening = {name: listen(home, name, kind) for name, kind in KINDS.items()}
    if not os.fork():
        try:
            neighbours(home, listening, idents, options.outstanding)
        finally:
            os._exit(0)
    loop = loops.Loop()
    log = streams.Log(loop, os.open('/dev/null', os.O_WRONLY))
    daemon = send.Send(home, loop, log, send.Controls(home), None)
    daemon.connect()
    daemon.lost = lambda name, why: loop.stop()
    begin = time.process_time()
    if options.profile:
        import cProfile
        import pstats
        profile = cProfile.Profile()
        profile.runcall(loop.run)
        pstats.Stats(profile).sort_stats('tottime').print_stats(35)
    else:
        loop.run()
    spent = time.process_time() - begin
    os.wait()
    print('send: %.0f microseconds of CPU per message' % (spent / options.messages * 1e6))


if __name__ == '__main__':
    main()
