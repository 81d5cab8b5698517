"""qpy-bouncer in this process, with the real queued."""
import errno
import os
import socket
import time

import pytest

from qpy import unix
from qpy.core import channel, dates, mess, state
from qpy.lib import controls, loop as loops, queuefile
from qpy.qpys import bouncer
from tests.peers import queued

ID = b'1700000000000001'
BODY = b'Subject: hi\n\nbody\n'


class Office:
    """A Bouncer, its asker, and the queue its reports arrive in."""

    def __init__(self, home, **files):
        self.home = home
        for name, value in {'me': 'here.example', 'locals': 'here.example', **files}.items():
            with open(home + b'/control/' + name.encode(), 'w') as file:
                file.write(value + '\n')
        self.queued = queued.Daemon(home, 'queued', [b'submit', b'new'])
        self.loop = loops.Loop()
        self.bouncer = bouncer.Bouncer(home, self.loop, controls.Watched(home, bouncer.CONTROLS, bouncer.load))
        self.asker, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.asker.setblocking(False)
        its.setblocking(False)
        self.bouncer.connected(its, (1, 0, 0))

    def failed(self, *recipients, sender=b'joe@there.example', body=BODY, text=b'no such user (#5.1.1)\n', ident=ID,
               options=(), recipient_options=None, letter=b'f'):
        """A message in the queue all of whose recipients have failed."""
        envelope = mess.Envelope(sender, recipients, [*options, (b't', b'1700000000')], recipient_options).build()
        with open(self.home + b'/queue/mess/' + ident, 'wb') as file:
            file.write(mess.pack(body, envelope, ident))
        with open(self.home + b'/queue/state/' + ident, 'wb') as file:
            file.write(b''.join(state.entry(ident, letter, b'%d' % n, text) for n in range(len(recipients))))
        for name in (b'/queue/mess/', b'/queue/state/'):
            os.chmod(self.home + name + ident, 0o644)
        return b','.join(b'%d' % n for n in range(len(recipients)))

    def ask(self, indices, ident=ID, kind=b'bounce'):
        """The answer: (letter, fields)."""
        indices = indices and state.pack_indices([int(word) for word in indices.split(b',')])
        self.asker.send(channel.pack(b'B', ident, indices, kind))
        return self.answers(1)[0]

    def answers(self, count):
        found = []
        for _ in range(2000):
            self.loop.step(0.01)
            packet = unix.recv_packet(self.asker)
            found += channel.unpack(packet[0], channel.BOUNCE_REPORT) if packet else []
            if len(found) == count:
                return found
        raise AssertionError('no answer')

    def report(self, ident):
        """(message, envelope) of a report in the queue."""
        fd = os.open(self.home + b'/queue/mess', os.O_RDONLY)
        found = queuefile.open_mess(fd, ident)
        os.close(fd)
        message = os.pread(found.fd, found.size, 0)
        found.close()
        return message, found.envelope

    def end(self):
        self.queued.kill()
        self.asker.close()


@pytest.fixture
def office():
    with queued.temporary_home() as home:
        office = Office(home)
        yield office
        office.end()


def test_report(office):
    """A report goes from the empty sender to the sender, with what the state says about each failed recipient."""
    indices = office.failed(b'a@x.example', b'b@y.example')
    letter, (ident, new, pid) = office.ask(indices)
    assert (letter, ident, pid) == (b'K', ID, b'%d' % os.getpid())
    message, envelope = office.report(new)
    assert envelope.sender == b'' and envelope.recipients == [b'joe@there.example']
    assert b'\nTo: joe@there.example\n' in message
    assert b'<a@x.example>:\nno such user (#5.1.1)\n\n<b@y.example>:\n' in message
    assert b'\nReturn-Path: <joe@there.example>\n' + BODY in message


def test_only_the_failed_are_reported(office):
    """What did not fail is not reported, whoever asks for it."""
    office.failed(b'a@x.example')
    assert office.ask(b'1')[0] == b'Z' and office.ask(b'')[0] == b'Z' and office.ask(b'131071')[0] == b'Z'
    with open(office.home + b'/queue/state/' + ID, 'ab') as file:
        file.write(state.entry(ID, b'r', b'0'))
    assert office.ask(b'0')[0] == b'Z'


def test_virtual_prefix_is_not_shown():
    """The sender sees the address he wrote, not the name its virtual domain has here."""
    with queued.temporary_home() as home:
        office = Office(home, virtualdomains='virt.example:bob')
        _, (_, new, _) = office.ask(office.failed(b'joe@virt.example'))
        assert b'\n<joe@virt.example>:\n' in office.report(new)[0]
        office.end()


def test_double_bounce(office):
    """A bounce that fails goes to the postmaster from #@[], or to doublebounceto at doublebouncehost; with an empty
    doublebounceto to nobody."""
    _, (_, new, _) = office.ask(office.failed(b'a@x.example', sender=b''))
    envelope = office.report(new)[1]
    assert envelope.sender == b'#@[]' and envelope.recipients == [b'postmaster@here.example']
    for name, text in (('doublebounceto', 'two\n'), ('doublebouncehost', 'far.example\n')):
        with open('%s/control/%s' % (os.fsdecode(office.home), name), 'w') as file:
            file.write(text)
    _, (_, new, _) = office.ask(office.failed(b'a@x.example', sender=b''))
    assert office.report(new)[1].recipients == [b'two@far.example']
    with open(office.home + b'/control/doublebounceto', 'w') as file:
        file.write('\n')
    assert office.ask(b'0')[1][1] == b''


def test_notify_never(office):
    """RFC 3461: NOTIFY=NEVER is not told, the others are."""
    indices = office.failed(b'a@x.example', b'b@x.example', recipient_options=[[(b'N', b'NEVER')], ()])
    _, (_, new, _) = office.ask(indices)
    message = office.report(new)[0]
    assert b'<b@x.example>:' in message and b'<a@x.example>:' not in message
    assert office.ask(b'0')[1][1] == b''


def test_verp_and_utf8(office):
    """-@[] is taken off the sender; an address beyond ASCII asks for SMTPUTF8, bytes beyond it for 8BITMIME."""
    _, (_, new, _) = office.ask(office.failed(b'a@x.example', sender=b'l-@there.example-@[]'))
    assert office.report(new)[1].recipients == [b'l-@there.example']
    sender = 'josé@there.example'.encode()
    _, (_, new, _) = office.ask(office.failed(b'a@x.example', sender=sender, body=b'\n\xe9\n', options=[(b'X', b'tr')]))
    envelope = office.report(new)[1]
    assert envelope.option(b'U') == b'' and envelope.option(b'B') == b'8BITMIME' and envelope.option(b'X') == b'tr'


def test_long_message_is_streamed(office):
    """A report on 20 MB is passed on in pieces, whole where that is wanted, and the next one follows on the same
    connection; by default it is the header of what is longer than 1 MB."""
    body = b'Subject: long\n\n' + b'x' * 63 * 320_000 + b'\n'
    office.failed(b'a@x.example', body=body)
    office.failed(b'b@x.example', ident=b'1700000000000002')
    office.asker.send(channel.pack(b'B', ID, b'1', b'bounce') + channel.pack(b'B', b'1700000000000002', b'1', b'bounce'))
    found = dict(fields[:2] for _, fields in office.answers(2))
    message = office.report(found[ID])[0]
    assert b'Subject: long\n' in message and b'xxx' not in message and b'text/rfc822-headers' in message
    with open(office.home + b'/control/bouncemaxbytes', 'w') as file:
        file.write('0\n')
    office.asker.send(channel.pack(b'B', ID, b'1', b'bounce') + channel.pack(b'B', b'1700000000000002', b'1', b'bounce'))
    found = dict(fields[:2] for _, fields in office.answers(2))
    assert body in office.report(found[ID])[0]
    assert b'<b@x.example>:' in office.report(found[b'1700000000000002'])[0]


def test_a_report_that_breaks_off(office, monkeypatch):
    """A message that cannot be read to its end gets `later`, and what queued has of its report by then is in no other: the
    next sender's, on the same connection, is his alone, and the first one's, asked for again, is whole and begins once."""
    other, pread, at = b'1700000000000002', unix.pread, []
    body = b'Subject: long\n\n' + b'joe wrote this, and who else is nobody to know.\n' * 70_000

    def failing(fd, size, offset):
        at.append(offset)
        if offset == 1 << 20 and at.count(offset) == 2:         # it was read once to see whether it is ASCII
            raise OSError(errno.EIO, 'Input/output error')
        return pread(fd, size, offset)
    with open(office.home + b'/control/bouncemaxbytes', 'w') as file:
        file.write('9000000\n')
    office.failed(b'a@x.example', body=body)
    office.failed(b'b@x.example', sender=b'jane@there.example', ident=other)
    monkeypatch.setattr(unix, 'pread', failing)
    assert office.ask(b'0') == (b'Z', [ID, b'Input/output error']) and at.count(1 << 20) == 2
    connection = office.bouncer.queued
    message, envelope = office.report(office.ask(b'0', ident=other)[1][1])
    assert b'\nTo: jane@there.example\n' in message and b'joe' not in message
    assert message.endswith(BODY + message[message.rindex(b'\n--'):]) and envelope.recipients == [b'jane@there.example']
    message, envelope = office.report(office.ask(b'0')[1][1])
    assert body in message and envelope.recipients == [b'joe@there.example']
    assert message.count(b'\nTo: ') == message.count(b'Subject: long\n') == 1 and office.bouncer.queued is connection


def test_plain_form():
    """control/bounceformat qsbmf: no MIME, and the message at the end."""
    with queued.temporary_home() as home:
        office = Office(home, bounceformat='qsbmf')
        _, (_, new, _) = office.ask(office.failed(b'a@x.example'))
        message = office.report(new)[0]
        assert b'MIME-Version' not in message and message.endswith(b'\nReturn-Path: <joe@there.example>\n' + BODY)
        office.end()


def test_nothing_there(office):
    """A message that is gone, damaged, or without state gets `later`."""
    assert office.ask(b'0')[0] == b'Z'
    office.failed(b'a@x.example')
    os.unlink(office.home + b'/queue/state/' + ID)
    assert office.ask(b'0')[0] == b'Z'
    office.failed(b'a@x.example')
    with open(office.home + b'/queue/mess/' + ID, 'r+b') as file:
        file.write(b'Y')
    assert office.ask(b'0')[0] == b'Z'


def test_queued_is_gone(office):
    """Without queued a report is later's; with a new one it is made."""
    indices = office.failed(b'a@x.example')
    office.queued.kill()
    assert office.ask(indices)[0] == b'Z'
    office.queued = queued.Daemon(office.home, 'queued', [b'submit', b'new'])
    assert office.ask(indices)[0] == b'K'


def still_open(office):
    """The messages that this process has open."""
    found = [os.readlink(b'/proc/self/fd/%d' % fd) for fd in range(3, 1000) if os.path.islink(b'/proc/self/fd/%d' % fd)]
    return [path for path in found if path.startswith(office.home + b'/queue/mess/')]


def test_reports_that_queued_does_not_hear(office):
    """Nothing stays open of a report for which there is no queued, however often send asks."""
    indices = office.failed(b'a@x.example')
    office.queued.kill()
    for _ in range(50):
        assert office.ask(indices)[0] == b'Z'
    assert still_open(office) == []


def test_strangers(office):
    """Only send's account is served."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    office.bouncer.connected(its, (1, 4242, 4242))
    assert mine.recv(10) == b''
    mine.close()


def test_delay(office):
    """What takes long is told of with the header only, in words no parser takes for a bounce, and until when it is
    tried."""
    office.failed(b'a@x.example', b'b@x.example', letter=b'z', text=b'x said: 451 4.7.1 later\n',
                  recipient_options=[(), [(b'N', b'FAILURE')]])
    message, envelope = office.report(office.ask(b'0,1', kind=b'delay')[1][1])
    assert envelope.sender == b'' and envelope.recipients == [b'joe@there.example']
    assert b'\nSubject: your message is delayed\n' in message and b'\nAuto-Submitted: auto-replied\n' in message
    assert b'Hi. This is the' not in message and b'\n<a@x.example>:\nx said: 451' in message and b'b@x' not in message
    assert b'\nAction: delayed\nStatus: 4.7.1\n' in message and b'\nWill-Retry-Until: 21 Nov 2023 22:13:20 -0000\n' in message
    assert b'\nContent-Type: text/rfc822-headers\n' in message and b'Subject: hi\n' in message and b'body' not in message
    assert office.ask(b'1', kind=b'delay')[1][1] == b''


def test_a_message_from_a_clock_that_stood_ahead(office):
    """A report names the day on which such a message was found, and not the one it claims."""
    now, ahead = int(time.time()), b'%d' % (2 * time.time())
    office.failed(b'a@x.example', options=[(b't', ahead)], ident=ahead + b'000000')
    with open(office.home + b'/queue/state/' + ahead + b'000000', 'ab') as file:
        file.write(state.entry(ahead + b'000000', b'b', b'%d' % (now - 77)))
    message, _ = office.report(office.ask(b'0', ident=ahead + b'000000')[1][1])
    assert b'\nArrival-Date: %b' % dates.header_date(now - 77)[:-6] in message


@pytest.mark.parametrize('how, words', [(b'delivered', b'It was delivered.'), (b'relayed', b'will not tell you'),
                                        (b'expanded', b'this one stands for')])
def test_success(office, how, words):
    """NOTIFY=SUCCESS is told how it came about, in words and for machines."""
    office.failed(b'a@x.example', letter=b'd', text=how + b' did 1+0+0\n', options=[(b'E', b'QQ+2B1'), (b'R', b'FULL')],
                  recipient_options=[[(b'N', b'SUCCESS'), (b'O', b'rfc822;A+2Bx@x.example')]])
    message = office.report(office.ask(b'0', kind=b'success')[1][1])[0]
    assert b'\nSubject: your message has been delivered\n' in message and words in message
    assert b'\nOriginal-Envelope-Id: QQ+1\n' in message and b'\nOriginal-Recipient: rfc822; A+x@x.example\n' in message
    assert b'\nAction: ' + how + b'\nStatus: 2.0.0\n' in message and b'Hi. This is the' not in message
    assert b'body' not in message and b'Will-Retry' not in message


def test_what_deliverby_asks_for(office):
    """With DELIVERBY all but NEVER is told of lateness, and of a hop that does not know it."""
    options = dict(options=[(b'D', b'1700000100;N')], recipient_options=[[(b'N', b'FAILURE')], [(b'N', b'NEVER')]])
    for letter, text, kind in ((b'z', b'later\n', b'delay'), (b'd', b'relayed ok\n', b'success')):
        office.failed(b'a@x.example', b'b@x.example', letter=letter, text=text, **options)
        message = office.report(office.ask(b'0,1', kind=kind)[1][1])[0]
        assert b'<a@x.example>:' in message and b'b@x.example' not in message


def test_kinds_fit_the_state(office):
    """A success is not reported as a failure, nor the other way, nor is a kind nobody knows."""
    office.failed(b'a@x.example', letter=b'd', text=b'delivered ok')
    assert office.ask(b'0')[0] == b'Z' and office.ask(b'0', kind=b'delay')[0] == b'Z'
    assert office.ask(b'0', kind=b'gossip')[0] == b'Z'
    office.failed(b'a@x.example')
    assert office.ask(b'0', kind=b'success')[0] == b'Z'


@pytest.mark.parametrize('field, told', [
    (b'Precedence: bulk', False), (b'LIST-ID: <l.x>', False), (b'Auto-Submitted: auto-generated', False),
    (b'Auto-Submitted: no', True), (b'X: y\n precedence: bulk', True), (b'X-List-Id: x', True)])
def test_nobody_waits_for_a_lists_mail(office, field, told):
    """Of mail of lists and programs nobody hears unasked that it takes long; of its failure as of any other."""
    options = dict(body=field + b'\nSubject: x\n\nList-Id: text\n', recipient_options=[(), [(b'N', b'DELAY')]])
    office.failed(b'a@x.example', b'b@x.example', letter=b'z', **options)
    message = office.report(office.ask(b'0,1', kind=b'delay')[1][1])[0]
    assert b'<b@x.example>:' in message and (b'<a@x.example>:' in message) is told
    assert (office.ask(b'0', kind=b'delay')[1][1] != b'') is told
    office.failed(b'a@x.example', b'b@x.example', **options)
    assert b'<a@x.example>:' in office.report(office.ask(b'0')[1][1])[0]


def test_no_delay_without_a_sender(office):
    """The postmaster is not told that a bounce takes long."""
    office.failed(b'a@x.example', sender=b'', letter=b'z')
    assert office.ask(b'0', kind=b'delay')[1][1] == b''


def test_plain_delay(office):
    """bounceformat qsbmf: plain text, and the header of the message."""
    with open(office.home + b'/control/bounceformat', 'w') as file:
        file.write('qsbmf\n')
    office.failed(b'a@x.example', letter=b'z', text=b'later\n')
    message = office.report(office.ask(b'0', kind=b'delay')[1][1])[0]
    assert b'\n\nThis is the mail system at here.example.' in message and b'Subject: hi\n' in message
    assert b'multipart' not in message and b'body' not in message


def test_utf8_and_requiretls(office):
    """An SMTPUTF8 message comes back as message/global (RFC 6533); one that must travel by TLS only comes back by TLS
    only, and its header alone."""
    office.failed(b'a@x.example', options=[(b'U', b'')])
    message, envelope = office.report(office.ask(b'0')[1][1])
    assert b'\nContent-Type: message/global\n' in message and envelope.option(b'Q') is None
    office.failed(b'a@x.example', options=[(b'Q', b'')])
    message, envelope = office.report(office.ask(b'0')[1][1])
    assert b'\nContent-Type: text/rfc822-headers\n' in message and b'body' not in message and envelope.option(b'Q') == b''


# --- a queued that is slow, or goes ---

@pytest.fixture
def piecewise(monkeypatch):
    """After each piece of a report the bouncer waits until queued has taken it."""
    monkeypatch.setattr(bouncer, 'IN_FLIGHT', 1)


def test_queued_takes_each_piece_at_once(office, piecewise):
    """INV6: what queued takes in one piece is nothing that anybody is told of: the bouncer looks as often as it must, and
    goes on."""
    letter, (_, new, _) = office.ask(office.failed(b'a@x.example', b'b@y.example'))
    assert letter == b'K' and office.report(new)[0].count(BODY) == 1


def test_queued_goes_in_the_midst_of_a_report(office, piecewise):
    """INV6: send is told to ask again for a report of which queued had a part only, and then it is made."""
    indices = state.pack_indices([int(office.failed(b'a@x.example'))])
    office.asker.send(channel.pack(b'B', ID, indices, b'bounce'))
    while office.bouncer.current is None:
        office.loop.step(0.01)
    office.queued.kill()
    assert office.answers(1) == [(b'Z', [ID, b'lost connection to queued'])]
    office.queued = queued.Daemon(office.home, 'queued', [b'submit', b'new'])
    assert office.ask(b'0')[0] == b'K' and len(os.listdir(office.home + b'/queue/mess')) == 2


def test_queued_goes_before_a_report_is_begun(office, piecewise):
    """Nor of one of which queued has heard nothing yet when it goes."""
    second = b'1700000000000002'
    for ident in (ID, second):
        office.failed(b'a@x.example', ident=ident)
        office.asker.send(channel.pack(b'B', ident, state.pack_indices([0]), b'bounce'))
    while office.bouncer.current is None or office.bouncer.current[-1] != second:
        office.loop.step(0.01)
    office.queued.kill()
    assert (b'Z', [second, b'lost connection to queued']) in office.answers(2)
    assert still_open(office) == []
