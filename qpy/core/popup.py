"""A POP3 session before the login (RFC 1939 section 4): bytes in, replies out, until somebody has said who he
is.

    session = Session(banner, apop);  session.receive(data);  session.next() -> (LOGIN, (user, secret)),
    (QUIT, None), None

apop: whether the banner (`<PID.TIME@HOST>`) is shown and APOP is taken, with the digest as the secret.
"""
from qpy.core import pop3

LOGIN, QUIT = 'login', 'quit'
FIRST = b'-ERR authorization first'
USER_FIRST = b'-ERR USER first'
MOST_ERRORS = 20            # commands that make no sense

FAILED = b'-ERR authorization failed'
CRASHED = b'-ERR aack, child crashed'
USAGE = b'-ERR usage: popup hostname subprogram'


class Session:
    """See the top of the module."""

    __slots__ = ('reader', 'apop_too', 'user', 'replies', 'errors', 'over')

    def __init__(self, banner, apop=True):
        self.reader, self.apop_too, self.user = pop3.Reader(), apop, b''
        self.replies, self.errors, self.over = [b'+OK ' + banner if apop else b'+OK '], 0, False

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
                self.over = True
                return event
        return None

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

    def who(self, argument):
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
        if not self.apop_too:
            return self.error(FIRST)
        user, blank, digest = argument.partition(b' ')
        if not blank or not user or b'\0' in argument:
            return self.error(pop3.SYNTAX)
        return LOGIN, (user, digest)

    def noop(self, argument):
        return self.say(pop3.OK)

    def capa(self, argument):
        for line in (pop3.OK, *pop3.CAPABILITIES, b'.'):
            self.say(line)

    def quit(self, argument):
        self.say(pop3.OK)
        return QUIT, None


COMMANDS = {b'USER': Session.who, b'PASS': Session.password, b'APOP': Session.apop, b'NOOP': Session.noop,
            b'CAPA': Session.capa, b'QUIT': Session.quit}
