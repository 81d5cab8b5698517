"""qpy-log: whose line is whose, and that nothing in a line can harm who reads it."""
import os
import subprocess

from hypothesis import given, strategies as st

from qpy.core import services
from qpy.lib.loop import Loop
from qpy.qpyl import log
from qpy.root import chain

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_send_is_bare_and_the_others_are_named():
    """send's lines pass as they are, others get their pipe's name, unless they name themselves truly."""
    send, smtpd = log.Source(b'send', 0, 0.0), log.Source(b'smtpd', 1, 0.0)
    assert send.feed(b'new msg 1\nend msg 1\n', 0.0) == b'new msg 1\nend msg 1\n'
    assert smtpd.feed(b'qpy-smtpd: hello\nnew msg 1\nqpy-send: x\n', 0.0) == \
        b'qpy-smtpd: hello\nsmtpd: new msg 1\nsmtpd: qpy-send: x\n'


def test_a_program_by_another_services_name():
    """The second qpy-smtpd is named with its service in brackets, which nobody else can write."""
    second, other = log.Source(b'submission=qpy-smtpd', 1, 0.0), log.Source(b'spamd', 1, 0.0)
    assert second.feed(b'qpy-smtpd: hello\nqpy-submission: x\nnew msg 1\n', 0.0) == \
        b'qpy-smtpd[submission]: hello\nsubmission: qpy-submission: x\nsubmission: new msg 1\n'
    assert other.feed(b'qpy-smtpd[submission]: x\n', 0.0) == b'spamd: qpy-smtpd[submission]: x\n'
    table = services.parse(b'submission qpyd tcp:0.0.0.0:587 qpy-smtpd\nusers qpyp - qpy-users\npop qpyd - /opt/bin/x\n')
    assert [chain.label(service) for service in table] == [b'submission=qpy-smtpd', b'users', b'pop']


def test_a_line_may_come_in_pieces():
    """Pieces are put together; what is left at the end of the pipe is a line too."""
    source = log.Source(b'x', 0, 0.0)
    assert source.feed(b'a', 0.0) == b''
    assert source.feed(b'b\nc', 0.0) == b'x: ab\n'
    assert source.end(0.0) == b'x: c\n'


def test_a_flood_is_bounded_and_counted():
    """Beyond its allowance a program's lines are dropped and their number is said; send's never are."""
    flood = b'.\n' * (log.BURST + 700)
    source, send = log.Source(b'x', 0, 0.0), log.Source(b'send', 0, 0.0)
    assert source.feed(flood, 0.0).count(b'\n') == log.BURST
    assert source.feed(b'late\n', 1.0) == b'x: 700 lines were too many and are not in this log\nx: late\n'
    assert send.feed(flood, 0.0) == flood


def test_a_flood_that_ends_is_told_all_the_same(monkeypatch):
    """No further line has to come for the count of what was too many to be written."""
    written = []
    monkeypatch.setattr(log.unix, 'write_all', lambda fd, data: written.append(data))
    monkeypatch.setattr(log, 'BURST', 3)
    monkeypatch.setattr(log, 'TELL', 0.01)
    merger, (read, write) = log.Log(Loop(), {}), os.pipe()
    source = log.Source(b'x', read, 0.0)
    source.allowance = 3
    merger.add(source)
    os.write(write, b'.\n' * 10)
    while len(written) < 2:
        merger.loop.step(1)
    assert written == [b'x: .\n' * 3, b'x: 7 lines were too many and are not in this log\n'] and not merger.waiting
    os.close(write)
    merger.loop.step(1)
    assert not merger.open and not merger.loop.readers


def test_a_log_on_a_full_disk_says_what_is_missing(monkeypatch):
    """Lines that could not be written are counted, and told when the disk has room: with the next line or without."""
    written, full = [], [True]

    def write_all(fd, data):
        if full[0]:
            raise OSError(28, 'No space left on device')
        written.append(data)
    monkeypatch.setattr(log.unix, 'write_all', write_all)
    monkeypatch.setattr(log, 'RETRY', 0.01)
    merger = log.Log(Loop(), {})
    merger.write(b'a\nb\n')
    merger.loop.step(1)
    merger.write(b'c\n')
    full[0] = False
    merger.write(b'd\n')
    assert written == [b'qpy-log: warning: 3 lines could not be written\nd\n']
    full[0] = True
    merger.write(b'e\n')
    full[0] = False
    while len(written) < 2:
        merger.loop.step(1)
    assert written[1] == b'qpy-log: warning: 1 lines could not be written\n'


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_control_character_and_no_forged_name_gets_through(pieces):
    """Whatever a program writes: printable or 8-bit bytes and newlines only, and each line carries the pipe's name."""
    source = log.Source(b'x', 0, 0.0)
    out = b''.join(source.feed(piece, 0.0) for piece in pieces) + source.end(0.0)
    assert not any(c < 32 and c != 10 or c == 127 for c in out)
    assert all(line.startswith((b'x: ', b'qpy-x: ')) for line in out.split(b'\n')[:-1])


def start(path):
    """([(read end, write end)] of two pipes named send and users, the program)."""
    pipes = [os.pipe(), os.pipe()]
    arrange = ("import fcntl, os, sys; a, b = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 50) for n in sys.argv[1:3]); os.dup2(a, 3); "
               "os.dup2(b, 4); os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[3], sys.argv[3:])")
    child = subprocess.Popen(
        ['/usr/bin/python3', '-IS', '-c', arrange, *(str(read) for read, _ in pipes), path],
        pass_fds=[read for read, _ in pipes], stdout=subprocess.PIPE,
        env={'LISTEN_FDS': '2', 'LISTEN_FDNAMES': 'send:users'})
    for read, _ in pipes:
        os.close(read)
    return pipes, child


def test_the_program_merges_its_pipes_and_ends_with_the_last():
    """qpy-log reads the pipes it inherits by name, writes to descriptor 1, and exits 0 after the last end."""
    pipes, child = start(SOURCE + '/bin/qpy-log')
    os.write(pipes[0][1], b'status: local 0/10 remote 0/20\n')
    assert child.stdout.readline() == b'status: local 0/10 remote 0/20\n'
    os.write(pipes[1][1], b'qpy-users: \x1b[2Jready')
    for _, write in pipes:
        os.close(write)
    assert child.stdout.read() == b'qpy-users: ?[2Jready\n'
    child.stdout.close()
    assert child.wait(20) == 0


def test_by_qmails_name_its_first_word_is_that(tmp_path):
    """As after --qmail-names: pidof goes by the first word of the command line, which is the interpreter's otherwise."""
    (tmp_path / 'qmail-log').symlink_to(SOURCE + '/bin/qpy-log')
    pipes, child = start(str(tmp_path / 'qmail-log'))
    os.write(pipes[0][1], b'x\n')
    assert child.stdout.readline() == b'x\n'
    with open('/proc/%d/cmdline' % child.pid, 'rb') as file:
        assert file.read().rstrip(b'\0') == b'qmail-log'
    for _, write in pipes:
        os.close(write)
    child.stdout.close()
    assert child.wait(20) == 0
