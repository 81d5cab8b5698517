"""DIR/service: for systemd, runit, daemontools and their kin."""
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
    words = {'home': home, 'fence': units.START.decode(), 'logger': owners.account_names(place)['qpyl']}
    service = os.path.join(place, 'service')
    os.makedirs(os.path.join(service, 'qpy/log/main'), exist_ok=True)
    doing.write(os.path.join(service, 'qpy.service'), SYSTEMD % words)
    doing.write(os.path.join(service, 'qpy/run'), RUN % words, 0o755)
    doing.write(os.path.join(service, 'qpy/log/run'), (RUN_LOG if rootless else RUN_LOG_AS) % words, 0o755)
    write_each_unit(place, home, service)


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
    names = {role.encode(): name.encode() for role, name in owners.account_names(place).items()}
    table, backends, filtered = service_table(place), auth_backends(place), any_filter(os.fsencode(place))
    for directory, found in (('systemd', units.units(os.fsencode(home), table, names, backends, filtered)),
                             ('systemd/each', units.each(os.fsencode(home), table, names, filtered))):
        for name, content in found.items():
            doing.write(os.path.join(service, directory, os.fsdecode(name)), content.decode())
    doing.write(os.path.join(service, 'sysusers.d/qpy.conf'), units.sysusers(os.fsencode(home), names).decode())
