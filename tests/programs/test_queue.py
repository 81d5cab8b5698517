"""qpy-queue and qpy-queued as processes, and lib.submit: what is acknowledged is there, whole; what is not is not."""
import os
import re
import signal
import subprocess

import pytest

from qpy import unix
from qpy.core import exits, mess
from qpy.lib import loop, packets, queuefile, spool, submit
from tests.peers import queued as rig

MESSAGE = b'Subject: x\n\nbody\n'


@pytest.fixture
def home():
    """A rootless DIR with its queue."""
    with rig.temporary_home() as made:
        yield made


@pytest.fixture
def daemon(home):
    """queued, serving home."""
    started = rig.Daemon(home, 'queued', [b'submit', b'new'])
    yield started
    started.kill()


def stored(home, ident):
    """(message, Envelope) of queue/mess/ident."""
    with open(home + b'/queue/mess/' + ident, 'rb') as file:
        return mess.unpack(file.read(), ident)


def listing(home):
    """The names in queue/mess."""
    return sorted(os.listdir(home + b'/queue/mess'))


def qpy_queue(home, message, envelope, **environ):
    """Run bin/qpy-queue: (exit code, what it printed)."""
    body, envelope_in = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            out = os.open(home + b'/printed', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            a, b = os.dup(body[0]), os.dup(envelope_in[0])
            os.dup2(a, 0)
            os.dup2(b, 1)
            os.dup2(out, 2)
            os.closerange(3, 100)
            os.execve(rig.PYTHON, [rig.PYTHON, '-IS', rig.SOURCE + '/bin/qpy-queue'],
                      {'QPYHOME': os.fsdecode(home), **environ})
        finally:
            os._exit(99)
    os.close(body[0])
    os.close(envelope_in[0])
    for fd, data in ((body[1], message), (envelope_in[1], envelope)):
        try:
            while data:
                data = data[os.write(fd, data):]
        except BrokenPipeError:
            pass
        os.close(fd)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(home + b'/printed', 'rb') as file:
        return code, file.read()


# --- qpy-queue: qmail-queue's interface ---

@pytest.mark.parametrize('message', [b'', MESSAGE, b'\0\r\n.\n\xff' * 1000, b'x' * 3_000_000], ids=['empty', 'small', 'binary', 'long'])
def test_a_message_is_stored_byte_for_byte_behind_one_received_line(home, daemon, message):
    """Exit 0: message and envelope are in the queue, with who the kernel says the caller was, and nothing is printed."""
    assert qpy_queue(home, message, b'Fa@b\0Tc@d\0Te@f\0\0') == (0, b'')
    [ident] = listing(home)
    content, envelope = stored(home, ident)
    received, _, rest = content.partition(b'\n')
    pid = envelope.option(b'p')
    assert rest == message and received.startswith(b'Received: (qpy %s invoked by uid %d); ' % (pid, os.getuid()))
    assert (envelope.sender, envelope.recipients) == (b'a@b', [b'c@d', b'e@f'])
    assert envelope.option(b'u') == b'%d' % os.getuid()
    assert os.stat(home + b'/queue/mess/' + ident).st_mode & 0o7777 == 0o640


LONG = b'x' * 1002


@pytest.mark.parametrize('said, options', [(b'', [b'U', b'Q']), (b'Q\0', [b'U', b'Q']), (b'X1\0', [b'U', b'Q', b'X'])])
def test_what_a_delivery_asks_for(home, daemon, said, options):
    """Of QPYENVELOPE REQUIRETLS and SMTPUTF8 hold for what a delivery's program queues, once, and nothing else."""
    asked = 'X9\nU\nQ\nRFULL\nhheld\nTmallory@x\nNNEVER'
    assert qpy_queue(home, MESSAGE, b'Fa@b\0' + said + b'Tc@d\0\0', QPYENVELOPE=asked) == (0, b'')
    envelope = stored(home, listing(home)[0])[1]
    assert [letter for letter, _ in envelope.options if letter not in mess.STAMPED] == options
    assert envelope.recipients == [b'c@d'] and not envelope.recipient_options[0]


@pytest.mark.parametrize('envelope, code', [
    (b'F\0\0', 0), (b'Fa\0\0Tignored', 0), (b'F' + LONG + b'\0T' + LONG + b'\0\0', 0), (b'Fa\0XT1\0Tb\0NNEVER\0\0', 0),
    (b'', 54), (b'Fa', 54), (b'Fa\0', 54), (b'Fa\0Tb', 54), (b'Fa\0Tb\0', 54),
    (b'\0', 91), (b'Ta\0Fb\0\0', 91), (b'Xa\0', 91), (b'Fa\0Xb\0Yc\0\0', 91), (b'Fa\0Fb\0\0', 91), (b'Fa\0 b\0\0', 91),
    (b'F' + LONG + b'x\0Tb\0\0', 11), (b'Fa\0T' + LONG + b'x\0\0', 11), (b'F' + LONG * 3, 11),
    (b'Fa\0Tb\nc\0\0', 31),
])
def test_envelopes_and_exit_codes(home, daemon, envelope, code):
    """S-16: exactly qmail-queue's reading of descriptor 1; whatever is refused leaves nothing in the queue."""
    assert qpy_queue(home, MESSAGE, envelope) == (code, b'')
    assert len(listing(home)) == (code == 0)


def test_without_queued_it_is_a_temporary_failure(home):
    """S-11: no socket: 73; no queue: 62; no DIR: 61; all of them temporary, nothing printed."""
    assert qpy_queue(home, MESSAGE, b'Fa\0Tb\0\0') == (73, b'')
    os.rename(home + b'/queue/mess', home + b'/queue/elsewhere')
    assert qpy_queue(home, MESSAGE, b'Fa\0Tb\0\0') == (62, b'')
    assert qpy_queue(home, MESSAGE, b'Fa\0Tb\0\0', QPYHOME='/nonexistent')[0] == 61


@pytest.mark.root
def test_an_impostor_hears_nothing(home):
    """S-11, P18: a socket served by another uid gets no byte of the message."""
    other = 61999
    for name in (b'', b'/queue', b'/queue/mess'):
        os.chown(home + name, other, other)
    listening = rig.listen(home, b'submit')
    ready, heard = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setresuid(other + 1, other + 1, other + 1)
        listening.listen(1)
        os.write(ready[1], b'.')
        connection = listening.accept()[0]
        os.write(heard[1], b'<' + connection.recv(100) + b'>')
        os._exit(0)
    listening.close()
    os.read(ready[0], 1)
    assert submit.send(home, b'a', [b'b'], MESSAGE) == (73, exits.queue_text(73))
    assert os.read(heard[0], 200) == b'<>'
    os.waitpid(child, 0)
    for fd in ready + heard:
        os.close(fd)


@pytest.mark.root
def test_from_inside_a_user_namespace(home, daemon):
    """S-15, P17: a caller that calls itself root in a namespace of its own is recorded with its real uid; there the
    queue's owner looks like nobody, and is accepted because DIR is out of the caller's reach too."""
    process = subprocess.run(['unshare', '-Ur', rig.PYTHON, '-IS', '-c',
                              'import sys; sys.path.insert(0, %r)\nfrom qpy.lib import submit\n'
                              'print(submit.send(%r, b"a", [b"b"], b"x"), flush=True)' % (rig.SOURCE, home)],
                             user=61998, group=61998, extra_groups=[], capture_output=True, cwd='/')
    if b'unshare' in process.stderr:
        pytest.skip('user namespaces are not allowed here')
    assert process.stdout.startswith(b"(0, b'"), process
    assert stored(home, listing(home)[0])[1].option(b'u') == b'61998'


def test_interrupts_do_not_end_it(home, daemon):
    """S-08: INT and HUP are ignored as by qmail-queue: the message goes through."""
    body, envelope = os.pipe(), os.pipe()
    process = subprocess.Popen([rig.PYTHON, '-IS', rig.SOURCE + '/bin/qpy-queue'], stdin=body[0], stdout=envelope[0],
                               env={'QPYHOME': os.fsdecode(home)})
    os.close(body[0])
    os.close(envelope[0])
    os.write(body[1], b'x' * 65536 + MESSAGE)        # more than a pipe holds: it has begun to read
    for number in (signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    os.close(body[1])
    os.write(envelope[1], b'Fa\0Tb\0\0')
    os.close(envelope[1])
    assert process.wait(20) == 0 and len(listing(home)) == 1


def test_the_spool_has_no_name(monkeypatch, tmp_path):
    """What is too long for memory waits in a file that no name leads to, also where O_TMPFILE is unknown."""
    places = b'/nonexistent', os.fsencode(tmp_path)
    real = os.open

    def without_tmpfile(path, flags, *mode, **more):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, 'Operation not supported')
        return real(path, flags, *mode, **more)
    for opening in (real, without_tmpfile):
        monkeypatch.setattr(spool.unix, 'open', opening)
        fd = spool.nameless(places)
        os.write(fd, b'x')
        assert os.listdir(tmp_path) == [] and os.fstat(fd).st_nlink == 0
        os.close(fd)
    with pytest.raises(FileNotFoundError):
        spool.nameless((b'/nonexistent',))


@pytest.mark.parametrize('closed', [0, 1])
def test_missing_descriptors_are_read_errors(home, daemon, closed):
    """S-05: descriptor 0 or 1 closed: 54; a directory: whatever Python says about it, which is temporary."""
    for how, expected in (('exec %d<&-' % closed, {54}), ('exec %d</' % closed, {1, 54})):
        code = subprocess.run(['/bin/sh', '-c', how + '; exec ' + rig.PYTHON + ' -IS ' + rig.SOURCE + '/bin/qpy-queue'],
                              env={'QPYHOME': os.fsdecode(home)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).returncode
        assert code in expected
    assert listing(home) == []


# --- lib.submit ---

def test_send_takes_bytes_descriptors_and_iterables(home, daemon, tmp_path):
    """Each form of a message arrives the same, small and long; options and recipients' options too."""
    for size in (0, 10, 300_000):
        body = b'y' * size
        (tmp_path / 'file').write_bytes(body)
        fd = os.open(tmp_path / 'file', os.O_RDONLY)
        for message in (body, fd, iter([body[:5], b'', body[5:]])):
            code, ident = submit.send(home, b'a', [b'b', b'c'], message, [(b'X', b'7')], [[(b'N', b'NEVER')], ()])
            assert code == 0
            content, envelope = stored(home, ident)
            assert content.partition(b'\n')[2] == body
            assert envelope.option(b'X') == b'7' and envelope.recipient_option(0, b'N') == b'NEVER'
        os.close(fd)


def test_what_the_callers_iterable_raises_is_passed_on_and_nothing_is_queued(home, daemon):
    """A caller that gives up halfway leaves nothing behind."""
    def pieces():
        yield b'half'
        raise KeyError('no more')
    with pytest.raises(KeyError):
        submit.send(home, b'a', [b'b'], pieces())
    assert submit.send(home, b'a', [b'b'], 987_654)[0] == exits.QQ_READ         # a descriptor that is none
    assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0
    assert len(listing(home)) == 1


def test_rootless_qpyd_is_believed_and_send_hears_of_it(home, daemon):
    """new: first <N, then every ID once it is durable, in rising order, all at or above N."""
    ears = rig.connect(home, b'new')
    first = ears.recv(100)
    assert first[:1] == b'<' and first[-1:] == b'\0' and mess.is_id(first[1:-1])
    with rig.as_owner():
        idents = [submit.send(home, b'a', [b'b'], MESSAGE, [(b'P', b'ESMTP')])[1] for _ in range(5)]
    heard = b''
    while heard.count(b'\0') < 5:
        heard += ears.recv(1000)
    assert heard == b'\0'.join(idents) + b'\0' and idents == sorted(idents) and idents[0] >= first[1:-1]
    assert stored(home, idents[0])[1].option(b'P') == b'ESMTP'


PID = rb'[0-9]+'
FILTER = b'''#!/bin/sh
cat > message; cat <&1 > envelope; echo "$ERROR_FD" > error_fd
'''


@pytest.mark.parametrize('name, tail, expected', [
    ('QMAILQUEUE', b'exit 0', (0, PID)), ('QPYQUEUE', b'exit 0', (0, PID)),
    ('QMAILQUEUE', b'exit 31', (31, re.escape(b'Dmail server permanently rejected message (#5.3.0)'))),
    ('QMAILQUEUE', b'echo "Dspam, no thanks (#5.7.1)" >&6; exit 82', (82, re.escape(b'Dspam, no thanks (#5.7.1)\n'))),
    ('QMAILQUEUE', b'exit 1', (1, re.escape(b'Zqq temporary problem (#4.3.0)'))),
    ('QMAILQUEUE', b'exit 82', (82, re.escape(b'Zqq temporary problem (#4.3.0)'))),
    ('QMAILQUEUE', b'kill -9 $$', (81, re.escape(b'Zqq crashed (#4.3.0)'))),
    ('QMAILQUEUE', b'exit 40', (40, re.escape(b'Dqq permanent problem (#5.3.0)'))),
])
def test_filters(home, monkeypatch, name, tail, expected):
    """QMAILQUEUE sees F and T, QPYQUEUE every record; both the end mark; exit codes and descriptor 6 are the table's."""
    with open(home + b'/filter', 'wb') as file:
        file.write(FILTER + tail + b'\n')
    os.chmod(home + b'/filter', 0o755)
    monkeypatch.setenv(name, './filter')             # relative: from DIR
    code, text = submit.send(home, b'a', [b'b'], MESSAGE, [(b'X', b'7')], [[(b'N', b'NEVER')]])
    assert code == expected[0] and re.fullmatch(expected[1], text)
    with open(home + b'/message', 'rb') as file:
        assert file.read() == MESSAGE
    with open(home + b'/envelope', 'rb') as file:
        assert file.read() == (b'Fa\0Tb\0\0' if name == 'QMAILQUEUE' else b'Fa\0X7\0Tb\0NNEVER\0\0')
    with open(home + b'/error_fd', 'rb') as file:
        assert file.read() == b'6\n'


def test_what_stands_in_the_place_of_qmail_queue_is_obeyed(home, monkeypatch):
    """A null client's link to another program, or a scanner under the name bin/qmail-queue, gets the mail as QMAILQUEUE
    does; our own link, and none, change nothing; another filter comes first."""
    monkeypatch.delenv('QMAILQUEUE', raising=False)
    monkeypatch.delenv('QPYQUEUE', raising=False)
    os.mkdir(home + b'/bin')
    path = home + b'/bin/qmail-queue'
    with open(home + b'/bin/scanner', 'wb') as file:
        file.write(FILTER + b'exit 31\n')
    os.chmod(home + b'/bin/scanner', 0o755)
    for make, obeyed in ((lambda: None, False), (lambda: os.symlink('qpy-queue', path), False),
                         (lambda: os.symlink('scanner', path), True), (lambda: os.rename(home + b'/bin/scanner', path), True)):
        make()
        assert (submit.send(home, b'a', [b'b'], MESSAGE, [(b'X', b'7')])[0] == 31) == obeyed
        if os.path.islink(path):
            os.unlink(path)
    with open(home + b'/envelope', 'rb') as file:
        assert file.read() == b'Fa\0Tb\0\0'
    monkeypatch.setenv('QPYQUEUE', '/bin/true')
    assert submit.send(home, b'a', [b'b'], MESSAGE)[0] == 0


def test_a_filter_that_cannot_run_or_does_not_read(home, monkeypatch):
    """120 without exec; a filter may leave without reading a long message; an aborted one sees no end mark."""
    monkeypatch.setenv('QPYQUEUE', './missing')
    assert submit.send(home, b'a', [b'b'], MESSAGE) == (120, b'Zunable to exec qq (#4.3.0)')
    monkeypatch.setenv('QPYQUEUE', '/bin/true')
    code, pid = submit.send(home, b'a', [b'b'], b'x' * 1_000_000)
    assert code == 0 and pid.isdigit()
    with open(home + b'/filter', 'wb') as file:
        file.write(FILTER)
    os.chmod(home + b'/filter', 0o755)
    monkeypatch.setenv('QPYQUEUE', './filter')

    def pieces():
        yield b'half'
        raise KeyError('no more')
    with pytest.raises(KeyError):
        submit.send(home, b'a', [b'b'], pieces())
    with open(home + b'/envelope', 'rb') as file:
        assert file.read() == b''


def test_a_connection_in_a_loop_carries_many_messages(home, daemon):
    """Whole and streamed messages, one abandoned, one refused, pipelined on one connection: answers come in order."""
    events = loop.Loop()
    connection = submit.Connection(events, submit.connect(home))
    answers = []
    envelope = submit.submit.envelope(b'a', [b'b'])
    for i in range(50):
        connection.message(b'%d\n' % i, envelope, lambda *answer: answers.append(answer))
    connection.write(b'begun')
    connection.abandon()
    connection.write(b'z' * 200_000)
    connection.write(b'z' * 200_000)
    connection.finish(envelope, lambda *answer: answers.append(answer))
    connection.message(b'', submit.submit.envelope(b'a', [b'b\n']), lambda *answer: answers.append(answer))
    connection.message(b'last', envelope, lambda *answer: answers.append(answer))
    while len(answers) < 53:
        events.step(20)
    assert [code for code, _ in answers] == [0] * 51 + [31, 0] and connection.backlog == 0
    bodies = [stored(home, ident)[0].partition(b'\n')[2] for code, ident in answers if code == 0]
    assert bodies == [b'%d\n' % i for i in range(50)] + [b'z' * 400_000, b'last']
    lost = []
    connection.on_lost = lambda: lost.append(True)
    connection.message(b'x', envelope, lambda *answer: answers.append(answer))
    daemon.kill()
    while not lost:
        events.step(20)
    assert answers[-1][0] in (0, 74) and len(answers) == 54


class Passes:
    """A loop whose passes a test makes."""

    def __init__(self):
        self.soon, self.readable = [], None

    def call_soon(self, callback):
        """In pass_on()."""
        self.soon.append(callback)

    def watch(self, fd, readable, writable=None):
        """Called by the test."""
        self.readable = readable

    def forget(self, fd):
        """No more."""
        self.readable = None

    def pass_on(self):
        """Do what was to be done soon."""
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


def test_an_answer_that_came_before_the_end_counts():
    """S-11: queued takes a message, says so, and is gone: whoever finds that out by writing hears the yes first, so that
    nobody sends it again; what queued has not answered is unknown."""
    events, answers, lost = Passes(), [], []
    ours, theirs = unix.socketpair(unix.SOCK_STREAM)
    theirs.setblocking(False)
    connection = submit.Connection(events, ours, lambda: lost.append(True))
    envelope = submit.submit.envelope(b'a', [b'b'])
    connection.message(MESSAGE, envelope, lambda *answer: answers.append(answer))
    events.pass_on()
    assert theirs.recv(1000)
    theirs.send(submit.submit.accepted(b'1764036974123456'))
    theirs.close()
    connection.message(MESSAGE, envelope, lambda *answer: answers.append(answer))
    events.pass_on()
    assert answers == [(0, b'1764036974123456')] and not lost
    events.readable()
    assert answers[1][0] == 74 and lost == [True]


# --- lib.queuefile ---

@pytest.mark.parametrize('size', [10, 70_000, 2_500_000])
def test_queue_files_are_read_back_and_damage_is_seen(home, daemon, size):
    """open_mess gives message length and envelope; any torn or altered file is Damaged when verified."""
    ident = submit.send(home, b'a', [b'b'], b'm' * size)[1]
    directory = os.open(home + b'/queue/mess', os.O_RDONLY)
    found = queuefile.open_mess(directory, ident)
    assert os.pread(found.fd, found.size, 0).endswith(b'm' * size) and found.envelope.recipients == [b'b']
    assert (found.message is None) == (size > 60_000)
    found.close()
    path = home + b'/queue/mess/' + ident
    with open(path, 'r+b') as file:
        file.seek(size // 2)
        file.write(b'X')
    with pytest.raises(mess.Damaged):
        queuefile.open_mess(directory, ident)
    os.truncate(path, size // 2)
    with pytest.raises(mess.Damaged):
        queuefile.open_mess(directory, ident)
    os.truncate(path, 3)
    with pytest.raises(mess.Damaged):
        queuefile.open_mess(directory, ident, verify=False)
    with pytest.raises(FileNotFoundError):
        queuefile.open_mess(directory, b'1' * 16)
    with pytest.raises(mess.Damaged):
        queuefile.open_mess(directory, b'../../etc/passwd')
    os.close(directory)


def test_wrong_peer_is_an_error_without_a_word(home, monkeypatch):
    """connect() refuses a server of another uid."""
    listening = rig.listen(home, b'submit')
    monkeypatch.setattr(packets, 'queue_owner', lambda home: 4242)
    monkeypatch.setattr(packets.unix, 'peercred', lambda sock: (1, 4243, 4243))
    with pytest.raises(packets.WrongPeer):
        submit.connect(home)
    listening.close()
