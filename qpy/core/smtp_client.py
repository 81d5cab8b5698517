"""The client's side of an SMTP or LMTP session, without a socket: RFC 5321, 2033, and where announced
1870, 2852, 2920, 3207, 3461, 4954, 6152, 6531, 8689, 9422.

    session = Session(b'192.0.2.1', b'mail.example.org')
    session.begin(Transaction(sender, recipients))      at once, or whenever session.idle
    session.feed(bytes from the server), session.eof(), session.lost(reason)
    session.take() -> bytes for the server
    while session.wants_body: session.body(chunk) ...; session.body_end()
    session.transaction is None again when the transaction has its results
    if session.wants_tls: shake hands, then session.secured(words) or session.insecure(why)

What a reply means is decided in one place (`permanent`): only what is on the closed list there is for ever,
anything odd is for now.  After an odd reply the session is over, because nobody knows which reply answers
what.
"""
from _collections import deque

from qpy.core import address, channel_binding, deliverby, idna, notices, remote_report, sasl_client, seven_bit, text
from qpy.core.tls_policy import NONE, OPPORTUNISTIC

LINE_LIMIT = 4096       # bytes of one reply line
LINES_LIMIT = 100       # lines of one reply
REPLY_LIMIT = 65536     # bytes of one reply
LIMIT_MOST = 10 ** 6    # of what a server may announce as a limit (RFC 9422)

GREETING, EHLO, HELO, HANDSHAKE, LOGIN, READY, ENVELOPE, BODY, DOT, OVER = range(10)


class BadReply(ValueError):
    """The server sent what is no SMTP reply, or too much of it."""


class ReplyReader:
    """Replies out of bytes: feed(data) -> [(code, text)], the text being all its lines joined by LF."""

    __slots__ = ('buffer', 'lines', 'size')

    def __init__(self):
        self.buffer, self.lines, self.size = b'', [], 0

    def feed(self, data):
        """The replies that are complete now; BadReply if a limit or the grammar is broken (R-13)."""
        *lines, self.buffer = (self.buffer + data).split(b'\n')
        replies = []
        for line in lines:
            self._line(line, replies)
        if len(self.buffer) > LINE_LIMIT:
            raise BadReply('a line of its reply is too long')
        return replies

    @property
    def empty(self):
        """True if no reply has begun."""
        return not self.buffer and not self.lines

    def _line(self, line, replies):
        line = line[:-1] if line.endswith(b'\r') else line
        self.size += len(line) + 2
        if len(line) > LINE_LIMIT or self.size > REPLY_LIMIT or len(self.lines) == LINES_LIMIT:
            raise BadReply('its reply is too long')
        if not is_reply_line(line) or self.lines and line[:3] != self.lines[0][:3]:
            raise BadReply('what it said is no SMTP reply')
        self.lines.append(line)
        if line[3:4] != b'-':
            replies.append((int(line[:3]), b'\n'.join(self.lines)))
            self.lines, self.size = [], 0


def is_reply_line(line):
    """RFC 5321, section 4.2: three digits, the first 2 to 5, then a blank, a hyphen or the end; no NUL."""
    code = line[:3]
    return (len(code) == 3 and not code.strip(b'0123456789') and 50 <= code[0] <= 53 and line[3:4] in b' -'
            and b'\0' not in line)


def permanent(code, command):
    """True if this reply to this command settles the matter for good: the closed list.

    Every 5xx but: 503 (the wrong command at this point: one of us has lost count), 530 (log in first, or use
    TLS first: about us, and an administrator can mend it), and 552 to RCPT (RFC 5321, 4.5.3.1.10: too many
    recipients, to be treated as 452).
    """
    return 500 <= code <= 599 and code not in (503, 530) and not (code == 552 and command == b'RCPT')


class Transaction:
    """One message to some recipients at one host, and what became of it.

    eight, utf8: the message needs 8BITMIME (without, what can be is converted), SMTPUTF8: b'header' by its header, b'names' by its
    addresses alone, whose domains have another form; b'' not at all.
    required: it needs REQUIRETLS (refused without).
    notices: (parameters of MAIL, [parameters of RCPT]) for a server that knows DSN (RFC 3461), or None.
    noticed: the server has them.
    by: (deliverby.By, seconds left) or None; timed: the server has that.  priority: see core.priority.
    size: bytes, 0 unknown.
    answers: per recipient (r, h or s, text) or None.  report: (K, Z or D, text), None while it lasts.
    trouble: the host as a whole failed before it could have the message, another address may be tried.
    critical: the message was sent to its end and its acceptance is not known.
    overflow: indices of recipients refused as too many after others were accepted (RFC 5321, 4.5.3.1.10).
    """

    __slots__ = ('sender', 'recipients', 'eight', 'utf8', 'size', 'required', 'notices', 'answers', 'report', 'trouble',
                 'critical', 'overflow', 'noticed', 'by', 'timed', 'priority')

    def __init__(self, sender, recipients, eight=False, utf8=b'', size=0, required=False,
                 notices=None, by=None, priority=0):
        self.sender, self.recipients = sender, recipients
        self.eight, self.utf8, self.size, self.required = eight, utf8, size, required
        self.notices, self.by, self.priority = notices, by, priority
        self.answers = [None] * len(recipients)
        self.report = None
        self.trouble = self.critical = self.noticed = self.timed = False
        self.overflow = []


class Session:
    """One connection to one server.  peer: its address, for reports.  pipelining False: one at a time.

    lmtp: RFC 2033.  policy: a tls_policy.Policy.  login: sasl_client.Credentials or None.  stale: its token was
    refused.  tls: b'' or what protects this connection, in words; tls_wrong: why nothing does, though it was wanted.
    tls_trouble: it is over because TLS could not be had.
    """

    __slots__ = ('peer', 'helo', 'pipelining', 'lmtp', 'policy', 'login', 'reader', 'out', 'phase', 'extensions',
                 'transaction', 'steps', 'waiting', 'encoder', 'dirty', 'pending', 'replies', 'transactions', 'batched',
                 'confused', 'tls', 'tls_trouble', 'exchange', 'kept', 'stale',
                 'tls_wrong', 'last', 'converter')

    def __init__(self, peer, helo, pipelining=True, lmtp=False, policy=OPPORTUNISTIC, login=None):
        self.peer, self.helo, self.pipelining = peer, helo, pipelining
        self.lmtp, self.policy, self.login = lmtp, policy, login
        self.tls, self.tls_trouble, self.exchange, self.kept, self.stale = b'', False, None, b'', False
        self.tls_wrong, self.last = b'', 0      # last: index of the last recipient that is asked for
        self.reader = ReplyReader()
        self.out = []
        self.phase = GREETING
        self.extensions = {}        # keyword: parameters
        self.transaction = None
        self.steps = deque()        # (command, recipient's index, bytes) still to be sent
        self.waiting = deque([(b'greeting', 0)])    # sent and not answered
        self.encoder = self.converter = None
        self.dirty = False          # RSET before the next transaction
        self.pending = None         # the report of a transaction whose replies are still coming in
        self.replies = 0            # seen in the transaction: 0 on a used connection means it was stale
        self.transactions = 0
        self.batched = False        # several commands were on their way at once
        self.confused = False       # ... and the server answered that one of them was out of order

    # --- what the driver asks ---

    @property
    def idle(self):
        """True when a new transaction may begin on this connection."""
        most = self._limit(b'MAILMAX')
        return self.phase == READY and self.transaction is None and not (most and self.transactions >= most)

    @property
    def over(self):
        """True when this connection is of no more use and must be closed."""
        return self.phase == OVER

    @property
    def wants_body(self):
        """True while the server waits for (more of) the message."""
        return self.phase == BODY

    @property
    def wants_tls(self):
        """True when the next byte to the server must be the first of a TLS handshake."""
        return self.phase == HANDSHAKE

    def take(self):
        """What is to be sent to the server now."""
        if not self.out:
            return b''
        data = b''.join(self.out)
        self.out.clear()
        return data

    # --- what the driver says ---

    def secured(self, words, chain=()):
        """TLS stands, from the beginning of the connection or after STARTTLS: then all that was said before it is
        forgotten (RFC 3207, section 4.2).  chain: the server's certificates (DER), its own first."""
        self.tls = words
        if self.login is not None and chain:
            self.login.end_point = channel_binding.end_point(chain[0])
        if self.phase == HANDSHAKE:
            self.extensions, self.reader = {}, ReplyReader()
            self._hello()

    def insecure(self, reason):
        """TLS could not be had: the handshake failed."""
        self.tls_trouble, self.tls_wrong = True, reason
        self._give_up(remote_report.no_tls(self.peer, reason, self.policy.why))

    def begin(self, transaction):
        """Do this transaction, as soon as the session is ready for it."""
        self.transaction, self.pending, self.replies, self.batched = transaction, None, 0, False
        if self.phase == READY:
            self._start()

    def feed(self, data):
        """The server sent data (not empty)."""
        try:
            replies = self.reader.feed(data)
        except BadReply as problem:
            return self.lost(str(problem).encode())
        for place, (code, reply) in enumerate(replies, 1):
            if self.phase == OVER:
                return None
            self._reply(code, reply)
            if self.phase == HANDSHAKE and (place < len(replies) or not self.reader.empty):
                return self.lost(b'It said more before TLS had begun')      # whose words are they?
        return None

    def eof(self):
        """The server closed the connection."""
        self.lost(b'')

    def lost(self, reason):
        """The connection is, or must be, given up: reset, timed out, or out of step."""
        transaction, phase, self.phase = self.transaction, self.phase, OVER
        self.tls_trouble |= phase == HANDSHAKE or any(command == b'STARTTLS' for command, _ in self.waiting)
        if self.tls_trouble and not self.tls_wrong:
            self.tls_wrong = reason or b'it closed the connection'
        if transaction is not None and phase != OVER:
            transaction.critical = phase == DOT
            transaction.trouble = phase != DOT and self.pending is None
            self._break(remote_report.died(self.peer, phase == DOT, reason))

    def abandon(self, letter, reason):
        """End the transaction with this report for a reason of our own; the connection is not used again."""
        self.phase = OVER
        if self.transaction is not None:
            self._finish((letter, reason))

    def quit(self):
        """Say good-bye; the answer is not waited for."""
        if self.phase == READY:
            self.out.append(b'QUIT\r\n')
        self.phase = OVER

    def body(self, chunk):
        """The next piece of the message, as stored (lines ended by LF)."""
        try:
            self.out.append(self.encoder.feed(self.converter.feed(chunk) if self.converter else chunk))
        except seven_bit.Sealed:
            self._sealed()

    def body_end(self):
        """The message is complete: from here on the server may have it."""
        try:
            if self.converter:
                self.out.append(self.encoder.feed(self.converter.finish()))
        except seven_bit.Sealed:
            return self._sealed()
        self.out.append(self.encoder.finish())
        self.phase = DOT
        if not self.lmtp:
            return self.waiting.append((b'dot', 0))
        answers = self.transaction.answers      # RFC 2033, 4.2: a reply for each recipient that was accepted
        return self.waiting.extend((b'each dot', i) for i, answer in enumerate(answers) if answer[0] == b'r')

    def _sealed(self):
        """RFC 6152, section 3: it cannot be sent there; its end is not said, and another server of the domain may do."""
        self.transaction.trouble = True
        self.abandon(b'D', remote_report.no_eight_bit(self.peer))

    # --- replies ---

    def _reply(self, code, reply):
        if code == 421:                             # RFC 5321, 3.8: it is closing down, whatever was asked
            return self._closing(code, reply)
        if not self.waiting:
            if self.phase == BODY and code >= 400:      # it does not want to hear the rest
                self.phase = OVER
                return self._finish(self._refused(code, reply, b'dot'))
            return self.lost(b'It answered more than it was asked')
        command, index = self.waiting.popleft()
        self.replies += 1
        self.confused |= code == 503 and self.batched and self.pending is None
        _ANSWERS[command](self, code, reply, index)
        return None

    def _closing(self, code, reply):
        sentence = _SENTENCES.get(self.waiting[0][0] if self.waiting else b'', _SENTENCES[b'closed'])
        self.phase, phase = OVER, self.phase
        if self.transaction is not None:
            self.transaction.trouble = self.pending is None and not (phase == DOT and self.lmtp)
            self._break(self._about(sentence, reply))

    def _break(self, text):
        """The connection ends in the middle: nothing is known about who has no reply yet."""
        if self.kept:                       # LMTP, and somebody has it
            for command, index in self.waiting:
                if command == b'each dot':
                    self.transaction.answers[index] = b's', text
            return self._finish((b'K', self._about(_SENTENCES[b'accepted'], self.kept)))
        return self._finish(self.pending or (b'Z', text))

    def _about(self, sentence, reply=b''):
        words = sentence % self.peer + b'.\n' + (remote_report.said(reply) if reply else b'')
        return words + self.tls + b'.\n' if self.tls and sentence == _SENTENCES[b'accepted'] else words

    def _refused(self, code, reply, command):
        """The report of a command that was refused."""
        letter = b'D' if permanent(code, command) else b'Z'
        return letter, self._about(_SENTENCES[command], reply)

    def _no_use(self, command, reply):
        """Greeting, name or login refused: for now, whatever the code, and perhaps another address will do."""
        self._give_up(self._about(_SENTENCES[command], reply))

    def _give_up(self, text):
        """This server is of no use, for now."""
        if self.phase != HANDSHAKE:
            self.out.append(b'QUIT\r\n')
        self.phase = OVER
        if self.transaction is not None:
            self.transaction.trouble = True
            self._finish((b'Z', text))

    def _greeting(self, code, reply, _):
        if code != 220:
            return self._no_use(b'greeting', reply)
        return self._hello()

    def _hello(self):
        self.phase = EHLO
        self._send(b'EHLO', b'%s %s\r\n' % (b'LHLO' if self.lmtp else b'EHLO', self.helo))

    def _ehlo(self, code, reply, _):
        if code == 250:
            self.extensions = parse_extensions(reply)
            return self._protect()
        if code >= 500 and not self.lmtp and not self.tls:
            self.phase = HELO
            return self._send(b'HELO', b'HELO %s\r\n' % self.helo)
        return self._no_use(b'EHLO', reply)

    def _helo(self, code, reply, _):
        return self._protect() if code == 250 else self._no_use(b'HELO', reply)

    # --- TLS and login ---

    def _protect(self):
        """TLS, where it is offered and nobody forbids it."""
        if self.tls or self.policy.level == NONE:
            return self._log_in()
        if b'STARTTLS' in self.extensions:
            return self._send(b'STARTTLS', b'STARTTLS\r\n')
        return self._unprotected(b'it does not offer STARTTLS')

    def _starttls(self, code, reply, _):
        if code == 220:
            self.phase = HANDSHAKE
            return None
        return self._unprotected(b'it refused STARTTLS', reply)

    def _unprotected(self, why, reply=b''):
        self.tls_wrong = why
        if not self.policy.must:
            return self._log_in()
        self.tls_trouble = True
        words = remote_report.no_tls(self.peer, why, self.policy.why)
        return self._give_up(words + (remote_report.said(reply) if reply else b''))

    def _log_in(self):
        if self.login is None:
            return self._ready()
        name = sasl_client.choose(self.extensions.get(b'AUTH', b''), bool(self.tls), self.login)
        if name is None:
            way = sasl_client.WAYS[sasl_client.needs(self.login)]
            return self._give_up(remote_report.no_login(self.peer, bool(self.tls), way))
        self.phase = LOGIN
        self.exchange = sasl_client.MECHANISMS[name](self.login)
        first = self.exchange.first()
        words = b'AUTH ' + name + (b' ' + sasl_client.encode(first) if first is not None else b'')
        return self._send(b'AUTH', words + b'\r\n')

    def _auth(self, code, reply, _):
        try:
            if code == 334:
                response = self.exchange.answer(sasl_client.decode(reply))
                return self._send(b'AUTH', (sasl_client.encode(response) if response else b'') + b'\r\n')
            if code == 235:
                self._last_proof(reply)
        except ValueError as problem:
            return self._give_up(remote_report.strange_login(self.peer, str(problem).encode()))
        exchange, self.exchange = self.exchange, None
        if code == 235:
            return self._ready()
        if isinstance(exchange, sasl_client.ScramPlus) and code // 100 == 5:
            self.login.end_point = b''      # it may want another binding than ours: without one, then
            return self._log_in()
        self.stale = exchange.NEEDS == sasl_client.TOKEN and code // 100 == 5
        return self._no_use(b'AUTH', reply)

    def _last_proof(self, reply):
        """The server said yes: did it prove what the mechanism wants proved?"""
        if not self.exchange.accepted():
            raise ValueError('the server gave no proof that it knows the password')

    def _rset(self, code, reply, _):
        return self._next() if code // 100 == 2 else self.lost(b'It refused RSET')

    def _mail(self, code, reply, _):
        if code // 100 == 2:
            return self._next()
        self.pending = self._refused(code, reply, b'MAIL')
        return self._drain()

    def _rcpt(self, code, reply, index):
        if code // 100 == 2:
            self.transaction.answers[index] = b'r', b''
        elif self.pending is None:          # after a refused MAIL this says nothing about the recipient
            letter = b'h' if permanent(code, b'RCPT') else b's'
            if code in (452, 552) and self._accepted():
                self.transaction.overflow.append(index)
            self.transaction.answers[index] = letter, self._about(b'%s does not like recipient', reply)
        if index == self.last and self.pending is None and not self._accepted():
            self.pending = b'D', self._about(b'Giving up on %s')
            return self._drain()
        return self._next()

    def _data(self, code, reply, _):
        if code // 100 == 3:
            return self._go_ahead()
        if self.pending is None:
            self.pending = self._refused(code, reply, b'DATA')
            if code // 100 == 2:            # "ok" instead of "go ahead": who knows what comes next
                self.phase = OVER
        return self._finish(self.pending)

    def _go_ahead(self):
        if self.pending is None:
            self.encoder = Encoder()
            if self.transaction.eight and b'8BITMIME' not in self.extensions:
                self.converter = seven_bit.Converter()      # RFC 6152, section 3
            self.phase = BODY
        elif self._accepted() or self.lmtp:     # refused the sender and takes recipients: let nobody get a stump
            self.phase = OVER
            self._finish(self.pending)
        else:                       # RFC 2920, section 3.1: nobody is to get it, a lone dot ends it
            self.out.append(b'.\r\n')
            self.waiting.append((b'dot', 0))

    def _dot(self, code, reply, _):
        if self.pending is not None:
            return self._finish(self.pending)
        self.dirty = False
        if code // 100 == 2:
            return self._finish((b'K', self._about(_SENTENCES[b'accepted'], reply)))
        return self._finish(self._refused(code, reply, b'dot'))

    def _each_dot(self, code, reply, index):
        """LMTP: what became of one recipient."""
        transaction = self.transaction
        if code // 100 == 2:
            self.kept = reply
        else:
            letter = b'h' if permanent(code, b'dot') else b's'
            transaction.answers[index] = letter, self._about(_SENTENCES[b'dot'], reply)
        if self.waiting:
            return None
        self.dirty = False
        kept, self.kept = self.kept, b''
        if kept:
            return self._finish((b'K', self._about(_SENTENCES[b'accepted'], kept)))
        return self._finish((b'D', self._about(b'Giving up on %s')))

    def _accepted(self):
        return any(answer is not None and answer[0] == b'r' for answer in self.transaction.answers)

    # --- the steps of a transaction ---

    def _send(self, command, line):
        self.waiting.append((command, 0))
        self.out.append(line)

    def _ready(self):
        self.phase = READY
        if self.transaction is not None:
            self._start()

    def _start(self):
        """Turn the transaction into steps and begin."""
        transaction = self.transaction
        refusal = self._impossible(transaction)
        if refusal is not None:
            return self._finish(refusal)
        self.phase = ENVELOPE
        self.transactions += 1
        if self.dirty:
            self.steps.append((b'RSET', 0, b'RSET\r\n'))
        self.dirty = True
        transaction.noticed = self._takes_notices(transaction)
        self.steps.append((b'MAIL', 0, self._mail_command(transaction)))
        wishes = transaction.notices[1] if transaction.noticed else [b''] * len(transaction.recipients)
        names = [self._name(recipient) for recipient in transaction.recipients]
        for i, name in enumerate(names):
            if name is None:
                transaction.answers[i] = b'h', remote_report.no_utf8(self.peer)
        transaction.overflow = self._too_many(names)
        for i in transaction.overflow:
            transaction.answers[i] = b's', remote_report.another_time(self.peer)
        self.steps.extend((b'RCPT', i, b'RCPT TO:<%s>%s\r\n' % (address.quote(name), wishes[i]))
                          for i, name in enumerate(names) if transaction.answers[i] is None)
        self.last = self.steps[-1][1]
        self.steps.append((b'DATA', 0, b'DATA\r\n'))
        return self._next()

    def _limit(self, name):
        """A limit that the server announces (RFC 9422); 0: none."""
        words = self.extensions.get(b'LIMITS')
        if not words:
            return 0
        found = dict(word.partition(b'=')[::2] for word in words.upper().split(b' '))
        return text.parse_uint(found.get(name, b''), LIMIT_MOST) or 0

    def _too_many(self, names):
        """The indices of recipients that do not fit into one transaction (RFC 9422, 4.2, 4.3)."""
        if b'LIMITS' not in self.extensions:
            return []
        most, domains = self._limit(b'RCPTMAX') or len(names), self._limit(b'RCPTDOMAINMAX') or len(names)
        taken, seen, left = 0, set(), []
        for i, name in enumerate(names):
            domain = name and text.lower(name.rpartition(b'@')[2])
            if name is not None and (taken >= most or domain not in seen and len(seen) >= domains):
                left.append(i)
            elif name is not None:
                taken += 1
                seen.add(domain)
        return left

    def _next(self):
        """Send the next step, or all of them where the server allows (RFC 2920)."""
        if not self.steps:
            return
        if self.pipelining and b'PIPELINING' in self.extensions:
            self.batched = True
            while self.steps:
                self._step()
        elif not self.waiting:
            self._step()

    def _step(self):
        command, index, line = self.steps.popleft()
        self.waiting.append((command, index))
        self.out.append(line)

    def _drain(self):
        """The transaction has failed: drop what was not sent, wait for the answers to what was."""
        self.steps.clear()
        if not self.waiting:
            self._finish(self.pending)

    def _finish(self, report):
        transaction, self.transaction = self.transaction, None
        self.pending, self.encoder, self.converter = None, None, None
        self.steps.clear()
        transaction.report = report
        if self.phase != OVER:
            self.phase = READY

    def _impossible(self, transaction):
        """The report for what this server cannot take, or None; said without asking it."""
        limit = text.parse_uint(self.extensions.get(b'SIZE', b''), 10 ** 18)
        if limit and transaction.size > limit:          # RFC 1870, section 6.1
            return b'D', remote_report.too_long(limit, self.peer)
        if transaction.utf8 and (self._name(transaction.sender) is None or not any(
                self._name(recipient) is not None for recipient in transaction.recipients)
                or transaction.utf8 == b'header' and b'SMTPUTF8' not in self.extensions):   # RFC 6531, section 3.2
            return b'D', remote_report.no_utf8(self.peer)
        if transaction.required and not self.lmtp and not (self.tls and b'REQUIRETLS' in self.extensions):
            transaction.trouble = True      # RFC 8689, 4.2.1: another server of the domain may do
            return b'D', remote_report.no_requiretls(self.peer)
        why = b'' if transaction.by is None or self.lmtp else deliverby.refusal(*transaction.by,
                                                                               self.extensions.get(b'DELIVERBY'))
        if why:
            transaction.trouble = True      # RFC 2852, section 4: as it is, and another server may do
            return b'D', remote_report.not_in_time(self.peer, why)
        return None

    def _name(self, mailbox):
        """An address as this server can hear it; None if it has no such form."""
        return mailbox if b'SMTPUTF8' in self.extensions else idna.address(mailbox)

    def _takes_notices(self, transaction):
        """RFC 3461, 5.2.1: a server that knows DSN gets the sender's wishes as they are."""
        return transaction.notices is not None and b'DSN' in self.extensions

    def _mail_command(self, transaction):
        options = b''
        if transaction.size and b'SIZE' in self.extensions:
            options += b' SIZE=%d' % transaction.size
        if (transaction.eight or transaction.utf8) and b'8BITMIME' in self.extensions:
            options += b' BODY=8BITMIME'
        if transaction.utf8 and b'SMTPUTF8' in self.extensions:
            options += b' SMTPUTF8'
        if transaction.required and b'REQUIRETLS' in self.extensions:
            options += b' REQUIRETLS'
        if transaction.by is not None and b'DELIVERBY' in self.extensions:
            transaction.timed = True
            options += deliverby.on_wire(*transaction.by)
        if transaction.priority and b'MT-PRIORITY' in self.extensions:      # RFC 6710
            options += b' MT-PRIORITY=%d' % transaction.priority
        if transaction.noticed:
            options += transaction.notices[0]
        return b'MAIL FROM:<%s>%s\r\n' % (address.quote(self._name(transaction.sender)), options)


_ANSWERS = {b'greeting': Session._greeting, b'EHLO': Session._ehlo, b'HELO': Session._helo,
            b'RSET': Session._rset, b'MAIL': Session._mail, b'RCPT': Session._rcpt, b'DATA': Session._data,
            b'dot': Session._dot, b'each dot': Session._each_dot, b'STARTTLS': Session._starttls,
            b'AUTH': Session._auth}

_SENTENCES = {
    b'greeting': b'Connected to %s but greeting failed',
    b'EHLO': b'Connected to %s but my name was rejected',
    b'HELO': b'Connected to %s but my name was rejected',
    b'STARTTLS': b'Connected to %s but it closed the connection',
    b'AUTH': b'Connected to %s but my login was rejected',
    b'MAIL': b'Connected to %s but sender was rejected',
    b'RCPT': b'%s does not like recipient',
    b'DATA': b'%s failed on DATA command',
    b'dot': b'%s failed after I sent the message',
    b'each dot': b'%s failed after I sent the message',
    b'closed': b'Connected to %s but it closed the connection',
    b'accepted': b'%s accepted message'}


def parse_extensions(reply):
    """{KEYWORD: parameters} of the answer to EHLO; bounded by the reader's limits."""
    found = {}
    for line in reply.split(b'\n')[1:]:
        keyword, _, parameters = line[4:].strip(b' ').partition(b' ')
        found[text.lower(keyword).upper()] = parameters
    return found


def notice_parameters(options, names):
    """The parameters ` NAME=VALUE` for records [(letter, value)] of an envelope; names: {letter: (NAME, limit)}.

    What could not stand in a command is left out."""
    written = ((letter, value if value.isascii() else notices.in_ascii(value)) for letter, value in options)
    return b''.join(b' %s=%s' % (names[letter][0], value) for letter, value in written
                    if letter in names and 0 < len(value) <= names[letter][1] and all(33 <= c <= 126 for c in value))


OF_MAIL = {b'R': (b'RET', 4), b'E': (b'ENVID', 100)}            # RFC 3461, 4.3, 4.4
OF_RCPT = {b'N': (b'NOTIFY', 28), b'O': (b'ORCPT', 500)}        # 4.1, 4.2


def can_be_sent(mailbox):
    """True if the address (canonical, unquoted) can stand in a command: no byte ends or splits it."""
    local, at, domain = mailbox.rpartition(b'@')
    if not at:
        local, domain = domain, b''
    return (len(mailbox) <= 1002 and len(mailbox.translate(None, _CONTROLS)) == len(mailbox)
            and len(domain.translate(None, b' <>"\\')) == len(domain))


_CONTROLS = bytes(range(32)) + b'\x7f'


class Encoder:
    """The message as the wire has it: every line end CR LF, lines that begin with a dot get one more.

    Line ends are LF, CR LF, and a CR alone (which nobody is allowed to send, RFC 5321 section 2.3.8: as it
    was let in, it is made what most readers take it for, dot-stuffing included).  A last line without its end
    gets one.
    """

    __slots__ = ('fresh', 'after_cr')

    def __init__(self):
        self.fresh = True           # at the beginning of a line
        self.after_cr = False       # the line ended with a CR: a LF now belongs to it

    def feed(self, chunk):
        """chunk, encoded."""
        if self.after_cr and chunk[:1] == b'\n':
            chunk, self.after_cr = chunk[1:], False
        if not chunk:
            return b''
        self.after_cr = chunk[-1:] == b'\r'
        if b'\r' in chunk:
            chunk = chunk.replace(b'\r\n', b'\n').replace(b'\r', b'\n')
        stuffed = b'.' if self.fresh and chunk[:1] == b'.' else b''
        self.fresh = chunk[-1:] == b'\n'
        if b'\n.' in chunk:
            chunk = chunk.replace(b'\n.', b'\n..')
        return stuffed + chunk.replace(b'\n', b'\r\n')

    def finish(self):
        """What ends the message, with the missing end of its last line."""
        return b'.\r\n' if self.fresh else b'\r\n.\r\n'
