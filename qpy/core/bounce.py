"""What a sender is told of his message: that it could not be delivered, takes long, or has arrived.

Two forms (control/bounceformat).  `qsbmf` is qmail's, plain text (https://cr.yp.to/proto/qsbmf.txt).
`rfc3464` is a multipart/report whose first part is the same text, so that whatever reads qmail's bounces
reads these: its parser skips the paragraph that begins with `--`, finds `Hi. This is the`, then paragraphs
that begin with `<`, until one begins with `-`.  Second part: the same for machines (RFC 3464); third: the
message, or its header.

Only failures begin with the words of QSBMF: what reads it must not take a delay for one.  The original is returned
with failures only; with all else its header (RFC 3461, 4.3), and so it is where it may travel by TLS only (RFC 8689).

A report is (head, how much of the original, tail): the original itself passes through in pieces.
"""
from qpy.core import address, dates, ip, notices, route
from qpy.core.text import lower, printable

INTRO = (b"Hi. This is the qmail-send program at %s.\n"
         b"I'm afraid I wasn't able to deliver your message to the following addresses.\n"
         b"This is a permanent error; I've given up. Sorry it didn't work out.\n\n")
DOUBLE_INTRO = (b"Hi. This is the qmail-send program at %s.\n"
                b"I tried to deliver a bounce message to this address, but the bounce bounced!\n\n")
DELAY_INTRO = (b"This is the mail system at %s.\n"
               b"Your message has not reached the following addresses yet. It is in the queue and is tried\n"
               b"again; you need not send it again.%s\n\n")
SUCCESS_INTRO = (b"This is the mail system at %s.\n"
                 b"You asked to be told when your message has reached the following addresses.\n\n")
UNTIL = b" If it cannot be delivered by\n%s, you will be told."
COPY = b'--- Below this line is a copy of the message.\n\n'
DOUBLE_COPY = b'--- Below this line is the original bounce.\n\n'
EIGHT_BIT = b'Content-Transfer-Encoding: 8bit\n'
STRIPPED = b'\n\n--- End of message stripped.\n'

LINE = 900                  # bytes of the longest line of a report (RFC 5322 section 2.1.1: 998)
DIAGNOSTIC = 600            # bytes of text in a Diagnostic-Code
HEADER_LIMIT = 65536        # bytes of header in a report that returns no more

WHOLE, HEADER = 'whole', 'header'       # how much of the original follows; a number is so many bytes

# kinds of report: what its sender wants to hear if he gets it, Subject, Auto-Submitted (RFC 3834, 3.1.7), Action
BOUNCE, DELAY, SUCCESS = b'bounce', b'delay', b'success'
KINDS = {BOUNCE: (notices.FAILURE, b'failure notice', b'auto-replied', b'failed'),
         DELAY: (notices.DELAY, b'your message is delayed', b'auto-replied', b'delayed'),
         SUCCESS: (notices.SUCCESS, b'your message has been delivered', b'auto-replied', b'')}
HOW = {notices.DELIVERED: b'It was delivered.\n',
       notices.RELAYED: b'It was handed to a mail system that will not tell you what becomes of it.\n',
       notices.EXPANDED: b'It was sent on to the addresses that this one stands for.\n'}


class Settings:
    """Control files: form b'rfc3464' or b'qsbmf'; the address bounces come from; where double ones go; most
    bytes; lifetime of a message in seconds.
    """

    __slots__ = ('form', 'user', 'host', 'double_user', 'double_host', 'most', 'lifetime')

    def __init__(self, form=b'rfc3464', user=b'MAILER-DAEMON', host=b'bouncehost', double_user=b'postmaster',
                 double_host=b'doublebouncehost', most=0, lifetime=0):
        self.form, self.user, self.host = form, user, host
        self.double_user, self.double_host, self.most, self.lifetime = double_user, double_host, most, lifetime


class Outcome:
    """One recipient: as the sender wrote it (without a virtual domain's prefix), what was said, DSN
    parameters; action: how it succeeded (core.notices), if that is what is reported.
    """

    __slots__ = ('recipient', 'text', 'orcpt', 'last', 'action')

    def __init__(self, recipient, text, orcpt=None, last=None, action=b''):
        self.recipient, self.text, self.orcpt, self.last, self.action = recipient, text, orcpt, last, action


class Original:
    """The message that it is about: its ID, envelope sender, size, arrival (unix time), RET, ENVID; is it 8-bit; is
    its header (SMTPUTF8); is it to travel by TLS only (REQUIRETLS)?
    """

    __slots__ = ('name', 'sender', 'size', 'arrived', 'ret', 'envid', 'eight_bit', 'utf8', 'required')

    def __init__(self, name, sender, size, arrived, ret=None, envid=None, eight_bit=False, utf8=False,
                 required=False):
        self.name, self.sender, self.size, self.arrived = name, sender, size, arrived
        self.ret, self.envid, self.eight_bit, self.utf8, self.required = ret, envid, eight_bit, utf8, required


# --- whom to tell ---------------------------------------------------------------------------------

def wanted(notify, kind=BOUNCE, timed=False):
    """Does the sender want to know of this?  notify: the NOTIFY parameter of RFC 3461, None if absent.

    timed: the message came with DELIVERBY, which asks for reports of its own; qpy-send knows of whom."""
    return notices.wanted(notify, notices.ANYTHING if timed and kind != BOUNCE else KINDS[kind][0])


def is_bulk(header):
    """Is this mail that nobody waits for an answer to: a list's, or a program's (RFC 3834, section 2)?

    header: lines ended by LF."""
    fields = {}
    for line in header.split(b'\n'):
        name, colon, value = line.partition(b':')
        if colon and line[:1] not in (b' ', b'\t'):
            fields.setdefault(lower(name.rstrip(b' \t')), lower(value.strip(b' \t\r')))
    return (fields.get(b'precedence') in (b'bulk', b'list', b'junk') or b'list-id' in fields
            or fields.get(b'auto-submitted', b'no') != b'no')


def envelope(sender, settings):
    """(sender, recipient) of the report on a message from `sender`; None if nobody is to be told.

    Only failures are reported of messages without a sender.  A failed bounce goes to the postmaster, a failure of that to
    nobody (qmail-send.c, injectbounce).
    """
    if sender == notices.TRIPLE:
        return None
    if sender:
        return b'', route.bounce_recipient(sender)
    if not settings.double_user:
        return None
    return notices.TRIPLE, settings.double_user + b'@' + settings.double_host


# --- the report -----------------------------------------------------------------------------------

def compose(original, outcomes, settings, now, token, kind=BOUNCE):
    """(head, how much of the original, tail).  now: unix time; token: bytes nobody can foretell, for the
    boundary.
    """
    form = _plain if settings.form == b'qsbmf' else _report
    return form(original, outcomes, settings, now, token, kind)


def eight_bit(outcomes):
    """Will the text of the report hold more than ASCII, whatever the original holds?"""
    return not all((outcome.recipient + outcome.text).isascii() for outcome in outcomes)


def _head(original, settings, now, token, kind):
    to = envelope(original.sender, settings)[1]
    return (b'Date: %s\nFrom: %s\nTo: %s\nSubject: %s\nMessage-ID: <%s.%s@%s>\nAuto-Submitted: %s\n'
            % (dates.header_date(now), address.quote(settings.user + b'@' + settings.host), address.quote(to),
               KINDS[kind][1], original.name, token, settings.host, KINDS[kind][2]))


def words(original, outcomes, settings, kind=BOUNCE):
    """The text of both forms: the introduction and a paragraph per recipient, each ended by an empty line."""
    if kind == DELAY:
        until = UNTIL % dates.header_date(original.arrived + settings.lifetime) if settings.lifetime else b''
        intro = DELAY_INTRO % (settings.host, until)
    else:
        intro = (SUCCESS_INTRO if kind == SUCCESS else INTRO if original.sender else DOUBLE_INTRO) % settings.host
    return intro + b''.join([paragraph(each.recipient, HOW.get(each.action, b'') + each.text) for each in outcomes])


def _plain(original, outcomes, settings, now, token, kind):
    most = settings.most
    cut = bool(most) and original.size > most
    head = _head(original, settings, now, token, kind)
    if original.eight_bit or eight_bit(outcomes):
        head += b'MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n' + EIGHT_BIT
    head += b'\n' + words(original, outcomes, settings, kind) + (COPY if original.sender else DOUBLE_COPY)
    if kind != BOUNCE or original.required:
        return head + _return_path(original), HEADER, STRIPPED
    return head + _return_path(original), most if cut else WHOLE, STRIPPED if cut else b''


def _return_path(original):
    return b'Return-Path: <%s>\n' % line_safe(address.quote(original.sender))


def _report(original, outcomes, settings, now, token, kind):
    boundary = b'%s.%s/qpy' % (original.name, token)
    header_only = (kind != BOUNCE or original.required or original.ret == b'HDRS'
                   or settings.most and original.size > settings.most)
    eight = original.eight_bit or eight_bit(outcomes)
    encoding = EIGHT_BIT if eight else b''
    head = (_head(original, settings, now, token, kind)
            + b'MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status;\n'
              b'\tboundary="%s"\n%s\n' % (boundary, encoding))
    text_type = b'utf-8\n' + EIGHT_BIT if eight_bit(outcomes) else b'us-ascii\n'
    text = b'--%s\nContent-Type: text/plain; charset=%s\n%s' % (boundary, text_type,
                                                               words(original, outcomes, settings, kind))
    machine = b'--%s\nContent-Type: message/delivery-status\n\n%s\n' % (boundary,
                                                                        status(original, outcomes, settings, kind))
    copy = b'--%s\nContent-Type: %s\n%s\n' % (boundary, _COPIES[original.utf8, bool(header_only)],
                                              EIGHT_BIT if original.eight_bit else b'')
    return (head + text + machine + copy + _return_path(original), HEADER if header_only else WHOLE,
            b'\n--%s--\n' % boundary)


# by whether the header of the original is UTF-8 (RFC 6533, sections 3 and 4) and whether it is all that is returned
_COPIES = {(False, False): b'message/rfc822', (False, True): b'text/rfc822-headers',
           (True, False): b'message/global', (True, True): b'message/global-headers'}


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

def status(original, outcomes, settings, kind=BOUNCE):
    """The body of message/delivery-status: fields for the message, then a group of them for each recipient, in the order
    of RFC 3464, 2.2 and 2.3.
    """
    groups = [b'Original-Envelope-Id: %s\n' % line_safe(from_xtext(original.envid)) if original.envid else b'']
    groups[0] += b'Reporting-MTA: dns; %s\nArrival-Date: %s\nX-Qpy-Queue-ID: %s\n' % (
        settings.host, mail_date(original.arrived), original.name)
    until = original.arrived + settings.lifetime if kind == DELAY and settings.lifetime else None
    return b'\n'.join(groups + [_recipient_fields(outcome, kind, until) for outcome in outcomes])


def _recipient_fields(outcome, kind, until):
    type_, _, original = (outcome.orcpt or b'').partition(b';')
    lines = b''
    if original:
        lines = b'Original-Recipient: %s; %s\n' % (printable(type_), notices.in_ascii(line_safe(from_xtext(original))))
    lines += b'Final-Recipient: %s\nAction: %s\nStatus: %s\n' % (
        typed(outcome.recipient), outcome.action or KINDS[kind][3], enhanced_code(outcome.text, *CODES[kind]))
    lines += _remote_mta(outcome.text)
    diagnostic = _diagnostic(outcome.text)
    if diagnostic:
        lines += b'Diagnostic-Code: ' + diagnostic + b'\n'
    if outcome.last:
        lines += b'Last-Attempt-Date: %s\n' % mail_date(outcome.last)
    if until:
        lines += b'Will-Retry-Until: %s\n' % mail_date(until)
    return lines


def _remote_mta(said):
    """The field that names the server a report quotes (RFC 3464, 2.3.5), by its address; b'' if it quotes none."""
    before, quoted, _ = said.partition(b' said: ')
    where = before.removeprefix(b'Connected to ').partition(b' ')[0]
    if not quoted or ip.pack(where) is None:
        return b''
    return b'Remote-MTA: dns; [%s%s]\n' % (b'IPv6:' if b':' in where else b'', where)


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
    return b'utf-8; ' + notices.embedded(recipient)


# classes of status codes that a text may name (RFC 3463), the better ones first, and the code if it names none
CODES = {BOUNCE: (b'54', b'5.0.0'), DELAY: (b'4', b'4.0.0'), SUCCESS: (b'2', b'2.0.0')}


def enhanced_code(text, classes=b'54', otherwise=b'5.0.0'):
    """The first code in a report that is of the first of these classes, else of the second; or another one.  Whom a
    message has waited for too long has 4.4.7 (RFC 3463, 3.5) where nobody has named one.
    """
    if notices.EXPIRED in text:
        otherwise = b'4.4.7'
    found = [word for word in text.translate(_TO_BLANKS).split(b' ') if _is_code(word)]
    for first in (classes[i:i + 1] for i in range(len(classes))):
        for word in found:
            if word[:1] == first:
                return word
    return otherwise


_TO_BLANKS = bytes(c if c in b'0123456789.' or chr(c).isalpha() and c < 128 else 32 for c in range(256))


def _is_code(word):
    parts = word.split(b'.')
    return (len(parts) == 3 and parts[0] in (b'2', b'4', b'5')
            and all(0 < len(part) <= 3 and not part.strip(b'0123456789') for part in parts[1:]))


def _diagnostic(text):
    """`smtp; 550 ...` if the report quotes a server (its words and none of ours: RFC 3464, 2.3.6), else `x-qpy; ...`;
    folded, ASCII.
    """
    before, said, reply = text.partition(b' said: ')
    lines = reply.split(b'\n')
    theirs = next((n for n, line in enumerate(lines) if not _is_reply(line)), len(lines))
    kind, reply = (b'smtp', b'\n'.join(lines[:theirs])) if said else (b'x-qpy', before)
    flat = b' '.join(printable(reply[:DIAGNOSTIC].replace(b'\n', b' ')).split())
    return kind + b'; ' + _fold(flat) if flat else b''


def _is_reply(line):
    """A line of a server's begins with its code (RFC 5321, 4.2)."""
    return line[:3].isdigit()


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
