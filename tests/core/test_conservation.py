"""One message in is one message out, byte for byte, or it was refused at the first door: the ways through the cores.

Run long by QPY_HYPOTHESIS=long.
"""
import os
import tempfile

import pytest
from hypothesis import example, given, strategies as st

from qpy.core import header, inject, mbox, mess, smtp_client, smtp_data, smtp_policy, smtp_server, submit
from qpy.user import mailbox

IDENT = b'1764036974123456'
SHARP = [b'\r', b'\n', b'\r\n', b'.', b'..', b'\r\n.', b'\n.\n', b'\r.\r', b'\n.\r\n', b'\r\n.\n', b'\r\n.\r', b'a', b'\0\xff',
         b'MAIL FROM:<evil@x>\r\n', b'QUIT\r\n', b'From ', b'>From ', b'Received: x\r\n']
WIRE = st.lists(st.sampled_from(SHARP) | st.binary(max_size=6), max_size=14).map(b''.join)
LINES = st.lists(st.sampled_from([b'\n', b'.', b'From ', b'>From x', b'\r', b'a', b'\xff\0', b'Subject: x', b': ', b' ', b'\n\n'])
                 | st.binary(max_size=6), max_size=14).map(b''.join)
STEPS = st.sampled_from([1, 2, 5, 1 << 20])


class Door:
    """A server's session with a queue behind it: `stored` holds the queue files' bytes."""

    def __init__(self):
        policy = smtp_policy.Policy(b'mx.example.com', hosts=None)
        self.session = smtp_server.Session(policy, smtp_policy.Client(ip=b'192.0.2.7', relay=b''))
        self.session.banner()
        self.stored, self.text, self.out, self.closed = [], b'', b'', False

    def feed(self, data):
        self.session.receive(data)
        while (event := self.session.next()) is not None:
            kind, value = event
            if kind == smtp_server.CHECK:
                self.session.recipient(b'yes')
            elif kind == smtp_server.START:
                self.session.begin(b'now')
                self.text = b''
            elif kind == smtp_server.BODY:
                self.text += value
            elif kind == smtp_server.SUBMIT:
                self.stored.append(queued(self.text + value, self.session.sender, self.session.recipients))
                self.session.queued(1, 2)
            elif kind == smtp_server.CLOSE:
                self.closed = True
        out = self.session.output()
        self.out += out
        return out


def queued(message, sender, recipients):
    """What queued stores for a submission, which goes the way of the channel in odd pieces."""
    data = b'\x01' + (submit.frame(message) if message else b'') + submit.END + submit.envelope(sender, recipients)
    receiver, body, found = submit.Receiver(), b'', []
    for at in range(0, len(data), 7):
        for kind, value in receiver.feed(data[at:at + 7]):
            if kind == submit.BODY:
                body += value
            elif kind == submit.MESSAGE:
                found.append(submit.admit(value, False, submit.stamp(1, 2, 3)))
    (envelope,) = found
    return mess.pack(body, envelope, IDENT)


def relayed(stored, step):
    """The queue file of the second host, after a client of the first has sent the first's."""
    message, envelope = mess.unpack(stored, IDENT)
    client, second = smtp_client.Session(b'192.0.2.1', b'me.example'), Door()
    transaction = smtp_client.Transaction(envelope.sender, envelope.recipients)
    client.begin(transaction)
    client.feed(second.session.output())
    pieces = [message[i:i + step] for i in range(0, len(message), step)]
    while transaction.report is None:
        while client.wants_body:
            client.body(pieces.pop(0)) if pieces else client.body_end()
        data = client.take()
        assert data, 'nobody says anything'
        client.feed(second.feed(data))
    assert transaction.report[0] == b'K'
    client.quit()
    second.feed(client.take())
    assert second.closed
    return second.stored


def faulty(wire):
    """Whether a text on the wire has a CR or LF that is no line end, by the plain rule."""
    end = (b'\r\n' + wire).find(b'\r\n.\r\n')
    text = (wire[:max(end, 0)] if end >= 0 else wire).replace(b'\r\n', b'')
    return b'\r' in text or b'\n' in text


@given(WIRE, STEPS, STEPS)
@example(b'a\n.\r\nMAIL FROM:<evil@x>\r\nRCPT TO:<y@z>\r\nDATA\r\nforged', 1 << 20, 1)
def test_through_two_servers(wire, step, cut):
    """G-09, INV4: any bytes as a text: refused at the first door, with nothing stored; or there and at the second door the
    same message, once."""
    first = Door()
    first.feed(b'EHLO x\r\nMAIL FROM:<s@y.example>\r\nRCPT TO:<r@x.example>\r\nDATA\r\n')
    data = wire + b'\r\n.\r\n'
    for at in range(0, len(data), step):
        first.feed(data[at:at + step])
    if faulty(data):
        assert not first.stored and first.closed
        return
    text, rest = smtp_data.PlainDecoder().feed(data)
    message, envelope = mess.unpack(first.stored[0], IDENT)
    assert message.endswith(text) and message[:len(message) - len(text)].count(b'\n') <= 2
    assert (envelope.sender, envelope.recipients) == (b's@y.example', [b'r@x.example'])
    (again,) = relayed(first.stored[0], cut)
    arrived, envelope = mess.unpack(again, IDENT)
    assert arrived.endswith(message) and arrived[:len(arrived) - len(message)].count(b'\n') <= 2
    assert (envelope.sender, envelope.recipients) == (b's@y.example', [b'r@x.example'])


# --- inject, queue, local ---

def injected(data, step):
    """The queue file of what qpy-inject makes of this input; None if it is refused."""
    splitter, body = header.Splitter(), inject.Body()
    composer = inject.Composer(inject.Settings(b'd.example', b'example', b'', b'id.example'), inject.Identity(b'joe'))
    text = b''
    rest = None
    for at in range(0, len(data), step):
        piece = data[at:at + step]
        if rest is None:
            if splitter.feed(piece):
                rest = True
                text += body.feed(splitter.body)
        else:
            text += body.feed(piece)
    if rest is None:
        splitter.end()
        text += body.feed(splitter.body)
    text += body.end()
    try:
        for field in splitter.fields:
            composer.add(field)
        new = composer.finish(1, 2, b'u')
    except inject.Refused:
        return None, text
    return queued(new + text, b's@y.example', [b'r@x.example']), text


def lines_of(data):
    """Its lines, each ending in LF, whatever ended it."""
    whole = data if data.endswith(b'\n') else data + b'\n'
    return b'\n'.join(line.rstrip(b'\r').replace(b'\r', b'\n') for line in whole.split(b'\n'))


@given(LINES, LINES, STEPS)
def test_inject_keeps_the_body(head, body, step):
    """INV4: any bytes for inject: refused, or queued once with the body's lines as they were."""
    data = b'Subject: ' + head.replace(b'\r', b'').replace(b'\n', b'\n ') + b'\n\n' + body
    stored, text = injected(data, step)
    assert text == lines_of(b'\n' + body)
    if stored is not None:
        message, _ = mess.unpack(stored, IDENT)
        assert message.endswith(b'\n' + text) and b'\n\n' not in message[:len(message) - len(text)]


@pytest.fixture(scope='module')
def home():
    with tempfile.TemporaryDirectory() as path:
        for part in ('', 'tmp', 'new', 'cur'):
            os.mkdir(os.path.join(path, 'Maildir', part))
        yield path


@given(LINES)
def test_into_a_maildir(home, message):
    """H-02, H-06, INV4: a queue file's message stands in the Maildir behind the two lines, byte for byte, once."""
    message, _ = mess.unpack(queued(message, b's', [b'r']), IDENT)
    new = os.path.join(home, 'Maildir/new')
    for name in os.listdir(new):
        os.unlink(os.path.join(new, name))
    home_fd = os.open(home, os.O_RDONLY)
    try:
        batch = mailbox.Batch(b'x.example', lambda fds: [None] * len(fds))
        batch.put(1, home_fd, os.fsencode(home), [b'./Maildir/'], False, b'Return-Path: <s>\n', message, -1)
        assert batch.commit() == {1: None}
    finally:
        os.close(home_fd)
    (name,) = os.listdir(new)
    with open(os.path.join(new, name), 'rb') as file:
        assert file.read() == b'Return-Path: <s>\n' + message


def read_mbox(data):
    """The messages of an mbox, as a reader of the form mboxrd has them."""
    found = []
    for line in data.split(b'\n'):
        if line.startswith(b'From ') and (not found or found[-1][-1:] == [b'']):
            found.append([])
        else:
            found[-1].append(line[1:] if line.lstrip(b'>').startswith(b'From ') else line)
    return [b'\n'.join(lines[:-1]) + b'\n' if len(lines) > 1 else b'' for lines in
            [each[:-1] if each is found[-1] else each for each in found]]


@given(st.lists(LINES, min_size=1, max_size=4))
def test_into_an_mbox_and_back(messages):
    """H-06, INV4: what stands in an mbox, in any number of messages, is read back as it was, but for a missing last line
    end."""
    data = b''
    for message in messages:
        quoter = mbox.Quoter()
        data += mbox.fresh_start(data[-2:]) + b'From s@y Wed Nov 25 02:16:14 2026\n'
        data += b''.join(quoter.feed(message[i:i + 3]) for i in range(0, len(message), 3)) + quoter.end()
    wanted = [each if each.endswith(b'\n') or not each else each + b'\n' for each in messages]
    assert read_mbox(data) == wanted
