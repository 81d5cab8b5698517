"""A qpy-smtpd that somebody starts under his own account, as `sendmail -bs` and tcpserver do: who exists is known there too."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402

pytestmark = pytest.mark.root
ANN, BOB = 54001, 54002
SAID = ('EHLO x', 'MAIL FROM:<ann@here.test>', 'RCPT TO:<bob@here.test>', 'RCPT TO:<nobody@here.test>', 'RCPT TO:<bob-x@here.test>', 'QUIT')
TCPSERVER = {'PATH': '/usr/bin:/bin', 'PROTO': 'TCP', 'TCPREMOTEIP': '192.0.2.7', 'TCPLOCALIP': '192.0.2.1'}
FORMS = {'sendmail -bs': (('sendmail', '-bs'), None), 'tcpserver': (('qpy-smtpd',), TCPSERVER)}


@pytest.fixture(scope='module')
def house():
    made = houses.Rooted(users={'ann': (ANN, ANN), 'bob': (BOB, BOB)})
    os.chmod(made.user_homes['bob'], 0o755)
    try:
        yield made.start()
        assert made.stop() == 0
    finally:
        made.remove()


def talk(house, form, uid):
    """The replies to RCPT, and what stands on descriptor 2."""
    (name, *words), env = FORMS[form]
    done = house.as_owner(house.home + '/bin/' + name, *words, data='\r\n'.join((*SAID, '')).encode(), uid=uid, gid=uid, env=env)
    replies = [line for line in done.stdout.decode().split('\r\n') if line[3:4] == ' ']
    return [reply[:9] for reply in replies[3:6]], done.stderr.decode()


@pytest.mark.parametrize('form', FORMS)
def test_recipients_that_do_not_exist_are_refused(house, form):
    """550 5.1.1 at RCPT for whom there is no account and no .qmail file, whoever runs the server."""
    replies, said = talk(house, form, ANN)
    assert replies == ['250 2.1.5', '550 5.1.1', '550 5.1.1'] and 'not looked up' not in said


@pytest.mark.parametrize('form', FORMS)
def test_where_nobody_can_be_asked(house, form):
    """Without the socket that is open to all, the recipients are taken, and the log says so once."""
    os.rename(house.home + '/run/exists', house.home + '/run/away')
    try:
        replies, said = talk(house, form, ANN)
    finally:
        os.rename(house.home + '/run/away', house.home + '/run/exists')
    assert replies == ['250 2.1.5'] * 3
    assert said.count('warning: recipients are not looked up: unable to connect to run/users or run/exists') == 1


def test_what_a_stranger_may_ask(house):
    """On `exists` nobody is told whose mail it is, or why; on `users` nobody but its accounts is heard; one uid has its
    share of connections and no more."""
    program = '''
import socket, os
os.chdir(%r)
def ask(name, packet):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(name)
    try:
        sock.send(packet)
        return sock, sock.recv(1000)
    except OSError:                         # it was closed before it was heard
        return sock, b''
print(ask('exists', b'Q1\\0bob@here.test\\0')[1])
print(ask('exists', b'W1\\0bob\\0')[1])
try:
    print(ask('users', b'Q1\\0bob@here.test\\0'))
except OSError as problem:
    print(problem.strerror)
held = [ask('exists', b'Q1\\0bob@here.test\\0') for _ in range(60)]
print(sum(bool(answer) for _, answer in held))
''' % (house.home + '/run')
    said = house.as_owner('/usr/bin/python3', '-IS', '-c', program, uid=ANN, gid=ANN).stdout.decode().split('\n')
    assert said[:3] == [repr(b'q1\0yes\0\0'), repr(b''), 'Permission denied']
    assert 8 <= int(said[3]) <= 16              # of each worker
    assert not any('client uid %d' % ANN in line for line in house.lines)       # nor does his nonsense fill the log
