"""Mail of those who have logged in: whose senders are whose, and what is put on top of a message."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import submission
from qpy.core.submission import HEADER_MAX, UNREADABLE, Completion, Senders, foreign

SENDERS = Senders({b'example.com': 1, b'example.net': 2},
                  {b'joes.example': b'joe', b'.wild.example': b'joe-wild', b'x@shared.example': b'ann', b'other.example': b'joey'},
                  [b'joe:info@shared.example', b'Joe:@Whole.example', b'boss:*', b'ann@example.com:list@example.com'])


@pytest.mark.parametrize('login, sender, good', [
    (b'joe', b'', True), (b'joe', b'joe@example.com', True), (b'joe', b'JOE@Example.NET', True), (b'JOE', b'joe@example.com', True),
    (b'joe', b'joe-list@example.com', True), (b'joe', b'joe+x@example.com', True), (b'joe', b'joey@example.com', False),
    (b'joe', b'ann@example.com', False), (b'joe', b'joe@elsewhere.example', False), (b'joe', b'joe', False),
    (b'joe', b'any@joes.example', True), (b'joe', b'any@sub.wild.example', True), (b'joe', b'any@wild.example', False),
    (b'joe', b'any@other.example', False), (b'joe', b'x@shared.example', False), (b'ann', b'x@shared.example', True),
    (b'joe', b'info@shared.example', True), (b'joe', b'any@whole.example', True), (b'joe', b'any@sub.whole.example', False),
    (b'boss', b'anybody@anywhere.example', True), (b'joe', b'*', False), (b'joe', b'@whole.example', True),
    (b'joe@example.com', b'joe@example.com', True), (b'joe@example.com', b'joe-x@example.com', True),
    (b'joe@example.com', b'joe@example.net', False), (b'joe@example.com', b'ann@example.com', False),
    (b'ann@example.com', b'list@example.com', True), (b'', b'joe@example.com', False)])
def test_whose_is_it(login, sender, good):
    """locals, virtualdomains, control/authsenders, in any case of letters; the null sender is everybody's."""
    assert SENDERS.allow(login, sender) == good


@pytest.mark.parametrize('login, sender, claim', [
    (b'joe', b'', b''), (b'joe', b'Joe@example.com', b''), (b'joe', b'Joe-Ann@example.net', b'joe-ann'), (b'joe', b'joe+x@example.com', b'joe+x'),
    (b'joe', b'ann@example.com', None), (b'joe', b'any@joes.example', b''), (b'joe', b'any@sub.wild.example', b'joe-wild'),
    (b'joe', b'info@shared.example', b''), (b'joe@example.com', b'joe-x@example.com', b'')])
def test_what_the_users_have_to_be_asked_of(login, sender, claim):
    """A name with an extension may be another user's; what control/authsenders gives is his whatever it is."""
    assert SENDERS.claim(login, sender) == claim


@pytest.mark.parametrize('local, user, rest, his', [
    (b'joe-x', b'joe', b'-x', True), (b'joe-ann', b'joe-ann', b'', False), (b'joe-ann-x', b'joe-ann', b'-x', False),
    (b'joe-info', b'joe', b'', True), (b'joe-info', b'bob', b'', False), (b'joe-x', b'alias', b'-joe-x', True)])
def test_whose_a_longer_name_is(local, user, rest, his):
    """The user's with the longest name: joe-ann where there is one, and not joe; what comes to alias is joe's."""
    assert submission.is_his(b'Joe', local, user, rest) == his


WANTED = submission.wanted(b'25 Nov 2026 02:16:14 -0000', b'1.2.3@me', b'joe@example.com')
DATE, IDENT, FROM = WANTED.values()


@pytest.mark.parametrize('message, top', [
    (b'Date: x\nMessage-Id: y\nFROM: z\n\nbody\n', b''), (b'Subject: x\n\nbody\n', DATE + IDENT + FROM),
    (b'date : x\nFrom: y\n\nMessage-ID: in the body\n', IDENT), (b'Subject: x\n Date: folded\n\n', DATE + IDENT + FROM),
    (b'From: x\n', DATE + IDENT), (b'', DATE + IDENT + FROM), (b'\nbody\n', DATE + IDENT + FROM),
    (b'no header at all\nDate: x\n', DATE + IDENT + FROM + b'\n'), (b' begins with a blank\n', DATE + IDENT + FROM + b'\n'),
    (b'From: x\nDate: y\nMessage-ID: z', b''), (b'From: x\nnot a field\nDate: y\n', DATE + IDENT)])
def test_what_is_put_on_top(message, top):
    """RFC 6409, 8: Date, Message-ID and From where the header has none; the message itself is never changed."""
    whole = Completion(dict(WANTED))
    assert whole.feed(message) + whole.finish() == top + message
    pieces = Completion(dict(WANTED))
    assert b''.join(pieces.feed(bytes((byte,))) for byte in message) + pieces.finish() == top + message


def test_the_null_sender_is_nobody():
    """From cannot be made of it."""
    assert b'from' not in submission.wanted(b'd', b'i', b'')


def test_an_endless_header_is_left_alone():
    """What is held is bounded."""
    completion = Completion(dict(WANTED))
    field = b'X: %s\n' % (b'y' * 1000)
    out, most = b'', 0
    for _ in range(400):
        out += completion.feed(field)
        most = max(most, len(completion.held))
    assert out + completion.finish() == field * 400 and most <= submission.HEADER_MAX


def test_others_are_not_touched():
    """Without a login nothing is held."""
    completion = Completion(None)
    assert completion.feed(b'x') == b'x' and completion.finish() == b''


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_message_in_any_pieces(message, cuts):
    """The message is whole, and what stands before it is fields that were wanted."""
    whole, pieces = Completion(dict(WANTED)), Completion(dict(WANTED))
    expected = whole.feed(message) + whole.finish()
    ends = sorted(cuts) + [len(message)]
    out = b''.join(pieces.feed(message[a:b]) for a, b in zip([0] + ends, ends)) + pieces.finish()
    assert out == expected and expected.endswith(message)
    top = expected[:len(expected) - len(message)]
    assert top.rstrip(b'\n') + b'\n' in (DATE + IDENT + FROM, DATE + IDENT, DATE + FROM, IDENT + FROM, DATE, IDENT, FROM, b'\n')


# --- From and Sender ----------------------------------------------------------------------------------------------

HIS = {b'joe@here.test', b'joe@xn--bcher-kva.test'}


@pytest.mark.parametrize('header, wrong', [
    (b'From: joe@here.test\n', b''), (b'FROM : "Joe Q. Public" <joe@here.test>\n', b''), (b'From: John Q. Public <joe@here.test>\n', b''),
    (b'From: joe@here.test\nSender: joe@here.test\n', b''), (b'Subject: none\n', b''), (b'', b''),
    (b'Reply-To: boss@bank.test\nResent-From: boss@bank.test\nFrom: joe@here.test\n', b''),
    ('From: Jo\u00eb <joe@b\u00fccher.test>\n'.encode(), b''),
    (b'From: boss@bank.test\n', b'boss@bank.test'), (b'from: "joe@here.test" <boss@bank.test>\n', b'boss@bank.test'),
    (b'From: joe@here.test (boss) , <boss@bank.test>\n', b'boss@bank.test'), (b'From:\n boss@bank.test\n', b'boss@bank.test'),
    (b'From: joe@here.test\nFrom: boss@bank.test\n', b'boss@bank.test'), (b'From: joe@here.test\nSender: boss@bank.test\n', b'boss@bank.test'),
    (b'From: staff: joe@here.test, boss@bank.test;\n', b'boss@bank.test'), (b'From: joe@here\n', b'joe@here'), (b'From: joe\n', b'joe'),
    (b'From: <boss@bank.test> joe@here.test\n', UNREADABLE), (b'From: "joe@here.test\n', UNREADABLE), (b'From:\n', UNREADABLE),
    (b'From: nobody:;\n', UNREADABLE), (b'From: <>\n', UNREADABLE),
    (b'From : boss@bank.test\n', b'boss@bank.test'), (b'Sender\t : boss@bank.test\nFrom: joe@here.test\n', b'boss@bank.test'),
    (b'Subject: s\nno field\nFrom: boss@bank.test\n', b'boss@bank.test'), (b'From: joe@here.test\nno field\n , boss@bank.test\n', b'boss@bank.test'),
    (b'From boss Mon Nov 30 20:17:43 2026\nFrom: joe@here.test\n', b''), (b'\nFrom: boss@bank.test\n', b'')])
def test_from_and_sender(header, wrong):
    """Each address in each From and Sender must be his; names, comments, quotes and folding change nothing, and what cannot
    be read is nobody's."""
    found = foreign(header + b'\nbody\nFrom: boss@bank.test\n', lambda address: address in HIS)
    assert found == wrong or wrong == UNREADABLE and found and found not in HIS
    assert bool(foreign(header, lambda address: address in HIS)) == bool(wrong)


def test_an_endless_header_is_nobodys():
    """Where From must be his, a header that is too long to be held is refused; where nobody looks it passes."""
    for mine, wrong in ((None, b''), (lambda address: True, UNREADABLE)):
        for start in (b'X: ', b'no field\n'):
            completion = Completion(dict(WANTED), mine)
            completion.feed(start + b'y' * HEADER_MAX)
            assert completion.foreign == wrong


@given(st.binary(max_size=60))
def test_any_from(value):
    """Whatever stands there, there is an answer; it is good only if some address was looked at and was his."""
    seen = []
    found = foreign(b'From: ' + value.replace(b'\n', b' ') + b'\n\n', lambda address: seen.append(address) or True)
    assert found in (b'', UNREADABLE) and (found or seen)
