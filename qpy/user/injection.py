"""What qpy-inject and sendmail share: the message from descriptor 0, made complete, into the queue, in one process.

The header is read and composed first, so that a message that will be refused is refused before its body is read.
Header and body are then gathered, in memory or in an unlinked file, before qpy-queued hears the first byte: a
reader that stops half-way never leaves half a message, and a slow one holds up nobody.
"""
from qpy import unix
from qpy.core import carried, exits, header, inject, text
from qpy.lib import controls, program

PIECE = 65536           # bytes read at a time

MOST_DESCRIPTORS = 65536        # where a kernel without close_range(2) makes us close one by one
NOT_THERE = {exits.QQ_CONNECT_TIMEOUT: b'the queue does not answer: ',
             exits.QQ_CONNECT_REFUSED: b'the queue cannot be reached (does qpy-queued run?): '}
LINE_SHOWN = 200        # bytes of a refused field in an error message


class ReadError(Exception):
    """Descriptor 0 cannot be read to its end; the argument is the OSError."""


def settle_descriptors():
    """The first act: 0, 1 and 2 are open, everything else is closed.

    A caller may have closed some of the three; the next file opened would take the free place and be written to.
    Where 0 was closed it stays unreadable: there is no message, which is not an empty message.
    """
    while True:
        fd = unix.open(b'/dev/null', unix.O_RDWR)
        if fd > 2:
            break
        if fd == 0:
            unix.dup2(unix.open(b'/dev/null', unix.O_WRONLY), 0)
    unix.closerange(3, MOST_DESCRIPTORS)


def quiet_signals():
    """^C ends the program as a signal does, not as a Python exception; nothing is queued then."""
    unix.signal(unix.SIGINT, unix.SIG_DFL)


def settings(home):
    """The hosts and domains for addresses, from the environment and DIR/control."""
    known = []

    def is_local(host):
        """Is it in control/locals?  Read for a host without a dot only: most messages cost no look there."""
        if not known:
            known.append(controls.lookup(home, b'locals') or ())
        return host in known[0]
    return inject.settings(unix.environ, lambda name: controls.line(home, name), is_local)


def login():
    """The name of the account this process runs under, or None.  $HOME and the like say nothing about that."""
    try:
        return unix.getpwuid(unix.getuid())[0]
    except KeyError:
        return None


def list_addresses():
    """The lower-case lines of the file $QMAILMFTFILE; empty without it."""
    path = unix.environ.get(b'QMAILMFTFILE')
    if not path:
        return ()
    try:
        lines = unix.read_file(path, pipes=True).split(b'\n')
    except FileNotFoundError:
        return ()
    return {text.lower(line.rstrip(b' \t')) for line in lines if line[:1] != b'#'}


class Message:
    """The message on descriptor 0.

    dot_ends: whether a line with a lone dot ends it (a person types it).  first: bytes that stand before what
    descriptor 0 has to say.  read_header() -> fields; then write(header, put) gives the whole new message to
    put(bytes).
    """
    __slots__ = ('splitter', 'dot_ends', 'first', 'ended', 'eight_bit')

    def __init__(self, keep_mbox_line=True, dot_ends=False, first=b''):
        self.splitter = header.Splitter(keep_mbox_line)
        self.dot_ends, self.first, self.ended, self.eight_bit = dot_ends, first, False, False

    def _read(self):
        """The next bytes; b'' at the end."""
        if self.first:
            data, self.first = self.first, b''
            return data
        if self.ended:
            return b''
        try:
            data = unix.read(0, PIECE)
        except unix.error as problem:
            raise ReadError(problem) from problem
        if not data or self.dot_ends and data == b'.\n':        # a terminal hands over line by line
            self.ended = True
            return b''
        return data

    def read_header(self):
        """The fields of the header.  header.TooLong, ReadError."""
        while data := self._read():
            if self.splitter.feed(data):
                return self.splitter.fields
        self.splitter.end()
        return self.splitter.fields

    def write(self, new_header, put):
        """Put the new header and the body, line ends repaired.  ReadError; whatever put raises."""
        body, data = inject.Body(), self.splitter.body
        put(new_header)
        while data or (data := self._read()):
            piece = body.feed(data)
            self.eight_bit = self.eight_bit or not piece.isascii()
            put(piece)
            data = b''
        put(body.end())


def queue(home, message, new_header, sender, recipients, options=(), notify=None):
    """Gather the message and submit it; returns submit's (code, ID or text)."""
    from qpy.lib import spool, submit
    gathered = spool.Spool()
    message.write(new_header, gathered.add)
    options = list(options)
    options += carried.anew(unix.environ.get(carried.VARIABLE, b''), [letter for letter, _ in options])
    if message.eight_bit and not any(letter == b'B' for letter, _ in options):
        options.append((b'B', b'8BITMIME'))
    extra = [((b'N', notify),)] * len(recipients) if notify else None
    return submit.send(home, sender, recipients, gathered.content(), options=options, recipient_options=extra)


def explained(work, refused, unreadable):
    """work()'s exit code; or, after one line that says why, `refused` for a message that can never be sent as it is,
    and `unreadable` for one that could not be read.
    """
    try:
        return work()
    except inject.Refused as problem:
        code, words = refused, explain(problem)
    except header.TooLong:
        code, words = refused, b'header longer than %d bytes (#5.3.4)' % header.LIMIT
    except ReadError as problem:
        code, words = unreadable, b'read error: ' + program.reason(problem.args[0])
    program.complain(b'fatal: ' + words)
    return code


def explain(refused):
    """A Refused in one line."""
    if not refused.line:
        return refused.why
    return refused.why + b' ' + text.printable(refused.line.rstrip(b'\n').replace(b'\n', b' ')[:LINE_SHOWN])


def failure(code, answer):
    """(whether for ever, sentence) of a submission that failed."""
    words = answer if answer[:1] in (b'D', b'Z') else exits.queue_text(code)
    filtered = unix.environ.get(b'QMAILQUEUE') or unix.environ.get(b'QPYQUEUE')     # then the code is the filter's
    return words[:1] == b'D', (b'' if filtered else NOT_THERE.get(code, b'')) + words[1:]
