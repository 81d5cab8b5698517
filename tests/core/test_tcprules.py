"""tcp.smtp: which rule a client meets, from text and from cdb alike."""
import pytest
from hypothesis import given, settings, strategies as st

from qpy.core import cdb, tcprules

TEXT = b'''# comment
127.:allow,RELAYCLIENT=""
192.0.2.1-3:deny
192.0.2.:allow,A="1",B=/x"y/
joe@192.0.2.77:deny
10.20.0.0/15:allow,N="net"
10.21.1.:deny
[2001:db8::]/32:deny
[::1]:allow,RELAYCLIENT=""
=mail.example.com:allow,H="host"
=.example.com:deny
=:allow,H="any"
:allow,LAST="x"
127.:deny
'''

CASES = [
    ((b'127.0.0.1',), (True, ((b'RELAYCLIENT', b''),))),
    ((b'192.0.2.1',), (False, ())), ((b'192.0.2.3',), (False, ())),
    ((b'192.0.2.4',), (True, ((b'A', b'1'), (b'B', b'x"y')))),
    ((b'192.0.2.77', b'', b'joe'), (False, ())),
    ((b'192.0.2.77', b'', b'ann'), (True, ((b'A', b'1'), (b'B', b'x"y')))),
    ((b'10.21.0.1',), (True, ((b'N', b'net'),))), ((b'10.21.1.1',), (False, ())),
    ((b'10.22.0.1',), (True, ((b'LAST', b'x'),))),
    ((b'2001:db8:1::2',), (False, ())), ((b'::1',), (True, ((b'RELAYCLIENT', b''),))),
    ((b'198.51.100.1', b'mail.example.com'), (True, ((b'H', b'host'),))),
    ((b'198.51.100.1', b'x.example.com'), (False, ())),
    ((b'198.51.100.1', b'example.com'), (True, ((b'H', b'any'),))),
    ((b'198.51.100.1',), (True, ((b'LAST', b'x'),))), ((b'unknown',), (True, ((b'LAST', b'x'),))),
]


IPV6 = b'2001:db8:2::deny\n::1:allow,RELAYCLIENT=""\n2001:db8:3:4:allow,A="x"\n:allow\n'
MADE = {b'2001:db8:2::': b'D', b'::1': b'+RELAYCLIENT=\0', b'2001:db8:3:': b'+A=x\0', b'': b''}


@pytest.mark.parametrize('client, expected', [
    (b'2001:db8:2::9', (False, ())), (b'::1', (True, ((b'RELAYCLIENT', b''),))), (b'2001:db8:9::1', (True, ()))])
def test_ipv6_without_brackets(client, expected):
    """As the tcprules of Debian's ucspi-tcp-ipv6 write it, in text and compiled."""
    assert tcprules.parse(IPV6.replace(b'2001:db8:3:4:allow', b'2001:db8:3::allow')).verdict(client) == expected
    assert tcprules.CdbRules(cdb.over(cdb.build(MADE.items()))).verdict(client) == expected


@pytest.mark.parametrize('client, expected', CASES)
def test_text(client, expected):
    """The most exact rule counts; of two equal ones the first."""
    assert tcprules.parse(TEXT).verdict(*client) == expected


def test_nothing_matches():
    """Without a rule that matches a client is allowed, and nothing is set."""
    assert tcprules.parse(b'').verdict(b'192.0.2.1') == (True, ())


@pytest.mark.parametrize('line', [
    b'1.2.3.4', b'1.2.3.4:maybe', b'1.2.3.4:allow,', b'1.2.3.4:allow,A', b'1.2.3.4:allow,A=',
    b'1.2.3.4:allow,A="x',
    b'1.2.3.4:allow,A="x"y', b'1.2.3.4:allow,="x"', b'1.2.3-1:deny', b'1-2.3-4.:deny', b'1.2.3.4/33:deny',
    b'1.2.3/8:deny',
    b'[::1:deny', b'[x]:deny', b'[::]/129:deny', b'1.2.3.4-300:deny', b'127.0.0.300:deny',
    b' 12.:deny', b'14.1.2.3 :deny', b'13.1:deny', b'13:deny', b'mail.test:allow', b'joe@13.1:deny', b'joe@mail.test:deny',
    b'2001:db8:::allow', b'fe80:::allow', b':::allow',
])
def test_broken(line):
    """A line that cannot be read is an error that names its number."""
    with pytest.raises(tcprules.RulesError) as caught:
        tcprules.parse(b'# one\n' + line + b'\n')
    assert caught.value.number == 2 and caught.value.remedy


def compiled():
    """What tcprules makes of the plain lines of TEXT."""
    records = []
    for line in TEXT.split(b'\n'):
        if line and line[:1] not in b'#[' and b'/15' not in line:
            where, (allowed, env) = tcprules.parse_line(line)
            for each in tcprules.expanded(where, [1000]):
                records.append((each,
                    (b'' if allowed else b'D') + b''.join(b'+%s=%s\0' % pair for pair in env)))
    return tcprules.CdbRules(cdb.over(cdb.build(records)))


@pytest.mark.parametrize('client, expected',
    [c for c in CASES if not c[0][0].startswith((b'10.21.0', b'2001', b'::1'))])
def test_cdb(client, expected):
    """The cdb of tcprules gives the same verdicts as its text."""
    assert compiled().verdict(*client) == expected


@settings(max_examples=200)
@given(st.binary(max_size=80) | st.lists(st.sampled_from([
    b'1.2.3.4', b'1.2.', b'=a.b', b'c@', b'1.2.3-9.', b'1.2.0.0/16', b':', b'allow', b'deny', b',X="y"', b'\n', b'"'])).map(b''.join))
def test_total(data):
    """Any bytes are rules, which decide with one of their own lines or allow, or a RulesError that names a line."""
    try:
        rules = tcprules.parse(data)
    except tcprules.RulesError as refused:
        assert data.split(b'\n')[refused.number - 1].startswith(refused.line.rstrip()[:1]) and refused.remedy
        return
    written = [verdict for verdict in [*rules.names.values(), *rules.nets.values()]]
    verdict = rules.verdict(b'1.2.3.4', b'a.b', b'c')
    assert verdict in written or verdict == (True, ())
    assert all(name in data and value in data for _, env in written for name, value in env)
