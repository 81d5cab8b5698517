"""qpy-auth, as qpya: says whether a client of an SMTP server is who he claims to be.

DIR/run/auth, see core.channel: AUTH_ASK, AUTH_ANSWER.  Each login is an exchange of core.sasl_server; what it claims is
judged by users/passwd, programs or Dovecot, as control/auth says (read at start).  Failures are answered after a pause,
and alike whatever the reason; too many of them are not looked at any more (core.brakes).

A worker of its own hears the servers; a master replaces it when it dies.  Exit: 0 when the chain ends, else 111.
"""
from binascii import a2b_base64, b2a_base64

from qpy import unix
from qpy.core import authbackends, brakes, channel, dovecot_auth, exits, manifest, sasl_server as sasl, text
from qpy.lib import confine, controls, inherit, master, packets, service
from qpy.lib.loop import Loop
from qpy.qpya.dovecot import Dovecot
from qpy.qpya.judges import GOOD, LATER, Judges

PAUSE = 2.0             # seconds after the client's last word at which a failure is said, or a multiple of them
LOGINS = 500            # exchanges of one server at a time
BACKLOG = 1000          # answers that a server has not taken
AT_ONCE = b'-'          # in the field of the first response: there is none
NO, AGAIN = b'no', b'later'


class Office:
    """What all servers are served with."""

    def __init__(self, loop, home, backends):
        self.loop, self.servers, self.brakes = loop, set(), brakes.Brakes()
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


ORDER = (b'SCRAM-SHA-256-PLUS', b'SCRAM-SHA-256', b'PLAIN', b'LOGIN', b'OAUTHBEARER', b'XOAUTH2')


class Attempt:
    """What the two kinds of login share.  since: when the client's last word came."""

    def __init__(self, office, server, number, ip):
        self.office, self.server, self.number, self.ip = office, server, number, ip
        self.since = unix.monotonic()

    def say(self, letter, *fields):
        """Answer the server, if it is still there."""
        if self.server.logins.get(self.number) is self:
            self.server.channel.send(letter, self.number, *fields)

    def over(self, letter, *fields):
        """The last answer."""
        self.say(letter, *fields)
        if self.server.logins.get(self.number) is self:
            del self.server.logins[self.number]

    def good(self, user):
        """He is who he says."""
        self.office.brakes.succeeded(text.lower(user), self.ip, unix.monotonic())
        self.over(b'k', text.lower(user))

    def bad(self, user, reason):
        """He is not, or nobody knows; after a while."""
        if user:
            self.office.brakes.failed(text.lower(user), self.ip, unix.monotonic())
        words = text.logsafe(user) + b': ' + reason if user else reason
        self.after_pause(NO, words)

    def later(self, reason):
        """Nobody can say now."""
        self.after_pause(AGAIN, reason)

    def after_pause(self, what, reason):
        """Say it at a time that does not tell how long judging took, and so nothing of how it was judged."""
        wait = PAUSE - (unix.monotonic() - self.since) % PAUSE
        self.office.loop.after(wait, lambda: self.over(b'n', what, reason))

    def braked(self, user):
        """Has there been too much of this?"""
        why = self.office.brakes.refuse(text.lower(user), self.ip, unix.monotonic())
        if why:
            self.later(text.logsafe(user) + b': ' + why if user else why)
        return bool(why)


class Login(Attempt):
    """One that is judged here."""

    def __init__(self, office, server, number, mechanism, ip, binding, response):
        super().__init__(office, server, number, ip)
        nonce = b2a_base64(unix.urandom(18), newline=False)
        place = sasl.Place(nonce, bytes.fromhex(binding.decode('ascii', 'replace')), bool(binding),
                           office.judges.file.scram.keys)
        self.facts = {b'AUTHMECH': mechanism, b'TCPREMOTEIP': ip}
        self.exchange, self.seen = sasl.MECHANISMS[mechanism](place), False
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
        """What follows."""
        user = self.exchange.user
        if event in (sasl.CHALLENGE, sasl.JUDGE) and user and not self.seen:
            self.seen = True
            if self.braked(user):
                return None
        if event == sasl.CHALLENGE:
            return self.say(b'c', b2a_base64(value, newline=False))
        if event == sasl.JUDGE:
            return self.office.judges.judge(value, self.facts, self.judged)
        return self.good(value) if event == sasl.DONE else self.bad(user, value)

    def judged(self, verdict):
        """Somebody has judged."""
        if verdict == LATER:
            return self.later(b'nobody can judge now')
        return self.advance(*self.exchange.judged(verdict == GOOD))

    def gone(self):
        """The client has."""


class Forwarded(Attempt):
    """One that Dovecot does."""

    def __init__(self, office, server, number, mechanism, ip, tls, response):
        super().__init__(office, server, number, ip)
        known = {b'service': b'smtp', b'rip': ip, **({b'secured': b'tls'} if tls else {}), b'final-resp-ok': None}
        first = None if response == AT_ONCE else b'' if response == b'=' else response
        self.asking = mechanism, known, first
        self.theirs = None

    def start(self):
        """Hand it on."""
        if self.braked(b''):
            return None
        self.theirs = self.office.dovecot.ask(*self.asking, self.answered)
        return None if self.theirs else self.later(b'Dovecot has gone')

    def heard(self, response):
        """The client's next message."""
        if not self.office.dovecot.go_on(self.theirs, b'' if response == b'=' else response):
            self.later(b'Dovecot has gone')

    def answered(self, kind, value):
        """Dovecot's word."""
        if kind == dovecot_auth.MORE:
            return self.say(b'c', value)
        user = value.get(b'user', b'')
        if kind == dovecot_auth.OK:
            return self.good(user) if user else self.later(b'Dovecot names no user')
        if b'temp' in value:
            return self.later(b'Dovecot: temporary failure')
        return self.bad(user, b'Dovecot: ' + text.printable(value.get(b'reason') or value.get(b'code') or b'wrong'))

    def gone(self):
        """The client has."""
        if self.theirs:
            self.office.dovecot.cancel(self.theirs)


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
