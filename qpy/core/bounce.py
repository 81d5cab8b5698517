"""What a sender is told when his message could not be delivered.

Two forms (control/bounceformat).  `qsbmf` is qmail's, plain text (https://cr.yp.to/proto/qsbmf.txt).
`rfc3464` is a multipart/report whose first part is the same text, so that whatever reads qmail's bounces
reads these: its parser skips the paragraph that begins with `--`, finds `Hi. This is the`, then paragraphs
that begin with `<`, until one begins with `-`.  Second part: the same for machines (RFC 3464); third: the
message, or its header.

A report is (head, how much of the original, tail): the original itself passes through in pieces.
"""
from qpy.core import address, dates, route
from qpy.core.text import printable

INTRO = (b"Hi. This is the qmail-send program at %s.\n"
         b"I'm afraid I wasn't able to deliver your message to the following addresses.\n"
         b"This is a permanent error; I've given up. Sorry it didn't work out.\n\n")
DOUBLE_INTRO = (b"Hi. This is the qmail-send program at %s.\n"
                b"I tried to deliver a bounce message to this address, but the bounce bounced!\n\n")
COPY = b'--- Below this line is a copy of the message.\n\n'
DOUBLE_COPY = b'--- Below this line is the original bounce.\n\n'
EIGHT_BIT = b'Content-Transfer-Encoding: 8bit\n'
STRIPPED = b'\n\n--- End of message stripped.\n'

TRIPLE = b'#@[]'            # sender of a double bounce; what it cannot be delivered to is dropped
LINE = 900                  # bytes of the longest line of a report (RFC 5322 section 2.1.1: 998)
DIAGNOSTIC = 600            # bytes of text in a Diagnostic-Code
HEADER_LIMIT = 65536        # bytes of header in a report that returns no more

WHOLE, HEADER = 'whole', 'header'       # how much of the original follows; a number is so many bytes


class Settings:
    """Control files: form b'rfc3464' or b'qsbmf'; the address bounces come from; where double ones go; most
    bytes.
    """

    __slots__ = ('form', 'user', 'host', 'double_user', 'double_host', 'most')

    def __init__(self, form=b'rfc3464', user=b'MAILER-DAEMON', host=b'bouncehost', double_user=b'postmaster',
                 double_host=b'doublebouncehost', most=0):
        self.form, self.user, self.host = form, user, host
        self.double_user, self.double_host, self.most = double_user, double_host, most


class Failure:
    """One recipient: as the sender wrote it (without a virtual domain's prefix), what was said, DSN
    parameters.
    """

    __slots__ = ('recipient', 'text', 'orcpt', 'last')

    def __init__(self, recipient, text, orcpt=None, last=None):
        self.recipient, self.text, self.orcpt, self.last = recipient, text, orcpt, last


class Original:
    """The message that failed: its ID, envelope sender, size, arrival (unix time), RET, ENVID; is it 8-bit?
    """

    __slots__ = ('name', 'sender', 'size', 'arrived', 'ret', 'envid', 'eight_bit')

    def __init__(self, name, sender, size, arrived, ret=None, envid=None, eight_bit=False):
        self.name, self.sender, self.size, self.arrived = name, sender, size, arrived
        self.ret, self.envid, self.eight_bit = ret, envid, eight_bit


# --- whom to tell ---------------------------------------------------------------------------------

def wanted(notify):
    """Does the sender want to know of this failure?  notify: the NOTIFY parameter of RFC 3461, None if
    absent.
    """
    return notify is None or b'FAILURE' in notify.upper().split(b',')


def envelope(sender, settings):
    """(sender, recipient) of the report on a message from `sender`; None if nobody is to be told.

    A failed bounce goes to the postmaster, a failure of that to nobody (qmail-send.c, injectbounce).
    """
    if sender == TRIPLE:
        return None
    if sender:
        return b'', route.bounce_recipient(sender)
    if not settings.double_user:
        return None
    return TRIPLE, settings.double_user + b'@' + settings.double_host


# --- the report -----------------------------------------------------------------------------------

def compose(original, failures, settings, now, token):
    """(head, how much of the original, tail).  now: unix time; token: bytes nobody can foretell, for the
    boundary.
    """
    if settings.form == b'qsbmf':
        return _plain(original, failures, settings, now, token)
    return _report(original, failures, settings, now, token)


def eight_bit(failures):
    """Will the text of the report hold more than ASCII, whatever the original holds?"""
    return not all((failure.recipient + failure.text).isascii() for failure in failures)


def _head(original, settings, now, token):
    to = envelope(original.sender, settings)[1]
    return (b'Date: %s\nFrom: %s\nTo: %s\nSubject: failure notice\nMessage-ID: <%s.%s@%s>\n'
            b'Auto-Submitted: auto-replied\n'
            % (dates.header_date(now), address.quote(settings.user + b'@' + settings.host), address.quote(to),
               original.name, token, settings.host))


def words(original, failures, settings):
    """The text of both forms: the introduction and a paragraph per recipient, each ended by an empty line."""
    intro = INTRO if original.sender else DOUBLE_INTRO
    return intro % settings.host + b''.join([paragraph(each.recipient, each.text) for each in failures])


def _plain(original, failures, settings, now, token):
    most = settings.most
    cut = bool(most) and original.size > most
    head = _head(original, settings, now, token)
    if original.eight_bit or eight_bit(failures):
        head += b'MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n' + EIGHT_BIT
    return (head + b'\n' + words(original, failures, settings) + (COPY if original.sender else DOUBLE_COPY)
            + _return_path(original), most if cut else WHOLE, STRIPPED if cut else b'')


def _return_path(original):
    return b'Return-Path: <%s>\n' % line_safe(address.quote(original.sender))


def _report(original, failures, settings, now, token):
    boundary = b'%s.%s/qpy' % (original.name, token)
    header_only = original.ret == b'HDRS' or settings.most and original.size > settings.most
    eight = original.eight_bit or eight_bit(failures)
    encoding = EIGHT_BIT if eight else b''
    head = (_head(original, settings, now, token)
            + b'MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status;\n'
              b'\tboundary="%s"\n%s\n' % (boundary, encoding))
    text_type = b'utf-8\n' + EIGHT_BIT if eight_bit(failures) else b'us-ascii\n'
    text = b'--%s\nContent-Type: text/plain; charset=%s\n%s' % (boundary, text_type,
                                                               words(original, failures, settings))
    machine = b'--%s\nContent-Type: message/delivery-status\n\n%s\n' % (boundary,
                                                                        status(original, failures, settings))
    copy = b'--%s\nContent-Type: %s\n%s\n' % (boundary,
                                              b'text/rfc822-headers' if header_only else b'message/rfc822',
                                              EIGHT_BIT if original.eight_bit else b'')
    return (head + text + machine + copy + _return_path(original), HEADER if header_only else WHOLE,
            b'\n--%s--\n' % boundary)


# --- for people -----------------------------------------------------------------------------------

def paragraph(recipient, text):
    """One recipient's paragraph: no empty line in it and one after it (qmail-send.c, addbounce)."""
    lines = shown(text).split(b'\n')
    if lines and not lines[-1]:
        lines.pop()
    body = b'<' + line_safe(recipient) + b'>:'
    before = body
    for line in lines:
        body += (b'/' if before == b'' else b'\n') + line
        before = line
    return body + b'\n\n'


def shown(text):
    """A report as it may stand in a mail: text lines, UTF-8 or ASCII, none too long."""
    text = text.replace(b'\r\n', b'\n')
    try:
        text.decode('utf-8')
        text = text.translate(_CONTROLS)
    except UnicodeDecodeError:
        text = b'\n'.join(map(printable, text.split(b'\n')))
    return b'\n'.join([piece for line in text.split(b'\n') for piece in folded(line)])


def folded(line):
    """A line in pieces of at most LINE bytes, cut at a blank if there is one, and never inside a character.
    """
    while len(line) > LINE:
        at = line.rfind(b' ', LINE // 2, LINE)
        if at < 0:
            at = LINE
            while 0x80 <= line[at] < 0xc0:
                at -= 1
        yield line[:at]
        line = line[at:]
    yield line


_CONTROLS = bytes(c if c >= 32 and c != 127 or c in b'\n\t' else ord('?') for c in range(256))


def line_safe(value):
    """An address as it may stand in a line: no control characters, UTF-8 or ASCII."""
    try:
        value.decode('utf-8')
    except UnicodeDecodeError:
        return printable(value)
    return value.translate(_CONTROLS).replace(b'\n', b'_').replace(b'\t', b'_')


# --- for machines (RFC 3464) ----------------------------------------------------------------------

def status(original, failures, settings):
    """The body of message/delivery-status: fields for the message, then a group of them for each recipient.
    """
    groups = [b'Reporting-MTA: dns; %s\n' % settings.host]
    if original.envid:
        groups[0] += b'Original-Envelope-Id: %s\n' % line_safe(from_xtext(original.envid))
    groups[0] += b'X-Qpy-Queue-ID: %s\nArrival-Date: %s\n' % (original.name, mail_date(original.arrived))
    return b'\n'.join(groups + [_recipient_fields(failure) for failure in failures])


def _recipient_fields(failure):
    kind, _, original = (failure.orcpt or b'').partition(b';')
    lines = b''
    if original:
        lines = b'Original-Recipient: %s; %s\n' % (printable(kind), line_safe(from_xtext(original)))
    lines += b'Final-Recipient: %s\nAction: failed\nStatus: %s\n' % (typed(failure.recipient),
                                                                    enhanced_code(failure.text))
    diagnostic = _diagnostic(failure.text)
    if diagnostic:
        lines += b'Diagnostic-Code: ' + diagnostic + b'\n'
    if failure.last:
        lines += b'Last-Attempt-Date: %s\n' % mail_date(failure.last)
    return lines


def mail_date(when):
    """A date in a field of RFC 3464."""
    return dates.header_date(when)


def typed(recipient):
    """`rfc822; joe@example.com`, or for what is not ASCII `utf-8; jos\\x{E9}@example.com` (RFC 6533 section
    3).
    """
    recipient = line_safe(recipient)
    if recipient.isascii():
        return b'rfc822; ' + address.quote(recipient)
    return b'utf-8; ' + b''.join(b'%c' % ord(c) if c < '\x7f' else b'\\x{%X}' % ord(c)
                                 for c in recipient.decode('utf-8'))


def enhanced_code(text):
    """The first code of class 5 in a report, else the first of class 4, else 5.0.0 (RFC 3463)."""
    found = [word for word in text.translate(_TO_BLANKS).split(b' ') if _is_code(word)]
    for first in (b'5', b'4'):
        for word in found:
            if word[:1] == first:
                return word
    return b'5.0.0'


_TO_BLANKS = bytes(c if c in b'0123456789.' or chr(c).isalpha() and c < 128 else 32 for c in range(256))


def _is_code(word):
    parts = word.split(b'.')
    return (len(parts) == 3 and parts[0] in (b'4', b'5')
            and all(0 < len(part) <= 3 and not part.strip(b'0123456789') for part in parts[1:]))


def _diagnostic(text):
    """`smtp; 550 ...` if the report quotes a server, else `x-qpy; ...`; folded, ASCII."""
    before, said, reply = text.partition(b' said: ')
    kind, reply = (b'smtp', reply) if said else (b'x-qpy', before)
    flat = b' '.join(printable(reply[:DIAGNOSTIC].replace(b'\n', b' ')).split())
    return kind + b'; ' + _fold(flat) if flat else b''


def _fold(value):
    """A field's value in lines of about 72 bytes (RFC 5322 section 2.2.3)."""
    lines, line = [], b''
    for word in value.split(b' '):
        if line and len(line) + len(word) > 72:
            lines.append(line)
            line = b''
        line += b' ' * bool(line) + word
    return b'\n\t'.join(lines + [line])


def from_xtext(value):
    """The value of xtext (RFC 3461 section 4): +HH stands for a byte."""
    pieces = value.split(b'+')
    out = pieces[0]
    for piece in pieces[1:]:
        digits = piece[:2]
        if len(digits) == 2 and not digits.strip(b'0123456789ABCDEF'):
            out += b'%c' % int(digits, 16) + piece[2:]
        else:
            out += b'+' + piece
    return out


# --- the original ---------------------------------------------------------------------------------

def header_of(data):
    """The header of a message, from its first HEADER_LIMIT bytes; lines end with LF."""
    if data[:1] == b'\n':
        return b''
    end = data.find(b'\n\n')
    if end >= 0:
        return data[:end + 1]
    return data[:data.rfind(b'\n') + 1] if len(data) >= HEADER_LIMIT else data
