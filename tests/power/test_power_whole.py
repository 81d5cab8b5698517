"""Power cuts on the whole way of one message: queue, state, clean, Maildir, mbox, bounces, and the recovery.

INV1, INV2, Q-12 to Q-14, Q-22, Q-23, L-19, L-20.  The disk is modelled (tests.power.disk), the modules are the real
ones, and before every change of the disk the power is cut in every way the model allows.
"""
import pytest

from tests.power import explorer, whole
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
    'two at once': ([Message(1, JOE, [b'bob@here.example']), Message(2, JOE, [b'bob@here.example'])], {}),
}
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
            system.submit(Message(message.number, message.sender, message.recipients, long))
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
    explore = explorer.Explorer(seam)
    world = play(seam, scene, kind, own, long, explore)
    assert len(world.acknowledged) >= len(SCENES[scene][0]) and not world.refused
    assert len(explore.seen) > 5
