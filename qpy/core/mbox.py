"""mbox: where one message ends and the next begins, in the form called mboxrd.

Each message is a From_ line, the message, a newline if its last line lacks one, and one empty line.  A line of the
message that is any number of `>` and then `From ` gets one more `>`, so that a reader can take it off again.
"""

_MARK = b'From '
_STARTS = (b'From', b'Fro', b'Fr', b'F')


class Quoter:
    """Quotes a message as it streams by: feed() every portion, then end(); memory does not grow with line length.

    The `>` is put right before `From `, which makes the same line as putting it in front.
    """

    __slots__ = ('held', 'fresh', 'whole_line')

    def __init__(self):
        self.held = b''             # the beginning of a `From ` that may go on in the next portion
        self.fresh = True           # what comes next stands at the start of a line, or after only `>` there
        self.whole_line = True      # the last byte passed on was a newline

    def feed(self, data):
        """The bytes to write for this portion."""
        data = self.held + data
        keep = next((len(start) for start in _STARTS if data.endswith(start)), 0)
        self.held, data = (data[-keep:], data[:-keep]) if keep else (b'', data)
        if not data:
            return b''
        quoted = self._quote(data) if _MARK in data else data
        run = data.rstrip(b'>')
        self.fresh = run[-1:] == b'\n' if run else self.fresh
        self.whole_line = data[-1:] == b'\n'
        return quoted

    def _quote(self, data):
        pieces, done, i = [], 0, data.find(_MARK)
        while i >= 0:
            before = data[done:i].rstrip(b'>')
            if before[-1:] == b'\n' or not before and (self.fresh if done == 0 else False):
                pieces.append(data[done:i])
                pieces.append(b'>')
            else:
                pieces.append(data[done:i])
            pieces.append(_MARK)
            done = i + len(_MARK)
            i = data.find(_MARK, done)
        pieces.append(data[done:])
        return b''.join(pieces)

    def end(self):
        """What is still to be written: the rest, the missing newline, the empty line."""
        rest, self.held = self.held, b''
        return rest + (b'\n' if self.whole_line and not rest else b'\n\n')


def fresh_start(tail):
    """What must precede a new message after the last bytes (two or more) of the file, b'' for an empty file.

    A file that does not end in an empty line was left by a writer that died: the next message must not become part
    of that one.
    """
    if not tail or tail[-2:] == b'\n\n':
        return b''
    return b'\n' if tail[-1:] == b'\n' else b'\n\n'
