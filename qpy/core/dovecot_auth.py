"""The client's side of Dovecot's authentication protocol, version 1 (https://doc.dovecot.org, auth client protocol).

    session = Session(pid);  session.output() -> bytes to write first
    session.receive(data) -> [(READY, [mechanisms]), (OK, id, {key: value}), (FAIL, id, {...}), (MORE, id, base64)]
    session.ask(id, mechanism, {key: value}, base64 or None), session.go_on(id, base64), session.cancel(id) -> bytes

ValueError: the other side is not Dovecot.
"""
READY, OK, FAIL, MORE = 'ready', 'ok', 'fail', 'more'
LINE_MAX = 16384
BAD = b'\t\n\r\0'


class Session:
    """One connection."""

    __slots__ = ('pid', 'data', 'mechanisms', 'ready')

    def __init__(self, pid):
        self.pid, self.data, self.mechanisms, self.ready = pid, b'', [], False

    def output(self):
        """Who we are."""
        return b'VERSION\t1\t1\nCPID\t%d\n' % self.pid

    def receive(self, data):
        """Events."""
        *lines, self.data = (self.data + data).split(b'\n')
        if len(self.data) > LINE_MAX:
            raise ValueError('a line without end')
        return [event for event in map(self.line, lines) if event]

    def line(self, line):
        """The event of one line, or None."""
        word, *fields = line.split(b'\t')
        if word == b'VERSION' and fields[:1] != [b'1']:
            raise ValueError('another version')
        if word == b'MECH' and fields:
            self.mechanisms.append(fields[0])
        if word == b'DONE':
            self.ready = True
            return READY, self.mechanisms
        if word in (b'OK', b'FAIL') and fields:
            return OK if word == b'OK' else FAIL, fields[0], values(fields[1:])
        if word == b'CONT' and fields:
            return MORE, fields[0], fields[1] if len(fields) > 1 else b''
        return None

    def ask(self, number, mechanism, known, response):
        """Begin a login.  known: {service, rip, ...}, a value None for a word that stands alone."""
        words = [name if value is None else name + b'=' + clean(value) for name, value in known.items()]
        words += [] if response is None else [b'resp=' + clean(response)]
        return b'\t'.join([b'AUTH', number, mechanism, *words]) + b'\n'

    def go_on(self, number, response):
        """The client's next message."""
        return b'CONT\t%s\t%s\n' % (number, clean(response))

    def cancel(self, number):
        """The client has gone."""
        return b'CANCEL\t%s\n' % number


def values(fields):
    """{key: value}"""
    return {name: value for name, _, value in (field.partition(b'=') for field in fields)}


def clean(value):
    """Nothing that ends a field."""
    return value.translate(None, BAD)
