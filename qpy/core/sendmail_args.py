"""The command line of sendmail(8): every option that some sendmail knows, as one table, and what qpy makes of it.

parse(name, words) -> Plan; UsageError for what must be refused.  The first word that is no option, or `--`, ends
the options, so that an address can never become one.  Nothing here opens, reads or writes a file, whatever an
option that is ignored would ask for.
"""
from qpy.core import text

# What a letter takes: nothing; a value, glued or the next word; a value only if it is glued.
NONE, VALUE, GLUED = range(3)

OPTIONS = {
    b't': NONE,         # recipients from the header too
    b'i': NONE,         # a lone dot does not end the message
    b'f': VALUE,        # envelope sender
    b'r': VALUE,        # the same, old
    b'F': VALUE,        # full name for a From field that is made here
    b'b': VALUE,        # mode, see MODES
    b'q': GLUED,        # run the queue
    b'I': NONE,         # as -bi
    b'v': NONE,         # say what happens
    b'N': VALUE,        # DSN: when to report (RFC 3461 section 4.1)
    b'R': VALUE,        # DSN: how much to return (RFC 3461 section 4.3)
    b'V': VALUE,        # DSN: envelope ID (RFC 3461 section 4.4)
    b'B': VALUE,        # body type (RFC 6152)
    b'O': VALUE,        # name=value, see _long_option
    b'o': VALUE,        # one-letter options; -oi counts
    # accepted and ignored
    b'e': GLUED, b'E': GLUED, b'J': GLUED,
    b'A': VALUE, b'C': VALUE, b'D': VALUE, b'L': VALUE, b'M': VALUE, b'Q': VALUE, b'X': VALUE, b'd': VALUE,
    b'h': VALUE, b'p': VALUE,
    b'G': NONE, b'T': NONE, b'U': NONE, b'c': NONE, b'm': NONE, b'n': NONE, b's': NONE, b'x': NONE,
}

# What is to be done.
(DELIVER, SMTP, LIST_QUEUE, ALIASES, VERIFY, TEST, RUN_QUEUE, NOTHING, VERSION, HELP, RMAIL) = (
    b'deliver', b'smtp', b'list', b'aliases', b'verify', b'test', b'run', b'nothing', b'version', b'help', b'rmail')

# -b letter: what is done, or None and why not.
MODES = {b'm': DELIVER, b's': SMTP, b'p': LIST_QUEUE, b'i': ALIASES, b'v': VERIFY, b't': TEST, b'V': VERSION,
         b'h': NOTHING, b'H': NOTHING}
DAEMONS = frozenset((b'd', b'D', b'l'))

# The name the program was called by; any other name is sendmail.
NAMES = {b'mailq': LIST_QUEUE, b'newaliases': ALIASES, b'runq': RUN_QUEUE, b'rmail': RMAIL,
         b'hoststat': NOTHING, b'purgestat': NOTHING}
REFUSED_NAMES = {b'rsmtp': b'batched SMTP is not spoken here',
                 b'smtpd': b'the daemon is qpy-smtpd; see qpy-start(8)'}

ENVID_MAX = 100         # bytes, RFC 3461 section 4.4
NOTIFY = frozenset((b'SUCCESS', b'FAILURE', b'DELAY'))


class UsageError(Exception):
    """This command line is refused; the text says why."""

    def __init__(self, why):
        super().__init__(why)
        self.why = why


class Plan:
    """What a command line asks for.

    mode; operands; sender and fullname (None: not given); from_header; ignore_dot; verbose;
    node: what -qR names; options: envelope records for the message [(letter, value)]; notify: DSN NOTIFY of each recipient or None;
    warnings: lines for standard error.
    """
    __slots__ = ('mode', 'operands', 'sender', 'fullname', 'from_header', 'ignore_dot', 'verbose', 'options',
                 'notify', 'warnings', 'node')

    def __init__(self, mode):
        self.mode, self.operands = mode, []
        self.sender = self.fullname = self.notify = None
        self.from_header = self.ignore_dot = self.verbose = False
        self.options, self.warnings, self.node = {}, [], b''


def parse(name, words):
    """The Plan of a command line: the name the program was called by, and the words after it."""
    name = name[4:] if name.startswith(b'qpy-') else name
    if name in REFUSED_NAMES:
        raise UsageError(REFUSED_NAMES[name])
    plan = Plan(NAMES.get(name, DELIVER))
    at = 0
    while at < len(words) and words[at][:1] == b'-' and words[at] != b'-':
        at += 1
        if words[at - 1] == b'--':
            break
        at = _word(plan, words, at)
    plan.operands = words[at:]
    return plan


def _word(plan, words, at):
    """Take the options in words[at - 1]; returns the index of the next word that is not used up."""
    word, inside = words[at - 1], 1
    if word.startswith(b'--'):
        return _long_word(plan, word, at)
    while inside < len(word):
        letter = word[inside:inside + 1]
        takes = OPTIONS.get(letter)
        if takes is None:
            raise UsageError(b'unknown option -' + text.printable(letter))
        inside += 1
        if takes == NONE:
            _apply(plan, letter, b'')
            continue
        value = word[inside:]
        if takes == VALUE and not value:
            if at >= len(words):
                raise UsageError(b'option -%s needs a value' % letter)
            value, at = words[at], at + 1
        _apply(plan, letter, value)
        break
    return at


def _long_word(plan, word, at):
    mode = {b'--help': HELP, b'--version': VERSION}.get(word)
    if mode is None:
        raise UsageError(b'unknown option ' + text.printable(word))
    plan.mode = mode
    return at


def _apply(plan, letter, value):
    """What each letter that is not ignored does."""
    action = _ACTIONS.get(letter)
    if action:
        action(plan, value)


def _mode(plan, value):
    letter = value[:1]
    if letter in DAEMONS:
        raise UsageError(b'-b%s is refused: the daemons are started by qpy-start(8), or systemctl start qpy' % letter)
    mode = MODES.get(letter)
    if mode is None:
        raise UsageError(b'mode -b%s is not supported' % text.printable(letter))
    if plan.mode in (DELIVER, SMTP, VERIFY, TEST) or mode != DELIVER:
        plan.mode = mode


def _aliases(plan, value):
    plan.mode = ALIASES


def _run_queue(plan, value):
    """-q, -qf and the selecting forms run the queue, -qR a part of it if that may be asked for; an interval would be a
    daemon's: nothing to do."""
    plan.node = value[1:] if value[:1] == b'R' else b''
    interval = value[:1].isdigit() or value[:1] == b'p'
    if plan.mode in (DELIVER, NOTHING):
        plan.mode = NOTHING if interval else RUN_QUEUE


def _header(plan, value):
    plan.from_header = True


def _dot(plan, value):
    plan.ignore_dot = True


def _verbose(plan, value):
    plan.verbose = True


def _sender(plan, value):
    plan.sender = value


def _fullname(plan, value):
    plan.fullname = value


def _letter_option(plan, value):
    if value[:1] == b'i':
        plan.ignore_dot = True


def _long_option(plan, value):
    """-O name=value: two of them say something about the message (RFC 6531, RFC 8689)."""
    known = {b'smtputf8=yes': b'U', b'requiretls=yes': b'Q'}.get(text.lower(value))
    if known:
        plan.options[known] = b''


def _body_type(plan, value):
    if value.upper() in (b'7BIT', b'8BITMIME'):
        plan.options[b'B'] = value.upper()


def _notify(plan, value):
    wanted = value.upper().split(b',')
    if wanted != [b'NEVER'] and not NOTIFY.issuperset(wanted):
        plan.warnings.append(b'-N takes never, or success, failure and delay with commas; ignored')
        return
    plan.notify = b','.join(wanted)


def _return(plan, value):
    if value.upper() not in (b'FULL', b'HDRS'):
        plan.warnings.append(b'-R takes full or hdrs; ignored')
        return
    plan.options[b'R'] = value.upper()


def _envid(plan, value):
    """Kept as xtext (RFC 3461 section 4), the form in which SMTP passes it on."""
    if not 1 <= len(value) <= ENVID_MAX or text.printable(value) != value:
        plan.warnings.append(b'-V takes 1 to %d printable characters; ignored' % ENVID_MAX)
        return
    plan.options[b'E'] = b''.join(b'%c' % c if 33 <= c <= 126 and c not in b'+=' else b'+%02X' % c for c in value)


_ACTIONS = {b't': _header, b'i': _dot, b'f': _sender, b'r': _sender, b'F': _fullname, b'b': _mode, b'q': _run_queue,
            b'I': _aliases, b'v': _verbose, b'N': _notify, b'R': _return, b'V': _envid, b'B': _body_type,
            b'O': _long_option, b'o': _letter_option}
