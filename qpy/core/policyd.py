"""Postfix's policy delegation protocol, the client's side (http://www.postfix.org/SMTPD_POLICY_README.html).  Pure.

    control/policyservers:      127.0.0.1:10023
                                /run/policyd.sock stages=rcpt,data default=accept timeout=10

    question:   name=value LF ... LF            answer:   action=WORD [text] LF LF

stages: connect, helo, mail, rcpt (the default), data.  default: what counts when the server does not answer: defer
(the default) or accept.
"""
from qpy.core import asking, dnsconf, text

REQUEST = b'smtpd_access_policy'
STATES = {b'connect': b'CONNECT', b'helo': b'EHLO', b'mail': b'MAIL', b'rcpt': b'RCPT', b'data': b'DATA'}
PORT = 10023
METHOD = b'SASL'            # how somebody logged in is not kept; that he did is what servers ask for
ANSWER_LIMIT = 4096
PASS, REPLY, HOLD, UNKNOWN, FIELD, IF_PERMIT, IF_REJECT = range(7)
PASSES = (b'OK', b'DUNNO', b'WARN', b'INFO', b'PERMIT')
DEFERS = {b'DEFER': REPLY, b'DEFER_IF_PERMIT': IF_PERMIT, b'DEFER_IF_REJECT': IF_REJECT}
REJECTED, DEFERRED = b'554 5.7.1 ', b'450 4.7.1 '
WORDS = {REJECTED: b'not accepted', DEFERRED: b'not accepted now; try again later'}


class Server:
    """One line.  place: (address, port), or the path of a socket."""

    __slots__ = ('name', 'place', 'stages', 'default', 'timeout')

    def __init__(self, name, place, stages, default, timeout):
        self.name, self.place, self.stages, self.default, self.timeout = name, place, stages, default, timeout


def parse(line):
    """The Server of a line; ValueError in words."""
    name, *words = [word for word in line.replace(b'\t', b' ').split(b' ') if word]
    options = parse_options(words, {b'stages': b'rcpt', b'default': b'defer', b'timeout': b'10'})
    stages = asking.server_stages(line)
    timeout = text.parse_uint(options[b'timeout'], 3600)
    if not set(stages) <= set(STATES):
        raise ValueError('stages are some of ' + ','.join(stage.decode() for stage in STATES))
    if options[b'default'] not in (b'defer', b'accept') or not timeout:
        raise ValueError('default is defer or accept, timeout a number of seconds')
    return Server(name, parse_place(name, PORT), stages, options[b'default'], timeout)


def parse_options(words, known):
    """known with the values of NAME=VALUE words; ValueError."""
    options = dict(known)
    for word in words:
        name, sign, value = word.partition(b'=')
        if not sign or name not in known:
            raise ValueError('write ADDRESS:PORT or /PATH, then perhaps ' + ' '.join(
                '%s=%s' % (key.decode(), value.decode()) for key, value in known.items()))
        options[name] = value
    return options


def parse_place(name, port):
    """(address, port) or a path; Postfix's words inet: and unix: may stand before it.  ValueError."""
    kind, colon, rest = name.partition(b':')
    if colon and kind in (b'inet', b'unix', b'local'):
        name = rest
    return name if name[:1] == b'/' else dnsconf.parse_server(name, port)


def request(facts):
    """The question about core.checks.Facts, as bytes."""
    pairs = ((b'request', REQUEST), (b'protocol_state', STATES[facts.stage]), (b'protocol_name', facts.protocol),
             (b'helo_name', facts.helo), (b'queue_id', b''), (b'sender', facts.sender), (b'recipient', facts.recipient),
             (b'recipient_count', facts.count if facts.stage == b'data' else b'0'), (b'client_address', facts.ip),
             (b'client_name', facts.name or b'unknown'), (b'reverse_client_name', facts.name or b'unknown'),
             (b'instance', facts.session + b'.' + facts.transaction), (b'size', facts.size or b'0'), (b'sasl_username', facts.login),
             (b'sasl_method', METHOD if facts.login else b''), (b'encryption_protocol', facts.tls),
             (b'encryption_cipher', facts.cipher))
    return b''.join(b'%s=%s\n' % (name, value.translate(_ONE_LINE)) for name, value in pairs) + b'\n'


_ONE_LINE = bytes(ord('?') if c in (0, 10, 13) else c for c in range(256))


def parse_answer(data):
    """(action in upper case, text, what follows) of an answer; None: not complete.  ValueError."""
    head, end, rest = data.partition(b'\n\n')
    if not end:
        if len(data) > ANSWER_LIMIT:
            raise ValueError('an answer without end')
        return None
    found = dict(line.partition(b'=')[::2] for line in head.split(b'\n'))
    action, _, words = found.get(b'action', b'').strip(b' ').partition(b' ')
    if not action:
        raise ValueError('an answer without action')
    return action.upper(), words.strip(b' '), rest


def meaning(action, words):
    """(PASS, b''), (REPLY, reply for the peer), (HOLD, b''), (FIELD, a line for the top of the message) or (UNKNOWN, b'')
    of an action (access(5)); (IF_PERMIT, reply) where nobody refuses, (IF_REJECT, reply) where somebody does for good."""
    if action in PASSES:
        return PASS, b''
    if action == b'HOLD':
        return HOLD, b''
    if action == b'PREPEND' and asking.is_field(words):
        return FIELD, words
    if action == b'REJECT':
        return REPLY, with_code(REJECTED, words)
    if action in DEFERS:
        return DEFERS[action], with_code(DEFERRED, words)
    if len(action) == 3 and action.isdigit() and action[:1] in b'45':
        return REPLY, with_code(b'%s %s ' % (action, b'5.7.1' if action[:1] == b'5' else b'4.7.1'), words)
    return UNKNOWN, b''


def with_code(codes, words):
    """A reply; an enhanced code in front of the words takes the place of ours, if it is of the same class."""
    first, _, rest = words.partition(b' ')
    if first.count(b'.') == 2 and not first.translate(None, b'0123456789.') and first[:1] == codes[:1]:
        return codes[:4] + first + b' ' + (rest or b'not accepted')
    return codes + (words or WORDS[REJECTED if codes[:1] == b'5' else DEFERRED])
