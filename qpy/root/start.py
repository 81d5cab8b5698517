"""qpy-start, as root and then qpys: starts the chain of control/services and ends with it.

    arguments     [DEFAULTDELIVERY]; without it control/defaultdelivery, else ./Maildir/
    descriptors   1 the log
    signals       TERM and INT end the chain when send has finished what is under way; HUP and ALRM go to send
    exit          0 after TERM or INT; 111 when anything is wrong or a program of the chain has ended

In a DIR that does not belong to root everything runs under the account of DIR's owner, and that is said.

Order: umask, directory, accounts, controls, lock, limits, sockets, programs, privileges, then the first signal.
"""
from qpy import unix, unix_kernel
from qpy.core import accounts, controls as tables, exits, layout, services
from qpy.lib import confine, controls, loop, program

LOG = services.Service(b'log', b'qpyl', (), {}, (b'qpy-log',), 0)
NO_NETWORK = (b'qpyd', b'qpyq', b'qpys')    # accounts whose programs live in an empty network namespace
PATH = b'%s/bin:/usr/local/bin:/usr/bin:/bin'
BACKLOG = 4096
HIGH = 500                  # descriptors are gathered above this number before they get their places
GRACE = 10.0                # seconds from the end of send to the end of what has not ended by itself
CODE_SUFFIX = b'.py'


class House:
    """What is known of DIR: home, whether rootless, {role: (uid, gid)}."""

    __slots__ = ('home', 'rootless', 'identity')

    def __init__(self, home, rootless, identity):
        self.home, self.rootless, self.identity = home, rootless, identity

    def of(self, role):
        """(uid, gid) of a role; root is root."""
        return self.identity[role]


def main(home, args):
    """The story: look, bind, start, step down, watch."""
    unix.umask(0o077)
    refuse(len(args) > 1, b'usage: qpy-start [DEFAULTDELIVERY]')
    house = look_at(home)
    check_layout(house)
    check_code(house)
    table = read_controls(home)
    delivery = args[0] if args else controls.text(home, b'defaultdelivery')
    lock = only_one(home)
    unix.raise_descriptor_limit()
    unix.chdir(home + b'/run')
    handed = bind_all(house, table)
    unix.chdir(b'/')
    chain = Chain(house, loop.Loop())
    chain.start(table, handed, delivery)
    step_down(house)
    code = chain.watch()
    unix.close(lock)
    return code


def refuse(wrong, text):
    """End with 111 and this line if something is wrong."""
    if wrong:
        raise program.Fatal(exits.TEMP, text)


# --- looking -------------------------------------------------------------------------------------------------

def look_at(home):
    """The House at home, with its accounts; becomes DIR's owner if that is not root."""
    refuse(home[:1] != b'/', b'the directory must be given with its full path: ' + home)
    try:
        there = unix.stat(home)
    except OSError as problem:
        raise program.Fatal(exits.TEMP, b'unable to start in %s: %s; run qpy-install %s'
                            % (home, program.reason(problem), home)) from None
    if there.st_uid == 0:
        refuse(unix.geteuid() != 0, b'%s belongs to root: start it as root, or use a directory of your own' % home)
        return House(home, False, look_up_accounts(home))
    become_owner(home, there)
    me = (unix.geteuid(), unix.getegid())
    return House(home, True, {role: me for role in accounts.ROLES + (b'root',)})


def become_owner(home, there):
    """In a rootless DIR: be its owner, and say so."""
    if unix.geteuid() == 0:
        unix.setgroups([])
        unix.setresgid(there.st_gid, there.st_gid, there.st_gid)
        unix.setresuid(there.st_uid, there.st_uid, there.st_uid)
    refuse(unix.geteuid() != there.st_uid, b'%s belongs to uid %d and you are uid %d'
           % (home, there.st_uid, unix.geteuid()))
    program.complain(b'rootless: everything runs under uid %d, mail for other users waits' % there.st_uid)


def look_up_accounts(home):
    """{role: (uid, gid)} with root."""
    try:
        names = accounts.names(controls.listing(home, b'accounts') or [])
    except ValueError as problem:
        raise program.Fatal(exits.TEMP, b'unable to use control/accounts: line "%s": write role:name, one of the roles '
                            % problem.args[0] + b' '.join(accounts.ROLES)) from None
    found = {b'root': (0, 0)}
    for role, group, _ in accounts.TABLE:
        try:
            found[role] = (unix.getpwnam(names[role])[1], unix.getgrnam(names[group]))
        except KeyError:
            raise program.Fatal(exits.TEMP, b'the account or group %s is missing; run qpy-install %s'
                                % (names[role], home)) from None
        refuse(found[role][0] == 0, b'the account %s has uid 0; give it another' % names[role])
    return found


def check_layout(house):
    """Refuse directories with another owner or mode than the table's."""
    for name, owner, group, mode in layout.rows(house.rootless):
        path = house.home + b'/' + name if name else house.home
        try:
            there = unix.stat(path)
        except FileNotFoundError:
            refuse(name in layout.NEEDED_TO_RUN, layout.complaint(path, (0, 0, mode), None))
            continue
        gid = None if house.rootless else house.of(group)[1]
        wrong = layout.complaint(path, (house.of(owner)[0], gid, mode), (there.st_uid, there.st_gid, there.st_mode))
        refuse(wrong and name in layout.NEEDED_TO_RUN, b'unable to start: ' + wrong)
        if wrong:
            program.warn(wrong)


def check_code(house):
    """Refuse code and controls that others can change: they would be us."""
    safe = {0, house.of(b'root')[0]}
    code = unix.fsencode(__file__).rsplit(b'/', 2)[0]
    for top in (code, house.home + b'/control', house.home + b'/bin'):
        for path in ways_to(top):
            check_unwritable(path, safe)
    for path in files_below(code):
        check_unwritable(path, safe)


def ways_to(path):
    """path and every directory above it."""
    while path and path != b'/':
        yield path
        path = path.rpartition(b'/')[0]


def files_below(directory):
    """Every directory and module below the package's directory."""
    for name in unix.listdir(directory):
        path = directory + b'/' + name
        if unix.S_ISDIR(unix.stat(path).st_mode):
            yield path
            yield from files_below(path)
        elif name.endswith(CODE_SUFFIX):
            yield path


def check_unwritable(path, safe):
    """Refuse a path that an account other than root (and DIR's owner, rootless) can write to."""
    there = unix.stat(path)
    refuse(there.st_uid not in safe, b'unable to start: %s belongs to uid %d, who could change what runs here; '
           b'chown it to root' % (path, there.st_uid))
    sticky = there.st_mode & 0o1000 and unix.S_ISDIR(there.st_mode)
    refuse(there.st_mode & 0o022 and not sticky, b'unable to start: %s has mode %04o, others could change what runs '
           b'here; chmod go-w %s' % (path, there.st_mode & 0o7777, path))


READ = {tables.LINE: controls.line, tables.NUMBER: controls.number, tables.LIST: controls.listing,
        tables.MAP: controls.mapping, tables.TEXT: controls.text}


def read_controls(home):
    """[Service] after every control file has been read once; the broken one is named."""
    controls.check_directory(home)
    for name, kind, _, _, _ in tables.TABLE:
        if kind in READ:
            READ[kind](home, name)
    try:
        return services.table(controls.raw(home, services.FILE))
    except tables.ControlError as wrong:
        raise program.Fatal(exits.TEMP, b'unable to use ' + wrong.text) from None


# --- binding -------------------------------------------------------------------------------------------------

def bind_all(house, table):
    """{service name: [(name, socket)]}, everything bound and listening.  The current directory is DIR/run."""
    remove_stale()
    pairs, handed = {}, {}
    for service in table:
        handed[service.name] = [(listen.name, bind(house, service, listen, pairs)) for listen in service.listens]
    return handed


def only_one(home):
    """A descriptor that holds the lock of this DIR; refuses if another chain has it."""
    fd = unix.open(home + b'/queue/lock', unix.O_WRONLY | unix.O_CREAT | unix.O_CLOEXEC, 0o600)
    try:
        unix.flock(fd, unix.LOCK_EX | unix.LOCK_NB)
    except BlockingIOError:
        raise program.Fatal(exits.TEMP, b'unable to start: another qpy-start runs in ' + home) from None
    return fd


def remove_stale():
    """Remove sockets of an earlier run, also of lines that are no more.  Nobody listens: we hold the lock."""
    for name in unix.listdir(b'.'):
        if unix.S_ISSOCK(unix.lstat(name).st_mode):
            unix.unlink(name)


def bind(house, service, listen, pairs):
    """The socket of one Listen."""
    if listen.kind == b'pair':
        if listen.name in pairs:
            return pairs.pop(listen.name)
        mine, pairs[listen.name] = unix.socketpair()
        return mine
    try:
        sock = bind_tcp(listen) if listen.kind == b'tcp' else bind_file(house, listen)
        sock.listen(BACKLOG)
        return sock
    except OSError as problem:
        where = b'%s port %d' % (listen.address, listen.port) if listen.kind == b'tcp' else b'run/' + listen.name
        raise program.Fatal(exits.TEMP, b'unable to listen on %s for %s: %s%s' % (
            where, service.name, program.reason(problem), hint(problem, listen))) from None


def hint(problem, listen):
    """The remedy for a socket that could not be bound, if one is known."""
    if problem.errno == unix.EACCES and listen.kind == b'tcp':
        return b'; ports below 1024 need root'
    if problem.errno == unix.EADDRINUSE:
        return b'; another program has it'
    return b''


def bind_tcp(listen):
    """A TCP socket bound as asked."""
    six = b':' in listen.address
    sock = unix.socket(unix.AF_INET6 if six else unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC)
    sock.setsockopt(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
    if six:
        sock.setsockopt(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
    sock.setblocking(False)
    sock.bind((listen.address.decode('ascii'), listen.port))
    return sock


def bind_file(house, listen):
    """A socket in the current directory with its owner and mode."""
    sock = unix.socket_unix(unix.SOCK_STREAM if listen.kind == b'unix' else unix.SOCK_SEQPACKET)
    sock.bind(listen.name)
    if not house.rootless:
        unix.chown(listen.name, house.of(listen.owner)[0], house.of(listen.group)[1])
    unix.chmod(listen.name, 0o600 if house.rootless else listen.mode)
    return sock


# --- starting ------------------------------------------------------------------------------------------------

class Chain:
    """The programs that run: {pid: name}, the life pipe, and the end."""

    __slots__ = ('house', 'loop', 'running', 'life', 'life_read', 'ending', 'code', 'network')

    def __init__(self, house, event_loop):
        self.house, self.loop = house, event_loop
        self.running = {}
        self.life_read, self.life = unix.pipe2(unix.O_CLOEXEC)
        self.ending, self.code = False, exits.TEMP
        self.network = None

    def start(self, table, handed, delivery):
        """Start the log, then every line in order.  Our own lines go into the log from here on."""
        logs = [(name, unix.pipe2(unix.O_CLOEXEC)) for name in [b'start'] + [service.name for service in table]]
        self.spawn(LOG, [(name, read) for name, (read, _) in logs], None, LOG.words)
        for _, (read, write) in logs:
            unix.close(read)
            unix.set_blocking(write, False)
        writers = {name: write for name, (_, write) in logs}
        become_log(writers.pop(b'start'))
        self.network = self.empty_network()
        for service in table:
            given = [(name, sock.fileno()) for name, sock in handed[service.name]] + [(b'life', self.life_read)]
            words = [delivery if word == b'DEFAULTDELIVERY' else word for word in service.words]
            self.spawn(service, given, writers[service.name], words)
        for sockets in handed.values():
            for _, sock in sockets:
                sock.close()
        for fd in (*writers.values(), self.life_read):
            unix.close(fd)

    def empty_network(self):
        """A descriptor of the network where nothing is, or None, which is said once."""
        if self.house.rootless:
            return None
        fd = confine.empty_network()
        if fd is None:
            program.warn(b'this system allows no network namespace: smtpd, queued and send keep the network')
        return fd

    def spawn(self, service, given, log, words):
        """Start one program with the descriptors of given = [(name, fd)]."""
        path = words[0] if words[0][:1] == b'/' else self.house.home + b'/bin/' + words[0]
        refuse(not unix.access(path, unix.X_OK), b'unable to start %s: %s is missing or cannot be executed'
               % (service.name, path))
        pid = unix.fork()
        if pid == 0:
            unix._exit(program.guarded(lambda: self.become(service, given, log, path, words)))
        self.running[pid] = service.name

    def become(self, service, given, log, path, words):
        """In the child: descriptors, signals, network, account, and then the program itself."""
        fds = [unix.duplicate_above(fd, HIGH) for _, fd in given]
        arrange(fds, log)
        unix.setsid()
        reset_signals()
        environment = {b'PATH': PATH % self.house.home, b'QPYHOME': self.house.home,
                       b'LISTEN_PID': b'%d' % unix.getpid(), b'LISTEN_FDS': b'%d' % len(given),
                       b'LISTEN_FDNAMES': b':'.join(name for name, _ in given), **service.environment}
        if self.network is not None and service.account in NO_NETWORK:
            confine.enter_network(self.network)
        close_above(2 + len(given))
        if self.house.rootless:
            unix_kernel.no_new_privs()
        elif service.account != b'root':
            confine.drop(*self.house.of(service.account))
        if service is not LOG:
            unix_kernel.end_with_parent(unix.SIGKILL)
        try:
            unix.execve(path, list(words), environment)
        except OSError as problem:
            refuse(True, b'unable to run %s: %s%s' % (path, program.reason(problem), unreadable(path, problem)))

    # --- watching ---

    def watch(self):
        """Supervise until the chain has ended; returns the exit code."""
        for number in (unix.SIGTERM, unix.SIGINT):
            self.loop.on_signal(number, self.asked_to_end)
        for number in (unix.SIGHUP, unix.SIGALRM):
            self.loop.on_signal(number, lambda number=number: self.tell_send(number))
        self.loop.on_signal(unix.SIGCHLD, self.reap)
        self.loop.call_soon(self.reap)               # who ended before we listened
        self.loop.run()
        self.last_words()
        return self.code

    def last_words(self):
        """Let the log write what it has; it ends with the last pipe.  If something is left, the kernel ends that."""
        if list(self.running.values()) == [LOG.name]:
            unix.close(2)
            unix.waitpid(*self.running, 0)

    def tell_send(self, number):
        """Pass a signal on to send."""
        for pid, name in self.running.items():
            if name == b'send':
                unix.kill(pid, number)

    def asked_to_end(self):
        """TERM or INT: send finishes what is under way and ends, and then all end.  The second time: now."""
        if self.code == exits.OK or b'send' not in self.running.values():
            return self.end()
        self.code = exits.OK
        self.tell_send(unix.SIGTERM)

    def reap(self):
        """Collect who has ended; the first one ends all.  Of several, who was killed is named first: the others may
        have followed it."""
        gone = []
        while True:
            try:
                pid, status = unix.waitpid(-1, unix.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if pid in self.running:
                gone.append((unix.waitstatus_to_exitcode(status), self.running.pop(pid)))
        for status, name in sorted(gone):
            self.ended(name, status)
        if not set(self.running.values()) - {LOG.name}:
            self.loop.stop()

    def ended(self, name, status):
        """One program of the chain has ended: say so, unless it was wanted, and end the rest."""
        wanted = self.ending or self.code == exits.OK and name == b'send'
        if status < 0 or status and not self.ending or not wanted:
            how = b'by signal %d' % -status if status < 0 else b'with exit code %d' % status
            program.complain(b'%s has ended %s%s' % (name, how, b'' if self.ending else b'; ending the chain'))
            self.code = exits.TEMP
        self.end()

    def end(self):
        """Close the life pipe; who is not gone after GRACE is killed by the kernel when we are gone."""
        if self.ending:
            return
        self.ending = True
        unix.close(self.life)
        self.loop.after(GRACE, self.loop.stop)


def arrange(fds, log):
    """In the child: 0 is /dev/null, 1 and 2 the log (ours if None), the others from 3 on in their order."""
    if log is not None:
        unix.dup2(log, 1)
        unix.dup2(log, 2)
    null = unix.open(b'/dev/null', unix.O_RDWR | unix.O_CLOEXEC)
    unix.dup2(null, 0)
    for place, fd in enumerate(fds, 3):
        unix.dup2(fd, place)


def close_above(last):
    """Close every descriptor above last: what was inherited from whoever started us, too."""
    for name in unix.listdir(b'/proc/self/fd'):
        if int(name) > last:
            unix.close_quietly(int(name))


def become_log(fd):
    """From here on our own lines go to the log program, which names them."""
    unix.dup2(fd, 2, False)
    unix.close(fd)


def reset_signals():
    """Undo what Python and our caller have changed: default actions, nothing blocked."""
    unix.pthread_sigmask(unix.SIG_SETMASK, [])
    for number in (unix.SIGPIPE, unix.SIGXFSZ, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGALRM, unix.SIGCHLD):
        unix.signal(number, unix.SIG_DFL)


def unreadable(path, problem):
    """A remedy where the account cannot reach the program."""
    if problem.errno != unix.EACCES:
        return b''
    for directory in reversed(list(ways_to(path))):
        if not unix.stat(directory).st_mode & 0o001:
            return b'; %s is closed to this account, chmod o+x it or install elsewhere' % directory
    return b'; can this account execute the interpreter in its first line?'


def step_down(house):
    """Be qpys from now on: everything that needed root is done."""
    if house.rootless:
        unix_kernel.no_new_privs()
    else:
        confine.drop(*house.of(b'qpys'))
