"""A rooted installation whose programs are owned: their launchers swap their work for probing.py."""
import contextlib
import glob
import os
import pwd
import re
import shutil
import socket
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'chain'))
import houses  # noqa: E402
from qpy.core import mailids  # noqa: E402
from tests.peers.certificates import authority  # noqa: E402

ANN, BOB = 54021, 54022
ACCOUNTS = ('qpyd', 'qpyt', 'qpyq', 'qpys', 'qpyu', 'qpyr', 'qpyp', 'qpya', 'qpyc', 'qpyl', 'alias')
MODULES = {'start': 'root.start', 'log': 'qpyl.log', 'queued': 'qpyq.queued', 'clean': 'qpyq.clean',
           'send': 'qpys.send', 'bouncer': 'qpys.bouncer', 'smtpd': 'qpyd.smtpd', 'tls': 'qpyt.tls', 'auth': 'qpya.auth', 'users': 'qpyp.users',
           'resolve': 'qpyr.resolve', 'lspawn': 'qpyu.lspawn', 'seed': 'root.seed', 'rspawn': 'qpyr.rspawn',
           'check': 'qpyc.check', 'milter': 'qpyc.milter'}
LINES = ('auth qpya seq:auth:0660:qpya:qpyd qpy-auth\n'
         'check qpyc seq:check:0660:qpyc:qpyd qpy-check\n'
         'milter qpyc seq:milter:0660:qpyc:qpyd,unix:filter:0660:qpyc:qpyd qpy-milter\n')
ENDS = ('start', 'log', 'queued', 'clean', 'send', 'bouncer', 'smtpd', 'tls', 'auth', 'users', 'resolve', 'lspawn', 'seed', 'rspawn',
        'remote', 'client', 'pool', 'check', 'milter', 'local %d' % ANN)
LAUNCHER = """\
#!/usr/bin/python3 -IS
import sys
sys.path.insert(0, %(code)r)
sys.path.insert(0, %(probes)r)
from qpy.lib import program
import probing
probing.swap(%(name)r, %(home)r, %(facts)r, %(loose)r)
program.run(%(module)r, %(home)r)
"""
LINE = re.compile(r'(?:^|: )qpy-(\w+): probe (P\d\d) (.*): (\S+|trouble \S+)$')


def account(name):
    return pwd.getpwnam(name).pw_uid


def closed():
    """Ids above the minimum that no user has: of Debian's services on demand, systemd's dynamic users, containers."""
    with open('/etc/nsswitch.conf', 'rb') as file:
        return [61184, 64045, 65533] + ([] if mailids.other_sources(file.read()) else [100000, 524288])


class Owned:
    """The house, its log, and the answers: {claim: {(program, what): answer}}."""

    def __init__(self, loose=(), ends=ENDS):
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.house = house = houses.Rooted(routes='wait.test:127.0.0.1:%d\n' % houses.free_port(),
                                           users={'ann': (ANN, ANN), 'bob': (BOB, BOB)})
        try:
            self.prepare(loose)
            house.start()
            with contextlib.suppress(ConnectionResetError):        # the first client is not served
                socket.create_connection(('127.0.0.1', house.port), 10).close()
            house.sendmail('ann@here.test', text='Subject: x\n\nto ann\n', check=False)
            house.await_that(lambda: self.ended() >= set(ends), 'ends of %s' % (set(ends) - self.ended()))
        except BaseException:
            self.remove()
            raise
        self.answers = {}
        for line in house.lines:
            found = LINE.search(line)
            if found:
                self.answers.setdefault(found[2], {})[found[1], found[3]] = found[4]

    def ended(self):
        """Who has said all."""
        return {line.partition(': probe end of ')[2] for line in self.house.lines if ': probe end of ' in line}

    def prepare(self, loose):
        """A message in the queue, files to try things on, and the launchers."""
        house = self.house
        with open(house.home + '/control/services', 'a') as file:
            file.write(LINES)
        house.start()
        house.sendmail('someone@wait.test', text='Subject: x\n\nwaiting\n')
        house.await_line('deferral')
        assert house.stop() == 0
        (self.ident,) = set(house.queue())
        for name, mode, owner in [('probe-empty', 0o755, 0), ('probe-open', 0o666, 0), ('control/private', 0o600, 0)] \
                + [('probe-mine-' + name, 0o644, account(name)) for name in ACCOUNTS]:
            house.write(name, '')
            os.chown(os.path.join(house.home, name), owner, owner)
            os.chmod(os.path.join(house.home, name), mode)
        self.secrets()
        shutil.copy(os.path.join(HERE, 'probing.py'), os.path.join(house.home, 'lib'))
        os.chmod(os.path.join(house.home, 'lib/probing.py'), 0o644)
        facts = dict(ident=self.ident, user=ANN, other=BOB, services=[account(name) for name in ACCOUNTS[:3]],
                     closed=closed(), names={account(name): name for name in ACCOUNTS}, user_home=house.user_homes['ann'],
                     other_home=house.user_homes['bob'], port=self.listener.getsockname()[1])
        for name, module in MODULES.items():
            path = os.path.join(house.home, 'bin/qpy-' + name)
            with open(path, 'w') as file:
                file.write(LAUNCHER % dict(code=house.home + '/lib', probes=house.home + '/lib', name=name, facts=facts,
                                           home=house.home, loose=loose, module='qpy.' + module))

    def secrets(self):
        """A key, and the hash of a password, as the programs that write them leave them."""
        house = self.house
        certificate, key = authority().certificate('here.test')
        house.as_owner(house.home + '/bin/qpy-cert', 'probe', certificate, key)
        house.as_owner(house.home + '/bin/qpy-passwd', 'ann', data=b'secret\n')

    def remove(self):
        """End it all."""
        house = self.house
        house.remove()
        self.listener.close()
        for directory in ('/tmp', '/var/tmp', '/dev/shm', '/run', '/var/mail', '/'):
            for path in glob.glob(directory + '/qpy-probe*'):
                os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
