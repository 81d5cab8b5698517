"""--help: every program says how it is called, on descriptor 1, and exits 0; nothing else happens."""
import os
import re
import subprocess

import pytest

from qpy.core import usage

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAMS = sorted(os.listdir(ROOT + '/bin'))
BY_THEIR_LINKS = ('qpy-mailq', 'qpy-newaliases', 'qpy-sendmail')      # what people and programs call them
OWN_ANSWER = ('qpy-ctl', 'qpy-deb', 'qpy-demo', 'qpy-install', 'qpy-test')


def ask(path, home):
    """What it says, with nothing on any descriptor that it could take for work, and no home."""
    return subprocess.run([path, '--help'], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={'QPYHOME': str(home), 'PATH': '/usr/bin:/bin'})


@pytest.mark.parametrize('name', PROGRAMS)
def test_each_program_says_how_it_is_called(name, tmp_path):
    """A line that begins with usage and names it; 0; no home is needed."""
    done = ask(ROOT + '/bin/' + name, tmp_path / 'absent')
    if name == 'qpy-ctl' and 'click is missing' in done.stderr:
        assert done.returncode == 111 and 'Traceback' not in done.stderr
        pytest.skip('no click here')
    assert (done.returncode, done.stderr) == (0, '')
    assert re.match(r'[Uu]sage: %s\b' % (name[4:] if name in BY_THEIR_LINKS else name), done.stdout), done.stdout
    assert name in OWN_ANSWER or '  --help  Show this message and exit.\n' in done.stdout


@pytest.mark.parametrize('link, target, said', [
    ('qmail-send', 'qpy-send', 'qpy-send\n'), ('mailq', 'qpy-mailq', 'mailq [-v]'), ('newaliases', 'qpy-sendmail', 'newaliases\n'),
    ('sendmail', 'qpy-sendmail', 'sendmail [-ti]'), ('runq', 'qpy-sendmail', 'sendmail [-ti]')])
def test_by_other_names(link, target, said, tmp_path):
    """Links answer too."""
    (tmp_path / link).symlink_to(ROOT + '/bin/' + target)
    done = ask(tmp_path / link, tmp_path)
    assert done.returncode == 0 and done.stdout.startswith('Usage: ' + said)


def test_the_table_is_the_manual():
    """Every program but those with an answer of their own has a row; its section and sentence are its page's."""
    table = usage.rows()
    assert sorted('qpy-' + name.decode() for name in table) == [name for name in PROGRAMS if name not in OWN_ANSWER]
    for name, (_, section, sentence) in table.items():
        with open('%s/man/qpy-%s.%s' % (ROOT, name.decode(), section.decode())) as page:
            (nd,) = [line[4:-1] for line in page if line.startswith('.Nd ')]
        assert sentence.decode() == nd, name


def test_the_table_is_what_the_programs_say():
    """Who complains of wrong usage shows the same words, but for their case."""
    said = subprocess.run(['grep', '-rhoE', r"b'usage: [^']+'", ROOT + '/qpy'], capture_output=True, text=True,
                          check=True).stdout.splitlines()
    assert len(said) > 20
    table = {name.decode(): arguments.decode().lower() for name, (arguments, _, _) in usage.rows().items()}
    for line in said:
        name, _, arguments = line[len("b'usage: "):-1].partition(' ')
        if name != "' + program.name":
            assert re.sub(r' < passwd|error|[ ]', '', arguments.lower()) == re.sub(
                r'text|[ ]', '', table[name.removeprefix('qpy-')]), line
