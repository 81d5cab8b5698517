"""Mail clients of Debian fetch from qpy-popup and qpy-pop3d."""
import shutil
import subprocess

import pytest

from tests.peers.pop3 import PASSWORD, House

TEXT = b'Subject: real\n\n.dot\nFrom here\nbody\n'


@pytest.fixture
def port(tmp_path):
    """A port with joe's mail behind it."""
    house = House()
    for number in range(3):
        house.mail('new/%d.host' % number, TEXT, 300 - number)
    with open(tmp_path / 'log', 'wb') as log:
        yield house.serve(log)
        house.stop()


def curl(port, path='', *words):
    if not shutil.which('curl'):
        pytest.skip('no curl')
    return subprocess.run(['curl', '-sS', '--max-time', '30', '-u', 'joe:' + PASSWORD.decode(), *words,
                           'pop3://127.0.0.1:%d/%s' % (port, path)], capture_output=True, timeout=60)


def test_curl(port):
    """curl lists, fetches and deletes, by USER and PASS: there is no banner that makes it try APOP."""
    assert curl(port).stdout == b'1 %d\r\n2 %d\r\n3 %d\r\n' % ((len(TEXT),) * 3)
    assert curl(port, '2').stdout == TEXT.replace(b'\n', b'\r\n')
    assert curl(port, '', '-X', 'UIDL').stdout == b'1 0.host\r\n2 1.host\r\n3 2.host\r\n'
    assert curl(port, '1', '-X', 'DELE', '-l').returncode in (0, 8)
    assert curl(port).stdout == b'1 %d\r\n2 %d\r\n' % ((len(TEXT),) * 2)


def test_curl_with_a_wrong_password(port):
    """It is told so (67)."""
    assert curl(port, '', '-u', 'joe:wrong').returncode == 67
