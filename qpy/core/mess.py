"""A queue file: the message from byte 0, then its envelope, then a footer of fixed length.

    Received: (qpy 4711 invoked by uid 1000); ...          message, as it is delivered
    ...
    Fsender NUL u1000 NUL ... Trecipient NUL               envelope: records of one letter and a value
    qpy1 0000000000000000523 0000000045 1764036974123456 5f0c7a11 LF

The footer tells the lengths of message and envelope, the ID, and a CRC-32 over the message, the envelope and the
footer up to the CRC.  With the ID inside, stale blocks of an older file never pass for this one.  Every version of
the format ends in 62 bytes that begin with `qpy` and the version; what is newer than this program is not touched.
See qpy-queue-format(5).
"""
from zlib import crc32

FOOTER_SIZE = 62
ADDRESS_LIMIT = 1002            # bytes of the longest address (qmail-queue's)
MESSAGE_LIMIT = 1 << 32         # bytes of a message
ID_SIZE = 16
YEAR_2255 = b'9'                # what sorts behind it is no time of ours: 16 digits that somebody made up
DAY, EARLIEST = 86_400, 1_577_836_800       # seconds; 2020, before which there was no qpy

#: message-wide records, in the order of the manual.  What clients say about the first three is ignored; the
#: next five are believed from the account that hears the network only.
STAMPED = (b'u', b'p', b't')                        # uid, pid, unix time: from the kernel
NETWORK = (b'P', b'C', b'c', b'H', b'L')            # protocol, client ip, client name, HELO, login
WISHES = (b'B', b'U', b'Q', b'R', b'E', b'h', b'b', b'X', b'a', b'D', b'M')
PER_RECIPIENT = (b'N', b'O')                        # NOTIFY, ORCPT


class Damaged(ValueError):
    """These bytes are not a whole queue file (or envelope): torn by a crash, or never one."""


class Newer(ValueError):
    """A queue file of a later version than this program understands: leave it alone."""


# --- IDs -----------------------------------------------------------------------------------------------------

def is_id(name):
    """True if name (bytes) is a canonical ID: 16 decimal digits, before the year 2255."""
    return len(name) == ID_SIZE and name.isdigit() and name < YEAR_2255


def make_id(number):
    """The ID of so many microseconds since 1970; ValueError if it does not fit in 16 digits."""
    ident = b'%016d' % number
    if not is_id(ident):
        raise ValueError(number)
    return ident


def is_likely(when, now):
    """Can the clock have been right that said `when`, if the one is that says `now`?  Not if it was a day ahead, nor if
    it had not been set at all."""
    return when <= now + DAY and (when >= EARLIEST or now < EARLIEST)


def is_dated(ident, now):
    """Does the ID tell when the message was queued, as far as one can see?"""
    return is_likely(int(ident) // 1_000_000, now)


def came(ident, now, born=0):
    """When the message came into this queue, in whole seconds since 1970: as its ID tells, or, where that comes from a
    clock that stood wrong, as its state has noted (born), or now."""
    if is_dated(ident, now):
        return int(ident) // 1_000_000
    return born if born and is_likely(born, now) else int(now)


def arrival(ident, envelope, now, born=0):
    """When it came into a queue: into this one, or, as the record `a` has it, so many seconds earlier into the one it
    was taken over from."""
    age = envelope.option(b'a', b'')
    return came(ident, now, born) - (int(age) if age.isdigit() and len(age) < 10 else 0)


# --- the envelope --------------------------------------------------------------------------------------------

class Envelope:
    """Who sent it, who shall get it, and what was said about it.

    recipients: list of addresses.  options: list of (letter, value), message-wide.  recipient_options: a
    sequence of (letter, value) for each recipient, in the same order.
    """

    __slots__ = ('sender', 'recipients', 'options', 'recipient_options')

    def __init__(self, sender, recipients=(), options=(), recipient_options=None):
        self.sender, self.recipients, self.options = sender, list(recipients), list(options)
        self.recipient_options = list(recipient_options) if recipient_options else [()] * len(self.recipients)

    def option(self, letter, default=None):
        """The value of the first message-wide record with this letter."""
        for known, value in self.options:
            if known == letter:
                return value
        return default

    def recipient_option(self, index, letter, default=None):
        """The value of recipient number index's first record with this letter."""
        for known, value in self.recipient_options[index]:
            if known == letter:
                return value
        return default

    def build(self):
        """The envelope as bytes; parse() gives it back.  ValueError if a value holds NUL or a letter is none."""
        records = [b'F' + self.sender]
        _add(records, self.options)
        for recipient, options in zip(self.recipients, self.recipient_options, strict=True):
            records.append(b'T' + recipient)
            _add(records, options)
        data = b'\0'.join(records)
        if data.count(b'\0') != len(records) - 1:
            raise ValueError('NUL in an envelope')
        return data + b'\0'

    def __eq__(self, other):
        return isinstance(other, Envelope) and self.build() == other.build()


def _add(records, options):
    for letter, value in options:
        if len(letter) != 1 or letter in (b'F', b'T', b'\0'):
            raise ValueError('bad envelope letter %r' % letter)
        records.append(letter + value)


def parse(data):
    """The Envelope in data; Damaged for anything that build() cannot have made."""
    if data[-1:] != b'\0':
        raise Damaged('envelope does not end with NUL')
    records = data.split(b'\0')
    records.pop()
    if records[0][:1] != b'F':
        raise Damaged('envelope does not begin with a sender')
    options, recipients, recipient_options = [], [], []
    target = options
    for record in records[1:]:
        letter = record[:1]
        if letter == b'T':
            recipients.append(record[1:])
            target = None
        elif letter and letter != b'F':
            if target is None:
                recipient_options += [()] * (len(recipients) - 1 - len(recipient_options))
                target = []
                recipient_options.append(target)
            target.append((letter, record[1:]))
        else:
            raise Damaged('a second sender, or an empty record, in an envelope')
    recipient_options += [()] * (len(recipients) - len(recipient_options))
    return Envelope(records[0][1:], recipients, options, recipient_options)


# --- the footer ----------------------------------------------------------------------------------------------

def footer_head(message_size, envelope_size, ident):
    """The footer up to the CRC, which covers these bytes too."""
    return b'qpy1 %019d %010d %b ' % (message_size, envelope_size, ident)


def footer_tail(crc):
    """The rest of the footer."""
    return b'%08x\n' % crc


def pack(message, envelope, ident):
    """A whole queue file, from the bytes of message and envelope."""
    data = b'%b%b%b' % (message, envelope, footer_head(len(message), len(envelope), ident))
    return data + footer_tail(crc32(data))


def parse_footer(line, ident, size):
    """(message size, envelope size, crc) from the last 62 bytes of a file of `size` bytes called ident.

    Newer or Damaged if it is not the footer of such a file.
    """
    if line[:3] == b'qpy' and line[4:5] == b' ' and line[3:4].isdigit() and line[3:4] != b'1':
        raise Newer('queue file of version %s' % line[3:4].decode())
    numbers = (line[5:24], line[25:35], line[36:52])
    if len(line) != FOOTER_SIZE or any(n.strip(b'0123456789') for n in numbers):
        raise Damaged('no footer')
    message_size, envelope_size = int(numbers[0]), int(numbers[1])
    head = footer_head(message_size, envelope_size, ident)
    if line[:len(head)] != head or message_size + envelope_size + FOOTER_SIZE != size:
        raise Damaged('footer of another file')
    crc = line[53:61]
    if line[61:] != b'\n' or crc.strip(b'0123456789abcdef'):
        raise Damaged('broken footer')
    return message_size, envelope_size, int(crc, 16)


def check(pieces, crc):
    """Read all pieces (an iterable of bytes: the file up to its CRC); Damaged if they do not sum up to crc."""
    total = 0
    for piece in pieces:
        total = crc32(piece, total)
    if total != crc:
        raise Damaged('checksum does not match')


def unpack(data, ident):
    """(message, Envelope) of a whole queue file in memory; Damaged or Newer."""
    message_size, envelope_size, crc = parse_footer(data[-FOOTER_SIZE:], ident, len(data))
    check((data[:-9],), crc)
    return data[:message_size], parse(data[message_size:message_size + envelope_size])
