"""The extensions of SMTP that our server takes part in: one table, which the session, qpy-smtpd(8) and a test answer to.

A row is the keyword; offered(session) -> its parameters in EHLO's answer, or None where this client does not get it; and
the parameters that it adds to MAIL and to RCPT, {NAME: test of a value}.  A parameter of an extension that is not offered
is unknown.
"""
from qpy.core import dates, deliverby, notices, priority, proxy, smtp_login, text

FUTURE_MAX = 259200         # seconds a message may wait here for its time: less than half of control/queuelifetime's default
UNKNOWN = b'555 5.5.4 unknown parameter'
VALUE = b'501 5.5.4 a parameter that is malformed or given twice'
HELD_PAST = b'501 5.5.4 it would be held here beyond the time by which it is to come back'

_XTEXT = bytes(byte for byte in range(33, 127) if byte not in b'+=')    # RFC 3461, 4
_HEX = b'0123456789ABCDEF'
_DIGITS_AS_ZERO = bytes(48 if 48 <= byte <= 57 else byte for byte in range(256))


# --- values ------------------------------------------------------------------------------------------------------

def xtext(value):
    """RFC 3461, 4: what is not printable as +HH."""
    first, *rest = value.split(b'+')
    return not first.translate(None, _XTEXT) and all(
        len(part) >= 2 and not part[:2].translate(None, _HEX) and not part[2:].translate(None, _XTEXT) for part in rest)


def size(value):
    """RFC 1870, 5: 1 to 20 digits."""
    return 1 <= len(value) <= 20 and not value.strip(b'0123456789')


def body(value):
    """RFC 6152, 3"""
    return value.upper() in (b'7BIT', b'8BITMIME')


def auth(value):
    """RFC 4954, 5: who says it is not believed, so it counts as `<>`."""
    return 0 < len(value) <= 500 and xtext(value)


def nothing(value):
    """A word without a value."""
    return value is None


def ret(value):
    """RFC 3461, 4.3"""
    return value.upper() in (b'FULL', b'HDRS')


def envid(value):
    """RFC 3461, 4.4"""
    return 0 < len(value) <= 100 and xtext(value)


def notify(value):
    """RFC 3461, 4.1: NEVER, or some of the others, each once."""
    words = value.upper().split(b',')
    return words == [b'NEVER'] or len(set(words)) == len(words) and set(words) <= {b'SUCCESS', b'FAILURE', b'DELAY'}


def orcpt(value):
    """RFC 3461, 4.2: type;xtext; and RFC 6533, section 3: utf-8;UTF-8."""
    kind, mark, address = value.partition(b';')
    try:
        address = notices.in_ascii(address, 'strict') if text.lower(kind) == b'utf-8' else address
    except UnicodeDecodeError:
        return False
    return len(value) <= 500 and 0 < len(kind) and mark == b';' and not kind.translate(None, _XTEXT) and bool(address) \
        and xtext(address)


def by(value):
    """RFC 2852, 4"""
    try:
        return bool(deliverby.from_wire(value, 0))
    except ValueError:
        return False


def first(value):
    """RFC 6710: from -9 to 9."""
    return priority.parse(value) is not None


def hold_for(value):
    """RFC 4865, 5: seconds."""
    return text.parse_uint(value, FUTURE_MAX) is not None


def hold_until(value):
    """RFC 4865, 5: a date and time of RFC 3339, in UTC or with an offset; see also held_too_long."""
    return unix_time(value.upper()) is not None


def unix_time(value):
    """The time of `2026-11-30T05:10:00Z`, or None (RFC 3339, 5.6; no fractions, no leap seconds)."""
    shape = value[:19].translate(_DIGITS_AS_ZERO)
    if shape != b'0000-00-00T00:00:00':
        return None
    year, month, day, hour, minute, second = (int(value[a:a + n]) for a, n in ((0, 4), (5, 2), (8, 2), (11, 2), (14, 2), (17, 2)))
    offset = zone_offset(value[19:])
    if month <= 2:
        year, month = year - 1, month + 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 1 - 719468
    shown = days * 86400 + hour * 3600 + minute * 60 + second
    return None if offset is None or dates.internet_date(shown)[:19] != value[:19] else shown - offset


def zone_offset(zone):
    """Seconds east of UTC of `Z`, `+01:00`; None if it is neither."""
    if zone == b'Z':
        return 0
    if len(zone) != 6 or zone[:1] not in b'+-' or zone[3:4] != b':' or (zone[1:3] + zone[4:]).strip(b'0123456789'):
        return None
    hours, minutes = int(zone[1:3]), int(zone[4:])
    if hours > 23 or minutes > 59:
        return None
    seconds = hours * 3600 + minutes * 60
    return -seconds if zone[:1] == b'-' else seconds


# --- the table -------------------------------------------------------------------------------------------------

def always(session):
    """Everybody gets it."""
    return b''


def whole(session):
    """What only a queue can keep that gets all records of an envelope: QMAILQUEUE's does not."""
    return b'' if session.client.whole else None


def sized(session):
    """RFC 1870, 4"""
    return b'%d' % session.limit


def in_the_clear(session):
    """RFC 3207, 4.2"""
    return b'' if session.beside.tls and session.tls is None else None


def logins(session):
    """RFC 4954, 3"""
    return b' '.join(smtp_login.mechanisms(session)) or None if not session.login else None


def protected(session):
    """RFC 8689, 2"""
    return b'' if session.tls is not None and session.client.whole else None


def by_xclient(session):
    """Postfix's XCLIENT_README: for those who may speak for others."""
    return b' '.join(proxy.ATTRIBUTES) if session.client.may_speak else None


def limits(session):
    """RFC 9422, 3"""
    return b'RCPTMAX=%d' % session.policy.max_recipients


def for_some(session):
    """RFC 1985, 4: where there are domains that it may name."""
    return b'' if session.policy.etrn else None


def own(session):
    """RFC 4865, 3: how long and until when, for those whose mail we send, not for mail that comes to us."""
    if not (session.login and session.client.whole):
        return None
    return b'%d %s' % (FUTURE_MAX, dates.internet_date(session.clock + FUTURE_MAX))


def trusted(session):
    """RFC 6710: for those whose mail goes anywhere; everybody else's is as urgent as everybody's."""
    return b'' if session.trusted() and session.client.whole else None


EXTENSIONS = (
    (b'PIPELINING', always, {}, {}),                                                            # RFC 2920
    (b'SIZE', sized, {b'SIZE': size}, {}),                                                      # RFC 1870
    (b'8BITMIME', always, {b'BODY': body}, {}),                                                 # RFC 6152
    (b'SMTPUTF8', whole, {b'SMTPUTF8': nothing}, {}),                                           # RFC 6531
    (b'CHUNKING', always, {}, {}),                                                              # RFC 3030
    (b'DSN', whole, {b'RET': ret, b'ENVID': envid}, {b'NOTIFY': notify, b'ORCPT': orcpt}),      # RFC 3461
    (b'DELIVERBY', whole, {b'BY': by}, {}),                                                     # RFC 2852
    (b'FUTURERELEASE', own, {b'HOLDFOR': hold_for, b'HOLDUNTIL': hold_until}, {}),              # RFC 4865
    (b'MT-PRIORITY', trusted, {b'MT-PRIORITY': first}, {}),                                     # RFC 6710
    (b'REQUIRETLS', protected, {b'REQUIRETLS': nothing}, {}),                                   # RFC 8689
    (b'LIMITS', limits, {}, {}),                                                                # RFC 9422
    (b'ETRN', for_some, {}, {}),                                                                # RFC 1985
    (b'XCLIENT', by_xclient, {}, {}),                                                           # Postfix
    (b'STARTTLS', in_the_clear, {}, {}),                                                        # RFC 3207
    (b'AUTH', logins, {}, {}),                                                                  # RFC 4954
    (b'ENHANCEDSTATUSCODES', always, {}, {}))                                                   # RFC 2034
OF_MAIL, OF_RCPT = 2, 3


def lines(session):
    """What EHLO is answered behind the name of this host."""
    found = [(row[0], row[1](session)) for row in EXTENSIONS]
    return [keyword + b' ' + more if more else keyword for keyword, more in found if more is not None]


def parameters(session, rest, of):
    """({NAME: value}, reply that refuses them or b'') of what stands behind a path; of: OF_MAIL or OF_RCPT."""
    found, known = {}, None
    for word in rest.split(b' ') if rest else ():
        if not word:
            continue
        if known is None:
            known = {name: test for row in EXTENSIONS if row[of] and row[1](session) is not None for name, test in row[of].items()}
            if of == OF_MAIL and session.beside.mechanisms:
                known[b'AUTH'] = auth
        name, mark, value = word.partition(b'=')
        name = name.upper()
        if name not in known:
            return found, UNKNOWN
        test = known[name]
        value = value if mark else None
        if name in found or (value is None) != (test is nothing) or not test(value):
            return found, VALUE
        found[name] = value or b''
    return found, clash(found, session.clock)


def clash(found, now):
    """The reply to parameters that are good each, and not together, or b'': held to a date that is later than EHLO has said, or
    both for a time and until one (RFC 4865, 3); held beyond the time after which it must come back (RFC 2852)."""
    until = found.get(b'HOLDUNTIL')
    if until is not None and (b'HOLDFOR' in found or unix_time(until.upper()) > now + FUTURE_MAX):
        return VALUE
    due = deliverby.parse(deliverby.from_wire(found[b'BY'], now)) if b'BY' in found else None
    return HELD_PAST if due and due.returns and due.deadline <= released(found, now) else b''


def released(parameters, now):
    """The unix time until which a message is to be held, 0: it is not."""
    if b'HOLDFOR' in parameters:
        return now + 1 + int(parameters[b'HOLDFOR'])        # not a part of a second early
    return unix_time(parameters[b'HOLDUNTIL'].upper()) if b'HOLDUNTIL' in parameters else 0


def of_mail(parameters, now):
    """[(letter, value)] of the envelope for what stood behind MAIL (qpy-queue-format.5)."""
    options = [(b'U', b'')] if b'SMTPUTF8' in parameters else []
    options += [(b'Q', b'')] if b'REQUIRETLS' in parameters else []
    options += [(b'R', parameters[b'RET'].upper())] if b'RET' in parameters else []
    options += [(b'E', parameters[b'ENVID'])] if b'ENVID' in parameters else []
    options += [(b'D', deliverby.from_wire(parameters[b'BY'], now))] if b'BY' in parameters else []
    options += [(priority.LETTER, parameters[b'MT-PRIORITY'])] if parameters.get(b'MT-PRIORITY', b'0') != b'0' else []
    if b'HOLDFOR' in parameters or b'HOLDUNTIL' in parameters:
        options.append((b'b', b'%d' % released(parameters, now)))
    return options


def of_rcpt(parameters):
    """((letter, value), ...) for what stood behind RCPT."""
    found = ((b'N', parameters.get(b'NOTIFY', b'').upper()), (b'O', parameters.get(b'ORCPT', b'')))
    return tuple((letter, value) for letter, value in found if value)
