"""qpy-auth, as qpya: says whether a client of an SMTP server is who he claims to be.

DIR/run/auth, see core.channel: AUTH_ASK, AUTH_ANSWER.  Each login is an exchange of core.sasl_server; what it claims is
judged by users/passwd, programs or Dovecot, as control/auth says (read at start).  Failures are answered after a pause,
and alike whatever the reason; too many of them are not looked at any more (core.brakes).

A worker of its own hears the servers; a master replaces it when it dies.  Exit: 0 when the chain ends, else 111.
"""
from binascii import b2a_base64
from collections import deque

from qpy import unix
from qpy.core import authbackends, brakes, channel, dovecot_auth, exits, manifest, sasl_server as sasl, text
from qpy.lib import confine, controls, inherit, master, packets, service
from qpy.lib.loop import Loop
from qpy.qpya.dovecot import Dovecot
from qpy.qpya.judges import GOOD, LATER, Judges

PAUSE = 2.0             # seconds after the client's last word at which a failure is said, or a multiple of them
TURN = 20.0             # seconds that one waits until others for the same account, or from the same address, have ended
LOGINS = 500            # exchanges of one server at a time
BACKLOG = 1000          # answers that a server has not taken
AT_ONCE = b'-'          # in the field of the first response: there is none
NO, AGAIN = b'no', b'later'


class Office:
    """What all servers are served with."""

    def __init__(self, loop, home, backends):
        self.loop, self.servers, self.brakes, self.waiting = loop, set(), brakes.Brakes(), deque()
        self.judges = Judges(loop, home, backends.judges)
        self.dovecot = None
        self.dovecot = Dovecot(loop, backends.dovecot, self.changed) if backends.dovecot else None
        self.told = self.mechanisms()

    def mechanisms(self):
        """What can be offered now, the best first."""
        theirs = self.dovecot.mechanisms if self.dovecot is not None else ()
        ours = self.judges.password_mechanisms()
        return [name for name in ORDER if name in theirs or name in ours]

    def changed(self):
        """Something may have changed: tell the servers."""
        now = self.mechanisms()
        if now != self.told:
            self.told = now
            for server in self.servers:
                server.tell()

    def begin(self, server, number, fields):
        """A login."""
        mechanism, ip, tls, binding, response = fields
        self.changed()
        if self.dovecot is not None and mechanism in self.dovecot.mechanisms:
            return Forwarded(self, server, number, mechanism, ip, tls, response)
        return Login(self, server, number, mechanism, ip, binding, response)

    def turned_away(self, attempt):
        """After too many failures it is not looked at, and has been told so."""
        why = self.brakes.refuse(attempt.user, attempt.ip, unix.monotonic())
        if why:
            attempt.later(text.logsafe(attempt.user) + b': ' + why if attempt.user else why)
        return bool(why)

    def admit(self, attempt):
        """Have it judged, now or when it is known how those before it end."""
        if self.turned_away(attempt):
            return None
        if not self.brakes.begin(attempt.user, attempt.ip, unix.monotonic()):
            attempt.timer = attempt.timer or self.loop.after(TURN, lambda: self.give_up(attempt))
            return self.waiting.append(attempt)
        if attempt.timer:
            attempt.timer.cancel()
        attempt.admitted, attempt.timer = True, None
        return attempt.go()

    def give_up(self, attempt):
        """It has waited long enough."""
        if attempt in self.waiting:
            self.waiting.remove(attempt)
            attempt.later(text.logsafe(attempt.user) + b': too many logins at a time')

    def room(self):
        """There may be some for those who wait, in their order."""
        waiting, self.waiting = self.waiting, deque()
        for attempt in waiting:
            if attempt.is_there():
                self.admit(attempt)


ORDER = (b'SCRAM-SHA-256-PLUS', b'SCRAM-SHA-256', b'PLAIN', b'LOGIN', b'OAUTHBEARER', b'XOAUTH2')


class Attempt:
    """What the two kinds of login share.  since: when the client's last word came.  user: whom he names, in lower case, b''
    before he has; go(): what follows once he may be judged; timer: of his waiting for that; admitted: he is being judged, as
    long as others look at his words, and not while he keeps still; counted: as a failure."""

    def __init__(self, office, server, number, ip):
        self.office, self.server, self.number, self.ip = office, server, number, ip
        self.since = unix.monotonic()
        self.user, self.go, self.timer, self.admitted, self.counted = b'', None, None, False, False

    def is_there(self):
        """Does the client still wait for an answer?"""
        return self.server.logins.get(self.number) is self

    def say(self, letter, *fields):
        """Answer the server, if it is still there."""
        if self.is_there():
            self.server.channel.send(letter, self.number, *fields)

    def over(self, letter, *fields):
        """The last answer."""
        self.say(letter, *fields)
        if self.is_there():
            del self.server.logins[self.number]

    def admit(self, user, go):
        """go() when he may be judged."""
        self.user, self.go = text.lower(user), go
        self.office.admit(self)

    def settle(self):
        """It is known how it ended, or the client has the word."""
        if self.admitted:
            self.admitted = False
            self.office.brakes.end(self.user, self.ip)
            self.office.loop.call_soon(self.office.room)

    def names(self, user):
        """What the account is called, by the client and by who has judged."""
        return {self.user, text.lower(user)} - {b''}

    def good(self, user):
        """He is who he says."""
        self.office.brakes.succeeded(self.names(user), self.ip, unix.monotonic())
        self.settle()
        self.over(b'k', text.lower(user))

    def failed(self, user):
        """He is not; it counts, once."""
        names = self.names(user)
        if names and not self.counted:
            self.counted = True
            self.office.brakes.failed(names, self.ip, unix.monotonic())
        self.settle()

    def bad(self, user, reason):
        """He is not, and hears it after a while."""
        self.failed(user)
        words = text.logsafe(user) + b': ' + reason if user else reason
        self.after_pause(NO, words)

    def later(self, reason):
        """Nobody can say now."""
        self.settle()
        self.after_pause(AGAIN, reason)

    def after_pause(self, what, reason):
        """Say it at a time that does not tell how long judging took, and so nothing of how it was judged."""
        wait = PAUSE - (unix.monotonic() - self.since) % PAUSE
        self.office.loop.after(wait, lambda: self.over(b'n', what, reason))


class Login(Attempt):
    """One that is judged here."""

    def __init__(self, office, server, number, mechanism, ip, binding, response):
        super().__init__(office, server, number, ip)
        nonce = b2a_base64(unix.urandom(18), newline=False)
        place = sasl.Place(nonce, bytes.fromhex(binding.decode('ascii', 'replace')), bool(binding),
                           office.judges.file.scram.keys)
        self.facts = {b'AUTHMECH': mechanism, b'TCPREMOTEIP': ip}
        self.exchange, self.passed = sasl.MECHANISMS[mechanism](place), False       # passed: he has shown what he knows
        self.first = None if response == AT_ONCE else response

    def start(self):
        """The first step."""
        return self.heard(self.first)

    def heard(self, response):
        """The client's next message, in base64, or None."""
        data = None if response is None else sasl.decoded(response)
        if response is not None and data is None:
            return self.bad(b'', b'not base64')
        return self.advance(*self.exchange.step(data))

    def advance(self, event, value):
        """What follows.  Whoever names somebody is answered; what he shows then is looked at in its turn."""
        user, named = self.exchange.user, self.user
        if not user or self.passed:
            return self.follow(event, value)
        if event == sasl.CHALLENGE and not named:
            self.user = text.lower(user)
            return None if self.office.turned_away(self) else self.follow(event, value)
        self.passed = True
        return self.admit(user, lambda: self.follow(event, value))

    def follow(self, event, value):
        """The same, when it is his turn."""
        if event == sasl.CHALLENGE:
            self.settle()
            return self.say(b'c', b2a_base64(value, newline=False))
        if event == sasl.JUDGE:
            return self.office.judges.judge(value, self.facts, self.judged)
        return self.good(value) if event == sasl.DONE else self.bad(self.exchange.user, value)

    def judged(self, verdict):
        """Somebody has judged."""
        if verdict == LATER:
            return self.later(b'nobody can judge now')
        if verdict != GOOD:
            self.failed(b'')                # at once: a client may not wait to be told
        return self.follow(*self.exchange.judged(verdict == GOOD))

    def gone(self):
        """The client has.  What is being judged is not over by that."""


class Forwarded(Attempt):
    """One that Dovecot does."""

    def __init__(self, office, server, number, mechanism, ip, tls, response):
        super().__init__(office, server, number, ip)
        known = {b'service': b'smtp', b'rip': ip, **({b'secured': b'tls'} if tls else {}), b'final-resp-ok': None}
        self.first = None if response == AT_ONCE else response
        self.exchange = sasl.MECHANISMS[mechanism](sasl.Place(keys=office.judges.file.scram.keys))      # tells the name
        self.begin = lambda first: office.dovecot.ask(mechanism, known, first, self.answered)
        self.theirs, self.named = None, False

    def start(self):
        """The first step."""
        return self.heard(self.first)

    def heard(self, response):
        """The client's next message, or None."""
        if response is None:
            return self.hand_on(response)
        if not self.named:
            self.named = True
            self.exchange.step(sasl.decoded(response) or b'')
        return self.admit(self.exchange.user, lambda: self.hand_on(response))

    def hand_on(self, response):
        """It is Dovecot's turn."""
        response = b'' if response == b'=' else response
        if self.theirs is None:
            self.theirs = going = self.begin(response)
        else:
            going = self.office.dovecot.go_on(self.theirs, response)
        return None if going else self.later(b'Dovecot has gone')

    def answered(self, kind, value):
        """Dovecot's word; what it calls the account may be braked where what the client has called it is not."""
        if kind == dovecot_auth.MORE:
            self.settle()
            return self.say(b'c', value)
        user = value.get(b'user', b'')
        why = text.lower(user) != self.user and self.office.brakes.refuse(text.lower(user), self.ip, unix.monotonic())
        if why:
            return self.later(text.logsafe(user) + b': ' + why)
        if kind == dovecot_auth.OK:
            return self.good(user) if user else self.later(b'Dovecot names no user')
        if b'temp' in value:
            return self.later(b'Dovecot: temporary failure')
        return self.bad(user, b'Dovecot: ' + text.printable(value.get(b'reason') or value.get(b'code') or b'wrong'))

    def gone(self):
        """The client has.  Who does not wait for Dovecot's word, which comes late for a failure, has failed."""
        if self.theirs:
            self.office.dovecot.cancel(self.theirs)
        if self.admitted:
            self.failed(b'')


class Server:
    """One SMTP server that asks."""

    def __init__(self, office, sock):
        self.office, self.logins = office, {}
        self.channel = packets.Channel(office.loop, sock, channel.AUTH_ASK, self.records, self.closed)
        office.servers.add(self)
        office.judges.file.look()
        office.changed()
        self.tell()

    def tell(self):
        """What can be offered."""
        self.channel.send(b'M', b' '.join(self.office.told))

    def records(self, records):
        """Questions."""
        for letter, (number, *fields), _ in records:
            login = self.logins.get(number)
            if letter == b'A' and login is None and fields[0] in self.office.told and len(self.logins) < LOGINS:
                self.logins[number] = login = self.office.begin(self, number, fields)
                login.start()
            elif letter == b'A':
                self.channel.send(b'n', number, AGAIN, b'too many logins at a time')
            elif login is not None and letter == b'R':
                login.since = unix.monotonic()
                login.heard(fields[0])
            elif login is not None:
                del self.logins[number]
                login.gone()
        if self.channel.backlog() > BACKLOG:
            self.channel.close()
            self.closed('takes no answers')

    def closed(self, _):
        """It has gone."""
        self.office.servers.discard(self)
        logins, self.logins = self.logins, {}
        for login in logins.values():
            login.gone()


def main(home, args):
    """qpy-auth"""
    found = service.begin(b'auth', args)
    controls.parsed(authbackends.check, home, b'auth')
    backends = authbackends.backends(controls.listing(home, b'auth'))
    servers = (packets.owner_of(home, b'qpyd'), 0)
    confine.confine(home, manifest.master(backends.line))
    return master.run(found, lambda found: work(home, found, backends, servers))


def work(home, found, backends, servers):
    """The one that hears what clients claim."""
    loop = Loop()
    inherit.life(loop, found)
    for sock in inherit.sockets(found, b'auth'):
        packets.serve(loop, sock, lambda sock, peer: Server(office, sock) if peer[1] in servers else sock.close())
    if not backends.programs:
        confine.confine(home, backends.line)
    office = Office(loop, home, backends)
    loop.run()
    return exits.OK
