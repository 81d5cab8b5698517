"""The programs of the chain: started one by one, ended together."""
from qpy import unix, unix_kernel
from qpy.core import exits, manifest, services
from qpy.lib import confine, controls, execute, faults, program
from qpy.root import look

NO_NETWORK = (b'qpyd', b'qpyt', b'qpyq', b'qpys', b'qpyl')   # accounts where a program without a line of the manifest has none
PATH = b'%s/bin:/usr/local/bin:/usr/bin:/bin'
HIGH = 500                  # descriptors are gathered above this number before they get their places
LOGGER = b'logger'          # what qpy-start was told to run behind the log
GRACE = 10.0                # seconds from the end of send to the end of what has not ended by itself
LAST_WORDS = 5.0            # seconds more for the log; somebody may hold a pipe to it who does not answer to us


class Chain:
    """The programs that run: {pid: name}, the life pipe, and the end."""

    __slots__ = ('house', 'loop', 'running', 'life', 'life_read', 'ending', 'listening', 'code', 'network', 'table', 'outside')

    def __init__(self, house, event_loop):
        self.house, self.loop = house, event_loop
        self.running = {}
        self.life_read, self.life = unix.pipe2(unix.O_CLOEXEC)
        self.ending, self.listening, self.code = False, False, exits.TEMP
        self.network, self.table, self.outside = None, (), None

    def start_logger(self, words):
        """Let descriptor 1 be a pipe to this program, if there is one: the log and we write to it."""
        if not words:
            return
        read, write = unix.pipe2(unix.O_CLOEXEC)
        pid = unix.fork()
        if pid == 0:
            unix._exit(program.guarded(lambda: self.become_logger(words, read)))
        self.running[pid] = LOGGER
        unix.dup2(write, 1)
        unix.close(write)
        unix.close(read)

    def become_logger(self, words, read):
        """In the child: the log on descriptor 0, and the account qpyl."""
        unix.dup2(read, 0)
        close_above(2)
        unix.setsid()
        reset_signals()
        if self.house.rootless:
            unix_kernel.no_new_privs()
        else:
            confine.drop(*self.house.of(b'qpyl'))
        path = PATH % self.house.home + b':' + unix.environ.get(b'PATH', b'')       # run scripts add to it
        environment = {b'PATH': path}
        problem = execute.along_path(words, environment)
        if isinstance(problem, FileNotFoundError):          # splogger, as qmail's run scripts call it
            execute.along_path([b'qpy-' + words[0], *words[1:]], environment)
        look.refuse(True, b'unable to run %s: %s' % (words[0], program.reason(problem)))

    def start(self, table, handed, delivery):
        """Start all; if that fails it is said in the log, which runs by then, and watch() ends what was started."""
        try:
            self.start_all(table, handed, delivery)
        except (program.Fatal, OSError) as problem:
            if not self.running:
                raise
            program.complain(b'fatal: ' + (problem.text if isinstance(problem, program.Fatal)
                                           else b'unable to start: ' + program.reason(problem)))
            self.end()

    def start_all(self, table, handed, delivery):
        """Start the log, then every line in order.  Our own lines go into the log from here on."""
        self.table = table
        logs = [(name, unix.pipe2(unix.O_CLOEXEC)) for name in [b'start'] + [service.name for service in table]]
        labels = {service.name: label(service) for service in table}
        self.network = None if self.house.rootless else confine.empty_network()
        given = [(labels.get(name, name), read) for name, (read, _) in logs] + [(b'life', self.life_read)]
        self.spawn(services.LOG, given, None, services.LOG.words)
        for _, (read, write) in logs:
            unix.close(read)
            unix.set_blocking(write, False)
        writers = {name: write for name, (_, write) in logs}
        self.outside = become_log(writers.pop(b'start'))
        if self.network is None and not self.house.rootless:
            program.warn(b'this system allows no network namespace: smtpd, queued, send and log keep the network')
        for service in table:
            given = [(name, sock.fileno()) for name, sock in handed[service.name]] + [(b'life', self.life_read)]
            words = [delivery if word == b'DEFAULTDELIVERY' else word for word in service.words]
            self.spawn(service, given, writers[service.name], words)
        for sockets in handed.values():
            for _, sock in sockets:
                sock.close()
        for fd in (*writers.values(), self.life_read):
            unix.close(fd)

    def spawn(self, service, given, log, words):
        """Start one program with the descriptors of given = [(name, fd)]."""
        path = name_of_qmail(services.path(service, self.house.home))
        pid = unix.fork()
        if pid == 0:
            unix._exit(program.guarded(lambda: self.become(service, given, log, path, words)))
        self.running[pid] = service.name

    def become(self, service, given, log, path, words):
        """In the child: descriptors, signals, network, account, and then the program itself."""
        fds = [unix.duplicate_above(fd, HIGH) for _, fd in given]
        arrange(fds, log)
        unix.setsid()
        reset_signals(service.name)
        environment = {b'PATH': PATH % self.house.home, b'QPYHOME': self.house.home,
                       b'LISTEN_PID': b'%d' % unix.getpid(), b'LISTEN_FDS': b'%d' % len(given),
                       b'LISTEN_FDNAMES': b':'.join(name for name, _ in given), **service.environment}
        if self.network is not None and without_network(service):
            confine.enter_network(self.network)
        close_above(2 + len(given))
        if self.house.rootless:
            unix_kernel.no_new_privs()
        elif service.account != b'root':
            confine.drop(*self.house.of(service.account))
        if service is not services.LOG:
            unix_kernel.end_with_parent(unix.SIGKILL)
        try:
            unix.execve(path, list(words), environment)
        except OSError as problem:
            look.refuse(True, b'unable to run %s: %s%s' % (path, program.reason(problem), unreadable(path, problem)))

    # --- watching ---

    def watch(self):
        """Supervise until the chain has ended; returns the exit code."""
        for number in (unix.SIGTERM, unix.SIGINT):
            self.loop.on_signal(number, self.asked_to_end)
        self.loop.on_signal(unix.SIGHUP, self.edited)
        self.loop.on_signal(unix.SIGALRM, lambda: self.tell_send(unix.SIGALRM))
        self.loop.on_signal(unix.SIGCHLD, self.reap)
        self.loop.call_soon(self.reap)               # who ended before we listened
        self.loop.run()
        return self.code

    def last_words(self):
        """Let the log write what it has; it ends with the last pipe, or soon after the life pipe."""
        if not self.listening:
            self.listening = True
            unix.close(1)                            # who reads it has its end now
            unix.close(2)
            self.loop.after(LAST_WORDS, self.loop.stop)

    def edited(self):
        """HUP: say at once what is wrong with the control files, also with those that are read at a delivery only."""
        try:
            for fault in faults.of_edits(self.house, self.table):
                program.warn(fault.text + (b'; until it is mended, who reads it keeps what it had' if fault.grave else b''))
        except unix.error as problem:
            replaced = controls.replaced(self.house.home + b'/control', problem)
            program.warn(b'unable to look at control: ' + (controls.REPLACED if replaced else program.reason(problem)))
        self.tell_send(unix.SIGHUP)

    def tell_send(self, number):
        """Pass a signal on to send."""
        for pid, name in self.running.items():
            if name == b'send':
                unix.kill(pid, number)

    def asked_to_end(self):
        """TERM or INT: send finishes what is under way and ends, and then all end.  The second time: now.  Once it
        is ending, without waiting: the kernel ends who is left when we are gone."""
        if self.ending:
            return self.loop.stop()
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
        if not self.running:
            self.loop.stop()
        elif set(self.running.values()) <= {services.LOG.name, LOGGER}:
            self.last_words()

    def ended(self, name, status):
        """One program of the chain has ended: say so, unless it was wanted, and end the rest."""
        wanted = self.ending or self.code == exits.OK and name == b'send'
        if name in (services.LOG.name, LOGGER) and self.outside is not None:
            unix.dup2(self.outside, 2, False)           # nobody reads the log any more: as before there was one
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


def label(service):
    """What the log calls a service's pipe: its name, and its program where that is a program of ours by another name."""
    called = service.words[0].rpartition(b'/')[2]
    return b'%s=%s' % (service.name, called) if called[:4] == b'qpy-' and called[4:] != service.name else service.name


def name_of_qmail(path):
    """The path by qmail's name where `qpy-install --qmail-names` has made one: ps, pidof and pkill go by it."""
    directory, _, name = path.rpartition(b'/')
    other = directory + b'/qmail-' + name.removeprefix(b'qpy-')
    all_of_them = unix.access(directory + b'/qmail-send', unix.X_OK)
    return other if all_of_them and name[:4] == b'qpy-' and unix.access(other, unix.X_OK) else path


def without_network(service):
    """Whether a program lives in the empty network namespace: its line of the manifest says so, else its account."""
    row = manifest.of_program(service.words[0])
    return service.account in NO_NETWORK if row is None else row.where == b'empty'


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
    """From here on our own lines go to the log program, which names them; the descriptor that they went to before."""
    outside = unix.duplicate_above(2, HIGH)
    unix.dup2(fd, 2, False)
    unix.close(fd)
    return outside


def reset_signals(name=b''):
    """Undo what Python and our caller have changed: default actions, nothing blocked.  Only HUP and ALRM, which people
    tell send, it ignores until it can hear them: they must not end it while it starts."""
    unix.pthread_sigmask(unix.SIG_SETMASK, [])
    for number in (unix.SIGPIPE, unix.SIGXFSZ, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGALRM, unix.SIGCHLD):
        told = name == b'send' and number in (unix.SIGHUP, unix.SIGALRM)
        unix.signal(number, unix.SIG_IGN if told else unix.SIG_DFL)


def unreadable(path, problem):
    """A remedy where the account cannot reach the program."""
    if problem.errno != unix.EACCES:
        return b''
    for directory in reversed(faults.ways_to(path)):
        if not unix.stat(directory).st_mode & 0o001:
            return b'; %s is closed to this account, chmod o+x it or install elsewhere' % directory
    return b'; can this account execute the interpreter in its first line?'
