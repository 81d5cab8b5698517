"""qpy-start, as root and then qpys: starts the chain of control/services and ends with it.

    arguments     [DEFAULTDELIVERY [LOGGER ...]]; without it control/defaultdelivery, else ./Maildir/
    descriptors   1 the log; or LOGGER reads it, which inherits 1 and 2, as qpyl
    signals       TERM and INT end the chain when send has finished what is under way; HUP and ALRM go to send
    environment   NOTIFY_SOCKET: where to say READY=1 when every program has been started (sd_notify(3))
    exit          0 after TERM or INT; 111 when anything is wrong or a program of the chain has ended

In a DIR that does not belong to root everything runs under the account of DIR's owner, and that is said.

Order: strays, umask, keys, directory, accounts, controls, lock, limits, sockets, programs, privileges, readiness, then the first signal.
"""
from qpy import unix, unix_kernel
from qpy.core import services
from qpy.lib import confine, controls, loop, program
from qpy.root import bind, chain, look, notify

HIGHEST_FD = 1 << 20        # the kernel's own limit (fs.nr_open), as long as nobody raises it


def main(home, args):
    """The story: look, bind, start, step down, watch."""
    unix.closerange(3, HIGHEST_FD)          # files and sockets of whoever started us
    unix.umask(0o077)
    confine.seal_keys()
    house = look.house_at(home)
    look.check(house)
    table = services.table(controls.raw(home, services.FILE))
    delivery = args[0] if args else controls.text(home, b'defaultdelivery')
    look.check_delivery(delivery)
    lock = bind.only_one(home)
    supervisor = notify.supervisor()
    look.check_descriptors(unix.raise_descriptor_limit())
    do_not_interrupt()
    unix.chdir(home + b'/run')
    handed = bind.everything(house, table)
    unix.chdir(b'/')
    programs = chain.Chain(house, loop.Loop())
    programs.start_logger(args[1:])
    programs.start(table, handed, delivery)
    step_down(house)
    for what in confine.confine(home, b'start'):
        program.warn(b'this kernel has no %s: programs are confined without it' % what)
    if not programs.ending:
        notify.tell(supervisor, notify.READY)
    code = programs.watch()
    unix.close(lock)
    return code


def do_not_interrupt():
    """Leave the CPU to whoever wakes us until he has finished, and so does all that is started: SCHED_BATCH, see sched(7).  A
    policy that somebody has chosen stays, and so does that of one that may not choose."""
    if unix.sched_getscheduler(0) == unix.SCHED_OTHER:
        try:
            unix.sched_setscheduler(0, unix.SCHED_BATCH, unix.sched_param(0))
        except PermissionError:
            pass


def step_down(house):
    """Be qpys from now on: everything that needed root is done."""
    if house.rootless:
        unix_kernel.no_new_privs()
    else:
        confine.drop(*house.of(b'qpys'))
