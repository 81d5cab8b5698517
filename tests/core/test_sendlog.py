"""The log lines of qmail-send, byte for byte."""
from hypothesis import given, strategies as st

from qpy.core import sendlog

N = b'1795574404000001'


def test_lines():
    """Each line is the one in qmail-log(5)."""
    assert sendlog.new(N) == b'new msg 1795574404000001'
    assert sendlog.info(N, 512, b'joe x@example.com', b'77', b'1000') == \
        b'info msg 1795574404000001: bytes 512 from <joe_x@example.com> qp 77 uid 1000'
    assert sendlog.starting(3, N, b'local', b'virt-joe@example.com') == \
        b'starting delivery 3: msg 1795574404000001 to local virt-joe@example.com'
    assert sendlog.status(1, 100, 0, 200) == b'status: local 1/100 remote 0/200'
    assert sendlog.status(1, 100, 0, 200, True) == b'status: local 1/100 remote 0/200 exitasap'
    assert sendlog.result(3, b'K', b'did 0+0+1\n') == b'delivery 3: success: did_0+0+1/'
    assert sendlog.result(3, b'Z', b'') == b'delivery 3: deferral: '
    assert sendlog.result(3, b'D', b'5% off\x80') == b'delivery 3: failure: 5__off_'
    assert sendlog.result(3, b'?', b'x') == b'delivery 3: report mangled, will defer'
    assert sendlog.bounce(N, b'80') == b'bounce msg 1795574404000001 qp 80'
    assert sendlog.notice(N, b'80', b'delay') == b'notice msg 1795574404000001 qp 80: delay'
    assert sendlog.triple_bounce(N) == b'triple bounce: discarding bounce/1795574404000001'
    assert sendlog.end(N) == b'end msg 1795574404000001'


@given(st.binary(), st.binary())
def test_one_line_whatever_comes(address, report):
    """No address and no report can make a second line, a control character, or a field more."""
    for line, blanks in ((sendlog.starting(1, N, b'remote', address), 7), (sendlog.result(1, b'Z', report), 3),
                         (sendlog.info(N, 1, address, b'1', b'2'), 10)):
        assert all(32 <= c < 127 for c in line)
        assert line.count(b' ') == blanks
