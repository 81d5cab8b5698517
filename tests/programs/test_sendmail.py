"""sendmail and qpy-inject as their callers call them, up to the submission: argv, environment, descriptors, input."""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import types

import pytest

import qpy.lib
import qpy.user
from qpy import unix
from qpy.core import exits
from qpy.lib import owner, program as wrapper, spool
from qpy.user import inject, sendmail
from tests.peers import queued

ROOT = pathlib.Path(__file__).resolve().parents[2]
VARIABLES = [b'QMAILUSER', b'MAILUSER', b'USER', b'LOGNAME', b'QMAILHOST', b'MAILHOST', b'QMAILNAME',
             b'MAILNAME', b'NAME',
             b'QMAILSUSER', b'QMAILSHOST', b'QMAILINJECT', b'QMAILMFTFILE', b'QMAILDEFAULTHOST',
             b'QMAILDEFAULTDOMAIN',
             b'QMAILPLUSDOMAIN', b'QMAILIDHOST', b'PROTO']


@pytest.fixture
def home(tmp_path):
    (tmp_path / 'control').mkdir()
    (tmp_path / 'users').mkdir()
    (tmp_path / 'control/me').write_text('host.example.com\n')
    queued.give(tmp_path)
    return bytes(tmp_path)


@pytest.fixture(autouse=True)
def signals():
    """User tools reset signals; this process goes on."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ)}
    yield
    for number, action in kept.items():
        signal.signal(number, action)


class Submitted:
    """What was handed to the queue, and what the queue will say."""

    def __init__(self):
        self.answer, self.count = (0, b'1234567890123456'), 0

    def send(self, home, sender, recipients, content, options=(), recipient_options=None):
        self.count += 1
        self.sender, self.recipients, self.options = sender, recipients, dict(options)
        self.notify = [dict(each) for each in recipient_options] if recipient_options else None
        self.message = content if isinstance(content, bytes) else os.read(content, 1 << 30)
        return self.answer

    def field(self, name):
        header = self.message.partition(b'\n\n')[0]
        found = [line for line in header.split(b'\n') if line.lower().startswith(name.lower() + b':')]
        return found[0].partition(b':')[2].strip() if found else None

    @property
    def body(self):
        return self.message.partition(b'\n\n')[2]


@pytest.fixture
def queue(monkeypatch):
    submitted = Submitted()
    monkeypatch.setattr(qpy.lib, 'submit', types.SimpleNamespace(send=submitted.send), raising=False)
    for name in VARIABLES:
        monkeypatch.delenv(os.fsdecode(name), raising=False)
    monkeypatch.setattr(unix, 'getpwuid', lambda uid: (b'joe', uid, uid, b'/home/joe', b'Joe,,,'))
    return submitted


def with_stdin(data, work):
    """work() with data as descriptor 0."""
    saved, fd = os.dup(0), spool.nameless()
    os.write(fd, data)
    os.lseek(fd, 0, 0)
    os.dup2(fd, 0)
    try:
        return work()
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(fd)


@pytest.fixture
def send(home, queue, monkeypatch):
    monkeypatch.setattr(owner, 'become', lambda home: 0)            # this process stays who it is

    def call(args, data=b'Subject: s\n\nbody\n', name=b'sendmail'):
        words = args.split() if isinstance(args, bytes) else args
        return with_stdin(data, lambda: sendmail.run(home, words, name))
    return call


@pytest.fixture
def inject_(home, queue):
    def call(args, data=b'Subject: s\n\nbody\n'):
        words = args.split() if isinstance(args, bytes) else args
        return with_stdin(data, lambda: inject.run(home, words))
    return call


# --- callers -------------------------------------------------------------------------------------------------

def test_cron(send, queue, monkeypatch):
    """cron: a MAILTO list in one word, the name glued to -F, a From in the old form, HOME of somebody else."""
    monkeypatch.setenv('HOME', '/root')
    data = (b'From: root (Cron Daemon)\nTo: joe\nSubject: Cron <joe@h> \xc3\xa9cho\n'
            b'Content-Type: text/plain; charset=UTF-8\n\nhi\n')
    assert send(b'-FCronDaemon -i -B8BITMIME -oem x@ex.org,joe', data) == 0
    assert queue.recipients == [b'x@ex.org', b'joe@host.example.com']
    assert queue.sender == b'joe@host.example.com'
    assert queue.field(b'From') == b'root@host.example.com (Cron Daemon)'
    assert queue.field(b'Subject') == b'Cron <joe@h> \xc3\xa9cho'
    assert queue.options == {b'B': b'8BITMIME'}


def test_cronie(send, queue):
    """cronie: the addressees in To, as a list."""
    assert send(b'-FCronDaemon -i -odi -oem -oi -t -f root',
                b'To: x@ex.org,joe\nFrom: "(Cron Daemon)" <root>\n\nhi\n') == 0
    assert queue.recipients == [b'joe@host.example.com',
                                b'x@ex.org'] and queue.sender == b'root@host.example.com'


def test_bsd_mailx(send, queue):
    """bsd-mailx: Bcc left in the header: delivered to, not shown."""
    assert send(b'-i -t', b'To: joe\nSubject: s\nBcc: secret@x.org, mary\nUser-Agent: mail\n\nhi\n') == 0
    assert sorted(queue.recipients) == [b'joe@host.example.com', b'mary@host.example.com', b'secret@x.org']
    assert b'secret' not in queue.message and queue.field(b'To') == b'joe@host.example.com'


def test_s_nail(send, queue):
    """s-nail: no -t; operands after -- only, the header stays as it is but for its addresses."""
    assert send(b'-i -f from@x.org -- a@b.c d@e.f', b'To: other@x.y\nBcc: gone@x.y\n\nhi\n') == 0
    assert queue.recipients == [b'a@b.c', b'd@e.f'] and queue.sender == b'from@x.org'
    assert queue.field(b'To') == b'other@x.y' and queue.field(b'Bcc') is None


def test_mutt(send, queue):
    """mutt: DSN options are kept in the envelope."""
    assert send(b'-oem -oi -f m@x.y -N failure,delay -R hdrs -V id7 -- a@b.c') == 0
    assert queue.notify == [{b'N': b'FAILURE,DELAY'}] and queue.options == {b'R': b'HDRS', b'E': b'id7'}
    assert send(b'-N sometimes a@b.c') == 0 and queue.notify is None


def test_git(send, queue):
    """git send-email: a patch with lone dots, From lines and trailing blanks arrives as it was."""
    body = b'---\n.\n..\nFrom 0123 Mon Sep 17\n>From x\ntrailing \n-- \n2.39\n'
    assert send(b'-i -f env@x.y a@b.c',
                b'From: A <a@x.y>\nTo: a@b.c\nMessage-Id: <m@x>\nDate: Mon, 1 Jan 2026 00:00:00 +0100\n\n'
                + body) == 0
    assert queue.body == body
    assert queue.message.startswith(b'From: A <a@x.y>\n') and queue.field(b'Message-ID') == b'<m@x>'


def test_php(send, queue):
    """PHP: -t -i and a glued -f; To is the first field, From from the caller's headers."""
    assert send([b'-t', b'-i', b'-fenv@x.y'], b'To: a@b.c\nSubject: s\nFrom: web@x.y\n\nhi') == 0
    assert queue.sender == b'env@x.y' and queue.field(b'From') == b'web@x.y' and queue.body == b'hi\n'


def test_procmail(send, queue):
    """procmail's forward: the sender stays what Return-Path says; fields nobody can parse go on as they are."""
    data = b'Return-Path: <orig@x.y>\nDelivered-To: joe@h\nFrom: broken: (mail\nTo: "also broken\nSubject: s\n\nhi\n'
    assert send(b'-oi addr@z.org', data) == 0
    assert queue.sender == b'orig@x.y' and queue.recipients == [b'addr@z.org']
    assert b'From: broken: (mail\nTo: "also broken\n' in queue.message and b'Return-Path' not in queue.message


@pytest.mark.parametrize('words', [[b'-f', b'', b'a'], [b'-f', b'<>', b'a'], [b'-f<>', b'a'],
                                   [b'-r', b'<>', b'a']])
def test_null_sender(send, queue, words):
    """vacation, sieve: the empty sender; a From made here is still somebody."""
    assert send(words) == 0
    assert queue.sender == b'' and queue.field(b'From') == b'joe@host.example.com'


@pytest.mark.parametrize('args,sender,origin', [
    (b'a', b'joe@far.example.org', b'joe@far.example.org'), (b'-f x@y.z a', b'x@y.z', b'x@y.z')])
def test_rmail(send, queue, args, sender, origin):
    """UUCP's rmail: the From_ lines name the sender and go, lone dots are text; -f counts more."""
    assert send(args, b'From uucp Mon Nov 30 09:00:00 2026 remote from far.example.org\n>From joe Mon Nov 30 08:00:00 2026\n'
                b'Subject: s\n\n>From b\n.\nx\n', b'rmail') == 0
    assert (queue.sender, queue.field(b'From'), queue.recipients) == (sender, origin, [b'a@host.example.com'])
    assert queue.body == b'>From b\n.\nx\n' and b'MBOX-Line' not in queue.message


@pytest.mark.parametrize('args,data', [(b'rcpt', b'hi\n'), (b'-i rcpt', b''),
                                       (b'-oi -t', b'To: rcpt\nAuto-Submitted: x\n\nno end'),
                                       (b'-t rcpt', b'Subject: s\n\n'), (b'-odi rcpt', b'x'), (b'-oi -f S -t',
                                           b'To: rcpt\n\n'),
                                       (b'-oi -t -oem -odb', b'Cc: rcpt\n\n')])
def test_others(send, queue, args, data):
    """rkhunter, at, unattended-upgrades, BackupPC, arpwatch, PHPMailer, slrn."""
    assert send(args, data) == 0
    assert queue.recipients == [b'rcpt@host.example.com']


# --- the checklist -------------------------------------------------------------------------------------------

def test_options_end_at_the_first_operand(send, queue):
    """1: words after the first operand are recipients, whatever they begin with."""
    assert send(b'a@b.c -t -f x') == 0
    assert queue.recipients == [b'a@b.c', b'-t@host.example.com', b'-f@host.example.com',
                                b'x@host.example.com']
    assert queue.sender == b'joe@host.example.com'


def test_operands(send, queue):
    """2: operands are address lists; empty items go, duplicates go, host-less names are completed."""
    assert send([b'Joe <joe>', b'joe (Joe)', b'', b', a@b.c,,', b'"x, y"@z', b'a@b.c', b'm@h+']) == 0
    assert queue.recipients == [b'joe@host.example.com', b'a@b.c', b'x, y@z.host.example.com',
                                b'm@h.host.example.com']


@pytest.mark.parametrize('locals_', [None, 'vm\nlocalhost\n'])
@pytest.mark.parametrize('program', ['send', 'inject_'])
def test_host_without_a_dot(request, home, queue, program, locals_):
    """On a machine whose whole name is vm, mail for root goes to root@vm from joe@vm: both are here."""
    with open(home + b'/control/me', 'w') as file:
        file.write('vm\n')
    if locals_:
        with open(home + b'/control/locals', 'w') as file:
            file.write(locals_)
    request.getfixturevalue(program)([b'root', b'root@localhost', b'x@elsewhere'], b'To: root\n\n')
    assert queue.recipients == [b'root@vm', b'root@localhost', b'x@elsewhere']
    assert queue.sender == b'joe@vm' and queue.field(b'To') == b'root@vm'


def test_default_domain_of_a_host_without_a_dot(send, home, queue):
    """A default domain that is written down counts there too, but for the names of the machine itself."""
    for name, value in ((b'me', 'vm\n'), (b'defaultdomain', 'example.net\n')):
        with open(home + b'/control/' + name, 'w') as file:
            file.write(value)
    send(b'root x@elsewhere')
    assert queue.recipients == [b'root@vm', b'x@elsewhere.example.net']


@pytest.mark.parametrize('args,data,code,word', [
    (b'', b'To: a\n\n', 64, '-t'), (b'-i', b'', 64, '-t'), ([b''], b'', 64, '-t'), ([b'<>'], b'', 64, '-t'),
    (b'-t', b'Subject: s\n\n', 65, '-t'), (b'-t', b'', 65, '-t'), (b'-t', b'To: list:;\n\n', 65, '-t'),
    (b'-t', b'To: alice, @r.x:carl@x.com\n\n', 65, 'To: alice'), (b'-t', b'To: a\nBcc: "x\n\n', 65,
                                                                  'Bcc: "x'),
    (b'-t', b'To: joe, @broken\n\n', 65, 'part: @broken'), (b'-t', b'To: joe\nCc: @broken\n\n', 65, 'part: @broken'),
    (b'joe @x', b'', 65, 'part: @x'), ([b'x: joe, @y;'], b'', 65, 'part: @y'), ([b'""@d.e'], b'', 65, 'part: ""@d.e'),
    ([b'a@"b'], b'', 65, 'a@"b'), ([b'"a\n"@b'], b'', 65, 'address'), (b'-y a', b'', 64, '-y'), (b'-bd', b'',
        64, 'qpy-start'),
    (b'-f', b'', 64, '-f')])
def test_refusals(send, queue, capfd, args, data, code, word):
    """3: what cannot be sent is refused with a code of sysexits and one line that names the trouble; nothing is queued."""
    assert send(args, data) == code
    out, err = capfd.readouterr()
    assert out == '' and err.count('\n') == 1 and err.startswith('sendmail: fatal: ') and word in err
    assert queue.count == 0


@pytest.mark.parametrize('data,fields,body', [
    (b'A: 1\r\nB: 2\r\n\r\nx\r\n.\r\ny', b'A: 1\nB: 2\n\n', b'x\n.\ny\n'),
    (b'A: 1\n\nx\r\r\ny\rz', b'A: 1\n\n', b'x\ny\nz\n'),
    (b'From joe Mon Jan 1\nA: 1\n\nx\n', b'A: 1\n\n', b'x\n'),
    (b'>From joe Mon Jan 1\nA: 1\n\nx\n', b'A: 1\n\n', b'x\n'),
    (b'no header\nx: y\n', b'\n\n', b'no header\nx: y\n'),
    (b'A: \xff\x00\n\n\x00\xff' + b'l' * 2000 + b'\n', b'A: \xff\x00\n\n', b'\x00\xff' + b'l' * 2000 + b'\n'),
    (b'A: ' + b'x' * 150_000 + b'\n' + b'B: y\n' * 20_000 + b'\nb', b'B: y\n\n', b'b\n'),
    (b'A: 1\n\n' + b'big\n' * 1_000_000, b'A: 1\n\n', b'big\n' * 1_000_000)])
def test_input(send, queue, data, fields, body):
    """4: CRLF, bare CR, mailbox lines, no header, NUL, 8 bits, long lines, long headers, long bodies."""
    assert send(b'a', data) == 0
    header, _, rest = queue.message.partition(b'\n\n')
    assert (header + b'\n\n').endswith(fields.replace(b'\n\n\n', b'\n\n')) and rest == body
    assert b'\r' not in queue.message and b'From joe' not in queue.message


def test_empty_input(send, queue):
    """4: an empty message is a message."""
    assert send(b'a', b'') == 0
    assert [line.partition(b':')[0] for line in queue.message.split(b'\n')] == [b'Date', b'Message-ID',
                                                                                b'From', b'Cc', b'']


@pytest.mark.parametrize('args', [b'a', b'-i a', b'-oi a'])
def test_lone_dot(send, queue, args):
    """5: a lone dot is text, with -i and without."""
    assert send(args, b'A: 1\n\nx\n.\ny\n') == 0
    assert queue.body == b'x\n.\ny\n'


@pytest.mark.parametrize('args,body', [(b'a', b'x\n'), (b'-i a', b'x\n.\ny\n')])
def test_lone_dot_typed(send, queue, monkeypatch, args, body):
    """5: at a terminal a lone dot ends the message, unless -i."""
    lines = [b'A: 1\n', b'\n', b'x\n', b'.\n', b'y\n', b'']
    monkeypatch.setattr(unix, 'isatty', lambda fd: True)
    real = unix.read
    monkeypatch.setattr(unix, 'read', lambda fd, size: real(fd, size) if fd else lines.pop(0))
    assert send(args) == 0
    assert queue.body == body


def test_header_fields(send, queue):
    """6: Bcc, Resent-Bcc, Return-Path and Content-Length go; Date, Message-ID, From and Cc come."""
    assert send(b'-t', b'Bcc: a\nReturn-Path: <>\nContent-Length: 3\nSubject: s\n\nb\n') == 0
    header = queue.message.partition(b'\n\n')[0]
    assert [line.partition(b':')[0] for line in header.split(b'\n')] == [b'Date', b'Message-ID', b'From',
                                                                         b'Cc', b'Subject']
    assert queue.field(b'Cc') == b'recipient list not shown: ;'


@pytest.mark.parametrize('args,environ,sender,origin', [
    (b'a', {}, b'joe@host.example.com', b'joe@host.example.com'),
    (b'-f x a', {}, b'x@host.example.com', b'x@host.example.com'),
    (b'-f x@y.z -F Name a', {}, b'x@y.z', b'"Name" <x@y.z>'),
    (b'-F Name a', {}, b'joe@host.example.com', b'"Name" <joe@host.example.com>'),
    (b'a', {'USER': 'root', 'LOGNAME': 'root', 'HOME': '/root'}, b'joe@host.example.com',
     b'joe@host.example.com'),
    (b'a', {'QMAILUSER': 'q', 'QMAILHOST': 'h.x', 'QMAILNAME': 'N M'}, b'q@h.x', b'"N M" <q@h.x>'),
    (b'a', {'QMAILINJECT': 'r'}, b'joe-@host.example.com-@[]', b'joe@host.example.com'),
    (b'-f x@y.z a', {'QMAILUSER': 'q', 'QMAILNAME': 'N', 'QMAILSUSER': 's'}, b'x@y.z', b'x@y.z'),
    (b'-F Other a', {'QMAILNAME': 'N', 'QMAILINJECT': 'c'}, b'joe@host.example.com',
     b'joe@host.example.com (Other)'),
    ([b'-f', b'Joe <j@k.l>', b'a'], {}, b'j@k.l', b'j@k.l'),
    ([b'-f', b'a b@c.d', b'a'], {}, b'a b@c.d', b'"a b"@c.d'),
    ([b'-f', b'"a b"@c.d', b'a'], {}, b'a b@c.d', b'"a b"@c.d'),
    ([b'-f', b'"a\\"@b"@c.d', b'a'], {}, b'a"@b@c.d', b'"a\\"@b"@c.d'),
    ([b'-f', b'"odd@c.d', b'a'], {}, b'"odd@c.d', b'"\\"odd"@c.d'),
    (b'a', {'QMAILDEFAULTHOST': 'dh.x'}, b'joe@dh.x', b'joe@dh.x')])
def test_sender(send, queue, monkeypatch, args, environ, sender, origin):
    """7, 8: -f, then qmail's variables, then the account by its uid; USER and LOGNAME only where it has no name."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert send(args) == 0
    assert queue.sender == sender and queue.field(b'From') == origin


def test_nameless_uid(send, queue, monkeypatch):
    """8: a uid without a passwd entry sends mail."""
    def nobody(uid):
        raise KeyError(uid)
    monkeypatch.setattr(unix, 'getpwuid', nobody)
    assert send(b'a') == 0 and queue.sender == b'anonymous@host.example.com'
    monkeypatch.setenv('LOGNAME', 'guest')
    assert send(b'a') == 0 and queue.sender == b'guest@host.example.com'


def test_silent(send, queue, capfd):
    """13: success says nothing; with -v it says what the message is called."""
    assert send(b'a') == 0 and capfd.readouterr() == ('', '')
    assert send(b'-v a') == 0 and capfd.readouterr() == ('queued as 1234567890123456\n', '')


def test_what_cannot_be_said_is_done_all_the_same(send, queue, capfd, monkeypatch):
    """-v into a full file: the message is in the queue, so the caller must not be told to send it again."""
    real = unix.write_all

    def full(fd, data):
        if fd == 1:
            raise OSError(unix.ENOSPC, 'full')
        real(fd, data)
    monkeypatch.setattr(unix, 'write_all', full)
    assert send(b'-v a') == 0 and queue.count == 1
    assert capfd.readouterr().err == 'sendmail: warning: queued, and unable to say so: full\n'


@pytest.mark.parametrize('answer,code', [((11, b''), 65), ((31, b''), 69), ((51, b''), 75), ((53, b''), 75),
                                         ((54, b''), 75),
                                         ((71, b''), 75), ((82, b'Dno thanks (#5.7.1)'), 69),
                                         ((82, b'Zlater (#4.7.1)'), 75),
                                         ((99, b''), 75), ((120, b''), 75)])
def test_queue_failures(send, queue, capfd, answer, code):
    """16: the queue's refusals become sysexits, with the queue's sentence."""
    queue.answer = answer
    assert send(b'a') == code
    err = capfd.readouterr().err
    assert err.count('\n') == 1 and '(#' in err


def test_unforeseen(send, queue, capfd):
    """13: what nobody foresaw is 75 and one line, no traceback."""
    queue.answer = None
    assert send(b'a') == 75
    err = capfd.readouterr().err
    assert err.startswith('sendmail: fatal: unforeseen TypeError') and err.count('\n') == 1


@pytest.mark.parametrize('call', ['read', 'write'])
def test_faults(send, queue, monkeypatch, capfd, call):
    """16: a disk that is full, or an input that breaks, queues nothing and says so."""
    real = getattr(unix, call)

    def failing(fd, data):
        if call == 'write' and fd <= 2 or call == 'read' and fd != 0:
            return real(fd, data)
        raise OSError(unix.ENOSPC if call == 'write' else unix.EIO, 'broken')
    monkeypatch.setattr(unix, call, failing)
    assert send(b'a', b'A: 1\n\n' + b'x' * 3_000_000) == (74 if call == 'read' else 75)
    assert queue.count == 0 and 'broken' in capfd.readouterr().err


WATCHED = ('open', 'read', 'write', 'writev', 'lseek', 'close', 'getpwuid', 'getuid', 'getpid', 'urandom',
           'time',
           'isatty', 'read_file', 'write_all')
BIG = b'A: 1\n\n' + b'0123456789abcde\n' * 90_000             # more than is held in memory


def failing_at(monkeypatch, number, code):
    """Let call number `number` of all watched system calls fail with an errno; returns the list of calls made."""
    made = []

    def wrap(name, real):
        def call(*args, **more):
            made.append(name)
            if len(made) == number:
                raise OSError(code, 'induced')
            return real(*args, **more)
        return call
    for name in WATCHED:
        monkeypatch.setattr(unix, name, wrap(name, getattr(unix, name)))
    return made


@pytest.mark.parametrize('code', [unix.EIO, unix.ENOSPC, unix.EMFILE, unix.ENOMEM, unix.EACCES])
@pytest.mark.parametrize('data', [b'A: 1\n\nx\n', BIG])
def test_every_call_may_fail(send, queue, monkeypatch, data, code):
    """16: whichever system call fails: the whole message is queued and 0, or nothing and 74, 75."""
    with monkeypatch.context() as counting:
        calls = failing_at(counting, 0, code)
        assert send(b'-t a', b'Cc: b\n' + data) == 0
    assert len(calls) > 10
    for number in range(1, len(calls) + 1):
        queue.count = 0
        with monkeypatch.context() as broken:
            failing_at(broken, number, code)
            result = send(b'-t a', b'Cc: b\n' + data)
        assert result in (74, 75) and queue.count == 0 or result == 0 and queue.count == 1, (number,
            calls[number - 1])
        assert not queue.count or queue.message.endswith(data) and queue.recipients[1:] == [b'b@host.example.com']


def test_file_systems_without_nameless_files(send, queue, monkeypatch):
    """Where O_TMPFILE does not exist, a long message is kept in a file that loses its name at once."""
    real, names = unix.open, []

    def old(path, flags, *rest, **more):
        if flags & unix.O_TMPFILE == unix.O_TMPFILE:
            raise OSError(unix.ENOTSUP, 'not supported')
        names.append(path)
        return real(path, flags, *rest, **more)
    monkeypatch.setattr(unix, 'open', old)
    assert send(b'a', BIG) == 0 and queue.message.endswith(BIG)
    assert names[-1].startswith(b'/var/tmp/qpy.') and not os.path.exists(names[-1])


def test_short_reads_and_writes(send, queue, monkeypatch):
    """Reads and writes that do less than asked change nothing."""
    read, write = unix.read, unix.write
    monkeypatch.setattr(unix, 'read', lambda fd, size: read(fd, min(size, 1000)))
    monkeypatch.setattr(unix, 'write', lambda fd, data: write(fd, data[:30_000]))
    assert send(b'a', BIG) == 0 and queue.message.endswith(BIG)


def test_broken_control(send, queue, home, capfd):
    """A broken control file is temporary and named."""
    pathlib.Path(os.fsdecode(home), 'control/defaulthost').write_bytes(b'a\0b\n')
    assert send(b'a') == 75 and 'control/defaulthost' in capfd.readouterr().err and queue.count == 0


@pytest.mark.parametrize('program', ['send', 'inject_'])
def test_a_host_without_a_name(request, home, queue, capfd, monkeypatch, program):
    """Without control/me nothing is sent in the name of defaulthost.defaultdomain, whose mail comes back to nobody; who
    names a host goes on."""
    call = request.getfixturevalue(program)
    pathlib.Path(os.fsdecode(home), 'control/me').unlink()
    assert wrapper.guarded(lambda: call(b'a')) == (75 if program == 'send' else 111) and queue.count == 0
    assert 'control/me: missing; write the full name of this host into it' in capfd.readouterr().err
    monkeypatch.setenv('QMAILDEFAULTHOST', 'x.example')
    assert call(b'a') == 0 and queue.sender == b'joe@x.example'


def test_header_too_long(send, queue, capfd):
    """H-01: a header of ten megabytes is refused."""
    assert send(b'a', b'A: ' + b'x' * 10_000_000) == 65 and queue.count == 0


def test_many_recipients(send, queue):
    """S-02, S-06: a hundred thousand recipients in a header, and in operands."""
    assert send(b'-t', b'Bcc: ' + b',\n '.join(b'u%d@x.org' % i for i in range(100_000)) + b'\n\n') == 0
    assert len(queue.recipients) == 100_000
    assert send([b'u%d' % i for i in range(20_000)] + [b'\xff\xfe']) == 0
    assert len(queue.recipients) == 20_001 and queue.recipients[-1] == b'\xff\xfe@host.example.com'


def test_ignored_options_touch_no_file(send, queue, tmp_path, monkeypatch):
    """S-01: options that name files open none of them."""
    opened, real = [], unix.open
    monkeypatch.setattr(unix, 'open', lambda path, *rest, **more: opened.append(path) or real(path, *rest,
                                                                                              **more))
    target = os.fsencode(tmp_path / 'x')
    assert send([b'-C' + target, b'-X', target, b'-OQueueDirectory=' + target, b'-oQ' + target,
                 b'-oA' + target,
                 b'-D' + target, b'-Q' + target, b'-p' + target, b'-d' + target, b'a']) == 0
    assert all(target not in path for path in opened if isinstance(path,
                                                                   bytes)) and not os.path.exists(target)


# --- the other modes -----------------------------------------------------------------------------------------

def test_smtp(send, monkeypatch, home):
    """-bs becomes qpy-smtpd, with the environment of a local client, unless the caller has set one."""
    calls = []
    monkeypatch.setattr(unix, 'execve', lambda *all_: calls.append(all_) or 0)
    monkeypatch.setattr(unix, 'signal', lambda *both: None)
    send(b'-bs -odb -oem')
    path, argv, environ = calls[0]
    assert path == home + b'/bin/qpy-smtpd' and argv == [path]
    wanted = dict(sendmail.SMTP_CLIENT, QPYLOCALBS=b'1')
    assert {name: environ[name] for name in dict(sendmail.SMTP_CLIENT)} == dict(sendmail.SMTP_CLIENT)
    assert environ[b'QPYLOCALBS'] == b'1' and wanted
    monkeypatch.setenv('PROTO', 'X')
    send(b'-bs')
    assert b'RELAYCLIENT' not in calls[1][2] and calls[1][2][b'QPYLOCALBS'] == b'1'


def test_smtp_missing(send, monkeypatch, capfd):
    """-bs without a qpy-smtpd says so."""
    monkeypatch.setattr(unix, 'signal', lambda *both: None)
    assert send(b'-bs') == 72 and 'qpy-smtpd' in capfd.readouterr().err


def test_aliases(send, monkeypatch, tmp_path, capfd):
    """newaliases, -bi and -I make users/aliases.cdb; without a source there is nothing to do, and nothing is said."""
    from qpy.lib import aliasfiles
    monkeypatch.setattr(aliasfiles, 'SYSTEM', bytes(tmp_path / 'aliases'))
    assert send(b'', name=b'newaliases') == 0 and send(b'-bi') == 0 and send(b'-I') == 0
    assert capfd.readouterr() == ('', '')
    (tmp_path / 'users/aliases').write_text('nobody-has-this: joe\n')
    assert send(b'', name=b'newaliases') == 0
    assert capfd.readouterr().out.endswith('users/aliases: 1 aliases\n') and (tmp_path / 'users/aliases.cdb').exists()


@pytest.mark.parametrize('args,name', [(b'-q', b'sendmail'), (b'-qf', b'sendmail'), (b'', b'runq'),
                                       (b'-q30m', b'sendmail'),
                                       (b'-bh', b'sendmail'), (b'', b'hoststat')])
def test_run_queue(send, monkeypatch, capfd, args, name):
    """-q and the like exit 0 for everybody, also when send is down, which is said."""
    monkeypatch.setattr(unix, 'getpwnam', lambda name: (name, os.geteuid(), os.getegid(), b'/'))
    assert send(args, name=name) == 0
    err = capfd.readouterr().err
    assert ('not running' in err) == (args[:2] == b'-q' and args != b'-q30m' or name == b'runq')


@pytest.mark.parametrize('answer,said', [(b'.\0', ''), (b'one\0two\0.\0', ''),
                                         (b'!asked less than a minute ago\0', 'a minute ago'), (b'',
                                             'ended early'),
                                         (b'one\0', 'ended early')])
def test_run_queue_asks(send, home, monkeypatch, capfd, answer, said):
    """-q asks send for a run, in its words; a refusal is told, and no failure."""
    monkeypatch.setattr(unix, 'getpwnam', lambda name: (name, os.geteuid(), os.getegid(), b'/'))
    pathlib.Path(os.fsdecode(home), 'run').mkdir()
    listening, heard = socket.socket(socket.AF_UNIX), []
    listening.bind(home + b'/run/control')
    listening.listen()

    def serve():
        client = listening.accept()[0]
        heard.append(client.recv(100))
        for i in range(len(answer)):
            client.send(answer[i:i + 1])
        client.close()
    server = threading.Thread(target=serve)
    server.start()
    assert send(b'-q') == 0
    server.join()
    listening.close()
    assert heard == [b'run\0'] and said in capfd.readouterr().err


@pytest.mark.parametrize('first, wanted', [(b'1\0.\0', [b'etrn branch.example\0']),
                                           (b'later 7\0.\0', [b'etrn branch.example\0', b'run\0']),
                                           (b'!not in my list of domains for ETRN\0', [b'etrn branch.example\0', b'run\0'])])
def test_run_of_a_part(send, home, monkeypatch, capfd, first, wanted):
    """-qR asks for the mail of that domain, where control/etrn lists it; elsewhere everything is tried, as by -q."""
    monkeypatch.setattr(unix, 'getpwnam', lambda name: (name, os.geteuid(), os.getegid(), b'/'))
    pathlib.Path(os.fsdecode(home), 'run').mkdir()
    listening, heard = socket.socket(socket.AF_UNIX), []
    listening.bind(home + b'/run/control')
    listening.listen()

    def serve():
        for answer in (first, b'.\0')[:len(wanted)]:
            client = listening.accept()[0]
            heard.append(client.recv(100))
            client.send(answer)
            client.close()
    server = threading.Thread(target=serve)
    server.start()
    assert send(b'-qRbranch.example') == 0
    server.join()
    listening.close()
    assert heard == wanted and capfd.readouterr() == ('', '')


@pytest.mark.parametrize('args,name', [(b'-bp', b'sendmail'), (b'', b'mailq'), (b'-v', b'qpy-mailq')])
def test_mailq(send, home, monkeypatch, capfd, args, name):
    """mailq is qpy-qread; where the queue cannot be listed it says why in a line, and 75: no monitor is to take that for an
    empty one."""
    asked = []

    def shown(home, ident, show):
        asked.append((home, ident))
        raise ConnectionRefusedError(111, 'Connection refused')
    fake = types.SimpleNamespace(shown=shown, as_text=None)
    monkeypatch.setattr(qpy.user, 'qread', fake, raising=False)
    assert send(args, name=name) == 75 and asked == [(home, [])]
    out, err = capfd.readouterr()
    assert out == '' and err.count('\n') == 1


@pytest.mark.parametrize('args,word', [(b'-bV', 'qpy'), (b'--version', 'qpy'), (b'--help', 'Usage: sendmail [-ti]')])
def test_questions(send, capfd, args, word):
    """Version and help are answered on standard output."""
    assert send(args) == 0 and word in capfd.readouterr().out


@pytest.mark.parametrize('words', [b'joe <ann@x.example', b'joe "ann@x.example', b'joe (ann@x.example', b'ann@[192.0.2.1'])
def test_what_is_opened_and_never_closed(send, inject_, queue, capfd, words):
    """It is refused, as argument and in the header, by sendmail (65) and inject (100), and no address is made of it.
    (The arguments of inject are no text to be read, but addresses, whatever is in them.)"""
    message = b'Subject: s\nTo: ' + words + b'\n\nbody\n'
    assert send([words]) == send(b'-t', message) == 65 and inject_(b'-h', message) == 100
    assert queue.count == 0 and capfd.readouterr().err.count('unable to parse') == 3


def test_verify(send, home, capfd):
    """-bv and -bt print where each operand goes, and why; 0 if each can be delivered, else 1."""
    pathlib.Path(os.fsdecode(home), 'alias').mkdir()
    assert send(b'-bv joe@elsewhere.example') == 0
    assert 'deliverable, remote: ' in (out := capfd.readouterr().out) and out.endswith('; as DNS says\n')
    for name, data in (('smtproutes', '.r.example:relay.example:26\nown.r.example:\nbad.example:a..b\n'),
                       ('senderroutes', '# by sender\n@s.example:smtps=joe@other.example\n')):
        pathlib.Path(os.fsdecode(home), 'control', name).write_text(data)
    for args, code, end in ((b'a@x.R.example', 0, 'line 1, .r.example: by relay.example:26'),
                            (b'a@own.r.example', 0, 'control/smtproutes line 2, own.r.example: as DNS says'),
                            (b'a@bad.example', 75, 'line 3, bad.example cannot be used: not a host name'),
                            (b'-f s@s.example a@x.r.example', 0,
                             'control/senderroutes line 2, @s.example: by smtps=joe@other.example')):
        assert send(b'-bv ' + args) == code and capfd.readouterr().out.endswith(end + '\n')
    assert send([b'-bt', b'no-such-user-here', b'a: b', b'x@elsewhere.example']) == 1
    lines = capfd.readouterr().out.split('\n')
    assert lines[0].startswith('no-such-user-here@host.example.com ... undeliverable, local: control/me')
    assert lines[1].startswith('a: b ... undeliverable: unable to parse') and 'remote' in lines[2]
    assert send([b'-bt', b'""@host.example.com']) == 1
    assert capfd.readouterr().out == '""@host.example.com ... undeliverable: address without a local part: ""@host.example.com\n'
    for words in ([b'-bv'], [b'-bv', b'']):
        assert send(words) == 64 and 'no address' in capfd.readouterr().err


def test_addresses_from_standard_input(send, home, capfd, monkeypatch):
    """-bt without operands: the last word of each line, answered before the next is awaited; nothing asked is no mistake."""
    pathlib.Path(os.fsdecode(home), 'alias').mkdir()
    wanted = [b'no-such-user@host.example.com ... undeliverable', b'x@elsewhere.example ... deliverable', b'z@y.example ... deliverable']

    def out():
        return [line.partition(',')[0].encode() for line in capfd.readouterr().out.splitlines()]
    lines = b'# 0 a@b\n\nno-such-user\r\n 3,0\tx@elsewhere.example \ncanonify,parse Z <z@y.example>'
    assert send(b'-bt', lines) == 1 and out() == wanted
    assert send(b'-bt', b'0 x@elsewhere.example\n') == 0 and out() == wanted[1:2]
    assert send(b'-bt', b'') == 0 and out() == [] and send(b'-bt z@y.example', lines) == 0 and out() == wanted[2:]
    pieces, answers, read = [b'no-such-', b'user\nx@else', b'where.example\n', b''], [], unix.read
    monkeypatch.setattr(unix, 'read', lambda fd, size: read(fd, size) if fd else answers.append(out()) or pieces.pop(0))
    assert send(b'-bt', b'') == 1 and answers == [[], [], wanted[:1], wanted[1:2]] and not pieces

    def broken(fd, size):
        if not fd:
            raise OSError(5, 'Input/output error')
        return read(fd, size)
    monkeypatch.setattr(unix, 'read', broken)
    assert send(b'-bt', b'') == 74 and 'read error: Input/output error' in capfd.readouterr().err


# --- inject --------------------------------------------------------------------------------------------------

def test_inject_prints(inject_, capfdbinary, monkeypatch):
    """-n: the golden order of what qmail-inject prints."""
    monkeypatch.setenv('USER', 'joe')
    monkeypatch.setenv('NAME', 'Joe Q. User')
    assert inject_(b'-n -a bob', b'From joe Mon Jan\nSubject: s\nBcc: x\nnot a header\n') == 0
    lines = capfdbinary.readouterr().out.split(b'\n')
    assert lines[0] == b'Return-Path: <joe@host.example.com>'
    assert [line.partition(b':')[0] for line in lines[1:5]] == [b'Date', b'Message-ID', b'From', b'Cc']
    assert lines[3] == b'From: "Joe Q. User" <joe@host.example.com>'
    assert lines[5:] == [b'MBOX-Line: From joe Mon Jan', b'Subject: s', b'', b'not a header', b'']


@pytest.mark.parametrize('args,recipients', [
    (b'b', [b'b']), (b'-a b', [b'b']), (b'', [b't', b'c']), (b'-h b', [b't', b'c']), (b'-H b',
        [b'b', b't', b'c']),
    (b'-A b', [b'b']), (b'-aA', [b't', b'c']), (b'-nN b', [b'b']), (b'b b', [b'b', b'b']), (b'-- -b',
                                                                                            [b'-b'])])
def test_inject_recipients(inject_, queue, args, recipients):
    """Where recipients come from; duplicates stay."""
    assert inject_(args, b'To: t\nCc: c\n\n') == 0
    assert queue.recipients == [each + b'@host.example.com' for each in recipients]


@pytest.mark.parametrize('words,sender', [([b'-f', b'a'], b'a@host.example.com'), ([b'-fa@b.c'], b'a@b.c'),
                                          ([b'-f', b''], b''),
                                          ([b'-f', b'<>'], b''), ([b'-f<a@b.c>'], b'a@b.c'),
                                          ([b'-f', b'a b@c.d'], b'a b@c.d'),
                                          ([b'-f', b'l-@h.x-@[]'], b'l-@h.x-@[]')])
def test_inject_sender(inject_, queue, words, sender):
    """-f names the envelope sender; <> is the empty one."""
    assert inject_(words + [b'-a', b'x']) == 0
    assert queue.sender == sender


@pytest.mark.parametrize('words,data,word', [
    ([b'-z'], b'', 'usage'), ([b'-f'], b'', 'usage'), ([b'--', b'a@"b'], b'', 'a@"b'), ([], b'To: a: b\n',
                                                                                        'To: a: b'),
    ([b'-a', b'@d.e'], b'', 'part: ""@d.e'), ([b'-h'], b'To: joe, ""@d.e\n', 'part: ""@d.e'),
    ([b'a'], b'From: "x\n', 'From: "x')])
def test_inject_refuses(inject_, queue, capfd, words, data, word):
    """100 and one line for what can never be sent."""
    assert inject_(words, data) == 100
    err = capfd.readouterr().err
    assert word in err and err.count('\n') == 1 and queue.count == 0


@pytest.mark.parametrize('answer,code', [((31, b''), 100), ((53, b''), 111), ((0, b'1'), 0)])
def test_inject_codes(inject_, queue, answer, code):
    """The queue's word: D is 100, Z is 111."""
    queue.answer = answer
    assert inject_(b'a') == code


def test_followup(inject_, queue, tmp_path, monkeypatch):
    """$QMAILMFTFILE: a message to a list gets Mail-Followup-To; a missing file is no file."""
    (tmp_path / 'lists').write_text('# mine\nlist@l.org  \n')
    monkeypatch.setenv('QMAILMFTFILE', str(tmp_path / 'lists'))
    assert inject_(b'', b'To: LIST@l.org, a@b.c\n\n') == 0
    assert b'\nMail-Followup-To: LIST@l.org,\n  a@b.c\n' in queue.message
    monkeypatch.setenv('QMAILMFTFILE', str(tmp_path / 'none'))
    assert inject_(b'', b'To: LIST@l.org\n\n') == 0


@pytest.mark.timeout(60)
def test_followup_from_a_pipe(inject_, queue, monkeypatch):
    """The list may come through a pipe, as a shell's <(command) gives it, and is waited for."""
    out, into = os.pipe()
    threading.Timer(0.2, lambda: (os.write(into, b'list@l.org\n'), os.close(into))).start()
    monkeypatch.setenv('QMAILMFTFILE', '/dev/fd/%d' % out)
    assert inject_(b'', b'To: list@l.org, a@b.c\n\n') == 0
    os.close(out)
    assert b'\nMail-Followup-To: list@l.org,\n  a@b.c\n' in queue.message


# --- the process ---------------------------------------------------------------------------------------------

def launch(home, name, *words, shell=None, **more):
    """A real process: the launcher called `name`."""
    program = str(ROOT / 'bin' / name)
    environ = {'QPYHOME': os.fsdecode(home), **more.pop('env', {})}
    argv = ['/bin/sh', '-c', shell.replace('PROGRAM', program)] if shell else [program, *words]
    return subprocess.run(argv, env=environ, capture_output=True, timeout=30, **more)


@pytest.mark.parametrize('shell', ['exec PROGRAM -n a >%s <%s', 'exec PROGRAM -n a >%s 2>&- <%s'])
def test_closed_descriptors(home, tmp_path, shell):
    """9: closed descriptors are filled with /dev/null before anything is opened; leaked ones do no harm."""
    (tmp_path / 'in').write_text('A: 1\n\nbody\n')
    out = tmp_path / 'out'
    result = launch(home, 'qpy-inject', shell=shell % (out, tmp_path / 'in'))
    assert result.returncode == 0 and out.read_text().endswith('A: 1\n\nbody\n')
    assert launch(home, 'qpy-inject',
                  shell='exec PROGRAM -n a 5</etc/passwd <%s >&- 2>&-' % (tmp_path / 'in')).returncode == 0


@pytest.mark.parametrize('words, where', [((), b'the header'), (('-a',), b'the arguments'),
                                          (('-H', ''), b'the arguments or the header'), (('-h', 'a@b'), b'the header')])
def test_inject_for_nobody(home, words, where):
    """S-02: a message without recipients is refused, where qmail-inject lets it vanish; -n shows it all the same."""
    result = launch(home, 'qpy-inject', *words, input=b'Subject: s\nTo: nobody here: ;\n\nbody\n', env={'QMAILQUEUE': '/bin/true'})
    assert result.returncode == 100 and result.stderr == b'qpy-inject: fatal: no recipients in ' + where + b'\n'
    assert launch(home, 'qpy-inject', '-n', *words, input=b'\n').returncode == 0


def test_closed_input(home):
    """S-05: no descriptor 0 at all is a read error, not an empty message."""
    result = launch(home, 'qpy-inject', shell='exec PROGRAM -n a <&-')
    assert result.returncode == 111 and b'read error' in result.stderr
    result = launch(home, 'qpy-sendmail', shell='exec PROGRAM a <&- >&- 2>&-')
    assert result.returncode == 74


@pytest.mark.parametrize('name', ['qpy-queue', 'qpy-inject', 'qpy-sendmail', 'qpy-mailq'])
def test_directory_as_input(home, name):
    """Of a directory Python itself says that it cannot go on, and exits 1: the pages say so, our callers try later."""
    assert launch(home, name, shell='exec PROGRAM a </').returncode == 1
    with open('%s/man/%s.%d' % (ROOT, name, 1 if name == 'qpy-mailq' else 8)) as page:
        assert 'descriptor 0 is a directory' in page.read().partition('.Sh EXIT STATUS')[2]
    assert exits.queue_text(1).startswith(b'Z')


def test_deleted_directory(home, tmp_path):
    """10: a working directory that is gone, an empty environment, non-UTF-8 words."""
    shell = 'mkdir %s/gone && cd %s/gone && rmdir %s/gone && exec env -i QPYHOME=%s PROGRAM -n "\xff\xfe@x"' % (
        tmp_path, tmp_path, tmp_path, os.fsdecode(home))
    result = launch(home, 'qpy-inject', shell=shell, input=b'')
    assert result.returncode == 0 and result.stdout.startswith(b'Return-Path: <')


def test_input_in_the_middle(home, tmp_path):
    """11: a file is read from where it stands."""
    (tmp_path / 'in').write_text('skipped\nA: 1\n\n')
    result = launch(home, 'qpy-inject', shell='(read x; exec PROGRAM -n a) <%s' % (tmp_path / 'in'))
    assert b'skipped' not in result.stdout and b'A: 1' in result.stdout


def test_file_size_limit(home):
    """S-17: a caller whose files may not grow is told to try again."""
    launch(home, 'qpy-sendmail', shell='exec PROGRAM a', input=BIG)     # compiles what was not yet: Python would write half a file
    result = launch(home, 'qpy-sendmail', shell='ulimit -f 1; exec PROGRAM a', input=BIG)
    assert result.returncode == 75 and b'File too large' in result.stderr and result.stderr.count(b'\n') == 1


def test_terminated_while_reading(home):
    """16: a signal in the middle of the input queues nothing and is seen as a signal; ^C too."""
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen([str(ROOT / 'bin/qpy-inject'), '-n', 'a'],
                                   env={'QPYHOME': os.fsdecode(home)},
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write(b'A: 1\n\nx')
        process.stdin.flush()
        assert process.stdout.read(1) == b'R'                   # it is in the body
        process.send_signal(number)
        assert process.wait(10) == -number
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize('shell', ['PROGRAM -bt %s' % ' '.join('a%d@x.org' % i for i in range(3000)),
                                   'yes x | PROGRAM -n a'])
def test_reader_that_stops(home, shell):
    """12: who prints into a pipe that nobody reads is ended by SIGPIPE, quietly, as `mailq | head` expects."""
    pathlib.Path(os.fsdecode(home), 'alias').mkdir()
    name = 'qpy-sendmail' if '-bt' in shell else 'qpy-inject'
    shell = '(%s; echo $? >&2) | head -1' % shell
    result = launch(home, name, shell=shell)
    assert result.returncode == 0 and result.stdout.count(b'\n') == 1 and result.stderr == b'141\n'


@pytest.mark.parametrize('name,code', [('qpy-newaliases', 0), ('newaliases', 0), ('runq', 0), ('rsmtp', 64),
                                       ('smtpd', 64)])
def test_name_dispatch(home, tmp_path, name, code):
    """14: a link by another name is another command; the launcher finds its code through links."""
    link = tmp_path / name
    link.symlink_to(ROOT / 'bin/qpy-sendmail')
    result = subprocess.run([str(link)], env={'QPYHOME': os.fsdecode(home)}, capture_output=True, input=b'',
                            timeout=30)
    assert result.returncode == code


def test_modules():
    """What sendmail loads before it queues is a short list: no re, socket, email, argparse."""
    probe = ('import sys; sys.path.insert(0, %r); before = set(sys.modules); import qpy.user.sendmail, qpy.lib.submit; '
             'print(*sorted(set(sys.modules) - before))' % str(ROOT))
    loaded = subprocess.run(['/usr/bin/python3', '-IS', '-c', probe], capture_output=True,
                            text=True).stdout.split()
    assert not {'re', 'socket', 'email', 'argparse', 'collections', 'heapq', 'threading', 'selectors',
                'pwd'} & set(loaded)


def test_exit_codes_are_sysexits():
    """Every code that sendmail uses stands in the table of sysexits."""
    assert {exits.EX_USAGE, exits.EX_DATAERR, exits.EX_UNAVAILABLE, exits.EX_OSFILE, exits.EX_IOERR,
            exits.EX_TEMPFAIL} \
        == {64, 65, 69, 72, 74, 75}
    assert sys.version_info >= (3, 11)


# --- the small ones ------------------------------------------------------------------------------------------

def test_mailsubj(home, queue):
    """mailsubj: a subject, recipients, and the text; a subject of several lines stays one field."""
    from qpy.user import mailsubj
    assert with_stdin(b'text: not a field\n', lambda: mailsubj.run(home,
        [b'two\nBcc: x', b'joe', b'Mary <m@x.y>'])) == 0
    assert queue.field(b'Subject') == b'two Bcc: x' and queue.body == b'text: not a field\n'
    assert sorted(queue.recipients) == [b'joe@host.example.com', b'm@x.y']
    assert mailsubj.run(home, [b'alone']) == 100


def test_predate(home):
    """predate: a Date in local time goes before the input; the program's exit code is ours."""
    result = launch(home, 'qpy-predate', '/bin/sh', '-c', 'cat; exit 7', input=b'A: 1\n\nx',
                    env={'TZ': 'XYZ-05:30'})
    date, _, rest = result.stdout.partition(b'\n')
    assert result.returncode == 7 and rest == b'A: 1\n\nx'
    assert date.startswith(b'Date: ') and date.endswith(b' +0530')
    assert launch(home, 'qpy-predate').returncode == 100
    assert launch(home, 'qpy-predate', 'no-such-program', input=b'').returncode == 100
    assert launch(home, 'qpy-predate', '/bin/true', input=b'x' * 1_000_000).returncode == 0
    assert launch(home, 'qpy-predate', '/bin/sh', '-c', 'kill -9 $$', input=b'').returncode == 111


def test_datemail(home, tmp_path):
    """datemail: predate in front of sendmail, which then adds no Date of its own."""
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin/qpy-sendmail').write_text('#!/bin/sh\necho "$@"; cat\n')
    (tmp_path / 'bin/qpy-sendmail').chmod(0o755)
    result = launch(home, 'qpy-datemail', '-t', 'a', input=b'To: b\n\n', env={'TZ': 'UTC3'})
    assert result.returncode == 0 and result.stdout.startswith(b'-t a\nDate: ') and b' -0300\nTo: b\n' in result.stdout


@pytest.mark.parametrize('variable, said', [(None, 'the queue cannot be reached (does qpy-queued run?): connection'), ('QMAILQUEUE', 'fatal: connection')])
def test_who_cannot_be_reached(send, queue, capfd, monkeypatch, variable, said):
    """Code 73 of the queue itself says that qpy-queued is not there; a filter's speaks of what the filter could not reach."""
    if variable:
        monkeypatch.setenv(variable, '/usr/local/bin/filter')
    queue.answer = 73, b'Zconnection to mail server rejected (#4.4.1)'
    assert send(b'joe') == exits.EX_TEMPFAIL
    assert said in capfd.readouterr().err
