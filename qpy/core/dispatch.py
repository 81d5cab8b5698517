"""Which delivery starts next: the scheduler of qpy-send, without a file, a socket or a clock.

Events go in (found, loaded, report, bounced, written, removed ...), `advance` gives the actions that follow
from them, as tuples whose first item is one of the words below; `lines` collects what belongs into the log.

    asleep      every message that is not being worked on: {ID: when}, a number and a place in the calendar (about 120 bytes)
    jobs        the messages that are: a Job each, with what is left of its recipients in this pass
    Work        one job's recipients at one destination
    Flight      one transaction under way: one recipient of lspawn's, up to 100 of rspawn's

Fairness.  A channel goes round over the jobs that have something to start, one transaction each; a job goes
round over its destinations.  So a message to 50,000 people delays another one by one transaction, not by
50,000; of two jobs that wait the one of higher priority goes first (core.priority).  A destination may have no more
transactions than its channel has free (`share`), so that hosts which never answer, or users whose programs hang, leave
room for the others.  One that has its share keeps its Works in a queue of its own, out of everybody's way, and wakes
the first when one ends; while there are many jobs, a message has its pass without the recipients for whom a crowd waits
already, and is parked until there are fewer; a destination in trouble (scope `h`) is left alone for a while, and what was meant for it is
deferred without trying; one that only turns away what is too much at a time, and serves the others, gets less.  Each
step costs the same however many wait: no list is searched.

Out of turn.  hurry() has the recipients tried now that wait at domains which somebody may ask for (core.etrn): those
and no others of a message, found in an index and not by looking.  Such a pass changes nothing in the schedule: when the
next one is due, how many there were, and when a message is given up.

What may be forgotten.  Nothing here is on disk.  A done mark or a failure that was not written yet when the
machine stops is found out again by delivering again: a duplicate, never a loss.  A message leaves (`remove`)
only when every recipient is delivered or its report is durable in the queue.
"""
from collections import deque
from heapq import heappop, heappush

from qpy.core import destinations, etrn, notices, priority, route, schedule, sendlog, text
from qpy.core.jobs import NOWHERE, WINDOW, Channel, Flight, Place, Work

# --- actions ---
LOAD = 'load'           # id, forced (also if held): read mess/ID and state/ID, then loaded() or not_loaded()
LOCAL = 'local'         # job, number, recipient: one delivery for lspawn
REMOTE = 'remote'       # job, host, sender, [(number, recipient)]: one transaction for rspawn
WRITE = 'write'         # job: append job.entries to its state, then written()
BOUNCE = 'bounce'       # job, [indices], kind: have a report made (core.bounce), then bounced()
REMOVE = 'remove'       # job: ask clean, then removed()

# --- where a message that is not a job stands: its due time, or one of these ---
DUE, PARKED, HELD, FORCED = 0, -1, -2, -3     # FORCED: due, even if its record says held

# --- reports: what is told of, in this order, and which of a job's recipients it is about ---
FAILURES, SUCCESSES, DELAYS = b'bounce', b'success', b'delay'

# --- what an administrator asked for ---
HOLD, DROP, FAIL = 'hold', 'drop', 'fail'

# --- limits ---
MOST_JOBS = 10_000              # messages being worked on
MOST_LOADED = 1_000_000         # recipients of all of them
CROWD, CALM = 200, 50           # jobs waiting for one destination: more are parked beyond, called back below
PARK_FROM = 2_500               # while there are fewer jobs, nobody is parked
LOADS, OLD_LOADS = 64, 16       # messages loaded per step; from the backlog: new mail that comes meanwhile waits for them
STARTS = 256                    # transactions started per step and channel
RECIPIENTS = 100                # in one remote transaction
REPORT_LIMIT = 10_000           # bytes of one report, as in qmail-send
STATE_TEXT, LEAST_TEXT = 32 << 20, 200      # bytes kept of all reports on one message; of one, however many there are
CROWDED = 300                   # seconds a destination that turned one away beside others gets no more than those
MOST_DESTINATIONS = 20_000      # remembered without anything to do there
STALE = 10_000                  # entries of the calendar of sleepers that are of no use any more, beside one for each sleeper

LATE = b'The sender wanted this message back rather than late, and its time is over. (#5.4.7)\n'
CANCELLED = b'This message was taken out of the queue by the administrator. (#5.7.0)\n'
UNREACHABLE = b'Nothing there answers at the moment; not tried again yet. '


class Settings:
    """What control files say: lifetime (seconds), bounce_at_end (bool), per_host (transactions), warn_after (seconds,
    0: never), limits ({destination: destinations.Limit}), etrn ({entry of control/etrn: ...})."""

    __slots__ = ('lifetime', 'bounce_at_end', 'per_host', 'warn_after', 'limits', 'etrn')

    def __init__(self, lifetime=604800, bounce_at_end=False, per_host=20, warn_after=0, limits=None, etrn=()):
        self.lifetime, self.bounce_at_end, self.per_host = lifetime, bounce_at_end, per_host
        self.warn_after, self.limits, self.etrn = warn_after, limits or {}, etrn


class Dispatch:
    """The whole state of qpy-send but for its files and sockets."""

    def __init__(self, clock, settings, local=100, remote=200, chance=lambda: 0.0):
        self.clock, self.settings, self.chance = clock, settings, chance
        self.local, self.remote = Channel(route.LOCAL, local), Channel(route.REMOTE, remote)
        self.channels = {route.LOCAL: self.local, route.REMOTE: self.remote}
        self.now = clock.now
        self.asleep, self.calendar = {}, schedule.Calendar()
        self.fresh, self.backlog = deque(), deque()     # IDs to load: just arrived, or woken and found
        self.jobs, self.loading, self.leaving, self.orders = {}, {}, {}, {}
        self.loaded_recipients = 0
        self.flights = {}               # delivery number: (Flight, index)
        self.number = 0                 # of the last delivery started
        self.lines, self.actions, self.dirty, self.stuck = [], [], [], deque()
        self.exiting = False
        self.paced = []                 # heap of (steady time, name): remote destinations that wait for their rate
        self.waiting = etrn.Waiting(settings.etrn)
        self.only = {}                  # {ID: domains whose recipients are to be tried in its next pass, out of turn}

    def use(self, settings):
        """Go on with other settings.  Who waits for the domains that may be asked for now is to be told by note()."""
        if settings.etrn != self.settings.etrn:
            self.waiting = etrn.Waiting(settings.etrn)
        self.settings = settings
        for place in self.remote.places.values():
            self._limit(place)

    # --- what is in the queue ---------------------------------------------------------------------

    def knows(self, id):
        """Is the message here already?"""
        return id in self.asleep or id in self.jobs or id in self.loading or id in self.leaving

    def arrived(self, id):
        """A message was announced: it goes first."""
        if not self.knows(id):
            self.asleep[id] = DUE
            self.fresh.append(id)

    def found(self, id, due=DUE):
        """A message that was in the queue before: due now, at a steady time, or HELD."""
        if self.knows(id):
            return
        if due > 0:
            self._sleep(id, due)
            return
        self.asleep[id] = due
        if due == DUE:
            self.backlog.append(id)

    def claimed(self, id):
        """A message that was found and is being set aside: known, until not_loaded() says how that went."""
        self.loading[id] = False

    def count(self):
        """Messages in the queue, as far as they are known."""
        return len(self.asleep) + len(self.jobs) + len(self.loading) + len(self.leaving)

    def _sleep(self, id, due):
        self.asleep[id] = self.calendar.add(due, id)
        if self.calendar.entries > 2 * len(self.asleep) + STALE:        # those that were woken before their time
            self.calendar.clear()
            for id, due in self.asleep.items():
                if due > 0:
                    self.calendar.add(due, id)

    def _wake_due(self):
        while (found := self.calendar.take(self.now)) is not None:
            due, ids = found
            self.backlog.extend(id for id in ids if self.asleep.get(id) == due)

    def run_all(self):
        """Everything that sleeps or is parked is due now, what could not be written too, and no destination is left alone
        (SIGALRM)."""
        self._unstick_now()
        self.only.clear()
        for id, due in self.asleep.items():
            if due > 0 or due == PARKED:
                self.asleep[id] = DUE
                self.backlog.append(id)
        self.calendar.clear()
        for channel in self.channels.values():
            for place in channel.places.values():
                place.until, place.parked = 0, None

    def next_due(self):
        """Steady time at which advance must be called again, or None."""
        times = [self.calendar.first()] if self.calendar.entries else []
        times += [self.stuck[0][0]] if self.stuck else []
        times += [self.paced[0][0]] if self.paced else []
        return min(times, default=None)

    # --- one step ---------------------------------------------------------------------------------

    def advance(self):
        """The actions that are due; to be called again until there are none."""
        self.now = self.clock.now
        self._wake_due()
        self._unstick()
        self._unpace()
        if not self.exiting:
            self._start(self.local)
            self._start(self.remote)
            self._load_some()
        self._write_marks()
        actions, self.actions = self.actions, []
        return actions

    def _room(self):
        return (len(self.jobs) + len(self.loading) < MOST_JOBS
                and (self.loaded_recipients < MOST_LOADED or len(self.jobs) < 100))

    def _load_some(self):
        """Fresh mail first, but one from the backlog for every three of it; the backlog leaves half the room
        free.
        """
        olds = OLD_LOADS
        for turn in range(LOADS):
            if not self._room():
                return
            old = olds and self.backlog and len(self.jobs) < MOST_JOBS // 2
            if not (self.fresh or old):
                return
            if old and (turn % 4 == 3 or not self.fresh):
                olds -= 1
                self._load(self.backlog)
            else:
                self._load(self.fresh)

    def _load(self, queue):
        """The first that has not moved since.  However many have: a step that does nothing is not followed by another."""
        while queue:
            id = queue.popleft()
            due = self.asleep.get(id)
            if due is not None and due <= self.now and due not in (PARKED, HELD):
                del self.asleep[id]
                self.loading[id] = due <= 0
                self.actions.append((LOAD, id, due == FORCED))
                return

    # --- loading ----------------------------------------------------------------------------------

    def not_loaded(self, id, due=None):
        """The message is gone (None), or cannot be worked on now: HELD, or a steady time to look again."""
        self.loading.pop(id, None)
        self.only.pop(id, None)
        if due is None:
            self.orders.pop(id, None)
        elif due > 0:
            self._sleep(id, due)
        else:
            self.asleep[id] = due

    def loaded(self, job):
        """A message was read: begin its pass."""
        now = self.loading.pop(job.id, True)
        job.order, only = self.orders.pop(job.id, None), self.only.pop(job.id, None)
        if self.waiting.listed:
            job.domains = self.waiting.enter(job.id, [(entry[0], entry[2]) for entry in job.todo
                                                      if entry[1] == route.REMOTE])
        ahead = job.order is None and job.next > self.now and bool(job.todo)
        if ahead and not now:
            job.skipped, job.undone, job.todo, job.domains = True, 0, None, NOWHERE      # awake only for its report
        elif ahead and only is not None:
            self._restrict(job, only)
        else:
            self._set_age(job)
        works = self._works(job)
        late = job.by is not None and job.by.returns and job.is_late(self.clock.wall(self.now))
        if len(self.jobs) >= PARK_FROM and job.order is None and not late:
            works = self._put_off(job, works)
            if not works and self._waits_for_a_crowd(job):
                return self._park(job)
        self.lines += job.new_lines
        job.works = works
        self.jobs[job.id] = job
        self.loaded_recipients += job.undone
        if not job.undone:
            self._end_pass(job)
        elif job.order is not None:
            self.obey(job, job.order)
        elif late:
            self._give_back(job, b'D', LATE)
        else:
            for work in works:
                self._offer(work)

    def _set_age(self, job):
        """The schedule of the slower channel counts; past its lifetime this is the message's last pass."""
        job.remote = any(entry[1] == route.REMOTE for entry in job.todo)
        job.dying = schedule.dying(self.clock.age(job.birth), job.attempts, self.clock.running,
                                   self.settings.lifetime, job.skip)

    def _restrict(self, job, only):
        """A pass out of turn, over the recipients of these domains."""
        self.waiting.leave(job.id, only - job.domains.keys())       # found to be finished there
        job.domains = {domain: indices for domain, indices in job.domains.items() if domain in only}
        wanted = {index for indices in job.domains.values() for index in indices}
        job.early, job.skipped = True, len(wanted) < len(job.todo)
        job.todo = [entry for entry in job.todo if entry[0] in wanted]
        job.undone = len(job.todo)

    def _works(self, job):
        """The Works of a pass, in the order of their first recipients."""
        todo, job.todo = job.todo or (), None
        by_place = {}
        for index, channel, recipient, name in todo:
            work = by_place.get((channel, name))
            if work is None:
                work = by_place[channel, name] = Work(job, self._place(channel, name))
            work.recipients.append((index, recipient))
        if len(todo) > 1:
            for work in by_place.values():
                work.recipients.reverse()       # the next one is the last
        return list(by_place.values())

    def _place(self, channel, name):
        places = self.channels[channel].places
        place = places.get(name)
        if place is None:
            place = places[name] = Place(name, self.channels[channel])
            self._limit(place)
        place.works += 1
        return place

    def _limit(self, place):
        """What control/destinationlimits says of this one."""
        limit = destinations.find(place.name, self.settings.limits) if place.channel is self.remote else None
        if limit != place.limit:
            place.limit, place.pace = limit, None
            if limit is not None and limit.count:
                place.pace = destinations.Pace(limit, self.clock.now)

    def _put_off(self, job, works):
        """The Works that do not go where a crowd waits; for the others the message comes again."""
        crowded = [work for work in works if work.place.crowd() >= CROWD]
        if crowded:
            job.put_off = {index: work.place for work in crowded for index, _ in work.empty()}
            job.undone, job.skipped = job.undone - len(job.put_off), True
        return [work for work in works if work.recipients]

    def _waits_for_a_crowd(self, job):
        """Is that all there is to do for it?"""
        return job.put_off and not (job.deferred or self._report_is_due(job) or job.succeeded)

    def _park(self, job):
        """Put a message back until one of the crowds is smaller that it was put off for."""
        if job.early:
            self.only[job.id] = frozenset(job.domains)
        crowded = {place for place in job.put_off.values() if place.crowd() >= CROWD}
        for place in crowded:
            if place.parked is None:
                place.parked = priority.Turns()
            place.parked.append(job.id, job.priority)
        self.asleep[job.id] = PARKED if crowded else DUE
        if not crowded:
            self.backlog.append(job.id)

    # --- whose turn it is -------------------------------------------------------------------------

    def _offer(self, work):
        """A Work that may be started: its job gets, or keeps, its turn."""
        job, channel = work.job, work.place.channel
        ready = job.ready.get(channel)
        if ready is None:
            ready = job.ready[channel] = deque()
        if not ready:
            channel.ring.append((job, ready), job.priority)
        ready.append(work)

    def _start(self, channel):
        """Start what there is room for, round over the jobs."""
        ring, starts = channel.ring, STARTS
        while ring and channel.active < channel.limit and starts:
            job, ready = ring.popleft()
            while ready:
                work = ready.popleft()
                if self._startable(work):
                    starts -= 1
                    self._fly(work)
                    if work.recipients:
                        ready.append(work)
                    break
            if ready:
                ring.append((job, ready), job.priority)

    def per_place(self, place):
        """Transactions one destination may have: one host its limit, one local user half of the channel."""
        if place.channel is self.local:
            return max(1, place.channel.limit // 2)
        return place.limit.most if place.limit is not None else self.settings.per_host

    def share(self, place, more=0):
        """Transactions a destination may have when `more` have started: no more than its window, nor than are then
        free in its channel.  So those that never answer leave room to the others.  One in trouble is probed."""
        if place.failures:
            return 1
        channel = place.channel
        return min(place.window, self.per_place(place), max(1, channel.limit - channel.active - more))

    def _startable(self, work):
        """May a transaction of this Work start?  If not it has been put where it belongs."""
        place = work.place
        if not work.recipients:
            if self._forgotten(place):
                self._freed(place, 1)           # it was taken out of the queue: the next one's turn
            return False
        if place.until > self.now:
            self._give_up_for_now(work)
            return False
        paced = place.pace is not None and not place.pace.left(self.now)
        if paced or place.active >= self.share(place):
            if place.waiting is None:
                place.waiting = priority.Turns()
            place.waiting.append(work, work.job.priority)
            if paced and not place.again:
                self._pace(place)
            return False
        return True

    def _pace(self, place):
        """Come back to it when its rate has something left."""
        place.again = self.now + place.pace.again()
        heappush(self.paced, (place.again, place.name))

    def _unpace(self):
        """Destinations whose rate has something left again."""
        while self.paced and self.paced[0][0] <= self.now:
            place = self.remote.places.get(heappop(self.paced)[1])
            if place is not None:
                place.again, left = 0, place.pace.left(self.now) if place.pace else 1 << 30
                self._freed(place, left)
                if place.waiting and not left:      # the host was in trouble, and its rate is less now
                    self._pace(place)

    def _fly(self, work):
        job, place = work.job, work.place
        place.active += 1
        place.channel.active += 1
        if place.channel is self.local:
            index, recipient = work.recipients.pop()
            place.works -= not work.recipients
            number = self._number(Flight(job, place, 1), index, recipient)
            self.actions.append((LOCAL, job, number, recipient))
            return
        if place.pace is not None:
            place.pace.take()
        batch = self._batch(job, work)
        place.works -= not work.recipients
        flight = Flight(job, place, len(batch))
        numbered = [(self._number(flight, index, recipient), recipient) for index, recipient in batch]
        host = text.lower(batch[0][1].rpartition(b'@')[2])      # place.name may be a relay's: each of them leads there
        self.actions.append((REMOTE, job, host, route.sender_for(job.sender, batch[0][1]), numbered))

    def _batch(self, job, work):
        """The recipients of one transaction: those that share a sender, at most RECIPIENTS."""
        recipients = work.recipients
        if job.sender.endswith(route.VERP) or len(recipients) == 1:
            return [recipients.pop()]
        batch = recipients[-RECIPIENTS:]
        del recipients[-RECIPIENTS:]
        batch.reverse()
        return batch

    def _number(self, flight, index, recipient):
        self.number = number = self.number + 1
        self.flights[number] = (flight, index)
        self.lines.append(sendlog.starting(number, flight.job.name, flight.place.channel.name, recipient))
        self.status()
        return number

    def status(self):
        """Put the status line into the log, once both limits are known."""
        local, remote = self.local, self.remote
        if local.capacity is None or remote.capacity is None:
            return
        self.lines.append(sendlog.status(local.active, local.limit, remote.active, remote.limit,
                                         self.exiting))

    # --- reports ----------------------------------------------------------------------------------

    def report(self, number, letter, scope, text):
        """A delivery ended.  False if there is no such delivery."""
        flight, index = self.flights.pop(number, (None, 0))
        if flight is None:
            self.lines.append(sendlog.warning(b'internal error: delivery report out of range'))
            return False
        job, place = flight.job, flight.place
        text = text[:REPORT_LIMIT]
        known = letter in sendlog.RESULTS
        if known and letter == b'Z' and (job.dying or job.order == FAIL):
            letter, text = b'D', ended(text) + (notices.EXPIRED if job.dying else CANCELLED)
        self.lines.append(sendlog.result(number, letter, text))
        text = shortened(text, job.total)
        flight.left -= 1
        if not flight.left:
            place.active -= 1
            place.channel.active -= 1
        self.status()
        own = letter == b'Z' and scope == b'o'      # it says nothing about other mail to that place
        self._judge(flight, known and not own, scope, text)
        if scope == b'h' and letter == b'Z' and place.failures:
            job.stranded.add(place)
        if letter == b'Z' and not own:
            place.window = min(place.window, max(WINDOW, place.window // 2))
        elif not own:
            self._widen(place)
        if letter == b'K':
            self._deliver(job, index, place.channel, scope, text)
        self._settle(job, index, letter if known else b'Z', text)
        if not flight.left:
            self._freed(place, 1 + (place.active + 1 < self.share(place, 1)))   # one more where there is room
        return True

    def _judge(self, flight, known, scope, text):
        """What a report says about its destination."""
        place = flight.place
        others = place.active - bool(flight.left)
        if scope != b'h':
            place.good += known
            if known and place.failures:
                self._recovered(place)
            elif known and place.reason:            # it is alive: it was too much that was turned away
                self.lines.append(sendlog.crowded(place.name, place.window, CROWDED, place.reason))
                place.reason = b''
            return
        if place.pace is not None:
            place.pace.slower(self.now)
        if not place.failures and (others or place.good > flight.good):
            self._crowded(place, others, text)
        elif place.until <= self.now:
            place.failures, place.failed = place.failures + 1, self.now
            place.until = self.now + schedule.backoff(place.failures, self.chance())
            place.reason, place.window, place.still, place.called = text, WINDOW, 0, ()
            self.lines.append(sendlog.left_alone(place.name, place.until - self.now, place.failures, text))
            self._trouble(place)

    def _crowded(self, place, others, text):
        """It turned one away and has others: so many may be what it takes.  Should they end as badly, the last one shows."""
        place.window = max(1, min(place.window, others))
        place.still, place.reason = self.now + CROWDED, text

    def _widen(self, place):
        """A delivery, or a refusal for good."""
        if place.still <= self.now:
            place.window = min(place.window + 1, self.per_place(place))
        if place.pace is not None:
            place.pace.faster(self.now)

    def _recovered(self, place):
        self.lines.append(sendlog.recovered(place.name))
        place.failures = place.until = 0
        place.reason = b''
        place.stranded.clear()
        called, place.called = place.called, ()
        for domain in called:
            self._hurry(self._sleepers(domain), domain)
        self._freed(place, 1 << 30)

    def _trouble(self, place):
        """Nobody waits for a destination in trouble: Works end their pass there, parked messages sleep."""
        place.stranded = {id for id in place.stranded if self.asleep.get(id, DUE) > 0}      # who has gone is forgotten
        waiting, place.waiting = place.waiting, None
        for work in waiting or ():
            self._give_up_for_now(work)
        parked, place.parked = place.parked, None
        for n, id in enumerate(parked or ()):
            if self.asleep.get(id) == PARKED:
                self._sleep(id, place.until + n // schedule.SPREAD_RATE)
                place.stranded.add(id)

    def _give_up_for_now(self, work):
        """Defer, without trying, what is meant for a destination in trouble; the last pass ends it."""
        job, place, recipients = work.job, work.place, work.empty()
        text = shortened(UNREACHABLE + place.reason, job.total)
        self.lines.append(sendlog.untried(place.name, job.name, len(recipients), job.dying))
        job.stranded.add(place)
        for index, _ in reversed(recipients):
            if job.dying:
                self._settle(job, index, b'D', ended(text) + notices.EXPIRED)
            else:
                self._settle(job, index, b'Z', text)

    def _freed(self, place, many):
        """Room at a destination: its next Works get their turn, parked messages are called back."""
        waiting = place.waiting
        while waiting and many:
            work = waiting.popleft()
            if work.recipients:
                self._offer(work)
                many -= 1
        if place.parked and place.crowd() < CALM:
            self._unpark(place)
        spent = place.again or place.still > self.now or place.pace is not None and not place.pace.fresh(self.now)
        if not (place.active or place.works or place.parked or place.failures or spent):
            place.channel.places.pop(place.name, None)

    def _unpark(self, place):
        left = CROWD - CALM
        while place.parked and left:
            id = place.parked.popleft()
            if self.asleep.get(id) == PARKED:           # not held or taken out of the queue meanwhile
                self.asleep[id] = DUE
                self.backlog.append(id)
                left -= 1

    def _forgotten(self, place):
        """Does somebody wait where nothing will end that would wake him?"""
        return (place.waiting or place.parked) and not (place.active or place.again)

    def _deliver(self, job, index, channel, scope, text):
        """A recipient has it: note whether its sender is to be told, and how it came about."""
        how = notices.success(channel.name, b'd' in scope, text)
        if not (how and job.wants(index, notices.SUCCESS)):
            hop = job.by is not None and channel is self.remote and (job.by.trace or b'b' not in scope)
            how = notices.RELAYED if hop and job.wants(index, notices.ANYTHING) else b''
        if how:
            job.succeeded.append(index)
        self._note(job, (b'd', b'%d' % index, how + b' ' + text) if how else (b'd', b'%d' % index))

    def _settle(self, job, index, letter, text):
        """One recipient's outcome in this pass."""
        if letter != b'K' and job.order == DROP:
            self._note(job, (b'r', b'%d' % index))
        elif letter == b'D':
            job.failed.append(index)
            self._note(job, (b'f', b'%d' % index, text))
        elif letter == b'Z':
            job.deferred[index] = text
        job.undone -= 1
        self.loaded_recipients -= 1
        if not job.undone:
            self._end_pass(job)

    def _note(self, job, entry):
        """Remember an entry for the job's state; it is written at the end of this step if the job is not."""
        job.entries.append(entry)
        if not job.dirty and job.undone > 1:
            job.dirty = True
            self.dirty.append(job)

    def _write_marks(self):
        dirty, self.dirty = self.dirty, []
        for job in dirty:
            job.dirty = False
            if job.entries and job.after is None and job.id in self.jobs:
                self.actions.append((WRITE, job))

    # --- the end of a pass ------------------------------------------------------------------------

    def _end_pass(self, job):
        """Every recipient of this pass has its outcome: report what is to be, then sleep or leave."""
        if job.failed and job.order == DROP:
            self._mark(job, FAILURES)
        job.reports = [kind for kind, due in ((FAILURES, self._report_is_due(job)), (SUCCESSES, job.succeeded)) if due]
        self._report(job)

    def _report_is_due(self, job):
        """Are there failures to report now?  With control/bouncewhen `end`, only if nobody is left to try."""
        return job.failed and not (self.settings.bounce_at_end and (job.deferred or job.skipped))

    def _warning_is_due(self, job):
        """Is the sender to be told now that it takes long?"""
        due = job.is_late(self.clock.wall(self.now)) or 0 < self.settings.warn_after <= self.clock.age(job.birth)
        return due and not (job.warned or job.early) and bool(self._subjects(job, DELAYS))

    def _report(self, job):
        """The next report; after the last one, rest."""
        if job.reports:
            self._then(job, self._bounce)
        else:
            self._rest(job)

    def _then(self, job, step):
        """Have the job's entries written, if there are any, and go on with step(job)."""
        job.after = step
        if job.entries:
            self.actions.append((WRITE, job))
        else:
            self._go_on(job)

    def _go_on(self, job):
        step, job.after = job.after, None
        step(job)

    def written(self, job, done):
        """The answer to WRITE.  What could not be written is tried again later; nothing goes on without it.
        """
        if done:
            job.entries = []
            job.has_state = True
        if job.after is not None:
            if done:
                self._go_on(job)
            else:
                self._stick(job)

    def _stick(self, job):
        wait = schedule.LAST_TROUBLE if self.exiting else schedule.TROUBLE
        self.stuck.append((self.now + wait, job))       # all wait the same time: in order

    def _unstick_now(self):
        self.stuck = deque((self.now, job) for _, job in self.stuck)

    def _unstick(self):
        while self.stuck and self.stuck[0][0] <= self.now:
            _, job = self.stuck.popleft()
            if job.entries:
                self.actions.append((WRITE, job))
            if job.id in self.leaving:
                self.actions.append((REMOVE, job))

    def _bounce(self, job):
        kind = job.reports[0]
        if job.sender == notices.TRIPLE:
            self.lines.append(sendlog.triple_bounce(job.name))
            return self.bounced(job.id, True)
        self.actions.append((BOUNCE, job, list(self._subjects(job, kind)), kind))

    def _subjects(self, job, kind):
        """The recipients that such a report is about."""
        if kind == DELAYS:
            what = notices.ANYTHING if job.is_late(self.clock.wall(self.now)) else notices.DELAY
            return [index for index in job.deferred if job.wants(index, what)]
        return job.failed if kind == FAILURES else job.succeeded

    def bounced(self, id, done, lines=()):
        """The answer to BOUNCE: the report is in the queue (or not wanted), or could not be made."""
        job = self.jobs.get(id)
        if job is None or not job.reports:
            return False
        self.lines += lines
        kind = job.reports.pop(0)
        if done:
            self._mark(job, kind)
        if kind == DELAYS:
            self._then(job, self._to_sleep)
        else:
            self._report(job)
        return True

    def _mark(self, job, kind):
        """What was told is not told again."""
        if kind == DELAYS:
            job.warned = True
            job.entries.append((b'w', b'%d' % self.clock.wall(self.now)))
            return
        told = self._subjects(job, kind)
        job.entries += [(b'r', b'%d' % index) for index in told]
        told.clear()

    def _rest(self, job):
        """After the reports, or without one: leave, or sleep until the next pass."""
        if not (job.deferred or job.failed or job.succeeded or job.skipped):
            return self._leave(job)
        if job.order == HOLD:
            return self._then(job, self._hold)
        if job.deferred and not job.early:
            self._plan(job)
        if self._warning_is_due(job):
            job.reports = [DELAYS]
            return self._then(job, self._bounce)
        self._then(job, self._to_sleep)

    def _plan(self, job):
        """Note why and until when the message waits."""
        wait = schedule.retry(self.clock.age(job.birth), job.skip)
        job.next = self.now + schedule.late(wait, self.chance())
        if job.by is not None and not job.is_late(self.clock.wall(self.now)):       # then its sender is to hear of it
            job.next = min(job.next, max(self.now + 1, int(self.clock.steady(job.by.deadline))))
        job.attempts += 1
        job.entries += [(b'z', b'%d' % index, text) for index, text in job.deferred.items()]
        job.entries.append((b'a', b'%d' % self.clock.wall(job.next), b'%d' % job.attempts))

    def _to_sleep(self, job):
        self._forget(job)
        if job.order is not None and (job.deferred or job.skipped):     # it came too late, or not for all of this pass
            self.orders[job.id] = job.order
            self.asleep[job.id] = FORCED
            self.backlog.append(job.id)
            return
        if not all(place.failures for place in job.stranded):   # well again, or so we were told in the meantime
            if job.early:
                self.only[job.id] = frozenset(job.domains)
            self.asleep[job.id] = DUE
            return self.backlog.append(job.id)
        for place in job.stranded:
            place.stranded.add(job.id)
        if self._waits_for_a_crowd(job):
            return self._park(job)
        due = job.next if (job.deferred or job.skipped) and job.next > self.now else 0
        if self._report_is_due(job) or job.succeeded:
            soon = self.now + schedule.TROUBLE
            due = min(due, soon) if due else soon
        self._sleep(job.id, max(due, self.now + 1))

    def _hold(self, job):
        self._forget(job)
        self.asleep[job.id] = HELD

    def _forget(self, job):
        if job.domains:
            left = job.deferred.keys() | job.put_off.keys()
            self.waiting.leave(job.id, [domain for domain, indices in job.domains.items() if left.isdisjoint(indices)])
        del self.jobs[job.id]
        job.works = None                        # no cycle is left behind

    # --- leaving ----------------------------------------------------------------------------------

    def _leave(self, job):
        """All recipients are finished.  A message without state is removed on our word."""
        if job.has_state:
            return self._then(job, self._remove)
        self._remove(job)

    def _remove(self, job):
        self._forget(job)
        self.leaving[job.id] = job
        self.lines.append(sendlog.end(job.name))
        self.actions.append((REMOVE, job))

    def removed(self, job, done):
        """clean's answer.  A message that stays must not be delivered again: that it is finished is written
        down.
        """
        if done:
            self.leaving.pop(job.id, None)
            return
        if not job.has_state:
            job.entries = [(b'd', b'%d' % index) for index in range(job.total)]
            self.actions.append((WRITE, job))
        self._stick(job)

    # --- what an administrator asks for -----------------------------------------------------------

    def command(self, id, order):
        """HOLD, DROP or FAIL a message.  False if there is none of that ID, or it is leaving already."""
        job = self.jobs.get(id)
        if job is not None:
            self.obey(job, order)
        elif id in self.loading:
            self.orders[id] = order
        elif id not in self.asleep:
            return False
        elif order == HOLD:
            self.only.pop(id, None)
            self.asleep[id] = HELD
        else:
            self.orders[id] = order
            self.run(id)
        return True

    def run(self, id):
        """Try one message now, also one that is held; take back that it is to be held.  False if it is
        unknown.
        """
        job = self.jobs.get(id)
        if job is not None:
            job.order = None if job.order == HOLD else job.order
        elif id in self.asleep:
            self.only.pop(id, None)
            self.asleep[id] = FORCED
            self.fresh.append(id)
        else:
            return False
        return True

    def obey(self, job, order):
        """Apply an order to what of the job is not in flight; what is, ends by itself."""
        job.order = order
        self._give_back(job, *((b'D', CANCELLED) if order == FAIL else (b'Z', b'')))

    def _give_back(self, job, letter, text):
        """The outcome of all that has not started."""
        for work, recipients in [(work, work.empty()) for work in job.works]:
            for index, _ in reversed(recipients):
                self._settle(job, index, letter, text)

    def troubled(self):
        """[(host, failures, steady time of the last one and until which it is left alone, reason)] of the destinations in
        trouble.
        """
        return [(place.name, place.failures, place.failed, place.until, place.reason)
                for place in self.remote.places.values() if place.failures]

    def destinations(self):
        """Every remote Place that is known: something is under way or waits there, it is in trouble, or its rate is
        being spent."""
        return list(self.remote.places.values())

    def forgive(self, name=None):
        """Leave no destination (or not this one) alone any longer; how many that were."""
        named = [place for place in self.remote.places.values()
                 if name in (None, place.name, destinations.host_of(place.name))]
        found = [place for place in named if place.failures]
        for place in named:
            place.still = 0                     # more may be ventured, too
        for place in found:
            stranded = sorted(place.stranded)
            self._recovered(place)
            self._awaken(stranded)
        return len(found)

    def _awaken(self, ids):
        """What sleeps of these messages is due now."""
        for id in ids:
            self.only.pop(id, None)
            if self.asleep.get(id, DUE) > 0:
                self.asleep[id] = DUE
                self.backlog.append(id)

    def note(self, id, recipients):
        """Remote recipients, (index, address), of a message that was not read for long: do any wait at a domain that may be
        asked for?"""
        if self.knows(id):
            self.waiting.enter(id, recipients)

    def hurry(self, domain, below, place_of, now):
        """Try what waits for this domain, and perhaps for all below it, out of turn.  A host that is left alone (the Place
        called place_of(domain), a name or None) is probed by one message; what waits because of it follows if that goes
        well.  How many messages that are, with those that are under way already.  Raises etrn.Later."""
        messages = set()
        for each in self.waiting.ask(domain, below, now):
            ids = self.waiting.ids[each]
            self.waiting.leave_all(each, [id for id in ids if not self.knows(id)])
            messages.update(id for id in ids if self.asleep.get(id) != HELD)
            woken, place = self._sleepers(each), self.remote.places.get(place_of(each))
            if woken and place is not None and place.failures:
                woken = self._probe(place, each, woken)
            self._hurry(woken, each)
        return len(messages)

    def _probe(self, place, domain, ids):
        """Those of these sleeping messages that are to be tried before it is known whether the place is well again."""
        place.until, place.failures = 0, max(1, place.failures - 1)     # a probe that fails leaves it as it was
        place.called = {*place.called, domain}
        others = [id for id in ids if id not in place.stranded]
        return others or ids[:1]

    def _sleepers(self, domain):
        """Messages that sleep and have recipients there, in the order in which they came; or are woken for others only."""
        return sorted(id for id in self.waiting.ids.get(domain, ()) if self.asleep.get(id, DUE) > 0 or id in self.only)

    def _hurry(self, ids, domain):
        """These messages, for their recipients there."""
        only, asleep, domains = self.only, self.asleep, frozenset((domain,))
        for id in ids:
            only[id] = only[id] | domains if id in only else domains
            if asleep.get(id, DUE) > 0:
                asleep[id] = DUE
                self.backlog.append(id)

    def prune(self):
        """Call back whom those forgot that were called before and did not come; forget destinations whose trouble is long
        past, if there are very many."""
        for channel in self.channels.values():
            for place in [place for place in channel.places.values() if self._forgotten(place)]:
                self._freed(place, 1)
            if len(channel.places) > MOST_DESTINATIONS:
                old = self.now - 2 * schedule.BACKOFF_MOST
                for name in [place.name for place in channel.places.values()
                             if not (place.active or place.works or place.parked or place.again)
                             and place.until < old]:
                    del channel.places[name]

    # --- the end ----------------------------------------------------------------------------------

    def exit(self):
        """Start nothing more; what could not be written is tried again at once."""
        self.exiting = True
        self._unstick_now()
        self.status()

    def quiet(self):
        """Is nothing under way any more?"""
        return not (self.flights or self.leaving or self.actions
                    or any(job.after or not job.undone for job in self.jobs.values()))


def shortened(text, total):
    """A report without its middle, if those of so many recipients would be too much for a state."""
    most = max(LEAST_TEXT, STATE_TEXT // max(1, total))
    return text if len(text) <= most else text[:most // 2] + b' ... ' + text[-most // 2:]


def ended(text):
    """A report whose last line is ended."""
    return text if not text or text.endswith(b'\n') else text + b'\n'
