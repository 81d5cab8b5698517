"""qpy-import on made-up trees in the real formats: a qmail home, a Postfix configuration, a qmail queue at rest."""
import fcntl
import os
import pwd
import re
import stat
import subprocess
import time
import types

import pytest

from qpy.admin import import_, mailusers, qmailhome, qmailqueue, qmailrules
from qpy.admin.postfix import clients, delivery, translation
from qpy.core import controls, mess, route, services, tcprules
from qpy.qpyd import settings
from tests.peers.queued import Daemon, make_home

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def write(top, files):
    """{path: text} below a directory."""
    for path, text in files.items():
        target = top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def home(tmp_path):
    """A DIR as qpy-install leaves it."""
    write(tmp_path / 'qpy', {'control/me': 'new.test\n', 'control/locals': 'new.test\nlocalhost\n',
                             'control/tcp.smtp': ':allow\n'})
    for name in ('alias', 'users'):
        (tmp_path / 'qpy' / name).mkdir()
    return tmp_path / 'qpy'


def run(home, *words):
    """(exit code, lines of the report)."""
    done = subprocess.run([ROOT + '/bin/qpy-import', *map(str, words)], capture_output=True, text=True,
                          env={'QPYHOME': str(home), 'PATH': '/usr/bin:/bin'})
    assert not done.stderr or done.returncode > 99, done.stderr
    return done.returncode, (done.stdout + done.stderr).splitlines()


# --- qmail ---------------------------------------------------------------------------------------------------

QMAIL = {
    'control/me': 'mail.example.org\n', 'control/locals': 'mail.example.org\nexample.org\n',
    'control/rcpthosts': 'mail.example.org\nexample.org\nexample.net\n.lists.example.org\n',
    'control/morercpthosts': 'more.example\n', 'control/morercpthosts.cdb': b'old',
    'control/virtualdomains': 'example.net:bob\n.lists.example.org:alias-lists\n',
    'control/concurrencyremote': '40\n', 'control/databytes': '10000000\n', 'control/badmailfrom': 'x@y.test\n^.*@z$\nz\n',
    'control/smtproutes': ':relay.isp.example:587|joe@isp.example|se:cret\nplain.example:10.0.0.1\n',
    'control/outgoingip': '192.0.2.5\n', 'control/domainbindings': 'bob.example:192.0.2.6\n', 'control/bindroutes': '10.:10.0.0.1\n',
    'control/tlsclients': 'joe@example.org\n', 'control/authsenders': '@b.example:relay.b|u@b|p\n',
    'control/spfbehavior': '3\n', 'control/simcontrol': ':clam=yes\n', 'control/locals~': 'x\n', 'control/rcpthost': 'x\n',
    'etc/tcp.smtp': '127.:allow,RELAYCLIENT=""\n:allow\n',
    'users/assign': '=bob:bob:1001:1001:/home/bob:::\n+bob-:bob:1001:1001:/home/bob:-::\n.\n',
    'alias/.qmail-root': '&ann@example.org\n', 'alias/.qmail-default': '| fastforward -d /etc/aliases.cdb\n',
    'alias/Maildir/new/1': 'mail',
    'rc': '#!/bin/sh\n# qmail-start ./No splogger\nexec env - PATH="/var/qmail/bin:$PATH" \\\n'
          "qmail-start '|preline procmail' splogger qmail\n"}


def test_qmail(home, tmp_path):
    """Control files, users, alias and the default delivery come over; lines that could not work become comments; what
    has no equal and what to look at is told."""
    write(tmp_path / 'qmail', QMAIL)
    code, lines = run(home, 'qmail', tmp_path / 'qmail')
    text = '\n'.join(lines)
    assert code == 1 and 'left out: control/badmailfrom, line 3, "z": no address has no @' in text
    for name in ('locals', 'rcpthosts', 'virtualdomains', 'concurrencyremote', 'databytes', 'morercpthosts'):
        assert (home / 'control' / name).read_text() == QMAIL['control/' + name], name
    assert (home / 'control/locals~').read_text() == 'new.test\nlocalhost\n'
    assert (home / 'control/badmailfrom').read_text() == 'x@y.test\n# not taken over: ^.*@z$\n# not taken over: z\n'
    assert (home / 'control/smtproutes').read_text() == ':joe@isp.example@relay.isp.example:587\nplain.example:10.0.0.1\n'
    assert (home / 'control/smtplogins').read_text() == 'joe@isp.example@relay.isp.example:se:cret\nu@b@relay.b:p\n'
    assert (home / 'control/senderroutes').read_text() == '@b.example:u@b@relay.b\n'
    assert not (home / 'control/authsenders').exists() and not (home / 'control/tlsclients').exists()
    assert os.stat(home / 'control/smtplogins').st_mode & 0o777 == 0o640
    assert (home / 'control/outgoingip').read_text() == '192.0.2.5\n@bob.example:192.0.2.6\n'
    assert (home / 'control/defaultdelivery').read_text() == '|preline procmail\n'
    assert (home / 'control/tcp.smtp').read_text() == QMAIL['etc/tcp.smtp']
    assert (home / 'alias/.qmail-root').read_text() == '&ann@example.org\n'
    assert (home / 'users/cdb').stat().st_size and (home / 'control/morercpthosts.cdb').read_bytes()[:3] != b'old'
    for wanted in ('no equal: control/spfbehavior: a milter', 'no equal: control/tlsclients: control/tlsclients holds certificates', 'no equal: control/simcontrol: QMAILQUEUE in', 'no equal: control/bindroutes: control/outgoingip',
                   'no equal: control/rcpthost: did you mean rcpthosts?', 'look: alias/.qmail-default runs fastforward',
                   'look: alias/Maildir is left where it is', 'written: control/me, the old one is control/me~'):
        assert wanted in text, wanted
    assert 'locals~' not in [line.rpartition('/')[2] for line in lines if line.startswith('no equal')]


def test_a_second_time_nothing_changes(home, tmp_path):
    """Run again: all is the same, and no old file is lost."""
    write(tmp_path / 'qmail', QMAIL)
    run(home, 'qmail', tmp_path / 'qmail')
    before = {path: path.read_bytes() for path in home.rglob('*') if path.is_file()}
    lines = run(home, 'qmail', tmp_path / 'qmail')[1]
    assert not [line for line in lines if line.startswith('written')]
    assert before == {path: path.read_bytes() for path in home.rglob('*') if path.is_file()}


def test_only_a_report(home, tmp_path):
    """-n writes nothing."""
    write(tmp_path / 'qmail', QMAIL)
    lines = run(home, '-n', 'qmail', tmp_path / 'qmail')[1]
    assert 'would write: control/rcpthosts' in lines
    assert sorted(os.listdir(home / 'control')) == ['locals', 'me', 'tcp.smtp'] and not os.listdir(home / 'alias')


@pytest.mark.parametrize('rc, wanted, said', [
    ('exec env - PATH="/var/qmail/bin:$PATH" \\\nqmail-start \\\n./Mailbox splogger qmail\n', './Mailbox\n', ''),
    ('exec qmail-start "|dot-forward .forward\n./Mailbox" splogger qmail\n', '|dot-forward .forward\n./Mailbox\n', ''),
    ('csh -cf "qmail-start ./Mailbox splogger qmail &"\n', './Mailbox\n', ''),
    ('exec qmail-start "`cat /var/qmail/control/x`"\n', None, 'rc: defaultdelivery is what `cat /var/qmail/control/x` says'),
    ('exec qmail-start \'not an instruction\'\n', None, 'not written: control/defaultdelivery'),
    ('exec qmail-send\n', None, "it is ./Maildir/ here, where qmail's is ./Mailbox"),
    ('exec qmail-start\n', None, "it is ./Maildir/ here, where qmail's is ./Mailbox")])
def test_the_default_delivery(home, tmp_path, rc, wanted, said):
    """What rc gives qmail-start is taken whole or not at all: a line less could be a way to lose mail."""
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', 'rc': rc})
    text = '\n'.join(run(home, 'qmail', tmp_path / 'qmail')[1])
    path = home / 'control/defaultdelivery'
    assert (path.read_text() if path.exists() else None) == wanted and said in text, text


@pytest.mark.parametrize('rc, wanted, said', [
    ('qmail-start "|dot-forward .forward\n./Maildir/" splogger qmail\n', '|dot-forward .forward\n./Maildir/\n',
     'look: control/defaultdelivery is what rc gives qmail-start; rc does not read the file of that name, which says: ./Mailbox'),
    ('# see control/defaultdelivery\nqmail-start ./Maildir/\n', './Maildir/\n', 'which says: ./Mailbox'),
    ('qmail-start ./Mailbox splogger qmail\n', './Mailbox\n', ''),
    ('qmail-start "`cat /var/qmail/control/defaultdelivery`"\n', './Mailbox\n', ''),
    ('DD=$(cat control/defaultdelivery)\nqmail-start "$DD"\n', './Mailbox\n', ''),
    ('qmail-start "$DD"\n', './Mailbox\n', 'rc: defaultdelivery is what $DD says there; write it into control/defaultdelivery, '
     'which is taken over as it is'),
    ('qmail-start\n', './Mailbox\n', 'look: rc does not read control/defaultdelivery')])
def test_a_file_of_the_default_delivery(home, tmp_path, rc, wanted, said):
    """control/defaultdelivery counts where rc reads it, for qmail-start does not; else what rc says counts, and it is said
    when that is something else."""
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', 'control/defaultdelivery': './Mailbox\n', 'rc': rc})
    text = '\n'.join(run(home, 'qmail', tmp_path / 'qmail')[1])
    assert (home / 'control/defaultdelivery').read_text() == wanted
    assert said in text and len(re.findall('look: .*defaultdelivery', text)) == bool(said), text


RULES = '''# who may relay
127.:allow,RELAYCLIENT="",RBLSMTPD=""
127.0.0.2:allow,RBLSMTPD="-blocked"
127.0.0.3:allow,RBLSMTPD="later"
127.0.0.4:allow,RBLSMTPD=""
=.office.test:allow,RELAYCLIENT=""
joe@10.0.0.1:deny
10.0.0.5:allow,TARPITCOUNT="5",SPFBEHAVIOR="3"
10.0.0.6:allow,TARPITCOUNT="5",MINE="x"
10.0.0.7:allow,QMAILQUEUE="/bin/scan",MINE="x",NOBADHELO=""
10.0.0.8-9:deny,SPFBEHAVIOR="3"
:allow
'''


def test_rules_that_mean_something_else_here(home, tmp_path):
    """tcp.smtp of qmail spoke to rblsmtpd, to patches and to a tcpserver that looks up names, too: each such line is told
    with what to write; who was refused for good is refused."""
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', 'etc/tcp.smtp': RULES})
    code, lines = run(home, 'qmail', tmp_path / 'qmail')
    assert (home / 'control/tcp.smtp').read_text() == RULES.replace('127.0.0.2:allow,RBLSMTPD="-blocked"', '127.0.0.2:deny')
    said = [line.removeprefix('look: control/tcp.smtp, line ') for line in lines if line.startswith('look: control/tcp.smtp')]
    assert [line.partition(' is read')[0].partition(' looks up')[0] for line in said] == [
        '3: RBLSMTPD="-..."', '4: RBLSMTPD="..."', '5: RBLSMTPD=""', '6, 7: the warm qpy-smtpd', '8: SPFBEHAVIOR', '8, 9: TARPITCOUNT',
        '9: MINE'], lines
    assert code == 1
    rules = tcprules.parse((home / 'control/tcp.smtp').read_bytes())
    assert [rules.verdict(ip)[0] for ip in (b'127.0.0.1', b'127.0.0.2', b'127.0.0.3')] == [True, False, True]


def test_rules_that_mean_the_same_here(home, tmp_path):
    """Nothing is said of them, and the file is what it was; so is one that tcprules has compiled."""
    for data in (b'127.:allow,RELAYCLIENT=""\n10.0.0.1:deny\ntls=joe@x.test:allow,RELAYCLIENT=""\n:allow\n', b'\0=x:allow\n'):
        text, remarks, whole = qmailrules.translated(data.decode())
        assert (text.encode(), remarks, whole) == (data, [], True)


def test_the_variables_of_clients():
    """What the report takes for read here is what qpy-smtpd reads."""
    assert qmailrules.READ_HERE == {name.decode() for name in settings.GIVEN}


def mode(path):
    """The mode of a file."""
    return stat.S_IMODE(os.stat(path).st_mode)


def test_modes_of_alias(home, tmp_path):
    """A .qmail file with its x bit may only forward, one that is kept from others stays so, and one that everybody may write
    to is not obeyed here either; a group of ours may do no more than everybody could."""
    modes = {'x': 0o744, 'secret': 0o600, 'group': 0o640, 'wide': 0o664, 'all': 0o666, 'plain': 0o644, 'set': 0o4755}
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', **{'alias/.qmail-' + name: '|x\n' for name in modes}})
    write(home, {'alias/.qmail-x': '|x\n'})
    for name, bits in modes.items():
        os.chmod(tmp_path / 'qmail/alias' / ('.qmail-' + name), bits)
    text = '\n'.join(run(home, 'qmail', tmp_path / 'qmail')[1])
    assert {name: mode(home / 'alias' / ('.qmail-' + name)) for name in modes} == {
        'x': 0o744, 'secret': 0o600, 'group': 0o600, 'wide': 0o644, 'all': 0o666, 'plain': 0o644, 'set': 0o755}
    assert 'look: alias/.qmail-all: everybody may write to it' in text and text.count('everybody may write') == 1
    lines = run(home, 'qmail', tmp_path / 'qmail')[1]
    assert not [line for line in lines if line.startswith('written')]


@pytest.mark.skipif(os.geteuid() != 0, reason='needs root: files of others')
def test_owners_of_alias(home, tmp_path):
    """A file of alias that somebody else could edit is told, and one that alias could not read; not those of root and alias."""
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', **{'alias/.qmail-' + name: '|x\n' for name in ('his', 'alias', 'root', 'hidden')}})
    alias = tmp_path / 'qmail/alias'
    for name, uid in (('.qmail-his', 64111), ('', 64112), ('.qmail-alias', 64112)):
        os.chown(alias / name, uid, 64111)
    os.chmod(alias / '.qmail-hidden', 0o600)
    looks = [line for line in run(home, 'qmail', tmp_path / 'qmail')[1] if line.startswith('look: alias/')]
    assert [line[:55] for line in looks] == [
        'look: alias/.qmail-hidden: only root could read it ther', 'look: alias/.qmail-his was a file of uid 64111, who cou']
    assert 'chown it; a first line +list' in looks[1] and os.stat(home / 'alias/.qmail-his').st_uid == os.stat(home / 'alias').st_uid


def test_what_is_kept_from_others_stays_so(home, tmp_path):
    """No login and no file that not everybody may read there can be read by everybody here."""
    write(tmp_path / 'qmail', {
        'control/me': 'a.test\n', 'control/smtproutes': '#:old.test|joe|sesame\n# the password is sesame\n:new.test|joe|sesame\n', 'control/badhelo': 'x.test\n',
        'users/assign': '.\n', 'users/exclude': 'eve\n', 'etc/tcp.smtp': ':allow\n'})
    for name in ('control/smtproutes', 'control/badhelo', 'users/exclude', 'etc/tcp.smtp'):
        os.chmod(tmp_path / 'qmail' / name, 0o600)
    os.chmod(tmp_path / 'qmail/users/assign', 0o666)
    code, lines = run(home, 'qmail', tmp_path / 'qmail')
    assert code == 1 and [line.partition(' not everybody')[0] for line in lines if 'is not written' in line] == [
        'look: control/badhelo is not written:', 'look: control/tcp.smtp is not written:'], lines
    assert not (home / 'control/badhelo').exists() and (home / 'control/smtproutes').read_text() == '#\n#\n:joe@new.test\n'
    assert (mode(home / 'users/exclude'), mode(home / 'users/assign'), mode(home / 'control/me')) == (0o600, 0o644, 0o644)
    assert [path.name for path in home.rglob('*') if path.is_file() and b'sesame' in path.read_bytes()] == ['smtplogins']


@pytest.mark.root
def test_links_of_alias(home, tmp_path):
    """A link in DIR/alias or in that of qmail is followed as alias, and what is no file there is not waited for."""
    (tmp_path / 'secret').write_text('of root')
    os.chmod(tmp_path / 'secret', 0o600)
    (tmp_path / 'all').write_text('&joe@x.test\n')
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', 'alias/.qmail-list': '&ann@x.test\n', 'alias/.qmail-fifo': '&bob@x.test\n'})
    alias, old = home / 'alias', tmp_path / 'qmail/alias'
    (old / '.qmail-root').symlink_to(tmp_path / 'secret')
    (old / '.qmail-joe').symlink_to('.qmail-list')
    (alias / '.qmail-list.tmp').symlink_to(tmp_path / 'secret')
    (alias / '.qmail-list').symlink_to(tmp_path / 'secret')
    os.mkfifo(alias / '.qmail-fifo')
    for directory in (alias, old):
        os.chown(directory, 64112, 64111)
    code, lines = run(home, 'qmail', tmp_path / 'qmail')
    assert code == 1 and 'look: alias/.qmail-root is not taken over: it is a link to what alias may not read' in lines
    assert (tmp_path / 'secret').read_text() == 'of root' and os.stat(tmp_path / 'secret')[4:6] == (0, 0)
    made = {name: os.lstat(alias / name) for name in ('.qmail-list', '.qmail-fifo', '.qmail-joe')}
    assert all(stat.S_ISREG(there.st_mode) and there.st_uid == 64112 for there in made.values()) and not (alias / '.qmail-root').exists()
    assert (alias / '.qmail-joe').read_text() == '&ann@x.test\n'


@pytest.mark.root
@pytest.mark.parametrize('when', ['asked', 'opened'])
def test_alias_who_exchanges_a_file(tmp_path, monkeypatch, when):
    """What alias puts in a file's place once root has looked at it is not read as root; mode and text are those of one file."""
    secret, old = tmp_path / 'secret', tmp_path / 'qmail/alias/.qmail-a'
    secret.write_text('of root')
    os.chmod(secret, 0o600)
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', 'alias/.qmail-a': '&ann@x.test\n'})
    os.chown(old.parent, 64112, 64111)
    function, exchanged = (os.path, 'islink') if when == 'asked' else (os, 'open'), []

    def exchange(path, *rest, **more):
        result = real(path, *rest, **more)
        if os.fspath(path) == str(old) and not exchanged:
            exchanged.append(old.unlink())
            old.symlink_to(secret)
        return result
    real = getattr(*function)
    monkeypatch.setattr(*function, exchange)
    found = qmailhome.Translation(str(tmp_path / 'qmail'), '/none')
    assert found.files['alias/.qmail-a'] == '&ann@x.test\n' and found.modes['alias/.qmail-a'] == 0o644


@pytest.mark.root
def test_another_name_of_a_file_in_alias(home, tmp_path):
    """A hard link to what alias may not read is no file of his; to one of his own it is."""
    write(tmp_path, {'secret': 'of root', 'qmail/control/me': 'a.test\n', 'qmail/alias/.qmail-b': '&ann@x.test\n'})
    os.chmod(tmp_path / 'secret', 0o600)
    old = tmp_path / 'qmail/alias'
    os.link(tmp_path / 'secret', old / '.qmail-a')
    os.link(old / '.qmail-b', old / '.qmail-c')
    for path in (old, old / '.qmail-b'):
        os.chown(path, 64112, 64111)
    os.chmod(old / '.qmail-b', 0o600)
    code, lines = run(home, 'qmail', tmp_path / 'qmail')
    assert code == 1 and 'look: alias/.qmail-a is not taken over: it is a link to what alias may not read' in lines
    assert sorted(path.name for path in (home / 'alias').iterdir()) == ['.qmail-b', '.qmail-c']


def test_an_old_file_of_alias_is_no_address(home, tmp_path):
    """What was there is put beside the new one, under a name that no mail comes to."""
    write(home, {'alias/.qmail-root': '&old@x.test\n'})
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', 'alias/.qmail-root': '&new@x.test\n'})
    assert 'written: alias/.qmail-root, the old one is alias/old.qmail-root' in run(home, 'qmail', tmp_path / 'qmail')[1]
    assert {path.name: path.read_text() for path in (home / 'alias').iterdir()} == {
        '.qmail-root': '&new@x.test\n', 'old.qmail-root': '&old@x.test\n'}


ROUTES = """h.org:relay.x:2525 joe p1
# h.org:relay.x:25 u p2
#:relay.x|u|p2
# a word: of wisdom p2
:[192.0.2.1] -a@b pà3 \t
k.org:relay.x:25:1:2 u p4
v6.org:[2001:db8::1]:25 u p4
one.org:relay.x u
three.org:relay.x u p4 more
lead.org: relay.x
u p4
k o.org:relay.x u p4
colon.org:relay.x:25:u:p4
bar.org:relay.x u|u|p4
open.org:relay.x|u
eq.org:relay.x x=u p4
dns.org:
plain.org:relay.x:26 \t
list.org:relay.x|u|p5 with blanks
"""
TAKEN = """h.org:joe@relay.x:2525
# h.org:relay.x:25
#:relay.x
# a word:
:a@b@[192.0.2.1]
%s
dns.org:
plain.org:relay.x:26
list.org:u@relay.x
"""


def test_logins_behind_blanks(home, tmp_path):
    """USER PASSWORD behind a place is a login; every other line with words there is told by its number, and nothing that
    may be a password stands in the report or in a file that everybody reads."""
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', 'control/smtproutes': ROUTES,
                               'control/authsenders': '@b.test:relay.b u p6\n:relay.c u p7\nj@b.test:relay.b x\nk@b.test:relay.b\n'})
    code, lines = run(home, 'qmail', tmp_path / 'qmail')
    text = '\n'.join(lines)
    assert (home / 'control/smtproutes').read_text() == TAKEN % '\n'.join('# not taken over: line %d' % n for n in range(6, 17))
    assert (home / 'control/smtplogins').read_text() == 'joe@relay.x:p1\na@b@192.0.2.1:pà3\nu@relay.x:p5 with blanks\nu@relay.b:p6\nu@relay.c:p7\n'
    assert (home / 'control/senderroutes').read_text() == \
        '@b.test:u@relay.b\n# not taken over: line 2\n# not taken over: line 3\nk@b.test:relay.b\n'
    assert code == 1 and 'look: control/smtproutes, line 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16: not taken over' in text
    assert 'look: control/authsenders, line 3: not taken over' in text and 'left out' not in text, text
    assert not re.search('p[1-7]', text), text
    assert {path.name for path in home.rglob('*') if path.is_file() and re.search('p[1-7]', path.read_text())} == {'smtplogins'}


def test_each_old_file_is_kept(home, tmp_path):
    """What was in DIR first stays as NAME~ however often something else comes; what came between has a number."""
    write(home, {'alias/.qmail-x': '&0@x.test\n', 'control/me': '0.test\n'})
    for number in range(1, 5):
        write(tmp_path / 'qmail', {'control/me': '%d.test\n' % number, 'alias/.qmail-x': '&%d@x.test\n' % number})
        lines = run(home, 'qmail', tmp_path / 'qmail')[1]
    assert 'written: control/me, the old one is control/me.~4~' in lines
    assert 'written: alias/.qmail-x, the old one is alias/old4.qmail-x' in lines
    for number, (control, alias) in enumerate((('me~', 'old.qmail-x'), ('me.~2~', 'old2.qmail-x'), ('me.~3~', 'old3.qmail-x'),
                                               ('me.~4~', 'old4.qmail-x'), ('me', '.qmail-x'))):
        assert ((home / 'control' / control).read_text(), (home / 'alias' / alias).read_text()) == (
            '%d.test\n' % number, '&%d@x.test\n' % number)
        assert control == 'me' or controls.is_copy(control.encode())


def test_a_report_that_nobody_hears_out(home, tmp_path):
    """Piped to head, it says nothing of a broken pipe, and does its work to the end."""
    write(tmp_path / 'qmail', QMAIL)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([ROOT + '/bin/qpy-import', 'qmail', str(tmp_path / 'qmail')], stdout=writer, stderr=subprocess.PIPE,
                          env={'QPYHOME': str(home)})
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b'')
    assert (home / 'users/cdb').stat().st_size and (home / 'control/virtualdomains').read_text() == QMAIL['control/virtualdomains']


@pytest.mark.parametrize('files, said', [
    ({}, 'control/concurrencylocal (10 there, 200 here), concurrencyremote (20 there, 200 here)'),
    ({'control/concurrencylocal': '10\n'}, 'control/concurrencyremote (20 there, 200 here)'),
    ({'control/concurrencylocal': '10\n', 'control/concurrencyremote': '20\n'}, '')])
def test_more_at_a_time(home, tmp_path, files, said):
    """Without its files of concurrency qmail does less at a time than we do: that is said."""
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', **files})
    found = [line for line in run(home, 'qmail', tmp_path / 'qmail')[1] if 'at a time here' in line]
    assert [line.rpartition(': ')[2] for line in found] == ([said] if said else [])


@pytest.mark.parametrize('where, told', [('/var/qmail/alias', True), ('/home/bob', False)])
def test_the_old_alias_directory(home, tmp_path, where, told):
    """users/assign may send what is for alias to the directory that was left: that is told."""
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', 'users/assign': '+:alias:7790:2108:%s:-::\n.\n' % where})
    assert any('goes to the old' in line for line in run(home, 'qmail', tmp_path / 'qmail')[1]) == told


def test_a_control_file_that_leads_nowhere(home, tmp_path):
    """A link to nothing is told as that."""
    write(tmp_path / 'qmail', {'control/me': 'a.test\n'})
    (tmp_path / 'qmail/control/helohost').symlink_to('/nowhere/at/all')
    assert 'no equal: control/helohost: it is no file, or leads nowhere' in run(home, 'qmail', tmp_path / 'qmail')[1]


def test_an_open_relay_is_not_brought_along(home, tmp_path):
    """qmail without rcpthosts accepted everything: that is said, and does not go on."""
    write(tmp_path / 'qmail', {'control/me': 'a.test\n'})
    code, lines = run(home, 'qmail', tmp_path / 'qmail')
    assert code == 0 and any('an open relay' in line for line in lines)
    assert not (home / 'control/rcpthosts').exists()


@pytest.mark.parametrize('words', [(), ('exim',), ('qmail', 'a', 'b'), ('-n',)])
def test_wrong_usage(home, words):
    """100, and how it is called."""
    assert run(home, *words)[0] == 100


@pytest.mark.parametrize('what', ['qmail', 'postfix', 'queue'])
def test_nothing_there(home, tmp_path, what):
    """111, and what is missing."""
    code, lines = run(home, what, tmp_path / 'absent')
    assert code == 111 and 'no such directory' in lines[0]


@pytest.mark.parametrize('what, below', [('qmail', ''), ('queue', '/queue')])
def test_qpy_itself(home, tmp_path, what, below):
    """/var/qmail may lead to qpy by now: it is not what it once was."""
    (home / 'queue').mkdir()
    (tmp_path / 'var-qmail').symlink_to(home)
    code, lines = run(home, what, str(tmp_path / 'var-qmail') + below)
    assert code == 111 and 'leads to qpy itself' in lines[0]


# --- Postfix -------------------------------------------------------------------------------------------------

MAIN = r'''# a comment
smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
myhostname = mail.example.org
myorigin = /etc/mailname
mydestination = $myhostname, example.org,
    localhost.$mydomain localhost
  # a comment inside
relayhost = [smtp.isp.example]:587
mynetworks = 127.0.0.0/8 10.1.0.0/16 [::1]/128
relay_domains = hash:/etc/postfix/relay
virtual_alias_domains = example.net
virtual_alias_maps = hash:/etc/postfix/virtual, mysql:/etc/postfix/mysql.cf
transport_maps = hash:/etc/postfix/transport
smtp_sasl_password_maps = hash:/etc/postfix/sasl
smtp_tls_policy_maps = texthash:${config_dir_of_mine}/tls
config_dir_of_mine = /etc/postfix
smtp_tls_security_level = may
maximal_queue_lifetime = 3d
delay_warning_time = 4
smtp_bind_address = 192.0.2.7
smtp_bind_address6 = [2001:db8::7]
home_mailbox = Maildir/
recipient_delimiter = +
mailbox_size_limit = 0
smtpd_milters = inet:localhost:8891, unix:/run/x.sock inet:far.example:1
milter_default_action = accept
smtpd_client_restrictions = permit_mynetworks, reject_rbl_client zen.example=127.0.0.[2..11], reject_unknown_client_hostname
smtpd_recipient_restrictions = reject_unauth_destination check_policy_service inet:127.0.0.1:10023
    check_policy_service unix:private/policy reject_rbl_client other.example
smtpd_tls_cert_file = /etc/ssl/chain.pem
smtpd_tls_key_file = /etc/ssl/key.pem
header_checks = regexp:/etc/postfix/header_checks
sender_dependent_relayhost_maps = hash:/etc/postfix/bysender
'''
POSTFIX = {
    'main.cf': MAIN, 'relay': 'partner.example OK\n',
    'virtual': '# comment\nexample.net anything\nann@example.net ann, bob@far.example\n@example.net catch\n'
               'info@example.org ann\nsales bob\njoe@elsewhere.example joe\nfirst.last@example.net ann\n'
               'pipe@example.net "|/bin/x"\n',
    'transport': 'old.example smtp:[10.0.0.9]:2525\n.partner.example relay:[gate.example]\n'
                 'imap.example lmtp:unix:/run/dovecot/lmtp\nno.example error:gone\nu@x.example smtp:[y]\n',
    'sasl': '[smtp.isp.example]:587 joe@isp.example:se:cret\n', 'bysender': 'a@b.example [out.example]:465\n',
    'tls': 'example.com encrypt\nsecure.example secure match=nexthop\n[mx.example]:587 dane\n'}


def test_postfix(home, tmp_path):
    """main.cf with continuations and $names, and its tables, become control and alias files."""
    write(tmp_path / 'postfix', POSTFIX)
    write(tmp_path, {'mailname': 'example.org\n'})
    code, lines = run(home, 'postfix', tmp_path / 'postfix')
    text, control = '\n'.join(lines), home / 'control'
    assert code == 1, text
    expected = {
        'me': 'mail.example.org\n', 'defaulthost': 'example.org\n',
        'locals': 'mail.example.org\nexample.org\nlocalhost.example.org\nlocalhost\n',
        'rcpthosts': 'mail.example.org\nexample.org\nlocalhost.example.org\nlocalhost\npartner.example\n'
                     '.partner.example\nexample.net\n',
        'virtualdomains': 'example.net:alias-example.net\njoe@elsewhere.example:alias-elsewhere.example\n',
        'smtproutes': 'old.example:10.0.0.9:2525\n.partner.example:gate.example\n'
                      'imap.example:lmtp=/run/dovecot/lmtp\n:joe@isp.example@smtp.isp.example:587\n',
        'smtplogins': 'joe@isp.example@smtp.isp.example:se:cret\n', 'senderroutes': 'a@b.example:smtps=out.example\n',
        'tlsdestinations': 'example.com:encrypt\nsecure.example:verify\nmx.example:dane\n',
        'tcp.smtp': '127.0.0.0/8:allow,RELAYCLIENT=""\n10.1.0.0/16:allow,RELAYCLIENT=""\n'
                    '[::1]/128:allow,RELAYCLIENT=""\n:allow\n',
        'outgoingip': '192.0.2.7\n2001:db8::7\n', 'dnsbl': 'zen.example =127.0.0.2-11\nother.example\n',
        'policyservers': '127.0.0.1:10023\n',
        'milters': '127.0.0.1:8891 default=accept\n/run/x.sock default=accept\n', 'databytes': '10240000\n', 'queuelifetime': '259200\n', 'delaywarning': '14400\n', 'defaultdelivery': './Maildir/\n'}
    for name, wanted in expected.items():
        assert (control / name).read_text() == wanted, name
    assert {path.name: path.read_text() for path in (home / 'alias').iterdir()} == {
        '.qmail-example:net-ann': '&ann@example.org\n&bob@far.example\n',
        '.qmail-example:net-default': '&catch@example.org\n', '.qmail-info': '&ann@example.org\n',
        '.qmail-sales': '&bob@example.org\n', '.qmail-elsewhere:example-joe': '&joe@example.org\n',
        '.qmail-example:net-first:last': '&ann@example.org\n'}
    for wanted in ('look: inet:far.example:1 is not taken over', 'no equal: smtpd_client_restrictions: reject_unknown_client_hostname',
                   'look: smtpd_tls_cert_file: qpy-cert default /etc/ssl/chain.pem /etc/ssl/key.pem', 'no equal: header_checks: ',
                   'look: virtual_alias_maps: unable to use', 'look: transport: "no.example error:gone" is not taken over',
                   'look: recipient_delimiter +', 'look: virtual: pipe@example.net', 'look: aliases stay in /etc/aliases',
                   'look: smtp_tls_policy_maps: look at "secure.example'):
        assert wanted in text, (wanted, text)
    assert 'config_dir_of_mine' not in text and 'mailbox_size_limit' not in text


def test_what_only_looks_taken_over(home, tmp_path):
    """Expressions of patches in lists of addresses, and .qmail lines with a carriage return, are told, whose addresses are
    plain are not."""
    write(tmp_path / 'qmail', {
        'control/me': 'a.test\n', 'control/badmailfrom': '# .*@x\n.*@regex\\.test$\nplain@x.test\n@[192.0.2.1]\nv+a=b@x.test\n!ok@x.test\n',
        'control/badrcptto': 'a.b@x.test\n', 'alias/.qmail-cr': '&joe@x.test\n|true\r\n./Maildir/\r\n', 'alias/.qmail-lf': '&joe@x.test\n'})
    code, lines = run(home, 'qmail', tmp_path / 'qmail')
    looks = [line for line in lines if 'patterns' in line or 'carriage' in line]
    assert code == 1 and len(looks) == 2, lines
    assert looks[0].endswith('match them: .*@regex\\.test$, !ok@x.test') and 'control/badmailfrom' in looks[0]
    assert looks[1].startswith('look: alias/.qmail-cr: line 2, 3 ends in a carriage return: its mail waits')


PASSWD = [types.SimpleNamespace(pw_name=name, pw_uid=uid, pw_dir='/home/' + name) for name, uid in (
    ('root', 0), ('old', 500), ('svc', 501), ('vpop', 89), ('alias', 64), ('joe', 1001), ('nohome', 502))]
LINES = '=vpop:vpop:89:89:/home/vpop:::\n+:alias:64:64:/q/alias:-::\n=r:boss:1001:0:/home/r:::\n=joe:joe:1001:1001:/home/joe:::\n.\n'


def test_accounts_that_get_no_mail_here(home, tmp_path, monkeypatch, capsys):
    """Who has a uid below 1000 and a home of his own, and no line in users/assign, is named with the remedy; so are
    lines there as which nothing is delivered, and those that count after a new start."""
    owners = {'/home/old': 500, '/home/svc': 0, '/home/vpop': 89, '/home/alias': 64, '/home/joe': 1001, '/home/root': 0}
    found = list(mailusers.notes(PASSWD, LINES, 'alias', owners.get))
    assert [line.rpartition(': ')[2] for line in found] == ['old', 'boss', 'vpop'], found
    assert list(mailusers.notes(PASSWD, LINES.replace('=r', '=old:old:500:500:/home/old:::\n=x'), 'alias', owners.get))[0][:12] == 'users/assign'
    assert list(mailusers.notes([], '', 'alias', owners.get)) == []
    write(tmp_path / 'postfix', {'main.cf': 'myhostname = a.test\n'})
    monkeypatch.setattr(pwd, 'getpwall', lambda: PASSWD)
    monkeypatch.setattr(import_, 'owner_of_home', owners.get)
    import_.main(os.fsencode(home), [b'-n', b'postfix', os.fsencode(tmp_path / 'postfix')])
    told = re.search('look: these accounts have a uid below 1000.* they get no mail here.* users/assign .*: old, vpop\n', capsys.readouterr().out)
    assert bool(told) == (os.geteuid() == 0)       # else DIR is an installation of one account


def test_what_postfix_meant_is_what_we_do(home, tmp_path):
    """The addresses of `virtual` go where Postfix would send them: sendmail -bv on the imported files."""
    write(tmp_path / 'postfix', POSTFIX)
    write(tmp_path, {'mailname': 'example.org\n'})
    run(home, 'postfix', tmp_path / 'postfix')
    done = subprocess.run([ROOT + '/bin/qpy-sendmail', '-bv', 'joe@elsewhere.example', 'ann@example.net',
                           'any@partner.example'], capture_output=True, text=True, env={'QPYHOME': str(home)})
    assert 'joe@elsewhere.example belongs to alias-elsewhere.example' in done.stdout, done.stdout
    assert 'example.net belongs to alias-example.net' in done.stdout, done.stdout
    assert 'any@partner.example ... deliverable, remote' in done.stdout, done.stdout


STRANGE = {
    'main.cf': '''myhostname = mail.example.org
mydestination = $myhostname, /etc/postfix/here, regexp:/etc/postfix/re, !not.example
mynetworks = !10.0.0.5, 10.0.0.0/8, cidr:/etc/postfix/nets, /etc/postfix/netfile, pcre:/etc/postfix/re, [::1]/128
virtual_alias_domains = $virtual_alias_maps
virtual_alias_maps = hash:/etc/postfix/virtual inline:{ {foo@ex.test = bar} }
transport_maps = hash:/etc/postfix/transport
relayhost = [never.asked.test]
mailbox_command = /usr/bin/procmail -a "$EXTENSION" DEFAULT=${HOME}/Maildir/ d=${DOMAIN}
alias_maps = hash:/etc/aliases, nis:mail.aliases
luser_relay = catch@example.org
recipient_delimiter = +
''', 'here': 'one.test, two.test\n  three.test\n', 're': '/x/ y\n', 'nets': '172.16.0.0/12 OK\n', 'netfile': '172.20.0.1\n',
    'virtual': 'ex.test x\ninfo@ex.test "a \\"b\\""@x.test, joe\n ann\nroot admin@ex.test\nname@ex.test Joe <joe@x.test>\n',
    'transport': '* smtp:[star.test]\nbad.test error:5.1.1 no such\n'}


def test_strange_postfix(home, tmp_path):
    """Files and tables in lists, networks that are excepted, quoted and inline things, $names that are not parameters:
    taken over as they are meant, or told; never something else."""
    write(tmp_path / 'postfix', STRANGE)
    code, lines = run(home, 'postfix', tmp_path / 'postfix')
    assert code == 1, lines
    for name, wanted in {
            'locals': 'mail.example.org\none.test\ntwo.test\nthree.test\n', 'virtualdomains': 'ex.test:alias-ex.test\n',
            'tcp.smtp': '10.0.0.5:allow\n10.0.0.0/8:allow,RELAYCLIENT=""\n172.16.0.0/12:allow,RELAYCLIENT=""\n'
                        '172.20.0.1:allow,RELAYCLIENT=""\n[::1]/128:allow,RELAYCLIENT=""\n:allow\n',
            'smtproutes': ':star.test\n',
            'defaultdelivery': '|preline /usr/bin/procmail -a "$EXT" DEFAULT=${HOME}/Maildir/ d=${HOST}\n'}.items():
        assert (home / 'control' / name).read_text() == wanted, name
    assert {path.name: path.read_text() for path in (home / 'alias').iterdir()} == {
        '.qmail-ex:test-info': '&a "b"@x.test\n&joe@mail.example.org\n&ann@mail.example.org\n',
        '.qmail-root': '&admin@ex.test\n'}
    for wanted in ('mydestination: regexp:/etc/postfix/re', 'mydestination: !not.example', 'mynetworks: pcre:/etc/postfix/re',
                   'virtual_alias_domains: inline:{ {foo@ex.test = bar} }', 'virtual: name@ex.test: the target <joe@x.test>',
                   'transport: "bad.test error:5.1.1 no such"', 'luser_relay: &catch@example.org', 'recipient_delimiter +',
                   'alias_maps: nis:mail.aliases is not read'):
        assert [line for line in lines if line.startswith('look: ' + wanted)], (wanted, lines)
    assert 'Postfix looks up MX records' not in '\n'.join(lines)


@pytest.mark.parametrize('main, files, said', [
    ('luser_relay = c@x.test\n', {'alias/.qmail-default': '&c@x.test\n'}, ''),
    ('luser_relay = $user@x.test\n', {'alias/.qmail-default': None}, 'no equal: luser_relay'),
    ('default_transport = smtp:[out.test]:26\n', {'control/smtproutes': ':out.test:26\n'}, ''),
    ('default_transport = uucp:x\n', {'control/smtproutes': None}, 'no equal: default_transport: uucp:x'),
    ('default_transport = smtp\n', {'control/smtproutes': None}, ''),
    ('mynetworks_style = subnet\n', {}, 'no equal: mynetworks_style: subnet'),
    ('mydestination =\n', {'control/locals': 'new.test\nlocalhost\n'}, 'look: mydestination is empty'),
    ('mynetworks_style = subnet\nmynetworks = 10.0.0.0/8\n', {}, '')])
def test_one_parameter(home, tmp_path, main, files, said):
    """What some parameters become, and what is said of them."""
    write(tmp_path / 'postfix', {'main.cf': 'myhostname = a.test\n' + main})
    text = '\n'.join(run(home, 'postfix', tmp_path / 'postfix')[1])
    for name, wanted in files.items():
        assert ((home / name).read_text() if (home / name).exists() else None) == wanted
    assert (said or 'look: ') in text and ('no equal' in text) == ('no equal' in said), text


def test_where_mail_of_users_went(home, tmp_path):
    """mailbox_transport comes before the other ways, and is what is told."""
    for main, said in (('mailbox_transport = lmtp:unix:private/dovecot-lmtp\nmailbox_command = procmail\n', 'lmtp:unix:private/dovecot-lmtp'),
                       ('mailbox_transport = lmtp:$a\na = b\nhome_mailbox = Mail/\n', 'lmtp:b'), ('', None)):
        write(tmp_path / 'postfix', {'main.cf': main})
        text = '\n'.join(run(home, '-n', 'postfix', tmp_path / 'postfix')[1])
        assert ('mail went to /var/mail/USER' in text) == (said is None) and 'defaultdelivery\n' not in text
        assert said is None or 'look: mailbox_transport: mail went to %s; here' % said in text, text


MASTER = '''# comment
smtp      inet  n       -       y       -       -       smtpd
#submission inet n      -       y       -       -       smtpd
pickup    unix  n       -       y       60      1       pickup
rewrite   unix  -       -       y       -       -       trivial-rewrite
smtp      unix  -       -       y       -       -       smtp
relay     unix  -       -       y       -       -       smtp
        -o syslog_name=postfix/$service_name
#       -o smtp_helo_timeout=5
postlog   unix-dgram n  -       n       -       1       postlogd
maildrop  unix  -       n       n       -       -       pipe
  flags=DRXhu user=vmail argv=/usr/bin/maildrop -d ${recipient}
'''


@pytest.mark.parametrize('more, added', [
    ('', ''), ('short line\n', ''), ('2525 inet n - y - - smtpd\n', '2525/inet smtpd'),
    ('submission inet n - y - - smtpd\n  -o syslog_name=postfix/submission\n  -o smtpd_tls_security_level=encrypt\n'
     'mine unix - n n - - pipe\n  user=x argv=/bin/x\n', 'submission/inet smtpd, mine/unix pipe'),
    ('smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\n', 'smtp/inet postscreen, smtpd/pass smtpd'),
    ('smtp inet n - y - - smtpd -o content_filter=x:[127.0.0.1]:10024\n', 'smtp/inet smtpd')])
def test_services_of_a_master_cf(home, tmp_path, more, added):
    """Those that Debian's has not, and those with options of their own, are named in one line."""
    write(tmp_path / 'postfix', {'main.cf': '', 'master.cf': MASTER + more})
    lines = [line for line in run(home, '-n', 'postfix', tmp_path / 'postfix')[1] if 'master.cf' in line]
    assert lines == ["look: master.cf is not read; these services in it are not as Debian's: %s; what listens here stands in "
                     'control/services, what a command delivers in .qmail files' % added] * bool(added)


LIST = 'relay_domains = r.test\nrelay_transport = '


@pytest.mark.parametrize('main, transport, routes, said', [
    ('relayhost = [smart.test]:587 [smart2.test]\n', '', ':smart.test:587 smart2.test\n', ''),
    ('relayhost = [smart.test]:587,[smart2.test]:465 ,\n  [ipv6:2001:db8::1]:26, [10.0.0.1]\n', '',
     ':smart.test:587 smtps=smart2.test [2001:db8::1]:26 10.0.0.1\n', ''),
    ('relayhost = smart.test:587, smart2.test\n', '', ':smart.test:587 smart2.test\n', 'relayhost: for smart2.test Postfix looks up MX'),
    ('relayhost = [smart.test]:587 [smart2.test]:gopher\n', '', None, 'no equal: relayhost: [smart.test]:587 [smart2.test]:gopher'),
    ('relayhost = [smart.test]x:587\n', '', None, 'no equal: relayhost: [smart.test]x:587'),
    ('relayhost =%s\n' % (' [a.test]' * 11), '', None, 'no equal: relayhost: [a.test] [a.test]'),
    ('', 'x.test smtp:[x.a.test]:26, [y.a.test]\n', 'x.test:x.a.test:26 y.a.test\n', ''),
    ('', 'x.test lmtp:[x.a.test]:26 [y.a.test]\n', 'x.test:lmtp=x.a.test:26 lmtp=y.a.test\n', ''),
    ('', 'x.test lmtp:unix:a, unix:b\n', None, 'transport: "x.test lmtp:unix:a, unix:b" is not taken over'),
    ('', 'x.test smtp::26\n', None, 'transport: "x.test smtp::26" is not taken over'),
    (LIST + 'smtp:[a.test] [b.test]:26\n', '', 'r.test:a.test b.test:26\n.r.test:a.test b.test:26\n', ''),
    ('relayhost = [out.test]:587\nmydestination = here.test\n', 'x.test :\n.x.test :\n* :\nhere.test :\ny.test smtp:\n',
     'y.test:\n:out.test:587\nx.test:out.test:587\n.x.test:out.test:587\n', ''),
    ('', 'x.test :\n* smtp:[star.test]\n', ':star.test\nx.test:\n', ''),
    ('relay_domains = r.test\nrelay_transport = smtp:[in.test]:26\n', 'r.test :\nx.r.test :\n* smtp:[star.test]:26\n',
     ':star.test:26\nr.test:in.test:26\nx.r.test:in.test:26\n', ''),
    ('smtp_tls_wrappermode = yes\nrelayhost = [a.test]:465 [b.test]:26\n', '', ':smtps=a.test smtps=b.test:26\n', '')])
def test_several_places(home, tmp_path, main, transport, routes, said):
    """A list of places, which Postfix tries in turn (3.5), is one here, each place with its own port; or it is told whole."""
    write(tmp_path / 'pf', {'transport': transport})
    text, file = imported(home, tmp_path, 'transport_maps = hash:%s/pf/transport\n%s' % (tmp_path, main), '')[1], home / 'control/smtproutes'
    assert (file.read_text() if file.exists() else None) == routes, text
    assert said in text and ('no equal' in text) == ('no equal' in said) and 'left out' not in text, text
    assert 'not taken over' in said or 'not taken over' not in text


def test_the_first_entry_counts(home, tmp_path):
    """Of one key, whatever its case, the first entry counts, in a table and over several, as in Postfix: no other relay, no
    weaker TLS, nobody else's addresses."""
    parts = {'transport': ('x.test smtp:[one.test]:26\nx.test smtp:[three.test]:26\n', 'X.test smtp:[two.test]:26\n'),
             'policy': ('[one.test]:26 encrypt\none.test encrypt\n', 'one.test none\n'),
             'bysender': ('joe@h.test [one.test]\n', 'joe@h.test [two.test]\n'), 'logins': ('boss@h.test boss\n', 'boss@h.test joe\n')}
    write(tmp_path / 'pf', {name + number: text for name, texts in parts.items() for number, text in zip('12', texts)})
    settings = {'transport_maps': 'transport', 'smtp_tls_policy_maps': 'policy', 'sender_dependent_relayhost_maps': 'bysender',
                'smtpd_sender_login_maps': 'logins'}
    main = ''.join('%s = hash:%s/pf/%s1, hash:%s/pf/%s2\n' % (setting, tmp_path, name, tmp_path, name) for setting, name in settings.items())
    imported(home, tmp_path, main, '')
    written = ''.join((home / 'control' / name).read_text() for name in ('smtproutes', 'tlsdestinations', 'senderroutes', 'authsenders'))
    assert all(words in written for words in ('x.test:one.test:26\n', 'one.test:encrypt\n', 'joe@h.test:one.test\n', 'boss:boss@h.test\n'))
    assert not any(words in written for words in ('two.test', 'three.test', 'none', 'joe:'))


def test_logins_at_several_places(home, tmp_path):
    """Each place of a list has its own login, by sender too."""
    write(tmp_path / 'pf', {'bysender': 'joe@h.test [one.test]:587, [two.test]:465\nann@h.test [one.test] [two.test]:gopher\n',
                            'sasl': '[one.test]:587 joe:a\ntwo.test eve:b\n[three.test]:26 x:c\n'})
    code, text, _ = imported(home, tmp_path, 'sender_dependent_relayhost_maps = hash:/etc/postfix/bysender\nrelayhost = [four.test] [three.test]:26\n' + SASL, '')
    assert (home / 'control/senderroutes').read_text() == 'joe@h.test:joe@one.test:587 smtps=eve@two.test\n'
    assert (home / 'control/smtproutes').read_text() == ':four.test x@three.test:26\n'
    assert (home / 'control/smtplogins').read_text() == 'x@three.test:c\njoe@one.test:a\neve@two.test:b\n'
    assert 'sender_dependent_relayhost_maps: "ann@h.test [one.test] [two.test]:gopher" is not taken over' in text and code == 1


CIDR = '10.0.0.0/8 OK\n!10.9.0.0/16 OK\nif 192.0.2.0/24\n192.0.2.5 OK\nIF !192.0.2.0/25\n192.0.2.200 OK\nENDIF\nendif\n172.16.0.0/12 OK\n'


def test_conditions_of_networks(home, tmp_path):
    """if, endif, what is between them and !net in a cidr table are told, and are no hosts; so is a table that is excepted."""
    write(tmp_path / 'pf', {'nets': CIDR})
    code, text, _ = imported(home, tmp_path, 'mynetworks = cidr:/etc/postfix/nets !cidr:/etc/postfix/nets !/etc/x !10.1.2.3\n', '')
    assert (home / 'control/tcp.smtp').read_text() == \
        '10.0.0.0/8:allow,RELAYCLIENT=""\n172.16.0.0/12:allow,RELAYCLIENT=""\n10.1.2.3:allow\n:allow\n'
    assert code == 1 and ('look: mynetworks: cidr:/etc/postfix/nets: conditions and exceptions are not taken over: !10.9.0.0/16 OK, '
                          'if 192.0.2.0/24, 192.0.2.5 OK, IF !192.0.2.0/25, 192.0.2.200 OK, ENDIF, endif\n') in text, text
    for word in ('!cidr:/etc/postfix/nets', '!/etc/x'):
        assert 'look: mynetworks: %s is not taken over' % word in text


@pytest.mark.parametrize('table, said', [
    ('proxy:mysql:/etc/postfix/m.cf', True), ('lmdb:/none', True), ('ldap:x', True), ('proxy:hash:/etc/postfix/virtual', False)])
@pytest.mark.parametrize('first', [True, False])
def test_a_table_that_comes_first_and_was_not_seen(home, tmp_path, table, said, first):
    """The first table that has an entry decides in Postfix: that one could not be read is told where another follows it."""
    tables = [table, 'hash:/etc/postfix/virtual']
    text = imported(home, tmp_path, 'virtual_alias_maps = %s\n' % ', '.join(tables if first else tables[::-1]), 'v.test x\nann@v.test joe\n')[1]
    wanted = 'look: virtual_alias_maps: the entries of %s come first in Postfix, and were not seen' % table
    assert (wanted in text) == (said and first) and ('come first' in text) == (said and first), text
    assert (home / 'alias/.qmail-v:test-ann').read_text() == '&joe@h.test\n'


@pytest.mark.skipif(os.geteuid() != 0, reason='needs root: the caller may not write')
def test_what_is_written_is_said_when_it_is(home, tmp_path):
    """Who may not write into DIR is told so, and of nothing else."""
    write(tmp_path / 'postfix', {'main.cf': 'myhostname = a.test\n'})
    tmp_path.chmod(0o755)
    done = subprocess.run([ROOT + '/bin/qpy-import', 'postfix', str(tmp_path / 'postfix')], capture_output=True, text=True,
                          env={'QPYHOME': str(home)}, user=64111, group=64111, extra_groups=[])
    assert done.returncode == 111 and done.stdout == '' and 'Permission denied' in done.stderr


def imported(home, tmp_path, main, virtual):
    """(exit code, report, {name: text} of alias/) of a main.cf and the table virtual of the same directory."""
    write(tmp_path / 'pf', {'main.cf': 'myhostname = h.test\nvirtual_alias_maps = hash:%s/pf/virtual\n%s' % (tmp_path, main),
                            'virtual': virtual})
    code, lines = run(home, 'postfix', tmp_path / 'pf')
    return code, '\n'.join(lines), {path.name: path.read_text() for path in (home / 'alias').iterdir()}


TWO = 'mydestination = a.test, b.test\n'
ONE = 'mydestination = a.test, localhost\n'


@pytest.mark.parametrize('main, virtual, files, said', [
    (TWO, 'info@a.test joe\ninfo@b.test eve\nx@a.test y\n', {'.qmail-x': '&y@h.test\n'},
     'virtual: info@a.test, info@b.test: not taken over: they differ'),
    (TWO, 'info@a.test joe\ninfo@b.test "|x"\n', {}, 'virtual: info@a.test, info@b.test: not taken over: a target'),
    (TWO, 'info@a.test joe\ninfo@b.test joe@h.test\n', {'.qmail-info': '&joe@h.test\n'}, ''),
    (TWO, 'info@a.test joe\ninfo@a.test eve\n', {'.qmail-info': '&joe@h.test\n'}, 'these count in all domains of control/locals, now: info@a.test'),
    (ONE, '@a.test eve\n', {'.qmail-default': '&eve@h.test\n'}, 'accounts and /etc/aliases keep their own mail'),
    (ONE, '@a.test eve\nx@a.test "|y"\n', {'.qmail-default': '&eve@h.test\n'}, 'comes to the catch-all of their domain, now: x@a.test'),
    (ONE, 'v.test v\n@v.test eve\nx@v.test "|y"\n', {'.qmail-v:test-default': '&eve@h.test\n'},
     'comes to the catch-all of their domain, now: x@v.test'),
    (TWO, '@a.test eve\n', {}, '@a.test: not taken over: alias/.qmail-default would serve all'),
    (TWO, '@a.test eve\n@b.test joe\n', {}, '@a.test, @b.test: not taken over: they differ'),
    (TWO, '@a.test eve\n@b.test eve\n', {'.qmail-default': '&eve@h.test\n'}, ''),
    (ONE, 'v.test x\njoe@v.test eve\n@a.test eve\n', {'.qmail-v:test-joe': '&eve@h.test\n'},
     '@a.test: not taken over: alias/.qmail-default would catch'),
    (ONE, 'info@a.test @x.test\n', {'.qmail-info': '&info@x.test\n'}, ''),
    (ONE, 'info@a.test info@a.test\n', {}, ''),
    (ONE, 'info@a.test info@a.test, eve\n', {}, 'info@a.test: not taken over: a target has no equal, or is the address itself'),
    (ONE, 'v.test x\n"x y"@v.test joe\n', {'.qmail-v:test-x y': '&joe@h.test\n'}, ''),
    (ONE, 'v.test x\n"x y@v.test joe\nv"w@a.test joe\n', {}, 'virtual: v"w@a.test is not taken over: a quotation mark'),
    (ONE + 'myorigin = o.test\n', 'x@a.test y, z@a.test "b c"\n', {'.qmail-x': '&y@o.test\n&z@a.test\n&b c@o.test\n'}, ''),
    (ONE, 'x@a.test \\y, \\"z"@a.test "b\\c"\n', {'.qmail-x': '&y@h.test\n&"z"@a.test\n&bc@h.test\n'}, ''),
    (ONE, 'info@a.test \\info@a.test\nx@a.test \\|y\n', {}, 'the target \\|y is not taken over'),
    (ONE + 'myorigin = /none/there\n', 'x@a.test y\nz@a.test y@b.test\n', {'.qmail-z': '&y@b.test\n'},
     'myorigin: unable to read /none/there')])
def test_where_virtual_aliases_lead(home, tmp_path, main, virtual, files, said):
    """One .qmail file of alias serves all local domains: what it cannot say is told, with 1, and not written."""
    code, text, found = imported(home, tmp_path, main, virtual)
    assert found == files and said in text and code == ('not taken over' in text), text


FOO = ONE + 'myorigin = foo.test\n'
ROUND = 'not taken over: its targets lead back to it'


@pytest.mark.parametrize('main, virtual, domains, files, said', [
    (FOO, 'carl@foo.test carl@foo.test\n', '', {}, ''),
    (FOO, 'carl@foo.test Carl\n', '', {}, ''),
    (FOO, '@foo.test @foo.test\n', '', {}, ''),
    (FOO, 'x@foo.test x@foo.test, y@far.test\n', '', {}, 'virtual: x@foo.test: ' + ROUND),
    (FOO, 'bob@foo.test bob, y@far.test\nz@foo.test q@far.test\n', 'z@foo.test:alias-foo.test\n',
     {'.qmail-foo:test-z': '&q@far.test\n'}, 'virtual: bob@foo.test: ' + ROUND),
    (FOO, '"b b"@foo.test "b b", y@far.test\n', '', {}, 'virtual: "b b"@foo.test: ' + ROUND),
    (FOO, 'v.test x\nann@v.test ann@v.test\n', 'v.test:alias-v.test\n', {}, 'virtual: ann@v.test: ' + ROUND),
    (FOO, 'v.test x\n@v.test ann@v.test\n', 'v.test:alias-v.test\n', {}, 'virtual: @v.test: ' + ROUND),
    (FOO, 'v.test x\n@v.test @v.test\n', 'v.test:alias-v.test\n', {}, 'virtual: @v.test: ' + ROUND),
    (FOO, 'a@x.test b@x.test\nb@x.test a@x.test\nc@x.test a@x.test\n', 'c@x.test:alias-x.test\n',
     {'.qmail-x:test-c': '&a@x.test\n'}, 'virtual: a@x.test: ' + ROUND),
    (TWO, 'info@a.test bob@b.test\nbob@b.test info@b.test\n', '', {}, 'virtual: bob@b.test: ' + ROUND),
    (ONE, '@a.test @a.test\n', '', {}, ''),
    (ONE, '@a.test @localhost\n', '', {}, ''),
    (FOO, 'v.test x\n@v.test @foo.test\nw.test x\n@w.test @v.test\n', 'v.test:alias-v.test\nw.test:alias-w.test\n',
     {'.qmail-v:test-default': '|forward "$DEFAULT"@foo.test\n', '.qmail-w:test-default': '|forward "$DEFAULT"@v.test\n'}, '')])
def test_no_mail_goes_round(home, tmp_path, main, virtual, domains, files, said):
    """An address that is its own target stays what it is, as Postfix stops there; where it has others beside, or the way
    back is longer, its entry is told and not written."""
    code, text, found = imported(home, tmp_path, main, virtual)
    file = home / 'control/virtualdomains'
    assert found == files and (file.read_text() if file.exists() else '') == domains, text
    assert said in text and code == bool(said), text


@pytest.mark.parametrize('main, virtual, domains, files', [
    (FOO, 'root boss@foo.test\n', 'root@foo.test:alias-foo.test\n',
     {'.qmail-root': '&boss@foo.test\n', '.qmail-foo:test-root': '&boss@foo.test\n'}),
    (FOO, 'root boss@far.test\nroot@foo.test eve@far.test\n', 'root@foo.test:alias-foo.test\n',
     {'.qmail-root': '&boss@far.test\n', '.qmail-foo:test-root': '&eve@far.test\n'}),
    (FOO, 'boss boss\n', '', {'.qmail-boss': '&boss@foo.test\n'}),
    (FOO, 'foo.test x\nroot boss@far.test\n', 'foo.test:alias-foo.test\n',
     {'.qmail-root': '&boss@far.test\n', '.qmail-foo:test-root': '&boss@far.test\n'}),
    (ONE + 'myorigin = a.test\n', 'root boss@far.test\n', '', {'.qmail-root': '&boss@far.test\n'})])
def test_a_name_without_a_domain_is_one_at_myorigin(home, tmp_path, main, virtual, domains, files):
    """virtual(5): a key without a domain counts in mydestination and at myorigin, whether that is local or not."""
    code, text, found = imported(home, tmp_path, main, virtual)
    file = home / 'control/virtualdomains'
    assert code == 0 and found == files and (file.read_text() if file.exists() else '') == domains, text
    if domains and 'foo.test x' not in virtual:
        done = subprocess.run([ROOT + '/bin/qpy-sendmail', '-bv', 'root'], capture_output=True, text=True, env={'QPYHOME': str(home)})
        assert 'root@foo.test belongs to alias-foo.test' in done.stdout, done.stdout


def test_an_account_has_the_name(home, tmp_path):
    """Mail for an account never comes to alias: its entry is told, not written; one that only says so is no loss."""
    uid = os.geteuid() or 64111
    write(home, {'users/assign': '=joe:joe:%d:%d:%s:::\n.\n' % (uid, uid, tmp_path)})
    subprocess.run([ROOT + '/bin/qpy-newu'], check=True, env={'QPYHOME': str(home)})
    code, text, found = imported(home, tmp_path, ONE, 'joe@a.test eve\njim@a.test eve\n')
    assert code == 1 and found == {'.qmail-jim': '&eve@h.test\n'}, text
    assert 'look: virtual: joe@a.test: not taken over: it belongs to the user joe' in text
    code, text, found = imported(home, tmp_path, ONE, 'joe@a.test joe@a.test\njim@a.test eve\n')
    assert code == 0 and found == {'.qmail-jim': '&eve@h.test\n'}, text


def test_a_table_that_cannot_be_read(home, tmp_path):
    """The domain whose addresses stand in it is not made a virtual domain without any address; the end is 1."""
    main = 'virtual_alias_maps = hash:%s/none, hash:%s/pf/virtual\nvirtual_alias_domains = v.test w.test\n' % (tmp_path, tmp_path)
    code, text, found = imported(home, tmp_path, main, 'ann@v.test joe\n')
    assert code == 1 and 'unable to use the table hash:%s/none' % tmp_path in text, text
    assert (home / 'control/virtualdomains').read_text() == 'v.test:alias-v.test\n' and found == {'.qmail-v:test-ann': '&joe@h.test\n'}
    assert 'no address of w.test could be read' in text and 'w.test' not in (home / 'control/rcpthosts').read_text()


def test_a_chain_that_runs(home, tmp_path):
    """What makes a running chain read the new control files is said when there are some, and only then."""
    assert [imported(home, tmp_path, ONE, '')[1].count('look: a qpy that runs already: HUP') for _ in range(2)] == [1, 0]


def test_a_number_out_of_range(home, tmp_path):
    """The nearest number that its readers take is written, and said."""
    text = imported(home, tmp_path, 'smtpd_recipient_limit = 50\n', '')[1]
    assert (home / 'control/maxrcpt').read_text() == '100\n', text
    assert 'look: control/maxrcpt: 50 is out of range; the nearest, 100, is taken' in text


@pytest.mark.parametrize('main, limits, needs', [
    ('smtpd_client_connection_rate_limit = 30\n', 'connections:30/60s\n', False),
    ('smtpd_client_message_rate_limit = 5\nanvil_rate_time_unit = 1h\n', 'messages:5/3600s\n', True),
    ('smtpd_client_connection_rate_limit = 0\n', None, False)])
def test_rates(home, tmp_path, main, limits, needs):
    """Rates of one client become control/ratelimits; 0 is no limit; only what qpy-check counts needs it."""
    text, file = imported(home, tmp_path, main, '')[1], home / 'control/ratelimits'
    assert (file.read_text() if file.exists() else None) == limits, text
    assert ('line to control/services' in text) == needs and 'no equal' not in text


@pytest.mark.parametrize('command, told', [
    ('procmail -a "$EXTENSION"', not os.path.exists('/etc/procmailrc')), ('/usr/bin/procmail -a "$EXTENSION" DEFAULT=$HOME/Maildir/', False),
    ('/usr/bin/maildrop', False)])
def test_procmail_that_would_write_into_the_spool(home, tmp_path, command, told):
    """Debian's stock mailbox_command has procmail make /var/mail/USER, which no delivery may: what to write is said."""
    text = imported(home, tmp_path, 'mailbox_command = %s\n' % command, '')[1]
    assert ('look: control/defaultdelivery: procmail may make no file in /var/mail here' in text) == told, text


def test_procmail_of_a_qmail_home(home, tmp_path):
    """rc's default delivery is looked at too; who has a DEFAULT in /etc/procmailrc has nothing to do."""
    write(tmp_path / 'qmail', {'control/me': 'a.test\n', 'rc': "qmail-start '|preline procmail' splogger qmail\n"})
    assert 'look: control/defaultdelivery: procmail may make no file in /var/mail' in '\n'.join(run(home, 'qmail', tmp_path / 'qmail')[1])
    (tmp_path / 'procmailrc').write_text('DEFAULT=$HOME/Maildir/\n')
    assert [len(list(import_.of_procmail('|preline procmail', str(tmp_path / name)))) for name in ('procmailrc', 'none')] == [0, 1]


def test_every_parameter_of_the_readme_has_an_equal():
    """What README's table names is never `no equal` by its name alone."""
    with open(ROOT + '/README.md') as file:
        rows = file.read().partition('### From Postfix')[2].partition('\n## ')[0].split('\n|')[3:]
    named = {word for row in rows for word in re.findall('`([a-z0-9_]+)`', row.partition('|')[0])}
    tables, tools = {'virtual', 'transport', 'reject_rbl_client', 'check_policy_service'}, {'mailq', 'postsuper', 'postconf', 'newaliases'}
    known = delivery.SILENT | {name for name, _ in delivery.NUMBERS + delivery.TIMES + clients.RATES}
    assert len(named) > 20 and named - known == tables | tools


@pytest.mark.parametrize('main, files, said', [
    ('smtp_destination_rate_delay = 1s\n', {'destinationlimits': ':1 60/m\n'}, ''),
    ('default_destination_rate_delay = 7\n', {'destinationlimits': ':1 12342/d\n'}, ''),
    ('smtp_destination_rate_delay = 90\ndefault_destination_rate_delay = 5\n', {'destinationlimits': ':1 40/h\n'}, ''),
    ('smtp_destination_rate_delay = 0s\n', {'destinationlimits': None}, ''),
    ('smtp_destination_rate_delay = 2d\n', {'destinationlimits': None}, 'no equal: smtp_destination_rate_delay: 2d'),
    ('smtpd_upstream_proxy_protocol = haproxy\n', {}, 'ADDRESS:allow,PROXY="1" of each proxy into control/tcp.smtp'),
    ('mynetworks = 10.0.0.0/8 [::1]\nsmtpd_authorized_xclient_hosts = 10.0.0.5 192.0.2.7 proxy.test\n',
     {'tcp.smtp': '10.0.0.0/8:allow,RELAYCLIENT=""\n[::1]:allow,RELAYCLIENT=""\n10.0.0.5:allow,RELAYCLIENT="",XCLIENT="1"\n'
                  '192.0.2.7:allow,XCLIENT="1"\n:allow\n'},
     'smtpd_authorized_xclient_hosts: proxy.test is not taken over'),
    ('mynetworks = 10.1.0.0/16\nsmtpd_authorized_xclient_hosts = !10.1.0.9 10.0.0.0/8\n',
     {'tcp.smtp': '10.1.0.0/16:allow,RELAYCLIENT="",XCLIENT="1"\n10.1.0.9:allow,RELAYCLIENT=""\n10.0.0.0/8:allow,XCLIENT="1"\n'
                  ':allow\n'}, ''),
    ('smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = private/auth\n',
     {'auth': 'dovecot /var/spool/postfix/private/auth\n'}, 'this line stands in control/services: auth qpya seq:auth'),
    ('smtpd_sasl_type = dovecot\nsmtpd_sasl_path = inet:127.0.0.1:99\n', {'auth': None}, 'as control/auth says (qpy-auth.8)'),
    ('smtpd_sasl_auth_enable = yes\n', {'auth': None}, 'smtpd_sasl_type cyrus'),
    ('relay_domains = relay.test, to.test\nrelay_transport = smtp:[inside]\ntransport_maps = hash:/etc/postfix/transport\n'
     'relayhost = [out.test]\n',
     {'smtproutes': 'to.test:elsewhere\nrelay.test:inside\n.relay.test:inside\n.to.test:inside\n:out.test\n'}, ''),
    ('relay_domains = r.test\nrelay_transport = lmtp:unix:/run/l\nparent_domain_matches_subdomains =\n',
     {'smtproutes': 'r.test:lmtp=/run/l\n'}, ''),
    ('relay_domains = r.test\nrelay_transport = relay\n', {'smtproutes': None}, ''),
    ('relay_domains = r.test\nrelay_transport = uucp:x\n', {'smtproutes': None}, 'no equal: relay_transport: uucp:x'),
    ('smtpd_recipient_restrictions = check_policy_service unix:private/spf check_policy_service unix:/run/p\n',
     {'policyservers': '/run/p\n'}, 'check_policy_service unix:private/spf is where only Postfix can come'),
    ('smtpd_client_restrictions = check_policy_service unix:/var/spool/postfix/private/spf\n', {'policyservers': None}, 'for SPF there is'),
    ('smtpd_reject_unlisted_recipient = no\n', {'checkrecipients': 'no\n'}, ''),
    ('fast_flush_domains = $relay_domains a.test\nrelay_domains = r.test\n', {'etrn': 'r.test\n.r.test\na.test\n.a.test\n'}, ''),
    ('fast_flush_domains = a.test\nparent_domain_matches_subdomains =\n', {'etrn': 'a.test\n'}, ''),
    ('relay_domains = r.test\n', {'etrn': None}, ''),
    ('smtpd_reject_unlisted_recipient = no\nsmtpd_recipient_restrictions = reject_unlisted_recipient\n', {'checkrecipients': None}, ''),
    ('relayhost = [out.test]:465\nsmtp_tls_wrappermode = yes\n', {'smtproutes': ':smtps=out.test\n'}, ''),
    ('relayhost = [out.test]:2465\nsmtp_tls_wrappermode = yes\n', {'smtproutes': ':smtps=out.test:2465\n'}, ''),
    ('relayhost = [out.test]\nsmtp_tls_wrappermode = yes\nrelay_domains = r.test\nrelay_transport = lmtp:10.0.0.1\n',
     {'smtproutes': 'r.test:lmtp=10.0.0.1\n.r.test:lmtp=10.0.0.1\n:smtps=out.test:25\n'}, ''),
    ('smtp_tls_wrappermode = yes\n', {'smtproutes': None}, 'look: smtp_tls_wrappermode: smtps= in front of a relay'),
    ('smtpd_sender_login_maps = hash:/etc/postfix/logins\nmydestination = h.test\n',
     {'authsenders': 'joe:info@h.test\nann:info@h.test\nann:@x.test\njoe:sales@h.test\n'},
     'smtpd_sender_login_maps: here who has logged in')])
def test_what_the_readme_names(home, tmp_path, main, files, said):
    """What README gives an equal for is translated where it means the same; else the file of ours is named."""
    write(tmp_path / 'pf', {'transport': 'to.test smtp:[elsewhere]\n', 'logins': 'info@h.test joe, ann\n@x.test ann\nsales joe\n'})
    code, text, _ = imported(home, tmp_path, main, '')
    for name, wanted in files.items():
        file = home / 'control' / name
        assert (file.read_text() if file.exists() else None) == wanted, (name, text)
    assert said in text and ('no equal' in text) == ('no equal' in said) and 'left out' not in text, text


SASL = 'smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = hash:/etc/postfix/sasl\n'
NOT_V6 = 'smtp_sasl_password_maps: control/smtplogins holds no login for an IPv6 address: '
LEFT = 'smtp_sasl_password_maps: no relay in relayhost or another map is '


@pytest.mark.parametrize('main, sasl, files, said', [
    ('relayhost = [out.test]:587\n', 'out.test joe:a:b\n', {'smtproutes': ':joe@out.test:587\n', 'smtplogins': 'joe@out.test:a:b\n'}, ''),
    ('relayhost = [out.test]:587\n', '[out.test]:submission joe:a\n', {'smtproutes': ':joe@out.test:587\n', 'smtplogins': 'joe@out.test:a\n'}, ''),
    ('relayhost = [Out.test]:587\n', '[out.test]:587 eve:b\nout.test joe:a\n', {'smtplogins': 'joe@Out.test:a\n'}, LEFT + '[out.test]:587'),
    ('relayhost = [out.test]:587\n', '[out.test] joe:a\n', {'smtplogins': 'joe@out.test:a\n'},
     '[out.test] is taken for out.test:587; Postfix wants the port'),
    ('relayhost = [out.test]:587\n', '[out.test]:25 joe:a\n', {'smtproutes': ':out.test:587\n', 'smtplogins': None}, LEFT + '[out.test]:25;'),
    ('relayhost = out.test\n', 'mx.out.test joe:a\n', {'smtproutes': ':out.test\n', 'smtplogins': None}, LEFT + 'mx.out.test;'),
    ('relayhost = [2001:db8::1]:587\n', '[2001:db8::1]:587 joe:a\n', {'smtproutes': ':[2001:db8::1]:587\n', 'smtplogins': None},
     NOT_V6 + 'write the name of [2001:db8::1]:587 into control/smtproutes'),
    ('relayhost = [out.test]:465\n', 'out.test joe:a\n', {'smtproutes': ':smtps=joe@out.test\n', 'smtplogins': 'joe@out.test:a\n'}, ''),
    ('sender_dependent_relayhost_maps = hash:/etc/postfix/bysender\n', 'one.test joe:a\ntwo.test eve:b\nthree.test x:c\n',
     {'senderroutes': 'joe@h.test:joe@one.test:587\n@h.test:smtps=eve@two.test\n', 'smtplogins': 'joe@one.test:a\neve@two.test:b\n'},
     LEFT + 'three.test;'),
    ('relay_domains = r.test\nrelay_transport = lmtp:out.test\n', 'out.test joe:a\n', {'smtplogins': None}, LEFT + 'out.test;'),
    ('relayhost = [out.test]\nsmtp_sasl_auth_enable = no\n', 'out.test joe:a\n', {'smtplogins': 'joe@out.test:a\n'},
     'smtp_sasl_auth_enable is not yes')])
def test_logins_at_relays(home, tmp_path, main, sasl, files, said):
    """A login is found by the name of the server and by the next hop as it is written; one that no relay has is told."""
    write(tmp_path / 'pf', {'sasl': sasl, 'bysender': 'joe@h.test [one.test]:587\n@h.test [two.test]:465\n'})
    code, text, _ = imported(home, tmp_path, SASL + main, '')
    for name, wanted in files.items():
        file = home / 'control' / name
        assert (file.read_text() if file.exists() else None) == wanted, (name, text)
    assert said in text and code == (LEFT in text or NOT_V6 in text) and (LEFT in text) == (LEFT in said), text


def test_a_relay_of_a_sender_that_is_none(home, tmp_path):
    """A place that cannot be said here is told; so is DUNNO for one sender of a domain that has a relay. Alone it says nothing."""
    write(tmp_path / 'pf', {'bysender': 'joe@h.test [one.test]:gopher\nann@h.test DUNNO\n@h.test [two.test]\neve@x.test dunno\n@y.test DUNNO\n'})
    code, text, _ = imported(home, tmp_path, 'sender_dependent_relayhost_maps = hash:/etc/postfix/bysender\n', '')
    assert code == 1 and (home / 'control/senderroutes').read_text() == '@h.test:two.test\n'
    assert re.findall('sender_dependent_relayhost_maps: "(.*)" is not taken over', text) == ['joe@h.test [one.test]:gopher', 'ann@h.test DUNNO']


@pytest.mark.parametrize('main, forced', [
    ('smtpd_tls_security_level = encrypt\n', True), ('smtpd_tls_security_level = secure\n', True), ('smtpd_enforce_tls = yes\n', True),
    ('smtpd_tls_security_level = may\nsmtpd_enforce_tls = yes\n', False), ('smtpd_tls_security_level = none\n', False), ('', False)])
def test_nobody_in_the_clear(home, tmp_path, main, forced):
    """A server that wants TLS of everybody goes on wanting it, and the report has the line of the program that does it."""
    text = imported(home, tmp_path, 'mynetworks = 10.0.0.0/8\n' + main, '')[1]
    wanted = '10.0.0.0/8:allow,RELAYCLIENT=""%s\n:allow%s\n'
    assert (home / 'control/tcp.smtp').read_text() == wanted % ((',FORCETLS="1"',) * 2 if forced else ('', ''))
    assert ('no equal' in text, 'FORCETLS="1" in control/tcp.smtp is that' in text) == (False, forced), text
    assert not forced or services.parse(re.search('a certificate: add this line to control/services: (.*)', text)[1].encode())


@pytest.mark.parametrize('value, sources, said', [
    ('192.0.2.1', '192.0.2.1\n', 'smtpd qpyd tcp:192.0.2.1:25 qpy-smtpd'),
    ('192.0.2.1, [2001:db8::1]', '192.0.2.1\n2001:db8::1\n', 'smtpd qpyd tcp:192.0.2.1:25,tcp:[2001:db8::1]:25 qpy-smtpd'),
    ('127.0.0.1 192.0.2.1', None, 'smtpd qpyd tcp:127.0.0.1:25,tcp:192.0.2.1:25 qpy-smtpd'),
    ('localhost, 192.0.2.1 $myhostname', None,
     'smtpd qpyd tcp:127.0.0.1:25,tcp:192.0.2.1:25 qpy-smtpd, with the address of h.test added'),
    ('192.0.2.1\nsmtp_bind_address = 192.0.2.9', '192.0.2.9\n', 'smtpd qpyd tcp:192.0.2.1:25 qpy-smtpd'),
    ('$myhostname', None, 'smtpd qpyd tcp:ADDRESS:25 qpy-smtpd, with the address of h.test added'),
    ('127.0.0.1', None, 'smtpd qpyd tcp:127.0.0.1:25 qpy-smtpd'), ('loopback-only', None, 'qpy-install --smtp 127.0.0.1:25'), ('all', None, '')])
def test_addresses_listened_on(home, tmp_path, value, sources, said):
    """The report has the line for the addresses that were listened on; a single one is where mail left from, too."""
    text, file = imported(home, tmp_path, 'inet_interfaces = %s\n' % value, '')[1], home / 'control/outgoingip'
    assert said in text and ('inet_interfaces' in text) == bool(said), text
    assert (file.read_text() if file.exists() else None) == sources
    for line in re.findall('(smtpd qpyd tcp:[0-9[].* qpy-smtpd)', text):
        assert services.parse(line.encode())


@pytest.mark.parametrize('main, page', [
    ('smtpd_recipient_restrictions = reject_rbl_client z.test\n', 'qpy-check'), ('smtpd_milters = unix:/run/x\n', 'qpy-milter')])
def test_the_line_that_services_needs(home, tmp_path, main, page):
    """Mail waits until the program runs that reads the new file: the report has the line of its page to add."""
    text = imported(home, tmp_path, main, '')[1]
    line = re.search(r'mail waits \(451\) until it runs: add this line to control/services: (.*)', text)[1]
    with open('%s/man/%s.8' % (ROOT, page)) as file:
        assert line in [' '.join(words.split()) for words in file]
    assert services.parse(line.encode())


@pytest.mark.parametrize('value, wanted', [
    ('$myhostname', 'h.example.org'), ('${mydomain}x', 'example.orgx'), ('$(a)-$b', 'A $-B'), ('$none', ''),
    ('$loop', '$loop'), ('a$', 'a$'), ('x $myorigin', 'x h.example.org'),
    ('$default_database_type:$config_directory/x', 'hash:/etc/postfix/x')])
def test_names_in_values(value, wanted):
    """$name, ${name}, $(name), Postfix's own defaults, and a value that names itself."""
    values = {'myhostname': 'h.example.org', 'a': 'A $', 'b': 'B', 'loop': '$loop', 'probe': value}
    found = translation.Translation(values, lambda path: None)
    assert found.value('probe') == wanted


@pytest.mark.parametrize('maps', ['static:joe:geheim', 'hash:/none inline:{ relay.test=joe:geheim }', 'static:{joe:geheim} hash:/none'])
def test_passwords_in_main_cf_are_not_told(maps):
    """Tables that stand in main.cf itself."""
    found = translation.Translation({'smtp_sasl_password_maps': maps, 'lmtp_sasl_password_maps': maps}, lambda path: None)
    told = repr((found.no_equal, found.notes, found.files))
    assert 'geheim' not in told and 'smtp_sasl_password_maps' in told and 'lmtp_sasl_password_maps' in found.no_equal


def test_every_number_is_a_number():
    """Parameters are translated into control files that exist."""
    for _, name in delivery.NUMBERS + delivery.TIMES:
        assert controls.row(name.encode())[1] == controls.NUMBER


# --- a queue -------------------------------------------------------------------------------------------------

@pytest.fixture
def queued(tmp_path):
    """Our queue, with queued running."""
    home = str(tmp_path / 'house')
    make_home(home)
    with open(home + '/control/me', 'w') as file:
        file.write('new.test\n')
    daemon = Daemon(os.fsencode(home), 'queued', [b'submit', b'new'])
    yield home
    daemon.end()


def old_queue(top, split='7'):
    """A qmail queue: one message half delivered with a failure to tell, one in todo, one that was never finished."""
    write(top, {
        'control/virtualdomains': '# ours\nvirt.test:bob\nann@one.test:dan-x \n', 'control/locals': 'new.test\n',
        'queue/lock/sendmutex': '', f'queue/mess/{split}/107': 'Received: (qmail 1 invoked by uid 7); x\nSubject: a\n\nA\n',
        f'queue/info/{split}/107': 'Fann@x.test\0', f'queue/local/{split}/107': 'Djoe@new.test\0Tbob-info@virt.test\0Tdan-x-ann@one.test\0',
        f'queue/remote/{split}/107': 'Dgone@far.test\0Tdan@far.test\0',
        'queue/bounce/107': '<gone@far.test>:\nNo such user\n\n',
        f'queue/mess/{split}/108': 'Subject: b\n\nB\n', 'queue/todo/108': 'u7\0p1\0F\0Tann@x.test\0',
        f'queue/mess/{split}/109': 'Subject: c\n\nC\n'})
    old = time.time() - 86400 * 3
    os.utime(top / f'queue/info/{split}/107', (old, old))


def stored(home):
    """[(message, envelope)] of our queue, in order."""
    found = []
    for name in sorted(os.listdir(home + '/queue/mess')):
        with open(home + '/queue/mess/' + name, 'rb') as file:
            found.append(mess.unpack(file.read(), name.encode()))
    return found


def test_a_qmail_queue(queued, tmp_path):
    """What is left of each message comes over with its age; delivered recipients do not; what had failed becomes the
    bounce; nothing is taken over twice, and nothing is changed there."""
    old_queue(tmp_path / 'qmail')
    code, lines = run(queued, 'queue', tmp_path / 'qmail/queue')
    assert code == 1 and 'not taken over: message 109: neither todo nor info: never finished being queued' in lines
    (first, one), (second, two), (third, three) = stored(queued)
    assert first.endswith(b'Subject: a\n\nA\n') and b'(qmail 1 invoked by uid 7)' in first
    assert (one.sender, one.recipients) == (b'ann@x.test', [b'info@virt.test', b'ann@one.test', b'dan@far.test'])
    assert abs(int(one.option(b'a')) - 86400 * 3) < 100
    assert abs(mess.arrival(sorted(os.listdir(queued + '/queue/mess'))[0], one, time.time()) - (time.time() - 86400 * 3)) < 100
    assert (two.sender, two.recipients) == (b'', [b'ann@x.test'])
    assert b'Hi. This is the qmail-send program at new.test.' in second and b'<gone@far.test>:\nNo such user\n\n--- Below' in second
    assert second.endswith(b'Return-Path: <ann@x.test>\nReceived: (qmail 1 invoked by uid 7); x\nSubject: a\n\nA\n')
    assert (three.sender, three.recipients) == (b'', [b'ann@x.test']) and third.endswith(b'Subject: b\n\nB\n')
    assert sum(line.startswith('taken over before') for line in run(queued, 'queue', tmp_path / 'qmail/queue')[1]) == 2
    assert len(stored(queued)) == 3 and (tmp_path / 'qmail/queue/mess/7/107').exists()


def test_what_is_not_taken_over_and_why(queued, tmp_path):
    """Addresses that no queue of ours holds stay there and are told; a failed double bounce ends, as it would have."""
    write(tmp_path / 'qmail', {
        'queue/mess/1/1': 'Subject: a\n\n', 'queue/info/1/1': 'Fa@x.test\0', 'queue/remote/1/1': 'Ta\nb@x.test\0',
        'queue/mess/2/2': 'Subject: b\n\n', 'queue/info/2/2': 'F#@[]\0', 'queue/local/2/2': 'Dpostmaster@new.test\0',
        'queue/bounce/2': '<postmaster@new.test>:\nno\n\n'})
    code, lines = run(queued, 'queue', tmp_path / 'qmail/queue')
    assert code == 1 and stored(queued) == []
    assert 'not taken over: message 1 from <a@x.test>: line break in an envelope address (#5.1.3)' in lines
    assert lines[0 if '2 from' in lines[0] else 1].endswith('0 hours old, and a failure that nobody is to be told')


@pytest.mark.parametrize('files, said', [
    ({'local/3/3': 'Tjoe@new.test\0Xann@new.test\0'}, 'Xann@new.test'), ({'remote/3/3': 'Fann@x.test\0'}, 'Fann@x.test'),
    ({'local/3/3': 'Tjoe@new.test\0\0\0'}, ''), ({'info/3/3': 'Fa@x.test\0Tann@new.test\0'}, 'Tann@new.test'),
    ({'todo/3': 'u7\0p1\0Fa@x.test\0Tann@new.test\0Dann@new.test\0'}, 'Dann@new.test'),
    ({'todo/3': 'u7\0p1\0Fa@x.test\0Tann@new.test\0h\1\0'}, 'h?')])
def test_records_that_nobody_knows(queued, tmp_path, files, said):
    """A letter that may not stand where it is: the message stays there, is told, and does not count as taken over."""
    write(tmp_path / 'qmail/queue', {'mess/3/3': 'Subject: a\n\n', 'info/3/3': 'Fa@x.test\0', **files})
    code, lines = run(queued, 'queue', tmp_path / 'qmail/queue')
    assert (code, lines) == (1, ['not taken over: message 3: an unknown record: ' + said]) and stored(queued) == []
    assert (tmp_path / 'qmail/queue/imported-by-qpy').read_bytes() == b''


@pytest.mark.parametrize('recipient, wanted', [
    ('bob-info@virt.test', 'info@virt.test'), ('BOB-info@virt.test', 'BOB-info@virt.test'),
    ('ann-x-sales@one.test', 'sales@one.test'), ('ann-x-other@one.test', 'ann-x-other@one.test'),
    ('sub-a@x.below.test', 'a@x.below.test'), ('joe-list@new.below.test', 'joe-list@new.below.test'),
    ('sub-list@new.below.test', 'sub-list@new.below.test'), ('bob-info@elsewhere.test', 'bob-info@elsewhere.test'),
    ('bob-two-a@two.test', 'a@two.test')])
def test_prefixes_of_virtual_domains(recipient, wanted):
    """What virtualdomains has put in front of a local recipient goes, whichever line it was; an extension of a user
    in locals that looks like it stays."""
    controls_ = route.Controls({b'new.below.test': 0}, {key.encode(): (value.encode(), 0) for key, value in {
        'virt.test': 'bob', 'sales@one.test': 'ann-x', '.below.test': 'sub', 'two.test': 'bob-two', 'gone.test': ''}.items()})
    assert qmailqueue.plain(recipient.encode(), controls_) == wanted.encode()


def test_links_in_a_qmail_queue(queued, tmp_path):
    """Who owns that queue leads root nowhere: a link in the place of a message is none, and the list of what was taken over is
    not written through one, nor anything taken over without it."""
    old_queue(tmp_path / 'qmail')
    (tmp_path / 'secret').write_text('of root')
    os.unlink(tmp_path / 'qmail/queue/mess/7/107')
    (tmp_path / 'qmail/queue/mess/7/107').symlink_to(tmp_path / 'secret')
    os.unlink(tmp_path / 'qmail/queue/todo/108')
    (tmp_path / 'qmail/queue/todo/108').symlink_to(tmp_path / 'secret')
    code, lines = run(queued, 'queue', tmp_path / 'qmail/queue')
    assert code == 1 and [line for line in lines if 'not a regular file' in line] == [
        'not taken over: message %d: [Errno 40] not a regular file' % number for number in (107, 108)]
    assert not any(b'of root' in message for message, _ in stored(queued))
    known = len(stored(queued))
    os.unlink(tmp_path / 'qmail/queue/imported-by-qpy')
    (tmp_path / 'qmail/queue/imported-by-qpy').symlink_to(tmp_path / 'secret')
    assert run(queued, 'queue', tmp_path / 'qmail/queue')[0] == 111
    assert (tmp_path / 'secret').read_text() == 'of root' and len(stored(queued)) == known


def test_a_queue_report(queued, tmp_path):
    """-n takes nothing over."""
    old_queue(tmp_path / 'qmail')
    lines = run(queued, '-n', 'queue', tmp_path / 'qmail/queue')[1]
    assert any(line.startswith('would take over: message 107 from <ann@x.test>, 3 recipients left, 72 hours old, and a '
                               'bounce') for line in lines)
    assert stored(queued) == []


def test_a_queue_in_use(queued, tmp_path):
    """While qmail-send runs nothing is touched."""
    old_queue(tmp_path / 'qmail')
    with open(tmp_path / 'qmail/queue/lock/sendmutex') as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        code, lines = run(queued, 'queue', tmp_path / 'qmail/queue')
    assert code == 111 and 'qmail-send runs in' in lines[0]


def test_without_our_queue(home, tmp_path):
    """qpy must run: it is said for each message, and nothing counts as taken over."""
    old_queue(tmp_path / 'qmail')
    (home / 'run').mkdir()
    code, lines = run(home, 'queue', tmp_path / 'qmail/queue')
    assert code in (1, 111) and not [line for line in lines if line.startswith('taken over')]
    assert (tmp_path / 'qmail/queue/imported-by-qpy').read_bytes() == b''
