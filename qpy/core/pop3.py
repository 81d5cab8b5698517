"""One POP3 session after the login, seen from the server (RFC 1939, 2449): bytes in, replies and events out.

    session = Session([(size, name), ...]);  session.receive(data);  event = session.next();  session.output()

    (SEND, (number, lines))     message `number` (from 0) is wanted, its header and so many lines, None: all;
                                answer: sending() or unable(); then the driver writes what an Encoder makes
    (QUIT, numbers)             the client leaves, these are to be removed: answer: removed(all of them?)
    None                        more input, please

Messages keep their numbers.  The texts are qmail-pop3d's; STAT does not count what is deleted (RFC 1939
section 5), and a message that ends in a line end has no empty line more.
"""
from hashlib import sha256

from qpy.core import text

SEND, QUIT = 'send', 'quit'
LINE_MAX = 512              # bytes of a command with its end
UID_MAX = 70                # RFC 1939 section 7
CAPABILITIES = (b'TOP', b'UIDL', b'USER', b'EXPIRE NEVER', b'IMPLEMENTATION qpy')

OK = b'+OK '
SYNTAX = b'-ERR syntax error'
UNIMPLEMENTED = b'-ERR unimplemented'
FROM_ONE = b'-ERR messages are counted from 1'
NOT_SO_MANY = b'-ERR not that many messages'
DELETED = b'-ERR already deleted'
UNABLE = b'-ERR unable to open that message'
NOT_ALL = b'-ERR unable to unlink all deleted messages'
LONG = b'-ERR line too long'


class Reader:
    """Lines from bytes: receive(data), line() -> (verb in upper case, the rest) or None; LONG lines are (b'',
    None)."""

    __slots__ = ('input', 'skipping')

    def __init__(self):
        self.input, self.skipping = b'', False

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        self.input += data

    def line(self):
        """The next command."""
        while True:
            line, newline, rest = self.input.partition(b'\n')
            if not newline:
                if len(line) < LINE_MAX:
                    return None
                self.input, fresh, self.skipping = b'', not self.skipping, True
                return (b'', None) if fresh else None
            self.input = rest
            if self.skipping:
                self.skipping = False
                continue
            if len(line) >= LINE_MAX:
                return b'', None
            verb, _, argument = line.removesuffix(b'\r').partition(b' ')
            return verb.upper(), argument


class Session:
    """See the top of the module."""

    __slots__ = ('reader', 'messages', 'deleted', 'last', 'replies', 'over')

    def __init__(self, messages):
        self.reader, self.messages = Reader(), messages
        self.deleted, self.last, self.replies, self.over = set(), 0, [OK], False

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
                self.replies.append(LONG)
                continue
            event = COMMANDS.get(verb, Session.unknown)(self, argument)
            if event is not None:
                return event
        return None

    # --- answers of the driver ---

    def sending(self):
        """The message is open."""
        self.replies.append(OK)

    def unable(self):
        """It is not."""
        self.replies.append(UNABLE)

    def removed(self, all_of_them):
        """After QUIT."""
        self.replies.append(OK if all_of_them else NOT_ALL)

    # --- commands ---

    def unknown(self, argument):
        self.replies.append(UNIMPLEMENTED)

    def stat(self, argument):
        left = [size for n, (size, _) in enumerate(self.messages) if n not in self.deleted]
        self.replies.append(b'+OK %d %d' % (len(left), sum(left)))

    def list(self, argument):
        self.listing(argument, lambda n: b'%d' % self.messages[n][0])

    def uidl(self, argument):
        self.listing(argument, lambda n: unique(self.messages[n][1]))

    def listing(self, argument, shown):
        """One line, or one for each message that is left."""
        if argument.strip(b' '):
            n = self.number(argument)
            if n is not None:
                self.replies.append(b'+OK %d %b' % (n + 1, shown(n)))
            return
        self.replies.append(OK)
        left = [n for n in range(len(self.messages)) if n not in self.deleted]
        self.replies += [b'%d %b' % (n + 1, shown(n)) for n in left]
        self.replies.append(b'.')

    def number(self, argument):
        """The message that an argument names, None after an error."""
        digits = argument.lstrip(b' ').partition(b' ')[0]
        number = text.parse_uint(digits, 10 ** 9)
        if number is None:
            return self.replies.append(SYNTAX)
        if number == 0:
            return self.replies.append(FROM_ONE)
        if number > len(self.messages):
            return self.replies.append(NOT_SO_MANY)
        if number - 1 in self.deleted:
            return self.replies.append(DELETED)
        return number - 1

    def retr(self, argument):
        n = self.number(argument)
        if n is None:
            return None
        lines = argument.lstrip(b' ').partition(b' ')[2].strip(b' ')
        count = text.parse_uint(lines, 10 ** 9)
        if lines and count is None:
            self.replies.append(SYNTAX)
            return None
        return SEND, (n, count)

    def dele(self, argument):
        n = self.number(argument)
        if n is not None:
            self.deleted.add(n)
            self.last = max(self.last, n + 1)
            self.replies.append(OK)

    def lastly(self, argument):
        self.replies.append(b'+OK %d' % self.last)

    def rset(self, argument):
        self.deleted.clear()
        self.last = 0
        self.replies.append(OK)

    def noop(self, argument):
        self.replies.append(OK)

    def capa(self, argument):
        self.replies += [OK, *CAPABILITIES, b'.']

    def quit(self, argument):
        self.over = True
        return QUIT, sorted(self.deleted)


COMMANDS = {b'STAT': Session.stat, b'LIST': Session.list, b'UIDL': Session.uidl, b'RETR': Session.retr,
            b'TOP': Session.retr, b'DELE': Session.dele, b'LAST': Session.lastly, b'RSET': Session.rset,
            b'NOOP': Session.noop,
            b'CAPA': Session.capa, b'QUIT': Session.quit}


def unique(name):
    """The unique ID of a file name: what stands before its first colon, or a hash of it where that may not be
    one."""
    name = name.partition(b':')[0]
    if 0 < len(name) <= UID_MAX and all(33 <= byte <= 126 for byte in name):
        return name
    return sha256(name).hexdigest().encode()


class Encoder:
    """A stored message as POP3 sends it: lines end with CR LF, those that begin with a dot get one more.

    lines: how many after the header; None for all. feed(data), then end(); done: nothing more is wanted.  A line may be
    as long as a stranger likes: only a CR that may belong to its end is kept."""

    __slots__ = ('lines', 'in_header', 'fresh', 'held', 'done')

    def __init__(self, lines=None):
        self.lines, self.in_header, self.fresh, self.held, self.done = lines, True, True, b'', False

    def feed(self, data: bytes) -> bytes:
        """These bytes on the wire."""
        data = self.held + data
        self.held = data[-1:] if data.endswith(b'\r') else b''
        data = data.removesuffix(b'\r').replace(b'\r\n', b'\n')
        if self.lines is not None:
            data = self.cut(data)
        if not data:
            return b''
        dot = b'.' if self.fresh and data.startswith(b'.') else b''
        self.fresh = data.endswith(b'\n')
        return dot + data.replace(b'\n.', b'\n..').replace(b'\n', b'\r\n')

    def cut(self, data):
        """What is wanted of it."""
        begin = 0
        if self.in_header:
            blank = (b'\n' * self.fresh + data).find(b'\n\n')
            if blank < 0:
                return data
            self.in_header, begin = False, blank + 2 - self.fresh
        *whole, rest = data[begin:].split(b'\n', self.lines)
        self.lines -= len(whole)
        self.done = self.lines == 0
        return data.removesuffix(rest) if self.done else data

    def end(self) -> bytes:
        """The end that the last line has not, and the dot."""
        open_line = not self.done and (self.held or not self.fresh)
        return (b'\r\n' if open_line else b'') + b'.\r\n'
