"""What the control files tell qpy-check, as one core.checks.Settings that is made anew when a file changes."""
from qpy.core import accountlimits, checks, clientnames, dnsbl, greylist, policyd, ratelimits, text
from qpy.lib import controls

FILES = (b'me', b'accountlimits', b'checkexempt', b'checkfailure', b'dnsbl', b'dnsblthreshold', b'greylist',
         b'helorules', b'locals', b'policyservers', b'ratelimits', b'reversedns', b'spfrules', b'timeoutcheck')


def load(home):
    """The Settings of DIR/control.  controls.Broken, OSError."""
    own = set(controls.lookup(home, b'locals') or ()) | {text.lower(controls.me(home))}
    limits = by_words(home, b'ratelimits', ratelimits.parse)
    accounts = by_words(home, b'accountlimits', accountlimits.parse)
    return checks.Settings(
        limits, by_lines(home, b'dnsbl', dnsbl.parse), controls.number(home, b'dnsblthreshold'),
        controls.line(home, b'reversedns'), helo_rules(home), own, by_words(home, b'greylist', greylist.parse),
        by_lines(home, b'policyservers', policyd.parse), accounts, controls.lookup(home, b'checkexempt') or (),
        controls.line(home, b'checkfailure'), controls.number(home, b'timeoutcheck'),
        by_lines(home, b'spfrules', checks.spf_rule))


def watched(home):
    """Settings that follow the control files: .get()."""
    return controls.Watched(home, FILES, load)


def by_lines(home, name, parse):
    """[parse(line)] of a list file."""
    found = []
    for number, line in controls.numbered(home, name):
        try:
            found.append(parse(line))
        except ValueError as problem:
            raise controls.Broken(name, number, line, str(problem).encode()) from None
    return found


def by_words(home, name, parse):
    """parse({key: value}) of a map file, None if it is absent or has no line."""
    lines = controls.mapping_lines(home, name)
    if not lines:
        return None
    try:
        return parse({key: value for key, (value, _) in lines.items()})
    except ValueError as problem:
        key, why = problem.args
        raise controls.Broken(name, lines[key][1], key + b':' + lines[key][0], why) from None


def helo_rules(home):
    """The words of control/helorules."""
    for number, word in controls.numbered(home, b'helorules'):
        if word not in clientnames.RULES:
            raise controls.Broken(b'helorules', number, word, b'not known; one of: ' + b' '.join(clientnames.RULES))
    return tuple(word for _, word in controls.numbered(home, b'helorules'))
