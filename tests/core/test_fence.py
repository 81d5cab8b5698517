"""The filters of confined programs, run on a model of the kernel's machine, for every line of the manifest."""
import os
import re
import struct

import pytest

from qpy.core import fence, manifest, seccomp

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ALLOWED, REFUSED, UNKNOWN, KILLED = 0x7fff0000, 0x00050001, 0x00050026, 0x80000000
NUMBERS = {machine: {call[0]: call[column] for group in (fence.EXEC, fence.SIGNAL, fence.ATTRIBUTES, fence.MODE,
                                                         fence.IDENTITY, fence.BIND, fence.LISTEN, fence.OTHERS,
                                                         fence.KERNEL, fence.CHDIR, fence.MEMORY,
                                                         fence.PARTLY) for call in group}
           for machine, column in fence.COLUMN.items()}
HEADERS = {'x86_64': '/usr/include/x86_64-linux-gnu/asm/unistd_64.h', 'aarch64': '/usr/include/asm-generic/unistd.h'}
ROWS = [row.name for row in manifest.rows()]
CONFINED = [row.name for row in manifest.rows() if row.children != b'programs']


def run(program, number, arguments=(), arch=None, machine='x86_64'):
    """What the filter says to one call."""
    arch = seccomp.MACHINES[machine][0] if arch is None else arch
    data = struct.pack('<iIQ6Q', number, arch, 0, *[a & (1 << 64) - 1 for a in (*arguments, 0, 0, 0, 0, 0, 0)[:6]])
    steps = [struct.unpack_from('<HBBI', program, i) for i in range(0, len(program), 8)]
    at, word = 0, None
    while True:
        code, yes, no, k = steps[at]
        at += 1
        if code == seccomp.LOAD:
            word = struct.unpack_from('<I', data, k)[0]
        elif code == fence.AND:
            word &= k
        elif code == seccomp.JUMP:
            at += k
        elif code == seccomp.RETURN:
            return k
        else:
            true = {seccomp.EQUAL: word == k, seccomp.GREATER_EQUAL: word >= k, seccomp.ANY_BIT: bool(word & k)}[code]
            at += yes if true else no


class Filter:
    """The filter of one line, asked by the names of calls."""

    def __init__(self, name, machine):
        self.machine = machine
        self.program = fence.fence(manifest.row(name), machine)

    def __call__(self, name, *arguments):
        return run(self.program, NUMBERS[self.machine][name], arguments, machine=self.machine)


@pytest.fixture(params=sorted(fence.COLUMN))
def machine(request):
    return request.param


@pytest.mark.parametrize('name', ROWS)
def test_whatever_is_not_named_is_allowed_and_the_rest_of_the_world_is_not(name, machine):
    """read, write, openat and the like pass; another architecture's calls end the process; the filter fits."""
    program = fence.fence(manifest.row(name), machine)
    known = set(NUMBERS[machine].values())
    assert all(run(program, number, machine=machine) == ALLOWED for number in range(424) if number not in known)
    assert run(program, 1, arch=0x40000003, machine=machine) == KILLED
    if machine == 'x86_64':
        assert run(program, 1 | seccomp.X32) == KILLED
    assert len(program) // 8 <= seccomp.LIMIT


@pytest.mark.parametrize('name', CONFINED)
def test_what_no_confined_program_may(name, machine):
    """Nobody runs another program, changes identity, mounts, traces, makes namespaces or rings."""
    asked = Filter(name, machine)
    for call in fence.EXEC + fence.IDENTITY + fence.OTHERS + fence.KERNEL + fence.ATTRIBUTES:
        if call[fence.COLUMN[machine]] >= 0:
            assert asked(call[0]) == REFUSED, call
    assert asked('unshare', 0x10000000) == asked('unshare', 0x40000000) == REFUSED
    assert asked('clone3') == UNKNOWN and run(asked.program, 452, machine=machine) == UNKNOWN
    assert asked('clone', 0x10000011) == REFUSED
    assert asked('mmap', 0, 4096, 7) == asked('mmap', 0, 4096, 6) == asked('mprotect', 0, 4096, 5) == REFUSED
    assert asked('mmap', 0, 4096, 5) == asked('mmap', 0, 4096, 3) == asked('mprotect', 0, 4096, 3) == ALLOWED
    assert asked('sendmsg', 3, 0, 0x20004000) == asked('sendto', 3, 0, 0, 0x20000000) == REFUSED
    assert asked('sendmsg', 3, 0, 0x4040) == asked('sendto', 3, 0, 0, 0x4000) == ALLOWED
    assert asked('socketpair', 1, 5, 0) == asked('socketpair', 1, 0x80001, 0) == ALLOWED
    assert asked('socketpair', 2, 1, 0) == asked('socketpair', 1, 0x80002, 0) == REFUSED
    for command in (8, 10, 15, 1 << 32 | 8):                        # F_SETOWN and its kin; the kernel looks at the low half only
        assert asked('fcntl', 3, command, 77) == REFUSED
    assert asked('ioctl', 3, 0x8901, 0) == asked('ioctl', 3, 0x8902, 0) == REFUSED
    for command in (0, 1, 2, 3, 4, 6, 7, 9, 1024, 1030, 1033, 1034):    # F_DUPFD, F_SETFL, F_SETLK, F_GETOWN, F_ADD_SEALS ...
        assert asked('fcntl', 3, command, 77) == ALLOWED
    assert asked('ioctl', 3, 0x5401) == asked('ioctl', 3, 0x541b) == asked('ioctl', 3, 0x8903) == ALLOWED   # TCGETS, FIONREAD
    assert asked('prlimit64', 0, 7) == ALLOWED and asked('prlimit64', 77, 7) == REFUSED


@pytest.mark.parametrize('name', CONFINED)
def test_what_the_lines_say_of_each(name, machine):
    """Children, signals, sockets and connections are as the manifest has them."""
    row, asked = manifest.row(name), Filter(name, machine)
    fork, thread = asked('clone', 0x01200011), asked('clone', 0x003d0f00)
    assert (fork == ALLOWED) == (row.children == b'workers')
    assert (thread == ALLOWED) == (row.children in (b'threads', b'workers'))
    assert (asked('kill', 77, 15) == ALLOWED) == row.signals
    assert (asked('fchmod', 3, 0o444) == ALLOWED) == (asked('memfd_create', 0, 1) == ALLOWED) == (name == b'send')
    stays = row.connects == b'run' or row.children in (b'none', b'threads')
    assert asked('chdir', 0) == asked('fchdir', 3) == (REFUSED if stays else ALLOWED)
    assert (asked('listen', 3, 10) == ALLOWED) == (row.children == b'workers')
    assert (asked('bind', 3, 0, 16) == ALLOWED) == (row.children == b'workers' or b'from' in row.sockets)
    free = b'any' in row.sockets
    assert (asked('socket', 1, 0x80001, 0) == ALLOWED) == (free or b'unix' in row.sockets)
    assert (asked('socket', 2, 0x80801, 0) == ALLOWED) == (free or b'tcp' in row.sockets or b'from' in row.sockets)
    assert (asked('socket', 10, 0x80002, 17) == ALLOWED) == (free or b'udp' in row.sockets)
    if not free:
        for family, kind, protocol in ((2, 1, 262), (2, 3, 1), (16, 3, 0), (17, 3, 0), (40, 1, 0), (38, 5, 0), (2, 1, 132)):
            assert asked('socket', family, kind, protocol) == REFUSED
    assert (asked('connect', 3, 0, 16) == ALLOWED) == (row.connects != b'run')
    assert asked('connect', 3, 0, len(b'resolve') + 3) == ALLOWED


def test_names_of_channels_fit_into_a_short_address():
    """Every socket of the built-in table can be reached by its bare name."""
    from qpy.core import services
    for service in services.table(None):
        for listen in service.listens:
            assert 2 + len(listen.name) + 1 <= fence.SHORT


@pytest.mark.parametrize('machine_name', sorted(HEADERS))
def test_numbers_are_the_kernels(machine_name):
    """Each number is the one in the kernel's headers."""
    if not os.path.exists(HEADERS[machine_name]):
        pytest.skip('no linux-libc-dev here')
    with open(HEADERS[machine_name]) as file:
        there = {name: int(number) for name, number in re.findall(r'#define __NR(?:3264)?_(\w+)\s+(\d+)', file.read())}
    for name, number in NUMBERS[machine_name].items():
        assert there.get(name, -1) == number, name


def test_an_unknown_machine_has_no_filter():
    """A machine without numbers is a ValueError, which confine takes for a kernel without seccomp."""
    with pytest.raises(ValueError):
        fence.fence(manifest.row(b'clean'), 'riscv64')


AS_CALLED = {b'queue', b'getpw', b'tcp-env', b'splogger'}       # in an account's package, but run as who calls them


def test_every_program_has_its_line():
    """Who has an account of its own, hears a network or holds root has a line; only what runs as its caller has none."""
    lines = {row.name for row in manifest.rows()}
    assert not lines & AS_CALLED
    for name in os.listdir(os.path.join(SOURCE, 'bin')):
        with open(os.path.join(SOURCE, 'bin', name)) as file:
            account = file.read().rpartition("program.run('qpy.")[2].partition('.')[0]
        own = manifest.LINES.get(name.encode().removeprefix(b'qpy-'), name.encode().removeprefix(b'qpy-'))
        assert account in ('user', 'admin') or own in lines | AS_CALLED, name


@pytest.mark.parametrize('row', manifest.rows(), ids=lambda row: row.name.decode())
def test_a_worker_has_no_more_memory_than_its_master(row):
    """What a master takes on itself its workers have too: a line that promises them more is wrong."""
    master = [other for other in manifest.rows() if other.name == row.name + b'-master']
    assert not master or not master[0].memory or 0 < row.memory <= master[0].memory


def test_the_manifest_is_whole():
    """Every line names known places, rights, namespaces and children; every account but alias's has a line."""
    from qpy.core import accounts
    rows = manifest.rows()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.account in accounts.ROLES + (b'root', b'user') and row.where in (b'host', b'empty', b'mail'), row.name
        assert row.children in (b'none', b'threads', b'workers', b'programs') and row.connects in (b'-', b'run', b'mail',
                                                                                                 b'any'), row.name
        for place, letters in row.files or ():
            assert place in manifest.PLACES and set(letters) <= set(b'rlwcdm'), row.name
    assert {row.account for row in rows} == set(accounts.ROLES) - {b'alias'} | {b'root', b'user'}
    with pytest.raises(KeyError):
        manifest.row(b'nobody')
