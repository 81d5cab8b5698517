"""mlmmj, whole, behind .qmail files: subscribe, post, bounce, probe. And what ezmlm needs: -owner, -owner-default."""
import os
import re
import shutil
import smtplib
import subprocess
import time

import pytest

from tests.real.conftest import PATIENCE, UID, unpacked

LIST = 'joe-news@qpy.test'
DIRECTORIES = ('incoming queue queue/discarded archive text subconf unsubconf bounce control moderation subscribers.d '
               'digesters.d requeue nomailsubs.d').split()


def eventually(found, log):
    """found(), as soon as it is true."""
    give_up = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < give_up, log()[-3000:]
        time.sleep(0.02)                # a file of another program's: nobody announces it
    return found()


def send(server, sender, recipient, subject='x', text=''):
    """One message by SMTP."""
    text = 'From: %s\nTo: %s\nSubject: %s\n\n%s' % (sender, recipient, subject, text)
    with smtplib.SMTP('127.0.0.1', server.port) as client:
        client.ehlo('client.test')
        client.sendmail(sender, [recipient], text)


@pytest.fixture(scope='module')
def lists(server):
    """Joe's list `news` as mlmmj-make-ml and README.qmail make it; .path, .run(program, ...)."""
    root, home = unpacked('mlmmj'), server.mailbox.home
    path = home + '/lists/news'
    for name in DIRECTORIES:
        os.makedirs(path + '/' + name)
    for name, text in (('listaddress', LIST), ('owner', 'joe@qpy.test'), ('delimiter', '-'),
                       ('smtpport', str(server.port)), ('prefix', '[news]')):
        with open(path + '/control/' + name, 'w') as file:
            file.write(text + '\n')
    shutil.copytree(root + '/usr/share/mlmmj/text.skel/en', path + '/text', dirs_exist_ok=True)
    open(path + '/index', 'w').close()
    for directory, directories, files in os.walk(home + '/lists'):
        for name in ['.'] + directories + files:
            os.chown(os.path.join(directory, name), UID, UID)
    # The programs are copied: a user's program may not have to read the tests' cache.
    for name in os.listdir(root + '/usr/bin'):
        shutil.copy(root + '/usr/bin/' + name, home + '/lists/')
    for extension in ('news', 'news-default'):
        server.mailbox.dot_qmail(extension, '|%s/lists/mlmmj-receive -L %s/\n' % (home, path))

    class Lists:
        def run(self, program, *words, data=b''):
            done = subprocess.run([*server.host.prefix, 'setpriv', '--reuid', str(UID), '--regid', str(UID),
                                   '--clear-groups', home + '/lists/' + program, *words], input=data,
                                  capture_output=True, cwd='/', env={'PATH': '/usr/bin:/bin'})
            assert done.returncode == 0, done
            return done.stdout.decode()
    lists = Lists()
    lists.path = path
    return lists


def subscribers(lists):
    """Who is on the list."""
    return set(lists.run('mlmmj-list', '-L', lists.path).split())


def test_mlmmj_subscribe_and_post(server, mailbox, lists):
    """-subscribe is asked back with a cookie in the address, the answer subscribes, and a post comes back with the
    list's own sender for bounces."""
    send(server, 'joe@qpy.test', 'joe-news-subscribe@qpy.test')
    question = mailbox.next(log=server.log)
    cookie = re.search(rb'joe-news-confsub-[^@\s<>]+@qpy\.test', question)
    assert cookie, question
    send(server, 'joe@qpy.test', cookie[0].decode())
    welcome = mailbox.next(log=server.log)
    assert b'welcome' in welcome.lower() and 'joe@qpy.test' in subscribers(lists)
    send(server, 'joe@qpy.test', LIST, 'first', 'hello, list\n')
    post = mailbox.next(log=server.log)
    assert b'Subject: [news] first\n' in post and b'\nhello, list\n' in post
    assert re.match(rb'Return-Path: <joe-news-bounces-1-joe=qpy\.test@qpy\.test>\n', post), post[:200]


def test_mlmmj_bounce_and_probe(server, mailbox, lists):
    """The bounce of a post reaches mlmmj, which knows from the address who it was; a probe that bounces counts too,
    and one that does not frees the address."""
    mailbox.dot_qmail('gone', '|echo no such person; exit 100\n')
    lists.run('mlmmj-sub', '-L', lists.path, '-a', 'joe-gone@qpy.test', '-s')
    assert 'joe-gone@qpy.test' in subscribers(lists)
    send(server, 'joe@qpy.test', LIST, 'second')
    bounced = lists.path + '/bounce/joe-gone=qpy.test'
    eventually(lambda: os.path.exists(bounced) and os.path.getsize(bounced), server.log)
    with open(bounced) as file:
        assert re.match(r'\d+:\d+', file.read())
    lists.run('mlmmj-bounce', '-L', lists.path, '-a', 'joe-gone=qpy.test', '-p')
    eventually(lambda: ('D' in [k for k, _ in server.outcomes().get('joe-gone@qpy.test', ())][1:]), server.log)
    assert os.path.exists(bounced)
    eventually(lambda: not os.path.exists(bounced + '-probe'), server.log)     # its bounce has come: he stays a bouncer


def test_mlmmj_unsubscribe(server, mailbox, lists):
    """-unsubscribe and the answer to its question take the address off."""
    lists.run('mlmmj-sub', '-L', lists.path, '-a', 'joe-two@qpy.test', '-s')
    mailbox.dot_qmail('two', './Maildir/\n')
    send(server, 'joe-two@qpy.test', 'joe-news-unsubscribe@qpy.test')
    question = mailbox.next(log=server.log)
    cookie = re.search(rb'joe-news-confunsub-[^@\s<>]+@qpy\.test', question)
    assert cookie, question
    send(server, 'joe-two@qpy.test', cookie[0].decode())
    eventually(lambda: 'joe-two@qpy.test' not in subscribers(lists), server.log)
    assert b'removed' in mailbox.next(log=server.log)      # the farewell, or the next test would find it


def test_verp_of_a_plain_list(server, mailbox):
    """What ezmlm builds on, with files alone: -owner-default gives each recipient a sender of his own, and the bounce
    comes back to .qmail-LIST-owner-default with the lost recipient as DEFAULT."""
    mailbox.dot_qmail('verp', '&joe-lost@qpy.test\n&joe-kept@qpy.test\n')
    mailbox.dot_qmail('verp-owner', './Maildir/\n')
    mailbox.dot_qmail('verp-owner-default', '|echo "$DEFAULT $SENDER." > bounced\n')
    mailbox.dot_qmail('lost', '|exit 100\n')
    mailbox.dot_qmail('kept', './Maildir/\n')
    send(server, 'joe@qpy.test', 'joe-verp@qpy.test', text='to all\n')
    assert mailbox.next(log=server.log).startswith(b'Return-Path: <joe-verp-owner-joe-kept=qpy.test@qpy.test>\n')
    bounced = mailbox.home + '/bounced'
    eventually(lambda: os.path.exists(bounced) and os.path.getsize(bounced), server.log)
    with open(bounced) as file:
        assert file.read() == ' .\n'       # one bounce for the message, to list-owner- with all that failed


def test_a_message_that_ezmlm_return_reads(server, mailbox):
    """The bounce has QSBMF's parts, in the first part where there are several: `Hi. This is the`, then a paragraph
    per failure with <ADDRESS>: in front."""
    mailbox.dot_qmail('lost', '|echo not any more; exit 100\n')
    send(server, 'joe@qpy.test', 'joe-lost@qpy.test')
    text = ''
    while 'failure notice' not in text:         # what mlmmj still had to say comes first
        text = mailbox.next(log=server.log).decode()
    paragraphs = text[text.index('Hi. This is the'):].split('\n\n')
    assert paragraphs[1].startswith('<joe-lost@qpy.test>:\nnot any more')
