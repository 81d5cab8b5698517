"""A queue that was copied, restored from an older snapshot, or partly damaged loses nothing that is still there.

Q-15, Q-17 to Q-20, Q-25, A-17.  The real programs run through a busy scene on a modelled disk; every moment of it is
kept. A copy is made of one moment, or file by file of later and later ones, as cp and rsync do beside running programs;
then it is damaged, perhaps, looked at by qpy-fsck, perhaps, and the programs start on it.
"""
import random

import pytest

from qpy.admin import fsck
from qpy.core import exits, mess, queuecheck, state
from qpy.lib import aside
from tests.power import explorer, whole
from tests.power.whole import HOME, Message, World

JOE = b'joe@here.example'
MESSAGES = [Message(1, JOE, [b'bob@here.example', b'later@z.example', b'never@y.example']),
            Message(2, JOE, [b'two@here.example']),
            Message(3, JOE, [b'fwd@here.example', b'late@z.example']),
            Message(4, b'never@sender.example', [b'never@y.example']),
            Message(5, JOE, [b'nobody@here.example', b'box@here.example'])]
VERDICTS = {b'later@z.example': b'ZZ', b'late@z.example': b'Z'}
TRIED = 150                 # copies of each kind


class Moment:
    """What stood where: {path: content} of the queue and of the homes, and the World."""

    def __init__(self, disk, world):
        self.queue, self.homes, self.world = disk.tree(HOME + b'/queue'), disk.tree(b'/disk/home'), world.copy()


@pytest.fixture
def seam(monkeypatch):
    """The rig, with fsck's lines kept in seam.said."""
    made = whole.install(monkeypatch)
    made.said = []
    monkeypatch.setattr(fsck, 'say', made.said.append)
    return made


def moments(seam):
    """Every Moment of the scene."""
    found = []
    with seam.on(whole.fresh_disk('ordered', False), World(dict(VERDICTS))):
        system = whole.System(seam)
        system.pump()

        def look():
            system.hear()
            found.append(Moment(seam.disk, seam.world))
        seam.disk.on_call = look
        system.submit(*MESSAGES)
        system.run()
        seam.disk.on_call = None
        system.stop()
        whole.check(seam.disk, seam.world)
    return found


def disk_of(queue, homes):
    """A disk with these files, whose inodes are all new."""
    disk = whole.fresh_disk('ordered', False)
    for top, files in ((HOME + b'/queue/', queue), (b'/disk/home/', homes)):
        for path, content in files.items():
            parts = path.split(b'/')
            for i in range(1, len(parts)):
                directory = top + b'/'.join(parts[:i])
                if disk._find(directory, None)[2] is None:
                    disk.build(directory)
            old = disk._find(top + path, None)[2]
            if old is None:
                disk.build(top + path, content)
            else:
                old.seen = old.safe = content
    return disk


def is_whole(queue, ident):
    """Is mess/ID there, and what it was?"""
    try:
        mess.unpack(queue.get(b'mess/' + ident, b''), ident)
        return True
    except (mess.Damaged, mess.Newer):
        return False


def gone_with(before, queue, world):
    """Numbers of the messages of which a bounce or a forwarded copy was in the queue before, and is not, whole, any
    more."""
    lost = [content for path, content in before.items() if path.startswith(b'mess/') and is_whole(before, path[5:])
            and path[5:] not in world.acknowledged and not is_whole(queue, path[5:])]
    return {number for number, message in world.messages.items() if any(message.body in content for content in lost)}


def settle(system):
    """Let the programs do what they can; what cannot be used may stay."""
    for _ in range(12):
        system.pump()
        while system.deliver():
            system.pump()
        if system.at_rest():
            return
        system.to_the_next_event()


def recover(seam, queue, last, look=None, bad_disk=False):
    """Start on a copy; what was acknowledged and is in it, whole, must come true.  The disk afterwards.

    last: the Moment from which the homes and the world are.  look(): before the start.  bad_disk: what
    the copy lacks was lost by damage, and with a bounce or a forward what it was about.
    """
    world = last.world.copy()
    world.wall, world.mono = world.wall + 60, 100.0
    gone = gone_with(last.queue, queue, world) if bad_disk else ()
    for ident, number in list(world.acknowledged.items()):
        if not is_whole(queue, ident) or number in gone:
            del world.acknowledged[ident]
    explorer.FIGURES['copies'] = explorer.FIGURES.get('copies', 0) + 1
    with seam.on(disk_of(queue, last.homes), world):
        disk = seam.disk
        if look:
            look()
        system = whole.System(seam, recovering=True)
        settle(system)
        system.stop()
        whole.check(disk, world)
    return disk


def test_a_copy_of_one_moment(seam):
    """With the programs stopped, or from a snapshot: at any moment of the scene, into new inodes."""
    every = moments(seam)
    assert len(every) > 100
    for moment in every[::max(1, len(every) // TRIED)]:
        recover(seam, moment.queue, moment)


def test_an_older_snapshot(seam):
    """The queue goes back to any earlier moment, the homes do not: what is in it is delivered, again at worst."""
    every, chance = moments(seam), random.Random(1)
    for _ in range(TRIED):
        earlier, later = sorted(chance.sample(range(len(every)), 2))
        recover(seam, every[earlier].queue, every[later])


def copied(every, chance, order):
    """({path: content}, the last Moment) of a copy made while the programs run: directory after directory, its names at
    one moment, each file at a later one; what has vanished meanwhile is left out."""
    at, copy = chance.randrange(len(every)), {}
    pace = chance.choice((0, 1, 3, 10, 30))
    for directory in order:
        at = min(len(every) - 1, at + chance.randint(0, pace))
        names = sorted(path for path in every[at].queue if path.startswith(directory))
        for path in names:
            at = min(len(every) - 1, at + chance.randint(0, pace))
            if path in every[at].queue:
                copy[path] = every[at].queue[path]
    return copy, every[at]


def test_a_copy_of_a_running_queue(seam):
    """state/ first and mess/ then, as qpy-internals(7) says: nothing that is in the copy is lost."""
    every, chance = moments(seam), random.Random(2)
    for _ in range(TRIED * 3):
        recover(seam, *copied(every, chance, [b'state/', b'mess/', b'damaged/']))


def test_control_a_copy_in_the_other_order(seam):
    """mess/ first and state/ then: a failure is marked as reported in the one, and the report is not yet in the other.
    The rig must see that."""
    every, chance = moments(seam), random.Random(3)
    with pytest.raises(whole.Loss, match='neither delivered nor bounced'):
        for _ in range(TRIED * 3):
            recover(seam, *copied(every, chance, [b'damaged/', b'mess/', b'state/']))


# --- damage ---------------------------------------------------------------------------------------------------

def cut(data, chance):
    """The end is missing."""
    return data[:chance.randrange(len(data) + 1)]


def zeroed(data, chance):
    """A part is zeros."""
    at = chance.randrange(len(data) + 1)
    end = chance.randint(at, len(data))
    return data[:at] + b'\0' * (end - at) + data[end:]


def flipped(data, chance):
    """One bit."""
    if not data:
        return data
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1:]


def noise(data, chance):
    """Something else."""
    return chance.randbytes(chance.randrange(300))


def damaged(queue, chance):
    """({path: content}, [contents that went away by the damage]) of a queue on a bad disk."""
    queue, gone = dict(queue), []
    paths = sorted(path for path in queue if path.startswith((b'mess/', b'state/')))
    for path in paths:
        if chance.random() < 0.5:
            continue
        what = chance.choice(('change', 'change', 'remove', 'rename', 'double'))
        if what == 'change':
            queue[path] = chance.choice((cut, zeroed, flipped, noise))(queue[path], chance)
        elif what == 'remove':
            gone.append(queue.pop(path))
        else:
            directory, _, name = path.partition(b'/')
            other = chance.choice((b'%016d' % (int(name) + chance.choice((-7, 7))) if name.isdigit() else b'x',
                                   b'#%d' % chance.randrange(99),
                                   b'copy-of-' + name, b'lost+found-%d' % chance.randrange(9)))
            if directory + b'/' + other not in queue:
                queue[directory + b'/' + other] = queue[path]
                if what == 'rename':
                    del queue[path]
    return queue, gone


def follow_the_advice(seam):
    """What qpy-fsck says of a whole message that was set aside: back into queue/mess, under the name it tells."""
    disk = seam.disk
    directory = disk._find(HOME + b'/queue/damaged', None)[2].seen
    for name in list(directory):
        data = directory[name].seen
        true = queuecheck.true_name(data[-mess.FOOTER_SIZE:])
        taken = true and disk._find(HOME + b'/queue/mess/' + true, None)[2] is not None
        if true and not taken and is_whole({b'mess/' + true: data}, true):
            del directory[name]
            disk.build(HOME + b'/queue/mess/' + true, data)
            states = disk._find(HOME + b'/queue/state', None)[2].seen
            if true + aside.SUFFIX in states:
                states[true] = states.pop(true + aside.SUFFIX)


@pytest.mark.parametrize('with_fsck', [False, True], ids=['at once', 'after qpy-fsck'])
def test_a_damaged_queue(seam, with_fsck):
    """Files cut, zeroed, changed, lost, under other names and twice: every message that is still whole is delivered or
    reported; nothing torn is delivered; no byte of what is there is thrown away unless it was finished."""
    every, chance = moments(seam), random.Random(4)
    for _ in range(TRIED):
        moment = chance.choice(every)
        queue, _ = damaged(moment.queue, chance)

        def look():
            seam.said.clear()
            assert fsck.main(HOME, [b'--set-aside']) in (exits.OK, 1)
            seam.disk.files.clear()
        disk = recover(seam, queue, moment, look if with_fsck else None, bad_disk=True)
        left = set(disk.tree(HOME + b'/queue').values())
        for path, content in queue.items():
            directory, _, name = path.partition(b'/')
            if directory == b'mess' and not path.endswith(b'.part') and not is_whole(queue, name):
                assert content in left, path


def test_messages_under_other_names(seam):
    """A whole message under a wrong name is set aside and not delivered as another; when the advice of qpy-fsck is
    followed, it is delivered."""
    every, chance = moments(seam), random.Random(5)
    for _ in range(TRIED):
        moment = chance.choice(every)
        queue, number = {}, 0
        for path, content in moment.queue.items():
            if path.startswith(b'mess/') and mess.is_id(path[5:]):
                number += 1
                path = chance.choice((path, b'mess/%016d' % (int(path[5:]) + 5), b'mess/#%d' % number))
            queue[path] = content

        def look():
            fsck.main(HOME, [b'--set-aside'])
            seam.disk.files.clear()
            follow_the_advice(seam)
        there = {b'mess/' + true: content for path, content in queue.items()
                 if path.startswith(b'mess/') and (true := queuecheck.true_name(content[-mess.FOOTER_SIZE:]))}
        world = moment.world.copy()
        world.wall, world.mono = world.wall + 60, 100.0
        for ident in list(world.acknowledged):
            if not is_whole(there, ident):
                del world.acknowledged[ident]
        with seam.on(disk_of(queue, moment.homes), world):
            look()
            system = whole.System(seam, recovering=True)
            system.run()
            system.stop()
            whole.check(seam.disk, world)


# --- the table says what the programs do ------------------------------------------------------------------------

IDENT, OTHER = b'%016d' % 1_799_999_000_000_000, b'%016d' % 1_799_999_000_000_001
GOOD = mess.pack(b'Subject: x\n\nhello\n', mess.Envelope(JOE, [b'bob@here.example', b'fine@x.example']).build(), IDENT)
NEWER = GOOD[:-mess.FOOTER_SIZE] + GOOD[-mess.FOOTER_SIZE:].replace(b'qpy1', b'qpy2')
BOTH_DONE = state.entry(IDENT, b'd', b'0') + state.entry(IDENT, b'd', b'1')
#: (kind, {path: content}, the path that it is said of)
PLANTED = [
    (b'whole', {b'mess/' + IDENT: GOOD}, b'mess/' + IDENT), (b'part', {b'mess/1.2.part': GOOD[:30]}, b'mess/1.2.part'),
    (b'finished', {b'mess/' + IDENT: GOOD, b'state/' + IDENT: BOTH_DONE}, b'state/' + IDENT),
    (b'damaged', {b'mess/' + IDENT: GOOD[:-9]}, b'mess/' + IDENT),
    (b'damaged', {b'mess/' + IDENT: b''}, b'mess/' + IDENT),
    (b'renamed', {b'mess/' + OTHER: GOOD}, b'mess/' + OTHER), (b'misnamed', {b'mess/x': GOOD}, b'mess/x'),
    (b'newer', {b'mess/' + IDENT: NEWER}, b'mess/' + IDENT), (b'foreign', {b'mess/core': b'x'}, b'mess/core'),
    (b'foreign', {b'state/notes': b'x'}, b'state/notes'),
    (b'torn', {b'mess/' + IDENT: GOOD, b'state/' + IDENT: BOTH_DONE[:-3]}, b'state/' + IDENT),
    (b'broken', {b'mess/' + IDENT: GOOD, b'state/' + IDENT: b'\0\0\0\2x0' + BOTH_DONE[len(BOTH_DONE) // 2:]}, b'state/' + IDENT),
    (b'kept', {b'state/' + IDENT + aside.SUFFIX: BOTH_DONE}, b'state/' + IDENT + aside.SUFFIX),
    (b'orphan', {b'state/' + IDENT: BOTH_DONE}, b'state/' + IDENT),
    (b'shorter', {b'state/shorter': BOTH_DONE}, b'state/shorter'),
    (b'strange', {b'mess/' + IDENT: GOOD, b'state/' + IDENT: state.entry(IDENT, b'd', b'7')}, b'state/' + IDENT),
    (b'kept', {b'damaged/' + IDENT: GOOD[:-9]}, b'damaged/' + IDENT),
    (b'kept whole', {b'damaged/' + IDENT: GOOD}, b'damaged/' + IDENT)]
#: tests/programs/test_fsck.py has these
NOT_PLANTED = {b'receiving', b'young', b'no file', b'no state', b'unreadable', b'writable', b'closed'}


def test_all_kinds_are_planted():
    """No row of the table is forgotten."""
    assert {kind for kind, _, _ in PLANTED} == set(queuecheck.TABLE) - NOT_PLANTED


@pytest.mark.parametrize('kind, files, path', PLANTED)
def test_the_programs_do_what_the_table_says(seam, kind, files, path):
    """qpy-fsck finds this kind; the programs, started on it, deal with it as its row of the table says, and not
    otherwise."""
    how_bad, _, sentence, fate = queuecheck.TABLE[kind]
    world = World()
    with seam.on(disk_of(files, {}), world):
        disk = seam.disk
        fsck.main(HOME, [b'--all'])
        assert [line for line in seam.said if line.startswith(b'queue/' + path) and line.endswith(sentence)], seam.said
        disk.files.clear()
        system = whole.System(seam)
        settle(system)
        system.stop()
        tree = disk.tree(HOME + b'/queue')
        directory, _, name = path.partition(b'/')
        seen = queuecheck.ASIDE if b'damaged/' + name in tree else queuecheck.REMOVED
        seen = queuecheck.LEFT if path in tree else seen
        arrived = whole.files_of(disk.tree(b'/disk/home'), b'bob') or world.abroad
        assert (queuecheck.DELIVERED if arrived else seen) == fate
        if how_bad != queuecheck.WRONG and fate != queuecheck.LEFT:
            assert path not in tree
