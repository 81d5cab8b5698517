"""A disk that remembers every block written to it and every flush, and gives back what a power cut would have left.

A loop device over the one file of a FUSE file system, which a child of ours speaks on /dev/fuse.  What the file system
on the loop device writes arrives here as WRITE and FSYNC, in the order in which a disk would see it.

    with Recorder(path of an image) as disk:        the image holds a file system; it is not changed
        disk.device                                  to be mounted
        position = disk.position()                   now, in the history
    history = disk.history                           [(WRITE, offset, bytes) | (FLUSH,)] with positions, after the end

Root only.
"""
import bisect
import ctypes
import os
import random
import struct
import subprocess
import tempfile

HEADER, REPLY = struct.Struct('<IIQQIIII'), struct.Struct('<IiQ')
ATTRIBUTES = struct.Struct('<QQQQQQIIIIIIIIII')
BUFFER = 1 << 21
FILE_ID = 2
WRITE, FLUSH = b'W', b'F'
RECORD = struct.Struct('<cQI')
BLOCK = 4096
SUPERBLOCK = 65536          # where btrfs has its own, and takes for granted that it is written whole: torn, it mounts no more
MS_NOSUID, MS_NODEV, MNT_DETACH = 2, 4, 2

libc = ctypes.CDLL(None, use_errno=True)


def attributes(node, size):
    """fuse_attr of the directory (1) or the file."""
    mode = 0o40755 if node == 1 else 0o100600
    return ATTRIBUTES.pack(node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, BLOCK, 0)


class Server:
    """The child: answers the kernel until the file system is unmounted."""

    def __init__(self, fuse, image, log):
        self.fuse, self.image, self.log = fuse, image, log
        self.size = os.fstat(image).st_size
        self.does = {1: self.lookup, 3: self.getattr, 4: self.getattr, 14: self.open, 15: self.read, 16: self.write,
                     17: self.statfs, 18: self.nothing, 20: self.fsync, 25: self.nothing, 26: self.init, 27: self.open,
                     28: self.nothing, 29: self.nothing, 34: self.nothing}

    def run(self):
        """Serve."""
        while True:
            try:
                request = os.read(self.fuse, BUFFER)
            except OSError as problem:
                if problem.errno == 19:             # ENODEV: unmounted
                    return
                continue
            _, opcode, unique, node, *_ = HEADER.unpack_from(request)
            if opcode in (2, 42, 36):               # FORGET, BATCH_FORGET, INTERRUPT want no answer
                continue
            does = self.does.get(opcode)
            body = does(node, request[HEADER.size:]) if does else 38        # ENOSYS
            error, data = (-body, b'') if isinstance(body, int) else (0, body)
            os.write(self.fuse, REPLY.pack(REPLY.size + len(data), error, unique) + data)

    def nothing(self, node, request):
        """Fine."""
        return b''

    def init(self, node, request):
        """FUSE 7.31, writes of up to 256 pages."""
        return struct.pack('<IIIIHHIIHHI28x', 7, 31, 131072, 1 << 5 | 1 << 22, 16, 12, 1 << 20, 1, 256, 0, 0)

    def lookup(self, node, request):
        """There is one file."""
        if request.rstrip(b'\0') != b'disk':
            return 2
        return struct.pack('<QQQQII', FILE_ID, 0, 3600, 3600, 0, 0) + attributes(FILE_ID, self.size)

    def getattr(self, node, request):
        """Of either."""
        return struct.pack('<QII', 3600, 0, 0) + attributes(node, self.size)

    def open(self, node, request):
        """Any handle."""
        return struct.pack('<QII', 1, 0, 0)

    def statfs(self, node, request):
        """Nobody looks at it."""
        return struct.pack('<QQQQQIIII24x', 1 << 20, 1 << 20, 1 << 20, 10, 10, BLOCK, 255, BLOCK, 0)

    def read(self, node, request):
        """From the image."""
        _, offset, size = struct.unpack_from('<QQI', request)
        return os.pread(self.image, min(size, self.size - offset), offset)

    def write(self, node, request):
        """Into the image, and into the history."""
        _, offset, size = struct.unpack_from('<QQI', request)
        data = request[40:40 + size]
        os.pwrite(self.image, data, offset)
        os.write(self.log, RECORD.pack(WRITE, offset, size) + data)
        return struct.pack('<II', size, 0)

    def fsync(self, node, request):
        """What was written before is safe from here on."""
        os.write(self.log, RECORD.pack(FLUSH, 0, 0))
        return b''


def mount(directory, image, log, server=Server):
    """Mount a file system there whose file `disk` is the image; the pid of the child that serves it."""
    fuse = os.open('/dev/fuse', os.O_RDWR)
    options = b'fd=%d,rootmode=40000,user_id=0,group_id=0' % fuse
    if libc.mount(b'qpy', directory.encode(), b'fuse', MS_NOSUID | MS_NODEV, options):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), '/dev/fuse')
    pid = os.fork()
    if pid == 0:
        try:
            server(fuse, os.open(image, os.O_RDWR), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)).run()
        finally:
            os._exit(0)
    os.close(fuse)
    return pid


def unmount(directory, pid):
    """The end of both."""
    libc.umount2(directory.encode(), MNT_DETACH)
    os.waitpid(pid, 0)


class Recorder:
    """See the module."""

    def __init__(self, base):
        self.base = base

    def __enter__(self):
        self.top = tempfile.mkdtemp(prefix='qpy-fuse-', dir=os.path.dirname(self.base))
        self.image, self.log = self.top + '/image', self.top + '/log'
        subprocess.run(['cp', '--sparse=always', self.base, self.image], check=True)
        os.mkdir(self.top + '/fuse')
        self.pid = mount(self.top + '/fuse', self.image, self.log)
        self.device = subprocess.run(['losetup', '-f', '--show', self.top + '/fuse/disk'], check=True,
                                     capture_output=True, text=True).stdout.strip()
        return self

    def position(self):
        """How far the history has come."""
        return os.path.getsize(self.log)

    def __exit__(self, *_):
        subprocess.run(['losetup', '-d', self.device], check=False)
        unmount(self.top + '/fuse', self.pid)
        self.history = list(read_history(self.log))
        subprocess.run(['rm', '-rf', self.top], check=False)


def read_history(path):
    """[(position after it, kind, offset, data)]."""
    with open(path, 'rb') as file:
        while head := file.read(RECORD.size):
            kind, offset, size = RECORD.unpack(head)
            data = file.read(size)
            yield file.tell(), kind, offset, data


class Cut:
    """One state of the disk: everything up to `safe` records, and of those up to `end` the chosen blocks.

    position: acknowledgements given up to here must hold."""

    def __init__(self, position, safe, blocks):
        self.position, self.safe, self.blocks = position, safe, blocks


def cuts(history, start, wanted, seed=1):
    """About `wanted` Cuts after position start, in order: half of them prefixes (also in the middle of the writes
    between two flushes), half with any subset of the blocks that were not flushed."""
    chance = random.Random(seed)
    points = [i for i, record in enumerate(history) if record[0] > start and record[1] == WRITE]
    if not points:
        return []
    chosen = sorted(chance.sample(points, min(len(points), wanted)))
    return [cut_at(history, i, chance, n % 2 == 1) for n, i in enumerate(chosen)]


def cuts_at(history, positions, seed=1):
    """The Cut at each of these positions, with any subset of what was not flushed by then."""
    chance, places = random.Random(seed), [record[0] for record in history]
    return [cut_at(history, bisect.bisect_right(places, position) - 1, chance, True) for position in positions]


def cut_at(history, i, chance, subset):
    """The Cut just after record i."""
    safe = i if history[i][1] == WRITE else i + 1
    while safe > 0 and history[safe - 1][1] != FLUSH:
        safe -= 1
    blocks = []
    for record in history[safe:i + 1]:
        for at in range(0, len(record[3]), BLOCK):
            blocks.append((record[2] + at, record[3][at:at + BLOCK]))
    if subset:
        keep = chance.random()
        blocks = [block for block in blocks if chance.random() < keep]
        if blocks and chance.random() < 0.5 and blocks[-1][0] != SUPERBLOCK:        # the last of them is torn
            offset, data = blocks[-1]
            blocks[-1] = offset, data[:512 * chance.randrange(1, 8)]
    return Cut(history[i][0], safe, blocks)


class Replay:
    """Images of one history's Cuts, asked for in order."""

    def __init__(self, base, history):
        self.history, self.done, self.asked = history, 0, 0
        self.base, self.work, self.state = base, base + '.work', None
        subprocess.run(['cp', '--sparse=always', base, self.work], check=True)

    def image(self, cut):
        """The path of an image in this state; it may be written to.

        Another file each time: mount(8) takes the loop device that has the file already, and while anybody else has that
        open (losetup and mount look at all there are) the kernel keeps what it has read of the picture before."""
        with open(self.work, 'r+b') as file:
            for record in self.history[self.done:cut.safe]:
                if record[1] == WRITE:
                    os.pwrite(file.fileno(), record[3], record[2])
        self.done = cut.safe
        self.forget()
        self.asked += 1
        self.state = '%s.state%d' % (self.base, self.asked)
        subprocess.run(['cp', '--sparse=always', self.work, self.state], check=True)
        with open(self.state, 'r+b') as file:
            for offset, data in cut.blocks:
                os.pwrite(file.fileno(), data, offset)
        return self.state

    def forget(self):
        """Remove the image asked for last."""
        if self.state:
            os.unlink(self.state)
            self.state = None

    def close(self):
        """Remove them."""
        self.forget()
        os.unlink(self.work)
