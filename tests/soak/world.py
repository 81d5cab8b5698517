"""Three hosts with a qpy each, in network namespaces, on small disks, with clocks that can be set, and a DNS that can
lie.

    with World(seed) as world: world.sites['a'] ...
Everything is below one directory in /var/tmp and gone at the end.  Needs root, iproute2, loop devices or tmpfs, and
dnspython; libfaketime (Debian's package, unpacked) if the clocks are to jump.
"""
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import click
import dns

from qpy.core import mess
from tests.peers import debian, dns_script, net, qpy as peer
from tests.soak import ledger

NAMES = ('a', 'b', 'c')
USERS = {'a': ('ann', 64121), 'b': ('bob', 64122), 'c': ('cid', 64123)}
ACCOUNTS = ('qpyd', 'qpyq', 'qpys', 'qpyu', 'qpyr', 'qpyp', 'qpyl', 'alias')
RECIPES = {'default': './Maildir/\n', 'mbox': './Mailbox\n',
           'prog': '|f=$(mktemp box/XXXXXXXXXX) && cat > "$f" && mv "$f" "$f.done"\n'}
#: a.test's users forward to b.test and so on; those of b.test by a program
ONWARD = {'a': 'b', 'b': 'c', 'c': 'a'}
CONTROLS = {'timeoutconnect': '3\n', 'timeoutremote': '8\n', 'timeoutsmtpd': '20\n'}
QUEUE_MB, HOMES_MB = 24, 64
PIPE = 4096                 # bytes that a log holds when nobody reads it
F_SETPIPE_SZ = 1031
EVIL = 'evil.test'
REAL = '/usr/bin/python3'
WRAPPER = """#!/bin/sh
exec /usr/bin/env LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={clock} FAKETIME_CACHE_DURATION=1 NO_FAKE_STAT=1 \\
    FAKETIME_DONT_FAKE_MONOTONIC=1 {python} "$@"
"""


class Disk:
    """A small file system of its own: ext4 in a file, or in memory where there are no loop devices."""

    def __init__(self, place, megabytes):
        self.place, self.image = place, place + '.image'
        os.mkdir(place)
        with open(self.image, 'wb') as file:
            file.truncate(megabytes << 20)
        made = shutil.which('mkfs.ext4', path='/usr/sbin:/sbin') and not subprocess.run(
            ['mkfs.ext4', '-q', '-m', '0', '-i', '2048', self.image], capture_output=True).returncode
        if not made or subprocess.run(['mount', '-o', 'loop', self.image, place], capture_output=True).returncode:
            subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=%dm,mode=755' % megabytes, 'soak', place], check=True)

    def fill(self):
        """Until nothing fits any more."""
        with contextlib.suppress(OSError), open(self.place + '/ballast', 'ab', buffering=0) as file:
            while True:
                file.write(bytes(65536))
        with contextlib.suppress(OSError), open(self.place + '/ballast', 'ab', buffering=0) as file:
            while True:
                file.write(b'.')

    def empty(self):
        """There is room again."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.place + '/ballast')

    def remove(self):
        """Unmount it."""
        subprocess.run(['umount', '-l', self.place], capture_output=True)


class Zone(dict):
    """What the DNS says; `mood`, if there is one, instead for every question."""

    mood = None

    def get(self, key, default=None):
        """The records of (name, type)."""
        return self.mood(*key) if self.mood else super().get(key, default)


class Qpy(peer.Qpy):
    """An installation that a supervisor starts, not its maker."""

    def start(self):
        """See Site."""

    def command(self, *words, **more):
        """Again if it fails: the accounts that it has just made may be taken away by other tests of this machine."""
        for _ in range(4):
            with contextlib.suppress(RuntimeError):
                return super().command(*words, **more)
        return super().command(*words, **more)


class Site:
    """One host: its qpy, which is started again whenever it ends, its log, its disks and mailboxes."""

    def __init__(self, world, name):
        self.world, self.name, self.host = world, name, world.net.hosts[name]
        self.user, self.uid = USERS[name]
        self.queue_disk, self.homes_disk = world.disks[name]
        self.history, self.log_path = ledger.History(), os.path.join(world.base, name + '.log')
        self.reading, self.wanted, self.process = threading.Event(), threading.Event(), None
        self.reading.set()
        self.starts, self.lock, self.mbox_seen = 0, threading.Lock(), {}
        self.home = os.path.join(self.homes_disk.place, self.user)
        self.make_home()
        self.qpy = Qpy(os.path.join(world.base, name), 25, users=[(self.user, self.uid, self.uid, self.home)],
                       me=name + '.test', host=self.host, controls=CONTROLS, queue=self.queue_disk.place + '/queue',
                       options=['--offline'])
        for module in (dns, click):         # of the interpreter that runs us, not from the network
            shutil.copytree(os.path.dirname(module.__file__), '%s/lib/site/%s' % (self.qpy.home, module.__name__),
                            dirs_exist_ok=True, ignore=shutil.ignore_patterns('__pycache__'))
        with open('/etc/group') as groups:
            self.host.etc(self.qpy.home, {'group': groups.read()})
        self.host.run('mount', '-t', 'tmpfs', 'soak', '/dev/shm')
        self.clock = self.qpy.home + '/lib/clock'
        self.set_clock('+0')
        if world.library:
            self.preload()

    def make_home(self):
        """The user's home, with his recipes."""
        onward = ONWARD[self.name]
        for part in ('', '/box', '/Maildir', '/Maildir/tmp', '/Maildir/new', '/Maildir/cur'):
            os.mkdir(self.home + part, 0o700)
        recipes = {**RECIPES, 'far': '&%s@%s.test\n' % (USERS[onward][0], onward)}
        for name, text in recipes.items():
            with open('%s/.qmail-%s' % (self.home, name), 'w') as file:
                file.write(text)
        for directory, _, names in os.walk(self.home):
            for path in [directory, *(os.path.join(directory, n) for n in names)]:
                os.chown(path, self.uid, self.uid)

    def preload(self):
        """All programs run under the library that knows another time."""
        wrapper = self.qpy.home + '.python'
        with open(wrapper, 'w') as file:
            file.write(WRAPPER.format(library=self.world.library, clock=self.clock, python=REAL))
        os.chmod(wrapper, 0o755)
        for name in os.listdir(self.qpy.home + '/bin'):
            path = self.qpy.home + '/bin/' + name
            if not os.path.islink(path):
                with open(path) as file:
                    text = file.read()
                with open(path, 'w') as file:
                    file.write(text.replace('#!' + REAL, '#!' + wrapper, 1))

    def set_clock(self, offset):
        """What every program here takes for the time, from within a second on."""
        with open(self.clock + '.new', 'w') as file:
            file.write(offset + '\n')
        os.rename(self.clock + '.new', self.clock)

    # --- the chain and its log ---

    def supervise(self):
        """In a thread: start the chain, and start it again when it ends, as long as it is wanted."""
        while self.wanted.is_set():
            read, write = os.pipe()
            fcntl.fcntl(write, F_SETPIPE_SZ, PIPE)
            with self.lock:
                self.history.started()
                self.starts += 1
            self.process = subprocess.Popen([*self.host.prefix, self.qpy.home + '/bin/qpy-start'],
                                            stdin=subprocess.DEVNULL,
                                            stdout=write, stderr=write, start_new_session=True)
            os.close(write)
            reader = threading.Thread(target=self.read, args=(read,), daemon=True)
            reader.start()
            self.process.wait()
            reader.join(30)
            self.note('=== the chain has ended: %d' % self.process.returncode)
            with self.lock:
                self.history.ended(self.process.returncode)
            if self.process.returncode and self.wanted.is_set():
                time.sleep(0.5)             # a supervisor's pause

    def read(self, pipe):
        """Keep the log, unless it is to be blocked."""
        with open(pipe, 'rb', buffering=0) as stream, open(self.log_path, 'ab', buffering=0) as file:
            rest = b''
            while True:
                self.reading.wait()
                data = stream.read(65536)
                if not data:
                    return
                *lines, rest = (rest + data).split(b'\n')
                file.write(b''.join(b'%.2f %b\n' % (self.world.now(), line) for line in lines))
                with self.lock:
                    for line in lines:
                        self.history.feed(line.decode('utf-8', 'replace'))

    def note(self, text):
        """A line of ours in the log."""
        with open(self.log_path, 'a') as file:
            file.write('%.2f %s\n' % (self.world.now(), text))

    def last_lines(self, count=30):
        """Of the log."""
        with open(self.log_path, errors='replace') as file:
            return ''.join(file.readlines()[-count:])

    def start(self):
        """Begin to supervise."""
        self.wanted.set()
        self.thread = threading.Thread(target=self.supervise, daemon=True)
        self.thread.start()

    def stop(self):
        """TERM, as an administrator would; the exit code of the chain."""
        self.wanted.clear()
        self.reading.set()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.thread.join(60)
        return self.process.returncode

    def ctl(self, *words):
        """qpy-ctl, as its administrator; what it said if it failed."""
        done = subprocess.run([*self.host.prefix, self.qpy.home + '/bin/qpy-ctl', *words], capture_output=True,
                              timeout=30)
        return done.stderr.decode() or 'exit %d' % done.returncode if done.returncode else None

    def holdups(self):
        """What send says of what it has, most frequent first, as lines: place, channel, status and reason."""
        done = subprocess.run([*self.host.prefix, self.qpy.home + '/bin/qpy-qread', '--json'], capture_output=True,
                              timeout=30)
        messages, found = [json.loads(line) for line in done.stdout.splitlines()], {}
        for message in messages:
            for recipient in message['recipients']:
                words = '%s, %s, %s: %s' % (message['place'], recipient['channel'], recipient['status'],
                                            recipient['reason'][:150])
                found[words] = found.get(words, 0) + 1
        said = done.stderr.decode() or 'send knows %d of %d messages' % (len(messages), self.waiting())
        return '\n'.join([said] + ['%6d %s' % (count, words) for words, count in
                                   sorted(found.items(), key=lambda row: -row[1])[:20]])

    def signal(self, number):
        """To the chain, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    # --- where mail is ---

    def queued(self):
        """{number: set of addresses} of everything in the queue."""
        found, place = {}, self.qpy.home + '/queue/mess/'
        for name in os.listdir(place):
            try:
                with open(place + name, 'rb') as file:
                    message, envelope = mess.unpack(file.read(), name.encode())
            except (OSError, mess.Damaged, mess.Newer, ValueError):
                continue
            what = ledger.seen(message, '')
            if isinstance(what, (ledger.Copy, ledger.Report)):
                named = getattr(what, 'addresses', envelope_names(envelope))
                found.setdefault(what.number, set()).update(named)
        return found

    def waiting(self):
        """How many messages are in the queue."""
        return len(os.listdir(self.qpy.home + '/queue/mess'))

    def collect(self, book):
        """Take what is in the mailboxes into the ledger."""
        for place, end, address in ((self.home + '/Maildir/new/', '', None),
                                    (self.qpy.home + '/alias/Maildir/new/', '', None),
                                    (self.home + '/box/', '.done', '%s-prog@%s.test' % (self.user, self.name))):
            for name in os.listdir(place) if os.path.isdir(place) else []:
                if name.endswith(end):
                    with open(place + name, 'rb') as file:
                        self.take(book, file.read(), address, place + name)
                    os.unlink(place + name)
        self.collect_mbox(book)

    def collect_mbox(self, book):
        """The mbox stays: what was seen before is not seen again.  A crash may leave torn pieces, which are nothing."""
        path, now = self.home + '/Mailbox', {}
        if os.path.exists(path):
            with open(path, 'rb') as file:
                for piece in ledger.pieces_of_mbox(file.read()):
                    what = ledger.seen(piece)
                    if isinstance(what, ledger.Copy) and what.whole:
                        now.setdefault((what.number, what.address), []).append(what)
            for key, copies in now.items():
                for what in copies[self.mbox_seen.get(key, 0):]:
                    book.found(what, path)
                self.mbox_seen[key] = len(copies)

    @staticmethod
    def take(book, data, address, where):
        """One file."""
        what = ledger.seen(data, address)
        if ledger.HOSTILE in data.partition(b'\n\n')[0]:
            book.wrong.append('%s: smuggled' % where)
        if what:
            book.found(what, where)

    # --- processes ---

    def processes(self):
        """[(pid, program, state, parent)] of this host's qpy: all that share its mounts."""
        here, found = os.readlink('/proc/%d/ns/mnt' % self.host.holder.pid), []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                if os.readlink('/proc/%s/ns/mnt' % pid) == here and int(pid) != self.host.holder.pid:
                    found.append(described(int(pid)))
            except (OSError, IndexError):
                continue
        return found

    def chain(self):
        """Those of them that are programs of the chain."""
        return [row for row in self.processes() if row[1] not in TOOLS]

    def remove(self):
        """End it."""
        if self.process and self.process.poll() is None:
            self.stop()
        for pid, *_ in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


TOOLS = {'?', 'sendmail', 'ctl', 'fsck'}      # what else runs on a host: programs of .qmail files, and what people call


def envelope_names(envelope):
    """The recipients as text."""
    return [name.decode('ascii', 'replace') for name in envelope.recipients]


def described(pid):
    """(pid, program, state, parent); IndexError or OSError if it is gone."""
    with open('/proc/%d/cmdline' % pid, 'rb') as file:
        words = file.read().split(b'\0')
    name = next((os.path.basename(word)[4:].decode() for word in words if os.path.basename(word).startswith(b'qpy-')),
                '?')
    with open('/proc/%d/stat' % pid) as file:
        state, parent = file.read().rpartition(')')[2].split()[:2]
    if name == 'seed' and os.stat('/proc/%d' % pid).st_uid in [uid for _, uid in USERS.values()]:
        name = 'local'
    return pid, name, state, int(parent)


class World:
    """The network, the disks, the DNS and the three sites."""

    def __init__(self, seed, clocks=True):
        self.seed, self.sites, self.disks, self.zone = seed, {}, {}, Zone()
        self.clocks = clocks
        self.stack, self.over = contextlib.ExitStack(), threading.Event()
        self.began = time.monotonic()

    def now(self):
        """Seconds since the world began."""
        return time.monotonic() - self.began

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.stack.close()
            raise
        return self

    def build(self):
        """Directory, disks, network, DNS, sites."""
        self.base = tempfile.mkdtemp(prefix='qpy-soak-', dir='/var/tmp')
        os.chmod(self.base, 0o755)
        self.stack.callback(shutil.rmtree, self.base, ignore_errors=True)
        self.library = self.faketime() if self.clocks else None
        for name in NAMES:
            homes = Disk('%s/%s.homes' % (self.base, name), HOMES_MB)
            self.stack.callback(homes.remove)
            queue = homes           # b's queue shares its disk: fsync there, syncfs where it has one of its own
            if name != 'b':
                queue = Disk('%s/%s.disk' % (self.base, name), QUEUE_MB)
                self.stack.callback(queue.remove)
            self.disks[name] = queue, homes
        self.net = self.stack.enter_context(net.Net(NAMES, self.base))
        self.evil, self.evil_log = self.net.world(), self.base + '/evil.log'
        self.zone.update({(EVIL, 'MX'): ['10 mx.' + EVIL], ('mx.' + EVIL, 'A'): [self.evil]})
        for name, host in self.net.hosts.items():
            self.zone[name + '.test', 'MX'] = ['10 mx.%s.test' % name]
            self.zone['mx.%s.test' % name, 'A'] = [host.address]
        self.dns = self.stack.enter_context(self.net.hub.call(lambda: dns_script.Server(self.zone, net.HUB, 53, ttl=0)))
        self.keep_accounts()
        for name in NAMES:
            self.sites[name] = Site(self, name)
            self.stack.callback(self.sites[name].remove)

    def keep_accounts(self):
        """The installations make qpy's accounts where they are missing; those go again."""
        def known(file):
            with open(file) as lines:
                return {line.partition(':')[0] for line in lines} & set(ACCOUNTS)
        before = known('/etc/passwd'), known('/etc/group')

        def remove():
            for words, file, had in ((['userdel'], '/etc/passwd', before[0]), (['groupdel'], '/etc/group', before[1])):
                for name in known(file) - had:
                    subprocess.run([*words, name], capture_output=True)
        self.stack.callback(remove)

    def faketime(self):
        """Our copy of the library, None if it cannot be had."""
        try:
            root = debian.unpack('libfaketime')
        except RuntimeError:
            return None
        library = self.base + '/faketime.so'
        shutil.copy(next(path + '/faketime/libfaketimeMT.so.1' for path in debian.libraries(root)), library)
        os.chmod(library, 0o755)
        return library

    def routes(self):
        """{address: where it is forwarded to}."""
        return {'%s-far@%s.test' % (USERS[name][0], name): '%s@%s.test' % (USERS[to][0], to)
                for name, to in ONWARD.items()}

    def missing(self, book):
        """What is promised and nowhere, looked for again and again while mail moves."""
        suspects = None
        for _ in range(4):
            queued = {}
            for site in self.sites.values():
                for number, addresses in site.queued().items():
                    queued.setdefault(number, set()).update(addresses)
            for site in self.sites.values():
                site.collect(book)
            found = set(book.missing(queued))
            suspects = found if suspects is None else suspects & found
            if not suspects:
                break
        return suspects

    def __exit__(self, *_):
        self.stack.close()
