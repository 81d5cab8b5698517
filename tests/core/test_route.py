"""core.route: where an address goes, and why."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import getpw, route

CONTROLS = route.Controls(
    {b'here.example': 1, b'also.example': 4},
    {b'virt.example': (b'bob', 1), b'joe@virt.example': (b'joe', 2), b'.wild.example': (b'w-x', 3),
     b'exempt.wild.example': (b'', 4), b'.deep.wild.example': (b'deep', 5), b'also.example': (b'never', 6),
     b'joe@here.example': (b'never', 7)},
    {b'hack.example': 2, b'here.example': 3}, b'default.example')


@pytest.mark.parametrize('address, channel, recipient, reason', [
    (b'joe@here.example', b'local', b'joe@here.example', b'control/locals line 1'),
    (b'Joe@HERE.Example', b'local', b'Joe@HERE.Example', b'control/locals line 1'),
    (b'a@b@here.example', b'local', b'a@b@here.example', b'control/locals line 1'),
    (b'x@sub.here.example', b'remote', b'x@sub.here.example', b'neither'),
    (b'x@also.example', b'local', b'x@also.example', b'control/locals line 4'),
    (b'joe', b'remote', b'joe@default.example', b'control/envnoathost; neither'),
    (b'x@virt.example', b'local', b'bob-x@virt.example', b'virtualdomains line 1, virt.example belongs to bob'),
    (b'X@VIRT.example', b'local', b'bob-X@VIRT.example', b'line 1'),
    (b'JOE@virt.example', b'local', b'joe-JOE@virt.example', b'line 2'),
    (b'x@a.b.wild.example', b'local', b'w-x-x@a.b.wild.example', b'line 3'),
    (b'x@wild.example', b'remote', b'x@wild.example', b'neither'),
    (b'x@exempt.wild.example', b'remote', b'x@exempt.wild.example', b'line 4, exempt.wild.example is exempted'),
    (b'x@a.deep.wild.example', b'local', b'deep-x@a.deep.wild.example', b'line 5'),
    (b'x%virt.example@hack.example', b'local', b'bob-x@virt.example', b'control/percenthack line 2 makes it x@virt.example; '),
    (b'x%y%virt.example@hack.example', b'local', b'bob-x%y@virt.example', b'line 1'),
    (b'x%far.example%hack.example@HACK.example', b'remote', b'x@far.example',
        b'line 2 makes it x%far.example@hack.example; control/percenthack line 2 makes it x@far.example; '),
    (b'x%far.example@here.example', b'remote', b'x@far.example', b'control/percenthack line 3 makes it x@far.example; '),
    (b'x%y@virt.example', b'local', b'bob-x%y@virt.example', b'line 1'),
    (b'x@hack.example', b'remote', b'x@hack.example', b'neither'),
    (b'x@', b'remote', b'x@', b'neither'), (b'@', b'remote', b'@', b'neither'),
    (b'', b'remote', b'@default.example', b'neither'), (b'x@[192.0.2.1]', b'remote', b'x@[192.0.2.1]', b'neither'),
    (b'x@here.example.', b'remote', b'x@here.example.', b'neither')])
def test_rewrite(address, channel, recipient, reason):
    """qmail-send's table of rewriting, each row with the file and line that decided."""
    found = route.rewrite(address, CONTROLS)
    assert (found.channel, found.recipient) == (channel, recipient)
    assert reason in found.reason
    assert found.domain == found.recipient.rpartition(b'@')[2]


def test_the_empty_key_catches_the_rest():
    """`:V` takes every domain that is not local and not named."""
    controls = route.Controls({b'here': 0}, {b'': (b'all', 1), b'out.example': (b'', 2)})
    assert route.rewrite(b'x@anything', controls).recipient == b'all-x@anything'
    assert route.rewrite(b'x@out.example', controls).channel == b'remote'
    assert route.rewrite(b'x@here', controls).recipient == b'x@here'
    assert route.rewrite(b'x@here', controls).reason == b'control/me (no locals)'


ADDRESSES = st.text('ab.@%-\xe9AH', max_size=20).map(lambda s: s.encode('latin-1')) | st.sampled_from(
    [b'x%a@hack.example', b'joe@virt.example', b'bob-x@virt.example', b'x@y.wild.example'])


def plain_rewrite(address, controls):
    """qmail-send.c's rewrite, position by position, without reasons."""
    if b'@' not in address:
        address += b'@' + controls.envnoathost
    at = address.rindex(b'@')
    while address[at + 1:].lower() in controls.percenthack:
        j = address.rfind(b'%', 0, at)
        if j < 0:
            break
        address = address[:j] + b'@' + address[j + 1:at]
        at = j
    at = address.rindex(b'@')
    if address[at + 1:].lower() in controls.locals:
        return b'local', address
    for i in range(len(address) + 1):
        if i in (0, at + 1, len(address)) or i > at and address[i:i + 1] == b'.':
            found = controls.virtualdomains.get(address[i:].lower())
            if found is not None:
                return (b'local', found[0] + b'-' + address) if found[0] else (b'remote', address)
    return b'remote', address


@given(ADDRESSES)
def test_rewrite_agrees_with_qmail(address):
    """The same as a transcription of qmail's loop, for any address."""
    found = route.rewrite(address, CONTROLS)
    assert (found.channel, found.recipient) == plain_rewrite(address, CONTROLS)


@given(ADDRESSES)
def test_prefix_is_taken_off_again(address):
    """A prefix given because of the domain is taken off again; nothing else is taken off."""
    found = route.rewrite(address, CONTROLS)
    assert route.strip_prefix(found.recipient, CONTROLS) in (found.address, found.recipient)
    key, _ = route.virtual(found.address, CONTROLS)
    if b'@' not in key and found.channel == route.LOCAL and found.recipient != found.address:
        assert route.strip_prefix(found.recipient, CONTROLS) == found.address


@pytest.mark.parametrize('recipient, shown', [
    (b'bob-x@virt.example', b'x@virt.example'), (b'joe-joe@virt.example', b'joe-joe@virt.example'),
    (b'bobx@virt.example', b'bobx@virt.example'), (b'w-x-y@a.wild.example', b'y@a.wild.example'),
    (b'x@exempt.wild.example', b'x@exempt.wild.example'), (b'bob-x@far.example', b'bob-x@far.example')])
def test_strip_prefix(recipient, shown):
    """Bounces name recipients as their senders know them."""
    assert route.strip_prefix(recipient, CONTROLS) == shown


@pytest.mark.parametrize('sender, recipient, shown', [
    (b'list-return-@host-@[]', b'joe@dom', b'list-return-joe=dom@host'),
    (b'list-return-@host-@[]', b'a@b@dom', b'list-return-a@b=dom@host'),
    (b'a@b@host-@[]', b'joe@dom', b'a@bjoe=dom@host'), (b'@-@[]', b'joe@dom', b'joe=dom@'),
    (b'list-return-@host-@[]', b'joe', b'list-return-@host-@[]'),
    (b'nohost-@[]', b'joe@dom', b'nohost-@[]'), (b'-@[]', b'joe@dom', b'-@[]'),
    (b'#@[]', b'joe@dom', b'#@[]'), (b'', b'joe@dom', b''), (b'joe@x', b'joe@dom', b'joe@x')])
def test_verp(sender, recipient, shown):
    """A sender that ends in -@[] is expanded for each recipient; all others stay."""
    assert route.sender_for(sender, recipient) == shown


@pytest.mark.parametrize('sender, to', [
    (b'list-return-@host-@[]', b'list-return-@host'), (b'nohost-@[]', b'nohost-@[]'), (b'#@[]', b'#@[]'),
    (b'joe@x', b'joe@x'), (b'', b'')])
def test_bounces_of_verp_senders(sender, to):
    """All failures of one message go in one bounce to the owner without recipient."""
    assert route.bounce_recipient(sender) == to


# --- the whole way -------------------------------------------------------------------------------------------

JOE = getpw.User(b'joe', 1001, 1001, b'/home/joe', b'', b'', b'account joe')
EXT = getpw.User(b'joe', 1001, 1001, b'/home/joe', b'-', b'ext', b'account joe')


def way(address, user=JOE, answer=(b'yes', None)):
    """The way of an address, all look-ups answered so; an Exception is raised."""
    def say(value):
        if isinstance(value, Exception):
            raise value
        return value
    return route.resolve(address, CONTROLS, lambda local: say(user), lambda user: say(answer))


def test_ways():
    """Remote is not ours to say; local is what user and .qmail say; trouble is temporary; reasons join."""
    assert way(b'x@far.example').verdict == route.YES
    assert b'not ours' in way(b'x@far.example').reason
    found = way(b'joe@here.example')
    assert found.verdict == route.YES
    assert found.reason == b'control/locals line 1; account joe; /home/joe/: .qmail, or without one the default delivery'
    assert way(b'joe@here.example', JOE, (b'yes', b'.forward')).reason.endswith(b'/home/joe/.forward')
    assert way(b'joe@here.example', JOE, (b'yes', b'../users/x')).reason.endswith(b'; /home/users/x')
    found = way(b'joe@here.example', JOE, (b'yes', b''))
    assert found.file is None and found.reason.endswith(b'/home/joe/: no file that says otherwise, so the default delivery')
    found = way(b'joe@here.example', JOE, (b'unknown', None))
    assert found.verdict == route.YES and found.reason.endswith(b'/home/joe/: cannot be looked into')
    found = way(b'joe-ext@here.example', EXT, (b'no', None))
    assert found.verdict == route.NO and found.reason.endswith(b'/home/joe/: no .qmail file for -ext')
    assert way(b'joe-ext@here.example', EXT, (b'unknown', None)).verdict == route.UNKNOWN
    assert way(b'joe-ext@here.example', EXT, (b'yes', b'.qmail-ext')).file == b'.qmail-ext'
    found = way(b'x%@here.example'), way(b'@here.example', getpw.Trouble(118, b'not to be asked'))
    assert [(each.verdict, each.route.channel) for each in found] == [(route.YES, b'remote'), (route.NO, b'local')]
    assert found[1].reason == b'control/locals line 1; nothing in front of the @'
    assert way(b'@virt.example').verdict == route.YES           # for the local part bob-
    for user, answer in ((getpw.Trouble(118, b'passwd is down'), None), (JOE, getpw.Trouble(115, b'NFS'))):
        found = way(b'joe@here.example', user, answer)
        assert found.verdict == route.TEMP and found.reason.startswith(b'control/locals line 1; ')


def looked(user, there):
    """look() for a user with candidates a and b, of which `there` says what they are."""
    return route.look(user, [b'a', b'b'], lambda path: there.get(path, route.NO))


def test_look():
    """The first candidate that is a file decides; a closed home is unknown; without a file only an extension fails."""
    assert looked(EXT, {b'/home/joe/b': b'yes'}) == (b'yes', b'b')
    assert looked(EXT, {b'/home/joe/a': b'yes', b'/home/joe/b': b'yes'}) == (b'yes', b'a')
    assert looked(EXT, {b'/home/joe/a': b'unknown'}) == (b'unknown', None)
    assert looked(EXT, {}) == (b'no', None)
    assert looked(JOE, {b'/home/joe/a': b'unknown'}) == (b'unknown', None) and looked(JOE, {}) == (b'yes', b'')
