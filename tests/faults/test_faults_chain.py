"""A whole running chain, one of whose programs has one of its system calls fail, or dies before or after it.

Q-01 to Q-11, Q-33, Q-34, R-28, INV1 to INV3, INV6: for every program of a message's way, the way itself (queued, send,
bouncer, clean, lspawn, the seed and the users' local, rspawn and remote, and who answers their questions) and the start
of each, that of start included.  The calls are those of the seam (faults.shim), in the real programs.  Afterwards the
chain runs, or is started again as a supervisor does; what was acknowledged is delivered, whole, and the queue is empty.
"""
import contextlib
import os
import random
import re
import shutil
import signal
import smtplib
import subprocess
import sys
import threading
import time

import pytest

from tests.faults import shim
from tests.peers.smtp_script import Server, good
from tests.power import explorer

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'chain'))
import houses  # noqa: E402

MOST = int(os.environ.get('QPY_FAULTS_MOST', '8'))         # faults tried on each program's way; 0: all there are
STARTS = int(os.environ.get('QPY_FAULTS_STARTS', '3'))      # and on the start of each; 0: all
TRACED = int(os.environ.get('QPY_STRACE_MOST', '6'))       # injections by strace for each program; 0: all
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 + 30 * max(MOST, STARTS, TRACED))]
#: (program, whose calls count)
WAYS = [('queued', shim.ALL), ('send', shim.ALL), ('bouncer', shim.ALL), ('clean', shim.ALL), ('lspawn', shim.ALL),
        ('seed', shim.FIRST), ('seed', shim.FORKED), ('rspawn', shim.FIRST), ('rspawn', shim.FORKED),
        ('users', shim.ALL),
        ('smtpd', shim.ALL)]
PROGRAMS = ['start', *dict.fromkeys(name for name, _ in WAYS), 'log', 'resolve']
HURRY = [('core/schedule.py', '\nTROUBLE = 123 ', '\nTROUBLE = 1 '),
         ('qpyr/rspawn.py', '\nSLOWEST = 60 ', '\nSLOWEST = 1 '),
         ('lib/master.py', '\nLONGEST_PAUSE = 30.0', '\nLONGEST_PAUSE = 0.5'),
         # strace makes a call fail by asking for call number -1, which the filter takes for one of x32 and kills
         ('core/fence.py', 'X32), (RETURN, 0, 0, KILL)', 'X32), (RETURN, 0, 0, ENOSYS)')]
BIRTH = ('seed', 'lspawn')  # to these belongs the birth of a user's process
NAMES = {('seed', shim.FORKED): 'local', ('rspawn', shim.FORKED): 'remote'}
END = 'the end of it'
PUSH = 0.4                  # seconds between two ALRMs: try everything now
USER = 54001


def hurry(house):
    """What could not be written is tried again after a second, not after two minutes, and who keeps dying is forked
    again after a second, too; and strace may have a call fail."""
    for name, before, after in HURRY:
        path = house.home + '/lib/qpy/' + name
        with open(path) as file:
            text = file.read()
        assert before in text, (name, before)
        with open(path, 'w') as file:
            file.write(text.replace(before, after))
    house.as_owner('/usr/bin/python3', '-IS', '-m', 'compileall', '-q', house.home + '/lib/qpy')


@pytest.fixture(scope='module')
def house():
    """One installation for all: to make one takes longer than to break it ten times."""
    rooted = os.geteuid() == 0
    made = (houses.Rooted if rooted else houses.House)(users={'ann': (USER, USER) if rooted else (os.getuid(), os.getgid())})
    try:
        for name, text in (('.qmail-default', './Maildir/\n'), ('.qmail-fwd', '&ann-list@here.test\n'),
                           ('.qmail-box', './Mailbox\n'),
                           ('.qmail-prog', '|f=$(mktemp got.XXXXXXXX) && cat > "$f" && mv "$f" "$f.done"\n')):
            made.recipe('ann', name, text)
        hurry(made)
        with open(shim.__file__) as source, open(made.home + '/lib/shim.py', 'w') as copy:
            copy.write(source.read())
        yield made
    finally:
        made.remove()


class Chain:
    """The House with a program under watch, a host it sends to, and a ledger; nothing is left of who had it before."""

    def __init__(self, house, program, next_hop):
        self.house, self.program, self.next_hop, self.number, self.promised = house, program, next_hop, 0, {}
        house.write('control/smtproutes', 'far.test:127.0.0.1:%d\n' % next_hop.port)
        for name in ('mess', 'state', 'damaged'):
            for left in os.listdir(house.home + '/queue/' + name):
                os.unlink(house.home + '/queue/%s/%s' % (name, left))
        self.forget()
        self.path = house.home + '/fault.map'
        with open(self.path, 'wb') as file:
            file.truncate(shim.SIZE)
        os.chmod(self.path, 0o666)
        self.shared = shim.Shared(self.path)
        self.watch()

    def dismiss(self):
        """The users' processes go, so that new ones are born."""
        self.pid()                      # the chain runs
        for pid in houses.descendants(self.house.daemons()['seed']):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def watch(self):
        """Have the program take its place under the shim."""
        self.launcher = self.house.home + '/bin/qpy-' + self.program
        with open(self.launcher) as file:
            self.launches = file.read()
        before, call, after = self.launches.partition('program.run(')
        with open(self.launcher, 'w') as file:
            file.write(before + 'space = {"__name__": "shim"}\nexec(open(%r).read(), space)\nspace["install"](%r)\n'
                       % (self.house.home + '/lib/shim.py', self.path) + call + after)

    def start(self):
        """Start the chain; again if it ended, as a supervisor would."""
        for _ in range(3):
            try:
                self.house.start()
                return
            except AssertionError:
                self.ended()
        raise AssertionError('it does not start: %s' % self.house.lines)

    def ended(self):
        """Wait for the end of a chain that has not come up."""
        try:
            self.house.process.wait(houses.PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError('it neither starts nor ends: %s' % self.house.lines) from None
        self.house.wait_end()

    def greets(self):
        """Is it there for clients?"""
        try:
            smtplib.SMTP('127.0.0.1', self.house.port, timeout=5).close()
            return True
        except (OSError, smtplib.SMTPException):
            return False

    def running(self):
        """Has the chain not ended?"""
        return self.house.process.poll() is None

    def revive(self):
        """Start it again if it has ended or is about to."""
        if not self.running() or self.dying():
            self.house.wait_end()
            self.start()

    def pid(self):
        """Of the program, in a chain that runs: it may just have died of what was done to it."""
        give_up = time.monotonic() + houses.PATIENCE
        while time.monotonic() < give_up:
            self.revive()
            with contextlib.suppress(FileNotFoundError, KeyError):
                return self.house.daemons()[self.program]
            time.sleep(0.05)            # the log has not said yet that the chain ends
        raise AssertionError('%s does not come back: %s' % (self.program, self.house.lines[-20:]))

    def submit(self, *recipients):
        """A message, until it is acknowledged for all; who is refused for now gets another one."""
        give_up, left = time.monotonic() + houses.PATIENCE, list(recipients)
        while time.monotonic() < give_up:
            self.number += 1
            token = 'token-%06d-%s' % (self.number, '.'.join(name.partition('@')[0] for name in left))
            try:
                with smtplib.SMTP('127.0.0.1', self.house.port, local_hostname='client.test', timeout=15) as client:
                    refused = client.sendmail('ann-list@here.test', left, 'Subject: x\r\n\r\n%s\r\n%s\r\n'
                                              % (token, END))
                self.promised[token] = [name for name in left if name not in refused]
                left = list(refused)
                if not left:
                    return
            except (OSError, smtplib.SMTPException):
                if self.house.process.poll() is not None or self.dying():
                    self.house.wait_end()
                    self.start()
                time.sleep(0.05)        # a client's pause: one of the programs is away
        raise AssertionError('nothing is taken any more: %s' % self.house.lines[-20:])

    def dying(self):
        """Does the log say that the chain ends?"""
        return any('ending the chain' in line for line in self.house.lines)

    def scenario(self):
        """What all programs have to do with."""
        self.submit('ann@here.test', 'ann-fwd@here.test', 'x@far.test')
        self.submit('ann-prog@here.test', 'never@far.test')
        self.submit('ann-box@here.test', 'ann-list%d@here.test' % self.number)      # whom nobody was asked about before

    def drain(self):
        """Until the queue is empty: tried again at once, started again if need be."""
        pushed = [0.0]

        def empty():
            if not self.running() or not self.house.queue() or self.only_orphans():
                return True
            if time.monotonic() > pushed[0] + PUSH:
                pushed[0] = time.monotonic()
                self.house.process.send_signal(signal.SIGALRM)
            return False
        for _ in range(4):
            try:
                self.house.await_that(empty, 'empty queue')
            except AssertionError:
                if self.running() and not self.dying():
                    raise
            if self.running() and not self.dying() and not self.house.queue():
                return
            if self.running() and not self.dying() and self.only_orphans():
                self.house.process.send_signal(signal.SIGTERM)
            self.house.wait_end()
            self.start()
        raise AssertionError('the queue does not drain: %s' % self.house.lines[-20:])

    def only_orphans(self):
        """Is nothing left but a state that send could not unlink?  It does so when it starts again."""
        return not os.listdir(self.house.home + '/queue/mess') and \
            any('unable to unlink state/' in line for line in self.house.lines)

    def check(self):
        """Everything promised is where it belongs, and nothing is torn."""
        texts = [text.decode() for text in self.house.messages('ann/Maildir')]
        assert all(text.rstrip('\n').endswith(END) or '\n--' in text for text in texts), 'torn'
        box = self.house.user_homes['ann'] + '/Mailbox'
        with open(box) if os.path.exists(box) else open(os.devnull) as file:
            mbox = file.read()
        programs = ''
        for path in self.got('.done'):
            with open(path) as file:
                programs += file.read()
        taken = [(recipients, body.decode()) for _, recipients, body in self.next_hop.mail]
        for token, recipients in self.promised.items():
            for recipient in recipients:
                places = {'ann-box@here.test': [mbox], 'ann-prog@here.test': [programs],
                          'x@far.test': [body for to, body in taken if b'x@far.test' in to],
                          'never@far.test': [t for t in texts if '<never@far.test>:' in t]}.get(
                              recipient, [t for t in texts if 'Delivered-To: %s\n' % recipient in t])
                assert any(token in text for text in places), '%s for %s is lost' % (token, recipient)

    def forget(self):
        """Begin a new page of the ledger."""
        self.promised.clear()
        self.next_hop.mail.clear()
        new = self.house.user_homes['ann'] + '/Maildir/new/'
        for path in [*(new + name for name in os.listdir(new)), self.house.user_homes['ann'] + '/Mailbox',
                     *self.got('')]:
            if os.path.exists(path):
                os.unlink(path)
        del self.house.lines[:-1]

    def got(self, end):
        """Paths of what the program in .qmail-prog has written."""
        home = self.house.user_homes['ann']
        return [os.path.join(home, name) for name in os.listdir(home) if name.startswith('got.') and name.endswith(end)]

    def remove(self):
        """The house is as before."""
        self.shared.off()
        if self.house.process and self.running():
            self.house.process.kill()
            self.house.wait_end()
        assert not left(self), left(self)
        with open(self.launcher, 'w') as file:
            file.write(self.launches)


@pytest.fixture
def next_hop():
    """far.test: takes everything but what is for `never`."""
    refuses = lambda talk, line: b'550 5.1.1 nobody' if b'never' in line else b'250 ok'     # noqa: E731
    with Server(good(replies={b'RCPT': refuses})) as server:
        yield server


def faults(calls, name, most):
    """[(number, call, which of its ends)]: most of them, the same ones each time."""
    every = [(number, call, which) for number, call in enumerate(calls, 1) for which in range(len(shim.ends(call)))]
    if not most or len(every) <= most:
        return every
    return sorted(random.Random(name).sample(every, most))


def words(fault):
    """A fault as a person reads it."""
    number, call, which = fault
    what = shim.ends(call)[which]
    return 'call %d, %s: %s' % (number, call, {shim.KILL_BEFORE: 'killed before', shim.KILL_AFTER: 'killed after',
                                              shim.SHORT: 'short'}.get(what) or os.strerror(what))


@pytest.mark.parametrize('program, whose', WAYS, ids=[NAMES.get(way, way[0]) for way in WAYS])
def test_a_call_fails_on_the_way(house, program, whose, next_hop):
    """While mail is on its way through a running chain."""
    chain = Chain(house, program, next_hop)
    try:
        chain.start()
        chain.scenario()
        chain.drain()                   # everybody is warm
        chain.check()
        chain.dismiss() if program in BIRTH else None
        chain.shared.arm(whose=whose)
        chain.scenario()
        chain.drain()
        chain.shared.off()
        tried = 0
        for fault in faults(chain.shared.calls(), program, MOST):
            chain.forget()
            chain.dismiss() if program in BIRTH else None
            chain.shared.arm(fault[0], fault[2], whose)
            try:
                chain.scenario()
                chain.drain()
                tried += chain.shared.off()
                chain.revive()
                chain.check()
            except AssertionError as problem:
                problem.add_note('%s, %s' % (program, words(fault)))
                raise
        assert chain.pid() and chain.house.stop() == 0
        assert tried
    finally:
        chain.remove()
    explorer.FIGURES['faults in a running chain'] = explorer.FIGURES.get('faults in a running chain', 0) + tried


@pytest.mark.parametrize('program', PROGRAMS)
def test_a_call_fails_at_the_start(house, program, next_hop):
    """While the chain starts: it does not come up, and leaves nothing that runs; or it comes up and delivers.  The next
    start works in any case."""
    chain = Chain(house, program, next_hop)
    try:
        chain.shared.arm()
        chain.start()
        chain.shared.off()
        calls = chain.shared.calls()
        assert chain.house.stop() == 0
        tried = 0
        for fault in faults(calls, program, STARTS):
            chain.forget()
            chain.shared.arm(fault[0], fault[2])
            try:
                tried += once(chain)
            except AssertionError as problem:
                problem.add_note('start of %s, %s' % (program, words(fault)))
                raise
    finally:
        chain.remove()
    explorer.FIGURES['faults at a start'] = explorer.FIGURES.get('faults at a start', 0) + tried


def once(chain, through=()):
    """One start with a fault; whether it happened."""
    ends = (0, 111, *([-signal.SIGKILL] if through else []))     # 111: a worker's death was noticed late
    try:
        chain.house.start(through=through)
    except AssertionError:
        if chain.greets():              # the log could not write that it has started
            return finished(chain, ends)
        chain.ended()
        assert not left(chain), left(chain)
    return finished(chain, ends)


def finished(chain, ends):
    """Mail goes through it, or the next one; whether the fault has happened."""
    happened = chain.shared.off()
    if not chain.running() or chain.dying():
        if chain.running():
            chain.house.wait_end()
        chain.start()
    chain.scenario()
    chain.drain()
    chain.check()
    assert chain.house.stop() in ends
    assert not left(chain), left(chain)
    return happened


def left(chain):
    """The processes of this installation that do not end."""
    give_up = time.monotonic() + houses.PATIENCE
    while True:
        done = subprocess.run(['pgrep', '-f', chain.house.home + '/bin/qpy-'], capture_output=True, text=True)
        found = [line for line in done.stdout.split() if houses.alive(int(line))]
        if not found or time.monotonic() > give_up:
            return found


# --- who hands a message in ---------------------------------------------------------------------------------------

TEXT = b'Subject: x\n\n%s\n' + END.encode() + b'\n'
#: {program: what a shell runs; $0 is DIR, $1 the message}
CLIENTS = {'inject': '"$0/bin/qpy-inject" ann-list@here.test < "$1"',
           'sendmail': '"$0/bin/qpy-sendmail" -i ann-list@here.test < "$1"',
           'queue': r'printf "Fann-list@here.test\0Tann-list@here.test\0\0" | "$0/bin/qpy-queue" 1<&0 0<"$1"',
           'forward': 'SENDER=ann-list@here.test NEWSENDER=ann-list@here.test DTLINE= "$0/bin/qpy-forward" ann-list@here.test < "$1"'}


@pytest.mark.parametrize('program', CLIENTS)
def test_a_call_fails_in_a_client(house, program, next_hop):
    """Exit 0 is true, whichever call failed; anything else may be true or not; and undisturbed it works again."""
    chain, tried = Chain(house, program, next_hop), 0
    path = chain.house.top + '/text'

    def hand_in():
        chain.number += 1
        token = 'token-%06d-' % chain.number
        with open(path, 'wb') as file:
            file.write(TEXT % token.encode())
        os.chmod(path, 0o644)
        code = chain.house.as_owner('sh', '-c', CLIENTS[program], chain.house.home, path, check=False).returncode
        if code == 0:
            chain.promised[token] = ['ann-list@here.test']
        return code
    try:
        chain.start()
        assert hand_in() == 0
        chain.shared.arm()
        assert hand_in() == 0
        chain.shared.off()
        for fault in faults(chain.shared.calls(), program, MOST):
            chain.shared.arm(fault[0], fault[2])
            code = hand_in()
            tried += chain.shared.off()
            assert hand_in() == 0, (words(fault), code)
        chain.drain()
        chain.check()
        assert chain.house.stop() == 0 and tried
    finally:
        chain.remove()
    explorer.FIGURES['faults in clients'] = explorer.FIGURES.get('faults in clients', 0) + tried


# --- the kernel's own calls -----------------------------------------------------------------------------------------

#: what each call of the programs that write is told by strace
TOLD = {'openat': ('EIO', 'EMFILE', 'EACCES'), 'write': ('EIO', 'ENOSPC', 'EDQUOT'), 'writev': ('EIO', 'ENOSPC'),
        'fsync': ('EIO', 'ENOSPC'),
        'syncfs': ('EIO',), 'io_submit': ('EIO', 'EAGAIN'), 'io_getevents': ('EINTR',),
        'sync_file_range': ('EIO', 'ENOSPC'),
        'linkat': ('EIO', 'ENOSPC'), 'unlinkat': ('EIO', 'EROFS'), 'renameat2': ('EIO', 'ENOSPC'),
        'ftruncate': ('EIO',),
        'pread64': ('EIO',), 'memfd_create': ('EMFILE',), 'copy_file_range': ('EIO', 'ENOSPC'), 'newfstatat': ('EIO',),
        'getdents64': ('EIO', 'ENOMEM'), 'epoll_wait': ('EINTR',), 'sendmsg': ('ENOBUFS',), 'recvmsg': ('ENOMEM',)}
#: what those of remote are, which writes to another host, and of who hands it its work
SENT = {'socket': ('EMFILE', 'ENFILE', 'ENOBUFS'), 'connect': ('ECONNREFUSED', 'ENETUNREACH', 'ETIMEDOUT'),
        'sendto': ('ECONNRESET', 'EPIPE', 'ENOBUFS'), 'recvfrom': ('ECONNRESET', 'ETIMEDOUT', 'ENOMEM'),
        **{name: TOLD[name] for name in ('openat', 'write', 'pread64', 'epoll_wait', 'sendmsg', 'recvmsg')},
        'getpeername': ('ENOTCONN',), 'getsockopt': ('ENOBUFS',), 'epoll_ctl': ('ENOMEM',), 'clone': ('EAGAIN', 'ENOMEM')}
#: and those of start, until all runs; no write fails: the interpreter's, by which a signal wakes the loop, cannot
BEGUN = {'mkdir': ('ENOSPC', 'EACCES'), 'flock': ('ENOLCK',), 'bind': ('EADDRINUSE', 'EACCES'), 'listen': ('EADDRINUSE',),
         'chmod': ('EPERM',), 'chown': ('EPERM',), 'unlink': ('EROFS',), 'socketpair': ('EMFILE', 'ENFILE'),
         'pipe2': ('EMFILE', 'ENFILE'), 'setresuid': ('EAGAIN',), 'prctl': ('EINVAL',), 'dup2': ('EMFILE',),
         'write': (), **{name: SENT[name] for name in ('openat', 'socket', 'clone', 'epoll_ctl')}}
TRACED_ONES = [('queued', TOLD), ('send', TOLD), ('clean', TOLD), ('bouncer', TOLD), ('rspawn', SENT), ('remote', SENT)]
LOADING = 15                # of the files that start opens, the last so many: before them the interpreter loads its modules
KEPT_BY_STRACE = 3.0        # seconds after which the dead are taken from a strace that does not let go of them


class Strace:
    """strace, attached to running processes for as long as they live."""

    def __init__(self, pids, *options):
        self.pids, self.over = pids, threading.Event()
        self.process = subprocess.Popen(['strace', '-f', '-qq', *('-p%d' % pid for pid in pids), *options],
                                        stderr=subprocess.PIPE, text=True)
        give_up = time.monotonic() + houses.PATIENCE
        while not all(map(self.has, pids)):
            if self.process.poll() is not None:
                pytest.skip('strace cannot attach here: ' + self.process.stderr.read())
            assert time.monotonic() < give_up, 'strace does not attach to %s' % self.described()
            time.sleep(0.005)               # it says nothing when it has
        self.watch = threading.Thread(target=self.let_go, daemon=True)
        self.watch.start()

    def has(self, pid):
        """Is this process traced, or gone?"""
        try:
            return not houses.alive(pid) or houses.status(pid)['TracerPid'] == str(self.process.pid)
        except (FileNotFoundError, ProcessLookupError):
            return True

    def let_go(self):
        """In a thread: who was killed is dead to its parent only when strace has seen the end of all its threads."""
        dead = None
        while not self.over.wait(0.2):
            if self.process.poll() is not None:
                return
            if any(map(houses.alive, self.pids)):
                dead = None
            else:
                dead = dead or time.monotonic()
                if time.monotonic() > dead + KEPT_BY_STRACE:
                    return self.process.kill()

    def described(self):
        """What it was attached to, and what that does now."""
        def state(pid):
            try:
                return houses.status(pid)['State']
            except (FileNotFoundError, ProcessLookupError):
                return 'gone'
        return ', '.join('%d (%s)' % (pid, state(pid)) for pid in self.pids)

    def end(self):
        """Detach."""
        self.process.terminate()
        try:
            self.process.communicate(timeout=houses.PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError('strace did not let go of %s' % self.described()) from None
        finally:
            self.over.set()
            self.watch.join()


def counted(path, told):
    """[(call, what strace does to it)]: everything that can be done to the calls in a log of strace."""
    with open(path) as file:
        found = re.findall(r'^(?:\d+ +)?(?:<\.\.\. )?(\w+)(?:\(| resumed)', file.read(), re.M)
    return [(name, '%s:when=%d' % (what, number)) for name in told for number in range(1, found.count(name) + 1)
            for what in ['signal=KILL', *('error=' + error for error in told[name])]]


def some(every, name):
    """Of these injections those that are tried: the same ones each time."""
    return every if not TRACED or len(every) <= TRACED else random.Random(name).sample(every, TRACED)


def traced(chain, program):
    """The processes of a program, in a chain that runs; remote's are rspawn's workers."""
    def workers():
        found = houses.descendants(chain.pid())
        assert chain.running(), chain.house.lines[-20:]
        return found
    return [chain.pid()] if program != 'remote' else chain.house.await_that(workers, 'worker of rspawn')


needs_strace = [pytest.mark.root, pytest.mark.skipif(not shutil.which('strace'), reason='needs strace')]


def injected(call, what):
    """strace's words for that."""
    return '-o', '/dev/null', '-e', 'trace=' + call, '-e', 'inject=%s:%s' % (call, what)


@needs_strace[0]
@needs_strace[1]
@pytest.mark.parametrize('program, told', TRACED_ONES, ids=[name for name, _ in TRACED_ONES])
def test_a_kernel_call_fails_or_is_the_last(house, program, told, next_hop):
    """The daemons that write, as they run, confined: strace has their n-th call of a kind fail, or kills them in it."""
    chain, tried = Chain(house, 'rspawn' if program == 'remote' else program, next_hop), 0
    try:
        chain.start()
        chain.scenario()
        chain.drain()
        log = chain.house.top + '/strace'
        strace = Strace(traced(chain, program), '-o', log, '-e', 'trace=' + ','.join(told))
        chain.scenario()
        chain.drain()
        strace.end()
        for call, what in some(counted(log, told), program):
            chain.forget()
            strace = Strace(traced(chain, program), *injected(call, what))
            try:
                chain.scenario()
                chain.drain()
                strace.end()
                chain.revive()
                chain.check()
            except AssertionError as problem:
                problem.add_note('%s, %s:%s' % (program, call, what))
                raise
            tried += 1
        assert chain.pid() and chain.house.stop() == 0 and tried
    finally:
        chain.remove()
    explorer.FIGURES['injections'] = explorer.FIGURES.get('injections', 0) + tried


@needs_strace[0]
@needs_strace[1]
def test_a_kernel_call_fails_at_the_start(house, next_hop):
    """The same for start, which is nobody's child yet: it does not come up, or delivers; the next start works."""
    chain, tried = Chain(house, 'start', next_hop), 0
    try:
        log = chain.house.top + '/strace'
        os.close(os.open(log, os.O_CREAT, 0o666))
        os.chmod(log, 0o666)
        chain.house.start(through=['strace', '-D', '-qq', '-o', log, '-e', 'trace=' + ','.join(BEGUN)])
        assert chain.house.stop() == 0
        every = counted(log, BEGUN)
        opened = max((int(what.rpartition('=')[2]) for call, what in every if call == 'openat'), default=0)
        every = [(call, what) for call, what in every if call != 'openat' or int(what.rpartition('=')[2]) > opened - LOADING]
        for call, what in some(every, 'start'):
            chain.forget()
            try:
                once(chain, ['strace', '-D', '-qq', *injected(call, what)])
            except AssertionError as problem:
                problem.add_note('start, %s:%s' % (call, what))
                raise
            tried += 1
        assert tried
    finally:
        chain.remove()
    explorer.FIGURES['injections'] = explorer.FIGURES.get('injections', 0) + tried
