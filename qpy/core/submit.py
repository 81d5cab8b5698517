r"""The submit channel: how a message comes to queued, as bytes on a stream.

    client: \x01                                        once per connection
    client: (4-byte length, bytes)* \0\0\0\0            the message, in frames
            (record NUL)* NUL                           the envelope (core.mess), closed by an empty record
    queued: K ID NUL                                    it is durable in the queue
        or  code SP sentence NUL                        one of qmail-queue's exit codes, and why

The next message may follow at once, without waiting for the answer; answers come in order.  A length of
\xff\xff\xff\xff abandons the message begun: it is forgotten and not answered.  End of file is never success.
"""
from qpy.core import exits, mess, text

VERSION = b'\x01'
END = b'\0\0\0\0'
ABANDON = b'\xff\xff\xff\xff'
FRAME_LIMIT = 1 << 30               # bytes of one frame
ENVELOPE_LIMIT = 24 << 20           # bytes of all records of one message
RECIPIENT_LIMIT = 131_072
RECORD_LIMIT = 400_000
VALUE_LIMIT = 1002                  # bytes of one value
ANSWER_LIMIT = 2000                 # bytes of one answer


class Refused(Exception):
    """queued's no: an exit code of qmail-queue and a sentence (None: the code's own)."""

    def __init__(self, code, sentence=None):
        super().__init__(code, sentence)
        self.code, self.sentence = code, sentence


# --- the client's side ---------------------------------------------------------------------------------------

def frame(data):
    """A piece of the message, not empty, as the channel carries it."""
    return b'%b%b' % (len(data).to_bytes(4, 'big'), data)


def envelope(sender, recipients, options=(), recipient_options=None):
    """The records and their end.  ValueError as mess.Envelope.build."""
    return mess.Envelope(sender, recipients, options, recipient_options).build() + b'\0'


class Answers:
    """What queued says, from bytes to values."""

    __slots__ = ('rest',)

    def __init__(self):
        self.rest = b''

    def feed(self, data):
        """[(code, text)]: (0, ID), or a code of qmail-queue and its text with Z or D in front.

        What is no answer counts as (74, communication failed): never as success.
        """
        pieces = (self.rest + data).split(b'\0')
        self.rest = pieces.pop()
        found = [_answer(piece) for piece in pieces]
        if len(self.rest) > ANSWER_LIMIT:
            self.rest = b''
            found.append(BROKEN)
        return found


BROKEN = exits.QQ_CONNECTION_FAILED, exits.queue_text(exits.QQ_CONNECTION_FAILED)


def _answer(piece):
    if piece[:1] == b'K' and mess.is_id(piece[1:]):
        return 0, piece[1:]
    digits, _, sentence = piece.partition(b' ')
    code = text.parse_uint(digits, 255)
    if not code or not sentence:
        return BROKEN
    known = exits.queue_text(code)
    return code, (b'D' if known[:1] == b'D' else b'Z') + sentence


# --- the server's side ---------------------------------------------------------------------------------------

def accepted(ident):
    """The answer to a message that is durable."""
    return b'K%b\0' % ident


def refusal(code, sentence=None):
    """The answer to a message that is not queued."""
    return b'%d %b\0' % (code, sentence or exits.queue_text(code)[1:])


BODY, MESSAGE, ABANDONED, BROKE = range(4)
_VERSION, _LENGTH, _FRAME, _ENVELOPE, _SKIP, _STOP = range(6)


class Receiver:
    """queued's ear for one connection: bytes in, events out.  It never keeps more than one envelope.

    (BODY, piece)           a piece of the message, as it came
    (MESSAGE, records)      its whole envelope: the message is complete
    (MESSAGE, None)         as before, but the envelope was longer than ENVELOPE_LIMIT and was skipped
    (ABANDONED, None)       forget the message
    (BROKE, None)           this is not our protocol: no further events will come
    """

    __slots__ = ('state', 'rest', 'left', 'records')

    def __init__(self):
        self.state, self.rest, self.left, self.records = _VERSION, b'', 0, None

    def inside(self):
        """True in the middle of a message."""
        return self.state not in (_VERSION, _LENGTH) or bool(self.rest) or self.left < 0

    def held(self):
        """Bytes of envelope in memory."""
        return len(self.records) if self.records else 0

    def feed(self, data):
        """The events in the next bytes of the connection."""
        if self.rest:
            data, self.rest = self.rest + data, b''
        events, at, size = [], 0, len(data)
        while at < size:
            at = _STEPS[self.state](self, data, at, size, events)
        return events

    def _version(self, data, at, size, events):
        if data[at] != VERSION[0]:
            return self._broken(size, events)
        self.state = _LENGTH
        return at + 1

    def _length(self, data, at, size, events):
        if size - at < 4:
            self.rest = data[at:]
            return size
        head = data[at:at + 4]
        length = int.from_bytes(head, 'big')
        if length == 0:
            self.state, self.left = _ENVELOPE, 0
        elif length <= FRAME_LIMIT:
            self.state, self.left = _FRAME, length
        elif head == ABANDON:
            self.left = 0
            events.append((ABANDONED, None))
        else:
            return self._broken(size, events)
        return at + 4

    def _frame(self, data, at, size, events):
        piece = data[at:at + self.left]
        self.left -= len(piece)
        events.append((BODY, piece))
        if not self.left:
            self.state, self.left = _LENGTH, -1         # -1: inside a message, between frames
        return at + len(piece)

    def _envelope(self, data, at, size, events):
        records = self.records
        if records is None and data[at] == 0:
            return self._complete(b'', at + 1, events)
        if records is None:
            found = data.find(b'\0\0', at)
            if found >= 0:
                return self._complete(data[at:found + 1], found + 2, events)
            records = self.records = bytearray(data[at:])
        else:
            start = len(records) - 1
            records += data[at:]
            found = records.find(b'\0\0', start)
            if found >= 0:
                return self._complete(bytes(records[:found + 1]), size - (len(records) - found - 2), events)
        if len(records) > ENVELOPE_LIMIT:
            self.state, self.rest, self.records = _SKIP, bytes(records[-1:]), None
        return size

    def _complete(self, records, at, events):
        events.append((MESSAGE, records if records is None or len(records) <= ENVELOPE_LIMIT else None))
        self.state, self.records = _LENGTH, None
        return at

    def _skip(self, data, at, size, events):
        found = data.find(b'\0\0', at)
        if found < 0:
            self.rest = data[-1:] if data[-1] == 0 else b''
            return size
        return self._complete(None, found + 2, events)

    def _stop(self, data, at, size, events):
        return size

    def _broken(self, size, events):
        self.state = _STOP
        events.append((BROKE, None))
        return size


_STEPS = (Receiver._version, Receiver._length, Receiver._frame, Receiver._envelope, Receiver._skip, Receiver._stop)


# --- the envelope at the door --------------------------------------------------------------------------------

_DROPPED, _NETWORK, _WISH, _RECIPIENT, _PERSONAL, _FREE, _WRONG = range(7)
_KINDS = dict.fromkeys((b'%c' % c for c in b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'), _FREE)
_KINDS.update(dict.fromkeys(mess.STAMPED, _DROPPED))
_KINDS.update(dict.fromkeys(mess.NETWORK, _NETWORK))
_KINDS.update(dict.fromkeys(mess.WISHES, _WISH))
_KINDS.update(dict.fromkeys(mess.PER_RECIPIENT, _PERSONAL))
_KINDS.update({b'F': _WRONG, b'T': _RECIPIENT})


def admit(raw, believed, stamp):
    """The envelope to be stored, from a client's records; Refused if there is anything wrong with them.

    raw: the records of a MESSAGE event.  believed: the client may say who its own client is.  stamp: the records
    that the kernel's word about the client makes, ready to be stored behind the sender.
    """
    if raw is None:
        raise Refused(exits.QQ_REFUSED, b'envelope too large (#5.5.3)')
    records = raw.split(b'\0')
    if records.pop() or not records or records[0][:1] != b'F':
        raise Refused(exits.QQ_ENVELOPE)
    _check_sizes(raw, records)
    kept = [records[0], stamp]
    recipients = 0
    for record in records[1:]:
        kind = _KINDS.get(record[:1], _WRONG)
        if kind == _RECIPIENT:
            recipients += 1
        elif kind == _WRONG or (recipients and kind in (_NETWORK, _WISH)) or (kind == _PERSONAL and not recipients):
            raise Refused(exits.QQ_ENVELOPE)
        elif kind == _DROPPED or kind == _NETWORK and not believed:
            continue
        kept.append(record)
    if not recipients and len(records) > 1:         # qmail's empty list of recipients has nothing else either
        raise Refused(exits.QQ_ENVELOPE)
    if recipients > RECIPIENT_LIMIT:
        raise Refused(exits.QQ_REFUSED, b'too many recipients (#5.5.3)')
    kept.append(b'')
    return b'\0'.join(kept)


def _check_sizes(raw, records):
    if len(max(records, key=len)) > VALUE_LIMIT + 1:
        if any(len(record) > mess.ADDRESS_LIMIT + 1 and record[:1] in (b'F', b'T') for record in records):
            raise Refused(exits.QQ_ADDRESS_TOO_LONG)
        raise Refused(exits.QQ_ENVELOPE)
    if len(records) > RECORD_LIMIT:
        raise Refused(exits.QQ_REFUSED, b'too many records in the envelope (#5.5.3)')
    if b'\n' in raw or b'\r' in raw:
        raise Refused(exits.QQ_REFUSED, b'line break in an envelope address (#5.1.3)')


def stamp(uid, pid, now):
    """The records that tell who submitted: from the kernel, never from the client."""
    return b'u%d\0p%d\0t%d' % (uid, pid, now)
