"""Maildir names and mbox bytes: qpy.core.maildir, qpy.core.mbox."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import maildir, mbox


def test_maildir_name():
    """L-12: time, microseconds, process, sequence, random and host, with `/` and `:` of the host escaped."""
    name = maildir.unique(1795455323.25, 77, 3, b'\x01\xfe', maildir.host_part(b'a/b:c'))
    assert name == b'1795455323.M250000P77Q3R01fe.a\\057b\\072c'


@given(st.binary(max_size=100))
def test_any_host_makes_a_file_name(host):
    """L-12: no host name, however odd, puts a separator, a blank or a control character into a file name."""
    part = maildir.host_part(host)
    assert all(32 < c < 127 and c not in b'/:' for c in part)


def quoted(portions):
    quoter = mbox.Quoter()
    return b''.join([quoter.feed(p) for p in portions] + [quoter.end()])


def plain(message):
    """The rule, line by line: qmail's loop."""
    out = []
    for line in message.split(b'\n'):
        out.append((b'>' if line.lstrip(b'>').startswith(b'From ') else b'') + line)
    text = b'\n'.join(out)
    return (text if text.endswith(b'\n') or not text else text + b'\n') + b'\n'


@pytest.mark.parametrize('message', [b'', b'\n', b'a', b'From x', b'From ', b'From', b'>>From x\n', b'a\nFrom \n>From a',
                                     b'aFrom x\n', b'> From x\n', b'From From x\n', b'>From >From x\nF'])
def test_mbox_quoting(message):
    """A line of any number of `>` and then `From ` gets one more; a missing newline is added; one empty line ends."""
    assert quoted([message]) == plain(message)
    assert quoted([bytes([c]) for c in message]) == plain(message)


@given(st.lists(st.sampled_from([b'From ', b'>', b'\n', b'Fro', b'm ', b'x', b'>>>', b'F'])), st.integers(1, 7))
def test_mbox_quoting_in_any_portions(parts, size):
    """INV4: the fast way and the plain one agree, however the message is cut; taking one `>` off gives it back."""
    message = b''.join(parts)
    text = quoted([message[i:i + size] for i in range(0, len(message), size)])
    assert text == plain(message)
    lines = [line[1:] if line.startswith(b'>') and line.lstrip(b'>').startswith(b'From ') else line
             for line in text.split(b'\n')]
    assert b'\n'.join(lines).startswith(message)
    assert not any(line.startswith(b'From ') for line in text.split(b'\n'))


def test_mbox_memory_stays_small():
    """A line of a million `>` holds nothing back."""
    quoter = mbox.Quoter()
    assert sum(len(quoter.feed(b'>' * 1000)) for _ in range(1000)) == 1000000
    assert quoter.feed(b'From x') == b'>From x'


@pytest.mark.parametrize('tail, start', [(b'', b''), (b'a\n\n', b''), (b'a\n', b'\n'), (b'ab', b'\n\n')])
def test_after_a_torn_message_a_fresh_line(tail, start):
    """L-19: the next message never becomes part of one whose writer died."""
    assert mbox.fresh_start(tail) == start
