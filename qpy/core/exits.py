"""Every exit code a neighbour may see, and what each means: the one table.

qmail's programs use 0, 100 (permanent) and 111 (temporary); qmail-queue has codes of its own; sendmail uses
sysexits.  Unknown codes are temporary unless they are in qmail-queue's permanent range 11..40.
"""

OK, PERM, TEMP = 0, 100, 111

# qmail-queue's (and so qpy-queue's and qpy-queued's) codes.
QQ_ADDRESS_TOO_LONG = 11
QQ_REFUSED = 31
QQ_MEMORY = 51
QQ_TIMEOUT = 52
QQ_WRITE = 53
QQ_READ = 54
QQ_CONFIGURATION = 55
QQ_NETWORK = 56
QQ_HOME = 61
QQ_QUEUE = 62
QQ_FILES = 63
QQ_SERVER_TEMPORARY = 71
QQ_CONNECT_TIMEOUT = 72
QQ_CONNECT_REFUSED = 73
QQ_CONNECTION_FAILED = 74
QQ_BUG = 81
QQ_CUSTOM = 82
QQ_ENVELOPE = 91
QQ_EXEC = 120

_QUEUE_TEXTS = {
    0: b'',
    11: b'Denvelope address too long for qq (#5.1.3)',
    115: b'Denvelope address too long for qq (#5.1.3)',
    31: b'Dmail server permanently rejected message (#5.3.0)',
    51: b'Zqq out of memory (#4.3.0)',
    52: b'Zqq timeout (#4.3.0)',
    53: b'Zqq write error or disk full (#4.3.0)',
    54: b'Zqq read error (#4.3.0)',
    55: b'Zqq unable to read configuration (#4.3.0)',
    56: b'Zqq trouble making network connection (#4.3.0)',
    61: b'Zqq trouble in home directory (#4.3.0)',
    71: b'Zmail server temporarily rejected message (#4.3.0)',
    72: b'Zconnection to mail server timed out (#4.4.1)',
    73: b'Zconnection to mail server rejected (#4.4.1)',
    74: b'Zcommunication with mail server failed (#4.4.2)',
    81: b'Zqq internal bug (#4.3.0)',
    91: b'Zqq internal bug (#4.3.0)',
    120: b'Zunable to exec qq (#4.3.0)',
}
_QUEUE_TEXTS.update((code, b'Zqq trouble creating files in queue (#4.3.0)') for code in range(62, 67))

QQ_CRASHED = b'Zqq crashed (#4.3.0)'


def queue_text(code, custom=b''):
    """What qmail-queue's exit code means: b'' for success, else b'Z...' or b'D...' and a sentence.

    custom: what the program wrote on descriptor 6; used for code 82 if it begins with Z or D.
    """
    if code == QQ_CUSTOM and len(custom) >= 3 and custom[:1] in (b'D', b'Z'):
        return custom
    text = _QUEUE_TEXTS.get(code)
    if text is not None:
        return text
    return b'Dqq permanent problem (#5.3.0)' if 11 <= code <= 40 else b'Zqq temporary problem (#4.3.0)'


# sysexits.h, for sendmail and its callers.
EX_USAGE = 64
EX_DATAERR = 65
EX_NOINPUT = 66
EX_NOUSER = 67
EX_NOHOST = 68
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_OSERR = 71
EX_OSFILE = 72
EX_CANTCREAT = 73
EX_IOERR = 74
EX_TEMPFAIL = 75
EX_NOPERM = 77
EX_CONFIG = 78
