"""cron and at, whole, with qpy's sendmail where they look for it: what a job prints reaches its user."""
import os
import subprocess

import pytest

from tests.peers import net
from tests.real.conftest import UID, unpacked

PAM = 'auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n'


@pytest.fixture
def machine(server):
    """start(package, files of /etc, directories): a mount namespace with the package, qpy's sendmail and
    joe."""
    hosts, running = [], []
    base = os.path.dirname(server.home)

    def start(package, files, directories):
        root = unpacked(package)
        host = net.Host(package, network=False)
        hosts.append(host)
        links = os.path.join(base, 'usr.' + package)
        os.makedirs(links + '/sbin')
        os.symlink(server.home + '/bin/qpy-sendmail', links + '/sbin/sendmail')
        host.usr(links, root + '/usr')
        host.etc(base, {'pam.d/' + name: PAM for name in ('cron', 'atd')} | files)
        host.accounts([('joe', UID, server.mailbox.home)], base)
        for place in ('/run', '/var/spool', '/tmp'):
            host.run('mount', '-t', 'tmpfs', '-o', 'mode=1777' if place == '/tmp' else 'mode=755', 'tmpfs',
                     place)
        for name, owner, mode in directories:
            host.run('install', '-d', '-o', owner, '-g', owner, '-m', mode, name)
        return host

    def daemon(host, *command):
        running.append(subprocess.Popen([*host.prefix, *command], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT))
        return running[-1]
    start.daemon = daemon
    yield start
    for process in running:
        process.kill()
        process.communicate()
    for host in hosts:
        host.end()


def test_cron(server, mailbox, machine):
    """cron mails what a job has printed, from root to the job's user, by its own call of
    /usr/sbin/sendmail."""
    host = machine('cron', {'crontab': '@reboot joe printf "out of cron\\n.\\nend\\n"\n'},
                   [('/var/spool/cron/crontabs', 'root', '755')])
    machine.daemon(host, 'cron', '-f')
    text = mailbox.next(log=server.log)
    assert text.endswith(b'\n\nout of cron\n.\nend\n') and b'\nFrom: root@qpy.test (Cron Daemon)\n' in text
    assert b'\nTo: joe@qpy.test\n' in text and b'invoked by uid %d)' % UID in text


def test_at(server, mailbox, machine):
    """at mails what a job has printed, by its own call of /usr/sbin/sendmail."""
    host = machine('at', {'at.deny': ''}, [('/var/spool/cron', 'root', '755'),
                                           ('/var/spool/cron/atjobs', 'daemon', '770'),
                                           ('/var/spool/cron/atspool', 'daemon', '770')])
    host.run('sh', '-c',
             'touch /var/spool/cron/atjobs/.SEQ; chown daemon:daemon /var/spool/cron/atjobs/.SEQ; '
                         'chmod 600 /var/spool/cron/atjobs/.SEQ')
    host.run('setpriv', '--reuid', str(UID), '--regid', str(UID), '--clear-groups', 'env', '-C', '/',
             'USER=joe',
             'LOGNAME=joe', 'at', 'now', data=b'echo out of at\n')
    machine.daemon(host, 'atd', '-f')
    text = mailbox.next(log=server.log)
    assert b'\nout of at\n' in text and b'\nTo: joe@qpy.test\n' in text, text
