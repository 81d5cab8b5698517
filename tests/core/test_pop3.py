"""POP3 before and after the login, and the file of passwords."""
import hashlib
import os

import pytest
from hypothesis import given, strategies as st

from qpy import unix_argon2
from qpy.admin import passwd
from qpy.core import exits, passwords, pop3, popup, sasl_server
from qpy.lib import loop, program
from qpy.qpya import judges

BOX = [(100, b'1.M1P1.host'), (20, b'2.M2P2.host:2,S'), (3, b'x' * 80)]


def said(*lines, box=BOX):
    """[events and output] of a session that hears the lines."""
    session = pop3.Session(box)
    found = []
    for line in lines:
        session.receive(line + b'\r\n')
        while (event := session.next()) is not None:
            if event[0] == pop3.SEND:
                session.sending()
            else:
                session.removed(True)
            found.append(event)
    return found, session.output()


def replies(*lines, box=BOX):
    """The reply lines without the greeting."""
    return said(*lines, box=box)[1].split(b'\r\n')[1:-1]


def test_list_stat_uidl():
    """Numbers, sizes and names; what is deleted is not counted, and comes back with RSET."""
    assert replies(b'STAT', b'LIST') == [b'+OK 3 123', b'+OK ', b'1 100', b'2 20', b'3 3', b'.']
    assert replies(b'dele 1', b'Stat', b'LIST', b'LAST', b'RSET', b'STAT', b'LAST') == [
        b'+OK ', b'+OK 2 23', b'+OK ', b'2 20', b'3 3', b'.', b'+OK 1', b'+OK ', b'+OK 3 123', b'+OK 0']
    hashed = hashlib.sha256(b'x' * 80).hexdigest().encode()
    assert replies(b'UIDL', b'UIDL 2', b'LIST 3') == [b'+OK ', b'1 1.M1P1.host', b'2 2.M2P2.host',
                                                      b'3 ' + hashed, b'.',
                                                      b'+OK 2 2.M2P2.host', b'+OK 3 3']


@pytest.mark.parametrize('line, reply', [
    (b'RETR', pop3.SYNTAX), (b'RETR x', pop3.SYNTAX), (b'DELE 0', pop3.FROM_ONE),
    (b'LIST 4', pop3.NOT_SO_MANY),
    (b'RETR 99999999999999999999', pop3.SYNTAX), (b'TOP 1 x', pop3.SYNTAX), (b'HELO', pop3.UNIMPLEMENTED),
    (b'', pop3.UNIMPLEMENTED),
    (b'STLS', pop3.UNIMPLEMENTED), (b'x' * 600, pop3.LONG), (b'NOOP', b'+OK ')])
def test_single_replies(line, reply):
    """qmail's words for each mistake."""
    assert replies(line) == [reply]


def test_deleted_messages_are_gone():
    """RETR, DELE, LIST and UIDL of a deleted message."""
    lines = [b'RETR 2', b'DELE 2', b'LIST 2', b'UIDL 2', b'TOP 2 1']
    assert replies(b'DELE 2', *lines) == [b'+OK '] + [pop3.DELETED] * 5


def test_events():
    """RETR and TOP ask for a message, QUIT for the end; nothing is heard after it."""
    found, _ = said(b'RETR 1', b'TOP 2 10', b'RETR 3 0', b'DELE 3', b'DELE 1', b'QUIT', b'STAT')
    assert found == [(pop3.SEND, (0, None)), (pop3.SEND, (1, 10)), (pop3.SEND, (2, 0)), (pop3.QUIT, [0, 2])]
    session = pop3.Session([])
    session.receive(b'QUIT\r\n')
    assert session.next() == (pop3.QUIT, [])
    session.removed(False)
    assert session.output() == b'+OK \r\n-ERR unable to unlink all deleted messages\r\n'


def test_capa():
    """CAPA names what there is; not STLS."""
    assert replies(b'CAPA') == [b'+OK ', *pop3.CAPABILITIES, b'.'] and b'STLS' not in pop3.CAPABILITIES


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=10))
def test_any_bytes(data, sizes):
    """Whatever comes, in whatever pieces: the same events and replies."""
    def run(pieces):
        session, found = pop3.Session(BOX), []
        for piece in pieces:
            session.receive(piece)
            while (event := session.next()) is not None:
                found.append(event)
        return found, session.output()
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at:at + size])
        at += size
    assert run([*pieces, data[at:]]) == run([data])


def encoded(data, lines=None, sizes=()):
    encoder, found, at = pop3.Encoder(lines), b'', 0
    for size in [*sizes, len(data) + 1]:
        found += encoder.feed(data[at:at + size])
        at += size
    return found + encoder.end()


TEXT = b'A: b\nC: d\n\n.one\n..two\nthree\n'


def test_messages_on_the_wire():
    """CR LF, dots doubled, no empty line added; a last line without end gets one."""
    assert encoded(TEXT) == b'A: b\r\nC: d\r\n\r\n..one\r\n...two\r\nthree\r\n.\r\n'
    assert encoded(b'x') == b'x\r\n.\r\n' and encoded(b'') == b'.\r\n'
    assert encoded(b'a\r\nb\rc\n') == b'a\r\nb\rc\r\n.\r\n'


@pytest.mark.parametrize('lines, wanted', [(0, b''), (1, b'..one\r\n'), (2, b'..one\r\n...two\r\n'),
                                           (9, b'..one\r\n...two\r\nthree\r\n')])
def test_top(lines, wanted):
    """The header, the empty line, and so many lines."""
    assert encoded(TEXT, lines) == b'A: b\r\nC: d\r\n\r\n' + wanted + b'.\r\n'


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 5)),
       st.lists(st.integers(1, 30), max_size=10))
def test_pieces_of_messages(data, lines, sizes):
    """However a message is read, the wire is the same; undone it is the message, with its line ends."""
    wire = encoded(data, lines, sizes)
    assert wire == encoded(data, lines) and wire.endswith(b'.\r\n')
    assert b'\r\n.\r\n' not in wire[:-3].removesuffix(b'\r\n')
    if lines is None:
        body = b''.join(line.removeprefix(b'.') + b'\n' for line in wire[:-3].split(b'\r\n')[:-1])
        whole = data if data.endswith(b'\n') or not data else data + b'\n'
        assert body == whole.replace(b'\r\n', b'\n')


def test_a_line_without_end():
    """It goes on as it comes, but for a CR that may belong to its end: no line is ever held whole, nor copied again."""
    encoder = pop3.Encoder()
    assert encoder.feed(b'.' + b'x' * 70000) == b'..' + b'x' * 70000
    assert [encoder.feed(piece) for piece in (b'.y\r', b'\r', b'.z', b'\r', b'\n', b'.', b'')] == [
        b'.y', b'\r', b'\r.z', b'', b'\r\n', b'..', b'']
    assert encoder.end() == b'\r\n.\r\n'
    encoder = pop3.Encoder(1)
    assert encoder.feed(b'A: b') == b'A: b' and encoder.feed(b'\r\n\r\nx') == b'\r\n\r\nx' and not encoder.done
    assert encoder.feed(b'x\ny') == b'x\r\n' and encoder.done and encoder.feed(b'y\n') == b'' and encoder.end() == b'.\r\n'


@pytest.mark.parametrize('data, lines, wanted', [
    (b'A: b\n\none\ntwo', 0, b'A: b\r\n\r\n'), (b'A: b\n\none\ntwo', 1, b'A: b\r\n\r\none\r\n'),
    (b'A: b\n\none\ntwo', 2, b'A: b\r\n\r\none\r\ntwo\r\n'), (b'A: b\n\n', 0, b'A: b\r\n\r\n'),
    (b'\none\n\nthree', 2, b'\r\none\r\n\r\n'), (b'A: b\r\n\r\none\r', 1, b'A: b\r\n\r\none\r\n'),
    (b'A: b\n\r\r\none\n', 0, b'A: b\r\n\r\r\none\r\n'), (b'A: b', 0, b'A: b\r\n'), (b'A: b\n\none\n\r', 1, b'A: b\r\n\r\none\r\n'), (b'\r', 0, b'\r\n')])
def test_where_top_ends(data, lines, wanted):
    """Not a line more, whether the last one has an end or not."""
    assert encoded(data, lines) == encoded(data, lines, [1] * len(data)) == wanted + b'.\r\n'


def test_the_longest():
    """A command of 512 bytes with its end is taken, one that is longer refused before it ends; of unique IDs 70 bytes are."""
    assert replies(b'NOOP ' + b'x' * 505) == [pop3.OK] and replies(b'NOOP ' + b'x' * 506) == [pop3.LONG]
    session = pop3.Session(BOX)
    session.receive(b'x' * 511)
    assert session.next() is None and session.output() == b'+OK \r\n'
    session.receive(b'x')
    assert session.next() is None and session.output() == pop3.LONG + b'\r\n'
    assert [pop3.unique(name) == name for name in (b'', b'1', b'x' * 70, b'x' * 71)] == [False, True, True, False]


# --- the login ----------------------------------------------------------------------------------------------

def login(*lines, apop=True):
    session = popup.Session(b'<1.2@host>', apop)
    for line in lines:
        session.receive(line + b'\r\n')
    return session.next(), session.output().split(b'\r\n')[:-1]


def test_user_and_password():
    """USER, PASS; the password is all of the rest of the line."""
    event, said = login(b'NOOP', b'user joe', b'PASS a b ', b'STAT')
    assert event == (popup.LOGIN, (b'joe', b'a b ')) and said == [b'+OK <1.2@host>', b'+OK ', b'+OK ']
    assert login(b'USER a', b'USER b', b'PASS c')[0] == (popup.LOGIN, (b'b', b'c'))


def test_apop():
    """APOP is taken, and the banner shown, only where the program can judge it."""
    assert login(b'APOP joe 0123')[0] == (popup.LOGIN, (b'joe', b'0123'))
    assert login(b'APOP joe 0123', apop=False) == (None, [b'+OK ', popup.FIRST])


def test_stls():
    """RFC 2595: STLS is an event, after which the session begins again, without what was said before, and offers it no
    more; where there is no TLS it is refused."""
    session = popup.Session(b'<1.2@h>', True, tls=True)
    session.receive(b'CAPA\r\nUSER joe\r\nSTLS x\r\nSTLS\r\nPASS forged\r\n')
    assert session.next() == (popup.TLS, None)
    said = session.output().split(b'\r\n')
    assert b'STLS' in said and said[-3:] == [pop3.SYNTAX, popup.TLS_NOW, b'']
    session.secured()
    assert session.next() is None and session.output() == b''
    session.receive(b'CAPA\r\nPASS x\r\nSTLS\r\nUSER a\r\nPASS b\r\n')
    assert session.next() == (popup.LOGIN, (b'a', b'b'))
    said = session.output().split(b'\r\n')
    assert b'STLS' not in said and popup.USER_FIRST in said and popup.UNDER_TLS in said
    assert login(b'STLS', b'CAPA')[1][1:3] == [popup.NO_TLS, pop3.OK] and b'STLS' not in login(b'CAPA')[1]


def test_no_login_in_the_clear():
    """Forced: USER, PASS and APOP are refused until TLS stands, and CAPA does not offer USER."""
    session = popup.Session(b'<1.2@h>', True, tls=True, forced=True)
    session.receive(b'CAPA\r\nUSER joe\r\nAPOP joe x\r\nSTLS\r\n')
    assert session.next() == (popup.TLS, None)
    said = session.output().split(b'\r\n')
    assert b'USER' not in said and said.count(popup.TLS_FIRST) == 2
    session.secured()
    session.receive(b'USER joe\r\nPASS x\r\n')
    assert session.next() == (popup.LOGIN, (b'joe', b'x'))


@pytest.mark.parametrize('lines, last', [
    ([b'USER'], pop3.SYNTAX), ([b'PASS x'], popup.USER_FIRST), ([b'USER a', b'PASS'], pop3.SYNTAX),
    ([b'APOP a'], pop3.SYNTAX),
    ([b'STAT'], popup.FIRST), ([b'USER a\0b'], pop3.SYNTAX), ([b'x' * 600], pop3.LONG)])
def test_mistakes_before_the_login(lines, last):
    """qmail's words, and the session goes on."""
    event, said = login(*lines)
    assert event is None and said[-1] == last


def test_the_end_before_the_login():
    """QUIT is +OK; twenty senseless commands end the session."""
    assert login(b'QUIT', b'USER a') == ((popup.QUIT, None), [b'+OK <1.2@host>', b'+OK '])
    event, said = login(*[b'HELP'] * 50)
    assert event == (popup.QUIT, None) and len(said) == 21


# --- passwords ----------------------------------------------------------------------------------------------

def test_passwords():
    """What is written is verified, whatever the case of the name; another password or name is not."""
    line = passwords.entry(b'Joe', b'secret word', b's' * 16)
    assert line.startswith(b'joe:$scrypt$ln=15,r=8,p=1$') and b'=$' not in line[20:]
    entries = passwords.parse(b'# comment\n\n' + line + b'\n')
    assert passwords.verify(entries, b'JOE', b'secret word')
    for name, password in ((b'joe', b'Secret word'), (b'joe', b''), (b'ann', b'secret word'), (b'', b'')):
        assert not passwords.verify(entries, name, password)


def test_a_known_vector():
    """RFC 7914, section 12: what others have written by scrypt is verified."""
    digest = bytes.fromhex('7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2')
    line = b'joe:$scrypt$ln=14,r=8,p=1$' + passwords.base64(b'SodiumChloride') + b'$' + passwords.base64(digest)
    full = hashlib.scrypt(b'pleaseletmein', salt=b'SodiumChloride', n=16384, r=8, p=1, maxmem=64 << 20,
                          dklen=64)
    assert full[:32] == digest and passwords.verify(passwords.parse(line), b'joe', b'pleaseletmein')


ARGON2ID = pytest.mark.skipif(unix_argon2.argon2id is None, reason='libargon2 is not installed')


@ARGON2ID
@pytest.mark.parametrize('passes, memory, lanes, digest', [
    (2, 1 << 16, 1, '09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7'),
    (2, 1 << 8, 2, '6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037')])
def test_what_others_wrote_by_argon2id(passes, memory, lanes, digest):
    """The vectors of the reference implementation, several lanes in one thread among them."""
    line = b'joe:$argon2id$v=19$m=%d,t=%d,p=%d$%b$%b' % (
        memory, passes, lanes, passwords.base64(b'somesalt'), passwords.base64(bytes.fromhex(digest)))
    entries = passwords.parse(line + b'\n')
    assert passwords.verify(entries, b'joe', b'password', unix_argon2.argon2id)
    assert not passwords.verify(entries, b'joe', b'passwort', unix_argon2.argon2id)
    assert entries[b'joe'].written() == line[4:]


@ARGON2ID
def test_argon2id_is_written_where_it_can_be():
    """Both kinds in one file are verified; without the library nobody can tell, and that is not a no."""
    both = (passwords.entry(b'joe', b'one', b's' * 16, None, unix_argon2.argon2id) + b'\n'
            + passwords.entry(b'ann', b'two', b't' * 16) + b'\n')
    assert both.startswith(b'joe:$argon2id$v=19$m=47104,t=1,p=1$') and b'\nann:$scrypt$' in both
    entries = passwords.parse(both)
    for name, password, good in ((b'joe', b'one', True), (b'ann', b'two', True), (b'joe', b'two', False), (b'x', b'one', False)):
        assert passwords.verify(entries, name, password, unix_argon2.argon2id) == good
    assert passwords.verify(entries, b'ann', b'two')
    with pytest.raises(passwords.NoLibrary):
        passwords.verify(entries, b'joe', b'one')


@ARGON2ID
def test_without_the_library_it_is_said(monkeypatch, capsys, tmp_path):
    """qpy-passwd writes scrypt and warns; who judges says later, not no, and why."""
    line = passwords.entry(b'joe', b'one', b's' * 16, None, unix_argon2.argon2id)
    monkeypatch.setattr(unix_argon2, 'argon2id', None)
    assert passwd.entry(b'joe', b'one').startswith(b'joe:$scrypt$') and 'libargon2-1' in capsys.readouterr().err
    (tmp_path / 'users').mkdir()
    (tmp_path / 'users/passwd').write_bytes(line + b'\n')
    judge = judges.Judges(loop.Loop(), os.fsencode(tmp_path), {})
    judge.file.look()
    with pytest.raises(program.Fatal) as caught:
        judge.ours(judges.Job(sasl_server.Claim(sasl_server.PASSWORD, b'joe', b'one'), {}, None, ()))
    assert caught.value.args == (exits.TEMP, passwords.NO_LIBRARY)


def test_a_name_that_nobody_has_takes_somebodys_time():
    """By the same kind and numbers as one of those who are there, always the same; never good, even with his password."""
    entries = passwords.parse(passwords.entry(b'joe', b'one', b's' * 16) + b'\n')
    assert passwords.stand_in(entries, b'x') is entries[b'joe'] and not passwords.verify(entries, b'x', b'one')
    many = {b'%d' % n: n for n in range(9)}
    assert len({passwords.stand_in(many, b'n%d' % n) for n in range(200)}) == 9
    assert passwords.stand_in(many, b'x') == passwords.stand_in(many, b'x')


def test_a_library_that_is_not_there(monkeypatch):
    """None is found; one that has another function is none either."""
    assert unix_argon2._load(('libnosuch.so.9',)) is None and unix_argon2._load(('libc.so.6',)) is None
    if unix_argon2.argon2id is not None:
        with pytest.raises(OSError):
            unix_argon2.argon2id(b'x', b'short', 1024, 1, 1, 32)


@pytest.mark.parametrize('line', [b'joe', b'joe:', b':$scrypt$ln=15,r=8,p=1$c2FsdA$', b'joe:$6$x$y',
                                  b'joe:$scrypt$ln=99,r=8,p=1$c2FsdA$c2FsdA',
                                  b'joe:$scrypt$ln=0,r=8,p=1$c2FsdA$c2FsdA',
                                  b'joe:$scrypt$r=8$c2FsdA$c2FsdA',
                                  *(b'joe:$argon2id$' + head + b'$' + passwords.base64(salt) + b'$' + passwords.base64(b'd' * size)
                                    for head, salt, size in [
                                        (b'm=1024,t=1,p=1', b's' * 16, 32), (b'v=16$m=1024,t=1,p=1', b's' * 16, 32),
                                        (b'v=19$m=1024,t=1,p=1', b's' * 7, 32), (b'v=19$m=1024,t=1,p=1', b's' * 16, 31),
                                        (b'v=19$m=15,t=1,p=2', b's' * 16, 32), (b'v=19$m=9999999,t=1,p=1', b's' * 16, 32),
                                        (b'v=19$m=1024,t=0,p=1', b's' * 16, 32), (b'v=19$t=1,m=1024,p=1', b's' * 16, 32),
                                        (b'v=19$m=x,t=1,p=1', b's' * 16, 32), (b'v=19$m=1024,t=1,p=x', b's' * 16, 32)])])
def test_broken_lines(line):
    """A line that is no entry is an error with its number: never a user without a password."""
    with pytest.raises(passwords.BadFile) as caught:
        passwords.parse(b'# x\n' + line)
    assert caught.value.args[0] == 2


@pytest.mark.parametrize('name, password', [(b'', b'x'), (b'a:b', b'x'), (b'a b', b'x'), (b'#a', b'x'),
                                            (b'a\n', b'x'), (b'a', b''),
                                            (b'a', b'x' * 401), (b'a', b'x\ny'), (b'a', b'x\0y')])
def test_what_no_entry_can_be(name, password):
    """Names and passwords that the file or the interface cannot hold."""
    with pytest.raises(ValueError):
        passwords.entry(name, password, b's' * 16)


def test_replaced():
    """One line is put in the old one's place, or at the end, or taken out; all others stay."""
    data = b'# x\nann:1\njoe:2\nJOE:3\n'
    assert passwords.replaced(data, b'Joe', b'joe:9') == b'# x\nann:1\njoe:9\n'
    assert passwords.replaced(data, b'joe', None) == b'# x\nann:1\n'
    assert passwords.replaced(b'ann:1', b'joe', b'joe:9') == b'ann:1\njoe:9\n'
    assert passwords.replaced(b'', b'joe', b'joe:9') == b'joe:9\n'
    assert passwords.replaced(b'', b'joe', None) == b''
