"""Accounts that another mail server delivered to and that get no mail here, for the report of qpy-import.

    notes(passwd, assign, alias, owner)     sentences; passwd: as pwd.getpwall gives it; assign: the text of users/assign;
                                            alias: who has the rest; owner(home) -> uid of the directory, None without one
"""
from qpy.core import accounts, getpw

MOST_NAMED = 20
NEVER = (0, *getpw.NO_USER)


def notes(passwd, assign, alias, owner):
    """See the top of the module."""
    lines = [line.split(':') for line in assign.splitlines() if line[:1] in '=+' and line.count(':') > 6]
    ids = {fields[1]: tuple(int(field) if field.isdigit() else 0 for field in fields[2:4]) for fields in lines}
    unnamed = [entry.pw_name for entry in passwd if 0 < entry.pw_uid < accounts.LOWEST_MAIL_UID and entry.pw_name not in ids
               and entry.pw_name != alias and entry.pw_dir != '/' and owner(entry.pw_dir) == entry.pw_uid]
    never = [name for name, pair in ids.items() if set(pair) & set(NEVER)]
    later = [name for name, pair in ids.items() if min(pair) < accounts.LOWEST_MAIL_UID and name not in (*never, alias)]
    if unnamed:
        yield 'these accounts have a uid below %d, and a home of their own: they get no mail here, it comes to alias; lines in ' \
              'users/assign (qpy-pw2u makes them for those in users/mailnames), qpy-newu and a new start give it to them: %s' \
              % (accounts.LOWEST_MAIL_UID, listed(unnamed))
    if never:
        yield 'users/assign: these have the uid or gid of root or of nobody, as which nothing is delivered: their mail ' \
              'waits: ' + listed(never)
    if later:
        yield 'users/assign: these have a uid or gid below %d: a qpy that runs delivers to them when it has been started ' \
              'anew: %s' % (accounts.LOWEST_MAIL_UID, listed(later))


def listed(names):
    """Some names, and how many there are."""
    more = ', and %d more' % (len(names) - MOST_NAMED) if len(names) > MOST_NAMED else ''
    return ', '.join(names[:MOST_NAMED]) + more
