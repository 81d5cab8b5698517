"""lib.controls: reading DIR/control."""
import os

import pytest

from qpy import unix
from qpy.lib import controls, program


@pytest.fixture
def home(tmp_path):
    """A DIR with an empty control directory."""
    (tmp_path / 'control').mkdir(mode=0o755)
    return os.fsencode(tmp_path)


def put(home, name, data):
    """Write a control file."""
    with open(os.path.join(home, b'control', name), 'wb') as out:
        out.write(data)


def test_defaults(home):
    """A missing file gives the default of the table; one that refers to me gives that."""
    put(home, b'me', b'mx.example.org\n')
    assert controls.line(home, b'me') == b'mx.example.org'
    assert controls.line(home, b'bouncehost') == b'mx.example.org'
    assert controls.line(home, b'bouncefrom') == b'MAILER-DAEMON'
    assert controls.number(home, b'queuelifetime') == 604800
    assert controls.listing(home, b'locals') == [b'mx.example.org']
    assert controls.lookup(home, b'locals') == {b'mx.example.org': 0}
    assert controls.listing(home, b'rcpthosts') is None
    assert controls.mapping(home, b'virtualdomains') == {}
    assert controls.text(home, b'defaultdelivery') == b'./Maildir/'


def test_without_me(home):
    """Without me some files have a literal default, the others are an error that names me (A-01)."""
    assert controls.line(home, b'envnoathost') == b'envnoathost'
    for name in (b'me', b'helohost'):
        with pytest.raises(controls.Broken) as caught:
            controls.line(home, name)
        assert caught.value.file == b'me' and caught.value.code == 111
        assert caught.value.text.startswith(b'unable to use control/me: ')
    with pytest.raises(controls.Broken):
        controls.listing(home, b'locals')


def test_present_but_empty_is_not_missing(home):
    """An empty list is a list; an empty line file is the empty string; an empty number is the default."""
    put(home, b'rcpthosts', b'')
    put(home, b'doublebounceto', b'\n')
    put(home, b'databytes', b'\n')
    assert controls.listing(home, b'rcpthosts') == []
    assert controls.line(home, b'doublebounceto') == b''
    assert controls.number(home, b'databytes') == 0


def test_broken_is_fatal_by_itself(home):
    """A program that does not catch Broken ends with 111 and one line naming file, line, value and remedy."""
    put(home, b'me', b'mx example\n')
    with pytest.raises(program.Fatal) as caught:
        controls.line(home, b'me')
    assert caught.value.text == (b'unable to use control/me, line 1, "mx example": '
                                 b'not a host name; letters, digits, dots and hyphens only')


def test_unreadable_is_not_missing(home):
    """Any trouble but absence names the file and the remedy, and is never a default; on HUP the old value stays."""
    put(home, b'locals', b'a.test\n')
    watched = controls.Watched(home, (b'locals',), lambda home: controls.listing(home, b'locals'))
    os.unlink(os.path.join(home, b'control', b'locals'))
    os.mkdir(os.path.join(home, b'control', b'locals'))
    with pytest.raises(controls.Broken) as found:
        controls.listing(home, b'locals')
    assert b'control/locals: this is a directory, and must be a file; rmdir ' + home in found.value.text
    assert not watched.reload() and watched.value == [b'a.test']


@pytest.mark.timeout(60)
def test_a_fifo_is_not_waited_for(home):
    """It is named with its remedy; the old value stays, unasked as on HUP. A link to /dev/null is an empty file."""
    put(home, b'locals', b'a.test\n')
    watched = controls.Watched(home, (b'locals',), lambda home: controls.listing(home, b'locals'))
    path = os.path.join(home, b'control', b'locals')
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(controls.Broken) as found:
        controls.listing(home, b'locals')
    assert b'control/locals: this is a FIFO, and must be a file; rm ' + path in found.value.text
    assert watched.get() == [b'a.test'] and not watched.reload() and watched.value == [b'a.test']
    os.unlink(path)
    os.symlink('/dev/null', path)
    assert controls.listing(home, b'locals') == []


def test_a_link_that_leads_nowhere(home):
    """What it led to may be on a file system that is not mounted just now: it is broken, not missing."""
    path = home + b'/control/locals'
    put(home, b'elsewhere', b'a.test\n')
    if os.path.lexists(path):
        os.unlink(path)
    os.symlink(b'elsewhere', path)
    watched = controls.Watched(home, (b'locals',), lambda home: controls.listing(home, b'locals'))
    assert watched.get() == [b'a.test']
    os.unlink(home + b'/control/elsewhere')
    with pytest.raises(controls.Broken, match='leads nowhere'):
        controls.listing(home, b'locals')
    assert watched.get() == [b'a.test'] and not watched.reload()


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_a_file_closed_to_us(home):
    """One that may not be read names the account and the remedy."""
    put(home, b'locals', b'a.test\n')
    os.chmod(os.path.join(home, b'control', b'locals'), 0)
    with pytest.raises(controls.Broken) as found:
        controls.listing(home, b'locals')
    assert b'uid %d may not read it; chmod 0644 ' % os.geteuid() in found.value.text


def test_out_of_range_is_forced_and_said(home, monkeypatch):
    """concurrencyremote beyond its limit is the limit, with a warning (A-10)."""
    lines = []
    monkeypatch.setattr(program, 'warn', lines.append)
    put(home, b'concurrencyremote', b'1000000\n')
    assert controls.number(home, b'concurrencyremote') == 20000
    assert len(lines) == 1 and b'concurrencyremote' in lines[0]


def test_directory_modes(home):
    """A control directory others can write to is refused (A-06)."""
    controls.check_directory(home)
    os.chmod(os.path.join(home, b'control'), 0o777)
    with pytest.raises(controls.Broken) as caught:
        controls.check_directory(home)
    assert b'0777' in caught.value.text


def watched(home):
    """A Watched over locals whose value is the list."""
    return controls.Watched(home, (b'locals', b'me'), lambda home: controls.listing(home, b'locals'))


def test_watched_follows_the_file(home):
    """A changed file is read anew, at once, even if size and clock tick are the same; also when it disappears."""
    put(home, b'locals', b'a.example\n')
    settings = watched(home)
    assert settings.get() == [b'a.example']
    put(home, b'locals', b'b.example\n')
    assert settings.get() == [b'b.example']
    os.unlink(os.path.join(home, b'control', b'locals'))
    put(home, b'me', b'me.example\n')
    assert settings.get() == [b'me.example']


def test_watched_reads_no_more_than_needed(home, monkeypatch):
    """An unchanged file is only looked at."""
    put(home, b'locals', b'a.example\n')
    monkeypatch.setattr(unix, 'time', lambda: 4e9)
    settings = watched(home)
    monkeypatch.setattr(unix, 'read_file', None)
    assert settings.get() == settings.get() == [b'a.example']


def test_watched_keeps_the_old_one(home, monkeypatch):
    """A broken new file changes nothing and is said once; a good one acts and clears that (A-08)."""
    lines = []
    monkeypatch.setattr(program, 'warn', lines.append)
    put(home, b'locals', b'a.example\n')
    settings = watched(home)
    put(home, b'locals', b'b.example\r\n')
    assert settings.get() == settings.get() == [b'a.example']
    assert len(lines) == 1 and b'line 1' in lines[0]
    assert not settings.reload()
    put(home, b'locals', b'c.example\n')
    assert settings.get() == [b'c.example']
    put(home, b'locals', b'b.example\r\n')
    assert settings.get() == [b'c.example'] and len(lines) == 2


def test_watched_first_load_is_strict(home):
    """At start a broken file is an error."""
    put(home, b'locals', b'b.example\r\n')
    with pytest.raises(controls.Broken):
        watched(home)
