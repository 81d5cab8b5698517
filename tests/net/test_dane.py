"""DANE through a whole qpy with a real validating resolver: unbound on the host, nsd with a signed zone beyond it; and
what qpy-tlslog keeps of it."""
import contextlib
import json
import pathlib

import pytest

from tests.peers import net, signed
from tests.peers.certificates import authority
from tests.peers.smtp_script import Server
from tests.programs.test_remote_dane import record
from tests.programs.test_remote_tls import secure

LINE = 'tlslog   qpyr  seq:tlslog:0600:qpyr                  qpy-tlslog\n'
PORT = 5353


@pytest.fixture(scope='module')
def zone(tmp_path_factory):
    """good, wrong, late and forged publish TLSA records; none has none; what is said of forged was not signed."""
    why = signed.available()
    if why:
        pytest.skip(why)
    certificate, other = (authority().certificate(name)[0] for name in ('mx.dane.test', 'other.test'))
    lines = []
    for name, path in (('good', certificate), ('wrong', other), ('late', other), ('forged', certificate),
                       ('none', None)):
        lines += ['%s IN MX 10 mx.%s' % (name, name), 'mx.%s IN A %s' % (name, net.HUB)]
        if path:
            lines.append('_25._tcp.mx.%s IN TLSA %s' % (name, record(3, 1, 1, path).decode()))
    directory = tmp_path_factory.mktemp('zone')
    directory.chmod(0o755)
    made = signed.Zone(str(directory), 'dane.test', lines)
    text = pathlib.Path(made.file).read_text()
    line = next(line for line in text.splitlines() if line.startswith('_25._tcp.mx.forged') and '\tTLSA\t' in line)
    made.spoil(line, line[:-4] + ('0000' if line[-4:] != '0000' else '1111'))
    return made


def test_dane(world, sites, zone):
    """A certificate that matches is accepted, another one is not, and an answer that fails validation holds the mail up
    with the reason; where nothing is published, or the resolver does not validate, TLS is opportunistic."""
    a, _ = sites
    services = pathlib.Path(a.qpy.home, 'control/services')
    before = services.read_text()
    stack = contextlib.ExitStack()
    stack.enter_context(signed.Nsd(zone.work, zone, world.net.hub, net.HUB, PORT))
    unbound = stack.enter_context(signed.Unbound(zone.work, zone, a.host, (net.HUB, PORT), net.HUB))
    world.zone['unsigned.test', 'MX'] = ['10 mx.unsigned.test']
    world.zone['mx.unsigned.test', 'A'] = [net.HUB]
    try:
        a.qpy.stop(remove=False)
        services.write_text(before + LINE)
        a.qpy.write('control/resolvers', '127.0.0.1\n')
        mail = stack.enter_context(world.net.hub.call(lambda: Server(secure('mx.dane.test'), net.HUB, 25)))
        a.qpy.start()
        names = ['good.dane', 'wrong.dane', 'forged.dane', 'none.dane', 'unsigned']
        for name in names:
            a.send(['x@%s.test' % name], b'Subject: dane\n\nfor it\n')
        a.until(lambda: {'x@%s.test' % name for name in names} <= set(a.qpy.outcomes()), unbound.log)
        found = {name: a.qpy.outcomes()['x@%s.test' % name][0] for name in names}
        assert [found[name][0] for name in names] == ['K', 'Z', 'Z', 'K', 'K'], found
        assert 'does_not_match_its_TLSA_records' in found['wrong.dane'][1]
        assert 'TLSA_records_could_not_be_looked_up' in found['forged.dane'][1]
        assert 'SERVFAIL' in found['forged.dane'][1]
        assert sorted(str(recipients) for _, recipients, _ in mail.mail) == sorted(
            str([b'x@%s.test' % name.encode()]) for name in ('good.dane', 'none.dane', 'unsigned'))
        # the same zone by a server that validates nothing: AD is not there, and nothing of it counts
        a.qpy.stop(remove=False)
        a.qpy.write('control/resolvers', '%s:%d\n' % (net.HUB, PORT))
        a.qpy.start()
        a.send(['x@late.dane.test'], b'Subject: unproved\n\n')
        a.until(lambda: 'x@late.dane.test' in a.qpy.outcomes())
        assert a.qpy.outcomes()['x@late.dane.test'][0][0] == 'K'
        a.qpy.stop(remove=False)
        reports = [json.loads(line) for line in a.host.run(a.qpy.home + '/bin/qpy-tlsrpt', '--json').splitlines()]
        kinds = {report['policies'][0]['policy']['policy-domain']: report['policies'] for report in reports}
        assert kinds['good.dane.test'][0]['policy']['policy-type'] == 'tlsa'
        assert kinds['good.dane.test'][0]['summary']['total-successful-session-count'] == 1
        failures = [each for policy in kinds['wrong.dane.test'] for each in policy.get('failure-details', ())]
        assert {each['result-type'] for each in failures} == {'validation-failure'}
        assert kinds['forged.dane.test'][0]['failure-details'][0]['result-type'] == 'dnssec-invalid'
        assert kinds['unsigned.test'][0]['policy']['policy-type'] == 'no-policy-found'
    finally:
        stack.close()
        a.qpy.stop(remove=False)
        services.write_text(before)
        pathlib.Path(a.qpy.home, 'control/resolvers').unlink(missing_ok=True)
        for name in a.qpy.waiting():
            pathlib.Path(a.qpy.home, 'queue/mess', name).unlink()
        a.qpy.start()
