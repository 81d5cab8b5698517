"""The milter protocol, version 6, the mail server's side: packets, and what may be said when.  Pure.

    control/milters:    127.0.0.1:11332
                        /run/opendkim/opendkim.sock default=accept timeout=30 endtimeout=240

A packet is a 4-byte length, a letter and data.  A Dialogue is one connection to one milter, which serves one SMTP
session: offer() first; then commands as functions below make them; feed() gives the milter's packets.  The protocol has
no RFC; the constants are those of sendmail's mfdef.h.

    skips(command)      the milter does not want to hear it: do not send it
    silent(command)     it will not answer it: go on
    macros(command, {name: value})      what goes before it
"""
from qpy.core import policyd, text

VERSION = 6
PACKET_LIMIT = 1 << 20      # bytes of one packet of a milter
BODY_PIECE = 65535          # bytes of one body packet
SYMBOLS_LIMIT = 4096        # bytes of a list of macros that a milter wants

# Commands, and their flags in the negotiation: (do not send, no answer).
CONNECT, HELO, MAIL, RCPT, DATA = b'C', b'H', b'M', b'R', b'T'
HEADER, END_OF_HEADER, BODY, END = b'L', b'N', b'B', b'E'
FLAGS = {CONNECT: (0x1, 0x1000), HELO: (0x2, 0x2000), MAIL: (0x4, 0x4000), RCPT: (0x8, 0x8000), DATA: (0x200, 0x10000),
         HEADER: (0x20, 0x80), END_OF_HEADER: (0x40, 0x40000), BODY: (0x10, 0x80000), END: (0, 0)}
SKIP_ALLOWED, LEADING_SPACE = 0x400, 0x100000
UNKNOWN_FLAGS = 0x100 | 0x20000         # of a command that we never send: unknown SMTP commands
OFFERED_STEPS = SKIP_ALLOWED | LEADING_SPACE | UNKNOWN_FLAGS | sum(no | silent for no, silent in FLAGS.values())
NEGOTIATE, MACRO, ABORT, QUIT = b'O', b'D', b'A', b'Q'

# Answers that end a command.
CONTINUE, ACCEPT, REJECT, TEMPFAIL, DISCARD, SKIP = b'c', b'a', b'r', b't', b'd', b's'
REPLY, FAIL, SHUTDOWN = b'y', b'f', b'4'
VERDICTS = (CONTINUE, ACCEPT, REJECT, TEMPFAIL, DISCARD, SKIP, REPLY, FAIL, SHUTDOWN)
PROGRESS = b'p'

# Changes, at the end of the message only: the action that must have been negotiated.
ADD_HEADER, INSERT_HEADER, CHANGE_HEADER, REPLACE_BODY = b'h', b'i', b'm', b'b'
ADD_RCPT, ADD_RCPT_PARAMETERS, DELETE_RCPT, CHANGE_FROM, QUARANTINE = b'+', b'2', b'-', b'e', b'q'
ACTIONS = {ADD_HEADER: 0x1, INSERT_HEADER: 0x1, CHANGE_HEADER: 0x10, REPLACE_BODY: 0x2, ADD_RCPT: 0x4,
           ADD_RCPT_PARAMETERS: 0x80, DELETE_RCPT: 0x8, CHANGE_FROM: 0x40, QUARANTINE: 0x20}
WANTS_SYMBOLS = 0x100
OFFERED_ACTIONS = 0x1ff

# Macros, by command, unless the milter asks for others (the stages' numbers in its list are sendmail's).
SYMBOLS = {CONNECT: (b'j', b'_', b'{daemon_name}', b'{client_addr}', b'{client_name}', b'v'), HELO: (b'{tls_version}', b'{cipher}'),
           MAIL: (b'i', b'{auth_type}', b'{auth_authen}', b'{mail_addr}', b'{mail_host}', b'{mail_mailer}'),
           RCPT: (b'i', b'{rcpt_addr}', b'{rcpt_host}', b'{rcpt_mailer}'), DATA: (b'i',), END_OF_HEADER: (b'i',),
           END: (b'i',)}
STAGES = (CONNECT, HELO, MAIL, RCPT, DATA, END, END_OF_HEADER)


class MilterError(ValueError):
    """The milter does not speak the protocol; the words say how."""


class Place:
    """One line of control/milters.  where: (address, port) or a path; default: defer or accept; seconds."""

    __slots__ = ('name', 'where', 'default', 'timeout', 'end_timeout')

    def __init__(self, name, where, default=b'defer', timeout=30, end_timeout=240):
        self.name, self.where, self.default, self.timeout, self.end_timeout = name, where, default, timeout, end_timeout


def parse(line):
    """The Place of a line; ValueError in words."""
    name, *words = [word for word in line.replace(b'\t', b' ').split(b' ') if word]
    options = policyd.parse_options(words, {b'default': b'defer', b'timeout': b'30', b'endtimeout': b'240'})
    seconds = [text.parse_uint(options[key], 3600) for key in (b'timeout', b'endtimeout')]
    if options[b'default'] not in (b'defer', b'accept') or not all(seconds):
        raise ValueError('default is defer or accept, timeout and endtimeout are numbers of seconds')
    return Place(name, policyd.parse_place(name, 0), options[b'default'], *seconds)


# --- packets -------------------------------------------------------------------------------------------------

def packet(letter, data=b''):
    """One packet."""
    return (len(data) + 1).to_bytes(4, 'big') + letter + data


def strings(*words):
    """Words, each NUL-ended; a NUL inside becomes `?`."""
    return b''.join(word.replace(b'\0', b'?') + b'\0' for word in words)


def connect(ip, name):
    """The client's address and name."""
    if not ip:
        return packet(CONNECT, strings(name or b'localhost') + b'U')
    family, shown = (b'6', b'IPv6:' + ip) if b':' in ip else (b'4', ip)
    return packet(CONNECT, strings(name or b'[%s]' % shown) + family + b'\0\0' + strings(ip))


def helo(argument):
    """HELO or EHLO."""
    return packet(HELO, strings(argument))


def path(command, address, *parameters):
    """MAIL or RCPT: an address without brackets."""
    return packet(command, strings(b'<%s>' % address, *parameters))


def header(name, value):
    """One field; value: as the milter wants its leading space."""
    return packet(HEADER, strings(name, value))


def body(piece):
    """A part of the body, its lines ended by CR LF."""
    return packet(BODY, piece)


class Dialogue:
    """One connection: see the top of the module.  actions, steps: as negotiated; 0 before."""

    __slots__ = ('actions', 'steps', 'symbols', 'rest', 'negotiated')

    def __init__(self):
        self.actions = self.steps = 0
        self.symbols, self.rest, self.negotiated = dict(SYMBOLS), b'', False

    @staticmethod
    def offer():
        """The first packet: what we can."""
        numbers = VERSION, OFFERED_ACTIONS, OFFERED_STEPS
        return packet(NEGOTIATE, b''.join(number.to_bytes(4, 'big') for number in numbers))

    def feed(self, data):
        """[(letter, data)] of the packets that are complete.  MilterError."""
        self.rest += data
        found = []
        while len(self.rest) >= 4:
            length = int.from_bytes(self.rest[:4], 'big')
            if not 1 <= length <= PACKET_LIMIT:
                raise MilterError('a packet of %d bytes' % length)
            if len(self.rest) < 4 + length:
                break
            found.append((self.rest[4:5], self.rest[5:4 + length]))
            self.rest = self.rest[4 + length:]
        return found

    def agree(self, letter, data):
        """The milter's answer to offer().  MilterError."""
        if letter != NEGOTIATE or len(data) < 12:
            raise MilterError('it does not negotiate')
        version, actions, steps = (int.from_bytes(data[n:n + 4], 'big') for n in (0, 4, 8))
        if not 2 <= version <= VERSION:
            raise MilterError('it speaks version %d' % version)
        if actions & ~OFFERED_ACTIONS:
            raise MilterError('it wants to change what was not offered')
        self.actions, self.steps, self.negotiated = actions, steps & OFFERED_STEPS, True
        self.wish(data[12:12 + SYMBOLS_LIMIT])

    def wish(self, data):
        """The macros that it wants: (a stage's number, names with blanks between them, NUL) each."""
        while len(data) > 4 and b'\0' in data[4:]:
            stage, (names, _, rest) = int.from_bytes(data[:4], 'big'), data[4:].partition(b'\0')
            if stage < len(STAGES):
                self.symbols[STAGES[stage]] = tuple(name for name in names.replace(b',', b' ').split(b' ') if name)
            data = rest

    def skips(self, command):
        """Whether the milter does not want to hear this command."""
        return bool(self.steps & FLAGS[command][0])

    def silent(self, command):
        """Whether it will not answer it."""
        return bool(self.steps & FLAGS[command][1])

    def macros(self, command, known):
        """The packet that goes before a command; b'' if it would be empty.  known: {name: value}, braces included."""
        pairs = [word for name in self.symbols.get(command, ()) if known.get(name) for word in (name, known[name])]
        return packet(MACRO, command + strings(*pairs)) if pairs else b''

    def value(self, value):
        """A field's value as the milter wants to see it."""
        return value if self.steps & LEADING_SPACE else value.removeprefix(b' ')

    def may(self, letter):
        """Whether this change was negotiated."""
        return bool(self.actions & ACTIONS[letter])


def reply(letter, data):
    """The reply for the SMTP client of an answer that refuses, in one line."""
    if letter == REPLY:
        found = reply_of(data.partition(b'\0')[0])
        if found:
            return found
        letter = TEMPFAIL
    return {REJECT: b'550 5.7.1 a filter rejects this', SHUTDOWN: b'421 4.7.0 closing connection'}.get(
        letter, b'451 4.7.1 a filter asks you to try again later')


def reply_of(words):
    """The reply that a milter made, its lines joined; b'' if it can be none."""
    lines = [line for line in words.replace(b'\r', b'\n').split(b'\n') if line]
    if not lines or len(lines[0]) < 3 or lines[0][:1] not in (b'4', b'5') or not lines[0][:3].isdigit():
        return b''
    code = lines[0][:3]
    said = [line[4:] for line in lines if line[:3] == code]
    first, _, rest = said[0].partition(b' ')
    enhanced = first if first.count(b'.') == 2 and not first.strip(b'0123456789.') else b''
    if enhanced:
        said = [rest, *(line.removeprefix(enhanced + b' ') for line in said[1:])]
    enhanced = enhanced if enhanced[:1] == code[:1] else code[:1] + b'.7.1'
    return text.printable(b'%s %s %s' % (code, enhanced, b' '.join(said) or b'not accepted'))
