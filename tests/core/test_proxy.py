"""The PROXY protocol and XCLIENT: who the client is behind a proxy."""
import ipaddress
import struct

import pytest
from hypothesis import given, strategies as st

from qpy.core import proxy


def v2(command=0x21, family=0x11, rest=bytes([192, 0, 2, 7, 192, 0, 2, 1]) + b'\xdc\x04\0\x19'):
    return proxy.SIGNATURE + bytes((command, family)) + struct.pack('!H', len(rest)) + rest


SIX = ipaddress.ip_address('2001:db8::7').packed + ipaddress.ip_address('2001:db8::1').packed + bytes(4)
GOOD = [(b'PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\n', b'192.0.2.7', b'192.0.2.1'),
        (b'PROXY TCP6 2001:DB8::7 2001:db8::1 1 65535\r\n', b'2001:db8::7', b'2001:db8::1'),
        (b'PROXY UNKNOWN\r\n', b'', b''), (b'PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n', b'', b''),
        (v2(), b'192.0.2.7', b'192.0.2.1'), (v2(rest=bytes([192, 0, 2, 7, 192, 0, 2, 1]) + bytes(4) + b'more of it'), b'192.0.2.7', b'192.0.2.1'),
        (v2(family=0x21, rest=SIX), b'2001:db8::7', b'2001:db8::1'), (v2(0x20, 0, b''), b'', b''), (v2(0x20), b'', b''),
        (v2(0x21, 0, b''), b'', b'')]


@pytest.mark.parametrize('header, ip, local', GOOD)
def test_headers(header, ip, local):
    """Both versions, whole and byte by byte; what follows the header is never taken."""
    count, told = proxy.take(b'', header + b'\x16\x03\x01 not ours')
    assert count == len(header) and (told.ip, told.local_ip) == (ip, local)
    held = b''
    for at in range(len(header)):
        count, told = proxy.take(held, header[at:at + 1])
        assert count == 1 and (told is not None) == (at == len(header) - 1)
        held += header[at:at + 1]


@pytest.mark.parametrize('header', [
    b'EHLO x\r\n', b'proxy TCP4', b'PROXY TCP4 192.0.2.7 192.0.2.1 56324\r\n', b'PROXY TCP4 ::1 ::1 1 2\r\n', b'PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n',
    b'PROXY TCP4 192.0.2.07 192.0.2.1 1 2\r\n', b'PROXY TCP4 192.0.2.7 192.0.2.1 1 99999\r\n', b'PROXY TCP4  192.0.2.7 192.0.2.1 1 2\r\n',
    b'PROXY TCP4 ' + b'1' * 100, b'\r\n\r\nQUIT', v2(0x22), v2(0x11), v2(family=0x12), v2(family=0x31), v2(rest=b'x' * 11),
    proxy.SIGNATURE + b'\x21\x11\xff\xff'])
def test_headers_that_are_none(header):
    """Anything else is an error as soon as it is one."""
    with pytest.raises(ValueError):
        count, told = proxy.take(b'', header)
        assert told is not None and told.ip == b'nothing'


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes(data, signed):
    """No header takes more than there is; nothing but ValueError comes of it."""
    data = (proxy.SIGNATURE if signed else b'') + data
    try:
        count, told = proxy.take(b'', data)
    except ValueError:
        return
    assert 0 <= count <= len(data)


@given(st.ip_addresses(v=6))
def test_addresses_as_text(address):
    """The one form of RFC 5952 (addresses of IPv4 in it as IPv4)."""
    expected = str(address.ipv4_mapped or address)
    assert proxy.written(address.packed).decode() == expected


@pytest.mark.parametrize('argument, told', [
    (b'NAME=mx.example ADDR=192.0.2.7', {b'NAME': b'mx.example', b'ADDR': b'192.0.2.7'}),
    (b'addr=IPV6:2001:DB8::7 helo=+41x', {b'ADDR': b'2001:db8::7', b'HELO': b'Ax'}), (b'NAME=[UNAVAILABLE] ADDR=[TEMPUNAVAIL]', {b'NAME': b'', b'ADDR': b''}),
    (b'LOGIN=joe+40x PROTO=ESMTP', {b'LOGIN': b'joe@x', b'PROTO': b'ESMTP'})])
def test_xclient(argument, told):
    """Attributes in any case, values in xtext."""
    assert proxy.parse_xclient(argument) == told


@pytest.mark.parametrize('argument', [b'', b'NAME', b'SOMETHING=x', b'ADDR=x', b'NAME=a NAME=b', b'HELO=+4', b'HELO=+0D+0A', b'LOGIN=' + b'x' * 300])
def test_xclient_that_is_none(argument):
    """Unknown, twice, malformed, with line ends."""
    with pytest.raises(ValueError):
        proxy.parse_xclient(argument)
