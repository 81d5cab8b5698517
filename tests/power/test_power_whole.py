"""Power cuts on the whole way of one message: queue, state, clean, Maildir, mbox, bounces, and the recovery.

INV1, INV2, Q-12 to Q-14, Q-22, Q-23, L-19, L-20.  The disk is modelled (tests.power.disk), the modules are the real
ones, and before every change of the disk the power is cut in every way the model allows.
"""
import pytest

from qpy.admin import fsck
from qpy.core import dispatch, state, submit as words
from qpy.lib import submit
from qpy.qpyq import store as queue_store
from qpy.qpys import bouncer, send, store
from qpy.user import mailbox
from tests.power import disk, explorer, whole
from tests.power.whole import Message, World

JOE, NOBODY_KNOWS = b'joe@here.example', b'never@sender.example'
SCENES = {
    'Maildir': ([Message(1, JOE, [b'bob@here.example'])], {}),
    'first Maildir': ([Message(1, JOE, [b'ann@here.example'])], {}),
    'mbox': ([Message(1, JOE, [b'box@here.example'])], {}),
    'Maildir and mbox': ([Message(1, JOE, [b'two@here.example'])], {}),
    'another host': ([Message(1, JOE, [b'fine@x.example'])], {}),
    'forward': ([Message(1, JOE, [b'fwd@here.example'])], {}),
    'deferred': ([Message(1, JOE, [b'later@z.example'])], {b'later@z.example': b'ZZ'}),
    'partly': ([Message(1, JOE, [b'bob@here.example', b'later@z.example', b'never@y.example'])], {b'later@z.example': b'Z'}),
    'bounced': ([Message(1, JOE, [b'never@y.example'])], {}),
    'no such user': ([Message(1, JOE, [b'nobody@here.example'])], {}),
    'double bounce': ([Message(1, NOBODY_KNOWS, [b'never@y.example'])], {}),
    'expired': ([Message(1, JOE, [b'late@z.example'])], {b'late@z.example': b'Z' * 200}),
    'success to be told': ([Message(1, JOE, [b'bob@here.example', b'fine@x.example'], notify=b'SUCCESS')], {}),
    'two at once': ([Message(1, JOE, [b'bob@here.example']), Message(2, JOE, [b'bob@here.example'])], {}),
}
KNOWN = {}                  # {(scene, own, long): states}: what a recovery finds is the same on either model of a disk
MODELS = [('bare', False), ('bare', True), ('ordered', False), ('ordered', True)]


def play(seam, scene, kind, own, long=False, explore=None):
    """One scene from submission to the empty queue, watched by an Explorer; the World."""
    messages, verdicts = SCENES[scene]
    world = World(dict(verdicts))
    with seam.on(whole.fresh_disk(kind, own), world):
        system = whole.System(seam)
        system.pump()
        if explore:
            explore.watch(seam.disk)
        for message in messages:
            system.submit(Message(message.number, message.sender, message.recipients, long, message.notify))
        system.run()
        if explore:
            explore.look()
        seam.disk.on_call = None
        system.stop()
        whole.check(seam.disk, world)
    return world


@pytest.mark.parametrize('scene', SCENES)
@pytest.mark.parametrize('long', [False, True], ids=['short', 'long'])
@pytest.mark.parametrize('kind, own', MODELS)
def test_no_power_cut_loses_mail(monkeypatch, kind, own, long, scene):
    """INV1, INV2: whatever a power cut leaves, before each change of the disk: the programs start again, and every
    acknowledged recipient is served or bounced, and no torn file stands in a Maildir."""
    seam = whole.install(monkeypatch, long)
    explore = explorer.Explorer(seam, most=10 if long and scene == 'double bounce' else None,
                                known=KNOWN.setdefault((scene, own, long), set()))
    world = play(seam, scene, kind, own, long, explore)
    assert len(world.acknowledged) >= len(SCENES[scene][0]) and not world.refused
    assert len(explore.seen) > 5
    explorer.SCENES_TRIED.add((kind, own, long, scene))


def test_what_a_cut_leaves_in_an_mbox(monkeypatch):
    """qpy-local(8): the beginning of a message that was not reported as delivered may stand there as one of its own; the
    whole one comes behind it."""
    seam, left = whole.install(monkeypatch, True), []
    real = whole.check

    def check(there, world):
        real(there, world)
        box = there.tree(b'/disk/home').get(b'box/Mailbox', b'')
        for piece in whole.torn_in_mbox(there, world):
            left.append(piece)
            assert piece != whole.pieces_of_mbox(box)[-1]
    monkeypatch.setattr(whole, 'check', check)
    play(seam, 'mbox', 'ordered', False, True, explorer.Explorer(seam))
    assert any(b'\0' not in piece for piece in left)


@pytest.mark.parametrize('kind, own', MODELS)
@pytest.mark.parametrize('scene', ['deferred', 'partly'])
def test_states_written_anew(monkeypatch, kind, own, scene):
    """The same where each state is written anew whenever it is read."""
    monkeypatch.setattr(store, 'WORDY', 0)
    monkeypatch.setattr(store, 'WASTE', 0)
    seam = whole.install(monkeypatch)
    explore, anew, real = explorer.Explorer(seam), [], disk.Disk.rename

    def rename(self, old, *more, **where):
        anew.append(old)
        return real(self, old, *more, **where)
    monkeypatch.setattr(disk.Disk, 'rename', rename)
    play(seam, scene, kind, own, explore=explore)
    assert store.SHORTER in anew


@pytest.mark.parametrize('kind, own', MODELS)
@pytest.mark.parametrize('scene', ['partly', 'double bounce', 'two at once'])
def test_a_second_cut_during_recovery(monkeypatch, kind, own, scene):
    """Q-14: the power goes again, at any change of the disk that the recovery makes, and once more in the recovery
    after that: of the outcomes of each, some are chosen."""
    seam = whole.install(monkeypatch)
    explore = explorer.Explorer(seam, depth=2, most=2)
    play(seam, scene, kind, own, explore=explore)
    assert len(explore.seen) > 5


@pytest.mark.parametrize('kind', ['bare', 'ordered'])
@pytest.mark.parametrize('scene', ['first Maildir', 'partly', 'bounced', 'two at once'])
def test_fsck_between_the_cut_and_the_start(monkeypatch, kind, scene):
    """qpy-fsck --set-aside on whatever a power cut leaves changes no promise: it sets aside nothing that was
    acknowledged, removes nothing, and needs no second run."""
    seam = whole.install(monkeypatch)
    monkeypatch.setattr(fsck, 'say', lambda line: None)

    def check():
        queue = whole.HOME + b'/queue'
        before = sorted(seam.disk.tree(queue).values())
        fsck.main(whole.HOME, [b'--set-aside'])
        after = seam.disk.tree(queue)
        assert sorted(after.values()) == before
        fsck.main(whole.HOME, [b'--set-aside'])
        assert seam.disk.tree(queue) == after
        seam.disk.files.clear()
    play(seam, scene, kind, False, explore=explorer.Explorer(seam, before=check))


# --- standing controls: the rig must see what it is there to see ---

def loses(monkeypatch, scene, own=False, kind='bare', how='neither delivered nor bounced'):
    """Without a power cut all is well; with one the rig must report a loss in this scene."""
    seam = whole.install(monkeypatch)
    play(seam, scene, kind, own)
    with pytest.raises(whole.Loss, match=how):
        play(seam, scene, kind, own, explore=explorer.Explorer(seam))


@pytest.mark.parametrize('kind, own', [('bare', False), ('bare', True), ('ordered', True)])
def test_control_no_directory_sync(monkeypatch, kind, own):
    """Wrong order 1: queued answers when the files are synced, and their names are not.  (With a journal fsync of a
    file that was named before happens to do: that is not promised by anybody, but it is so, and so not seen.)"""
    fsync = queue_store.Store._fsync
    monkeypatch.setattr(queue_store.Store, '_fsync', lambda self, fds: fsync(self, fds[:-1]) + [None])
    monkeypatch.setattr(queue_store.Store, '_syncfs', lambda self: None)
    loses(monkeypatch, 'two at once' if own else 'Maildir', own, kind)


@pytest.mark.parametrize('scene', ['Maildir', 'first Maildir', 'Maildir and mbox'])
@pytest.mark.parametrize('kind', ['bare', 'ordered'])
def test_control_name_before_data(monkeypatch, kind, scene):
    """Wrong order 2: the name in a Maildir appears before the bytes are on disk.  Torn mail is read, though none is
    lost."""
    def commit(batch):
        batch.each(mailbox.Drop.appear)
        batch.sync_bytes()
        batch.sync_names()
        return batch.failed
    monkeypatch.setattr(mailbox.Batch, 'commit', commit)
    loses(monkeypatch, scene, kind=kind, how='is torn')


@pytest.mark.parametrize('kind, own', MODELS)
def test_control_done_before_bounce(monkeypatch, kind, own):
    """Wrong order 3: the message is removed first, and its bounce put into the queue after that."""
    def bounce(self, job, failed, kind):
        message = self.store.load(job.name, False)
        self.store.append(job.name, [(b'r', b'%d' % index) for index in failed])

        def removed(done):
            assert done
            self.store.drop(job.name)
            submit_late(self, message, job)
            self.dispatch.bounced(job.id, True)
        self.clean.ask(b'r', job.name, removed)
    monkeypatch.setattr(send.Send, 'bounce', bounce)
    loses(monkeypatch, 'bounced', own, kind)


def submit_late(there, message, job):
    """What the bouncer would have put into the queue."""
    text = b'Hi. This is the qmail-send program\n<%s>:\n%s' % (message.envelope.recipients[0], message.message)
    connection = submit.Connection(there.loop, submit.connect(whole.HOME))
    connection.message(text, words.envelope(b'', [job.sender]), lambda code, said: None)


@pytest.mark.parametrize('scene', ['Maildir', 'first Maildir', 'Maildir and mbox'])
def test_control_new_not_synced(monkeypatch, scene):
    """A Maildir delivery that is reported before its new/ is synced loses mail."""
    monkeypatch.setattr(mailbox.Batch, 'sync_names', lambda batch: None)
    loses(monkeypatch, scene)


def test_control_mbox_name_not_synced(monkeypatch):
    """The first message of an mbox is lost if nobody syncs the name of the file (this was so once)."""
    monkeypatch.setattr(mailbox, 'sync_name', lambda home_fd, path: None)
    loses(monkeypatch, 'mbox')


@pytest.mark.parametrize('scene, how', [('partly', 'neither delivered nor bounced'), ('success to be told', 'is not')])
def test_control_a_marked_recipient_without_a_report(monkeypatch, scene, how):
    """Q-22: if a recipient is marked as reported before the report is durable, the rig reports a loss."""
    order = dispatch.Dispatch._bounce

    def bounce(self, job):
        job.entries += [(b'r', b'%d' % index) for index in job.failed + job.succeeded]
        self._then(job, lambda job: order(self, job))
    monkeypatch.setattr(dispatch.Dispatch, '_bounce', bounce)
    monkeypatch.setattr(bouncer.Bouncer, 'outcomes', lenient(bouncer.Bouncer.outcomes))
    loses(monkeypatch, scene, how=how)


def lenient(real):
    """The bouncer's look at the state, which also takes what is marked as reported."""
    def outcomes(self, message, view, indices, routes, kind):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(bouncer.STATUS, kind, state.REPORTED if kind == b'bounce' else state.DELIVERED)
            return real(self, message, view, indices, routes, kind)
    return outcomes


def test_enough_states():
    """At least 10,000 distinct crash states, if all of this file ran."""
    if len(explorer.SCENES_TRIED) < len(SCENES) * 2 * len(MODELS):
        pytest.skip('only a part of the scenes ran')
    assert len(explorer.STATES) >= 10_000
