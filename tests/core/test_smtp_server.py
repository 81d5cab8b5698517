"""The server's SMTP session, without a socket: each input and the reply it must get."""
import re

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qpy.core import cdb, received, smtp_policy, smtp_replies as replies, smtp_server as smtp
from qpy.core.rcpthosts import Rcpthosts
from qpy.core.smtp_chunks import DRAIN_MAX
from qpy.core.smtp_policy import Client, Policy
from qpy.core.smtp_server import Session
from qpy.core.tls_front import Tls
from qpy.core.validrcptto import ValidRecipients

HOSTS = Rcpthosts({b'example.com': 1, b'.sub.example.com': 1}, cdb.over(cdb.build([(b'more.example', b'')])))
USERS = {b'nobody@example.com': b'no', b'slow@example.com': b'temp', b'maybe@example.com': b'unknown'}
DATE = b'25 Nov 2026 02:16:14 -0000'


def policy(**changes):
    settings_ = dict(greeting=b'mx.example.com', hosts=HOSTS, localiphost=b'mx.example.com',
        max_recipients=1000)
    settings_.update(changes)
    return Policy(**settings_)


def client(**changes):
    settings_ = dict(ip=b'192.0.2.7', name=b'mail.example.org', local=b'mx.example.com',
        local_ip=b'192.0.2.1')
    settings_.update(changes)
    return Client(**settings_)


class World:
    """Answers a session's events; collects replies and messages (sender, recipients, text, options)."""

    def __init__(self, session=None, queue=b'', start=b'', **changes):
        self.session = session or Session(policy(**changes.pop('policy', {})), client(**changes))
        self.queue, self.start = queue, start
        self.out, self.text, self.messages, self.closed, self.drops = b'', b'', [], False, 0
        self.begun = False          # a handshake may begin

    def feed(self, data, now=0):
        self.session.receive(data, now)
        while True:
            event = self.session.next()
            if event is None:
                break
            self.answer(*event)
        self.out += self.session.output()
        return self

    def answer(self, kind, value):
        session = self.session
        if kind == smtp.CHECK:
            more = session.recipient(USERS.get(value, b'yes'))
            if more:
                self.answer(*more)
        elif kind == smtp.START:
            if self.start:
                session.refuse_text(self.start)
            else:
                self.text = session.begin(DATE, b'ident', 1000)
        elif kind == smtp.BODY:
            self.text += value
        elif kind == smtp.SUBMIT:
            if self.queue:
                session.failed(self.queue)
            else:
                self.messages.append((session.sender, list(session.recipients), self.text + value,
                    session.options()))
                self.personal = list(session.personal)
                session.queued(1795455343, 17567)
        elif kind == smtp.DROP:
            self.drops += 1
        elif kind == smtp.TLS:
            self.begun = bool(session.beside.tls)
            session.tls_begun() if self.begun else session.tls_refused()
        elif kind == smtp.CLOSE:
            self.closed = True

    def replies(self):
        lines, self.out = self.out.split(b'\r\n'), b''
        assert lines.pop() == b''
        return lines

    def say(self, line):
        """The replies to one line."""
        self.feed(line + b'\r\n')
        return self.replies()


def talk(*lines, **changes):
    """The first three digits of each reply to a conversation, and the world after it."""
    world = World(**changes)
    for line in lines:
        world.feed(line + b'\r\n')
    return [line[:3] for line in world.replies()], world


HELLO = (b'EHLO client.example.org', b'MAIL FROM:<joe@example.org>', b'RCPT TO:<ann@example.com>')
HELLO_CODES = [b'250'] * 12


def test_ehlo_announces():
    """EHLO: the greeting and what is done for this client; nothing that is not."""
    assert World(policy={'databytes': 5000}).say(b'EHLO x') == [
        b'250-mx.example.com', b'250-PIPELINING', b'250-SIZE 5000', b'250-8BITMIME', b'250-SMTPUTF8', b'250-CHUNKING',
        b'250-DSN', b'250-DELIVERBY', b'250-LIMITS RCPTMAX=1000', b'250 ENHANCEDSTATUSCODES']
    assert World().say(b'HELO x') == [b'250 mx.example.com']


def test_golden_conversation():
    """qmail's conversation, captured: the envelope, the stored text with its Received line, the last
    reply."""
    world = World(name=b'Host_x', info=b'j o', ip=b'192.0.2.9', local=b'mx.local',
                  policy={'hosts': Rcpthosts({b'example.com': 1})})
    world.session.banner()
    for line in (b'HELO host_X', b'MAIL FROM:<"a b"@c>', b'RCPT TO:<@r.x:Joe@EXAMPLE.com>', b'DATA', b'A: 1',
        b'..dot', b'',
                 b'x', b'.', b'QUIT'):
        world.feed(line + b'\r\n')
    assert world.replies() == [
        b'220 mx.example.com ESMTP', b'250 mx.example.com', b'250 2.1.0 ok', b'250 2.1.5 ok', b'354 go ahead',
        b'250 2.0.0 ok 1795455343 qp 17567', b'221 2.0.0 mx.example.com']
    assert world.closed
    (sender, recipients, text, options), = world.messages
    assert (sender, recipients) == (b'a b@c', [b'Joe@EXAMPLE.com'])
    assert text == (b'Received: from Host?x (j?o@192.0.2.9)\n  by mx.local with SMTP; ' + DATE
                    + b'\nA: 1\n.dot\n\nx\n')
    assert options == [(b'P', b'SMTP'), (b'C', b'192.0.2.9'), (b'c', b'Host?x'), (b'H', b'host?X')]


def test_received_forms():
    """The Received line: HELO only if it differs, user only if known, ESMTP, unknown for what is not
    known."""
    assert received.line(b'', b'foo', b'', b'', b'', b'ESMTP', DATE) == (
        b'Received: from unknown (HELO foo) (unknown)\n  by unknown with ESMTP; ' + DATE + b'\n')
    assert b'(HELO' not in received.line(b'a.b', b'A.B', b'', b'1.2.3.4', b'x', b'SMTP', DATE)


@given(st.binary(max_size=40))
def test_received_words_are_safe(word):
    """What a stranger says stands in Received as letters, digits and .@%+/=:-[] only: no line, comment or quote of
    its own.
    """
    safe = received.safe(word)
    assert len(safe) == len(word) and re.fullmatch(rb'[A-Za-z0-9.@%+/=:\-\[\]?]*', safe)
    assert all(a in (b, ord('?')) for a, b in zip(safe, word))
    assert safe == word or re.search(rb'[^A-Za-z0-9.@%+/=:\-\[\]]', word)


ONE_LINERS = [
    # G-14, G-16, G-17, G-18, G-35, G-36
    (b'NOOP', b'250'), (b'nOoP  anything', b'250'), (b'HELP', b'214'), (b'VRFY joe', b'252'),
    (b'EXPN x', b'502'),
    (b'TURN', b'502'), (b'ETRN x', b'502'), (b'DEBUG', b'502'), (b'WIZ', b'502'), (b'BDAT 5 LAST', b'503'),
    (b'STARTTLS', b'502'), (b'AUTH PLAIN', b'502'), (b'', b'500'), (b'   ', b'500'),
    (b'PROXY TCP4 1.2.3.4 1.2.3.4 1 25', b'502'),
    (b'NOOP\0', b'500'), (b'NOOP \x1b[31m', b'500'), (b'NOOP \x7f', b'500'), (b'NOOP \xc3\xa4', b'500'),
    (b'\xff\xfe', b'500'),
    (b'NO\rOP', b'500'), (b'RSET', b'250'), (b'RSET now', b'250'), (b'NOOP ' + b'x' * 507, b'250'),
    (b'NOOP ' + b'x' * 2041, b'250'), (b'NOOP ' + b'x' * 2042, b'500'), (b'NOOP ' + b'x' * 10000, b'500'),
    # G-17: the table of tolerated spaces
    (b'mAiL fRoM:<a@b>', b'250'), (b'MAIL  FROM:<a@b>', b'250'), (b'MAIL FROM: <a@b>', b'250'),
    (b'MAIL FROM:<a@b>  ', b'250'),
    (b'MAIL FROM:<a@b>\t', b'250'), (b'MAIL FROM:a@b', b'250'), (b'MAIL FROM :<a@b>', b'501'),
    (b'MAIL\tFROM:<a@b>', b'500'),
    (b'MAIL FROM:\t<a@b>', b'500'), (b'MAIL FROM <a@b>', b'501'), (b'MAIL FOO<a@b>', b'501'),
    (b'MAILFROM:<a@b>', b'502'),
    (b' MAIL FROM:<a@b>', b'502'), (b'MAIL', b'501'), (b'mail <a@b>', b'250'), (b'MAIL a@b', b'501'), (b'MAIL <a@b', b'501'),
    # G-21
    (b'MAIL FROM:<>', b'250'), (b'MAIL FROM:< >', b'501'), (b'MAIL FROM:', b'501'),
    (b'MAIL FROM:<a@[]>', b'501'),
    # G-27
    (b'MAIL FROM:<\xc3\xa4@b>', b'553'), (b'MAIL FROM:<\xff@b>', b'553'), (b'MAIL FROM:<a\0@b>', b'500'),
    # G-28, G-29
    (b'MAIL FROM:<a@b> SIZE=100', b'250'), (b'MAIL FROM:<a@b> size=100 body=8bitmime', b'250'),
    (b'MAIL FROM:<a@b> BODY=7BIT', b'250'), (b'MAIL FROM:<a@b> SIZE=5001', b'552'),
    (b'MAIL FROM:<a@b> SIZE=' + b'9' * 20, b'552'),
    (b'MAIL FROM:<a@b> SIZE=' + b'9' * 21, b'501'), (b'MAIL FROM:<a@b> SIZE=', b'501'),
    (b'MAIL FROM:<a@b> SIZE', b'501'),
    (b'MAIL FROM:<a@b> SIZE=-1', b'501'), (b'MAIL FROM:<a@b> SIZE=+1', b'501'),
    (b'MAIL FROM:<a@b> SIZE=1_0', b'501'),
    (b'MAIL FROM:<a@b> SIZE=\xd9\xa3', b'501'), (b'MAIL FROM:<a@b> SIZE=1 SIZE=1', b'501'),
    (b'MAIL FROM:<a@b> BODY=X', b'501'),
    (b'MAIL FROM:<a@b> BODY=BINARYMIME', b'501'), (b'MAIL FROM:<a@b> FOO=1', b'555'),
    (b'MAIL FROM:<a@b> AUTH=<>', b'555'),
    (b'MAIL FROM:<a@b> SMTPUTF8', b'250'), (b'MAIL FROM:<a@b>SIZE=1', b'501'),
    # G-19
    (b'RCPT TO:<a@b>', b'503'), (b'DATA', b'503'),
    # G-32: a HELO is never refused
    (b'HELO', b'250'), (b'EHLO', b'250'), (b'HELO [', b'250'), (b'HELO \0\xc3\xa4' + b'x' * 1000, b'250'),
    (b'EHLO mx.example.com', b'250'),
]


@pytest.mark.parametrize('line, code', ONE_LINERS)
def test_first_command(line, code):
    """G-14 to G-36: the reply to each of these as the first command."""
    replies = World(policy={'databytes': 5000}).say(line)
    assert replies[-1][:3] == code and len({reply[:3] for reply in replies}) == 1


RCPTS = [
    (b'RCPT TO:<ann@example.com>', b'250'), (b'rcpt to: ann@example.com', b'250'),
    (b'RCPT TO:<ann@EXAMPLE.COM>', b'250'),
    (b'RCPT TO:<a@x.sub.example.com>', b'250'), (b'RCPT TO:<a@sub.example.com>', b'553'),
    (b'RCPT TO:<a@more.example>', b'250'),
    (b'RCPT TO:<a@evil.example>', b'553'), (b'RCPT TO:<postmaster>', b'250'),
    (b'RCPT TO:<maybe@example.com>', b'250'),
    (b'RCPT TO:<nobody@example.com>', b'550'), (b'RCPT TO:<slow@example.com>', b'451'),
    # G-21, G-22, G-23, G-26
    (b'RCPT TO:<>', b'501'), (b'RCPT TO:', b'501'), (b'RCPT TO:<#@[]>', b'501'),
    (b'RCPT TO:<@example.com:a@evil.example>', b'553'),
    (b'RCPT TO:<@evil.example:a@example.com>', b'250'), (b'RCPT TO:<@[127.0.0.1]:x@example.com>', b'250'),
    (b'RCPT TO:<a%evil.example@example.com>', b'250'), (b'RCPT TO:<"a@evil.example">', b'501'),
    (b'RCPT TO:<a@evil.example@example.com>', b'501'),
    (b'RCPT TO:<"a@example.com"@evil.example>', b'553'), (b'RCPT TO:<a@[192.0.2.2]>', b'553'),
    (b'RCPT TO:<a@example.com> NOTIFY=NEVER', b'250'),
    (b'RCPT TO:<a@1.2.3.4>', b'501'), (b'RCPT TO:<a@example.com.>', b'501'),
    (b'RCPT FROM:<a@example.com>', b'501'), (b'rcpt <ann@example.com>', b'250'), (b'RCPT <a@evil.example>', b'553'),
    (b'RCPT TO:<\xe2\x84\xaa@example.com>', b'553'),
]


@pytest.mark.parametrize('line, code', RCPTS)
def test_recipients(line, code):
    """G-21 to G-27: which recipients are taken; the decision is on the final domain alone."""
    assert talk(*HELLO[:2], line)[0][-1] == code


def test_rcpthosts_missing_is_no_open_relay():
    """A-03: without rcpthosts only locals and virtualdomains are accepted; exceptions and catch-alls open
    nothing."""
    hosts = Rcpthosts(None, None, {b'local.example': 1},
                      {b'virtual.example': b'v', b'.wild.example': b'w', b'joe@one.example': b'j',
                      b'not.wild.example': b''})
    for address, reason in [(b'a@local.example', b'locals'), (b'a@virtual.example', b'virtualdomains'),
        (b'a@x.wild.example', b'virtualdomains'),
                            (b'Joe@ONE.example', b'virtualdomains'), (b'ann@one.example', b''),
                            (b'a@not.wild.example', b''),
                            (b'a@other.example', b''), (b'a@sub.local.example', b'')]:
        assert hosts.accepts(address) == reason
    assert not Rcpthosts(None, None, (), {b'': b'all'}).accepts(b'a@b.c')
    assert not Rcpthosts({}).accepts(b'a@b.c')


def test_percenthack_is_no_relay():
    """G-22: user%host@domain goes on to host, so who may not relay is refused unless each host on its way is accepted."""
    hosts = Rcpthosts({b'hack.example': 1, b'ours.example': 2, b'plain.example': 3}, hack={b'hack.example': 1})
    for address, accepted in ((b'joe@hack.example', True), (b'joe%ours.example@HACK.example', True),
                              (b'joe%far.example@hack.example', False), (b'joe%far.example@plain.example', True),
                              (b'joe%far.example%hack.example@hack.example', False),
                              (b'joe%ours.example%hack.example@hack.example', True), (b'%@hack.example', False),
                              (b'joe%hack.example@far.example', False)):
        assert bool(hosts.accepts(address)) == accepted, address
    policy = {'hosts': hosts}
    assert talk(*HELLO[:2], b'RCPT TO:<a%far.example@hack.example>', policy=policy)[0][-1] == b'553'
    assert talk(*HELLO[:2], b'RCPT TO:<a%ours.example@hack.example>', policy=policy)[0][-1] == b'250'


def test_broken_morercpthosts_is_temporary():
    """A-04: a cdb that cannot be read makes an answer temporary, never `not listed`."""
    def fails(offset, count):
        raise OSError(5, 'read error')
    database = cdb.over(cdb.build([(b'more.example', b'')]))
    database.read_at = fails
    world = talk(*HELLO[:2], b'RCPT TO:<a@more.example>', policy={'hosts': Rcpthosts({}, database)})
    assert world[0][-1] == b'451'


def test_own_literal_means_localiphost():
    """G-26: the literal of the address the client connected to stands for localiphost, in MAIL and RCPT."""
    session = World()
    for line in (b'MAIL FROM:<x@[192.0.2.1]>', b'RCPT TO:<a@[192.0.2.1]>'):
        session.feed(line + b'\r\n')
    assert session.session.sender == b'x@mx.example.com'
    assert session.replies()[-1].startswith(b'553')     # mx.example.com is not in rcpthosts here
    relaying = World(relay=b'')
    relaying.feed(b'MAIL FROM:<>\r\nRCPT TO:<a@[192.0.2.1]>\r\nRCPT TO:<a@[192.0.2.2]>\r\n')
    assert relaying.session.recipients == [b'a@mx.example.com', b'a@[192.0.2.2]']


def test_relayclient_value_is_appended():
    """RELAYCLIENT: any recipient, with the value appended to the unquoted address; the queue's limit
    holds."""
    world = World(relay=b'.relay')
    world.feed(b'MAIL FROM:<>\r\nRCPT TO:<"a b"@evil.example>\r\n')
    assert world.session.recipients == [b'a b@evil.example.relay']
    assert talk(*HELLO[:2], b'RCPT TO:<' + b'x' * 890 + b'@a.b>', relay=b'y' * 110)[0][-1] == b'501'


def test_badmailfrom_refuses_recipients():
    """badmailfrom: an address, or @host, in any case; refused at RCPT as in qmail. badrcptto likewise."""
    bad = {'bad_senders': {b'spam@x.example': 1, b'@evil.example': 1},
        'bad_recipients': {b'trap@example.com': 1}}
    for sender, code in [(b'SPAM@x.example', b'553'), (b'any@Evil.Example', b'553'),
            (b'ok@x.example', b'250'), (b'', b'250')]:
        assert talk(b'MAIL FROM:<%s>' % sender, HELLO[2], policy=bad)[0] == [b'250', code]
    assert talk(HELLO[1], b'RCPT TO:<Trap@example.com>', policy=bad)[0] == [b'250', b'553']


@pytest.mark.parametrize('helo, code', [
    (b'Pest.Example', b'553'), (b'a.b.dialup.example', b'553'), (b'dialup.example', b'250'), (b'[192.0.2.7]', b'553'),
    (b'x.pest.example', b'250'), (b'', b'250')])
def test_badhelo_refuses_recipients(helo, code):
    """badhelo: a name, .domain for what is below it, or a literal, in any case; refused at RCPT."""
    bad = {'bad_helos': {b'pest.example': 1, b'.dialup.example': 2, b'[192.0.2.7]': 3}}
    lines = (b'HELO ' + helo, HELLO[1], HELLO[2])
    assert talk(*lines, policy=bad)[0][-1] == code
    assert talk(*lines, policy=bad, relay=b'')[0][-1] == b'250'
    assert talk(*lines, policy=bad, env=((b'NOBADHELO', b''),))[0][-1] == b'250'


@pytest.mark.parametrize('compiled', [False, True])
def test_validrcptto(compiled):
    """validrcptto: listed addresses and domains in any case, a minus takes out; list and cdb alike, not for
    those who relay, and a cdb that cannot be read is temporary."""
    entries = [b'ann@example.com', b'@more.example', b'-trap@more.example', b'-@x.sub.example.com']
    table = cdb.over(cdb.build([(e, b'') for e in entries])) if compiled else dict.fromkeys(entries, 1)
    given = {'valid': ValidRecipients(table)}
    for address, reply in [(b'Ann@Example.com', b'250 2.1.5'), (b'bob@example.com', b'550 5.1.1'),
                           (b'any@more.example', b'250 2.1.5'), (b'Trap@more.example', b'550 5.1.1'),
                           (b'a@x.sub.example.com', b'550 5.1.1'), (b'a@evil.example', b'553 5.7.1')]:
        world = World(policy=given)
        world.feed(HELLO[1] + b'\r\nRCPT TO:<%s>\r\n' % address)
        assert world.replies()[-1].startswith(reply), address
    assert talk(HELLO[1], b'RCPT TO:<bob@example.com>', policy=given, relay=b'')[0] == [b'250', b'250']


def test_recipients_without_a_host():
    """RFC 5321, 4.5.1: <Postmaster> alone, where the list has it with our host; and no way around badrcptto."""
    given = {'valid': ValidRecipients({b'postmaster@mx.example.com': 1}), 'bad_recipients': {b'trap@mx.example.com': 1},
             'no_host': b'mx.example.com'}
    assert talk(HELLO[1], b'RCPT TO:<Postmaster>', b'RCPT TO:<trap>', b'RCPT TO:<ann>', policy=given)[0] == [
        b'250', b'250', b'553', b'550']


def test_validrcptto_that_cannot_be_read():
    """Trouble with the cdb refuses for now, never for good."""
    class Torn:
        def get(self, key):
            raise cdb.CdbError('torn')
    assert talk(HELLO[1], HELLO[2], policy={'valid': ValidRecipients(Torn())})[0] == [b'250', b'451']


def test_order_of_commands():
    """G-19, G-20: RCPT before MAIL, DATA before RCPT, MAIL twice, EHLO and RSET within a transaction."""
    codes, world = talk(b'RCPT TO:<ann@example.com>', b'MAIL FROM:<>', b'DATA', b'MAIL FROM:<>',
        b'RCPT TO:<a@evil.example>',
                        b'DATA', b'RCPT TO:<ann@example.com>', b'HELO x', b'DATA', b'MAIL FROM:<>', b'RSET',
                        b'RCPT TO:<a@b>',
                        b'MAIL FROM:<>', b'RCPT TO:<ann@example.com>', b'DATA x', b'DATA')
    assert codes == [b'503', b'250', b'503', b'503', b'553', b'503', b'250', b'250', b'503', b'250', b'250',
        b'503', b'250',
                     b'250', b'501', b'354']
    assert not world.messages


def test_pipelined_group_and_what_follows_the_end():
    """G-12, RFC 2920: a whole group at once, and commands behind the end of the text, answered in order."""
    world = World()
    world.feed(b'EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.com>\r\n'
               b'RCPT TO:<nobody@example.com>\r\nDATA\r\n'
               b'Subject: x\r\n\r\nhello\r\n.\r\nMAIL FROM:<>\r\nDATA\r\nQUIT\r\nNOOP\r\n')
    assert [r[:3] for r in world.replies()] == [b'250'] * 12 + [b'550', b'354', b'250', b'250', b'503', b'221']
    assert len(world.messages) == 1 and world.closed


def test_waits_for_answers():
    """G-12: while an answer is due nothing more is obeyed, and the replies keep their order."""
    session = Session(policy(), client())
    session.receive(b'MAIL FROM:<>\r\nRCPT TO:<ann@example.com>\r\nRCPT TO:<x@evil.example>\r\nDATA\r\n')
    assert session.next() == (smtp.CHECK, b'ann@example.com')
    assert session.next() is None and session.output() == b'250 2.1.0 ok\r\n'
    session.recipient(b'yes')
    assert session.next() == (smtp.START, None)
    assert [line[:3] for line in session.output().split(b'\r\n')] == [b'250', b'553', b'']
    session.begin(DATE)
    session.receive(b'x\r\n.\r\nQUIT\r\n')
    assert session.next() == (smtp.SUBMIT, b'x\n') and session.next() is None
    session.failed(b'Zqq timeout (#4.3.0)')
    assert session.next() == (smtp.CLOSE, None)
    assert session.output().startswith(b'354 go ahead\r\n451 4.3.0 qq timeout\r\n221 ')


@pytest.mark.parametrize('report, reply', [
    (b'Zqq timeout (#4.3.0)', b'451 4.3.0 qq timeout'),
    (b'Zno room (#4.3.1)', b'452 4.3.1 no room'),
    (b'Dmail server permanently rejected message (#5.3.0)',
     b'554 5.3.0 mail server permanently rejected message'),
    (b'Dno thanks\n', b'554 5.3.0 no thanks'), (b'Zx (#5.1.1)', b'451 4.3.0 x (#5.1.1)'),
    (b'Da\r\n250 forged', b'554 5.3.0 a??250 forged'),
    (b'Z', b'451 4.3.0 '),
])
def test_queue_reports(report, reply):
    """What the queue or a filter reports becomes one line with its enhanced code; nothing in it can make a
    second."""
    codes, world = talk(*HELLO, queue=report)
    world.replies()
    world.feed(b'DATA\r\n.\r\n')
    assert world.replies() == [b'354 go ahead', reply]
    assert not world.messages


BARE = [b'x\n.\n', b'x\n.\r\n', b'x\r\n.\n', b'x\r.\r\n', b'x\r.\r', b'x\n.\r', b'x\r\n.\rx', b'\n',
    b'a\rb\r\n', b'.\n']


@pytest.mark.parametrize('text', BARE)
def test_bare_line_ends_close(text):
    """G-02 to G-06: such a text is refused for good, the session closed, and nothing behind it obeyed or
    queued."""
    smuggled = b'\r\nMAIL FROM:<evil@x>\r\nRCPT TO:<ann@example.com>\r\nDATA\r\nfoo\r\n.\r\n'
    codes, world = talk(*HELLO, b'DATA')
    world.replies()
    world.feed(text + smuggled)
    replies = world.replies()
    assert len(replies) == 1 and replies[0].startswith(b'550 5.5.2 bare')
    assert world.closed and not world.messages


def test_bare_lf_switches():
    """G-02, G-15: the switch for qmail's 451, for LF as the end of commands, and for both (sendmail -bs)."""
    assert talk(b'NOOP\nNOOP\n')[0] == [b'500', b'500', b'500']
    assert World(bare_lf=b'commands').feed(b'NOOP\nQUIT\n').replies()[1][:3] == b'221'
    world = World(bare_lf=b'451').feed(b'MAIL FROM:<>\nRCPT TO:<ann@example.com>\nDATA\nx\n.\n')
    assert world.replies()[-1] == replies.BARE_LF_TEMPORARY and world.closed and not world.messages
    world = World(bare_lf=b'commands').feed(b'MAIL FROM:<>\nRCPT TO:<ann@example.com>\nDATA\nx\n.\n')
    assert world.replies()[-1][:3] == b'550' and world.closed and not world.messages
    world = World(bare_lf=b'all').feed(b'MAIL FROM:<>\nRCPT TO:<ann@example.com>\nDATA\nx\n..y\n.\nQUIT\n')
    assert world.replies()[-2][:3] == b'250' and world.messages[0][2].endswith(b'\nx\n.y\n')


def test_too_big():
    """G-29: 552 after the end of the text, read to that end; the next message is served."""
    codes, world = talk(*HELLO, b'DATA', b'x' * 60, b'y' * 60, b'.', *HELLO[1:], b'DATA', b'x' * 98, b'.',
        policy={'databytes': 99})
    assert codes[12:] == [b'354', b'552', b'250', b'250', b'354', b'250']
    assert world.drops == 1 and len(world.messages) == 1


def test_too_big_by_far_closes():
    """G-29: a client that goes on for 64 MB beyond the limit is left."""
    codes, world = talk(*HELLO, b'DATA', policy={'databytes': 99})
    for _ in range((DRAIN_MAX >> 20) + 2):
        world.feed(b'x' * (1 << 20))
    assert world.closed and world.replies()[-1][:3] == b'552' and world.drops == 1


def test_hops():
    """G-40: 100 Received or Delivered-To lines are a loop."""
    for lines, code in [(99, b'250'), (100, b'554')]:
        codes, world = talk(*HELLO, b'DATA', b'ReCeived : x\r\n' * lines + b'\r\nbody', b'.')
        assert codes[-1] == code and len(world.messages) == (code == b'250')


@pytest.mark.parametrize('text',
    [b'', b'Subject: x', b'no header', b'\r\nbody', b'From x y', b'\0\xff', b'A: b\r\n\r\n' + b'x' * 100000])
def test_messages_of_any_shape(text):
    """G-30, G-31: empty, only headers, no blank line, blank line first, From_ line, long line: accepted as
    they are."""
    codes, world = talk(*HELLO, b'DATA')
    world.feed(text + (b'\r\n.\r\n' if text else b'.\r\n'))
    stored = text.replace(b'\r\n', b'\n') + (b'\n' if text else b'')
    assert world.messages[0][2].split(DATE + b'\n')[1] == stored


def test_recipient_limit():
    """G-33: above the limit each further recipient gets 452 4.5.3, and the message goes to the others."""
    world = World(policy={'max_recipients': 100})
    world.feed(b'MAIL FROM:<>\r\n' + b'RCPT TO:<ann@example.com>\r\n' * 150 + b'DATA\r\n.\r\n')
    replies = world.replies()
    assert sum(r.startswith(b'250 2.1.5') for r in replies) == 100
    assert sum(r.startswith(b'452 4.5.3') for r in replies) == 50 and len(world.messages[0][1]) == 100


def test_errors_end_a_session():
    """G-18: after 20 senseless commands, or 100 refused recipients, or 1000 idle ones: 421 and the end."""
    assert talk(*[b'FOO'] * 30)[0] == [b'502'] * 20 + [b'421']
    codes, world = talk(b'MAIL FROM:<>', *[b'RCPT TO:<x@evil.example>'] * 110)
    assert codes == [b'250'] + [b'553'] * 100 + [b'421'] and world.closed
    codes, world = talk(b'MAIL FROM:<>', *[b'RCPT TO:<nobody@example.com>'] * 110)
    assert codes == [b'250'] + [b'550'] * 100 + [b'421'] and world.closed
    assert talk(*[b'NOOP'] * 1100)[0] == [b'250'] * 1001 + [b'421']


def test_endless_line_is_bounded():
    """G-14: a line without an end gets one 500 at the limit, is not kept, and the next line is obeyed."""
    world = World()
    for _ in range(1000):
        world.feed(b'x' * 1000)
        assert world.session.buffered() <= smtp.LINE_MAX
    assert [r[:3] for r in world.replies()] == [b'500']
    assert world.feed(b'\r\nNOOP\r\n').replies() == [b'250 2.0.0 ok']


def test_notes_for_the_log():
    """Every refusal is noted with what, reply and address, so that the log can say it."""
    world = talk(b'MAIL FROM:<a@b>', b'RCPT TO:<x@evil.example>', b'FOO')[1]
    assert world.session.notes == [(b'rcpt', replies.NOT_HERE, b'a@b', b'x@evil.example'),
        (b'command', replies.UNKNOWN, b'a@b', b'')]


def test_eight_bit_body_is_in_the_envelope():
    """BODY=8BITMIME: record B of the envelope; ESMTP and HELO with it."""
    codes, world = talk(b'EHLO c.example', b'MAIL FROM:<a@b> body=8bitmime', HELLO[2], b'DATA', b'\xe4', b'.')
    assert dict(world.messages[0][3])[b'B'] == b'8BITMIME' and dict(world.messages[0][3])[b'P'] == b'ESMTP'


PIECES = st.sampled_from([
    b'EHLO x\r\n', b'HELO y\r\n', b'MAIL FROM:<a@b>\r\n', b'MAIL FROM:<> SIZE=1000\r\n',
    b'RCPT TO:<ann@example.com>\r\n',
    b'RCPT TO:<nobody@example.com>\r\n', b'RCPT TO:<x@evil.example>\r\n', b'DATA\r\n', b'.\r\n', b'\r\n.\r\n',
    b'text\r\n', b'..\r\n',
    b'Received: x\r\n', b'\n', b'\r', b'RSET\r\n', b'QUIT\r\n', b'NOOP\r\n', b'JUNK\r\n', b'\0\xff',
    b'x' * 3000, b'DATA\r\n.\r\n'])


@settings(max_examples=150)
@given(st.lists(PIECES, max_size=20).map(b''.join), st.integers(1, 7))
def test_byte_by_byte_is_the_same(data, step):
    """G-07, G-14: any input gives the same replies, messages and end, whole or in pieces of any size."""
    whole, pieces = World(policy={'databytes': 30}), World(policy={'databytes': 30})
    whole.feed(data)
    for at in range(0, len(data), step):
        pieces.feed(data[at:at + step])
    assert pieces.out == whole.out and pieces.messages == whole.messages and pieces.closed == whole.closed
    assert not whole.out or whole.out.endswith(b'\r\n')


class Commands(RuleBasedStateMachine):
    """G-19: the session against a model of RFC 5321's states, with any order of commands."""

    def __init__(self):
        super().__init__()
        self.world, self.mail, self.recipients, self.begun, self.sent = World(), None, [], False, []

    def expect(self, line, code):
        replies = self.world.say(line)
        assert {reply[:3] for reply in replies} == {code}, (line, replies)

    @rule(verb=st.sampled_from([b'EHLO x', b'HELO x', b'RSET']))
    def resetting(self, verb):
        self.expect(verb, b'250')
        self.mail, self.recipients, self.begun = None, [], False

    @rule(verb=st.sampled_from([b'NOOP', b'VRFY x', b'HELP']))
    def neutral(self, verb):
        self.expect(verb, {b'NOOP': b'250', b'VRFY x': b'252', b'HELP': b'214'}[verb])

    @rule(sender=st.sampled_from([b'', b'a@b.c']))
    def mailing(self, sender):
        self.expect(b'MAIL FROM:<%s>' % sender, b'250' if self.mail is None else b'503')
        self.mail = sender if self.mail is None else self.mail

    @rule(to=st.sampled_from([b'ann@example.com', b'nobody@example.com', b'x@evil.example',
        b'slow@example.com']))
    def adding(self, to):
        code = {b'n': b'550', b'x': b'553', b's': b'451', b'a': b'250'}[to[:1]]
        taken = self.mail is not None and not self.begun
        self.expect(b'RCPT TO:<%s>' % to, code if taken else b'503')
        if taken and code == b'250':
            self.recipients.append(to)

    @rule(body=st.sampled_from([b'', b'x\r\n', b'..\r\n']))
    def sending(self, body):
        if self.begun or not self.recipients:
            self.expect(b'DATA', b'503')
            return
        self.expect(b'DATA', b'354')
        self.expect(body + b'.', b'250')
        self.taken()

    def taken(self):
        self.sent.append((self.mail, self.recipients))
        self.mail, self.recipients, self.begun = None, [], False

    @rule(last=st.booleans())
    def chunking(self, last):
        self.expect(b'BDAT 6%s\r\nNOOP' % (b' LAST' * last), b'250' if self.recipients else b'503')
        self.begun = bool(self.recipients)
        if self.begun and last:
            self.taken()

    @rule(argument=st.sampled_from([b'', b' x']))
    def securing(self, argument):
        self.expect(b'STARTTLS' + argument, b'503' if self.begun else b'501' if argument else b'502')

    @precondition(lambda self: self.world.session.errors >= 15)
    @rule()
    def fresh(self):
        self.__init__()

    @invariant()
    def same(self):
        assert [message[:2] for message in self.world.messages] == self.sent


Commands.TestCase.settings = settings(max_examples=40, stateful_step_count=14)
TestCommands = Commands.TestCase


# --- From and who has logged in -----------------------------------------------------------------------------------

class Mine:
    """joe alone; his From too."""

    header = True

    @staticmethod
    def claim(login, address):
        return b'' if address in (b'', login + b'@example.com') else None


@pytest.mark.parametrize('sent', [b'DATA\r\n%s.\r\n', b'BDAT %d LAST\r\n%s', b'BDAT 3\r\n%sBDAT %d LAST\r\n%s'])
@pytest.mark.parametrize('header, good', [(b'From: joe@example.com\r\n', True), (b'Subject: x\r\n', True), (b'From: boss@bank.example\r\n', False)])
def test_from_must_be_his(sent, header, good):
    """Whole and byte by byte: 550 at the end of the text, the address in the log, and the session goes on."""
    text = header + b'\r\nbody\r\n'
    data = sent % {1: (text,), 2: (len(text), text), 3: (text[:3], len(text) - 3, text[3:])}[sent.count(b'%')]
    said = b'MAIL FROM:<joe@example.com>\r\nRCPT TO:<x@far.example>\r\n' + data + b'NOOP\r\n'
    for pieces in ([said], [said[n:n + 1] for n in range(len(said))]):
        world = World()
        world.session.policy.senders, world.session.login, world.session.protocol = Mine, b'joe', b'ESMTP'
        for piece in pieces:
            world.feed(piece)
        replies_ = world.replies()
        assert replies_[-1] == b'250 2.0.0 ok' and not world.closed and len(world.messages) == good
        assert good or replies_[-2] == replies.FROM_NOT_YOURS and b'(boss@bank.example)' in world.session.notes[-1][1]


# --- TLS -------------------------------------------------------------------------------------------------------

SECURE = Tls(b'TLSv1.3', b'TLS_AES_256_GCM_SHA384')


def beside(tls=True, **changes):
    """A World whose server has TLS, in the state that `tls` says."""
    changes.setdefault('session', Session(policy(), client(**changes), smtp_policy.Beside(tls)))
    return World(**changes)


@pytest.mark.parametrize('tls, lines, reply', [(None, 0, b'502 5.5.1'), (False, 0, b'454 4.7.0'), (True, 1, b'220 2.0.0')])
def test_starttls_is_offered_where_it_is(tls, lines, reply):
    """T-04: no qpy-tls: unknown; no certificate: not offered, and 454 to who asks all the same."""
    world = beside(tls).feed(b'EHLO x\r\n')
    assert world.out.count(b'250-STARTTLS\r\n') == lines
    world.out = b''
    assert world.feed(b'STARTTLS\r\n').out.startswith(reply)
    assert not world.closed


@pytest.mark.parametrize('behind', [b'\n', b'EHLO x\r\n', b'MAIL FROM:<evil@x.example>\r\n', b'\x16\x03\x01'])
def test_nothing_follows_starttls_in_the_clear(behind):
    """T-01: CVE-2011-0411: words in the segment of STARTTLS end the session; none of them is ever obeyed."""
    world = beside().feed(b'EHLO x\r\nSTARTTLS\r\n' + behind + b'NOOP\r\n')
    assert world.out.endswith(replies.TLS_FOLLOWED + b'\r\n') and world.closed
    assert world.session.tls is None and not world.session.sender


def test_what_was_said_before_tls_is_forgotten():
    """T-02: RFC 3207 4.2: EHLO, MAIL, RCPT and the LOGIN of an XCLIENT count no more, and what came in meanwhile is dropped."""
    world = beside().feed(b'EHLO before\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@example.com>\r\nSTARTTLS\r\n')
    session = world.session
    session.login = b'joe'
    session.receive(b'QUIT\r\n')
    assert session.next() is None
    session.secured(SECURE)
    world.out = b''
    assert not world.feed(b'').closed
    assert world.feed(b'DATA\r\n').out.startswith(b'503 5.5.1 MAIL first')
    assert session.helo == session.login == b'' and session.protocol == b'SMTP' and session.recipients == []


def test_a_message_under_tls():
    """RFC 3848: with ESMTPS, version and cipher in Received, P in the envelope; STARTTLS is not offered again."""
    world = beside().feed(b'EHLO x\r\nSTARTTLS\r\n')
    world.session.secured(SECURE)
    world.out = b''
    world.feed(b'EHLO after\r\nSTARTTLS\r\n')
    assert b'250-STARTTLS' not in world.out and replies.TLS_ALREADY in world.out
    world.feed(b'MAIL FROM:<a@b.example>\r\nRCPT TO:<c@example.com>\r\nDATA\r\nx\r\n.\r\n')
    (_, _, text, options), = world.messages
    assert b' with ESMTPS (TLSv1.3 TLS_AES_256_GCM_SHA384); ' in text and (b'P', b'ESMTPS') in options


def test_helo_under_tls_is_plain_smtp():
    """RFC 3848 has no name for it."""
    world = beside()
    world.session.secured(SECURE)
    world.feed(b'HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<c@example.com>\r\nDATA\r\nx\r\n.\r\n')
    assert b' with SMTP (TLSv1.3 ' in world.messages[0][2] and (b'P', b'SMTP') in world.messages[0][3]


@pytest.mark.parametrize('line, code', [
    (b'MAIL FROM:<a@b.example>', b'530'), (b'RCPT TO:<c@example.com>', b'530'), (b'DATA', b'530'), (b'VRFY x', b'530'),
    (b'EHLO x', b'250'), (b'HELO x', b'250'), (b'NOOP', b'250'), (b'RSET', b'250'), (b'HELP', b'214'), (b'STARTTLS', b'220'),
    (b'QUIT', b'221'), (b'XYZ', b'502')])
def test_where_tls_is_forced(line, code):
    """RFC 3207 4: 530 for whatever could carry mail; under TLS everything is as always."""
    world = beside(force_tls=True)
    assert world.feed(line + b'\r\n').out.startswith(code)
    world = beside(force_tls=True)
    world.session.secured(SECURE)
    assert world.feed(b'MAIL FROM:<a@b.example>\r\n').out.startswith(b'250')


def test_starttls_takes_no_argument():
    """RFC 3207 4"""
    assert beside().feed(b'STARTTLS now\r\n').out.startswith(b'501 5.5.4')


@given(st.lists(st.sampled_from([b'EHLO x', b'STARTTLS', b'MAIL FROM:<a@b.example>', b'RCPT TO:<c@example.com>', b'DATA',
                                 b'x', b'.', b'RSET', b'NOOP']), max_size=12), st.booleans())
def test_tls_by_bytes_and_whole(words, refuse):
    """Whatever comes, one byte at a time: a handshake begins only when nothing is waiting behind it."""
    session = Session(policy(), client(), smtp_policy.Beside(True))
    world = World(session=session)
    for byte in b''.join(word + b'\r\n' for word in words):
        if session.closed:
            break
        world.feed(bytes((byte,)))
        if session.waiting and world.begun:
            world.begun = False
            assert not session.buffered()
            session.tls_refused() if refuse else session.secured(SECURE)
    assert session.tls is None or not refuse


# --- BDAT --------------------------------------------------------------------------------------------------------

BEGUN = b'EHLO x\r\nMAIL FROM:<joe@example.org>\r\nRCPT TO:<ann@example.com>\r\n'


def chunked(*chunks):
    """BDAT commands for these chunks; the last one is LAST."""
    return b''.join(b'BDAT %d%s\r\n%s' % (len(c), b' LAST' * (n == len(chunks) - 1), c) for n, c in enumerate(chunks))


@given(st.lists(st.sampled_from([b'a', b'.', b'..', b'\r\n', b'Received: x\r\n', b'\r\n.\r\n', b'QUIT\r\n', bytes([200])]),
                max_size=12), st.lists(st.integers(0, 60), max_size=4), st.booleans())
def test_bdat_is_data_without_dots(words, cuts, whole):
    """RFC 3030: whatever the chunks, and in whatever pieces they come, the stored message is the one that DATA stores."""
    text = b''.join(words)
    ends = sorted(min(cut, len(text)) for cut in cuts) + [len(text)]
    wire = BEGUN + chunked(*[text[a:b] for a, b in zip([0] + ends, ends)])
    world = World()
    if whole:
        world.feed(wire)
    else:
        for byte in wire:
            world.feed(bytes((byte,)))
    assert world.replies()[-len(ends):-1] == [b'250 2.0.0 ok'] * (len(ends) - 1)
    stored = text.replace(b'\r\n', b'\n')
    stored += b'\n' if stored and not stored.endswith(b'\n') else b''
    assert [message[2].partition(b'-0000\n')[2] for message in world.messages] == [stored]
    assert world.say(b'NOOP') == [b'250 2.0.0 ok']


@pytest.mark.parametrize('text', [b'a\nb\r\n', b'a\rb\r\n', b'a\r', b'\n', b'a\r\n\n'])
@pytest.mark.parametrize('cut', [0, 1, 2])
def test_lone_line_ends_in_a_chunk(text, cut):
    """What would be smuggling at the next hop is refused, and nothing behind it is read."""
    world = World().feed(BEGUN + chunked(text[:cut], text[cut:]) + b'MAIL FROM:<evil@x>\r\n')
    assert world.closed and not world.messages and world.replies()[-1].startswith(b'550 5.5.2 bare')


def test_commands_between_chunks():
    """RSET, EHLO: the message is forgotten (DROP); MAIL, RCPT, DATA, STARTTLS: 503, and what is in the next chunk is text; NOOP
    and QUIT as always."""
    for line, drops in [(b'RSET', 1), (b'EHLO y', 1), (b'HELO y', 1), (b'NOOP', 0), (b'VRFY x', 0)]:
        world = World().feed(BEGUN + b'BDAT 3\r\nabc' + line + b'\r\n')
        assert world.drops == drops and world.replies()[-1][:2] == b'25'
        assert World.say(world, b'BDAT 0 LAST')[0][:3] == (b'503' if drops else b'250')
    for line in (b'MAIL FROM:<>', b'RCPT TO:<ann@example.com>', b'DATA', b'AUTH PLAIN'):
        world = World().feed(BEGUN + b'BDAT 3\r\nabc' + line + b'\r\nBDAT 0 LAST\r\n')
        assert [reply[:3] for reply in world.replies()][-2:] == [b'503', b'250']
    for line in (b'STARTTLS', b'STARTTLS x'):
        world = beside().feed(BEGUN + b'BDAT 3\r\nabc' + line + b'\r\nBDAT 8 LAST\r\nVRFY x\r\n')
        assert [reply[:3] for reply in world.replies()][-2:] == [b'503', b'250'] and b'VRFY x' in world.messages[0][2]
    assert World().feed(BEGUN + b'BDAT 3\r\nabcQUIT\r\n').closed


def test_chunks_that_are_refused_are_read():
    """RFC 3030: the bytes belong to BDAT whatever the reply; none of them is ever taken for a command."""
    world = World().feed(b'EHLO x\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n')
    assert [reply[:3] for reply in world.replies()][-2:] == [b'503', b'250'] and not world.closed
    world = World(start=b'451 4.3.0 no queue').feed(BEGUN + b'BDAT 6\r\nQUIT\r\nNOOP\r\n')
    assert [reply[:3] for reply in world.replies()][-2:] == [b'451', b'250'] and not world.closed
    world = World(policy={'databytes': 10}).feed(BEGUN + b'BDAT 50\r\n' + b'x' * 50 + b'BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n')
    assert [reply[:3] for reply in world.replies()][-3:] == [b'552', b'503', b'250'] and world.drops == 1
    world = beside(force_tls=True).feed(b'EHLO x\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n')
    assert [reply[:3] for reply in world.replies()][-2:] == [b'503', b'250']


@pytest.mark.parametrize('databytes, limit', [(0, 1 << 32), (1 << 33, 1 << 32), (5000, 5000)])
def test_what_the_queue_would_not_take_is_refused_at_mail(databytes, limit):
    """SIZE is the least of control/databytes (0: none) and what the queue takes; MAIL with a greater one is 552 at once."""
    world = World(policy={'databytes': databytes})
    assert world.say(b'EHLO x')[2] == b'250-SIZE %d' % limit
    for size in (b'%d' % (limit + 1), b'9' * 20):
        assert world.say(b'MAIL FROM:<a@x.example> SIZE=' + size)[-1].startswith(b'552')
    assert world.say(b'MAIL FROM:<a@x.example> SIZE=%d' % limit)[-1].startswith(b'250')


@pytest.mark.parametrize('argument', [b'', b'x', b'-1', b'5 FIRST', b'5 LAST LAST', b'99999999999999999999', b'5  6'])
def test_bdat_without_a_size_ends_the_session(argument):
    """Nobody knows where the next command begins."""
    world = World().feed(BEGUN + b'BDAT ' + argument + b'\r\nMAIL FROM:<evil@x>\r\n')
    assert world.closed and world.replies()[-1] == replies.BDAT_SYNTAX


def test_a_queue_that_fails_between_chunks():
    """The report is said at the next chunk, which is read and forgotten."""
    world = World().feed(BEGUN + b'BDAT 3\r\nabc')
    world.session.spoil(b'Zqq trouble (#4.3.0)')
    world.out = b''
    assert [r[:3] for r in world.feed(b'BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n').replies()] == [b'451', b'250']


# --- parameters --------------------------------------------------------------------------------------------------

def envelope(line, rcpt=b'', **changes):
    """(options of MAIL, options of the recipient) of a message with these parameters."""
    session = Session(policy(), client(), smtp_policy.Beside(True, (b'PLAIN',)))
    session.tls, session.login = changes.pop('tls', SECURE), changes.pop('login', b'joe')
    world = World(session=session).feed(b'EHLO x\r\nMAIL FROM:<joe@example.org> %s\r\nRCPT TO:<ann@example.com> %s\r\n'
                                        b'DATA\r\nx\r\n.\r\n' % (line, rcpt))
    known = (b'P', b'C', b'c', b'H', b'L')
    return [pair for pair in world.messages[0][3] if pair[0] not in known], world.personal


@pytest.mark.parametrize('line, options', [
    (b'RET=hdrs ENVID=QQ+2B1', [(b'R', b'HDRS'), (b'E', b'QQ+2B1')]), (b'SMTPUTF8 BODY=8BITMIME', [(b'B', b'8BITMIME'), (b'U', b'')]),
    (b'REQUIRETLS', [(b'Q', b'')]), (b'BY=100;N', [(b'D', b'1100;N')]), (b'BY=100;rt', [(b'D', b'1100;RT')]),
    (b'MT-PRIORITY=-9', [(b'M', b'-9')]), (b'MT-PRIORITY=9', [(b'M', b'9')]), (b'MT-PRIORITY=0', []),
    (b'HOLDFOR=60 BY=62;R', [(b'D', b'1062;R'), (b'b', b'1061')]), (b'BY=1;N HOLDFOR=60', [(b'D', b'1001;N'), (b'b', b'1061')]),
    (b'HOLDFOR=60', [(b'b', b'1061')]), (b'HOLDUNTIL=1970-01-01T00:20:00Z', [(b'b', b'1200')]),
    (b'HOLDUNTIL=1970-01-01T02:20:00+02:00', [(b'b', b'1200')]), (b'SIZE=1 AUTH=<>', []), (b'auth=joe+40x', [])])
def test_parameters_of_mail_reach_the_envelope(line, options):
    """RFC 3461, 6531, 8689, 2852, 4865: each as its record; times count from now."""
    assert envelope(line)[0] == options


def test_parameters_of_rcpt_reach_the_envelope():
    """RFC 3461, 4.1, 4.2; RFC 6533, section 3."""
    for name in (b'utf-8;a\\x{E9}@c', 'utf-8;aé@c'.encode()):
        assert envelope(b'', b'ORCPT=' + name)[1] == [((b'O', name),)]
    assert envelope(b'', b'NOTIFY=success,DELAY ORCPT=rfc822;a+2Bb@c')[1] == [((b'N', b'SUCCESS,DELAY'), (b'O', b'rfc822;a+2Bb@c'))]


@pytest.mark.parametrize('line, code', [
    (b'RET=ALL', b'501'), (b'RET', b'501'), (b'ENVID=', b'501'), (b'ENVID=a+2', b'501'), (b'ENVID=a=b', b'501'), (b'SMTPUTF8=1', b'501'),
    (b'REQUIRETLS=', b'501'), (b'BY=0;R', b'501'), (b'BY=10', b'501'), (b'BY=10;X', b'501'), (b'HOLDFOR=999999999', b'501'),
    *((b'MT-PRIORITY=' + value, b'501') for value in (b'', b'10', b'-0', b'+1', b'-', b'x', b'01', b'--1', b'-10')),
    (b'HOLDFOR=60 BY=61;R', b'501'), (b'BY=150;RT HOLDUNTIL=1970-01-01T00:20:00Z', b'501'),
    (b'HOLDFOR=-1', b'501'), (b'HOLDFOR=60 HOLDUNTIL=1970-01-01T00:20:00Z', b'501'),
    *((b'HOLDUNTIL=' + value, b'501') for value in (
        b'1970-01-04T00:00:01Z', b'1970-01-04T02:00:01+02:00', b'1970-02-29T00:00:00Z', b'1970-00-01T00:00:00Z', b'1970-01-00T00:00:00Z',
        b'1970-01-01T24:00:00Z', b'1970-01-01T00:60:00Z', b'1970-01-01T00:00:60Z', b'1970-01-01T00:00:00+24:00',
        b'1970-01-01T00:00:00+00:60', b'2027-12-24T08:00:00Z')),
    (b'HOLDUNTIL=tomorrow', b'501'), (b'HOLDUNTIL=2026-13-01T00:00:00Z', b'501'), (b'RET=FULL RET=FULL', b'501'),
    (b'SOMETHING', b'555'), (b'BODY=BINARYMIME', b'501'), (b'ENVID=' + b'x' * 101, b'501'), (b'XDELAY=1', b'555')])
def test_parameters_that_are_none(line, code):
    """Malformed, twice, unknown, beyond what is offered."""
    session = Session(policy(), client(), smtp_policy.Beside(True, (b'PLAIN',)))
    session.tls, session.login = SECURE, b'joe'
    assert World(session=session).say(b'MAIL FROM:<joe@example.org> ' + line)[0][:3] == code


def test_the_latest_release():
    """RFC 4865, 3: EHLO says for how long and until when by the clock of that moment, and MAIL keeps to it by its own."""
    session = Session(policy(), client(), smtp_policy.Beside(True, (b'PLAIN',)))
    session.tls, session.login = SECURE, b'joe'
    world, now = World(session=session), 1_709_164_800          # 29 February 2024, 0 h UTC
    for later, latest in ((0, b'2024-03-03T00:00:00Z'), (86400, b'2024-03-04T00:00:00Z')):
        lines = b'EHLO x\r\nMAIL FROM:<joe@example.org> HOLDUNTIL=%s\r\nRSET\r\nMAIL FROM:<joe@example.org> HOLDUNTIL=%s\r\n'
        said = world.feed(lines % (latest, latest[:-2] + b'1Z'), now + later).replies()
        assert b'250-FUTURERELEASE 259200 ' + latest in said and [reply[:3] for reply in said[-3:]] == [b'250', b'250', b'501']


@pytest.mark.parametrize('line, code', [(b'NOTIFY=NEVER,DELAY', b'501'), (b'NOTIFY=', b'501'), (b'NOTIFY=SUCCESS,SUCCESS', b'501'),
    (b'ORCPT=x', b'501'), (b'ORCPT=rfc822;', b'501'),
    ('ORCPT=rfc822;é@c'.encode(), b'501'), (b'ORCPT=utf-8;\xe9@c', b'501'), ('ORCPT=utf-8;é+@c'.encode(), b'501'), (b'RET=FULL', b'555')])
def test_parameters_of_rcpt_that_are_none(line, code):
    """The same for RCPT."""
    assert World().feed(BEGUN).say(b'RCPT TO:<ann@example.com> ' + line)[-1][:3] == code


@pytest.mark.parametrize('line, changes', [(b'REQUIRETLS', {'tls': None}), (b'HOLDFOR=10', {'login': b''}), (b'MT-PRIORITY=5', {'login': b''}),
                                           (b'SMTPUTF8', {'whole': False}), (b'RET=FULL', {'whole': False}), (b'BY=9;N', {'whole': False})])
def test_what_is_not_offered_is_not_done(line, changes):
    """REQUIRETLS in the clear, a later release for strangers, anything a qmail-queue would drop: not in EHLO, and 555."""
    session = Session(policy(), client(), smtp_policy.Beside(True))
    session.tls, session.login = changes.get('tls', SECURE), changes.get('login', b'joe')
    session.client.whole = changes.get('whole', True)
    world = World(session=session)
    keyword = {b'HOLDFOR=10': b'FUTURERELEASE', b'RET=FULL': b'DSN', b'BY=9;N': b'DELIVERBY', b'MT-PRIORITY=5': b'MT-PRIORITY'}.get(line, line)
    assert not any(keyword in reply for reply in world.say(b'EHLO x'))
    assert world.say(b'MAIL FROM:<joe@example.org> ' + line)[0][:3] == b'555'


@pytest.mark.parametrize('path, address', [
    ('<jörg@example.com>', 'jörg@example.com'), ('<"jö rg"@example.com>', 'jö rg@example.com'),
    ('<ann@bücher.example.com>', 'ann@xn--bcher-kva.example.com'), ('<用户@例え.example.com>', '用户@xn--r8jz45g.example.com')])
def test_internationalised_recipients(path, address):
    """RFC 6531: the local part stays what it is, the domain is known by its ASCII form; without SMTPUTF8 it is 553."""
    hosts = Rcpthosts({b'example.com': 1, b'.example.com': 1}, cdb.over(cdb.build([])))
    world = World(policy={'hosts': hosts}).feed(b'EHLO x\r\nMAIL FROM:<' + 'ü@ä.example'.encode() + b'> SMTPUTF8\r\n')
    assert world.say(b'RCPT TO:' + path.encode()) [-1] == b'250 2.1.5 ok'
    world.feed(b'DATA\r\nx\r\n.\r\n')
    (sender, recipients, text, options), = world.messages
    assert sender == 'ü@xn--4ca.example'.encode() and recipients == [address.encode()]
    assert b' with UTF8SMTP; ' in text and (b'P', b'UTF8SMTP') in options and (b'U', b'') in options
    world.feed(b'MAIL FROM:<>\r\n')
    world.out = b''
    assert world.say(b'RCPT TO:' + path.encode())[0].startswith(b'553 5.6.7')


@pytest.mark.parametrize('path', [b'<j\xff@example.com>', b'<j\xc3@example.com>', b'<j@\xc3\xa4..example.com>', b'<\xc3\xa4 b@example.com>',
                                  b'<j@exa\xc3\xa4_?.com>', b'<j@\xc3\xa4', b'<@a:\xc3\xa4@example.com>'])
def test_internationalised_nonsense(path):
    """No UTF-8, no address, no domain: 501 or 553, never accepted."""
    world = World().feed(b'MAIL FROM:<> SMTPUTF8\r\n')
    world.out = b''
    assert world.say(b'RCPT TO:' + path)[0][:3] in (b'501', b'553')


@pytest.mark.parametrize('argument, relay, code', [
    (b'joe@example.com', b'', b'250'), (b'<joe@example.com>', b'', b'250'), (b'nobody@example.com', b'', b'550'), (b'slow@example.com', b'', b'252'),
    (b'maybe@example.com', b'', b'252'), (b'joe@elsewhere.example', b'', b'252'), (b'a b', b'', b'501'), (b'', b'', b'252'),
    (b'joe@example.com', None, b'252'), (b'nobody@example.com', None, b'252'),
    (b'joe@example.com SMTPUTF8', b'', b'250'), (b'<joe@example.com> smtputf8', b'', b'250'), (b'joe@example.com x', b'', b'501'),
    ('j\xf6rg@example.com SMTPUTF8'.encode(), b'', b'250'), ('<j\xf6rg@example.com> SMTPUTF8'.encode(), b'', b'250'),
    ('j\xf6rg@example.com'.encode(), b'', b'553'), ('j\xf6rg@example.com SMTPUTF8'.encode(), None, b'252'),
    ('j\xf6rg@b\xfccher.example SMTPUTF8'.encode(), b'', b'252'), (b'j\xff@example.com SMTPUTF8', b'', b'501')])
def test_vrfy_tells_friends_only(argument, relay, code):
    """RFC 5321 3.5.3, 7.3, RFC 6531 3.7.4.2: 250 or 550 to clients that may relay, 252 to all others."""
    world = World(relay=relay)
    assert world.say(b'VRFY ' + argument)[0][:3] == code and not world.session.recipients
    assert world.say(b'MAIL FROM:<>')[0][:3] == b'250' and world.say(b'RCPT TO:<joe@example.com>')[0] == b'250 2.1.5 ok'


def test_vrfy_names_a_whole_mailbox():
    """RFC 5321 3.5.2: with its domain, also where the question had none."""
    world = World(relay=b'', policy={'no_host': b'host.example'})
    assert world.say(b'VRFY joe') == [b'250 2.1.5 <joe@host.example>']


def test_a_clients_certificate_stands_in_received():
    """The name it was verified for, made safe."""
    world = beside()
    world.session.secured(Tls(b'TLSv1.3', b'X', b'', b'friend.example;(x', b'ab'))
    world.feed(b'EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<c@example.com>\r\nDATA\r\nx\r\n.\r\n')
    assert b' with ESMTPS (TLSv1.3 X, certificate of friend.example??x); ' in world.messages[0][2]
