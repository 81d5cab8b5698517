#!/usr/bin/env python3
"""Fuzz one target with atheris:  python tests/fuzz/run.py TARGET [libFuzzer's options]

    python tests/fuzz/run.py smtp_session -max_total_time=600

New inputs are kept in $QPY_FUZZ_CORPUS/TARGET if that is set.  What crashes is written to ./crash-*: put it into
tests/fuzz/corpus/TARGET/ under a name that says what was wrong, where test_fuzz.py tries it for ever.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(os.path.dirname(HERE)))

import atheris      # noqa: E402

with atheris.instrument_imports(include=['qpy']):
    from tests.fuzz import targets


def main(name, *options):
    """Ends as libFuzzer ends: 0 if nothing was found within the limits of options."""
    grown, seeds = os.environ.get('QPY_FUZZ_CORPUS'), os.path.join(HERE, 'corpus', name)
    places = []
    if grown:                           # libFuzzer writes to the first directory: never to the tree's
        places = [os.path.join(grown, name), seeds]
        os.makedirs(places[0], exist_ok=True)
    else:
        options += '-seed_inputs=' + ','.join(os.path.join(seeds, each) for each in sorted(os.listdir(seeds))),
    atheris.Setup([sys.argv[0], '-rss_limit_mb=1024', '-timeout=10', *options, *places], getattr(targets, name))
    atheris.Fuzz()


if __name__ == '__main__':
    main(*sys.argv[1:])
