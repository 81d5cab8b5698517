"""QMQP (https://cr.yp.to/proto/qmqp.html), both ends.

    client:  one netstring around: netstring of the message, of the sender, of each recipient
    server:  one netstring: K, Z or D and a sentence

The server's Session is used as qmtp.Session; there is one message, and nothing may follow it.
"""
from qpy.core import netstring
from qpy.core.qmtp import BODY, MESSAGE

UNACCEPTABLE = b"Dsorry, I can't accept addresses like that (#5.1.3)"
ANSWER_MAX = 5000           # bytes of an answer
PORT = 628


class Session:
    """See the top of the module."""

    __slots__ = ('input', 'outer', 'inner', 'addresses', 'ready')

    def __init__(self):
        self.input, self.outer, self.inner = b'', netstring.Netstring(), netstring.Netstring()
        self.addresses, self.ready = netstring.Addresses(), None

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        self.input += data

    def next(self):
        """The next event, None if there is none yet."""
        if self.outer.done:
            ready, self.ready = self.ready, None
            return ready
        if not self.input:
            return None
        part, self.input = self.outer.take(self.input)
        body = b''
        if not self.inner.done:
            body, part = self.inner.take(part)
        if self.inner.done:
            self.addresses.feed(part)
        if self.outer.done:
            self.complete()
        return (BODY, body) if body else self.next()

    def complete(self):
        """The outer netstring has ended."""
        if not self.inner.done or not self.addresses.found:
            raise netstring.Malformed('no sender')
        self.addresses.end()
        sender, *recipients = self.addresses.found
        self.ready = MESSAGE, (sender, recipients)


def head(size, addresses):
    """(what is sent before a message of that size, what after it): addresses are the sender and the
    recipients."""
    before, after = b'%d:' % size, b',' + b''.join(map(netstring.encode, addresses))
    return b'%d:%b' % (len(before) + size + len(after), before), after + b','


class Answer:
    """The server's answer: feed(data) -> the bytes inside the netstring when it is complete, else None."""

    __slots__ = ('outer', 'kept')

    def __init__(self):
        self.outer, self.kept = netstring.Netstring(ANSWER_MAX), b''

    def feed(self, data: bytes):
        """Take bytes. Malformed, TooMuch."""
        part, _ = self.outer.take(data)
        self.kept += part
        return self.kept if self.outer.done else None
