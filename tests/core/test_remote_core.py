"""core.ip, core.mx, core.smtproutes, core.tcpto, core.remote_report: where remote mail goes and what is said
of it."""
import ipaddress

import pytest
from hypothesis import given, strategies as st

from qpy.core import ip, mx, remote_report, smtproutes, tcpto


@given(st.ip_addresses())
def test_addresses_are_packed_as_others_do(address):
    """core.ip reads every address that the standard library writes, long and short."""
    for text in (str(address), address.exploded, str(address).upper()):
        packed = ip.pack(text.encode())
        assert packed in (address.packed, address.packed[12:])


@given(st.text(alphabet='0123456789abcdef:.%[]x \n', max_size=24))
def test_addresses_are_refused_as_others_do(text):
    """core.ip accepts nothing the standard library refuses."""
    try:
        known = ipaddress.ip_address(text.strip('%') if '%' not in text else 'x').packed
    except ValueError:
        known = None
    packed = ip.pack(text.encode())
    assert packed == known or packed is not None and known[:12] == bytes(10) + b'\xff\xff'


LITERALS = [(b'192.0.2.1', b'192.0.2.1'), (b'[192.0.2.1]', b'192.0.2.1'), (b'[IPv6:2001:db8::1]', b'2001:db8::1'),
            (b'[2001:db8::1]', b'2001:db8::1'), (b'2001:db8::1', None), (b'example.org', None), (b'[example.org]', None),
            (b'[IPv6:192.0.2.1]', None), (b'192.0.2', None), (b'[]', None), (b'', None), (b'192.0.2.256', None)]


@pytest.mark.parametrize('host, address', LITERALS)
def test_literals(host, address):
    """What needs no DNS: a dotted quad, bare or in brackets, and IPv6 in brackets."""
    assert ip.literal(host) == address


ROUTES = {b'example.org': b'relay.example.net', b'.example.org': b'sub.example.net:2525', b'.deep.example.org': b'',
          b'': b'[2001:db8::1]:587'}


@pytest.mark.parametrize('host, relay', [
    (b'EXAMPLE.org', [(b'relay.example.net', 25)]), (b'a.example.org', [(b'sub.example.net', 2525)]),
    (b'a.b.example.org', [(b'sub.example.net', 2525)]), (b'a.deep.example.org', []),
    (b'elsewhere', [(b'2001:db8::1', 587)]), (b'[192.0.2.1]', [(b'2001:db8::1', 587)])])
def test_routes(host, relay):
    """The host, then its endings, longest first, then the empty key; an empty value means DNS."""
    assert [(hop.host, hop.port) for hop in smtproutes.parse(smtproutes.find(host, ROUTES)[1])] == relay
    assert smtproutes.find(b'elsewhere', {}) is None


@pytest.mark.parametrize('value', [b':', b':25', b'host:', b'host:0', b'host:65536', b'host:x', b'[::1', b'[x]',
                                   b'[::1]25', b'a..b', b'h:25:26', b'h|user|pass', b'ftp=h', b'=h', b'@h', b'user@',
                                   b'smtp=/run/x', b'/run/x', b'lmtp=joe@h', b'lmtp=/' + b'x' * 107, b'h ' * 11])
def test_bad_routes(value):
    """R-27: an entry that nobody could use is an error with a reason, never a wrong host or port."""
    with pytest.raises(ValueError):
        smtproutes.parse(value)
    assert [key for key, _ in smtproutes.faults({b'x': value, b'y': b'', b'z': b'fine'})] == [b'x']


@pytest.mark.parametrize('value, hops', [
    (b'a.example b.example:2525', [(b'smtp', b'a.example', 25, b'', b''), (b'smtp', b'b.example', 2525, b'', b'')]),
    (b'smtps=a.example', [(b'smtps', b'a.example', 465, b'', b'')]),
    (b'lmtp=[::1]  lmtp=127.0.0.1:2424', [(b'lmtp', b'::1', 24, b'', b''), (b'lmtp', b'127.0.0.1', 2424, b'', b'')]),
    (b'lmtp=/run/dovecot/lmtp', [(b'lmtp', b'localhost', 0, b'/run/dovecot/lmtp', b'')]),
    (b'smtps=joe@isp.example@smtp.isp.example:466', [(b'smtps', b'smtp.isp.example', 466, b'', b'joe@isp.example')]),
    (b'joe@smtp.isp.example:587', [(b'smtp', b'smtp.isp.example', 587, b'', b'joe')])])
def test_hops(value, hops):
    """Kinds, fallbacks, Unix sockets and logins; the last @ parts the login from the host."""
    assert smtproutes.parse(value) == [smtproutes.Hop(kind, host, port, path, login)
                                       for kind, host, port, path, login in hops]


@pytest.mark.parametrize('sender, key', [(b'Joe@Example.org', b'joe@example.org'), (b'ann@example.org', b'@example.org'),
                                         (b'x@other.example', None), (b'', None), (b'joe', None)])
def test_routes_by_sender(sender, key):
    """The sender's address first, then @ and its domain; the null sender has no route of its own."""
    found = smtproutes.find_sender(sender, {b'joe@example.org': b'a', b'@example.org': b'b'})
    assert (found and found[0]) == key


def answers(*lines):
    return mx.parse_answers(b'\n'.join(lines))[0]


def middle():
    return 0.5


def test_order():
    """The lowest preference comes first, equal ones are shuffled by host, a repeated address is tried
    once."""
    found = mx.plan(answers(b'20 b 192.0.2.2', b'10 a 192.0.2.1', b'10 a 192.0.2.1', b'10 c 2001:db8::1'), set(), middle)
    assert [p for p, _, _ in found] == [10, 10, 20] and found[2] == (20, b'b', b'192.0.2.2')
    firsts = {mx.plan(answers(b'1 a 192.0.2.1', b'1 b 192.0.2.2'), set(), iter([x, 0.5, 0, 0]).__next__)[0][1]
              for x in (0.1, 0.9)}
    assert firsts == {b'a', b'b'}


def test_own_addresses_end_the_list():
    """R-07: what is not better than ourselves is not tried; nothing better means mail loops back."""
    own = {ip.pack(b'192.0.2.9')}
    lines = answers(b'5 a 192.0.2.1', b'10 me 192.0.2.9', b'10 b 192.0.2.2', b'20 c 192.0.2.3')
    assert [host for _, host, _ in mx.plan(lines, own, middle)] == [b'a']
    assert mx.plan(lines[1:], own, middle) == mx.SELF
    assert mx.plan([], own, middle) == mx.NONE
    for address in (b'127.0.0.1', b'127.9.9.9', b'0.0.0.0', b'::1', b'::', b'::ffff:127.0.0.1', b'::ffff:192.0.2.9'):
        assert mx.plan(answers(b'5 x ' + address), own, middle) == mx.SELF


@given(st.lists(st.sampled_from([b'192.0.2.%d' % i for i in range(9)] + [b'2001:db8::%d' % i for i in range(9)]), unique=True))
def test_families_alternate(addresses):
    """IPv6 and IPv4 in turn while both last; nothing is lost, and the first one stays first."""
    mixed = mx.alternating(addresses)
    assert sorted(mixed) == sorted(addresses) and mixed[:1] == addresses[:1]
    six = [b':' in address for address in mixed]
    both = 2 * min(six.count(True), six.count(False))
    assert all(a != b for a, b in zip(six[:both], six[1:both]))


def test_the_list_is_bounded():
    """However many addresses an answer holds, a bounded number is tried."""
    lines = b'\n'.join(b'%d h%d 192.0.2.%d' % (i, i, i % 250) for i in range(1, 5000))
    assert len(mx.plan(mx.parse_answers(lines)[0], set(), middle)) == mx.ADDRESSES


@pytest.mark.parametrize('line', [b'x', b'10 a', b'10 a b', b'-1 a 192.0.2.1', b'70000 a 192.0.2.1', b'1 a 192.0.2.1 x y'])
def test_answers_that_are_none(line):
    """A line that is not PREFERENCE HOST ADDRESS, with or without an END, spoils the answer instead of being guessed at."""
    with pytest.raises(ValueError):
        mx.parse_answers(line)
    assert mx.parse_answers(b'1 a 192.0.2.1 x\n2 b 192.0.2.2') == ([(1, b'a', b'192.0.2.1'), (2, b'b', b'192.0.2.2')],
                                                                 {b'a': b'x'})


def test_addresses_of_this_machine():
    """The kernel's own files name this host's addresses; ours finds at least the loopback ones."""
    with open('/proc/net/fib_trie', 'rb') as file:
        assert ip.pack(b'127.0.0.1') in mx.from_fib_trie(file.read())
    assert mx.from_if_inet6(b'00000000000000000000000000000001 01 80 10 80       lo\n') == {ip.pack(b'::1')}
    assert mx.from_if_inet6(b'junk\n') == set() and mx.from_fib_trie(b'/32 host LOCAL\n|--\n') == set()


def test_dead_addresses():
    """R-11: two timeouts more than two minutes apart make an address dead for about an hour; an answer clears
    it."""
    table = tcpto.Table(spread=0)
    table.timed_out(b'a', 0)
    assert not table.is_dead(b'a', 1)
    table.timed_out(b'a', 60)                   # too soon to count
    assert not table.is_dead(b'a', 61)
    table.timed_out(b'a', 200)
    assert table.is_dead(b'a', 201) and table.is_dead(b'a', 200 + 3839) and not table.is_dead(b'a', 200 + 3840)
    table.answered(b'a')
    assert not table.is_dead(b'a', 201)
    for i in range(1000):
        table.timed_out(b'%d' % i, i)
    assert len(table.records) == tcpto.RECORDS


COMBINATIONS = [((b'r', b''), (b'K', b't'), (b'K', b't')), ((b'r', b''), (b'Z', b't'), (b'Z', b't')),
                ((b'r', b''), (b'D', b't'), (b'D', b't')), ((b'h', b'x'), (b'D', b't'), (b'D', b'xt')),
                ((b'h', b'x'), (b'K', b't'), (b'D', b'x')), ((b'h', b'x'), (b'Z', b't'), (b'D', b'x')),
                ((b's', b'x'), (b'Z', b't'), (b'Z', b'xt')), ((b's', b'x'), (b'D', b't'), (b'Z', b'xt')),
                ((b's', b'x'), (b'K', b't'), (b'Z', b'x')), (None, (b'D', b't'), (b'D', b't')),
                (None, (b'K', b't'), (b'Z', remote_report.GARBAGE))]


@pytest.mark.parametrize('recipient, message, outcome', COMBINATIONS)
def test_combination(recipient, message, outcome):
    """qmail-rspawn's table; an accepted message says nothing for a recipient that was not answered."""
    assert remote_report.combine(recipient, message) == outcome


@pytest.mark.parametrize('status, output, letter', [
    (0, b'rx\0Kfine\n\0', b'K'), (0, b'Kfine\n\0', b'K'), (0, b'', b'Z'), (0, b'Kfine', b'Z'), (0, b'\0', b'Z'),
    (0, b'hno\0', b'Z'), (0, b'hno\0Dgone\0', b'D'), (0, b'Kx\0r\0', b'Z'), (0, b'junk\0', b'Z'), (-9, b'Kx\0', b'Z'),
    (111, b'', b'Z'), (1, b'Dx\0', b'Z'), (100, b'Dx\0', b'Z'), (126, b'', b'Z')])
def test_outcomes(status, output, letter):
    """R-28: killed, crashed, any exit code but 0, no output, garbage: temporary."""
    assert remote_report.outcome(status, output)[0] == letter


@given(st.binary(), st.integers(-64, 255))
def test_outcome_is_total(output, status):
    """Whatever a program prints and however it ends, there is an outcome of bounded length without control
    bytes."""
    letter, text = remote_report.outcome(status, output)
    assert letter in (b'K', b'Z', b'D') and len(text) <= remote_report.OUTPUT_LIMIT
    assert not any(c < 32 and c != 10 or c == 127 for c in text)


@given(st.binary(max_size=200))
def test_remote_text_is_made_safe(reply):
    """R-21, R-26: no escape, CR, NUL or 8-bit byte of the other side gets into a report."""
    said = remote_report.said(reply)
    assert said.endswith(b'\n') and not any(c != 10 and not 32 <= c < 127 for c in said)


def test_long_remote_text_is_cut():
    """R-21: 64 KB of remote text become a bounded report."""
    assert len(remote_report.said(b'x' * 65536)) < remote_report.TEXT_LIMIT + 100


@given(st.lists(st.tuples(st.sampled_from([b'r', b'h', b's']), st.binary(max_size=20))),
       st.tuples(st.sampled_from([b'K', b'Z', b'D']), st.binary(max_size=20)))
def test_what_is_built_is_parsed(recipients, message):
    """The output of qpy-remote can be read back, with NUL made harmless."""
    def clean(pair):
        return pair[0], pair[1].replace(b'\0', b'?')
    output = remote_report.build(recipients, message)
    assert remote_report.parse(output) == ([clean(pair) for pair in recipients], clean(message))
