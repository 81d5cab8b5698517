"""What TLS with other hosts came to, kept by day for reports (TLSRPT, RFC 8460).

A day is {key: sessions}; a key is (domain, kind, policy, server, result, ours, theirs, reason), bytes:

    domain    of the recipients            kind    tlsa, sts or no-policy-found (RFC 8460, 4.2)
    policy    its lines, joined by |       server  the name of the mail exchanger
    result    b'' for a session by TLS, else of RESULTS; ours, theirs: addresses; reason: in words

In a file, one line each: the number, then the key, separated by tabs.
"""
from qpy.core import mta_sts, text

FIELDS = 8
NONE, TLSA, STS = b'no-policy-found', b'tlsa', b'sts'
KINDS = (NONE, TLSA, STS)
FIELD_LIMIT = 2000          # bytes
MOST = 50_000               # keys of a day
COUNT_LIMIT = 1 << 40

NO_STARTTLS, VALIDATION = b'starttls-not-supported', b'validation-failure'
DNSSEC, DANE_REQUIRED = b'dnssec-invalid', b'dane-required'
FETCH, INVALID, WEBPKI = b'sts-policy-fetch-error', b'sts-policy-invalid', b'sts-webpki-invalid'
# RFC 8460, 4.3, by what is said of a failure; the first that fits counts
RESULTS = ((b'offer STARTTLS', NO_STARTTLS), (b'refused STARTTLS', NO_STARTTLS),
           (b'mismatch', b'certificate-host-mismatch'), (b'expired', b'certificate-expired'),
           (b'not yet valid', b'certificate-expired'), (b'self-signed', b'certificate-not-trusted'),
           (b'self signed', b'certificate-not-trusted'),
           (b'unable to get', b'certificate-not-trusted'), (b'TLSA records could not', DNSSEC),
           (b'no TLSA records', DANE_REQUIRED), (b'MTA-STS: the policy', VALIDATION), (b'MTA-STS', FETCH))

POLICY = b'MTA-STS: ' + mta_sts.UNAVAILABLE
POLICY_RESULTS = ((b'certificate', WEBPKI), (b'no version', INVALID), (b'no mx', INVALID), (b'', FETCH))


def result_of(reason):
    """The result type of a failure that was described in these words."""
    table = POLICY_RESULTS if reason.startswith(POLICY) else RESULTS
    return next((result for words, result in table if words in reason), VALIDATION)


def key(fields):
    """A key of fields that came on a channel; None if it is none."""
    made = tuple(text.printable(field.replace(b'\n', b'|'))[:FIELD_LIMIT] for field in fields)
    return made if len(made) == FIELDS and made[1] in KINDS and made[0] else None


def add(day, found):
    """One more session; False where the day has no room for a new key."""
    if found not in day and len(day) >= MOST:
        return False
    day[found] = day.get(found, 0) + 1
    return True


def build(day):
    """The bytes of a day's file."""
    return b''.join(b'%d\t%s\n' % (count, b'\t'.join(each)) for each, count in day.items())


def parse(data):
    """The day in a file; a line that is none (the end of a file that a crash has cut) is passed over."""
    day = {}
    for line in data.split(b'\n'):
        number, *fields = line.split(b'\t')
        count = text.parse_uint(number, COUNT_LIMIT)
        if count and len(fields) == FIELDS and fields[1] in KINDS:
            day[tuple(fields)] = day.get(tuple(fields), 0) + count
    return day


def is_day(name):
    """Is this the name of a day's file: 2026-11-25?"""
    return len(name) == 10 and name[4:5] == name[7:8] == b'-' and name.replace(b'-', b'').isdigit()


# --- the report ---------------------------------------------------------------------------------------------

def by_policy(day):
    """{(domain, kind, policy): {key: sessions}}, sorted."""
    found = {}
    for each, count in sorted(day.items()):
        found.setdefault(each[:3], {})[each] = count
    return found


def report(name, domain, day, host):
    """The report (RFC 8460, 4.4) on a domain's sessions of the day of this name, as what JSON knows; host: our own."""
    policies = [policy(*words, sessions) for words, sessions in by_policy(day).items() if words[0] == domain]
    name, host = name.decode(), host.decode()
    return {'organization-name': host, 'contact-info': 'postmaster@' + host,
            'date-range': {'start-datetime': name + 'T00:00:00Z', 'end-datetime': name + 'T23:59:59Z'},
            'report-id': '%s.%s@%s' % (name, domain.decode(), host), 'policies': policies}


def policy(domain, kind, words, sessions):
    """One policy, its summary and its failures."""
    good = sum(count for each, count in sessions.items() if not each[4])
    servers = sorted({each[3].decode() for each in sessions})
    patterns = [line[3:].strip() for line in words.decode().split('|') if line[:3] == 'mx:']        # what MTA-STS has asked for
    made = {'policy': {'policy-type': kind.decode(), 'policy-domain': domain.decode(), 'mx-host': patterns or servers},
            'summary': {'total-successful-session-count': good,
                        'total-failure-session-count': sum(sessions.values()) - good}}
    if words:
        made['policy']['policy-string'] = words.decode().split('|')
    failures = [failure(each, count) for each, count in sessions.items() if each[4]]
    return {**made, 'failure-details': failures} if failures else made


def failure(each, count):
    """One kind of failure (RFC 8460, 4.3)."""
    server, result, ours, theirs, reason = map(bytes.decode, each[3:])
    return {'result-type': result, 'sending-mta-ip': ours, 'receiving-mx-hostname': server, 'receiving-ip': theirs,
            'failed-session-count': count, 'failure-reason-code': reason}
