"""What a qmail home (control/, users/, alias/, rc) means in qpy's files.

    found = Translation(path)      found.files {path below DIR: text}; found.notes; found.no_equal {file: why}
                                   found.modes {path below DIR: mode}, where it has to be what it was
Text is latin-1: bytes go through as they are.
"""
import errno
import os
import pwd
import re
import stat

from qpy.admin import qmailrules
from qpy.admin.installing import doing
from qpy.core import controls as tables, smtproutes

ELSEWHERE = {       # control files of patches, and what answers to them here
    'authsenders': 'control/senderroutes and control/smtplogins, see the notes',
    'badhelonorelay': 'control/badhelo, which never counts for who may relay',
    'badmailfromnorelay': 'control/badmailfrom', 'badrcptto.cdb': 'control/badrcptto',
    'bindroutes': 'control/outgoingip, by domain and not by address',
    'blackholedsender': 'a .qmail file or a filter', 'bouncesubject': 'nothing', 'concurrencysuppl0': 'concurrencydestination',
    'clientca.pem': 'control/tlsclients', 'clientcert.pem': 'nothing yet', 'dkimkeys': 'a milter, in control/milters',
    'dnsbllist': 'control/dnsbl', 'filterargs': 'QMAILREMOTE in control/services', 'goodrcptto': 'control/validrcptto',
    'maxhops': 'nothing: it is 100', 'maxrecipients': 'control/maxrcpt', 'moreipme': 'control/locals for names',
    'mailfromrules': 'a filter', 'recipientmap': 'control/virtualdomains and .qmail files',
    'recipients': 'control/validrcptto', 'rsa2048.pem': 'nothing: it is not needed',
    'dh2048.pem': 'nothing: it is not needed', 'simcontrol': 'QMAILQUEUE in control/tcp.smtp',
    'servercert.pem': 'keys/: qpy-cert default FILE FILE puts it there, and qpy-tls uses it',
    'smtpplugins': 'control/policyservers or milters, or a filter: QMAILQUEUE in control/tcp.smtp',
    'spfbehavior': 'a milter, or a policy server with control/spfrules', 'tlsclientciphers': "nothing: the system's OpenSSL decides",
    'tlsclients': 'control/tlsclients holds certificates here, not addresses', 'tlsserverciphers': "nothing: the system's "
    'OpenSSL decides', 'tlshosts': 'control/tlsdestinations', 'timeoutread': 'control/timeoutsmtpd'}
OTHERWISE = ('accounts', 'auth', 'authsenders', 'dnsbl', 'greylist', 'milters', 'policyservers', 'ratelimits', 'services',
             'tlsclients')      # control files of ours; what has the name there is something else
SOURCES = (('outgoingip', ''), ('outgoingip6', ''), ('outgoingips', '@'), ('domainbindings', '@'),
           ('domainbindings6', '@'))      # files of patches with addresses to leave from, and what their keys are
PATTERNED = ('badmailfrom', 'badrcptto')         # lists of addresses, which patches take for expressions
PATTERN = re.compile(r'^[^#]*[*^\\|?()]|^[^#].*\$$|^!|^[^#]*\[[^@]*@')
START = re.compile(r'\bqmail-start[ \t]')
# Files with routes, what they become, and the fault of a line there.
ROUTES = (('smtproutes', 'smtproutes', tables.fault_of_route), ('authsenders', 'senderroutes', tables.fault_of_sender_route))
TO_A_PLACE = re.compile(r'[^:|]*(?::[^ \t|]*)?')        # of a comment; behind it may stand a login
BLANKS = re.compile(r'[ \t]+')
WITHOUT_LOGINS = ('smtproutes', 'smtplogins')    # what is secret in them goes where not everybody may read it
THERE = {'concurrencylocal': 10, 'concurrencyremote': 20}       # what qmail does without these files
DELIVERY = 'control/defaultdelivery'
USERS = ('assign', 'include', 'exclude', 'mailnames', 'subusers', 'append')
WRITTEN_BY_HAND = (tables.LIST, tables.MAP)
KINDS = {row[0].decode(): row[1] for row in tables.TABLE}


class Translation:
    """See the top of the module."""

    def __init__(self, path, tcp_smtp='/etc/tcp.smtp'):
        self.path, self.files, self.notes, self.no_equal, self.modes = path, {}, [], {}, {}
        self.incomplete = False         # what is left out here has no equal
        self.control()
        self.routes()
        self.sources()
        self.rules(tcp_smtp)
        self.users()
        self.alias()
        self.start()

    def read(self, name):
        """A file below the qmail home as text, None if there is none."""
        return read(os.path.join(self.path, name))

    def control(self):
        """Every control file that is known here, as it is; the rest is told."""
        for name in sorted(os.listdir(os.path.join(self.path, 'control'))):
            if name in KINDS and name not in OTHERWISE and os.path.isfile(os.path.join(self.path, 'control', name)):
                if KINDS[name] != tables.CDB or name == 'validrcptto.cdb':
                    self.for_all('control/' + name, os.path.join(self.path, 'control', name))
            elif not tables.is_copy(os.fsencode(name)) and not name.endswith(('.tmp', '.cdb')):
                self.no_equal['control/' + name] = ELSEWHERE.get(name) or why_not(name)
        for name in PATTERNED:
            found = [line for line in self.files.get('control/' + name, '').splitlines() if PATTERN.search(line)]
            if found:
                self.incomplete = True
                self.notes.append('control/%s: patterns of a patch are plain addresses here, and match nobody: write @host or '
                                  'addresses, or have a policy server match them: %s' % (name, ', '.join(found)))
        if 'control/rcpthosts' not in self.files:
            self.notes.append('there is no control/rcpthosts: qmail accepted mail for every domain, an open relay; here '
                              'it is accepted for locals and virtualdomains')
        if 'control/me' not in self.files:
            self.notes.append('there is no control/me; what is in DIR stays')
        more = ['%s (%d there, %d here)' % (name, number, tables.row(name.encode())[2]) for name, number in THERE.items()
                if 'control/' + name not in self.files]
        if more:
            self.notes.append('without such a file more is done at a time here than there: control/' + ', '.join(more))

    def for_all(self, path, source):
        """A control file, which everybody may read here; not one that is kept from somebody."""
        if path[len('control/'):] not in WITHOUT_LOGINS and not os.stat(source).st_mode & stat.S_IROTH:
            self.incomplete = True
            self.notes.append('%s is not written: not everybody may read %s, and everybody could read it here; if nothing in it '
                              'is secret, chmod o+r there and come again' % (path, source))
        else:
            self.files[path] = read(source)

    def routes(self):
        """Logins that patches write into smtproutes and authsenders, KEY:RELAY[:PORT]|USER|PASSWORD or with blanks (the
        qmail-remote-auth patch); what is no route may hold a password, and is told by its number."""
        logins = []
        for source, target, fault in ROUTES:
            text, left = self.read('control/' + source), []
            if text is None:
                continue
            lines = text.split('\n')
            if not os.stat(os.path.join(self.path, 'control', source)).st_mode & stat.S_IROTH:
                lines = ['#' if line[:1] == '#' else line for line in lines]        # may say a password in any words
            for at, line in enumerate(lines):
                for_all = source == 'authsenders' and line[:1] == ':'
                try:
                    lines[at] = with_login(line.rstrip(' \t'), logins, tables.fault_of_route if for_all else fault)
                except ValueError:
                    left.append(str(at + 1))
                if for_all:
                    self.notes.append('authsenders: an entry for all senders is a line for all domains in smtproutes')
                if for_all or left[-1:] == [str(at + 1)]:
                    lines[at] = '# not taken over: line %d' % (at + 1)
            self.files['control/' + target] = '\n'.join(lines)
            if left:
                self.incomplete = True
                self.notes.append('control/%s, line %s: not taken over: neither KEY:RELAY[:PORT] nor that with USER PASSWORD or '
                                  '|USER|PASSWORD behind it; what it says is not repeated, it may hold a password'
                                  % (source, ', '.join(left)))
        if logins:
            self.files['control/smtplogins'] = ''.join(login + '\n' for login in dict.fromkeys(logins))
            self.no_equal.pop('control/authsenders', None)

    def sources(self):
        """Addresses that mail leaves from, from whichever file a patch reads them: one for all, or by sender's domain."""
        lines = []
        for name, key in SOURCES:
            for line in (self.read('control/' + name) or '').splitlines():
                if line.strip() and line[:1] != '#':
                    lines.append((key if not line.startswith(('@', ':')) else '') + line.strip())
                    self.no_equal.pop('control/' + name, None)
        if lines:
            self.files['control/outgoingip'] = ''.join(line + '\n' for line in lines)

    def rules(self, path):
        """tcprules' source, which is no control file there."""
        if not self.read('control/tcp.smtp') and os.path.isfile(path):
            self.for_all('control/tcp.smtp', path)
        elif self.read('control/tcp.smtp') is None:
            self.notes.append('no tcp.smtp was found: say who may relay in control/tcp.smtp')
        if 'control/tcp.smtp' in self.files:
            text, remarks, whole = qmailrules.translated(self.files['control/tcp.smtp'])
            self.files['control/tcp.smtp'], self.incomplete = text, self.incomplete or not whole
            self.notes += ['control/tcp.smtp, line %s: %s' % (', '.join(map(str, numbers)), sentence)
                           for sentence, numbers in remarks]

    def users(self):
        """users/assign and its relatives."""
        for name in USERS:
            text = self.read('users/' + name)
            if text is not None:
                self.files['users/' + name] = text
                self.modes['users/' + name] = kept(os.stat(os.path.join(self.path, 'users', name)).st_mode) & ~0o022
        old = os.path.join(self.path, 'alias')
        if any(line.split(':')[4:5] in ([old], ['/var/qmail/alias'])
               for line in self.files.get('users/assign', '').splitlines()):
            self.notes.append('users/assign: what is for alias goes to the old %s still; make it anew by qpy-pw2u, or name '
                              'alias in DIR there' % old)

    def alias(self):
        """The .qmail files of the user alias."""
        directory = os.path.join(self.path, 'alias')
        names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        for name in names:
            if name.startswith('.qmail'):
                text, there = self.of_alias(directory, name)
                if text is None:
                    continue
                self.files['alias/' + name] = text
                self.rights('alias/' + name, there, os.stat(directory).st_uid)
                with_cr = [str(number) for number, line in enumerate(text.split('\n'), 1) if line[-1:] == '\r']
                if with_cr:
                    self.notes.append("alias/%s: line %s ends in a carriage return: its mail waits until they are gone "
                                      "(sed -i 's/\\r$//')" % (name, ', '.join(with_cr)))
                if 'fastforward' in text:
                    self.notes.append('alias/%s runs fastforward: our newaliases and users/aliases.cdb do the same '
                                      'without it (qpy-aliases.5)' % name)
        for name in names:
            if name in ('Maildir', 'Mailbox'):
                self.notes.append('alias/%s is left where it is: mail in it is not moved' % name)

    def of_alias(self, directory, name):
        """(text, stat) of a .qmail file; (None, None) if there is none, or none that alias may read.

        alias can exchange it at any time: what counts is what was opened, and what was not a file of his is opened as alias."""
        path, alias = os.path.join(directory, name), os.stat(directory).st_uid
        try:
            text, there = opened(path, os.O_NOFOLLOW)
            if text is None or there.st_nlink < 2 or there.st_uid == alias:
                return text, there
        except OSError as problem:
            if problem.errno != errno.ELOOP:
                raise
        try:
            with doing.as_its_owner(directory):
                return opened(name)
        except PermissionError:
            self.incomplete = True
            self.notes.append('alias/%s is not taken over: it is a link to what alias may not read' % name)
            return None, None

    def rights(self, path, there, alias):
        """Who could read and write a .qmail file of alias, and whether it could run programs.  alias: his uid there."""
        self.modes[path] = kept(there.st_mode)
        if there.st_mode & stat.S_IWOTH:
            self.notes.append('%s: everybody may write to it, so its mail waits, here as there (Uh-oh: .qmail file is writable): '
                              'chmod o-w' % path)
        if there.st_uid not in (0, alias, *uids('alias')):
            self.notes.append('%s was a file of %s, who could edit it; here alias has it, as whom it is obeyed. If he is '
                              'to edit it still, chown it; a first line +list has it forward only' % (path, account(there.st_uid)))
        elif there.st_uid not in (alias, *uids('alias')) and not there.st_mode & (stat.S_IROTH | stat.S_IRGRP):
            self.notes.append('%s: only root could read it there, alias can here' % path)

    def start(self):
        """The default delivery that /var/qmail/rc gives qmail-start, which may have it from a control file; qmail-start
        itself reads none."""
        lines = (self.read('rc') or '').replace('\\\n', ' ').split('\n')
        script = '\n'.join(line for line in lines if line.lstrip()[:1] != '#')
        word = shell_word(START.split(script, maxsplit=1)[-1]) if START.search(script) else ''
        there = self.files.get(DELIVERY)
        if there is not None and re.search(r'\bdefaultdelivery\b', script):
            pass
        elif not word:
            self.notes.append("no defaultdelivery was found: it is ./Maildir/ here, where qmail's is ./Mailbox" if there is None
                              else 'rc does not read control/defaultdelivery, and without a patch nothing does: qmail delivers '
                              'to ./Mailbox then; the file counts here')
        elif '$' in word or '`' in word:
            self.notes.append('rc: defaultdelivery is what %s says there; write it into control/defaultdelivery%s'
                              % (word, '' if there is None else ', which is taken over as it is'))
        else:
            self.files[DELIVERY] = word + '\n'
            if there is not None and there.rstrip('\n') != word.rstrip('\n'):
                self.notes.append('control/defaultdelivery is what rc gives qmail-start; rc does not read the file of that '
                                  'name, which says: ' + ' / '.join(there.splitlines()))


def why_not(name):
    """Why a control file is not taken over."""
    near = tables.nearest(os.fsencode(name)).decode()
    if name in OTHERWISE:
        return 'a file of this name is something else here'
    if name in KINDS:
        return 'it is no file, or leads nowhere'
    return 'did you mean %s?' % near if near else 'no program here reads it'


def read(path):
    """A file as text; None if there is none."""
    try:
        with open(path, encoding='latin-1', newline='') as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def opened(path, flags=0):
    """(text, stat) of a regular file; (None, None) if there is none."""
    try:
        with open(path, 'rb', opener=lambda name, _: os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)) as file:
            there = os.fstat(file.fileno())
            return (file.read().decode('latin-1'), there) if stat.S_ISREG(there.st_mode) else (None, None)
    except (FileNotFoundError, IsADirectoryError):
        return None, None


def kept(mode):
    """The mode of a file that gets a group of ours: the group may do no more than everybody could."""
    return mode & 0o707 | mode & (mode & 0o007) << 3


def uids(name):
    """[uid] of an account, [] if there is none."""
    try:
        return [pwd.getpwnam(name).pw_uid]
    except KeyError:
        return []


def account(uid):
    """The name of an account, or its uid."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return 'uid %d' % uid


def with_login(line, logins, fault):
    """A line KEY:RELAY[:PORT], with |USER|PASSWORD or USER PASSWORD behind it, as ours; its login goes to logins, of a comment
    nowhere.  ValueError if it is something else.  fault(KEY:) -> why that is none, b'' if it is one."""
    if not line or line[:1] == '#':
        return TO_A_PLACE.match(line)[0]
    route, *login = line.split('|', 2)
    key, colon, place = route.partition(':')
    if not login and BLANKS.search(place):
        place, *login = BLANKS.split(place)
        login[0] = login[0].removeprefix('-')
    if len(login) not in (0, 2) or fault((key + colon).encode('latin-1')):
        raise ValueError('no route')
    if login:
        place = logged_in(place.replace(';', ':'), *login, logins)
    smtproutes.parse(place.encode('latin-1'))
    return key + colon + place


def logged_in(place, user, password, logins):
    """USER@RELAY[:PORT], whose login goes to logins; ValueError if control/smtplogins cannot hold it."""
    hop = smtproutes.parse_hop(('%s@%s' % (user, place)).encode('latin-1'))
    host = hop.host.decode('latin-1')
    if not password or ':' in user + host or hop.login != user.encode('latin-1'):
        raise ValueError('no login')
    logins.append('%s@%s:%s' % (user, host, password))
    return '%s@%s' % (user, place)


def shell_word(text):
    """The first word of a shell's text, its quotes taken away; a quoted one may have several lines."""
    text = text.lstrip(' \t')
    if text[:1] in ('"', "'"):
        return text[1:].partition(text[0])[0]
    words = text.partition('\n')[0].split()
    return words[0] if words else ''
