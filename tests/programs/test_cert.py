"""qpy-cert: what it puts where, and what it refuses."""
import os
import stat
import subprocess

import pytest

from tests.peers.certificates import authority

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLAIN = 54321


@pytest.fixture
def cert(tmp_path):
    """A function that runs it in a rootless DIR: (exit code, what it says)."""
    (tmp_path / 'keys').mkdir()
    for path in (tmp_path, tmp_path / 'keys') if os.geteuid() == 0 else ():
        os.chown(path, PLAIN, PLAIN)

    def run(*words, **env):
        done = subprocess.run(['/usr/bin/python3', '-IS', SOURCE + '/bin/qpy-cert', *words], capture_output=True, text=True,
                              env={'QPYHOME': str(tmp_path), 'PATH': '/usr/bin:/bin', **env})
        return done.returncode, done.stdout + done.stderr
    run.keys = tmp_path / 'keys'
    return run


def test_a_key_and_its_certificates(cert):
    """One file, key and chain, with the owner of DIR, readable by him and his group; it says names and dates."""
    chain, key = authority().certificate('cert.test', '*.cert.test')
    code, said = cert('mail', chain, key)
    assert code == 0 and 'mail.pem: *.cert.test cert.test; until ' in said
    found = (cert.keys / 'mail.pem')
    assert found.read_text() == open(key).read().rstrip('\n') + '\n' + open(chain).read().rstrip('\n') + '\n'
    assert stat.S_IMODE(found.stat().st_mode) == 0o640 and found.stat().st_uid == cert.keys.parent.stat().st_uid
    assert cert() == (0, 'mail.pem: ' + said.partition('mail.pem: ')[2])
    code, _ = cert('again', str(found), str(found))
    assert code == 0 and (cert.keys / 'again.pem').read_text() == found.read_text()


def test_what_does_not_fit_changes_nothing(cert):
    """Another key, no key, no file, a bad name: the reason, and the old file is as it was."""
    chain, key = authority().certificate('cert.test', '*.cert.test')
    other = authority().certificate('another.test')[1]
    assert cert('mail', chain, key)[0] == 0
    before = (cert.keys / 'mail.pem').read_bytes()
    assert 'key values mismatch' in cert('mail', chain, other)[1] and cert('mail', chain, chain)[0] == 100
    assert cert('mail', chain, '/nonexistent')[0] == 111
    for words in (['../mail', chain, key], ['', chain, key], ['-x', chain, key], ['mail', chain], ['--self', '.x']):
        assert cert(*words)[0] == 100, words
    assert os.listdir(cert.keys) == ['mail.pem'] and (cert.keys / 'mail.pem').read_bytes() == before


def test_a_certificate_for_another_name_is_told(cert):
    """It is put there, and offered to all; a warning says so, also where they are shown, until one is for the name in control/me,
    or the greeting, or is called default."""
    (cert.keys.parent / 'control').mkdir()
    (cert.keys.parent / 'control/me').write_text('host1.cert.test\n')
    warning = 'qpy-cert: warning: %s/mail.cert.test.pem: not for host1.cert.test, ' % cert.keys
    chain, key = authority().certificate('mail.cert.test')
    for code, said in (cert('mail.cert.test', chain, key), cert(), cert('--self', 'mail.cert.test')):
        assert code == 0 and said.count('\n') == 2 and warning in said
    assert 'warning' not in cert('default', chain, key)[1]
    os.unlink(cert.keys / 'default.pem')
    (cert.keys.parent / 'control/smtpgreeting').write_text('mail.cert.test ESMTP\n')
    assert 'warning' not in cert()[1]
    os.unlink(cert.keys.parent / 'control/smtpgreeting')
    assert warning in cert()[1] and 'warning' not in cert('--self', 'host1.cert.test')[1]


@pytest.mark.root
def test_root_follows_no_link_of_who_owns_DIR(cert, tmp_path):
    """In a DIR of another, as a hook of certbot is, root puts the key where the owner could have put it, and nowhere else."""
    files = authority().certificate('cert.test')
    secret = tmp_path / 'secret'
    secret.mkdir()
    (secret / 'shadow').write_text('of root')
    (cert.keys / 'mail.pem.new').symlink_to(secret / 'shadow')
    assert cert('mail', *files)[0] == 0 and (cert.keys / 'mail.pem').lstat().st_uid == PLAIN
    os.rename(cert.keys, tmp_path / 'before')
    cert.keys.symlink_to(secret)
    assert cert('mail', *files)[0] == 111
    assert os.listdir(secret) == ['shadow'] and (secret / 'shadow').read_text() == 'of root' and (secret / 'shadow').stat().st_uid == 0


def test_certbots_hook(cert, tmp_path):
    """RENEWED_LINEAGE says it all."""
    lineage = tmp_path / 'mail.example.org'
    lineage.mkdir()
    for name, source in zip(('fullchain.pem', 'privkey.pem'), authority().certificate('mail.example.org')):
        (lineage / name).write_bytes(open(source, 'rb').read())
    assert cert(RENEWED_LINEAGE=str(lineage))[0] == 0
    assert (cert.keys / 'mail.example.org.pem').exists()


def test_one_of_its_own(cert):
    """--self: a certificate that works, for that name."""
    code, said = cert('--self', 'own.test')
    assert code == 0 and 'own.test.pem: own.test; until ' in said
