"""The client's side of SMTP AUTH (RFC 4954): PLAIN (RFC 4616), LOGIN, SCRAM-SHA-256 and -PLUS (RFC 5802, 7677), and
with a token OAUTHBEARER (RFC 7628) and XOAUTH2 (Google's and Microsoft's).

    mechanism = choose(words the server offers, True if TLS protects what is sent, credentials)
    exchange = MECHANISMS[mechanism](credentials)
    exchange.first() -> initial response or None; exchange.answer(challenge) -> response; exchange.accepted() -> bool

Bytes without base64.  ValueError: the server does not play by the rules, and may not know the password at all.
"""
from _operator import _compare_digest as same
from binascii import Error, a2b_base64, b2a_base64
from _hashlib import hmac_digest, openssl_sha256 as sha256, pbkdf2_hmac

from qpy.core import saslprep, text

ITERATIONS = 4096, 1000000      # of SCRAM: fewer are no protection, more an attack on our time
PASSWORD, TOKEN = 'password', 'token'


class Credentials:
    """Who logs in: user with a password or a token; nonce: bytes nobody can foretell.  host, port: of the server.

    end_point: what stands for its certificate (core.channel_binding), b'' if it has none or must not be used."""

    __slots__ = ('user', 'password', 'token', 'nonce', 'host', 'port', 'end_point')

    def __init__(self, user, password=b'', nonce=b'', token=b'', host=b'', port=0, end_point=b''):
        self.user, self.password, self.nonce, self.token = user, password, nonce, token
        self.host, self.port, self.end_point = host, port, end_point


class Plain:
    """PLAIN: authorisation by the name itself."""

    __slots__ = ('user', 'password')
    NEEDS, SHOWS = PASSWORD, True       # what of the credentials; whoever reads along has it, too

    def __init__(self, who):
        self.user, self.password = who.user, who.password

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

    def __init__(self, who):
        super().__init__(who)
        self.steps = [who.password, who.user]

    def first(self):
        """It waits to be asked."""
        return None

    def answer(self, challenge):
        """The next of the two."""
        if not self.steps:
            raise ValueError('a third question in LOGIN')
        return self.steps.pop()


class XOAuth2:
    """XOAUTH2: a token in place of a password.  A refusal comes with a challenge that says why, and wants an answer."""

    __slots__ = ('who', 'told')
    NEEDS, SHOWS, LAST = TOKEN, True, b''

    def __init__(self, who):
        self.who, self.told = who, False

    def first(self):
        """All there is to say."""
        return b'user=%s\1auth=Bearer %s\1\1' % (self.who.user, self.who.token)

    def answer(self, challenge):
        """It is refused; after this the server says so."""
        if self.told:
            raise ValueError('a second challenge after a token')
        self.told = True
        return self.LAST

    def accepted(self):
        """Not after a refusal."""
        return not self.told


class OAuthBearer(XOAuth2):
    """OAUTHBEARER: the same as a standard."""

    __slots__ = ()
    LAST = b'\1'            # RFC 7628, 3.2.3

    def first(self):
        """RFC 7628, 3.1."""
        who = self.who
        name = who.user.replace(b'=', b'=3D').replace(b',', b'=2C')
        return b'n,a=%s,\1host=%s\1port=%d\1auth=Bearer %s\1\1' % (name, who.host, who.port, who.token)


class Scram:
    """SCRAM-SHA-256: neither side shows the password, and the server proves that it knows it.

    A client that could bind the login to the TLS channel says so (y): a server that offers that, too, then knows that
    somebody between the two has kept it from them (RFC 5802, section 6)."""

    __slots__ = ('user', 'password', 'nonce', 'bare', 'proof_of_server', 'verified', 'header')
    NEEDS, SHOWS = PASSWORD, False

    def __init__(self, who):
        self.user = who.user.replace(b'=', b'=3D').replace(b',', b'=2C')
        self.password, self.nonce = who.password, who.nonce
        self.header = b'y,,' if who.end_point else b'n,,'
        self.bare = b'n=%s,r=%s' % (self.user, who.nonce)
        self.proof_of_server, self.verified = None, False

    def first(self):
        """client-first-message."""
        return self.header + self.bare

    def binding(self):
        """What c= holds: the header, and what the channel is known by."""
        return self.header

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
        salted = pbkdf2_hmac('sha256', saslprep.prepared(self.password), salt, count)
        key = hmac_digest(salted, b'Client Key', 'sha256')
        unsigned = b'c=%s,r=%s' % (b2a_base64(self.binding(), newline=False), nonce)
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


class ScramPlus(Scram):
    """SCRAM-SHA-256-PLUS: the login is good on a channel with this certificate only (tls-server-end-point, RFC 5929:
    the only binding the interpreter's TLS can give in TLS 1.3)."""

    __slots__ = ('end_point',)

    def __init__(self, who):
        super().__init__(who)
        self.header, self.end_point = b'p=tls-server-end-point,,', who.end_point

    def binding(self):
        """RFC 5802, section 7, cbind-input."""
        return self.header + self.end_point


def attributes(message):
    """{letter: value} of a SCRAM message."""
    return {word[:1]: word[2:] for word in message.split(b',') if word[1:2] == b'='}


MECHANISMS = {b'SCRAM-SHA-256-PLUS': ScramPlus, b'SCRAM-SHA-256': Scram, b'PLAIN': Plain, b'LOGIN': Login,
              b'OAUTHBEARER': OAuthBearer, b'XOAUTH2': XOAuth2}       # the better ones first
WAYS = {PASSWORD: b'PLAIN, LOGIN or SCRAM-SHA-256', TOKEN: b'OAUTHBEARER or XOAUTH2'}


def choose(offered, protected, who):
    """The best mechanism of those offered (words of the EHLO line AUTH) that may be used, or None."""
    words = text.lower(offered).upper().replace(b'=', b' ').split(b' ')
    needed = needs(who)
    for name, kind in MECHANISMS.items():
        if (name in words and kind.NEEDS == needed and (protected or not kind.SHOWS)
                and (kind is not ScramPlus or who.end_point)):
            return name
    return None


def needs(who):
    """PASSWORD or TOKEN."""
    return TOKEN if who.token else PASSWORD


def encode(response):
    """As it stands in a command: base64, `=` for an empty one (RFC 4954, section 4)."""
    return b2a_base64(response, newline=False) or b'='


def decode(reply):
    """The challenge in a 334 reply (its code included); ValueError."""
    try:
        return a2b_base64(reply[4:].strip(b' '), strict_mode=True)
    except Error:
        raise ValueError('a challenge that is not base64') from None
