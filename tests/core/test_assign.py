"""core.assign: users/assign and users/cdb."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import assign, cdb, getpw, text

SAMPLE = (b'=joe.shmoe:joe:503:78:/home/joe:::\n'
          b'+joe-:joe:503:78:/home/joe:-::\n'
          b'=Joe-Exact:ex:600:60:/home/ex:-:pre:rest:of:line\n'
          b'+joe-list-:li:601:61:/home/li:-:pre-:\n'
          b'=joe.shmoe:second:1:1:/:::\n'
          b'+:alias:779:210:/var/qpy/alias:-::\n'
          b'.\nwhat follows is not read\n')


def asked(data, local):
    """What the cdb made of an assign file says about a local part."""
    db = cdb.over(assign.build(data)[0])
    user = assign.find(local, db.get)
    return user and user.fields()


@pytest.mark.parametrize('local, expected', [
    (b'joe.shmoe', (b'joe', b'503', b'78', b'/home/joe', b'', b'')),
    (b'JOE.Shmoe', (b'joe', b'503', b'78', b'/home/joe', b'', b'')),
    (b'joe-FOO', (b'joe', b'503', b'78', b'/home/joe', b'-', b'FOO')),
    (b'joe-', (b'joe', b'503', b'78', b'/home/joe', b'-', b'')),
    (b'joe', (b'alias', b'779', b'210', b'/var/qpy/alias', b'-', b'joe')),
    (b'joe-exact', (b'ex', b'600', b'60', b'/home/ex', b'-', b'pre')),
    (b'joe-exact2', (b'joe', b'503', b'78', b'/home/joe', b'-', b'exact2')),
    (b'Joe-List-X-Y', (b'li', b'601', b'61', b'/home/li', b'-', b'pre-X-Y')),
    (b'', (b'alias', b'779', b'210', b'/var/qpy/alias', b'-', b''))])
def test_lookup_order(local, expected):
    """Exact before wildcard, longer wildcard before shorter, first line first, case of the rest kept."""
    assert asked(SAMPLE, local) == expected


def test_no_match_without_bare_wildcard():
    """Without a `+:` line an unknown local part is not there: getpw decides."""
    assert asked(b'=a:a:1:1:/::-:\n.\n', b'b') is None
    assert asked(b'.\n', b'b') is None


def test_cdb_bytes():
    """Keys and values as qmail-newu writes them, in its order."""
    assert list(cdb.over(assign.build(SAMPLE)[0]).records()) == [
        (b'!joe.shmoe\0', b'joe\x00503\x0078\0/home/joe\0\0'), (b'!joe-', b'joe\x00503\x0078\0/home/joe\0-\0'),
        (b'!joe-exact\0', b'ex\x00600\x0060\0/home/ex\0-\0pre'), (b'!joe-list-', b'li\x00601\x0061\0/home/li\0-\0pre-'),
        (b'!joe.shmoe\0', b'second\x001\x001\0/\0\0'), (b'!', b'alias\x00779\x00210\0/var/qpy/alias\0-\0'), (b'', b'-')]


@pytest.mark.parametrize('data, line', [
    (b'', 1), (b'\n.\n', 1), (b'=joe:joe:1:1:/:::\n', 0), (b'=joe:joe:1:1:/:::', 0), (b'=j:j:1:1:/::\n.\n', 1),
    (b':joe:1:1:/::::\n.\n', 1), (b'=j:j:1:1:/:::\n# comment\n.\n', 2), (b'=j\0:j:1:1:/:::\n.\n', 1),
    (b'=j:j:1:1:/:::\r\n.\n', 1)])
def test_bad_format(data, line):
    """A file that is not in the format is refused as a whole, with the number of the line."""
    with pytest.raises(assign.AssignError) as caught:
        assign.build(data)
    assert caught.value.line == line


@pytest.mark.parametrize('line, word', [
    (b'=j:j:0:0:/:::', b'root'), (b'=j:j:x:1:/:::', b'not a number'), (b'=j:j:1:-1:/:::', b'not a number'),
    (b'=j:j:1:1:home:::', b'slash'), (b'=j::1:1:/:::', b'user name')])
def test_warnings(line, word):
    """What qmail-newu accepts though nothing can be delivered so is accepted with a warning; asked for, it is trouble."""
    data = line + b'\n.\n'
    (number, warning), = assign.build(data)[1]
    assert number == 1 and word in warning
    if word != b'user name':
        with pytest.raises(getpw.Trouble):
            asked(data, b'j')


@pytest.mark.parametrize('line, key', [(b'joe:j:1:1:/:::', b'oe'), (b'#=joe:j:1:1:/:::', b'=joe')])
def test_what_is_no_line_of_either_kind(line, key):
    """A forgotten = and a line that was to be a comment mean to qmail-newu what nobody means: so here, with a warning."""
    data, ((number, warning),) = assign.build(line + b'\n.\n')
    assert number == 1 and b'in front' in warning
    assert cdb.over(data).get(b'!' + key + b'\0')


def test_trouble():
    """A cdb without its wildcard record, or with a value of another shape, is temporary trouble."""
    for records in ([], [(b'', b''), (b'!j\0', b'too\0few')], [(b'', b''), (b'!j\0', b'1\x002\x003\0/4\x005\x006\x007')]):
        with pytest.raises(getpw.Trouble):
            assign.find(b'j', cdb.over(cdb.build(records)).get)


NAMES = st.text('abAB-.', max_size=6).map(str.encode)


@given(st.lists(st.tuples(st.sampled_from(b'=+'), NAMES), max_size=12), NAMES)
def test_lookup_agrees_with_a_search_of_the_file(lines, local):
    """The cdb says what reading the file says: the first exact line, else the first of the longest prefixes."""
    data = b''.join(b'%c%s:u%d:1:1:/:-:e:\n' % (sign, name, n) for n, (sign, name) in enumerate(lines)) + b'.\n'
    low = text.lower(local)
    exact = [n for n, (sign, name) in enumerate(lines) if sign == 61 and text.lower(name) == low]
    wild = sorted((-len(name), n) for n, (sign, name) in enumerate(lines)
                  if sign == 43 and low.startswith(text.lower(name)))
    found = asked(data, local)
    if exact:
        assert found[0] == b'u%d' % exact[0] and found[5] == b'e'
    elif wild:
        assert found[0] == b'u%d' % wild[0][1] and found[5] == b'e' + local[-wild[0][0]:]
    else:
        assert found is None


@given(st.binary(max_size=200) | st.text('=+:.\n1/a', max_size=60).map(str.encode))
def test_parse_is_total(data):
    """Any bytes: records or AssignError."""
    try:
        assign.build(data)
    except assign.AssignError as error:
        assert error.why
