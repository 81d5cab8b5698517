"""How a program begins that answers others of the chain, on sockets that qpy-start hands over.

    found = service.begin(b'check', args)           {name of socket: [descriptors]}
    ... read control files, confine ...
    return master.run(found, worker)                or a Loop of its own, with inherit.life
"""
from qpy import unix, unix_kernel
from qpy.core import exits
from qpy.lib import inherit, program

#: what is said to one that is no qpy-send, and what reaches a whole group (^C, a supervisor's TERM), cuts no work
#: short: control files are looked at anyway, and the life pipe ends us, in order
REREAD = (unix.SIGHUP, unix.SIGALRM, unix.SIGPIPE)
CALM = (unix.SIGINT, unix.SIGTERM, *REREAD)


def begin(name, args, sockets=(), mask=0o077):
    """What was handed over to qpy-NAME, `sockets` (default: one of its name) among it.

    qpy-NAME takes no arguments.  Fatal says what is wrong.
    """
    unix_kernel.set_dumpable(0)
    unix.umask(mask)
    if args:
        raise program.Fatal(exits.PERM, b'usage: ' + program.name)
    found = inherit.listeners()
    for each in sockets or (name,):
        if each not in found:
            raise program.Fatal(exits.TEMP, b'no socket called %s was handed over; qpy-start does that' % each)
    calm()
    return found


def calm(numbers=CALM):
    """Ignore what reaches a whole group."""
    for number in numbers:
        unix.signal(number, unix.SIG_IGN)


def calm_server(found):
    """The same for one that anybody may start on a socket: where nobody closes a life pipe, INT and TERM end it."""
    calm(CALM if b'life' in found else REREAD)


def uncalm():
    """In a child that becomes somebody else's program: signals are as it expects them."""
    unix.set_wakeup_fd(-1)
    for number in (*CALM, unix.SIGXFSZ):
        unix.signal(number, unix.SIG_DFL)
