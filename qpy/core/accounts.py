"""The accounts of qpy: the one table.  The package of the same name holds the programs that run under it.

A site may rename accounts in DIR/control/accounts (lines `qpyd:name`); groups are named after their accounts.
"""

#        role      group    what it may touch
TABLE = ((b'qpyd', b'qpyd', b'hears the network'),
         (b'qpyt', b'qpyt', b'holds the keys of TLS'),
         (b'qpyq', b'qpyq', b'owns the messages'),
         (b'qpys', b'qpyq', b'decides what goes where and when; owns the state'),
         (b'qpyu', b'qpyu', b'becomes users, never root'),
         (b'qpyr', b'qpyr', b'speaks to the network'),
         (b'qpyp', b'qpyp', b'answers who an address belongs to'),
         (b'qpya', b'qpya', b'says who somebody is'),
         (b'qpyc', b'qpyc', b'judges clients and their messages'),
         (b'qpyl', b'qpyl', b'writes the log'),
         (b'alias', b'alias', b'mail for no user'))

ROLES = tuple(role for role, _, _ in TABLE)
GROUP = {role: group for role, group, _ in TABLE}

LOWEST_MAIL_UID = 1000      # ids below are service accounts: no mail is delivered as them unless users/assign says so


def names(lines):
    """{role: account name} from the lines of control/accounts (each `role:name`); unknown roles are a ValueError."""
    mapping = {role: role for role in ROLES}
    for line in lines:
        role, colon, name = line.partition(b':')
        if not colon or role not in mapping or not name:
            raise ValueError(line)
        mapping[role] = name
    return mapping
