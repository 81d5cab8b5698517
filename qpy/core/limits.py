"""control/programlimits: what each process of a .qmail program may use up.  Pure.

    memory:2048         megabytes that it writes to (RLIMIT_DATA)
    processes:1024      processes and threads of its user, all deliveries together (RLIMIT_NPROC)
    cpu:3600            seconds of processor time (RLIMIT_CPU)
    files:1024          open descriptors (RLIMIT_NOFILE)
    filesize:0          megabytes of one file (RLIMIT_FSIZE)
    usermemory:4096     megabytes of all processes of a user together, where there are control groups (memory.max)

0 is no limit of ours.  What is not named has the value that stands here.  The time of a whole delivery is
control/timeoutlocal.
"""
from qpy.core import text

FILE = b'programlimits'
#         word          limit     unit     default
TABLE = ((b'memory',    'DATA',   1 << 20, 2048),
         (b'processes', 'NPROC',  1,       1024),
         (b'cpu',       'CPU',    1,       3600),
         (b'files',     'NOFILE', 1,       1024),
         (b'filesize',  'FSIZE',  1 << 20, 0))
#            word          the kernel's file  unit     default   more, for the processes of ours among them
GROUPS = ((b'usermemory', b'memory.max',      1 << 20, 4096,     0),
          (b'processes',  b'pids.max',        1,       1024,     64))
OUTSIDE = {'NPROC': 8192}       # default where the processes of a user's desktop count too
MOST = 1 << 40


def parse(words, outside=False):
    """[(name of the limit, value)] of {word: value}; ValueError(word, why) for what cannot be meant.

    outside: whether this is not the namespace of mail."""
    known = {row[0] for row in TABLE + GROUPS}
    for word in words:
        if word not in known:
            raise ValueError(word, b'no such limit; one of: ' + b' '.join(sorted(known)))
    bounds(words)
    found = [(name, number(words, word, OUTSIDE.get(name, default) if outside else default) * unit)
             for word, name, unit, default in TABLE]
    return [row for row in found if row[1]]


def bounds(words):
    """[(file of the kernel, number)] for the control group of one user."""
    found = [(file, number(words, word, default), unit, more) for word, file, unit, default, more in GROUPS]
    return [(file, value * unit + more) for file, value, unit, more in found if value]


def number(words, word, default):
    """The value of a word."""
    value = text.parse_uint(words[word], MOST) if word in words else default
    if value is None:
        raise ValueError(word, b'not a number')
    return value
