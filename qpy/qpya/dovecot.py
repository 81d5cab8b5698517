"""The way to a Dovecot that knows the passwords: one connection to its authentication socket, used for all logins."""
from qpy import unix
from qpy.core import dovecot_auth
from qpy.lib import program

RETRY = 1.0             # seconds before a Dovecot that is not there is looked for again
READ = 65536


class Dovecot:
    """path: of its socket.  changed(): it offers something else now."""

    __slots__ = ('loop', 'path', 'changed', 'sock', 'session', 'logins', 'number', 'retry', 'mechanisms', 'said')

    def __init__(self, loop, path, changed):
        self.loop, self.path, self.changed = loop, path, changed
        self.sock, self.session, self.logins, self.number = None, None, {}, 0
        self.retry, self.mechanisms, self.said = 0.0, [], False
        self.look()

    def look(self):
        """Is it there?"""
        if self.sock is not None or unix.monotonic() < self.retry:
            return
        self.retry = unix.monotonic() + RETRY
        sock = unix.socket_unix()
        try:
            sock.connect(self.path)
            self.session = dovecot_auth.Session(unix.getpid())
            unix.write(sock.fileno(), self.session.output())
        except unix.error as problem:
            sock.close()
            if not self.said:
                program.warn(b'unable to reach Dovecot at %s: %s' % (self.path, program.reason(problem)))
            self.said = True
            return
        self.sock, self.said = sock, False
        self.loop.watch(sock.fileno(), self.readable)

    def ask(self, mechanism, known, response, answered):
        """Begin a login; its number, or None.  answered(event, value), as often as there is something."""
        self.number += 1
        number = b'%d' % self.number
        if not self.write(lambda: self.session.ask(number, mechanism, known, response)):
            return None
        self.logins[number] = answered
        return number

    def go_on(self, number, response):
        """The client's next message; False if Dovecot has gone."""
        return number in self.logins and self.write(lambda: self.session.go_on(number, response))

    def cancel(self, number):
        """The client has gone."""
        if self.logins.pop(number, None) is not None:
            self.write(lambda: self.session.cancel(number))

    def write(self, made):
        """One line; False if it cannot be said now."""
        if self.sock is None:
            return False
        line = made()
        try:
            if unix.write(self.sock.fileno(), line) == len(line):
                return True
        except unix.error:
            pass
        self.gone(b'it takes nothing')
        return False

    def readable(self):
        """Answers."""
        try:
            data = unix.read(self.sock.fileno(), READ)
            events = self.session.receive(data)
        except BlockingIOError:
            return None
        except (unix.error, ValueError) as problem:
            return self.gone(str(problem).encode('ascii', 'replace'))
        if not data:
            return self.gone(b'closed')
        for event in events:
            self.event(*event)
        return None

    def event(self, kind, *values):
        """One of them."""
        if kind == dovecot_auth.READY:
            self.mechanisms = values[0]
            return self.changed()
        answered = self.logins.get(values[0]) if kind == dovecot_auth.MORE else self.logins.pop(values[0], None)
        return answered and answered(kind, values[1])

    def gone(self, reason):
        """It has ended: who waits has to come again."""
        program.warn(b'Dovecot has gone: ' + reason)
        self.loop.forget(self.sock.fileno())
        self.sock.close()
        self.sock, self.mechanisms = None, []
        logins, self.logins = self.logins, {}
        for answered in logins.values():
            answered(dovecot_auth.FAIL, {b'temp': b''})
        self.changed()
        self.loop.after(RETRY, self.look)
