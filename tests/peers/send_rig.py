"""qpy-send in this process, with stand-ins for everybody it talks to, a clock that jumps, and a real queue."""
import os
import select
import socket

from qpy import unix
from qpy.core import channel, mess, state
from qpy.lib import loop as loops
from qpy.qpys import control, send, streams


SUBMITTER, STRANGER = [uid for uid in (1000, 1001, 1002) if uid != os.geteuid()][:2]    # users who run no tests


class Rig:
    """A Send and its neighbours.  jobs: what lspawn and rspawn were given; report() answers."""

    def __init__(self, home, local=10, remote=20, **files):
        self.home = home
        for name, value in {'me': 'here.example', 'locals': 'here.example', **files}.items():
            self.write(name, value)
        self.listening = {name: self.listen(name, kind) for name, kind in (
            (b'new', socket.SOCK_STREAM), (b'clean', socket.SOCK_STREAM), (b'lspawn', socket.SOCK_SEQPACKET),
            (b'rspawn', socket.SOCK_SEQPACKET), (b'bounce', socket.SOCK_SEQPACKET))}
        self.capacity = (local, remote)
        self.wall, self.mono = 1_800_000_000.0, 1000.0
        self.last = int(self.wall) * 1_000_000
        self.jobs, self.cleaned, self.bounce_jobs, self.records = [], [], [], []
        self.clean_answer = b'+'
        self.log_read, self.log_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.saved = unix.time, unix.monotonic
        unix.time, unix.monotonic = (lambda: self.wall), (lambda: self.mono)
        self.log_text = b''

    def write(self, name, value):
        with open(self.home + b'/control/' + name.encode(), 'w') as file:
            file.write(value + '\n')

    def listen(self, name, kind):
        sock = socket.socket(socket.AF_UNIX, kind)
        here = os.getcwd()
        os.chdir(self.home + b'/run')
        sock.bind(name)
        os.chdir(here)
        sock.listen(5)
        return sock

    # --- the daemon ---

    def start(self, below=None):
        """A new send, as after a crash: connect it, tell capacities and, unless below is None, `<below`."""
        self.loop = loops.Loop()
        self.log = streams.Log(self.loop, self.log_write)
        self.send = send.Send(self.home, self.loop, self.log, send.Controls(self.home), None)
        self.send.connect()
        self.desk = control.serve(self.send, [])
        self.ends = {name: sock.accept()[0] for name, sock in self.listening.items()}
        for end in self.ends.values():
            end.setblocking(False)
        self.clean_rest = b''
        self.ends[b'lspawn'].send(channel.pack(b'C', b'%d' % self.capacity[0]))
        if self.capacity[1] is not None:
            self.ends[b'rspawn'].send(channel.pack(b'C', b'%d' % self.capacity[1]))
        if below is not None:
            self.ends[b'new'].send(b'<%016d\0' % below)
        self.step()

    def crash(self):
        """Forget the process: nothing of it survives but files."""
        for end in self.ends.values():
            end.close()
        self.send.forget_read()
        for job in self.jobs:
            os.close(job[-1])
        self.jobs.clear()
        for fd in (self.send.store.mess, self.send.store.state):
            os.close(fd)
        for sock in (self.send.new.sock, self.send.clean.sock):
            sock.close()
        for there in (self.send.lspawn, self.send.rspawn, self.send.bouncer):
            there.close()
        self.loop.epoll.close()

    def end(self):
        self.crash()
        for sock in self.listening.values():
            sock.close()
        os.close(self.log_read)
        os.close(self.log_write)
        unix.time, unix.monotonic = self.saved

    def step(self, passes=3):
        """Let everything happen that can happen now."""
        idle = 0
        while idle < passes and self.running():
            self.loop.step(0)
            idle = 0 if self.serve() else idle + 1

    def running(self):
        return self.send.code == 0

    def wait(self, seconds):
        """The clocks go on."""
        self.wall += seconds
        self.mono += seconds
        self.step()

    # --- the neighbours ---

    def serve(self):
        busy = False
        for name, table in ((b'lspawn', channel.LSPAWN_JOB), (b'rspawn', channel.RSPAWN_JOB),
                            (b'bounce', channel.BOUNCE_JOB)):
            packet = unix.recv_packet(self.ends[name], maxfds=unix.PACKET_FDS)
            if not packet or not packet[0]:
                continue
            busy = True
            fds = iter(packet[1])
            for letter, fields in channel.unpack(packet[0], table):
                if letter == b'B':
                    self.bounce_jobs.append(fields)
                else:
                    self.jobs.append((name, *fields, next(fds)))
        return self.serve_clean() or busy

    def serve_clean(self):
        try:
            data = self.ends[b'clean'].recv(65536)
        except BlockingIOError:
            return False
        *words, self.clean_rest = (self.clean_rest + data).split(b'\0')
        for word in words:
            self.cleaned.append(word)
            if self.clean_answer == b'+':
                try:
                    os.unlink(self.home + b'/queue/mess/' + word[1:])
                except FileNotFoundError:
                    pass
            self.ends[b'clean'].send(self.clean_answer)
        return bool(words)

    def report(self, job, letter=b'K', text=b'done\n', scope=b'', only=None):
        """lspawn or rspawn answers a job; returns the bytes it was given."""
        name, fd = job[0], job[-1]
        size = os.fstat(fd).st_size
        numbers = [job[1]] if name == b'lspawn' else [line.split(b' ')[0] for line in job[6].split(b'\n')]
        data = os.pread(fd, size, 0)
        os.close(fd)
        self.jobs.remove(job)
        self.ends[name].send(b''.join(channel.pack(letter, number, scope, text) for number in numbers))
        self.step()
        return data if name == b'lspawn' else data[:int(job[5])]

    def bounced(self, done=True):
        ident = self.bounce_jobs.pop(0)[0]
        self.ends[b'bounce'].send(channel.pack(b'K', ident, b'1800000000999999', b'77') if done
                                  else channel.pack(b'Z', ident, b'not now'))
        self.step()

    # --- the queue ---

    def put(self, *recipients, sender=b'joe@here.example', body=b'Subject: x\n\nhello\n', announce=True, options=(),
            recipient_options=None):
        """A message in the queue, announced or only there; its ID."""
        self.last += 1
        ident = b'%016d' % self.last
        stamped = [(b'u', b'%d' % SUBMITTER), (b'p', b'4711'), (b't', b'%d' % self.wall), *options]
        envelope = mess.Envelope(sender, recipients, stamped, recipient_options).build()
        with open(self.home + b'/queue/mess/' + ident, 'wb') as file:
            file.write(mess.pack(body, envelope, ident))
        if announce:
            self.ends[b'new'].send(ident + b'\0')
            self.step()
        return ident

    def state(self, ident, recipients=1):
        """The View of a message's state; None if it has none."""
        try:
            with open(self.home + b'/queue/state/' + ident, 'rb') as file:
                return state.replay(file.read(), ident, recipients)
        except FileNotFoundError:
            return None

    def lines(self):
        """What send has said since the last time, as lines."""
        asked = select.poll()               # select would refuse high descriptors
        asked.register(self.log_read, select.POLLIN)
        while asked.poll(0):
            data = os.read(self.log_read, 65536)
            self.log_text += data
        lines, self.log_text = self.log_text.splitlines(), b''
        return lines
