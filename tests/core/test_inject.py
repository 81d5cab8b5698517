"""core.inject: the message that leaves, against qmail-inject's golden vectors."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import header, inject

HOSTS = inject.Settings(b'host.example.com', b'example.com', b'com', b'id.example.com')
NOW, PID = 1795455343, 17567


def compose(fields, environ=(), **options):
    splitter = header.Splitter()
    splitter.feed(fields) or splitter.end()
    environ = dict(environ)
    who = inject.identity(environ, lambda: b'joe', True)
    composer = inject.Composer(HOSTS, who, environ.get(b'QMAILINJECT', b''), **options)
    for field in splitter.fields:
        composer.add(field)
    return composer.finish(NOW, PID, b'0a1b'), composer


def test_golden_header():
    """The golden vector of qmail's address forms: rewriting, missing commas, folding, recipients right to left."""
    new, composer = compose(b'To: alice, "Mary S" <mary@m+>, <@r.example:carl@x.com>, dave@shortname., (c) bob@h  '
                            b'joe@[1.2.3.4]\nCc: x.y@z, a"b c"d@e\n')
    assert new.endswith(b'''To: alice@host.example.com, "Mary S" <mary@m.com>, <carl@x.com>,
  dave@shortname.example.com, bob@h.example.com (c), joe@[1.2.3.4]
Cc: x.y@z.example.com, a@host.example.com, "b c"@host.example.com,
  d@e.example.com
''')
    assert composer.header_recipients() == [
        b'joe@[1.2.3.4]', b'bob@h.example.com', b'dave@shortname.example.com', b'carl@x.com', b'mary@m.com',
        b'alice@host.example.com', b'd@e.example.com', b'b c@host.example.com', b'a@host.example.com',
        b'x.y@z.example.com']


def test_names_with_dots():
    """The blank behind a dot stays in a name and goes from an address; a semicolon without a group is as qmail-inject has it."""
    new, composer = compose(b'From: John Q. Public <j@x.example>\nTo: J. R. <j. r@y.example>\nCc: x@y.; z@w.\n')
    for field in (b'From: John Q. Public <j@x.example>', b'To: J. R. <j.r@y.example>', b'Cc: x@y.example.com;, z@w.example.com'):
        assert field + b'\n' in new
    assert b'j.r@y.example' in composer.header_recipients()


def test_golden_default_header():
    """What is missing is put first: Date, Message-ID, From, Cc."""
    new, composer = compose(b'Subject: x\nBcc: mary\nContent-Length: 5\n',
                            {b'USER': b'joe', b'NAME': b'Joe Q. User'}, wants_recipients=False)
    assert new == b'''Date: 23 Nov 2026 17:35:43 -0000
Message-ID: <20261123173543.17567.0a1b.qpy@id.example.com>
From: "Joe Q. User" <joe@host.example.com>
Cc: recipient list not shown: ;
Subject: x
'''
    assert composer.sender == b'joe@host.example.com'
    assert composer.header_recipients() == [b'mary@host.example.com']


@pytest.mark.parametrize('fields, shown', [
    (b'To: a\n', False), (b'Cc: a\n', False), (b'To: a\nCc: b\n', False), (b'Bcc: a\n', True), (b'Resent-Cc: a\nBcc: b\n', False),
    (b'Resent-To: a\n', False), (b'Resent-Bcc: a\nTo: b\nCc: c\n', True)])
def test_a_list_that_is_not_shown(fields, shown):
    """Said only where neither To nor Cc stands, and where the message is resent, neither of these."""
    assert compose(fields)[0].count(b'recipient list not shown') == shown


def test_golden_verp():
    """QMAILINJECT=rmc with a user that needs quotes, in a message that is resent."""
    new, composer = compose(b'Resent-To: x\nFrom: y\n',
                            {b'QMAILINJECT': b'rmc', b'USER': b'a b', b'NAME': b'Nick'})
    assert inject.return_path(composer.sender) == \
        b'Return-Path: <"a b-1795455343.17567-@host.example.com-"@[]>\n'
    assert new == b'''Resent-Date: 23 Nov 2026 17:35:43 -0000
Resent-Message-ID: <20261123173543.17567.0a1b.qpy@id.example.com>
Resent-From: "a b"@host.example.com (Nick)
Resent-To: x@host.example.com
From: y@host.example.com
'''


@pytest.mark.parametrize('letters,sender', [(b'', b'joe@host.example.com'),
                                            (b'r', b'joe-@host.example.com-@[]'),
                                            (b'm', b'joe-1795455343.17567@host.example.com'),
                                            (b'mr', b'joe-1795455343.17567-@host.example.com-@[]'),
                                            (b'xyz', b'joe@host.example.com')])
def test_sender_letters(letters, sender):
    """Letters r and m make the sender expandable and unique."""
    assert compose(b'To: x\n', {b'QMAILINJECT': letters})[1].sender == sender


@pytest.mark.parametrize('environ,sender,origin', [
    ({b'QMAILUSER': b'q', b'MAILUSER': b'm', b'USER': b'u'}, b'q@host.example.com', b'q@host.example.com'),
    ({b'MAILUSER': b'm', b'USER': b'u', b'LOGNAME': b'l'}, b'm@host.example.com', b'm@host.example.com'),
    ({b'USER': b'u', b'LOGNAME': b'l'}, b'u@host.example.com', b'u@host.example.com'),
    ({b'LOGNAME': b'l'}, b'l@host.example.com', b'l@host.example.com'),
    ({}, b'joe@host.example.com', b'joe@host.example.com'),
    ({b'QMAILHOST': b'h', b'MAILHOST': b'm.x'}, b'joe@h.example.com', b'joe@h.example.com'),
    ({b'MAILHOST': b'm.x'}, b'joe@m.x', b'joe@m.x'),
    ({b'QMAILSUSER': b's', b'MAILHOST': b'm.x'}, b's@m.x', b'joe@m.x'),
    ({b'QMAILSHOST': b's.y', b'MAILHOST': b'm.x'}, b'joe@s.y', b'joe@m.x'),
    ({b'USER': b'a@b'}, b'a@b@host.example.com', b'"a@b"@host.example.com'),
    ({b'QMAILUSER': b''}, b'@host.example.com', b'""@host.example.com'),
])
def test_environment(environ, sender, origin):
    """Each variable in its order names the sender and the From."""
    new, composer = compose(b'To: x\n', environ)
    assert composer.sender == sender
    assert b'\nFrom: ' + origin + b'\n' in new


def test_login_variables():
    """USER and LOGNAME stand behind the account's own name where they are not trusted, and help where it has none."""
    environ = {b'USER': b'u', b'LOGNAME': b'l'}
    assert inject.identity(environ, lambda: b'joe', False).user == b'joe'
    assert inject.identity(environ, lambda: None, False).user == b'u'
    assert inject.identity({}, lambda: None, False).user == b'anonymous'
    assert inject.identity({b'MAILUSER': b'm'}, lambda: b'joe', False).user == b'm'


def test_settings_from_environment():
    """The environment overrides the control files, one by one, and only the others are read."""
    read = []
    found = inject.settings({b'QMAILDEFAULTHOST': b'dh', b'QMAILIDHOST': b'id', b'QMAILPLUSDOMAIN': b'p'},
                            lambda name: read.append(name) or b'file', lambda host: False)
    assert (found.defaulthost, found.defaultdomain, found.plusdomain, found.idhost) == (b'dh', b'file', b'p',
                                                                                        b'id')
    assert read == [b'defaultdomain']
    with pytest.raises(inject.Refused):
        inject.Settings(b'a(b', b'x', b'x', b'x')


@pytest.mark.parametrize('letters,gone,kept', [(b'f', b'someone@else', b'<i@d>'),
                                               (b'i', b'<i@d>', b'someone@else')])
def test_deleting_letters(letters, gone, kept):
    """Letters f and i replace what the message brought."""
    new, _ = compose(b'From: someone@else.x\nMessage-ID: <i@d>\nTo: a\n', {b'QMAILINJECT': letters})
    assert gone not in new and kept in new


def test_return_path():
    """A Return-Path field names the sender, unless the caller did or letter s is set; it never stays."""
    for environ, options, sender in (({}, {}, b'r@x.y'), ({b'QMAILINJECT': b's'}, {},
                                                          b'joe@host.example.com'),
                                     ({b'QMAILINJECT': b'r'}, {}, b'r@x.y-@[]'), ({}, {'sender': b''}, b''),
                                     ({}, {'sender': b'f@g'}, b'f@g')):
        new, composer = compose(b'Return-Path: <r@x.y>\nReturn-Path: <z@x.y>\nTo: a\n', environ, **options)
        assert composer.sender == sender
        assert b'Return-Path' not in new
    assert compose(b'Return-Path: <>\nTo: a\n')[1].sender == b''


def test_removed_and_kept():
    """Bcc, Resent-Bcc, Return-Path and Content-Length go; everything else stays in order, byte for byte."""
    other = b'X-A:  odd \n\tfolded\nApparently-To: p@q.r\nErrors-To: e@f.g\nreceived: \xff\x00\n'
    new, composer = compose(b'bcc : x\nTo: y\nReturn-Path: z\nContent-length: 4\n' + other)
    assert new.endswith(b'To: y@host.example.com\n' + other)
    assert composer.header_recipients() == [b'x@host.example.com', b'y@host.example.com', b'p@q.r']
    assert compose(b'Resent-Bcc: x\nTo: y\n')[1].header_recipients() == [b'x@host.example.com']


def test_resent():
    """With any Resent- field only the Resent- recipients count, and nothing but Resent- fields is supplied."""
    new, composer = compose(b'To: a\nBcc: b\nResent-Sender: s\n')
    assert composer.header_recipients() == []
    assert b'Resent-Cc: recipient list not shown: ;\n' in new
    assert [line.partition(b':')[0] for line in new.split(b'\n')[:4]] == \
        [b'Resent-Date', b'Resent-Message-ID', b'Resent-From', b'Resent-Cc']
    assert b'\nDate' not in new


@pytest.mark.parametrize('field', [b'To: alice, @r.example:carl@x.com\n', b'Cc: "open\n', b'Bcc: (open\n',
                                   b'Apparently-To: a ]\n', b'To: joe <ann@x.example\n', b'Cc: ann, [1.2.3.4\n',
                                   b'Bcc: a <b@x.example> <\n'])
def test_unparsable_recipients(field):
    """A recipient field without meaning is refused by name where its recipients are wanted, kept where they are not."""
    with pytest.raises(inject.Refused) as caught:
        compose(b'Subject: x\n' + field)
    assert caught.value.line == field
    new, _ = compose(field, wants_recipients=False)
    assert field in new or field.startswith(b'Bcc')
    new, composer = compose(field + b'Resent-To: y\n')
    assert composer.header_recipients() == [b'y@host.example.com']


NO_LOCAL_PARTS = [b'@broken', b'""@here.example', b'@a.example,@b.example:', b'@', b'.', b'""', b'@[]']


@pytest.mark.parametrize('broken', NO_LOCAL_PARTS)
def test_no_local_part(broken):
    """An address that rewriting makes empty, or without a local part, is refused by its name, never dropped in silence; a
    field with it that names no recipient here stays as it is."""
    for field in (b'To: joe@x.example, <%s>\n', b'Cc: <%s>\n', b'From: <%s>\n', b'Bcc: x: joe@x.example, <%s>;\n'):
        with pytest.raises(inject.Refused) as caught:
            compose(b'Subject: x\n' + field % broken)
        assert caught.value.why == b'address without a local part: ' + broken
    assert b'\nTo: joe, <%s>\n' % broken in compose(b'To: joe, <%s>\n' % broken, wants_recipients=False)[0]
    with pytest.raises(inject.Refused) as caught:
        inject.listed(b'joe, <%s>' % broken, HOSTS)
    assert caught.value.why.endswith(b': ' + broken)
    assert compose(b'Cc: <>, x:;\nTo: <@a,@b:joe@c.d>\n')[1].header_recipients() == [b'joe@c.d']


def test_empty_user():
    """An empty user in the environment is no reason to refuse a message."""
    assert compose(b'To: joe\n', {b'USER': b''})[1].sender == b'@host.example.com'


@pytest.mark.parametrize('field', [b'From: a: b\n', b'Reply-To: "x\n', b'Return-Path: (\n',
                                   b'Resent-From: (\n', b'Reply-To: joe <ann@x.example\n'])
def test_unparsable_others(field):
    """Other address fields without meaning are refused as in qmail, or kept for callers that cannot mend them."""
    with pytest.raises(inject.Refused) as caught:
        compose(b'To: x\n' + field)
    assert caught.value.line == field
    new, _ = compose(b'Resent-To: x\n' + field, strict=False)
    assert field in new or field.startswith(b'Return')


@pytest.mark.parametrize('given_,rewritten', [
    (b'joe', b'joe@host.example.com'), (b'joe@h', b'joe@h.example.com'), (b'joe@h+', b'joe@h.com'),
    (b'joe@h.', b'joe@h.example.com'), (b'joe@h.x.', b'joe@h.x'), (b'joe@', b'joe@host.example.com'),
    (b'@a,@b:joe@h', b'joe@h.example.com'), (b'joe@[1.2.3.4]', b'joe@[1.2.3.4]'), (b'x@[]', b'x@[]'),
    (b'#@[]', b'#@[]'), (b'@foo', b''), (b'.', b''), (b'@', b''), (b'joe+', b'joe+@host.example.com'),
    (b'"a b"', b'a b@host.example.com'), (b'a.b', b'a.b@host.example.com'), (b'a@b@c', b'a@b@c.example.com'),
])
def test_rewriting(given_, rewritten):
    """Route, dot, at, default host, plus domain, default domain: in that order."""
    from qpy.core import token822
    assert inject.envelope_address(inject.rewrite(token822.parse(given_), HOSTS)) == rewritten


@pytest.mark.parametrize('given_,rewritten', [
    (b'root', b'root@vm'), (b'root@vm', b'root@vm'), (b'root@VM', b'root@VM'), (b'root@vm.', b'root@vm'),
    (b'root@localhost', b'root@localhost'), (b'Joe <root@LocalHost>', b'root@LocalHost'),
    (b'joe@other', b'joe@other.example.com'), (b'joe@vm@other', b'joe@vm@other.example.com'),
    (b'joe@other.vm', b'joe@other.vm')])
def test_names_of_this_machine(given_, rewritten):
    """A host without a dot that is this machine, or localhost, gets no domain: mail for it stays here."""
    hosts = inject.Settings(b'vm', b'example.com', b'com', b'vm', lambda host: host == b'vm')
    assert inject.listed(given_, hosts) == [rewritten]


def test_no_default_domain():
    """Without a default domain nothing is added to any name."""
    hosts = inject.Settings(b'vm', b'', b'com', b'vm')
    assert inject.listed(b'root, joe@other, joe@a.b', hosts) == [b'root@vm', b'joe@other', b'joe@a.b']


@pytest.mark.parametrize('raw,form', [(b'joe', b'joe@host.example.com'), (b'a b@c', b'a b@c.example.com'),
                                      (b'Joe <joe>', b'Joe <joe>@host.example.com'), (b'', b''), (b'x@y.z',
                                                                                                  b'x@y.z'),
                                      (b'joe-@h.x-@[]', b'joe-@h.x-@[]'), (b'u@d.x@fixme',
                                                                           b'u@d.x@fixme.example.com')])
def test_envelope_form(raw, form):
    """Arguments of inject are addresses as they are meant, without quoting."""
    assert inject.envelope_form(raw, HOSTS) == form


@pytest.mark.parametrize('raw', [b'a@(b', b'a@"b', b'a\n@b', b'a@b ]', b'@b.example', b'@'])
def test_envelope_form_nonsense(raw):
    """An argument whose host is nonsense is refused, and so is a line break anywhere."""
    with pytest.raises(inject.Refused):
        inject.envelope_form(raw, HOSTS)


@pytest.mark.parametrize('words,found', [
    (b'joe', [b'joe@host.example.com']), (b'x@ex.org,joe', [b'x@ex.org', b'joe@host.example.com']),
    (b'Joe <joe>', [b'joe@host.example.com']), (b'joe (Joe)', [b'joe@host.example.com']),
    (b', ,a,, b ,', [b'a@host.example.com', b'b@host.example.com']), (b'"a,b"@c.d', [b'a,b@c.d']),
    (b'"Joe, Q" <j@k.l>, m', [b'j@k.l', b'm@host.example.com']), (b'', []), (b'<>', []),
    (b'|prog', [b'|prog@host.example.com']), (b'/etc/passwd', [b'/etc/passwd@host.example.com']),
])
def test_listed(words, found):
    """Operands of sendmail are address lists: commas, names, comments, empty items."""
    assert inject.listed(words, HOSTS) == found


@pytest.mark.parametrize('words,sender', [(b'', b''), (b'<>', b''), (b'< >', b''),
                                          (b'joe', b'joe@host.example.com'),
                                          (b'<a@b.c>', b'a@b.c'), (b'Joe <a@b.c>', b'a@b.c'), (b'a b@c.d',
                                                                                               b'a b@c.d'),
                                          (b'l-@h.x-@[]', b'l-@h.x-@[]'), (b' ', b'')])
def test_sender_argument(words, sender):
    """What -f may say."""
    assert inject.sender_argument(words, HOSTS) == sender


def test_followup():
    """A message to one of the user's lists gets Mail-Followup-To, all of To and Cc, unless it has one."""
    fields = b'To: a@x.y, LIST@l.z\nCc: "b c"@x.y\n'
    new, _ = compose(fields, list_addresses={b'list@l.z'})
    assert b'\nMail-Followup-To: "b c"@x.y,\n  a@x.y,\n  LIST@l.z\nTo: ' in new
    assert b'Followup' not in compose(fields, list_addresses={b'other@l.z'})[0]
    assert compose(fields + b'Mail-Followup-To: q\n', list_addresses={b'list@l.z'})[0].count(b'Followup') == 1


def test_no_header_injection():
    """A name with line breaks makes one line; a folded name stays one word."""
    new, _ = compose(b'To: x\n', {b'NAME': b'x\nBcc: y\r\n\0'})
    assert b'\nFrom: "x Bcc: y   " <joe@host.example.com>\n' in new
    new, composer = compose(b'To: "Long\n name" <a@b.c>\n')
    assert b'\nTo: "Long name" <a@b.c>\n' in new


@given(st.text(alphabet='a b.@,:;<>()[]"\\\t\n\xe9\x80Tto', max_size=80).map(lambda s: s.encode('latin-1')))
def test_any_field(text):
    """Any bytes in any field: composed or refused, and the header that leaves is a header."""
    try:
        new, composer = compose(b'To:' + text.replace(b'\n', b'\n ') + b'\nFrom: ' + text.replace(b'\n',
            b'') + b'\n')
    except inject.Refused:
        return
    splitter = header.Splitter()
    splitter.feed(new) or splitter.end()
    assert b''.join(splitter.fields) == new and splitter.body == b''
    assert not any(b'\n' in each for each in composer.header_recipients())


# --- the body ------------------------------------------------------------------------------------------------

def repaired(pieces):
    body = inject.Body()
    return b''.join([body.feed(piece) for piece in pieces]) + body.end()


@pytest.mark.parametrize('data,lines', [
    (b'a\r\nb\r\n', b'a\nb\n'), (b'a\r\r\nb', b'a\nb\n'), (b'a\rb', b'a\nb\n'), (b'a', b'a\n'), (b'', b''),
    (b'\r', b'\n'),
    (b'a\r', b'a\n'), (b'\r\n.\r\n', b'\n.\n'), (b'\0\xff\n', b'\0\xff\n'), (b'a\n\r', b'a\n\n'), (b'\r\r\rx',
        b'\n\n\nx\n')])
def test_body(data, lines):
    """Every line end becomes LF, the last line gets one, nothing else changes."""
    assert repaired([data]) == lines


@given(st.lists(st.sampled_from([b'\r', b'\n', b'x', b'\r\n', b'yy', b'\0'])), st.integers(1, 4))
def test_body_pieces(words, size):
    """The same lines however the bytes arrive; no CR is left."""
    data = b''.join(words)
    whole = repaired([data])
    assert whole == repaired([data[i:i + size] for i in range(0, len(data), size)])
    assert b'\r' not in whole and (not whole or whole.endswith(b'\n'))
