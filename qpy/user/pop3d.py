"""qpy-pop3d, as the user: serves a Maildir by POP3, after qpy-popup and a program that judged the password.

    qpy-pop3d maildir
    descriptors   0 and 1 the client
    exit          0; 1 started as root

A message that another program moves or marks meanwhile is found again by its name.
"""
from qpy import unix
from qpy.core import exits, pop3
from qpy.lib import confine, program

PATIENCE = 1200             # seconds for each step of the client
STALE = 129600              # seconds after which a file in tmp belongs to nobody
PIECE = 65536
NO_MAILDIR = b'-ERR this user has no $HOME/Maildir\r\n'
NO_SCAN = b'-ERR unable to scan $HOME/Maildir\r\n'


def main(home, args):
    """See qpy-pop3d(8)."""
    unix.umask(0o077)
    unix.signal(unix.SIGPIPE, unix.SIG_IGN)
    unix.signal(unix.SIGALRM, lambda *_: unix._exit(exits.OK))
    if unix.geteuid() == 0:
        unix.write_all(2, b'qpy-pop3d invoked as uid 0, terminating\n')
        return 1
    there = enter(args)
    if there:
        confine.confine(home, b'pop3d')
    try:
        serve() if there else say(NO_MAILDIR)
    except unix.error:
        pass                            # the client has gone
    return exits.OK


def enter(args):
    """Be in the Maildir; False if there is none."""
    try:
        if len(args) != 1:
            raise FileNotFoundError
        unix.chdir(args[0])
    except unix.error:
        return False
    return True


def serve():
    """One session."""
    try:
        sweep(unix.time())
        box = Box(scan(int(unix.time())))
    except unix.error:
        return say(NO_SCAN)
    session = pop3.Session([(size, path[4:]) for _, path, size in box.messages])
    while True:
        event = session.next()
        if event is None:
            say(session.output())
            if session.over:
                return
            session.receive(hear())
        elif event[0] == pop3.SEND:
            send(session, box, *event[1])
        else:
            session.removed(box.finish(set(event[1])))


def hear():
    """Bytes from the client; OSError if he has gone."""
    unix.alarm(PATIENCE)
    data = unix.read(0, PIECE)
    if not data:
        raise OSError(unix.EPIPE, 'the client has gone')
    return data


def say(data):
    """Bytes to the client."""
    if data:
        unix.alarm(PATIENCE)
        unix.write_all(1, data)


def send(session, box, number, lines):
    """One message, or its beginning."""
    try:
        fd = box.open(number)
    except unix.error:
        return session.unable()
    session.sending()
    say(session.output())
    encoder = pop3.Encoder(lines)
    try:
        while not encoder.done:
            data = unix.read(fd, PIECE)
            if not data:
                break
            say(encoder.feed(data))
    finally:
        unix.close(fd)
    say(encoder.end())


# --- the Maildir --------------------------------------------------------------------------------------------

def sweep(now):
    """Remove what writers that died have left in tmp."""
    for name in unix.listdir(b'tmp'):
        path = b'tmp/' + name
        try:
            if name[:1] != b'.' and now - unix.lstat(path).st_atime > STALE:
                unix.unlink(path)
        except unix.error:
            pass


def scan(now):
    """[(time, path, size)] of the messages, the oldest first; not those of this very second: more may follow
    them, and numbers must not change."""
    found = []
    for part in (b'new', b'cur'):
        for name in unix.listdir(part):
            path = part + b'/' + name
            try:
                there = unix.stat(path)
            except FileNotFoundError:
                continue
            if name[:1] != b'.' and there.st_mtime < now and unix.S_ISREG(there.st_mode):
                found.append((there.st_mtime_ns, path, there.st_size))
    return sorted(found)


class Box:
    """The messages of a session."""

    __slots__ = ('messages', 'places')

    def __init__(self, messages):
        self.messages, self.places = messages, {}

    def look(self):
        """See where the messages are now, by their paths and by their names without flags."""
        paths = [part + b'/' + name for part in (b'new', b'cur') for name in unix.listdir(part)]
        self.places = {base(path): path for path in paths} | {path: path for path in paths}

    def path(self, number):
        """Where a message is, as far as is known."""
        path = self.messages[number][1]
        return self.places.get(path) or self.places.get(base(path)) or path

    def open(self, number):
        """A descriptor of a message; FileNotFoundError."""
        flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC
        try:
            return unix.open(self.path(number), flags)
        except FileNotFoundError:
            self.look()
            return unix.open(self.path(number), flags)

    def finish(self, deleted):
        """Remove the deleted messages, mark the others as seen by a reader; True if all are removed."""
        good = True
        try:
            self.look()
        except unix.error:
            return not deleted
        for number in range(len(self.messages)):
            path = self.path(number)
            try:
                if number in deleted:
                    unix.unlink(path)
                elif path[:4] == b'new/':
                    unix.rename(path, b'cur/' + base(path) + b':2,')
            except FileNotFoundError:
                pass                    # somebody else has removed it
            except unix.error:
                good = good and number not in deleted
        return good


def base(path):
    """The name of a message without directory and flags."""
    return path[4:].partition(b':')[0]
