"""What the workers of qpy-users wait for, on a page of memory that they and their master share.

A home on a file server that is gone holds up who looks at it, for as long as that lasts and whatever is sent to it.  So
a worker writes down where it goes before it goes there.  Another one that is asked for the same place says `temp` at
once; and the master gives a worker up that overstays: it has another one started, and the old one ends by itself when
it comes back.  As long as it does not, its line on the board is the memory of what hangs.

    enter, leave     a write each; a byte for the master every OVERSTAYS seconds at most, who sleeps while nobody looks
"""
from qpy import unix
from qpy.core import getpw
from qpy.lib import master, program

OVERSTAYS = 2.0             # seconds in one place until a worker is given up; below ANSWER of who asks
SOON = 0.5                  # seconds until others do not follow it there
GIVEN_UP = 8                # workers that may wait beside those that serve
NAME = 1022                 # bytes of a place that count
LINE = NAME + 2
CELLS = 4096                # places of which it is known when they answered last


class Hangs(getpw.Trouble):
    """A place does not answer another worker."""


class Board:
    """places: how many workers have a line.  since: when each went where it is, 0.0 while it is nowhere; news: whether the
    master has been told that it goes out; over: whether it is given up; full: whether as many are as may.  who, when: a
    place, by its hash, and when it answered; another one of the same cell takes that."""

    __slots__ = ('since', 'news', 'over', 'full', 'who', 'when', 'lines')

    def __init__(self, memory, places):
        left = memoryview(memory)

        def numbers(count, kind='d'):
            nonlocal left
            mine, left = left[:8 * count].cast(kind), left[8 * count:]
            return mine                         # of which each is read and written in one piece
        self.since, self.news, self.over = (numbers(places) for _ in range(3))
        self.full, self.who, self.when = numbers(1), numbers(CELLS, 'q'), numbers(CELLS)
        self.lines = left

    @staticmethod
    def size(places):
        """Bytes of memory for so many."""
        return places * (3 * 8 + LINE) + 8 + 16 * CELLS

    def write(self, line, place):
        """Say where the worker of a line goes."""
        place = place[:NAME]
        self.lines[line * LINE:line * LINE + 2 + len(place)] = len(place).to_bytes(2, 'big') + place

    def place(self, line):
        """Where it went last."""
        start = line * LINE + 2
        return bytes(self.lines[start:start + min(NAME, int.from_bytes(self.lines[start - 2:start], 'big'))])

    def clear(self, line):
        """For a new worker."""
        self.since[line] = self.news[line] = self.over[line] = 0.0

    def hangs(self, place, now):
        """Whether somebody has been there for too long; once no further worker may be given up, or beside there, unless it
        has answered since."""
        place = place[:NAME]
        for line, since in enumerate(self.since.tolist()):
            if since and now - since >= SOON:
                there = self.place(line)
                if there == place or self.full[0] and beside(there, place) and self.answered(place) <= since:
                    return True
        return False

    def answers(self, place, now):
        """A place has answered."""
        key = hash(place)                       # the same in all workers, who are forked
        cell = key % CELLS
        self.who[cell], self.when[cell] = key, now

    def answered(self, place):
        """When it did so last, 0.0 if that is not known."""
        key = hash(place)
        return self.when[key % CELLS] if self.who[key % CELLS] == key else 0.0


def beside(one, other):
    """Whether two homes lie in one directory."""
    parent = one.rpartition(b'/')[0]
    return bool(parent) and parent == other.rpartition(b'/')[0]


class Line:
    """A worker's own line.  tell: the descriptor by which its master hears that it goes out."""

    __slots__ = ('board', 'number', 'tell')

    def __init__(self, board, number, tell):
        self.board, self.number, self.tell = board, number, tell

    def enter(self, place):
        """Before a place that may hang.  Hangs if it does."""
        board, now = self.board, unix.monotonic()
        if board.hangs(place, now):
            raise Hangs(getpw.QLX_NFS if place[:1] == b'/' else getpw.QLX_SYS, place + b' does not answer')
        board.write(self.number, place)
        board.since[self.number] = now
        if not board.news[self.number]:
            board.news[self.number] = 1.0
            try:
                unix.write(self.tell, b'\0')
            except BlockingIOError:
                pass                            # full: the master is on its way

    def leave(self, place):
        """After it."""
        self.board.since[self.number] = 0.0
        self.board.answers(place[:NAME], unix.monotonic())

    def troubled(self):
        """Whether anybody is given up now."""
        return any(self.board.over)

    def over(self):
        """Whether somebody else has taken our place."""
        return bool(self.board.over[self.number])


class Watching(master.Master):
    """A master who sees to it that `count` workers serve: worker(found, Line)."""

    def __init__(self, found, worker, count):
        super().__init__(found, lambda found: worker(found, Line(self.board, self.next, self.mouth)), count)
        self.all = count + GIVEN_UP
        self.board = Board(unix.shared_memory(Board.size(self.all)), self.all)
        self.lines, self.given_up, self.next, self.timer = {}, set(), 0, None      # {pid: number of its line}
        self.ear, self.mouth = unix.pipe2(unix.O_CLOEXEC | unix.O_NONBLOCK)
        self.loop.watch(self.ear, self.told)

    def start(self):
        """One more worker, with a line of its own."""
        self.next = min(set(range(self.all)).difference(self.lines.values()))
        self.board.clear(self.next)
        pid = super().start()
        if pid:
            self.lines[pid] = self.next
        return pid

    def told(self):
        """A worker goes out."""
        try:
            unix.read(self.ear, 4096)
        except BlockingIOError:
            return
        self.watch(OVERSTAYS)

    def watch(self, seconds):
        """Look at them in so many seconds, if nothing has us look before."""
        if self.timer is None:
            self.timer = self.loop.after(seconds, self.look)

    def look(self):
        """Give up who overstays; look again while somebody is out, or has been lately (news that cross ours are seen then)."""
        self.timer, now, board, waits = None, unix.monotonic(), self.board, []
        for pid, line in list(self.lines.items()):
            since = board.since[line]
            if pid in self.given_up:
                continue
            if since and now - since >= OVERSTAYS:
                self.give_up(pid, line)
            elif since or board.news[line]:
                board.news[line] = 0.0
                waits.append(since + OVERSTAYS - now if since else OVERSTAYS)
        if waits:
            first = min(waits)
            self.watch(first if 0.0 <= first <= OVERSTAYS else OVERSTAYS)       # workers write what they like

    def give_up(self, pid, line):
        """Have another one in the place of this one, if there is room."""
        if len(self.given_up) >= GIVEN_UP:
            return                              # when one of them comes back there is
        place = self.board.place(line)
        if place not in [self.board.place(self.lines[other]) for other in self.given_up]:   # two went there together
            program.warn(place + b' does not answer: what needs it waits, and another worker serves the rest')
        self.given_up.add(pid)
        self.board.over[line] = 1.0
        self.board.full[0] = float(len(self.given_up) >= GIVEN_UP)
        if self.board.full[0]:
            program.warn(b'%d workers wait for such: no more are given up, and what lies beside one of them waits too' % GIVEN_UP)
        self.start()

    def ended(self, age, code, pid=None):
        """A worker ended: one that was given up has been replaced already."""
        line = self.lines.pop(pid, None)
        if pid not in self.given_up:
            return super().ended(age, code, pid)
        self.given_up.discard(pid)
        self.board.full[0] = 0.0
        self.board.clear(line)
        program.warn(self.board.place(line) + b': no worker waits for it any more')
        self.watch(0.0)
