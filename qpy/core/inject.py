"""What qmail-inject makes of a message: a complete header, an envelope sender, envelope recipients.

Pure: the caller brings the fields (core.header), the settings, who the user is, the clock, the process ID and
something unique.  Forms and order are qmail's, see qpy-header(5).

    composer = Composer(settings, identity, letters)
    for field in fields: composer.add(field)
    header = composer.finish(now, pid, unique)          # bytes, without the empty line
    composer.sender, composer.header_recipients()
"""
from qpy.core import address, dates, header, text, token822

LINE_WIDTH = 80

# Which header fields hold addresses, and what these are for.
RECIPIENT, LIST_RECIPIENT, RESENT_RECIPIENT, RETURN, PLAIN = range(5)
ADDRESS_FIELDS = {
    b'to': LIST_RECIPIENT, b'cc': LIST_RECIPIENT, b'bcc': RECIPIENT, b'apparently-to': RECIPIENT,
    b'resent-to': RESENT_RECIPIENT, b'resent-cc': RESENT_RECIPIENT, b'resent-bcc': RESENT_RECIPIENT,
    b'return-path': RETURN,
    b'from': PLAIN, b'sender': PLAIN, b'reply-to': PLAIN, b'return-receipt-to': PLAIN, b'errors-to': PLAIN,
    b'resent-from': PLAIN, b'resent-sender': PLAIN, b'resent-reply-to': PLAIN,
}
REMOVED = frozenset((b'bcc', b'resent-bcc', b'return-path', b'content-length'))
RESENT = frozenset((b'resent-sender', b'resent-from', b'resent-reply-to', b'resent-to', b'resent-cc', b'resent-bcc',
                    b'resent-date', b'resent-message-id'))
NOT_SHOWN = b'Cc: recipient list not shown: ;\n'
PER_RECIPIENT = b'-@[]'             # ends a sender that is expanded for each recipient (VERP)


class Refused(Exception):
    """This message cannot be sent as it is; `why` says it in words, `line` is the field to blame or b''."""

    def __init__(self, why, line=b''):
        super().__init__(why, line)
        self.why, self.line = why, line


# --- settings ------------------------------------------------------------------------------------------------

class Settings:
    """The hosts and domains of control/, or of the environment where that says otherwise, ready to be appended.

    An empty defaultdomain is never appended. is_local(host in lower case): is that a domain of this machine,
    which stays as it is even without a dot?
    """
    __slots__ = ('defaulthost', 'defaultdomain', 'plusdomain', 'idhost', 'is_local', 'host_tokens',
                 'domain_tokens', 'plus_tokens')

    def __init__(self, defaulthost, defaultdomain, plusdomain, idhost, is_local=lambda host: False):
        self.defaulthost, self.defaultdomain = defaulthost, defaultdomain
        self.plusdomain, self.idhost, self.is_local = plusdomain, idhost, is_local
        self.host_tokens = _setting(b'@', defaulthost)
        self.domain_tokens = _setting(b'.', defaultdomain) if defaultdomain else []
        self.plus_tokens = _setting(b'.', plusdomain)


# variable of the environment that overrides, control file
SETTINGS = ((b'QMAILDEFAULTHOST', b'defaulthost'), (b'QMAILDEFAULTDOMAIN', b'defaultdomain'),
            (b'QMAILPLUSDOMAIN', b'plusdomain'), (b'QMAILIDHOST', b'idhost'))


def settings(environ, control_line, is_local):
    """Settings from the environment and control_line(name) -> value; is_local as in Settings."""
    return Settings(*(environ[variable] if variable in environ else control_line(file)
                      for variable, file in SETTINGS), is_local)


def _setting(mark, name):
    try:
        return token822.parse(mark + name)
    except token822.Unparsable:
        raise Refused(b'unable to use ' + name + b' as a host or domain name') from None


class Identity:
    """Who sends: user, host (None: defaulthost), full name (None: none), and the same for the envelope sender."""
    __slots__ = ('user', 'host', 'name', 'sender_user', 'sender_host')

    def __init__(self, user, host=None, name=None, sender_user=None, sender_host=None):
        self.user, self.host, self.name = user, host, name
        self.sender_user = user if sender_user is None else sender_user
        self.sender_host = host if sender_host is None else sender_host


USER = (b'QMAILUSER', b'MAILUSER')
LOGIN = (b'USER', b'LOGNAME')
HOST = (b'QMAILHOST', b'MAILHOST')
NAME = (b'QMAILNAME', b'MAILNAME', b'NAME')
ANONYMOUS = b'anonymous'


def first(environ, names):
    """The value of the first of these variables that is set, or None."""
    for name in names:
        if name in environ:
            return environ[name]
    return None


def identity(environ, login, trust_login_variables):
    """Identity by the environment; login() -> the account's name by its uid, or None if it has none.

    USER and LOGNAME go before the account's name if they are trusted (qmail-inject does), else after it.
    """
    user = first(environ, USER)
    if user is None and trust_login_variables:
        user = first(environ, LOGIN)
    if user is None:
        user = login()
    if user is None:
        user = first(environ, LOGIN)
    return Identity(ANONYMOUS if user is None else user, first(environ, HOST), first(environ, NAME),
                    environ.get(b'QMAILSUSER'), environ.get(b'QMAILSHOST'))


# --- addresses -----------------------------------------------------------------------------------------------

def rewrite(tokens, hosts):
    """qmail's rewriting of one address: route, extra dot, extra @, default host, plus domain, default domain."""
    if not tokens or tokens[-2:] == [token822.AT, (token822.LITERAL, b'')]:
        return tokens
    if tokens[0] == token822.AT:
        tokens = tokens[tokens.index(token822.COLON) + 1:] if token822.COLON in tokens else []
    if tokens and tokens[-1] == token822.DOT:
        tokens = tokens[:-1]
    if tokens and tokens[-1] == token822.AT:
        tokens = tokens[:-1]
    if not tokens:
        return tokens
    if token822.AT not in tokens:
        tokens = tokens + hosts.host_tokens
    kind, value = tokens[-1]
    if kind == token822.ATOM and value.endswith(b'+'):
        tokens = tokens[:-1] + [(token822.ATOM, value[:-1])] + hosts.plus_tokens
    return tokens if _is_whole(tokens, hosts) else tokens + hosts.domain_tokens


def _is_whole(tokens, hosts):
    """Whether nothing is to be added to the host of an address: it has a dot, is a literal, or is this machine.

    localhost is nobody else's name either (RFC 6761 section 6.3).
    """
    at = len(tokens)
    while at and tokens[at - 1] != token822.AT:
        at -= 1
        if tokens[at] == token822.DOT or tokens[at][0] == token822.LITERAL:
            return True
    host = text.lower(token822.unquote(tokens[at:]))
    return host == b'localhost' or hosts.is_local(host)


def whole(tokens, hosts):
    """The address, rewritten.  Refused if no local part is left: that would drop it in silence, or name nobody."""
    found = rewrite(tokens, hosts)
    if tokens and not address.split(token822.unquote(found))[0]:
        raise Refused(b'address without a local part: ' + text.printable(token822.written(tokens)))
    return found


def envelope_address(tokens):
    """An address for the envelope.  Refused if it holds what no envelope may (RFC 5321 section 4.1.2)."""
    found = token822.unquote(tokens)
    if b'\0' in found or b'\r' in found or b'\n' in found:
        raise Refused(b'address with a control character: ' + text.printable(found))
    return found


def envelope_form(raw, hosts):
    """The envelope form of an unquoted address, as inject's arguments are: Refused if it is nonsense."""
    if not raw:
        return raw
    try:
        tokens = token822.parse(address.quote(raw if b'@' in raw else raw + b'@' + hosts.defaulthost))
    except token822.Unparsable:
        raise Refused(b'unable to parse address: ' + text.printable(raw)) from None
    return envelope_address(whole(tokens, hosts))


def listed(words, hosts):
    """The envelope addresses in an address list (RFC 5322 section 3.4), left to right, empty ones dropped."""
    try:
        tokens = token822.parse(words)
        found = token822.address_list(tokens, lambda each: whole(each, hosts))[1]
    except token822.Unparsable:
        raise Refused(b'unable to parse address: ' + text.printable(words)) from None
    return [each for each in map(envelope_address, reversed(found)) if each]


def sender_argument(words, hosts):
    """The envelope sender that -f names: '' and <> are the empty one; <a@b>, Joe <a@b> and "a b"@c are understood."""
    if not words.strip(b' ') or words == b'<>':
        return b''
    if words.endswith(b'>') or words.startswith(b'"') and b'"@' in words:
        found = listed(words, hosts)
        if len(found) <= 1:
            return found[0] if found else b''
    return envelope_form(words, hosts)


# --- the header ----------------------------------------------------------------------------------------------

class Composer:
    """Takes the fields of a header one by one; afterwards gives the new header and the envelope.

    letters: the value of $QMAILINJECT.  strict: an unparsable From, Reply-To and the like is Refused, as in qmail;
    otherwise it stays as it is.  wants_recipients: those of the header are asked for, so that a field of theirs
    that cannot be parsed is Refused (when it is known which set counts); otherwise it stays as it is.
    list_addresses: lower-case addresses of mailing lists, for Mail-Followup-To.
    """
    __slots__ = ('settings', 'identity', 'letters', 'strict', 'wants_recipients', 'list_addresses', 'sender',
                 'seen', 'fields', 'recipients', 'list_recipients', 'resent_recipients', 'broken', 'broken_resent')

    def __init__(self, settings, identity, letters=b'', sender=None, strict=True, wants_recipients=True,
                 list_addresses=()):
        self.settings, self.identity, self.letters, self.sender = settings, identity, letters, sender
        self.strict, self.wants_recipients, self.list_addresses = strict, wants_recipients, list_addresses
        self.seen, self.fields = set(), []
        self.recipients, self.list_recipients, self.resent_recipients = [], [], []
        self.broken = self.broken_resent = None

    def add(self, field):
        """Take one field, ending in LF."""
        name = header.name(field)
        if name == b'from' and b'f' in self.letters or name == b'message-id' and b'i' in self.letters \
                or name == b'return-path' and b's' in self.letters:
            return
        self.seen.add(name)
        use = ADDRESS_FIELDS.get(name)
        if use is not None:
            field = self._with_addresses(field, use)
        if name not in REMOVED:
            self.fields.append(field)

    def _with_addresses(self, field, use):
        """The field with its addresses rewritten, after these have gone where `use` says."""
        try:
            tokens, found = token822.address_list(token822.parse(header.value(field), spaced=True), self._whole)
        except token822.Unparsable:
            return self._kept(field, use, Refused(b'unable to parse this line:', field))
        except Refused as refused:
            return self._kept(field, use, refused)
        if use == RETURN:
            self._return_path(found)
        elif use != PLAIN:
            self._collect(map(envelope_address, found), use)
        return token822.unparse(header.written_name(field), tokens, LINE_WIDTH)

    def _whole(self, tokens):
        return whole(tokens, self.settings)

    def _return_path(self, found):
        """A Return-Path field names the sender unless the caller did."""
        if found and self.sender is None:
            self.sender = envelope_address(found[0])
            if b'r' in self.letters:
                self.sender += PER_RECIPIENT

    def _collect(self, found, use):
        found = [each for each in found if each]
        if use == RESENT_RECIPIENT:
            self.resent_recipients += found
            return
        self.recipients += found
        if use == LIST_RECIPIENT:
            self.list_recipients += found

    def _kept(self, field, use, refused):
        """An address field that has no meaning: refused now, or later, or left as it is."""
        if use in (RETURN, PLAIN):
            if self.strict:
                raise refused
        elif use == RESENT_RECIPIENT:
            self.broken_resent = self.broken_resent or refused
        else:
            self.broken = self.broken or refused
        return field

    # --- afterwards ---

    def is_resent(self):
        """Whether the message is one that was sent before (RFC 5322 section 3.6.6)."""
        return not RESENT.isdisjoint(self.seen)

    def header_recipients(self):
        """The recipients that the header names: of the Resent- fields if there are any."""
        return self.resent_recipients if self.is_resent() else self.recipients

    def finish(self, now, pid, unique):
        """The new header.  Refused if it should name recipients and a field of them cannot be parsed."""
        resent = self.is_resent()
        broken = self.broken_resent if resent else self.broken
        if broken and self.wants_recipients:
            raise broken
        if self.sender is None:
            self.sender = self._default_sender(now, pid)
        prefix, low = (b'Resent-', b'resent-') if resent else (b'', b'')
        new = [prefix + field for field in self._missing(low, now, pid, unique)]
        if not resent:
            new += self._followup()
        return b''.join(new + self.fields)

    def _missing(self, low, now, pid, unique):
        """The fields a message must have and this one has not, in qmail's order."""
        if low + b'date' not in self.seen:
            yield b'Date: %s\n' % dates.header_date(now)
        if low + b'message-id' not in self.seen:
            yield b'Message-ID: <%s.%d.%s.qpy@%s>\n' % (dates.stamp(now), pid, unique, self.settings.idhost)
        if low + b'from' not in self.seen:
            yield self._default_from()
        if low + b'to' not in self.seen and low + b'cc' not in self.seen:
            yield NOT_SHOWN

    def _own_address(self, user, host):
        """The rewritten tokens of user@host."""
        own = user + b'@' + (self.settings.defaulthost if host is None else host)
        try:
            return rewrite(token822.parse(address.quote(own)), self.settings)
        except token822.Unparsable:
            raise Refused(b'unable to parse address: ' + text.printable(own)) from None

    def _default_from(self):
        """`From: "Name" <user@host>`, or with QMAILINJECT=c `From: user@host (Name)`."""
        tokens, name = self._own_address(self.identity.user, self.identity.host), self.identity.name
        if name is not None:
            name = name.translate(_ONE_LINE)
            if b'c' in self.letters:
                tokens = tokens + [(token822.COMMENT, name)]
            else:
                tokens = [(token822.QUOTE, name), token822.LEFT, *tokens, token822.RIGHT]
        return token822.unparse(b'From', tokens, LINE_WIDTH)

    def _default_sender(self, now, pid):
        """user@host, made unique for this message (letter m) and expandable for each recipient (letter r)."""
        user, verp = self.identity.sender_user, b'r' in self.letters
        if b'm' in self.letters:
            user += b'-%d.%d' % (now, pid)
        if verp:
            user += b'-'
        return envelope_address(self._own_address(user, self.identity.sender_host)) + (PER_RECIPIENT if verp else b'')

    def _followup(self):
        """Mail-Followup-To, if the message goes to one of the user's mailing lists."""
        if b'mail-followup-to' in self.seen:
            return []
        if not any(text.lower(each) in self.list_addresses for each in self.list_recipients):
            return []
        return [b'Mail-Followup-To: %s\n' % b',\n  '.join(map(address.quote, reversed(self.list_recipients)))]


_ONE_LINE = bytes(32 if c in b'\0\r\n' else c for c in range(256))


def return_path(sender):
    """The line that shows the envelope sender."""
    return b'Return-Path: <%s>\n' % address.quote(sender)


# --- the body ------------------------------------------------------------------------------------------------

class Body:
    """Bytes in, lines out: CR LF and CR CR LF become LF, and so does a CR alone; the last line gets its end.

    feed(data) -> bytes; end() -> the bytes that are still due.  Stored mail holds no CR.
    """
    __slots__ = ('_held', '_open')

    def __init__(self):
        self._held, self._open = 0, False           # CRs at the end of what came; whether its last line is open

    def feed(self, data):
        data = b'\r' * self._held + data
        kept = data.rstrip(b'\r')
        self._held = len(data) - len(kept)
        if b'\r' in kept:
            kept = b'\n'.join(line.rstrip(b'\r').replace(b'\r', b'\n') for line in kept.split(b'\n'))
        if kept:
            self._open = not kept.endswith(b'\n')
        return kept

    def end(self):
        return b'\n' if self._open or self._held else b''
