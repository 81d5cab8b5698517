"""What qpy and Postfix do per second, and what it costs, in one run on one machine.

    sudo /usr/bin/python3 tests/bench/throughput.py [--rounds 3] [--messages 2000] [--size 4096] [--work local,relay]
                                                    [--disk own|shared|machine] [--cost] [--calls] [--svg FILE]

Needs root and Debian's package archive (Postfix is unpacked, not installed, and runs in a mount namespace of its
own, configured as Debian ships it but for Maildir delivery, the port and no limit of size).  Both servers get the
same client (Postfix's smtp-source), the same kind of file system, and take turns; every acknowledged message is
synced by both.

What is measured: from the first connection until the last file stands in the Maildir, until the next hop (Postfix's
smtp-sink) has counted the last message, or until the queue is empty.  Absolute figures are moods of the machine; the
ratio of one round is the result.  --work all, or some of the names in tests/bench/works.py.

--disk own: each server's queue has a file system of its own, as qpy is meant to be installed, and the homes of both
are on a third; shared: queues and homes are all on one, which is not the machine's root; machine: directories on the
machine's own disk, whatever that is.  The first two are ext4 as mkfs.ext4 makes it, in loop mounts: an ext4 without a
journal, as some virtual machines have for their root, looks at every inode deleted in the last seconds before it gives
one out, and measures that and little else.

--cost: CPU time and wake-ups per message of each process; --calls: system calls too, in a round of their own;
--svg: draws where the CPU time of a message goes, and its time on an idle system (works local, relay and latency).
"""
import argparse
import os
import shutil
import statistics
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from tests.bench import picture, servers, works  # noqa: E402

COSTED = ('local', 'local100', 'kept', 'tls', 'tls-kept', 'relay', 'relay-tls', 'domains')      # whose unit is one message


def main():
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--messages', type=int, default=2000)
    parser.add_argument('--size', type=int, default=4096)
    parser.add_argument('--work', default='local,relay')
    parser.add_argument('--disk', choices=('own', 'shared', 'machine'), default='own')
    parser.add_argument('--cost', action='store_true', help='CPU and wake-ups per message of each process')
    parser.add_argument('--calls', action='store_true', help='and system calls per message of qpy (perf)')
    parser.add_argument('--svg', help='draw the costs and the latency into this file')
    options = parser.parse_args()
    options.cost = options.cost or options.calls or bool(options.svg)
    images = tempfile.mkdtemp(prefix='qpy-bench-', dir='/var/tmp')
    os.chmod(images, 0o755)
    undo = []
    try:
        run(options, images, undo)
    finally:
        for step in reversed(undo):
            step()
        shutil.rmtree(images, ignore_errors=True)


def run(options, images, undo):
    """Start both servers and the sinks, and let them take turns at each work."""
    names = list(works.ALL) if options.work == 'all' else options.work.split(',')
    options.tls = 'relay-tls' in names
    options.tunnels = bool({'tls', 'tls-kept'} & set(names))
    ours, rival = start(options, images, undo, 'domains' in names)
    figures = {}
    try:
        for name in names:
            print('\n%s: %s' % (name, works.ALL[name].__doc__), flush=True)
            figures[name] = turns(name, options, ours, rival)
    finally:
        if options.svg:
            picture.draw(options.svg, figures)


def start(options, images, undo, many):
    """(qpy, Postfix), running."""
    base = os.path.join(images, 'disk')
    os.makedirs(base)
    if options.disk != 'machine':
        undo.append(servers.own_disk(base, images))
    spools = {name: os.path.join(base, 'spool-' + name) for name in ('qpy', 'Postfix')}
    for spool in spools.values():
        os.makedirs(spool)
        if options.disk == 'own':
            undo.append(servers.own_disk(spool, images))
    options.sink, options.sinks = servers.Sink(), []
    undo.append(options.sink.stop)
    for host in servers.SINK_ADDRESSES if many else ():
        options.sinks.append(servers.Sink(host))
        undo.append(options.sinks[-1].stop)
    if options.tls:
        undo.append(servers.Front().stop)
    rival = servers.Postfix('Postfix', base, spools['Postfix'])
    undo.append(rival.stop)
    ours = servers.Qpy('qpy', base, spools['qpy'])
    undo.append(ours.stop)
    if options.tunnels:
        undo += [servers.Tunnel(server).stop for server in (ours, rival)]
    return ours, rival


def turns(name, options, ours, rival):
    """The rounds of one work; prints them and what follows from them, and returns it."""
    ratios, found = [], {}
    for number in range(1, options.rounds + 1):
        results = {}
        for server in (ours, rival) if number % 2 else (rival, ours):
            before = server.cost()
            results[server.name] = works.ALL[name](server, options)
            found[server.name] = {'figures': results[server.name], 'cost': per_message(before, server.cost(), options)}
        mine, theirs = (list(results[server.name].items()) for server in (ours, rival))
        ratios.append(mine[0][1] / theirs[0][1])
        print('  round %d   qpy %s   Postfix %s   ratio %.2f' % (number, said(mine), said(theirs), ratios[-1]), flush=True)
    print('  ratio: minimum %.2f, median %.2f, maximum %.2f' % (min(ratios), statistics.median(ratios), max(ratios)),
          flush=True)
    if options.cost and name in COSTED:
        calls = count_calls(name, options, ours) if options.calls else {}
        tell_cost(found, calls)
    return found


def said(figures):
    """The figures of one work in words."""
    (unit, first), *others = figures
    words = ['%.4g %s' % (first, unit)] if unit[:2] != '1/' else []
    return ', '.join(words + ['%s %s' % (value, name) for name, value in others])


def per_message(before, after, options):
    """{program: [microseconds as user, as system, wake-ups] per message}.

    What a process used until it ended is its master's from then on, and is taken off under its own name."""
    nothing = [0, 0, 0]
    return {program: [(after.get(program, nothing)[i] - before.get(program, nothing)[i]) * scale / options.messages
                      for i, scale in enumerate((1e6, 1e6, 1))] for program in {**before, **after}}


def count_calls(name, options, ours):
    """{program: system calls per message}, from a round of their own: counting costs something."""
    with servers.Calls(ours) as calls:
        works.ALL[name](ours, options)
    return {program: count / options.messages for program, count in calls.counts.items()}


def tell_cost(found, calls):
    """Print what each process of qpy used per message in the last round, and Postfix as a whole."""
    for program, (user, system, wakes) in sorted(found['qpy']['cost'].items()):
        if user + system >= 1:
            print('    qpy-%-9s %4.0f us of CPU (%3.0f user, %3.0f system), %4.2f wake-ups%s' % (
                program, user + system, user, system, wakes,
                ', %5.1f system calls' % calls[program] if program in calls else ''))
    for server in ('qpy', 'Postfix'):
        print('    %-13s %4.0f us of CPU per message in all' % (
            server, sum(user + system for user, system, _ in found[server]['cost'].values())), flush=True)


if __name__ == '__main__':
    main()
