"""Messages per second of qpy and of Postfix, in one run on one machine.

    sudo /usr/bin/python3 tests/bench/throughput.py [--rounds 3] [--messages 2000] [--sessions 20] [--size 4096]
                                                    [--work local,relay] [--disk own|shared|machine] [--cost]

Needs root and Debian's package archive (Postfix is unpacked, not installed, and runs in a mount namespace of its
own, configured as Debian ships it but for Maildir delivery and the port).  Both servers get the same client
(Postfix's smtp-source), the same file system, and take turns; every acknowledged message is synced by both.

What is measured: from the first connection until the last file stands in the Maildir (local), or until the next
hop (Postfix's smtp-sink) has counted the last message (relay).  Absolute figures are moods of the machine; the
ratio of one round is the result.  --disk own: each server's queue has a file system of its own, as qpy is meant to
be installed, and the homes of both are on a third; shared: queues and homes are all on one, which is not the
machine's root; machine: directories on the machine's own disk, whatever that is.  The first two are ext4 as
mkfs.ext4 makes it, in loop mounts: an ext4 without a journal, as some virtual machines have for their root, looks
at every inode deleted in the last seconds before it gives one out, and measures that and little else.
"""
import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from tests.peers import postfix, qpy as qpy_peer  # noqa: E402

UID = 64100         # a user that both servers know and the machine does not need to
POSTFIX_PORT, QPY_PORT, SINK_PORT = 26250, 26251, 26252
PATIENCE = 120      # seconds after which a round is given up


class Sink:
    """Postfix's smtp-sink as the next hop; it counts on its standard output."""

    def __init__(self, port=SINK_PORT):
        self.path = tempfile.mktemp(prefix='qpy-sink-')
        self.output = open(self.path, 'wb')
        self.process = subprocess.Popen(postfix.tool('smtp-sink') + ['-u', 'nobody', '-c', '127.0.0.1:%d' % port, '1000'],
                                        stdout=self.output, stderr=subprocess.STDOUT)
        qpy_peer.wait_for_port(port)

    def count(self):
        """Messages accepted so far."""
        with open(self.path, 'rb') as file:
            file.seek(max(0, os.path.getsize(self.path) - 200))
            numbers = re.findall(rb'mesg=(\d+)', file.read())
        return int(numbers[-1]) if numbers else 0

    def stop(self):
        """End it."""
        self.process.kill()
        self.process.wait()
        self.output.close()
        os.unlink(self.path)


class Maildir:
    """One user's Maildir, counted."""

    def __init__(self, home):
        self.new = os.path.join(home, 'Maildir', 'new')

    def count(self):
        """Messages in new/."""
        try:
            return len(os.listdir(self.new))
        except FileNotFoundError:
            return 0

    def empty(self):
        """Have an empty one, so that directories do not grow from round to round; what was there goes at the end."""
        home = os.path.dirname(os.path.dirname(self.new))
        os.rename(home + '/Maildir', '%s/old.%d' % (home, time.monotonic_ns()))


def send(port, options, recipient):
    """Run smtp-source to its end."""
    subprocess.run(postfix.tool('smtp-source') + [
        '-s', str(options.sessions), '-m', str(options.messages), '-l', str(options.size),
        '-f', 'sender@client.test', '-t', recipient, '127.0.0.1:%d' % port], check=True)


def timed(port, options, recipient, counter):
    """Messages per second until counter() has risen by options.messages."""
    before, start = counter.count(), time.monotonic()
    send(port, options, recipient)
    while counter.count() < before + options.messages:
        if time.monotonic() - start > PATIENCE:
            raise SystemExit('only %d of %d messages arrived at %s' % (
                counter.count() - before, options.messages, recipient))
        time.sleep(0.002)       # the resolution of the measurement
    return options.messages / (time.monotonic() - start)


def own_disk(directory, images, megabytes=4096):
    """Mount an ext4 of its own, a file in images, on directory; returns what undoes it."""
    image = os.path.join(images, os.path.basename(directory) + '.image')
    os.makedirs(directory, exist_ok=True)
    with open(image, 'wb') as file:
        file.truncate(megabytes << 20)
    subprocess.run(['mkfs.ext4', '-q', '-F', image], check=True)
    subprocess.run(['mount', '-o', 'loop', image, directory], check=True)

    def undo():
        subprocess.run(['umount', '-l', directory], check=False)
        os.unlink(image)
    return undo


def table(work, rounds):
    """Print the rounds of one kind of work, and the ratio."""
    ratios = [q / p for q, p in rounds]
    for number, (q, p) in enumerate(rounds, 1):
        print('%-6s round %d   qpy %7.0f/s   Postfix %7.0f/s   ratio %.2f' % (work, number, q, p, q / p))
    print('%-6s ratio: minimum %.2f, median %.2f, maximum %.2f' % (
        work, min(ratios), statistics.median(ratios), max(ratios)), flush=True)


def main():
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--messages', type=int, default=2000)
    parser.add_argument('--sessions', type=int, default=20)
    parser.add_argument('--size', type=int, default=4096)
    parser.add_argument('--work', default='local,relay')
    parser.add_argument('--disk', choices=('own', 'shared', 'machine'), default='own')
    parser.add_argument('--cost', action='store_true', help='CPU seconds per message of each qpy process')
    options = parser.parse_args()
    base = tempfile.mkdtemp(prefix='qpy-bench-', dir='/var/tmp')
    os.chmod(base, 0o755)
    undo = []
    try:
        run(options, base, undo)
    finally:
        for step in reversed(undo):
            step()
        shutil.rmtree(base, ignore_errors=True)


def run(options, base, undo):
    """Start both servers and the sink, and let them take turns."""
    images, base = base, os.path.join(base, 'disk')
    os.makedirs(base)
    if options.disk != 'machine':
        undo.append(own_disk(base, images))
    homes = {name: os.path.join(base, 'home-' + name) for name in ('qpy', 'postfix')}
    for home in homes.values():
        os.makedirs(home)
        os.chown(home, UID, UID)
    spools = {name: os.path.join(base, 'spool-' + name) for name in homes}
    for spool in spools.values():
        os.makedirs(spool)
        if options.disk == 'own':
            undo.append(own_disk(spool, images))
    sink = Sink()
    undo.append(sink.stop)
    rival = postfix.Postfix(POSTFIX_PORT, work=os.path.join(spools['postfix'], 'postfix'), users=[('u', UID, homes['postfix'])],
                            more=postfix.STOCK_LOG + 'relay_transport = smtp:[127.0.0.1]:%d\n'
                                 'relay_domains = sink.test\n' % SINK_PORT)
    undo.append(rival.stop)
    ours = qpy_peer.Qpy(os.path.join(base, 'qpy'), port=QPY_PORT, queue=os.path.join(spools['qpy'], 'queue'),
                        users=[('u', UID, UID, homes['qpy'])], routes=['sink.test:127.0.0.1:%d' % SINK_PORT])
    undo.append(ours.stop)
    works = {'local': ('u@postfix.test', 'u@qpy.test', Maildir(homes['postfix']), Maildir(homes['qpy'])),
             'relay': ('x@sink.test', 'x@sink.test', sink, sink)}
    for work in options.work.split(','):
        theirs_to, ours_to, theirs_counter, our_counter = works[work]
        rounds = []
        for _ in range(options.rounds):
            before = ours.cpu()
            mine = timed(QPY_PORT, options, ours_to, our_counter)
            cost = ours.cpu()
            rounds.append((mine, timed(POSTFIX_PORT, options, theirs_to, theirs_counter)))
            for counter in {our_counter, theirs_counter}:
                if isinstance(counter, Maildir):
                    counter.empty()
        table(work, rounds)
        if options.cost:
            for name in sorted(cost):
                spent = (cost[name] - before.get(name, 0)) / options.messages
                print('    %-14s %6.0f us of CPU per message' % (name, spent * 1e6))


if __name__ == '__main__':
    main()
