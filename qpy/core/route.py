"""Where an address goes, and why: qmail-send's rewriting, then the account, then the .qmail file.

Everything here is a function of an address and of what the control files say; it is asked by qpy-send,
qpy-smtpd (by way of qpy-users) and by whoever explains an address. Each result carries its reason: the file
and the line.

    joe                      joe@envnoathost
    joe%dom@hack             joe@dom                 if hack is in percenthack; again while that holds
    joe@here.example         local joe               here.example in locals
    joe@virt.example         local bob-joe@...       virtualdomains, first hit of: joe@virt.example,
                                                     virt.example, .example, the empty key;
                                                     an empty value means remote
    joe@elsewhere.example    remote
"""

from qpy.core import text
from qpy.core.getpw import Trouble

LOCAL, REMOTE = b'local', b'remote'
YES, NO, UNKNOWN, TEMP = b'yes', b'no', b'unknown', b'temp'
VERP = b'-@[]'              # end of a sender that asks for a sender of its own for each recipient


class Controls:
    """What rewriting depends on: {entry: line number} of locals and percenthack, {key: (value, line)} of
    virtualdomains, all keys in lower case; envnoathost. Line 0 is a default."""

    __slots__ = ('locals', 'virtualdomains', 'percenthack', 'envnoathost')

    def __init__(self, locals, virtualdomains=(), percenthack=(), envnoathost=b'envnoathost'):
        self.locals, self.virtualdomains = locals, dict(virtualdomains)
        self.percenthack, self.envnoathost = dict(percenthack), envnoathost


class Route:
    """Where a recipient goes.

    channel: LOCAL or REMOTE. address: after the rewriting. recipient: address with the virtual domain's
    prefix, as lspawn gets it. domain: of the address. reason: which file and line."""

    __slots__ = ('channel', 'recipient', 'address', 'domain', 'reason')

    def __init__(self, channel, recipient, address, domain, reason):
        self.channel, self.recipient, self.address = channel, recipient, address
        self.domain, self.reason = domain, reason

    def __repr__(self):
        return 'Route%r' % ((self.channel, self.recipient, self.address, self.domain, self.reason),)


def split(address):
    """(local part, domain) at the last @; (address, b'') without one."""
    local, at, domain = address.rpartition(b'@')
    return (local, domain) if at else (address, b'')


def rewrite(address, controls):
    """The Route of an envelope recipient."""
    address, steps = qualify(address, controls)
    domain = split(address)[1]
    line = controls.locals.get(text.lower(domain))
    if line is not None:
        return Route(LOCAL, address, address, domain, steps + named(b'locals', line))
    key, found = virtual(address, controls)
    if found is None:
        reason = steps + b'neither in control/locals nor in virtualdomains'
        return Route(REMOTE, address, address, domain, reason)
    prefix, line = found
    reason = steps + named(b'virtualdomains', line) + b', ' + (key or b'the empty key')
    if not prefix:
        return Route(REMOTE, address, address, domain, reason + b' is exempted')
    return Route(LOCAL, prefix + b'-' + address, address, domain, reason + b' belongs to ' + prefix)


def named(file, line):
    """File and line as a person reads them."""
    return b'control/' + file + b' line %d' % line if line else b'control/me (no ' + file + b')'


def qualify(address, controls):
    """(address with a domain and without percent hack, reasons so far): the first two steps."""
    steps = b''
    if b'@' not in address:
        address += b'@' + controls.envnoathost
        steps = b'control/envnoathost; '
    local, domain = split(address)
    while text.lower(domain) in controls.percenthack and b'%' in local:
        steps += named(b'percenthack', controls.percenthack[text.lower(domain)])
        local, _, domain = local.rpartition(b'%')
        address = local + b'@' + domain
        steps += b' makes it ' + address + b'; '
        local, domain = split(address)
    return address, steps


def keys(address):
    """The keys of virtualdomains that cover an address, the most special first."""
    address = text.lower(address)
    domain = split(address)[1]
    yield address
    yield domain
    yield from suffixes(domain)


def suffixes(domain):
    """Each suffix that begins with a dot, the longest first, then the empty one."""
    at = domain.find(b'.')
    while at >= 0:
        yield domain[at:]
        at = domain.find(b'.', at + 1)
    yield b''


def virtual(address, controls):
    """(key, (prefix, line)) of the first key of virtualdomains that covers an address, else (b'', None)."""
    for key in keys(address):
        found = controls.virtualdomains.get(key)
        if found is not None:
            return key, found
    return b'', None


def strip_prefix(recipient, controls):
    """A recipient as its sender knows it: without the prefix that virtualdomains gives its domain.

    As in qmail only keys without a local part count: for the others the prefix stays."""
    domain = text.lower(split(recipient)[1])
    for key in (domain, *suffixes(domain)):
        found = controls.virtualdomains.get(key)
        if found is not None:
            prefix = found[0] + b'-'
            return recipient[len(prefix):] if found[0] and recipient.startswith(prefix) else recipient
    return recipient


# --- senders ------------------------------------------------------------------------------------------------

def sender_for(sender, recipient):
    """The sender a delivery to recipient shows: list-@host-@[] becomes list-joe=dom@host, others stay."""
    if not sender.endswith(VERP):
        return sender
    owner, at, host = sender[:-len(VERP)].rpartition(b'@')
    local, there, domain = recipient.rpartition(b'@')
    if not at or not there:
        return sender
    return owner + local + b'=' + domain + b'@' + host


def bounce_recipient(sender):
    """Where a bounce to sender goes: a sender that asked for VERP without that ending."""
    return sender[:-len(VERP)] if sender.endswith(VERP) and b'@' in sender[:-len(VERP)] else sender


# --- the whole way ------------------------------------------------------------------------------------------

class Way:
    """The whole route of an address.

    verdict: YES, NO, UNKNOWN or TEMP; route; user (None if none was looked for);
    file (the .qmail file's name, None if there is none or it was not looked for); reason."""

    __slots__ = ('verdict', 'route', 'user', 'file', 'reason')

    def __init__(self, verdict, route, user, file, reason):
        self.verdict, self.route, self.user = verdict, route, user
        self.file, self.reason = file, reason

    def __repr__(self):
        return 'Way%r' % ((self.verdict, self.route, self.user, self.file, self.reason),)


def resolve(address, controls, find_user, look):
    """The Way of an address.

    find_user(local) -> getpw.User, or Trouble. look(user) -> (YES, name) the .qmail file that will be used;
    (YES, b'') default delivery; (YES, None) one of them; (NO, None) none; (UNKNOWN, None) cannot be seen; or Trouble."""
    route = rewrite(address, controls)
    if route.channel == REMOTE:
        return Way(YES, route, None, None, b'not ours to say: ' + route.reason)
    user, local = None, split(route.recipient)[0]
    if not local:
        return Way(NO, route, None, None, route.reason + b'; nothing in front of the @')
    try:
        user = find_user(local)
        verdict, file = look(user)
    except Trouble as trouble:
        return Way(TEMP, route, user, None, route.reason + b'; ' + trouble.text)
    reason = route.reason + b'; ' + user.reason + b'; ' + told(user, verdict, file)
    plain = not user.dash and not user.ext              # who always gets mail
    return Way(YES if plain else verdict, route, user, file or None, reason)


def told(user, verdict, file):
    """What was found in the home directory, in words."""
    home = user.home + b'/'
    if file == b'':
        return home + b': no file that says otherwise, so the default delivery'
    if file is not None:
        return home.rpartition(b'/')[0].rpartition(b'/')[0] + file[2:] if file[:3] == b'../' else home + file
    words = {YES: b'.qmail, or without one the default delivery', NO: b'no .qmail file for ' + user.dash + user.ext,
             UNKNOWN: b'cannot be looked into'}
    return home + b': ' + words[verdict]


def look(user, candidates, kind):
    """The .qmail file of a user, as look() in resolve. candidates: its names in order, relative to the home.

    kind(path) -> YES a regular file, NO none of that name, UNKNOWN not allowed to look; Trouble if it
    cannot be said."""
    for name in candidates:
        found = kind(user.home + b'/' + name)
        if found != NO:
            return found, name if found == YES else None
    return (NO, None) if user.dash else (YES, b'')
