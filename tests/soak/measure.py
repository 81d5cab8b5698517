"""What the processes of a soak use: memory and descriptors over time, zombies, and what they do when there is nothing
to do."""
import os
import time

TICK = os.sysconf('SC_CLK_TCK')
IDLE = 5.0                  # seconds of watching at rest
IDLE_CPU = 0.05             # of one processor that a program may take then
GROWTH_KB = 3000            # of the largest process of a program between the second quarter of the storm and its last
GROWTH = 1.15               # and this times
MORE_DESCRIPTORS = 6        # a process may have more at rest after the storm than before it
ZOMBIE = 3                  # samples in a row that make one


def memory_and_descriptors(pid):
    """(KB of anonymous memory, open descriptors); OSError if it is gone."""
    with open('/proc/%d/status' % pid) as file:
        fields = dict(line.split(':\t', 1) for line in file if ':\t' in line)
    return int(fields.get('RssAnon', '0 kB').split()[0]), len(os.listdir('/proc/%d/fd' % pid))


def spent(pid):
    """CPU seconds so far."""
    with open('/proc/%d/stat' % pid) as file:
        words = file.read().rpartition(')')[2].split()
    return (int(words[11]) + int(words[12])) / TICK


class Meter:
    """Samples of the processes of all sites."""

    def __init__(self, world):
        self.world, self.sites = world, list(world.sites.values())
        self.series = {}        # {(site, program): [(time, largest KB, most descriptors)]}
        self.zombies, self.wrong, self.rest = {}, [], {}

    def sample(self):
        """Look at everybody."""
        now, seen = self.world.now(), {}
        for site in self.sites:
            for program, (memory, descriptors) in self.largest(site).items():
                self.series.setdefault((site.name, program), []).append((now, memory, descriptors))
            for pid, name, state, parent in zombies_below(site):
                seen[pid] = self.zombies.get(pid, 0) + 1
                if seen[pid] == ZOMBIE and not self.stopped(parent):
                    self.wrong.append('%s: %d (%s) is a zombie for long, at %.0f, of %s'
                                      % (site.name, pid, name, now, what_is(parent)))
        self.zombies = seen

    @staticmethod
    def stopped(pid):
        """Is it held by SIGSTOP?"""
        try:
            with open('/proc/%d/stat' % pid) as file:
                return file.read().rpartition(')')[2].split()[0] == 'T'
        except OSError:
            return True

    @staticmethod
    def largest(site):
        """{program: (KB of its largest process, descriptors of the one with most)}."""
        found = {}
        for pid, name, _, _ in site.chain():
            try:
                memory, descriptors = memory_and_descriptors(pid)
            except OSError:
                continue
            before = found.get(name, (0, 0))
            found[name] = max(memory, before[0]), max(descriptors, before[1])
        return found

    def at_rest(self, when):
        """Nothing is to be done: who does something all the same, and how many descriptors everybody has; sentences."""
        time.sleep(1)                       # what was under way ends
        before = {(site.name, pid): (name, spent(pid)) for site in self.sites for pid, name, _, _ in site.chain()}
        time.sleep(IDLE)
        busy = []
        for (site, pid), (name, seconds) in before.items():
            try:
                share = (spent(pid) - seconds) / IDLE
            except OSError:
                continue
            if share > IDLE_CPU:
                busy.append('%s: %s takes %.0f %% of a processor at rest' % (site, name, 100 * share))
        self.rest[when] = {site.name: self.largest(site) for site in self.sites}
        return busy

    def judge(self):
        """[sentence] of what grew, or is a zombie."""
        found = list(self.wrong)
        for site in self.sites:
            for program, (_, descriptors) in self.rest['after'][site.name].items():
                first = self.rest['before'][site.name].get(program)
                if first and descriptors > first[1] + MORE_DESCRIPTORS:
                    found.append('%s: %s has %d descriptors at rest, before the storm %d'
                                 % (site.name, program, descriptors, first[1]))
            found += ['%s: %d (%s) is a zombie at the end' % (site.name, row[0], row[1]) for row in zombies_below(site)]
        for program, (early, late) in self.growth().items():
            if late > early * GROWTH + GROWTH_KB:
                found.append('%s grows: %d KB in the second quarter, %d in the last' % (program, early, late))
        return found

    def growth(self):
        """{program: (KB in the second quarter of the storm, in the last)} on the host that is never killed."""
        found = {}
        for (site, program), samples in self.series.items():
            quarter = len(samples) // 4
            if site == self.world.witness.name and quarter:
                found[program] = (max(memory for _, memory, _ in samples[quarter:2 * quarter + 1]),
                                  max(memory for _, memory, _ in samples[-quarter:]))
        return found

    def rows(self):
        """For the table."""
        rest = self.rest.get('after', {}).get(self.world.witness.name, {})
        before = self.rest['before'][self.world.witness.name]
        yield 'memory, KB', ', '.join('%s %d-%d' % (name, *pair) for name, pair in sorted(self.growth().items()))
        yield 'descriptors at rest', ', '.join('%s %d-%d' % (name, before.get(name, (0, 0))[1], pair[1])
                                               for name, pair in sorted(rest.items()))
        yield 'zombies', len(self.wrong)


def what_is(pid):
    """A process, as far as /proc tells what it does."""
    found = ['%d' % pid]
    for name in ('cmdline', 'wchan', 'syscall', 'stat'):
        try:
            with open('/proc/%d/%s' % (pid, name)) as file:
                found.append('%s: %s' % (name, file.read().replace('\0', ' ').strip()))
        except OSError as problem:
            found.append('%s: %s' % (name, problem.strerror))
    return ', '.join(found)


def zombies_below(site):
    """[(pid, name, state, parent)] of zombies whose parent is of this site."""
    parents, found = {row[0] for row in site.processes()}, []
    for parent in parents:
        try:
            with open('/proc/%d/task/%d/children' % (parent, parent)) as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            continue
        for pid in children:
            try:
                with open('/proc/%d/stat' % pid) as file:
                    text = file.read()
            except OSError:
                continue
            state = text.rpartition(')')[2].split()[0]
            if state == 'Z':
                found.append((pid, text[text.index('(') + 1:text.rindex(')')], state, parent))
    return found
