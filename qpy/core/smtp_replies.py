"""What an SMTP server says, each sentence once: code, enhanced code (RFC 3463), words."""
from qpy.core import smtp_data, text

MAIL_FIRST = b'503 5.5.1 MAIL first'
RCPT_FIRST = b'503 5.5.1 RCPT first'
NESTED = b'503 5.5.1 RSET first: there is a MAIL already'
UNKNOWN = b'502 5.5.1 unimplemented'
NO_ARGUMENT = b'501 5.5.4 no argument allowed'
LINE_LONG = b'500 5.5.2 line too long'
LINE_BARE = b'500 5.5.2 lines must end with CR LF'
LINE_BYTES = b'500 5.5.2 a control or 8-bit character in a command'
LINE_EMPTY = b'500 5.5.2 empty line'
MAIL_SYNTAX = b'501 5.1.7 syntax: MAIL FROM:<address>'
RCPT_SYNTAX = b'501 5.1.3 syntax: RCPT TO:<address>'
NEEDS_UTF8 = b'553 5.6.7 an address with 8-bit characters needs SMTPUTF8'
UTF8_BYTES = b'500 5.5.2 what is beyond ASCII in a command must be UTF-8'
ETRN_SYNTAX = b'501 5.5.4 syntax: ETRN domain, or ETRN @domain'
ETRN_ASKED = b'250 2.0.0 ok, queuing for node %s started'
ETRN_NOTHING = b'251 2.0.0 ok, no messages waiting for node %s'
ETRN_STARTED = b'253 2.0.0 ok, %d pending messages for node %s started'
ETRN_LATER = b'458 4.3.0 unable to queue messages for node %s: %s'
ETRN_NOT_ALLOWED = b'459 4.7.1 node %s not allowed: %s'
XCLIENT_NONE = b'550 5.7.0 XCLIENT is not for you'
XCLIENT_SYNTAX = b'501 5.5.4 syntax: XCLIENT attribute=value'
BDAT_SYNTAX = b'501 5.5.4 syntax: BDAT size [LAST]'
BDAT_BEGUN = b'503 5.5.1 BDAT has begun: BDAT or RSET'
BAD_SENDER = b'553 5.7.1 sorry, your envelope sender is in my badmailfrom list'
BAD_RECIPIENT = b'553 5.7.1 sorry, your envelope recipient has been denied'
BAD_HELO = b'553 5.7.1 sorry, your HELO host name has been denied'
NOT_VALID = b'550 5.1.1 sorry, this recipient is not in my validrcptto list'
VALID_TROUBLE = b'451 4.3.0 unable to read my list of valid recipients'
NOT_HERE = b"553 5.7.1 sorry, that domain isn't in my list of allowed rcpthosts"
HOSTS_TROUBLE = b'451 4.3.0 unable to read my list of allowed rcpthosts'
NOT_VERIFIED = b"252 2.5.0 send some mail, i'll try my best"
NO_MAILBOX = b'550 5.1.1 sorry, no mailbox here by that name'
LOOKUP_TROUBLE = b'451 4.3.0 unable to look up that recipient now'
WHOSE_TROUBLE = b'451 4.3.0 unable to look up whose that sender address is now'
TOO_MANY_RECIPIENTS = b'452 4.5.3 too many recipients; send the message again to the others'
TOO_BIG = b'552 5.3.4 sorry, that message size exceeds my databytes limit'
LOOPING = b'554 5.4.6 too many hops, this message is looping'
BARE = {smtp_data.LF: b'550 5.5.2 bare LF in the message; lines must end with CR LF',
        smtp_data.CR: b'550 5.5.2 bare CR in the message; lines must end with CR LF'}
BARE_LF_TEMPORARY = b'451 4.5.2 See https://cr.yp.to/docs/smtplf.html.'
TOO_MANY_ERRORS = b'421 4.7.0 too many errors'
TOO_MANY_COMMANDS = b'421 4.7.0 too many commands without a message'
TIMEOUT = b'421 4.4.2 timeout'
TOO_SLOW = b'421 4.4.2 your message comes too slowly'
TOO_LONG = b'421 4.4.2 this session has lasted too long'
BUSY = b'421 4.3.2 too many connections; try again later'
BUSY_ADDRESS = b'421 4.7.0 too many connections from your address; try again later'
EARLY = b'554 5.5.1 you spoke before you were greeted (RFC 5321, 4.3.1)'
BUSY_RATE = b'421 4.7.0 too many connections from your address in this time; try again later'
DENIED = b'554 5.7.1 no mail is accepted from your address'
TLS_READY = b'220 2.0.0 ready to start TLS'
TLS_NONE = b'454 4.7.0 TLS is not available now'
TLS_ALREADY = b'503 5.5.1 TLS is active already'
TLS_FOLLOWED = b'503 5.5.1 nothing may follow STARTTLS before the handshake'
TLS_FIRST = b'530 5.7.0 STARTTLS first'
AUTH_ALREADY = b'503 5.5.1 you have logged in already'
AUTH_LATE = b'503 5.5.1 AUTH belongs before MAIL'
AUTH_EHLO = b'503 5.5.1 EHLO first'
AUTH_CLEAR = b'538 5.7.11 STARTTLS first: nobody may log in in the clear'
AUTH_UNKNOWN = b'504 5.5.4 unknown mechanism'
AUTH_SYNTAX = b'501 5.5.2 not base64'
AUTH_CANCELLED = b'501 5.7.0 login cancelled'
AUTH_GOOD = b'235 2.7.0 welcome'
AUTH_WRONG = b'535 5.7.8 authentication failed'
AUTH_LATER = b'454 4.7.0 authentication is not possible now; try again later'
AUTH_FIRST = b'530 5.7.0 authentication required'
NOT_YOURS = b'553 5.7.1 sorry, this sender address is not yours'
FROM_NOT_YOURS = b'550 5.7.1 sorry, the address in From or Sender is not yours'
TROUBLE = b'421 4.3.0 unable to read controls'
ENDING = b'421 4.3.2 shutting down'


def report_reply(report):
    """`Zqq timeout (#4.3.0)` as `451 4.3.0 qq timeout`; a full queue (RFC 3463, X.3.1) is 452 (RFC 5321, 4.2.3)."""
    code, enhanced = (b'554', b'5.3.0') if report[:1] == b'D' else (b'451', b'4.3.0')
    words, mark, last = report[1:].rstrip().rpartition(b' (#')
    status = last[:-1] if mark and last[-1:] == b')' else b''
    if status.translate(None, b'0123456789.') or status[:2] != enhanced[:2] or status.count(b'.') != 2:
        words, status = report[1:].rstrip(), enhanced
    if status == b'4.3.1':
        code = b'452'
    return b'%s %s %s' % (code, status, text.printable(words[:400]))
