"""What tests make outside of pytest's directories goes with the tests."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import source  # noqa: E402


def test_the_authority_goes_with_its_session():
    """The directory of keys and certificates is there while its process is, whatever becomes of processes forked from it."""
    script = ('import os, sys; sys.path.insert(0, %r)\nfrom tests.peers import certificates\nwhere = certificates.authority().where\n'
              'child = os.fork()\nif not child: sys.exit(0)\nos.waitpid(child, 0)\nprint(where, os.path.isdir(where))' % source.ROOT)
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
    where, was_there = done.stdout.split()
    assert was_there == 'True' and not os.path.exists(where)
