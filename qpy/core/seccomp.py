"""Seccomp filters as bytes: which identities a process may take.  Pure; unix_kernel.seccomp installs them.

A filter is a list of BPF instructions over struct seccomp_data: the call's number at 0, the architecture at 4, six
arguments of 64 bits from 16.  Jumps count instructions and go forward only.  Errors, not death: EPERM.
"""
import struct

LOAD, JUMP, EQUAL, GREATER_EQUAL, ANY_BIT, RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
ALLOW, NOTHING, EPERM, ENOSYS, KILL = 0x7fff0000, 0x00050000, 0x00050001, 0x00050026, 0x80000000
#      NOTHING: not done, and no error
NUMBER, ARCHITECTURE = 0, 4
CLONE_NEWUSER = 0x10000000
LIMIT = 4096                # instructions the kernel takes

#            AUDIT_ARCH  setgroups unshare clone clone3 setns, then the calls that take three, two and one id
MACHINES = {'x86_64': (0xc000003e, 116, 272, 56, 435, 308, (((117,), (113,), (105, 122)), ((119,), (114,), (106, 123)))),
            'aarch64': (0xc00000b7, 159, 97, 220, 435, 268, (((147,), (145,), (146, 151)), ((149,), (143,), (144, 152))))}
#                       of uids: setresuid, setreuid, setuid setfsuid;  of gids: setresgid, setregid, setgid setfsgid
KEPT = 0xffffffff           # -1 where these calls take an id: it stays what it is
X32 = 0x40000000            # numbers from here on are another table of calls on x86_64


def argument(n, high=False):
    """Where the low (or high) half of argument n lies; little-endian machines only."""
    return 16 + 8 * n + 4 * high


def identities(uids, gids, machine):
    """The filter that lets the calls that change uids and gids through for ids of [(first, count)] only, setgroups for
    none, and no setns or new user namespace.  ValueError for a machine that is not in MACHINES or maps that are too
    long.

    Who is a mail user may so ask to be what he is, as maildrop and procmail do.  But no setresuid keeps the saved uid,
    by which the kernel takes the capabilities of who becomes a user (lib.confine.keep_two_capabilities): seteuid, which
    is such a one, does nothing, as who is that user already means."""
    if machine not in MACHINES:
        raise ValueError(machine)
    arch, setgroups, unshare, clone, clone3, setns, changes = MACHINES[machine]
    program = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, arch), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER),
               (GREATER_EQUAL, 0, 1, X32), (RETURN, 0, 0, KILL), (EQUAL, 0, 1, setns), (RETURN, 0, 0, EPERM),
               (EQUAL, 0, 1, clone3), (RETURN, 0, 0, ENOSYS)]       # its flags lie in memory: libc falls back to clone
    for number in (unshare, clone):
        program += on_call(number, [(LOAD, 0, 0, argument(0)), (ANY_BIT, 0, 1, CLONE_NEWUSER), (RETURN, 0, 0, EPERM),
                                    (RETURN, 0, 0, ALLOW)])
    program += on_call(setgroups, [(LOAD, 0, 0, argument(0)), (EQUAL, 1, 0, 0), (RETURN, 0, 0, EPERM),
                                   (RETURN, 0, 0, ALLOW)])
    program += on_kept_saved_uid(changes[0][0][0], uids)
    for calls, ranges in zip(changes, (uids, gids)):
        program += on_change(calls, ranges)
    program.append((RETURN, 0, 0, ALLOW))
    if len(program) > LIMIT:
        raise ValueError('too many ranges of ids')
    return packed(program)


def packed(program):
    """Instructions (code, jump if true, jump if not, constant) as the kernel takes them."""
    return b''.join(struct.pack('<HBBI', *step) for step in program)


def on_call(number, steps):
    """Take these few steps for this call, whose number is loaded; they must end in a return."""
    return [(EQUAL, 0, len(steps), number), *steps]


def on_kept_saved_uid(number, ranges):
    """For setresuid, if its third id is to stay: nothing happens where the first is too, else it is refused."""
    steps = [(LOAD, 0, 0, argument(0)), (EQUAL, 1, 0, KEPT), (RETURN, 0, 0, EPERM), *within(argument(1), ranges),
             (RETURN, 0, 0, NOTHING)]
    return [(EQUAL, 1, 0, number), (JUMP, 0, 0, len(steps) + 3), (LOAD, 0, 0, argument(2)), (EQUAL, 1, 0, KEPT),
            (JUMP, 0, 0, len(steps)), *steps, (LOAD, 0, 0, NUMBER)]


def on_change(calls, ranges):
    """Let these calls (those that take three ids, two, one) through if each of theirs is in the ranges.  They share
    the steps: who has fewer ids begins further behind."""
    checks = [within(argument(n), ranges) for n in (2, 1, 0)]
    numbers = [(number, sum(map(len, checks[:fewer]))) for fewer, some in enumerate(calls) for number in some]
    body = [step for check in checks for step in check] + [(RETURN, 0, 0, ALLOW)]
    steps = []
    for i, (number, first) in enumerate(numbers):
        steps += [(EQUAL, 0, 1, number), (JUMP, 0, 0, 2 * (len(numbers) - i) - 1 + first)]
    return steps + [(JUMP, 0, 0, len(body)), *body]


def within(offset, ranges):
    """Refuse unless the word at offset is KEPT or lies in one of the ranges; go on behind these steps if it does."""
    steps, count = [(LOAD, 0, 0, offset), (EQUAL, 0, 1, KEPT), (JUMP, 0, 0, 3 * len(ranges) + 1)], len(ranges)
    for i, (first, size) in enumerate(ranges):
        remaining = (count - 1 - i) * 3 + 1          # instructions from the next range to the end
        steps += [(GREATER_EQUAL, 0, 2, first), (GREATER_EQUAL, 1, 0, first + size), (JUMP, 0, 0, remaining)]
    return steps + [(RETURN, 0, 0, EPERM)]
