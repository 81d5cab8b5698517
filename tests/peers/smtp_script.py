"""A scripted SMTP server on loopback: says what a test tells it to, also what no server should say.

    with Server(good()) as server: ...  server.port, server.mail -> [(sender, [recipients], body)], server.log
A script is a function(talk) run in a thread for each connection; Talk reads and writes the socket.
"""
import socket
import threading


class Talk:
    """One connection, as a script sees it."""

    def __init__(self, server, sock, number):
        self.server, self.sock, self.number = server, sock, number
        self.buffer, self.peer = b'', (sock.getpeername() or ('',))[0]

    def say(self, *lines):
        """Send lines (CR LF is added)."""
        self.sock.sendall(b''.join(line + b'\r\n' for line in lines))

    def raw(self, data):
        """Send data as it is."""
        self.sock.sendall(data)

    def line(self):
        """The next line without its end; b'' at the end of the stream."""
        while b'\n' not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                return b''
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b'\n')
        self.server.log.append(line.rstrip(b'\r'))
        return line.rstrip(b'\r')

    def message(self):
        """The bytes of DATA up to and with the final dot, decoded; None at the end of the stream."""
        got = bytearray(self.buffer)
        looked = 0
        while not (got.startswith(b'.\r\n') or got.find(b'\r\n.\r\n', looked) >= 0):
            looked = max(0, len(got) - 4)
            data = self.sock.recv(65536)
            if not data:
                return None
            got += data
        self.buffer = bytes(got)
        if self.buffer.startswith(b'.\r\n'):
            body, self.buffer = b'', self.buffer[3:]
        else:
            body, _, self.buffer = self.buffer.partition(b'\r\n.\r\n')
            body += b'\r\n'
        return body.replace(b'\r\n..', b'\r\n.').removeprefix(b'.') if body.startswith(b'..') else \
            body.replace(b'\r\n..', b'\r\n.')

    def reset(self):
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
        self.sock.close()

    def hang(self):
        """Say nothing until the test is over (or the client goes away)."""
        self.server.over.wait(30)


def good(extensions=(b'PIPELINING', b'8BITMIME', b'SIZE 0'), replies=None, transactions=None):
    """A script: an ordinary server.  replies: {command: reply or function(talk, line) -> reply or None}."""
    replies = replies or {}

    def answer(talk, command, line, default, mail=None):
        reply = replies.get(command, default)
        reply = reply(talk, line) if callable(reply) else reply
        if mail and (reply or b'').startswith(b'250'):
            talk.server.mail.append(mail)
        if reply is not None:
            talk.raw(reply + b'\r\n')
        return reply or b''

    def script(talk):
        answer(talk, b'greeting', b'', b'220 script ESMTP')
        sender, recipients, done = None, [], 0
        while line := talk.line():
            command = line[:4].upper()
            if command == b'EHLO':
                words = [b'script', *extensions]
                lines = b'\r\n'.join(b'250-' + word for word in words[:-1])
                answer(talk, command, line, (lines + b'\r\n' if lines else b'') + b'250 ' + words[-1])
            elif command == b'MAIL':
                if transactions is not None and done >= transactions:
                    return talk.say(b'421 enough')
                sender, recipients = line[11:].partition(b'>')[0], []
                answer(talk, command, line, b'250 ok')
            elif command == b'RCPT':
                if answer(talk, command, line, b'250 ok').startswith(b'250'):
                    recipients.append(line[9:].partition(b'>')[0])
            elif command == b'DATA':
                if answer(talk, command, line, b'354 go' if recipients else b'503 no').startswith(b'354'):
                    body = talk.message()
                    if body is None:
                        return None
                    answer(talk, b'dot', b'', b'250 2.0.0 taken', recipients and (sender, recipients, body))
                    done += 1
            elif command == b'QUIT':
                return talk.say(b'221 bye')
            else:
                answer(talk, command, line, b'250 ok')
        return None
    return script


class Server:
    """Listens on a free port of address; each connection runs `script` (or the next of a list of scripts)."""

    def __init__(self, script, address='127.0.0.1', port=0):
        self.scripts = script if isinstance(script, list) else [script]
        self.mail, self.log, self.talks = [], [], []
        self.connections = 0
        self.over = threading.Event()
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        self.sock = socket.create_server((address, port), family=family, backlog=128)
        self.port = self.sock.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self):
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:
                return
            script = self.scripts[min(self.connections, len(self.scripts) - 1)]
            self.connections += 1
            threading.Thread(target=self._one, args=(script, Talk(self, sock, self.connections)), daemon=True).start()

    def _one(self, script, talk):
        self.talks.append(talk)
        try:
            script(talk)
        except OSError:
            pass
        finally:
            talk.sock.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        for talk in self.talks:
            talk.sock.close()
