"""Two qpy hosts that find each other by MX records and talk on port 25, as anybody's would."""
import smtplib

import pytest

ODD = (b'Subject: odd\n\n.\n..\n.x\nFrom here\n8 bit: \xfc\xff\x80\nnul: \x00\ntab:\t \nlong: ' + b'x' * 3000
       + b'\n\nno end of line')


def body(text):
    """What follows the header."""
    return text.partition(b'\n\n')[2]


def test_there_and_back(sites):
    """joe@a.test writes to sue@b.test, and she answers: by MX, A, port 25, and into Maildirs."""
    a, b = sites
    a.send([b.address], b'Subject: hello\n\nhow are you?\n')
    text = b.next()
    assert text.startswith(b'Return-Path: <joe@a.test>\nDelivered-To: sue@b.test\n')
    assert body(text) == b'how are you?\n'
    assert b'(HELO a.test) (%s)\n' % a.host.address.encode() in text, text
    b.send([a.address], b'Subject: Re: hello\n\nfine\n')
    text = a.next()
    assert text.startswith(b'Return-Path: <sue@b.test>\nDelivered-To: joe@a.test\n')
    assert body(text) == b'fine\n'


def test_bytes_survive_the_way(sites):
    """Whatever bytes a body has, they are at the other end; a missing last line end is added."""
    a, b = sites
    a.send([b.address], ODD)
    assert body(b.next()) == body(ODD) + b'\n'


def test_a_bounce_comes_home(sites):
    """b refuses an unknown recipient at RCPT; the bounce that a makes says so, in joe's Maildir, once, and
    the other recipient has the message.
    """
    a, b = sites
    a.send(['nobody-here@b.test', b.address], b'Subject: x\n\ntext\n')
    assert body(b.next()) == b'text\n'
    text = a.next()
    assert text.startswith(b'Return-Path: <>\n') and b'<nobody-here@b.test>:' in text and b'550 5.1.1' in text
    assert b'sue@b.test>:' not in text
    a.until(lambda: not a.qpy.waiting())
    assert not a.mailbox.names() - a.mailbox.seen


def test_forward(sites):
    """A forward in sue's .qmail, made by a program in her namespace without privileges, goes back out to
    a."""
    a, b = sites
    b.mailbox.dot_qmail('away', '&joe@a.test\n')
    a.send(['sue-away@b.test'], b'Subject: on\n\nround trip\n')
    text = a.next()
    assert body(text) == b'round trip\n' and b'\nDelivered-To: sue-away@b.test\n' in text
    assert text.startswith(b'Return-Path: <joe@a.test>\nDelivered-To: joe@a.test\n')


def test_a_loop_ends(sites):
    """Two users who forward to each other across hosts: the loop is seen by its Delivered-To, and the sender
    is told."""
    a, b = sites
    a.mailbox.dot_qmail('loop', '&sue-loop@b.test\n')
    b.mailbox.dot_qmail('loop', '&joe-loop@a.test\n')
    a.send(['joe-loop@a.test'], b'Subject: round\n\nand round\n')
    text = a.next()
    assert text.startswith(b'Return-Path: <>\n') and b'looping' in text and b'5.4.6' in text
    for site in sites:
        site.until(lambda site=site: not site.qpy.waiting())
    assert not a.mailbox.names() - a.mailbox.seen


def test_no_relay_for_the_other_host(sites):
    """A-03: what comes from another host may be for b's users only, whatever a's own rules are."""
    a, b = sites

    def codes():
        with smtplib.SMTP(b.host.address, 25, timeout=10) as client:
            client.ehlo('a.test')
            client.mail('joe@a.test')
            return [client.rcpt(name)[0]
                    for name in ('x@elsewhere.test', 'sue@b.test', 'sue%elsewhere.test@b.test')]
    assert a.host.call(codes) == [553, 250, 550]


@pytest.mark.parametrize('how', ('run', 'alarm'))
def test_the_other_host_was_down(sites, how):
    """While b is down a keeps the mail, and tells nobody; when b is back it goes on request."""
    a, b = sites
    b.qpy.stop(remove=False)
    tag = 'sue-%s@b.test' % how
    b.mailbox.dot_qmail(how, './Maildir/\n')
    a.send([tag], b'Subject: late\n\nbetter late\n')
    a.until(lambda: a.qpy.outcomes().get(tag, [('', '')])[0][0] == 'Z')
    assert len(a.qpy.waiting()) == 1
    b.qpy.start()
    if how == 'run':
        a.qpy.command(a.qpy.home + '/bin/qpy-ctl', 'run')
    else:
        a.qpy.process.send_signal(14)
    assert body(b.next()) == b'better late\n'
    a.until(lambda: not a.qpy.waiting())
    assert not a.mailbox.names() - a.mailbox.seen


def test_success_is_told_by_the_last_host(sites):
    """DSN from host to host: the one that delivers tells the sender, once; the one in between leaves it to it."""
    a, b = sites
    a.host.run(a.qpy.home + '/bin/qpy-sendmail', '-N', 'success,failure', '-V', 'across', '-f', a.address, '--', b.address,
               data=b'Subject: told\n\nacross\n')
    assert b'across' in b.next()
    notice = a.next()
    assert b'\nReporting-MTA: dns; b.test\n' in notice and b'\nAction: delivered\n' in notice
    assert b'\nOriginal-Envelope-Id: across\n' in notice
    assert 'notice msg' in b.qpy.log() and 'notice msg' not in a.qpy.log()
