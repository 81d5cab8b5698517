"""Daemons of qpyr under test: started as qpy-start does, on SOCK_SEQPACKET sockets in DIR/run."""
import os
import subprocess

from qpy import unix
from qpy.core import channel
from qpy.lib import packets
from qpy.lib.loop import Loop
from tests.peers import handing

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHELL = 'LISTEN_PID=$$ exec "$@"'       # the variable must name the process itself


class Daemon:
    """bin/qpy-NAME on DIR/run/NAME, and the pipe that ends it."""

    def __init__(self, home, name, *args, **environment):
        self.path = os.fsencode(home) + b'/run/' + name.encode()
        listening = unix.socket_unix(unix.SOCK_SEQPACKET, blocking=True)
        listening.bind(self.path)
        listening.listen(5)
        life, self.alive = os.pipe()

        self.process = subprocess.Popen(
            ['sh', '-c', SHELL, 'sh', os.path.join(SOURCE, 'bin', 'qpy-' + name), *args], close_fds=False,
            preexec_fn=lambda: handing.place([listening.fileno(), life]), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            env={'QPYHOME': str(home), 'PATH': '/usr/bin:/bin', 'LISTEN_FDS': '2', 'LISTEN_FDNAMES': name + ':life',
                 **environment})
        os.close(life)
        listening.close()

    def connect(self):
        """A connection to it."""
        sock = unix.socket_unix(unix.SOCK_SEQPACKET, blocking=True)
        sock.connect(self.path)
        sock.setblocking(False)
        return sock

    def end(self):
        """Close the life pipe; (exit code, log)."""
        os.close(self.alive)
        log = self.process.communicate(timeout=20)[1]
        return self.process.returncode, log


class Rspawn(Daemon):
    """A running qpy-rspawn and a client of it, as qpy-send is one."""

    def __init__(self, home, *args, **environment):
        super().__init__(home, 'rspawn', *args, **environment)
        self.loop = Loop()
        self.results, self.capacity, self.closed = {}, None, False
        self.channel = packets.Channel(self.loop, self.connect(), channel.RSPAWN_REPORT, self.records, self.gone)

    def records(self, records):
        for letter, fields, _ in records:
            if letter == b'C':
                self.capacity = int(fields[0])
            else:
                self.results[int(fields[0])] = letter, fields[1], fields[2]

    def gone(self, _):
        self.closed = True

    def send(self, number, host=b'x.example', recipients=None, message=b'Subject: x\n\nhi\n', tail=b'envelope', flags=b'',
             sender=b's@y.example'):
        recipients = recipients or [b'r@' + host]
        lines = b'\n'.join(b'%d %s' % (number + i, recipient) for i, recipient in enumerate(recipients))
        self.channel.send(b'R', b'1234567890123456', host, sender, flags, b'%d' % len(message), lines,
                          fd=unix.memfd(message + tail))

    def wait(self, done, seconds=20):
        until = unix.monotonic() + seconds
        while not done() and unix.monotonic() < until:
            self.loop.step(0.2)
        assert done()

    def workers(self):
        path = '/proc/%d/task/%d/children' % (self.process.pid, self.process.pid)
        with open(path) as file:
            return [int(word) for word in file.read().split()]

    def end(self):
        """Close the life pipe; (exit code, log)."""
        self.channel.close()
        return super().end()
