"""The two servers of the benchmark, on disks of the same kind, with the same users; and what they cost."""
import ctypes
import os
import re
import shutil
import smtplib
import struct
import subprocess
import sys
import tempfile
import time

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, SOURCE)
from tests.peers import debian, postfix, qpy as qpy_peer  # noqa: E402
from tests.peers.certificates import authority  # noqa: E402

UID = 64100                 # of the first user; the others follow.  The machine does not need to know them
USERS = 1000                # 1u to 1000u: the names that smtp-source -N makes of u@domain
PORTS = {'Postfix': 26250, 'qpy': 26251}
SINK_PORT, TLS_PORT = 26252, 26253
TUNNELS = {'Postfix': 26254, 'qpy': 26255}
SINK_ADDRESSES = ['127.0.1.%d' % (n + 1) for n in range(20)]
DOMAINS = ['d%d.test' % n for n in range(100)]          # five of them on each address
TICK = os.sysconf('SC_CLK_TCK')
RESULT = (0.02, 0.002)      # seconds between looks: while a crowd of files is counted, else


def own_disk(directory, images, megabytes=8192, files=0):
    """Mount an ext4 of its own, a file in images, on directory; returns what undoes it.  files: at least so many have room."""
    image = os.path.join(images, os.path.basename(directory) + '.image')
    os.makedirs(directory, exist_ok=True)
    with open(image, 'wb') as file:
        file.truncate(megabytes << 20)
    subprocess.run(['mkfs.ext4', '-q', '-F', *(['-N', str(files)] if files else []), image], check=True)
    subprocess.run(['mount', '-o', 'loop', image, directory], check=True)

    def undo():
        subprocess.run(['umount', '-l', directory], check=False)
        os.unlink(image)
    return undo


class Sink:
    """Postfix's smtp-sink as the next hop; it counts on its standard output."""

    def __init__(self, host='127.0.0.1', port=SINK_PORT):
        self.path = tempfile.mktemp(prefix='qpy-sink-')
        self.output = open(self.path, 'wb')
        self.process = subprocess.Popen(postfix.tool('smtp-sink') + ['-u', 'nobody', '-c', '%s:%d' % (host, port), '1000'],
                                        stdout=self.output, stderr=subprocess.STDOUT)
        if host == '127.0.0.1':
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


class Front:
    """Debian's stunnel, unpacked: STARTTLS in front of a Sink, so that the next hop's TLS is nobody's own."""

    CONF = ('foreground = yes\npid =\ndebug = emerg\nsyslog = no\noutput = /dev/null\n[smtp]\nprotocol = smtp\n'
            'accept = 127.0.0.1:%d\nconnect = 127.0.0.1:%d\ncert = %s\nkey = %s\n')

    def __init__(self):
        certificate, key = authority().certificate('127.0.0.1')
        self.conf = tempfile.mktemp(prefix='qpy-stunnel-')
        with open(self.conf, 'w') as file:
            file.write(self.CONF % (TLS_PORT, SINK_PORT, certificate, key))
        program = debian.program('stunnel4', 'stunnel4', 'libwrap0')
        self.process = subprocess.Popen([program, self.conf], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        qpy_peer.wait_for_port(TLS_PORT, alive=lambda: self.process.poll() is None, greeting=b'220')

    def stop(self):
        """End it."""
        self.process.kill()
        self.process.wait()
        os.unlink(self.conf)


class Tunnel(Front):
    """The same before one of the servers, as its client: what comes in the clear goes on by STARTTLS."""

    CONF = ('foreground = yes\npid =\ndebug = emerg\nsyslog = no\noutput = /dev/null\n[smtp]\nclient = yes\nprotocol = smtp\n'
            'accept = 127.0.0.1:%d\nconnect = 127.0.0.1:%d\n')

    def __init__(self, server):
        self.conf = tempfile.mktemp(prefix='qpy-stunnel-')
        with open(self.conf, 'w') as file:
            file.write(self.CONF % (TUNNELS[server.name], server.port))
        program = debian.program('stunnel4', 'stunnel4', 'libwrap0')
        self.process = subprocess.Popen([program, self.conf], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        qpy_peer.wait_for_port(TUNNELS[server.name], alive=lambda: self.process.poll() is None, greeting=b'220')


class Server:
    """One of the two, started.  name: qpy or Postfix; domain: that it delivers locally."""

    def __init__(self, name, base, spool):
        self.name, self.port, self.domain = name, PORTS[name], name.lower() + '.test'
        self.homes, self.queue = os.path.join(base, 'homes-' + name), spool
        self.user = [('u', UID, self.home('u')), ('probe', UID + 1, self.home('probe'))]
        self.user += [('%du' % n, UID + 1 + n, self.home('%du' % n)) for n in range(1, USERS + 1)]
        for _, uid, home in self.user:
            os.makedirs(home)
            os.chown(home, uid, uid)
        self.start()

    def home(self, user):
        """Where a user lives."""
        return os.path.join(self.homes, user)

    def new(self, user):
        """Where his new mail is."""
        return os.path.join(self.home(user), 'Maildir', 'new')

    def arrived(self, user='u'):
        """How many messages he has."""
        try:
            return len(os.listdir(self.new(user)))
        except FileNotFoundError:
            return 0

    def clear(self, user='u', remove=False):
        """Give him an empty Maildir, so that directories do not grow; what was there is moved away, or removed."""
        home = self.home(user)
        if os.path.isdir(home + '/Maildir'):
            os.rename(home + '/Maildir', '%s/old.%d' % (home, time.monotonic_ns()))
        if remove:
            for name in os.listdir(home):
                if name.startswith('old.'):
                    shutil.rmtree(os.path.join(home, name))

    def empty(self, user):
        """Take the messages out of his Maildir, which stays."""
        new = self.home(user) + '/Maildir/new/'
        for name in os.listdir(new):
            os.unlink(new + name)

    def cost(self):
        """{program: [CPU seconds as user, as system, wake-ups]} so far, its processes together, also those that ended."""
        spent = {}
        for pid, program in self.processes():
            try:
                with open('/proc/%d/stat' % pid) as file:
                    fields = file.read().rpartition(')')[2].split()
                switches = sum(switched(pid, task) for task in os.listdir('/proc/%d/task' % pid))
            except (FileNotFoundError, ProcessLookupError):
                continue
            known = spent.setdefault(program, [0, 0, 0])
            times = [int(word) / TICK for word in fields[11:15]]
            for i, value in enumerate((times[0] + times[2], times[1] + times[3], switches)):
                known[i] += value
        return spent

    def memory(self):
        """{program: [proportional megabytes, highest resident megabytes of one of its processes]}."""
        found = {}
        for pid, program in self.processes():
            try:
                with open('/proc/%d/smaps_rollup' % pid) as file:
                    share = number_in(file.read(), 'Pss:') / 1024
                with open('/proc/%d/status' % pid) as file:
                    peak = number_in(file.read(), 'VmHWM:') / 1024
            except (FileNotFoundError, ProcessLookupError):
                continue
            known = found.setdefault(program, [0, 0])
            known[0] += share
            known[1] = max(known[1], peak)
        return found

    def forget_peaks(self):
        """Let the highest resident size begin anew."""
        for pid, _ in self.processes():
            try:
                with open('/proc/%d/clear_refs' % pid, 'w') as file:
                    file.write('5')
            except (FileNotFoundError, ProcessLookupError):
                pass


def switched(pid, task):
    """Voluntary context switches of a thread: how often it went to sleep."""
    with open('/proc/%d/task/%s/status' % (pid, task)) as file:
        return number_in(file.read(), 'voluntary_ctxt_switches:')


def number_in(text, word):
    """The number after a word; 0 if it is not there."""
    found = re.search(r'^' + word + r'\s*(\d+)', text, re.M)
    return int(found[1]) if found else 0


class Qpy(Server):
    """qpy as its installer leaves it."""

    def start(self):
        """Install and start it."""
        routes = ['sink.test:127.0.0.1:%d' % SINK_PORT, 'tls.test:127.0.0.1:%d' % TLS_PORT]
        routes += ['%s:%s:%d' % (domain, SINK_ADDRESSES[n % 20], SINK_PORT) for n, domain in enumerate(DOMAINS)]
        self.server = qpy_peer.Qpy(os.path.join(os.path.dirname(self.homes), 'qpy'), port=self.port, me=self.domain,
                                   queue=os.path.join(self.queue, 'queue'), routes=routes,
                                   users=[(name, uid, uid, home) for name, uid, home in self.user])
        with open(self.home('u') + '/.qmail-default', 'w') as file:
            file.write('./Maildir/\n')
        self.server.command(self.server.home + '/bin/qpy-cert', 'default', *authority().certificate('127.0.0.1'))
        self.await_tls()
        self.sendmail, self.inside = [self.server.home + '/bin/sendmail'], []

    def await_tls(self):
        """Until every worker of smtpd has heard of the certificate: each asks when a client comes."""
        in_a_row = 0
        while in_a_row < 20:
            with smtplib.SMTP('127.0.0.1', self.port, 'client.test') as client:
                client.ehlo()
                in_a_row = in_a_row + 1 if client.has_extn('starttls') else 0
            time.sleep(0.05)

    def processes(self):
        """[(pid, program)]."""
        return [(pid, name.removeprefix('qpy-')) for pid, name in self.server.pids()]

    def waiting(self):
        """Is anything in the queue?"""
        return bool(os.listdir(self.queue + '/queue/mess'))

    def stop(self):
        """End it."""
        self.server.stop()


class Postfix(Server):
    """Postfix as Debian ships it, but for Maildirs, the port, and no limits of size."""

    MORE = ('relay_transport = smtp:[127.0.0.1]:%d\nrelay_domains = sink.test, tls.test, %s\nrecipient_delimiter = -\n'
            'message_size_limit = 0\nmailbox_size_limit = 0\ntransport_maps = texthash:%s\nsmtp_tls_security_level = may\n'
            'smtpd_tls_security_level = may\nsmtpd_tls_cert_file = %s\nsmtpd_tls_key_file = %s\n')

    def start(self):
        """Unpack and start it."""
        os.makedirs(self.queue, exist_ok=True)
        routes = os.path.join(self.queue, 'routes')
        with open(routes, 'w') as file:
            file.write('tls.test smtp:[127.0.0.1]:%d\n' % TLS_PORT)
            file.writelines('%s smtp:[%s]:%d\n' % (domain, SINK_ADDRESSES[n % 20], SINK_PORT)
                            for n, domain in enumerate(DOMAINS))
        more = postfix.STOCK_LOG + self.MORE % (SINK_PORT, ', '.join(DOMAINS), routes, *authority().certificate('127.0.0.1'))
        self.server = postfix.Postfix(self.port, local=self.domain, more=more, work=os.path.join(self.queue, 'postfix'),
                                      users=self.user)
        self.sendmail = ['sendmail']
        self.inside = ['nsenter', '-m', '-t', str(self.server.master.pid)]

    def processes(self):
        """[(pid, program)] of what runs at the moment."""
        found, waiting = [], [self.server._daemon()]
        while waiting:
            pid = waiting.pop()
            try:
                with open('/proc/%d/comm' % pid) as file:
                    found.append((pid, file.read().strip()))
                with open('/proc/%d/task/%d/children' % (pid, pid)) as file:
                    waiting += [int(word) for word in file.read().split()]
            except (FileNotFoundError, ProcessLookupError):
                pass
        return found

    def waiting(self):
        """Is anything in the queue?"""
        spool = self.queue + '/postfix/spool/'
        return any(files for name in ('maildrop', 'incoming', 'active', 'deferred')
                   for _, _, files in os.walk(spool + name))

    def stop(self):
        """End it."""
        self.server.stop()


class Calls:
    """System calls of qpy's processes, counted by the kernel (perf) while the block runs; empty without perf."""

    def __init__(self, server):
        self.server, self.counts, self.running = server, {}, []

    def __enter__(self):
        if shutil.which('perf') and os.path.exists('/sys/kernel/tracing/events/raw_syscalls'):
            for pid, program in self.server.processes():
                output = tempfile.NamedTemporaryFile('r', prefix='qpy-perf-')
                self.running.append((program, output, subprocess.Popen(
                    ['perf', 'stat', '-x', ',', '-o', output.name, '-e', 'raw_syscalls:sys_enter', '-p', str(pid)],
                    stderr=subprocess.DEVNULL)))
            time.sleep(1)               # until they have attached themselves: they do not say when
        return self

    def __exit__(self, *_):
        for program, output, process in self.running:
            process.send_signal(2)
            process.wait()
            count = re.search(r'^(\d+),', output.read(), re.M)
            self.counts[program] = self.counts.get(program, 0) + (int(count[1]) if count else 0)
            output.close()


class Watch:
    """inotify on one directory: wait until a file appears."""

    def __init__(self, path):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(0o2000000)
        if self.libc.inotify_add_watch(self.fd, os.fsencode(path), 0x180) < 0:       # IN_CREATE, IN_MOVED_TO
            raise OSError(ctypes.get_errno(), path)

    def wait(self):
        """Until something has appeared."""
        os.read(self.fd, 4096)

    def names(self):
        """What has appeared, waiting for at least one."""
        data, found = os.read(self.fd, 65536), []
        while data:
            _, _, _, size = struct.unpack_from('iIII', data)
            found.append(data[16:16 + size].rstrip(b'\0'))
            data = data[16 + size:]
        return found

    def close(self):
        """Stop."""
        os.close(self.fd)
