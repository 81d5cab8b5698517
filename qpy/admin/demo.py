"""qpy-demo, as anybody: a whole mail server in a directory of its own, and what it does while it does it.

    arguments   [--check] [--dir DIR] [--port PORT]
    exit        0; with --check 100 if something did not arrive, 111 if the server could not be started

Nothing leaves this machine: SMTP is served on 127.0.0.1, and mail for other hosts goes to a sink inside the demo.
"""
import argparse
import contextlib
import errno
import io
import os
import pwd
import shutil
import signal
import smtplib
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

from qpy import unix_kernel
from qpy.admin import install
from qpy.admin.installing import doing, first_files, program_files
from qpy.admin.sink import Sink
from qpy.admin.trace import Trace

OK, WRONG, TEMP = 0, 100, 111
PORT = 2525
HERE = 'demo.test'              # our own domain
SOURCES = ('bin', 'qpy', 'man', 'control')      # what the installation is made from
AWAY = 'away.example'           # everybody else's
PATIENCE = 10.0                 # seconds for one step of --check
NOBODY = 65534
HOME_FILES = (                  # name in the demo user's home, content, what an address of it does
    ('.qmail', './Maildir/\n', 'demo', 'into a Maildir'),
    ('.qmail-default', './Maildir/\n', 'demo-ANYTHING', 'an extension address, into the same Maildir'),
    ('.qmail-mbox', './Mailbox\n', 'demo-mbox', 'into an mbox file'),
    ('.qmail-program', '|cat > program.out\n', 'demo-program', 'into a program'),
    ('.qmail-forward', '&demo@' + HERE + '\n', 'demo-forward', 'forwarded to demo'),
    ('.qmail-fail', "|echo 'This address always fails.'; exit 100\n", 'demo-fail', 'fails: a bounce comes back'),
    ('.qmail-defer', "|echo 'This address is never ready.'; exit 111\n", 'demo-defer', 'is deferred, again and again'),
    ('.qmail-later', "|test -e tried || { touch tried; echo 'Not the first time.'; exit 111; }\n./Maildir/\n",
     'demo-later', 'is deferred once, then delivered'),
    ('.qmail-slow', '|sleep 5\n./Maildir/\n', 'demo-slow', 'takes five seconds'))


def main(home, args):
    """Make the sandbox, start the chain, then check it or watch it; always clean up."""
    os.umask(0o077)
    try:
        options = parse([os.fsdecode(word) for word in args])
    except SystemExit as end:
        return OK if not end.code else WRONG
    ending = end_on_signals()
    demo = copy = None
    try:
        with unheard():
            copy = readable_copy(demo_uid())
            note = step_down(demo_uid())
            if note:
                say(note)
            demo = Demo(options)
            return demo.check() if options.check else demo.watch()
    except (doing.Trouble, OSError) as problem:
        if not ending:
            doing.fatal('qpy-demo', problem)
            return TEMP
    except KeyboardInterrupt:
        pass
    finally:
        if demo:
            demo.close()
        if copy:
            shutil.rmtree(copy, ignore_errors=True)
    return OK if demo and not options.check else TEMP


@contextlib.contextmanager
def unheard():
    """Whoever read our output has enough: end, without a word."""
    try:
        yield
    except BrokenPipeError:
        sys.stdout = None
        raise KeyboardInterrupt from None


def end_on_signals():
    """Whatever ends us, the chain and the sandbox go too: the first of INT, TERM and HUP is a KeyboardInterrupt.

    Returns a list that is not empty from then on: what was interrupted may turn it into an error of its own."""
    ending = []

    def end(number, _):
        if not ending:
            ending.append(number)
            raise KeyboardInterrupt
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    return ending


def parse(words):
    """The options; SystemExit after a usage line."""
    parser = argparse.ArgumentParser(prog='qpy-demo', description='A mail server of your own, in a directory of its own.')
    parser.add_argument('--check', action='store_true', help='do one whole round by itself and say what worked')
    parser.add_argument('--dir', metavar='DIR', help='where it lives, and stays (default: a directory that goes)')
    parser.add_argument('--port', metavar='PORT', type=port_number, default=None,
                        help='SMTP on this port (default %d; 0: any)' % PORT)
    options = parser.parse_args(words)
    options.dir = options.dir and os.path.abspath(options.dir)
    return options


def port_number(word):
    """A TCP port."""
    if not (word.isascii() and word.isdigit() and int(word[:6]) < 65536):
        raise argparse.ArgumentTypeError('%s is no port; write a number between 1024 and 65535' % word)
    return int(word)


def say(line=''):
    """One line for the person who watches."""
    print(line, flush=True)


def demo_uid():
    """Who is to run it: we; if we are root the one who called sudo, else nobody."""
    return os.geteuid() or int(os.environ.get('SUDO_UID', '0')) or NOBODY


def readable_copy(uid):
    """As root: a copy of the source for that uid if he cannot read the source itself (a clone below /root); its
    directory, or None.  install takes its code from there."""
    path = os.path.join(program_files.CODE, 'qpy/unix.py')
    if os.geteuid() != 0 or all(reachable(os.stat(place), uid) for place in ways_to(path)):
        return None
    place = tempfile.gettempdir()
    if not all(reachable(os.stat(above), uid) for above in ways_to(place)):
        raise doing.Trouble('uid %d may not reach %s; set TMPDIR to another directory' % (uid, place))
    copy = tempfile.mkdtemp(prefix='qpy-demo-source-')
    for name in SOURCES:
        if os.path.isdir(os.path.join(program_files.CODE, name)):
            shutil.copytree(os.path.join(program_files.CODE, name), os.path.join(copy, name),
                            ignore=shutil.ignore_patterns('__pycache__'))
    program_files.tidy(copy)
    for directory, _, _ in os.walk(copy):
        os.chown(directory, uid, -1)                 # he removes it
    program_files.CODE = copy
    return copy


def ways_to(path):
    """A file and every directory above it."""
    while path != '/':
        yield path
        path = os.path.dirname(path)


def reachable(there, uid):
    """Whether a uid can pass a directory, or read a file, by its mode."""
    bit = 1 if stat.S_ISDIR(there.st_mode) else 4
    return there.st_mode & bit or there.st_uid == uid and there.st_mode & bit << 6


def step_down(uid):
    """As root: be that uid, for good; the word about it, or ''."""
    if os.geteuid() != 0:
        return ''
    try:
        gid, name = pwd.getpwuid(uid).pw_gid, pwd.getpwuid(uid).pw_name
    except KeyError:
        gid, name = uid, str(uid)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.environ.pop('HOME', None)
    os.chdir('/')
    return 'You are root; the demo needs no root and goes on as %s.' % name


def free_port(wanted):
    """wanted (0: any), or if it is None the usual one, or any if that is taken."""
    for port in (PORT if wanted is None else wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(('127.0.0.1', port))
            except OSError as problem:
                if wanted and problem.errno == errno.EACCES:
                    raise doing.Trouble('ports below 1024 need root; choose another than %d with --port' % port) \
                        from None
                if wanted:
                    raise doing.Trouble('port %d is taken; choose another with --port' % port) from None
                continue
            return probe.getsockname()[1]


class Demo:
    """The sandbox, its chain and its sink."""

    def __init__(self, options):
        self.changed = threading.Condition()
        self.chain = self.sink = None
        self.taken = []                              # what the sink got: (sender, recipients, message)
        self.quiet = True                            # until watch() has said what can be done
        self.stays = bool(options.dir)
        self.port = free_port(options.port)
        self.home = options.dir or tempfile.mkdtemp(prefix='qpy-demo-')
        self.user_home = os.path.join(self.home, 'home')
        self.trace = Trace(self.tell, self.where)
        try:
            self.sink = Sink(('127.0.0.2', 0), self.sink_took)
            self.furnish()
            self.start()
        except BaseException:
            self.close()
            raise

    # --- making it ---

    def furnish(self):
        """Install, and give the demo user a home with its magic addresses."""
        if not os.access(doing.nearest(self.home), os.W_OK | os.X_OK):
            raise doing.Trouble('uid %d may not write to %s; choose another directory with --dir'
                                % (os.getuid(), doing.nearest(self.home)))
        words = [self.home, '--offline', '--me', HERE, '--smtp', '127.0.0.1:%d' % self.port]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            try:
                code = install.install(install.parse(words))
            except OSError as problem:
                raise doing.Trouble('unable to live in %s: %s; choose another directory with --dir'
                                    % (self.home, doing.words(problem))) from None
        if code:
            raise doing.Trouble(said.getvalue().strip() or 'unable to install into ' + self.home)
        line = 'smtpd qpyd tcp:127.0.0.1:%d qpy-smtpd\n' % self.port
        self.write('control/services', line)
        self.write('control/smtproutes', ':127.0.0.2:%d\n' % self.sink.port)
        os.makedirs(self.user_home, mode=0o700, exist_ok=True)
        first_files.make_maildir(os.path.join(self.user_home, 'Maildir'))
        for name, content, _, _ in HOME_FILES:
            doing.first(os.path.join(self.user_home, name), content, 0o600)
        who = 'demo:%d:%d:%s' % (os.getuid(), os.getgid(), self.user_home)
        self.write('users/assign', '=demo:%s:::\n+demo-:%s:-::\n.\n' % (who, who))
        doing.run(self.program('qpy-newu'))

    def write(self, name, content):
        """Write a file of DIR."""
        with open(os.path.join(self.home, name), 'w') as file:
            file.write(content)

    def program(self, name):
        """The path of one of our programs."""
        return os.path.join(self.home, 'bin', name)

    def start(self):
        """Start the chain and wait until it says so."""
        self.chain = subprocess.Popen([self.program('qpy-start')], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, start_new_session=True,
                                      preexec_fn=lambda: unix_kernel.end_with_parent(signal.SIGTERM))
        threading.Thread(target=self.read_log, daemon=True).start()
        if not self.wait(lambda: any(line.startswith('status:') for line in self.trace.lines)):
            raise OSError('the server did not start: ' + self.last_words())

    def last_words(self):
        """What the log says about an end: the fatal lines, else the last ones."""
        fatal = [line for line in self.trace.lines if 'fatal: ' in line]
        return ' / '.join(fatal[:2] or self.trace.lines[-3:])

    def read_log(self):
        """Feed the trace with the log, for ever."""
        for line in self.chain.stdout:
            with self.changed:
                self.trace.feed(line.decode('utf-8', 'replace').rstrip('\n'))
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def sink_took(self, sender, recipients, message):
        """The outside world got a message."""
        with self.changed:
            self.taken.append((sender, recipients, message))
            self.changed.notify_all()

    def wait(self, condition, patience=PATIENCE):
        """Wait until condition() holds, looking whenever something happens; False if time is up or the chain ends."""
        give_up = time.monotonic() + patience
        with self.changed:
            while not condition():
                left = give_up - time.monotonic()
                if left <= 0 or self.chain.poll() is not None:
                    return bool(condition())
                self.changed.wait(min(left, 1.0))
        return True

    def close(self):
        """End the chain, and remove the sandbox unless it was asked for by name."""
        if self.chain:
            self.chain.terminate()
            try:
                self.chain.wait(15)
            except subprocess.TimeoutExpired:
                self.chain.kill()
                self.chain.wait()
        if self.sink:
            self.sink.shutdown()
            self.sink.server_close()
        if not self.stays:
            shutil.rmtree(self.home, ignore_errors=True)

    # --- telling ---

    def tell(self, line):
        """A line of the story, once somebody watches."""
        if not self.quiet:
            say(line)

    def where(self, channel, address):
        """Where a delivered message is now."""
        if channel == 'remote':
            return 'the sink on 127.0.0.2:%d' % self.sink.port
        extension = address.partition('@')[0].partition('-')[2]
        if address.startswith(('postmaster@', 'root@', 'mailer-daemon@')) or extension in ('root', 'postmaster'):
            return self.newest('alias')
        if extension == 'mbox':
            return os.path.join(self.user_home, 'Mailbox')
        if extension == 'program':
            return os.path.join(self.user_home, 'program.out')
        return '' if extension == 'forward' else self.newest('home')

    def newest(self, home):
        """The newest file of a Maildir's new/."""
        directory = os.path.join(self.home, home, 'Maildir/new')
        try:
            paths = [os.path.join(directory, name) for name in os.listdir(directory)]
            return max(paths, key=os.path.getmtime)
        except (OSError, ValueError):
            return ''

    def watch(self):
        """Say what can be done, send a first message, and tell what happens until ^C."""
        say('A mail server of your own, in %s\n' % self.home)
        say('  SMTP       127.0.0.1 port %d' % self.port)
        say('  sendmail   %s' % self.program('sendmail'))
        say('  Maildir    %s/Maildir' % self.user_home)
        say('\nAddresses:\n')
        for _, _, address, what in HOME_FILES:
            say('  %-27s %s' % (address + '@' + HERE, what))
        say('  %-27s %s' % ('postmaster@' + HERE, 'into the Maildir of alias'))
        for address, what in (('anybody', 'into the sink: nothing leaves this machine'), ('fail', 'is refused there'),
                              ('defer', 'is deferred there'), ('slow', 'takes three seconds there')):
            say('  %-27s %s' % (address + '@' + AWAY, what))
        say('\nPaste into another terminal:\n')
        for line in self.lines_to_paste():
            say('  ' + line)
        say('\nWhat happens (^C ends it):')
        self.quiet = False
        self.send_smtp('demo@' + HERE, subject='Welcome')
        return self.until_interrupted()

    def until_interrupted(self):
        """Wait for the end of the chain; ^C, TERM and HUP are KeyboardInterrupt."""
        self.wait(lambda: self.chain.poll() is not None, float('inf'))
        say('the server has ended: ' + self.last_words())
        return TEMP

    def lines_to_paste(self):
        """A line for each client that this machine has."""
        to, port, sendmail = 'demo@' + HERE, self.port, self.program('sendmail')
        clients = (
            ('swaks', 'swaks --server 127.0.0.1:%d --from you@%s --to %s' % (port, HERE, to)),
            ('curl', "printf 'Subject: hi\\n\\nhello\\n' | curl --crlf smtp://127.0.0.1:%d --mail-from you@%s --mail-rcpt %s -T -"
             % (port, HERE, to)),
            ('msmtp', "printf 'Subject: hi\\n\\nhello\\n' | msmtp --host=127.0.0.1 --port=%d --from=you@%s %s"
             % (port, HERE, to)),
            ('mutt', "echo hello | mutt -e 'set sendmail=%s' -s hi %s" % (sendmail, to)),
            ('s-nail', 'echo hello | s-nail -S mta=%s -s hi %s' % (sendmail, to)),
            ('git-send-email', 'git send-email --smtp-server=127.0.0.1 --smtp-server-port=%d --to=%s HEAD^' % (port, to)))
        yield "printf 'Subject: hi\\n\\nhello\\n' | %s %s" % (sendmail, to)
        yield ("python3 -c \"import smtplib; smtplib.SMTP('127.0.0.1', %d).sendmail('you@%s', '%s', 'Subject: hi\\n\\nhello')\""
               % (port, HERE, to))
        for name, line in clients:
            if shutil.which(name) or name.startswith('git') and has_git_command(name):
                yield line
        yield '%s          # what waits' % self.program('mailq')
        yield '%s -q    # try again what was deferred' % sendmail

    # --- sending ---

    def send_smtp(self, recipient, sender=None, subject='hello'):
        """One message by SMTP."""
        sender = 'demo@' + HERE if sender is None else sender
        text = 'From: %s\r\nTo: %s\r\nSubject: %s\r\n\r\nSent by qpy-demo.\r\n' % (sender, recipient, subject)
        with smtplib.SMTP('127.0.0.1', self.port, local_hostname='client.' + HERE, timeout=PATIENCE) as client:
            client.sendmail(sender, [recipient], text)

    def send_sendmail(self, recipient, subject='hello'):
        """One message by sendmail."""
        subprocess.run([self.program('sendmail'), '-f', 'demo@' + HERE, recipient], check=True, timeout=PATIENCE,
                       input=b'Subject: %s\n\nSent by qpy-demo.\n' % subject.encode(), capture_output=True)

    # --- the check ---

    def check(self):
        """Every way once; a line for each; 0 if all went well."""
        begun, good = time.monotonic(), True
        for title, step in CHECKS:
            start = time.monotonic()
            try:
                place = step(self)
            except (OSError, smtplib.SMTPException, subprocess.SubprocessError) as problem:
                place, reason = '', str(problem) + detail(problem)
            else:
                reason = self.last_words()
            good = good and bool(place)
            say('%-6s %-34s %6.3f s  %s' % ('ok' if place else 'FAILED', title, time.monotonic() - start,
                                            place or reason))
        say('%s in %.1f s' % ('all is well' if good else 'something did not work', time.monotonic() - begun))
        return OK if good else WRONG

    def arrives(self, send, recipient, subject, *paths):
        """Send, and wait until a file under one of the paths holds the subject; that file's path or ''."""
        subject = self.unique(subject)
        send(recipient, subject=subject)
        return self.find(subject, *paths)

    def unique(self, subject):
        """A subject that no message of an earlier run in the same directory has."""
        return '%s (%d)' % (subject, os.getpid())

    def bounces(self):
        """A message that cannot be delivered comes back."""
        subject = self.unique('comes back')
        self.send_smtp('demo-fail@' + HERE, subject=subject)
        return self.find(subject, 'home/Maildir/new')

    def find(self, text, *paths):
        """Wait for a file with this text at or under one of the paths; its path or ''."""
        found = []

        def look():
            found[:] = [path for path in files(self.home, paths) if holds(path, text)]
            return found
        self.wait(look)
        return found[0] if found else ''

    def deferred(self):
        """A message that is deferred first arrives after the queue was run."""
        subject, tried = self.unique('arrives later'), os.path.join(self.user_home, 'tried')
        if os.path.exists(tried):
            os.unlink(tried)
        self.send_smtp('demo-later@' + HERE, subject=subject)
        if not self.wait(lambda: any('later' in address and verdict == 'deferral'
                                     for _, _, address, verdict, _ in self.trace.results)):
            return ''
        subprocess.run([self.program('sendmail'), '-q'], check=True, timeout=PATIENCE, capture_output=True)
        return self.find(subject, 'home/Maildir/new')

    def remote(self):
        """Mail for another host reaches the sink."""
        self.send_smtp('anybody@' + AWAY, subject='far away')
        if self.wait(lambda: any(b'far away' in message for _, _, message in self.taken)):
            return 'the sink on 127.0.0.2:%d' % self.sink.port
        return ''


CHECKS = (
    ('SMTP in, Maildir', lambda d: d.arrives(d.send_smtp, 'demo@' + HERE, 'by SMTP', 'home/Maildir/new')),
    ('sendmail in, Maildir', lambda d: d.arrives(d.send_sendmail, 'demo@' + HERE, 'by sendmail', 'home/Maildir/new')),
    ('mbox', lambda d: d.arrives(d.send_smtp, 'demo-mbox@' + HERE, 'into mbox', 'home/Mailbox')),
    ('program', lambda d: d.arrives(d.send_smtp, 'demo-program@' + HERE, 'into program', 'home/program.out')),
    ('alias (postmaster)', lambda d: d.arrives(d.send_smtp, 'postmaster@' + HERE, 'to alias', 'alias/Maildir/new')),
    ('extension address', lambda d: d.arrives(d.send_smtp, 'demo-any-thing@' + HERE, 'extension', 'home/Maildir/new')),
    ('forward', lambda d: d.arrives(d.send_smtp, 'demo-forward@' + HERE, 'forwarded', 'home/Maildir/new')),
    ('bounce', Demo.bounces),
    ('deferral that succeeds later', Demo.deferred),
    ('remote, to the built-in sink', Demo.remote),
)


def has_git_command(name):
    """Whether git can do this here: distributions package send-email by itself."""
    try:
        asked = subprocess.run(['git', '--exec-path'], capture_output=True, text=True)
    except OSError:
        return False
    return os.path.exists(os.path.join(asked.stdout.strip(), name))


def detail(problem):
    """What a failed command said."""
    said = getattr(problem, 'stderr', None)
    return ': ' + said.decode('utf-8', 'replace').strip() if said else ''


def files(home, paths):
    """Every file at or under the paths, newest names last."""
    for path in paths:
        full = os.path.join(home, path)
        if os.path.isdir(full):
            yield from (os.path.join(full, name) for name in sorted(os.listdir(full)))
        elif os.path.exists(full):
            yield full


def holds(path, text):
    """Whether a file holds this text."""
    try:
        with open(path, 'rb') as file:
            return text.encode() in file.read()
    except OSError:
        return False
