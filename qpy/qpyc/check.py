"""qpy-check, as qpyc: judges clients, senders and recipients for qpy-smtpd, before their mail is taken.

DIR/run/check (SOCK_SEQPACKET, inherited as `check`), records of core.channel:
    Q n, facts (core.checks.FIELDS)  ->  a n, ok|no|hold, reply, reason, header lines
    E session                            it has ended

A late answer is a delayed client.  Asks: DIR/run/names (qpy-resolve), the servers of control/policyservers.  Reads:
control/.  Writes: DIR/check.  One worker judges, because it counts; a master replaces it when it dies.
Exit: 0 when the chain ends, 111 otherwise.
"""
from qpy import unix
from qpy.core import channel, checks, greylist, text
from qpy.core.asking import CONNECT
from qpy.lib import names, packets, program
from qpy.qpyc import judging, policies, settings
from qpy.qpyc.journal import Journal

MOST_CASES = 20_000         # being judged at a time
HOUSEKEEPING = 600.0        # seconds between looks at what can be forgotten


class Names(names.Names):
    """As lib.names, over the socket that is ours."""

    SOCKET = b'names'

    __slots__ = ()


class Case:
    """One question of qpy-smtpd, until it is answered.  done(Decision)."""

    __slots__ = ('server', 'judgement', 'asked', 'done', 'timer')

    def __init__(self, server, facts, done):
        self.server, self.done, self.timer, self.asked = server, done, None, set()
        self.judgement = checks.Judgement(facts, server.watched.get(), server.memory, server.wall())

    def go_on(self):
        """Judge as far as is known; find out what is missing, all of it at once."""
        found = self.judgement.step()
        if not isinstance(found, list):
            return self.end(found)
        if self.timer is None:
            self.timer = self.server.loop.after(self.judgement.settings.patience,
                                                lambda: self.end(self.judgement.late()))
        for need in found:
            if need not in self.asked:
                self.asked.add(need)
                self.server.find_out(need, self.judgement.settings, lambda answer, need=need: self.known(need, answer))
        return None

    def known(self, need, answer):
        """One thing was found out."""
        self.judgement.answers[need] = answer
        if self.done is not None:
            self.go_on()

    def end(self, decision):
        """Say it, once."""
        done, self.done = self.done, None
        if self.timer is not None:
            self.timer.cancel()
        if done is not None:
            done(decision)


class Server:
    """All that is being judged, and what is remembered."""

    __slots__ = ('loop', 'watched', 'memory', 'names', 'pools', 'grey', 'accounts', 'cases', 'scheduled', 'wall')

    def __init__(self, loop, home):
        self.loop, self.watched, self.names = loop, settings.watched(home), Names(loop, home)
        self.memory = checks.Memory()
        self.pools, self.cases, self.scheduled, self.wall = {}, 0, False, unix.time
        self.grey, self.accounts = Journal(home, b'greylist', 3), Journal(home, b'accounts', 2)

    def begin(self):
        """Take up what was written down; forget what is of no use; write it anew."""
        self.grey.read(self.memory.grey.load)
        self.accounts.read(self.memory.accounts.load)
        self.tidy()

    def client(self, sock, _):
        """A worker of qpy-smtpd has connected."""
        Client(self, sock)

    def judge(self, facts, done):
        """done(Decision), perhaps at once."""
        if self.cases >= MOST_CASES:
            return done(checks.Decision(checks.REFUSE, checks.TROUBLE, b'too many questions at a time'))
        if facts.stage == CONNECT:
            self.look_ahead(facts)
        self.cases += 1
        return Case(self, facts, lambda decision: self.judged(facts, decision, done)).go_on()

    def look_ahead(self, facts):
        """Have DNS asked now for what will be wanted: qpy-resolve remembers it."""
        for letter, name in checks.early(facts, self.watched.get()):
            self.names.ask(letter, name, lambda *answer: None)

    def judged(self, facts, decision, done):
        """A case is closed."""
        self.cases -= 1
        if decision.reason and decision.verdict != checks.REFUSE:       # refusals stand in qpy-smtpd's log
            program.log(b'%s: %s %s ip %s from <%s>: %s' % (program.name, b'held' if decision.verdict == checks.HOLD
                        else b'accepted all the same', facts.stage, text.logsafe(facts.ip), text.logsafe(facts.sender),
                        decision.reason))
        if not self.scheduled and (self.memory.grey.changed or self.memory.accounts.changed):
            self.scheduled = True
            self.loop.call_soon(self.end)
        done(decision)

    # --- finding out ---

    def find_out(self, need, found, done):
        """done(answer), see core.checks."""
        if need[0] == b'policy':
            return self.pool(found.servers[need[1]]).ask(need[2], lambda *answer: done(answer))
        return self.names.ask(*need, lambda status, _, reason, lines: done((status, reason, values(need[0], lines))))

    def pool(self, server):
        """The connections to a policy server."""
        known = self.pools.get(server.name)
        if known is None or known.server is not server:
            if known is not None:
                known.close()
            known = self.pools[server.name] = policies.Pool(self.loop, server)
        return known

    # --- remembering ---

    def end(self):
        """Append what has changed."""
        self.scheduled = False
        grey, accounts = self.memory.grey, self.memory.accounts
        self.grey.append(grey.changed)
        self.accounts.append(accounts.changed)
        grey.changed, accounts.changed = [], []

    def tidy(self):
        """Forget what is too old, and keep the files short.  Again in a while."""
        now = self.wall()
        self.memory.grey.expire(now, self.watched.get().grey or greylist.Settings())
        self.memory.accounts.expire(now)
        if self.grey.fd < 0 or self.grey.full(len(self.memory.grey.entries)):
            self.grey.rewrite([(key, *entry) for key, entry in self.memory.grey.entries.items()])
        if self.accounts.fd < 0 or self.accounts.full(len(self.memory.accounts.known)):
            self.accounts.rewrite(list(self.memory.accounts.written()))
        self.loop.after(HOUSEKEEPING, self.tidy)


class Client:
    """One worker of qpy-smtpd."""

    __slots__ = ('server', 'channel')

    def __init__(self, server, sock):
        self.server = server
        self.channel = packets.Channel(server.loop, sock, channel.CHECK_ASK, self.records, self.closed)

    def records(self, records):
        """Questions, and ends of sessions."""
        for letter, fields, _ in records:
            if letter == b'E':
                self.server.memory.accounts.over(fields[0])
            else:
                number, *words = fields
                self.server.judge(checks.Facts(*words), lambda decision, n=number: self.answer(n, decision))

    def answer(self, number, decision):
        """Tell it."""
        self.channel.send(b'a', number, decision.verdict, decision.reply, decision.reason, b'\n'.join(decision.fields))

    @staticmethod
    def closed(reason):
        """It is gone."""
        if reason != 'closed':
            program.warn(b'a client was dropped: ' + reason.encode('ascii', 'replace'))


def values(letter, lines):
    """The values in the lines of an answer of qpy-resolve: names, else addresses."""
    found = [line for line in lines.split(b'\n') if line]
    return found if letter == b'P' else [line.split(b' ')[2] for line in found]


# --- the program ---------------------------------------------------------------------------------------------

def main(home, args):
    """qpy-check"""
    return judging.run(home, b'check', args, settings.load, Server, {b'check': Server.client})
