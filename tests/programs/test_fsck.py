"""qpy-fsck: every anomaly of a queue is explained, nothing is deleted, what cannot be used is set aside when asked."""
import os
import subprocess

import pytest

from qpy import unix
from qpy.admin import fsck
from qpy.core import exits, mess, mounts, queuecheck, state
from qpy.lib import aside, program
from tests.peers import queued as rig

IDS = [b'%016d' % (1_764_000_000_000_000 + i) for i in range(20)]
ENVELOPE = mess.Envelope(b'a@b', [b'c@d', b'e@f']).build()


@pytest.fixture
def home():
    """An empty queue."""
    with rig.temporary_home() as place:
        yield place


def put(home, name, data, where=b'mess'):
    """A file of the queue."""
    with open(home + b'/queue/' + where + b'/' + name, 'wb') as file:
        file.write(data)
    rig.give(home + b'/queue/' + where + b'/' + name)


def message(ident, body=b'Subject: x\n\nhello\n'):
    """A whole queue file."""
    return mess.pack(body, ENVELOPE, ident)


def run(home, *args, disk=False):
    """(exit code, lines), without what is said of the file system, which is this machine's."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsck, 'say', said.append)
        patch.setattr(fsck.owner, 'become', lambda home: None)         # this process stays who it is
        code = fsck.main(home, list(args))
    return code, [line for line in said if line.startswith(b'queue: its file system') == disk]


def everything(home):
    """{path: content} of all files of the queue, however deep."""
    found = {}
    for directory, _, names in os.walk(home + b'/queue'):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, 'rb') as file:
                    found[path] = file.read()
    return found


def test_a_healthy_queue(home):
    """Whole messages, with and without state, need no word but the figures."""
    put(home, IDS[0], message(IDS[0]))
    put(home, IDS[1], message(IDS[1], b'x' * 200_000))
    put(home, IDS[1], state.entry(IDS[1], b'd', b'0') + state.entry(IDS[1], b'a', b'5', b'1'), b'state')
    assert run(home) == (exits.OK, [b'qpy-fsck: 2 whole; the queue is at rest'])
    assert len(run(home, b'--all')[1]) == 3


def torn(ident):
    """A queue file that a power cut has left in part."""
    return message(ident)[:-20]


ANOMALIES = [
    ('damaged', IDS[0], torn(IDS[0]), b'mess', True),
    ('damaged', IDS[0], b'', b'mess', True),
    ('damaged', IDS[0], b'\0' * 500, b'mess', True),
    ('damaged', IDS[0], message(IDS[0], b'y' * 100_000)[:-5000] + b'\0' * 5000, b'mess', True),
    ('renamed', IDS[0], message(IDS[1]), b'mess', True),
    ('misnamed', IDS[0] + b'~', message(IDS[0]), b'mess', True),
    ('newer', IDS[0], message(IDS[0])[:-mess.FOOTER_SIZE] + message(IDS[0])[-mess.FOOTER_SIZE:].replace(b'qpy1',
                                                                                                        b'qpy2'),
     b'mess', False),
    ('foreign', b'core', b'x', b'mess', True),
    ('foreign', b'9999999999999999', b'x', b'mess', True),
    ('part', b'12.3.part', b'half', b'mess', False),
    ('orphan', IDS[0], state.entry(IDS[0], b'd', b'0'), b'state', False),
    ('foreign', b'notes', b'x', b'state', True),
    ('shorter', b'shorter', state.entry(IDS[0], b'd', b'0'), b'state', False),
    ('kept', IDS[0], torn(IDS[0]), b'damaged', False),
    ('kept whole', IDS[0], message(IDS[0]), b'damaged', False),
    ('kept whole', IDS[0] + b'.1', message(IDS[0]), b'damaged', False),
]


@pytest.mark.parametrize('kind, name, data, where, movable', ANOMALIES)
def test_each_anomaly(home, kind, name, data, where, movable):
    """Q-18, Q-19, Q-20: one line says what it is; nothing changes unless asked; then it is set aside, byte for byte,
    and only if no program can use it."""
    put(home, name, data, where)
    before = everything(home)
    code, said = run(home)
    sentence = queuecheck.TABLE[kind.encode()][2]
    assert len(said) == 2 and said[0].startswith(b'queue/' + where + b'/' + name) and said[0].endswith(sentence)
    assert code == (1 if queuecheck.TABLE[kind.encode()][0] == queuecheck.WRONG else 0)
    assert everything(home) == before
    run(home, b'--set-aside')
    after = everything(home)
    assert sorted(after.values()) == sorted(before.values())
    assert (after != before) == movable
    if movable:
        assert list(after) == [home + b'/queue/damaged/' + name]


@pytest.mark.parametrize('kind, entries', [
    ('torn', state.entry(IDS[0], b'd', b'0') + state.entry(IDS[0], b'd', b'1')[:-1]),
    ('finished', state.entry(IDS[0], b'd', b'0') + state.entry(IDS[0], b'f', b'1',
                                                               b'no') + state.entry(IDS[0], b'r', b'1')),
    ('broken', state.entry(IDS[0], b'd', b'0').replace(b'd', b'D') + state.entry(IDS[0], b'h', b'do not send')),
    ('strange', state.entry(IDS[0], b'd', b'2')), ('torn', b'\0' * 100), ('torn', state.entry(IDS[1], b'd', b'0'))])
def test_each_state(home, kind, entries):
    """A state beside its message: torn, finished, or of another message."""
    put(home, IDS[0], message(IDS[0]))
    put(home, IDS[0], entries, b'state')
    code, said = run(home)
    assert said[0].endswith(queuecheck.TABLE[kind.encode()][2]) and len(said) == 2
    before = everything(home)
    run(home, b'--set-aside')
    assert everything(home) == before


def test_a_state_waits_for_its_message(home):
    """Q-18: what a message that is set aside had behind it is kept beside the states, and counts as one when it is put back."""
    entry = state.entry(IDS[0], b'h', b'not now')
    put(home, IDS[0], torn(IDS[0]))
    put(home, IDS[0], entry, b'state')
    run(home, b'--set-aside')
    aside = home + b'/queue/state/' + IDS[0] + b'.aside'
    assert everything(home) == {home + b'/queue/damaged/' + IDS[0]: torn(IDS[0]), aside: entry}
    code, said = run(home, b'--set-aside')
    assert code == 0 and [line.partition(b':')[0] for line in said] == [b'queue/state/' + IDS[0] + b'.aside',
                                                                       b'queue/damaged/' + IDS[0], b'qpy-fsck']
    assert aside in everything(home)


def test_no_state_is_replaced(home):
    """Q-18: the state of an earlier message of that name stays beside the new one; a name that is the same file's is used
    again, as after a stop in between."""
    old, new = state.entry(IDS[0], b'h', b'before'), state.entry(IDS[0], b'd', b'0')
    for entry in (old, new):
        put(home, IDS[0], torn(IDS[0]))
        put(home, IDS[0], entry, b'state')
        run(home, b'--set-aside')
    path = home + b'/queue/state/' + IDS[0] + b'.aside'
    assert {name: data for name, data in everything(home).items() if b'/state/' in name} == {path: old, path + b'.1': new}
    assert run(home)[0] == exits.OK and sum(b'state/' in line for line in run(home)[1]) == 2
    os.link(path + b'.1', home + b'/queue/state/' + IDS[0])
    put(home, IDS[0], torn(IDS[0]))
    run(home, b'--set-aside')
    assert {name: data for name, data in everything(home).items() if b'/state/' in name} == {path: old, path + b'.1': new}


@pytest.mark.parametrize('name, kept', [
    (IDS[0] + b'.aside', True), (IDS[0] + b'.aside.12', True), (IDS[0], False), (b'x.aside', False), (IDS[0] + b'.asides', False),
    (IDS[0] + b'.aside.', False), (IDS[0] + b'.aside.x', False)])
def test_which_names_are_of_states_set_aside(name, kept):
    """Only those that set_aside gives; another is a stranger's."""
    assert aside.is_kept(name) is kept


def test_nothing_is_replaced(home):
    """Two files of one name are both kept."""
    put(home, IDS[0], torn(IDS[0]))
    put(home, IDS[0], b'older', b'damaged')
    run(home, b'--set-aside')
    assert sorted(everything(home)) == [home + b'/queue/damaged/' + IDS[0], home + b'/queue/damaged/' + IDS[0] + b'.1']


def test_what_is_no_file(home):
    """A link, a pipe or a directory in the queue is named, never followed, and set aside when asked."""
    os.symlink('/etc/passwd', home + b'/queue/mess/' + IDS[0])
    os.mkfifo(home + b'/queue/mess/' + IDS[1])
    os.mkdir(home + b'/queue/mess/' + IDS[2])
    code, said = run(home)
    assert code == 1 and len(said) == 4 and all(queuecheck.TABLE[b'no file'][2] in line for line in said[:3])
    run(home, b'--set-aside')
    assert len(os.listdir(home + b'/queue/damaged')) == 3 and not os.listdir(home + b'/queue/mess')


NO_FILES = {'fifo': os.mkfifo, 'directory': os.mkdir, 'link': lambda path: os.symlink('/dev/null', path)}


@pytest.mark.parametrize('data', [message(IDS[0]), torn(IDS[0])], ids=['whole', 'torn'])
@pytest.mark.parametrize('make', NO_FILES)
def test_a_state_that_is_no_file(home, make, data):
    """Q-18: what stands in the place of a state keeps its message waiting: it is said, and set aside when asked."""
    put(home, IDS[0], data)
    NO_FILES[make](home + b'/queue/state/' + IDS[0])
    line = b'queue/state/%b: %b' % (IDS[0], queuecheck.TABLE[b'no state'][2])
    code, said = run(home)
    assert code == 1 and line in said and os.path.lexists(home + b'/queue/state/' + IDS[0])
    run(home, b'--set-aside')
    assert not os.path.lexists(home + b'/queue/state/' + IDS[0])
    assert os.listdir(home + b'/queue/mess') == ([IDS[0]] if data == message(IDS[0]) else [])
    assert line not in run(home, b'--set-aside')[1]


@pytest.mark.parametrize('make, kind', [('directory', b'no file'), ('fifo', b'orphan'), ('link', b'orphan')])
def test_an_orphan_that_is_no_file(home, make, kind):
    """A directory, which send cannot remove, is set aside when asked; what it removes is left to it."""
    NO_FILES[make](home + b'/queue/state/' + IDS[0])
    code, said = run(home, b'--set-aside')
    assert code == (kind == b'no file') and said[0] == b'queue/state/%b: %b' % (IDS[0], queuecheck.TABLE[kind][2])
    assert os.path.lexists(home + b'/queue/damaged/' + IDS[0]) == (kind == b'no file')


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir, lambda path: os.symlink('/dev/null', path)])
@pytest.mark.parametrize('name', [b'state/lock', b'lock', b'state/' + IDS[0], b'state/shorter', b'mess/%b.part' % IDS[0], b'damaged/' + IDS[0]])
def test_no_name_is_waited_for(home, name, make):
    """Whatever name of the queue a FIFO, a directory or a link has taken, the look comes to its end and says which."""
    put(home, IDS[1], message(IDS[1]))
    make(home + b'/queue/' + name)
    code, said = run(home, b'--set-aside')
    assert said[-1].startswith(b'qpy-fsck: ') and b'1 whole' in said[-1]
    if name == b'state/lock':
        assert code == 1 and said[0] == b'queue/state/lock: ' + queuecheck.TABLE[b'no file'][2]
        assert os.path.lexists(home + b'/queue/damaged/lock') and not os.path.lexists(home + b'/queue/state/lock')


def test_what_cannot_be_set_aside_stays_and_the_rest_goes(home, monkeypatch):
    """One that the system will not move (a directory of somebody else) is told, and is no reason to leave the others."""
    for ident in IDS[:3]:
        put(home, ident, message(ident)[:-9])
    real = fsck.unix_kernel.rename_noreplace

    def rename(there, name, *more):
        if name == IDS[1]:
            raise PermissionError(13, 'Permission denied')
        return real(there, name, *more)
    monkeypatch.setattr(fsck.unix_kernel, 'rename_noreplace', rename)
    code, lines = run(home, b'--set-aside')
    assert code == 1 and b'queue/mess/%b: unable to set it aside: Permission denied' % IDS[1] in lines
    assert os.listdir(home + b'/queue/mess') == [IDS[1]] and set(os.listdir(home + b'/queue/damaged')) == {IDS[0], IDS[2]}


def test_every_combination(home):
    """Q-18: each pair of what mess/ID and state/ID may be is looked at without an error, and nothing is lost."""
    of_mess = [None, message(IDS[0]), torn(IDS[0]), b'', message(IDS[1])]
    of_state = [None, b'', state.entry(IDS[0], b'd', b'0'), state.entry(IDS[0], b'd', b'0')[:-1], b'\xff' * 40]
    for first in of_mess:
        for second in of_state:
            for where, data in ((b'mess', first), (b'state', second)):
                if data is not None:
                    put(home, IDS[0], data, where)
            before = sorted(everything(home).values())
            code, said = run(home, b'--set-aside')
            assert code in (0, 1) and sorted(everything(home).values()) == before
            for path in everything(home):
                os.unlink(path)


def test_a_queue_in_use(home):
    """Live: what is being received or has just been written is left alone; the running queued is noticed."""
    daemon = rig.Daemon(home, 'queued', [b'submit', b'new'])
    try:
        with rig.connect(home, b'new') as ears:
            ears.recv(100)
        put(home, b'99.1.part', b'half')
        put(home, IDS[0], torn(IDS[0]))
        put(home, IDS[1], torn(IDS[1]))
        os.utime(home + b'/queue/mess/' + IDS[1], (1, 1))
        code, said = run(home, b'--set-aside')
        assert said[-1].endswith(b'in use') and os.listdir(home + b'/queue/damaged') == [IDS[1]]
        assert sorted(os.listdir(home + b'/queue/mess')) == [IDS[0], b'99.1.part']
    finally:
        daemon.kill()


def test_a_message_that_comes_while_we_look(home, monkeypatch):
    """Live: a state whose message was not there yet when the messages were looked at is no orphan."""
    look = fsck.Check.look_at_mess

    def then_comes(check):
        look(check)
        put(home, IDS[0], message(IDS[0]))
        put(home, IDS[0], state.entry(IDS[0], b'd', b'0'), b'state')
        put(home, IDS[1], state.entry(IDS[1], b'd', b'0'), b'state')
    monkeypatch.setattr(fsck.Check, 'look_at_mess', then_comes)
    queued = os.open(home + b'/queue/mess', os.O_RDONLY)
    try:
        unix.flock(queued, unix.LOCK_EX)
        assert run(home)[1][-1] == b'qpy-fsck: 1 orphan; the queue is in use'
    finally:
        os.close(queued)


def test_in_use_in_another_container(home, monkeypatch):
    """Where /proc/locks does not show queued's lock, as in another namespace of processes, the queue is in use all the same;
    and queued is not kept out by the look."""
    real, flock = unix.read_file, unix.flock
    monkeypatch.setattr(unix, 'read_file', lambda path, *more, **where: b'' if path == b'/proc/locks' else real(path, *more, **where))
    put(home, b'99.1.part', b'half')
    queued = os.open(home + b'/queue/mess', os.O_RDONLY)
    try:
        flock(queued, unix.LOCK_EX | unix.LOCK_NB)
        assert run(home) == (exits.OK, [b'qpy-fsck: 1 receiving; the queue is in use'])
        flock(queued, unix.LOCK_UN)
        monkeypatch.setattr(queuecheck, 'true_name', lambda footer: flock(queued, unix.LOCK_EX | unix.LOCK_NB))
        put(home, b'stranger', b'x')
        assert run(home)[1][-1] == b'qpy-fsck: 1 foreign, 1 part; the queue is at rest'
    finally:
        os.close(queued)


def test_a_copy(home, tmp_path):
    """Q-25: a queue copied with cp -a, into other inodes, is as healthy as before."""
    for ident in IDS:
        put(home, ident, message(ident))
    subprocess.run(['cp', '-a', home, str(tmp_path / 'other')], check=True)
    assert run(os.fsencode(str(tmp_path / 'other')))[0] == exits.OK


THERE = {b'qpyq': (994, 993), b'qpys': (992, 993)}


@pytest.mark.parametrize('place, have, closed', [
    ('mess', (994, 993, 0o640), False), ('mess', (0, 0, 0o640), True), ('mess', (994, 994, 0o640), True),
    ('mess', (992, 993, 0o640), False), ('mess', (994, 993, 0o600), True), ('mess', (0, 0, 0o644), False),
    ('mess', (994, 993, 0o040), True), ('state', (992, 993, 0o640), False), ('state', (0, 0, 0o644), True),
    ('state', (0, 993, 0o660), False), ('state', (992, 993, 0o600), True), ('state', (992, 993, 0o440), True),
    ('damaged', (0, 0, 0), False)])
def test_who_is_shut_out(place, have, closed):
    """Of owner, group and mode, what counts is whether its programs can open it."""
    assert queuecheck.closed(queuecheck.FILES[place.encode()], have, THERE) is closed
    assert not queuecheck.closed(queuecheck.FILES[place.encode()], have, {})


@pytest.mark.skipif(os.geteuid() != 0, reason='needs root')
def test_a_copy_without_owners(home):
    """Q-25: what cp -r by root has made: each directory, message, state and the lock is said to be closed."""
    put(home, IDS[0], message(IDS[0]))
    put(home, IDS[0], state.entry(IDS[0], b'd', b'0'), b'state')
    put(home, b'lock', b'', b'state')
    paths = [home + b'/queue/' + path for path in (b'mess', b'state', b'damaged', b'mess/' + IDS[0], b'state/' + IDS[0],
                                                  b'state/lock')]
    for path in paths:
        os.chmod(path, 0o750 if os.path.isdir(path) else 0o640)
        os.chown(path, 0, 0)
    code, said = run(home)
    assert code == 1 and said[:-1] == [b'queue/%b: %b' % (path.partition(b'/queue/')[2], queuecheck.TABLE[b'closed'][2])
                                       for path in paths]
    for path in paths[:3]:
        rig.give(path)
    assert run(home)[1][:-1] == said[3:-1]
    for path in paths[:2]:
        subprocess.run(['chown', '-R', '--reference', path, path], check=True)
    assert run(home) == (exits.OK, [b'qpy-fsck: 1 whole; the queue is at rest'])


@pytest.mark.skipif(os.geteuid() != 0, reason='needs root')
def test_the_example_opens_a_copy(home, monkeypatch):
    """Q-25: what the page says to do after qpy-install, for what cp -r by root under umask 077 has made."""
    monkeypatch.setattr(fsck, 'identity', lambda home: THERE)
    for name, role, mode in ((b'mess', b'qpyq', 0o750), (b'state', b'qpys', 0o750), (b'damaged', b'qpyq', 0o700)):
        os.chown(home + b'/queue/' + name, *THERE[role])
        os.chmod(home + b'/queue/' + name, mode)
    os.chmod(home + b'/queue', 0o755)
    put(home, IDS[0], message(IDS[0]))
    put(home, IDS[0], state.entry(IDS[0], b'd', b'0'), b'state')
    put(home, b'lock', b'', b'state')
    put(home, IDS[1], torn(IDS[1]), b'damaged')
    for name in (b'mess/' + IDS[0], b'state/' + IDS[0], b'state/lock', b'damaged/' + IDS[1]):
        os.chown(home + b'/queue/' + name, 0, 0)
        os.chmod(home + b'/queue/' + name, 0o600)
    assert run(home)[1][-1] == b'qpy-fsck: 3 closed, 1 kept; the queue is at rest'
    with open(rig.SOURCE + '/man/qpy-fsck.8') as page:
        lines = [line[2:] for line in page if line.startswith(('# for ', '# find '))]
    assert len(lines) == 2
    subprocess.run(['sh', '-ec', ''.join(lines)], cwd=home + b'/queue', check=True)
    assert run(home)[1][-1] == b'qpy-fsck: 1 kept, 1 whole; the queue is at rest'
    assert os.stat(home + b'/queue/state/lock').st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason='needs root')
def test_a_queue_that_is_closed_itself(home):
    """Who cannot pass through DIR/queue gets at nothing in it, however whole that is."""
    put(home, IDS[0], message(IDS[0]))
    os.chown(home + b'/queue', 0, 0)
    os.chmod(home + b'/queue', 0o700)
    assert run(home) == (1, [b'queue: ' + queuecheck.TABLE[b'closed'][2],
                             b'qpy-fsck: 1 closed, 1 whole; the queue is at rest'])
    os.chmod(home + b'/queue', 0o755)
    assert run(home)[0] == exits.OK


def test_no_queue(tmp_path):
    """A missing queue is a reason to end with 111; a wrong word with 100."""
    with pytest.raises(program.Fatal) as end:
        fsck.main(os.fsencode(str(tmp_path)), [])
    assert end.value.code == exits.TEMP
    with pytest.raises(program.Fatal) as end:
        fsck.main(os.fsencode(str(tmp_path)), [b'--repair'])
    assert end.value.code == exits.PERM


def test_a_failing_disk(home, monkeypatch):
    """What cannot be read is said, and not set aside."""
    put(home, IDS[0], torn(IDS[0]))

    def fail(*args):
        raise OSError(unix.EIO, 'Input/output error')
    monkeypatch.setattr(unix, 'pread', fail)
    code, said = run(home, b'--set-aside')
    assert code == 1 and queuecheck.TABLE[b'unreadable'][2] in said[0] and os.listdir(home + b'/queue/mess')


def test_as_a_program(home):
    """The launcher runs, and its last line has the figures."""
    put(home, IDS[0], message(IDS[0]))
    done = subprocess.run([rig.PYTHON, '-IS', rig.SOURCE + '/bin/qpy-fsck'], env={'QPYHOME': os.fsdecode(home)},
                          capture_output=True)
    assert done.returncode == 0 and done.stdout.endswith(b'qpy-fsck: 1 whole; the queue is at rest\n'), done.stderr


MOUNTS = b"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:22 / /var/qpy/queue rw - xfs /dev/vdb rw
24 22 0:23 / /mnt/a\\040b rw shared:2 master:1 - nfs4 server:/x rw
25 22 0:24 / /var/qpy/queue/mess rw - tmpfs none rw
26 22 0:25 / /srv rw - overlay overlay rw
"""


@pytest.mark.parametrize('path, kind', [
    (b'/home', b'ext4'), (b'/var/qpy/queue', b'xfs'), (b'/var/qpy/queue/state', b'xfs'),
    (b'/var/qpy/queue/mess', b'tmpfs'),
    (b'/var/qpy/queue2', b'ext4'), (b'/mnt/a b/queue', b'nfs4'), (b'/srv/x', b'overlay')])
def test_which_file_system(path, kind):
    """The innermost mount that holds the path, whose name may have blanks."""
    assert mounts.file_system(MOUNTS, path) == kind
    assert mounts.file_system(MOUNTS + b'25 22 0:24 / ' + path.replace(b' ', b'\\040') + b' rw - later none rw\n',
                                  path) == b'later'


def test_no_mount_table_is_no_error():
    """Nonsense in place of it says nothing."""
    for data in (b'', b'\n\n', b'x - y', b'1 2 3:4 / /\\9 rw - ext4 x rw', b'\xff' * 100):
        assert mounts.file_system(data, b'/var/qpy') == b''


@pytest.mark.root
def test_a_queue_in_memory(home, tmp_path):
    """A-15: a queue on tmpfs is told, with what to do; on a disk with a journal nothing is said."""
    words = 'mount -t tmpfs x "$0" && mkdir "$0/mess" "$0/state" "$0/damaged" && exec "$1" -IS "$2"'
    done = subprocess.run(['unshare', '-m', 'sh', '-c', words, os.fsdecode(home) + '/queue', rig.PYTHON,
                           rig.SOURCE + '/bin/qpy-fsck'],
                          env={'QPYHOME': os.fsdecode(home), 'PATH': '/usr/bin:/bin'}, capture_output=True)
    assert done.stdout.startswith(b'queue: its file system (tmpfs) is memory: all mail in it is gone'), done
    assert b'ext4' not in queuecheck.FILE_SYSTEMS and b'xfs' not in queuecheck.FILE_SYSTEMS
