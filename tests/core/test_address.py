"""Addresses: what the wire may say, what it means inside, and the way back."""
import pytest
from hypothesis import given, settings, strategies as st

from qpy.core import address
from qpy.core.address import AddressError, EIGHT_BIT, LONG, SYNTAX

GOOD = [
    # G-21, G-22, G-23
    (b'<>', b'', b''),
    (b'<joe@example.com>', b'joe@example.com', b''),
    (b'<Joe@EXAMPLE.com> SIZE=3 BODY=8BITMIME', b'Joe@EXAMPLE.com', b'SIZE=3 BODY=8BITMIME'),
    (b'<joe>', b'joe', b''),
    (b'joe@example.com', b'joe@example.com', b''),
    (b'joe@example.com  SIZE=3 ', b'joe@example.com', b'SIZE=3'),
    (b'<"a b"@x.y>', b'a b@x.y', b''),
    (b'<"\\""@x.y>', b'"@x.y', b''),
    (b'<"a\\\\b"@x.y>', b'a\\b@x.y', b''),
    (b'<"."@x.y>', b'.@x.y', b''),
    (b'<"a"."b"@x.y>', b'a.b@x.y', b''),
    (b'<a."b c".d@x.y>', b'a.b c.d@x.y', b''),
    (b'<"a@b"@x.y>', b'a@b@x.y', b''),
    (b'<"a>b"@x.y>', b'a>b@x.y', b''),
    (b'"a b"@x.y', b'a b@x.y', b''),
    (b'<"' + b'\\"' * 64 + b'"@x.y>', b'"' * 64 + b'@x.y', b''),
    (b'<a..b@x.y>', b'a..b@x.y', b''),
    (b'<.a@x.y>', b'.a@x.y', b''),
    (b'<user%host@x.y>', b'user%host@x.y', b''),
    (b'<a!b@x.y>', b'a!b@x.y', b''),
    (b'<@a.b,@c.d:c@d.e>', b'c@d.e', b''),
    (b'<@[127.0.0.1]:x@local>', b'x@local', b''),
    (b'<@[IPv6:::1],@c:x@local>', b'x@local', b''),
    # G-24
    (b'<' + b'l' * 64 + b'@x.y>', b'l' * 64 + b'@x.y', b''),
    (b'<' + b'l' * 65 + b'@x.y>', b'l' * 65 + b'@x.y', b''),
    (b'<' + b'l' * 896 + b'@x.y>', b'l' * 896 + b'@x.y', b''),
    (b'<a@' + b'.'.join([b'd' * 63] * 4) + b'>', b'a@' + b'.'.join([b'd' * 63] * 4), b''),
    # G-25, G-26
    (b'<a@_x._y.z_>', b'a@_x._y.z_', b''),
    (b'<a@' + b'.'.join([b'a'] * 127) + b'>', b'a@' + b'.'.join([b'a'] * 127), b''),
    (b'<a@1.2.3.4a>', b'a@1.2.3.4a', b''),
    (b'<a@[192.0.2.1]>', b'a@[192.0.2.1]', b''),
    (b'<a@[IPv6:::1]>', b'a@[IPv6:::1]', b''),
    (b'<a@[IPv6:2001:db8::192.0.2.1]>', b'a@[IPv6:2001:db8::192.0.2.1]', b''),
    (b'<#@[]>', b'#@[]', b''),
]

BAD = [
    # G-21: empty forms
    (b'', SYNTAX), (b'< >', SYNTAX), (b'<', SYNTAX), (b'>', SYNTAX), (b'<a@b.c', SYNTAX),
    (b'< a@b.c >', SYNTAX),
    (b'<a@b.c>SIZE=1', SYNTAX), (b'<<a@b.c>>', SYNTAX), (b'<a@b.c>>', SYNTAX), (b'a@b.c>', SYNTAX),
    # G-22, G-23
    (b'<@a.b>', SYNTAX), (b'<@a.b:>', SYNTAX), (b'<@a.b,c@d.e>', SYNTAX), (b'<@:c@d.e>', SYNTAX),
    (b'<@a.b:@c.d>', SYNTAX), (b'<""@x.y>', SYNTAX), (b'<"">', SYNTAX), (b'<@x.y>', SYNTAX),
    (b'<a@b@x.y>', SYNTAX),
    (b'<"a@evil.example">', SYNTAX), (b'<"a"b@x.y>', SYNTAX), (b'<a"b"@x.y>', SYNTAX),
    (b'<"a""b"@x.y>', SYNTAX),
    (b'<"a@x.y>', SYNTAX), (b'<"a\\', SYNTAX), (b'<a\\b@x.y>', SYNTAX), (b'<a b@x.y>', SYNTAX),
    (b'<a,b@x.y>', SYNTAX),
    (b'<"a\0"@x.y>', SYNTAX), (b'<"a\r"@x.y>', SYNTAX), (b'<"\\\n"@x.y>', SYNTAX), (b'<a\x7f@x.y>', SYNTAX),
    # G-24
    (b'<' + b'l' * 1003 + b'@x.y>', LONG), (b'<' + b'l' * 897 + b'@x.y>', LONG),
    (b'<' + b'l' * 901 + b'>', LONG),
    (b'<a@' + b'.'.join([b'd' * 63] * 4) + b'.d>', SYNTAX), (b'<a@' + b'd' * 64 + b'.x>', SYNTAX),
    # G-25
    (b'<a@>', SYNTAX), (b'<a@.x>', SYNTAX), (b'<a@x.>', SYNTAX), (b'<a@x..y>', SYNTAX), (b'<a@-x.y>', SYNTAX),
    (b'<a@x-.y>', SYNTAX), (b'<a@1.2.3.4>', SYNTAX), (b'<a@x y>', SYNTAX), (b'<a@x/y>', SYNTAX),
    # G-26
    (b'<a@[127.1]>', SYNTAX), (b'<a@[0x7f000001]>', SYNTAX), (b'<a@[192.0.2.1>', SYNTAX),
    (b'<a@[256.1.1.1]>', SYNTAX),
    (b'<a@[01.2.3.4]>', SYNTAX), (b'<a@[1.2.3.4].x>', SYNTAX), (b'<a@[]>', SYNTAX), (b'<a@[::1]>', SYNTAX),
    (b'<a@[IPv6:1:2:3:4:5:6:7]>', SYNTAX), (b'<a@[IPv6:1::2::3]>', SYNTAX),
    (b'<a@[IPv6:fe80::1%eth0]>', SYNTAX),
    (b'<a@[IPv6:12345::]>', SYNTAX), (b'<a@[IPv6:1:2:3:4:5:6:7:8::]>', SYNTAX),
    (b'<a@[IPv6:::ffff:1.2.3]>', SYNTAX),
    # G-27
    (b'<\xc3\xa4@x.y>', EIGHT_BIT), (b'<"\xc3\xa4"@x.y>', EIGHT_BIT), (b'<a@\xc3\xa4.y>', EIGHT_BIT),
    (b'<"\\\xff"@x.y>', EIGHT_BIT), (b'\xe2\x84\xaa@x.y', EIGHT_BIT), (b'<@\xc3\xa4.y:a@b>', EIGHT_BIT),
]


@pytest.mark.parametrize('arg, expected, rest', GOOD)
def test_good_paths(arg, expected, rest):
    """G-21 to G-26: each accepted form of a path, its canonical address, and what is left for the
    parameters."""
    assert address.parse_path(arg) == (expected, rest)


@pytest.mark.parametrize('arg, kind', BAD)
def test_bad_paths(arg, kind):
    """G-21 to G-27: each refused form of a path, and the kind of refusal."""
    with pytest.raises(AddressError) as caught:
        address.parse_path(arg)
    assert caught.value.kind == kind


LOCALS = st.lists(st.sampled_from([bytes((c,)) for c in range(32, 127)] + [b'.', b'"', b'\\', b'@', b' ']),
                  min_size=1, max_size=20).map(b''.join)


@settings(max_examples=300)
@given(LOCALS, st.sampled_from([b'x.y', b'example.com', b'[192.0.2.1]', b'[IPv6:::1]']))
def test_quote_and_back(local, domain):
    """G-23: quoted outside and unquoted inside is the same address, for every local part of printable
    bytes."""
    canonical = local + b'@' + domain
    assert address.unquote(address.quote(canonical)) == canonical
    assert address.parse_path(b'<' + address.quote(canonical) + b'> A=b') == (canonical, b'A=b')
    assert address.split(canonical) == (local, domain)


@settings(max_examples=300)
@given(st.lists(st.sampled_from([b'<', b'>', b'@', b'"', b'\\', b'a', b'.', b'x.y', b',', b':', b' ', b'[',
    b']', b'\0',
                                 b'\xff', b'IPv6:', b'1.2.3.4', b'<a@b>']), max_size=14).map(b''.join))
def test_total(arg):
    """Any bytes are a path or an AddressError; what is accepted is plain ASCII, bounded, and survives
    quoting."""
    try:
        found, rest = address.parse_path(arg)
    except AddressError:
        return
    assert len(found) <= address.ADDRESS_MAX and not found.translate(None, bytes(range(32, 127)))
    assert rest == rest.strip(b' ')
    if found:
        assert address.unquote(address.quote(found)) == found


@pytest.mark.parametrize('canonical, wire', [
    (b'joe@x', b'joe@x'), (b'', b''), (b'a b@x', b'"a b"@x'), (b'a"b\\@x', b'"a\\"b\\\\"@x'),
    (b'.a@x', b'".a"@x'),
    (b'a..b@x', b'"a..b"@x'), (b'a.@x', b'"a."@x'), (b'\xff@x', b'"\xff"@x'), (b'@x', b'""@x'),
    (b'joe', b'joe'), ('jörg.ö@x'.encode(), 'jörg.ö@x'.encode()), ('jö rg@x'.encode(), '"jö rg"@x'.encode()),
    (b'a@b@x', b'"a@b"@x'), (b'a\nb@x', b'"a\\\nb"@x'), (b'#@[]', b'#@[]'),
])
def test_quote(canonical, wire):
    """qmail's quoting rule, case by case; but UTF-8 needs no quotes (RFC 6531, 3.3)."""
    assert address.quote(canonical) == wire


@pytest.mark.parametrize('text, expected', [
    (b'::ffff:192.0.2.1', b'192.0.2.1'), (b'::FFFF:192.0.2.1', b'192.0.2.1'), (b'::1', b'::1'),
    (b'192.0.2.1', b'192.0.2.1'),
    (b'::ffff:1.2.3', b'::ffff:1.2.3'), (b'', b''),
])
def test_normal_ip(text, expected):
    """An IPv4 address that came through an IPv6 socket is written as IPv4."""
    assert address.normal_ip(text) == expected
