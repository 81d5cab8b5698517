"""Messages per second of qpy-queued alone: so many clients, one message after the other, each acknowledged durable.

    /usr/bin/python3 tests/bench/submission.py [--clients 20] [--size 4096] [--seconds 5] [--disk shared|own] [--clean]
                                               [--pipeline 1]

--disk own puts the queue on an ext4 of its own in a loop mount (root): queued then uses syncfs.  --clean removes
each message through qpy-clean once it is announced, as send does after a delivery.  Clients are one process.
"""
import argparse
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from qpy.core import submit  # noqa: E402
from tests.peers import queued as rig  # noqa: E402

TICK = os.sysconf('SC_CLK_TCK')


def cpu(pid):
    """Seconds of processor time a process has used."""
    with open('/proc/%d/stat' % pid, 'rb') as file:
        fields = file.read().rpartition(b')')[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def own_disk(top):
    """An ext4 in a loop mount; its directory."""
    image, place = top + '/image', top + '/disk'
    os.mkdir(place)
    with open(image, 'wb') as file:
        file.truncate(1 << 30)
    subprocess.run(['mkfs.ext4', '-q', image], check=True)
    subprocess.run(['mount', '-o', 'loop', image, place], check=True)
    return place


def run(home, options, message):
    """Drive the daemon; returns (messages, seconds, cpu seconds of queued)."""
    daemon = rig.Daemon(home, 'queued', [b'submit', b'new'])
    cleaner = rig.Daemon(home, 'clean', [b'clean']) if options.clean else None
    ears = rig.connect(home, b'new')
    broom = rig.connect(home, b'clean') if cleaner else None
    poller, clients = select.epoll(), {}
    for _ in range(options.clients):
        sock = rig.connect(home, b'submit')
        sock.sendall(submit.VERSION + message * options.pipeline)
        clients[sock.fileno()] = sock
        poller.register(sock.fileno(), select.EPOLLIN)
    poller.register(ears.fileno(), select.EPOLLIN)
    if broom:
        poller.register(broom.fileno(), select.EPOLLIN)
    done, began, used = 0, time.monotonic(), cpu(daemon.pid)
    while time.monotonic() - began < options.seconds:
        for fd, _ in poller.poll(1):
            if fd in clients:
                said = clients[fd].recv(65536)
                assert said.count(b'K') == said.count(b'\0') > 0, said
                done += said.count(b'\0')
                clients[fd].send(message * said.count(b'\0'))
            elif fd == ears.fileno():
                heard = ears.recv(65536)
                if not heard:
                    raise SystemExit('queued has ended with %d: %s' % (daemon.wait(), daemon.log().decode()))
                if broom:
                    broom.sendall(b''.join(b'r' + ident + b'\0' for ident in heard.split(b'\0') if len(ident) == 16))
            else:
                broom.recv(65536)
    took = time.monotonic() - began
    result = done, took, cpu(daemon.pid) - used
    for one in filter(None, (daemon, cleaner)):
        one.kill()
    print(daemon.log().decode().strip())
    return result


def main():
    """Set up, run, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--clients', type=int, default=20)
    parser.add_argument('--size', type=int, default=4096)
    parser.add_argument('--seconds', type=float, default=5)
    parser.add_argument('--disk', choices=('shared', 'own'), default='shared')
    parser.add_argument('--pipeline', type=int, default=1)
    parser.add_argument('--clean', action='store_true')
    options = parser.parse_args()
    top = tempfile.mkdtemp(prefix='qpy-bench-')
    os.chmod(top, 0o755)
    place = own_disk(top) if options.disk == 'own' else None
    try:
        if place:
            os.mkdir(top + '/qpy')
            os.symlink(place, top + '/qpy/queue')
        home = rig.make_home(top + '/qpy')
        message = submit.frame(b'Subject: x\n\n' + b'x' * 79 * (options.size // 80) + b'\n') + submit.END \
            + submit.envelope(b'sender@example.com', [b'user@example.net'])
        done, took, used = run(home, options, message)
        print('%s: %d messages in %.2f s: %.0f/s; queued %.0f us of processor each' % (
            options.disk, done, took, done / took, used / done * 1e6))
    finally:
        if place:
            subprocess.run(['umount', place], check=True)
        shutil.rmtree(top)


if __name__ == '__main__':
    main()
