"""What an SMTP server goes by beside what its client says: control files, who the client is, what stands beside the session;
and what follows from them for an address.  Pure.
"""
from qpy.core import address as addresses, badhelo, cdb, smtp_replies as replies, text


class Refused(Exception):
    """A client that is sent away; args: the reply."""



class Policy:
    """What the control files say: one for all sessions."""

    __slots__ = ('greeting', 'databytes', 'rcpthosts', 'bad_senders', 'bad_recipients', 'localiphost',
                 'max_recipients', 'bad_helos', 'valid', 'stages', 'senders', 'no_host', 'etrn')

    def __init__(self, greeting, databytes=0, hosts=None, bad_senders=(), bad_recipients=(), localiphost=b'',
                 max_recipients=1000, bad_helos=(), valid=None, stages=frozenset(), no_host=b''):
        self.greeting, self.databytes, self.rcpthosts = greeting, databytes, hosts
        self.bad_senders, self.bad_recipients = bad_senders, bad_recipients     # lower-case: address or @host
        self.localiphost, self.no_host, self.max_recipients = localiphost, no_host, max_recipients
        self.senders = None                                 # core.submission.Senders: who has logged in may send as these
        self.etrn = {}                                      # entries of control/etrn
        self.stages = stages                                # of core.asking: those at which somebody is asked
        self.bad_helos, self.valid = bad_helos, valid       # names as in core.badhelo; ValidRecipients, None: all


    def his(self, login, claims):
        """mine(address) of core.submission.Completion for who has logged in so.  claims: a set that gets the local parts of
        which the users have to be asked."""
        senders = self.senders
        if not login or senders is None or not senders.header:
            return None

        def mine(address):
            claim = senders.claim(login, address)
            claims.update([claim] if claim else [])
            return claim is not None
        return mine


class Client:
    """Who is on the other end, as far as is known, and what the rules of control/tcp.smtp or the caller give
    him.

    relay: what RELAYCLIENT holds, None if it is not set. databytes: None, or instead of the policy's.
    bare_lf: `commands` takes LF alone as the end of a command, `451` answers LF in a text as qmail does,
    `all` takes it in texts too (sendmail -bs). judged: whether others are asked about him. force_tls: nothing is done for
    him in the clear. force_auth: no mail from him without a login. hidden: Received does not tell of him when he has
    logged in. whole: the queue gets all records of the envelope. may_speak: for others, by XCLIENT."""

    __slots__ = ('ip', 'name', 'info', 'local', 'local_ip', 'relay', 'databytes', 'bare_lf', 'env', 'judged', 'force_tls',
                 'force_auth', 'hidden', 'whole', 'may_speak')

    def __init__(self, ip=b'', name=b'', info=b'', local=b'', local_ip=b'', relay=None, databytes=None,
                 bare_lf=b'', env=(), force_tls=False):
        self.ip, self.name, self.info, self.local, self.local_ip = ip, name, info, local, local_ip
        self.relay, self.databytes, self.bare_lf, self.env = relay, databytes, bare_lf, env
        self.judged, self.force_tls, self.force_auth = True, force_tls, False
        self.hidden, self.whole, self.may_speak = False, True, False



class Beside:
    """What stands beside the sessions of a server, as it is now.

    tls: None, there is no qpy-tls; False, it has no certificate, or has not answered yet; True. mechanisms: of AUTH,
    the best first."""

    __slots__ = ('tls', 'mechanisms')

    def __init__(self, tls=None, mechanisms=()):
        self.tls, self.mechanisms = tls, mechanisms


def recipient_refusal(session, address):
    """The reply that refuses this recipient of a core.smtp_server.Session as far as the control files can tell; b'' if none."""
    policy = session.policy
    if listed(session.sender, policy.bad_senders):
        return replies.BAD_SENDER
    if bad_recipient(policy, address):
        return replies.BAD_RECIPIENT
    if len(session.recipients) >= policy.max_recipients:
        return replies.TOO_MANY_RECIPIENTS
    if session.trusted():
        return replies.RCPT_SYNTAX if len(address) > addresses.QUEUE_MAX else b''
    if badhelo.refuses(session.helo, policy.bad_helos) and b'NOBADHELO' not in dict(session.client.env):
        return replies.BAD_HELO
    return stranger_refusal(policy, address)


def stranger_refusal(policy, address):
    """The reply that refuses a recipient to a client without RELAYCLIENT; b'' if none."""
    try:
        if not policy.rcpthosts.accepts(address):
            return replies.NOT_HERE
    except cdb.CdbError:
        return replies.HOSTS_TROUBLE
    try:
        return b'' if policy.valid is None or policy.valid.permits(with_host(policy, address)) else replies.NOT_VALID
    except cdb.CdbError:
        return replies.VALID_TROUBLE


def bad_recipient(policy, address):
    """Is the address in badrcptto?"""
    return listed(with_host(policy, address), policy.bad_recipients)


def with_host(policy, address):
    """The address, with envnoathost if it has no host, as qpy-send will complete it."""
    return address if b'@' in address else address + b'@' + policy.no_host


def listed(address, table):
    """Is the address, or its `@host`, in a lower-case table?"""
    if not table:
        return False
    address = text.lower(address)
    return address in table or address[address.rfind(b'@'):] in table and b'@' in address


def local_name(policy, client, address):
    """address with a literal of the address the client connected to replaced by localiphost."""
    local, domain = addresses.split(address)
    if domain[:1] != b'[' or not policy.localiphost:
        return address
    own = addresses.parse_ipv4(client.local_ip) or addresses.parse_ipv6(client.local_ip)
    here = own and addresses.parse_literal(domain) == own
    return local + b'@' + policy.localiphost if here else address
