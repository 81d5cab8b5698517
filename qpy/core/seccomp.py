"""Seccomp filters as bytes: which identities a process may take.  Pure; unix_kernel.seccomp installs them.

A filter is a list of BPF instructions over struct seccomp_data: the call's number at 0, the architecture at 4, six
arguments of 64 bits from 16.  Jumps count instructions and go forward only.  Errors, not death: EPERM.
"""
import struct

LOAD, EQUAL, GREATER_EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, EPERM, ENOSYS, KILL = 0x7fff0000, 0x00050001, 0x00050026, 0x80000000
NUMBER, ARCHITECTURE = 0, 4
CLONE_NEWUSER = 0x10000000
LIMIT = 4096                # instructions the kernel takes

#            AUDIT_ARCH  setresuid setresgid setgroups unshare clone clone3  setuid setgid setreuid setregid setfs*id
MACHINES = {'x86_64': (0xc000003e, 117, 119, 116, 272, 56, 435, (105, 106, 113, 114, 122, 123, 308)),
            'aarch64': (0xc00000b7, 147, 149, 159, 97, 220, 435, (146, 144, 145, 143, 151, 152, 268))}
X32 = 0x40000000            # numbers from here on are another table of calls on x86_64


def argument(n, high=False):
    """Where the low (or high) half of argument n lies; little-endian machines only."""
    return 16 + 8 * n + 4 * high


def identities(uids, gids, machine):
    """The filter that lets setresuid and setresgid through for ids of [(first, count)] only, setgroups for none,
    and no other set*id call, setns, or new user namespace.  ValueError for a machine that is not in MACHINES or
    maps that are too long."""
    if machine not in MACHINES:
        raise ValueError(machine)
    arch, setresuid, setresgid, setgroups, unshare, clone, clone3, refused = MACHINES[machine]
    program = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, arch), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER),
               (GREATER_EQUAL, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for number in refused:
        program += [(EQUAL, 0, 1, number), (RETURN, 0, 0, EPERM)]
    program += [(EQUAL, 0, 1, clone3), (RETURN, 0, 0, ENOSYS)]      # its flags lie in memory: libc falls back to clone
    for number in (unshare, clone):
        program += on_call(number, [(LOAD, 0, 0, argument(0)), (ANY_BIT, 0, 1, CLONE_NEWUSER), (RETURN, 0, 0, EPERM),
                                    (RETURN, 0, 0, ALLOW)])
    program += on_call(setgroups, [(LOAD, 0, 0, argument(0)), (EQUAL, 1, 0, 0), (RETURN, 0, 0, EPERM),
                                   (RETURN, 0, 0, ALLOW)])
    for number, ranges in ((setresuid, uids), (setresgid, gids)):
        program += on_call(number, [step for n in range(3) for step in within(argument(n), ranges)]
                           + [(RETURN, 0, 0, ALLOW)])
    program.append((RETURN, 0, 0, ALLOW))
    if len(program) > LIMIT:
        raise ValueError('too many ranges of ids')
    return packed(program)


def packed(program):
    """Instructions (code, jump if true, jump if not, constant) as the kernel takes them."""
    return b''.join(struct.pack('<HBBI', *step) for step in program)


def on_call(number, steps):
    """Take these steps for this call, whose number is loaded; they must end in a return."""
    if len(steps) < 256:
        return [(EQUAL, 0, len(steps), number), *steps]
    return [(EQUAL, 1, 0, number), (JUMP, 0, 0, len(steps)), *steps]


JUMP = 0x05


def within(offset, ranges):
    """Refuse unless the word at offset lies in one of the ranges; go on behind these steps if it does."""
    steps, count = [(LOAD, 0, 0, offset)], len(ranges)
    for i, (first, size) in enumerate(ranges):
        remaining = (count - 1 - i) * 3 + 1          # instructions from the next range to the end
        last = first + size - 1
        steps += [(GREATER_EQUAL, 0, 2, first), (GREATER_EQUAL, 1 if last < 0xffffffff else 0, 0, last + 1),
                  (JUMP, 0, 0, remaining)]
    return steps + [(RETURN, 0, 0, EPERM)]
