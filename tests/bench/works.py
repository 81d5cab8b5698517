"""What the benchmark lets each server do.  A work is a function of (server, options) -> figures, a dict; the first
figure is the one that is compared, and more of it is better.
"""
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from tests.bench import servers
from tests.peers import postfix

PATIENCE = 180              # seconds after which a work is given up
BIG = 50_000_000            # bytes
LIST = 10_000               # recipients of one message
TEXT = b'Subject: x\n\n' + (b'x' * 71 + b'\n') * 55


def source(server, recipient, messages, sessions=20, size=4096, *more, port=None):
    """Start Postfix's smtp-source."""
    return subprocess.Popen(postfix.tool('smtp-source') + [
        '-s', str(sessions), '-m', str(messages), '-l', str(size), *more,
        '-f', 'sender@client.test', '-t', recipient, '127.0.0.1:%d' % (port or server.port)])


def until(condition, pause=0.002):
    """Wait for it; `pause` is the resolution of the measurement."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up:
            raise SystemExit('given up: not everything arrived')
        time.sleep(pause)


def finish(*processes):
    """All of them ended well."""
    for process in processes:
        if process.wait():
            raise SystemExit('a client failed: %r' % process.args)


def to_one(server, messages, *how, port=None):
    """Messages per second into one user's Maildir."""
    server.clear()
    start = time.monotonic()
    finish(source(server, 'u@' + server.domain, messages, *how, port=port))
    until(lambda: server.arrived() >= messages)
    return {'messages/s': messages / (time.monotonic() - start)}


def local(server, options):
    """SMTP in, one user's Maildir; 20 sessions, a connection per message"""
    return to_one(server, options.messages, 20, options.size)


def local100(server, options):
    """the same, 100 sessions"""
    return to_one(server, options.messages, 100, options.size)


def kept(server, options):
    """the same, 20 sessions that send many messages each"""
    return to_one(server, options.messages, 20, options.size, '-d')


def tls(server, options):
    """SMTP in by STARTTLS (stunnel is the client, and takes its part of the processors), a connection per message"""
    return to_one(server, options.messages, 20, options.size, port=servers.TUNNELS[server.name])


def tls_kept(server, options):
    """the same, 20 sessions that send many messages each"""
    return to_one(server, options.messages, 20, options.size, '-d', port=servers.TUNNELS[server.name])


def users(server, options):
    """SMTP in, 1,000 users' Maildirs, each his own uid; the first round makes the Maildirs and starts the users' processes"""
    start = time.monotonic()
    finish(source(server, 'u@' + server.domain, servers.USERS, 20, options.size, '-N'))
    until(lambda: not server.waiting(), 0.01)
    took = time.monotonic() - start
    if any(server.arrived('%du' % n) < 1 for n in range(1, servers.USERS + 1)):
        raise SystemExit('some user of %s has no mail' % server.name)
    for n in range(1, servers.USERS + 1):
        server.empty('%du' % n)
    return {'messages/s': servers.USERS / took}


def relay(server, options):
    """SMTP in, SMTP out to one sink; 20 sessions"""
    before, start = options.sink.count(), time.monotonic()
    finish(source(server, 'x@sink.test', options.messages, 20, options.size))
    until(lambda: options.sink.count() >= before + options.messages)
    return {'messages/s': options.messages / (time.monotonic() - start)}


def relay_tls(server, options):
    """SMTP in, SMTP out by STARTTLS to one sink; 20 sessions"""
    before, start = options.sink.count(), time.monotonic()
    finish(source(server, 'x@tls.test', options.messages, 20, options.size))
    until(lambda: options.sink.count() >= before + options.messages)
    return {'messages/s': options.messages / (time.monotonic() - start)}


def domains(server, options):
    """SMTP in, SMTP out to 100 domains on 20 addresses"""
    each = max(1, options.messages // len(servers.DOMAINS))

    def count():
        return sum(sink.count() for sink in options.sinks)
    before, start = count(), time.monotonic()

    def some(part):
        for domain in part:
            finish(source(server, 'x@' + domain, each, 1, options.size))
    threads = [threading.Thread(target=some, args=(servers.DOMAINS[n::20],)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: count() >= before + each * len(servers.DOMAINS), 0.005)
    return {'messages/s': each * len(servers.DOMAINS) / (time.monotonic() - start)}


def to_list(server, recipients):
    """Recipients per second of one message through sendmail, until the queue is empty."""
    with tempfile.TemporaryFile() as message:
        message.write(TEXT)
        message.seek(0)
        start = time.monotonic()
        subprocess.run([*server.inside, *server.sendmail, '-f', 'sender@client.test', '--', *recipients], stdin=message,
                       check=True)
    until(lambda: not server.waiting(), 0.01)
    return {'recipients/s': len(recipients) / (time.monotonic() - start)}


def local_list(server, options):
    """one message through sendmail to 10,000 local recipients"""
    server.clear()
    first(server, 'u')
    found = to_list(server, ['u-%d@%s' % (n, server.domain) for n in range(LIST)])
    if server.arrived() != LIST + 1:
        raise SystemExit('%s has delivered %d of %d' % (server.name, server.arrived(), LIST))
    server.clear()
    return found


def remote_list(server, options):
    """one message through sendmail to 10,000 remote recipients"""
    return to_list(server, ['x%d@sink.test' % n for n in range(LIST)])


def big(server, options):
    """50 MB messages, 10 at a time"""
    server.forget_peaks()
    server.clear()
    start = time.monotonic()
    finish(source(server, 'u@' + server.domain, 10, 10, BIG))
    until(lambda: server.arrived() >= 10)
    took = time.monotonic() - start
    peak = max((size, program) for program, (_, size) in server.memory().items())
    server.clear(remove=True)
    return {'MB/s': 10 * BIG / took / 1e6, 'largest process, MB': round(peak[0], 1), 'which': peak[1]}


# --- one message ---------------------------------------------------------------------------------------------

class Client:
    """One message by SMTP, with the times of its stations."""

    def __init__(self, server, recipient):
        self.start = time.monotonic()
        self.sock = socket.create_connection(('127.0.0.1', server.port))
        self.file = self.sock.makefile('rb')
        self.answer()
        for line in (b'HELO client.test', b'MAIL FROM:<sender@client.test>', b'RCPT TO:<%s>' % recipient.encode(), b'DATA'):
            self.say(line)
        self.asked = time.monotonic()
        self.say(TEXT.replace(b'\n', b'\r\n') + b'.')
        self.accepted = time.monotonic()

    def say(self, line):
        """A command and its answer."""
        self.sock.sendall(line + b'\r\n')
        self.answer()

    def answer(self):
        """2xx or 3xx."""
        line = self.file.readline()
        if line[:1] not in b'23':
            raise SystemExit('%r' % line)

    def close(self):
        """Good-bye."""
        self.say(b'QUIT')
        self.file.close()
        self.sock.close()


def one(server, user='probe'):
    """(seconds for the dialogue, until 250, until it is in the Maildir) of one message."""
    watch = servers.Watch(server.new(user))
    client = Client(server, '%s@%s' % (user, server.domain))
    watch.wait()
    end = time.monotonic()
    client.close()
    watch.close()
    return client.asked - client.start, client.accepted - client.asked, end - client.accepted


def first(server, user='probe'):
    """Have a Maildir for this user."""
    finish(source(server, '%s@%s' % (user, server.domain), 1, 1))
    until(lambda: server.arrived(user) and not server.waiting())


def latency(server, options):
    """one message on an idle system, connection to Maildir (median)"""
    first(server)
    found = []
    for _ in range(max(20, options.messages // 10)):
        found.append(one(server))
        time.sleep(0.005)               # idle means that nothing of the last one is under way
    stages = [statistics.median(times) * 1e3 for times in zip(*found)]
    total = statistics.median(map(sum, found))
    return {'1/s': 1 / total, 'ms': round(total * 1e3, 2), 'dialogue ms': round(stages[0], 2),
            'until 250 ms': round(stages[1], 2), 'then Maildir ms': round(stages[2], 2)}


def busy(server, options):
    """one message while 20 sessions send to another user (99th of 100)"""
    first(server)
    server.clear()
    crowd = source(server, 'u@' + server.domain, 100_000, 20, options.size)
    try:
        until(lambda: server.arrived() > 100)
        found = sorted(sum(one(server)) for _ in range(100))
    finally:
        crowd.kill()
        crowd.wait()
    until(lambda: not server.waiting(), 0.01)
    server.clear()
    return {'1/s': 1 / found[98], 'p99 ms': round(found[98] * 1e3, 1), 'median ms': round(found[50] * 1e3, 1)}


ONCE = """
import os, sys, time
times = []
for n in range(int(sys.argv[1])):
    message = os.open(sys.argv[2], os.O_RDONLY)
    start = time.monotonic()
    pid = os.posix_spawnp(sys.argv[3], sys.argv[3:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, message, 0)])
    status = os.waitpid(pid, 0)[1]
    times.append(time.monotonic() - start)
    os.close(message)
    if status:
        sys.exit('sendmail failed: %d' % status)
print(sorted(times)[len(times) // 2])
"""


def once(server, options):
    """sendmail for one message (median)"""
    with tempfile.NamedTemporaryFile() as message:
        message.write(TEXT)
        message.flush()
        os.chmod(message.name, 0o644)
        seconds = float(subprocess.run([*server.inside, sys.executable, '-c', ONCE, '20', message.name, *server.sendmail,
                                        '-f', 'sender@client.test', 'probe@' + server.domain], check=True,
                                       capture_output=True, text=True).stdout)
    until(lambda: not server.waiting(), 0.01)
    return {'1/s': 1 / seconds, 'ms': round(seconds * 1e3, 1)}


def idle(server, options):
    """nothing: megabytes per process group, and wake-ups a second"""
    time.sleep(65)                      # what is warm for a user leaves after a minute
    before, seconds = server.cost(), 20
    time.sleep(seconds)
    after = server.cost()
    woken = sum(max(0, after[name][2] - before.get(name, [0, 0, 0])[2]) for name in after) / seconds
    share = sum(pss for pss, _ in server.memory().values())
    return {'1/MB': 1 / share, 'PSS MB': round(share, 1), 'wake-ups/s': round(woken, 2)}


ALL = {'local': local, 'local100': local100, 'kept': kept, 'tls': tls, 'tls-kept': tls_kept, 'users': users, 'relay': relay,
       'relay-tls': relay_tls, 'domains': domains, 'local-list': local_list, 'remote-list': remote_list, 'big': big,
       'latency': latency, 'busy': busy, 'once': once, 'idle': idle}
