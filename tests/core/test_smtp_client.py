"""core.smtp_client: the conversation, what each reply means, the limits, and the bytes of the message."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import deliverby, remote_report
from qpy.core.smtp_client import BadReply, Encoder, ReplyReader, Session, Transaction, can_be_sent, parse_extensions

EHLO = b'250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n'
PLAIN = b'250 mx.example\r\n'


def begun(extensions=EHLO, recipients=(b'a@x.example',), **options):
    """A session with a transaction, after the answer to EHLO; (session, transaction, what it sent then)."""
    session = Session(b'192.0.2.1', b'me.example', **{k: options.pop(k) for k in ('pipelining',) if k in options})
    transaction = Transaction(b's@y.example', list(recipients), **options)
    session.begin(transaction)
    assert session.take() == b''
    session.feed(b'220 hello\r\n')
    assert session.take() == b'EHLO me.example\r\n'
    session.feed(extensions)
    return session, transaction, session.take()


def finished(session, body=b'hi\n'):
    """Send the body; what went out."""
    session.body(body)
    session.body_end()
    return session.take()


def test_one_message_with_pipelining():
    """MAIL, RCPT and DATA leave together when the server announces PIPELINING; the message waits for 354."""
    session, transaction, sent = begun()
    assert sent == b'MAIL FROM:<s@y.example>\r\nRCPT TO:<a@x.example>\r\nDATA\r\n'
    session.feed(b'250 ok\r\n250 ok\r\n')
    assert not session.wants_body
    session.feed(b'354 go\r\n')
    assert session.wants_body
    assert finished(session) == b'hi\r\n.\r\n'
    session.feed(b'250 2.0.0 queued\r\n')
    assert transaction.report == (b'K', b'192.0.2.1 accepted message.\nRemote host said: 250 2.0.0 queued\n')
    assert transaction.answers == [(b'r', b'')] and session.idle
    session.quit()
    assert session.take() == b'QUIT\r\n' and session.over


def test_one_message_step_by_step():
    """Without PIPELINING each command waits for the answer to the one before."""
    session, transaction, sent = begun(PLAIN, (b'a@x.example', b'b@x.example'))
    dialogue = [sent]
    for reply in (b'250 ok\r\n', b'250 ok\r\n', b'250 ok\r\n'):
        session.feed(reply)
        dialogue.append(session.take())
    assert dialogue == [b'MAIL FROM:<s@y.example>\r\n', b'RCPT TO:<a@x.example>\r\n', b'RCPT TO:<b@x.example>\r\n',
                        b'DATA\r\n']


def test_pipelining_can_be_switched_off():
    """R-30: a server that mishandles PIPELINING can be spoken to without it."""
    assert begun(pipelining=False)[2] == b'MAIL FROM:<s@y.example>\r\n'


def test_the_connection_is_used_again():
    """After a finished transaction the next MAIL follows at once; after a failed one RSET goes before it."""
    session, first, _ = begun()
    session.feed(b'250 ok\r\n250 ok\r\n354 go\r\n')
    finished(session)
    session.feed(b'250 ok\r\n')
    second = Transaction(b'', [b'c@x.example'])
    session.begin(second)
    assert session.take() == b'MAIL FROM:<>\r\nRCPT TO:<c@x.example>\r\nDATA\r\n'
    session.feed(b'250 ok\r\n550 no\r\n503 no recipients\r\n')
    assert second.report == (b'D', b'Giving up on 192.0.2.1.\n') and session.idle
    session.begin(Transaction(b'', [b'd@x.example']))
    assert session.take().startswith(b'RSET\r\nMAIL FROM:<>\r\n')


def test_rset_is_waited_for_without_pipelining():
    """A server without PIPELINING gets RSET and MAIL one after the other."""
    session, _, _ = begun(PLAIN)
    session.feed(b'550 no\r\n')
    session.begin(Transaction(b'', [b'd@x.example']))
    assert session.take() == b'RSET\r\n'
    session.feed(b'250 ok\r\n')
    assert session.take() == b'MAIL FROM:<>\r\n'


def test_ehlo_refused_means_helo():
    """R-14: a 5xx answer to EHLO is followed by HELO, and then by plain SMTP."""
    session, transaction, sent = begun(b'502 what?\r\n')
    assert sent == b'HELO me.example\r\n'
    session.feed(b'250 hi\r\n')
    assert session.take() == b'MAIL FROM:<s@y.example>\r\n'


@pytest.mark.parametrize('greeting', [b'554 no mail here\r\n', b'450 later\r\n', b'221 bye\r\n'])
def test_a_greeting_that_is_none(greeting):
    """A greeting that is not 220 is trouble of the host, for now, and another address may do."""
    session = Session(b'192.0.2.1', b'me')
    transaction = Transaction(b'', [b'a@b'])
    session.begin(transaction)
    session.feed(greeting)
    assert transaction.report[0] == b'Z' and transaction.trouble and session.over
    assert transaction.report[1].startswith(b'Connected to 192.0.2.1 but greeting failed.\nRemote host said: ')


@pytest.mark.parametrize('ehlo, helo', [(b'421 busy\r\n', b''), (b'450 later\r\n', b''), (b'500 \r\n', b'550 no\r\n')])
def test_a_name_that_is_rejected(ehlo, helo):
    """R-14: 421 or 4xx to EHLO, or a refused HELO, is temporary and says so."""
    session, transaction, _ = begun(ehlo)
    if helo:
        session.feed(helo)
    assert transaction.trouble and transaction.report[0] == b'Z'
    assert transaction.report[1].startswith(b'Connected to 192.0.2.1 but my name was rejected.\n')


MEANING = [(b'MAIL', b'550', b'D', b'Connected to 192.0.2.1 but sender was rejected.\n'),
           (b'MAIL', b'451', b'Z', b'Connected to 192.0.2.1 but sender was rejected.\n'),
           (b'MAIL', b'503', b'Z', b'Connected to 192.0.2.1 but sender was rejected.\n'),
           (b'MAIL', b'530', b'Z', b'Connected to 192.0.2.1 but sender was rejected.\n'),
           (b'MAIL', b'354', b'Z', b'Connected to 192.0.2.1 but sender was rejected.\n'),
           (b'DATA', b'554', b'D', b'192.0.2.1 failed on DATA command.\n'),
           (b'DATA', b'451', b'Z', b'192.0.2.1 failed on DATA command.\n'),
           (b'DATA', b'250', b'Z', b'192.0.2.1 failed on DATA command.\n'),
           (b'dot', b'554', b'D', b'192.0.2.1 failed after I sent the message.\n'),
           (b'dot', b'452', b'Z', b'192.0.2.1 failed after I sent the message.\n'),
           (b'dot', b'354', b'Z', b'192.0.2.1 failed after I sent the message.\n')]


@pytest.mark.parametrize('extensions', [EHLO, PLAIN])
@pytest.mark.parametrize('command, code, letter, text', MEANING)
def test_what_a_reply_means(extensions, command, code, letter, text):
    """R-15, R-19, R-22: 5xx is for good, 530 and everything odd is for now, with qmail's sentences."""
    session, transaction, _ = begun(extensions)
    said = {b'MAIL': b'250 ok\r\n', b'RCPT': b'250 ok\r\n', b'DATA': b'354 go\r\n', b'dot': b'250 ok\r\n'}
    said[command] = code + b' because\r\n'
    for name in (b'MAIL', b'RCPT', b'DATA'):
        if transaction.report is None and session.waiting:
            session.feed(said[name])
    if session.wants_body:
        finished(session)
        session.feed(said[b'dot'])
    if transaction.report is None:      # pipelined: the rest is answered too
        session.feed(b'503 no\r\n')
    assert transaction.report == (letter, text + b'Remote host said: ' + code + b' because\n')
    assert not transaction.critical and not transaction.trouble


@pytest.mark.parametrize('extensions', [EHLO, PLAIN])
def test_mixed_recipients(extensions):
    """R-15: each recipient has its own result, and one that was refused is never marked delivered."""
    session, transaction, _ = begun(extensions, (b'a@x', b'b@x', b'c@x', b'd@x'))
    session.feed(b'250 ok\r\n')
    for reply in (b'250 ok', b'550 no such user', b'452 full', b'552 too many'):
        session.take()
        session.feed(reply + b'\r\n')
    session.feed(b'354 go\r\n')
    finished(session)
    session.feed(b'250 done\r\n')
    assert [answer[0] for answer in transaction.answers] == [b'r', b'h', b's', b's']
    outcomes = [remote_report.combine(answer, transaction.report) for answer in transaction.answers]
    assert [letter for letter, _ in outcomes] == [b'K', b'D', b'Z', b'Z']
    assert outcomes[1][1] == b'192.0.2.1 does not like recipient.\nRemote host said: 550 no such user\n'


def test_too_many_recipients_go_in_another_transaction():
    """RFC 5321, 4.5.3.1.10: 452 (or 552) after an accepted recipient is marked as to be sent at once
    again."""
    session, transaction, _ = begun(recipients=(b'a@x', b'b@x', b'c@x'))
    session.feed(b'250 ok\r\n250 ok\r\n552 too many\r\n452 too many\r\n')
    assert transaction.overflow == [1, 2]


def test_refused_in_the_middle():
    """A refusal while the message is still being sent counts, and ends the connection."""
    session, transaction, _ = begun()
    session.feed(b'250 ok\r\n250 ok\r\n354 go\r\n')
    session.body(b'x' * 1000)
    session.feed(b'552 too long\r\n')
    assert transaction.report[0] == b'D' and session.over and not transaction.critical


def test_abandoned():
    """A message that cannot be read to its end is given up before its end is said: INV2."""
    session, transaction, _ = begun()
    session.feed(b'250 ok\r\n250 ok\r\n354 go\r\n')
    session.body(b'x\n')
    session.abandon(b'Z', b'why\n')
    assert transaction.report == (b'Z', b'why\n') and session.over and not session.take().endswith(b'.\r\n')


def test_answers_out_of_order():
    """R-30: a server that answers DATA before RCPT gets no recipient refused for good, and is remembered for
    it."""
    session, transaction, _ = begun()
    session.feed(b'250 ok\r\n503 need RCPT\r\n250 ok\r\n')
    assert session.confused and remote_report.combine(transaction.answers[0], transaction.report)[0] == b'Z'


def test_a_dot_for_nobody():
    """RFC 2920: when every recipient was refused and 354 comes all the same, a lone dot is sent and means
    nothing."""
    session, transaction, _ = begun()
    session.feed(b'250 ok\r\n550 no\r\n354 go\r\n')
    assert session.take() == b'.\r\n' and not session.wants_body
    session.feed(b'250 accepted\r\n')
    assert remote_report.combine(transaction.answers[0], transaction.report)[0] == b'D'


def test_no_stump_for_anybody():
    """A server that refuses the sender and then accepts recipients and DATA is left at once: no empty
    mail."""
    session, transaction, _ = begun()
    session.feed(b'550 no\r\n250 ok\r\n354 go\r\n')
    assert session.take() == b'' and session.over and transaction.report[0] == b'D'


STEPS = [b'', b'220 hi\r\n', EHLO, b'250 ok\r\n', b'250 ok\r\n', b'354 go\r\n']


@pytest.mark.parametrize('bad', [b'421 going down\r\n', None, b'000 \r\n', b'999 x\r\n', b'2a0 x\r\n', b'hello\r\n',
                                 b'250-a\r\n251 b\r\n', b'250 a\0b\r\n', b'\xd9\xa1\xd9\xa1 x\r\n', b'25', b'x' * 5000,
                                 b'250-x\r\n' * 101, b'250-' + b'y' * 1000 + b'\r\n250-\r\n' * 20,
                                 b'250 ok\r\n' * 8])
@pytest.mark.parametrize('step', range(1, 7))
def test_every_bad_reply_at_every_step_is_temporary(bad, step):
    """R-13, R-20, R-16: 421, a broken connection, garbage and reply bombs are temporary at any step, and end
    it."""
    session = Session(b'192.0.2.1', b'me')
    transaction = Transaction(b's@y', [b'a@x'])
    session.begin(transaction)
    for reply in STEPS[1:step]:
        session.feed(reply)
    if bad is not None:
        session.feed(bad)
    session.eof()
    assert transaction.report[0] == b'Z' and session.over and not transaction.critical
    assert transaction.trouble or bad == b'250 ok\r\n' * 8      # there "ok" answers DATA: refused, oddly


def test_possible_duplicate():
    """R-17: a connection lost after the final dot is temporary, and says that the message may have
    arrived."""
    session, transaction, _ = begun()
    session.feed(b'250 ok\r\n250 ok\r\n354 go\r\n')
    finished(session)
    session.lost(b'connection reset')
    assert transaction.critical and not transaction.trouble
    assert transaction.report == (
        b'Z', b'Connected to 192.0.2.1 but connection died. Possible duplicate! (#4.4.2)\nconnection reset.\n')


def test_what_comes_after_the_last_answer_changes_nothing():
    """R-18: once 250 was said the message is delivered, whatever the server does then; the connection is done
    for."""
    session, transaction, _ = begun()
    session.feed(b'250 ok\r\n250 ok\r\n354 go\r\n')
    finished(session)
    session.feed(b'250 ok\r\n421 bye\r\n')
    assert transaction.report[0] == b'K' and session.over
    session.eof()
    assert transaction.report[0] == b'K'


def test_size():
    """RFC 1870: the size is declared where announced; a message above the limit is refused without asking."""
    assert begun(size=900)[2].startswith(b'MAIL FROM:<s@y.example> SIZE=900\r\n')
    session, transaction, sent = begun(size=1001)
    assert sent == b'' and transaction.report[0] == b'D' and session.idle
    for words in (b'SIZE', b'SIZE 0', b'SIZE x'):
        assert begun(b'250-x\r\n250 ' + words + b'\r\n', size=10 ** 6)[2].startswith(b'MAIL FROM:<s@y.example> SIZE=')


@pytest.mark.parametrize('mode, offer, words, letter', [
    (b'R', b'DELIVERBY 60', b' BY=100;R', None), (b'NT', b'DELIVERBY', b' BY=100;NT', None), (b'N', b'X', b'', None),
    (b'R', b'X', None, b'D'), (b'R', b'DELIVERBY 101', None, b'D')])
def test_deliver_by(mode, offer, words, letter):
    """RFC 2852: what is left of the time goes to a server that knows it; R goes to no other (the next host may do)."""
    by = deliverby.parse(b'1795000000;' + mode)
    session, transaction, sent = begun(b'250-x\r\n250 ' + offer + b'\r\n', by=(by, 100))
    assert (transaction.report and transaction.report[0]) == letter and transaction.trouble is (letter == b'D')
    if words is not None:
        assert sent == b'MAIL FROM:<s@y.example>' + words + b'\r\n' and transaction.timed is bool(words)
    else:
        assert sent == b'' and b'#5.4.7' in transaction.report[1] and session.idle


@pytest.mark.parametrize('limits, sent, left', [
    (b'RCPTMAX=2', 2, [2, 3]), (b'rcptmax=4', 4, []), (b'MAILMAX=5 RCPTDOMAINMAX=1', 3, [2]), (b'RCPTMAX=x', 4, []),
    (b'RCPTMAX=0', 4, []), (b'RCPTMAX=1 RCPTDOMAINMAX=1', 1, [1, 2, 3]), (b'OTHER=1', 4, [])])
def test_limits_of_a_server(limits, sent, left):
    """RFC 9422: no more recipients, and domains, than it takes; the others are left for the next transaction."""
    session, transaction, words = begun(b'250-x\r\n250-PIPELINING\r\n250 LIMITS ' + limits + b'\r\n',
                                        recipients=[b'a@x', b'b@X', b'c@y', b'd@x'])
    assert words.count(b'RCPT TO') == sent and transaction.overflow == left


def test_so_many_messages_and_no_more():
    """MAILMAX: after so many the connection is of no more use."""
    session, _, _ = begun(b'250-x\r\n250 LIMITS MAILMAX=1\r\n')
    session.feed(b'250 ok\r\n250 ok\r\n354 go\r\n')
    session.body_end()
    session.feed(b'250 taken\r\n')
    assert not session.idle and not session.over


def test_eight_bit_and_utf8():
    """BODY=8BITMIME and SMTPUTF8 are said where announced; without SMTPUTF8 a message that needs it is
    refused."""
    assert begun(eight=True)[2].startswith(b'MAIL FROM:<s@y.example> BODY=8BITMIME\r\n')
    assert begun(PLAIN, eight=True)[2] == b'MAIL FROM:<s@y.example>\r\n'
    session, transaction, sent = begun(utf8=b'header')
    assert sent == b'' and transaction.report[0] == b'D' and b'#5.6.7' in transaction.report[1]
    sent = begun(b'250-x\r\n250-8bitmime\r\n250 smtputf8\r\n', utf8=b'header')[2]
    assert sent == b'MAIL FROM:<s@y.example> BODY=8BITMIME SMTPUTF8\r\n'


@pytest.mark.parametrize('recipients, sent, answers, letter', [
    (['a@bücher.x', 'b@y'], [b'a@xn--bcher-kva.x', b'b@y'], [None, None], None),
    (['é@x', 'b@y', 'ü@z'], [b'b@y'], [b'h', None, b'h'], None), (['b@y', 'é@x'], [b'b@y'], [None, b'h'], None),
    (['é@x', 'é@y'], [], [None, None], b'D')])
def test_domains_in_their_other_form(recipients, sent, answers, letter):
    """RFC 6531, 3.2: a server without SMTPUTF8 gets domains in ASCII; a local part that has no other form is refused, and
    nobody else with it."""
    recipients = [name.encode() for name in recipients]
    session = Session(b'192.0.2.1', b'me')
    session.feed(b'220 x\r\n')
    transaction = Transaction('s@bücher.x'.encode(), recipients, utf8=b'names')
    session.begin(transaction)
    session.take()
    session.feed(b'250-x\r\n250 PIPELINING\r\n')
    words = session.take()
    assert [line[9:-1] for line in words.split(b'\r\n') if line[:4] == b'RCPT'] == sent
    assert not sent or words.startswith(b'MAIL FROM:<s@xn--bcher-kva.x>\r\n')
    assert [answer and answer[0] for answer in transaction.answers] == answers
    assert (transaction.report and transaction.report[0]) == letter
    if sent:
        session.feed(b'250 ok\r\n' + b'250 ok\r\n' * len(sent) + b'354 go\r\n')
        session.body_end()
        session.feed(b'250 taken\r\n')
        assert transaction.report[0] == b'K' and transaction.answers[recipients.index(b'b@y')][0] == b'r'


def test_without_8bitmime():
    """RFC 6152, section 3: MIME is converted, with its dots; what is no MIME goes as it is; the next message on the
    connection is not taken for it."""
    mime = b'MIME-Version: 1.0\nContent-Transfer-Encoding: 8bit\n\n.\xc3\xa9\n'
    session, _, _ = begun(b'250 x\r\n', eight=True)
    for body, sent in ((mime, b'quoted-printable\r\n\r\n..=C3=A9\r\n.\r\n'), (b'\n\xe9\n', b'\r\n\xe9\r\n.\r\n')):
        if session.idle:
            session.begin(Transaction(b's@y.example', [b'a@x.example'], eight=True))
        session.feed(b'250 ok\r\n')
        session.feed(b'250 ok\r\n')
        session.feed(b'354 go\r\n')
        session.take()
        for at in range(len(body)):
            session.body(body[at:at + 1])
        session.body_end()
        assert session.take().endswith(sent)
        session.feed(b'250 taken\r\n')


def test_extensions():
    """Keywords ignore case; a bomb of them is bounded by the reply's limits."""
    assert parse_extensions(b'250-x\n250-Size 5\n250-AUTH=LOGIN PLAIN\n250 ') == {b'SIZE': b'5', b'AUTH=LOGIN': b'PLAIN',
                                                                                 b'': b''}


def test_addresses_that_cannot_be_sent():
    """No address can end its command or add a parameter."""
    for good in (b'', b'a@b', b'"a b"@c', b'a b@c', b'#@[]', b'a>b@c', b'\xc3\xa9@x'):
        assert can_be_sent(good)
    for bad in (b'a\r\nb@c', b'a\n@c', b'a\0@c', b'a@b c', b'a@b> SIZE=1', b'x\x7f@c', b'a@"b'):
        assert not can_be_sent(bad)


@given(st.lists(st.sampled_from([b'250', b'-', b' ', b'\r\n', b'\n', b'\0', b'421', b'x', b'354', b'a' * 600])))
def test_replies_byte_by_byte(pieces):
    """Fed whole or one byte at a time, the same replies come out, or the same refusal."""
    data = b''.join(pieces)

    def read(chunks):
        reader, found = ReplyReader(), []
        try:
            for chunk in chunks:
                found += reader.feed(chunk)
        except BadReply:
            return 'bad'
        return found
    assert read([data]) == read([data[i:i + 1] for i in range(len(data))])


@given(st.lists(st.binary(max_size=30), max_size=12))
def test_total_on_any_bytes(chunks):
    """A session takes any bytes whatever without raising, and never calls a message delivered for them."""
    session, transaction, _ = begun()
    for chunk in chunks:
        if chunk and not session.over:
            session.feed(chunk)
    if transaction.report is None:
        session.eof()
    assert transaction.report[0] in (b'Z', b'D')


def decoded(wire):
    """What a strict server stores for the DATA it got; None if the end is not where it must be."""
    if not wire.endswith(b'\r\n.\r\n') and wire != b'.\r\n':
        return None
    lines = wire.split(b'\r\n')[:-2]
    assert b'.' not in lines and not any(b'\r' in line or b'\n' in line for line in lines)
    return b''.join((line[1:] if line[:1] == b'.' else line) + b'\n' for line in lines)


MAIL_BYTES = st.lists(st.sampled_from([b'\r', b'\n', b'\r\n', b'.', b'..', b'a', b'\n.\n', b'\n.\r\n', b'\xff\0'])
                      | st.binary(max_size=6))


@given(MAIL_BYTES)
def test_the_body_is_conserved(chunks):
    """Any bytes in any pieces arrive as they are, line ends made LF and the last line completed: INV4."""
    body = b''.join(chunks)
    encoder = Encoder()
    wire = b''.join(encoder.feed(chunk) for chunk in chunks) + encoder.finish()
    wanted = body.replace(b'\r\n', b'\n').replace(b'\r', b'\n')
    if wanted and not wanted.endswith(b'\n'):
        wanted += b'\n'
    assert decoded(wire) == wanted


@given(MAIL_BYTES)
def test_pieces_do_not_matter(chunks):
    """The encoder gives the same for the whole, for the pieces and byte by byte."""
    def encode(parts):
        encoder = Encoder()
        return b''.join(encoder.feed(part) for part in parts) + encoder.finish()
    body = b''.join(chunks)
    assert encode(chunks) == encode([body]) == encode([body[i:i + 1] for i in range(len(body))])
