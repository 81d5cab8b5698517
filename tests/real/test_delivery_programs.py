"""Debian's delivery programs in .qmail lines, as their manuals and qmail's recipes say."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, SOURCE)
from qpy.core import idmap  # noqa: E402
from qpy.lib import confine  # noqa: E402
from tests.peers import debian  # noqa: E402

MESSAGE = b'From: a@b\nTo: joe@x\nSubject: hello\n\nFrom here on\n'


UID = 65534 if os.geteuid() == 0 else None      # who it runs as, one with a passwd entry: root would touch /var/mail


@pytest.fixture
def place():
    """A directory that the user may enter."""
    path = pathlib.Path(tempfile.mkdtemp(prefix='qpy-programs-'))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def deliver(place):
    """deliver(lines) -> the finished qpy-local; DIR/bin has the tools under qmail's names."""
    tmp_path = place
    home = tmp_path / 'home'
    home.mkdir()
    (tmp_path / 'dir/bin').mkdir(parents=True)
    (tmp_path / 'dir/control').mkdir()
    for name in ('preline', 'forward', 'condredirect', 'bouncesaying', 'except'):
        (tmp_path / 'dir/bin' / name).symlink_to(os.path.join(SOURCE, 'bin/qpy-' + name))

    def run(lines, become=None):
        (home / '.qmail').write_text(lines)
        if UID:
            subprocess.run(['chown', '-R', '%d:%d' % (UID, UID), str(home)], check=True)
        (tmp_path / 'message').write_bytes(MESSAGE)
        with open(tmp_path / 'message', 'rb') as stdin:
            who = dict(preexec_fn=become) if become else dict(user=UID, group=UID, extra_groups=[] if UID else None)
            bound = [] if become else ['setpriv', '--no-new-privs']
            return subprocess.run([*bound, SOURCE + '/bin/qpy-local', 'joe', str(home), 'joe', '', '', 'x.example',
                                   's@y', './Maildir/'], stdin=stdin, capture_output=True, timeout=60,
                                  env={'QPYHOME': str(tmp_path / 'dir')}, **who)
    run.home = home
    return run


def program(name):
    """The path of a program of Debian's package of that name; skips where it cannot be had."""
    try:
        return debian.program(name, name)
    except (RuntimeError, StopIteration) as problem:
        pytest.skip('no %s: %s' % (name, problem))


def only(directory):
    """The one file in a directory."""
    (name,) = os.listdir(directory)
    return open(os.path.join(directory, name), 'rb').read()


def test_procmail(deliver):
    """`|preline procmail` delivers under $HOME by .procmailrc, and its answer is ours."""
    path = program('procmail')
    (deliver.home / '.procmailrc').write_text('MAILDIR=%s\n:0\n* ^Subject: hello\nsorted/\n' % deliver.home)
    os.mkdir(deliver.home / 'sorted')
    done = deliver('|preline %s ORGMAIL=%s/o DEFAULT=%s/d %s/.procmailrc\n' % (path, *[deliver.home] * 3))
    assert done.returncode == 0, done
    text = only(deliver.home / 'sorted/new')
    assert text.endswith(MESSAGE) and b'Delivered-To: joe@x.example\n' in text
    (deliver.home / '.procmailrc').write_text('EXITCODE=77\n:0\n/dev/null\n')
    assert deliver('|preline %s ORGMAIL=%s/o DEFAULT=%s/d %s/.procmailrc\n' % (path, *[deliver.home] * 3)).returncode == 100
    (deliver.home / '.procmailrc').write_text('EXITCODE=75\n:0\n/dev/null\n')
    assert deliver('|preline %s ORGMAIL=%s/o DEFAULT=%s/d %s/.procmailrc\n' % (path, *[deliver.home] * 3)).returncode == 111


def test_procmail_without_a_default(deliver):
    """It may make no /var/mail/USER, and the mail waits; with DEFAULT on the line it says so and delivers."""
    path = program('procmail')
    if os.path.exists('/var/mail/nobody') or UID is None and os.access('/var/mail', os.W_OK):
        pytest.skip('the file is there, or may be made')
    for line, code in (('|preline %s -a "$EXT"\n', 111), ('|preline %s -a "$EXT" DEFAULT=$HOME/Maildir/\n', 0)):
        done = deliver(line % path)
        assert done.returncode == code and b'Couldn\'t create "/var/mail/' in done.stdout + done.stderr, done
    assert only(deliver.home / 'Maildir/new').endswith(MESSAGE)


def test_maildrop(deliver):
    """`|preline maildrop` delivers under $HOME by a filter file."""
    path = program('maildrop')
    for part in ('', 'tmp', 'new', 'cur'):
        (deliver.home / 'box' / part).mkdir()
    (deliver.home / '.filter').write_text('to "%s/box"\n' % deliver.home)
    (deliver.home / '.filter').chmod(0o600)
    done = deliver('|preline %s %s/.filter\n' % (path, deliver.home))
    assert done.returncode == 0, done
    assert only(deliver.home / 'box/new').endswith(MESSAGE)


def behind_the_filter():
    """As where user namespaces are forbidden: a child of the seed, whom its filter stays with."""
    ids = idmap.ranges(1000, {700, UID}, ())
    confine.keep_two_capabilities(700, 700, 0)
    confine.seed_filter(ids, ids)
    confine.become_user(UID, UID)


@pytest.mark.root
def test_behind_the_filter(deliver):
    """procmail and maildrop ask to be whom they are, which goes on; who asks for the effective uid alone hears no error."""
    (deliver.home / '.procmailrc').write_text('MAILDIR=%s\n:0\nsorted/\n' % deliver.home)
    (deliver.home / '.filter').write_text('to "%s/box"\n' % deliver.home)
    (deliver.home / '.filter').chmod(0o600)
    for part in ('sorted', 'box', 'box/tmp', 'box/new', 'box/cur'):
        (deliver.home / part).mkdir()
    lines = '|preline %s ORGMAIL=%s/o DEFAULT=%s/d %s/.procmailrc\n' % (program('procmail'), *[deliver.home] * 3)
    lines += '|preline %s %s/.filter\n' % (program('maildrop'), deliver.home)
    lines += '|/usr/bin/python3 -I -c "import os; os.seteuid(os.getuid()); os.setresuid(*os.getresuid())"\n'
    done = deliver(lines, behind_the_filter)
    assert done.returncode == 0 and done.stdout.endswith(b'did 0+0+3\n'), done
    assert only(deliver.home / 'sorted/new').endswith(MESSAGE) and only(deliver.home / 'box/new').endswith(MESSAGE)


def test_recipes(deliver):
    """The recipes of qmail's manuals with bouncesaying, except and test, found along PATH under qmail's names."""
    assert deliver("|bouncesaying 'Too large' [ `wc -c` -ge 10 ]\n").returncode == 100
    assert deliver("|bouncesaying 'Too large' [ `wc -c` -ge 100000 ]\n./Maildir/\n#\n").returncode == 111
    assert deliver("|bouncesaying 'The word is missing' except grep -q swordfish\n").returncode == 100
    assert deliver("|bouncesaying 'The word is missing' except grep -q hello\n").returncode == 0
    assert deliver('|[ "$HOST" = x.example ] && exit 99; exit 111\nnobody@nowhere\n').stdout == b'did 0+0+1\n'
