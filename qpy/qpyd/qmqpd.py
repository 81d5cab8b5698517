"""qpy-qmqpd, as qpyd: hears QMQP, takes any message for anybody from those who may.

One shot: the client is on descriptors 0 and 1; under tcpserver its rules decide who that can be.  Warm, or
without PROTO: only clients to whom control/tcp.smtp gives RELAYCLIENT.
Asks: DIR/run/submit (qpy-queued).  Reads: control/.  Log: descriptor 2.
Exit: one shot 0 when the client was answered or has left, 100 if what it sent is no QMQP or it is not served,
111 trouble, too much, or an hour is over.  Warm 0 when the chain ends, else 111.
"""
from qpy.core import exits, netstring, qmqp
from qpy.lib import inherit
from qpy.qpyd import netstrings


def main(home, args):
    """qpy-qmqpd"""
    return netstrings.main(home, args, inherit.listeners(), b'QMQP', talk, True)


def talk(conversation):
    """One message; databytes is for strangers."""
    conversation.limit = 0
    for event, value in conversation.hear(qmqp.Session()):
        if event == qmqp.BODY:
            conversation.body(value)
            continue
        sender, recipients = value
        if sender is None or not recipients or None in recipients or b'' in recipients:
            report = qmqp.UNACCEPTABLE
        else:
            report = conversation.queue(sender, recipients)
        conversation.answer(netstring.encode(report))
        break
    return exits.OK
