r"""One QMTP session, seen from the server (https://cr.yp.to/proto/qmtp.txt): bytes in, messages out.

    client:  netstring of \n or \r and the message; one of the sender; one of the recipients' netstrings
    server:  one netstring per recipient: K, Z or D and a sentence

Any number of messages may come without waiting.  next() gives

    (BODY, bytes)                   a part of the message, lines ended with LF
    (MESSAGE, (sender, recipients)) it is complete; None stands for an address that cannot be used
    None                            more input, please
"""
from qpy.core import netstring

BODY, MESSAGE = 'body', 'message'
LF, CRLF = b'\n', b'\r'         # the first byte of a message: how its lines end

BAD_SENDER = b'Dunacceptable sender (#5.1.7)'
BAD_RECIPIENT = b"Dsorry, I can't handle that recipient (#5.1.3)"
NOT_HERE = b"Dsorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
NO_MAILBOX = b'Dsorry, no mailbox here by that name (#5.1.1)'
DENIED = b'Dsorry, your envelope recipient has been denied (#5.7.1)'
NOT_VALID = b'Dsorry, this recipient is not in my validrcptto list (#5.1.1)'
VALID_TROUBLE = b'Zunable to read my list of valid recipients (#4.3.0)'
HOSTS_TROUBLE = b'Zunable to read my list of allowed rcpthosts (#4.3.0)'
LOOKUP_TROUBLE = b'Zunable to look up that recipient now (#4.3.0)'
TOO_BIG = b'Dsorry, that message size exceeds my databytes limit (#5.3.4)'


class Session:
    """See the top of the module. receive() and next() raise netstring.Malformed and netstring.TooMuch."""

    __slots__ = ('input', 'stage', 'outer', 'lines', 'sender', 'addresses')

    def __init__(self):
        self.input = b''
        self.begin()

    def begin(self):
        """Between two messages."""
        self.stage, self.outer, self.lines = Session.message, netstring.Netstring(), None
        self.sender, self.addresses = b'', netstring.Addresses()

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        self.input += data

    def idle(self) -> bool:
        """Between two messages: the client may leave."""
        return not self.input and self.stage == Session.message and not self.outer.size

    def next(self):
        """The next event, None if there is none yet."""
        while self.input:
            part, self.input = self.outer.take(self.input)
            event = self.stage(self, part)
            if event is not None:
                return event
        return None

    def message(self, part):
        """The first netstring."""
        if part and self.lines is None:
            if part[:1] not in (LF, CRLF):
                raise netstring.Malformed('a message begins with \\n or \\r')
            self.lines, part = Lines(part[:1] == CRLF), part[1:]
        stored = self.lines.feed(part) if self.lines else b''
        if self.outer.done:
            if self.lines is None:
                raise netstring.Malformed('an empty message has no line end')
            stored += self.lines.end()
            self.stage, self.outer = Session.from_whom, netstring.Netstring()
        return (BODY, stored) if stored else None

    def from_whom(self, part):
        """The second one."""
        if len(self.sender) < netstring.ADDRESS_MAX:
            self.sender += part[:netstring.ADDRESS_MAX]
        if self.outer.done:
            self.stage, self.outer = Session.to_whom, netstring.Netstring()

    def to_whom(self, part):
        """The third one."""
        self.addresses.feed(part)
        if not self.outer.done:
            return None
        self.addresses.end()
        found = netstring.usable(self.sender), self.addresses.found
        self.begin()
        return MESSAGE, found


class Lines:
    """The stored form of a message: CR LF becomes LF where the client writes lines so; any other CR stays."""

    __slots__ = ('crlf', 'held')

    def __init__(self, crlf):
        self.crlf, self.held = crlf, b''

    def feed(self, data):
        """A part of the message; its stored form, as far as it is known."""
        if not self.crlf or not data:
            return data
        data = self.held + data
        self.held = b'\r' if data[-1:] == b'\r' else b''
        return data[:len(data) - len(self.held)].replace(b'\r\n', b'\n')

    def end(self):
        """What is left at the end."""
        held, self.held = self.held, b''
        return held
