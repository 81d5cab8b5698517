r"""/etc/aliases: Sendmail's list of names and where their mail goes, and the form in which qpy keeps it.

    root: joe, mary@example.org          forward; a name without @ is one of this machine
    staff: joe, "Mary M." <mary@x>,      a line that begins with a blank goes on
      \bob                               as bob
    owner-staff: joe                     mail for staff is sent on in the name of owner-staff
    news: :include:/etc/news.list        the addresses in a file, read at each delivery
    tickets: "|/usr/bin/rt-mailgate -q"  a program
    nobody: /dev/null                    thrown away
    old: /var/mail/old                   a file: refused, says so

In users/aliases.cdb (core.aliasvalue) names that stand for other names of the file are expanded, so that whoever is on
two lists gets one copy.  Not a name with an owner of its own, and not a user's, whose mail never asks this file.
"""
from qpy.core import text, token822
from qpy.core.aliasvalue import INCLUDE, NOTHING, OWNER, WAITS

ADDRESS, PROGRAM, FILE = b'&', b'|', b'/'
NULL = b'/dev/null'
LONGEST = 1002              # bytes of an address
CIRCLE = b'it leads to itself only'


class Problem(ValueError):
    """An entry that has no meaning; args[0]: why, as bytes."""


# --- the text -----------------------------------------------------------------------------------------------

def entries(data):
    """(line number, name, right side) of each entry; Problem as the name for a line that is none."""
    found = []
    for number, line in enumerate(data.split(b'\n'), 1):
        line = line.rstrip(b' \t\r')
        if not line.strip(b' \t') or line.lstrip(b' \t')[:1] == b'#':
            continue
        if line[:1] in (b' ', b'\t'):
            if found:
                found[-1][2] += b' ' + line
            continue
        name, rest = named(line)
        found.append([number, name, rest])
    return found


def named(line):
    """(name, what follows its colon); the name may stand in quotes."""
    if line[:1] == b'"':
        name, quote, rest = line[1:].partition(b'"')
        rest = rest.lstrip(b' \t')
        good = quote and rest[:1] == b':'
        rest = rest[1:]
    else:
        name, good, rest = line.partition(b':')
        name = name.strip(b' \t')
    if not good or not name or b'@' in name or b'\0' in line:
        return Problem(b'not NAME: ADDRESS, ADDRESS...'), line
    return text.lower(name), rest


def items(data):
    """[(kind, value)] of a right side, or of a list file: parted by commas and line ends outside of quotes.

    Problem if an item has no meaning."""
    return [found for piece in pieces(data) for found in item(piece)]


def pieces(data):
    """The items as they are written, with their quotes."""
    found, begin, quoted, at = [], 0, False, 0
    while at < len(data):
        byte = data[at:at + 1]
        if byte == b'\\':
            at += 1
        elif byte == b'"':
            quoted = not quoted
        elif byte == b'\n' or byte == b',' and not quoted:
            found.append(data[begin:at])
            begin, quoted = at + 1, False
        at += 1
    found.append(data[begin:])
    found = [piece.strip(b' \t\r') for piece in found]
    return [piece for piece in found if piece and piece[:1] != b'#']


def item(piece):
    """[(kind, value)] of one item."""
    whole = piece[:1] == b'"' and b'"' not in piece[1:-1].replace(b'\\"', b'')
    word = unquoted(piece) if whole else piece
    if word[:1] == b'|':
        command = word[1:].strip(b' \t')
        command = unquoted(command) if command[:1] == b'"' and command[-1:] == b'"' else command
        if not command:
            raise Problem(b'a program without a name')
        return [(PROGRAM, command)]
    if text.lower(word[:9]) == b':include:':
        path = unquoted(word[9:].strip(b' \t'))
        if path[:1] != b'/':
            raise Problem(b':include: needs a file name that begins with /')
        return [(INCLUDE, path)]
    if word[:1] == b'/':
        return [(FILE, word)]
    if word[:1] == b':' or b'\0' in word:
        raise Problem(b'not an address: ' + text.printable(word[:60]))
    return [(ADDRESS, address) for address in addresses(piece)]


def unquoted(word):
    """A word without its outer quotes and its backslashes."""
    if word[:1] != b'"' or word[-1:] != b'"' or len(word) < 2:
        return word
    parts = word[1:-1].split(b'\\\\')
    return b'\\'.join(part.replace(b'\\', b'') for part in parts)


def addresses(piece):
    """The addresses in one item, without quoting; a backslash in front is dropped."""
    try:
        found = token822.address_list(token822.parse(piece), lambda tokens: tokens)[1]
    except token822.Unparsable:
        raise Problem(b'not an address: ' + text.printable(piece[:60])) from None
    found = [token822.unquote(tokens) for tokens in reversed(found)]
    if not found or any(not each or len(each) > LONGEST or b'\n' in each or each.rfind(b'@') == 0 for each in found):
        raise Problem(b'not an address: ' + text.printable(piece[:60]))
    return found


# --- all of it ----------------------------------------------------------------------------------------------

def compile(data, elsewhere=lambda name: False):
    """({name: value}, [(line, name, why)]) of the bytes of an aliases file: what is kept, and what is wrong.

    An entry that is wrong is kept as one whose mail waits.  elsewhere(name): is mail for it somebody else's?"""
    table, wrong = {}, []
    for number, name, rest in entries(data):
        if isinstance(name, Problem):
            wrong.append((number, text.printable(rest[:40]), name.args[0]))
            continue
        if name in table:
            wrong.append((number, name, b'is there twice; the first one counts'))
            continue
        try:
            table[name] = checked(items(rest))
        except Problem as problem:
            table[name] = [(WAITS, problem.args[0])]
            wrong.append((number, name, problem.args[0]))
    theirs, table = {name for name in table if elsewhere(name)}, linked(table)
    values = {name: value(table, name, theirs.__contains__) for name in table}
    wrong += [(0, name, CIRCLE) for name in table if values[name].endswith(WAITS + CIRCLE + b'\n') and name not in theirs]
    return values, wrong


def checked(found):
    """The items, if an alias may have them; Problem."""
    if not found:
        raise Problem(b'nothing after the colon')
    for kind, word in found:
        if kind == FILE and word != NULL:
            raise Problem(b'no mail is put into files from here: write ' + text.printable(word[:100])
                          + b' into alias/.qmail-NAME')
    return found


def linked(table):
    """{name: [(kind, word, name of this file that the word is, or None)]}, found once for all walks; one with an owner is none."""
    inner = {name for name in table if b'owner-' + name not in table}
    return {name: [(kind, word, low if kind == ADDRESS and (low := text.lower(word)) in inner else None) for kind, word in found]
            for name, found in table.items()}


def value(table, name, elsewhere):
    """The lines of one name."""
    found = dict.fromkeys(expanded(table, name, elsewhere))
    lines = [OWNER + b'owner-' + name] if b'owner-' + name in table and not name.startswith(b'owner-') else []
    words = [kind + word for kind, word in found if kind != NOTHING]
    lines += words or [NOTHING if found else WAITS + CIRCLE]
    return b'\n'.join(lines) + b'\n'


def expanded(table, name, elsewhere):
    """The items of a name, and those of the names of this file among them, each name once, however deep."""
    seen, walks = {name}, [iter(table[name])]
    while walks:
        for kind, word, inner in walks[-1]:
            if kind == FILE:
                yield NOTHING, b''
            elif inner is None:
                yield kind, word
            elif inner in seen:
                continue
            elif elsewhere(inner):
                yield kind, word
            else:
                seen.add(inner)
                walks.append(iter(table[inner]))
                break
        else:
            walks.pop()


def listed(data):
    """The addresses in an :include: file; Problem if it has anything else."""
    if b'\0' in data:
        raise Problem(b'a NUL in it')
    found = items(data)
    for kind, word in found:
        if kind != ADDRESS:
            raise Problem(b'only addresses may stand there, not ' + text.printable(kind + word)[:60])
    return [word for _, word in found]
