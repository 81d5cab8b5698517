"""qpy-mailsubj, as the caller: sends the text on descriptor 0 with a subject.

qpy-mailsubj subject recipient ...      exit codes as of qpy-inject
"""
from qpy.core import exits
from qpy.lib import program
from qpy.user import inject, injection

_ONE_LINE = bytes(32 if c in b'\0\r\n' else c for c in range(256))


def main(home, args):
    injection.settle_descriptors()
    return run(home, args)


def run(home, args):
    if len(args) < 2:
        program.complain(b'usage: qpy-mailsubj subject recipient ...')
        return exits.PERM
    first = b'Subject: %s\nTo: %s\n\n' % (args[0].translate(_ONE_LINE), b', '.join(args[1:]).translate(_ONE_LINE))
    return inject.guarded(lambda: inject.inject_message(home, inject.HEADER, True, None, [], first))
