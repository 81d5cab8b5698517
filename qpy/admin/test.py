"""qpy-test, in the source tree: runs the tests as the continuous integration does.

    arguments   [--fast] [pytest's own]
    exit        pytest's; 111 if its environment cannot be made
"""
import os
import shutil
import subprocess
import sys

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NEEDS = {'pytest': 'pytest', 'pytest_timeout': 'pytest-timeout', 'xdist': 'pytest-xdist', 'hypothesis': 'hypothesis',
         'dns': 'dnspython', 'click': 'click'}
FAST = ('tests/core', 'tests/shape', 'tests/programs', 'tests/chain', '-m', 'not slow and not root')
#: how much of what: see qpy-test(1)
KNOBS = ('QPY_HYPOTHESIS', 'QPY_TEST_CACHE', 'QPY_POWER_STATES', 'QPY_FAULTS_MOST', 'QPY_FAULTS_STARTS', 'QPY_STRACE_MOST', 'QPY_KILLS',
         'QPY_SOAK_MINUTES', 'QPY_SOAK_SEED', 'QPY_MANY', 'QPY_ATHERIS', 'QPY_FUZZ_SECONDS', 'QPY_FUZZ_CORPUS')
TEMP = 111


def main(home, args):
    """Find an interpreter that has what the tests need, or make one, and hand over to pytest."""
    words = [os.fsdecode(word) for word in args]
    if words[:1] in (['-h'], ['--help']):
        print('usage: qpy-test [--fast] [pytest-argument ...]', flush=True)
        return 0
    try:
        python = find() or make(place())
    except (OSError, subprocess.CalledProcessError) as problem:
        said = getattr(problem, 'stdout', '') or str(problem)
        print('qpy-test: fatal: unable to make an environment for the tests: %s\n(Debian: apt install python3-venv; pip needs a package index)'
              % said.strip(), file=sys.stderr, flush=True)
        return TEMP
    return subprocess.run([python, '-m', 'pytest', '-q', *choose(words)], cwd=SOURCE,
                          env=environment('--fast' in words)).returncode


def choose(words):
    """pytest's arguments: --fast stands for a selection, unless files are named.  Everything goes by two ways at once."""
    if not words:
        return ['-n', '2', '--dist', 'loadfile']            # see tests/conftest.py
    if '--fast' not in words:
        return words
    rest = [word for word in words if word != '--fast']
    present = [word for word in FAST if not word.startswith('tests/') or os.path.isdir(os.path.join(SOURCE, word))]
    return present + ['-n', str(max(2, os.cpu_count() or 2))] + rest


def environment(fast):
    """Ours, without what would change the meaning of the tests; no cache is written beside a read-only source."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(('QPY', 'QMAIL', 'PYTHON', 'LISTEN_')) or name in KNOBS}
    kept['PYTHONHASHSEED'] = '0'            # two processes that see the same state of a disk know it as the same
    if fast:
        kept.setdefault('QPY_HYPOTHESIS', 'fast')
    if not os.access(SOURCE, os.W_OK):
        kept['PYTHONDONTWRITEBYTECODE'] = '1'
        kept['PYTEST_ADDOPTS'] = '-p no:cacheprovider'
    return kept


def candidates():
    """Interpreters that may have everything."""
    yield os.path.join(place(), 'bin/python')
    if os.environ.get('VIRTUAL_ENV'):
        yield os.path.join(os.environ['VIRTUAL_ENV'], 'bin/python')
    for name in ('python3', '/usr/bin/python3'):
        found = shutil.which(name)
        if found:
            yield found


def find():
    """The first interpreter that has everything, or None."""
    for python in candidates():
        if os.access(python, os.X_OK):
            asked = subprocess.run([python, '-c', 'import ' + ', '.join(NEEDS)], capture_output=True, cwd='/')
            if not asked.returncode:
                return python
    return None


def place():
    """Where our own environment lives."""
    if os.access(SOURCE, os.W_OK):
        return os.path.join(SOURCE, '.venv')
    return os.path.join(os.path.expanduser('~'), '.cache/qpy-test')


def make(venv):
    """A virtual environment with what the tests need; its interpreter."""
    print('qpy-test: making %s' % venv, file=sys.stderr, flush=True)
    python = os.path.join(venv, 'bin/python')
    run('/usr/bin/python3', '-m', 'venv', '--clear', venv)
    run(python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', *NEEDS.values())
    return python


def run(*words):
    """A command that must succeed; CalledProcessError holds its words."""
    subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
