"""Which ids exist where mail is delivered: the maps, and the filter that stands in for them."""
import struct

import pytest
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


@pytest.mark.parametrize('data, left', [
    (b'         0          0 4294967295\n', [(110, 2), (1000, 64534), (65535, 4294901760)]), (b'', [(110, 2), (1000, 64534), (65535, 4294901760)]),
    (b'0 0 65536\n', [(110, 2), (1000, 64534), (65535, 1)]), (b'0 100000 1001\n1001 1000 1\n1002 101002 100\n', [
        (110, 2), (1000, 1), (1001, 1), (1002, 100)]), (b'0 1000 1\n', []), (b'111 0 900\n', [(111, 1), (1000, 11)])])
def test_only_ids_that_exist_here(data, left):
    """In a container each range is cut where its map ends, and where one line of it meets the next."""
    assert idmap.mapped([(110, 2), (1000, 64534), (65535, 4294901760)], data) == left


SPANS = st.lists(st.tuples(st.integers(900, 3000), st.integers(1, 400)), max_size=8)


@given(st.sets(st.integers(0, 3000)), st.sets(st.integers(0, 3000)), SPANS)
def test_what_is_closed_is_in_the_map_only_by_name(plus, without, closed):
    """What is named comes before what is closed, and what is excluded before both; a few ranges are all kept."""
    found = idmap.ranges(1000, plus, without, closed)
    assert found == idmap.merged(found) == sorted(found)
    inside = [any(first <= number < first + count for first, count in found) for number in range(3400)]
    for number, there in enumerate(inside):
        shut = number < 1000 or any(first <= number < first + count for first, count in closed)
        wanted = number != 0 and number not in without and (number in plus or not shut)
        assert there == wanted or not there and number not in plus and len(found) >= idmap.FEW


def test_there_are_never_many_ranges_that_hold_nobody():
    """With a thousand closed groups the smallest gaps between them go, not who is known, nor where new ones come."""
    closed = [(number, 1) for number in range(2000, 4000, 2)]
    found = idmap.ranges(1000, {2001, 3999, 50}, (), closed)
    assert len(found) == idmap.FEW
    for number in (50, 1000, 2001, 3999, 4000, idmap.HIGHEST):
        assert any(first <= number < first + count for first, count in found)
    assert len(seccomp.identities(found, found, 'x86_64')) <= 8 * seccomp.LIMIT


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


CALLS = {'x86_64': {'setresuid': (117, 3), 'setreuid': (113, 2), 'setuid': (105, 1), 'setfsuid': (122, 1),
                    'setresgid': (119, 3), 'setregid': (114, 2), 'setgid': (106, 1), 'setfsgid': (123, 1)},
         'aarch64': {'setresuid': (147, 3), 'setreuid': (145, 2), 'setuid': (146, 1), 'setfsuid': (151, 1),
                     'setresgid': (149, 3), 'setregid': (143, 2), 'setgid': (144, 1), 'setfsgid': (152, 1)}}
ARCHITECTURES = {'x86_64': 0xc000003e, 'aarch64': 0xc00000b7}
KEPT = 0xffffffff


@given(st.sets(st.integers(1, 999), max_size=120), st.integers(0, 4294967294), st.sampled_from(sorted(CALLS)))
def test_the_filter_lets_exactly_the_mapped_ids_through(plus, number, machine):
    """Each call that changes ids is allowed with mapped ones and with -1, which keeps one, in each of its places, and
    refused with any other; what lies behind its last place does not count."""
    uids, gids = idmap.ranges(1000, plus, {1005, 65534}), [(7, 1)]
    program = seccomp.identities(uids, gids, machine)
    for call, (code, places) in CALLS[machine].items():
        ranges, good = (uids, 2000) if call.endswith('uid') else (gids, 7)
        for one in (number, number % 1010, good, 0):
            mapped = any(first <= one < first + count for first, count in ranges)
            for place in range(6):
                ids = [good] * place + [one] + [KEPT] * 5
                answer = run(program, code, *ids[:6], arch=ARCHITECTURES[machine])
                if call == 'setresuid' and place < 2:
                    assert answer == seccomp.EPERM          # the third stays
                    ids[2] = good
                    answer = run(program, code, *ids[:6], arch=ARCHITECTURES[machine])
                assert (answer == seccomp.ALLOW) == (mapped or place >= places), (call, ids)
                assert answer in (seccomp.ALLOW, seccomp.EPERM)


@pytest.mark.parametrize('machine', sorted(CALLS))
def test_no_saved_uid_stays(machine):
    """setresuid with -1 in the third place: nothing happens where the first is -1 too (seteuid), if the second is mapped;
    refused else.  Of gids it may."""
    program = seccomp.identities([(1000, 10)], [(1000, 10)], machine)
    answers = {ids: run(program, CALLS[machine]['setresuid'][0], *ids, arch=ARCHITECTURES[machine]) for ids in (
        (KEPT, 1001, KEPT), (KEPT, 1, KEPT), (KEPT, KEPT, KEPT), (1001, 1001, KEPT), (1001, KEPT, KEPT), (1001, 1001, 1001))}
    assert list(answers.values()) == [seccomp.NOTHING, seccomp.EPERM, seccomp.NOTHING, seccomp.EPERM, seccomp.EPERM, seccomp.ALLOW]
    assert run(program, CALLS[machine]['setresgid'][0], KEPT, 1001, KEPT, arch=ARCHITECTURES[machine]) == seccomp.ALLOW


def test_as_many_ranges_as_a_map_holds_have_their_filter():
    """With 190 ranges of each kind the filter still fits; what does not fit is a ValueError."""
    many = [(n, 1) for n in range(1, 381, 2)]
    assert idmap.FEW < len(many)
    program = seccomp.identities(many, many, 'x86_64')
    assert run(program, 117, 379, 379, 379) == seccomp.ALLOW and run(program, 119, 379, 379, 380) == seccomp.EPERM
    with pytest.raises(ValueError):
        seccomp.identities(many * 2, many * 2, 'x86_64')


def test_other_ways_are_closed():
    """setns, groups, new user namespaces and foreign call tables are refused; the rest passes."""
    program = seccomp.identities([(1000, 10)], [(1000, 10)], 'x86_64')
    assert run(program, 308, 1000) == seccomp.EPERM
    assert run(program, 116, 0) == seccomp.ALLOW and run(program, 116, 1) == seccomp.EPERM
    assert run(program, 272, 0x10000000) == seccomp.EPERM and run(program, 272, 0x20000) == seccomp.ALLOW
    assert run(program, 56, 0x10000011) == seccomp.EPERM and run(program, 56, 0x11) == seccomp.ALLOW
    assert run(program, 435) == seccomp.ENOSYS
    assert run(program, 1) == seccomp.ALLOW
    assert run(program, 1, arch=0x40000003) == seccomp.KILL and run(program, 0x40000001) == seccomp.KILL
