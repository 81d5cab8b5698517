"""The server's side of SMTP AUTH (RFC 4954): PLAIN (RFC 4616), LOGIN, SCRAM-SHA-256 with and without -PLUS (RFC 5802,
7677, 5929), OAUTHBEARER (RFC 7628), XOAUTH2.  Bytes without base64; no clock, no random numbers, no files.

    exchange = MECHANISMS[name](Place(...))
    exchange.step(response or None) -> (CHALLENGE, bytes)      say this, and call step with the answer
                                       (JUDGE, Claim)          is this so? call judged(True or False) -> as step
                                       (DONE, login)
                                       (FAILED, reason)        for the log: the client hears the same whatever it is

What a client claims is judged by others; SCRAM alone is judged here, by keys that tell no password.
"""
from _operator import _compare_digest as same
from binascii import Error, a2b_base64, b2a_base64
from _hashlib import hmac_digest, openssl_sha256 as sha256

CHALLENGE, JUDGE, DONE, FAILED = 'challenge', 'judge', 'done', 'failed'
PASSWORD, TOKEN = b'password', b'token'
USER_MAX, PASSWORD_MAX, TOKEN_MAX = 255, 400, 9000      # bytes
MALFORMED = b'malformed response'
END_POINT = b'tls-server-end-point'
REFUSED_TOKEN = b'{"status":"invalid_token","schemes":"bearer"}'        # RFC 7628, 3.2.2


class Claim:
    """Somebody says he is user.  kind: PASSWORD or TOKEN; secret: that."""

    __slots__ = ('kind', 'user', 'secret')

    def __init__(self, kind, user, secret):
        self.kind, self.user, self.secret = kind, user, secret


class Place:
    """What an exchange may know.  nonce: random, printable, without a comma; binding: of the TLS channel, b'' if it has
    none; plus: -PLUS is offered; keys(user) -> core.passwords.Keys, for a user who does not exist too."""

    __slots__ = ('nonce', 'binding', 'plus', 'keys')

    def __init__(self, nonce=b'', binding=b'', plus=False, keys=None):
        self.nonce, self.binding, self.plus, self.keys = nonce, binding, plus, keys


class Exchange:
    """One login."""

    __slots__ = ('place', 'user', 'next')
    PROMPT = b''                # said to a client that begins without a message

    def __init__(self, place):
        self.place, self.user, self.next = place, b'', self.begin

    def step(self, response):
        """The client's next message, None: he has begun without one."""
        return (CHALLENGE, self.PROMPT) if response is None else self.next(response)

    def fail(self, reason=MALFORMED):
        """No."""
        return FAILED, reason

    def claim(self, kind, user, secret, most):
        """Have it judged, if it can be anything."""
        self.user = user
        if not 0 < len(user) <= USER_MAX or not 0 < len(secret) <= most or {0, 10, 13} & {*user, *secret}:
            return self.fail()
        return JUDGE, Claim(kind, user, secret)

    def judged(self, good):
        """The answer to JUDGE."""
        return (DONE, self.user) if good else self.fail(b'wrong')


class Plain(Exchange):
    """authorisation NUL user NUL password, in one message."""

    __slots__ = ()

    def begin(self, response):
        """RFC 4616, 2; nobody may be somebody else."""
        fields = response.split(b'\0')
        if len(fields) != 3 or fields[0] not in (b'', fields[1]):
            return self.fail()
        return self.claim(PASSWORD, fields[1], fields[2], PASSWORD_MAX)


class Login(Exchange):
    """The user, unless the client has sent him at once, then the password, each asked for."""

    __slots__ = ()
    PROMPT = b'Username:'

    def begin(self, response):
        self.user, self.next = response, self.answered
        return CHALLENGE, b'Password:'

    def answered(self, response):
        return self.claim(PASSWORD, self.user, response, PASSWORD_MAX)


class XOAuth2(Exchange):
    """user=USER ^A auth=Bearer TOKEN ^A ^A.  A refusal is told in a challenge, which the client answers."""

    __slots__ = ()

    def begin(self, response):
        fields = response.split(b'\1')
        user, token = after(b'user=', fields[0]), bearer(fields[1:])
        return self.claim(TOKEN, user, token, TOKEN_MAX)

    def judged(self, good):
        """RFC 7628, 3.2.3: why it failed, then that it did."""
        if good:
            return DONE, self.user
        self.next = lambda _: self.fail(b'wrong token')
        return CHALLENGE, REFUSED_TOKEN


class OAuthBearer(XOAuth2):
    """The same as a standard: n,a=USER, ^A auth=Bearer TOKEN ^A ^A."""

    __slots__ = ()

    def begin(self, response):
        """RFC 7628, 3.1"""
        fields = response.split(b'\1')
        flag, _, rest = fields[0].partition(b',')
        named, comma, more = rest.partition(b',')
        user = saslname(after(b'a=', named))
        if flag not in (b'n', b'y') or not comma or more or user is None:
            return self.fail()
        return self.claim(TOKEN, user, bearer(fields[1:]), TOKEN_MAX)


def after(word, field):
    """What follows word in a field, b'' if it does not begin so."""
    return field[len(word):] if field.startswith(word) else b''


def bearer(fields):
    """The token among key=value fields, b'' if there is none or they are not closed as they must be."""
    if fields[-2:] != [b'', b'']:
        return b''
    found = [field[5:] for field in fields if field[:5].lower() == b'auth=']
    kind, _, token = found[0].partition(b' ') if len(found) == 1 else (b'', b'', b'')
    return token.strip(b' ') if kind.lower() == b'bearer' else b''


def saslname(name):
    """A name without its escapes (RFC 5802, 5.1); None if they are none."""
    pieces = name.split(b'=')
    found = pieces[0]
    for piece in pieces[1:]:
        plain = {b'2C': b',', b'3D': b'='}.get(piece[:2])
        if plain is None:
            return None
        found += plain + piece[2:]
    return found


class Scram(Exchange):
    """SCRAM-SHA-256: the client proves that he knows the password, and we that we know its keys."""

    __slots__ = ('header', 'bare', 'first', 'keys')
    BOUND = False

    def begin(self, response):
        """client-first-message (RFC 5802, 7)."""
        flag, _, rest = response.partition(b',')
        other, comma, bare = rest.partition(b',')
        fields = bare.split(b',')
        user = saslname(after(b'n=', fields[0]))
        if not comma or len(fields) < 2 or not user or len(user) > USER_MAX or fields[1][:2] != b'r=' or not fields[1][2:]:
            return self.fail()
        if other and saslname(after(b'a=', other)) != user or not good_nonce(fields[1][2:]):
            return self.fail()
        why = self.wrong_flag(flag)
        if why:
            return self.fail(why)
        self.user, self.keys = user, self.place.keys(user)
        self.header, self.bare = flag + b',' + other + b',', bare
        self.first = b'r=%s%s,s=%s,i=%d' % (fields[1][2:], self.place.nonce, base64(self.keys.salt), self.keys.iterations)
        self.next = self.proved
        return CHALLENGE, self.first

    def wrong_flag(self, flag):
        """Why the client cannot be bound as it says, b'' if it can (RFC 5802, 6)."""
        if flag == b'y' and self.place.plus:
            return b'the client did not see -PLUS, which was offered: somebody is between'
        return b'' if flag in (b'n', b'y') else b'channel binding without -PLUS'

    def proved(self, response):
        """client-final-message."""
        unsigned, mark, proof = response.rpartition(b',p=')
        fields = unsigned.split(b',')
        try:
            bound, proof = a2b_base64(after(b'c=', fields[0]), strict_mode=True), a2b_base64(proof, strict_mode=True)
        except Error:
            return self.fail()
        if not mark or len(fields) < 2 or len(proof) != 32 or fields[1] != self.first.partition(b',')[0]:
            return self.fail()
        if bound != self.header + (self.place.binding if self.BOUND else b''):
            return self.fail(b'bound to another channel')
        message = b','.join((self.bare, self.first, unsigned))
        signature = hmac_digest(self.keys.stored, message, 'sha256')
        key = bytes(a ^ b for a, b in zip(proof, signature))
        if not (same(sha256(key).digest(), self.keys.stored) and self.keys.real):
            return self.fail(b'wrong')
        self.next = self.heard
        return CHALLENGE, b'v=' + base64(hmac_digest(self.keys.server, message, 'sha256'))

    def heard(self, response):
        """The client has seen our proof."""
        return self.fail() if response else (DONE, self.user)


class ScramPlus(Scram):
    """The same, bound to our certificate: who stands between the two with one of his own learns nothing he could use."""

    __slots__ = ()
    BOUND = True

    def wrong_flag(self, flag):
        """The one kind of binding that can be had."""
        return b'' if flag == b'p=' + END_POINT and self.place.binding else b'a channel binding that is not known here'


def good_nonce(nonce):
    """Printable ASCII, not endless."""
    return len(nonce) <= 200 and all(33 <= byte < 127 for byte in nonce)


def base64(data):
    """On one line."""
    return b2a_base64(data, newline=False)


MECHANISMS = {b'PLAIN': Plain, b'LOGIN': Login, b'SCRAM-SHA-256': Scram, b'SCRAM-SHA-256-PLUS': ScramPlus,
              b'OAUTHBEARER': OAuthBearer, b'XOAUTH2': XOAuth2}


def decoded(line):
    """The bytes of a base64 line, `=` for none at all; None if it is no base64 (RFC 4954, 4)."""
    if line == b'=':
        return b''
    try:
        return a2b_base64(line, strict_mode=True) if line else b''
    except Error:
        return None
