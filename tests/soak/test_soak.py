"""Two minutes of the soak, and the ledger that judges it.

    soak.py in this directory runs as long as one likes.
"""
import os
import re
import shutil

import pytest

pytest.importorskip('dns')
from tests.soak import events, ledger, soak  # noqa: E402

SEED = int(os.environ.get('QPY_SOAK_SEED', '1'))
MINUTES = float(os.environ.get('QPY_SOAK_MINUTES', '2'))
ANN, BOB = 'ann@a.test', 'bob@b.test'


def book(*recipients, status=ledger.TAKEN, host='', routes=None):
    """A Ledger with message 7 to these, and that message."""
    made, seal = ledger.made(7, 1)
    there = ledger.Ledger(routes or {})
    there.enter(7, host, 'cid-s7@c.test', list(recipients), seal)
    there.answer(7, status)
    return there, made


def delivered(made, address):
    """As it lies in a Maildir."""
    return b'Return-Path: <cid-s7@c.test>\nDelivered-To: %s\nReceived: by x\n' % address.encode() + made


def test_a_message_is_known_by_its_bytes():
    """A delivered copy is recognized, and a single changed, missing or added byte in its body."""
    _, made = book(ANN)
    text = delivered(made, ANN)
    what = ledger.seen(text)
    assert (what.number, what.address, what.whole) == (7, ANN, True)
    place = text.index(b'\n\n') + 5
    for bad in (text[:place] + b'#' + text[place + 1:], text[:-1], text[:place] + text[place + 1:],
                text[:place] + b'#' + text[place:]):
        assert not ledger.seen(bad).whole


def test_any_message_survives_the_wire_and_an_mbox():
    """What is made has LF line ends and text enough to be quoted: dots, From lines, eight bits."""
    for number in range(50):
        made, _ = ledger.made(number, 3)
        piece = b'From x\nDelivered-To: %s\n' % ANN.encode() + re.sub(rb'^(>*From )', rb'>\1', made, flags=re.M) + b'\n'
        pieces = ledger.pieces_of_mbox(piece + piece)
        assert [ledger.seen(one).whole for one in pieces] == [True, True]


def test_what_is_promised_and_nowhere_is_missing():
    """Neither delivered nor reported nor queued: missing; any of the three is enough, for each recipient alone."""
    there, made = book(ANN, BOB)
    assert there.missing({}) == [(7, ANN), (7, BOB)]
    assert there.missing({7: {BOB}}) == [(7, ANN)]
    there.found(ledger.seen(delivered(made, ANN)), 'a')
    assert there.missing({}) == [(7, BOB)] and there.open() == [(7, BOB)]
    there.found(ledger.seen(b'Return-Path: <>\n\nHi.\n\n<bob@b.test>:\nno\n\n--- copy\n\n' + made), 'c')
    assert not there.open() and not there.wrong


@pytest.mark.parametrize('status', [ledger.UNKNOWN, ledger.NEVER, ledger.OFFERED])
def test_what_was_not_promised_is_not_missing(status):
    """A message whose sender got no yes may be there or not."""
    there, _ = book(ANN, status=status)
    assert there.missing({}) == []


def test_what_must_not_be_is_said():
    """Ghosts, torn copies, and copies for others."""
    there, made = book(ANN)
    there.found(ledger.seen(delivered(made, BOB)), 'x')
    there.found(ledger.seen(delivered(made, ANN)[:-3]), 'x')
    there.answer(7, ledger.NEVER)
    there.found(ledger.seen(delivered(made, ANN)), 'x')
    assert [sentence[:24] for sentence in there.wrong] == ['x: number 7 is delivered', 'x: number 7 is torn or c',
                                                           'x: number 7 was never ha']
    assert not there.copies


def history(*lines):
    """A History of these lines; `=` ends the chain by TERM and starts it anew, `!` by KILL."""
    there = ledger.History()
    there.started()
    for line in lines:
        if line in '=!':
            there.ended(0 if line == '=' else -9)
            there.started()
        else:
            there.feed(line)
    return there


INFO, START = 'info msg 10: bytes 5 from <cid-s7@c.test> qp 1 uid 2', 'starting delivery 1: msg 10 to local ' + ANN
AGAIN = START.replace('delivery 1', 'delivery 2')
DONE, LATER = 'delivery 1: success: did_1+0+0/', 'delivery 1: deferral: qmail-local_crashed./'
TWICE = [
    ('no end is known, and then a new chain', True, [INFO, START, '=', INFO, START, DONE]),
    ('done, but forgotten in a crash', True, [INFO, START, DONE, '=', INFO, START, DONE]),
    ('deferred after something may have been written', True, [INFO, START, LATER, AGAIN]),
    ('done, and done again by the same chain', False, [INFO, START, DONE, AGAIN]),
    ('only one attempt', False, [INFO, START, DONE]),
    ('two messages from one', False, [INFO, START, DONE, INFO.replace('10', '11'), AGAIN.replace('msg 10', 'msg 11')]),
    ('a deferral before anything was written', False, [INFO, START,
                                                       'delivery 1: deferral: Unable_to_switch_to_home_directory/',
                                                       AGAIN]),
    ('an attempt that the killed log has taken with it', True, [INFO, '!', INFO, START, DONE]),
    ('deferred, and the attempt after that taken by the killed log', True,
     [INFO, START, 'delivery 1: deferral: Unable_to_switch_to_home_directory/', '!', INFO, AGAIN, DONE]),
    ('all of it taken by the killed log', True, ['!', INFO, START, DONE]),
    ('killed before the message was there', False, ['!', 'status: exiting', '=', INFO, START, DONE]),
    ('one attempt, and killed long after', False, [INFO, START, DONE, '!', 'status: local']),
    ('the log has lost lines', True, [INFO, START, DONE, 'warning: 3 log lines were lost'])]


@pytest.mark.parametrize('what, fine, lines', TWICE, ids=[row[0] for row in TWICE])
def test_when_a_local_duplicate_is_explained(what, fine, lines):
    """INV3: a second copy at home needs a second attempt, for a reason."""
    there, _ = book(ANN)
    why = ledger.explained(there.entries[7], ANN, 2, {'a': history(*lines)}, soak.HOSTS, {})
    assert bool(why) == fine


@pytest.mark.parametrize('end, fine', [
    ('delivery 5: deferral: Connected_to_10.99.2.2_but_connection_died._Possible_duplicate!_(#4.4.2)/', True),
    ('delivery 5: deferral: qmail-remote_crashed./', True), ('=', True),
    ('delivery 5: deferral: Sorry,_I_wasn\'t_able_to_establish_an_SMTP_connection._(#4.4.1)/', False),
    ('delivery 5: deferral: 10.99.2.2_failed_after_I_sent_the_message./Remote_host_said:_451_no/', False)])
def test_when_a_duplicate_on_the_way_is_explained(end, fine):
    """INV3: two messages at the next host need two handings over, of which one may have succeeded without our
    knowing."""
    away = [INFO, 'starting delivery 5: msg 10 to remote ' + BOB, end, INFO,
            'starting delivery 6: msg 10 to remote ' + BOB,
            'delivery 6: success: ok/']
    there = [line.replace(ANN, BOB) for line in (INFO, START, DONE, INFO.replace('10', '11'),
                                                 AGAIN.replace('msg 10', 'msg 11'))]
    entry = book(BOB, host='a')[0].entries[7]
    why = ledger.explained(entry, BOB, 2, {'a': history(*away), 'b': history(*there)}, soak.HOSTS, {})
    assert bool(why) == fine


def test_a_seed_tells_the_whole_story():
    """The same seed draws the same messages, another one others."""
    first, again, other = ([ledger.made(number, seed) for number in range(20)] for seed in (3, 3, 4))
    assert first == again and not set(first) & set(other)


def first_of(site):
    """Path of a message that nobody has fetched yet, or None."""
    new = site.home + '/Maildir/new/'
    return next((new + name for name in (os.listdir(new) if os.path.isdir(new) else [])), None)


def theft(world, site, chance):
    """Takes a message out of a mailbox before anybody has seen it: what a loss looks like."""
    path = first_of(site)
    if path and not path.endswith('.again'):
        os.unlink(path)
    return 'theft', 0, None


def copy(world, site, chance):
    """Puts a message there twice."""
    path = first_of(site)
    if path:
        shutil.copy(path, path + '.again')
    return 'copy', 0, None


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_control_the_soak_sees(monkeypatch):
    """A message that somebody takes away is missed; one that somebody copies is not explained."""
    monkeypatch.setattr(events, 'EVENTS', [(1, 'theft', theft), (1, 'copy', copy)])
    said = []
    wrong = soak.soak(0.2, SEED, every=0.3, say=said.append)
    for expected in ('is nowhere', 'the logs do not say why'):
        assert any(expected in line for line in wrong), '\n'.join(said)
    assert all('is nowhere' in line or 'the logs do not say why' in line for line in wrong), '\n'.join(said)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(400 + int(MINUTES * 60))
def test_two_minutes():
    """INV1 to INV7, D-16, Q-30 to Q-34, Q-39, A-08: three hosts, strangers, an event every other second: nothing lost,
    torn or smuggled, each duplicate explained, memory and descriptors flat, no zombies, queues drained."""
    said = []
    wrong = soak.soak(MINUTES, SEED, say=said.append)
    assert not wrong, '\n'.join(said)

