"""A milter for tests: the filter's side of the protocol, spoken independently of qpy.core.milter.

    with Milter({b'R': lambda data: [b'r']}, actions=0x1ff, steps=0) as one: one.place ... one.heard

answers: {command letter: function(data) -> [packets as bytes] or None for no answer}; others are continued.  heard:
[(letter, data)] of every command, macros left out; macros: [(command letter, {name: value})].
"""
import socket
import struct
import threading

SILENT = {b'C': 0x1000, b'H': 0x2000, b'M': 0x4000, b'R': 0x8000, b'T': 0x10000, b'L': 0x80, b'N': 0x40000, b'B': 0x80000}


class Milter:
    """Serves any number of connections; each session's commands are heard in order."""

    def __init__(self, answers=None, actions=0x1ff, steps=0, version=6, symbols=b'', path=None):
        self.answers, self.offer, self.symbols = answers or {}, (version, actions, steps), symbols
        self.heard, self.macros, self.connections, self.offered = [], [], 0, None
        self.came = threading.Condition()
        if path:
            self.listening = socket.socket(socket.AF_UNIX)
            self.listening.bind(path)
            self.listening.listen(50)
            self.place = path
        else:
            self.listening = socket.create_server(('127.0.0.1', 0))
            self.place = '127.0.0.1:%d' % self.listening.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection = self.listening.accept()[0]
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            with connection, connection.makefile('rwb') as stream:
                while head := stream.read(4):
                    packet = stream.read(struct.unpack('>I', head)[0])
                    if self.command(stream, packet[:1], packet[1:]) == 'close':
                        break
        except OSError:
            pass

    def command(self, stream, letter, data):
        """One packet from the server."""
        if letter == b'D':
            words = data[1:].split(b'\0')[:-1]
            self.macros.append((data[:1], dict(zip(words[::2], words[1::2]))))
            return None
        if letter == b'O':
            self.offered = struct.unpack('>III', data)
            if b'O' not in self.answers:
                return self.say(stream, b'O' + struct.pack('>III', *self.offer) + self.symbols)
        with self.came:
            self.heard.append((letter, data))
            self.came.notify_all()
        if letter in (b'A', b'Q'):
            return 'close' if letter == b'Q' else None
        answer = self.answers.get(letter, lambda data: [b'c'])(data)
        if answer == 'close' or answer is None:
            return answer
        if not self.offer[2] & SILENT.get(letter, 0):
            if isinstance(answer, list):        # in one write: they arrive together
                stream.write(b''.join(struct.pack('>I', len(packet)) + packet for packet in answer))
                stream.flush()
            else:
                for packet in answer:
                    self.say(stream, packet)
        return None

    @staticmethod
    def say(stream, packet):
        stream.write(struct.pack('>I', len(packet)) + packet)
        stream.flush()

    def letters(self):
        """The commands so far, as one word."""
        return b''.join(letter for letter, _ in self.heard)

    def wait(self, letter, count=1):
        """Until the count-th command of this letter has come; its data."""
        with self.came:
            assert self.came.wait_for(lambda: sum(one == letter for one, _ in self.heard) >= count, 20), self.heard
        return [data for one, data in self.heard if one == letter][count - 1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.listening.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listening.close()


def text(*words):
    """Words, each NUL-ended."""
    return b''.join(word + b'\0' for word in words)
