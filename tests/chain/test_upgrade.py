"""An upgrade in place while mail flows: what was acknowledged arrives, and qpy-install says what is left to do."""
import contextlib
import os
import shutil
import smtplib
import subprocess
import sys
import threading

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
TIMES = 3


@pytest.fixture(params=[houses.House, pytest.param(houses.Rooted, marks=pytest.mark.root)], ids=['rootless', 'rooted'])
def house(request):
    users = {'ann': (54051, 54051)} if request.param is houses.Rooted else None
    found = request.param(users=users)
    yield found
    found.remove()


@pytest.fixture
def release(tmp_path):
    """renew(n): the source of another release."""
    for name in ('bin', 'qpy', 'man', 'control'):
        shutil.copytree(os.path.join(houses.SOURCE, name), tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))

    def renew(number):
        (tmp_path / 'qpy/core/release.py').write_text('NUMBER = %d\n' % number)
        return str(tmp_path / 'bin/qpy-install')
    return renew


class Stream:
    """Messages by SMTP and by sendmail, one after the other, each tried until it is acknowledged."""

    def __init__(self, house):
        self.house, self.acknowledged, self.refused, self.over = house, [], [], threading.Event()
        self.user = next(iter(house.user_homes))
        self.threads = [threading.Thread(target=self.run, args=(way,)) for way in (self.by_smtp, self.by_sendmail)]
        for thread in self.threads:
            thread.start()

    def run(self, way):
        number = 0
        while not self.over.is_set():
            number += 1
            words = 'stream %s %d' % (way.__name__, number)
            while not way(words):
                self.refused.append(words)
                self.over.wait(0.05)            # as a client tries again later
                if self.over.is_set():
                    return
            self.acknowledged.append(words)

    def by_smtp(self, words):
        try:                                    # whoever has his 250 does not care what becomes of QUIT
            with contextlib.closing(smtplib.SMTP('127.0.0.1', self.house.port, 'client.test', timeout=60)) as client:
                client.sendmail('sender@else.test', [self.user + '@here.test'], 'Subject: s\r\n\r\n%s\r\n' % words)
        except (OSError, smtplib.SMTPException):
            return False
        return True

    def by_sendmail(self, words):
        return self.house.sendmail(self.user + '@here.test', text='Subject: x\n\n%s\n' % words, check=False).returncode == 0

    def reaches(self, more):
        """Wait until so many more are acknowledged."""
        goal = len(self.acknowledged) + more
        self.house.await_that(lambda: len(self.acknowledged) >= goal, '%d messages' % goal)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(60)


def arrived(house, user):
    """{the words of each message in the Maildir: how often}."""
    found = {}
    for message in house.messages(user + '/Maildir'):
        words = message.rstrip().rpartition(b'\n')[2].decode()
        found[words] = found.get(words, 0) + 1
    return found


def upgrade(house, installer):
    done = house.as_owner('/usr/bin/python3', '-IS', installer, house.home, '--offline')
    return done.stdout.decode()


def test_messages_flow_through_an_upgrade_and_the_restart_after_it(house, release):
    """The code is exchanged several times while messages come by SMTP and sendmail; nobody is refused for it, the
    running chain goes on with what it has loaded; then it is restarted on the new code.  What was acknowledged has
    arrived, and everything once: who had handed a message over got his answer before the chain ended."""
    house.start()
    stream = Stream(house)
    try:
        stream.reaches(10)
        for number in range(TIMES):
            said = upgrade(house, release(number))
            assert 'qpy runs in %s with the code it was started with, which was changed since: restart it' % house.home in said
            stream.reaches(6)
        assert stream.refused == []
        assert 'restart it' in upgrade(house, release(TIMES - 1))       # nothing is new, and what runs is still the first
        with open(house.home + '/lib/qpy/core/release.py') as file:
            assert file.read() == 'NUMBER = %d\n' % (TIMES - 1)
        assert sorted(os.listdir(house.home + '/lib')) == ['qpy', 'site']
        assert house.stop() == 0
        house.start()
        stream.reaches(10)
        assert 'with the code that is there: no restart is needed' in upgrade(house, release(TIMES - 1))
    finally:
        stream.end()
    wanted = set(stream.acknowledged)
    house.await_that(lambda: wanted <= set(arrived(house, stream.user)), 'all of the stream')
    assert not {words for words, n in arrived(house, stream.user).items() if n > 1}
    assert house.stop() == 0
    assert 'start it with %s/bin/qpy-start' % house.home in upgrade(house, release(0))


def test_the_exchange_leaves_no_moment_without_code(house, release):
    """A program started at any time during upgrades finds code to run: the old or the new."""
    failures, over = [], threading.Event()

    def call():
        while not over.is_set():
            done = subprocess.run([house.home + '/bin/qpy-getpw', 'nobody-here'], capture_output=True, cwd='/', env={})
            if done.returncode or b'unforeseen' in done.stderr:
                failures.append(done.stderr)
    caller = threading.Thread(target=call)
    caller.start()
    try:
        for number in range(TIMES):
            upgrade(house, release(number))
    finally:
        over.set()
        caller.join()
    assert failures == []
