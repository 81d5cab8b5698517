"""The manual is whole: each page has the sections people look for, and qpy.7 names every program and format."""
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from qpy.admin import test as runner

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGES = sorted(name for name in os.listdir(ROOT + '/man') if name[-1:].isdigit())
PROGRAMS = sorted(os.listdir(ROOT + '/bin'))
NEEDED = ('EXIT STATUS', 'ENVIRONMENT', 'FILES', 'EXAMPLES', 'SECURITY', 'SEE ALSO')


def sections(page):
    """The titles of a page's sections."""
    with open(ROOT + '/man/' + page) as file:
        return re.findall(r'^\.Sh (.*)$', file.read(), re.M)


@pytest.mark.parametrize('page', [name for name in PAGES if name[-1] in '158'])
def test_sections(page):
    """A page of a program or a format has all of EXIT STATUS, ENVIRONMENT, FILES, EXAMPLES, SECURITY and SEE ALSO, each once."""
    found = sections(page)
    assert [name for name in NEEDED if found.count(name) != 1] == []


def test_the_list_of_all():
    """qpy.7 has a line for each program in bin/ and each other page, in its section, and for nothing else."""
    with open(ROOT + '/man/qpy.7') as file:
        listed = re.findall(r'^\.It Xr (\S+) (\d)', file.read(), re.M)
    assert len(listed) == len(set(listed))
    assert sorted('%s.%s' % pair for pair in listed) == [page for page in PAGES if page != 'qpy.7']
    assert set(PROGRAMS) <= {name for name, _ in listed}


def test_what_the_list_says_is_what_the_page_says():
    """Each line of qpy.7 has the page's own words."""
    with open(ROOT + '/man/qpy.7') as file:
        lines = {'%s.%s' % pair[:2]: pair[2] for pair in re.findall(r'^\.It Xr (\S+) (\d)\n(.*)$', file.read(), re.M)}
    for page in PAGES:
        if page != 'qpy.7':
            with open(ROOT + '/man/' + page) as file:
                words = re.search(r'^\.Nd (.*)$', file.read(), re.M)[1]
            assert lines[page] == words, page


def test_it_can_be_read():
    """mandoc renders the list."""
    if not shutil.which('mandoc'):
        pytest.skip('no mandoc here')
    done = subprocess.run(['mandoc', '-Tutf8', ROOT + '/man/qpy.7'], capture_output=True, text=True)
    assert done.returncode == 0 and 'qpy-sendmail' in done.stdout


LITERAL = 100           # columns of what is shown as it is typed or logged
RENDERED = {'groff': ('groff', '-mandoc', '-Kutf8', '-Tutf8', '-rLL=80n', '-rLT=80n', '-ww', '-P-c', '-P-b', '-P-u'),
            'mandoc': ('mandoc', '-Tutf8', '-Owidth=80')}


@pytest.mark.parametrize('by', sorted(RENDERED))
@pytest.mark.parametrize('page', PAGES)
def test_it_fits_a_terminal(page, by):
    """At 80 columns no line of the text is longer, nothing shown as it is has more than LITERAL, and groff warns of nothing."""
    if not shutil.which(by):
        pytest.skip('no %s here' % by)
    path = ROOT + '/man/' + page
    with open(path) as file:
        source = file.read().replace('\\e', '\\').replace('\\&', '').replace('\\-', '-')
    done = subprocess.run([*RENDERED[by], path], capture_output=True, text=True)
    wrong = done.stderr.splitlines()
    for line in re.sub('.\x08', '', done.stdout).split('\n'):
        shown = line.strip() in source
        if len(line) > (LITERAL if shown else 80):
            wrong.append(line)
    assert wrong == []


@pytest.mark.parametrize('name', ['README.md', *('man/' + page for page in PAGES)])
def test_nothing_is_left_to_fill_in(name):
    """No @PLACE@ that somebody meant to fill in, and no TODO."""
    with open(os.path.join(ROOT, name)) as file:
        assert re.findall(r'@[A-Z]+@|\bTODO\b|\bFIXME\b', file.read()) == []


def test_what_standards_name_is_there():
    """Each test that a page's table of RFCs names is a test of this suite."""
    found = 0
    for page in PAGES:
        with open(ROOT + '/man/' + page) as file:
            table = file.read().partition('.Sh STANDARDS')[2]
        for name in re.findall(r'^(\S+\.py)::(\w+)$', table, re.M):
            with open(ROOT + '/tests/' + name[0]) as file:
                assert 'def %s(' % name[1] in file.read(), (page, name)
            found += 1
    assert found > 20


def test_every_knob_of_the_tests_is_known():
    """What a test takes from the environment is let through by qpy-test and stands in its page."""
    tests = pathlib.Path(ROOT, 'tests')
    asked = {name for path in tests.rglob('*.py') for name in re.findall(r"environ\.get\('(QPY_[A-Z_]+)'", path.read_text())}
    assert asked - {'QPY_UPDATE_GOLDEN'} == set(runner.KNOBS)
    page = pathlib.Path(ROOT, 'man/qpy-test.1').read_text()
    assert all(re.search(r'^\.It Ev .*\b%s\b' % name, page, re.M) for name in runner.KNOBS)


def test_the_table_of_extensions():
    """qpy-smtpd.8 lists what EHLO can offer, in its order, and what it does not tell of, each with a test that is there."""
    from qpy.core import esmtp
    with open(ROOT + '/man/qpy-smtpd.8') as file:
        section = re.search(r'^\.Sh EXTENSIONS\n(.*?)^\.Sh', file.read(), re.M | re.S)[1]
    offered, others = (re.findall(r'^\.It (.+) \((?:RFC )?(.+?)\), .+\n(\S+\.py)::(\w+)$', table, re.M) for table in section.split('\n.El\n')[:2])
    assert [row[0].encode() for row in offered] == [row[0] for row in esmtp.EXTENSIONS] and len(others) > 15
    assert section.count('.py::') == len(offered + others)
    for _, number, path, name in offered + others:
        with open(ROOT + '/tests/' + path) as file:
            assert 'def %s(' % name in file.read(), name
        assert re.fullmatch(r'\d{4}(, [\d.]+)*|Postfix|HAProxy', number), number


VARIABLE = re.compile(r"environ(?:\.get|\.pop)?[(\[]b'([A-Z][A-Z0-9_]+)'|b'([A-Z][A-Z0-9_]+)' (?:not )?in (?:unix\.)?environ")
OTHER_NAMES = {'qpy-mailq', 'qpy-newaliases'}       # of qpy-sendmail
EVERYWHERE = {'PATH', 'QPYHOME'}        # of the kernel's search for programs, and in qpy.7


@pytest.mark.parametrize('program', sorted(set(PROGRAMS) - OTHER_NAMES))
def test_what_is_read_of_the_environment_is_in_the_page(program):
    """A variable that a program's own module reads stands in its page, or in one that its ENVIRONMENT refers to."""
    module = re.search(r"'(qpy\.[a-z0-9_.]+)'", pathlib.Path(ROOT, 'bin', program).read_text())[1]
    source = pathlib.Path(ROOT, module.replace('.', '/') + '.py').read_text()
    page = next(name for name in PAGES if name[:-2] == program)
    text = environment = pathlib.Path(ROOT, 'man', page).read_text().partition('.Sh ENVIRONMENT')[2].partition('\n.Sh ')[0]
    for name in re.findall(r'\.Xr (\S+ \d)', environment):
        other = pathlib.Path(ROOT, 'man', name.replace(' ', '.'))
        text += other.read_text() if other.exists() else ''
    read = {a or b for a, b in VARIABLE.findall(source)}
    assert [name for name in sorted(read - EVERYWHERE) if name not in text] == []
