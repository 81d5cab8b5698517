"""Whole installations for tests: rootless under a plain account, and rooted with the real accounts."""
import os
import shutil
import signal
import smtplib
import socket
import subprocess
import tempfile
import threading
import time

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLAIN = 54321               # the account of rootless installations when the tests run as root
PATIENCE = 20.0             # seconds until something is given up
MASTERS = ('resolve', 'users', 'rspawn', 'smtpd', 'tls', 'check', 'milter')        # who have workers


def free_port():
    """A TCP port of 127.0.0.1 that nobody has."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class House:
    """An installed DIR with its chain; its log is read all the time, and waiting looks whenever a line comes."""

    rootless = True

    def __init__(self, routes='', users=None, services='', me='here.test'):
        """users: {name: (uid, gid)} for users/assign, each with a home in DIR's parent."""
        self.top = tempfile.mkdtemp(prefix='qpy-test-')
        os.chmod(self.top, 0o755)
        self.home = os.path.join(self.top, 'qpy')
        self.port = free_port()
        self.process, self.lines, self.changed = None, [], threading.Condition()
        self.uid = (PLAIN if os.geteuid() == 0 else os.geteuid()) if self.rootless else 0
        self.gid = (PLAIN if os.geteuid() == 0 else os.getegid()) if self.rootless else 0
        os.chown(self.top, self.uid, self.gid)
        self.user_homes = {}
        self.as_owner('/usr/bin/python3', '-IS', SOURCE + '/bin/qpy-install', self.home, '--offline', '--me', me,
                      '--smtp', '127.0.0.1:%d' % self.port)
        self.assign(users if users is not None else {'user': (self.uid, self.gid)})
        self.write('control/smtproutes', routes)
        if services:
            self.write('control/services', services)

    def as_owner(self, *words, data=b'', check=True, env=None, uid=None, gid=None):
        """Run a command as DIR's owner (or uid); its CompletedProcess."""
        user = {}
        if os.geteuid() == 0:
            uid = self.uid if uid is None else uid
            user = dict(user=uid, group=self.gid if gid is None else gid, extra_groups=[])
        done = subprocess.run(words, input=data, capture_output=True, timeout=60, cwd='/',
                              env=env or {'PATH': '/usr/bin:/bin:/usr/sbin:/sbin'}, **user)
        if check and done.returncode:
            raise AssertionError('%s: exit %d: %s' % (words, done.returncode, done.stderr + done.stdout))
        return done

    def assign(self, users):
        """Write users/assign and make the homes."""
        lines = ''
        for name, (uid, gid) in users.items():
            home = os.path.join(self.top, name)
            os.makedirs(home, exist_ok=True)
            os.chown(home, uid, gid)
            os.chmod(home, 0o700)
            self.user_homes[name] = home
            lines += '=%s:%s:%d:%d:%s:::\n+%s-:%s:%d:%d:%s:-::\n' % ((name, name, uid, gid, home) * 2)
        self.write('users/assign', lines + '.\n')
        self.as_owner(self.home + '/bin/qpy-newu')

    def write(self, name, text, owner=None):
        """Write a file of DIR (or with a full path), owned by DIR's owner."""
        path = os.path.join(self.home, name)
        with open(path, 'w') as file:
            file.write(text)
        os.chown(path, *(owner or (self.uid, self.gid)))

    def recipe(self, user, name, text):
        """Write a .qmail file of a user, who has a Maildir from then on (a line of .qmail makes none)."""
        home = self.user_homes[user]
        there = os.stat(home)
        for name_of_part in ('Maildir', 'Maildir/tmp', 'Maildir/new', 'Maildir/cur'):
            path = os.path.join(home, name_of_part)
            if not os.path.isdir(path):
                os.mkdir(path, 0o700)
                os.chown(path, there.st_uid, there.st_gid)
        self.write(os.path.join(home, name), text, (there.st_uid, there.st_gid))

    # --- the chain ---

    def start(self, ready='status: local', through=()):
        """Start it (through another command) and wait until qpy-send speaks."""
        user = dict(user=self.uid, group=self.gid, extra_groups=[]) if os.geteuid() == 0 else {}
        self.process = subprocess.Popen([*through, self.home + '/bin/qpy-start'], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd='/', env={},
                                        start_new_session=True, **user)
        self.lines.clear()
        self.reader = threading.Thread(target=self.read, args=(self.process.stdout,), daemon=True)
        self.reader.start()
        self.await_line(ready)
        return self

    def read(self, stream):
        for line in stream:
            with self.changed:
                self.lines.append(line.decode('utf-8', 'replace').rstrip('\n'))
                self.changed.notify_all()
        stream.close()
        with self.changed:
            self.lines.append('(end)')
            self.changed.notify_all()

    def await_that(self, condition, what='what was expected', patience=PATIENCE):
        """Wait until condition() is true, looking at every new line of the log; returns its value."""
        give_up = time.monotonic() + patience
        with self.changed:
            while True:
                value = condition()
                if value:
                    return value
                left = give_up - time.monotonic()
                if left <= 0 or self.lines[-1:] == ['(end)']:
                    raise AssertionError('no %s; the log says:\n%s' % (what, '\n'.join(self.lines[-40:])))
                self.changed.wait(min(left, 0.05))

    def await_line(self, words, count=1):
        """Wait for the count-th line that holds these words; returns it."""
        return self.await_that(lambda: ([line for line in self.lines if words in line] + [''] * count)[count - 1],
                               'line with %r' % words)

    def await_confined(self, names):
        """Wait until each of these daemons is confined, with its workers: a chain that has started may have some that are
        still on their way there, and that read control files before.  The status of each process."""
        def confined():
            daemons = self.daemons()
            pids = {name: [daemons[name], *descendants(daemons[name])] for name in names if name in daemons}
            found = [status(pid) for each in pids.values() for pid in each]
            whole = [name for name in names if len(pids.get(name, ())) > (name in MASTERS)]
            return found if whole == list(names) and all(said['Seccomp'] == '2' for said in found) else None
        return self.await_that(confined, 'confined ' + ' and '.join(names))

    def stop(self):
        """TERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait_end()

    def wait_end(self):
        """The exit code of start, once its log has ended too."""
        code = self.process.wait(60)
        self.reader.join(20)
        return code

    def remove(self):
        """End what runs, remove what was made."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process:
            self.reader.join(20)
        shutil.rmtree(self.top, ignore_errors=True)

    def daemons(self):
        """{service: pid} of the direct children of start."""
        with open('/proc/%d/task/%d/children' % (self.process.pid, self.process.pid)) as file:
            pids = [int(word) for word in file.read().split()]
        return {name_of(pid): pid for pid in pids}

    # --- mail ---

    def smtp(self, recipient, sender='sender@else.test', text='hello', subject='s'):
        """Hand in a message by SMTP."""
        recipients = [recipient] if isinstance(recipient, str) else recipient
        with smtplib.SMTP('127.0.0.1', self.port, local_hostname='client.test', timeout=PATIENCE) as client:
            client.sendmail(sender, recipients, 'Subject: %s\r\n\r\n%s\r\n' % (subject, text))

    def sendmail(self, *words, text='Subject: s\n\nhello\n', uid=None, gid=None, check=True):
        """Hand in a message by sendmail."""
        return self.as_owner(self.home + '/bin/sendmail', *words, data=text.encode(), uid=uid, gid=gid, check=check)

    def messages(self, place):
        """[bytes] of new messages in a Maildir, by name; place relative to the top."""
        directory = os.path.join(self.top, place, 'new')
        if not os.path.isdir(directory):
            return []
        found = []
        for name in sorted(os.listdir(directory)):
            with open(os.path.join(directory, name), 'rb') as file:
                found.append(file.read())
        return found

    def await_message(self, place, words, count=1):
        """Wait until `count` messages in a Maildir hold these words; the last of them."""
        words = words.encode()
        return self.await_that(lambda: ([m for m in self.messages(place) if words in m] + [None] * count)[count - 1],
                               'message with %r in %s' % (words, place))

    def queue(self):
        """IDs in mess/ and state/."""
        names = os.listdir(self.home + '/queue/mess') + os.listdir(self.home + '/queue/state')
        return sorted(name for name in names if name.isdigit())


class Rooted(House):
    """The same with the real accounts; only as root."""

    rootless = False


def name_of(pid):
    """The program that a process runs, without `qpy-`."""
    with open('/proc/%d/cmdline' % pid, 'rb') as file:
        words = file.read().decode().split('\0')
    return next((os.path.basename(word)[4:] for word in words if os.path.basename(word).startswith('qpy-')), '?')


def status(pid):
    """{field: value} of /proc/PID/status."""
    with open('/proc/%d/status' % pid) as file:
        return dict(line.rstrip('\n').split(':\t', 1) for line in file if ':\t' in line)


def alive(pid):
    """Whether a process still runs."""
    try:
        return status(pid)['State'][0] not in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid):
    """Every process below pid."""
    found, waiting = [], [pid]
    while waiting:
        here = waiting.pop()
        try:
            with open('/proc/%d/task/%d/children' % (here, here)) as file:
                children = [int(word) for word in file.read().split()]
        except FileNotFoundError:
            continue
        found += children
        waiting += children
    return found
