"""qpy-popup, qpy-checkpassword and qpy-pop3d behind a port, as under tcpserver, in a DIR of one user joe."""
import os
import shutil
import socket
import subprocess
import tempfile
import threading

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
        self.write('control/accounts', 'qpyd:nobody\n')
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

    def start(self, *words, stdin, stdout=None, **more):
        """A program of qpy in this DIR, as who runs it."""
        account = {'user': OWNER, 'group': OWNER,
                   'extra_groups': []} if os.geteuid() == 0 and not self.rooted else {}
        process = subprocess.Popen([SOURCE + '/bin/qpy-' + words[0], *words[1:]], stdin=stdin,
                                   stdout=stdout or stdin,
                                   env={'PATH': SOURCE + '/bin:/usr/bin:/bin', 'QPYHOME': self.home,
                                        'TCPREMOTEIP': '192.0.2.7'}, **account, **more)
        self.processes.append(process)
        return process

    def session(self, *words, **more):
        """(process, our end) of a program on a socket."""
        ours, theirs = socket.socketpair()
        ours.settimeout(30)
        process = self.start(*words, stdin=theirs, **more)
        theirs.close()
        return process, ours

    def serve(self, log, program=('qpy-checkpassword', 'qpy-pop3d', 'Maildir')):
        """A port with qpy-popup behind it; log: a file for what it says."""
        self.listening = socket.create_server(('127.0.0.1', 0))

        def accept():
            while True:
                try:
                    client = self.listening.accept()[0]
                except OSError:
                    return
                self.start('popup', 'pop.example', *program, stdin=client, stderr=log)
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
