"""--help: a program says how it is called, on descriptor 1, and exits 0; not those whose arguments are others' choice."""
import os
import re
import subprocess

import pytest

from qpy.core import usage

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAMS = sorted(os.listdir(ROOT + '/bin'))
BY_THEIR_LINKS = ('qpy-mailq', 'qpy-newaliases', 'qpy-sendmail')      # what people and programs call them
LITERAL = sorted('qpy-' + name.decode() for name in usage.LITERAL)
OWN_ANSWER = ('qpy-ctl', 'qpy-deb', 'qpy-demo', 'qpy-install', 'qpy-test')


def ask(path, home, words=('--help',), cwd=None):
    """What it says, with nothing on any descriptor that it could take for work, and no home."""
    return subprocess.run([path, *words], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={'QPYHOME': str(home), 'PATH': '/usr/bin:/bin'})


@pytest.mark.parametrize('name', [name for name in PROGRAMS if name not in LITERAL])
def test_each_program_says_how_it_is_called(name, tmp_path):
    """A line that begins with usage and names it; 0; no home is needed."""
    done = ask(ROOT + '/bin/' + name, tmp_path / 'absent')
    if name == 'qpy-ctl' and 'click is missing' in done.stderr:
        assert done.returncode == 111 and 'Traceback' not in done.stderr
        pytest.skip('no click here')
    assert (done.returncode, done.stderr) == (0, '')
    assert re.match(r'[Uu]sage: %s\b' % (name[4:] if name in BY_THEIR_LINKS else name), done.stdout), done.stdout
    assert name in OWN_ANSWER or '  --help  Show this message and exit.\n' in done.stdout


@pytest.mark.parametrize('name', LITERAL)
def test_who_takes_arguments_literally_never_ends_well_on_that_word(name, tmp_path):
    """What .qmail files run, and what takes addresses: the word is an address, a program or a name that a stranger may have
    chosen, and no message is lost by it.  Without arguments they say how they are called, or miss what is their work."""
    done = ask(ROOT + '/bin/' + name, tmp_path, cwd=tmp_path)
    if name == 'qpy-getpw':                     # a local part like any other; an alias account may be missing
        assert done.returncode == 116 or done.returncode == 0 and done.stdout.endswith('\0-\0--help\0')
        return
    assert done.stdout == ('DI (qpy-remote) was invoked improperly. (#5.3.5)\n\0' if name == 'qpy-remote' else '')
    if name in ('qpy-except', 'qpy-maildirmake', 'qpy-remote'):     # no such program, as it shall be; a Maildir of this name; D
        assert done.returncode == 0 and (tmp_path / '--help' / 'new').is_dir() == (name == 'qpy-maildirmake')
    else:
        assert done.returncode in (100, 111), done
    if name not in ('qpy-inject', 'qpy-remote'):
        assert re.search('usage: (qpy-)?%s ' % name[4:], ask(ROOT + '/bin/' + name, tmp_path, words=()).stderr)


def test_a_message_to_that_address_is_sent_on(tmp_path):
    """`|forward "$DEFAULT"`: mail for fw---help goes to --help, as to any other; here it waits, because no queue is there."""
    done = subprocess.run(['/bin/sh', '-c', ROOT + '/bin/qpy-forward "$DEFAULT"'], input=b'Subject: x\n\n', capture_output=True,
                          env={'DEFAULT': '--help', 'NEWSENDER': 'a@b', 'DTLINE': 'Delivered-To: me\n', 'QPYHOME': str(tmp_path)})
    assert done.returncode == 111 and done.stdout == b''


@pytest.mark.parametrize('link, target, said', [
    ('qmail-send', 'qpy-send', 'qpy-send\n'), ('mailq', 'qpy-mailq', 'mailq [-v]'), ('newaliases', 'qpy-sendmail', 'newaliases\n'),
    ('sendmail', 'qpy-sendmail', 'sendmail [-ti]'), ('runq', 'qpy-sendmail', 'sendmail [-ti]')])
def test_by_other_names(link, target, said, tmp_path):
    """Links answer too."""
    (tmp_path / link).symlink_to(ROOT + '/bin/' + target)
    done = ask(tmp_path / link, tmp_path)
    assert done.returncode == 0 and done.stdout.startswith('Usage: ' + said)


def test_the_manual_is_where_it_was_installed():
    """An installed program says how to read its page: man does not look there by itself."""
    done = subprocess.run(['/usr/bin/python3', '-c', 'from qpy.lib import program; program.run("qpy.user.sendmail", "/srv/q")', '--help'],
                          cwd=ROOT, capture_output=True, text=True)
    assert 'The manual is qpy-sendmail(8): man -M /srv/q/man qpy-sendmail.\n' in done.stdout, done


def test_the_table_is_the_manual():
    """Every program but those with an answer of their own, or none, has a row; its section and sentence are its page's."""
    table = usage.rows()
    assert sorted('qpy-' + name.decode() for name in table) == [name for name in PROGRAMS if name not in OWN_ANSWER and name not in LITERAL]
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
        if name != "' + program.name" and 'qpy-' + name.removeprefix('qpy-') not in LITERAL:
            assert re.sub(r' < passwd|error|[ ]', '', arguments.lower()) == re.sub(
                r'text|[ ]', '', table[name.removeprefix('qpy-')]), line
