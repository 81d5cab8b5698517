"""qpy-inject, as the caller: completes the message on descriptor 0 and queues it.

qpy-inject [-nNaAhH] [-f sender] [recipient ...]     exit 0 queued, 100 never, 111 try again; reasons on 2
"""
from qpy import unix
from qpy.core import exits, inject
from qpy.lib import program
from qpy.user import injection

USAGE = b'usage: qpy-inject [-nNaAhH] [-f sender] [recipient ...]'

DEFAULT, ARGUMENTS, HEADER, BOTH = b'A', b'a', b'h', b'H'
PLACES = {ARGUMENTS: b'the arguments', HEADER: b'the header', BOTH: b'the arguments or the header'}


class Usage(Exception):
    """The command line cannot be understood."""


def main(home, args):
    injection.settle_descriptors()
    return run(home, args)


def run(home, args):
    """All of main that does not touch descriptors it has not opened."""
    return guarded(lambda: inject_message(home, *parse(args)))


def guarded(work):
    """work()'s exit code; what can be foreseen to fail becomes 100 or 111 and one line."""
    injection.quiet_signals()
    try:
        return injection.explained(work, exits.PERM, exits.TEMP)
    except Usage:
        program.complain(USAGE)
        return exits.PERM


def parse(args):
    """(where recipients come from, whether to queue, -f's word or None, recipients) of a command line."""
    source, queue, sender, at = DEFAULT, True, None, 0
    while at < len(args) and args[at][:1] == b'-' and args[at] != b'-':
        word, at = args[at][1:], at + 1
        if word == b'-':
            break
        while word:
            letter, word = word[:1], word[1:]
            if letter in (DEFAULT, ARGUMENTS, HEADER, BOTH):
                source = letter
            elif letter in (b'n', b'N'):
                queue = letter == b'N'
            elif letter == b'f' and (word or at < len(args)):
                sender, word, at = (word, b'', at) if word else (args[at], b'', at + 1)
            else:
                raise Usage
    return source, queue, sender, args[at:]


def inject_message(home, source, to_queue, sender, recipients, first=b''):
    """The job; returns the exit code.  first: bytes that stand before the message on descriptor 0."""
    if source == DEFAULT:
        source = ARGUMENTS if recipients else HEADER
    hosts = injection.settings(home)
    if sender is not None:
        sender = b'' if sender in (b'', b'<>') else inject.envelope_form(bare(sender), hosts)
    wanted = [inject.envelope_form(each, hosts) for each in recipients if each] if source != HEADER else []
    composer = inject.Composer(hosts, inject.identity(unix.environ, injection.login, True),
                               unix.environ.get(b'QMAILINJECT', b''), sender, strict=True,
                               wants_recipients=source != ARGUMENTS, list_addresses=injection.list_addresses())
    message = injection.Message(first=first)
    for field in message.read_header():
        composer.add(field)
    new_header = composer.finish(int(unix.time()), unix.getpid(), unix.urandom(6).hex().encode())
    if source != ARGUMENTS:
        wanted += composer.header_recipients()
    if not to_queue:
        return show(message, composer.sender, new_header)
    if not wanted:                          # qmail's discards the message
        raise inject.Refused(b'no recipients in ' + PLACES[source])
    code, answer = injection.queue(home, message, new_header, composer.sender, wanted)
    return exits.OK if code == 0 else fail(code, answer)


def bare(address):
    """<address> without its brackets."""
    return address[1:-1] if address[:1] == b'<' and address[-1:] == b'>' else address


def show(message, sender, new_header):
    """-n: the message on descriptor 1."""
    unix.signal(unix.SIGPIPE, unix.SIG_DFL)
    message.write(inject.return_path(sender) + new_header, lambda data: unix.write_all(1, data))
    return exits.OK


def fail(code, answer):
    """Say why the queue did not take it."""
    for_ever, words = injection.failure(code, answer)
    program.complain(b'fatal: ' + words)
    return exits.PERM if for_ever else exits.TEMP
