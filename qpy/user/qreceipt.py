"""qpy-qreceipt, as the recipient, from a .qmail line: tells a sender who asks for it that his message has
come.

    | qreceipt deliveryaddress
    environment   SENDER, who gets the notice; QPYENVELOPE: REQUIRETLS and SMTPUTF8 hold for that, too
    descriptors   0 the message
    exit          0, also when no notice is wanted; 100 wrong use, or refused for good; 111 later
"""
from qpy import unix
from qpy.core import address, carried, dates, dotqmail, exits, header, token822
from qpy.lib import program, submit
from qpy.user import wrapped

FIELD = b'notice-requested-upon-delivery-to'
NOTICE = b'''From: DELIVERY NOTICE SYSTEM <%s>
To: <%s>
Subject: success notice
Date: %s
Auto-Submitted: auto-replied

Hi! This is the qreceipt program. Your message was delivered to the
following address: %s. Thanks for asking.
'''


def main(home, args):
    """Read the header; if it asks for a notice, send one."""
    program.name = b'qreceipt'
    if len(args) != 1:
        raise program.Fatal(exits.PERM, b'usage: qreceipt deliveryaddress')
    (sender,) = wrapped.need(b'SENDER')
    fields = read_header()
    if dotqmail.has_owner(sender) and wanted(fields, args[0]):
        send(home, sender, notice(sender, args[0], fields, unix.time()))
    return exits.OK


def read_header():
    """The fields of the message on descriptor 0."""
    splitter = header.Splitter()
    try:
        for piece in wrapped.rest_of(0):
            if splitter.feed(piece):
                return splitter.fields
    except header.TooLong:
        return []
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to read message: ' + program.reason(problem)) from None
    splitter.end()
    return splitter.fields


def wanted(fields, target):
    """Does a field ask for a notice about this very address?"""
    for field in fields:
        if header.name(field) == FIELD:
            try:
                found = token822.address_list(token822.parse(header.value(field)), lambda tokens: tokens)[1]
            except token822.Unparsable:
                continue
            if target in map(token822.unquote, found):
                return True
    return False


def notice(sender, target, fields, now):
    """The message to the sender."""
    to = address.quote(sender).replace(b'\n', b'_')
    text = NOTICE % (to, to, dates.header_date(now), target.replace(b'\n', b'_'))
    for field in fields:
        if header.name(field) == b'message-id':
            return text + b'Your ' + field
    return text


def send(home, sender, message):
    """Queue it, from nobody."""
    code, text = submit.send(home, b'', [sender], message, carried.anew(unix.environ.get(carried.VARIABLE, b'')))
    if code:
        raise program.Fatal(exits.PERM if text[:1] == b'D' else exits.TEMP, text[1:])
