"""sendmail, as the caller: the command line of other mailers, in front of qpy's queue.

Called as sendmail, send-mail, mailq, newaliases, runq, rmail; see qpy-sendmail(8).  The message is read from
descriptor 0, completed as by qpy-inject, and submitted from this same process.  Exit codes are those of sysexits.
"""
from qpy import unix
from qpy.core import exits, inject, sendmail_args, text
from qpy.lib import program
from qpy.user import injection

MBOX_LINE = b'MBOX-Line: '
VERSION = b'qpy sendmail'

# Who speaks SMTP on descriptors 0 and 1, unless the environment says that already.
SMTP_CLIENT = ((b'PROTO', b'TCP'), (b'RELAYCLIENT', b''), (b'DATABYTES', b'0'), (b'TCPLOCALIP', b'127.0.0.1'),
               (b'TCPLOCALHOST', b'localhost'), (b'TCPREMOTEIP', b'127.0.0.1'), (b'TCPREMOTEHOST', b'localhost'),
               (b'TCPREMOTEINFO', b'sendmail-bs'))


def main(home, args):
    injection.settle_descriptors()
    return run(home, args, unix.argv0())


def run(home, args, name):
    """All of main that does not touch descriptors it has not opened.  name: what the program was called."""
    program.name = name[4:] if name.startswith(b'qpy-') else name
    injection.quiet_signals()
    code = program.guarded(lambda: guarded(home, args, name))
    return exits.EX_TEMPFAIL if code == exits.TEMP else exits.EX_UNAVAILABLE if code == exits.PERM else code


def guarded(home, args, name):
    """Carry out the command line; what can be foreseen to fail becomes its code of sysexits."""
    try:
        plan = sendmail_args.parse(name, args)
        for warning in plan.warnings:
            program.warn(warning)
        return injection.explained(lambda: MODES[plan.mode](home, plan), exits.EX_DATAERR, exits.EX_IOERR)
    except sendmail_args.UsageError as refused:
        program.complain(b'fatal: ' + refused.why)
        return exits.EX_USAGE


# --- a message -----------------------------------------------------------------------------------------------

def deliver(home, plan):
    """The message on descriptor 0 to the operands and, with -t, to those its header names."""
    hosts = injection.settings(home)
    wanted = [each for word in plan.operands for each in inject.listed(word, hosts)]
    if not wanted and not plan.from_header:
        raise sendmail_args.UsageError(b'no recipients; name them, or use -t to take them from the header')
    by_uucp = plan.mode == sendmail_args.RMAIL
    message = injection.Message(keep_mbox_line=by_uucp, dot_ends=not plan.ignore_dot and unix.isatty(0))
    fields = message.read_header()
    composer = compose(plan, hosts, without_path(plan, fields) if by_uucp else fields)
    new_header = composer.finish(int(unix.time()), unix.getpid(), unix.urandom(6).hex().encode())
    if plan.from_header:
        wanted += composer.header_recipients()
    if not wanted:
        raise inject.Refused(b'no recipients: -t was given, but To, Cc and Bcc name nobody')
    code, answer = injection.queue(home, message, new_header, composer.sender, list(dict.fromkeys(wanted)),
                                   plan.options.items(), plan.notify)
    if code:
        return fail(code, answer)
    if plan.verbose:
        tell(b'queued as %s\n' % answer if answer else b'queued\n')    # a filter has no ID to tell
    return exits.OK


def tell(words):
    """Say what has happened; that nobody can hear it undoes nothing, and a caller who is told of a failure sends again."""
    try:
        unix.write_all(1, words)
    except unix.error as problem:
        program.warn(b'queued, and unable to say so: ' + program.reason(problem))


def compose(plan, hosts, fields):
    """The Composer, with all fields of the message in it."""
    sender = None if plan.sender is None else inject.sender_argument(plan.sender, hosts)
    composer = inject.Composer(hosts, identity(plan, sender), unix.environ.get(b'QMAILINJECT', b''), sender,
                               strict=False, wants_recipients=plan.from_header,
                               list_addresses=injection.list_addresses())
    for field in fields:
        composer.add(field)
    return composer


def identity(plan, sender):
    """Who a From field made here names: -f's address if there is one, with -F's name; else the caller."""
    if sender:
        user, at, host = sender.rpartition(b'@')
        return inject.Identity(user if at else host, host if at else None, plan.fullname or None)
    found = inject.identity(unix.environ, injection.login, False)
    if plan.fullname:
        found.name = plan.fullname
    return found


def fail(code, answer):
    """Say why the queue did not take it."""
    for_ever, words = injection.failure(code, answer)
    program.complain(b'fatal: ' + words)
    if code in (exits.QQ_ADDRESS_TOO_LONG, 115):
        return exits.EX_DATAERR
    return exits.EX_UNAVAILABLE if for_ever else exits.EX_TEMPFAIL


def rmail(home, plan):
    """rmail(8): as sendmail -i, with the sender of UUCP's From_ lines."""
    plan.ignore_dot = True
    return deliver(home, plan)


def without_path(plan, fields):
    """The fields after the From_ lines; these name the sender, unless -f did."""
    from qpy.core import uucp
    path = [field for field in fields if field.startswith(MBOX_LINE)]
    if plan.sender is None:
        plan.sender = uucp.sender([field[len(MBOX_LINE):] for field in path])
    return [field for field in fields if not field.startswith(MBOX_LINE)]


# --- the other modes -----------------------------------------------------------------------------------------

def smtp(home, plan):
    """-bs: become qpy-smtpd on descriptors 0 and 1, serving this caller only."""
    environ = dict(unix.environ)
    if b'PROTO' not in environ:
        environ.update(SMTP_CLIENT)
    environ[b'QPYLOCALBS'] = b'1'
    environ.pop(b'LISTEN_FDS', None)            # descriptors above 2 are closed
    path = home + b'/bin/qpy-smtpd'
    for number in (unix.SIGPIPE, unix.SIGXFSZ):
        unix.signal(number, unix.SIG_DFL)
    try:
        unix.execve(path, [path], environ)
    except unix.error as problem:
        program.complain(b'fatal: unable to run %s: %s' % (path, program.reason(problem)))
        return exits.EX_OSFILE


def list_queue(home, plan):
    """-bp, mailq: what waits; 75 where nobody can say, which no monitor must take for an empty queue."""
    from qpy.user import qread
    unix.signal(unix.SIGPIPE, unix.SIG_DFL)
    return exits.OK if program.guarded(lambda: listed(home, qread)) == exits.OK else exits.EX_TEMPFAIL


def listed(home, qread):
    """qread's list and how much there is, or why there is none."""
    try:
        count, size = qread.shown(home, [], qread.as_text)
        qread.put(totals(max(count, waiting(home)), count, size))
    except program.Fatal as trouble:
        program.complain(b'the queue cannot be listed: ' + trouble.text)
        return exits.TEMP
    return exits.OK


def waiting(home):
    """How many messages wait, of everybody; 0 if send cannot be asked: then what was listed is all."""
    from qpy.lib import sendctl
    try:
        return int(dict(record.split(b'\t')[:2] for record in sendctl.ask(home, b'stat'))[b'messages'])
    except (sendctl.Refused, unix.error):
        return 0


def totals(all_of_them, count, size):
    """The last lines, one as Sendmail writes it and one as Postfix does: monitors read the number."""
    if not all_of_them:
        return b'Mail queue is empty\n'
    return b'%sTotal Requests: %d\n-- %s%d Kbytes in %d Request%s.\n' % (
        b' ' * 16, all_of_them, b'at least ' if count < all_of_them else b'', -(-size // 1024), all_of_them,
        b'' if all_of_them == 1 else b's')


def run_queue(home, plan):
    """-q, runq: ask send for an immediate run.  Exit 0 for everybody, also when it was asked a moment ago."""
    program.guarded(lambda: ask_for_run(home, plan.node))
    return exits.OK


def ask_for_run(home, node):
    """node: a domain; where it is none of control/etrn, or was asked for a moment ago, everything is tried."""
    from qpy.lib import owner, sendctl
    owner.become(home)
    try:
        if not (node and tried(sendctl, home, node)):
            list(sendctl.ask(home, b'run'))
    except sendctl.Refused as refused:
        program.warn(refused.args[0])
    except unix.error as problem:
        program.warn(sendctl.trouble(problem))


def tried(sendctl, home, node):
    """Does send try what waits for this domain alone?"""
    try:
        return list(sendctl.ask(home, b'etrn', node))[0].isdigit()
    except sendctl.Refused:
        return False


def aliases(home, plan):
    """-bi, newaliases: make users/aliases.cdb of /etc/aliases."""
    from qpy.user import aliases as files
    try:
        return files.rebuild(home)
    except unix.error as problem:
        program.complain(b'fatal: unable to read aliases: ' + program.reason(problem))
        return exits.EX_TEMPFAIL


def verify(home, plan):
    """-bv, -bt: where each operand goes, and why.  0: all can be delivered; 1: one cannot; 75: cannot be said.

    -bt without operands reads standard input, and may be asked nothing."""
    from qpy.core import aliasvalue, smtproutes
    from qpy.lib import controls, route, users
    unix.signal(unix.SIGPIPE, unix.SIG_DFL)
    hosts, tables, lookup = injection.settings(home), route.load(home), users.Lookup(home)
    sender = inject.sender_argument(plan.sender, hosts) if plan.sender else b''
    relays = [controls.mapping_lines(home, name) for name in (b'senderroutes', b'smtproutes')]
    own = (b'.qmail', b'.forward') if controls.line(home, b'dotforward') == b'yes' else (b'.qmail',)
    verdicts, asks = set(), plan.mode == sendmail_args.TEST and not plan.operands
    for word in typed() if asks else plan.operands:
        for address in operand(word, hosts, verdicts):
            way = lookup.resolve(address, tables, own)
            if way.route.channel == b'remote':
                good, words = smtproutes.explained(sender, way.route.domain, *relays)
                way.verdict, way.reason = way.verdict if good else b'temp', way.reason + b'; ' + words
            elif way.file == users.ALIASES:
                way.reason += b': ' + aliasvalue.shown(lookup.aliased(way.user)[1])
            verdicts.add(way.verdict)
            unix.write_all(1, describe(address, way))
    if not verdicts and not asks:
        raise sendmail_args.UsageError(b'no address; name those to look up')
    return 1 if b'no' in verdicts else exits.EX_TEMPFAIL if b'temp' in verdicts else exits.OK


def typed():
    """The last word of each line of standard input: in Sendmail's test mode `3,0 joe` asks about joe."""
    rest, data = b'', b'\n'
    while data:
        try:
            data = unix.read(0, injection.PIECE)
        except unix.error as problem:
            raise injection.ReadError(problem) from problem
        *lines, rest = (rest + (data or b'\n')).split(b'\n')
        for line in lines:
            if line[:1] != b'#':
                yield from line.split()[-1:]


def operand(word, hosts, verdicts):
    """The addresses in one operand; one that has no meaning is undeliverable."""
    try:
        return inject.listed(word, hosts)
    except inject.Refused as refused:
        verdicts.add(b'no')
        unix.write_all(1, b'%s ... undeliverable: %s\n' % (text.printable(word), refused.why))
        return []


SAID = {b'yes': b'deliverable', b'no': b'undeliverable', b'temp': b'not to be said now',
        b'unknown': b'probably deliverable'}


def describe(address, way):
    """One line about one address: the verdict, the channel, the reasons."""
    return text.printable(b'%s ... %s, %s: %s' % (address, SAID[way.verdict], way.route.channel, way.reason)) + b'\n'


def nothing(home, plan):
    return exits.OK


def version(home, plan):
    unix.write_all(1, VERSION + b'\n')
    return exits.OK


def usage(home, plan):
    code = program.helped(program.name)
    return program.helped(b'sendmail') if code is None else code


MODES = {sendmail_args.DELIVER: deliver, sendmail_args.RMAIL: rmail, sendmail_args.SMTP: smtp,
         sendmail_args.LIST_QUEUE: list_queue, sendmail_args.ALIASES: aliases, sendmail_args.VERIFY: verify,
         sendmail_args.TEST: verify, sendmail_args.RUN_QUEUE: run_queue, sendmail_args.NOTHING: nothing,
         sendmail_args.VERSION: version, sendmail_args.HELP: usage}
