"""MT-PRIORITY (RFC 6710): which message goes before others, from -9 to 9; 0 is everybody's.

    parse(b'-4') -> -4              of MAIL's parameter and of the envelope's record `M`; None if it is none
    Turns                           who waits: the highest priority first, in each the longest waiting
"""
from _collections import deque

LEAST, MOST, COMMON = -9, 9, 0
LETTER = b'M'               # of the envelope


def parse(value):
    """The number; None if it is not written as RFC 6710 has it."""
    digit = value.removeprefix(b'-')
    return int(value) if len(digit) == 1 and digit in b'0123456789' and value != b'-0' else None


def of(envelope):
    """The priority of a core.mess.Envelope."""
    return parse(envelope.option(LETTER, b'0')) or COMMON


class Turns:
    """A queue for each priority that somebody has.  Each step costs the same however many wait."""

    __slots__ = ('queues', 'top')

    def __init__(self):
        self.queues, self.top = {}, None        # {priority: deque, never empty}; the first of them

    def append(self, item, priority=COMMON):
        """The last of his priority."""
        queue = self.queues.get(priority)
        if queue is None:
            queue = self.queues[priority] = deque()
            self.top = self.queues[max(self.queues)]
        queue.append(item)

    def popleft(self):
        """Whose turn it is."""
        top = self.top
        item = top.popleft()
        if not top:
            del self.queues[max(self.queues)]
            self.top = self.queues[max(self.queues)] if self.queues else None
        return item

    def __iter__(self):
        """All, in no order."""
        for queue in self.queues.values():
            yield from queue

    def __bool__(self):
        return self.top is not None

    def __len__(self):
        return sum(map(len, self.queues.values()))
