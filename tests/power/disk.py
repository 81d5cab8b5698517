"""A disk in memory behind the `unix` seam, which forgets what was not synced.

A whole tree: directories, files with several names, file systems mounted in it, descriptors (from BASE up, so that
they never meet the kernel's).  Two models of what a power cut leaves:

    bare      POSIX and nothing more: a file's bytes survive by fsync of that file, a directory entry by fsync of its
              directory; of everything else any part survives, torn or zeroed
    ordered   a journal per file system: directory operations survive in order, up to some point, and any fsync writes
              the journal; bytes as above

syncfs makes everything of one file system durable, and nothing of another.  A failed fsync loses the dirty bytes for
good and calls them clean, as Linux does: a later fsync of the same file succeeds and proves nothing.
"""
import errno
import itertools
import os
import stat as modes

BASE = 1_000_000                # the lowest descriptor
DIRECTORY = BASE                # the root's, always open: all that qpyq.store needs
UID = 1000                      # whom everything belongs to
READS = {'stat', 'fstat', 'lstat', 'pread', 'read', 'listdir', 'scandir', 'lseek', 'close', 'flock', 'lockf',
         'posix_fadvise', 'sync_file_range', 'open'}    # after which a power cut leaves what it would have left before


class File:
    """A file: what programs see, what is on disk for sure, and whether dirty bytes were lost."""

    def __init__(self, volume=0, mode=0o600, content=b''):
        self.seen = self.safe = content
        self.lost, self.volume, self.mode, self.names, self.mtime = False, volume, mode, 0, 0.0

    def sync(self):
        """fsync: everything written is on disk, unless an earlier failure has dropped it."""
        if not self.lost:
            self.safe = self.seen

    def outcomes(self):
        """Every content a power cut may leave, by kinds: as synced, cut, zeroed, with a hole.  What was synced and
        not written again stays."""
        if self.safe == self.seen:
            return [self.seen]
        common = len(os.path.commonprefix([self.safe, self.seen]))
        kept, new = self.seen[:common], self.seen[common:]
        size, half, early = len(new), len(new) // 2, len(new) // 5
        zeros = b'\0' * size
        torn = {new, zeros, b'', new[:half], new[:-1], new[:half] + zeros[half:], zeros[:half] + new[half:],
                zeros[:early] + new[early:], new[:-1] + b'\0'} if size else {b''}
        return sorted({self.safe, *(kept + tail for tail in torn)})


class Directory:
    """A directory: the entries programs see, and those on disk.  dull: nobody minds what becomes of its entries."""

    def __init__(self, volume=0, mode=0o700, dull=False):
        self.seen, self.safe, self.volume, self.mode, self.dull = {}, {}, volume, mode, dull


class Handle:
    """An open descriptor."""

    def __init__(self, node, flags):
        self.node, self.flags, self.at = node, flags, 0


class Stat:
    """What stat returns."""

    def __init__(self, node):
        directory = isinstance(node, Directory)
        self.st_mode = node.mode | (modes.S_IFDIR if directory else modes.S_IFREG)
        self.st_uid = self.st_gid = UID
        self.st_dev, self.st_ino = 1001 + node.volume, id(node)
        self.st_size = 4096 if directory else len(node.seen)
        self.st_nlink = 2 if directory else node.names
        self.st_mtime = 0.0 if directory else node.mtime
        self.st_mtime_ns = self.st_ctime_ns = int(self.st_mtime * 1e9)


class Name:
    """What scandir yields."""

    def __init__(self, name):
        self.name = name


class Disk:
    """The calls that mail makes, with a fault to order and a history to cut."""

    def __init__(self, model='bare'):
        self.model = model
        self.root, self.volumes = Directory(), 1
        self.journal = []                       # [(volume, [(directory, name, node or None)])] not yet safe, in order
        self.files, self.next = {}, BASE        # open descriptors; the root's is not among them
        self.rooted = Handle(self.root, os.O_RDONLY)
        self.calls, self.fault, self.lasting, self.on_call = 0, None, False, None
        self.dirty = True                       # something has changed since on_call was asked last
        self.record = None                      # a list: the names of all calls

    # --- making one ---

    def build(self, path, content=None, mode=None, dull=False):
        """Put a durable directory (content None) or file there, with no call made; for the time before the test."""
        parent, name, _ = self._find(path, None)
        node = Directory(parent.volume, 0o755 if mode is None else mode, dull) if content is None else \
            File(parent.volume, 0o644 if mode is None else mode, content)
        if content is not None:
            node.names = 1
        parent.seen[name] = parent.safe[name] = node
        return node

    def mount(self, path):
        """From here on it is another file system (build what is in it afterwards)."""
        node = self._find(path, None)[2]
        node.volume, self.volumes = self.volumes, self.volumes + 1

    # --- faults ---

    def _call(self, what):
        """Every call passes here: call number fault[0] (and all after it, if lasting) fails with errno fault[1], or
        is short ('short')."""
        if self.on_call and (self.dirty or what not in READS):
            self.on_call()
            self.dirty = False
        if what not in READS:
            self.dirty = True
        self.calls += 1
        if self.record is not None:
            self.record.append(what)
        if self.fault and (self.fault[0] == self.calls or self.lasting and self.fault[0] < self.calls):
            problem = self.fault[1]
            if problem == 'short':
                return 'short'
            if isinstance(problem, BaseException):
                raise problem
            raise OSError(problem, os.strerror(problem), what)
        return None

    # --- names ---

    def _find(self, path, dir_fd):
        """(parent directory, last name, node or None) of a path."""
        path = os.fsencode(path)
        if path[:1] == b'/' or dir_fd is None:
            node = self.root
        else:
            node = self._node(dir_fd)
        parent, name = node, b'.'
        words = [word for word in path.split(b'/') if word not in (b'', b'.')]
        for i, word in enumerate(words):
            if not isinstance(node, Directory):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            parent, name, node = node, word, node.seen.get(word)
            if node is None and i < len(words) - 1:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return parent, name, node

    def _there(self, path, dir_fd):
        found = self._find(path, dir_fd)
        if found[2] is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return found

    def _handle(self, fd):
        if fd == DIRECTORY:
            return self.rooted
        if fd not in self.files:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.files[fd]

    def _node(self, fd):
        return self._handle(fd).node

    def _descriptor(self, node, flags):
        self.next += 1
        self.files[self.next] = Handle(node, flags)
        return self.next

    def _enter(self, *steps):
        """Change directory entries: (directory, name, node or None)...; one operation of the journal."""
        for directory, name, node in steps:
            old = directory.seen.pop(name, None)
            if isinstance(old, File):
                old.names -= 1
            if node is not None:
                directory.seen[name] = node
                if isinstance(node, File):
                    node.names += 1
        if self.model == 'ordered' or len({id(step[0]) for step in steps}) == 1:
            self.journal.append((steps[0][0].volume, list(steps)))
        else:                                   # nothing in POSIX holds two directories together
            self.journal += [(step[0].volume, [step]) for step in steps]

    # --- calls on names ---

    def open(self, path, flags, mode=0o777, dir_fd=None):
        """open(2), as far as mail uses it."""
        creating = flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE
        self._call('create' if creating else 'open')
        path = os.fsencode(path)
        if path.startswith(b'/proc/self/fd/'):
            return self._descriptor(self._node(int(path[14:])), flags)
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            return self._descriptor(File(self._there(path, dir_fd)[2].volume, mode), flags)
        parent, name, node = self._find(path, dir_fd)
        if node is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            node = File(parent.volume, mode)
            self._enter((parent, name, node))
        elif flags & os.O_EXCL and flags & os.O_CREAT:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        elif flags & os.O_DIRECTORY and not isinstance(node, Directory):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if flags & os.O_TRUNC and flags & 3:
            node.seen = b''
        return self._descriptor(node, flags)

    def mkdir(self, path, mode=0o777, dir_fd=None):
        """mkdir(2)."""
        self._call('mkdir')
        parent, name, node = self._find(path, dir_fd)
        if node is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._enter((parent, name, Directory(parent.volume, mode, name == b'tmp')))

    def link(self, old, new, src_dir_fd=None, dst_dir_fd=None, follow_symlinks=True):
        """A second name."""
        self._call('link')
        node = self._there(old, src_dir_fd)[2]
        parent, name, there = self._find(new, dst_dir_fd)
        if there is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        self._enter((parent, name, node))

    def rename(self, old, new, src_dir_fd=None, dst_dir_fd=None):
        """rename(2) of files."""
        self._call('rename')
        parent, name, node = self._there(old, src_dir_fd)
        other, new_name, _ = self._find(new, dst_dir_fd)
        self._enter((parent, name, None), (other, new_name, node))

    def rename_noreplace(self, old_dir, old, new_dir, new):
        """renameat2(2): never over another file."""
        if self._find(new, new_dir)[2] is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        self.rename(old, new, old_dir, new_dir)

    def unlink(self, name, dir_fd=None):
        """Remove a name."""
        self._call('unlink')
        parent, name, _ = self._there(name, dir_fd)
        self._enter((parent, name, None))

    def stat(self, path, dir_fd=None, follow_symlinks=True):
        """stat(2)."""
        self._call('stat')
        return Stat(self._node(path) if isinstance(path, int) else self._there(path, dir_fd)[2])

    def lstat(self, path, dir_fd=None):
        """There are no links here."""
        return self.stat(path, dir_fd)

    def listdir(self, place):
        """Names as str of a descriptor, as bytes of a path; as the kernel's."""
        self._call('listdir')
        if isinstance(place, int):
            return [os.fsdecode(name) for name in self._node(place).seen]
        return list(self._there(place, None)[2].seen)

    def scandir(self, place):
        """An iterator of entries."""
        self._call('scandir')
        return iter([Name(os.fsdecode(name)) for name in self._node(place).seen])

    # --- calls on descriptors ---

    def fstat(self, fd):
        """fstat(2)."""
        self._call('fstat')
        return Stat(self._node(fd))

    def read(self, fd, size):
        """From the descriptor's place."""
        self._call('read')
        handle = self._handle(fd)
        data = handle.node.seen[handle.at:handle.at + size]
        handle.at += len(data)
        return data

    def pread(self, fd, size, offset):
        """From anywhere; a short one reads half of what is there."""
        data = self._node(fd).seen[offset:offset + size]
        return data if self._call('pread') is None else data[:(len(data) + 1) // 2]

    def lseek(self, fd, offset, whence):
        """SEEK_SET only."""
        assert whence == os.SEEK_SET
        self._handle(fd).at = offset
        return offset

    def write(self, fd, data):
        """At the descriptor's place, or at the end with O_APPEND."""
        data = bytes(data)
        handle = self._handle(fd)
        assert handle.flags & 3
        if self._call('write') == 'short' and len(data) > 1:
            data = data[:len(data) // 2]
        self._put(handle, data)
        return len(data)

    def _put(self, handle, data):
        node = handle.node
        at = len(node.seen) if handle.flags & os.O_APPEND else handle.at
        if at == len(node.seen):
            node.seen += data
        else:
            node.seen = node.seen[:at].ljust(at, b'\0') + data + node.seen[at + len(data):]
        handle.at = at + len(data)

    def ftruncate(self, fd, size):
        """ftruncate(2)."""
        self._call('ftruncate')
        node = self._node(fd)
        node.seen = node.seen[:size].ljust(size, b'\0')
        if node.seen == node.safe:
            node.lost = False           # the bytes that a failed fsync has dropped are cut off: what comes now is dirty anew

    def copy_file_range(self, source, target, size):
        """From place to place."""
        short = self._call('copy_file_range') == 'short'
        here = self._handle(source)
        data = here.node.seen[here.at:here.at + (max(1, size // 2) if short else size)]
        here.at += len(data)
        self._put(self._handle(target), data)
        return len(data)

    def fchmod(self, fd, mode):
        """fchmod(2)."""
        self._call('fchmod')
        self._node(fd).mode = mode

    def close(self, fd):
        """Linux frees the descriptor also when close fails."""
        assert fd != DIRECTORY
        self._handle(fd)
        del self.files[fd]
        self._call('close')

    def flock(self, fd, operation):
        """Free always: there is one of each program."""
        self._call('flock')
        self._handle(fd)

    lockf = flock

    def posix_fadvise(self, fd, offset, size, advice):
        """A wish, no promise."""
        self._call('posix_fadvise')
        self._handle(fd)

    def sync_file_range(self, fd, offset, length, flags):
        """A wish, no promise."""
        self._call('sync_file_range')
        self._handle(fd)

    def fsync(self, fd):
        """Of a file or of a directory."""
        node = self._node(fd)
        try:
            self._call('fsync')
        except OSError:
            if isinstance(node, File):
                node.lost = node.lost or node.safe != node.seen
            raise
        if isinstance(node, File):
            node.sync()
        if self.model == 'ordered':
            self._commit(lambda volume, directory: volume == node.volume)
        elif isinstance(node, Directory):
            self._commit(lambda volume, directory: directory is node)

    fdatasync = fsync

    def syncfs(self, fd):
        """One file system; an error says that something was lost, and not what."""
        node = self._node(fd)
        files = [file for file in self._files() if file.volume == node.volume]
        try:
            self._call('syncfs')
        except OSError:
            for file in files:
                file.lost = file.lost or file.safe != file.seen
            raise
        for file in files:
            file.sync()
        self._commit(lambda volume, directory: volume == node.volume)

    def _files(self):
        found = {id(handle.node): handle.node for handle in self.files.values()}
        waiting = [self.root]
        while waiting:
            for node in waiting.pop().seen.values():
                if isinstance(node, Directory):
                    waiting.append(node)
                else:
                    found[id(node)] = node
        return [node for node in found.values() if isinstance(node, File)]

    def _commit(self, which):
        """Make the journal's steps durable whose (volume, directory) is chosen."""
        left = []
        for volume, steps in self.journal:
            stay = [step for step in steps if not which(volume, step[0])]
            for directory, name, node in steps:
                if which(volume, directory):
                    _apply(directory.safe, name, node)
            if stay:
                left.append((volume, stay))
        self.journal = left

    # --- what a test asks ---

    @property
    def names(self):
        """The root's entries."""
        return self.root.seen

    def tree(self, path=b''):
        """{path: content} of all files below path, as programs see them."""
        top = self._find(path, None)[2]
        return {} if top is None else {name: node.seen for name, node in _walk(top, lambda d: d.seen)}

    # --- power cuts ---

    def survivors(self):
        """Every choice of journal steps that a power cut now may let survive: lists of operations, in order.

        What happens in dull directories (Maildirs' tmp) is of no consequence, and survives."""
        if self.model == 'ordered':
            volumes = sorted({volume for volume, _ in self.journal})
            each = [[steps for place, steps in self.journal if place == volume] for volume in volumes]
            for lengths in itertools.product(*(range(len(steps) + 1) for steps in each)):
                yield [steps for some, length in zip(each, lengths, strict=True) for steps in some[:length]]
            return
        free = [steps for _, steps in self.journal if not all(step[0].dull for step in steps)]
        for mask in itertools.product((False, True), repeat=len(free)):
            gone = {id(steps) for steps, kept in zip(free, mask, strict=True) if not kept}
            yield [steps for _, steps in self.journal if id(steps) not in gone]

    def some_survivors(self, chance):
        """One such choice, by a random.Random."""
        if self.model == 'ordered':
            lengths = {}
            for volume, _ in self.journal:
                lengths[volume] = lengths.get(volume, 0) + 1
            left = {volume: chance.randint(0, length) for volume, length in lengths.items()}
            kept = []
            for volume, steps in self.journal:
                left[volume] -= 1
                if left[volume] >= 0:
                    kept.append(steps)
            return kept
        return [steps for _, steps in self.journal if all(step[0].dull for step in steps) or chance.random() < 0.5]

    def cuts(self, interesting=lambda name: not name.endswith(b'.part'), pick=None, survivors=None):
        """Every Picture of what a power cut now may leave.  The contents of files whose name (or every name) is not
        interesting, or in dull directories, stay as they are seen.  pick(list) may thin out the choices."""
        pick = pick or (lambda choices: choices)
        for kept in pick(list(self.survivors())) if survivors is None else survivors:
            entries = {}
            for _, steps in self.journal:
                for directory, _, _ in steps:
                    entries.setdefault(id(directory), dict(directory.safe))
            for steps in kept:
                for directory, name, node in steps:
                    _apply(entries[id(directory)], name, node)
            for_directory = (lambda directory, entries=entries: entries.get(id(directory), directory.seen))
            listing = list(_walk(self.root, for_directory, dull=False))
            dirty = {id(node): node for path, node in listing
                     if node.safe != node.seen and interesting(path.rpartition(b'/')[2])}
            for contents in itertools.product(*(pick(node.outcomes()) for node in dirty.values())):
                yield Picture(self, for_directory, listing, dict(zip(dirty, contents, strict=True)))

    def cut(self, chance):
        """One Picture, chosen by a random.Random: of each operation and each file, anything that may be."""
        return next(self.cuts(pick=lambda choices: [chance.choice(choices)], survivors=[self.some_survivors(chance)]))

    def crashes(self, interesting=lambda name: True):
        """Every {path: content} that a power cut now may leave; names that are not interesting keep what is seen."""
        seen = set()
        for picture in self.cuts(interesting):
            if picture.files not in seen:
                seen.add(picture.files)
                yield dict(picture.files)


class Picture:
    """What one power cut leaves.  key: the same for the same files."""

    def __init__(self, disk, entries, listing, contents):
        self.of, self.entries, self.contents = disk, entries, contents
        self.files = tuple([(path, contents.get(id(node), node.seen)) for path, node in listing])
        self.key = hash(self.files)

    def disk(self):
        """A Disk that holds this, all of it durable."""
        new, known = Disk(self.of.model), {}
        new.volumes = self.of.volumes

        def copy(node):
            if isinstance(node, Directory):
                there = Directory(node.volume, node.mode, node.dull)
                there.seen = {name: copy(child) for name, child in self.entries(node).items()}
                there.safe = dict(there.seen)
                return there
            if id(node) not in known:
                known[id(node)] = File(node.volume, node.mode, self.contents.get(id(node), node.seen))
                known[id(node)].mtime = node.mtime
            known[id(node)].names += 1
            return known[id(node)]
        new.root = copy(self.of.root)
        new.rooted = Handle(new.root, os.O_RDONLY)
        return new


def _apply(entries, name, node):
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def _walk(directory, entries, prefix=b'', dull=True):
    """(path, File) of all files below; without dull, not those in dull directories."""
    for name, node in sorted(entries(directory).items()):
        if isinstance(node, File):
            yield prefix + name, node
        elif dull or not node.dull:
            yield from _walk(node, entries, prefix + name + b'/', dull)


CALLS = ('open', 'mkdir', 'link', 'rename', 'unlink', 'stat', 'lstat', 'listdir', 'scandir', 'fstat', 'read', 'pread',
         'lseek', 'write', 'ftruncate', 'copy_file_range', 'fchmod', 'close', 'flock', 'lockf', 'posix_fadvise', 'fsync',
         'fdatasync')


def attach(monkeypatch, disk, unix, unix_kernel, mounted=b''):
    """Put the disk behind the seam: descriptors from BASE up and, if given, paths below `mounted` are its own, all else
    is the kernel's.  disk: a Disk, or a function that gives the one of the moment."""
    current = disk if callable(disk) else lambda: disk

    def route(name, real):
        def call(first, *args, **more):
            ours = first >= BASE if isinstance(first, int) else (
                max(more.get('dir_fd') or 0, more.get('src_dir_fd') or 0) >= BASE
                or mounted and os.fsencode(first).startswith(mounted)
                or name == 'open' and _reopening(first))
            return getattr(current(), name)(first, *args, **more) if ours else real(first, *args, **more)
        return call
    for name in CALLS:
        monkeypatch.setattr(unix, name, route(name, getattr(unix, name)))
    for name in ('syncfs', 'sync_file_range', 'rename_noreplace'):
        monkeypatch.setattr(unix_kernel, name, route(name, getattr(unix_kernel, name)))
    monkeypatch.setattr(unix_kernel, 'fsync_together', lambda fds: unix.fsync_all(fds))     # one by one, each routed


def _reopening(path):
    """Is it a descriptor of ours, opened again through /proc?"""
    path = os.fsencode(path)
    return path.startswith(b'/proc/self/fd/') and path[14:].isdigit() and int(path[14:]) >= BASE
