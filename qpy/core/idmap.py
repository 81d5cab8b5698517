"""Which ids exist in the user namespace that mail is delivered in.

Everything from LOWEST_MAIL_UID up less what is closed (core.mailids says what that is), plus what is named, less qpy's
own accounts.  What is not in the map does not exist inside: not root, not shadow, not disk.
"""
HIGHEST = 4294967294        # 2**32 - 1 means "no id"
LINES = 340                 # the kernel's limit on the lines of a map (Linux 4.15)
FEW = 180                   # ranges that the filter in its place has room for


def ranges(lowest, plus, without, closed=()):
    """[(first, count)], sorted: lowest..HIGHEST less the ranges of `closed`, and the ids of `plus`; less those in
    `without` and less 0.

    Where these are more than FEW, the smallest that hold nobody of plus are left out: they are between what is closed."""
    wanted = sorted(set(plus) - set(without) - {0})
    found = less([(lowest, HIGHEST - lowest + 1)], closed)
    found = less(merged(sorted(found + less([(number, 1) for number in wanted], found))),
                 [(number, 1) for number in {0, *without}])
    if len(found) > FEW:
        empty = [(first, count) for first, count in found if not any(first <= number < first + count for number in wanted)]
        dropped = set(sorted(empty, key=lambda one: one[1])[:len(found) - FEW])
        found = [one for one in found if one not in dropped]
    return found


def less(found, out):
    """The sorted ranges of found without any id of the ranges in out."""
    result, out, at = [], sorted(out), 0
    for first, count in found:
        end = first + count
        while at < len(out) and out[at][0] < end:
            if out[at][0] > first:
                result.append((first, out[at][0] - first))
            first = max(first, sum(out[at]))
            if first >= end and sum(out[at]) > end:
                break                           # it may reach into the next one
            at += 1
        if first < end:
            result.append((first, end - first))
    return result


def mapped(found, data):
    """What of these ranges exists where we are, by the bytes of /proc/PID/uid_map or gid_map (b'' without /proc: all).  The
    kernel wants each range of a map to lie in one of those above it, so that they stay apart."""
    lines = [[int(word) for word in line.split()] for line in data.split(b'\n') if line]
    cut = [(max(first, start), min(first + count, start + length)) for first, count in found for start, _, length in lines]
    return sorted((first, end - first) for first, end in cut if first < end) if data else found


def merged(found):
    """The same ids in as few ranges as possible."""
    result = []
    for first, count in found:
        if result and result[-1][0] + result[-1][1] == first:
            first, count = result[-1][0], result.pop()[1] + count
        result.append((first, count))
    return result


def text(found):
    """The bytes to write into /proc/PID/uid_map: identity over the ranges.  ValueError if there are too many."""
    if len(found) > LINES:
        raise ValueError('more than %d ranges of ids' % LINES)
    return b''.join(b'%d %d %d\n' % (first, first, count) for first, count in found)
