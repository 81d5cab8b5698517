"""The event loop and the channels on it: qpy.lib.loop, qpy.lib.packets."""
import errno
import os
import signal
import socket

import pytest

from qpy import unix
from qpy.core import channel
from qpy.lib import packets
from qpy.lib.loop import Loop

TABLE = {b'K': (2, False), b'L': (1, True)}


@pytest.fixture
def loop():
    """A loop; its signal pipe is put away afterwards."""
    made = Loop()
    yield made
    if made.wake_read >= 0:
        unix.set_wakeup_fd(-1)


def test_a_million_moved_deadlines_leave_no_heap(loop):
    """INV7: cancelled timers do not pile up until they would have been due."""
    for _ in range(10_000):
        loop.after(1200, lambda: None).cancel()
    assert len(loop.timers) < 200


def test_timers_fire_in_order_and_cancelled_ones_never(loop):
    """What is due runs, earliest first; what was taken back does not."""
    seen = []
    loop.after(0, lambda: seen.append(1))
    loop.after(0, lambda: seen.append('no')).cancel()
    loop.after(0, lambda: seen.append(2))
    loop.step()
    assert seen == [1, 2]


def test_an_answer_that_has_come_is_heard_before_its_timer(loop, monkeypatch):
    """Who gets no processor for long (here: somebody else's callback takes ten seconds) finds the answer when he has one
    again, and does not give up on it."""
    now, seen = [0.0], []
    monkeypatch.setattr(unix, 'monotonic', lambda: now[0])
    (mine, theirs), (other, waker) = socket.socketpair(), socket.socketpair()
    with mine, theirs, other, waker:
        timer = loop.after(5, lambda: seen.append('gave up'))

        def slow():
            loop.forget(other.fileno())
            now[0] += 10
            theirs.send(b'an answer')

        def heard():
            seen.append(mine.recv(100))
            timer.cancel()
        loop.watch(other.fileno(), slow)
        loop.watch(mine.fileno(), heard)
        waker.send(b'x')
        loop.step(0)
        loop.step(0)
    assert seen == [b'an answer']


def test_a_signal_is_a_callback_in_the_loop(loop):
    """P-05: a signal's work is done by the loop, not by the handler."""
    seen = []
    loop.on_signal(signal.SIGUSR1, lambda: (seen.append('usr1'), loop.stop()))
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.run()
    assert seen == ['usr1']


def channels(loop):
    """Two ends of one channel, and the lists in which each end's records and its end are noted."""
    a, b = unix.socketpair()
    got, ended = [], []
    left = packets.Channel(loop, a, TABLE, got.extend, ended.append)
    right = packets.Channel(loop, b, TABLE, got.extend, ended.append)
    return left, right, got, ended


@pytest.mark.parametrize('reader', [True, False], ids=['by its own reader', 'by a neighbour'])
def test_an_event_is_not_for_the_next_of_that_number(loop, reader):
    """R-16: what epoll said of a descriptor that was closed meanwhile is not told to the socket that got its number."""
    ours, theirs = socket.socketpair()
    other, far = socket.socketpair()
    called, made = [], []

    def close_and_connect():
        loop.forget(ours.fileno())
        number = ours.fileno()
        ours.close()
        new = socket.socket()                           # neither connected nor to be written to
        new.bind(('127.0.0.1', 0))
        assert new.fileno() == number
        made.append(new)
        loop.watch(number, lambda: called.append('read'), lambda: called.append('write'))
        loop.forget(other.fileno())
    if reader:
        loop.watch(ours.fileno(), close_and_connect, lambda: called.append('old'))
    else:
        loop.watch(other.fileno(), close_and_connect)   # epoll tells of this one first
        far.send(b'x')
        loop.watch(ours.fileno(), lambda: called.append('old'))
    theirs.close()
    loop.step(1)
    assert called == []
    for sock in (*made, other, far):
        sock.close()


def test_records_and_descriptors_arrive_together(loop):
    """Many records of one pass leave in few packets, each with the descriptor that belongs to it."""
    left, _, got, _ = channels(loop)
    for i in range(150):
        left.send(b'K', b'%d' % i, b'text')
        left.send(b'L', b'%d' % i, fd=unix.memfd(b'%d' % i))
    while len(got) < 300:
        loop.step()
    assert [fields[0] for letter, fields, fd in got if letter == b'K'] == [b'%d' % i for i in range(150)]
    for letter, fields, fd in got:
        if letter == b'L':
            assert os.read(fd, 10) == fields[0]
            os.close(fd)


def test_a_full_channel_neither_blocks_nor_loses(loop):
    """P-07: what the other side does not take waits in order, and arrives when it reads."""
    a, b = unix.socketpair()
    sender = packets.Channel(loop, a, TABLE, lambda records: None, lambda reason: None)
    for i in range(300):
        sender.send(b'K', b'%d' % i, b'x' * 10_000)
    loop.step(0)
    assert sender.backlog() > 0
    got = []
    packets.Channel(loop, b, TABLE, got.extend, lambda reason: None)
    while len(got) < 300:
        loop.step()
    assert [fields[0] for _, fields, _ in got] == [b'%d' % i for i in range(300)]


class Refusing:
    """A socket whose kernel says no, once."""

    def __init__(self, number):
        self.number = number

    def sendmsg(self, *what):
        """Not now."""
        raise OSError(self.number, 'injected')


@pytest.mark.parametrize('number, waits', [(errno.EAGAIN, True), (errno.ENOBUFS, True), (errno.ENOMEM, True),
                                           (errno.EPIPE, False), (errno.ECONNRESET, False)])
def test_a_kernel_without_memory_is_asked_again(number, waits):
    """Q-09: a packet for which there is no memory now is kept, as one for which there is no room: its sender must not take
    it for one that nobody wants any more."""
    if waits:
        assert unix.send_packet(Refusing(number), b'x') is False
    else:
        with pytest.raises(OSError):
            unix.send_packet(Refusing(number), b'x')


@pytest.mark.parametrize('packet, fds', [(b'garbage', 0), (b'K1\0', 0), (b'L1\0', 0), (b'K1\0x\0', 1), (b'\0', 0)])
def test_a_peer_that_breaks_the_rules_is_dropped_once(loop, packet, fds):
    """P-01, S-13: a malformed packet, or a descriptor too many or too few, ends the channel; no descriptor stays."""
    a, b = unix.socketpair()
    got, ended = [], []
    packets.Channel(loop, b, TABLE, got.extend, ended.append)
    sent = [unix.memfd(b'x') for _ in range(fds)]
    before = len(os.listdir('/proc/self/fd'))
    unix.send_packet(a, packet, sent)
    loop.step()
    assert len(ended) == 1 and not got
    assert len(os.listdir('/proc/self/fd')) == before - 1          # the channel's own socket went


def test_the_end_of_the_peer_is_said_once(loop):
    """A closed peer is reported once, and what waited for it is closed."""
    left, right, got, ended = channels(loop)
    right.close()
    loop.step()
    left.close()
    assert ended == ['closed']


def test_pack_refuses_before_queueing(loop):
    """P-02: a record that cannot be packed leaves the channel as it was."""
    left, _, _, _ = channels(loop)
    with pytest.raises(ValueError):
        left.send(b'K', b'a\0', b'')
    assert left.backlog() == 0 and channel.pack(b'K', b'a', b'') == b'Ka\0\0'
