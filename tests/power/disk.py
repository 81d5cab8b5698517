"""A disk in memory behind the `unix` seam, which forgets what was not synced.

Two models of what a power cut leaves:

    bare      POSIX and nothing more: a file's bytes survive by fsync of that file, a directory entry by fsync of the
              directory; of everything else any part survives, torn or zeroed
    ordered   a journal: directory operations survive in order, up to some point, and any fsync writes the journal;
              bytes as above

One directory, which is all that queued's commit works on.  A failed fsync loses the dirty bytes for good and calls
them clean, as Linux does: a later fsync of the same file succeeds and proves nothing.
"""
import errno
import itertools
import os

DIRECTORY = 1_000_000           # the descriptor of the directory


class Inode:
    """A file: what programs see, what is on disk for sure, and whether dirty bytes were lost."""

    def __init__(self):
        self.seen, self.safe, self.lost = b'', b'', False

    def sync(self):
        """fsync: everything written is on disk, unless an earlier failure has dropped it."""
        if not self.lost:
            self.safe = self.seen

    def outcomes(self):
        """Every content a power cut may leave, by kinds: as synced, cut, zeroed, with a hole."""
        if self.safe == self.seen:
            return [self.seen]
        size, half, early = len(self.seen), len(self.seen) // 2, len(self.seen) // 5
        zeros = b'\0' * size
        return sorted({self.safe, self.seen, zeros, b'', self.seen[:half], self.seen[:-1], self.seen[:half] + zeros[half:],
                       zeros[:half] + self.seen[half:], zeros[:early] + self.seen[early:], self.seen[:-1] + b'\0'})


class Disk:
    """The calls that qpyq.store makes, with a fault to order and a history to cut."""

    def __init__(self, model='bare'):
        self.model = model
        self.names, self.safe_names, self.journal = {}, {}, []      # journal: (name, inode or None) not yet safe
        self.files, self.next = {}, DIRECTORY + 1
        self.calls, self.fault, self.lasting, self.on_call = 0, None, False, None

    # --- faults ---

    def _call(self, what):
        """Every call passes here: call number fault[0] (and all after it, if lasting) fails with errno fault[1], or
        is short ('short')."""
        if self.on_call:
            self.on_call()
        self.calls += 1
        if self.fault and (self.fault[0] == self.calls or self.lasting and self.fault[0] < self.calls):
            if self.fault[1] == 'short':
                return 'short'
            raise OSError(self.fault[1], os.strerror(self.fault[1]), what)
        return None

    # --- calls ---

    def open(self, name, flags, mode=0o777, dir_fd=None):
        """Create a file; nothing else is asked of this disk."""
        assert dir_fd == DIRECTORY and flags & os.O_CREAT and flags & os.O_EXCL and mode == 0o640
        self._call('open')
        if name in self.names:
            raise FileExistsError(errno.EEXIST, 'exists', name)
        inode = Inode()
        self._enter(name, inode)
        self.next += 1
        self.files[self.next] = inode
        return self.next

    def write(self, fd, data):
        """Append."""
        data = bytes(data)
        if self._call('write') == 'short' and len(data) > 1:
            data = data[:len(data) // 2]
        self.files[fd].seen += data
        return len(data)

    def close(self, fd):
        """Linux frees the descriptor also when close fails."""
        inode = self.files.pop(fd)
        assert inode
        self._call('close')

    def fsync(self, fd):
        """Of a file or of the directory."""
        inode = self.files.get(fd)
        try:
            self._call('fsync')
        except OSError:
            if inode:
                inode.lost = True
            raise
        if inode:
            inode.sync()
        if fd == DIRECTORY or self.model == 'ordered':
            self._sync_names()

    def syncfs(self, fd):
        """Everything; an error says that something was lost, and not what."""
        assert fd == DIRECTORY
        try:
            self._call('syncfs')
        except OSError:
            for inode in self._inodes():
                inode.lost = inode.lost or inode.safe != inode.seen
            raise
        for inode in self._inodes():
            inode.sync()
        self._sync_names()

    def sync_file_range(self, fd, offset, length, flags):
        """A wish, no promise."""
        assert fd in self.files
        self._call('sync_file_range')

    def link(self, old, new, src_dir_fd=None, dst_dir_fd=None):
        """A second name."""
        assert src_dir_fd == dst_dir_fd == DIRECTORY
        self._call('link')
        if new in self.names:
            raise FileExistsError(errno.EEXIST, 'exists', new)
        self._enter(new, self.names[old])

    def unlink(self, name, dir_fd=None):
        """Remove a name."""
        assert dir_fd == DIRECTORY
        self._call('unlink')
        if name not in self.names:
            raise FileNotFoundError(errno.ENOENT, 'missing', name)
        self._enter(name, None)

    def _enter(self, name, inode):
        self.journal.append((name, inode))
        if inode is None:
            del self.names[name]
        else:
            self.names[name] = inode

    def _inodes(self):
        return list(self.files.values()) + list(self.names.values())

    def _sync_names(self):
        self.safe_names, self.journal = dict(self.names), []

    # --- power cuts ---

    def directories(self):
        """Every set of entries {name: inode} that a power cut now may leave."""
        if self.model == 'ordered':
            chosen = [self.journal[:n] for n in range(len(self.journal) + 1)]
        else:
            chosen = [[step for step, kept in zip(self.journal, mask, strict=True) if kept]
                      for mask in itertools.product((False, True), repeat=len(self.journal))]
        for steps in chosen:
            names = dict(self.safe_names)
            for name, inode in steps:
                names.pop(name, None) if inode is None else names.__setitem__(name, inode)
            yield names

    def crashes(self, interesting=lambda name: True):
        """Every {name: content} that a power cut now may leave; names that are not interesting keep what is seen."""
        seen = set()
        for names in self.directories():
            order = sorted(names)
            contents = [names[n].outcomes() if interesting(n) else [names[n].seen] for n in order]
            for content in itertools.product(*contents):
                picture = tuple(zip(order, content, strict=True))
                if picture not in seen:
                    seen.add(picture)
                    yield dict(picture)


def attach(monkeypatch, disk, unix, unix_kernel):
    """Put the disk behind the seam."""
    for name in ('open', 'write', 'close', 'fsync', 'link', 'unlink'):
        monkeypatch.setattr(unix, name, getattr(disk, name))
    for name in ('syncfs', 'sync_file_range'):
        monkeypatch.setattr(unix_kernel, name, getattr(disk, name))
