"""qpy-import, as root or DIR's owner: what another mail server had, in our files, and a report of what has no equal.

    qpy-import [-n] qmail [DIRECTORY]       /var/qmail: control/, users/, alias/.qmail-*, rc, /etc/tcp.smtp
    qpy-import [-n] postfix [DIRECTORY]     /etc/postfix: main.cf and the tables it names
    qpy-import [-n] queue [DIRECTORY]       /var/qmail/queue, at rest, into our running queue

Descriptor 1: a line per file or message, then what to look at.  -n: only the report.  What was in DIR stays beside the
new file as NAME~, alias/.qmail-NAME as old.qmail-NAME; later ones as NAME.~2~ and old2.qmail-NAME.  Nothing is changed
where it is read from, but for a list of the messages that were taken over.
Exit: 0; 1 done, but a file, an entry or a message was not taken over; 100 called wrongly; 111 it cannot be done.
"""
import itertools
import os
import pwd
import stat
import time

from qpy import unix
from qpy.admin import mailusers, newmrh, newu, qmailhome, qmailqueue
from qpy.admin.installing import doing
from qpy.admin.postfix import reading, translation
from qpy.core import bounce, controls as tables, dates, exits, getpw, grammar, route
from qpy.lib import controls, program, submit, users

INCOMPLETE = 1
USAGE = b'usage: qpy-import [-n] qmail|postfix|queue [DIRECTORY]'
PLACES = {'qmail': '/var/qmail', 'postfix': '/etc/postfix', 'queue': '/var/qmail/queue'}
JOURNAL = 'imported-by-qpy'
WHOLE = (b'defaultdelivery',)       # with one line less it would mean something else
SECRET = ('control/smtplogins',)
PARSE = {tables.LINE: tables.parse_line, tables.NUMBER: tables.parse_number, tables.LIST: tables.parse_list,
         tables.MAP: tables.parse_map, tables.TEXT: tables.parse_text}


def main(home, args):
    """See the top of the module."""
    words = [os.fsdecode(word) for word in args]
    only_report = '-n' in words[:1]
    words = words[only_report:]
    if not words or words[0] not in PLACES or len(words) > 2:
        raise program.Fatal(exits.PERM, USAGE)
    place = os.path.abspath(words[1] if len(words) > 1 else PLACES[words[0]])
    if not os.path.isdir(place):
        raise program.Fatal(exits.TEMP, b'unable to read %s: no such directory' % os.fsencode(place))
    if (os.path.realpath(place) + '/').startswith(os.path.realpath(os.fsdecode(home)) + '/'):
        raise program.Fatal(exits.TEMP, b'%s leads to qpy itself; name the directory of the old one' % os.fsencode(place))
    try:
        if words[0] == 'queue':
            return import_queue(home, place, only_report)
        found = from_qmail(place) if words[0] == 'qmail' else from_postfix(place, owner_of(home))
        found.notes += [*of_procmail(found.files.get('control/defaultdelivery', '')), *of_accounts(home, found)]
        return Import(os.fsdecode(home), only_report).run(found)
    except OSError as problem:
        raise program.Fatal(exits.TEMP, b'unable to use %s: %s' % (os.fsencode(str(problem.filename or place)),
                                                                   program.reason(problem))) from None


def say(line):
    """One line of the report, safe to print. Who hears no more of it does not end the work."""
    try:
        print(''.join(c if c.isprintable() else '?' for c in line), flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def from_qmail(place):
    """The translation of a qmail home."""
    if not os.path.isdir(place + '/control'):
        raise program.Fatal(exits.TEMP, b'unable to read %s: it has no control directory' % os.fsencode(place))
    return qmailhome.Translation(place, '/etc/tcp.smtp' if place == PLACES['qmail'] else place + '/etc/tcp.smtp')


def from_postfix(place, owner):
    """The translation of a Postfix configuration. Where `place` is a copy elsewhere, paths below /etc/postfix mean it and
    the others below /etc what is beside it; all other paths are what they say."""
    def read(path):
        if os.path.dirname(place) != '/etc' and path.startswith('/etc/') and not path.startswith(place + '/'):
            path = place + path[len(PLACES['postfix']):] if path.startswith(PLACES['postfix'] + '/') \
                else os.path.dirname(place) + path[len('/etc'):]
        return qmailhome.read(path)
    text = qmailhome.read(place + '/main.cf')
    if text is None:
        raise program.Fatal(exits.TEMP, b'unable to read %s/main.cf: no such file' % os.fsencode(place))
    found = translation.Translation(reading.parse_main(text), read, os.uname().nodename, owner)
    added = reading.added_services(qmailhome.read(place + '/master.cf') or '')
    if added:
        found.notes.append("master.cf is not read; these services in it are not as Debian's: %s; what listens here stands in "
                           'control/services, what a command delivers in .qmail files' % ', '.join(added))
    found.notes.append('aliases stay in /etc/aliases: run qpy-newaliases; what it cannot take it names')
    return found


def of_accounts(home, found):
    """Sentences on accounts of this host that had mail, and have none in DIR with what was found."""
    if os.stat(home).st_uid:
        return []                       # an installation of one account, which gets all mail
    assign = found.files.get('users/assign') or qmailhome.read(os.fsdecode(home) + '/users/assign') or ''
    return mailusers.notes(pwd.getpwall(), assign, account(home, 'alias'), owner_of_home)


def of_procmail(delivery, rules='/etc/procmailrc'):
    """A sentence where procmail is to deliver, and nothing says where it puts what no rule takes."""
    if 'procmail' in delivery and 'DEFAULT=' not in delivery + (qmailhome.read(rules) or ''):
        yield ('control/defaultdelivery: procmail may make no file in /var/mail here: mail that no rule takes waits (Couldn\'t '
               'create "/var/mail/USER") and bounces at last, unless the file is there already; write DEFAULT=$HOME/Maildir/ '
               'behind it, or into ' + rules)


def owner_of_home(path):
    """The uid of a directory; None if there is none."""
    try:
        return os.stat(path).st_uid if os.path.isdir(path) else None
    except OSError:
        return None


def account(home, role):
    """What an account of qpy is called."""
    names = controls.listing(os.fsencode(home), b'accounts') or []
    return next((line.partition(b':')[2].decode() for line in names if line.startswith(role.encode() + b':')), role)


def within_limits(name, number, data):
    """The data of a number file, or of the nearest number that its readers take."""
    if number is None or tables.limit(name, number) == number:
        return data
    nearest = tables.limit(name, number)
    say('look: control/%s: %d is out of range; the nearest, %d, is taken' % (name.decode(), number, nearest))
    return b'%d\n' % nearest


def owner_of(home):
    """A function of a local part: why its mail does not come to the user alias of DIR, '' if it does."""
    lookup = users.Lookup(home)

    def owner(local):
        try:
            user = lookup.find(local.encode('latin-1', 'replace')).user
        except getpw.Trouble as trouble:
            return '' if trouble.code == getpw.QLX_NOALIAS else trouble.text.decode('ascii', 'replace')
        return '' if user == b'alias' else 'it belongs to the user ' + user.decode('ascii', 'replace')
    return owner


def old_names(path):
    """Where a file of DIR is put before a new one comes, the first and the later ones: .qmail-NAME~ would be the address NAME~."""
    directory, name = os.path.split(path)
    in_alias = name.startswith('.qmail')
    yield '%s/old%s' % (directory, name) if in_alias else path + '~'
    for number in itertools.count(2):
        yield '%s/old%d%s' % (directory, number, name) if in_alias else '%s.~%d~' % (path, number)


class Import:
    """Writing what was found into DIR."""

    def __init__(self, home, only_report):
        self.home, self.only_report, self.code, self.changed = home, only_report, exits.OK, set()

    def run(self, found):
        """All of it; the exit code."""
        for path, text in sorted(found.files.items()):
            self.file(path, text.encode('latin-1', 'replace'), found.modes.get(path))
        if not self.only_report:
            self.compile()
        for name, value in found.no_equal.items():
            say('no equal: %s: %s' % (name, value))
        for note in found.notes:
            say('look: ' + note)
        if any(path.startswith('control/') for path in self.changed):
            say('look: a qpy that runs already: HUP to qpy-start has qpy-send read its files again, a restart has all of '
                'them read (qpy-control.5, When an edit acts)')
        return INCOMPLETE if found.incomplete else self.code

    def file(self, path, data, mode=None):
        """One file: checked, and written if it is not so already.  mode: what it must have, if that matters."""
        target, name = os.path.join(self.home, path), os.fsencode(path.partition('/')[2])
        if path.startswith('control/'):
            data = self.checked(name, data)
            if data is None:
                return
        replaced = os.path.lexists(target)
        if replaced and self.same(target, data, mode):
            return say('same: ' + path)
        if self.only_report:
            return say('would write: ' + path)
        old = next(name for name in old_names(path) if not os.path.lexists(os.path.join(self.home, name))) if replaced else ''
        self.write(target, data, path, old, 0o640 if path in SECRET else 0o644 if mode is None else mode)
        self.changed.add(path)
        say('written: %s%s' % (path, ', the old one is ' + old if old else ''))

    def same(self, target, data, mode):
        """Whether a file is already what it would be written as; what is none, such as a FIFO, is not waited for."""
        directory, name = os.path.split(target)
        try:
            with doing.as_its_owner(directory, self.home):
                return unix.read_file(name) == data and mode in (None, stat.S_IMODE(os.stat(name).st_mode))
        except OSError:
            return False

    def checked(self, name, data):
        """The data of a control file without the lines that would be refused, which become comments; None if that
        cannot mend it."""
        kind = tables.row(name)[1]
        if kind == tables.CDB:
            return data
        for _ in range(data.count(b'\n') + 2):
            try:
                value = grammar.check(data, name) if name in grammar.CHECKS else PARSE[kind](data, name)
                return within_limits(name, value, data) if kind == tables.NUMBER else data
            except tables.ControlError as problem:
                self.code = INCOMPLETE
                lines = data.split(b'\n')
                by_line = kind in (tables.LIST, tables.MAP, tables.TEXT) and name not in WHOLE
                if not by_line or not 0 < problem.line <= len(lines):
                    say('not written: ' + problem.text.decode('ascii', 'replace'))
                    return None
                say('left out: ' + problem.text.decode('ascii', 'replace'))
                lines[problem.line - 1] = b'# not taken over: ' + tables.show(lines[problem.line - 1])
                data = b'\n'.join(lines)
        return None

    def write(self, target, data, path, old, mode):
        """Write it whole; DIR's owner owns it, and what is alias's is alias's.  old: where what was there is kept, if anything was."""
        directory, name = os.path.split(target)
        with doing.as_its_owner(directory, self.home):
            doing.written(name + '.tmp', data, 0o600, durable=True)
            if os.geteuid() == 0:
                os.chown(name + '.tmp', 0, self.group() if path in SECRET else os.stat('.').st_gid)
            os.chmod(name + '.tmp', mode)
            if old:
                os.replace(name, os.path.basename(old))
            os.replace(name + '.tmp', name)

    def group(self):
        """The gid of who may read passwords: that of qpyr, which reads them."""
        try:
            return pwd.getpwnam(account(self.home, 'qpyr')).pw_gid
        except KeyError:
            return 0

    def compile(self):
        """The tables that are made of what was written."""
        home = os.fsencode(self.home)
        for path, maker in (('users/assign', newu), ('control/morercpthosts', newmrh)):
            if path in self.changed:
                try:
                    maker.main(home, [])
                    say('compiled: ' + path)
                except program.Fatal as problem:
                    self.code = INCOMPLETE
                    say('not compiled: ' + problem.text.decode('ascii', 'replace'))


# --- the queue -----------------------------------------------------------------------------------------------

def import_queue(home, place, only_report):
    """Each message of a qmail queue at rest, into ours."""
    try:
        lock = qmailqueue.hold(place)
    except qmailqueue.Running:
        raise program.Fatal(exits.TEMP, b'qmail-send runs in %s: stop it first' % os.fsencode(place)) from None
    taken, code = Taken(home, os.path.join(place, JOURNAL), only_report), exits.OK
    unreadable = []
    for message in qmailqueue.messages(place, old_controls(os.path.dirname(place)), unreadable.append):
        if not taken.over(message):
            code = INCOMPLETE
    for line in unreadable:
        say('not taken over: ' + line)
    if lock:
        lock.close()
    return INCOMPLETE if unreadable else code


def old_controls(place):
    """What that qmail knew of its own domains: control/locals (me, if there is none) and virtualdomains."""
    def lines(name):
        text = qmailhome.read(place + '/control/' + name)
        return None if text is None else [line.rstrip(' \t').encode('latin-1') for line in text.split('\n') if line[:1] != '#']
    here = lines('locals')
    if here is None:
        here = (lines('me') or [])[:1]
    pairs = [line.partition(b':') for line in lines('virtualdomains') or []]
    return route.Controls({domain.lower(): 0 for domain in here if domain},
                          {key.lower(): (prefix, 0) for key, colon, prefix in pairs if colon})


class Taken:
    """The messages that were taken over, by number and age, so that a second run takes none twice."""

    def __init__(self, home, journal, only_report):
        self.home, self.only_report = home, only_report
        self.settings = bounce.Settings(b'qsbmf', *(controls.line(home, name) for name in (
            b'bouncefrom', b'bouncehost', b'doublebounceto', b'doublebouncehost')))
        self.known = set((qmailqueue.contents(journal) or b'').decode('latin-1').split('\n'))
        self.journal = None if only_report else unix.open_regular(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def over(self, message):
        """Queue it with what is left of it, and say so; False if that failed."""
        what = 'message %d from <%s>' % (message.number, message.sender.decode('latin-1'))
        if '%d %d' % (message.number, message.born) in self.known:
            return say('taken over before: ' + what) or True
        age = max(0, int(time.time() - message.born))
        failed = '' if not message.failed else ', and a bounce' if self.to_whom(message) else \
            ', and a failure that nobody is to be told'
        words = '%s, %d recipients left, %d hours old%s' % (what, len(message.recipients), age // 3600, failed)
        if self.only_report:
            return say('would take over: ' + words) or True
        for ident, refusal in self.queued(message, age):
            if refusal:
                return say('not taken over: %s: %s' % (what, refusal)) or False
            words += ', as ' + ident
        os.write(self.journal, b'%d %d\n' % (message.number, message.born))
        os.fsync(self.journal)
        return say('taken over: ' + words) or True

    def queued(self, message, age):
        """(ID, why not) of the message and of the bounce of what has failed."""
        if message.recipients:
            with qmailqueue.opened(message.path) as file:
                yield told(submit.send(self.home, message.sender, message.recipients, file.fileno(),
                                       [(b'a', b'%d' % age)]))
        to_whom = message.failed and self.to_whom(message)
        if to_whom:
            yield told(submit.send(self.home, to_whom[0], [to_whom[1]], self.report(message, to_whom[1])))

    def to_whom(self, message):
        """(sender, recipient) of the bounce of a message; None if that was a double bounce itself."""
        return bounce.envelope(message.sender, self.settings)

    def report(self, message, to):
        """The bounce qmail would have made, in its form."""
        head = b'Date: %s\nFrom: %s@%s\nTo: %s\nSubject: failure notice\n\n' % (
            dates.header_date(int(time.time())), self.settings.user, self.settings.host, to)
        intro = bounce.INTRO if message.sender else bounce.DOUBLE_INTRO
        copy = bounce.COPY if message.sender else bounce.DOUBLE_COPY
        yield head + intro % self.settings.host + message.failed + copy + b'Return-Path: <%s>\n' % message.sender
        with qmailqueue.opened(message.path) as file:
            while piece := file.read(65536):
                yield piece


def told(answer):
    """(ID, '') or ('', why not)."""
    code, text = answer
    if not code:
        return text.decode(), ''
    return '', (text if text[:1] in (b'D', b'Z') else exits.queue_text(code))[1:].decode('ascii', 'replace')
