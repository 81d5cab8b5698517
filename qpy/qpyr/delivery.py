"""One message to some recipients at one host: where to, in which order, and what is said about it at the end.

The way: control/senderroutes, else control/smtproutes, which may name several places, else a literal address, else
qpy-resolve; then one address after the other until one takes the message or refuses it.  A connection kept open to
the same place, as well protected as this delivery wants it, is used first.  Where TLS fails and nothing forbids it,
the same address is tried once more without.  Servers whose names are proved by DNS are asked for TLSA records.
Nothing is tried again after the message was sent to its end.
"""
from binascii import b2a_base64

from qpy import unix, unix_tls
from qpy.core import dane, deliverby, idna, ip, mta_sts, mx, outgoingip, priority, remote_report, smtproutes, text, tls_policy
from qpy.core import tls_certificate, tlsrpt
from qpy.core.sasl_client import Credentials
from qpy.core.smtp_client import OF_MAIL, OF_RCPT, Session, Transaction, can_be_sent, notice_parameters
from qpy.core.smtproutes import LMTP, SMTP, SMTPS, Hop
from qpy.qpyr import source as sources
from qpy.qpyr.connection import Connection, NoSource

ANEW = b'once more, with the authority that its TLSA records name'
MISMATCH = b'hostname mismatch: its certificate is for none of the names %s'
HURRIED = 15            # seconds for connecting to an address that is not the last: four SYNs, then the next one's turn
SESSIONS = 5            # servers spoken to for one delivery
SCARCE = (unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM)


class Delivery:
    """A delivery in flight.  worker: qpyr.remote.Remote.  flags: letters 8, u, q, d, b, m.

    on_end(delivery): `results` holds per recipient (answer or None, message report), both as core.smtp_client
    has them; `in_trouble` says that the destination as a whole failed, for everybody's mail.
    """

    __slots__ = ('worker', 'settings', 'host', 'sender', 'recipients', 'flags', 'aside', 'source', 'on_end', 'results',
                 'left', 'hops', 'hop', 'usual', 'policy', 'proved', 'ends', 'patterns', 'testing', 'todo', 'server', 'tried', 'sessions',
                 'connection', 'cap',
                 'expired', 'in_trouble', 'last_report', 'definite', 'noticed', 'timed', 'token', 'fresh')

    def __init__(self, worker, host, sender, recipients, flags, source, on_end):
        self.worker, self.settings = worker, worker.settings
        self.host, self.sender, self.recipients = idna.domain(host) or host, sender, recipients
        self.flags, self.source, self.on_end = flags, source, on_end
        self.aside = self.required                  # it is tried in a way that says nothing about other mail to this host
        self.results = [None] * len(recipients)
        self.left = list(range(len(recipients)))    # indices without a result
        self.todo = []                              # (preference, host, address), the next one last
        self.hops, self.hop = [], None
        self.usual = self.policy = None             # for all servers of the hop, and for the one spoken to
        self.proved, self.patterns = False, None    # that these are the servers was validated; MTA-STS
        self.ends = {}                              # servers whose addresses were, and what they are aliases of
        self.testing = False                        # ... of which is reported what it would forbid, and nothing forbidden
        self.server = b''                           # the name of the one spoken to
        self.tried = []                             # (address, reason)
        self.sessions = 0
        self.connection = None
        self.expired = self.in_trouble = False
        self.last_report = None
        self.noticed = set()                        # indices whose next hop knows what their sender wants to be told
        self.token, self.fresh = b'', False         # for a login; it is another one than the server has refused
        self.timed = set()                          # those whose next hop knows by when they want it
        self.definite = 0                           # sessions that ended in what time will not mend
        self.cap = None

    # --- where to ---

    def start(self):
        """Begin.  Ends by on_end in every case."""
        self.cap = self.worker.loop.after(self.settings.cap, self._expire)
        if not can_be_sent(self.sender):
            return self._all(b'D', remote_report.BAD_SENDER)
        for index in self.left:
            if not can_be_sent(self.recipients[index]):
                self.results[index] = (b'h', remote_report.BAD_ADDRESS), (b'D', b'')
        self.left = [index for index in self.left if self.results[index] is None]
        return self._find() if self.left else self._end()

    @property
    def required(self):
        """RFC 8689: it travels by TLS only."""
        return b'q' in self.flags

    def _find(self):
        """From the addresses to places to try."""
        tables = ((b'senderroutes', smtproutes.find_sender(self.sender, self.settings.senders)),
                  (b'smtproutes', smtproutes.find(self.host, self.settings.routes)))
        for file, found in tables:
            if found is not None:
                try:
                    self.hops = self.settings.hops(found[1])[::-1]
                except ValueError as problem:
                    return self._all(b'Z', remote_report.bad_entry(file, found[0], str(problem).encode()))
                break
        self.hops = self.hops or [Hop(SMTP, self.host, self.settings.port, relay=False)]
        return self._next_hop()

    def _next_hop(self):
        """From a place to addresses."""
        self.hop = hop = self.hops.pop()
        self.sessions = self.definite = 0
        try:
            self.usual = self.policy = self._policy(hop)
        except ValueError as problem:
            return self._no_more(remote_report.bad_entry(b'tlsdestinations', hop.host, str(problem).encode()))
        self.token, self.fresh = b'', False
        if hop.login and hop.account in self.settings.tokens:
            return self.worker.tokens.ask(b'K', hop.account, self._found_token)
        if hop.login and hop.account not in self.settings.logins:
            return self._no_more(remote_report.bad_entry(b'smtplogins', hop.account, b'there is none'))
        return self._look_up(hop)

    def _found_token(self, status, token, reason):
        """The answer of qpy-token."""
        if self.on_end is None:
            return None
        if status != b'ok':
            return self._no_more(remote_report.no_token(self.hop.account, reason))
        self.token = token
        return self._look_up(self.hop)

    def _look_up(self, hop):
        """The addresses of a place."""
        self.proved, self.ends, self.patterns, self.testing = False, {}, None, False
        if hop.path:
            return self._plan([(0, hop.host, hop.path)])
        address = ip.literal(hop.host) or (hop.host if hop.relay and ip.pack(hop.host) else None)
        if address is None:
            return self.worker.names.ask(b'A' if hop.relay else b'M', hop.host, self._found)
        return self._plan([(0, address, address)])

    def _policy(self, hop):
        """How a connection to this place must be protected."""
        if hop.path:
            return tls_policy.CLEAR
        remembered = self.worker.memory.knows(hop.place, unix.monotonic())
        policy = tls_policy.decide(hop.host, self.settings.tls, bool(hop.login), remembered, self.required,
                                   tls_policy.is_waived(self._head()))
        if hop.kind == SMTPS and not policy.must:
            return tls_policy.Policy(tls_policy.ENCRYPT, b'', tls_policy.IMPLICIT, ask=policy.ask)
        return policy

    def _found(self, status, authenticated, reason, lines):
        """The answer of qpy-resolve."""
        if self.on_end is None:
            return None
        self.proved = authenticated
        if status == b'ok':
            try:
                answers, self.ends = mx.parse_answers(lines)
                if self.usual.ask and not self.hop.relay and self.worker.policies.there():
                    return self.worker.policies.ask(b'S', self.host, lambda *answer: self._found_sts(answers, *answer))
                return self._named(answers)
            except ValueError as problem:
                status, reason = b'temp', str(problem).encode()
        if self.hop.relay:      # an administrator's word: to be mended, not to be bounced for
            reason = b'control/smtproutes: ' + (reason or status)
            return self._no_more(remote_report.no_lookup(self.hop.host, reason))
        final = {b'nxdomain': remote_report.no_host(self.host), b'nodata': remote_report.NO_EXCHANGER,
                 b'nullmx': remote_report.NULL_MX}.get(status)
        return self._not_elsewhere(final) if final else self._no_more(remote_report.no_lookup(self.host, reason))

    def _found_sts(self, answers, mode, patterns, reason):
        """The answer of qpy-mtasts."""
        if self.on_end is None:
            return None
        if mode not in mta_sts.MODES:
            self._log(b'', b'MTA-STS: ' + reason)
            return self._trouble(remote_report.no_lookup(self.host, b'MTA-STS: ' + reason))
        if reason.startswith(mta_sts.UNAVAILABLE):
            self._log(b'', b'MTA-STS: ' + reason)
        self.patterns, self.testing = patterns if mode != mta_sts.NONE else None, mode == mta_sts.TESTING
        return self._named(answers)

    def _named(self, answers):
        """RFC 8689, 4.2.1: for REQUIRETLS the names of servers must be proved."""
        if self.required and not (self.proved or self.hop.relay or self.patterns and not self.testing):
            return self._no_more(remote_report.UNSIGNED)
        return self._plan(answers)

    def _plan(self, answers):
        may_be_us = self.hop.relay or self.settings.loopback    # who names a relay may name this host
        plan = mx.plan(answers, None if may_be_us else self.worker.own_addresses(), self.worker.random)
        if plan == mx.SELF:
            return self._not_elsewhere(remote_report.SELF)
        if plan == mx.NONE:
            return self._no_more(remote_report.no_lookup(self.host, b'an answer without an address'))
        plan = self._open_first(plan)
        self.todo = plan[::-1]
        return self._next()

    def _not_elsewhere(self, words):
        """Mail for the host can go nowhere, or comes back to this one: for good, unless it is ours by control files that
        send has yet to read."""
        if self.worker.is_ours(self.host):
            return self._no_more(remote_report.NOT_READ_YET)
        return self._all(b'D', words)

    def _open_first(self, plan):
        """plan, with an address of the best preference that a connection is open to in front."""
        if len(plan) == 1:
            return plan
        best = [entry for entry in plan if entry[0] == plan[0][0]]
        for entry in best:
            shields = self._shields(entry[1]) + (self._dane_shields(entry[1]) if self.usual.ask else ())
            if self.worker.pool.has(self._key(entry[2]), shields):
                return [entry] + [other for other in plan if other is not entry]
        return plan

    def _key(self, address):
        source = outgoingip.choose(self.settings.sources, self.sender, self.host, address)
        return address, self.hop.port, self.hop.kind, self.hop.login, source

    def _leaves_aside(self, key):
        """Whether it leaves from another address of ours than other senders' mail."""
        return key[4] != outgoingip.choose(self.settings.sources, b'', self.host, key[0])

    def _shields(self, server):
        """What may protect a connection that is used for this; see qpyr.connection."""
        level = self.policy.level
        if level == tls_policy.VERIFY:
            return (b'verified ' + (self.policy.reference(server) or b'nobody'),)
        if level == tls_policy.DANE:
            return self._dane_shields(server)
        return {tls_policy.NONE: (b'none',), tls_policy.MAY: (b'tls', b'')}.get(level, (b'tls',))

    def _dane_shields(self, server):
        """By its certificate or its own name; or by the name of the domain that it serves, which is nobody else's."""
        return b'dane ' + server, b'dane %s for %s' % (server, self._target)

    @property
    def _target(self):
        """The name that led to the server."""
        return self.hop.host if self.hop.relay else self.host

    # --- one address after the other ---

    def _next(self):
        """Try the next address, or say that there is none."""
        while self.todo and self.sessions < SESSIONS and not self.expired:
            _, server, address = self.todo.pop()
            self.policy = self.usual
            if not self.source.rewind():
                break
            if self.worker.dead.is_dead(address, unix.monotonic()):
                self.tried.append((address, b'timed out lately, not tried again yet'))
            elif self.policy.reference(server) is None:
                self.tried.append((address, b'control/tlsdestinations does not trust ' + server))
            elif self._prepare(server, address):
                return None
        if self.expired and self.last_report is None:
            return self._trouble(remote_report.TOO_LONG)
        if self.definite and self.definite == self.sessions and not self.tried and not self.hops:
            return self._all(b'D', self.last_report)
        return self._no_more(self.last_report or remote_report.no_connection(self.tried))

    def _no_more(self, text):
        """The next place, or say that there is none."""
        if self.hops and not self.expired and self.source.rewind():
            self.last_report = text
            return self._next_hop()
        return self._trouble(text)

    def _prepare(self, server, address):
        """Ask for TLSA records first, where they count; True if something was begun that will call back."""
        if self.policy.ask and self.proved and server in self.ends:
            self._ask_records(server, address, self.ends[server])
            return True
        if self.policy.level == tls_policy.DANE:
            self.tried.append((address, b'no TLSA records: DNS answers are not validated by a resolver on this host'))
            return False
        return self._obey(server, address)

    def _obey(self, server, address):
        """The domain's MTA-STS policy, where there are no TLSA records (RFC 8461, section 2)."""
        if self.patterns is not None:
            self.policy = tls_policy.with_sts(self.policy, self.patterns, server)
        if self.policy is None:
            self.policy = self.usual
            self.tried.append((address, b'MTA-STS: the policy of %s does not name %s' % (self.host, server)))
            self._log(server, self.tried[-1][1])
            if not self.testing:
                return False
            self.tried.pop()
        if self.testing and self._key(address) in self.worker.failed_tests:
            self.policy = self.usual
        return self._try(server, address)

    def _ask_records(self, server, address, name):
        """Ask for the TLSA records at this name: the end of the server's aliases, or its own (RFC 7672, 2.2.2)."""
        self.worker.names.ask(b'T', b'_%d._tcp.%s' % (self.hop.port, name),
                              lambda *answer: self._found_records(server, address, name, *answer))

    def _found_records(self, server, address, name, status, authenticated, reason, lines):
        """RFC 7672, 2.1: no records, or records, or the server must not be used now."""
        if self.on_end is None:
            return None
        records = []
        try:
            records = dane.parse(lines) if status == b'ok' and authenticated else []
        except ValueError as problem:
            status, reason = b'temp', str(problem).encode()
        if not records and status != b'temp' and name != server:
            return self._ask_records(server, address, server)
        policy = tls_policy.with_records(self.policy, dane.usable(records), bool(records), name)
        if status == b'temp':
            self.tried.append((address, b'its TLSA records could not be looked up: ' + reason))
        elif policy is None:
            self.tried.append((address, b'it has no TLSA records that can be used'))
        if status == b'temp' or policy is None:
            self._log(server, self.tried[-1][1])
        else:
            self.policy = policy
            if (self._try if policy.records else self._obey)(server, address):
                return None
        return self._next()

    def _try(self, server, address):
        """True if something was begun that will call back."""
        self.server, key = server, self._key(address)
        self.aside |= self._leaves_aside(key)
        self.connection = self.worker.pool.take(key, self._shields(server))
        if self.connection is not None:
            self._carry()
            return True
        return self._connect(key)

    def _connect(self, key):
        self.connection = Connection(self.worker.loop, key)
        try:
            patience = self.settings.connect_patience
            self.connection.connect(min(patience, HURRIED) if self.todo else patience, self._connected)
        except NoSource as problem:         # says nothing about the server
            self.connection = None
            self.tried.append((key[0], b'unable to leave from %s, see control/outgoingip: %s'
                               % (key[4], unix.strerror(problem.errno).lower().encode())))
            return False
        except OSError as problem:
            self._not_connected(key, problem.errno)
            return False
        return True

    def _connected(self, errno):
        key = self.connection.key
        if errno:
            self._not_connected(key, errno)
            return self._next()
        self.worker.dead.answered(key[0])
        if self._is_self():
            return self._found_self(key[0])
        self._start()
        return self._carry()

    def _start(self):
        """A session on the new connection."""
        connection, settings, hop, policy = self.connection, self.settings, self.hop, self.policy
        if policy.level == tls_policy.MAY and connection.key in self.worker.without_tls:
            policy = tls_policy.CLEAR
        login = None
        if hop.login:
            nonce = b2a_base64(unix.urandom(18), newline=False)
            login = Credentials(hop.login, settings.logins.get(hop.account, b''), nonce, self.token, hop.host, hop.port)
        session = Session(connection.key[0], settings.helo, connection.key not in self.worker.clumsy,
                          hop.kind == LMTP, policy, login)
        name = policy.reference(self.server)
        context = self._context()
        connection.start(session, settings.patience, lambda: unix_tls.Stream(context, name), self._inspect)

    def _context(self):
        """For TLS with this server."""
        known = self.worker.authorities.get(self._anchor()) if self.policy.records else None
        return known or self.settings.context(self.policy.level == tls_policy.VERIFY)

    def _anchor(self):
        return self.server, tuple(self.policy.records)

    def _inspect(self, stream):
        """b'', or why a server with TLSA records is not who it should be."""
        records = self.policy.records
        if not records:
            return b''                              # OpenSSL has verified it, if that was to be done
        if self._anchor() in self.worker.authorities:       # ... and here, who has signed it
            return self._inspect_names(stream.peer()[1])
        chain = stream.chain()
        if dane.end_entity(records, chain):
            return b''
        certificate = dane.authority(records, chain)
        if not certificate or not self.worker.trust(self._anchor(), certificate):
            return b'its certificate does not match its TLSA records'
        return ANEW                                 # OpenSSL verifies in a handshake only

    def _inspect_names(self, info):
        """An authority of the TLSA records has signed it: for the server, or the domain it serves (RFC 7672, 3.2.2)?"""
        name = self.policy.reference(self.server)
        if tls_certificate.is_for(info, (name,)):
            return b''
        if tls_certificate.is_for(info, (self._target,)):
            self.connection.shield = self._dane_shields(self.server)[1]
            return b''
        return MISMATCH % b', '.join((name, self._target))

    def _found_self(self, address):
        """Mail loops back; unless something better was tried before: then nothing worse than ourselves is."""
        self.connection.close()
        self.connection = None
        if not self.tried and self.last_report is None:
            return self._not_elsewhere(remote_report.SELF)
        self.tried.append((address, b'this host itself'))
        self.todo = []
        return self._next()

    def _not_connected(self, key, errno):
        self.connection, address = None, key[0]
        reason = unix.strerror(errno).lower().encode()
        if errno in SCARCE:
            self.last_report = remote_report.NO_RESOURCES
        elif errno == unix.ETIMEDOUT and not self._leaves_aside(key):
            self.worker.dead.timed_out(address, unix.monotonic())
        elif errno != unix.ETIMEDOUT:
            self.worker.dead.answered(address)
        self.tried.append((address, reason))

    def _is_self(self):
        """True if the address we found by DNS turned out to be one of ours."""
        if self.hop.relay or self.settings.loopback:
            return False
        try:
            ours, theirs = self.connection.ends()
        except OSError:
            return False
        return ours == theirs

    # --- the transaction ---

    def _carry(self):
        recipients = [self.recipients[index] for index in self.left]
        eight, utf8, size = self._needs()
        transaction = Transaction(self.sender, recipients, eight, utf8, size, self.required, self._notices(recipients),
                                  self._by(), self._priority())
        self.connection.carry(transaction, self.source, lambda _: self._done(transaction))

    def _notices(self, recipients):
        """What the sender wants to be told (RFC 3461), from the envelope; see core.smtp_client.Transaction."""
        if b'd' not in self.flags:
            return None
        try:
            envelope = self.source.envelope()
        except (OSError, ValueError):       # then the delivery itself matters more
            return None
        wishes = dict(zip(envelope.recipients, envelope.recipient_options))
        return (notice_parameters(envelope.options, OF_MAIL),
                [notice_parameters(wishes.get(recipient, ()), OF_RCPT) for recipient in recipients])

    def _by(self):
        """By when it is to be delivered (RFC 2852), and how many seconds that are; None."""
        if b'b' not in self.flags:
            return None
        try:
            by = deliverby.parse(self.source.envelope().option(b'D'))
        except (OSError, ValueError):
            return None
        return by and (by, by.deadline - int(unix.time()))

    def _priority(self):
        """Which messages it goes before (RFC 6710)."""
        if b'm' not in self.flags:
            return priority.COMMON
        try:
            return priority.of(self.source.envelope())
        except (OSError, ValueError):
            return priority.COMMON

    def _needs(self):
        """(8BITMIME, SMTPUTF8 (see Transaction), size) of this message; an unreadable one shows when it is sent."""
        try:
            size = self.source.size()
        except OSError:
            size = 0
        head = self._head()
        utf8 = b'' if self.sender.isascii() and all(recipient.isascii() for recipient in self.recipients) else b'names'
        if b'u' in self.flags and not sources.header_is_ascii(head):
            utf8 = b'header'
        return b'8' in self.flags or not head.isascii(), utf8, size

    def _head(self):
        """The beginning of the message; b'' if it cannot be read."""
        try:
            return self.source.head()
        except OSError:
            return b''

    def _done(self, transaction):
        """The transaction on self.connection has ended."""
        connection, session = self.connection, self.connection.session
        self.connection = None
        if transaction.trouble:
            return self._failed(connection, session, transaction)
        self._note(connection, session)
        if session.confused:
            self.worker.remember(self.worker.clumsy, connection.key)
            connection.say_goodbye()
        if connection.usable and not transaction.overflow:
            self.worker.pool.put(connection)
        accepted = transaction.report[0] == b'K'
        again = transaction.overflow if accepted and not self.expired and self.source.rewind() else []
        for place, index in enumerate(self.left):
            if place not in again:
                self.results[index] = transaction.answers[place], transaction.report
                if transaction.noticed:
                    self.noticed.add(index)
                if transaction.timed:
                    self.timed.add(index)
        self.left = [index for index in self.left if self.results[index] is None]
        if not self.left:
            if connection.usable and transaction.overflow:
                self.worker.pool.put(connection)
            return self._end()
        if not connection.usable:           # as many messages as it takes on one connection (RFC 9422)
            connection.say_goodbye()
            return None if self._connect(connection.key) else self._next()
        self.connection = connection
        return self._carry()

    def _note(self, connection, session):
        """What is to be known about this connection and this domain later."""
        if session.transactions == 1 and (session.tls or session.tls_wrong):
            self._log(self.server, b'' if session.tls else session.tls_wrong, connection)
        if session.tls:
            connection.shield = connection.shield or self._shields(self.server)[0]
            self.worker.memory.saw(self.hop.place, unix.monotonic())
            self.worker.notes.saw(text.lower(self.hop.place))
        else:
            connection.shield = b'none' if self.policy.level == tls_policy.NONE else b''

    def _log(self, server, reason, connection=None):
        """For qpy-tlslog: a session by TLS with this server, or why there was none (RFC 8460)."""
        if self.hop.relay:
            return                              # an administrator's word, and nobody else's policy
        if reason.startswith(tlsrpt.POLICY):
            kind, words = tlsrpt.STS, []
        elif self.policy is not None and self.policy.records:
            kind, words = tlsrpt.TLSA, [b'%d %d %d %s' % (*record[:3], record[3].hex().encode())
                                        for record in self.policy.records]
        elif self.patterns is not None:
            kind, words = tlsrpt.STS, [b'version: STSv1', b'mode: testing' if self.testing else b'mode: enforce',
                                        *(b'mx: ' + each for each in self.patterns)]
        else:
            kind, words = tlsrpt.NONE, []
        result = tlsrpt.result_of(reason) if reason else b''
        ours, theirs = (connection.ours, connection.key[0]) if connection else (b'', b'')
        self.worker.notes.outcome(text.lower(self.host), kind, b'\n'.join(words), server, result, ours, theirs, reason)

    def _failed(self, connection, session, transaction):
        """The host failed before it had the message: once more if the connection was stale or TLS failed and need not
        be, or the next."""
        if connection.usable:
            connection.say_goodbye()
        if session.stale and not self.fresh and not self.expired and self.source.rewind():
            self.fresh = True               # it may have been withdrawn: once more, with another
            return self.worker.tokens.ask(b'F', self.hop.account,
                                          lambda *answer: self._renewed(connection.key, *answer))
        if session.tls_wrong and session.tls_wrong != ANEW:
            self._log(self.server, session.tls_wrong, connection)
        if session.tls_trouble and ANEW in transaction.report[1] and not self.expired and self.source.rewind():
            return None if self._connect(connection.key) else self._next()
        if session.tls_trouble and self.testing and self.policy is not self.usual and not self.expired \
                and self.source.rewind():
            self.policy = self.usual
            self.worker.remember(self.worker.failed_tests, connection.key)
            return None if self._connect(connection.key) else self._next()
        if session.tls_trouble and self.policy.records:     # another of its authorities may have signed this time
            self.worker.authorities.pop(self._anchor(), None)
        if session.tls_trouble and self.policy.level == tls_policy.MAY and not self.expired and self.source.rewind():
            self.worker.remember(self.worker.without_tls, connection.key)
            return None if self._connect(connection.key) else self._next()
        if session.transactions > 1 and not session.replies and not self.expired and self.source.rewind():
            if self._connect(connection.key):
                return None
            return self._next()
        if session.batched and session.replies < len(transaction.recipients) + 2:
            self.worker.remember(self.worker.clumsy, connection.key)
        self.sessions += 1
        self.definite += transaction.report[0] == b'D'
        self.last_report = transaction.report[1]
        for place, index in enumerate(self.left):
            if transaction.answers[place] is not None and transaction.answers[place][0] == b'h':
                self.results[index] = transaction.answers[place], (b'D', b'')
        self.left = [index for index in self.left if self.results[index] is None]
        return self._next() if self.left else self._end()

    def _renewed(self, key, status, token, reason):
        """A token in place of the one that was refused."""
        if self.on_end is None:
            return None
        if status != b'ok':
            return self._no_more(remote_report.no_token(self.hop.account, reason))
        self.token = token
        return None if self._connect(key) else self._next()

    def _expire(self):
        """The whole delivery took too long (R-23)."""
        self.expired = True
        connection = self.connection
        if connection is not None and connection.session is not None:
            return connection.lost(b'This delivery took too long')
        if connection is not None:
            connection.close()
        return self._trouble(remote_report.TOO_LONG)

    # --- the end ---

    def _trouble(self, text):
        """The destination as a whole failed, for now; or for mail that goes as this does."""
        self.in_trouble = not self.aside
        return self._all(b'Z', text)

    def _all(self, letter, text):
        for index in self.left:
            self.results[index] = None, (letter, text)
        self.left = []
        return self._end()

    def _end(self):
        if self.on_end is None:
            return
        self.cap.cancel()
        self.source.close()
        on_end, self.on_end = self.on_end, None
        on_end(self)

    def outcomes(self):
        """[(K, Z or D, text)] per recipient."""
        return [remote_report.combine(*result) for result in self.results]

    def output(self):
        """What qpy-remote prints: r, h, s per recipient and one report on the message."""
        reports = [report for _, report in self.results]
        message = next((report for report in reports if report[0] == b'K'), reports[-1])
        if all(answer is None and report == message for answer, report in self.results):
            return remote_report.build([], message)
        answers = []
        for answer, report in self.results:
            if report == message:
                answers.append(answer or (b'r', b''))
            else:
                letter, text = remote_report.combine(answer, report)
                answers.append((_LETTERS[letter], text))
        return remote_report.build(answers, message)


_LETTERS = {b'K': b'r', b'Z': b's', b'D': b'h'}
