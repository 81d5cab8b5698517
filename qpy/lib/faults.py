"""What must be true of DIR before a chain runs in it: qpy-start refuses what is found here, qpy-install --check names it.

    everything(house, code) yields a Fault for each thing that is wrong, what matters most first; nothing is changed.

A Fault's text says what is wrong, on what, and the remedy.  Those that are not grave are warned of.
"""
from qpy import unix
from qpy.core import accounts, controls as tables, grammar, layout, services
from qpy.lib import controls

ANYBODY = b'anybody'
STARTED_BY = {b'all': ANYBODY, b'qpy-local': ANYBODY, b'qpy-inject': ANYBODY, b'qpy-qmqpc': ANYBODY,
              b'qpy-remote': b'qpyr'}               # readers that are no line of control/services
LOADED, COMPILED, PROGRAM = (b'.py', b'.pyc', b'.so'), b'.pyc', b'qpy-'
WRITTEN = (b'control', b'bin', b'users', b'lib/site')    # what only root (or DIR's owner) may change, besides the code
LINKED = (b'control', b'bin', b'users', b'lib/site')     # where a link is as good as the file, and the way to that as good as ours
SECRETS = (b'smtplogins',)      # control files that not everybody may read


class Fault:
    """One thing that is wrong: its path or b'', what to say, and whether no chain may start with it."""

    __slots__ = ('path', 'text', 'grave')

    def __init__(self, path, text, grave=True):
        self.path, self.text, self.grave = path, text, grave


class House:
    """What is known of DIR: home, whether rootless, {role: (uid, gid)}; a role whose account is missing is not there."""

    __slots__ = ('home', 'rootless', 'identity')

    def __init__(self, home, rootless, identity):
        self.home, self.rootless, self.identity = home, rootless, identity

    def of(self, role):
        """(uid, gid) of a role; root is root."""
        return self.identity[role]


def rooted(home):
    """The House of a DIR that belongs to root.  controls.Broken."""
    controls.parsed(grammar.check, home, b'accounts')
    names = accounts.names(controls.listing(home, b'accounts') or [])
    found = {b'root': (0, 0)}
    for role, group, _ in accounts.TABLE:
        try:
            found[role] = (unix.getpwnam(names[role])[1], unix.getgrnam(names[group]))
        except KeyError:
            continue
    return House(home, False, found)


def rootless(home, ids):
    """The House of a DIR that belongs to ids = (uid, gid)."""
    return House(home, True, {role: ids for role in accounts.ROLES + (b'root',)})


def everything(house, code, checks=grammar.CHECKS, interpreter=None):
    """All of them.  code: the directory of the modules; checks: {control file: the grammar of its own}; interpreter: its path
    and the directories where it looks for modules, ours if None."""
    astray = [*of_home(house)]
    if astray:
        yield from astray
        return                                       # what is below DIR is what others say
    yield from of_accounts(house)
    yield from of_layout(house)
    yield from of_interpreter(house, *(interpreter or (unix.interpreter(), unix.code_directories())))
    yield from of_code(house, code)
    yield from of_controls(house.home, checks)
    try:
        table = services.table(controls.raw(house.home, services.FILE))
    except (tables.ControlError, controls.Broken):
        return                                       # of_controls has named it
    yield from of_readers(house, table)
    yield from of_programs(house, [services.LOG, *table])


def of_edits(house, table, checks=grammar.CHECKS):
    """The control files of a running chain that are broken, or closed to a reader.  We are not root any more: what is
    closed to us, and not to its readers, is theirs to judge."""
    for fault in of_controls(house.home, checks):
        if house.rootless or unix.access(fault.path, unix.R_OK) or not unix.access(fault.path, 0):
            yield fault
    yield from of_readers(house, table)


def of_home(house):
    """DIR by a link that others could let lead elsewhere."""
    links = [way for way in ways_to(house.home) if is_link(way)]
    if links:
        yield from of_link(links[-1], {0, house.of(b'root')[0]})


def of_accounts(house):
    """Accounts that are missing, or root."""
    names = {} if house.rootless else accounts.names(controls.listing(house.home, b'accounts') or [])
    for role in names:
        if role not in house.identity:
            yield Fault(b'', b'the account or group %s is missing; run qpy-install %s' % (names[role], layout.typed(house.home)))
        elif house.of(role)[0] == 0:
            yield Fault(b'', b'the account %s has uid 0; name another in control/accounts' % names[role])


def of_layout(house):
    """Directories with another owner or mode than the table's, and a system without /proc."""
    if not unix.access(b'/proc/self/fd', 0):
        yield Fault(b'/proc', b'/proc is not mounted, by which deliveries open the message anew; '
                    b'mount -t proc proc /proc')
    yield from of_mounts(house.home)
    safe = {uid for uid, _ in house.identity.values()} | {0}        # alias, mess and others belong to one of ours
    for name, owner, group, mode in layout.rows(house.rootless):
        path = house.home + b'/' + name if name else house.home
        if owner not in house.identity or group not in house.identity:
            continue
        elsewhere = [*of_link(path, safe)] if name and is_link(path) else [*dangling([path], house.home)]
        if elsewhere:
            yield from elsewhere
            continue
        yield from of_lists(path)
        want = (house.of(owner)[0], None if house.rootless else house.of(group)[1], mode)
        try:
            there = unix.stat(path)
            have = (there.st_uid, there.st_gid, there.st_mode)
        except FileNotFoundError:
            if name not in layout.NEEDED_TO_RUN:
                continue
            have = None
        wrong = layout.complaint(path, want, have)
        if wrong:
            yield Fault(path, wrong, name in layout.NEEDED_TO_RUN)


def of_mounts(home):
    """File systems that are mounted read-only where the chain writes, each once."""
    named = set()
    for path in (home + b'/' + name for name in layout.WRITTEN):
        if unix.access(path, 0) and unix.statvfs(path).f_flag & unix.ST_RDONLY and unix.stat(path).st_dev not in named:
            named.add(unix.stat(path).st_dev)
            yield Fault(path, layout.no_writing(path))


def of_lists(path):
    """Access lists, by which others come in beside the mode: the administrator may mean it."""
    for name, words in layout.ACCESS_LISTS:
        try:
            unix.getxattr(path, name)
        except unix.error:                           # none; or there are none on this file system
            continue
        yield Fault(path, words % (path, b'', layout.typed(path)), False)


def of_code(house, code):
    """Code, controls and users that others can change: they would be us; and code that an account cannot use."""
    safe = {0, house.of(b'root')[0]}
    tops = [top for top in (code, *(house.home + b'/' + name for name in WRITTEN)) if unix.access(top, 0)]
    for path in ways_of(above(top) if is_link(top) else top for top in tops):
        yield from of_way(path, safe)
    for path in (code, house.home + b'/lib/site'):
        if is_link(path):                            # of_layout has looked at the others
            yield from of_link(path, safe)
    for path in (path for name in LINKED for path in entries(house.home + b'/' + name)):
        if is_link(path) and b'/' in unix.readlink(path):        # a name beside it is looked at itself
            yield from of_link(path, safe)
    yield from dangling(names_in(house.home + b'/users'), b'', ())
    yield from of_ways(house, code)
    for path in files_below(code):
        yield from of_writers(path, safe)
        yield from of_users(house, path)
    for path in site_files(house.home):
        yield from of_writers(path, safe)
    for name in (b'bin', b'control', b'users'):
        for path in entries(house.home + b'/' + name):
            if not is_link(path):                    # of_link has looked there
                yield from of_writers(path, safe)


def of_interpreter(house, executable, directories):
    """The interpreter and the directories of its modules, where others can change them: they would be root at the next start;
    and where an account cannot run it, by any of the links that lead to it."""
    if executable and not unix.access(executable, 0):
        yield Fault(executable, b'%s: missing, by which all programs run; install it, or run qpy-install %s with another --python'
                    % (executable, layout.typed(house.home)))
        return
    safe = {0, house.of(b'root')[0]}
    run, modules = [executable, *settings(executable)], [*map(nearest, directories)]
    outside = [path for path in modules if not path.startswith(house.home + b'/')]         # of_ways looks at those of ours
    used = set() if house.rootless else {*ways_of(run + outside)}
    for path in ways_of(run + modules):
        for fault in of_way(path, safe):
            yield Fault(path, fault.text + b', or run qpy-install %s with another --python' % layout.typed(house.home))
        mode = unix.stat(path).st_mode
        if path in used and not is_link(path) and layout.closed(path, mode, layout.READ if path.endswith(SETTINGS) else layout.SEARCH, False):
            yield Fault(path, b"%s: has mode %04o, so that %s cannot be executed by every account; install Debian's python3, or run "
                        b'qpy-install %s with another --python' % (path, mode & 0o7777, executable, layout.typed(house.home)))


def ways_of(starts):
    """Every path on the ways to these, each once."""
    return dict.fromkeys(way for start in starts for way in ways_to(start))


SETTINGS = b'/pyvenv.cfg'


def settings(executable):
    """The files by which virtual environments on the way to it name their interpreter."""
    return [way + SETTINGS for way in ways_to(executable) if unix.access(way + SETTINGS, 0)]


def nearest(path):
    """path if it is there, else the lowest directory above it that is."""
    while path and not unix.access(path, 0):
        path = path.rpartition(b'/')[0]
    return path or b'/'


def of_link(path, safe):
    """A link of ours to what others can change, or by a way on which they can put another.  What is there is theirs: it is the
    link that has to go."""
    ours, ways = ways_to(above(path)), ways_to(path)
    theirs, end = [way for way in ways if way not in ours and [*of_way(way, safe)]], ways[0]
    if theirs:
        instead = b'let it lead to a place of root' if unix.S_ISDIR(unix.stat(path).st_mode) \
            else b'cp --remove-destination %s %s' % (layout.typed(end), layout.typed(path))
        yield Fault(path, b'%s: is a link to %s, and others could change %s; %s' % (path, end, theirs[0], instead))


def of_ways(house, code):
    """Programs and packages that an account cannot use, and directories that it cannot pass on the way to them."""
    ways = [] if house.rootless else [way for top in (code, house.home) for way in ways_to(top)[1:] if not is_link(way)]
    for path in dict.fromkeys(ways):
        yield from of_users(house, path, layout.SEARCH)
    for path in entries(house.home + b'/bin'):
        if path.rpartition(b'/')[2].startswith(PROGRAM):
            yield from of_users(house, path, layout.BOTH)
    for path in site_files(house.home):
        yield from of_users(house, path)


def of_users(house, path, wanted=0):
    """A path that an account cannot use.  wanted: layout.SEARCH or BOTH; what a directory or a module needs if 0."""
    mode = unix.stat(path).st_mode
    if path.endswith(COMPILED):
        return                                       # who may not read it compiles the module each time
    wanted = wanted or (layout.BOTH if unix.S_ISDIR(mode) else layout.READ)
    wrong = layout.closed(path, mode, wanted, house.rootless)
    if wrong:
        yield Fault(path, wrong)


def of_way(path, safe):
    """One of ways_to that others can change: of a link, where names may be anybody's as in /tmp, by being its owner; what it
    leads to is one of ways_to as well."""
    if not is_link(path):
        yield from of_writers(path, safe)
    elif unix.stat(above(path)).st_mode & 0o1000 and unix.lstat(path).st_uid not in safe:
        yield Fault(path, b'%s: belongs to uid %d, who could change what runs here; chown -h root %s'
                    % (path, unix.lstat(path).st_uid, layout.typed(path)))


def of_writers(path, safe):
    """A path that an account other than root (and DIR's owner, rootless) can write to."""
    there = unix.stat(path)
    sticky = there.st_mode & 0o1000 and unix.S_ISDIR(there.st_mode)
    if there.st_uid not in safe:
        yield Fault(path, b'%s: belongs to uid %d, who could change what runs here; chown root %s'
                    % (path, there.st_uid, layout.typed(path)))
    elif there.st_mode & 0o022 and not sticky:
        yield Fault(path, b'%s: has mode %04o, others could change what runs here; chmod go-w %s'
                    % (path, there.st_mode & 0o7777, layout.typed(path)))


def entries(directory):
    """The paths of what is in a directory, none if it is not there; links whose end is missing are left out."""
    return [path for path in names_in(directory) if unix.access(path, 0)]


def names_in(directory):
    """The paths of all names in a directory."""
    try:
        return [directory + b'/' + name for name in sorted(unix.listdir(directory))]
    except FileNotFoundError:
        return []


def dangling(paths, home, needed=None):
    """Links among these that lead nowhere, but for those to a name beside them, which is looked at itself.  needed: those that
    no chain starts without; all of them if None."""
    for path in paths:
        end = unix.readlink(path) if not unix.access(path, 0) and controls.is_link(path) else b''
        if b'/' in end:
            yield Fault(path, layout.nowhere(path, end, home), needed is None or path in needed)


LINKS = 40                                           # more of them in one path the kernel does not follow


def ways_to(path):
    """[where path leads, ..., every directory and every link that the kernel passes on the way there], the last first;
    path_resolution(7)."""
    passed, here, left, links = [], b'', path.split(b'/')[::-1], 0
    while left and links <= LINKS:
        name = left.pop()
        if name in (b'', b'.'):
            continue
        step = here.rpartition(b'/')[0] if name == b'..' else here + b'/' + name
        passed.append(step or b'/')
        if controls.is_link(step):
            end, links = unix.readlink(step), links + 1
            left += end.split(b'/')[::-1]
            step = b'' if end[:1] == b'/' else here
        here = step
    return passed[::-1]


def above(path):
    """The directory that it is in."""
    return path.rpartition(b'/')[0] or b'/'


def is_link(path):
    """Is there a symbolic link that leads somewhere?"""
    return unix.access(path, 0) and controls.is_link(path)


def files_below(directory):
    """This directory of code, and every directory and module below it; each before what is in it."""
    yield directory
    for path in entries(directory):
        if unix.S_ISDIR(unix.stat(path).st_mode):
            yield from files_below(path)
        elif path.endswith(LOADED):
            yield path


def site_files(home):
    """files_below of the packages of others, if there are any."""
    site = home + b'/lib/site'
    return files_below(site) if unix.access(site, 0) else ()


PARSE = {tables.LINE: tables.parse_line, tables.NUMBER: tables.parse_number, tables.LIST: tables.parse_list,
         tables.MAP: tables.parse_map, tables.TEXT: tables.parse_text}


def of_controls(home, checks):
    """Control files that are broken, and names that no program reads."""
    names = [path.rpartition(b'/')[2] for path in entries(home + b'/control')]
    names = [name for name in names if not tables.is_copy(name)]
    for name, near in tables.strangers(names):
        yield Fault(home + b'/control/' + name, b'control/%s: no program reads a file of this name%s'
                    % (tables.show(name), near and b'; did you mean %s?' % near), False)
    for name, kind, _, _, _ in tables.TABLE:
        if name in names or name == b'me':
            yield from of_control(home, name, checks.get(name) or PARSE.get(kind))


def of_control(home, name, parse):
    """One control file."""
    path = home + b'/control/' + name
    try:
        value = controls.me(home) if name == b'me' else controls.parsed(parse, home, name) if parse else None
    except controls.Broken as broken:
        yield Fault(path, broken.why)
        return
    if isinstance(value, int) and tables.limit(name, value) != value:
        yield Fault(path, b'control/%s: %d is out of range, using %d' % (name, value, tables.limit(name, value)), False)


def of_readers(house, table):
    """Control files that an account which needs them may not read: we, who look, may be root."""
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
            if role and not readable(there, None if role == ANYBODY else house.identity.get(role)):
                yield Fault(path, b'%s: has mode %04o, %s may not read it; %s' % (
                    path, there.st_mode & 0o7777, reader if reader != b'all' else b'its readers', opened(path, name, role)))
                break


def opened(path, name, role):
    """The remedy for a control file that is closed to a role."""
    path = layout.typed(path)
    return b'chgrp %s %s; chmod 0640 %s' % (role, path, path) if name in SECRETS else b'chmod 0644 ' + path


def readable(there, ids):
    """Whether (uid, gid), or None for anybody, may read a file by its mode."""
    if ids is not None and (ids[0] == 0 or there.st_uid == ids[0]):
        return ids[0] == 0 or there.st_mode & 0o400
    return there.st_mode & (0o040 if ids is not None and there.st_gid == ids[1] else 0o004)


def of_programs(house, table):
    """Programs that are not there or cannot be started, before any is."""
    own, named = house.home + b'/bin', set()
    for fault in dangling(names_in(own), house.home, {services.path(service, house.home) for service in table}):
        named.add(fault.path)
        yield fault
    for service in table:
        path = services.path(service, house.home)
        directory = path.rpartition(b'/')[0]
        if {path, directory} & named or directory == own and not unix.access(own, 0):
            continue                                 # named already, the latter by of_layout
        if not unix.access(path, unix.X_OK) or unix.S_ISDIR(unix.stat(path).st_mode):
            if unix.access(path, 0) and unix.statvfs(path).f_flag & unix.ST_NOEXEC:
                named.add(directory)
                yield Fault(directory, layout.no_program(directory))
                continue
            what, remedy = (b'cannot be executed', b'chmod a+rx ' + layout.typed(path)) if unix.access(path, 0) else (b'missing', b'install it')
            line = b', or mend control/services, line %d' % service.line if service.line else b''
            yield Fault(path, b'%s: %s, and %s is to run; %s%s' % (path, what, service.name, remedy, line))
