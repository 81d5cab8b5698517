"""Which DNS servers to ask: control/resolvers, /etc/resolv.conf.

    127.0.0.1            ::1            control/resolvers: an address,
    127.0.0.1:5353       [::1]:5353     and a port other than 53
"""
from qpy.core import ip, text

PORT = 53
LOCAL = [(b'127.0.0.1', PORT)]      # resolv.conf(5): without a nameserver line, this host's


def parse_server(value, default=PORT):
    """(address, port) of a line in control/resolvers or control/qmqpservers; ValueError if it is none."""
    address, port = value, b''
    if value[:1] == b'[':
        address, _, port = value[1:].partition(b']')
        if port and port[:1] != b':':
            raise ValueError('write [IPv6]:PORT')
        port = port[1:]
    elif value.count(b':') == 1:
        address, _, port = value.partition(b':')
    number = text.parse_uint(port, 65535) if port or value[-1:] == b':' else default
    if ip.pack(address) is None or not number:
        raise ValueError('write an address, or ADDRESS:PORT, or [IPv6]:PORT')
    return address, number


def parse_resolv_conf(data):
    """[(address, port)] of the nameserver lines; what is not an address is passed over, as the C library
    does."""
    found = []
    for line in data.split(b'\n'):
        words = line.replace(b'\t', b' ').split(b' ')
        words = [word for word in words if word]
        if len(words) >= 2 and words[0] == b'nameserver' and ip.pack(words[1].partition(b'%')[0]) is not None:
            found.append((words[1], PORT))
    return found or LOCAL
