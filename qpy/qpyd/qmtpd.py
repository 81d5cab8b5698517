"""qpy-qmtpd, as qpyd: hears QMTP.

One shot: the client is on descriptors 0 and 1, as under tcpserver.  Warm: sockets come by LISTEN_FDS.
Asks: DIR/run/submit (qpy-queued), DIR/run/users (qpy-users).  Reads: control/.  Log: descriptor 2.
Exit: one shot 0 when the client has left, 100 if what it sent is no QMTP or it is not served, 111 trouble,
too much, or an hour is over.  Warm 0 when the chain ends, else 111.
"""
from qpy.core import exits, netstring, qmtp, smtp_policy, smtp_replies as replies
from qpy.lib import inherit, loop
from qpy.qpyd import netstrings, recipients


def main(home, args):
    """qpy-qmtpd"""
    return netstrings.main(home, args, inherit.listeners(), b'QMTP', talk, False)


def talk(conversation):
    """Message after message."""
    users = Users(conversation.home)
    for event, value in conversation.hear(qmtp.Session()):
        if event == qmtp.BODY:
            conversation.body(value)
        else:
            sender, wanted = value
            conversation.answer(b''.join(map(netstring.encode, reports(conversation, users, sender, wanted))))
    return exits.OK


def reports(conversation, users, sender, wanted):
    """One report per recipient, in order."""
    client = conversation.client
    wanted = [address and netstring.usable(address + (client.relay or b'')) for address in wanted]
    verdict = users.verdict if conversation.settings.check_recipients else accept
    refusals = [refusal(conversation.settings.policy, client, verdict, address) for address in wanted]
    good = [address for address, refused in zip(wanted, refusals) if not refused]
    if not good or sender is None:
        report = qmtp.BAD_SENDER
        conversation.forget()
    else:
        report = conversation.queue(sender, good)
    return [refused or report for refused in refusals]


def refusal(policy, client, verdict, address):
    """Why this recipient is refused; b'' if it is not."""
    if not address:
        return qmtp.BAD_RECIPIENT
    if smtp_policy.bad_recipient(policy, address):
        return qmtp.DENIED
    refused = client.relay is None and smtp_policy.stranger_refusal(policy, address)
    return STRANGERS[refused] if refused else {b'no': qmtp.NO_MAILBOX, b'temp': qmtp.LOOKUP_TROUBLE}.get(verdict(address), b'')


def accept(_):
    """The verdict where nobody is asked."""
    return b'unknown'


STRANGERS = {replies.NOT_HERE: qmtp.NOT_HERE, replies.HOSTS_TROUBLE: qmtp.HOSTS_TROUBLE,
             replies.NOT_VALID: qmtp.NOT_VALID, replies.VALID_TROUBLE: qmtp.VALID_TROUBLE}


class Users:
    """qpy-users, asked and waited for."""

    def __init__(self, home):
        self.loop = loop.Loop()
        self.recipients, self.said = recipients.Recipients(self.loop, home), None

    def verdict(self, address):
        """yes, no, temp or unknown."""
        self.said = self.recipients.ask(address, self.hear)
        while self.said is None:
            self.loop.step()
        return self.said

    def hear(self, verdict):
        """The answer came."""
        self.said = verdict
