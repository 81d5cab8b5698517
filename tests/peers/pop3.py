"""qpy-popup, qpy-checkpassword and qpy-pop3d behind a port, as under tcpserver, in a DIR of one user joe."""
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from qpy.core import assign, passwords
from qpy.lib import cdb

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OWNER = 61235
PASSWORD = b'secret word'


class House:
    """A DIR with joe, his Maildir and his password. rooted: popup is started as root and the programs change
    accounts."""

    def __init__(self, rooted=False):
        self.rooted, self.top = rooted, tempfile.mkdtemp(prefix='qpy-pop3-')
        os.chmod(self.top, 0o755)
        self.home, self.uid = self.top + '/dir', OWNER if os.geteuid() == 0 else os.getuid()
        for name in ('', '/control', '/users', '/alias', '/joe', '/joe/Maildir', '/joe/Maildir/new',
                     '/joe/Maildir/cur',
                     '/joe/Maildir/tmp'):
            os.mkdir(self.home + name, 0o755)
        self.write('control/me', 'pop.example\n')
        self.write('control/accounts', 'qpyd:nobody\nqpyt:daemon\n')
        line = b'=joe:joe:%d:%d:%s:::\n.\n' % (self.uid, self.uid, os.fsencode(self.home + '/joe'))
        cdb.replace(os.fsencode(self.home + '/users/cdb'), assign.build(line)[0])
        self.password(b'joe', PASSWORD)
        self.processes, self.listening = [], None
        self.own()

    def own(self):
        """Give the files to who runs the programs."""
        if os.geteuid() == 0:
            for directory, _, files in os.walk(self.home + '/joe' if self.rooted else self.home):
                for name in ['', *files]:
                    os.chown(os.path.join(directory, name), OWNER, OWNER)

    def write(self, name, text):
        with open(os.path.join(self.home, name), 'w') as file:
            file.write(text)

    def password(self, name, password):
        """users/passwd with this one entry."""
        path = self.home + '/users/passwd'
        with open(path, 'wb') as file:
            file.write(passwords.entry(name, password, os.urandom(16)) + b'\n')
        os.chmod(path, 0o600)

    def mail(self, name, text, age=100):
        """A message of the Maildir."""
        path = self.home + '/joe/Maildir/' + name
        with open(path, 'wb') as file:
            file.write(text)
        then = os.stat(path).st_mtime - age
        os.utime(path, (then, then))
        self.own()

    def names(self, part):
        return sorted(os.listdir(self.home + '/joe/Maildir/' + part))

    def start(self, *words, stdin, stdout=None, env=None, **more):
        """A program of qpy in this DIR, as who runs it."""
        account = {'user': OWNER, 'group': OWNER,
                   'extra_groups': []} if os.geteuid() == 0 and not self.rooted else {}
        process = subprocess.Popen([SOURCE + '/bin/qpy-' + words[0], *words[1:]], stdin=stdin,
                                   stdout=stdout or stdin,
                                   env={'PATH': SOURCE + '/bin:/usr/bin:/bin', 'QPYHOME': self.home,
                                        'TCPREMOTEIP': '192.0.2.7', **(env or {})}, **account, **more)
        self.processes.append(process)
        return process

    def tls(self, certificate, key, name='default.pem'):
        """A qpy-tls beside them, with this certificate in a file of this name."""
        for directory in ('/run', '/keys'):
            os.mkdir(self.home + directory, 0o755 if directory == '/run' else 0o750)
        with open(self.home + '/keys/' + name, 'wb') as out:
            for path in (key, certificate):
                with open(path, 'rb') as file:
                    out.write(file.read())
        os.chmod(self.home + '/keys/' + name, 0o600)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.home + '/run/tls')
        self.own()
        code = ('import os, sys\nos.environ["LISTEN_PID"] = str(os.getpid())\n'
                'os.dup2(int(sys.argv[1]), 3)\nos.execv(sys.argv[2], sys.argv[2:])')
        os.chmod(self.home + '/run/tls', 0o666)
        account = {'user': OWNER, 'group': OWNER, 'extra_groups': []} if os.geteuid() == 0 else {}
        if self.rooted:
            account = {'user': 'daemon', 'group': 'daemon', 'extra_groups': []}
            for path in ('/keys', '/keys/' + name):
                shutil.chown(self.home + path, 'root', 'daemon')
                os.chmod(self.home + path, 0o750 if path == '/keys' else 0o640)
        self.processes.append(subprocess.Popen(
            ['/usr/bin/python3', '-IS', '-c', code, str(listening.fileno()), SOURCE + '/bin/qpy-tls', '1'],
            pass_fds=[listening.fileno()], env={'QPYHOME': self.home, 'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'tls'}, **account))
        while True:                     # it listens by its own call, so that we see who it is
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(self.home + '/run/tls')
                    break
                except ConnectionRefusedError:
                    assert self.processes[-1].poll() is None
                    time.sleep(0.01)    # back-off between attempts
        listening.close()

    def session(self, *words, **more):
        """(process, our end) of a program on a socket."""
        ours, theirs = socket.socketpair()
        ours.settimeout(30)
        process = self.start(*words, stdin=theirs, **more)
        theirs.close()
        return process, ours

    def serve(self, log, program=('qpy-checkpassword', 'qpy-pop3d', 'Maildir'), **env):
        """A port with qpy-popup behind it; log: a file for what it says."""
        self.listening = socket.create_server(('127.0.0.1', 0))

        def accept():
            while True:
                try:
                    client = self.listening.accept()[0]
                except OSError:
                    return
                self.start('popup', 'pop.example', *program, stdin=client, stderr=log, env=env)
                client.close()
        threading.Thread(target=accept, daemon=True).start()
        return self.listening.getsockname()[1]

    def stop(self):
        if self.listening:
            self.listening.shutdown(socket.SHUT_RDWR)
            self.listening.close()
        for process in self.processes:
            process.kill() if process.poll() is None else None
            process.wait()
        shutil.rmtree(self.top)
