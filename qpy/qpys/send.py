"""qpy-send, as qpys: decides what is delivered where and when.

    1           log, qmail-send's lines (qpy-log.5)
    run/new     from queued: `<N` look for IDs below N in the queue; ID: a message that is durable and new
    run/clean   to clean: remove a finished message, set aside a damaged one
    run/lspawn, run/rspawn, run/bounce    to the programs that deliver and report (core.channel)
    control     a socket handed over: who is in the queue, and what an administrator wants (qpys.control)

    0       asked to end (TERM), and everything under way is finished
    111     a neighbour is gone, or it could not start

What to do is decided in core.dispatch; this is what does it: each action there is a method here.  A pass of
the loop gathers what came, asks for the actions, and leaves one packet per neighbour and one write to the
log.
"""
from _collections import deque
from heapq import heappop, heappush

from qpy import unix, unix_kernel
from qpy.core import channel, dates, deliverby, destinations, dispatch, etrn, exits, jobs, mess, notices, priority, \
    route, schedule, sendlog, smtproutes, state, text
from qpy.lib import aside, confine, controls, inherit, loop as loops, packets, program, route as routing
from qpy.qpys import control, store, streams

SCAN = 400              # names or files looked at per pass of the loop while the queue is searched
GLANCE = 0.005          # seconds of a pass after which the search, or the scheduler, goes on in the next one
NOTES = 100             # messages looked at per pass for who they are for
STEPS = 4               # steps of the scheduler per pass of the loop
ROUTES = 20_000         # recipients whose route is remembered
LATER = 86_400          # seconds until a queue file of a newer version is looked at again
NAMED = 10              # messages from a clock that stood wrong that are named at start; beyond, they are counted
HOUSEKEEPING = 600      # seconds
GOODBYE = 60            # seconds that reports and removals may take after TERM where control/timeoutstop is 0
SEARCHING = b'it is not known yet what waits'
TELL_AGAIN = 60         # seconds in which states that cannot be written are counted
TROUBLE = b'Zqpy-send is unable to open the message. (#4.3.0)\n'


def main(home, args):
    """See qpy-send(8)."""
    unix.umask(0o027)
    unix_kernel.set_dumpable(0)
    unix.raise_descriptor_limit()
    found = inherit.listeners()
    loop = loops.Loop()
    log = streams.Log(loop)
    settings = Controls(home)
    send = Send(home, loop, log, settings, own_lock(home, log))
    send.connect()
    control.serve(send, inherit.sockets(found, b'control'))
    confine.confine(home, b'send')
    send.keep_house()
    inherit.life(loop, found)
    loop.on_signal(unix.SIGTERM, send.terminate)
    loop.on_signal(unix.SIGINT, send.terminate)
    loop.on_signal(unix.SIGHUP, send.reread)
    loop.on_signal(unix.SIGALRM, send.run_all)
    loop.run()
    return send.code


def own_lock(home, log):
    """The descriptor that keeps a second send away from this queue; Fatal if there is one."""
    try:
        fd = unix.open_regular(home + b'/queue/state/lock', unix.O_RDWR | unix.O_CREAT, 0o600)
        unix.flock(fd, unix.LOCK_EX | unix.LOCK_NB)
    except unix.NotRegular as problem:
        raise program.Fatal(exits.TEMP, b'unable to lock queue/state/lock: %s; rm -r %s/queue/state/lock: qpy-send makes it anew'
                            % (program.reason(problem), home)) from None
    except PermissionError as problem:
        raise program.Fatal(exits.TEMP, b'unable to lock queue/state/lock: %s; is the queue a copy without its owners? see qpy-fsck(8), '
                            b'EXAMPLES' % program.reason(problem)) from None
    except BlockingIOError:
        log.write([sendlog.alert(b'cannot start: qpy-send is already running')])
        raise program.Fatal(exits.TEMP,
                            b'unable to lock queue/state/lock: qpy-send is already running') from None
    return fd


class Controls:
    """What the control files say; load() again keeps the old ones if one is broken."""

    __slots__ = ('home', 'routes', 'local', 'remote', 'settings', 'relays', 'sender_relays', 'stop')

    def __init__(self, home):
        self.home = home
        self.load()

    def load(self):
        """Read all, then use all.  Raises controls.Broken, OSError."""
        home = self.home
        routes = routing.load(home)
        local = controls.number(home, b'concurrencylocal')
        remote, stop = controls.number(home, b'concurrencyremote'), controls.number(home, b'timeoutstop')
        settings = dispatch.Settings(controls.number(home, b'queuelifetime'),
                                     controls.line(home, b'bouncewhen') == b'end',
                                     controls.number(home, b'concurrencydestination'),
                                     controls.number(home, b'delaywarning'), read_limits(home),
                                     controls.lookup(home, b'etrn') or {})
        relays, sender_relays = (controls.checked_mapping(home, name, smtproutes.faults, smtproutes.REMEDY)
                                 for name in (b'smtproutes', b'senderroutes'))
        self.routes, self.local, self.remote, self.settings = routes, local, remote, settings
        self.relays, self.sender_relays, self.stop = relays, sender_relays, stop


def read_limits(home):
    """{destination: destinations.Limit} of control/destinationlimits; Broken."""
    found = {}
    for key, (value, line) in controls.mapping_lines(home, b'destinationlimits').items():
        try:
            found[key] = destinations.parse(value)
        except ValueError as problem:
            raise controls.Broken(b'destinationlimits', line, value, str(problem).encode()) from None
    return found


class Body:
    """The bytes of a message for more than one local delivery, or for a long one: a descriptor, and who uses
    it.

    waiting: deliveries that wait for a copy to be made; None when the descriptor is ready.
    """

    __slots__ = ('fd', 'users', 'waiting')

    def __init__(self, fd, waiting):
        self.fd, self.users, self.waiting = fd, 0, waiting


class Chance:
    """Cheap numbers in 0..1 for jitter."""

    __slots__ = ('state',)

    def __init__(self, seed):
        self.state = int.from_bytes(seed, 'big') | 1

    def __call__(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & 0xffffffffffffffff
        return (self.state >> 40) / (1 << 24)


class Send:
    """The daemon: files and sockets around a dispatch.Dispatch."""

    def __init__(self, home, loop, log, settings, lock):
        self.home, self.loop, self.log, self.controls, self.lock = home, loop, log, settings, lock
        self.clock = schedule.Clock(unix.time(), unix.monotonic())
        self.dispatch = dispatch.Dispatch(self.clock, settings.settings, settings.local, settings.remote,
                                          Chance(unix.urandom(8)))
        self.store = store.Store(home)
        self.code = exits.OK
        self.scheduled = False
        self.timer, self.timer_due = None, None
        self.below, self.beyond = 0, []     # IDs below this one, and in these spans (first, last), are known by scanning
        self.spans = []                     # such spans that the next search will have
        self.undated = 0                    # messages found whose ID comes from a clock that stood wrong
        self.read = {}                      # messages read in this pass, open until its end
        self.routes, self.warned = {}, set()
        self.unmarked = None                # [states that could not be written since that was told, delivered ones among them]
        self.scan = self.names = None
        self.ids = []                       # heap of those whose files the search has still to look at
        self.searched = False               # is the whole queue known?
        self.hurry = False                  # what the search still finds is due: somebody has asked for a run
        self.unnoted = deque()              # IDs of messages of which note() is still to look who they are for
        self.overdue = 0                    # messages found past their time
        self.spawners = 0                   # that have told their capacity
        self.do = {dispatch.LOAD: self.load, dispatch.LOCAL: self.start_local,
                   dispatch.REMOTE: self.start_remote, dispatch.WRITE: self.write,
                   dispatch.BOUNCE: self.bounce, dispatch.REMOVE: self.remove}

    # --- neighbours -------------------------------------------------------------------------------

    def connect(self):
        """Connect to everybody; Fatal with the reason if one is not there."""
        home, loop = self.home, self.loop
        owner = packets.queue_owner(home)
        self.lspawn = self._channel(b'lspawn', packets.owner_of(home, b'qpyu'), channel.LSPAWN_REPORT,
                                    self.local_reports, b'spawn')
        self.rspawn = self._channel(b'rspawn', packets.owner_of(home, b'qpyr'), channel.RSPAWN_REPORT,
                                    self.remote_reports, b'spawn')
        self.bouncer = self._channel(b'bounce', packets.owner_of(home, b'qpys'), channel.BOUNCE_REPORT,
                                     self.bounced, b'qpy-bouncer')
        self.clean = streams.Clean(loop, neighbour(home, b'clean', owner, unix.SOCK_STREAM),
                                   lambda why: self.lost(b'qpy-clean', why))
        self.new = streams.Words(loop, neighbour(home, b'new', owner, unix.SOCK_STREAM), self.announced,
                                 lambda why: self.lost(b'qpy-queued', why))

    def _channel(self, name, uid, table, on_records, called):
        sock = neighbour(self.home, name, uid, unix.SOCK_SEQPACKET)
        return packets.Channel(self.loop, sock, table, on_records, lambda why: self.lost(called, why))

    def lost(self, name, why):
        """A neighbour is gone: end, so that the chain is started anew; or because all end, which is no alarm."""
        if self.dispatch.exiting and why == 'closed':
            return self.leave()
        if self.spawners < 2 and name == b'spawn':
            self.dispatch.lines.append(sendlog.alert(b'cannot start: hath the daemon spawn no fire?'))
        else:
            self.dispatch.lines.append(sendlog.alert(b'oh no! lost ' + name + b' connection! dying...'))
            self.dispatch.lines.append(sendlog.warning(name + b': ' + text.printable(str(why).encode())))
        self.code = exits.TEMP
        return self.leave()

    # --- the pass ---------------------------------------------------------------------------------

    def wake(self):
        """Have turn() called at the end of this pass of the loop."""
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.turn)

    def turn(self):
        """Do what follows from everything that came in this pass."""
        self.scheduled = False
        jump = self.clock.look(unix.time(), unix.monotonic())
        if jump:
            self.dispatch.lines.append(sendlog.alert(
                b'the clock jumped by %d seconds; no message is older for it' % jump))
        if not self._steps():
            self.loop.after(0, self.wake)
        self.forget_read()
        self._set_timer()
        if self.dispatch.lines:
            self.loop.call_soon(self.write_log)     # behind the jobs: nobody's delivery waits for a log
        if self.dispatch.exiting and self.dispatch.quiet():
            self.finish()

    def write_log(self):
        """Write what this pass has to say."""
        lines, self.dispatch.lines = self.dispatch.lines, []
        self.log.write(lines)

    def _steps(self):
        """Some steps of the scheduler; False if there may be more to do."""
        advance, do, end = self.dispatch.advance, self.do, unix.monotonic() + GLANCE
        for _ in range(STEPS):
            actions = advance()
            if not actions:
                return True
            for action in actions:
                do[action[0]](*action[1:])
            if unix.monotonic() > end:
                break
        return False

    def forget_read(self):
        """Messages stay open for one pass only."""
        if self.read:
            for message in self.read.values():
                message.close()
            self.read.clear()

    def _set_timer(self):
        due = self.dispatch.next_due()
        if due == self.timer_due:
            return
        if self.timer is not None:
            self.timer.cancel()
        self.timer_due, self.timer = due, None
        if due is not None:
            wait = due - self.clock.mono - self.clock.offset + 0.01
            self.timer = self.loop.after(max(0.0, wait), self._due)

    def _due(self):
        self.timer = self.timer_due = None
        self.wake()

    # --- what is in the queue ---------------------------------------------------------------------

    def announced(self, words):
        """queued says: `M-N` and `<N`, or IDs."""
        arrived = self.dispatch.arrived
        for word in words:
            if mess.is_id(word):
                arrived(int(word))
            elif word[:1] == b'<' and mess.is_id(word[1:]):
                self.search(int(word[1:]))
            elif all(map(mess.is_id, ends := word.split(b'-'))) and len(ends) == 2:
                self.spans.append((int(ends[0]), int(ends[1])))
            else:
                return self.lost(b'qpy-queued', 'it announced no ID')
        self.wake()

    def search(self, below):
        """Look for messages with IDs below this one and in the spans told before, a few per pass.

        First come all names, in the order of the directory, which is a hash's; then the files, by age: so lie files and inodes
        on the disk.
        """
        first, self.below, self.beyond, self.spans = self.scan is None, below, self.spans, []
        self.scan, self.ids = [self.next_name, self.next_message, self.next_state], []
        self.names = unix.scandir(self.store.mess)
        if first:
            self.loop.after(0, self.search_on)

    def searched_for(self, id):
        """Is this one of those that are found by looking, and not by being told?"""
        return id < self.below or any(first <= id <= last for first, last in self.beyond)

    def search_on(self):
        """Some more of it."""
        step, end = self.scan[0], unix.monotonic() + GLANCE
        for _ in range(SCAN):
            if not step():
                self.search_next()
                break
            if unix.monotonic() > end:
                break
        if self.scan:
            self.loop.after(0, self.search_on)
        self.wake()

    def search_next(self):
        """After the names the messages, after them the states, after these nothing."""
        self.scan.pop(0)
        if not self.scan:
            self.scan = self.names = None
            self.searched, self.hurry = True, False
            if self.undated > NAMED:
                self.warn(b'%d messages in all come from a clock that stood wrong' % self.undated)

    def next_name(self):
        """Note the name of one message; False after the last one."""
        entry = next(self.names, None)
        if entry is None:
            return False
        name = unix.fsencode(entry.name)
        if mess.is_id(name) and self.searched_for(int(name)):
            heappush(self.ids, int(name))
        return True

    def next_message(self):
        """Look at the oldest message; False if there is none left."""
        if not self.ids:
            self.names = unix.scandir(self.store.state)
            return False
        id = heappop(self.ids)
        if not self.dispatch.knows(id):
            self.found_message(b'%016d' % id)
        return True

    def next_state(self):
        """Look at the name of one state; False after the last one."""
        entry = next(self.names, None)
        if entry is None:
            return False
        name = unix.fsencode(entry.name)
        if mess.is_id(name) and self.searched_for(int(name)) and not self.dispatch.knows(int(name)):
            self.found_state(name)
        return True

    def found_message(self, name):
        """A message that was in the queue before this run: is its file as long as it says, and when is it due?

        Nothing long is read here, so that the search is quick; load() reads the file to its last byte.
        """
        try:
            self.store.check_footer(name)
        except FileNotFoundError:
            return None
        except mess.Damaged as problem:
            self.dispatch.claimed(int(name))
            return self.set_aside(int(name), name, problem)
        except mess.Newer as problem:
            self.leave_alone(name, problem)
            return self.dispatch.found(int(name), self.clock.now + LATER)
        except unix.NotRegular as problem:
            return self.leave_alone(name, problem.strerror)
        except (unix.error, MemoryError):
            pass                            # load() will say so, when it is due
        if not mess.is_dated(name, self.clock.latest):
            self.found_undated(name)
        self.found_whole(name)

    def found_undated(self, name):
        """A message from a clock that stood wrong, or the clock does now: say so, and what becomes of it."""
        self.undated += 1
        if self.undated <= NAMED:
            self.warn(b'mess/%s is of %s by its ID, which cannot be: the clock stood wrong then, or does now; if it is right, '
                      b'nothing is to be done: the message ages from the day it was first found so'
                      % (name, dates.clock_date(int(name) // 1_000_000)))

    def found_whole(self, name):
        """The same, once the footer is known to be good."""
        try:
            view = self.view(name, 0)
        except (unix.error, MemoryError) as problem:
            self.warn(b'trouble reading state/' + name + b'; will try again later', problem)
            return self.dispatch.found(int(name), self.clock.now + schedule.TROUBLE)
        if view is None or self.hurry and view.held is None:
            return self.dispatch.found(int(name))
        if view.held is not None:
            return self.dispatch.found(int(name), dispatch.HELD)
        due = self.due(view)
        self.note_soon([int(name)])
        if due <= self.clock.now:
            due = self.clock.now + schedule.spread(self.overdue, self.dispatch.chance())
            self.overdue += 1
        self.dispatch.found(int(name), due)

    def due(self, view):
        """The steady time before which a state says that its message is not to be tried, 0 if it says none."""
        return schedule.due(self.clock.steady(view.due), self.clock.now) if view.due else 0

    def note_soon(self, ids):
        """Find out, a few per pass, whether domains of control/etrn wait for these messages, which nobody has read."""
        if self.dispatch.waiting.listed and ids:
            if not self.unnoted:
                self.loop.after(0, self.note_some)
            self.unnoted.extend(ids)

    def note_some(self):
        """Some more of them."""
        for _ in range(min(NOTES, len(self.unnoted))):
            self.note(self.unnoted.popleft())
        if self.unnoted:
            self.loop.after(0, self.note_some)

    def note(self, id):
        """One of them."""
        name = b'%016d' % id
        try:
            message = self.store.load(name, False)
            message.close()
            recipients = [self.route_of(recipient) for recipient in message.envelope.recipients]
            if not any(found[0] == route.REMOTE and self.dispatch.waiting.lists(found[1]) for found in recipients):
                return
            view = self.store.view(name, len(recipients))
        except (unix.error, MemoryError, mess.Damaged, mess.Newer):
            return                          # load() will say so, when it is due
        if self.waits(message.envelope, view) is not None:
            return                          # held, or before its time: nobody hurries it; it is read when that is over
        pending = range(len(recipients)) if view is None else view.indices(state.PENDING)
        self.dispatch.note(id, [(index, recipients[index][1]) for index in pending
                                if recipients[index][0] == route.REMOTE])

    def found_state(self, name):
        """A state nobody knows: an orphan, unless its message is there after all."""
        try:
            if self.store.size(name) is None:
                self.store.drop(name)
        except unix.error as problem:
            self.warn(b'unable to unlink state/' + name, problem)

    # --- loading ----------------------------------------------------------------------------------

    def load(self, id, forced):
        """Read a message and its state, and begin its pass."""
        name, message = b'%016d' % id, None
        try:
            message = self.store.load(name, self.searched_for(id))
            view = self.view(name, len(message.envelope.recipients))
        except FileNotFoundError:
            self.warn(b'mess/%s was removed, and not by qpy-send: whoever was still to get it does not' % name)
            return self.dispatch.not_loaded(id)
        except mess.Damaged as problem:
            return self.set_aside(id, name, problem)
        except mess.Newer as problem:
            self.leave_alone(name, problem)
            return self.dispatch.not_loaded(id, self.clock.now + LATER)
        except (unix.error, MemoryError) as problem:
            where = b'mess/' if message is None else b'state/'
            if message is not None:
                message.close()
            self.warn(b'trouble reading ' + where + name + b'; will try again later', problem)
            return self.dispatch.not_loaded(id, self.clock.now + schedule.TROUBLE)
        self.read[id] = message
        later = None if forced else self.waits(message.envelope, view)
        if later is not None:
            return self.dispatch.not_loaded(id, later)
        self.dispatch.loaded(self.job(id, message, view))

    def view(self, name, recipients):
        """What its state says, as store.view; what it does not say any more is a warning."""
        view = self.store.view(name, recipients)
        if view is not None and view.tail:
            self.warn(b'state/%s ended in %d bytes of no whole entry, which are cut off; what they said is done again'
                      % (name, view.tail))
        if view is not None and view.lost:
            self.warn(b'state/%s is damaged: %d bytes among its entries are lost; what they said is done again, and a hold or '
                      b'release is forgotten' % (name, view.lost), once=b'state/' + name)
        return view

    def waits(self, envelope, view):
        """HELD, or the time before which this message must not be tried; None if it may be."""
        if view is not None:
            return None if view.held is None else dispatch.HELD
        if not envelope.options:
            return None
        if envelope.option(b'h') is not None:
            return dispatch.HELD
        not_before = text.parse_uint(envelope.option(b'b', b''), 1 << 40)
        if not_before is None or self.clock.steady(not_before) <= self.clock.now:
            return None
        return min(self.clock.steady(not_before), self.clock.now + schedule.LONGEST)

    def job(self, id, message, view):
        """The Job of a message that was read."""
        name, envelope, recipients = message.ident, message.envelope, message.envelope.recipients
        flags, options, lines = described(message)
        wishes, by = personal(envelope), deliverby.parse(envelope.option(b'D')) if envelope.options else None
        first = priority.of(envelope) if envelope.options else priority.COMMON
        route_of, latest = self.routes_for(route.bounce_recipient(envelope.sender)), self.clock.latest
        born = view.born if view else 0
        birth = mess.arrival(id, envelope, latest, born)
        if view is None:
            todo = [(index, *route_of(recipient)) for index, recipient in enumerate(recipients)]
            job = jobs.Job(id, name, message.size, envelope.sender, todo, len(recipients),
                           birth, flags, options, new_lines=lines, wishes=wishes, by=by, priority=first)
        else:
            todo = [(index, *route_of(recipients[index])) for index in view.indices(state.PENDING)]
            job = jobs.Job(id, name, message.size, envelope.sender, todo, len(recipients),
                           birth, flags, options,
                           self.due(view), view.attempts, True,
                           view.indices(state.FAILED), (), view.indices(state.SUCCEEDED), view.warned > 0, wishes, by, first)
        if not mess.is_dated(id, latest) and mess.came(id, latest, born) != born:
            job.entries.append((b'b', b'%d' % mess.came(id, latest)))      # written with what this pass has to say
        return job

    def routes_for(self, sender):
        """route_of for a message of this sender, whom control/senderroutes may send another way."""
        found = smtproutes.find_sender(sender, self.controls.sender_relays)
        if found is None:
            return self.route_of

        def route_of(recipient):
            channel_, address, place = self.route_of(recipient)
            if channel_ == route.REMOTE:
                place = destinations.name_of(sender, route.split(address)[1], self.controls.sender_relays, {})
            return channel_, address, place
        return route_of

    def route_of(self, recipient):
        """(channel, rewritten recipient, destination) of an envelope recipient."""
        known = self.routes.get(recipient)
        if known is None:
            if len(self.routes) > ROUTES:
                self.routes.clear()
            found = route.rewrite(recipient, self.controls.routes)
            if found.channel == route.LOCAL:
                place = text.lower(found.recipient.rpartition(b'@')[0].partition(b'-')[0])
            else:
                place = destinations.name_of(b'', found.domain, {}, self.controls.relays)
            known = self.routes[recipient] = (found.channel, found.recipient, place)
        return known

    def leave_alone(self, name, problem):
        """A file of a version that is newer than this program, or something that is no file."""
        self.warn(b'mess/' + name + b' is left alone: ' + str(problem).encode(), once=name)

    def set_aside(self, id, name, problem):
        """A file that is no whole message: it was never acknowledged, or the disk has lost it.  Keep it
        aside, and its state before it, for whoever puts both back.
        """
        self.warn(b'mess/' + name + b' is damaged and will not be delivered: ' + str(problem).encode())
        try:
            kept = aside.keep_state(self.store.state, name)
        except unix.error as trouble:
            self.warn(b'unable to keep state/' + name, trouble)
            return self.dispatch.not_loaded(id, self.clock.now + schedule.TROUBLE)

        def answered(done):
            if kept is not None:
                self.store_drop(name if done else kept)
            if done:
                self.dispatch.not_loaded(id)
            else:
                self.warn(b'qpy-clean unable to set aside mess/' + name)
                self.dispatch.not_loaded(id, self.clock.now + schedule.TROUBLE)
            self.wake()
        self.clean.ask(b's', name, answered)

    # --- deliveries -------------------------------------------------------------------------------

    def start_local(self, job, number, recipient):
        """One delivery for lspawn, with the bytes of the message and nothing else of it."""
        if job.body is None and job.total == 1 and job.length <= store.MEMORY:      # the common message
            try:
                fd = self.store.memory(self.message(job))
            except (unix.error, MemoryError, mess.Damaged):
                return self.dispatch.report(number, TROUBLE[:1], b'', TROUBLE[1:])
            return self.hand_over(job, number, recipient, fd)
        try:
            body = job.body = job.body or self.make_body(job)
        except (unix.error, MemoryError, mess.Damaged):
            return self.dispatch.report(number, TROUBLE[:1], b'', TROUBLE[1:])
        body.users += 1
        if body.waiting is not None:
            body.waiting.append((number, recipient))
        else:
            self.hand_over_copy(job, number, recipient)

    def hand_over(self, job, number, recipient, fd):
        """Give lspawn a delivery and the descriptor."""
        options = job.options
        if job.wishes:
            index = self.dispatch.flights[number][1]
            own = [letter + value for letter, value in job.wishes.get(index, ()) if letter in mess.PER_RECIPIENT]
            options = b'\n'.join([options, *own] if options else own)
        self.lspawn.send(b'L', b'%d' % number, job.name, route.sender_for(job.sender, recipient), recipient,
                         options, fd=fd)

    def hand_over_copy(self, job, number, recipient):
        """The same with a description of its own, so that no delivery moves another's place in the file."""
        try:
            fd = unix.reopen(job.body.fd)
        except unix.error:
            self.body_used(job)
            return self.dispatch.report(number, TROUBLE[:1], b'', TROUBLE[1:])
        self.hand_over(job, number, recipient, fd)

    def message(self, job):
        """The message of a job as it was read in this pass, or read again."""
        message = self.read.get(job.id)
        if message is None or message.fd < 0:
            message = self.read[job.id] = self.store.load(job.name, False)
        return message

    def make_body(self, job):
        """A Body of a message: in memory, or copied in the course of the next passes."""
        if job.length <= store.MEMORY:
            return Body(self.store.memory(self.message(job)), None)
        copy = store.Copy(self.store, job.name, job.length, self.dispatch.count())
        self.loop.after(0, lambda: self.copy_on(job, copy))
        return Body(-1, [])

    def copy_on(self, job, copy):
        """Copy one more piece; when it is all there, start what waits for it."""
        body = job.body
        try:
            if not copy.step():
                self.loop.after(0, lambda: self.copy_on(job, copy))
                return
            body.fd = copy.fd
        except unix.error:
            copy.close()
            job.body = None
        waiting, body.waiting = body.waiting, None
        for number, recipient in waiting:
            if job.body is None:
                self.dispatch.report(number, TROUBLE[:1], b'', TROUBLE[1:])
            else:
                self.hand_over_copy(job, number, recipient)
        self.wake()

    def body_used(self, job):
        """A local delivery ended: the last one at the moment takes the body with it."""
        job.body.users -= 1
        if not job.body.users:
            unix.close(job.body.fd)
            job.body = None

    def start_remote(self, job, host, sender, numbered):
        """One transaction for rspawn, with the queue file."""
        try:
            message = self.read.get(job.id)
            if message is not None and message.fd >= 0:
                fd, message.fd = message.fd, -1
            else:
                fd = self.store.open(job.name)
        except unix.error:
            for number, _ in numbered:
                self.dispatch.report(number, TROUBLE[:1], b'', TROUBLE[1:])
            return
        self.rspawn.send(b'R', job.name, host, sender, job.flags, b'%d' % job.length,
                         b'\n'.join([b'%d %s' % each for each in numbered]), fd=fd)

    def local_reports(self, records):
        """lspawn says how deliveries ended."""
        flights, report = self.dispatch.flights, self.dispatch.report
        for letter, fields, _ in records:
            if letter == b'C':
                self.capacity(self.dispatch.local, fields[0])
                continue
            number = text.parse_uint(fields[0], 1 << 62) or 0
            flight = flights.get(number)
            if flight is None or flight[0].place.channel is not self.dispatch.local:
                self.dispatch.report(0, letter, b'', b'')
                continue
            if flight[0].job.body is not None:
                self.body_used(flight[0].job)
            report(number, letter, fields[1], fields[2])
        self.wake()

    def remote_reports(self, records):
        """rspawn says how deliveries ended."""
        flights = self.dispatch.flights
        for letter, fields, _ in records:
            if letter == b'C':
                self.capacity(self.dispatch.remote, fields[0])
                continue
            number = text.parse_uint(fields[0], 1 << 62) or 0
            flight = flights.get(number)
            if flight is not None and flight[0].place.channel is not self.dispatch.remote:
                number = 0
            self.dispatch.report(number, letter, fields[1], fields[2])
        self.wake()

    def capacity(self, which, number):
        """A spawner tells how much it can do at a time."""
        self.spawners += which.capacity is None
        which.capacity = text.parse_uint(number, 1_000_000) or 0
        if self.spawners == 2:
            self.dispatch.status()

    # --- the rest of a message's life -------------------------------------------------------------

    def write(self, job):
        """Append to a job's state."""
        try:
            self.store.append(job.name, job.entries)
        except (unix.error, MemoryError) as problem:
            self.not_marked(job, any(entry[0] == b'd' for entry in job.entries), problem)
            return self.dispatch.written(job, False)
        self.dispatch.written(job, True)

    def not_marked(self, job, delivered, problem):
        """A state could not be written: the first is told at once, the others are counted for a minute."""
        if self.unmarked is not None:
            self.unmarked[0] += 1
            self.unmarked[1] += delivered
            return
        what = b'; if qpy-send ends before it is, the message is delivered twice' if delivered else b'; it is tried again'
        self.warn(b'trouble marking state/' + job.name + what, problem)
        self.unmarked = [0, 0]
        self.loop.after(TELL_AGAIN, self.tell_unmarked)

    def tell_unmarked(self):
        """The minute is over: how many there were; without one the next is told at once."""
        (count, delivered), self.unmarked = self.unmarked, None
        if not count:
            return
        self.warn(b'trouble marking states: %d more times in %d seconds, %d of them after deliveries'
                  % (count, TELL_AGAIN, delivered))
        self.unmarked = [0, 0]
        self.loop.after(TELL_AGAIN, self.tell_unmarked)
        self.wake()

    def bounce(self, job, indices, kind):
        """Have the bouncer make a report of this kind on these recipients."""
        self.bouncer.send(b'B', job.name, state.pack_indices(indices), kind)

    def bounced(self, records):
        """The bouncer has put a report into the queue, or could not."""
        for letter, fields, _ in records:
            id, lines = text.parse_uint(fields[0], 1 << 62) or 0, []
            job = self.dispatch.jobs.get(id)
            if job is None:
                self.warn(b'internal error: report on a bounce nobody asked for')
                continue
            if letter == b'Z':
                self.warn(b'trouble injecting bounce message, will try later: ' + text.printable(fields[1]))
            elif fields[1]:
                pid, kind = text.logsafe(fields[2]), (job.reports or [dispatch.FAILURES])[0]
                lines = [sendlog.bounce(job.name, pid) if kind == dispatch.FAILURES
                         else sendlog.notice(job.name, pid, kind)]
            elif not job.sender:
                lines = [sendlog.double_bounce(job.name)]
            self.dispatch.bounced(id, letter == b'K', lines)
        self.wake()

    def remove(self, job):
        """Have clean remove a finished message, and remove its state after it."""
        def answered(done):
            if done and job.has_state:
                self.store_drop(job.name)
            elif not done:
                self.warn(b'qpy-clean unable to clean up mess/' + job.name)
            self.dispatch.removed(job, done)
            self.wake()
        self.clean.ask(b'r', job.name, answered)

    def store_drop(self, name):
        """Remove the state of a message that is gone; the next start finds it if that fails."""
        try:
            self.store.drop(name)
        except unix.error as problem:
            self.warn(b'unable to unlink state/' + name, problem)

    def warn(self, line, problem=None, once=None):
        """A warning in the log; with `once`, only one for the same thing."""
        if once is not None:
            if once in self.warned:
                return
            if len(self.warned) < 1000:
                self.warned.add(once)
        if problem is not None:
            line += b' (' + text.printable(program.reason(problem)) + b')'
        self.dispatch.lines.append(sendlog.warning(line))

    # --- signals ----------------------------------------------------------------------------------

    def terminate(self):
        """TERM: start nothing more; end when what is under way is finished, or its time is over."""
        if not self.dispatch.exiting:
            self.dispatch.exit()
            self.loop.after(self.controls.stop or GOODBYE, self.leave_anyway)
        self.wake()

    def leave_anyway(self):
        """A delivery that takes too long, or a report or a removal that nobody answers, holds nothing up for ever; it is
        done again after the start.
        """
        under_way = len(self.dispatch.flights)
        if under_way and not self.controls.stop:
            self.loop.after(GOODBYE, self.leave_anyway)
            return
        if under_way:
            self.warn(b'deliveries cut off after %d seconds (control/timeoutstop): %d; they are tried again after the start'
                      % (self.controls.stop, under_way))
        self.finish()

    def finish(self):
        """Nothing is under way."""
        self.dispatch.lines.append(sendlog.EXITING)
        self.leave()

    def leave(self):
        """End the loop with what is to be said."""
        self.write_log()
        self.loop.stop()

    def reread(self):
        """HUP: read the control files again; if one is broken the old ones stay.  Who was not to be reached may be, by them."""
        try:
            self.controls.load()
        except (controls.Broken, unix.error) as problem:
            why = problem.why if isinstance(problem, controls.Broken) else program.reason(problem)
            self.dispatch.lines.append(sendlog.alert(b'unable to reread controls: ' + text.printable(why)))
            return self.wake()
        self.routes.clear()
        known = self.dispatch.waiting
        self.dispatch.use(self.controls.settings)
        if self.dispatch.waiting is not known:
            self.unnoted.clear()
            self.note_soon([*self.dispatch.asleep, *self.dispatch.jobs, *self.dispatch.loading])
        self.dispatch.local.wanted, self.dispatch.remote.wanted = self.controls.local, self.controls.remote
        self.dispatch.forgive()
        self.wake()

    def keep_house(self):
        """Once in a while: look at the clocks and over the destinations."""
        self.dispatch.prune()
        self.loop.after(HOUSEKEEPING, self.keep_house)
        self.wake()

    def hurry_node(self, node, uid, now):
        """ETRN (core.etrn): how many messages are tried now, at that steady time.  Raises ValueError, etrn.Unknown, etrn.Later."""
        domain, below = etrn.permit(node, self.dispatch.waiting.listed)
        if self.scan is not None or self.unnoted or not self.searched:
            raise etrn.Unknown(SEARCHING)

        def place_of(domain):
            channel_, _, place = self.route_of(b'postmaster@' + domain)
            return place if channel_ == route.REMOTE else None
        count = self.dispatch.hurry(domain, below, place_of, now)
        if count:
            self.dispatch.lines.append(sendlog.hurried(node, count, uid))
        self.wake()
        return count

    def run_all(self):
        """ALRM: everything is due, also what is not found yet."""
        self.hurry = self.scan is not None or not self.searched
        self.dispatch.run_all()
        self.wake()


def neighbour(home, name, uid, kind):
    """A socket connected to run/NAME; Fatal if it is not served by whom it should be."""
    try:
        return packets.connect(home, name, uid, kind)
    except unix.error as problem:
        why = b'unable to connect to run/' + name + b': ' + program.reason(problem)
        raise program.Fatal(exits.TEMP, why) from None


def personal(envelope):
    """{index: [(letter, value)]} of the recipients of whom something is said, each with his name as its sender wrote it;
    None for the common message."""
    if not any(envelope.recipient_options):
        return None
    found = {}
    for index, options in enumerate(envelope.recipient_options):
        if options:
            name = notices.orcpt(envelope.recipients[index])
            named = any(letter == b'O' for letter, _ in options) or len(name) > notices.ORCPT_LIMIT
            found[index] = options if named else [*options, (b'O', name)]
    return found


def described(message):
    """(flags for rspawn, options for local, first log lines) of a message."""
    flags = options = b''
    known = {}
    for letter, value in message.envelope.options:
        known.setdefault(letter, value)
    if known.get(b'B') == b'8BITMIME':
        flags += b'8'
    if b'U' in known:
        flags += b'u'
    if b'Q' in known:
        flags += b'q'
    if b'R' in known or b'E' in known or any(message.envelope.recipient_options):
        flags += b'd'
    if b'D' in known:
        flags += b'b'
    if priority.LETTER in known:
        flags += b'm'
    carried = [letter + known[letter] for letter in (b'X', b'B', b'U', b'Q', b'R', b'E', b'D', b'M') if letter in known]
    if carried:
        options = b'\n'.join(carried)
    lines = [sendlog.new(message.ident), sendlog.info(message.ident, message.size, message.envelope.sender,
                                                     text.logsafe(known.get(b'p', b'0')),
                                                     text.logsafe(known.get(b'u', b'0')))]
    if b'X' in known:
        lines.append(sendlog.trace(message.ident, known[b'X']))
    return flags, options, lines
