"""newaliases: makes DIR/users/aliases.cdb of /etc/aliases; called by qpy.user.sendmail.

Exit: 0 also when there is no source, and a table of before stays; 65 an entry has no meaning (mail for it waits, the others
are in use), 73 the cdb cannot be written, 75 the source cannot be read.
"""
from qpy import unix
from qpy.core import aliases as language, aliasvalue, cdb, dotqmail, exits
from qpy.core.getpw import Trouble
from qpy.lib import aliasfiles, cdb as files, owner, program, users

LIMIT = 64 << 20


def rebuild(home):
    """Read, compile, replace, and say what will not do what it seems to do."""
    owner.become(home)
    source, made = aliasfiles.source(home), aliasfiles.made(home)
    if not source:
        if aliasfiles.there(made):
            program.warn(aliasfiles.LEFT % made)
        return exits.OK
    data = unix.read_file(source, limit=LIMIT)
    lookup, known = users.Lookup(home), {}

    def elsewhere(name):
        """Why mail for a name never comes to its alias, b'' if it does; asked once."""
        if name not in known:
            known[name] = hidden(lookup, name)
        return known[name]
    table, wrong = language.compile(data, elsewhere)
    try:
        files.replace(made, cdb.build(table.items()))
    except unix.error as problem:
        program.complain(b'fatal: unable to write %s: %s' % (made, program.reason(problem)))
        return exits.EX_CANTCREAT
    for line, name, why in wrong:
        where = b', line %d' % line if line else b''
        program.warn(b'%s%s: %s: %s' % (source, where, name, why))
    for name in table:
        if elsewhere(name):
            program.warn(b'%s: %s is not used: %s' % (source, name, elsewhere(name)))
        elif not aliasvalue.waiting(table[name]) and lookup.unusable(table[name]):
            program.warn(b'%s: %s: mail for it waits: %s' % (source, name, lookup.unusable(table[name])))
        elif hides(lookup, name):
            program.warn(b'%s: %s comes before %s' % (source, name, hides(lookup, name)))
    unix.write_all(1, b'%s: %d aliases\n' % (source, len(table)))
    return exits.EX_DATAERR if any(value_waits(table, name) for _, name, _ in wrong) else exits.OK


def value_waits(table, name):
    """Does mail for this name wait, or was its line not understood at all?"""
    return name not in table or bool(aliasvalue.waiting(table[name]))


def hidden(lookup, name):
    """Why an alias has no effect, b'' if it has: users come first, as they do with qmail."""
    try:
        user = lookup.find(name)
    except Trouble:
        return b''
    if user.user == b'alias':
        return b''
    return b'it belongs to the user %s; to send his mail elsewhere, write ~%s/.qmail' % (user.user, user.user)


def hides(lookup, name):
    """The .qmail file of alias's that counts no more beside an alias, b'' if there is none."""
    account = lookup.alias()
    path = b'%s/.qmail-%s' % (account[3], dotqmail.safe(name)) if account else b''
    try:
        return path and unix.stat(path) and path
    except unix.error:
        return b''
