"""Channels between qpy's programs in the event loop: records in packets, with descriptors beside them.

See core.channel for the records.  A Channel never blocks: what the other side does not take yet is kept, in order,
and written when it can be; what is sent in one pass of the loop leaves in as few packets as it fits in.
"""
from _collections import deque        # collections itself costs sendmail 1.5 ms

from qpy import unix
from qpy.core import channel

BUDGET = 32         # packets read from one channel before the others have their turn


class Channel:
    """One end of a channel.

    on_records([(letter, fields, fd or None), ...]): takes over the descriptors.
    on_closed(reason): the other side is gone, or sent what its table (core.channel) does not allow; called once.
    """

    __slots__ = ('loop', 'sock', 'table', 'on_records', 'on_closed', 'queue', 'scheduled', 'waiting')

    def __init__(self, loop, sock, table, on_records, on_closed):
        self.loop, self.sock, self.table = loop, sock, table
        self.on_records, self.on_closed = on_records, on_closed
        self.queue = deque()            # (record, fd or None, keep)
        self.scheduled = self.waiting = False
        loop.watch(sock.fileno(), self._readable)

    # --- out ---

    def send(self, letter, *fields, fd=None, keep=False):
        """Send one record, with fd if it takes one; fd is closed after it has left, unless keep."""
        self.queue.append((channel.pack(letter, *fields), fd, keep))
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self._flush)

    def flush(self):
        """Have what was sent leave now instead of at the end of this pass."""
        self._flush()

    def backlog(self):
        """How many records wait to be taken by the other side."""
        return len(self.queue)

    def _flush(self):
        self.scheduled = False
        while self.queue and self.sock is not None:
            batch, fds = self._next_packet()
            try:
                sent = unix.send_packet(self.sock, batch, fds)
            except unix.error as problem:
                return self._gone(problem.strerror)
            if not sent:
                break
            self._taken(batch)
        if self.sock is not None:
            self._wait(bool(self.queue))

    def _next_packet(self):
        pieces, fds, size = [], [], 0
        for record, fd, _ in self.queue:
            size += len(record)
            if pieces and (size > unix.PACKET_LIMIT or fd is not None and len(fds) == unix.PACKET_FDS):
                break
            pieces.append(record)
            if fd is not None:
                fds.append(fd)
        return b''.join(pieces), fds

    def _taken(self, batch):
        size = len(batch)
        while size > 0:
            record, fd, keep = self.queue.popleft()
            size -= len(record)
            if fd is not None and not keep:
                unix.close_quietly(fd)

    def _wait(self, wanted):
        if wanted != self.waiting:
            self.waiting = wanted
            self.loop.watch(self.sock.fileno(), self._readable, self._flush if wanted else None)

    # --- in ---

    def _readable(self):
        for _ in range(BUDGET):
            if self.sock is None:
                return
            try:
                packet = unix.recv_packet(self.sock, maxfds=unix.PACKET_FDS)
            except unix.error as problem:
                return self._gone(problem.strerror)
            if packet is None:
                return
            if not packet[0]:
                _close_all(packet[1])
                return self._gone('closed')
            try:
                records = self._parse(*packet)
            except channel.ChannelError as problem:
                return self._gone(str(problem))
            self.on_records(records)
            if len(records) == 1:           # little is going on: epoll will say if there is more
                return

    def _parse(self, data, fds):
        try:
            records = channel.unpack(data, self.table)
            wanted = sum(self.table[letter][1] for letter, _ in records)
            if wanted != len(fds):
                raise channel.ChannelError('%d descriptors where %d belong' % (len(fds), wanted))
        except channel.ChannelError:
            _close_all(fds)
            raise
        waiting = iter(fds)
        return [(letter, fields, next(waiting) if self.table[letter][1] else None) for letter, fields in records]

    # --- the end ---

    def _gone(self, reason):
        if self.sock is not None:
            self.close()
            self.on_closed(reason)

    def close(self):
        """Close this end now; what was not sent is dropped.  on_closed is not called."""
        if self.sock is None:
            return
        self.loop.forget(self.sock.fileno())
        self.sock.close()
        self.sock = None
        _close_all(fd for _, fd, keep in self.queue if fd is not None and not keep)
        self.queue.clear()


def _close_all(fds):
    for fd in fds:
        unix.close_quietly(fd)


# --- who is on the other side --------------------------------------------------------------------------------

class WrongPeer(OSError):
    """The socket is served by an account that should not serve it."""


def queue_owner(home):
    """The uid that owns the queue: qpyq's, or in a rootless DIR its owner's."""
    return unix.stat(home + b'/queue/mess').st_uid


def owner_of(home, account):
    """The uid that program(s) of `account` (bytes) run as in this DIR: the account's, or DIR's owner if rootless."""
    owner = unix.stat(home).st_uid
    return unix.getpwnam(account_name(home, account))[1] if owner == 0 else owner


def account_name(home, role):
    """The name of a role's account in this DIR: control/accounts may give it another."""
    try:
        lines = unix.read_file(home + b'/control/accounts', 65536).split(b'\n')
    except FileNotFoundError:
        return role
    named = dict(line.split(b':', 1) for line in lines if b':' in line and line[:1] != b'#')
    return named.get(role, role).rstrip(b' \t')


def connect(home, name, uid, kind=unix.SOCK_SEQPACKET):
    """A non-blocking socket connected to DIR/run/name, served by uid (or root, who bound it).

    OSError if nobody serves it; WrongPeer if somebody else does: nothing has been said to him.
    """
    sock = unix.socket_unix(kind)
    try:
        sock.setblocking(True)
        unix.connect_beneath(sock, home + b'/run', name)
        sock.setblocking(False)
        peer = unix.peercred(sock)[1]
        if peer not in (uid, 0):
            raise WrongPeer(unix.EPERM, 'served by uid %d instead of %d' % (peer, uid), home + b'/run/' + name)
    except BaseException:
        sock.close()
        raise
    return sock


def serve(loop, listening, on_connection):
    """Accept from a listening socket for ever: on_connection(socket, (pid, uid, gid)).

    When descriptors or memory run out, accepting pauses for PAUSE seconds instead of spinning.
    """
    def readable():
        for _ in range(BUDGET):
            try:
                client = unix.accept(listening)
            except unix.error:
                loop.forget(listening.fileno())
                loop.after(PAUSE, lambda: loop.watch(listening.fileno(), readable))
                return
            if client is None:
                return
            on_connection(client[0], unix.peercred(client[0]))
    loop.watch(listening.fileno(), readable)


PAUSE = 0.25        # seconds
