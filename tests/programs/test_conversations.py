r"""Conversations as files: each tests/conversations/NAME.smtp is played against one-shot and warm qpy-smtpd.

    # what it shows
    %databytes 100            a control file's line
    C: MAIL FROM:<a@b.c>      the client sends this line, ended with CR LF
    C| x\n.\r\n               the client sends just these bytes, escaped as in Python
    S: 250 2.1.0 ok           the server must answer with this line; * stands for anything
    S! closed                 the server must close

NAME.mail beside it, if there is one, holds what must be in the queue afterwards: per message the envelope (F
and T lines), an empty line, and the text without the Received lines on top; messages are parted by a line
`====`.
"""
import fnmatch
import os

import pytest

from tests.peers.smtp_rig import Rig

HERE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'conversations')
NAMES = sorted(name[:-5] for name in os.listdir(HERE) if name.endswith('.smtp'))


def lines(name):
    """(kind, rest) of each line of a conversation."""
    with open(os.path.join(HERE, name + '.smtp')) as file:
        for line in file.read().splitlines():
            if line and line[0] != '#':
                yield ('%', line[1:]) if line[0] == '%' else (line[:2], line[3:])


def expected_mail(name):
    """What must be in the queue: [envelope lines and text] as text."""
    try:
        with open(os.path.join(HERE, name + '.mail')) as file:
            return file.read().split('====\n')
    except FileNotFoundError:
        return []


def mail(message):
    """One message of the queue in the form of a .mail file."""
    body, envelope = message
    text = body.partition(b' -0000\n')[2].decode('latin-1')
    return ''.join(['F%s\n' % envelope.sender.decode(),
        *('T%s\n' % each.decode() for each in envelope.recipients), '\n', text])


@pytest.mark.parametrize('face', ['one shot', 'warm'])
@pytest.mark.parametrize('name', NAMES)
def test_conversation(name, face):
    """The dialogue of the file happens, word for word, and leaves the mail that stands beside it."""
    controls = dict(rest.split(' ', 1) for kind, rest in lines(name) if kind == '%')
    rig = Rig(**{key: value + '\n' for key, value in controls.items()})
    try:
        client = rig.one_shot() if face == 'one shot' else rig.warm(1).connect()
        for kind, rest in lines(name):
            if kind == 'C:':
                client.send(rest.encode('latin-1') + b'\r\n')
            elif kind == 'C|':
                client.send(rest.encode('latin-1').decode('unicode_escape').encode('latin-1'))
            elif kind == 'S:':
                answer = client.line().decode('latin-1')
                assert fnmatch.fnmatchcase(answer, rest.replace('[', '[[]')), 'expected %r, got %r' % (rest,
                    answer)
            elif kind == 'S!':
                assert client.line() == b''
        client.close()
        assert [mail(message) for message in rig.queued.messages] == expected_mail(name)
    finally:
        rig.stop()
