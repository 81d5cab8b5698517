"""qpy-showctl, as whoever may read DIR/control: what each setting is, where that comes from, what it means.

Descriptor 1: a paragraph per setting. Exit: 0; 111 if a file is broken or cannot be read (the others are
shown all the same).
"""
from qpy import unix
from qpy.core import controls as tables
from qpy.core import exits, grammars, services
from qpy.lib import aliasfiles, controls, owner, program

MOST_SHOWN = 100            # entries of a list that are printed
LINES = {b'qpy-check': b'check qpyc seq:check:0660:qpyc:qpyd qpy-check',
         b'qpy-milter': b'milter qpyc seq:milter:0660:qpyc:qpyd,unix:filter:0660:qpyc:qpyd qpy-milter'}


def main(home, args):
    """qpy-showctl"""
    if args:
        raise program.Fatal(exits.PERM, b'usage: qpy-showctl')
    owner.become(home)
    there = set(unix.listdir(home + b'/control'))
    out, broken = [b'qpy home directory: %s' % home, b''], 0
    for row in tables.TABLE:
        lines, bad = paragraph(home, row, row[0] in there)
        out += lines
        broken += bad
    out += unknown(there) + freshness(home) + unread(home, there)
    unix.write_all(1, b''.join(line + b'\n' for line in out))
    return exits.TEMP if broken else exits.OK


def paragraph(home, row, there):
    """([lines], is it broken) for one control file."""
    name, meaning = row[0], row[4]
    try:
        values, origin = READ[row[1]](home, name, there)
        if there and name in grammars.CHECKS:
            controls.parsed(grammars.CHECKS[name], home, name)
    except (controls.Broken, unix.error) as problem:
        why = problem.why if isinstance(problem, controls.Broken) else program.reason(problem)
        return [name + b': Oops! Trouble reading this file. ' + why, b''], True
    shown = [tables.show(value) for value in values[:MOST_SHOWN]]
    if len(values) > MOST_SHOWN:
        shown.append(b'... and %d more' % (len(values) - MOST_SHOWN))
    if len(shown) > 1:
        shown = [b''] + [b'    ' + value for value in shown]
    return [name + b': ' + b'\n'.join(shown), b'    (%s) %s' % (origin, meaning), b''], False


def origin_of(name, there):
    """Where a value comes from: its file, control/me, or the program."""
    if there:
        return b'control/' + name
    default = tables.row(name)[2]
    if isinstance(default, tuple):
        return b'default, from control/me'
    return b'absent' if default is None else b'default'


def one(home, name, there):
    """A line file."""
    if name == b'me' and not there:
        raise controls.Broken(b'me', 0, b'', b'missing; write the full name of this host into it')
    value = controls.line(home, name)
    return [] if value is None else [value], origin_of(name, there)


def count(home, name, there):
    """A number file."""
    empty = there and controls.parsed(tables.parse_number, home, name) is None
    return [b'%d' % controls.number(home, name)], b'default; control/%s is empty' % name if empty else origin_of(name, there)


def several(home, name, there):
    """A list file."""
    return controls.listing(home, name) or [], origin_of(name, there)


def pairs(home, name, there):
    """A map file; of passwords only whose they are."""
    found = [key + b':' + value for key, value in controls.mapping(home, name).items()]
    return [tables.hidden(pair) for pair in found] if name in tables.SECRETS else found, origin_of(name, there)


def whole(home, name, there):
    """A text file, line by line without its comments; of rules that tcprules has compiled only that."""
    if name == b'tcp.smtp' and b'\0' in (controls.raw(home, name) or b''):
        return [b'compiled'], origin_of(name, there)
    lines = (controls.text(home, name) or b'').split(b'\n')
    return [line for line in lines if line.strip() and line[:1] != b'#'], origin_of(name, there)


def exists(home, name, there):
    """A compiled file: only whether it is there."""
    return [b'present'] if there else [], origin_of(name, there)


READ = {tables.LINE: one, tables.NUMBER: count, tables.LIST: several, tables.MAP: pairs, tables.TEXT: whole,
        tables.CDB: exists}


def unknown(there):
    """Lines on files that no program reads, with the name that may have been meant; copies are called so."""
    out = []
    for name in sorted(name for name in there if tables.is_copy(name)):
        out += [tables.show(name) + b': a copy, which no program reads.', b'']
    for name, near in tables.strangers(there):
        hint = b' Did you mean %s?' % near if near else b''
        out += [tables.show(name) + b': I have no idea what this file does.' + hint, b'']
    return out


def freshness(home):
    """Warnings on compiled files that are older than their sources, or missing where the source alone does nothing."""
    out = []
    for source, made, maker in ((b'/control/morercpthosts', b'/control/morercpthosts.cdb', b'qpy-newmrh'),
                                (b'/control/validrcptto', b'/control/validrcptto.cdb', b'qpy-newvrt'),
                                (b'/users/assign', b'/users/cdb', b'qpy-newu')):
        if changed(home + source) > changed(home + made) and (changed(home + made) or maker != b'qpy-newvrt'):
            out += [b'%s is newer than %s: run %s' % (source[1:], made[1:], maker), b'']
    source, made = aliasfiles.source(home), aliasfiles.made(home)
    if source and changed(source) > changed(made) > 0:
        out += [b'%s is newer than %s: run newaliases' % (source, made), b'']
    if not source and changed(made):
        out += [aliasfiles.LEFT % made, b'']
    return out


def unread(home, there):
    """Warnings on files that ask for a program which control/services does not start: mail waits for its answers."""
    try:
        running = {service.words[0].rpartition(b'/')[2] for service in services.table(controls.raw(home, b'services'))}
    except (controls.Broken, tables.ControlError):
        return []                       # said already
    return [line for program_, words in LINES.items() if program_ not in running for name in asking_for(program_, there)
            for line in (b'control/%s is read by %s, which no line of control/services starts: write %s'
                         % (name, program_, words), b'')]


def asking_for(program_, there):
    """The files there are that qpy-smtpd asks this program about."""
    return [row[0] for row in tables.TABLE if row[0] in there and row[1] in (tables.LIST, tables.MAP)
            and {b'qpy-smtpd', program_} <= set(row[3].split())]


def changed(path):
    """When a file was last modified, in ns; 0 if there is none."""
    try:
        return unix.stat(path).st_mtime_ns
    except unix.error:
        return 0
