"""qpy-newu, qpy-newmrh, qpy-pw2u and qpy-showctl."""
import os
import subprocess

import pytest

from qpy.admin import newmrh, newu, newvrt, pw2u, showctl
from qpy.core import cdb
from qpy.lib import program

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def home(tmp_path):
    """A DIR with control/me."""
    for name in ('control', 'users', 'alias'):
        (tmp_path / name).mkdir()
    (tmp_path / 'control/me').write_bytes(b'mx.example\n')
    return tmp_path


def run(name, home, *args, stdin=b''):
    """(exit code, stdout, stderr) of the real program."""
    done = subprocess.run([SOURCE + '/bin/' + name, *args], input=stdin, capture_output=True,
                          env={'QPYHOME': str(home), 'PATH': '/usr/bin:/bin'}, check=False)
    return done.returncode, done.stdout, done.stderr


def records(path):
    """All records of a cdb file."""
    return list(cdb.over(path.read_bytes()).records())


def test_newu(home):
    """users/assign becomes users/cdb, readable by all; doubtful lines are named."""
    (home / 'users/assign').write_bytes(b'=Joe:joe:1001:1:/home/joe:::\n=r:root:0:0:/root:::\n.\n')
    code, out, err = run('qpy-newu', home)
    assert (code, out) == (0, b'')
    assert err == (b'qpy-newu: warning: users/assign, line 2: uid 0: mail will be deferred, nothing is delivered as '
                   b'root\n')
    assert records(home / 'users/cdb')[0] == (b'!joe\0', b'joe\x001001\x001\0/home/joe\0\0')
    assert (home / 'users/cdb').stat().st_mode & 0o777 == 0o644


@pytest.mark.root
def test_newu_names_who_has_to_wait(home):
    """Ids that the qpy that runs has not seen at its start are named, each once, and not those that it has; none is while
    nothing runs."""
    (home / 'users/assign').write_bytes(b'=pop:pop:89:89:/h:::\n+pop-:pop:89:89:/h:-::\n=joe:joe:1001:1001:/h:::\n'
                                        b'=sue:sue:1002:100:/h:::\n.\n')
    assert run('qpy-newu', home) == (0, b'', b'')
    (home / 'run').mkdir()
    (home / 'run/mailids').write_bytes(b'uids 990 1000+9000\ngids 100 1000+9000\n')
    code, out, err = run('qpy-newu', home)
    assert (code, out) == (0, b'') and err.splitlines() == [
        b'qpy-newu: warning: %s 89: unknown to the qpy that runs; start it anew, until then mail for these waits' % kind
        for kind in (b'uid', b'gid')]
    (home / 'run/mailids').write_bytes(b'uids 89 1000+9000\ngids 89 100 1000+9000\n')
    assert run('qpy-newu', home) == (0, b'', b'')
    (home / 'users/assign').write_bytes(b'.\n')
    assert run('qpy-newu', home) == (0, b'', b'')


@pytest.mark.parametrize('data, words', [
    (b'=j:j:1:1:/:::\n\n.\n', b'bad format in users/assign: line 2: an empty line'),
    (b'=j:j:1:1:/:::\n', b'bad format in users/assign: no line with a dot'), (None, b'unable to read users/assign: No')])
def test_newu_keeps_the_old_cdb(home, data, words):
    """A bad file is refused with its line number, 111, and the old table stays."""
    (home / 'users/cdb').write_bytes(b'old')
    if data is not None:
        (home / 'users/assign').write_bytes(data)
    with pytest.raises(program.Fatal) as caught:
        newu.main(os.fsencode(home), [])
    assert caught.value.code == 111 and caught.value.text.startswith(words)
    assert (home / 'users/cdb').read_bytes() == b'old'


@pytest.mark.root
@pytest.mark.parametrize('program, source, target', [
    ('qpy-newu', 'users/assign', 'users'), ('qpy-newmrh', 'control/morercpthosts', 'control'), ('qpy-newvrt', 'control/validrcptto', 'control'),
    ('qpy-newaliases', 'users/aliases', 'users')])
def test_in_a_DIR_of_another_root_is_its_owner(home, program, source, target):
    """What root makes there is the owner's, and nothing comes to be where he could not put it, wherever his links lead."""
    with open(os.path.join(home, source), 'w') as file:
        file.write({'users/assign': '.\n', 'users/aliases': 'a: b@x.test\n', 'control/morercpthosts': 'x.test\n',
                    'control/validrcptto': 'a@x.test\n'}[source])
    for path in (home, os.path.join(home, target)):
        os.chown(path, 54321, 54321)
        os.chmod(path, 0o755)
    assert run(program, home)[0] == 0
    (made,) = [name for name in os.listdir(os.path.join(home, target)) if name.endswith('cdb')]
    assert os.stat(os.path.join(home, target, made)).st_uid == 54321
    os.unlink(os.path.join(home, target, made))
    roots = os.path.join(home, 'roots')
    os.rename(os.path.join(home, target), roots)
    os.chown(roots, 0, 0)
    os.symlink('roots', os.path.join(home, target))
    assert run(program, home)[0] not in (0, 100) and not any(name.endswith('cdb') for name in os.listdir(roots))


def test_newmrh(home):
    """control/morercpthosts becomes a cdb of lower-case keys without data; without it 111."""
    assert run('qpy-newmrh', home)[0] == 111
    (home / 'control/morercpthosts').write_bytes(b'# many\nA.Example \n.b.example\n\n')
    assert run('qpy-newmrh', home) == (0, b'', b'')
    assert records(home / 'control/morercpthosts.cdb') == [(b'a.example', b''), (b'.b.example', b'')]
    with pytest.raises(program.Fatal):
        newmrh.main(os.fsencode(home), [b'x'])


def test_newvrt(home):
    """control/validrcptto becomes a cdb of lower-case keys; showctl says when the list is newer, and is silent
    when there is no cdb."""
    assert run('qpy-newvrt', home)[0] == 111
    (home / 'control/validrcptto').write_bytes(b'Ann@A.Example\n-trap@b.example\n@b.example\n')
    assert b'qpy-newvrt\n' not in run('qpy-showctl', home)[1]
    assert run('qpy-newvrt', home) == (0, b'', b'')
    assert records(home / 'control/validrcptto.cdb') == [
        (b'ann@a.example', b''), (b'-trap@b.example', b''), (b'@b.example', b'')]
    later = os.stat(home / 'control/validrcptto.cdb').st_mtime + 1
    os.utime(home / 'control/validrcptto', (later, later))
    assert b'control/validrcptto is newer than control/validrcptto.cdb: run qpy-newvrt' in run('qpy-showctl', home)[1]
    with pytest.raises(program.Fatal):
        newvrt.main(os.fsencode(home), [b'x'])


def test_pw2u(home):
    """passwd in, assign out, ready for qpy-newu; the files of DIR/users are read.  alias lives
    in DIR, also where passwd names a home that an earlier mail server gave him."""
    (home / 'users/exclude').write_bytes(b'# not these\nsue\n')
    (home / 'users/append').write_bytes(b'=x:alias:120:120:/:::')
    passwd = b'alias:x:120:120::/var/qmail/alias:/x\njoe:x:1001:1::/h:/x\nsue:x:1002:1::/h:/x\n'
    code, out, err = run('qpy-pw2u', home, '-H', stdin=passwd)
    assert (code, err) == (0, b'')
    assert out == (b'+:alias:120:120:%s:-::\n=alias:alias:120:120:%s:::\n+alias-:alias:120:120:%s:-::\n'
                   % ((os.fsencode(home / 'alias'),) * 3) +
                   b'=joe:joe:1001:1:/h:::\n+joe-:joe:1001:1:/h:-::\n=x:alias:120:120:/:::\n.\n')
    (home / 'users/assign').write_bytes(out)
    assert newu.main(os.fsencode(home), []) == 0


def test_pw2u_errors(home):
    """Usage is 100; no alias user is qmail's sentence and 111."""
    assert run('qpy-pw2u', home, '-x')[0] == 100
    assert run('qpy-pw2u', home) == (111, b'', b'qpy-pw2u: fatal: unable to find alias user\n')
    (home / 'users/subusers').write_bytes(b'a:b\n')
    with pytest.raises(program.Fatal):
        pw2u.main(os.fsencode(home), [])


def test_showctl(home):
    """Each setting with value, origin and meaning; lists line by line."""
    (home / 'control/locals').write_bytes(b'a.example\nb.example\n')
    (home / 'control/maxrcpt').write_bytes(b'\n')
    code, out, err = run('qpy-showctl', home)
    assert (code, err) == (0, b'')
    assert b'me: mx.example\n    (control/me) full name of this host' in out
    assert b'helohost: mx.example\n    (default, from control/me)' in out
    assert b'locals: \n    a.example\n    b.example\n    (control/locals) domains delivered here' in out
    assert b'queuelifetime: 604800\n    (default)' in out
    assert b'badmailfrom: \n    (absent)' in out
    assert b'    (default; control/maxrcpt is empty)' in out


def test_showctl_knows_what_tcprules_made(home):
    """A compiled control/tcp.smtp is as good as its text; what is none is broken."""
    (home / 'control/tcp.smtp').write_bytes(cdb.build([(b'127.', b'+RELAYCLIENT=\0'), (b'', b'')]))
    code, out, _ = run('qpy-showctl', home)
    assert code == 0 and b'tcp.smtp: compiled\n    (control/tcp.smtp)' in out
    (home / 'control/tcp.smtp').write_bytes(b'\0no cdb')
    assert run('qpy-showctl', home)[0] == 111


def test_showctl_tells_of_aliases(home):
    """A source that is newer than what newaliases made of it, and a table without one."""
    made = home / 'users/aliases.cdb'
    made.write_bytes(b'')
    assert b'%s still counts, and no source of it is there' % os.fsencode(made) in run('qpy-showctl', home)[1]
    (home / 'users/aliases').write_bytes(b'a: b\n')
    os.utime(made, (1, 1))
    assert b'users/aliases is newer than %s: run newaliases\n' % os.fsencode(made) in run('qpy-showctl', home)[1]
    os.unlink(made)
    assert b'aliases' not in run('qpy-showctl', home)[1].replace(b'/etc/aliases', b'')


def test_showctl_unknown_names(home):
    """Files that nothing reads are named, with the nearest known name; so are compiled files that are old."""
    for name in ('virtualdomain', 'zzz', 'morercpthosts', 'locals~'):
        (home / 'control' / name).write_bytes(b'')
    (home / 'users/assign').write_bytes(b'.\n')
    out = run('qpy-showctl', home)[1]
    assert b'virtualdomain: I have no idea what this file does. Did you mean virtualdomains?\n' in out
    assert b'zzz: I have no idea what this file does.\n' in out
    assert b'locals~: a copy, which no program reads.\n' in out
    assert b'users/assign is newer than users/cdb: run qpy-newu\n' in out
    assert b'control/morercpthosts is newer than' in out


@pytest.mark.parametrize('name, data', [
    ('smtproutes', b':a..b\n'), ('auth', b'nobody\n'), ('greylist', b'delay:soon\n'), ('destinationlimits', b'a.example:many\n'),
    ('dnsbl', b'bl.example 1 =x\n'), ('outgoingip', b'mx.example\n'), ('tcp.smtp', b'10.:maybe\n'), ('helorules', b'sane\n'),
    ('tlsdestinations', b'a.example:much\n'), ('ratelimits', b'messages:often\n'), ('morercpthosts.cdb', b'short')])
def test_showctl_judges_each_grammar(home, name, data):
    """What the readers of a file could not use is no setting, and showctl says so, and ends with 111."""
    (home / 'control' / name).write_bytes(data)
    code, out, _ = run('qpy-showctl', home)
    assert code == 111 and b'%s: Oops! Trouble reading this file. control/%s' % (name.encode(), name.encode()) in out


def test_showctl_broken(home):
    """A broken file is shown as such, the others all the same, and the exit code says so."""
    (home / 'control/databytes').write_bytes(b'10M\n')
    code, out, _ = run('qpy-showctl', home)
    assert code == 111
    assert b'databytes: Oops! Trouble reading this file. control/databytes, line 1, "10M": not a number' in out
    assert b'queuelifetime: 604800' in out
    os.unlink(home / 'control/me')
    assert b'me: Oops!' in run('qpy-showctl', home)[1]
    with pytest.raises(program.Fatal):
        showctl.main(os.fsencode(home), [b'x'])
