"""Which ids exist where mail is delivered: the maps, and the filter that stands in for them."""
import struct

from hypothesis import given, strategies as st

from qpy.core import idmap, seccomp


def test_the_usual_map():
    """Own accounts below the minimum, everything from it up less service accounts, never 0."""
    assert idmap.ranges(1000, {0, 110, 111}, {65534, 1005}) == [
        (110, 2), (1000, 5), (1006, 64528), (65535, 4294901760)]
    assert idmap.text([(110, 2)]) == b'110 110 2\n'


@given(st.sets(st.integers(0, 3000)), st.sets(st.integers(0, 3000)))
def test_an_id_is_in_the_map_exactly_if_it_should_be(plus, without):
    """For every id: in the ranges if and only if named or high enough, not excluded, not 0; ranges do not overlap."""
    found = idmap.ranges(1000, plus, without)
    for number in range(3010):
        wanted = number != 0 and number not in without and (number >= 1000 or number in plus)
        assert sum(first <= number < first + count for first, count in found) == wanted
    assert found == idmap.merged(found) == sorted(found)


def run(program, number, *arguments, arch=0xc000003e):
    """What a BPF filter answers: a small interpreter of the instructions seccomp.py uses."""
    data = struct.pack('<IIQ6Q', number, arch, 0, *(list(arguments) + [0] * 6)[:6])
    at, accumulator = 0, 0
    while True:
        code, true, false, k = struct.unpack_from('<HBBI', program, at * 8)
        at += 1
        if code == seccomp.LOAD:
            accumulator = struct.unpack_from('<I', data, k)[0]
        elif code == seccomp.RETURN:
            return k
        elif code == seccomp.JUMP:
            at += k
        else:
            holds = {seccomp.EQUAL: accumulator == k, seccomp.GREATER_EQUAL: accumulator >= k,
                     seccomp.ANY_BIT: bool(accumulator & k)}[code]
            at += true if holds else false


@given(st.sets(st.integers(1, 999), max_size=120), st.integers(0, 4294967295))
def test_the_filter_lets_exactly_the_mapped_ids_through(plus, number):
    """setresuid of an id in the map is allowed and of any other refused, in each of its three places."""
    uids = idmap.ranges(1000, plus, {1005, 65534})
    program = seccomp.identities(uids, [(7, 1)], 'x86_64')
    for one in (number, number % 1010):
        mapped = any(first <= one < first + count for first, count in uids)
        assert (run(program, 117, one, one, one) == seccomp.ALLOW) == mapped
        assert (run(program, 117, 2000, one, 2000) == seccomp.ALLOW) == mapped
        assert (run(program, 117, 2000, 2000, one) == seccomp.ALLOW) == mapped
        assert (run(program, 119, 7, 7, one) == seccomp.ALLOW) == (one == 7)


def test_other_ways_are_closed():
    """setuid and its kin, setns, groups, new user namespaces and foreign call tables are refused; the rest passes."""
    program = seccomp.identities([(1000, 10)], [(1000, 10)], 'x86_64')
    for number in (105, 106, 113, 114, 122, 123, 308):
        assert run(program, number, 1000) == seccomp.EPERM
    assert run(program, 116, 0) == seccomp.ALLOW and run(program, 116, 1) == seccomp.EPERM
    assert run(program, 272, 0x10000000) == seccomp.EPERM and run(program, 272, 0x20000) == seccomp.ALLOW
    assert run(program, 56, 0x10000011) == seccomp.EPERM and run(program, 56, 0x11) == seccomp.ALLOW
    assert run(program, 435) == seccomp.ENOSYS
    assert run(program, 1) == seccomp.ALLOW
    assert run(program, 1, arch=0x40000003) == seccomp.KILL and run(program, 0x40000001) == seccomp.KILL
