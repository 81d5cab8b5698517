"""The client's side of SMTP AUTH (RFC 4954): PLAIN (RFC 4616), LOGIN, SCRAM-SHA-256 (RFC 5802, 7677).

    mechanism = choose(words the server offers, True if TLS protects what is sent)
    exchange = MECHANISMS[mechanism](user, password, nonce)
    exchange.first() -> initial response or None; exchange.answer(challenge) -> response; exchange.accepted() -> bool

Bytes without base64.  ValueError: the server does not play by the rules, and may not know the password at all.
"""
from _operator import _compare_digest as same
from binascii import Error, a2b_base64, b2a_base64
from _hashlib import hmac_digest, openssl_sha256 as sha256, pbkdf2_hmac

from qpy.core import text

ITERATIONS = 4096, 1000000      # of SCRAM: fewer are no protection, more an attack on our time


class Plain:
    """PLAIN: authorisation by the name itself."""

    __slots__ = ('user', 'password')

    def __init__(self, user, password, _):
        self.user, self.password = user, password

    def first(self):
        """All there is to say."""
        return b'\0%s\0%s' % (self.user, self.password)

    def answer(self, challenge):
        """There is no second step."""
        raise ValueError('a challenge in PLAIN')

    def accepted(self):
        """The server's word is enough."""
        return True


class Login(Plain):
    """LOGIN: the name, then the password, whatever the questions are."""

    __slots__ = ('steps',)

    def __init__(self, user, password, nonce):
        super().__init__(user, password, nonce)
        self.steps = [password, user]

    def first(self):
        """It waits to be asked."""
        return None

    def answer(self, challenge):
        """The next of the two."""
        if not self.steps:
            raise ValueError('a third question in LOGIN')
        return self.steps.pop()


class Scram:
    """SCRAM-SHA-256: neither side shows the password, and the server proves that it knows it."""

    __slots__ = ('user', 'password', 'nonce', 'bare', 'proof_of_server', 'verified')

    def __init__(self, user, password, nonce):
        self.user = user.replace(b'=', b'=3D').replace(b',', b'=2C')
        self.password, self.nonce = password, nonce
        self.bare = b'n=%s,r=%s' % (self.user, nonce)
        self.proof_of_server, self.verified = None, False

    def first(self):
        """client-first-message; n: no channel binding."""
        return b'n,,' + self.bare

    def answer(self, challenge):
        """client-final-message, and nothing after the server's proof."""
        if self.proof_of_server is None:
            return self._final(challenge)
        self._verify(challenge)
        return b''

    def _final(self, challenge):
        fields = attributes(challenge)
        nonce, count = fields.get(b'r', b''), text.parse_uint(fields.get(b'i', b''), ITERATIONS[1])
        try:
            salt = a2b_base64(fields.get(b's', b''), strict_mode=True)
        except Error:
            salt = b''
        if not salt or not nonce.startswith(self.nonce) or nonce == self.nonce or (count or 0) < ITERATIONS[0]:
            raise ValueError('a challenge of SCRAM that is none')
        salted = pbkdf2_hmac('sha256', self.password, salt, count)
        key = hmac_digest(salted, b'Client Key', 'sha256')
        unsigned = b'c=biws,r=' + nonce
        signed = b','.join((self.bare, challenge, unsigned))
        proof = bytes(a ^ b for a, b in zip(key, hmac_digest(sha256(key).digest(), signed, 'sha256')))
        self.proof_of_server = hmac_digest(hmac_digest(salted, b'Server Key', 'sha256'), signed, 'sha256')
        return unsigned + b',p=' + b2a_base64(proof, newline=False)

    def _verify(self, message):
        given = attributes(message).get(b'v', b'')
        if not same(given, b2a_base64(self.proof_of_server, newline=False)):
            raise ValueError('the server does not know the password')
        self.verified = True

    def accepted(self):
        """A server that says yes without its proof is another one."""
        return self.verified


def attributes(message):
    """{letter: value} of a SCRAM message."""
    return {word[:1]: word[2:] for word in message.split(b',') if word[1:2] == b'='}


MECHANISMS = {b'SCRAM-SHA-256': Scram, b'PLAIN': Plain, b'LOGIN': Login}
PROTECTED = (b'PLAIN', b'LOGIN')        # they show the password to whoever reads along


def choose(offered, protected):
    """The best mechanism of those offered (words of the EHLO line AUTH) that may be used, or None."""
    words = text.lower(offered).upper().replace(b'=', b' ').split(b' ')
    for name in MECHANISMS:
        if name in words and (protected or name not in PROTECTED):
            return name
    return None


def encode(response):
    """As it stands in a command: base64, `=` for an empty one (RFC 4954, section 4)."""
    return b2a_base64(response, newline=False) or b'='


def decode(reply):
    """The challenge in a 334 reply (its code included); ValueError."""
    try:
        return a2b_base64(reply[4:].strip(b' '), strict_mode=True)
    except Error:
        raise ValueError('a challenge that is not base64') from None
