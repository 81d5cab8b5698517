"""The queue file: envelope, footer, IDs (qpy.core.mess)."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpy.core import mess

IDENT = b'1764036974123456'
value = st.binary(max_size=40).map(lambda b: b.replace(b'\0', b''))
letter = st.integers(1, 255).map(lambda n: bytes([n])).filter(lambda b: b not in (b'F', b'T'))
options = st.lists(st.tuples(letter, value), max_size=4)


@st.composite
def envelopes(draw):
    """Any envelope that can be built."""
    recipients = draw(st.lists(value, max_size=5))
    personal = [draw(options) for _ in recipients]
    return mess.Envelope(draw(value), recipients, draw(options), personal)


@given(envelopes())
def test_an_envelope_comes_back_as_it_was_built(envelope):
    """Every record, known or not, is kept, in its place (unknown letters are passed on)."""
    data = envelope.build()
    again = mess.parse(data)
    assert again.build() == data
    assert (again.sender, again.recipients, again.options) == (envelope.sender, envelope.recipients, envelope.options)
    assert [list(o) for o in again.recipient_options] == envelope.recipient_options


@given(st.binary(max_size=60) | st.lists(st.sampled_from([b'F', b'T', b'N', b'\0', b'a@b', b'X'])).map(b''.join))
def test_any_bytes_are_an_envelope_or_damaged(data):
    """Q-19: parsing is total; what is taken for an envelope is exactly what build() makes of it."""
    try:
        assert mess.parse(data).build() == data
    except mess.Damaged:
        pass


@pytest.mark.parametrize('data', [b'', b'\0', b'F', b'Fa', b'Ta\0', b'Fa\0Fb\0', b'Fa\0\0', b'Fa\0Tb', b'Fa\0Tb\0\0', b'Fa\0Tb\0Fc\0'])
def test_damaged_envelopes(data):
    """Q-19, Q-20: no sender, two senders, an empty record, no NUL at the end."""
    with pytest.raises(mess.Damaged):
        mess.parse(data)


@pytest.mark.parametrize('envelope', [mess.Envelope(b'a\0b'), mess.Envelope(b'a', [b'b\0Tc']), mess.Envelope(b'a', [], [(b'F', b'x')]),
                                      mess.Envelope(b'a', [], [(b'', b'x')]), mess.Envelope(b'a', [], [(b'XY', b'x')])])
def test_no_value_can_forge_a_record(envelope):
    """P-02: NUL in a value, or a letter that is none, raises before anything is written."""
    with pytest.raises(ValueError):
        envelope.build()


def test_options_are_found_by_letter():
    """option() and recipient_option() give the first value, or the default."""
    envelope = mess.parse(b'Fa\0XT1\0X2\0Tb\0Tc\0NNEVER\0')
    assert envelope.option(b'X') == b'T1' and envelope.option(b'Q') is None
    assert envelope.recipient_option(1, b'N') == b'NEVER' and envelope.recipient_option(0, b'N', b'-') == b'-'


def test_ids():
    """Sixteen ASCII digits and nothing else; microseconds since 1970."""
    assert mess.make_id(1764036974123456) == IDENT and mess.is_id(IDENT)
    assert mess.make_id(7) == b'0000000000000007'
    for wrong in (b'', b'176403697412345', b'17640369741234567', b'176403697412345a', b'17640369741234\n6', b'+764036974123456',
                  b'../../../../etc/', '١٧٦٤٠٣٦٩'.encode()):
        assert not mess.is_id(wrong)
    with pytest.raises(ValueError):
        mess.make_id(10 ** 16)


DAY, NOW = 86_400, 1_795_000_000


@pytest.mark.parametrize('came, now, born, found', [
    (NOW - 9, NOW, 0, NOW - 9), (NOW + DAY, NOW, 5, NOW + DAY),         # the ID's own time
    (NOW + DAY + 1, NOW, 0, NOW), (NOW * 2, NOW, NOW - 7, NOW - 7),     # from a clock ahead of ours
    (NOW * 2, NOW, NOW + 9 * DAY, NOW),                                 # ... and what was noted too
    (77, NOW, 0, NOW), (77, NOW, 99, NOW), (77, NOW, NOW - 7, NOW - 7),     # from one that was not set
    (77, 99, 0, 77), (NOW, 99, 0, 99), (NOW, 99, 80, 80)])              # and now it is not
def test_when_a_message_came(came, now, born, found):
    """Its ID tells, unless that lies a day ahead of the clock, or before qpy was while the clock does not: then what has
    been noted, or now; less the seconds that it was elsewhere."""
    ident = mess.make_id(came * 1_000_000 + 5)
    assert mess.came(ident, now, born) == found == mess.arrival(ident, mess.Envelope(b''), now, born)
    assert mess.is_dated(ident, now) == (came == found)
    assert mess.arrival(ident, mess.Envelope(b'', options=[(b'a', b'60')]), now, born) == found - 60


def test_a_file_on_paper():
    """The layout that qpy-queue-format(5) shows, byte for byte: it can never change under version 1."""
    data = mess.pack(b'Subject: x\n\nbody\n', b'Fa@b\0Tc@d\0', IDENT)
    assert data[:27] == b'Subject: x\n\nbody\nFa@b\0Tc@d\0'
    assert data[27:80] == b'qpy1 0000000000000000017 0000000010 1764036974123456 '
    assert len(data) == 27 + mess.FOOTER_SIZE and data[80:] == b'%08x\n' % __import__('zlib').crc32(data[:80])


@given(st.binary(max_size=200), envelopes())
def test_a_whole_file_comes_back(message, envelope):
    """Message and envelope are what was packed, for every message."""
    assert mess.unpack(mess.pack(message, envelope.build(), IDENT), IDENT) == (message, envelope)


def test_every_torn_changed_or_foreign_file_is_seen():
    """Q-12: cut anywhere, any byte changed, bytes appended, zeroed tails, or another message's file: Damaged."""
    data = mess.pack(b'Subject: x\n\nbody\n', b'Fa@b\0Tc@d\0', IDENT)
    wrong = [data[:i] for i in range(len(data))] + [data + b'\n', data + data, b'', b'\0' * len(data)]
    wrong += [data[:i] + b'\0' * (len(data) - i) for i in range(len(data))]
    wrong += [data[:i] + bytes([data[i] ^ 1]) + data[i + 1:] for i in range(len(data)) if i != len(data) - 59]
    for bad in wrong:
        with pytest.raises(mess.Damaged):
            mess.unpack(bad, IDENT)
    with pytest.raises(mess.Damaged):
        mess.unpack(data, b'1764036974123457')


def test_a_newer_version_is_refused_not_cleaned():
    """A queue file of a later version is no damaged one."""
    data = mess.pack(b'x\n', b'Fa\0', IDENT).replace(b'qpy1 ', b'qpy2 ')
    with pytest.raises(mess.Newer):
        mess.unpack(data, IDENT)


@given(st.binary(max_size=150), st.integers(0, 150), st.integers(0, 20))
def test_any_bytes_are_a_file_or_not(junk, at, kept):
    """Reading is total: junk in the place of any part of a file gives what was packed, or is no file."""
    good = mess.pack(b'Subject: x\n\nbody\n', b'Fa@b\0Tc@d\0', IDENT)
    for data in (junk, good[:at] + junk + good[at + len(junk):], good[:at] + junk[:kept] + good[at:]):
        try:
            message, envelope = mess.unpack(data, IDENT)
        except (mess.Damaged, mess.Newer):
            assert data != good
        else:
            assert mess.pack(message, envelope.build(), IDENT) == data
