"""Netstrings (https://cr.yp.to/proto/netstrings.txt), and the two protocols' lists of addresses made of them.

    5:hello,        the length in decimal digits, a colon, the bytes, a comma

Fed with pieces of any size; what does not fit the form is Malformed at once.
"""

MOST = 200_000_000          # bytes of one netstring: qmail's limit
ADDRESS_MAX = 1000          # an address this long, or longer, is read and not used
RECIPIENTS_MAX = 131_072    # of one message


class Malformed(ValueError):
    """Not what the protocol says: the connection is of no use any more."""


class TooMuch(ValueError):
    """More than the limits of this module."""


def encode(data: bytes) -> bytes:
    """data as a netstring."""
    return b'%d:%b,' % (len(data), data)


class Netstring:
    """One netstring being read. take(data) -> (part of its bytes, what follows it); done: its comma was
    there."""

    __slots__ = ('most', 'size', 'left', 'done')

    def __init__(self, most=MOST):
        self.most, self.size, self.left, self.done = most, b'', -1, False

    def take(self, data: bytes) -> tuple:
        """Read on. What follows is b'' until done. Malformed, TooMuch."""
        if self.left < 0:
            data = self.length(data)
        if self.left < 0 or not data:
            return b'', b''
        part, data = data[:self.left], data[self.left:]
        self.left -= len(part)
        if data:
            if data[:1] != b',':
                raise Malformed('no comma after the bytes')
            self.done, data = True, data[1:]
        return part, data

    def length(self, data):
        """Read the digits; what follows the colon."""
        digits, colon, rest = data.partition(b':')
        self.size += digits[:20]
        number = self.size[:len(self.size) - len(self.size.lstrip(b'0123456789'))]
        if len(number) > 10 or number and int(number) > self.most:      # first, as it would be byte by byte
            raise TooMuch('longer than %d' % self.most)
        if number != self.size or colon and not number:
            raise Malformed('no length')
        if colon:
            self.left = int(self.size)
        return rest


class Addresses:
    """Netstrings one after the other, each an address: feed(data), then end(). found: bytes, or None where an
    address is too long or has a NUL."""

    __slots__ = ('found', 'inner', 'kept')

    def __init__(self):
        self.found, self.inner, self.kept = [], None, b''

    def feed(self, data: bytes) -> None:
        """Take bytes. Malformed, TooMuch."""
        while data:
            if self.inner is None:
                self.inner, self.kept = Netstring(), b''
            part, data = self.inner.take(data)
            if len(self.kept) < ADDRESS_MAX:
                self.kept += part[:ADDRESS_MAX]
            if self.inner.done:
                self.inner = None
                self.found.append(usable(self.kept))
                if len(self.found) > RECIPIENTS_MAX + 1:
                    raise TooMuch('too many addresses')

    def end(self) -> None:
        """No more bytes. Malformed if an address is not complete."""
        if self.inner is not None:
            raise Malformed('the last address is not complete')


def usable(address):
    """The address, None if no queue takes it: too long, or with a NUL, CR or LF."""
    bad = len(address) >= ADDRESS_MAX or b'\0' in address or b'\n' in address or b'\r' in address
    return None if bad else address
