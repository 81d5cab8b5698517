"""lib.users, qpy-users and qpy-getpw: who an address belongs to, with real directories and scripted passwd."""
import os
import pwd
import signal
import socket
import subprocess
import sys

import pytest

from qpy import unix, unix_passwd
from qpy.core import aliases, assign, cdb as bytes_, channel, route
from qpy.core.getpw import Trouble
from qpy.lib import cdb, loop, packets, program, users
from qpy.lib import route as routes
from qpy.qpyp import board, getpw as getpw_program
from qpy.qpyp import users as server
from qpy.user import delivery

try:
    ME = pwd.getpwuid(os.getuid())
except KeyError:
    pytest.skip('uid %d has no name here' % os.getuid(), allow_module_level=True)
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A DIR that says it belongs to uid 4242, with homes that do too; passwd knows joe (4242) and sue (4343)."""
    for name in ('control', 'users', 'alias', 'joe', 'sue'):
        (tmp_path / name).mkdir(mode=0o755)
    home = os.fsencode(tmp_path)
    (tmp_path / 'control/me').write_bytes(b'here.example\n')
    (tmp_path / 'control/virtualdomains').write_bytes(b'virt.example:joe\n')
    real, owners = unix.stat, {b'': 4242, b'/joe': 4242, b'/sue': 4343, b'/alias': 4242}

    class Owned:
        """A stat result with an owner of our choice."""

        def __init__(self, status, uid):
            self.status, self.st_uid, self.st_gid = status, uid, uid

        def __getattr__(self, name):
            return getattr(self.status, name)

    def stat(path):
        status = real(path)
        tail = path[len(home):] if path.startswith(home) else None
        return Owned(status, owners[tail]) if tail in owners else status
    accounts = {b'joe': (b'joe', 4242, 4242, home + b'/joe'), b'sue': (b'sue', 4343, 4343, home + b'/sue')}
    monkeypatch.setattr(unix, 'stat', stat)
    monkeypatch.setattr(unix_passwd, 'getpwnam', accounts.get)
    return home


def assigned(home, lines):
    """Write users/cdb."""
    cdb.replace(home + b'/users/cdb', assign.build(lines + b'.\n')[0])


def touch(home, name):
    """Make an empty file."""
    with open(os.path.join(home, name), 'wb'):
        pass


def verdict(home, address):
    """The verdict on an address."""
    return users.Lookup(home).resolve(address, routes.load(home)).verdict


def test_passwd_and_homes(home):
    """Accounts get mail; their extensions if a .qmail file is there; else what alias says (L-04)."""
    assert verdict(home, b'joe@here.example') == b'yes'
    assert verdict(home, b'joe-list@here.example') == b'no'
    touch(home, b'joe/.qmail-list')
    assert verdict(home, b'joe-list@here.example') == b'yes'
    assert verdict(home, b'joe-list-x@here.example') == b'no'
    touch(home, b'joe/.qmail-list-default')
    assert verdict(home, b'joe-list-x@here.example') == b'yes'
    assert verdict(home, b'list@virt.example') == b'yes'
    assert verdict(home, b'other@virt.example') == b'no'
    assert verdict(home, b'postmaster@here.example') == b'no'
    touch(home, b'alias/.qmail-postmaster')
    assert verdict(home, b'Postmaster@HERE.example') == b'yes'
    assert verdict(home, b'anybody@elsewhere.example') == b'yes'
    os.mkdir(os.path.join(home, b'alias/.qmail-dir'))
    assert verdict(home, b'dir@here.example') == b'no'


def test_rootless(home):
    """Where DIR belongs to a plain user, alias is that user, and an address of another uid is deferred with the reason."""
    user = users.Lookup(home).find(b'nobody-known')
    assert user.fields() == (b'alias', b'4242', b'4242', home + b'/alias', b'-', b'nobody-known')
    with pytest.raises(Trouble) as caught:
        users.Lookup(home).find(b'sue')
    assert b'sue is uid 4343' in caught.value.text and b'uid 4242 only' in caught.value.text
    assert verdict(home, b'sue@here.example') == b'temp'


def test_users_cdb_first(home):
    """users/cdb is asked first, its match is final, what it lacks is asked of passwd; edits act at once."""
    lookup = users.Lookup(home)
    assert lookup.find(b'joe').reason == b'account joe'
    assigned(home, b'=joe:box:4242:1:' + home + b'/box:::\n+box-:box:4242:1:' + home + b'/alias:-:b-:\n')
    assert lookup.find(b'JOE').fields() == (b'box', b'4242', b'1', home + b'/box', b'', b'')
    assert lookup.find(b'box-X').fields() == (b'box', b'4242', b'1', home + b'/alias', b'-', b'b-X')
    assert lookup.find(b'joe-x').reason == b'account joe'
    os.unlink(home + b'/users/cdb')
    assert lookup.find(b'joe').reason == b'account joe'


def test_who_is_not_in_the_map_of_the_seed(home):
    """What the seed that runs cannot become is temporary, with the remedy, for RCPT and -bv alike; a new map counts at once,
    and without one that can be read nobody is complained of."""
    assigned(home, b'=pop:pop:89:4242:%s/joe:::\n=game:game:4242:60:%s/joe:::\n' % (home, home))
    os.mkdir(home + b'/run')
    lookup, tables = users.Lookup(home), routes.load(home)
    lookup.master = None
    everybody = [b'joe', b'pop', b'game']

    def ask():
        return [lookup.resolve(name + b'@here.example', tables) for name in everybody]
    for data, verdicts in ((None, 'yes yes yes'), (b'uids 1000+9000\ngids 1000+9000\n', 'yes temp temp'), (b'torn', 'yes yes yes'),
                           (b'uids 89 1000+9000\ngids 60 1000+9000\n', 'yes yes yes'), (b'uids 89\ngids 60\n', 'temp temp temp')):
        if data is not None:
            cdb.replace(home + b'/run/mailids', data)
        ways = ask()
        assert [way.verdict for way in ways] == verdicts.encode().split(), data
    assert b'users/assign, =pop: gid 4242 was no group' in ways[1].reason and b'uid 4242 was none' in ways[2].reason
    assert lookup.find(b'joe').uid == 4242            # deliveries ask the seed itself


def test_missing_home_is_temporary(home):
    """An assigned home that is not there (not mounted) is temporary, never `no such user`."""
    assigned(home, b'+box-:box:4242:1:' + home + b'/gone:-::\n')
    assert verdict(home, b'box-x@here.example') == b'temp'


@pytest.mark.parametrize('place, expected', [('mnt/joe', b'temp'), ('mnt/a/b/joe', b'temp'), ('joe/no/joe', b'no'), ('full/joe', b'no')])
def test_homes_that_are_not_mounted(home, monkeypatch, place, expected):
    """A home in passwd that is missing where nothing is at all is one that is not mounted: temporary, never `no such
    user`.  Beside others it is that of an account without mail."""
    for name in (b'/mnt', b'/full', b'/full/sue', b'/joe/cur'):
        os.mkdir(home + name)
    monkeypatch.setattr(unix_passwd, 'getpwnam', lambda name: (name, 4242, 1, home + b'/' + place.encode()) if name == b'moe' else None)
    way = users.Lookup(home).resolve(b'moe@here.example', routes.load(home))
    assert way.verdict == expected and (b'is it not mounted?' in way.reason) == (expected == b'temp')


def test_alias_that_cannot_be_used_is_temporary(home):
    """Mail for an alias that newaliases has marked waits, so that is the answer, with the reason, also where
    alias has a .qmail file of that name."""
    table = aliases.compile(b'good: joe\nself: self\none: two\ntwo: one\nempty:\nboth: good, bad\nbad: joe, @y.example\n')[0]
    cdb.replace(home + b'/users/aliases.cdb', bytes_.build(table.items()))
    assert verdict(home, b'good@here.example') == b'yes'
    for name, why in ((b'Self', aliases.CIRCLE), (b'one', aliases.CIRCLE), (b'two', aliases.CIRCLE),
                      (b'empty', b'nothing after the colon'), (b'both', b'not an address: @y.example')):
        way = users.Lookup(home).resolve(name + b'@here.example', routes.load(home))
        assert way.verdict == b'temp' and way.reason.endswith(b'the alias %s cannot be used: %s' % (name, why))
    touch(home, b'alias/.qmail-self')
    assert verdict(home, b'self@here.example') == b'temp'


def test_damaged_cdb_is_temporary(home):
    """A truncated users/cdb defers every local address, and says so (A-04)."""
    with open(home + b'/users/cdb', 'wb'):
        pass
    way = users.Lookup(home).resolve(b'joe@here.example', routes.load(home))
    assert way.verdict == b'temp' and b'Trouble reading users/cdb' in way.reason


@pytest.mark.parametrize('name, words', [('cdb', b'Trouble reading users/cdb'), ('aliases.cdb', b'Trouble reading users/aliases.cdb')])
def test_a_table_that_is_not_mounted_is_temporary(home, name, words):
    """users/cdb or aliases.cdb that is a link to nowhere defers whom it may be about: none would be `no such user`."""
    os.symlink(b'/nowhere/table', home + b'/users/' + name.encode())
    way = users.Lookup(home).resolve(b'nobody@here.example', routes.load(home))
    assert way.verdict == b'temp' and words + b': a link that leads nowhere' in way.reason
    os.unlink(home + b'/users/' + name.encode())
    assert verdict(home, b'nobody@here.example') == b'no'


def test_nss_trouble_is_temporary(home, monkeypatch):
    """When passwd cannot be asked, nobody is unknown; the answer is not remembered."""
    lookup = users.Lookup(home)

    def down(name):
        raise OSError(111, 'Connection refused')
    working = unix_passwd.getpwnam
    monkeypatch.setattr(unix_passwd, 'getpwnam', down)
    assert lookup.resolve(b'joe@here.example', routes.load(home)).verdict == b'temp'
    monkeypatch.setattr(unix_passwd, 'getpwnam', working)
    assert lookup.resolve(b'joe@here.example', routes.load(home)).verdict == b'yes'


@pytest.mark.parametrize('errno, expected', [(13, b'unknown'), (1, b'unknown'), (5, b'temp'), (116, b'temp'),
                                             (2, b'no'), (20, b'no'), (36, b'no'), (40, b'temp')])
def test_what_stat_says(home, monkeypatch, errno, expected):
    """A closed home is unknown, a sick disk temporary, and only real absence is `no`."""
    real = unix.stat

    def stat(path):
        if b'.qmail' in path:
            raise OSError(errno, 'x')
        return real(path)
    monkeypatch.setattr(unix, 'stat', stat)
    assert verdict(home, b'joe-x@here.example') == expected
    assert verdict(home, b'joe@here.example') == b'yes'


def test_what_is_absent_for_rcpt_is_so_for_a_delivery():
    """What only open() can say is said of no regular file."""
    assert set(users.GONE) == set(delivery.NO_FILE) - {unix.EISDIR, unix.ENXIO, unix.ENODEV}


def test_passwd_is_remembered_within_bounds(home, monkeypatch):
    """A name is asked once in a few seconds; the memory of names has a bound; a changed /etc/passwd empties it."""
    lookup, asked = users.Lookup(home), []
    real = unix_passwd.getpwnam
    monkeypatch.setattr(unix_passwd, 'getpwnam', lambda name: asked.append(name) or real(name))
    lookup.find(b'joe')
    lookup.find(b'joe')
    assert asked == [b'joe']
    monkeypatch.setattr(users, 'passwd_stamp', lambda: 'new')
    lookup.find(b'joe')
    assert asked == [b'joe', b'joe']
    monkeypatch.setattr(users, 'MOST', 10)
    for n in range(100):
        lookup.find(b'x%d' % n)
    assert len(lookup.known) <= 10
    clock = unix.monotonic() + 10
    monkeypatch.setattr(unix, 'monotonic', lambda: clock)
    asked.clear()
    lookup.find(b'x99')
    assert asked == [b'x99']


def test_real_getpwnam():
    """The system's passwd is asked as it is: same answer as Python's pwd, None for nobody."""
    import importlib
    fresh = importlib.reload(unix_passwd)
    assert fresh.getpwnam(os.fsencode(ME.pw_name)) == (
        os.fsencode(ME.pw_name), ME.pw_uid, ME.pw_gid, os.fsencode(ME.pw_dir))
    assert fresh.getpwnam(b'no-such-account') is None
    assert fresh.getpwnam(b'') is None and fresh.getpwnam(b'a\0b') is None and fresh.getpwnam(b'\xff' * 5000) is None


def test_real_getpwnam_errors(monkeypatch):
    """A failing NSS is an OSError with its number, and a buffer too small is grown."""
    sizes = []

    def fails(code):
        def getpwnam_r(name, entry, buffer, size, found):
            sizes.append(size)
            return code
        return getpwnam_r
    monkeypatch.setattr(unix_passwd, '_getpwnam_r', fails(111))
    with pytest.raises(OSError) as caught:
        unix_passwd.getpwnam(b'joe')
    assert caught.value.errno == 111
    sizes.clear()
    monkeypatch.setattr(unix_passwd, '_getpwnam_r', fails(34))
    with pytest.raises(OSError):
        unix_passwd.getpwnam(b'joe')
    assert sizes[-1] == unix_passwd.LARGEST and len(sizes) < 10


# --- qpy-getpw -----------------------------------------------------------------------------------------------

def test_getpw_program(home, monkeypatch):
    """Six NUL-ended fields on descriptor 1; qmail-getpw's exit codes."""
    out = []
    monkeypatch.setattr(unix, 'write_all', lambda fd, data: out.append((fd, data)))
    assert getpw_program.main(home, [b'Joe-List']) == 0
    assert out == [(1, b'joe\x004242\x004242\0' + home + b'/joe\0-\0List\0')]
    with pytest.raises(program.Fatal) as caught:
        getpw_program.main(home, [])
    assert caught.value.code == 100

    def down(name):
        raise OSError(5, 'x')
    monkeypatch.setattr(unix_passwd, 'getpwnam', down)
    with pytest.raises(program.Fatal) as caught:
        getpw_program.main(home, [b'joe'])
    assert caught.value.code == 118


@pytest.mark.parametrize('broken, code', [('alias', 116), ('home', 115)])
def test_getpw_exit_codes(home, monkeypatch, broken, code):
    """116 without account alias on a rooted DIR; 115 when a home cannot be looked at."""
    real = unix.stat

    class Root:
        st_uid = st_gid = 0

    def stat(path):
        if path == home:
            return Root
        if path == home + b'/joe' and broken == 'home':
            raise OSError(5, 'x')
        return real(path)
    monkeypatch.setattr(unix, 'stat', stat)
    with pytest.raises(program.Fatal) as caught:
        getpw_program.main(home, [b'joe' if broken == 'home' else b'unknown'])
    assert caught.value.code == code


# --- qpy-users -----------------------------------------------------------------------------------------------

def talk(home, packet):
    """What the server answers to one packet: records, or 'closed'."""
    ours, theirs = unix.socketpair()
    worker = server.Server(home)
    worker.accept(theirs, (1, os.getuid(), 1))
    answers = []
    mine = loop.Loop()
    packets.Channel(mine, ours, channel.USERS_ANSWER, answers.extend, lambda reason: answers.append(reason))
    unix.send_packet(ours, packet)
    while not answers:
        worker.loop.step(0.01)
        mine.step(0.01)
    return answers


def test_server_answers(home):
    """Questions of one packet are answered in order, each with its number and its reason."""
    touch(home, b'alias/.qmail-root')
    answers = talk(home, channel.pack(b'W', b'7', b'joe-X') + channel.pack(b'Q', b'8', b'root@here.example')
                   + channel.pack(b'Q', b'9', b'none@here.example') + channel.pack(b'W', b'10', b'sue'))
    (w, w_fields, _), (q, q_fields, _), (_, no_fields, _), (_, temp_fields, _) = answers
    assert (w, w_fields) == (b'w', [b'7', b'yes', b'joe', b'4242', b'4242', home + b'/joe', b'-', b'X', b'account joe'])
    assert (q, q_fields[:2]) == (b'q', [b'8', b'yes']) and q_fields[2].endswith(b'.qmail-root')
    assert no_fields[:2] == [b'9', b'no'] and b'control/me (no locals)' in no_fields[2]
    assert temp_fields[:2] == [b'10', b'temp'] and temp_fields[2:8] == [b''] * 6


@pytest.mark.parametrize('packet', [b'X1\0\0', b'W1\0', b'garbage', b'W1\0joe', b'\0'])
def test_server_drops_who_talks_nonsense(home, packet, monkeypatch):
    """A malformed packet ends that connection and is logged once."""
    lines = []
    monkeypatch.setattr(program, 'warn', lines.append)
    assert talk(home, packet) == ['closed'] and len(lines) == 1


def test_server_limits_clients(home, monkeypatch):
    """Beyond its number of clients the server sends the next one away, and has room again when one leaves."""
    monkeypatch.setattr(server, 'MOST_CLIENTS', 1)
    worker = server.Server(home)
    (first, one), (second, two), (third, three) = (unix.socketpair() for _ in range(3))
    worker.accept(one, (1, 1, 1))
    worker.accept(two, (1, 1, 1))
    assert unix.recv_packet(second) == (b'', [])
    first.close()
    worker.loop.step(1)
    worker.accept(three, (1, 1, 1))
    assert len(worker.clients) == 1
    third.close()


def closed(sock):
    """Whether the other side has gone."""
    return unix.recv_packet(sock) == (b'', [])


def test_many_users_leave_room(home):
    """P15: places of `exists` are kept for root and our own; of users, who has asked nothing for longest gives up his to the
    next."""
    worker = server.Server(home)
    worker.own = {0, 4000}

    def come(uid):
        ours, its = unix.socketpair()
        worker.accept_anybody(its, (1, uid, uid))
        return ours
    users = [come(5000 + n // server.OF_ONE) for n in range(server.STRANGERS - server.KEPT)]
    unix.send_packet(users[0], channel.pack(b'Q', b'1', b'joe@far.example'))
    for _ in range(3):
        worker.loop.step(0.1)
    assert unix.recv_packet(users[0])[0].startswith(b'q1\0yes')
    new = come(6000)
    assert closed(users[1]) and not any(sock is not users[1] and closed(sock) for sock in (*users, new))
    ours = [come(4000) for _ in range(server.OF_ONE)] + [come(0) for _ in range(server.KEPT - server.OF_ONE)]
    assert not any(map(closed, ours)) and closed(come(0)) and closed(come(4000))
    newest = come(6001)
    assert closed(users[2]) and not closed(newest)
    for sock in (*users, new, newest, *ours):
        sock.close()


def test_the_program(home, tmp_path, monkeypatch):
    """The real process: inherited listener, answers, a killed worker replaced, its end with the life pipe."""
    monkeypatch.undo()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / 'users.socket'))
    listener.listen()
    life, alive = os.pipe()
    fds = [listener.fileno(), life]
    code = ('import os,sys\n'
            'sys.path.insert(0, %r)\n'
            'from tests.peers import handing\n'
            'handing.place(%r)\n'
            'os.environ.update(LISTEN_FDS="2", LISTEN_FDNAMES="users:life", LISTEN_PID=str(os.getpid()))\n'
            'os.execv(sys.argv[1], sys.argv[1:])\n' % (SOURCE, fds))
    process = subprocess.Popen([sys.executable, '-c', code, SOURCE + '/bin/qpy-users'], pass_fds=tuple(fds),
                               env={'QPYHOME': str(tmp_path), 'PATH': '/bin:/usr/bin'}, stderr=subprocess.PIPE)
    os.close(life)

    def ask():
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(20)
            client.connect(str(tmp_path / 'users.socket'))
            client.send(b'Q1\0x@far.example\0')
            return client.recv(1000)
    try:
        assert ask().startswith(b'q1\0yes\0not ours')
        workers = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(process.pid)], capture_output=True).stdout.split()
        assert len(workers) == server.WORKERS
        for pid in workers:
            os.kill(int(pid), signal.SIGKILL)
        assert ask().startswith(b'q1\0yes')
        os.close(alive)
        assert process.wait(20) == 0
        assert b'killed by signal 9' in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        listener.close()


def test_broken_controls_end_it_at_start(home):
    """A broken control file: 111 and a line that names it (A-01, A-02)."""
    with open(home + b'/control/locals', 'wb') as out:
        out.write(b'here.example\r\n')
    with pytest.raises(program.Fatal) as caught:
        server.Server(home)
    assert caught.value.text.startswith(b'unable to use control/locals, line 1')


def test_who_asks_says_what_it_does_not_expect(monkeypatch):
    """qpy-lspawn loses qpy-users: an end of the channel as it comes with every end of the chain is no warning, any other is;
    who waits for an answer is told that nobody can say."""
    from qpy.lib.loop import Loop
    from qpy.qpyu import lookup
    said, told = [], []
    monkeypatch.setattr(lookup.program, 'warn', said.append)
    for reason, warned in (('closed', []), ('Connection reset by peer', [b'lost qpy-users: Connection reset by peer'])):
        asking = lookup.Users(Loop(), b'/nowhere', 0)
        asking.channel = type('Channel', (), {'send': lambda self, *record: None})()
        asking.ask(b'joe', told.append)
        asking.lost(reason)
        assert said == warned and asking.channel is None
    assert told == [None, None]


# --- what hangs ------------------------------------------------------------------------------------------------

@pytest.fixture
def lines(monkeypatch):
    """Two workers' Lines of one board, with a clock and the descriptor of who is told."""
    clock = [1000.0]
    monkeypatch.setattr(board.unix, 'monotonic', lambda: clock[0])
    ear, mouth = os.pipe2(os.O_NONBLOCK)
    shared = board.Board(bytearray(board.Board.size(3)), 3)
    yield [board.Line(shared, number, mouth) for number in range(3)], clock, ear
    os.close(ear)
    os.close(mouth)


def test_nobody_follows_to_what_hangs(lines):
    """A place where another worker has been for a while is trouble at once, and none when that one is back; other places are
    open.  The master is told of the first that goes out, and not of each."""
    (one, two, _), clock, ear = lines
    one.enter(b'/nfs/joe')
    two.enter(b'/nfs/joe')                      # just now is no reason
    two.leave(b'/nfs/joe')
    clock[0] += board.SOON
    with pytest.raises(Trouble) as caught:
        two.enter(b'/nfs/joe')
    assert (caught.value.code, caught.value.text) == (115, b'/nfs/joe does not answer')
    for place in (b'/nfs/joe2', b'/nfs/jo', b'/nfs/sue', b'passwd', b''):
        two.enter(place)
        two.leave(place)
    one.leave(b'/nfs/joe')
    two.enter(b'/nfs/joe')
    assert os.read(ear, 100) == b'\0\0'
    clock[0] += board.SOON
    with pytest.raises(Trouble) as caught:
        two.enter(b'passwd')
        one.enter(b'passwd')
        clock[0] += board.SOON
        two.enter(b'passwd')
    assert caught.value.code == 118


def test_places_with_long_names(lines):
    """What is longer than a line counts as far as that goes, and spoils no other line."""
    (one, two, three), clock, _ = lines
    long = b'/' + b'x' * 5000
    one.enter(long)
    three.enter(b'/c')
    two.enter(long + b'y')
    assert [one.board.place(number) for number in range(3)] == [long[:board.NAME], long[:board.NAME], b'/c']
    two.leave(long + b'y')
    clock[0] += board.SOON
    with pytest.raises(Trouble):
        two.enter(long + b'z')


def test_when_no_more_may_wait_all_beside_waits(lines):
    """As many workers wait as may: what lies in the directory of a home that hangs is trouble too, and nothing else is."""
    (one, two, _), clock, _ = lines
    one.enter(b'/nfs/joe')
    clock[0] += board.SOON
    one.board.full[0] = 1.0
    with pytest.raises(Trouble):
        two.enter(b'/nfs/sue')
    for place in (b'/nfs2/sue', b'/nfs', b'/nfs/more/sue', b'passwd', b'/sue', b''):
        two.enter(place)
        two.leave(place)
    one.leave(b'/nfs/joe')
    one.enter(b'passwd')
    clock[0] += board.SOON
    two.enter(b'other')


def test_who_has_answered_since_is_no_neighbour(lines):
    """What lies beside a home that hangs is open all the same if it has answered since then; if it did so before, it may be
    on the same server."""
    (one, two, three), clock, _ = lines
    two.enter(b'/home/early')
    two.leave(b'/home/early')
    clock[0] += 1.0
    one.enter(b'/home/joe')
    clock[0] += 1.0
    three.enter(b'/home/sue')
    three.leave(b'/home/sue')
    clock[0] += 1.0
    one.board.full[0] = 1.0
    two.enter(b'/home/sue')
    two.leave(b'/home/sue')
    for place in (b'/home/early', b'/home/new', b'/home/joe'):
        with pytest.raises(Trouble):
            two.enter(place)


class Workers(board.Watching):
    """The master without its children: what it starts is noted."""

    def __init__(self, count):
        self.started = 0
        super().__init__({}, None, count)
        for _ in range(count):
            self.start()


@pytest.fixture
def boss(monkeypatch, lines):
    """Workers under a clock that stands, and what they log."""
    said, pids = [], iter(range(100, 200))
    monkeypatch.setattr(program, 'warn', said.append)
    monkeypatch.setattr(unix, 'fork', lambda: next(pids))
    made = Workers(2)
    made.told = lambda: None
    yield made, lines[1], said
    for fd in (made.ear, made.mouth, made.read_end, made.write_end, made.loop.epoll):
        fd.close() if hasattr(fd, 'close') else os.close(fd)


def test_who_overstays_is_given_up(boss):
    """A worker that is in one place for too long gets a successor, once; the log names the place once, also if two were there;
    when it ends none takes its place, and its line is free.  One that is quick is left alone, and then nobody is looked at."""
    there, clock, said = boss
    one, two = (board.Line(there.board, there.lines[pid], there.mouth) for pid in (100, 101))
    two.enter(b'/nfs/sue')
    two.leave(b'/nfs/sue')
    one.enter(b'/nfs/joe')
    clock[0] += board.OVERSTAYS - 0.5
    there.look()
    assert not said and there.timer.when == clock[0] + 0.5 and not two.over()
    two.enter(b'/nfs/joe2')
    there.board.write(two.number, b'/nfs/joe')              # as if both had gone there at a time
    clock[0] += board.OVERSTAYS
    there.look()
    assert one.over() and two.over() and sorted(there.lines) == [100, 101, 102, 103] and len(set(there.lines.values())) == 4
    assert said == [b'/nfs/joe does not answer: what needs it waits, and another worker serves the rest']
    there.look()
    assert len(there.lines) == 4 and there.timer is None
    there.born.pop(100)
    there.ended(5.0, 0, 100)
    assert sorted(there.lines) == [101, 102, 103] and said[1:] == [b'/nfs/joe: no worker waits for it any more']
    there.born.pop(102)
    there.ended(5.0, -9, 102)
    assert said[2:] == [b'worker killed by signal 9, starting another one']


def test_the_number_of_those_who_are_given_up_is_limited(boss, monkeypatch):
    """No more than GIVEN_UP are replaced: the next one that overstays is when one of them has come back."""
    there, clock, said = boss
    for count in range(board.GIVEN_UP + 1):
        pid = max(there.lines)
        board.Line(there.board, there.lines[pid], there.mouth).enter(b'/nfs%d/joe' % count)
        clock[0] += board.OVERSTAYS
        there.look()
    assert len(there.given_up) == board.GIVEN_UP and len(there.lines) == board.GIVEN_UP + 2 and pid not in there.given_up
    assert there.board.full[0] and there.timer is None and b'no more are given up' in said[-1]
    first = min(there.given_up)
    there.born.pop(first)
    there.ended(5.0, 0, first)
    assert not there.board.full[0]
    there.look()
    assert pid in there.given_up and len(there.lines) == board.GIVEN_UP + 2


@pytest.mark.parametrize('number', [float('nan'), float('inf'), -float('inf'), 1e300])
def test_the_master_minds_no_nonsense_on_the_board(boss, number):
    """A worker that is not ours any more writes what it likes: the master looks again in time, and not all the time."""
    there, clock, _ = boss
    line = there.lines[100]
    there.board.lines[line * board.LINE:line * board.LINE + 2] = b'\xff\xff'
    there.board.since[line] = number
    there.look()
    assert len(there.board.place(line)) == board.NAME
    assert there.timer is None or there.timer.when == clock[0] + board.OVERSTAYS


def test_a_home_that_hangs_elsewhere(home, lines):
    """Whose home hangs in another worker is temporary, for deliveries and at RCPT, with that reason; everybody else is answered,
    as is a plain user of users/assign, whose home is not looked at."""
    (one, two, _), clock, _ = lines
    one.enter(home + b'/joe')
    clock[0] += board.SOON
    worker = server.Server(home, two)
    answer = worker.whose(b'joe-list')
    assert answer[0] == b'temp' and answer[-1] == b'NFS failure in qmail-local.\n' + home + b'/joe does not answer'
    assert worker.exists(b'joe@here.example')[0] == b'temp' and worker.exists(b'nobody@here.example')[0] == b'no'
    touch(home, b'alias/.qmail-root')
    assert worker.whose(b'root')[0] == worker.exists(b'root@here.example')[0] == b'yes'
    assigned(home, b'=joe:joe:4242:1:%s/joe:::\n+joe-:joe:4242:1:%s/joe:-::\n' % (home, home))
    assert worker.exists(b'joe@here.example')[0] == b'yes' and worker.exists(b'joe-x@here.example')[0] == b'temp'
    one.leave(home + b'/joe')
    assert worker.exists(b'joe-x@here.example')[0] == b'no' and not two.board.since[two.number]


def test_a_passwd_that_hangs_elsewhere(home, lines, monkeypatch):
    """While passwd hangs in another worker, who is in the file is answered by that, and everybody else is temporary."""
    (one, two, _), clock, _ = lines
    one.enter(users.PASSWD)
    clock[0] += board.SOON
    real, file = unix.read_file, [b'']
    monkeypatch.setattr(unix, 'read_file', lambda path, **more: file[0] if path == b'/etc/passwd' else real(path, **more))
    file[0] = b'root:x:0:0:::\nshort:x:4242\nodd:x:many:1::/:\njoe:x:4242:4242:Joe:%s/joe:/bin/sh\n+::::::\n' % home
    worker = server.Server(home, two)
    assert worker.whose(b'Joe')[:4] == (b'yes', b'joe', b'4242', b'4242')
    for name in (b'sue', b'short', b'odd', b'joe-x'):               # joe-x may be an account
        answer = worker.whose(name)
        assert answer[0] == b'temp' and answer[-1] == b'Temporary failure in qmail-lspawn.\npasswd does not answer'
    one.leave(users.PASSWD)
    assert worker.whose(b'odd')[:2] == (b'yes', b'alias')


@pytest.mark.parametrize('trouble', [False, True])
def test_an_answer_does_not_wait_for_the_next_question(home, lines, monkeypatch, trouble):
    """Answers to one packet leave together; while something hangs, each before the next question may."""
    (one, two, _), _, _ = lines
    one.board.over[one.number] = float(trouble)
    ours, theirs = unix.socketpair()
    worker, early = server.Server(home, two), []
    worker.accept(theirs, (1, os.getuid(), 1))
    real = worker.lookup.find

    def find(local):
        if local == b'sue':
            early.append(unix.recv_packet(ours))
        return real(local)
    monkeypatch.setattr(users.Lookup, 'find', lambda self, local: find(local))
    unix.send_packet(ours, channel.pack(b'W', b'1', b'joe') + channel.pack(b'W', b'2', b'sue'))
    worker.loop.step(1)
    assert bool(early[0]) == trouble
    left = unix.recv_packet(ours)[0]
    assert [fields[0] for _, fields in channel.unpack((early[0] or (b'',))[0] + left, channel.USERS_ANSWER)] == [b'1', b'2']
    ours.close()


def test_a_worker_that_comes_back_answers_and_ends(home, lines):
    """One that was given up says what it found out, and serves no more."""
    (one, _, _), _, _ = lines
    ours, theirs = unix.socketpair()
    worker = server.Server(home, one)
    worker.accept(theirs, (1, os.getuid(), 1))
    one.board.over[one.number] = 1.0
    unix.send_packet(ours, channel.pack(b'W', b'1', b'joe') + channel.pack(b'Q', b'2', b'joe@here.example'))
    worker.loop.run()
    answers = channel.unpack(unix.recv_packet(ours)[0] + unix.recv_packet(ours)[0], channel.USERS_ANSWER)
    assert [(letter, fields[1]) for letter, fields in answers] == [(b'w', b'yes'), (b'q', b'yes')]
    ours.close()


# --- who asks ------------------------------------------------------------------------------------------------

class Asked:
    """qpyu.lookup with workers of ours: connections, what each was asked, and what it answers."""

    def __init__(self, home, monkeypatch):
        from qpy.qpyu import lookup
        self.loop, self.ends, self.told = loop.Loop(), [], []
        monkeypatch.setattr(lookup.packets, 'connect', self.connect)
        monkeypatch.setattr(lookup.program, 'warn', lambda words: None)
        self.users = lookup.Users(self.loop, home, 0)

    def connect(self, *_):
        """A new worker."""
        ours, theirs = unix.socketpair()
        self.ends.append(theirs)
        return ours

    def ask(self, local):
        """One question; what is told is (local part, user or None)."""
        self.users.ask(local, lambda answer: self.told.append((local, answer and answer[1])))
        self.loop.step(0)

    def heard(self, worker=-1):
        """The local parts that a worker has been asked for, by number."""
        found = {}
        while True:
            packet = unix.recv_packet(self.ends[worker])
            if not packet or not packet[0]:
                return found
            found.update((fields[1], fields[0]) for _, fields in channel.unpack(packet[0], channel.USERS_ASK))

    def say(self, number, user, worker=-1):
        """Have a worker answer."""
        unix.send_packet(self.ends[worker], channel.pack(b'w', number, b'yes', user, b'1', b'1', b'/', b'', b'', b'x'))
        self.loop.step(0.5)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    (tmp_path / 'users').mkdir()
    return Asked(os.fsencode(tmp_path), monkeypatch)


def test_what_is_not_answered_is_asked_of_another_worker(asked, monkeypatch):
    """A worker that is held up is left after ANSWER seconds, and all that is open is asked of another one, in turn; what the
    first one says at last is not heard.  After TRIES of them nobody can say."""
    from qpy.qpyu import lookup
    monkeypatch.setattr(lookup, 'ANSWER', 0.05)
    monkeypatch.setattr(lookup, 'TRIES', 3)
    asked.ask(b'hung')
    asked.ask(b'bob')
    first = asked.heard()
    assert list(first) == [b'hung', b'bob'] and not asked.told
    while len(asked.ends) < 2:
        asked.loop.step(0.1)
    asked.loop.step(0)
    again = asked.heard()
    assert again == first and list(again) == [b'bob', b'hung'] and len(asked.users.questions) == 2
    asked.say(first[b'bob'], b'bob')
    assert asked.told == [(b'bob', b'bob')]
    while len(asked.told) < 2:
        asked.loop.step(0.1)
    assert asked.told[1:] == [(b'hung', None)] and len(asked.ends) == 3 and not asked.users.questions and not asked.users.waiting


def test_a_worker_that_ends_loses_no_question(asked):
    """What one that ended was asked is asked of another one, but not for ever: the question may be what ends them."""
    asked.ask(b'joe')
    number = asked.heard()[b'joe']
    asked.ends[0].close()
    asked.loop.step(0.5)
    asked.loop.step(0)
    assert asked.heard() == {b'joe': number} and not asked.told
    asked.say(number, b'joe')
    asked.ask(b'sue')
    for count in (2, 3):
        asked.ends[-1].close()
        asked.loop.step(0.5)
    assert asked.told == [(b'joe', b'joe'), (b'sue', None)] and len(asked.ends) == 3


@pytest.mark.parametrize('table', ['users/cdb', '/etc/passwd'])
def test_a_new_table_counts_from_the_next_delivery_on(asked, monkeypatch, table):
    """An answer is remembered, but not across a change of users/cdb or of /etc/passwd; one that was asked for before and comes
    after it is for those who asked before."""
    from qpy.qpyu import lookup
    path = table if table[0] == 'u' else 'passwd'
    asked.users.tables = [os.path.join(asked.users.home, name) for name in (path.encode(), b'other')]
    assert lookup.TABLES == (b'users/cdb', b'/etc/passwd')
    asked.ask(b'joe')
    asked.say(asked.heard()[b'joe'], b'old')
    asked.ask(b'joe')
    assert asked.told == [(b'joe', b'old')] * 2 and not asked.heard()
    for content in (b'new', b'newer'):
        cdb.replace(asked.users.tables[0], content)
        asked.ask(b'joe')
        before = asked.heard()[b'joe']
    cdb.replace(asked.users.tables[0], b'newest')
    asked.ask(b'joe')
    after = asked.heard()[b'joe']
    asked.say(before, b'newer')
    asked.say(after, b'newest')
    asked.ask(b'joe')
    assert asked.told[2:] == [(b'joe', b'newer'), (b'joe', b'newest'), (b'joe', b'newest')]


def test_who_asks_waits_longer_than_a_worker_may():
    """Another worker is asked when qpy-users has had the time to start one; the pages say these numbers."""
    from qpy.qpyd import recipients
    from qpy.qpyu import lookup
    assert board.SOON < board.OVERSTAYS < min(lookup.ANSWER, recipients.ANSWER)
    numbers = board.SOON, board.OVERSTAYS, board.GIVEN_UP, lookup.ANSWER, lookup.TRIES, recipients.ANSWER, recipients.TRIES
    assert numbers == (0.5, 2.0, 8, 3.0, 10, 3.0, 3) and server.WORKERS == 2


def test_rcpt_is_asked_of_another_worker(home, monkeypatch):
    """qpy-smtpd leaves a worker that is held up after ANSWER seconds, or that ends, and asks another one all that is open: who
    is unknown is refused then too.  After TRIES, or where nobody is there, the recipient is taken, and the log says so once."""
    from qpy.qpyd import recipients
    mine, ends, told, said = loop.Loop(), [], [], []

    def connect(*_):
        ours, theirs = unix.socketpair()
        ends.append(theirs)
        return ours

    def heard():
        packet = unix.recv_packet(ends[-1])
        return {fields[1]: fields[0] for _, fields in channel.unpack(packet[0], channel.USERS_ASK)} if packet else {}

    def ask(*names):
        for name in names:
            assert asking.ask(name, lambda verdict, name=name: told.append((name, verdict))) is None
        mine.step(0)

    def until(count, worker=0):
        while len(told) < count or len(ends) < worker:
            mine.step(0.1)
        mine.step(0)
    monkeypatch.setattr(recipients.packets, 'connect', connect)
    monkeypatch.setattr(recipients.program, 'warn', said.append)
    monkeypatch.setattr(recipients, 'ANSWER', 0.05)
    asking = recipients.Recipients(mine, home)
    ask(b'hung', b'nobody')
    first = heard()
    until(0, 2)
    assert heard() == first and list(first) == [b'hung', b'nobody'] and not told
    unix.send_packet(ends[-1], channel.pack(b'q', first[b'hung'], b'temp', b'') + channel.pack(b'q', first[b'nobody'], b'no', b''))
    until(2)
    assert told == [(b'hung', b'temp'), (b'nobody', b'no')] and not said
    ask(b'x', b'y')
    ends[-1].close()
    until(2, 3)
    assert list(heard()) == [b'y', b'x']                # x may be what held it up
    until(4)
    assert sorted(told[2:]) == [(b'x', b'unknown'), (b'y', b'unknown')] and len(said) == 1 and len(ends) == 4

    def nobody(*_):
        raise ConnectionRefusedError
    ask(b'z')
    monkeypatch.setattr(recipients.packets, 'connect', nobody)
    ends[-1].close()
    until(5)
    assert told[4:] == [(b'z', b'unknown')] and len(said) == 1
