"""A message that filters may change before it is queued: its envelope and its header.  Pure; the body is elsewhere.

    draft = Draft(envelope, head)       head: the stored bytes of the header, our own fields first
    draft.change(letter, data)          as a milter says it (core.milter); returns what was done, for the log
    draft.head()                        the stored bytes of the header now

Our own fields are those down to the first Received field.  Filters do not see them; where they count positions these are
number 0.  What they add can neither begin a new line nor end the header.
"""
from qpy.core import address, milter, text

NAME_BYTES = frozenset(range(33, 127)) - {58}
HEADER_LIMIT = 1 << 20      # bytes of a header that filters are shown
VALUE_LIMIT = 65535
RECIPIENTS_MOST = 10_000    # that filters may add up to


class Draft:
    """envelope: core.mess.Envelope; fields: [(name, value)], value with its leading space and its folded lines; hold:
    the reason of a quarantine, or b''; changed: whether the header is another one."""

    __slots__ = ('envelope', 'fields', 'hold', 'changed', 'own')

    def __init__(self, envelope, head):
        self.envelope, self.fields, self.hold, self.changed = envelope, parse_fields(head), b'', False
        names = [text.lower(name) for name, _ in self.fields]
        self.own = names.index(b'received') + 1 if b'received' in names else 0      # how many are ours

    def visible(self):
        """The fields that filters see."""
        return self.fields[self.own:]

    def head(self):
        """The stored form."""
        return b''.join(b'%s:%s\n' % field for field in self.fields)

    def change(self, letter, data):
        """Do what a filter wants.  ValueError if it makes no sense."""
        return CHANGES[letter](self, data)

    # --- the header ---

    def add_header(self, data):
        """At the end."""
        name, value = field(data)
        self.changed = True
        self.fields.append((name, value))
        return b'adds ' + name

    def insert_header(self, data):
        """At a position: 0 is the top, 1 is below our own fields."""
        position = int.from_bytes(data[:4], 'big')
        position += self.own - 1 if position else 0
        name, value = field(data[4:])
        self.changed = True
        self.fields.insert(min(position, len(self.fields)), (name, value))
        self.own += position < self.own
        return b'inserts ' + name

    def change_header(self, data):
        """The n-th field of a name, from 1; without a value it goes; if it is not there it is added."""
        number, (name, value) = int.from_bytes(data[:4], 'big') or 1, field(data[4:])
        places = [n for n, (known, _) in enumerate(self.fields) if n >= self.own and text.lower(known) == text.lower(name)]
        place = places[number - 1] if number <= len(places) else None
        self.changed = True
        if not value.strip(b' '):
            if place is not None:
                del self.fields[place]
            return b'removes ' + name
        if place is None:
            self.fields.append((name, value))
        else:
            self.fields[place] = self.fields[place][0], value
        return b'changes ' + name

    # --- the envelope ---

    def add_recipient(self, data):
        """One more; ESMTP parameters are not taken."""
        recipient = parse_address(data)
        if len(self.envelope.recipients) >= RECIPIENTS_MOST:
            raise ValueError('too many recipients')
        if recipient not in self.envelope.recipients:
            self.envelope.recipients.append(recipient)
            self.envelope.recipient_options.append(())
        return b'adds recipient <%s>' % recipient

    def delete_recipient(self, data):
        """One less, however often it stands there."""
        recipient, envelope = parse_address(data), self.envelope
        kept = [(r, options) for r, options in zip(envelope.recipients, envelope.recipient_options) if r != recipient]
        envelope.recipients = [r for r, _ in kept]
        envelope.recipient_options = [options for _, options in kept]
        return b'removes recipient <%s>' % recipient

    def change_sender(self, data):
        """Another sender; ESMTP parameters are not taken."""
        self.envelope.sender = parse_address(data, True)
        return b'changes the sender to <%s>' % self.envelope.sender

    def quarantine(self, data):
        """Held in the queue."""
        self.hold = text.printable(data.partition(b'\0')[0][:200]) or b'quarantined'
        return b'quarantines: ' + self.hold


CHANGES = {milter.ADD_HEADER: Draft.add_header, milter.INSERT_HEADER: Draft.insert_header,
           milter.CHANGE_HEADER: Draft.change_header, milter.ADD_RCPT: Draft.add_recipient,
           milter.ADD_RCPT_PARAMETERS: Draft.add_recipient, milter.DELETE_RCPT: Draft.delete_recipient,
           milter.CHANGE_FROM: Draft.change_sender, milter.QUARANTINE: Draft.quarantine}


def field(data):
    """(name, value) of `name NUL value NUL`, made safe.  ValueError."""
    name, end, rest = data.partition(b'\0')
    value, end_of_value, _ = rest.partition(b'\0')
    if not end or not end_of_value or not name or not NAME_BYTES.issuperset(name):
        raise ValueError('a header field without a name')
    if len(value) > VALUE_LIMIT:
        raise ValueError('a header field that is too long')
    lines = value.replace(b'\r\n', b'\n').replace(b'\r', b'\n').strip(b'\n').split(b'\n')
    lines = lines[:1] + [line if line[:1] in (b' ', b'\t') else b'\t' + line for line in lines[1:]
                         if line.strip(b' \t')]
    return name, (b'' if lines[0][:1] in (b' ', b'\t') else b' ') + b'\n'.join(lines)


def parse_address(data, sender=False):
    """The address of `<address> NUL ...`; ValueError."""
    words = data.partition(b'\0')[0].strip(b' ')
    words = words if words[:1] == b'<' else b'<%s>' % words
    try:
        found, rest = address.parse_path(words)
    except address.AddressError:
        raise ValueError('an address that is none') from None
    if rest or not found and not sender:
        raise ValueError('an address that is none')
    return found


def parse_fields(head):
    """[(name, value)] of the stored bytes of a header, as split() gives them."""
    fields = []
    for line in head.split(b'\n')[:-1]:
        if line[:1] in (b' ', b'\t') and fields:
            fields[-1][1] += b'\n' + line
        else:
            name, _, value = line.partition(b':')
            fields.append([name, value])
    return [tuple(pair) for pair in fields]


def split(data):
    """(bytes of the header, whether an empty line follows it) at the beginning of a stored message; None: more than
    data is needed to tell.  What is no field ends the header, as an empty line does."""
    at = 0
    while True:
        end = data.find(b'\n', at)
        if end < 0:
            return None
        line = data[at:end]
        if not line:
            return at, True
        if not (line[:1] in (b' ', b'\t') and at) and not is_field(line):
            return at, False
        at = end + 1


def is_field(line):
    """Does this line begin a field?"""
    name, colon, _ = line.partition(b':')
    return bool(colon) and bool(name) and NAME_BYTES.issuperset(name.rstrip(b' \t'))


class Unfolded:
    """CR LF of a replaced body as LF; a CR alone becomes one too: feed(data) -> stored bytes, then end()."""

    __slots__ = ('held',)

    def __init__(self):
        self.held = b''

    def feed(self, data):
        """A piece."""
        data = self.held + data
        self.held = b'\r' if data[-1:] == b'\r' else b''
        data = data[:len(data) - len(self.held)]
        return data.replace(b'\r\n', b'\n').replace(b'\r', b'\n').replace(b'\0', b'?')

    def end(self):
        """The end."""
        held, self.held = self.held, b''
        return b'\n' if held else b''
