"""What all clients of one SMTP server process share: settings, the way to the queue and to qpy-users, limits,
the log.

A socket that is closed on us, a queue or a look-up that does not answer, a control file that is broken: each
concerns one client or one message, and the next one is served as well as it can be.
"""
from qpy import unix
from qpy.core import cdb, dates, refusals, smtp_policy, smtp_replies as replies, text
from qpy.lib import packets, program
from qpy.qpyd import auth_line, queue_line, settings as settings_, tls_line
from qpy.qpyd.checks import Checks
from qpy.qpyd.conversation import Conversation
from qpy.qpyd.recipients import Recipients

ACCEPTS = 8             # clients taken in one pass of the loop: the other workers want some too
PAUSE = 0.25            # seconds without accepting when descriptors or memory are short
SWEEP = 5.0             # seconds between looks at the clock, if the time limits are not shorter
TELL_LOST = 1.0         # seconds until a log that would not take lines is told how many they were
KNOWN_MOST = 1000       # pairs of addresses of which is remembered what the rules say
LINE_MAX = 4000         # bytes written to the log at once: a pipe takes that in one piece


def milter_line(home):
    """A connection to qpy-milter, which takes messages as qpy-queued does."""
    try:
        return packets.connect(home, b'filter', packets.owner_of(home, b'qpyc'), unix.SOCK_STREAM)
    except KeyError:
        raise unix.error(unix.ENOENT, 'there is no account qpyc') from None


class Server:
    """One process."""

    def __init__(self, home, loop, watched, census=None, runner=None, environ=None):
        self.home, self.loop, self.watched, self.census, self.runner = home, loop, watched, census, runner
        self.environ = dict(unix.environ if environ is None else environ)
        self.pid = unix.getpid()
        self.queue, self.recipients = queue_line.Queue(loop, home), Recipients(loop, home)
        self.checks, self.milters, self.sessions = Checks(loop, home, b'check'), Checks(loop, home, b'milter'), 0
        self.messages = 0
        self.through_milters = queue_line.Queue(loop, home, lambda: milter_line(home))
        self.beside = smtp_policy.Beside()
        self.tls, self.auth = tls_line.Line(loop, home, self.beside), auth_line.Line(loop, home, self.beside)
        self.quiet = self.environ.get(b'QPYLOCALBS') == b'1'    # descriptor 2 is the caller's terminal or mail
        self.clients, self.lines, self.timer, self.refusals = set(), [], None, refusals.Refusals()
        self.stamp, self.written, self.telling = 0, b'', False
        self.known, self.known_by = {}, None    # {(its address, ours): Client}, by which settings
        self.ended = None               # called when the last client has gone (one shot)
        self.listening, self.leaving = [], False
        self.now, self.wall = unix.monotonic, unix.time

    # Clients.

    def listen(self, sock):
        """Serve everybody who connects to a listening socket."""
        if sock.family in (unix.AF_INET, unix.AF_INET6):
            sock.setsockopt(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)      # each client inherits it
        if sock not in self.listening:
            self.listening.append(sock)
        if not self.leaving:
            self.loop.watch_shared(sock.fileno(), lambda: self.accept(sock))

    def accept(self, listening):
        """Take the clients that wait; all of them connected before this looks at the control files."""
        taken, problem = [], None
        try:
            while len(taken) < ACCEPTS and (found := unix.accept(listening)) is not None:
                taken.append(found)
        except unix.error as trouble:
            problem = trouble
        if taken:
            settings = self.watched.get()
            self.tls.arrived()
            self.auth.arrived()
            for sock, address in taken:
                self.arrived(sock, settings_.ip_text(address), settings)
        if problem is not None:
            self.pause(listening, problem)

    def pause(self, listening, problem):
        """Do not accept for a moment."""
        program.warn(b'unable to accept: ' + program.reason(problem))
        self.loop.forget(listening.fileno())
        self.loop.after(PAUSE, lambda: self.listen(listening))

    def arrived(self, sock, ip, settings):
        """A client: serve it, or say why not."""
        try:
            here = settings_.ip_text(sock.getsockname())
            client = self.client_of(settings, ip, here)
        except settings_.Denied:
            return self.refuse(sock, ip, replies.DENIED)
        except cdb.CdbError:
            return self.refuse(sock, ip, replies.TROUBLE)
        except unix.error:
            return sock.close()
        if settings.connections and self.census.total() >= settings.connections:
            return self.refuse(sock, ip, replies.BUSY)
        if not settings_.on(dict(client.env), b'PROXY'):        # of a proxy's clients each is counted
            reply = self.too_many(client, settings)
            if reply:
                return self.refuse(sock, ip, reply)
        self.census.add(ip)
        self.serve(Conversation(self, settings, client, sock, sock.fileno(), sock.fileno()))

    def client_of(self, settings, ip, here):
        """The Client at this address, who is connected to that one of ours. Raises settings.Denied, CdbError."""
        if settings is not self.known_by or len(self.known) >= KNOWN_MOST:
            self.known, self.known_by = {}, settings
        client = self.known.get((ip, here))
        if client is None:
            client = self.known[ip, here] = settings_.client_of_peer(settings, self.environ, ip, here)
        return client

    def too_many(self, client, settings):
        """The reply to a client whose address has too many connections, b'' if it has not."""
        ip = client.ip
        if settings.per_address and client.relay is None and ip and self.census.of(ip) >= settings.per_address:
            return replies.BUSY_ADDRESS
        if settings.arrivals is not None and client.relay is None and client.judged and ip \
                and not self.census.arrived(ip, settings.arrivals, self.now()):
            return replies.BUSY_RATE
        return b''

    def client_behind(self, conversation, ip, local_ip):
        """The Client that a proxy speaks for, counted in place of the proxy. Raises smtp_policy.Refused."""
        settings = conversation.settings
        try:
            client = settings_.client_of_peer(settings, self.environ, ip, local_ip)
        except settings_.Denied:
            raise smtp_policy.Refused(replies.DENIED) from None
        except cdb.CdbError:
            raise smtp_policy.Refused(replies.TROUBLE) from None
        if self.census is not None:
            reply = self.too_many(client, settings)
            if reply:
                raise smtp_policy.Refused(reply)
            self.census.remove(conversation.session.client.ip)
            self.census.add(ip)
        return client

    def serve(self, conversation):
        """Begin a session."""
        self.clients.add(conversation)
        if self.timer is None:
            self.timer = self.loop.after(self.patience(), self.sweep)
        conversation.begin()

    def refuse(self, sock, ip, reply):
        """Send a client away. The kernel's buffer has room for these few bytes."""
        self.note_refusal(ip, reply)
        try:
            unix.write(sock.fileno(), reply + b'\r\n')
        except unix.error:
            pass
        sock.close()

    def note_refusal(self, ip, reply):
        """A client is sent away: the first has a line in the log, the others are counted."""
        line = self.refusals.line(self.safe(ip or b'unknown'), reply, self.now())
        if line:
            self.log(line)
            self.loop.after(refusals.WINDOW, self.count_refusals)

    def count_refusals(self):
        """Say how many clients were sent away without a line of their own."""
        for line in self.refusals.counted(self.now()):
            self.log(line)

    def left(self, conversation):
        """A client is gone."""
        self.clients.discard(conversation)
        if self.census is not None:
            self.census.remove(conversation.session.client.ip)
        if self.ended is not None:
            self.ended(conversation)

    def filtered(self, conversation):
        """A way through the client's filter instead of the queue."""
        client = conversation.session.client
        told = {b'PROTO': b'TCP', b'TCPREMOTEIP': client.ip, b'TCPREMOTEHOST': client.name,
                b'TCPREMOTEINFO': client.info, b'TCPLOCALIP': client.local_ip, b'TCPLOCALHOST': client.local,
                b'QPYHOME': self.home}
        env = {**self.environ, **{name: value for name, value in told.items() if value}, **dict(client.env)}
        return self.runner.job(conversation.filter[0], env, conversation.moved, conversation.done)

    # Time.

    def date(self):
        """Now, as in header fields; made once a second."""
        now = int(self.wall())
        if now != self.stamp:
            self.stamp, self.written = now, dates.header_date(now)
        return self.written

    def ident(self):
        """What no other Message-ID has."""
        self.messages += 1
        return b'%d.%d.%d@%s' % (self.wall() * 1000000, self.pid, self.messages, self.watched.value.me)

    def patience(self):
        """Seconds until the next look at the clock."""
        settings = self.watched.value
        return min(SWEEP, settings.timeout / 4, settings.session / 4)

    def sweep(self):
        """Look for clients whose time is up."""
        self.timer = None
        now, settings = self.now(), self.watched.value
        for conversation in list(self.clients):
            conversation.look_at_clock(now, settings)
        if self.clients:
            self.timer = self.loop.after(self.patience(), self.sweep)

    def farewell(self, seconds):
        """The chain ends: take nobody more, and say so to everybody; to who waits for an answer, about a message that the
        queue has or may have, after that: nobody is to send again what was taken."""
        self.leaving = True
        for listening in self.listening:
            self.loop.forget(listening.fileno())
        self.loop.after(seconds, self.loop.stop)
        for conversation in list(self.clients):
            conversation.leave()
        self.end_when_answered()

    def end_when_answered(self):
        """The end, if nobody does."""
        if not any(conversation.session.waiting and not conversation.closing for conversation in self.clients):
            self.loop.stop()

    # The log.

    @staticmethod
    def safe(value):
        """Foreign bytes as one word of a log line."""
        return text.logsafe(value[:1000])

    def log(self, words):
        """One line, written at the end of this pass of the loop together with the others.

        sendmail -bs has no log: its caller reads the replies, and trouble comes as warnings.
        """
        if self.quiet:
            return
        if not self.lines:
            self.loop.call_soon(self.write_log)
        self.lines.append(b'%s: %s' % (program.name, words))

    def write_log(self):
        """Write what there is, in pieces that a pipe takes whole."""
        lines, self.lines = self.lines, []
        piece = b''
        for line in lines:
            if piece and len(piece) + len(line) > LINE_MAX:
                program.log(piece)
                piece = b''
            piece += (b'\n' if piece else b'') + line
        if piece:
            program.log(piece)
        if program.lost:
            self.tell_lost_later()

    def tell_lost_later(self):
        """No line may follow for hours: how many were lost is said as soon as the log takes something again."""
        if not self.telling:
            self.telling = True
            self.loop.after(TELL_LOST, self.tell_lost)

    def tell_lost(self):
        """Say it, or try again."""
        self.telling = False
        if not program.tell_lost():
            self.tell_lost_later()
