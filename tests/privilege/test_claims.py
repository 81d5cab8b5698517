"""Every claim about who may do what has its test, by number."""
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
NUMBERS = range(1, 53)


def test_every_claim_is_tested():
    """P01 to P52 stand in the names of tests of this directory."""
    found = set()
    for name in os.listdir(HERE):
        if name.startswith('test_') and name.endswith('.py'):
            with open(os.path.join(HERE, name)) as file:
                for function in re.findall(r'^def (test_\w+)', file.read(), re.M):
                    found |= set(re.findall(r'_P(\d\d)', function))
    assert sorted({'%02d' % number for number in NUMBERS} - found) == []
