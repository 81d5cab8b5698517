"""The submit channel, both ends against each other without a socket (qpy.core.submit)."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpy.core import exits, mess, submit

IDENT = b'1764036974123456'


def events_of(pieces):
    """What a fresh Receiver makes of the pieces, with neighbouring BODY pieces joined."""
    receiver, found = submit.Receiver(), []
    for piece in pieces:
        for kind, value in receiver.feed(piece):
            if kind == submit.BODY and found and found[-1][0] == submit.BODY:
                found[-1] = (kind, found[-1][1] + value)
            else:
                found.append((kind, value))
    return found, receiver


def wire(frames, records):
    """One message as a client sends it."""
    return b''.join(submit.frame(f) for f in frames) + submit.END + records + b'\0'


record = st.binary(min_size=1, max_size=12).map(lambda b: b.replace(b'\0', b'x'))
messages = st.tuples(st.lists(st.binary(min_size=1, max_size=30), max_size=3),
                     st.lists(record, max_size=4).map(lambda rs: b''.join(r + b'\0' for r in rs)))


@given(st.lists(messages, max_size=3), st.data())
def test_however_the_bytes_are_cut_the_events_are_the_same(sent, data):
    """Whole, byte by byte, or cut anywhere: the same messages, one after the other, nothing left over."""
    stream = submit.VERSION + b''.join(wire(*m) for m in sent)
    expected = []
    for frames, records in sent:
        if frames:
            expected.append((submit.BODY, b''.join(frames)))
        expected.append((submit.MESSAGE, records))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    pieces = [stream[a:b] for a, b in zip([0] + cuts, cuts + [len(stream)], strict=True)]
    for way in ([stream], [stream[i:i + 1] for i in range(len(stream))], [p for p in pieces if p]):
        found, receiver = events_of(way)
        assert found == expected and not receiver.inside()


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_give_events_and_no_message_without_its_end(data, right):
    """S-16, P-01: total; MESSAGE only after an END and an empty record, in that order."""
    found, _ = events_of([submit.VERSION + data if right else data])
    for kind, value in found:
        if kind == submit.MESSAGE:
            assert submit.END in data and data.count(b'\0') >= 5


def test_inside_is_true_exactly_between_first_byte_and_last():
    """Whoever is cut off inside a message has not submitted it."""
    stream = wire([b'ab', b'c'], b'Fa\0Tb\0')
    receiver = submit.Receiver()
    receiver.feed(submit.VERSION)
    for i in range(len(stream)):
        assert receiver.inside() is (i > 0), i
        receiver.feed(stream[i:i + 1])
    assert not receiver.inside()


def test_abandoning_forgets_what_was_begun():
    """A client may give up between two frames and go on with the next message."""
    found, receiver = events_of([submit.VERSION + submit.frame(b'half') + submit.ABANDON + wire([b'x'], b'Fa\0')])
    assert found == [(submit.BODY, b'half'), (submit.ABANDONED, None), (submit.BODY, b'x'), (submit.MESSAGE, b'Fa\0')]
    assert not receiver.inside()


@pytest.mark.parametrize('start', [b'\x02', b'EHLO x\r\n', b'GET / HTTP/1.0\r\n', b'\x01\x7f\xff\xff\xff', b'\x01\xff\xff\xff\xfe'])
def test_another_protocol_is_noticed_at_once(start):
    """P-08: a wrong version byte or an absurd length is the end of the conversation."""
    receiver = submit.Receiver()
    assert receiver.feed(start) == [(submit.BROKE, None)]
    assert receiver.feed(b'\x01' * 100) == []


def test_an_endless_envelope_is_skipped_in_bounded_memory(monkeypatch):
    """Q-20, INV7: beyond the limit nothing is kept, and the next message is understood."""
    monkeypatch.setattr(submit, 'ENVELOPE_LIMIT', 100)
    for size in (97, 100, 1000):
        stream = submit.VERSION + wire([b'x'], b'F' + b'a' * size + b'\0Tb\0') + wire([b'y'], b'Fc\0')
        for step in (1, 7, 50):
            receiver, found = submit.Receiver(), []
            for i in range(0, len(stream), step):
                found += receiver.feed(stream[i:i + step])
                assert receiver.held() <= 100
            assert [v for k, v in found if k == submit.MESSAGE] == [None, b'Fc\0']


# --- the envelope at the door ---

STAMP = submit.stamp(1000, 42, 1764036974)


def admit(raw, believed=False):
    """The stored envelope, parsed."""
    return mess.parse(submit.admit(raw, believed, STAMP))


def test_the_kernel_says_who_submitted():
    """P08, P46: what a client says about uid, pid and time is dropped; about its own client too, unless believed."""
    raw = b'Fa@b\0u0\0p1\0t1\0PESMTP\0C192.0.2.1\0Lroot\0B8BITMIME\0zfuture\0Tc@d\0NNEVER\0yfuture\0Te@f\0'
    envelope = admit(raw)
    assert envelope.options == [(b'u', b'1000'), (b'p', b'42'), (b't', b'1764036974'), (b'B', b'8BITMIME'), (b'z', b'future')]
    assert envelope.recipients == [b'c@d', b'e@f'] and envelope.sender == b'a@b'
    assert envelope.recipient_options == [[(b'N', b'NEVER'), (b'y', b'future')], ()]
    believed = admit(raw, True)
    assert believed.option(b'P') == b'ESMTP' and believed.option(b'L') == b'root' and believed.option(b'u') == b'1000'


def test_no_recipients_and_an_empty_sender_are_fine():
    """As qmail-queue: zero recipients are accepted, so is the empty sender."""
    assert admit(b'F\0').recipients == [] and admit(b'F\0T\0').recipients == [b'']


LONG = b'x' * 1002


@pytest.mark.parametrize('raw, code', [
    (b'', 91), (b'Ta\0', 91), (b'Ta\0Fb\0', 91), (b'Fa\0Fb\0', 91), (b'Fa\0Tb\0Fc\0', 91), (b'Fa\0\x01b\0', 91), (b'Fa\0 b\0', 91),
    (b'Fa\0Tb\0PESMTP\0', 91), (b'Fa\0Tb\0X1\0', 91), (b'Fa\0NNEVER\0Tb\0', 91),
    (b'F' + LONG + b'x\0', 11), (b'Fa\0T' + LONG + b'x\0', 11), (b'Fa\0X' + LONG + b'x\0', 91),
    (b'Fa\0Tb\nTc\0', 31), (b'Fa\r\0Tb\0', 31), (None, 31), (b'Fa\0' + b'T\0' * 131_073, 31),
])
def test_bad_envelopes_are_refused_with_qmail_queues_codes(raw, code):
    """S-16: no F, two F, T before F, 1003 bytes, records in the wrong place, line breaks, too much."""
    with pytest.raises(submit.Refused) as refused:
        submit.admit(raw, True, STAMP)
    assert refused.value.code == code
    assert submit.refusal(code, refused.value.sentence).startswith(b'%d ' % code)


def test_the_longest_address_is_accepted():
    """1002 bytes, as in qmail-queue."""
    assert admit(b'F' + LONG + b'\0T' + LONG + b'\0').recipients == [LONG]


@given(st.binary(max_size=60) | st.lists(st.sampled_from([b'F', b'T', b'N', b'\0', b'u', b'L', b'a@b', b'X', b'\n'])).map(b''.join), st.booleans())
def test_whatever_is_admitted_is_an_envelope(raw, believed):
    """admit() is total, keeps sender and recipients as they are, and stores only what parse() understands."""
    try:
        stored = mess.parse(submit.admit(raw, believed, STAMP))
    except submit.Refused:
        return
    given_ = mess.parse(raw)
    assert (stored.sender, stored.recipients, stored.recipient_options) == (given_.sender, given_.recipients, given_.recipient_options)
    assert stored.options[:3] == [(b'u', b'1000'), (b'p', b'42'), (b't', b'1764036974')]


# --- answers ---

def test_answers_come_back_however_they_are_cut():
    """K with an ID is success; a code comes with its letter; both ends agree."""
    said = submit.accepted(IDENT) + submit.refusal(53) + submit.refusal(31, b'no (#5.7.1)') + submit.refusal(91)
    expected = [(0, IDENT), (53, exits.queue_text(53)), (31, b'Dno (#5.7.1)'), (91, exits.queue_text(91))]
    answers = submit.Answers()
    assert answers.feed(said) == expected
    assert [a for i in range(len(said)) for a in answers.feed(said[i:i + 1])] == expected


@pytest.mark.parametrize('said', [b'\0', b'K\0', b'K1\0', b'0 fine\0', b'53\0', b'x\0', b'K1764036974123456x\0', b'k1764036974123456\0', b'-1 x\0', b'999 x\0'])
def test_what_is_no_answer_is_no_success(said):
    """S-10: anything but K and an ID is a failure, and a temporary one."""
    [(code, text)] = submit.Answers().feed(said)
    assert code == 74 and text[:1] == b'Z'


def test_an_endless_answer_is_cut():
    """INV7."""
    answers = submit.Answers()
    assert answers.feed(b'K' * 5000) == [submit.BROKEN] and answers.feed(b'') == []


def test_both_ends():
    """envelope() and frame() are what the receiver and admit() understand."""
    sent = submit.VERSION + submit.frame(b'body\n') + submit.END + submit.envelope(b'a', [b'b', b'c'], [(b'X', b'7')], [[(b'N', b'NEVER')], ()])
    (kind, body), (_, records) = submit.Receiver().feed(sent)
    assert (kind, body) == (submit.BODY, b'body\n')
    assert admit(records).recipient_options == [[(b'N', b'NEVER')], ()]


@pytest.mark.parametrize('raw', [b'Fa\0Xb\0', b'Fa\0tbob\0', b'Fa\0Qbob\0', b'Fa\0ubob\0'])
def test_a_mistyped_recipient_is_no_empty_list(raw):
    """S-16: no recipient but something else in its place is a malformed envelope, not mail for nobody."""
    with pytest.raises(submit.Refused) as no:
        submit.admit(raw, True, submit.stamp(1, 2, 3))
    assert no.value.code == 91
    assert submit.admit(b'Fa\0', True, submit.stamp(1, 2, 3))
