"""Deliveries are contained (L cases, P27, P36, P37): whatever a user's .qmail does, the machine and the mail of others
go on."""
import os
import shutil
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'chain'))
import houses  # noqa: E402

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
ANN, BOB = 54041, 54042


@pytest.fixture(scope='module')
def running():
    house = houses.Rooted(users={'ann': (ANN, ANN), 'bob': (BOB, BOB)})
    try:
        house.write('control/programlimits', 'memory:128\nprocesses:40\ncpu:2\nfiles:50\nfilesize:3\n')
        house.write('control/timeoutlocal', '6\n')
        yield house.start()
        assert house.stop() == 0
    finally:
        house.remove()


def outcome(running, name, recipe):
    """The log's line on a delivery to ann-NAME."""
    if recipe is not None:
        running.recipe('ann', '.qmail-' + name, recipe)
    def started():
        return [line.split()[2][:-1] for line in running.lines if line.startswith('starting delivery')
                and line.endswith(' ann-%s@here.test' % name)]
    before = len(started())
    running.smtp('ann-%s@here.test' % name, text='for ' + name)

    def ended():
        number = started()[before:][:1]
        return next((line for line in running.lines if number and line.startswith('delivery %s: ' % number[0])), None)
    return running.await_that(ended, 'end of ' + name, 60).partition(': ')[2]


def bob_gets(running, mark):
    """Meanwhile another user's mail arrives."""
    running.smtp('bob@here.test', text=mark)
    running.await_message('bob/Maildir', mark)


def script(running, name, text):
    path = os.path.join(running.top, name)
    with open(path, 'w') as file:
        file.write(text)
    os.chmod(path, 0o644)
    return path


def of_ann(dead=False):
    """The pids of what runs as ann; dead: also of what has ended and is not buried, which counts too."""
    found = []
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                if houses.status(int(name))['Uid'].split()[0] == str(ANN) and (dead or houses.alive(int(name))):
                    found.append(int(name))
            except (FileNotFoundError, ProcessLookupError, KeyError):
                pass
    return found


def test_P37_memory_is_bounded(running):
    """A program that takes more memory than control/programlimits gives it fails for later; what fits works."""
    path = script(running, 'hog.py', 'import sys\nx = bytearray(int(sys.argv[1]) << 20)\n')
    assert outcome(running, 'hog', '|python3 -I %s 1000\n' % path).startswith('deferral')
    assert outcome(running, 'fits', '|python3 -I %s 50\n' % path).startswith('success')
    bob_gets(running, 'beside the hog')


def test_P37_processor_time_is_bounded(running):
    """A program that computes for ever is ended after its seconds, before the delivery's own time."""
    started = time.monotonic()
    assert not outcome(running, 'busy', '|while :; do :; done\n').startswith('success')
    assert time.monotonic() - started < 30


def test_P37_descriptors_and_file_sizes_are_bounded(running):
    """A program opens as many files, and writes files as long, as it may."""
    path = script(running, 'files.py', 'import os\nn = 0\ntry:\n    while n < 1000:\n        os.open("/", 0)\n        n += 1\n'
                  'except OSError:\n    os.close(n)\nopen("n", "w").write(str(n))\n')
    assert outcome(running, 'files', '|python3 -I %s\n' % path).startswith('success')
    with open(os.path.join(running.user_homes['ann'], 'n')) as file:
        assert int(file.read()) < 50
    assert not outcome(running, 'long', '|head -c 9000000 /dev/zero >long\n').startswith('success')
    assert os.path.getsize(os.path.join(running.user_homes['ann'], 'long')) == 3 << 20


def test_P37_a_fork_bomb(running):
    """A program that multiplies has its number of processes; all of them end with the delivery; bob's mail arrives."""
    path = script(running, 'bomb.py', 'import os, time\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n'
                  '        time.sleep(0.02)\n')
    running.recipe('ann', '.qmail-bomb', '|python3 -I %s\n' % path)
    running.smtp('ann-bomb@here.test', text='bomb')
    most = 0
    give_up = time.monotonic() + 30
    while len(of_ann()) < 38 and time.monotonic() < give_up:
        time.sleep(0.01)             # until it has multiplied
    for number in range(3):
        most = max(most, len(of_ann()))
        bob_gets(running, 'beside the bomb %d' % number)
    assert 38 <= most <= 60                # its forty, and who is born and dies while we look
    running.await_that(lambda: len(of_ann(dead=True)) <= 2, 'end of the bomb', 40)


def test_P27_a_gigabyte_of_output(running):
    """A program that prints a gigabyte is read to its end; what is kept is a few kilobytes, and no process grows."""
    answer = outcome(running, 'printer', '|head -c 1000000000 /dev/zero; echo the end\n')
    assert len(answer) < 9000
    for pid in houses.descendants(running.process.pid):
        try:
            assert int(houses.status(pid)['VmHWM'].split()[0]) < 150000, houses.name_of(pid)
        except (FileNotFoundError, ProcessLookupError, KeyError):
            pass                     # it has ended


@pytest.mark.parametrize('how', ['setsid sh -c "sleep 600" &', '(setsid sleep 601 >/dev/null 2>&1 &) &',
                                 'nohup sleep 602 >/dev/null 2>&1 & exit 0', 'trap "" TERM HUP INT; (sleep 603) &'])
def test_P36_a_daemon_ends_with_its_delivery(running, how):
    """What a program leaves running, in whatever session, is gone after its delivery."""
    assert outcome(running, 'daemon', '|%s\n' % how).startswith('success')
    running.await_that(lambda: not [pid for pid in of_ann() if houses.name_of(pid) == '?'], 'end of daemons')


def test_P27_overdue_programs_end(running):
    """A program that sleeps longer than control/timeoutlocal is ended with all it started, and its mail waits."""
    assert outcome(running, 'sleeper', '|(sleep 700 &) ; sleep 701\n').startswith('deferral')
    running.await_that(lambda: not [pid for pid in of_ann() if houses.name_of(pid) == '?'], 'end of sleepers')


@pytest.mark.parametrize('name, make', [
    ('fifo', lambda path: os.mkfifo(path)), ('socket', lambda path: os.mknod(path, 0o140600)),
    ('device', lambda path: os.symlink('/dev/zero', path)), ('tty', lambda path: os.symlink('/dev/tty', path)),
    ('shadow', lambda path: os.symlink('/etc/shadow', path)), ('loop', lambda path: os.symlink(path, path)),
    ('directory', lambda path: os.mkdir(path)), ('proc', lambda path: os.symlink('/proc/self/mem', path))])
def test_strange_qmail_files(running, name, make):
    """A FIFO, socket, device, loop, or link to what the user may not read, as .qmail file: the delivery ends soon, never
    reads what it may not, and others' mail goes on."""
    path = os.path.join(running.user_homes['ann'], '.qmail-strange-' + name)
    make(path)
    os.lchown(path, ANN, ANN)
    started = time.monotonic()
    answer = outcome(running, 'strange-' + name, None)
    assert not answer.startswith('success') and time.monotonic() - started < 30
    assert 'root:' not in '\n'.join(running.lines)
    bob_gets(running, 'beside ' + name)


@pytest.mark.parametrize('what, target', [('link', '/etc/passwd'), ('shadow', '/etc/shadow'), ('null', '/dev/full'),
                                          ('queue', '{home}/queue/mess'), ('bob', '{bob}/inbox')])
def test_hostile_links_as_mailboxes(running, what, target):
    """A mailbox that is a link to somebody else's file is not written: the user's rights decide, nobody else's."""
    target = target.format(home=running.home, bob=running.user_homes['bob'])
    path = os.path.join(running.user_homes['ann'], 'box-' + what)
    os.symlink(target, path)
    def looks():
        there = os.stat(target) if os.path.isfile(target) else os.path.exists(target)
        return there and (there is True or (there.st_mtime_ns, there.st_size, there.st_mode))
    before = looks()
    assert outcome(running, 'link-' + what, './box-%s\n' % what).startswith('deferral')
    assert looks() == before


def test_hard_links_as_mailboxes(running):
    """A hard link to bob's file, which another way put there, is not written either."""
    theirs, mine = os.path.join(running.user_homes['bob'], 'theirs'), os.path.join(running.user_homes['ann'], 'hard')
    with open(theirs, 'w') as file:
        file.write('of bob\n')
    os.chown(theirs, BOB, BOB)
    os.chmod(theirs, 0o600)
    os.link(theirs, mine)
    assert outcome(running, 'hard', './hard\n').startswith('deferral')
    with open(theirs) as file:
        assert file.read() == 'of bob\n'


@pytest.mark.parametrize('part, target', [('new', '{bob}/Maildir/new'), ('new', '/etc'), ('tmp', '/etc'), ('tmp', '{bob}'),
                                          ('new', '/dev/null'), ('tmp', '{home}/queue/damaged'), ('new', '{home}/run')])
def test_hostile_links_in_a_maildir(running, part, target):
    """A Maildir whose new or tmp leads to somebody else's directory gets no file there: the user's rights decide."""
    running.recipe('bob', '.qmail-x', './Maildir/\n')
    target = target.format(home=running.home, bob=running.user_homes['bob'])
    top = os.path.join(running.user_homes['ann'], 'Dir')
    shutil.rmtree(top, ignore_errors=True)
    for name in ('', 'tmp', 'new', 'cur'):
        if name == part:
            os.symlink(target, os.path.join(top, name))
        else:
            os.mkdir(os.path.join(top, name), 0o700)
            os.chown(os.path.join(top, name), ANN, ANN)
    before = sorted(os.listdir(target)) if os.path.isdir(target) else os.stat(target).st_size
    assert outcome(running, 'dir-%s' % part, './Dir/\n').startswith('deferral')
    assert (sorted(os.listdir(target)) if os.path.isdir(target) else os.stat(target).st_size) == before


def test_hostile_links_as_locks(running):
    """What an mbox's lock, or the name of its repair, leads to is not written and not cut."""
    theirs = os.path.join(running.user_homes['ann'], 'precious')
    with open(theirs, 'w') as file:
        file.write('precious\n')
    os.chown(theirs, ANN, ANN)
    for name in ('inbox.lock', '.inbox.lock', 'inbox.tmp'):
        os.symlink(theirs, os.path.join(running.user_homes['ann'], name))
    outcome(running, 'locked', './inbox\n')
    with open(theirs) as file:
        assert file.read() == 'precious\n'
    bob_gets(running, 'beside the lock')


# --- control groups ----------------------------------------------------------------------------------------------

ALONE = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    open('alone', 'w').write(str(os.getpid()))
    while True:
        time.sleep(100)
os.wait()
while not os.path.exists('alone') or not os.path.getsize('alone'):
    pass
daemon, me = int(open('alone').read()), os.getpid()
for number in signal.SIGSTOP, signal.SIGKILL:              # first nobody moves any more, then nobody is
    for name in os.listdir('/proc'):
        if name.isdigit() and int(name) not in (daemon, me):
            try:
                os.kill(int(name), number)
            except OSError:
                pass
"""


def group_of(pid):
    with open('/proc/%d/cgroup' % pid) as file:
        return file.read().rpartition('0::')[2].strip()


def grouped(house):
    """Whether this chain has control groups; its log says so."""
    line = next(line for line in house.lines if 'what deliveries leave behind is ended' in line)
    return line.endswith('by control groups')


def left_alone(house):
    """The pid of a daemon of ann's whose program has killed every other process of ann's, its worker among them."""
    path = script(house, 'alone.py', ALONE)
    house.recipe('ann', '.qmail-alone', '|python3 -I %s\n' % path)
    house.smtp('ann-alone@here.test', text='alone')
    note = os.path.join(house.user_homes['ann'], 'alone')
    house.await_that(lambda: os.path.exists(note) and os.path.getsize(note), 'daemon')
    with open(note) as file:
        pid = int(file.read())
    house.await_that(lambda: 'crashed' in '\n'.join(house.lines), 'end of the worker')
    return pid


def test_P36_who_kills_his_worker_is_ended_with_it(running):
    """A user's program that kills its guardian and its worker, so that nobody is left who knows what it has started, is
    ended by its control group when the worker has ended; later mail of the user is delivered."""
    if not grouped(running):
        pytest.skip('no control groups here')
    pid = left_alone(running)
    running.await_that(lambda: not houses.alive(pid), 'end of the daemon')
    running.recipe('ann', '.qmail-alone', '#\n')
    bob_gets(running, 'beside who is alone')
    assert outcome(running, 'later', '|true\n').startswith('success')


def test_without_control_groups_it_stays():
    """Counter-test, and the way without: the log names it, deliveries are ended process by process, and only who has
    killed all that watched it stays."""
    house = houses.Rooted(users={'ann': (ANN, ANN), 'bob': (BOB, BOB)})
    pid = 0
    try:
        launcher = house.home + '/bin/qpy-seed'
        with open(launcher) as file:
            text = file.read()
        with open(launcher, 'w') as file:
            file.write(text.replace('program.run(', 'from qpy.lib import groups\ngroups.prepare = lambda *_: None\n'
                                    'program.run('))
        house.write('control/timeoutlocal', '6\n')
        house.start()
        house.await_line('is ended process by process: no control group is ours')
        assert outcome(house, 'daemon', '|(setsid sleep 605 >/dev/null 2>&1 &) &\n').startswith('success')
        pid = left_alone(house)
        bob_gets(house, 'meanwhile')
        assert houses.alive(pid)
    finally:
        if pid:
            os.kill(pid, 9)
        house.remove()


LEAVE = """
import os, sys
mine = open('/proc/self/cgroup').read().rpartition('0::')[2].strip()
place = sys.argv[1]
users = os.path.dirname(place + mine)
def attempt(what, work):
    try:
        work()
        print(what, 'possible')
    except OSError as problem:
        print(what, 'refused')
def move(path):
    with open(path + '/cgroup.procs', 'w') as file:
        file.write('0')
for what, path in (('root', place), ('users', users), ('seed', users + '/seed'), ('above', os.path.dirname(users))):
    attempt(what, lambda: move(path))
attempt('below', lambda: os.mkdir(place + mine + '/below'))
attempt('kill', lambda: open(users + '/cgroup.kill', 'w').close())
attempt('bound', lambda: open(place + mine + '/cgroup.max.descendants', 'w').close())
"""


def test_P36_a_user_does_not_leave_his_group(running):
    """A user's process has a group of its own below `users`, apart from the daemons; a program in it moves itself nowhere,
    makes no group, and ends nobody by one."""
    if not grouped(running):
        pytest.skip('no control groups here')
    from qpy.lib import groups
    name = group_of(running.daemons()['seed'])
    place = next(os.fsdecode(place) for place in groups.PLACES if os.path.isdir(os.fsdecode(place) + name)
                 and os.path.exists(os.fsdecode(place) + name + '/cgroup.procs'))
    assert name.endswith('/users/seed') and '/users' not in group_of(running.daemons()['lspawn'])
    path = script(running, 'leave.py', LEAVE)
    assert outcome(running, 'leave', '|python3 -I %s %s >left; cat /proc/self/cgroup >>left\n' % (path, place)).startswith('success')
    with open(os.path.join(running.user_homes['ann'], 'left')) as file:
        said = file.read()
    assert said.count('refused') == 7 and 'possible' not in said
    assert '%s/%d.' % (os.path.dirname(name), ANN) in said


def test_local_deliveries_go_first_when_memory_ends(running):
    """The kernel would end users' programs, not the queue: their processes have a higher oom_score_adj."""
    daemons = running.daemons()

    def adjusted(pid):
        with open('/proc/%d/oom_score_adj' % pid) as file:
            return int(file.read())
    assert adjusted(daemons['seed']) > adjusted(daemons['queued'])
    running.recipe('ann', '.qmail-oom', '|cp /proc/self/oom_score_adj oom\n')
    assert outcome(running, 'oom', None).startswith('success')
    with open(os.path.join(running.user_homes['ann'], 'oom')) as file:
        assert int(file.read()) == adjusted(daemons['seed'])
