"""What a program of the chain tries when it is owned.

The launchers that tests put into an installation import the program, swap its work for this, and call its main: the
start-up (parent, account, descriptors, namespace, confine) is never swapped.  As soon as the program has confined
itself every attempt of its claims is made; the answers go to the log as `qpy-NAME: probe P09 what: ERRNO`, or
`possible`; then the program goes on with its work, so that the others get their turn.
"""
import ctypes
import errno
import fcntl
import os
import socket
import struct

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {'x86_64': dict(ptrace=101, execveat=322, unshare=272, mount=165, personality=135, keyctl=250, bpf=321,
                          perf_event_open=298, userfaultfd=323, process_vm_readv=310, setns=308, mprotect=10,
                          pidfd_getfd=438, pidfd_send_signal=424, io_uring_setup=425, capset=126, chmod=268,
                          utimensat=280, fsetxattr=190, mknodat=259, clone=56, prlimit64=302, setpriority=141),
           'aarch64': dict(ptrace=117, execveat=281, unshare=97, mount=40, personality=92, keyctl=219, bpf=280,
                           perf_event_open=241, userfaultfd=282, process_vm_readv=270, setns=268, mprotect=226,
                           pidfd_getfd=438, pidfd_send_signal=424, io_uring_setup=425, capset=91, chmod=53,
                           utimensat=88, fsetxattr=7, mknodat=33, clone=220, prlimit64=261, setpriority=140)}
NUMBER = NUMBERS[os.uname().machine]
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID = 0x10000000, 0x40000000, 0x20000, 0x20000000
TCP_FASTOPEN_CONNECT, MSG_FASTOPEN, MPTCP = 30, 0x20000000, 262


def call(name, *arguments):
    """A system call; OSError if it fails."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    ctypes.set_errno(0)
    if libc.syscall(ctypes.c_long(NUMBER[name]), *words) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def answer_to(work):
    """How the kernel answers: an error's name, or `possible`."""
    try:
        work()
    except OSError as problem:
        return errno.errorcode.get(problem.errno, str(problem.errno))
    except BaseException as problem:
        return 'trouble %s' % type(problem).__name__
    return 'possible'


class Probe:
    """The attempts of one process."""

    def __init__(self, name, home, facts):
        self.name, self.home, self.facts = name, home, facts
        self.fd = 1 if name == 'log' else 2

    def say(self, words):
        """One line to the log, waiting if that is full."""
        line = ('qpy-%s: probe %s\n' % (self.name.split('-')[0], words)).encode()
        while line:
            try:
                line = line[os.write(self.fd, line):]
            except BlockingIOError:
                pass

    def attempt(self, claim, what, work):
        """Do it, and say how the kernel answered."""
        try:
            pid = os.fork()
        except OSError:
            return self.say('%s %s: %s' % (claim, what, answer_to(work)))
        if pid == 0:                        # what can fork tries in a child, so that nothing sticks to it
            self.say('%s %s: %s' % (claim, what, answer_to(work)))
            os._exit(0)
        os.waitpid(pid, 0)

    # --- what is tried ---

    def identity(self, claim):
        """Be somebody else."""
        another = self.facts['user'] if os.geteuid() != self.facts['user'] else self.facts['other']
        for what, work in (('setresuid-0', lambda: os.setresuid(0, 0, 0)), ('setuid-0', lambda: os.setuid(0)),
                           ('setgid-0', lambda: os.setresgid(0, 0, 0)), ('setgroups', lambda: os.setgroups([0])),
                           ('setresuid-user', lambda: os.setresuid(*[another] * 3)),
                           ('user-namespace', lambda: call('unshare', CLONE_NEWUSER))):
            self.attempt(claim, what, work)

    def execute(self, claim):
        """Run another program.  An empty file: ENOEXEC if one could."""
        path = os.path.join(self.home, 'probe-empty')
        self.attempt(claim, 'execve', lambda: os.execve(path, [path], {}))
        self.attempt(claim, 'execveat', lambda: call('execveat', -100, ctypes.c_char_p(path.encode()), 0, 0, 0))
        self.attempt(claim, 'write-execute-memory', self.new_code)

    def new_code(self):
        """Memory that is written, then executed."""
        import mmap
        with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE) as page:
            page.write(b'\xc3')
            where = ctypes.addressof(ctypes.c_char.from_buffer(page))
            call('mprotect', where, 4096, mmap.PROT_READ | mmap.PROT_EXEC)

    def others(self, claim):
        """Other processes: our parent, which has our account or another."""
        parent = os.getppid()
        self.attempt(claim, 'ptrace-attach', lambda: (call('ptrace', 16, parent, 0, 0), os.kill(parent, 18)))
        self.attempt(claim, 'ptrace-seize', lambda: call('ptrace', 0x4206, parent, 0, 0))
        self.attempt(claim, 'kill', lambda: os.kill(parent, 0))
        self.attempt(claim, 'memory', lambda: open('/proc/%d/mem' % parent, 'rb').close())
        self.attempt(claim, 'environment', lambda: open('/proc/%d/environ' % parent, 'rb').close())
        self.attempt(claim, 'descriptor', lambda: call('pidfd_getfd', os.pidfd_open(parent), 1, 0))
        self.attempt(claim, 'process_vm_readv', lambda: call('process_vm_readv', parent, 0, 0, 0, 0, 0))
        self.attempt(claim, 'prlimit', lambda: call('prlimit64', parent, 7, 0, 0))
        self.attempt(claim, 'setpriority', lambda: call('setpriority', 0, parent, 10))
        for what, work in (('setown', lambda fd: fcntl.fcntl(fd, fcntl.F_SETOWN, parent)),
                           ('setown-ex', lambda fd: fcntl.fcntl(fd, 15, struct.pack('ii', 1, parent))),
                           ('setsig', lambda fd: fcntl.fcntl(fd, 10, 18)),
                           ('fiosetown', lambda fd: fcntl.ioctl(fd, 0x8901, struct.pack('i', parent))),
                           ('siocspgrp', lambda fd: fcntl.ioctl(fd, 0x8902, struct.pack('i', parent)))):
            self.attempt(claim, 'signal-by-' + what, lambda work=work: self.on_socket(work))
        self.attempt(claim, 'signal-by-descriptor', self.signal_by_descriptor)

    @staticmethod
    def on_socket(work):
        """Do it on a socket, which all of these can be done on."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            work(ours.fileno())

    @staticmethod
    def signal_by_descriptor():
        """Send our parent a CONT, which ends nobody, by what becomes of a descriptor."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            fcntl.fcntl(ours, fcntl.F_SETOWN, os.getppid())
            fcntl.fcntl(ours, 10, 18)
            fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
            theirs.send(b'x')

    def system(self, claim):
        """The kernel's own doors."""
        for what, work in (('io_uring', lambda: call('io_uring_setup', 4, ctypes.create_string_buffer(120))),
                           ('bpf', lambda: call('bpf', 0, ctypes.create_string_buffer(120), 120)),
                           ('keyctl', lambda: call('keyctl', 0, -3, 1)),
                           ('perf', lambda: call('perf_event_open', ctypes.create_string_buffer(120), 0, -1, -1, 0)),
                           ('userfaultfd', lambda: call('userfaultfd', 1)),
                           ('mount', lambda: call('mount', 0, ctypes.c_char_p(b'/tmp'), ctypes.c_char_p(b'tmpfs'), 0, 0)),
                           ('personality', lambda: call('personality', 0x0040000)),
                           ('network-namespace', lambda: call('unshare', CLONE_NEWNET)),
                           ('mount-namespace', lambda: call('unshare', CLONE_NEWNS)),
                           ('setns', lambda: call('setns', 0, CLONE_NEWNET))):
            self.attempt(claim, what, work)

    def sockets(self, claim):
        """The network, by every way that starts with a socket."""
        for what, numbers in (('tcp', (2, 1, 0)), ('udp', (2, 2, 0)), ('tcp6', (10, 1, 0)), ('mptcp', (2, 1, MPTCP)),
                              ('raw', (2, 3, 1)), ('netlink', (16, 3, 0)), ('packet', (17, 3, 0)), ('vsock', (40, 1, 0)),
                              ('crypto', (38, 5, 0)), ('sctp', (2, 1, 132))):
            self.attempt(claim, 'socket-' + what, lambda numbers=numbers: socket.socket(*numbers).close())
        self.attempt(claim, 'socket-pair-of-datagrams', lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))

    def stay(self, claim):
        """Leave the directory in which the names of sockets are; make a file that Landlock does not see."""
        self.attempt(claim, 'chdir', lambda: os.chdir('/'))
        self.attempt(claim, 'fchdir', lambda: os.fchdir(os.open('.', os.O_PATH)))
        self.attempt(claim, 'memory-file', lambda: os.memfd_create('x'))

    def ways_out(self, claim, sock, what):
        """Use a socket that is there: disconnect it and connect it elsewhere, listen on it, open it fast."""
        here = self.facts['port']
        address = struct.pack('=H', 2) + struct.pack('!H4s8x', here, bytes([127, 0, 0, 1]))
        self.attempt(claim, what + '-disconnect-connect', lambda: (
            libc.connect(sock.fileno(), struct.pack('=H14x', 0), 16), libc.connect(sock.fileno(), struct.pack('=H', 0), 2),
            self.checked(libc.connect(sock.fileno(), address, 16))))
        self.attempt(claim, what + '-fast-open', lambda: sock.sendto(b'x', MSG_FASTOPEN, ('127.0.0.1', here)))
        self.attempt(claim, what + '-listen', lambda: sock.listen(1))
        self.attempt(claim, what + '-bind', lambda: sock.bind(('127.0.0.1', 0)))

    @staticmethod
    def checked(result):
        """OSError for what ctypes reports."""
        if result == -1:
            raise OSError(ctypes.get_errno(), 'refused')

    def queue(self, claim, listing=True):
        """Anything in queue/: read, list, create, alter, remove."""
        home, ident = self.home, self.facts['ident']
        for name in ('mess', 'state', 'damaged'):
            if listing:
                self.attempt(claim, 'list-' + name, lambda name=name: os.listdir('%s/queue/%s' % (home, name)))
            self.attempt(claim, 'create-' + name, lambda name=name: os.open(
                '%s/queue/%s/probe' % (home, name), os.O_CREAT | os.O_WRONLY, 0o600))
            self.attempt(claim, 'make-nameless-' + name, lambda name=name: os.open(
                '%s/queue/%s' % (home, name), os.O_TMPFILE | os.O_WRONLY, 0o600))
        for name in ('mess', 'state'):
            path = '%s/queue/%s/%s' % (home, name, ident)
            if listing:
                self.attempt(claim, 'read-' + name, lambda path=path: os.open(path, os.O_RDONLY))
            self.attempt(claim, 'alter-' + name, lambda path=path: os.open(path, os.O_WRONLY))
            self.attempt(claim, 'unlink-' + name, lambda path=path: os.unlink(path))
            self.attempt(claim, 'rename-' + name, lambda path=path: os.rename(path, path + 'x'))

    def files(self, claim):
        """Write to any inode, or change what one is like."""
        me = os.getpid()
        for directory in ('/tmp', '/var/tmp', '/dev/shm', '/run', '/var/mail', self.home, self.home + '/control',
                          self.home + '/lib/qpy', self.home + '/run', '/'):
            self.attempt(claim, 'create-in-' + directory, lambda d=directory: os.unlink(self.created('%s/qpy-probe-%d' % (d, me))))
        self.attempt(claim, 'mkdir', lambda: os.mkdir('/tmp/qpy-probe-dir-%d' % me))
        self.attempt(claim, 'symlink', lambda: os.symlink('/etc/passwd', '/tmp/qpy-probe-link-%d' % me))
        self.attempt(claim, 'link', lambda: os.link(self.home + '/probe-open', '/tmp/qpy-probe-hard-%d' % me))
        self.attempt(claim, 'fifo', lambda: os.mkfifo('/tmp/qpy-probe-fifo-%d' % me))
        self.attempt(claim, 'write-open-file', lambda: os.open(self.home + '/probe-open', os.O_WRONLY))
        self.attempt(claim, 'truncate-open-file', lambda: os.truncate(self.home + '/probe-open', 0))
        self.attempt(claim, 'chmod', lambda: call('chmod', -100, ctypes.c_char_p(
            (self.home + '/probe-mine-%s' % self.facts['names'][os.geteuid()]).encode()), 0o777)
            if os.geteuid() in self.facts['names'] else call('chmod', -100, ctypes.c_char_p(b'/tmp'), 0o777))
        self.attempt(claim, 'utime', lambda: os.utime(self.home + '/probe-open'))
        self.attempt(claim, 'write-passwd', lambda: os.open('/etc/passwd', os.O_WRONLY))
        self.attempt(claim, 'read-shadow', lambda: os.open('/etc/shadow', os.O_RDONLY))
        self.attempt(claim, 'write-null', lambda: os.open('/dev/null', os.O_WRONLY))

    @staticmethod
    def created(path):
        """path, newly made."""
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return path

    def reads(self, claim, *paths):
        """Read or list these."""
        for path in paths:
            kind = os.listdir if path.endswith('/') else lambda p: os.close(os.open(p, os.O_RDONLY))
            self.attempt(claim, 'read ' + path, lambda: kind(path))

    def fork(self, claim):
        """A process more."""
        def work():
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
        self.attempt(claim, 'fork', work)

    def tcp_connect(self, claim):
        """TCP to a port where somebody listens, that no mail goes to."""
        for what, options in (('plain', ()), ('fast-open-connect', ((6, TCP_FASTOPEN_CONNECT, 1),))):
            def work(options=options):
                sock = socket.socket()
                for option in options:
                    sock.setsockopt(*option)
                sock.connect(('127.0.0.1', self.facts['port']))
                sock.send(b'x')
            self.attempt(claim, 'connect-' + what, work)
        self.attempt(claim, 'fast-open', lambda: socket.socket().sendto(b'x', MSG_FASTOPEN,
                                                                        ('127.0.0.1', self.facts['port'])))
        self.attempt(claim, 'udp', lambda: socket.socket(2, 2, 0))
        self.attempt(claim, 'mptcp', lambda: socket.socket(2, 1, MPTCP))
        self.attempt(claim, 'bind', lambda: socket.socket().bind(('127.0.0.1', 0)))
        self.attempt(claim, 'listen', lambda: socket.socket().listen(1))


    def needs(self, *names):
        """What must go on: connecting again to these neighbours, looking into control/ again."""
        from qpy.lib import packets, submit
        home = self.home.encode()
        ways = {'submit': lambda: submit.connect(home),
                'users': lambda: packets.connect(home, b'users', packets.owner_of(home, b'qpyp')),
                'names': lambda: packets.connect(home, b'names', packets.owner_of(home, b'qpyr')),
                'resolve': lambda: packets.connect(home, b'resolve', packets.owner_of(home, b'qpyr'))}
        for name in names:
            self.attempt('P00', 'connect-' + name, lambda: ways[name]().close())
        self.attempt('P00', 'control', lambda: (os.listdir(self.home + '/control'), open(self.home + '/control/me').close()))


# --- what each program tries -----------------------------------------------------------------------------------

def run_start(p):
    p.queue('P01')
    p.sockets('P01')
    p.reads('P01', '/etc/passwd', p.facts['user_home'] + '/', p.home + '/users/assign')
    p.identity('P02')
    p.execute('P02')
    p.system('P02')


def run_smtpd(p):
    p.needs('submit', 'users')
    p.queue('P05')
    p.files('P06')
    p.execute('P07')
    p.fork('P07')
    p.others('P07')
    p.system('P07')
    p.identity('P07')
    p.sockets('P09')
    unix = socket.socket(socket.AF_UNIX)
    p.stay('P09')
    p.attempt('P09', 'long-address', lambda: unix.connect('/run/systemd/journal/stdout'))
    p.attempt('P09', 'abstract', lambda: unix.bind('\0qpy-probe'))


def run_queued(p):
    p.identity('P10')
    p.attempt('P10', 'capset', lambda: call('capset', ctypes.create_string_buffer(struct.pack('Ii', 0x20080522, 0)),
                                            ctypes.create_string_buffer(struct.pack('6I', 1, 1, 0, 0, 0, 0))))
    p.sockets('P11')
    p.stay('P11')
    p.execute('P11')
    p.fork('P11')
    p.system('P11')
    p.others('P11')
    p.files('P12')
    for name in ('state', 'damaged'):
        p.attempt('P12', 'create-' + name, lambda name=name: p.created('%s/queue/%s/probe' % (p.home, name)))
    p.reads('P13', '/etc/passwd', p.home + '/control/me', p.home + '/users/assign', p.home + '/queue/state/',
            '/proc/self/status', p.home + '/queue/damaged/', p.home + '/', p.facts['user_home'] + '/')


def run_send(p):
    p.attempt('P19', 'create', lambda: p.created(p.home + '/queue/mess/1234567890123456'))
    p.attempt('P19', 'alter', lambda: os.open(p.home + '/queue/mess/' + p.facts['ident'], os.O_WRONLY))
    p.attempt('P19', 'unlink', lambda: os.unlink(p.home + '/queue/mess/' + p.facts['ident']))
    p.attempt('P19', 'move', lambda: os.rename(p.home + '/queue/mess/' + p.facts['ident'], p.home + '/queue/state/x'))
    p.attempt('P19', 'link', lambda: os.link(p.home + '/queue/mess/' + p.facts['ident'], p.home + '/queue/state/x'))
    p.identity('P20')
    p.others('P20')
    p.sockets('P21')
    p.execute('P21')
    p.fork('P21')
    p.system('P21')
    p.files('P21')


def run_bouncer(p):
    p.needs('submit')
    run_send(p)
    p.attempt('P19', 'state', lambda: os.open(p.home + '/queue/state/' + p.facts['ident'], os.O_WRONLY))


def run_clean(p):
    p.identity('P22')
    p.sockets('P22')
    p.execute('P22')
    p.fork('P22')
    p.system('P22')
    p.files('P22')
    p.attempt('P22', 'alter', lambda: os.open(p.home + '/queue/mess/' + p.facts['ident'], os.O_WRONLY))
    p.attempt('P22', 'create', lambda: p.created(p.home + '/queue/mess/1234567890123456'))
    p.attempt('P22', 'state', lambda: os.unlink(p.home + '/queue/state/' + p.facts['ident']))


def run_lspawn(p):
    p.execute('P25')
    p.fork('P25')
    p.identity('P25')
    p.others('P25')
    p.system('P25')
    p.sockets('P25')
    p.files('P25')
    p.queue('P26')
    p.reads('P26', '/etc/passwd', p.home + '/users/assign', p.facts['user_home'] + '/')


def run_users(p):
    p.needs()
    p.reads('P00', '/etc/passwd', p.home + '/users/cdb')
    p.files('P29')
    p.queue('P29')
    p.identity('P29')
    p.execute('P29')
    p.fork('P29')
    p.others('P29')
    p.system('P29')


def run_rspawn(p):
    p.queue('P38')
    p.identity('P38')
    p.execute('P38')
    p.system('P38')
    p.files('P38')


def run_remote(p):
    p.needs('resolve')
    p.files('P39')
    p.queue('P39')
    p.execute('P39')
    p.fork('P39')
    p.others('P39')
    p.system('P39')
    p.identity('P39')
    p.tcp_connect('P39')


def run_resolve(p):
    p.needs()
    p.reads('P00', '/etc/resolv.conf')
    p.files('P47')
    p.queue('P47')
    p.execute('P47')
    p.fork('P47')
    p.system('P47')
    p.identity('P47')
    p.others('P47')
    p.attempt('P47', 'listen', lambda: socket.socket().listen(1))


def run_judge(p):
    p.files('P48')
    p.queue('P48')
    p.execute('P48')
    p.fork('P48')
    p.system('P48')
    p.identity('P48')
    p.others('P48')
    p.attempt('P48', 'listen', lambda: socket.socket().listen(1))
    p.attempt('P48', 'udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def run_check(p):
    p.needs('names')
    p.attempt('P00', 'keep', lambda: os.unlink(p.created(p.home + '/check/probe')))
    run_judge(p)


def run_milter(p):
    p.needs('submit')
    p.attempt('P00', 'nameless', lambda: os.open(p.home + '/check', os.O_TMPFILE | os.O_RDWR, 0o600))
    p.attempt('P48', 'create-in-check', lambda: p.created(p.home + '/check/probe'))
    run_judge(p)


def run_tls(p):
    p.reads('P00', p.home + '/keys/probe.pem', p.home + '/control/me')
    p.queue('P50')
    p.files('P50')
    p.execute('P50')
    p.fork('P50')
    p.system('P50')
    p.identity('P50')
    p.others('P50')
    p.sockets('P50')
    p.reads('P50', p.home + '/users/passwd', p.home + '/users/assign', p.facts['user_home'] + '/')


def run_auth(p):
    p.reads('P00', p.home + '/users/passwd', p.home + '/control/me')
    p.queue('P51')
    p.files('P51')
    p.execute('P51')
    p.system('P51')
    p.identity('P51')
    p.others('P51')
    p.sockets('P51')
    p.reads('P51', p.facts['user_home'] + '/')


def run_log(p):
    p.files('P41')
    p.queue('P41')
    p.execute('P41')
    p.fork('P41')
    p.sockets('P41')
    p.system('P41')
    p.identity('P41')
    p.others('P41')
    p.attempt('P41', 'socket-unix', lambda: socket.socket(1, 1, 0))


def run_seed(p):
    """Not confined by a filter: what keeps it is its namespace."""
    for number in (0, 1, 6, 8, 33, 42, 65534, *p.facts['services'], *p.facts['closed']):
        p.attempt('P24', 'setresuid-%d' % number, lambda: os.setresuid(number, number, number))
        p.attempt('P24', 'setresgid-%d' % number, lambda: os.setresgid(number, number, number))
        p.attempt('P24', 'setgroups-%d' % number, lambda: os.setgroups([number]))
    p.attempt('P24', 'nested', lambda: call('unshare', CLONE_NEWUSER))
    p.attempt('P24', 'gid_map', lambda: os.open('/proc/self/gid_map', os.O_WRONLY))
    p.attempt('P24', 'uid_map', lambda: os.open('/proc/self/uid_map', os.O_WRONLY))
    p.reads('P24', '/etc/shadow', p.home + '/queue/mess/', p.home + '/queue/state/', p.home + '/queue/damaged/')
    p.attempt('P24', 'mount', lambda: call('mount', 0, ctypes.c_char_p(b'/tmp'), ctypes.c_char_p(b'tmpfs'), 0, 0))
    p.attempt('P24', 'network-namespace', lambda: call('unshare', CLONE_NEWNET))


def run_local(p):
    """In a child of the seed that has become a user, and serves him."""
    p.identity('P30')
    p.attempt('P30', 'setresuid-other', lambda: os.setresuid(*[p.facts['other']] * 3))
    p.attempt('P30', 'setgroups-other', lambda: os.setgroups([p.facts['other']]))
    p.attempt('P30', 'setresgid-other', lambda: os.setresgid(*[p.facts['other']] * 3))
    p.queue('P31')
    p.reads('P31', '/etc/shadow', p.home + '/queue/lock', p.facts['other_home'] + '/', p.home + '/control/private')
    p.attempt('P31', 'write-control', lambda: os.open(p.home + '/control/me', os.O_WRONLY))


# --- the swap --------------------------------------------------------------------------------------------------

def swap(name, home, facts, loose=()):
    """Put the probes behind the start-up of the program `name`.  loose: what is widened, for the counter-tests."""
    from qpy.lib import confine
    from qpy.qpyu import pool
    real = confine.confine
    widen(confine, loose)

    def confined(where, program, ports=()):
        answer = [] if 'confine' in loose else real(where, program, ports)
        own = program.decode()
        work = globals().get('run_' + own)
        if work is not None:
            probe = Probe(own, home, facts)
            work(probe)
            if own != 'tls':
                probe.reads('P49', home + '/keys/probe.pem')
            if own != 'auth':
                probe.reads('P49', home + '/users/passwd')
            probe.say('end of %s' % own)
        return answer
    confine.confine = confined
    if name == 'seed':
        swap_seed(home, facts)
    if name == 'smtpd':
        swap_client(home, facts)
    if name == 'lspawn':
        swap_pool(pool, home, facts)


def widen(confine, loose):
    """Counter-tests: leave one thing out."""
    if 'landlock' in loose:
        confine.landlock = lambda *_: None
    if 'seccomp' in loose:
        confine.filtered = lambda *_: None
    if 'memory' in loose:
        confine.no_new_code = lambda *_: None
    if 'namespace' in loose:
        confine.enter_mail_namespace = lambda uids, gids, uid, gid: confine.keep_two_capabilities(uid, gid)
    if loose:
        confine.prove = lambda *_: None


def swap_seed(home, facts):
    """The seed has stepped down when it serves; its child is the user when that serves."""
    from qpy.qpyu import seed
    from qpy.user import local
    serve, serve_user = seed.serve, local.serve

    def served(*arguments):
        probe = Probe('seed', home, facts)
        run_seed(probe)
        probe.say('end of seed')
        return serve(*arguments)

    def served_user(*arguments):
        probe = Probe('local', home, facts)
        run_local(probe)
        probe.say('end of local %d' % os.geteuid())
        return serve_user(*arguments)
    seed.serve, local.serve = served, served_user


def swap_client(home, facts):
    """With the first client's socket in its hands smtpd tries what an old socket is good for."""
    from qpy.qpyd import server
    arrived, seen = server.Server.arrived, []

    def first(self, sock, *more):
        if not seen:
            seen.append(sock)
            probe = Probe('smtpd', home, facts)
            old = socket.socket(fileno=os.dup(sock.fileno()))
            probe.ways_out('P09', old, 'client')
            old.close()
            probe.say('end of client')
            return sock.close()
        return arrived(self, sock, *more)
    server.Server.arrived = first


def swap_pool(pool, home, facts):
    """lspawn, owned, asks the seed for everybody it should not get."""
    wanted = [(0, 0), (0, facts['user']), (facts['user'], 0), (facts['user'], 42), (65534, 65534), (1, 1)]
    wanted += [(number, number) for number in facts['services'] + facts['closed']]
    wanted += [(facts['user'], number) for number in facts['closed']]
    start, born, waiting = pool.Pool.__init__, pool.Pool.born, []

    def begun(self, *arguments):
        start(self, *arguments)
        for ids in wanted:
            ours, his = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            waiting.append((ids, ours))
            self.seed.send(b'U', b'%d' % ids[0], b'%d' % ids[1], fd=his.detach())

    def answered(self, records):
        probe = Probe('lspawn', home, facts)
        while waiting and records:
            (letter, _, _), records = records[0], records[1:]
            ids, ours = waiting.pop(0)
            ours.close()
            probe.say('P24 seed-as-%d-%d: %s' % (*ids, 'EPERM' if letter == b'X' else 'possible'))
            if not waiting:
                probe.say('end of pool')
        if records:
            born(self, records)
    pool.Pool.__init__, pool.Pool.born = begun, answered
