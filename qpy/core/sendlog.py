"""The lines qpy-send writes: exactly qmail-send's, which parsers have read for thirty years (qpy-log.5).

Every function returns one line without its newline. name: the message's ID, 16 digits; number: the
delivery's. What qmail does not have stands in lines of their own with a first word qmail does not use
(trace, destination, notice, etrn).
"""
from qpy.core.text import logsafe

OF_OURS = (b'trace', b'destination', b'notice', b'etrn')
RESULTS = {b'K': b'success', b'D': b'failure', b'Z': b'deferral'}


def new(name):
    """A message was seen for the first time."""
    return b'new msg ' + name


def info(name, size, sender, qp, uid):
    """What it is: bytes, envelope sender as submitted, process and user that submitted it."""
    return b'info msg %s: bytes %d from <%s> qp %s uid %s' % (name, size, logsafe(sender), qp, uid)


def trace(name, trace_id):
    """The ID this message had before it came here, or was forwarded."""
    return b'trace msg %s: %s' % (name, logsafe(trace_id))


def starting(number, name, channel, recipient):
    """A delivery was handed to lspawn or rspawn."""
    return b'starting delivery %d: msg %s to %s %s' % (number, name, channel, logsafe(recipient))


def result(number, letter, text):
    """A delivery's report; a letter nobody knows is `mangled`."""
    word = RESULTS.get(letter)
    if word is None:
        return b'delivery %d: report mangled, will defer' % number
    return b'delivery %d: %s: %s' % (number, word, logsafe(text))


def status(local, local_limit, remote, remote_limit, exiting=False):
    """Deliveries in progress and how many there may be."""
    return b'status: local %d/%d remote %d/%d%s' % (local, local_limit, remote, remote_limit,
                                                    b' exitasap' if exiting else b'')


def bounce(name, qp):
    """A report on message `name` is in the queue; process qp put it there."""
    return b'bounce msg %s qp %s' % (name, qp)


def notice(name, qp, kind):
    """The same of a report that is none of failure: kind is success or delay."""
    return b'notice msg %s qp %s: %s' % (name, qp, kind)


def double_bounce(name):
    """A bounce could not be delivered and control/doublebounceto is empty."""
    return b'double bounce: discarding bounce/' + name


def triple_bounce(name):
    """A double bounce could not be delivered."""
    return b'triple bounce: discarding bounce/' + name


def left_alone(host, seconds, failures, reason):
    """Nothing is tried at this destination for so long."""
    return b'destination %s: left alone for %d seconds, failures in a row %d: %s' % (
        logsafe(host), seconds, failures, logsafe(reason))


def crowded(host, count, seconds, reason):
    """It turns away what is more than so many transactions at a time."""
    return b'destination %s: %d at a time for %d seconds, others are turned away: %s' % (
        logsafe(host), count, seconds, logsafe(reason))


def untried(host, name, count, given_up):
    """A message's recipients there are deferred, or given up, without being tried."""
    return b'destination %s: msg %s %s untried, recipients %d' % (
        logsafe(host), name, b'given up' if given_up else b'waits', count)


def recovered(host):
    """It answers again, or an administrator says so."""
    return b'destination %s: in order again' % logsafe(host)


def hurried(node, count, uid):
    """Somebody has asked for the mail that waits for a domain (ETRN): so many messages are tried now."""
    return b'etrn %s: messages tried out of turn %d, asked for by uid %d' % (logsafe(node), count, uid)


def end(name):
    """Every recipient is finished and every report is in the queue."""
    return b'end msg ' + name


EXITING = b'status: exiting'


def warning(text):
    """Something went wrong with one message; it will be tried again."""
    return b'warning: ' + text


def alert(text):
    """Something went wrong that stops mail."""
    return b'alert: ' + text
