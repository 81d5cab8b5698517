"""What qpy-import makes of a Postfix configuration, beside what that Postfix does with the same addresses."""
import json
import os
import re
import subprocess
import time

import pytest

from tests.peers.qpy import free_port

postfix = pytest.importorskip('tests.peers.postfix')
pytestmark = pytest.mark.root

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAIN = 'myorigin = foo.test\nvirtual_alias_domains = v.test\nvirtual_alias_maps = texthash:%s/virtual\n'
VIRTUAL = ('carl@foo.test carl@foo.test\nbob@foo.test bob, y@far.test\nroot boss, carl@far.test\nann@v.test kim, z@far.test\n'
           'all@foo.test carl, root, ann@v.test\ntwo@foo.test Two, root\nself@postfix.test far@far.test\nx@v.test @foo.test\n')
SAME = ('carl@foo.test', 'root@foo.test', 'root@postfix.test', 'ann@v.test', 'all@foo.test', 'self@postfix.test', 'other@foo.test', 'x@v.test')
TOLD = ('bob@foo.test', 'two@foo.test')       # stay and go on: that no .qmail file can say


@pytest.fixture
def theirs(tmp_path):
    """theirs(address) -> the recipients that Postfix makes of it."""
    if os.geteuid() != 0:
        pytest.skip('needs root: Postfix has accounts of its own')
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(path.stat().st_mode | 0o055)
    (tmp_path / 'virtual').write_text(VIRTUAL)
    try:
        running = postfix.Postfix(free_port(), more=MAIN % tmp_path + 'defer_transports = smtp\n')
    except RuntimeError as problem:
        pytest.skip('no Postfix: %s' % problem)

    def ask(address):
        running.run('sendmail', '-f', 's@s.test', address, input=b'Subject: x\n\n', check=True)
        give_up = time.monotonic() + 30
        while True:
            found = [json.loads(line) for line in running.run('postqueue', '-j', capture_output=True).stdout.splitlines()]
            if found and all(each['queue_name'] == 'deferred' for each in found):
                running.run('postsuper', '-d', 'ALL', 'deferred', check=True, capture_output=True)
                return {recipient['address'] for each in found for recipient in each['recipients']}
            assert time.monotonic() < give_up, running.log()
            time.sleep(0.05)            # its queue announces nothing
    yield ask
    running.stop()


def ours(home, address, depth=10):
    """The recipients that the imported files make of it, by sendmail -bv and the .qmail files of alias."""
    said = subprocess.run([ROOT + '/bin/qpy-sendmail', '-bv', address], capture_output=True, text=True, env={'QPYHOME': str(home)}).stdout
    if ' remote' in said:
        return {address}
    prefix = re.search(r'belongs to alias-(\S+?)[;,]?\s', said)
    name = '-'.join([*(prefix.groups() if prefix else ()), address.partition('@')[0]]).replace('.', ':')
    lines = (home / 'alias' / ('.qmail-' + name)).read_text().splitlines()
    assert depth and all(line[:1] == '&' for line in lines), (address, said, lines)
    return set().union(*(ours(home, line[1:], depth - 1) for line in lines))


def test_addresses_go_where_postfix_sends_them(theirs, tmp_path):
    """Addresses that are their own target, names without a domain at a myorigin that is not local, virtual domains: the
    same recipients; where that cannot be, it is told, and nothing is written that mail could go round by."""
    home = tmp_path / 'qpy'
    for name in ('control', 'alias', 'users'):
        (home / name).mkdir(parents=True)
    (tmp_path / 'postfix').mkdir()
    (tmp_path / 'postfix/main.cf').write_text('myhostname = postfix.test\nmydestination = postfix.test\n' + MAIN % tmp_path)
    done = subprocess.run([ROOT + '/bin/qpy-import', 'postfix', str(tmp_path / 'postfix')], capture_output=True, text=True,
                          env={'QPYHOME': str(home)})
    assert done.returncode == 1 and not done.stderr
    for address in SAME:
        assert ours(home, address) == theirs(address), (address, done.stdout)
    for address in TOLD:
        assert {address} == ours(home, address) < {each.lower() for each in theirs(address)}
        assert 'look: virtual: %s: not taken over: its targets lead back to it' % address in done.stdout
