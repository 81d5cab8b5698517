"""What each program answers to --help: how it is called, what it does, and where its manual is.

The sentence is the one in the manual's NAME section.  qpy-ctl, qpy-deb, qpy-demo, qpy-install and qpy-test, which a
person types with many options, know more to say than this and say it themselves.

Those in LITERAL have no such answer: what stands in their arguments may be a stranger's choice (forward "$DEFAULT"), and
an answer that ends with 0 would be the end of a message.
"""

# Run from .qmail, or given addresses, names and programs: --help is one like any other, and a wrong number of them is
# answered by how they are called.
LITERAL = frozenset(b'bouncesaying condredirect dot-forward except forward getpw inject local maildirmake mailsubj predate '
                    b'preline qreceipt remote'.split())

# program      | arguments | section and sentence of its page
TABLE = b"""\
 auth          | - | 8 say whether SMTP clients are who they claim to be
 bouncer       | - | 8 tell senders what could not be delivered, takes long, or has arrived
 cert          | [NAME CHAIN KEY | --self NAME] | 8 give qpy-tls a key and its certificates
 check         | - | 8 judge clients, senders and recipients before their mail is taken
 checkpassword | PROGRAM [ARGUMENT ...] | 8 judge a password and become its user
 clean         | - | 8 remove finished messages and set damaged ones aside
 datemail      | [OPTION ...] [RECIPIENT ...] | 1 sendmail with the date in local time
 fsck          | [--set-aside] [--all] | 8 look at a whole queue and explain what is in it
 import        | [-n] qmail|postfix|queue [DIRECTORY] | 8 take over from qmail or Postfix
 listen        | ADDRESS:PORT PROGRAM [ARGUMENT ...] | 8 open one port as root and serve it as qpyd
 log           | - | 8 bring the lines of all programs together
 lspawn        | [DEFAULTDELIVERY] | 8 hand local deliveries to their users
 maildir2mbox  | - | 1 move mail from a Maildir into an mbox
 mailq         | [-v] | 1 list the messages that wait in the queue
 milter        | - | 8 have sessions and messages judged by filters that speak the milter protocol
 mtasts        | - | 8 say what a domain wants for its mail by MTA-STS
 newaliases    | - | 1 make the table of aliases that deliveries use
 newmrh        | - | 8 compile control/morercpthosts into a cdb
 newu          | - | 8 compile users/assign into users/cdb
 newvrt        | - | 8 compile control/validrcptto into a cdb
 passwd        | [-d] NAME | 8 set the password of a mail user
 pop3d         | MAILDIR | 8 serve a Maildir by POP3
 popup         | HOSTNAME PROGRAM [ARGUMENT ...] | 8 let POP3 clients say who they are
 pw2u          | [-/ohHuUC] [-cX] | 8 make users/assign of passwd
 qbiff         | - | 1 say on the user's terminals that mail has come
 qmqpc         | - | 8 queue a message on another host
 qmqpd         | - | 8 hear QMQP: take the mail of hosts without a queue
 qmtpd         | - | 8 hear QMTP and hand messages to the queue
 qread         | [--json] [ID] | 8 list what waits in the queue
 qstat         | - | 8 count what waits in the queue
 queue         | - | 8 queue one message
 queued        | - | 8 take messages into the queue and answer when they are safe
 resolve       | - | 8 answer from DNS where mail goes
 rspawn        | [PROCESSES] | 8 hand remote deliveries to qpy-remote
 seed          | - | 8 become the users that mail is delivered to
 send          | - | 8 decide what is delivered where and when
 sendmail      | [-ti] [-f SENDER] [-F NAME] [-b MODE] [-q] [RECIPIENT ...] | 8 the command line of sendmail
 showctl       | - | 8 show all settings, where they come from, and what they mean
 smtpd         | [WORKERS] | 8 hear SMTP and hand messages to the queue
 splogger      | [TAG [FACILITY]] | 8 send lines to syslog
 start         | [DEFAULTDELIVERY [LOGGER ...]] | 8 start the chain, and end with it
 tcp-env       | [-rR] [-t SECONDS] PROGRAM [ARGUMENT ...] | 8 find out who is connected, for programs that inetd starts
 tcpok         | [HOST] | 8 let mail go again to destinations that did not answer
 tcpto         | - | 8 say which destinations are left alone because they did not answer
 tls           | [WORKERS] | 8 speak TLS with the clients of SMTP servers
 tlslog        | - | 8 keep what TLS with other hosts came to
 tlsrpt        | [--json] [--day YYYY-MM-DD] [DOMAIN] | 8 show what TLS with other hosts came to
 token         | - | 8 give relays the tokens they want in place of passwords
 users         | - | 8 answer who an address belongs to
"""
FORM = b"""\
Usage: %s

  %s.
  The manual is %s(%s)%s.

Options:
  --help  Show this message and exit.
"""


def rows() -> dict:
    """{program: (arguments, section, sentence)}; programs without what stands in front of their names."""
    found = {}
    for line in TABLE.split(b'\n'):
        if line:
            name, _, rest = line.partition(b' | ')
            arguments, _, page = rest.rpartition(b' | ')
            section, _, sentence = page.partition(b' ')
            found[name.strip()] = b'' if arguments == b'-' else arguments, section, sentence
    return found


MANY_NAMED = b'qpy-sendmail'        # it answers by the name it was called by


def text(called: bytes, home: bytes = b'') -> bytes:
    """The answer to --help of the program of this name, with or without qpy- in front; b'' if it has one of its own.
    home: DIR, where it is installed: man looks into DIR/man only when it is told to, or has DIR/bin in PATH."""
    name, table = called.removeprefix(b'qpy-'), rows()
    if name not in table or called == MANY_NAMED:
        return b''
    arguments, section, sentence = table[name]
    usage = called + b' ' + arguments if arguments else called
    where = b': man -M %s/man qpy-%s' % (home, name) if home else b''
    return FORM % (usage, sentence[:1].upper() + sentence[1:], b'qpy-' + name, section, where)
