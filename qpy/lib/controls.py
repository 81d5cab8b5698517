"""Reading DIR/control: a value by its name, with the default that qpy.core.controls.TABLE gives it.

    controls.line(home, b'me')                -> bytes, or None if absent and without default
    controls.number(home, b'databytes')       -> int
    controls.listing(home, b'locals')         -> [bytes], or None if absent (an empty file is [])
    controls.mapping(home, b'smtproutes')     -> {lower-case key: value}, {} if absent
    controls.text(home, b'defaultdelivery')   -> bytes, or None

A file that must be mended raises Broken, a program.Fatal: who does not catch it ends with 111 and one clear
line. A file that cannot be read for any reason but its absence raises OSError: temporary, never a default.
"""

from qpy import unix
from qpy.core import controls as tables, exits
from qpy.lib import program

RACY = 0.05             # seconds; a file changed so lately may change again under the same time stamp


class Broken(program.Fatal):
    """A control file that must be mended: name, line number (0: all), value, remedy; `why` says it all."""

    def __init__(self, file: bytes, line: int, value: bytes, remedy: bytes):
        error = tables.ControlError(file, line, value, remedy)
        super().__init__(exits.TEMP, b'unable to use ' + error.text)
        self.file, self.line, self.value, self.remedy = file, line, value, remedy
        self.why = error.text


REPLACED = b'the directory control, or one that a link in it leads to, is not what it was when this program was started; ' \
           b'start qpy anew'


def raw(home: bytes, name: bytes) -> bytes | None:
    """The bytes of DIR/control/NAME, None if there is no such file. Broken if it cannot be had."""
    try:
        return unix.read_file(home + b'/control/' + name, limit=tables.FILE_LIMIT)
    except FileNotFoundError:
        if not is_link(home + b'/control/' + name):
            return None
        raise Broken(name, 0, b'', b'this is a link that leads nowhere; rm it if that is not for now only') from None
    except unix.error as problem:
        raise Broken(name, 0, b'', unreadable(home + b'/control/' + name, problem)) from None


def is_link(path: bytes) -> bool:
    """Is there a symbolic link?"""
    try:
        return unix.S_ISLNK(unix.lstat(path).st_mode)
    except unix.error:
        return False


def unreadable(path: bytes, problem) -> bytes:
    """Why a control file cannot be read, with the remedy if one is known."""
    if problem.errno == unix.EFBIG:
        return b'longer than %d bytes' % tables.FILE_LIMIT
    if problem.errno == unix.EISDIR:
        return b'this is a directory, and must be a file; rmdir %s' % path
    if isinstance(problem, unix.NotRegular):
        return b'this is a FIFO, and must be a file; rm %s' % path
    if replaced(path, problem):
        return REPLACED
    if problem.errno == unix.EACCES:
        return b'uid %d may not read it; chmod 0644 %s' % (unix.geteuid(), path)
    return b'unable to read it: ' + program.reason(problem)


def replaced(path: bytes, problem) -> bool:
    """Is what we may read by its mode closed all the same?  Landlock's rules are for the directories of the start."""
    return problem.errno == unix.EACCES and unix.access(path, unix.R_OK)


def parsed(parse, home: bytes, name: bytes):
    """parse(bytes of the file, name), or None if it is absent; ControlError becomes Broken."""
    data = raw(home, name)
    if data is None:
        return None
    try:
        return parse(data, name)
    except tables.ControlError as error:
        raise Broken(error.file, error.line, error.value, error.remedy) from None


def default(home: bytes, name: bytes):
    """The default of a control file as TABLE says it, with control/me read where it refers to that."""
    found = tables.row(name)
    if found is None:
        raise ValueError('no control file of that name: %r' % name)
    value = found[2]
    if not isinstance(value, tuple):
        return value
    name = me(home, value[1])
    return name if value[2:] != (b'.',) or b'.' in name or name == value[1] else b''


def me(home: bytes, literal: bytes | None = None) -> bytes:
    """The name of this host, or the literal; Broken when there is neither."""
    value = parsed(tables.parse_line, home, b'me')
    if value is None:
        value = literal
    if value is None:
        raise Broken(b'me', 0, b'', b'missing; write the full name of this host into it')
    return value


def line(home: bytes, name: bytes) -> bytes | None:
    """The value of a line file, or its default."""
    if name == b'me':
        return me(home)
    value = parsed(tables.parse_line, home, name)
    return default(home, name) if value is None else value


def number(home: bytes, name: bytes) -> int:
    """The value of a number file or its default, forced into LIMITS with a warning."""
    value = parsed(tables.parse_number, home, name)
    if value is None:
        return default(home, name)
    allowed = tables.limit(name, value)
    if allowed != value:
        program.warn(b'control/%s: %d is out of range, using %d' % (name, value, allowed))
    return allowed


def listing(home: bytes, name: bytes) -> list | None:
    """The entries of a list file or its default; None: absent."""
    value = parsed(tables.parse_list, home, name)
    if value is not None:
        return value
    value = default(home, name)
    return value if value is None else [value]


def numbered(home: bytes, name: bytes) -> list:
    """[(line number, entry)] of a list file; [] if it is absent."""
    return parsed(tables.lines, home, name) or []


def lookup(home: bytes, name: bytes) -> dict | None:
    """{lower-case entry: line number} of a list file or its default (line 0 there); None: absent."""
    value = parsed(tables.parse_set, home, name)
    if value is not None:
        return value
    value = default(home, name)
    return value if value is None else {tables.text.lower(value): 0}


def mapping(home: bytes, name: bytes) -> dict:
    """{lower-case key: value} of a map file; {} if absent."""
    return parsed(tables.parse_map, home, name) or {}


def mapping_lines(home: bytes, name: bytes) -> dict:
    """{lower-case key: (value, line number)} of a map file; {} if absent."""
    return parsed(tables.parse_map_lines, home, name) or {}


def checked_mapping(home: bytes, name: bytes, faults, remedy: bytes = b'') -> dict:
    """The same as mapping(); Broken if one of its values cannot be used: faults(mapping) -> [(key, reason)]."""
    lines = mapping_lines(home, name)
    values = {key: value for key, (value, _) in lines.items()}
    for key, reason in faults(values):
        value, line = lines[key]
        raise Broken(name, line, value, reason + remedy)
    return values


def text(home: bytes, name: bytes) -> bytes | None:
    """The whole of a text file, or its default."""
    value = parsed(tables.parse_text, home, name)
    return default(home, name) if value is None else value


def check_directory(home: bytes) -> None:
    """Broken unless DIR/control belongs to root or to DIR's owner and nobody else can write to it."""
    there = unix.stat(home + b'/control')
    if there.st_uid not in (0, unix.stat(home).st_uid):
        raise Broken(b'', 0, b'', b'the directory belongs to uid %d; chown it to root' % there.st_uid)
    if there.st_mode & 0o022:
        raise Broken(b'', 0, b'', b'the directory has mode %04o; chmod 0755 it' % (there.st_mode & 0o7777))


class Watched:
    """Values made from control files, made anew when one of the files has changed.

    names: control files, relative to DIR/control (so b'../users/cdb' works too). load(home) -> value.
    get() looks at the files; if one changed it loads. When the new ones are broken the old value stays, and
    that is said once (quiet: by somebody else). The first load raises what load raises."""

    __slots__ = ('home', 'names', 'load', 'value', 'stamp', 'said', 'quiet')

    def __init__(self, home: bytes, names: tuple, load):
        self.home, self.names, self.load, self.said, self.stamp = home, names, load, b'', None
        self.quiet = False
        self.stamp = self.look()
        self.value = load(home)

    def look(self):
        """What stat says of the directory and each file; None when one changed too lately for stat to tell next time.

        A file that was not there is not looked for again until the directory changes: most never are."""
        directory = self.look_at(b'.')
        known = self.stamp if self.stamp and directory and self.stamp[0] == directory else None
        stamps = (directory, *[None if known and known[n] is None and b'/' not in name else self.look_at(name)
                               for n, name in enumerate(self.names, 1)])
        newest = max((s[3] for s in stamps if s), default=0)
        return None if abs(unix.time() * 10 ** 9 - newest) < RACY * 10 ** 9 else stamps

    def look_at(self, name: bytes):
        """(device, inode, size, ns of change, ns of modification) of one file; None if it cannot be had."""
        try:
            s = unix.stat(self.home + b'/control/' + name)
        except unix.error:
            return None
        return s.st_dev, s.st_ino, s.st_size, s.st_ctime_ns, s.st_mtime_ns

    def get(self):
        """The value, fresh."""
        stamp = self.look()
        if stamp is None or stamp != self.stamp:
            self.stamp = stamp
            self.reload()
        return self.value

    def reload(self) -> bool:
        """Load now (SIGHUP); True if the new value is in use."""
        try:
            self.value = self.load(self.home)
        except (Broken, unix.error) as error:
            self.complain(error)
            return False
        self.said = b''
        return True

    def complain(self, error) -> None:
        """Say once that the old values stay, and why."""
        why = error.why if isinstance(error, Broken) else program.reason(error)
        if why != self.said and not self.quiet:
            program.warn(b'keeping the old settings: ' + why)
        self.said = why
