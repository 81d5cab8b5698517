"""qpy-clean: two verbs, canonical IDs, and it checks what it is told."""
import os

import pytest

from qpy.core import mess, state
from tests.peers import queued as rig

IDENT = b'1764036974123456'


@pytest.fixture
def home():
    """A rootless DIR with its queue."""
    with rig.temporary_home() as made:
        yield made


@pytest.fixture
def clean(home):
    """clean, serving home."""
    started = rig.Daemon(home, 'clean', [b'clean'])
    yield started
    started.kill()


def put(home, directory, name, data):
    """A file in the queue."""
    path = home + b'/queue/' + directory + b'/' + name
    with open(path, 'wb') as file:
        file.write(data)
    os.chmod(path, 0o644)
    if os.geteuid() == 0:
        os.chown(path, rig.OWNER, rig.OWNER)


def whole(recipients=2, ident=IDENT):
    """A queue file with so many recipients."""
    return mess.pack(b'x\n', mess.Envelope(b'a', [b'r%d' % i for i in range(recipients)]).build(), ident)


def ask(home, requests):
    """What clean answers."""
    with rig.as_owner():
        sock = rig.connect(home, b'clean')
    sock.sendall(requests)
    sock.shutdown(1)
    heard = b''
    while data := sock.recv(1000):
        heard += data
    sock.close()
    return heard


def exists(home, directory=b'mess', name=IDENT):
    """Is it there?"""
    return os.path.exists(home + b'/queue/' + directory + b'/' + name)


def test_removing(home, clean):
    """Without state/ID the message goes on send's word; what is gone already is done; many requests, many answers."""
    put(home, b'mess', IDENT, whole())
    put(home, b'mess', b'1764036974123457', whole(ident=b'1764036974123457'))
    assert ask(home, b'r%s\0r%s\0r%s\0' % (IDENT, b'1764036974123457', IDENT)) == b'+++'
    assert os.listdir(home + b'/queue/mess') == []


HISTORIES = [([(b'd', b'0'), (b'd', b'1')], b'+'), ([(b'd', b'0'), (b'f', b'1', b'no'), (b'r', b'1')], b'+'),
             ([], b'x'), ([(b'd', b'0')], b'x'), ([(b'd', b'0'), (b'f', b'1', b'no')], b'x'), ([(b'd', b'0'), (b'd', b'7')], b'x')]


@pytest.mark.parametrize('history, answer', HISTORIES)
@pytest.mark.parametrize('torn', [b'', b'\0\0\0\x05d'])
def test_with_a_state_file_only_finished_messages_go(home, clean, history, answer, torn):
    """P23: state/ID must say that every recipient is finished, else the message stays."""
    put(home, b'mess', IDENT, whole())
    put(home, b'state', IDENT, b''.join(state.entry(IDENT, *fact) for fact in history) + torn)
    assert ask(home, b'r' + IDENT + b'\0') == answer
    assert exists(home) is (answer == b'x') and exists(home, b'state')


def test_a_state_file_without_a_readable_message_is_no_reason_to_remove(home, clean):
    """A damaged or newer mess/ID with a state file stays."""
    put(home, b'state', IDENT, b''.join(state.entry(IDENT, b'd', b'%d' % i) for i in range(2)))
    for data in (b'garbage', whole()[:-1], whole().replace(b'qpy1 ', b'qpy9 ')):
        put(home, b'mess', IDENT, data)
        assert ask(home, b'r' + IDENT + b'\0') == b'x' and exists(home)


@pytest.mark.parametrize('request_', [
    b'', b'r', b's', b'r1', b'q' + IDENT, b'R' + IDENT, b'r' + IDENT + b'0', b'r' + IDENT[:-1], b'r' + IDENT[:-1] + b'a', b'r../../../../etc/x',
    b'r' + IDENT[:-5] + b'.part', b'r ' + IDENT[1:], b'r' + IDENT[:-1] + b'\n', b'foop/' + IDENT, b'r' + b'\xd9\xa1' * 8])
def test_nothing_but_the_two_verbs_and_canonical_ids(home, clean, request_):
    """P22: each malformed request is refused, changes nothing, and the next one is answered."""
    put(home, b'mess', IDENT, whole())
    put(home, b'mess', IDENT[:-5] + b'.part', b'x')
    assert ask(home, request_ + b'\0' + b'r' + IDENT[:-5] + b'00000\0') == b'x+'
    assert exists(home) and exists(home, name=IDENT[:-5] + b'.part')


def test_an_endless_request_ends_the_connection(home, clean):
    """P-01, INV7."""
    put(home, b'mess', IDENT, whole())
    assert ask(home, b'r' + IDENT + b'5' * 30) == b'x' and exists(home)


@pytest.mark.parametrize('data, answer', [
    (whole(), b'x'), (whole().replace(b'qpy1 ', b'qpy2 '), b'x'), (b'', b'+'), (whole()[:-3], b'+'), (b'\0' * 500, b'+'),
    (whole(ident=b'1764036974123457'), b'+')])
def test_setting_aside(home, clean, data, answer):
    """Only what is not whole is set aside, with a warning, never over a file that is in damaged already."""
    put(home, b'mess', IDENT, data)
    put(home, b'damaged', IDENT, b'earlier')
    assert ask(home, b's' + IDENT + b'\0') == answer
    assert exists(home) is (answer == b'x')
    if answer == b'+':
        with open(home + b'/queue/damaged/' + IDENT + b'.1', 'rb') as file:
            assert file.read() == data
        assert b'damaged' in clean.log()
    with open(home + b'/queue/damaged/' + IDENT, 'rb') as file:
        assert file.read() == b'earlier'


@pytest.mark.root
def test_strangers_are_not_heard(home, clean):
    """The socket's mode keeps others out, and so does clean: here uid 61999 gets no answer and nothing is removed."""
    put(home, b'mess', IDENT, whole())
    os.setegid(61999)
    os.seteuid(61999)
    try:
        sock = rig.connect(home, b'clean')
    finally:
        os.seteuid(0)
        os.setegid(0)
    try:
        sock.sendall(b'r' + IDENT + b'\0')
        assert sock.recv(10) == b''
    except OSError:
        pass
    assert exists(home)


def test_a_failing_unlink_is_answered_later(home, clean):
    """What cannot be removed just now is `!`: a directory in its place stands for every such reason."""
    os.mkdir(home + b'/queue/mess/' + IDENT)
    assert ask(home, b'r' + IDENT + b'\0') == b'!'
    assert b'unable to remove ' + IDENT in clean.log()


def test_it_ends_with_the_chain(home, clean):
    """The life pipe's end is its end, with exit code 0; TERM and INT are not."""
    assert ask(home, b'?\0') == b'x'
    for number in (2, 15, 1):
        os.kill(clean.pid, number)
    assert clean.end() == 0
