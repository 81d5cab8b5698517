"""Parts of qpy-check and qpy-milter by themselves: the journal under faults, connections to policy servers."""
import errno
import os
import socket
import threading

import pytest

from qpy import unix
from qpy.core import draft, mess, milter, policyd, submit
from qpy.lib import program, spool
from qpy.lib.loop import Loop
from qpy.qpyc import filters, journal, policies, talk
from qpy.qpyc import milter as milters


@pytest.fixture
def home(tmp_path):
    (tmp_path / 'check').mkdir()
    return os.fsencode(tmp_path)


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(program, 'warn', said.append)
    return said


def read(home):
    found = {}
    journal.Journal(home, b'x', 2).read(lambda key, *numbers: found.__setitem__(key, numbers))
    return found


# --- the journal -----------------------------------------------------------------------------------------------------

def test_what_is_appended_is_read_again(home):
    """The last line of a key counts; keys may hold blanks."""
    one = journal.Journal(home, b'x', 2)
    one.rewrite([(b'a key', 1, 2)])
    assert one.append([(b'b', 3, 4), (b'a key', 5, 6)]) and one.append([])
    assert read(home) == {b'a key': (5, 6), b'b': (3, 4)}
    one.rewrite([(b'c', 7, 8)])
    one.append([(b'd', 9, 0)])
    assert read(home) == {b'c': (7, 8), b'd': (9, 0)} and not one.full(2)


CALLS = ('open', 'write', 'fsync', 'rename')


@pytest.mark.parametrize('call', CALLS)
@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE])
@pytest.mark.parametrize('which', range(4))
def test_a_disk_that_fails_stops_nothing(home, monkeypatch, warnings, call, number, which):
    """The n-th call of a name fails: nothing is raised, it is said once, and what is read later is what was written before or
    after, never something else."""
    real, count = getattr(unix, call), []

    def failing(*arguments, **more):
        count.append(1)
        if len(count) == which + 1:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **more)
    one = journal.Journal(home, b'x', 2)
    one.rewrite([(b'a', 1, 1)])
    monkeypatch.setattr(unix, call, failing)
    one.append([(b'b', 2, 2)])
    one.rewrite([(b'a', 1, 1), (b'b', 2, 2)])
    one.append([(b'c', 3, 3)])
    one.append([(b'd', 4, 4)])
    monkeypatch.setattr(unix, call, real)
    found = read(home)
    assert found.items() <= {b'a': (1, 1), b'b': (2, 2), b'c': (3, 3), b'd': (4, 4)}.items() and b'a' in found
    assert len(warnings) == (len(count) > which)


def test_short_writes(home, monkeypatch):
    """A disk that takes one byte at a time gets all of it."""
    real = unix.write
    monkeypatch.setattr(unix, 'write', lambda fd, data: real(fd, bytes(data[:1])))
    one = journal.Journal(home, b'x', 2)
    one.rewrite([(b'a', 1, 1)])
    one.append([(b'b', 2, 2), (b'c', 3, 3)])
    monkeypatch.setattr(unix, 'write', real)
    assert read(home) == {b'a': (1, 1), b'b': (2, 2), b'c': (3, 3)}


# --- policy servers --------------------------------------------------------------------------------------------------

class Server:
    """Answers each question with what `answer(question, number of the connection)` says; None: hangs; b'': closes."""

    def __init__(self, answer):
        self.answer, self.connections = answer, 0
        self.sock = socket.create_server(('127.0.0.1', 0))
        self.place = policyd.parse(b'127.0.0.1:%d timeout=1' % self.sock.getsockname()[1])
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection = self.sock.accept()[0]
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(connection, self.connections), daemon=True).start()

    def serve(self, connection, number):
        data = b''
        while piece := connection.recv(4096):
            data += piece
            while b'\n\n' in data:
                question, _, data = data.partition(b'\n\n')
                said = self.answer(question, number)
                if said == b'':
                    return connection.close()
                if said is not None:
                    connection.sendall(said)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def ask(pool, questions, patience=20):
    """The answers to these questions, asked all at once."""
    found = {}
    for question in questions:
        pool.ask(question + b'\n\n', lambda *answer, question=question: found.__setitem__(question, answer))
    until = unix.monotonic() + patience
    while len(found) < len(questions) and unix.monotonic() < until:
        pool.loop.step(0.2)
    return [found[question] for question in questions]


def test_connections_are_kept():
    """One after the other: one connection; three at once: three; a hundred at once: no more than MOST."""
    with Server(lambda question, number: b'action=DUNNO %s\n\n' % question) as server:
        pool = policies.Pool(Loop(), server.place)
        for n in range(5):
            assert ask(pool, [b'%d' % n]) == [(b'DUNNO', b'%d' % n)]
        assert server.connections == 1
        names = [b'n%d' % n for n in range(200)]
        assert ask(pool, names) == [(b'DUNNO', name) for name in names]
        assert server.connections <= policies.MOST and pool.busy == 0
        pool.close()


def test_a_kept_connection_that_was_closed():
    """A server that closes after each answer is asked again on a new connection, without trouble."""
    with Server(lambda question, number: b'action=OK\n\n' if question == b'first' else (b'' if number == 1 else b'action=OK two\n\n')) as server:
        pool = policies.Pool(Loop(), server.place)
        assert ask(pool, [b'first']) == [(b'OK', b'')]
        assert ask(pool, [b'second']) == [(b'OK', b'two')] and server.connections == 2
        pool.close()


@pytest.mark.parametrize('said, reason', [(None, b'no answer in 1 seconds'), (b'', b'it closed the connection'),
                                          (b'nonsense\n\n', b'an answer without action'), (b'x' * 5000, b'an answer without end')])
def test_servers_in_trouble(said, reason):
    """Hanging, closing, talking nonsense: an answer that is none, with the reason, and in time."""
    with Server(lambda question, number: said) as server:
        pool = policies.Pool(Loop(), server.place)
        assert ask(pool, [b'x']) == [(None, reason)] and pool.busy == 0 and not pool.idle


def test_nobody_there():
    """A refused connection, and a socket that does not exist."""
    free = socket.create_server(('127.0.0.1', 0))
    port = free.getsockname()[1]
    free.close()
    for line, words in ((b'127.0.0.1:%d' % port, b'refused'), (b'/nonexistent/socket', b'No such file')):
        answer = ask(policies.Pool(Loop(), policyd.parse(line)), [b'x'])[0]
        assert answer[0] is None and words in answer[1]


def test_small_words_do_not_wait_for_each_other():
    """Connections to policy servers and milters have TCP_NODELAY."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        sock = talk.connect((b'127.0.0.1', server.getsockname()[1]))
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.close()


# --- lines and words -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('line', [b'127.0.0.1', b'milter.example:1', b'/run/x default=reject', b'/run/x timeout=0', b'/run/x stages=mail', b'x'])
def test_lines_of_milters_that_mean_nothing(line):
    """A port is needed, a name is none, and no default refuses."""
    with pytest.raises(ValueError):
        milter.parse(line)


@pytest.mark.parametrize('words, reply', [
    (b'550 5.7.1 no', b'550 5.7.1 no'), (b'550-5.7.1 one\r\n550 5.7.1 two', b'550 5.7.1 one two'), (b'450', b'450 4.7.1 not accepted'),
    (b'550 4.7.1 odd', b'550 5.7.1 odd'), (b'250 ok', b''), (b'', b''), (b'5xx no', b''), (b'55', b''), (b'550 \x1b[2J', b'550 5.7.1 ?[2J')])
def test_replies_of_milters(words, reply):
    """One printable line that refuses, or nothing."""
    assert milter.reply_of(words) == reply


@pytest.mark.parametrize('data, found', [
    (b'', None), (b'Subject: x\n', None), (b'\n', (0, True)), (b'\nx\n', (0, True)), (b'A: b\n\nx\n', (5, True)),
    (b'A: b\n c\n\nx', (8, True)), (b'A: b\nno field\n', (5, False)), (b' c\nA: b\n\n', (0, False)), (b'A b: c\n\n', (0, False)),
    (b'A : b\n\n', (6, True)), (b'From x Mon\nA: b\n\n', (0, False))])
def test_where_a_header_ends(data, found):
    """At the empty line, or at the first line that is no field."""
    assert draft.split(data) == found


def test_our_own_field_is_not_shown():
    """Milters see the message as the client sent it."""
    one = draft.Draft(mess.Envelope(b'a@b', [b'c@d']), b'Received: us\n  by us\nSubject:x\n\ty\n')
    assert one.visible() == [(b'Subject', b'x\n\ty')] and one.head() == b'Received: us\n  by us\nSubject:x\n\ty\n'


def test_what_stands_above_our_received_field_is_ours_too():
    """Fields that policy servers have put there are not shown; position 1 is below all of ours, 0 above; of the names that
    occur there too only the client's own are changed."""
    head = b'X-A: 1\nReceived: us\n  by us\nX-A: 2\n'
    one = draft.Draft(mess.Envelope(b'a@b', [b'c@d']), head)
    assert one.visible() == [(b'X-A', b' 2')]
    one.change(milter.INSERT_HEADER, b'\0\0\0\1X-B\0v\0')
    one.change(milter.INSERT_HEADER, b'\0\0\0\0X-C\0v\0')
    one.change(milter.CHANGE_HEADER, b'\0\0\0\1X-A\0three\0')
    assert one.head() == b'X-C: v\nX-A: 1\nReceived: us\n  by us\nX-B: v\nX-A: three\n'
    assert one.visible() == [(b'X-B', b' v'), (b'X-A', b' three')]


# --- to queued -------------------------------------------------------------------------------------------------------

class There:
    """What a Delivery needs of its server."""

    def __init__(self):
        self.loop, self.home = Loop(), b'/nonexistent'


@pytest.mark.parametrize('high', [2, 1000, 1 << 30])
@pytest.mark.parametrize('slow', [True, False])
def test_a_delivery_to_queued_never_stands_still(monkeypatch, high, slow):
    """However much may be on its way, and whether queued takes it at once or piece by piece, the whole message arrives."""
    there, (ours, theirs) = There(), unix.socketpair(unix.SOCK_STREAM)
    monkeypatch.setattr(milters, 'HIGH', high)
    monkeypatch.setattr(milters.queued, 'connect', lambda home: ours)
    kept, said, receiver, found = spool.Spool(), [], submit.Receiver(), []
    kept.add(b'body\n' * 60000)
    one = draft.Draft(mess.Envelope(b'a@b', [b'c@d']), b'Received: us\n')

    def readable():
        data = unix.read(theirs.fileno(), 5000 if slow else 1 << 20)
        found.extend(receiver.feed(data))
        if found[-1][0] == submit.MESSAGE:
            theirs.send(submit.accepted(b'1764036974123456'))
    there.loop.watch(theirs.fileno(), readable)
    milters.Delivery(there, one, filters.Body(kept, 0, True), said.append).start()
    until = unix.monotonic() + 20
    while not said and unix.monotonic() < until:
        there.loop.step(1)
    assert said == [submit.accepted(b'1764036974123456')]
    assert b''.join(piece for kind, piece in found if kind == submit.BODY) == b'Received: us\n\n' + b'body\n' * 60000
    theirs.close()
