"""qpy-security.7 against the code: the table of what each program takes on itself, and how much code is trusted."""
import os
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import source  # noqa: E402
from qpy.core import manifest  # noqa: E402

with open(os.path.join(source.ROOT, 'man/qpy-security.7')) as page:
    PAGE = page.read()
COUNTS = {name: (int(own), int(all_)) for name, own, all_ in re.findall(r'^\.It qpy-(\w+) Ta (\d+) Ta (\d+)$', PAGE, re.M)}
TRUSTED = {'start', 'listen', 'seed', 'checkpassword', 'popup', 'queued', 'queue', 'clean', 'send', 'bouncer'}


def test_the_page_has_the_manifest():
    """Each line of core.manifest stands in the page, word for word, its files below it, and no other."""
    display = PAGE.partition('.Bd -literal\n')[2].partition('.Ed\n')[0].split('\n')
    found = [[*line.split()[:3], files.strip(), *line.split()[3:]] for line, files in zip(display[0::2], display[1::2])]
    mine = [line.split() for line in manifest.TABLE.decode().split('\n') if line.strip()]
    assert found[1:] == mine


def test_the_page_counts_what_is_trusted():
    """Every program that is root for a moment or can touch queue/mess is counted."""
    assert set(COUNTS) == TRUSTED


def lines(modules):
    """Lines that are not blank."""
    count = 0
    for module in modules:
        with open(source.modules()[module]) as file:
            count += sum(1 for line in file if line.strip())
    return count


@pytest.mark.parametrize('name', sorted(TRUSTED))
def test_what_is_trusted_does_not_grow_unseen(name, record_property):
    """The lines of a program's account, and of all it loads of qpy, are at most what the page says; growth is a change
    of the page."""
    module = source.program_module(source.launchers()['qpy-' + name])
    reached = [found for found in source.reached(module) if found in source.modules()]
    own = lines([found for found in reached if found.split('.')[1:2] == module.split('.')[1:2]])
    record_property('lines of code', 'qpy-%s: %d lines of its account, %d with all it loads (the page: %d, %d)'
                    % (name, own, lines(reached), *COUNTS[name]))
    assert own <= COUNTS[name][0] and lines(reached) <= COUNTS[name][1]
