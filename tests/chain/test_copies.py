"""A queue moved to another installation with the tools people use: its mail is delivered there."""
import os
import shutil
import signal
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402

WAYS = {'cp': 'cp -a "$0/." "$1/"', 'rsync': 'rsync -a "$0/" "$1/"', 'tar': 'tar -C "$0" -cf - . | tar -C "$1" -xpf -',
        'beside running programs': 'cp -a "$0/state/." "$1/state/" && cp -a "$0/mess/." "$1/mess/"'}


@pytest.mark.slow
@pytest.mark.parametrize('way', WAYS)
def test_a_queue_is_moved(way):
    """Q-25: two deferred messages, one of them delivered in part, in a queue copied with these tools: the new
    installation delivers what was left, once, and nothing again."""
    if way == 'rsync' and not shutil.which('rsync'):
        pytest.skip('no rsync here')
    old, new = houses.House(), houses.House()
    try:
        old.recipe('user', '.qmail-later', '|exit 111\n')
        old.start()
        old.smtp(['user@here.test', 'user-later@here.test'], text='in part')
        old.smtp('user-later@here.test', text='not at all')
        old.await_message('user/Maildir', 'in part')
        old.await_line('deferral', 2)
        if way != 'beside running programs':
            assert old.stop() == 0
        subprocess.run(['sh', '-c', WAYS[way], old.home + '/queue', new.home + '/queue'], check=True)
        new.recipe('user', '.qmail-later', './Maildir/\n')
        new.start()
        new.process.send_signal(signal.SIGALRM)
        new.await_message('user/Maildir', 'in part')
        new.await_message('user/Maildir', 'not at all')
        new.await_that(lambda: not new.queue(), 'empty queue')
        assert len(new.messages('user/Maildir')) == 2
    finally:
        old.remove()
        new.remove()
