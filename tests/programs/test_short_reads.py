"""Q-07: a pread that gives less than there is, and less than was asked for, is the end of nothing."""
import os
import pathlib
import re

import pytest

from qpy import unix
from qpy.core import cdb as cdb_format, mess
from qpy.lib import cdb, queuefile
from qpy.qpyr import source
from qpy.user import delivery, mailbox, maildir2mbox

IDENT = b'1764000000000000'
MESSAGE = b'Received: by x\nSubject: short\n\n' + b'a line of text\n' * 50
ENVELOPE = mess.Envelope(b'a@b', [b'c@d']).build()
#: where a single pread is asked for more until there is no more
LOOPS = {'unix.py', 'user/mailbox.py', 'lib/queuefile.py', 'qpyc/filters.py'}


@pytest.fixture(params=[1, 7, 100])
def short(request, monkeypatch):
    """Each pread gives so many bytes at most."""
    real = unix.pread
    monkeypatch.setattr(unix, 'pread', lambda fd, size, offset: real(fd, min(size, request.param), offset))


@pytest.fixture
def queue(tmp_path):
    """A descriptor of a directory with one message."""
    (tmp_path / IDENT.decode()).write_bytes(mess.pack(MESSAGE, ENVELOPE, IDENT))
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_a_queue_file(short, queue):
    """It is whole, and not set aside as damaged."""
    queuefile.check_footer(queue, IDENT)
    found = queuefile.open_mess(queue, IDENT)
    assert (found.message, found.envelope.recipients) == (MESSAGE, [b'c@d'])
    carried = source.Source(found.fd, 0, len(MESSAGE))
    assert carried.envelope().recipients == [b'c@d'] and carried.read() == MESSAGE
    found.close()


@pytest.mark.parametrize('lines', [50, 10_000])
def test_a_message_for_a_user(short, lines):
    """What a short one is delivered from is all of it; whether a loop is looked for in all of it too."""
    text = MESSAGE * (lines // 50)
    fd = unix.memfd(text)
    whole = delivery.look_for_loop(fd, b'Delivered-To: joe@x\n')
    assert whole is None if len(text) >= delivery.WHOLE else whole == text
    os.close(fd)
    looping = unix.memfd(b'Received: by x\nDelivered-To: joe@x\n\n' + text)
    with pytest.raises(mailbox.Failed) as found:
        delivery.look_for_loop(looping, b'Delivered-To: joe@x\n')
    assert found.value.code == 100
    os.close(looping)


def test_an_mbox(short, tmp_path):
    """What it ends in decides how the next message begins; the sender of a message that is moved there is known."""
    path = tmp_path / 'mbox'
    path.write_bytes(b'From a\n\nx\n\n')
    fd = os.open(path, os.O_RDONLY)
    assert mailbox.tail(fd, path.stat().st_size) == b'\n\n'
    os.close(fd)
    for part in ('tmp', 'new', 'cur'):
        (tmp_path / part).mkdir()
    (tmp_path / 'new/1').write_bytes(b'Return-Path: <sender@x.example>\n' + MESSAGE)
    here = os.open(tmp_path, os.O_PATH)
    maildir2mbox.move(here, os.fsencode(tmp_path / 'new/1'), 0, os.fsencode(path))
    os.close(here)
    text = path.read_bytes()
    assert b'\n\nFrom sender@x.example ' in text and text.endswith(MESSAGE + b'\n')


def test_a_cdb(short, tmp_path):
    """What stands in it is found."""
    path = tmp_path / 'cdb'
    path.write_bytes(cdb_format.build([(b'key', b'value')]))
    table = cdb.Database(os.fsencode(path))
    assert [table.ask(lambda db, key=key: db.get(key)) for key in (b'key', b'other')] == [b'value', None]
    table.close()


def test_nobody_else_asks_once():
    """Who wants all there is asks pread_all."""
    code = pathlib.Path(unix.__file__).parent
    found = {str(path.relative_to(code)) for path in code.rglob('*.py') if re.search(r'(?<![\w.])(unix\.)?pread\(', path.read_text())}
    assert found == LOOPS
