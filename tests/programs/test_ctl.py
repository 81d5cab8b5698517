"""qpy-ctl and who reads it."""
import contextlib
import os
import sys

import pytest

from tests.programs.test_send_control import Served, deferred, rig  # noqa: F401

ctl = pytest.importorskip('qpy.admin.ctl')
pytest.importorskip('click')


@pytest.mark.parametrize('words', [[b'list'], [b'--json', b'list'], [b'stat']])
def test_a_reader_who_has_enough(rig, words, monkeypatch, capfd):  # noqa: F811
    """`qpy-ctl list | head -1`: exit 0, and not a word."""
    deferred(rig, b'a@x.example')
    read, write = os.pipe()
    os.close(read)
    with Served(rig), contextlib.suppress(BrokenPipeError), open(write, 'w', buffering=1) as nobody:    # it says so at its close
        monkeypatch.setattr(sys, 'stdout', nobody)
        code = ctl.main(rig.home, words)
        monkeypatch.undo()
    assert code == 0
    assert capfd.readouterr() == ('', '')
