"""The units for systemd: they carry the facts of the manifest, systemd understands them, and their exposure is low."""
import os
import re
import shutil
import subprocess

import pytest

from qpy import unix, unix_kernel
from qpy.admin.installing import supervisors
from qpy.core import accounts, authbackends, cdb, manifest, services, units
from qpy.lib import confine, inherit
from qpy.qpya import auth, judges
from qpy.qpyd import netstrings, qmtpd, runner, smtpd
from qpy.qpyp import users
from qpy.qpyr import rspawn
from qpy.qpyt import tls
from tests.peers import optional

HOME = b'/var/qpy'
# the exposure that each may have at most, on systemd's scale of 0 (nothing) to 10
LIMITS = {'smtpd': 2.0, 'queued': 1.5, 'send': 1.0, 'clean': 1.0, 'rspawn': 2.0, 'bouncer': 1.0, 'lspawn': 4.5,
          'users': 2.0, 'resolve': 2.0, 'seed': 4.5,
          'tls': 1.5, 'auth': 2.0, 'check': 2.0, 'milter': 2.0, 'mtasts': 2.0, 'tlslog': 1.0, 'token': 2.0, 'qmtpd': 2.0,
          'qmqpd': 2.0}
EVERY = services.SMTP % b'0.0.0.0:25,tcp:[::]:25' + (
    optional.INSIDE + optional.netstrings('0.0.0.0:209', '127.0.0.1:628')).encode()
TABLE = services.table(EVERY)
FOUND = units.units(HOME, TABLE)


def lines(name):
    return FOUND[name].split(b'\n')


@pytest.fixture
def directory(tmp_path):
    """The units as files, with programs that exist in place of DIR's."""
    for name, content in FOUND.items():
        content = re.sub(rb'ExecStart=\S+', b'ExecStart=/bin/true', content)
        (tmp_path / name.decode()).write_bytes(content)
    return tmp_path


def analyze(*words):
    if not shutil.which('systemd-analyze'):
        pytest.skip('no systemd-analyze here')
    return subprocess.run(['systemd-analyze', *words], capture_output=True, text=True, timeout=60)


def test_every_line_of_the_table_has_its_unit():
    """A service for each, a socket unit for each that listens, a target for all."""
    assert {name for name in FOUND if name.endswith(b'.service')} == {b'qpy-%s.service' % s.name for s in TABLE}
    assert {name for name in FOUND if name.endswith(b'.socket')} == {b'qpy-%s.socket' % name for name in (
        b'queued-submit', b'queued-new', b'clean', b'resolve', b'resolve-names', b'users', b'users-exists', b'seed', b'lspawn', b'rspawn',
        b'bouncer-bounce', b'send-control', b'smtpd', b'tls', b'auth', b'check', b'milter', b'milter-filter', b'mtasts',
        b'tlslog', b'token', b'qmtpd', b'qmqpd')}
    assert all(name in FOUND[b'qpy.target'] for name in FOUND if name != b'qpy.target')


def test_the_facts_are_the_manifests():
    """Account, network, what can be written: as in the line of the program; no capability, no new privileges."""
    for service in TABLE:
        row, said = manifest.of_program(service.words[0]), lines(b'qpy-%s.service' % service.name)
        if service.name == b'seed':
            assert b'CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_CHOWN' in said
            continue
        assert b'User=' + row.account in said and b'CapabilityBoundingSet=' in said and b'NoNewPrivileges=yes' in said
        assert (b'PrivateNetwork=yes' in said) == (row.where == b'empty')
        written = [line for line in said if line.startswith(b'ReadWritePaths=')]
        assert bool(written) == any(path[:1] != b'/' for place, letters in row.files or () if set(letters) & set(b'wcdm')
                                    for path in manifest.PLACES[place]), service.name
        assert not any(line.startswith(b'PrivateUsers=yes') for line in said)      # the kernel's word on who calls


def test_lines_that_are_off_by_default():
    """They have units, too: tlslog may write its directory and has no network; token, which runs programs, has one, may
    write nothing of qpy's, and leaves its programs' memory to them."""
    extra = b'tlslog qpyr seq:tlslog:0600:qpyr qpy-tlslog\ntoken qpyr seq:token:0600:qpyr qpy-token\n'
    extra += b'mtasts qpyr seq:mtasts:0660:qpyr:qpyr qpy-mtasts\n'
    found = units.units(HOME, services.table(extra))
    tlslog, token = (found[b'qpy-%s.service' % name].split(b'\n') for name in (b'tlslog', b'token'))
    assert b'ReadWritePaths=/var/qpy/tls' in tlslog and b'PrivateNetwork=yes' in tlslog
    assert b'User=qpyr' in token and not any(line.startswith((b'ReadWritePaths', b'MemoryDeny')) for line in token)
    assert b'PrivateNetwork=yes' not in token and b'NoNewPrivileges=yes' in token
    assert b'ListenSequentialPacket=/var/qpy/run/mtasts' in found[b'qpy-mtasts.socket']


class Confined(Exception):
    """A program has got as far as its fence, whose name this is."""


def fence_of(program, home, environment, monkeypatch):
    """The Row whose fence a program takes on itself when it starts so: of its master, if it has one."""
    def stop(home, name, ports=()):
        raise Confined(name)
    monkeypatch.setattr(confine, 'confine', stop)
    monkeypatch.setattr(unix_kernel, 'set_dumpable', lambda value: None)
    monkeypatch.setattr(unix, 'umask', lambda mask: None)
    monkeypatch.setattr(unix, 'signal', lambda number, what: None)
    monkeypatch.setattr(unix, 'environ', environment)
    monkeypatch.setattr(inherit, 'listeners', lambda: {program: []})
    monkeypatch.setattr(inherit, 'sockets', lambda found, name: [None])
    with pytest.raises(Confined) as ended:
        PROGRAMS[program](home, [])
    return manifest.row(ended.value.args[0])


PROGRAMS = {b'rspawn': rspawn.main, b'auth': auth.main, b'smtpd': smtpd.main, b'tls': tls.main, b'qmtpd': qmtpd.main}
SITES = [(b'rspawn', {}, {}), (b'rspawn', {b'QMAILREMOTE': b'/site/remote'}, {}), (b'rspawn', {b'QMAILREMOTE': b''}, {}),
         (b'auth', {}, {}), (b'auth', {}, {'auth': 'program /usr/bin/checkpassword\n'}), (b'auth', {}, {'auth': 'dovecot /run/x\n'}),
         (b'smtpd', {}, {}), (b'qmtpd', {}, {}), (b'qmtpd', {b'QMAILQUEUE': b'/site/filter'}, {}), (b'tls', {}, {})]


@pytest.mark.parametrize('program, environment, files', SITES)
def test_a_unit_gives_what_the_program_takes_on_itself(program, environment, files, tmp_path, monkeypatch):
    """The line of the manifest behind a unit is the one that the program chooses when it is started with that line of
    control/services and these control files: what it may open, connect and start, and so the number of its tasks."""
    (tmp_path / 'control').mkdir()
    (tmp_path / 'keys').mkdir()
    for name, content in {'me': 'me.example\n', **files}.items():
        (tmp_path / 'control' / name).write_text(content)
    home, place = os.fsencode(tmp_path), str(tmp_path)
    service = services.Service(program, b'qpyd', (), environment, (b'qpy-' + program,), 1)
    chosen = units.line_of(service, supervisors.auth_backends(place), supervisors.any_filter(home))
    taken = fence_of(program, home, dict(environment), monkeypatch)
    assert manifest.master(chosen.name) == taken.name
    said = units.units(home, [service], None, supervisors.auth_backends(place))[b'qpy-%s.service' % program].split(b'\n')
    assert b'TasksMax=%d' % units.TASKS[taken.children] in said
    assert (b'MemoryDenyWriteExecute=yes' in said) == (chosen.files is not None)


def test_a_filter_of_control_files_counts(tmp_path):
    """A filter that control/tcp.smtp names, as text or cdb, or that has been put in the place of bin/qmail-queue, opens the
    fences of those who receive, and of nobody else."""
    (tmp_path / 'control').mkdir()
    (tmp_path / 'bin').mkdir()
    home, rules = os.fsencode(tmp_path), tmp_path / 'control/tcp.smtp'
    assert not supervisors.any_filter(home)
    rules.write_text('# QMAILQUEUE\n127.:allow,RELAYCLIENT=""\n')
    assert not supervisors.any_filter(home)
    rules.write_text(':allow,QMAILQUEUE="/site/filter"\n')
    assert supervisors.any_filter(home)
    rules.write_bytes(cdb.build([(b'', b'+QMAILQUEUE=/site/filter\0')]))
    assert supervisors.any_filter(home)
    rules.unlink()
    (tmp_path / 'bin/qmail-queue').write_text('#!/bin/sh\n')
    assert supervisors.any_filter(home)
    before, found = (units.units(HOME, TABLE, filtered=filtered) for filtered in (False, True))
    assert {name for name in found if found[name] != before[name]} == {
        b'qpy-smtpd.service', b'qpy-qmtpd.service', b'qpy-qmqpd.service'}
    assert b'MemoryDenyWriteExecute=yes' not in units.each(HOME, TABLE, filtered=True)[b'qpy-smtpd@.service']


def test_tasks_suffice():
    """No unit has a lower number of tasks than its program can have processes of ours."""
    most = {b'tls': 1 + manifest.WORKERS_MOST, b'rspawn': 1 + 2 * manifest.WORKERS_MOST, b'users': 1 + users.WORKERS,
            b'rspawn-programs': 1 + rspawn.Programs.CAPACITY, b'auth': 2 + judges.MOST, b'auth-programs': 2 + judges.MOST,
            b'smtpd': 1 + 2 * manifest.WORKERS_MOST + runner.MOST, b'qmtpd': 1 + netstrings.CLIENTS, b'queued': 2}
    for name, count in most.items():
        line = units.confined(HOME, manifest.row(name), {role: role for role in accounts.ROLES})
        assert int(re.search(rb'^TasksMax=(\d+)$', line, re.M)[1]) >= count, name


def test_who_goes_out_may_make_the_sockets_for_it():
    """Programs that connect to other hosts have the families of addresses of the internet; the others have none."""
    for service in TABLE:
        row, said = manifest.of_program(service.words[0]), lines(b'qpy-%s.service' % service.name)
        out = bool({b'tcp', b'udp', b'from', b'any'} & set(row.sockets))
        assert service.name == b'seed' or any(line.startswith(b'RestrictAddressFamilies=') and b'AF_INET ' in line
                                              for line in said) == out, service.name


def test_a_line_of_ones_own_is_its_programs():
    """Ports for people by qpy-smtpd under another name: its account, its fence, its page, the line's environment."""
    table = services.table(services.TLS + services.AUTH + b'submissions qpyd tcp:0.0.0.0:465 SMTPS=1 qpy-smtpd\n')
    found = units.units(HOME, table)
    said = found[b'qpy-submissions.service']
    assert b'User=qpyd\n' in said and b'man:qpy-smtpd(8)' in said and b'"SMTPS=1"' in said and b'PrivateNetwork=yes' in said
    assert b'User=qpyt\n' in found[b'qpy-tls.service'] and b'SocketGroup=qpyd' in found[b'qpy-tls.socket']
    assert b'User=qpya\n' in found[b'qpy-auth.service'] and b'ListenSequentialPacket=/var/qpy/run/auth' in found[b'qpy-auth.socket']


def test_sockets_are_the_tables():
    """Names, kinds, owners and modes of the sockets are those of control/services."""
    said = lines(b'qpy-queued-submit.socket')
    assert b'ListenStream=/var/qpy/run/submit' in said and b'SocketMode=0666' in said
    assert b'ListenStream=0.0.0.0:25' in lines(b'qpy-smtpd.socket') and b'ListenStream=[::]:25' in lines(b'qpy-smtpd.socket')
    assert b'SocketGroup=qpyd' in lines(b'qpy-resolve.socket') and b'SocketMode=0660' in lines(b'qpy-resolve.socket')
    assert b'ListenSequentialPacket=/var/qpy/run/seed' in lines(b'qpy-seed.socket')


def test_a_program_needs_its_sockets_and_has_its_environment():
    """A service requires the sockets that are its own; what its line of the table sets is set, quoted; a second smtpd has
    the fence of smtpd under its own name; both families of addresses are listened on apart."""
    found = units.units(HOME, services.table(b'submission qpyd tcp:0.0.0.0:587,tcp:[::]:587 BANNER=50%"off" qpy-smtpd -x\n'))
    said = found[b'qpy-submission.service'].split(b'\n')
    assert b'Requires=qpy-submission.socket' in said and b'User=qpyd' in said and b'PrivateNetwork=yes' in said
    assert any(line.startswith(b'Environment=') and line.endswith(rb' "BANNER=50%%\"off\""') for line in said)
    assert b'ExecStart=/var/qpy/bin/qpy-smtpd -x' in said
    assert b'BindIPv6Only=ipv6-only' in found[b'qpy-submission.socket']


def test_only_send_is_asked_to_end():
    """send, which ends first, has TERM; the others, which wait for the end of a chain, are killed."""
    for service in TABLE:
        said = lines(b'qpy-%s.service' % service.name)
        assert (b'KillSignal=SIGKILL' in said) == (b'SuccessExitStatus=SIGKILL' in said) == (service.name != b'send')


def test_a_process_for_each_connection(tmp_path):
    """The socket accepts, on the ports of the table's smtpd; the service has the line of smtpd, and what systemd says of
    it is within the limit."""
    found = units.each(HOME, TABLE)
    assert {b'Accept=yes', b'ListenStream=0.0.0.0:25', b'ListenStream=[::]:25'} <= set(found[b'qpy-smtpd.socket'].split(b'\n'))
    said = set(found[b'qpy-smtpd@.service'].split(b'\n'))
    assert {b'User=qpyd', b'StandardInput=socket', b'PrivateNetwork=yes', b'NoNewPrivileges=yes'} <= said
    assert b'ListenStream=0.0.0.0:25' in units.each(HOME, services.table(None))[b'qpy-smtpd.socket']
    for name, content in found.items():
        (tmp_path / name.decode()).write_bytes(re.sub(rb'ExecStart=-\S+', b'ExecStart=/bin/true', content))
    done = analyze('verify', '--man=no', *sorted(str(path) for path in tmp_path.iterdir()))
    assert not [line for line in done.stderr.split('\n') if 'qpy' in line], done.stderr
    done = analyze('security', '--offline=yes', '--no-pager', str(tmp_path / 'qpy-smtpd@.service'))
    assert float(re.search(r'Overall exposure level for \S+: ([0-9.]+)', done.stdout)[1]) <= LIMITS['smtpd']


def test_systemd_understands_them(directory):
    """systemd-analyze verify has nothing to say about any of them."""
    done = analyze('verify', '--man=no', *sorted(str(path) for path in directory.iterdir()))
    said = [line for line in done.stderr.split('\n') if 'qpy' in line]
    assert not said, '\n'.join(said)


@pytest.mark.parametrize('unit', [units.START, units.SEED])
def test_where_users_programs_run_every_directory_is_as_it_is(unit):
    """What a user may write to, his programs may: below /usr/local as well as in his home; and DIR may be anywhere."""
    assert not [line for line in unit.decode().split('\n') if line.startswith((
        'ProtectSystem', 'ProtectHome', 'ReadOnlyPaths', 'InaccessiblePaths', 'TemporaryFileSystem', 'PrivateTmp'))]


def test_every_unit_has_a_limit():
    """No program is without its limit."""
    assert set(LIMITS) == {service.name.decode() for service in TABLE}


@pytest.mark.parametrize('name', sorted(LIMITS))
def test_exposure(directory, name):
    """systemd-analyze security is below the limit of each program."""
    done = analyze('security', '--offline=yes', '--no-pager', str(directory / ('qpy-%s.service' % name)))
    found = re.search(r'Overall exposure level for \S+: ([0-9.]+)', done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= LIMITS[name], done.stdout


def test_exposure_with_programs_of_the_sites_own(tmp_path):
    """Units in which filters, QMAILREMOTE or programs that judge logins are run are below the same limits."""
    table = services.table(EVERY + b'rspawn qpyr seq:rspawn:0600:qpys QMAILREMOTE=/site/remote qpy-rspawn\n')
    found = units.units(HOME, table, None, authbackends.backends([b'program /site/judge']), True)
    wider = [name for name in found if name in FOUND and b'MemoryDenyWriteExecute=yes' in set(FOUND[name].split(b'\n')) - set(found[name].split(b'\n'))]
    assert wider == [b'qpy-rspawn.service', b'qpy-smtpd.service', b'qpy-auth.service', b'qpy-qmtpd.service', b'qpy-qmqpd.service']
    for name in map(bytes.decode, wider):
        (tmp_path / name).write_bytes(re.sub(rb'ExecStart=\S+', b'ExecStart=/bin/true', found[name.encode()]))
        done = analyze('security', '--offline=yes', '--no-pager', str(tmp_path / name))
        exposure = re.search(r'Overall exposure level for \S+: ([0-9.]+)', done.stdout)
        assert float(exposure[1]) <= LIMITS[name[4:].partition('.')[0]], done.stdout


def test_nothing_of_units_is_written_for_a_program_of_the_sites_own():
    """A line that names a program we do not know has no unit."""
    table = services.table(b'other qpyd tcp:127.0.0.1:99 /bin/true\n')
    assert not [name for name in units.units(HOME, table) if b'other' in name]


def test_sysusers_makes_the_accounts(tmp_path):
    """systemd-sysusers makes every account of the table with its group, no shell, and a system uid."""
    if not shutil.which('systemd-sysusers'):
        pytest.skip('no systemd-sysusers here')
    (tmp_path / 'etc').mkdir()
    (tmp_path / 'qpy.conf').write_bytes(units.sysusers(HOME))
    done = subprocess.run(['systemd-sysusers', '--root=%s' % tmp_path, str(tmp_path / 'qpy.conf')], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    users = {line.split(':')[0]: line.split(':') for line in (tmp_path / 'etc/passwd').read_text().split('\n') if line}
    groups = {line.split(':')[0]: line.split(':')[2] for line in (tmp_path / 'etc/group').read_text().split('\n') if line}
    for role, group, _ in accounts.TABLE:
        entry = users[role.decode()]
        assert entry[3] == groups[group.decode()] and int(entry[2]) < 1000 and entry[6] == '/usr/sbin/nologin'


def test_the_unit_of_the_whole_chain(tmp_path):
    """qpy.service, which runs qpy-start as root, takes from it what it does not need; systemd understands it."""
    text = supervisors.SYSTEMD % {'home': '/var/qpy', 'fence': units.START.decode()}
    (tmp_path / 'qpy.service').write_text(re.sub(r'ExecStart=\S+', 'ExecStart=/bin/true', text))
    done = analyze('verify', '--man=no', str(tmp_path / 'qpy.service'))
    assert not [line for line in done.stderr.split('\n') if 'qpy' in line], done.stderr
    done = analyze('security', '--offline=yes', '--no-pager', str(tmp_path / 'qpy.service'))
    found = re.search(r'Overall exposure level for \S+: ([0-9.]+)', done.stdout)
    assert float(found[1]) <= 5.0, done.stdout
