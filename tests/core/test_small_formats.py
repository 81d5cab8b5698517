"""The formats of the small tools: syslog lines, utmp, ident."""
import struct

from hypothesis import given, strategies as st

from qpy.core import ident, syslines, utmp

NOW = 1764036974.000001


def fed(*pieces):
    """[(level, text)] of pieces, to the end."""
    lines = syslines.Lines()
    return [message for piece in pieces for message in lines.feed(piece, NOW)] + lines.end(NOW)


def test_lines_for_syslog():
    """The time stands first; the first word gives the level; odd bytes become ?, empty lines go, a last line
    without newline counts."""
    assert fed(b'a\xe9b\n\nwarning: x\nalert: y\nlast') == [
        (6, b'1764036974.000001 a?b'), (4, b'1764036974.000001 warning: x'),
        (1, b'1764036974.000001 alert: y'),
        (6, b'1764036974.000001 last')]


def test_a_long_line_goes_on():
    """Pieces of 799 bytes; the second begins with + after the same time, and has the first one's level."""
    found = fed(b'warning:' + b'x' * 1590 + b'\nnext\n')
    assert [level for level, _ in found] == [4, 4, 6]
    assert found[0][1] == b'1764036974.000001 warning:' + b'x' * 791
    assert found[1][1] == b'1764036974.000001+' + b'x' * 799 and found[2][1] == b'1764036974.000001 next'


@given(st.binary(max_size=4000), st.lists(st.integers(1, 900), max_size=6))
def test_pieces_do_not_matter(data, sizes):
    """However the input is cut, the messages are the same."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at:at + size])
        at += size
    assert fed(*pieces, data[at:]) == fed(data)


def test_the_datagram():
    """RFC 3164: facility and level, local time, tag."""
    there = (2026, 11, 5, 2, 6, 14)
    assert syslines.packet(2, 6, b'splogger', b'x', there) == b'<22>Nov  5 02:06:14 splogger: x'


def test_syslog_tags():
    """Who names itself as a program of qpy has its name as tag, on lines that go on too; qmail's lines have the one
    that was asked for."""
    tags, tag = [], b'qmail'
    for message in (b'1.0 new msg 1', b'1.0 qpy-smtpd: accepted', b'1.0+ rest', b'1.0 warning: x', b'1.0 qpy-: x',
                    b'1.0 qpy-x y: z', b'1.0+qpy-smtpd: x', b'1.0 resolve: x', b'1.0 qpy-smtpd[pop.3]: x', b'1.0+ x',
                    b'1.0 [x]: qpy-y: z', b'1.0 destination a.b: in order again', b'1.0 trace msg 1: 2', b'1.0 destination is far',
                    b'1.0 etrn a.b: messages', b'1.0 notice msg 1 qp 2: delay', b'1.0 notice'):
        tag = syslines.tag_of(message, b'qmail', tag)
        tags.append(tag)
    assert tags == [b'qmail', b'qpy-smtpd', b'qpy-smtpd', *[b'qmail'] * 5, b'qpy-smtpd', b'qpy-smtpd', b'qmail',
                    b'qpy-send', b'qpy-send', b'qmail', b'qpy-send', b'qpy-send', b'qmail']


def record(kind, line, user):
    return struct.pack('<hxxi32s4s32s', kind, 1, line, b'', user).ljust(384, b'\0')


def test_utmp():
    """The terminals of one user's logins, each once; other kinds, other users, odd names and a torn record do
    not count."""
    data = (record(7, b'pts/1', b'joe') + record(7, b'pts/2', b'ann') + record(8, b'pts/3', b'joe')
            + record(7, b'tty1', b'joe') + record(7, b'pts/1', b'joe') + record(7, b'../etc/x', b'joe')
            + record(7, b'/etc/x', b'joe') + record(7, b'pts/9', b'joe')[:100])
    assert utmp.terminals(data, b'joe') == [b'pts/1', b'tty1']


def test_ident():
    """Only an answer about this connection that names a user counts."""
    assert ident.question(6191, 23) == b'6191, 23\r\n'
    assert ident.user(b'6191, 23 : USERID : UNIX : stjohns\r\n', 6191, 23) == b'stjohns'
    assert ident.user(b'6191,23:USERID:UNIX,US-ASCII:a:b\n', 6191, 23) == b'a:b'
    for answer in (b'6191, 24 : USERID : UNIX : x\r\n', b'6191, 23 : ERROR : NO-USER\r\n', b'', b'junk\n',
                   b'6191, 23 : USERID : U : x'):
        assert ident.user(answer, 6191, 23) == b''
