"""What speaks against a client: each check as a table of facts and decisions, without a socket or a clock."""
import pytest
from hypothesis import given, strategies as st

from qpy.core import accountlimits, asking, checks, clientnames, dnsbl, greylist, ip, policyd, ratelimits

NOW = 1_800_000_000.0
BASE = dict(session=b'1.1', stage=b'rcpt', ip=b'192.0.2.7', name=b'', helo=b'mail.example.org', protocol=b'ESMTP', login=b'',
            relay=b'', sender=b'ann@example.org', recipient=b'joe@example.com', count=b'0', size=b'', spf=b'',
            local=b'mx.example.com', transaction=b'1', tls=b'', cipher=b'')
TEMP = b'temp', b'192.0.2.53 did not answer in time', []
NONE = b'nxdomain', b'', []


def facts(**changes):
    return checks.Facts(*{**BASE, **changes}.values())


def judge(settings, answers=(), memory=None, now=NOW, **changes):
    """(Decision, needs that were asked for) with these answers by need; a need without one fails the test."""
    judgement = checks.Judgement(facts(**changes), settings, memory or checks.Memory(), now)
    asked, answers = [], dict(answers)
    while isinstance(found := judgement.step(), list):
        asked += found
        judgement.answers.update((need, answers[need]) for need in found)
    return found, asked


def ok(*values):
    return b'ok', b'', list(values)


# --- which stage, which order ------------------------------------------------------------------------------------

def test_nothing_configured_asks_nobody():
    """Without a control file there is no stage at which qpy-smtpd asks, and qpy-check itself finds nothing."""
    assert asking.stages(set()) == frozenset()
    assert judge(checks.Settings())[0].verdict == checks.OK


@pytest.mark.parametrize('name, stages, whom, check', checks.TABLE)
def test_who_asks_knows_each_check(name, stages, whom, check):
    """Each check's stages are among those at which its control file makes qpy-smtpd ask."""
    if name == b'policyservers':
        assert {stage for stage in asking.STAGES if stage in asking.stages((), [b'/x stages=' + stage])} == set(stages)
        return
    names = {b'messages', b'recipients'} if name == b'ratelimits' else {name}
    assert set(stages) <= asking.stages(names)


@pytest.mark.parametrize('lines, result', [
    ([], b''), ([b'X-A: pass'], b''), ([b'Received-SPF: pass (mx.example.com: domain of ann@example.org)'], b'pass'),
    ([b'RECEIVED-SPF:\tSoftFail;x'], b''), ([b'RECEIVED-SPF:  SoftFail x'], b'softfail'), ([b'Received-SPF: nonsense', b'Received-SPF: fail x'], b'fail'),
    ([b'Authentication-Results: mx.example.com; spf=pass smtp.mailfrom=example.org'], b'pass'),
    ([b'Authentication-Results: mx.example.com; dkim=pass; spf=none; x'], b'none'),
    ([b'Authentication-Results: mx.example.com; dkim=pass'], b''), ([b'Received-SPF:'], b'')])
def test_spf_is_taken_from_what_a_policy_server_adds(lines, result):
    """RFC 7208, 9; what nobody knows as a result is none."""
    assert asking.spf(lines) == result


def test_cheap_checks_come_first():
    """Counting, then names, then DNS, then greylisting, then other people's programs: what refuses early saves the rest."""
    order = [name for name, _, _, _ in checks.TABLE]
    assert order == [b'ratelimits', b'helorules', b'dnsbl', b'reversedns', b'helorules', b'greylist', b'policyservers',
                     b'spfrules', b'accountlimits']
    settings = checks.Settings(helo=(b'valid',), dnsbl=[dnsbl.Zone(b'zen.example')], reverse=b'exists')
    decision, asked = judge(settings, helo=b'localhost')
    assert decision.verdict == checks.REFUSE and decision.reason.startswith(b'helorules: ') and asked == []


@pytest.mark.parametrize('changes', [{'relay': b'1'}, {'login': b'joe'}])
def test_who_is_no_stranger_is_not_looked_up(changes):
    """Clients that may relay, and logins, meet none of the checks for strangers."""
    settings = checks.Settings(helo=(b'valid',), dnsbl=[dnsbl.Zone(b'zen.example')], reverse=b'confirmed',
                               grey=greylist.Settings(), limits=ratelimits.parse({b'recipients': b'0/1h'}))
    decision, asked = judge(settings, helo=b'x', **changes)
    assert decision.verdict == checks.OK and asked == []


@pytest.mark.parametrize('recipient, exempt', [(b'PostMaster@example.com', True), (b'x@open.example', True),
                                               (b'joe@example.com', False), (b'x@sub.open.example', False)])
def test_exempt_recipients(recipient, exempt):
    """control/checkexempt: an address or @domain, in any case, and nothing below it."""
    settings = checks.Settings(grey=greylist.Settings(), exempt={b'postmaster@example.com': 1, b'@open.example': 2})
    assert (judge(settings, recipient=recipient)[0].verdict == checks.OK) == exempt


# --- SPF -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('rules, spf, reply', [
    ((b'fail',), b'fail', b'550 5.7.23 SPF of example.org does not permit your address 192.0.2.7'),
    ((b'fail',), b'softfail', b''), ((b'fail', b'softfail'), b'softfail', b'550 5.7.23 '), ((b'permerror',), b'permerror', b'550 5.7.24 '),
    ((b'temperror',), b'temperror', b'451 4.7.24 '), ((b'fail',), b'pass', b''), ((b'fail',), b'none', b''), ((b'fail',), b'', b''),
    ((), b'fail', b'')])
def test_results_of_spf(rules, spf, reply):
    """control/spfrules: what it lists is refused, what is not known now for a time (RFC 7372, 3.2); nothing else is."""
    found, _ = judge(checks.Settings(spf=rules), spf=spf)
    assert found.reply[:len(reply) or 1] == reply and found.verdict == (checks.REFUSE if reply else checks.OK)
    assert not reply or found.reason.startswith(b'spfrules: ' + spf + b': SPF of example.org ')


@pytest.mark.parametrize('changes', [{'relay': b'1'}, {'login': b'joe'}, {'recipient': b'postmaster@example.com'}])
def test_spf_is_for_strangers(changes):
    """Whose mail goes anywhere, and for whom recipients are exempt, is not refused by it."""
    settings = checks.Settings(spf=(b'fail',), exempt={b'postmaster@example.com': 1})
    assert judge(settings, spf=b'fail', **changes)[0].verdict == checks.OK


def test_spf_of_this_very_question():
    """A server that tells of SPF at RCPT is heard for the first recipient too; a null sender is named by its HELO."""
    settings = checks.Settings(servers=[policyd.parse(b'/run/x')], spf=(b'fail',))
    judgement = checks.Judgement(facts(sender=b''), settings, checks.Memory(), NOW)
    need, = judgement.step()
    judgement.answers[need] = b'PREPEND', b'Received-SPF: Fail (not his)'
    assert judgement.step().reply == b'550 5.7.23 SPF of mail.example.org does not permit your address 192.0.2.7'


# --- HELO ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('helo, fault', [
    (b'mail.example.org', b''), (b'[192.0.2.7]', b''), (b'[IPv6:2001:db8::1]', b''), (b'localhost', b'no full'),
    (b'192.0.2.7', b'no full'), (b'', b'no full'), (b'[bogus]', b'no full'), (b'a..b', b'no full'), (b'x y.example', b'no full'),
    (b'MX.example.com', b'this host'), (b'[192.0.2.1]', b'this host'), (b'evil\xff.example', b'no full')])
def test_helo_names(helo, fault):
    """valid: a full name or a literal; notours: not this host's name or address."""
    found = clientnames.fault_of_helo(helo, (b'valid', b'notours'), {b'mx.example.com', b'192.0.2.1'})
    assert fault in found and bool(found) == bool(fault)
    assert clientnames.fault_of_helo(helo, (), {b'mx.example.com'}) == b''


@pytest.mark.parametrize('answer, verdict, code', [
    (ok(b'192.0.2.9'), checks.OK, b''), (NONE, checks.REFUSE, b'550'), ((b'nodata', b'', []), checks.REFUSE, b'550'),
    ((b'nullmx', b'', []), checks.REFUSE, b'550'), (TEMP, checks.REFUSE, b'451')])
def test_helo_in_dns(answer, verdict, code):
    """resolves: what is not there is refused; what is not known now is temporary."""
    decision, asked = judge(checks.Settings(helo=(b'resolves',)), {(b'M', b'mail.example.org'): answer})
    assert asked == [(b'M', b'mail.example.org')] and decision.verdict == verdict and decision.reply.startswith(code)


# --- lists in DNS ------------------------------------------------------------------------------------------------

ZONES = [dnsbl.parse(b'zen.example 3 =127.0.0.2-4,127.0.0.10'), dnsbl.parse(b'SPAM.example 2'), dnsbl.parse(b'good.example -4')]
LISTED, TWO, PBL = ok(b'127.0.0.2'), ok(b'127.0.0.3', b'127.0.0.9'), ok(b'127.0.0.9')


@pytest.mark.parametrize('answers, threshold, weight, listed, trouble', [
    ((NONE, NONE, NONE), 3, 0, [], False),
    ((LISTED, NONE, NONE), 3, 3, [b'zen.example'], False),
    ((TWO, NONE, NONE), 3, 3, [b'zen.example'], False),
    ((PBL, NONE, NONE), 3, 0, [], False),                                   # an answer that does not count
    ((NONE, LISTED, NONE), 3, 2, [], False),                                # not enough
    ((LISTED, LISTED, NONE), 5, 5, [b'zen.example', b'spam.example'], False),
    ((LISTED, LISTED, LISTED), 3, 1, [], False),                            # somebody speaks for it
    ((LISTED, NONE, TEMP), 3, 3, [], True),                                 # ... or could have
    ((TEMP, NONE, NONE), 3, 0, [], True),
    ((NONE, TEMP, NONE), 3, 0, [], False),                                  # could not have been enough
    ((LISTED, TEMP, NONE), 3, 3, [b'zen.example'], False),                  # is enough anyway
    ((ok(b'127.255.255.254'), NONE, NONE), 1, 0, [], True),                 # it does not want to be asked
    ((ok(b'203.0.113.80'), NONE, NONE), 1, 0, [], True),                    # a parked domain answers everything
    ((ok(b'127.0.0.2', b'203.0.113.80'), NONE, NONE), 1, 0, [], True),
])
def test_weights(answers, threshold, weight, listed, trouble):
    """What the lists weigh together; one that does not answer counts only if it could turn the decision."""
    found = dnsbl.weigh(ZONES, answers, threshold)
    assert (found.weight, list(found.listed), bool(found.trouble)) == (weight, listed, trouble)


@pytest.mark.parametrize('failure, verdict', [(checks.DEFER, checks.REFUSE), (checks.ACCEPT, checks.OK)])
def test_trouble_is_never_a_5xx(failure, verdict):
    """A list that does not answer: 451, or acceptance with the reason in the log, as control/checkfailure says."""
    settings = checks.Settings(dnsbl=[dnsbl.Zone(b'zen.example')], failure=failure)
    decision, _ = judge(settings, {(b'I', b'7.2.0.192.zen.example'): TEMP})
    assert decision.verdict == verdict and b'did not answer in time' in decision.reason
    assert decision.reply[:1] in (b'4', b'')


@given(st.lists(st.tuples(st.integers(-5, 5).filter(bool), st.sampled_from([NONE, LISTED, PBL, TEMP])), max_size=6),
       st.integers(1, 6))
def test_an_unknown_list_never_decides_alone(lists, threshold):
    """Listed: so it would be whatever the silent lists had said. Not listed and no trouble: likewise."""
    zones = [dnsbl.Zone(b'z%d.example' % n, weight) for n, (weight, _) in enumerate(lists)]
    found = dnsbl.weigh(zones, [answer for _, answer in lists], threshold)
    for silent in (LISTED, NONE):
        known = dnsbl.weigh(zones, [silent if answer is TEMP else answer for _, answer in lists], threshold)
        assert not known.trouble and (found.trouble or bool(known.listed) == bool(found.listed))


@pytest.mark.parametrize('address, name', [
    (b'192.0.2.7', b'7.2.0.192.x.example'),
    (b'2001:db8::1', b'1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.x.example')])
def test_the_name_that_is_asked_for(address, name):
    """RFC 5782, 2.1 and 2.4."""
    assert dnsbl.query(ip.pack(address), b'x.example') == name


@pytest.mark.parametrize('line', [b'zen', b'zen.example 0', b'zen.example ten', b'zen.example =10.0.0.1', b'zen.example =127.0.0.300',
                                  b'zen.example =127.0.0.9-2', b'zen.example 9999', b'zen..example', b'zen.example 1 2 x'])
def test_lines_that_mean_nothing(line):
    """A line of control/dnsbl that cannot be meant is an error in words."""
    with pytest.raises(ValueError):
        dnsbl.parse(line)


# --- the name of the address -----------------------------------------------------------------------------------------

PTR, FORWARD = (b'P', b'192.0.2.7'), (b'A', b'mail.example.org')


@pytest.mark.parametrize('rule, ptr, forward, verdict, code', [
    (b'exists', NONE, None, checks.REFUSE, b'550 5.7.25'), (b'exists', ok(b'mail.example.org'), None, checks.OK, b''),
    (b'exists', TEMP, None, checks.REFUSE, b'451'), (b'exists', ok(), None, checks.REFUSE, b'550 5.7.25'),
    (b'confirmed', ok(b'mail.example.org'), ok(b'192.0.2.7'), checks.OK, b''),
    (b'confirmed', ok(b'mail.example.org'), ok(b'192.0.2.8', b'192.0.2.7'), checks.OK, b''),
    (b'confirmed', ok(b'mail.example.org'), ok(b'192.0.2.8'), checks.REFUSE, b'550 5.7.25'),
    (b'confirmed', ok(b'mail.example.org'), NONE, checks.REFUSE, b'550 5.7.25'),
    (b'confirmed', ok(b'mail.example.org'), TEMP, checks.REFUSE, b'451')])
def test_reverse_dns(rule, ptr, forward, verdict, code):
    """exists: a name; confirmed: one that leads back (RFC 8601, 2.7.3)."""
    decision, _ = judge(checks.Settings(reverse=rule), {PTR: ptr, FORWARD: forward})
    assert decision.verdict == verdict and decision.reply.startswith(code)


def test_one_of_several_names_is_enough():
    """Of five names the last leads back; further ones are not looked up."""
    names = [b'h%d.example' % n for n in range(9)]
    answers = {PTR: ok(*names), **{(b'A', name): NONE for name in names}, (b'A', b'h4.example'): ok(b'192.0.2.7')}
    decision, asked = judge(checks.Settings(reverse=b'confirmed'), answers)
    assert decision.verdict == checks.OK and len(asked) == 6


def test_what_is_asked_while_the_client_is_greeted():
    """DNS that will be wanted at RCPT is on its way at CONNECT; nothing for clients that may relay."""
    settings = checks.Settings(dnsbl=[dnsbl.Zone(b'zen.example')], reverse=b'confirmed')
    assert checks.early(facts(stage=b'connect'), settings) == [(b'I', b'7.2.0.192.zen.example'), (b'P', b'192.0.2.7')]
    assert checks.early(facts(relay=b'1'), settings) == [] == checks.early(facts(ip=b''), settings)


# --- rates -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('words, number, seconds', [(b'5/1m', 5, 60), (b'0/10s', 0, 10), (b'7/2d', 7, 172800), (b'9/3h', 9, 10800)])
def test_limits(words, number, seconds):
    """N/TIME."""
    limit = ratelimits.parse_limit(words)
    assert (limit.number, limit.seconds) == (number, seconds)


@pytest.mark.parametrize('words', [b'', b'5', b'5/', b'5/m', b'/1m', b'5/0m', b'5/1w', b'-1/1m', b'5/1m ', b'x/1m'])
def test_limits_that_mean_nothing(words):
    """Everything else."""
    with pytest.raises(ValueError):
        ratelimits.parse_limit(words)


def test_rates_of_messages_and_recipients():
    """A client beyond its limit is told 450; another one is not concerned; a window later it may go on."""
    memory, settings = checks.Memory(), checks.Settings(ratelimits.parse({b'messages': b'2/1m', b'recipients': b'3/1m'}))
    said = [judge(settings, memory=memory, stage=b'mail')[0].reply[:9] for _ in range(3)]
    assert said == [b'', b'', b'450 4.7.1']
    assert judge(settings, memory=memory, stage=b'mail', ip=b'192.0.2.8')[0].verdict == checks.OK
    assert [judge(settings, memory=memory)[0].verdict for _ in range(4)] == [checks.OK] * 3 + [checks.REFUSE]
    assert judge(settings, memory=memory, stage=b'mail', now=NOW + 120)[0].verdict == checks.OK


@given(st.lists(st.floats(0, 300), min_size=1, max_size=200).map(sorted), st.integers(1, 20))
def test_no_window_has_more_than_twice_the_limit(times, number):
    """In any 60 seconds no more than the limit and the share of the window before are taken; in aligned ones, the limit."""
    windows, limit = ratelimits.Windows(), ratelimits.parse_limit(b'%d/1m' % number)
    taken = [time for time in times if windows.take(b'x', b'192.0.2.7', limit, time)]
    assert taken[:1] == times[:1]
    for start in range(0, 300, 60):
        assert sum(start <= time < start + 60 for time in taken) <= number


def test_a_window_is_bounded(monkeypatch):
    """D-02: beyond MOST addresses the rest share one count, and memory does not grow."""
    monkeypatch.setattr(ratelimits, 'MOST', 10)
    windows, limit = ratelimits.Windows(), ratelimits.parse_limit(b'5/1m')
    taken = [windows.take(b'x', b'%d' % n, limit, NOW) for n in range(100)]
    assert taken == [True] * 15 + [False] * 85 and len(windows.open[b'x'][1]) == 11


# --- greylisting -----------------------------------------------------------------------------------------------------

GREY = greylist.Settings(300, 3600, 86400, 2)


def waits(grey, now, settings=GREY, **changes):
    return grey.wait(facts(**changes), settings, now)


def test_a_second_try_in_time_is_taken():
    """New: wait. Too early: wait for the rest. In time: taken, and known for `keep` seconds, counted from the last mail."""
    grey = greylist.Greylist()
    assert waits(grey, NOW) == 300 and waits(grey, NOW + 100) == 200
    assert waits(grey, NOW + 300, sender=b'ANN@Example.org', ip=b'192.0.2.99') == 0      # a neighbour, and no case
    assert waits(grey, NOW + 80000) == 0 and waits(grey, NOW + 160000) == 0
    assert waits(grey, NOW + 160000 + 86401) == 300


def test_a_second_try_too_late_is_a_first_one():
    """Beyond `retry` it begins anew."""
    grey = greylist.Greylist()
    assert waits(grey, NOW) == 300 and waits(grey, NOW + 3601) == 300 and waits(grey, NOW + 3601 + 300) == 0


@pytest.mark.parametrize('changes', [{'sender': b'bob@example.org'}, {'recipient': b'x@example.com'}, {'ip': b'198.51.100.7'},
                                     {'ip': b'2001:db8::1'}])
def test_what_makes_a_new_one(changes):
    """Another sender, recipient or network waits for itself."""
    grey = greylist.Greylist()
    waits(grey, NOW)
    assert waits(grey, NOW + 400, **changes) == 300


def test_a_network_that_came_again_often_is_let_in():
    """allow: after two senders of one network all others of it are taken at once, and of no other network."""
    grey = greylist.Greylist()
    for sender in (b'a@x.example', b'b@x.example'):
        waits(grey, NOW, sender=sender)
        assert waits(grey, NOW + 400, sender=sender) == 0
    assert waits(grey, NOW + 500, sender=b'c@x.example') == 0
    assert waits(grey, NOW + 500, sender=b'c@x.example', ip=b'198.51.100.1') == 300
    assert waits(grey, NOW + 86400 * 3, sender=b'd@x.example') == 300       # it has been quiet for too long


def test_spf_pass_makes_the_domain_the_key():
    """Where SPF says pass, another network of the same domain is no new one; other results do not count."""
    grey = greylist.Greylist()
    waits(grey, NOW, spf=b'pass')
    assert waits(grey, NOW + 400, spf=b'pass', ip=b'198.51.100.1') == 0
    assert waits(grey, NOW + 400, spf=b'softfail', ip=b'198.51.100.1') == 300


def test_clocks_that_jump_back():
    """An entry from the future counts as new, not as a wait of years."""
    grey = greylist.Greylist()
    waits(grey, NOW + 10 ** 8)
    assert waits(grey, NOW) == 300 and waits(grey, NOW + 301) == 0


def test_what_was_written_down_is_taken_up():
    """changed, loaded into another one, gives the same decisions; old entries are not kept."""
    grey, other = greylist.Greylist(), greylist.Greylist()
    waits(grey, NOW)
    waits(grey, NOW + 400)
    waits(grey, NOW, sender=b'old@x.example')
    for key, *numbers in grey.changed:
        other.load(key, *numbers)
    assert other.entries == grey.entries
    other.expire(NOW + 7200, GREY)
    assert waits(other, NOW + 7200) == 0 and waits(other, NOW + 7200, sender=b'old@x.example') == 300


def test_greylists_are_bounded(monkeypatch):
    """Beyond MOST entries those that never came again go first."""
    monkeypatch.setattr(greylist, 'MOST', 100)
    grey = greylist.Greylist()
    waits(grey, NOW)
    waits(grey, NOW + 300)
    for n in range(1000):
        waits(grey, NOW + 301, sender=b's%d@x.example' % n)
    assert len(grey.entries) <= 100 and waits(grey, NOW + 302) == 0


@pytest.mark.parametrize('table', [{b'dely': b'3'}, {b'delay': b'x'}, {b'allow': b'-1'}])
def test_greylist_words(table):
    """Unknown words and values that are no numbers are errors."""
    with pytest.raises(ValueError):
        greylist.parse(table)


# --- accounts --------------------------------------------------------------------------------------------------------

def send(accounts, limits, recipients, login=b'joe', now=NOW, session=b'1.1'):
    """One message of a login: why it is held, or b''."""
    for recipient in recipients:
        accounts.recipient(session, recipient)
    return accounts.message(session, login, limits, now)


def test_messages_beyond_the_limit_are_held_and_not_counted():
    """The third of two is held; so is the fourth; an hour later there is room again."""
    accounts, limits = accountlimits.Accounts(), accountlimits.parse({b'': b'messages=2/1h'})
    said = [send(accounts, limits, [b'a@x.example']) for _ in range(4)]
    assert said[:2] == [b'', b''] and all(b'more than 2/1h messages (2 before, 1 now)' == why for why in said[2:])
    assert send(accounts, limits, [b'a@x.example'], now=NOW + 3600) == b''
    assert send(accounts, limits, [b'a@x.example'], login=b'ann') == b''


def test_new_recipients():
    """Recipients that the account has written to do not count; strangers do; after 90 days all are strangers."""
    accounts, limits = accountlimits.Accounts(), accountlimits.parse({b'': b'newrecipients=2/1d'})
    assert send(accounts, limits, [b'a@x.example', b'b@x.example']) == b''
    assert send(accounts, limits, [b'A@X.example', b'b@x.example'] * 10) == b''
    assert b'newrecipients' in send(accounts, limits, [b'a@x.example', b'c@x.example'])
    assert send(accounts, limits, [b'c@x.example'], now=NOW + 86400) == b''
    assert b'newrecipients' in send(accounts, limits, [b'a@x.example', b'b@x.example', b'c@x.example'], now=NOW + 91 * 86400 + 86400)


def test_whose_limits():
    """The account's own line, else its domain's, else the one for all; none: no limit."""
    limits = accountlimits.parse({b'joe@x.example': b'messages=1/1h', b'@x.example': b'messages=2/1h', b'': b'messages=3/1h'})
    assert [limits.of(login)[0][1].number for login in (b'JOE@x.example', b'ann@x.example', b'joe')] == [1, 2, 3]
    assert accountlimits.parse({b'joe': b'messages=1/1h'}).of(b'ann') == ()


@pytest.mark.parametrize('value', [b'', b'messages', b'messages=', b'mails=1/1h', b'messages=1/1h,', b'messages=1/1h recipients=2/1h'])
def test_limits_of_accounts_that_mean_nothing(value):
    """Errors name the account."""
    with pytest.raises(ValueError) as problem:
        accountlimits.parse({b'joe': value})
    assert problem.value.args[0] == b'joe'


def test_a_transaction_that_was_given_up_does_not_count():
    """Recipients before RSET are forgotten with the first recipient of the next transaction."""
    memory = checks.Memory()
    settings = checks.Settings(accounts=accountlimits.parse({b'': b'recipients=2/1h'}))
    judged = dict(settings=settings, memory=memory, login=b'joe')
    for n in range(5):
        judge(**judged, recipient=b'%d@x.example' % n, count=b'%d' % n)
    judge(**judged, recipient=b'a@x.example', count=b'0')
    assert judge(**judged, stage=b'data', count=b'1')[0].verdict == checks.OK
    judge(**judged, recipient=b'b@x.example', count=b'0')
    judge(**judged, recipient=b'c@x.example', count=b'1')
    held = judge(**judged, stage=b'data', count=b'2')[0]
    assert held.verdict == checks.HOLD and b'joe: more than 2/1h recipients (1 before, 2 now)' in held.reason


def test_what_accounts_did_is_taken_up():
    """changed, and written(), each loaded into another one, count the same."""
    accounts, limits = accountlimits.Accounts(), accountlimits.parse({b'': b'messages=3/1h,newrecipients=3/1h'})
    send(accounts, limits, [b'a@x.example'])
    send(accounts, limits, [b'b c@x.example'], login=b'Joe = Doe')
    for entries in (accounts.changed, list(accounts.written())):
        other = accountlimits.Accounts()
        for key, *numbers in entries:
            other.load(key, *numbers)
        assert other.counts == accounts.counts and other.known == accounts.known
    accounts.expire(NOW + 100 * 86400)
    assert accounts.counts == {} == accounts.known


# --- policy servers --------------------------------------------------------------------------------------------------

SERVER = policyd.parse(b'127.0.0.1:10031 stages=rcpt,data default=accept timeout=3')


@pytest.mark.parametrize('line, place', [(b'127.0.0.1:10031', (b'127.0.0.1', 10031)), (b'[::1]', (b'::1', 10023)),
                                         (b'inet:127.0.0.1:7', (b'127.0.0.1', 7)), (b'unix:/run/x', b'/run/x'), (b'/run/x', b'/run/x')])
def test_places(line, place):
    """An address and port, or a path, with Postfix's words in front or without."""
    server = policyd.parse(line)
    assert (server.place, server.stages, server.default, server.timeout) == (place, (b'rcpt',), b'defer', 10)


@pytest.mark.parametrize('line', [b'policy.example:1', b'127.0.0.1:x', b'/run/x stages=vrfy', b'/run/x default=reject',
                                  b'/run/x timeout=0', b'/run/x 5', b'run/x'])
def test_lines_of_policyservers_that_mean_nothing(line):
    """A default is never a refusal; other words are errors."""
    with pytest.raises(ValueError):
        policyd.parse(line)


def test_a_question():
    """Attributes as Postfix sends them; what could end a line cannot get in."""
    asked = policyd.request(facts(sender=b'a\nsize=1@x', login=b'joe', size=b'42', tls=b'TLSv1.3', cipher=b'X'))
    lines = asked.split(b'\n')
    assert lines[0] == b'request=smtpd_access_policy' and lines[-2:] == [b'', b''] and asked.count(b'\n\n') == 1
    found = dict(line.split(b'=', 1) for line in lines[:-2])
    assert (found[b'encryption_protocol'], found[b'encryption_cipher']) == (b'TLSv1.3', b'X')
    assert found[b'sender'] == b'a?size=1@x' and found[b'protocol_state'] == b'RCPT' and found[b'sasl_username'] == b'joe'
    assert found[b'instance'] == b'1.1.1' and found[b'size'] == b'42' and found[b'client_name'] == b'unknown'


@given(st.binary(max_size=60), st.integers(0, 60))
def test_answers_come_in_pieces(tail, cut):
    """An answer is read the same however it is cut; nothing is complete before its empty line."""
    data = b'action=450 4.7.1 later\n\n'
    assert policyd.parse_answer(data + tail) == (b'450', b'4.7.1 later', tail)
    assert policyd.parse_answer(data[:min(cut, len(data) - 1)]) is None


@pytest.mark.parametrize('action, words, meaning', [
    (b'OK', b'', (policyd.PASS, b'')), (b'DUNNO', b'', (policyd.PASS, b'')), (b'PREPEND', b'X: y', (policyd.FIELD, b'X: y')),
    (b'PREPEND', b'no field', (policyd.UNKNOWN, b'')), (b'PREPEND', b'', (policyd.UNKNOWN, b'')),
    (b'REJECT', b'', (policyd.REPLY, b'554 5.7.1 not accepted')), (b'REJECT', b'go away', (policyd.REPLY, b'554 5.7.1 go away')),
    (b'REJECT', b'5.1.1 no such', (policyd.REPLY, b'554 5.1.1 no such')),
    (b'REJECT', b'4.1.1 no such', (policyd.REPLY, b'554 5.7.1 4.1.1 no such')),
    (b'DEFER_IF_PERMIT', b'greylisted', (policyd.IF_PERMIT, b'450 4.7.1 greylisted')),
    (b'DEFER_IF_REJECT', b'4.7.2 wait', (policyd.IF_REJECT, b'450 4.7.2 wait')),
    (b'DEFER', b'', (policyd.REPLY, b'450 4.7.1 not accepted now; try again later')),
    (b'451', b'4.7.0 wait', (policyd.REPLY, b'451 4.7.0 wait')), (b'550', b'no', (policyd.REPLY, b'550 5.7.1 no')),
    (b'HOLD', b'look at it', (policyd.HOLD, b'')), (b'DISCARD', b'', (policyd.UNKNOWN, b'')), (b'250', b'', (policyd.UNKNOWN, b'')),
    (b'FILTER', b'x:y', (policyd.UNKNOWN, b''))])
def test_actions(action, words, meaning):
    """Postfix's access(5) as far as it can be meant here."""
    assert policyd.meaning(action, words) == meaning


@pytest.mark.parametrize('line, answer, verdict, code', [
    (b'/x', (None, b'no answer'), checks.REFUSE, b'451'), (b'/x default=accept', (None, b'no answer'), checks.OK, b''),
    (b'/x', (b'FILTER', b''), checks.REFUSE, b'451'), (b'/x', (b'REJECT', b''), checks.REFUSE, b'554'),
    (b'/x', (b'HOLD', b''), checks.HOLD, b''), (b'/x', (b'DUNNO', b''), checks.OK, b''),
    (b'/x', (b'PREPEND', b'X: y'), checks.OK, b''), (b'/x', (b'PREPEND', b'x'), checks.REFUSE, b'451')])
def test_what_an_answer_amounts_to(line, answer, verdict, code):
    """A server that hangs, dies or talks nonsense: its default, temporary unless its line says accept."""
    settings = checks.Settings(servers=[policyd.parse(line)])
    decision, _ = judge(settings, {(b'policy', 0, policyd.request(facts())): answer})
    assert decision.verdict == verdict and decision.reply.startswith(code)
    assert decision.fields == ((b'X: y',) if answer == (b'PREPEND', b'X: y') else ())
    assert verdict == checks.OK and answer[0] or b'policyservers: ' in decision.reason or b'/x: ' in decision.reason


LATER, NEVER, HELD = (b'DEFER', b'busy'), (b'REJECT', b'no'), (b'HOLD', b'')
PERMIT, SOFT = (b'DEFER_IF_PERMIT', b'grey'), (b'DEFER_IF_REJECT', b'unsure')


@pytest.mark.parametrize('answers, verdict, reply', [
    ((PERMIT, NEVER), checks.REFUSE, b'554 5.7.1 no'), ((PERMIT, LATER), checks.REFUSE, b'450 4.7.1 busy'),
    ((PERMIT, (b'OK', b'')), checks.REFUSE, b'450 4.7.1 grey'), ((PERMIT, HELD), checks.REFUSE, b'450 4.7.1 grey'),
    ((SOFT, NEVER), checks.REFUSE, b'450 4.7.1 unsure'), ((SOFT, LATER), checks.REFUSE, b'450 4.7.1 busy'),
    ((SOFT, (b'DUNNO', b'')), checks.OK, b''), ((SOFT, HELD), checks.HOLD, b''), ((NEVER, SOFT), checks.REFUSE, b'554 5.7.1 no'),
    ((PERMIT, SOFT, NEVER), checks.REFUSE, b'450 4.7.1 unsure'), ((SOFT, (b'DEFER_IF_PERMIT', b'grey')), checks.REFUSE, b'450 4.7.1 grey')])
def test_what_depends_on_those_behind(answers, verdict, reply):
    """access(5): DEFER_IF_PERMIT defers what nobody refuses, DEFER_IF_REJECT what somebody would refuse for good."""
    settings = checks.Settings(servers=[policyd.parse(b'/%d' % n) for n, _ in enumerate(answers)])
    decision, _ = judge(settings, {(b'policy', n, policyd.request(facts())): answer for n, answer in enumerate(answers)})
    assert (decision.verdict, decision.reply) == (verdict, reply)
    assert not reply or decision.reason.startswith(b'policyservers: /')


def test_what_depends_on_a_check_behind():
    """The other checks of the same command count as well: a refusal by spfrules is deferred."""
    settings = checks.Settings(servers=[policyd.parse(b'/x')], spf=(b'fail',))
    decision, _ = judge(settings, {(b'policy', 0, policyd.request(facts(spf=b'fail'))): SOFT}, spf=b'fail')
    assert decision.reply == b'450 4.7.1 unsure' and b'; spfrules: fail' in decision.reason


def test_the_whole_is_bounded_in_time():
    """late(): what control/checkfailure says, naming the check that was waited for."""
    settings = checks.Settings(reverse=b'exists')
    judgement = checks.Judgement(facts(), settings, checks.Memory(), NOW)
    assert judgement.step() == [PTR]
    decision = judgement.late()
    assert decision.reply.startswith(b'451 ') and decision.reason == b'reversedns: no answer in time'


@given(st.builds(facts, **{name: st.binary(max_size=30).map(lambda b: b.replace(b'\0', b'')) for name in BASE if name != 'stage'},
                 stage=st.sampled_from(asking.STAGES)), st.sampled_from([TEMP, NONE, LISTED, ok(b'mail.example.org')]))
def test_any_facts_get_a_decision(found, answer):
    """Total on every input: whatever a client says, there is a decision whose reply is one line of printable ASCII."""
    settings = checks.Settings(ratelimits.parse({b'messages': b'1/1m', b'recipients': b'1/1m'}), ZONES, 3, b'confirmed',
                               clientnames.RULES, {b'mx'}, GREY, [policyd.parse(b'/x stages=connect,helo,mail,rcpt,data')],
                               accountlimits.parse({b'': b'messages=1/1h'}))
    judgement = checks.Judgement(found, settings, checks.Memory(), NOW)
    while isinstance(step := judgement.step(), list):
        judgement.answers.update((need, (b'DUNNO', b'') if need[0] == b'policy' else answer) for need in step)
    assert step.verdict in (checks.OK, checks.REFUSE, checks.HOLD)
    assert all(32 <= byte < 127 for byte in step.reply + step.reason)
