"""MTA-STS through a whole qpy: qpy-mtasts as a line of control/services, confined, with DNS and port 443 of its own."""
import pathlib

from tests.peers import net
from tests.peers.certificates import authority
from tests.peers.smtp_script import Server
from tests.programs.test_mtasts import HEAD, Web
from tests.programs.test_remote_tls import secure

LINE = 'mtasts   qpyr  seq:mtasts:0660:qpyr:qpyr             qpy-mtasts\n'
POLICY = b'version: STSv1\r\nmode: enforce\r\nmx: mx.sts.test\r\nmax_age: 86400\r\n'


def test_mta_sts(world, sites):
    """The server that the policy names gets the mail, by TLS; the one that DNS names beside it, and the policy does not,
    gets none."""
    a, _ = sites
    world.zone['sts.test', 'MX'] = ['10 mx.evil.test', '20 mx.sts.test']
    world.zone['only.sts.test', 'MX'] = ['10 mx.evil.test']
    for name in ('mx.evil.test', 'mx.sts.test', 'mta-sts.sts.test', 'mta-sts.only.sts.test'):
        world.zone[name, 'A'] = [net.HUB]
    for name in ('_mta-sts.sts.test', '_mta-sts.only.sts.test'):
        world.zone[name, 'TXT'] = ['"v=STSv1; id=1;"']
    world.start(world.net.hub, lambda: Web('mta-sts.sts.test', 'mta-sts.only.sts.test', answer=HEAD + b'\r\n' + POLICY,
                                           at=(net.HUB, 443)))
    mail = world.start(world.net.hub, lambda: Server(secure('mx.sts.test'), net.HUB, 25))
    with a.with_service(LINE, 'tlscas'):
        a.qpy.write('control/tlscas', pathlib.Path(authority().ca).read_text())
        a.qpy.start()
        for name in ('sts', 'only.sts'):
            a.send(['x@%s.test' % name], b'Subject: sts\n\nfor it\n')
        a.until(lambda: {'x@sts.test', 'x@only.sts.test'} <= set(a.qpy.outcomes()))
        (letter, words), = a.qpy.outcomes()['x@sts.test']
        assert letter == 'K' and 'TLSv1.3' in words, words
        letter, words = a.qpy.outcomes()['x@only.sts.test'][0]
        assert letter == 'Z' and 'does_not_name_mx.evil.test' in words, words
        assert len(mail.mail) == 1
        a.qpy.stop(remove=False)
        kept = pathlib.Path(a.qpy.home, 'tls/policies').read_text().splitlines()
        assert sorted(line.split('\t')[0] for line in kept) == ['only.sts.test', 'sts.test']
