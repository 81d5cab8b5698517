"""What is kept for reports by RFC 8460: lines of a day, and the report made of them."""
import json

import pytest
from hypothesis import given, strategies as st

from qpy.core import tlsrpt

GOOD = (b'x.example', b'sts', b'version: STSv1|mode: enforce|mx: mx.x.example', b'mx.x.example', b'', b'192.0.2.1',
        b'192.0.2.2', b'')
BAD = GOOD[:4] + (b'certificate-expired', b'192.0.2.1', b'192.0.2.2', b'certificate has expired')


@pytest.mark.parametrize('words, result', [
    (b'it does not offer STARTTLS', b'starttls-not-supported'), (b'it refused STARTTLS', b'starttls-not-supported'),
    (b"Hostname mismatch, certificate is not valid for 'x'.", b'certificate-host-mismatch'),
    (b'certificate has expired', b'certificate-expired'), (b'self-signed certificate', b'certificate-not-trusted'),
    (b'unable to get local issuer certificate', b'certificate-not-trusted'),
    (b'its TLSA records could not be looked up: SERVFAIL', b'dnssec-invalid'),
    (b'it has no TLSA records that can be used', b'dane-required'),
    (b'its certificate does not match its TLSA records', b'validation-failure'),
    (b'MTA-STS: the policy of x does not name y', b'validation-failure'), (b'MTA-STS: gone', b'sts-policy-fetch-error'),
    (b'the handshake took too long', b'validation-failure'),
    *((b'MTA-STS: its policy cannot be had: ' + why, result) for why, result in (
        (b"its web server: Hostname mismatch, certificate is not valid for 'x'.", b'sts-webpki-invalid'),
        (b'its web server: certificate has expired', b'sts-webpki-invalid'), (b'it answered 301 Moved', b'sts-policy-fetch-error'),
        (b'no version, mode or max_age', b'sts-policy-invalid'), (b'no mx, or too many', b'sts-policy-invalid'),
        (b'it took too long', b'sts-policy-fetch-error')))])
def test_result_types(words, result):
    """Each failure has a type of section 4.3."""
    assert tlsrpt.result_of(words) == result


@given(st.lists(st.tuples(*[st.binary(max_size=20)] * 8)))
def test_a_day_comes_back(lines):
    """Whatever was said, what is written is what is read; sessions of one kind are one line."""
    day = {}
    for fields in lines:
        found = tlsrpt.key((b'd' + fields[0], tlsrpt.KINDS[len(fields[1]) % 3]) + fields[2:])
        assert found and tlsrpt.add(day, found)
    assert tlsrpt.parse(tlsrpt.build(day)) == day and sum(day.values()) == len(lines)


def test_what_is_no_line():
    """A line cut by a crash, or of another kind, is passed over; what came on a channel and is no key, too."""
    data = tlsrpt.build({GOOD: 3})
    assert tlsrpt.parse(data + data[:-10] + b'\nx\n0\ta\n') == {GOOD: 3}
    assert tlsrpt.key([b''] + [b'sts'] * 7) is None and tlsrpt.key([b'x', b'gossip'] + [b''] * 6) is None


def test_a_day_is_bounded(monkeypatch):
    """What is known goes on being counted, what is new is not."""
    monkeypatch.setattr(tlsrpt, 'MOST', 1)
    day = {}
    assert tlsrpt.add(day, GOOD) and not tlsrpt.add(day, BAD) and tlsrpt.add(day, GOOD) and day == {GOOD: 2}


def test_the_report():
    """RFC 8460, 4.4: one policy, its summary, its failures; other domains are left out, and JSON can say it."""
    day = {GOOD: 5, BAD: 2, (b'y.example',) + GOOD[1:]: 9,
           (b'z.example', b'sts', b'version: STSv1|mode: enforce|mx: a.z.example|mx: *.z.example') + GOOD[3:]: 1}
    made = json.loads(json.dumps(tlsrpt.report(b'2026-11-25', b'x.example', day, b'mail.here.example')))
    assert made['date-range'] == {'start-datetime': '2026-11-25T00:00:00Z', 'end-datetime': '2026-11-25T23:59:59Z'}
    assert made['organization-name'] == 'mail.here.example' and made['contact-info'] == 'postmaster@mail.here.example'
    [policy] = made['policies']
    assert policy['policy'] == {'policy-type': 'sts', 'policy-domain': 'x.example', 'mx-host': ['mx.x.example'],
                                'policy-string': ['version: STSv1', 'mode: enforce', 'mx: mx.x.example']}
    [other] = tlsrpt.report(b'2026-11-25', b'z.example', day, b'mail.here.example')['policies']
    assert other['policy']['mx-host'] == ['a.z.example', '*.z.example']
    assert policy['summary'] == {'total-successful-session-count': 5, 'total-failure-session-count': 2}
    assert policy['failure-details'] == [{
        'result-type': 'certificate-expired', 'sending-mta-ip': '192.0.2.1', 'receiving-mx-hostname': 'mx.x.example',
        'receiving-ip': '192.0.2.2', 'failed-session-count': 2, 'failure-reason-code': 'certificate has expired'}]


@pytest.mark.parametrize('name, right', [(b'2026-11-25', True), (b'memory', False), (b'2026-1-25', False),
                                         (b'2026-11-2x', False), (b'new', False)])
def test_names_of_days(name, right):
    """Nothing else in the directory is taken for a day."""
    assert tlsrpt.is_day(name) is right
