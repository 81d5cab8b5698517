"""What is asked about a client before its mail is taken, in the order of what it costs.

    judgement = Judgement(facts, settings, memory, now)
    found = judgement.step()        a Decision, or [needs]: what somebody has to find out first
    judgement.answers[need] = ...   then step() again

needs, and their answers:

    (b'I', name), (b'A', name), (b'P', ip)      DNS (core.channel, RESOLVE_ASK): (status, reason, [values])
    (b'policy', server, request)                core.policyd: (action, text), or None and why there is none

A check is a function of a Judgement.  It returns None (nothing against it), a Decision, or the list of its needs.
Checks are pure: what they remember is in `memory` (Memory), the clock is `now` (unix time).  Trouble in a check is
never a refusal: it is what control/checkfailure says, `defer` (4xx) or `accept`, with its reason.
"""
from qpy.core import accountlimits, asking, clientnames, dnsbl, greylist, ip, policyd, ratelimits, text
from qpy.core.asking import DATA, MAIL, RCPT, STAGES

OK, REFUSE, HOLD = b'ok', b'no', b'hold'        # verdicts
DEFER, ACCEPT = b'defer', b'accept'             # control/checkfailure

TROUBLE = b'451 4.3.0 unable to check this now; try again later'
REPLY_MAX = 400         # bytes of what a peer is told
REASON_MAX = 300        # bytes of what the log is told

FIELDS = ('session', 'stage', 'ip', 'name', 'helo', 'protocol', 'login', 'relay', 'sender', 'recipient', 'count',
          'size', 'spf', 'local', 'transaction', 'tls', 'cipher')


class Facts:
    """What is known at a stage, all bytes: see core.channel, CHECK_ASK.

    session: a word for this SMTP session; relay: 1 if it may send anywhere; count: recipients so far; size: that MAIL
    declared; spf: a result of RFC 7208 (`pass`, `fail` ...) or empty where nobody has looked; local: our name;
    transaction: its number in the session; tls: its version, cipher: of it, both empty in the clear."""

    __slots__ = FIELDS

    def __init__(self, *fields):
        for name, value in zip(FIELDS, fields, strict=True):
            setattr(self, name, value)

    @property
    def stranger(self):
        """Is this a client that may send to us only?"""
        return not (self.relay or self.login)


class Decision:
    """verdict; reply: what the peer is told, with its codes; reason: what the log is told; fields: lines for the top of
    the message."""

    __slots__ = ('verdict', 'reply', 'reason', 'fields')

    def __init__(self, verdict, reply=b'', reason=b'', fields=()):
        self.fields = tuple(fields)
        self.verdict, self.reply = verdict, text.printable(reply[:REPLY_MAX])
        self.reason = text.one_line(reason[:REASON_MAX])


class Settings:
    """What the control files say.  Absent: the check is not made.

    limits: {what: ratelimits.Limit}; dnsbl: [dnsbl.Zone]; threshold; reverse: no, exists, confirmed; helo: words of
    clientnames.RULES; spf: words of SPF; own: {lower-case names of this host}; grey: greylist.Settings or None; servers:
    [policyd.Server]; accounts: accountlimits.Limits or None; exempt: lower-case addresses and @domains; failure."""

    __slots__ = ('limits', 'dnsbl', 'threshold', 'reverse', 'helo', 'own', 'grey', 'servers', 'accounts', 'exempt',
                 'failure', 'patience', 'spf')

    def __init__(self, limits=None, dnsbl=(), threshold=1, reverse=b'no', helo=(), own=(), grey=None, servers=(),
                 accounts=None, exempt=(), failure=DEFER, patience=30, spf=()):
        self.limits, self.dnsbl, self.threshold, self.reverse, self.helo = limits or {}, dnsbl, threshold, reverse, helo
        self.own, self.grey, self.servers, self.accounts = own, grey, servers, accounts
        self.exempt, self.failure, self.patience, self.spf = exempt, failure, patience, spf


class Memory:
    """What the checks remember."""

    __slots__ = ('windows', 'grey', 'accounts')

    def __init__(self):
        self.windows, self.grey, self.accounts = ratelimits.Windows(), greylist.Greylist(), accountlimits.Accounts()


class Judgement:
    """One stage of one session being judged: see the top of the module.  later: {policyd.IF_PERMIT or IF_REJECT: the first
    Decision of a policy server that depends on those behind it}."""

    __slots__ = ('facts', 'settings', 'memory', 'now', 'answers', 'at', 'hold', 'remarks', 'fields', 'later')

    def __init__(self, facts, settings, memory, now):
        self.facts, self.settings, self.memory, self.now = facts, settings, memory, now
        self.answers, self.at, self.hold, self.remarks, self.fields, self.later = {}, 0, None, [], [], {}

    def step(self):
        """Judge as far as is known."""
        while self.at < len(TABLE):
            name, stages, whom, check = TABLE[self.at]
            if self.facts.stage in stages and whom(self):
                found = check(self)
                if isinstance(found, list):
                    return found
                if found is not None and found.verdict == REFUSE:
                    return self.refused(Decision(REFUSE, found.reply, name + b': ' + found.reason))
                if found is not None and found.verdict == HOLD and self.hold is None:
                    self.hold = Decision(HOLD, b'', name + b': ' + found.reason)
            self.at += 1
        if policyd.IF_PERMIT in self.later:
            return self.later[policyd.IF_PERMIT]
        if self.hold is not None:
            return Decision(HOLD, b'', self.hold.reason, self.fields)
        return Decision(OK, b'', b'; '.join(self.remarks), self.fields)

    def refused(self, decision):
        """A refusal, for good only if no policy server wants that deferred."""
        softer = self.later.get(policyd.IF_REJECT)
        if softer is None or decision.reply[:1] != b'5':
            return decision
        return Decision(REFUSE, softer.reply, softer.reason + b'; ' + decision.reason)

    def missing(self, needs):
        """The needs that have no answer yet."""
        return [need for need in needs if need not in self.answers]

    def trouble(self, reason):
        """A check that could not be made."""
        if self.settings.failure == DEFER:
            return Decision(REFUSE, TROUBLE, reason)
        return self.remark(reason)

    def remark(self, reason):
        """Something that does not count, for the log."""
        if reason not in self.remarks:
            self.remarks.append(reason)

    def late(self):
        """The whole took too long."""
        reason = TABLE[self.at][0] + b': no answer in time'
        return self.trouble(reason) or Decision(OK, b'', reason)


# --- the checks ----------------------------------------------------------------------------------------------

def stranger(judgement):
    """Who may not send anywhere, to a recipient who wants to be protected."""
    facts, exempt = judgement.facts, judgement.settings.exempt
    if not facts.stranger:
        return False
    recipient = text.lower(facts.recipient)
    return not (exempt and recipient and (recipient in exempt or recipient[recipient.rfind(b'@'):] in exempt))


def account(judgement):
    """Who has logged in."""
    return bool(judgement.facts.login)


def anybody(judgement):
    """Everybody."""
    return True


def check_rates(judgement):
    """control/ratelimits: messages and recipients from one address."""
    facts = judgement.facts
    what = b'messages' if facts.stage == MAIL else b'recipients'
    limit = judgement.settings.limits.get(what)
    if limit is None or judgement.memory.windows.take(what, facts.ip, limit, judgement.now):
        return None
    return Decision(REFUSE, b'450 4.7.1 too many %s from your address; try again later' % what,
                    b'more than %s %s from %s' % (limit.words, what, facts.ip))


def check_helo(judgement):
    """control/helorules, as far as the name itself tells."""
    facts, settings = judgement.facts, judgement.settings
    wrong = clientnames.fault_of_helo(facts.helo, settings.helo, settings.own)
    return Decision(REFUSE, b'550 5.7.1 ' + wrong, wrong) if wrong else None


def check_dnsbl(judgement):
    """control/dnsbl."""
    facts, settings = judgement.facts, judgement.settings
    packed = ip.pack(facts.ip)
    if packed is None or not settings.dnsbl:
        return None
    needs = [(b'I', dnsbl.query(packed, zone.name)) for zone in settings.dnsbl]
    if judgement.missing(needs):
        return judgement.missing(needs)
    found = dnsbl.weigh(settings.dnsbl, [judgement.answers[need] for need in needs], settings.threshold)
    if found.listed:
        names = b', '.join(found.listed)
        return Decision(REFUSE, b'550 5.7.1 your address %s is listed by %s' % (facts.ip, names),
                        b'%s weighs %d of %d, listed by %s' % (facts.ip, found.weight, settings.threshold, names))
    return judgement.trouble(found.trouble) if found.trouble else None


def check_reverse(judgement):
    """control/reversedns: is there a name, and does it lead back (RFC 8601, 2.7.3: iprev)?"""
    facts, rule = judgement.facts, judgement.settings.reverse
    if rule == b'no' or ip.pack(facts.ip) is None:
        return None
    names, other = in_dns(judgement, b'P', facts.ip, b'the name of')
    if names is None:
        return other
    if not names:
        return Decision(REFUSE, b'550 5.7.25 your address %s has no name in DNS' % facts.ip, facts.ip + b' has no name')
    if rule == b'exists':
        return None
    needs = [(b'A', name) for name in names[:clientnames.NAMES_MOST]]
    if judgement.missing(needs):
        return judgement.missing(needs)
    return check_forward(judgement, names, [judgement.answers[need] for need in needs])


def in_dns(judgement, letter, name, what):
    """(what DNS has of a name, None), [] if it has nothing; (None, what the check returns) if that is not known."""
    need = letter, name
    if need not in judgement.answers:
        return None, [need]
    status, reason, found = judgement.answers[need]
    if status == b'temp':
        return None, judgement.trouble(b'%s %s: %s' % (what, name, reason))
    return found if status == b'ok' else [], None


def check_forward(judgement, names, answers):
    """Does one of the names have the address?"""
    ours, client = [], judgement.facts.ip
    for status, _, addresses in answers:
        ours += addresses
        if ip.pack(client) in map(ip.pack, addresses):
            return None
    if any(status == b'temp' for status, _, _ in answers):
        return judgement.trouble(b'the addresses of %s are not known now' % names[0])
    return Decision(REFUSE, b'550 5.7.25 the name of your address, %s, does not lead back to %s' % (names[0], client),
                    b'%s is called %s, which has the addresses %s' % (client, names[0], b' '.join(ours[:5]) or b'none'))


def check_helo_name(judgement):
    """The rule `resolves` of control/helorules: the name has an address or a mail exchanger."""
    facts = judgement.facts
    if b'resolves' not in judgement.settings.helo or ip.literal(facts.helo) is not None:
        return None
    hosts, other = in_dns(judgement, b'M', facts.helo, b'the HELO name')
    if hosts is None or hosts:
        return other
    return Decision(REFUSE, b'550 5.7.1 your HELO host name is not in DNS', b'no address of ' + facts.helo)


def check_grey(judgement):
    """control/greylist."""
    facts, settings = judgement.facts, judgement.settings.grey
    if settings is None or ip.pack(facts.ip) is None:
        return None
    left = judgement.memory.grey.wait(facts, settings, judgement.now)
    if not left:
        return None
    return Decision(REFUSE, b'451 4.7.1 greylisted; try again in %d seconds' % left,
                    b'%s and this sender are new to this recipient, %d seconds to wait' % (facts.ip, left))


def check_servers(judgement):
    """control/policyservers, one after the other."""
    for number, server in enumerate(judgement.settings.servers):
        if judgement.facts.stage not in server.stages:
            continue
        need = b'policy', number, policyd.request(judgement.facts)
        if need not in judgement.answers:
            return [need]
        found = decided(judgement, server, *judgement.answers[need])
        if found is not None and found.verdict == REFUSE:
            return found
        if found is not None and found.verdict == HOLD:
            judgement.hold = judgement.hold or Decision(HOLD, b'', b'policyservers: ' + found.reason)
    return None


def decided(judgement, server, action, words):
    """What a policy server's answer amounts to."""
    if action is None:
        if server.default == ACCEPT:
            return judgement.remark(server.name + b': ' + words)
        return Decision(REFUSE, TROUBLE, server.name + b': ' + words)
    verdict, reply = policyd.meaning(action, words)
    if verdict == policyd.FIELD:
        if reply not in judgement.fields:
            judgement.fields.append(reply)
        return None
    if verdict in (policyd.IF_PERMIT, policyd.IF_REJECT):
        judgement.later.setdefault(verdict, Decision(REFUSE, reply, b'policyservers: %s says %s %s' % (server.name, action, words)))
        return None
    if verdict == policyd.UNKNOWN:
        return decided(judgement, server, None, b'an action that is not known: ' + action)
    return Decision({policyd.PASS: OK, policyd.REPLY: REFUSE, policyd.HOLD: HOLD}[verdict], reply,
                    server.name + b' says ' + action + (b' ' + words if words else b''))


#: results of SPF that control/spfrules may refuse: the codes (RFC 7372, 3.2; RFC 7208, 8.4 to 8.7), and what is said
SPF = {b'fail': (b'550 5.7.23', b'SPF of %s does not permit your address %s'),
       b'softfail': (b'550 5.7.23', b'SPF of %s probably does not permit your address %s'),
       b'permerror': (b'550 5.7.24', b'SPF of %s cannot be understood, so it permits no address such as %s'),
       b'temperror': (b'451 4.7.24', b'SPF of %s is not known now for your address %s')}


def spf_rule(word):
    """A word of control/spfrules; ValueError."""
    if word not in SPF:
        raise ValueError('not known; one of: ' + b' '.join(SPF).decode())
    return word


def check_spf(judgement):
    """control/spfrules: what policy servers have found out, the line of one that was asked just now included."""
    facts = judgement.facts
    result = asking.spf(judgement.fields) or facts.spf
    if result not in judgement.settings.spf:
        return None
    code, words = SPF[result]
    words %= (facts.sender.rpartition(b'@')[2] or facts.helo, facts.ip)
    return Decision(REFUSE, code + b' ' + words, result + b': ' + words)


def check_account(judgement):
    """control/accountlimits: too much is held, not lost."""
    facts, limits = judgement.facts, judgement.settings.accounts
    if limits is None:
        return None
    accounts = judgement.memory.accounts
    if facts.stage == RCPT:
        if facts.count == b'0':
            accounts.over(facts.session)            # what a transaction before this one has left
        return accounts.recipient(facts.session, facts.recipient)
    exceeded = accounts.message(facts.session, facts.login, limits, judgement.now)
    return Decision(HOLD, b'', b'%s: %s' % (facts.login, exceeded)) if exceeded else None


#  the control file, stages, whom it concerns, the check: in the order of cost (counting; looking at a name; DNS;
#  what makes good mail wait; other programs)
TABLE = ((b'ratelimits', (MAIL, RCPT), stranger, check_rates),
         (b'helorules', (RCPT,), stranger, check_helo),
         (b'dnsbl', (RCPT,), stranger, check_dnsbl),
         (b'reversedns', (RCPT,), stranger, check_reverse),
         (b'helorules', (RCPT,), stranger, check_helo_name),
         (b'greylist', (RCPT,), stranger, check_grey),
         (b'policyservers', STAGES, anybody, check_servers),
         (b'spfrules', (RCPT,), stranger, check_spf),
         (b'accountlimits', (RCPT, DATA), account, check_account))


def early(facts, settings):
    """The needs that can be known when a stranger connects."""
    packed = ip.pack(facts.ip)
    if packed is None or not facts.stranger:
        return []
    needs = [(b'I', dnsbl.query(packed, zone.name)) for zone in settings.dnsbl]
    return needs + [(b'P', facts.ip)] * (settings.reverse != b'no')
