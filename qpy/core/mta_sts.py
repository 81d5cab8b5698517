"""MTA-STS (RFC 8461): the record in DNS, the policy behind it, and the HTTP answer that brings it."""
from qpy.core import text

ENFORCE, TESTING, NONE = b'enforce', b'testing', b'none'
MODES = (ENFORCE, TESTING, NONE)
BODY_LIMIT = 65536          # bytes of a policy (RFC 8461, 3.3)
HEAD_LIMIT = 16384          # bytes of what stands before it
PATTERNS = 100              # mx lines of a policy
AGE_MOST = 31557600         # seconds: a year (RFC 8461, 3.2)
PATH = b'/.well-known/mta-sts.txt'
BLANKS = b' \t'
UNAVAILABLE = b'its policy cannot be had: '         # how a reason begins where there is a record, and no policy


class Policy:
    """mode of MODES, patterns [host or *.domain, lower case], age in seconds."""

    __slots__ = ('mode', 'patterns', 'age')

    def __init__(self, mode, patterns, age):
        self.mode, self.patterns, self.age = mode, patterns, age


def parse_record(records):
    """The id of the policy from TXT records (each its strings joined), or None: RFC 8461, 3.1."""
    ours = [record for record in records if record.startswith(b'v=STSv1;') or record == b'v=STSv1']
    if len(ours) != 1:
        return None
    fields = [field.strip(BLANKS).partition(b'=') for field in ours[0].split(b';')[1:]]
    found = [value.strip(BLANKS) for name, _, value in fields if name.strip(BLANKS) == b'id']
    return found[0] if len(found) == 1 and 1 <= len(found[0]) <= 32 and found[0].isalnum() else None


def parse_policy(body):
    """The Policy of a policy's text; ValueError: RFC 8461, 3.2."""
    fields = [line.rstrip(b'\r').partition(b':') for line in body.split(b'\n')]
    fields = [(name.strip(BLANKS), value.strip(BLANKS)) for name, colon, value in fields if colon]
    first = {}
    for name, value in fields:
        first.setdefault(name, value)
    age = text.parse_uint(first.get(b'max_age', b''), 10 ** 10)
    patterns = [text.lower(value) for name, value in fields if name == b'mx']
    if first.get(b'version') != b'STSv1' or first.get(b'mode') not in MODES or age is None:
        raise ValueError('no version, mode or max_age')
    if len(patterns) > PATTERNS or not patterns and first[b'mode'] != NONE:
        raise ValueError('no mx, or too many')
    return Policy(first[b'mode'], patterns, min(age, AGE_MOST))


def allows(patterns, host):
    """Whether a mail exchanger of this name is one of the policy's (RFC 8461, 4.1: * is one label)."""
    host = text.lower(host)
    return any(host == pattern or pattern.startswith(b'*.') and host.partition(b'.')[2] == pattern[2:]
               for pattern in patterns)


def request(domain):
    """What is asked of mta-sts.DOMAIN: by HTTP/1.0, so that the answer comes whole and then ends."""
    return b'GET %s HTTP/1.0\r\nHost: mta-sts.%s\r\nUser-Agent: qpy\r\nAccept: text/plain\r\n\r\n' % (PATH, domain)


def parse_response(data, cut=False):
    """The body of an HTTP answer that has ended; ValueError.  No redirection is followed (RFC 8461, 3.3).

    cut: nobody said that this is the end, so that it must say itself how long it is."""
    head, blank, body = data.partition(b'\r\n\r\n')
    status, *lines = head.split(b'\r\n')
    words = status.split(b' ')
    if not blank or not words[0].startswith(b'HTTP/1.') or words[1:2] != [b'200']:
        raise ValueError('it answered ' + (b' '.join(words[1:])[:60].decode('ascii', 'replace') or 'no HTTP'))
    headers = {text.lower(name): value.strip(BLANKS) for name, _, value in (line.partition(b':') for line in lines)}
    if text.lower(headers.get(b'content-type', b'').partition(b';')[0].strip(BLANKS)) != b'text/plain':
        raise ValueError('it is no text/plain')
    size = text.parse_uint(headers[b'content-length'], 10 ** 9) if b'content-length' in headers else len(body)
    if b'transfer-encoding' in headers or cut and b'content-length' not in headers or size is None or len(body) < size or size > BODY_LIMIT:
        raise ValueError('its length is wrong')
    return body[:size]


# --- what is kept over a restart ----------------------------------------------------------------------------

def build_cache(entries):
    """The bytes of [(domain, id, unix time until which it is good, Policy)], a line each, fields separated by tabs."""
    return b''.join(b'%s\t%s\t%d\t%s\t%d\t%s\n' % (domain, identity, until, policy.mode, policy.age,
                                                   b' '.join(policy.patterns))
                    for domain, identity, until, policy in entries)


def parse_cache(data):
    """The entries of such a file; a line that is none, or was cut by a crash, is passed over."""
    found = []
    for line in data.split(b'\n')[:-1]:
        fields = line.split(b'\t')
        if len(fields) != 6 or fields[3] not in MODES or not fields[0]:
            continue
        until, age = text.parse_uint(fields[2], 1 << 40), text.parse_uint(fields[4], AGE_MOST)
        patterns = fields[5].split(b' ') if fields[5] else []
        if until is not None and age is not None and len(patterns) <= PATTERNS:
            found.append((fields[0], fields[1], until, Policy(fields[3], patterns, age)))
    return found
