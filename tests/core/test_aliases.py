"""/etc/aliases and .forward: what their lines mean."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import aliases, aliasvalue, dotforward, dotqmail, text

FILE = rb'''# comment
Root: joe, mary@example.org
staff: joe, "Mary M." <mary@x>,
  # a line that goes on
	\bob, "o'neil \"x\""@x
owner-staff: joe
all: staff, root, ann
teams: dev, ops
dev: ann, bob
ops: bob, carl
tickets: "|/usr/bin/gate -q 'a, b'"
gate2: |"/usr/bin/gate two", ann
nobody: /dev/null
null2: /dev/null, ann
news: :include:/etc/news.list, ann
"quoted": ann
'''


def test_the_file():
    """Names in lower case; folded lines; quotes; nested names once; a list with an owner is not expanded."""
    table, wrong = aliases.compile(FILE)
    assert wrong == [] and table[b'root'] == b'&joe\n&mary@example.org\n'
    assert table[b'staff'] == b'?owner-staff\n&joe\n&mary@x\n&bob\n&o\'neil "x"@x\n'
    assert table[b'all'] == b'&staff\n&joe\n&mary@example.org\n&ann\n'
    assert table[b'teams'] == b'&ann\n&bob\n&carl\n'
    assert table[b'tickets'] == b"|/usr/bin/gate -q 'a, b'\n"
    assert table[b'gate2'] == b'|/usr/bin/gate two\n&ann\n'
    assert table[b'nobody'] == b'#\n' and table[b'null2'] == b'&ann\n' and table[b'quoted'] == b'&ann\n'
    assert table[b'news'] == b':/etc/news.list\n&ann\n' and table[b'owner-staff'] == b'&joe\n'


@pytest.mark.parametrize('rest', [b'/var/mail/x', b'ann, /var/mail/x', b'', b'|', b':include:x', b':fail:',
                                  b'"ann', b'a@b@(', b'<>', b'""@x', b'joe, @y.example', b'@', b'joe <ann@x', b'a (b',
                                  b'a@[1.2.3.4', b'"|prog', b':include:"/x', b'ann, joe <'])
def test_what_cannot_be_is_kept_waiting(rest):
    """A senseless entry is named with its line, and mail for it waits: nothing of it is lost or done by
    halves."""
    table, wrong = aliases.compile(b'good: ann\nbad: ' + rest + b'\n')
    assert [(line, name) for line, name, _ in wrong] == [(2, b'bad')] and table[b'good'] == b'&ann\n'
    assert table[b'bad'].startswith(b'!') and table[b'bad'].count(b'\n') == 1


@pytest.mark.parametrize('line, table', [
    (b'"a b": ann', {b'a b': b'&ann\n'}), (b'"a": "b c"@x.test', {b'a': b'&b c@x.test\n'}), (b'"a" : "x" <ann@x.test>', {b'a': b'&ann@x.test\n'}),
    (b'a: ' + b'l' * 900 + b'@x.test', {b'a': b'&' + b'l' * 900 + b'@x.test\n'})])
def test_names_and_addresses_in_quotes(line, table):
    """A quote ends at the next one; an address has one @ that counts, the last, and may be long."""
    assert aliases.compile(line + b'\n') == (table, [])


def test_an_address_that_is_too_long_waits():
    """No SMTP command could hold it."""
    table, wrong = aliases.compile(b'a: ' + b'l' * aliases.LONGEST + b'@x.test\n')
    assert [name for _, name, _ in wrong] == [b'a'] and table[b'a'].startswith(b'!')


def test_names_of_users_are_theirs():
    """What stands for a name that mail never asks the file about is that name, with a backslash or without, at any depth; one
    that names itself waits for nothing."""
    table, wrong = aliases.compile(b'root: joe\njoe: ann\nw: \\Joe\ntwo: root, joe, web\nweb: bob\nsue: sue\ntim: tim, two\n',
                                   {b'joe', b'sue', b'tim'}.__contains__)
    assert table == {b'root': b'&joe\n', b'joe': b'&ann\n', b'w': b'&Joe\n', b'two': b'&joe\n&bob\n', b'web': b'&bob\n',
                     b'sue': b'!it leads to itself only\n', b'tim': b'&joe\n&bob\n'} and not wrong


def test_circles_and_doubles():
    """Names that lead to themselves only wait; a circle with a way out ends there; of two entries the first
    counts."""
    table, wrong = aliases.compile(b'a: b\nb: a\nc: d\nd: c, ann\nann: x\nann: y\nsenseless\n')
    assert table[b'a'] == table[b'b'] == b'!it leads to itself only\n'
    assert table[b'c'] == table[b'd'] == b'&x\n' and len(wrong) == 4


def test_lists_that_name_each_other(monkeypatch):
    """Each word is looked at once, and each name asked about once, however many names lead there and however deep."""
    names, asked, lowered, lower = [b'n%d' % n for n in range(40)], [], [], text.lower
    monkeypatch.setattr(text, 'lower', lambda word: lowered.append(word) or lower(word))
    table, wrong = aliases.compile(b''.join(name + b': ' + b', '.join([*names, name + b'@x']) + b'\n' for name in names),
                                   lambda name: asked.append(name))
    assert not wrong and {len(value.split()) for value in table.values()} == {40} and table[b'n7'].startswith(b'&n39@x\n')
    assert len(asked) == 40 and len(lowered) < 4 * 40 * 41
    deep = b''.join(b'n%d: n%d\n' % (n, n + 1) for n in range(1100)) + b'n1100: ann\n'
    assert aliases.compile(deep)[0][b'n0'] == b'&ann\n'


def test_values():
    """What was written is read."""
    items = [(b'&', b'a@x'), (b'|', b'cmd'), (b':', b'/f')]
    assert aliasvalue.parse(b'?owner-l\n&a@x\n|cmd\n:/f\n') == (b'owner-l', items)
    assert aliasvalue.parse(b'#\n') == (b'', [])
    assert aliasvalue.waiting(b'?owner-l\n&a@x\n!why\n') == b'why' and aliasvalue.waiting(b'&!a@x\n') == b''


def test_lists():
    """An :include: file holds addresses, by comma or line, and nothing else."""
    assert aliases.listed(b'# staff\nann@x, bob\n\nCarl <c@x>\n') == [b'ann@x', b'bob', b'c@x']
    for data in (b'@x\n', b'|rm -rf /\n', b'/etc/passwd\n', b'a\0b\n', b':include:/x\n', b'joe <ann@x\nbob\n'):
        with pytest.raises(aliases.Problem):
            aliases.listed(data)


@given(st.binary(max_size=200))
def test_any_bytes(data):
    """Any file compiles, and no value has a line that is not one of the six."""
    table, _ = aliases.compile(b'x:' + data)
    for value in table.values():
        assert {line[:1] for line in value.split(b'\n')[:-1]} <= {b'?', b'&', b'|', b':', b'#', b'!'}, value
    dotforward.parse(data, b'joe', b'joe', b'here')


@pytest.mark.parametrize('data, wanted', [
    (b'', None), (b'# only\n\n', None), (b'/dev/null\n', []),
    (b'a@x, b\n', [(dotqmail.FORWARD, b'a@x'), (dotqmail.FORWARD, b'b')]),
    (b'\\joe, a@x', [(dotforward.SELF, b''), (dotqmail.FORWARD, b'a@x')]),
    (b'Joe@HERE', [(dotforward.SELF, b'')]),
    (b'"|vacation joe"', [(dotqmail.PROGRAM, b"exec preline /bin/sh -c 'vacation joe'")]),
    (b"|a 'b'", [(dotqmail.PROGRAM, b"exec preline /bin/sh -c 'a '\\''b'\\'''")]),
    (b'/home/joe/mbox\n/home/joe/M/\n', [(dotqmail.MBOX, b'/home/joe/mbox'),
                                         (dotqmail.MAILDIR, b'/home/joe/M/')]),
    (b':include:/x', [(dotqmail.FAIL, dotforward.NO_INCLUDE)]),
    (b'"x', [(dotqmail.FAIL, dotforward.SENSELESS)]), (b'garbage <', [(dotqmail.FAIL, dotforward.SENSELESS)]),
    (b'ann\njoe <ann@x\n', [(dotqmail.FAIL, dotforward.SENSELESS)]), (b'a@[1\n', [(dotqmail.FAIL, dotforward.SENSELESS)]),
    (b'a\0b', [(dotqmail.FAIL, dotforward.SENSELESS)])])
def test_dot_forward(data, wanted):
    """Forwards, programs, files, oneself; nothing at all is None, and /dev/null is not nothing."""
    assert dotforward.parse(data, b'joe', b'joe', b'here') == wanted
