"""core.controls: what the bytes of a control file mean."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import controls, grammar, grammars


@pytest.mark.parametrize('data, value', [
    (b'mx.example.org\n', b'mx.example.org'), (b'mx.example.org', b'mx.example.org'),
    (b'mx.example.org \t \nsecond line\r\n', b'mx.example.org'), (b'mx.example.org.\n', b'mx.example.org'),
    (b'Mx.Example.ORG', b'Mx.Example.ORG'), (b'[192.0.2.1]', b'[192.0.2.1]'), (b'localhost\n', b'localhost')])
def test_first_line_is_the_value(data, value):
    """Only the first line counts, without blanks at its end and without the root's dot."""
    assert controls.parse_line(data, b'me') == value


@pytest.mark.parametrize('data, word', [
    (b'', b'empty'), (b'\n', b'empty'), (b'  \n', b'empty'), (b'mx example\n', b'not a host name'),
    (b' mx.example.org\n', b'not a host name'), (b'mx.example.org\r\n', b'carriage return'),
    (b'\xef\xbb\xbfmx.example.org\n', b'byte order mark'), (b'mx.ex\0ample\n', b'NUL'),
    ('mü.example\n'.encode(), b'xn--'), (b'mx..example', b'dot too many'), (b'.', b'dot too many'),
    (b'joe@example.org', b'not a host name'), (b'a' * 300, b'253')])
def test_a_broken_me_is_refused_with_its_remedy(data, word):
    """me empty, with blanks, CRLF, BOM, NUL or UTF-8 is an error that names file, line and remedy (A-02)."""
    with pytest.raises(controls.ControlError) as caught:
        controls.parse_line(data, b'me')
    assert (caught.value.file, caught.value.line) == (b'me', 1)
    assert word in caught.value.remedy
    assert caught.value.text.startswith(b'control/me, line 1')
    assert b'\n' not in caught.value.text and caught.value.text.isascii()


def test_what_stands_below_line_one_is_for_people():
    """A line file may explain itself on the lines below, with any bytes."""
    assert controls.parse_number(b'60\n\nZeit in Sekunden: \xc3\xbc \r\n\0', b'timeoutconnect') == 60
    assert controls.parse_line(b'hello there\n\r', b'smtpgreeting') == b'hello there'
    assert controls.parse_line(b'  two\n', b'smtpgreeting') == b'  two'


@pytest.mark.parametrize('data, value', [
    (b'20\n', 20), (b'20 \n', 20), (b'0', 0), (b'007', 7), (b'20 at a time\n', 20), (b'20\t# so', 20), (b'', None),
    (b'\n', None), (b' \n# not yet\n', None)])
def test_numbers(data, value):
    """Digits, then perhaps a blank and words; an empty line means the default."""
    assert controls.parse_number(data, b'databytes') == value


@pytest.mark.parametrize('data', [b'10M', b'-1', b'+1', b'0x10', b'1_000', b'twenty', b'9' * 30, '٣'.encode(),
                                  b' 20', b'10\r\n', b'1.5'])
def test_numbers_are_decimal_digits(data):
    """What Python's int() or C's atoi() would make something of is refused."""
    with pytest.raises(controls.ControlError):
        controls.parse_number(data, b'databytes')


def test_limits():
    """A number outside its limits becomes the nearest allowed one (A-10)."""
    assert controls.limit(b'concurrencyremote', 10 ** 6) == 20000
    assert controls.limit(b'timeoutsmtpd', 0) == 1
    assert controls.limit(b'databytes', 10 ** 15) == 10 ** 15


def test_choices():
    """A word out of a fixed set, any case; another one is refused with the set."""
    assert controls.parse_line(b'QSBMF\n', b'bounceformat') == b'qsbmf'
    with pytest.raises(controls.ControlError) as caught:
        controls.parse_line(b'html', b'bounceformat')
    assert b'rfc3464 qsbmf' in caught.value.remedy


def test_lists():
    """Comments and empty lines go, blanks at the end go, blanks in front stay, order stays."""
    data = '# Ümlaut\nA@example \t\n\n  \n b@example\n#c\nc@example'.encode()
    assert controls.parse_list(data, b'checkfrom') == [b'A@example', b' b@example', b'c@example']
    assert controls.parse_set(data, b'checkfrom') == {b'a@example': 2, b' b@example': 5, b'c@example': 7}


@pytest.mark.parametrize('name, entry', [
    (b'badmailfrom', b' a@b.test'), (b'badmailfrom', b'*@c.test'), (b'badmailfrom', b'@d.test.'), (b'badrcptto', b'\tjoe@here'),
    (b'validrcptto', b' joe@here'), (b'validrcptto', b'*@here'), (b'badrcptto', b'joe@a b'), (b'checkexempt', b'@.d.test'),
    (b'virtualdomains', b'@x.test:joe'), (b'virtualdomains', b'*@x.test:joe'), (b'virtualdomains', b' ann@x.test:joe')])
def test_what_can_never_match_is_an_error(name, entry):
    """It would do nothing, in silence; as written by hand, and with what the remedy says."""
    with pytest.raises(controls.ControlError) as caught:
        controls.lines(b'# one\n' + entry + b'\n', name)
    assert caught.value.line == 2


@pytest.mark.parametrize('name, entry', [
    (b'badmailfrom', b'"a b"@c.test'), (b'badmailfrom', b'@c.test'), (b'badrcptto', b'a@[192.0.2.1]'), (b'validrcptto', b'@here'),
    (b'badmailfrom', '@b\u00fccher.test'.encode()), (b'virtualdomains', b'ann@x.test:joe'), (b'virtualdomains', b'.x.test:joe'),
    (b'virtualdomains', b':joe'), (b'virtualdomains', b'[192.0.2.1]:joe')])
def test_what_can_match_is_none(name, entry):
    """The forms that the manual names."""
    assert controls.lines(entry, name) == [(1, entry)]


@pytest.mark.parametrize('name, data', [
    (b'databytes', b'\n# c\n1000\n'), (b'smtpgreeting', b'\nmail.test\n'), (b'smtpgreeting', b''), (b'bouncefrom', b' \n'),
    (b'bouncefrom', b'\nMAILER\n'), (b'queuelifetime', b'9' * 30)])
def test_first_lines_that_say_nothing(name, data):
    """A value below an empty first line counts nowhere, and what others read of us is never empty."""
    read = controls.parse_number if controls.row(name)[1] == controls.NUMBER else controls.parse_line
    with pytest.raises(controls.ControlError):
        read(data, name)


@pytest.mark.parametrize('bad', [b'x\r', b'x\0y', '\xfc.example'.encode(), b'\xef\xbb\xbfx'])
def test_list_errors_name_their_line(bad):
    """CR, NUL, BOM or UTF-8 in an entry is an error with its line number."""
    with pytest.raises(controls.ControlError) as caught:
        controls.parse_list(b'# c\nfine.example\n' + bad + b'\n', b'locals')
    assert caught.value.line == 3


def test_eight_bit_local_parts():
    """Files that hold mail addresses may hold UTF-8."""
    assert controls.parse_list('jürgen@example.org\n'.encode(), b'badmailfrom') == ['jürgen@example.org'.encode()]


def test_maps():
    """Keys ignore case, values do not; last duplicate wins; the empty key is one too."""
    data = b'a.example:one\nA.EXAMPLE:Two\n\n.b.example:\n:rest:25\njoe@c.example:j:k\n'
    assert controls.parse_map(data, b'virtualdomains') == {
        b'a.example': b'Two', b'.b.example': b'', b'': b'rest:25', b'joe@c.example': b'j:k'}
    assert controls.parse_map_lines(data, b'virtualdomains')[b'a.example'] == (b'Two', 2)


SILENT = [          # file, bytes, line, a word of the remedy: what could never match, or would mean something else
    (b'virtualdomains', b'a.example:bob\nb.example\n', 2, 'domain:user'),
    (b'virtualdomains', b'a.example:bob@c.example\n', 1, 'user of this machine'),
    (b'virtualdomains', b'a example:bob\n', 1, 'not a domain'),
    (b'virtualdomains', b'joe@a..example:bob\n', 1, 'a dot too many'),
    (b'locals', b'# ours\na b\n', 2, 'one domain per line'),
    (b'locals', b'me.test, you.test\n', 1, 'one domain per line'),
    (b'locals', b'.me.test\n', 1, 'begins with a dot'),
    (b'percenthack', b'joe@me.test\n', 1, 'not a domain'),
    (b'rcpthosts', b'me.test.\n', 1, 'a dot too many'),
    (b'morercpthosts', b'a:b\n', 1, 'not a domain'),
    (b'badmailfrom', b'spam.example\n', 1, '@host'),
    (b'badrcptto', b'a@b\nspam\n', 2, '@host'),
    (b'badhelo', b'mail.test\n^dialup\n', 2, 'no patterns'),
    (b'validrcptto', b'a@b\nexample.org\n', 2, '@host'),
    (b'doublebounceto', b'@\n', 1, 'before the @'),
    (b'doublebounceto', b'root@me.test\n', 1, 'before the @'),
    (b'bouncefrom', b'mailer daemon\n', 1, 'before the @'),
    (b'smtproutes', b':relay.test\nrelay.test\n', 2, 'no colon'),
    (b'smtproutes', b'a b:relay.test\n', 1, 'not a domain'),
    (b'smtproutes', b'a.test:relay.test:smtp\n', 1, 'port number'),
    (b'accounts', b'qpyd:maild\nqpyx:y\n', 2, 'one of the roles qpyd'),
    (b'accounts', b'qpyd\n', 1, 'role:name'),
    *((b'accounts', b'alias:a-1\nqpyd:' + name + b'\n', 2, 'systemd-sysusers') for name in (
        b'mx.queue', b'Mail', b'1mail', b'-m', b'a b', b'a.b', b'm' * 32)),
    (b'resolvers', b'# two\n127.0.0.1\nns.example\n', 3, 'ADDRESS:PORT'),
    (b'qmqpservers', b'mail.example\n', 1, 'ADDRESS:PORT'),
    (b'defaultdelivery', b'Maildir\n', 1, './Maildir/'),
    (b'defaultdelivery', b'|preline procmail\njoe@a.test\n', 2, '&address'),
    (b'defaultdelivery', b'\n', 1, 'empty'),
    (b'defaultdelivery', b'', 1, 'empty'),
    (b'defaultdelivery', b'#./Maildir/\n\n', 1, 'thrown away'),
    (b'tcp.smtp', b'127.:allow\n10.:maybe\n', 2, 'allow or deny'),
    (b'tcp.smtp', b'\0not a cdb', 0, 'cdb'),
    (b'services', b'smtpd qpyd tcp:25 qpy-smtpd\n', 1, 'tcp:ADDRESS:PORT'),
    (b'morercpthosts.cdb', b'short', 0, 'cdb'),
]


@pytest.mark.parametrize('name, data', [
    ('smtplogins', b'joe@relay.test:sEcReT\r\n'), ('smtplogins', b'joe@relay.test:a\0sEcReT\n'), ('smtplogins', b'joe@relay.test sEcReT\n'),
    ('smtplogins', b'joe:sEcReT\n'), ('smtplogins', b'joe@a..b:sEcReT\n'), ('smtplogins', b'\xef\xbb\xbfjoe@relay.test:sEcReT\n'),
    ('smtproutes', b':relay.test:587|joe|sEcReT\n'), ('smtproutes', b':relay.test|joe|sEcReT\r\n'),
    ('senderroutes', b'@a.test:relay.test|joe|sEcReT\n'), ('authsenders', b'@a.test,relay.test|joe|sEcReT\n')])
def test_no_password_is_said(name, data):
    """Whatever is wrong with a file that holds passwords, what is said of it holds none: it goes to the log."""
    name = name.encode()
    with pytest.raises(controls.ControlError) as caught:
        controls.parse_map(data, name)
        grammars.CHECKS.get(name, controls.parse_list)(data, name)
    assert name in caught.value.text and b'line 1' in caught.value.text and b'sEcReT' not in caught.value.text


@pytest.mark.parametrize('name, data, line, words', SILENT)
def test_what_would_silently_not_work_is_an_error(name, data, line, words):
    """Entries that could never match, and lines that would mean something else, are named with line and remedy."""
    kind = controls.row(name)[1]
    with pytest.raises(controls.ControlError) as found:
        (grammar.check if name in grammar.CHECKS else PARSER[kind])(data, name)
    assert found.value.line == line and words in str(found.value)


@pytest.mark.parametrize('name, data', [
    (b'virtualdomains', b'joe@a.test:joe\na.test:\n.b.test:bob\n:rest\n[192.0.2.1]:lit\nx@[192.0.2.1]:lit\n[IPv6:::1]:six\n'),
    (b'locals', b'me.test\nlocalhost\n[127.0.0.1]\n[IPv6:::1]\nA_b.test\n'), (b'rcpthosts', b'.me.test\nxn--a.test\n'),
    (b'smtproutes', b':relay.test:26\n.a.test:[::1]:25\nb.test:\n[192.0.2.1]:127.0.0.1\n'), (b'doublebounceto', b'\n'),
    (b'defaultdelivery', b'# nothing\n|a\n./b\n/c/d/\n&e@f\n\n'), (b'badmailfrom', b'@a.test\n"a b"@c.test\n'),
    (b'resolvers', b'127.0.0.1:53\n::1\n'), (b'accounts', b'qpyd:maild\n'), (b'accounts', b'qpyd:_m-1' + b'm' * 26 + b'\n'), (b'tcp.smtp', b':allow\n')])
def test_what_is_right_is_taken(name, data):
    """Every form the manual names is accepted."""
    kind = controls.row(name)[1]
    (grammar.check if name in grammar.CHECKS else PARSER[kind])(data, name)


PARSER = {controls.LINE: controls.parse_line, controls.NUMBER: controls.parse_number, controls.LIST: controls.parse_list,
          controls.MAP: controls.parse_map, controls.TEXT: controls.parse_text}
PARSERS = (controls.parse_line, controls.parse_number, controls.parse_list, controls.parse_set, controls.parse_map,
           controls.parse_map_lines, controls.parse_text)


@given(st.binary(max_size=200) | st.text('a.:# \n\r\0\xfc1', max_size=40).map(str.encode),
       st.sampled_from([row[0] for row in controls.TABLE]))
def test_parsers_are_total(data, name):
    """Whatever the bytes: a value or ControlError with a text of one printable line."""
    for parse in PARSERS:
        try:
            parse(data, name)
        except controls.ControlError as error:
            assert error.text and not error.text.strip(bytes(range(32, 127)))


@given(st.lists(st.binary(max_size=12)))
def test_the_fast_way_past_the_checks_agrees_with_them(entries):
    """A file judged clean as a whole has no line in trouble."""
    data = b'\n'.join(entries)
    if controls.clean(data, b'locals'):
        assert not any(controls.trouble(line) for line in data.split(b'\n'))


def test_long_maps_load():
    """A map of a hundred thousand lines loads (A-09)."""
    data = b''.join(b'd%d.example:u\n' % n for n in range(10 ** 5))
    assert len(controls.parse_map(data, b'virtualdomains')) == 10 ** 5


@pytest.mark.parametrize('typo, name', [
    (b'virtualdomain', b'virtualdomains'), (b'local', b'locals'), (b'rcpthost', b'rcpthosts'), (b'Me', b'me'),
    (b'concurencyremote', b'concurrencyremote'), (b'smtprouts', b'smtproutes'), (b'queuelifteime', b'queuelifetime'),
    (b'README', b''), (b'zzz', b''), (b'', b'')])
def test_nearest(typo, name):
    """A misspelt name finds its file; a foreign one finds none."""
    assert controls.nearest(typo) == name


def test_the_table_is_sound():
    """Names are unique and sorted but for me; kinds and defaults fit together."""
    names = [row[0] for row in controls.TABLE]
    assert names[0] == b'me' and names[1:] == sorted(set(names[1:]))
    for name, kind, default, readers, meaning in controls.TABLE:
        assert kind in (controls.LINE, controls.NUMBER, controls.LIST, controls.MAP, controls.TEXT, controls.CDB)
        assert isinstance(default, int) == (kind == controls.NUMBER)
        assert readers and meaning and meaning.isascii()
    for name in (*controls.LIMITS, *controls.CHOICES, *controls.HOSTS, *controls.EIGHT_BIT):
        assert controls.row(name)
