"""Which account a local part belongs to, when users/assign does not say: qmail-getpw's rules.

    joe            account joe, its .qmail
    joe-list-2     account joe-list-2, joe-list or joe, the longest that exists: .qmail-list-2 of joe
    Joe-List       the same: account names are looked for in lower case
    nobody-known   account alias, .qmail-nobody-known

An account counts if its uid is a mail user's and its home exists and belongs to it.
"""

from qpy.core import accounts, text

BREAK = b'-'                # separates an account from its extension
LONGEST_NAME = 31           # bytes of an account name
NO_USER = (65534, 65535)    # nobody, and what the kernel shows for an id it cannot map

QLX_NFS, QLX_NOALIAS, QLX_SYS = 115, 116, 118      # qmail-getpw's exit codes


class Trouble(Exception):
    """The answer cannot be had now: temporary. code: qpy-getpw's exit code; text: the reason."""

    def __init__(self, code, text):
        super().__init__(code, text)
        self.code, self.text = code, text


class User:
    """Who a local part belongs to: qmail-local's six fields, uid and gid as numbers, and the reason."""

    __slots__ = ('user', 'uid', 'gid', 'home', 'dash', 'ext', 'reason')

    def __init__(self, user, uid, gid, home, dash, ext, reason=b''):
        self.user, self.uid, self.gid = user, uid, gid
        self.home, self.dash, self.ext, self.reason = home, dash, ext, reason

    def fields(self):
        """The six fields as bytes."""
        return self.user, b'%d' % self.uid, b'%d' % self.gid, self.home, self.dash, self.ext

    def __eq__(self, other):
        return isinstance(other, User) and self.fields() == other.fields()

    def __repr__(self):
        return 'User%r' % (self.fields() + (self.reason,),)


def splits(local):
    """(name, dash, ext) at the end of local and at each break from the end on; names in lower case."""
    at = len(local)
    while at > 0:
        if at <= LONGEST_NAME:
            yield text.lower(local[:at]), local[at:at + 1], local[at + 1:]
        at = local.rfind(BREAK, 0, at)


def find(local, account, owner, lowest=accounts.LOWEST_MAIL_UID):
    """The User of a local part.

    account(name) -> (name, uid, gid, home) or None; owner(home) -> uid of the directory, None if there is
    none. Both raise Trouble when they cannot tell; so does find when there is no account `alias`."""
    for name, dash, ext in splits(local):
        found = account(name)
        if found and serves(found, lowest) and owner(found[3]) == found[1]:
            return User(*found, dash, ext, b'account ' + found[0])
    alias = account(b'alias')
    if not alias or alias[1] == 0:
        raise Trouble(QLX_NOALIAS, b'no account alias')
    return User(*alias, BREAK, local, b'no account, so alias')


def serves(account, lowest):
    """True if mail may be delivered as this account: never 0, no service account, no nobody; alias may."""
    name, uid = account[:2]
    return uid > 0 and uid not in NO_USER and (uid >= lowest or name == b'alias')
