"""A small SMTP server that keeps what it gets in memory: the outside world of the demo and of tests.

Recipients whose local part is `fail` are refused (550), `defer` are deferred (451), `slow` are answered late.
"""
import socketserver
import threading
import time

SLOW = 3.0          # seconds
LINE = 2000         # bytes


class Sink(socketserver.ThreadingTCPServer):
    """Listens on (address, port), port 0 for any; on_message(sender, [recipients], bytes) after each acceptance."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, place, on_message):
        super().__init__(place, Session)
        self.on_message = on_message
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        """Where it listens."""
        return self.server_address[1]


class Session(socketserver.StreamRequestHandler):
    """One client."""

    def handle(self):
        """Line by line until QUIT."""
        self.sender, self.recipients = None, []
        self.say(220, 'sink.example ESMTP')
        while True:
            line = self.rfile.readline(LINE)
            if not line.endswith(b'\r\n'):
                return
            word, _, rest = line.strip().decode('utf-8', 'replace').partition(' ')
            word = word.upper()
            if word == 'QUIT':
                return self.say(221, '2.0.0 bye')
            getattr(self, 'on_' + word.lower(), self.on_other)(rest)

    def say(self, code, *lines):
        """A reply."""
        for line in lines[:-1]:
            self.wfile.write(b'%d-%s\r\n' % (code, line.encode()))
        self.wfile.write(b'%d %s\r\n' % (code, lines[-1].encode()))

    def on_ehlo(self, rest):
        """Greet with what we know."""
        self.say(250, 'sink.example', 'PIPELINING', '8BITMIME', 'SMTPUTF8', 'ENHANCEDSTATUSCODES')

    def on_helo(self, rest):
        """Greet."""
        self.say(250, 'sink.example')

    def on_mail(self, rest):
        """A new transaction."""
        self.sender, self.recipients = rest.partition('<')[2].partition('>')[0], []
        self.say(250, '2.1.0 ok')

    def on_rcpt(self, rest):
        """One more recipient, or not."""
        address = rest.partition('<')[2].partition('>')[0]
        local = address.partition('@')[0]
        if local == 'fail':
            return self.say(550, '5.1.1 no such user here')
        if local == 'defer':
            return self.say(451, '4.2.1 come back later')
        if local == 'slow':
            time.sleep(SLOW)        # the point of this address
        self.recipients.append(address)
        self.say(250, '2.1.5 ok')

    def on_data(self, rest):
        """The message, up to the dot."""
        if not self.recipients:
            return self.say(503, '5.5.1 no recipients')
        self.say(354, 'go on')
        lines = []
        while True:
            line = self.rfile.readline()
            if not line:
                return
            if line == b'.\r\n':
                break
            lines.append(line[1:] if line.startswith(b'.') else line)
        self.server.on_message(self.sender, self.recipients, b''.join(lines))
        self.say(250, '2.0.0 taken')

    def on_rset(self, rest):
        """Forget."""
        self.sender, self.recipients = None, []
        self.say(250, '2.0.0 ok')

    def on_noop(self, rest):
        """Nothing."""
        self.say(250, '2.0.0 ok')

    def on_other(self, rest):
        """What we do not know."""
        self.say(502, '5.5.1 unknown')
