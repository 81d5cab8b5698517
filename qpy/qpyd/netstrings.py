"""What qmtpd and qmqpd share: who is connected, the message gathered and handed to the queue, a process per
client.

One shot: the client is on descriptors 0 and 1.  Warm: a master that reads nothing foreign keeps a process
that only accepts, and forks one for each client: these protocols are for few, known clients, and a process
that serves one may wait for it.

    Conversation.hear(session) -> events of core.qmtp or core.qmqp, until the client has gone
    Conversation.queue(sender, recipients) -> the report on the message gathered
"""
from qpy import unix
from qpy.core import cdb, dates, exits, manifest, netstring, qmtp, received, text
from qpy.lib import confine, controls, inherit, loop, master, program, service, spool, submit
from qpy.qpyd import settings as settings_, smtpd

PATIENCE = 3600             # seconds for a whole connection, as in qmail
CLIENTS = 200               # at a time, warm
PIECE = 65536
STORE_TROUBLE = exits.queue_text(exits.QQ_WRITE)


class Gone(Exception):
    """The client is not there any more."""


class Conversation:
    """One client on descriptors 0 and 1. protocol: QMTP or QMQP."""

    def __init__(self, home, settings, client, protocol):
        self.home, self.settings, self.client, self.protocol = home, settings, client, protocol
        self.limit = settings.policy.databytes if client.databytes is None else client.databytes
        self.spool, self.size, self.trouble = spool.Spool(), 0, b''

    def hear(self, session):
        """The events, until the client has closed."""
        while True:
            event = session.next()
            if event is not None:
                yield event
                continue
            data = unix.read(0, PIECE)
            if not data:
                return
            session.receive(data)

    def body(self, data):
        """A part of the message. What is too long, or cannot be stored, is read to its end all the same."""
        if not self.size and not self.trouble:
            self.keep(self.received())
        self.size += len(data)
        if self.limit and self.size > self.limit:
            self.trouble = self.trouble or qmtp.TOO_BIG
        if not self.trouble:
            self.keep(data)

    def keep(self, data):
        """Put it into the spool."""
        try:
            self.spool.add(data)
        except unix.error:
            self.trouble = STORE_TROUBLE

    def received(self):
        """Our Received line."""
        c = self.client
        date = dates.header_date(unix.time())
        return received.line(c.name, b'', c.info, c.ip, c.local, self.protocol, date)

    def queue(self, sender, recipients):
        """Queue what was gathered: K, Z or D and words. It is forgotten then."""
        report = self.trouble
        if not report:
            if not self.size:
                self.keep(self.received())
            code, words = submit.send(self.home, sender, recipients, self.spool.content(), self.options())
            report = words if code else b'Kok %d qp %d' % (unix.time(), unix.getpid())
            self.log(b'accepted' if not code else b'refused message', sender, recipients, words)
        self.forget()
        return report

    def forget(self):
        """No message."""
        self.spool.close()
        self.size, self.trouble = 0, b''

    def options(self):
        """The envelope records that say where it came from."""
        c = self.client
        found = ((b'P', self.protocol), (b'C', c.ip), (b'c', c.name))
        return [(letter, received.safe(value)) for letter, value in found if value]

    def log(self, what, sender, recipients, words):
        """One line per message, as smtpd has them."""
        program.complain(b'%s ip %s from <%s> to %d bytes %d %s' % (
            what, safe(self.client.ip or b'unknown'), safe(sender), len(recipients), self.size, safe(words)))

    @staticmethod
    def answer(data):
        """Say something; Gone if nobody is there."""
        try:
            unix.write_all(1, data)
        except unix.error:
            raise Gone from None


def safe(value):
    """A foreign value as one word of the log."""
    return text.logsafe(value[:1000])


# --- who is there -------------------------------------------------------------------------------------------

def main(home, args, found, protocol, talk, needs_relay):
    """The program: talk(Conversation) serves one client. needs_relay: serve only whom the rules give
    RELAYCLIENT."""
    unix.umask(0o077)
    unix.signal(unix.SIGPIPE, unix.SIG_IGN)
    if args:
        raise program.Fatal(exits.PERM, b'usage: ' + program.name)
    submit.obey_what_is_in_its_place(home)
    client = smtpd.accepted(found)
    if client is None and set(found) - {b'life'}:
        watched = settings_.watched(home)
        words = protocol, talk, needs_relay
        service.calm_server(found)
        confine.confine(home, manifest.master(b'qmtpd'))
        return master.run(found, lambda found: Acceptor(home, watched, found, *words).run(), 1)
    if client is not None:
        unix.dup2(client, 0)
        unix.dup2(client, 1)
    return one(home, None, protocol, talk, needs_relay)


def one(home, settings, protocol, talk, needs_relay):
    """Serve the client on descriptors 0 and 1: 0 it left between two messages, 100 malformed, 111 trouble."""
    unix.signal(unix.SIGALRM, lambda *_: unix._exit(exits.TEMP))
    unix.alarm(PATIENCE)
    try:
        settings = settings or settings_.Settings(home)
        sock = smtpd.socket_on(0)
        if sock is not None:
            sock.setblocking(True)
        client = smtpd.who(settings, sock)
        if sock is not None:
            sock.detach()
    except settings_.Denied:
        return exits.PERM
    except cdb.CdbError as problem:
        words = b'unable to read control/tcp.smtp: ' + str(problem).encode()
        raise program.Fatal(exits.TEMP, words) from None
    if needs_relay and client.relay is None and b'PROTO' not in unix.environ:
        ip = safe(client.ip or b'unknown')
        program.complain(b'refused connection ip %s: no RELAYCLIENT in control/tcp.smtp' % ip)
        return exits.PERM
    for name, value in client.env:
        if name in settings_.FILTERS:
            unix.environ[name] = value
    confine.confine(home, manifest.chosen(b'qmtpd', unix.environ))
    try:
        return talk(Conversation(home, settings, client, protocol))
    except Gone:
        return exits.OK
    except netstring.Malformed:
        return exits.PERM
    except (netstring.TooMuch, MemoryError):
        return exits.TEMP
    except unix.error:
        return exits.OK             # reading or writing failed: the client has gone


# --- warm ---------------------------------------------------------------------------------------------------

class Acceptor:
    """The process that accepts, and has a child for each client."""

    def __init__(self, home, watched, found, protocol, talk, needs_relay):
        self.home, self.watched = home, watched
        self.protocol, self.talk, self.needs_relay = protocol, talk, needs_relay
        self.loop, self.children = loop.Loop(), set()
        inherit.life(self.loop, found)
        self.listening = [sock for name in list(found) for sock in inherit.sockets(found, name)]
        self.loop.on_signal(unix.SIGCHLD, self.reap)
        self.listen()

    def run(self):
        """Until the chain ends. Clients being served are served to their end."""
        self.loop.run()
        return exits.OK

    def listen(self):
        """Take clients."""
        for sock in self.listening:
            self.loop.watch(sock.fileno(), lambda sock=sock: self.accept(sock))

    def accept(self, sock):
        """One client."""
        try:
            found = unix.accept(sock)
        except unix.error as problem:
            program.warn(b'unable to accept: ' + program.reason(problem))
            return self.pause()
        if found is None:
            return
        settings = self.watched.get()
        try:
            pid = unix.fork()
        except unix.error as problem:
            program.warn(b'unable to fork: ' + program.reason(problem))
            return self.pause()
        if not pid:
            unix._exit(program.guarded(lambda: self.child(found[0], settings)))
        found[0].close()
        self.children.add(pid)
        if len(self.children) >= CLIENTS:
            self.deaf()

    def child(self, sock, settings):
        """Serve one client."""
        unix.set_wakeup_fd(-1)
        unix.signal(unix.SIGCHLD, unix.SIG_DFL)
        self.loop.epoll.close()
        unix.dup2(sock.fileno(), 0)
        unix.dup2(sock.fileno(), 1)
        unix.closerange(3, smtpd.STRAY_MAX)
        return one(self.home, settings, self.protocol, self.talk, self.needs_relay)

    def deaf(self):
        """Take nobody for now."""
        for sock in self.listening:
            self.loop.forget(sock.fileno())

    def pause(self):
        """Take nobody for a second."""
        self.deaf()
        self.loop.after(1.0, self.listen)

    def reap(self):
        """Clients that have gone make room."""
        full = len(self.children) >= CLIENTS
        while self.children:
            pid, _ = unix.waitpid(-1, unix.WNOHANG)
            if not pid:
                break
            self.children.discard(pid)
        if full and len(self.children) < CLIENTS:
            self.listen()
