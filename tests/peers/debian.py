"""Debian's packages, unpacked and not installed, so that two mail servers need not fight over one machine."""
import glob
import hashlib
import os
import shutil
import subprocess

NEEDS = {'maildrop': ('courier-authlib', 'libcourier-unicode4', 'libgdbm6', 'libpcre3'),
         'bsd-mailx': ('liblockfile1', 'libbsd0', 'libmd0'),
         'mutt': ('libgpgme11', 'libgsasl18', 'libtokyocabinet9', 'libassuan0', 'libgssglue1', 'libntlm0',
                  'libidn12')}
FAILED = {}         # what could not be downloaded in this run, and why: it is not tried again
CACHE = os.environ.get('QPY_TEST_CACHE') or '/tmp/qpy-test-packages-%d' % os.geteuid()    # one's own: who unpacks is believed


def unpack(*packages):
    """The directory that holds the files of these packages (a root of their own), downloaded once.

    RuntimeError, with apt's words, if they cannot be had.
    """
    root = os.path.join(CACHE, file_name(packages))
    if os.path.isdir(root):
        if os.stat(CACHE).st_uid not in (0, os.geteuid()):
            raise RuntimeError('%s belongs to somebody else' % CACHE)
        return root
    if not shutil.which('apt-get'):
        raise RuntimeError('no apt-get here')
    if packages in FAILED:
        raise RuntimeError(FAILED[packages])
    work = root + '.work'
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    names = [libicu() if name == 'libicu' else name for name in packages]
    got = subprocess.run(['apt-get', 'download', *names], cwd=work, capture_output=True, text=True)
    if got.returncode:
        FAILED[packages] = got.stderr.strip().rpartition('\n')[2]
        raise RuntimeError(FAILED[packages])
    for deb in os.listdir(work):
        subprocess.run(['dpkg', '-x', deb, 'root'], cwd=work, check=True)
    merge(os.path.join(work, 'root'))
    os.rename(os.path.join(work, 'root'), root)
    shutil.rmtree(work)
    return root


def file_name(packages):
    """The name of their directory; of many packages the first and a sum of all."""
    name = '+'.join(packages)
    return name if len(name) < 240 else '%s+%s' % (packages[0], hashlib.sha256(name.encode()).hexdigest()[:16])


def merge(root):
    """Put what some packages still have in /bin, /lib and /sbin under /usr, where it is in an installed
    system."""
    for name in ('bin', 'lib', 'sbin'):
        top = os.path.join(root, name)
        if os.path.isdir(top):
            shutil.copytree(top, os.path.join(root, 'usr', name), symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(top)


def libraries(root):
    """Where an unpacked root has its shared libraries."""
    return glob.glob(root + '/usr/lib/*-linux-gnu') + [root + '/usr/lib']


def program(name, *packages):
    """The path of a program: the installed one, else a wrapper around that of the unpacked packages.

    RuntimeError if it cannot be had.  Libraries that a fresh Debian has not are added to the packages
    (NEEDS).
    """
    installed = shutil.which(name, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin')
    if installed:
        return installed
    root = unpack(*packages, *NEEDS.get(name, ()))
    path = next((p for p in (root + '/usr/bin/' + name, root + '/usr/sbin/' + name) if os.path.exists(p)),
                None)
    if not path:
        raise RuntimeError('%s is not in %s' % (name, ' '.join(packages)))
    wrapper = os.path.join(root, name)
    with open(wrapper + '.new', 'w') as file:
        file.write('#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' % (':'.join(libraries(root)), path))
    os.chmod(wrapper + '.new', 0o755)
    os.rename(wrapper + '.new', wrapper)
    return wrapper


def libicu():
    """The name under which this Debian has the library that Postfix needs."""
    found = subprocess.run(['apt-cache', 'search', '--names-only', '^libicu[0-9]+$'], capture_output=True,
                           text=True)
    return found.stdout.split()[0] if found.stdout else 'libicu72'
