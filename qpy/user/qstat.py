"""qpy-qstat, as whoever calls it: how many messages are in the queue, in the words of qmail-qstat.

Descriptor 1: two lines, which monitoring reads.  Without send it counts the files itself, if it may.
Exit: 0; 111 if neither is possible.
"""
from qpy import unix
from qpy.core import exits, mess
from qpy.lib import owner, program, sendctl


def main(home, args):
    """See qpy-qstat(8)."""
    if args:
        raise program.Fatal(exits.PERM, b'usage: qpy-qstat')
    owner.become(home)
    messages, new = counted(home)
    unix.write_all(1, b'messages in queue: %d\nmessages in queue but not yet preprocessed: %d\n'
                   % (messages, new))
    return exits.OK


def counted(home):
    """(messages in the queue, those that were not looked at yet)."""
    try:
        counts = dict(record.split(b'\t')[:2] for record in sendctl.ask(home, b'stat'))
        return int(counts[b'messages']), int(counts[b'new'])
    except (unix.error, sendctl.Refused) as problem:
        try:
            count = sum(mess.is_id(name) for name in unix.listdir(home + b'/queue/mess'))
        except unix.error:
            why = problem.args[0] if isinstance(problem, sendctl.Refused) else sendctl.trouble(problem)
            raise program.Fatal(exits.TEMP, why) from None
        return count, count
