"""A misspelt name in control/ is told, with the one that was meant."""
import os

import pytest

from qpy.core import controls
from qpy.lib import faults


@pytest.mark.parametrize('name', [b'locals~', b'locals.~1~', b'.locals.swp', b'#me#', b'locals.bak', b'me.orig', b'badmailfrom.save'])
def test_copies_are_no_strangers(name):
    """What editors, patch and qpy-import leave beside a file is not taken for a misspelt name; its like of no file of ours is."""
    assert controls.is_copy(name) and controls.strangers([name]) == []
    assert controls.strangers([b'local.bak', b'bak', b'me.txt']) == [(b'bak', b''), (b'local.bak', b''), (b'me.txt', b'')]


@pytest.mark.parametrize('name, meant', [
    (b'rcpthost', b'rcpthosts'), (b'Locals', b'locals'), (b'virtualdomain', b'virtualdomains'),
    (b'concurrencyremot', b'concurrencyremote'), (b'simcontrol', b''), (b'badrctpto', b'badrcptto'),
    (b'validrcpto', b'validrcptto'), (b'rcpthosts.txt', b'')])
def test_nearest(name, meant):
    """The nearest known name, if one is near; otherwise none is guessed."""
    assert controls.strangers([name, b'me']) == [(name, meant)]


def test_names_that_nobody_reads(tmp_path):
    """qpy-start goes on, and which file nobody reads is said."""
    (tmp_path / 'control').mkdir(mode=0o755)
    (tmp_path / 'control/me').write_text('me.test\n')
    (tmp_path / 'control/rcpthost').write_text('me.test\n')
    for name in ('locals~', '.locals.swp', '#me#', 'morercpthosts.cdb.tmp', 'me.bak', 'rcpthosts.orig', 'me.save', 'me.old'):
        (tmp_path / 'control' / name).write_text('')
    (tmp_path / 'control/bad\nname').write_text('')
    assert [(fault.text, fault.grave) for fault in faults.of_controls(os.fsencode(tmp_path), {})] == [
        (b'control/bad\\x0aname: no program reads a file of this name', False),
        (b'control/rcpthost: no program reads a file of this name; did you mean rcpthosts?', False)]
