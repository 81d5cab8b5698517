"""Recipes of qmail's documentation, word for word, on a running chain: what people have in alias/ and .qmail works."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import houses  # noqa: E402

BOX = 'bob/Maildir'
ALIAS = {
    # broken clients: RELAYCLIENT=@fixme marks their mail, which is injected anew, its header completed
    'fixup-default': '| bouncesaying \'Permission denied\' [ "@$HOST" != "@fixme" ]\n| qmail-inject -f "$SENDER" -- "$DEFAULT"\n',
    # everything by UUCP
    'uucp-default': '| preline -df sh -c \'cat > "%s/uux $1"\' uux "($DEFAULT@$HOST)"\n',
    # users who are elsewhere
    'default': '| forward "$LOCAL"@nowhere.example\n'}

# lists in a virtual domain, and where their failures go
LISTS = {'l-sos': '&bob-gone@here.test\n&bob-kept@here.test\n', 'gone': '|exit 100\n',
         'l-sos-owner': './Maildir/\n', 'l-sos-owner-default': './Maildir/\n', 'l-plain': '&bob-gone@here.test\n',
         'l-plain-owner': './Maildir/\n', 'l-bob-l-default': '|forward "$DEFAULT@$HOST"\n'}


@pytest.fixture(scope='module')
def house():
    made = houses.House()
    made.assign({'bob': (made.uid, made.gid)})
    made.write('control/virtualdomains', 'fixme:alias-fixup\nnowhere.example:bob\nlists.example:bob-l\n:alias-uucp\nexempt.example:\n')
    made.write('control/tcp.smtp', '127.:allow,RELAYCLIENT="@fixme"\n')
    for name, text in ALIAS.items():
        made.write('alias/.qmail-' + name, text.replace('%s', made.top))
    made.recipe('bob', '.qmail-default', './Maildir/\n')
    made.recipe('bob', '.qmail-asked', '|condredirect bob-there@nowhere.example [ "$SENDER" = sender@x.example ]\n./Maildir/\n')
    for name, text in LISTS.items():
        made.recipe('bob', '.qmail-' + name, text)
    try:
        yield made.start()
        assert made.stop() == 0
    finally:
        made.remove()


def test_broken_clients(house):
    """What a client with RELAYCLIENT=@fixme sends gets a whole header, and the recipient's case and dots stay."""
    house.smtp('Joe-X.y@nowhere.example', 'sender@x.example', subject='broken')
    text = house.await_message(BOX, 'Subject: broken')
    assert b'Delivered-To: bob-Joe-X.y@nowhere.example\n' in text and b'Return-Path: <sender@x.example>\n' in text
    assert b'\nDate: ' in text and b'\nMessage-ID: ' in text and b'fixme' not in text


def test_not_for_everybody(house):
    """The way through fixup is closed to those whom nobody has marked."""
    house.sendmail('-f', 'bob-back@nowhere.example', 'alias-fixup-any@here.test', text='Subject: forged\n\nhi\n')
    assert b'Permission denied' in house.await_message(BOX, 'To: bob-back@nowhere.example')


def test_uucp(house):
    """All other domains go to a program, which learns the address as it was written, and gets Return-Path alone."""
    house.sendmail('-f', 'sender@x.example', 'a.B-c@Host.example', text='Subject: far\n\nhi\n')
    path = os.path.join(house.top, 'uux (a.B-c@Host.example)')
    house.await_that(lambda: os.path.exists(path) and os.stat(path).st_size, 'the file of uux')
    with open(path) as file:
        assert file.readline() == 'Return-Path: <sender@x.example>\n' and file.readline().startswith('Received: ')


def test_users_elsewhere(house):
    """Who is no user here is a user there, under the same name."""
    house.sendmail('-f', 'sender@x.example', 'Lost.Soul@here.test', text='Subject: lost\n\nhi\n')
    text = house.await_message(BOX, 'Subject: lost')
    assert b'Delivered-To: bob-Lost.Soul@nowhere.example\nReceived: ' in text
    assert b'\nDelivered-To: Lost.Soul@here.test\n' in text


def test_sent_elsewhere_if_a_program_says_so(house):
    """condredirect keeps the sender; who is not redirected comes to the next line."""
    house.sendmail('-f', 'sender@x.example', 'bob-asked@here.test', text='Subject: redirected\n\nhi\n')
    text = house.await_message(BOX, 'Subject: redirected')
    assert text.startswith(b'Return-Path: <sender@x.example>\nDelivered-To: bob-bob-there@nowhere.example\n')
    house.sendmail('-f', 'other@x.example', 'bob-asked@here.test', text='Subject: kept\n\nhi\n')
    assert house.await_message(BOX, 'Subject: kept').startswith(
        b'Return-Path: <other@x.example>\nDelivered-To: bob-asked@here.test\n')


def test_failures_of_a_list_in_a_virtual_domain(house):
    """The sender of a list has the prefix of its domain, which the domain puts in front again: one .qmail file leads the
    failures of all its lists to their owners, with the recipient that a sender names."""
    house.sendmail('-f', 'sender@x.example', 'sos@lists.example', text='Subject: sos one\n\nhi\n')
    assert house.await_message(BOX, 'Delivered-To: bob-kept@here.test').startswith(
        b'Return-Path: <bob-l-sos-owner-bob-kept=here.test@lists.example>\n')
    text = house.await_message(BOX, 'Delivered-To: bob-l-sos-owner-@lists.example')
    assert text.startswith(b'Return-Path: <>\n') and b'<bob-gone@here.test>:\n' in text
    house.sendmail('-f', '<>', 'bob-l-sos-owner-ann=x.example@lists.example', text='Subject: from afar\n\nhi\n')
    text = house.await_message(BOX, 'Subject: from afar')
    assert b'\nDelivered-To: bob-l-sos-owner-ann=x.example@lists.example\n' in text
    house.sendmail('-f', 'sender@x.example', 'plain@lists.example', text='Subject: plain one\n\nhi\n')
    assert b'<bob-gone@here.test>:\n' in house.await_message(BOX, 'Delivered-To: bob-l-plain-owner@lists.example')
