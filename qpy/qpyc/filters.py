"""One SMTP session at its milters: connections, stages, and the message at the end (core.milter, core.draft).

    session.judge(facts, done)              a stage; done(verdict, reply, reason) as core.checks.Decision's fields
    session.message(draft, body, done)      the whole message; done(Outcome)
    session.close()

The milters of control/milters hear a session one after the other, each what the one before has left.  A milter that
cannot be reached, hangs, dies or talks nonsense is out for the rest of the session, and its line's default counts: from
MAIL on everything is deferred, or it is as if it were not there.
"""
from qpy import unix
from qpy.core import asking, draft as drafts, milter, policyd
from qpy.lib import program, spool
from qpy.qpyc import talk

READ = 32768                # bytes of stored text for one body packet: its lines grow by one byte each
HIGH = 256 << 10            # bytes that a milter has not taken, at which we wait for it
COMMANDS = {asking.CONNECT: milter.CONNECT, asking.HELO: milter.HELO, asking.MAIL: milter.MAIL,
            asking.RCPT: milter.RCPT, asking.DATA: milter.DATA}
OK, REFUSE = b'ok', b'no'
TROUBLE = b'451 4.3.0 unable to have this checked now; try again later'
SESSION, MESSAGE = 'session', 'message'     # for how long a milter has accepted


class Outcome:
    """What the milters made of a message.  verdict: ok, no (reply), discard; draft and body: to be queued; reason: for
    the log."""

    __slots__ = ('verdict', 'reply', 'reason', 'draft', 'body')

    def __init__(self, verdict, reply=b'', reason=b'', draft=None, body=None):
        self.verdict, self.reply, self.reason, self.draft, self.body = verdict, reply, reason, draft, body


class Body:
    """The text behind the header: `spool` from `start` on, blank: with the empty line before it."""

    __slots__ = ('spool', 'start', 'blank')

    def __init__(self, spool_, start, blank):
        self.spool, self.start, self.blank = spool_, start, blank

    def pieces(self):
        """Its bytes, as they are stored."""
        content, at = self.spool.content(), self.start
        while True:
            piece = content[at:at + READ] if isinstance(content, bytes) else unix.pread(content, READ, at)
            if not piece:
                return
            at += len(piece)
            yield piece


class Filter:
    """One milter in one session."""

    __slots__ = ('loop', 'place', 'dialogue', 'sock', 'out', 'done', 'timer', 'trouble', 'accepted', 'inside',
                 'drained', 'watching')

    def __init__(self, loop, place):
        self.loop, self.place, self.dialogue = loop, place, milter.Dialogue()
        self.sock = self.timer = None
        self.out, self.watching = b'', None
        self.done = self.drained = None         # who waits for a packet; who waits until it has taken what was sent
        self.trouble, self.accepted, self.inside = b'', None, False

    # --- the connection ---

    def open(self, done):
        """Connect and negotiate; done()."""
        try:
            self.sock = talk.connect(self.place.where)
        except unix.error as problem:
            self.broken(program.reason(problem))
            return done()
        return self.exchange(self.dialogue.offer(), lambda *packet: self.agreed(packet, done), self.place.timeout)

    def agreed(self, packet, done):
        """The answer to our offer."""
        if packet[0] is not None:
            try:
                self.dialogue.agree(*packet)
            except milter.MilterError as problem:
                self.broken(str(problem).encode())
        done()

    def exchange(self, data, done, seconds):
        """Send, and done(letter, data) with the next packet; done(None, b'') when there will be none."""
        self.send(data)
        if self.sock is None:
            return done(None, b'')
        return self.expect(done, seconds)

    def expect(self, done, seconds):
        """done(letter, data) with the next packet."""
        self.done = done
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.after(seconds, lambda: self.broken(b'no answer in %d seconds' % seconds))
        return self.watch()

    def send(self, data):
        """Send; what it does not take at once waits."""
        if self.sock is not None and data:
            self.out += data
            self.watch()

    def watch(self):
        """Watch for what there is to watch."""
        wanted = bool(self.out)
        if self.sock is not None and wanted != self.watching:
            self.watching = wanted
            self.loop.watch(self.sock.fileno(), self.readable, self.writable if wanted else None)

    def writable(self):
        """It takes something."""
        try:
            self.out = talk.say(self.sock, self.out)
        except unix.error as problem:
            return self.broken(program.reason(problem))
        self.watch()
        drained, self.drained = (self.drained, None) if len(self.out) < HIGH // 2 else (None, self.drained)
        if drained is not None:
            drained()
        return None

    def readable(self):
        """Packets."""
        try:
            data = talk.hear(self.sock)
        except unix.error as problem:
            return self.broken(program.reason(problem))
        if not data:
            return None if data is None else self.broken(b'it closed the connection')
        try:
            packets = self.dialogue.feed(data)
        except milter.MilterError as problem:
            return self.broken(str(problem).encode())
        for letter, words in packets:
            self.heard(letter, words)
        return None

    def heard(self, letter, words):
        """One packet."""
        if letter == milter.PROGRESS and self.done is not None:     # it works on it
            return self.expect(self.done, self.place.end_timeout)
        done, self.done = self.done, None
        if done is None:
            return self.broken(b'it speaks without being asked') if self.sock is not None else None
        self.timer.cancel()
        return done(letter, words)

    def broken(self, reason):
        """It is out for the rest of the session; who waits is told."""
        if not self.trouble:
            self.trouble = self.place.name + b': ' + reason
            program.warn(b'milter %s, %s: %s' % (self.place.name, b'passed over' if self.place.default == b'accept'
                                                 else b'mail is deferred', reason))
        self.close()
        done, drained, self.done, self.drained = self.done, self.drained, None, None
        if done is not None:
            done(None, b'')
        if drained is not None:
            drained()

    def close(self):
        """Close the connection."""
        if self.timer is not None:
            self.timer.cancel()
        if self.sock is not None:
            self.loop.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None

    def quit(self):
        """The session has ended: say so, if it can be said at once."""
        if self.sock is not None and not self.out and self.dialogue.negotiated:
            try:
                self.sock.send(milter.packet(milter.QUIT), unix.MSG_NOSIGNAL)
            except unix.error:
                pass
        self.done = self.drained = None
        self.close()

    # --- commands ---

    def ready(self):
        """Is there anything to be asked?"""
        return self.sock is not None and self.accepted is None

    def command(self, command, data, macros, done, seconds=None):
        """One command with its macros: done(letter, data), CONTINUE if it is not sent or not answered."""
        dialogue = self.dialogue
        if dialogue.skips(command):
            return done(milter.CONTINUE, b'')
        data = dialogue.macros(command, macros) + data
        if dialogue.silent(command):
            self.send(data)
            return done(milter.CONTINUE, b'')
        return self.exchange(data, done, seconds or self.place.timeout)

    def abort(self):
        """The transaction is over without a message."""
        if self.inside:
            self.inside = False
            self.send(milter.packet(milter.ABORT))
        if self.accepted == MESSAGE:
            self.accepted = None


class Session:
    """One SMTP session.  busy: a question is not answered yet; kept: directories for long messages; reading: a message
    is being read; over: the session has ended meanwhile."""

    __slots__ = ('loop', 'filters', 'facts', 'busy', 'discard', 'opened', 'kept', 'reading', 'over')

    def __init__(self, loop, places, kept):
        self.loop, self.filters, self.facts = loop, [Filter(loop, place) for place in places], None
        self.busy, self.discard, self.opened, self.kept = False, b'', False, kept
        self.reading = self.over = False

    def close(self):
        """It has ended; a message that is complete is read to its end all the same."""
        self.over = True
        if not self.reading:
            for each in self.filters:
                each.quit()

    # --- stages ---

    def judge(self, facts, done):
        """A stage: ask each in turn."""
        if self.busy:
            return done(REFUSE, TROUBLE, b'the question before this one has no answer yet')
        if facts.stage == asking.MAIL:
            self.begin()
        self.busy, self.facts = True, facts
        return self.ask(0, done)

    def begin(self):
        """Another transaction: what was left of the one before is over."""
        self.discard = b''
        for each in self.filters:
            each.abort()

    def ask(self, n, done):
        """The n-th milter, and then those behind it."""
        facts = self.facts
        while n < len(self.filters):
            each = self.filters[n]
            if facts.stage == asking.CONNECT and not self.opened:
                return each.open(lambda: self.tell(n, done))
            if each.ready():
                return self.tell(n, done)
            if self.fails(each):
                return self.end(done, REFUSE, TROUBLE, each.trouble)
            n += 1
        self.opened = True
        return self.end(done, OK, b'', b'')

    def fails(self, each):
        """Does this milter's trouble stop mail now?  It is not said before MAIL, so that the log knows who."""
        early = self.facts.stage in (asking.CONNECT, asking.HELO)
        return each.trouble and each.place.default != b'accept' and not early

    def tell(self, n, done):
        """Tell the n-th milter of this stage."""
        each, facts = self.filters[n], self.facts
        if not each.ready():
            return self.said(n, (None, b''), done)
        command = COMMANDS[facts.stage]
        each.inside = each.inside or facts.stage == asking.MAIL
        return each.command(command, packet_of(command, facts), macros_of(facts),
                            lambda *packet: self.said(n, packet, done))

    def said(self, n, packet, done):
        """The n-th milter has answered."""
        each, (letter, words) = self.filters[n], packet
        if letter is None and self.fails(each):
            return self.end(done, REFUSE, TROUBLE, each.trouble)
        if letter not in (None, milter.CONTINUE, milter.ACCEPT, milter.DISCARD):
            if letter not in milter.VERDICTS or letter in (milter.SKIP, milter.FAIL):
                each.broken(b'an answer that does not belong here')
                return self.said(n, (None, b''), done)
            return self.end(done, REFUSE, milter.reply(letter, words), verdict_words(each, letter, words))
        if letter == milter.ACCEPT:
            each.accepted = SESSION if self.facts.stage in (asking.CONNECT, asking.HELO) else MESSAGE
        if letter == milter.DISCARD and self.facts.stage not in (asking.CONNECT, asking.HELO):
            self.discard = each.place.name
        return self.ask(n + 1, done)

    def end(self, done, *answer):
        """Say it."""
        self.busy = False
        done(*answer)

    # --- the message ---

    def message(self, draft, body, done):
        """The whole message: each milter in turn."""
        if self.busy:
            return done(Outcome(REFUSE, TROUBLE, b'a question before this one has no answer yet'))
        self.busy = self.reading = True
        return Reading(self, draft, body, done).start()


class Reading:
    """A message on its way through the milters of its session."""

    __slots__ = ('session', 'draft', 'body', 'done', 'at', 'words', 'remarks', 'replaced', 'unfolded')

    def __init__(self, session, draft, body, done):
        self.session, self.draft, self.body, self.done = session, draft, body, done
        self.at, self.words, self.remarks = -1, None, []
        self.replaced = self.unfolded = None

    @property
    def filter(self):
        """The milter that is reading."""
        return self.session.filters[self.at]

    def start(self):
        """The next milter, if nobody has decided yet."""
        if self.session.discard:
            return self.end(Outcome(b'discard', b'', self.session.discard + b' discards'))
        while self.at + 1 < len(self.session.filters):
            self.at += 1
            if self.filter.ready():
                self.words = self.commands()
                return self.go_on()
            if self.filter.trouble and self.filter.place.default != b'accept':
                return self.end(Outcome(REFUSE, TROUBLE, self.filter.trouble))
        if not self.draft.envelope.recipients:
            return self.end(Outcome(b'discard', b'', b'; '.join(self.remarks) + b'; no recipient is left'))
        return self.end(Outcome(OK, b'', b'; '.join(self.remarks), self.draft, self.body))

    def commands(self):
        """(command, packet, macros) of the message for one milter, in order."""
        dialogue, macros = self.filter.dialogue, macros_of(self.session.facts)
        for name, value in self.draft.visible():
            yield milter.HEADER, milter.header(name, dialogue.value(value)), {}
        yield milter.END_OF_HEADER, milter.packet(milter.END_OF_HEADER), macros
        for piece in self.body.pieces():
            yield milter.BODY, milter.body(piece.replace(b'\n', b'\r\n')[:milter.PACKET_LIMIT]), {}
        yield milter.END, milter.packet(milter.END), macros

    def go_on(self):
        """Say what is to be said until there is something to wait for."""
        try:
            return self.say()
        except unix.error as problem:               # of the file that the message is in
            reason = b'unable to read a message back: ' + program.reason(problem)
            return self.end(Outcome(REFUSE, TROUBLE, reason))

    def say(self):
        """The same, where a file can be read."""
        each = self.filter
        for command, packet, macros in self.words:
            if each.sock is None:
                return self.said(command, None, b'')
            if each.dialogue.skips(command):
                continue
            if command == milter.END:
                return each.exchange(each.dialogue.macros(command, macros) + packet, self.changed,
                                     each.place.end_timeout)
            if not each.dialogue.silent(command):
                return each.command(command, packet, macros, lambda *answer, c=command: self.said(c, *answer))
            each.send(each.dialogue.macros(command, macros) + packet)
            if len(each.out) > HIGH:
                each.drained = self.go_on
                return None
        return None

    def said(self, command, letter, words):
        """An answer before the end of the message."""
        if letter == milter.SKIP and command == milter.BODY:
            self.words = (step for step in self.words if step[0] == milter.END)
            letter = milter.CONTINUE
        if letter == milter.CONTINUE:
            return self.session.loop.call_soon(self.go_on) if command == milter.BODY else self.go_on()
        return self.decided(letter, words)

    def changed(self, letter, words):
        """Behind the end of the message: changes, and then what it thinks of it."""
        each = self.filter
        if letter in milter.ACTIONS:
            if not each.dialogue.may(letter):
                each.broken(b'a change that it has not negotiated')
                return self.decided(None, b'')
            self.change(letter, words)
            return each.expect(self.changed, each.place.end_timeout)
        if self.replaced is not None and letter in (milter.CONTINUE, milter.ACCEPT):
            self.take_body()
        return self.decided(letter, words)

    def change(self, letter, words):
        """One change; what makes no sense is passed over, and logged."""
        try:
            if letter == milter.REPLACE_BODY:
                if self.replaced is None:
                    self.replaced, self.unfolded = spool.Spool(self.session.kept), drafts.Unfolded()
                    self.remarks.append(self.filter.place.name + b' replaces the body')
                return self.replaced.add(self.unfolded.feed(words))
            said = self.draft.change(letter, words)
        except ValueError as problem:
            said = b'asks for what cannot be done: ' + str(problem).encode()
        except unix.error as problem:
            return self.filter.broken(b'unable to keep its body: ' + program.reason(problem))
        if len(self.remarks) < 50:
            self.remarks.append(self.filter.place.name + b' ' + said)
        return None

    def take_body(self):
        """The body is another one now."""
        self.replaced.add(self.unfolded.end())
        self.body.spool.close()
        self.body, self.replaced = Body(self.replaced, 0, True), None
        self.draft.changed = True

    def decided(self, letter, words):
        """What this milter thinks of the message."""
        each = self.filter
        each.inside = False
        if letter in (milter.CONTINUE, milter.ACCEPT):
            return self.start()
        if letter is None:
            return self.end(Outcome(REFUSE, TROUBLE, each.trouble)) if each.place.default != b'accept' else self.start()
        if letter == milter.DISCARD:
            return self.end(Outcome(b'discard', b'', each.place.name + b' discards'))
        if letter in (milter.REJECT, milter.TEMPFAIL, milter.REPLY, milter.SHUTDOWN):
            return self.end(Outcome(REFUSE, milter.reply(letter, words), verdict_words(each, letter, words)))
        each.broken(b'an answer that does not belong here')
        return self.decided(None, b'')

    def end(self, outcome):
        """It is over: tell, and let the others forget the transaction."""
        self.words = ()
        if self.replaced is not None:
            self.replaced.close()
        session = self.session
        session.busy = session.reading = False
        session.begin()
        self.done(outcome)
        if session.over:
            session.close()


def verdict_words(each, letter, words):
    """For the log: which milter said what."""
    said = {milter.REJECT: b'rejects', milter.TEMPFAIL: b'defers', milter.SHUTDOWN: b'closes'}
    return each.place.name + b' ' + (said.get(letter) or b'says ' + words.partition(b'\0')[0][:200])


def packet_of(command, facts):
    """The packet of a stage."""
    if command == milter.CONNECT:
        return milter.connect(facts.ip, facts.name)
    if command == milter.HELO:
        return milter.helo(facts.helo)
    if command == milter.MAIL:
        return milter.path(command, facts.sender, *([b'SIZE=' + facts.size] if facts.size else []))
    return milter.path(command, facts.recipient) if command == milter.RCPT else milter.packet(command)


def macros_of(facts):
    """{name: value} of what may be told."""
    address, host = (facts.recipient, b'rcpt') if facts.recipient else (facts.sender, b'mail')
    found = {b'j': facts.local, b'{daemon_name}': b'qpy', b'v': b'qpy', b'{client_addr}': facts.ip,
             b'{client_name}': facts.name or b'[%s]' % facts.ip,
             b'_': b'%s [%s]' % (facts.name or b'unknown', facts.ip),
             b'i': facts.session, b'{auth_authen}': facts.login, b'{auth_type}': policyd.METHOD if facts.login else b'',
             b's': facts.helo, b'r': facts.protocol, b'{mail_mailer}': b'smtp', b'{rcpt_mailer}': b'local',
             b'{mail_addr}': facts.sender, b'{rcpt_addr}': facts.recipient,
             b'{tls_version}': facts.tls, b'{cipher}': facts.cipher}
    found[b'{%s_host}' % host] = address[address.rfind(b'@') + 1:] if b'@' in address else b''
    return found
