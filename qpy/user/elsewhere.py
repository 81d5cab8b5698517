"""Where instructions may stand that are in no .qmail file: DIR/users/aliases.cdb, and ~/.forward.

    aliases(home, job, which)           for mail that belongs to no user: (owner or b'', instructions) or None
    dot_forward(home, job, home_fd)     for a user, if control/dotforward says yes: instructions or None

The alias account reads what newaliases has made, and the files that :include: names, with its own rights and
at each delivery: a list that its owner edits needs no newaliases, and what alias cannot read is not a list.
"""
from qpy import unix
from qpy.core import aliases as language, aliasvalue, dotforward, dotqmail, exits
from qpy.lib import cdb, controls
from qpy.user import whole
from qpy.user.mailbox import Failed, why

ACCOUNT, DASH = b'alias', b'-'
FORWARD = b'.forward'
NOT_THERE = (unix.ENOENT, unix.ENOTDIR)


def aliases(home, job, which):
    """What /etc/aliases says about a job: 0 about the whole local part, 1 about the name before its +."""
    if job.user != ACCOUNT or job.dash != DASH or len(aliasvalue.keys(job.ext)) <= which:
        return None
    database = cdb.Database(home + b'/users/aliases.cdb')
    try:
        value = database.ask(lambda db: db.get(aliasvalue.keys(job.ext)[which]))
    except cdb.CdbError as problem:
        reason = str(problem).encode()
        raise Failed(exits.TEMP, b'Unable to read aliases.cdb: %s. (#4.3.0)' % reason) from None
    finally:
        database.close()
    if value is None:
        return None
    owner, items = aliasvalue.parse(value)
    return owner, completed(home, [each for kind, word in items for each in instructions(kind, word)])


def instructions(kind, word):
    """One line of the cdb, in the words of .qmail."""
    if kind == language.ADDRESS:
        return [(dotqmail.FORWARD, word)]
    if kind == language.PROGRAM:
        return [(dotqmail.PROGRAM, dotforward.preline(word))]
    if kind == language.INCLUDE:
        return [(dotqmail.FORWARD, address) for address in included(word)]
    return [(dotqmail.FAIL, b'Uh-oh: this alias cannot be used: %s. (#4.2.1)' % word)]


def included(path):
    """The addresses in a file."""
    try:
        fd = unix.open(path, unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC)
        try:
            check(fd, path)
            return language.listed(unix.read_all(fd, dotqmail.FILE_LIMIT))
        finally:
            unix.close(fd)
    except unix.error as problem:
        raise Failed(exits.TEMP, b'Unable to read %s: %s. (#4.3.0)' % (path, why(problem))) from None
    except language.Problem as problem:
        raise Failed(exits.TEMP, b'Uh-oh: %s: %s. (#4.2.1)' % (path, problem.args[0])) from None


def check(fd, path):
    """Failed unless it is a file that not everybody can write."""
    mode = unix.fstat(fd).st_mode
    if not unix.S_ISREG(mode) or mode & dotqmail.WRITABLE_BY_OTHERS:
        raise Failed(exits.TEMP, b'Uh-oh: %s is writable by others, or not a file. (#4.7.0)' % path)


def dot_forward(home, job, home_fd):
    """What the user's .forward asks for; None if it asks for nothing, is not there, or is not to be looked
    at."""
    if job.dash or job.ext or not wanted(home):
        return None
    try:
        fd = unix.open(FORWARD, unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, dir_fd=home_fd)
    except unix.error as problem:
        if problem.errno in NOT_THERE:
            return None
        raise Failed(exits.TEMP, b'Unable to open .forward: %s. (#4.3.0)' % why(problem)) from None
    try:
        check(fd, FORWARD)
        data = unix.read_all(fd, dotforward.FILE_LIMIT)
    except unix.error as problem:
        raise Failed(exits.TEMP, b'Unable to read .forward: %s. (#4.3.0)' % why(problem)) from None
    finally:
        unix.close(fd)
    found = setting(lambda: dotforward.parse(data, job.user, job.local, job.host, whole.Site(home).is_local))
    return found if found is None else with_default(completed(home, found), job.default)


def with_default(found, default):
    """The instructions with the default ones in the place of the first SELF."""
    done, own = [], dotqmail.parse(default)
    for kind, word in found:
        if kind is not dotforward.SELF:
            done.append((kind, word))
        else:
            done, own = done + own, []
    return done


def completed(home, found):
    """The instructions with whole addresses: who is in a file and beside it gets one copy."""
    return setting(lambda: whole.completed(home, found))


def wanted(home):
    """Does the site have .forward files?"""
    return setting(lambda: controls.line(home, b'dotforward')) == b'yes'


def setting(read):
    """What read() makes of control files; Failed if they must be mended first."""
    try:
        return read()
    except controls.Broken as problem:
        raise Failed(exits.TEMP, b'Unable to use %s. (#4.3.0)' % problem.why) from None
