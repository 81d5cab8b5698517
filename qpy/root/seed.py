"""qpy-seed, started as root: gives root away for good, then is the seed of qpy-lspawn (qpyu.seed).

    descriptors   the socket pair `seed` (to lspawn), `life`
    exit          0 when the chain ends, 111 when it cannot be what it must be

Local deliveries get control groups of their own where there can be some (lib.groups).

It enters a user namespace in which no id exists but qpyu's, alias's, those that ordinary users have or may be given while
it runs, and those that users/assign and control/mailgroups name: not root, not shadow, no service, no group that is had
by membership.  run/mailids says which.  It keeps the
capabilities to change uid and gid there, and nothing else.  Where namespaces are forbidden it keeps the same two
outside, behind a filter on their arguments, and says so; where there is neither it ends.  Nothing foreign is read before
that: the files read here belong to root, and other sources of accounts are asked by a child that is qpyu already.
"""
from qpy import unix
from qpy.core import accounts, assign, exits, idmap, mailids, text
from qpy.core.cdb import CdbError
from qpy.lib import cdb, confine, controls, groups, inherit, program
from qpy.qpyu import seed
from qpy.user import local

NOBODY = 65534              # the uid and gid of what has none
PATIENCE = 10               # seconds for the list of all accounts
ANSWER = 3                  # where who makes that list writes it
FIRST_TO_GO = 300           # oom_score_adj of local deliveries, of 1000


def main(home, args):
    """Learn who has mail, step down, hand over."""
    unix.umask(0o077)
    unix.chdir(b'/')
    confine.seal_keys()
    found = inherit.listeners()
    host, limit = local.hostname(), controls.number(home, local.TIME_LIMIT)
    local.child.read_limits(home)
    first_to_go()
    unix.raise_descriptor_limit()
    if unix.geteuid():
        return seed.serve(home, found, seed.Ids(), host, limit)
    identity = identities(home)
    kept = groups.prepare(*identity[b'qpyu'], local.child.bounds())
    program.log(b'qpy-seed: status: what deliveries leave behind is ended ' + (
        b'by control groups' if kept else b'process by process: no control group is ours'))
    return seed.serve(home, found, step_down(home, identity), host, limit, kept)


def first_to_go():
    """Where memory runs out, the kernel ends users' programs before the queue: all of them come from here."""
    try:
        fd = unix.open(b'/proc/self/oom_score_adj', unix.O_WRONLY | unix.O_CLOEXEC)
    except unix.error:
        return
    try:
        unix.write(fd, b'%d' % FIRST_TO_GO)
    except unix.error:
        pass
    finally:
        unix.close(fd)


def step_down(home, identity):
    """Stop being root; the Ids this process can still become."""
    uid, gid = identity[b'qpyu']
    ids = seed.Ids(*mail_ids(home, identity), seed.Members())
    try:
        cdb.replace(home + b'/run/mailids', mailids.written((ids.uids, ids.gids)))
    except unix.error as problem:
        program.warn(b'unable to write run/mailids, so that nobody else knows who has mail: ' + program.reason(problem))
    try:
        confine.enter_mail_namespace(ids.uids, ids.gids, uid, gid)
    except confine.NotDropped:
        raise
    except unix.error as problem:
        program.warn(b'no user namespace (%s): users are kept apart by a filter instead' % program.reason(problem))
        confine.keep_two_capabilities(uid, gid, 0)
        try:
            confine.seed_filter(ids.uids, ids.gids)
        except (unix.error, ValueError) as missing:
            raise program.Fatal(exits.TEMP, b'no filter either (%s): local deliveries could become root; let user namespaces'
                                b' be made here (sysctl user.max_user_namespaces), or run qpy under one account, without root'
                                % str(missing).encode()) from None
    return ids


def identities(home):
    """{role: (uid, gid)} of qpy's accounts."""
    try:
        names = accounts.names(controls.listing(home, b'accounts') or [])
        return {role: (unix.getpwnam(names[role])[1], unix.getgrnam(names[accounts.GROUP[role]]))
                for role in accounts.ROLES}
    except ValueError as problem:
        raise program.Fatal(exits.TEMP, b'unable to use control/accounts: ' + problem.args[0]) from None
    except KeyError as problem:
        raise program.Fatal(exits.TEMP, b'unable to find an account: ' + repr(problem.args[0]).encode()) from None


def mail_ids(home, identity):
    """(uids, gids) as [(first, count)] of all that may have mail, and of this process.

    Ranges, for users who are added while we run; what no user is given is closed, unless it is named."""
    passwd, group = unix.read_file(b'/etc/passwd'), unix.read_file(b'/etc/group')
    users = mailids.users(passwd, accounts.LOWEST_MAIL_UID) + assigned(home)
    groups_too = named_groups(home)
    members = mailids.of_members(passwd, group, accounts.LOWEST_MAIL_UID) - {gid for _, gid in users} - set(groups_too)
    groups_too += groups_elsewhere({gid for _, gid in users} | set(groups_too), group, members, identity[b'qpyu'])
    shut = [mailids.between(*mailids.SERVICES)]
    if not mailids.other_sources(if_there(b'/etc/nsswitch.conf')):
        shut.append(mailids.between(*mailids.LARGE))
    closed = (shut + mailids.subordinate(if_there(b'/etc/subuid')),
              shut + mailids.subordinate(if_there(b'/etc/subgid')) + [(gid, 1) for gid in members])
    out = []
    for i in (0, 1):
        named = [identity[role][i] for role in (b'qpyu', b'alias')] + [ids[i] for ids in users] + i * groups_too
        ours = {identity[role][i] for role in accounts.ROLES} - set(named[:2])
        wanted = idmap.ranges(accounts.LOWEST_MAIL_UID, named, ours | {NOBODY}, closed[i])
        out.append(idmap.mapped(wanted, if_there((b'/proc/self/uid_map', b'/proc/self/gid_map')[i])))
        for number in sorted({number for number in named if mailids.within(wanted, number)}):
            if not mailids.within(out[i], number):
                program.warn(b'%s %d does not exist in this container, and mail for it waits: let its map have that'
                             % ((b'uid', b'gid')[i], number))
    return tuple(out)


def if_there(path):
    """The bytes of a file of the system, none if it is not there."""
    try:
        return unix.read_file(path)
    except FileNotFoundError:
        return b''


def named_groups(home):
    """[gid] of control/mailgroups, and those that are usual."""
    return [*mailids.USUAL_GROUPS, *map(int, controls.listing(home, b'mailgroups') or ())]


def groups_elsewhere(known, group, members, who):
    """[gid] below the minimum of ordinary users that LDAP, NIS and the like have, as far as they list them: but for
    groups of this system (`group` is /etc/group, `members` those above the minimum), which `known` may hold."""
    found, left = mailids.strangers(primary_groups(members, who) - known, group)
    for gid in left:
        program.warn(b'users have gid %d, a group of this system, as their primary group: if they are to get mail, '
                     b'write %d into control/mailgroups' % (gid, gid))
    return found


def primary_groups(members, who):
    """{gid} below the minimum, or of these, that are primary groups of ordinary users in any source of accounts.  A child
    asks, as who = (uid, gid): what the C library loads, connects to and reads for that is foreign, and a server that does not
    answer holds up nothing."""
    out, into = unix.pipe2(unix.O_CLOEXEC)
    pid = unix.fork()
    if pid == 0:
        unix._exit(program.guarded(lambda: write_groups(into, members, *who)))
    unix.close(into)
    try:
        data = unix.read_all(out, 65536)
    finally:
        unix.close(out)
    numbers = {text.parse_uint(word, idmap.HIGHEST) for word in data.split()}
    believed = {number for number in numbers - {None} if wanted(number, members)}
    if unix.waitpid(pid, 0)[1] or believed != numbers:
        program.warn(b'no list of all accounts could be had: primary groups of users that only LDAP, NIS or the like knows '
                     b'are to stand in control/mailgroups')
    return believed


def wanted(gid, members):
    """Whether a gid is one that the maps do not have by itself."""
    return 0 < gid < accounts.LOWEST_MAIL_UID or gid in members


def write_groups(fd, members, uid, gid):
    """In the child of primary_groups, which keeps the log and the pipe and not the seed's sockets; the alarm ends it."""
    unix.dup2(fd, ANSWER, False)
    unix.closerange(ANSWER + 1, seed.HIGHEST_FD)
    unix.alarm(PATIENCE)
    if unix.geteuid() == 0:
        confine.drop(uid, gid)
    found = {number for user, number in unix.getpwall() if user >= accounts.LOWEST_MAIL_UID and wanted(number, members)
             and not mailids.within([mailids.between(*mailids.SERVICES)], user)}
    unix.write_all(ANSWER, b''.join(b'%d\n' % number for number in sorted(found)))
    return exits.OK


def assigned(home):
    """[(uid, gid)] named in users/cdb."""
    database = cdb.Database(home + b'/users/cdb')
    try:
        return assign.ids(database.ask(lambda db: [value for _, value in db.records()], absent=[]))
    except CdbError as problem:
        program.warn(b'unable to read users/cdb: only ordinary users get mail: ' + str(problem).encode())
        return []
    finally:
        database.close()                # the seed and its children hold no file that names users
