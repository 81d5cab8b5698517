"""Lines of control/services for the programs that no installation must have."""

INSIDE = """\
tls qpyt unix:tls:0660:qpyt:qpyd qpy-tls
auth qpya seq:auth:0660:qpya:qpyd qpy-auth
check qpyc seq:check:0660:qpyc:qpyd qpy-check
milter qpyc seq:milter:0660:qpyc:qpyd,unix:filter:0660:qpyc:qpyd qpy-milter
mtasts qpyr seq:mtasts:0660:qpyr:qpyr qpy-mtasts
tlslog qpyr seq:tlslog:0600:qpyr qpy-tlslog
token qpyr seq:token:0600:qpyr qpy-token
"""


def netstrings(qmtp, qmqp):
    """qpy-qmtpd and qpy-qmqpd at these places, each address:port."""
    return 'qmtpd qpyd tcp:%s qpy-qmtpd\nqmqpd qpyd tcp:%s qpy-qmqpd\n' % (qmtp, qmqp)
