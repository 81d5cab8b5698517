"""Lines for syslog, as splogger writes them.

    text in:    warning: disk is full
    out:        (WARNING, b'1764036974.000001 warning: disk is full')

A line longer than PIECE goes on in further messages, which have the first one's time and a `+` in place of
the blank.
"""

from qpy.core import sendlog

PIECE = 799                 # bytes of one message's text
ALERT, WARNING, INFO = 1, 4, 6
OURS, LETTERS = b'qpy-', b'abcdefghijklmnopqrstuvwxyz0123456789-'
LEVELS = ((b'warning:', WARNING), (b'alert:', ALERT))
_SAFE = bytes(c if 32 <= c <= 126 else ord('?') for c in range(256))
_MONTHS = (b'Jan', b'Feb', b'Mar', b'Apr', b'May', b'Jun', b'Jul', b'Aug', b'Sep', b'Oct', b'Nov', b'Dec')


class Lines:
    """Bytes in, messages out: feed(data, now) and, at the end of the input, end(now); now: seconds, a
    float."""

    __slots__ = ('rest', 'head', 'level')

    def __init__(self):
        self.rest, self.head, self.level = b'', b'', INFO       # head: of a line that goes on

    def feed(self, data, now):
        """[(level, text)] of what is complete."""
        *lines, self.rest = (self.rest + data).split(b'\n')
        found = [message for line in lines for message in self.line(line, now, True)]
        if len(self.rest) > PIECE:
            keep = len(self.rest) % PIECE
            found += self.line(self.rest[:len(self.rest) - keep], now, False)
            self.rest = self.rest[len(self.rest) - keep:]
        return found

    def end(self, now):
        """A last line without newline counts too."""
        rest, self.rest = self.rest, b''
        return self.line(rest, now, True)

    def line(self, text, now, complete):
        """The messages of one line, or of its beginning."""
        found = []
        while text:
            if not self.head:
                self.level = next((level for word, level in LEVELS if text.startswith(word)), INFO)
                self.head = b'%d.%06d' % divmod(int(now * 1000000), 1000000)
                found.append((self.level, self.head + b' ' + text[:PIECE].translate(_SAFE)))
            else:
                found.append((self.level, self.head + b'+' + text[:PIECE].translate(_SAFE)))
            text = text[PIECE:]
        if complete:
            self.head = b''
        return found


def tag_of(text, tag, before):
    """Whose line a message is: that of a program of qpy that names itself, as `qpy-smtpd: ` or `qpy-smtpd[submission]: `,
    qpy-send's if it is one of those that qmail-send has not, else `tag`; a line that goes on is whose its beginning was
    (before).  So readers of qmail-send's lines see those alone."""
    head, blank, rest = text.partition(b' ')
    if not blank or b'+' in head:
        return before
    words = rest.split(b' ', 2)
    if words[0] in sendlog.OF_OURS and len(words) == 3 and (words[1] == b'msg' or words[1][-1:] == b':'):
        return b'qpy-send'
    name, colon, _ = rest.partition(b': ')
    if name[-1:] == b']':
        name = name.partition(b'[')[0]
    named = colon and name.startswith(OURS) and not name[len(OURS):].translate(None, LETTERS)
    return name if named and len(name) > len(OURS) else tag


def packet(facility, level, tag, text, t):
    """One datagram for /dev/log (RFC 3164 section 4.1); t: broken-down local time."""
    head = facility << 3 | level, _MONTHS[t[1] - 1], t[2], t[3], t[4], t[5]
    return b'<%d>%s %2d %02d:%02d:%02d ' % head + tag + b': ' + text
