"""The process table: what a line of control/services means, and what a wrong one says."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import services
from qpy.core.controls import ControlError


def names(data=None):
    return [service.name for service in services.table(data)]


def test_without_a_file_the_whole_chain_runs_and_no_port_is_open():
    """The default table has the nine daemons, in the order of starting, and no TCP listen."""
    assert names() == [b'queued', b'clean', b'resolve', b'users', b'seed', b'lspawn', b'rspawn', b'bouncer', b'send']
    assert not [listen for s in services.table(None) for listen in s.listens if listen.kind == b'tcp']


def test_lines_are_laid_over_the_default():
    """A new name adds a line, a known one replaces it in its place, `off` takes it away."""
    assert names(b'smtpd qpyd tcp:127.0.0.1:2525 qpy-smtpd\n')[-1] == b'smtpd'
    table = services.table(b'clean qpyq unix:clean:0600:qpys /opt/my-clean -v\nbouncer off\n')
    assert [s.words for s in table if s.name == b'clean'] == [(b'/opt/my-clean', b'-v')]
    assert b'bouncer' not in [s.name for s in table]
    assert [s.name for s in table][:2] == [b'queued', b'clean']


def test_a_line_in_full():
    """Comments and blank lines are skipped; listens, environment and arguments are taken apart."""
    line = b'\n # x\nin qpyd tcp:[::1]:26,unix:in:0660:qpyd QPYQUEUE=/bin/f A=  qpy-smtpd\t-x y=z\n'
    (service,) = services.parse(line)
    assert (service.name, service.account, service.line) == (b'in', b'qpyd', 3)
    tcp, unix = service.listens
    assert (tcp.kind, tcp.name, tcp.address, tcp.port) == (b'tcp', b'in', b'::1', 26)
    assert (unix.kind, unix.name, unix.mode, unix.owner, unix.group) == (b'unix', b'in', 0o660, b'qpyd', b'qpyd')
    assert service.environment == {b'QPYQUEUE': b'/bin/f', b'A': b''}
    assert service.words == (b'qpy-smtpd', b'-x', b'y=z')


def test_owner_and_group_of_a_socket():
    """A socket belongs to its service's account, to the named owner and that owner's group, or to the named group."""
    by_name = {l.name: l for s in services.table(None) for l in s.listens if l.kind != b'pair'}
    assert (by_name[b'submit'].owner, by_name[b'submit'].group) == (b'qpyq', b'qpyq')
    assert (by_name[b'new'].owner, by_name[b'new'].group) == (b'qpys', b'qpyq')
    assert (by_name[b'users'].owner, by_name[b'users'].group) == (b'qpyu', b'qpyd')


@pytest.mark.parametrize('data, line, words', [
    (b'a qpyd', 1, b'too few words'),
    (b'\n\nA qpyd - x', 3, b'not a name'),
    (b'../x qpyd - x', 1, b'not a name'),
    (b'x root - x', 1, b'only the seed'),
    (b'x daemon - x', 1, b'not an account'),
    (b'x alias - x', 1, b'not an account'),
    (b'x qpyd udp:1:2 x', 1, b'write tcp:'),
    (b'x qpyd tcp:25 x', 1, b'for example tcp:0.0.0.0:25'),
    (b'x qpyd tcp:localhost:25 x', 1, b'for example'),
    (b'x qpyd tcp:0.0.0.0:0 x', 1, b'for example'),
    (b'x qpyd tcp:0.0.0.0:65536 x', 1, b'for example'),
    (b'x qpyd tcp:::1:25 x', 1, b'for example'),
    (b'x qpyd unix:n x', 1, b'NAME:MODE'),
    (b'x qpyd unix:../n:0600 x', 1, b'not a name'),
    (b'x qpyd unix:n:rw x', 1, b'octal'),
    (b'x qpyd unix:n:0777 x', 1, b'read and write'),
    (b'x qpyd unix:n:0600:bin x', 1, b'no such account'),
    (b'x qpyd - A=b', 1, b'no program'),
    (b'x qpyd - bin/x', 1, b'full path'),
    (b'x qpyd - x\r', 1, b'carriage return'),
    (b'x qpyd - x\nx qpyd - y', 2, b'stands twice'),
    (b'a qpyd pair:p x', 1, b'a pair needs two'),
    (b'lspawn off', 0, b'a pair needs two'),
    (b'x qpyd unix:submit:0600 x', 1, b'listens where queued'),
    (b'x qpyd tcp:1.2.3.4:5 y\nz qpyd tcp:1.2.3.4:5 y', 2, b'listens where x'),
])
def test_a_wrong_line_is_named_with_its_remedy(data, line, words):
    """Each mistake names the file, the line and what to write instead."""
    with pytest.raises(ControlError) as caught:
        services.table(data)
    assert caught.value.file == b'services' and caught.value.line == line
    assert words in caught.value.text


@given(st.binary(max_size=200) | st.lists(st.sampled_from([
    b'smtpd', b'log', b'x', b' ', b' ', b'qpyd', b'root', b'tcp:0.0.0.0:25', b'-', b'unix:s:0600', b' off', b'qpy-x', b'A=b',
    b'\n', b'#'])).map(b''.join))
def test_any_bytes_give_a_table_or_a_named_error(data):
    """No input ends in anything but a table of distinct services that have programs, or a ControlError with a line."""
    try:
        found = services.table(data)
    except ControlError as refused:
        assert refused.file == b'services' and 0 <= refused.line <= data.count(b'\n') + 1 and refused.remedy
        return
    assert len({service.name for service in found}) == len(found) and all(service.words for service in found)
    lines = data.split(b'\n')
    assert all(lines[service.line - 1].split()[0] == service.name for service in found if service.line)
