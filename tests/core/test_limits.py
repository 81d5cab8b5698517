"""control/programlimits as limits of the system."""
import pytest

from qpy.core import limits


def test_what_is_not_named_has_its_default():
    """Without a line memory, processes, processor time and descriptors are bounded, and sizes of files are not."""
    assert dict(limits.parse({})) == {'DATA': 2048 << 20, 'NPROC': 1024, 'CPU': 3600, 'NOFILE': 1024}


def test_lines_are_laid_over_the_defaults():
    """A number replaces the default, 0 takes the limit away."""
    assert dict(limits.parse({b'memory': b'64', b'cpu': b'0', b'filesize': b'10'})) == {
        'DATA': 64 << 20, 'NPROC': 1024, 'NOFILE': 1024, 'FSIZE': 10 << 20}


def test_outside_the_namespace_a_users_desktop_counts():
    """Where other processes of the user count there are more of them by default; a line decides everywhere."""
    assert dict(limits.parse({}, True))['NPROC'] == 8192
    assert dict(limits.parse({b'processes': b'50'}, True))['NPROC'] == 50


@pytest.mark.parametrize('words', [{b'memmory': b'1'}, {b'memory': b''}, {b'memory': b'1k'}, {b'cpu': b'-1'},
                                   {b'files': b'9' * 30}])
def test_what_cannot_be_meant_is_refused(words):
    """An unknown word or a value that is no number is a ValueError that names it."""
    with pytest.raises(ValueError) as problem:
        limits.parse(words)
    assert problem.value.args[0] in words
