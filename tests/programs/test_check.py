"""qpy-check and qpy-smtpd together, as processes: what is asked, what is answered, and what happens without an answer."""
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

dns = pytest.importorskip('dns')
from qpy.core import channel  # noqa: E402
from tests.peers.dns_script import SERVFAIL, Server as Dns  # noqa: E402
from tests.peers.qpyr import Daemon  # noqa: E402
from tests.peers.smtp_rig import SOURCE, Rig, wait_until  # noqa: E402

MAIL = b'MAIL FROM:<ann@example.org>'
RCPT = b'RCPT TO:<joe@mx.example.com>'


class House:
    """A DIR with qpy-smtpd on a port, qpy-check, and qpy-resolve with a scripted DNS, as far as they are wanted."""

    def __init__(self, zone=None, check=True, **control):
        self.rig, self.daemons = Rig(**control), []
        self.home = self.rig.home
        os.mkdir(self.home + '/check')
        if zone is not None:
            self.dns = Dns(zone).__enter__()
            os.makedirs(self.home + '/lib/site')
            os.symlink(os.path.dirname(dns.__file__), self.home + '/lib/site/dns')
            self.rig.write('resolvers', '127.0.0.1:%d\n' % self.dns.port)
            self.daemons.append(Daemon(self.home, 'resolve'))
            os.rename(self.home + '/run/resolve', self.home + '/run/names')
        if check:
            self.check = self.start()
        self.rig.warm(workers=1)

    def start(self):
        """A qpy-check."""
        self.daemons.append(Daemon(self.home, 'check'))
        return self.daemons[-1]

    def restart(self, later=0, tail=b''):
        """Another qpy-check takes the place of the one that runs; the log of that one.  later: seconds that have passed, as
        the greylist sees it; tail: what stands behind its last line."""
        self.daemons.remove(self.check)
        log = self.check.end()[1]
        os.unlink(self.home + '/run/check')
        if later or tail:
            with open(self.home + '/check/greylist', 'rb+') as file:
                lines = [line.split(b' ', 1) for line in file]
                file.seek(0)
                file.write(b''.join(b'%d %s' % (int(first) - later, rest) for first, rest in lines) + tail)
        self.check = self.start()
        return log

    def client(self, helo=b'EHLO mail.example.org'):
        """One that has been greeted and has said HELO."""
        client = self.rig.connect()
        assert client.reply()[:3] == b'220'
        assert client.say(helo)[:3] == b'250'
        return client

    def stop(self):
        self.rig.stop()
        for daemon in self.daemons:
            daemon.end()
        if hasattr(self, 'dns'):
            self.dns.__exit__()


@pytest.fixture
def make():
    houses = []

    def build(**more):
        houses.append(House(**more))
        return houses[-1]
    yield build
    for house in houses:
        house.stop()


def transaction(client, recipient=RCPT, sender=MAIL):
    """The replies to MAIL and RCPT, then RSET."""
    said = [client.say(sender), client.say(recipient)]
    client.say(b'RSET')
    return said


class Ear(threading.Thread):
    """Stands in for qpy-check: notes what it is asked, and answers by a function of the fields."""

    def __init__(self, home, answer):
        super().__init__(daemon=True)
        self.asked, self.ended, self.answer = [], [], answer
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(home + '/run/check')
        self.socket.listen(5)
        self.start()

    def run(self):
        connection = self.socket.accept()[0]
        while packet := connection.recv(65536):
            for letter, fields in channel.unpack(packet, channel.CHECK_ASK):
                if letter == b'E':
                    self.ended.append(fields[0])
                    continue
                self.asked.append(fields)
                said = self.answer(fields)
                if said == 'die':
                    return connection.close()
                if said:
                    connection.send(channel.pack(b'a', fields[0], *said, *[b''] * (4 - len(said))))


# --- what is asked ---------------------------------------------------------------------------------------------------

def test_nobody_is_asked_where_nothing_is_configured(make):
    """No control file of qpy-check's: not one question, and no connection."""
    house = make(check=False)
    ear = Ear(house.home, lambda fields: (b'no', b'550 5.7.1 no', b'x'))
    assert transaction(house.client()) == [b'250 2.1.0 ok', b'250 2.1.5 ok']
    assert ear.asked == []


def test_what_is_told_at_each_stage(make):
    """Every stage, with what is known at it, under one name for the session; the end of the session is told."""
    house = make(check=False, policyservers='/run/x stages=connect,helo,mail,rcpt,data\n')
    ear = Ear(house.home, lambda fields: (b'ok', b'', b''))
    client = house.client()
    client.say(MAIL + b' SIZE=17')
    client.say(RCPT)
    client.say(b'RCPT TO:<bob@mx.example.com>')
    assert client.say(b'DATA')[:3] == b'354'
    client.say(b'x\r\n.')
    client.say(b'QUIT')
    wait_until(lambda: ear.ended)
    assert [fields[2] for fields in ear.asked] == [b'connect', b'helo', b'mail', b'rcpt', b'rcpt', b'data']
    assert {fields[1] for fields in ear.asked} == set(ear.ended) and len(ear.ended) == 1
    last = ear.asked[-1]
    assert last[3:] == [b'127.0.0.1', b'', b'mail.example.org', b'ESMTP', b'', b'', b'ann@example.org', b'', b'2', b'17', b'',
                        b'mx.example.com', b'1', b'', b'']
    assert [fields[10] for fields in ear.asked[3:5]] == [b'joe@mx.example.com', b'bob@mx.example.com']


@pytest.mark.parametrize('stage, expected', [
    ('connect', [b'550 5.7.1 no', b'']), ('helo', [b'220', b'550 5.7.1 no', b'550 5.7.1 no', b'503']),
    ('mail', [b'220', b'250', b'550 5.7.1 no', b'503']), ('rcpt', [b'220', b'250', b'250', b'550 5.7.1 no', b'503']),
    ('data', [b'220', b'250', b'250', b'250', b'550 5.7.1 no'])])
def test_a_refusal_at_each_stage(make, stage, expected):
    """Its reply is the command's, the transaction is as if the command had not been, and the log has the reason."""
    house = make(check=False, policyservers='/run/x stages=%s\n' % stage)
    Ear(house.home, lambda fields: (b'no', b'550 5.7.1 no', b'because of 100% \xff'))
    client = house.rig.connect()
    client.send(b'EHLO mail.example.org\r\n' + MAIL + b'\r\n' + RCPT + b'\r\nDATA\r\n')
    said = [client.reply() for _ in expected]
    assert all(line.startswith(start) for line, start in zip(said, expected, strict=True)), said
    what = 'session' if stage == 'connect' else stage
    wait_until(lambda: 'refused %s ip 127.0.0.1' % what in house.rig.log())
    assert '550 5.7.1 no (because of 100% ?)' in house.rig.log()


def test_pipelined_commands_wait_for_the_answer(make):
    """Replies keep the order of the commands while a question is on its way; other clients are served meanwhile."""
    house, go = make(check=False, policyservers='/run/x\n'), threading.Event()

    def slowly(fields):
        if fields[10].startswith(b'slow'):
            go.wait(10)
        return b'no' if fields[10].startswith(b'slow') else b'ok', b'450 4.7.1 slow', b''
    Ear(house.home, slowly)
    client = house.client()
    client.send(MAIL + b'\r\nRCPT TO:<slow@mx.example.com>\r\nNOOP\r\n')
    assert client.reply()[:3] == b'250' and client.quiet()
    other = house.client(b'HELO other')
    assert other.say(b'NOOP')[:3] == b'250'
    go.set()
    assert client.reply() == b'450 4.7.1 slow' and client.reply() == b'250 2.0.0 ok'


def test_lines_on_top_of_a_message(make):
    """What qpy-check wants there stands above our Received field, each once, in the order it came; what could be no field
    does not, and the next message begins without."""
    house = make(check=False, policyservers='/run/x stages=mail,rcpt,data\n')
    lines = {b'mail': b'X-Mail: 1', b'rcpt': b'X-Rcpt: a\nX-Rcpt: a\nno field\nBad Name: x\n: x\nX-Long: ' + b'y' * 1000, b'data': b'X-Data: z'}
    Ear(house.home, lambda fields: (b'ok', b'', b'', lines[fields[2]] if fields[9] == b'ann@example.org' else b''))
    client = house.client()
    for sender in (MAIL, b'MAIL FROM:<bob@example.org>'):
        client.say(sender)
        client.say(RCPT)
        client.say(RCPT)
        client.say(b'DATA')
        assert client.say(b'Subject: s\r\n\r\nx\r\n.')[:3] == b'250'
    (first, _), (second, _) = house.rig.queued.wait(2)
    assert first.startswith(b'X-Mail: 1\nX-Rcpt: a\nX-Data: z\nReceived: from ') and second.startswith(b'Received: from ')


def test_spf_of_a_policy_server_counts_from_then_on(make):
    """A Received-SPF that came at mail is told with every recipient, and is not told of the next message."""
    house = make(check=False, policyservers='/run/x stages=mail,rcpt\n')
    line = b'Received-SPF: Pass (mx.example.com: domain of ann@example.org designates 127.0.0.1)'
    ear = Ear(house.home, lambda fields: (b'ok', b'', b'', line if fields[2] == b'mail' and fields[9] == b'ann@example.org' else b''))
    client = house.client()
    for words in (MAIL, RCPT, RCPT, b'RSET', b'MAIL FROM:<bob@example.org>', RCPT):
        assert client.say(words)[:3] == b'250'
    assert [(fields[2], fields[13], fields[15]) for fields in ear.asked] == [
        (b'mail', b'', b'1'), (b'rcpt', b'pass', b'1'), (b'rcpt', b'pass', b'1'), (b'mail', b'', b'2'), (b'rcpt', b'', b'2')]


# --- no answer -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('said', [(b'no', b'250 ok', b''), (b'no', b'', b''), (b'perhaps', b'', b''), (b'no', b'5xx no', b''),
                                  (b'no', b'550\r\n250 ok', b''), 'die'])
@pytest.mark.parametrize('failure, code', [('defer', b'451 4.3.0'), ('accept', b'250 2.1.5')])
def test_an_answer_that_makes_no_sense(make, said, failure, code):
    """Whatever qpy-check says or fails to say, a client is told 451 or is let in, as control/checkfailure says; never 5xx."""
    house = make(check=False, policyservers='/run/x\n', checkfailure=failure + '\n')
    Ear(house.home, lambda fields: said)
    said = transaction(house.client())
    assert said[1].startswith(code)
    wait_until(lambda: ('refused rcpt' if failure == 'defer' else 'mail is accepted without being checked') in house.rig.log())


@pytest.mark.parametrize('failure, code', [('defer', b'451 4.3.0'), ('accept', b'250 2.1.5')])
def test_no_qpy_check(make, failure, code):
    """It does not run: the same, and the log says what is missing. When it is there, the next client is judged."""
    house = make(check=False, helorules='valid\n', checkfailure=failure + '\n')
    client = house.client(b'EHLO x')
    assert transaction(client)[1].startswith(code)
    wait_until(lambda: 'qpy-check does not run; its line in control/services is missing' in house.rig.log())
    house.start()
    wait_until(lambda: transaction(house.client(b'EHLO x'))[1].startswith(b'550 5.7.1 your HELO'))


def test_qpy_check_hangs(make):
    """No answer within control/timeoutcheck, and five seconds more: 451, and the session goes on."""
    house = make(check=False, policyservers='/run/x\n', timeoutcheck='1\n')
    Ear(house.home, lambda fields: None)
    client, began = house.client(), time.monotonic()
    assert transaction(client)[1].startswith(b'451 4.3.0') and time.monotonic() - began < 20
    assert client.say(b'NOOP')[:3] == b'250'
    wait_until(lambda: '(qpy-check does not answer)' in house.rig.log())


# --- the checks, for real --------------------------------------------------------------------------------------------

LISTS = {('1.0.0.127.zen.example', 'A'): ['127.0.0.4'], ('1.0.0.127.sick.example', 'A'): SERVFAIL,
         ('1.0.0.127.in-addr.arpa', 'PTR'): ['mail.example.org.'], ('mail.example.org', 'A'): ['127.0.0.1'],
         ('mail.example.org', 'AAAA'): 'nodata'}


@pytest.mark.parametrize('control, code, reason', [
    (dict(dnsbl='zen.example\n'), b'550 5.7.1 your address 127.0.0.1 is listed by zen.example', 'dnsbl: 127.0.0.1 weighs 1 of 1'),
    (dict(dnsbl='zen.example =127.0.0.2\n'), b'250', ''), (dict(dnsbl='clean.example\n'), b'250', ''),
    (dict(dnsbl='sick.example\n'), b'451 4.3.0', 'dnsbl: sick.example: '),
    (dict(dnsbl='sick.example\n', checkfailure='accept\n'), b'250', ''),
    (dict(reversedns='exists\n'), b'250', ''), (dict(reversedns='confirmed\n'), b'250', ''),
    (dict(helorules='resolves\n'), b'250', '')])
def test_dns(make, control, code, reason):
    """Through qpy-resolve, from a server that is asked: listed, not listed, broken; names that lead back."""
    house = make(zone=LISTS, **control)
    assert transaction(house.client())[1].startswith(code)
    wait_until(lambda: not reason or '(' + reason in house.rig.log())


def test_what_dns_is_asked_once_is_remembered(make):
    """The questions begin when the client connects, and the second recipient costs none."""
    house = make(zone=LISTS, dnsbl='zen.example 1 =127.0.0.2\n')
    client = house.rig.connect()
    assert client.reply()[:3] == b'220'
    wait_until(lambda: house.dns.asked)
    assert client.say(b'HELO x')[:3] == b'250'
    for _ in range(3):
        assert transaction(client)[1][:3] == b'250'
    assert [name for name, kind, _ in house.dns.asked] == ['1.0.0.127.zen.example']


def test_greylisting_outlives_the_program(make):
    """451 with the seconds to wait; what was learned before a restart of qpy-check counts after it."""
    house = make(greylist='delay:100\nallow:0\n')
    said = transaction(house.client())[1]
    assert said.startswith(b'451 4.7.1 greylisted; try again in 100 seconds')
    house.restart(later=100)
    assert transaction(house.client())[1] == b'250 2.1.5 ok'
    house.restart()
    assert transaction(house.client())[1] == b'250 2.1.5 ok'
    assert transaction(house.client(), RCPT.replace(b'joe', b'bob'))[1].startswith(b'451 4.7.1')
    with open(house.home + '/check/greylist') as file:
        assert '127.0.0.0/24 ann@example.org joe@mx.example.com' in file.read()


def test_a_torn_journal_is_no_obstacle(make):
    """Lines that make no sense, and one without an end, are passed over; the others count."""
    house = make(greylist='delay:100\nallow:0\n')
    transaction(house.client())
    house.restart(100, b'\0\0\0\n1 2\nx y z key\n-1 0 0 key\n99999999999999999999 0 0 key\n17 0 0 torn')
    assert transaction(house.client())[1] == b'250 2.1.5 ok'


def test_no_directory_to_write_to(make):
    """Without DIR/check everything works until the next start, and the log says so once."""
    house = make(greylist='delay:1\nallow:0\n', check=False)
    os.rmdir(house.home + '/check')
    house.check = house.start()
    for name in (b'a', b'b', b'c'):
        assert transaction(house.client(), RCPT.replace(b'joe', name))[1].startswith(b'451 4.7.1')
    log = house.restart()
    assert log.count(b'what is learned will be forgotten at the next start') == 2       # a line for each file


def test_exempt_recipients_and_clients(make):
    """postmaster hears from everybody; NOCHECK is asked about nothing."""
    house = make(greylist='delay:300\n', checkexempt='postmaster@mx.example.com\n')
    client = house.client()
    assert transaction(client, b'RCPT TO:<Postmaster@mx.example.com>')[1] == b'250 2.1.5 ok'
    assert transaction(client)[1].startswith(b'451')
    house.rig.write('tcp.smtp', '127.:allow,NOCHECK=""\n')
    assert transaction(house.client())[1] == b'250 2.1.5 ok'


def test_a_new_file_counts_for_the_next_client(make):
    """Controls are followed by both programs; broken ones leave the old settings in force, with a line in each log."""
    house = make(greylist='delay:300\n')
    assert transaction(house.client())[1].startswith(b'451')
    house.rig.write('greylist', 'delay:400\n')
    assert b' in 400 seconds' in transaction(house.client(), sender=b'MAIL FROM:<>')[1]
    house.rig.write('dnsbl', 'zen.example minus\n')
    assert b' in 400 seconds' in transaction(house.client(), sender=b'MAIL FROM:<bob@x.example>')[1]
    log = house.restart()
    assert b'keeping the old settings: control/dnsbl, line 1, "zen.example minus": a weight is a number' in log
    assert house.check.process.wait(20) == 111
    house.daemons.remove(house.check)
    assert b'control/dnsbl, line 1' in house.check.process.stderr.read()
    os.close(house.check.alive)


def test_one_shot(make):
    """Under tcpserver qpy-smtpd asks as well; the client is the one that the environment names, and its name goes along."""
    house = make(check=False, policyservers='/run/x stages=connect,rcpt\n')
    ear = Ear(house.home, lambda fields: (b'no', b'450 4.7.1 later', b'') if fields[2] == b'rcpt' else (b'ok', b'', b''))
    client = house.rig.one_shot(PROTO='TCP', TCPREMOTEIP='192.0.2.7', TCPREMOTEHOST='mail.example.org')
    assert client.reply()[:3] == b'220'
    client.say(b'HELO x')
    assert transaction(client)[1] == b'450 4.7.1 later'
    assert [fields[2:5] for fields in ear.asked] == [[b'connect', b'192.0.2.7', b'mail.example.org'], [b'rcpt', b'192.0.2.7', b'mail.example.org']]


def test_showctl_tells_what_nobody_reads(make):
    """A control file that asks for qpy-check where no line of control/services starts it: the line to write."""
    house = make(check=False, dnsbl='zen.example\n', milters='127.0.0.1:1\n', greetdelay='1\n')

    def warnings():
        done = subprocess.run([sys.executable, '-IS', SOURCE + '/bin/qpy-showctl'], env={'QPYHOME': house.home}, capture_output=True)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.decode().split('\n') if ' is read by ' in line]
    assert warnings() == ['control/dnsbl is read by qpy-check, which no line of control/services starts: '
                          'write check qpyc seq:check:0660:qpyc:qpyd qpy-check',
                          'control/milters is read by qpy-milter, which no line of control/services starts: write milter qpyc '
                          'seq:milter:0660:qpyc:qpyd,unix:filter:0660:qpyc:qpyd qpy-milter']
    house.rig.write('services', 'check qpyc seq:check:0660:qpyc:qpyd qpy-check\n')
    assert len(warnings()) == 1


@pytest.mark.parametrize('stage, held', [('connect', 2), ('helo', 2), ('mail', 1), ('rcpt', 1), ('data', 1)])
def test_hold(make, stage, held):
    """A hold said before the first message is for all of the session's; said later it is for that message; a client that a
    proxy names afterwards is another one."""
    house = make(check=False, policyservers='/run/x stages=connect,helo,mail,rcpt,data\n', tcp_smtp='127.:allow,XCLIENT="1"\n:allow\n')
    said = []

    def answer(fields):
        said.append(fields[2].decode())
        return (b'hold', b'', b'look at it') if said[-1] == stage and said.count(stage) == 1 else (b'ok', b'', b'')
    Ear(house.home, answer)
    client = house.client()
    for hello in (b'NOOP', b'NOOP', b'XCLIENT ADDR=192.0.2.7'):
        assert client.say(hello)[:1] == b'2'
        for line in (MAIL, RCPT, b'DATA'):
            assert client.say(line)[:1] in b'23'
        assert client.say(b'Subject: x\r\n\r\nx\r\n.')[:3] == b'250'
    why = [dict(envelope.options).get(b'h') for _, envelope in house.rig.queued.messages]
    assert why == [b'look at it'] * held + [None] * (3 - held)


# --- greeting and connections ----------------------------------------------------------------------------------------

def test_early_talkers(make):
    """control/greetdelay: who speaks first is answered 554 and disconnected; who waits is greeted."""
    house = make(check=False, greetdelay='1\n')
    early, patient, began = house.rig.connect(), house.rig.connect(), time.monotonic()
    early.send(b'EHLO x\r\n')
    assert early.line().startswith(b'554 5.5.1 you spoke before') and early.line() == b''
    assert patient.reply()[:3] == b'220' and time.monotonic() - began >= 0.9
    assert patient.say(b'HELO x')[:3] == b'250'
    wait_until(lambda: 'refused session ip 127.0.0.1 helo -: 554 5.5.1' in house.rig.log())


def test_who_goes_before_the_greeting(make):
    """A client that is gone when its delay is over leaves nothing behind."""
    house = make(check=False, greetdelay='1\n')
    house.rig.connect().close()
    assert house.client().say(b'NOOP')[:3] == b'250'


def test_who_comes_by_a_proxy_is_delayed_or_has_spoken(make):
    """control/greetdelay: a client behind PROXY waits as any other; one named by XCLIENT has been greeted through the proxy."""
    house = make(check=False, greetdelay='30\n', tcp_smtp='127.0.0.1:allow,PROXY="1"\n127.0.0.2:allow,NOCHECK="",XCLIENT="1"\n:allow\n')
    early, spoken = house.rig.connect(), house.rig.connect(('127.0.0.2', 0))
    early.send(b'PROXY TCP4 198.51.100.7 192.0.2.1 1 25\r\nEHLO x\r\n')
    assert early.line().startswith(b'554 5.5.1 you spoke before') and early.line() == b''
    assert spoken.reply()[:3] == b'220'
    assert spoken.say(b'XCLIENT ADDR=198.51.100.7')[:3] == b'220' and spoken.say(b'EHLO x')[:3] == b'250'


@pytest.mark.parametrize('rule', ['RELAYCLIENT=""', 'NOCHECK=""'])
def test_friends_are_greeted_at_once(make, rule):
    """No delay, and no count of connections, for clients that may relay or are not checked."""
    house = make(check=False, greetdelay='30\n', ratelimits='connections:1/1h\n', tcp_smtp='127.:allow,%s\n' % rule)
    for _ in range(3):
        assert house.client().say(b'NOOP')[:3] == b'250'


def test_connections_in_time(make):
    """ratelimits: the fourth of three in an hour is told 421, whichever worker hears it; another address is not."""
    house = make(check=False, ratelimits='connections:3/1h\n')
    for _ in range(3):
        house.client().close()
    assert house.rig.connect().line().startswith(b'421 4.7.0 too many connections from your address in this time')
    assert house.rig.connect(('127.0.0.9', 0)).reply()[:3] == b'220'
    wait_until(lambda: 'refused connection ip 127.0.0.1: 421 4.7.0' in house.rig.log())


def test_messages_in_time(make):
    """ratelimits: the third message of two in an hour is told 450; two connections share the count."""
    house = make(ratelimits='messages:2/1h\n')
    assert [transaction(house.client())[0][:9] for _ in range(3)] == [b'250 2.1.0', b'250 2.1.0', b'450 4.7.1']
