"""sendmail, inject and a real qpy-queued: what is in the queue afterwards, and what is not."""
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import pytest

from qpy.core import mess
from tests.peers import debian

ROOT = pathlib.Path(__file__).resolve().parents[2]
OWNER = os.geteuid() or 54320           # rootless: DIR belongs to somebody, who runs queued
NAMELESS = 54321                        # no passwd entry
DIRECTORIES = (('control', 0o755), ('run', 0o755), ('queue', 0o755), ('queue/mess', 0o750), ('queue/state',
                                                                                             0o750),
               ('queue/damaged', 0o700), ('users', 0o755), ('alias', 0o755))


@pytest.fixture
def home():
    """An empty DIR that belongs to OWNER and that everybody may enter."""
    path = pathlib.Path(tempfile.mkdtemp(prefix='qpy-sendmail-'))
    path.chmod(0o755)
    for name, mode in DIRECTORIES:
        (path / name).mkdir()
        (path / name).chmod(mode)
    (path / 'control/me').write_text('host.example.com\n')
    for each in (path, *path.rglob('*')):
        if os.geteuid() == 0:
            os.chown(each, OWNER, OWNER)
    yield path
    shutil.rmtree(path)


def as_user(uid):
    """Popen's arguments for a process of uid, if we may."""
    return {'user': uid, 'group': uid, 'extra_groups': []} if os.geteuid() == 0 else {}


def bound(home):
    """run/submit, bound and listening."""
    sock = socket.socket(socket.AF_UNIX)
    path = str(home / 'run/submit')
    sock.bind(path)
    os.chmod(path, 0o666)
    sock.listen(100)
    return sock


@pytest.fixture
def queue(home):
    """A running queued; yields a function that gives all messages in the queue as (message, envelope)."""
    sock = bound(home)
    fd = sock.fileno()
    script = 'import os; os.dup2(%d, 3); os.environ["LISTEN_PID"] = str(os.getpid()); os.execv(%r, ["queued"])' % (
        fd, str(ROOT / 'bin/qpy-queued'))
    server = subprocess.Popen(['/usr/bin/python3', '-IS', '-c', script], pass_fds=[fd],
                              stderr=subprocess.PIPE,
                              env={'QPYHOME': str(home), 'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'submit'},
                              **as_user(OWNER))
    sock.close()
    line = server.stderr.readline()
    assert b'status: sync' in line, line + server.stderr.read()

    def messages():
        found = sorted((home / 'queue/mess').iterdir())
        return [mess.unpack(each.read_bytes(), each.name.encode()) for each in found]
    yield messages
    server.kill()
    server.wait()
    server.stderr.close()


def call(home, program, *words, input=b'', uid=None, **more):
    """Run one of our programs."""
    user = as_user(uid) if uid is not None else {}
    return subprocess.run([str(ROOT / 'bin' / program), *words], env={'QPYHOME': str(home),
                                                                      **more.pop('env', {})}, input=input,
                          capture_output=True, timeout=60, **user, **more)


def the_one(queue):
    """The only message: its lines, and its Envelope."""
    (message, envelope), = queue()
    envelope = envelope if isinstance(envelope, mess.Envelope) else mess.parse(envelope)
    return message.split(b'\n'), envelope


def test_sendmail(home, queue):
    """A message from sendmail is in the queue when it exits 0: header, body, envelope, and by whom."""
    result = call(home, 'qpy-sendmail', '-v', '-f', 's@x.y', '-N', 'never', '-R', 'hdrs', '-V', 'a b', '-t',
                  'joe,mary',
                  input=b'To: c@d.e\nBcc: f@g.h\nSubject: s\r\n\r\nb\xf6dy\r\n.\r\nend')
    assert (result.returncode, result.stderr) == (0, b''), result
    lines, envelope = the_one(queue)
    assert lines[0].startswith(b'Received: (qpy ') and b'invoked by uid %d)' % os.getuid() in lines[0]
    assert lines[4:] == [b'To: c@d.e', b'Subject: s', b'', b'b\xf6dy', b'.', b'end', b'']
    assert envelope.sender == b's@x.y'
    assert envelope.recipients == [b'joe@host.example.com', b'mary@host.example.com', b'c@d.e', b'f@g.h']
    assert [envelope.option(letter) for letter in (b'R', b'E', b'B')] == [b'HDRS', b'a+20b', b'8BITMIME']
    assert envelope.recipient_option(3, b'N') == b'NEVER'
    assert result.stdout == b'queued as ' + next((home / 'queue/mess').iterdir()).name.encode() + b'\n'


def test_inject(home, queue):
    """qpy-inject and mailsubj too."""
    assert call(home, 'qpy-inject', input=b'to: me\n').returncode == 0
    lines, envelope = the_one(queue)
    assert lines[-2] == b'to: me@host.example.com' and envelope.recipients == [b'me@host.example.com']
    assert call(home, 'qpy-mailsubj', 'subject', 'joe', input=b'text\n').returncode == 0
    assert len(queue()) == 2


def test_long_message(home, queue):
    """A message too long for memory arrives whole."""
    body = b'0123456789abcde\n' * 500_000
    assert call(home, 'qpy-sendmail', 'joe', input=b'A: 1\n\n' + body).returncode == 0
    (message, _), = queue()
    assert message.partition(b'\n\n')[2] == body


@pytest.mark.root
def test_nameless_uid(home, queue):
    """A uid without a passwd entry, with somebody else's HOME and no rights anywhere, sends mail as itself."""
    with pytest.raises(KeyError):
        pwd.getpwuid(NAMELESS)
    result = call(home, 'qpy-sendmail', '-FCronDaemon', '-i', '-B8BITMIME', '-oem', 'x@ex.org,joe',
                  uid=NAMELESS, cwd='/',
                  env={'HOME': '/root', 'PATH': '/usr/bin:/bin'}, input=b'Subject: cron\n\nhi\n')
    assert result.returncode == 0, result
    lines, envelope = the_one(queue)
    assert b'invoked by uid %d)' % NAMELESS in lines[0] and envelope.option(b'u') == b'%d' % NAMELESS
    assert envelope.sender == b'anonymous@host.example.com' and envelope.recipients == [b'x@ex.org',
        b'joe@host.example.com']
    assert b'From: "CronDaemon" <anonymous@host.example.com>' in lines


def test_closed_descriptors(home, queue):
    """mailutils: descriptors 1 and 2 closed, another one leaked; nothing strays into the queue's socket."""
    shell = 'exec %s/bin/qpy-sendmail -v -oi -t 7</etc/passwd >&- 2>&-' % ROOT
    result = subprocess.run(['/bin/sh', '-c', shell], env={'QPYHOME': str(home)}, input=b'To: <joe>\n\nhi\n',
                            timeout=30)
    assert result.returncode == 0
    assert the_one(queue)[1].recipients == [b'joe@host.example.com']


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_killed_while_reading(home, queue, number):
    """S-08: a sender that dies in the middle of its input has queued nothing."""
    process = subprocess.Popen([str(ROOT / 'bin/qpy-sendmail'), 'joe'], env={'QPYHOME': str(home)},
                               stdin=subprocess.PIPE)
    with process.stdin:
        process.stdin.write(b'A: 1\n\n' + b'x' * 2_000_000)
        process.stdin.flush()
        process.send_signal(number)
        assert process.wait(10) == -number
    assert queue() == []


def test_no_queued(home):
    """S-11: without queued, or with a dead socket, it is 75 at once, with a reason."""
    for there in (False, True):
        if there:
            bound(home).close()
        result = call(home, 'qpy-sendmail', 'joe', input=b'x\n')
        assert result.returncode == 75 and b'qpy-queued' in result.stderr and result.stderr.count(b'\n') == 1
        assert call(home, 'qpy-inject', 'joe', input=b'x\n').returncode == 111


@pytest.mark.parametrize('answer', [b'', b'K', b'K1234567890123456', b'Kx\0', b'\0', b'0 ok\0', b'250 ok\0',
                                    b'K12345678901234567\0'])
def test_no_word_from_queued(home, answer):
    """S-10: anything but a whole K and an ID is no success."""
    sock = bound(home)
    if os.geteuid() == 0:
        os.chown(home / 'queue/mess', 0, 0)             # the server is this process

    def serve():
        client, _ = sock.accept()
        with client:
            client.settimeout(10)
            while b'\0\0' not in client.recv(65536)[-2:]:
                pass
            client.sendall(answer)
    server = threading.Thread(target=serve)
    server.start()
    result = call(home, 'qpy-sendmail', 'joe', input=b'x\n')
    server.join(20)
    sock.close()
    assert result.returncode == 75 and result.stderr.count(b'\n') == 1


@pytest.mark.root
def test_impostor(home):
    """S-11: a socket that is not the queue owner's gets not one byte."""
    sock = bound(home)
    script = ('import os, socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.listen(5); print("ready", flush=True); '
              'c, _ = s.accept(); data = c.recv(65536); print(len(data), flush=True)')
    impostor = subprocess.Popen(['/usr/bin/python3', '-IS', '-c', script, str(sock.fileno())],
                                pass_fds=[sock.fileno()],
                                stdout=subprocess.PIPE, **as_user(NAMELESS))
    assert impostor.stdout.readline() == b'ready\n'
    assert call(home, 'qpy-sendmail', 'joe', input=b'secret\n').returncode == 75
    assert impostor.communicate(timeout=10)[0] == b'0\n'
    sock.close()


def test_filter(home, tmp_path):
    """QMAILQUEUE replaces the queue for sendmail too: message, envelope, its own words."""
    script = tmp_path / 'filter'
    script.write_text('#!/bin/sh\ncat >%s/m; cat <&1 >%s/e; echo "Dno such luck (#5.7.1)" >&6; exit 82\n' % (tmp_path, tmp_path))
    script.chmod(0o755)
    result = call(home, 'qpy-sendmail', '-N', 'never', '-f', 's@t', 'joe', input=b'A: 1\n\nx\n',
                  env={'QMAILQUEUE': str(script)})
    assert result.returncode == 69 and b'no such luck (#5.7.1)' in result.stderr
    assert (tmp_path / 'm').read_bytes().endswith(b'A: 1\n\nx\n')
    assert (tmp_path / 'e').read_bytes() == b'Fs@t.host.example.com\0Tjoe@host.example.com\0\0'


@pytest.mark.parametrize('end', [b'\n', b'\r\n'])
def test_smtp_on_descriptors(home, queue, end):
    """-bs, as alpine uses it: qpy-smtpd for this caller, with LF as well as CR LF, relaying wherever he wants."""
    (home / 'bin').symlink_to(ROOT / 'bin')
    said = end.join([b'EHLO x', b'MAIL FROM:<a@b.c>', b'RCPT TO:<joe@elsewhere.example>', b'DATA', b'A: 1',
                     b'', b'..dot',
                     b'.', b'QUIT', b''])
    result = call(home, 'qpy-sendmail', '-bs', '-odb', '-oem', input=said)
    assert result.returncode == 0, result
    codes = [line[:3] for line in result.stdout.split(b'\r\n') if line[3:4] == b' ']
    assert codes == [b'220', b'250', b'250', b'250', b'354', b'250', b'221'], result
    lines, envelope = the_one(queue)
    assert lines[-4:] == [b'A: 1', b'', b'.dot', b''] and envelope.recipients == [b'joe@elsewhere.example']
    assert envelope.sender == b'a@b.c' and b'invoked by uid %d)' % os.getuid() in lines[0]


# --- real callers --------------------------------------------------------------------------------------------

def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=program + ' is not installed')


@pytest.fixture
def sendmail(home, tmp_path):
    """A sendmail command that knows its home."""
    script = tmp_path / 'sendmail'
    script.write_text('#!/bin/sh\nQPYHOME=%s exec %s/bin/qpy-sendmail "$@"\n' % (home, ROOT))
    script.chmod(0o755)
    return script


def test_procmail(home, queue, sendmail, tmp_path):
    """procmail's `!address` forwards: the sender stays that of the message, broken fields go on."""
    (tmp_path / 'rc').write_text('SENDMAIL=%s\nSENDMAILFLAGS=-oi\n:0\n! joe@example.org\n' % sendmail)
    mail = b'Return-Path: <orig@x.y>\nFrom: broken: (mail\nTo: me\nSubject: s\n\nbody\n.\nend\n'
    program = debians(debian.program, 'procmail', 'procmail')
    result = subprocess.run([program, '-m', str(tmp_path / 'rc')], input=mail, capture_output=True,
                            timeout=30)
    assert result.returncode == 0, result
    lines, envelope = the_one(queue)
    assert envelope.recipients == [b'joe@example.org'] and envelope.sender == b'orig@x.y'
    assert lines[-5:-1] == [b'body', b'.', b'end', b''] and b'From: broken: (mail' in lines


def test_bsd_mailx(home, queue, sendmail, tmp_path):
    """bsd-mailx with -b: the hidden recipient gets it, the header does not show him."""
    (tmp_path / 'mailrc').write_text('set sendmail=%s\n' % sendmail)
    program = debians(debian.program, 'bsd-mailx', 'bsd-mailx', 'liblockfile1', 'libbsd0', 'libmd0')
    result = subprocess.run([program, '-n', '-s', 'subject', '-b', 'hidden@x.org', '-c', 'copy@x.org',
                             'joe@example.org'], input=b'text\n',
                            env={**os.environ, 'MAILRC': str(tmp_path / 'mailrc')}, capture_output=True,
                            timeout=30)
    assert result.returncode == 0, result
    lines, envelope = the_one(queue)
    assert sorted(envelope.recipients) == [b'copy@x.org', b'hidden@x.org', b'joe@example.org']
    assert not any(b'hidden' in line for line in lines) and lines[-2] == b'text'


def debians(find, *arguments):
    """A program or directory out of Debian's packages; skipped where they cannot be had."""
    try:
        return find(*arguments)
    except (RuntimeError, OSError) as problem:
        pytest.skip('not to be had: %s' % problem)


def caller(words, tmp_path, **more):
    """Run somebody else's program; some want to know their user's name."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        pytest.skip('uid %d has no name here' % os.getuid())
    git = {'GIT_%s_%s' % (who, what): value for who in ('AUTHOR', 'COMMITTER')
           for what, value in (('NAME', 'joe'), ('EMAIL', 'joe@example.org'))}
    environ = {**os.environ, 'HOME': str(tmp_path), **git, **more.pop('env', {})}
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=60, env=environ, **more)
    assert result.returncode == 0, result


@needs('git')
def test_git_send_email(home, queue, sendmail, tmp_path):
    """git send-email: a patch with lone dots and From lines arrives as it was."""
    script, modules = '/usr/lib/git-core/git-send-email', ''
    if not os.path.exists(script):
        root = debians(debian.unpack, 'git-email', 'liberror-perl', 'libmailtools-perl', 'libtimedate-perl')
        script, modules = root + script, root + '/usr/share/perl5'
    patch = tmp_path / '0001.patch'
    body = '---\n file | 1 +\n\n.\n>From x\n+trailing \n-- \n2.39\n'
    patch.write_text('From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\nFrom: A <a@x.y>\n'
                     'Date: Mon, 5 Jan 2026 00:00:00 +0000\nSubject: [PATCH] x\n\nmessage\n' + body)
    caller(['perl', script, '--quiet', '--confirm=never', '--suppress-cc=all', '--from=a@x.y',
            '--to=joe@example.org',
            '--envelope-sender=env@x.y', '--sendmail-cmd=%s' % sendmail, str(patch)], tmp_path,
           stdin=subprocess.DEVNULL, env={'PERL5LIB': modules})
    lines, envelope = the_one(queue)
    assert envelope.sender == b'env@x.y' and envelope.recipients == [b'joe@example.org']
    assert b'\n'.join(lines).endswith(body.encode())


def test_s_nail(home, queue, sendmail, tmp_path):
    """s-nail: recipients, copies and hidden copies are operands; the hidden one is not in the header."""
    program = debians(debian.program, 's-nail', 's-nail')
    (tmp_path / 'rc').write_text('')
    caller([program, '-n', '-Smta=%s' % sendmail, '-r', 'from@x.y', '-s', 'subject', '-b', 'hidden@x.org',
            '-c', 'copy@x.org',
            'joe@example.org'], tmp_path, input=b'text\n.\nmore\n', env={'MAILRC': str(tmp_path / 'rc')})
    lines, envelope = the_one(queue)
    assert sorted(envelope.recipients) == [b'copy@x.org', b'hidden@x.org', b'joe@example.org']
    assert envelope.sender == b'from@x.y' and not any(b'hidden' in line for line in lines)
    assert lines[-4:] == [b'text', b'.', b'more', b'']


def test_mutt(home, queue, sendmail, tmp_path):
    """mutt with dsn_notify and dsn_return: -N and -R are kept for each recipient and for the message."""
    program = debians(debian.program, 'mutt', 'mutt', 'libgpgme11', 'libassuan0', 'libtokyocabinet9',
                      'libgpg-error0')
    (tmp_path / 'muttrc').write_text('set sendmail="%s -oem -oi"\nset use_envelope_from=yes\nset from=from@x.y\n'
                                     'set dsn_notify=failure,delay\nset dsn_return=hdrs\nset copy=no\n' % sendmail)
    caller([program, '-n', '-F', str(tmp_path / 'muttrc'), '-s', 'subject', '-b', 'hidden@x.org',
            'joe@example.org'],
           tmp_path, input=b'text\n')
    lines, envelope = the_one(queue)
    assert sorted(envelope.recipients) == [b'hidden@x.org',
                                           b'joe@example.org'] and envelope.sender == b'from@x.y'
    assert envelope.option(b'R') == b'HDRS' and envelope.recipient_option(1, b'N') == b'FAILURE,DELAY'
    assert not any(b'hidden' in line for line in lines) and lines[-2] == b'text'
