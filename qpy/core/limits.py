"""control/programlimits: what each process of a .qmail program may use up.  Pure.

    memory:2048         megabytes that it writes to (RLIMIT_DATA)
    processes:1024      processes and threads of its user, all deliveries together (RLIMIT_NPROC)
    cpu:3600            seconds of processor time (RLIMIT_CPU)
    files:1024          open descriptors (RLIMIT_NOFILE)
    filesize:0          megabytes of one file (RLIMIT_FSIZE)

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
OUTSIDE = {'NPROC': 8192}       # default where the processes of a user's desktop count too
MOST = 1 << 40


def parse(words, outside=False):
    """[(name of the limit, value)] of {word: value}; ValueError(word, why) for what cannot be meant.

    outside: whether this is not the namespace of mail."""
    known = {word for word, _, _, _ in TABLE}
    for word in words:
        if word not in known:
            raise ValueError(word, b'no such limit; one of: ' + b' '.join(row[0] for row in TABLE))
    found = []
    for word, name, unit, default in TABLE:
        value = OUTSIDE.get(name, default) if outside else default
        if word in words:
            value = text.parse_uint(words[word], MOST)
            if value is None:
                raise ValueError(word, b'not a number')
        if value:
            found.append((name, value * unit))
    return found
