"""What qpy-remote says about a delivery: qmail-remote's sentences, its output, and what rspawn makes of it.

The output is NUL-ended reports: one per recipient that was answered, in order (`r` accepted, `h` refused for
good, `s` refused for now, then text), and one about the message (`K` accepted, `Z` try again, `D` never, then
text).
Texts end with a newline and may hold several lines; text from the other side is made safe here.
"""
from qpy.core import text as bytes_

TEXT_LIMIT = 4000       # bytes of remote text in one report
OUTPUT_LIMIT = 10000    # bytes of one report to qpy-send

NO_RESOURCES = b'System resources temporarily unavailable. (#4.3.0)\n'
NO_MEMORY = b'Out of memory. (#4.3.0)\n'
NO_CONNECTION = b"Sorry, I wasn't able to establish an SMTP connection. (#4.4.1)\n"
NO_READ = b'Unable to read message. (#4.3.0)\n'
NO_CONTROLS = b'Unable to read control files. (#4.3.0)\n'
NO_EXCHANGER = b"Sorry, I couldn't find a mail exchanger or IP address. (#5.4.4)\n"
NULL_MX = b'Sorry, that host says by a null MX that it accepts no mail. (#5.1.10)\n'
INVOKED = b'I (qpy-remote) was invoked improperly. (#5.3.5)\n'
SELF = (b"Sorry. Although I'm listed as a best-preference MX or A for that host,\n"
        b"it isn't in my control/locals file, so I don't treat it as local. (#5.4.6)\n")
NOT_READ_YET = (b'control/locals or control/virtualdomains names this domain by now, and qpy-send has not read that yet: '
                b'send HUP to qpy-send. (#4.3.5)\n')
TOO_LONG = b'The delivery took longer than one delivery may. (#4.4.2)\n'
UNSIGNED = b'Sorry, this message must travel by TLS only, and DNS does not prove who takes its mail. (#4.7.30)\n'
BAD_ADDRESS = b'Sorry, that address cannot be written in an SMTP command. (#5.1.3)\n'
BAD_SENDER = b'Sorry, the sender address cannot be written in an SMTP command. (#5.1.7)\n'

# what rspawn says of a qpy-remote; qmail takes unknown codes for permanent, here nothing unknown is
CRASHED = b'qpy-remote crashed.\n'
NOT_RUN = b'Unable to run qpy-remote.\n'
NO_OUTPUT = b'qpy-remote produced no output.\n'
GARBAGE = b'qpy-remote produced output I do not understand. (#4.3.0)\n'
NO_HOST = b'Sorry, address must include host name. (#5.1.3)\n'
IN_USE = b'Internal error: delnum in use. (#4.3.5)\n'
TOO_MANY = b'Internal error: delnum too big. (#4.3.5)\n'


def no_host(host):
    """The name does not exist (NXDOMAIN)."""
    name = bytes_.printable(host.replace(b' ', b'?'))
    return b"Sorry, I couldn't find any host named %s. (#5.1.2)\n" % name


def no_lookup(host, reason):
    """The name could not be looked up now."""
    host, reason = bytes_.printable(host), bytes_.printable(reason)
    return b"Sorry, I couldn't look up %s: %s. (#4.4.3)\n" % (host, reason)


def too_long(limit, ip):
    """The server announced a SIZE that the message exceeds."""
    return b'Sorry, this message is longer than the %d bytes %s takes. (#5.3.4)\n' % (limit, ip)


def another_time(ip):
    """The server takes so many recipients at a time (RFC 9422), and was given these."""
    return b'%s takes no more recipients at a time; this one waits for its turn. (#4.5.3)\n' % ip


def no_utf8(ip):
    """The message needs SMTPUTF8 and the server does not know it."""
    return b'Sorry, %s does not take internationalised mail (SMTPUTF8). (#5.6.7)\n' % ip


def no_eight_bit(ip):
    """The server does not know 8BITMIME and what has 8 bits is signed."""
    return (b'Sorry, %s takes 7-bit mail only (no 8BITMIME), and a part of this message is signed with 8 bits in it, so that '
            b'it may not be converted. (#5.6.3)\n' % ip)


def no_tls(ip, reason, why):
    """TLS could not be had, and (why, unless empty) the mail waits for it."""
    because = b'; the mail waits, because ' + why if why else b''
    code = b'10' if reason.startswith(b'it ') else b'5'
    return b'Connected to %s but without TLS: %s%s. (#4.7.%s)\n' % (ip, bytes_.printable(reason), because, code)


def no_requiretls(ip):
    """The sender wants TLS on the whole way (RFC 8689), and this server would not pass that on."""
    return b'Sorry, %s does not promise to pass this message on by TLS only (REQUIRETLS). (#5.7.30)\n' % ip


def not_in_time(ip, why):
    """The sender wants the message back rather than late (RFC 2852)."""
    return b'Sorry, the sender wants this message back rather than late, and %s cannot have it: %s. (#5.4.7)\n' % (ip, why)


def no_login(ip, protected, mechanisms):
    """The relay wants or we want a login, and there is no way to do it."""
    way = b'by ' + mechanisms if protected else b'without showing the password: there is no TLS'
    return b'Connected to %s but it offers no login %s. (#4.7.0)\n' % (ip, way)


def no_token(account, reason):
    """The program of control/smtptokens gave none."""
    return b'Unable to get a token for %s: %s. (#4.7.0)\n' % (bytes_.printable(account), bytes_.printable(reason))


def strange_login(ip, reason):
    """It does not keep to the rules of a mechanism."""
    return b'Connected to %s but the login failed: %s. (#4.7.8)\n' % (ip, reason)


def bad_entry(file, key, reason):
    """An entry of a control file that must be mended; mail waits until it is."""
    return b'Unable to use control/%s, entry "%s": %s. (#4.3.5)\n' % (file, bytes_.printable(key), reason)


def no_connection(tried):
    """No address answered; tried: [(address, reason)], of which the first ten are told."""
    lines = b''.join(b'%s: %s\n' % (address, bytes_.printable(reason)) for address, reason in tried[:10])
    return NO_CONNECTION + lines


def died(ip, critical, reason=b''):
    """The connection ended in the middle; critical: after the message was sent, so it may have arrived."""
    duplicate = b'Possible duplicate! ' if critical else b''
    why = reason + b'.\n' if reason else b''
    return b'Connected to %s but connection died. %s(#4.4.2)\n%s' % (ip, duplicate, why)


def said(reply):
    """The remote reply (bytes, lines ended or separated by LF), made safe."""
    return b'Remote host said: ' + safe(reply).rstrip(b'\n') + b'\n'


def safe(text):
    """Text from outside: printable ASCII and line ends only, of bounded length."""
    if len(text) > TEXT_LIMIT:
        text = text[:TEXT_LIMIT] + b'...'
    return b'\n'.join(bytes_.printable(line.replace(b'\t', b' ')) for line in text.split(b'\n'))


# --- the output of one qpy-remote ---------------------------------------------------------------------------

def build(recipients, message):
    """The output for recipients [(letter, text)] and message (letter, text)."""
    return b''.join(letter + text.replace(b'\0', b'?') + b'\0' for letter, text in [*recipients, message])


def parse(output):
    """([(letter, text) per recipient], (letter, text) of the message) or None if it is none of ours.

    Total: whatever a program printed.  A report after the message's, or none, is not ours.
    """
    reports = output.split(b'\0')
    if reports.pop():
        return None
    pairs = [(report[:1], report[1:]) for report in reports]
    if not pairs or pairs[-1][0] not in (b'K', b'Z', b'D'):
        return None
    if any(letter not in (b'r', b'h', b's') for letter, _ in pairs[:-1]):
        return None
    return pairs[:-1], pairs[-1]


def combine(recipient, message):
    """The outcome (K, Z or D, text) for one recipient's report (or None: not answered) and the message's.

    r, K/Z/D t: the message's.       h x, D t: D x t        h x, K or Z t: D x
    none, K:    Z (nobody said so)   s x, Z or D t: Z x t   s x, K t:      Z x
    """
    if recipient is None:
        return message if message[0] != b'K' else (b'Z', GARBAGE)
    letter, text = recipient
    if letter == b'r':
        return message
    if letter == b'h':
        return b'D', text + (message[1] if message[0] == b'D' else b'')
    return b'Z', text + (message[1] if message[0] != b'K' else b'')


def outcome(status, output):
    """(K, Z or D, text) of a qpy-remote, or what stands for it, that had one recipient.

    status: exit code, negative for a signal.  R-28: whatever is not understood is temporary.
    """
    if status < 0:
        return b'Z', CRASHED
    if status:
        return b'Z', NOT_RUN
    if not output:
        return b'Z', NO_OUTPUT
    parsed = parse(output)
    if parsed is None:
        return b'Z', GARBAGE
    recipients, message = parsed
    letter, text = combine(recipients[0], message) if recipients else message
    return letter, safe_report(text)


def safe_report(text):
    """A report's text as qpy-send may have it: short enough, line ends the only control characters."""
    return text[:OUTPUT_LIMIT - 100].translate(_REPORTED)


_REPORTED = bytes(c if c >= 32 and c != 127 or c == 10 else 63 for c in range(256))
