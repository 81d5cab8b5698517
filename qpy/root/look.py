"""What qpy-start looks at before it binds or starts anything; whatever is wrong is said with its remedy, and ends it."""
from qpy import unix
from qpy.core import accounts, controls as tables, exits, grammar, layout, services
from qpy.lib import controls, program

ANYBODY = b'anybody'
STARTED_BY = {b'all': ANYBODY, b'qpy-local': ANYBODY, b'qpy-inject': ANYBODY, b'qpy-qmqpc': ANYBODY,
              b'qpy-remote': b'qpyr'}               # readers that are no line of control/services
CODE_SUFFIX, PROGRAM = b'.py', b'qpy-'
WRITTEN = (b'control', b'bin', b'users', b'lib/site')    # what only root (or DIR's owner) may change, besides the code


def refuse(wrong, text):
    """End with 111 and this line if something is wrong."""
    if wrong:
        raise program.Fatal(exits.TEMP, text)


class House:
    """What is known of DIR: home, whether rootless, {role: (uid, gid)}."""

    __slots__ = ('home', 'rootless', 'identity')

    def __init__(self, home, rootless, identity):
        self.home, self.rootless, self.identity = home, rootless, identity

    def of(self, role):
        """(uid, gid) of a role; root is root."""
        return self.identity[role]


def house_at(home):
    """The House at home, with its accounts; becomes DIR's owner if that is not root."""
    refuse(home[:1] != b'/', b'the directory must be given with its full path: ' + home)
    try:
        there = unix.stat(home)
    except OSError as problem:
        raise program.Fatal(exits.TEMP, b'unable to start in %s: %s; run qpy-install %s'
                            % (home, program.reason(problem), home)) from None
    if there.st_uid == 0:
        refuse(unix.geteuid() != 0, b'%s belongs to root: start it as root, or use a directory of your own' % home)
        return House(home, False, look_up_accounts(home))
    become_owner(home, there)
    me = (unix.geteuid(), unix.getegid())
    return House(home, True, {role: me for role in accounts.ROLES + (b'root',)})


def become_owner(home, there):
    """In a rootless DIR: be its owner, and say so."""
    if unix.geteuid() == 0:
        unix.setgroups([])
        unix.setresgid(there.st_gid, there.st_gid, there.st_gid)
        unix.setresuid(there.st_uid, there.st_uid, there.st_uid)
    refuse(unix.geteuid() != there.st_uid, b'%s belongs to uid %d and you are uid %d'
           % (home, there.st_uid, unix.geteuid()))
    program.complain(b'rootless: everything runs under uid %d, mail for other users waits' % there.st_uid)


def look_up_accounts(home):
    """{role: (uid, gid)} with root."""
    controls.parsed(grammar.check, home, b'accounts')
    names = accounts.names(controls.listing(home, b'accounts') or [])
    found = {b'root': (0, 0)}
    for role, group, _ in accounts.TABLE:
        try:
            found[role] = (unix.getpwnam(names[role])[1], unix.getgrnam(names[group]))
        except KeyError:
            raise program.Fatal(exits.TEMP, b'the account or group %s is missing; run qpy-install %s'
                                % (names[role], home)) from None
        refuse(found[role][0] == 0, b'the account %s has uid 0; give it another' % names[role])
    return found


def check_layout(house):
    """Refuse directories with another owner or mode than the table's, and a system without /proc."""
    refuse(not unix.access(b'/proc/self/fd', 0), b'unable to start: /proc is not mounted, by which deliveries open the '
           b'message anew; mount -t proc proc /proc')
    for name, owner, group, mode in layout.rows(house.rootless):
        path = house.home + b'/' + name if name else house.home
        try:
            there = unix.stat(path)
        except FileNotFoundError:
            refuse(name in layout.NEEDED_TO_RUN, layout.complaint(path, (0, 0, mode), None))
            continue
        gid = None if house.rootless else house.of(group)[1]
        wrong = layout.complaint(path, (house.of(owner)[0], gid, mode), (there.st_uid, there.st_gid, there.st_mode))
        refuse(wrong and name in layout.NEEDED_TO_RUN, b'unable to start: ' + wrong)
        if wrong:
            program.warn(wrong)


def check_code(house):
    """Refuse code, controls and users that others can change: they would be us; and code that an account cannot use."""
    safe = {0, house.of(b'root')[0]}
    code = unix.fsencode(__file__).rsplit(b'/', 2)[0]
    for top in (code, *(house.home + b'/' + name for name in WRITTEN)):
        if unix.access(top, 0):
            for path in ways_to(top):
                check_unwritable(path, safe)
    check_ways(house, code)
    for path in files_below(code):
        check_unwritable(path, safe)
        check_open(house, path)
    for name in (b'control', b'users'):
        for path in entries(house.home + b'/' + name):
            check_unwritable(path, safe)


def check_ways(house, code):
    """Refuse programs and packages that an account cannot use, and directories that it cannot pass on the way to them."""
    for top in (code, house.home):
        for path in () if house.rootless else ways_to(top.rpartition(b'/')[0]):
            check_open(house, path, layout.SEARCH)
    for path in entries(house.home + b'/bin'):
        if path.rpartition(b'/')[2].startswith(PROGRAM):
            check_open(house, path, layout.BOTH)
    site = house.home + b'/lib/site'
    for path in files_below(site) if unix.access(site, 0) else ():
        check_open(house, path)


def check_open(house, path, wanted=0):
    """Refuse a path that an account cannot use.  wanted: layout.SEARCH or BOTH; what a directory or a module needs if 0."""
    mode = unix.stat(path).st_mode
    wanted = wanted or (layout.BOTH if unix.S_ISDIR(mode) else layout.READ)
    wrong = layout.closed(path, mode, wanted, house.rootless)
    refuse(wrong, b'unable to start: ' + wrong)


def entries(directory):
    """The paths of what is in a directory, none if it is not there; links whose end is missing are left out."""
    try:
        paths = [directory + b'/' + name for name in unix.listdir(directory)]
    except FileNotFoundError:
        return []
    return [path for path in paths if unix.access(path, 0)]


def ways_to(path):
    """path and every directory above it."""
    while path and path != b'/':
        yield path
        path = path.rpartition(b'/')[0]


def files_below(directory):
    """This directory of code, and every directory and module below it; each before what is in it."""
    yield directory
    for name in unix.listdir(directory):
        path = directory + b'/' + name
        if unix.S_ISDIR(unix.stat(path).st_mode):
            yield from files_below(path)
        elif name.endswith(CODE_SUFFIX):
            yield path


def check_unwritable(path, safe):
    """Refuse a path that an account other than root (and DIR's owner, rootless) can write to."""
    there = unix.stat(path)
    refuse(there.st_uid not in safe, b'unable to start: %s belongs to uid %d, who could change what runs here; '
           b'chown it to root' % (path, there.st_uid))
    sticky = there.st_mode & 0o1000 and unix.S_ISDIR(there.st_mode)
    refuse(there.st_mode & 0o022 and not sticky, b'unable to start: %s has mode %04o, others could change what runs '
           b'here; chmod go-w %s' % (path, there.st_mode & 0o7777, path))


READ = {tables.LINE: controls.line, tables.NUMBER: controls.number, tables.LIST: controls.listing,
        tables.MAP: controls.mapping, tables.TEXT: controls.text}


def read_controls(home):
    """[Service] after every control file has been read once; the broken one is named."""
    controls.check_directory(home)
    names = [name for name in unix.listdir(home + b'/control') if not tables.is_copy(name)]
    for name, near in tables.strangers(names):
        program.warn(b'control/%s: no program reads a file of this name%s'
                     % (tables.show(name), near and b'; did you mean %s?' % near))
    for name, kind, _, _, _ in tables.TABLE:
        if name in grammar.CHECKS:
            controls.parsed(grammar.check, home, name)
        elif kind in READ:
            READ[kind](home, name)
    return services.table(controls.raw(home, services.FILE))


def check_readers(house, table):
    """Refuse control files that an account which needs them may not read: we, who look, may be root."""
    if house.rootless:
        return                                       # we have just read them as who needs them
    accounts_of = {service.words[0].rpartition(b'/')[2]: service.account for service in table} | STARTED_BY
    for name, _, _, readers, _ in tables.TABLE:
        path = house.home + b'/control/' + name
        try:
            there = unix.stat(path)
        except FileNotFoundError:
            continue
        for reader in readers.split():
            role = accounts_of.get(reader)
            refuse(role and not readable(there, None if role == ANYBODY else house.of(role)),
                   b'unable to start: %s has mode %04o, %s may not read it; chmod 0644 %s'
                   % (path, there.st_mode & 0o7777, reader if reader != b'all' else b'its readers', path))


def readable(there, ids):
    """Whether (uid, gid), or None for anybody, may read a file by its mode."""
    if ids is not None and (ids[0] == 0 or there.st_uid == ids[0]):
        return ids[0] == 0 or there.st_mode & 0o400
    return there.st_mode & (0o040 if ids is not None and there.st_gid == ids[1] else 0o004)


def check_programs(house, table):
    """Refuse programs that are not there, before any is started."""
    for service in table:
        path = services.path(service, house.home)
        refuse(not unix.access(path, unix.X_OK) or unix.S_ISDIR(unix.stat(path).st_mode),
               b'unable to start %s: %s is missing or cannot be executed%s' % (
                   service.name, path, b' (control/services, line %d)' % service.line if service.line else b''))


def check_delivery(words):
    """Refuse an instruction that would be taken for something else than it looks like."""
    try:
        tables.check_delivery(words, b'defaultdelivery')
    except tables.ControlError as wrong:
        raise program.Fatal(exits.TEMP, b'unable to deliver by "%s": %s' % (tables.show(wrong.value), wrong.remedy)) \
            from None
