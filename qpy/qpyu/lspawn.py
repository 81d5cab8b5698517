"""qpy-lspawn, as qpyu: hands each local delivery to the right user's warm qpy-local.

    arguments     [DEFAULTDELIVERY]   instructions for a user without a .qmail file; else control/defaultdelivery
    descriptors   the socket `lspawn` (from qpy-send: `L`, answered by `C` and then K, Z or D), the socket pair `seed`
    exit          0 when the chain ends, 111 when the seed is gone

It holds no capability and looks at no message: it asks qpy-users whose an address is, and the seed for that user.
"""
from qpy import unix, unix_kernel
from qpy.core import address, channel, exits, localstatus, text
from qpy.lib import confine, controls, inherit, loop, packets, program, room
from qpy.qpyu import lookup, pool

CAPACITY = 500              # deliveries at a time: each holds a descriptor, some of them a process
HIGHEST_ID = 4294967294
ELSEWHERE = b'ZThis qpy runs without root, and delivers only as uid %d, not as %d. (#4.3.5)\n'
ENDING = 0.5                # seconds between the end of the seed and of the life pipe when both are due


class Lspawn:
    """The dispatcher."""

    __slots__ = ('loop', 'users', 'pool', 'default', 'own_uid', 'sender_uid', 'send', 'busy', 'failed')

    def __init__(self, home, default, limit, seed_socket, most=pool.LEAST):
        self.loop = loop.Loop()
        self.users = lookup.Users(self.loop, home, packets.owner_of(home, b'qpyp'))
        self.pool = pool.Pool(self.loop, seed_socket, limit, self.seed_gone, most)
        self.default = default
        self.own_uid = unix.geteuid() if unix.stat(home).st_uid else None      # rootless: the only one there is
        self.sender_uid = packets.owner_of(home, b'qpys')
        self.send, self.busy, self.failed = None, set(), False

    # --- qpy-send ---

    def connected(self, sock, peer):
        """qpy-send is here; a second one takes the place of the first."""
        if peer[1] not in (self.sender_uid, 0):
            program.warn(b'uid %d may not ask for deliveries' % peer[1])
            return sock.close()
        if self.send is not None:
            self.send.close()
        self.send, self.busy = packets.Channel(self.loop, sock, channel.LSPAWN_JOB, self.asked, self.left), set()
        self.send.send(b'C', b'%d' % CAPACITY)

    def left(self, reason):
        """qpy-send is gone; what is under way goes on, and nobody hears of it."""
        if reason != 'closed':
            program.warn(b'lost qpy-send: ' + reason.encode('ascii', 'replace'))
        self.send = None

    def asked(self, records):
        """Deliveries to be made."""
        for _, (delnum, _, sender, recipient, options), fd in records:
            done = self.answer_to(self.send, self.busy, delnum)
            if done is None:
                unix.close_quietly(fd)
            else:
                self.deliver(sender, recipient, options, fd, done)

    def answer_to(self, send, busy, delnum):
        """done(letter, text) for one delivery of this connection; None if it is refused at once."""
        if delnum in busy:
            send.send(b'Z', delnum, b'', localstatus.IN_USE[1:])
            return None
        busy.add(delnum)

        def done(letter, words):
            busy.discard(delnum)
            if send.sock is not None:
                send.send(letter, delnum, b'', words.replace(b'\0', b''))
        return done

    # --- one delivery ---

    def deliver(self, sender, recipient, options, fd, done):
        """Find out whose it is; what has no host or no local part is nobody's."""
        local, host = address.split(recipient)
        if b'@' not in recipient:
            return end(fd, done, localstatus.NO_HOST)
        if not local:
            return end(fd, done, localstatus.NO_LOCAL)
        self.users.ask(local, lambda answer: self.found(answer, local, host, sender, options, fd, done))

    def found(self, answer, local, host, sender, options, fd, done):
        """Hand it to that user, if it may be."""
        if answer is None:
            return end(fd, done, localstatus.NO_LOOKUP)
        verdict, user, uid, gid, home, dash, ext, reason = answer
        if verdict != b'yes':
            return end(fd, done, b'Z%s\n' % reason)
        key = text.parse_uint(uid, HIGHEST_ID), text.parse_uint(gid, HIGHEST_ID)
        refusal = self.refusal(*key)
        if refusal:
            return end(fd, done, refusal)
        fields = (user, home, local, dash, ext, host, sender, self.default, options)
        self.pool.deliver(pool.Delivery(key, fields, fd, done))

    def refusal(self, uid, gid):
        """Why no mail is delivered as these, b'' if it is."""
        if uid is None or gid is None:
            return localstatus.TROUBLE
        if self.own_uid is None:
            return localstatus.AS_ROOT if uid == 0 else b''
        if uid != self.own_uid:
            return ELSEWHERE % (self.own_uid, uid)
        return b''

    def seed_gone(self, reason):
        """Without the seed there is nothing to do; unless the whole chain is ending, which is about to be known."""
        self.loop.after(ENDING, lambda: self.fail(reason))

    def fail(self, reason):
        """End, and the chain with us."""
        program.complain(b'fatal: lost the seed: ' + reason.encode('ascii', 'replace'))
        self.failed = True
        self.loop.stop()


def end(fd, done, report):
    """This delivery never starts."""
    unix.close_quietly(fd)
    done(report[:1], report[1:])


def seed_socket(home, found):
    """The way to the seed: the pair we were born with, else (systemd) the socket DIR/run/seed."""
    if b'seed' in found:
        return unix.socket_of(found.pop(b'seed')[0])
    return packets.connect(home, b'seed', packets.owner_of(home, b'qpyu'))


def main(home, args):
    """Start, then serve qpy-send until the chain ends."""
    unix.umask(0o077)
    unix_kernel.set_dumpable(0)         # the seed has the same account; neither traces the other
    found = inherit.listeners()
    default = args[0] if args else controls.text(home, b'defaultdelivery')
    limit = controls.Watched(home, (b'timeoutlocal',), lambda home: controls.number(home, b'timeoutlocal')).get
    most = pool.most(room.memory(), room.processes(), unix.raise_descriptor_limit())
    if b'lspawn' not in found:
        raise program.Fatal(exits.TEMP, b'unable to serve qpy-send: a socket lspawn must be inherited')
    lspawn = Lspawn(home, default, limit, seed_socket(home, found), most)
    for sock in inherit.sockets(found, b'lspawn'):
        packets.serve(lspawn.loop, sock, lspawn.connected)
    inherit.life(lspawn.loop, found)
    for number in (unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGALRM):
        unix.signal(number, unix.SIG_IGN)           # the chain ends by its life pipe
    confine.confine(home, b'lspawn')
    lspawn.loop.run()
    return exits.TEMP if lspawn.failed else exits.OK
