"""Records between programs: qpy.core.channel."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import channel

TABLE = {b'K': (3, False), b'L': (2, True), b'C': (1, False)}
field = st.binary(max_size=20).map(lambda b: b.replace(b'\0', b'x'))
records = st.lists(st.one_of(st.tuples(st.just(b'K'), st.tuples(field, field, field)),
                             st.tuples(st.just(b'L'), st.tuples(field, field)),
                             st.tuples(st.just(b'C'), st.tuples(field))), min_size=1, max_size=5)


@given(records)
def test_what_is_packed_is_unpacked(given_records):
    """Any records of a table, packed one after the other into one packet, come out as they went in."""
    packet = b''.join(channel.pack(letter, *fields) for letter, fields in given_records)
    assert channel.unpack(packet, TABLE) == [(letter, list(fields)) for letter, fields in given_records]


@given(st.binary(max_size=60))
def test_unpack_is_total(packet):
    """P-01: whatever bytes arrive, unpack gives records of the table or ChannelError, nothing else."""
    try:
        for letter, fields in channel.unpack(packet, TABLE):
            assert len(fields) == TABLE[letter][0]
    except channel.ChannelError:
        pass


@given(records, st.data())
def test_a_packet_cut_anywhere_is_refused_or_shorter(given_records, data):
    """P-01: a packet cut at any byte never yields a record that was not sent whole."""
    packet = b''.join(channel.pack(letter, *fields) for letter, fields in given_records)
    cut = data.draw(st.integers(0, len(packet) - 1))
    try:
        found = channel.unpack(packet[:cut], TABLE)
    except channel.ChannelError:
        return
    assert found == [(letter, list(fields)) for letter, fields in given_records][:len(found)]


def test_nul_in_a_field_is_refused_before_anything_is_sent():
    """P-02: a field with NUL raises in the constructor."""
    with pytest.raises(ValueError):
        channel.pack(b'K', b'1', b'a\0b', b'')
