"""passwd lines made into users/assign lines: qmail-pw2u's rules.

    joe:x:1001:100:Joe:/home/joe:/bin/sh   ->   =joe:joe:1001:100:/home/joe:::
                                                +joe-:joe:1001:100:/home/joe:-::
    alias gives  +:alias:UID:GID:HOME:-::  as well: it takes what nobody else does.

Never: uid 0, nobody, names with a colon or NUL in a field. Not by themselves: accounts whose uid is below
the lowest of a mail user (stricter than qmail: users/assign decides which uids mail may be delivered as).
"""

from qpy.core import accounts, assign, getpw, text

SKIP, STOP, IGNORE = b'o', b'h', b'H'      # what to do about a missing home: skip the user, stop, never look


class Stop(Exception):
    """Nothing usable can be written; says why."""


class Options:
    """The command line and the files of DIR/users.

    include, exclude (sets of names, or None), mailnames {user: names},
    subusers [(sub, user, pre)], append (bytes)."""

    __slots__ = ('homes', 'capitals', 'mark', 'dash', 'include', 'exclude', 'mailnames', 'subusers', 'append')

    def __init__(self, homes=SKIP, capitals=False, mark=b'-', dash=b'-', include=None, exclude=None,
                 mailnames=(), subusers=(), append=b''):
        self.homes, self.capitals, self.mark, self.dash = homes, capitals, mark, dash
        self.include, self.exclude, self.mailnames = include, exclude, dict(mailnames)
        self.subusers, self.append = tuple(subusers), append


def parse_options(args):
    """Options of a command line such as [b'-ou', b'-c', b'+']; None if there is an unknown one, or more than options."""
    options, args = Options(), list(args)
    while args and args[0] != b'--':
        mark, letters = args[0][:1], args.pop(0)[1:]
        if mark != b'-' or not letters:
            return None
        while letters:
            letter, letters = letters[:1], letters[1:]
            if letter == b'c' and (letters or args):
                options.mark, letters = (letters or args.pop(0))[:1], b''
            elif not set_option(options, letter):
                return None
    return None if args[1:] else options


def set_option(options, letter):
    """Set what one letter says; False if it says nothing."""
    if letter in (SKIP, STOP, IGNORE):
        options.homes = letter
    elif letter in (b'u', b'U'):
        options.capitals = letter == b'u'
    elif letter == b'C':
        options.mark = b''
    elif letter == b'/':
        options.dash = b'-/'
    else:
        return False
    return True


def convert(lines, options, owner, alias_home):
    """The lines of users/assign, as one bytes object, for lines of passwd. Stop if there can be none.

    owner(home) -> uid of the directory, None if it is missing; it may raise OSError.  alias_home: where alias's .qmail
    files are, whatever passwd says."""
    found, out = {}, []
    for line in lines:
        account = parse(line)
        if account and account[0] == b'alias':
            account = account[:3] + (alias_home,)
        if account and wanted(account, options) and home_fits(account, options, owner):
            found[account[0]] = account
            out += user_lines(account, options)
    if b'alias' not in found:
        raise Stop(b'unable to find alias user')
    for sub, user, pre in options.subusers:
        if user not in found:
            raise Stop(b'unable to find user ' + user + b' for subuser ' + sub)
        out += subuser_lines(found[user], sub, pre, options)
    return b''.join(line + b'\n' for line in out) + options.append + b'.\n'


def parse(line):
    """(name, uid, gid, home) of a passwd line, ids as numbers; None if it is not one."""
    fields = line.split(b':')
    if len(fields) < 6 or b'\0' in line or not fields[0]:
        return None
    uid, gid = assign.number(fields[2]), assign.number(fields[3])
    return None if uid is None or gid is None else (fields[0], uid, gid, fields[5])


def wanted(account, options):
    """True if the account is to get mail of its own."""
    name, uid = account[:2]
    if uid == 0 or uid in getpw.NO_USER:
        return False
    if options.include is not None and name not in options.include:
        return False
    if options.exclude is not None and name in options.exclude:
        return False
    if not options.capitals and name != text.lower(name):
        return False
    return uid >= accounts.LOWEST_MAIL_UID or named(name, options)


def named(name, options):
    """True if an account below the lowest uid was named by the administrator, or is alias."""
    return (name == b'alias' or name in (options.include or ()) or name in options.mailnames
            or any(name == user for _, user, _ in options.subusers))


def home_fits(account, options, owner):
    """True if the home is there and belongs to the account, or nobody asks."""
    if options.homes == IGNORE:
        return True
    uid = owner(account[3])
    if uid is None and options.homes == STOP:
        raise Stop(b'unable to find the home directory of ' + account[0])
    return uid == account[1]


def user_lines(account, options):
    """The lines of one account."""
    tail = b':%s:%d:%d:%s:' % account
    if account[0] == b'alias':
        yield b'+' + tail + b'-::'
    for name in options.mailnames.get(account[0], [account[0]]):
        yield b'=' + name + tail + b'::'
        if options.mark:
            yield b'+' + name + options.mark + tail + options.dash + b'::'


def subuser_lines(account, sub, pre, options):
    """The lines of an address that is an extension of an account's."""
    tail = b':%s:%d:%d:%s:' % account
    yield b'=' + sub + tail + options.dash + b':' + pre + b':'
    if options.mark:
        yield b'+' + sub + options.mark + tail + options.dash + b':' + pre + b'-:'


# --- the files of DIR/users ---------------------------------------------------------------------------------

def parse_names(lines):
    """users/include and users/exclude: a set of names."""
    return set(lines)


def parse_mailnames(lines):
    """users/mailnames, `user:name1:name2`: {user: [names]}. The last line for a user counts."""
    return {user: [name for name in names.split(b':') if name]
            for user, colon, names in (line.partition(b':') for line in lines) if colon}


def parse_subusers(lines):
    """users/subusers, `sub:user:pre:`: [(sub, user, pre)]. Stop for a line with fewer fields."""
    found = []
    for line in lines:
        fields = line.split(b':')
        if len(fields) < 4:
            raise Stop(b'bad format in users/subusers: ' + line)
        found.append(tuple(fields[:3]))
    return found
