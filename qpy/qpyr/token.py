"""qpy-token, as qpyr: the tokens that relays want in place of passwords, from programs of the administrator's.

DIR/run/token: records K (user@relay) and F (the same, the last token was refused); back a record k: ok or temp, token,
reason.  control/smtptokens says which program gives the token of an account: words, the first of them a path; no shell.

    descriptor 0   nothing     1   the token, on its first line     2   the log
    QPYACCOUNT     user@relay  PATH, HOME (DIR)

A token is kept for CACHED seconds, because programs of this kind keep it for its true life themselves.  One that takes
longer than PATIENCE is stopped with all it has started.

Exit code 0 when the chain ends, 111 for trouble at start.
"""
from qpy import unix
from qpy.core import channel, exits, text
from qpy.lib import children, confine, controls, execute, inherit, packets, program, service
from qpy.lib.loop import Loop

CACHED = 60             # seconds
PATIENCE = 60           # seconds; below the 90 after which qpy-remote gives up
TOKEN_LIMIT = 8192      # bytes of a token: an AUTH line may have 12288 (RFC 4954, section 4)
AT_A_TIME = 20          # programs
OK, TEMP = b'ok', b'temp'


class Tokens:
    """What is known, and what is asked for.  get_programs() -> {user@relay: command}."""

    __slots__ = ('loop', 'home', 'get_programs', 'known', 'running')

    def __init__(self, loop, home, get_programs):
        self.loop, self.home, self.get_programs = loop, home, get_programs
        self.known, self.running = {}, {}       # account: (token, until) | [callbacks]

    def ask(self, account, fresh, done):
        """done(status, token, reason), at once if it is known."""
        token, until = self.known.get(account, (b'', 0))
        if token and not fresh and unix.monotonic() < until:
            return done(OK, token, b'')
        if account in self.running:
            return self.running[account].append(done)
        command = self.get_programs().get(account)
        if command is None or len(self.running) >= AT_A_TIME:
            why = b'too many programs at a time' if command else b'control/smtptokens has no such entry'
            return done(TEMP, b'', why)
        self.running[account] = [done]
        return Run(self, account, command.split()).start()

    def ended(self, account, token, reason):
        """A program has ended: with a token, or not."""
        if token:
            self.known[account] = token, unix.monotonic() + CACHED
        else:
            self.known.pop(account, None)
            program.warn(b'no token for %s: %s' % (text.printable(account), text.printable(reason)))
        for done in self.running.pop(account):
            done(OK if token else TEMP, token, reason)


class Run:
    """One program: what it prints, and its end."""

    __slots__ = ('tokens', 'account', 'words', 'pid', 'out', 'watched', 'data', 'timer', 'late')

    def __init__(self, tokens, account, words):
        self.tokens, self.account, self.words = tokens, account, words
        self.data, self.late = b'', False
        self.pid = self.out = self.watched = self.timer = None

    def start(self):
        """Fork it."""
        loop = self.tokens.loop
        try:
            self.out, theirs = unix.pipe2(unix.O_CLOEXEC | unix.O_NONBLOCK)
            try:
                self.pid, self.watched = children.begin(
                    lambda: become(self.words, self.tokens.home, self.account, theirs))
            except OSError:
                unix.close(self.out)
                raise
            finally:
                unix.close(theirs)
        except OSError as problem:
            return self.tokens.ended(self.account, b'', program.reason(problem))
        loop.watch(self.out, self._readable)
        loop.watch(self.watched, self._ended)
        self.timer = loop.after(PATIENCE, self._overdue)
        return None

    def _readable(self):
        """What it printed; beyond the limit nothing counts."""
        try:
            data = unix.read(self.out, 65536)
        except BlockingIOError:
            return False
        if not data:
            self.tokens.loop.forget(self.out)
        self.data = (self.data + data)[:TOKEN_LIMIT + 1]
        return bool(data)

    def _overdue(self):
        self.late = True
        self._stop()

    def _stop(self):
        """It, and all that it has started and that is still in its group."""
        try:
            unix.kill(-self.pid, unix.SIGKILL)
        except ProcessLookupError:
            pass

    def _ended(self):
        """It ended; what its children print later is not waited for."""
        while self._readable():
            pass
        self.timer.cancel()
        self._stop()
        for fd in (self.out, self.watched):
            self.tokens.loop.forget(fd)
            unix.close(fd)
        status = unix.waitstatus_to_exitcode(unix.waitpid(self.pid, 0)[1])
        self.tokens.ended(self.account, *judge(self.data, status, self.late))


def judge(printed, status, late):
    """(token or b'', why not) of a program that printed this and ended with this status."""
    token = printed.partition(b'\n')[0].strip(b' \t\r')
    if late:
        return b'', b'its program took longer than %d seconds' % PATIENCE
    if status:
        return b'', b'its program ended with status %d' % status
    if not token or len(token) > TOKEN_LIMIT or any(not 33 <= c <= 126 for c in token):
        return b'', b'its program printed no token on its first line'
    return token, b''


def become(words, home, account, out):
    """In the child: the program, alone in a group of its own."""
    try:
        unix.setsid()
        out = unix.duplicate_above(out, 10)
        null = unix.duplicate_above(unix.open(b'/dev/null', unix.O_RDONLY), 10)
        unix.dup2(null, 0)
        unix.dup2(out, 1)
        unix.set_blocking(1, True)
        unix.closerange(3, 1 << 30)
        service.uncalm()
        problem = execute.along_path(words, {b'PATH': execute.KNOWN_PATH, b'HOME': home, b'QPYACCOUNT': account})
        program.warn(b'unable to run %s: %s' % (text.printable(words[0]), program.reason(problem)))
    finally:
        unix._exit(exits.TEMP)


class Client:
    """One that asks: qpy-remote."""

    __slots__ = ('tokens', 'channel')

    def __init__(self, tokens, sock):
        self.tokens = tokens
        self.channel = packets.Channel(tokens.loop, sock, channel.TOKEN_ASK, self._records, lambda reason: None)

    def _records(self, records):
        for letter, (number, account), _ in records:
            self.tokens.ask(text.lower(account), letter == b'F', lambda *answer, n=number: self._answer(n, *answer))

    def _answer(self, number, status, token, reason):
        if self.channel.sock is not None:
            self.channel.send(b'k', number, status, token, text.printable(reason))


def main(home, args):
    """qpy-token"""
    found = service.begin(b'token', args)
    watched = controls.Watched(home, (b'smtptokens',), lambda home: controls.mapping(home, b'smtptokens'))
    loop = Loop()
    inherit.life(loop, found)
    tokens = Tokens(loop, home, watched.get)
    owner = packets.owner_of(home, b'qpyr')
    for sock in inherit.sockets(found, b'token'):
        packets.serve(loop, sock, lambda sock, peer: Client(tokens, sock) if peer[1] in (owner, 0) else sock.close())
    confine.confine(home, b'token')
    loop.run()
    return exits.OK
