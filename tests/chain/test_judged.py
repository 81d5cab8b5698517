"""qpy-check and qpy-milter in whole chains: their account, mail that is greylisted, changed, held and released, and what a
login may send."""
import json
import os
import shutil
import smtplib
import sys

import pytest

click = pytest.importorskip('click')

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402
import test_auth as auth  # noqa: E402
from tests.peers.milter import Milter, text  # noqa: E402

pytestmark = pytest.mark.slow
LINES = ('check qpyc seq:check:0660:qpyc:qpyd qpy-check\n'
         'milter qpyc seq:milter:0660:qpyc:qpyd,unix:filter:0660:qpyc:qpyd qpy-milter\n')
JOE = 54011


def with_lines(house):
    """The house with the two programs in its process table, where nobody may relay by his address."""
    with open(house.home + '/control/services') as file:
        house.write('control/services', file.read() + LINES)
    house.write('control/tcp.smtp', ':allow\n')
    shutil.copytree(os.path.dirname(click.__file__), house.home + '/lib/site/click', dirs_exist_ok=True)
    return house


def listed(house):
    """The queue as qpy-ctl tells it."""
    return [json.loads(line) for line in house.as_owner(house.home + '/bin/qpy-ctl', '--json', 'list').stdout.splitlines()]


def judge(data):
    """A milter's end of message: a header field, and quarantine for one subject."""
    return [b'h' + text(b'X-Judged', b'yes'), *([b'q' + text(b'smells')] if held else []), b'c']


held = []


@pytest.fixture(params=[pytest.param(houses.Rooted, marks=pytest.mark.root), houses.House], ids=['rooted', 'rootless'])
def house(request):
    if request.param is houses.Rooted:
        made = with_lines(houses.Rooted(users={'joe': (JOE, JOE)}))
    else:
        made = with_lines(houses.House())
        made.user_homes['joe'] = made.user_homes['user']
    try:
        yield made
        assert made.stop() == 0
    finally:
        made.remove()


def name_of(house):
    return 'joe' if not house.rootless else 'user'


def test_a_message_is_judged_by_both(house):
    """Greylisted by qpy-check until it comes again; changed by a milter; held where that wants it, with the reason in
    qpy-ctl's list, and delivered once it is released."""
    user = name_of(house)
    with Milter({b'E': judge}) as milter:
        house.write('control/milters', milter.place + '\n')
        house.write('control/greylist', 'delay:1\nallow:0\n')
        house.start()
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            house.smtp(user + '@here.test')
        assert refused.value.recipients[user + '@here.test'][0] == 451

        def comes_again():
            try:
                house.smtp(user + '@here.test', text='first')
            except smtplib.SMTPRecipientsRefused:
                return False
            return True
        house.await_that(comes_again, 'acceptance of the second try')
        message = house.await_message(user + '/Maildir', 'first')
        assert b'\nX-Judged: yes\n' in message and b'\nReceived: from ' in b'\n' + message
        held.append(1)
        try:
            house.smtp(user + '@here.test', text='second')
        finally:
            held.clear()
        found = house.await_that(lambda: [m for m in listed(house) if m['place'] == 'held'], 'held message')
        assert found[0]['hold'] == 'smells' and found[0]['attempts'] == 0
        shown = house.as_owner(house.home + '/bin/qpy-ctl', 'list').stdout
        assert b'\n    held: smells\n' in shown
        house.as_owner(house.home + '/bin/qpy-ctl', 'release', found[0]['id'])
        assert b'X-Judged: yes' in house.await_message(user + '/Maildir', 'second')
        assert any(line.startswith('qpy-milter: held message session') for line in house.lines)
        assert any('(greylist: ' in line for line in house.lines)


@pytest.mark.root
def test_their_account():
    """Both run as qpyc, without a capability, a group or a way back; what they keep in DIR/check nobody else can read."""
    import pwd
    house = with_lines(houses.Rooted(users={'joe': (JOE, JOE)}))
    try:
        house.start()
        uid = str(pwd.getpwnam('qpyc').pw_uid)
        for said in house.await_confined(('check', 'milter')):
            assert said['Uid'].split() == [uid] * 4 and said['CapEff'] == said['CapBnd'] == '0' * 16
            assert said['NoNewPrivs'] == '1' and said['Groups'].split() in ([], [said['Gid'].split()[0]])
        there = os.stat(house.home + '/check')
        assert (str(there.st_uid), there.st_mode & 0o7777) == (uid, 0o700)
        assert house.stop() == 0
    finally:
        house.remove()


def test_what_a_login_sends_beyond_its_limit_is_held():
    """control/accountlimits: the second message of an hour is accepted and held, not lost; released it goes; strangers'
    checks do not concern a login."""
    house = with_lines(auth.AuthHouse())
    try:
        house.write('control/accountlimits', ':messages=1/1h\n')
        house.write('control/helorules', 'valid\nnotours\n')
        house.start()
        house.await_auth()
        for words in ('first', 'second'):
            with smtplib.SMTP('127.0.0.1', house.port, local_hostname='laptop', timeout=20) as client:
                client.starttls(context=auth.tls.trusting(check_hostname=False))
                client.login('user', auth.SECRET.decode())
                client.sendmail('user@here.test', ['user@here.test'], 'Subject: %s\r\n\r\n%s\r\n' % (words, words))
        house.await_message('user/Maildir', 'first')
        found = house.await_that(lambda: [m for m in listed(house) if m['place'] == 'held'], 'held message')
        assert found[0]['hold'] == 'accountlimits: user: more than 1/1h messages (1 before, 1 now)'
        assert any('qpy-check: held data ip 127.0.0.1' in line for line in house.lines)
        house.as_owner(house.home + '/bin/qpy-ctl', 'release', found[0]['id'])
        house.await_message('user/Maildir', 'second')
        with smtplib.SMTP('127.0.0.1', house.port, local_hostname='laptop', timeout=20) as client:
            client.ehlo_or_helo_if_needed()
            assert client.mail('user@here.test')[0] == 250
            assert client.rcpt('user@here.test') == (550, b'5.7.1 your HELO is no full host name and no address in brackets')
        assert house.stop() == 0
    finally:
        house.remove()
