"""ETRN: which domains may be asked for, what the session says, and what qpy-send then tries."""
import pytest
from hypothesis import given, settings, strategies as st

from qpy.core import dispatch, etrn, route, smtp_words
from qpy.core.smtp_server import Session
from tests.core.test_dispatch import L, R, START, World
from tests.core.test_smtp_server import client, policy

LISTED = {b'branch.example': 1, b'.customers.example': 2, b'[192.0.2.9]': 3}


@pytest.mark.parametrize('node, said', [
    (b'branch.example', (b'branch.example', False)), (b'BRANCH.Example', (b'branch.example', False)),
    (b'one.customers.example', (b'one.customers.example', False)), (b'[192.0.2.9]', (b'[192.0.2.9]', False)),
    (b'@customers.example', (b'customers.example', True)), (b'@one.customers.example', (b'one.customers.example', True)),
    (b'@branch.example', etrn.NOT_LISTED), (b'customers.example', etrn.NOT_LISTED), (b'sub.branch.example', etrn.NOT_LISTED),
    (b'@example', etrn.NOT_LISTED), (b'example', etrn.NOT_LISTED), (b'xcustomers.example', etrn.NOT_LISTED),
    (b'#branch.example', etrn.NO_QUEUES), (b'#', etrn.NO_QUEUES),
    (b'', ValueError), (b'@', ValueError), (b'@@customers.example', ValueError), (b'joe@branch.example', ValueError),
    (b'branch.example.', ValueError), (b'branch.example x', ValueError), (b'.customers.example', ValueError)])
def test_which_nodes(node, said):
    """RFC 1985: a domain that control/etrn lists, with @ all below one that it lists with a dot; no queues by name."""
    if said is ValueError:
        with pytest.raises(ValueError):
            etrn.permit(node, LISTED)
    elif isinstance(said, bytes):
        with pytest.raises(etrn.Unknown) as problem:
            etrn.permit(node, LISTED)
        assert problem.value.args == (said,)
    else:
        assert etrn.permit(node, LISTED) == said


def test_once_in_a_while():
    """A domain for which something waits is asked for once in two minutes, each by itself; one without mail at any time."""
    waiting = etrn.Waiting(LISTED)
    waiting.enter(1, [(0, b'a@one.customers.example')])
    assert waiting.ask(b'branch.example', False, 100) == [] == waiting.ask(b'branch.example', False, 100)
    assert waiting.ask(b'one.customers.example', False, 100) == [b'one.customers.example']
    with pytest.raises(etrn.Later) as problem:
        waiting.ask(b'customers.example', True, 150)
    assert problem.value.args == (etrn.AGAIN - 50,)
    waiting.enter(2, [(0, b'a@two.customers.example')])
    assert waiting.ask(b'customers.example', True, 150) == [b'two.customers.example']
    assert sorted(waiting.ask(b'customers.example', True, 150 + etrn.AGAIN)) == [b'one.customers.example', b'two.customers.example']


# --- the session -------------------------------------------------------------------------------------------------------------

def session(listed=LISTED, **who):
    rules = policy()
    rules.etrn = listed
    return Session(rules, client(**who))


def say(one, line, answer=None):
    """The event, and the reply, of one line."""
    one.receive(line + b'\r\n')
    event = one.next()
    if answer is not None:
        answer(one)
    return event, one.output().strip()


@pytest.mark.parametrize('relay, count, reply', [
    (None, 0, b'250 2.0.0 ok, queuing for node branch.example started'),
    (None, 3, b'250 2.0.0 ok, queuing for node branch.example started'),
    (b'', 0, b'251 2.0.0 ok, no messages waiting for node branch.example'),
    (b'', 3, b'253 2.0.0 ok, 3 pending messages for node branch.example started')])
def test_what_is_said(relay, count, reply):
    """RFC 1985, 5.3: how many messages wait is told to those whose mail goes anywhere."""
    one = session(relay=relay)
    event, said = say(one, b'ETRN branch.example', lambda it: it.hurried(count))
    assert event == (smtp_words.ETRN, b'branch.example') and said == reply
    assert one.notes == []


def test_what_a_stranger_learns():
    """Nothing: neither that something waits, nor, by asking twice, that something has waited."""
    for relay, replies in ((None, {b'250'}), (b'', {b'251', b'253', b'458'})):
        one = session(relay=relay)
        said = {say(one, b'ETRN branch.example', lambda it, a=answer: it.hurried(*a))[1][:3]
                for answer in ((0,), (3,), (0, b'asked for a moment ago; again in 60 seconds'))}
        assert said == replies


def test_what_is_refused():
    """459 for what is not listed, 458 where send says no, 501 for what is no domain, 503 in a transaction; each is noted."""
    one = session()
    assert say(one, b'ETRN other.example') == (None, b'459 4.7.1 node other.example not allowed: not in my list of domains for ETRN')
    assert say(one, b'ETRN #branch.example')[1] == b'459 4.7.1 node #branch.example not allowed: there are no queues by name'
    assert say(one, b'ETRN')[1][:3] == say(one, b'ETRN a b')[1][:3] == b'501'
    said = say(one, b'ETRN branch.example', lambda it: it.not_hurried(b'asked for a moment ago'))[1]
    assert said == b'458 4.3.0 unable to queue messages for node branch.example: asked for a moment ago'
    say(one, b'MAIL FROM:<a@b.example>')
    assert say(one, b'ETRN branch.example') == (None, b'503 5.5.1 RSET first: there is a MAIL already')
    assert [note[0] for note in one.notes] == [b'etrn'] * 6


def test_not_offered():
    """Without control/etrn, or with an empty one, it is unknown; with one EHLO tells of it."""
    none, some = session({}), session()
    assert say(none, b'ETRN branch.example')[1] == b'502 5.5.1 unimplemented'
    assert b'ETRN' not in say(none, b'EHLO x')[1] and b'250-ETRN\r\n' in say(some, b'EHLO x')[1]


def test_where_a_login_is_wanted():
    """With REQUIREAUTH nobody says ETRN before he has logged in."""
    one = session()
    one.client.force_auth = True
    assert say(one, b'ETRN branch.example')[1] == b'530 5.7.0 authentication required'


def test_who_asks_very_often_is_left():
    """Each ETRN is a question to send: after a hundred in a session it ends, whatever the answers were."""
    one = session()
    said = [say(one, b'ETRN n%d.customers.example' % n, lambda it: it.hurried(0))[1][:3] for n in range(100)]
    assert one.closed and set(said) == {b'250'} and one.notes[-1][1] == b'421 4.7.0 too many commands without a message'


def test_answers_keep_their_order():
    """What is pipelined behind ETRN waits for its answer."""
    one = session()
    one.receive(b'ETRN branch.example\r\nNOOP\r\n')
    assert one.next()[0] == smtp_words.ETRN and one.next() is None and one.output() == b''
    one.hurried(0)
    assert one.next() is None
    assert [line[:3] for line in one.output().split(b'\r\n')[:2]] == [b'250', b'250']


def test_a_guesser_is_left():
    """Whoever tries names is sent away as with any other senseless command."""
    one = session()
    said = [say(one, b'ETRN n%d.example' % n)[1][-40:] for n in range(20)]
    assert one.closed and said[-1].endswith(b'421 4.7.0 too many errors')


# --- what is tried ------------------------------------------------------------------------------------------------------------

def world(**more):
    return World(etrn={b'a.example': 1, b'b.example': 1, b'.c.example': 1}, **more)


def hurry(w, domain=b'a.example', below=False):
    count = w.d.hurry(domain, below, lambda name: name, w.clock.now)
    w.step()
    return count


def sleeping(w, *recipients):
    """A message all of whose recipients were deferred once."""
    id = w.add(*recipients)
    w.step()
    w.answer_all(b'Z')
    w.started.clear()
    return id


def test_only_what_waits_there():
    """The recipients of that domain are tried, those of others are not, of the same message or another; its next pass stays
    when it was."""
    w = world()
    mixed = sleeping(w, (R, b'a.example'), (R, b'x.example'), (L, b'joe'), (R, b'b.example'))
    other = sleeping(w, (R, b'x.example'))
    due = dict(w.d.asleep)
    state = [entry for entry in w.states[mixed] if entry[0] == b'a']
    assert hurry(w) == 1 and w.started == [(mixed, b'r0@a.example')]
    w.answer_all(b'Z')
    assert dict(w.d.asleep) == due and [entry for entry in w.states[mixed] if entry[0] == b'a'] == state
    w.wait(etrn.AGAIN)
    w.started.clear()
    assert hurry(w) == 1
    w.answer_all()
    assert dict(w.d.asleep) == due and mixed in w.mail
    w.started.clear()
    w.wait(etrn.AGAIN)
    assert hurry(w) == 0 and w.started == []
    w.started.clear()
    w.wait(400)
    assert sorted(w.started) == [(mixed, b'r1@x.example'), (mixed, b'r2@joe'), (mixed, b'r3@b.example'), (other, b'r0@x.example')]


def test_all_of_a_message():
    """A message that waits for this domain alone leaves when it is delivered."""
    w = world()
    id = sleeping(w, (R, b'a.example'), (R, b'a.example'))
    assert hurry(w) == 1 and len(w.started) == 2
    w.answer_all()
    assert w.removed == [id] and w.d.waiting.ids == {} == w.d.only


def test_what_is_below():
    """@domain: all below it, and nothing beside it."""
    w = world()
    ids = [sleeping(w, (R, name)) for name in (b'one.c.example', b'two.c.example', b'a.example', b'ac.example')]
    assert hurry(w, b'c.example', True) == 2
    assert sorted(w.started) == [(ids[0], b'r0@one.c.example'), (ids[1], b'r0@two.c.example')]


def test_a_host_that_is_left_alone_is_probed():
    """One transaction finds out whether it is back: if not, nothing is worse than before; if so, all that waits there goes."""
    w = world()
    ids = [w.add((R, b'a.example')) for _ in range(4)]
    w.step()
    w.answer_all(b'Z', b'h')
    place = w.d.remote.places[b'a.example']
    failures, w.started = place.failures, []
    w.step()
    assert place.until > w.clock.now and w.started == []
    assert hurry(w) == 4 and len(w.open) == 1
    w.answer_all(b'Z', b'h')
    assert not w.open and place.until > w.clock.now and place.failures <= failures + 1
    seen = place.failures
    for _ in range(5):
        w.wait(etrn.AGAIN)
        w.answer_all(b'Z', b'h')
        assert w.d.hurry(b'a.example', False, lambda name: name, w.clock.now) == 4
        w.step()
        w.answer_all(b'Z', b'h')
    assert place.failures <= max(2, seen + 2)
    w.wait(etrn.AGAIN)
    hurry(w)
    assert len(w.open) == 1
    while w.open:
        w.answer_all()
    assert sorted(w.removed) == ids


def test_a_host_that_is_still_away_costs_one_transaction():
    """Of fifty messages that wait because of it one is read and tried, nothing is written, and the log has no line for the
    others; what waits for another reason is tried by itself."""
    w = world()
    for _ in range(50):
        w.add((R, b'a.example'))
    w.step()
    w.answer_all(b'Z', b'h')
    w.wait(3000)
    w.answer_all(b'Z', b'h')
    assert len(w.d.asleep) == 50 and not w.open
    states, lines, loads = {id: list(entries) for id, entries in w.states.items()}, len(w.log), []
    load = w.load
    w.load = lambda id, forced: loads.append(id) or load(id, forced)
    assert hurry(w) == 50
    w.answer_all(b'Z', b'h')
    assert len(loads) == 1 and w.states == states and len(w.log) - lines < 8
    w.wait(etrn.AGAIN)
    w.answer_all(b'Z', b'h')
    hurry(w)
    while w.open:
        w.answer_all()
    assert len(w.removed) == 50 and not w.d.waiting.ids


def test_nothing_ends_early():
    """A message past its lifetime is not given up, nor its sender warned, in a pass that somebody else has asked for."""
    w = world(lifetime=1000, warn_after=10)
    id = sleeping(w, (R, b'a.example'), (R, b'x.example'))
    for _ in range(6):
        w.wait(1300)
        w.answer_all(b'Z')
        if id not in w.d.asleep:
            break
        notes = list(w.notes)
        w.started.clear()
        assert hurry(w) == 1 and len(w.started) == 1
        w.answer_all(b'Z')
        assert w.bounces == [] and w.notes == notes and id in w.d.asleep
    assert not any(job.dying for job in w.d.jobs.values())


def test_a_refusal_is_reported():
    """What its host refuses for good is reported as in any pass, and the rest goes on waiting."""
    w = world()
    id = sleeping(w, (R, b'a.example'), (R, b'x.example'))
    hurry(w)
    w.answer_all(b'D')
    assert w.bounces == [(id, [0])] and id in w.d.asleep


def test_what_is_held_stays_held():
    """A message that is held is not tried, nor counted."""
    w = world()
    id = sleeping(w, (R, b'a.example'))
    w.d.command(id, dispatch.HOLD)
    w.step()
    assert hurry(w) == 0 and w.started == [] and w.d.asleep[id] == dispatch.HELD


def test_a_run_of_everything_goes_before():
    """Who asks for all of a message gets all of it, whoever asked for a part just before."""
    for ask in (lambda w, id: w.d.run(id), lambda w, id: w.d.run_all()):
        w = world()
        id = sleeping(w, (R, b'a.example'), (R, b'x.example'))
        w.d.hurry(b'a.example', False, lambda name: name, w.clock.now)
        ask(w, id)
        w.step()
        assert len(w.started) == 2


def test_what_was_found_and_not_read():
    """A message from before the start is known when it has been noted, and by its own domains."""
    w = world()
    id = sleeping(w, (R, b'a.example'), (R, b'x.example'))
    again = world()
    again.mail, again.states, again.mono = w.mail, w.states, 1.0
    again.d.found(id, START + 400)
    assert hurry(again) == 0
    again.d.waiting.again.clear()
    again.d.note(id, [(0, b'r0@a.example'), (1, b'r1@x.example')])
    assert hurry(again) == 1 and again.started == [(id, b'r0@a.example')]


def test_the_calendar_does_not_grow():
    """However often a message is woken before its time, what is kept of that is bounded."""
    w = world()
    id = sleeping(w, (R, b'a.example'))
    for _ in range(2 * dispatch.STALE):
        w.d.asleep.pop(id)
        w.d._sleep(id, w.clock.now + 400)
    assert w.d.calendar.entries <= dispatch.STALE + 2 and w.d.next_due() == w.clock.now + 400


RECIPIENT = st.sampled_from([(R, b'a.example'), (R, b'b.example'), (R, b'x.example'), (R, b'one.c.example'), (L, b'joe')])
STEP = st.one_of(st.tuples(st.just('add'), st.lists(RECIPIENT, min_size=1, max_size=4)),
                 st.tuples(st.just('answer'), st.sampled_from([(b'K',), (b'Z',), (b'Z', b'h'), (b'D',)])),
                 st.tuples(st.just('some'), st.integers(0, 10)),
                 st.tuples(st.just('wait'), st.sampled_from([1, 60, 130, 400, 2000])),
                 st.tuples(st.just('hurry'), st.sampled_from([b'a.example', b'b.example', b'one.c.example'])),
                 st.tuples(st.just('order'), st.sampled_from([dispatch.HOLD, dispatch.DROP, dispatch.FAIL, None])))


@pytest.mark.parametrize('park, most', [(dispatch.PARK_FROM, 20), (0, 1)])
@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEP, max_size=25))
def test_the_index_is_what_waits(park, most, steps):
    """Whatever happens: for each domain of the list it names the sleeping messages with a recipient there that is not finished,
    and no others; what is tried when somebody asks is of that domain alone.  Also where messages are parked."""
    before = dispatch.PARK_FROM, dispatch.CROWD, dispatch.CALM
    dispatch.PARK_FROM, dispatch.CROWD, dispatch.CALM = park, 1, 1
    try:
        whatever_happens(world(per_host=most), steps)
    finally:
        dispatch.PARK_FROM, dispatch.CROWD, dispatch.CALM = before


def whatever_happens(w, steps):
    for word, value in steps:
        if word == 'add':
            w.add(*value)
        elif word == 'answer':
            w.answer_all(*value)
        elif word == 'some':
            for number in list(w.open)[:value]:
                w.answer(number, b'Z' if number % 2 else b'K')
        elif word == 'wait':
            w.wait(value)
        elif word == 'order' and w.mail:
            id = min(w.mail)
            w.d.command(id, value) if value else w.d.run(id)
        elif word == 'hurry':
            w.step()
            before = len(w.started)
            try:
                w.d.hurry(value, False, lambda name: name, w.clock.now)
            except etrn.Later:
                continue
            w.step()
            assert all(recipient.endswith(b'@' + value) for _, recipient in w.started[before:])
        w.step()
        check(w)


def check(w):
    asleep = {id for id, due in w.d.asleep.items() if due > 0}
    for domain in (b'a.example', b'b.example', b'one.c.example'):
        really = {id for id in asleep if any(channel == route.REMOTE and recipient.endswith(b'@' + domain)
                                             for _, channel, recipient, _ in w.job(id).todo)}
        assert w.d.waiting.ids.get(domain, set()) & asleep == really, domain
    assert b'x.example' not in w.d.waiting.ids
    assert all(w.d.knows(id) for ids in w.d.waiting.ids.values() for id in ids)
