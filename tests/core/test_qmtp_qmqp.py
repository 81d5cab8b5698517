"""QMTP and QMQP: netstrings in, messages out, whatever the pieces; both ends of QMQP against each other."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import netstring, qmqp, qmtp

encode = netstring.encode


def qmtp_message(message, sender, recipients, end=b'\n'):
    return encode(end + message) + encode(sender) + encode(b''.join(map(encode, recipients)))


def heard(session, data, sizes=()):
    """[(message, sender, recipients)] of data, fed in pieces."""
    found, body, at = [], b'', 0
    for size in [*sizes, len(data)]:
        session.receive(data[at:at + size])
        at += size
        while (event := session.next()) is not None:
            kind, value = event
            if kind == qmtp.BODY:
                body += value
            else:
                found.append((body, *value))
                body = b''
    return found


TEXT = st.binary(max_size=300)
ADDRESS = st.lists(st.sampled_from(sorted(set(range(1, 256)) - {10, 13})), max_size=30).map(bytes)    # netstring.usable()
SIZES = st.lists(st.integers(1, 40), max_size=30)


@given(st.lists(st.tuples(TEXT, ADDRESS, st.lists(ADDRESS, max_size=4)), max_size=3), SIZES)
def test_qmtp_messages(messages, sizes):
    """Any number of messages on one connection, byte for byte, however they are cut."""
    data = b''.join(qmtp_message(*message) for message in messages)
    session = qmtp.Session()
    assert heard(session, data, sizes) == messages and session.idle()


@given(TEXT, ADDRESS, st.lists(ADDRESS, max_size=4), SIZES)
def test_qmqp_both_ends(message, sender, recipients, sizes):
    """What the client's side writes the server's side reads."""
    before, after = qmqp.head(len(message), [sender, *recipients])
    assert heard(qmqp.Session(), before + message + after, sizes) == [(message, sender, recipients)]


@given(TEXT, SIZES)
def test_line_ends(text, sizes):
    """After a CR as first byte, CR LF is a line end, and any other CR stays."""
    found = heard(qmtp.Session(), qmtp_message(text, b's', [b'r'], b'\r'), sizes)
    assert found == [(text.replace(b'\r\n', b'\n'), b's', [b'r'])]


@pytest.mark.parametrize('data', [b'x', b':', b'3:abc;', b'1:X,', b'0:,', b'-1:', b' 1:', b'1 :',
                                  b'2:\na,1:s,3:1:a,',
                                  b'2:\na,1:s,2:1:,', b'2:\na,1:s,5:1:a;,'])
def test_qmtp_malformed(data):
    """What is no QMTP is refused at once."""
    with pytest.raises(netstring.Malformed):
        heard(qmtp.Session(), data)


@pytest.mark.parametrize('data', [b'5:2:ab,,', b'4:9:ab,', b'8:2:ab,1:s;,', b'7:2:ab,1:,', b'3:ab,,'])
def test_qmqp_malformed(data):
    """A message without a sender, or lengths that do not fit into each other."""
    with pytest.raises((netstring.Malformed, netstring.TooMuch)):
        heard(qmqp.Session(), data)


def test_limits():
    """More than 200 million bytes, a length without end, too many recipients: TooMuch."""
    for data in (b'200000001:', b'0' * 30 + b'1'):
        with pytest.raises(netstring.TooMuch):
            qmtp_session = qmtp.Session()
            heard(qmtp_session, data)
    with pytest.raises(netstring.TooMuch):
        heard(qmtp.Session(), qmtp_message(b'', b's', [b''] * (netstring.RECIPIENTS_MAX + 2)), [65536] * 10)


def test_unusable_addresses():
    """An address that is too long or has a NUL, CR or LF is None; its neighbours stay."""
    found = heard(qmtp.Session(), qmtp_message(b'm', b's' * 1000,
                                               [b'a', b'b' * 1000, b'c\0d', b'e\nf', b'g' * 999]))
    assert found == [(b'm', None, [b'a', None, None, None, b'g' * 999])]


@given(TEXT, SIZES)
def test_the_answer(words, sizes):
    """The client hears the answer, however it is cut; too long a one is TooMuch."""
    answer, data, at = qmqp.Answer(), encode(words), 0
    found = []
    for size in [*sizes, len(data)]:
        if at < len(data):
            found.append(answer.feed(data[at:at + size]))
        at += size
    assert [each for each in found if each is not None] == [words]
    with pytest.raises(netstring.TooMuch):
        qmqp.Answer().feed(b'5001:')


def outcome(session, data, sizes):
    """What is heard, or the error there is."""
    try:
        return heard(session, data, sizes)
    except (netstring.Malformed, netstring.TooMuch) as error:
        return type(error)


@given(st.binary(max_size=200) | st.lists(st.sampled_from([
    b'1:', b'3:', b'0:', b'8:', b',', b'\n', b'a', b'1:a,', b'4:1:a,,', b'2:\na,', b'3:a@b,'])).map(b''.join), SIZES)
def test_junk(data, sizes):
    """Any bytes: events, or one of the two errors; the same whatever the pieces they come in."""
    for kind in (qmtp.Session, qmqp.Session):
        whole = outcome(kind(), data, ())
        assert outcome(kind(), data, sizes) == whole == outcome(kind(), data, [1] * len(data))
