"""The shape of the house: who imports what, who makes system calls, what each program can reach."""
import os
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import source  # noqa: E402

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'reach')
UPDATE = os.environ.get('QPY_UPDATE_GOLDEN')
PURE = {'struct', 'zlib', 'binascii', 'heapq', 'collections', '_collections', 'gc', 'hashlib', '_sha256', '_hashlib', '_operator',
        'unicodedata'}
CLOCKLESS = {'gmtime', 'strftime'}          # what core may take from time
SYSTEM = {'os', '_socket', 'socket', 'fcntl', 'select', '_signal', 'signal', 'pwd', 'grp', 'ctypes', 'ssl', '_ssl', '_thread',
          'threading', 'subprocess', 'resource', 'mmap', 'termios', 'posix', 'errno', 'stat', 'sys', 'tempfile', 'io'}
HAND_OVERS = {'qpy.root.seed': {'qpy.qpyu.seed', 'qpy.user.local'}, 'qpy.qpyu.seed': {'qpy.user.local'}}
OWN = {'qpy.qpyr.resolve': {'dns', 'sys'}, 'qpy.user.qread': {'json'}, 'qpy.lib.program': {'sys'}}
PROGRAMS = {name: source.program_module(text) for name, text in source.launchers().items()}


def account(module):
    """The package directly under qpy, '' for qpy itself and the seam."""
    parts = module.split('.')
    return parts[1] if len(parts) > 2 or module in ('qpy.core', 'qpy.lib') else ''


@pytest.mark.parametrize('module', sorted(source.modules()))
def test_imports_stay_inside_the_account(module):
    """core imports core; lib imports core, lib and the seam; an account's package these and itself; admin anything of
    core and lib.  Hand-overs of the seed are the only exceptions.  Lazy imports count."""
    here = account(module)
    for name, taken in source.imports(module).items():
        if name not in source.modules():
            check_foreign(module, here, name, taken)
            continue
        there = account(name)
        if name == 'qpy' or not there:
            assert here != 'core', '%s does input or output: %s' % (module, name)
            assert there or name.split('.')[-1] in source.SEAM or name == 'qpy', name
        else:
            allowed = {'core', here} if here == 'core' else {'core', 'lib', here}
            assert there in allowed or name in HAND_OVERS.get(module, ()), '%s imports %s' % (module, name)


def check_foreign(module, here, name, taken):
    """A module of the library: pure ones everywhere, the system's only in the seam and in admin."""
    top = name.partition('.')[0]
    if not here and module.split('.')[-1] in source.SEAM or here == 'admin':
        return
    if module == 'qpy.core.dates' and top == 'time':
        assert taken <= CLOCKLESS, taken
        return
    assert top in PURE | OWN.get(module, set()), '%s imports %s' % (module, name)


@pytest.mark.parametrize('module', sorted(source.modules()))
def test_names_are_not_taken_out_of_the_seam(module):
    """`from qpy.unix import read` would escape the tests that make read fail."""
    for name, taken in source.imports(module).items():
        assert not (name.removeprefix('qpy.') in source.SEAM and taken), module


@pytest.mark.parametrize('name', sorted(PROGRAMS))
def test_each_launcher_is_the_launcher(name):
    """All launchers are one text but for the module's name, and executable; the program's name is the module's."""
    text, model = source.launchers()[name], source.launchers()['qpy-clean']
    assert text == model.replace('qpy.qpyq.clean', PROGRAMS[name])
    assert os.access(os.path.join(source.ROOT, 'bin', name), os.X_OK)
    assert PROGRAMS[name] in source.modules()
    own = PROGRAMS[name].rpartition('.')[2].rstrip('_').replace('_', '-')
    assert own == name.removeprefix('qpy-') or name in ('qpy-mailq', 'qpy-newaliases')


def test_package_files_are_empty():
    """Importing a program imports nothing it did not name."""
    for module, path in source.modules().items():
        if path.endswith('__init__.py'):
            assert os.path.getsize(path) == 0, path


LOADED = """
import sys
before = set(sys.modules)
sys.path.insert(0, %r)
from qpy.lib import program
__import__(%r)
print(' '.join(sorted(set(sys.modules) - before)))
"""


def loaded(module):
    """The modules that importing a program loads beyond the bare interpreter."""
    done = subprocess.run(['/usr/bin/python3', '-IS', '-c', LOADED % (source.ROOT, module)], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def reach(module):
    """The golden text of one program."""
    names = sorted(source.reached(module))
    calls = sorted(set().union(*(source.calls(name) for name in names if name.split('.')[-1] not in source.SEAM)))
    others = [name for name in loaded(module) if not name.startswith('qpy')]
    return '\n'.join(['modules of qpy:', *('  ' + name for name in names if name != 'qpy'), 'system calls:',
                      *('  ' + name for name in calls), 'other modules loaded at start: %d' % len(others),
                      *('  ' + name for name in others)]) + '\n'


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason='the golden files are of Python 3.11')
@pytest.mark.parametrize('name', sorted(n for n in PROGRAMS if not PROGRAMS[n].startswith('qpy.admin')))
def test_the_reach_of_each_program_is_its_golden_file(name):
    """A change in what a program can import or call is a change of authority: QPY_UPDATE_GOLDEN=1, and say why."""
    path, text = os.path.join(GOLDEN, name + '.txt'), reach(PROGRAMS[name])
    if UPDATE:
        os.makedirs(GOLDEN, exist_ok=True)
        with open(path, 'w') as file:
            file.write(text)
    with open(path) as file:
        assert text == file.read()


@pytest.mark.parametrize('name', sorted(n for n in PROGRAMS if not PROGRAMS[n].startswith('qpy.admin')))
def test_what_costs_start_up_time_is_not_loaded(name):
    """No program that carries mail loads these; resolve alone knows dnspython, and loads it when it serves."""
    dear = {'re', 'dataclasses', 'enum', 'logging', 'subprocess', 'socket', 'asyncio', 'email', 'typing', 'argparse',
            'tempfile', 'click', 'site', 'signal', 'ssl', 'pickle'}
    assert not dear & set(loaded(PROGRAMS[name]))


# --- manual against code ---------------------------------------------------------------------------------------

def pages():
    return sorted(name for name in os.listdir(os.path.join(source.ROOT, 'man')) if name[-1].isdigit())


@pytest.mark.parametrize('name', sorted(PROGRAMS))
def test_each_program_has_a_page(name):
    """man/NAME.1 or man/NAME.8, which names the program."""
    mine = [page for page in pages() if page[:-2] == name and page[-1] in '18']
    assert len(mine) == 1, mine
    with open(os.path.join(source.ROOT, 'man', mine[0])) as file:
        text = file.read()
    assert '.Nm ' + name in text and '.Dt %s %s' % (name.upper(), mine[0][-1]) in text
    assert '.Sh EXIT STATUS' in text


@pytest.mark.parametrize('page', pages())
def test_mandoc_has_nothing_to_say(page):
    """mandoc -Tlint is quiet."""
    if not shutil.which('mandoc'):
        pytest.skip('no mandoc here')
    done = subprocess.run(['mandoc', '-Tlint', '-Wwarning', os.path.join(source.ROOT, 'man', page)],
                          capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize('page', pages())
def test_references_lead_somewhere(page):
    """Each .Xr qpy-x n is a page that exists."""
    with open(os.path.join(source.ROOT, 'man', page)) as file:
        for line in file:
            words = line.split()
            if words[:1] == ['.Xr'] and words[1].startswith('qpy'):
                assert '%s.%s' % (words[1], words[2]) in pages(), line


def test_the_built_in_table_of_services_stands_in_its_page():
    """qpy-services.5 shows the table that the code has."""
    from qpy.core import services
    with open(os.path.join(source.ROOT, 'man/qpy-services.5')) as file:
        assert services.DEFAULT.decode() in file.read()


def test_the_modes_of_directories_stand_in_the_page():
    """qpy-start.8 lists every directory of the layout with its mode."""
    from qpy.core import layout
    with open(os.path.join(source.ROOT, 'man/qpy-start.8')) as file:
        rows = [line for line in file if line.startswith('.It Pa') and ' Ta ' in line]
    for name, owner, group, mode, _ in layout.TABLE:
        (row,) = [row for row in rows if (name.decode() or 'DIR') in row.split(' Ta ')[0].split()]
        assert '%s:%s' % (owner.decode(), group.decode()) in row and '%04o' % mode in row
