"""qpy-fsck, as root or the queue's owner: looks at a whole queue, at rest or in use, and explains what it finds.

    qpy-fsck [--set-aside] [--all]

It deletes nothing and changes no file.  With --set-aside, what no program can use is moved into queue/damaged, where
nothing is ever replaced.  Descriptor 1: a line for each thing worth a word, then a line with the figures.
Exit: 0 all is well, or sees to itself; 1 somebody must look; 100 wrong usage; 111 the queue could not be read.
"""
from qpy import unix, unix_kernel
from qpy.core import exits, mess, mounts, queuecheck, text
from qpy.lib import aside, controls, faults, owner, program, queuefile

USAGE = b'usage: qpy-fsck [--set-aside] [--all]'
SETTLED = 120               # seconds without a change, after which a file in a queue in use is finished
LOOK_WRONG = 1              # exit code
DIRECTORY = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC


def main(home, args):
    """The story: open the three directories, see who uses them, look at every name in each, say what it means."""
    if set(args) - {b'--set-aside', b'--all'}:
        raise program.Fatal(exits.PERM, USAGE)
    owner.become(home)
    check = Check(home, b'--set-aside' in args, b'--all' in args)
    check.look_at_the_disk()
    check.look_at_directories()
    check.look_at_mess()
    check.look_at_state()
    check.look_at_damaged()
    return check.end()


class Check:
    """One look at one queue."""

    def __init__(self, home, set_aside, everything):
        self.home, self.sets_aside, self.everything = home, set_aside, everything
        self.place = {name: open_directory(home, name) for name in (b'mess', b'state', b'damaged')}
        self.live = in_use(self.place[b'mess']) or is_locked(self.place[b'mess']) or send_runs(self.place[b'state'])
        self.identity = identity(home)
        self.recipients = {}                    # {ID: how many}; None: there, and not to be read
        self.counts, self.worst, self.moved = {}, queuecheck.FINE, set()

    # --- what there is ---

    def look_at_the_disk(self):
        """What kind of file system keeps the mail, if that is worth a word."""
        try:
            path = unix.readlink(b'/proc/self/fd/%d' % self.place[b'mess'])
            kind = mounts.file_system(unix.read_file(b'/proc/self/mountinfo'), path)
        except unix.error:
            return                              # no /proc
        if kind in queuecheck.FILE_SYSTEMS:
            say(b'queue: its file system (%b) %b' % (kind, queuecheck.FILE_SYSTEMS[kind]))

    def look_at_directories(self):
        """Can the programs use them?"""
        for name, fd in self.place.items():
            if self.closed(queuecheck.DIRECTORIES[name], unix.fstat(fd)):
                self.found(b'', name, b'closed')
        if self.closed(queuecheck.QUEUE, unix.stat(self.home + b'/queue')):
            self.found(b'', b'', b'closed')

    def closed(self, needs, there):
        """queuecheck.closed of a stat."""
        return queuecheck.closed(needs, (there.st_uid, there.st_gid, there.st_mode), self.identity)

    def names(self, where):
        """All names in one of the directories, sorted."""
        return sorted(unix.fsencode(name) for name in unix.listdir(self.place[where]))

    def stat(self, where, name):
        """What a name in one of the directories stands for; of a link, the link."""
        return unix.stat(name, dir_fd=self.place[where], follow_symlinks=False)

    def look_at_mess(self):
        """Every file of queue/mess."""
        for name in self.names(b'mess'):
            kind, more = self.of_mess(name)
            if kind:
                self.found(b'mess', name, kind, more)

    def of_mess(self, name):
        """(kind, more words) of one; kind None: it has gone while we looked."""
        try:
            there = self.stat(b'mess', name)
            if not unix.S_ISREG(there.st_mode):
                return b'no file', b''
            if self.live and unix.time() - there.st_mtime < SETTLED and not self.whole(b'mess', name):
                return b'receiving' if name.endswith(b'.part') else b'young', b''
            if name.endswith(b'.part'):
                return (b'receiving' if self.live else b'part'), b''
            if not mess.is_id(name):
                other = self.other_name(b'mess', name, there.st_size)
                return (b'misnamed', b': ' + other) if other else (b'foreign', b'')
            return self.of_message(name, there)
        except FileNotFoundError:
            return None, b''
        except unix.error as problem:
            return b'unreadable', b': ' + program.reason(problem)

    def whole(self, where, name):
        """Can it be read as the message of its name?"""
        try:
            queuefile.open_mess(self.place[where], name).close()
            return True
        except (mess.Damaged, mess.Newer):
            return False

    def of_message(self, name, there):
        """A file called as a message is."""
        try:
            message = queuefile.open_mess(self.place[b'mess'], name)
        except mess.Newer:
            self.recipients[name] = None
            return b'newer', b''
        except mess.Damaged as problem:
            self.recipients[name] = None
            other = self.other_name(b'mess', name, there.st_size)
            return (b'renamed', b': ' + other) if other else (b'damaged', b': ' + str(problem).encode())
        self.recipients[name] = len(message.envelope.recipients)
        message.close()
        if self.closed(queuecheck.FILES[b'mess'], there):
            return b'closed', b''
        return (b'writable' if there.st_mode & 0o022 else b'whole'), b''

    def other_name(self, where, name, size):
        """The ID under which this file would be a whole message, None if there is none."""
        fd = unix.open(name, unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC,
                       dir_fd=self.place[where])
        try:
            footer = unix.pread_all(fd, mess.FOOTER_SIZE, max(0, size - mess.FOOTER_SIZE))
            other = queuecheck.true_name(footer)
            if other is None or other == name:
                return None
            _, _, crc = mess.parse_footer(footer, other, size)
            mess.check(queuefile.pieces(fd, size - 9), crc)
            return other
        except (mess.Damaged, mess.Newer):
            return None
        finally:
            unix.close(fd)

    def look_at_state(self):
        """Every file of queue/state, beside the message it belongs to."""
        for name in self.names(b'state'):
            if name == b'lock':
                there = self.stat(b'state', name)
                if not unix.S_ISREG(there.st_mode):
                    self.found(b'state', name, b'no file')
                elif self.closed(queuecheck.LOCK, there):
                    self.found(b'state', name, b'closed')
                continue
            if not mess.is_id(name):
                if not (self.live and (name.startswith(b'copy.') or name == b'shorter')):
                    self.found(b'state', name, b'shorter' if name == b'shorter' else
                               b'kept' if aside.is_kept(name) else b'foreign')
                continue
            for kind in self.of_state(name):
                self.found(b'state', name, kind)

    def of_state(self, name):
        """The kinds of one state."""
        if name not in self.recipients and self.live and self.arrived_since(name):
            return []
        try:
            there = self.stat(b'state', name)
            if name not in self.recipients:
                return [b'no file' if unix.S_ISDIR(there.st_mode) else b'orphan']     # a FIFO or a link is unlinked, too
            if not unix.S_ISREG(there.st_mode):
                return [b'no state']
            if self.recipients[name] is None:
                return []                       # nothing can be said without its message
            data = queuefile.read_state(self.place[b'state'], name)
        except FileNotFoundError:
            return []
        except unix.error:
            return [b'unreadable']
        if data is None:
            return []
        kinds = queuecheck.of_state(data, name, self.recipients[name])
        if self.closed(queuecheck.FILES[b'state'], there):
            kinds.append(b'closed')
        return [kind for kind in kinds if not (self.live and kind in (b'finished', b'torn'))]     # it is at it

    def arrived_since(self, name):
        """Has the message come, or both gone, while we looked?"""
        gone = False
        for where in (b'mess', b'state'):
            try:
                self.stat(where, name)
            except FileNotFoundError:
                gone = gone or where == b'state'
            else:
                gone = gone or where == b'mess'
        return gone

    def look_at_damaged(self):
        """What was set aside before; also whether it is a message all the same."""
        for name in self.names(b'damaged'):
            if name not in self.moved:
                try:
                    self.found(b'damaged', name, b'kept whole' if self.whole_there(name) else b'kept')
                except unix.error as problem:
                    self.found(b'damaged', name, b'unreadable', b': ' + program.reason(problem))

    def whole_there(self, name):
        """Is this a whole message, under its own name or another?"""
        there = self.stat(b'damaged', name)
        if not unix.S_ISREG(there.st_mode):
            return False
        return self.whole(b'damaged', name) or self.other_name(b'damaged', name, there.st_size) is not None

    # --- what is said and done ---

    def found(self, where, name, kind, more=b''):
        """Count it; say it if it is worth a word; set it aside if that is wanted."""
        how_bad, movable, sentence, _ = queuecheck.TABLE[kind]
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.worst = max(self.worst, how_bad)
        if how_bad != queuecheck.FINE or self.everything:
            path = b'/'.join(filter(None, (b'queue', where, text.printable(name))))
            say(b'%b%b: %b' % (path, text.printable(more), sentence))
        if movable and self.sets_aside:
            self.move(where, name)

    def move(self, where, name):
        """Into queue/damaged, durable; what cannot go there stays, and the others have their turn."""
        kept, states = None, self.place[b'state']
        try:
            if where == b'mess' and mess.is_id(name):
                kept = aside.keep_state(states, name)
            new = self.renamed(where, name)
            self.moved.add(new)
            unix.fsync(self.place[b'damaged'])
            unix.fsync(self.place[where])
            if kept is not None:
                unix.unlink(name, dir_fd=states)        # its other name
        except unix.error as problem:
            self.worst = queuecheck.WRONG
            return say(b'queue/%b/%b: unable to set it aside: %b' % (where, text.printable(name), program.reason(problem)))
        say(b'queue/%b/%b: set aside as queue/damaged/%b' % (where, text.printable(name), text.printable(new)))

    def renamed(self, where, name):
        """Its new name in queue/damaged, which nothing had there."""
        new, number = name, 0
        while True:
            try:
                unix_kernel.rename_noreplace(self.place[where], name, self.place[b'damaged'], new)
                return new
            except FileExistsError:
                number += 1
                new = b'%b.%d' % (name, number)

    def end(self):
        """The figures, and the exit code."""
        figures = b', '.join(b'%d %b' % (number, kind) for kind, number in sorted(self.counts.items()))
        use = b'in use' if self.live else b'at rest'
        say(b'qpy-fsck: %b; the queue is %b' % (figures or b'the queue is empty', use))
        return LOOK_WRONG if self.worst == queuecheck.WRONG else exits.OK


def open_directory(home, name):
    """A descriptor of one of the queue's directories; Fatal if it is not there, or strangers may write in it."""
    path = home + b'/queue/' + name
    try:
        fd = unix.open(path, DIRECTORY)
    except unix.error as problem:
        raise program.Fatal(exits.TEMP, b'unable to open %b: %b; qpy-install makes what is missing'
                            % (path, program.reason(problem))) from None
    if unix.fstat(fd).st_mode & (0o002 if name == b'state' else 0o022):
        say(b'queue/%b: others may write in it; qpy-install mends the mode' % name)
    return fd


def identity(home):
    """{role: (uid, gid)} of those who use this queue; without whose account there is none."""
    there = unix.stat(home)
    try:
        return (faults.rootless(home, (there.st_uid, there.st_gid)) if there.st_uid else faults.rooted(home)).identity
    except controls.Broken:
        return {}                               # qpy-install --check says why


def in_use(fd):
    """Does a program hold the lock of this file or directory?  Looked up: trying it might keep the program out."""
    try:
        locks = unix.read_file(b'/proc/locks').split()
    except unix.error:
        return True                             # unknown: be careful
    return any(word.endswith(b':%d' % unix.fstat(fd).st_ino) for word in locks)


def is_locked(fd):
    """The same, tried for a moment: /proc/locks does not show what another namespace of processes holds.  queued, whose lock
    it is, would try again for three seconds."""
    try:
        unix.flock(fd, unix.LOCK_SH | unix.LOCK_NB)
        unix.flock(fd, unix.LOCK_UN)
        return False
    except unix.error:
        return True


def send_runs(directory):
    """Does send hold its lock?"""
    try:
        fd = unix.open_regular(b'lock', unix.O_RDONLY, dir_fd=directory)
    except unix.error:
        return False
    try:
        return in_use(fd)
    finally:
        unix.close(fd)


def say(line):
    """One line on descriptor 1."""
    unix.write_all(1, line + b'\n')
