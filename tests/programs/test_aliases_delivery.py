"""newaliases, the alias account's deliveries by users/aliases.cdb, ~/.forward, dot-forward, as real
processes."""
import os
import subprocess

import pytest

from qpy import unix_passwd
from qpy.core import route
from qpy.lib import route as routes
from qpy.lib import users

pytestmark = pytest.mark.slow

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MESSAGE = b'A: b\n\nbody\n'
LINES = {'UFLINE': 'From s@y Thu Nov 05 02:16:14 2026\n', 'RPLINE': 'Return-Path: <s@y>\n',
         'DTLINE': 'Delivered-To: joe@x\n', 'SENDER': 's@y', 'NEWSENDER': 'new@y', 'USER': 'joe',
         'LOCAL': 'joe',
         'HOST': 'x'}


class House:
    """A DIR that is rootless, with a user joe, a filter in the queue's place, and the tools."""

    def __init__(self, path):
        self.path, self.home = path, str(path)
        for name in ('control', 'users', 'alias', 'joe', 'bin'):
            (path / name).mkdir()
        (path / 'control/me').write_text('x.example\n')
        os.symlink(SOURCE + '/bin/qpy-preline', path / 'bin/preline')
        queue = path / 'queue'
        queue.write_text('#!/bin/sh\nexec 3<&1 >/dev/null; cat > "%s/message"; cat <&3 | tr "\\0" "|" > "%s/envelope"; '
                         'exit ${CODE:-0}\n' % (path, path))
        queue.chmod(0o755)
        if os.geteuid() == 0:
            for there in (path, path / 'users'):
                os.chown(there, 1234, 1234)

    def run(self, name, *words, **env):
        """The finished program."""
        (self.path / 'input').write_bytes(MESSAGE)
        with open(self.path / 'input', 'rb') as stdin:
            return subprocess.run([SOURCE + '/bin/qpy-' + name, *words], stdin=stdin, capture_output=True,
                                  timeout=30, env={
                'PATH': self.home + '/bin:/usr/bin:/bin', 'QPYHOME': self.home,
                'QMAILQUEUE': self.home + '/queue', **env})

    def aliases(self, text):
        """newaliases of this text."""
        (self.path / 'users/aliases').write_text(text)
        return self.run('newaliases')

    def alias(self, name, *options):
        """qpy-local for an address that is no user's."""
        return self.run('local', *options, '--', 'alias', self.home + '/alias', name, '-', name, 'x.example',
                        's@y', './Maildir/')

    def joe(self, *options, ext='', default='./Maildir/'):
        """qpy-local for joe."""
        dash = '-' if ext else ''
        return self.run('local', *options, '--', 'joe', self.home + '/joe', 'joe' + dash + ext, dash, ext,
                        'x.example', 's@y', default)

    def envelope(self):
        """What was queued; '' if nothing."""
        try:
            return (self.path / 'envelope').read_text()
        except FileNotFoundError:
            return ''


@pytest.fixture
def house(tmp_path):
    (tmp_path / 'dir').mkdir()
    return House(tmp_path / 'dir')


# --- /etc/aliases -------------------------------------------------------------------------------------------

def test_forwards_and_owner(house):
    """One submission to all, nested names expanded; in the name of owner-LIST where there is one."""
    done = house.aliases('root: ann@far.example, staff2\nstaff2: bob\nlist: carl@far.example\nowner-list: ann\n')
    assert (done.returncode, done.stderr) == (0, b'') and done.stdout.endswith(b'4 aliases\n')
    assert house.alias('Root').returncode == 0 and house.envelope() == 'Fs@y|Tann@far.example|Tbob||'
    assert (house.path / 'message').read_bytes() == b'Delivered-To: Root@x.example\n' + MESSAGE
    assert house.alias('list').returncode == 0 and house.envelope() == 'Fowner-list@x.example|Tcarl@far.example||'


def test_who_comes_first(house):
    """The alias before .qmail-NAME before .qmail-default; newaliases says which files are not used, and -bv what is."""
    (house.path / 'alias/.qmail-root').write_text('file@far.example\n')
    (house.path / 'alias/.qmail-info').write_text('file@far.example\n')
    (house.path / 'alias/.qmail-default').write_text('catchall@far.example\n')
    done = house.aliases('root: alias@far.example\nweb: alias@far.example\n')
    said = os.fsencode('root comes before %s/alias/.qmail-root\n' % house.home)
    assert done.returncode == 0 and done.stderr.endswith(said) and done.stderr.count(b'\n') == 1
    assert house.run('sendmail', '-bv', 'root').stdout.endswith(b'users/aliases.cdb: &alias@far.example\n')
    for name, wanted in (('root', 'alias'), ('info', 'file'), ('web', 'alias'), ('other', 'catchall')):
        assert house.alias(name).returncode == 0 and house.envelope() == 'Fs@y|T%s@far.example||' % wanted


def test_a_source_that_is_gone(house):
    """Its table goes on counting, and newaliases says so."""
    assert house.run('newaliases').stderr == b''
    house.aliases('root: alias@far.example\n')
    os.unlink(house.path / 'users/aliases')
    done = house.run('newaliases')
    assert done.returncode == 0 and b'users/aliases.cdb still counts, and no source of it is there' in done.stderr
    assert house.alias('root').returncode == 0 and 'Talias@far.example' in house.envelope()


def test_names_of_users(house):
    """An alias with a user's name redirects nobody, not in other aliases either, and newaliases says what to do.  A line of
    users/assign gives the name to alias, and then the alias counts."""
    ids, (uid, gid) = '%s:%d:%d:%s', (os.stat(house.path).st_uid, os.stat(house.path).st_gid)
    text = 'root: joe, web\njoe: ann@far.example\nw: \\joe\nweb: bob@far.example\n'
    for account, dashext, wanted in (('joe', '::', 'Tjoe|Tbob@far.example'), ('alias', '-:joe', 'Tann@far.example|Tbob@far.example')):
        (house.path / 'users/assign').write_text('=joe:%s:%s:\n.\n' % (
            ids % (account, uid, gid, house.path / account), dashext))
        assert house.run('newu').returncode == 0
        done = house.aliases(text)
        assert (b'users/aliases: joe is not used: it belongs to the user joe; to send his mail elsewhere, write ~joe/.qmail\n'
                in done.stderr) == (account == 'joe') and done.returncode == 0
        assert house.alias('root').returncode == 0 and house.envelope() == 'Fs@y|%s||' % wanted
        assert house.alias('w').returncode == 0 and house.envelope() == 'Fs@y|%s||' % wanted.partition('|')[0]
        done = house.run('sendmail', '-bv', 'joe')
        assert (b'users/aliases.cdb' in done.stdout) == (account == 'alias') and done.returncode == 0


@pytest.mark.parametrize('switch, files, end', [
    ('no', (), 'no file that says otherwise, so the default delivery'), ('no', ('.forward',), 'the default delivery'),
    ('yes', ('.forward',), '/joe/.forward'), ('yes', ('.forward', '.qmail'), '/joe/.qmail'), ('yes', (), 'the default delivery')])
def test_what_counts_in_a_home_is_looked_up(house, switch, files, end):
    """-bv names the file that a delivery would follow."""
    status = os.stat(house.path)
    (house.path / 'users/assign').write_text('=joe:joe:%d:%d:%s:::\n.\n' % (status.st_uid, status.st_gid, house.path / 'joe'))
    assert house.run('newu').returncode == 0
    (house.path / 'control/dotforward').write_text(switch + '\n')
    for name in files:
        (house.path / 'joe' / name).write_text('&ann@far.example\n')
    done = house.run('sendmail', '-bv', 'joe')
    assert done.stdout.decode().startswith('joe@x.example ... ') and done.stdout.decode().endswith(end + '\n'), done
    os.rename(house.path / 'joe', house.path / 'gone')
    done = house.run('sendmail', '-bv', 'joe')
    assert done.returncode == 75 and done.stdout.endswith(b'/joe is missing\n')


def test_programs_and_nothing(house):
    """A program gets the three lines and the message; its exit code counts; /dev/null takes everything."""
    house.aliases('prog: "|cat > %s/out; exit $CODE"\nnull: /dev/null\n' % house.home)
    assert house.alias('null').stdout == b'did 0+0+0\n'
    assert house.alias('prog').returncode == 0
    out = (house.path / 'out').read_bytes().split(b'\n')
    assert out[0].startswith(b'From s@y ') and out[1:3] == [b'Return-Path: <s@y>',
                                                            b'Delivered-To: prog@x.example']
    assert out[3:] == MESSAGE.split(b'\n')
    house.aliases('prog: "|exit 67"\nlater: "|exit 75"\n')
    assert house.alias('later').returncode == 111


def usable(house, name, why):
    """newaliases, -bv and what RCPT is answered say the same of an alias; why: what is against it, b'' if nothing is."""
    done, verified = house.run('newaliases'), house.run('sendmail', '-bv', name)
    way = users.Lookup(os.fsencode(house.home)).resolve(name.encode() + b'@x.example', routes.load(os.fsencode(house.home)))
    assert done.returncode == 0 and (b': %s: mail for it waits: ' % name.encode() in done.stderr) == bool(why)
    assert verified.returncode == (75 if why else 0) and way.verdict == (route.TEMP if why else route.YES)
    return all(why in said for said in (done.stderr, verified.stdout, way.reason))


def test_lists_in_files(house):
    """:include: is read at each delivery; what is no address, missing, or writable by all defers the mail, and all but the
    first is said beforehand."""
    path = house.path / 'list'
    house.aliases('news: ann, :include:%s\n' % path)
    assert house.alias('news').returncode == 111 and usable(house, 'news', b'/list: No such file or directory')
    path.mkdir()
    assert house.alias('news').returncode == 111 and usable(house, 'news', b'/list is no file')
    path.rmdir()
    house.aliases('news: :include:%s\n' % path)
    path.write_text('# readers\nann@far.example, bob@far.example\n')
    path.chmod(0o644)
    assert usable(house, 'news', b'')
    assert house.alias('news').returncode == 0 and house.envelope() == 'Fs@y|Tann@far.example|Tbob@far.example||'
    house.aliases('news: bob@far.example, :include:%s, Bob@far.example, bob@far.example\n' % path)
    assert house.alias('news').returncode == 0
    assert house.envelope() == 'Fs@y|Tbob@far.example|Tann@far.example|TBob@far.example||'
    path.write_text('ann@far.example\n|touch /tmp/owned\n')
    done = house.alias('news')
    assert done.returncode == 111 and b'only addresses' in done.stderr
    path.write_text('ann@far.example\n')
    path.chmod(0o666)
    assert house.alias('news').returncode == 111 and usable(house, 'news', b'/list is writable by others')
    path.chmod(0o000)
    assert usable(house, 'news', b'/list is closed to the account alias')


def test_what_follows_a_plus(house):
    """list+subscribe is its own alias, or else list's, for deliveries, RCPT and -bv; the program is told the whole address."""
    house.aliases('list: "|cat > %s/out"\nlist+own: ann@far.example\n+x: bob@far.example\n' % house.home)
    assert house.alias('List+Subscribe=joe').returncode == 0
    assert b'Delivered-To: List+Subscribe=joe@x.example\n' in (house.path / 'out').read_bytes()
    assert house.alias('list+own').returncode == 0 and 'Tann@far.example' in house.envelope()
    assert house.run('sendmail', '-bv', 'list+a', 'list+own').returncode == 0
    assert house.run('sendmail', '-bv', 'other+a').returncode == house.run('sendmail', '-bv', '+a').returncode == 1


def test_a_file_of_its_own_comes_before_what_a_plus_inherits(house):
    """But not before an alias of its own; a catch-all is last."""
    house.aliases('sos: one@far.example, sos+archive\nown+x: two@far.example\n')
    for name, text in (('sos+archive', 'archive@far.example'), ('own+x', 'file@far.example'), ('default', 'catch@far.example')):
        (house.path / 'alias' / ('.qmail-' + name)).write_text('&%s\n' % text)
    for name, wanted in (('sos+archive', 'archive'), ('sos+other', 'one@far.example|Tsos+archive'), ('own+x', 'two'), ('own+y', 'catch')):
        assert house.alias(name).returncode == 0 and house.envelope().startswith('Fs@y|T' + wanted), name
        done = house.run('sendmail', '-bv', name)
        assert (b'aliases.cdb' in done.stdout) == (name in ('sos+other', 'own+x')), done


def test_one_copy_for_each_person(house):
    """However often and in whatever spelling he is named: bare, with the host, in another case, in two files; case counts in
    front of a foreign host."""
    (house.path / 'control/locals').write_text('x.example\nmail.x.example\nlocalhost\n')
    for name, text in (('l1', 'joe@X.example\nJoe\nann\n'), ('l2', 'ann@x.example\n')):
        (house.path / name).write_text(text)
    house.aliases('one: joe, joe@x.example, Joe, "joe"@X.EXAMPLE, joe@mail.x.example, joe@localhost\ntwo: :include:%s, :include:%s\n'
                  'far: Bob@far.example, bob@far.example, Bob@FAR.example\n' % (house.path / 'l1', house.path / 'l2'))
    for name, wanted in (('one', 'Tjoe|'), ('two', 'Tjoe@X.example|Tann|'), ('far', 'TBob@far.example|Tbob@far.example|')):
        assert house.alias(name).returncode == 0 and house.envelope() == 'Fs@y|' + wanted + '|'
    switch_on(house)
    (house.path / 'joe/.forward').write_text('joe@mail.x.example, \\joe, ann, ann@x.example, "|true", "|true"\n')
    assert house.joe('-n', default='./Maildir/\n').stdout == (
        b"maildir ./Maildir/\nforward ann\nprogram exec preline /bin/sh -c 'true'\ndid 1+1+1\n")


COMPLETED = [('ann@Lab', 'ann@Lab.dom.example'), ('ann@lab.', 'ann@lab.'), ('ann@a.b', 'ann@a.b'), ('ann@lab+', 'ann@lab.plus.example'),
             ('ann@HERE', 'ann@HERE'), ('ann@localhost', 'ann@localhost'), ('ann@[192.0.2.1]', 'ann@[192.0.2.1]'), ('ann', 'ann')]


@pytest.mark.parametrize('written, meant', COMPLETED)
def test_hosts_are_completed(house, written, meant):
    """A host without a dot gets its domain as in qpy-inject, in aliases, lists, .forward and dot-forward alike; what the
    default delivery and .qmail say is sent to as it stands."""
    for name, data in (('defaultdomain', 'dom.example'), ('plusdomain', 'plus.example'), ('locals', 'x.example\nhere\n')):
        (house.path / 'control' / name).write_text(data)
    (house.path / 'list').write_text(written + '\n')
    house.aliases('one: %s\nmany: :include:%s\n' % (written, house.path / 'list'))
    shown = b'forward %s\n' % meant.encode()
    for name in ('one', 'many'):
        assert house.alias(name, '-n').stdout == shown + b'did 0+1+0\n'
    assert dot_forward(house, written + '\n', '-n').stdout == shown
    switch_on(house)
    (house.path / 'joe/.forward').write_text(written + ', joe\n')
    assert house.joe('-n', default='&raw@lab\n').stdout == shown + b'forward raw@lab\ndid 0+2+0\n'


def test_a_domain_that_cannot_be_used(house):
    """A broken control file makes the mail wait, with the file's name; nobody is sent half an address."""
    (house.path / 'control/defaultdomain').write_text('two words\n')
    house.aliases('one: ann@lab\n')
    done = house.alias('one')
    assert done.returncode == 111 and b'control/defaultdomain' in done.stderr and house.envelope() == ''
    done = dot_forward(house, 'ann@lab\n')
    assert done.returncode == 111 and b'control/defaultdomain' in done.stderr and house.envelope() == ''


def test_senseless_aliases(house):
    """What cannot be done is said with its line, exit 65; mail for it waits, the other aliases work."""
    done = house.aliases('good: ann@far.example\nbad: /var/mail/x\nx: ""@x.example\ny: joe, @y.example\n'
                         'z: ann, joe <ann@x.example\n')
    assert done.returncode == 65
    assert all(b'users/aliases, line %d: %s: ' % each in done.stderr for each in ((2, b'bad'), (3, b'x'), (4, b'y'), (5, b'z')))
    assert house.alias('good').returncode == 0
    done = house.alias('bad')
    assert done.returncode == 111 and b'this alias cannot be used' in done.stderr
    done = house.run('sendmail', '-bv', 'good', 'bad')
    assert done.returncode == 75 and b'bad@x.example ... not to be said now, local: ' in done.stdout
    assert b'the alias bad cannot be used: no mail is put into files' in done.stdout


def test_unknown_names_and_damage(house):
    """No alias: no mailbox, for good. A damaged cdb: later. Extensions of an alias are not it."""
    assert house.alias('nobody').returncode == 100
    house.aliases('root: ann@far.example\n')
    assert house.alias('nobody').returncode == house.alias('root-x').returncode == 100
    (house.path / 'users/aliases.cdb').write_bytes(b'junk')
    done = house.alias('root')
    assert done.returncode == 111 and b'aliases.cdb' in done.stderr


def test_newaliases_that_cannot_write(house):
    """No directory for the cdb: 73, one line."""
    (house.path / 'users/aliases').write_text('root: ann@far.example\n')
    (house.path / 'users/aliases.cdb').mkdir()
    done = house.run('newaliases')
    assert done.returncode == 73 and done.stderr.count(b'\n') == 1


def test_rcpt_knows_aliases(house, monkeypatch):
    """An address that only /etc/aliases knows exists; the reason names the file."""
    monkeypatch.setattr(unix_passwd, 'getpwnam', lambda name: None)
    house.aliases('root: ann@far.example\n')
    lookup, controls = users.Lookup(os.fsencode(house.home)), routes.load(os.fsencode(house.home))
    way = lookup.resolve(b'ROOT@x.example', controls)
    assert way.verdict == route.YES and way.file.endswith(b'users/aliases.cdb') and b'aliases.cdb' in way.reason
    assert lookup.resolve(b'nobody@x.example', controls).verdict == route.NO
    (house.path / 'users/aliases.cdb').write_bytes(b'junk')
    assert lookup.resolve(b'root@x.example', controls).verdict == route.TEMP


# --- .forward -----------------------------------------------------------------------------------------------

def switch_on(house, text='yes\n'):
    (house.path / 'control/dotforward').write_text(text)


def test_dot_forward_switch(house):
    """Only with control/dotforward at yes, only without .qmail, only without extension."""
    (house.path / 'joe/.forward').write_text('ann@far.example\n')
    assert house.joe('-n').stdout.startswith(b'maildir ./Maildir/')
    switch_on(house)
    assert house.joe().returncode == 0 and house.envelope() == 'Fs@y|Tann@far.example||'
    assert house.joe(ext='x').returncode == 100
    (house.path / 'joe/.qmail').write_text('bob@far.example\n')
    assert house.joe('-n').stdout == b'forward bob@far.example\ndid 0+1+0\n'
    (house.path / 'joe/.qmail').unlink()
    switch_on(house, 'perhaps\n')
    assert house.joe().returncode == 111


@pytest.mark.parametrize('text, wanted', [
    ('\\joe, ann@far.example\n', b'maildir ./Maildir/\nforward ann@far.example\ndid 1+1+0\n'),
    ('joe\njoe@X.example\n', b'maildir ./Maildir/\ndid 1+0+0\n'),
    ('# nothing\n', b'maildir ./Maildir/\ndid 1+0+0\n'),
    ('/dev/null\n', b'did 0+0+0\n'), ('/a/mbox\n', b'mbox /a/mbox\ndid 1+0+0\n'),
    ('"|vacation"\n', b"program exec preline /bin/sh -c 'vacation'\ndid 0+0+1\n")])
def test_dot_forward_lines(house, text, wanted):
    """Oneself is the default delivery, once; the rest is as in .qmail."""
    switch_on(house)
    (house.path / 'joe/.forward').write_text(text)
    assert house.joe('-n').stdout == wanted


def test_dot_forward_to_oneself(house):
    """\\joe makes the Maildir if need be, and the copy is forwarded too."""
    switch_on(house)
    (house.path / 'joe/.forward').write_text('\\joe, ann@far.example')
    assert house.joe().returncode == 0 and house.envelope() == 'Fs@y|Tann@far.example||'
    assert len(os.listdir(house.path / 'joe/Maildir/new')) == 1


def test_dot_forward_that_is_not_obeyed(house):
    """Writable by all, senseless, unreadable: later, and nothing is done."""
    switch_on(house)
    path = house.path / 'joe/.forward'
    path.write_text('ann@far.example\n"x\n')
    assert house.joe().returncode == 111
    path.write_text('ann@far.example\n')
    path.chmod(0o666)
    assert house.joe().returncode == 111 and house.envelope() == ''
    path.unlink()
    path.mkdir()
    assert house.joe().returncode == 111


# --- dot-forward the program --------------------------------------------------------------------------------

def dot_forward(house, text, *options, without=(), **env):
    (house.path / 'f').write_text(text)
    lines = {name: value for name, value in LINES.items() if name not in without}
    return house.run('dot-forward', *options, house.home + '/absent', house.home + '/f', **lines, **env)


def test_dot_forward_program(house):
    """Forwards go out from NEWSENDER with DTLINE; 99 ends the .qmail file."""
    assert dot_forward(house, 'ann@far.example, bob@far.example\n').returncode == 99
    assert house.envelope() == 'Fnew@y|Tann@far.example|Tbob@far.example||'
    assert (house.path / 'message').read_bytes() == b'Delivered-To: joe@x\n' + MESSAGE


@pytest.mark.parametrize('text, code', [('', 0), ('# x\n', 0), ('\\joe, ann@far.example\n', 0), ('/dev/null\n', 99),
                                        ('/a/mbox\n', 111),
                                        (':include:/x\n', 111), ('"x\n', 111), ('garbage <\n', 111), ('|exit 0\n', 99),
                                        ('|exit 68\n', 111),
                                        ('|exit 100\n', 100), ('|exit 1\n', 111), ('|kill -9 $$\n', 111)])
def test_dot_forward_program_codes(house, text, code):
    """0 goes on to the rest of .qmail, 99 does not; a program's code counts as in .qmail; files are not done
    here."""
    assert dot_forward(house, text).returncode == code


def test_dot_forward_program_refuses(house):
    """Wrong use and missing variables are 100; the queue's answer decides; -n only describes."""
    assert dot_forward(house, 'ann@far.example', '-x').returncode == house.run('dot-forward', **LINES).returncode == 100
    assert dot_forward(house, 'ann@far.example', without=['DTLINE']).returncode == 100
    assert dot_forward(house, 'ann@far.example', CODE='31').returncode == 100
    assert dot_forward(house, 'ann@far.example', CODE='53').returncode == 111
    os.unlink(house.path / 'envelope')
    done = dot_forward(house, 'ann@far.example, \\joe', '-n')
    assert (done.returncode, done.stdout, house.envelope()) == (0, b'forward ann@far.example\nself\n', '')
    for text, code in (('ann@far.example', 99), ('/a/mbox', 111), ('# x', 0)):
        assert dot_forward(house, text, '-n').returncode == code and house.envelope() == ''
