"""Mail clients of Debian fetch from qpy-popup and qpy-pop3d."""
import shutil
import subprocess

import pytest

from tests.peers import debian
from tests.peers.certificates import authority
from tests.peers.pop3 import PASSWORD, House

TEXT = b'Subject: real\n\n.dot\nFrom here\nbody\n'


@pytest.fixture(params=[{}, {'FORCETLS': '1'}], ids=['clear', 'stls'])
def tls(request):
    """The environment of qpy-popup: whether STLS must be said."""
    return request.param


@pytest.fixture
def port(tmp_path, tls):
    """A port with joe's mail behind it."""
    house = House()
    if tls:
        house.tls(*authority().certificate('localhost', '127.0.0.1'))
    for number in range(3):
        house.mail('new/%d.host' % number, TEXT, 300 - number)
    with open(tmp_path / 'log', 'wb') as log:
        yield house.serve(log, **tls)
        house.stop()


def curl(port, path='', *words):
    if not shutil.which('curl'):
        pytest.skip('no curl')
    return subprocess.run(['curl', '-sS', '--max-time', '30', '--ssl', '--cacert', authority().ca, '-u', 'joe:' + PASSWORD.decode(), *words,
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


def program(name):
    """A client of Debian; skips where it cannot be had."""
    try:
        return debian.program(name, name)
    except (RuntimeError, OSError) as problem:
        pytest.skip('no %s: %s' % (name, problem))


def test_mpop(port, tmp_path, tls):
    """mpop fetches all into an mbox and deletes them, pipelining nothing that CAPA does not offer."""
    words = ['--host=127.0.0.1', '--port=%d' % port, '--user=joe', '--auth=user', '--half-quiet',
             *(('--tls=on', '--tls-starttls=on', '--tls-trust-file=' + authority().ca) if tls else ('--tls=off',)),
             '--passwordeval=echo ' + PASSWORD.decode(), '--uidls-file=%s/uidls' % tmp_path,
             '--delivery=mbox,%s/mbox' % tmp_path]
    done = subprocess.run([program('mpop'), *words], capture_output=True, timeout=60,
                          env={'PATH': '/usr/bin:/bin', 'HOME': str(tmp_path)})
    assert done.returncode == 0, done
    assert (tmp_path / 'mbox').read_bytes().count(TEXT.replace(b'\nFrom ', b'\n>From ')) == 3
    assert curl(port).stdout.strip() == b''


def test_fetchmail(port, tmp_path, tls):
    """fetchmail hands each message on, whole, and deletes it; it asks LAST and TOP."""
    rc = tmp_path / 'rc'
    proto = "sslproto 'tls1.2+' sslcommonname localhost sslcertck sslcertfile '%s'" % authority().ca if tls else "sslproto ''"
    rc.write_text("poll 127.0.0.1 protocol pop3 port %d user joe password '%s' %s mda 'cat >> %s/got'\n"
                  % (port, PASSWORD.decode(), proto, tmp_path))
    rc.chmod(0o600)
    done = subprocess.run([program('fetchmail'), '-f', str(rc), '--nodetach', '--pidfile', str(tmp_path / 'pid')],
                          capture_output=True, timeout=60, env={'PATH': '/usr/bin:/bin', 'HOME': str(tmp_path),
                                                                'FETCHMAILHOME': str(tmp_path)})
    assert done.returncode == 0, done
    assert (tmp_path / 'got').read_bytes().count(TEXT) == 3
    assert curl(port).stdout.strip() == b''
