"""Who an address belongs to, by users/cdb, passwd and the home directories: core.route with its eyes open.

    lookup = users.Lookup(home)
    lookup.find(b'joe-list')                  -> core.getpw.User, or core.getpw.Trouble
    lookup.resolve(b'joe@here', controls)     -> core.route.Way

Rootless (DIR belongs to a plain user): alias is that user with the home DIR/alias, and an address that
belongs to another uid is trouble, because nobody here can deliver as that.
"""
from qpy import unix, unix_passwd
from qpy.core import accounts, aliasvalue, assign, dotqmail, exits, getpw, mailids, route, text
from qpy.core.getpw import Trouble
from qpy.lib import cdb

REMEMBER = 5.0              # seconds an answer of passwd is believed while /etc/passwd is unchanged
MOST = 5000                 # answers remembered
GONE = (unix.ENOENT, unix.ENOTDIR, unix.ENAMETOOLONG)       # any other error is temporary, as in a delivery
CLOSED = (unix.EACCES, unix.EPERM)
PASSWD = b'passwd'          # where NSS goes, as a place that may hang
ALIASES = b'../users/aliases.cdb'     # seen from DIR/alias


class Lookup:
    """Look-ups in one DIR. Remembers what passwd said for a few seconds, and keeps users/cdb open.

    line: who wants to know beforehand where we go that may hang (qpyp.board), and raises Trouble if it does."""

    __slots__ = ('home', 'line', 'cdb', 'aliases', 'known', 'passwd', 'master', 'mapped')

    def __init__(self, home, line=None):
        self.home, self.line = home, line
        self.cdb = cdb.Database(home + b'/users/cdb')
        self.aliases = cdb.Database(home + b'/users/aliases.cdb')
        self.known, self.passwd, self.mapped = {}, None, (None, None)
        status = unix.stat(home)
        self.master = (status.st_uid, status.st_gid) if status.st_uid else None

    def at(self, place, call, *args):
        """call(*args), which may hang as long as a place does: a home, a file, PASSWD."""
        if self.line is None:
            return call(*args)
        self.line.enter(place)
        try:
            return call(*args)
        finally:
            self.line.leave(place)

    # --- accounts ---

    def account(self, name):
        """(name, uid, gid, home) or None. alias lives in DIR/alias."""
        if name == b'alias':
            return self.alias()
        return self.remembered(name)

    def alias(self):
        """The account of mail for no user."""
        ids = self.master
        if not ids:
            found = self.remembered(b'alias')
            if not found:
                return None
            ids = found[1:3]
        return b'alias', *ids, self.home + b'/alias'

    def remembered(self, name):
        """What passwd says about a name, asked again when /etc/passwd changes and after some seconds."""
        now, passwd = unix.monotonic(), passwd_stamp()
        if passwd != self.passwd or len(self.known) >= MOST:
            self.known.clear()
            self.passwd = passwd
        found, until = self.known.get(name, (None, 0.0))
        if until <= now:
            found = self.asked(name)
            self.known[name] = found, now + REMEMBER
        return found

    def asked(self, name):
        """What passwd says now; while that hangs, what the file says."""
        try:
            return self.at(PASSWD, unix_passwd.getpwnam, name)
        except unix.error as problem:
            raise Trouble(getpw.QLX_SYS, b'passwd cannot be asked: ' + reason(problem)) from problem
        except Trouble:
            found = in_file(name)
            if found is None:
                raise
            return found

    def owner(self, home):
        """The uid a directory belongs to, None if it does not exist."""
        try:
            return self.at(home, unix.stat, home).st_uid
        except unix.error as problem:
            if problem.errno not in GONE:
                raise Trouble(getpw.QLX_NFS, home + b': ' + reason(problem)) from problem
        if self.at(home, unmounted, home):
            raise Trouble(getpw.QLX_NFS, home + b' is missing, and no other is beside it: is it not mounted?')
        return None

    # --- users ---

    def find(self, local):
        """The User a local part belongs to; Trouble if that cannot be said, or not be served."""
        try:
            user = self.cdb.ask(lambda db: assign.find(local, db.get))
        except cdb.CdbError as problem:
            words = str(problem).encode('utf-8', 'replace')
            raise Trouble(assign.QLX_CDB, b'Trouble reading users/cdb: ' + words) from problem
        return self.served(user or self.getpw(local))

    def getpw(self, local):
        """The User by passwd alone."""
        lowest = accounts.LOWEST_MAIL_UID
        if self.master:
            lowest = min(lowest, self.master[0])
        return getpw.find(local, self.account, self.owner, lowest)

    def served(self, user):
        """The user, if this installation can deliver as him."""
        if self.master and user.uid != self.master[0]:
            words = b'%s is uid %d, and this rootless installation delivers as uid %d only'
            raise Trouble(exits.TEMP, words % (user.user, user.uid, self.master[0]))
        return user

    # --- who can be delivered to ---

    def deliverable(self, local):
        """As find; Trouble also if the seed that runs cannot become this user, which a start of qpy changes."""
        user = self.find(local)
        maps = None if self.master else self.maps()
        wrong = maps and mailids.complaint(maps, user.uid, user.gid)
        if wrong:
            raise Trouble(exits.TEMP, user.reason + b': ' + wrong)
        return user

    def maps(self):
        """(uids, gids) that the seed has written down; None if it has not, or not for us."""
        path = self.home + b'/run/mailids'
        try:
            found = cdb.stamp(unix.stat(path))
            if found != self.mapped[0]:
                self.mapped = found, mailids.read(unix.read_file(path))
        except (unix.error, ValueError):
            return None
        return self.mapped[1]

    # --- homes ---

    def look(self, user, own=()):
        """(verdict, .qmail file name or None) as core.route.resolve wants it.  own: the files of a plain user; without any
        his home is not looked into, for he always gets mail."""
        plain = not user.dash and not user.ext
        if plain and not own:
            return route.YES, None
        if self.at(user.home, self.owner_if_seen, user.home) is None:
            raise Trouble(getpw.QLX_NFS, b'the home directory ' + user.home + b' is missing')
        if plain:
            return self.at(user.home, route.look, user, own, kind)
        names = [name for name, _ in dotqmail.candidates(user.dash, user.ext)]
        place, alias = self.aliased(user)
        if alias is not None:
            names.insert(place, ALIASES)
        verdict, name = self.at(user.home, route.look, user, names, kind)
        if name == ALIASES and self.unusable(alias):
            raise Trouble(exits.TEMP, b'the alias %s cannot be used: %s' % (user.ext, self.unusable(alias)))
        return verdict, name

    def aliased(self, user):
        """(before which of its files it counts, what aliases.cdb has) for this local part, which is no user's; None if nothing."""
        if user.user != b'alias' or user.dash != getpw.BREAK:
            return 0, None
        try:
            found = self.aliases.ask(lambda db: [db.get(key) for key in aliasvalue.keys(user.ext)]) or ()
            return next(((place, value) for place, value in enumerate(found) if value is not None), (0, None))
        except cdb.CdbError as problem:
            words = str(problem).encode('utf-8', 'replace')
            raise Trouble(assign.QLX_CDB, b'Trouble reading users/aliases.cdb: ' + words) from problem

    def unusable(self, value):
        """Why mail for an alias with this value waits, b'' if it does not, as far as we may see its lists."""
        account = self.alias() or (b'', None)
        for kind, word in aliasvalue.parse(value)[1]:
            wrong = b''
            if kind == aliasvalue.WAITS:
                wrong = word
            elif kind == aliasvalue.INCLUDE:
                wrong = self.at(word, fault_of_list, word, account[1])
            if wrong:
                return wrong
        return b''

    @staticmethod
    def owner_if_seen(home):
        """As owner, but a directory that cannot be seen is there."""
        try:
            return unix.stat(home).st_uid
        except unix.error as problem:
            return None if problem.errno in GONE else -1

    def resolve(self, address, controls, own=()):
        """The Way of an address.  own: as in look."""
        return route.resolve(address, controls, self.deliverable, lambda user: self.look(user, own))


def unmounted(path):
    """Is what is missing below a directory without directories, as the places of file systems are?  Two links say so,
    or one and no bytes (btrfs), and no right to list it is needed.  False where that cannot be seen."""
    while path.rpartition(b'/')[0]:
        path = path.rpartition(b'/')[0]
        try:
            place = unix.stat(path)
            return place.st_nlink == 2 or place.st_nlink == 1 and not place.st_size
        except FileNotFoundError:
            pass
        except unix.error:
            return False
    return False


def kind(path):
    """YES if the path is a regular file, NO if it names none, UNKNOWN if we may not look; else Trouble."""
    try:
        return route.YES if unix.S_ISREG(unix.stat(path).st_mode) else route.NO
    except unix.error as problem:
        if problem.errno in GONE:
            return route.NO
        if problem.errno in CLOSED:
            return route.UNKNOWN
        raise Trouble(getpw.QLX_NFS, path + b': ' + reason(problem)) from problem


def fault_of_list(path, uid):
    """Why the alias account (uid) cannot use the file of an :include:, b'' if nothing is seen that is against it."""
    try:
        there = unix.stat(path)
    except unix.error as problem:
        return b'' if problem.errno in CLOSED else path + b': ' + reason(problem)
    if not unix.S_ISREG(there.st_mode):
        return path + b' is no file'
    if there.st_mode & dotqmail.WRITABLE_BY_OTHERS:
        return path + b' is writable by others'
    # who is named in an access list needs the bit of the group too
    closed = not there.st_mode & 0o400 if there.st_uid == uid else not there.st_mode & 0o044
    return path + b' is closed to the account alias' if closed else b''


def in_file(name):
    """(name, uid, gid, home) of /etc/passwd alone, None if it does not have that name."""
    try:
        lines = unix.read_file(b'/etc/passwd').split(b'\n')
    except unix.error:
        return None
    for line in lines:
        fields = line.split(b':')
        if fields[0] == name and len(fields) == 7:
            ids = text.parse_uint(fields[2], assign.MAXIMUM_ID), text.parse_uint(fields[3], assign.MAXIMUM_ID)
            return None if None in ids else (name, *ids, fields[5])
    return None


def passwd_stamp():
    """What changes when an account is added by hand."""
    try:
        return cdb.stamp(unix.stat(b'/etc/passwd'))
    except unix.error:
        return None


def reason(problem):
    """An OSError in words."""
    return (problem.strerror or 'error').encode('utf-8', 'replace')
