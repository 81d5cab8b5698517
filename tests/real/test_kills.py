"""Daemons killed under load: whatever was acknowledged is delivered, by whichever chain comes next."""
import os
import random
import signal
import smtplib
import threading
import time

import pytest

from tests.real.conftest import UID

pytestmark = pytest.mark.root
CLIENTS, ROUNDS = 6, int(os.environ.get('QPY_KILLS', 2))
PROGRAMS = ('qpy-queued', 'qpy-send', 'qpy-clean', 'qpy-lspawn', 'qpy-seed', 'qpy-local', 'qpy-smtpd',
            'qpy-users')


class Load:
    """Clients that send numbered messages until told to stop; `taken` holds the numbers that were answered
    250."""

    def __init__(self, port):
        self.port, self.over, self.taken, self.number = port, threading.Event(), set(), 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._client, daemon=True) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _client(self):
        while not self.over.is_set():
            try:
                with smtplib.SMTP('127.0.0.1', self.port, timeout=5) as client:
                    while not self.over.is_set():
                        self._one(client)
            except (OSError, smtplib.SMTPException):
                time.sleep(0.02)        # back-off: the server is away just now

    def _one(self, client):
        with self.lock:
            self.number += 1
            number = self.number
        client.sendmail('a@client.test', ['joe@qpy.test'], 'Subject: load\n\nnumber %d\n' % number)
        self.taken.add(number)

    def end(self):
        """The numbers that were acknowledged."""
        self.over.set()
        for thread in self.threads:
            thread.join(20)
        return self.taken


def delivered(mailbox):
    """[number] of what is in the mailbox."""
    numbers = []
    for name in mailbox.names() - mailbox.seen:
        with open(mailbox.directory + '/new/' + name, 'rb') as file:
            numbers.append(int(file.read().rpartition(b'number ')[2]))
    return numbers


def status(pid, field):
    """A number in /proc/PID/status, None if the process is gone."""
    try:
        with open('/proc/%d/status' % pid) as file:
            return int(file.read().partition('\n%s:' % field)[2].split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return None


@pytest.mark.parametrize('program', PROGRAMS)
def test_kill(server, mailbox, program):
    """One program is killed in full flight, again and again; the chain is started anew where it ended with
    it, as a supervisor does.  Nothing that was acknowledged is missing; what is there twice was under way at
    a kill.
    """
    load, kills = Load(server.port), 0
    for _ in range(ROUNDS):
        until(lambda: len(load.taken) > 20 * (kills + 1), server)
        victims = [pid for pid, name in server.pids() if name == program]
        if program == 'qpy-local':      # forked by the seed, so named like it
            victims = [pid for pid, name in server.pids() if status(pid, 'Uid') == UID]
        if not victims:
            continue
        victim = random.choice(victims)
        ends_the_chain = status(victim, 'PPid') == server.process.pid
        os.kill(victim, signal.SIGKILL)
        kills += 1
        if ends_the_chain:
            server.process.wait(20)
            server.log_file.close()
            server.start()
    taken = load.end()
    server.command(server.home + '/bin/qpy-ctl', 'run')         # what was under way may have been put off
    until(lambda: not server.waiting() and taken <= set(delivered(mailbox)), server,
          lambda: 'missing: %r, in the queue: %r' % (taken - set(delivered(mailbox)), server.waiting()))
    assert kills >= 1


def until(fact, server, explain=lambda: '', patience=40):
    """Wait until fact() holds."""
    give_up = time.monotonic() + patience
    while not fact():
        assert time.monotonic() < give_up, explain() + server.log()[-3000:]
        time.sleep(0.02)
