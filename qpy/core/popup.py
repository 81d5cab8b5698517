"""A POP3 session before the login (RFC 1939 section 4): bytes in, replies out, until somebody has said who he
is.

    session = Session(banner, apop);  session.receive(data);  session.next() -> (LOGIN, (user, secret)),
    (QUIT, None), (TLS, None), None

apop: whether the banner (`<PID.TIME@HOST>`) is shown and APOP is taken, with the digest as the secret.  tls: whether
STLS is offered (RFC 2595, 4).  forced: nobody logs in without.  After (TLS, None) nothing may be received before
secured() was called; what was said before it is forgotten.
"""
from qpy.core import pop3

LOGIN, QUIT, TLS = 'login', 'quit', 'tls'
FIRST = b'-ERR authorization first'
USER_FIRST = b'-ERR USER first'
TLS_FIRST = b'-ERR STLS first: no login in the clear'
TLS_NOW = b'+OK begin TLS'
NO_TLS = b'-ERR no TLS here'
UNDER_TLS = b'-ERR TLS stands already'
MOST_ERRORS = 20            # commands that make no sense

FAILED = b'-ERR authorization failed'
CRASHED = b'-ERR aack, child crashed'
USAGE = b'-ERR usage: popup hostname subprogram'


class Session:
    """See the top of the module."""

    __slots__ = ('reader', 'apop_too', 'user', 'replies', 'errors', 'over', 'tls', 'forced', 'stands')

    def __init__(self, banner, apop=True, tls=False, forced=False, stands=False):
        self.reader, self.apop_too, self.user = pop3.Reader(), apop, b''
        self.replies, self.errors, self.over = [b'+OK ' + banner if apop else b'+OK '], 0, False
        self.tls, self.forced, self.stands = tls, forced, stands

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        self.reader.receive(data)

    def output(self) -> bytes:
        """What is to be written; forgotten here."""
        replies, self.replies = self.replies, []
        return b''.join(reply + b'\r\n' for reply in replies)

    def next(self):
        """The next event."""
        while not self.over:
            found = self.reader.line()
            if found is None:
                return None
            verb, argument = found
            if argument is None:
                event = self.error(pop3.LONG)
            else:
                event = COMMANDS.get(verb, Session.other)(self, argument)
            if event is not None:
                self.over = event[0] != TLS
                return event
        return None

    def secured(self):
        """The session is under TLS now, and begins again."""
        self.reader, self.user, self.stands = pop3.Reader(), b'', True

    @property
    def closed(self):
        """Is there no login in the clear, and are we in the clear?"""
        return self.forced and not self.stands

    def say(self, reply):
        """One reply."""
        self.replies.append(reply)

    def error(self, reply):
        """One reply to something that makes no sense; too many end the session."""
        self.replies.append(reply)
        self.errors += 1
        return (QUIT, None) if self.errors >= MOST_ERRORS else None

    def other(self, argument):
        return self.error(FIRST)

    def stls(self, argument):
        if argument:
            return self.error(pop3.SYNTAX)
        if self.stands or not self.tls:
            return self.error(UNDER_TLS if self.stands else NO_TLS)
        self.say(TLS_NOW)
        return TLS, None

    def who(self, argument):
        if self.closed:
            return self.error(TLS_FIRST)
        if not argument or b'\0' in argument:
            return self.error(pop3.SYNTAX)
        self.user = argument
        return self.say(pop3.OK)

    def password(self, argument):
        if not self.user:
            return self.error(USER_FIRST)
        if not argument or b'\0' in argument:
            return self.error(pop3.SYNTAX)
        return LOGIN, (self.user, argument)

    def apop(self, argument):
        if self.closed or not self.apop_too:
            return self.error(TLS_FIRST if self.closed else FIRST)
        user, blank, digest = argument.partition(b' ')
        if not blank or not user or b'\0' in argument:
            return self.error(pop3.SYNTAX)
        return LOGIN, (user, digest)

    def noop(self, argument):
        return self.say(pop3.OK)

    def capa(self, argument):
        offered = [word for word in pop3.CAPABILITIES if word != b'USER' or not self.closed]
        if self.tls and not self.stands:
            offered.append(b'STLS')
        for line in (pop3.OK, *offered, b'.'):
            self.say(line)

    def quit(self, argument):
        self.say(pop3.OK)
        return QUIT, None


COMMANDS = {b'USER': Session.who, b'PASS': Session.password, b'APOP': Session.apop, b'NOOP': Session.noop,
            b'CAPA': Session.capa, b'STLS': Session.stls, b'QUIT': Session.quit}
