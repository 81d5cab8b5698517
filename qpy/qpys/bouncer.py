"""qpy-bouncer, as qpys: tells senders what could not be delivered, takes long, or has arrived.

    run/bounce      (a socket handed over) from send: B ID, indices, kind; answered by K ID, new ID (empty:
                    nobody wants to know), pid, or by Z ID, reason
    run/submit      to queued, like everybody else; a report is a message like any other

kind: of core.bounce.  It reads queue/mess/ID and queue/state/ID itself.  send has written the outcomes there before it asks, and
writes that they are reported after the answer: a crash between the two repeats a report and loses none.

Exit codes: 0 the chain ended; 111 it could not start, or send is gone.
"""
from _collections import deque

from qpy import unix
from qpy.core import bounce, channel, exits, mess, route, state, submit as words, text
from qpy.lib import confine, controls, inherit, loop as loops, packets, program, queuefile, route as routing, service, submit

IN_FLIGHT = 1 << 20         # bytes that queued has not taken yet, beyond which no more is read
REST = 0.05                 # seconds until it looks again whether queued goes on
CONTROLS = routing.NAMES + (b'bounceformat', b'bouncefrom', b'bouncehost', b'bouncemaxbytes',
                            b'doublebounceto', b'doublebouncehost', b'queuelifetime')
DIRECTORY = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC


def main(home, args):
    """See qpy-bouncer(8)."""
    found = service.begin(b'bouncer', args, (b'bounce',))
    loop = loops.Loop()
    bouncer = Bouncer(home, loop, controls.Watched(home, CONTROLS, load))
    for listening in inherit.sockets(found, b'bounce'):
        packets.serve(loop, listening, bouncer.connected)
    inherit.life(loop, found)
    confine.confine(home, b'bouncer')
    loop.run()
    return exits.OK


def load(home):
    """(bounce.Settings, route.Controls) of DIR/control."""
    settings = bounce.Settings(*(controls.line(home, name) for name in (
        b'bounceformat', b'bouncefrom', b'bouncehost', b'doublebounceto', b'doublebouncehost')),
        controls.number(home, b'bouncemaxbytes'), controls.number(home, b'queuelifetime'))
    return settings, routing.load(home)


class Bouncer:
    """Serves one send; makes one report after the other, but waits for none before it begins the next."""

    def __init__(self, home, loop, controls_):
        self.home, self.loop, self.controls = home, loop, controls_
        self.mess = unix.open(home + b'/queue/mess', DIRECTORY)
        self.state = unix.open(home + b'/queue/state', DIRECTORY)
        self.owner = packets.owner_of(home, b'qpys')
        self.queued = None
        self.todo = deque()             # (channel, ID, indices, kind)
        self.current = None             # message, pieces, envelope, channel, ID of the report that is being written
        self.resting = False
        self.pid = b'%d' % unix.getpid()

    def connected(self, sock, peer):
        """send, or somebody else, who is sent away."""
        if peer[1] not in (self.owner, 0):
            sock.close()
            return
        asker = packets.Channel(self.loop, sock, channel.BOUNCE_JOB,
                                lambda records: self.asked(asker, records), lambda why: None)

    def asked(self, asker, records):
        """send wants reports."""
        for _, fields, _ in records:
            self.todo.append((asker, *fields))
        self.go_on()

    def go_on(self):
        """Make reports until there are none to make, or until queued has much to take."""
        while self.todo or self.current:
            if self.current is None:
                self.begin(*self.todo.popleft())
            while self.current is not None:
                if self.queued is not None and self.queued.backlog > IN_FLIGHT:
                    return self.rest()
                self.piece()

    def rest(self):
        """Until queued has taken what there is; it may take it in one piece, and then nobody calls."""
        if not self.resting:
            self.resting = True
            self.loop.after(REST, self.rested)

    def rested(self):
        """Look again."""
        self.resting = False
        self.go_on()

    def piece(self):
        """Pass on the next piece of the report that is being written."""
        _, pieces, envelope, asker, ident = self.current
        try:
            data = next(pieces, None)
        except (unix.error, mess.Damaged) as problem:
            self.queued.abandon()
            return self.give_up(program.reason(problem))
        if data is not None:
            return self.queued.write(data)
        self.put_down()
        self.queued.finish(envelope, lambda code, said: self.answer(asker, ident, code, said))

    def begin(self, asker, ident, indices, kind):
        """Begin a report, or say at once that there is none to make, or not now."""
        try:
            made = self.make(ident, indices, kind)
        except (unix.error, mess.Damaged, mess.Newer, NoOutcome, MemoryError) as problem:
            return self.later(asker, ident, str(problem).encode() if isinstance(problem, NoOutcome)
                              else program.reason(problem))
        if made is None:
            return asker.send(b'K', ident, b'', self.pid)
        self.current = (*made, asker, ident)
        try:
            if self.queued is None:
                self.queued = submit.Connection(self.loop, submit.connect(self.home), self.lost, self.go_on)
        except (unix.error, MemoryError) as problem:
            self.give_up(program.reason(problem))

    def put_down(self):
        """No more is read of the message of this report."""
        self.current[0].close()
        self.current = None

    def give_up(self, why):
        """Nothing becomes of this report now."""
        _, _, _, asker, ident = self.current
        self.put_down()
        self.later(asker, ident, why)

    def lost(self):
        """queued is gone: the next report connects anew."""
        self.queued = None
        if self.current is not None:
            self.give_up(b'lost connection to queued')

    def answer(self, asker, ident, code, said):
        """queued has the report, or does not want it."""
        if code == 0:
            asker.send(b'K', ident, said, self.pid)
        else:
            self.later(asker, ident, said)

    def later(self, asker, ident, why):
        """Tell send to ask again later."""
        asker.send(b'Z', ident, text.printable(why))

    def make(self, ident, indices, kind):
        """(the message, pieces of the report, its envelope records), or None if nobody is to be told."""
        settings, routes = self.controls.get()
        message = queuefile.open_mess(self.mess, ident, False)
        try:
            envelope = message.envelope
            addresses = bounce.envelope(envelope.sender, settings)
            view = self.view(message)
            outcomes = self.outcomes(message, view, indices, routes, kind)
            if addresses is None or not outcomes or kind != bounce.BOUNCE and not envelope.sender:
                message.close()
                return None
            original = described(message, view.born)
            parts = bounce.compose(original, outcomes, settings, int(unix.time()), token(), kind)
            options = wishes(envelope, addresses[1], original.eight_bit or bounce.eight_bit(outcomes))
        except BaseException:
            message.close()
            raise
        return message, pieces(message, *parts), words.envelope(addresses[0], [addresses[1]], options)

    def view(self, message):
        """What its state says."""
        data = queuefile.read_state(self.state, message.ident) or b''
        return state.replay(data, message.ident, len(message.envelope.recipients))

    def outcomes(self, message, view, indices, routes, kind):
        """The Outcomes of these recipients that the sender wants to know of."""
        if kind not in STATUS:
            raise NoOutcome('no such kind of report')
        envelope = message.envelope
        found, unasked = [], kind != bounce.DELAY or not bounce.is_bulk(header(message))
        try:
            asked = state.unpack_indices(indices, len(view.status))
        except ValueError as problem:
            raise NoOutcome(str(problem)) from None
        for index in asked:
            if view.status[index] != STATUS[kind]:
                raise NoOutcome('no such outcome in the state of the message')
            notify = envelope.recipient_option(index, b'N')
            if bounce.wanted(notify, kind, envelope.option(b'D') is not None) and (unasked or notify):
                said, action = view.texts.get(index, b''), b''
                if kind == bounce.SUCCESS:
                    action, _, said = said.partition(b' ')
                found.append(bounce.Outcome(route.rewrite(envelope.recipients[index], routes).address, said,
                                            envelope.recipient_option(index, b'O'), action=action))
        return found


# what the state must say of a recipient, by kind of report
STATUS = {bounce.BOUNCE: state.FAILED, bounce.DELAY: state.PENDING, bounce.SUCCESS: state.SUCCEEDED}


class NoOutcome(Exception):
    """send asks for a report on something that has not happened."""


def token():
    """Bytes that nobody can foretell."""
    return unix.urandom(8).hex().encode()


def described(message, born):
    """The bounce.Original of a Mess; born: as its state has it."""
    envelope = message.envelope
    arrived, now = text.parse_uint(envelope.option(b't', b''), 1 << 40), unix.time()
    as_stamped = arrived is not None and mess.is_likely(arrived, now) and not envelope.option(b'a')
    eight_bit = any(not piece.isascii() for piece in contents(message, message.size))
    return bounce.Original(message.ident, envelope.sender, message.size,
                           arrived if as_stamped else mess.arrival(message.ident, envelope, now, born),
                           envelope.option(b'R'), envelope.option(b'E'), eight_bit, envelope.option(b'U') is not None,
                           envelope.option(b'Q') is not None)


def contents(message, size):
    """The first size bytes of a message, in pieces."""
    if message.message is not None:
        return iter([message.message[:size]])
    return queuefile.pieces(message.fd, size)


def header(message):
    """The header of a message, as far as it is returned where no more is."""
    return bounce.header_of(b''.join(contents(message, min(message.size, bounce.HEADER_LIMIT))))


def wishes(envelope, recipient, eight_bit):
    """The message-wide options of a report: what it needs, and the trace of the message it is about.

    A report on what must travel by TLS only must, too: it tells who wrote to whom (RFC 8689, section 5)."""
    options = [(b'B', b'8BITMIME')] if eight_bit else []
    if envelope.option(b'Q') is not None:
        options.append((b'Q', b''))
    if not recipient.isascii():
        options.append((b'U', b''))
    trace = envelope.option(b'X')
    first = envelope.option(b'M')           # a report is as urgent as what it is about (RFC 6710)
    options += [(b'M', first)] if first else []
    return options + ([(b'X', trace)] if trace else [])


def pieces(message, head, how_much, tail):
    """The whole report in pieces."""
    yield head
    if how_much == bounce.HEADER:
        yield header(message)
    else:
        last = b'\n'
        for last in contents(message, message.size if how_much == bounce.WHOLE else how_much):
            yield last
        if last[-1:] != b'\n' and not tail.startswith(b'\n'):
            yield b'\n'
    if tail:
        yield tail
