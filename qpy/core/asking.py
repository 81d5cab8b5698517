"""At which stages of a session qpy-smtpd has to ask qpy-check, by what stands in control/.  Pure.

Where nothing is configured nothing is asked, and nothing is paid.  core.checks holds the checks themselves; it is not
loaded by who only asks.
"""
from qpy.core import text

CONNECT, HELO, MAIL, RCPT, DATA = b'connect', b'helo', b'mail', b'rcpt', b'data'
STAGES = (CONNECT, HELO, MAIL, RCPT, DATA)

#        control file       stages                   (connect: so that DNS is on its way before it is wanted)
TABLE = ((b'messages',      (MAIL,)),                # a line of ratelimits
         (b'recipients',    (RCPT,)),                # another
         (b'dnsbl',         (CONNECT, RCPT)),
         (b'reversedns',    (CONNECT, RCPT)),
         (b'helorules',     (RCPT,)),
         (b'greylist',      (RCPT,)),
         (b'spfrules',      (RCPT,)),
         (b'accountlimits', (RCPT, DATA)))
STAGES_WORD = b'stages='
FIELD_MAX = 998             # bytes of a header field that is put on top of a message (RFC 5322, 2.1.1)
FIELDS_MOST = 20            # of one message


def stages(present, servers=()):
    """The stages at which somebody is asked.  present: the names of TABLE that are configured; servers: the lines of
    control/policyservers."""
    found = {stage for name, asked in TABLE if name in present for stage in asked}
    return frozenset(found.union(*(server_stages(line) for line in servers)))


def is_field(line):
    """Can this line stand on top of a message? `Name: value`, printable ASCII."""
    name, colon, _ = line.partition(b':')
    return bool(colon and name) and len(line) <= FIELD_MAX and not name.translate(None, _NAME) \
        and not line.translate(None, _PRINTABLE)


def spf(fields):
    """The result of SPF (RFC 7208) that lines which a policy server has put on top of a message tell of: in Received-SPF (9.1),
    or in Authentication-Results (RFC 8601); b'' if none does."""
    for line in fields:
        name, _, value = line.partition(b':')
        words = [word for word in text.lower(value).replace(b'\t', b' ').split(b' ') if word]
        if text.lower(name) == b'authentication-results':
            words = [word[4:].rstrip(b';') for word in words if word.startswith(b'spf=')]
        elif text.lower(name) != b'received-spf':
            continue
        if words and words[0] in RESULTS:
            return words[0]
    return b''


RESULTS = (b'pass', b'fail', b'softfail', b'neutral', b'none', b'temperror', b'permerror')
_PRINTABLE = bytes((9, *range(32, 127)))
_NAME = bytes(c for c in range(33, 127) if c != 58)


def server_stages(line):
    """The stages that a line of control/policyservers names; rcpt if it names none."""
    words = [word[len(STAGES_WORD):] for word in line.replace(b'\t', b' ').split(b' ') if word.startswith(STAGES_WORD)]
    return tuple(words[-1].split(b',')) if words else (RCPT,)
