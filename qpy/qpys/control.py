"""DIR/run/control: what people ask qpy-send, and what they may.

A request is words separated by blanks, ended by NUL; the answer is records, each ended by NUL, and last `.`,
or `!` and the reason.  A connection may ask again.

    stat                    NAME TAB VALUE ...: how much there is of everything
    list [ID]               m TAB ID TAB size TAB birth TAB sender TAB place TAB due TAB attempts TAB uid; if
                            it is held  h TAB why; for each recipient of it  t TAB status TAB channel TAB recipient TAB what was said
    run [ID]                try everything (or this) now
    etrn DOMAIN             try what waits for a domain of control/etrn now (RFC 1985): the number of messages, or
                            `later SECONDS` where that was asked for a moment ago
    hold ID [reason]        leave it alone until release
    release ID
    drop ID                 remove it, tell nobody
    bounce ID               give it up now, tell its sender
    destinations            HOST TAB active TAB allowed TAB window TAB waiting TAB rate TAB failures TAB seconds left TAB
                            reason: remote destinations where something is going on
    tcpto                   HOST TAB failures TAB seconds since the last TAB seconds left TAB reason: destinations that
                            are left alone
    tcpok [HOST]            leave none (or not this one) alone any longer

root and send's own account may all of it.  Others may stat, list what they submitted themselves, run, which does
something once a minute whoever asks, and etrn, which does so for each domain once in core.etrn.AGAIN seconds.
place: new, active, waiting or held; due: unix time, 0 for now; status: pending, done or failed.  Fields hold no byte
outside 32..126: others are shown as `?`, and the lines of a reason are joined by ` / `.
"""
from qpy import unix
from qpy.core import dispatch, etrn, mess, state, text
from qpy.lib import packets

CLIENTS = 64                # connections at a time
KEPT = 16                   # of these for root and qpy's own accounts
PER_UID = 8                 # of one user who is not root
REQUEST_LIMIT = 1024        # bytes
OUT = 65536                 # bytes kept for a client that reads slowly
BATCH = 50                  # messages listed per pass of the loop, for all clients together
SORTED = 10_000             # messages up to which a list is in order of arrival
PATIENCE = 30               # seconds for a whole request, and that a client may take nothing of its answer
RATE = 200                  # bytes a second that a user takes of an answer, after that time
RUN_EVERY = 60              # seconds between runs that others than root may ask for

PLACES = {dispatch.DUE: b'new', dispatch.FORCED: b'new', dispatch.PARKED: b'active', dispatch.HELD: b'held'}
STATUS = {state.PENDING: b'pending', state.DELIVERED: b'done', state.FAILED: b'failed',
          state.REPORTED: b'failed', state.SUCCEEDED: b'done'}
EVERYBODY = (b'stat', b'list', b'run', b'etrn')


class Refused(Exception):
    """The reason why a request gets nothing, as bytes."""


def serve(send, listening):
    """Answer on the sockets handed over as `control`."""
    desk = Desk(send)
    for sock in listening:
        packets.serve(send.loop, sock, desk.connected)
    return desk


class Desk:
    """Who asks, and the answers to each verb."""

    def __init__(self, send):
        self.send, self.clients = send, set()
        self.trusted = (0, unix.geteuid())
        self.own = {*self.trusted, *smtpd(send.home)}
        self.last_run = None
        self.answer = {b'stat': self.stat, b'list': self.list, b'run': self.run,
                       b'etrn': self.etrn, b'hold': self.hold,
                       b'release': self.release, b'drop': self.drop, b'bounce': self.bounce,
                       b'destinations': self.destinations, b'tcpto': self.tcpto, b'tcpok': self.tcpok}

    def connected(self, sock, peer):
        """A client, unless there are too many of them."""
        mine = sum(client.uid == peer[1] for client in self.clients)
        room = mine < PER_UID or peer[1] in self.trusted
        if not room or not (len(self.clients) < CLIENTS if peer[1] in self.own else self.room()):
            sock.close()
            return
        self.clients.add(Client(self, sock, peer[1]))

    def room(self):
        """Is there a place for a user?  If not, the one who has been idle longest gives up his."""
        users = [client for client in self.clients if client.uid not in self.own]
        idle = [client for client in users if client.idle()]
        if len(users) >= CLIENTS - KEPT and idle:
            longest = min(idle, key=lambda client: client.since)
            longest.close()
            users.remove(longest)
        return len(users) < CLIENTS - KEPT

    def records(self, uid, request):
        """The answer as an iterator of records, some of them empty: those only give the others their turn."""
        verb, _, rest = request.partition(b' ')
        if verb not in self.answer:
            raise Refused(b'unknown request')
        if uid not in self.trusted and verb not in EVERYBODY:
            raise Refused(b'not permitted')
        return self.answer[verb](uid, rest)

    def one(self, word):
        """The message of that ID; Refused if it is none."""
        id = int(word) if mess.is_id(word) else None
        if id is None or not self.send.dispatch.knows(id):
            raise Refused(b'no such message')
        return id

    def now(self):
        """Steady time; the clock's last look may be minutes ago."""
        return int(unix.monotonic() + self.send.clock.offset)

    # --- what everybody may ---

    def stat(self, uid, rest):
        """Counts."""
        d = self.send.dispatch
        places = list(d.asleep.values()) if len(d.asleep) < 10_000 else ()
        yield from (b'%s\t%d' % pair for pair in (
            (b'messages', d.count()), (b'new', len(d.fresh)), (b'active', len(d.jobs) + len(d.loading)),
            (b'held', places.count(dispatch.HELD) if places != () else 0),
            (b'local', d.local.active), (b'locallimit', d.local.limit),
            (b'remote', d.remote.active), (b'remotelimit', d.remote.limit), (b'deliveries', d.number),
            (b'scanning', self.send.scan is not None), (b'uptime', self.send.clock.running)))

    def list(self, uid, rest):
        """Messages with their recipients, a few per pass."""
        d = self.send.dispatch
        if rest:
            ids = [self.one(rest)]
        else:
            ids = [*d.asleep, *d.jobs, *d.loading, *d.leaving]
            if len(ids) < SORTED:
                ids.sort()
        for id in ids:
            found = self.described(id, uid)
            yield from found
            if not found:
                yield b''

    def described(self, id, uid):
        """The records of one message; none if it is gone, cannot be read, or belongs to somebody else."""
        name, store = b'%016d' % id, self.send.store
        try:
            message = store.load(name, False)
        except (unix.error, mess.Damaged, mess.Newer):
            return []
        message.close()
        envelope = message.envelope
        owner = text.parse_uint(envelope.option(b'u', b''), 1 << 32)
        if uid not in self.trusted and owner != uid:
            return []
        try:
            view = store.view(name, len(envelope.recipients))
        except unix.error:
            view = None
        hold = envelope.option(b'h') if view is None else view.held
        view = view or state.View(len(envelope.recipients))
        place, due = self.place(id)
        lines = [b'm\t%s\t%d\t%d\t%s\t%s\t%d\t%d\t%d' % (
            name, message.size, mess.arrival(id, envelope, self.send.clock.latest, view.born), text.listed(envelope.sender),
            place, due, view.attempts, owner or 0)]
        if place == b'held' and hold:
            lines.append(b'h\t' + text.one_line(hold))
        for index, recipient in enumerate(envelope.recipients):
            channel, address, _ = self.send.route_of(recipient)
            lines.append(b'\t'.join((b't', STATUS[view.status[index]], channel, text.listed(address),
                                     text.one_line(view.texts.get(index, b'')))))
        return lines

    def place(self, id):
        """(where it stands, unix time it is due)."""
        due = self.send.dispatch.asleep.get(id)
        if due is None:
            return b'active', 0
        if due > 0:
            return b'waiting', self.send.clock.wall(due)
        return PLACES[due], 0

    def run(self, uid, rest):
        """Try now.  For others than root it is everything, and at most once a minute."""
        if uid in self.trusted and rest:
            self.send.dispatch.run(self.one(rest))
        else:
            now = unix.monotonic()
            if uid in self.trusted or self.last_run is None or now - self.last_run >= RUN_EVERY:
                self.last_run = now
                self.send.run_all()
        self.send.wake()
        return iter(())

    def etrn(self, uid, rest):
        """Try what waits for a domain."""
        try:
            yield b'%d' % self.send.hurry_node(rest, uid, self.now())
        except etrn.Later as problem:
            yield b'later %d' % problem.args[0]
        except etrn.Unknown as problem:
            raise Refused(problem.args[0]) from None
        except ValueError:
            raise Refused(etrn.NO_NODE) from None

    # --- what root may ---

    def hold(self, uid, rest):
        """Written and synced before it is confirmed: no crash may forget it."""
        word, _, reason = rest.partition(b' ')
        id = self.one(word)
        self.note(word, (b'h', reason or b'held by the administrator'), id)
        self.send.dispatch.command(id, dispatch.HOLD)
        self.send.wake()
        return iter(())

    def release(self, uid, rest):
        """As hold, the other way."""
        id = self.one(rest)
        self.note(rest, (b'o',), id)
        self.send.dispatch.run(id)
        self.send.wake()
        return iter(())

    def note(self, name, entry, id):
        try:
            self.send.store.append(name, [entry], sync=True)
        except unix.error as problem:
            raise Refused(b'unable to write state/' + name + b': ' + problem.strerror.encode()) from None
        job = self.send.dispatch.jobs.get(id)
        if job is not None:
            job.has_state = True

    def drop(self, uid, rest):
        """Remove it without a word."""
        return self.order(rest, dispatch.DROP)

    def bounce(self, uid, rest):
        """Give it up."""
        return self.order(rest, dispatch.FAIL)

    def order(self, word, order):
        if not self.send.dispatch.command(self.one(word), order):
            raise Refused(b'it is leaving already')
        self.send.wake()
        return iter(())

    def destinations(self, uid, rest):
        """What goes on at each remote destination; waiting: messages; rate: COUNT/SECONDS, as it is used now, or -."""
        d, now = self.send.dispatch, self.now()
        for place in d.destinations():
            rate = b'%g/%d' % (place.limit.count * place.pace.part, place.limit.seconds) if place.pace else b'-'
            waiting = len(place.waiting or ()) + len(place.parked or ())
            yield b'%s\t%d\t%d\t%d\t%d\t%s\t%d\t%d\t%s' % (
                text.printable(place.name), place.active, d.per_place(place), place.window, waiting, rate, place.failures,
                max(0, place.until - now), text.one_line(place.reason))

    def tcpto(self, uid, rest):
        """Destinations in trouble."""
        now = self.now()
        for host, failures, failed, until, reason in self.send.dispatch.troubled():
            yield b'%s\t%d\t%d\t%d\t%s' % (text.printable(host), failures, now - failed, max(0, until - now),
                                           text.one_line(reason))

    def tcpok(self, uid, rest):
        """Forgive them."""
        self.send.dispatch.forgive(rest or None)
        self.send.wake()
        return iter(())


def smtpd(home):
    """[uid] of who asks for ETRN's clients."""
    try:
        return [packets.owner_of(home, b'qpyd')]
    except (KeyError, unix.error):
        return []


class Client:
    """One connection: asks, waits, reads its answer as fast as it wants, but not slower than PATIENCE and RATE allow.

    since: when its turn came, to ask or to take; taken: bytes since then; last: when it took the last; full: the kernel
    keeps no more for it."""

    __slots__ = ('desk', 'sock', 'uid', 'rest', 'out', 'answer', 'timer', 'since', 'taken', 'last', 'full', 'waiting')

    def __init__(self, desk, sock, uid):
        self.desk, self.sock, self.uid = desk, sock, uid
        self.rest, self.out, self.answer, self.waiting, self.full = b'', b'', None, False, False
        self.turn()
        self.timer = desk.send.loop.after(PATIENCE, self.look)
        desk.send.loop.watch(sock.fileno(), self.readable)

    def turn(self):
        """From now on we wait for the client."""
        self.since = self.last = unix.monotonic()
        self.taken = 0

    def idle(self):
        """True if it has asked nothing that is not answered."""
        return self.answer is None and not self.out

    def overdue(self, now):
        """True if it holds its place for nothing."""
        took = now - self.since
        if self.idle() or took < PATIENCE or not self.out:
            return self.idle() and took >= PATIENCE
        return now - self.last >= PATIENCE or self.uid not in self.desk.own and self.taken < RATE * took

    def look(self):
        """Time passes."""
        now = unix.monotonic()
        if self.overdue(now):
            return self.close()
        self.timer = self.desk.send.loop.after(max(self.since + PATIENCE - now, 1), self.look)

    def readable(self):
        """More of a request, or the end."""
        try:
            data = unix.read(self.sock.fileno(), REQUEST_LIMIT)
        except BlockingIOError:
            return
        except unix.error:
            data = b''
        self.rest += data
        if not data or len(self.rest) > REQUEST_LIMIT:
            return self.close()
        if self.answer is None:
            self.begin()

    def begin(self):
        """The next request, if a whole one is here."""
        request, end, rest = self.rest.partition(b'\0')
        if not end:
            return
        self.rest = rest
        if not self.out:
            self.turn()
        try:
            self.answer = self.desk.records(self.uid, request)
        except Refused as refusal:
            self.answer = None
            self.out += b'!' + refusal.args[0] + b'\0'
        self.go_on()

    def go_on(self):
        """Some more of the answer, then the others' turn."""
        self.waiting = False
        if self.sock is None:
            return
        if self.answer is not None and len(self.out) < OUT:
            self.gather()
        self.push()
        if self.idle():
            self.turn()
        if self.sock is not None and self.answer is not None and not self.out and not self.waiting:
            self.waiting = True
            self.desk.send.loop.after(0, self.go_on)
        elif self.sock is not None and self.answer is None and not self.out and self.rest:
            self.begin()

    def gather(self):
        left = max(1, BATCH // len(self.desk.clients))
        try:
            for record in self.answer:
                if record:
                    self.out += record + b'\0'
                if record[:1] in (b'm', b''):
                    left -= 1
                if left <= 0 or len(self.out) >= OUT:
                    return
            self.out += b'.\0'
        except Refused as refusal:
            self.out += b'!' + refusal.args[0] + b'\0'
        self.answer = None

    def push(self):
        try:
            while self.out:
                sent = unix.write(self.sock.fileno(), self.out)
                self.out, self.taken, self.last = self.out[sent:], self.taken + sent, unix.monotonic()
            self.full = False
        except BlockingIOError:
            if not self.full:                   # what the kernel keeps for it is no reading
                self.full = True
                self.turn()
        except unix.error:
            return self.close()
        self.desk.send.loop.watch(self.sock.fileno(), self.readable, self.go_on if self.out else None)

    def close(self):
        """It is gone, or too slow, or talks nonsense."""
        if self.sock is not None:
            self.timer.cancel()
            self.desk.send.loop.forget(self.sock.fileno())
            self.sock.close()
            self.sock = self.answer = None
            self.desk.clients.discard(self)
