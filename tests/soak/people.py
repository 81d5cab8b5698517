"""Who deals with the hosts of a soak: citizens who send mail, and strangers who mean no good.

Each is a loop in a thread until world.over is set; what they were promised goes into the ledger.
"""
import random
import socket
import subprocess
import sys
import threading
import time

from tests.peers import smtp_script
from tests.soak import ledger
from tests.soak.world import EVIL, USERS

SENDER = '%s-s%d@%s.test'
CLIENT_PATIENCE = 20        # seconds


class Numbers:
    """Message numbers, for everybody."""

    def __init__(self):
        self.last, self.lock = 0, threading.Lock()

    def next(self):
        """The next one."""
        with self.lock:
            self.last += 1
            return self.last


def recipients_at(name, chance):
    """Some addresses of a host, each of which ends in another mailbox."""
    user = USERS[name][0]
    many = ['%s@%s.test' % (user, name), '%s-mbox@%s.test' % (user, name), '%s-prog@%s.test' % (user, name),
            '%s-list@%s.test' % (user, name)]
    return chance.sample(many, chance.choice((1, 1, 1, 2, 3)))


class Citizen:
    """Sends mail from one host, by its sendmail, and to it, by SMTP from outside."""

    def __init__(self, world, book, numbers, site, pause):
        self.world, self.book, self.numbers, self.site, self.pause = world, book, numbers, site, pause
        self.chance = random.Random('%d/citizen/%s' % (world.seed, site.name))

    def run(self):
        """Until the end."""
        while not self.world.over.wait(self.chance.uniform(0.5, 1.5) * self.pause):
            try:
                self.send() if self.chance.random() < 0.4 else self.smtp()
            except (OSError, subprocess.SubprocessError) as problem:
                self.book.doubt(type(problem).__name__ + ' ' + str(problem)[:80])

    def new(self, host, recipients):
        """(number, sender, message)."""
        number = self.numbers.next()
        sender = SENDER % (self.site.user, number, self.site.name)
        message, seal = ledger.made(number, self.world.seed)
        self.book.enter(number, host, sender, recipients, seal)
        return number, sender, message

    def send(self):
        """By sendmail, to anybody."""
        name = self.site.name
        recipients = []
        for other in self.chance.sample(list(self.world.sites), self.chance.choice((1, 1, 2))):
            recipients += recipients_at(other, self.chance)
        here = '%s-far@%s.test' % (self.site.user, name)
        if self.chance.random() < 0.2:
            recipients = [here]
        if self.chance.random() < 0.25:
            recipients.append('x%d@%s' % (self.chance.randrange(9), EVIL))
        number, sender, message = self.new(name, recipients)
        self.book.answer(number, ledger.UNKNOWN)
        done = subprocess.run([*self.site.host.prefix, self.site.qpy.home + '/bin/qpy-sendmail', '-i', '-f', sender,
                               '--',
                               *recipients], input=message, capture_output=True, timeout=CLIENT_PATIENCE)
        if done.returncode == 0:
            self.book.answer(number, ledger.TAKEN)
        else:
            self.book.doubt(done.stderr.decode()[:80])

    def smtp(self):
        """By SMTP, to users here."""
        recipients = recipients_at(self.site.name, self.chance)
        with connected(self.site) as talk:
            number, sender, message = self.new('', recipients)
            self.book.answer(number, ledger.NEVER)
            talk.expect(b'220')
            talk.ask(b'EHLO outside.test', b'250')
            talk.ask(b'MAIL FROM:<%s>' % sender.encode(), b'250')
            for recipient in recipients:
                talk.ask(b'RCPT TO:<%s>' % recipient.encode(), b'250')
            talk.ask(b'DATA', b'354')
            self.book.answer(number, ledger.UNKNOWN)
            talk.raw(on_the_wire(message) + b'.\r\n')
            talk.expect(b'250')
            self.book.answer(number, ledger.TAKEN)
            talk.raw(b'QUIT\r\n')


def on_the_wire(message):
    """CR LF, and dots doubled."""
    return b''.join((b'.' if line[:1] == b'.' else b'') + line + b'\r\n' for line in message.split(b'\n')[:-1])


class Talk:
    """A client's end; use it in `with`."""

    def __init__(self, sock):
        self.sock, self.rest = sock, b''

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def raw(self, data):
        """Send."""
        self.sock.sendall(data)

    def expect(self, code):
        """A whole reply with this code, else OSError."""
        while True:
            while b'\n' not in self.rest:
                data = self.sock.recv(65536)
                if not data:
                    raise ConnectionResetError('closed')
                self.rest += data
            line, _, self.rest = self.rest.partition(b'\n')
            if line[3:4] != b'-':
                if not line.startswith(code):
                    raise ConnectionAbortedError(line)
                return line

    def ask(self, line, code):
        """A command and its reply."""
        self.raw(line + b'\r\n')
        return self.expect(code)

    def reset(self):
        """Go with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
        self.sock.close()


def connected(site, patience=CLIENT_PATIENCE):
    """A Talk with port 25 of a host, from the hub."""
    return Talk(site.world.net.hub.call(lambda: socket.create_connection((site.host.address, 25), patience)))


# --- the hostile client -------------------------------------------------------------------------------------

class Stranger:
    """Does to a host what no client should, one thing after the other."""

    def __init__(self, world, book, numbers, pause):
        self.world, self.book, self.numbers, self.pause = world, book, numbers, pause
        self.chance = random.Random('%d/stranger' % world.seed)
        self.done = {}

    def run(self):
        """Until the end."""
        ways = (self.noise, self.half, self.smuggle, self.slow, self.flood, self.relay, self.endless, self.in_a_hurry,
                self.to_nobody, self.at_the_back_door)
        while not self.world.over.wait(self.chance.uniform(0.5, 1.5) * self.pause):
            way, site = self.chance.choice(ways), self.chance.choice(list(self.world.sites.values()))
            self.done[way.__name__] = self.done.get(way.__name__, 0) + 1
            try:
                way(site)
            except (OSError, subprocess.SubprocessError):
                continue                    # refused, as it should be

    def new(self, site, status):
        """(number, recipient, message) of a message from outside whose sender is at the hostile server."""
        number, recipient = self.numbers.next(), '%s-list@%s.test' % (site.user, site.name)
        message, seal = ledger.made(number, self.world.seed)
        self.book.enter(number, '', 'x.s%d@%s' % (number, EVIL), [recipient], seal)
        self.book.answer(number, status)
        return number, recipient, message

    def begin(self, talk, number, recipient):
        """Up to the answer to DATA."""
        talk.expect(b'220')
        talk.ask(b'EHLO stranger.test', b'250')
        talk.ask(b'MAIL FROM:<x.s%d@%s>' % (number, EVIL.encode()), b'250')
        talk.ask(b'RCPT TO:<%s>' % recipient.encode(), b'250')
        talk.ask(b'DATA', b'354')

    def noise(self, site):
        """Any bytes."""
        with connected(site) as talk:
            talk.raw(self.chance.randbytes(self.chance.randrange(1, 20000)))

    def half(self, site):
        """A message without its end; then nothing, FIN or RST."""
        number, recipient, message = self.new(site, ledger.NEVER)
        with connected(site) as talk:
            self.begin(talk, number, recipient)
            talk.raw(on_the_wire(message)[:self.chance.randrange(len(message))])
            if self.chance.random() < 0.5:
                talk.reset()

    def smuggle(self, site):
        """A line end that is none, a dot, and a second message behind it."""
        number, recipient, message = self.new(site, ledger.NEVER)
        end = self.chance.choice((b'\n.\n', b'\n.\r\n', b'\r\n.\n', b'\r.\r\n', b'\r\n.\r'))
        with connected(site) as talk:
            self.begin(talk, number, recipient)
            talk.raw(on_the_wire(message) + b'end' + end)
            talk.raw(b'MAIL FROM:<>\r\nRCPT TO:<%s>\r\nDATA\r\nSubject: %b\r\n\r\nX\r\n.\r\n'
                     % (recipient.encode(), ledger.HOSTILE))
            line = talk.expect(b'')
            if line.startswith(b'250'):
                self.book.wrong.append('%s took %r for the end of a message' % (site.name, end))

    def slow(self, site):
        """A byte now and then."""
        with connected(site) as talk:
            talk.expect(b'220')
            for byte in b'EHLO a\r\nMAIL FROM:<a@b>':
                talk.raw(bytes([byte]))
                if self.world.over.wait(0.2):
                    break

    def flood(self, site):
        """Many connections that say nothing."""
        talks = [connected(site) for _ in range(40)]
        self.world.over.wait(1)
        for talk in talks:
            talk.reset()

    def relay(self, site):
        """To somebody who does not live there."""
        with connected(site) as talk:
            talk.expect(b'220')
            talk.ask(b'EHLO stranger.test', b'250')
            talk.ask(b'MAIL FROM:<>', b'250')
            talk.raw(b'RCPT TO:<x@%b>\r\n' % EVIL.encode())
            if talk.expect(b'').startswith(b'2'):
                self.book.wrong.append('%s relays to %s' % (site.name, EVIL))
            talk.raw(b'RCPT TO:<x%%%b@%b.test>\r\n' % (EVIL.encode(), site.name.encode()))
            talk.expect(b'')                # a user of that name may be there, if just now nobody can tell

    def endless(self, site):
        """A command line without an end."""
        with connected(site) as talk:
            for _ in range(20):
                talk.raw(b'A' * 50000)

    def in_a_hurry(self, site):
        """All in one piece, and away before any answer."""
        number, recipient, message = self.new(site, ledger.UNKNOWN)
        with connected(site) as talk:
            talk.raw(b'EHLO stranger.test\r\nMAIL FROM:<x.s%d@%s>\r\nRCPT TO:<%s>\r\nDATA\r\n%b.\r\nQUIT\r\n'
                     % (number, EVIL.encode(), recipient.encode(), on_the_wire(message)))
            if self.chance.random() < 0.5:
                talk.reset()

    def to_nobody(self, site):
        """Names that nobody has, one after the other."""
        with connected(site) as talk:
            talk.expect(b'220')
            talk.ask(b'HELO stranger.test', b'250')
            talk.ask(b'MAIL FROM:<x@%s>' % EVIL.encode(), b'250')
            for i in range(30):
                talk.raw(b'RCPT TO:<nobody%d@%s.test>\r\n' % (i, site.name.encode()))
                talk.expect(b'')

    def at_the_back_door(self, site):
        """Nonsense for queued, from some local user."""
        subprocess.run([sys.executable, '-c', BACK_DOOR, site.qpy.home + '/run', str(self.chance.random())],
                       capture_output=True, timeout=CLIENT_PATIENCE, user=64139, group=64139, extra_groups=[], env={})


BACK_DOOR = """
import os, random, socket, sys
os.chdir(sys.argv[1])
chance = random.Random(sys.argv[2])
for _ in range(5):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        sock.connect('submit')
        try:
            sock.sendall(chance.choice((b'1', b'')) + chance.randbytes(chance.randrange(5000)))
            sock.recv(100) if chance.random() < .5 else None
        except OSError:
            pass
"""


# --- the hostile server -------------------------------------------------------------------------------------

class Evil(smtp_script.Server):
    """The mail exchanger of evil.test, in another mood at every connection; `kind` ends that."""

    def __init__(self, world, book):
        super().__init__(self.serve, world.evil, 25)
        self.world, self.book, self.kind = world, book, False
        self.chance = random.Random('%d/evil' % world.seed)
        self.moods = {}

    def serve(self, talk):
        """One connection."""
        moods = ('kind', 'refuses', 'defers', 'hangs', 'resets', 'noise', 'drips', 'endless', 'no answer', 'closes')
        mood = 'kind' if self.kind else self.chance.choice(moods)
        self.moods[mood] = self.moods.get(mood, 0) + 1
        self.note(talk, 'mood %s' % mood)
        if mood == 'noise':
            return talk.raw(self.chance.randbytes(5000) + b'\r\n')
        if mood == 'endless':
            return [talk.raw(b'220-' + b'x' * 1000 + b'\r\n') for _ in range(1000)]
        if mood == 'drips':
            return [talk.raw(b'2') or time.sleep(1) for _ in range(12)]
        return self.dialogue(talk, mood, self.chance.choice((b'MAIL', b'RCPT', b'DATA', b'.')))

    def note(self, talk, words):
        """A line in evil.log."""
        with open(self.world.evil_log, 'a') as file:
            file.write('%.2f %d %s\n' % (self.world.now(), talk.number, words))

    def dialogue(self, talk, mood, where):
        """As a server speaks, until `where`."""
        talk.say(b'220 evil.test ESMTP')
        recipients = []
        while line := talk.line():
            verb = line[:4].upper()
            self.note(talk, '%s at %s: %s' % (mood, where.decode(), line.decode('ascii', 'replace')))
            if verb == where[:4] and not self.goes_on(talk, mood):
                continue
            if verb == b'MAIL':
                recipients = []
            if verb == b'RCPT':
                recipients.append(line[9:].partition(b'>')[0].decode('ascii', 'replace'))
            if verb == b'DATA':
                talk.say(b'354 go on')
                data = talk.message()
                if data is None:
                    return
                if where == b'.' and mood in ('refuses', 'defers'):
                    self.goes_on(talk, mood)
                    continue
                self.keep(talk, data, recipients)
                if where == b'.' and not self.goes_on(talk, mood):
                    continue
                talk.say(b'250 2.0.0 mine now')
            elif verb == b'QUIT':
                return talk.say(b'221 bye')
            elif verb == b'EHLO':
                talk.say(b'250-evil.test', b'250 PIPELINING')
            else:
                talk.say(b'250 ok')

    def goes_on(self, talk, mood):
        """Do to the client what the mood says; False if something else was answered."""
        if mood == 'refuses':
            talk.say(b'550 5.7.1 evil says no')
        elif mood == 'defers':
            talk.say(b'451 4.7.1 evil says later')
        elif mood == 'hangs':
            self.over.wait(15)
            raise ConnectionAbortedError
        elif mood == 'resets':
            talk.reset()
            raise ConnectionAbortedError
        elif mood in ('no answer', 'closes'):
            talk.sock.shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        else:
            return True
        return False

    def keep(self, talk, data, recipients):
        """It has this now, whatever it says."""
        data = data.replace(b'\r\n', b'\n')
        for recipient in recipients:
            what = ledger.seen(data, recipient)
            self.note(talk, 'kept %s for %s' % (what and what.number, recipient))
            if what:
                self.book.found(what, 'evil.test', astray=not recipient.endswith(EVIL))
