"""What this kernel does not give, in the words of qpy-start's warnings: qpy-install --check names it.

Each is tried in a child, as the programs will try it; nothing of it is an error.
"""
import os
import re

from qpy import unix_kernel
from qpy.core import manifest
from qpy.lib import confine, groups


def shortcomings():
    """[line for a person] as root; [] where everything is there."""
    tries = ((lambda: unix_kernel.unshare(unix_kernel.CLONE_NEWUSER),
              'user namespaces are forbidden here: local deliveries are kept apart by a filter instead, and '
              'no_new_privs is all that keeps set-user-id programs from rising'),
             (lambda: unix_kernel.unshare(unix_kernel.CLONE_NEWNET),
              'network namespaces are forbidden here: smtpd, queued, send and log keep the network'),
             (need_groups, 'no control groups of version 2 here: what deliveries leave behind is ended process by process'),
             (lambda: confine.no_new_code(manifest.row(b'clean')),
              'this kernel has no no-exec memory (PR_SET_MDWE): programs are confined without it'),
             (need_landlock, 'this kernel has no Landlock: programs of one account can use each other\'s files'))
    lines = [words for work, words in tries if not possible(work)]
    return lines + ['this kernel has no %s: programs are confined without it' % words.decode()
                    for words in confine.parts_missing([] if possible(need_landlock) else [b'Landlock'])]


def need_landlock():
    """OSError if there is none."""
    if not unix_kernel.landlock_abi():
        raise OSError('no Landlock')


CGROUP_KILL = (5, 14)           # Linux; the group that holds all others has no such file to look for


def need_groups():
    """OSError if there are none, or none that can be ended at once."""
    version = tuple(int(word) for word in re.findall('[0-9]+', os.uname().release)[:2])
    if groups.place() is None or version < CGROUP_KILL:
        raise OSError('no control groups')


def possible(work):
    """Whether it works, in a child."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except OSError:
            pass
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0
