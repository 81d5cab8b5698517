"""What qpy-send keeps of messages under way and of the places they go to (core.dispatch moves them).  Pure.

    Job         a message in the pass over it; it has a Work for each place that it goes to
    Work        the recipients there that nobody has started yet
    Flight      a transaction that was started
    Place       where mail goes to: a host, a relay, or a local user; it stands in a Channel
    Channel     local or remote
"""
from qpy.core import notices, priority, schedule

WINDOW = 5                      # transactions a place may have before one of them has ended
NOWHERE = {}                    # nobody's, and never written to


class Job:
    """One message in the pass that is being made over it.

    id: number, name: 16 digits; length: bytes of the message; flags: for R records; options: for L records;
    birth: wall time of acceptance, of which the steady age follows; next: recorded time of the next attempt
    (0: none); attempts: passes before this one; total: recipients, finished ones included; has_state:
    state/ID exists. todo: [(index, route.LOCAL or REMOTE, recipient, destination)] of this pass; failed:
    indices failed and not yet reported.  succeeded: the same of those whose sender wants to hear that; warned: he was
    told that it takes long; wishes: {index: [(letter, value)]} of the recipients that have any (core.mess); by: a
    deliverby.By or None; stranded: the Places whose trouble made recipients of this pass wait.  body:
    whatever the program keeps with the job.  put_off: {index: Place} of the recipients that are not in this pass because a
    crowd waits there.  priority: see core.priority.  domains: {domain that may be asked for: indices}
    of this pass; early: it is made out of turn.
    """

    __slots__ = ('id', 'name', 'length', 'sender', 'flags', 'options', 'birth', 'next', 'attempts', 'total',
                 'has_state', 'todo', 'failed', 'body', 'new_lines',
                 'undone', 'works', 'ready', 'deferred', 'entries', 'dirty', 'dying', 'skipped', 'order',
                 'after', 'remote', 'succeeded', 'warned', 'wishes', 'reports', 'by', 'stranded', 'priority', 'domains',
                 'early', 'put_off')

    def __init__(self, id, name, length, sender, todo, total, birth=0, flags=b'', options=b'', next=0,
                 attempts=0, has_state=False, failed=(), new_lines=(), succeeded=(), warned=False, wishes=None,
                 by=None, priority=priority.COMMON):
        self.id, self.name, self.length, self.sender, self.todo = id, name, length, sender, todo
        self.total, self.birth, self.flags, self.options = total, birth, flags, options
        self.next, self.attempts, self.has_state = next, attempts, has_state
        self.failed, self.new_lines = list(failed), new_lines
        self.succeeded, self.warned, self.wishes, self.reports = list(succeeded), warned, wishes, ()
        self.by, self.priority = by, priority
        self.body = self.works = self.order = self.after = None
        self.undone = len(todo)
        self.ready, self.deferred, self.entries = {}, {}, []
        self.remote = self.dirty = self.dying = self.skipped = self.early = False
        self.domains = self.put_off = NOWHERE
        self.stranded = set()

    def wants(self, index, what):
        """Is the sender to be told this (core.notices) of this recipient?  Nobody is where there is no sender."""
        if not self.sender or self.sender == notices.TRIPLE:
            return False
        return notices.wanted(dict(self.wishes.get(index, ())).get(b'N') if self.wishes else None, what)

    @property
    def skip(self):
        """The step of its retry curve: the remote one if anything of it is remote."""
        return schedule.SKIP_REMOTE if self.remote else schedule.SKIP_LOCAL

    def is_late(self, wall):
        """Is the time over by which it was to be delivered?"""
        return self.by is not None and wall >= self.by.deadline


class Work:
    """A job's recipients at one destination: [(index, recipient)], the next one last."""

    __slots__ = ('job', 'place', 'recipients')

    def __init__(self, job, place):
        self.job, self.place, self.recipients = job, place, []

    def empty(self):
        """Its recipients, none of which is to be started any more, the next one last."""
        recipients, self.recipients = self.recipients, []
        self.place.works -= bool(recipients)
        return recipients


class Flight:
    """A transaction: `left` of its recipients have no report yet; good: place.good when it started."""

    __slots__ = ('job', 'place', 'left', 'good')

    def __init__(self, job, place, left):
        self.job, self.place, self.left, self.good = job, place, left, place.good


class Place:
    """A destination: a host, where smtproutes names one a relay, or a local user.  until: steady time before which it is left
    alone; failed: when that was decided last.

    window: transactions it has shown to be good for; one more with each that ends well, half with a deferral, and for a
    while (still: until then) as many as it served beside one that it turned away.  good: reports that speak well of it.
    limit, pace: what control/destinationlimits says, and what is left of the rate; again: when somebody waits for more of it.
    stranded: IDs of the messages that sleep because of its trouble; called: domains that were asked for meanwhile.
    """

    __slots__ = ('name', 'channel', 'active', 'works', 'window', 'waiting', 'parked', 'failures', 'failed', 'until',
                 'reason', 'limit', 'pace', 'again', 'stranded', 'still', 'good', 'called')

    def __init__(self, name, channel):
        self.name, self.channel = name, channel
        self.active = self.works = self.failures = self.failed = self.until = 0     # works: those with recipients left
        self.still = self.good = 0
        self.waiting, self.parked, self.reason = None, None, b''
        self.window, self.again = WINDOW, 0
        self.limit = self.pace = None
        self.stranded, self.called = set(), ()

    def crowd(self):
        """How many wait there."""
        return len(self.waiting) if self.waiting else 0


class Channel:
    """Local or remote: how many transactions there are and may be, and whose turn it is.

    capacity: what the spawner says that it can; None until it has said so.
    """

    __slots__ = ('name', 'wanted', 'capacity', 'active', 'ring', 'places')

    def __init__(self, name, wanted):
        self.name, self.wanted, self.capacity = name, wanted, None
        self.active, self.ring, self.places = 0, priority.Turns(), {}

    @property
    def limit(self):
        """The lesser of what the administrator wants and what the spawner can."""
        return min(self.wanted, self.capacity or 0)
