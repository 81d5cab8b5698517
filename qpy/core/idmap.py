"""Which ids exist in the user namespace that mail is delivered in.

Everything from LOWEST_MAIL_UID up less qpy's own and other service accounts, plus the few named ones below it.
What is not in the map does not exist inside: not root, not shadow, not disk.
"""
HIGHEST = 4294967294        # 2**32 - 1 means "no id"
LINES = 340                 # the kernel's limit on the lines of a map (Linux 4.15)


def ranges(lowest, plus, without):
    """[(first, count)]: the ids of `plus`, and lowest..HIGHEST, less those in `without` and less 0.  Sorted."""
    without = set(without) | {0}
    found = [(number, 1) for number in sorted(set(plus)) if number < lowest and number not in without]
    first = lowest
    for number in sorted(number for number in without if number >= lowest):
        if number > first:
            found.append((first, number - first))
        first = number + 1
    if first <= HIGHEST:
        found.append((first, HIGHEST - first + 1))
    return merged(found)


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
