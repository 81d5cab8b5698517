"""qpy-log: whose line is whose, and that nothing in a line can harm who reads it."""
import os
import subprocess

from hypothesis import given, strategies as st

from qpy.qpyl import log

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_send_is_bare_and_the_others_are_named():
    """send's lines pass as they are, others get their pipe's name, unless they name themselves truly."""
    send, smtpd = log.Source(b'send', 0, 0.0), log.Source(b'smtpd', 1, 0.0)
    assert send.feed(b'new msg 1\nend msg 1\n', 0.0) == b'new msg 1\nend msg 1\n'
    assert smtpd.feed(b'qpy-smtpd: hello\nnew msg 1\nqpy-send: x\n', 0.0) == \
        b'qpy-smtpd: hello\nsmtpd: new msg 1\nsmtpd: qpy-send: x\n'


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


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_control_character_and_no_forged_name_gets_through(pieces):
    """Whatever a program writes: printable or 8-bit bytes and newlines only, and each line carries the pipe's name."""
    source = log.Source(b'x', 0, 0.0)
    out = b''.join(source.feed(piece, 0.0) for piece in pieces) + source.end(0.0)
    assert not any(c < 32 and c != 10 or c == 127 for c in out)
    assert all(line.startswith((b'x: ', b'qpy-x: ')) for line in out.split(b'\n')[:-1])


def test_the_program_merges_its_pipes_and_ends_with_the_last():
    """qpy-log reads the pipes it inherits by name, writes to descriptor 1, and exits 0 after the last end."""
    pipes = [os.pipe(), os.pipe()]
    arrange = ("import fcntl, os, sys; a, b = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 50) for n in sys.argv[1:3]); os.dup2(a, 3); "
               "os.dup2(b, 4); os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[3], sys.argv[3:])")
    child = subprocess.Popen(
        ['/usr/bin/python3', '-IS', '-c', arrange, *(str(read) for read, _ in pipes), SOURCE + '/bin/qpy-log'],
        pass_fds=[read for read, _ in pipes], stdout=subprocess.PIPE,
        env={'LISTEN_FDS': '2', 'LISTEN_FDNAMES': 'send:users'})
    for read, _ in pipes:
        os.close(read)
    os.write(pipes[0][1], b'status: local 0/10 remote 0/20\n')
    assert child.stdout.readline() == b'status: local 0/10 remote 0/20\n'
    os.write(pipes[1][1], b'qpy-users: \x1b[2Jready')
    for _, write in pipes:
        os.close(write)
    assert child.stdout.read() == b'qpy-users: ?[2Jready\n'
    child.stdout.close()
    assert child.wait(20) == 0
