"""Who may do what: one line per program.  lib.confine applies it, tests hold the kernel to it, the manual shows it.

A program opens and connects what it needs, takes its line on itself for good, and then hears its first foreign byte.
"""

#  program         account  where  files                             children   signals  sockets   connects  memory
TABLE = b"""\
   start           qpys     host   control=rl                        none       yes      -         -         1000
   log             qpyl     empty  -                                 none       no       -         -         500
   queued          qpyq     empty  mess=wcd                          threads    no       -         -         4000
   clean           qpyq     empty  mess=rdm,state=r,damaged=lcm      none       no       -         -         500
   send            qpys     empty  mess=rl,state=rlwcd,control=rl    none       no       unix      run       8000
   bouncer         qpys     empty  mess=r,state=r,control=rl         none       no       unix      run       2000
   smtpd-master    qpyd     empty  any                               programs   yes      any       any       -
   smtpd           qpyd     empty  control=rl,etc=r                  none       no       unix      run       4000
   qmtpd           qpyd     empty  control=rl,etc=r,tmp=rw           none       no       unix      run       1000
   tls-master      qpyt     empty  keys=rl,control=rl,etc=r          workers    no       unix      any       4000
   tls             qpyt     empty  keys=rl,control=rl,etc=r          none       no       unix      run       4000
   auth-master     qpya     host   users=rl,control=rl,etc=r         workers    no       unix      any       2000
   auth            qpya     host   users=rl,control=rl,etc=r         workers    no       unix      run       2000
   auth-dovecot    qpya     host   users=rl,control=rl,etc=r         workers    no       unix      any       2000
   auth-programs   qpya     host   any                               programs   yes      any       any       -
   users-master    qpyp     host   control=rl,users=rl,run=r,etc=r,name=r  workers    no       any       any       2000
   users           qpyp     host   control=rl,users=rl,run=r,etc=r,name=r  none       no       any       any       2000
   resolve-master  qpyr     host   control=rl,etc=r,resolv=r,site=r  workers    no       tcp,udp   any       2000
   resolve         qpyr     host   control=rl,etc=r,resolv=r,site=r  none       no       tcp,udp   any       2000
   mtasts-master   qpyr     host   control=rl,etc=r,cas=rl,tls=rlwcd workers    no       unix,tcp  any       2000
   mtasts          qpyr     host   control=rl,etc=r,cas=rl,tls=rlwcd none       no       unix,tcp  mail      2000
   check-master    qpyc     host   control=rl,etc=r,check=rlwcd      workers    no       unix,tcp  any       2000
   check           qpyc     host   control=rl,etc=r,check=rlwcd      none       no       unix,tcp  any       2000
   tlslog          qpyr     empty  tls=rlwcd                         none       no       -          -          500
   token           qpyr     host   any                               programs   yes      any        any       -
   milter-master   qpyc     host   control=rl,etc=r,check=rw         workers    no       unix,tcp  any       4000
   milter          qpyc     host   control=rl,etc=r,check=rw         none       no       unix,tcp  any       4000
   lspawn          qpyu     host   control=rl                        none       no       unix      run       2000
   seed            qpyu     mail   any                               programs   yes      any       any       -
   rspawn          qpyr     host   control=rl,etc=r,proc=r,cas=rl    workers    yes      unix,from any       2000
   rspawn-programs qpyr     host   any                               programs   yes      any       any       -
   remote          qpyr     host   control=rl,etc=r,proc=r,cas=rl    none       no       unix,tcp  mail      2000
   remote-bound    qpyr     host   control=rl,etc=r,proc=r,cas=rl    none       no       unix,from mail      2000
   listen          qpyd     host   any                               programs   yes      any       any       -
   popup           qpyd     host   control=rl,etc=r                  none       no       unix      run       1000
   checkpassword   root     host   any                               programs   yes      any       any       -
   pop3d           user     host   here=rlcdm                        none       no       -         -         1000
   local           user     mail   any                               programs   yes      any       any       -
"""
# where       its namespace: host, empty (no network at all), mail (no users but those of mail)
# files       PLACE=RIGHTS; r read, l list, w write, c create, d delete, m move from or to; any: as its account may.
#             What may not write has a file size limit of 0.  Everybody reads the code and the system's libraries.
# children    none; threads; workers (its own code, forked; each listens again and then has its own line); programs
#             (other programs: nothing else is taken from these, because what they start would inherit it)
# signals     whether it may send any
# sockets     what it may make: unix, tcp, udp, any; from: TCP, bound to an address of its choice and to no port
# connects    to names in DIR/run, to ports of mail (mtasts: of HTTPS), to any
# memory      address space in megabytes
# remote-bound is remote where control/outgoingip names an address.
# smtpd-master's line is also that of qmtpd's and qmqpd's masters, and of those of their children that run a filter;
# qmtpd's also qmqpd's.  The lines of seed, local and listen are here to be read: what they become or start would inherit what
# they take on themselves; users and namespaces keep that.  pop3d's `here` is the Maildir that it serves.
# A program without a line is as who calls it: nothing is taken from it, because it has nothing of its own.

PLACES = {b'mess': (b'queue/mess',), b'state': (b'queue/state',), b'damaged': (b'queue/damaged',),
          b'control': (b'control',), b'users': (b'users',), b'run': (b'run',), b'site': (b'lib/site',), b'tls': (b'tls',), b'check': (b'check',),
          b'keys': (b'keys',),
          b'etc': (b'/etc',), b'cas': (b'/usr/share/ca-certificates', b'/usr/local/share/ca-certificates'),
          b'here': (b'.', b'./new', b'./cur', b'./tmp'),
          b'tmp': (b'/var/tmp', b'/tmp'), b'proc': (b'/proc',),
          b'resolv': (b'/run/systemd/resolve', b'/run/resolvconf', b'/run/NetworkManager', b'/run/connman'),
          b'name': (b'/run/systemd/userdb', b'/var/lib/extrausers', b'/var/lib/misc', b'/var/db')}
CODE = (b'lib', b'/lib', b'/lib64', b'/usr/lib', b'/usr/lib64', b'/usr/local/lib')      # read by everybody

# Landlock's rights by our letters, and the ABI that knows them (linux/landlock.h).
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = 1, 2, 4, 8, 16, 32
MAKE_REG, REFER, TRUNCATE, IOCTL_DEV = 1 << 8, 1 << 13, 1 << 14, 1 << 15
RIGHTS = {b'r': READ_FILE, b'l': READ_DIR, b'w': WRITE_FILE | TRUNCATE, b'c': MAKE_REG, b'd': REMOVE_FILE,
          b'm': REFER}
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV       # what a rule about a single file may hold
EVERYTHING = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
TCP, BIND_TCP, CONNECT_TCP, NET_ABI = 3, 1, 2, 4    # bind and connect
SCOPE_SOCKETS, SCOPE_SIGNALS, SCOPE_ABI = 1, 2, 6   # abstract sockets; signals to who is not below
NEEDED_ABI = {b'clean': 2}                          # it moves files from one directory to another


class Row:
    """One line.  files: [(place, rights)] or None for any; sockets: [kinds]; memory: bytes, 0 for no limit."""

    __slots__ = ('name', 'account', 'where', 'files', 'children', 'signals', 'sockets', 'connects', 'memory')

    def __init__(self, words):
        self.name, self.account, self.where, files, self.children, signals, sockets, self.connects, memory = words
        self.files = None if files == b'any' else [tuple(pair.split(b'=')) for pair in files.split(b',') if pair != b'-']
        self.signals = signals == b'yes'
        self.sockets = () if sockets == b'-' else tuple(sockets.split(b','))
        self.memory = 0 if memory == b'-' else int(memory) << 20

    @property
    def writes(self):
        """Whether it may write to any file at all."""
        return self.files is None or any(b'w' in rights for _, rights in self.files)

    @property
    def modes(self):
        """Whether it may change the mode of an open file: who writes into the queue beside queued makes read-only
        copies for deliveries."""
        return self.name == b'send'


def row(name):
    """The Row of a program; KeyError if it has none."""
    for line in TABLE.split(b'\n'):
        words = line.split()
        if words and words[0] == name:
            return Row(words)
    raise KeyError(name)


LINES = {b'qmqpd': b'qmtpd'}            # programs that have the line of another


def of_program(word):
    """The Row of a program of DIR/bin by its name there; None for a program of the site's own.  Its worker's line says for
    its master too where it is and what it opens."""
    name = word.removeprefix(b'qpy-')
    try:
        return row(LINES.get(name, name))
    except KeyError:
        return None


FILTERS = b'QMAILQUEUE', b'QPYQUEUE'
#            program    its line where it runs programs of the site's own, and what in its environment has it do so
SITES_OWN = {b'rspawn': (b'rspawn-programs', (b'QMAILREMOTE',)),
             b'smtpd': (b'smtpd-master', FILTERS), b'qmtpd': (b'smtpd-master', FILTERS)}


def chosen(name, environment, named=False):
    """The name of the line that a program takes on itself.  named: whether control files have it run programs."""
    line, variables = SITES_OWN.get(name, (name, ()))
    return line if named or any(environment.get(variable) for variable in variables) else name


def master(name):
    """The name of the line of the master of a program with this line: its own where none has been written for it."""
    found = MASTERS.get(name, name + b'-master')
    return found if any(line.name == found for line in rows()) else name


MASTERS = {b'qmtpd': b'smtpd-master', b'auth-dovecot': b'auth-master'}      # others have their own name in it
WORKERS_MOST = 64           # that an argument asks a master for


def rows():
    """Every Row."""
    return [Row(line.split()) for line in TABLE.split(b'\n') if line.split()]


def rights(letters, abi):
    """Landlock's rights for our letters, as far as this ABI knows them."""
    return sum(RIGHTS[letters[i:i + 1]] for i in range(len(letters))) & handled(abi)


def handled(abi):
    """All rights on files that this ABI knows: what no rule gives is refused."""
    return EVERYTHING[min(abi, max(EVERYTHING))]


def paths(home, files):
    """[(path, letters)] of a Row's files, with the code."""
    found = [(path if path[:1] in (b'/', b'.') else home + b'/' + path, letters)
             for place, letters in files for path in PLACES[place]]
    return found + [(path if path[:1] == b'/' else home + b'/' + path, b'rl') for path in CODE]
