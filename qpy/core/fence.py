"""What a confined program may ask of the kernel, as a seccomp filter: made here, installed by lib.confine.

Pure.  The filter refuses (EPERM) what the table below names; a call newer than this file does not exist (ENOSYS, and
libc goes the older way).  What is not refused here is refused by owners and modes, the namespace, or Landlock.

    (name, number on x86_64, number on aarch64); -1: there is none
"""
from qpy.core.seccomp import (ALLOW, ANY_BIT, ARCHITECTURE, ENOSYS, EPERM, EQUAL, GREATER_EQUAL, JUMP, KILL, LOAD,
                              MACHINES, NUMBER, RETURN, X32, argument, packed)

# starting another program
EXEC = (('execve', 59, 221), ('execveat', 322, 281))
# signals to others (tgkill: also to itself)
SIGNAL = (('kill', 62, 129), ('tkill', 200, 130), ('tgkill', 234, 131), ('rt_sigqueueinfo', 129, 138),
          ('rt_tgsigqueueinfo', 297, 240), ('pidfd_send_signal', 424, 424))
# what a file is like, device files
ATTRIBUTES = (('chmod', 90, -1), ('fchmodat', 268, 53), ('chown', 92, -1), ('fchown', 93, 55),
              ('lchown', 94, -1), ('fchownat', 260, 54), ('utime', 132, -1), ('utimes', 235, -1),
              ('utimensat', 280, 88), ('futimesat', 261, -1), ('setxattr', 188, 5), ('lsetxattr', 189, 6),
              ('fsetxattr', 190, 7), ('removexattr', 197, 14), ('lremovexattr', 198, 15),
              ('fremovexattr', 199, 16), ('mknod', 133, -1), ('mknodat', 259, 33))
# the mode of an open file
MODE = (('fchmod', 91, 52),)
# another uid, gid, or set of capabilities
IDENTITY = (('setuid', 105, 146), ('setgid', 106, 144), ('setreuid', 113, 145), ('setregid', 114, 143),
            ('setresuid', 117, 147), ('setresgid', 119, 149), ('setgroups', 116, 159),
            ('setfsuid', 122, 151), ('setfsgid', 123, 152), ('capset', 126, 91))
# what only a start-up does; who connects to names in the current directory stays there
BIND, LISTEN = (('bind', 49, 200),), (('listen', 50, 201),)
CHDIR = (('chdir', 80, 49), ('fchdir', 81, 50))
# files in memory, which Landlock does not see: what is written there could be executed
MEMORY = (('memfd_create', 319, 279),)
# other processes: their memory, descriptors, order, and ways of talking that nobody sees
OTHERS = (('ptrace', 101, 117), ('process_vm_readv', 310, 270), ('process_vm_writev', 311, 271),
          ('pidfd_getfd', 438, 438), ('kcmp', 312, 272), ('process_madvise', 440, 440),
          ('migrate_pages', 256, 238), ('move_pages', 279, 239), ('setpriority', 141, 140),
          ('sched_setscheduler', 144, 119), ('sched_setparam', 142, 118), ('sched_setattr', 314, 274),
          ('sched_setaffinity', 203, 122), ('ioprio_set', 251, 30), ('shmget', 29, 194),
          ('shmat', 30, 196), ('shmctl', 31, 195), ('semget', 64, 190), ('semop', 65, 193),
          ('semctl', 66, 191), ('semtimedop', 220, 192), ('msgget', 68, 186), ('msgsnd', 69, 189),
          ('msgrcv', 70, 188), ('msgctl', 71, 187), ('mq_open', 240, 180), ('mq_unlink', 241, 181),
          ('keyctl', 250, 219), ('add_key', 248, 217), ('request_key', 249, 218))
# the system itself
KERNEL = (('mount', 165, 40), ('umount2', 166, 39), ('pivot_root', 155, 41), ('chroot', 161, 51),
          ('move_mount', 429, 429), ('fsopen', 430, 430), ('fsconfig', 431, 431), ('fsmount', 432, 432),
          ('fspick', 433, 433), ('open_tree', 428, 428), ('mount_setattr', 442, 442), ('swapon', 167, 224),
          ('swapoff', 168, 225), ('quotactl', 179, 60), ('quotactl_fd', 443, 443),
          ('open_by_handle_at', 304, 265), ('setns', 308, 268), ('bpf', 321, 280),
          ('perf_event_open', 298, 241), ('userfaultfd', 323, 282), ('io_uring_setup', 425, 425),
          ('io_uring_enter', 426, 426), ('io_uring_register', 427, 427), ('init_module', 175, 105),
          ('finit_module', 313, 273), ('delete_module', 176, 106), ('kexec_load', 246, 104),
          ('kexec_file_load', 320, 294), ('reboot', 169, 142), ('syslog', 103, 116), ('acct', 163, 89),
          ('iopl', 172, -1), ('ioperm', 173, -1), ('modify_ldt', 154, -1), ('settimeofday', 164, 170),
          ('clock_settime', 227, 112), ('clock_adjtime', 305, 266), ('adjtimex', 159, 171),
          ('sethostname', 170, 161), ('setdomainname', 171, 162), ('personality', 135, 92),
          ('fanotify_init', 300, 262), ('vhangup', 153, 58), ('nfsservctl', 180, 42),
          ('memfd_secret', 447, 447), ('lookup_dcookie', 212, 18), ('uselib', 134, -1))
# calls whose arguments decide
PARTLY = (('clone', 56, 220), ('clone3', 435, 435), ('fork', 57, -1), ('vfork', 58, -1),
          ('unshare', 272, 97), ('socket', 41, 198), ('socketpair', 53, 199), ('connect', 42, 203),
          ('sendto', 44, 206), ('sendmsg', 46, 211), ('sendmmsg', 307, 269), ('mmap', 9, 222),
          ('mprotect', 10, 226), ('pkey_mprotect', 329, 288), ('prlimit64', 302, 261), ('fcntl', 72, 25),
          ('ioctl', 16, 29))

COLUMN = {'x86_64': 1, 'aarch64': 2}
NEWER = 452                 # fchmodat2 and whatever came later: numbers that all machines share

AF_UNIX, AF_INET, AF_NETLINK, AF_INET6 = 1, 2, 16, 10
STREAM, DATAGRAM, KIND = 1, 2, 0xf
INTERNET = AF_INET, AF_INET6
FAMILIES = {b'unix': (AF_UNIX,), b'tcp': INTERNET, b'udp': INTERNET, b'from': INTERNET}
PROTOCOLS = (0, 6, 17)      # none, TCP, UDP: no MPTCP, SCTP, raw
FASTOPEN = 0x20000000       # MSG_FASTOPEN: connects while it sends
SHORT = 15                  # bytes of an address: a name in the current directory fits, an IP address does not
WRITE_EXECUTE, EXECUTE = 6, 4
OWNERS = 8, 10, 15          # F_SETOWN, F_SETSIG, F_SETOWN_EX
OWNERS_BY_IOCTL = 0x8901, 0x8902    # FIOSETOWN, SIOCSPGRP
THREAD, NAMESPACES = 0x10000, 0x7e020080    # CLONE_THREAD; all of CLONE_NEW*


def fence(row, machine):
    """The filter of one manifest.Row.  ValueError for a machine that is not in the table."""
    if machine not in COLUMN:
        raise ValueError(machine)
    call = Calls(COLUMN[machine])
    arch = MACHINES[machine][0]
    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, arch), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if machine == 'x86_64':
        steps += [(GREATER_EQUAL, 0, 1, X32), (RETURN, 0, 0, KILL)]
    if row.children == b'programs':
        steps += call.none(OTHERS[:5] + KERNEL) + call.new_processes(b'programs')
        return packed(steps + [(RETURN, 0, 0, ALLOW)])
    steps += call.sending(row.connects) + call.memory() + call.sockets(row.sockets) + call.connecting(row.connects)
    steps += call.new_processes(row.children) + call.own_limits_only() + call.no_owners()
    refused = EXEC + ATTRIBUTES + IDENTITY + OTHERS + KERNEL
    if row.children != b'workers':
        refused += LISTEN if b'from' in row.sockets else BIND + LISTEN
    refused += () if row.signals else SIGNAL
    refused += () if row.modes else MODE + MEMORY            # send, whose copies of messages nobody may write to
    refused += CHDIR if row.connects == b'run' or row.children in (b'none', b'threads') else ()
    steps += call.none(refused) + [(GREATER_EQUAL, 0, 1, NEWER), (RETURN, 0, 0, ENOSYS), (RETURN, 0, 0, ALLOW)]
    return packed(steps)


class Calls:
    """Pieces of a filter for one machine.  Each begins and ends with the call's number loaded."""

    __slots__ = ('column', 'partly')

    def __init__(self, column):
        self.column = column
        self.partly = {row[0]: row[column] for row in PARTLY}

    def on(self, name, steps):
        """Take these steps, which end in a return, for this call."""
        number = self.partly[name]
        return [] if number < 0 else [(EQUAL, 0, len(steps), number), *steps]

    def none(self, calls):
        """Refuse these calls: each jumps to the one return behind them, which the others jump over."""
        numbers = sorted(row[self.column] for row in calls if row[self.column] >= 0)
        steps = [(EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
        return steps + [(JUMP, 0, 0, 1), (RETURN, 0, 0, EPERM)]

    def sending(self, connects):
        """No MSG_FASTOPEN; and no address longer than a connection may have."""
        steps = []
        for name, flags in (('sendmsg', 2), ('sendmmsg', 3)):
            steps += self.on(name, without(flags, FASTOPEN))
        extra = [] if connects == b'any' else [(LOAD, 0, 0, argument(5)), (GREATER_EQUAL, 0, 1, SHORT + 1),
                                               (RETURN, 0, 0, EPERM)]
        return steps + self.on('sendto', extra + without(3, FASTOPEN))

    def memory(self):
        """Nothing that is written is executed."""
        steps = self.on('mmap', [(LOAD, 0, 0, argument(2)), (AND, 0, 0, WRITE_EXECUTE), (EQUAL, 0, 1, WRITE_EXECUTE),
                                 (RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)])
        for name in ('mprotect', 'pkey_mprotect'):
            steps += self.on(name, without(2, EXECUTE))
        return steps

    def sockets(self, kinds):
        """socket() of these kinds (unix, tcp, udp; any), and pairs of Unix sockets: no datagrams, whose addresses no
        filter sees."""
        pair = self.on('socketpair', [*only(argument(0), (AF_UNIX,)), *NO_DATAGRAMS, (RETURN, 0, 0, ALLOW)])
        if b'any' in kinds:
            return pair
        families = sorted({family for kind in kinds for family in FAMILIES[kind]})
        steps = only(argument(0), families)
        if b'udp' not in kinds:
            steps += NO_DATAGRAMS
        return pair + self.on('socket', steps + only(argument(2), PROTOCOLS) + [(RETURN, 0, 0, ALLOW)])

    def connecting(self, connects):
        """connect() to names in the current directory only (run), or anywhere (any, or where Landlock lets: mail)."""
        if connects != b'run':
            return []
        return self.on('connect', [(LOAD, 0, 0, argument(2)), (GREATER_EQUAL, 0, 1, SHORT + 1), (RETURN, 0, 0, EPERM),
                                   (RETURN, 0, 0, ALLOW)])

    def new_processes(self, children):
        """fork and threads as the manifest says; no new namespace in any case."""
        steps = self.on('clone3', [(RETURN, 0, 0, ENOSYS)]) + self.on('unshare', without(0, NAMESPACES))
        if children in (b'workers', b'programs'):
            return steps + self.on('clone', without(0, NAMESPACES))
        for name in ('fork', 'vfork'):
            steps += self.on(name, [(RETURN, 0, 0, EPERM)])
        if children == b'threads':
            return steps + self.on('clone', [(LOAD, 0, 0, argument(0)), (ANY_BIT, 1, 0, THREAD), (RETURN, 0, 0, EPERM),
                                             *without(0, NAMESPACES)])
        return steps + self.on('clone', [(RETURN, 0, 0, EPERM)])

    def own_limits_only(self):
        """prlimit() of this process only."""
        return self.on('prlimit64', only(argument(0), (0,)) + [(RETURN, 0, 0, ALLOW)])

    def no_owners(self):
        """No descriptor that sends another process a signal: before Linux 6.12 nothing else keeps that to our children."""
        return self.on('fcntl', but(1, OWNERS)) + self.on('ioctl', but(1, OWNERS_BY_IOCTL))


AND = 0x54
NO_DATAGRAMS = [(LOAD, 0, 0, argument(1)), (AND, 0, 0, KIND), (EQUAL, 0, 1, DATAGRAM), (RETURN, 0, 0, EPERM)]


def but(n, values):
    """Allow unless the low half of argument n is one of these: all that the kernel looks at of a command."""
    count = len(values)
    return [(LOAD, 0, 0, argument(n)), *((EQUAL, count - i, 0, value) for i, value in enumerate(values)),
            (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM)]


def without(n, bits):
    """Allow unless argument n has one of these bits."""
    return [(LOAD, 0, 0, argument(n)), (ANY_BIT, 0, 1, bits), (RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]


def only(offset, values):
    """Go on if the word at offset is one of the values, else refuse."""
    steps = [(LOAD, 0, 0, offset)]
    return steps + [(EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)] + [(RETURN, 0, 0, EPERM)]
