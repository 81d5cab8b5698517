"""Which IDs messages get: the clock's microseconds, rising, and none twice, whatever the clock does.

    ids = Ids(numbers found in the queue, now)
    first = ids.give(count, now)        so many in a row, to be written; those given before are settled by then
    ids.settled()                       they are durable, or given up
    below, beyond = ids.known()         nothing is being written below `below`, nor in the spans `beyond`

A clock that is set back by less than AHEAD changes nothing: IDs go on rising until it has caught up.  One that stood
further ahead was wrong, then or now, and IDs follow it again at once.  What it had named stays taken: the numbers given or
found are kept as spans (first, last), and a new one never lies in them, nor in the one that grows now: a clock that is
set back into it lets IDs rise from its end.  Within a span, and from one to the next unless the clock was set back, IDs
rise.  All numbers are microseconds since 1970.
"""
AHEAD = 86_400_000_000      # a day
MOST = 50                   # spans kept apart; of more, those that lie nearest to each other become one


class Ids:
    """spans: (first, last) of what is taken, sorted, without those of the span that grows now, which is first..last;
    open: the first that may still be on its way to the disk."""

    __slots__ = ('spans', 'first', 'last', 'open')

    def __init__(self, found=(), now=0):
        near, self.spans = map(clusters, by_day(found, now + AHEAD))
        self.first, self.last = near.pop() if near else (0, 0)
        self.spans = near + self.spans
        self.merge()
        self.settled()

    @property
    def ahead(self):
        """The highest number that lies ahead of those given now; 0 if there is none."""
        return self.spans[-1][1] if self.spans and self.spans[-1][0] > self.last else 0

    def give(self, count, now):
        """The first of `count` numbers in a row that were never given or found."""
        number = max(self.last + 1, now) if now > self.last - AHEAD else max(1, now)
        taken = self.spans if number > self.last else sorted([*self.spans, (self.first, self.last)])
        for first, last in taken:
            if first < number + count and number <= last:
                number = last + 1
        if not self.last < number <= self.last + AHEAD or any(self.last < first < number for first, _ in self.spans):
            if self.last:
                self.spans = sorted([*self.spans, (self.first, self.last)])
            self.first = number
        self.open, self.last = number, number + count - 1
        self.merge()
        return number

    def settled(self):
        """None of those given is on its way any more."""
        self.open = self.last + 1

    def known(self):
        """(below, [(first, last)]): numbers below the one, and those in these spans beyond it, are settled."""
        return self.open, [span for span in self.spans if span[0] >= self.open]

    def merge(self):
        """Have MOST spans at most.  The one that grows now stays between two that are not made one."""
        while len(self.spans) > MOST:
            pairs = [(after[0] - before[1], n) for n, (before, after) in enumerate(zip(self.spans, self.spans[1:]))
                     if not before[1] < self.first <= after[0]]
            _, n = min(pairs)
            self.spans[n:n + 2] = [(self.spans[n][0], self.spans[n + 1][1])]


def by_day(numbers, limit):
    """({day: [first, last]} of the numbers up to the limit, and of those above): of millions few have to be sorted."""
    near, far = {}, {}
    for number in numbers:
        days, day = near if number <= limit else far, number // AHEAD
        ends = days.get(day)
        if ends is None:
            days[day] = [number, number]
        elif number < ends[0]:
            ends[0] = number
        elif number > ends[1]:
            ends[1] = number
    return near, far


def clusters(days):
    """[(first, last)] of the numbers in such days, sorted: a new one begins where the next is more than AHEAD away."""
    spans = []
    for _, (first, last) in sorted(days.items()):
        if spans and first <= spans[-1][1] + AHEAD:
            spans[-1] = spans[-1][0], last
        else:
            spans.append((first, last))
    return spans
