"""Units for systemd, one per program, that carry the same facts as core.manifest; pure.

qpy.service runs qpy-start, which is the usual way.  For a site that wants systemd to start each program, the sockets
and services below do what qpy-start does: qpy.target is all of them together.  They are made for one DIR.
"""
from qpy.core import accounts, manifest

TARGET = b"""\
[Unit]
Description=qpy, each program by itself (in place of qpy.service)
Documentation=man:qpy-start(8) man:qpy-security(7)
Conflicts=qpy.service
Wants=%(wants)s

[Install]
WantedBy=multi-user.target
"""
SOCKET = b"""\
[Unit]
Description=qpy: %(socket)s of qpy-%(name)s
PartOf=qpy.target
Before=qpy-%(name)s.service

[Socket]
%(listens)sBindIPv6Only=ipv6-only
FileDescriptorName=%(socket)s
Backlog=4096
RemoveOnStop=yes
Service=qpy-%(name)s.service
"""
SERVICE = b"""\
[Unit]
Description=qpy-%(name)s, as %(account)s
Documentation=man:%(page)s(8) man:qpy-security(7)
PartOf=qpy.target
%(after)s%(requires)sRequiresMountsFor=%(home)s
ConditionPathExists=%(home)s/control/me

[Service]
Type=exec
ExecStart=%(home)s/bin/%(command)s
Environment=PATH=%(home)s/bin:/usr/local/bin:/usr/bin:/bin QPYHOME=%(home)s%(environment)s
Restart=always
RestartSec=1
%(stop)sUMask=0077
LimitNOFILE=65536
LimitCORE=0
CPUSchedulingPolicy=batch
%(lines)s"""

COMMON = b"""\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
SupplementaryGroups=
ProtectSystem=strict
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
ProcSubset=pid
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp
SystemCallFilter=~@privileged @resources @mount @debug @obsolete
SystemCallErrorNumber=EPERM
"""
# Processes and threads of a program at most, with room for those that end while others take their place.  Of the site's
# programs nobody knows how many they start.
TASKS = {b'none': 16, b'threads': 16, b'workers': 3 * manifest.WORKERS_MOST, b'programs': 4096}
# The seed becomes users and starts their programs: what they may do is theirs, but for root's doors.  So nothing here or in
# START makes /usr or /home read-only, where lists and archives of users may be (ProtectSystem, ProtectHome).  No line here may
# make a namespace of users that it could not make its own in (RestrictNamespaces, PrivateUsers, ProtectKernelTunables).
SEED = b"""\
User=root
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_CHOWN
AmbientCapabilities=
NoNewPrivileges=yes
PrivateDevices=yes
Delegate=yes
ProtectProc=invisible
RestrictNamespaces=user
KeyringMode=private
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
RestrictRealtime=yes
RestrictSUIDSGID=no
LockPersonality=no
DevicePolicy=closed
SystemCallArchitectures=native
SystemCallFilter=~@clock @module @raw-io @reboot @swap @cpu-emulation @obsolete @mount
TasksMax=%d
""" % TASKS[b'programs']
# What qpy-start needs as root: ports, owners and modes of sockets, namespaces, control groups of its own (Delegate, and
# no ProtectControlGroups), and to give all of it away.
START = b"""\
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_CHOWN CAP_FOWNER CAP_NET_BIND_SERVICE CAP_SETGID CAP_SETUID CAP_SETPCAP CAP_SYS_ADMIN
AmbientCapabilities=
Delegate=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
PrivateDevices=yes
RestrictNamespaces=user net
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
UMask=0077
RestrictRealtime=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=~@clock @module @raw-io @reboot @swap @cpu-emulation @obsolete @mount
"""
# In place of qpy-smtpd.socket and its service: systemd accepts, and one process serves one connection.
EACH_SOCKET = b"""\
[Unit]
Description=qpy-smtpd, a process for each connection
Conflicts=qpy-smtpd.service

[Socket]
%(listens)sBindIPv6Only=ipv6-only
Accept=yes
Backlog=4096
MaxConnections=%(most)d
MaxConnectionsPerSource=20

[Install]
WantedBy=sockets.target
"""
EACH_SERVICE = b"""\
[Unit]
Description=qpy-smtpd for %%I
Documentation=man:qpy-smtpd(8) man:qpy-security(7)
CollectMode=inactive-or-failed
RequiresMountsFor=%(home)s

[Service]
Type=exec
ExecStart=-%(home)s/bin/qpy-smtpd
StandardInput=socket
StandardOutput=inherit
StandardError=journal
Environment=PATH=%(home)s/bin:/usr/local/bin:/usr/bin:/bin QPYHOME=%(home)s
UMask=0077
LimitCORE=0
%(lines)s"""
EACH_MOST = 200                     # connections at a time, each of them a process
EVERYWHERE = b'ListenStream=0.0.0.0:25\nListenStream=[::]:25\n'
# TERM is for send, which finishes what is under way, and ends first (After=).  The others end with the chain, which
# there is none of here; whenever they are killed, nothing that was acknowledged is lost.
KILLED = b'KillSignal=SIGKILL\nSuccessExitStatus=SIGKILL\n'
PLAIN_TERM = (b'send',)
KIND = {b'unix': b'ListenStream', b'seq': b'ListenSequentialPacket', b'pair': b'ListenSequentialPacket'}
INTERNET = b'AF_UNIX AF_INET AF_INET6'
FAMILIES = {b'any': INTERNET + b' AF_NETLINK', b'tcp': INTERNET, b'udp': INTERNET, b'from': INTERNET,
            b'unix': b'AF_UNIX'}        # the widest first
FIRST = (b'queued', b'clean', b'resolve', b'users', b'seed', b'lspawn', b'rspawn', b'bouncer')     # send connects to all
MASTER = b'-master'


def units(home, services, names=None, backends=None, filtered=False):
    """{file name: content} for a table of core.services; names: {role: account}.

    backends: of core.authbackends; filtered: whether control files name filters for what servers receive."""
    names = names or {role: role for role in accounts.ROLES}
    found, wanted = {}, []
    for service in services:
        row = line_of(service, backends, filtered)
        if row is None:
            continue                    # a program of the site's own: its unit is the site's
        sockets = {b'qpy-%s.socket' % name: content for name, content in socket_units(home, service, names)}
        wanted += [b'qpy-%s.service' % service.name, *sockets]
        found[b'qpy-%s.service' % service.name] = service_unit(home, service, row, names, sockets)
        found.update(sockets)
    found[b'qpy.target'] = TARGET % {b'wants': b' '.join(wanted)}
    return found


def line_of(service, backends=None, filtered=False):
    """The Row that a service takes on itself, chosen as it will choose; None for a program of the site's own."""
    row = manifest.of_program(service.words[0])
    if row is None:
        return None
    if row.name == b'auth' and backends is not None:
        return manifest.row(backends.line)
    return manifest.row(manifest.chosen(row.name, service.environment, filtered and row.account == b'qpyd'))


def each(home, services, names=None, filtered=False):
    """{file name: content}: qpy-smtpd.socket with Accept=yes and qpy-smtpd@.service, for the ports of the line called
    smtpd, or for port 25 of every address."""
    names = names or {role: role for role in accounts.ROLES}
    found = [ports(service) for service in services if service.name == b'smtpd']
    row = manifest.row(manifest.chosen(b'smtpd', {}, filtered))
    words = {b'home': home, b'most': EACH_MOST, b'listens': (found + [b''])[0] or EVERYWHERE,
             b'lines': confined(home, row, names)}
    return {b'qpy-smtpd.socket': EACH_SOCKET % words, b'qpy-smtpd@.service': EACH_SERVICE % words}


def ports(service):
    """The lines of a socket unit for a service's ports."""
    return b''.join(b'ListenStream=%s:%d\n' % (b'[%s]' % port.address if b':' in port.address else port.address, port.port)
                    for port in service.listens if port.kind == b'tcp')


def socket_units(home, service, names):
    """[(name, content)]: one for each socket, because owner and mode are a unit's; the ports of one program share one.
    A pair becomes a socket that lspawn connects to and the seed accepts on, once."""
    found = [(service.name, ports(service))] if ports(service) else []
    for listen in service.listens:
        owner, group, mode = names.get(listen.owner, b'root'), names.get(listen.group, b'root'), listen.mode
        if listen.kind == b'pair':
            owner, group, mode = names[b'qpyu'], names[b'qpyu'], 0o600
        if listen.kind != b'tcp' and (listen.kind != b'pair' or service.name == b'seed'):
            found.append((listen.name, b'%s=%s/run/%s\nSocketMode=%04o\nSocketUser=%s\nSocketGroup=%s\n' % (
                KIND[listen.kind], home, listen.name, mode, owner, group)))
    return [(service.name + b'-' + name if name != service.name else name,
             SOCKET % {b'name': service.name, b'socket': name, b'listens': lines}) for name, lines in found]


def service_unit(home, service, row, names, sockets):
    """One program with what its line of the manifest gives it; without its sockets it is not started."""
    after = b'After=%s\n' % b' '.join(b'qpy-%s.service' % name for name in FIRST) if service.name == b'send' else b''
    lines = SEED if service.name == b'seed' else confined(home, row, names)
    return SERVICE % {b'name': service.name, b'page': service.words[0].rpartition(b'/')[2], b'account': names[row.account],
                      b'home': home, b'after': after,
                      b'command': b' '.join(word for word in service.words if word != b'DEFAULTDELIVERY'),
                      b'requires': b'Requires=%s\n' % b' '.join(sockets) if sockets else b'',
                      b'environment': b''.join(b' ' + quoted(b'%s=%s' % pair) for pair in service.environment.items()),
                      b'stop': b'' if service.name in PLAIN_TERM else KILLED,
                      b'lines': lines}


def quoted(word):
    """A word as systemd reads it back."""
    return b'"%s"' % word.replace(b'\\', b'\\\\').replace(b'"', b'\\"').replace(b'%', b'%%')


def confined(home, row, names):
    """The lines of a program that has a fence of its own: the same fence, outside."""
    lines = b'User=%s\nGroup=%s\n' % (names[row.account], names[accounts.GROUP[row.account]]) + COMMON
    lines += b'ProtectHome=%s\n' % (b'read-only' if row.name == b'users' else b'yes')
    files = row.files
    if files is None:                   # it runs programs of the administrator's: their memory is theirs
        files = ()
    else:
        lines += b'MemoryDenyWriteExecute=yes\n'
    if row.where == b'empty':
        lines += b'PrivateNetwork=yes\nIPAddressDeny=any\n'
    kinds = [kind for kind in FAMILIES if kind in row.sockets] or [b'unix']
    lines += b'RestrictAddressFamilies=%s\n' % FAMILIES[kinds[0]]
    writes = [home + b'/' + path for place, letters in files if set(letters) & set(b'wcdm')
              for path in manifest.PLACES[place] if path[:1] != b'/']
    if writes:
        lines += b'ReadWritePaths=%s\n' % b' '.join(writes)
    if not any(path.startswith(b'queue') for place, _ in files for path in manifest.PLACES[place]):
        lines += b'InaccessiblePaths=-%s/queue/state -%s/queue/damaged\n' % (home, home)
    lines += b'TasksMax=%d\n' % TASKS[manifest.row(manifest.master(row.name)).children]
    return lines


def sysusers(home, names=None):
    """The bytes of a sysusers.d file that makes the accounts and groups of core.accounts."""
    names = names or {role: role for role in accounts.ROLES}
    lines = [b'# The accounts of qpy in %s; see sysusers.d(5) and qpy-install(8).' % home]
    lines += [b'g %s -' % names[group] for group in dict.fromkeys(accounts.GROUP.values())]
    for role, group, what in accounts.TABLE:
        place = home + b'/alias' if role == b'alias' else home
        lines.append(b'u %s -:%s "qpy %s" %s /usr/sbin/nologin' % (names[role], names[group], what.replace(b';', b' and'),
                                                                  place))
    return b'\n'.join(lines) + b'\n'
