"""How fast local delivery is: from lspawn's socket to durable Maildirs.  Run by hand, as root or not:

    /opt/qv/bin/python -m tests.bench.local [messages] [in flight] [users] [bytes]
"""
import os
import sys
import time

from tests.chain import test_lspawn as harness

SIZES = (1, 5, 20, 50, 100)


def run(chain, homes, total, flight, body):
    """Messages per second with so many under way."""
    start, asked, reported = time.monotonic(), 0, 0
    while reported < total:
        while asked < total and asked - reported < flight:
            chain.ask(homes[asked % len(homes)], message=body)
            asked += 1
        before = len(chain.reports)
        data = chain.send.recv(harness.unix.PACKET_LIMIT)
        for letter, (delnum, _, text) in harness.channel.unpack(data, harness.channel.LSPAWN_REPORT):
            assert letter == b'K', text
            chain.reports[int(delnum)] = letter, text
        reported += len(chain.reports) - before
    return total / (time.monotonic() - start)


def cpu(pids):
    """Seconds of CPU that each process has used."""
    found = []
    for pid in pids:
        with open('/proc/%d/stat' % pid) as file:
            fields = file.read().rpartition(')')[2].split()
        found.append((int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK'))
    return found


def main(total=2000, flight=0, users=1, size=4096):
    """Print one line for each number of messages in flight."""
    chain = harness.Chain()
    names = [b'u%d' % i for i in range(users)]
    for i, name in enumerate(names):
        chain.user(name, uid=harness.UID + (i if harness.AS_ROOT else 0))
    body = b'Subject: x\n\n' + b'x' * 72 * (size // 72)
    for name in names:
        chain.deliver(name)
    for amount in (flight,) if flight else SIZES:
        before = cpu([chain.pids[1], *chain.workers()])
        rate = run(chain, names, total if amount > 1 else total // 4, amount, body)
        after = cpu([chain.pids[1], *chain.workers()])
        spent = [b - a for a, b in zip(before, after)]
        done = total if amount > 1 else total // 4
        print('%4d in flight, %d users: %5.0f messages/s; CPU per message: lspawn %.0f us, workers %.0f us' % (
            amount, users, rate, spent[0] / done * 1e6, sum(spent[1:]) / done * 1e6), flush=True)
    chain.close()


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
