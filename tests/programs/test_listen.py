"""qpy-listen: the port, the account, and the program that gets them."""
import os
import pwd
import socket
import subprocess

import pytest

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = '''import os, socket
assert os.environ['LISTEN_PID'] == str(os.getpid()) and os.environ['LISTEN_FDS'] == '1'
client = socket.socket(fileno=3).accept()[0]
client.sendall(('%s %s %s %s' % (os.environ['LISTEN_FDNAMES'], os.getresuid(), os.getgroups(),
    [l.split()[1] for l in open('/proc/self/status') if l[:6] in ('CapPrm', 'NoNewP')])).encode())
'''


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def listen(home, *words):
    return subprocess.Popen([SOURCE + '/bin/qpy-listen', *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env={'QPYHOME': str(home), 'PATH': '/usr/bin:/bin'})


def ask(process, port):
    """What the program says to a client; waits until the port is open by looking at the process's end too."""
    import time
    give_up = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(('127.0.0.1', port), 5) as client:
                return client.makefile().read()
        except ConnectionRefusedError:
            assert process.poll() is None and time.monotonic() < give_up, process.communicate()
            time.sleep(0.01)             # back-off: nothing tells from outside that a port is open


def test_the_program_gets_the_socket_as_descriptor_3(tmp_path):
    """The listening socket is descriptor 3, named smtpd; without root the account stays."""
    if os.geteuid() == 0:
        pytest.skip('as root the account changes, see the next test')
    port = free_port()
    process = listen(tmp_path, '127.0.0.1:%d' % port, 'python3', '-c', PROGRAM)
    assert ask(process, port).startswith('smtpd %r' % (os.getresuid(),))
    process.communicate(timeout=20)


@pytest.mark.root
def test_root_is_given_up_for_qpyd(tmp_path):
    """Started as root the program is qpyd, with no group, no capability and no_new_privs."""
    try:
        uid = pwd.getpwnam('qpyd').pw_uid
    except KeyError:
        pytest.skip('no account qpyd here')
    port = free_port()
    process = listen(tmp_path, '127.0.0.1:%d' % port, 'python3', '-c', PROGRAM)
    assert ask(process, port) == "smtpd %r [] ['%s', '1']" % ((uid,) * 3, '0' * 16)
    process.communicate(timeout=20)


@pytest.mark.parametrize('words, code, said', [
    ((), 100, 'usage: qpy-listen'), (('25', 'x'), 100, 'not an address and a port'),
    (('127.0.0.1:0', 'true'), 100, 'not an address'), (('127.0.0.1:2999', 'no-such-program'), 111, 'unable to find'),
])
def test_a_wrong_call(tmp_path, words, code, said):
    """One line, and the code that fits."""
    process = listen(tmp_path, *words)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code and said in err and err.count('\n') == 1


def test_a_taken_port(tmp_path):
    """The line names address and port."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = listen(tmp_path, '127.0.0.1:%d' % port, 'true')
        _, err = process.communicate(timeout=20)
    assert process.returncode == 111 and 'unable to listen on 127.0.0.1 port %d' % port in err
