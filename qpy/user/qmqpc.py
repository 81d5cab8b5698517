"""qpy-qmqpc, as its caller: qmail-queue's interface, and the queue is on another host, reached by QMQP.

    descriptors   0 the message, to its end; then 1 the envelope: Fsender NUL, (Trecipient NUL)*, NUL
    reads         control/qmqpservers: ADDRESS or ADDRESS:PORT, tried in order
    exit          0 that host has it; 31 it refuses, 71 not now; 73 no host takes a connection, 72 none
                  answers, 55 there is no usable list; 74 the connection was lost; 11 51 53 54 56 61 91 as
                  qpy-queue

It prints nothing.  Once a host has taken the connection no other one is tried: the first may have the
message.
"""
from qpy import unix
from qpy.core import dnsconf, exits, netstring, qmqp
from qpy.lib import controls, handed, program
from qpy.lib.handed import Stop

CONNECT = 10                # seconds for a connection
STEP = 60                   # seconds for each step of the conversation
CODES = {b'K': exits.OK, b'Z': exits.QQ_SERVER_TEMPORARY, b'D': exits.QQ_REFUSED}


def main(home, args):
    """The message, the envelope, a host, its answer."""
    def work():
        message = handed.message()
        addresses = addresses_of(handed.envelope())
        return converse(connect(servers(home)), message, addresses)
    return handed.run(work)


def addresses_of(records):
    """[sender, recipient, ...]: QMQP carries nothing else, so other records are dropped."""
    return [records[0][1:], *(record[1:] for record in records[1:] if record[:1] == b'T')]


def servers(home):
    """[(address, port)]; lines that are none are passed over."""
    found = []
    try:
        lines = controls.listing(home, b'qmqpservers') or []
    except program.Fatal:
        raise Stop(exits.QQ_CONFIGURATION) from None
    except unix.error:
        raise Stop(exits.QQ_HOME) from None
    for line in lines:
        try:
            found.append(dnsconf.parse_server(line, qmqp.PORT))
        except ValueError:
            pass
    if not found:
        raise Stop(exits.QQ_CONFIGURATION)
    return found


def connect(found):
    """A connection to the first server that takes one."""
    last = exits.QQ_CONNECT_REFUSED
    for address, port in found:
        family = unix.AF_INET6 if b':' in address else unix.AF_INET
        try:
            sock = unix.socket(family, unix.SOCK_STREAM | unix.SOCK_CLOEXEC)
        except unix.error:
            raise Stop(exits.QQ_NETWORK) from None
        try:
            sock.settimeout(CONNECT)
            sock.connect((address.decode('ascii'), port))
            return sock
        except unix.error as problem:
            late = isinstance(problem, TimeoutError) or problem.errno == unix.ETIMEDOUT
            last = exits.QQ_CONNECT_TIMEOUT if late else exits.QQ_CONNECT_REFUSED
            sock.close()
    raise Stop(last)


def converse(sock, message, addresses):
    """Send everything; the exit code that the answer stands for."""
    before, after = qmqp.head(message.size, addresses)
    content = message.content()
    try:
        sock.settimeout(STEP)
        sock.sendall(before)
        if isinstance(content, bytes):
            sock.sendall(content)
        else:
            while piece := handed.read(content):
                sock.sendall(piece)
        sock.sendall(after)
        return CODES.get(hear(sock)[:1], exits.QQ_CONNECTION_FAILED)
    except (unix.error, netstring.Malformed, netstring.TooMuch):
        return exits.QQ_CONNECTION_FAILED


def hear(sock):
    """The answer; OSError if it does not come."""
    answer = qmqp.Answer()
    while True:
        data = sock.recv(handed.PIECE)
        if not data:
            raise OSError(unix.EPIPE, 'no answer')
        words = answer.feed(data)
        if words is not None:
            return words
