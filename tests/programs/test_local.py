"""qpy-local, one shot: what a .qmail makes happen to one message, seen in the files and the report."""
import errno
import fcntl
import gc
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import types

import pytest

from qpy import unix
from qpy.user import local

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MESSAGE = b'Subject: hello\n\nFrom here\n>From there\nlast line'
AS_ROOT = os.geteuid() == 0


@pytest.fixture
def home(tmp_path):
    """A user's home."""
    path = tmp_path / 'home'
    path.mkdir(mode=0o755)
    return path


@pytest.fixture
def deliver(home, tmp_path):
    """deliver(lines of .qmail or None, ...) -> the finished qpy-local."""
    dir_ = tmp_path / 'dir'
    (dir_ / 'control').mkdir(parents=True)

    def run(lines=None, message=MESSAGE, name='.qmail', dash='', ext='', sender='s@y', default='./Maildir/',
            options=(), local=None, mode=0o644, stdin=None, timeout=None, user='joe'):
        if lines is not None:
            (home / name).write_bytes(lines)
            (home / name).chmod(mode)
        if timeout:
            (dir_ / 'control/timeoutlocal').write_text('%d\n' % timeout)
        if stdin is None:
            stdin = tempfile.TemporaryFile()
            stdin.write(message)
            stdin.seek(0)
        words = [os.path.join(SOURCE, 'bin/qpy-local'), *options, '--', user, str(home), dash, ext]
        words[-2:-2] = [user + dash + ext if local is None else local]
        return subprocess.run([*words, 'x.example', sender, default], stdin=stdin, capture_output=True,
                              env={'QPYHOME': str(dir_), 'SECRET': 'no'}, timeout=60)
    return run


def mails(box):
    """The messages in new/ of a Maildir."""
    return [path.read_bytes() for path in sorted((box / 'new').iterdir())]


def maildir(path):
    """A Maildir."""
    for part in ('', 'tmp', 'new', 'cur'):
        (path / part).mkdir(mode=0o700)
    return path


HEAD = b'Return-Path: <s@y>\nDelivered-To: joe@x.example\n'


# --- Maildir ---

def test_default_delivery_makes_the_maildir(deliver, home):
    """Without a .qmail the default instruction counts, and makes its Maildir, closed to others."""
    done = deliver()
    assert (done.returncode, done.stdout, done.stderr) == (0, b'did 1+0+0\n', b'')
    assert mails(home / 'Maildir') == [HEAD + MESSAGE]
    assert not list((home / 'Maildir/tmp').iterdir())
    for part in ('', 'tmp', 'new', 'cur'):
        assert stat.S_IMODE((home / 'Maildir' / part).stat().st_mode) == 0o700
    assert stat.S_IMODE(next((home / 'Maildir/new').iterdir()).stat().st_mode) == 0o600
    assert re.fullmatch(r'\d+\.M\d{6}P\d+Q1R[0-9a-f]{8}\.[^/:]+', next((home / 'Maildir/new').iterdir()).name)


@pytest.mark.parametrize('lines', [b'', b'# nothing\n', b'./Maildir/\n'])
def test_empty_and_comments(deliver, home, lines):
    """L-07: an empty .qmail is the default; one of comments only throws the mail away; a line makes no Maildir."""
    done = deliver(lines)
    if lines.startswith(b'#'):
        assert (done.returncode, done.stdout) == (0, b'did 0+0+0\n')
        assert not (home / 'Maildir').exists()
    elif lines:
        assert (done.returncode, done.stderr.partition(b'\n')[0]) == (111, b'Unable to chdir to maildir. (#4.2.1)')
        assert not (home / 'Maildir').exists()
    else:
        assert len(mails(home / 'Maildir')) == 1


@pytest.mark.parametrize('wrong', ['missing', 'no new', 'no cur', 'file', 'dangling'])
def test_a_broken_maildir_is_temporary(deliver, home, wrong):
    """L-11: nothing but a whole Maildir takes mail, and nothing is left in tmp/."""
    box = home / 'box'
    if wrong == 'file':
        box.write_bytes(b'')
    elif wrong == 'dangling':
        box.symlink_to('nowhere')
    elif wrong != 'missing':
        maildir(box)
        (box / wrong[3:]).rmdir()
    assert deliver(b'./box/\n').returncode == 111
    assert not (box / 'tmp').is_dir() or not list((box / 'tmp').iterdir())


def test_a_tmp_that_a_power_cut_took_away_is_made_again(deliver, home):
    """A Maildir's first tmp/ is not waited for, so a .qmail that was written later must not find its mail held up."""
    maildir(home / 'box')
    (home / 'box' / 'tmp').rmdir()
    assert deliver(b'./box/\n').stdout == b'did 1+0+0\n'
    assert len(mails(home / 'box')) == 1 and not list((home / 'box/tmp').iterdir())


def test_maildirs_in_one_file(deliver, home):
    """Several Maildir lines, one of them through a symbolic link, which is the user's own affair."""
    maildir(home / 'a')
    maildir(home / 'b')
    (home / 'c').symlink_to('b')
    assert deliver(b'./a/\n./b/\n./c/\n').stdout == b'did 3+0+0\n'
    assert [len(mails(home / box)) for box in 'ab'] == [1, 2]


def test_a_long_message(deliver, home):
    """INV4: a message that is not held in memory arrives byte for byte."""
    message = b'A: b\n\n' + os.urandom(9 << 20)
    assert deliver(message=message).returncode == 0
    assert mails(home / 'Maildir') == [HEAD + message]


# --- the home and its files ---

@pytest.mark.parametrize('mode, text', [(0o757, b'Uh-oh: home directory is writable. (#4.7.0)\n'), (0o1755,
                         b'Home directory is sticky: user is editing his .qmail file. (#4.2.1)\n'), (0o775, b'')])
def test_home(deliver, home, mode, text):
    """L-03: a home others may write defers, a sticky one too; one the group may write is fine, as in qmail."""
    home.chmod(mode)
    done = deliver()
    assert (done.returncode, done.stderr) == (111 if text else 0, text)


def test_sticky_home_described(deliver, home):
    """What a sticky home's .qmail asks for can be shown, with a warning."""
    home.chmod(0o1755)
    done = deliver(options=['-n'])
    assert (done.returncode, done.stdout) == (0, b'maildir ./Maildir/\ndid 1+0+0\n')
    assert done.stderr.startswith(b'qpy-local: warning: home directory is sticky') and done.stderr.count(b'\n') == 1


def test_no_home(deliver, home):
    """L-01: a home that is gone, or no directory, is temporary."""
    home.rmdir()
    assert b'Unable to switch to ' in deliver().stderr
    home.write_bytes(b'')
    assert deliver().returncode == 111


@pytest.mark.parametrize('lines, mode, text', [
    (b'x\n', 0o646, b'Uh-oh: .qmail file is writable. (#4.7.0)\n'),
    (b'\nx\n', 0o644, b'Uh-oh: first line of .qmail file is blank. (#4.2.1)\n'),
    (b'|touch done\n&\n', 0o644, b'Uh-oh: .qmail has a forward to nobody. (#4.2.1)\n'),
    (b'& @x.example\n&@x.example\n', 0o644, b'Uh-oh: .qmail has a forward to nobody. (#4.2.1)\n'),
    (b'|true\n', 0o744, b'Uh-oh: .qmail has prog delivery but has x bit set. (#4.7.0)\n'),
    (b'./x\n', 0o744, b'Uh-oh: .qmail has file delivery but has x bit set. (#4.7.0)\n'),
    (b'a\0b\n', 0o644, b'Uh-oh: .qmail file has a NUL in it. (#4.2.1)\n')])
def test_files_not_obeyed(deliver, lines, mode, text):
    """L-05, L-07, L-09: each with qmail's text, and temporary."""
    done = deliver(lines, mode=mode)
    assert (done.returncode, done.stderr) == (111, text)


@pytest.mark.skipif(AS_ROOT, reason='root may read everything')
def test_unreadable(deliver):
    """L-06: a file that is there and cannot be read is temporary, not absent."""
    done = deliver(b'x\n', mode=0)
    assert done.returncode == 111 and b'Unable to open .qmail: ' in done.stderr


def test_no_such_extension(deliver, home):
    """No file for an extension is permanent; a directory or a name too long is no file."""
    (home / '.qmail-list').mkdir()
    for ext in ('list', 'x' * 250, 'a/b', '../../etc/passwd', '..'):
        done = deliver(dash='-', ext=ext)
        assert (done.returncode, done.stderr) == (100, b'Sorry, no mailbox here by that name. (#5.1.1)\n')


def test_a_slash_does_not_leave_the_home(deliver, home):
    """L-10: ext=../../x opens nothing outside, even where a directory `.qmail-` would let it climb."""
    (home.parent / 'x').write_bytes(b'|touch outside\n')
    (home / '.qmail-').mkdir()
    assert deliver(dash='-', ext='/../../x').returncode == 100


def test_extension_with_dots_and_capitals(deliver, home):
    """Aliases with dots have colons in their file names, and lower case."""
    maildir(home / 'a')
    assert deliver(b'./a/\n', name='.qmail-joe:q', dash='-', ext='Joe.Q').returncode == 0


def test_looping(deliver, home):
    """L-22: our own Delivered-To in the header is permanent; in the body it is text; -n does not look."""
    line = b'Delivered-To: joe@x.example\n'
    done = deliver(message=b'A: b\n' + line + b'\n')
    assert (done.returncode, done.stderr) == (
        100, b'This message is looping: it already has my Delivered-To line. (#5.4.6)\n')
    assert deliver(message=b'A: b\n\n' + line).returncode == 0
    assert deliver(message=line, options=['-n']).stdout == b'maildir ./Maildir/\ndid 1+0+0\n'


def test_usage(deliver, home):
    """Wrong words are permanent (100), a message that cannot be read again is temporary."""
    assert deliver(options=['-x']).returncode == 100
    assert subprocess.run([os.path.join(SOURCE, 'bin/qpy-local'), 'a', 'b']).returncode == 100
    out, into = os.pipe()
    os.write(into, b'x')
    os.close(into)
    with os.fdopen(out, 'rb') as pipe:
        done = deliver(stdin=pipe)
    assert (done.returncode, done.stderr) == (111, b'Unable to rewind message. (#4.3.0)\n')


# --- mbox ---

def test_mbox(deliver, home):
    """From_, the two header lines, quoting, the missing newline, the empty line; and again after that."""
    for _ in range(2):
        assert deliver(b'./mbox\n').stdout == b'did 1+0+0\n'
    first = (home / 'mbox').read_bytes()
    one = re.match(rb'From s@y \w{3} \w{3} \d\d \d\d:\d\d:\d\d \d{4}\n' + re.escape(
        HEAD + b'Subject: hello\n\n>From here\n>>From there\nlast line\n\n'), first)
    assert one and len(first) == 2 * one.end()
    assert stat.S_IMODE((home / 'mbox').stat().st_mode) == 0o600 and not (home / 'mbox.lock').exists()


def test_mbox_after_a_torn_message(deliver, home):
    """L-19: what a writer left that died does not swallow the next message."""
    (home / 'mbox').write_bytes(b'From a\nx: y\n\ntor')
    assert deliver(b'./mbox\n').returncode == 0
    assert b'\ntor\n\nFrom s@y ' in (home / 'mbox').read_bytes()


@pytest.mark.parametrize('kind', ['flock', 'fcntl', 'dot'])
def test_mbox_waits_for_its_lock(deliver, home, kind):
    """L-17: a lock of any kind that another holds is waited for, and nothing is written before."""
    box = home / 'mbox'
    box.write_bytes(b'')
    holder = open(box, 'r+b')
    if kind == 'flock':
        fcntl.flock(holder, fcntl.LOCK_EX)
    elif kind == 'fcntl':
        fcntl.lockf(holder, fcntl.LOCK_EX)
    else:
        (home / 'mbox.lock').write_bytes(b'1\n')
    results = []
    waiting = threading.Thread(target=lambda: results.append(deliver(b'./mbox\n')))
    waiting.start()
    waiting.join(0.4)
    assert waiting.is_alive() and box.stat().st_size == 0
    holder.close()
    (home / 'mbox.lock').unlink(missing_ok=True)
    waiting.join(20)
    assert results[0].returncode == 0 and box.stat().st_size > 0


def test_a_stale_dot_lock(deliver, home):
    """A dot-lock older than five minutes was left by a writer that died."""
    (home / 'mbox.lock').write_bytes(b'1\n')
    os.utime(home / 'mbox.lock', (time.time() - 400,) * 2)
    assert deliver(b'./mbox\n').returncode == 0


def dead():
    """A process that is no more."""
    ended = subprocess.Popen(['true'])
    ended.wait()
    return ended.pid


HERE = socket.gethostname()


@pytest.mark.parametrize('said', [lambda: '%d:%s\n' % (os.getpid(), HERE), lambda: '%d:%s.else\n' % (dead(), HERE),
                                  lambda: '%d\n' % dead(), lambda: ':%s\n' % HERE, lambda: '0:%s\n' % HERE,
                                  lambda: '-1:%s\n' % HERE, lambda: ''],
                         ids=['alive', 'elsewhere', 'no host', 'no number', 'zero', 'negative', 'empty'])
def test_whose_dot_lock_may_count(deliver, home, said):
    """L-17: the dot-lock of who lives, or may live on another host, is waited for."""
    (home / 'mbox.lock').write_text(said())
    waiting = threading.Thread(target=lambda: deliver(b'./mbox\n'))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    (home / 'mbox.lock').unlink()
    waiting.join(20)


def test_a_dot_lock_of_the_dead(deliver, home):
    """INV6: who was killed with an mbox's lock in hand holds nobody up."""
    (home / 'mbox.lock').write_text('%d:%s\n' % (dead(), HERE))
    began = time.monotonic()
    assert deliver(b'./mbox\n').returncode == 0 and time.monotonic() - began < 5
    assert not (home / 'mbox.lock').exists()


@pytest.mark.parametrize('what', ['directory', 'fifo', 'no directory'])
def test_not_an_mbox(deliver, home, what):
    """What is no regular file takes no mail, and nothing blocks."""
    if what == 'directory':
        (home / 'mbox').mkdir()
    elif what == 'fifo':
        os.mkfifo(home / 'mbox')
    done = deliver(b'./mbox\n' if what != 'no directory' else b'./a/b\n')
    assert done.returncode == 111 and done.stderr.startswith(b'Unable to open ./') and b'(#4.2.1)' in done.stderr


@pytest.mark.parametrize('trick', ['symlink', 'hardlink', 'none'])
def test_an_mbox_where_everybody_may_write(deliver, home, trick):
    """L-14: in a shared directory only a file of one's own, with one name and no link, is an mbox."""
    spool = home / 'spool'
    spool.mkdir()
    spool.chmod(0o1777)
    victim = home / 'victim'
    victim.write_bytes(b'')
    if trick == 'symlink':
        (spool / 'joe').symlink_to(victim)
    elif trick == 'hardlink':
        os.link(victim, spool / 'joe')
    assert deliver(b'%s/joe\n' % os.fsencode(spool)).returncode == (0 if trick == 'none' else 111)
    assert victim.read_bytes() == b''


def test_many_to_one_mbox(deliver, home):
    """L-35: deliveries at the same time are one after the other in the file."""
    (home / '.qmail').write_bytes(b'./mbox\n')
    threads = [threading.Thread(target=deliver) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = (home / 'mbox').read_bytes()
    assert data.count(b'\nlast line\n\n') == 12 and len(re.findall(rb'(?:^|\n\n)From s@y ', data)) == 12


# --- programs ---

def test_what_a_program_finds(deliver, home):
    """L-27: descriptors 0 to 2, a session of its own, default signals, umask 077, its home, nothing of ours around."""
    script = (b'|cat; echo; ls /proc/$$/fd | tr "\\n" " "; umask; pwd; cut -d" " -f6 /proc/$$/stat; echo $$;'
              b' grep -E "Sig(Ign|Blk)" /proc/self/status; env | sort\n')
    done = deliver(script, dash='', ext='')
    body, _, rest = done.stdout.partition(b'\nlast line\n')
    lines = rest.decode().split('\n')
    assert body + b'\nlast line' == MESSAGE
    assert lines[0].startswith('0 1 2 ') and lines[0].endswith('0077') and lines[1] == str(home)
    assert lines[2] == lines[3]
    assert [line.split()[1] for line in lines[4:6]] == ["0" * 16] * 2
    env = dict(line.split('=', 1) for line in lines[6:] if '=' in line)
    assert {name for name in env if name not in ('PWD', 'SHLVL', '_', 'OLDPWD')} == {
        'PATH', 'USER', 'HOME', 'LOCAL', 'HOST', 'HOST2', 'HOST3', 'HOST4', 'SENDER', 'NEWSENDER', 'EXT', 'EXT2',
        'EXT3', 'EXT4', 'RECIPIENT', 'DTLINE', 'RPLINE', 'UFLINE'}
    assert env['HOME'] == str(home) and env['USER'] == 'joe' and env['RECIPIENT'] == 'joe@x.example'
    assert done.stdout.endswith(b'did 0+0+1\n')


def test_default_and_newsender(deliver, home):
    """DEFAULT is the tail as typed; -owner and -owner-default change NEWSENDER, but not for bounces."""
    script = b'|echo "$DEFAULT $NEWSENDER $EXT2"\n'
    more = dict(name='.qmail-list-default', dash='-', ext='list-Sub.x')
    assert deliver(script, **more).stdout.startswith(b'Sub.x s@y Sub.x\n')
    (home / '.qmail-list-sub:x-owner').write_bytes(b'')
    assert deliver(script, **more).stdout.startswith(b'Sub.x joe-list-Sub.x-owner@x.example Sub.x\n')
    (home / '.qmail-list-sub:x-owner-default').write_bytes(b'')
    assert deliver(script, **more).stdout.startswith(b'Sub.x joe-list-Sub.x-owner-@x.example-@[] Sub.x\n')
    assert deliver(script, sender='', **more).stdout.startswith(b'Sub.x  Sub.x\n')
    assert deliver(script, sender='#@[]', **more).stdout.startswith(b'Sub.x #@[] Sub.x\n')


@pytest.mark.parametrize('code', [0, 99, 100, 111, 64, 65, 70, 76, 77, 78, 112, 1, 2, 71, 74, 75, 126, 127, 255])
def test_exit_codes(deliver, home, code):
    """L-26: 0 goes on, 99 stops well, the hard codes are permanent, everything else is temporary."""
    done = deliver(b'|echo said; exit %d\n|touch went-on\n' % code)
    wanted = 0 if code in (0, 99) else 100 if code in (100, 64, 65, 70, 76, 77, 78, 112) else 111
    assert done.returncode == wanted
    assert (home / 'went-on').exists() == (code == 0)
    assert done.stdout + done.stderr == b'said\n' + (b'' if wanted else b'did 0+0+%d\n' % (2 if code == 0 else 1))


def test_death_by_signal(deliver):
    """L-26: a killed program is temporary, with qmail's words."""
    done = deliver(b'|kill -9 $$\n')
    assert (done.returncode, done.stderr) == (111, b'Aack, child crashed. (#4.3.0)\n')


def test_earlier_lines_are_done(deliver, home):
    """Lines are carried out in order: what stood before a failure is done, nothing after it."""
    maildir(home / 'a')
    assert deliver(b'./a/\n|exit 1\n./b\n').returncode == 111
    assert len(mails(home / 'a')) == 1 and not (home / 'b').exists()


def test_a_program_that_hangs(deliver, home):
    """L-28: at the limit the program and all its descendants are gone, also those in sessions of their own."""
    done = deliver(b'|setsid sh -c "sleep 987 & echo \\$! > pids; sleep 986" & sleep 985\n', timeout=1)
    assert done.returncode == 111 and done.stderr == b'Program ran out of time and was stopped. (#4.3.0)\n'
    assert not alive(int((home / 'pids').read_text()))


def alive(pid):
    """Whether a process runs."""
    try:
        with open('/proc/%d/stat' % pid) as file:
            return file.read().rpartition(')')[2].split()[0] not in 'ZX'
    except FileNotFoundError:
        return False


def test_what_a_program_leaves_behind(deliver, home):
    """P36: a descendant outlives neither the time of the delivery, nor a program that failed; what succeeded has
    succeeded."""
    done = deliver(b'|(setsid sleep 984 & echo $! > pid) ; echo ok\n', timeout=1)
    assert done.stdout == b'ok\ndid 0+0+1\n'
    assert not alive(int((home / 'pid').read_text()))
    start = time.monotonic()
    done = deliver(b'|(setsid sleep 983 & echo $! > pid) ; echo no; exit 100\n', timeout=1000)
    assert done.returncode == 100 and time.monotonic() - start < 20
    assert not alive(int((home / 'pid').read_text()))


@pytest.mark.parametrize('how', ['(sleep 0.3; echo more > done) &', '(setsid sh -c "sleep 0.3; yes | head -c 200000; echo > done" &) &',
                                 '(sleep 0.1; (sleep 0.2; echo > done) & ) & exit 99'])
def test_work_in_the_background_is_finished(deliver, home, how):
    """mlmmj-receive answers first and works then: the delivery waits for that, however it was left behind, and
    whatever it prints."""
    assert deliver(b'|%s\n' % how.encode()).returncode == 0
    assert (home / 'done').exists()


def test_a_program_that_reads_nothing(deliver):
    """L-29: the message is a file: who does not read it makes no error, who reads it again begins at the start."""
    assert deliver(b'|exec <&-; exit 0\n|wc -c\n|wc -c\n', message=b'x' * 3000000).stdout == (
        b'3000000\n3000000\ndid 0+0+3\n')


REFUSING = """
import sys
from qpy import unix
from qpy.lib import program
def refuse(fd):
    raise PermissionError(unix.EACCES, 'refused')
unix.reopen = refuse
program.run('qpy.user.local')
"""


def test_a_message_that_may_not_be_opened_anew(deliver, home, monkeypatch):
    """L-29: where the user may not open what he was given (a file of mode 0, no /proc), the programs share its position, and
    each begins at the start all the same."""
    real = subprocess.run
    monkeypatch.setattr(subprocess, 'run', lambda words, env, **options: real(
        [sys.executable, '-c', REFUSING, *words[1:]], env={**env, 'PYTHONPATH': SOURCE}, **options))
    done = deliver(b'|cat\n|cat >second\n|exit 0\n|wc -c\n', message=b'four')
    assert (done.returncode, done.stdout, done.stderr) == (0, b'four4\ndid 0+0+4\n', b'')
    assert (home / 'second').read_bytes() == b'four'


def test_long_output_is_cut(deliver):
    """The report holds at most 3000 bytes, up to the first NUL."""
    done = deliver(b'|yes | head -c 100000\n')
    assert len(done.stdout) == 2997 and done.stdout.endswith(b'\nError report too long, sorry.\n')
    assert deliver(b'|printf "a\\\\0b"; exit 100\n').stderr == b'a'


@pytest.mark.parametrize('sender', ['() { :;}; touch pwned', '$(touch pwned)', '`touch pwned`', '-oX@y',
                                    ';touch pwned;@y',
                                    'a\nb@y', "'; touch pwned; '@x"])
def test_nothing_of_the_envelope_reaches_the_shell(deliver, home, sender):
    """L-23, L-24: addresses are in variables, byte for byte, and nowhere in the command."""
    done = deliver(b'|printf %s "$SENDER" > seen; bash -c : ; :\n', sender=sender, dash='-', ext='$(touch pwned);`id`',
                   name='.qmail-default')
    assert done.returncode == 0 and (home / 'seen').read_text() == sender and not (home / 'pwned').exists()


def test_the_message_cannot_be_changed(deliver, home):
    """L-31: a program has the message read-only."""
    done = deliver(b'|(echo x >&0) 2>/dev/null && echo bad\n|cat >/dev/null\n')
    assert b'bad' not in done.stdout and done.returncode in (0, 111)


# --- forwards and -n ---

def test_forward_when_the_queue_is_down(deliver, home):
    """L-32: no queue is temporary, and says so with qmail's words; files before it are delivered."""
    maildir(home / 'a')
    done = deliver(b'./a/\nbob@z\n')
    assert done.returncode == 111 and done.stderr.startswith(b'Unable to forward message: ')
    assert len(mails(home / 'a')) == 1


def test_describe(deliver, home):
    """-n says what would be done and does nothing; the golden vector of a qmail build."""
    done = deliver(b'# c\n./Maildir/\n/var/mbox\n|cat > x\n&joe@x  \n joe2\n&\nbob\n+list\n+foo\n', options=['-n'])
    assert done.stdout == (b'maildir ./Maildir/\nmbox /var/mbox\nprogram cat > x\nforward joe@x\nforward  joe2\n'
                           b'forward \nforward bob\ndid 2+4+1\n')
    assert sorted(os.listdir(home)) == ['.qmail']


def test_lspawn_is_killed_with_reports_unread():
    """Q-33: the kernel says then that the connection was reset, and not that it has ended: the worker leaves all the same,
    and not as one that has failed."""
    def begun():
        ours, his = unix.socketpair()
        worker = local.Worker(ours, b'/nonexistent', b'here.example', 10)
        worker.say(b'1', 0, b'did it\n')
        worker.report()
        his.close()
        return worker
    with pytest.raises(ConnectionResetError):
        unix.recv_packet(begun().sock)              # so it is
    worker = begun()
    assert worker.jobs() == [] and not worker.open


@pytest.mark.parametrize('call', ['pipe2', 'fork', 'pidfd_open'])
def test_a_child_that_cannot_be_had(monkeypatch, call):
    """L-18: whichever call fails, that delivery is temporary, and neither a descriptor nor a process is left of it."""
    ours, his = unix.socketpair()
    worker = local.Worker(ours, b'/nonexistent', b'here.example', 10)
    fd = os.open('/dev/null', os.O_RDONLY)
    plan = types.SimpleNamespace(close=lambda: None, job=types.SimpleNamespace(fd=os.dup(fd)))
    os.close(fd)
    gc.collect()
    before = os.listdir('/proc/self/fd')

    def fail(*args):
        raise OSError(errno.EMFILE, 'Too many open files')
    with monkeypatch.context() as patch:
        patch.setattr(unix, call, fail)
        worker.start(b'7', plan)
    assert set(before) - set(os.listdir('/proc/self/fd')) == {str(plan.job.fd)} and len(os.listdir('/proc/self/fd')) == len(before) - 1
    assert len(worker.said) == 1 and b'Unable to fork' in worker.said[0] and not worker.children
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    his.close()
