"""qpy-seed, started as root: gives root away for good, then is the seed of qpy-lspawn (qpyu.seed).

    descriptors   the socket pair `seed` (to lspawn), `life`
    exit          0 when the chain ends, 111 when it cannot be what it must be

Local deliveries get control groups of their own where there can be some (lib.groups).

It enters a user namespace in which no id exists but qpyu's, alias's, those of ordinary users, and those that
users/assign names: not root, not shadow, not a service.  It keeps the capabilities to change uid and gid there, and
nothing else.  Where namespaces are forbidden it keeps the same two outside, behind a filter on their arguments, and
says so; where there is neither it ends.  Nothing foreign is read before that: the files read here belong to root.
"""
from qpy import unix
from qpy.core import accounts, assign, exits, idmap, text
from qpy.core.cdb import CdbError
from qpy.lib import cdb, confine, controls, groups, inherit, program
from qpy.qpyu import seed
from qpy.user import local

NOBODY = 65534              # the uid and gid of what has none
FIRST_TO_GO = 300           # oom_score_adj of local deliveries, of 1000


def main(home, args):
    """Learn who has mail, step down, hand over."""
    unix.umask(0o077)
    unix.chdir(b'/')
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
    ids = seed.Ids(*mail_ids(home, identity))
    try:
        confine.enter_mail_namespace(ids.uids, ids.gids, uid, gid)
    except confine.NotDropped:
        raise
    except unix.error as problem:
        program.warn(b'no user namespace (%s): users are kept apart by a filter instead' % program.reason(problem))
        confine.keep_two_capabilities(uid, gid)
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
    """(uids, gids) as [(first, count)] of all that may have mail, and of this process."""
    users = passwd_users() + assigned(home)
    out = []
    for i in (0, 1):
        named = [identity[role][i] for role in (b'qpyu', b'alias')] + [ids[i] for ids in users]
        ours = {identity[role][i] for role in accounts.ROLES} - set(named[:2])
        out.append(idmap.ranges(accounts.LOWEST_MAIL_UID, named, ours | {NOBODY}))
    return tuple(out)


def passwd_users():
    """[(uid, gid)] of the ordinary users in /etc/passwd: their groups may have low numbers."""
    found = []
    for line in unix.read_file(b'/etc/passwd').split(b'\n'):
        fields = line.split(b':')
        ids = [text.parse_uint(field, idmap.HIGHEST) for field in fields[2:4]]
        if len(fields) == 7 and None not in ids and ids[0] >= accounts.LOWEST_MAIL_UID and ids[0] != NOBODY:
            found.append(tuple(ids))
    return found


def assigned(home):
    """[(uid, gid)] named in users/cdb."""
    found, database = [], cdb.Database(home + b'/users/cdb')
    try:
        values = database.ask(lambda db: [value for _, value in db.records()], absent=[])
    except CdbError as problem:
        program.warn(b'unable to read users/cdb: only ordinary users get mail: ' + str(problem).encode())
        return found
    finally:
        database.close()                # the seed and its children hold no file that names users
    for value in values:
        fields = value.split(b'\0')
        ids = [assign.number(field) for field in fields[1:3]]
        if len(fields) == 6 and None not in ids:
            found.append(tuple(ids))
    return found
