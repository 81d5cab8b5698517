"""qpy-smtpd as a real process, one shot or warm, with stand-ins for qpy-queued and qpy-users."""
import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading

from qpy.core import channel, mess, submit
from tests.peers.queued import wait_until  # noqa: F401 (also of this rig)

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PYTHON = ['/usr/bin/python3', '-IS']
PATIENCE = 20


def ready(sock, seconds):
    """Whether there is something to read, waiting so long; select would refuse high descriptors."""
    asked = select.poll()
    asked.register(sock, select.POLLIN)
    return bool(asked.poll(seconds * 1000))


class FakeQueued:
    """Answers on run/submit. messages: [(bytes, Envelope)]; answer: None, (code, sentence), or 'die'; hold:
    do not read."""

    def __init__(self, home):
        self.messages, self.answer, self.arrived = [], None, threading.Condition()
        self.hold, self.connections, self.abandoned = threading.Event(), [], 0
        self.hold.set()
        self.socket = socket.socket(socket.AF_UNIX)
        self.path = os.path.join(home, 'run/submit')
        self.socket.bind(self.path)
        self.socket.listen(100)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        receiver, body = submit.Receiver(), []
        while True:
            self.hold.wait()
            try:
                data = connection.recv(65536)
                if not data:
                    return
                for event in receiver.feed(data):
                    self.event(connection, body, *event)
            except OSError:
                return

    def event(self, connection, body, kind, value):
        if kind == submit.BODY:
            return body.append(value)
        if kind == submit.ABANDONED:
            self.abandoned += 1
        elif kind == submit.MESSAGE:
            self.take(connection, b''.join(body), value)
        body.clear()

    def take(self, connection, body, records):
        with self.arrived:
            if self.answer == 'die':
                self.stop()
            elif self.answer:
                connection.sendall(submit.refusal(*self.answer))
            else:
                self.messages.append((body, mess.parse(records)))
                connection.sendall(submit.accepted(mess.make_id(1764000000000000 + len(self.messages))))
            self.arrived.notify_all()

    def wait(self, count=1):
        """Until `count` messages are there."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.messages) >= count, PATIENCE)
        return self.messages

    def stop(self):
        for each in [self.socket, *self.connections]:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()
        if os.path.exists(self.path):
            os.unlink(self.path)


class FakeUsers:
    """Answers on run/users: by the local part no, temp, unknown, silent, else yes. asked: addresses.  owners: {local part:
    (user, dash, ext)}, for who asks whose it is."""

    def __init__(self, home):
        self.asked, self.owners = [], {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(os.path.join(home, 'run/users'))
        self.socket.listen(100)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            while packet := connection.recv(65536):
                for letter, (number, subject) in channel.unpack(packet, channel.USERS_ASK):
                    (self.answer if letter == b'Q' else self.owner)(connection, number, subject)
        except OSError:
            pass

    def owner(self, connection, number, local):
        user, dash, ext = self.owners.get(local, (b'', b'', b''))
        connection.send(channel.pack(b'w', number, b'yes' if user else b'temp', user, b'', b'', b'', dash, ext, b''))

    def answer(self, connection, number, address):
        self.asked.append(address)
        word = address.partition(b'@')[0]
        if word != b'silent':
            verdict = word if word in (b'no', b'temp', b'unknown') else b'yes'
            connection.send(channel.pack(b'q', number, verdict, b'because'))


class Rig:
    """A DIR with control files and the stand-ins. control: {name: text}."""

    def __init__(self, queue=True, users=True, **control):
        self.home = tempfile.mkdtemp(prefix='qpy-smtpd-')
        for name in ('control', 'run', 'queue/mess'):
            os.makedirs(os.path.join(self.home, name))
        if os.geteuid() == 0:       # a DIR that belongs to a plain user is rootless: no accounts are needed
            for name in ('', 'control', 'run', 'queue', 'queue/mess'):
                os.chown(os.path.join(self.home, name), 1234, 1234)
        control.setdefault('me', 'mx.example.com\n')
        for name, text in control.items():
            self.write(name.replace('_', '.'), text)
        self.queued = FakeQueued(self.home) if queue else None
        self.users = FakeUsers(self.home) if users else None
        self.processes, self.log_file = [], open(os.path.join(self.home, 'log'), 'ab')

    def write(self, name, text):
        """Write a control file as an editor does: a new file takes the place of the old one."""
        path = os.path.join(self.home, 'control', name)
        with open(path + '.new', 'w') as file:
            file.write(text)
        os.rename(path + '.new', path)

    def log(self):
        """What smtpd has said."""
        with open(os.path.join(self.home, 'log'), errors='replace') as file:
            return file.read()

    def environment(self, env):
        return {'QPYHOME': self.home, 'PATH': '/usr/bin:/bin', **env}

    def one_shot(self, **env):
        """A client socket whose other end is qpy-smtpd's descriptors 0 and 1."""
        ours, theirs = socket.socketpair()
        self.processes.append(subprocess.Popen(
            PYTHON + [SOURCE + '/bin/qpy-smtpd'], stdin=theirs, stdout=theirs, stderr=self.log_file,
            env=self.environment(env)))
        theirs.close()
        return Client(ours)

    def warm(self, workers=2, **env):
        """Start a warm server on 127.0.0.1; connect() then gives clients."""
        self.listening = socket.create_server(('127.0.0.1', 0), backlog=500)
        self.address = self.listening.getsockname()
        script = ('exec 3<&%d; export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=smtpd:life; exec "$@"'
                  % self.listening.fileno())
        life_read, self.life = os.pipe()
        script = 'exec 4<&%d; ' % life_read + script if life_read != 4 else script
        self.server = subprocess.Popen(
            ['/bin/bash', '-c', script, 'sh', *PYTHON, SOURCE + '/bin/qpy-smtpd', str(workers)],
            stdin=subprocess.DEVNULL, stdout=self.log_file, stderr=self.log_file, env=self.environment(env),
            pass_fds=(self.listening.fileno(), life_read))
        os.close(life_read)
        self.processes.append(self.server)
        return self

    def connect(self, source=None):
        """A new client of the warm server."""
        return Client(socket.create_connection(self.address, PATIENCE, source_address=source))

    def stop(self):
        """End everything."""
        for process in self.processes:
            process.kill() if process.poll() is None and not hasattr(self, 'life') else None
        if hasattr(self, 'life'):
            os.close(self.life)
            self.listening.close()
        for process in self.processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.queued:
            self.queued.stop()
        if self.users:
            self.users.socket.close()
        self.log_file.close()
        shutil.rmtree(self.home, ignore_errors=True)


class Client:
    """One end of a conversation."""

    def __init__(self, sock):
        self.sock, self.buffer = sock, b''
        sock.settimeout(PATIENCE)

    def send(self, data):
        self.sock.sendall(data)
        return self

    def line(self):
        """The next line of reply without its end; b'' if the server has closed."""
        while b'\r\n' not in self.buffer:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b''
            if not data:
                assert not self.buffer, self.buffer
                return b''
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b'\r\n')
        return line

    def reply(self):
        """The last line of the next reply."""
        while True:
            line = self.line()
            if line[3:4] != b'-':
                return line

    def say(self, text):
        """One line; its reply."""
        return self.send(text + b'\r\n').reply()

    def quiet(self, seconds=0.2):
        """True if nothing comes for a moment."""
        return not self.buffer and not ready(self.sock, seconds)

    def close(self):
        self.sock.close()
