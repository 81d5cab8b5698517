"""Giving up privileges: what is left afterwards, asked of the kernel.  Each probe runs in a child of its own."""
import ctypes
import errno
import os
import pickle
import signal
import socket

import pytest

from qpy import unix, unix_kernel
from qpy.core import accounts, idmap, mailids, manifest
from qpy.lib import confine, program
from qpy.qpyu import seed as mail_users
from qpy.root import seed


def in_child(work):
    """What work() returns, run in a forked child; its exception is raised here."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = (True, work())
        except BaseException as problem:
            answer = (False, repr(problem))
        os.write(write, pickle.dumps(answer))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, 'rb') as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    good, value = pickle.loads(data)
    assert good, value
    return value


def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError:
        return True
    return False


@pytest.mark.root
def test_a_daemon_keeps_nothing_of_root():
    """After drop: uid, gid, no groups, no capability in any set, no_new_privs, not dumpable, and no way back."""
    def probe():
        confine.drop(54321, 54322)
        return (os.getresuid(), os.getresgid(), os.getgroups(), unix_kernel.capget(),
                unix_kernel.prctl(unix_kernel.PR_CAPBSET_READ, 7),
                unix_kernel.prctl(unix_kernel.PR_GET_DUMPABLE), refused(os.setresuid, 0, 0, 0),
                refused(os.setgroups, [0]), refused(os.open, '/etc/shadow', os.O_RDONLY))
    assert in_child(probe) == ((54321,) * 3, (54322,) * 3, [], (0, 0, 0), 0, 0, True, True, True)


def test_drop_without_root_proves_that_nothing_is_held():
    """A plain user's drop to himself works and leaves no capability."""
    def probe():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(54322, 54322, 54322)
            os.setresuid(54321, 54321, 54321)
        confine.drop(os.getuid(), os.getgid(), os.getgroups())
        return unix_kernel.capget()
    assert in_child(probe) == (0, 0, 0)


def namespace_or_skip():
    def probe():
        try:
            unix_kernel.unshare(unix_kernel.CLONE_NEWUSER)
        except OSError:
            return False
        return True
    if not in_child(probe):
        pytest.skip('user namespaces are forbidden here')


def below(identity):
    """In a child of the seed: become identity, and say what it is; then try the way back."""
    def probe():
        confine.become_user(identity, identity)
        return os.getresuid(), os.getgroups(), unix_kernel.capget(), refused(os.setresuid, 700, 700, 700)
    return in_child(probe)


@pytest.mark.root
def test_the_seed_becomes_mail_users_and_nobody_else():
    """In the namespace ids of the map can be taken, and 0, shadow, disk and service accounts do not exist (EINVAL)."""
    namespace_or_skip()
    uids = gids = idmap.ranges(1000, {700, 701}, {1005})

    def probe():
        confine.enter_mail_namespace(uids, gids, 700, 700)
        impossible = [refused(os.setresuid, n, n, n) for n in (0, 1, 33, 702, 1005)]
        impossible += [refused(os.setresgid, n, n, n) for n in (0, 6, 42, 999)]
        return (os.getresuid(), os.getresgid(), unix_kernel.capget()[:2], impossible, below(2000), below(701),
                refused(os.open, '/etc/shadow', os.O_RDONLY), refused(os.open, '/etc/passwd', os.O_WRONLY))
    uid, gid, capabilities, impossible, user, other, shadow, passwd = in_child(probe)
    assert uid == gid == (700,) * 3 and capabilities == (confine.SEED_CAPABILITIES,) * 2
    assert all(impossible) and shadow and passwd
    assert user == ((2000,) * 3, [], (0, 0, 0), True)
    assert other[:1] == ((701,) * 3,)


@pytest.mark.root
def test_groups_that_are_had_by_membership_do_not_exist_in_there(monkeypatch):
    """The map made of a system with a docker of gid 1002: nobody in there, with CAP_SETGID, takes it, nor a service's id;
    a user who is added later can be become."""
    namespace_or_skip()
    uids, gids = mapped(monkeypatch, PASSWD, PASSWD, GROUP)

    def probe():
        confine.enter_mail_namespace(uids, gids, 704, 704)
        return ([refused(os.setresgid, n, n, n) for n in (1002, 1004, 64045, 61184, 100000)]
                + [refused(os.setresuid, n, n, n) for n in (64045, 61184, 100000)], below(1000), below(1005))
    impossible, user, later = in_child(probe)
    assert all(impossible)
    assert user[:3] == ((1000,) * 3, [], (0, 0, 0)) and later[0] == (1005,) * 3


def test_a_group_that_is_added_later(tmp_path, monkeypatch):
    """With members and nobody whose primary group it is: refused by the seed, though the map has it.  One that comes with
    its user is not, nor are those it began with."""
    files = passwd, group = tmp_path / 'passwd', tmp_path / 'group'
    passwd.write_bytes(b'joe:x:1000:1000::/h:/s\n')
    group.write_bytes(b'joe:x:1000:\nshop:x:1004:\n')
    monkeypatch.setattr(mail_users.Members, 'FILES', tuple(map(os.fsencode, files)))
    ids = mail_users.Ids([(1000, 9)], [(1000, 9)], mail_users.Members())
    assert ids.refusal(1000, 1000) == ids.refusal(1000, 1004) == ids.refusal(1001, 1002) == b''
    group.write_bytes(b'joe:x:1000:\nshop:x:1004:\ndocker:x:1002:joe\n')
    assert b'gid 1002 is no primary group of a user' in ids.refusal(1001, 1002)
    passwd.write_bytes(b'joe:x:1000:1000::/h:/s\nann:x:1001:1002::/h:/s\n')
    assert ids.refusal(1001, 1002) == ids.refusal(1000, 1000) == b''
    group.unlink()
    assert ids.refusal(1001, 1002) == b''


@pytest.mark.root
def test_files_made_in_the_namespace_have_their_true_owner(tmp_path):
    """The map is the identity: a file of user 2000 inside is a file of user 2000 outside."""
    namespace_or_skip()
    os.chmod(tmp_path, 0o777)
    parents = [tmp_path.parent, tmp_path.parent.parent]
    if any(os.stat(p).st_mode & 1 == 0 for p in parents):
        directory = '/tmp'
    else:
        directory = str(tmp_path)
    name = '%s/qpy-confine-%d' % (directory, os.getpid())

    def probe():
        confine.enter_mail_namespace(idmap.ranges(1000, {700}, ()), idmap.ranges(1000, {700}, ()), 700, 700)

        def write():
            confine.become_user(2000, 2000)
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        in_child(write)
    in_child(probe)
    try:
        assert (os.stat(name).st_uid, os.stat(name).st_gid) == (2000, 2000)
    finally:
        os.unlink(name)


@pytest.mark.root
def test_where_namespaces_are_forbidden_a_filter_takes_their_place():
    """With two capabilities and the filter, mapped ids can be taken and all others are refused (EPERM), by every call
    there is; a user may still ask to be what he is."""
    uids = idmap.ranges(1000, {700}, {1005})

    def others():
        return [refused(call, *[n] * places) for n in (0, 33, 1005) for call, places in (
            (os.setresuid, 3), (os.setreuid, 2), (os.setuid, 1), (os.seteuid, 1),
            (os.setresgid, 3), (os.setregid, 2), (os.setgid, 1), (os.setegid, 1))]

    def as_user():
        confine.become_user(2000, 2000)
        for call in (os.setgid, os.setuid, os.setegid, os.seteuid):
            call(2000)
        os.setregid(-1, 2000)
        os.setreuid(-1, 2000)
        return others() + [refused(os.setuid, 2001), refused(os.setgroups, []), os.getresuid() == os.getresgid() == (2000,) * 3]

    def probe():
        confine.keep_two_capabilities(700, 700, 0)
        confine.seed_filter(uids, uids)
        impossible = others() + [refused(os.setgroups, [6]), refused(unix_kernel.unshare, unix_kernel.CLONE_NEWUSER)]
        return impossible, in_child(as_user), below(2000)
    impossible, user, worker = in_child(probe)
    assert all(impossible) and all(user)
    assert worker == ((2000,) * 3, [], (0, 0, 0), True)


def own_namespace(uid):
    """A process of this user's, outside, that has made a user namespace; its pid, and what ends it."""
    said, ended = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ended[1])
        confine.drop(uid, uid)
        unix_kernel.set_dumpable(1)
        os.write(said[1], b'x' if refused(unix_kernel.unshare, unix_kernel.CLONE_NEWUSER) else b'y')
        os.read(ended[0], 1)
        os._exit(0)
    os.close(ended[0])
    os.close(said[1])
    assert os.read(said[0], 1) == b'y'
    os.close(said[0])

    def end():
        os.close(ended[1])
        os.waitpid(pid, 0)
    return pid, end


LIBC = ctypes.CDLL(None, use_errno=True)
KEEP_CAPS = 8
KEPT = 0xffffffff


def called(number, *arguments):
    """A system call, past the C library."""
    return LIBC.syscall(number, *map(ctypes.c_long, arguments))


RESUID, REUID, FSUID = {'x86_64': (117, 113, 122), 'aarch64': (147, 145, 151)}.get(os.uname().machine, (0, 0, 0))
WAYS = {'setresuid': [(RESUID, 2000, 2000, 2000)], 'seteuid': [(RESUID, KEPT, 2000, KEPT)], 'real-and-effective': [(RESUID, 2000, 2000, KEPT)],
        'real-first': [(RESUID, 2000, KEPT, KEPT), (REUID, KEPT, 2000)], 'setreuid': [(REUID, KEPT, 2000)],
        'setreuid-both': [(REUID, 2000, 2000)], 'real-alone': [(REUID, 2000, KEPT), (REUID, KEPT, 2000)],
        'saved': [(RESUID, KEPT, 2000, 2000)], 'files-alone': [(FSUID, 2000)], 'as-it-is': []}


def map_written(pid, way):
    """In the place of the seed, owned: as the user who owns the namespace of pid, write a foreign gid into its map."""
    LIBC.prctl(KEEP_CAPS, 1, 0, 0, 0)
    for call in WAYS[way]:
        called(*call)
    unix_kernel.capset(*[unix_kernel.capget()[1]] * 2, 0)
    try:
        fd = os.open('/proc/%d/gid_map' % pid, os.O_WRONLY)
        os.write(fd, b'0 42 1\n')
    except OSError:
        return False
    return True


@pytest.mark.root
@pytest.mark.parametrize('way', sorted(WAYS))
def test_no_foreign_id_into_a_users_own_namespace(way):
    """P24 where namespaces are forbidden, but not to a user elsewhere: whoever has taken over the seed becomes him in no
    way that leaves CAP_SETGID to write gid 42 into the map of his namespace."""
    namespace_or_skip()
    pid, end = own_namespace(2000)
    ids = idmap.ranges(1000, {700}, ())

    def probe():
        confine.keep_two_capabilities(700, 700, 0)
        confine.seed_filter(ids, ids)
        return map_written(pid, way)
    try:
        assert not in_child(probe)
    finally:
        end()


@pytest.mark.root
def test_without_a_saved_uid_the_map_is_written():
    """Counter-test: with the capabilities kept as inside the namespace of mail, and the filter, it is done."""
    namespace_or_skip()
    pid, end = own_namespace(2000)
    ids = idmap.ranges(1000, {700}, ())

    def probe():
        confine.keep_two_capabilities(700, 700)
        confine.seed_filter(ids, ids)
        return map_written(pid, 'setresuid')
    try:
        assert in_child(probe)
    finally:
        end()


@pytest.mark.parametrize('problem', [OSError(errno.EINVAL, 'Invalid argument'), ValueError('riscv64')])
def test_without_namespaces_and_without_a_filter_nobody_delivers(problem, monkeypatch):
    """The seed would keep what makes root of it: it ends, and says what to do."""
    def forbidden(*_):
        raise OSError(errno.EPERM, 'Operation not permitted')

    def missing(*_):
        raise problem
    monkeypatch.setattr(confine, 'enter_mail_namespace', forbidden)
    monkeypatch.setattr(confine, 'keep_two_capabilities', lambda *_: None)
    monkeypatch.setattr(confine, 'seed_filter', missing)
    monkeypatch.setattr(seed, 'mail_ids', lambda *_: ([(1000, 9)], [(1000, 9)]))
    with pytest.raises(program.Fatal, match='max_user_namespaces'):
        seed.step_down(b'/nonexistent', {b'qpyu': (700, 700)})


@pytest.mark.root
def test_an_empty_network_has_nowhere_to_go():
    """A process moved into it cannot reach its own machine's loopback; the maker of it stays where it was."""
    def probe():
        before = os.readlink('/proc/self/ns/net')
        fd = confine.empty_network()
        if fd is None:
            return None
        stayed = os.readlink('/proc/self/ns/net') == before
        confine.enter_network(fd)
        import socket
        sock = socket.socket()
        return stayed, refused(sock.connect, ('127.0.0.1', 1)), os.listdir('/sys/class/net') and True
    answer = in_child(probe)
    if answer is None:
        pytest.skip('network namespaces are forbidden here')
    assert answer[:2] == (True, True)




def test_what_ps_shows():
    """Other words, as long as they fit into the room of the old ones; what follows them is gone."""
    def probe():
        with open('/proc/self/cmdline', 'rb') as file:
            room = len(file.read())
        shown = []
        for words in ([b'qmail-send', b'x y'], [b'q' * 5000], [b'z']):
            unix_kernel.show_arguments(words)
            with open('/proc/self/cmdline', 'rb') as file:
                shown.append(file.read().rstrip(b'\0'))
        return room, shown
    room, shown = in_child(probe)
    assert shown == [b'qmail-send\0x y', b'q' * (room - 1), b'z']


# --- a program's line of the manifest ----------------------------------------------------------------------------

def lacking(name, **missing):
    """What confine says of a kernel whose calls fail so, and whether the process may still list /."""
    def probe():
        for call, number in missing.items():
            def fail(*_, number=number):
                raise OSError(number, 'no')
            setattr(unix_kernel, call, (lambda: 0) if call == 'landlock_abi' else fail)
        return confine.confine(b'/nonexistent', name), refused(os.listdir, '/'), refused(os.execve, '/', ['x'], {})
    return in_child(probe)


def test_a_line_is_taken_whole():
    """Where the kernel has all of it nothing is lacking: no file but the code, no exec."""
    if not unix_kernel.landlock_abi():
        pytest.skip('no Landlock here')
    assert lacking(b'log') == ([], True, True)


def test_what_the_kernel_lacks_is_named_and_no_error():
    """Without Landlock, seccomp, or no-exec memory the program starts with what there is; all of it is named."""
    assert lacking(b'log', landlock_abi=0)[0] == [b'Landlock']
    assert lacking(b'log', seccomp=errno.ENOSYS)[0] == [b'seccomp']


def test_clean_needs_a_landlock_that_can_move_files(monkeypatch):
    """Landlock before ABI 2 forbids every move between directories: clean does without it, the others do not."""
    monkeypatch.setattr(unix_kernel, 'landlock_abi', lambda: 1)
    assert in_child(lambda: confine.confine(b'/nonexistent', b'clean')) == [b'Landlock']
    assert in_child(lambda: confine.confine(b'/nonexistent', b'log')) == [
        b'rules for TCP ports (Linux 6.7)', b'scopes of signals (Linux 6.12)']


@pytest.mark.parametrize('row', manifest.rows(), ids=lambda row: row.name.decode())
def test_nobody_is_heard_outside_but_by_whom_the_line_lets(row, monkeypatch):
    """Abstract sockets and signals end at the fence, but for a line with any sockets, or with signals; before ABI 6 neither."""
    asked = []

    def ruleset(handled, tcp, scoped, abi):
        asked.append((abi, scoped))
        raise OSError(errno.EMFILE, 'seen')
    monkeypatch.setattr(unix_kernel, 'landlock_ruleset', ruleset)
    for abi in (5, 6, 7):
        monkeypatch.setattr(unix_kernel, 'landlock_abi', lambda abi=abi: abi)
        if row.files is not None:
            pytest.raises(OSError, confine.landlock, b'/nonexistent', row, ())
    want = (0 if b'any' in row.sockets else 1) + (0 if row.signals else 2)
    assert asked == ([] if row.files is None else [(5, 0), (6, want), (7, want)])


@pytest.mark.parametrize('number', [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES])
def test_a_place_that_cannot_be_opened_now_ends_the_start(number):
    """Q-08: without descriptors at the start clean would run, and be forbidden for ever what it is there for; a place that
    is missing is no error."""
    if not unix_kernel.landlock_abi():
        pytest.skip('no Landlock here')

    def probe():
        real = unix.open

        def fail(path, *more, **named):
            if path == b'/nonexistent/queue/mess':
                raise OSError(number, 'no')
            return real(path, *more, **named)
        unix.open = fail
        try:
            confine.confine(b'/nonexistent', b'clean')
        except OSError as problem:
            return problem.errno
        return 'started'
    assert in_child(probe) == number
    assert in_child(lambda: b'Landlock' in confine.confine(b'/nonexistent', b'clean')) is False


def test_what_the_kernel_claims_is_tried():
    """A kernel that says yes and does nothing is found out: NotDropped."""
    def probe():
        unix_kernel.seccomp = lambda program: None
        try:
            confine.confine(b'/nonexistent', b'log')
        except confine.NotDropped:
            return 'found out'
        return 'believed'
    assert in_child(probe) == 'found out'


def test_links_of_control_files_are_followed(tmp_path):
    """A control file that is a link may lead anywhere; what lies elsewhere is closed."""
    if not unix_kernel.landlock_abi():
        pytest.skip('no Landlock here')
    for name in ('control', 'elsewhere', 'third', 'run'):
        (tmp_path / name).mkdir()
    (tmp_path / 'elsewhere/me').write_text('here.test\n')
    (tmp_path / 'third/me').write_text('here.test\n')
    (tmp_path / 'control/me').symlink_to(tmp_path / 'elsewhere/me')

    def probe():
        confine.confine(os.fsencode(str(tmp_path)), b'bouncer')
        return open(str(tmp_path / 'control/me')).read(), refused(os.open, str(tmp_path / 'third/me'), os.O_RDONLY)
    assert in_child(probe) == ('here.test\n', True)


def test_a_log_that_is_a_file_can_be_written_on(tmp_path):
    """The limit on sizes of files is not put on a program whose descriptor 2 is a file."""
    def probe():
        fd = os.open(str(tmp_path / 'log'), os.O_CREAT | os.O_WRONLY, 0o600)
        os.dup2(fd, 2)
        confine.confine(b'/nonexistent', b'log')
        return os.write(2, b'a line\n')
    assert in_child(probe) == 7


@pytest.mark.parametrize('name, may_bind', [(b'remote', False), (b'remote-bound', True)])
def test_who_leaves_from_an_address_of_his_choice_takes_no_port(name, may_bind, tmp_path):
    """As qpy-rspawn's child: with control/outgoingip qpy-remote binds, to port 0 only and without listening; else not."""
    if unix_kernel.landlock_abi() < 4 or os.uname().machine not in ('x86_64', 'aarch64'):
        pytest.skip('no rules for TCP ports here')
    (tmp_path / 'control').mkdir()
    home = os.fsencode(tmp_path)

    def probe():
        import socket

        def worker():
            confine.confine(home, name, {25})
            bound = socket.socket()
            return (refused(bound.bind, ('127.0.0.2', 0)), refused(socket.socket().bind, ('127.0.0.2', 40025)),
                    refused(bound.listen, 1))
        confine.confine(home, b'rspawn')
        return in_child(worker)
    assert in_child(probe) == (not may_bind, True, True)


# --- who the seed may become ---------------------------------------------------------------------------------

def mapped(monkeypatch, passwd, every, group=b'root:x:0:\nshadow:x:42:\n', named=None, more=(), assigned=(89, 90)):
    """mail_ids of a system with these accounts: [(uid, gid)] in /etc/passwd, and of every source; more: files."""
    more = dict(more)
    files = {**dict.fromkeys((b'/etc/nsswitch.conf', b'/etc/subuid', b'/etc/subgid', b'/proc/self/uid_map', b'/proc/self/gid_map'), b''), b'/etc/passwd': b''.join(b'u:x:%d:%d::/h:/s\n' % pair for pair in passwd), b'/etc/group': group}
    monkeypatch.setattr(unix, 'read_file', {**files, **more}.__getitem__)
    monkeypatch.setattr(unix, 'getpwall', every if callable(every) else lambda: every)
    monkeypatch.setattr(seed, 'assigned', lambda home: [assigned])
    monkeypatch.setattr(seed.controls, 'listing', lambda home, name: named)
    return seed.mail_ids(b'/nonexistent', {role: (700 + n, 700 + n) for n, role in enumerate(accounts.ROLES)})


def known(monkeypatch, passwd, every, *group, up_to=1000, **keywords):
    """The same as lists of ids."""
    return [[number for number in range(up_to) if mailids.within(found, number)]
            for found in mapped(monkeypatch, passwd, every, *group, **keywords)]


OURS = [704, 710]               # qpyu, alias


def test_whom_the_seed_knows(monkeypatch, capfd):
    """users/assign, the groups of users in /etc/passwd, `users`, and of users elsewhere the groups that are none of this
    system's; these it names, and control/mailgroups can add them."""
    passwd = [(1000, 60), (33, 33), (65534, 65534)]
    elsewhere = [*passwd, (2000, 500), (2001, 42), (999, 42), (2002, 2002), (2003, 0), (65534, 501)]
    assert known(monkeypatch, passwd, passwd) == [[89, *OURS], [60, 90, 100, *OURS]] and capfd.readouterr().err == ''
    assert known(monkeypatch, passwd, elsewhere) == [[89, *OURS], [60, 90, 100, 500, *OURS]]
    assert 'gid 42, a group of this system' in capfd.readouterr().err
    assert known(monkeypatch, passwd, elsewhere, named=[b'42'])[1] == [42, 60, 90, 100, 500, *OURS]
    assert capfd.readouterr().err == ''
    assert known(monkeypatch, [], [], named=[b'703', b'20'])[1] == [20, 90, 100, *OURS]     # none of qpy's own


@pytest.mark.root
@pytest.mark.parametrize('maps', [b'0 0 65536\n', b'0 0 1000\n1000 1000 1\n1001 1001 64535\n'])
def test_in_a_container(monkeypatch, maps):
    """Where only some ids exist (LXC, podman) and LDAP may have any, the maps hold those that do, the kernel takes them, and a
    user in users/assign who does not exist is named."""
    def probe():
        warned = []
        monkeypatch.setattr(seed.program, 'warn', warned.append)
        found = mapped(monkeypatch, [(1000, 1000)], [], assigned=(70000, 90), more={
            b'/etc/nsswitch.conf': b'passwd: files sss\n', b'/proc/self/uid_map': maps, b'/proc/self/gid_map': maps})
        parent, (ask, answer) = os.getpid(), socket.socketpair()
        child = os.fork()
        if child == 0:
            ask.recv(1)
            for name in ('uid_map', 'gid_map'):
                with open('/proc/%d/%s' % (parent, name), 'wb') as file:
                    file.write(maps)
            os._exit(0)
        unix_kernel.unshare(unix_kernel.CLONE_NEWUSER)
        answer.send(b'x')
        os.waitpid(child, 0)
        confine.enter_mail_namespace(*found, 710, 710)
        confine.become_user(1000, 1000)
        return warned, refused(os.setresuid, 70000, 70000, 70000), os.getresuid()
    warned, no, who = in_child(probe)
    assert warned == [b'uid 70000 does not exist in this container, and mail for it waits: let its map have that']
    assert no and who == (1000, 1000, 1000)


GROUP = b'root:x:0:\njoe:x:1000:\ndocker:x:1002:joe\nstaff:x:1003:\nshop:x:1004:\n'
PASSWD = [(1000, 1000), (64045, 64045), (1001, 1003), (70000, 70000)]


def closed(monkeypatch, every=PASSWD, **keywords):
    """Which of these ids the seed does not know."""
    uids, gids = known(monkeypatch, PASSWD, every, GROUP, up_to=170_000, **keywords)
    numbers = (1000, 1001, 1002, 1003, 1004, 1005, 59999, 60513, 60514, 61184, 64045, 65533, 65535, 65536, 70000, 100000, 165536)
    return [[number for number in numbers if number not in found] for found in map(set, (uids, gids))]


def test_what_no_user_has_is_closed(monkeypatch, capfd):
    """Services' ids, systemd's dynamic users and containers are not known, nor are groups that are had by membership;
    users who are added while it runs are."""
    services = [60514, 61184, 64045, 65533, 65535]
    large = [65536, 100000, 165536]
    assert closed(monkeypatch) == [services + large, [1002, 1004] + services + large]
    ldap = {b'/etc/nsswitch.conf': b'passwd: files sss\n', b'/etc/subuid': b'joe:100000:65536\n'}
    assert closed(monkeypatch, more=ldap) == [services + [100000], [1002, 1004] + services]
    assert capfd.readouterr().err == ''
    assert closed(monkeypatch, every=[*PASSWD, (70001, 1004)], more=ldap)[1] == [1002, 1004] + services
    assert 'gid 1004, a group of this system' in capfd.readouterr().err
    assert closed(monkeypatch, named=[b'1004'])[1] == [1002] + services + large
    assert closed(monkeypatch, assigned=(64045, 1002)) == [sorted({*services, *large} - {64045}), [1004] + services + large]


@pytest.mark.root
def test_P24_sources_of_accounts_are_asked_without_root(monkeypatch):
    """Whoever asks LDAP and the like, whose answers the C library takes apart, is qpyu for good, with no capability, without the
    seed's sockets.  The counter-test: before it dropped and closed, all of that was there."""
    read, write = os.pipe()
    held, other = os.pipe()
    os.dup2(held, 70)

    def every():
        os.write(2, pickle.dumps((os.getresuid(), os.getresgid(), os.getgroups(), unix_kernel.capget(),
                                  unix_kernel.prctl(unix_kernel.PR_GET_NO_NEW_PRIVS), refused(os.setresuid, 0, 0, 0),
                                  refused(os.fstat, 70))))
        return [(2000, 500)]

    def probe():
        os.dup2(write, 2)
        return known(monkeypatch, [], every)[1]
    ours = accounts.ROLES.index(b'qpyu') + 700
    assert in_child(probe) == [90, 100, 500, *OURS]
    assert pickle.loads(os.read(read, 65536)) == ((ours,) * 3, (ours,) * 3, [], (0, 0, 0), 1, True, True)
    monkeypatch.setattr(seed.confine, 'drop', lambda *_: None)
    monkeypatch.setattr(unix, 'closerange', lambda *_: None)
    assert in_child(probe) == [90, 100, 500, *OURS]
    uids, _, _, capabilities, _, _, closed = pickle.loads(os.read(read, 65536))
    assert uids == (0, 0, 0) and capabilities[0] and not closed
    for fd in (read, write, held, other, 70):
        os.close(fd)


@pytest.mark.parametrize('said, believed', [(b'0\n42\nx\n', {42}), (b'99999\n', set()), (b'-1\n1002\n', {1002})])
def test_what_a_source_of_accounts_may_not_say(said, believed, monkeypatch, capfd):
    """Of what that child says only the gids that are asked for count, and never 0; it is noticed."""
    monkeypatch.setattr(seed, 'write_groups', lambda fd, *_: os.write(fd, said) and 0)
    assert seed.primary_groups({1002}, (704, 704)) == believed
    assert 'no list of all accounts could be had' in capfd.readouterr().err


def test_a_source_of_accounts_that_does_not_answer(monkeypatch, capfd):
    """Neither what fails nor what hangs there keeps the seed from starting: the others are known, and it says so."""
    def fail():
        raise OSError(5, 'Input/output error')
    monkeypatch.setattr(seed, 'PATIENCE', 1)
    for every in (fail, signal.pause):
        assert known(monkeypatch, [(1000, 60)], every)[1] == [60, 90, 100, *OURS]
        assert 'no list of all accounts could be had' in capfd.readouterr().err
