"""DIR/service: for systemd, runit, daemontools and their kin."""
import glob
import os

from qpy.admin.installing import doing, owners
from qpy.core import authbackends, cdb, controls as tables, manifest, services, tcprules, units
from qpy.lib import controls, submit

SYSTEMD = """\
[Unit]
Description=qpy mail transfer agent
Documentation=file:%(home)s/man/man8/qpy-start.8
After=network.target nss-lookup.target
ConditionPathExists=%(home)s/control/me

[Service]
Type=notify
ExecStart=%(home)s/bin/qpy-start
ExecReload=+/bin/sh -c 'kill -HUP $MAINPID'
Restart=always
KillMode=mixed
TimeoutStopSec=90s
LimitNOFILE=65536
TasksMax=infinity
%(fence)s
[Install]
WantedBy=multi-user.target
"""
RUN = '#!/bin/sh\nexec 2>&1\nexec %(home)s/bin/qpy-start\n'
RUN_LOG = """\
#!/bin/sh
if command -v svlogd >/dev/null; then exec svlogd -tt ./main; fi
exec multilog t ./main
"""
# What strangers say is in the log, and root reads none of it.  While main is root's, nobody else has put anything there.
RUN_LOG_AS = """\
#!/bin/sh
if [ -O main/ ]; then chown -R %(logger)s: main/; fi
if command -v svlogd >/dev/null; then exec chpst -u %(logger)s svlogd -tt ./main; fi
exec setuidgid %(logger)s multilog t ./main
"""


def write_units(place, home, rootless):
    """service in `place`: for systemd, and for runit, daemontools and their kin."""
    service = os.path.join(place, 'service')
    os.makedirs(os.path.join(service, 'qpy/log/main'), exist_ok=True)
    for name, (content, mode) in main_units(place, home, rootless).items():
        doing.write(os.path.join(service, name), content, mode)
    write_each_unit(place, home, service)


UNIT = 'qpy.service'


def main_units(place, home, rootless):
    """{name below service: (content, mode)} of what starts the whole of it."""
    words = {'home': home, 'fence': units.START.decode(), 'logger': owners.account_names(place)['qpyl']}
    return {UNIT: (SYSTEMD % words, 0o644), 'qpy/run': (RUN % words, 0o755),
            'qpy/log/run': ((RUN_LOG if rootless else RUN_LOG_AS) % words, 0o755)}


def service_table(place):
    """[Service] of control/services, or of the default one where that is broken: qpy-start names the line."""
    path = os.path.join(place, 'control/services')
    try:
        return services.table(open(path, 'rb').read() if os.path.exists(path) else None)
    except tables.ControlError:
        return services.table(None)


def auth_backends(place):
    """What control/auth says; None where it is broken, which qpy-auth names."""
    try:
        return authbackends.backends(controls.listing(os.fsencode(place), b'auth'))
    except (controls.Broken, ValueError):
        return None


def any_filter(place):
    """Whether what servers receive goes through a program of the site's: control/tcp.smtp names one, or bin/qmail-queue is one."""
    if submit.in_its_place(place):
        return True
    try:
        data = controls.raw(place, b'tcp.smtp') or b''
        rules = tcprules.CdbRules(cdb.over(data)) if b'\0' in data else tcprules.parse(data)
        return bool(tcprules.values(rules, manifest.FILTERS) - {b''})
    except (controls.Broken, cdb.CdbError, tcprules.RulesError):
        return False


def write_each_unit(place, home, service):
    """For sites that let systemd start each program; and the accounts, for packages that let it make them."""
    for directory in ('systemd/each', 'sysusers.d'):
        os.makedirs(os.path.join(service, directory), exist_ok=True)
    found = each_unit(place, home)
    for name, content in found.items():
        doing.write(os.path.join(service, name), content)
    for name in made_before(service):
        if name not in found:
            os.unlink(os.path.join(service, name))


def each_unit(place, home):
    """{name below service: content}"""
    names = {role.encode(): name.encode() for role, name in owners.account_names(place).items()}
    table, backends, filtered = service_table(place), auth_backends(place), any_filter(os.fsencode(place))
    there = os.fsencode(home)
    found = {b'systemd/' + name: content for name, content in units.units(there, table, names, backends, filtered).items()}
    found |= {b'systemd/each/' + name: content for name, content in units.each(there, table, names, filtered).items()}
    return {os.fsdecode(name): content.decode() for name, content in found.items()} | {
        'sysusers.d/qpy.conf': units.sysusers(there, names).decode()}


OURS = '[Unit]\nDescription=qpy'         # how the units begin that each_unit makes
LINKED = '/etc/systemd/system/*'


def made_before(service):
    """Names below service of units that were made for a line of control/services."""
    for path in glob.glob(os.path.join(glob.escape(service), 'systemd/qpy-*')):
        with open(path, errors='replace') as file:
            if file.read(len(OURS)) == OURS:
                yield os.path.relpath(path, service)


def out_of_date(home):
    """[line for a person] where systemd starts programs by units that were made for other control files."""
    service = os.path.join(home, 'service')
    used = {os.path.realpath(path) for path in glob.glob(LINKED) if os.path.islink(path)}
    wrong = []
    for name, content in each_unit(home, home).items():
        path = os.path.join(service, name)
        if os.path.realpath(path) in used and doing.read(path) != content:
            wrong.append(name)
    return ['%s of %s: not as control/services, auth, tcp.smtp and accounts say by now; qpy-install %s, then systemctl daemon-reload'
            % (' '.join(wrong), service, home)] if wrong else []
