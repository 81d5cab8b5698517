"""core.controls: what the bytes of a control file mean."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import controls


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
    (b'\n20', None), (b' \n', None)])
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
    data = '# Ümlaut\nA.example \t\n\n  \n b.example\n#c\nc.example'.encode()
    assert controls.parse_list(data, b'locals') == [b'A.example', b' b.example', b'c.example']
    assert controls.parse_set(data, b'locals') == {b'a.example': 2, b' b.example': 5, b'c.example': 7}


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
    """Keys ignore case, values do not; last duplicate wins; lines without colon are ignored; `:` is a key too."""
    data = b'a.example:one\nA.EXAMPLE:Two\nnothing\n.b.example:\n:rest:25\njoe@c.example:j:k\n'
    assert controls.parse_map(data, b'virtualdomains') == {
        b'a.example': b'Two', b'.b.example': b'', b'': b'rest:25', b'joe@c.example': b'j:k'}
    assert controls.parse_map_lines(data, b'virtualdomains')[b'a.example'] == (b'Two', 2)


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
