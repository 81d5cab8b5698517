"""Where mail goes by what the DNS says, through a whole qpy: to whom, when again, and what its sender
hears."""
import pytest

from tests.peers import dns_script
from tests.peers.smtp_script import Server, good

# Domains whose mail arrives at once, and how their zone is written: {n} are addresses with a server, dead
# ones refuse, holes swallow.
ARRIVES = {
    'plain': {('plain.test', 'MX'): ['10 mx.plain.test'], ('mx.plain.test', 'A'): ['{live}']},
    'implicit': {('implicit.test', 'A'): ['{live}']},
    'six': {('six.test', 'MX'): ['10 mx.six.test'], ('mx.six.test', 'AAAA'): ['{live6}']},
    'only-six': {('only-six.test', 'AAAA'): ['{live6}']},
    'best-refuses': {('best-refuses.test', 'MX'): ['10 one.best-refuses.test', '20 two.best-refuses.test'],
                     ('one.best-refuses.test', 'A'): ['{dead}'], ('two.best-refuses.test', 'A'): ['{live}']},
    'best-is-silent': {('best-is-silent.test', 'MX'): ['10 one.best-is-silent.test',
                                                       '20 two.best-is-silent.test'],
                       ('one.best-is-silent.test', 'A'): ['{hole}'],
                       ('two.best-is-silent.test', 'A'): ['{live}']},
    'best-is-unknown': {('best-is-unknown.test', 'MX'): ['10 one.best-is-unknown.test',
                                                         '20 two.best-is-unknown.test'],
                        ('two.best-is-unknown.test', 'A'): ['{live}']},
    'second-address': {('second-address.test', 'MX'): ['10 mx.second-address.test'],
                       ('mx.second-address.test', 'A'): ['{dead}', '{live}']},
    'alias': {('alias.test', 'CNAME'): ['real.alias.test'], ('real.alias.test', 'MX'): ['10 mx.alias.test'],
              ('mx.alias.test', 'A'): ['{live}']},
    'mx-is-alias': {('mx-is-alias.test', 'MX'): ['10 mx.mx-is-alias.test'],
                    ('mx.mx-is-alias.test', 'CNAME'): ['host.mx-is-alias.test'],
                    ('host.mx-is-alias.test', 'A'): ['{live}']},
    'truncated': {('truncated.test', 'MX'): dns_script.TRUNCATED,
                  ('truncated.test', 'MX/tcp'): ['10 mx.truncated.test'],
                  ('mx.truncated.test', 'A'): ['{live}']},
}
# Domains to which mail can never go, and what the bounce says.
NEVER = {
    'null': ({('null.test', 'MX'): ['0 .']}, b'5.1.10'),
    'no-such-domain': ({}, b'5.1.2'),
    'nothing-there': ({('nothing-there.test', 'TXT'): ['"x"']}, b'5.4.4'),
    'us': ({('us.test', 'MX'): ['10 mx.a.test']}, b'5.4.6'),
}
# Domains that are in trouble for a while.
LATER = {
    'servfail': {('servfail.test', 'MX'): dns_script.SERVFAIL},
    'refused': {('refused.test', 'MX'): dns_script.REFUSED},
    'silent': {('silent.test', 'MX'): dns_script.SILENT},
    'mx-servfail': {('mx-servfail.test', 'MX'): ['10 mx.mx-servfail.test'],
                    ('mx.mx-servfail.test', 'A'): dns_script.SERVFAIL},
    'all-dead': {('all-dead.test', 'MX'): ['10 mx.all-dead.test'], ('mx.all-dead.test', 'A'): ['{dead}']},
    'all-silent': {('all-silent.test', 'MX'): ['10 mx.all-silent.test'],
                   ('mx.all-silent.test', 'A'): ['{hole}']},
}


@pytest.fixture(scope='module')
def places(world):
    """The words of the zones above as addresses, and the servers at the live ones."""
    words = {'live': world.net.world(), 'live6': world.net.world(six=True), 'dead': world.net.world(),
             'hole': world.net.hole()}
    servers = [world.start(world.net.hub, lambda address=words[name]: Server(good(), address, 25))
               for name in ('live', 'live6')]
    return words, servers


def publish(world, words, zone):
    """Put a zone into the DNS."""
    for key, records in zone.items():
        if isinstance(records, list):
            records = [record.format(**words) for record in records]
        world.zone[key] = records


def bodies(servers):
    """{recipient: [bodies]} of all that the servers have taken."""
    found = {}
    for server in servers:
        for _, recipients, text in server.mail:
            for name in recipients:
                found.setdefault(name.decode(), []).append(text.partition(b'\r\n\r\n')[2])
    return found


def test_it_arrives(world, sites, places):
    """MX by preference with the best one refusing, silent or unknown; A and AAAA without MX; aliases; TCP:
    each message arrives at its first attempt, once."""
    a, _ = sites
    words, servers = places
    for zone in ARRIVES.values():
        publish(world, words, zone)
    for name in ARRIVES:
        a.send(['x@%s.test' % name], b'Subject: dns\n\nfor %s\n' % name.encode())
    a.until(lambda: not a.qpy.waiting() and all('x@%s.test' % name in a.qpy.outcomes() for name in ARRIVES))
    assert {name: a.qpy.outcomes()['x@%s.test' % name] for name in ARRIVES
            if [letter for letter, _ in a.qpy.outcomes()['x@%s.test' % name]] != ['K']} == {}
    arrived = bodies(servers)
    for name in ARRIVES:
        # An alias is written out in the envelope (RFC 1123, 5.2.2) by qmail, and left alone by others.
        there = arrived.get('x@%s.test' % name) or arrived.get('x@real.%s.test' % name)
        assert there == [b'for %s\r\n' % name.encode()], name
    assert ('truncated.test', 'MX', True) in world.dns.asked


def test_it_never_goes(world, sites, places):
    """Null MX, a domain that does not exist, one without addresses, one that only we are said to serve: a
    bounce each, at once, with the reason's code."""
    a, _ = sites
    for name, (zone, _) in NEVER.items():
        publish(world, places[0], zone)
        a.send(['x@%s.test' % name], b'Subject: dns\n\nfor %s\n' % name.encode())
    bounces = [a.next() for _ in NEVER]
    for name, (_, code) in NEVER.items():
        (bounce,) = [text for text in bounces if b'\n<x@%s.test>:' % name.encode() in text]
        assert code in bounce, bounce
    a.until(lambda: not a.qpy.waiting())


def test_it_goes_later(world, sites, places):
    """Whatever the DNS or the network withholds is temporary: the mail waits, and goes when the trouble is
    over."""
    a, _ = sites
    words, servers = places
    for name, zone in LATER.items():
        publish(world, words, zone)
        a.send(['x@%s.test' % name], b'Subject: dns\n\nfor %s\n' % name.encode())
    a.until(lambda: all('x@%s.test' % name in a.qpy.outcomes() for name in LATER))
    assert {name: a.qpy.outcomes()['x@%s.test' % name][0] for name in LATER
            if a.qpy.outcomes()['x@%s.test' % name][0][0] != 'Z'} == {}
    assert len(a.qpy.waiting()) == len(LATER) and not a.mailbox.names() - a.mailbox.seen
    for name in LATER:
        publish(world, words, {(name + '.test', 'MX'): ['10 mx.%s.test' % name],
                               ('mx.%s.test' % name, 'A'): ['{live}']})
    a.qpy.command(a.qpy.home + '/bin/qpy-ctl', 'tcpok')
    a.qpy.command(a.qpy.home + '/bin/qpy-ctl', 'run')
    a.until(lambda: not a.qpy.waiting(),
            lambda: str({name: a.qpy.outcomes()['x@%s.test' % name] for name in LATER}))
    assert all(bodies(servers)['x@%s.test' % name] == [b'for %s\r\n' % name.encode()] for name in LATER)
    assert not a.mailbox.names() - a.mailbox.seen

