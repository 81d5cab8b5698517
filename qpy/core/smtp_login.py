"""Logins in a session of core.smtp_server (RFC 4954): AUTH, the lines that follow it, and what is made of the answers.

What a client says is passed on as it is; who judges it, and by which mechanism, is not known here.
"""
from qpy.core import smtp_replies as replies, text
from qpy.core.smtp_words import AUTH, CANCEL, RESPONSE

LINE_MAX = 12288            # bytes of a line in a login (RFC 4954, 4)
FAILURES_MAX = 3            # failed logins, per session


def mechanisms(session):
    """Those by which this client may log in: none in the clear, and bound to TLS only where that can be."""
    if session.tls is None:
        return []
    return [name for name in session.beside.mechanisms if name[-5:] != b'-PLUS' or session.tls.binding]


def begin(session, argument):
    """AUTH (RFC 4954, 4)"""
    name, _, response = argument.partition(b' ')
    refusal = refusal_of(session, name.upper())
    if refusal:
        return session.error(b'auth', refusal)
    session.mechanism, session.waiting = name.upper(), True
    return AUTH, (session.mechanism, response.strip(b' ') or None)


def refusal_of(session, mechanism):
    """Why no login can begin, b'' if it can."""
    if not session.beside.mechanisms:
        return replies.UNKNOWN
    if session.login or session.protocol != b'ESMTP':
        return replies.AUTH_ALREADY if session.login else replies.AUTH_EHLO
    if session.tls is None:
        return replies.AUTH_CLEAR
    return b'' if mechanism in mechanisms(session) else replies.AUTH_UNKNOWN


def respond(session, line):
    """A line that belongs to the login."""
    response = line.rstrip(b'\r\n')
    if response == b'*' or len(line) > LINE_MAX or line[-2:] != b'\r\n' or not text.is_printable(response):
        session.mechanism = b''
        refusal = replies.AUTH_CANCELLED if response == b'*' else replies.AUTH_SYNTAX
        return session.error(b'auth', refusal) or (CANCEL, None)
    session.waiting = True
    return RESPONSE, response


# Answers to AUTH and RESPONSE: methods of the session.

def challenged(session, challenge: bytes) -> None:
    """The next word of the login, in base64."""
    session.waiting = False
    session.reply(b'334 ' + challenge)


def authenticated(session, login: bytes) -> None:
    """It is he; mail from him goes everywhere."""
    session.waiting, session.mechanism, session.login = False, b'', login
    session.reply(replies.AUTH_GOOD)


def not_authenticated(session, later: bool, reason: bytes) -> 'tuple | None':
    """It is not, or nobody can say now. Returns an event of its own or None."""
    session.waiting, session.mechanism = False, b''
    session.failures += 1
    session.refuse(b'auth', replies.AUTH_LATER if later else replies.AUTH_WRONG, b'', reason)
    return session.leave(replies.TOO_MANY_ERRORS) if session.failures >= FAILURES_MAX else None
