"""core.pw2u: passwd lines made into users/assign lines."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import assign, pw2u

PASSWD = [b'root:x:0:0:root:/root:/bin/sh', b'daemon:x:1:1::/usr/sbin:/x', b'alias:x:120:121::/var/qmail/alias:/x',
          b'joe:x:1001:100:Joe:/home/joe:/bin/sh', b'Sue:x:1002:100::/home/sue:/bin/sh', b'broken', b'',
          b'lost:x:1003:100::/home/lost:/bin/sh', b'other:x:1004:100::/home/joe:/bin/sh',
          b'nobody:x:65534:65534::/nonexistent:/x', b'box:x:89:89::/home/box:/x']
OWNERS = {b'/var/qpy/alias': 120, b'/home/joe': 1001, b'/home/sue': 1002, b'/usr/sbin': 1, b'/home/box': 89}
ALIAS = (b'+:alias:120:121:/var/qpy/alias:-::\n=alias:alias:120:121:/var/qpy/alias:::\n'
         b'+alias-:alias:120:121:/var/qpy/alias:-::\n')
JOE = b'=joe:joe:1001:100:/home/joe:::\n+joe-:joe:1001:100:/home/joe:-::\n'


def convert(args=(), **files):
    """The assign file for PASSWD."""
    options = pw2u.parse_options(args)
    for name, value in files.items():
        setattr(options, name, value)
    return pw2u.convert(PASSWD, options, OWNERS.get, b'/var/qpy/alias')


def test_default():
    """Mail users with a home of their own; alias takes the rest; root, service accounts, capitals and nobody do not."""
    assert convert() == ALIAS + JOE + b'.\n'


@pytest.mark.parametrize('args, extra', [
    ([b'-u'], b'=Sue:Sue:1002:100:/home/sue:::\n'), ([b'-H'], b'=lost:lost:1003:100:/home/lost:::\n'),
    ([b'-H', b'-u'], b'+Sue-:Sue:1002'), ([b'-c+'], b'+joe+:joe:1001:100:/home/joe:-::\n'),
    ([b'-c', b'+'], b'+joe+:joe:1001:100:/home/joe:-::\n'), ([b'-uc', b'+x', b'--'], b'+Sue+:Sue:'),
    ([b'-/'], b'+joe-:joe:1001:100:/home/joe:-/::\n'), ([b'-uc+'], b'+Sue+:Sue:')])
def test_options(args, extra):
    """Each option does what qmail-pw2u's does."""
    assert extra in convert(args)


def test_no_break():
    """-C: homes without extensions."""
    assert b'+joe' not in convert([b'-C'])


def test_missing_home_stops():
    """-h stops at a missing home; -o after it is the default again."""
    with pytest.raises(pw2u.Stop):
        convert([b'-h'])
    assert convert([b'-ho']) == convert()
    assert convert([b'-uU']) == convert()


@pytest.mark.parametrize('args', [[b'-x'], [b'joe'], [b'-'], [b'-o', b'-Z'], [b''], [b'-c'], [b'--', b'joe']])
def test_unknown_options(args):
    """An unknown option is refused."""
    assert pw2u.parse_options(args) is None


def test_files():
    """include, exclude, mailnames, subusers and append do what they say."""
    assert convert(include={b'alias', b'box'}) == ALIAS + b'=box:box:89:89:/home/box:::\n' \
        b'+box-:box:89:89:/home/box:-::\n.\n'
    assert convert(exclude={b'joe'}) == ALIAS + b'.\n'
    assert b'=joe.shmoe:joe:1001' in convert(mailnames=pw2u.parse_mailnames([b'joe:joe.shmoe:js']))
    assert b'=joe:' not in convert(mailnames=pw2u.parse_mailnames([b'joe:joe.shmoe:js']))
    subusers = pw2u.parse_subusers([b'sales:joe:biz:'])
    assert convert(subusers=subusers).endswith(
        b'=sales:joe:1001:100:/home/joe:-:biz:\n+sales-:joe:1001:100:/home/joe:-:biz-:\n.\n')
    assert convert(append=b'=x:y:1:1:/:::\n').endswith(b'=x:y:1:1:/:::\n.\n')


@pytest.mark.parametrize('files', [{'exclude': {b'alias'}}, {'subusers': [(b's', b'nobody-known', b'')]}])
def test_stops(files):
    """Without alias, or with a subuser of nobody, nothing is written."""
    with pytest.raises(pw2u.Stop):
        convert(**files)


@given(st.lists(st.binary(max_size=30) | st.sampled_from(PASSWD), max_size=10))
def test_output_is_always_a_good_assign_file(lines):
    """Whatever the passwd file holds, what comes out can be compiled."""
    lines = [line for line in lines if b'\n' not in line and b'\r' not in line]
    result = pw2u.convert(lines + [PASSWD[2]], pw2u.Options(homes=pw2u.IGNORE), OWNERS.get, b'/var/qpy/alias')
    assert assign.build(result)
