"""qpy-popup, qpy-checkpassword, qpy-pop3d and qpy-passwd as real processes, with Python's poplib as the
client."""
import os
import poplib
import re
import socket
import ssl
import subprocess
import time

import pytest

from qpy import unix
from qpy.user import pop3d as pop3d_
from tests.peers.certificates import authority
from tests.peers.pop3 import OWNER, PASSWORD, SOURCE, House

pytestmark = pytest.mark.slow

ONE, TWO = b'Subject: one\n\n.dot\nbody\n', b'Subject: two\n\nno end'


@pytest.fixture
def house():
    here = House()
    here.mail('cur/1.a.host:2,S', ONE, 300)
    here.mail('new/2.b.host', TWO, 200)
    here.mail('new/3.c.host', b'Subject: three\n\n', 100)
    yield here
    here.stop()


def pop3d(house):
    process, sock = house.session('pop3d', house.home + '/joe/Maildir')
    return process, sock.makefile('rwb', buffering=0), sock


def client(port, password=PASSWORD.decode()):
    found = poplib.POP3('127.0.0.1', port, timeout=30)
    found.user('joe')
    found.pass_(password)
    return found


def test_a_whole_session(house, tmp_path):
    """Log in, list, read, delete, leave: what was deleted is gone, what was new is in cur."""
    with open(tmp_path / 'log', 'wb') as log:
        pop = client(house.serve(log))
        assert pop.getwelcome().startswith(b'+OK') and b'<' not in pop.getwelcome()
        assert pop.stat() == (3, len(ONE) + len(TWO) + 16) and set(pop.capa()) >= {'TOP', 'UIDL'}
        assert pop.retr(1)[1] == [b'Subject: one', b'', b'.dot', b'body'] and pop.retr(2)[1][-1] == b'no end'
        assert pop.top(1, 1)[1] == [b'Subject: one', b'', b'.dot']
        assert pop.uidl()[1] == [b'1 1.a.host', b'2 2.b.host', b'3 3.c.host']
        pop.dele(2)
        assert pop.stat() == (2, len(ONE) + 16)
        pop.quit()
    assert [process.wait(20) for process in house.processes] == [1]
    assert house.names('new') == [] and house.names('cur') == ['1.a.host:2,S', '3.c.host:2,']
    assert (tmp_path / 'log').read_text() == 'qpy-popup: served ip 192.0.2.7 user joe\n'


def test_a_connection_that_breaks(house, tmp_path):
    """Without QUIT nothing is deleted, nothing moved."""
    with open(tmp_path / 'log', 'wb') as log:
        pop = client(house.serve(log))
        pop.dele(1)
        pop.close()
        house.processes[0].wait(20)
    assert house.names('new') == ['2.b.host', '3.c.host'] and house.names('cur') == ['1.a.host:2,S']


@pytest.mark.parametrize('user, password', [
    ('joe', 'wrong'), pytest.param('nobody', 'secret word', marks=pytest.mark.slow),
    pytest.param('joe-x', 'secret word', marks=pytest.mark.slow)])
def test_refusals(house, tmp_path, user, password):
    """A wrong password and a name that nobody has: the same words, after a pause; one attempt per connection;
    logged."""
    with open(tmp_path / 'log', 'wb') as log:
        pop = poplib.POP3('127.0.0.1', house.serve(log), timeout=30)
        pop.user(user)
        began = time.monotonic()
        with pytest.raises(poplib.error_proto, match='authorization failed'):
            pop.pass_(password)
        assert time.monotonic() - began >= 2
        assert pop.file.read() == b''
        pop.close()
        assert house.processes[0].wait(20) == 1
    assert 'refused ip 192.0.2.7 user ' + user in (tmp_path / 'log').read_text()


def test_pipelined_commands_reach_pop3d(house, tmp_path):
    """What a client sends behind PASS without waiting is not lost."""
    with open(tmp_path / 'log', 'wb') as log:
        process, sock = house.session('popup', 'h', 'qpy-checkpassword', 'qpy-pop3d', 'Maildir', stderr=log)
        sock.sendall(b'USER joe\r\nPASS %s\r\nSTAT\r\nQUIT\r\n' % PASSWORD)
        assert sock.makefile('rb').read().endswith(b'+OK 3 %d\r\n+OK \r\n' % (len(ONE) + len(TWO) + 16))


def trusting():
    return ssl.create_default_context(cafile=authority().ca)


@pytest.mark.parametrize('env', [{}, {'FORCETLS': '1'}])
def test_stls(house, tmp_path, env):
    """After STLS everything goes through qpy-tls: the login, the mail, the program that the login starts; the log says so."""
    house.tls(*authority().certificate('localhost', '127.0.0.1'))
    with open(tmp_path / 'log', 'wb') as log:
        pop = poplib.POP3('127.0.0.1', house.serve(log, **env), timeout=30)
        assert 'STLS' in pop.capa()
        if env:
            with pytest.raises(poplib.error_proto, match='STLS first'):
                pop.user('joe')
        pop.stls(trusting())
        assert 'STLS' not in pop.capa()
        pop.user('joe')
        pop.pass_(PASSWORD.decode())
        assert pop.stat() == (3, len(ONE) + len(TWO) + 16)
        assert pop.retr(1)[1] == [b'Subject: one', b'', b'.dot', b'body']
        pop.dele(1)
        pop.quit()
        assert house.processes[-1].wait(20) == 1
    assert (tmp_path / 'log').read_text() == 'qpy-popup: served ip 192.0.2.7 user joe tls\n'
    assert '1.a.host:2,S' not in house.names('cur')


def test_a_certificate_that_comes_later(house, tmp_path):
    """The first certificate counts without a restart, too, where nobody asks qpy-tls but clients of POP3."""
    house.tls(*authority().certificate('localhost', '127.0.0.1'), name='later')
    with open(tmp_path / 'log', 'wb') as log:
        assert 'STLS' not in poplib.POP3('127.0.0.1', house.serve(log), timeout=30).capa()
        os.rename(house.home + '/keys/later', house.home + '/keys/default.pem')
        ends = time.monotonic() + 30
        while 'STLS' not in poplib.POP3('127.0.0.1', house.serve(log), timeout=30).capa():
            assert time.monotonic() < ends, 'qpy-tls does not look'


def test_pop3s(house, tmp_path):
    """POP3S: TLS from the first byte; who speaks in the clear gets nothing but an alert."""
    house.tls(*authority().certificate('localhost', '127.0.0.1'))
    with open(tmp_path / 'log', 'wb') as log:
        port = house.serve(log, POP3S='1')
        pop = poplib.POP3_SSL('127.0.0.1', port, timeout=30, context=trusting())
        pop.user('joe')
        pop.pass_(PASSWORD.decode())
        assert pop.stat()[0] == 3
        pop.quit()
        with socket.create_connection(('127.0.0.1', port), 30) as sock:
            sock.sendall(b'USER joe\r\nPASS x\r\n')
            assert b'+OK' not in sock.makefile('rb').read()
        assert [process.wait(20) for process in house.processes[1:]] == [1, 1]
    assert 'qpy-popup: refused tls ip 192.0.2.7: ' in (tmp_path / 'log').read_text()


def test_what_was_said_before_tls_does_not_count(house, tmp_path):
    """Commands behind STLS in the same packet are no TLS: the handshake fails, nobody is logged in (CVE-2011-0411)."""
    house.tls(*authority().certificate('localhost', '127.0.0.1'))
    with open(tmp_path / 'log', 'wb') as log:
        with socket.create_connection(('127.0.0.1', house.serve(log)), 30) as sock:
            sock.sendall(b'STLS\r\nUSER joe\r\nPASS %s\r\nSTAT\r\n' % PASSWORD)
            said = sock.makefile('rb').read()
        assert house.processes[-1].wait(20) == 1
    assert said.count(b'+OK') == 2 and b'+OK begin TLS' in said and b'served' not in (tmp_path / 'log').read_bytes()


def test_without_a_way_to_tls(house, tmp_path):
    """No qpy-tls: STLS is neither offered nor taken, FORCETLS lets nobody in, POP3S closes."""
    with open(tmp_path / 'log', 'wb') as log:
        pop = poplib.POP3('127.0.0.1', house.serve(log, FORCETLS='1'), timeout=30)
        assert not {'STLS', 'USER'} & set(pop.capa())
        for line in ('STLS', 'USER joe'):
            with pytest.raises(poplib.error_proto, match='no TLS here|STLS first'):
                pop._shortcmd(line)
        pop.quit()
        _, sock = house.session('popup', 'h', 'true', stderr=log, env={'POP3S': '1'})
        assert sock.makefile('rb').read() == b''
    assert 'refused tls ip 192.0.2.7: there is no TLS' in (tmp_path / 'log').read_text()


INTERFACE = 'cat <&3 | tr "\\0" "|" > "%s"; echo "+OK program"; exit 0'


def test_the_checkpassword_interface(house):
    """Another program gets name, secret and banner on descriptor 3, and the client; APOP is offered to it."""
    got = house.home + '/got'
    process, sock = house.session('popup', 'h.example', 'sh', '-c', INTERFACE % got, stderr=subprocess.PIPE)
    file = sock.makefile('rwb', buffering=0)
    banner = file.readline()
    assert re.fullmatch(rb'\+OK <\d+\.\d+@h\.example>\r\n', banner)
    file.write(b'APOP joe 0123\r\n')
    assert file.readline() == b'+OK program\n' and file.read() == b'' and process.wait(20) == 1
    with open(got, 'rb') as file:
        assert file.read() == b'joe|0123|' + banner[4:-2] + b'|'


@pytest.mark.parametrize('script, words', [
    ('exit 1', b'authorization failed'), pytest.param('exit 111', b'authorization failed', marks=pytest.mark.slow),
    ('kill -9 $$', b'aack, child crashed')])
def test_what_the_program_says(house, script, words):
    """Any exit but 0 is a refusal, a signal a crash."""
    process, sock = house.session('popup', 'h', 'sh', '-c', script, stderr=subprocess.DEVNULL)
    sock.sendall(b'USER joe\r\nPASS x\r\n')
    assert sock.makefile('rb').read().endswith(b'-ERR ' + words + b'\r\n') and process.wait(20) == 1


def test_a_client_that_does_not_log_in(house, tmp_path):
    """The program is never started."""
    process, sock = house.session('popup', 'h', 'sh', '-c', 'touch %s/ran' % house.home)
    sock.sendall(b'QUIT\r\n')
    assert sock.makefile('rb').read().endswith(b'+OK \r\n') and process.wait(20) == 1
    process, sock = house.session('popup', 'h', 'sh', '-c', 'touch %s/ran' % house.home)
    sock.close()
    assert process.wait(20) == 1 and not os.path.exists(house.home + '/ran')
    process, sock = house.session('popup', 'h')
    assert sock.makefile('rb').read() == b'-ERR usage: popup hostname subprogram\r\n' and process.wait(20) == 1


def test_a_message_that_moves(house):
    """Read or marked by another program meanwhile, it is found again; removed, it is an error, and QUIT is
    content."""
    process, file, sock = pop3d(house)
    assert file.readline() == b'+OK \r\n'
    os.rename(house.home + '/joe/Maildir/new/2.b.host', house.home + '/joe/Maildir/cur/2.b.host:2,S')
    file.write(b'TOP 2 0\r\n')
    assert [file.readline() for _ in range(4)] == [b'+OK \r\n', b'Subject: two\r\n', b'\r\n', b'.\r\n']
    os.unlink(house.home + '/joe/Maildir/new/3.c.host')
    file.write(b'RETR 3\r\nDELE 3\r\nDELE 2\r\nQUIT\r\n')
    assert [file.readline() for _ in range(4)] == [b'-ERR unable to open that message\r\n'] + [b'+OK \r\n'] * 3
    assert process.wait(20) == 0 and house.names('cur') == ['1.a.host:2,S']


def test_all_have_moved(tmp_path, monkeypatch):
    """However many are not where they were: QUIT lists new and cur once, a message that is asked for once more."""
    for part in ('new', 'cur', 'tmp'):
        (tmp_path / part).mkdir()
    names = [b'%d.host' % n for n in range(20)]
    monkeypatch.chdir(tmp_path)
    for name in names:
        (tmp_path / 'new' / os.fsdecode(name)).write_bytes(name)
    box = pop3d_.Box(pop3d_.scan(int(time.time()) + 2))
    numbers = {path[4:]: number for number, (_, path, _) in enumerate(box.messages)}
    for name in names[:19]:
        os.rename(b'new/' + name, b'cur/' + name + b':2,S')
    os.unlink(b'cur/2.host:2,S')
    listed, listdir = [], os.listdir
    monkeypatch.setattr(unix, 'listdir', lambda path: listed.append(path) or listdir(path))
    for name in (b'19.host', b'0.host', b'1.host'):
        with open(box.open(numbers[name]), 'rb') as file:
            assert file.read() == name
    with pytest.raises(FileNotFoundError):
        box.open(numbers[b'2.host'])
    assert len(listed) == 4
    assert box.finish({numbers[name] for name in (b'1.host', b'2.host', b'3.host')}) and len(listed) == 6
    assert sorted(os.listdir(b'cur')) == sorted(name + b':2,S' * (name != b'19.host') + b':2,' * (name == b'19.host')
                                                for name in names if name not in names[1:4]) and os.listdir(b'new') == []
    (tmp_path / 'new/0.host').touch()
    twins = pop3d_.Box(pop3d_.scan(int(time.time()) + 2))
    assert twins.finish({[path for _, path, _ in twins.messages].index(b'new/0.host')}) and b'0.host:2,S' in os.listdir(b'cur')
    os.rename('cur', 'away')
    assert not box.finish({numbers[b'0.host']}) and box.finish(set())


def test_what_is_not_listed(house):
    """Hidden files and messages of this second; old files in tmp are removed, young ones stay."""
    house.mail('new/.hidden', b'x')
    house.mail('new/9.future', b'x', -100)
    for name, age in (('old', 200000), ('young', 10)):
        house.mail('tmp/' + name, b'x', age)
    process, file, sock = pop3d(house)
    file.readline()
    file.write(b'STAT\r\nQUIT\r\n')
    assert file.readline().startswith(b'+OK 3 ') and process.wait(20) == 0
    assert house.names('tmp') == ['young'] and '.hidden' in house.names('new')


def test_no_maildir(house):
    """A directory that is not there, or is no Maildir."""
    for path, words in (('/joe/absent', b'-ERR this user has no $HOME/Maildir\r\n'),
                        ('/joe', b'-ERR unable to scan $HOME/Maildir\r\n')):
        process, sock = house.session('pop3d', house.home + path)
        assert sock.makefile('rb').read() == words and process.wait(20) == 0


def test_unlink_that_fails(house):
    """QUIT says so, once."""
    process, file, sock = pop3d(house)
    file.readline()
    file.write(b'DELE 1\r\n')
    file.readline()
    os.chmod(house.home + '/joe/Maildir/cur', 0o555)
    file.write(b'QUIT\r\n')
    assert file.read() == b'-ERR unable to unlink all deleted messages\r\n' and process.wait(20) == 0
    os.chmod(house.home + '/joe/Maildir/cur', 0o755)


# --- checkpassword and passwd -------------------------------------------------------------------------------

def check(house, data, *words):
    """The finished qpy-checkpassword with these bytes on descriptor 3."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    script = 'exec 3<&%d %d<&-; exec "$@"' % (read, read) if read != 3 else 'exec "$@"'
    account = {'user': OWNER, 'group': OWNER,
               'extra_groups': []} if os.geteuid() == 0 and not house.rooted else {}
    done = subprocess.run(['bash', '-c', script, 'sh', SOURCE + '/bin/qpy-checkpassword', *words],
                          pass_fds=[read], timeout=30,
                          capture_output=True, env={'PATH': '/usr/bin:/bin', 'QPYHOME': house.home},
                          **account)
    os.close(read)
    return done


GOOD = b'joe\0' + PASSWORD + b'\0' + b'x\0'


def test_checkpassword(house):
    """The right password: USER, HOME, SHELL are set, the home is the directory, and the program runs."""
    done = check(house, GOOD, 'sh', '-c', 'echo $USER $HOME $SHELL $(pwd); exit 7')
    home = house.home + '/joe'
    assert done.returncode == 7 and done.stdout.decode().split() == ['joe', home, '/bin/sh', home]


@pytest.mark.parametrize('data, code', [(b'joe\0wrong\0x\0', 1), (b'ann\0x\0x\0', 1), (b'', 2),
                                        (b'joe\0x', 2), (b'x' * 600, 2)])
def test_checkpassword_refuses(house, data, code):
    """1: not his password, or nobody's; 2: not the interface."""
    done = check(house, data, 'true')
    assert done.returncode == code and bool(done.stderr) == (code == 2)


def test_checkpassword_in_trouble(house):
    """A broken file, a program that cannot be run: 111; no program: 2; no file: nobody can log in."""
    assert check(house, GOOD, '/no/such').returncode == 111 and check(house, GOOD).returncode == 2
    house.write('users/passwd', 'joe:plain\n')
    assert check(house, GOOD, 'true').returncode == 111
    os.unlink(house.home + '/users/passwd')
    assert check(house, GOOD, 'true').returncode == 1


def test_unknown_names_cost_the_same(house):
    """Time does not tell who exists: an unknown name takes no less than half the time of a known one."""
    spent = {}
    for name in (b'joe', b'nobody'):
        began = time.monotonic()
        for _ in range(3):
            check(house, name + b'\0wrong\0x\0', 'true')
        spent[name] = time.monotonic() - began
    assert spent[b'nobody'] > spent[b'joe'] / 2


def passwd(house, *words, stdin=b''):
    account = {'user': OWNER, 'group': OWNER, 'extra_groups': []} if os.geteuid() == 0 else {}
    return subprocess.run([SOURCE + '/bin/qpy-passwd', *words], input=stdin, capture_output=True, timeout=30,
                          env={'PATH': '/usr/bin:/bin', 'QPYHOME': house.home}, **account)


def test_passwd(house):
    """Sets, changes and removes an entry, in a file that only its owner and group can read; a strange name gets a
    warning."""
    done = passwd(house, 'joe', stdin=b'new one\n')
    with open(house.home + '/users/passwd', 'rb') as file:
        assert done.returncode == 0 and (b'\njoe:$scrypt$' if b'libargon2' in done.stderr else b'\njoe:$argon2id$') in file.read()
    assert check(house, b'joe\0new one\0x\0', 'true').returncode == 0
    assert check(house, GOOD, 'true').returncode == 1
    assert os.stat(house.home + '/users/passwd').st_mode & 0o777 == 0o640       # its group is qpy-auth's
    done = passwd(house, 'stranger', stdin=b'x\n')
    assert done.returncode == 0 or b'warning' in done.stderr
    assert passwd(house, '-d', 'joe').returncode == 0
    assert check(house, b'joe\0new one\0x\0', 'true').returncode == 1


def test_passwd_refuses(house):
    """Wrong use, no password, an impossible name: 100, and the file stays; a broken file is not written
    anew."""
    with open(house.home + '/users/passwd', 'rb') as file:
        before = file.read()
    for words, stdin in (((), b''), (('-x', 'joe'), b'x\n'), (('joe',), b'\n'), (('a:b',), b'x\n'),
                         (('a', 'b'), b'x\n')):
        assert passwd(house, *words, stdin=stdin).returncode == 100
    with open(house.home + '/users/passwd', 'rb') as file:
        assert file.read() == before
    house.write('users/passwd', 'broken\n')
    assert passwd(house, 'joe', stdin=b'x\n').returncode == 111


# --- as root ------------------------------------------------------------------------------------------------

@pytest.mark.root
def test_started_as_root(tmp_path):
    """What reads the network is no longer root, and who is served is the user with his group alone; pop3d
    refuses root."""
    house = House(rooted=True)
    try:
        script = 'id -u; id -G; grep NoNewPrivs /proc/self/status'
        process, sock = house.session('popup', 'h', 'qpy-checkpassword', 'sh', '-c', script,
                                      stderr=subprocess.PIPE)
        file = sock.makefile('rwb', buffering=0)
        assert file.readline() == b'+OK \r\n'
        with open('/proc/%d/status' % process.pid) as status:
            uids = re.search(r'Uid:\t(.*)', status.read()).group(1).split()
        assert len(set(uids)) == 1 and uids[0] != '0'
        file.write(b'USER joe\r\n')
        file.readline()
        file.write(b'PASS %s\r\n' % PASSWORD)
        assert file.read().split() == [b'%d' % OWNER, b'%d' % OWNER, b'NoNewPrivs:', b'1']
        done = subprocess.run([SOURCE + '/bin/qpy-pop3d', house.home + '/joe/Maildir'], capture_output=True)
        assert done.returncode == 1 and done.stderr == b'qpy-pop3d invoked as uid 0, terminating\n'
        assert check(house, b'joe\0wrong\0x\0', 'true').returncode == 1
    finally:
        house.stop()


@pytest.mark.root
def test_stls_as_root(tmp_path):
    """Three accounts and the user: qpy-tls takes the client from who is qpyd, and the program that becomes the user speaks
    to qpy-tls."""
    house = House(rooted=True)
    try:
        house.tls(*authority().certificate('localhost', '127.0.0.1'))
        house.mail('new/1.host', ONE)
        with open(tmp_path / 'log', 'wb') as log:
            pop = poplib.POP3('127.0.0.1', house.serve(log, FORCETLS='1'), timeout=30)
            pop.stls(trusting())
            pop.user('joe')
            pop.pass_(PASSWORD.decode())
            assert pop.retr(1)[1] == [b'Subject: one', b'', b'.dot', b'body']
            pop.quit()
            assert house.processes[-1].wait(20) == 1
        assert (tmp_path / 'log').read_text() == 'qpy-popup: served ip 192.0.2.7 user joe tls\n'
    finally:
        house.stop()
