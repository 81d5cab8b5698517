"""qpy-queued, as qpyq: takes messages from everybody and answers when they are safe.

    listens on   submit  stream   anybody          see core.submit
                 new     stream   send             which messages there are: <N scan below N, then ID after ID
    descriptors  2 the log
    exit         0 with the chain; 111 when it cannot go on

One loop hears all clients.  While the committer, the only other thread, waits for the disk to have one group of
messages, the loop gathers the next.  What arrived together is written, synced and answered together; an idle queued
never waits.
The kernel says who a client is (SO_PEERCRED); descriptors it sends along are never taken.
"""
from collections import deque

from qpy import unix
from qpy.core import accounts, dates, exits, ids, mess, mounts, submit
from qpy.lib import confine, controls, inherit, loop, packets, program, reserve, service
from qpy.qpyq import store

RECEIVE = 65_536            # bytes taken from one client before the others have their turn; malloc maps what is larger
SMALL = 256 << 10           # longer messages are written to the disk as they come
GROUP_LIMIT = 200           # messages made durable together (each needs a descriptor)
WAITING_LIMIT = 64 << 20    # bytes of complete messages that wait for the disk; beyond, clients wait
MEMORY_LIMIT = 64 << 20     # bytes of messages in memory; beyond, also short ones go to the disk as they come
OUT_LIMIT = 65536           # bytes of answers a client has not read
PIPELINE = 200              # messages of one client that wait for the disk

USER_CONNECTIONS = 100      # of one uid that is none of our own
USER_MEMORY = 48 << 20      # bytes in memory for one such uid
USER_BYTES = 8 << 30        # bytes on the way into the queue for one such uid
SERVICE_CONNECTIONS = 5000
SERVICE_MEMORY = 1 << 30
SPARE_DESCRIPTORS = 2 * GROUP_LIMIT + 100
STRANGERS_PART = 3          # one part in so many of the descriptors is for connections of others: each may need a second
LOOKED_AT = 100             # of them at most, for one that is idle, when another comes and there is no place

OVERHEAD = 8192             # bytes that a message has on the disk beside its own: the rest of a block, an inode, a name
INODES = 2                  # its file and its state
LOOK_AGAIN = 1.0            # seconds until the disk is asked anew how much is free

IDLE = 120.0                # seconds one of those may stay connected and say nothing
GRACE = 60.0                # seconds until the minimum rate counts
RATE = 1000                 # bytes per second
SERVICE_DEADLINE = 86_400.0     # for our own programs: as long as the SMTP client's own limits allow
SWEEP = 10.0
SUBSCRIBERS = 4
SO_PASSRIGHTS = 83          # Linux 6.16


def main(home, args):
    """The story: look at the queue, take its lock, find where it ended, say how syncing is done, be confined, serve."""
    found = service.begin(b'queued', args, (b'submit',), mask=0o027)
    who = Accounts(home)
    disk = open_store(home)
    most = unix.raise_descriptor_limit() - SPARE_DESCRIPTORS
    program.complain(b'status: sync by ' + (b'syncfs, the queue has a file system of its own' if disk.own
                                            else b'fsync of each file and of the directory'))
    submitters, readers = inherit.sockets(found, b'submit'), inherit.sockets(found, b'new')
    confine.confine(home, b'queued')        # before the committer, a thread: each has its own fence
    queued = Queued(loop.Loop(), disk, who, most)
    queued.serve(submitters, readers)
    inherit.life(queued.loop, found, queued.end)
    queued.loop.run()
    return exits.OK


# --- the queue at start --------------------------------------------------------------------------------------

def open_store(home):
    """The Store of DIR's queue, locked, swept and with its IDs known; Fatal if something is wrong with it."""
    paths = [home + b'/queue/' + name for name in (b'mess', b'state', b'damaged')]
    there = [usable(unix.stat, path) for path in paths]
    for path, found in zip(paths, there):
        check_directory(path, found, path != paths[1])
    if len({found.st_dev for found in there}) > 1:      # no message could be set aside, no long one be copied for its delivery
        raise program.Fatal(exits.TEMP, b'unable to use %s/queue: mess, state and damaged are on different file systems; '
                            b'mount one at %s/queue, with all three in it' % (home, home))
    directory = usable(lambda path: unix.open(path, unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC), paths[0])
    lock(directory, paths[0])
    names = [usable(unix.listdir, path) for path in paths]      # once: there may be millions
    store.recover(directory, names[0])
    found = ids.Ids(store.numbers(*names), int(unix.time() * 1e6))
    if found.ahead:
        program.warn(b'the queue has IDs ahead of the clock, up to %016d, %s: the clock stood wrong when they were given, or '
                     b'does now; new ones follow it; set it right' % (found.ahead, dates.clock_date(found.ahead // 1_000_000)))
    return store.Store(directory, own_file_system(home, directory), found, Complaints().say, len(names[0]))


def usable(call, path):
    """call(path), or Fatal."""
    try:
        return call(path)
    except OSError as problem:
        raise program.Fatal(exits.TEMP, b'unable to use %s: %s' % (path, program.reason(problem))) from None


def check_directory(path, there, ours):
    """Fatal unless it is a directory, ours if it should be, that no stranger may change."""
    if not unix.S_ISDIR(there.st_mode):
        raise program.Fatal(exits.TEMP, b'unable to use %s: not a directory' % path)
    if ours and there.st_uid != unix.geteuid():
        raise program.Fatal(exits.TEMP, b'unable to use %s: it belongs to uid %d, not to %d; run qpy-install'
                            % (path, there.st_uid, unix.geteuid()))
    if there.st_mode & 0o022:
        raise program.Fatal(exits.TEMP, b'unable to use %s: mode %04o lets others write; run qpy-install'
                            % (path, there.st_mode & 0o7777))


SYNCED_WHOLE = (b'ext4', b'xfs', b'btrfs', b'f2fs')      # syncfs writes all of it, names too, and empties the disk's cache
LOCK_TRIES, LOCK_PAUSE = 30, 0.1    # a queued that is just ending may still sync its last group


def lock(directory, path):
    """Be the only queued of this queue."""
    for _ in range(LOCK_TRIES):
        try:
            return unix.flock(directory, unix.LOCK_EX | unix.LOCK_NB)
        except BlockingIOError:
            unix.sleep(LOCK_PAUSE)
    raise program.Fatal(exits.TEMP, b'unable to lock %s: another qpy-queued serves it' % path)


def own_file_system(home, mess_directory):
    """True if syncfs waits for nobody else's data, tells errors and ends only when all is safe: the queue on another device
    than DIR and /, Linux 5.8, a file system of which that is known, not an ext4 without a journal.  (On FUSE, 9p or cifs syncfs
    does not even ask the server.)"""
    release = unix.uname().release.split('.')
    modern = [int(part) if part.isdigit() else 0 for part in release[:2]] >= [5, 8]
    mine = unix.fstat(mess_directory).st_dev
    return modern and mine not in (unix.stat(home).st_dev, unix.stat(b'/').st_dev) \
        and file_system(mess_directory) in SYNCED_WHOLE and not without_journal(mine)


def file_system(directory):
    """Its kind, b'' where that cannot be seen."""
    try:
        return mounts.file_system(unix.read_file(b'/proc/self/mountinfo'), unix.readlink(b'/proc/self/fd/%d' % directory))
    except OSError:
        return b''


def without_journal(device):
    """True of an ext4 without a journal: its syncfs empties the disk's cache before it writes names, and not after."""
    try:
        name = unix.readlink(b'/sys/dev/block/%d:%d' % (unix.major(device), unix.minor(device))).rpartition(b'/')[2]
        return unix.read_file(b'/sys/fs/ext4/%b/journal_task' % name).strip() == b'<none>'
    except OSError:
        return False                    # another file system


class Complaints:
    """Failures told to the log, each once a minute at most: a full disk must not fill the log's too."""

    __slots__ = ('said',)

    def __init__(self):
        self.said = {}

    def say(self, what, problem):
        """One line: unable to WHAT: reason.  Safe in any thread."""
        kind, now = getattr(problem, 'errno', None), unix.monotonic()
        if now - self.said.get(kind, -60.0) >= 60.0:
            self.said[kind] = now
            program.complain(b'unable to %b: %b; clients are told to come back' % (what, program.reason(problem)))


class Accounts:
    """Whom the kernel's uids stand for.  In a rootless DIR all of qpy is one uid."""

    __slots__ = ('believed', 'sender', 'services', 'phrases', 'leaving')

    def __init__(self, home):
        owner = unix.stat(home).st_uid
        if owner:
            self.believed, self.sender = (owner,), owner
            self.services, self.phrases = {0, owner}, {}
            self.leaving = {0: reserve.ROOT, owner: reserve.NETWORK}
            return
        names = accounts.names(controls.listing(home, b'accounts') or [])
        uid = {role: account_uid(names[role]) for role in (b'qpyd', b'qpyc', b'qpys', b'alias')}
        self.believed, self.sender = (uid[b'qpyd'], uid[b'qpyc']), uid[b'qpys']
        self.services = {0, *self.believed, self.sender, unix.geteuid()}
        self.phrases = {uid[b'alias']: b'by alias', **dict.fromkeys(self.believed, b'from network'), self.sender: b'for bounce'}
        self.leaving = {0: reserve.ROOT, unix.geteuid(): reserve.ROOT, self.sender: reserve.REPORTS,
                        **dict.fromkeys(self.believed, reserve.NETWORK)}

    def phrase(self, uid):
        """How the Received line names a submitter (qmail-queue's words)."""
        return self.phrases.get(uid) or b'by uid %d' % uid

    def leaves(self, uid):
        """How many quarters of the disk's reserve this uid leaves alone (lib.reserve)."""
        return self.leaving.get(uid, reserve.USERS)


def account_uid(name):
    """The uid of an account of ours; Fatal if there is none."""
    try:
        return unix.getpwnam(name)[1]
    except KeyError:
        raise program.Fatal(exits.TEMP, b'the account %s is missing; run qpy-install' % name) from None


# --- the committer -------------------------------------------------------------------------------------------

class Committer:
    """The thread that waits for the disk, and does nothing else, as threads take turns and turns cost time.

    give() what was written; when it is durable, done is True and wake() is called.
    """

    __slots__ = ('disk', 'wake', 'turn', 'written', 'done')

    def __init__(self, disk, wake):
        self.disk, self.wake, self.written, self.done = disk, wake, None, False
        self.turn = unix.lock()
        self.turn.acquire()
        unix.start_thread(self._work)

    def give(self, written):
        """Sync these entries.  The group before must be done."""
        self.written, self.done = written, False
        self.turn.release()

    def do(self, written):
        """Sync these entries here and now.  The group before must be done."""
        self.disk.sync(written)
        self.done = True

    def _work(self):
        try:
            while True:
                self.turn.acquire()
                self.disk.sync(self.written)
                self.done = True
                self.wake()
        except BaseException as problem:
            program.complain(b'fatal: committer: ' + program.unforeseen(problem))
            unix._exit(exits.TEMP)


# --- the daemon ----------------------------------------------------------------------------------------------

class Message(store.Entry):
    """A complete message on its way to the disk, and the client that waits for the answer."""

    __slots__ = ('client', 'answer', 'bytes', 'memory')

    def __init__(self, client, pieces, part, envelope, size):
        store.Entry.__init__(self, pieces, part, envelope)
        self.client, self.answer, self.bytes = client, None, size
        self.memory = len(envelope) + (0 if part is not None else size)


class Owner:
    """What one uid has under way."""

    __slots__ = ('uid', 'service', 'leaves', 'connections', 'memory', 'bytes')

    def __init__(self, uid, service, leaves):
        self.uid, self.service, self.leaves, self.connections, self.memory, self.bytes = uid, service, leaves, 0, 0, 0

    def full(self):
        """True if this uid may not connect once more."""
        return self.connections >= (SERVICE_CONNECTIONS if self.service else USER_CONNECTIONS)

    def leave(self, owners):
        """Forget this uid when it has nothing under way."""
        if not self.connections and not self.bytes:
            owners.pop(self.uid, None)

    def overdrawn(self):
        """True if this uid has more under way than it may."""
        if self.service:
            return self.memory > SERVICE_MEMORY
        return self.memory > USER_MEMORY or self.bytes > USER_BYTES


class Queued:
    """The daemon's state: clients, the group being gathered, the group being synced."""

    __slots__ = ('loop', 'disk', 'who', 'most', 'clients', 'strangers', 'owners', 'gathered', 'busy', 'scheduled', 'alone',
                 'committer', 'announcer', 'paused', 'waiting', 'memory', 'ending', 'sweeping', 'second', 'date', 'free',
                 'looked')

    def __init__(self, event_loop, disk, who, most):
        self.loop, self.disk, self.who, self.most = event_loop, disk, who, most
        self.clients, self.owners = set(), {}
        self.strangers = {}                     # as keys: clients that are no service, the longest there first
        self.gathered, self.busy, self.scheduled = [], None, False
        self.alone = False                      # the last group was a single message that found nothing under way
        self.announcer = Announcer(event_loop, disk.ids.known)
        self.paused, self.waiting, self.memory = [], 0, 0
        self.ending = self.sweeping = False
        self.second, self.date = 0, b''
        self.free, self.looked = None, 0.0      # the disk's Room, and when that was so
        event_loop.on_signal(0, self.group_done)
        self.committer = Committer(disk, event_loop.waker())

    def serve(self, submit_sockets, new_sockets):
        """Accept on these listening sockets."""
        for sock in submit_sockets:
            refuse_descriptors(sock)
            packets.serve(self.loop, sock, self.connected)
        for sock in new_sockets:
            packets.serve(self.loop, sock, self.subscribed)

    def connected(self, sock, peer):
        """A client: take it, or tell it that there are too many."""
        pid, uid, _ = peer
        owner = self.owners.get(uid)
        if owner is None:
            owner = self.owners[uid] = Owner(uid, uid in self.who.services, self.who.leaves(uid))
        if owner.full() or not (len(self.clients) < self.most if owner.service else self.room()):
            owner.leave(self.owners)
            return turn_away(sock)
        owner.connections += 1
        client = Client(self, sock, pid, owner)
        self.clients.add(client)
        if not owner.service:
            self.strangers[client] = None
        if not self.sweeping:
            self.sweeping = True
            self.loop.after(SWEEP, self.sweep)

    def room(self):
        """Is there a place for a stranger?  If not, the one who is idle and has been here longest gives up his."""
        most = self.most // STRANGERS_PART
        for client in [client for client, _ in zip(self.strangers, range(LOOKED_AT))] if len(self.strangers) >= most else ():
            if client.idle():
                client.give_up(exits.QQ_TIMEOUT)
                break
            self.strangers[client] = self.strangers.pop(client)        # he is busy: the next one looks further
        return len(self.strangers) < most

    def spend(self, owner, size, now, inodes=0):
        """OSError if so much more on the disk is not for this uid, but for others and for what is in the queue.  What is still
        in memory is counted; the disk is asked once a second, and when the answer is used up."""
        if self.free is None or now - self.looked >= LOOK_AGAIN or not self.free.holds(size, inodes, owner.leaves):
            self.free, self.looked = self.disk.room(), now
            self.free.spend(self.memory + sum(OVERHEAD + message.promised for message in self.gathered),
                            INODES * len(self.gathered))
        if not self.free.holds(size, inodes, owner.leaves):
            raise OSError(unix.ENOSPC, 'No space left on device but what is kept to finish what is in the queue')
        self.free.spend(size, inodes)

    def subscribed(self, sock, peer):
        """send wants to know what there is."""
        if peer[1] not in (self.who.sender, 0) or len(self.announcer.listeners) >= SUBSCRIBERS:
            return sock.close()
        self.announcer.add(sock)

    def sweep(self):
        """Drop clients that hold a place and do not use it.  Runs only while there are clients."""
        self.group_done()                       # in case the committer's wake-up was lost
        now = unix.monotonic()
        for client in [client for client in self.clients if client.overdue(now)]:
            client.give_up(exits.QQ_TIMEOUT)
        self.sweeping = bool(self.clients)
        if self.clients:
            self.loop.after(SWEEP, self.sweep)

    def received(self, client):
        """The first line of a message that begins now."""
        now = int(unix.time())
        if now != self.second:
            self.second, self.date = now, dates.header_date(now)
        return b'Received: (qpy %d invoked %b); %b\n' % (client.pid, self.who.phrase(client.owner.uid), self.date)

    # --- groups ---

    def gather(self, message):
        """message goes with the next group."""
        self.gathered.append(message)
        self.waiting += message.memory
        if self.busy is None and not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.hand_over)

    def hand_over(self):
        """The committer is free: give it what has been gathered.

        A short message that comes alone, as the one before did, is synced here: it need not wait until a thread has
        woken, and the loop again after that."""
        idle, self.scheduled = self.scheduled, False
        if self.busy is None and self.gathered and not self.ending:     # then nobody would be there to answer
            alone, self.alone = self.alone, idle and len(self.gathered) == 1
            self.busy, self.gathered = self.gathered[:GROUP_LIMIT], self.gathered[GROUP_LIMIT:]
            self.disk.name(self.busy)
            written = self.disk.write(self.busy)
            if alone and self.alone and self.busy[0].part is None:
                self.committer.do(written)
                self.loop.call_soon(self.group_done)
            else:
                self.committer.give(written)

    def group_done(self):
        """The committer has finished: hand over the next group, announce, answer."""
        if self.busy is None or not self.committer.done:
            return                              # woken for nothing: nobody is answered
        group, self.busy = self.busy, None
        self.disk.ids.settled()
        if self.ending:
            self.loop.stop()
        else:
            self.hand_over()
        self.announcer.announce([message.ident for message in group if message.failure is None])
        for message in group:
            self._settle(message)
        for client in {message.client for message in group}:
            client.answer()
        if self.paused:
            paused, self.paused = self.paused, []
            for client in paused:
                client.resume()

    def _settle(self, message):
        self.waiting -= message.memory
        message.client.release(message)
        if message.failure is None:
            message.answer = submit.accepted(message.ident)
        else:
            message.answer = submit.refusal(*message.failure)

    def end(self):
        """The chain is ending: finish the group that is being synced, answer it, and leave."""
        self.ending = True
        if self.busy is None:
            self.loop.stop()


def turn_away(sock):
    """One sentence, and the end."""
    try:
        sock.send(submit.refusal(exits.QQ_SERVER_TEMPORARY, b'too many connections to the queue (#4.3.2)'),
                  unix.MSG_NOSIGNAL)
    except OSError:
        pass
    sock.close()


def refuse_descriptors(sock):
    """Tell the kernel, where it knows how, that nobody may send descriptors here.  Plain recv drops them anyway."""
    try:
        sock.setsockopt(unix.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        pass


# --- clients -------------------------------------------------------------------------------------------------

class Client:
    """One connection on submit: the message being received, and those that wait for their answer."""

    __slots__ = ('queued', 'sock', 'pid', 'owner', 'receiver', 'pieces', 'size', 'part', 'failure', 'pending', 'out',
                 'ended', 'began', 'heard', 'last', 'held', 'stopped')

    def __init__(self, queued, sock, pid, owner):
        self.queued, self.sock, self.pid, self.owner = queued, sock, pid, owner
        self.receiver, self.pending, self.out = submit.Receiver(), deque(), b''
        self.ended = self.stopped = False
        self.last = unix.monotonic()
        self.held = 0
        self._fresh()
        queued.loop.watch(sock.fileno(), self.readable)

    def _fresh(self):
        """Ready for the next message."""
        self.pieces, self.part, self.failure, self.size, self.began, self.heard = [], None, None, 0, 0.0, 0

    # --- in ---

    def readable(self):
        """Take what has come."""
        try:
            data = self.sock.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b''
        if not data:
            return self.end()
        self.last = unix.monotonic()
        self.heard += len(data)
        for kind, value in self.receiver.feed(data):
            if kind == submit.BODY:
                self._body(value)
            elif kind == submit.MESSAGE:
                self._complete(value)
            elif kind == submit.ABANDONED:
                self._forget()
            else:
                return self.give_up(exits.QQ_ENVELOPE)
        if not self.began and self.receiver.inside():
            self.began = self.last
        if self.receiver.held() or self.held:
            self._hold_envelope()
        if self.sock is not None and (len(self.pending) > PIPELINE or self.queued.waiting > WAITING_LIMIT):
            self.pause()

    def _body(self, data):
        if self.failure is not None:
            return
        if not self.began:
            self.began = self.last
        self.size += len(data)
        self.owner.bytes += len(data)
        try:
            self.queued.spend(self.owner, len(data), self.last)
            if self.part is not None:
                self.part.write(data)
            else:
                self._keep(data)
        except OSError as problem:
            self.queued.disk.complain(b'write a message to queue/mess', problem)
            self._fail(*store.failure(problem))
        if self.size > mess.MESSAGE_LIMIT:
            self._fail(exits.QQ_REFUSED, b'message too large (#5.3.4)')
        elif self.owner.overdrawn():
            self._fail(exits.QQ_SERVER_TEMPORARY, b'too much under way for this user (#4.3.2)')

    def _keep(self, data):
        if not self.pieces:
            self.pieces.append(self.queued.received(self))
        self.pieces.append(data)
        self.owner.memory += len(data)
        self.queued.memory += len(data)
        if self.size > SMALL or self.queued.memory > MEMORY_LIMIT:
            self.part = self.queued.disk.new_part()
            self.part.write(b''.join(self.pieces))
            self.pieces.clear()
            self._forget_memory(self.size)

    def _forget_memory(self, size):
        self.owner.memory -= size
        self.queued.memory -= size

    def _hold_envelope(self):
        """An envelope that comes in several pieces is memory too."""
        held = self.receiver.held()
        self._forget_memory(self.held - held)
        self.held = held
        if self.owner.overdrawn() and held:
            self.give_up(exits.QQ_SERVER_TEMPORARY)

    def _fail(self, code, sentence=None):
        """The message will be refused when its end has come."""
        self._drop()
        self.failure = (code, sentence)

    def _drop(self):
        """Forget what was received of the message."""
        if self.part is not None:
            self.part.drop()
            self.part = None
        elif self.pieces:
            self._forget_memory(self.size)
        self.pieces = []
        self.owner.bytes -= self.size
        self.size = 0

    def _forget(self):
        self._drop()
        self._fresh()

    def _complete(self, records):
        """The whole message is here: let it go to the disk, or refuse it."""
        queued, envelope = self.queued, None
        if self.failure is None:
            try:
                envelope = submit.admit(records, self.owner.uid in queued.who.believed,
                                        submit.stamp(self.owner.uid, self.pid, unix.time()))
                queued.spend(self.owner, len(envelope) + OVERHEAD + reserve.promised(envelope), self.last, INODES)
            except submit.Refused as no:
                self._fail(no.code, no.sentence)
            except OSError as problem:
                queued.disk.complain(b'take a message of uid %d' % self.owner.uid, problem)
                self._fail(*store.failure(problem))
        if self.failure is not None:
            message = Message(self, None, None, b'', 0)
            message.answer = submit.refusal(*self.failure)
            self.pending.append(message)
            self._fresh()
            return self.answer()
        if self.part is None and not self.pieces:
            self.pieces.append(queued.received(self))
        message = Message(self, self.pieces, self.part, envelope, self.size)
        self._forget_memory(-len(envelope))
        self.pending.append(message)
        self._fresh()
        queued.gather(message)

    def release(self, message):
        """message has left memory."""
        self.owner.bytes -= message.bytes
        self._forget_memory(message.memory)
        if self.sock is None:
            self.owner.leave(self.queued.owners)

    # --- out ---

    def answer(self):
        """Say what is settled, in order."""
        pending = self.pending
        said = self.out
        while pending and pending[0].answer is not None:
            said += pending.popleft().answer
        self.out = b''
        if said and self.sock is not None:
            self._say(said)

    def _say(self, said):
        try:
            sent = self.sock.send(said, unix.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            return self.close()
        waited = bool(self.out) or sent < len(said)
        self.out = said[sent:]
        if len(self.out) > OUT_LIMIT:
            return self.close()
        if self.ended and not self.out and not self.pending:
            self.close()
        elif waited:
            self._watch()

    def _watch(self):
        reading = not (self.stopped or self.ended)
        self.queued.loop.watch(self.sock.fileno(), self.readable if reading else None,
                               self.writable if self.out else None)

    def writable(self):
        """The client takes answers again."""
        said, self.out = self.out, b''
        self._say(said)
        if self.sock is not None:
            self._watch()

    def pause(self):
        """Hear nothing more of this client until the disk has caught up."""
        self.stopped = True
        self.queued.paused.append(self)
        self._watch()

    def resume(self):
        """Go on hearing."""
        if self.sock is not None:
            self.stopped = False
            self.last = unix.monotonic()
            self._watch()

    # --- the end ---

    def idle(self):
        """True if nothing of a message is under way, and no answer."""
        return not (self.began or self.pending or self.out or self.stopped)

    def overdue(self, now):
        """True if this client holds its place for nothing."""
        if self.stopped or self.pending and not self.out:
            return False                        # we are the slow ones
        if self.owner.service:
            return bool(self.began) and now - self.began > SERVICE_DEADLINE
        if not self.began:
            return now - self.last > IDLE
        took = now - self.began
        return took > GRACE and self.heard < RATE * took

    def end(self):
        """No more will come: what is complete is still answered."""
        self._drop()
        self.ended = True
        if self.pending:
            self._watch()
        else:
            self.close()

    def give_up(self, code):
        """Say why, behind what is already settled, and end the connection."""
        self.answer()
        if self.sock is not None and not self.pending and not self.out:
            self._say(submit.refusal(code))
        self.close()

    def close(self):
        """Forget the client.  Messages of its that are on their way to the disk get there."""
        if self.sock is None:
            return
        self._drop()
        self._forget_memory(self.held)
        self.held = 0
        self.queued.loop.forget(self.sock.fileno())
        self.sock.close()
        self.sock = None
        self.pending.clear()
        self.queued.clients.discard(self)
        self.queued.strangers.pop(self, None)
        self.owner.connections -= 1
        self.owner.leave(self.queued.owners)


# --- the channel called new ----------------------------------------------------------------------------------

class Announcer:
    """Tells send which messages are durable.

    A listener first hears <N: everything below N is to be found by looking; and before it M-N for each span of IDs
    further ahead of which the same is true.  Then it hears each ID, after its sync.  If it does not read, the rest is
    forgotten and replaced by another <N.
    """

    __slots__ = ('loop', 'known', 'listeners')

    def __init__(self, event_loop, known):
        self.loop, self.known, self.listeners = event_loop, known, set()

    def scan(self):
        """<N and what stands before it, such that no message there is still being written."""
        below, beyond = self.known()
        spans = [b'%b-%b\0' % (mess.make_id(first), mess.make_id(last)) for first, last in beyond]
        return b''.join(spans) + b'<%b\0' % mess.make_id(below)

    def add(self, sock):
        """A new listener."""
        listener = Listener(self, sock)
        self.listeners.add(listener)
        listener.tell(self.scan())

    def announce(self, idents):
        """These are durable."""
        if idents:
            data = b'\0'.join(idents) + b'\0'
            for listener in list(self.listeners):
                listener.tell(data)


class Listener:
    """One connection on new."""

    __slots__ = ('announcer', 'sock', 'out', 'overflow')
    LIMIT = 65536               # bytes kept for a listener that does not read

    def __init__(self, announcer, sock):
        self.announcer, self.sock, self.out, self.overflow = announcer, sock, b'', False
        announcer.loop.watch(sock.fileno(), self.readable)

    def readable(self):
        """It has nothing to say; this is its end."""
        try:
            if self.sock.recv(4096):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()

    def tell(self, data):
        """Send data, or remember it, or remember that something was forgotten."""
        if self.overflow:
            return
        if self.out and len(self.out) + len(data) > self.LIMIT:
            self.overflow = True
        elif self.out:
            self.out += data
        else:
            self._send(data)
            if self.out:
                self.announcer.loop.watch(self.sock.fileno(), self.readable, self.writable)

    def _send(self, data):
        try:
            sent = self.sock.send(data, unix.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.out = b''
            return self.close()
        self.out = data[sent:]

    def writable(self):
        """Send what waits; when all has gone and something was forgotten: look again."""
        self._send(self.out)
        if not self.out and self.overflow and self.sock is not None:
            self.overflow = False
            self._send(self.announcer.scan())
        if not self.out and self.sock is not None:
            self.announcer.loop.watch(self.sock.fileno(), self.readable)

    def close(self):
        """Forget it."""
        if self.sock is not None:
            self.announcer.listeners.discard(self)
            self.announcer.loop.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None
