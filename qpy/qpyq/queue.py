"""qpy-queue, as its caller: queues one message, with qmail-queue's interface.

    descriptors  0 the message, to its end; then 1 the envelope: Fsender NUL, (Trecipient NUL)*, NUL
    exit         0 durable in the queue; 11 31 51 52 53 54 61 62 71-74 81 91 as in qpy-queue(8)

It prints nothing; the exit code is the answer.  It holds no privilege: it collects everything first and then sends
it at speed to qpy-queued, which the kernel tells who is calling.  Between F and T, and behind each T, the other
records of qpy-queue-format(5) are taken too, as filters put in by QPYQUEUE pass them on.  What a delivery's program
queues and QPYENVELOPE asks for REQUIRETLS or SMTPUTF8 has it, whether the program knows of such records or not.
"""
from qpy import unix
from qpy.core import carried, exits
from qpy.lib import handed, packets, submit


def main(home, args):
    """The story: collect the message, then the envelope, send both, wait for the answer."""
    def work():
        message = handed.message()
        records = handed.envelope()
        said = [record[:1] for record in records]
        records[1:1] = [letter + value for letter, value in carried.anew(unix.environ.get(carried.VARIABLE, b''), said)]
        return deliver(home, content(message), b'\0'.join(records) + b'\0')
    return handed.run(work)


def content(message):
    """Bytes, or a descriptor that stands at the beginning."""
    try:
        return message.content()
    except OSError:
        raise handed.Stop(exits.QQ_WRITE) from None


def deliver(home, message, records):
    """Hand it to queued: its exit code, or 0."""
    try:
        unix.stat(home)
    except OSError:
        return exits.QQ_HOME
    try:
        packets.queue_owner(home)
    except OSError:
        return exits.QQ_QUEUE
    return submit.send_records(home, records, message)[0]
