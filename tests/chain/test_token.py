"""A smarthost that wants a token, through the whole chain as root installs it: qpy-token as a line of control/services."""
import os
import stat
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402

from tests.peers.certificates import authority  # noqa: E402
from tests.peers.smtp_script import Server, good  # noqa: E402
from tests.programs.test_remote_routes import USER, bearer  # noqa: E402
from tests.programs.test_remote_tls import begin  # noqa: E402

pytestmark = pytest.mark.root
LINE = 'token    qpyr  seq:token:0600:qpyr                   qpy-token\n'


def test_a_smarthost_that_wants_a_token():
    """The program runs as qpyr and as nobody else, gives the token, and the mail goes; who reads the log does not see it."""
    replies = {b'STAR': begin(authority().context('127.0.0.1')), b'AUTH': bearer}
    house = houses.Rooted(services=LINE)
    try:
        with Server(good([b'AUTH XOAUTH2', b'STARTTLS'], replies)) as server:
            program = os.path.join(house.top, 'program')
            house.write('control/smtproutes', ':%s@127.0.0.1:%d\n' % (USER.decode(), server.port))
            house.write('control/smtptokens', '%s@127.0.0.1:%s %s\n' % (USER.decode(), program, house.top))
            with open(authority().ca) as file:
                house.write('control/tlscas', file.read())
            with open(program, 'w') as file:
                file.write('#!/bin/sh\nid -un > $1/spool/who; echo good\n')
            os.chmod(program, 0o755)
            os.mkdir(os.path.join(house.top, 'spool'))
            os.chmod(os.path.join(house.top, 'spool'), 0o777)
            house.start()
            house.sendmail('-f', 'me@here.test', 'joe@far.test')
            house.await_line('end msg')
            with open(os.path.join(house.top, 'spool/who')) as file:
                assert file.read() == 'qpyr\n'
            assert len(server.mail) == 1 and not any('good' in line for line in house.lines)
            assert stat.S_IMODE(os.stat(house.home + '/run/token').st_mode) == 0o600
            assert house.stop() == 0
    finally:
        house.remove()
