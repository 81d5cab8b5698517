"""qpy-splogger, as qpyl: sends the lines on descriptor 0 to syslog.

    splogger [tag [facility]]       facility: its number, 2 (mail) by default
    exit    0 at the end of the input; 100 wrong use

syslog that is not there, or full, loses lines: it never stops who writes them.
"""
from qpy import unix
from qpy.core import exits, syslines, text
from qpy.lib import program

SOCKET = b'/dev/log'
MAIL = 2
MOST_FACILITY = 23


def main(home, args):
    """Line after line."""
    program.name = b'splogger'
    facility = text.parse_uint(args[1], MOST_FACILITY) if len(args) > 1 else MAIL
    if len(args) > 2 or facility is None:
        raise program.Fatal(exits.PERM, b'usage: splogger [tag [facility]]')
    tag = args[0] if args else b'splogger'
    lines, log = syslines.Lines(), Log(tag, facility)
    while data := unix.read(0, 65536):
        log.send(lines.feed(data, unix.time()))
    log.send(lines.end(unix.time()))
    if log.lost:
        program.warn(b'syslog would not take %d lines' % log.lost)
    return exits.OK


class Log:
    """The way to syslog, connected anew after it was restarted."""

    __slots__ = ('tag', 'facility', 'sock', 'lost', 'whose')

    def __init__(self, tag, facility):
        self.tag, self.facility, self.sock, self.lost, self.whose = tag, facility, None, 0, tag

    def send(self, messages):
        """Each [(level, text)]."""
        for level, words in messages:
            there, _ = unix.localtime(unix.time())
            self.whose = syslines.tag_of(words, self.tag, self.whose)
            data = syslines.packet(self.facility, level, self.whose, words, there)
            if not self.put(data) and not self.put(data):
                self.lost += 1

    def put(self, data):
        """One datagram; False if it did not go, and the next try connects anew."""
        try:
            if self.sock is None:
                self.sock = unix.socket_unix(unix.SOCK_DGRAM, blocking=True)
                self.sock.settimeout(1)
                self.sock.connect(SOCKET)
            self.sock.send(data, unix.MSG_NOSIGNAL)
            return True
        except unix.error:
            if self.sock is not None:
                self.sock.close()
            self.sock = None
            return False
