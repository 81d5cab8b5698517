"""Our SMTP client against our SMTP server, without a socket: the conservation property of mail."""
from hypothesis import given, settings, strategies as st

from qpy.core import address, smtp_policy, smtp_server
from qpy.core.smtp_client import Session, Transaction, can_be_sent


class Receiver:
    """The server's session, driven as qpy-smtpd drives it; `mail` is what would have been queued."""

    def __init__(self, verdicts=None):
        policy = smtp_policy.Policy(b'here.example', hosts=None)
        self.session = smtp_server.Session(policy, smtp_policy.Client(ip=b'192.0.2.9', relay=b''))
        self.session.banner()
        self.mail, self.body, self.verdicts = [], b'', verdicts or {}

    def feed(self, data):
        session = self.session
        session.receive(data)
        while (event := session.next()) is not None:
            kind, value = event
            if kind == smtp_server.CHECK:
                session.recipient(self.verdicts.get(value, b'yes'))
            elif kind == smtp_server.START:
                session.begin(b'now')
                self.body = b''
            elif kind == smtp_server.BODY:
                self.body += value
            elif kind == smtp_server.SUBMIT:
                self.mail.append((session.sender, list(session.recipients), self.body + value))
                session.queued(1, 2)
            else:
                assert kind in (smtp_server.DROP, smtp_server.CLOSE), kind


def converse(client, server, transaction, chunks, cut):
    """Let both talk until the transaction has its report; cut(data) -> pieces of what is on its way."""
    client.begin(transaction)
    waiting = iter(chunks)
    for _ in range(10000):
        while client.wants_body:
            chunk = next(waiting, None)
            client.body_end() if chunk is None else client.body(chunk)
        for piece in cut(client.take()):
            server.feed(piece)
        for piece in cut(server.session.output()):
            client.feed(piece)
        if transaction.report is not None:
            return
    raise AssertionError('they do not come to an end')


def whole(data):
    return [data] if data else []


def bytewise(data):
    return [data[i:i + 1] for i in range(len(data))]


TEXT = st.lists(st.sampled_from([b'\r', b'\n', b'\r\n', b'.', b'..', b'\n.\n', b'\r.\r', b'\n.\r\n', b'a', b'\0\xff'])
                | st.binary(max_size=8), max_size=12)
CUT = st.sampled_from([whole, bytewise])


@given(TEXT, CUT, st.booleans())
def test_the_same_body_arrives(chunks, cut, pipelining):
    """INV4: for all byte strings, in whatever pieces, one message in is one message out, with the same
    lines."""
    client, server = Session(b'192.0.2.1', b'me.example', pipelining), Receiver()
    transaction = Transaction(b's@y.example', [b'r@x.example'])
    converse(client, server, transaction, chunks, cut)
    assert transaction.report[0] == b'K', transaction.report
    wanted = b''.join(chunks).replace(b'\r\n', b'\n').replace(b'\r', b'\n')
    if wanted and not wanted.endswith(b'\n'):
        wanted += b'\n'
    assert server.mail == [(b's@y.example', [b'r@x.example'], wanted)]


LOCAL = st.lists(st.integers(0, 127), min_size=1, max_size=20).map(bytes)


@given(LOCAL, LOCAL)
def test_the_same_addresses_arrive(sender, recipient):
    """Every local part that may be sent arrives as the same bytes, however it has to be quoted."""
    sender, recipient = sender + b'@y.example', recipient + b'@x.example'
    if not (can_be_sent(sender) and can_be_sent(recipient)):
        return
    client, server = Session(b'192.0.2.1', b'me.example'), Receiver()
    transaction = Transaction(sender, [recipient])
    converse(client, server, transaction, [b'x\n'], whole)
    assert [(s, r) for s, r, _ in server.mail] == [(sender, [recipient])], transaction.report
    assert address.quote(sender).count(b'\n') == 0


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from([b'yes', b'no', b'temp']), min_size=1, max_size=5), min_size=1, max_size=4),
       st.booleans(), CUT)
def test_several_messages_on_one_connection(messages, pipelining, cut):
    """Each recipient of each message gets its own verdict, and one that was refused never gets a message."""
    verdicts = {b'%d-%d@x' % (m, r): verdict for m, message in enumerate(messages) for r, verdict in enumerate(message)}
    client, server = Session(b'192.0.2.1', b'me.example', pipelining), Receiver(verdicts)
    for m, message in enumerate(messages):
        transaction = Transaction(b'', [b'%d-%d@x' % (m, r) for r in range(len(message))])
        converse(client, server, transaction, [b'%d\n' % m], cut)
        letters = [answer[0] for answer in transaction.answers]
        assert letters == [{b'yes': b'r', b'no': b'h', b'temp': b's'}[verdict] for verdict in message]
        assert (transaction.report[0] == b'K') == (b'yes' in message)
        assert client.idle
    got = {recipient for _, recipients, _ in server.mail for recipient in recipients}
    assert got == {recipient for recipient, verdict in verdicts.items() if verdict == b'yes'}
    client.quit()
    server.feed(client.take())
    assert server.session.output().startswith(b'221')
