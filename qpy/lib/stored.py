"""The queue as its files tell, for whoever may read them while qpy-send is not running.

    messages(home, names)   as lib.sendctl.messages, from queue/mess and queue/state; place is `stopped` or `held`

What was not written down is not known: the reason of a first attempt that was under way, for example.  Files
that are damaged or newer are passed over, and what is no regular file.
"""
from qpy import unix
from qpy.core import mess, route, state, text
from qpy.lib import queuefile, route as routing, sendctl

STATUS = {state.PENDING: b'pending', state.DELIVERED: b'done', state.FAILED: b'failed', state.REPORTED: b'failed',
          state.SUCCEEDED: b'done'}
DIRECTORY = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC


def messages(home, names):
    """sendctl.Messages of the files with these names in queue/mess, in order of arrival.  OSError."""
    mess_fd = unix.open(home + b'/queue/mess', DIRECTORY)
    state_fd = unix.open(home + b'/queue/state', DIRECTORY)
    try:
        controls = routing.load(home)
        for name in queuefile.idents(names):
            try:
                yield described(mess_fd, state_fd, name, controls)
            except (FileNotFoundError, unix.NotRegular, mess.Damaged, mess.Newer):
                pass
    finally:
        unix.close(mess_fd)
        unix.close(state_fd)


def described(mess_fd, state_fd, name, controls):
    """One of them."""
    found = queuefile.open_mess(mess_fd, name, False)
    found.close()
    envelope = found.envelope
    data = queuefile.read_state(state_fd, name)
    view = state.replay(data or b'', name, len(envelope.recipients))
    hold = envelope.option(b'h') if data is None else view.held
    owner = text.parse_uint(envelope.option(b'u', b''), 1 << 32) or 0
    place = b'held' if hold is not None else b'stopped'
    message = sendctl.Message(name, found.size, mess.arrival(name, envelope, unix.time(), view.born), text.listed(envelope.sender), place,
                              view.due or 0, view.attempts, owner)
    message.hold = text.one_line(hold or b'')
    for index, recipient in enumerate(envelope.recipients):
        way = route.rewrite(recipient, controls)
        message.recipients.append((STATUS[view.status[index]], way.channel, text.listed(way.recipient),
                                   text.one_line(view.texts.get(index, b''))))
    return message
