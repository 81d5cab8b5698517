"""P01-P46, seen from outside: /proc of the running chain against the manifest, and what a local user can do to it."""
import contextlib
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), 'chain')]
import houses  # noqa: E402
from qpy.core import channel, manifest, services  # noqa: E402
from tests.peers import optional  # noqa: E402

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
ANN, BOB = 54031, 54032
ROWS = {row.name.decode(): row for row in manifest.rows()}
NETSTRINGS = ('qmtpd', 'qmqpd')         # whose workers are under one line
OTHERWISE = {'remote-bound', 'rspawn-programs', 'auth-dovecot', 'auth-programs'}     # where control files say so
MARK = 'xq7markerofthismessage'
TAG = sys.implementation.cache_tag


@pytest.fixture(scope='module')
def running():
    house = houses.Rooted(users={'ann': (ANN, ANN), 'bob': (BOB, BOB)},
                          routes='wait.test:127.0.0.1:%d\n' % houses.free_port())
    try:
        qmtp = houses.free_port()
        house.write('control/services', 'smtpd qpyd tcp:127.0.0.1:%d qpy-smtpd\n' % house.port
                    + optional.INSIDE + optional.netstrings('127.0.0.1:%d' % qmtp, '127.0.0.1:%d' % houses.free_port()))
        house.start()
        house.client = socket.create_connection(('127.0.0.1', qmtp))         # who has a process of his own
        house.smtp('ann@here.test', text='first')
        house.await_message('ann/Maildir', 'first')
        house.sendmail('someone@wait.test', text='Subject: x\n\nof bob\n', uid=BOB, gid=BOB)
        house.await_line('deferral')
        yield house
        house.client.close()
        assert house.stop() == 0
    finally:
        house.remove()


def python_as(uid, code, *words, home=None, **more):
    """What this Python code prints, run as a user."""
    done = subprocess.run(['/usr/bin/python3', '-I', '-c', code, *map(str, words)], user=uid, group=uid, extra_groups=[],
                          capture_output=True, text=True, timeout=60, cwd='/', **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def processes(house):
    """[(name of its line in the manifest, pid)]: of users' processes `local`, of servers' runners `runner`."""
    found = [('start', house.process.pid)]
    for name, pid in house.daemons().items():
        line = 'qmtpd' if name in NETSTRINGS else name
        master = 'smtpd-master' if name in NETSTRINGS else name + '-master'
        found.append((master if master in ROWS else name, pid))
        for child in houses.descendants(pid):
            first = parent(child) == pid
            own = {'seed': 'local', 'rspawn': 'remote', 'smtpd': 'smtpd' if first else 'runner',
                   'qmtpd': master if first else line, 'qmqpd': master if first else line}.get(name, line)
            found.append((own, child))
    return found


def parent(pid):
    return int(houses.status(pid)['PPid'])


def lines(house):
    """[(Row, pid)] of the processes that have a line."""
    return [(manifest.row(name.encode()), pid) for name, pid in processes(house) if name not in ('local', 'runner')]


# --- /proc against the manifest ----------------------------------------------------------------------------------

def test_ps_shows_what_a_process_is(running):
    """What the seed and qpy-rspawn have forked has the name of its own program for ps -e, top and pgrep."""
    for name, pid in processes(running):
        with open('/proc/%d/comm' % pid) as file:
            assert name not in ('local', 'remote', 'seed', 'rspawn') or file.read() == 'qpy-%s\n' % name


def test_every_line_is_a_process(running):
    """Each line of the manifest whose program is in the table of services is seen in the chain."""
    with open(running.home + '/control/services', 'rb') as file:
        known = {service.name.decode() for service in services.table(file.read())} | {'start', 'log', 'remote'}
    expected = {row.name for name, row in ROWS.items() if name.removesuffix('-master') in known and name not in OTHERWISE}
    running.await_that(lambda: {row.name for row, _ in lines(running)} == expected, 'chain of %s' % expected)


def test_accounts_filters_and_limits_are_the_manifests(running):
    """Account, no_new_privs, no capability, a seccomp filter, no core, no new process, sizes of files, memory."""
    test_every_line_is_a_process(running)
    for row, pid in lines(running):
        found, name = houses.status(pid), row.name.decode()
        assert int(found['Uid'].split()[0]) == pwd.getpwnam(row.account.decode()).pw_uid, name
        assert found['NoNewPrivs'] == '1', name
        if row.name != b'seed':
            assert found['Seccomp'] == '2' and int(found['CapPrm'], 16) == int(found['CapBnd'], 16) == 0, name
        limits = limits_of(pid)
        assert limits['Max core file size'] == '0', name
        assert (limits['Max processes'] == '0') == (row.children == b'none'), name
        assert (limits['Max file size'] == '0') == (not row.writes), name
        assert limits['Max address space'] == (str(row.memory) if row.memory else 'unlimited'), name


def limits_of(pid):
    """{what: soft limit}."""
    with open('/proc/%d/limits' % pid) as file:
        return {line[:26].strip(): line[26:47].strip() for line in file}


def test_namespaces_are_the_manifests(running):
    """`empty` is one network namespace that is not the host's; `mail` another user namespace."""
    here = os.readlink('/proc/self/ns/net'), os.readlink('/proc/self/ns/user')
    spaces = {}
    for row, pid in lines(running):
        spaces.setdefault(row.where, set()).add(tuple(os.readlink('/proc/%d/ns/%s' % (pid, kind))
                                                      for kind in ('net', 'user')))
    if spaces[b'empty'] == {here} or spaces[b'mail'] == {here}:
        pytest.skip('namespaces are forbidden here')
    assert spaces[b'host'] == {here} and len(spaces[b'empty']) == len(spaces[b'mail']) == 1
    assert {net for net, _ in spaces[b'empty']} != {here[0]} and {user for _, user in spaces[b'mail']} != {here[1]}


def test_open_files_are_the_manifests(running):
    """No process holds a file that its line does not let it read: pipes, sockets, /dev/null, its places, its lock."""
    own = {b'start': ['queue/lock'], b'queued': ['queue/mess'], b'clean': ['queue/mess', 'queue/state', 'queue/damaged'],
           b'bouncer': ['queue/mess', 'queue/state']}
    for row, pid in lines(running):
        places = [os.fsdecode(path) for path, _ in manifest.paths(os.fsencode(running.home), row.files or [])]
        places += [os.path.join(running.home, name) for name in own.get(row.name, ())]
        for target in targets(pid):
            if target[:1] == '/' and target != '/dev/null' and not target.startswith('/memfd:'):
                assert any(target == place or target.startswith(place + '/') for place in places), (row.name, target)


def test_a_worker_holds_nothing_of_the_seed(running):
    """A user's process has the log, its socket and a loop of its own: not the seed's loop, wake-up or life pipe."""
    running.sendmail('ann@here.test', text='Subject: x\n\nfor its descriptors\n', uid=BOB, gid=BOB)
    running.await_message('ann/Maildir', 'for its descriptors')
    (seed,) = [pid for name, pid in processes(running) if name == 'seed']
    workers = [pid for name, pid in processes(running) if name == 'local' and houses.status(pid)['Uid'].split()[0] == str(ANN)]
    assert workers
    for pid in workers:
        held = [os.readlink('/proc/%d/fd/%s' % (pid, fd)) for fd in os.listdir('/proc/%d/fd' % pid) if int(fd) > 2]
        assert held.count('anon_inode:[eventpoll]') == 1
        assert not {*held} & {*targets(seed)} - {'anon_inode:[eventpoll]'}


def test_confined_programs_stand_in_run(running):
    """Who reaches neighbours by bare names stands in DIR/run; the others in /."""
    for row, pid in lines(running):
        there = running.home + '/run' if row.connects == b'run' else '/'
        assert os.readlink('/proc/%d/cwd' % pid) == there, row.name


def test_P02_nobody_is_root(running):
    """After start no process has uid 0 in any place, nor any capability but the seed's two in its namespace."""
    for name, pid in processes(running):
        found = houses.status(pid)
        assert '0' not in found['Uid'].split(), name
        held = int(found['CapPrm'], 16) | int(found['CapEff'], 16) | int(found['CapAmb'], 16)
        assert held == (1 << 6 | 1 << 7 if name == 'seed' else 0), name


# --- the start -----------------------------------------------------------------------------------------------------

BROKEN = """\
#!/usr/bin/python3 -IS
import sys
sys.path.insert(0, %r)
from qpy import unix, unix_kernel
%s
from qpy.lib import program
program.run('qpy.root.start', %r)
"""


@pytest.mark.parametrize('fault, said', [
    ('unix.setgroups = lambda groups: None', 'supplementary groups are left'),
    ('unix.setresuid = lambda *ids: None', 'uid or gid is still another'),
    ('unix_kernel.no_new_privs = lambda: None', 'no_new_privs is not set'),
    ('unix_kernel.clear_capabilities = lambda: None\nunix_kernel.drop_bounding_set = lambda: None\n'
     'old = unix.setresuid\nunix.setresuid = lambda *ids: (unix_kernel.prctl(8, 1), old(*ids))',
     'capabilities are left'),
    ('unix_kernel.drop_bounding_set = lambda: None', 'the bounding set is not empty'),
    ('unix_kernel.set_dumpable = lambda flag: None\nunix.setresuid = (lambda old: lambda *ids: (old(*ids), unix_kernel.prctl(4, 1)))('
     'unix.setresuid)', 'it could be traced, or leave a core file'),
    ('from qpy.lib import confine\nconfine.no_core = lambda: None\nunix.set_limit("CORE", 1, 1)', 'it could be traced, or leave a core file')])
def test_P03_a_child_that_did_not_drop_ends_the_start(fault, said):
    """A child whose groups, uid, no_new_privs, capabilities, bounding set, dumpable flag or core limit are not as its table says ends with 111, and the chain
    with it."""
    house = houses.Rooted(users={'ann': (ANN, ANN)})
    try:
        launcher = house.home + '/bin/qpy-broken'
        with open(launcher, 'w') as file:
            file.write(BROKEN % (house.home + '/lib', fault, house.home))
        os.chmod(launcher, 0o755)
        done = subprocess.run([launcher], capture_output=True, text=True, timeout=60, env={}, cwd='/', extra_groups=[4])
        assert done.returncode == 111
        assert said in done.stdout + done.stderr and 'status: local' not in done.stdout
    finally:
        house.remove()


@pytest.mark.parametrize('name, mode', [('control', 0o777), ('bin', 0o775), ('lib/qpy/core', 0o777),
                                        ('lib/qpy/unix.py', 0o666), ('control/me', 0o666), ('users', 0o777),
                                        ('bin/qpy-seed', 0o777), ('bin/qpy-ctl', 0o775), ('bin/qpy-send', ANN),
                                        ('lib/qpy/root/__pycache__/start.%s.pyc' % TAG, 0o666),
                                        ('lib/qpy/lib/__pycache__/loop.%s.pyc' % TAG, ANN),
                                        ('lib/site/more/fast.abi3.so', 0o666), ('lib/site/more/__init__.py', ANN)])
def test_P04_start_refuses_what_others_can_write(name, mode):
    """start does not start where control/, users/, launchers, or code, compiled too, can be changed by others, by its mode or
    because it is ann's; it names the remedy."""
    house = houses.Rooted(users={'ann': (ANN, ANN)})
    try:
        path = os.path.join(house.home, name)
        if name.startswith('lib/site/'):
            os.makedirs(os.path.dirname(path))
            house.write(name, '')
        os.chmod(path, mode) if mode != ANN else os.chown(path, ANN, -1)
        done = house.as_owner(house.home + '/bin/qpy-start', check=False)
        assert (done.returncode == 111 and (b'; chown root ' if mode == ANN else b'; chmod ') in done.stderr
            and done.stderr.endswith(b' %s\n' % path.encode()))
    finally:
        house.remove()


def test_start_needs_no_more_than_its_unit_gives(running):
    """With the bounding set and no_new_privs of qpy.service the chain starts, and a user's mail arrives."""
    from qpy.core import units
    (line,) = [line for line in units.START.decode().split('\n') if line.startswith('CapabilityBoundingSet=')]
    held = ','.join('+' + word.removeprefix('CAP_').lower() for word in line.partition('=')[2].split())
    house = houses.Rooted(users={'ann': (ANN, ANN)})
    launcher = house.home + '/bin/qpy-start'
    try:
        os.rename(launcher, launcher + '-bound')
        with open(launcher, 'w') as file:
            file.write('#!/bin/sh\nexec setpriv --no-new-privs --bounding-set=-all,%s /usr/bin/python3 -IS %s-bound\n'
                       % (held, launcher))
        os.chmod(launcher, 0o755)
        house.start()
        house.smtp('ann@here.test', text='with less')
        house.await_message('ann/Maildir', 'with less')
        house.sendmail('ann@here.test', text='Subject: x\n\nby hand\n', uid=ANN, gid=ANN)
        house.await_message('ann/Maildir', 'by hand')
        assert os.readlink('/proc/%d/ns/user' % next(pid for name, pid in named(house) if name == 'seed')) \
            != os.readlink('/proc/self/ns/user')
        assert house.stop() == 0
    finally:
        house.remove()


def named(house):
    """[(program, pid)] below start."""
    return [(houses.name_of(pid), pid) for pid in houses.descendants(house.process.pid)]


# --- submission ------------------------------------------------------------------------------------------------------

FORGE = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1] + '/run/submit')
body = b'Subject: x\\n\\nforged by ann\\n'
sock.sendall(b'\\1' + len(body).to_bytes(4, 'big') + body + bytes(4)
             + b'Fa@b.test\\0u0\\0p1\\0t1\\0Lroot\\0C9.9.9.9\\0Tbob@here.test\\0\\0')
print(sock.recv(1000))
"""


def test_P08_P46_nobody_forges_who_submitted(running):
    """uid, pid and time of an envelope are the kernel's, whatever the client claims; a login or a client's address is
    believed from smtpd alone."""
    assert "K" in python_as(ANN, FORGE, running.home)
    message = running.await_message('bob/Maildir', 'forged by ann').decode()
    assert 'invoked by uid %d' % ANN in message and 'invoked by uid 0' not in message and '9.9.9.9' not in message
    assert any('uid %d' % ANN in line for line in running.lines)


def targets(pid):
    """What the descriptors of a process lead to; one may be closed while we look."""
    found = []
    for fd in os.listdir('/proc/%d/fd' % pid):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink('/proc/%d/fd/%s' % (pid, fd)))
    return found


def test_P14_queued_takes_no_descriptor(running):
    """Descriptors that a client sends along never arrive."""
    code = ("import socket, sys, array\nsock = socket.socket(socket.AF_UNIX)\nsock.connect(sys.argv[1] + '/run/submit')\n"
            "f = open('/etc/hostname')\ntry:\n    sock.sendmsg([b'\\1'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, "
            "array.array('i', [f.fileno()] * 9).tobytes())])\nexcept OSError:\n    print('refused'); raise SystemExit\n"
            "sock.sendall(bytes(4))\nsock.settimeout(1)\nprint('sent')\ninput()\n")
    with subprocess.Popen(['/usr/bin/python3', '-I', '-c', code, running.home], user=ANN, group=ANN, extra_groups=[],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        client.stdout.readline()
        held = targets(running.daemons()['queued'])
        client.communicate('\n')
    assert '/etc/hostname' not in held


MANY = """
import select, socket, sys
socks = []
for i in range(int(sys.argv[2])):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1] + '/run/submit')
    sock.setblocking(False)
    try:
        sock.send(b'\\1')
    except OSError:
        pass
    socks.append(sock)
print('here', flush=True)
input()
"""


def test_P15_one_user_leaves_room_for_the_others(running):
    """A user with hundreds of connections has only his share; another's message is taken meanwhile."""
    with subprocess.Popen(['/usr/bin/python3', '-I', '-c', MANY, running.home, '400'], user=ANN, group=ANN,
                          extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == 'here\n'
        running.sendmail('bob@here.test', text='Subject: x\n\nmeanwhile\n', uid=BOB, gid=BOB)
        running.await_message('bob/Maildir', 'meanwhile')
        pid = running.daemons()['queued']
        assert len(os.listdir('/proc/%d/fd' % pid)) < 160
        client.communicate('\n')


CROWD = """
import os, socket, sys
held = []
for uid in range(55001, 55001 + int(sys.argv[3])):
    os.setresgid(uid, uid, 0)
    os.setresuid(uid, uid, 0)
    for _ in range(8):
        sock = socket.socket(socket.AF_UNIX, getattr(socket, sys.argv[2]))
        sock.settimeout(20)
        sock.connect(sys.argv[1])
        held.append(sock)
    os.setresuid(0, 0, 0)
    os.setresgid(0, 0, 0)
print('here', flush=True)
input()
"""


@contextlib.contextmanager
def crowd(house, name, kind, uids):
    """So many users with eight idle connections each."""
    with subprocess.Popen(['/usr/bin/python3', '-I', '-c', CROWD, house.home + '/run/' + name, kind, str(uids)],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
        assert clients.stdout.readline() == 'here\n'
        yield
        clients.communicate('\n')


def test_P15_many_users_leave_room_at_control(running):
    """Nine users with all they may have of run/control, saying nothing: root's mailq has its answer, and another user's."""
    with crowd(running, 'control', 'SOCK_STREAM', 9):
        assert 'someone@wait.test' in running.as_owner(running.home + '/bin/qpy-mailq').stdout.decode()
        for _ in range(3):
            assert 'someone@wait.test' in running.as_owner(running.home + '/bin/qpy-mailq', uid=BOB, gid=BOB).stdout.decode()


ASK = """
import os, socket, sys
os.setresuid(int(sys.argv[2]), int(sys.argv[2]), 0)
for number in range(6):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(20)
    sock.connect(sys.argv[1])
    sock.send(b'Q%d\\0ann@here.test\\0' % number)
    print(sock.recv(1000).split(b'\\0')[1].decode())
"""


def test_P15_many_users_leave_room_at_exists(running):
    """Thirty users with eight connections each to run/exists, more than there are places: root, an account of ours and
    another user have their answers of each process."""
    with crowd(running, 'exists', 'SOCK_SEQPACKET', 30):
        for uid in (0, pwd.getpwnam('qpyd').pw_uid, BOB):
            done = running.as_owner('/usr/bin/python3', '-I', '-c', ASK, running.home + '/run/exists', str(uid))
            assert done.stdout.split() == [b'yes'] * 6


def test_P16_P40_nothing_is_set_user_id(running):
    """No file of the installation has a set-user-id or set-group-id bit or capabilities; its tools run as the caller,
    with no capability at all."""
    for directory, directories, files in os.walk(running.home):
        for name in files + directories:
            path = os.path.join(directory, name)
            assert not os.lstat(path).st_mode & (stat.S_ISUID | stat.S_ISGID), path
            if not os.path.islink(path):
                assert 'security.capability' not in os.listxattr(path), path
    script = os.path.join(running.top, 'filter')
    with open(script, 'w') as file:
        file.write('#!/bin/sh\n{ id -ru; id -u; id -G; grep CapPrm /proc/self/status; } >"$SAID"\ncat >/dev/null\n')
    os.chmod(script, 0o755)
    for tool in ('sendmail', 'qpy-inject'):
        said = os.path.join(running.user_homes['ann'], 'said-' + tool)
        done = running.as_owner(running.home + '/bin/' + tool, 'bob@here.test', data=b'Subject: x\n\nx\n', uid=ANN, gid=ANN,
                                env={'QMAILQUEUE': script, 'SAID': said, 'PATH': '/usr/bin:/bin'}, check=False)
        assert os.path.exists(said), done.stderr
        with open(said) as file:
            assert file.read().split() == [str(ANN)] * 3 + ['CapPrm:', '0' * 16], tool


SEND = ['Subject: x\n\n%s\n', 'bob@here.test']


@pytest.mark.parametrize('way', ['no_new_privs', 'nosuid', 'user namespace'])
def test_P17_submission_works_where_nobody_can_rise(running, way):
    """sendmail works under no_new_privs, on a nosuid mount, and inside a user namespace, and is stamped with the uid
    that the kernel sees."""
    tool, text = running.home + '/bin/sendmail', 'from ' + way.replace(' ', '')
    words = {'no_new_privs': ['setpriv', '--no-new-privs', '--reuid', str(ANN), '--regid', str(ANN), '--clear-groups', tool],
             'nosuid': ['unshare', '-m', 'sh', '-c', 'mount --bind "$0/bin" "$0/bin" && mount -o remount,bind,nosuid '
                        '"$0/bin" && exec setpriv --reuid %d --regid %d --clear-groups "$0/bin/sendmail" "$1"' % (ANN, ANN),
                        running.home],
             'user namespace': ['setpriv', '--reuid', str(ANN), '--regid', str(ANN), '--clear-groups', 'unshare', '-U', '-r',
                                tool]}[way]
    if way == 'user namespace' and subprocess.run(words[:-1] + ['true'], capture_output=True).returncode:
        pytest.skip('user namespaces are forbidden to plain users here')
    done = subprocess.run([*words, 'bob@here.test'], input='Subject: x\n\n%s\n' % text, text=True, capture_output=True,
                          timeout=60, env={'PATH': '/usr/sbin:/usr/bin:/sbin:/bin'}, cwd='/')
    assert done.returncode == 0, done.stderr
    assert b'invoked by uid %d' % ANN in running.await_message('bob/Maildir', text)


def test_P18_no_mail_for_an_impostor(tmp_path):
    """A client that finds somebody else behind run/submit says nothing to him and fails."""
    home = '/tmp/qpy-impostor-%d' % os.getpid()
    try:
        for name in ('', '/run', '/queue', '/queue/mess', '/control'):
            os.makedirs(home + name, exist_ok=True)
        os.chmod(home + '/run', 0o777)
        os.chown(home + '/queue/mess', 54099, 54099)             # whoever should serve
        code = ("import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1] + '/run/submit')\ns.listen()\n"
                "print('up', flush=True)\ns.settimeout(30)\nc = s.accept()[0]\nc.settimeout(30)\nprint(len(c.recv(9999)))\n")
        with subprocess.Popen(['/usr/bin/python3', '-I', '-c', code, home], user=ANN, group=ANN, extra_groups=[],
                              stdout=subprocess.PIPE, text=True, umask=0) as impostor:
            assert impostor.stdout.readline() == 'up\n'
            client = 'import sys; sys.path.insert(0, %r); from qpy.lib import submit; print(submit.send(%r, b"", [b"a@b.test"], b"x"))'
            done = subprocess.run(['/usr/bin/python3', '-I', '-c', client % (houses.SOURCE, home.encode())],
                                  capture_output=True, text=True, timeout=60)
            assert impostor.stdout.read() == '0\n'
        code = int(done.stdout.partition(',')[0].strip('('))
        assert code and not 11 <= code <= 40, done.stdout
    finally:
        shutil.rmtree(home)


# --- clean, lspawn, seed, users ------------------------------------------------------------------------------------

def ask_clean(running, *requests):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(running.home + '/run/clean')
    answers = b''
    for request in requests:
        sock.sendall(request + b'\0')
        answers += sock.recv(1)
    sock.close()
    return answers


def test_P22_clean_knows_two_verbs_and_canonical_IDs(running):
    """Whatever is not r or s and sixteen digits is refused, and removes nothing."""
    ident = running.queue()[0].encode()
    before = running.queue()
    assert ask_clean(running, b'x' + ident, b'r' + ident[:-1], b'r../mess/' + ident[:8], b'r' + ident[:-1] + b'/', b'R' + ident,
                     b'', b'r', b's' + ident[:15] + b'.') == b'x' * 8
    assert running.queue() == before


def test_P23_clean_removes_nothing_unfinished(running):
    """A message whose state does not say that every recipient is finished stays, whatever send says."""
    ident = running.queue()[0].encode()
    before = running.queue()
    assert ask_clean(running, b'r' + ident, b's' + ident) == b'xx'
    assert running.queue() == before


def memory(pid):
    """All that a process has written in its memory; nothing if it has ended."""
    found = []
    if not os.path.exists('/proc/%d/maps' % pid):
        return b''
    with open('/proc/%d/maps' % pid) as maps, open('/proc/%d/mem' % pid, 'rb', 0) as mem:
        for line in maps:
            span, modes = line.split()[:2]
            start, end = (int(word, 16) for word in span.split('-'))
            if 'r' in modes and 'w' in modes:
                try:
                    mem.seek(start)
                    found.append(mem.read(end - start))
                except (OSError, ValueError):
                    pass
    return b''.join(found)


def test_P28_the_seed_sees_no_mail(running):
    """After a delivery neither a byte of the message nor its addresses are in the seed's memory, and no file is open;
    the process that delivered did have them."""
    running.recipe('ann', '.qmail-default', './Maildir/\n')
    running.smtp('ann-%s@here.test' % MARK, text='body' + MARK, subject=MARK)
    running.await_message('ann/Maildir', 'body' + MARK)
    seed = running.daemons()['seed']
    assert MARK.encode() not in memory(seed)
    assert any(MARK.encode() in memory(pid) for name, pid in processes(running) if name == 'local')
    assert {target.split(':')[0] for target in targets(seed)} <= {'socket', 'pipe', 'anon_inode', '/dev/null'}


def test_P29_answers_of_users_have_fixed_fields():
    """A field more, one less, another letter, or bytes behind the last are no answer: lspawn and smtpd drop them."""
    good = channel.pack(b'w', b'1', b'yes', b'ann', b'1', b'1', b'/h', b'', b'', b'')
    assert channel.unpack(good, channel.USERS_ANSWER)
    for bad in (good + b'x\0', good[:-1], good[:-2], b'z' + good[1:], good + b'w'):
        with pytest.raises(channel.ChannelError):
            channel.unpack(bad, channel.USERS_ANSWER)


# --- deliveries ------------------------------------------------------------------------------------------------------

def deliver(running, name, recipe, mark):
    """Run a recipe of ann's; what it has written into ~/NAME."""
    running.recipe('ann', '.qmail-' + name, recipe)
    path = os.path.join(running.user_homes['ann'], name)
    running.smtp('ann-%s@here.test' % name, text=mark)
    running.await_that(lambda: os.path.exists(path + '.done'), 'end of ' + name)
    with open(path, errors='replace') as file:
        return file.read()


def test_P32_P35_a_program_sees_its_own_recipient(running):
    """A program has descriptors 0 to 2 and nothing of the message's other recipients: not in its environment, not in
    what it reads, not in its worker's memory."""
    running.recipe('ann', '.qmail-see', '|{ cat; env; ls /proc/self/fd; } >see; touch see.done\n')
    running.smtp(['ann-see@here.test', 'bob@here.test'], text='for two')
    path = os.path.join(running.user_homes['ann'], 'see')
    running.await_that(lambda: os.path.exists(path + '.done'), 'end of see')
    with open(path) as file:
        seen = file.read()
    assert 'for two' in seen and 'bob' not in seen and seen.split()[-4:] == ['0', '1', '2', '3']       # 3 is ls's own
    workers = [pid for name, pid in processes(running) if name == 'local' and
               houses.status(pid)['Uid'].split()[0] == str(ANN)]
    found = [memory(pid) for pid in workers]            # a child of the worker's may end meanwhile
    assert any(found) and not any(b'bob@here' in words for words in found)


LOOK = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
parent = os.getppid()
while open('/proc/%d/comm' % parent).read().strip() == 'sh':
    parent = int(open('/proc/%d/stat' % parent).read().rpartition(')')[2].split()[1])
for what in ('mem', 'environ', 'maps'):
    try:
        open('/proc/%d/%s' % (parent, what), 'rb').read(1); print(what, 'open')
    except OSError as problem:
        print(what, 'refused')
try:
    print('fd', os.listdir('/proc/%d/fd' % parent) and 'open')
except OSError:
    print('fd refused')
print('ptrace', 'refused' if libc.ptrace(16, parent, 0, 0) == -1 else 'open')
for what, work in (('write', lambda: os.write(0, b'x')), ('truncate', lambda: os.ftruncate(0, 0)),
                   ('reopen', lambda: os.open('/proc/self/fd/0', os.O_RDWR)), ('chmod', lambda: os.fchmod(0, 0o666))):
    try:
        work(); print(what, 'open')
    except OSError:
        print(what, 'refused')
print(open('/proc/self/uid_map').read().split()[0] != '0')
"""


def test_P33_P34_a_user_does_not_look_into_his_worker_nor_change_the_message(running):
    """The user's program cannot trace its worker, read its memory, or list its descriptors; the message on descriptor
    0 cannot be written, cut, or opened anew for writing."""
    script = os.path.join(running.top, 'look.py')
    with open(script, 'w') as file:
        file.write(LOOK)
    os.chmod(script, 0o644)
    answers = deliver(running, 'look', '|python3 -I %s >look 2>&1; touch look.done\n' % script, 'look').split('\n')
    assert [line for line in answers if line.endswith('open') or 'Error' in line] == [], answers
    assert len(answers) == 11


STAY = """
import os, signal, time
for number in (1, 2, 15):
    signal.signal(number, signal.SIG_IGN)
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
open('stayed', 'w').write(str(os.getpid()))
while True:
    time.sleep(100)
"""


def test_P36_nothing_outlives_its_delivery(running):
    """What leaves its session and its parent, and ignores signals, ends with the delivery that has failed; after a
    success it may go on for a while (test_local)."""
    script = os.path.join(running.top, 'stay.py')
    with open(script, 'w') as file:
        file.write(STAY)
    os.chmod(script, 0o644)
    deliver(running, 'stay', '|python3 -I %s; while ! test -s stayed; do :; done; cp stayed stay; touch stay.done; exit 100\n' % script,
            'stay')
    with open(os.path.join(running.user_homes['ann'], 'stayed')) as file:
        pid = int(file.read())
    give_up = time.monotonic() + 20
    while houses.alive(pid):
        assert time.monotonic() < give_up
        time.sleep(0.01)             # the kernel's and the worker's work, which tell nobody


# --- the log -----------------------------------------------------------------------------------------------------------

def test_P38_P41_foreign_bytes_do_not_shape_the_log(running):
    """Names, senders and answers with escapes, newlines and line separators reach the log as printable bytes, and no
    line begins as another program's."""
    with socket.create_connection(('127.0.0.1', running.port), 10) as sock:
        sock.settimeout(20)
        file = sock.makefile('rwb')
        file.readline()
        for line in (b'EHLO \x1b[31mred\x07\x7f\x9b2J\r\n', b'MAIL FROM:<x\x1b]0;t\x07@else.test>\r\n',
                     b'MAIL FROM:<y@else.test>\r\n', b'RCPT TO:<no\x1b[5m@here.test>\r\n', b'RCPT TO:<ann@elsewhere\x0b.test>\r\n',
                     b'QUIT\r\n'):
            file.write(line)
            file.flush()
        file.read()
    running.smtp('bob@here.test', text='after the escapes')
    running.await_message('bob/Maildir', 'after the escapes')
    for line in running.lines:
        assert not any(ord(c) < 32 or ord(c) == 127 for c in line), line


# --- any local user ----------------------------------------------------------------------------------------------------

LOCAL = """
import os, socket, sys
home = sys.argv[1]
def attempt(what, work):
    try:
        print(what, work())
    except OSError:
        print(what, 'refused')
for name in ('mess', 'state', 'damaged'):
    attempt('list', lambda: os.listdir(home + '/queue/' + name))
attempt('read', lambda: open(home + '/queue/mess/' + sys.argv[2]).read())
attempt('read', lambda: open(home + '/queue/state/' + sys.argv[2]).read())
attempt('lock', lambda: os.open(home + '/queue/lock', os.O_RDONLY))
attempt('lock', lambda: os.open(home + '/queue/state/lock', os.O_RDONLY))
attempt('lock', lambda: os.open(home + '/queue/mess', os.O_RDONLY))
def ask(*verbs):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(home + '/run/control')
    said = []
    for verb in verbs:
        sock.sendall(verb + b'\\0')
        answer = b''
        while not answer.endswith(b'.\\0') and not (b'!' in answer and answer.endswith(b'\\0')):
            answer += sock.recv(9999)
        said.append(answer)
    return said
print('own', b'wait.test' in ask(b'list')[0])
print('hold', ask(b'hold ' + sys.argv[2].encode())[0][:1])
print('drop', ask(b'drop ' + sys.argv[2].encode())[0][:1])
print('runs', [answer[:1] for answer in ask(b'run', b'run', b'run')])
for name, kind in (('lspawn', 5), ('rspawn', 5), ('bounce', 5), ('clean', 1), ('new', 1), ('users', 5), ('resolve', 5)):
    def connect():
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.connect(home + '/run/' + name)
        return 'connected'
    attempt('socket ' + name, connect)
"""


def test_P42_P43_a_local_user_sees_and_holds_nothing_of_others(running):
    """Nobody lists or reads others' mail in the queue, takes a lock of it, holds, drops or hurries it, or connects to a
    channel that is not his."""
    def attempts():
        return sum('to remote someone@wait.test' in line for line in running.lines)
    before = attempts()
    said = python_as(ANN, LOCAL, running.home, running.queue()[0]).split('\n')
    for line in said:
        word = line.split(' ')[0]
        if word in ('list', 'read', 'lock', 'socket'):
            assert line.endswith('refused'), line
    assert "own False" in said and "hold b'!'" in said and "drop b'!'" in said
    assert "runs [b'.', b'.', b'.']" in said
    assert 'own True' in python_as(BOB, LOCAL, running.home, running.queue()[0])
    running.smtp('bob@here.test', text='after the runs')
    running.await_message('bob/Maildir', 'after the runs')
    assert attempts() <= before + 1             # six times it was asked


def test_P44_who_leaves_ties_up_nothing(running):
    """Clients that disconnect in the middle of a message leave no descriptor and no file behind."""
    pid = running.daemons()['queued']
    before = len(os.listdir('/proc/%d/fd' % pid))
    code = ("import socket, sys\nfor i in range(90):\n    s = socket.socket(socket.AF_UNIX)\n    s.connect(sys.argv[1] + "
            "'/run/submit')\n    s.sendall(b'\\1' + (300000).to_bytes(4, 'big') + b'x' * (i * 3000))\n    s.close()\n")
    python_as(ANN, code, running.home)
    running.sendmail('bob@here.test', text='Subject: x\n\nstill there\n', uid=BOB, gid=BOB)
    running.await_message('bob/Maildir', 'still there')
    running.await_that(lambda: len(os.listdir('/proc/%d/fd' % pid)) <= before + 1, 'closed descriptors')
    assert not [name for name in os.listdir(running.home + '/queue/mess') if name.endswith('.part')]


TOUCH = """
import os, resource, signal, sys
for pid in map(int, sys.argv[1:]):
    for what, work in (('kill', lambda: os.kill(pid, 0)), ('stop', lambda: os.kill(pid, signal.SIGCONT)),
                       ('nice', lambda: os.setpriority(os.PRIO_PROCESS, pid, 19)),
                       ('limit', lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (9, 9))),
                       ('sched', lambda: os.sched_setaffinity(pid, {0})),
                       ('memory', lambda: open('/proc/%d/mem' % pid, 'rb')),
                       ('environment', lambda: open('/proc/%d/environ' % pid, 'rb').read(1))):
        try:
            work()
            print(pid, what)
        except (OSError, ValueError):
            pass
"""


def test_P45_a_local_user_touches_no_process(running):
    """Nobody signals, stops, renices or limits a process of another account."""
    pids = [pid for _, pid in processes(running) if houses.status(pid)['Uid'].split()[0] != str(ANN)]
    assert len(pids) > 12
    assert python_as(ANN, TOUCH, *pids) == ''
