"""UUCP's From_ lines: who sent it."""
import pytest

from qpy.core import uucp


@pytest.mark.parametrize('lines, sender', [
    ([], None), ([b''], None), ([b'From '], None), ([b'From joe'], b'joe'), ([b'From joe Mon Nov 30 09:00:00 2026'], b'joe'),
    ([b'From joe Mon Nov 30 09:00:00 2026 remote from far'], b'joe@far'), ([b'>From joe Mon remote from far'], b'joe@far'),
    ([b'From far!joe Mon'], b'joe@far'), ([b'From a!b!joe Mon'], b'b!joe@a'), ([b'From a!b.c!joe Mon'], b'joe@b.c'),
    ([b'From a.b!c!joe Mon'], b'c!joe@a.b'), ([b'From uucp Mon remote from near', b'>From joe Mon remote from far'], b'far!joe@near'),
    ([b'From uucp Mon remote from near', b'>From joe Mon forwarded by far.example.org'], b'joe@far.example.org'),
    ([b'From x!uucp Mon remote from near', b'>From far!joe Mon'], b'x!far!joe@near'),
    ([b'From joe@example.org Mon remote from near'], b'joe@example.org'), ([b'From <> Mon remote from near'], b''),
    ([b'From MAILER-DAEMON Mon'], b'MAILER-DAEMON'), ([b'From joe Mon remote from '], b'joe'), ([b'From far! Mon'], b'')])
def test_sender(lines, sender):
    """Each hop adds a line in front; a host with a domain can be answered without those behind it (RFC 976)."""
    assert uucp.sender(lines) == sender
