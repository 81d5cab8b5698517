"""DANE through a whole qpy with a real validating resolver: unbound on the host, nsd with signed zones from a root of our
own beyond it; and what qpy-tlslog keeps of it."""
import contextlib
import json
import pathlib
import types

import pytest

from tests.peers import net, signed
from tests.peers.certificates import authority
from tests.peers.smtp_script import Server
from tests.programs.test_remote_dane import chained, record
from tests.programs.test_remote_tls import EXTENSIONS, begin, good, secure

LINE = 'tlslog   qpyr  seq:tlslog:0600:qpyr                  qpy-tlslog\n'
pytestmark = pytest.mark.timeout(300)                  # four starts of a qpy, two of a resolver
SERVED = ('mx.dane.test', 'ta.dane.test')          # the names in the certificate of whoever serves

# domains below dane.test: TLSA records of their exchanger mx.DOMAIN as (usage, selector, type, whose), what becomes of
# mail to them, and a word of the reason; None as records: there are none
DOMAINS = {
    'good': (((3, 1, 1, 'served'),), 'K', ''), 'whole': (((3, 0, 2, 'served'),), 'K', ''),
    'rollover': (((3, 1, 1, 'other'), (3, 1, 1, 'served')), 'K', ''),
    'ta': (((2, 0, 1, 'authority'),), 'K', ''),
    'strange': (((2, 0, 1, 'authority'),), 'Z', 'hostname_mismatch'),
    'wrong': (((3, 1, 1, 'other'),), 'Z', 'does_not_match_its_TLSA_records'),
    'useless': (((1, 0, 1, 'other'),), 'K', ''),
    'forged': (((3, 1, 1, 'served'),), 'Z', 'TLSA_records_could_not_be_looked_up'),
    'none': (None, 'K', '')}


@pytest.fixture(scope='module')
def tree(world, tmp_path_factory):
    """The root, test, and below it dane (NSEC3), lost (whose DS is of another key), open (not signed): [Zone], and where
    mail goes: served, and plain, which has no TLS."""
    why = signed.available()
    if why:
        pytest.skip(why)
    directory = tmp_path_factory.mktemp('zone')
    directory.chmod(0o755)
    found = types.SimpleNamespace(work=str(directory), dns=world.net.world(), served=world.net.world(), plain=world.net.world())
    paths = {'served': authority().certificate(*SERVED)[0], 'other': authority().certificate('other.test')[0],
             'authority': authority().ca}
    lines = ['mixed IN MX 10 mx.wrong', 'mixed IN MX 20 mx.open.test.', 'alias IN MX 10 also', 'also IN CNAME mx.wrong',
             'signed IN MX 10 mx.open.test.', 'ta IN A ' + found.served]
    for name, (records, _, _) in DOMAINS.items():
        lines += ['%s IN MX 10 mx.%s' % (name, name), 'mx.%s IN A %s' % (name, found.served)]
        for usage, selector, kind, whose in records or ():
            words = record(usage, selector, kind, paths[whose]).decode()
            lines.append('_25._tcp.mx.%s IN TLSA %s' % (name, words))
    make = (lambda name, lines, **more: signed.Zone(found.work, name, lines, found.dns, **more))
    dane = make('dane.test', lines, nsec3=True)
    text = pathlib.Path(dane.file).read_text()
    line = next(line for line in text.splitlines() if line.startswith('_25._tcp.mx.forged') and '\tTLSA\t' in line)
    dane.spoil(line, line[:-4] + ('0000' if line[-4:] != '0000' else '1111'))
    lost = make('lost.test', ['@ IN MX 10 mx', 'mx IN A ' + found.served])
    nobody = make('open.test', ['@ IN MX 10 mx', 'mx IN A ' + found.plain,
                                '_25._tcp.mx IN TLSA %s' % record(3, 1, 1, paths['other']).decode()])
    another = signed.Zone(str(tmp_path_factory.mktemp('key')), 'lost.test', [], found.dns)
    test = make('test', dane.cut() + another.cut() + nobody.cut(signed=False))
    found.root = make('', test.cut())
    found.zones = [found.root, test, dane, lost, nobody]
    return found


@pytest.fixture
def site(sites):
    """Site a, with qpy-tlslog; afterwards as it was before."""
    a, _ = sites
    with a.with_service(LINE, 'resolvers', 'tlsdestinations'):
        yield a


def outcomes(site, resolver, names):
    """{name: (letter, text)} of mail to x@NAME.test, one attempt each, with this DNS server."""
    site.qpy.write('control/resolvers', resolver + '\n')
    site.qpy.start()
    seen = len(site.qpy.log())
    for name in names:
        site.send(['x@%s.test' % name], b'Subject: dane\n\nfor %s\n' % name.encode())
    want = {'x@%s.test' % name for name in names}
    site.until(lambda: want <= set(site.qpy.outcomes()), lambda: site.qpy.log()[seen:])
    found = {name: site.qpy.outcomes()['x@%s.test' % name][-1] for name in names}
    site.qpy.stop(remove=False)
    return found


def test_dane(world, site, tree):
    """From a private root: records that match, records of an authority, useless and wrong ones, forged ones, none (denied
    by NSEC3); a zone whose chain of trust is broken; exchangers of which one is signed and one is not; an alias; and a
    resolver that is not on this host, or validates nothing, and is not believed."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(signed.Nsd(tree.work, tree.zones, world.net.hub, tree.dns))
        unbound = stack.enter_context(signed.Unbound(tree.work, tree.root, site.host))
        away = world.net.world()
        stack.enter_context(signed.Unbound(tree.work, tree.root, world.net.hub, away))
        served = stack.enter_context(world.net.hub.call(
            lambda: Server(good(EXTENSIONS, {b'STAR': begin(chained(*SERVED))}), tree.served, 25)))
        plain = stack.enter_context(world.net.hub.call(lambda: Server(good(), tree.plain, 25)))
        found = outcomes(site, '127.0.0.1', [name + '.dane' for name in DOMAINS]
                         + ['lost', 'mixed.dane', 'alias.dane', 'signed.dane', 'open'])
        wrong = {name: found[name + '.dane'] for name, (_, letter, why) in DOMAINS.items()
                 if found[name + '.dane'][0] != letter or why not in found[name + '.dane'][1]}
        assert not wrong, unbound.log()[-3000:]
        assert found['lost'][0] == 'Z' and 'SERVFAIL' in found['lost'][1] and 'SERVFAIL' in found['forged.dane'][1]
        assert found['alias.dane'][0] == 'Z' and 'does_not_match_its_TLSA_records' in found['alias.dane'][1]
        assert {name: found[name][0] for name in ('mixed.dane', 'signed.dane', 'open')} == dict.fromkeys(
            ('mixed.dane', 'signed.dane', 'open'), 'K')
        assert {recipients[0] for _, recipients, _ in plain.mail} == {b'x@mixed.dane.test', b'x@signed.dane.test', b'x@open.test'}
        assert {recipients[0] for _, recipients, _ in served.mail} == {
            b'x@%s.dane.test' % name.encode() for name, (_, letter, _) in DOMAINS.items() if letter == 'K'}
        reported(site)
        site.qpy.write('control/tlsdestinations', ':encrypt\n')        # makes nothing of it weaker
        pathlib.Path(site.qpy.home, 'test.log').write_text('')
        found = outcomes(site, '127.0.0.1', ['strange.dane', 'forged.dane', 'none.dane'])
        assert [found[name][0] for name in sorted(found)] == ['Z', 'K', 'Z']
        pathlib.Path(site.qpy.home, 'control/tlsdestinations').unlink()
        # resolvers that say AD, but from elsewhere; or that validate nothing: nothing of DANE counts
        for resolver, name in ((away, 'wrong.dane'), (tree.dns, 'forged.dane')):
            pathlib.Path(site.qpy.home, 'test.log').write_text('')
            assert outcomes(site, resolver, [name])[name][0] == 'K'


def reported(site):
    """What qpy-tlsrpt has to say of it."""
    reports = [json.loads(line) for line in site.host.run(site.qpy.home + '/bin/qpy-tlsrpt', '--json').splitlines()]
    kinds = {report['policies'][0]['policy']['policy-domain']: report['policies'] for report in reports}
    assert kinds['good.dane.test'][0]['policy']['policy-type'] == 'tlsa'
    assert kinds['good.dane.test'][0]['summary']['total-successful-session-count'] == 1
    for name, result in (('wrong', 'validation-failure'), ('strange', 'certificate-host-mismatch'), ('forged', 'dnssec-invalid')):
        failures = [each for policy in kinds[name + '.dane.test'] for each in policy.get('failure-details', ())]
        assert {each['result-type'] for each in failures} == {result}, failures
    assert {'no-policy-found', 'tlsa'} == {policy['policy']['policy-type'] for found in kinds.values() for policy in found}
