"""Bounces: qmail's text for people, RFC 3464 for machines, and nothing a report or an address could break."""
import email
import email.policy
import re

import pytest
from hypothesis import given, strategies as st

from qpy.core import bounce, notices

ID = b'1795574404000001'
NOW = 1795574464
MAIL = b'Received: (qpy 1 invoked by uid 2); 1 Jan 2026 00:00:00 -0000\nFrom: joe@example.com\nSubject: hi\n\nbody\n'
PLAIN = bounce.Settings(form=b'qsbmf', host=b'mail.example.com', double_host=b'mail.example.com')
RICH = bounce.Settings(host=b'mail.example.com', double_host=b'mail.example.com')


def original(sender=b'joe@example.com', size=len(MAIL), **more):
    return bounce.Original(ID, sender, size, 1795574404, **more)


def failure(recipient=b'bob@elsewhere.example', text=b'Sorry, no mailbox here by that name. (#5.1.1)\n', **more):
    return bounce.Outcome(recipient, text, **more)


def made(failures, settings=RICH, mail=MAIL, **more):
    """The whole bounce."""
    head, much, tail = bounce.compose(original(**more), failures, settings, NOW, b'0123456789abcdef')
    body = bounce.header_of(mail) if much == bounce.HEADER else mail if much == bounce.WHOLE else mail[:much]
    return head + body + tail


def qsbmf(data):
    """What ezmlm-return makes of a bounce: [addresses], or None if it is none."""
    paragraphs, lines = [], []
    for line in data.split(b'\n'):
        lines.append(line)
        if line == b'':
            paragraphs.append(lines)
            lines = []
    at = 1
    while paragraphs[at][0].startswith(b'--'):
        at += 1
    if not paragraphs[at][0].startswith(b'Hi. This is the'):
        return None
    found = []
    for lines in paragraphs[at + 1:] + [lines]:
        if lines[0].startswith(b'-'):
            return found
        if lines[0].startswith(b'<'):
            found.append(lines[0][1:-2])
    return None


def test_a_name_beyond_ascii_in_a_field():
    """RFC 6533, section 3: message/delivery-status is ASCII, whatever form the sender's ORCPT has."""
    for orcpt in (b'utf-8;jos\\x{E9}@x', 'utf-8;josé@x'.encode()):
        data = made([failure('josé@x'.encode(), orcpt=orcpt)])
        machine = data.partition(b'message/delivery-status\n')[2].partition(b'\n--')[0]
        assert machine.isascii() and b'\nOriginal-Recipient: utf-8; jos\\x{E9}@x\nFinal-Recipient: utf-8; jos' in machine
    machine = made([failure('a+é@x'.encode())]).partition(b'message/delivery-status\n')[2]
    assert b'\nFinal-Recipient: utf-8; a\\x{2B}\\x{E9}@x\n' in machine


@pytest.mark.parametrize('text, field', [
    (b'192.0.2.1 does not like recipient.\nRemote host said: 550 no\n', b'[192.0.2.1]'),
    (b'Connected to 2001:db8::1 but sender was rejected.\nRemote host said: 550 no\n', b'[IPv6:2001:db8::1]'),
    (b'Sorry, no mailbox here by that name. (#5.1.1)\n', None), (b'192.0.2.1 is mentioned\n', None),
    (b'x> said: 192.0.2.1\n', None), (b' said: ', None)])
def test_the_server_that_is_quoted(text, field):
    """RFC 3464, 2.3.5: Remote-MTA names the server whose words they are."""
    data = made([failure(text=text)])
    assert (b'\nRemote-MTA: dns; ' in data) is (field is not None) and (field is None or b'Remote-MTA: dns; ' + field in data)


def test_plain_is_qmails():
    """The plain form is qmail's, byte for byte, but for a Message-ID and Auto-Submitted in the header."""
    assert made([failure()], PLAIN) == b'''\
Date: 25 Nov 2026 02:41:04 -0000
From: MAILER-DAEMON@mail.example.com
To: joe@example.com
Subject: failure notice
Message-ID: <1795574404000001.0123456789abcdef@mail.example.com>
Auto-Submitted: auto-replied

Hi. This is the qmail-send program at mail.example.com.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<bob@elsewhere.example>:
Sorry, no mailbox here by that name. (#5.1.1)

--- Below this line is a copy of the message.

Return-Path: <joe@example.com>
''' + MAIL


def test_report_structure():
    """The default form has qmail's text, the fields of RFC 3464, and the message, whole, in this order."""
    text = (b'192.0.2.1 does not like recipient.\nRemote host said: 550-5.1.1 no such\n550 5.1.1 user\n'
            b'Giving up on 192.0.2.1.\n')
    data = made([failure(text=text, orcpt=b'rfc822;Bob+2Bx@elsewhere.example')], envid=b'QQ+3D1')
    parsed = email.message_from_bytes(data, policy=email.policy.default)
    assert not parsed.defects
    assert parsed['Auto-Submitted'] == 'auto-replied' and parsed['MIME-Version'] == '1.0' and parsed['Message-ID']
    assert parsed.get_content_type() == 'multipart/report'
    assert parsed.get_param('report-type') == 'delivery-status'
    text_part, status, copy = parsed.get_payload()
    assert text_part.get_payload().startswith('Hi. This is the qmail-send program at mail.example.com.\n')
    whole, recipient = status.get_payload()
    assert whole['Reporting-MTA'] == 'dns; mail.example.com' and whole['Original-Envelope-Id'] == 'QQ=1'
    assert recipient['Original-Recipient'] == 'rfc822; Bob+x@elsewhere.example'
    assert recipient['Final-Recipient'] == 'rfc822; bob@elsewhere.example'
    assert (recipient['Action'], recipient['Status']) == ('failed', '5.1.1')
    assert recipient['Diagnostic-Code'] == 'smtp; 550-5.1.1 no such 550 5.1.1 user'
    assert copy.get_content_type() == 'message/rfc822'
    assert data.endswith(b'\n\nReturn-Path: <joe@example.com>\n' + MAIL + b'\n--1795574404000001.0123456789abcdef/qpy--\n')


ADDRESSES = st.lists(st.sampled_from([b'a@example.com', b'<odd>@example.com', b'-@x', b'two words@example.com',
                                      'josé@example.com'.encode(), b'\xff@x']), min_size=1, max_size=4)


@given(ADDRESSES, st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b'\n\n\n', b'a\n\n-\n', b'--x\n', b''])),
                           min_size=4, max_size=4), st.booleans(), st.binary(max_size=50))
def test_qsbmf_parsers_read_both_forms(addresses, texts, plain, mail):
    """Whatever addresses and reports hold, a parser of qmail's bounces finds the recipients, in order, in both forms."""
    failures = [failure(a, t) for a, t in zip(addresses, texts)]
    data = made(failures, PLAIN if plain else RICH, mail=mail)
    assert qsbmf(data) == [bounce.line_safe(a) for a in addresses]


@given(st.binary(max_size=3000), st.binary(max_size=30))
def test_lines(text, recipient):
    """No control character of a report or address gets into a bounce, no line is longer than RFC 5322 allows."""
    data = made([failure(b'x' + recipient.replace(b'\0', b'') + b'@example.com', text)])
    assert all(len(line) <= 998 for line in data.split(b'\n'))
    assert not set(data) & (set(range(32)) - {9, 10} | {127})
    assert not email.message_from_bytes(data, policy=email.policy.compat32).defects


def test_long_utf8_line_is_not_cut_inside_a_character():
    """A long line is folded between characters."""
    shown = bounce.shown('é'.encode() * 2000).decode()
    assert shown.count('é') == 2000 and set(shown) == {'é', '\n'}


def test_double():
    """The failure of a bounce goes to the postmaster from #@[], with the other introduction; that one's to nobody."""
    assert bounce.envelope(b'', RICH) == (b'#@[]', b'postmaster@mail.example.com')
    assert bounce.envelope(b'#@[]', RICH) is None
    assert bounce.envelope(b'', bounce.Settings(double_user=b'')) is None
    data = made([failure()], PLAIN, sender=b'')
    assert b'To: postmaster@mail.example.com\n' in data
    assert b'but the bounce bounced!\n\n<bob@' in data and b'--- Below this line is the original bounce.\n\n' in data
    assert b'\nReturn-Path: <>\n' in data
    assert qsbmf(made([failure()], sender=b'')) == [b'bob@elsewhere.example']


def test_verp():
    """A sender that asked for VERP gets one report at the address without -@[]."""
    assert bounce.envelope(b'list-return-@host.example-@[]', RICH) == (b'', b'list-return-@host.example')


def test_notify():
    """NOTIFY=NEVER, or one without FAILURE, wants no report."""
    assert bounce.wanted(None) and bounce.wanted(b'success,failure')
    assert not bounce.wanted(b'NEVER') and not bounce.wanted(b'DELAY')


# --- field by field ------------------------------------------------------------------------------------------------

DATE = r'\w{3}, \d\d? \w{3} \d{4} \d\d:\d\d:\d\d [-+]\d{4}|\d\d? \w{3} \d{4} \d\d:\d\d:\d\d [-+]\d{4}'
ADDRESS = r'(rfc822; [\x20-\x7e]+|utf-8; ([\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e]|\\x\{[0-9A-F]{2,6}\})+)'
# RFC 3464, 2.2 and 2.3: the fields of the message and of a recipient, in the order that they have there: (name, value, needed)
MESSAGE_FIELDS = (('Original-Envelope-Id', r'[\x20-\x7e]+', False), ('Reporting-MTA', r'dns; [a-z.]+', True),
                  ('Arrival-Date', DATE, True), ('X-Qpy-Queue-ID', r'\d{16}', True))
RECIPIENT_FIELDS = (('Original-Recipient', r'(rfc822; .+|utf-8; [\x21-\x7e]+|x-odd; .+)', False), ('Final-Recipient', ADDRESS, True),
                    ('Action', 'failed|delayed|delivered|relayed|expanded', True), ('Status', r'[245]\.\d{1,3}\.\d{1,3}', True),
                    ('Remote-MTA', r'dns; \[(IPv6:)?[0-9a-f.:]+\]', False),
                    ('Diagnostic-Code', r'(smtp|x-qpy); [\x20-\x7e]+', False), ('Last-Attempt-Date', DATE, False),
                    ('Will-Retry-Until', DATE, False))
SAID = (b'Connected to 192.0.2.1 but recipient was rejected.\nRemote host said: 550 5.1.1 no such user\n',
        b'2001:db8::1 accepted message.\nRemote host said: 250 2.0.0 ok\nTLSv1.3 X.\n', b'did 1+0+0\n', b'', b'\n\n\n',
        b'x' * 3000 + b'\n', 'größer (#4.4.1)\n'.encode(), b'\xff\xfe\n', b'Connected to 192.0.2.1.\nRemote host said: 421 4.7.0 no\n')


def fields(group, rules):
    """{name: value}; each is one that is known, once, in order, and is what it must be."""
    names, known = group.keys(), [name for name, _, _ in rules]
    assert names == sorted(set(names), key=known.index) and {name for name, _, needed in rules if needed} <= set(names), names
    for name, grammar, _ in rules:
        assert name not in names or re.fullmatch(grammar, re.sub(r'\n\s', ' ', group[name])), (name, group[name])
    return {name: group[name] for name in names}


@given(st.lists(st.tuples(st.sampled_from([b'bob@elsewhere.example', b'two words@x', 'jos\u00e9+x@example.com'.encode(), b'a"b\\c@x']),
                          st.sampled_from(SAID), st.sampled_from([None, b'rfc822;Bob+2Bx@x', b'utf-8;jos\\x{E9}@x', b'x-odd;+20y', b'rfc822']),
                          st.sampled_from([None, NOW]), st.sampled_from([b'delivered', b'relayed', b'expanded'])), min_size=1, max_size=3),
       st.sampled_from([bounce.BOUNCE, bounce.DELAY, bounce.SUCCESS]), st.sampled_from([None, b'QQ+3D1', b'+0Ax']),
       st.sampled_from([None, b'HDRS', b'FULL']), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 500))
def test_every_report_field_by_field(recipients, kind, envid, ret, eight, utf8, required, lifetime):
    """RFC 3461, 6; 3464; 6533: whatever happened, three parts of the right types, fields that follow their grammar, statuses that
    fit the action, the whole message with failures only, and nothing that answers itself (RFC 3834)."""
    mail = MAIL.replace(b'hi', 'hé'.encode()) if utf8 else MAIL
    outcomes = [bounce.Outcome(address, text, orcpt, last, how if kind == bounce.SUCCESS else b'')
                for address, text, orcpt, last, how in recipients]
    about = original(envid=envid, ret=ret, eight_bit=eight or utf8, utf8=utf8, required=required)
    settings = bounce.Settings(host=b'mail.example.com', double_host=b'mail.example.com', lifetime=lifetime * 86400)
    head, much, tail = bounce.compose(about, outcomes, settings, NOW, b'0123456789abcdef', kind)
    data = head + (bounce.header_of(mail) if much == bounce.HEADER else mail) + tail
    parsed = email.message_from_bytes(data, policy=email.policy.compat32)
    assert not parsed.defects and parsed['Auto-Submitted'] == 'auto-replied' and parsed['To'] == 'joe@example.com'
    assert parsed.get_content_type() == 'multipart/report' and parsed.get_param('report-type') == 'delivery-status'
    words, status, copy = parsed.get_payload()
    assert words.get_content_type() == 'text/plain' and status.get_content_type() == 'message/delivery-status'
    whole = kind == bounce.BOUNCE and ret != b'HDRS' and not required
    assert copy.get_content_type() == {(False, False): 'text/rfc822-headers', (False, True): 'message/rfc822',
                                       (True, False): 'message/global-headers', (True, True): 'message/global'}[utf8, whole]
    assert (b'\nbody\n' in data) == whole
    first, *groups = status.get_payload()
    found = fields(first, MESSAGE_FIELDS)
    assert ('Original-Envelope-Id' in found) == (envid is not None) and len(groups) == len(recipients)
    for group, outcome in zip(groups, outcomes):
        found = fields(group, RECIPIENT_FIELDS)
        assert found['Action'] == {bounce.BOUNCE: 'failed', bounce.DELAY: 'delayed', bounce.SUCCESS: outcome.action.decode()}[kind]
        assert found['Status'][0] in {bounce.BOUNCE: '54', bounce.DELAY: '4', bounce.SUCCESS: '2'}[kind]
        assert ('Will-Retry-Until' in found) == (kind == bounce.DELAY and lifetime > 0)
        assert ('Original-Recipient' in found) == bool(outcome.orcpt and b';' in outcome.orcpt)
    if not data.isascii():
        assert b'\nContent-Transfer-Encoding: 8bit\n' in head.partition(b'\n\n')[0] + b'\n'
    assert all(len(line) <= 998 for line in data.split(b'\n')) and b'\r' not in data


def test_header_only():
    """RET=HDRS, or a message beyond bouncemaxbytes, returns the header; the plain form as many bytes."""
    small = bounce.Settings(most=20)
    for data in (made([failure()], ret=b'HDRS'), made([failure()], small)):
        assert b'Content-Type: text/rfc822-headers\n' in data and b'Subject: hi\n\n--' in data and b'body' not in data
    data = made([failure()], bounce.Settings(form=b'qsbmf', most=20))
    assert data.endswith(MAIL[:20] + b'\n\n--- End of message stripped.\n')


def test_codes():
    """The status of RFC 3464 is the first permanent code in the text, else the first temporary one."""
    for text, code in ((b'x (#5.1.1)', b'5.1.1'), (b'a 4.4.1 b 5.7.1', b'5.7.1'), (b'(#4.4.7)', b'4.4.7'),
                       (b'192.0.2.5 and 5.1.1.1', b'5.0.0'), (b'', b'5.0.0'), (b'5.1.1234', b'5.0.0'),
                       (b'it ended with 111.\n' + notices.EXPIRED, b'4.4.7'), (b'450 4.2.1 x\n' + notices.EXPIRED, b'4.2.1')):
        assert bounce.enhanced_code(text) == code


def test_utf8_recipient():
    """RFC 6533: an address that is not ASCII is readable in the text and encoded in the fields."""
    data = made([failure('josé@exämple.com'.encode())])
    assert 'charset=utf-8'.encode() in data and '<josé@exämple.com>:'.encode() in data
    assert b'Final-Recipient: utf-8; jos\\x{E9}@ex\\x{E4}mple.com\n' in data


def test_eight_bit_message():
    """A message with bytes beyond ASCII is returned as it is, and the report says that it holds them."""
    data = made([failure()], mail=b'\n\xff\n', eight_bit=True)
    assert data.count(b'Content-Transfer-Encoding: 8bit\n') == 2 and b'\n\xff\n' in data


@given(st.binary(max_size=60))
def test_xtext(value):
    """xtext is undone; what is no xtext stays."""
    encoded = b''.join(b'%c' % c if 33 <= c <= 126 and c not in b'+=' else b'+%02X' % c for c in value)
    assert bounce.from_xtext(encoded) == value
    bounce.from_xtext(value)
