"""What befalls the hosts of a soak: a table of events, each with what ends it.

    EVENTS: [(weight, name, begin)]; begin(world, site, chance) -> (what it does, in words; seconds; end or None)
or None if it cannot happen now.  Everything an event needs comes from `chance`, so that a seed tells the whole story.
"""
import contextlib
import os
import random
import signal

from tests.peers import dns_script

BROKEN = {'concurrencylocal': 'many\n', 'concurrencyremote': '10M\n', 'queuelifetime': '-1\n', 'locals': 'a b\r\n',
          'virtualdomains': 'no colon here\n', 'bouncewhen': 'never\n', 'smtproutes': 'no colon here\n',
          'timeoutremote': 'x\n',
          'rcpthosts': 'caf\u00e9.test\n', 'badmailfrom': 'nobody\n'}
JUMPS = ('+0', '+3h', '-5h', '+40h', '+31d', '-400d', '+9y')


def kill(world, site, chance):
    """One process of the chain, by SIGKILL.  Where memory is watched, none whose end ends the chain."""
    victims = [row for row in site.chain() if site is not world.witness or row[1] == 'local'
               or row[3] != site.process.pid
               and row[0] != site.process.pid]
    if not victims:
        return None
    name = chance.choice(sorted({row[1] for row in victims}))
    pid = chance.choice([row[0] for row in victims if row[1] == name])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return 'kill %s' % name, 0, None


def kill_all(world, site, chance):
    """Every process at once, as when the power goes."""
    if site is world.witness:
        return None
    send_to([row[0] for row in site.chain()], signal.SIGKILL)
    return 'kill everything', 0, None


def term(world, site, chance):
    """An administrator stops the chain; the supervisor starts it again."""
    if site is world.witness:
        return None
    site.signal(signal.SIGTERM)
    return 'TERM', 0, None


def send_to(pids, number):
    """A signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def stop_one(world, site, chance):
    """One process stands still for a while."""
    rows = site.chain()
    if not rows:
        return None
    name = chance.choice(sorted({row[1] for row in rows}))
    pid = chance.choice([row[0] for row in rows if row[1] == name])
    send_to([pid], signal.SIGSTOP)
    return 'stop %s' % name, chance.uniform(1, 8), lambda: send_to([pid], signal.SIGCONT)


def stop_all(world, site, chance):
    """The whole chain stands still, as in a suspended machine."""
    pids = [row[0] for row in site.chain()]
    send_to(pids, signal.SIGSTOP)
    return 'stop everything', chance.uniform(1, 6), lambda: send_to(pids, signal.SIGCONT)


def full_queue(world, site, chance):
    """No room for new mail."""
    site.queue_disk.fill()
    return 'full queue', chance.uniform(2, 8), site.queue_disk.empty


def full_homes(world, site, chance):
    """No room in the homes."""
    site.homes_disk.fill()
    return 'full homes', chance.uniform(2, 8), site.homes_disk.empty


def jump(world, site, chance):
    """The wall clock is set."""
    if not world.library:
        return None
    offset = chance.choice(JUMPS)
    site.set_clock(offset)
    return 'clock %s' % offset, 0, None


def closed_home(world, site, chance):
    """The user cannot enter his home."""
    os.chmod(site.home, 0)
    return 'closed home', chance.uniform(2, 6), lambda: os.chmod(site.home, 0o700)


def partition(world, site, chance):
    """The host's network is cut off."""
    link = 'h%d' % (list(world.sites).index(site.name) + 1)
    world.net.hub.run('ip', 'link', 'set', link, 'down')

    def end():
        world.net.hub.run('ip', 'link', 'set', link, 'up')
        number = link[1:]
        world.net.hub.run('ip', '-6', 'addr', 'replace', 'fd99:%s::1/64' % number, 'dev', link, 'nodad')
    return 'partition', chance.uniform(2, 10), end


def block_log(world, site, chance):
    """Nobody reads the log."""
    site.reading.clear()
    return 'blocked log', chance.uniform(3, 12), site.reading.set


def broken_control(world, site, chance):
    """A control file that cannot be read as one, and HUP; then the old one again, and HUP."""
    name = chance.choice(sorted(BROKEN))
    path = site.qpy.home + '/control/' + name
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, path + '~')
    site.qpy.write('control/' + name, BROKEN[name])
    site.signal(signal.SIGHUP)

    def end():
        os.unlink(path)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + '~', path)
        site.signal(signal.SIGHUP)
    return 'broken control/%s' % name, chance.uniform(2, 8), end


def run_now(world, site, chance):
    """Everything is to be tried at once."""
    site.signal(signal.SIGALRM)
    return 'ALRM', 0, None


def lies(world, mood, words, seconds):
    """The DNS is in this mood for everybody."""
    if world.zone.mood:
        return None
    world.zone.mood = mood

    def end():
        world.zone.mood = None
    return words, seconds, end


def dns_fails(world, site, chance):
    """No answer, or no good one."""
    how = chance.choice((dns_script.SILENT, dns_script.SERVFAIL, dns_script.REFUSED, dns_script.FORMERR))
    return lies(world, lambda name, kind: how, 'DNS %s' % how, chance.uniform(2, 8))


def dns_garbles(world, site, chance):
    """Answers to other questions, cut off, or any bytes; sometimes the truth by TCP only."""
    how, noise = chance.choice(('wrong id', 'cut', 'noise', 'truncated')), random.Random(chance.random())

    def mood(name, kind):
        truth = dict.get(world.zone, (name, kind))

        def answer(server, query, tcp):
            wire = server.plain(query, name, kind, truth)
            if how == 'truncated':
                if tcp:
                    return wire
                return server.plain(query, name, kind, dns_script.TRUNCATED)
            return {'wrong id': bytes([wire[0] ^ 1]) + wire[1:], 'cut': wire[:len(wire) // 2],
                    'noise': noise.randbytes(noise.randrange(600))}[how]
        return answer
    return lies(world, mood, 'DNS %s' % how, chance.uniform(2, 8))


def dns_lies(world, site, chance):
    """Nobody exists, or everybody lives at the hostile server: what then bounces or goes astray is its fault."""
    how = chance.choice((dns_script.NXDOMAIN, [world.evil]))
    world.lied = True

    def mood(name, kind):
        if isinstance(how, list):
            return how if kind == 'A' else dns_script.NODATA
        return how
    return lies(world, mood, 'DNS lies', chance.uniform(1, 4))


EVENTS = [(5, 'kill', kill), (1, 'kill all', kill_all), (2, 'term', term), (4, 'stop', stop_one),
          (2, 'stop all', stop_all),
          (3, 'full queue', full_queue), (3, 'full homes', full_homes), (3, 'clock', jump), (2, 'home', closed_home),
          (3, 'partition', partition), (3, 'log', block_log), (3, 'control', broken_control), (4, 'run', run_now),
          (2, 'dns fails', dns_fails), (2, 'dns garbles', dns_garbles), (1, 'dns lies', dns_lies)]


class Fate:
    """Draws the events, and ends them in time."""

    def __init__(self, world):
        self.world, self.chance = world, random.Random('%d/fate' % world.seed)
        self.under_way, self.counts = [], {}    # [(until, site, name, end)]

    def strike(self):
        """Something happens; what, in words."""
        for _ in range(10):
            words = self.draw()
            if words:
                return words
        return None

    def draw(self):
        """The same; None for what cannot be just now."""
        site = self.chance.choice(list(self.world.sites.values()))
        weights = [weight for weight, _, _ in EVENTS]
        _, name, begin = self.chance.choices(EVENTS, weights)[0]
        if any(where is site and kind == name for _, where, kind, _ in self.under_way):
            return None
        what = begin(self.world, site, self.chance)
        if not what:
            return None
        words, seconds, end = what
        self.counts[name] = self.counts.get(name, 0) + 1
        if end:
            self.under_way.append((self.world.now() + seconds, site, name, end))
        site.note('--- ' + words)
        return '%s: %s' % (site.name, words)

    def end_what_is_over(self, everything=False):
        """Undo what has lasted long enough, or everything."""
        for event in list(self.under_way):
            if everything or event[0] <= self.world.now():
                self.under_way.remove(event)
                event[3]()
                event[1].note('--- over: ' + event[2])

    def heal(self):
        """No event is left, and the clocks are right."""
        self.end_what_is_over(everything=True)
        for site in self.world.sites.values():
            site.set_clock('+0')
