"""Mail of those who have logged in (RFC 6409): which senders are theirs, and what a message of theirs must have.

    joe                 joe@DOMAIN, joe-ANYTHING@DOMAIN and joe+ANYTHING@DOMAIN, for each domain in locals,
                        unless that is another user's, as joe-ann's
                        anything@DOMAIN where virtualdomains says DOMAIN:joe or DOMAIN:joe-ANYTHING
    joe@example.org     the same in that domain alone
    control/authsenders joe:ADDRESS, joe:@DOMAIN, joe:* beyond that
    <>                  everybody's: reports and receipts
"""
from qpy.core import address as addresses, header, idna, text, token822

SEPARATORS = b'-+'
ANY = b'*'
HEADER_MAX = 256 << 10      # bytes of a header that is held until it is complete; a longer one is left alone


class Senders:
    """locals: lower-case domains; virtual: {domain, .domain or address: user}; given: [login:sender]; header: From and
    Sender must be theirs, too."""

    __slots__ = ('locals', 'virtual', 'given', 'header')

    def __init__(self, local=(), virtual=None, given=(), header=False):
        self.locals, self.virtual, self.given, self.header = local, virtual or {}, {}, header
        for line in given:
            login, _, sender = text.lower(line).partition(b':')
            self.given.setdefault(login, set()).add(sender)

    def allow(self, login, sender):
        """May he who has logged in so send as this sender?"""
        return self.claim(login, sender) is not None

    def claim(self, login, sender):
        """None: he may not; else the local part, his name with an extension, that must be no other user's (see is_his); b'' if
        there is none."""
        sender, login = text.lower(sender), text.lower(login)
        domain = sender[sender.rfind(b'@') + 1:]
        if not sender or {sender, b'@' + domain, ANY} & self.given.get(login, set()):
            return b''
        local, _ = addresses.split(sender)
        name, at, own = login.rpartition(b'@') if b'@' in login else (login, b'', b'')
        if at:
            return b'' if domain == own and belongs(local, name) else None
        for user in (local if domain in self.locals else None, self.virtual_user(sender, domain)):
            if user is not None and belongs(user, name):
                return user if user != name else b''
        return None

    def virtual_user(self, sender, domain):
        """Whose an address in a virtual domain is; None if it is in none."""
        for key in (sender, domain):
            if key in self.virtual:
                return text.lower(self.virtual[key])
        at = domain.find(b'.')
        while at >= 0:
            if domain[at:] in self.virtual:
                return text.lower(self.virtual[domain[at:]])
            at = domain.find(b'.', at + 1)
        return None


def belongs(local, name):
    """Is this local part the name, or the name with an extension?"""
    return local == name or local.startswith(name) and local[len(name):len(name) + 1] in (b'-', b'+')


def is_his(login, local, user, rest):
    """Is a local part that begins with a login's name his, and not another's whose name is longer?  user, rest: whom qpy-users
    gives it to, and what stands behind that user's own part of it."""
    login = text.lower(login)
    return user == login or len(local) - len(rest) <= len(login)


class Completion:
    """A message on its way: the fields of `wanted`, {lower-case name: field with its line end}, are put on top if its
    header has none of that name.  feed(bytes) -> bytes; finish() -> what is left.  mine(address): may he write that into
    From and Sender?  None: nobody looks.  foreign: the first one there that he may not."""

    __slots__ = ('wanted', 'held', 'mine', 'foreign')

    def __init__(self, wanted, mine=None):
        self.wanted, self.held, self.mine, self.foreign = wanted, b'', mine, b''

    def feed(self, data):
        """What may leave of it."""
        if self.wanted is None:
            return data
        self.held += data
        if self.held[:1] != b'\n' and b'\n\n' not in self.held and len(self.held) <= HEADER_MAX:
            return b''
        return self.finish()

    def finish(self):
        """The header is there, or the message has ended."""
        held, wanted, self.held, self.wanted = self.held, self.wanted, b'', None
        if wanted is None:
            return held
        whole = len(held) <= HEADER_MAX or b'\n\n' in held
        if self.mine is not None:
            self.foreign = foreign(held, self.mine) if whole else UNREADABLE
        if not whole:
            return held
        found, body = names(held)
        missing = b''.join(field for name, field in wanted.items() if name not in found)
        return missing + (b'\n' if body else b'') + held


def foreign(message, mine):
    """The first address in From or Sender that is not his, b'?' if there is none to be read; b'' if all are his."""
    for field in fields(message):
        if header.name(field) in (b'from', b'sender'):
            for address in authors(header.value(field)) or [UNREADABLE]:
                if address in (b'', UNREADABLE) or not mine(address):
                    return address or UNREADABLE
    return b''


def fields(message):
    """The fields before the first empty line, unfolded; a line that is none ends nothing: there are readers who pass over it."""
    found = []
    for line in message.partition(b'\n\n')[0].split(b'\n'):
        if not line:
            break
        if line[:1] in b' \t' and found:
            found[-1].append(line)
        elif header.name(line) is not None:
            found.append([line])
    return [b''.join(lines) for lines in found]


def authors(value):
    """The addresses in a field's value, with their domains as DNS has them; [] if it cannot be read."""
    try:
        found = token822.address_list(token822.parse(value, spaced=True), lambda tokens: tokens)[1]
    except token822.Unparsable:
        return []
    written = [token822.unquote(tokens) for tokens in reversed(found)]
    return [idna.address(address) or address for address in written]


UNREADABLE = b'?'


def names(message):
    """({lower-case name of each field}, whether there is no header at all but something else)."""
    found = set()
    for number, line in enumerate(message.split(b'\n')):
        if not line or line[:1] in b' \t' and found:
            if not line:
                break
            continue
        name, colon, _ = line.partition(b':')
        if not colon or name.rstrip(b' \t').translate(None, TOKEN):
            return found, not found and bool(message)
        found.add(text.lower(name.rstrip(b' \t')))
    return found, False


TOKEN = bytes(byte for byte in range(33, 127) if byte != ord(':'))       # of a field's name (RFC 5322, 3.6.8)


def wanted(date, ident, sender):
    """What a message must have (RFC 6409, 8; RFC 5322, 3.6): date as in header fields, ident: of a Message-ID."""
    found = {b'date': b'Date: %s\n' % date, b'message-id': b'Message-ID: <%s>\n' % ident}
    return {**found, b'from': b'From: <%s>\n' % sender} if sender else found
