"""Debian's packages, unpacked and not installed, so that two mail servers need not fight over one machine."""
import os
import shutil
import subprocess

CACHE = os.environ.get('QPY_TEST_CACHE', '/tmp/qpy-test-packages')


def unpack(*packages):
    """The directory that holds the files of these packages (a root of their own), downloaded once.

    RuntimeError, with apt's words, if they cannot be had.
    """
    root = os.path.join(CACHE, '+'.join(packages))
    if os.path.isdir(root):
        return root
    if not shutil.which('apt-get'):
        raise RuntimeError('no apt-get here')
    work = root + '.work'
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    names = [libicu() if name == 'libicu' else name for name in packages]
    got = subprocess.run(['apt-get', 'download', *names], cwd=work, capture_output=True, text=True)
    if got.returncode:
        raise RuntimeError(got.stderr.strip())
    for deb in os.listdir(work):
        subprocess.run(['dpkg', '-x', deb, 'root'], cwd=work, check=True)
    os.rename(os.path.join(work, 'root'), root)
    shutil.rmtree(work)
    return root


def libicu():
    """The name under which this Debian has the library that Postfix needs."""
    found = subprocess.run(['apt-cache', 'search', '--names-only', '^libicu[0-9]+$'], capture_output=True, text=True)
    return found.stdout.split()[0] if found.stdout else 'libicu72'
