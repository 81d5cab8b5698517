"""Those who read qmail's output, from Debian's packages, on ours: parsers of the log, and monitors of the queue."""
import os
import pwd
import re
import smtplib
import socket
import subprocess
import time

import pytest

from qpy.core import syslines
from tests.peers.qpy import free_port
from tests.real.conftest import PATIENCE, needs, unpacked
from tests.real.test_ways_in import Started

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(*command, data=b'', **more):
    """The output of a command, which succeeds."""
    done = subprocess.run(command, input=data, capture_output=True, **more)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout.decode()


SECOND = '127.0.0.2'           # the client of the port that `submission` serves


def again(server, services, routes):
    """Start the chain anew with other lines at the end of control/services, and with other routes."""
    server.stop(remove=False)
    for name, text in (('services', services), ('smtproutes', routes)):
        server.write('control/' + name, text)
    server.start()


@pytest.fixture(scope='module')
def log(server):
    """The real log of a chain that delivered, refused, deferred and bounced, left a host alone, and served another port by
    a second line of control/services, as bytes, from here on."""
    texts = []
    for name in ('services', 'smtproutes'):
        with open('%s/control/%s' % (server.home, name)) as file:
            texts.append(file.read())
    port = free_port()
    before = len(server.log())
    again(server, texts[0] + 'submission qpyd tcp:127.0.0.1:%d qpy-smtpd\n' % port, texts[1] + 'dead.test:127.0.0.1:%d\n' % free_port())
    try:
        hand_in(server, port)
        yield server.log()[before:].encode()
    finally:
        for name in server.waiting():
            server.command(server.home + '/bin/qpy-ctl', 'drop', name)
        again(server, *texts)


def await_line(server, pattern):
    """Until the log has such a line."""
    give_up = time.monotonic() + PATIENCE
    while not re.search(pattern, server.log(), re.M):
        assert time.monotonic() < give_up, server.log()[-3000:]
        time.sleep(0.01)                # a file announces nothing to a plain reader


def hand_in(server, port):
    """What makes such a log."""
    box = server.mailbox
    box.seen = box.names()
    box.dot_qmail('later', '|exit 111\n')
    box.dot_qmail('never', '|echo no such thing; exit 100\n')
    with smtplib.SMTP('127.0.0.1', server.port) as client:
        client.ehlo('client.test')
        for name in ('joe', 'joe-never', 'joe-later'):
            client.sendmail('joe@qpy.test', [name + '@qpy.test'], 'Subject: for the log\n\n')
        client.sendmail('joe@qpy.test', ['ann@dead.test'], 'Subject: for nobody yet\n\n')
        await_line(server, r'^destination \S+: left alone for ')
        client.sendmail('joe@qpy.test', ['ann@dead.test'], 'Subject: for nobody yet\n\n')
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail('forger: x@evil.test', ['nobody-at-all@qpy.test'], '')
    with smtplib.SMTP('127.0.0.1', port, source_address=(SECOND, 0)) as client, pytest.raises(smtplib.SMTPRecipientsRefused):
        client.sendmail('joe@qpy.test', ['nobody-at-all@qpy.test'], '')
    box.next(log=server.log)
    box.next(log=server.log)            # the bounce
    await_line(server, r'^destination \S+: msg \d+ waits untried')
    server.command(server.home + '/bin/qpy-tcpok')
    await_line(server, r'^destination \S+: in order again')
    await_line(server, r'^qpy-smtpd\[submission\]: refused rcpt ip ' + SECOND)


def syslog(log):
    """The log as splogger sends it and syslog writes it."""
    lines, whose, out = syslines.Lines(), b'qmail', []
    for _, words in lines.feed(log, 1795577282.5):
        whose = syslines.tag_of(words, b'qmail', whose)
        out.append(b'Nov 25 02:16:14 vm %s: %s\n' % (whose, words))
    return b''.join(out)


def logwatch(service, data, **env):
    """What one of logwatch's scripts makes of lines."""
    script = unpacked('logwatch') + '/usr/share/logwatch/scripts/services/' + service
    return run('perl', script, data=data, env={'PATH': '/usr/bin:/bin', 'LOGWATCH_DETAIL_LEVEL': '10',
                                               'qmail_high_detail': '1', 'threshold': '0', **env})


def test_logwatch_of_syslog(log):
    """logwatch's `qmail` service, which sees the lines tagged so, counts senders, recipients and results."""
    mine = b''.join(line + b'\n' for line in syslog(log).split(b'\n') if b' vm qmail: ' in line)
    text = logwatch('qmail', mine)
    assert re.search(r'joe@qpy\.test - \d+ Time', text.partition('Emails from')[2])
    assert re.search(r'joe-never@qpy\.test - 1 Time', text.partition('Emails to Local')[2])
    assert re.search(r'Deferral\(443\) - \d+ Time', text) and 'Failure(511) - 1 Time' in text and 'ann@dead.test' in text
    unmatched = text.partition('Unmatched')[2].splitlines()[1:]
    assert not [line for line in unmatched if line.strip() and 'warning: ' not in line], text


def multilog(tmp_path, log):
    """The two directories that the recipe of qpy-log(5) makes of the log."""
    with open(ROOT + '/man/qpy-log.5') as file:
        recipe = file.read().partition('multilog ')[2].partition('.Ed')[0].replace('\\e\n', ' ')
    words = re.findall(r"'([^']*)'|(\S+)", recipe)
    words = [a or b for a, b in words]
    words = [str(tmp_path) + '/' + os.path.basename(word) if word.startswith('/var/log') else word for word in words]
    run(unpacked('daemontools') + '/usr/bin/multilog', *words, data=log)
    return [(tmp_path / name / 'current').read_bytes() for name in ('qmail', 'qpy')]


def test_multilog_and_tai64nlocal(log, tmp_path):
    """multilog keeps each line, with the recipe of the manual send's apart; tai64nlocal makes its time readable."""
    send, all_of_it = multilog(tmp_path, log)
    assert [line.split(b' ', 1)[1] for line in all_of_it.splitlines()] == log.splitlines()
    assert b'qpy-smtpd' not in send and send.count(b' end msg ') == log.count(b'\nend msg ')
    local = run(unpacked('daemontools') + '/usr/bin/tai64nlocal', data=send)
    assert all(re.match(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9} \S', line) for line in local.splitlines())


def test_logwatch_of_multilog(log, tmp_path):
    """logwatch's `qmail-send` service on what multilog keeps: everything is understood."""
    text = logwatch('qmail-send', multilog(tmp_path, log)[0])
    assert re.search(r'joe@qpy\.test - \d+ Time', text) and 'joe-later@qpy.test' in text
    unmatched = text.partition('Unmatched')[2].splitlines()[1:]
    assert not [line for line in unmatched if line.strip()], text


@needs('tcpserver')
@pytest.mark.parametrize('service, usual, words, greeting', [
    ('qmail-smtpd', 25, ['bin/qpy-smtpd'], b'220'),
    ('qmail-pop3d', 110, ['bin/qpy-popup', 'pop.test', 'bin/qpy-checkpassword', 'bin/qpy-pop3d', 'Maildir'], b'+OK')])
def test_logwatch_of_tcpserver(server, service, usual, words, greeting):
    """logwatch's `qmail-smtpd` and `qmail-pop3d` services on what tcpserver and our programs under it say: who came and how
    often; nothing is left over."""
    account, port = pwd.getpwnam('qpyd'), free_port()
    command = [server.home + '/' + word if '/' in word else word for word in words]
    started = Started('tcpserver', '-vRHl0', '-u', str(account.pw_uid), '-g', str(account.pw_gid),
                      '127.0.0.1', str(port), *command, port=port, greeting=greeting)
    with started:
        with socket.create_connection(('127.0.0.1', port)) as client, client.makefile('rb') as answers:
            assert answers.readline().startswith(greeting)
            client.sendall(b'QUIT\r\n')
            assert answers.read().count(b'\r\n') == 1
        said = started.end().decode()
    text = logwatch(service, said.replace(':%d ' % port, ':%d ' % usual).encode())
    assert '127.0.0.1 - 2 Time' in text, (said, text)      # Started looked, too
    unmatched = text.partition('Unmatched')[2].splitlines()[1:]
    assert not [line for line in unmatched if line.strip()], text


def test_check_mailq(server, log, tmp_path):
    """monitoring-plugins' check_mailq -M qmail reads qstat, and -M sendmail and -M postfix the end of mailq: one message waits."""
    plugins = unpacked('monitoring-plugins-standard', 'monitoring-plugins-common') + '/usr/lib/nagios/plugins'
    for name in ('check_mailq', 'utils.pm'):
        with open(os.path.join(plugins, name)) as file:
            (tmp_path / name).write_text(file.read())
    with open(tmp_path / 'utils.pm', 'a') as file:
        file.write('\n$PATH_TO_QMAIL_QSTAT = "%s/bin/qpy-qstat";\n$PATH_TO_MAILQ = "%s/bin/qpy-mailq";\n1;\n' % (server.home, server.home))
    plugin, nobody = ['perl', str(tmp_path / 'check_mailq')], {'user': 65534, 'group': 65534, 'extra_groups': []}
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(path.stat().st_mode | 0o055)
    for kind in ('qmail', 'sendmail', 'postfix'):
        said = run(*plugin, '-M', kind, '-w', '100', '-c', '200', **nobody)
        assert said.startswith('OK: %s mailq (%d) is below threshold' % (kind, len(server.waiting()))), said
        done = subprocess.run([*plugin, '-M', kind, '-w', '1', '-c', '9'], capture_output=True, text=True, **nobody)
        assert done.returncode == 1 and done.stdout.startswith('WARNING: ')


def test_munin(server, log):
    """munin's qmailqstat draws the queue."""
    plugin = unpacked('munin-plugins-core', 'munin-common') + '/usr/share/munin/plugins/qmailqstat'
    env = {'PATH': '/usr/bin:/bin', 'qmailqstat': server.home + '/bin/qpy-qstat'}
    assert run('sh', plugin, 'autoconf', env=env) == 'yes\n'
    said = dict(line.split() for line in run('sh', plugin, env=env).splitlines())
    assert said == {'total.value': str(len(server.waiting())), 'notpreprocessed.value': '0'}


@pytest.mark.parametrize('form', ['syslog', 'journal', 'multilog'])
def test_fail2ban(server, log, tmp_path, form):
    """The filter that is installed in doc finds the clients that were refused, on the other port too, by splogger's lines, the
    journal's and multilog's, and no other."""
    root = unpacked('fail2ban')
    (tmp_path / 'filter.d').mkdir()
    with open(server.home + '/doc/fail2ban-qpy.conf') as file:
        (tmp_path / 'filter.d/qpy.conf').write_text(file.read())
    hostile = (b'qpy-smtpd: refused rcpt ip 203.0.113.9 helo 5.6.7.8:_553 from <a:_550@b> to <c>: 550 5.1.1 sorry\n'
               b'qpy-popup: refused ip 203.0.113.10 user ip_198.51.100.1\n'
               b'qpy-smtpd: refused session ip 203.0.113.11 helo x: 421 4.7.0 too many errors\n'
               b'qpy-smtpd: refused connection ip 203.0.113.12: 421 4.3.2 too many connections; try again later\n'
               b'qpy-smtpd: refused rcpt ip 203.0.113.13 helo x from <> to <c>: 452 4.5.3 too many recipients\n'
               b'qpy-smtpd[submissions]: refused auth ip 203.0.113.14 helo x mechanism PLAIN: 535 5.7.8 sorry\n'
               b'qpy-popup[pop3]: refused ip 203.0.113.15 user joe\n'
               b'spamd: qpy-smtpd: refused rcpt ip 198.51.100.4 helo x: 550 5.7.1 no\n'
               b'spamd: qpy-smtpd[submission]: refused rcpt ip 198.51.100.5 helo x: 550 5.7.1 no\n'
               b'delivery 7: failure: qpy-smtpd:_refused_rcpt_ip_198.51.100.2:_550_/\n'
               b'delivery 7: failure: 198.51.100.3_qpy-popup:_refused\n')
    data = multilog(tmp_path, log + hostile)[1] if form == 'multilog' else syslog(log + hostile) if form == 'syslog' else b''.join(
        b'Nov 25 02:16:14 vm qpy-start[711]: ' + line + b'\n' for line in (log + hostile).splitlines())
    (tmp_path / 'log').write_bytes(data)
    said = run('/usr/bin/python3', root + '/usr/bin/fail2ban-regex', '--print-all-matched', '--out', 'ip',
               '-c', str(tmp_path), str(tmp_path / 'log'), str(tmp_path / 'filter.d/qpy.conf'),
               env={'PATH': '/usr/bin:/bin', 'PYTHONPATH': root + '/usr/lib/python3/dist-packages'})
    found = set(re.findall(r'^[\d.]+$', said, re.M))
    assert found >= {'203.0.113.9', '203.0.113.10', '203.0.113.11', '203.0.113.14', '203.0.113.15', '127.0.0.1', SECOND}, said
    assert not found & {'203.0.113.12', '203.0.113.13'} and not [ip for ip in found if ip.startswith('198.')]
