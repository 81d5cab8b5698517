"""core.token822 and core.header: what is an address, what is a field, where a header ends."""
import time

import pytest
from hypothesis import given, strategies as st

from qpy.core import header, token822

SPICE = st.text(alphabet='a b.@,:;<>()[]"\\\t\n\xe9\x80', max_size=60).map(lambda s: s.encode('latin-1'))


def keep(address):
    return address


def listed(text):
    tokens, found = token822.address_list(token822.parse(text), keep)
    return token822.unparse(b'To', tokens), [token822.unquote(each) for each in found]


@pytest.mark.parametrize('text, field', [
    (b'John Q. Public <j@x>', b'To: John Q. Public <j@x>\n'), (b'J.R. Ewing <j@x>, b. c@d', b'To: J.R. Ewing <j@x>, b.c@d\n'),
    (b'A. (x) B.\n C <j@x>', b'To: A. (x) B. C <j@x>\n'), (b'J. <j@x.>', b'To: J. <j@x.>\n'), (b'A. B: j. k@x. y;', b'To: A. B: j.k@x.y;\n')])
def test_blanks_of_a_name_stay(text, field):
    """A blank behind a dot belongs to who is called so, and not to an address; qmail-inject drops it in both."""
    tokens, found = token822.address_list(token822.parse(text, spaced=True), keep)
    assert token822.unparse(b'To', tokens) == field
    assert all(token822.SPACED not in address for address in found)
    assert token822.address_list(token822.parse(text), keep)[1] == found


@pytest.mark.parametrize('text,field,found', [
    (b'joe', b'To: joe\n', [b'joe']),
    (b' joe@host , mary@host', b'To: joe@host, mary@host\n', [b'mary@host', b'joe@host']),
    (b'Joe <joe@host>', b'To: Joe <joe@host>\n', [b'joe@host']),
    (b'joe@host (Joe)', b'To: joe@host (Joe)\n', [b'joe@host']),
    (b'(c) bob@h  joe@[1.2.3.4]', b'To: bob@h (c), joe@[1.2.3.4]\n', None),
    (b'a"b c"d@e', b'To: a, "b c", d@e\n', [b'd@e', b'b c', b'a']),
    (b'list: a, b; , c', b'To: list: a, b;, c\n', [b'c', b'b', b'a']),
    (b'undisclosed-recipients:;', b'To: undisclosed-recipients: ;\n', []),
    (b'<>', b'To: <>\n', [b'']),
    (b'', b'To:\n', []),
    (b'a@b.c; d@e.f', b'To: a@b.c;, d@e.f\n', None),
    (b'"a\\"b"@c', b'To: "a\\"b"@c\n', [b'a"b@c']),
    (b'J\xf6rg <j@h>', b'To: "J\xf6rg" <j@h>\n', [b'j@h']),
    (b'a\\ b@c', b'To: "a b"@c\n', [b'a b@c']),
    (b'a\\,b', b'To: "a,b"\n', [b'a,b']),
])
def test_lists(text, field, found):
    """Each list is read and written as qmail reads and writes it."""
    if found is None:
        listed(text)
    else:
        assert listed(text) == (field, found)


@pytest.mark.parametrize('text', [b'"a', b'(a', b'[a', b'a )', b'] a', b'(a(b)', b'a: b', b'a, @r:b@c', b'a>',
                                  b'"a\\', b'joe <ann@x', b'<', b'a <', b'<a@b> <', b'a < b <c@d>', b'<a<b>', b'a, b <c, d',
                                  b'a: b; : c', b'x; y; z'])
def test_nonsense(text):
    """What is opened but not closed, or a group without its half, has no meaning."""
    with pytest.raises(token822.Unparsable):
        listed(text)


@given(SPICE)
def test_any_bytes(text):
    """Any bytes are parsed or refused; what is parsed and written is parsed again to the same addresses."""
    try:
        field, found = listed(text)
    except token822.Unparsable:
        return
    assert field.startswith(b'To:') and field.endswith(b'\n')
    assert listed(header.value(field))[1] == [each.replace(b'\n', b'') for each in found]


@pytest.mark.parametrize('shape', [b'<', b'>', b'(', b')', b'"', b'\\', b',', b'@', b'.', b'a ', b'<>', b'()',
                                   b'a@b,',
                                   b'(a', b'<a', b':;', b'a:', b';', b'\x80'])
def test_linear(shape):
    """H-04: a hundred thousand of anything take well under seconds and no recursion."""
    began = time.process_time()
    try:
        listed(shape * 100_000)
    except token822.Unparsable:
        pass
    assert time.process_time() - began < 4


def test_folding():
    """Lines are broken after commas, at 80 columns, with a newline and two blanks."""
    field, _ = listed(b', '.join(b'somebody%02d@example.org' % i for i in range(9)))
    assert field == (b'To: somebody00@example.org, somebody01@example.org, somebody02@example.org,\n'
                     b'  somebody03@example.org, somebody04@example.org, somebody05@example.org,\n'
                     b'  somebody06@example.org, somebody07@example.org, somebody08@example.org\n')


# --- header --------------------------------------------------------------------------------------------------

def split(data, pieces=None, keep_mbox_line=True):
    splitter, rest = header.Splitter(keep_mbox_line), []
    for piece in pieces or [data]:
        if rest or splitter.feed(piece):
            rest.append(b'' if not rest else piece)
    if not rest:
        splitter.end()
    return splitter.fields, splitter.body + b''.join(rest)


@pytest.mark.parametrize('data,fields,body', [
    (b'A: 1\nB: 2\n\nbody\n', [b'A: 1\n', b'B: 2\n'], b'\nbody\n'),
    (b'A: 1\n 2\n\t3\n\nx', [b'A: 1\n 2\n\t3\n'], b'\nx'),
    (b'A : 1\nnot a header\nx\n', [b'A : 1\n'], b'\nnot a header\nx\n'),
    (b'body at once\n', [], b'\nbody at once\n'),
    (b'\nbody\n', [], b'\nbody\n'),
    (b' blank first\n', [], b'\n blank first\n'),
    (b'', [], b''),
    (b'A: 1', [b'A: 1\n'], b''),
    (b'A: 1\n', [b'A: 1\n'], b''),
    (b'no header no end', [], b'\nno header no end\n'),
    (b'A: 1\r\nB: 2\r\n\r\nx\r\n', [b'A: 1\n', b'B: 2\n'], b'\r\nx\r\n'),
    (b'A: 1\r\r\nB: 2\n\n', [b'A: 1\n', b'B: 2\n'], b'\n'),
    (b'A: 1\rBcc: x\n\n', [b'A: 1 Bcc: x\n'], b'\n'),
    (b'From : joe\nA: 1\n\n', [b'From : joe\n', b'A: 1\n'], b'\n'),
    (b'From joe Mon Jan\nA: 1\n\n', [b'MBOX-Line: From joe Mon Jan\n', b'A: 1\n'], b'\n'),
    (b'From joe Mon\n>From mary Tue\nA: 1\n\n', [b'MBOX-Line: From joe Mon\n', b'MBOX-Line: >From mary Tue\n',
                                                 b'A: 1\n'],
     b'\n'),
    (b'A: 1\n>From x\n', [b'A: 1\n'], b'\n>From x\n'),
    (b'A: \x00\xff\n\nx', [b'A: \x00\xff\n'], b'\nx'),
])
def test_split(data, fields, body):
    """Where each header ends, fed whole or byte by byte."""
    assert split(data) == (fields, body)
    assert split(data, [data[i:i + 1] for i in range(len(data))]) == (fields, body)


def test_mbox_line_dropped():
    """The separator of mailbox files can be left out."""
    assert split(b'From j M\n>From k M\nA: 1\n\nFrom x\n', keep_mbox_line=False) == ([b'A: 1\n'],
                                                                                     b'\nFrom x\n')


@given(st.lists(st.sampled_from([b'A: 1\n', b' x\n', b'\n', b'\r\n', b'From \n', b'>From \n', b'y', b':',
                                 b'\r', b'\n\n'])),
       st.integers(1, 5))
def test_split_pieces(words, size):
    """The same events however the bytes arrive, and nothing but the separators is lost."""
    data = b''.join(words)
    pieces = [data[i:i + size] for i in range(0, len(data), size)]
    assert split(data) == split(data, pieces)


@pytest.mark.slow
def test_header_limit():
    """H-01: a header beyond the limit is refused; a body without any line end is not a header."""
    for endless in (b'A: ' + b'x' * 9_000_000, b'A: 1\n' * 2_000_000, b'A: 1\n' + b' x\n' * 3_000_000):
        with pytest.raises(header.TooLong):
            split(endless, [endless[i:i + 65536] for i in range(0, len(endless), 65536)])
    zeros = bytes(9_000_000)
    assert split(zeros)[0] == []
