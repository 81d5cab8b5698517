"""What the sender of a message wants to be told of a recipient: NOTIFY (RFC 3461, section 4.1).

    None                that it failed; that it takes long, too (the RFC leaves that to us)
    NEVER               nothing at all
    SUCCESS,FAILURE     a list of SUCCESS, FAILURE and DELAY: just that
"""
FAILURE, SUCCESS, DELAY, NEVER = b'FAILURE', b'SUCCESS', b'DELAY', b'NEVER'
ANYTHING = b''              # what DELIVERBY asks for, and only NEVER forbids (RFC 2852, section 4)

TRIPLE = b'#@[]'            # sender of a double bounce; what cannot be delivered of it is dropped

# What qmail-send adds to the last report on somebody for whom a message has waited as long as it may.
EXPIRED = b"I'm not going to try again; this message has been in the queue too long.\n"

ORCPT_LIMIT = 500           # bytes (RFC 3461, 5.4)

# How a success came about (RFC 3464, 2.3.3).  What the next hop will tell by itself is not told here.
DELIVERED, RELAYED, EXPANDED = b'delivered', b'relayed', b'expanded'


def wanted(notify, what):
    """Is the sender to be told of FAILURE, SUCCESS, DELAY or ANYTHING?  notify: the parameter, None if absent."""
    if notify is None:
        return what != SUCCESS
    if what == ANYTHING:
        return notify.upper() != NEVER
    return what in notify.upper().split(b',')


def orcpt(recipient):
    """ORCPT for a recipient whose sender gave none (RFC 3461, 4.2 and 5.2.7; RFC 6533, section 3)."""
    if not recipient.isascii():
        return b'utf-8;' + embedded(recipient)
    return b'rfc822;' + b''.join(b'%c' % c if 33 <= c <= 126 and c not in b'+=' else b'+%02X' % c for c in recipient)


def embedded(mailbox):
    """An address (UTF-8) in ASCII that needs no further quoting: utf-8-addr-xtext (RFC 6533, section 3)."""
    return b''.join(b'%c' % ord(c) if '!' <= c <= '~' and c not in '+=\\' else b'\\x{%X}' % ord(c)
                    for c in mailbox.decode('utf-8', 'replace'))


def in_ascii(value, errors='replace'):
    """What stands in an ORCPT, whose `\\x{E9}` may be written `é` (utf-8-addr-unitext), in ASCII."""
    return b''.join(b'%c' % ord(c) if c < '\x7f' else b'\\x{%X}' % ord(c) for c in value.decode('utf-8', errors))


def success(channel, told, text):
    """How a delivery that went well is to be reported; b'' if the next hop reports it.

    channel: local or remote; told: the next hop knows DSN and has the sender's wishes; text: what was said, which for a
    local one ends in `did FILES+FORWARDS+PROGRAMS`."""
    if channel != b'local':
        return b'' if told else RELAYED
    at = text.rfind(b'did ')
    counts = text[at + 4:].partition(b'\n')[0].split(b'+')
    return EXPANDED if at >= 0 and len(counts) == 3 and counts[0] == counts[2] == b'0' != counts[1] else DELIVERED
