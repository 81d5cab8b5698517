"""qpy itself, installed as its README says into a directory of a test, and running."""
import os
import random
import shutil
import signal
import socket
import subprocess
import time

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WORDS = {'success': 'K', 'deferral': 'Z', 'failure': 'D'}
TICK = os.sysconf('SC_CLK_TCK')


def free_port():
    """A TCP port that nobody has now, and that the kernel gives to nobody by itself."""
    while True:
        port = random.randrange(20000, 32000)
        try:
            socket.create_server(('0.0.0.0', port)).close()
            return port
        except OSError:
            pass


def wait_for_port(port, patience=20, alive=lambda: True, greeting=b''):
    """Until something accepts on 127.0.0.1:port, and says `greeting` if it is one that speaks first."""
    give_up = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection(('127.0.0.1', port), 1) as sock:
                if not greeting or sock.recv(1000).startswith(greeting):
                    return
            raise ConnectionError('no greeting')
        except OSError:
            if time.monotonic() > give_up or not alive():
                raise
            time.sleep(0.02)         # back-off between attempts


class Qpy:
    """A rooted installation in `home` that serves SMTP on 127.0.0.1:port; its accounts are the machine's.

    users: (name, uid, gid, home) for users/assign; routes: lines of control/smtproutes; queue: where queue/
    lives; host: the tests.peers.net.Host it runs on, where the users have accounts too; controls: {control
    file: text}; through: words of a program that runs qpy-start.
    """

    def __init__(self, home, port, users=(), routes=(), queue=None, options=(), me='qpy.test', host=None,
                 controls=None, through=()):
        self.home, self.port, self.host, self.through = home, port, host, through
        self.process = None
        if queue:
            os.makedirs(queue, exist_ok=True)
            os.makedirs(home, exist_ok=True)
            os.symlink(queue, os.path.join(home, 'queue'))
        self.command('/usr/bin/python3', '-IS', os.path.join(SOURCE, 'bin/qpy-install'), home, '--smtp',
                     str(port),
                     '--me', me, *options)
        self.write('users/assign',
                   ''.join('=%s:%s:%d:%d:%s:::\n+%s-:%s:%d:%d:%s:-::\n' % (2 * (user[0], *user))
                                           for user in users) + '.\n')
        self.command(home + '/bin/qpy-newu')
        if host:
            host.accounts([(name, uid, home) for name, uid, _, home in users], self.home)
        self.write('control/smtproutes', ''.join(route + '\n' for route in routes))
        for name, text in (controls or {}).items():
            self.write('control/' + name, text)
        self.start()

    def write(self, name, text):
        """Write a file of DIR."""
        with open(os.path.join(self.home, name), 'w') as file:
            file.write(text)

    def command(self, *words, **more):
        """Run a command to its success."""
        done = subprocess.run(words, capture_output=True, text=True, **more)
        if done.returncode:
            raise RuntimeError('%s: exit %d\n%s%s'
                               % (' '.join(words), done.returncode, done.stdout, done.stderr))
        return done.stdout

    def start(self):
        """Start the chain and wait until it accepts."""
        self.log_file = open(os.path.join(self.home, 'test.log'), 'ab')
        prefix = self.host.prefix if self.host else []
        self.process = subprocess.Popen([*prefix, *self.through, self.home + '/bin/qpy-start'], stdin=subprocess.DEVNULL,
                                        stdout=self.log_file, stderr=self.log_file, start_new_session=True)

        def wait():
            wait_for_port(self.port, alive=lambda: self.process.poll() is None, greeting=b'220')
        try:
            self.host.call(wait) if self.host else wait()
        except OSError:
            said = self.log()
            self.stop()
            raise RuntimeError('qpy did not start: ' + said) from None

    def log(self):
        """What the chain has said."""
        with open(os.path.join(self.home, 'test.log'), errors='replace') as file:
            return file.read()

    def outcomes(self):
        """{recipient: [(K, Z or D, text)]} of the deliveries that are over, in their order, from the log."""
        found, under_way = {}, {}
        for line in self.log().splitlines():
            words = line.split(' ')
            if words[:2] == ['starting', 'delivery']:
                under_way[words[2]] = words[7]
            elif words[0] == 'delivery' and words[2].rstrip(':') in WORDS:
                found.setdefault(under_way[words[1]], []).append((WORDS[words[2].rstrip(':')], words[-1]))
        return found

    def waiting(self):
        """IDs of the messages in the queue."""
        return os.listdir(self.home + '/queue/mess')

    def pids(self):
        """[(pid, program)] of the chain."""
        found, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop()
            try:
                with open('/proc/%d/cmdline' % pid, 'rb') as file:
                    words = file.read().split(b'\0')
                with open('/proc/%d/task/%d/children' % (pid, pid)) as file:
                    waiting += [int(word) for word in file.read().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.append((pid, next((os.path.basename(w).decode() for w in words if b'/qpy-' in w), '?')))
        return found

    def cpu(self):
        """{program: CPU seconds so far, its processes together}."""
        spent = {}
        for pid, name in self.pids():
            try:
                with open('/proc/%d/stat' % pid) as file:
                    fields = file.read().rpartition(')')[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            spent[name] = spent.get(name, 0) + sum(int(fields[i]) for i in (11, 12)) / TICK
        return spent

    def stop(self, remove=True):
        """End the chain; remove the installation."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.log_file.close()
        if remove:
            shutil.rmtree(self.home, ignore_errors=True)
