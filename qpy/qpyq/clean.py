"""qpy-clean, as qpyq: removes what is finished and sets aside what is damaged, on send's word, by ID.

    listens on   clean    stream   send: rID NUL remove, sID NUL set aside; one byte each in answer, in order:
                          + done   ! not now   x refused
    descriptors  2 the log
    exit         0 with the chain

It checks what it is told.  A message with a state file is removed only if the record says that every recipient is
finished; only a file that is not whole is set aside.  mess/ID goes before state/ID, which is send's to remove.
"""
from qpy import unix
from qpy.core import exits, mess, state
from qpy.lib import confine, inherit, loop, packets, program, queuefile, service

REQUEST_LIMIT = 18          # bytes: a verb, an ID, a NUL
BUFFER = 18 * 1000
DONE, LATER, REFUSED = b'+', b'!', b'x'


def main(home, args):
    """The story: open the three directories, serve send."""
    found = service.begin(b'clean', args)
    clean = Clean(home)
    friends = {0, unix.stat(home + b'/queue/state').st_uid}
    event_loop = loop.Loop()
    for sock in inherit.sockets(found, b'clean'):
        packets.serve(event_loop, sock, lambda client, peer: connected(event_loop, clean, friends, client, peer))
    inherit.life(event_loop, found)
    confine.confine(home, b'clean')
    event_loop.run()
    return exits.OK


class Clean:
    """The queue's directories, by descriptor."""

    __slots__ = ('mess', 'state', 'damaged')

    def __init__(self, home):
        self.mess, self.state, self.damaged = (_open_directory(home + b'/queue/' + name)
                                               for name in (b'mess', b'state', b'damaged'))

    def obey(self, request):
        """The answer to one request (without its NUL)."""
        verb, ident = request[:1], request[1:]
        if verb not in (b'r', b's') or not mess.is_id(ident):
            return REFUSED
        try:
            return self.remove(ident) if verb == b'r' else self.set_aside(ident)
        except FileNotFoundError:
            return DONE
        except OSError as problem:
            program.warn(b'unable to %s %b: %b (#4.3.0)' % (b'remove' if verb == b'r' else b'set aside', ident,
                                                            program.reason(problem)))
            return LATER

    def remove(self, ident):
        """Unlink mess/ID, unless state/ID does not agree."""
        record = queuefile.read_state(self.state, ident)
        if record is not None and not self.finished(ident, record):
            program.warn(b'asked to remove %b, whose recipients are not all finished: refused' % ident)
            return REFUSED
        unix.unlink(ident, dir_fd=self.mess)
        return DONE

    def finished(self, ident, record):
        """True if the record says that nothing is left to be done for any recipient."""
        try:
            message = queuefile.open_mess(self.mess, ident, verify=False)
        except (mess.Damaged, mess.Newer):
            return False
        message.close()
        return state.replay(record, ident, len(message.envelope.recipients)).finished()

    def set_aside(self, ident):
        """Move mess/ID to damaged, durably, if it is damaged."""
        try:
            queuefile.open_mess(self.mess, ident).close()
            return REFUSED
        except mess.Newer:
            return REFUSED
        except mess.Damaged:
            pass
        unix.rename(ident, self.free_name(ident), src_dir_fd=self.mess, dst_dir_fd=self.damaged)
        unix.fsync(self.damaged)
        program.warn(b'queue/mess/%b is damaged: now in queue/damaged' % ident)
        return DONE

    def free_name(self, ident):
        """A name that nothing in damaged has yet."""
        taken = {unix.fsencode(name) for name in unix.listdir(self.damaged)}
        name, number = ident, 0
        while name in taken:
            number += 1
            name = b'%b.%d' % (ident, number)
        return name


def _open_directory(path):
    try:
        return unix.open(path, unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC)
    except OSError as problem:
        raise program.Fatal(exits.TEMP, b'unable to use %s: %s' % (path, program.reason(problem))) from None


def connected(event_loop, clean, friends, sock, peer):
    """Serve send; nobody else."""
    if peer[1] in friends:
        Client(event_loop, clean, sock)
    else:
        sock.close()


class Client:
    """One connection: requests in, a byte each out, in order."""

    __slots__ = ('loop', 'clean', 'sock', 'rest', 'out')

    def __init__(self, event_loop, clean, sock):
        self.loop, self.clean, self.sock = event_loop, clean, sock
        self.rest = self.out = b''
        event_loop.watch(sock.fileno(), self.readable)

    def readable(self):
        """Do what has been asked."""
        try:
            data = self.sock.recv(BUFFER)
        except BlockingIOError:
            return
        except OSError:
            data = b''
        if not data:
            return self.close()
        requests = (self.rest + data).split(b'\0')
        self.rest = requests.pop()
        self.out += b''.join([self.clean.obey(request) for request in requests])
        if len(self.rest) >= REQUEST_LIMIT:
            self.out += REFUSED
            self.flush()
            return self.close()
        self.flush()

    def flush(self):
        """Answer.  Nothing more is done for a client that does not hear."""
        try:
            sent = self.sock.send(self.out, unix.MSG_NOSIGNAL) if self.out else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            return self.close()
        waited, self.out = len(self.out) > sent, self.out[sent:]
        self.loop.watch(self.sock.fileno(), None if waited else self.readable, self.flush if waited else None)

    def close(self):
        """Forget the client."""
        if self.sock is not None:
            self.loop.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None
