"""qpy-milter between qpy-smtpd and a stand-in for qpy-queued, with scripted milters: stages, changes, trouble."""
import os
import struct
import subprocess
import time

import pytest

from qpy import unix
from tests.peers import handing
from tests.peers.milter import Milter, text
from tests.peers.qpyr import SHELL, SOURCE
from tests.peers.smtp_rig import Rig, wait_until

MAIL, RCPT = b'MAIL FROM:<ann@example.org>', b'RCPT TO:<joe@mx.example.com>'
TEXT = b'Subject: s\r\nX-Folded: a\r\n\tb\r\n\r\nbody\r\n..dot\r\n'
STORED = b'Subject: s\nX-Folded: a\n\tb\n\nbody\n.dot\n'


class Program:
    """bin/qpy-milter with its two sockets, as qpy-start starts it."""

    def __init__(self, home):
        sockets = []
        for name, kind in ((b'milter', unix.SOCK_SEQPACKET), (b'filter', unix.SOCK_STREAM)):
            sock = unix.socket_unix(kind, blocking=True)
            sock.bind(os.fsencode(home) + b'/run/' + name)
            sock.listen(50)
            sockets.append(sock)
        life, self.alive = os.pipe()

        self.process = subprocess.Popen(
            ['sh', '-c', SHELL, 'sh', SOURCE + '/bin/qpy-milter'], close_fds=False,
            preexec_fn=lambda: handing.place([*(sock.fileno() for sock in sockets), life]),
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            env={'QPYHOME': home, 'PATH': '/usr/bin:/bin', 'LISTEN_FDS': '3', 'LISTEN_FDNAMES': 'milter:filter:life'})
        os.close(life)
        for sock in sockets:
            sock.close()
        self.home = home

    def end(self):
        """Its log."""
        os.close(self.alive)
        log = self.process.communicate(timeout=20)[1]
        assert self.process.returncode == 0, log
        for name in ('milter', 'filter'):
            os.unlink(self.home + '/run/' + name)
        return log.decode()


class House:
    """qpy-smtpd on a port, qpy-milter, and these milters; lines: what stands behind their places."""

    def __init__(self, milters, options='', program=True, **control):
        self.milters = milters
        self.rig = Rig(milters=''.join('%s %s\n' % (getattr(one, 'place', one), options) for one in milters), **control)
        os.mkdir(self.rig.home + '/check')
        self.program = Program(self.rig.home) if program else None
        self.rig.warm(workers=1)

    def client(self):
        client = self.rig.connect()
        assert client.reply()[:3] == b'220'
        assert client.say(b'EHLO mail.example.org')[:3] == b'250'
        return client

    def send(self, client=None, data=TEXT, rcpt=(RCPT,)):
        """One message: the last reply."""
        client = client or self.client()
        for line in (MAIL, *rcpt, b'DATA'):
            assert client.say(line)[:1] in b'23'
        return client.send(data + b'.\r\n').reply()

    def log(self):
        """End qpy-milter: what it has said."""
        program, self.program = self.program, None
        return program.end()

    def stop(self):
        self.rig.stop()
        if self.program:
            self.program.process.kill()
            self.program.process.communicate()
            os.close(self.program.alive)
        for one in self.milters:
            if isinstance(one, Milter):
                one.__exit__()


@pytest.fixture
def make():
    houses = []

    def build(*milters, **more):
        houses.append(House(milters, **more))
        return houses[-1]
    yield build
    for house in houses:
        house.stop()


def at_end(*packets, final=b'c'):
    """Answers of a milter that changes something at the end of the message."""
    return {b'E': lambda data: [*packets, final]}


def stored(house, count=1):
    """(message without our Received, envelope) of the count-th message."""
    body, envelope = house.rig.queued.wait(count)[count - 1]
    first, _, rest = body.partition(b'\n')
    second, _, rest = rest.partition(b'\n')
    assert first.startswith(b'Received: ') and second.startswith(b'  by ')
    return rest, envelope


# --- what a milter hears ---------------------------------------------------------------------------------------------

def test_a_session(make):
    """Every command in its order, with its words as sendmail gives them; the message arrives as it was sent."""
    one = Milter()
    house = make(one)
    client = house.client()
    assert house.send(client, rcpt=(RCPT, b'RCPT TO:<bob@mx.example.com>')).startswith(b'250 2.0.0 ok')
    client.say(b'QUIT')
    one.wait(b'Q')
    assert one.letters() == b'CHMRRTLLNBEQ' and one.offered == (6, 0x1ff, one.offered[2])
    said = one.heard
    assert said[0][1] == b'[127.0.0.1]\x004\0\x00127.0.0.1\0'[:12] + b'4\0\x00127.0.0.1\0'
    assert said[1][1] == b'mail.example.org\0' and said[2][1] == b'<ann@example.org>\0'
    assert [data for letter, data in said if letter == b'R'] == [b'<joe@mx.example.com>\0', b'<bob@mx.example.com>\0']
    assert [data for letter, data in said if letter == b'L'] == [b'Subject\0s\0', b'X-Folded\0a\n\tb\0']
    assert one.wait(b'B') == b'body\r\n.dot\r\n' and one.wait(b'E') == b''
    rest, envelope = stored(house)
    assert rest == STORED and envelope.sender == b'ann@example.org' and len(envelope.recipients) == 2
    options = dict(envelope.options)
    assert options[b'C'] == b'127.0.0.1' and options[b'H'] == b'mail.example.org' and b's' not in options


def test_macros(make):
    """Those that sendmail gives at each command, and those that a milter has asked for instead."""
    wish = struct.pack('>I', 3) + b'{rcpt_addr} {client_addr} nonsense\0' + struct.pack('>I', 2) + b'\0'
    one, two = Milter(), Milter(symbols=wish)
    house = make(one, two)
    house.send()
    macros = dict(one.macros)
    assert macros[b'C'][b'j'] == b'mx.example.com' and macros[b'C'][b'{client_addr}'] == b'127.0.0.1'
    assert macros[b'M'][b'{mail_addr}'] == b'ann@example.org' and macros[b'M'][b'{mail_host}'] == b'example.org'
    assert macros[b'R'][b'{rcpt_addr}'] == b'joe@mx.example.com' and macros[b'E'][b'i'] == macros[b'M'][b'i'] != b''
    macros = dict(two.macros)
    assert macros[b'R'] == {b'{rcpt_addr}': b'joe@mx.example.com', b'{client_addr}': b'127.0.0.1'} and b'M' not in macros


@pytest.mark.parametrize('steps, letters', [
    (0x1, b'HMRTLLNBE'), (0x1 | 0x2 | 0x4 | 0x8, b'TLLNBE'), (0x20 | 0x40, b'CHMRTBE'), (0x10 | 0x200, b'CHMRLLNE'),
    (0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x80 | 0x40000 | 0x80000, b'CHMRTLLNBE'), (0x27f, b'E')])
def test_what_a_milter_does_not_want_to_hear_or_answer(make, steps, letters):
    """Commands that it declines are not sent; what it does not answer is not waited for."""
    one = Milter(steps=steps)
    house = make(one)
    assert house.send().startswith(b'250')
    assert one.letters() == letters and stored(house)[0] == STORED


def test_leading_space(make):
    """A milter that wants it sees the blank behind the colon, and writes its own."""
    one = Milter(at_end(b'h' + text(b'X-A', b' one'), b'h' + text(b'X-B', b'two')), steps=0x100000)
    house = make(one)
    house.send()
    assert one.wait(b'L') == b'Subject\0 s\0'
    assert stored(house)[0] == STORED.replace(b'\n\n', b'\nX-A: one\nX-B: two\n\n', 1)


def test_several_messages_in_a_session(make):
    """One connection serves them; RSET and refused transactions are told; the last word is QUIT."""
    one = Milter()
    house = make(one)
    client = house.client()
    house.send(client)
    client.say(MAIL)
    client.say(b'RSET')
    house.send(client)
    client.close()
    one.wait(b'Q')
    assert one.letters() == b'CHMRTLLNBE' + b'M' + b'A' + b'MRTLLNBE' + b'Q' and one.connections == 1


# --- what it says at a stage -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('letter, place', [(b'C', 0), (b'H', 1), (b'M', 2), (b'R', 3), (b'T', 4)])
@pytest.mark.parametrize('answer, reply', [
    (b'r', b'550 5.7.1 a filter rejects this'), (b't', b'451 4.7.1 a filter asks you to try again later'),
    (b'y550 5.7.0 we know you\0', b'550 5.7.0 we know you'), (b'y452-4.2.2 one\r\n452 4.2.2 two\0', b'452 4.2.2 one two'),
    (b'y550 no\0', b'550 5.7.1 no'), (b'y250 ok\0', b'451 4.7.1 a filter asks you to try again later'),
    (b'4', b'421 4.7.0 closing connection')])
def test_refusals(make, letter, place, answer, reply):
    """At each stage: the refusal is that command's reply; the log names the milter."""
    one = Milter({letter: lambda data: [answer]})
    house = make(one)
    client = house.rig.connect()
    client.send(b'EHLO mail.example.org\r\n' + MAIL + b'\r\n' + RCPT + b'\r\nDATA\r\n')
    assert [client.reply() for _ in range(place + 1)][-1] == reply
    if answer == b'4':
        assert client.line() == b''
    wait_until(lambda: '(%s ' % one.place in house.rig.log())


def test_one_recipient_of_two(make):
    """A milter may refuse one; the message goes to the other."""
    one = Milter({b'R': lambda data: [b'r' if data.startswith(b'<bad') else b'c']})
    house = make(one)
    client = house.client()
    client.say(MAIL)
    assert client.say(b'RCPT TO:<bad@mx.example.com>')[:3] == b'550' and client.say(RCPT)[:3] == b'250'
    client.say(b'DATA')
    assert client.send(TEXT + b'.\r\n').reply()[:3] == b'250'
    assert stored(house)[1].recipients == [b'joe@mx.example.com']


@pytest.mark.parametrize('letter, heard', [(b'C', b'C'), (b'H', b'CH'), (b'M', b'CHMM'), (b'R', b'CHMRMR'), (b'L', b'CHMRTLMRTL'),
                                           (b'B', b'CHMRTLLNBMRTLLNB')])
def test_accept(make, letter, heard):
    """accept: at connect and helo the session is not its business any more, later this message; the next message is."""
    one, two = Milter({letter: lambda data: [b'a']}), Milter()
    house = make(one, two)
    client = house.client()
    for n in (1, 2):
        assert house.send(client).startswith(b'250') and stored(house, n)[0] == STORED
    client.close()
    two.wait(b'Q')
    assert one.letters().replace(b'A', b'').replace(b'Q', b'') == heard and two.letters() == b'CH' + 2 * b'MRTLLNBE' + b'Q'


@pytest.mark.parametrize('letter', [b'M', b'R', b'T', b'L', b'N', b'B', b'E'])
def test_discard(make, letter):
    """discard: the client hears 250, nobody gets the message, the log says so; the next message is another matter."""
    once = []
    one = Milter({letter: lambda data: [b'c'] if once else (once.append(1), [b'd'])[1]})
    house = make(one)
    client = house.client()
    assert house.send(client).startswith(b'250 2.0.0 ok')
    assert house.send(client, data=b'Subject: second\r\n\r\n').startswith(b'250 2.0.0 ok')
    assert stored(house)[0] == b'Subject: second\n\n' and len(house.rig.queued.messages) == 1
    assert ' id 0000000000000000 ' in house.rig.log()
    log = house.log()
    assert 'discarded message session ' in log and '%s discards' % one.place in log


def test_skip(make):
    """A milter that has seen enough of a body is sent no more of it, and the message arrives whole."""
    one = Milter({b'B': lambda data: [b's']})
    house = make(one)
    big = b'Subject: big\r\n\r\n' + b'x' * 70 + b'\r\n'
    data = big + (b'y' * 70 + b'\r\n') * 20000
    assert house.send(data=data).startswith(b'250')
    assert one.letters().count(b'B') == 1 and stored(house)[0] == data.replace(b'\r\n', b'\n')


@pytest.mark.parametrize('steps', [0, 0x80000])
def test_long_messages(make, steps):
    """2 MB, with and without answers to its pieces: the milter has all of it, in packets of at most 65535 bytes; so has
    the queue."""
    one = Milter(steps=steps)
    house = make(one)
    data = b'Subject: big\r\n\r\n' + b''.join(b'%067d\r\n' % n for n in range(30000))
    assert house.send(data=data).startswith(b'250')
    pieces = [piece for letter, piece in one.heard if letter == b'B']
    assert b''.join(pieces) == data.partition(b'\r\n\r\n')[2] and max(map(len, pieces)) <= 65535
    assert stored(house)[0] == data.replace(b'\r\n', b'\n')


# --- what it changes -------------------------------------------------------------------------------------------------

def number(n):
    return struct.pack('>I', n)


@pytest.mark.parametrize('packets, header', [
    ([b'h' + text(b'X-New', b'v')], b'Subject: s\nX-Folded: a\n\tb\nX-New: v\n'),
    ([b'i' + number(1) + text(b'X-New', b'v')], b'X-New: v\nSubject: s\nX-Folded: a\n\tb\n'),
    ([b'i' + number(2) + text(b'X-New', b'v')], b'Subject: s\nX-New: v\nX-Folded: a\n\tb\n'),
    ([b'i' + number(99) + text(b'X-New', b'v')], b'Subject: s\nX-Folded: a\n\tb\nX-New: v\n'),
    ([b'm' + number(1) + text(b'SUBJECT', b'[spam] s')], b'Subject: [spam] s\nX-Folded: a\n\tb\n'),
    ([b'm' + number(1) + text(b'X-Folded', b'')], b'Subject: s\n'),
    ([b'm' + number(2) + text(b'Subject', b'')], b'Subject: s\nX-Folded: a\n\tb\n'),
    ([b'm' + number(2) + text(b'Subject', b't')], b'Subject: s\nX-Folded: a\n\tb\nSubject: t\n'),
    ([b'h' + text(b'X-Evil', b'a\nBcc: x@y\n\nbody\r\n.')], b'Subject: s\nX-Folded: a\n\tb\nX-Evil: a\n\tBcc: x@y\n\tbody\n\t.\n'),
    ([b'h' + text(b'Bad Name', b'v'), b'h' + text(b'', b'v'), b'hX', b'h' + text(b'X-Ok', b'v')],
     b'Subject: s\nX-Folded: a\n\tb\nX-Ok: v\n')])
def test_header_changes(make, packets, header):
    """Adding, inserting by position, changing and removing the n-th of a name; nothing can begin a line of its own; what
    makes no sense is passed over."""
    house = make(Milter(at_end(*packets)))
    assert house.send().startswith(b'250')
    assert stored(house)[0] == header + b'\nbody\n.dot\n'


def test_inserted_at_the_top(make):
    """Position 0 is above our own Received field, which milters do not see."""
    house = make(Milter(at_end(b'i' + number(0) + text(b'DKIM-Signature', b'v=1;\n\tb=x'))))
    house.send()
    body, _ = house.rig.queued.wait()[0]
    assert body.startswith(b'DKIM-Signature: v=1;\n\tb=x\nReceived: from ')


@pytest.mark.parametrize('packets, sender, recipients', [
    ([b'+' + text(b'<new@x.example>')], b'ann@example.org', [b'joe@mx.example.com', b'new@x.example']),
    ([b'2' + text(b'<new@x.example>', b'NOTIFY=NEVER')], b'ann@example.org', [b'joe@mx.example.com', b'new@x.example']),
    ([b'+' + text(b'new@x.example'), b'-' + text(b'<joe@mx.example.com>')], b'ann@example.org', [b'new@x.example']),
    ([b'e' + text(b'<other@x.example>')], b'other@x.example', [b'joe@mx.example.com']),
    ([b'e' + text(b'<>')], b'', [b'joe@mx.example.com']),
    ([b'+' + text(b'<>'), b'+' + text(b'<a b@x>'), b'+' + text(b'<x\ny@x>')], b'ann@example.org', [b'joe@mx.example.com'])])
def test_envelope_changes(make, packets, sender, recipients):
    """Recipients and sender; what is no address is passed over."""
    house = make(Milter(at_end(*packets)))
    assert house.send().startswith(b'250')
    envelope = stored(house)[1]
    assert (envelope.sender, envelope.recipients) == (sender, recipients)


def test_no_recipient_is_left(make):
    """Then it is discarded, and the log says why."""
    house = make(Milter(at_end(b'-' + text(b'<joe@mx.example.com>'))))
    assert house.send().startswith(b'250')
    assert 'no recipient is left' in house.log() and house.rig.queued.messages == []


def test_another_body(make):
    """Replaced in pieces cut anywhere; CR LF becomes LF, and so does a CR alone; the next milter reads the new one."""
    two = Milter()
    house = make(Milter(at_end(b'bnew\r', b'b\nbody\rx\r', b'b\n.\r\nend\r')), two)
    assert house.send().startswith(b'250')
    rest, _ = stored(house)
    assert rest == b'Subject: s\nX-Folded: a\n\tb\n\nnew\nbody\nx\n.\nend\n'
    assert two.wait(b'B') == b'new\r\nbody\r\nx\r\n.\r\nend\r\n'


def test_quarantine(make):
    """Held in the queue, with the milter's reason in the envelope and in the log."""
    house = make(Milter(at_end(b'q' + text(b'smells \xff'))))
    assert house.send().startswith(b'250')
    assert dict(stored(house)[1].options)[b'h'] == b'smells ?'
    assert 'held message session ' in house.log()


def test_progress(make):
    """A milter that says that it works has its time again: three seconds of work with two allowed."""
    def slowly(data):
        for _ in range(3):
            time.sleep(1)               # the work
            yield b'p'
        yield b'c'
    house = make(Milter({b'E': slowly}), options='endtimeout=2')
    assert house.send().startswith(b'250')


@pytest.mark.parametrize('final, reply', [
    (b'r', b'554 5.7.1 a filter rejects this'), (b't', b'451 4.7.1 a filter asks'), (b'y550 5.7.9 no way\0', b'554 5.7.9 no way'),
    (b'y452 4.2.2 full\0', b'451 4.2.2 full')])
@pytest.mark.parametrize('letter', [b'L', b'N', b'B', b'E'])
def test_refused_messages(make, letter, final, reply):
    """At any point of the message: its refusal is the last reply; nothing is queued; the session goes on."""
    once = []
    two = Milter()
    house = make(Milter({letter: lambda data: [b'c'] if once else (once.append(1), [final])[1]}), two)
    client = house.client()
    assert house.send(client).startswith(reply)
    assert house.send(client).startswith(b'250') and len(house.rig.queued.wait()) == 1
    assert two.letters() == b'CHMRTA' + b'MRTLLNBE'


def test_a_message_without_a_body_or_a_header(make):
    """The three poor shapes pass unharmed."""
    house = make(Milter())
    client = house.client()
    for n, data in enumerate([b'', b'\r\n', b'Subject: only\r\n', b'no header at all\r\n', b'Subject: x\r\nno field\r\n'], 1):
        assert house.send(client, data=data).startswith(b'250')
        assert stored(house, n)[0] == data.replace(b'\r\n', b'\n')


def test_a_header_is_added_to_what_has_none(make):
    """An empty line then stands between it and the text."""
    house = make(Milter(at_end(b'h' + text(b'X-New', b'v'))))
    house.send(data=b'no header at all\r\n')
    assert stored(house)[0] == b'X-New: v\n\nno header at all\n'


def test_an_endless_header(make):
    """H-01: a header of more than 1 MB is not shown to milters; it is refused, in bounded memory."""
    house = make(Milter())
    assert house.send(data=b'X: ' + b'y' * (3 << 20) + b'\r\n\r\n').startswith(b'554 5.3.4 the header is too long')


# --- trouble ---------------------------------------------------------------------------------------------------------

TROUBLES = {'refuses connections': None,
            'closes at once': {b'O': lambda data: 'close'}, 'talks nonsense': {b'O': lambda data: [b'HTTP/1.1 400']},
            'wants more than there is': {b'O': lambda data: [b'O' + struct.pack('>III', 6, 0xfff, 0)]},
            'is of another age': {b'O': lambda data: [b'O' + struct.pack('>III', 9, 0, 0)]},
            'hangs in the negotiation': {b'O': lambda data: None}, 'hangs at mail': {b'M': lambda data: None},
            'dies at rcpt': {b'R': lambda data: 'close'}, 'answers twice': {b'M': lambda data: [b'c', b'c']},
            'hangs in the body': {b'B': lambda data: None}, 'dies in the header': {b'L': lambda data: 'close'},
            'hangs at the end': {b'E': lambda data: None}, 'says skip at mail': {b'M': lambda data: [b's']},
            'changes too early': {b'M': lambda data: [b'h' + text(b'X', b'y')]},
            'an unknown answer': {b'E': lambda data: [b'?']}, 'a huge packet': {b'H': lambda data: [b'c' * (2 << 20)]}}


@pytest.mark.parametrize('trouble', TROUBLES)
@pytest.mark.parametrize('default, code', [('defer', b'451 4.3.0'), ('accept', b'250 ')])
def test_trouble(make, trouble, default, code):
    """Whatever a milter does wrong: with defer the mail comes again, with accept it passes, and never is it a 5xx; another
    session is served meanwhile, and the log has one line."""
    answers = TROUBLES[trouble]
    one = Milter(answers)
    if answers is None:
        one.__exit__()
    house = make(one, options='default=%s timeout=1 endtimeout=1' % default)
    client = house.client()
    replies = [client.say(line) for line in (MAIL, RCPT, b'DATA')]
    if replies[-1][:3] == b'354':
        replies.append(client.send(TEXT + b'.\r\n').reply())
    assert all(reply[:1] != b'5' or reply[:3] == b'503' for reply in replies), replies
    refused = [reply for reply in replies if reply[:1] == b'4']
    assert bool(refused) == (default == 'defer') and all(reply.startswith(code) for reply in refused)
    if default == 'accept':
        assert stored(house)[0] == STORED
    client.close()
    log = house.log()
    assert log.count('warning: milter %s, ' % one.place) == 1


def test_a_change_that_was_not_negotiated(make):
    """A milter that adds what it never announced is out, and its change is not made."""
    house = make(Milter(at_end(b'+' + text(b'<x@y.example>')), actions=0x1), options='default=accept')
    assert house.send().startswith(b'250') and stored(house)[1].recipients == [b'joe@mx.example.com']


def test_no_qpy_milter(make):
    """control/milters without the program: mail is deferred, with a reason that names the line that is missing."""
    house = make(Milter(), program=False)
    client = house.rig.connect()
    assert client.line().startswith(b'451 4.3.0')
    wait_until(lambda: 'qpy-milter does not run; its line in control/services is missing' in house.rig.log())


def test_qpy_milter_is_started_anew(make):
    """A session that began before is deferred; a new one passes."""
    house = make(Milter())
    client = house.client()
    client.say(MAIL)
    house.log()
    house.program = Program(house.rig.home)
    assert client.say(RCPT).startswith(b'451 4.3.0')
    assert house.send().startswith(b'250')


def test_no_room_for_a_long_message(make):
    """Where DIR/check takes nothing a message that does not fit into memory is deferred; short ones pass."""
    house = make(Milter())
    os.rmdir(house.rig.home + '/check')
    client = house.client()
    assert house.send(client, data=b'Subject: big\r\n\r\n' + b'x' * 900 + (b'\r\n' + b'y' * 900) * 2000 + b'\r\n').startswith(
        b'451 4.3.0 qq write error')
    assert house.send(client).startswith(b'250')


def test_queued_is_away(make):
    """queued's answer is the client's, also when it is no."""
    house = make(Milter())
    house.rig.queued.answer = (53, 'qq write error or disk full (#4.3.0)'.encode())
    assert house.send().startswith(b'451 4.3.0 qq write error')
    house.rig.queued.stop()
    assert house.send().startswith(b'451 4.')


def test_many_at_a_time(make):
    """Sixty sessions whose messages are all inside the milter at once: none waits for another."""
    import threading
    gate = threading.Barrier(60, timeout=20)
    one = Milter({b'E': lambda data: (gate.wait(), [b'c'])[1]})
    house = make(one)
    clients = [house.client() for _ in range(60)]
    for client in clients:
        client.send(MAIL + b'\r\n' + RCPT + b'\r\nDATA\r\n')
    for client in clients:
        assert [client.reply()[:3] for _ in range(3)] == [b'250', b'250', b'354']
        client.send(TEXT + b'.\r\n')
    assert all(client.reply().startswith(b'250') for client in clients) and len(house.rig.queued.messages) == 60


def test_who_goes_behind_his_message(make):
    """A client that sends a message and goes before the milter has spoken: the message is queued once, and nothing of it stays
    behind in qpy-milter."""
    import threading
    gate = threading.Event()
    one = Milter({b'E': lambda data: (gate.wait(20), [b'c'])[1]})
    house = make(one)
    client = house.client()
    for line in (MAIL, RCPT, b'DATA'):
        client.say(line)
    client.send(TEXT + b'.\r\n')
    one.wait(b'E')
    client.close()
    other = house.client()              # smtpd has seen the end of the first by now
    gate.set()
    assert stored(house)[0] == STORED
    one.wait(b'Q')
    assert house.send(other).startswith(b'250') and len(house.rig.queued.messages) == 2


def test_nocheck_passes_by(make):
    """Clients that are not to be checked go to the queue directly, without a milter."""
    one = Milter()
    house = make(one, tcp_smtp='127.:allow,NOCHECK=""\n')
    assert house.send().startswith(b'250') and one.heard == []


PROXY = {b'PROXY="1"': b'PROXY TCP4 192.0.2.7 192.0.2.1 1 25\r\nEHLO x\r\n', b'XCLIENT="1"': b'EHLO x\r\nXCLIENT ADDR=192.0.2.7\r\nEHLO x\r\n'}


@pytest.mark.parametrize('way, hello', PROXY.items())
@pytest.mark.parametrize('proxy, client, judged', [(',NOCHECK=""', '', True), ('', ',NOCHECK=""', False)])
def test_nocheck_of_a_client_behind_a_proxy(make, way, hello, proxy, client, judged):
    """Whether a message goes past the milters is said by the rules of the client, not of the proxy that speaks for it."""
    one = Milter()
    house = make(one, tcp_smtp='127.:allow,%s%s\n192.0.2.7:allow%s\n' % (way.decode(), proxy, client))
    speaker = house.rig.connect().send(hello)
    for code in [b'220', b'250'] * hello.count(b'EHLO'):
        assert speaker.reply()[:3] == code
    assert house.send(speaker).startswith(b'250')
    assert [letter for letter, _ in one.heard if letter in b'MRE'] == ([b'M', b'R', b'E'] if judged else [])


def test_another_client_is_another_session(make):
    """XCLIENT: the milter hears of each client on a connection of its own; libmilter allows one CONNECT on each."""
    one = Milter()
    house = make(one, tcp_smtp='127.:allow,XCLIENT="1"\n')
    client = house.client()
    assert client.say(b'XCLIENT ADDR=192.0.2.7 NAME=other.example')[:3] == b'220' and client.say(b'EHLO x')[:3] == b'250'
    assert house.send(client).startswith(b'250')
    assert one.connections == 2 and one.wait(b'C', 2).startswith(b'other.example\0')
    assert one.wait(b'Q') == b''
