"""forward, preline, condredirect, bouncesaying, except, maildirmake, and the forwards of qpy-local, over a filter."""
import os
import re
import signal
import stat
import subprocess

import pytest

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LINES = {'UFLINE': 'From s@y Thu Nov 05 02:16:14 2026\n', 'RPLINE': 'Return-Path: <s@y>\n',
         'DTLINE': 'Delivered-To: joe@x\n', 'SENDER': 's@y', 'NEWSENDER': 'new@y'}


@pytest.fixture
def tool(tmp_path):
    """tool(name, *words) -> the finished program; what it queued is in tmp_path/message and /envelope."""
    queue = tmp_path / 'queue'
    queue.write_text('#!/bin/sh\nexec 3<&1 >/dev/null; cat > "%s/message"; '
                     'cat <&3 | tr "\\0" "|" > "%s/envelope"; exit ${CODE:-0}\n'
                     % (tmp_path, tmp_path))
    queue.chmod(0o755)

    def run(name, *words, message=b'A: b\n\nbody\n', without=(), errors=subprocess.PIPE, **more):
        path = tmp_path / 'input'
        path.write_bytes(message)
        env = {'PATH': '/usr/bin:/bin', 'QMAILQUEUE': str(queue), 'QPYHOME': str(tmp_path), **LINES, **more}
        with open(path, 'rb') as stdin:
            return subprocess.run([SOURCE + '/bin/qpy-' + name, *words], stdin=stdin, stdout=subprocess.PIPE, stderr=errors,
                                  timeout=30,
                                  env={key: value for key, value in env.items() if key not in without})
    return run


def test_forward(tool, tmp_path):
    """forward queues DTLINE and the message for all arguments, from NEWSENDER."""
    done = tool('forward', 'a@z', 'b@z')
    assert done.returncode == 0 and re.fullmatch(rb'forward: qp [0-9]+\n', done.stderr)
    assert (tmp_path / 'message').read_bytes() == b'Delivered-To: joe@x\nA: b\n\nbody\n'
    assert (tmp_path / 'envelope').read_text() == 'Fnew@y|Ta@z|Tb@z||'


SAID = 'Xabc\nB8BITMIME\nU\nQ\nRFULL\nE7\nM3\nNSUCCESS,FAILURE\nOrfc822;joe@x\nLmallory\nhheld\nFroot@x\nQ'
GOES_ON = '|Xabc|B8BITMIME|U|Q|M3'


@pytest.mark.parametrize('name, words, envelope', [
    ('forward', ('a@z', 'b@z'), 'Fnew@y' + GOES_ON + '|Ta@z|Tb@z||'),
    ('condredirect', ('a@z', 'true'), 'Fs@y|Xabc|B8BITMIME|U|Q|RFULL|E7|M3|Ta@z|NFAILURE|Orfc822;joe@x||'),
    ('dot-forward', ('forward',), 'Fnew@y' + GOES_ON + '|Ta@z.example||'),
    ('qreceipt', ('joe@x',), 'F|U|Q|Ts@y||'),
    ('sendmail', ('-f', 'j@x.example', 'a@z.example'), 'Fj@x.example|U|Q|Ta@z.example||'),
    ('inject', ('-fj@x.example', 'a@z.example'), 'Fj@x.example|U|Q|Ta@z.example||')])
def test_what_goes_on_with_a_message(tool, tmp_path, name, words, envelope):
    """Whoever passes a message on from a delivery keeps what was said of it, as a forward line does: REQUIRETLS above all.
    Wishes for notices go on where the sender stays; what is made anew has to travel by TLS, too; nothing else that may
    stand in the variable is passed on."""
    (tmp_path / 'control').mkdir()
    (tmp_path / 'control/me').write_text('x.example\n')
    (tmp_path / 'forward').write_text('a@z.example\n')
    words = [str(tmp_path / word) if word == 'forward' else word for word in words]
    message = b'Notice-Requested-Upon-Delivery-To: joe@x\n\nbody\n'
    more = {'QPYQUEUE': str(tmp_path / 'queue'), 'USER': 'joe', 'LOCAL': 'joe', 'HOST': 'x', 'QPYENVELOPE': SAID}
    assert tool(name, *words, message=message, **more).returncode in (0, 99)
    assert (tmp_path / 'envelope').read_text() == envelope


@pytest.mark.parametrize('name, words', [('forward', ('a@z', '')), ('forward', ('@z',)), ('condredirect', ('', 'true'))])
def test_a_forward_to_nobody(tool, tmp_path, name, words):
    """A variable that is not set makes the mail wait: queued for the empty address it would be gone."""
    done = tool(name, *words)
    assert done.returncode == 111 and b'an address is empty' in done.stderr and not (tmp_path / 'envelope').exists()


def test_a_forward_that_cannot_say_so(tool, tmp_path):
    """What is queued is not sent again because descriptor 2 is full."""
    with open('/dev/full', 'wb') as full:
        assert tool('forward', 'a@z', errors=full).returncode == 0
        assert tool('condredirect', 'a@z', 'true', errors=full).returncode == 99
    assert (tmp_path / 'envelope').read_text().endswith('Ta@z||')


@pytest.mark.parametrize('code, wanted', [(31, 100), (11, 100), (53, 111), (99, 111), (91, 111)])
def test_forward_that_fails(tool, code, wanted):
    """What the queue says decides: permanent 100, else 111."""
    done = tool('forward', 'a@z', CODE=str(code))
    assert done.returncode == wanted and done.stderr.startswith(b'forward: fatal: ')


@pytest.mark.parametrize('name, words, missing', [('forward', ('a@z',), 'NEWSENDER'), ('forward', ('a@z',), 'DTLINE'),
                                                  ('preline', ('cat',), 'UFLINE'), ('preline', ('-f', 'cat'), 'UFLINE'),
                                                  ('condredirect', ('a', 'true'), 'SENDER')])
def test_variables_are_needed(tool, name, words, missing):
    """Outside of a delivery the tools refuse with 100, and say what is missing."""
    done = tool(name, *words, without=[missing])
    assert done.returncode == 100 and missing.encode() in done.stderr


def test_condredirect_asks_its_program_first(tool):
    """Whoever is not redirected needs no variables."""
    assert tool('condredirect', 'a', 'false', without=['SENDER', 'DTLINE']).returncode == 0


@pytest.mark.parametrize('options, wanted', [((), 'URD'), (('-f',), 'RD'), (('-fr',), 'D'), (('-frd',), ''),
                                             (('-frd', '-F'), 'U'), (('-d', '--'), 'UR')])
def test_preline(tool, options, wanted):
    """preline puts UFLINE, RPLINE, DTLINE first, without those that are switched off."""
    done = tool('preline', *options, 'cat')
    lines = ''.join(LINES[letter + {'U': 'F', 'R': 'P', 'D': 'T'}[letter] + 'LINE'] for letter in wanted)
    assert (done.returncode, done.stdout) == (0, lines.encode() + b'A: b\n\nbody\n')


def test_preline_answers_as_its_program(tool):
    """preline's exit code is the program's; a crash is 111, no program 100; an early end is no failure (L-29)."""
    assert tool('preline', 'sh', '-c', 'exit 67').returncode == 67
    assert tool('preline', 'sh', '-c', 'kill -9 $$').returncode == 111
    assert tool('preline', 'no-such-program').returncode == 100
    assert tool('preline', 'true', message=b'x' * 1000000).returncode == 0
    assert tool('preline', '-x', 'true').returncode == tool('preline').returncode == 100


@pytest.mark.parametrize('script, wanted', [('exit 0', 99), ('exit 1', 0), ('exit 100', 0), ('exit 111', 111),
                                            ('kill -9 $$', 111)])
def test_condredirect(tool, tmp_path, script, wanted):
    """condredirect forwards the whole message from SENDER and says 99 if the program says yes."""
    done = tool('condredirect', 'a@z', 'sh', '-c', 'cat >/dev/null; ' + script)
    assert done.returncode == wanted
    assert (tmp_path / 'envelope').exists() == (wanted == 99)
    if wanted == 99:
        assert (tmp_path / 'envelope').read_text() == 'Fs@y|Ta@z||' and done.stderr.startswith(b'condredirect: qp ')
        assert (tmp_path / 'message').read_bytes() == b'Delivered-To: joe@x\nA: b\n\nbody\n'


@pytest.mark.parametrize('words, wanted', [((), 100), (('true',), 100), (('false',), 0),
                                           (('sh', '-c', 'exit 111'), 111), (('no-such-program',), 0)])
def test_bouncesaying(tool, words, wanted):
    """bouncesaying says its text and 100 if the program says yes, or without one."""
    done = tool('bouncesaying', 'not here', *words)
    assert done.returncode == wanted and (done.stderr == b'not here\n') == (wanted == 100)


@pytest.mark.parametrize('script, wanted', [('exit 0', 100), ('exit 1', 0), ('exit 111', 111), ('kill -9 $$', 111)])
def test_except(tool, script, wanted):
    """except turns yes and no round."""
    assert tool('except', 'sh', '-c', script).returncode == wanted


@pytest.mark.parametrize('words, wanted', [(('condredirect', 'a@z'), 99), (('except',), 100), (('bouncesaying', 'no'), 100),
                                           (('preline',), 0), (('predate',), 0), (('tcp-env', '-R'), 0)])
def test_scripts_without_a_first_line(tool, tmp_path, words, wanted):
    """A script that does not name its interpreter is the shell's, as with execvp(3): also along PATH, and past a file of
    that name that may not be run."""
    for place, mode in (('one', 0o644), ('two', 0o755)):
        (tmp_path / place).mkdir()
        (tmp_path / place / 'ask').write_text('test "$1" = "a b" && cat > /dev/null\n')
        (tmp_path / place / 'ask').chmod(mode)
    assert tool(*words, str(tmp_path / 'two/ask'), 'a b').returncode == wanted
    assert tool(*words, 'ask', 'a b', PATH='%s:%s:/usr/bin:/bin' % (tmp_path / 'one', tmp_path / 'two')).returncode == wanted


def test_programs_get_default_signals(tool):
    """What Python ignores (SIGPIPE, SIGXFSZ) is back at its default in the programs these tools run, and what their caller
    ignores, as a shell does for a job in the background, is not."""
    done = tool('preline', 'grep', 'SigIgn', '/proc/self/status')
    ignored = {number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN}
    kept = ignored - {signal.SIGPIPE, signal.SIGXFSZ}
    assert int(done.stdout.split()[1], 16) == sum(1 << number - 1 for number in kept)


def test_maildirmake(tool, tmp_path):
    """maildirmake makes a closed Maildir once."""
    box = tmp_path / 'box'
    assert tool('maildirmake', str(box)).returncode == 0
    assert all(stat.S_IMODE((box / part).stat().st_mode) == 0o700 for part in ('', 'tmp', 'new', 'cur'))
    assert tool('maildirmake', str(box)).returncode == 111
    assert tool('maildirmake').returncode == 100


def test_forward_lines_of_a_qmail_file(tool, tmp_path):
    """Forward lines go out in one submission after the last line, also after a 99, from NEWSENDER."""
    home = tmp_path / 'home'
    home.mkdir()
    (home / '.qmail').write_text('# list\n&a@z\n|exit 99\nb@z\n')
    (home / '.qmail-owner').write_text('')
    done = tool('local', '--', 'joe', str(home), 'joe', '', '', 'x.example', 's@y', './Maildir/')
    assert done.returncode == 0 and re.fullmatch(rb'did 0\+1\+1\nqp [0-9]+\n', done.stdout)
    assert (tmp_path / 'envelope').read_text() == 'Fjoe-owner@x.example|Ta@z||'
    assert (tmp_path / 'message').read_bytes() == b'Delivered-To: joe@x.example\nA: b\n\nbody\n'
    (home / '.qmail').write_text('a@z\nb@z\n|exit 1\n')
    (tmp_path / 'envelope').unlink()
    assert tool('local', '--', 'joe', str(home), 'joe', '', '', 'x.example', 's@y', './Maildir/').returncode == 111
    assert not (tmp_path / 'envelope').exists()


@pytest.mark.parametrize('code, wanted', [(31, 100), (53, 111)])
def test_forwards_that_fail(tool, tmp_path, code, wanted):
    """L-32: what the queue refuses is reported in qmail's words."""
    home = tmp_path / 'home'
    home.mkdir()
    (home / '.qmail').write_text('a@z\n')
    done = tool('local', '--', 'joe', str(home), 'joe', '', '', 'x.example', 's@y', './Maildir/', CODE=str(code))
    assert done.returncode == wanted and done.stderr.startswith(b'Unable to forward message: ')
