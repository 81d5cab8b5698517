"""The DATA decoder: what ends a text, what is stored, and that no splitting changes either."""
import pytest
from hypothesis import given, settings, strategies as st

from qpy.core import smtp_data
from qpy.core.smtp_data import Decoder, LooseDecoder, PlainDecoder


def run(decoder, pieces):
    """(stored, fault, rest, size, hops) of a decoder fed with pieces until its end or a fault."""
    stored = b''
    for n, piece in enumerate(pieces):
        out, rest = decoder.feed(piece)
        stored += out
        if decoder.fault:
            return b'', decoder.fault, None, None, None
        if rest is not None:
            return stored, None, rest + b''.join(pieces[n + 1:]), decoder.size, decoder.hops
    return stored, None, None, decoder.size, decoder.hops


def singly(data):
    return [data[n:n + 1] for n in range(len(data))]


def encode(text):
    """Stored form to wire form, as a client does it."""
    wire = text.replace(b'\n', b'\r\n')
    wire = b'.' + wire if wire[:1] == b'.' else wire
    return wire.replace(b'\r\n.', b'\r\n..') + b'.\r\n'


# G-01 to G-08: wire, stored, fault, rest
TABLE = [
    (b'.\r\n', b'', None, b''),
    (b'\r\n.\r\n', b'\n', None, b''),                           # G-01
    (b'x\r\n.\r\nQUIT\r\n', b'x\n', None, b'QUIT\r\n'),         # G-12
    (b'x\r\n.\n.\r\n', None, b'LF', None),                      # G-04
    (b'x\n.\n', None, b'LF', None),                             # G-02
    (b'x\n.\r\n', None, b'LF', None),                           # G-03
    (b'\n', None, b'LF', None),
    (b'\n.\r\n', None, b'LF', None),
    (b'.\n', None, b'LF', None),
    (b'x\r.\r\n', None, b'CR', None),                           # G-05
    (b'.\rx', None, b'CR', None),
    (b'x\r.\r\r\n', None, b'CR', None),                         # G-06
    (b'x\n.\r', None, b'LF', None),                             # G-06
    (b'x\r\n.\r.\r\n', None, b'CR', None),                      # G-06
    (b'x\r\r\n.\r\n', None, b'CR', None),
    (b'x\r\n\r\r\n', None, b'CR', None),
    (b'..\r\n.\r\n', b'.\n', None, b''),                        # G-08
    (b'.x\r\n..y\r\nz\r\n.\r\n', b'x\n.y\nz\n', None, b''),     # G-08
    (b'a\r\n...\r\n.\r\n', b'a\n..\n', None, b''),
    (b'a.\r\n.\r\n', b'a.\n', None, b''),
    (b'a..b\r\n.\r\n', b'a..b\n', None, b''),
    (b'\0\xff\r\n.\r\n', b'\0\xff\n', None, b''),
    (b'x\r\n.\r', b'x', None, None),                            # G-11: the end has not come
]


@pytest.mark.parametrize('wire, stored, fault, rest', TABLE)
@pytest.mark.parametrize('kind', [Decoder, PlainDecoder])
@pytest.mark.parametrize('split', [lambda d: [d], singly])
def test_table(wire, stored, fault, rest, kind, split):
    """G-01 to G-08: only CR LF . CR LF ends the text; a lone CR or LF is a fault; one dot is dropped."""
    result = run(kind(), split(wire))
    assert result[1] == fault
    if not fault:
        assert result[0] == stored or rest is None and result[0] in (stored, stored + b'\n')
        assert result[2] == rest


ALPHABET = st.sampled_from([b'\r', b'\n', b'.', b'x', b'\r\n', b'\r\n.', b'\r\n.\r\n', b'Received: y',
    b'delivered',
                            b'\r\n\r\n', b'\n.\n', b'\0', b'\xff', b' '])
WIRES = st.lists(ALPHABET, max_size=24).map(b''.join)


@st.composite
def split_wires(draw):
    wire = draw(WIRES)
    cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    return wire, [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)])]


@settings(max_examples=400)
@given(split_wires(), st.sampled_from([0, 1, 5, 30]))
def test_any_split_and_both_decoders_agree(case, limit):
    """G-07: fast and plain decoder give the same bytes, size, hops, fault and rest for every split of a
    text."""
    wire, pieces = case
    expected = run(PlainDecoder(limit), [wire])
    assert run(PlainDecoder(limit), pieces) == expected
    for split in ([wire], pieces, singly(wire)):
        stored, fault, rest, size, hops = run(Decoder(limit), split)
        assert fault == expected[1] and rest == expected[2]
        if rest is not None:
            assert (stored, size, hops) == (expected[0], expected[3], expected[4])


def test_all_splits_of_the_end():
    """G-07: each of the 2^n ways to cut `x CR LF . CR LF` gives the same."""
    wire = b'x\r\n.\r\nR'
    for mask in range(1 << (len(wire) - 1)):
        pieces, last = [], 0
        for n in range(1, len(wire)):
            if mask >> (n - 1) & 1:
                pieces.append(wire[last:n])
                last = n
        pieces.append(wire[last:])
        assert run(Decoder(), pieces)[:3] == (b'x\n', None, b'R'), pieces


@settings(max_examples=200)
@given(st.lists(st.sampled_from([b'.', b'\n', b'a', b'\xff\0', b'..', b'\n.\n', b' x']),
    max_size=20).map(b''.join))
def test_conservation(text):
    """G-09: whatever text of complete lines a client encodes, exactly that is stored."""
    text += b'' if text[-1:] in (b'\n', b'') else b'\n'
    assert run(Decoder(), [encode(text)])[:3] == (text, None, b'')
    assert run(Decoder(), singly(encode(text)))[:3] == (text, None, b'')


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_conservation_of_any_bytes(wire):
    """G-09: for all byte strings: a fault, or a text that passes the next server unchanged, and whole."""
    stored, fault, rest, size, _ = run(Decoder(), [wire + b'\r\n.\r\n'])
    if not fault:
        assert size == len(stored)
        assert run(Decoder(), [encode(stored)])[:3] == (stored, None, b'')


def test_limit_cuts_and_counts():
    """G-29: above the limit no more is given out, and the size still counts all of it."""
    decoder = Decoder(4)
    assert decoder.feed(b'123\r\n456\r\n') == (b'123\n', None)
    assert decoder.feed(b'.\r\nRSET')[1] == b'RSET'
    assert decoder.size == 8


def test_long_line_is_not_collected():
    """G-30: a line without an end goes through in pieces; at most four bytes are held back."""
    decoder = Decoder()
    for _ in range(50):
        stored, rest = decoder.feed(b'x' * 65536)
        assert len(stored) == 65536 and rest is None and len(decoder.held) <= 4
    assert len(decoder.head) <= smtp_data.HEAD


@pytest.mark.parametrize('header, hops', [
    (b'Received: a\r\nX: y\r\nreceived: b\r\n', 2), (b'RECEIVED :\r\n', 1), (b'Delivered-To: x\r\n', 1),
    (b'X: y\r\n received\r\n', 0), (b'', 0), (b'Received: a\r\n' * 101, 101),
])
@pytest.mark.parametrize('split', [lambda d: [d], singly])
def test_hops(header, hops, split):
    """G-40: hops are the header lines that begin with received or delivered in any case, none in the body."""
    wire = header + b'\r\nReceived: in the body\r\n.\r\n'
    assert run(Decoder(), split(wire))[4] == hops


@settings(max_examples=200)
@given(split_wires())
def test_loose_takes_lf(case):
    """`sendmail -bs`: LF and CR LF both end a line; the result does not depend on the split."""
    wire, pieces = case
    result, whole = run(LooseDecoder(), pieces), run(LooseDecoder(), [wire])
    assert result[1] == whole[1] and lf(result[2]) == lf(whole[2])
    if b'\r' not in lf(wire):
        expected = run(PlainDecoder(), [lf(wire).replace(b'\n', b'\r\n')])
        assert result[1] is None and lf(result[2]) == lf(expected[2])
        if expected[2] is not None:
            assert result[0] == whole[0] == expected[0]


def lf(wire):
    return wire and wire.replace(b'\r\n', b'\n')
