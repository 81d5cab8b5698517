"""The scheduler against a world that answers as it likes."""
import random
import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from qpy.core import deliverby, destinations, dispatch, jobs, notices, schedule

L, R = b'local', b'remote'
START = 1_800_000_000


class World:
    """A queue in memory, spawners that answer as told, and the clock: everything around a Dispatch."""

    def __init__(self, local=100, remote=200, per_host=20, **settings):
        self.mono = self.wrong = 0.0            # wrong: what the wall clock is ahead
        self.clock = schedule.Clock(float(START), 0.0)
        self.d = dispatch.Dispatch(self.clock, dispatch.Settings(per_host=per_host, **settings), local, remote)
        self.d.local.capacity = self.d.remote.capacity = 10 ** 6
        self.mail, self.states = {}, {}         # id: (sender, [(channel, recipient, place)]), id: [entries]
        self.open, self.started, self.bounces, self.removed, self.log = {}, [], [], [], []
        self.notes, self.wishes = [], {}        # reports of success and delay; {id: {index: NOTIFY}}
        self.times, self.priorities = {}, {}    # {id: DELIVERBY}, {id: MT-PRIORITY}
        self.full = self.deaf = False           # the disk; the bouncer
        self.delivered = {}
        self.next_id = START * 1_000_000

    def add(self, *recipients, sender=b's@x', arrived=True, priority=0):
        """A new message; a recipient is (channel, place)."""
        self.next_id += 1
        self.mail[self.next_id] = (sender, [(channel, b'r%d@%s' % (n, place), place)
                                            for n, (channel, place) in enumerate(recipients)])
        self.priorities[self.next_id] = priority
        (self.d.arrived if arrived else self.d.found)(self.next_id)
        return self.next_id

    def job(self, id):
        sender, recipients = self.mail[id]
        status, due, attempts = {}, 0, 0
        for letter, *fields in self.states.get(id, ()):
            if letter in (b'd', b'r'):
                status[int(fields[0])] = b's' if fields[1:] else letter
            elif letter == b'f' and status.get(int(fields[0])) != b'd':
                status[int(fields[0])] = letter
            elif letter == b'a':
                due, attempts = int(fields[0]), int(fields[1])
        todo = [(n, *recipient) for n, recipient in enumerate(recipients) if n not in status]
        return jobs.Job(id, b'%016d' % id, 100, sender, todo, len(recipients), id // 1_000_000,
                            next=due and self.clock.steady(due), attempts=attempts, has_state=id in self.states,
                            failed=[n for n in status if status[n] == b'f'],
                            succeeded=[n for n in status if status[n] == b's'],
                            warned=any(letter == b'w' for letter, *_ in self.states.get(id, ())),
                            wishes={n: [(b'N', notify)] for n, notify in self.wishes.get(id, {}).items()} or None,
                            by=deliverby.parse(self.times.get(id)), priority=self.priorities.get(id, 0))

    def step(self, most=1 << 30):
        """Carry out everything that follows from what has happened, or the beginning of it."""
        self.clock.look(START + self.mono + self.wrong, self.mono)
        for _ in range(most):
            actions = self.d.advance()
            if not actions:
                break
            for word, *rest in actions:
                getattr(self, word)(*rest)
        self.log += self.d.lines
        self.d.lines.clear()

    def load(self, id, forced):
        if id not in self.mail:
            self.d.not_loaded(id)
        else:
            self.d.loaded(self.job(id))

    def local(self, job, number, recipient):
        self.open[number] = (job.id, recipient)
        self.started.append((job.id, recipient))

    def remote(self, job, host, sender, numbered):
        for number, recipient in numbered:
            self.local(job, number, recipient)

    def write(self, job):
        if not self.full:
            self.states.setdefault(job.id, []).extend(job.entries)
        self.d.written(job, not self.full)

    def bounce(self, job, failed, kind):
        letter = {b'bounce': b'f', b'success': b'd', b'delay': b'z'}[kind]
        if not self.deaf:
            assert {(letter, b'%d' % n) for n in failed} <= {entry[:2] for entry in self.states[job.id]}
            (self.bounces if kind == b'bounce' else self.notes).append((job.id, failed) if kind == b'bounce' else
                                                                      (kind, job.id, failed))
        self.d.bounced(job.id, not self.deaf)

    def remove(self, job):
        del self.mail[job.id]
        self.states.pop(job.id, None)
        self.removed.append(job.id)
        self.d.removed(job, True)

    def answer(self, number, letter=b'K', scope=b'', text=b'text\n'):
        id, recipient = self.open.pop(number)
        if letter == b'K':
            self.delivered[id, recipient] = self.delivered.get((id, recipient), 0) + 1
        self.d.report(number, letter, scope, text)

    def answer_all(self, *what):
        for number in list(self.open):
            self.answer(number, *what)
        self.step()

    def wait(self, seconds):
        self.mono += seconds
        self.step()


def test_one_message():
    """A message that is delivered at once leaves without any state being written."""
    w = World()
    id = w.add((L, b'joe'))
    w.step()
    assert list(w.open.values()) == [(id, b'r0@joe')]
    w.answer_all()
    assert w.removed == [id] and w.d.count() == 0
    name = b'%016d' % id
    assert w.log == [b'starting delivery 1: msg %s to local r0@joe' % name, b'status: local 1/100 remote 0/200',
                     b'delivery 1: success: text/', b'status: local 0/100 remote 0/200', b'end msg ' + name]


def test_deferral_and_retry():
    """A deferred recipient is tried again on qmail's curve; its reason and the next time are written down."""
    w = World()
    id = w.add((R, b'h'))
    w.step()
    w.answer_all(b'Z')
    assert w.states[id] == [(b'z', b'0', b'text\n'), (b'a', b'%d' % (START + 400), b'1')]
    w.wait(399)
    assert not w.open
    w.wait(1)
    assert w.open
    w.answer_all()
    assert w.removed == [id]


def test_bounce_at_the_end_of_the_pass():
    """One report covers all that failed in a pass; only then does the rest sleep."""
    w = World()
    id = w.add((R, b'a'), (R, b'b'), (R, b'c'))
    w.step()
    a, b, c = w.open
    w.answer(a, b'D')
    w.answer(b, b'Z')
    w.step()
    assert not w.bounces
    w.answer(c, b'D')
    w.step()
    assert w.bounces == [(id, [0, 2])]
    w.wait(500)
    assert [r for _, r in w.open.values()] == [b'r1@b']
    w.answer_all()
    assert w.removed == [id] and len(w.bounces) == 1


def test_bounce_when_end():
    """With bouncewhen `end` the report waits until nobody is left to try."""
    w = World(bounce_at_end=True)
    id = w.add((R, b'a'), (R, b'b'))
    w.step()
    a, b = w.open
    w.answer(a, b'D')
    w.answer(b, b'Z')
    w.step()
    assert not w.bounces
    w.wait(500)
    w.answer_all()
    assert w.bounces == [(id, [0])] and w.removed == [id]


def test_bounce_that_cannot_be_made():
    """A report that cannot be queued is tried again after 123 s, without trying the recipients before their time."""
    w = World()
    id = w.add((R, b'a'), (R, b'b'))
    w.step()
    a, b = w.open
    w.deaf = True
    w.answer(a, b'D')
    w.answer(b, b'Z')
    w.step()
    w.wait(122)
    w.deaf = False
    assert not w.bounces
    w.wait(2)
    assert w.bounces == [(id, [0])] and not w.open
    w.wait(300)
    assert [r for _, r in w.open.values()] == [b'r1@b']


def test_triple_bounce():
    """What a double bounce cannot be delivered to is dropped, with qmail's line."""
    w = World()
    id = w.add((R, b'a'), sender=b'#@[]')
    w.step()
    w.answer_all(b'D')
    assert w.removed == [id] and not w.bounces
    assert b'triple bounce: discarding bounce/%016d' % id in w.log


def test_dying():
    """Past its lifetime a message gets one more try; a deferral then is a failure that says so."""
    w = World(lifetime=500)
    w.add((R, b'a'))
    w.step()
    w.answer_all(b'Z')
    w.wait(400)
    w.answer_all(b'Z')
    w.wait(1200)
    w.answer_all(b'Z', b'', b'no')
    assert any(line.endswith(b"failure: no/I'm_not_going_to_try_again;_this_message_has_been_in_the_queue_too_long./")
               for line in w.log)
    assert len(w.bounces) == 1 and not w.mail


def test_clock_jump_bounces_nothing():
    """Q-31: a wall clock that jumps 30 days neither ends nor wakes a message."""
    w = World()
    w.add((R, b'a'))
    for _ in range(5):
        w.step()
        w.answer_all(b'Z')
        w.mono += 5000
    assert w.clock.look(START + w.mono + 30 * 86400, w.mono) == 30 * 86400
    for _ in range(5):
        while w.d.advance():
            pass
        for number in list(w.open):
            w.answer(number, b'Z')
        w.mono += 5000
        w.clock.look(START + w.mono + 30 * 86400, w.mono)
    assert not w.bounces and w.mail


def test_a_clock_that_is_set_back_while_much_is_due():
    """INV6: what was woken and not read yet when the clock went back by less than a jump is not forgotten."""
    w = World()
    ids = [w.add((R, b'h%d' % n)) for n in range(4 * dispatch.OLD_LOADS)]
    w.step()
    w.answer_all(b'Z')
    w.mono += schedule.retry(0, schedule.SKIP_REMOTE)
    w.clock.look(START + w.mono, w.mono)
    for _, *rest in w.d.advance():
        w.load(*rest)
    assert w.d.backlog
    w.wrong = -50
    w.step()
    for _ in range(60):
        w.answer_all()
        w.wait(1)
    assert sorted(w.removed) == ids


def test_groups():
    """Recipients of one host go in transactions of at most 100, each with its own number."""
    w = World()
    w.add(*[(R, b'h')] * 250)
    w.step()
    assert w.d.remote.active == 3 and len(w.open) == 250
    assert [r for _, r in w.open.values()] == [b'r%d@h' % n for n in range(250)]
    w.answer_all()
    assert not w.mail


def test_verp_is_one_by_one():
    """A sender that asks for VERP makes every recipient a transaction."""
    w = World(per_host=3)
    w.add(*[(R, b'h')] * 10, sender=b'list-@x-@[]')
    w.step()
    assert len(w.open) == w.d.remote.active == 3


def test_big_message_does_not_starve_others():
    """D: a message to 50,000 people delays one to somebody else by a transaction, not by 50,000."""
    w = World(remote=10)
    w.add(*[(R, b'h%d' % n) for n in range(50_000)])
    w.step()
    id = w.add((R, b'other'))
    w.step()
    w.answer(next(iter(w.open)))
    w.step()
    w.answer(next(iter(w.open)))
    w.step()
    assert (id, b'r0@other') in w.open.values()


@pytest.mark.parametrize('limits, place', [({'remote': 1}, b'h%d'), ({'per_host': 1}, b'h'), ({'local': 1}, b'u%d')])
def test_priorities(limits, place):
    """RFC 6710: of those that wait, for a channel or for a destination, the highest goes first, and in each who came first."""
    w = World(**limits)
    channel = L if b'u' in place else R
    wanted = [0, -9, 3, 0, 9, 3, -1, 9, 0]
    name = (lambda n: place % n) if b'%' in place else lambda n: place
    first = w.add((channel, name(100)))
    w.step()
    ids = [w.add((channel, name(n)), priority=priority) for n, priority in enumerate(wanted)]
    w.step()
    while w.open:
        w.answer_all()
    order = sorted(range(len(wanted)), key=lambda n: (-wanted[n], n))
    assert [id for id, _ in w.started] == [first] + [ids[n] for n in order]


def test_full_destination_does_not_hold_others():
    """What waits for a destination with all its slots taken is out of everybody's way."""
    w = World(per_host=5)
    for _ in range(3000):
        w.add((R, b'slow'))
    w.step()
    id = w.add((R, b'fast'))
    w.step()
    assert w.d.remote.active == 6 and (id, b'r0@fast') in w.open.values()
    while w.open:
        assert sum(r == b'r0@slow' for _, r in w.open.values()) <= 5
        w.answer_all()
    assert not w.mail and not w.d.remote.places


def test_local_user_has_half():
    """One local user takes at most half of the local deliveries."""
    w = World(local=10)
    for _ in range(50):
        w.add((L, b'joe'))
    w.step()
    assert w.d.local.active == 5


@pytest.mark.parametrize('channel, limits, mute', [(R, dict(remote=200, per_host=20), n) for n in (1, 12, 30)]
                         + [(L, dict(local=100), n) for n in (1, 2, 15)])
def test_destinations_that_never_answer_leave_room(channel, limits, mute):
    """D-05, L-28: hosts that accept and say nothing, or users whose programs hang, stop nobody else's mail."""
    w = World(**limits)
    for n in range(mute):
        for _ in range(60):
            w.add((channel, b'mute%d' % n))
    w.step()
    live = w.add((channel, b'live'))
    w.step()
    assert (live, b'r0@live') in w.open.values()
    assert w.d.channels[channel].active <= jobs.WINDOW * mute + 1


def test_a_destination_grows_again_when_the_others_are_done():
    """Who had a small share in a crowd has his whole one when he is alone."""
    w = World(remote=200, per_host=20)
    for _ in range(400):
        w.add((R, b'long'))
    for n in range(40):
        for _ in range(20):
            w.add((R, b'short%d' % n))
    w.step()
    while any(r != b'r0@long' for _, r in w.open.values()):
        for number in [n for n, (_, r) in w.open.items() if r != b'r0@long']:
            w.answer(number)
        w.step()
    assert len(w.open) < 20
    for _ in range(30):
        w.answer(next(iter(w.open)))
        w.step()
    assert len(w.open) == 20


def test_destination_in_trouble():
    """D-05: scope h leaves a destination alone: what waits for it is deferred untried, others go on, and the
    first to come after the pause is alone until it succeeds."""
    w = World(per_host=3)
    for _ in range(10):
        w.add((R, b'dead'))
    w.step()
    w.answer_all(b'Z', b'h', b'no route')
    assert not w.open and len(w.states) == 10
    assert w.states[min(w.mail) + 9][0] == (b'z', b'0', dispatch.UNREACHABLE + b'no route')
    assert [(p[0], p[1]) for p in w.d.troubled()] == [(b'dead', 1)]
    w.wait(10)
    w.add((R, b'dead'))
    w.add((R, b'alive'))
    w.step()
    assert [r for _, r in w.open.values()] == [b'r0@alive']
    w.answer_all()
    w.wait(500)
    assert len(w.open) == 1
    w.answer_all()
    assert len(w.open) == 3
    w.wait(100)
    while w.open:
        w.answer_all()
    assert not w.mail


def test_trouble_of_one_message():
    """Scope o: it is deferred alone; others to its destination are tried; and where it was to find out whether that can be
    had again, the next one does."""
    w = World(per_host=40)
    for _ in range(3):
        w.add((R, b'fine'))
    w.step()
    w.answer_all(b'Z', b'o')
    w.add((R, b'fine'))
    w.step()
    assert len(w.open) == 1 and not w.d.troubled()
    w.answer_all()
    w = World(per_host=3)
    for _ in range(6):
        w.add((R, b'dead'))
    w.step()
    w.answer_all(b'Z', b'h', b'no route')
    w.wait(600)
    for _ in range(3):
        assert len(w.open) == 1 and len(w.d.troubled()) == 1
        w.answer_all(b'Z', b'o')
    assert len(w.open) == 1
    w.answer_all()
    assert not w.d.troubled() and len(w.open) == 2


def test_forgive():
    """tcpok, HUP and ALRM end the pause of a destination, and what waits because of its trouble goes at once."""
    for act in (lambda w: w.d.forgive(b'dead'), lambda w: w.d.forgive(), lambda w: w.d.run_all()):
        w = World()
        w.add((R, b'dead'))
        w.step()
        w.answer_all(b'Z', b'h', b'no route')
        late = w.add((R, b'dead'), (R, b'alive'))
        w.step()
        assert b'destination dead: msg %016d waits untried, recipients 1' % late in w.log
        w.answer_all()
        w.wait(30)
        assert not w.open and len(w.d.asleep) == 2
        act(w)
        w.step()
        while w.open:
            w.answer_all()
        assert not w.mail


def test_forgiven_in_the_midst_of_a_pass():
    """A message of which other recipients are still under way when its destination is forgiven goes on at their end;
    one that sleeps for another reason sleeps on."""
    w = World()
    w.add((R, b'dead'))
    w.step()
    w.answer_all(b'Z', b'h')
    other = w.add((R, b'other'))
    w.step()
    w.answer_all(b'Z')
    w.add((R, b'dead'), (R, b'slow'))
    w.step()
    assert [r for _, r in w.open.values()] == [b'r1@slow']
    w.d.forgive()
    w.step()
    assert sorted(r for _, r in w.open.values()) == [b'r0@dead', b'r1@slow']
    w.answer_all()
    w.wait(2)
    assert [r for _, r in w.open.values()] == [b'r0@dead']
    w.answer_all()
    assert list(w.mail) == [other] and w.d.asleep[other] > 0


def test_given_up_untried():
    """The last pass of a message whose destination is in trouble ends it untried, and the log says so."""
    w = World(per_host=1)
    old = w.add((R, b'dead'))
    w.step()
    for _ in range(3):
        w.answer_all(b'Z')
        w.wait(schedule.LONGEST + schedule.LONGEST // schedule.JITTER)
    w.answer_all(b'Z')
    w.add((R, b'dead'))
    w.wait(700_000)
    w.answer_all(b'Z', b'h')
    assert b'destination dead: msg %016d given up untried, recipients 1' % old in w.log
    assert w.removed == [old] and w.bounces == [(old, [0])]


def test_a_host_that_is_never_well_again():
    """Messages that have gone are not remembered for ever with the destination whose trouble they had waited for."""
    w = World(per_host=1)
    for _ in range(8):
        for _ in range(20):
            w.add((R, b'dead'))
        for _ in range(40):
            w.wait(20_000)
            w.answer_all(b'Z', b'h')
    w.wait(20_000)
    w.answer_all(b'Z', b'h')
    assert len(w.d.remote.places[b'dead'].stranded) <= len(w.mail)


def test_parked():
    """Beyond a crowd, messages for a busy destination are put back to two numbers each, and all are delivered."""
    w = World(per_host=2)
    for _ in range(5000):
        w.add((R, b'h'))
    w.step()
    assert len(w.d.jobs) <= dispatch.PARK_FROM + dispatch.CROWD
    while w.open:
        w.answer_all()
    assert not w.mail


def test_a_step_through_a_backlog_is_short():
    """However much is due, a step reads a few of the backlog only: what comes meanwhile does not wait long for it."""
    w = World()
    for _ in range(dispatch.LOADS):
        w.add((R, b'h'), arrived=False)
    w.step()
    for arrived, most in ((False, dispatch.OLD_LOADS), (True, dispatch.LOADS - dispatch.LOADS // 4)):
        new = {w.add((R, b'h'), arrived=arrived) for _ in range(dispatch.LOADS)}
        assert len([id for word, id, _ in w.d.advance() if word == dispatch.LOAD and id in new]) == most


@pytest.mark.parametrize('arrived, most', [(True, dispatch.LOADS), (False, dispatch.OLD_LOADS)])
def test_behind_many_that_were_held(arrived, most):
    """INV6: a step that finds only what was held meanwhile goes on to what is behind it; nobody would call for another."""
    w = World()
    *held, last = [w.add((R, b'h'), arrived=arrived) for _ in range(most + 1)]
    for id in held:
        w.d.command(id, dispatch.HOLD)
    w.step()
    assert w.started == [(last, b'r0@h')]


@pytest.mark.parametrize('many', [5_000, 20_000])
def test_what_is_parked_is_read_twice(many):
    """D-05: however many messages drain to one destination, each is read for it, at most once more to be parked, and in every
    part of the drain as many are delivered by as many steps."""
    w, reads, left, steps = World(), [], [], 0
    w.load = lambda id, forced: (reads.append(id), World.load(w, id, forced))
    for _ in range(many):
        w.add((R, b'h'), arrived=False)
    w.step()
    while w.mail:
        w.answer_all()
        steps += 1
        left.append(len(w.mail))
    assert len(reads) <= 2 * many and max(map(reads.count, reads[:100])) <= 2
    tenths = [sum(tenth * many // 10 <= count < (tenth + 1) * many // 10 for count in left) for tenth in range(9)]
    assert max(tenths) <= 2 * min(tenths), tenths


def test_parked_for_a_host_that_goes_into_trouble():
    """INV6: what is parked for a host that does not answer any more sleeps until the host may be tried again, and not for
    ever."""
    w = World(per_host=2)
    for _ in range(dispatch.PARK_FROM + 2 * dispatch.CROWD):
        w.add((R, b'h'))
    w.step()
    parked = {id for id, due in w.d.asleep.items() if due == dispatch.PARKED}
    assert parked
    w.answer_all(b'Z', b'h', b'no route')
    until = w.d.troubled()[0][3]
    assert all(until <= w.d.asleep[id] <= until + len(parked) // schedule.SPREAD_RATE for id in parked)
    w.wait(schedule.BACKOFF_MOST)
    while w.open:
        w.answer_all()
    assert not w.mail


@pytest.fixture
def small(monkeypatch):
    """Crowds and limits that a test reaches with few messages."""
    for name, number in dict(MOST_JOBS=12, PARK_FROM=2, CROWD=3, CALM=1, LOADS=4, OLD_LOADS=2, STALE=3).items():
        monkeypatch.setattr(dispatch, name, number)


def parked(w):
    return [id for id, due in w.d.asleep.items() if due == dispatch.PARKED]


@pytest.mark.parametrize('order', [dispatch.DROP, dispatch.HOLD])
def test_parked_behind_what_is_taken_out_of_the_queue(small, order):
    """INV6: whoever is parked behind a run of messages that are dropped or held is called back when none of them is left."""
    w = World(per_host=1)
    ids = [w.add((R, b'h')) for _ in range(20)]
    w.step()
    assert ids[-1] in parked(w)
    for id in ids[1:-2]:
        w.d.command(id, order)
    w.step()
    for _ in range(4):
        w.answer_all()
    assert w.delivered.keys() == {(id, b'r0@h') for id in (ids[0], *ids[-2:])}


def test_parked_behind_what_was_called_back_and_did_not_come(small):
    """INV6: who is parked does not depend for ever on those that were called before him."""
    w = World(per_host=1)
    ids = [w.add((R, b'h')) for _ in range(20)]
    w.step()
    while w.open:
        w.answer(*w.open)
        for id in list(w.d.backlog):
            w.d.command(id, dispatch.HOLD)
        w.step()
    left = parked(w)
    assert left
    w.d.prune()
    for _ in range(20):
        w.step()
        w.answer_all()
    assert not parked(w) and set(left) <= set(w.removed) < set(ids)


def test_alrm_calls_back_who_is_parked(small):
    """... and nothing waits for a place but those that are read again."""
    w = World(per_host=1)
    for _ in range(20):
        w.add((R, b'h'))
    w.step()
    ids = parked(w)
    w.d.run_all()
    assert ids and not parked(w) and all(w.d.asleep[id] == dispatch.DUE for id in ids)
    for _ in range(20):
        w.answer_all()
    assert not w.mail


def test_a_turn_that_is_not_taken_is_the_next_ones():
    """INV6: a message whose turn has come, and which is dropped before it starts, leaves its turn to who waits behind it."""
    w = World(per_host=1)
    ids = [w.add((R, b'h')) for _ in range(3)]
    w.step()
    w.answer(*w.open)
    w.d.command(ids[1], dispatch.DROP)
    w.step()
    w.answer_all()
    assert w.delivered.keys() == {(ids[0], b'r0@h'), (ids[2], b'r0@h')}


def test_messages_to_a_crowd_and_to_others():
    """D-05: thousands of messages that also go where a rate is kept are delivered to the others, stop nobody else's mail, and
    have each recipient once."""
    w, most = World(limits=limits(slow=b'20 6/m')), 0
    ids = []
    for n in range(dispatch.MOST_JOBS + 500):
        ids.append(w.add((L, b'u%d' % (n % 50)), (R, b'slow')))
        if n % 50 == 49:
            w.step()
            most = max(most, len(w.d.jobs))
            w.answer_all()
    w.answer_all()
    assert most <= dispatch.PARK_FROM + 2 * dispatch.CROWD
    assert {id for id, recipient in w.delivered if recipient.startswith(b'r0@')} == set(ids)
    other = w.add((L, b'other'))
    w.step()
    assert other in {id for id, _ in w.open.values()}
    w.d.use(dispatch.Settings())                # the rate is lifted
    w.wait(60)
    while w.open:
        w.answer_all()
    assert not w.mail and set(w.delivered.values()) == {1} and len(w.delivered) == 2 * len(ids) + 1


@pytest.mark.parametrize('order', [dispatch.DROP, dispatch.FAIL])
def test_an_order_while_some_are_put_off(small, order):
    """What is ordered in a pass without those for whom a crowd waits is done to them, too."""
    w = World(per_host=1)
    for _ in range(6):
        w.add((R, b'h'))
    w.step()
    id = w.add((L, b'u'), (R, b'h'), (R, b'h'))
    w.step()
    assert w.d.jobs[id].put_off.keys() == {1, 2}
    w.d.command(id, order)
    w.step()
    (number,) = [number for number, (each, _) in w.open.items() if each == id]
    w.answer(number)
    w.step()
    assert id in w.removed and w.bounces == ([(id, [1, 2])] if order == dispatch.FAIL else [])


def test_failures_are_told_while_some_are_put_off(small):
    """A report does not wait for a crowd; nor, while the bouncer is deaf, is it asked every second."""
    w, asked = World(per_host=1), []
    id = w.add((L, b'u'), (R, b'h'))
    w.step()
    w.answer_all(b'Z')
    for _ in range(6):
        w.add((R, b'h'))
    w.step()
    w.deaf, w.bounce = True, lambda *rest: (asked.append(w.mono), World.bounce(w, *rest))
    w.wait(schedule.retry(0, schedule.SKIP_REMOTE))
    (number,) = [number for number, (each, _) in w.open.items() if each == id]
    w.answer(number, b'D')
    for _ in range(3 * schedule.TROUBLE):
        w.wait(1)
    assert len(asked) == 3
    w.deaf = False
    w.wait(schedule.TROUBLE)
    assert w.bounces == [(id, [0])] and id in parked(w)


def test_old_mail_is_not_forgotten_for_new():
    """While new mail pours in, one of four that are loaded is from the backlog."""
    w = World()
    for _ in range(dispatch.LOADS):
        w.add((R, b'old'), arrived=False)
    old = set(w.mail)
    for _ in range(3 * dispatch.LOADS):
        w.add((R, b'new'))
    loads = [id for action, id, _ in w.d.advance() if action == dispatch.LOAD]
    assert len(loads) == dispatch.LOADS
    assert [id in old for id in loads] == [False, False, False, True] * (dispatch.LOADS // 4)


def test_the_backlog_leaves_room_for_new_mail(small):
    """However much of what was there before hangs, half of the jobs are for what arrives."""
    w = World()
    for n in range(2 * dispatch.MOST_JOBS):
        w.add((R, b'h%d' % n), arrived=False)
    w.step()
    assert len(w.d.jobs) == dispatch.MOST_JOBS // 2
    new = [w.add((L, b'u%d' % n)) for n in range(dispatch.MOST_JOBS // 2)]
    w.step()
    assert {id for id, _ in w.open.values()} > set(new)


def test_prune(monkeypatch):
    """Of very many destinations those are forgotten whose trouble is long past, and those only."""
    monkeypatch.setattr(dispatch, 'MOST_DESTINATIONS', 3)
    w = World()
    for n in range(3):
        w.add((R, b'h%d' % n))
    w.step()
    w.answer_all(b'Z', b'h')
    w.add((R, b'busy'))
    w.step()
    w.d.prune()
    assert len(w.d.remote.places) == 4          # their trouble is not past yet
    w.mono += 3 * schedule.BACKOFF_MOST
    w.clock.look(START + w.mono, w.mono)
    w.d.now = w.clock.now
    w.d.prune()
    assert list(w.d.remote.places) == [b'busy']


def test_full_disk():
    """Q-01, Q-21: while nothing can be written nothing is forgotten, and it goes on by itself later."""
    w = World()
    w.add((R, b'a'), (R, b'b'))
    w.full = True
    w.step()
    a, b = w.open
    w.answer(a, b'K')
    w.answer(b, b'D')
    w.step()
    assert not w.bounces and not w.removed
    w.wait(60)
    w.full = False
    w.wait(60)
    assert not w.bounces
    w.wait(10)
    assert len(w.bounces) == 1 and not w.mail


def test_alrm_hurries_what_could_not_be_written():
    """Everything means everything: it does not wait for its 123 seconds."""
    w = World()
    w.add((R, b'a'))
    w.full = True
    w.step()
    w.answer_all(b'D')
    w.step()
    w.full = False
    w.d.run_all()
    w.step()
    assert len(w.bounces) == 1 and not w.mail


def test_reports_on_very_many_are_shortened():
    """INV7: what 100,000 recipients' reports take in a state is bounded; first and last words are kept."""
    long = b'first' + b'x' * 9000 + b'last\n'
    assert dispatch.shortened(long, 1) == long and dispatch.shortened(b'short\n', 10 ** 6) == b'short\n'
    for total in (10_000, 131_072, 10 ** 7):
        short = dispatch.shortened(long, total)
        assert len(short) <= max(dispatch.LEAST_TEXT, dispatch.STATE_TEXT // total) + 5
        assert short.startswith(b'first') and short.endswith(b'last\n')
    assert dispatch.shortened(b'x' * 500 + notices.EXPIRED, 10 ** 7).endswith(notices.EXPIRED)


def test_unremovable():
    """A message clean cannot remove is not delivered again: that it is finished is written, removal tried again."""
    w = World()
    id = w.add((L, b'a'))
    answers = [False, True]
    w.remove = lambda job: w.d.removed(job, answers.pop(0))
    w.step()
    w.answer_all()
    assert w.states[id] == [(b'd', b'0')] and w.d.count() == 1
    w.wait(130)
    assert not answers and w.d.count() == 0 and len(w.started) == 1


def test_hold_and_release():
    """A held message is not tried, also not by ALRM, until it is released; what is in flight ends by itself."""
    w = World(per_host=1)
    id = w.add((R, b'a'), (R, b'a'), sender=b'x-@y-@[]')
    w.step()
    w.d.command(id, dispatch.HOLD)
    w.step()
    w.answer_all()
    w.d.run_all()
    w.wait(9999)
    assert not w.open and w.d.asleep[id] == dispatch.HELD
    w.d.run(id)
    w.step()
    assert [r for _, r in w.open.values()] == [b'r1@a']


def test_drop_and_fail():
    """drop removes without a word; bounce gives up at once, and a deferral in flight counts as failure."""
    for order, bounces in ((dispatch.DROP, 0), (dispatch.FAIL, 1)):
        for asleep in (True, False):
            w = World(per_host=1)
            id = w.add((R, b'a'), (R, b'a'), sender=b'x-@y-@[]')
            w.step()
            if asleep:
                w.answer_all(b'Z')
                w.answer_all(b'Z')
                assert id in w.d.asleep
            w.d.command(id, order)
            w.step()
            w.answer_all(b'Z')
            assert w.removed == [id] and len(w.bounces) == bounces
            assert not w.d.orders and not w.d.loading


def test_unknown_reports():
    """Q-35: a report for a delivery that does not exist, or with an unknown letter, harms nothing."""
    w = World()
    w.add((L, b'a'))
    assert w.d.report(77, b'K', b'', b'') is False
    w.step()
    w.answer_all(b'?')
    assert b'delivery 1: report mangled, will defer' in w.log and w.mail


def test_exit():
    """After TERM nothing starts; it is quiet when the last report is in."""
    w = World(local=1)
    w.add((L, b'a'))
    w.add((L, b'b'))
    w.step()
    w.d.exit()
    w.step()
    assert not w.d.quiet()
    w.answer_all()
    assert w.d.quiet() and len(w.started) == 1
    assert b'status: local 0/1 remote 0/200 exitasap' in w.log


OUTCOMES = [(b'K',), (b'K',), (b'K',), (b'Z',), (b'D',), (b'Z', b'h'), (b'?',)]


@settings(deadline=None, max_examples=60)
@given(st.randoms(use_true_random=False), st.booleans(), st.integers(1, 5))
def test_conservation(rng, at_end, per_host):
    """Whatever reports come in whatever order: each recipient is delivered at most once, and in the end exactly one
    of delivered or reported; limits hold all along; nothing is left over."""
    w = World(local=4, remote=6, per_host=per_host, bounce_at_end=at_end, lifetime=30000)
    expected = []
    for _ in range(rng.randint(1, 12)):
        recipients = [(rng.choice([L, R]), rng.choice([b'a', b'b', b'c'])) for _ in range(rng.randint(1, 6))]
        id = w.add(*recipients, sender=rng.choice([b's@x', b'l-@x-@[]']), arrived=rng.random() < 0.5)
        expected += [(id, r[1]) for r in w.mail[id][1]]
    names = {id: [r[1] for r in m[1]] for id, m in w.mail.items()}
    for _ in range(3000):
        w.deaf, w.full = rng.random() < 0.1, rng.random() < 0.1
        w.step()
        assert w.d.local.active <= 4 and w.d.remote.active <= 6
        for channel in (w.d.local, w.d.remote):
            for place in channel.places.values():
                assert 0 <= place.active <= w.d.per_place(place) and place.works >= 0
        if w.open:
            w.answer(rng.choice(list(w.open)), *rng.choice(OUTCOMES))
        elif not w.mail:
            break
        else:
            due = w.d.next_due()
            w.mono += max(1, due - w.clock.now) if due else 1
            if rng.random() < 0.05:
                w.d.run_all()
    w.step()
    assert not w.mail and not w.open and w.d.count() == 0 and w.d.loaded_recipients == 0
    reported = [(id, names[id][n]) for id, failed in w.bounces for n in failed]
    assert sorted([*w.delivered, *reported]) == sorted(expected)
    assert set(w.delivered.values()) <= {1}


NAMES = [b'a', b'b', b'slow', b'slow']
ORDERS = [dispatch.HOLD, dispatch.DROP, dispatch.FAIL, None]


def check_that_nobody_is_forgotten(w):
    """INV6: whoever is to be woken stands where he will be."""
    d = w.d
    queued = {*d.fresh, *d.backlog}
    for id, due in d.asleep.items():
        assert due in (dispatch.PARKED, dispatch.HELD) or id in queued or due > 0 and id in d.calendar.seconds[due][1]
    paced = {name for _, name in d.paced}
    written = {job for _, job in d.stuck} | {rest[0] for word, *rest in d.actions if word == dispatch.WRITE}
    for channel in d.channels.values():
        turns = {work for _, ready in channel.ring for work in ready}
        called = {work.place for work in turns}
        for place in channel.places.values():
            waiting = [work for work in place.waiting or () if work.recipients]
            turns.update(waiting)
            assert not waiting or place.active or place in called or place.name in paced
        for job in d.jobs.values():
            assert all(work in turns for work in job.works if work.recipients and work.place.channel is channel)
    assert all(job in written for job in d.jobs.values() if job.after is not None)
    stands = {id for channel in d.channels.values() for place in channel.places.values() for id in place.parked or ()}
    assert {id for id, due in d.asleep.items() if due == dispatch.PARKED} <= stands


def something_happens(w, rng):
    """One event of all those that there may be."""
    what = rng.random()
    if what < 0.3:
        for _ in range(rng.choice([1, 1, 1, 8])):
            w.add(*[(rng.choice([L, R, R]), rng.choice(NAMES)) for _ in range(rng.choice([1, 1, 1, 2, 4]))],
                  arrived=rng.random() < 0.7)
    elif what < 0.7 and w.open:
        w.answer(rng.choice(list(w.open)), *rng.choice(OUTCOMES))
    elif what < 0.9:
        w.mono += rng.choice([1, 10, 10, 60, 2000])
        w.wrong += rng.choice([0, 0, -10, -50, 50, 10])
    elif what < 0.96 and w.mail:
        order, first = rng.choice(ORDERS), rng.choice(list(w.mail))
        for id in [id for id in w.mail if first <= id][:rng.choice([1, 1, 1, 20])]:
            w.d.command(id, order) if order else w.d.run(id)
    elif what < 0.98:
        w.deaf, w.full = rng.random() < 0.3, rng.random() < 0.3
    else:
        rng.choice([w.d.run_all, w.d.forgive, w.d.prune,
                    lambda: w.d.use(dispatch.Settings(per_host=rng.randint(1, 3), limits=rng.choice([w.d.settings.limits, {}])))])()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10 ** 9))
def test_nobody_is_forgotten(small, seed):
    """INV6: crowds, rates, orders, clocks set back, deaf bouncers and full disks, in any order: after each event everybody who
    waits stands where he will be found, and when all is well again each message leaves."""
    rng = random.Random(seed)
    w = World(local=2, remote=4, per_host=rng.randint(1, 3), limits=limits(slow=b'2 %d/m' % rng.randint(1, 6)))
    for _ in range(250):
        something_happens(w, rng)
        if rng.random() < 0.7:
            w.step(rng.choice([1, 1 << 30]))
            check_that_nobody_is_forgotten(w)
    w.deaf = w.full = False
    for _ in range(1000):
        for id in [id for id, due in w.d.asleep.items() if due == dispatch.HELD]:
            w.d.run(id)
        w.answer_all()
        if not w.mail:
            break
        due = w.d.next_due()
        if due is None and not w.open:
            w.d.prune()                         # as keep_house does
            w.step()
            assert w.open or w.d.next_due() is not None
        elif not w.open:
            w.wait(max(1, due - w.clock.now))
    assert not w.mail and w.d.count() == 0 and w.d.loaded_recipients == 0 and set(w.delivered.values()) <= {1}


def memory_of(act):
    """Bytes that are there after act() and were not before."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    act()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used


def test_size_of_waiting():
    """D-04: a waiting message costs less than 150 bytes."""
    w, many = World(), 100_000

    def act():
        for n in range(many):
            w.d.found(START * 1_000_000 + n, START + 1000 + n % 10_000)
    assert memory_of(act) < 150 * many


def test_size_of_waiting_for_the_dead():
    """D-04: one that waits because its destination is in trouble costs less than 240."""
    w, many = World(), 20_000
    w.load = lambda id, forced: w.d.loaded(jobs.Job(id, b'%016d' % id, 100, b's@x', [(0, R, b'r@dead', b'dead')], 1, START))
    w.write = lambda job: w.d.written(job, True)
    w.d.found(START * 1_000_000)
    w.step()
    w.answer_all(b'Z', b'h', b'no route')

    def act():
        for n in range(1, many):
            w.d.found(START * 1_000_000 + n)
            w.step()
            w.log.clear()
    assert memory_of(act) < 240 * many
    assert len(w.d.remote.places[b'dead'].stranded) == many == w.d.count()


def test_never_quadratic():
    """Ten times the messages take about ten times as long, not a hundred times."""
    def seconds(count):
        w = World(per_host=3)
        rng = random.Random(1)
        begin = time.process_time()
        for _ in range(count):
            w.add((R, b'h%d' % rng.randint(0, 50)))
        w.step()
        while w.open:
            for number in list(w.open):
                w.answer(number)
            w.step()
        return time.process_time() - begin
    assert seconds(20_000) < 30 * max(seconds(2_000), 0.02)


# --- reports that are no failures ---------------------------------------------------------------------------

def test_success_is_told_to_who_asked():
    """NOTIFY=SUCCESS: one report on all that succeeded, after the pass, and then the message leaves; nobody else's mail
    is written to a state for it."""
    w = World()
    id, other = w.add((L, b'joe'), (R, b'far'), (L, b'sue')), w.add((L, b'joe'))
    w.wishes[id] = {0: b'SUCCESS', 1: b'SUCCESS,FAILURE', 2: b'FAILURE'}
    w.step()
    w.answer_all(b'K', b'', b'did 1+0+0\n')
    assert w.notes == [(b'success', id, [0, 1])] and sorted(w.removed) == [id, other] and not w.bounces


def test_success_that_the_next_hop_tells():
    """Who handed it to a server that knows DSN leaves the telling to it."""
    w = World()
    w.wishes[w.add((R, b'far'))] = {0: b'SUCCESS'}
    w.step()
    w.answer_all(b'K', b'd')
    assert not w.notes and len(w.removed) == 1


@pytest.mark.parametrize('sender', [b'', b'#@[]'])
def test_nobody_is_told_of_a_bounces_success(sender):
    """No report but of failure on what has no sender."""
    w = World(warn_after=10)
    w.wishes[w.add((L, b'joe'), (L, b'sue'), sender=sender)] = {0: b'SUCCESS,DELAY', 1: b'SUCCESS,DELAY'}
    w.step()
    w.answer(min(w.open))
    w.answer_all(b'Z')
    w.wait(1000)
    w.answer_all()
    assert not w.notes and len(w.removed) == 1


def test_a_success_survives_a_bouncer_that_is_deaf():
    """What could not be told is told later, also after a restart, and nothing is delivered twice."""
    w = World()
    id = w.add((L, b'joe'))
    w.wishes[id] = {0: b'SUCCESS'}
    w.step()
    w.deaf = True
    w.answer_all(b'K', b'', b'did 1+0+0\n')
    assert not w.notes and id in w.mail
    again = World()
    again.mail, again.states, again.wishes = w.mail, w.states, w.wishes
    again.d.found(id)
    again.step()
    assert again.notes == [(b'success', id, [0])] and again.removed == [id] and not again.started


def test_delay_is_told_once():
    """After warn_after the sender hears once that it takes long, of those he wants to know of; the attempts go on."""
    w = World(warn_after=1000)
    id = w.add((R, b'far'), (R, b'off'), (R, b'shy'))
    w.wishes[id] = {1: b'DELAY', 2: b'FAILURE'}
    w.step()
    w.answer_all(b'Z')
    assert not w.notes
    for _ in range(4):
        w.wait(3000)
        w.answer_all(b'Z')
    assert w.notes == [(b'delay', id, [0, 1])] and id in w.mail and not w.bounces
    assert [entry[0] for entry in w.states[id]].count(b'w') == 1
    w.wait(10_000)
    w.answer_all()
    assert w.removed == [id] and len(w.notes) == 1


def test_delay_that_cannot_be_told_waits_for_the_next_pass():
    """A deaf bouncer holds nothing up."""
    w = World(warn_after=10)
    id = w.add((R, b'far'))
    w.deaf = True
    w.step()
    w.wait(100)
    w.answer_all(b'Z')
    assert id in w.d.asleep and not w.notes
    w.deaf = False
    w.wait(1000)
    w.answer_all(b'Z')
    assert w.notes == [(b'delay', id, [0])]


def test_no_delay_is_told_where_all_is_over():
    """The last attempt fails: that is a failure and no delay; and with warn_after 0 nobody hears of any."""
    for warn_after, lifetime in ((10, 100), (0, 10 ** 6)):
        w = World(warn_after=warn_after, lifetime=lifetime)
        w.add((R, b'far'))
        for _ in range(8):
            w.step()
            w.answer_all(b'Z')
            w.wait(7200)
        kinds = [kind for kind, *_ in w.notes]
        assert len(kinds) <= 1 and (warn_after or not kinds) and bool(w.bounces) == (lifetime == 100)


# --- control/destinationlimits ------------------------------------------------------------------------------

def limits(**entries):
    return {key.replace('_', '.').encode(): destinations.parse(value) for key, value in entries.items()}


def test_a_limit_of_its_own():
    """One destination has another limit than concurrencydestination; what is below a dot, too; local users do not."""
    w = World(per_host=10, limits=limits(one=b'1', _big=b'3'))
    for place in (b'one', b'a.big', b'two'):
        for _ in range(12):
            w.add((R, place))
    for _ in range(5):
        w.add((L, b'one'))
    w.step()
    w.answer_all()
    active = {}
    for id, recipient in w.open.values():
        place = recipient.partition(b'@')[2]
        active[place] = active.get(place, 0) + 1
    assert active[b'one'] == 1 and active[b'a.big'] == 3 and active[b'two'] > 3
    for _ in range(30):
        w.answer_all()
    assert not w.mail


def test_a_rate_is_kept_and_nothing_is_forgotten():
    """Six a minute: one every ten seconds whatever comes, also after the destination was idle; others are not held up."""
    w = World(limits=limits(slow=b'20 6/m'))
    for _ in range(13):
        w.add((R, b'slow'))
    fast = [w.add((R, b'fast')) for _ in range(10)]
    started = []
    for second in range(121):
        w.wait(1)
        before = len(w.mail)
        w.answer_all()
        assert before - len(w.mail) <= 1 + len(set(fast)) or second == 0
        started.append(sum(place == b'r0@slow' for _, place in w.started))
    assert started[-1] == 13 and not w.mail
    assert all(b - a <= 1 for a, b in zip(started, started[1:])) and started[60] - started[0] in (6, 7)
    assert set(fast) <= set(w.removed[:len(fast) + 2])


@pytest.mark.parametrize('takes', [1, 2, 4])
def test_a_host_that_takes_so_many_at_a_time(takes):
    """One that answers 421 to whoever comes beside those it serves gets as many as it takes: next to nothing is deferred,
    nothing is given up untried, and after a while one more is ventured."""
    w = World(per_host=20)
    ids = [w.add((R, b'busy')) for _ in range(200)]
    w.step()
    for _ in range(300):
        beyond = sorted(w.open)[takes:]
        for number in beyond:
            w.answer(number, b'Z', b'h', b'421 too many connections')
        w.step()
        for number in sorted(w.open)[:1]:
            w.answer(number)
        w.step()
        w.wait(1)
    place = w.d.remote.places.get(b'busy')
    deferred = [id for id in ids if id in w.mail]
    assert len(deferred) <= 5 and not w.d.troubled(), len(deferred)
    assert any(b'%d at a time for 300 seconds, others are turned away: 421_too_many' % takes in line for line in w.log)
    assert place is None or place.window <= takes
    for _ in range(2 * takes):
        w.add((R, b'busy'))
    w.wait(dispatch.CROWDED) if takes != 2 else w.d.forgive(b'busy')        # time, or the administrator's word
    for _ in range(30):
        w.answer_all()
        w.add((R, b'busy'))
        w.step()
    assert w.d.remote.places[b'busy'].window > takes


def test_a_host_that_dies_with_several_under_way():
    """The first ones to fail could be too many; the last one shows that it is dead, and it is left alone, once."""
    w = World(per_host=20)
    for _ in range(60):
        w.add((R, b'dies'))
    w.step()
    for _ in range(30):
        w.answer(next(iter(w.open)))
        w.step()
    assert len(w.open) == 20
    started = len(w.started)
    for number in list(w.open):
        w.answer(number, b'Z', b'h', b'timed out')
        w.step()
    assert len(w.started) == started and not w.open
    assert [p[:2] for p in w.d.troubled()] == [(b'dies', 1)] and sum(b'left alone' in line for line in w.log) == 1
    assert not any(b'at a time' in line for line in w.log)


def test_a_rate_falls_and_recovers():
    """With each 421 half of the rate is used, a sixteenth at least; with each success more again."""
    w = World(limits=limits(slow=b'20 60/m'))
    for _ in range(2000):
        w.add((R, b'slow'))
    w.step()
    place = w.d.remote.places[b'slow']
    for part in (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16):
        w.answer_all(b'Z', b'h', b'421')
        assert place.pace.part == part
        w.wait(4000)
    counts = []
    for _ in range(400):
        before = len(w.started)
        w.answer_all(b'K')
        w.wait(1)
        counts.append(len(w.started) - before)
    assert place.pace.part == 1 and 1 <= sum(counts[:30]) <= 6 and 59 <= sum(counts[-60:]) <= 61


def test_who_waits_for_a_rate_that_falls_meanwhile():
    """INV6: a 421 after others had gone well halves the rate; who had been told to wait for the whole one waits longer."""
    w = World(limits=limits(slow=b'20 6/m'))
    ids = [w.add((R, b'slow'))]
    w.step()
    w.wait(10)
    ids += [w.add((R, b'slow')), w.add((R, b'slow'))]
    w.step()
    first, second = w.open
    w.answer(first)
    w.answer(second, b'Z', b'h', b'421')
    for _ in range(30):
        w.wait(1)
        w.answer_all()
    assert w.removed == [ids[0], ids[2]]        # before the second is tried again, who would have taken it along


def test_a_rate_and_a_destination_in_trouble():
    """What waits for its rate where nobody answers is deferred with the others, and comes back."""
    w = World(limits=limits(slow=b'20 1/m'))
    ids = [w.add((R, b'slow')) for _ in range(3)]
    w.step()
    w.answer_all(b'Z', b'h')
    assert all(w.d.asleep.get(id, 0) > 0 for id in ids)
    for _ in range(400):
        w.wait(60)
        w.answer_all()
    assert sorted(w.removed) == ids


def test_new_limits_act_at_once():
    """HUP: the destinations that are known get theirs."""
    w = World(limits=limits(slow=b'20 1/d'))
    for _ in range(5):
        w.add((R, b'slow'))
    w.step()
    assert len(w.open) == 1
    w.d.use(dispatch.Settings())
    w.wait(86400)
    w.answer_all()
    w.step()
    assert len(w.started) == 5


# --- DELIVERBY ----------------------------------------------------------------------------------------------

def timed(w, seconds, mode, *recipients, **options):
    id = w.add(*recipients, **options)
    w.times[id] = b'%d;%s' % (START + w.mono + seconds, mode)
    return id


def test_back_rather_than_late():
    """R: when the time is over the message comes back at once, whatever its next attempt was to be; nothing is tried."""
    w = World()
    id = timed(w, 500, b'R', (R, b'far'), (R, b'near'))
    w.step()
    w.answer(min(w.open))
    w.answer_all(b'Z')
    w.wait(399)
    assert not w.open and not w.bounces
    w.wait(20)
    w.answer_all(b'Z')                  # its usual attempt
    w.wait(75)
    assert not w.bounces
    w.wait(10)
    assert w.bounces == [(id, [1])] and w.removed == [id] and not w.open and len(w.started) == 3


def test_too_late_from_the_beginning():
    """R: what was in the queue too long comes back without an attempt, also where a crowd waits for its destination."""
    w = World()
    id = timed(w, 60, b'R', (R, b'far'), arrived=False)
    w.mono += 100
    w.d.found(id)
    w.step()
    assert w.bounces == [(id, [0])] and not w.started and w.removed == [id]


def test_told_that_it_is_late():
    """N: its sender is told when the time is over, and the attempts go on; NEVER forbids that, and nothing less does."""
    w = World()
    id = timed(w, 1000, b'N', (R, b'far'), (R, b'shy'), (R, b'deaf'))
    w.wishes[id] = {1: b'FAILURE', 2: b'NEVER'}
    w.step()
    w.answer_all(b'Z')
    for _ in range(100):
        w.wait(30)
        w.answer_all(b'Z')
    assert w.notes == [(b'delay', id, [0, 1])] and id in w.mail and not w.bounces
    assert 1000 <= [int(entry[1]) for entry in w.states[id] if entry[0] == b'w'][0] - START <= 1030


@pytest.mark.parametrize('mode, scope, told', [(b'N', b'', True), (b'N', b'b', False), (b'N', b'd', True), (b'RT', b'b', True),
                                               (b'R', b'b', False), (b'NT', b'db', True)])
def test_told_where_it_has_gone(mode, scope, told):
    """That it went to a server that knows no DELIVERBY, and with T each hop, is told unless NEVER forbids it."""
    w = World()
    id, quiet = timed(w, 1000, mode, (R, b'far')), timed(w, 1000, mode, (R, b'far'))
    w.wishes[quiet] = {0: b'NEVER'}
    w.step()
    w.answer_all(b'K', scope)
    assert w.notes == ([(b'success', id, [0])] if told else []) and sorted(w.removed) == [id, quiet]


def test_in_time():
    """What is delivered here in time is told of as any message is."""
    w = World()
    id = timed(w, 1000, b'RT', (L, b'joe'))
    w.step()
    w.answer_all()
    w.wait(2000)
    assert w.removed == [id] and not w.notes and not w.bounces
