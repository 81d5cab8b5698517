"""Every power cut that could happen now, and the recovery after each.

STATES collects what distinct crash states were tried in this run of pytest; the number is said at its end.
"""
import random

from tests.power import whole

STATES = set()
SCENES_TRIED = set()
FIGURES = {'recoveries': 0, 'second cuts': 0, 'faults': 0, 'calls': 0, 'torn in an mbox': 0}


AGAIN = 0.06            # of the points of a recovery, the part at which the power is cut again


class Explorer:
    """Watches a disk; before each change of it, and at the end, cuts the power in every way, and recovers.

    depth: how many times the power is cut again while the programs recover.
    most: of the choices at each point, try so many at random (None: all).  share: of the points, look at this part.
    before(): what is done on the disk before the programs start again.
    known: states that others have recovered from, in the same way, and need not be again; those of this one are added.
    """

    def __init__(self, seam, depth=0, most=None, seed=0, share=1.0, before=None, known=None):
        self.before, self.seam, self.depth, self.most, self.share, self.seen = before, seam, depth, most, share, set()
        self.known = set() if known is None else known
        self.chance, self.failed = random.Random(seed), False

    def watch(self, disk):
        """Look at every change from now on."""
        disk.on_call = self.look

    def pick(self, choices):
        """All, or some."""
        if self.most is None or len(choices) <= self.most:
            return choices
        return self.chance.sample(choices, self.most)

    def look(self):
        """Cut the power now, in every way."""
        seam = self.seam
        if self.failed or self.share < 1 and self.chance.random() > self.share:
            return
        if seam.system is not None:
            seam.system.hear()
        for picture in seam.disk.cuts(pick=self.pick):
            state = picture.key, seam.world.key()
            if state not in self.seen:
                self.seen.add(state)
                STATES.add(picture.key)
                if state in self.known:
                    continue
                try:
                    self.recover(picture)
                except whole.Loss:
                    self.failed = True
                    raise
                except Exception as wrong:          # which those who called the disk might take for its failure
                    self.failed = True
                    raise whole.Loss('the recovery failed') from wrong
                self.known.add(state)

    def recover(self, picture):
        """Start again on what is left; everything that was promised must come true."""
        FIGURES['recoveries'] += 1
        world = self.seam.world.copy()
        world.wall, world.mono = world.wall + 60, 100.0
        with self.seam.on(picture.disk(), world):
            if self.depth:
                deeper = Explorer(self.seam, self.depth - 1, 1, self.chance.random(), AGAIN)
                deeper.watch(self.seam.disk)
            if self.before:
                self.before()
            system = whole.System(self.seam, recovering=True)
            try:
                system.run()
                self.seam.disk.on_call = None
                if self.depth:
                    FIGURES['second cuts'] += len(deeper.seen)
            finally:
                self.seam.disk.on_call = None
                system.stop()
            whole.check(self.seam.disk, world)
            FIGURES['torn in an mbox'] += any(whole.torn_in_mbox(self.seam.disk, world))
