#!/usr/bin/env python3
"""Soak: three hosts that send mail to each other, strangers, and something going wrong every few seconds.

    soak.py [--minutes 20] [--seed N] [--every SECONDS] [--keep DIR]

Needs root, iproute2 and dnspython (bin/qpy-test makes .venv, which has it); libfaketime comes from Debian's package,
unpacked.  A ledger outside of the hosts says all along what was promised and what has become of it.  Prints what
happens, and a table at the end.  --keep: the logs of the hosts go there.
Exit: 0 nothing lost, torn or smuggled, each duplicate explained, memory and descriptors flat, no zombies, queues
drained; 1 otherwise.
"""
import argparse
import os
import random
import shutil
import sys
import threading

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if SOURCE not in sys.path:
    sys.path.insert(0, SOURCE)

from tests.soak import events, ledger, measure, people  # noqa: E402
from tests.soak.world import World  # noqa: E402

LOOK_EVERY = 10.0           # seconds between two reconciliations
#: seconds that the queues have at the end.  No schedule counts then, nor how long a destination is left alone: everything
#: is asked for again and again.  What is left are single waits: 60 for a worker that kept dying (rspawn), 30 for others
#: and for an mbox, 20 for a client, 8 for each answer of a server; and the mail itself, on a machine that is busy.
DRAIN = 180.0
HOSTS = {'%s.test' % name: name for name in 'abc'}


class Soak:
    """One run."""

    def __init__(self, world, seconds, every, say):
        self.world, self.seconds, self.every, self.say = world, seconds, every, say
        self.book, self.numbers = ledger.Ledger(world.routes()), people.Numbers()
        self.fate = events.Fate(world)
        self.sites = list(world.sites.values())
        world.witness, world.lied = self.sites[world.seed % 3], False     # it is never killed: its memory is watched
        self.meter = measure.Meter(world)
        self.wrong = []
        self.looks = 0

    def run(self):
        """The story: start, be a while at rest, go through the storm, drain, end; whether all is well."""
        for site in self.sites:
            site.start()
        if not self.wait_until(self.answer, 60):
            return self.fail('a host does not start: see its log')
        self.evil = self.world.stack.enter_context(self.world.net.hub.call(lambda: people.Evil(self.world, self.book)))
        self.meter.at_rest('before')
        threads = self.populate()
        self.storm()
        self.world.over.set()
        for thread in threads:
            thread.join(60)
        self.drain()
        self.reconcile()
        self.judge()
        self.finish()
        return not self.wrong

    def fail(self, sentence):
        """Something that must not be."""
        self.wrong.append(sentence)
        self.say('WRONG  ' + sentence)
        return False

    def wait_until(self, fact, patience):
        """Whether fact() came true."""
        until = self.world.now() + patience
        pause = threading.Event()
        while not fact():
            if self.world.now() > until:
                return False
            pause.wait(0.1)                 # hosts announce nothing to us
        return True

    def answer(self):
        """Do all hosts greet?"""
        for site in self.sites:
            try:
                with people.connected(site, 2) as talk:
                    talk.expect(b'220')
            except OSError:
                return False
        return True

    def populate(self):
        """Everybody begins."""
        who = [people.Citizen(self.world, self.book, self.numbers, site, 0.45) for site in self.sites]
        self.stranger = people.Stranger(self.world, self.book, self.numbers, 1.0)
        threads = [threading.Thread(target=person.run, daemon=True) for person in (*who, self.stranger)]
        for thread in threads:
            thread.start()
        return threads

    def storm(self):
        """Events, samples and reconciliations, until the time is over."""
        chance = random.Random('%d/storm' % self.world.seed)
        began = self.world.now()
        strike, look = began + self.every, began + LOOK_EVERY
        while self.world.now() < began + self.seconds:
            self.world.over.wait(0.2)
            self.fate.end_what_is_over()
            if self.world.now() >= strike:
                strike = self.world.now() + chance.uniform(0.5, 1.5) * self.every
                words = self.fate.strike()
                if words:
                    self.say('%7.1f  %s' % (self.world.now(), words))
            if self.world.now() >= look:
                look = self.world.now() + LOOK_EVERY
                self.reconcile()
                self.meter.sample()
        self.fate.heal()

    def reconcile(self):
        """What is promised must be somewhere, at any time."""
        self.looks += 1
        for number, recipient in sorted(self.world.missing(self.book)):
            self.fail('number %d for %s is nowhere' % (number, recipient))
            self.book.answer(number, ledger.UNKNOWN)            # said once
        for sentence in self.book.wrong:
            self.fail(sentence)
        self.book.wrong.clear()
        counts = self.book.counts()
        self.say('%7.1f  %s; in the queues %s' % (self.world.now(),
                                                  ', '.join('%d %s' % (n, word) for word, n in counts.items()),
                                                  ' '.join(str(site.waiting()) for site in self.sites)))

    def drain(self):
        """All is well again, and everybody is asked to try; the queues must get empty."""
        self.evil.kind = True
        for site in self.sites:
            site.note('=== the storm is over')
        if not self.wait_until(self.answer, 60):
            self.fail('a host does not answer when all is well again')
        began, pushed = self.world.now(), [-10.0]

        def empty():
            if self.world.now() > pushed[0] + 5:
                pushed[0] = self.world.now()
                for site in self.sites:
                    for word in ('tcpok', 'run'):
                        if said := site.ctl(word):
                            self.fail('%s: qpy-ctl %s: %s' % (site.name, word, said))
            return not any(site.waiting() for site in self.sites)
        if not self.wait_until(empty, DRAIN):
            self.fail('the queues are not empty: %s' % {site.name: site.waiting() for site in self.sites})
            for site in self.sites:
                self.say('%s: %s\n%s' % (site.name, site.processes(), site.holdups()))
                self.say(site.last_lines())
        self.drained = self.world.now() - began

    def judge(self):
        """What can be said only at the end."""
        for number, recipient in self.book.open():
            self.fail('number %d for %s is lost' % (number, recipient))
        self.reasons = {}
        histories = {site.name: site.history for site in self.sites}
        for number, address, count in self.book.twice():
            why = ledger.explained(self.book.entries[number], address, count, histories, HOSTS, self.book.routes)
            for reason in why or []:
                self.reasons[reason] = self.reasons.get(reason, 0) + 1
            if not why:
                self.fail('number %d for %s is there %d times, and the logs do not say why' % (number, address, count))
        for (number, address), texts in self.book.reports.items():
            for text in texts:
                if not self.deserved(address, text):
                    self.fail('number %d for %s has bounced without a reason: %r' % (number, address, text[:1500]))
        for sentence in self.meter.at_rest('after') + self.meter.judge():
            self.fail(sentence)
        for site in self.sites:
            for line in site.history.unforeseen:
                self.fail('%s: %s' % (site.name, line))

    def deserved(self, address, text):
        """Whether a bounce has one of the permanent reasons that are played here."""
        if b'evil says no' in text:
            return True
        return self.world.lied and any(words in text for words in
                                       (b'#5.1.2', b'5.4.4', b'couldn\'t find any host', b'#5.1.10', b'5.4.6'))

    def finish(self):
        """Stop the hosts: nothing is left of them."""
        for site in self.sites:
            code = site.stop()
            if code:
                self.fail('%s: qpy-start ended with %d after TERM' % (site.name, code))
            if not self.wait_until(lambda site=site: not site.processes(), 20):
                self.fail('%s: still there: %s' % (site.name, site.processes()))
            left = os.listdir(site.qpy.home + '/queue/damaged') + os.listdir(site.qpy.home + '/queue/mess') + \
                [name for name in os.listdir(site.qpy.home + '/queue/state') if name != 'lock']
            if left:
                self.fail('%s: left in the queue: %s' % (site.name, left))
            if not self.checked(site):
                self.fail('%s: qpy-fsck is not content' % site.name)

    @staticmethod
    def checked(site):
        """qpy-fsck's verdict."""
        try:
            site.host.run(site.qpy.home + '/bin/qpy-fsck')
        except RuntimeError:
            return False
        return True

    def table(self):
        """The closing table, as lines."""
        counts, meter = self.book.counts(), self.meter
        rows = [('seed', self.world.seed), ('minutes', '%.1f' % (self.seconds / 60)),
                ('events', sum(self.fate.counts.values())),
                ('', ', '.join('%d %s' % (n, name) for name, n in sorted(self.fate.counts.items()))),
                ('starts of a chain', ' '.join('%s %d' % (site.name, site.starts) for site in self.sites)),
                ('hostile client', ', '.join('%d %s' % (n, name) for name, n in sorted(self.stranger.done.items()))),
                ('hostile server', ', '.join('%d %s' % (n, name) for name, n in sorted(self.evil.moods.items()))),
                ('clocks', 'libfaketime' if self.world.library else 'not moved: no libfaketime'),
                *[(word, n) for word, n in counts.items()],
                *[('  told', '%d %s' % (n, why.strip()))
                  for why, n in sorted(self.book.doubts.items(), key=lambda row: -row[1])[:12]],
                ('reconciliations', self.looks),
                ('lost', len([line for line in self.wrong if 'nowhere' in line or 'is lost' in line])),
                ('duplicates explained', ', '.join('%d %s' % (n, why) for why, n in sorted(self.reasons.items()))
                 or 'none to explain'),
                ('drained in', '%.0f s' % self.drained), *meter.rows(),
                ('wrong', len(self.wrong))]
        return ['%-22s %s' % row for row in rows]


def soak(minutes, seed, every=2.0, keep=None, say=print, clocks=True):
    """Make a world, soak it, print the table; [what was wrong]."""
    with World(seed, clocks) as world:
        run = Soak(world, minutes * 60, every, say)
        try:
            run.run()
            for line in run.table():
                say(line)
        finally:
            world.over.set()
            if keep:
                os.makedirs(keep, exist_ok=True)
                for path in (world.evil_log, *(site.log_path for site in world.sites.values())):
                    if os.path.exists(path):
                        shutil.copy(path, keep)
    return run.wrong


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--minutes', type=float, default=20)
    parser.add_argument('--seed', type=int, default=random.SystemRandom().randrange(1000000))
    parser.add_argument('--every', type=float, default=2.0, help='seconds between two events, on average')
    parser.add_argument('--keep', help='where the logs go')
    given = parser.parse_args()
    if os.geteuid() != 0:
        parser.error('needs root: hosts are network namespaces')
    print('seed %d' % given.seed, flush=True)
    wrong = soak(given.minutes, given.seed, given.every, given.keep, lambda line: print(line, flush=True))
    sys.exit(1 if wrong else 0)


if __name__ == '__main__':
    main()
