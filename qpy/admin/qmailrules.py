"""What the rules of a qmail's tcp.smtp mean here, where no rblsmtpd and no patch stands beside them and names of clients
are not looked up.

    translated(text)    (text, [(sentence, numbers of lines)], whether all of it has an equal); text is latin-1
"""
from qpy.core import manifest, tcprules

READ_HERE = {'RELAYCLIENT', 'DATABYTES', 'QPYBARELF', 'NOBADHELO', 'NOCHECK', 'FORCETLS', 'SMTPS', 'TLSCLIENTS', 'REQUIREAUTH',
             'HIDECLIENT', 'PROXY', 'XCLIENT', *(name.decode() for name in manifest.FILTERS)}
TARPIT, RECIPIENTS = 'control/ratelimits and maxrcpt', 'control/validrcptto and checkrecipients'
INSTEAD = {         # variables of patches, and what answers to them here
    'TARPITCOUNT': TARPIT, 'TARPITDELAY': TARPIT, 'MAXRCPT': 'control/maxrcpt', 'MAXRECIPIENTS': 'control/maxrcpt',
    'SPFBEHAVIOR': 'control/spfrules, with a policy server', 'GREETDELAY': 'control/greetdelay',
    'NORBL': 'NOCHECK="1"', 'DNSBLSKIP': 'NOCHECK="1"', 'DNSBLLIST': 'control/dnsbl',
    'SMTPAUTH': 'REQUIREAUTH="1" for who has to log in', 'BADMAILFROM': 'control/badmailfrom', 'BADHELO': 'control/badhelo',
    'BADRCPTTO': 'control/badrcptto', 'VALIDRCPTTO': RECIPIENTS, 'RECIPIENTS': RECIPIENTS,
    'DISABLETLS': 'nothing', 'GREYLIST': 'control/greylist'}
FAMILIES = (('CHKUSER', RECIPIENTS), ('DK', 'a milter, in control/milters'), ('SPF', 'control/spfrules, with a policy server'))
NAMES = ('the warm qpy-smtpd looks up no names of clients, and this matches nobody: write addresses; whether a client has a '
         'name is asked by control/reversedns')
BLOCKED = 'RBLSMTPD="-..." is read by rblsmtpd alone: deny is written (554 at once); if no rblsmtpd ran there, write allow'
DEFERRED = ('RBLSMTPD="..." is read by rblsmtpd alone, which refused for the time being (451): here this client is served, '
            'unless you write deny (554)')
LET_THROUGH = 'RBLSMTPD="" is read by rblsmtpd alone: write NOCHECK="1" for a client that control/dnsbl is not asked about'


def translated(text):
    """See the top of the module."""
    lines, remarks, whole = text.split('\n'), {}, True
    for number, line in enumerate(lines, 1) if '\0' not in text else ():
        rule = parsed(line)
        if rule is None:
            continue
        where, allowed, env = rule
        said = list(remarks_on(where, env if allowed else {}))
        if BLOCKED in said:
            lines[number - 1] = where + ':deny'
        whole = whole and NAMES not in said and DEFERRED not in said
        for sentence in said:
            remarks.setdefault(sentence, []).append(number)
    return '\n'.join(lines), list(remarks.items()), whole


def parsed(line):
    """(address, is it allowed, {variable: value}) of a rule; None of a comment, and of what no rule is."""
    data = line.rstrip(' \t').encode('latin-1')
    try:
        where, (allowed, settings) = tcprules.parse_line(data)
    except ValueError:
        return None                     # it is refused, and becomes a comment, where control files are checked
    if data[:1] == b'#':
        return None
    return where.decode('latin-1'), allowed, {name.decode('latin-1'): value.decode('latin-1') for name, value in settings}


def remarks_on(where, env):
    """Sentences on one rule."""
    if where[:1] == '=' or '@' in where and where[:4] != 'tls=':
        yield NAMES
    block = env.get('RBLSMTPD')
    if block is not None and block[:1] == '-':
        yield BLOCKED
        return
    if block:
        yield DEFERRED
    elif block is not None and 'RELAYCLIENT' not in env:
        yield LET_THROUGH
    filtered = any(name.decode() in env for name in manifest.FILTERS)
    for name in sorted(env.keys() - READ_HERE - {'RBLSMTPD'}):
        known = instead(name)
        if known:
            yield '%s is read by nothing here; what answers to it: %s' % (name, known)
        elif not filtered:
            yield '%s is read by nothing here but a filter (QMAILQUEUE), which is handed all variables' % name


def instead(name):
    """What answers to the variable of a patch; '' if it is not known."""
    return INSTEAD.get(name) or next((answer for start, answer in FAMILIES if name.startswith(start)), '')
