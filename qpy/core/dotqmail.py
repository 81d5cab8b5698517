""".qmail: which file speaks for an address, what its lines ask for, and what a delivery tells its programs.

Pure: bytes in, values out.  The reader (user.local) opens, looks and acts.  The rules are qmail-local's.

    candidates(b'-', b'list-sub')  ->  [(b'.qmail-list-sub', None), (b'.qmail-list-default', b'sub'),
                                        (b'.qmail-default', b'list-sub')]
    parse(b'./Maildir/\\n&joe@x\\n')  ->  [(MAILDIR, b'./Maildir/'), (FORWARD, b'joe@x')]
"""
from qpy.core import dates, exits, text

# What a line asks for: (kind, argument).  FAIL ends the delivery with 111 and its argument as the reason.
MAILDIR, MBOX, FORWARD, PROGRAM, FAIL = b'maildir', b'mbox', b'forward', b'program', b'fail'

BLANK_FIRST = b'Uh-oh: first line of .qmail file is blank. (#4.2.1)'
HAS_CR = b'Uh-oh: .qmail line ends in a carriage return. (#4.2.1)'     # qmail would use it, and never get far
HAS_NUL = b'Uh-oh: .qmail file has a NUL in it. (#4.2.1)'
TO_NOBODY = b'Uh-oh: .qmail has a forward to nobody. (#4.2.1)'          # qmail would send it there, and it would be gone
FORWARD_ONLY_FILE = b'Uh-oh: .qmail has file delivery but has x bit set. (#4.7.0)'
FORWARD_ONLY_PROGRAM = b'Uh-oh: .qmail has prog delivery but has x bit set. (#4.7.0)'
LOOPING = b'This message is looping: it already has my Delivered-To line. (#5.4.6)'
NO_MAILBOX = b'Sorry, no mailbox here by that name. (#5.1.1)'
CRASHED = b'Aack, child crashed. (#4.3.0)'

FILE_LIMIT = 16 << 20       # bytes of one .qmail file; a list of half a million addresses
WRITABLE_BY_OTHERS = 0o002  # qmail's conf-patrn: a home or a .qmail with this bit is not obeyed
STICKY = 0o1000             # a home with this bit is being edited
OWNER_EXECUTE = 0o100       # a .qmail with this bit may only forward

DOUBLE_BOUNCE = b'#@[]'     # the sender of a double bounce


# --- which file ----------------------------------------------------------------------------------------------

def safe(ext):
    """ext as it stands in file names: lower case, each dot a colon."""
    return text.lower(ext).replace(b'.', b':')


def candidates(dash, ext):
    """[(file name, what DEFAULT holds if this is the file; None: it is not set)], in the order they are tried.

    Names are relative to the home directory and never climb out of it: no dot of ext survives.
    """
    name, stem = safe(ext), b'.qmail' + dash
    exact_default = ext[-7:] if name.endswith(b'default') else None
    found = [(stem + name, exact_default)]
    for i in range(len(name), -1, -1):
        if i == 0 or name[i - 1:i] == b'-':
            found.append((stem + name[:i] + b'default', ext[i:]))
    return found


def owner_names(dash, ext):
    """(the file that makes LOCAL-owner the sender of forwards, the one that asks for one sender per recipient)."""
    stem = b'.qmail' + dash + safe(ext) + b'-owner'
    return stem, stem + b'-default'


def has_owner(sender):
    """Whether mail from sender is forwarded in the name of an -owner: bounces never are."""
    return sender not in (b'', DOUBLE_BOUNCE)


def new_sender(sender, local, host, owner, owner_default):
    """The sender of forwards; owner, owner_default: whether the files of owner_names exist."""
    if not owner or not has_owner(sender):
        return sender
    return local + b'-owner-@' + host + b'-@[]' if owner_default else local + b'-owner@' + host


# --- what its lines ask for ----------------------------------------------------------------------------------

def parse(data, forward_only=False):
    """[(kind, argument)] of the bytes of a .qmail file, in order, up to the first FAIL.

    forward_only: the file has its owner's x bit, which `+list` also sets from that line on.
    """
    if b'\0' in data:
        return [(FAIL, HAS_NUL)]
    found = []
    for number, line in enumerate(data.split(b'\n')):
        line = line.rstrip(b' \t')
        if not line:
            if number == 0:
                return [(FAIL, BLANK_FIRST)]
        elif line == b'+list':
            forward_only = True
        elif line[:1] not in b'#+':
            found.append(instruction(line, forward_only))
            if found[-1][0] is FAIL:
                break
    return found


def instruction(line, forward_only):
    """What one line (not empty, no comment) asks for."""
    first = line[:1]
    if line[-1:] == b'\r':
        return FAIL, HAS_CR
    if first in b'./':
        if forward_only:
            return FAIL, FORWARD_ONLY_FILE
        return MAILDIR if line[-1:] == b'/' else MBOX, line
    if first == b'|':
        return (FAIL, FORWARD_ONLY_PROGRAM) if forward_only else (PROGRAM, line[1:])
    return FORWARD, line[1:] if first == b'&' else line


def did(files, forwards, programs):
    """The line that ends the report of a success."""
    return b'did %d+%d+%d\n' % (files, forwards, programs)


def describe(instructions):
    """What `qpy-local -n` prints."""
    lines = [kind + b' ' + argument + b'\n' for kind, argument in instructions if kind is not FAIL]
    kinds = [kind for kind, _ in instructions]
    return b''.join(lines) + did(kinds.count(MAILDIR) + kinds.count(MBOX), kinds.count(FORWARD), kinds.count(PROGRAM))


# --- loops ---------------------------------------------------------------------------------------------------

def looping(pieces, delivered_to):
    """Whether a header line of the message is exactly delivered_to (a whole line, newline included).

    pieces: the message from its first byte on, in any portions; reading stops at the first empty line.
    """
    wanted = b'\n' + delivered_to
    seen = b'\n'
    for piece in pieces:
        seen += piece
        end = seen.find(b'\n\n')
        if end >= 0:
            return wanted in seen[:end + 1]
        if wanted in seen:
            return True
        seen = seen[-len(wanted):]
    return False


# --- what programs are told ----------------------------------------------------------------------------------

def delivered_to(local, host):
    """DTLINE."""
    return b'Delivered-To: %s@%s\n' % (local.replace(b'\n', b'_'), host.replace(b'\n', b'_'))


def from_line(sender, now):
    """UFLINE, the first line of a message in an mbox; now in seconds."""
    shown = sender.translate(_BLANKS_TO_DASHES) if sender else b'MAILER-DAEMON'
    return b'From %s %s\n' % (shown, dates.mbox_date(now))


_BLANKS_TO_DASHES = bytes(ord('-') if c in b' \t\n' else c for c in range(256))


def environment(user, home, local, ext, host, sender, return_path):
    """The variables of programs that belong to the delivery alone: {name: value}.

    What also depends on the file found (DEFAULT, NEWSENDER) and on the clock (UFLINE) is added by `complete`.
    """
    variables = {b'USER': user, b'HOME': home, b'LOCAL': local, b'HOST': host, b'SENDER': sender, b'EXT': ext,
                 b'RECIPIENT': local + b'@' + host, b'DTLINE': delivered_to(local, host), b'RPLINE': return_path}
    for number in (b'2', b'3', b'4'):
        ext = ext.partition(b'-')[2]
        host = host.rpartition(b'.')[0] if b'.' in host else host
        variables[b'EXT' + number], variables[b'HOST' + number] = ext, host
    return variables


def complete(variables, default, newsender, now):
    """The rest of the environment, put into variables."""
    variables[b'NEWSENDER'] = newsender
    variables[b'UFLINE'] = from_line(variables[b'SENDER'], now)
    if default is not None:
        variables[b'DEFAULT'] = default


# --- what programs answer ------------------------------------------------------------------------------------

STOP = 99                                                       # success, and no further lines
PERMANENT = frozenset((100, 64, 65, 70, 76, 77, 78, 112))       # all other codes are temporary


def program_result(code):
    """What the exit code of a program means: OK, STOP, PERM or TEMP.  code < 0: killed by that signal."""
    if code in (exits.OK, STOP):
        return code
    return exits.PERM if code in PERMANENT else exits.TEMP
