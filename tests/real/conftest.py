"""An installed qpy with one user, for other people's software to talk to."""
import contextlib
import os
import shutil
import tempfile
import time

import pytest

from tests.peers import debian, net, postfix, qpy as peer

UID = 64110                     # joe's; nobody else on the machine has it
PATIENCE = 60                   # seconds until mail that should have come has not


class Mailbox:
    """The Maildir of one user."""

    def __init__(self, home):
        self.home, self.directory = home, os.path.join(home, 'Maildir')
        self.seen = set()

    def names(self):
        """Files in new/."""
        try:
            return set(os.listdir(self.directory + '/new'))
        except FileNotFoundError:
            return set()

    def next(self, patience=PATIENCE, log=lambda: ''):
        """The bytes of the next message to arrive."""
        give_up = time.monotonic() + patience
        while not self.names() - self.seen:
            assert time.monotonic() < give_up, 'no mail arrived: ' + log()[-3000:]
            time.sleep(0.01)            # a directory announces nothing to a plain reader
        name = sorted(self.names() - self.seen)[0]
        self.seen.add(name)
        with open(self.directory + '/new/' + name, 'rb') as file:
            return file.read()

    def dot_qmail(self, extension, text):
        """Write ~/.qmail-EXTENSION, as the user would."""
        self.write('.qmail' + (extension and '-' + extension), text)

    def write(self, name, text):
        """Write a file of the user's, private as some programs insist on."""
        path = os.path.join(self.home, name)
        with open(path, 'w') as file:
            file.write(text)
        os.chmod(path, 0o600)
        os.chown(path, UID, UID)


@contextlib.contextmanager
def installed(through=()):
    """qpy as root installs it, for domain qpy.test with user joe; its `mailbox` is joe's."""
    if os.geteuid() != 0:
        pytest.skip('needs root: an installation has several accounts')
    base = tempfile.mkdtemp(prefix='qpy-real-', dir='/var/tmp')
    os.chmod(base, 0o755)
    home = os.path.join(base, 'joe')
    os.makedirs(home)
    os.chown(home, UID, UID)
    host = net.Host('qpy', network=False)       # where joe has an account
    qpy = None
    try:
        qpy = peer.Qpy(os.path.join(base, 'qpy'), peer.free_port(), users=[('joe', UID, UID, home)],
                       host=host, through=through)
        qpy.mailbox = Mailbox(home)
        yield qpy
    finally:
        if qpy:
            qpy.stop()
        host.end()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope='session')
def server():
    """An installed qpy that all tests share."""
    with installed() as qpy:
        yield qpy


@pytest.fixture
def mailbox(server):
    """Joe's Maildir; what is in it already is not looked at."""
    server.mailbox.seen = server.mailbox.names()
    return server.mailbox


def unpacked(*packages):
    """The root of these packages' files; a visible skip where they cannot be had."""
    try:
        return debian.unpack(*packages)
    except RuntimeError as problem:
        pytest.skip('cannot be had: %s: %s' % (' '.join(packages), problem))


def program(name):
    """The path of a program of Debian's package of that name; a visible skip where it cannot be had."""
    try:
        return debian.program(name, name)
    except RuntimeError as problem:
        pytest.skip('cannot be had: %s: %s' % (name, problem))


def smtp_tool(name):
    """The command line of Postfix's smtp-source or smtp-sink; a visible skip where it cannot be had."""
    try:
        return postfix.tool(name)
    except RuntimeError as problem:
        pytest.skip('cannot be had: %s: %s' % (name, problem))


def needs(*programs):
    """Skip, visibly, where a program of Debian's is not installed."""
    missing = [name for name in programs if not shutil.which(name)
               and not os.path.exists('/usr/sbin/' + name)]
    return pytest.mark.skipif(bool(missing), reason='not installed: ' + ' '.join(missing))
