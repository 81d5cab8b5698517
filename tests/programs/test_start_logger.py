"""qpy-start with the further words that qmail-start has: a program that reads the log."""
import os
import signal

from tests.programs.test_start import DAEMONS, House, house  # noqa: F401  (a fixture)

READER = '#!/bin/sh\necho logger $1 $(id -u) fds $(ls /proc/self/fd | wc -l)\nexec sed -u "s/^/logged: /"\n'


def test_the_logger_reads_the_log_to_its_end(house):  # noqa: F811
    """Every line goes through the logger, found in DIR/bin; after TERM it gets the last ones, and the code is 0."""
    house.write('bin/qpy-reader', READER, 0o755)
    house.start('./Maildir/', 'reader', 'tag')
    lines = house.read_until('hello', len(DAEMONS))
    uid = 54321 if os.geteuid() == 0 else os.getuid()
    assert any(line.startswith('logger tag %d fds 4' % uid) for line in lines)
    assert sum(line.startswith('logged: ') and 'hello' in line for line in lines) == len(DAEMONS)
    house.process.send_signal(signal.SIGTERM)
    rest = house.process.stdout.read()
    assert rest.count('logged: ') == rest.count('\n') and rest.count('goodbye') == len(DAEMONS) - 1
    assert house.process.wait() == 0


def test_a_logger_on_the_callers_path(house):  # noqa: F811
    """Run scripts add directories to PATH for it (PATH=/command:$PATH qmail-start ./Maildir/ multilog ...); the daemons do
    not see them."""
    os.mkdir(house.home + '/command')
    house.write('command/my-reader', READER.replace('echo logger', 'echo path $PATH; echo logger'), 0o755)
    house.path = house.home + '/command:/bin'
    house.start('./Maildir/', 'my-reader', 'tag')
    lines = house.read_until('hello', len(DAEMONS))
    assert any(line.startswith('logger tag') for line in lines)
    (path,) = [line for line in lines if line.startswith('path ')]
    assert path.startswith('path %s/bin:' % house.home) and house.home + '/command:' in path
    house.process.send_signal(signal.SIGTERM)
    house.process.stdout.read()
    assert house.process.wait() == 0


def test_the_chain_ends_with_its_logger(house):  # noqa: F811  # noqa: F811
    """A logger that ends early ends the chain: mail is not carried unseen."""
    house.write('bin/reader', '#!/bin/sh\nread line\nexit 5\n', 0o755)
    house.start('./Maildir/', 'reader')
    house.process.stdout.read()
    assert house.process.wait(30) == 111


def test_a_logger_that_is_not_there(house):  # noqa: F811
    """It is named, and nothing stays up."""
    house.start('./Maildir/', 'no-such-logger', 'x')
    assert 'unable to run no-such-logger: No such file or directory' in house.process.stdout.read()
    assert house.process.wait(30) == 111
