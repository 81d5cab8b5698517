"""Whom DIR belongs to, and the refusal to start in it; what is looked at stands in qpy.lib.faults."""
from qpy import unix
from qpy.core import controls as tables, exits
from qpy.lib import faults, owner, program

LEAST_DESCRIPTORS = 1024


def refuse(wrong, text):
    """End with 111 and this line if something is wrong."""
    if wrong:
        raise program.Fatal(exits.TEMP, text)


def check_descriptors(most):
    """Refuse a limit that the programs of the chain cannot work under."""
    refuse(most < LEAST_DESCRIPTORS, b'unable to start: at most %d descriptors may be open (RLIMIT_NOFILE, hard); '
           b'%d are the least: raise ulimit -Hn, LimitNOFILE= or --ulimit nofile=' % (most, LEAST_DESCRIPTORS))


def house_at(home):
    """The House at home, with its accounts; becomes DIR's owner if that is not root."""
    refuse(home[:1] != b'/', b'the directory must be given with its full path: ' + home)
    try:
        there = unix.stat(home)
    except OSError as problem:
        raise program.Fatal(exits.TEMP, b'unable to start in %s: %s; run qpy-install %s'
                            % (home, program.reason(problem), home)) from None
    if there.st_uid == 0:
        refuse(unix.geteuid() != 0, b'%s belongs to root: start it as root, or use a directory of your own' % home)
        return faults.rooted(home)
    become_owner(home)
    return faults.rootless(home, (unix.geteuid(), unix.getegid()))


def become_owner(home):
    """In a rootless DIR: be its owner, and say so."""
    uid = owner.become(home)
    refuse(unix.geteuid() != uid, b'%s belongs to uid %d and you are uid %d' % (home, uid, unix.geteuid()))
    program.complain(b'rootless: everything runs under uid %d, mail for other users waits' % uid)


def check(house):
    """Refuse a DIR with anything wrong that no chain may start with; the rest is warned of."""
    for fault in faults.everything(house, unix.fsencode(__file__).rsplit(b'/', 2)[0]):
        refuse(fault.grave, b'unable to start: ' + fault.text)
        program.warn(fault.text)


def check_delivery(words):
    """Refuse an instruction that would be taken for something else than it looks like."""
    try:
        tables.check_delivery(words, b'defaultdelivery')
    except tables.ControlError as wrong:
        raise program.Fatal(exits.TEMP, b'unable to deliver by "%s": %s' % (tables.show(wrong.value), wrong.remedy)) \
            from None
