"""What smtp-sink and Postfix do to mail on its way out decides what becomes of it: an installed qpy, from
submission to the sink, the bounce or the queue, and out of the queue when the trouble is gone.
"""
import os
import shutil
import signal
import smtplib
import socket
import subprocess
import tempfile
import time

import pytest

from tests.peers import net, postfix, qpy as peer
from tests.peers.qpy import free_port
from tests.real.conftest import UID, Mailbox

pytestmark = pytest.mark.root
PORT, NEXT, SINK_PORT = free_port(), free_port(), free_port()      # qpy's, Postfix's, the sinks'
SINK = '127.7.0.%d'                 # an address each: qpy remembers hosts, not ports
PATIENCE = 30                       # seconds for everything to have been tried

# What the other side does, and what becomes of the mail: K delivered, D bounced, Z tried again.
CASES = (
    (('-e',), 'K'), (('-p', '-8', '-E'), 'K'), (('-P',), 'K'), (('-F', '-C', '-N'), 'K'), (('-w', '1'), 'K'),
    (('-f', 'ehlo'), 'K'), (('-f', 'quit'), 'K'), (('-q', 'quit'), 'K'), (('-Q', 'quit'), 'K'),
    (('-f', 'mail'), 'D'), (('-f', 'rcpt'), 'D'), (('-f', 'data'), 'D'), (('-f', '.'), 'D'),
    (('-A', '0'), 'D'), (('-A', '1'), 'D'),
    (('-f', 'connect'), 'Z'), (('-f', 'ehlo,helo'), 'Z'), (('-B', '421 4.3.0 gone', '-f', 'rcpt'), 'Z'),
    (('-r', 'connect'), 'Z'), (('-r', 'mail'), 'Z'), (('-r', 'rcpt'), 'Z'), (('-r', 'data'), 'Z'),
    (('-r', '.'), 'Z'),
    (('-q', 'connect'), 'Z'), (('-q', 'ehlo'), 'Z'), (('-q', 'mail'), 'Z'), (('-q', 'rcpt'), 'Z'),
    (('-q', 'data'), 'Z'), (('-q', '.'), 'Z'),
    (('-Q', 'connect'), 'Z'), (('-Q', 'ehlo'), 'Z'), (('-Q', 'mail'), 'Z'), (('-Q', 'rcpt'), 'Z'),
    (('-Q', 'data'), 'Z'), (('-Q', '.'), 'Z'),
    (('-W', 'connect:9'), 'Z'), (('-W', 'mail:9'), 'Z'), (('-p', '-W', 'rcpt:9'), 'Z'), (('-w', '9'), 'Z'),
    (None, 'Z'))                    # nobody listens


class Sinks:
    """One smtp-sink per case, each with an address and a directory of what it took."""

    def __init__(self, directory):
        self.directory, self.running = directory, {}

    def start(self, number, options):
        """Start a sink; what ran at its address ends."""
        if number in self.running:
            self.running[number].kill()
            self.running.pop(number).wait()
        if options is None:
            return
        place = os.path.join(self.directory, str(number))
        if not os.path.isdir(place):
            os.mkdir(place)
            shutil.chown(place, 'nobody')
        self.running[number] = subprocess.Popen(
            [*postfix.tool('smtp-sink'), '-u', 'nobody', *options, '-d', place + '/%M.',
             '%s:%d' % (SINK % number, SINK_PORT), '100'],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def taken(self, number):
        """The texts of what this sink has accepted."""
        place = os.path.join(self.directory, str(number))
        texts = []
        for name in os.listdir(place) if os.path.isdir(place) else ():
            with open(os.path.join(place, name), 'rb') as file:
                texts.append(file.read())
        return texts

    def end(self):
        """End them all."""
        for process in self.running.values():
            process.kill()
        for process in self.running.values():
            process.wait()


def domain(number):
    """The domain whose mail goes to sink number."""
    return 'case%d.test' % number


def address(number):
    """The recipient of a case."""
    return 'rcpt@' + domain(number)


@pytest.fixture(scope='module')
def house():
    """(qpy, sinks): a qpy with little patience, whose routes lead to sinks and to Postfix."""
    try:
        postfix.binaries()
    except RuntimeError as problem:
        pytest.skip('no Postfix: %s' % problem)
    base = tempfile.mkdtemp(prefix='qpy-out-', dir='/var/tmp')
    os.chmod(base, 0o755)
    home = os.path.join(base, 'joe')
    os.makedirs(home)
    os.chown(home, UID, UID)
    routes = ['%s:%s:%d' % (domain(i), SINK % i, SINK_PORT) for i in range(1, len(CASES) + 1)]
    routes += ['postfix.test:127.0.0.1:%d' % NEXT]
    host, sinks, here = net.Host('out', network=False), Sinks(base), None
    try:
        here = peer.Qpy(os.path.join(base, 'qpy'), PORT, users=[('joe', UID, UID, home)], routes=routes,
                        host=host,
                        controls={'timeoutremote': '3\n', 'timeoutconnect': '3\n'})
        here.mailbox = Mailbox(home)
        yield here, sinks
    finally:
        sinks.end()
        if here:
            here.stop()
        host.end()
        shutil.rmtree(base, ignore_errors=True)


def until(fact, explain, patience=PATIENCE):
    """Wait until fact() holds."""
    give_up = time.monotonic() + patience
    while not fact():
        assert time.monotonic() < give_up, explain()
        time.sleep(0.02)                # a directory and a log file announce nothing to a plain reader


@pytest.fixture(scope='module')
def tried(house):
    """What became of one message per case: {address: (letter, text) of the first attempt}; the rest of the
    story is told by the sinks, the mailbox and the queue."""
    here, sinks = house
    for number, (options, _) in enumerate(CASES, 1):
        sinks.start(number, options)
    with smtplib.SMTP('127.0.0.1', PORT, timeout=20) as client:
        for number in range(1, len(CASES) + 1):
            client.sendmail('joe@qpy.test', [address(number)],
                            'Subject: case\n\nthis is case %d.\n.\nend\n' % number)
    deferred = sum(letter == 'Z' for _, letter in CASES)
    until(lambda: len([name for name in here.outcomes() if name.startswith('rcpt@')]) == len(CASES), here.log)
    first = {name: results[0] for name, results in here.outcomes().items()}
    until(lambda: len(here.waiting()) == deferred,
          lambda: '%r in the queue, not %d: %r' % (here.waiting(), deferred, first))
    for number, (_, letter) in enumerate(CASES, 1):
        if letter == 'Z':
            sinks.start(number, ())
    for number, (_, letter) in enumerate(CASES, 1):
        if letter == 'Z':
            wait(SINK % number)
    here.command(here.home + '/bin/qpy-ctl', 'tcpok')
    here.command(here.home + '/bin/qpy-ctl', 'run')
    until(lambda: not here.waiting(), lambda: here.log() + str(here.waiting()))
    return first


def wait(where):
    """Until a sink accepts."""
    until(lambda: accepts(where), lambda: 'no sink at ' + where)


def accepts(where):
    """Whether somebody listens there."""
    try:
        socket.create_connection((where, SINK_PORT), 1).close()
        return True
    except OSError:
        return False


@pytest.mark.parametrize('number', range(1, len(CASES) + 1),
                         ids=lambda n: '%d:%s' % (n, '_'.join(CASES[n - 1][0] or ['nobody'])))
def test_first_attempt(tried, number):
    """One attempt at a sink that refuses, stalls or aborts: done, again later, or never, and why."""
    options, letter = CASES[number - 1]
    assert tried[address(number)][0] == letter, tried[address(number)]


def test_nothing_is_lost(tried, house):
    """What was deferred waited in the queue, and went when the trouble was gone: each message that was not
    bounced is at its sink, whole, and once unless the sink took it and did not say so."""
    here, sinks = house
    for number, (options, letter) in enumerate(CASES, 1):
        taken = sinks.taken(number)
        body = b'\nthis is case %d.\n.\nend\n' % number
        whole = [text for text in taken if body in text.replace(b'\r\n', b'\n')]
        if letter != 'D':
            assert len(whole) == 1 or (len(whole) > 1 and options[-1] in ('.', '9')), (options, taken)


def test_only_what_is_refused_for_good_is_bounced(tried, house):
    """A bounce for each permanent refusal, holding the server's words, and none for anything else."""
    here, _ = house
    refused = {address(i) for i, (_, letter) in enumerate(CASES, 1) if letter == 'D'}
    bounced = set()
    for _ in refused:
        text = here.mailbox.next(log=here.log)
        assert text.startswith(b'Return-Path: <>') and b'Remote host said: 5' in text
        bounced |= {name for name in refused if name.encode() in text}
    assert bounced == refused and not here.mailbox.names() - here.mailbox.seen


def test_a_kept_connection_that_died(tried, house):
    """A next hop that restarts between two messages has closed our kept connection: the second message goes
    by a new one, at its first attempt."""
    here, sinks = house
    for text in ('before', 'after'):
        sinks.start(1, ('-e',))
        wait(SINK % 1)
        with smtplib.SMTP('127.0.0.1', PORT, timeout=20) as client:
            client.sendmail('joe@qpy.test', ['%s@%s' % (text, domain(1))], 'Subject: kept\n\n%s\n' % text)
        until(lambda text=text: '%s@%s' % (text, domain(1)) in here.outcomes(), here.log)
        outcome = here.outcomes()['%s@%s' % (text, domain(1))][0]
        assert outcome[0] == 'K', outcome


@pytest.fixture
def next_hop(house):
    """start(): a Postfix with user sue as the next hop; it ends with the test."""
    here, _ = house
    started = []
    home = os.path.join(os.path.dirname(here.home), 'sue')
    if not os.path.isdir(home):
        os.makedirs(home)
        os.chown(home, UID + 1, UID + 1)

    def start(more=''):
        started.append(postfix.Postfix(NEXT, users=[('sue', UID + 1, home)], more=more))
        started[0].mailbox = Mailbox(home)
        started[0].mailbox.seen = started[0].mailbox.names()
        return started[0]
    yield start
    for each in started:
        each.stop()


def test_many_to_postfix(house, next_hop):
    """Hundred messages in twenty sessions, through qpy to Postfix: each arrives in the Maildir there,
    once."""
    here, _ = house
    there = next_hop()
    subprocess.run([*postfix.tool('smtp-source'), '-d', '-s', '20', '-m', '100', '-l', '4000', '-f',
                    'joe@qpy.test',
                    '-t', 'sue@postfix.test', '127.0.0.1:%d' % PORT], check=True, timeout=60)
    until(lambda: len(there.mailbox.names() - there.mailbox.seen) >= 100 and not here.waiting(),
          lambda: here.log()[-3000:] + there.log()[-3000:])
    assert len(there.mailbox.names() - there.mailbox.seen) == 100


def test_postfix_takes_two_at_a_time(house, next_hop):
    """smtpd_client_connection_count_limit: those that Postfix turns away with 421 are few, the others wait for their turn,
    and Postfix is not left alone."""
    here, _ = house
    there = next_hop('smtpd_client_connection_count_limit = 2\nsmtpd_client_event_limit_exceptions =\n')
    before = len(here.log())
    subprocess.run([*postfix.tool('smtp-source'), '-d', '-s', '20', '-m', '200', '-l', '1000', '-f', 'joe@qpy.test',
                    '-t', 'sue@postfix.test', '127.0.0.1:%d' % PORT], check=True, timeout=60)
    until(lambda: len(there.mailbox.names() - there.mailbox.seen) >= 190, lambda: here.log()[before:])
    log = here.log()[before:]
    assert 'too_many_connections' in log and 'others are turned away: ' in log and 'left alone' not in log
    here.command(here.home + '/bin/qpy-ctl', 'run')
    until(lambda: not here.waiting(), lambda: here.log()[-3000:] + there.log()[-3000:])
    assert len(there.mailbox.names() - there.mailbox.seen) == 200


def test_postfix_was_away(house, next_hop):
    """While Postfix is down mail waits, and nobody gets a bounce; on ALRM it goes, and the one recipient
    that Postfix refuses is bounced with Postfix's words."""
    here, _ = house
    here.mailbox.seen = here.mailbox.names()
    with smtplib.SMTP('127.0.0.1', PORT, timeout=20) as client:
        client.sendmail('joe@qpy.test', ['sue@postfix.test', 'nobody-here@postfix.test'],
                        'Subject: away\n\nstill here\n')
    until(lambda: 'Z' in [letter for letter, _ in here.outcomes().get('nobody-here@postfix.test', ())],
          here.log)
    assert len(here.waiting()) == 1 and not here.mailbox.names() - here.mailbox.seen
    there = next_hop()
    here.process.send_signal(signal.SIGALRM)
    assert b'\n\nstill here\n' in there.mailbox.next(log=lambda: here.log()[-3000:] + there.log()[-3000:])
    bounce = here.mailbox.next(log=here.log)
    assert b'nobody-here@postfix.test' in bounce and b'5.1.1' in bounce
    assert b'sue@postfix.test>:' not in bounce
    until(lambda: not here.waiting(), here.log)
