"""Logins as the server sees them: each mechanism as a table, and against our own client."""
import base64
import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st

from qpy.core import authbackends, brakes, dovecot_auth, passwords, sasl_client, sasl_server as sasl
from qpy.core.sasl_server import CHALLENGE, DONE, FAILED, JUDGE, Place
from qpy.qpya import auth

SALT, NONCE = b's' * 16, b'servernonce'
LINE = passwords.entry(b'Joe', b'secret', SALT, b't' * 16)
FILE = b'#secret:c2VjcmV0\n' + LINE + b'\n'
SCRAM = passwords.Scram(FILE, b'random')
BINDING = bytes(range(32))


def place(**changes):
    return Place(**{'nonce': NONCE, 'keys': SCRAM.keys, **changes})


def run(exchange, *responses, password=b'secret', token=b'token'):
    """What an exchange comes to; claims are judged by these two."""
    for response in responses:
        event, value = exchange.step(response)
        if event == JUDGE:
            event, value = exchange.judged(value.user == b'joe' and value.secret == (
                password if value.kind == sasl.PASSWORD else token))
        if event in (DONE, FAILED):
            return event, value
    return event, value


@pytest.mark.parametrize('mechanism, responses, expected', [
    ('PLAIN', [b'\0joe\0secret'], DONE), ('PLAIN', [None, b'\0joe\0secret'], DONE), ('PLAIN', [b'joe\0joe\0secret'], DONE),
    ('PLAIN', [b'ann\0joe\0secret'], FAILED), ('PLAIN', [b'\0joe\0wrong'], FAILED), ('PLAIN', [b'\0joe\0'], FAILED),
    ('PLAIN', [b'\0\0secret'], FAILED), ('PLAIN', [b'joe'], FAILED), ('PLAIN', [b'\0joe\0secret\0'], FAILED),
    ('PLAIN', [b''], FAILED), ('PLAIN', [b'\0joe\0sec\nret'], FAILED), ('PLAIN', [b'\0' + b'j' * 256 + b'\0x'], FAILED),
    ('LOGIN', [None, b'joe', b'secret'], DONE), ('LOGIN', [b'joe', b'secret'], DONE), ('LOGIN', [None, b'joe', b''], FAILED),
    ('LOGIN', [None, b'', b'secret'], FAILED), ('LOGIN', [None, b'joe', b'wrong'], FAILED),
    ('XOAUTH2', [b'user=joe\1auth=Bearer token\1\1'], DONE), ('XOAUTH2', [None, b'user=joe\1auth=bearer  token\1\1'], DONE),
    ('XOAUTH2', [b'user=joe\1auth=Bearer old\1\1', b''], FAILED), ('XOAUTH2', [b'user=joe\1auth=Basic token\1\1'], FAILED),
    ('XOAUTH2', [b'user=joe\1auth=Bearer token'], FAILED), ('XOAUTH2', [b'joe\1auth=Bearer token\1\1'], FAILED),
    ('OAUTHBEARER', [b'n,a=joe,\1host=h\1port=25\1auth=Bearer token\1\1'], DONE),
    ('OAUTHBEARER', [b'n,a=joe,\1auth=Bearer old\1\1', b'\1'], FAILED), ('OAUTHBEARER', [b'n,,\1auth=Bearer token\1\1'], FAILED),
    ('OAUTHBEARER', [b'p=x,a=joe,\1auth=Bearer token\1\1'], FAILED), ('OAUTHBEARER', [b'n,a=j=2,\1auth=Bearer token\1\1'], FAILED),
    ('OAUTHBEARER', [b'n,a=joe,\1auth=Bearer a\1auth=Bearer token\1\1'], FAILED), ('OAUTHBEARER', [b''], FAILED)])
def test_one_sided_mechanisms(mechanism, responses, expected):
    """RFC 4616, RFC 7628 and their elder relations; nobody becomes somebody else, nothing malformed is judged."""
    event, value = run(sasl.MECHANISMS[mechanism.encode()](place()), *responses)
    assert event == expected and (event == FAILED or value == b'joe')


def test_a_wrong_token_is_told_as_it_must_be():
    """RFC 7628, 3.2.2: a challenge says why, and the failure follows the client's answer."""
    exchange = sasl.MECHANISMS[b'OAUTHBEARER'](place())
    assert exchange.step(b'n,a=joe,\1auth=Bearer old\1\1')[0] == JUDGE
    event, said = exchange.judged(False)
    assert event == CHALLENGE and b'invalid_token' in said
    assert exchange.step(b'\1')[0] == FAILED


def converse(client, server):
    """Our client and our server; the last event, and whether the client is content."""
    response = client.first()
    for _ in range(6):
        event, value = server.step(response)
        if event == JUDGE:
            event, value = server.judged(value.user == b'joe' and value.secret in (b'secret', b'token'))
        if event in (DONE, FAILED):
            return event, value, client.accepted()
        response = client.answer(value)
    raise AssertionError('endless')


@pytest.mark.parametrize('name', sorted(sasl.MECHANISMS))
@pytest.mark.parametrize('user, secret, good', [(b'joe', b'secret', True), (b'joe', b'wrong', False), (b'ann', b'secret', False)])
def test_both_ends(name, user, secret, good):
    """Each mechanism against our own client: the right secret, a wrong one, nobody."""
    token = b'token' if secret == b'secret' else b'old'
    who = sasl_client.Credentials(user, secret, b'clientnonce', token, b'h', 25, BINDING)
    server = sasl.MECHANISMS[name](place(binding=BINDING, plus=True))
    client = sasl_client.MECHANISMS[name](who)
    if name == b'SCRAM-SHA-256':
        assert converse(client, server)[:2] == (FAILED, b'the client did not see -PLUS, which was offered: somebody is between')
        who.end_point = b''
        server, client = sasl.MECHANISMS[name](place()), sasl_client.MECHANISMS[name](who)
    event, value, content = converse(client, server)
    assert (event == DONE) == good and (value == user if good else True)
    assert content or not good


def test_the_example_of_rfc_7677():
    """RFC 7677, 3: the exchange of the standard, byte for byte."""
    keys = passwords.Scram(b'', b'').keys(b'')
    salted = passwords.pbkdf2_hmac('sha256', b'pencil', base64.b64decode('W22ZaJ0SNY7soEsUEjb6gQ=='), 4096)
    stored = passwords.sha256(passwords.hmac_digest(salted, b'Client Key', 'sha256')).digest()
    keys = passwords.Keys(4096, base64.b64decode('W22ZaJ0SNY7soEsUEjb6gQ=='), stored,
                          passwords.hmac_digest(salted, b'Server Key', 'sha256'))
    exchange = sasl.Scram(Place(b'%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0', keys=lambda user: keys))
    assert exchange.step(b'n,,n=user,r=rOprNGfwEbeRWgbNEkqO') == (
        CHALLENGE, b'r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096')
    assert exchange.step(b'c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,'
                         b'p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=') == (
        CHALLENGE, b'v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=')
    assert exchange.step(b'') == (DONE, b'user')


@pytest.mark.parametrize('first', [
    b'', b'n', b'n,,', b'n,,n=joe', b'n,,n=,r=x', b'n,,r=x,n=joe', b'n,,m=x,n=joe,r=x', b'n,,n=joe,r=', b'n,,n=j=oe,r=x',
    b'p=tls-unique,,n=joe,r=x', b'p=tls-server-end-point,,n=joe,r=x', b'n,a=ann,n=joe,r=x', b'n,,n=joe,r=a b', b'q,,n=joe,r=x'])
def test_first_messages_that_are_none(first):
    """RFC 5802, 7: malformed, bound where nothing is bound, for somebody else."""
    assert sasl.Scram(place()).step(first)[0] == FAILED


@pytest.mark.parametrize('flag', [b'p=tls-exporter', b'p=tls-unique', b'n', b'y'])
def test_bindings_that_cannot_be_had(flag):
    """RFC 9266 and 5929: -PLUS goes by our certificate only; another binding, or none, is refused and not taken for it."""
    exchange = sasl.ScramPlus(Place(NONCE, b'binding', True, SCRAM.keys))
    assert exchange.step(flag + b',,n=joe,r=x')[0] == FAILED
    assert sasl.ScramPlus(Place(NONCE, b'binding', True, SCRAM.keys)).step(b'p=tls-server-end-point,,n=joe,r=x')[0] == CHALLENGE


@pytest.mark.parametrize('final', [
    b'', b'c=biws', b'c=biws,r=xservernonce', b'c=biws,r=xservernonce,p=', b'c=biws,r=other,p=' + b'A' * 43 + b'=',
    b'c=eSws,r=xservernonce,p=' + b'A' * 43 + b'=', b'r=xservernonce,c=biws,p=' + b'A' * 43 + b'=', b'c=b!ws,r=xservernonce,p=x'])
def test_final_messages_that_are_none(final):
    """Nothing but the right proof, for this nonce and this header, is believed."""
    exchange = sasl.Scram(place())
    assert exchange.step(b'n,,n=joe,r=x')[0] == CHALLENGE
    assert exchange.step(final)[0] == FAILED


def test_somebody_between_with_another_certificate():
    """-PLUS: a proof made for another channel is worth nothing here."""
    who = sasl_client.Credentials(b'joe', b'secret', b'clientnonce', end_point=b'another certificate')
    event, value, _ = converse(sasl_client.MECHANISMS[b'SCRAM-SHA-256-PLUS'](who), sasl.ScramPlus(place(binding=BINDING, plus=True)))
    assert (event, value) == (FAILED, b'bound to another channel')


def test_nobody_looks_like_somebody():
    """The salt of a user who does not exist is always the same, of the same form, and not that of another one."""
    nobody, again, other = SCRAM.keys(b'nobody'), passwords.Scram(FILE, b'else').keys(b'NoBody'), SCRAM.keys(b'other')
    assert nobody.salt == again.salt != other.salt and len(nobody.salt) == len(SCRAM.keys(b'joe').salt)
    assert nobody.iterations == SCRAM.keys(b'joe').iterations and not nobody.real
    assert passwords.Scram(b'', b'one').keys(b'x').salt != passwords.Scram(b'', b'two').keys(b'x').salt


def test_scram_is_for_everybody_or_nobody():
    """One old line without keys, and it is not offered."""
    assert SCRAM.everybody
    assert not passwords.Scram(FILE + passwords.entry(b'ann', b'x', SALT) + b'\n', b'').everybody


def test_the_file_keeps_its_secret_and_its_keys():
    """What is written is read; the secret is made once."""
    entries = passwords.parse(FILE)
    assert passwords.verify(entries, b'JOE', b'secret') and not passwords.verify(entries, b'joe', b'other')
    assert passwords.with_secret(FILE, b'new') == FILE
    assert passwords.with_secret(LINE + b'\n', b'new').startswith(b'#secret:')
    for broken in (LINE[:-10], LINE + b'$x', LINE.replace(b'i=', b'j='), LINE.rpartition(b':')[0] + b':'):
        with pytest.raises(passwords.BadFile):
            passwords.parse(broken if broken[-1:] != b':' else broken + b'x')


@given(st.sampled_from(sorted(sasl.MECHANISMS)), st.lists(st.one_of(st.none(), st.binary(max_size=80)), max_size=5))
def test_anything_comes_to_an_end_without_trouble(name, responses):
    """Whatever a client says: a challenge, a claim, a failure; never in without the secret."""
    exchange = sasl.MECHANISMS[name](place(binding=BINDING, plus=True))
    for number, response in enumerate(responses):
        event, value = exchange.step(b'' if response is None and number else response)
        if event == JUDGE:
            event, value = exchange.judged(False)
        assert event != DONE
        if event == FAILED:
            break


@pytest.mark.parametrize('line, data', [(b'=', b''), (b'', b''), (b'YQ==', b'a'), (b'YQ', None), (b'Y!==', None), (b' YQ==', None)])
def test_base64(line, data):
    """RFC 4954, 4"""
    assert sasl.decoded(line) == data


# --- brakes ----------------------------------------------------------------------------------------------------

def test_an_address_that_guesses():
    """20 failures at a time from one address, whatever the names; one more each minute; an IPv6 network is one."""
    b = brakes.Brakes()
    for number in range(20):
        assert not b.refuse(b'u%d' % number, b'2001:db8::%d' % number, 0.0)
        b.failed([b'u%d' % number], b'2001:db8::%d' % number, 0.0)
    assert b.refuse(b'x', b'2001:db8::ffff', 0.0) == b'too many failed logins from this address'
    assert not b.refuse(b'x', b'2001:db8:0:1::1', 0.0) and not b.refuse(b'x', b'2001:db8::1', 60.0)


def test_an_account_under_attack():
    """10 failures from anywhere stop strangers, and not its owner, who came from another place before."""
    b = brakes.Brakes()
    b.succeeded([b'joe'], b'192.0.2.1', 0.0)
    for number in range(10):
        b.failed([b'joe'], b'198.51.100.%d' % number, 10.0)
    assert b.refuse(b'joe', b'203.0.113.1', 10.0) == b'too many failed logins to this account'
    assert not b.refuse(b'joe', b'192.0.2.1', 10.0) and not b.refuse(b'ann', b'203.0.113.1', 10.0)
    assert not b.refuse(b'joe', b'203.0.113.1', 130.0)


def test_brakes_are_bounded():
    """Whatever is tried, what is remembered has a limit."""
    b = brakes.Brakes()
    for number in range(brakes.MOST + 10):
        b.failed([b'%d' % number], b'%d' % number, 0.0)
        b.succeeded([b'%d' % number], b'x%d' % number, 0.0)
    assert len(b.accounts.counts) == len(b.addresses.counts) == len(b.known) == brakes.MOST


def test_an_account_of_ones_own_lifts_no_brake():
    """Who logs in as himself among his guesses takes back one failure a minute for that, of an address with many owners each
    one."""
    b = brakes.Brakes()
    guesses = 0
    while not b.refuse(b'joe', b'192.0.2.1', 5.0) and guesses < 100:
        b.failed([b'joe%d' % guesses], b'192.0.2.1', 5.0)
        b.succeeded([b'mallory'], b'192.0.2.1', 5.0)
        guesses += 1
    assert guesses == 21
    b.succeeded([b'mallory'], b'192.0.2.1', 64.0)
    assert b.addresses.level(b'192.0.2.1', 5.0) == 20
    for name in (b'ann', b'bob'):
        b.succeeded([name], b'192.0.2.1', 5.0)
    assert b.addresses.level(b'192.0.2.1', 5.0) == 18


class Desk:
    """A qpy-auth without processes: whom its judges, or a Dovecot, are asked about, and what it says."""

    def __init__(self, dovecot=False):
        self.asked, self.said, self.soon, self.waits, self.turns = [], [], [], [], []
        self.numbers = itertools.count()
        loop = SimpleNamespace(on_signal=lambda *_: None, call_soon=self.soon.append, after=self.after)
        self.office = auth.Office(loop, b'/nonexistent', SimpleNamespace(judges={}, dovecot=b''))
        self.office.judges = SimpleNamespace(judge=lambda claim, facts, done: self.asked.append((claim.user, done)),
                                             file=SimpleNamespace(scram=SCRAM), password_mechanisms=list)
        if dovecot:
            self.office.dovecot = SimpleNamespace(
                mechanisms=[b'PLAIN', b'LOGIN', b'SCRAM-SHA-256'], cancel=lambda number: None, go_on=lambda number, response: True,
                ask=lambda mechanism, known, first, answered: self.asked.append((first, answered)) or b'%d' % len(self.asked))
        self.server = SimpleNamespace(logins={}, channel=SimpleNamespace(send=lambda *fields: self.said.append(fields)))

    def after(self, seconds, call):
        """A timer."""
        calls = self.turns if seconds == auth.TURN else self.waits
        calls.append(call)
        return SimpleNamespace(cancel=lambda: calls.remove(call))

    def begin(self, ip, response, mechanism=b'PLAIN'):
        """A login."""
        number = b'%d' % next(self.numbers)
        login = self.server.logins[number] = self.office.begin(
            self.server, number, (mechanism, ip, b'TLSv1.3', b'', base64.b64encode(response)))
        login.start()
        return login

    def turn(self):
        """Whatever follows by itself, the end of pauses too."""
        while self.soon or self.waits:
            for call in self.soon[:]:
                self.soon.remove(call)
                call()
            for call in self.waits[:]:
                self.waits.remove(call)
                call()

    def answer(self, *words):
        """Who has been asked says this about all."""
        asked, self.asked = self.asked, []
        for _, answered in asked:
            answered(*words)
        self.turn()
        return len(asked)

    def heard(self):
        """How often each last answer was given; they are forgotten."""
        said, self.said = self.said, []
        ends = [fields[0] + fields[2] if fields[0] == b'n' else fields[0] for fields in said]
        return {end: ends.count(end) for end in ends}


@pytest.mark.parametrize('most, ip, user', [(20, b'192.0.2.1', b'u%d'), (10, b'198.51.100.%d', b'joe')])
@pytest.mark.parametrize('dovecot, no, yes', [(False, ('bad',), ('good',)), (True, ('fail', {}), ('ok', {b'user': b'joe'}))])
def test_brakes_are_not_overtaken(most, ip, user, dovecot, no, yes):
    """However many come at once, from one address or for one account, no more are looked at than could fail; the others wait
    until it is known how those end, and are refused after as many failures."""
    desk = Desk(dovecot)
    for number in range(50):
        desk.begin(ip % number if b'%' in ip else ip, b'\0' + (user % number if b'%' in user else user) + b'\0guess')
    assert len(desk.asked) == most
    desk.asked.pop(0)[1](*yes)
    desk.turn()
    assert len(desk.asked) == most and desk.heard() == {b'k': 1}
    assert desk.answer(*no) == most
    assert desk.answer(*no) == 0 and desk.heard() == {b'nno': most, b'nlater': 49 - most}
    assert not desk.office.waiting and not desk.office.brakes.accounts.judged and not desk.office.brakes.addresses.judged


WORDS = [(b'LOGIN', b'joe', b'guess'), (b'SCRAM-SHA-256', b'n,,n=joe,r=abc', b'c=biws,r=x,p=x')]


@pytest.mark.parametrize('dovecot', [False, True])
@pytest.mark.parametrize('mechanism, first, second', WORDS)
def test_who_keeps_still_is_in_nobodys_way(mechanism, first, second, dovecot):
    """Where the name comes before the proof, who has said it and nothing more has not failed and keeps no place, whether he stays
    or leaves; with proofs no more are looked at than could fail."""
    desk = Desk(dovecot)
    logins = [desk.begin(b'198.51.100.%d' % number, first, mechanism) for number in range(15)]
    if dovecot:
        for _ in range(5):          # those who wait for Dovecot's first word
            desk.answer('more', b'')
    assert desk.heard() == {b'c': 15} and not desk.office.brakes.accounts.judged
    desk.begin(b'203.0.113.1', b'\0joe\0right')
    desk.answer(*(('ok', {b'user': b'joe'}) if dovecot else ('good',)))
    assert desk.heard() == {b'k': 1}
    for login in logins[:3]:
        del desk.server.logins[login.number]
        login.gone()
    for login in logins[3:]:
        login.heard(base64.b64encode(second))
    for login in logins[3:] if dovecot else ():
        login.answered('fail', {}) if login.admitted else None
    desk.answer('bad')
    desk.turn()
    assert desk.heard() == {b'nno': 10, b'nlater': 2}


def test_who_leaves_before_he_is_told():
    """Being judged goes on without him, and counts; at Dovecot, whose failures come late, not to wait for one is one."""
    for dovecot in (False, True):
        desk = Desk(dovecot)
        for number in range(15):
            login = desk.begin(b'198.51.100.%d' % number, b'\0joe\0guess')
            del desk.server.logins[login.number]
            login.gone()
        assert len(desk.asked) == 10
        if not dovecot:
            desk.answer('bad')
        desk.begin(b'203.0.113.1', b'\0joe\0right')
        desk.turn()
        assert desk.heard() == {b'nlater': 1}


@pytest.mark.parametrize('first', ['verdict', 'leave'])
def test_who_leaves_when_his_token_is_refused(first):
    """RFC 7628 has him answer why before he hears that it failed: it has, whether he does or not."""
    desk = Desk()
    for number in range(10):
        login = desk.begin(b'198.51.100.%d' % number, b'user=joe\1auth=Bearer guess\1\1', b'XOAUTH2')
        [(_, answered)], desk.asked = desk.asked, []
        if first == 'verdict':
            answered('bad')
            assert desk.office.brakes.accounts.level(b'joe', auth.unix.monotonic()) > number + .9   # as long as he stays, too
        del desk.server.logins[login.number]
        login.gone()
        if first == 'leave':
            answered('bad')
        desk.turn()
    desk.begin(b'203.0.113.1', b'\0joe\0right')
    desk.turn()
    assert not desk.asked and desk.heard().pop(b'nlater') == 1


def test_nobody_waits_for_ever():
    """Where judging takes long, those who wait for it get an answer."""
    desk = Desk()
    for number in range(12):
        desk.begin(b'198.51.100.%d' % number, b'\0joe\0guess')
    desk.turn()
    assert not desk.heard() and len(desk.asked) == 10 and len(desk.turns) == 2
    for call in desk.turns:
        call()
    desk.turn()
    assert desk.heard() == {b'nlater': 2} and not desk.office.waiting
    desk.begin(b'203.0.113.1', b'\0ann\0right')
    assert len(desk.asked) == 11


def test_names_that_cannot_be_seen():
    """Who names nobody that we can see is in the way of nobody else who does not, but of his address."""
    desk = Desk(True)
    for number in range(15):
        desk.begin(b'198.51.100.%d' % number, b'admin\0joe\0guess')
    assert len(desk.asked) == 15
    for _ in range(25):
        desk.begin(b'192.0.2.1', b'admin\0joe\0guess')
    assert len(desk.asked) == 35


@pytest.mark.parametrize('response, mechanism', [(b'\0joe\0guess', b'PLAIN'), (b'x\0joe\0guess', b'PLAIN'),
                                                 (b'\0JOE@here\0guess', b'PLAIN'), (b'joe', b'LOGIN'), (b'n,,n=joe,r=abc', b'SCRAM-SHA-256')])
def test_an_account_that_dovecot_judges(response, mechanism):
    """After ten failures nobody hears whether he has guessed it, whatever he has called it and wherever he comes from; but its
    owner from his address."""
    desk = Desk(True)
    desk.begin(b'192.0.2.1', b'\0joe\0right')
    assert desk.answer('ok', {b'user': b'Joe'}) and desk.heard() == {b'k': 1}
    for number in range(25):
        desk.begin(b'198.51.100.%d' % number, response, mechanism)
        desk.answer('fail', {b'user': b'joe'})
    assert desk.heard() == {b'nno': 10, b'nlater': 15}
    desk.begin(b'203.0.113.1', b'\0joe\0right')
    desk.begin(b'203.0.113.2', response, mechanism)
    desk.answer('ok', {b'user': b'joe'})
    assert desk.heard() == {b'nlater': 2}
    desk.begin(b'192.0.2.1', b'\0joe\0right')
    desk.answer('ok', {b'user': b'joe'})
    assert desk.heard() == {b'k': 1}


# --- who judges, and Dovecot's words -----------------------------------------------------------------------------

@pytest.mark.parametrize('lines, judges, dovecot, programs', [
    (None, {b'password': [(b'passwd',)]}, b'', False), ([b'passwd'], {b'password': [(b'passwd',)]}, b'', False), ([], {}, b'', False),
    ([b'dovecot /run/x'], {}, b'/run/x', False), ([b'token\t/t  a'], {b'token': [(b'/t', b'a')]}, b'', True),
    ([b'program /p', b'passwd'], {b'password': [(b'/p',), (b'passwd',)]}, b'', True)])
def test_control_auth(lines, judges, dovecot, programs):
    """Each line adds a judge, in its place."""
    found = authbackends.backends(lines)
    assert (found.judges, found.dovecot, found.programs) == (judges, dovecot, programs)


@pytest.mark.parametrize('lines', [[b'passwd x'], [b'program x'], [b'program'], [b'dovecot x'], [b'dovecot /a', b'dovecot /b'], [b'ldap'],
                                   [b'dovecot /' + b'x' * 200]])
def test_control_auth_that_is_none(lines):
    """Anything else is an error with the four words in it."""
    with pytest.raises(ValueError, match='write passwd, program'):
        authbackends.backends(lines)


def test_the_words_of_dovecot():
    """Version 1 of its protocol, in pieces; another version, or a line without end, is no Dovecot."""
    session = dovecot_auth.Session(7)
    assert session.output() == b'VERSION\t1\t1\nCPID\t7\n'
    said = b'VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tSCRAM-SHA-256\nSPID\t1\nCOOKIE\tx\nDONE\nCONT\t1\tYQ==\nOK\t1\tuser=joe\n' \
        b'FAIL\t2\tuser=x\ttemp\nCONT\t3\nNEWS\t1\n'
    events = [event for byte in said for event in session.receive(bytes((byte,)))]
    assert events == [('ready', [b'PLAIN', b'SCRAM-SHA-256']), ('more', b'1', b'YQ=='), ('ok', b'1', {b'user': b'joe'}),
                      ('fail', b'2', {b'user': b'x', b'temp': b''}), ('more', b'3', b'')]
    assert session.ask(b'4', b'PLAIN', {b'service': b'smtp', b'secured': None}, b'YQ==\t\n') == \
        b'AUTH\t4\tPLAIN\tservice=smtp\tsecured\tresp=YQ==\n'
    assert session.go_on(b'4', b'YQ==') == b'CONT\t4\tYQ==\n' and session.cancel(b'4') == b'CANCEL\t4\n'
    for wrong in (b'VERSION\t2\t0\n', b'x' * 20000):
        with pytest.raises(ValueError):
            dovecot_auth.Session(1).receive(wrong)


@pytest.mark.parametrize('took, wait', [(0.0, 2.0), (0.25, 1.75), (1.5, 0.5), (2.5, 1.5), (31.0, 1.0)])
@pytest.mark.parametrize('end', ['bad', 'later'])
def test_time_does_not_tell_how_somebody_was_judged(monkeypatch, took, wait, end):
    """A failure is said two seconds after the client's last word, or four ..., however long judging took."""
    waits, now = [], [100.0]
    monkeypatch.setattr(auth.unix, 'monotonic', lambda: now[0])
    office = SimpleNamespace(brakes=brakes.Brakes(), loop=SimpleNamespace(after=lambda seconds, call: waits.append(seconds)))
    attempt = auth.Attempt(office, SimpleNamespace(logins={}), b'1', b'192.0.2.7')
    now[0] += took
    attempt.bad(b'joe', b'wrong') if end == 'bad' else attempt.later(b'nobody can judge now')
    assert waits == [wait]
