"""qpy-remote and what control/smtproutes, senderroutes and smtplogins can say: fallbacks, senders, logins, LMTP."""
import base64
import hashlib
import hmac
import os
import socket
import ssl

import pytest

from qpy.core import sasl_client
from tests.peers.certificates import authority
from tests.peers.smtp_script import Server, good
from tests.programs.test_remote import MESSAGE, Sender
from tests.programs.test_remote_tls import begin

USER, PASSWORD = b'joe@isp.example', b'pass word=,\xc3\xa9'


def closed_port():
    with socket.create_server(('127.0.0.1', 0)) as sock:
        return sock.getsockname()[1]


# --- several places, senders --------------------------------------------------------------------------------

def test_the_second_where_the_first_cannot_be_had():
    """Places are tried in their order: refused connections, unknown names and bad greetings lead to the next."""
    with Server(good(replies={b'greeting': b'554 go away'})) as bad, Server(good()) as fine:
        sender = Sender({b'': b'127.0.0.1:%d nowhere.example 127.0.0.1:%d 127.0.0.1:%d' % (
            closed_port(), bad.port, fine.port)})
        outcomes, trouble = sender.send()
    assert outcomes[0][0] == b'K' and not trouble and len(fine.mail) == 1 and bad.connections == 1


def test_no_second_place_after_an_answer():
    """Who was refused by the first place is not offered to the second; nor is what was sent to its end."""
    with Server(good(replies={b'RCPT': b'550 no'})) as first, Server(good()) as second:
        outcomes, _ = Sender({b'': b'127.0.0.1:%d 127.0.0.1:%d' % (first.port, second.port)}).send()
    assert outcomes[0][0] == b'D' and second.connections == 0


def test_a_domain_beyond_ascii():
    """control/smtproutes holds its ASCII form, and so does RCPT for a server without SMTPUTF8."""
    name = 'bücher.example'.encode()
    with Server(good()) as server:
        sender = Sender({b'xn--bcher-kva.example': b'127.0.0.1:%d' % server.port})
        assert sender.send(host=name, recipients=[b'joe@' + name])[0][0][0] == b'K'
    assert server.mail[0][1] == [b'joe@xn--bcher-kva.example']


def test_all_places_fail():
    """Then the mail waits, with the reason of the last."""
    outcomes, trouble = Sender({b'': b'127.0.0.1:%d nowhere.example' % closed_port()}).send()
    assert outcomes[0][0] == b'Z' and trouble and b'nowhere.example' in outcomes[0][1]


def test_routes_by_sender():
    """control/senderroutes decides before control/smtproutes; the null sender has none."""
    with Server(good()) as one, Server(good()) as other:
        sender = Sender({b'': b'127.0.0.1:%d' % one.port})
        sender.settings.senders = {b'joe@y.example': b'127.0.0.1:%d' % other.port}
        for address in (b'JOE@y.example', b'ann@y.example', b''):
            assert sender.send(sender=address)[0][0][0] == b'K'
    assert [mail[0] for mail in other.mail] == [b'JOE@y.example'] and len(one.mail) == 2


def test_a_route_of_one_sender_is_a_destination_of_its_own():
    """Nobody listens where joe's mail goes: that place is in trouble, which qpy-send knows by another name than where other mail
    goes (see core.destinations)."""
    sender = Sender({b'': b'127.0.0.1:%d' % closed_port()})
    assert sender.send()[1] is True
    sender.settings.senders = {b'joe@y.example': b'127.0.0.1:%d' % closed_port()}
    outcomes, trouble = sender.send(sender=b'joe@y.example')
    assert outcomes[0][0] == b'Z' and trouble is True


# --- logins -------------------------------------------------------------------------------------------------

def read(talk):
    return base64.b64decode(talk.line(), validate=True)


def ask(talk, words):
    talk.say(b'334 ' + base64.b64encode(words))


def plain(talk, line):
    words = base64.b64decode(line.split(b' ')[2], validate=True)
    return b'235 in' if words == b'\0%s\0%s' % (USER, PASSWORD) else b'535 5.7.8 no'


def login(talk, line):
    ask(talk, b'Username:')
    user = read(talk)
    ask(talk, b'Password:')
    return b'235 in' if (user, read(talk)) == (USER, PASSWORD) else b'535 5.7.8 no'


def scram(talk, line, password=PASSWORD, lie=False, header=None, bound=b''):
    bare = base64.b64decode(line.split(b' ')[2], validate=True)
    header = header or (b'y,,' if isinstance(talk.sock, ssl.SSLSocket) else b'n,,')
    assert bare.startswith(header + b'n=joe@isp.example,r=')
    first = b'r=%sserver,s=%s,i=4096' % (bare.partition(b',r=')[2], base64.b64encode(b'salt'))
    ask(talk, first)
    final = read(talk)
    unsigned, _, proof = final.partition(b',p=')
    salted = hashlib.pbkdf2_hmac('sha256', password, b'salt', 4096)
    sign = (lambda key, words: hmac.new(key, words, 'sha256').digest())
    signed = bare[len(header):] + b',' + first + b',' + unsigned
    if base64.b64decode(attribute(unsigned, b'c')) != header + bound:
        return b'535 5.7.8 another channel'
    key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), sign(hashlib.sha256(sign(salted, b'Client Key')).digest(),
                                                                    signed)))
    if key != sign(salted, b'Client Key') and not lie:
        return b'535 5.7.8 no'
    ask(talk, b'v=' + base64.b64encode(sign(sign(salted, b'Server Key'), signed)))
    return b'235 in' if talk.line() == b'' else b'501 enough'


def attribute(words, letter):
    return next(word[2:] for word in words.split(b',') if word[:2] == letter + b'=')


def plus(talk, line):
    """SCRAM-SHA-256-PLUS with tls-server-end-point of authority()'s certificate for 127.0.0.1; without it n, not y."""
    if line.startswith(b'AUTH SCRAM-SHA-256 '):
        return scram(talk, line, header=b'n,,')
    certificate = ssl.PEM_cert_to_DER_cert(open(authority().certificate('127.0.0.1')[0]).read())
    return scram(talk, line, header=b'p=tls-server-end-point,,', bound=hashlib.sha256(certificate).digest())


def to(server, tls=b'encrypt', password=PASSWORD):
    """A Sender that logs in at this server."""
    sender = Sender({b'': b'%s@127.0.0.1:%d' % (USER, server.port)})
    sender.settings.tls = {b'127.0.0.1': tls} if tls else {}
    sender.settings.logins = {USER + b'@127.0.0.1': password} if password else {}
    sender.settings.cas = authority().ca.encode()
    return sender


def server_with(mechanisms, answer, tls=True):
    extensions = [b'AUTH ' + mechanisms] + [b'STARTTLS'] * tls
    context = authority().context('127.0.0.1')
    return Server(good(extensions, {b'STAR': begin(context), b'AUTH': answer}))


@pytest.mark.parametrize('mechanisms, answer, word', [
    (b'LOGIN PLAIN', plain, b'AUTH PLAIN '), (b'LOGIN', login, b'AUTH LOGIN'),
    (b'PLAIN CRAM-MD5 SCRAM-SHA-256 LOGIN', scram, b'AUTH SCRAM-SHA-256 '),
    (b'PLAIN SCRAM-SHA-256-PLUS SCRAM-SHA-256', plus, b'AUTH SCRAM-SHA-256-PLUS ')])
def test_logins(mechanisms, answer, word):
    """The best of what the server offers is used, once per connection; the password is never seen in the clear."""
    with server_with(mechanisms, answer) as server:
        sender = to(server)
        assert [sender.send()[0][0][0] for _ in range(2)] == [b'K', b'K']
        assert [line.startswith(word) for line in server.log].count(True) == 1
        assert server.log.index(b'STARTTLS') < [line.startswith(word) for line in server.log].index(True)


@pytest.mark.parametrize('answer, mechanisms', [(plain, b'PLAIN'), (login, b'LOGIN'), (scram, b'SCRAM-SHA-256')])
def test_a_wrong_password_waits(answer, mechanisms):
    """A refused login is for an administrator to mend: temporary, said with the server's words, not with ours."""
    with server_with(mechanisms, answer) as server:
        outcomes, trouble = to(server, password=b'wrong').send()
    assert outcomes[0] == (b'Z', b'Connected to 127.0.0.1 but my login was rejected.\nRemote host said: 535 5.7.8 no\n')
    assert trouble and not server.mail


def test_no_password_no_way():
    """No entry in smtplogins, no mechanism, no TLS: each is said, and nothing is sent."""
    with server_with(b'PLAIN', plain) as server:
        assert b'Unable to use control/smtplogins, entry "joe@isp.example@127.0.0.1"' in to(server, password=b'').send()[0][0][1]
    with server_with(b'GSSAPI', plain) as server:
        assert b'it offers no login by PLAIN, LOGIN or SCRAM-SHA-256' in to(server).send()[0][0][1]
    with server_with(b'PLAIN LOGIN', plain, tls=False) as server:
        assert b'it offers no login without showing the password' in to(server, b'may').send()[0][0][1]
    assert not any(line.startswith(b'AUTH') for line in server.log)


def test_another_binding_is_wanted():
    """A server that refuses our kind of channel binding is logged in to without, and not told that we believe it has none."""
    def answer(talk, line):
        return b'535 5.7.8 tls-exporter only' if b'-PLUS' in line else plus(talk, line)
    with server_with(b'SCRAM-SHA-256-PLUS SCRAM-SHA-256', answer) as server:
        assert to(server).send()[0][0][0] == b'K'
    assert [line.split()[1] for line in server.log if line.startswith(b'AUTH')] == [b'SCRAM-SHA-256-PLUS', b'SCRAM-SHA-256']


# --- tokens ---

class Keeper:
    """In place of qpy-token: gives these tokens, one after the other."""

    def __init__(self, *tokens):
        self.tokens, self.asked = list(tokens), []

    def ask(self, letter, account, callback):
        self.asked.append((letter, account))
        token = self.tokens.pop(0) if self.tokens else b''
        callback(b'ok' if token else b'temp', token, b'' if token else b'the program failed')


def bearer(talk, line):
    """OAUTHBEARER and XOAUTH2 for the token `good`."""
    kind, words = line.split(b' ')[1], base64.b64decode(line.split(b' ')[2], validate=True)
    host = b'n,a=%s,\1host=127.0.0.1\1port=%d\1' % (USER, talk.server.port) if kind == b'OAUTHBEARER' else b'user=%s\1' % USER
    if words == host + b'auth=Bearer good\1\1':
        return b'235 in'
    ask(talk, b'{"status":"invalid_token"}')
    last = talk.line()
    return b'535 5.7.8 ' + (b'no' if last == {b'OAUTHBEARER': b'AQ==', b'XOAUTH2': b''}[kind] else b'what? ' + last)


def with_tokens(server, *tokens):
    sender = to(server, password=b'')
    sender.settings.tokens = {USER + b'@127.0.0.1'}
    sender.remote.tokens = Keeper(*tokens)
    return sender


@pytest.mark.parametrize('mechanisms, used', [(b'PLAIN LOGIN XOAUTH2', b'XOAUTH2'),
                                              (b'XOAUTH2 OAUTHBEARER PLAIN', b'OAUTHBEARER')])
def test_tokens(mechanisms, used):
    """A token is asked for and shown by TLS; one that is refused is asked for anew, once."""
    account = USER + b'@127.0.0.1'
    with server_with(mechanisms, bearer) as server:
        sender = with_tokens(server, b'old', b'good')
        assert sender.send()[0][0][0] == b'K' and sender.remote.tokens.asked == [(b'K', account), (b'F', account)]
        assert [line.split(b' ')[1] for line in server.log if line.startswith(b'AUTH')] == [used, used]
        sender = with_tokens(server, b'old', b'older', b'good')
        outcomes, trouble = sender.send()
        assert outcomes[0] == (b'Z', b'Connected to 127.0.0.1 but my login was rejected.\nRemote host said: 535 5.7.8 no\n')
        assert trouble and len(sender.remote.tokens.asked) == 2


def test_no_token_no_mail():
    """Without a token, or a mechanism that takes one, the mail waits; a token is not shown in the clear."""
    with server_with(b'PLAIN', bearer) as server:
        assert b'no login by OAUTHBEARER or XOAUTH2' in with_tokens(server, b'good').send()[0][0][1]
        words = with_tokens(server).send()[0][0]
        assert words == (b'Z', b'Unable to get a token for joe@isp.example@127.0.0.1: the program failed. (#4.7.0)\n')
        sender = with_tokens(server, b'old')
    with server_with(b'XOAUTH2', bearer, tls=False) as server:
        sender = with_tokens(server, b'good')
        sender.settings.tls = {b'127.0.0.1': b'may'}
        assert b'it offers no login without showing' in sender.send()[0][0][1]
    with server_with(b'XOAUTH2', bearer) as server:
        assert b'Unable to get a token' in with_tokens(server, b'old').send()[0][0][1]


def test_a_login_verifies_unless_told_otherwise():
    """Without an entry in tlsdestinations the certificate of a relay that gets a password must verify."""
    with Server(good([b'AUTH PLAIN', b'STARTTLS'], {b'STAR': begin(authority().context('other')), b'AUTH': plain})) as server:
        outcomes, _ = to(server, b'').send()
    assert outcomes[0][0] == b'Z' and b'because there is a password to protect' in outcomes[0][1]


def test_scram_in_the_clear():
    """SCRAM-SHA-256 does not show the password and may be used without TLS."""
    with server_with(b'SCRAM-SHA-256', scram, tls=False) as server:
        assert to(server, b'may').send()[0][0][0] == b'K'


@pytest.mark.parametrize('answer', [
    lambda t, line: scram(t, line, b'other', lie=True), lambda t, line: b'235 come in',
    lambda t, line: b'334 ***', lambda t, line: b'334 ' + base64.b64encode(b'r=short,s=,i=1')])
def test_a_server_that_does_not_know_the_password(answer):
    """SCRAM: who says yes without the proof, or plays by other rules, gets no mail."""
    with server_with(b'SCRAM-SHA-256', answer) as server:
        outcomes, _ = to(server).send()
    assert outcomes[0][0] == b'Z' and b'but the login failed: ' in outcomes[0][1] and not server.mail


def test_the_example_of_rfc_7677():
    """SCRAM-SHA-256, RFC 7677, section 3, byte by byte."""
    exchange = sasl_client.Scram(sasl_client.Credentials(b'user', b'pencil', b'rOprNGfwEbeRWgbNEkqO'))
    assert exchange.first() == b'n,,n=user,r=rOprNGfwEbeRWgbNEkqO'
    assert exchange.answer(b'r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096') == (
        b'c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=')
    assert exchange.answer(b'v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=') == b'' and exchange.accepted()


# --- LMTP ---------------------------------------------------------------------------------------------------

def lmtp(dots, extensions=(b'PIPELINING',), replies=None, after=None):
    """An LMTP server: after the message it says dots, one reply for each accepted recipient."""
    def script(talk):
        talk.say(b'220 lmtp')
        taken = 0
        while line := talk.line():
            word = line[:4].upper()
            if word == b'LHLO':
                talk.say(*(b'250-' + each for each in extensions), b'250 x')
            elif word == b'RCPT':
                reply = (replies or {}).get(line[9:].partition(b'>')[0], b'250 ok')
                taken += reply.startswith(b'2')
                talk.say(reply)
            elif word == b'DATA':
                talk.say(b'354 go' if taken else b'503 nobody')
                if taken:
                    talk.server.mail.append(talk.message())
                    talk.say(*dots)
                    if after:
                        return after(talk)
                    taken = 0
            elif word == b'EHLO':
                talk.say(b'500 this is LMTP')
            else:
                talk.say(b'250 ok')
        return None
    return script


PEOPLE = [b'a@x', b'b@x', b'c@x', b'd@x']


def by_lmtp(server):
    return Sender({b'': b'lmtp=127.0.0.1:%d' % server.port})


@pytest.mark.parametrize('extensions', [(b'PIPELINING',), (b'X',)])
def test_a_result_for_each(extensions):
    """RFC 2033: each recipient has a reply after the message: taken, later, never; and one was refused before."""
    script = lmtp([b'250 2.0.0 a is glad', b'452 4.2.2 b is full', b'550 5.2.1 d is gone'], extensions, {b'c@x': b'550 no c'})
    with Server(script) as server:
        sender = by_lmtp(server)
        outcomes, trouble = sender.send(recipients=PEOPLE)
        assert [letter for letter, _ in outcomes] == [b'K', b'Z', b'D', b'D'] and not trouble
        assert b'a is glad' in outcomes[0][1] and b'b is full' in outcomes[1][1]
        assert b'no c' in outcomes[2][1] and b'd is gone' in outcomes[3][1] and b'glad' not in outcomes[3][1]
        assert len(sender.remote.pool.idle) == 1 and server.mail == [MESSAGE.replace(b'\n', b'\r\n')]


def test_nobody_takes_it():
    """All are refused after the message, for good or for now: each has its own word."""
    with Server(lmtp([b'550 no a', b'450 not now b'])) as server:
        outcomes, _ = by_lmtp(server).send(recipients=PEOPLE[:2])
    assert [letter for letter, _ in outcomes] == [b'D', b'Z'] and b'not now b' in outcomes[1][1]


@pytest.mark.parametrize('end', [lambda talk: talk.reset(), lambda talk: talk.say(b'421 must go')])
def test_a_loss_between_the_replies(end):
    """Who has no reply when the connection ends may have it: temporary, and only for him."""
    with Server(lmtp([b'250 ok', b'550 no b'], after=end)) as server:
        outcomes, _ = by_lmtp(server).send(recipients=PEOPLE[:3])
    assert [letter for letter, _ in outcomes] == [b'K', b'D', b'Z']


def test_lmtp_on_a_unix_socket(tmp_path):
    """lmtp=/path: no address, no port, no TLS; REQUIRETLS has nothing to ask of it."""
    path = str(tmp_path / 'lmtp')
    server = Server(lmtp([b'250 taken']))
    server.sock.close()
    server.sock = socket.socket(socket.AF_UNIX)
    server.sock.bind(path)
    server.sock.listen()
    with server:
        sender = Sender({b'': b'lmtp=' + os.fsencode(path)})
        for flags in (b'', b'q'):
            assert sender.send(flags=flags)[0][0][0] == b'K'
    outcomes, trouble = Sender({b'': b'lmtp=' + os.fsencode(path)}).send()
    assert outcomes[0][0] == b'Z' and trouble and b'refused' in outcomes[0][1]
    outcomes, _ = Sender({b'': b'lmtp=/nowhere/at/all'}).send()
    assert outcomes[0][0] == b'Z' and b'no such file' in outcomes[0][1]


def test_a_server_that_speaks_no_lmtp():
    """HELO is never said; the mail waits."""
    with Server(good(replies={b'LHLO': b'500 what?'})) as server:
        outcomes, trouble = by_lmtp(server).send()
    assert outcomes[0][0] == b'Z' and trouble and not server.mail
